"""The walk of a packed MATMUL: each element multiplies a row of A and a column of B of its own, as PROGRAM says."""

from collections.abc import Sequence
from functools import reduce
from operator import and_

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .array import StepControl
from .config import ArrayConfig
from .contract import packets
from .contract.packets import OCTET_BITS, PROGRAM_ROWS, WORD_BITS
from .operands import NO_COLLISIONS, PLANE_BITS, one_in_turn
from .ports import MemoryWrite
from .walking import Cells, Countdown, pass_layout


def take_cycles(config: ArrayConfig) -> int:
    """From a row of PROGRAM to its words at the elements: address, and the A memory's latency."""
    return config.operand_cycles - 1


def program_layout(config: ArrayConfig) -> data.StructLayout:
    """One row of PROGRAM, as `config.program_fields` says."""
    return data.StructLayout(
        {
            name: data.ArrayLayout(width, count) if count > 1 or name in ("choice", "a_cell", "mask") else width
            for name, (count, width) in config.program_fields.items()
        }
    )


class Program(wiring.Component):
    """The memory of programs.

    What `last` says decides in the cycle in which it comes where the walk goes; out of the block RAM it would come 5 ns
    later than a register. So it is there a second time, and read ahead of its row.

    write        in, `MemoryWrite`; not while a packed MATMUL walks
    prepare      in(1)  the first row to be fetched will be row `behind`
    fetch        in(1)  fetch row `place`: the one prepared, the one behind that fetched last, or, with `again`, the one
                        fetched last with `begins`
    begins       in(1)  with `fetch`
    again        in(1)  with `fetch`
    place        in
    behind       in     with `fetch`: the row behind it; behind the last row of the memory comes the first
    row          out, `program_layout`: the row fetched last, from the next cycle on; the memory's last row is a `last`

    The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        controls = {name: In(1) for name in ("prepare", "fetch", "begins", "again")}
        places = {name: In(range(PROGRAM_ROWS)) for name in ("place", "behind")}
        super().__init__({"write": In(MemoryWrite()), "row": Out(program_layout(config))} | controls | places)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = []
        for index in range(self.config.program_words):
            width = min(WORD_BITS, self.config.program_bits - index * WORD_BITS)
            words.append(self._word(m, f"word_{index}", index, width, self.fetch, self.place))
        m.d.comb += [self.row.eq(Cat(words)), self.row.last.eq(self._last(m))]
        return m

    def _word(self, m: Module, name: str, index: int, width: int, fetch: Value, place: Value) -> Signal:
        """The low bits of word `index` of the row fetched last."""
        store = memory.Memory(shape=width, depth=PROGRAM_ROWS, init=[], attrs=NO_COLLISIONS)
        m.submodules[name] = store
        read_port, write_port = store.read_port(domain="comb"), store.write_port()
        word = Signal(width, name=name, reset_less=True)
        m.d.comb += [
            write_port.en.eq(self.write.valid & (self.write.word == index)),
            write_port.addr.eq(self.write.row),
            write_port.data.eq(self.write.data),
            read_port.addr.eq(place),
        ]
        with m.If(fetch):
            m.d.sync += word.eq(read_port.data)
        return word

    def _last(self, m: Module) -> Signal:
        reads, end_ahead = self.prepare | self.fetch, Signal()
        ahead = self._word(m, "ahead", 0, 1, reads, self.behind)
        with m.If(reads):
            m.d.sync += end_ahead.eq(self.behind == PROGRAM_ROWS - 1)
        last, began, again = Signal(), Signal(), Signal()
        last_read, end, first_last = Signal(), Signal(), Signal()
        m.d.comb += last.eq(Mux(again, first_last, last_read | end))
        m.d.sync += began.eq(self.begins)
        with m.If(self.fetch):  # what the block RAM says goes to a register as it is
            m.d.sync += [last_read.eq(ahead), end.eq(end_ahead), again.eq(self.again)]
        with m.If(began):
            m.d.sync += first_last.eq(last)
        return last


def _ones(bits: Value) -> Value:
    """How many there are; four bits in a look-up each, which takes less than adders do."""
    parts = (bits[place : place + 4] for place in range(0, len(bits), 4))
    return sum(Array(number.bit_count() for number in range(2 ** len(part)))[part] for part in parts)


class GatedCount(wiring.Component):
    """Counts, a row of the array a cycle, the elements that have nothing to multiply in a pass.

    taken  in(C) x R           as in `Array`
    swap   in(1)               as in `PackedWalk`: at least R cycles apart
    count  out(range(R*C + 1)) those that had taken nothing at the last swap `latency` cycles ago or more
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.latency = config.rows + 1
        taken = In(config.columns).array(config.rows)
        super().__init__({"taken": taken, "swap": In(1), "count": Out(range(config.rows * config.columns + 1))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        turn, total = Signal(len(self.taken)), Signal.like(self.count)  # a bit for each row
        rows = [Signal(len(taken), name=f"row_{row}", reset_less=True) for row, taken in enumerate(self.taken)]
        counted = total + _ones(one_in_turn(turn, [~row for row in rows]))
        m.d.sync += [turn.eq(Cat(self.swap, turn)), total.eq(counted)]
        with m.If(self.swap):
            m.d.sync += total.eq(0)
            m.d.sync += [row.eq(taken) for row, taken in zip(rows, self.taken, strict=True)]
        with m.If(turn[-1]):
            m.d.sync += self.count.eq(counted)
        return m


class PackedWalk(wiring.Component):
    """The loops of a packed MATMUL: tile, slice, chunk; a pass is all planes of one chunk.

    While a pass takes its steps, the words of the next one are fetched, one of each bank a cycle. A pass ends when both
    are done, and no sooner than the shadow registers allow; before the first one its words alone are fetched. Cycles:
    `config.packed_cycles`. Without the feature "packed" it never walks.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    load, command, walking, step, stall, ends, reads, b_row, control, sums
        As in `engine.Walk`. `stall`: no step is taken, but for the set-up. `reads`: of B.
    write : In(MemoryWrite())
        Of PROGRAM; not while `walking`.
    fetch : Out(1)
        A row of each bank is read: `a_rows`, in this cycle.
    take : Out(C) x R
        Elements that take their bank's word: `take_cycles` - 1 cycles after `fetch`, the latency of the A memory.
    swap : Out(1)
        `take_cycles` cycles after the first step of a pass: what was taken before is multiplied from the next cycle on.
    choice : Out x C
        As in `BMemory`, with `reads`.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "command": In(packets.Matmul),
                "write": In(MemoryWrite()),
                "walking": Out(1),
                "step": Out(1),
                "stall": Out(1),
                "ends": Out(1),
                "reads": Out(1),
                "fetch": Out(1),
                "a_rows": Out(range(config.a_rows)).array(config.rows),
                "take": Out(config.columns).array(config.rows),
                "swap": Out(1),
                "b_row": Out(range(config.b_rows)),
                "choice": Out(range(config.group_columns)).array(config.columns),
                "control": Out(StepControl),
                "sums": Out(pass_layout(config)),
            }
        )
        self._loaded, self._set_up, self._running = Signal(), Signal(), Signal()
        self._coming = Signal()  # there is a pass to come
        self._fetching = Signal()  # words of it are to be fetched: the row of PROGRAM at hand is used in this cycle
        self._fetched = Signal()  # a cycle later: so it was
        self._turn = Signal()  # the pass ends, and the one to come begins
        # a cycle later: so it was, and the one that came was its slice's last, its tile's last
        self._turned, self._turned_slice, self._turned_tile = Signal(), Signal(), Signal()
        self._ends = Signal(), Signal(), Signal()  # the pass to come is its slice's last, its tile's, the last of all
        self._ahead = Signal()  # the loops go on to the pass behind the one to come

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.config.packs:
            return m
        m.submodules.program = program = Program(self.config)
        wiring.connect(m, wiring.flipped(self.write), program.write)
        command = self.command
        chunk, slice_ = Countdown(m, command.chunks, "chunk"), Countdown(m, command.slices, "slice")
        tile, plane = Countdown(m, command.tiles, "tile"), Countdown(m, command.planes, "plane")
        self._loop(m, chunk, slice_, tile, plane)
        fetched_all = self._fetch_program(m, program)
        self._pace(m, plane, fetched_all)
        self._take_words(m, program)
        self._walk_planes(m, program, plane)
        self._place_sums(m, slice_)
        return m

    def _loop(self, m: Module, chunk: Countdown, slice_: Countdown, tile: Countdown, plane: Countdown) -> None:
        """Planes of the pass at hand; chunk, slice and tile of the pass behind the one to come.

        Passes take some cycles, so these loops turn a cycle after the pass does, and what the next pass ends is there
        before it is asked for.
        """
        loops = chunk, slice_, tile
        m.d.sync += self._ahead.eq(self._set_up | self._turn)
        with m.If(self._set_up):
            m.d.sync += [end.eq(_all(loops[: n + 1], "once")) for n, end in enumerate(self._ends)]
        with m.Elif(self._turn):
            m.d.sync += [end.eq(_all(loops[: n + 1], "last")) for n, end in enumerate(self._ends)]
        turns = [(loop, self._ahead & _all(loops[:n], "last")) for n, loop in enumerate(loops)]
        for loop, turn in (*turns, (plane, self.step)):
            with m.If(self._set_up):
                loop.restart()
            with m.Elif(turn):
                loop.advance()
        ends_slice, ends_tile, _ = self._ends
        m.d.sync += [
            self._turned.eq(self._turn),
            self._turned_slice.eq(self._turn & ends_slice),
            self._turned_tile.eq(self._turn & ends_tile),
        ]

    def _pace(self, m: Module, plane: Countdown, fetched_all: Signal) -> None:
        """When passes begin and end; the first one is before all steps, the last one without words to fetch."""
        loaded, stepping = self._loaded, Signal()
        left, apart = Signal(range(self.config.drain_cycles)), Signal(init=1)  # apart: the shadow registers allow it
        stepped_all, last_pass = ~stepping | plane.last, self._ends[-1]
        m.d.sync += [loaded.eq(self.load), self._set_up.eq(loaded)]
        m.d.comb += [
            self.step.eq(stepping),
            self.stall.eq(self._running & ~stepping),
            self._turn.eq(self._coming & stepped_all & (~self._fetching | fetched_all) & apart),
            self.ends.eq(self.step & plane.last & ~self._coming),
        ]
        with m.If(self.load):
            m.d.sync += self.walking.eq(1)
        with m.If(self._set_up | self._turn):
            m.d.sync += [left.eq(self.config.drain_cycles - 1), apart.eq(0)]
        with m.Elif(left != 0):
            m.d.sync += [left.eq(left - 1), apart.eq(left == 1)]
        with m.If(self._set_up):
            m.d.sync += [self._running.eq(1), self._coming.eq(1), self._fetching.eq(1)]
        with m.If(self._fetching & fetched_all):
            m.d.sync += self._fetching.eq(0)
        with m.If(self.step & plane.last):
            m.d.sync += stepping.eq(0)
        with m.If(self._turn):
            m.d.sync += [stepping.eq(1), self._fetching.eq(~last_pass), self._coming.eq(~last_pass)]
        with m.If(self.ends):
            m.d.sync += [self._running.eq(0), self.walking.eq(0)]

    def _fetch_program(self, m: Module, program: Program) -> Signal:
        """One row of PROGRAM after the other, a tile's again for each pass; whether it is the last one of the pass."""
        # rows: the tile's first, the next one, and those behind them, so that no adder is on the way to the memory
        first, behind_first, following, behind_following = (
            Signal(range(PROGRAM_ROWS), name=name)
            for name in ("first", "behind_first", "following", "behind_following")
        )
        last, begin, (_, ends_tile, _) = Signal(), self.command.program, self._ends
        m.d.comb += [
            last.eq(program.row.last),
            program.prepare.eq(self._loaded),
            program.fetch.eq(self._set_up | self._fetching),
            program.begins.eq(self._set_up | (self._fetching & last & ends_tile)),
            program.again.eq(self._fetching & last & ~ends_tile),
            program.place.eq(Mux(program.again, first, following)),
            program.behind.eq(Mux(program.again, behind_first, behind_following)),
        ]
        with m.If(self._loaded):
            m.d.comb += program.behind.eq(begin)
            m.d.sync += [following.eq(begin), behind_following.eq(begin + 1)]
        with m.Elif(program.fetch):
            m.d.sync += [following.eq(program.behind), behind_following.eq(program.behind + 1)]
        with m.If(program.begins):
            m.d.sync += [first.eq(program.place), behind_first.eq(program.behind)]
        return last

    def _take_words(self, m: Module, program: Program) -> None:
        """Rows of A for the words at hand; which elements take them, when they are there."""
        config, row = self.config, program.row
        a = Cells(m, "a", config.a_cells, config.slices_per_octet, self.command, "a")
        with m.If(self._set_up):
            a.first_tile()
        with m.Elif(self._turned_tile):
            a.same_tile()
        with m.Elif(self._turned_slice):
            a.next_part()
        with m.Elif(self._turned):
            a.next_chunk()
        distances = Signal.like(row.a_cell)
        m.d.sync += [self._fetched.eq(self._fetching), distances.eq(row.a_cell), self.fetch.eq(self._fetched)]
        for number in range(config.rows):
            cell = (a.cell + distances[number])[: len(a.cell)]
            m.d.sync += self.a_rows[number].eq(Cat(a.part, cell))
            mask = row.mask[number]  # out of the block RAM into a register, with nothing in between
            for stage in range(take_cycles(config)):
                later = Signal(config.columns, name=f"mask_{number}_{stage}")
                m.d.sync += later.eq(mask)
                mask = later if stage else Mux(self._fetched, later, 0)
            m.d.comb += self.take[number].eq(mask)

    def _walk_planes(self, m: Module, program: Program, plane: Countdown) -> None:
        """Rows of B, and what each step means."""
        config, command = self.config, self.command
        cells = range(config.b_cells)
        first_chunk, next_chunk, cell = Signal(cells), Signal(cells), Signal(cells)
        part, first, negative = Signal(PLANE_BITS), Signal(), Signal.like(command.b_negative)
        m.d.sync += [self.reads.eq(self.step), self.control.last.eq(self.step & plane.last)]
        m.d.comb += [
            first_chunk.eq(command.b_cell + Mux(command.b_first[PLANE_BITS], command.chunks, 0)),
            self.b_row.eq(Cat(part, cell)),
            self.control.valid.eq(self.reads),
            self.control.first.eq(first),
            self.control.double.eq(~first),
            self.control.negative.eq(negative[0]),
        ]
        with m.If(self._set_up | self._turned_slice):
            m.d.sync += next_chunk.eq(first_chunk)
        with m.Elif(self._turned):
            m.d.sync += next_chunk.eq(next_chunk + 1)

        b_cell, choice = self._columns_of_tile(m, program)
        with m.If(self._turned):
            m.d.sync += [cell.eq(next_chunk + b_cell), part.eq(command.b_first[:PLANE_BITS]), first.eq(1)]
            m.d.sync += [
                negative.eq(command.b_negative),
                *(to.eq(c) for to, c in zip(self.choice, choice, strict=True)),
            ]
        with m.Elif(self.reads):
            m.d.sync += [part.eq(part + 1), first.eq(0), negative.eq(negative >> 1)]
            with m.If(part == OCTET_BITS - 1):
                m.d.sync += cell.eq(cell + command.chunks)
        swap = self._turn
        for stage in range(take_cycles(config) + 1):
            later = Signal(name=f"swap_{stage}")
            m.d.sync += later.eq(swap)
            swap = later
        m.d.comb += self.swap.eq(swap)

    def _columns_of_tile(self, m: Module, program: Program) -> tuple[Signal, Signal]:
        """What the first row of the next pass's tile says of its columns; there from the second cycle of a pass on."""
        row, first_row = program.row, Signal()
        b_cell, choice = Signal.like(row.b_cell), Signal.like(row.choice)
        with m.If(self._set_up | self._turn):
            m.d.sync += first_row.eq(1)
        with m.Elif(self._running):
            m.d.sync += first_row.eq(0)
        with m.If(first_row):
            m.d.sync += [b_cell.eq(row.b_cell), choice.eq(row.choice)]
        return b_cell, choice

    def _place_sums(self, m: Module, slice_: Countdown) -> None:
        """Where the sums of the pass at hand go, and those of the next one."""
        command, coming = self.command, Signal(pass_layout(self.config))
        offsets, slices_left = Signal.like(command.a_offset), Signal.like(slice_.left)
        m.d.comb += [coming.offset.eq(offsets[0]), coming.slices_left.eq(slices_left + command.a_below)]
        with m.If(self._ahead):
            m.d.sync += slices_left.eq(slice_.left)
        with m.If(self._set_up | self._turned_tile):
            m.d.sync += [offsets.eq(command.a_offset), coming.replace.eq(~command.accumulate)]
        with m.Elif(self._turned):
            m.d.sync += coming.replace.eq(0)
            with m.If(self._turned_slice):
                m.d.sync += offsets.eq(offsets >> 1)
        with m.If(self._set_up):
            m.d.sync += coming.row.eq(command.sum_tile * self.config.rows)
        with m.Elif(self._turned_tile):
            m.d.sync += coming.row.eq(coming.row + self.config.rows)
        with m.If(self._turned):
            m.d.sync += self.sums.eq(coming)


def _all(loops: Sequence[Countdown], flag: str) -> Value:
    """Whether all of them are on their last turn, or have no other (`once`)."""
    return reduce(and_, (getattr(loop, flag) for loop in loops), Const(1))
