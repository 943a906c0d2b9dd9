"""The counters in gateware: the cocotb bench, and mutants that it must find."""

from types import SimpleNamespace

import pytest
from amaranth.hdl import C, Fragment, Module
from amaranth.lib import memory
from bitfirst_hdl import counters
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import WORD_BITS
from bitfirst_hdl.contract.registers import COUNTER_INDEX
from bitfirst_hdl.counters import COUNT, Counters
from bitfirst_sim.bench import BenchError, run_bench

CONFIG = ArrayConfig(rows=2, columns=4, link_bits=8)
WHOLE = Counters(CONFIG)  # without a mutant
Fragment.get(WHOLE, None)  # Amaranth warns of what is made and never used
APART = WHOLE.apart


def run(first: int = 0) -> tuple[str, ...]:
    component = Counters(CONFIG)
    parameters = {"most": component.most, "apart": APART, "first": first}
    return run_bench(component, "counters", "bitfirst_sim.benches.bench_counters", parameters=parameters).tests


def take_turns_without_pause(self: Counters, m: Module) -> None:
    m.d.comb += self._visits.eq(~self.snapshot)
    m.d.sync += [self._number.eq(self._number + 1), self._turn.eq(self._turn.rotate_left(1))]
    with m.If(self._number == COUNT - 1):
        m.d.sync += [self._number.eq(0), self._copies.eq(0)]
    with m.If(self.snapshot | self.clear):
        m.d.sync += [self._number.eq(0), self._turn.eq(1), self._copies.eq(self.snapshot)]


def test_counters() -> None:
    assert set(run()) == {"counts"}


MUTANTS = {
    "narrow counters of events farther apart": (counters, "COMMAND_CYCLES", 8),
    "narrow counters that overflow": (counters, "LONGEST_COUNT", COUNT),
    "sums that are read before they are stored": (Counters, "_take_turns", take_turns_without_pause),
    "sums that are never cleared": (Counters, "_starts", lambda self, m: C(0)),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str, monkeypatch) -> None:
    monkeypatch.setattr(*MUTANTS[mutant])
    with pytest.raises(BenchError, match=r"words: item \d+ is \d+, expected \d+"):
        run()


def test_sums_wrap_at_64_bits(monkeypatch) -> None:
    """Sums begin where a board comes in thousands of years."""
    first = 2**WORD_BITS - 5
    filled = SimpleNamespace(Memory=lambda **given: memory.Memory(**given | {"init": [first] * COUNT}))
    monkeypatch.setattr(counters, "memory", filled)
    monkeypatch.setattr(Counters, "_starts", lambda self, m: self._turn[COUNTER_INDEX["phase"]])
    assert set(run(first)) == {"counts"}
