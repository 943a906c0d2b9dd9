"""Packs the sums that are not resolved into tiles whose elements each have a row of A and a column of B of their own.

Rows lie in R banks: row % R, turned as their LOAD says. An output whose longest bank list has n rows needs a column of
the array n times. The needs of a group's outputs are laid end to end into the group's columns, all equally deep: depth
d of each is one tile. So columns with much to do get help from those with little, and a column goes on at one output
for a while. In each tile every bank gives its words one by one: always the row that most columns still want. A column
takes a row whenever its output has one left in the bank, and it is wanted at least as often as the longest list is
long: so every listed element is taken once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.config import ArrayConfig

from .golden.loads import rows_by_bank

NONE = -1


@dataclass(frozen=True)
class ResidualTile:
    """One tile of a packed MATMUL.

    col_tile  whose columns it works at
    column    int64 [C]: which of them is at each column of the array
    words     int64 [words, R]: row tile of the row that each bank gives, NONE for no word
    masks     bool [words, R, C]: elements that take it
    """

    col_tile: int
    column: np.ndarray
    words: np.ndarray
    masks: np.ndarray

    @property
    def row_tile(self) -> np.ndarray:
        """int64 [R, C]: which row each element multiplies; NONE for nothing."""
        return np.where(self.masks, self.words[:, :, None], NONE).max(axis=0, initial=NONE)

    def program(self, config: ArrayConfig, row_cells: int, col_cells: int) -> list[dict[str, np.ndarray | int]]:
        """The rows of PROGRAM; cells of one row tile and of one column tile."""
        columns = np.arange(config.columns)
        fixed = {"b_cell": self.col_tile * col_cells, "choice": self.column % config.group_columns}
        bits = 1 << columns.astype(np.uint64)
        return [
            fixed
            | {
                "last": int(number == len(self.words) - 1),
                "a_cell": np.maximum(words, 0) * row_cells,
                "mask": (masks * bits).sum(axis=1, dtype=np.uint64),
            }
            for number, (words, masks) in enumerate(zip(self.words, self.masks, strict=True))
        ]


def pack(config: ArrayConfig, listed: np.ndarray, turn: int = 0) -> list[ResidualTile]:
    """Tiles in which every element of bool [rows, columns] that is listed is multiplied once, and no other.

    `turn`: of the LOADs that bring the rows (see `packets.Load`).
    """
    tiles: list[ResidualTile] = []
    for col_tile, left in enumerate(_by_bank(config, listed, turn)):
        tiles += _pack_columns(config, col_tile, left.copy())
    return tiles


def count_tiles(config: ArrayConfig, listed: np.ndarray, turn: int) -> int:
    """How many tiles `pack` makes."""
    return sum(_depth(config, _needs(left)) for left in _by_bank(config, listed, turn))


def order_columns(config: ArrayConfig, listed: np.ndarray, turn: int) -> np.ndarray:
    """int64 [columns]: an order of the columns in which there are few tiles.

    Those with about as much to do stand in one column tile, and its groups have about as much to do: each column, the
    busiest first, goes to the group with the least that has room.
    """
    needs = np.concatenate([_needs(left) for left in _by_bank(config, listed, turn)])[: listed.shape[1]]
    busiest = np.argsort(-needs, kind="stable")
    return np.concatenate(
        [
            _in_groups(config, busiest[first : first + config.columns], needs)
            for first in range(0, len(busiest), config.columns)
        ]
    )


def _in_groups(config: ArrayConfig, columns: np.ndarray, needs: np.ndarray) -> np.ndarray:
    width = config.group_columns
    groups: list[list[int]] = [[] for _ in range(0, len(columns), width)]
    sizes = [min(width, len(columns) - first) for first in range(0, len(columns), width)]
    for column in columns:
        room = [number for number, group in enumerate(groups) if len(group) < sizes[number]]
        least = min(room, key=lambda number: needs[groups[number]].sum())
        groups[least].append(column)
    return np.concatenate(groups).astype(np.int64)


def _by_bank(config: ArrayConfig, listed: np.ndarray, turn: int) -> list[np.ndarray]:
    """Of each column tile bool [R, row tiles, C]: what is listed, by the bank in which its row lies."""
    rows, columns = (
        -(-size // each) * each for size, each in zip(listed.shape, (config.rows, config.columns), strict=True)
    )
    padded = np.zeros((rows, columns), dtype=bool)
    padded[: listed.shape[0], : listed.shape[1]] = listed
    by_tile = padded.reshape(-1, config.rows, columns)
    tile = np.arange(len(by_tile))
    by_bank = by_tile[tile[:, None], rows_by_bank(tile, config.rows, turn)].swapaxes(0, 1)
    return np.split(by_bank, columns // config.columns, axis=2)


def _needs(left: np.ndarray) -> np.ndarray:
    """int64 [C]: how often a column must be at each output."""
    return left.sum(axis=1).max(axis=0)


def _depth(config: ArrayConfig, needs: np.ndarray) -> int:
    """Tiles of a column tile."""
    return int(-(-needs.reshape(-1, config.group_columns).sum(axis=1).max() // config.group_columns))


def _pack_columns(config: ArrayConfig, col_tile: int, left: np.ndarray) -> Iterator[ResidualTile]:
    """Those of one column tile; `left`, bool [R, row tiles, C], is used up."""
    work = _work_of_columns(config, _needs(left))
    for column in work.T:
        words, masks = _take(left, column)
        yield ResidualTile(col_tile, column, words, masks)


def _work_of_columns(config: ArrayConfig, needs: np.ndarray) -> np.ndarray:
    """int64 [C, depth]: which output a column works at; where there is nothing left, one without rows will do."""
    width = config.group_columns
    groups = needs.reshape(-1, width)
    work = np.zeros((config.columns, _depth(config, needs)), dtype=np.int64)
    for group, own in enumerate(groups):
        wanted = np.repeat(np.arange(width), own)
        deep = -(-len(wanted) // width)
        laid = np.zeros(width * deep, dtype=np.int64)
        laid[: len(wanted)] = wanted
        laid[len(wanted) :] = wanted[-1] if len(wanted) else 0
        place = slice(group * width, (group + 1) * width)
        work[place] = group * width + (laid[-1] if deep else 0)
        work[place, :deep] = group * width + laid.reshape(width, deep)
    return work


def _take(left: np.ndarray, column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The words of one tile, and who takes them; removes from `left` what they finish.

    Of columns at the same output, one takes a row: the next that has none yet.
    """
    banks, _, columns = left.shape
    bank, waiting = np.arange(banks), np.ones((banks, columns), dtype=bool)
    earlier = np.tril(column[:, None] == column, -1).T  # [c, d]: c goes before d
    at = column[:, None] == np.arange(columns)  # [c, output]
    words, masks = [], []
    while True:
        first = waiting & ~(waiting @ earlier)
        wanted = first @ at  # [R, output]
        counts = (left & wanted[:, None]).sum(axis=2)
        best = counts.argmax(axis=1)
        if not counts.any():
            return np.array(words, dtype=np.int64).reshape(-1, banks), np.array(masks).reshape(-1, banks, columns)
        finished = left[bank, best] & wanted
        taken = first & finished[:, column]
        left[bank, best] &= ~finished
        waiting &= ~taken
        words.append(np.where(taken.any(axis=1), best, NONE))
        masks.append(taken)
