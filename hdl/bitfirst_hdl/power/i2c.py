"""The master of an I2C bus: START, bytes and STOP, in quarters of a bit."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from ..ports import SENSOR_PINS

STOP, BYTE, START = 0, 1, 3  #: `I2CMaster._slots` takes them apart
SPIKE_NS = 50  # that Fast-mode inputs must not notice
QUARTER_NS = 650  # of a bit: SCL is low for two of them, at least 1.3 us; 385 kHz
STRETCH_MS = 25  # SMBus: no chip holds SCL for longer
CHANGE, UP, END = 1, 2, 3  # quarters: SDA is changed in the second one, SCL is let go in the third one
_PLACE_BITS = 4
_LAST = 2**_PLACE_BITS - 1


def quarter_cycles(clock_khz: int) -> int:
    """Cycles of a quarter of a bit, at least 1."""
    return -(-clock_khz * QUARTER_NS // 10**6)


def filter_cycles(clock_khz: int) -> int:
    """For how many cycles a wire must be seen changed, at least 2: more than any spike lasts."""
    return -(-clock_khz * SPIKE_NS // 10**6) + 1


def tick_cycles(clock_khz: int) -> int:
    """Cycles from a tick to the next: a power of two, from an eighth to a quarter of `STRETCH_MS` or so."""
    return 1 << (clock_khz * STRETCH_MS // 4).bit_length() - 1


def stretch_ticks(clock_khz: int) -> int:
    """Ticks that only more than `STRETCH_MS` can see."""
    return -(-clock_khz * STRETCH_MS // tick_cycles(clock_khz)) + 1


class I2CMaster(wiring.Component):
    """START, a byte, or STOP, one after another.

    go         in(1)   start the next one; only while not `busy`
    kind       in(2)   `START` (also a repeated one), `BYTE`, `STOP`
    send       in(1)   BYTE: the bit of this `place`, a cycle behind it; a 1 leaves SDA to the other side. 1 in STOP
    tick       in(1)   high for one cycle in `tick_cycles(clock_khz)`
    busy       out(1)  from the cycle after `go` to that of `done`
    done       out(1)  high for one cycle
    bit_done   out(1)  high for one cycle: `bit` was seen on SDA
    bit        out(1)
    place      out(4)  of `bit` in a BYTE: 7 to 0, then 15, that of the acknowledge
    seen       out(1)  the last `bit`, from the cycle after `done` on: behind a STOP it says that nobody holds SDA
    stretched  out(1)  high with `done`: SCL did not follow for over 25 ms, 38 ms at most. The bus has been let go
    scl, sda   out(1)  as seen: two registers, then the filter
    scl_i, sda_i      in(1)   pins, asynchronous
    scl_low, sda_low  out(1)  registers: pull the wire low

    A bit takes four quarters of `quarter_cycles(clock_khz)` cycles, and longer until SCL is seen to have followed, at
    least 2 + `filter_cycles(clock_khz)` cycles after it was changed: a clock below 5 MHz makes bits of 10 cycles or
    more. Behind a BYTE SCL is high and SDA stays; a BYTE without a START, of ones, frees the bus: within nine clock
    pulses each chip that sends finds no acknowledge. Reset: both wires let go. Spikes of up to 50 ns are not seen.
    """

    def __init__(self, clock_khz: int) -> None:
        self.clock_khz = clock_khz
        super().__init__(
            {
                "go": In(1),
                "kind": In(2),
                "send": In(1),
                "tick": In(1),
                "busy": Out(1),
                "done": Out(1),
                "bit_done": Out(1),
                "bit": Out(1),
                "place": Out(_PLACE_BITS, init=_LAST),
                "seen": Out(1),
                "stretched": Out(1),
                "scl": Out(1, init=1),
                "sda": Out(1, init=1),
            }
            | SENSOR_PINS
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._see(m, self.scl_i, self.scl)
        self._see(m, self.sda_i, self.sda)
        quarter, owned = Signal(2), Signal()  # `owned`: SCL is ours, between START and STOP
        timer = Signal(range(quarter_cycles(self.clock_khz)))
        waited = Signal(range(stretch_ticks(self.clock_khz) + 1))
        steps, turns = Signal(), Signal()  # a quarter ends; SDA changes once more at the end of this bit
        waits = self._waits(quarter, owned)
        m.d.comb += [
            steps.eq(self.busy & (timer == 0)),
            self.bit_done.eq(steps & ~waits & (quarter == END)),
            self.stretched.eq(waits & self.tick & (waited == stretch_ticks(self.clock_khz) - 1)),
        ]
        with m.If(self.busy & (timer != 0)):
            m.d.sync += timer.eq(timer - 1)
        with m.If(steps & ~waits):
            m.d.sync += [timer.eq(quarter_cycles(self.clock_khz) - 1), quarter.eq(quarter + 1)]
        with m.If(self.tick):
            m.d.sync += waited.eq(waited + 1)
        with m.If(~waits):
            m.d.sync += waited.eq(0)
        self._slots(m, turns, owned)
        m.d.sync += self.scl_low.eq(self.busy & owned & (quarter < UP))
        with m.If(self.busy & (quarter != 0)):
            m.d.sync += self.sda_low.eq(~Mux(turns, self.place[-1] ^ (quarter == END), self.send))
        with m.If(self.stretched):
            m.d.sync += [waited.eq(0), quarter.eq(0), owned.eq(0), self.sda_low.eq(0), self.scl_low.eq(0)]
        return m

    def _see(self, m: Module, pin: Signal, seen: Signal) -> None:
        """`seen` follows the pin when that has been different in so many cycles in a row."""
        last = filter_cycles(self.clock_khz) - 1
        now, times = Signal(init=1, name="now"), Signal(range(last + 1), name="times")
        m.submodules += FFSynchronizer(pin, now, init=1)
        m.d.sync += times.eq(0)
        with m.If(now != seen):
            m.d.sync += times.eq(times + 1)
            with m.If(times == last):
                m.d.sync += [seen.eq(now), times.eq(0)]

    def _waits(self, quarter: Signal, owned: Signal) -> Value:
        """Whether SCL is not seen as it was put."""
        return ((quarter == CHANGE) & owned & self.scl) | ((quarter == UP) & ~self.scl)

    def _slots(self, m: Module, turns: Signal, owned: Signal) -> None:
        """The bits of a BYTE; START and STOP are a bit in which SDA changes while SCL is high, and two idle ones are
        behind a STOP. Where there are more to come SDA turns up, else down.
        """
        m.d.comb += [self.bit.eq(self.sda), self.done.eq((self.bit_done & self.place[-1]) | self.stretched)]
        with m.If(self.bit_done):
            m.d.sync += [self.place.eq(self.place - 1), turns.eq(0), self.seen.eq(self.sda)]
            with m.If(turns & ~self.place[-1]):
                m.d.sync += owned.eq(0)
        with m.If(self.done):
            m.d.sync += self.busy.eq(0)
        with m.If(self.go):
            first = Cat(Const(1, 1), self.kind[0], self.kind[0], self.kind[1])  # place: 15, 7 or 1
            m.d.sync += [self.busy.eq(1), turns.eq(self.kind != BYTE), self.place.eq(first)]
            with m.If(~self.kind[1]):
                m.d.sync += owned.eq(1)
