"""Exact integer convolutions on floating-point kernels.

Every partial sum of a product, in whatever order, is at most the sum of |a * b|: an integer that float32 holds
below 2**24 and float64 below 2**53. The functions here use a float32 kernel only under a proof of that bound: the
largest values times the depth, or the product of Euclidean norms (Cauchy-Schwarz). Where it fails they cut an
operand into 8-bit halves or the depth into pieces and add the pieces in float64. A result is float64, or float32 when
none of this was needed.

Only kernels that multiply and add are used: NNPACK (Winograd) is switched off, and on a GPU the product is a
float64 matrix product over unfolded windows.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import torch
from torch.nn import functional

from ..lowering import Geometry

EXACT_FLOAT32 = 2**24
UNIT = 256  #: weight of the high half

Weighted = tuple[int, torch.Tensor]


@dataclass(frozen=True)
class Pieces:
    """Integers `values` (float32) as the sum of weight * piece over `pieces`, no piece above `bound` in magnitude."""

    values: torch.Tensor
    pieces: tuple[Weighted, ...]
    bound: int


def cut(values: torch.Tensor, bound: int) -> Pieces:
    """`values` of magnitude up to `bound` < 2**16 in 8-bit halves, or whole when that is enough."""
    if bound < UNIT:
        return Pieces(values, ((1, values),), bound)
    high = torch.mul(values, 1 / UNIT).round_()
    low = torch.sub(values, high, alpha=UNIT)
    return Pieces(values, ((1, low), (UNIT, high)), max(UNIT // 2, (bound + UNIT // 2) // UNIT))


@contextmanager
def plain_kernels() -> Iterator[None]:
    """float32 convolutions without Winograd and without reduced precision, whatever the user has set."""
    convolutions = torch.backends.mkldnn.conv
    precision = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        with torch.backends.nnpack.flags(enabled=False), torch.no_grad():
            yield
    finally:
        convolutions.fp32_precision = precision


def _recombine(pieces: list[Weighted]) -> torch.Tensor:
    """Sum of weight * tensor: a single piece as it is, else float64."""
    (weight, first), *others = pieces
    if not others and weight == 1:
        return first
    total = first.to(torch.float64)
    if weight != 1:
        total *= weight
    for weight, piece in others:
        total.add_(piece, alpha=weight)
    return total


def _channel_chunks(channels: int, geometry: Geometry, bound: int) -> list[slice]:
    """Fewest slices of the channels over which float32 is exact; none when one channel is too much."""
    taps = geometry.weight_shape[2] * geometry.weight_shape[3]
    most = (EXACT_FLOAT32 - 1) // (taps * max(bound, 1))
    if not most:
        return []
    size = -(-channels // -(-channels // most))
    return [slice(start, start + size) for start in range(0, channels, size)]


def convolution(x: Pieces, w: Pieces, geometry: Geometry) -> torch.Tensor:
    """y [n, o, h, w] of x [n, c, ...] and w [o, c, kh, kw]."""
    chunks = _channel_chunks(geometry.weight_shape[1], geometry, x.bound * w.bound)
    if not chunks or x.values.is_cuda:
        return _forward_float64(x.values, w.values, geometry)
    return _recombine(
        [
            (
                x_weight * w_weight,
                functional.conv2d(image[:, channels], kernel[:, channels], None, geometry.stride, geometry.padding),
            )
            for (x_weight, image), (w_weight, kernel), channels in product(x.pieces, w.pieces, chunks)
        ]
    )


def input_gradient(g: Pieces, w: Pieces, geometry: Geometry) -> torch.Tensor:
    """dX [n, c, h, w] of g [n, o, ...] and w [o, c, kh, kw]."""
    chunks = _channel_chunks(geometry.weight_shape[0], geometry, g.bound * w.bound)
    if not chunks or g.values.is_cuda:
        return _input_gradient_float64(g.values, w.values, geometry)
    return _recombine(
        [
            (
                g_weight * w_weight,
                torch.nn.grad.conv2d_input(
                    geometry.input_shape,
                    kernel[channels],
                    gradient[:, channels],
                    geometry.stride,
                    geometry.padding,
                ),
            )
            for (g_weight, gradient), (w_weight, kernel), channels in product(g.pieces, w.pieces, chunks)
        ]
    )


def weight_gradient(g: Pieces, x: Pieces, geometry: Geometry) -> torch.Tensor:
    """dW [o, c, kh, kw] of g [n, o, ...] and x [n, c, ...]."""
    parts = []
    for (g_weight, gradient), (x_weight, image) in product(g.pieces, x.pieces):
        images = _images_at_once(gradient, image)
        if not images or g.values.is_cuda:
            return _weight_gradient_float64(g.values, x.values, geometry)
        parts += [
            (
                g_weight * x_weight,
                torch.nn.grad.conv2d_weight(
                    image_part, geometry.weight_shape, gradient_part, geometry.stride, geometry.padding
                ),
            )
            for gradient_part, image_part in zip(gradient.split(images), image.split(images), strict=True)
        ]
    return _recombine(parts)


def _images_at_once(g: torch.Tensor, x: torch.Tensor) -> int:
    """Over how many images of the batch float32 is exact, by the norms of the channels; 0 when over not even one."""
    batch = g.shape[0]
    g_energy, x_energy = (_energy(tensor) for tensor in (g, x))
    images = batch
    while images:
        worst = max(
            float(g_part.sum(0).max()) * float(x_part.sum(0).max())
            for g_part, x_part in zip(g_energy.split(images), x_energy.split(images), strict=True)
        )
        if worst < EXACT_FLOAT32**2:
            return images
        images = images // 2
    return 0


def _energy(tensor: torch.Tensor) -> torch.Tensor:
    """float64 [n, channels]: sum of squares, rounded up."""
    images = tensor.flatten(2)
    norms = torch.linalg.vector_norm(images, dim=2).to(torch.float64)
    return norms.square_().mul_(1 + (images.shape[2] + 8) * 2.0**-22)  # each addition errs by 2**-24 at most


def _unfold(x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """float64 [n, c * taps, pixels]"""
    return functional.unfold(
        x.to(torch.float64), geometry.weight_shape[2:], padding=geometry.padding, stride=geometry.stride
    )


def _forward_float64(x: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    return (w.flatten(1).to(torch.float64) @ _unfold(x, geometry)).reshape(geometry.output_shape)


def _input_gradient_float64(g: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    columns = w.flatten(1).to(torch.float64).T @ g.flatten(2).to(torch.float64)
    return functional.fold(
        columns,
        geometry.input_shape[2:],
        geometry.weight_shape[2:],
        padding=geometry.padding,
        stride=geometry.stride,
    )


def _weight_gradient_float64(g: torch.Tensor, x: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    products = g.flatten(2).to(torch.float64) @ _unfold(x, geometry).transpose(1, 2)
    return products.sum(0).reshape(geometry.weight_shape)
