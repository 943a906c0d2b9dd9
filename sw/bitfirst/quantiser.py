"""Float tensors to integers: symmetric, zero exact, one power-of-two scale for each tensor."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .errors import Diverged, UsageError
from .golden.numeric import random_bits
from .quantised import Quantised

MIN_EXPONENT = -126  #: below it, 2**-exponent leaves float32
EXACT_EXPONENT = 60  #: within it, scaling an integer of 24 bits in float32 neither rounds nor leaves its range
BLOCK = 2**16  #: numbers rounded by chance at a time, which the processor's cache holds


def check_bits(bits: int, signed: bool, name: str = "tensor") -> None:
    """Raises `UsageError` unless `bits` is a width that an operand can have."""
    lowest = 2 if signed else 1
    if not isinstance(bits, int) or isinstance(bits, bool) or not lowest <= bits <= 16:
        kind = "signed" if signed else "unsigned"
        raise UsageError(f"{name}: {bits!r} bits for {kind} values; choose {lowest} to 16")


def exponent_of(largest: float, bits: int, signed: bool, low: int = 0, rounded: Callable[[float], int] = round) -> int:
    """Smallest exponent at which no magnitude up to `largest` is clipped when it is `rounded`; 0 for zero.

    `low`: see `quantise`.
    """
    if largest == 0:
        return 0
    digits = bits - signed
    most = 2**digits - 1 - (2 ** (low - 1) if low else 0)
    mantissa, exponent = math.frexp(largest)
    too_large = rounded(math.ldexp(mantissa, digits)) > most  # ties to even; half of it fits
    return max(exponent - digits + too_large, MIN_EXPONENT)


def quantise(
    tensor: torch.Tensor, bits: int, signed: bool | None = None, name: str = "tensor", low: int = 0
) -> Quantised:
    """`tensor` (float32, any shape) rounded to nearest, ties to even, so that nothing is clipped.

    `signed` None: unsigned when no value is negative. `low`: of how many bits the low part is when the numbers are to
    be cut in two by the balanced split (`golden.psg.Split`); the largest is then smaller, so that the high part does
    not overflow, and devices store them cut. An all-zero tensor has exponent 0. Raises `UsageError`, which begins with
    `name`, for NaN and infinity (`Diverged`), a width outside 1 (signed: 2) to 16, or a negative value where `signed`
    is False.
    """
    if tensor.dtype != torch.float32:
        raise UsageError(f"{name} is {tensor.dtype}: only float32 is quantised; convert it with .float()")
    tensor = tensor.detach()
    least, most = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    least, most = least.item(), most.item()
    if not (math.isfinite(least) and math.isfinite(most)):
        raise Diverged(f"{name} holds NaN or infinity: training has diverged; lower the learning rate")
    if signed is None:
        signed = least < 0
    elif not signed and least < 0:
        raise UsageError(f"{name} holds negative values; quantise it as signed")
    check_bits(bits, signed, name)
    largest = max(-least, most)
    exponent = exponent_of(largest, bits, signed, low)
    peak = round(largest * 2.0**-exponent)  # rounding keeps the order; ties to even here, too
    return Quantised((tensor * 2.0**-exponent).round_(), bits, signed, exponent, known_peak=peak, low=low)


def quantise_stochastically(tensor: torch.Tensor, bits: int, key: int, name: str = "tensor", low: int = 0) -> Quantised:
    """`tensor` (float32, any shape) as signed numbers rounded up or down by chance, so that their mean is the tensor.

    The random bits are the contract's (`numeric.random_bits`) of `key` and each element's place. Nothing is clipped;
    the scale, `low` and what is refused are those of `quantise`, but that the largest may be rounded up.
    """
    nearest = quantise(tensor, bits, signed=True, name=name, low=low)  # refuses what cannot be
    tensor = tensor.detach()
    largest = tensor.abs().max().item() if tensor.numel() else 0.0
    exponent = exponent_of(largest, bits, True, low, math.ceil)
    if nearest.peak == 0 and largest == 0:
        return nearest
    values = torch.empty_like(tensor, memory_format=torch.contiguous_format)
    first = 0
    for source, target in zip(tensor.flatten().split(BLOCK), values.flatten().split(BLOCK), strict=True):
        index = torch.arange(first, first + len(source), device=tensor.device)
        chance = random_bits(key, index).to(torch.float64) * 2.0**-32
        target.copy_((source.to(torch.float64) * 2.0**-exponent + chance).floor_())
        first += len(source)
    return Quantised(values, bits, True, exponent, known_peak=int(values.abs().max()), low=low)


def quantise_at(tensor: torch.Tensor, bits: int, signed: bool, exponent: int) -> Quantised:
    """`tensor` (float32, finite, not empty) in units of 2**exponent, which must be such that nothing is clipped."""
    values = (tensor * 2.0**-exponent).round_()
    return Quantised(values, bits, signed, exponent, known_peak=int(values.abs().max()))


def dequantise(quantised: Quantised) -> torch.Tensor:
    """The real numbers, float32."""
    return quantised.values * 2.0**quantised.exponent


@dataclass(frozen=True)
class Halves:
    """Integers low + unit * high, both float32 integers below 2**24 in magnitude; `unit` is a power of two."""

    low: torch.Tensor
    high: torch.Tensor
    unit: int

    def integers(self) -> torch.Tensor:
        """float64"""
        return self.low.to(torch.float64).add_(self.high, alpha=self.unit)


def to_float(integers: torch.Tensor | Halves, exponent: int) -> torch.Tensor:
    """integers * 2**exponent as float32, rounded once; zero is +0. `integers` (any type) below 2**53 in magnitude."""
    if abs(exponent) > EXACT_EXPONENT:
        whole = integers.integers() if isinstance(integers, Halves) else integers.to(torch.float64)
        return (whole * 2.0**exponent + 0.0).to(torch.float32)
    if isinstance(integers, Halves):  # both parts are scaled exactly; their sum is what is rounded
        scaled = _scaled(integers.low, exponent)
        return scaled.add_(integers.high, alpha=integers.unit * 2.0**exponent)
    if not integers.is_floating_point():
        integers = integers.to(torch.float64)
    return _scaled(integers.to(torch.float32), exponent)  # rounded, then scaled exactly


def _scaled(values: torch.Tensor, exponent: int) -> torch.Tensor:
    """float32, exact; zero is +0."""
    return torch.add(torch.zeros((), device=values.device), values, alpha=2.0**exponent)
