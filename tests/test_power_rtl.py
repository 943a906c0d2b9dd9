"""The power monitor in gateware against a model in integers, and mutants that the bench must find."""

from types import ModuleType, SimpleNamespace

import pytest
from amaranth.lib import memory
from bitfirst_hdl.power import monitor, spans, sums
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.i2c_bus import OnBus

BENCH = "bitfirst_sim.benches.bench_power"
CLOCK_KHZ = 5000
CHIPS = 2


def run(module: ModuleType, only: str | None = None) -> set[str]:
    return set(run_bench(OnBus(module.PowerMonitor(CLOCK_KHZ), CHIPS), "power", BENCH, only=only).tests)


def test_monitor() -> None:
    assert len(run(monitor)) == 5


def test_limits() -> None:
    """Spans of few bits, and sums that begin near 2**63."""
    few, first = 11, 2**63 - 5
    bits = [first >> place & 1 for place in range(64)] * sums.MEMORY_WORDS
    filled = SimpleNamespace(
        Memory=lambda **given: memory.Memory(**given | ({"init": bits} if given["depth"] == len(bits) else {}))
    )
    module = altered(
        monitor,
        ('"clear": Signal(init=1)', '"clear": Signal()'),
        Spans=altered(spans, CYCLES_BITS=few).Spans,
        Sums=altered(sums, memory=filled).Sums,
    )
    component = OnBus(module.PowerMonitor(CLOCK_KHZ), CHIPS)
    parameters = {"most": 2**few - 1, "first": first}
    assert len(run_bench(component, "power", f"{BENCH}_limits", parameters=parameters).tests) == 2


#: What is changed: the module, its class in the monitor, the text.
MUTANTS = {
    "currents without a sign": (sums, "Sums", ("Mux(above, held.sign, code)", "Mux(above, 0, code)")),
    "a cycle less in each span": (spans, "Spans", ("cycles.eq(1), phase.eq", "cycles.eq(0), phase.eq")),
    "the last span of a round left out": (spans, "Spans", ("end.eq(free + begun)", "end.eq(free)")),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    module, name, change = MUTANTS[mutant]
    with pytest.raises(BenchError, match="cocotb tests failed: adds_up"):
        run(altered(monitor, **{name: getattr(altered(module, change), name)}))
