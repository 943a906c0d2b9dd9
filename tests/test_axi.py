"""The device with AXI ports, driven by masters that nobody here wrote."""

from dataclasses import replace

import pytest
from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl import axi
from bitfirst_hdl.config import CONFIGS, ArrayConfig, ConfigError
from bitfirst_sim.bench import BenchResult, run_bench
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
    config = replace(TINY, link_bits=32)
    component = axi.AxiTop(config, FINGERPRINT)
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    result = run_bench(component, "axi_device", "bitfirst_sim.benches.bench_axi_device", parameters=parameters)
    assert len(result.tests) == 2


def test_width_of_the_link() -> None:
    with pytest.raises(ConfigError, match="link_bits = 8 is not a width of AXI4-Stream here; set it to 32 or 64"):
        axi.AxiTop(replace(TINY, link_bits=8))
