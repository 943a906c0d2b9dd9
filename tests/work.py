"""What a training step must cost, from shapes, widths and masks alone. Nothing of Bitfirst is used here."""

from dataclasses import dataclass
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


def forward_bit_macs(layer: Convolution | Linear, samples: int, bits: tuple[int, int, int]) -> int:
    x, w, _ = bits
    return layer.macs * samples * x * w


def bit_macs(layer: Convolution | Linear, samples: int, bits: tuple[int, int, int]) -> int:
    """Of forward, dX and dW; `bits`: of x, w and the output's gradient."""
    x, w, g = bits
    error = 0 if layer.first else w * g
    return layer.macs * samples * (x * w + error + x * g)


#: of `tests.method_runs.perceptron`
PERCEPTRON = (Linear(64, 12, first=True), Linear(12, 10))

#: of `models.digits_resnet`, layer by layer; blocks by themselves
STEM = Convolution(1, 8, 8, first=True)
FIRST_BLOCK = (Convolution(8, 8, 8), Convolution(8, 8, 8))
SECOND_BLOCK = (Convolution(8, 16, 8, stride=2), Convolution(16, 16, 4))
SHORTCUT = Convolution(8, 16, 8, kernel=1, stride=2, padding=0)
CLASSIFIER = Linear(16, 10)
DIGITS = (STEM, *FIRST_BLOCK, *SECOND_BLOCK, SHORTCUT, CLASSIFIER)
