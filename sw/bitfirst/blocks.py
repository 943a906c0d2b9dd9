"""Residual blocks, and computing them for some samples of a batch alone."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .errors import UsageError
from .host_work import left_out


class Residual(nn.Module, ABC):
    """join(residual(x), shortcut(x)): what methods can skip for some samples, which then are shortcut(x).

    Subclasses have a submodule `shortcut` (an empty `nn.Sequential` is x itself), whose output has the shape of
    `residual`'s. `dispatch`, where a method has set it, computes the block: an object with `block(number, block, x)`,
    and the number, in a tuple so that the object is no submodule.
    """

    shortcut: nn.Module
    dispatch: tuple[Any, ...] = ()

    @abstractmethod
    def residual(self, x: torch.Tensor) -> torch.Tensor:
        """What may be skipped."""

    def join(self, residual: torch.Tensor, shortcut: torch.Tensor) -> torch.Tensor:
        return functional.relu(residual + shortcut)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.dispatch:
            check_not_again(f"a block ({type(self).__name__})")
            gates, number = self.dispatch
            return gates.block(number, self, x)
        return self.join(self.residual(x), self.shortcut(x))


def check_not_again(what: str) -> None:
    """Raises `UsageError` in a backward pass: there activation checkpointing computes a forward pass again, and what
    is chosen in it would be another choice than that which was made."""
    if torch._C._current_graph_task_id() != -1:  # as torch.utils.checkpoint tells it, too
        raise UsageError(
            f"{what} is computed again in the backward pass, and its method would choose anew: leave activation "
            "checkpointing, and forward passes from hooks of gradients, out of blocks that a method may skip or give "
            "widths of their own"
        )


def converted_layers(block: Residual) -> list[nn.Module]:
    """Layers of the block that a device computes, but for its shortcut's."""
    others = {id(layer) for layer in block.shortcut.modules()}
    return [layer for layer in block.modules() if hasattr(layer, "connection") and id(layer) not in others]


def residual_blocks(net: nn.Module) -> dict[str, Residual]:
    """By name, in their order."""
    return {name: block for name, block in net.named_modules() if isinstance(block, Residual)}


def separate_blocks(net: nn.Module) -> list[Residual]:
    """In their order, for methods that choose for each. Raises `UsageError` where one is within another."""
    blocks = residual_blocks(net)
    for name, block in blocks.items():
        if len(residual_blocks(block)) > 1:
            raise UsageError(f"block {name} has others within it, and only one of them could be chosen: take one apart")
    return list(blocks.values())


class Skip(Residual):
    """`body` with a shortcut around it, so that a plain network can skip it too.

    `shortcut`: what takes its place where it changes the shape, such as a 1 x 1 convolution; None: x itself.
    """

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Sequential() if shortcut is None else shortcut

    def residual(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def for_some(
    block: Residual, x: torch.Tensor, shortcut: torch.Tensor, chosen: torch.Tensor, least: int
) -> torch.Tensor:
    """The block's output where `chosen` (bool [n]), elsewhere `shortcut`, which is that of all samples.

    Only chosen samples are given to `residual`, in forward and backward pass; where there are none it is not called,
    and its parameters get no gradient. In training batch norm takes the statistics of the chosen samples, its momentum
    in proportion to their share; of fewer than `least` it takes the running ones, and leaves them as they are.
    """
    places = chosen.nonzero().squeeze(1)
    if len(places) == 0:
        return shortcut
    with norms_for(block, len(places) / len(x), len(places) >= least):
        if len(places) == len(x):
            return block.join(block.residual(x), shortcut)
        some = block.join(block.residual(x[places]), shortcut[places])
    return shortcut.index_copy(0, places, some)


@contextmanager
def norms_for(block: Residual, share: float, enough: bool) -> Iterator[None]:
    """Batch norm, but for the shortcut's, that sees this share of the samples; not `enough`: running statistics."""
    others = {id(module) for module in block.shortcut.modules()}
    norms = [one for one in block.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]
    norms = [one for one in norms if id(one) not in others and one.training]
    momenta = [one.momentum for one in norms]
    for norm in norms:
        norm.training = enough
        if norm.momentum is not None:  # None is a plain mean over batches, as `update_bn` wants it
            norm.momentum *= share
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = True, momentum


def first_layer(block: Residual) -> nn.Module:
    """The first convolution or linear layer of the block. Raises `UsageError` when there is none."""
    for layer in block.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            return layer
    raise UsageError(f"{type(block).__name__} has no convolution or linear layer to skip")


def channels_of(block: Residual) -> int:
    """Of the block's input."""
    layer = first_layer(block)
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def macs_of_output(layer: nn.Module, y: torch.Tensor) -> int:
    """Multiply-accumulates of a convolution or linear layer for its output `y`, zeros of the padding included."""
    return layer.weight.numel() * y.numel() // layer.weight.shape[0]


@left_out()  # nothing of a training is computed
def macs_of(block: Residual, shape: torch.Size) -> int:
    """Multiply-accumulates of `residual` for one sample [c, h, w], [t, c] or [c], zeros of the padding included."""
    from .nn import in_float  # which needs the methods

    plain = in_float(block).to("meta").eval()
    counted = []

    def count(layer: nn.Module, _: object, output: torch.Tensor) -> None:
        counted.append(macs_of_output(layer, output))

    for layer in plain.modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            layer.register_forward_hook(count)
    with torch.no_grad():
        plain.residual(torch.empty(1, *shape, device="meta"))
    return sum(counted)
