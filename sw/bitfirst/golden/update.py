"""The update of weights by ternary signs, in integers: decay, momentum, step, in this order.

master    32-bit signed, the real weight in units of 2**-28 (-8 to 8). Forward and dX take its upper 24 bits
          (`visible`), which float32 holds exactly
momentum  16-bit signed, in units of 2**-11 (-16 to 16): with a coefficient of 0.9 and signs it stays within 10
rates     numbers of 16 significant bits (`Rate`), one for the step and one for the decay in each command

    decay     master -= sign(master) * ceil(|master| * decay): however small it is, it acts on every weight but 0,
              by at least one unit, and takes none beyond 0. It does not pass through the momentum
    momentum  v = k * v / 256 towards 0, plus sign * 2**11, saturated
    step      master -= v * rate * 2**17 (momentum's unit over master's), rounded to nearest, ties to even; saturated

Saturated is symmetric, as in `contract.numeric`. Towards 0: without signs the momentum comes to rest at 0.
"""

import math
from dataclasses import dataclass

import torch
from bitfirst_hdl.contract.numeric import (
    COEFFICIENT_BITS,
    HIDDEN_BITS,
    MASTER_BITS,
    MASTER_FRACTION,
    MAX_SHIFT,
    MOMENTUM_BITS,
    MOMENTUM_FRACTION,
    MULTIPLIER_BITS,
    STEP_SHIFT,
    WEIGHT_FRACTION,
    limits,
)
from bitfirst_hdl.contract.packets import Rounding

from ..errors import Diverged, UsageError
from .numeric import round_shift


@dataclass(frozen=True)
class Rate:
    """multiplier * 2**-shift: 0 to 65535, and 0 to 63."""

    multiplier: int
    shift: int

    @property
    def value(self) -> float:
        return self.multiplier * 2.0**-self.shift


def rate_of(value: float, name: str = "rate", least_shift: int = 0) -> Rate:
    """`value` to 16 significant bits, to nearest, ties to even; fewer below 2**-48, and 0 from 2**-64 down.

    Raises `UsageError` when it is negative, not finite, or 1 or more (with `least_shift`: 2**(16 - least_shift)).
    """
    most = 2.0 ** min(0, MULTIPLIER_BITS - least_shift)
    if not 0 <= value < most:
        raise UsageError(f"{name} = {value}: choose 0 or more, below {most}")
    if value == 0:
        return Rate(0, MAX_SHIFT)
    shift = min(MULTIPLIER_BITS - math.frexp(value)[1], MAX_SHIFT)
    multiplier = round(math.ldexp(value, shift))
    if multiplier == 2**MULTIPLIER_BITS:
        multiplier, shift = multiplier // 2, shift - 1
    if shift < least_shift:
        raise UsageError(f"{name} = {value} would become {most}: choose less")
    return Rate(multiplier, shift)


def coefficient_of(momentum: float) -> int:
    """k of k / 256, to nearest, ties to even: 0.9 becomes 230, that is 0.898.

    Raises `UsageError` outside 0 .. 255 / 256.
    """
    k = round(momentum * 2**COEFFICIENT_BITS) if 0 <= momentum < 1 else -1
    if not 0 <= k < 2**COEFFICIENT_BITS:
        raise UsageError(f"momentum = {momentum}: choose 0 to {1 - 2.0**-COEFFICIENT_BITS}")
    return k


def step_rate(rate: float) -> Rate:
    """The rate of the step. Raises `UsageError` where it is 0.5 or more."""
    return rate_of(rate, "lr", STEP_SHIFT)


def decay_rate(rate: float, weight_decay: float) -> Rate:
    """The decay of one step: rate * weight_decay."""
    return rate_of(rate * weight_decay, "lr * weight_decay")


def masters(weights: torch.Tensor) -> torch.Tensor:
    """int32 masters of float weights: to nearest, ties to even, saturated. Raises `UsageError` for NaN."""
    if weights.isnan().any():
        raise Diverged("a weight is NaN: training has diverged; lower the learning rate")
    scaled = weights.detach().to(torch.float64) * 2.0**MASTER_FRACTION
    return scaled.round_().clamp_(*limits(MASTER_BITS, True)).to(torch.int32)


def visible(master: torch.Tensor) -> torch.Tensor:
    """float32: the upper 24 bits of the masters, as real weights."""
    return (master >> HIDDEN_BITS).to(torch.float32) * 2.0 ** (HIDDEN_BITS - MASTER_FRACTION)


def update(
    master: torch.Tensor, momentum: torch.Tensor, signs: torch.Tensor, rate: Rate, decay: Rate, coefficient: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """(master int32, momentum int16) after one step; `signs`: -1, 0 or 1 in any type. Shapes are equal."""
    m, v = master.to(torch.int64), momentum.to(torch.int64)
    shrink = -((-m.abs() * decay.multiplier) >> decay.shift)
    m = m - m.sign() * shrink
    kept = v.sign() * ((v.abs() * coefficient) >> COEFFICIENT_BITS)
    v = (kept + (signs.to(torch.int64) << MOMENTUM_FRACTION)).clamp(*limits(MOMENTUM_BITS, True))
    step = round_shift(v * rate.multiplier, rate.shift - STEP_SHIFT, Rounding.NEAREST_EVEN)
    m = (m - step).clamp(*limits(MASTER_BITS, True))
    return m.to(torch.int32), v.to(torch.int16)


def weights(master: torch.Tensor, shift: int) -> torch.Tensor:
    """int64: the masters' visible bits * 2**14 / 2**shift, rounded to nearest, ties to even, as WEIGHTS has them."""
    visible_bits = master.to(torch.int64) >> HIDDEN_BITS
    return round_shift(visible_bits << WEIGHT_FRACTION, shift, Rounding.NEAREST_EVEN)
