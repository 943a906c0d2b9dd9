"""Convolutions as matrix products over stored tensors: forward, dX and dW, without zeros between strided pixels.

A product is `result[m, n] = sum over k of A[m, k] * B[n, k]`; A goes in slices, B in planes. Tensors are stored once,
NHWC ([n, h, w, c], weights [o, kh, kw, c]); `Gather` says how LOAD finds an operand in its tensor.

| operation | rows M (operand A)      | columns N (operand B)  | depth K                   |
| --------- | ----------------------- | ---------------------- | ------------------------- |
| forward   | o: w along              | (n, y, x): x along     | (kh, kw, c)               |
| dX        | c: w across, n fastest  | (n, y, x): g along     | (kh, kw, o), taps reversed |
| dW        | (kh, kw, c): x across   | o: g across            | (n, y, x)                 |

dW may change its sides. dX with stride (s, t) is s * t products, one for each residue of the input pixel, each over
the taps that reach it. All may be split further by image border: in forward and dX pixels whose windows are clipped
alike are a product over the real taps alone, in dW taps that meet the same output pixels are a product over these
alone. A linear layer is a 1 x 1 convolution on [n, 1, 1, c].

What does not fit the store or a descriptor is cut: batches into chunks of images, each a tensor of its own; operations
with a single image, or weights, too large into boxes of channels and output pixels, whose results are added.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby, pairwise, product
from math import inf, isqrt, prod, sqrt

import numpy as np
import torch
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, Phase
from torch.nn import functional

from .errors import UsageError
from .quantised import Quantised

Pair = tuple[int, int]
Range = tuple[int, int]  #: first, behind the last
Shape4 = tuple[int, int, int, int]
Between = Iterator[tuple[float, float]]  #: a number lies between these, ever closer; at last both are the number

MAX_IMAGE = 65535  #: elements of an image, and of a row of it; rows of a tensor: what a descriptor can say
MAX_STEP = 127  #: pixels between positions
MAX_PADDING = 2**15
MAX_LINES = 256  #: image rows in one position
SHARES = (1 / 8, 1 / 2)  #: where a tensor that would fit as a whole is cut: the first part is computed with soon
UNIT = 4  #: images: the pixels of one corner, and what dW sums over, then fill columns and lanes better
LEAST_CHUNK_WORDS = 64
RAW_BITS = 64
ROOT_ERROR = 2.0**-40  #: no less than that of a root of float64 numbers


def tensor_words(elements: int, bits: int) -> int:
    """Store words of a tensor."""
    return -(-elements // GROUP) * octets_of(bits)


def octets_of(bits: int) -> int:
    return -(-bits // OCTET_BITS)


# geometry
@dataclass(frozen=True)
class Axis:
    """`count` windows of `taps` pixels along one image axis; window i covers start + i * step + (0 .. taps - 1)."""

    start: int
    count: int
    step: int
    taps: int

    def uses(self, size: int) -> np.ndarray:
        """int64 [size]: in how many windows each pixel of the image lies."""
        return _uses(self, size)

    def trimmed(self, size: int) -> tuple["Axis", int]:
        """Without the windows that see no pixel of an image of `size` (none may be left); how many of these go first.

        LOAD refuses positions behind the image, and what such windows see is zero.
        """
        first = max(0, -(self.start + self.taps) // self.step + 1)
        behind = min(self.count, -((self.start - size) // self.step))
        return Axis(self.start + first * self.step, max(0, behind - first), self.step, self.taps), first


@lru_cache(maxsize=4096)
def _uses(axis: Axis, size: int) -> np.ndarray:
    pixels = axis.start + np.arange(axis.count)[:, None] * axis.step + np.arange(axis.taps)
    inside = pixels[(pixels >= 0) & (pixels < size)]
    return np.bincount(inside, minlength=size).astype(np.int64)


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (int(value[0]), int(value[1]))


@dataclass(frozen=True)
class Geometry:
    """Sizes of one convolution: `input_shape` [n, c, h, w], `weight_shape` [o, c, kh, kw]."""

    input_shape: Shape4
    weight_shape: Shape4
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
        if min(*x, *w) < 1:
            raise ValueError(f"a convolution of {list(x)} by {list(w)} has nothing to compute: no size may be 0")
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
    def output_shape(self) -> Shape4:
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


# tensors and how operands lie in them
@dataclass(frozen=True)
class Cut:
    """The part of operand `role` ("x", "w" or "g") that is one tensor of the store: ranges of its [n, c, h, w]."""

    role: str
    n: Range
    c: Range
    rows: Range
    cols: Range

    @cached_property
    def shape(self) -> Shape4:
        """[n, h, w, c]"""
        n, h, w, c = (stop - start for start, stop in (self.n, self.rows, self.cols, self.c))
        return n, h, w, c

    @cached_property
    def name(self) -> bytes:
        """Equal for equal ranges, of whatever role."""
        return repr((self.n, self.c, self.rows, self.cols)).encode()

    def of(self, values: np.ndarray) -> np.ndarray:
        """The part of `values` [n, c, h, w], contiguous."""
        return np.ascontiguousarray(values[tuple(slice(*part) for part in (self.n, self.c, self.rows, self.cols))])


@dataclass(frozen=True)
class Gather:
    """An operand matrix [vectors, lanes] in a tensor [n, h, w, c], as LOAD takes it (see `packets.Load`).

    Positions are the windows' first pixels, of `images` images from `first_image` on; taps are `down.taps` lines of
    `run` elements. `down.taps` and `right.taps` describe a position; `right.taps` only says which pixels `run` covers.
    """

    shape: Shape4
    down: Axis
    right: Axis
    run: int
    first_image: int
    images: int
    across: bool = False
    n_fast: bool = False

    @cached_property
    def positions(self) -> int:
        return self.images * self.down.count * self.right.count

    @cached_property
    def taps(self) -> int:
        return self.down.taps * self.run

    @property
    def vectors(self) -> int:
        return self.taps if self.across else self.positions

    @property
    def lanes(self) -> int:
        return self.positions if self.across else self.taps

    def fields(self, vector: int, vectors: int, lane: int, lanes: int) -> dict[str, int]:
        """LOAD's fields for the vectors and lanes from `vector` and `lane` on."""
        place, places, tap, taps = (lane, lanes, vector, vectors) if self.across else (vector, vectors, lane, lanes)
        down, right = self.down, self.right
        if self.n_fast:
            pixel, image = divmod(place, self.images)
        else:
            image, pixel = divmod(place, down.count * right.count)
        y, x = divmod(pixel, right.count)
        line, start = divmod(tap, self.run)
        return {
            "across": int(self.across),
            "n_fast": int(self.n_fast),
            "y_start": down.start & 0xFFFF,
            "x_start": right.start & 0xFFFF,
            "y_step": (down.step if down.count > 1 else 0) & 0xFF,
            "x_step": (right.step if right.count > 1 else 0) & 0xFF,
            "y_count": down.count,
            "x_count": right.count,
            "n_first": self.first_image + image,
            "y_first": y,
            "x_first": x,
            "positions": places,
            "line_first": line,
            "place_first": start,
            "run": self.run,
            "taps": taps,
        }


@dataclass(frozen=True)
class Width:
    """Which operand, and its integers; `low`: bits of the low part where they are split, else 0."""

    role: str
    bits: int
    signed: bool
    low: int = 0

    @property
    def octets(self) -> int:
        return octets_of(self.bits)

    def negative_planes(self, planes: int) -> int:
        """Bit p: plane p (0 = most significant) of so many counts negative: the top one of a signed part."""
        return int(self.signed) | (1 << (planes - self.low) if self.low else 0)

    def signed_slices(self, slices: int, slice_bits: int) -> int:
        """Bit s: slice s (0 = most significant) of so many is signed: the top one of a signed part, which ends so."""
        low = self.low // slice_bits
        return int(self.signed) | (1 << (slices - low) if low else 0)

    def sliceable(self, slice_bits: int) -> bool:
        """Whether the split lies between slices."""
        return self.low % slice_bits == 0


@dataclass(frozen=True)
class Segment:
    """Part of K: of which tensors, and where in them."""

    a: Cut
    a_gather: Gather
    b: Cut
    b_gather: Gather

    @property
    def depth(self) -> int:
        return self.a_gather.lanes


@dataclass(frozen=True)
class Placement:
    """Where a result [rows, columns] belongs: out[index] += result.reshape(shape).transpose(axes)."""

    index: tuple[slice, ...]
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    def add(self, result: np.ndarray, out: np.ndarray) -> None:
        out[self.index] += result.reshape(self.shape).transpose(self.axes)

    def take(self, out: np.ndarray) -> np.ndarray:
        """The numbers of `out` that `add` adds a result to, in the order of [rows, columns], flat."""
        return out[self.index].transpose(np.argsort(self.axes)).reshape(-1)


@dataclass(frozen=True)
class MatrixProduct:
    """One product: A [rows, K] and B [columns, K], K in segments that add up; `a` and `b` say which operands."""

    a: Width
    b: Width
    segments: tuple[Segment, ...]
    placement: Placement

    @property
    def rows(self) -> int:
        return self.segments[0].a_gather.vectors

    @property
    def columns(self) -> int:
        return self.segments[0].b_gather.vectors


# boxes
@dataclass(frozen=True)
class Band:
    """Output pixels `windows` along one axis; they look at the input pixels `pixels` by `axis`, counted from these."""

    windows: Range
    pixels: Range
    axis: Axis


@dataclass(frozen=True)
class Box:
    """A part of a convolution: output channels, input channels, output rows and columns."""

    outputs: Range
    inputs: Range
    down: Band
    right: Band

    def cut(self, role: str, images: Range) -> Cut:
        if role == "w":
            down, right = ((0, band.axis.taps) for band in (self.down, self.right))
            return Cut("w", self.outputs, self.inputs, down, right)
        if role == "x":
            return Cut("x", images, self.inputs, self.down.pixels, self.right.pixels)
        return Cut("g", images, self.outputs, self.down.windows, self.right.windows)


def _length(part: Range) -> int:
    return part[1] - part[0]


def _pieces(total: int, count: int) -> list[Range]:
    size = -(-total // count)
    return [(start, min(start + size, total)) for start in range(0, total, size)]


def _band(axis: Axis, size: int, windows: Range) -> Band:
    if windows == (0, axis.count):
        return Band(windows, (0, size), axis)
    start = axis.start + windows[0] * axis.step
    stop = axis.start + (windows[1] - 1) * axis.step + axis.taps
    first, last = min(max(start, 0), size), max(min(stop, size), 0)
    return Band(windows, (first, max(first, last)), Axis(start - first, _length(windows), axis.step, axis.taps))


_DIMENSIONS = {"w": ("outputs", "inputs"), "x": ("down", "inputs", "right"), "g": ("down", "outputs", "right")}


def boxes(config: ArrayConfig, geometry: Geometry, widths: tuple[Width, ...]) -> list[Box]:
    """The fewest boxes (mostly one) in which weights and single images of these operands fit store and descriptors.

    Raises `UsageError` when not even the smallest fits.
    """
    totals = {
        "outputs": geometry.weight_shape[0],
        "inputs": geometry.weight_shape[1],
        "down": geometry.output_size[0],
        "right": geometry.output_size[1],
    }
    counts = dict.fromkeys(totals, 1)
    while True:
        candidates = list(_cut_boxes(geometry, totals, counts))
        problem = next(((width, why) for width in widths if (why := _misfit(config, width, candidates))), None)
        if problem is None:
            return candidates
        width, why = problem
        sizes = {name: -(-totals[name] // counts[name]) for name in _DIMENSIONS[width.role]}
        if max(sizes.values()) == 1:
            raise UsageError(why)
        name = max(sizes, key=sizes.get) if width.role == "w" else next(name for name in sizes if sizes[name] > 1)
        counts[name] = -(-totals[name] // (sizes[name] // 2))


def _cut_boxes(geometry: Geometry, totals: dict[str, int], counts: dict[str, int]) -> Iterator[Box]:
    parts = {name: _pieces(totals[name], counts[name]) for name in totals}
    down, right = (
        [band for windows in parts[name] if _length((band := _band(axis, size, windows)).pixels)]
        for name, axis, size in zip(("down", "right"), geometry.axes, geometry.input_shape[2:], strict=True)
    )
    for outputs, inputs, upper, left in product(parts["outputs"], parts["inputs"], down, right):
        yield Box(outputs, inputs, upper, left)


def _misfit(config: ArrayConfig, width: Width, candidates: list[Box]) -> str | None:
    """Why the operand's smallest tensor of some box does not fit; None when it does."""
    share = config.store_words // (2 if width.role == "w" else 4)
    for n, h, w, c in {box.cut(width.role, (0, 1)).shape for box in candidates}:
        if tensor_words(n * h * w * c, width.bits) > share:
            return (
                f"{n} x {h} x {w} x {c} numbers of {width.bits} bits do not fit their share ({share} words of 16 "
                "numbers) of the device's tensor store: raise store_words in the configuration"
            )
        if h * w * c > MAX_IMAGE or n * h > MAX_IMAGE:
            return (
                f"a window of {h} x {w} x {c} numbers is more than the {MAX_IMAGE} that a tensor can have: use a "
                "smaller kernel"
            )
    return None


def check_window(geometry: Geometry) -> None:
    """Raises `UsageError` when LOAD has no fields wide enough for the convolution's windows."""
    taps = geometry.weight_shape[2]
    if taps > MAX_LINES:
        raise UsageError(f"a kernel of {taps} rows is more than the {MAX_LINES} that the device takes: use fewer")
    for axis in geometry.axes:
        if axis.count > 1 and axis.step > MAX_STEP:
            raise UsageError(
                f"a stride of {axis.step} is more than the {MAX_STEP} pixels that the device takes: use a smaller "
                "stride"
            )
        if axis.start < -MAX_PADDING:
            raise UsageError(
                f"a padding of {-axis.start} is more than the {MAX_PADDING} pixels that the device takes: use less"
            )


def chunks(config: ArrayConfig, images: int, cut: Cut, bits: int) -> list[Range]:
    """The images of each tensor of a batch, a function of tensor and device alone: so forward and dW have the same."""
    _, h, w, c = cut.shape
    each = -(-h * w * c * octets_of(bits) // GROUP)
    at_once = max(1, min(config.store_words // 4 // each, MAX_IMAGE // h))
    least = -(-LEAST_CHUNK_WORDS // each)
    ends = [end for share in SHARES if least <= (end := round(images * share / UNIT) * UNIT) <= images - least]
    cuts = list(pairwise((0, *dict.fromkeys(ends), images)))
    if max(last - first for first, last in cuts) <= at_once:
        return cuts
    return _pieces(images, -(-images // at_once))


# strips: what one axis of forward or dX is made of
@dataclass(frozen=True)
class Strip:
    """Windows of one axis: `axis` in the image of B, the kernel's taps from `tap` in steps, the result's pixels."""

    axis: Axis
    tap: int
    tap_step: int
    pixels: slice


def _strips(axis: Axis, size: int, tap: int, tap_step: int, pixels: slice, split: bool) -> list[Strip]:
    """One strip, or with `split` one for each stretch of windows that the image's border clips alike.

    Windows that see no pixel are left out: the result is zero there.
    """
    if not split:
        part, first = axis.trimmed(size)
        if not part.count:
            return []
        return [Strip(part, tap, tap_step, _stretch(pixels, first, first + part.count))]
    strips, first = [], 0
    clips = [_clip(axis, size, index) for index in range(axis.count)]
    for index, clip in enumerate(clips):
        if index + 1 < axis.count and clips[index + 1] == clip:
            continue
        low, high = clip
        if low < high:
            part = Axis(axis.start + first * axis.step + low, index + 1 - first, axis.step, high - low)
            strips.append(Strip(part, tap + low * tap_step, tap_step, _stretch(pixels, first, index + 1)))
        first = index + 1
    return strips


def _stretch(pixels: slice, first: int, behind: int) -> slice:
    """Of evenly spaced pixels those from number `first` to before `behind`."""
    return slice(pixels.start + first * pixels.step, pixels.start + (behind - 1) * pixels.step + 1, pixels.step)


def _clip(axis: Axis, size: int, index: int) -> Range:
    """The taps of a window that lie in the image."""
    start = axis.start + index * axis.step
    return min(max(0, -start), axis.taps), max(0, min(axis.taps, size - start))


def _residue(residue: int, axis: Axis, size: int, windows: int, split: bool) -> list[Strip]:
    """The input pixels i of `size` with (i - axis.start) % step == residue, in the gradient's `windows` pixels.

    Tap residue + step * t of pixel i meets output (i - start) // step - t: with the taps reversed, the outputs of one
    pixel are a window that runs upwards.
    """
    first = (residue + axis.start) % axis.step
    count = len(range(first, size, axis.step))
    if not count:
        return []
    reach = len(range(residue, axis.taps, axis.step))
    gradient = Axis((first - axis.start) // axis.step - (reach - 1), count, 1, reach)
    pixels = slice(first, first + (count - 1) * axis.step + 1, axis.step)
    return _strips(gradient, windows, residue + axis.step * (reach - 1), -axis.step, pixels, split)


def _residues(axis: Axis, size: int, windows: int, split: bool) -> list[Strip]:
    """Strips of all input pixels that a gradient of `windows` pixels reaches."""
    count = min(axis.step, axis.taps)
    return [strip for residue in range(count) for strip in _residue(residue, axis, size, windows, split)]


@lru_cache(maxsize=4096)
def residues(geometry: Geometry) -> tuple[list[Strip], list[Strip]]:
    """What dX is made of, down and right: each pair of strips is a convolution of g with stride 1."""
    down, right = (
        _residues(axis, size, axis.count, split=False)
        for axis, size in zip(geometry.axes, geometry.input_shape[2:], strict=True)
    )
    return down, right


# tap groups: what one axis of dW is made of
@dataclass(frozen=True)
class TapGroup:
    """Some taps of one axis, the windows of x that hold these alone, and the gradient's pixels that they meet."""

    taps: slice
    windows: Axis
    pixels: Axis


def _tap_groups(axis: Axis, size: int, split: bool) -> list[TapGroup]:
    """One group, or with `split` one for each stretch of taps that the image's border lets meet the same windows.

    Windows that see no pixel, and taps that meet none, are left out: the result is zero there.
    """
    if not split:
        windows, first = axis.trimmed(size)
        return [TapGroup(slice(0, axis.taps), windows, Axis(first, windows.count, 1, 1))] if windows.count else []
    groups = []
    meets = [_meets(axis, size, tap) for tap in range(axis.taps)]
    for (first, behind), taps in groupby(range(axis.taps), key=meets.__getitem__):
        if first < behind:
            tap, count = (taps := list(taps))[0], behind - first
            windows = Axis(axis.start + first * axis.step + tap, count, axis.step, len(taps))
            groups.append(TapGroup(slice(tap, tap + len(taps)), windows, Axis(first, count, 1, 1)))
    return groups


def _meets(axis: Axis, size: int, tap: int) -> Range:
    """The windows whose tap `tap` lies in the image."""
    first = max(0, -(-(-axis.start - tap) // axis.step))
    return first, max(first, min(axis.count, (size - 1 - axis.start - tap) // axis.step + 1))


@dataclass(frozen=True)
class Variant:
    """What the planner may choose: parts by border, down and right; for dW: sides changed, segments added in place."""

    borders: tuple[bool, bool] = (False, False)
    swapped: bool = False
    chained: bool = False


@dataclass(frozen=True)
class Task:
    """An operation without its data: all that planning needs.

    sum_bits  width in which sums are read; 0: they are not, as where only the array's work is measured
    fresh     roles of the operands that are most likely not in the store yet
    """

    phase: Phase
    geometry: Geometry
    a: Width
    b: Width
    sum_bits: int
    fresh: str

    @cached_property
    def variants(self) -> tuple[Variant, ...]:
        geometry = self.geometry
        splits = (False, True) if any(geometry.padding) or max(geometry.stride) > 1 else (False,)
        down, right = (axis for axis in geometry.axes)
        square = down == right and geometry.input_shape[2] == geometry.input_shape[3]
        borders = [borders for borders in product(splits, splits) if not (square and borders == (False, True))]
        if self.phase != Phase.WEIGHT_GRADIENT:
            return tuple(Variant(borders=pair) for pair in borders)
        return tuple(Variant(*chosen) for chosen in product(borders, (False, True), (False, True)))

    def _sides(self, variant: Variant) -> tuple[Width, Width]:
        return (self.b, self.a) if variant.swapped else (self.a, self.b)

    @staticmethod
    def _cut_within(config: ArrayConfig, a: Width, b: Width) -> tuple[int, int] | None:
        """Low bits of an operand, and the digit that they end within; None where all splits lie between digits."""
        digits = (a, config.a_digit_bits), (b, config.b_digit_planes)
        return next(((operand.low, size) for operand, size in digits if not operand.sliceable(size)), None)

    def variants_on(self, config: ArrayConfig) -> tuple[Variant, ...]:
        """Those that cut slices as the operand is split; all, to be refused, if there is none."""
        fitting = [one for one in self.variants if not self._cut_within(config, *self._sides(one))]
        return tuple(fitting) or self.variants

    def products(self, config: ArrayConfig, variant: Variant) -> tuple[MatrixProduct, ...]:
        """In the order of execution.

        Raises `UsageError` where slices cannot be cut as the operand is split.
        """
        check_window(self.geometry)
        if cut := self._cut_within(config, *self._sides(variant)):
            raise UsageError(
                f"numbers split with {cut[0]} low bits cannot be taken in slices of {cut[1]}: choose a multiple of "
                "these"
            )
        build = {
            Phase.FORWARD: self._forward,
            Phase.INPUT_GRADIENT: self._input_gradient,
            Phase.WEIGHT_GRADIENT: self._weight_gradient,
        }[self.phase]
        parts = boxes(config, self.geometry, (self.a, self.b))
        return tuple(made for box in parts for made in build(config, box, variant))

    @property
    def _images(self) -> int:
        return self.geometry.input_shape[0]

    def _forward(self, config: ArrayConfig, box: Box, variant: Variant) -> Iterator[MatrixProduct]:
        bands = box.down, box.right
        downs, rights = (
            _strips(band.axis, _length(band.pixels), 0, 1, slice(0, band.axis.count, 1), split)
            for band, split in zip(bands, variant.borders, strict=True)
        )
        w = box.cut("w", (0, 0))
        outputs, inputs = w.shape[0], w.shape[3]
        for images, (down, right) in product(self._chunks(config, box, self.b), _by_size(downs, rights)):
            a = Gather(w.shape, _point(down), _point(right), right.axis.taps * inputs, 0, outputs)
            rows, cols = (
                _moved(strip.pixels, band.windows[0]) for strip, band in zip((down, right), bands, strict=True)
            )
            yield self._along(w, a, box.cut("x", images), down, right, (slice(*box.outputs), rows, cols))

    def _input_gradient(self, config: ArrayConfig, box: Box, variant: Variant) -> Iterator[MatrixProduct]:
        bands = box.down, box.right
        downs, rights = (
            _residues(band.axis, _length(band.pixels), _length(band.windows), split)
            for band, split in zip(bands, variant.borders, strict=True)
        )
        w = box.cut("w", (0, 0))
        outputs, inputs = w.shape[0], w.shape[3]
        for images, (down, right) in product(self._chunks(config, box, self.b), _by_size(downs, rights)):
            taps = (Axis(strip.tap, strip.axis.taps, strip.tap_step, 1) for strip in (down, right))
            a = Gather(w.shape, *taps, inputs, 0, outputs, across=True, n_fast=True)
            rows, cols = (
                _moved(strip.pixels, band.pixels[0]) for strip, band in zip((down, right), bands, strict=True)
            )
            yield self._along(w, a, box.cut("g", images), down, right, (slice(*box.inputs), rows, cols))

    def _chunks(self, config: ArrayConfig, box: Box, width: Width) -> list[Range]:
        return chunks(config, self._images, box.cut(width.role, (0, self._images)), width.bits)

    def _along(
        self, w: Cut, a: Gather, image: Cut, down: Strip, right: Strip, index: tuple[slice, slice, slice]
    ) -> MatrixProduct:
        """A product whose columns are pixels of a result."""
        images, channels = image.shape[0], image.shape[3]
        b = Gather(image.shape, down.axis, right.axis, right.axis.taps * channels, 0, images)
        return MatrixProduct(
            self.a,
            self.b,
            (Segment(w, a, image, b),),
            Placement((slice(*image.n), *index), (a.vectors, images, down.axis.count, right.axis.count), (1, 0, 2, 3)),
        )

    def _weight_gradient(self, config: ArrayConfig, box: Box, variant: Variant) -> Iterator[MatrixProduct]:
        widths = {width.role: width for width in (self.a, self.b)}
        shares = [
            (box.cut("x", x_images), box.cut("g", g_images), part)
            for (x_images, g_images), part in _overlaps(
                self._chunks(config, box, widths["x"]), self._chunks(config, box, widths["g"])
            )
        ]
        sides = (widths["g"], widths["x"]) if variant.swapped else (widths["x"], widths["g"])
        inputs, outputs = _length(box.inputs), _length(box.outputs)
        downs, rights = (
            _tap_groups(band.axis, _length(band.pixels), split)
            for band, split in zip((box.down, box.right), variant.borders, strict=True)
        )
        for down, right in product(downs, rights):
            segments = []
            for x, g, (first, last) in shares:
                pixels, count = (down.pixels, right.pixels), last - first
                windows, run = (down.windows, right.windows), right.windows.taps * inputs
                seen = Gather(x.shape, *windows, run, first - x.n[0], count, across=True)
                told = Gather(g.shape, *pixels, outputs, first - g.n[0], count, across=True)
                segments.append(Segment(g, told, x, seen) if variant.swapped else Segment(x, seen, g, told))
            index = slice(*box.outputs), slice(*box.inputs), down.taps, right.taps
            taps = down.windows.taps, right.windows.taps, inputs
            placement = (
                Placement(index, (outputs, *taps), (0, 3, 1, 2))
                if variant.swapped
                else Placement(index, (*taps, outputs), (3, 2, 0, 1))
            )
            groups = [tuple(segments)] if variant.chained else [(segment,) for segment in segments]
            for group in groups:
                yield MatrixProduct(*sides, group, placement)


def _by_size(downs: list[Strip], rights: list[Strip]) -> list[tuple[Strip, Strip]]:
    """The small ones first: the array has work soon, and the large one behind them can end in small blocks."""
    return sorted(product(downs, rights), key=lambda pair: pair[0].axis.count * pair[1].axis.count)


def _point(strip: Strip) -> Axis:
    """The one window of a kernel that holds the strip's taps."""
    return Axis(strip.tap, 1, 1, strip.axis.taps)


def _moved(pixels: slice, distance: int) -> slice:
    return slice(pixels.start + distance, pixels.stop + distance, pixels.step)


def _overlaps(left: list[Range], right: list[Range]) -> Iterator[tuple[tuple[Range, Range], Range]]:
    """Pairs of ranges that share something, and what they share."""
    for one, other in product(left, right):
        first, last = max(one[0], other[0]), min(one[1], other[1])
        if first < last:
            yield (one, other), (first, last)


# operations with their data
class Operation(ABC):
    """One operation of a layer: operands, geometry, and the shape of its result.

    `operands`: A and B, as (role, integers); the planner may change the sides of dW. `fresh`: as in `Task`.
    """

    phase: Phase
    fresh: str
    geometry: Geometry
    operands: tuple[tuple[str, Quantised], tuple[str, Quantised]]
    result_shape: tuple[int, ...]
    depth: int  # products in one sum

    @property
    def bits(self) -> Pair:
        return self.operands[0][1].bits, self.operands[1][1].bits

    @property
    def bit_macs(self) -> int:
        """Useful bit multiply-accumulates: no padding, no inserted zeros, at the requested widths."""
        return self.geometry.useful_macs * self.bits[0] * self.bits[1]

    @property
    def largest_sum(self) -> int:
        """The largest magnitude that an element of the result can have, whatever the data."""
        (_, a), (_, b) = self.operands
        return self.depth * numeric.limits(a.bits, a.signed)[1] * numeric.limits(b.bits, b.signed)[1]

    @property
    def sum_bound(self) -> int:
        """No sum of these data, of part of the depth either, is larger in magnitude."""
        return min(self.largest_sum, *(int(deque(bound, maxlen=1)[0][0]) for bound in self._bounds()))

    @cached_property
    def sum_bits(self) -> int:
        """Width in which sums are read: that which holds `sum_bound`."""
        return _least_width(self.largest_sum, self._bounds())

    @abstractmethod
    def _bounds(self) -> Iterator[Between]:
        """Numbers that each are a bound.

        Sum of magnitudes times largest magnitude; product of Euclidean norms (Cauchy-Schwarz).
        """

    @property
    def exponent(self) -> int:
        """The real result is the integers * 2**exponent."""
        (_, a), (_, b) = self.operands
        return a.exponent + b.exponent

    def operand(self, role: str) -> Quantised:
        return dict(self.operands)[role]

    @cached_property
    def task(self) -> Task:
        """Raises as `Quantised.check` does."""
        a, b = (Width(role, operand.bits, operand.signed, operand.low) for role, operand in self.operands)
        return Task(self.phase, self.geometry, a, b, self.sum_bits, self.fresh)

    def empty_result(self) -> np.ndarray:
        return np.zeros(self.result_shape, dtype=np.int64)


def width_of_sums(bound: float) -> int:
    """Width in which sums, integers up to `bound`, are read: a multiple of 4 that holds them, or raw."""
    bits = -(-(int(bound).bit_length() + 1) // 4) * 4 if bound < 2**31 else RAW_BITS
    return max(bits, 4)


class Forward(Operation):
    """y = conv2d(x, w)"""

    phase = Phase.FORWARD
    fresh = "wx"

    def __init__(self, x: Quantised, w: Quantised, geometry: Geometry) -> None:
        self.x, self.w, self.geometry = x, w, geometry
        self.operands = ("w", w), ("x", x)
        self.result_shape = geometry.output_shape
        self.depth = int(np.prod(geometry.weight_shape[1:]))

    def _bounds(self) -> Iterator[Between]:
        w, x = self.w, self.x
        down, right = self.geometry.axes
        yield _norms(_most_in_a_slice(w, 0, 2, x.signed), _most_in_a_window(x, ((down,), (right,))))
        yield _times(_most_in_a_slice(w, 0, 1, x.signed), x.peak)


class InputGradient(Operation):
    """dX from g = dL/dy."""

    phase = Phase.INPUT_GRADIENT
    fresh = "g"

    def __init__(self, g: Quantised, w: Quantised, geometry: Geometry) -> None:
        self.g, self.w, self.geometry = g, w, geometry
        self.operands = ("w", w), ("g", g)
        self.result_shape = geometry.input_shape
        taps = (-(-taps // step) for taps, step in zip(geometry.weight_shape[2:], geometry.stride, strict=True))
        self.depth = geometry.weight_shape[0] * int(np.prod(list(taps)))

    def _bounds(self) -> Iterator[Between]:
        w, g = self.w, self.g
        windows = tuple(tuple(strip.axis for strip in strips) for strips in residues(self.geometry))
        yield _norms(_most_in_a_slice(w, 1, 2, g.signed), _most_in_a_window(g, windows))
        yield _times(_most_in_a_slice(w, 1, 1, g.signed), g.peak)


class WeightGradient(Operation):
    """dW from g = dL/dy and x; `after_dx`: dX of the same g comes right before."""

    phase = Phase.WEIGHT_GRADIENT

    def __init__(self, g: Quantised, x: Quantised, geometry: Geometry, after_dx: bool = False) -> None:
        self.fresh = "" if after_dx else "g"
        self.g, self.x, self.geometry = g, x, geometry
        self.operands = ("x", x), ("g", g)
        self.result_shape = geometry.weight_shape
        self.depth = g.values.numel() // geometry.weight_shape[0]

    def _bounds(self) -> Iterator[Between]:
        x, g = self.x, self.g
        yield _norms(_most_in_a_slice(x, 1, 2, g.signed), _most_in_a_slice(g, 1, 2, True))
        yield _norms(_most_in_a_slice(g, 1, 2, x.signed), _most_in_a_slice(x, 1, 2, True))
        yield _times(_most_in_a_slice(g, 1, 1, x.signed), x.peak)
        yield _times(_most_in_a_slice(x, 1, 1, g.signed), g.peak)


# bounds of sums: numbers between (least, most), ever closer, at last exact
def _least_width(largest: int, bounds: Iterator[Between]) -> int:
    """Width of sums for the least of these numbers; they come no closer than that takes."""
    width = width_of_sums(largest)
    for bound in bounds:
        for least, most in bound:
            width = min(width, width_of_sums(most))
            if width_of_sums(least) >= width:
                break
    return width


def _times(number: Between, factor: int) -> Between:
    for least, most in number:
        yield least * factor, most * factor if factor else 0


def _norms(*squares: Between) -> Between:
    """The root of a product of two, rounded down; the one that is known worse comes closer first."""
    known = [next(square) for square in squares]
    while True:
        least, most = (prod(ends) for ends in zip(*known, strict=True))
        if all(low == high for low, high in known):
            yield isqrt(int(least)), isqrt(int(least))
            return
        yield sqrt(least) * (1 - ROOT_ERROR) - 1, sqrt(most) * (1 + ROOT_ERROR)
        worse = max((0, 1), key=lambda index: _doubt(*known[index]))
        known[worse] = next(squares[worse])


def _doubt(least: float, most: float) -> float:
    """How far apart the ends of a number are; 0 only when it is known."""
    if least == most:
        return 0.0
    return most / least if least else inf


def _most_in_a_slice(operand: Quantised, axis: int, power: int, signed: bool) -> Between:
    """The most that a sum takes from an index of `axis` (0 or 1): a sum of magnitudes or (`power` 2) of squares.

    Positive and negative values both count against numbers that may be `signed`; against others they cancel, and the
    larger sum counts.
    """
    error, both = operand.rough_error, signed or not operand.signed
    share = 1 if both else 2  # of positive and negative ones, the larger are half of all
    if power == 1:  # a square is at most the peak times the magnitude
        energy = float(operand.rough_sums(2).sum(1 - axis).max())
        yield energy * (1 - error) / (share * max(operand.peak, 1)), inf
    total = operand.rough_sums(power).sum(1 - axis)
    largest = float(total.max())
    yield largest * (1 - error) / share, largest * (1 + error)
    if not both:
        positive = operand.rough_sums(power, positive=True).sum(1 - axis)
        most = float(np.maximum(positive, total - positive).max())
        yield most - 3 * error * largest, most + 3 * error * largest
    parts = operand.magnitudes(axis) if power == 1 else operand.energies(axis)
    exact = int((parts.sum(axis=0) if both else parts).max())
    yield exact, exact


def _most_in_a_window(operand: Quantised, axes: tuple[tuple[Axis, ...], tuple[Axis, ...]]) -> Between:
    """The largest sum of squares in a window of these axes, down and right."""
    energies, error = operand.rough_pixel_energies, operand.rough_error
    sums = (_in_windows(_in_windows(energies, down, 1), right, 2).max() for down, right in product(*axes))
    energy = max(map(float, sums), default=0.0)
    yield energy * (1 - error), energy * (1 + error)
    energies = torch.from_numpy(operand.pixel_energies)
    sums = (_in_windows(_in_windows(energies, down, 1), right, 2).max() for down, right in product(*axes))
    exact = max(map(int, sums), default=0)
    yield exact, exact


def _in_windows(values: torch.Tensor, axis: Axis, dim: int) -> torch.Tensor:
    """Sums over the windows of the axis along dimension `dim`, 1 or 2 of [n, h, w]."""
    if (axis.start, axis.step, axis.taps) == (0, 1, 1) and axis.count == values.shape[dim]:
        return values
    last = (axis.count - 1) * axis.step + 1
    margins = -axis.start, axis.start + last - 1 + axis.taps - values.shape[dim]
    padded = functional.pad(values, margins if dim == 2 else (0, 0, *margins))
    total = padded.narrow(dim, 0, last)
    for tap in range(1, axis.taps):
        total = total + padded.narrow(dim, tap, last)
    return total[:, :: axis.step] if dim == 1 else total[:, :, :: axis.step]
