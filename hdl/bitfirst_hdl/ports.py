"""Signatures between the cores."""

from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract import packets
from .contract.numeric import SUM_BITS
from .contract.power import RAILS


class MemoryWrite(wiring.Signature):
    """Writes one 64-bit word of a memory row; taken in the cycle in which `valid` is high.

    valid  out(1)
    row    out(16)  memory row
    word   out(8)   64-bit word within the row (in SUMS: the column)
    data   out(64)
    """

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "row": Out(16), "word": Out(8), "data": Out(packets.WORD_BITS)})


class SumRead(wiring.Signature):
    """Reads one row of partial sums (one sum per column), when the drain leaves the port free.

    valid, row, ready  request; accepted in the cycle in which `valid` and `ready` are high
    data_valid         in, high for one cycle when `data` holds the answer; answers come in the order of requests, of
                       which as many may be under way as the reader can hold
    data               in, `columns` signed 48-bit sums
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "row": Out(16),
                "ready": In(1),
                "data_valid": In(1),
                "data": In(data.ArrayLayout(SUM_BITS, config.columns)),
            }
        )


class StoreRead(wiring.Signature):
    """Reads two neighbouring words of the tensor store, in lockstep with whoever asks.

    enable  out(1)   the memory takes a step: it takes `word`, and gives `data` of the request two steps before
    word    out      first of the two words
    ready   in(1)    the memory can take a step; `enable` only while high (block RAM: always)
    data    in(128) x 2  `word` and `word` + 1: index 0 the one with an even number, index 1 the one with an odd number;
                         behind the last word comes the first
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "enable": Out(1),
                "word": Out(range(config.store_words)),
                "ready": In(1),
                "data": In(packets.GROUP * packets.OCTET_BITS).array(2),
            }
        )


class CellWrite(wiring.Signature):
    """Writes one octet of one vector into an operand memory; taken in the cycle in which `valid` is high.

    A (`chunks` = 1): of one chunk. B (`chunks` = `config.b_chunks`): of up to so many chunks in a row.

    valid   out(1)
    cell    out          the first chunk's; the next ones go to the cells behind it
    vector  out          array row (A) or column (B)
    groups  out(chunks * L / 16)  which groups of 16 lanes are written
    data    out(chunks * L) x 8   planes, index i of weight 2**i; bit e is element e of the chunks
    """

    def __init__(self, config: ArrayConfig, chunks: int = 1) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "cell": Out(range(max(config.a_cells, config.b_cells))),
                "vector": Out(range(max(config.rows, config.columns))),
                "groups": Out(chunks * config.lane_groups),
                "data": Out(chunks * config.lanes).array(packets.OCTET_BITS),
            }
        )


class TensorPlace(data.Struct):
    """A tensor as the gather unit needs it; a slot without one has `octets` = 0.

    word         first store word
    octet_words  store words from one octet to the next
    octets       1 or 2
    n, h         images and rows
    c            elements of a pixel
    row, image   elements of an image row (w * c) and of an image (h * w * c)
    """

    word: 16
    octet_words: 16
    octets: 2
    n: 16
    h: 16
    c: 16
    row: 16
    image: 16


class GatherJob(data.Struct):
    """One LOAD with fields already checked, and its tensor."""

    load: packets.Load
    tensor: TensorPlace


class GatherEvents(wiring.Signature):
    """What the gather unit did in this cycle, for the counters.

    busy, fetch_a, fetch_b  out(1) each; a fetch is one read of the store
    """

    def __init__(self) -> None:
        super().__init__({"busy": Out(1), "fetch_a": Out(1), "fetch_b": Out(1)})


class EngineEvents(wiring.Signature):
    """What the array did in this cycle, for the counters.

    busy, step, stall, overflow  out(1) each; `overflow`: some sum left 48 bits
    serial_ones                  out; one bits of the B planes fed, when `step` (same cycle, or a fixed delay)
    gated                        out; elements with nothing to do, likewise
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "busy": Out(1),
                "step": Out(1),
                "stall": Out(1),
                "overflow": Out(1),
                "serial_ones": Out(range(config.b_row_bits + 1)),
                "gated": Out(range(config.rows * config.columns + 1)),
            }
        )


class Payload(data.Struct):
    """One word of a packet inside the device; `last` on its final word."""

    data: packets.WORD_BITS
    last: 1


def word_stream() -> stream.Signature:
    """64-bit words without framing: the link side."""
    return stream.Signature(packets.WORD_BITS)


#: Ports of devices with the feature "power" alone: an I2C bus; `_low` pulls the wire low, else it is left to go high.
SENSOR_PINS = {"scl_i": In(1, init=1), "sda_i": In(1, init=1), "scl_low": Out(1), "sda_low": Out(1)}
#: Those of an SPI bus instead: `miso` is pulled up; a line of `cs_n` selects a chip while it is low.
SPI_PINS = {"miso": In(1, init=1), "sclk": Out(1), "mosi": Out(1), "cs_n": Out(RAILS, init=2**RAILS - 1)}
#: Those of the converter in a Xilinx chip instead, in this clock: its port for registers (DRP of XADC), of which
#: `enable` is high for one cycle with what is asked, and `ready` for one when it is done and `read` holds the word; and
#: `sequence_ended`, high for one cycle.
XADC_PINS = {
    "drp_address": Out(7),
    "drp_enable": Out(1),
    "drp_write": Out(1),
    "drp_written": Out(16),
    "drp_read": In(16),
    "drp_ready": In(1),
    "sequence_ended": In(1),
}
#: By `ArrayConfig.sensor_bus`.
BUS_PINS = {"i2c": SENSOR_PINS, "pmbus": SENSOR_PINS, "spi": SPI_PINS, "xadc": XADC_PINS}


def sensor_pins(config: ArrayConfig) -> dict[str, wiring.Member]:
    """Those of `BUS_PINS` where the device has some."""
    return BUS_PINS[config.sensor_bus] if config.measures else {}


def connect_sensors(m: Module, outer: wiring.Component, inner: wiring.Component) -> None:
    """The sensors' pins of a component are those of one in it, where it has them."""
    for name, member in (SENSOR_PINS | SPI_PINS | XADC_PINS).items():
        if name in outer.signature.members:
            ours, theirs = getattr(outer, name), getattr(inner, name)
            m.d.comb += theirs.eq(ours) if member.flow == In else ours.eq(theirs)
