"""UPDATE and WEIGHTS in gateware: the cocotb bench of the unit that executes them."""

from dataclasses import asdict

from amaranth.hdl import Module, Mux
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl import update
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.ports import MemoryWrite, word_stream
from bitfirst_hdl.store import TensorStore
from bitfirst_hdl.update import Updater
from bitfirst_sim.bench import run_bench

BENCH = "bitfirst_sim.benches.bench_update"
CONFIG = ArrayConfig(rows=2, columns=4, store_words=128)


class StoredUpdater(wiring.Component):
    """`Updater` on a `TensorStore` that `fill` writes."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.unit = Updater(config)
        members = {name: Out(self.unit.signature.members[name].shape) for name in ("busy", "counted", "largest")}
        streams = {"start": In(stream.Signature(update.UpdateJob)), "words": Out(word_stream())}
        super().__init__({"fill": In(MemoryWrite())} | streams | members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.store = store = TensorStore(self.config)
        m.submodules.unit = unit = self.unit
        wiring.connect(m, unit.read, store.read)
        wiring.connect(m, wiring.flipped(self.start), unit.start)
        wiring.connect(m, unit.words, wiring.flipped(self.words))
        m.d.comb += [getattr(self, name).eq(getattr(unit, name)) for name in ("busy", "counted", "largest")]
        m.d.comb += store.write.valid.eq(self.fill.valid | unit.write.valid)
        for name in "row", "word", "data":
            m.d.comb += getattr(store.write, name).eq(
                Mux(self.fill.valid, getattr(self.fill, name), getattr(unit.write, name))
            )
        return m


def run() -> tuple[str, ...]:
    return run_bench(StoredUpdater(CONFIG), "updater", BENCH, parameters={"config": asdict(CONFIG)}).tests


def test_updater() -> None:
    assert set(run()) == {"updates", "a_training", "ties", "quantises", "reads"}
