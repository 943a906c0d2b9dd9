"""Integers to words of the tensor store, and back. The hot path of a board.

A store word holds one octet of planes of 16 elements: bit e + 16 * i is bit i of element e, two's complement.
"""

import numpy as np
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, STORE_WORD_WORDS


def pack_store(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers of at most `bits` bits, in C order, as store words: uint64 [octets, octet words, 2].

    The most significant octet comes first. Signed values keep their sign in all bits of their octets; elements behind
    the last are zeros.
    """
    flat = values.reshape(-1)
    octets = -(-bits // OCTET_BITS)
    padded = np.zeros((octets, -(-flat.size // GROUP) * GROUP), dtype=np.uint8)
    for octet in range(octets):
        shift = OCTET_BITS * (octets - 1 - octet)
        padded[octet, : flat.size] = flat >> shift if shift else flat
    planes = _transpose_octets(padded).view(np.uint8)  # byte i of each eight elements: their bits i
    halves = planes.reshape(octets, -1, GROUP // OCTET_BITS, OCTET_BITS).swapaxes(2, 3)
    return halves.reshape(-1).view("<u8").reshape(octets, -1, STORE_WORD_WORDS)


def unpack_store(words: np.ndarray, count: int, signed: bool) -> np.ndarray:
    """int64 [count]: the first elements of uint64 [octets, octet words, 2], as wide as their octets."""
    octets = len(words)
    halves = words.view(np.uint8).reshape(octets, -1, OCTET_BITS, GROUP // OCTET_BITS).swapaxes(2, 3)
    codes = _transpose_octets(np.ascontiguousarray(halves).reshape(octets, -1)).view(np.uint8)[:, :count]
    values = codes[0].astype(np.int8 if signed else np.uint8).astype(np.int64)
    return values << OCTET_BITS | codes[1] if octets == 2 else values


def pack_states(master: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """Integers [n] of 32 and of 16 bits as the words of `packets.Update`: uint64 [groups, STATE_WORDS, 2]."""
    octets = [pack_store(part, 2 * OCTET_BITS) for part in (master >> 16, master & 0xFFFF, momentum)]
    return np.concatenate(octets).swapaxes(0, 1)


def unpack_states(words: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """`pack_states`, backwards: the first `count` masters (int32) and momenta (int16)."""
    octets = np.ascontiguousarray(words.swapaxes(0, 1))
    high, low, momentum = (unpack_store(octets[first : first + 2], count, True) for first in (0, 2, 4))
    return (high << 16 | low & 0xFFFF).astype(np.int32), momentum.astype(np.int16)


_SWAPS = (
    (np.uint64(7), np.uint64(0x00AA00AA00AA00AA)),
    (np.uint64(14), np.uint64(0x0000CCCC0000CCCC)),
    (np.uint64(28), np.uint64(0x00000000F0F0F0F0)),
)


def _transpose_octets(octets: np.ndarray) -> np.ndarray:
    """Each eight bytes as an 8 x 8 bit matrix, transposed: bit i of byte b becomes bit b of byte i.

    Warren, Hacker's Delight (2nd edition), section 7-3.
    """
    words = octets.view("<u8")
    for shift, mask in _SWAPS:
        swap = words >> shift
        swap ^= words
        swap &= mask
        words = words ^ swap
        swap <<= shift
        words ^= swap
    return words
