"""What every training method is: the hooks of the loop that `bitfirst.train` runs."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..bits import Bits
from .plan import Plan

if TYPE_CHECKING:
    from .sign_sgd import SignSGD


class Method:
    """Ordinary training: every hook leaves things as they are. Methods are made by overriding some of them.

    roles  what a method decides; `Compose` refuses two that decide the same
    """

    roles: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Of the kind of method, in states and messages."""
        return type(self).__name__.lower()

    @property
    def parts(self) -> "tuple[Method, ...]":
        """The methods that this one is composed of."""
        return (self,)

    def refuses(self, other: "Method") -> str | None:
        """Why it cannot be composed with `other`, besides their roles; None where it can."""
        return None

    # conversion
    @property
    def signs(self) -> "SignSGD | None":
        """By what weights learn by signs; None: they have ordinary gradients."""
        return None

    @property
    def chooses_parameters(self) -> bool:
        """Whether `param_groups` are other than one group of all."""
        return self.signs is not None

    def widths(self, bits: Bits) -> list[Bits]:
        """All that layers converted with `bits` may have while they train."""
        return [bits]

    def check(self, bits: Bits) -> None:
        """Raises `UsageError` when weights cannot learn by signs in some width that layers may have."""
        for widths in self.widths(bits) if self.signs is not None else ():
            self.signs.check_widths(widths.activation, widths.gradient)

    def prepare(self, net: nn.Module) -> None:
        """`convert` has just converted `net`. Raises `UsageError` when the method is not for such a network."""

    # before the training
    def plan(self, plan: Plan) -> Plan:
        """How long to train, and by which learning rate, where `plan` is how it would be done otherwise."""
        return plan

    # the loop
    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        """For `bitfirst.optim.SGD`; `signs` says whether a group's weights learn by signs."""
        return [{"params": list(net.parameters()), "signs": False}]

    def loader(self, data: Iterable[Any]) -> Iterable[Any]:
        """The batches of one epoch that are to be trained on."""
        return data

    def penalty(self, net: nn.Module) -> torch.Tensor | float:
        """What is added to the loss of the batch that `net` has just been given."""
        return 0.0

    def step(self, loss: torch.Tensor) -> None:
        """The optimiser has made a step; `loss` was its batch's."""

    def epoch_end(self, loss: float | None) -> None:
        """`loss`: mean of the epoch's batches; None where none was trained on."""

    # after it
    #: Whether `result` is another network, which the device makes.
    finishes = False

    def result(self, net: nn.Module, data: Iterable[Any]) -> nn.Module:
        """The network that the training was for; `data`: an epoch's training batches."""
        return net

    def summary(self) -> dict[str, Any]:
        """What came of it, in what JSON holds."""
        return {}

    # checkpoints
    def state_dict(self) -> dict[str, Any]:
        """What the method must know to go on: names, and tensors or what JSON holds."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a `state_dict`. Raises `KeyError` when something is missing."""


def groups_by_signs(net: nn.Module, signed: list[nn.Parameter]) -> list[dict[str, Any]]:
    """The parameters of `signed`, and all others of `net`."""
    chosen = {id(weight) for weight in signed}
    others = [parameter for parameter in net.parameters() if id(parameter) not in chosen]
    groups: list[dict[str, Any]] = [{"params": signed, "signs": True}]
    return [*groups, {"params": others, "signs": False}] if others else groups
