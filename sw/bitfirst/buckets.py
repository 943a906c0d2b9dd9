"""Products of a batch whose samples have different widths: one for each width, put together again."""

from dataclasses import dataclass
from typing import Any

import torch
from bitfirst_hdl.contract.packets import Phase
from torch.autograd.function import once_differentiable

from .bits import Bits
from .connection import compute
from .quantised import Quantised
from .quantiser import exponent_of, quantise, quantise_at, to_float


@dataclass(frozen=True)
class Bucket:
    """Places in the batch, int64 [n], of samples of these widths."""

    places: torch.Tensor
    bits: Bits


class Buckets:
    """Which samples have which widths; a layer's `buckets` while it computes such a batch.

    Scales are shared by the batch: a width of b bits has a step 2**(B - b) times that of the largest width B, the
    smallest such steps at which nothing is clipped. So the integer sums of dW, of one bucket each, are put together
    exactly, by shifts; they are rounded to float32, or become signs, after that.
    """

    def __init__(self, buckets: list[Bucket]) -> None:
        self.buckets = buckets

    def product(self, layer: Any, x: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> torch.Tensor:
        """y, without the bias."""
        return _Product.apply(x, layer.weight, layer, self.buckets, (stride, padding))


def scaled(
    tensor: torch.Tensor, buckets: list[Bucket], widths: list[int], signed: bool | None, name: str
) -> list[Quantised]:
    """`tensor` [n, ...] bucket by bucket, in these widths, with steps that are related by powers of two."""
    whole = quantise(tensor, max(widths), signed, name)  # refuses what is not finite; says whether it is signed
    largest, most = tensor.detach().abs().max().item(), max(widths)
    exponent = max(exponent_of(largest, width, whole.signed) - (most - width) for width in widths)
    return [
        quantise_at(tensor.detach()[bucket.places], width, whole.signed, exponent + most - width)
        for bucket, width in zip(buckets, widths, strict=True)
    ]


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, w: torch.Tensor, layer: Any, buckets: list[Bucket], window: tuple) -> Any:
        name = f"layer {layer.fqn}"
        xs = scaled(x, buckets, [bucket.bits.activation for bucket in buckets], None, f"{name}: input")
        wq = quantise(w, layer.bits.weight, signed=True, name=f"{name}: weight")
        operation, more = ("conv2d", window) if w.ndim == 4 else ("linear", ())
        parts = [_compute(layer, Phase.FORWARD, operation, xq, wq, *more, real=True) for xq in xs]
        ctx.xs, ctx.wq, ctx.layer, ctx.buckets, ctx.window = xs, wq, layer, buckets, window
        ctx.shape, ctx.weight_shape = x.shape, tuple(w.shape)
        return together(parts, buckets, len(x))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        widths = [bucket.bits.gradient for bucket in ctx.buckets]
        gs = scaled(g, ctx.buckets, widths, True, f"layer {ctx.layer.fqn}: output gradient")
        dx = _input_gradient(ctx, gs) if ctx.needs_input_grad[0] else None
        dw = _weight_gradient(ctx, gs) if ctx.needs_input_grad[1] else None
        return dx, dw, None, None, None


def _compute(layer: Any, phase: Phase, operation: str, *arguments: Any, **more: Any) -> torch.Tensor:
    return compute(layer.connection.number, layer.fqn, phase, operation, *arguments, **more)


def _input_gradient(ctx: Any, gs: list[Quantised]) -> torch.Tensor:
    parts = []
    for gq, bucket in zip(gs, ctx.buckets, strict=True):
        shape = (len(bucket.places), *ctx.shape[1:])
        operation, more = (
            ("conv2d_input_gradient", (shape, *ctx.window))
            if len(ctx.weight_shape) == 4
            else ("linear_input_gradient", ())
        )
        parts.append(_compute(ctx.layer, Phase.INPUT_GRADIENT, operation, gq, ctx.wq, *more, real=True))
    return together(parts, ctx.buckets, ctx.shape[0])


def _weight_gradient(ctx: Any, gs: list[Quantised]) -> torch.Tensor:
    operation, more = (
        ("conv2d_weight_gradient", (ctx.weight_shape, *ctx.window))
        if len(ctx.weight_shape) == 4
        else ("linear_weight_gradient", ())
    )
    sums = [
        (_compute(ctx.layer, Phase.WEIGHT_GRADIENT, operation, gq, xq, *more), gq.exponent + xq.exponent)
        for gq, xq in zip(gs, ctx.xs, strict=True)
    ]
    total, exponent = shifted(sums)
    return total.sign().to(torch.float32) if ctx.layer.signer is not None else to_float(total, exponent)


def shifted(sums: list[tuple[torch.Tensor, int]]) -> tuple[torch.Tensor, int]:
    """The sum of integers * 2**exponent, exactly: int64 below 2**63, and its exponent."""
    exponent = min(own for _, own in sums)
    return sum(integers.to(torch.int64) << (own - exponent) for integers, own in sums), exponent


def together(parts: list[torch.Tensor], buckets: list[Bucket], count: int) -> torch.Tensor:
    """The results of all buckets, [count, ...]."""
    whole = parts[0].new_empty(count, *parts[0].shape[1:])
    for part, bucket in zip(parts, buckets, strict=True):
        whole[bucket.places] = part
    return whole
