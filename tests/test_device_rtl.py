"""The whole device in Verilog, held to the golden model."""

from dataclasses import replace

import pytest
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.top import Core
from bitfirst_sim.bench import run_bench

FINGERPRINT = 0x0123_4567_89AB_CDEF
TINY = CONFIGS["tiny"]
WIDE = replace(TINY, slice_bits=8, lanes=32, rows=4, columns=4, b_cells=64, sum_tiles=16)


@pytest.mark.parametrize("config", [TINY, WIDE], ids=["tiny", "wide"])
def test_device(config) -> None:
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    result = run_bench(Core(config, FINGERPRINT), "core", "bitfirst_sim.benches.bench_device", parameters=parameters)
    assert len(result.tests) == 9
