"""For how long each phase has been in a round: spans of cycles, in their order."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..contract.power import CYCLES_BITS, PHASES
from ..operands import NO_COLLISIONS

PHASE_BITS = (PHASES - 1).bit_length()
SPANS = 16  #: of a round that are remembered
BLOCK = NO_COLLISIONS | {"ram_style": "block"}  #: few words, but LUTs are what is short


class Spans(wiring.Component):
    """Cycles are counted while the phase stays; with the phase they make a span. A round has those up to its time.

    The memory has two halves: one takes the spans of the round that is under way, the other one has those of the round
    before, until `close`.

    phase    in(3)   of this cycle
    forget   in(1)   the next `close` begins a round, and ends none; nor does one in the same cycle
    close    in(1)   the time of the round is this cycle: it has the cycles before. Only when those of the round before
                     are not needed any more
    known    out(1)  from the cycle behind `close` on: it ended a round, which has spans
    last_phase  out(3)  from then on: the phase before the time of the round
    rewind   in(1)   show the first span
    next     in(1)   show the next one
    last     out(1)  the one shown is the last one
    span_phase, span_cycles   out(3), out(24)  of the one shown; at least one cycle
    late     out(1)  high while a span cannot have more cycles: those that come are not in it
    crowded  out(1)  high while there is a phase that finds no room: its cycles go to the span before

    `rewind` and `next` show a span two cycles later. Reset: as `forget`.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "phase": In(PHASE_BITS),
                "forget": In(1),
                "close": In(1),
                "known": Out(1),
                "last_phase": Out(PHASE_BITS),
                "rewind": In(1),
                "next": In(1),
                "last": Out(1),
                "span_phase": Out(PHASE_BITS),
                "span_cycles": Out(CYCLES_BITS),
                "late": Out(1),
                "crowded": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        shape = CYCLES_BITS + PHASE_BITS + 1
        m.submodules.spans = spans = memory.Memory(shape=shape, depth=2 * SPANS, init=[], attrs=BLOCK)
        write, read = spans.write_port(), spans.read_port(domain="comb")
        cycles, more = Signal(CYCLES_BITS), Signal(CYCLES_BITS + 1)
        phase, begun, changes, ends = Signal(PHASE_BITS), Signal(), Signal(), Signal()
        half, free, shown = Signal(), Signal(range(SPANS)), Signal(range(SPANS))
        room = free != SPANS - 1  # but for the span that `close` ends
        m.d.comb += [
            more.eq(cycles + 1),
            changes.eq(self.phase != phase),
            ends.eq(self.close | (changes & (room | ~begun))),
            self.crowded.eq(changes & begun & ~ends),
            self.late.eq(more[-1] & begun & ~ends),
            write.en.eq(ends & begun),
            write.addr.eq(Cat(free, half)),
            write.data.eq(Cat(cycles, phase, self.close)),
            read.addr.eq(Cat(shown, ~half)),
        ]
        m.d.sync += Cat(self.span_cycles, self.span_phase, self.last).eq(read.data)
        with m.If(~more[-1]):
            m.d.sync += cycles.eq(more)
        with m.If(ends):
            m.d.sync += [cycles.eq(1), phase.eq(self.phase)]
        with m.If(write.en):
            m.d.sync += free.eq(free + 1)
        with m.If(self.close):
            m.d.sync += [begun.eq(1), self.known.eq(begun), self.last_phase.eq(phase), half.eq(~half), free.eq(0)]
        with m.If(self.forget):
            m.d.sync += [begun.eq(0), self.known.eq(0)]
        with m.If(self.next):
            m.d.sync += shown.eq(shown + 1)
        with m.If(self.rewind):
            m.d.sync += shown.eq(0)
        return m
