"""Chooses how a matrix product is cut into blocks that fit the device, by what they will cost, without any data.

A block is so many row tiles, column tiles and K chunks; it is gathered into cells (A and B), multiplied, and its sums
are read. `bitfirst.schedule` puts the blocks in order.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate, chain, product
from math import ceil, lcm
from typing import NamedTuple

import numpy as np
from bitfirst_hdl.config import SETUP_CYCLES, ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.numeric import answer_words
from bitfirst_hdl.contract.packets import OCTET_BITS, Sign, Target

from .cells import write_words
from .errors import UsageError
from .golden.loads import load_cost
from .lowering import RAW_BITS, Gather, MatrixProduct, Width

FRAME_WORDS = 2  # header and trailer
MOST_COUNT = 0xFFFF  # positions or taps of one LOAD
COMMAND_CYCLES = 12  # rough: to take one command
BLOCK_CYCLES = (400, 800, 1600, 3200)  # of array or gather unit, for the largest blocks that are tried
USUAL_SUM_BITS = 24  # plans do not depend on the width in which sums are read
SUMS_ABREAST = 4  # most that are read in a cycle
ROW_CYCLES = 1.5  # least for a row of sums that is read
GROWTH = 1.2  # from one of the first blocks to the next: they are loaded about as fast as multiplied
SMALLEST_SHARE = 4  # of the largest block, the first and last one
LEAST_OVERLAP = 0.05  # rough: of what does not limit, so much is not hidden behind what does


def tiles_of(total: int, size: int) -> int:
    """Pieces of `size` that cover `total`."""
    return -(-total // size)


@dataclass(frozen=True)
class Shape:
    """A matrix product in numbers: result [rows, columns], K = sum of `depths`, one for each of its segments.

    `a_gather`, `b_gather`: how the first segment's operands lie in their tensors.
    """

    rows: int
    columns: int
    depths: tuple[int, ...]
    a: Width
    b: Width
    a_gather: Gather
    b_gather: Gather

    @classmethod
    def of(cls, product: MatrixProduct) -> "Shape":
        first = product.segments[0]
        depths = tuple(segment.depth for segment in product.segments)
        return cls(product.rows, product.columns, depths, product.a, product.b, first.a_gather, first.b_gather)

    @property
    def depth(self) -> int:
        return sum(self.depths)


@dataclass(frozen=True)
class Fetch:
    """Where the data of one READ belong: row_tiles x col_tiles tiles of rows x cols elements from [row, column].

    `bits` of each, a multiple of 4, or `packets.SIGN_BITS`: they are signs.
    """

    row: int
    column: int
    row_tiles: int
    col_tiles: int
    rows: int
    cols: int
    bits: int

    @property
    def elements(self) -> int:
        return self.row_tiles * self.col_tiles * self.rows * self.cols

    @property
    def words(self) -> int:
        """Data words of the answer."""
        return answer_words(self.elements, self.bits, compare=self.bits == packets.SIGN_BITS)

    @property
    def cycles(self) -> int:
        """Of the readout, about, without what the first and last sum take through its pipeline; exact for whole words.

        A row that ends within a word takes up to two more.
        """
        rows = self.elements // self.cols
        return ceil(rows * max(ROW_CYCLES, self.cols / sums_a_cycle(self.bits)))

    def place(self, elements: np.ndarray, result: np.ndarray) -> None:
        """Put the elements into `result`, an integer array [rows, columns]."""
        tiles = elements.reshape(self.row_tiles, self.col_tiles, self.rows, self.cols).swapaxes(1, 2)
        height, width = self.row_tiles * self.rows, self.col_tiles * self.cols
        result[self.row : self.row + height, self.column : self.column + width] = tiles.reshape(height, width)


def store_sums(answers: Sequence[tuple[Fetch, np.ndarray, np.ndarray]]) -> None:
    """Put the data words of READs where they belong: (fetch, uint64 words, integer result [rows, columns]) of each.

    Their sums have the same width, and are unpacked at once. An operation in which nothing meets has no READs.
    """
    if not answers:
        return
    bits = answers[0][0].bits
    period = lcm(bits, packets.WORD_BITS) // packets.WORD_BITS  # words after which a sum begins with a word again
    sizes = (tiles_of(len(words), period) * period for _, words, _ in answers)
    starts = list(accumulate(sizes, initial=0))
    joined = np.zeros(starts[-1], dtype="<u8")
    for start, (_, words, _) in zip(starts, answers, strict=False):
        joined[start : start + len(words)] = words
    sums = unpack_sums(joined, bits)
    for start, (fetch, _, result) in zip(starts, answers, strict=False):
        first = start * packets.WORD_BITS // bits
        fetch.place(sums[first : first + fetch.elements], result)


def store_signs(fetch: Fetch, words: np.ndarray, result: np.ndarray) -> int:
    """Put the signs that a READ answers with (`Sign`) into an integer array; returns the largest magnitude."""
    octets = np.ascontiguousarray(words[:-1], dtype="<u8").view(np.uint8)
    per_octet = OCTET_BITS // packets.SIGN_BITS
    places = packets.SIGN_BITS * np.arange(per_octet, dtype=np.uint8)
    codes = (octets[:, None] >> places & max(Sign)).reshape(-1)
    fetch.place(codes[: fetch.elements], result)
    return int(words[-1])


def unpack_sums(words: np.ndarray, bits: int) -> np.ndarray:
    """The signed numbers of `bits` bits (a multiple of 4 up to 32, or 64) that lie in uint64 words without gaps."""
    whole = np.ascontiguousarray(words, dtype="<u8")
    if bits in (8, 16, 32, 64):
        return whole.view(f"<i{bits // 8}")
    pair_octets = bits // 4
    octets = np.zeros(whole.nbytes + packets.WORD_BYTES, dtype=np.uint8)  # the last pair is read with what is behind it
    octets[: whole.nbytes] = whole.view(np.uint8)
    pairs = np.ndarray(tiles_of(whole.nbytes, pair_octets), "<i8", octets, strides=(pair_octets,))
    numbers = np.empty((len(pairs), 2), dtype=np.int64)
    for place in range(2):  # to the top, which drops what is behind; then down with its sign
        np.left_shift(pairs, packets.WORD_BITS - (place + 1) * bits, out=numbers[:, place])
    numbers >>= packets.WORD_BITS - bits
    return numbers.reshape(-1)


@dataclass(frozen=True)
class Digits:
    """Which slices of A and planes of B a MATMUL takes, and how: fields of `packets.Matmul`."""

    slices: int
    planes: int
    a_first: int
    b_first: int
    a_offset: int
    b_negative: int
    a_below: int = 0
    b_below: int = 0


@dataclass(frozen=True)
class Part:
    """The part of an output block that one MATMUL computes: full column tiles, or the ragged last one."""

    col_tile: int  # within the block
    col_tiles: int
    cols: int
    sum_tile: int  # within the block's region


@dataclass(frozen=True)
class Block:
    """One step: places in row tiles, column tiles, and chunks of a segment; sizes are those of this very block."""

    row_tile: int
    col_tile: int
    segment: int
    chunk: int
    height: int  # rows
    width: int  # columns
    depth: int  # lanes
    first: bool  # of its output block
    last: bool


def _evenly(total: int, most: int) -> list[int]:
    """Pieces of `total`, none above `most`, as equal as can be."""
    count = tiles_of(total, most)
    return [total // count + (index < total % count) for index in range(count)]


def _pieces(total: int, most: int, begins: bool, ends: bool) -> list[int]:
    """`total` in pieces of at most `most`; small ones first where the work `begins`, and last where it `ends`."""
    head, tail, left = [], [], total
    size = max(1, most // SMALLEST_SHARE)
    while size < most and left > 2 * size and (begins or ends):
        if begins:
            head.append(size)
            left -= size
        if ends and left > size:
            tail.append(size)
            left -= size
        size = max(size + 1, int(size * GROWTH))
    return [*head, *(_evenly(left, most) if left else []), *reversed(tail)]


@dataclass(frozen=True)
class Plan:
    """How `shape` is computed on `config`: largest blocks in tiles and chunks, and the order of the loops.

    `begins`, `ends`: it is the first or last product of an operation. Then the first blocks are small, so that the
    array has work soon, and the last, so that little is left to do after the last LOAD and MATMUL.
    """

    config: ArrayConfig
    shape: Shape
    row_tiles: int
    col_tiles: int
    chunks: int
    rows_outer: bool
    begins: bool = False
    ends: bool = False

    # sizes
    @property
    def slices(self) -> int:
        return self.config.slices_of(self.shape.a.bits)

    @property
    def planes(self) -> int:
        return self.config.planes_of(self.shape.b.bits)

    @property
    def a_first(self) -> int:
        """Operands lie right-aligned in their octets."""
        return self.shape.a.octets * self.config.slices_per_octet - self.slices

    @property
    def b_first(self) -> int:
        return self.shape.b.octets * OCTET_BITS - self.planes

    @property
    def whole(self) -> Digits:
        """All of both operands."""
        a, b = self.shape.a, self.shape.b
        signs = a.signed_slices(self.slices, self.config.slice_bits), b.negative_planes(self.planes)
        return Digits(self.slices, self.planes, self.a_first, self.b_first, *signs)

    @property
    def leading(self) -> Digits:
        """The high parts alone, at their weight in the whole product: the doublings are as few as can be."""
        a, b, size = self.shape.a, self.shape.b, self.config.slice_bits
        slices, weight = self.slices - a.low // size, a.low + b.low
        a_below = min(weight // size, self.config.max_slices - slices)
        below = a_below, weight - a_below * size
        return Digits(slices, b.bits - b.low, self.a_first, self.b_first, int(a.signed), int(b.signed), *below)

    @property
    def rest(self) -> tuple[Digits, Digits]:
        """What `leading` leaves out: A's high part with B's low one, A's low part with all of B."""
        a, b, size = self.shape.a, self.shape.b, self.config.slice_bits
        low = a.low // size
        slices, planes = self.slices - low, b.bits - b.low
        return (
            Digits(slices, b.low, self.a_first, self.b_first + planes, int(a.signed), 1, low),
            Digits(low, b.bits, self.a_first + slices, self.b_first, 1, b.negative_planes(self.planes)),
        )

    @cached_property
    def total_row_tiles(self) -> int:
        return tiles_of(self.shape.rows, self.config.rows)

    @cached_property
    def total_col_tiles(self) -> int:
        return tiles_of(self.shape.columns, self.config.columns)

    @cached_property
    def total_chunks(self) -> int:
        return sum(tiles_of(depth, self.config.lanes) for depth in self.shape.depths)

    @cached_property
    def row_sizes(self) -> list[int]:
        """Row tiles of each block."""
        return _evenly(self.total_row_tiles, self.row_tiles)

    @cached_property
    def col_sizes(self) -> list[int]:
        """Column tiles of each block."""
        graded = self._whole_depth and (len(self.row_sizes) == 1 or not self.rows_outer)
        return _pieces(self.total_col_tiles, self.col_tiles, graded and self.begins, graded and self.ends)

    @cached_property
    def k_sizes(self) -> list[list[int]]:
        """Chunks of each block of each segment."""
        graded = not self._whole_depth and len(self.row_sizes) == len(self.col_sizes) == 1
        totals = [tiles_of(depth, self.config.lanes) for depth in self.shape.depths]
        last = len(totals) - 1
        return [
            _pieces(total, self.chunks, graded and self.begins and index == 0, graded and self.ends and index == last)
            for index, total in enumerate(totals)
        ]

    @property
    def _whole_depth(self) -> bool:
        """Whether the depth is not cut."""
        return len(self.shape.depths) == 1 and self.total_chunks <= self.chunks

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along rows, columns and K."""
        return len(self.row_sizes), len(self.col_sizes), sum(map(len, self.k_sizes))

    def fits(self, copies: int) -> bool:
        """Whether the cells hold so many blocks, or all of them, and SUMS so many output blocks."""
        return _fits(self.config, self.shape, (self.row_tiles, self.col_tiles, self.chunks), self.counts, copies)

    # costs
    @cached_property
    def multiplications(self) -> dict[str, int]:
        """The counters of all MATMULs."""
        totals = dict.fromkeys(("matmuls", "matmul_cycles", "array_steps", "stall_cycles"), 0)
        for (row_tiles, row_blocks), (chunks, k_blocks), (width, col_blocks) in product(
            Counter(self.row_sizes).items(),
            Counter(chain(*self.k_sizes)).items(),
            Counter(width for _, width in self._columns).items(),
        ):
            for part in self.matmuls(row_tiles, width):
                size = (self.slices, self.planes, chunks, row_tiles, part.col_tiles)
                count = row_blocks * k_blocks * col_blocks
                totals["matmuls"] += count
                totals["matmul_cycles"] += count * self.config.matmul_cycles(*size)
                totals["array_steps"] += count * self.config.array_steps(*size)
                totals["stall_cycles"] += count * self.config.stall_cycles(*size)
        return totals

    @cached_property
    def waste(self) -> dict[str, int]:
        """Bit-MAC slots of the array's steps by what they were for, adding up to all of them.

        "dense": numbers of the operands, zeros of the halo among them; else what fills up digits, lanes, columns, rows.
        """
        shape, config = self.shape, self.config
        steps = config.array_steps(self.slices, self.planes, 1, 1, 1)
        digits = steps * config.bit_macs_per_cycle // (config.rows * config.columns * config.lanes)
        rows, columns = self.total_row_tiles * config.rows, self.total_col_tiles * config.columns
        lanes = self.total_chunks * config.lanes
        dense = shape.rows * shape.columns * shape.depth
        return {
            "dense": dense * shape.a.bits * shape.b.bits,
            "digits": dense * (digits - shape.a.bits * shape.b.bits),
            "lanes": shape.rows * shape.columns * (lanes - shape.depth) * digits,
            "columns": shape.rows * (columns - shape.columns) * lanes * digits,
            "rows": (rows - shape.rows) * columns * lanes * digits,
        }

    # pieces
    @cached_property
    def _columns(self) -> list[tuple[int, int]]:
        """(first tile, columns) of the blocks."""
        return _spans(self.col_sizes, self.config.columns, self.shape.columns)

    def blocks(self) -> Iterator[Block]:
        """In the order of execution."""
        rows, columns = _spans(self.row_sizes, self.config.rows, self.shape.rows), self._columns
        pieces = [
            (segment, *span)
            for segment, (sizes, depth) in enumerate(zip(self.k_sizes, self.shape.depths, strict=True))
            for span in _spans(sizes, self.config.lanes, depth)
        ]
        outer, inner = (rows, columns) if self.rows_outer else (columns, rows)
        for output in product(outer, inner):
            (row, height), (column, width) = output if self.rows_outer else output[::-1]
            for index, (segment, chunk, depth) in enumerate(pieces):
                yield Block(row, column, segment, chunk, height, width, depth, index == 0, index == len(pieces) - 1)

    def matmuls(self, row_tiles: int, width: int) -> list[Part]:
        """The MATMULs of an output block `width` columns wide; in a single row, ragged tiles lie behind the others."""
        if row_tiles > 1:
            return self.parts(row_tiles, width)
        return [Part(0, tiles_of(width, self.config.columns), self.config.columns, 0)]

    def parts(self, row_tiles: int, width: int) -> list[Part]:
        """Full column tiles, and the ragged last one, of an output block `width` columns wide."""
        whole, rest = divmod(width, self.config.columns)
        parts = [Part(0, whole, self.config.columns, 0), Part(whole, 1 if rest else 0, rest, row_tiles * whole)]
        return [part for part in parts if part.col_tiles]

    def fetches(self, block: Block, bits: int) -> Iterator[tuple[int, Fetch]]:
        """(first tile within the region, what to fetch) of the READs of an output block, each sum in `bits` bits."""
        row_tiles = tiles_of(block.height, self.config.rows)
        whole, rest = divmod(block.height, self.config.rows)
        bands = [(0, whole, self.config.rows), (whole, 1 if rest else 0, rest)]
        for part in self.parts(row_tiles, block.width):
            for first, tiles, rows in bands:
                yield from self._band(block, part, first, tiles, rows, bits)

    def _band(
        self, block: Block, part: Part, first: int, tiles: int, rows: int, bits: int
    ) -> Iterator[tuple[int, Fetch]]:
        """READs of `tiles` rows of tiles of a part: several whole rows of tiles each, or pieces of one."""
        if not tiles:
            return
        most = sums_per_answer(bits) // (rows * part.cols)
        if not most:
            raise UsageError(
                f"a tile of {rows} x {part.cols} sums of {bits} bits does not fit one answer: choose an array with "
                "fewer rows or columns"
            )
        down = max(1, min(most // part.col_tiles, tiles))
        right = min(most, part.col_tiles)
        for i, j in product(range(first, first + tiles, down), range(0, part.col_tiles, right)):
            height, width = min(down, first + tiles - i), min(right, part.col_tiles - j)
            yield (
                part.sum_tile + i * part.col_tiles + j,
                Fetch(
                    row=(block.row_tile + i) * self.config.rows,
                    column=(block.col_tile + part.col_tile + j) * self.config.columns,
                    row_tiles=height,
                    col_tiles=width,
                    rows=rows,
                    cols=part.cols,
                    bits=bits,
                ),
            )


def _spans(sizes: list[int], unit: int, total: int) -> list[tuple[int, int]]:
    """(first, how many of `total` that lie in it) of pieces of so many units."""
    starts = accumulate(sizes, initial=0)
    return [(start, min(size * unit, total - start * unit)) for start, size in zip(starts, sizes, strict=False)]


def _fits(
    config: ArrayConfig, shape: Shape, size: tuple[int, int, int], counts: tuple[int, int, int], copies: int
) -> bool:
    """Whether the device holds so many blocks, or all there are; `size` and `counts` along rows, columns and K."""
    (row_tiles, col_tiles, chunks), (row_blocks, col_blocks, k_blocks) = size, counts
    return (
        row_tiles * shape.a.octets * chunks * min(copies, row_blocks * k_blocks) <= config.a_cells
        and col_tiles * shape.b.octets * chunks * min(copies, col_blocks * k_blocks) <= config.b_cells
        and row_tiles * col_tiles * min(copies, row_blocks * col_blocks) <= config.sum_tiles
    )


def sums_per_answer(bits: int) -> int:
    """Most sums that one READ can answer with."""
    words = packets.MAX_DATA_WORDS - (bits == packets.SIGN_BITS)  # behind signs comes their largest magnitude
    return words * packets.WORD_BITS // bits


def usual_sum_bits(config: ArrayConfig) -> int:
    """The width in which sums are read, as plans take it."""
    return USUAL_SUM_BITS if config.requantises else RAW_BITS


def sums_a_cycle(bits: int) -> float:
    """That are read in whole rows, on average: no more than fill a word."""
    return min(SUMS_ABREAST, packets.WORD_BITS / bits)


# choosing
def _sizes(total: int, most: int) -> Iterator[int]:
    """Sensible sizes of equal pieces of `total`, none above `most`: the largest first, each well below the last."""
    size = tiles_of(total, tiles_of(total, most)) if most > 0 else 0
    while size:
        yield size
        size = tiles_of(total, tiles_of(total, size * 3 // 4)) if size > 1 else 0


class Option(NamedTuple):
    """Block sizes and order of a plan, and roughly estimated cycles.

    block   of array or gather unit for one block
    cycles  in all
    fill    until all parts are at work
    """

    row_tiles: int
    col_tiles: int
    chunks: int
    rows_outer: bool
    block: float
    cycles: float
    fill: float


class _Options:
    """All sensible plans of a shape, without making them."""

    def __init__(self, config: ArrayConfig, shape: Shape) -> None:
        self.config = config
        self.shape = shape
        self.rows, self.columns = tiles_of(shape.rows, config.rows), tiles_of(shape.columns, config.columns)
        self.depths = [tiles_of(depth, config.lanes) for depth in shape.depths]
        self.digits = config.slices_of(shape.a.bits), config.planes_of(shape.b.bits)
        self.sum_bits = usual_sum_bits(config)
        self.depth, self.elements = sum(self.depths), shape.rows * shape.columns
        self.steps = config.array_steps(*self.digits, self.depth, self.rows, self.columns)
        self.most_read = sums_per_answer(self.sum_bits)
        self.read_cycles = self.elements / sums_a_cycle(self.sum_bits)
        self.answer_words = self.elements * self.sum_bits / packets.WORD_BITS
        self.answer_cycles = 1 / sums_a_cycle(self.sum_bits) + self.sum_bits / config.link_bits  # of a sum: read, sent
        self.per_word = packets.WORD_BITS / config.link_bits
        self._loads: dict[tuple[Target, int, int], tuple[int, int]] = {}

    def all(self) -> list[Option]:
        """Those whose blocks fit the cells thrice, or twice, or once."""
        return next(found for copies in (3, 2, 1) if (found := list(self._fitting(copies))))

    def _fitting(self, copies: int) -> Iterator[Option]:
        config, shape = self.config, self.shape
        a_cells, b_cells = config.a_cells // shape.a.octets, config.b_cells // shape.b.octets
        for chunks in _sizes(max(self.depths), min(a_cells, b_cells, MOST_COUNT // config.lanes)):
            for row_tiles in _sizes(self.rows, min(a_cells // chunks, config.sum_tiles, MOST_COUNT // config.rows)):
                most = min(b_cells // chunks, config.sum_tiles // row_tiles, MOST_COUNT // config.columns)
                for limit in {most, *(min(most, limit) for limit in self._limits(row_tiles, chunks))}:
                    sizes = (size for size in _sizes(self.columns, limit))
                    size = next((size for size in sizes if self._fits(row_tiles, size, chunks, copies)), 0)
                    if size:
                        yield from self._both(row_tiles, size, chunks)

    def _limits(self, row_tiles: int, chunks: int) -> Iterator[int]:
        """Column tiles that go into one answer, and those that keep array and gather unit busy for so long."""
        config = self.config
        yield max(1, sums_per_answer(self.sum_bits) // (config.rows * config.columns * row_tiles))
        cycles = max(config.array_steps(*self.digits, chunks, row_tiles, 1), self._load(Target.B, 1, chunks)[0])
        for most in BLOCK_CYCLES:
            yield max(1, most // cycles)

    def _fits(self, row_tiles: int, col_tiles: int, chunks: int, copies: int) -> bool:
        counts = self._counts(row_tiles, col_tiles, chunks)
        return _fits(self.config, self.shape, (row_tiles, col_tiles, chunks), counts, copies)

    def _counts(self, row_tiles: int, col_tiles: int, chunks: int) -> tuple[int, int, int]:
        """Blocks along rows, columns and K."""
        k_blocks = sum(tiles_of(depth, chunks) for depth in self.depths)
        return tiles_of(self.rows, row_tiles), tiles_of(self.columns, col_tiles), k_blocks

    def _both(self, row_tiles: int, col_tiles: int, chunks: int) -> Iterator[Option]:
        """The options with blocks of this size: rows outside, columns outside."""
        config, shape = self.config, self.shape
        row_blocks, col_blocks, k_blocks = self._counts(row_tiles, col_tiles, chunks)
        a_cycles, a_size = self._load(Target.A, row_tiles, chunks)
        b_cycles, b_size = self._load(Target.B, col_tiles, chunks)
        a_gather, b_gather = a_cycles * self.rows * self.depth / a_size, b_cycles * self.columns * self.depth / b_size
        a_slots = config.a_cells // (row_tiles * shape.a.octets * chunks)
        b_slots = config.b_cells // (col_tiles * shape.b.octets * chunks)
        size = (*self.digits, chunks, row_tiles, col_tiles)
        in_block = row_tiles * col_tiles * config.rows * config.columns
        matmuls = row_blocks * col_blocks * k_blocks
        engine = self.steps + matmuls * (config.stall_cycles(*size) + SETUP_CYCLES + COMMAND_CYCLES)
        reads = tiles_of(self.elements, min(self.most_read, in_block))
        block = max(config.array_steps(*size), a_cycles + b_cycles)
        fill = a_cycles + b_cycles + config.matmul_tail_cycles + min(self.elements, in_block) * self.answer_cycles
        for rows_outer in (True, False):
            # how often all of an operand is loaded, about
            a_times = _times_loaded(row_blocks * k_blocks, k_blocks, a_slots, col_blocks, rows_outer)
            b_times = _times_loaded(col_blocks * k_blocks, k_blocks, b_slots, row_blocks, not rows_outer)
            commands = (a_times * row_blocks + b_times * col_blocks) * k_blocks + matmuls + reads
            gather = a_gather * a_times + b_gather * b_times
            link_in = commands * (packets.COMMAND_WORDS + FRAME_WORDS) * self.per_word
            if not config.gathers:
                link_in, gather = link_in + gather, 0
            link_out = (self.answer_words + commands * (1 + FRAME_WORDS)) * self.per_word
            work = engine, gather, link_in, link_out, self.read_cycles
            rough = max(work) + LEAST_OVERLAP * sum(work)
            yield Option(row_tiles, col_tiles, chunks, rows_outer, block, rough, fill)

    def _load(self, target: Target, tiles: int, chunks: int) -> tuple[int, int]:
        """(cycles, tiles * chunks) of a block's LOAD."""
        key = target, tiles, chunks
        if key not in self._loads:
            config, shape = self.config, self.shape
            is_a = target == Target.A
            gather, width = (shape.a_gather, shape.a) if is_a else (shape.b_gather, shape.b)
            size = config.rows if is_a else config.columns
            vectors, lanes = min(tiles * size, gather.vectors), min(chunks * config.lanes, gather.lanes)
            fields = gather.fields(0, vectors, 0, lanes) | {"target": int(target)}
            if config.gathers:
                cycles = load_cost(config, fields, gather.shape, width.octets).cycles
            else:
                cycles = sum(write_words(config, fields, width.octets)) * packets.WORD_BITS // config.link_bits
            self._loads[key] = cycles, tiles_of(vectors, size) * tiles_of(lanes, config.lanes)
        return self._loads[key]


def _times_loaded(blocks: int, k_blocks: int, slots: int, others: int, inner: bool) -> int:
    """How often an operand of so many blocks is loaded: for each of the `others`, or once where it stays in `slots`."""
    return 1 if blocks <= slots or (inner and k_blocks < slots) else others


@lru_cache(maxsize=1024)
def _options(config: ArrayConfig, shape: Shape) -> tuple[Option, ...]:
    return tuple(_Options(config, shape).all())


@lru_cache(maxsize=4096)
def plan(
    config: ArrayConfig, shape: Shape, most_cycles: int | None = None, a_block: tuple[int, int] | None = None
) -> tuple[Plan, float]:
    """The plan for `shape` with the least estimated cycles, and these.

    With `most_cycles`, among those where no block keeps array or gather unit busy for longer, or the smallest blocks.
    With `a_block`, row tiles and chunks of a block, among those that have such ones, if there are any.
    """
    options = _options(config, shape)
    options = [option for option in options if (option.row_tiles, option.chunks) == a_block] or options
    if most_cycles is None:
        best = min(options, key=lambda option: option.cycles + option.fill)
    else:
        limit = max(most_cycles, min(option.block for option in options))
        best = min((option for option in options if option.block <= limit), key=lambda option: option.cycles)
    return Plan(config, shape, best.row_tiles, best.col_tiles, best.chunks, best.rows_outer), best.cycles
