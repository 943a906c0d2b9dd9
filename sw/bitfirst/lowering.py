"""Convolutions as matrix products: forward, dX and dW, without zeros between strided pixels.

| operation | rows M (operand A)         | columns N (operand B)    | depth K                |
| --------- | -------------------------- | ------------------------ | ---------------------- |
| forward   | output channels (w)        | batch x output pixels (x) | input channels x taps  |
| dX        | input channels (w)         | batch x input pixels (g)  | output channels x taps |
| dW        | input channels x taps (x)  | output channels (g)       | batch x output pixels  |

A product is `result[m, n] = sum over k of A[m, k] * B[n, k]`. dX with stride (s, t) is s * t products, one for
each residue of the input pixel, each over the taps that reach it. A linear layer is a 1 x 1 convolution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from bitfirst_hdl.contract.packets import Phase

from .plan import Shape
from .quantised import Quantised

Pair = tuple[int, int]


@dataclass(frozen=True)
class Axis:
    """`count` windows of `taps` pixels along one image axis; window i covers start + i * step + (0 .. taps - 1)."""

    start: int
    count: int
    step: int
    taps: int

    def uses(self, size: int) -> np.ndarray:
        """int64 [size]: in how many windows each pixel of the image lies."""
        pixels = self.start + np.arange(self.count)[:, None] * self.step + np.arange(self.taps)
        inside = pixels[(pixels >= 0) & (pixels < size)]
        return np.bincount(inside, minlength=size).astype(np.int64)


@dataclass(frozen=True)
class Windows:
    """Sliding windows over an image [n, c, h, w] as a matrix; zeros where a window leaves the image."""

    image: Quantised
    vertical: Axis
    horizontal: Axis

    def view(self) -> np.ndarray:
        """[n, c, rows, columns, taps, taps], strided, over the padded integers of the image."""
        image = self.image.integers
        for axis, windows in (2, self.vertical), (3, self.horizontal):
            image = _crop(image, axis, windows)
        n, c, h, w = image.strides
        down, right = self.vertical, self.horizontal
        return np.lib.stride_tricks.as_strided(
            image,
            (*image.shape[:2], down.count, right.count, down.taps, right.taps),
            (n, c, h * down.step, w * right.step, h, w),
            writeable=False,
        )

    def pixels_by_taps(self) -> np.ndarray:
        """[n * rows * columns, c * taps * taps]"""
        view = self.view().transpose(0, 2, 3, 1, 4, 5)
        return view.reshape(int(np.prod(view.shape[:3])), -1)

    def taps_by_pixels(self) -> np.ndarray:
        """[c * taps * taps, n * rows * columns]"""
        view = self.view().transpose(1, 4, 5, 0, 2, 3)
        return view.reshape(int(np.prod(view.shape[:3])), -1)

    def ones(self) -> int:
        """One bits in the matrix, as two's complement of the image's width."""
        down, right = (axis.uses(size) for axis, size in zip(self._axes, self.image.values.shape[2:], strict=True))
        ones = self.image.ones.sum(axis=(0, 1), dtype=np.int64)
        return int(down @ ones @ right)

    @property
    def _axes(self) -> tuple[Axis, Axis]:
        return self.vertical, self.horizontal


def _crop(image: np.ndarray, axis: int, windows: Axis) -> np.ndarray:
    """The pixels start .. last of `windows` along `axis`, zeros where there are none."""
    size = image.shape[axis]
    stop = windows.start + (windows.count - 1) * windows.step + windows.taps
    first, last = max(windows.start, 0), min(stop, size)
    if first >= last:
        shape = list(image.shape)
        shape[axis] = stop - windows.start
        return np.zeros(shape, dtype=image.dtype)
    index = [slice(None)] * image.ndim
    index[axis] = slice(first, last)
    margins = [(0, 0)] * image.ndim
    margins[axis] = (first - windows.start, stop - last)
    return np.pad(image[tuple(index)], margins) if any(margins[axis]) else image[tuple(index)]


@dataclass(frozen=True)
class MatrixProduct:
    """One product of an operation: its shape, how to make its operands, and where its result belongs.

    `a()` is an integer array [rows, depth], `b()` [columns, depth]; `b_ones()` counts the one bits of B in two's
    complement; `store(result, out)` puts the integers [rows, columns] into the operation's result.
    """

    shape: Shape
    a: Callable[[], np.ndarray]
    b: Callable[[], np.ndarray]
    b_ones: Callable[[], int]
    store: Callable[[np.ndarray, np.ndarray], None]


def _shape(rows: int, columns: int, depth: int, a: Quantised, b: Quantised) -> Shape:
    return Shape(rows, columns, depth, a.bits, b.bits, a.signed, b.signed)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution: `input_shape` [n, c, h, w], `weight_shape` [o, c, kh, kw]."""

    input_shape: tuple[int, int, int, int]
    weight_shape: tuple[int, int, int, int]
    stride: Pair
    padding: Pair

    @classmethod
    def of(cls, input_shape: object, weight_shape: object, stride: int | Pair, padding: int | Pair) -> "Geometry":
        """Checks that the shapes fit; raises ValueError when they do not."""
        x, w = tuple(int(size) for size in input_shape), tuple(int(size) for size in weight_shape)
        if len(x) != 4 or len(w) != 4 or x[1] != w[1]:
            raise ValueError(f"a convolution takes [n, c, h, w] and [o, c, kh, kw], not {list(x)} and {list(w)}")
        geometry = cls(x, w, _pair(stride), _pair(padding))
        if min(geometry.stride) < 1 or min(geometry.padding) < 0:
            raise ValueError(f"stride {geometry.stride} must be positive and padding {geometry.padding} not negative")
        if min(geometry.output_size) < 1:
            raise ValueError(f"a {w[2]} x {w[3]} kernel does not fit into {x[2]} x {x[3]} pixels: raise the padding")
        return geometry

    @property
    def output_size(self) -> Pair:
        down, right = (
            (size + 2 * padding - taps) // stride + 1
            for size, taps, stride, padding in zip(
                self.input_shape[2:], self.weight_shape[2:], self.stride, self.padding, strict=True
            )
        )
        return down, right

    @property
    def output_shape(self) -> tuple[int, int, int, int]:
        return (self.input_shape[0], self.weight_shape[0], *self.output_size)

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The windows of the input that the forward pass takes."""
        down, right = (
            Axis(-padding, count, stride, taps)
            for padding, count, stride, taps in zip(
                self.padding, self.output_size, self.stride, self.weight_shape[2:], strict=True
            )
        )
        return down, right

    @cached_property
    def useful_macs(self) -> int:
        """Multiplications of a weight with a real pixel: the same in forward, dX and dW."""
        down, right = (int(axis.uses(size).sum()) for axis, size in zip(self.axes, self.input_shape[2:], strict=True))
        return self.input_shape[0] * self.input_shape[1] * self.weight_shape[0] * down * right


class Operation:
    """One operation of a layer. `products` in the order of execution; `empty` is the result's shape, all zero."""

    phase: Phase
    geometry: Geometry
    products: tuple[MatrixProduct, ...]
    bits: Pair
    result_shape: tuple[int, ...]

    @property
    def bit_macs(self) -> int:
        """Useful bit multiply-accumulates: no padding, no inserted zeros, at the requested widths."""
        return self.geometry.useful_macs * self.bits[0] * self.bits[1]

    def assemble(self, results: list[np.ndarray]) -> torch.Tensor:
        """The operation's result, int64, from those of its products ([rows, columns] each)."""
        out = np.zeros(self.result_shape, dtype=np.int64)
        for product, result in zip(self.products, results, strict=True):
            product.store(result, out)
        return torch.from_numpy(out)


class Forward(Operation):
    """y = conv2d(x, w)"""

    phase = Phase.FORWARD

    def __init__(self, x: Quantised, w: Quantised, geometry: Geometry) -> None:
        self.x, self.w, self.geometry = x, w, geometry
        self.bits = w.bits, x.bits
        self.result_shape = geometry.output_shape
        n, outputs, height, width = geometry.output_shape
        windows = Windows(x, *geometry.axes)
        shape = (outputs, n, height, width)
        self.products = (
            MatrixProduct(
                shape=_shape(outputs, n * height * width, int(np.prod(geometry.weight_shape[1:])), w, x),
                a=lambda: w.integers.reshape(outputs, -1),
                b=windows.pixels_by_taps,
                b_ones=windows.ones,
                store=lambda result, out: np.copyto(out, result.reshape(shape).swapaxes(0, 1)),
            ),
        )


class InputGradient(Operation):
    """dX from g = dL/dy: one product per residue of the input pixel modulo the stride."""

    phase = Phase.INPUT_GRADIENT

    def __init__(self, g: Quantised, w: Quantised, geometry: Geometry) -> None:
        self.g, self.w, self.geometry = g, w, geometry
        self.bits = w.bits, g.bits
        self.result_shape = geometry.input_shape
        residues = [
            [_residue(residue, *sizes) for residue in range(min(sizes[0], sizes[3]))]
            for sizes in zip(
                geometry.stride, geometry.padding, geometry.input_shape[2:], geometry.weight_shape[2:], strict=True
            )
        ]
        self.products = tuple(
            self._product(down, right) for down in residues[0] for right in residues[1] if down.count and right.count
        )

    def _product(self, down: "Residue", right: "Residue") -> MatrixProduct:
        g, w = self.g, self.w
        batch, inputs = self.geometry.input_shape[:2]
        windows = Windows(g, down.axis, right.axis)
        shape = (inputs, batch, down.count, right.count)
        pixels = (slice(None), slice(None), down.pixels, right.pixels)
        depth = self.geometry.weight_shape[0] * down.axis.taps * right.axis.taps

        def a() -> np.ndarray:
            return w.integers[:, :, down.taps, right.taps].swapaxes(0, 1).reshape(inputs, depth)

        def store(result: np.ndarray, out: np.ndarray) -> None:
            out[pixels] = result.reshape(shape).swapaxes(0, 1)

        return MatrixProduct(
            shape=_shape(inputs, batch * down.count * right.count, depth, w, g),
            a=a,
            b=windows.pixels_by_taps,
            b_ones=windows.ones,
            store=store,
        )


@dataclass(frozen=True)
class Residue:
    """The input pixels of one residue along one axis: which, by which taps, from which windows of the gradient."""

    count: int
    pixels: slice
    taps: slice
    axis: Axis


def _residue(residue: int, stride: int, padding: int, size: int, taps: int) -> Residue:
    """Pixels i with (i + padding) % stride == residue.

    Tap residue + stride * t of pixel i meets output (i + padding) // stride - t: with the taps reversed, the outputs of
    one pixel are a window that runs upwards.
    """
    first = (residue - padding) % stride
    count = len(range(first, size, stride))
    reach = len(range(residue, taps, stride))
    last_tap = residue + stride * (reach - 1)
    start = (first + padding) // stride - (reach - 1)
    return Residue(count, slice(first, None, stride), slice(last_tap, None, -stride), Axis(start, count, 1, reach))


class WeightGradient(Operation):
    """dW from g = dL/dy and x."""

    phase = Phase.WEIGHT_GRADIENT

    def __init__(self, g: Quantised, x: Quantised, geometry: Geometry) -> None:
        self.g, self.x, self.geometry = g, x, geometry
        self.bits = x.bits, g.bits
        self.result_shape = geometry.weight_shape
        outputs, *taps = geometry.weight_shape
        self.products = (
            MatrixProduct(
                shape=_shape(int(np.prod(taps)), outputs, g.values.numel() // outputs, x, g),
                a=Windows(x, *geometry.axes).taps_by_pixels,
                b=lambda: g.integers.swapaxes(0, 1).reshape(outputs, -1),
                b_ones=lambda: int(g.ones.sum(dtype=np.int64)),
                store=lambda result, out: np.copyto(out, result.T.reshape(geometry.weight_shape)),
            ),
        )
