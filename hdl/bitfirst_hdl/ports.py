"""Signatures between the cores."""

from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract import packets
from .contract.numeric import SUM_BITS


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
    data_valid         in, high for one cycle when `data` holds the answer; one request may be under way
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


class EngineEvents(wiring.Signature):
    """What the array did in this cycle, for the counters.

    busy, step, stall, overflow  out(1) each; `overflow`: some sum left 48 bits
    serial_ones                  out; one bits of the B planes fed, when `step` (same cycle, or a fixed delay)
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "busy": Out(1),
                "step": Out(1),
                "stall": Out(1),
                "overflow": Out(1),
                "serial_ones": Out(range(config.columns * config.lanes + 1)),
            }
        )


class Payload(data.Struct):
    """One word of a packet inside the device; `last` on its final word."""

    data: packets.WORD_BITS
    last: 1


def word_stream() -> stream.Signature:
    """64-bit words without framing: the link side."""
    return stream.Signature(packets.WORD_BITS)
