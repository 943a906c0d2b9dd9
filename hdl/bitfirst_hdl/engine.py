"""The matrix-product engine: operand memories, array, partial sums, and the loops over them."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .array import Array, StepControl
from .config import ArrayConfig
from .contract import packets
from .operands import OperandMemory
from .ports import EngineEvents, MemoryWrite, SumRead
from .sums import PartialSums


class _Countdown:
    """A loop counter that knows, one cycle ahead, when it is on its last turn."""

    def __init__(self, m: Module, count: Value, name: str) -> None:
        """`count` is the number of turns, at least 1; it must hold still while the loop runs."""
        self.m = m
        self.left = Signal(len(count), name=f"{name}_left")  # turns after this one
        self.last = Signal(name=f"{name}_last")
        self._reload_left = Signal(len(count), name=f"{name}_reload")
        self._reload_last = Signal(name=f"{name}_once")
        m.d.sync += [self._reload_left.eq(count - 1), self._reload_last.eq(count == 1)]

    def restart(self) -> None:
        """Back to the first turn; at least a cycle after `count` has changed."""
        self.m.d.sync += [self.left.eq(self._reload_left), self.last.eq(self._reload_last)]

    def advance(self) -> None:
        """To the next turn, from the last one to the first."""
        with self.m.If(self.last):
            self.restart()
        with self.m.Else():
            self.m.d.sync += [self.left.eq(self.left - 1), self.last.eq(self.left == 1)]


class Walk(wiring.Component):
    """The loops: row tile, column tile, slice, plane, K chunk (innermost); one array step a cycle.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    load : In(1)
        Take `command` and begin; not while `busy`.
    command : In(packets.Matmul)
        Already validated.
    busy : Out(1)
        From the cycle after `load`, `config.matmul_cycles` cycles long.
    set_up : Out(1)
        Second busy cycle: the counters start.
    step : Out(1)
        An operand row pair is read in this cycle.
    stall : Out(1)
        The array waits for its shadow registers: passes end at least `config.drain_cycles` cycles apart.
    a_row, b_row : Out
        Rows to read.
    control : Out(StepControl)
        What this step means.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "load": In(1),
                "command": In(packets.Matmul),
                "busy": Out(1),
                "set_up": Out(1),
                "step": Out(1),
                "stall": Out(1),
                "a_row": Out(range(config.a_depth)),
                "b_row": Out(range(config.b_depth)),
                "control": Out(StepControl),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        command = self.command
        chunk = _Countdown(m, command.chunks, "chunk")
        plane = _Countdown(m, command.planes, "plane")
        slice_ = _Countdown(m, command.slices, "slice")
        column = _Countdown(m, command.col_tiles, "column")
        row = _Countdown(m, command.row_tiles, "row")

        # end_x: this step, if it is taken, is the last of its x; turn_x: it is taken, too
        running, end_pass, turn_plane, turn_pass = Signal(), Signal(), Signal(), Signal()
        turn_tile, turn_columns, turn_all = Signal(), Signal(), Signal()
        may_end = self._pass_spacing(m, turn_pass)
        m.d.comb += [
            end_pass.eq(chunk.last & plane.last),
            self.step.eq(running & (may_end | ~end_pass)),
            self.stall.eq(running & ~self.step),
            turn_plane.eq(self.step & chunk.last),
            turn_pass.eq(running & may_end & end_pass),
            turn_tile.eq(turn_pass & slice_.last),
            turn_columns.eq(turn_tile & column.last),
            turn_all.eq(turn_columns & row.last),
        ]
        self._time_busy(m, running, turn_all)
        self._rows(m, turn_plane, turn_pass, turn_tile, turn_columns)
        self._meaning(m, turn_plane, turn_pass)
        m.d.comb += self.control.last.eq(turn_pass)

        turns = (chunk, self.step), (plane, turn_plane), (slice_, turn_pass), (column, turn_tile), (row, turn_columns)
        for loop, turn in turns:
            with m.If(self.set_up):
                loop.restart()
            with m.Elif(turn):
                loop.advance()
        return m

    def _pass_spacing(self, m: Module, turn_pass: Signal) -> Signal:
        """High when enough cycles have gone by since the last pass ended."""
        wait = Signal(range(self.config.drain_cycles))
        may_end = Signal(init=1)
        with m.If(turn_pass):
            m.d.sync += [wait.eq(self.config.drain_cycles - 1), may_end.eq(0)]
        with m.Elif(wait != 0):
            m.d.sync += [wait.eq(wait - 1), may_end.eq(wait == 1)]
        return may_end

    def _time_busy(self, m: Module, running: Signal, turn_all: Signal) -> None:
        tail = Signal(range(self.config.matmul_tail_cycles))
        finishing = Signal()
        loaded = Signal()
        m.d.sync += [loaded.eq(self.load), self.set_up.eq(loaded)]
        with m.If(self.load):
            m.d.sync += self.busy.eq(1)
        with m.If(self.set_up):
            m.d.sync += running.eq(1)
        with m.If(turn_all):
            m.d.sync += [running.eq(0), finishing.eq(1), tail.eq(self.config.matmul_tail_cycles - 1)]
        with m.If(finishing):
            m.d.sync += tail.eq(tail - 1)
            with m.If(tail == 0):
                m.d.sync += [finishing.eq(0), self.busy.eq(0)]

    def _rows(self, m: Module, turn_plane: Signal, turn_pass: Signal, turn_tile: Signal, turn_columns: Signal) -> None:
        """Row addresses. Both memories are walked in order, but for going back over what is used again."""
        command, a, b = self.command, self.a_row, self.b_row
        a_slice, a_tile, b_tile = Signal.like(a), Signal.like(a), Signal.like(b)
        a_next, b_next = Signal.like(a), Signal.like(b)
        m.d.comb += [a_next.eq(a + 1), b_next.eq(b + 1)]
        with m.If(self.set_up):
            m.d.sync += [a.eq(command.a_row), a_slice.eq(command.a_row), a_tile.eq(command.a_row)]
            m.d.sync += [b.eq(command.b_row), b_tile.eq(command.b_row)]
        with m.Elif(self.step):
            m.d.sync += [a.eq(a_next), b.eq(b_next)]
            with m.If(turn_columns):  # next row tile: new A, all of B again
                m.d.sync += [a_slice.eq(a_next), a_tile.eq(a_next), b.eq(command.b_row), b_tile.eq(command.b_row)]
            with m.Elif(turn_tile):  # next column tile: the row tile's A again, new B
                m.d.sync += [a.eq(a_tile), a_slice.eq(a_tile), b_tile.eq(b_next)]
            with m.Elif(turn_pass):  # next slice: new A, the column tile's B again
                m.d.sync += [a_slice.eq(a_next), b.eq(b_tile)]
            with m.Elif(turn_plane):  # next plane: the slice's A again, new B
                m.d.sync += a.eq(a_slice)

    def _meaning(self, m: Module, turn_plane: Signal, turn_pass: Signal) -> None:
        """What the step means to the accumulators: registered a step ahead, `b_negative` shifted plane by plane."""
        first, double = Signal(), Signal()
        negative = Signal.like(self.command.b_negative)
        with m.If(self.set_up):
            m.d.sync += [first.eq(1), double.eq(0), negative.eq(self.command.b_negative)]
        with m.Elif(self.step):
            m.d.sync += [first.eq(turn_pass), double.eq(turn_plane)]
            with m.If(turn_pass):
                m.d.sync += negative.eq(self.command.b_negative)
            with m.Elif(turn_plane):
                m.d.sync += negative.eq(negative >> 1)
        m.d.comb += [
            self.control.valid.eq(self.step),
            self.control.first.eq(first),
            self.control.double.eq(double),
            self.control.negative.eq(negative[0]),
        ]


class MatmulEngine(wiring.Component):
    """Executes one MATMUL at a time.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    start : In(stream.Signature(packets.Matmul))
        Ready when idle; the fields must already be validated.
    a_write, b_write : In(MemoryWrite())
        At any time, but not to rows that the running MATMUL reads.
    sum_write : In(MemoryWrite())
        Only when idle. `word` is the column.
    sum_read : In(SumRead(config))
        At any time; rows of sums that a running MATMUL adds to are in between.
    events : Out(EngineEvents(config))
        `serial_ones` is 0 but for one cycle per step, a fixed delay later; all are out before `busy` falls.
    busy : Out(1)
        From the cycle after `start` is taken, `config.matmul_cycles(...)` cycles long; then all sums are stored,
        and the next MATMUL is taken in the first cycle in which `busy` is low.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(packets.Matmul)),
                "a_write": In(MemoryWrite()),
                "b_write": In(MemoryWrite()),
                "sum_write": In(MemoryWrite()),
                "sum_read": In(SumRead(config)),
                "events": Out(EngineEvents(config)),
                "busy": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.walk = walk = Walk(config)
        m.submodules.a_memory = a_memory = OperandMemory(config.a_row_words, config.a_depth)
        m.submodules.b_memory = b_memory = OperandMemory(config.b_row_words, config.b_depth)
        m.submodules.array = array = Array(config)
        m.submodules.partial_sums = partial_sums = PartialSums(config)
        assert walk_tail(array, a_memory, partial_sums) == config.matmul_tail_cycles
        assert a_memory.latency + array.ones_latency <= config.matmul_tail_cycles

        command = Signal(packets.Matmul)
        m.d.comb += [
            self.start.ready.eq(~walk.busy),
            walk.load.eq(self.start.valid & self.start.ready),
            walk.command.eq(command),
            self.busy.eq(walk.busy),
        ]
        with m.If(walk.load):
            m.d.sync += command.eq(self.start.payload)

        wiring.connect(m, wiring.flipped(self.a_write), a_memory.write)
        wiring.connect(m, wiring.flipped(self.b_write), b_memory.write)
        wiring.connect(m, wiring.flipped(self.sum_write), partial_sums.write)
        wiring.connect(m, wiring.flipped(self.sum_read), partial_sums.read)
        m.d.comb += [
            a_memory.enable.eq(walk.step),
            a_memory.row.eq(walk.a_row),
            b_memory.enable.eq(walk.step),
            b_memory.row.eq(walk.b_row),
        ]
        m.d.comb += [array.a[word].eq(a_memory.data[word]) for word in range(config.a_row_words)]
        m.d.comb += [array.b[word].eq(b_memory.data[word]) for word in range(config.b_row_words)]
        control = walk.control
        for index in range(a_memory.latency):
            later = Signal(StepControl, name=f"control_{index}")
            m.d.sync += later.eq(control)
            control = later
        m.d.comb += array.control.eq(control)

        self._drain(m, command, walk.set_up, array, partial_sums)
        m.d.comb += [
            self.events.busy.eq(walk.busy),
            self.events.step.eq(walk.step),
            self.events.stall.eq(walk.stall),
            self.events.overflow.eq(partial_sums.overflow),
            self.events.serial_ones.eq(array.ones),
        ]
        return m

    def _drain(self, m: Module, command: data.View, set_up: Signal, array: Array, partial_sums: PartialSums) -> None:
        """Follow the passes out of the array: which sums, which weight, which slice's offset."""
        drain = partial_sums.drain
        slice_ = _Countdown(m, command.slices, "drain_slice")
        offsets = Signal.like(command.a_offset)
        last_row = Signal()
        row_in_tile = Signal(range(self.config.rows))
        tile_row = Signal.like(drain.row)  # first row of sums of the tile
        m.d.comb += [
            last_row.eq(row_in_tile == self.config.rows - 1),
            drain.valid.eq(array.drain_valid),
            drain.row.eq(tile_row | row_in_tile),
            drain.offset.eq(offsets[0]),
            drain.slices_left.eq(slice_.left),
        ]
        m.d.comb += [drain.sums[i].eq(array.sums[i]) for i in range(self.config.columns)]
        m.d.comb += [drain.column_sums[i].eq(array.column_sums[i]) for i in range(self.config.columns)]
        with m.If(set_up):
            slice_.restart()
            m.d.sync += [
                offsets.eq(command.a_offset),
                tile_row.eq(command.sum_tile * self.config.rows),
                drain.replace.eq(~command.accumulate),
            ]
        with m.Elif(drain.valid):
            m.d.sync += row_in_tile.eq(Mux(last_row, 0, row_in_tile + 1))
            with m.If(last_row):
                slice_.advance()
                m.d.sync += [offsets.eq(offsets >> 1), drain.replace.eq(0)]
                with m.If(slice_.last):
                    m.d.sync += [
                        offsets.eq(command.a_offset),
                        tile_row.eq(tile_row + self.config.rows),
                        drain.replace.eq(~command.accumulate),
                    ]


def walk_tail(array: Array, operands: OperandMemory, sums: PartialSums) -> int:
    """Cycles that the engine stays busy after its last step: the parts' latencies, and the rows that shift out."""
    return operands.latency + array.latency + array.config.rows - 1 + sums.latency - 1
