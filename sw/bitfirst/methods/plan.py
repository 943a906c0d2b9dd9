"""How long a training lasts, and by which learning rate: what methods may change of a job before it begins."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil

from ..errors import UsageError


@dataclass(frozen=True)
class Plan:
    """steps     iterations, those whose batch is dropped too
    trained   iterations that are trained on, as expected
    schedule  iterations that the schedule of learning rates is made for
    factor    on its rates
    hold      from this step on the rate stays at this share of its peak
    """

    steps: int
    trained: int
    schedule: int
    factor: float = 1.0
    hold: tuple[int, float] | None = None

    @classmethod
    def of(cls, steps: int) -> "Plan":
        """Ordinary training."""
        if steps < 1:
            raise UsageError(f"a plan of {steps} iterations: choose 1 or more")
        return cls(steps, steps, steps)

    def scaled(self, work: float, trained: float = 1.0) -> "Plan":
        """`work` times the batches, which are `trained` (a share) of the iterations; the schedule is stretched."""
        steps = max(1, ceil(round(self.steps * work / trained, 9)))  # 21 * 0.9 / 0.9 is a little more than 21
        return replace(self, steps=steps, trained=max(1, round(steps * trained)), schedule=steps)

    def rate(self, step: int, peak: float, schedule: Callable[[int, int, float], float]) -> float:
        """Of iteration `step`; `schedule(step, steps, peak)`: that of ordinary training."""
        if self.hold is not None and step >= self.hold[0]:
            return self.factor * self.hold[1] * peak
        return self.factor * schedule(step, self.schedule, peak)
