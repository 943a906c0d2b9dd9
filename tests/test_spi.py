"""Transfers on an SPI bus in gateware, and mutants that the bench must find."""

from types import ModuleType

import pytest
from bitfirst_hdl import verilog
from bitfirst_hdl.power import spi
from bitfirst_hdl.power.monitor import PowerMonitor
from bitfirst_sim import build
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.spi_bytes import WholeTransfers

BENCH = "bitfirst_sim.benches.bench_spi"
CLOCK_KHZ = 25_000


def run(module: ModuleType, clock_khz: int = CLOCK_KHZ) -> set[str]:
    component = WholeTransfers(module.SpiTransfers(clock_khz))
    return set(run_bench(component, "spi", BENCH, parameters={"half": spi.half_cycles(clock_khz)}).tests)


def test_times() -> None:
    """10 MHz at most."""
    for clock_khz in (1000, 25_000, 59_000, 61_000, 99_999, 200_000):
        assert 2 * spi.half_cycles(clock_khz) * 10**6 / clock_khz >= 100


@pytest.mark.parametrize("clock_khz", [CLOCK_KHZ, 100_000])
def test_transfers(clock_khz: int) -> None:
    assert run(spi, clock_khz) == {"registers"}


def test_verilog_of_the_monitor() -> None:
    build.lint(verilog.convert(PowerMonitor(CLOCK_KHZ, "spi"), "monitor"))


#: What is changed, and what the bench says.
MUTANTS = {
    "MISO taken with the edge before": ("bit_ends & reads)", "ends & high & reads)", "register"),
    "a clock that is too fast": ("timer == half - 1", "timer == half - 2", "the clock was"),
    "MOSI changes at any time": ("with m.If(high):\n            tells", "with m.If(~high):\n            tells", "MOSI"),
    "register numbers that are not shifted": ("Mux(names, _NUMBER_BITS, 0)", "0", "register|bit 1|Error"),
    "reading is not told": ("(left == 0) & (self.read != 0)", "0", "bits of a register|register"),
    "addresses of nobody": ("self.address < RAILS", "self.address[:2] < 3", "== |assert"),
    "silence that is taken for numbers": ("heard | (self.read == 0)", "1", "== |assert"),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    old, new, said = MUTANTS[mutant]
    with pytest.raises(BenchError, match=rf"(?s)cocotb tests failed: registers.*({said})"):
        run(altered(spi, (old, new)))
