"""The last commands and faults, with their cycles, and the watchdog: what can be asked of a device that hangs."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import TRACE_RECORDS, WORD_BITS, Opcode, Status, TraceRecord, TraceState
from .frames import Reply
from .operands import NO_COLLISIONS
from .ports import word_stream

PLACES = 2 * TRACE_RECORDS  # so many records more before one that is being sent is overwritten
#: Fields of `TraceState` that say what is at work.
UNITS = ("loads", "multiplies", "stores", "reads", "updates")


class Trace(wiring.Component):
    """Remembers `TRACE_RECORDS` commands and faults, answers knocks with them, and watches for commands that are stuck.

    command        in(1)  high for one cycle: a command was checked
    at_hand        in, `Reply`, with `command`: which
    fault          in(1)  high for one cycle: a frame was not accepted
    fault_status   in, `Status`, with `fault`
    fault_sequence in(16) its number, with `fault`
    advances       in(1)  something moves on
    idle           in(1)  there is nothing to do
    held           in(1)  the host is waited for: the watchdog stands still
    at_work        in     which of `UNITS` are
    knock          in(1)  high for one cycle: asks for the trace
    token          in(16) with `knock`; what the answer repeats
    replies        out, stream of `Reply`: TRACE for each knock, or for the last of those that came too fast, and
                   LINK with STUCK, once each time the watchdog finds a command stuck
    data           out, stream of words: `TraceState` and the records
    abandoned      in(1)  an answer was given up: the device counts as stuck until a reset
    stuck          out(1) there was no progress for `watchdog_cycles`; until there is some

    An answer's first word is valid in the cycle after its reply was taken, the others follow one a cycle. Reset:
    nothing is under way or stuck; records and `TraceState.cycle` stay as they are.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(1),
                "at_hand": In(Reply),
                "fault": In(1),
                "fault_status": In(Status),
                "fault_sequence": In(16),
                "advances": In(1),
                "idle": In(1),
                "held": In(1),
                "at_work": In(len(UNITS)),
                "knock": In(1),
                "token": In(16),
                "replies": Out(stream.Signature(Reply)),
                "data": Out(word_stream()),
                "abandoned": In(1),
                "stuck": Out(1),
            }
        )
        self._cycle = Signal(32, reset_less=True)
        self._place = Signal(range(PLACES), reset_less=True)  # of the next record
        self._filled = Signal(range(TRACE_RECORDS + 1), reset_less=True)
        self._last = Signal(TraceRecord)  # command checked last

    def elaborate(self, platform: object) -> Module:
        m = Module()
        barks = self._watch(m)
        m.submodules.records = records = memory.Memory(shape=WORD_BITS, depth=PLACES, init=[], attrs=NO_COLLISIONS)
        m.d.sync += self._cycle.eq(self._cycle + 1)
        self._record(m, records.write_port(), barks)
        self._answer(m, records.read_port(domain="comb"), barks)
        return m

    def _watch(self, m: Module) -> Value:
        """High for one cycle when a command has stood still for too long."""
        limit, was_stuck = self.config.watchdog_cycles, Signal()
        passed = Signal(range(limit + 1))
        m.d.comb += self.stuck.eq(passed == limit)
        m.d.sync += was_stuck.eq(self.stuck)
        with m.If((self.advances | self.idle) & ~self.abandoned):
            m.d.sync += passed.eq(0)
        with m.Elif(~self.held & ~self.stuck):
            m.d.sync += passed.eq(passed + 1)
        return self.stuck & ~was_stuck

    def _record(self, m: Module, write_port, barks: Value) -> None:
        """Commands come at least 9 cycles apart: a fault of the link, or the watchdog's, finds room between them."""
        record, waits, has_barked = Signal(TraceRecord), Signal(), Signal()
        fault_sequence, fault_status = Signal.like(self.fault_sequence), Signal.like(self.fault_status)
        m.d.comb += [
            record.cycle.eq(self._cycle),
            record.sequence.eq(self.at_hand.sequence),
            record.opcode.eq(self.at_hand.opcode),
            record.status.eq(self.at_hand.status),
            write_port.addr.eq(self._place),
            write_port.data.eq(record),
            write_port.en.eq(self.command | waits | has_barked),
        ]
        with m.If(self.command):
            m.d.sync += self._last.eq(record)
        with m.Elif(has_barked):
            m.d.comb += [
                record.sequence.eq(self._last.sequence),
                record.opcode.eq(self._last.opcode),
                record.status.eq(Status.STUCK),
            ]
            m.d.sync += has_barked.eq(0)
        with m.Else():
            m.d.comb += [
                record.sequence.eq(fault_sequence),
                record.opcode.eq(Opcode.LINK),
                record.status.eq(fault_status),
            ]
            m.d.sync += waits.eq(0)
        with m.If(self.fault):
            m.d.sync += [waits.eq(1), fault_sequence.eq(self.fault_sequence), fault_status.eq(self.fault_status)]
        with m.If(barks):
            m.d.sync += has_barked.eq(1)
        with m.If(write_port.en):
            m.d.sync += [
                self._place.eq(self._place + 1),
                self._filled.eq(self._filled + (self._filled != TRACE_RECORDS)),
            ]

    def _answer(self, m: Module, read_port, barks: Value) -> None:
        asked, tells, token = Signal(), Signal(), Signal(16)
        state, place, left = Signal(TraceState), Signal(range(PLACES)), Signal(range(TRACE_RECORDS + 2))
        reply, first, word = self.replies.payload, Signal(), Signal(WORD_BITS, reset_less=True)
        taken = self.data.valid & self.data.ready
        m.d.comb += [
            reply.opcode.eq(Mux(tells, Opcode.LINK, Opcode.TRACE)),
            reply.status.eq(Mux(tells | self.stuck, Status.STUCK, Status.OK)),
            reply.sequence.eq(Mux(tells, self._last.sequence, token)),
            reply.words.eq(Mux(tells, 0, 1 + self._filled)),
            self.data.valid.eq(left != 0),
            self.replies.valid.eq((tells | asked) & ~self.data.valid),
            self.data.payload.eq(Mux(first, state, word)),
            read_port.addr.eq(Mux(taken & ~first, place + 1, place)),
        ]
        m.d.sync += word.eq(read_port.data)
        with m.If(taken):
            m.d.sync += [left.eq(left - 1), first.eq(0), place.eq(read_port.addr)]
        with m.If(self.replies.valid & self.replies.ready):
            m.d.sync += tells.eq(0)
            with m.If(~tells):
                m.d.sync += [
                    asked.eq(0),
                    first.eq(1),
                    left.eq(reply.words),
                    place.eq(self._place - self._filled),
                    state.cycle.eq(self._cycle),
                    state.opcode.eq(self._last.opcode),
                    *(getattr(state, name).eq(works) for name, works in zip(UNITS, self.at_work, strict=True)),
                ]
        with m.If(self.knock):
            m.d.sync += [asked.eq(1), token.eq(self.token)]
        with m.If(barks):
            m.d.sync += tells.eq(1)
