"""Float tensors to integers: symmetric, zero exact, one power-of-two scale for each tensor."""

import math

import torch

from .errors import UsageError
from .quantised import Quantised

MIN_EXPONENT = -126  #: below it, 2**-exponent leaves float32
EXACT_EXPONENT = 60  #: within it, scaling an integer of 24 bits in float32 neither rounds nor leaves its range


def check_bits(bits: int, signed: bool, name: str = "tensor") -> None:
    """Raises `UsageError` unless `bits` is a width that an operand can have."""
    lowest = 2 if signed else 1
    if not isinstance(bits, int) or isinstance(bits, bool) or not lowest <= bits <= 16:
        kind = "signed" if signed else "unsigned"
        raise UsageError(f"{name}: {bits!r} bits for {kind} values; choose {lowest} to 16")


def exponent_of(largest: float, bits: int, signed: bool) -> int:
    """Smallest exponent at which no magnitude up to `largest` is clipped; 0 for zero."""
    if largest == 0:
        return 0
    digits = bits - signed
    mantissa, exponent = math.frexp(largest)
    rounds_up = mantissa >= 1 - 2.0 ** -(digits + 1)  # nearest would be 2**digits, one too many
    return max(exponent - digits + rounds_up, MIN_EXPONENT)


def quantise(tensor: torch.Tensor, bits: int, signed: bool | None = None, name: str = "tensor") -> Quantised:
    """`tensor` (float32, any shape) rounded to nearest, ties to even, so that nothing is clipped.

    `signed` None: unsigned when no value is negative. An all-zero tensor has exponent 0. Raises `UsageError`, which
    begins with `name`, for NaN, infinity, a width outside 1 (signed: 2) to 16, or a negative value where `signed`
    is False.
    """
    if tensor.dtype != torch.float32:
        raise UsageError(f"{name} is {tensor.dtype}: only float32 is quantised; convert it with .float()")
    tensor = tensor.detach()
    low, high = torch.aminmax(tensor) if tensor.numel() else (torch.zeros(()), torch.zeros(()))
    low, high = low.item(), high.item()
    if not (math.isfinite(low) and math.isfinite(high)):
        raise UsageError(f"{name} holds NaN or infinity: training has diverged; lower the learning rate")
    if signed is None:
        signed = low < 0
    elif not signed and low < 0:
        raise UsageError(f"{name} holds negative values; quantise it as signed")
    check_bits(bits, signed, name)
    exponent = exponent_of(max(-low, high), bits, signed)
    return Quantised((tensor * 2.0**-exponent).round_(), bits, signed, exponent)


def dequantise(quantised: Quantised) -> torch.Tensor:
    """The real numbers, float32."""
    return quantised.values * 2.0**quantised.exponent


def to_float(integers: torch.Tensor, exponent: int) -> torch.Tensor:
    """integers * 2**exponent as float32, rounded once; zero is +0. `integers` (any type) below 2**53 in magnitude."""
    if integers.dtype == torch.float32 and abs(exponent) <= EXACT_EXPONENT:
        return integers * 2.0**exponent + 0.0
    return (integers.to(torch.float64) * 2.0**exponent + 0.0).to(torch.float32)
