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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
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
SUMS_OF_TILE = 8 * 16
THRESHOLDS = (8, 4, 2, 1)
NONE = -1


@dataclass(frozen=True)
class Way:
    """How unresolved elements are packed.

    rows, columns  the array
    own            each element (`shared` columns at a time) has a register of A, and so a row of its own; without, a
                   residual tile is any `rows` rows that some column of the tile needs
    choices        banks in which each row of A lies (copies written at once): elements that may take it
    free           columns that may take any output among as many; 1: each its own
    chained        a group of columns goes on with the next column tile without waiting for the others
    rotated        a tile's rows are turned by one bank from tap to tap
    popular        the list builder takes rows first that many columns want
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
    popular: bool = False
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
    Way("own rows, 2 choices, chained", choices=2, chained=True),
    Way("own rows, free in 8", free=8),
    Way("own rows, free in 8, chained", free=8, chained=True),
    Way("own rows, free in 4, chained, popular", free=4, chained=True, popular=True),
    Way("own rows, free in 8, chained, popular, not merged", free=8, chained=True, popular=True, merged=False),
    Way("own rows, free in 8, chained, popular, not rotated", free=8, chained=True, popular=True, rotated=False),
    Way("own rows, free in 8, chained, popular", free=8, chained=True, popular=True),
    Way("own rows, free in 8, chained, popular, two words", free=8, chained=True, popular=True, words=2),
    Way("own rows, free in 8, chained, popular, 128 tiles", free=8, chained=True, popular=True, sum_tiles=128),
    Way("own rows, free in 8, chained, popular, 2 choices", free=8, chained=True, popular=True, choices=2),
    Way("own rows, free in 16, chained, popular", free=16, chained=True, popular=True),
    Way("own rows, pairs, free in 8, chained, popular", shared=2, free=8, chained=True, popular=True),
    Way("own rows, 16x8", rows=16, columns=8),
    Way("own rows, 16x8, free in 8, chained, popular", rows=16, columns=8, free=8, chained=True, popular=True),
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
    columns: list[list[int]] = [[] for _ in range(way.columns)]
    for tile in range(0, outputs, way.columns):
        for first in range(0, way.columns, way.free):
            group = range(tile + first, min(tile + first + way.free, tile + way.columns, outputs))
            wanted = [o for o in group for _ in range(needs[o])]
            depth = -(-len(wanted) // way.free)
            start = max(map(len, columns[first : first + way.free]))
            for column in range(way.free):
                # one column after the other is filled to the same depth: an output is shared by neighbours at most
                work = columns[first + column]
                work += [NONE] * (start - len(work)) + wanted[column * depth : (column + 1) * depth]
        if not way.chained:
            yield columns
            columns = [[] for _ in range(way.columns)]
    if way.chained:
        yield columns


def own_passes(way: Way, mask: np.ndarray, bank: np.ndarray) -> list[int]:
    """Cycles per K chunk of each residual tile in which each element has a row of its own.

    A bank delivers each word once to all columns that want it in this pass; while one slice is at work the other one's
    words come. mask: bool [rows, outputs]; bank [rows]: where each row of A lies.
    """
    rows, outputs = mask.shape
    if way.shared > 1:  # columns that share a register have one list
        mask = np.repeat(mask.reshape(rows, -1, way.shared).any(2), way.shared, axis=1)
    classes = way.rows // way.choices  # rows of a class lie in `choices` banks
    members = [np.flatnonzero(bank % classes == q) for q in range(classes)]
    listed = [{int(row): set(np.flatnonzero(mask[row])) for row in part if mask[row].any()} for part in members]
    counts = np.array([mask[part].sum(0) for part in members])
    needs = -(-counts.max(0) // way.choices)
    found = []
    for columns in columns_in_turn(way, outputs, needs):
        for turn in range(max(map(len, columns), default=0)):
            active = Counter(work[turn] for work in columns if turn < len(work) and work[turn] != NONE)
            found.append(_chunk_cycles(way, max(_words(way, left, active) for left in listed)))
    assert not any(outputs for left in listed for outputs in left.values()), "some elements were not finished"
    return found


def _words(way: Way, left: dict[int, set[int]], active: Counter[int]) -> int:
    """Most words of one bank in one pass; removes from `left` (row -> outputs) what the pass takes.

    active: how many columns are at work on each output. The list builder goes over the rows once for each threshold,
    and takes a row for all columns that still want one, if they are so many.
    """
    wanting = {o: count * way.choices for o, count in active.items()}
    words = [0] * way.choices
    for threshold in THRESHOLDS if way.popular else (1,):
        for outputs in left.values():
            takers = [o for o in outputs if wanting.get(o, 0)]
            if len(takers) < threshold or not takers:
                continue
            for copy in {wanting[o] % way.choices for o in takers}:
                words[copy] += 1
            for o in takers:
                wanting[o] -= 1
                outputs.discard(o)
    return max(words)


def _chunk_cycles(way: Way, words: int) -> int:
    loads = -(-words // way.words)
    high = HIGH_SLICE if way.merged else max(HIGH_SLICE, DRAIN)
    return max(high, loads) + max(LOW_SLICE, loads)


def blocks_of(way: Way, gradient: Gradient, shape: tuple[int, int], order: str) -> Iterator[tuple[np.ndarray, slice]]:
    """(rows in the order in which they stand in the tiles, outputs) of each block whose sums are in SUMS together."""
    rows, outputs = shape
    squared = gradient.taps**2
    channels = rows // squared
    col_tiles = -(-outputs // way.columns)
    room = way.sum_tiles * SUMS_OF_TILE // (way.rows * way.columns)
    index = np.arange(rows).reshape(channels, squared)
    parts = [index.ravel() if order == "c,kh,kw" else index.T.ravel()]
    groups = ceil(ceil(rows / way.rows) * col_tiles / room)
    if order == "16 c,kh,kw,c":
        size = 16 * -(-channels // (16 * groups))
        parts = [index[first : first + size].T.ravel() for first in range(0, channels, size)]
    elif groups > 1:
        size = way.rows * -(-rows // (way.rows * groups))
        parts = [parts[0][first : first + size] for first in range(0, rows, size)]
    for part in parts:
        row_tiles = -(-len(part) // way.rows)
        sets = -(-col_tiles // max(1, room // row_tiles))
        width = way.columns * -(-col_tiles // sets)
        for first in range(0, outputs, width):
            yield part, slice(first, min(first + width, outputs))


def banks_of(way: Way, gradient: Gradient, part: np.ndarray, order: str) -> np.ndarray:
    """The bank of each row of a block: its place in its tile, turned by the tap of the tile's first row (where channels
    lead: by the number of the tile)."""
    place = np.arange(len(part))
    tile = place // way.rows
    turn = tile if order == "c,kh,kw" else part[tile * way.rows] % gradient.taps**2
    return (place + turn * way.rotated) % way.rows


def cycle_work(way: Way, gradient: Gradient, unresolved: np.ndarray, order: str) -> float:
    """Cycles with PSG over cycles of the full product. unresolved: bool [rows, outputs]."""
    chunks = -(-next(iter(gradient.sums.values())).length // LANES)
    blocks = list(blocks_of(way, gradient, unresolved.shape, order))
    whole, least, with_psg = 0.0, 0.0, 0.0
    for part, outputs in blocks:
        mask = unresolved[part, outputs]
        row_tiles = -(-len(part) // way.rows)
        tiles = row_tiles * -(-mask.shape[1] // way.columns)
        load = len(part) + 2 * mask.shape[1]
        whole += _walk(chunks, row_tiles, tiles * FULL, load)
        first = _walk(chunks, row_tiles, tiles * FIRST, load)
        passes = own_passes(way, mask, banks_of(way, gradient, part, order)) if way.own else packed_passes(way, mask)
        least += first + _walk(chunks, row_tiles, 1, load)
        with_psg += first + _walk(chunks, row_tiles * way.choices, sum(passes), load)
        scans = len(THRESHOLDS) if way.popular else 1
        with_psg += mask.size / COMPARED + scans * len(passes) * tiles * way.rows / 2  # the lists shrink evenly
    if len(blocks) > 1:
        with_psg += 2 * unresolved.size * SUM_BITS / LINK_BITS
    return 1.0 if least > whole else with_psg / whole  # loading alone takes longer: the planner does the full product


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


def stage_of(gradient: Gradient) -> str:
    if gradient.layer == "conv":
        return "first"
    if gradient.taps == 1:
        return "1x1"
    return {1024: "stage 1", 256: "stage 2", 64: "stage 3"}[gradient.pixels]


#: of rows: as the store has them; channels first; as the store has them, in blocks of 16 channels or multiples of it
ORDERS = ("kh,kw,c", "c,kh,kw", "16 c,kh,kw,c")
STAGES = ("first", "stage 1", "stage 2", "stage 3", "1x1")


def macs(gradient: Gradient) -> int:
    sums = next(iter(gradient.sums.values()))
    return sums.length * sums.first.numel()


def row_of(way: Way, found: list[tuple[Gradient, np.ndarray]], order: str) -> str:
    works, weights, by_stage = [], [], {name: [] for name in STAGES}
    for gradient, unresolved in found:
        works.append(cycle_work(way, gradient, unresolved, order))
        weights.append(macs(gradient))
        by_stage[stage_of(gradient)].append(works[-1])
    stages = " | ".join(f"{np.mean(part):.3f}" for part in by_stage.values())
    weighted = np.average(works, weights=weights)
    return f"| {way.name} | **{np.mean(works):.3f}** | {weighted:.3f} | {max(works):.3f} | {stages} |"


def main(folder: Path, steps: int, beta: float) -> None:
    for mode in (Mode.EXACT, Mode.LAGGED):
        found = [(g, (~d.resolved).numpy()) for g, d in decisions(folder, PREDICTOR, beta, mode, steps=steps)]
        for order in ORDERS:
            share = np.mean([mask.mean() for _, mask in found])
            print(f"\n{PREDICTOR}, beta {beta}, {mode}: {share:.3f} unresolved; rows in the order ({order})\n")
            print("| way | mean | by MACs | worst |", " | ".join(STAGES), "|")
            print("| --- " * (4 + len(STAGES)) + "|")
            for way in WAYS:
                print(row_of(way, found, order), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if sys.argv[3:] else 0.05)
