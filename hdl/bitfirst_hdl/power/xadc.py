"""Transfers with the analogue converter in Xilinx 7-series chips (XADC, UG480): what `transfers` are on an I2C bus."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..contract.power import RAILS
from ..ports import XADC_PINS
from .transfers import COUNT_BITS, TRANSFER_PORTS

ENDED = 0x80  #: number that is no register of the converter
BIT_CYCLES = 4  #: a bit to write comes two cycles behind its place
WAIT_CYCLES = 64  #: in which the converter answers, or does not
WORD_BITS = 16


class XadcTransfers(wiring.Component):
    """One transfer after another: a byte with the register's number, then the two of the word to write, or to read.

    start, recovers, written, read, send, ready, count, bit_read, bit, place, done, stretched   as those of
                  `transfers.Transfers`; `recovers` does nothing, `written` is 1 or 3, `count` never 0
    address       in(7)   of the rail, of which the lowest two bits count, for `ENDED`
    acknowledged  out(1)  with `done`: the converter answered
    scl, sda      out(1)  1
    drp_*, sequence_ended   as `ports.XADC_PINS`

    Numbers below 0x40, what has been converted, are halved, as a current has a sign and these have none: 0, then the
    upper 15 bits. Where the twelve that the converter is good for are ones, all of the 15 are. `ENDED` is one byte, in
    which bit 0 says that a sequence has ended since it was read last, at that address. A bit takes `BIT_CYCLES`.
    Reset: nothing is under way, no sequence has ended.
    """

    def __init__(self, clock_khz: int) -> None:
        super().__init__(TRANSFER_PORTS | {"address": In(7), "count": Out(COUNT_BITS, init=1)} | XADC_PINS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        timer, left, reads, heard = Signal(range(WAIT_CYCLES)), Signal(3, init=7), Signal(), Signal()
        number, word, ended = Signal(8), Signal(WORD_BITS), Signal(RAILS)
        bit_ends, full, answer = Signal(), Signal(), Signal(WORD_BITS)
        place = self.address[: (RAILS - 1).bit_length()]
        flag = (ended >> place)[0] | self.sequence_ended
        m.d.comb += [
            self.scl.eq(1),
            self.sda.eq(1),
            self.place.eq(left),
            self.bit.eq(word[-1]),
            self.bit_read.eq(bit_ends & reads),
            self.acknowledged.eq(heard),
            self.drp_address.eq(number),
            self.drp_written.eq(word),
            full.eq(self.drp_read[4:].all()),
            answer.eq(Mux(number[6], self.drp_read, Cat(self.drp_read[1:4] | full.replicate(3), self.drp_read[4:]))),
        ]
        m.d.sync += timer.eq(timer + 1)
        with m.If(self.sequence_ended):
            m.d.sync += ended.eq(~0)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.ready.eq(1)
                m.d.sync += [reads.eq(0), heard.eq(0), timer.eq(0)]
                with m.If(self.start):
                    m.next = "BITS"
                    with m.If(self.recovers):
                        m.next = "END"
            with m.State("BITS"):
                m.d.comb += bit_ends.eq(timer[:2] == BIT_CYCLES - 1)
                with m.If(bit_ends):
                    m.d.sync += [left.eq(left - 1), word.eq(Cat(self.send, word[:-1]))]
                with m.If(bit_ends & ~reads & (self.count == 1)):
                    m.d.sync += number.eq(Cat(self.send, number[:-1]))
                with m.If(bit_ends & (left == 0)):
                    m.d.sync += self.count.eq(self.count + 1)
                    with m.If(self.count == Mux(reads, self.read, self.written)):
                        m.d.sync += self.count.eq(1)
                        m.next = "ACCESS"
                        with m.If(reads):
                            m.next = "END"
            with m.State("ACCESS"):
                m.d.comb += [self.drp_enable.eq(~number[7]), self.drp_write.eq(self.written != 1)]
                m.d.sync += timer.eq(0)
                m.next = "WAIT"
                with m.If(number[7]):
                    m.d.sync += [word.eq(Cat(Const(0, 8), flag)), heard.eq(1), ended.bit_select(place, 1).eq(0)]
                    m.next = "ANSWERED"
            with m.State("WAIT"):
                with m.If(timer == WAIT_CYCLES - 1):
                    m.next = "END"
                with m.If(self.drp_ready):
                    m.d.sync += [word.eq(answer), heard.eq(1)]
                    m.next = "ANSWERED"
            with m.State("ANSWERED"):
                m.d.sync += [timer.eq(0), reads.eq(1)]
                m.next = "BITS"
                with m.If(self.read == 0):
                    m.next = "END"
            with m.State("END"):
                m.d.comb += self.done.eq(1)
                m.next = "IDLE"
        return m
