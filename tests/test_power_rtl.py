"""The power monitor in gateware against a model in integers, and mutants that the bench must find."""

from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from amaranth.lib import memory
from bitfirst_boards.synthesis import Chip, packed, synthesise
from bitfirst_hdl import verilog
from bitfirst_hdl.power import monitor, sampler, spans, sums, transfers
from bitfirst_sim import build
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.i2c_bus import OnBus

BENCH = "bitfirst_sim.benches.bench_power"
CLOCK_KHZ = 5000
BOARD_KHZ, CELLS, BLOCK_RAMS = 25_000, 568, 5  # of ECP5
CHIPS = 3


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


def with_mutant(module: ModuleType, name: str, *changes: tuple[str, str]) -> ModuleType:
    """The monitor with another class `name`."""
    return altered(monitor, **{name: getattr(altered(module, *changes), name)})


def with_transfers(*changes: tuple[str, str]) -> ModuleType:
    changed = altered(sampler, Transfers=altered(transfers, *changes).Transfers)
    return altered(monitor, Sampler=changed.Sampler)


def test_cells(tmp_path: Path) -> None:
    """No more than there are, which the goal is 600 for; and the Verilog is sound."""
    synthesise(monitor.PowerMonitor(BOARD_KHZ), tmp_path, Chip("ecp5"))
    found = packed(tmp_path)
    assert found["TRELLIS_COMB"] <= CELLS and found["DP16KD"] <= BLOCK_RAMS, found
    build.lint(verilog.convert(monitor.PowerMonitor(BOARD_KHZ), "monitor"))


#: The monitor, and the test that finds what is wrong with it.
MUTANTS = {
    "currents without a sign": (
        lambda: with_mutant(sums, "Sums", ("Mux(above, held.sign, code)", "Mux(above, 0, code)")),
        "adds_up",
    ),
    "a cycle less in each span": (
        lambda: with_mutant(spans, "Spans", ("cycles.eq(1), phase.eq", "cycles.eq(0), phase.eq")),
        "adds_up",
    ),
    "spans of a round behind its second one left out": (
        lambda: with_mutant(spans, "Spans", ("phase, self.close)", "phase, self.close | (free == 1))")),
        "adds_up",
    ),
    "snapshots in the midst of a round": (
        lambda: with_mutant(sums, "Sums", ("self.copy & self.between & kept", "self.copy & kept")),
        "adds_up",
    ),
    "numbers before they are ready": (
        lambda: with_mutant(sampler, "Sampler", ("(kind.role != Role.READY) | self._ready", "1")),
        "adds_up",
    ),
    "silence that is taken for numbers": (
        lambda: with_mutant(sampler, "Sampler", ("with m.If(~transfers.acknowledged):", "with m.If(0):")),
        "rails_that_say_nothing",
    ),
    "a held wire that is taken for an acknowledge": (
        lambda: with_transfers(("self.acknowledged.eq(~failed & master.seen)", "self.acknowledged.eq(~failed)")),
        "frees_the_bus",
    ),
    "phases that find no room are left out": (
        lambda: with_mutant(spans, "Spans", ("(changes & (room | ~begun))", "changes")),
        "many_phases",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    make, only = MUTANTS[mutant]
    with pytest.raises(BenchError, match=f"cocotb tests failed: {only}"):
        run(make(), only)
