"""A tensor of integers with its width and power-of-two scale."""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch
from bitfirst_hdl.config import MAX_BITS
from bitfirst_hdl.contract.numeric import limits

from .errors import UsageError


@dataclass(frozen=True)
class Quantised:
    """`values` are integers of `bits` bits held in float32 (exact); the real numbers are values * 2**exponent.

    Signed values lie in -(2**(bits-1)-1) .. 2**(bits-1)-1, unsigned in 0 .. 2**bits-1. The tensor must not be
    changed afterwards.
    """

    values: torch.Tensor
    bits: int
    signed: bool
    exponent: int

    @cached_property
    def integers(self) -> np.ndarray:
        """The values as numpy integers of the smallest type that holds them. Raises as `check` does."""
        if not 1 <= self.bits <= MAX_BITS:
            raise UsageError(f"an operand has 1 to {MAX_BITS} bits, not {self.bits}: choose a width in this range")
        values = self.values.detach()
        low, high = limits(self.bits, self.signed)
        whole = values.to("cpu", torch.int32 if high > 32767 else torch.int16 if high > 127 else torch.int8)
        integers = whole.numpy()
        fits = torch.equal(whole.to(values.dtype), values.cpu())
        if not (fits and low <= integers.min(initial=0) and integers.max(initial=0) <= high):
            raise UsageError(f"values must be integers from {low} to {high}; quantise them first")
        return integers.astype(f"{'i' if self.signed else 'u'}{1 if self.bits <= 8 else 2}", copy=False)

    def check(self) -> None:
        """Raises `UsageError` when a value is not an integer of `bits` bits, or `bits` is not 1 .. `MAX_BITS`."""
        _ = self.integers

    @cached_property
    def ones(self) -> np.ndarray:
        """uint8 array: how many bits are set in each value's two's complement of `bits` bits."""
        whole = self.integers
        unsigned = whole.view(f"u{whole.dtype.itemsize}")
        return np.bitwise_count(unsigned & unsigned.dtype.type(2**self.bits - 1))

    @cached_property
    def peak(self) -> int:
        """The largest magnitude."""
        return max(int(self.integers.max(initial=0)), -int(self.integers.min(initial=0)))

    def magnitudes(self, axis: int) -> np.ndarray:
        """int64 [2, size], of [n, c, h, w]: for each index along `axis`, sums of positive and of negative values."""
        return self._sums(axis, 1)

    def energies(self, axis: int) -> np.ndarray:
        """int64 [2, size]: the same of their squares."""
        return self._sums(axis, 2)

    def _sums(self, axis: int, power: int) -> np.ndarray:
        if (axis, power) not in self._known_sums:
            others = [other for other in range(4) if other != axis]
            total = self._powers(self.values.abs(), power).sum(others)
            positive = self._powers(self.values.clamp(min=0), power).sum(others) if self.signed else total
            parts = torch.stack((positive, total - positive))
            self._known_sums[axis, power] = parts.to("cpu", torch.int64).numpy()
        return self._known_sums[axis, power]

    @cached_property
    def pixel_energies(self) -> np.ndarray:
        """int64 [n, h, w], of [n, c, h, w]: sums of squares over the channels."""
        return self._powers(self.values, 2).sum(1).to("cpu", torch.int64).numpy()

    def _powers(self, values: torch.Tensor, power: int) -> torch.Tensor:
        """In a type in which all their sums are exact."""
        exact = values.numel() * limits(self.bits, self.signed)[1] ** power < 2**53
        whole = values.detach().to(torch.float64 if exact else torch.int64)
        return whole.square_() if power == 2 else whole

    def ones_of_pixels(self, channels: tuple[int, int]) -> np.ndarray:
        """int64 [n, h, w], of [n, c, h, w]: `ones` summed over these channels (first, behind last)."""
        if channels not in self._ones_of_pixels:
            self._ones_of_pixels[channels] = self.ones[:, slice(*channels)].sum(axis=1, dtype=np.int64)
        return self._ones_of_pixels[channels]

    @cached_property
    def _known_sums(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def _ones_of_pixels(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def name(self) -> bytes:
        """Equal for tensors of equal content and shape."""
        content = np.ascontiguousarray(self.integers)
        digest = blake2b(content.reshape(-1).view(np.uint8), digest_size=16)
        digest.update(repr(content.shape).encode())
        return digest.digest()

    def reshape(self, *shape: int) -> "Quantised":
        """The same numbers in another shape."""
        return replace(self, values=self.values.reshape(shape))
