"""The matrix-product engine: operand memories, array, partial sums, and the loops over them."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .array import Array, Digits, StepControl
from .config import MAX_BITS, ArrayConfig
from .contract import packets
from .fixed import FixedArray
from .fusion import FusionArray
from .operands import AMemory, BMemory, DigitMemory, RowMemory
from .packed import GatedCount, PackedWalk, take_cycles
from .ports import CellWrite, EngineEvents, MemoryWrite, SumRead
from .sums import PartialSums
from .walking import Cells, Countdown, pass_layout
from .wide import WideArray

ARRAYS = {"serial": Array, "fixed": FixedArray, "fusion": FusionArray, "fixed16": WideArray}


class Walk(wiring.Component):
    """The loops: row tile, column tile, slice, plane, K chunk (innermost); one array step a cycle.

    Behind the last chunk of a pass's last plane come `b_below` cycles that double the sums and add nothing.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    load : In(1)
        Take `command` and begin; not while `walking`.
    command : In(packets.Matmul)
        Already validated; it holds from the cycle after `load` until `walking` falls.
    other_ends : In(1)
        Another walk takes its last step.
    walking : Out(1)
        From the cycle after `load` to the last step.
    counted : Out(1)
        High in `config.matmul_cycles` of these cycles: all but those in which the first pass, where it is short, waits
        for the drain of the MATMUL before. That waiting alone depends on when commands arrive.
    step : Out(1)
        A step is taken.
    stall : Out(1)
        The array waits for its shadow registers in a later pass than the first.
    ends : Out(1)
        This step, or doubling, is the last.
    reads : Out(1)
        A cycle behind `step`: its operand row pair is to be read.
    a_row, b_row : Out
        Which rows, with `reads`.
    clears : Out(1)
        A cycle behind a doubling: it takes zeros for B.
    control : Out(StepControl)
        A cycle behind a step, or doubling: what it means.
    sums : Out(pass_layout(config))
        With `control.last`: where the sums of the pass go.
    digits : Out(Digits)
        With `control`, of "fusion" and "fixed16" alone, where a chunk takes several steps: which digits are fed.

    A step decides in one cycle what the next one is; what follows from it alone comes a cycle later.

    Passes end at least `config.drain_cycles` cycles apart, also across MATMULs: there one cycle more, in which the
    drain leaves the sums to a read.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "command": In(packets.Matmul),
                "other_ends": In(1),
                "walking": Out(1),
                "counted": Out(1),
                "step": Out(1),
                "stall": Out(1),
                "ends": Out(1),
                "reads": Out(1),
                "clears": Out(1),
                "a_row": Out(range(config.a_rows)),
                "b_row": Out(range(config.b_rows)),
                "control": Out(StepControl),
                "sums": Out(pass_layout(config)),
            }
            | ({"digits": Out(Digits)} if config.takes_turns else {})
        )
        self._set_up = Signal()  # the counters start
        self._running, self._doubles = Signal(), Signal()
        self._behind, self._go_behind = Signal(), Signal()  # behind the steps of a pass; this step leads there
        # end_pass: this step, if it is taken, ends its pass; turn_x: it is taken, and ends its x
        self._end_pass, self._turn_pass = Signal(), Signal()
        self._turn_chunk, self._turn_plane = Signal(), Signal()
        # a cycle later: it ended its x, or led behind the steps of its pass
        self._chunk_ended = Signal()
        self._plane_ended, self._pass_ended, self._went_behind = Signal(), Signal(), Signal()
        self._tile_ended, self._columns_ended = Signal(), Signal()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, command = self.config, self.command
        a_bits, b_bits = config.a_cells.bit_length(), config.b_cells.bit_length()  # no count is larger than its cells
        chunk = Countdown(m, command.chunks[: min(a_bits, b_bits)], "chunk")
        plane = Countdown(m, self._b_digits, "plane")
        slice_ = Countdown(m, self._a_digits, "slice")
        column = Countdown(m, command.col_tiles[:b_bits], "column")
        row = Countdown(m, command.row_tiles[:a_bits], "row")

        may_end = self._pass_spacing(m)
        below, last_doubling = self._double(m)
        last_part = self._parts(m)
        last_step, goes = last_part & chunk.last & plane.last, self._running & (may_end | ~self._end_pass)
        m.d.comb += [
            self._end_pass.eq(Mux(self._behind, last_doubling, last_step & ~below)),
            self.step.eq(goes & ~self._behind),
            self._doubles.eq(goes & self._behind),
            self._go_behind.eq(self.step & last_step & below),
            self._turn_chunk.eq(self.step & last_part),
            self._turn_plane.eq(self._turn_chunk & chunk.last),
            self._turn_pass.eq(self._running & may_end & self._end_pass),
            self.ends.eq(self._turn_pass & slice_.last & column.last & row.last),
            self._tile_ended.eq(self._pass_ended & slice_.last),
            self._columns_ended.eq(self._tile_ended & column.last),
        ]
        m.d.sync += [
            self.reads.eq(self.step),
            self.clears.eq(self._doubles),
            self._chunk_ended.eq(self._turn_chunk),
            self._plane_ended.eq(self._turn_plane),
            self._pass_ended.eq(self._turn_pass),
            self._went_behind.eq(self._go_behind),
        ]
        self._time(m)
        self._rows(m)
        self._meaning(m)
        self._sums(m, slice_.left)

        turns = (
            (chunk, self._turn_chunk),
            (plane, self._turn_plane),
            (slice_, self._pass_ended),  # passes end more than a cycle apart
            (column, self._tile_ended),
            (row, self._columns_ended),
        )
        for loop, turn in turns:
            with m.If(self._set_up):
                loop.restart()
            with m.Elif(turn):
                loop.advance()
        return m

    @property
    def _a_digits(self) -> Value:
        """How many passes a tile takes."""
        slices = self.command.slices[: self.config.max_slices.bit_length()]
        if self.config.is_wide:
            return Const(1)
        return Cat(~slices[3], slices[3]) if self.config.fuses else slices

    @property
    def _b_digits(self) -> Value:
        """How often a pass goes through the chunks."""
        planes = self.command.planes[: MAX_BITS.bit_length()]
        if self.config.is_wide:
            return Const(1)
        if self.config.fuses:
            return Cat(~planes[4], planes[4])
        return planes[exact_log2(self.config.b_row_planes) :]

    def _parts(self, m: Module) -> Value:
        """Counts the steps of a chunk, where there are several: whether this is the last."""
        if not self.config.takes_turns:
            return Const(1)
        command, digits = self.command, self.digits
        planes, slices = command.planes, command.slices
        widths = Cat(~planes[1], planes[3:].any(), ~slices[0], slices[2:].any())
        if self.config.is_wide:
            widths = Cat(planes[4], Const(0), slices[1], Const(0))
        used, part, following, last = Signal(4), Signal(4), Signal(4), Signal()  # bits of B's turn, then of A's
        m.d.comb += following.eq(((part | ~used) + 1) & used)
        m.d.sync += [used.eq(1 if self.config.is_wide else widths), Cat(digits.b_turn, digits.a_turn).eq(part)]
        with m.If(self._set_up):
            m.d.sync += [
                last.eq(used == 0),
                Cat(digits.b_width, digits.a_width).eq(widths),
                digits.a_place.eq(~command.a_first),
                digits.b_place.eq(~command.b_first[1:]),
            ]
        with m.Elif(self.step):
            m.d.sync += [part.eq(following), last.eq(following == used)]
        return last

    def _double(self, m: Module) -> tuple[Signal, Signal]:
        """Counts the doublings behind a pass: whether there are some, and whether this one is the last."""
        count = self.command.b_below
        below, left, last = Signal(), Signal.like(count), Signal()
        m.d.sync += below.eq(count != 0)
        with m.If(self._go_behind):
            m.d.sync += [self._behind.eq(1), left.eq(count - 1), last.eq(count == 1)]
        with m.Elif(self._doubles):
            m.d.sync += [self._behind.eq(~last), left.eq(left - 1), last.eq(left == 1)]
        return below, last

    def _pass_spacing(self, m: Module) -> Signal:
        """High when enough cycles have gone by since the last pass ended."""
        wait = Signal(range(self.config.drain_cycles + 1))
        may_end = Signal(init=1)
        other_ended = Signal()  # this walk begins later than a cycle behind it
        m.d.sync += other_ended.eq(self.other_ends)
        with m.If(self._turn_pass):
            m.d.sync += [wait.eq(self.config.drain_cycles - 1 + self.ends), may_end.eq(0)]
        with m.Elif(other_ended):
            m.d.sync += [wait.eq(self.config.drain_cycles - 1), may_end.eq(0)]
        with m.Elif(wait != 0):
            m.d.sync += [wait.eq(wait - 1), may_end.eq(wait == 1)]
        return may_end

    def _time(self, m: Module) -> None:
        loaded, first_pass, waits = Signal(), Signal(), Signal()
        m.d.sync += [loaded.eq(self.load), self._set_up.eq(loaded)]
        m.d.comb += [
            waits.eq(self._running & ~self.step & ~self._doubles),
            self.stall.eq(waits & ~first_pass),
            self.counted.eq(self.walking & ~(waits & first_pass)),
        ]
        with m.If(self.load):
            m.d.sync += self.walking.eq(1)
        with m.If(self._set_up):
            m.d.sync += [self._running.eq(1), first_pass.eq(1)]
        with m.If(self._turn_pass):
            m.d.sync += first_pass.eq(0)
        with m.If(self.ends):
            m.d.sync += [self._running.eq(0), self.walking.eq(0)]

    def _rows(self, m: Module) -> None:
        """Row addresses: both memories are walked in order, but for going back over what is used again."""
        config = self.config
        a = Cells(
            m, "a", config.a_cells, config.a_cell_rows, self.command, "a", config.a_row_slice_bits // config.slice_bits
        )
        b = Cells(m, "b", config.b_cells, config.b_cell_rows, self.command, "b", config.b_row_planes)
        a_row, b_row = a.row, b.row
        if config.is_wide:
            second = self.digits.b_turn[0]
            a_row = a_row + Mux(second & self.digits.a_width[0], self.command.chunks, 0)
            b_row = b_row + Mux(second & self.digits.b_width[0], self.command.chunks, 0)
        m.d.comb += [self.a_row.eq(a_row), self.b_row.eq(b_row)]
        with m.If(self._set_up):
            a.first_tile()
            b.first_tile()
        with m.Elif(self._columns_ended):
            a.next_tile()
            b.first_tile()
        with m.Elif(self._tile_ended):
            a.same_tile()
            b.next_tile()
        with m.Elif(self._pass_ended):
            a.next_part()
            b.same_tile()
        with m.Elif(self._went_behind | self.clears):
            pass  # the pass ends behind the place of its last step
        with m.Elif(self._plane_ended):
            a.same_part()
            b.next_part()
        with m.Elif(self._chunk_ended):
            a.next_chunk()
            b.next_chunk()

    def _meaning(self, m: Module) -> None:
        """What the step means to the accumulators: registered a step ahead, `b_negative` shifted plane by plane."""
        first, double = Signal(), Signal()
        negative = Signal.like(self.command.b_negative)
        with m.If(self._set_up):
            m.d.sync += [first.eq(1), double.eq(0), negative.eq(self.command.b_negative)]
        with m.Elif(self.control.valid):
            m.d.sync += [first.eq(self._pass_ended), double.eq(self._plane_ended | self.clears)]
            with m.If(self._pass_ended):
                m.d.sync += negative.eq(self.command.b_negative)
            with m.Elif(self._plane_ended):
                m.d.sync += negative.eq(negative >> self.config.b_row_planes)
        m.d.comb += [
            self.control.valid.eq(self.reads | self.clears),
            self.control.first.eq(first),
            self.control.double.eq(double),
            self.control.negative.eq(negative[0]),
            self.control.last.eq(self._pass_ended),
        ]

    def _sums(self, m: Module, slices_left: Value) -> None:
        """Sums of the pass at hand: tiles in order, `a_offset` shifted slice by slice, replaced by the first slice."""
        command, sums = self.command, self.sums
        offsets = Signal(self.config.max_slices)
        at_once = self.config.a_digit_bits // self.config.slice_bits  # slices of a wide operand that a pass takes
        m.d.comb += sums.slices_left.eq(slices_left * at_once + command.a_below)
        m.d.comb += self.digits.a_signed.eq(offsets[0]) if self.config.takes_turns else sums.offset.eq(offsets[0])
        with m.If(self._set_up | self._tile_ended):
            m.d.sync += [offsets.eq(command.a_offset), sums.replace.eq(~command.accumulate)]
        with m.Elif(self._pass_ended):
            m.d.sync += [offsets.eq(offsets >> at_once), sums.replace.eq(0)]
        with m.If(self._set_up):
            m.d.sync += sums.row.eq(command.sum_tile * self.config.rows)
        with m.Elif(self._tile_ended):
            m.d.sync += sums.row.eq(sums.row + self.config.rows)


class MatmulEngine(wiring.Component):
    """Executes MATMULs in order: it walks over the operands of one while the sums of the one before are stored.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    start : In(stream.Signature(packets.Matmul))
        The fields must already be validated. Ready when not `walking` and, of all MATMULs before, at most the last has
        sums still to be stored.
    a_write, b_write : In(CellWrite(config)), In(CellWrite(config, config.b_chunks)); without "gather" In(MemoryWrite())
        At any time, but not to cells that a MATMUL reads, while `walking` and in the three cycles after (without
        "gather": four). A MATMUL
        started in the cycle after a write reads what was written.
    sum_write, program_write : In(MemoryWrite())
        Only when not `busy`. `word` is the column in SUMS.
    sum_read : In(SumRead(config))
        At any time; rows of sums that a MATMUL under way adds to are in between. A row changes as a whole. The drain
        goes first: it takes R cycles from one pass to the next. Where passes are no longer than that, a read waits for
        the end of the MATMUL; behind each MATMUL there is a cycle without a drain.
    events : Out(EngineEvents(config))
        `busy` is high for `config.matmul_cycles(...)` (`packed_cycles`) cycles for each MATMUL, however close the one
        before it was.
        `serial_ones` and `gated` are 0 but for one cycle per step, each a fixed delay later. All are out before `busy`
        (below) falls.
    walking : Out(1)
        From the cycle after `start` is taken to the MATMUL's last step: its cells are being read.
    storing : Out(1)
        Sums of some MATMUL whose steps are all done are not stored yet: `config.matmul_tail_cycles` cycles from its
        last step on. The MATMUL started last is under way while `busy`, the one before it at most while `storing`.
    busy : Out(1)
        `walking` or `storing`: not all sums are stored.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        cells = CellWrite(config), CellWrite(config, config.b_chunks)
        a_write, b_write = cells if config.gathers else (MemoryWrite(), MemoryWrite())
        super().__init__(
            {
                "start": In(stream.Signature(packets.Matmul)),
                "a_write": In(a_write),
                "b_write": In(b_write),
                "sum_write": In(MemoryWrite()),
                "program_write": In(MemoryWrite()),
                "sum_read": In(SumRead(config)),
                "events": Out(EngineEvents(config)),
                "walking": Out(1),
                "storing": Out(1),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.packed = packed = PackedWalk(config)
        m.submodules.a_memory = a_memory = AMemory(config) if config.gathers else RowMemory.of_a(config)
        m.submodules.b_memory = b_memory = self._b_memory()
        m.submodules.array = array = ARRAYS[config.datapath](config)
        m.submodules.partial_sums = partial_sums = PartialSums(config)
        assert a_memory.latency + 3 + config.gathers == b_memory.latency + 2 == config.operand_cycles
        assert config.operand_cycles == take_cycles(config) + 1
        assert walk_tail(array, partial_sums) == config.matmul_tail_cycles
        assert config.operand_cycles + array.ones_latency <= config.matmul_tail_cycles
        assert config.drain_cycles >= max(config.rows, partial_sums.latency)

        command = Signal(packets.Matmul)
        is_packed = command.packed if config.packs else Const(0)
        crowded, load = self._time_storing(m, walk.ends | packed.ends), Signal()
        m.d.comb += [
            self.start.ready.eq(~self.walking & ~crowded),
            load.eq(self.start.valid & self.start.ready),
            walk.load.eq(load & ~self.start.payload.packed),
            packed.load.eq(load & self.start.payload.packed),
            walk.command.eq(command),
            packed.command.eq(command),
            walk.other_ends.eq(packed.ends),
            self.walking.eq(walk.walking | packed.walking),
            self.busy.eq(self.walking | self.storing),
        ]
        with m.If(load):
            m.d.sync += command.eq(self.start.payload)

        wiring.connect(m, wiring.flipped(self.a_write), a_memory.write)
        wiring.connect(m, wiring.flipped(self.b_write), b_memory.write)
        wiring.connect(m, wiring.flipped(self.sum_write), partial_sums.write)
        wiring.connect(m, wiring.flipped(self.sum_read), partial_sums.read)
        wiring.connect(m, wiring.flipped(self.program_write), packed.write)
        self._feed(m, is_packed, walk, packed, a_memory, b_memory, array)
        m.d.comb += [array.a[word].eq(a_memory.data[word]) for word in range(config.a_row_words)]
        m.d.comb += [array.b[word].eq(b_memory.data[word]) for word in range(config.b_row_words)]
        control, sums = Signal(StepControl), Signal(pass_layout(config))
        m.d.comb += [
            control.eq(Mux(is_packed, packed.control, walk.control)),
            sums.eq(Mux(is_packed, packed.sums, walk.sums)),
        ]
        ends_pass = control.last
        m.d.comb += array.control.eq(self._with_operands(m, "control", control))
        if config.takes_turns:
            m.d.comb += array.digits.eq(self._with_operands(m, "digits", walk.digits))

        self._drain(m, ends_pass, sums, array, partial_sums, config.operand_cycles - 1 + array.latency)
        m.d.comb += [
            self.events.busy.eq(walk.counted | packed.walking),
            self.events.step.eq(walk.step | packed.step),
            self.events.stall.eq(walk.stall | packed.stall),
            self.events.overflow.eq(partial_sums.overflow),
            self.events.serial_ones.eq(array.ones),
        ]
        if config.packs:
            self._count_gated(m, packed, array)
        return m

    def _with_operands(self, m: Module, name: str, value: data.View) -> data.View:
        """What belongs to a step, when its operands are at the elements."""
        for index in range(self.config.operand_cycles - 1):
            later = Signal(value.shape(), name=f"{name}_{index}")
            m.d.sync += later.eq(value)
            value = later
        return value

    def _b_memory(self) -> "BMemory | DigitMemory | RowMemory":
        if not self.config.gathers:
            return RowMemory.of_b(self.config)
        return BMemory(self.config) if self.config.datapath == "serial" else DigitMemory(self.config)

    def _feed(
        self,
        m: Module,
        is_packed: Value,
        walk: Walk,
        packed: PackedWalk,
        a: AMemory | RowMemory,
        b: BMemory | DigitMemory | RowMemory,
        array: Array,
    ) -> None:
        """Operands to the elements: without a program each takes its bank's word and its own column in every step."""
        config = self.config
        takes = [walk.reads]  # from a cycle behind the step on
        for cycle in range(1, take_cycles(config)):
            takes.append(Signal(name=f"takes_{cycle}"))
            m.d.sync += takes[-1].eq(takes[-2])
        m.d.comb += array.move.eq(takes[-1] | packed.swap)
        m.d.sync += [
            a.enable.eq(walk.reads | packed.fetch),
            b.enable.eq(walk.reads | packed.reads),
        ]
        if isinstance(b, DigitMemory):
            m.d.sync += [row.eq(walk.b_row) for row in b.rows]
        else:
            m.d.sync += [b.clear.eq(walk.clears), b.row.eq(Mux(is_packed, packed.b_row, walk.b_row))]
        for row in range(config.rows):
            m.d.comb += array.take[row].eq(packed.take[row] | takes[-2].replicate(config.columns))
        if not config.gathers:
            m.d.sync += a.row.eq(walk.a_row)
            return
        for row in range(config.rows):
            m.d.sync += a.rows[row].eq(Mux(is_packed, packed.a_rows[row], walk.a_row))
        for column in range(config.columns if config.packs else 0):
            m.d.sync += b.choice[column].eq(Mux(is_packed, packed.choice[column], column % config.group_columns))

    def _count_gated(self, m: Module, packed: PackedWalk, array: Array) -> None:
        """A step's count comes when that of its pass is there, whose words are swapped after its first step."""
        m.submodules.gated = gated = GatedCount(self.config)
        m.d.comb += [gated.taken[row].eq(taken) for row, taken in enumerate(array.taken)]
        latency = take_cycles(self.config) + gated.latency
        assert latency <= self.config.matmul_tail_cycles
        counts = packed.step
        for cycle in range(latency):
            later = Signal(name=f"counts_{cycle}")
            m.d.sync += later.eq(counts)
            counts = later
        m.d.comb += gated.swap.eq(packed.swap)
        with m.If(counts):
            m.d.comb += self.events.gated.eq(gated.count)

    def _time_storing(self, m: Module, ends: Signal) -> Signal:
        """Time `storing`; returns whether two MATMULs still store."""
        tail = Signal(range(self.config.matmul_tail_cycles))
        crowded = Signal()
        # the one before ended at least drain_cycles + 1 cycles earlier, so it is done when the last has these to go
        apart = self.config.drain_cycles + 1
        assert apart < self.config.matmul_tail_cycles
        with m.If(self.storing):
            m.d.sync += tail.eq(tail - 1)
            with m.If(tail == apart):
                m.d.sync += crowded.eq(0)
            with m.If(tail == 0):
                m.d.sync += self.storing.eq(0)
        with m.If(ends):
            m.d.sync += [
                self.storing.eq(1),
                crowded.eq(self.storing),
                tail.eq(self.config.matmul_tail_cycles - 1),
            ]
        return crowded

    def _drain(
        self, m: Module, ends_pass: Value, sums: Signal, array: Array, partial_sums: PartialSums, latency: int
    ) -> None:
        """Follow the passes out of the array: a queue holds where their sums go, `latency` cycles or more."""
        config, drain = self.config, partial_sums.drain
        under_way = (latency + config.rows) // config.drain_cycles + 1  # passes ended and not yet drained, at most
        depth = 1 << (under_way - 1).bit_length()
        m.submodules.passes = passes = memory.Memory(shape=pass_layout(config), depth=depth, init=[])
        write_port, read_port = passes.write_port(), passes.read_port(domain="comb")
        m.d.comb += [
            write_port.en.eq(ends_pass),
            write_port.data.eq(sums),
            drain.valid.eq(array.drain_valid),
        ]
        with m.If(write_port.en):
            m.d.sync += write_port.addr.eq(write_port.addr + 1)

        place = Signal(pass_layout(config))  # of the pass that drains; between passes, of the next
        row, last_row = Signal(range(config.rows)), Signal()
        m.d.comb += [
            last_row.eq(row == config.rows - 1),
            drain.row.eq(place.row | row),
            drain.offset.eq(place.offset),
            drain.replace.eq(place.replace),
            drain.slices_left.eq(place.slices_left),
        ]
        m.d.comb += [drain.sums[i].eq(array.sums[i]) for i in range(config.columns)]
        m.d.comb += [drain.column_sums[i].eq(array.column_sums[i]) for i in range(config.columns)]
        with m.If(drain.valid):
            m.d.sync += row.eq(Mux(last_row, 0, row + 1))
            with m.If(row == 0):
                m.d.sync += read_port.addr.eq(read_port.addr + 1)
        with m.If(~drain.valid | last_row):
            m.d.sync += place.eq(read_port.data)


def walk_tail(array: Array, sums: PartialSums) -> int:
    """Cycles from the last step of a MATMUL to its last sum stored: parts' latencies, and rows that leave in turn."""
    return array.config.operand_cycles + array.latency + array.config.rows - 1 + sums.latency - 1
