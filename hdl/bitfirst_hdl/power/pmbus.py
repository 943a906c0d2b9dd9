"""Transfers on a PMBus: those of an I2C bus, with words as `Sampler` takes numbers, and LINEAR11 as one of 24 bits.

PMBus Power System Management Protocol Specification, Part II, 7 (data formats): a word comes low byte first; LINEAR11
is a mantissa of 11 bits, two's complement, times two to the power of the upper five bits, of which the chip chooses
anew each time.
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from ..ports import SENSOR_PINS, connect_sensors
from .transfers import COUNT_BITS, TRANSFER_PORTS, Transfers

NUMBER_BITS = 24
BEAT_BITS = 6
FIRST_BEAT = 2**BEAT_BITS - NUMBER_BITS  #: of a number of three bytes, and of two
_DELAY = 6  # from the mantissa's first bit to where it belongs, so that it may begin with the beats 16 to 47


class PmbusTransfers(wiring.Component):
    """One transfer after another. Of two bytes read the second one is given first: as a number, a word.

    What is read as three bytes is a word, too, on the bus: LINEAR11, given as a number of 24 bits, two's complement, in
    steps of 2**-16. Exact, but for what is not below 128 or below -128: that is the number next to it, all ones or all
    zeros behind the sign.

    start, recovers, tick, written, read, send, ready, count, bit_read, bit, place, done, acknowledged, stretched   as
                  those of `transfers.Transfers`, but that of words all bits come together, behind the STOP
    beat          in(6)   counts cycles

    From the STOP to `done` it takes up to 130 cycles more, where a word was read. Pins as those of `I2CMaster`. Reset:
    nothing is under way.
    """

    def __init__(self, clock_khz: int) -> None:
        self.transfers = Transfers(clock_khz)
        super().__init__(
            TRANSFER_PORTS | {"tick": In(1), "beat": In(BEAT_BITS), "count": Out(COUNT_BITS)} | SENSOR_PINS
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transfers = inner = self.transfers
        connect_sensors(m, self, inner)
        passed_in = ("start", "recovers", "written", "send", "tick")
        m.d.comb += [getattr(inner, name).eq(getattr(self, name)) for name in passed_in]
        m.d.comb += [getattr(self, name).eq(getattr(inner, name)) for name in ("scl", "sda", "stretched")]
        waits, plays, ended = Signal(), Signal(), Signal()  # for the first beat; until the last one; behind it
        heard = Signal()  # something was read: not where the bus is freed
        word, ends = self.read[1], self.beat.all()
        held = inner.done & inner.acknowledged & word & heard
        m.d.comb += [
            inner.read.eq(Cat(self.read[0] & ~word, self.read[1:])),
            self.ready.eq(inner.ready & ~waits & ~plays & ~ended),
            self.done.eq((inner.done & ~held) | ended),
            self.acknowledged.eq(inner.acknowledged | ended),
        ]
        m.d.sync += [ended.eq(plays & ends), heard.eq((heard | inner.bit_read) & ~inner.done)]
        with m.If(held):
            m.d.sync += waits.eq(1)
        with m.If(ends):
            m.d.sync += [waits.eq(held), plays.eq(waits)]
        self._play(m, inner, waits, plays)
        return m

    def _play(self, m: Module, inner: Transfers, waits: Signal, plays: Signal) -> None:
        """The word's bits, one a beat: in beat n that of weight 2**(63 - n), of those from 23 on as LINEAR11.

        There the mantissa stands still, its sign in front, until the beat that the exponent says; behind it are zeros.
        What is above the number's bits must be the sign. A bit is given a cycle behind its beat.
        """
        high, low, line = Signal(8), Signal(8), Signal(_DELAY)
        linear, beat = self.read[0], self.beat
        shifts, gives, moves, moved = Signal(), Signal(), Signal(), Signal()
        sign, over, full = Signal(), Signal(), Signal()  # `full`: bit of the number next to what is too large
        exponent = high[3:]
        m.d.comb += [
            gives.eq(plays & (beat >= FIRST_BEAT)),
            moves.eq(moved | ((beat[:4] == ~exponent[:4]) & (beat[5] == exponent[4]) & (beat[4] ^ beat[5]))),
            shifts.eq(inner.bit_read | (plays & Mux(linear, moves, gives))),
        ]
        with m.If(shifts):
            m.d.sync += [high.eq(Cat(Mux(plays, low[-1], inner.bit), high)), low.eq(Cat(high[-1] & ~plays, low))]
        m.d.sync += [line.eq(Cat(high[2], line)), full.eq(sign ^ gives)]
        with m.If(waits):
            m.d.sync += [sign.eq(high[2]), moved.eq(0), over.eq(0)]
        with m.Elif(plays):
            m.d.sync += [moved.eq(moves), over.eq(over | (~gives & (line[-2] ^ sign)))]
        played, given, place = Signal(), Signal(), Signal(3)
        m.d.sync += [
            given.eq(gives & (linear | ~(beat[3] & beat[4]))),
            played.eq(Mux(linear, Mux(over, full, line[-1]), high[-1])),
            place.eq(~beat[:3]),
        ]
        m.d.comb += [
            self.bit_read.eq(given | (inner.bit_read & ~self.read[1])),
            self.bit.eq(Mux(self.read[1], played, inner.bit)),
            self.count.eq(Mux(plays, beat[3:5], inner.count)),
            self.place.eq(Mux(given, place, inner.place)),
        ]
