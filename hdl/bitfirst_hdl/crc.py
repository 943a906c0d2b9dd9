"""CRC-32 (ISO-HDLC, as in zlib), a byte or several a cycle."""

import zlib

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

CRC_BITS = 32
_INITIAL = 2**CRC_BITS - 1


def _masks(unit_bits: int) -> list[int]:
    """For each bit of the next state, the bits of state and unit whose parity it is, the unit above the state."""
    masks = []
    for bit in range(CRC_BITS):
        masks.append(0)
        for place in range(CRC_BITS + unit_bits):
            state, unit = (1 << place) % 2**CRC_BITS, (1 << place) >> CRC_BITS
            masks[-1] |= (_after(state, unit, unit_bits) >> bit & 1) << place
    return masks


def _after(state: int, unit: int, unit_bits: int) -> int:
    """The state behind a unit; zlib takes and gives complements. Linear in both."""
    return zlib.crc32(unit.to_bytes(unit_bits // 8, "little"), state ^ _INITIAL) ^ _INITIAL


class Crc32(wiring.Component):
    """Ports as `amaranth.lib.crc.Processor`; parities of whole units, which a simulator computes many times faster.

    start  in(1)   begin anew; with `valid`, `data` is the first unit
    data   in(unit_bits)  first byte least significant
    valid  in(1)   take `data`
    crc    out(32) of the units so far, from the cycle after; one unit a cycle, no back-pressure

    Reset begins anew.
    """

    def __init__(self, unit_bits: int) -> None:
        self.unit_bits = unit_bits
        super().__init__({"start": In(1), "data": In(unit_bits), "valid": In(1), "crc": Out(CRC_BITS)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        state, before = Signal(CRC_BITS, init=_INITIAL), Signal(CRC_BITS)
        mixed = Cat(before, self.data)
        m.d.comb += [before.eq(Mux(self.start, _INITIAL, state)), self.crc.eq(~state)]
        m.d.sync += state.eq(before)
        with m.If(self.valid):
            m.d.sync += state.eq(Cat((mixed & mask).xor() for mask in _masks(self.unit_bits)))
        return m
