"""Goes round the rails: asks each sensor for its registers, and says what the round's time is."""

from amaranth.hdl import Cat, Const, Module, Mux, Signal
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from ..contract import codec
from ..contract.packets import WORD_BITS
from ..contract.power import (
    CODE_BITS,
    FIRST_RAIL_ROW,
    RAILS,
    READS,
    TRANSFER_ROW,
    WRITTEN_ROWS,
    Rail,
    RailRead,
    Role,
    Transfer,
)
from ..ports import BUS_PINS, MemoryWrite, connect_sensors
from .pmbus import BEAT_BITS, PmbusTransfers
from .spans import BLOCK
from .spi import SpiTransfers
from .sums import Nibble, Sample
from .transfers import COUNT_BITS, Transfers
from .xadc import XadcTransfers

ROW_BITS = (WRITTEN_ROWS - 1).bit_length()
NIBBLE_BITS = 4
HEAD_BITS = 16  #: of a row, ahead of a rail's registers and of a transfer's bytes
FIRST_PLACE = HEAD_BITS // NIBBLE_BITS  #: of those, in nibbles
BYTE_NIBBLES = 8 // NIBBLE_BITS
KIND_PLACE = FIRST_PLACE + BYTE_NIBBLES  #: of the first register's

assert RailRead.as_shape().size == 3 * NIBBLE_BITS  #: see `_read_place`
assert codec.fields(Rail)["reads"][0] == codec.fields(Transfer)["bytes"][0] == HEAD_BITS
assert codec.fields(RailRead)["bytes"] == (8, 2) and codec.fields(RailRead)["role"] == (10, 2)


class Sampler(wiring.Component):
    """Samples in rounds, and transfers between them.

    write      in       rows of the contract's space POWER: 1, transfer, and 4 to 7, rails
    run        in(1)    go round and round
    recover    in(1)    until `recovered`: free the bus, between rounds
    transfer   in(1)    until `transferred`: do what row 1 says, between rounds
    pause      in(1)    begin no round
    late       in(1)    no rail is waited for any more
    tick       in(1)    as that of `i2c.I2CMaster`
    beat       in(6)    as that of `pmbus.PmbusTransfers`
    recovered, transferred  out(1), high for one cycle
    acknowledged            out(1)  with `transferred`
    result_bytes            out(3)  likewise, those asked for
    nibble, sample, take    out, as `Sums` takes them
    idle       in(1)    `Sums` can take one
    close      out(1)   this cycle is the time of the round: the first register of its first rail was read, and is
                        ready if it says so, or was not acknowledged
    opened     out(1)   from the cycle behind `close` until each rail's sample has been added up
    rests      out(1)   no round, transfer or recovery is under way
    silent, saturated   out(4)  high for one cycle, a bit a rail
    stretched  out(1)   high for one cycle: SCL was held for over 25 ms

    Pins as those of `i2c.I2CMaster`, or, where `bus` is "spi" or "xadc" instead of "i2c" or "pmbus", of
    `spi.SpiTransfers` or `xadc.XadcTransfers`.

    A rail whose sensor is not ready is asked again; when no rail has been ready yet, the round begins anew; on "pmbus"
    each one is ready. Reset: nothing under way.
    """

    def __init__(self, clock_khz: int, bus: str) -> None:
        self.bus = bus
        kinds = {"i2c": Transfers, "pmbus": PmbusTransfers, "spi": SpiTransfers, "xadc": XadcTransfers}
        self.transfers = kinds[bus](clock_khz)
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "run": In(1),
                "recover": In(1),
                "transfer": In(1),
                "pause": In(1),
                "late": In(1),
                "tick": In(1),
                "beat": In(BEAT_BITS),
                "recovered": Out(1),
                "transferred": Out(1),
                "acknowledged": Out(1),
                "result_bytes": Out(COUNT_BITS),
                "nibble": Out(Nibble),
                "sample": Out(Sample),
                "take": Out(1),
                "idle": In(1),
                "close": Out(1),
                "opened": Out(1),
                "rests": Out(1),
                "silent": Out(RAILS),
                "saturated": Out(RAILS),
                "stretched": Out(1),
                "scl": Out(1, init=1),
                "sda": Out(1, init=1),
            }
            | BUS_PINS[bus]
        )
        self._rail, self._read = Signal(range(RAILS)), Signal(range(READS))
        self._read_place = self._read + (self._read << 1)  # 3 nibbles each; as a product it would take a multiplier
        self._transfers = Signal()  # it is a transfer, not a rail
        self._head = Signal(HEAD_BITS)  # of the row of what is done, its lowest bits
        self._kind = Signal(data.StructLayout({"bytes": 2, "role": 2}))  # of the register read, in `RailRead`
        self._nibble = Signal(NIBBLE_BITS)  # of the row: what `_place` said a cycle before
        self._place = Signal(range(WORD_BITS // NIBBLE_BITS))
        self._ready = Signal(init=bus == "pmbus")  # the bit that says so, of the register read last
        self._full = Signal()  # all bits of that may stand for a larger number
        self._fresh = Signal()  # a rail, or a transfer, begins

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.transfers = transfers = self.transfers
        connect_sensors(m, self, transfers)
        above = Const(0, WORD_BITS - HEAD_BITS)
        rail, order = (data.View(layout, Cat(self._head, above)) for layout in (Rail, Transfer))
        m.d.comb += [
            self.scl.eq(transfers.scl),
            self.sda.eq(transfers.sda),
            self.sample.rail.eq(self._rail),
            self.acknowledged.eq(transfers.acknowledged),
            self.result_bytes.eq(transfers.read),
            self.stretched.eq(transfers.stretched),
            transfers.written.eq(Mux(self._transfers, order.written, 1)),
            transfers.read.eq(Mux(self._transfers, order.read, self._kind.bytes)),
        ]
        if self.bus == "pmbus":
            m.d.comb += transfers.beat.eq(self.beat)
        if self.bus in ("i2c", "pmbus"):
            m.d.comb += transfers.tick.eq(self.tick)
        else:
            m.d.comb += transfers.address.eq(rail.address)
        self._look_up(m)
        self._receive(m, rail)
        self._go_round(m, rail)
        return m

    def _look_up(self, m: Module) -> None:
        """The rows, written whole and read by four bits."""
        places = WORD_BITS // NIBBLE_BITS
        rows = memory.Memory(shape=NIBBLE_BITS, depth=WRITTEN_ROWS * places, init=[], attrs=BLOCK)
        m.submodules.rows = rows
        read, row = rows.read_port(domain="comb"), self.write.row[:ROW_BITS]
        for place in range(places):
            write = rows.write_port()
            m.d.comb += [
                write.en.eq(self.write.valid),
                write.addr.eq(Cat(Const(place, range(places)), row)),
                write.data.eq(self.write.data[NIBBLE_BITS * place :][:NIBBLE_BITS]),
            ]
        m.d.comb += read.addr.eq(Cat(self._place, Mux(self._transfers, TRANSFER_ROW, FIRST_RAIL_ROW + self._rail)))
        m.d.sync += self._nibble.eq(read.data)

    def _receive(self, m: Module, rail: data.View) -> None:
        """Bits of a register to where they belong; of three bytes the top 20 make a voltage."""
        transfers, sample, nibble, kind = self.transfers, self.sample, self.nibble, self._kind
        left, half, sign, voltage = Signal(3), Signal(), Signal(), Signal(CODE_BITS)  # `left`: bytes behind this one
        bit, first, is_first, before, size = transfers.bit, Signal(), Signal(), Signal(3), Signal(2)
        is_current, is_voltage = kind.role == Role.CURRENT, (kind.role == Role.VOLTAGE) | (kind.role == Role.READY)
        counts = Signal()
        m.d.comb += [
            first.eq(is_first & (transfers.place == 7)),
            counts.eq(transfers.bit_read & ((kind.bytes != 3) | (left[:2] != 0) | transfers.place[2])),
            sample.voltage.eq(voltage),
            sample.sign.eq(sign),
            sample.bytes.eq(size),
            sample.half.eq(half),
            nibble.valid.eq(transfers.bit_read & (transfers.place[:2] == 0) & (self._transfers | is_current)),
            nibble.place.eq(Cat(transfers.place[2], left[:2], Mux(self._transfers, left[2], half))),
            nibble.bits.eq(Cat(bit, before)),
        ]
        # Of the byte being read: many cycles pass until its first bit comes.
        m.d.sync += [left.eq(transfers.read - transfers.count), is_first.eq(transfers.count == 1)]
        with m.If(transfers.bit_read):
            m.d.sync += before.eq(Cat(bit, before[:-1]))
        with m.If(counts & is_voltage):
            m.d.sync += voltage.eq(Cat(bit, voltage[:-1]))
        with m.If(counts & first & is_current):
            m.d.sync += [sign.eq(bit), size.eq(kind.bytes)]
        with m.If(counts):
            m.d.sync += self._full.eq(first | (self._full & (bit == ~(is_current & sign))))
        if self.bus != "pmbus":
            with m.If(transfers.bit_read & (Cat(transfers.place, left[:2]) == rail.ready)):
                m.d.sync += self._ready.eq(bit)
        with m.If(self._fresh):
            m.d.sync += [size.eq(0), sign.eq(0)]
        with m.If(self._fresh | (transfers.bit_read & first & is_voltage)):
            m.d.sync += voltage.eq(bit & ~self._fresh)
        with m.If(self.take):
            m.d.sync += half.eq(~half)

    def _go_round(self, m: Module, rail: data.View) -> None:
        transfers, kind, opens, heads = self.transfers, self._kind, Signal(), Signal()
        asked = data.View(kind.shape(), self._nibble)  # the kind, when it comes
        self._write(m)
        m.d.comb += self.close.eq(opens & ~self.opened)
        with m.If(opens):
            m.d.sync += self.opened.eq(1)
        with m.If(heads):
            m.d.sync += self._head.eq(Cat(self._head[NIBBLE_BITS:], self._nibble))
        with m.FSM():
            with m.State("REST"):
                m.d.comb += self.rests.eq(1)
                m.d.sync += [self._rail.eq(0), self._read.eq(0), self._transfers.eq(self.transfer & ~self.recover)]
                with m.If(self.recover):
                    m.d.comb += [transfers.start.eq(1), transfers.recovers.eq(1)]
                    m.next = "TRANSFER"
                with m.Elif(self.transfer | (self.run & ~self.pause)):
                    m.next = "FETCH"
            with m.State("FETCH"):  # a nibble of the head a cycle
                m.d.comb += [heads.eq(1), self._place.eq(self._read)]
                m.d.sync += self._read.eq(self._read + 1)
                with m.If(self._read == HEAD_BITS // NIBBLE_BITS - 1):
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.comb += [heads.eq(1), self._fresh.eq(1), transfers.start.eq(self._transfers)]
                m.next = "KIND"
                with m.If(self._transfers):
                    m.next = "TRANSFER"
            with m.State("TRANSFER"), m.If(transfers.done):
                m.d.comb += [self.transferred.eq(self._transfers), self.recovered.eq(~self._transfers)]
                m.next = "REST"
            with m.State("KIND"):
                m.d.comb += self._place.eq(KIND_PLACE + self._read_place)
                m.next = "READ"
                with m.If(~rail.enabled):
                    m.next = "NEXT"
            with m.State("READ"):
                m.d.comb += transfers.start.eq(asked.bytes != 0)
                m.d.sync += kind.eq(asked)
                m.next = "WAIT"
                with m.If(asked.bytes == 0):
                    m.next = "ADVANCE"
            with m.State("WAIT"), m.If(transfers.done):
                with m.If(~transfers.acknowledged):
                    m.d.comb += [opens.eq(1), self._mark(self.silent)]
                    m.next = "NEXT"
                with m.Elif((kind.role != Role.READY) | self._ready):
                    m.d.comb += opens.eq(1)
                    with m.If(self._full & ((kind.role == Role.CURRENT) | (kind.role == Role.VOLTAGE))):
                        m.d.comb += self._mark(self.saturated)
                    m.next = "ADVANCE"
                with m.Elif(~self.opened):
                    m.next = "REST"
                with m.Else():
                    m.next = "KIND"
                    with m.If(self.late):
                        m.next = "NEXT"
            with m.State("ADVANCE"):
                m.d.sync += self._read.eq(self._read + 1)
                m.next = "KIND"
                with m.If(self._read == READS - 1):
                    m.next = "GIVE"
            with m.State("GIVE"), m.If(self.idle):
                m.d.comb += self.take.eq(self.opened)
                m.next = "NEXT"
            with m.State("NEXT"):
                m.d.sync += [self._rail.eq(self._rail + 1), self._read.eq(0)]
                m.next = "FETCH"
                with m.If(self._rail == RAILS - 1):
                    m.next = "CLOSE"
            with m.State("CLOSE"), m.If(self.idle):
                m.d.sync += self.opened.eq(0)
                m.next = "REST"

    def _write(self, m: Module) -> None:
        """The bit that is written, and, unless something else is looked up, the place of that."""
        transfers = self.transfers
        count, place = transfers.count, transfers.place
        in_nibble, upper = Signal(2), Signal()
        m.d.comb += [
            in_nibble.eq(place),
            upper.eq(place[2]),
            self._place.eq(FIRST_PLACE + self._read_place + upper),
            transfers.send.eq((self._nibble >> in_nibble)[0]),
        ]
        with m.If(self._transfers):
            m.d.comb += self._place.eq(Cat(upper, (count + FIRST_PLACE // BYTE_NIBBLES - 1)[:3]))
        with m.If(count == 0):  # the address, behind the bit that says what is done
            m.d.comb += [in_nibble.eq(place - 1), upper.eq(place > 4), self._place.eq(upper)]

    def _mark(self, rails: Signal) -> object:
        return rails.eq(1 << self._rail)
