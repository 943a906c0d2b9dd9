"""Bench of `bitfirst_hdl.counters.Counters` against plain sums, cycle by cycle.

Parameters: `most` and `apart`, those of the component; `first`, what its sums hold at reset. Where that is not 0,
nothing is cleared.
"""

import itertools
import random
from typing import Any

import cocotb
from bitfirst_hdl.contract.packets import WORD_BITS
from bitfirst_hdl.contract.registers import COUNTERS
from bitfirst_hdl.counters import PHASE_BITS
from cocotb.triggers import RisingEdge

from . import common

LATENCY = 6  # cycles from a snapshot to its first word
NAMES = [counter.name for counter in COUNTERS if counter.name != "phase"]


class Bench:
    """Drives all inputs in each cycle, and knows what the counters hold."""

    def __init__(self, dut: Any, rng: random.Random, first: int) -> None:
        self.dut, self.rng = dut, rng
        self.checker = common.Checker("words")
        self.monitor = common.StreamMonitor(dut, "words", rng, checker=self.checker)
        self.held = dict.fromkeys(NAMES, first) | {"phase": 0}
        self.apart, self.pauses = common.parameters()["apart"], dict.fromkeys(NAMES, 0)  # cycles without it to come
        self.snapshots: list[int] = []  # cycles in which one was asked for

    async def cycle(self, counted: dict[str, int], snapshot: int = 0, clear: int = 0, phase: int | None = None) -> None:
        """One cycle with these inputs, but for those that come too soon after one another."""
        dut = self.dut
        counted = {name: 0 if self.pauses[name] else count for name, count in counted.items()}
        for name, pause in self.pauses.items():
            self.pauses[name] = self.apart[name] - 1 if counted.get(name) else max(0, pause - 1)
        for name in NAMES:
            getattr(dut, name).value = counted.get(name, 0)
        dut.snapshot.value, dut.clear.value = snapshot, clear
        dut.set_phase.value, dut.phase.value = int(phase is not None), phase or 0
        await RisingEdge(dut.clk)
        if snapshot:
            self.snapshots.append(common.cycle())
            self.checker.expect(*(self.held[counter.name] for counter in COUNTERS))
        for name, count in counted.items():
            self.held[name] = (self.held[name] + count) % 2**WORD_BITS
        if phase is not None:
            self.held["phase"] = phase
        if clear:
            self.held = dict.fromkeys(self.held, 0)

    async def sent(self, counted: Any) -> None:
        """Count until the last word of the snapshot is taken."""
        while self.checker.expected:
            await self.cycle(counted())
        assert self.checker.count == len(self.snapshots) * len(COUNTERS)

    def latencies(self) -> set[int]:
        firsts = self.monitor.taken[:: len(COUNTERS)]
        return {cycle - asked for (cycle, _), asked in zip(firsts, self.snapshots, strict=True)}

    def gaps(self) -> set[int]:
        """Cycles from one word of a snapshot to the next."""
        cycles = [cycle for cycle, _ in self.monitor.taken]
        copies = [cycles[first : first + len(COUNTERS)] for first in range(0, len(cycles), len(COUNTERS))]
        return {after - before for copy in copies for before, after in itertools.pairwise(copy)}


async def at_any_time(bench: Bench, most: dict[str, int]) -> None:
    """Snapshots in each cycle of a round, right behind one another or not, all counters as fast as they go."""
    for pause in (0, 0, 0, *range(3 * len(COUNTERS)), 500):
        for _ in range(pause):
            await bench.cycle(most)
        await bench.cycle(most, snapshot=1)
        await bench.sent(lambda: most)
    assert bench.latencies() == {LATENCY}, bench.latencies()
    assert bench.gaps() == {1}, bench.gaps()


async def anything(bench: Bench, most: dict[str, int], clears: bool) -> None:
    """Random counts, phases, clears and snapshots."""
    rng = bench.rng

    def counted() -> dict[str, int]:
        return {name: rng.choice((0, 0, 1, top, rng.randint(0, top))) for name, top in most.items()}

    for _ in range(200):
        for _ in range(rng.choice((0, 1, 2, 5, 30, 60))):
            clear, sets = clears and rng.random() < 0.03, rng.random() < 0.1
            await bench.cycle(counted(), clear=int(clear), phase=rng.randrange(2**PHASE_BITS) if sets else None)
        if clears and rng.random() < 0.3:
            await bench.cycle(counted(), clear=1)
        await bench.cycle(counted(), snapshot=1)
        await bench.sent(counted)


@cocotb.test()
async def counts(dut: Any) -> None:
    """From what the sums hold at the start on; words are taken at once, then late."""
    most, first = (common.parameters()[name] for name in ("most", "first"))
    bench = Bench(dut, await common.start(dut), first)
    await at_any_time(bench, most)
    bench.monitor.stall = 0.4
    await anything(bench, most, clears=first == 0)
    bench.checker.finish()
