"""Products that the host computes in floating point: those of gates, and where a baseline wants them so. No device sees
or counts them.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .blocks import macs_of_output


class HostMacs:
    """What was computed; shared by copies of the modules that compute it.

    macs  multiply-accumulates so far: forward, dX and dW, zeros of the padding included
    """

    name: str  #: of the term of energy, without "_macs"

    def __init__(self) -> None:
        self.macs = 0

    def __deepcopy__(self, memo: dict[int, object]) -> "HostMacs":
        return self

    def count(self, y: torch.Tensor, forward: int, backward: int) -> None:
        """MACs of `y`, which was just computed, and those of its gradients, when it gets one."""
        self._count(forward)
        if y.requires_grad:
            y.register_hook(lambda _: self._count(backward))

    def _count(self, macs: int) -> None:
        self.macs += macs


class GateMacs(HostMacs):
    """Of gates, in float32."""

    name = "gate"


class HostProducts(HostMacs):
    """Products of layers in float32, as of the layers before `convert`."""

    name = "fp32"

    def product(self, layer: nn.Module, x: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> Any:
        """y, without the bias."""
        x, w = self.operand(x), self.operand(layer.weight)
        y = functional.conv2d(x, w, None, stride, padding) if w.ndim == 4 else functional.linear(x, w)
        macs = macs_of_output(layer, y)
        self.count(y, macs, (x.requires_grad + w.requires_grad) * macs)
        return self.result(y)

    def operand(self, tensor: torch.Tensor) -> torch.Tensor:
        """x or w as it is multiplied."""
        return tensor

    def result(self, y: torch.Tensor) -> torch.Tensor:
        """The sums as they are handed on."""
        return y


class HalfProducts(HostProducts):
    """Products of float16 numbers, summed in float32 and rounded to float16: forward, dX and dW, as of tensor cores.

    Output gradients are multiplied by `scale` before they become float16, and dX and dW divided by it again: that is
    a scale of the loss, kept to the products, so that a penalty or a layer in float32 knows nothing of it.

    overflowed  whether a gradient has left float16 since this was set to False; `parameters` then have no gradients
                when the backward pass is done, so that the optimiser moves nothing
    """

    name = "fp16"

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.overflowed = False
        self.parameters: list[nn.Parameter] = []

    def operand(self, tensor: torch.Tensor) -> torch.Tensor:
        return _Operand.apply(tensor, self)

    def result(self, y: torch.Tensor) -> torch.Tensor:
        return _Result.apply(y, self)

    def drop_overflowed(self, finite: bool) -> None:
        """In a backward pass: whether a gradient was finite."""
        self.overflowed |= not finite
        if self.overflowed:  # at the end of this backward pass: the way in which DistributedDataParallel waits for it
            torch.autograd.Variable._execution_engine.queue_callback(self._drop)

    def _drop(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class _Operand(torch.autograd.Function):
    """Rounded to float16; its gradient too, and the scale taken off."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor, products: HalfProducts) -> torch.Tensor:
        ctx.products = products
        return tensor.half().float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        half = gradient.half()
        ctx.products.drop_overflowed(bool(half.isfinite().all()))
        return half.float() / ctx.products.scale, None


class _Result(torch.autograd.Function):
    """Rounded to float16; its gradient too, with the scale."""

    @staticmethod
    def forward(ctx: Any, y: torch.Tensor, products: HalfProducts) -> torch.Tensor:
        ctx.products = products
        return y.half().float()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return (gradient * ctx.products.scale).half().float(), None
