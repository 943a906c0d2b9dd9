"""Stochastic gradient descent whose updates by signs are those of the device, bit by bit."""

from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

import torch

from .errors import UsageError
from .golden import update

MASTER, BUFFER = "master", "momentum_buffer"  #: names in the state


class SGD(torch.optim.Optimizer):
    """SGD with momentum, for parameter groups as `method.param_groups(net)` gives them.

    Groups with `signs` True are updated in integers (`golden.update`): 32-bit masters, of which the parameter is the
    upper 24 bits, 16-bit momentum. The gradient counts by its sign alone: of several backward passes' signs, or
    several workers', the majority decides. `weight_decay` times `lr` is what a weight loses in a step, besides
    the momentum. A parameter that someone else has changed, by loading a checkpoint for example, gets a new master.

    All other groups are updated as by `torch.optim.SGD`, and so is `weight_decay` meant there: a part of the gradient.
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

    @staticmethod
    def _check(group: dict[str, Any]) -> None:
        for name in "lr", "weight_decay":
            if not 0 <= group[name] < float("inf"):
                raise UsageError(f"{name} = {group[name]}: choose a finite number, 0 or more")
        update.coefficient_of(group["momentum"])
        if group["signs"]:
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
            move = self._by_signs if group["signs"] else self._by_gradient
            for parameter in group["params"]:
                if parameter.grad is not None:
                    move(parameter, group)
        return loss

    def _by_signs(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if MASTER not in state or not torch.equal(update.visible(state[MASTER]), parameter):
            state[MASTER] = update.masters(parameter)
            state.setdefault(BUFFER, torch.zeros_like(state[MASTER], dtype=torch.int16))
        state[MASTER], state[BUFFER] = update.update(
            state[MASTER],
            state[BUFFER],
            parameter.grad.sign(),
            update.step_rate(group["lr"]),
            update.decay_rate(group["lr"], group["weight_decay"]),
            update.coefficient_of(group["momentum"]),
        )
        parameter.copy_(update.visible(state[MASTER]))

    def _by_gradient(self, parameter: torch.Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if BUFFER in state:
            state[BUFFER].mul_(group["momentum"]).add_(gradient)
        else:
            state[BUFFER] = gradient.clone()
        parameter.add_(state[BUFFER], alpha=-group["lr"])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As in PyTorch, but integers stay integers."""
        super().load_state_dict(state_dict)
        numbers = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        parameters = chain.from_iterable(group["params"] for group in self.param_groups)
        for number, parameter in zip(numbers, parameters, strict=True):
            saved = state_dict["state"].get(number, {})
            for name in (MASTER, BUFFER) if MASTER in saved else ():
                self.state[parameter][name] = saved[name].to(parameter.device, copy=True)
