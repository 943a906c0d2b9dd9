"""For how long each phase has been in a round: a span of cycles for each."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from ..contract.power import CYCLES_BITS, PHASES
from ..operands import NO_COLLISIONS

PHASE_BITS = (PHASES - 1).bit_length()
BLOCK = NO_COLLISIONS | {"ram_style": "block"}  #: few words, but LUTs are what is short


class Spans(wiring.Component):
    """A phase's span is all its cycles of a round, however often it came. A round has the cycles up to its time.

    The memory has two halves: one takes the spans of the round that is under way, the other one has those of the round
    before, until `close`. In each cycle it is written how long the phase of the cycle before has been, so far; where a
    phase comes again, counting goes on from there.

    phase    in(3)   of this cycle; any from one cycle to the next
    forget   in(1)   the next `close` begins a round, and ends none; nor does one in the same cycle
    close    in(1)   the time of the round is this cycle: it has the cycles before. Only when those of the round before
                     are not needed any more
    known    out(1)  from the cycle behind `close` on: it ended a round, which has spans
    last_phase  out(3)  from then on: the phase before the time of the round
    rewind   in(1)   show the first span, that of the phase with the lowest number
    next     in(1)   show the next one
    last     out(1)  the one shown is the last one
    span_phase, span_cycles   out(3), out(24)  of the one shown; at least one cycle
    late     out(1)  high while a span cannot have more cycles: those that come are not in it

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
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        seen, ended, half = Signal(PHASES), Signal(PHASES), Signal()  # phases so far, and of the round before
        phase, begun, following = Signal(PHASE_BITS), Signal(), Signal(PHASES)  # `phase` of the cycle before
        m.d.comb += following.eq(seen | (1 << phase))
        m.d.sync += [phase.eq(self.phase), seen.eq(following)]
        with m.If(self.close):
            m.d.sync += [begun.eq(1), self.known.eq(begun), self.last_phase.eq(phase)]
            m.d.sync += [half.eq(~half), seen.eq(0), ended.eq(following)]
        with m.If(self.forget):
            m.d.sync += [begun.eq(0), self.known.eq(0)]
        shown = self._show(m, ended)
        resumes = ~self.close & (seen >> self.phase)[0]
        full = self._count(m, self.close | (self.phase != phase), resumes, Cat(phase, half), shown)
        m.d.comb += self.late.eq(full & begun)
        return m

    def _count(self, m: Module, changes: Value, resumes: Value, place: Value, shown: Value) -> Value:
        """Writes the cycles of the phase at `place`, and reads those at `shown`; whether they can be no more.

        When it `changes`, `resumes` says whether the phase that begins has cycles of this round.
        """
        m.submodules.spans = spans = memory.Memory(shape=CYCLES_BITS, depth=2 * PHASES, init=[], attrs=BLOCK)
        write, again, read = spans.write_port(), spans.read_port(domain="comb"), spans.read_port(domain="comb")
        cycles, stored, total = Signal(CYCLES_BITS), Signal(CYCLES_BITS), Signal(CYCLES_BITS + 1)
        was_full, full = Signal(), Signal()
        m.d.comb += [
            total.eq(cycles + stored + 1),  # `stored` only in the cycle behind a change, where `cycles` are 0
            full.eq(was_full | total[-1]),
            write.en.eq(~full),
            write.addr.eq(place),
            write.data.eq(total),
            again.addr.eq(Cat(self.phase, place[-1])),
            read.addr.eq(Cat(shown, ~place[-1])),
        ]
        m.d.sync += [cycles.eq(total), was_full.eq(full), stored.eq(again.data), self.span_cycles.eq(read.data)]
        with m.If(changes):
            m.d.sync += [cycles.eq(0), was_full.eq(0)]
        with m.If(~changes | ~resumes):
            m.d.sync += stored.eq(0)
        return full

    def _show(self, m: Module, ended: Value) -> Value:
        """The phase shown, a cycle before its span."""
        left, others, shown = Signal(PHASES), Signal(PHASES), Signal(PHASE_BITS)
        m.d.comb += [others.eq(left & (left - 1)), shown.eq(lowest(left))]
        m.d.sync += [self.span_phase.eq(shown), self.last.eq(others == 0)]
        with m.If(self.next):
            m.d.sync += left.eq(others)
        with m.If(self.rewind):
            m.d.sync += left.eq(ended)
        return shown


def lowest(bits: Value) -> Value:
    """The number of the lowest bit that is high, of as many as a power of two."""
    if len(bits) == 1:
        return Const(0, 0)
    half = len(bits) // 2
    lower, upper = bits[:half], bits[half:]
    return Cat(lowest(Mux(lower.any(), lower, upper)), ~lower.any())
