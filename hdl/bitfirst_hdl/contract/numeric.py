"""The numeric rules, on Python integers of any size: what the gateware does, bit by bit.

Symmetric and zero exact: a signed n-bit number lies in -(2**(n-1)-1) .. 2**(n-1)-1.
"""

from .packets import SIGN_BITS, WORD_BITS, Rounding, Sign

SUM_BITS = 48
MULTIPLIER_BITS = 16
MAX_SHIFT = 63
MAX_THRESHOLD = 2 ** (SUM_BITS - 1)
HASH_INITIAL = 0xB17F1257

# the update by signs
MASTER_BITS, MASTER_FRACTION = 32, 28
MOMENTUM_BITS, MOMENTUM_FRACTION = 16, 11
HIDDEN_BITS = 8  #: a master's lowest, which only the update sees
COEFFICIENT_BITS = 8
STEP_SHIFT = MASTER_FRACTION - MOMENTUM_FRACTION  #: least `rate_shift`: the rate is below 0.5
DECAY_SHIFT = MULTIPLIER_BITS  #: least `decay_shift`: the decay is below 1
WEIGHT_FRACTION = 14  #: bits that a visible master is moved up before it is rounded to a weight

_MASK = 0xFFFFFFFF


def limits(bits: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest `bits`-bit number."""
    return (-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def saturate(value: int, bits: int, signed: bool) -> int:
    """`value` clipped to `limits`."""
    low, high = limits(bits, signed)
    return max(low, min(high, value))


def _rotate(value: int, count: int) -> int:
    return ((value << count) | (value >> (32 - count))) & _MASK


def mix(a: int, b: int, c: int) -> int:
    """Hash three 32-bit words into one: the final mix of Bob Jenkins' lookup3 (2006, public domain)."""
    c = ((c ^ b) - _rotate(b, 14)) & _MASK
    a = ((a ^ c) - _rotate(c, 11)) & _MASK
    b = ((b ^ a) - _rotate(a, 25)) & _MASK
    c = ((c ^ b) - _rotate(b, 16)) & _MASK
    a = ((a ^ c) - _rotate(c, 4)) & _MASK
    b = ((b ^ a) - _rotate(a, 14)) & _MASK
    c = ((c ^ b) - _rotate(b, 24)) & _MASK
    return c


def hash_key(seed: int, step: int, tensor: int) -> int:
    """The 32-bit key of one tensor in one step, for the `key` field of READ."""
    return mix(seed & _MASK, step & _MASK, tensor & _MASK)


def random_bits(key: int, index: int) -> int:
    """32 random bits of element `index` (its place in the whole tensor, whatever the tiling)."""
    return mix(key & _MASK, index & _MASK, HASH_INITIAL)


def round_shift(value: int, shift: int, rounding: Rounding, random: int = 0) -> int:
    """value / 2**shift, rounded once.

    NEAREST_EVEN: ties to even. STOCHASTIC: floor((value + r) / 2**shift), r being the top `shift` bits of
    `random` (32 bits), or `random` followed by shift - 32 zeros.
    """
    if rounding == Rounding.STOCHASTIC:
        return (value + (random >> (32 - shift) if shift <= 32 else random << (shift - 32))) >> shift
    if shift == 0:
        return value
    quotient, remainder, half = value >> shift, value & (2**shift - 1), 2 ** (shift - 1)
    return quotient + (remainder > half or (remainder == half and quotient & 1))


def requantise(
    total: int, multiplier: int, shift: int, rounding: Rounding, bits: int, signed: bool, random: int = 0
) -> tuple[int, bool]:
    """One sum, as READ sends it: (number, whether it was clipped)."""
    value = round_shift(total * multiplier, shift, rounding, random)
    clipped = saturate(value, bits, signed)
    return clipped, clipped != value


def update(
    master: int, momentum: int, sign: int, rate: int, rate_shift: int, decay: int, decay_shift: int, coefficient: int
) -> tuple[int, int]:
    """(master, momentum) of one weight after UPDATE; see `packets.Update`. Any numbers of 32 and of 16 bits."""
    loss = -(-abs(master) * decay >> decay_shift)  # rounded up
    master += -loss if master > 0 else loss
    kept = abs(momentum) * coefficient >> COEFFICIENT_BITS
    momentum = saturate((kept if momentum > 0 else -kept) + (sign << MOMENTUM_FRACTION), MOMENTUM_BITS, True)
    step = round_shift(momentum * rate, rate_shift - STEP_SHIFT, Rounding.NEAREST_EVEN)
    return saturate(master - step, MASTER_BITS, True), momentum


def weight(master: int, shift: int) -> int:
    """A master's weight by WEIGHTS, before all but its octets are cut off; see `packets.Weights`."""
    return round_shift(master >> HIDDEN_BITS << WEIGHT_FRACTION, shift, Rounding.NEAREST_EVEN)


def container_bits(bits: int) -> int:
    """Width that a `bits`-bit number takes on the link."""
    return bits if bits == 64 else -(-bits // 4) * 4


def compare(total: int, threshold: int) -> Sign:
    """One sum, as a READ that compares sends it."""
    if abs(total) < threshold:
        return Sign.UNRESOLVED
    return Sign.POSITIVE if total > 0 else Sign.NEGATIVE if total else Sign.ZERO


def answer_words(elements: int, bits: int, compare: bool = False) -> int:
    """Data words of the answer to a READ of so many sums."""
    if compare:
        return -(-elements * SIGN_BITS // WORD_BITS) + 1
    return -(-elements * container_bits(bits) // WORD_BITS)
