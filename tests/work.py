"""What a training step must cost, from shapes, widths and masks alone. Nothing of Bitfirst is used here."""

from dataclasses import dataclass
from itertools import groupby, pairwise, product
from math import ceil


@dataclass(frozen=True)
class Array:
    """rows and columns of elements, lanes of an element, bits of a slice"""

    rows: int = 2
    columns: int = 4
    lanes: int = 16
    slice_bits: int = 4

    def steps(self, rows: int, columns: int, depth: int, a_bits: int, b_bits: int) -> int:
        """Cycles of a product of rows x depth numbers of a bits and depth x columns numbers of b bits."""
        tiles = ceil(rows / self.rows) * ceil(columns / self.columns) * ceil(depth / self.lanes)
        return tiles * ceil(a_bits / self.slice_bits) * b_bits


@dataclass(frozen=True)
class Convolution:
    """Square images of `size` pixels a side, square kernels; `first`: its input's gradient is not wanted."""

    inputs: int
    outputs: int
    size: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    first: bool = False

    @property
    def macs(self) -> int:
        """Of one image, without the padding's."""
        output = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        inside = sum(
            0 <= place * self.stride + tap - self.padding < self.size
            for place in range(output)
            for tap in range(self.kernel)
        )
        return self.inputs * self.outputs * inside**2

    @property
    def places(self) -> list[list[int]]:
        """Of each tap of the kernel, at how many places of one image it meets a pixel."""
        output = (self.size + 2 * self.padding - self.kernel) // self.stride + 1
        along = [
            sum(0 <= place * self.stride + tap - self.padding < self.size for place in range(output))
            for tap in range(self.kernel)
        ]
        return [[down * right for right in along] for down in along]


@dataclass(frozen=True)
class Linear:
    inputs: int
    outputs: int
    first: bool = False

    @property
    def macs(self) -> int:
        return self.inputs * self.outputs

    def array_steps(self, samples: int, bits: tuple[int, int, int], array: Array) -> int:
        """Of forward, dX and dW; dW lies as it takes fewer steps."""
        x, w, g = bits
        weight = array.steps(self.inputs, self.outputs, samples, x, g)
        turned = array.steps(self.outputs, self.inputs, samples, g, x)
        total = array.steps(self.outputs, samples, self.inputs, w, x) + min(weight, turned)
        return total if self.first else total + array.steps(self.inputs, samples, self.outputs, w, g)


@dataclass(frozen=True)
class Gates:
    """Of blocks whose inputs have so many channels: layers from these to `sizes`, an LSTM cell along the depth, whose
    numbers are as many as the last layer's, and a layer of `outputs`."""

    channels: tuple[int, ...]
    sizes: tuple[int, ...]
    outputs: int

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of each product, but of what the cell remembers."""
        width = self.sizes[-1]
        own = [[one, *self.sizes] for one in self.channels]
        layers = [(size, behind) for sizes in own for size, behind in pairwise(sizes)]
        return layers + len(self.channels) * [(width, 4 * width), (width, self.outputs)]

    @property
    def remembering(self) -> list[tuple[int, int]]:
        return len(self.channels) * [(self.sizes[-1], 4 * self.sizes[-1])]

    def macs(self, trained: int, evaluated: int = 0) -> int:
        """Of so many samples: forward, dX and dW, and forward alone. What the cell begins with has no dX."""
        forward = sum(rows * columns for rows, columns in self.shapes + self.remembering)
        first = 4 * self.sizes[-1] ** 2
        return trained * (3 * forward - first) + evaluated * forward


def forward_bit_macs(layer: Convolution | Linear, samples: int, bits: tuple[int, int, int]) -> int:
    x, w, _ = bits
    return layer.macs * samples * x * w


def bit_macs(layer: Convolution | Linear, samples: int, bits: tuple[int, int, int]) -> int:
    """Of forward, dX and dW; `bits`: of x, w and the output's gradient."""
    x, w, g = bits
    error = 0 if layer.first else w * g
    return layer.macs * samples * (x * w + error + x * g)


# what a product's steps can be: how it is cut at the border is the planner's, nothing else is
Piece = tuple[int, int]  #: along one axis: places, and taps that they have
BORDERS = (False, False), (True, False), (True, True)  #: whether it is cut, along both axes


def _runs(seen: list) -> list[tuple[object, int]]:
    """(what, how often in a row)"""
    return [(value, len(list(group))) for value, group in groupby(seen)]


def _pieces(seen: list[tuple[int, int]], taps: int, cut: bool) -> list[Piece]:
    """`seen`: the taps (first, behind) that a place has; with `cut` those alike and in a row are a piece, else all are
    one, zeros of the border included."""
    alike = [(count, behind - first) for (first, behind), count in _runs(seen) if first < behind]
    return alike if cut else [(sum(count for count, _ in alike), taps)]


@dataclass(frozen=True)
class Axis:
    """One axis of a convolution."""

    layer: Convolution

    @property
    def outputs(self) -> int:
        layer = self.layer
        return (layer.size + 2 * layer.padding - layer.kernel) // layer.stride + 1

    def _inside(self, place: int, tap: int) -> bool:
        return 0 <= place * self.layer.stride + tap - self.layer.padding < self.layer.size

    def forward(self, cut: bool) -> list[Piece]:
        taps = range(self.layer.kernel)
        seen = [[tap for tap in taps if self._inside(place, tap)] for place in range(self.outputs)]
        return _pieces([(min(own), max(own) + 1) for own in seen], self.layer.kernel, cut)

    def input_gradient(self, cut: bool) -> list[Piece]:
        """Pixels that meet the same taps of a stride are convolved by themselves."""
        layer, pieces = self.layer, []
        for first in range(min(layer.stride, layer.kernel)):
            taps = range(first, layer.kernel, layer.stride)
            pixels = [pixel for pixel in range(layer.size) if (pixel + layer.padding - first) % layer.stride == 0]
            places = [[(pixel + layer.padding - tap) // layer.stride for tap in reversed(taps)] for pixel in pixels]
            there = [[number for number, place in enumerate(own) if 0 <= place < self.outputs] for own in places]
            seen = [(min(own), max(own) + 1) if own else (0, 0) for own in there]
            pieces += _pieces(seen, len(taps), cut)
        return pieces

    def weight_gradient(self, cut: bool) -> list[Piece]:
        taps = range(self.layer.kernel)
        if not cut:
            return [(self.outputs, len(taps))]
        meets = [[place for place in range(self.outputs) if self._inside(place, tap)] for tap in taps]
        return [(len(places), count) for places, count in _runs(meets)]


def possible_steps(
    layer: "Convolution | Linear", phase: str, samples: int, bits: tuple[int, int, int], array: Array
) -> set[int]:
    """Steps of the array that a product can take, by how it is cut at the border, and for dW by how it lies.

    `bits`: of x, w and the output's gradient. For so few samples that a tensor of them is not cut.
    """
    x, w, g = bits
    if isinstance(layer, Linear):
        layer = Convolution(layer.inputs, layer.outputs, 1, kernel=1, padding=0, first=layer.first)
    found = set()
    for down, right in BORDERS:
        axis = getattr(Axis(layer), phase)
        pieces = [
            (samples * places * others, taps * more)
            for (places, taps), (others, more) in product(axis(down), axis(right))
        ]
        if phase == "weight_gradient":
            depths = [(layer.inputs * taps, places) for places, taps in pieces]
            found.add(sum(array.steps(rows, layer.outputs, depth, x, g) for rows, depth in depths))
            found.add(sum(array.steps(layer.outputs, rows, depth, g, x) for rows, depth in depths))
        else:
            rows, channels, other = (
                (layer.outputs, layer.inputs, x) if phase == "forward" else (layer.inputs, layer.outputs, g)
            )
            found.add(sum(array.steps(rows, places, channels * taps, w, other) for places, taps in pieces))
    return found


@dataclass(frozen=True)
class Split:
    """Widths of x and of the output's gradient, and how many of their first bits predict: those of preset `e2train`."""

    x: int = 8
    g: int = 16
    first_x: int = 4
    first_g: int = 10

    @property
    def whole(self) -> int:
        """1 x 1 bit products of one multiplication."""
        return self.x * self.g

    @property
    def first(self) -> int:
        return self.first_x * self.first_g


def sign_bit_macs(layer: Convolution, samples: int, resolved: list, split: Split = Split()) -> int:
    """Of dW's signs. `resolved`: by output, input, row and column of the kernel, whether the first bits decided."""
    return samples * sum(
        places * (split.first if decided else split.whole)
        for inputs in resolved
        for kernel in inputs
        for decisions, line in zip(kernel, layer.places, strict=True)
        for decided, places in zip(decisions, line, strict=True)
    )


def sign_element_steps(layer: Convolution, samples: int, resolved: list, array: Array, split: Split = Split()) -> int:
    """Steps of single elements that multiply, in two walks: of all sums by the first bits, then of those that are not
    resolved by the others. For kernels of 1 x 1 on images that fill the lanes, and channels that fill the tiles."""
    slices = [ceil(bits / array.slice_bits) for bits in (split.x, split.first_x)]
    whole, first = slices[0] * split.g, slices[1] * split.first_g
    chunks = samples * layer.size**2 // array.lanes
    left = sum(not decided for inputs in resolved for kernel in inputs for line in kernel for decided in line)
    return chunks * (layer.inputs * layer.outputs * first + left * (whole - first))


#: of `tests.method_runs.perceptron`
PERCEPTRON = (Linear(64, 12, first=True), Linear(12, 10))

#: of `models.digits_resnet`, layer by layer; blocks by themselves
STEM = Convolution(1, 8, 8, first=True)
FIRST_BLOCK = (Convolution(8, 8, 8), Convolution(8, 8, 8))
SECOND_BLOCK = (Convolution(8, 16, 8, stride=2), Convolution(16, 16, 4))
SHORTCUT = Convolution(8, 16, 8, kernel=1, stride=2, padding=0)
CLASSIFIER = Linear(16, 10)
DIGITS = (STEM, *FIRST_BLOCK, *SECOND_BLOCK, SHORTCUT, CLASSIFIER)
#: the same by name; all but the last have a `Conv2d`
BY_NAME = {
    "conv": STEM,
    "blocks.0.conv1": FIRST_BLOCK[0],
    "blocks.0.conv2": FIRST_BLOCK[1],
    "blocks.1.conv1": SECOND_BLOCK[0],
    "blocks.1.conv2": SECOND_BLOCK[1],
    "blocks.1.shortcut.0": SHORTCUT,
    "linear": CLASSIFIER,
}
