"""Queues keep order, lose nothing, double nothing."""

from amaranth.asserts import AnyConst
from amaranth.hdl import Array, Assert, Assume, Cover, Module, Mux, Signal
from amaranth.lib.wiring import In

from .prove import Property


class QueueOrder(Property):
    """The words out of a queue of `amaranth.lib.fifo` are those that went in; its level is their difference.

    One word in `2**bits` is followed, whichever: all words are, at every time. `buffered`: `SyncFIFOBuffered`, whose
    first word stands in the read register. `inductive`: with asserts on the memory, which make the proof hold for any
    number of cycles.
    """

    def __init__(self, queue, buffered: bool = False, inductive: bool = True) -> None:
        self.queue, self.buffered, self.inductive = queue, buffered, inductive
        self.places = queue.depth - buffered
        self.bits = queue.depth.bit_length() + 1
        members = {"w_en": In(1), "w_data": In(queue.width), "r_en": In(1)}
        if inductive:
            pointers = {"produce": In(range(self.places)), "consume": In(range(self.places))}
            self.probes = {name: f"queue.{name}" for name in pointers}
            self.probes |= {f"word{i}": f"queue.storage[{i}]" for i in range(self.places)}
            members |= pointers | {f"word{i}": In(queue.width) for i in range(self.places)}
        super().__init__(members)

    def state(self, m: Module) -> None:
        m.submodules.queue = queue = self.queue
        written, read, chosen = Signal(self.bits), Signal(self.bits), Signal(self.bits)
        value, left = Signal(queue.width), Signal(self.bits)
        writes, reads = queue.w_en & queue.w_rdy, queue.r_en & queue.r_rdy
        m.d.comb += [
            queue.w_en.eq(self.w_en),
            queue.w_data.eq(self.w_data),
            queue.r_en.eq(self.r_en),
            chosen.eq(AnyConst(self.bits)),
            left.eq(written - read),
        ]
        m.d.sync += [written.eq(written + writes), read.eq(read + reads)]
        with m.If(writes & (written == chosen)):
            m.d.sync += value.eq(queue.w_data)
        with m.If(queue.r_rdy & (read == chosen)):
            m.d.comb += Assert(queue.r_data == value, "order")
        with m.If(~queue.w_rdy):
            m.d.comb += Assert(left >= self.places, "room")
        m.d.comb += [
            Assert(queue.level == left, "level"),
            Assert(left <= queue.depth, "overflow"),
            Cover(left == queue.depth),
            Cover(reads & writes & (read == chosen) & (chosen > self.places)),
        ]
        if self.inductive:
            self._look_inside(m, chosen, read, left, value)

    def _look_inside(self, m: Module, chosen: Signal, read: Signal, left: Signal, value: Signal) -> None:
        first, inside, ahead = Signal(self.bits), Signal(self.bits), Signal(self.bits)
        end, place = Signal(self.bits + 1), Signal(self.bits + 1)
        registered = self.queue.r_rdy if self.buffered else 0
        m.d.comb += [
            first.eq(read + registered),  # index of the first word in the memory
            inside.eq(left - registered),
            ahead.eq(chosen - first),
            end.eq(self.consume + inside),
            place.eq(self.consume + ahead),
            Assert(inside <= self.places),
            Assert((self.produce < self.places) & (self.consume < self.places)),
            Assert(self.produce == Mux(end >= self.places, end - self.places, end)),
        ]
        words = Array(getattr(self, f"word{i}") for i in range(self.places))
        with m.If(ahead < inside):
            m.d.comb += Assert(words[Mux(place >= self.places, place - self.places, place)] == value)


class SameReady(Property):
    """A `ReadyFIFO` is ready when the queue in it is, so it is that queue, cycle by cycle."""

    def __init__(self, queue) -> None:
        self.queue = queue
        self.probes = {"inside": "queue.queue.inner_level"}
        super().__init__({"w_en": In(1), "r_en": In(1), "inside": In(range(queue.depth))})

    def state(self, m: Module) -> None:
        m.submodules.queue = queue = self.queue
        m.d.comb += [
            queue.w_en.eq(self.w_en),
            queue.r_en.eq(self.r_en),
            Assert(queue.w_rdy == queue.queue.w_rdy, "ready"),
            Assert(queue.held == self.inside, "words in the memory"),
            Assert((self.inside == queue.level - queue.r_rdy) & (self.inside < queue.depth)),
            Assert(queue.w_rdy == (queue.held != queue.depth - 1), "room"),
            Cover(~queue.w_rdy),
            Cover(queue.level == queue.depth),
            Cover((queue.level == queue.depth - 1) & queue.w_rdy & queue.r_rdy),
        ]


class SkidOrder(Property):
    """What goes through a `SkidBuffer` keeps its order, at once or while it waits; it waits only for `o.ready`.

    One in `2**COUNT_BITS` is followed, whichever. `inductive`: with asserts on the inside.
    """

    COUNT_BITS = 4

    def __init__(self, buffer, inductive: bool = True) -> None:
        self.buffer, self.inductive = buffer, inductive
        width = len(buffer.i.payload)
        members = {"valid": In(1), "payload": In(width), "ready": In(1)}
        if inductive:
            self.probes = {"kept": "buffer.kept"}
            members |= {"kept": In(width)}
        super().__init__(members)

    def state(self, m: Module) -> None:
        m.submodules.buffer = buffer = self.buffer
        taken, given, chosen, value = (Signal(self.COUNT_BITS) for _ in range(4))
        waits, offered, told = Signal(), Signal.like(self.payload), Signal(init=1)
        takes, gives, inside = buffer.i.valid & buffer.i.ready, buffer.o.valid & buffer.o.ready, Signal()
        m.d.comb += [
            buffer.i.valid.eq(self.valid),
            buffer.i.payload.eq(self.payload),
            buffer.o.ready.eq(self.ready),
            chosen.eq(AnyConst(self.COUNT_BITS)),
            inside.eq(taken != given),
        ]
        m.d.sync += [
            taken.eq(taken + takes),
            given.eq(given + gives),
            waits.eq(buffer.i.valid & ~buffer.i.ready),
            offered.eq(self.payload),
            told.eq(buffer.next_ready),
        ]
        with m.If(takes & (taken == chosen)):
            m.d.sync += value.eq(self.payload)
        with m.If(waits):
            m.d.comb += Assume(self.valid & (self.payload == offered))
        with m.If(buffer.o.valid & (given == chosen)):
            m.d.comb += Assert(buffer.o.payload == Mux(inside, value, self.payload), "order")
        m.d.comb += [
            Assert((taken - given)[: self.COUNT_BITS] <= 1, "room for one"),
            Assert(buffer.o.valid == (self.valid | inside), "latency"),
            Assert(buffer.i.ready == ~inside, "speed"),
            Assert(buffer.i.ready == told, "ready is told before"),
            Cover(inside & gives & (given == 2)),
        ]
        if self.inductive:
            with m.If(inside & (given == chosen)):
                m.d.comb += Assert(self.kept == value)
