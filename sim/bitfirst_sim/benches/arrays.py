"""What the benches of element, array and engine share: operands as numbers and as words, and passes of random steps."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract.packets import WORD_BITS

from . import common

KINDS = ("random", "zeros", "ones", "sparse")


def config() -> ArrayConfig:
    """The configuration that the bench was started with."""
    return ArrayConfig(**common.parameters()["config"])


def numbers(rng: random.Random, shape: tuple[int, ...], bits: int, kind: str) -> np.ndarray:
    """Unsigned `bits`-bit numbers, int64: random, all 0, all of the largest, or one in eight not 0."""
    source = np.random.default_rng(rng.randrange(2**32))
    if kind == "zeros":
        return np.zeros(shape, dtype=np.int64)
    if kind == "ones":
        return np.full(shape, 2**bits - 1, dtype=np.int64)
    drawn = source.integers(0, 2**bits, shape)
    return np.where(source.integers(0, 8, shape) == 0, drawn, 0) if kind == "sparse" else drawn


def row_words(values: np.ndarray, bits: int, word_bits: int = WORD_BITS) -> list[int]:
    """Numbers [...] of `bits` bits, first least significant, as words."""
    ones = (values.reshape(-1, 1) >> np.arange(bits)) & 1
    packed = np.packbits(ones.astype(np.uint8).ravel(), bitorder="little").tobytes()
    whole = int.from_bytes(packed, "little")
    count = ones.size // word_bits
    return [(whole >> (word_bits * index)) & (2**word_bits - 1) for index in range(count)]


def dot(config: ArrayConfig, digits: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """[R, L] digits of A by lane against [C, L] bits of B: exact [R, C]."""
    lanes = [config.lane_of_bit(bit) for bit in range(config.lanes)]
    return digits[:, lanes] @ bits.T


@dataclass(frozen=True)
class Step:
    """One array step: operands, and what it means."""

    digits: np.ndarray  # [R, L]
    bits: np.ndarray  # [C, L]
    first: bool
    double: bool
    negative: bool
    last: bool


def random_pass(rng: random.Random, config: ArrayConfig, rows: int, columns: int) -> Iterator[Step]:
    """The steps of one pass: any number of planes, any signs, often extreme operands."""
    planes = rng.randrange(1, MAX_BITS + 1)
    chunks = rng.randrange(1, 1 + min(4, config.max_chunks(planes)))
    kinds = [rng.choice(KINDS) for _ in range(2)] if rng.random() < 0.5 else ["random", "random"]
    all_negative = rng.random() < 0.2
    for plane in range(planes):
        negative = all_negative or rng.random() < 0.5
        for chunk in range(chunks):
            yield Step(
                numbers(rng, (rows, config.lanes), config.slice_bits, kinds[0]),
                numbers(rng, (columns, config.lanes), 1, kinds[1]),
                first=plane == chunk == 0,
                double=chunk == 0,
                negative=negative,
                last=plane == planes - 1 and chunk == chunks - 1,
            )
