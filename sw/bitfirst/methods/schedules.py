"""Precision by a schedule that is fixed before: stages by hand, cycles, and their controls."""

import math
from abc import abstractmethod
from typing import Any

import torch

from ..bits import Bits
from ..errors import UsageError
from .plan import Plan
from .precision import SCHEDULES, Pair, Precision, stages_of
from .random import generator

ORDERS = FORWARD, REVERSED, RANDOM = "forward", "reversed", "random"


class Scheduled(Precision):
    """What both schedules have in common.

    order  "forward"; "reversed", the last step's widths first; "random", the steps' widths in a random order. All have
           equally many steps of each width, so equal bit operations
    seed   of the random order

    The training's length must be known: `plan`.
    """

    def __init__(self, first: Pair, order: str, seed: int) -> None:
        super().__init__(first)
        if order not in ORDERS:
            raise UsageError(f"order {order!r} is unknown: choose from {', '.join(ORDERS)}")
        self.order, self.seed = order, seed
        self._total = 0
        self._places: list[int] = []

    @abstractmethod
    def pair_at(self, step: int, steps: int) -> Pair:
        """Widths of `step` (from 0) of `steps`, in forward order."""

    @property
    @abstractmethod
    def pairs(self) -> list[Pair]:
        """All that may come."""

    def widths(self, bits: Bits) -> list[Bits]:
        return [pair.bits for pair in self.pairs]

    def plan(self, plan: Plan) -> Plan:
        self._total = plan.trained
        places = torch.arange(self._total)
        if self.order == REVERSED:
            places = places.flip(0)
        elif self.order == RANDOM:
            places = torch.randperm(self._total, generator=generator("order", self.seed))
        self._places = places.tolist()
        self._set_for_step()
        return plan

    def _set_for_step(self) -> None:
        place = self._places[min(self.steps, self._total - 1)]  # more steps than expected: as the last one
        self._set(self.pair_at(place, self._total))

    def step(self, loss: Any) -> None:
        if not self._places:
            name = type(self).__name__
            raise UsageError(f"{name} must know how long the training is: ask its plan(Plan.of(iterations)) before")
        super().step(loss)
        self._set_for_step()


class ByHand(Scheduled):
    """Progressive fractional quantization by hand (FracTrain): stages that begin where it is told.

    schedule     bits by stage, forward/backward
    at           shares of the training at which the second stage begins, and each further one; None: equal parts
    order, seed  of `Scheduled`: the controls
    """

    def __init__(
        self,
        schedule: str = SCHEDULES[0],
        at: tuple[float, ...] | None = None,
        order: str = FORWARD,
        seed: int = 0,
    ) -> None:
        self.stages = stages_of(schedule)
        super().__init__(self.stages[0], order, seed)
        count = len(self.stages)
        self.at = tuple(stage / count for stage in range(1, count)) if at is None else tuple(at)
        if len(self.at) != count - 1 or list(self.at) != sorted(self.at) or not all(0 <= one <= 1 for one in self.at):
            raise UsageError(f"at = {self.at}: {count} stages need {count - 1} rising shares of the training, 0 to 1")

    def pair_at(self, step: int, steps: int) -> Pair:
        return self.stages[sum(step >= share * steps for share in self.at)]

    @property
    def pairs(self) -> list[Pair]:
        return list(self.stages)


class Static(Precision):
    """The same widths all the time: FW8/BW8, what FracTrain is compared to, by default.

    forward   bits of activations and weights
    backward  bits of the output's gradient
    """

    def __init__(self, forward: int = 8, backward: int = 8) -> None:
        _ = Pair(forward, backward).bits
        super().__init__(Pair(forward, backward))

    def widths(self, bits: Bits) -> list[Bits]:
        return [self.pair.bits]


class Int8Int12(ByHand):
    """Training with few bits, then fine-tuning with more: the fair comparison that a reviewer of FracTrain asked for,
    whose gates may choose gradients of 12 bits beside a static training with 8.

    bits, then   of all operands, before and after
    at           share of the training at which fine-tuning begins; not from the paper
    order, seed  of `Scheduled`: the controls
    """

    def __init__(self, bits: int = 8, then: int = 12, at: float = 0.75, order: str = FORWARD, seed: int = 0) -> None:
        super().__init__(f"{bits}-{then}/{bits}-{then}", (at,), order, seed)


class CPT(Scheduled):
    """Cyclic precision training (Fu et al., ICLR 2021): forward bits rise from `low` to `high` by half a cosine, again
    and again.

    cycles       in the whole training
    gradient     bits of the output's gradient, all the time
    order, seed  of `Scheduled`: the controls
    """

    def __init__(
        self, low: int = 3, high: int = 8, gradient: int = 8, cycles: int = 8, order: str = FORWARD, seed: int = 0
    ) -> None:
        if not low <= high:
            raise UsageError(f"low = {low} is above high = {high}")
        if cycles < 1:
            raise UsageError(f"cycles = {cycles}: choose 1 or more")
        self.low, self.high, self.gradient, self.cycles = low, high, gradient, cycles
        for pair in self.pairs:
            _ = pair.bits
        super().__init__(Pair(low, gradient), order, seed)

    def pair_at(self, step: int, steps: int) -> Pair:
        phase = step * self.cycles / steps % 1
        raised = (self.high - self.low) * (1 - math.cos(math.pi * phase)) / 2
        return Pair(self.low + round(raised), self.gradient)

    @property
    def pairs(self) -> list[Pair]:
        return [Pair(bits, self.gradient) for bits in range(self.low, self.high + 1)]
