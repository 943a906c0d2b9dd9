"""What crosses from clock to clock arrives once and in order, whatever the two clocks do."""

from itertools import pairwise
from types import ModuleType

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import (
    Array,
    Assert,
    Assume,
    Cat,
    ClockDomain,
    ClockSignal,
    Const,
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

    gray = True

    def __init__(self, i: Signal, o: Signal, *, o_domain: str, stages: int = 2) -> None:
        self.i, self.o, self.o_domain = i, o, o_domain
        self.held = [Signal(len(i), name=f"stage{number}", reset_less=True) for number in range(stages)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        width = len(self.i)
        unsettled, wavers, self.past = Signal(width), Signal(width, reset_less=True), before(m, self.i)
        m.d.comb += unsettled.eq(self.i ^ self.past)
        if self.gray:
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
    """`bitfirst_hdl.crossing` without resets, with `changes` in the library's queue; that shows its registers."""
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


class WildSynchroniser(Synchroniser):
    """One whose bits may change together: pointers do, while a reset holds them."""

    gray = False


class ResetCatcher(Elaboratable):
    """`AsyncFFSynchronizer`, with its stages shown."""

    init = 1

    def __init__(self, i: Value, o: Signal, *, o_domain: str) -> None:
        self.i, self.o, self.o_domain = i, o, o_domain
        self.held = [Signal(init=self.init, name=f"stage{number}") for number in range(2)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.domains += ClockDomain("caught", async_reset=True, local=True)
        m.d.caught += [self.held[0].eq(0), self.held[1].eq(self.held[0])]
        m.d.comb += [
            ClockSignal("caught").eq(ClockSignal(self.o_domain)),
            ResetSignal("caught").eq(self.i),
            self.o.eq(self.held[1]),
        ]
        return m


class LateCatcher(ResetCatcher):
    """One that a reset at power-up has passed: so mistakes show in fewer steps."""

    init = 0


def crossing_with_resets(*changes: tuple[str, str], catcher: type[ResetCatcher] = ResetCatcher) -> ModuleType:
    """`bitfirst_hdl.crossing` with `changes`; it and its queue show their registers."""
    cells = {"FFSynchronizer": WildSynchroniser, "AsyncFFSynchronizer": catcher}
    names = "produce_w_bin, produce_w_gry, produce_cdc, consume_r_bin, consume_r_gry, consume_cdc"
    held = "rst_cdc = m.submodules.rst_cdc ="
    library = altered(
        fifo,
        (_FULL, f"{_FULL}\n        self.registers = {names}"),
        (held, f"{held} self.reset ="),
        **cells,
    )
    shown = tuple(
        (f"m.submodules.{name} =", f"m.submodules.{name} = self.{name} =") for name in ("queue", "emptied", "crossed")
    )
    return altered(crossing, *changes, *shown, fifo=library, **cells)


class CrossingResets(Property):
    """The same with resets of either side at any time: words stay in their order, none comes twice or from nowhere.

    Words are numbered as they go in. Each that comes out has a number behind that of the one before it, and that of a
    word that went in. They have few bits, and do not wrap around: nothing but these asserts looks at them.
    `inductive`: as above.
    """

    free_clocks = True
    number_bits = 6

    def __init__(self, module: ModuleType, inductive: bool = True) -> None:
        self.crossing, self.inductive = module.ClockCrossing(self.number_bits, "source", "sink", DEPTH), inductive
        self.probes = {f"word{number}": f"crossing.queue.storage[{number}]" for number in range(DEPTH)}
        super().__init__({"offers": In(1), "takes": In(1)} | {name: In(self.number_bits) for name in self.probes})

    def state(self, m: Module) -> None:
        ends = self.crossing
        m.submodules.crossing = Fragment.get(ends, None)
        offers, takes = Signal(reset_less=True), Signal(reset_less=True)
        given, taken = ends.source.valid & ends.source.ready, ends.sink.valid & ends.sink.ready
        written, least = Signal(self.number_bits, reset_less=True), Signal(self.number_bits, reset_less=True)
        m.d.source += [offers.eq(self.offers), written.eq(written + given)]
        m.d.sink += takes.eq(self.takes)
        m.d.comb += [
            ends.source.valid.eq(offers),
            ends.source.payload.eq(written),
            ends.sink.ready.eq(takes),
            Assume(~written.all()),
        ]
        with m.If(taken):
            m.d.sink += least.eq(ends.sink.payload + 1)
            m.d.comb += [
                Assert(ends.sink.payload >= least, "twice"),
                Assert(ends.sink.payload < written, "never given"),
            ]
        m.d.comb += Cover(taken & (ends.sink.payload > least))  # some are lost, and it goes on
        if self.inductive:
            self._look_inside(m, written, least)

    def _look_inside(self, m: Module, written: Signal, least: Signal) -> None:
        ends, queue = self.crossing, self.crossing.queue
        w, w_gray, to_sink, r, r_gray, to_source = queue.registers
        asks, seen = ends.emptied.i, ends.crossed.i
        to_empty, to_know = ends.emptied, ends.crossed
        empties, crossed = to_empty.held[-1], to_know.held
        chain = [asks, to_empty.past, *to_empty.held, seen, to_know.past, *crossed]
        changes = sum((bit ^ later for bit, later in pairwise(chain)), Const(0))
        falls = ~asks & crossed[-1]
        s, t = [_number(stage) for stage in to_sink.held], [_number(stage) for stage in to_source.held]
        m.d.comb += [Assert(changes <= 1), Assert(w_gray == _gray(w)), Assert(r_gray == _gray(r))]
        words = Array(getattr(self, f"word{number}") for number in range(DEPTH))

        # The queue while it runs, also until the source's pointer is reset.
        with m.If(~(empties & seen)):
            base = r
            ring = [r, s[1], s[0], _number(to_sink.past), w]
            places = [(value - base)[:POINTER_BITS] for value in ring]
            m.d.comb += [
                *(Assert(place <= later) for place, later in pairwise(places)),
                Assert(places[-1] <= DEPTH),
                Assert((w - ring[3])[:POINTER_BITS] <= 1),
            ]
            before_it = least
            for index in range(DEPTH):
                word = words[(r + index)[: POINTER_BITS - 1]]
                with m.If(index < places[-1]):
                    m.d.comb += [Assert(word >= before_it), Assert(word < written)]
                before_it = word + 1
            with m.If((r != s[1]) & ~queue.reset.held[1]):
                m.d.comb += Assert(queue.r_data == words[r[: POINTER_BITS - 1]])
        with m.If(~empties):
            ring = [t[1], t[0], _number(to_source.past), r, w]
            places = [(value - t[1])[:POINTER_BITS] for value in ring]
            m.d.comb += [
                *(Assert(place <= later) for place, later in pairwise(places)),
                Assert(places[-1] <= DEPTH),
                Assert((r - ring[2])[:POINTER_BITS] <= 1),
            ]
        m.d.comb += Assert(least <= written)

        # The reset, step by step.
        first, second = queue.reset.held
        m.d.comb += Assert(second | ~first)
        with m.If(empties):
            m.d.comb += Assert(first)
            with m.If(seen):
                m.d.comb += Assert(w == 0)
        with m.Else():
            with m.If(first):
                m.d.comb += Assert(s[0] == 0)
            with m.If(second):
                m.d.comb += [Assert(s[1] == 0), Assert(r == 0)]
        with m.If(asks):
            for known, zero in zip(crossed, (to_sink.past, s[0], s[1], r), strict=True):
                with m.If(known):
                    m.d.comb += Assert(zero == 0)
        with m.If(falls):
            m.d.comb += [Assert(r == 0), Assert(to_source.past == 0)]
            with m.If(empties):
                m.d.comb += [Assert(s[0] == 0), Assert(s[1] == 0), Assert(to_sink.past == 0)]
            for asked, zero in zip(to_empty.held, t, strict=True):
                with m.If(~asked):
                    m.d.comb += Assert(zero == 0)
