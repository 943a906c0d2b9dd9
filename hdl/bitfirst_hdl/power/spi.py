"""Transfers on an SPI bus (mode 1), with a line for each chip that selects it: what `transfers` are on an I2C bus."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..contract.power import RAILS
from ..ports import SPI_PINS
from .transfers import COUNT_BITS, TRANSFER_PORTS

HALF_NS = 50  # of a bit: INA229 bears 10 MHz
_LEAST_CYCLES = 3  # of half a bit: two registers behind `miso`, and one cycle until the next edge
_NUMBER_BITS = 2  # below a register's number, in the first byte: a 0, then whether it is read


def half_cycles(clock_khz: int) -> int:
    """Cycles of half a bit."""
    return max(_LEAST_CYCLES, -(-clock_khz * HALF_NS // 10**6))


class SpiTransfers(wiring.Component):
    """One transfer after another: a byte with the register's number, then those to write or to read.

    start, recovers, written, read, send, ready, count, bit_read, bit, place, done, stretched   as those of
                  `transfers.Transfers`; `recovers` does nothing, `written` is at least 1, `count` never 0, and six bits
                  of the first byte written are the register's number
    address       in(7)   of the chip, as its line in `cs_n`; another one is nobody's
    acknowledged  out(1)  with `done`: some bit read was 0, or none was to be read. `miso` must be pulled up
    scl           out(1)  1
    sda           out(1)  `miso` as seen
    miso          in(1)   pin, asynchronous
    sclk, mosi, cs_n   out(1), out(1), out(4)   registers

    Data change behind a rising edge of `sclk`; `mosi` is taken at the falling one, and `miso` later, before the next
    rising one. A bit takes 2 * `half_cycles(clock_khz)` cycles. Reset: nothing is under way.
    """

    def __init__(self, clock_khz: int) -> None:
        self.clock_khz = clock_khz
        super().__init__(TRANSFER_PORTS | {"address": In(7), "count": Out(COUNT_BITS, init=1)} | SPI_PINS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules += FFSynchronizer(self.miso, self.sda, init=1)
        half = half_cycles(self.clock_khz)
        timer, ends, bit_ends, reads, heard = Signal(range(half)), Signal(), Signal(), Signal(), Signal()
        left, names, high = Signal(3, init=7), Signal(), Signal()  # bits behind this one; it is of the first byte
        m.d.comb += [
            self.scl.eq(1),
            self.bit.eq(self.sda),
            self.sclk.eq(high),
            ends.eq(timer == half - 1),
            names.eq(~reads & (self.count == 1)),
            self.place.eq(left - Mux(names, _NUMBER_BITS, 0)),
            self.bit_read.eq(bit_ends & reads),
            self.acknowledged.eq(heard | (self.read == 0)),
        ]
        m.d.sync += timer.eq(Mux(ends | self.ready, 0, timer + 1))
        with m.If(high):
            tells = (left == 0) & (self.read != 0)
            m.d.sync += self.mosi.eq(~reads & Mux(names & (left < _NUMBER_BITS), tells, self.send))
        with m.If(self.bit_read & ~self.bit):
            m.d.sync += heard.eq(1)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += [reads.eq(0), heard.eq(0), self.count.eq(1)]
                with m.If(self.start):
                    m.next = "SELECT"
                    with m.If(self.recovers):
                        m.next = "END"
            with m.State("SELECT"):
                with m.If(self.address < RAILS):
                    m.d.sync += self.cs_n.eq(~(1 << self.address[: (RAILS - 1).bit_length()]))
                with m.If(ends):
                    m.d.sync += high.eq(1)
                    m.next = "BITS"
            with m.State("BITS"):
                m.d.comb += bit_ends.eq(ends & ~high)
                with m.If(ends):
                    m.d.sync += high.eq(~high)
                with m.If(bit_ends):
                    m.d.sync += left.eq(left - 1)
                with m.If(bit_ends & (left == 0)):
                    m.d.sync += self.count.eq(self.count + 1)
                    with m.If(self.count == Mux(reads, self.read, self.written)):
                        m.d.sync += [self.count.eq(1), reads.eq(1)]
                        with m.If(reads | (self.read == 0)):
                            m.d.sync += high.eq(0)
                            m.next = "END"
            with m.State("END"):
                m.d.sync += self.cs_n.eq(2**RAILS - 1)
                m.d.comb += self.done.eq(ends)
                with m.If(ends):
                    m.next = "IDLE"
        return m
