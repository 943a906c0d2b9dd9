"""A stream from one clock domain to another, whatever their clocks and whichever side is reset."""

from amaranth.hdl import ClockDomain, ClockSignal, Module, ResetSignal, Shape, Signal, Value
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.cdc import AsyncFFSynchronizer, FFSynchronizer
from amaranth.lib.wiring import In, Out

#: Words that two clocks of one frequency need to move a word a cycle: pointers take half of these cycles each way.
DEPTH = 16


def check_depth(depth: int) -> int:
    """`depth`; raises `ValueError` when a crossing cannot have it."""
    if depth < 4 or depth & (depth - 1):
        raise ValueError(f"depth = {depth} must be a power of two, 4 at least")
    return depth


class ClockCrossing(wiring.Component):
    """A queue whose ends have clocks of their own, of any frequencies and phases.

    source  in, stream, with the clock of domain `source_domain`
    sink    out, stream, with the clock of domain `sink_domain`

    Holds `depth` words (a power of two, 4 at least; 16 for a word a cycle). A word given to an empty queue stands at
    the sink two edges of the sink's clock later. Nothing is lost, doubled or re-ordered.

    A reset of either side, however short, empties the queue, with nothing taken or given meanwhile: words given before
    it, and those given until both sides know of it, may be lost, also one that stood at the sink; none comes twice or
    out of turn. That takes about six cycles of each clock; a side whose clock stands still holds it up.
    """

    def __init__(self, shape: Shape | int, source_domain: str, sink_domain: str, depth: int = DEPTH) -> None:
        self.shape, self.depth = shape, check_depth(depth)
        self.source_domain, self.sink_domain = source_domain, sink_domain
        words = stream.Signature(shape)
        super().__init__({"source": In(words), "sink": Out(words)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        emptied, blocked = Signal(), Signal()  # at the source, at the sink
        m.domains += ClockDomain("queue_source", local=True)
        m.d.comb += [
            ClockSignal("queue_source").eq(ClockSignal(self.source_domain)),
            ResetSignal("queue_source").eq(emptied),
        ]
        m.submodules.queue = queue = fifo.AsyncFIFO(
            width=Shape.cast(self.shape).width, depth=self.depth, w_domain="queue_source", r_domain=self.sink_domain
        )
        m.d.comb += [
            queue.w_data.eq(Value.cast(self.source.payload)),
            queue.w_en.eq(self.source.valid & ~emptied),
            self.source.ready.eq(queue.w_rdy & ~emptied),
            Value.cast(self.sink.payload).eq(queue.r_data),
            self.sink.valid.eq(queue.r_rdy & ~blocked),
            queue.r_en.eq(self.sink.ready & ~blocked),
        ]
        self._empty(m, emptied, blocked)
        return m

    def _empty(self, m: Module, emptied: Signal, blocked: Signal) -> None:
        """Hold the queue in reset until both sides have seen it, and its pointers have crossed.

        `AsyncFIFO` alone wants a reset at the source that is longer than its pointers take to the sink, and none at the
        sink. So the sink asks, the source resets the queue and says so, and the sink ends it.
        """
        caught, wanted, waits = Signal(), Signal(), Signal(reset_less=True)
        asks, seen, crossed = Signal(reset_less=True), Signal(reset_less=True), Signal()
        resets = ResetSignal(self.source_domain, allow_reset_less=True) | ResetSignal(
            self.sink_domain, allow_reset_less=True
        )
        m.submodules.caught = AsyncFFSynchronizer(resets, caught, o_domain=self.sink_domain)
        m.submodules.wanted = FFSynchronizer(caught, wanted, o_domain=self.sink_domain)
        m.submodules.emptied = FFSynchronizer(asks, emptied, o_domain=self.source_domain)
        m.d[self.source_domain] += seen.eq(emptied)
        # Behind the source's pointer by as many stages more as the sink's pointer needs to follow it.
        m.submodules.crossed = FFSynchronizer(seen, crossed, o_domain=self.sink_domain, stages=4)
        m.d.comb += blocked.eq(wanted | waits | asks | crossed)
        with m.If(wanted):
            m.d[self.sink_domain] += waits.eq(1)
        with m.Elif(~asks & ~crossed):
            m.d[self.sink_domain] += [asks.eq(waits), waits.eq(0)]
        with m.If(crossed):
            m.d[self.sink_domain] += asks.eq(0)


def cross(m: Module, source: stream.Interface, sink: stream.Interface, source_domain: str, sink_domain: str) -> None:
    """Connect an output stream in one domain to an input stream in another."""
    crossing = ClockCrossing(source.payload.shape(), source_domain, sink_domain)
    m.submodules[f"{source_domain}_to_{sink_domain}"] = crossing
    wiring.connect(m, source, crossing.source)
    wiring.connect(m, crossing.sink, sink)
