"""The rows of PROGRAM, as words and as what they mean."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import PROGRAM_ROWS, WORD_BITS


@dataclass(frozen=True)
class Tile:
    """What one tile of a packed MATMUL multiplies.

    rows    rows of PROGRAM
    b_cell  cells from column tile 0 to its columns
    column  int64 [C]: which column of B is at each column of the array
    a_cell  int64 [R, C]: cells from row tile 0 to the row of A that each element has
    used    bool [R, C]: whether it has one
    """

    rows: int
    b_cell: int
    column: np.ndarray
    a_cell: np.ndarray
    used: np.ndarray


def encode(config: ArrayConfig, rows: Sequence[dict[str, np.ndarray | int]]) -> np.ndarray:
    """uint64 [rows, words]: fields by name as in `config.program_fields`."""
    bits = np.zeros((len(rows), config.program_words * WORD_BITS), dtype=np.uint8)
    place = 0
    for name, (count, width) in config.program_fields.items():
        values = np.array([row[name] for row in rows], dtype=np.uint64).reshape(len(rows), count)
        ones = values[:, :, None] >> np.arange(width, dtype=np.uint64) & np.uint64(1)
        bits[:, place : place + count * width] = ones.reshape(len(rows), -1)
        place += count * width
    return np.packbits(bits, axis=1, bitorder="little").view("<u8").astype(np.uint64)


def decode(config: ArrayConfig, words: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of one row, uint64 [count]."""
    bits = np.unpackbits(np.ascontiguousarray(words, dtype="<u8").view(np.uint8), bitorder="little").astype(np.uint64)
    fields, place = {}, 0
    for name, (count, width) in config.program_fields.items():
        ones = bits[place : place + count * width].reshape(count, width)
        fields[name] = (ones << np.arange(width, dtype=np.uint64)).sum(axis=1, dtype=np.uint64)
        place += count * width
    return fields


def tiles_of(config: ArrayConfig, program: np.ndarray, first: int, tiles: int) -> Iterator[Tile]:
    """So many tiles from row `first` on of PROGRAM, uint64 [PROGRAM_ROWS, words]."""
    place, columns = first, np.arange(config.columns)
    for _ in range(tiles):
        a_cell = np.zeros((config.rows, config.columns), dtype=np.int64)
        used = np.zeros_like(a_cell, dtype=bool)
        first_row: dict[str, np.ndarray] = {}
        rows, last = 0, False
        while not last:
            row = decode(config, program[place])
            first_row = first_row or row
            taken = (row["mask"][:, None] >> columns.astype(np.uint64) & np.uint64(1)).astype(bool)
            a_cell = np.where(taken, row["a_cell"].astype(np.int64)[:, None], a_cell)
            used |= taken
            last = bool(row["last"][0]) or place == PROGRAM_ROWS - 1
            rows, place = rows + 1, (place + 1) % PROGRAM_ROWS
        group = columns - columns % config.group_columns
        yield Tile(rows, int(first_row["b_cell"][0]), group + first_row["choice"].astype(np.int64), a_cell, used)
