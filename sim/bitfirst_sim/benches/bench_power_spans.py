"""Bench of `bitfirst_hdl.power.spans.Spans`: phases that change as they like, in every cycle too.

Parameter: `most`, cycles of a span.
"""

import random
from collections import Counter
from typing import Any

import cocotb
from bitfirst_hdl.contract.power import PHASES
from cocotb.triggers import RisingEdge

from . import common

ROUNDS = 150
SHORT, LONG = (1, 2, 3, 5), 400  # cycles between two times of rounds


class Bench:
    """The component, and what it must have counted."""

    def __init__(self, dut: Any, rng: random.Random) -> None:
        self.dut, self.rng, self.most = dut, rng, common.parameters()["most"]
        self.choice, self.before, self.last = [0], 0, 0
        self.begun = self.known = False
        self.counts: Counter[int] = Counter()  # of the round under way, by phase
        self.ended: Counter[int] = Counter()  # of the one before
        self.met: Counter[str] = Counter()  # of what is worth a test, how often it came

    def draw(self) -> int:
        """A phase: for some time one, two by turns or any."""
        if self.rng.random() < 0.03:
            self.choice = self.rng.sample(range(PHASES), self.rng.choice((1, 1, 1, 2, PHASES)))
        return self.rng.choice(self.choice)

    async def cycle(self, **inputs: int) -> None:
        """One cycle: its inputs, and its outputs but for the span that is shown."""
        dut, phase = self.dut, self.draw()
        for name in ("close", "forget", "rewind", "next"):
            getattr(dut, name).value = inputs.get(name, 0)
        dut.phase.value = phase
        await RisingEdge(dut.clk)
        late = self.begun and self.counts[self.before] > self.most
        assert (common.value(dut.known), common.value(dut.late)) == (self.known, late), (self.known, late)
        assert not self.known or common.value(dut.last_phase) == self.last, self.last
        if inputs.get("close"):
            self.met["change with close"] += phase != self.before
            self.met["one cycle"] += self.counts.total() == 1
            self.ended, self.counts = self.counts, Counter()
            self.known, self.last, self.begun = self.begun, self.before, True
        if inputs.get("forget"):
            self.begun = self.known = False
        self.met["late"] += late
        self.met["late again"] += late and self.counts[phase] > self.most and phase != self.before
        self.counts[phase] += 1
        self.before = phase

    async def cycles(self, count: int) -> None:
        for _ in range(count):
            await self.cycle()

    async def check_spans(self) -> None:
        """Those of the round before, in their order."""
        await self.cycle(rewind=1)
        wanted = [(phase, min(count, self.most)) for phase, count in sorted(self.ended.items())]
        for place, span in enumerate(wanted):
            await self.cycles(self.rng.choice((2, 2, 5)))
            found = common.value(self.dut.span_phase), common.value(self.dut.span_cycles)
            assert found == span, f"span {place} of {wanted}: {found}"
            assert common.value(self.dut.last) == (place == len(wanted) - 1), f"last of {wanted}: {place}"
            await self.cycle(next=1)


@cocotb.test()
async def counts_every_cycle(dut: Any) -> None:
    """Rounds of one cycle and of many; spans that are shown once, twice and not at all."""
    bench = Bench(dut, await common.start(dut))
    rng = bench.rng
    bench.counts[0] += 1  # the cycle behind the reset
    for number in range(ROUNDS):
        await bench.cycles(rng.choice((*SHORT, rng.randrange(LONG))) - 1)
        await bench.cycle(close=1, forget=rng.random() < 0.02)
        for _ in range(rng.choice((0, 1, 1, 2)) if bench.known else 0):
            await bench.check_spans()
        if number % 50 == 25:
            await bench.cycle(forget=1)
    met = ("change with close", "one cycle", "late", "late again")
    assert all(bench.met[name] > 3 for name in met), bench.met
