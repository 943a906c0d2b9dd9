"""What the sums of `bitfirst_hdl.power` must be, in Python's integers, from times, phases and numbers alone."""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from bitfirst_hdl.contract.power import CYCLES_BITS, PHASES, SUM_NAMES


@dataclass(frozen=True)
class Sample:
    """A rail's numbers in the round at `stamp` (cycles)."""

    stamp: int
    rail: int
    current: int
    voltage: int


class Phases:
    """The phase in each cycle; cycle 0 has phase 0."""

    def __init__(self) -> None:
        self.times, self.numbers = [0], [0]

    def set(self, cycle: int, number: int) -> None:
        """From `cycle` on, later than all before."""
        assert cycle > self.times[-1]
        self.times.append(cycle)
        self.numbers.append(number % PHASES)

    def at(self, cycle: int) -> int:
        return self.numbers[bisect_right(self.times, cycle) - 1]

    def spans(self, first: int, end: int) -> dict[int, int]:
        """Cycles of each phase in [first, end), of those that have any."""
        found: dict[int, int] = {}
        for cycle, following, phase in zip(self.times, [*self.times[1:], end], self.numbers, strict=True):
            begin, stop = max(cycle, first), min(following, end)
            if begin < stop:
                found[phase] = found.get(phase, 0) + stop - begin
        return found


def sums(
    samples: Iterable[Sample], phases: Phases, most: int = 2**CYCLES_BITS - 1
) -> dict[tuple[int, int], tuple[int, ...]]:
    """By rail and phase: cycles, samples, charge, energy, in the order of `SUM_NAMES`.

    The samples of the first stamp say when the first time begins, and nothing else. Of a round a phase counts for
    `most` cycles, no more.
    """
    by_stamp = defaultdict(list)
    for sample in samples:
        by_stamp[sample.stamp].append(sample)
    totals = defaultdict(lambda: [0] * len(SUM_NAMES))
    stamps = sorted(by_stamp)
    for before, stamp in pairwise(stamps):
        for phase, cycles in phases.spans(before, stamp).items():
            counted = min(cycles, most)
            for sample in by_stamp[stamp]:
                charge = sample.current * counted
                added = counted, 1, charge, charge * sample.voltage
                total = totals[sample.rail, phase]
                totals[sample.rail, phase] = [old + new for old, new in zip(total, added, strict=True)]
    return {key: tuple(total) for key, total in totals.items()}
