"""Predictive sign gradient: the sign of a weight's gradient from the first bits, finished where they do not decide.

G = sum over K (pixels and batch) of x * g. Each operand is cut in a high and a low part whose sum is exact (`Split`).
The first pass sums the products of the high parts. Where the prediction P reaches the threshold in magnitude, its sign
is taken; elsewhere the remaining products are added to the same sums, and the sign of G is taken. Signs are ternary:
sign(0) = 0. Integers in, integers out.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import torch
from bitfirst_hdl.contract.numeric import SUM_BITS, limits

from ..errors import UsageError

BETA_BITS = 12  #: beta is a multiple of 2**-BETA_BITS, 0 to 1
CONSTANT_BITS = 24  #: significant bits of a constant threshold
MOST_SHIFT = 31  #: a state whose unit is further than this from the present one is stale
NEVER = 2 ** (SUM_BITS - 1)  #: a threshold that no sum reaches; larger ones are cut to it
MEAN_BITS = 16  #: of the repair's mean, behind the point
EXACT_FLOAT64 = 2**53


class Predictor(StrEnum):
    """How an operand is cut. Only `ROUND` is built in hardware; the others are there to compare."""

    ROUND = "round"
    FLOOR = "floor"
    SIGN_MAGNITUDE = "sign_magnitude"


@dataclass(frozen=True)
class Split:
    """`bits`-bit numbers, signed or not, cut above their `low` lowest bits: value = (high << low) + rest, exactly.

    ROUND           high = (value + 2**(low-1)) >> low; rest in -2**(low-1) .. 2**(low-1)-1: the balanced split
    FLOOR           high = value >> low; rest in 0 .. 2**low-1
    SIGN_MAGNITUDE  the same of the magnitude, the sign put back on both

    Raises `UsageError` for a width outside 1 (signed: 2) to 16, and where either part has no bit (the high part of
    signed numbers: fewer than 2).
    """

    bits: int
    low: int
    signed: bool
    predictor: Predictor = Predictor.ROUND

    def __post_init__(self) -> None:
        least = 2 if self.signed else 1
        if not least < self.bits <= 16:
            raise UsageError(f"{self.bits} bits cannot be split; choose {least + 1} to 16")
        if not 1 <= self.low <= self.bits - least:
            raise UsageError(f"{self.bits} bits split with {self.low} low bits; choose 1 to {self.bits - least}")

    @property
    def high(self) -> int:
        """Bits of the high part."""
        return self.bits - self.low

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest number that it holds: what keeps the high part within `high` bits, zero-symmetric."""
        low, high = limits(self.bits, self.signed)
        if self.predictor == Predictor.ROUND:
            high -= 2 ** (self.low - 1)
        return (-high if self.signed else low), high

    def cut(self, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(high, rest), int64, of integers of any shape. Raises `UsageError` where one is outside `limits`."""
        values = values.to(torch.int64)
        low, high = self.limits
        if values.numel() and not (low <= values.min() and values.max() <= high):
            raise UsageError(f"values must lie in {low} .. {high} to be split {self.high} + {self.low} bits")
        if self.predictor == Predictor.ROUND:
            first = (values + 2 ** (self.low - 1)) >> self.low
        elif self.predictor == Predictor.FLOOR:
            first = values >> self.low
        else:
            first = values.sign() * (values.abs() >> self.low)
        return first, values - (first << self.low)

    def leading(self, values: torch.Tensor) -> torch.Tensor:
        """The high part alone, of integers within `limits` in floating point, in their own type (exact)."""
        if self.predictor == Predictor.ROUND:
            return (values + 2 ** (self.low - 1)).mul_(2.0**-self.low).floor_()
        scaled = values * 2.0**-self.low
        return scaled.floor_() if self.predictor == Predictor.FLOOR else scaled.trunc_()


class Sums:
    """The sums of one weight tensor, over all of K.

    x, g     how the operands are cut
    rows, columns, length
             of G, and K: pixels times batch

    `first` and `rest` (int64 [rows, columns]): products of the high parts, in units of 2**(x.low + g.low), and all
    other products; `x_high` [rows] and `g_rest` [columns]: sums of these parts, for the repair. They may be read once
    `length` products have been added; before, `UsageError` is raised: the sign of an unfinished sum means nothing.
    """

    def __init__(self, x: Split, g: Split, rows: int, columns: int, length: int) -> None:
        self.x, self.g, self.length = x, g, length
        self.added = 0
        self._first, self._rest = (torch.zeros(rows, columns, dtype=torch.int64) for _ in range(2))
        self._x_high = torch.zeros(rows, dtype=torch.int64)
        self._g_rest = torch.zeros(columns, dtype=torch.int64)

    @classmethod
    def of(cls, x: Split, g: Split, length: int, parts: dict[str, torch.Tensor]) -> "Sums":
        """Closed sums from their parts, named as above."""
        sums = cls(x, g, *parts["first"].shape, length)
        sums.added = length
        sums._first, sums._rest = parts["first"], parts["rest"]
        sums._x_high, sums._g_rest = parts["x_high"], parts["g_rest"]
        return sums

    def add(self, x: torch.Tensor, g: torch.Tensor) -> None:
        """A part of K: integers x [k, rows] and g [k, columns]."""
        if self.added + len(x) > self.length:
            raise UsageError(f"{self.added + len(x)} products for a sum of {self.length}: the sum is closed")
        (x_high, x_rest), (g_high, g_rest) = self.x.cut(x), self.g.cut(g)
        self.added += len(x)
        self._first += _product(x_high, g_high)
        self._rest += (_product(x_high, g_rest) << self.x.low) + _product(x_rest, g.to(torch.int64))
        self._x_high += x_high.sum(0)
        self._g_rest += g_rest.sum(0)

    def _closed(self, value: torch.Tensor) -> torch.Tensor:
        if self.added != self.length:
            raise UsageError(f"{self.added} of {self.length} products are summed: an unfinished sum has no sign")
        return value

    @property
    def first(self) -> torch.Tensor:
        return self._closed(self._first)

    @property
    def rest(self) -> torch.Tensor:
        return self._closed(self._rest)

    @property
    def x_high(self) -> torch.Tensor:
        return self._closed(self._x_high)

    @property
    def g_rest(self) -> torch.Tensor:
        return self._closed(self._g_rest)

    @property
    def total(self) -> torch.Tensor:
        """G: the first pass, continued. Raises `UsageError` when one leaves the 48 bits of a partial sum."""
        total = (self.first << (self.x.low + self.g.low)) + self.rest
        if total.numel() and total.abs().max() >= NEVER:
            raise UsageError(f"a sum over {self.length} products leaves {SUM_BITS} bits")
        return total

    def prediction(self, repair: bool = False) -> tuple[torch.Tensor, int]:
        """(P int64 [rows, columns], its unit as a power of two of G's).

        With `repair`, the high part of x meets the mean of g's low part too: P = (first << g.low) + c in units of
        2**x.low, with m = floor(g_rest * 2**16 / K + 1/2) and c = floor(x_high * m / 2**16 + 1/2): a product for each
        element. It decides; it is no part of the sum.
        """
        if not repair:
            return self.first, self.x.low + self.g.low
        scaled = self.g_rest << (MEAN_BITS + 1)
        mean = torch.div(scaled + self.length, 2 * self.length, rounding_mode="floor")
        correction = (self.x_high[:, None] * mean[None, :] + 2 ** (MEAN_BITS - 1)) >> MEAN_BITS
        return (self.first << self.g.low) + correction, self.x.low


def _product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """int64 a.T @ b of [k, rows] and [k, columns], exact: float64 over as much of k as cannot round."""
    total = torch.zeros(a.shape[1], b.shape[1], dtype=torch.int64, device=a.device)
    if not (a.numel() and b.numel()):
        return total
    bound = max(1, int(a.abs().max()) * int(b.abs().max()))
    for start in range(0, len(a), EXACT_FLOAT64 // bound):
        part = slice(start, start + EXACT_FLOAT64 // bound)
        total += (a[part].to(torch.float64).T @ b[part].to(torch.float64)).to(torch.int64)
    return total


class Mode(StrEnum):
    """Where the threshold comes from."""

    EXACT = "exact"  #: beta times the largest |P| of this very tensor
    LAGGED = "lagged"  #: the same of the step before; `EXACT` where there is none
    CONSTANT = "constant"  #: a real number


@dataclass(frozen=True)
class State:
    """Largest |P| of a step, and the exponent of its unit: the real number is maximum * 2**exponent."""

    maximum: int
    exponent: int


@dataclass(frozen=True)
class Threshold:
    """tau of |P| >= tau: an integer in P's unit, the smallest that is not below the real threshold.

    mode, beta  beta in units of 2**-12 (see `beta_units`)
    constant    of `CONSTANT`: a real number, kept to 24 significant bits, ties to even

    A real threshold above 0 is at least 1: a prediction of 0 decides nothing and is finished, even where all
    predictions are 0. A threshold of 0 (beta or constant 0) is the predictor alone: everything is resolved, and
    sign(0) = 0. Thresholds beyond 2**47 are cut to that: nothing reaches it.
    """

    mode: Mode = Mode.EXACT
    beta: int = 0
    constant: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 2**BETA_BITS:
            raise UsageError(f"beta = {self.beta} / {2**BETA_BITS}: choose 0 to {2**BETA_BITS}")
        if not (math.isfinite(self.constant) and self.constant >= 0):
            raise UsageError(f"a constant threshold of {self.constant}: choose a finite number, 0 or more")

    def needs_maximum(self, exponent: int, state: State | None = None) -> bool:
        """Whether `integer` depends on the predictions."""
        lags = self.mode == Mode.LAGGED and _usable(state, exponent)
        return self.mode != Mode.CONSTANT and self.beta > 0 and not lags

    def integer(self, prediction: torch.Tensor, exponent: int, state: State | None = None) -> int:
        """tau for `prediction`, whose unit is 2**exponent; `state`: what `state_of` gave a step ago."""
        if self.mode == Mode.CONSTANT:
            mantissa, place = math.frexp(self.constant)
            return _in_units(round(mantissa * 2**CONSTANT_BITS), place - CONSTANT_BITS - exponent)
        if self.mode == Mode.EXACT or not _usable(state, exponent):
            state = state_of(prediction, exponent)
        if self.beta == 0:
            return 0
        return max(1, _in_units(self.beta * state.maximum, state.exponent - exponent - BETA_BITS))


def beta_units(beta: float) -> int:
    """beta (0 to 1) in units of 2**-12, to nearest, ties to even: 0.05 becomes 205, that is 0.05005.

    Raises `UsageError` outside 0 .. 1, and for a beta above 0 that would become 0.
    """
    if not 0 <= beta <= 1:
        raise UsageError(f"beta = {beta}: choose 0 to 1")
    units = round(beta * 2**BETA_BITS)
    if beta and not units:
        raise UsageError(f"beta = {beta} is too small to be told from 0: give 0 or at least {2.0**-BETA_BITS}")
    return units


def state_of(prediction: torch.Tensor, exponent: int) -> State:
    """What a lagged threshold needs in the next step. `exponent`: of s_x * s_g, plus that of P's unit."""
    return State(int(prediction.abs().max()) if prediction.numel() else 0, exponent)


def _usable(state: State | None, exponent: int) -> bool:
    """False for no state, for one of nothing but zeros, and for one whose scale is too far away."""
    return state is not None and state.maximum > 0 and abs(state.exponent - exponent) <= MOST_SHIFT


def _in_units(value: int, shift: int) -> int:
    """value * 2**shift rounded up, cut to `NEVER`: a change of scale is a shift."""
    shifted = value << min(shift, SUM_BITS) if shift >= 0 else -((-value) >> -shift)
    return min(shifted, NEVER)


@dataclass(frozen=True)
class Rule:
    """How the signs of a weight's gradient are predicted: cuts of x and g, threshold, with repair or without."""

    x: Split
    g: Split
    threshold: Threshold
    repair: bool = False


@dataclass(frozen=True)
class Decision:
    """Signs of one weight tensor.

    signs       int8 [rows, columns], -1, 0 or 1
    resolved    bool [rows, columns]: decided by the prediction
    threshold   tau, in P's unit
    unit        P's unit, as a power of two of G's
    state       for the next step's lagged threshold
    done, saved bit products (1 x 1 bit) that were needed, and the others of the whole product
    """

    signs: torch.Tensor
    resolved: torch.Tensor
    threshold: int
    unit: int
    state: State
    done: int
    saved: int


def decide(
    sums: Sums,
    threshold: Threshold,
    exponent: int = 0,
    state: State | None = None,
    repair: bool = False,
    lengths: torch.Tensor | None = None,
) -> Decision:
    """The signs of closed `sums`.

    exponent  of s_x * s_g
    state     of the step before
    lengths   int64 [rows]: how many of the K products count as work, where some are with zeros beyond the image;
              all of them by default
    """
    prediction, unit = sums.prediction(repair)
    tau = threshold.integer(prediction, exponent + unit, state)
    resolved = prediction.abs() >= tau
    signs = torch.where(resolved, prediction.sign(), sums.total.sign()).to(torch.int8)
    whole = sums.x.bits * sums.g.bits
    first = sums.x.high * sums.g.high
    if lengths is None:
        lengths = torch.full(resolved.shape[:1], sums.length)
    saved = (whole - first) * int((resolved.sum(1) * lengths).sum())
    done = whole * resolved.shape[1] * int(lengths.sum()) - saved
    return Decision(signs, resolved, tau, unit, state_of(prediction, exponent + unit), done, saved)
