"""Tensor store and gather unit: the cocotb bench on configurations of all kinds."""

import pytest
from amaranth.hdl import Const, Module
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl import gather
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.gather import Gather
from bitfirst_hdl.ports import CellWrite, GatherEvents, GatherJob, MemoryWrite
from bitfirst_hdl.store import TensorStore
from bitfirst_sim.bench import BenchError, run_bench

SMALL = {"a_cells": 64, "b_cells": 64, "store_words": 256}
CONFIGURATIONS = {
    "tiny": CONFIGS["tiny"],
    "default": CONFIGS["default"],
    "square": CONFIGS["square"],
    "slice1": CONFIGS["slice1"],
    "byte_one_row": ArrayConfig(slice_bits=8, rows=1, columns=4, **SMALL),
    "one_column": ArrayConfig(slice_bits=2, lanes=128, rows=4, columns=1, **SMALL),
}
SOAK = ("square",)  #: between "default" and "slice1"


class StoredGather(wiring.Component):
    """`Gather` on a `TensorStore`, which is not ready while `hold` is high."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "list_write": In(MemoryWrite()),
                "start": In(stream.Signature(GatherJob)),
                "hold": In(1),
                "busy": Out(1),
                "enable": Out(1),
                "word": Out(range(config.store_words)),
                "a_write": Out(CellWrite(config)),
                "b_write": Out(CellWrite(config, config.b_chunks)),
                "events": Out(GatherEvents()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store = store = TensorStore(self.config)
        m.submodules.gather = unit = Gather(self.config)
        for name in "a_write", "b_write", "events":
            wiring.connect(m, getattr(unit, name), wiring.flipped(getattr(self, name)))
        wiring.connect(m, wiring.flipped(self.write), store.write)
        wiring.connect(m, wiring.flipped(self.list_write), unit.list_write)
        wiring.connect(m, wiring.flipped(self.start), unit.start)
        m.d.comb += [
            unit.read.ready.eq(store.read.ready & ~self.hold),
            store.read.enable.eq(unit.read.enable),
            store.read.word.eq(unit.read.word),
            self.busy.eq(unit.busy),
            self.enable.eq(unit.read.enable),
            self.word.eq(unit.read.word),
        ]
        m.d.comb += [taken.eq(given) for taken, given in zip(unit.read.data, store.read.data, strict=True)]
        return m


def run(name: str):
    config = CONFIGURATIONS[name]
    parameters = {"config": config.as_dict()}
    return run_bench(StoredGather(config), f"gather_{name}", "bitfirst_sim.benches.bench_gather", parameters=parameters)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in SOAK else ()) for name in CONFIGURATIONS]
)
def test_gather(name: str) -> None:
    assert set(run(name).tests) == {"jobs", "store_not_ready", "back_to_back", "whole_words"}


def test_a_missing_halo_is_found(monkeypatch) -> None:
    """The bench fails when elements left of the row are not masked."""
    monkeypatch.setattr(gather, "left_of_row", lambda x: Const(0))
    with pytest.raises(BenchError, match="cells of"):
        run("tiny")
