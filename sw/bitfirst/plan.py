"""Chooses how a matrix product is cut into blocks that fit the device, by what they will cost, without any data.

A block is so many row tiles, column tiles and K chunks; it is gathered into cells (A and B), multiplied, and its sums
are read. `bitfirst.schedule` puts the blocks in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from bitfirst_hdl.config import SETUP_CYCLES, ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Target

from .errors import UsageError
from .golden.loads import LoadCost, load_cost
from .lowering import Gather, MatrixProduct, Width

FRAME_WORDS = 2  # header and trailer
MOST_COUNT = 0xFFFF  # positions or taps of one LOAD
COMMAND_CYCLES = 8  # rough: to take one command
LEAST_OVERLAP = 0.05  # rough: of what does not limit, so much is not hidden behind what does


def tiles_of(total: int, size: int) -> int:
    """Pieces of `size` that cover `total`."""
    return -(-total // size)


@dataclass(frozen=True)
class Shape:
    """A matrix product in numbers: result [rows, columns], K = sum of `depths`, one for each of its segments.

    `a_gather`, `b_gather`: how the first segment's operands lie in their tensors. `sum_bits`: width of the sums read.
    """

    rows: int
    columns: int
    depths: tuple[int, ...]
    a: Width
    b: Width
    a_gather: Gather
    b_gather: Gather
    sum_bits: int

    @classmethod
    def of(cls, product: MatrixProduct, sum_bits: int) -> "Shape":
        first = product.segments[0]
        depths = tuple(segment.depth for segment in product.segments)
        return cls(
            product.rows, product.columns, depths, product.a, product.b, first.a_gather, first.b_gather, sum_bits
        )

    @property
    def depth(self) -> int:
        return sum(self.depths)

    @property
    def sums_per_answer(self) -> int:
        """Most sums that one READ can answer with."""
        return packets.MAX_DATA_WORDS * packets.WORD_BITS // self.sum_bits


@dataclass(frozen=True)
class Fetch:
    """Where the data of one READ belong: row_tiles x col_tiles tiles of rows x cols elements from [row, column]."""

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
        return -(-self.elements * self.bits // packets.WORD_BITS)

    def store(self, words: np.ndarray, result: np.ndarray) -> None:
        """Put the answer's data words (uint64) into `result`, an integer array [rows, columns]."""
        elements = unpack_sums(words, self.bits)[: self.elements]
        tiles = elements.reshape(self.row_tiles, self.col_tiles, self.rows, self.cols).swapaxes(1, 2)
        height, width = self.row_tiles * self.rows, self.col_tiles * self.cols
        result[self.row : self.row + height, self.column : self.column + width] = tiles.reshape(height, width)


def unpack_sums(words: np.ndarray, bits: int) -> np.ndarray:
    """The signed numbers of `bits` bits (a multiple of 4 up to 32, or 64) that lie in uint64 words without gaps."""
    octets = np.ascontiguousarray(words, dtype="<u8")
    if bits in (8, 16, 32, 64):
        return octets.view(f"<i{bits // 8}")
    octets = octets.view(np.uint8)
    pair_octets = bits // 4
    pairs = np.zeros((len(octets) // pair_octets + 1, 8), dtype=np.uint8)
    whole = len(octets) // pair_octets
    pairs[:whole, :pair_octets] = octets[: whole * pair_octets].reshape(whole, pair_octets)
    rest = octets[whole * pair_octets :]
    pairs[whole, : len(rest)] = rest
    both = pairs.view("<i8")
    unused = 64 - bits
    return np.concatenate([both << unused >> unused, both << unused - bits >> unused], axis=1).reshape(-1)


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


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the pieces when `total` is cut into pieces of `size`, the last one smaller."""
    whole, rest = divmod(total, size)
    return [piece for piece in ((size, whole), (rest, 1)) if piece[0] and piece[1]]


@dataclass(frozen=True)
class Plan:
    """How `shape` is computed on `config`: sizes of the blocks in tiles and chunks, and the order of the loops."""

    config: ArrayConfig
    shape: Shape
    row_tiles: int
    col_tiles: int
    chunks: int
    rows_outer: bool

    # sizes
    @property
    def slices(self) -> int:
        return tiles_of(self.shape.a.bits, self.config.slice_bits)

    @property
    def planes(self) -> int:
        return self.shape.b.bits

    @property
    def a_first(self) -> int:
        """Operands lie right-aligned in their octets."""
        return self.shape.a.octets * self.config.slices_per_octet - self.slices

    @property
    def b_first(self) -> int:
        return self.shape.b.octets * packets.OCTET_BITS - self.planes

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
    def counts(self) -> tuple[int, int, int]:
        """Blocks along rows, columns and K."""
        return (
            tiles_of(self.total_row_tiles, self.row_tiles),
            tiles_of(self.total_col_tiles, self.col_tiles),
            sum(blocks for _, blocks in self._k_sizes),
        )

    @cached_property
    def _k_sizes(self) -> list[tuple[int, int]]:
        """(chunks, how many) of the K blocks."""
        sizes: dict[int, int] = {}
        for depth in self.shape.depths:
            for chunks, blocks in _blocks(tiles_of(depth, self.config.lanes), self.chunks):
                sizes[chunks] = sizes.get(chunks, 0) + blocks
        return list(sizes.items())

    @cached_property
    def a_slots(self) -> int:
        return self.config.a_cells // (self.row_tiles * self.shape.a.octets * self.chunks)

    @cached_property
    def b_slots(self) -> int:
        return self.config.b_cells // (self.col_tiles * self.shape.b.octets * self.chunks)

    @cached_property
    def _a_times(self) -> int:
        """How often all of A is loaded, about: once, or for each column block."""
        row_blocks, col_blocks, k_blocks = self.counts
        kept = row_blocks * k_blocks <= self.a_slots or (self.rows_outer and k_blocks < self.a_slots)
        return 1 if kept else col_blocks

    @cached_property
    def _b_times(self) -> int:
        row_blocks, col_blocks, k_blocks = self.counts
        kept = col_blocks * k_blocks <= self.b_slots or (not self.rows_outer and k_blocks < self.b_slots)
        return 1 if kept else row_blocks

    def fits(self, copies: int) -> bool:
        """Whether the cells hold so many blocks, or all of them, and SUMS so many output blocks."""
        row_blocks, col_blocks, k_blocks = self.counts
        return (
            self.a_slots >= min(copies, row_blocks * k_blocks)
            and self.b_slots >= min(copies, col_blocks * k_blocks)
            and self.row_tiles * self.col_tiles * min(copies, row_blocks * col_blocks) <= self.config.sum_tiles
        )

    # costs
    @cached_property
    def multiplications(self) -> dict[str, int]:
        """The counters of all MATMULs."""
        totals = dict.fromkeys(("matmuls", "matmul_cycles", "array_steps", "stall_cycles"), 0)
        for (row_tiles, row_blocks), (chunks, k_blocks), (part, parts) in product(
            _blocks(self.total_row_tiles, self.row_tiles), self._k_sizes, self._parts_by_size
        ):
            size = (self.slices, self.planes, chunks, row_tiles, part)
            count = row_blocks * k_blocks * parts
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
        digits = self.slices * config.slice_bits * self.planes
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

    def load_cost(self, target: Target, vector: int, vectors: int, lane: int, lanes: int) -> LoadCost:
        """Of a LOAD from the first segment's tensors."""
        gather, width = self._side(target)
        fields = gather.fields(vector, vectors, lane, lanes) | {"target": int(target)}
        return load_cost(self.config, fields, gather.shape, width.octets)

    def _side(self, target: Target) -> tuple[Gather, Width]:
        shape = self.shape
        return (shape.a_gather, shape.a) if target == Target.A else (shape.b_gather, shape.b)

    def _first_load(self, target: Target) -> tuple[int, int, int]:
        """(cycles, tiles, chunks) of the first block's LOAD."""
        tiles, size = (
            (self.row_tiles, self.config.rows) if target == Target.A else (self.col_tiles, self.config.columns)
        )
        gather, _ = self._side(target)
        vectors, lanes = min(tiles * size, gather.vectors), min(self.chunks * self.config.lanes, gather.lanes)
        cost = self.load_cost(target, 0, vectors, 0, lanes)
        return cost.cycles, tiles_of(vectors, size), tiles_of(lanes, self.config.lanes)

    @cached_property
    def estimate(self) -> tuple[float, float]:
        """Rough cycles: (of the slowest of array, gather unit, link and readout; until all of them are at work)."""
        row_blocks, col_blocks, k_blocks = self.counts
        gather = fill = loads = 0.0
        for target, total, blocks, times in (
            (Target.A, self.total_row_tiles, row_blocks, self._a_times),
            (Target.B, self.total_col_tiles, col_blocks, self._b_times),
        ):
            cycles, tiles, chunks = self._first_load(target)
            gather += cycles * times * total * self.total_chunks / (tiles * chunks)
            loads += times * blocks * k_blocks
            fill += cycles
        steps = self.multiplications
        elements = self.shape.rows * self.shape.columns
        answers = tiles_of(elements, min(self.shape.sums_per_answer, self.row_tiles * self.col_tiles * self._tile_sums))
        commands = loads + steps["matmuls"] + answers
        per_word = packets.WORD_BITS / self.config.link_bits
        engine = steps["array_steps"] + steps["stall_cycles"] + steps["matmuls"] * (SETUP_CYCLES + COMMAND_CYCLES)
        link_in = commands * (packets.COMMAND_WORDS + FRAME_WORDS) * per_word
        link_out = (elements * self.shape.sum_bits / packets.WORD_BITS + commands * (1 + FRAME_WORDS)) * per_word
        work = (engine, gather, link_in, link_out, elements / 2)
        last = min(elements, self.row_tiles * self.col_tiles * self._tile_sums)
        fill += self.config.matmul_tail_cycles + max(last / 2, last * self.shape.sum_bits / self.config.link_bits)
        return max(work) + LEAST_OVERLAP * sum(work), fill

    @property
    def _tile_sums(self) -> int:
        return self.config.rows * self.config.columns

    @cached_property
    def _parts_by_size(self) -> list[tuple[int, int]]:
        """(column tiles, how many) of the MATMULs along one row block and one K block."""
        widths = _blocks(self.shape.columns, self.col_tiles * self.config.columns)
        return [(part.col_tiles, blocks) for width, blocks in widths for part in self.parts(self.row_tiles, width)]

    # pieces
    def blocks(self) -> Iterator[Block]:
        """In the order of execution."""
        rows, columns, _ = self.counts
        shape, config = self.shape, self.config
        height, width, depth = self.row_tiles * config.rows, self.col_tiles * config.columns, self.chunks * config.lanes
        pieces = [
            (segment, lane, min(depth, total - lane))
            for segment, total in enumerate(shape.depths)
            for lane in range(0, total, depth)
        ]
        for output in range(rows * columns):
            row, column = divmod(output, columns) if self.rows_outer else divmod(output, rows)[::-1]
            for index, (segment, lane, lanes) in enumerate(pieces):
                yield Block(
                    row * self.row_tiles,
                    column * self.col_tiles,
                    segment,
                    lane // config.lanes,
                    min(height, shape.rows - row * height),
                    min(width, shape.columns - column * width),
                    lanes,
                    index == 0,
                    index == len(pieces) - 1,
                )

    def parts(self, row_tiles: int, width: int) -> list[Part]:
        """The MATMULs of an output block `width` columns wide."""
        whole, rest = divmod(width, self.config.columns)
        parts = [Part(0, whole, self.config.columns, 0), Part(whole, 1 if rest else 0, rest, row_tiles * whole)]
        return [part for part in parts if part.col_tiles]

    def fetches(self, block: Block) -> Iterator[tuple[int, Fetch]]:
        """(first tile within the region, what to fetch) of the READs of an output block."""
        row_tiles = tiles_of(block.height, self.config.rows)
        whole, rest = divmod(block.height, self.config.rows)
        bands = [(0, whole, self.config.rows), (whole, 1 if rest else 0, rest)]
        for part in self.parts(row_tiles, block.width):
            for first, tiles, rows in bands:
                yield from self._band(block, part, first, tiles, rows)

    def _band(self, block: Block, part: Part, first: int, tiles: int, rows: int) -> Iterator[tuple[int, Fetch]]:
        """READs of `tiles` rows of tiles of a part: several whole rows of tiles each, or pieces of one."""
        bits = self.shape.sum_bits
        most = self.shape.sums_per_answer // max(rows * part.cols, 1)
        if tiles and not most:
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


# choosing
def _sizes(total: int, most: int) -> Iterator[int]:
    """Sensible sizes of equal pieces of `total`, none above `most`: the largest first, each well below the last."""
    size = tiles_of(total, tiles_of(total, most)) if most > 0 else 0
    while size:
        yield size
        size = tiles_of(total, tiles_of(total, size * 3 // 4)) if size > 1 else 0


def _candidates(config: ArrayConfig, shape: Shape, copies: int) -> Iterator[Plan]:
    """Plans whose blocks fit cells and sums `copies` times."""
    a_cells, b_cells = config.a_cells // shape.a.octets, config.b_cells // shape.b.octets
    rows, columns = tiles_of(shape.rows, config.rows), tiles_of(shape.columns, config.columns)
    depth = tiles_of(max(shape.depths), config.lanes)
    for chunks in _sizes(depth, min(a_cells, b_cells, MOST_COUNT // config.lanes)):
        for row_tiles in _sizes(rows, min(a_cells // chunks, config.sum_tiles, MOST_COUNT // config.rows)):
            most = min(b_cells // chunks, config.sum_tiles // row_tiles, MOST_COUNT // config.columns)
            one_answer = max(1, shape.sums_per_answer // (config.rows * config.columns * row_tiles))
            for limit in {most, min(most, one_answer)}:
                for col_tiles in _sizes(columns, limit):
                    candidate = Plan(config, shape, row_tiles, col_tiles, chunks, rows_outer=True)
                    if candidate.fits(copies):
                        yield candidate
                        yield replace(candidate, rows_outer=False)
                        break  # the widest that fits


@lru_cache(maxsize=4096)
def plan(config: ArrayConfig, shape: Shape, products: int = 1) -> Plan:
    """The plan for `shape` with the least estimated cycles, when it is one of so many `products` in a row."""
    candidates = next(found for copies in (3, 2, 1) if (found := list(_candidates(config, shape, copies))))
    return min(candidates, key=lambda candidate: candidate.estimate[0] + candidate.estimate[1] / products)
