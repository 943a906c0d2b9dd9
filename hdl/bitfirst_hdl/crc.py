"""CRC-32 (ISO-HDLC, as in zlib) over 64-bit words."""

import zlib

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .contract.packets import WORD_BITS, WORD_BYTES

CRC_BITS = 32
_INITIAL = 2**CRC_BITS - 1


def _masks() -> list[int]:
    """For each bit of the next state, the bits of state ^ word whose parity it is (the CRC is linear)."""
    zero = zlib.crc32(bytes(WORD_BYTES))
    columns = [zlib.crc32((1 << i).to_bytes(WORD_BYTES, "little")) ^ zero for i in range(WORD_BITS)]
    return [sum((column >> bit & 1) << i for i, column in enumerate(columns)) for bit in range(CRC_BITS)]


class Crc32(wiring.Component):
    """Ports as `amaranth.lib.crc.Processor`; parities of whole words, which a simulator computes many times faster.

    start  in(1)   begin anew; with `valid`, `data` is the first word
    data   in(64)  first byte least significant
    valid  in(1)   take `data`
    crc    out(32) of the words so far, from the cycle after; one word a cycle, no back-pressure

    Reset begins anew.
    """

    start: In(1)
    data: In(WORD_BITS)
    valid: In(1)
    crc: Out(CRC_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state, mixed = Signal(CRC_BITS, init=_INITIAL), Signal(WORD_BITS)
        m.d.comb += [mixed.eq(self.data ^ Mux(self.start, _INITIAL, state)), self.crc.eq(~state)]
        with m.If(self.valid):
            m.d.sync += state.eq(Cat((mixed & mask).xor() for mask in _masks()))
        with m.Elif(self.start):
            m.d.sync += state.eq(_INITIAL)
        return m
