"""The I2C master in gateware against chips that nobody here wrote, and mutants that the bench must find."""

from types import ModuleType

import pytest
from bitfirst_hdl.power import i2c
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.i2c_bus import OnBus, Ticking, WholeBytes

BENCH = "bitfirst_sim.benches.bench_i2c"
CHIPS = 2
MUTANT_KHZ = 12_000
STRETCH_MS = 1  # instead of 25: the same, sooner


def run(
    module: ModuleType, clock_khz: int, only: str | None = None, tick: int | None = None, stretch: int | None = None
) -> set[str]:
    parameters = {
        "quarter": i2c.quarter_cycles(clock_khz),
        "filter": i2c.filter_cycles(clock_khz),
        "tick": i2c.tick_cycles(clock_khz) if tick is None else tick,
        "stretch": stretch or module.stretch_ticks(clock_khz),
    }
    component = OnBus(Ticking(WholeBytes(module.I2CMaster(clock_khz)), parameters["tick"]), CHIPS)
    return set(run_bench(component, "i2c", BENCH, parameters=parameters, only=only).tests)


def test_times() -> None:
    """Of clocks in kHz: quarters of a bit that Fast mode allows, filters that bear 50 ns, 25 ms of stretching."""
    for clock_khz in (1000, 12_000, 25_000, 48_000, 99_999, 200_000):
        quarter_ns = i2c.quarter_cycles(clock_khz) * 10**6 / clock_khz
        assert 2 * quarter_ns >= 1300 and 4 * quarter_ns >= 2500
        assert (i2c.filter_cycles(clock_khz) - 1) * 10**6 / clock_khz >= 50
        tick_ns = i2c.tick_cycles(clock_khz) * 10**6 / clock_khz
        ticks = i2c.stretch_ticks(clock_khz)  # the first one comes when it likes
        assert (ticks - 1) * tick_ns >= 25e6 and ticks * tick_ns <= 38e6


@pytest.mark.parametrize(("clock_khz", "stretch_ms"), [(1000, i2c.STRETCH_MS), (50_000, STRETCH_MS)])
def test_master(clock_khz: int, stretch_ms: int) -> None:
    module = altered(i2c, STRETCH_MS=stretch_ms)
    assert len(run(module, clock_khz, tick=module.tick_cycles(clock_khz))) == 5


#: What is changed, the test that finds it, and what that says.
MUTANTS = {
    "SCL goes on alone": (
        " | ((quarter == UP) & ~self.scl)",
        "",
        "bytes_pass",
        "bytes read|acknowledge|== byte",
    ),
    "SDA changes with SCL": ("self.busy & (quarter != 0)", "self.busy", "bytes_pass", "SDA changed"),
    "bits that are too short": ("QUARTER_NS = 650", "QUARTER_NS = 580", "bytes_pass", "SCL was 0 for"),
    "a filter that is too short": ("SPIKE_NS // 10**6) + 1", "SPIKE_NS // 10**6)", "spikes_are_not_seen", "Error"),
    "a limit that is too long": (
        "tick_cycles(clock_khz)) + 1",
        "tick_cycles(clock_khz)) + 5",
        "a_held_clock_is_given_up",
        "stretched = 0",
    ),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    old, new, only, said = MUTANTS[mutant]
    sooner = altered(i2c, STRETCH_MS=STRETCH_MS)
    tick, stretch = sooner.tick_cycles(MUTANT_KHZ), sooner.stretch_ticks(MUTANT_KHZ)
    with pytest.raises(BenchError, match=rf"(?s)cocotb tests failed: {only}.*({said})"):
        run(altered(i2c, (old, new)), MUTANT_KHZ, only, tick, stretch)
