"""Exact integer convolutions on floating-point kernels.

Every partial sum of a product, in whatever order, is at most the sum of |a * b|: an integer that float32 holds
below 2**24 and float64 below 2**53. The functions here use a float32 kernel only under a proof of that bound from the
data: a kernel's sum of magnitudes times the largest value it meets, or the product of Euclidean norms
(Cauchy-Schwarz). Where it fails they cut an operand into halves or the depth into parts and add up what comes of them.

Only kernels that multiply and add are used: NNPACK (Winograd) is switched off, and on a GPU the product is a
float64 matrix product over unfolded windows.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, log2, sqrt

import numpy as np
import torch
from torch.nn import functional

from ..lowering import Axis, Geometry, Range, Strip, residues
from ..quantised import Quantised
from ..quantiser import Halves

EXACT_FLOAT32 = 2**24
WHOLE = 255  #: largest magnitude that is not cut
MOST_LOW_BITS, LEAST_LOW_BITS = 8, 5

Exact = torch.Tensor | Halves
Weighted = tuple[int, torch.Tensor]


@dataclass(frozen=True)
class Pieces:
    """Integers as the sum of weight * piece: `stack` float32 [n, pieces, channels, h, w], none of it above `bound`."""

    operand: Quantised
    stack: torch.Tensor
    weights: tuple[int, ...]
    bound: int

    @property
    def energies(self) -> list[np.ndarray]:
        """Of each piece, float64 [n, channels]: sums of squares over the pixels, rounded up."""
        whole = self.operand.rough_sums(2) * (1 + self.operand.rough_error)
        if len(self.weights) == 1:
            return [whole]
        pixels = self.stack.shape[3] * self.stack.shape[4]
        unit = self.weights[1]  # no piece is further from what it stands for than rounding brings it
        high = (np.sqrt(whole) / unit + sqrt(pixels) / 2) ** 2
        return [np.minimum(whole, pixels * (unit / 2) ** 2), high * (1 + 2.0**-40)]

    def split(self) -> list[Weighted]:
        return [(weight, self.stack[:, index]) for index, weight in enumerate(self.weights)]


def cut(operand: Quantised) -> Pieces:
    """The operand's integers whole, when they are small, or in two pieces."""
    values = operand.values.detach()
    if operand.peak <= WHOLE:
        return uncut(operand)
    bits = _low_bits(operand)
    stack = values.new_empty((values.shape[0], 2, *values.shape[1:]))
    low, high = stack[:, 0], stack[:, 1]
    torch.mul(values, 2.0**-bits, out=high).round_()
    torch.sub(values, high, alpha=2**bits, out=low)
    half = 2 ** (bits - 1)
    return Pieces(operand, stack, (1, 2**bits), max(half, operand.peak + half >> bits))


def uncut(operand: Quantised) -> Pieces:
    """The operand's integers whole, whatever their size."""
    return Pieces(operand, operand.values.detach().unsqueeze(1), (1,), operand.peak)


def integers(result: Exact) -> torch.Tensor:
    """int64"""
    return (result.integers() if isinstance(result, Halves) else result).to(torch.int64)


def sums(operand: Quantised, axes: tuple[int, ...]) -> torch.Tensor:
    """float64, over these axes, one after another, which stay with a size of 1; in float32 as far as it is exact."""
    values, bound = operand.values.detach(), operand.peak
    for axis in axes:
        bound *= values.shape[axis]
        values = values.sum(axis, keepdim=True, dtype=None if bound < EXACT_FLOAT32 else torch.float64)
    return values.to(torch.float64)


def _low_bits(operand: Quantised) -> int:
    """So many that low and high piece are about equally large: then they need the same parts of the batch."""
    mean_square = float(operand.rough_sums(2).sum()) / operand.values.numel()
    return min(max(round(log2(4 * mean_square) / 4), LEAST_LOW_BITS), MOST_LOW_BITS)


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


def _sum(parts: list[Weighted]) -> Exact:
    """Sum of weight * part, the first weight the least."""
    (weight, first), *others = parts
    if weight == 1 and not others:
        return first
    if weight == 1 and len(others) == 1 and first.dtype == torch.float32:
        return Halves(first, others[0][1], others[0][0])
    total = first.to(torch.float64).mul_(weight)
    for weight, part in others:
        total.add_(part, alpha=weight)
    return total


# forward and dX: a kernel moves along an image
def convolution(x: Pieces, w: Pieces, geometry: Geometry) -> Exact:
    """y [n, o, h, w] of x [n, c, ...] and w [o, c, kh, kw]."""
    chunks = _channel_chunks(w, 1, x.bound)
    if not chunks or x.stack.is_cuda:
        return _forward_float64(_whole(x), _whole(w), geometry)

    def convolve(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(images, kernel, None, geometry.stride, geometry.padding)

    return _along(x, [(weight, kernel.split(chunks, 1)) for weight, kernel in w.split()], chunks, convolve)


def input_gradient(g: Pieces, w: Pieces, geometry: Geometry) -> Exact:
    """dX [n, c, h, w] of g [n, o, ...] and w [o, c, kh, kw]."""
    chunks = _channel_chunks(w, 0, g.bound)
    if not chunks or g.stack.is_cuda:
        return _input_gradient_float64(_whole(g), _whole(w), geometry)

    def convolve(images: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
        return _transposed(images, kernel, geometry)

    return _along(g, [(weight, kernel.split(chunks)) for weight, kernel in w.split()], chunks, convolve)


def _whole(pieces: Pieces) -> torch.Tensor:
    """float64"""
    return sum(weight * piece.to(torch.float64) for weight, piece in pieces.split())


def _channel_chunks(kernel: Pieces, axis: int, bound: int) -> list[int]:
    """Sizes of the fewest parts of the kernel's channels (`axis` 0 or 1) in each of which float32 is exact.

    The images' values are at most `bound`. None when a single channel is too much.
    """
    o, _, c, kh, kw = kernel.stack.shape
    channels = c if axis == 1 else o
    if channels * kh * kw * kernel.bound * bound < EXACT_FLOAT32:
        return [channels]
    sums = kernel.stack.abs().sum((3, 4), dtype=torch.float64)  # [o, pieces, c]
    sums = (sums if axis == 1 else sums.transpose(0, 2)).flatten(0, 1).cpu().numpy()
    count = max(1, ceil(sums.sum(1).max() * bound / EXACT_FLOAT32))
    while count <= channels:
        size = ceil(channels / count)
        if np.add.reduceat(sums, range(0, channels, size), axis=1).max() * bound < EXACT_FLOAT32:
            return [min(size, channels - first) for first in range(0, channels, size)]
        count += 1
    return []


def _along(
    images: Pieces,
    kernels: list[tuple[int, tuple[torch.Tensor, ...]]],
    chunks: list[int],
    convolve: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Exact:
    """All pieces of the images with all pieces of the kernel, in chunks of the channels."""
    n, pieces = images.stack.shape[:2]
    parts = []
    for chunk, image in enumerate(images.stack.flatten(0, 1).split(chunks, 1)):
        for weight, kernel in kernels:
            result = convolve(image, kernel[chunk]).unflatten(0, (n, pieces))
            parts += [(weight * own, result[:, index]) for index, own in enumerate(images.weights)]
    return _sum(sorted(parts, key=lambda part: part[0]))


def _transposed(g: torch.Tensor, w: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """dX; where the input pixels that are reached see the same taps, by a convolution with the kernel turned."""
    downs, rights = residues(geometry)
    if len(downs) * len(rights) != 1:
        rest = [
            (size + 2 * padding - taps) % stride
            for size, padding, taps, stride in zip(
                geometry.input_shape[2:], geometry.padding, w.shape[2:], geometry.stride, strict=True
            )
        ]
        return functional.conv_transpose2d(g, w, None, geometry.stride, geometry.padding, rest)
    (down,), (right,) = downs, rights
    pixels = _turned(g, w, down, right)
    if pixels.shape[2:] == geometry.input_shape[2:]:
        return pixels
    out = g.new_zeros((g.shape[0], *geometry.input_shape[1:]))
    out[:, :, down.pixels, right.pixels] = pixels
    return out


def _turned(g: torch.Tensor, w: torch.Tensor, down: Strip, right: Strip) -> torch.Tensor:
    """The input pixels of these strips."""
    (top, down_step), (left, right_step) = (_taps_of(strip) for strip in (down, right))
    kernel = w[:, :, top : down.tap + 1 : down_step, left : right.tap + 1 : right_step].flip((2, 3)).transpose(0, 1)
    margins = [_margins(strip.axis, size) for strip, size in zip((down, right), g.shape[2:], strict=True)]
    if all(before == behind >= 0 for before, behind in margins):
        return functional.conv2d(g, kernel, None, 1, (margins[0][0], margins[1][0]))
    return functional.conv2d(functional.pad(g, (*margins[1], *margins[0])), kernel)


def _taps_of(strip: Strip) -> tuple[int, int]:
    """(first, step) of the kernel's taps, upwards; the strip goes through them downwards."""
    return strip.tap + (strip.axis.taps - 1) * strip.tap_step, -strip.tap_step


def _margins(axis: Axis, size: int) -> Range:
    """Zeros before and behind an image of `size` pixels, so that the windows fill it; fewer than none: cut off."""
    return -axis.start, axis.start + axis.count - 1 + axis.taps - size


# dW
def weight_gradient(g: Pieces, x: Pieces, geometry: Geometry) -> Exact:
    """dW [o, c, kh, kw] of g [n, o, ...] and x [n, c, ...]."""
    at_once = _images_at_once(np.concatenate(g.energies, 1), np.concatenate(x.energies, 1))
    if not at_once or g.stack.is_cuda:
        return _weight_gradient_float64(_whole(g), _whole(x), geometry)
    o, c, kh, kw = geometry.weight_shape
    shape = len(g.weights) * o, len(x.weights) * c, kh, kw
    pairs = zip(*(pieces.stack.flatten(1, 2).split(at_once) for pieces in (g, x)), strict=True)
    sums = [
        torch.nn.grad.conv2d_weight(images, shape, gradients, geometry.stride, geometry.padding)
        for gradients, images in pairs
    ]
    total = sums[0] if len(sums) == 1 else torch.stack(sums).sum(0, dtype=torch.float64)
    blocks = total.reshape(len(g.weights), o, len(x.weights), c, kh, kw)
    return _sum(
        [
            (g_weight * x_weight, blocks[g_piece, :, x_piece])
            for g_piece, g_weight in enumerate(g.weights)
            for x_piece, x_weight in enumerate(x.weights)
        ]
    )


def _images_at_once(*energies: np.ndarray) -> int:
    """Over how many images of the batch float32 is exact, by the energies of g and x; 0 when over not even one."""
    batch, most = len(energies[0]), float(EXACT_FLOAT32) ** 2
    parts = max(1, int(sqrt(np.prod([energy.sum(0).max() for energy in energies]) / most)))
    while parts <= batch:
        size = ceil(batch / parts)
        g_most, x_most = (np.add.reduceat(energy, range(0, batch, size)).max(1) for energy in energies)
        if (g_most * x_most).max() < most:
            return size
        parts += 1
    return 0


# float64
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
