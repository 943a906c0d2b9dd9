"""Several methods at once."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from ..bits import Bits
from ..errors import UsageError
from .method import Method
from .plan import Plan
from .sign_sgd import SignSGD

#: What two methods must not both decide, and why.
ROLES = {
    "signs": "a weight has one gradient, by one rule",
    "batches": "each says which batches are trained on, and how many",
    "blocks": "each says which blocks are computed, for which samples",
    "average": "a training has one result",
    "precision": "each sets the widths of all layers",
}


class Compose(Method):
    """`methods` together: each hook is theirs, one after the other; penalties add up.

    Raises `UsageError` for methods that conflict: two of a kind, and two that decide the same (`ROLES`).
    """

    def __init__(self, methods: Sequence[Method]) -> None:
        for method in methods:
            if not isinstance(method, Method):
                raise UsageError(f"{method!r} is no method: compose such as methods.PSG()")
        self._parts = tuple(part for method in methods for part in method.parts)
        for index, one in enumerate(self._parts):
            for other in self._parts[:index]:
                reason = conflict(other, one)
                if reason is not None:
                    raise UsageError(f"{type(other).__name__} and {type(one).__name__} conflict: {reason}")

    def __repr__(self) -> str:
        return f"Compose([{', '.join(map(repr, self._parts))}])"

    @property
    def parts(self) -> tuple[Method, ...]:
        return self._parts

    @property
    def signs(self) -> SignSGD | None:
        return next((part.signs for part in self._parts if part.signs is not None), None)

    def widths(self, bits: Bits) -> list[Bits]:
        widths = [bits]
        for part in self._parts:
            widths = [after for before in widths for after in part.widths(before)]
        return list(dict.fromkeys(widths))

    def prepare(self, net: nn.Module) -> None:
        for part in self._parts:
            part.prepare(net)

    def plan(self, plan: Plan) -> Plan:
        for part in self._batches_first:
            plan = part.plan(plan)
        return plan

    @property
    def _batches_first(self) -> list[Method]:
        """What chooses batches says how many there are, and fetches them, before others see them."""
        return sorted(self._parts, key=lambda part: "batches" not in part.roles)

    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        groups = super().param_groups(net)
        for part in self._parts:
            own = part.param_groups(net)
            groups = own if part.chooses_parameters else groups
        return groups

    def loader(self, data: Iterable[Any]) -> Iterable[Any]:
        for part in self._batches_first:
            data = part.loader(data)
        return data

    def penalty(self, net: nn.Module) -> torch.Tensor | float:
        return sum((part.penalty(net) for part in self._parts), 0.0)

    def step(self, loss: torch.Tensor) -> None:
        for part in self._parts:
            part.step(loss)

    def epoch_end(self, loss: float | None) -> None:
        for part in self._parts:
            part.epoch_end(loss)

    @property
    def finishes(self) -> bool:
        return any(part.finishes for part in self._parts)

    def result(self, net: nn.Module, data: Iterable[Any]) -> nn.Module:
        for part in self._parts:
            net = part.result(net, data)
        return net

    def state_dict(self) -> dict[str, Any]:
        """Those of the methods, each name behind that of its method and a point."""
        return {f"{part.name}.{key}": value for part in self._parts for key, value in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part in self._parts:
            own = f"{part.name}."
            part.load_state_dict({key.removeprefix(own): value for key, value in state.items() if key.startswith(own)})


def conflict(one: Method, other: Method) -> str | None:
    """Why these two cannot be composed; None where they can."""
    if type(one) is type(other):
        return "it is there twice; give one, with all it should do"
    for role in one.roles:
        if role in other.roles:
            return f"{ROLES[role]}; give one of them"
    return one.refuses(other) or other.refuses(one)
