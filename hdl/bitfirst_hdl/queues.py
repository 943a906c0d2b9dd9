"""Queues whose readiness is a register."""

from amaranth.hdl import Elaboratable, Module, Mux, ShapeLike, Signal
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out


class ReadyFIFO(fifo.FIFOInterface, Elaboratable):
    """`fifo.SyncFIFOBuffered`, cycle by cycle, but that `w_rdy` comes out of a register: for writers that halt much.

    level  range(depth + 1), words in it
    """

    def __init__(self, *, width: int, depth: int) -> None:
        super().__init__(width=width, depth=depth)
        self.queue = fifo.SyncFIFOBuffered(width=width, depth=depth)
        self.level = self.queue.level
        self.held = Signal(range(depth))  # words in its memory: all but the one that is offered

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.queue = queue = self.queue
        held_next, ready = Signal.like(self.held), Signal(init=1)
        takes, gives = self.w_en & ready, (self.held != 0) & (~queue.r_rdy | self.r_en)
        m.d.comb += [
            held_next.eq(self.held + takes - gives),
            self.w_rdy.eq(ready),
            queue.w_data.eq(self.w_data),
            queue.w_en.eq(takes),
            queue.r_en.eq(self.r_en),
            self.r_data.eq(queue.r_data),
            self.r_rdy.eq(queue.r_rdy),
            self.w_level.eq(queue.level),
            self.r_level.eq(queue.level),
        ]
        m.d.sync += [self.held.eq(held_next), ready.eq(held_next != self.depth - 1)]
        return m


class SkidBuffer(wiring.Component):
    """Room for one, so that `i.ready` comes out of a register: what `o` does not take in its cycle waits here.

    i           in, stream
    o           out, likewise, without latency; as fast
    next_ready  out(1)  `i.ready` of the next cycle
    """

    def __init__(self, shape: ShapeLike) -> None:
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)), "next_ready": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        ready, kept = Signal(init=1), Signal.like(self.i.payload, reset_less=True)
        m.d.comb += [
            self.i.ready.eq(ready),
            self.o.valid.eq(self.i.valid | ~ready),
            self.o.payload.eq(Mux(ready, self.i.payload, kept)),
            self.next_ready.eq(~self.o.valid | self.o.ready),
        ]
        m.d.sync += ready.eq(self.next_ready)
        with m.If(ready):
            m.d.sync += kept.eq(self.i.payload)
        return m
