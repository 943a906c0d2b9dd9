"""Transfers on an I2C bus: written bytes, then bytes read, or what frees the bus."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..ports import SENSOR_PINS, connect_sensors
from .i2c import BYTE, START, STOP, I2CMaster

COUNT_BITS = 3


#: Of what does transfers, on whatever bus; see `Transfers`.
TRANSFER_PORTS = {
    "start": In(1),
    "recovers": In(1),
    "written": In(COUNT_BITS),
    "read": In(COUNT_BITS),
    "send": In(1),
    "ready": Out(1),
    "bit_read": Out(1),
    "bit": Out(1),
    "place": Out(3),
    "done": Out(1),
    "acknowledged": Out(1),
    "stretched": Out(1),
    "scl": Out(1, init=1),
    "sda": Out(1, init=1),
}


class Transfers(wiring.Component):
    """One transfer after another.

    start         in(1)   begin; only while `ready`
    recovers      in(1)   with `start`: nine clock pulses and a STOP, nothing else
    tick          in(1)   as that of `I2CMaster`
    written       in(3)   bytes; stay as they are until `done`
    read          in(3)   likewise; 0: no second START
    send          in(1)   bit `place` of byte `count` of those written, a cycle behind; `count` 0: of the address, which
                          has places 7 to 1
    ready         out(1)
    count         out(3)  bytes begun of those written, then of those read
    bit_read      out(1)  high for one cycle: `bit` is the next one of a byte read, the first one most significant
    bit           out(1)
    place         out(3)  of `bit`, or of `send`, in its byte
    done          out(1)  high for one cycle
    acknowledged  out(1)  with `done`: each byte was, no wire is held
    stretched     out(1)  high for one cycle: SCL was held for over 25 ms

    What is not acknowledged, or stretched, is followed by the STOP. Pins as those of `I2CMaster`. Reset: nothing is
    under way.
    """

    def __init__(self, clock_khz: int) -> None:
        self.master = I2CMaster(clock_khz)
        super().__init__(TRANSFER_PORTS | {"tick": In(1), "count": Out(COUNT_BITS)} | SENSOR_PINS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.master = master = self.master
        connect_sensors(m, self, master)
        m.d.comb += [
            self.scl.eq(master.scl),
            self.sda.eq(master.sda),
            master.tick.eq(self.tick),
            self.bit.eq(master.bit),
            self.place.eq(master.place),
            self.stretched.eq(master.stretched),
        ]
        self._steps(m, master)
        return m

    def _steps(self, m: Module, master: I2CMaster) -> None:
        """Each state, when the master rests, looks at what came of the step before and begins the next one."""
        reads, failed, refused, begun = Signal(), Signal(), Signal(), Signal()
        written, read = Signal(), Signal()  # all of them
        m.d.comb += [refused.eq(master.seen | failed), master.kind.eq(BYTE), begun.eq(self.count != 0)]
        m.d.sync += [written.eq(self.count == self.written), read.eq(self.count == self.read)]
        with m.If(master.stretched):
            m.d.sync += failed.eq(1)
        with m.If(~master.busy), m.FSM() as steps:
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += [reads.eq(0), failed.eq(0)]
                with m.If(self.start):
                    m.next = "START"
                with m.If(self.start & self.recovers):
                    m.d.comb += master.go.eq(1)  # ones
                    m.next = "STOP"
            with m.State("START"):
                m.d.comb += [master.go.eq(1), master.kind.eq(START)]
                m.d.sync += self.count.eq(0)
                m.next = "ADDRESS"
            with m.State("ADDRESS"):
                m.d.comb += master.go.eq(1)
                m.next = "WRITE"
                with m.If(reads):
                    m.next = "READ"
            with m.State("WRITE"):
                m.d.comb += master.go.eq(~refused & ~written)
                m.d.sync += self.count.eq(self.count + master.go)
                with m.If(refused):
                    m.d.sync += failed.eq(1)
                    m.next = "STOP"
                with m.Elif(written):
                    m.d.sync += reads.eq(1)
                    m.next = "STOP"
                    with m.If(self.read != 0):
                        m.next = "START"
            with m.State("READ"):
                m.d.comb += master.go.eq(~refused & ~read)
                m.d.sync += self.count.eq(self.count + master.go)
                with m.If(refused | read):
                    m.next = "STOP"
                    with m.If(~read):
                        m.d.sync += failed.eq(1)
            with m.State("STOP"):
                m.d.comb += [master.go.eq(1), master.kind.eq(STOP)]
                m.next = "END"
            with m.State("END"):
                m.d.comb += [self.done.eq(1), self.acknowledged.eq(~failed & master.seen)]
                m.next = "IDLE"
        # While a byte passes: the state is that in which its acknowledge will be looked at.
        gives, takes = steps.ongoing("WRITE") | ~begun, steps.ongoing("READ")
        m.d.comb += [
            self.bit_read.eq(master.bit_done & ~master.place[-1] & takes & begun),
            master.send.eq(1),
        ]
        with m.If(takes & begun & master.place[-1]):
            m.d.comb += master.send.eq(read)
        with m.If((takes | steps.ongoing("WRITE")) & gives & ~master.place[-1]):
            m.d.comb += master.send.eq(Mux(~begun & (master.place == 0), reads, self.send))
