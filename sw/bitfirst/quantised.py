"""A tensor of integers with its width and power-of-two scale."""

from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from math import inf

import numpy as np
import torch
from bitfirst_hdl.config import MAX_BITS
from bitfirst_hdl.contract.numeric import limits

from .errors import UsageError

CONTENT_BYTES = 16
_CHANNELS_AT_ONCE = 255 // 8  #: so many counts of bits in an octet add up in an octet


@dataclass(frozen=True)
class Quantised:
    """`values` are integers of `bits` bits held in float32 (exact); the real numbers are values * 2**exponent.

    Signed values lie in -(2**(bits-1)-1) .. 2**(bits-1)-1, unsigned in 0 .. 2**bits-1. The tensor must not be
    changed afterwards.

    Whoever made the values so that they cannot be anything else says so by `known_peak`, their largest magnitude:
    then they are not checked. `known_content`: `content`, where it is known already.

    `low`: of how many bits the low part is, where a device stores the numbers cut in two by the balanced split (see
    `codes`); then none is larger than 2**bits - 2**(low-1) - 1, signed 2**(bits-1) - 2**(low-1) - 1.
    """

    values: torch.Tensor
    bits: int
    signed: bool
    exponent: int
    known_peak: int | None = None
    known_content: bytes | None = None
    low: int = 0

    @cached_property
    def integers(self) -> np.ndarray:
        """The values as contiguous numpy integers of the smallest type that holds them. Raises as `check` does."""
        self.check()
        return self._whole.astype(f"{'i' if self.signed else 'u'}{1 if self.bits <= 8 else 2}", order="C", copy=False)

    @cached_property
    def codes(self) -> np.ndarray:
        """What a device stores, of the type of `integers`: `bits` bits, two's complement if signed.

        With `low`: the high part, value / 2**low rounded to nearest, above what is left, a two's complement number of
        `low` bits. That is the value plus half a unit of the high part, with the low part's top bit inverted; 0 is 0.
        """
        if not self.low:
            return self.integers
        half = self.integers.dtype.type(1 << (self.low - 1))
        return self.integers + half ^ half

    @cached_property
    def _whole(self) -> np.ndarray:
        """The values in some integer type; float32 where they are known to be integers."""
        values = self.values.detach().cpu()
        if self.known_peak is not None:
            return values.numpy()
        high = limits(self.bits, self.signed)[1]  # of whole operands: smaller ones have room in the same type
        return values.to(torch.int32 if high > 32767 else torch.int16 if high > 127 else torch.int8).numpy()

    def check(self) -> None:
        """Raises `UsageError` when a value is not an integer of `bits` bits, or `bits` is not 1 .. `MAX_BITS`.

        With `low` also when one part is without a bit (the high one of signed numbers: has fewer than 2), or would
        overflow.
        """
        if not 1 <= self.bits <= MAX_BITS:
            raise UsageError(f"an operand has 1 to {MAX_BITS} bits, not {self.bits}: choose a width in this range")
        if self.known_peak is None:
            _ = self._range
        if self.low:
            self._check_split()

    def _check_split(self) -> None:
        most_low = self.bits - 1 - self.signed
        if not 1 <= self.low <= most_low:
            raise UsageError(f"{self.bits} bits split with {self.low} low bits; choose 1 to {most_low}")
        most = limits(self.bits, self.signed)[1] - 2 ** (self.low - 1)
        if self.peak > most:
            raise UsageError(
                f"{self.bits} bits split {self.bits - self.low} + {self.low} hold magnitudes up to {most}, not "
                f"{self.peak}; quantise them with low={self.low}"
            )

    @cached_property
    def _range(self) -> tuple[int, int]:
        """The smallest value and the largest, or 0. Raises `UsageError` when one is no integer of `bits` bits."""
        values, whole = self.values.detach().cpu(), self._whole
        low, high = limits(self.bits, self.signed)
        fits = torch.equal(torch.from_numpy(whole).to(values.dtype), values)
        least, most = int(whole.min(initial=0)), int(whole.max(initial=0))
        if not (fits and low <= least and most <= high):
            raise UsageError(f"values must be integers from {low} to {high}; quantise them first")
        return least, most

    @cached_property
    def peak(self) -> int:
        """The largest magnitude."""
        if self.known_peak is not None:
            return self.known_peak
        least, most = self._range
        return max(most, -least)

    # sums, exact
    def magnitudes(self, axis: int) -> np.ndarray:
        """int64 [2, size], of [n, c, h, w]: for each index along `axis`, sums of positive and of negative values."""
        return self._sums(axis, 1)

    def energies(self, axis: int) -> np.ndarray:
        """int64 [2, size]: the same of their squares."""
        return self._sums(axis, 2)

    def _sums(self, axis: int, power: int) -> np.ndarray:
        if (axis, power) not in self._known_sums:
            others = [1 + other for other in range(4) if other != axis]
            parts = self._parts if power == 1 else self._parts.square()
            self._known_sums[axis, power] = parts.sum(others).to("cpu", torch.int64).numpy()
        return self._known_sums[axis, power]

    @cached_property
    def _known_sums(self) -> dict[tuple[int, int], np.ndarray]:
        return {}

    @cached_property
    def _parts(self) -> torch.Tensor:
        """[2, n, c, h, w]: magnitudes of the positive values and of the negative ones."""
        whole = self._exact(self.values)
        return torch.stack((whole.clamp(min=0), whole.clamp(max=0).abs_()))

    @cached_property
    def pixel_energies(self) -> np.ndarray:
        """int64 [n, h, w], of [n, c, h, w]: sums of squares over the channels."""
        return self._exact(self.values).square_().sum(1).to("cpu", torch.int64).numpy()

    def _exact(self, values: torch.Tensor) -> torch.Tensor:
        """In a type in which all sums of squares are exact."""
        exact = values.numel() * self.peak**2 < 2**53
        return values.detach().to(torch.float64 if exact else torch.int64)

    # sums, rough
    @cached_property
    def rough_error(self) -> float:
        """Nothing rough is wrong by more than this share of it.

        It is a sum of terms that are not negative. Each is rounded once, and in each addition, by at most 2**-24, in
        whatever order; a norm once more, before it is squared. To a sum over channels those of other pixels in a
        window may be added, line by line.
        """
        _, c, h, w = self.values.shape
        share = (max(c + h + w, h * w) + 4) * 2.0**-24  # of what is right
        return share / (1 - 2 * share) if share < 1 / 4 else inf

    def rough_sums(self, power: int, positive: bool = False) -> np.ndarray:
        """float64 [n, c], of [n, c, h, w]: sums over the pixels of magnitudes or (`power` 2) squares.

        Of all values, or of the `positive` ones.
        """
        if (power, positive) not in self._known_rough_sums:
            values = self.values.detach().clamp(min=0) if positive else self.values.detach()
            sums = rough_energies(values) if power == 2 else rough_magnitudes(values)
            self._known_rough_sums[power, positive] = sums.cpu().numpy()
        return self._known_rough_sums[power, positive]

    @cached_property
    def _known_rough_sums(self) -> dict[tuple[int, bool], np.ndarray]:
        return {}

    @cached_property
    def rough_pixel_energies(self) -> torch.Tensor:
        """float32 [n, h, w], of [n, c, h, w]: sums of squares over the channels."""
        return self.values.detach().square().sum(1)

    # bits
    def ones_of_pixels(self, channels: tuple[int, int], images: tuple[int, int], planes: int) -> np.ndarray:
        """int64 [h, w], of [n, c, h, w]: bits set in the values of these channels and images (first, behind last).

        Of their `codes`, the lowest `planes` bits.
        """
        key = channels, images, planes
        if key not in self._ones_of_pixels:
            _, _, h, w = self.values.shape
            octets = self._ones_of_octets(planes)[slice(*images)]
            total = np.zeros(octets.shape[2], dtype=np.int64)
            for first in range(*channels, _CHANNELS_AT_ONCE):
                part = octets[:, first : min(first + _CHANNELS_AT_ONCE, channels[1])]
                total += part.sum(axis=1, dtype=np.uint8).sum(axis=0, dtype=np.int64)
            self._ones_of_pixels[key] = total.reshape(h, w, self.codes.itemsize).sum(axis=2)
        return self._ones_of_pixels[key]

    @cached_property
    def _ones_of_pixels(self) -> dict[tuple[tuple[int, int], tuple[int, int], int], np.ndarray]:
        return {}

    def _ones_of_octets(self, planes: int) -> np.ndarray:
        """uint8 [n, c, octets of all pixels]"""
        if planes not in self._octet_ones:
            whole = self.codes
            if self.signed and planes < 8 * whole.itemsize:
                whole = whole & whole.dtype.type(2**planes - 1)
            self._octet_ones[planes] = np.bitwise_count(whole.view(np.uint8).reshape(*whole.shape[:2], -1))
        return self._octet_ones[planes]

    @cached_property
    def _octet_ones(self) -> dict[int, np.ndarray]:
        return {}

    # names
    @cached_property
    def content(self) -> bytes:
        """`CONTENT_BYTES` bytes, equal for equal integers in the same order."""
        if self.known_content is not None:
            return self.known_content
        return sha256(self.integers.reshape(-1).view(np.uint8)).digest()[:CONTENT_BYTES]

    @cached_property
    def name(self) -> bytes:
        """Equal for tensors of equal content, shape, width and split."""
        return self.content + repr((*self.values.shape, self.bits, self.low)).encode()

    def reshape(self, *shape: int) -> "Quantised":
        """The same numbers in another shape."""
        known = self.__dict__.get("content", self.known_content)
        return replace(self, values=self.values.reshape(shape), known_content=known)


def rough_magnitudes(values: torch.Tensor) -> torch.Tensor:
    """float64 [n, c], of [n, c, h, w]: sums of magnitudes over the pixels; see `rough_error`."""
    return values.abs().sum((2, 3)).to(torch.float64)


def rough_energies(values: torch.Tensor) -> torch.Tensor:
    """float64 [n, c], of [n, c, h, w]: sums of squares over the pixels; see `rough_error`."""
    return torch.linalg.vector_norm(values.flatten(2), dim=2).to(torch.float64).square_()
