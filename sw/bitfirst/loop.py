"""The training loop: any network, data, method and optimiser."""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .errors import Diverged
from .methods import Method

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MEND = "training has diverged; lower the learning rate"


class Hooks:
    """What is done beside the loop: nothing. For learning rates by step, journals and progress."""

    def before(self, x: torch.Tensor, y: torch.Tensor) -> None:
        """A step begins with this batch."""

    def after_backward(self) -> None:
        """Gradients are there, the weights as before."""

    def after(self, scores: torch.Tensor, y: torch.Tensor, loss: float) -> None:
        """The step is done; `scores` is what the network said."""


def train(
    net: nn.Module,
    data: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    method: Method | None = None,
    loss: Loss = functional.cross_entropy,
    epochs: int = 1,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> list[float | None]:
    """Trains `net` on `data`, `epochs` times through; the mean loss of each epoch, None where no batch was trained on.

    It does what this does, bit for bit:

        for _ in range(epochs):
            net.train()
            for x, y in method.loader(data):
                error = loss(net(x), y) + method.penalty(net)
                error.backward(); optimizer.step(); optimizer.zero_grad(); method.step(error)
            method.epoch_end(mean)  # of the errors
            scheduler.step()

    data       batches (x, y): a list, a `DataLoader`, anything that can be gone through again
    optimizer  over `method.param_groups(net)`
    method     that `net` was converted with; None: ordinary training

    Raises `Diverged`, naming the layer, when the loss is not finite, or what an epoch leaves.
    """
    method = method or Method()
    means = []
    for _ in range(epochs):
        means.append(epoch(net, data, optimizer, method, loss))
        if scheduler is not None:
            scheduler.step()
    return means


def epoch(
    net: nn.Module,
    data: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    method: Method,
    loss: Loss,
    hooks: Hooks = Hooks(),
) -> float | None:
    """Once through `data`; the mean loss, None where no batch was trained on."""
    net.train()
    losses = []
    for x, y in method.loader(data):
        hooks.before(x, y)
        scores = net(x)
        error = loss(scores, y) + method.penalty(net)
        losses.append(error.item())
        if not math.isfinite(losses[-1]):
            raise Diverged(diverged(net))
        error.backward()
        hooks.after_backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step(error)
        hooks.after(scores, y, losses[-1])
    left = not_finite([*net.named_parameters(), *net.named_buffers()])
    if left is not None:  # by the last step, of which no loss tells
        raise Diverged(f"{left} is not finite after the epoch's last step: {MEND}")
    mean = sum(losses) / len(losses) if losses else None
    method.epoch_end(mean)
    return mean


def diverged(net: nn.Module) -> str:
    """One line that names the first parameter or statistic that is not finite."""
    name = not_finite(net.state_dict().items())
    if name is not None:
        return f"the loss is not finite, nor is {name}: {MEND}"
    *_, last = (name for name, module in net.named_modules() if not list(module.children()))
    return f"the loss is not finite after layer {last}: {MEND}"


def not_finite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The first name whose tensor holds NaN or infinity."""
    return next((name for name, tensor in tensors if not tensor.isfinite().all()), None)
