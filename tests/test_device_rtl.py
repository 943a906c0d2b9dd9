"""The whole device in Verilog, held to the golden model."""

from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.top import Core
from bitfirst_sim.bench import run_bench

FINGERPRINT = 0x0123_4567_89AB_CDEF


def test_device() -> None:
    component = Core(CONFIGS["tiny"], FINGERPRINT)
    parameters = {"config": "tiny", "fingerprint": FINGERPRINT}
    result = run_bench(component, "core", "bitfirst_sim.benches.bench_device", parameters=parameters)
    assert len(result.tests) == 9
