"""Progressive fractional quantization: precision rises when the loss no longer falls."""

from collections.abc import Sequence
from typing import Any

import torch

from ..bits import Bits
from ..errors import UsageError
from .precision import SCHEDULES, Precision, stages_of


class Indicator:
    """Says when a stage is over: when the latest of `window` losses is close to all others of them.

    Close is |difference| <= epsilon * scale, the scale being the mean of the first losses, up to `scale_over` of them.
    When it says so the window is emptied, and epsilon becomes alpha * epsilon.
    """

    def __init__(self, epsilon: float, alpha: float, window: int = 5, scale_over: int = 10) -> None:
        if not (epsilon > 0 and 0 < alpha <= 1):
            raise UsageError(f"epsilon = {epsilon}, alpha = {alpha}: choose epsilon above 0, alpha above 0, up to 1")
        if window < 2 or scale_over < 1:
            raise UsageError(f"window = {window}, scale_over = {scale_over}: choose at least 2 and 1")
        self.epsilon, self.alpha, self.window, self.scale_over = epsilon, alpha, window, scale_over
        self.losses: list[float] = []
        self.first: list[float] = []

    def fires(self, loss: float) -> bool:
        """Takes one more loss."""
        if len(self.first) < self.scale_over:
            self.first.append(loss)
        self.losses = [*self.losses, loss][-self.window :]
        most = self.epsilon * sum(self.first) / len(self.first)
        if len(self.losses) < self.window or any(abs(loss - before) > most for before in self.losses[:-1]):
            return False
        self.losses = []
        self.epsilon *= self.alpha
        return True

    def state(self) -> dict[str, Any]:
        return {"epsilon": self.epsilon, "losses": self.losses, "first": self.first}

    def restore(self, state: dict[str, Any]) -> None:
        self.epsilon, self.losses, self.first = state["epsilon"], list(state["losses"]), list(state["first"])


class Stages:
    """Which of `count` stages a training is in: the next one begins when `indicator` says that this one is over.

    every  the indicator sees means of the losses of so many steps; None: of epochs
    now    0 at first
    """

    def __init__(self, count: int, indicator: Indicator, every: int | None) -> None:
        if every is not None and every < 1:
            raise UsageError(f"every = {every}: choose 1 iteration or more, or None for epochs")
        self.count, self.indicator, self.every = count, indicator, every
        self.now = 0
        self._pending: list[float] = []

    def rises_with_step(self, loss: torch.Tensor) -> bool:
        """Whether the next stage begins behind a step with this loss."""
        if self.every is None:
            return False
        self._pending.append(loss.item())
        if len(self._pending) < self.every:
            return False
        mean, self._pending = sum(self._pending) / self.every, []
        return self._rises(mean)

    def rises_with_epoch(self, loss: float | None) -> bool:
        """Whether the next stage begins behind an epoch with this mean loss; None where no batch was trained on."""
        return self.every is None and loss is not None and self._rises(loss)

    def _rises(self, loss: float) -> bool:
        rises = self.now + 1 < self.count and self.indicator.fires(loss)
        self.now += rises
        return rises

    def state(self) -> dict[str, Any]:
        return {"stage": self.now, "pending": self._pending, "indicator": self.indicator.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self.now, self._pending = state["stage"], list(state["pending"])
        self.indicator.restore(state["indicator"])

    def summary(self) -> dict[str, Any]:
        return {"stages": self.count, "stages_visited": self.now + 1}


class PFQ(Precision):
    """Progressive fractional quantization (FracTrain): training begins with few bits, and gets more when it stalls.

    schedule  bits by stage, forward/backward; `precision.SCHEDULES` are FracTrain's
    epsilon, alpha
              of `Indicator`: 0.05 and 0.3 as FracTrain's instructions have it (0.15 and 0.4 are other defaults there)
    every     losses that the indicator sees are means of so many iterations; None: of epochs
    window, scale_over
              of `Indicator`

    All stages are visited only where the loss stalls often enough: see `stage` and `changes`.
    """

    def __init__(
        self,
        schedule: str = SCHEDULES[0],
        epsilon: float = 0.05,
        alpha: float = 0.3,
        every: int | None = None,
        window: int = 5,
        scale_over: int = 10,
    ) -> None:
        self.stages: Sequence = stages_of(schedule)
        super().__init__(self.stages[0])
        self._stages = Stages(len(self.stages), Indicator(epsilon, alpha, window, scale_over), every)

    @property
    def stage(self) -> int:
        return self._stages.now

    def widths(self, bits: Bits) -> list[Bits]:
        return [stage.bits for stage in self.stages]

    def step(self, loss: torch.Tensor) -> None:
        super().step(loss)
        if self._stages.rises_with_step(loss):
            self._set(self.stages[self.stage])

    def epoch_end(self, loss: float | None) -> None:
        if self._stages.rises_with_epoch(loss):
            self._set(self.stages[self.stage])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._stages.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._stages.restore(state)

    def summary(self) -> dict[str, Any]:
        return super().summary() | self._stages.summary()
