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
BOARD_KHZ, CELLS, BLOCK_RAMS = 25_000, 586, 6  # of ECP5
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


def run_spans(*changes: tuple[str, str]) -> set[str]:
    few = 6
    module = altered(spans, *changes, CYCLES_BITS=few, later=sums.later)
    return set(run_bench(module.Spans(), "spans", f"{BENCH}_spans", parameters={"most": 2**few - 1}).tests)


def test_spans() -> None:
    assert len(run_spans()) == 1


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
    assert not found.get("MULT18X18D")
    build.lint(verilog.convert(monitor.PowerMonitor(BOARD_KHZ), "monitor"))


#: The monitor, and the test that finds what is wrong with it.
MUTANTS = {
    "currents without a sign": (
        lambda: with_mutant(sums, "Sums", ("Mux(above, held.sign, code)", "Mux(above, 0, code)")),
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
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    make, only = MUTANTS[mutant]
    with pytest.raises(BenchError, match=f"cocotb tests failed: {only}"):
        run(make(), only)


SPANS_MUTANTS = {
    "phases of a round are not handed over": ("ended.eq(following)", "ended.eq(ended)"),
    "the last phase of a round is left out": ("ended.eq(following)", "ended.eq(seen)"),
    "what is stored is not added": ("cycles + stored + 1", "cycles + 1"),
    "a phase's first cycle is lost": ("cycles + stored + 1", "cycles + stored + later(m, ~changes)"),
    "a change at a round's time goes on with the round before": ("~self.close & (seen", "(seen"),
    "one span more than there are": ("others == 0", "left == 0"),
    "a full span begins anew": ("write.en.eq(~full)", "write.en.eq(1)"),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", SPANS_MUTANTS)
def test_mutants_of_spans_are_found(mutant: str) -> None:
    with pytest.raises(BenchError, match="cocotb tests failed: counts_every_cycle"):
        run_spans(SPANS_MUTANTS[mutant])
