"""What crosses from clock to clock arrives once and in order, whatever the two clocks do."""

from itertools import pairwise
from types import ModuleType

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import (
    Array,
    Assert,
    Assume,
    Cat,
    ClockSignal,
    Cover,
    Elaboratable,
    Fragment,
    Instance,
    Module,
    ResetSignal,
    Signal,
    Value,
)
from amaranth.lib import fifo
from amaranth.lib.wiring import In
from bitfirst_hdl import crossing

from .prove import Property, altered

DEPTH = 4
POINTER_BITS = 3
BITS = 5  # of the monitors' counts
_QUEUE = "m.submodules.queue = queue"
_FULL = "w_full  = Signal()"
_EMPTY = "        self._empty(m, emptied, blocked)\n"


def before(m: Module, value: Value) -> Signal:
    """`value` an instant ago."""
    past = Signal(len(value))
    m.submodules += Instance("instant_before", p_WIDTH=len(value), i_d=value, o_q=past)
    return past


class Synchroniser(Elaboratable):
    """In place of `FFSynchronizer`: what happens where a bit changes just before the edge that samples it.

    The first stage takes either value, each bit for itself, and its output wavers until the next edge; the stage behind
    it takes one of the two. `stages` may be 1, so that a missing one shows. Bits that cross together change one at a
    time, as Gray code does: that is asserted.
    """

    def __init__(self, i: Signal, o: Signal, *, o_domain: str, stages: int = 2) -> None:
        self.i, self.o, self.o_domain = i, o, o_domain
        self.held = [Signal(len(i), name=f"stage{number}", reset_less=True) for number in range(stages)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.i)
        unsettled, wavers, self.past = Signal(width), Signal(width, reset_less=True), before(m, self.i)
        m.d.comb += unsettled.eq(self.i ^ self.past)
        m.d.comb += Assert((unsettled & (unsettled - 1)[:width]) == 0, "bits change together")
        m.d[self.o_domain] += [self.held[0].eq(self.i ^ (unsettled & AnySeq(width))), wavers.eq(unsettled)]
        for stage, later in pairwise(self.held):
            m.d[self.o_domain] += later.eq(stage)
        last = self.held[-1] ^ (wavers & AnySeq(width)) if len(self.held) == 1 else self.held[-1]
        m.d.comb += self.o.eq(last)
        return m


class NoReset(Elaboratable):
    """In place of `AsyncFFSynchronizer`: there are no resets."""

    def __init__(self, i: Value, o: Signal, *, o_domain: str) -> None:
        self.o = o

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.o.eq(0)
        return m


def crossing_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.crossing` without resets, with `changes` in the library's queue; that shows its registers.

    (Resets of either side are tried in simulation, by `benches.bench_crossing`.)
    """
    names = "produce_w_bin, produce_w_gry, produce_cdc, consume_r_bin, consume_r_gry, consume_cdc"
    cells = {"FFSynchronizer": Synchroniser, "AsyncFFSynchronizer": NoReset}
    library = altered(fifo, *changes, (_FULL, f"{_FULL}\n        self.registers = {names}"), **cells)
    shown = f"{_QUEUE.replace('queue = queue', 'queue = self.queue = queue')}"
    return altered(crossing, (_QUEUE, shown), (_EMPTY, ""), fifo=library)


def _gray(value: Value) -> Value:
    return value ^ (value >> 1)


def _number(gray: Value) -> Value:
    """What is written in Gray code."""
    return Cat(gray[bit:].xor() for bit in range(len(gray)))


class CrossingOrder(Property):
    """A crossing of `DEPTH` words between two clocks, which are inputs like any other.

    One word in `2**BITS` is followed, whichever; what each side sees changes with its own clock alone. `inductive`:
    with asserts on registers and memory, which make the proof hold for any number of cycles.
    """

    free_clocks = True

    def __init__(self, module: ModuleType, width: int = 2, inductive: bool = True) -> None:
        self.crossing = module.ClockCrossing(width, "source", "sink", DEPTH)
        self.width, self.inductive = width, inductive
        inputs = {"offers": In(1), "word": In(width), "takes": In(1)}
        self.probes = {f"word{number}": f"crossing.queue.storage[{number}]" for number in range(DEPTH)}
        super().__init__(inputs | {name: In(width) for name in self.probes})

    def state(self, m: Module) -> None:
        ends = self.crossing
        m.submodules.crossing = Fragment.get(ends, None)
        offers, word, takes = Signal(), Signal(self.width), Signal()
        given, taken = ends.source.valid & ends.source.ready, ends.sink.valid & ends.sink.ready
        written, read, chosen, left = Signal(BITS), Signal(BITS), Signal(BITS), Signal(BITS)
        value = Signal(self.width)
        m.d.source += [offers.eq(self.offers), word.eq(self.word), written.eq(written + given)]
        m.d.sink += [takes.eq(self.takes), read.eq(read + taken)]
        with m.If(given & (written == chosen)):
            m.d.source += value.eq(word)
        m.d.comb += [
            Assume(~ResetSignal("source") & ~ResetSignal("sink")),
            ends.source.valid.eq(offers),
            ends.source.payload.eq(word),
            ends.sink.ready.eq(takes),
            chosen.eq(AnyConst(BITS)),
            left.eq(written - read),
            Assert(left <= DEPTH, "overflow"),
        ]
        with m.If(ends.sink.valid):
            m.d.comb += Assert(left != 0, "doubled")
            with m.If(read == chosen):
                m.d.comb += Assert(ends.sink.payload == value, "order")
        self._change_with_clocks(m)
        m.d.comb += [Cover(left == DEPTH), Cover(taken & (read == chosen) & (chosen == DEPTH + 1))]
        if self.inductive:
            self._look_inside(m, written, read, chosen, value)

    def _change_with_clocks(self, m: Module) -> None:
        ends, started = self.crossing, before(m, Value.cast(1))
        for name, seen in ("source", ends.source.ready), ("sink", Cat(ends.sink.valid, ends.sink.payload)):
            clock = ClockSignal(name)
            with m.If(started & (~clock | before(m, clock))):
                m.d.comb += Assert(seen == before(m, seen), f"{name} sees a change out of step with its clock")

    def _look_inside(self, m: Module, written: Signal, read: Signal, chosen: Signal, value: Signal) -> None:
        queue = self.crossing.queue
        w, w_gray, to_sink, r, r_gray, to_source = queue.registers
        # On the ring of pointers, from what the source knows of the sink to what it has written itself.
        ring = [*reversed(to_source.held), to_source.past, r_gray, *reversed(to_sink.held), to_sink.past, w_gray]
        places = [(_number(gray) - _number(ring[0]))[:POINTER_BITS] for gray in ring]
        words = Array(getattr(self, f"word{number}") for number in range(DEPTH))
        m.d.comb += [
            Assert(w == written[:POINTER_BITS]),
            Assert(r == read[:POINTER_BITS]),
            Assert(w_gray == _gray(w)),
            Assert(r_gray == _gray(r)),
            Assert(places[-1] <= DEPTH),
            *(Assert(place <= later) for place, later in pairwise(places)),
            *(Assert((_number(cdc.i) - _number(cdc.past))[:POINTER_BITS] <= 1) for cdc in (to_sink, to_source)),
        ]
        with m.If((chosen - read)[:BITS] < (written - read)[:BITS]):
            m.d.comb += Assert(words[chosen[: POINTER_BITS - 1]] == value)
        with m.If(queue.r_rdy):
            m.d.comb += Assert(queue.r_data == words[read[: POINTER_BITS - 1]])
