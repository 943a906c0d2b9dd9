"""The device with AXI ports, driven by masters that nobody here wrote."""

from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl import axi
from bitfirst_hdl.config import CONFIGS, ArrayConfig, ConfigError
from bitfirst_sim.bench import BenchError, BenchResult, run_bench
from bitfirst_sim.formal.prove import altered

FINGERPRINT = 0x0F1E_2D3C_4B5A_6978
TINY = CONFIGS["tiny"]
ECHO_BEATS = 8


class Echo(wiring.Component):
    """Stands for the device: sends back what it receives."""

    def __init__(self, config: ArrayConfig, fingerprint: int) -> None:
        units = stream.Signature(config.link_bits)
        super().__init__({"rx": In(units), "tx": Out(units), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=len(self.rx.payload), depth=ECHO_BEATS)
        wiring.connect(m, wiring.flipped(self.rx), queue.w_stream)
        wiring.connect(m, queue.r_stream, wiring.flipped(self.tx))
        m.d.comb += self.idle.eq(queue.level == 0)
        return m


def run(link_bits: int, *changes: tuple[str, str], only: str | None = None) -> BenchResult:
    """The bench of everything around the device, with `changes` in the source."""
    config = replace(TINY, link_bits=link_bits)
    component = altered(axi, *changes, Core=Echo).AxiTop(config, FINGERPRINT)
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    return run_bench(component, "axi", "bitfirst_sim.benches.bench_axi", parameters=parameters, only=only)


@pytest.mark.parametrize("link_bits", axi.TDATA_BITS)
def test_ports(link_bits: int) -> None:
    assert len(run(link_bits).tests) == 8


def test_device() -> None:
    config = replace(TINY, link_bits=32, rows=1, features=())  # compiles in a third of the time
    component = axi.AxiTop(config, FINGERPRINT)
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    result = run_bench(component, "axi_device", "bitfirst_sim.benches.bench_axi_device", parameters=parameters)
    assert len(result.tests) == 2


#: One mistake each: text of `bitfirst_hdl.axi`, text in its place, the test of the bench that must fail, its words.
MUTANTS = {
    "valid is withdrawn": (
        "with m.If(self.tready):\n            m.d.sync += self.tvalid.eq(0)",
        "m.d.sync += self.tvalid.eq(0)",
        "packets",
        "valid was withdrawn",
    ),
    "payload changes": ("free.eq(~self.tvalid | self.tready)", "free.eq(1)", "packets", "payload changed"),
    "response before data": (
        "write.eq(has_address & has_data &",
        "write.eq(has_address &",
        "register_access",
        "response before address and data",
    ),
    "last a beat too early": ("self.tlast.eq(left == 1)", "self.tlast.eq(left == 2)", "packets", "expected"),
    "taken while in reset": ("core.rx.ready & running", "core.rx.ready", "reset", "high in reset"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_the_bench_finds_mutants(name: str) -> None:
    old, new, only, words = MUTANTS[name]
    with pytest.raises(BenchError, match=words):
        run(64, (old, new), only=only)


def test_width_of_the_link() -> None:
    assert axi.check_width(TINY) == 64
    with pytest.raises(ConfigError, match="link_bits = 8 is not for AXI4-Stream; set link_bits to 32 or 64"):
        axi.check_width(replace(TINY, link_bits=8))
