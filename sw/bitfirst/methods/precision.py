"""Precision that changes while a network trains."""

import re
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..bits import Bits
from ..errors import UsageError
from .method import Method

#: FracTrain's schedules: bits of the forward pass, stage by stage, then of the output gradients.
SCHEDULES = ("3-4-6-8/6-6-8-8", "3-4-5-6/6-6-8-8", "3-4-6-8/6-8-10-12", "3-4-6-8/6-8-12-16")
_SCHEDULE = re.compile(r"(\d+(?:-\d+)*)/(\d+(?:-\d+)*)")


@dataclass(frozen=True)
class Pair:
    """Bits of the forward pass (activations and weights), and of the output's gradient in both backward products."""

    forward: int
    backward: int

    @property
    def bits(self) -> Bits:
        return Bits(self.forward, self.forward, self.backward)


def stages_of(schedule: str) -> tuple[Pair, ...]:
    """Of such as "3-4-6-8/6-6-8-8": stage 0 is 3 bits forward, 6 backward."""
    match = _SCHEDULE.fullmatch(schedule)
    if match is None:
        raise UsageError(f"schedule {schedule!r}: give bits by stage, forward/backward, such as {SCHEDULES[0]!r}")
    forward, backward = ([int(bits) for bits in part.split("-")] for part in match.groups())
    if len(forward) != len(backward):
        raise UsageError(f"schedule {schedule!r} has {len(forward)} stages forward and {len(backward)} backward")
    stages = tuple(Pair(*pair) for pair in zip(forward, backward, strict=True))
    for stage in stages:
        _ = stage.bits
    return stages


class Precision(Method):
    """What methods have in common that set the widths of all converted layers: they take no `bits` of `convert`.

    `changes` are the widths so far: (steps trained before, bits forward, bits backward).
    """

    role = "precision"

    def __init__(self, first: Pair) -> None:
        self.steps = 0
        self.changes: list[tuple[int, int, int]] = [(0, first.forward, first.backward)]
        self._layers: list[nn.Module] = []

    @property
    def pair(self) -> Pair:
        """The widths now."""
        return Pair(*self.changes[-1][1:])

    def prepare(self, net: nn.Module) -> None:
        self._layers = [layer for layer in net.modules() if hasattr(layer, "connection")]
        self._apply()

    def _apply(self) -> None:
        bits = self.pair.bits
        for layer in self._layers:
            layer.bits = bits

    def _set(self, pair: Pair) -> None:
        """From the next step on."""
        if pair != self.pair:
            if self.changes[-1][0] == self.steps:
                self.changes.pop()
            self.changes.append((self.steps, pair.forward, pair.backward))
            self._apply()

    def step(self, loss: Any) -> None:
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "changes": [list(change) for change in self.changes]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.changes = [tuple(change) for change in state["changes"]]
        self._apply()

    def summary(self) -> dict[str, Any]:
        return {"changes": [list(change) for change in self.changes]}
