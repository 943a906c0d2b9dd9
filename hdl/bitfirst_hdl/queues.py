"""A queue whose readiness is a register."""

from amaranth.hdl import Elaboratable, Module, Signal
from amaranth.lib import fifo


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
