"""Cuts one matrix product into commands, the same for every device, and says what they cost before any data is there.

`result[m, n] = sum over k of A[m, k] * B[n, k]`. Blocks of row tiles, column tiles and K chunks fit the memories at
least twice, so that one is loaded while another computes:

    W0 M0 W1 R0 M1 W2 R1 M2 ...

The K blocks of one output block add to the same partial sums, which are read once. A block that is still in its
memory is not sent again: that of the outer loop while the inner one runs, and all of a matrix that fits whole.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import numeric, packets
from bitfirst_hdl.contract.packets import Opcode, Space

from .command import Command
from .errors import UsageError

RAW_BITS = 64
FRAME_WORDS = 2  # header and trailer
COMMAND_CYCLES = 8  # rough, to weigh many small commands against few large ones


@dataclass(frozen=True)
class Shape:
    """A matrix product: result [rows, columns], K = depth, and the widths of its operands."""

    rows: int
    columns: int
    depth: int
    a_bits: int
    b_bits: int
    a_signed: bool
    b_signed: bool

    @property
    def largest_sum(self) -> int:
        """The largest magnitude that an element of the result can have."""
        limits = numeric.limits(self.a_bits, self.a_signed), numeric.limits(self.b_bits, self.b_signed)
        return self.depth * limits[0][1] * limits[1][1]

    @property
    def sum_bits(self) -> int:
        """Width in which sums are read: 8, 16 or 32 when the largest possible one fits, else raw."""
        return next((bits for bits in (8, 16, 32) if self.largest_sum <= numeric.limits(bits, True)[1]), RAW_BITS)

    @property
    def sums_per_answer(self) -> int:
        """Most sums that one READ can answer with. A block's second READ would hold up the next block's MATMUL."""
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
        elements = np.ascontiguousarray(words, dtype="<u8").view(f"<i{self.bits // 8}")[: self.elements]
        tiles = elements.reshape(self.row_tiles, self.col_tiles, self.rows, self.cols).swapaxes(1, 2)
        height, width = self.row_tiles * self.rows, self.col_tiles * self.cols
        result[self.row : self.row + height, self.column : self.column + width] = tiles.reshape(height, width)


@dataclass(frozen=True)
class Planned:
    """One command of a plan, in order.

    `reads_before`  so many READs of this plan, counted from its first, must have been answered before this command
                    is sent: it overwrites their sums, and a lost answer could not be asked for again.
    `fetch`         where the data of the answer belong, when the command is a READ.
    """

    command: Command
    reads_before: int = 0
    fetch: Fetch | None = None


@dataclass(frozen=True)
class Part:
    """The part of an output block that one MATMUL computes: full column tiles, or the ragged last one."""

    col_tile: int  # within the block
    col_tiles: int
    cols: int
    sum_tile: int  # within the block's region


def _blocks(total: int, size: int) -> list[tuple[int, int]]:
    """(size, how many) of the pieces when `total` is cut into pieces of `size`, the last one smaller."""
    whole, rest = divmod(total, size)
    return [piece for piece in ((size, whole), (rest, 1)) if piece[0] and piece[1]]


def _tiles(total: int, size: int) -> int:
    return -(-total // size)


@dataclass(frozen=True)
class Plan:
    """How `shape` is computed on `config`: sizes of the blocks in tiles and chunks, and the order of the loops.

    Give `commands` the operands as `packing.pack_a` and `packing.pack_b` make them.
    """

    config: ArrayConfig
    shape: Shape
    row_tiles: int
    col_tiles: int
    chunks: int
    rows_outer: bool

    # sizes
    @property
    def slices(self) -> int:
        return _tiles(self.shape.a_bits, self.config.slice_bits)

    @property
    def planes(self) -> int:
        return self.shape.b_bits

    @cached_property
    def total_row_tiles(self) -> int:
        return _tiles(self.shape.rows, self.config.rows)

    @cached_property
    def total_col_tiles(self) -> int:
        return _tiles(self.shape.columns, self.config.columns)

    @cached_property
    def total_chunks(self) -> int:
        return _tiles(self.shape.depth, self.config.lanes)

    @cached_property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along rows, columns and K."""
        return (
            _tiles(self.total_row_tiles, self.row_tiles),
            _tiles(self.total_col_tiles, self.col_tiles),
            _tiles(self.total_chunks, self.chunks),
        )

    @property
    def regions(self) -> int:
        """Parts of SUMS that output blocks take in turn: all there are, so that no MATMUL waits for an answer."""
        outputs = self.counts[0] * self.counts[1]
        return max(1, min(outputs, self.config.sum_tiles // (self.row_tiles * self.col_tiles)))

    @cached_property
    def a_slots(self) -> int:
        return self.config.a_depth // (self.row_tiles * self.slices * self.chunks)

    @cached_property
    def b_slots(self) -> int:
        return self.config.b_depth // (self.col_tiles * self.planes * self.chunks)

    @cached_property
    def _a_sent(self) -> int:
        """How often all of A is sent: once, or for each column block."""
        row_blocks, col_blocks, k_blocks = self.counts
        kept = row_blocks * k_blocks <= self.a_slots or (self.rows_outer and k_blocks <= self.a_slots)
        return 1 if kept else col_blocks

    @cached_property
    def _b_sent(self) -> int:
        row_blocks, col_blocks, k_blocks = self.counts
        kept = col_blocks * k_blocks <= self.b_slots or (not self.rows_outer and k_blocks <= self.b_slots)
        return 1 if kept else row_blocks

    def fits(self, copies: int) -> bool:
        """Whether each operand memory holds so many blocks, or all of them, and SUMS the output blocks."""
        row_blocks, col_blocks, k_blocks = self.counts
        return (
            self.a_slots >= min(copies, row_blocks * k_blocks)
            and self.b_slots >= min(copies, col_blocks * k_blocks)
            and self.row_tiles * self.col_tiles * min(copies, row_blocks * col_blocks) <= self.config.sum_tiles
        )

    # costs
    @cached_property
    def counters(self) -> dict[str, int]:
        """The execution counters that follow from the sizes alone, of all commands of the plan."""
        return {
            "commands": self._writes[0] + self._multiplications[0] + self._reads[0],
            "matmuls": self._multiplications[0],
            "matmul_cycles": self._multiplications[1],
            "array_steps": self._multiplications[2],
            "stall_cycles": self._multiplications[3],
            "words_written": self._writes[1],
            "elements_read": self.shape.rows * self.shape.columns,
        }

    @cached_property
    def words_to_device(self) -> int:
        """Words of all frames to the device."""
        return self._writes[1] + self.counters["commands"] * (packets.COMMAND_WORDS + FRAME_WORDS)

    @cached_property
    def words_from_device(self) -> int:
        """Words of all frames from the device."""
        return self._reads[1] + self.counters["commands"] * (1 + FRAME_WORDS)

    @property
    def link_bytes(self) -> int:
        """Bytes of all frames, both ways, when none is sent twice."""
        return (self.words_to_device + self.words_from_device) * packets.WORD_BYTES

    @property
    def serial_uses(self) -> int:
        """How often the array is fed each element of B: `serial_ones` is so many times the one bits in B."""
        return self.total_row_tiles * self.slices

    @cached_property
    def estimated_cycles(self) -> float:
        """Rough: what the slowest of link, array and readout takes, and a little for what does not overlap."""
        link = self.words_to_device * packets.WORD_BITS / self.config.link_bits
        answers = self.words_from_device * packets.WORD_BITS / self.config.link_bits
        engine = self.counters["matmul_cycles"] + self.counters["commands"] * COMMAND_CYCLES
        readout = self.counters["elements_read"]
        return max(link, answers, engine, readout) + 0.1 * (link + engine + readout)

    @cached_property
    def _writes(self) -> tuple[int, int]:
        """(commands, data words)"""
        commands = words = 0
        sides = (
            (self.total_row_tiles, self.row_tiles, self.slices, self.config.a_row_words, self._a_sent),
            (self.total_col_tiles, self.col_tiles, self.planes, self.config.b_row_words, self._b_sent),
        )
        for total, size, digits, row_words, times in sides:
            for (tiles, blocks), (chunks, k_blocks) in product(
                _blocks(total, size), _blocks(self.total_chunks, self.chunks)
            ):
                rows = tiles * digits * chunks
                commands += len(_write_pieces(rows, row_words)) * blocks * k_blocks * times
                words += rows * row_words * blocks * k_blocks * times
        return commands, words

    @cached_property
    def _multiplications(self) -> tuple[int, int, int, int]:
        """(MATMULs, cycles, array steps, stall cycles)"""
        totals = [0, 0, 0, 0]
        for (row_tiles, row_blocks), (chunks, k_blocks), (part, parts) in product(
            _blocks(self.total_row_tiles, self.row_tiles),
            _blocks(self.total_chunks, self.chunks),
            self._parts_by_size,
        ):
            size = (self.slices, self.planes, chunks, row_tiles, part)
            each = (
                1,
                self.config.matmul_cycles(*size),
                self.config.array_steps(*size),
                self.config.stall_cycles(*size),
            )
            totals = [total + value * row_blocks * k_blocks * parts for total, value in zip(totals, each, strict=True)]
        return totals[0], totals[1], totals[2], totals[3]

    @cached_property
    def _reads(self) -> tuple[int, int]:
        """(commands, data words)"""
        commands = words = 0
        heights = _blocks(self.shape.rows, self.row_tiles * self.config.rows)
        widths = _blocks(self.shape.columns, self.col_tiles * self.config.columns)
        for (height, row_blocks), (width, col_blocks) in product(heights, widths):
            fetches = [fetch for _, fetch in self._fetches(height, width)]
            commands += len(fetches) * row_blocks * col_blocks
            words += sum(fetch.words for fetch in fetches) * row_blocks * col_blocks
        return commands, words

    @cached_property
    def _parts_by_size(self) -> list[tuple[int, int]]:
        """(column tiles, how many) of the MATMULs along one row block and one K block."""
        widths = _blocks(self.shape.columns, self.col_tiles * self.config.columns)
        return [(part.col_tiles, blocks) for width, blocks in widths for part in self._parts(self.row_tiles, width)]

    # pieces of one output block
    def _parts(self, row_tiles: int, width: int) -> list[Part]:
        """The MATMULs of an output block `width` columns wide."""
        whole, rest = divmod(width, self.config.columns)
        parts = [Part(0, whole, self.config.columns, 0), Part(whole, 1 if rest else 0, rest, row_tiles * whole)]
        return [part for part in parts if part.col_tiles]

    def _fetches(self, height: int, width: int) -> list[tuple[int, Fetch]]:
        """(first tile within the region, what to fetch) of the READs of an output block; places within the block."""
        row_tiles = _tiles(height, self.config.rows)
        whole, rest = divmod(height, self.config.rows)
        bands = [(0, whole, self.config.rows), (whole, 1 if rest else 0, rest)]
        return [
            fetch
            for part in self._parts(row_tiles, width)
            for first, tiles, rows in bands
            for fetch in self._band(part, first, tiles, rows)
        ]

    def _band(self, part: Part, first: int, tiles: int, rows: int) -> Iterator[tuple[int, Fetch]]:
        """READs of `tiles` rows of tiles of a part: several whole rows of tiles each, or pieces of one."""
        bits = self.shape.sum_bits
        most = packets.MAX_DATA_WORDS * packets.WORD_BITS // bits // max(rows * part.cols, 1)
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
                    row=i * self.config.rows,
                    column=(part.col_tile + j) * self.config.columns,
                    row_tiles=height,
                    col_tiles=width,
                    rows=rows,
                    cols=part.cols,
                    bits=bits,
                ),
            )

    # commands
    def commands(self, a: np.ndarray, b: np.ndarray) -> Iterator[Planned]:
        """All commands, in order.

        `a` is uint64 [row tiles, slices, chunks, a_row_words], `b` [column tiles, planes, chunks, b_row_words].
        """
        scheduler = _Scheduler(self, a, b)
        following = next(scheduler.blocks())
        yield from scheduler.load(following)
        for block, following in scheduler.pairs():
            yield from scheduler.multiply(block)
            if following:
                yield from scheduler.load(following)
            if block.k == self.counts[2] - 1:
                yield from scheduler.fetch(block)


@dataclass(frozen=True)
class Block:
    """Row, column and K block of one step, and the output block's number."""

    row: int
    column: int
    k: int
    output: int


class _Scheduler:
    """What is in the memories while the commands of a plan go out."""

    def __init__(self, plan: Plan, a: np.ndarray, b: np.ndarray) -> None:
        self.plan = plan
        self.config = plan.config
        self.sides = {
            Space.A: _Side(Space.A, a, plan.row_tiles, plan.chunks, plan.a_slots, plan.config.a_row_words),
            Space.B: _Side(Space.B, b, plan.col_tiles, plan.chunks, plan.b_slots, plan.config.b_row_words),
        }
        self.reads = 0
        self.read_of_region = [0] * plan.regions  # READs that must be answered before the region is used again

    def blocks(self) -> Iterator[Block]:
        rows, columns, k_blocks = self.plan.counts
        for output in range(rows * columns):
            row, column = divmod(output, columns) if self.plan.rows_outer else divmod(output, rows)[::-1]
            for k in range(k_blocks):
                yield Block(row, column, k, output)

    def pairs(self) -> Iterator[tuple[Block, Block | None]]:
        """Each block and the one after it."""
        blocks = self.blocks()
        block = next(blocks)
        for following in blocks:
            yield block, following
            block = following
        yield block, None

    def load(self, block: Block) -> Iterator[Planned]:
        yield from self.sides[Space.A].load(block.row, block.k)
        yield from self.sides[Space.B].load(block.column, block.k)

    def region(self, block: Block) -> int:
        return block.output % self.plan.regions

    def sum_tile(self, block: Block) -> int:
        return self.region(block) * (self.config.sum_tiles // self.plan.regions)

    def height(self, block: Block) -> int:
        size = self.plan.row_tiles * self.config.rows
        return min(size, self.plan.shape.rows - block.row * size)

    def width(self, block: Block) -> int:
        size = self.plan.col_tiles * self.config.columns
        return min(size, self.plan.shape.columns - block.column * size)

    def multiply(self, block: Block) -> Iterator[Planned]:
        plan, shape = self.plan, self.plan.shape
        row_tiles = _tiles(self.height(block), self.config.rows)
        chunks = min(plan.chunks, plan.total_chunks - block.k * plan.chunks)
        reads_before = 0 if block.k else self.read_of_region[self.region(block)]
        for part in plan._parts(row_tiles, self.width(block)):
            fields = {
                "accumulate": int(block.k > 0),
                "slices": plan.slices,
                "planes": plan.planes,
                "a_offset": int(shape.a_signed),
                "b_negative": int(shape.b_signed),
                "chunks": chunks,
                "row_tiles": row_tiles,
                "col_tiles": part.col_tiles,
                "sum_tile": self.sum_tile(block) + part.sum_tile,
                "a_row": self.sides[Space.A].row_of(block.row, block.k),
                "b_row": self.sides[Space.B].row_of(block.column, block.k) + part.col_tile * plan.planes * chunks,
            }
            yield Planned(Command(Opcode.MATMUL, fields), reads_before)

    def fetch(self, block: Block) -> Iterator[Planned]:
        top = block.row * self.plan.row_tiles * self.config.rows
        left = block.column * self.plan.col_tiles * self.config.columns
        for first, fetch in self.plan._fetches(self.height(block), self.width(block)):
            fields = {
                "space": Space.SUMS,
                "bits": fetch.bits,
                "signed": 1,
                "rows": fetch.rows,
                "cols": fetch.cols,
                "multiplier": 1,
                "first": self.sum_tile(block) + first,
                "count": fetch.row_tiles * fetch.col_tiles,
            }
            self.reads += 1
            place = Fetch(
                top + fetch.row,
                left + fetch.column,
                fetch.row_tiles,
                fetch.col_tiles,
                fetch.rows,
                fetch.cols,
                fetch.bits,
            )
            yield Planned(Command(Opcode.READ, fields), fetch=place)
        self.read_of_region[self.region(block)] = self.reads


class _Side:
    """One operand memory: blocks take its slots in turn."""

    def __init__(self, space: Space, packed: np.ndarray, tiles: int, chunks: int, slots: int, row_words: int) -> None:
        self.space = space
        self.packed = packed
        self.tiles = tiles
        self.chunks = chunks
        self.slots = slots
        self.row_words = row_words
        self.slot_rows = tiles * packed.shape[1] * chunks
        self.slot_of: dict[tuple[int, int], int] = {}
        self.sent = 0

    def row_of(self, block: int, k: int) -> int:
        """First memory row of a block that was loaded."""
        return self.slot_of[block, k] * self.slot_rows

    def load(self, block: int, k: int) -> Iterator[Planned]:
        """The WRITEs of a block; none when it is in the memory."""
        if (block, k) in self.slot_of:
            return
        slot = self.sent % self.slots
        self.sent += 1
        self.slot_of = {key: place for key, place in self.slot_of.items() if place != slot}
        self.slot_of[block, k] = slot
        tiles = self.packed[block * self.tiles : (block + 1) * self.tiles]
        rows = tiles[:, :, k * self.chunks : (k + 1) * self.chunks].reshape(-1, self.row_words)
        for row, count in _write_pieces(len(rows), self.row_words):
            place = {"space": self.space, "rows": count, "words": self.row_words, "row": slot * self.slot_rows + row}
            data = np.ascontiguousarray(rows[row : row + count]).reshape(-1)
            yield Planned(Command(Opcode.WRITE, place, data))


@lru_cache(maxsize=4096)
def _write_pieces(rows: int, row_words: int) -> tuple[tuple[int, int], ...]:
    """(first row, rows) of the WRITEs of so many memory rows."""
    count = packets.MAX_DATA_WORDS // row_words
    return tuple((row, min(count, rows - row)) for row in range(0, rows, count))


def _sizes(total: int, most: int) -> Iterator[int]:
    """Sensible sizes of equal pieces of `total`, none above `most`: the largest first, each well below the last."""
    size = _tiles(total, _tiles(total, most))
    while size:
        yield size
        size = _tiles(total, _tiles(total, size * 3 // 4)) if size > 1 else 0


def _candidates(config: ArrayConfig, shape: Shape, copies: int) -> Iterator[Plan]:
    """Plans whose blocks fit each memory `copies` times."""
    slices = _tiles(shape.a_bits, config.slice_bits)
    rows, columns = _tiles(shape.rows, config.rows), _tiles(shape.columns, config.columns)
    depth = _tiles(shape.depth, config.lanes)
    for chunks in _sizes(depth, min(config.a_depth // slices, config.b_depth // shape.b_bits)):
        for row_tiles in _sizes(rows, min(config.a_depth // (slices * chunks), config.sum_tiles)):
            most = min(config.b_depth // (shape.b_bits * chunks), config.sum_tiles // row_tiles)
            most = min(most, max(1, shape.sums_per_answer // (config.rows * config.columns * row_tiles)))
            for col_tiles in _sizes(columns, most):
                candidate = Plan(config, shape, row_tiles, col_tiles, chunks, rows_outer=True)
                if candidate.fits(copies):
                    yield candidate
                    yield replace(candidate, rows_outer=False)
                    break  # the widest that fits


@lru_cache(maxsize=1024)
def plan(config: ArrayConfig, shape: Shape) -> Plan:
    """The plan for `shape` with the least estimated cycles. Raises `UsageError` when the product is empty."""
    if min(shape.rows, shape.columns, shape.depth) < 1:
        raise UsageError(f"a matrix product of {shape.rows} x {shape.columns} x {shape.depth} has nothing to compute")
    candidates = list(_candidates(config, shape, 2)) or list(_candidates(config, shape, 1))
    return min(candidates, key=lambda candidate: candidate.estimated_cycles)
