"""Stochastic gradient descent whose updates by signs are those of the device, bit by bit."""

import weakref
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary

from .errors import UsageError
from .golden import update
from .masters import BUFFER, MASTER, Kept, kept_weights


class SGD(torch.optim.Optimizer):
    """SGD with momentum, for parameter groups as `method.param_groups(net)` gives them.

    Groups with `signs` True are updated in integers (`golden.update`): 32-bit masters, of which the parameter is the
    upper 24 bits, 16-bit momentum. The gradient counts by its sign alone: of several backward passes' signs, or
    several workers', the majority decides. `weight_decay` times `lr` is what a weight loses in a step, besides
    the momentum. A parameter that someone else has changed, by loading a checkpoint for example, gets a new master.

    All other groups are updated as by `torch.optim.SGD`, and so is `weight_decay` meant there: a part of the gradient.
    Where the method says update="device" the device has masters and momenta, and moves them; the parameter lags
    behind until the network's or this optimiser's `state_dict` is asked for, and so the weights are the same.

    Parameters whose gradient is None do not move, nor does their momentum.

    Schedulers may set `lr` of the groups between steps. Raises `UsageError` for rates that the integers cannot hold.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "signs": False})
        for group in self.param_groups:
            self._check(group)
            for parameter in group["params"]:
                _movers[parameter] = weakref.ref(self)

    @staticmethod
    def _check(group: dict[str, Any]) -> None:
        for name in "lr", "weight_decay":
            if not 0 <= group[name] < float("inf"):
                raise UsageError(f"{name} = {group[name]}: choose a finite number, 0 or more")
        if not 0 <= group["momentum"] < 1:
            raise UsageError(f"momentum = {group['momentum']}: choose 0 or more, below 1")
        if group["signs"]:
            update.coefficient_of(group["momentum"])
            update.step_rate(group["lr"])
            update.decay_rate(group["lr"], group["weight_decay"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step; returns what `closure` returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group)
        return loss

    @torch.no_grad()
    def coast(self) -> None:
        """A step as by gradients of 0, of all parameters that have moved: weight decay and momentum act."""
        for group in self.param_groups:
            for parameter in group["params"]:
                kept: Kept | None = kept_weights.get(parameter)
                if self.state.get(parameter) or (kept is not None and kept.has_moved):
                    self._move(parameter, torch.zeros_like(parameter), group)

    def _move(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        (self._by_signs if group["signs"] else self._by_gradient)(parameter, gradient, group)

    def _by_signs(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        rates = (
            update.step_rate(group["lr"]),
            update.decay_rate(group["lr"], group["weight_decay"]),
            update.coefficient_of(group["momentum"]),
        )
        kept: Kept | None = kept_weights.get(parameter)
        if kept is not None:
            self._put_loaded(parameter, kept)
            kept.update(gradient.sign(), *rates)
            return
        state = self.state[parameter]
        if MASTER not in state or not torch.equal(update.visible(state[MASTER]), parameter):
            state[MASTER] = update.masters(parameter)
            state.setdefault(BUFFER, torch.zeros_like(state[MASTER], dtype=torch.int16))
        state[MASTER], state[BUFFER] = update.update(
            state[MASTER],
            state[BUFFER],
            gradient.sign(),
            *rates,
        )
        parameter.copy_(update.visible(state[MASTER]))

    def _put_loaded(self, parameter: torch.Tensor, kept: Kept) -> None:
        """What a checkpoint brought, into the device."""
        loaded = self.state.pop(parameter, {})
        if BUFFER in loaded:
            kept.put(loaded.get(MASTER), loaded[BUFFER])

    def _by_gradient(self, parameter: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if BUFFER in state:
            state[BUFFER].mul_(group["momentum"]).add_(gradient)
        else:
            state[BUFFER] = gradient.clone()
        parameter.add_(state[BUFFER], alpha=-group["lr"])

    def state_of(self, parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        """Momentum and, of weights that learn by signs, masters: read back where a device has them."""
        kept: Kept | None = kept_weights.get(parameter)
        return self.state[parameter] if kept is None or parameter in self.state else kept.state()

    def state_dict(self) -> dict[str, Any]:
        """As in PyTorch, with what devices keep."""
        saved = super().state_dict()
        for parameter, number in self._numbered(saved["param_groups"]):
            if parameter in kept_weights and (state := self.state_of(parameter)):
                saved["state"][number] = state
        return saved

    def _numbered(self, groups: list[dict[str, Any]]) -> Iterator[tuple[torch.Tensor, int]]:
        """Each parameter with its number in these saved groups."""
        numbers = chain.from_iterable(group["params"] for group in groups)
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        return zip(parameters, numbers, strict=True)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in PyTorch, but integers stay integers."""
        super().load_state_dict(state_dict)
        for parameter, number in self._numbered(state_dict["param_groups"]):
            saved = state_dict["state"].get(number, {})
            for name in (MASTER, BUFFER) if MASTER in saved else ():
                self.state[parameter][name] = saved[name].to(parameter.device, copy=True)


_movers: Any = WeakTensorKeyDictionary()  # parameter -> weak reference to the `SGD` made last that moves it


def coast(parameters: Iterable[torch.Tensor]) -> None:
    """`SGD.coast` of all optimisers that move some of these. Raises `UsageError` when there is none."""
    movers = {reference() for reference in map(_movers.get, parameters) if reference is not None} - {None}
    if not movers:
        raise UsageError("nothing moves these weights: make a bitfirst.optim.SGD of method.param_groups(net)")
    for mover in movers:
        mover.coast()
