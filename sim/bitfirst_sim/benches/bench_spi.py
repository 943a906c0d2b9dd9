"""Bench of `bitfirst_hdl.power.spi.SpiTransfers`, in `spi_bytes.WholeTransfers`, with chips on its lines, by the data
sheet of INA229 (SLYS023, mode 1) alone. Parameter: `half`, cycles of half a bit at least.
"""

import random
from typing import Any

import cocotb
from bitfirst_hdl.contract.power import RAILS
from cocotb.triggers import ClockCycles, RisingEdge

from . import common

ABSENT = RAILS - 1  #: no chip is on the last line
READ, WRITE = 1, 0
WIDTHS = (2, 3, 5)  #: bytes of registers, by their number modulo 3


class Chip:
    """Registers; a read one changes MISO up to `half` cycles behind the clock's rising edge, at random."""

    def __init__(self, dut: Any, line: int, rng: random.Random, half: int) -> None:
        self.dut, self.line, self.rng, self.half = dut, line, rng, half
        self.registers = [rng.getrandbits(8 * WIDTHS[number % 3] - 1) for number in range(64)]  # some bit is 0
        self.frames = 0
        cocotb.start_soon(self.run())

    async def run(self) -> None:
        while True:
            await self.clock()
            if common.value(self.dut.cs_n) == (2**RAILS - 1) ^ (1 << self.line):
                await self.frame()

    async def clock(self) -> None:
        await RisingEdge(self.dut.clk)

    async def frame(self) -> None:
        """Until the line is high."""
        dut, taken, data, since = self.dut, 0, 0, 0
        bits, width, number, due, reads = 0, 0, 0, -1, False
        before = common.value(dut.sclk), common.value(dut.mosi)
        while not common.value(dut.cs_n) >> self.line & 1:
            now = common.value(dut.sclk), common.value(dut.mosi)
            since += 1
            if now[0] != before[0]:
                assert since >= self.half, f"the clock was {before[0]} for {since} cycles"
                since = 0
            if now[0] > before[0]:
                due = self.rng.randint(0, self.half - 1)
            if now[0] < before[0]:
                assert now[1] == before[1], "MOSI changes as it is taken"
                taken, bits = taken << 1 | now[1], bits + 1
            if not now[0] and not before[0]:
                assert now[1] == before[1], "MOSI changes behind the edge with which it is taken"
            if now[0] < before[0] and bits == 8:
                number, taken = taken >> 2, taken & 3
                width = WIDTHS[number % 3]
                assert taken in (READ, WRITE), "bit 1 of the first byte is 0"
                reads, data, taken = taken == READ, self.registers[number], 0
            if due == 0 and bits >= 8 and reads:
                dut.miso.value = data >> (8 * width + 7 - bits) & 1
            due -= 1
            before = now
            await self.clock()
        assert not before[0], "the line goes high before the clock is low"
        if not reads:
            assert bits == 24, f"{bits} bits of a register written"
            self.registers[number] = taken
        dut.miso.value = 1
        self.frames += 1


async def start(dut: Any) -> tuple[list[Chip], random.Random]:
    rng = await common.start(dut, go=0, recovers=0, miso=1)
    half = common.parameters()["half"]
    return [Chip(dut, line, rng, half) for line in range(ABSENT)], rng


async def transfer(dut: Any, address: int, data: bytes, read: int = 0) -> tuple[int, int]:
    """(bits read, acknowledged)"""
    dut.address.value, dut.written.value, dut.read.value = address, len(data), read
    dut.bytes.value = int.from_bytes(data, "little")
    dut.go.value = 1
    await RisingEdge(dut.clk)
    dut.go.value = 0
    await RisingEdge(dut.ended)
    await RisingEdge(dut.clk)
    return common.value(dut.received) % 2 ** (8 * read), common.value(dut.acknowledged)


@cocotb.test()
async def registers(dut: Any) -> None:
    """Read and written, each in its chip alone; what nobody answers is not acknowledged."""
    chips, rng = await start(dut)
    for _ in range(40):
        line, number = rng.randrange(ABSENT), rng.randrange(64)
        width, kept = WIDTHS[number % 3], [list(chip.registers) for chip in chips]
        found = await transfer(dut, line, bytes([number]), width)
        assert found == (kept[line][number], 1), f"register {number} of {line}: {found}"
        number -= number % 3  # those of 16 bits
        word = rng.getrandbits(16)
        assert await transfer(dut, line, bytes([number, word >> 8, word & 0xFF])) == (0, 1)
        await ClockCycles(dut.clk, rng.randint(1, 20))
        kept[line][number] = word
        assert kept == [chip.registers for chip in chips]
    assert sum(chip.frames for chip in chips) == 80
    for address in (ABSENT, 0x40, 0x7F):
        assert await transfer(dut, address, bytes([1]), 2) == (0xFFFF, 0)
    assert sum(chip.frames for chip in chips) == 80
