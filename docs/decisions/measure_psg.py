"""Measures ways of packing PSG's residual pass into dense work, on captured gradients.

    python docs/decisions/measure_psg.py FOLDER STEPS [BETA]

FOLDER holds what `bitfirst.benches.psg_capture.capture` kept of a run of STEPS steps. Printed for each way: cycles of
first pass and residual pass, with all that goes along with them, over the cycles of the full 8 x 16 product on the same
array, by stage, for exact and lagged thresholds.

What is counted (L = 16, S = 4, cells and sums of the default array):
- dW in blocks of row tiles whose sums are in SUMS together; each block walks K in commands of as many chunks as half of
  A's cells hold. A command takes the longer of computing and of loading the next one's operands (one vector a cycle).
- First pass: 10 plane cycles for each tile and chunk; residual pass: see `Way`. Full product: 32.
- Once for each block: the comparator, two sums a cycle; the list builder, one row of 16 bits a cycle over what is still
  listed, for each pass. Where there are several blocks, their first sums go out and come back, 48 bits at 64 a cycle.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bitfirst.benches.psg import Gradient, decisions
from bitfirst.golden.psg import Mode
from bitfirst_hdl.config import LOAD_SETUP_CYCLES, LOAD_TAIL_CYCLES, SETUP_CYCLES

LANES, CELLS, SUM_TILES = 16, 256, 64
FULL, FIRST = 32, 10
LOW_SLICE, HIGH_SLICE = 16, 6  # plane cycles of the residual pass with x's low and with its high slice
DRAIN = 8
COMMAND_GAP = 3
COMPARED, LINK_BITS, SUM_BITS = 2, 64, 48
PREDICTOR = "4x10 round"


@dataclass(frozen=True)
class Way:
    """How unresolved elements are packed.

    rows, columns  the array
    own            each element (`shared` columns at a time) has a register of A, and so a row of its own; without, a
                   residual tile is any `rows` rows that some column of the tile needs
    choices        banks in which each row of A lies (copies written at once): elements that may take it
    free           columns that may take any output among as many; 1: each its own
    chained        a column goes on with its output of the next column tile (B is addressed column by column)
    rotated        row r of row tile t lies in bank (r + t) mod rows
    words          words that a bank delivers a cycle
    merged         four planes of the low slice go on where the high slice ended, so that a pass of 6 planes, shorter
                   than a drain, becomes two of 10 and 12
    sum_tiles      of the whole array, in units of the default's
    """

    name: str
    rows: int = 8
    columns: int = 16
    own: bool = True
    shared: int = 1
    choices: int = 1
    free: int = 1
    chained: bool = False
    rotated: bool = True
    words: int = 1
    merged: bool = True
    sum_tiles: int = SUM_TILES


WAYS = [
    *(Way(f"packed rows, {r}x{c}", r, c, own=False) for r, c in ((8, 16), (16, 8), (32, 4), (64, 2), (128, 1))),
    Way("own rows, pairs of columns", shared=2),
    Way("own rows, not rotated, not merged", rotated=False, merged=False),
    Way("own rows, not rotated", rotated=False),
    Way("own rows"),
    Way("own rows, two words a bank", words=2),
    Way("own rows, chained", chained=True),
    Way("own rows, 2 choices", choices=2),
    Way("own rows, 2 choices, chained", choices=2, chained=True),
    Way("own rows, free in 8", free=8),
    Way("own rows, free in 16", free=16),
    Way("own rows, 2 choices, free in 8", choices=2, free=8),
    Way("own rows, 4 choices, free in 8", choices=4, free=8),
    Way("own rows, 8 choices, free in 8", choices=8, free=8),
    Way("own rows, 2 choices, free in 8, two words a bank", choices=2, free=8, words=2),
    Way("own rows, 2 choices, free in 8, 256 tiles of sums", choices=2, free=8, sum_tiles=256),
    Way("own rows, 16x8", rows=16, columns=8),
    Way("own rows, 16x8, chained", rows=16, columns=8, chained=True),
    Way("own rows, 16x8, free in 8", rows=16, columns=8, free=8),
    Way("own rows, 16x8, 2 choices, free in 8", rows=16, columns=8, choices=2, free=8),
]


def packed_passes(way: Way, mask: np.ndarray) -> list[int]:
    """Cycles per K chunk of each residual tile made of whole rows of a column tile."""
    found = []
    for first in range(0, mask.shape[1], way.columns):
        rows = int(mask[:, first : first + way.columns].any(1).sum())
        found += [LOW_SLICE + HIGH_SLICE] * -(-rows // way.rows)
    return found


def columns_in_turn(way: Way, outputs: int, needs: np.ndarray) -> Iterator[list[list[int]]]:
    """For each sequence of passes: what each column works through, one output a pass.

    needs [outputs]: in how many passes a column must take an output until the last element's list is empty.
    """
    tiles = [range(first, min(first + way.columns, outputs)) for first in range(0, outputs, way.columns)]
    if way.chained:
        yield [[o for tile in tiles if c < len(tile) for o in [tile[c]] * needs[tile[c]]] for c in range(way.columns)]
        return
    for tile in tiles:
        columns: list[list[int]] = []
        for first in range(0, len(tile), way.free):
            group = tile[first : first + way.free]
            wanted = [o for o in group for _ in range(needs[o])]
            depth = -(-len(wanted) // way.free)
            # one column after the other is filled to the same depth: an output is shared by neighbours at most
            columns += [wanted[place : place + depth] for place in range(0, len(wanted), depth or 1)]
        yield columns


def own_passes(way: Way, mask: np.ndarray) -> list[int]:
    """Cycles per K chunk of each residual tile in which each element has a row of its own.

    A bank delivers each word once to all columns that want it in this pass; while one slice is at work the other one's
    words come.
    """
    rows, outputs = mask.shape
    if way.shared > 1:  # columns that share a register have one list
        mask = np.repeat(mask.reshape(rows, -1, way.shared).any(2), way.shared, axis=1)
    index = np.arange(rows)
    bank = (index + index // way.rows if way.rotated else index) % way.rows
    classes = way.rows // way.choices  # rows of a class lie in `choices` banks
    lists = [[list(np.flatnonzero(mask[:, o] & (bank % classes == q))) for q in range(classes)] for o in range(outputs)]
    needs = np.array([max(-(-len(part) // way.choices) for part in of_output) for of_output in lists])
    found = []
    for columns in columns_in_turn(way, outputs, needs):
        for turn in range(max(map(len, columns), default=0)):
            wanted: list[set[int]] = [set() for _ in range(way.rows)]
            for work in columns:
                if turn >= len(work):
                    continue
                for q, left in enumerate(lists[work[turn]]):
                    for copy, row in enumerate(left[: way.choices]):
                        wanted[q + copy * classes].add(row)
            for o in {work[turn] for work in columns if turn < len(work)}:
                count = sum(turn < len(work) and work[turn] == o for work in columns)
                _take(lists[o], way, count, wanted, classes)
            found.append(_chunk_cycles(way, max(map(len, wanted))))
    assert not any(part for of_output in lists for part in of_output), "some elements were not finished"
    return found


def _take(of_output: list[list[int]], way: Way, count: int, wanted: list[set[int]], classes: int) -> None:
    """Removes what `count` columns take of one output in a pass, and notes the rows of all but the first."""
    for q, left in enumerate(of_output):
        for place, row in enumerate(left[way.choices : way.choices * count]):
            wanted[q + place % way.choices * classes].add(row)
        del left[: way.choices * count]


def _chunk_cycles(way: Way, words: int) -> int:
    loads = -(-words // way.words)
    high = HIGH_SLICE if way.merged else max(HIGH_SLICE, DRAIN)
    return max(high, loads) + max(LOW_SLICE, loads)


def cycle_work(way: Way, gradient: Gradient, unresolved: np.ndarray) -> float:
    """Cycles with PSG over cycles of the full product. unresolved: bool [rows, outputs]."""
    rows, outputs = unresolved.shape
    chunks = -(-next(iter(gradient.sums.values())).length // LANES)
    col_tiles = -(-outputs // way.columns)
    all_tiles = -(-rows // way.rows)
    sum_tiles = way.sum_tiles * (8 * 16) // (way.rows * way.columns)
    blocks = -(-all_tiles * col_tiles // sum_tiles)
    per_block = -(-all_tiles // blocks)
    whole, with_psg = 0.0, 0.0
    for first in range(0, all_tiles, per_block):
        mask = unresolved[first * way.rows : (first + per_block) * way.rows]
        tiles = -(-len(mask) // way.rows) * col_tiles
        load = len(mask) + 2 * outputs
        row_tiles = tiles // col_tiles
        whole += _walk(chunks, row_tiles, tiles * FULL, load)
        with_psg += _walk(chunks, row_tiles, tiles * FIRST, load)
        passes = (own_passes if way.own else packed_passes)(way, mask)
        with_psg += _walk(chunks, row_tiles * way.choices, sum(passes), load)
        with_psg += mask.size / COMPARED + len(passes) * len(mask) * col_tiles / 2  # the lists shrink evenly
    if blocks > 1:
        with_psg += 2 * unresolved.size * SUM_BITS / LINK_BITS
    return with_psg / whole


def _walk(chunks: int, cells: int, work: int, load: int) -> float:
    """Cycles of all K: per chunk `cells` cells of A, `work` cycles of the array, `load` of the gather unit."""
    if not work:
        return 0.0
    at_once = max(1, CELLS // 2 // cells)
    loading = 2 * (LOAD_SETUP_CYCLES + LOAD_TAIL_CYCLES) + at_once * load
    computing = SETUP_CYCLES + COMMAND_GAP + at_once * work
    if 2 * cells > CELLS:  # a chunk fills more than half of the cells: no loading beside the computing
        return chunks * (loading + computing)
    return chunks / at_once * max(loading, computing)


def in_store_order(mask: np.ndarray, gradient: Gradient) -> np.ndarray:
    """Rows from (channel, tap row, tap column) to (tap row, tap column, channel), the order of the gather unit."""
    squared = gradient.taps**2
    return mask.reshape(-1, squared, mask.shape[1]).transpose(1, 0, 2).reshape(mask.shape)


def stage_of(gradient: Gradient) -> str:
    if gradient.layer == "conv":
        return "first"
    if gradient.taps == 1:
        return "1x1"
    return {1024: "stage 1", 256: "stage 2", 64: "stage 3"}[gradient.pixels]


STAGES = ("first", "stage 1", "stage 2", "stage 3", "1x1")


def macs(gradient: Gradient) -> int:
    sums = next(iter(gradient.sums.values()))
    return sums.length * sums.first.numel()


def row_of(way: Way, found: list[tuple[Gradient, np.ndarray]], order: str) -> str:
    works, weights, by_stage = [], [], {name: [] for name in STAGES}
    for gradient, unresolved in found:
        mask = in_store_order(unresolved, gradient) if order == "kh,kw,c" else unresolved
        works.append(cycle_work(way, gradient, mask))
        weights.append(macs(gradient))
        by_stage[stage_of(gradient)].append(works[-1])
    stages = " | ".join(f"{np.mean(part):.3f}" for part in by_stage.values())
    weighted = np.average(works, weights=weights)
    return f"| {way.name} | **{np.mean(works):.3f}** | {weighted:.3f} | {max(works):.3f} | {stages} |"


def main(folder: Path, steps: int, beta: float) -> None:
    for mode in (Mode.EXACT, Mode.LAGGED):
        found = [(g, (~d.resolved).numpy()) for g, d in decisions(folder, PREDICTOR, beta, mode, steps=steps)]
        for order in ("kh,kw,c", "c,kh,kw"):
            share = np.mean([mask.mean() for _, mask in found])
            print(f"\n{PREDICTOR}, beta {beta}, {mode}: {share:.3f} unresolved; rows in the order ({order})\n")
            print("| way | mean | by MACs | worst |", " | ".join(STAGES), "|")
            print("| --- " * (4 + len(STAGES)) + "|")
            for way in WAYS:
                print(row_of(way, found, order), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else 0.05)
