"""The power monitor in gateware against a model in integers, and mutants that the bench must find."""

from bitfirst_hdl.power.monitor import PowerMonitor
from bitfirst_sim.bench import run_bench
from bitfirst_sim.i2c_bus import OnBus

BENCH = "bitfirst_sim.benches.bench_power"
CLOCK_KHZ = 5000
CHIPS = 2


def test_monitor() -> None:
    assert run_bench(OnBus(PowerMonitor(CLOCK_KHZ), CHIPS), "power", BENCH).tests
