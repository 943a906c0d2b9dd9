"""What a device takes while it works, span by span: loads for windows of which the joules are known."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEAST_SPANS = 8  #: of a phase, fewer of which are left out


@dataclass(frozen=True)
class Segment:
    """A stretch of a load: so many cycles, the phase (None: as it is), and what each rail's load takes."""

    cycles: int
    phase: int | None
    watts: tuple[float, ...]


@dataclass(frozen=True)
class Activity:
    """Of one phase of work.

    name         of the phase
    span_cycles  of each span
    above        power above rest of one span after another, their mean being 1
    """

    name: str
    span_cycles: int
    above: np.ndarray

    def run(self, first: int, cycles: int, idle_watts: float, above_watts: float) -> list[Segment]:
        """So many cycles of it from span `first` on, again from its beginning at its end, with a rest and a mean above
        it of so many watts. The mean is that of all of it: of a part it may be another one."""
        spans = -(-cycles // self.span_cycles)
        watts = idle_watts + above_watts * self.above[(first + np.arange(spans)) % len(self.above)]
        lengths = [self.span_cycles] * (spans - 1) + [cycles - self.span_cycles * (spans - 1)]
        return [Segment(length, None, (float(value),)) for length, value in zip(lengths, watts, strict=True)]


def joules(run: Sequence[Segment], clock_hz: float) -> float:
    """That one rail's load takes."""
    return sum(segment.cycles * segment.watts[0] for segment in run) / clock_hz


def by_phase(
    watts: np.ndarray, phases: np.ndarray, idle_watts: float, names: dict[int, str], span_cycles: int
) -> tuple[Activity, ...]:
    """Of what was recorded, watts and phase of each span: the activity of all of it ("step"), and of each phase in
    `names`, its spans one behind the other."""
    above = watts - idle_watts
    parts = {"step": above[np.isin(phases, list(names))]} | {name: above[phases == key] for key, name in names.items()}
    return tuple(
        Activity(name, span_cycles, part / part.mean()) for name, part in parts.items() if len(part) >= LEAST_SPANS
    )
