"""The commands that find the signs of a weight's gradient by its first bits: see `golden.psg`.

First all output blocks are led: the high parts of the operands are multiplied, over all of K, at their weight in the
whole product, and the closed sums are read, in units of that weight. So the host knows all predictions, whatever the
threshold depends on, and SUMS is free again.

Then those sums that are not resolved are finished, and no others. They are packed into tiles (`residual`), go back into
SUMS as they were, and packed MATMULs add the other digits, again over all of K; at last their signs are read.

    lead     L M L M READ  L M L M READ ...
    finish   WRITE sums  WRITE program  L M M L M M READ ...

Where two walks over K, of which LOADs take the most time, would take longer than the whole product, there is one: each
block is led into one part of SUMS, and the other digits go into another part beside it; both are read.

Rows and columns whose operands lie in the cells together are a rectangle: in it elements are packed as they come. The
more of them, the better they pack. So the product that finishes is not split by border, whatever the one that leads is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from math import prod
from operator import itemgetter

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.numeric import SUM_BITS
from bitfirst_hdl.contract.packets import (
    MAX_DATA_WORDS,
    PROGRAM_ROWS,
    SIGN_BITS,
    STORE_WORD_WORDS,
    Opcode,
    Space,
    Target,
)

from .errors import UsageError
from .golden import programs
from .golden.loads import rows_by_bank
from .lowering import RAW_BITS, MatrixProduct, Task, Variant, boxes, tensor_words
from .plan import MOST_COUNT, Block, Digits, Fetch, Plan, Shape, sums_per_answer, tiles_of
from .residual import NONE, ResidualTile, count_tiles, order_columns, pack
from .schedule import Builder, Output, Schedule, all_fit, choices
from .steps import Step, overlap

MOST_TURN = 7  #: of a LOAD
USUALLY_LISTED = 1 / 3  #: of the sums
_SUM_MASK = (1 << SUM_BITS) - 1


@dataclass(frozen=True)
class SignTask(Task):
    """A weight's gradient whose signs are wanted: every product's sums are over all of K.

    `sum_bits`: of the predictions, which are read in units of 2**(x.low + g.low).
    """

    def variants_on(self, config: ArrayConfig) -> tuple[Variant, ...]:
        """x in slices; not by border where the images themselves are cut: the parts of one sum would not be alike."""
        cut = len({(box.down, box.right) for box in boxes(config, self.geometry, (self.a, self.b))}) > 1
        fitting = (one for one in self.variants if one.chained and not one.swapped)
        return tuple(one for one in fitting if not (cut and any(one.borders)))

    def products(self, config: ArrayConfig, variant: Variant) -> tuple[MatrixProduct, ...]:
        """One for each part of the result; segments of its K from all boxes."""
        made: dict[str, MatrixProduct] = {}
        for one in super().products(config, variant):
            place = repr(one.placement)
            known = made.get(place)
            made[place] = replace(known, segments=known.segments + one.segments) if known else one
        return tuple(made.values())

    @property
    def unit(self) -> int:
        """Of a prediction, as a power of two of the sums'."""
        return self.a.low + self.b.low


class _LeadBuilder(Builder):
    def add_all(self) -> None:
        for index, planned in enumerate(self.plans):
            for block in planned.blocks():
                before = self._begin(block) if block.first else 0
                self._append(index, block, (planned.leading,), before)

    def _read(self, index: int, block: Block) -> list[Step]:
        """What is read raw keeps its unit."""
        shift = 0 if self.task.sum_bits == RAW_BITS else self.task.unit
        return [replace(step, fields=step.fields | {"shift": shift}) for step in super()._read(index, block)]


class _OneWalkBuilder(_LeadBuilder):
    """The upper half of an output's region is for what its first pass leaves out."""

    def _next_region(self, block: Block) -> range:
        tiles = 2 * len(super()._next_region(block))
        first = self._region.stop if self._region.stop + tiles <= self.config.sum_tiles else 0
        return range(first, first + tiles)

    def _multiply(
        self, index: int, block: Block, cells: dict[Target, range], passes: tuple[Digits, ...], accumulate: bool
    ) -> list[Step]:
        region = self._region
        steps: list[Step] = []
        for half, again, digits in (
            *((0, False, digits) for digits in passes),
            *((1, number > 0, digits) for number, digits in enumerate(self.plans[index].rest)),
        ):
            self._region = _half(region, half)
            steps += super()._multiply(index, block, cells, (digits,), accumulate or again)
        self._region = region
        return steps

    def _read(self, index: int, block: Block) -> list[Step]:
        """The rest is read raw; its READs have `product` behind those of all products."""
        region = self._region
        self._region = _half(region, 0)
        steps = super()._read(index, block)
        rest = Output(len(self.products) + index, block, _half(region, 1).start)
        more = rest.reads(self.plans[index], RAW_BITS, len(self.work))
        for step in more:
            self._count(elements_read=step.fetch.elements)
            self.answer_words += step.fetch.words
        self._reads += len(more)
        self._region = region
        self._regions = [entry for entry in self._regions if not overlap(entry[0], region)]
        self._regions.append((region, self._reads))
        return steps + more


def _half(region: range, half: int) -> range:
    size = len(region) // 2
    return range(region.start + half * size, region.start + (half + 1) * size)


@dataclass(frozen=True)
class Lead:
    """The schedule of all first passes; `whole`: of the rest too."""

    schedule: Schedule
    whole: bool


@lru_cache(maxsize=256)
def lead(config: ArrayConfig, task: SignTask) -> Lead:
    """The schedule that reads all predictions, with the least roughly estimated cycles.

    Raises `UsageError` when something irreducible does not fit the device, and where slices cannot be cut as the
    operand is split.
    """
    best: dict[int, tuple] = {}  # by how many products there are, since they are planned as if all digits were wanted
    for rough, *one in choices(config, task):
        cost = rough, _words_sent(config, *one)
        best[len(one[0])] = min(best.get(len(one[0]), (cost, one)), (cost, one), key=itemgetter(0))
    chosen = [one for _, one in best.values()]
    products = products_finished(config, task)
    widest = [_with_most_sums(config, Shape.of(made), config.sum_tiles) for made in products]
    if all(widest):
        chosen.append((products, tuple(widest)))
    if not config.packs:
        return _one_walk(config, task, chosen, products)
    led = min((_led(_LeadBuilder, config, task, *one) for one in chosen), key=_cost)
    two_walks = led.cycles + _usual_rest(config, task)
    for one in chosen:
        if all(map(_has_room_for_both, one[1])) and _whole_steps(one[1]) < two_walks:
            whole = _led(_OneWalkBuilder, config, task, *one)
            if whole.cycles < two_walks:
                return Lead(whole.made_quiet(), whole=True)
    return Lead(led.made_quiet(), whole=False)


def _one_walk(config: ArrayConfig, task: SignTask, chosen: list[tuple], products: tuple[MatrixProduct, ...]) -> Lead:
    """Everything in one walk, for a device that does not pack."""
    narrow = [_with_most_sums(config, Shape.of(made), config.sum_tiles // 2) for made in products]
    if all(narrow):
        chosen = [*chosen, (products, tuple(narrow))]
    fitting = [one for one in chosen if all(map(_has_room_for_both, one[1]))]
    if not fitting:
        raise UsageError("no block's sums fit SUMS twice: give the configuration more sum_tiles, or the feature packed")
    led = min((_led(_OneWalkBuilder, config, task, *one) for one in fitting), key=_cost)
    return Lead(led.made_quiet(), whole=True)


def _usual_rest(config: ArrayConfig, task: SignTask) -> int:
    """Cycles to finish a third of the sums, wherever they are."""
    source, masks = np.random.default_rng(0), []
    for made in products_finished(config, task):
        masks.append(source.random((made.rows, made.columns)) < USUALLY_LISTED)
    return finish(config, task, masks, [np.zeros(mask.shape, dtype=np.int64) for mask in masks]).schedule.cycles


def _with_most_sums(config: ArrayConfig, shape: Shape, sum_tiles: int) -> Plan | None:
    """The plan with the fewest walks over K, of blocks of so many tiles."""
    col_tiles = min(tiles_of(shape.columns, config.columns), sum_tiles)
    row_tiles = min(tiles_of(shape.rows, config.rows), sum_tiles // col_tiles)
    return _with_blocks(config, shape, row_tiles, col_tiles)


def _cost(schedule: Schedule) -> float:
    """Cycles; half of those in which operands are sent are not hidden."""
    return schedule.cycles + _words_sent(schedule.config, schedule.products, schedule.plans) / 2


def _words_sent(config: ArrayConfig, products: tuple[MatrixProduct, ...], plans: tuple[Plan, ...]) -> int:
    """Of all operands, once for each walk over K; once where they fit the store together."""
    total = 0
    for made, planned in zip(products, plans, strict=True):
        walks = 1 if all_fit(config, made) else planned.counts[0] * planned.counts[1]
        total += walks * sum(_words_of(made, role) for role in "xg")
    return total


def _words_of(made: MatrixProduct, role: str) -> int:
    """64-bit words of one operand, as the store holds it."""
    sides = ((cut, width) for one in made.segments for cut, width in ((one.a, made.a), (one.b, made.b)))
    return sum(STORE_WORD_WORDS * tensor_words(prod(cut.shape), width.bits) for cut, width in sides if cut.role == role)


def _whole_steps(plans: tuple[Plan, ...]) -> int:
    return sum(planned.multiplications["array_steps"] for planned in plans)


def _has_room_for_both(planned: Plan) -> bool:
    return 2 * planned.row_tiles * planned.col_tiles <= planned.config.sum_tiles


def _led(
    kind: type[_LeadBuilder],
    config: ArrayConfig,
    task: SignTask,
    products: tuple[MatrixProduct, ...],
    plans: tuple[Plan, ...],
) -> Schedule:
    builder = kind(config, task, products, plans)
    builder.add_all()
    return builder.schedule()


# the rest
@dataclass(eq=False)
class Rectangle:
    """What is finished together: tiles of product `product` whose operands begin at `row_tile` and `col_tile`.

    `turn`: of the LOADs of its rows.
    """

    product: int
    turn: int
    row_tile: int
    col_tile: int
    tiles: list[ResidualTile]
    blocks: list[Block]

    def elements(self, config: ArrayConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(used bool, rows, columns of the product), each [R, tiles * C]: what the elements of its tiles finish."""
        own = np.concatenate([tile.row_tile for tile in self.tiles], axis=1)
        columns = np.concatenate([tile.col_tile * config.columns + tile.column for tile in self.tiles])
        place = rows_by_bank(own.reshape(-1), config.rows, self.turn).reshape(*own.shape, config.rows)
        bank = np.arange(config.rows)[:, None, None]
        rows = (self.row_tile + own) * config.rows + np.take_along_axis(place, bank, axis=2)[:, :, 0]
        return own != NONE, rows, np.broadcast_to(self.col_tile * config.columns + columns, own.shape)


@dataclass(frozen=True)
class Finish:
    """The schedule that finishes sums of `schedule.products`; the READs of rectangle i have `product` = i."""

    schedule: Schedule
    rectangles: tuple[Rectangle, ...]


@lru_cache(maxsize=256)
def products_finished(config: ArrayConfig, task: SignTask) -> tuple[MatrixProduct, ...]:
    """Those whose sums are finished together."""
    return task.products(config, next(one for one in task.variants_on(config) if not any(one.borders)))


def finish(config: ArrayConfig, task: SignTask, listed: Sequence[np.ndarray], first: Sequence[np.ndarray]) -> Finish:
    """Of each of `products_finished` the elements `listed`, bool [rows, columns], from their sums `first` on."""
    products = products_finished(config, task)
    found = [
        _rectangles(config, index, Shape.of(made), mask)
        for index, (made, mask) in enumerate(zip(products, listed, strict=True))
    ]
    rectangles = tuple(rectangle for _, some in found for rectangle in some)
    builder = _FinishBuilder(config, task, products, tuple(planned for planned, _ in found))
    for number, rectangle in enumerate(rectangles):
        builder.finish(number, rectangle, first[rectangle.product])
    return Finish(builder.schedule().made_quiet(), rectangles)


def order_outputs(config: ArrayConfig, task: SignTask, listed: Sequence[np.ndarray]) -> np.ndarray | None:
    """int64 [outputs]: an order in which it is worth while to send g once more, since the rest takes fewer tiles.

    None where there is none. `listed`: as for `finish`.
    """
    products = products_finished(config, task)
    if len(products) != 1:
        return None
    made, mask = products[0], listed[0]
    turns = range(MOST_TURN + 1)
    orders = [order_columns(config, mask, turn) for turn in turns]
    tiles, turn = min((count_tiles(config, mask[:, orders[turn]], turn), turn) for turn in turns)
    fewer = min(count_tiles(config, mask, turn) for turn in turns) - tiles
    chunks = sum(tiles_of(depth, config.lanes) for depth in Shape.of(made).depths)
    saved = fewer * chunks * (config.drain_cycles + made.b.bits)
    sent = _words_of(made, "g") if all_fit(config, made) else 0
    return orders[turn] if saved > sent else None


def _rectangles(config: ArrayConfig, index: int, shape: Shape, listed: np.ndarray) -> tuple[Plan, list[Rectangle]]:
    """The largest rectangles whose tiles fit SUMS, and their programs PROGRAM: narrow ones or flat ones."""
    turn = min(range(MOST_TURN + 1), key=lambda turn: count_tiles(config, listed, turn))
    sizes = tiles_of(shape.rows, config.rows), tiles_of(shape.columns, config.columns)
    found = (_largest(config, index, turn, shape, sizes, listed, narrow) for narrow in (True, False))
    return min(found, key=lambda one: sum(_rough_cycles(config, shape, rectangle) for rectangle in one[1]))


def _largest(
    config: ArrayConfig,
    index: int,
    turn: int,
    shape: Shape,
    sizes: tuple[int, int],
    listed: np.ndarray,
    narrow: bool,
) -> tuple[Plan, list[Rectangle]]:
    """Those that fit with as many rows (`narrow`) or columns as there are, or as many as can be."""
    row_tiles, col_tiles = sizes
    while True:
        planned = _with_blocks(config, shape, row_tiles, col_tiles)
        found = list(_packed(config, index, turn, planned, listed)) if planned else None
        if found is not None and all(_fits(config, rectangle) for rectangle in found):
            return planned, found
        if row_tiles > 1 and (col_tiles == 1 or not narrow):
            row_tiles = next_smaller(sizes[0], row_tiles)
        else:
            col_tiles = next_smaller(sizes[1], col_tiles)


def next_smaller(total: int, size: int) -> int:
    """The size of one piece more of `total`."""
    return min(size - 1, tiles_of(total, tiles_of(total, size) + 1))


def _rough_cycles(config: ArrayConfig, shape: Shape, rectangle: Rectangle) -> int:
    """For each chunk: to load it, a vector a cycle, or to work with it."""
    block = rectangle.blocks[0]
    load = shape.a.octets * block.height + shape.b.octets * block.width
    work = sum(max(config.drain_cycles, len(tile.words)) + shape.b.bits for tile in rectangle.tiles)
    return max(load, work)


def _with_blocks(config: ArrayConfig, shape: Shape, row_tiles: int, col_tiles: int) -> Plan | None:
    """Blocks of so many tiles and as many chunks as the cells hold twice, or else once; None where it is none.

    Fewer, but more than half as many, where all blocks are then equally deep: no short one waits for its LOADs, and one
    program will do for all.
    """
    cells = row_tiles * shape.a.octets, col_tiles * shape.b.octets
    depths = [tiles_of(depth, config.lanes) for depth in shape.depths]
    for copies in (2, 1):
        chunks = min(config.a_cells // (cells[0] * copies), config.b_cells // (cells[1] * copies))
        if chunks:
            most = max(1, min(chunks, max(depths), MOST_COUNT // config.lanes))
            even = (one for one in range(most, most // 2, -1) if not any(depth % one for depth in depths))
            return Plan(config, shape, row_tiles, col_tiles, next(even, most), rows_outer=True)
    return None


def _packed(config: ArrayConfig, index: int, turn: int, planned: Plan, listed: np.ndarray) -> Iterator[Rectangle]:
    """Those with something to finish."""
    blocks: list[Block] = []
    for block in planned.blocks():
        blocks.append(block)
        if block.last:
            row, column = block.row_tile * config.rows, block.col_tile * config.columns
            tiles = pack(config, listed[row : row + block.height, column : column + block.width], turn)
            if tiles:
                yield Rectangle(index, turn, block.row_tile, block.col_tile, tiles, blocks)
            blocks = []


def _fits(config: ArrayConfig, rectangle: Rectangle) -> bool:
    rows = sum(len(tile.words) for tile in rectangle.tiles)
    return len(rectangle.tiles) <= config.sum_tiles and rows <= PROGRAM_ROWS


class _FinishBuilder(Builder):
    """`_rectangle`, its `_number` and first sums: what is being finished. `_chunks`: for how many PROGRAM is made."""

    _number: int
    _rectangle: Rectangle
    _first: np.ndarray
    _chunks = 0

    def finish(self, number: int, rectangle: Rectangle, first: np.ndarray) -> None:
        self._number, self._rectangle, self._first, self._chunks = number, rectangle, first, 0
        for block in rectangle.blocks:
            before = self._begin(block) if block.first else 0
            self._append(rectangle.product, block, self.plans[rectangle.product].rest, before)

    def _next_region(self, block: Block) -> range:
        tiles = len(self._rectangle.tiles)
        first = self._region.stop if self._region.stop + tiles <= self.config.sum_tiles else 0
        return range(first, first + tiles)

    def _load_fields(self, target: Target) -> dict[str, int]:
        return {"turn": self._rectangle.turn} if target == Target.A else {}

    def _multiply(
        self, index: int, block: Block, cells: dict[Target, range], passes: tuple[Digits, ...], accumulate: bool
    ) -> list[Step]:
        """The packed MATMULs of a block; before the first one the sums, and before another number of chunks PROGRAM."""
        config, shape = self.config, self.plans[index].shape
        chunks, tiles = tiles_of(block.depth, config.lanes), self._rectangle.tiles
        gated = int((~self._rectangle.elements(config)[0]).sum())
        steps = self._write_sums() if block.first else []
        if chunks != self._chunks:
            steps += self._write_program(shape.a.octets * chunks, shape.b.octets * chunks)
            self._chunks = chunks
        for digits in passes:
            fields = asdict(digits) | {
                "accumulate": 1,
                "packed": 1,
                "tiles": len(tiles),
                "chunks": chunks,
                "row_tiles": tiles_of(block.height, config.rows),
                "col_tiles": tiles_of(block.width, config.columns),
                "sum_tile": self._region.start,
                "a_cell": cells[Target.A].start,
                "b_cell": cells[Target.B].start,
                "a_octets": shape.a.octets,
                "b_octets": shape.b.octets,
            }
            size = digits.slices, digits.planes, chunks
            cycles, stalls = config.packed_cycles([len(tile.words) for tile in tiles], *size)
            of_a_tile = digits.slices * digits.planes * chunks
            self._count(
                matmuls=1,
                matmul_cycles=cycles,
                array_steps=len(tiles) * of_a_tile,
                gated_steps=gated * of_a_tile,
                stall_cycles=stalls,
            )
            steps.append(Step(Opcode.MATMUL, fields, cycles=cycles))
        return steps

    def _write_sums(self) -> list[Step]:
        """Zeros where an element has nothing to finish."""
        config, count = self.config, len(self._rectangle.tiles)
        used, rows, columns = self._rectangle.elements(config)
        sums = np.zeros(used.shape, dtype=np.int64)
        sums[used] = self._first[rows[used], columns[used]]
        by_tile = sums.reshape(config.rows, count, config.columns).swapaxes(0, 1).reshape(-1, config.columns)
        steps = self._writes(
            Space.SUMS, self._region.start * config.rows, by_tile.view(np.uint64) & np.uint64(_SUM_MASK)
        )
        steps[0].sums = self._region.start, count
        return steps

    def _write_program(self, row_cells: int, col_cells: int) -> list[Step]:
        rows = [row for tile in self._rectangle.tiles for row in tile.program(self.config, row_cells, col_cells)]
        return self._writes(Space.PROGRAM, 0, programs.encode(self.config, rows))

    def _writes(self, space: Space, first: int, words: np.ndarray) -> list[Step]:
        """WRITEs of whole rows, uint64 [rows, words]."""
        steps, most = [], MAX_DATA_WORDS // words.shape[1]
        for start in range(0, len(words), most):
            part = words[start : start + most]
            place = {"space": int(space), "row": first + start, "rows": len(part), "words": part.shape[1]}
            self._count(words_written=part.size)
            steps.append(Step(Opcode.WRITE, place, data=part.reshape(-1)))
        return steps

    def _read(self, index: int, block: Block) -> list[Step]:
        """READs of the signs."""
        config, count = self.config, len(self._rectangle.tiles)
        most = sums_per_answer(SIGN_BITS) // (config.rows * config.columns)
        steps = []
        for first in range(0, count, most):
            tiles = min(most, count - first)
            fetch = Fetch(0, first * config.columns, 1, tiles, config.rows, config.columns, SIGN_BITS)
            fields = {"space": Space.SUMS, "bits": SIGN_BITS, "rows": config.rows, "cols": config.columns, "compare": 1}
            fields |= {"first": self._region.start + first, "count": tiles}
            self._count(elements_read=fetch.elements)
            self.answer_words += fetch.words
            steps.append(Step(Opcode.READ, fields, block=len(self.work), fetch=fetch, product=self._number))
        self._reads += len(steps)
        self._regions = [entry for entry in self._regions if not overlap(entry[0], self._region)]
        self._regions.append((self._region, self._reads))
        return steps


def prediction_bits(depth: int, x_bits: int, g_bits: int) -> int:
    """Bits in which predictions are read: sums of `depth` products of so many bits each, signs apart."""
    bits = depth.bit_length() + x_bits + g_bits + 1
    rounded = -(-bits // 4) * 4
    return rounded if rounded <= packets.WORD_BITS // 2 else RAW_BITS
