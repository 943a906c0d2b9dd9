"""`bitfirst_hdl.contract.numeric`, vectorised in PyTorch: int64 tensors in and out, on any device."""

import torch
from bitfirst_hdl.contract.numeric import HASH_INITIAL, limits
from bitfirst_hdl.contract.packets import Rounding, Sign

_MASK = 0xFFFFFFFF
#: the rounds of `contract.numeric.mix`: which word changes, by which other, rotated by how much
_ROUNDS = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))


def mix(a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """Hash three 32-bit words (in int64) into one."""
    words = [word.to(torch.int32, copy=True) for word in (a, b, c)]  # modulo 2**32, in half the memory
    moved = torch.empty_like(words[0])
    for target, source, count in _ROUNDS:
        word, other = words[target], words[source]
        word ^= other
        torch.bitwise_right_shift(other, 32 - count, out=moved).bitwise_and_(2**count - 1)  # without its sign
        word -= moved
        word -= torch.bitwise_left_shift(other, count, out=moved)
    return words[2].to(torch.int64) & _MASK


def random_bits(key: int, index: torch.Tensor) -> torch.Tensor:
    """32 random bits of each element `index`, in int64."""
    return mix(torch.full_like(index, key & _MASK), index & _MASK, torch.full_like(index, HASH_INITIAL))


def round_shift(
    value: torch.Tensor, shift: int, rounding: Rounding, random: torch.Tensor | None = None
) -> torch.Tensor:
    """value / 2**shift, rounded once, for `shift` 0 .. 63. `random` (32 bits, in int64) for STOCHASTIC alone."""
    if shift == 0:
        return value
    quotient, remainder = value >> shift, value & (2**shift - 1)
    if rounding == Rounding.STOCHASTIC:
        offset = random >> (32 - shift) if shift <= 32 else random << (shift - 32)
        return quotient + (remainder > 2**shift - 1 - offset)  # a carry out of remainder + offset
    half = 2 ** (shift - 1)
    return quotient + ((remainder > half) | ((remainder == half) & (quotient & 1 == 1)))


def requantise(
    total: torch.Tensor,
    multiplier: int,
    shift: int,
    rounding: Rounding,
    bits: int,
    signed: bool,
    random: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """48-bit sums, as READ sends them with `bits` 2 .. 32: (numbers, whether each was clipped)."""
    value = round_shift(total * multiplier, shift, rounding, random)
    clipped = value.clamp(*limits(bits, signed))
    return clipped, clipped != value


def compare(total: torch.Tensor, threshold: int) -> torch.Tensor:
    """Sums, as a READ that compares sends them: `Sign` of each."""
    signs = torch.where(total > 0, int(Sign.POSITIVE), torch.where(total < 0, int(Sign.NEGATIVE), int(Sign.ZERO)))
    return torch.where(total.abs() >= threshold, signs, int(Sign.UNRESOLVED))
