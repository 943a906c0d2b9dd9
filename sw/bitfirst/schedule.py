"""Puts the products of an operation into one sequence of commands, the same for every device.

    L0 L1 M0 L2 M1 R0 L3 M2 R1 ...

The sequencer takes commands in order, and one that must wait holds up those behind it. So the next command is always
the one that can begin first, by the account of `bitfirst.pace`: mostly LOADs a block or more ahead of their MATMULs,
and READs a block behind. The K blocks of one output block add to the same partial sums, which are read once. A block
that is still in its cells is not loaded again.

In between stands a `Hold` wherever tensors must be brought into the store: the next ones while the array works with
those before, in the gaps that commands leave to the sequencer. `bitfirst.residency` turns it into commands.
"""

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import pairwise, product
from math import inf, prod
from operator import itemgetter

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Opcode, Space, Target

from .cells import write_words
from .golden.loads import load_cost
from .lowering import Cut, MatrixProduct, Range, Task, tensor_words
from .pace import Pace
from .plan import BLOCK_CYCLES, Block, Digits, Plan, Shape, plan, tiles_of, usual_sum_bits
from .steps import Hold, Step, overlap

PRODUCT_CYCLES = 80  # rough: what does not overlap where one product follows another
WORTH_A_LOOK = 1.25  # times the best rough estimate
MOST_STEPS_PACED = 3000
CREDIT_WORDS = packets.COMMAND_WORDS + 1  # of the receive buffer, for a command without data
WORTH_OF_A_WORD = 0.2  # cycles that a word less on the link is worth


@dataclass(frozen=True)
class Output:
    """An output block of product `product` in SUMS from tile `first` on."""

    product: int
    block: Block
    first: int

    def reads(self, planned: Plan, bits: int, number: int) -> list[Step]:
        """READs of its sums, `bits` wide, or (`SIGN_BITS`) of their signs; `number`: that of its last block."""
        how = {"compare": 1} if bits == packets.SIGN_BITS else {"signed": 1, "multiplier": 1}
        return [
            Step(
                Opcode.READ,
                {
                    "space": Space.SUMS,
                    "bits": bits,
                    "rows": fetch.rows,
                    "cols": fetch.cols,
                    "first": self.first + first,
                    "count": fetch.row_tiles * fetch.col_tiles,
                    **how,
                },
                block=number,
                fetch=fetch,
                product=self.product,
            )
            for first, fetch in planned.fetches(self.block, bits)
        ]


@dataclass(frozen=True)
class Schedule:
    """The commands of one operation, less those that fill the store.

    products     in the order of execution, and how each is planned
    tensors      what must be in the store at some time
    steps        in order
    counters     execution counters that follow from the sizes alone
    answer_words data words of all READs
    cycles       about how many it will take
    outputs      output blocks, by the number of their last block
    needs        stands for when which tensors are needed; the same in whatever width sums are read
    """

    config: ArrayConfig
    task: Task
    products: tuple[MatrixProduct, ...]
    plans: tuple[Plan, ...]
    tensors: tuple[Cut, ...]
    steps: tuple[Step | Hold, ...]
    counters: dict[str, int]
    answer_words: int
    cycles: int
    outputs: dict[int, Output]
    needs: object = field(default_factory=object)

    def with_sums_of(self, bits: int) -> "Schedule":
        """The same, but sums are read in `bits` bits."""
        if bits == self.task.sum_bits:
            return self
        steps: list[Step | Hold] = []
        reads, words, done = 0, 0, -1
        for step in self.steps:
            if isinstance(step, Hold) or step.fetch is None:
                steps.append(step)
                continue
            reads -= 1
            if step.block != done:
                output = self.outputs[step.block]
                found = output.reads(self.plans[output.product], bits, step.block)
                reads += len(found)
                words += sum(read.fetch.words for read in found)
                found[-1].gap = step.gap
                steps += found
                done = step.block
        counters = self.counters | {"commands": self.counters["commands"] + reads}
        task = replace(self.task, sum_bits=bits)
        return replace(self, task=task, steps=tuple(steps), counters=counters, answer_words=words)

    def made_quiet(self) -> "Schedule":
        """The same, but LOADs and MATMULs are quiet where that may be.

        An answer in order shows that those before it were executed, and brings credit: so the last one is answered, and
        one in as many as take a quarter of the receive buffer, READs counted, whose answers may come late.
        """
        steps: list[Step | Hold] = []
        quiet = [place for place, step in enumerate(self.steps) if self._may_be_quiet(step)]
        words, last = 0, max(quiet, default=-1)
        for place, step in enumerate(self.steps):
            made = step
            words += 0 if isinstance(step, Hold) else CREDIT_WORDS + (0 if step.data is None else len(step.data))
            if self._may_be_quiet(step):
                if place < last and words + CREDIT_WORDS <= self.config.rx_words // 4:
                    made = replace(step, fields=step.fields | {"quiet": 1}, _words=None)
                else:
                    words = 0
            steps.append(made)
        return replace(self, steps=tuple(steps))

    def _may_be_quiet(self, step: Step | Hold) -> bool:
        opcodes = (Opcode.LOAD, Opcode.MATMUL) if self.config.gathers else (Opcode.MATMUL,)
        return not isinstance(step, Hold) and step.opcode in opcodes

    @cached_property
    def quiet_commands(self) -> int:
        """How many commands have no answer."""
        return sum(not isinstance(step, Hold) and step.fields.get("quiet", 0) for step in self.steps)

    @property
    def cost(self) -> float:
        """What is to be little."""
        return self.cycles + self.answer_words * WORTH_OF_A_WORD

    @cached_property
    def serial_uses(self) -> tuple[tuple[str, Range, Range, np.ndarray], ...]:
        """Operand, ranges of its channels and images, int64 [h, w]: how often the array is fed these as operand B."""
        shapes = {"x": self.task.geometry.input_shape, "g": self.task.geometry.output_shape}
        uses: dict[tuple[str, tuple[int, int]], np.ndarray] = {}
        for made, planned in zip(self.products, self.plans, strict=True):
            for cut, gather in ((segment.b, segment.b_gather) for segment in made.segments):
                images, _, height, width = shapes[cut.role]
                total = uses.setdefault((cut.role, cut.c), np.zeros((images, height, width), dtype=np.int64))
                first = cut.n[0] + gather.first_image
                part = total[first : first + gather.images, slice(*cut.rows), slice(*cut.cols)]
                once = np.outer(gather.down.uses(cut.shape[1]), gather.right.uses(cut.shape[2]))
                part += once * (planned.total_row_tiles * self.config.feeds(planned.slices))
        return tuple(
            (role, channels, (first, behind), total[first])
            for (role, channels), total in uses.items()
            for first, behind in _alike(total)
        )

    @cached_property
    def waste(self) -> dict[str, int]:
        """Bit-MAC slots of all array steps by what they were for, adding up to all: see `Plan.waste`.

        "useful": with real pixels at the requested widths; "halo": with the zeros around an image.
        """
        totals = {"useful": self.task.geometry.useful_macs * self.task.a.bits * self.task.b.bits, "halo": 0}
        for planned in self.plans:
            for name, count in planned.waste.items():
                totals[name] = totals.get(name, 0) + count
        totals["halo"] = totals.pop("dense", 0) - totals["useful"]
        return totals

    @cached_property
    def idle(self) -> dict[str, int]:
        """Bit-MAC slots of the cycles in which a MATMUL was under way without a step: "fill" and "stall"."""
        cycles = self.counters["matmul_cycles"] - self.counters["array_steps"] - self.counters["stall_cycles"]
        slots = self.config.bit_macs_per_cycle
        return {"fill": cycles * slots, "stall": self.counters["stall_cycles"] * slots}

    @cached_property
    def uses(self) -> tuple[tuple[Hold, tuple[int, ...]], ...]:
        """Each Hold with the tensors of the LOADs up to the next one, in order; repetitions in a row are left out."""
        uses: list[tuple[Hold, list[int]]] = []
        for step in self.steps:
            if isinstance(step, Hold):
                uses.append((step, []))
            elif step.tensor >= 0 and uses[-1][1][-1:] != [step.tensor]:
                uses[-1][1].append(step.tensor)
        return tuple((hold, tuple(tensors)) for hold, tensors in uses)


def _alike(images: np.ndarray) -> Iterator[Range]:
    """The stretches of images that are the same."""
    ends = [0, *(np.flatnonzero((images[1:] != images[:-1]).any((1, 2))) + 1).tolist(), len(images)]
    return pairwise(ends)


class _Cells:
    """One operand memory: blocks lie around it like around a ring, each until another needs its cells."""

    def __init__(self, cells: int) -> None:
        self.cells = cells
        self.cursor = 0
        self.held: dict[tuple, range] = {}

    def place(self, key: tuple, size: int, busy: range) -> tuple[range, bool]:
        """Cells for a block, and whether it must be loaded; beside the cells `busy` where there is room."""
        if key in self.held:
            return self.held[key], False
        starts = [start for start in (self.cursor, busy.stop, 0) if start + size <= self.cells]
        first = next((start for start in starts if not overlap(range(start, start + size), busy)), starts[0])
        cells = range(first, first + size)
        self.held = {other: place for other, place in self.held.items() if not overlap(place, cells)}
        self.held[key] = cells
        self.cursor = cells.stop
        return cells, True


@dataclass
class Work:
    """The commands of one block, not yet in order with those of others.

    loads    LOADs that bring it into its cells, and up to which block the MATMULs must be under way before each
    matmuls  MATMULs, and WRITEs that go before
    reads    READs of its sums, when it is the last block of its output
    before   how many READs must go out before its first MATMUL overwrites their sums
    """

    a: range
    b: range
    loads: list[tuple[Step, int]]
    matmuls: list[Step]
    reads: list[Step]
    before: int


class Builder:
    """Turns the blocks of several products into commands, in which each goes out as soon as it can begin."""

    def __init__(
        self, config: ArrayConfig, task: Task, products: tuple[MatrixProduct, ...], plans: tuple[Plan, ...]
    ) -> None:
        self.config = config
        self.task = task
        self.products = products
        self.plans = plans
        self.tensors: dict[Cut, int] = {}
        self.counters = dict.fromkeys(
            ("commands", "matmuls", "matmul_cycles", "array_steps", "gated_steps", "stall_cycles"), 0
        ) | dict.fromkeys(("loads", "load_cycles", "fetches_a", "fetches_b", "elements_read", "words_written"), 0)
        self.answer_words = 0
        self._cells = {Target.A: _Cells(config.a_cells), Target.B: _Cells(config.b_cells)}
        self._region = range(0, 0)
        self._regions: list[tuple[range, int]] = []  # where sums lie, and how many READs there are up to theirs
        self._reads = 0
        self.work: list[Work] = []
        self.outputs: dict[int, Output] = {}

    def schedule(self) -> Schedule:
        """All that was added, in order."""
        tensors = tuple(self.tensors)
        steps, cycles = in_order(self.config, self.task, tensors, self.work)
        return Schedule(
            self.config,
            self.task,
            self.products,
            self.plans,
            tensors,
            with_holds(steps),
            self.counters,
            self.answer_words,
            cycles,
            self.outputs,
        )

    def add_all(self) -> None:
        """All products, each block once."""
        for index, planned in enumerate(self.plans):
            for block in planned.blocks():
                before = self._begin(block) if block.first else 0
                self._append(index, block, (planned.whole,), before)

    def _begin(self, block: Block) -> int:
        """Takes a region for an output block; how many READs must go out before it is written."""
        self._region = self._next_region(block)
        return max((reads for region, reads in self._regions if overlap(region, self._region)), default=0)

    def _append(
        self, index: int, block: Block, passes: tuple[Digits, ...], before: int, accumulate: bool = False
    ) -> None:
        """LOADs of a block, its MATMULs with these digits in turn, and at its output's end READs."""
        cells, loads = {}, []
        last = self.work[-1] if self.work else None
        sides = ((Target.A, last.a), (Target.B, last.b)) if last else _NOTHING_BUSY
        for target, busy in sorted(sides, key=lambda side: self._fresh(index, side[0])):
            cells[target], step = self._load(index, block, target, busy)
            if step is not None:
                loads.append((step, self._last_in(target, cells[target])))
        matmuls = self._multiply(index, block, cells, passes, accumulate)
        reads = self._read(index, block) if block.last else []
        self.work.append(Work(cells[Target.A], cells[Target.B], loads, matmuls, reads, before))

    def _fresh(self, index: int, target: Target) -> bool:
        """Whether a product's operand may still be on its way to the store: the other one is loaded meanwhile."""
        product = self.products[index]
        return (product.a if target == Target.A else product.b).role in self.task.fresh

    def _last_in(self, target: Target, cells: range) -> int:
        """The last block so far that lies in some of these cells; -1 without one."""
        for index in range(len(self.work) - 1, -1, -1):
            work = self.work[index]
            if overlap(work.a if target == Target.A else work.b, cells):
                return index
        return -1

    def _load(self, index: int, block: Block, target: Target, busy: range) -> tuple[range, Step | None]:
        planned, segment = self.plans[index], self.products[index].segments[block.segment]
        is_a = target == Target.A
        cut, gather, width = (
            (segment.a, segment.a_gather, planned.shape.a) if is_a else (segment.b, segment.b_gather, planned.shape.b)
        )
        size = self.config.rows if is_a else self.config.columns
        first, vectors = (block.row_tile, block.height) if is_a else (block.col_tile, block.width)
        area = first * size, vectors, block.chunk * self.config.lanes, block.depth
        tensor = self.tensors.setdefault(cut, len(self.tensors))
        chunks = tiles_of(block.depth, self.config.lanes)
        cells, fresh = self._cells[target].place(
            (tensor, gather, *area), tiles_of(vectors, size) * width.octets * chunks, busy
        )
        if not fresh:
            return cells, None
        fields = gather.fields(*area) | {"target": int(target), "cell": cells.start} | self._load_fields(target)
        if is_a:
            fields["flip"] = width.signed_slices(planned.slices, self.config.slice_bits) << planned.a_first
        step = Step(Opcode.LOAD, fields, tensor=tensor, cells=cells, block=len(self.work))
        if self.config.gathers:
            cost = load_cost(self.config, fields, gather.shape, width.octets)
            self._count(loads=1, load_cycles=cost.cycles, **{f"fetches_{'a' if is_a else 'b'}": cost.fetches})
            step.cycles = cost.cycles
        else:
            step.writes = tuple(write_words(self.config, fields, width.octets))
            for words in step.writes:
                self._count(words_written=words)
        return cells, step

    def _load_fields(self, target: Target) -> dict[str, int]:
        """What LOADs have besides."""
        return {}

    def _multiply(
        self, index: int, block: Block, cells: dict[Target, range], passes: tuple[Digits, ...], accumulate: bool
    ) -> list[Step]:
        """MATMULs of a block into its region; `accumulate`: its output's first ones add to what is there."""
        shape = self.plans[index].shape
        row_tiles = tiles_of(block.height, self.config.rows)
        chunks = tiles_of(block.depth, self.config.lanes)
        steps = []
        for part, digits in product(self.plans[index].matmuls(row_tiles, block.width), passes):
            first = self._region.start + part.sum_tile
            fields = asdict(digits) | {
                "accumulate": int(accumulate or not block.first),
                "chunks": chunks,
                "row_tiles": row_tiles,
                "col_tiles": part.col_tiles,
                "sum_tile": first,
                "a_cell": cells[Target.A].start,
                "b_cell": cells[Target.B].start + part.col_tile * shape.b.octets * chunks,
                "a_octets": shape.a.octets,
                "b_octets": shape.b.octets,
            }
            size = (digits.slices, digits.planes, chunks, row_tiles, part.col_tiles)
            cycles = self.config.matmul_cycles(*size, digits.b_below)
            self._count(
                matmuls=1,
                matmul_cycles=cycles,
                array_steps=self.config.array_steps(*size),
                stall_cycles=self.config.stall_cycles(*size, digits.b_below),
            )
            sums = (first, row_tiles * part.col_tiles) if block.first else (0, 0)
            steps.append(Step(Opcode.MATMUL, fields, cycles=cycles, sums=sums))
        return steps

    def _next_region(self, block: Block) -> range:
        """The next part of SUMS, for an output block."""
        tiles = tiles_of(block.height, self.config.rows) * tiles_of(block.width, self.config.columns)
        first = self._region.stop if self._region.stop + tiles <= self.config.sum_tiles else 0
        return range(first, first + tiles)

    def _read(self, index: int, block: Block) -> list[Step]:
        """READs of the output that is in the region."""
        output = self.outputs[len(self.work)] = Output(index, block, self._region.start)
        steps = output.reads(self.plans[index], self.task.sum_bits, len(self.work)) if self.task.sum_bits else []
        for step in steps:
            self._count(elements_read=step.fetch.elements)
            self.answer_words += step.fetch.words
        self._reads += len(steps)
        self._regions = [entry for entry in self._regions if not overlap(entry[0], self._region)]
        self._regions.append((self._region, self._reads))
        return steps

    def _count(self, **counts: int) -> None:
        self.counters["commands"] += not counts.keys().isdisjoint(_ONCE_A_COMMAND)
        for name, count in counts.items():
            self.counters[name] += count


_NOTHING_BUSY = ((Target.A, range(0, 0)), (Target.B, range(0, 0)))
_ONCE_A_COMMAND = ("loads", "matmuls", "elements_read", "words_written")


def in_order(config: ArrayConfig, task: Task, tensors: tuple[Cut, ...], work: list[Work]) -> tuple[list[Step], int]:
    """All commands, always the one next that can begin first; and about how many cycles they take."""
    pace = Pace(config, task, tensors)
    loads = deque((step, index, after) for index, one in enumerate(work) for step, after in one.loads)
    matmuls = deque((step, index) for index, one in enumerate(work) for step in one.matmuls)
    lasts = {id(one.matmuls[-1]): one.reads for one in work}
    reads: deque[Step] = deque()
    read = 0
    steps: list[Step] = []
    while loads or matmuls or reads:
        block = matmuls[0][1] if matmuls else len(work)
        ready = []
        if matmuls and (not loads or loads[0][1] > block) and read >= work[block].before:
            ready.append((pace.begin(matmuls[0][0]), 0, matmuls))
        if loads and loads[0][2] < block:
            ready.append((pace.begin(loads[0][0]), 1, loads))
        if reads:
            ready.append((pace.begin(reads[0]), 2, reads))
        begin, _, queue = min(ready, key=itemgetter(0, 1))
        head = queue.popleft()
        step = head if queue is reads else head[0]
        if steps:
            steps[-1].gap = pace.fill(begin)
        pace.take(step)
        steps.append(step)
        if queue is reads:
            read += 1
        elif queue is matmuls:
            reads.extend(lasts.pop(id(step), ()))
    return steps, pace.end


def with_holds(steps: list[Step]) -> tuple[Step | Hold, ...]:
    """The steps, and before those that use tensors first: Holds. The next tensors follow while these are used.

    Tensors that are first used by the same block are brought together; one by one for the first block. A block uses
    two. So where two others or more were used since, the steps have come back to a tensor: a first use again.
    """
    first_use, last_use = {}, {}  # of (tensor, times come back)
    groups = []  # [tensors, place behind their first uses, block]
    since: dict[int, set[int]] = {}  # other tensors that were used since
    returns: Counter[int] = Counter()
    for place, step in enumerate(steps):
        if step.tensor < 0:
            continue
        returns[step.tensor] += len(since.get(step.tensor, ())) > 1
        for others in since.values():
            others.add(step.tensor)
        since[step.tensor] = set()
        use = step.tensor, returns[step.tensor]
        last_use[use] = place
        if use in first_use:
            continue
        first_use[use] = place
        if not step.block or groups[-1][2] != step.block:
            groups.append([[], 0, step.block])
        groups[-1][0].append(step.tensor)
        groups[-1][1] = place + 1
    holds = {0: Hold(tuple(groups[0][0]), tuple(groups[0][0]))} if groups else {}
    for (_, place, _), (tensors, _, _) in pairwise(groups):
        used = [use[0] for use, last in last_use.items() if first_use[use] < place <= last]
        holds[place] = Hold(tuple(tensors), (*used, *tensors))
    out: list[Step | Hold] = []
    for place, step in enumerate(steps):
        if place in holds:
            out.append(holds[place])
        out.append(step)
    return tuple(out)


def choices(config: ArrayConfig, task: Task) -> Iterator[tuple[float, tuple[MatrixProduct, ...], tuple[Plan, ...]]]:
    """(roughly estimated cycles, products, their plans)"""
    for variant in task.variants_on(config):
        products = task.products(config, variant)
        shapes = [Shape.of(made) for made in products]
        for most_cycles in BLOCK_CYCLES:
            rough, plans = _planned(config, shapes, most_cycles)
            sent_again = any(_sends_again(config, made, own) for made, own in zip(products, plans, strict=True))
            yield inf if sent_again else rough, products, plans


def _planned(config: ArrayConfig, shapes: list[Shape], most_cycles: int) -> tuple[float, tuple[Plan, ...]]:
    """(rough cycles, plans). Where A is the same, as for all images, it is cut alike: then it stays in its cells."""
    cuts: dict[tuple, tuple[int, int]] = {}
    plans: dict[int, Plan] = {}
    total, last = 0.0, len(shapes) - 1
    for index in sorted(range(len(shapes)), key=lambda index: -shapes[index].columns):
        shape = shapes[index]
        side = shape.a_gather, shape.rows, shape.depths
        best, cycles = plan(config, shape, most_cycles, cuts.get(side))
        total += cycles + PRODUCT_CYCLES
        cuts[side] = best.row_tiles, best.chunks
        ends = {"begins": index == 0, "ends": index == last}
        plans[index] = replace(best, **ends) if any(ends.values()) else best
    return total, tuple(plans[index] for index in range(len(shapes)))


def _sends_again(config: ArrayConfig, product: MatrixProduct, planned: Plan) -> bool:
    """Whether every tensor would be sent for each output block."""
    return len(product.segments) > 1 and planned.counts[0] * planned.counts[1] > 1 and not all_fit(config, product)


def all_fit(config: ArrayConfig, product: MatrixProduct) -> bool:
    """Whether all tensors of a product lie in the store at once, and leave room for gaps between them."""
    tensors = {
        (cut, width) for segment in product.segments for cut, width in ((segment.a, product.a), (segment.b, product.b))
    }
    words = sum(tensor_words(prod(cut.shape), width.bits) for cut, width in tensors)
    return len(tensors) < packets.TENSOR_SLOTS and words <= config.store_words * 3 // 4


def arrange(config: ArrayConfig, task: Task, products: tuple[MatrixProduct, ...], plans: tuple[Plan, ...]) -> Schedule:
    """The commands of these products by these plans."""
    builder = Builder(config, task, products, plans)
    builder.add_all()
    return builder.schedule()


@lru_cache(maxsize=256)
def _chosen(config: ArrayConfig, task: Task) -> Schedule:
    """The one that takes the least cycles: of those that do so roughly, by the pace of their commands."""
    found = sorted({choice[2]: choice for choice in choices(config, task)}.values(), key=itemgetter(0))
    best, steps = None, 0
    for rough, products, plans in found:
        if best is not None and (rough > found[0][0] * WORTH_A_LOOK or steps > MOST_STEPS_PACED):
            break
        made = arrange(config, task, products, plans)
        steps += len(made.steps)
        if best is None or made.cost < best.cost:
            best = made
    return best


@lru_cache(maxsize=256)
def schedule(config: ArrayConfig, task: Task) -> Schedule:
    """The schedule of an operation with the least estimated cycles.

    Raises `UsageError` when something irreducible does not fit the device.
    """
    planned = replace(task, sum_bits=usual_sum_bits(config)) if task.sum_bits else task
    read = planned.sum_bits if not config.requantises else task.sum_bits
    return _chosen(config, planned).with_sums_of(read).made_quiet()
