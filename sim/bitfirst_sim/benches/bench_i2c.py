"""Bench of `bitfirst_hdl.power.i2c.I2CMaster` on a bus (`i2c_bus.OnBus`) with chips of cocotbext-i2c.

Parameters, in cycles: `quarter`, `filter`, and `tick` from one to the next; `stretch`, ticks.
"""

import random
from typing import Any

import cocotb
from bitfirst_hdl.power.i2c import BYTE, START, STOP
from cocotb.triggers import ClockCycles, ReadOnly, RisingEdge

from . import common
from .chips import Chip, Wires

ADDRESSES = (0x40, 0x45)
READ = 1
SDA_IS_FREE = 1
FREES = 0x1FF


class Master:
    """Drives the master, an action at a time."""

    def __init__(self, dut: Any) -> None:
        self.dut = dut

    async def do(self, kind: int, bits: int = FREES) -> tuple[int, int]:
        """(`received`, `stretched`)."""
        dut = self.dut
        dut.go.value, dut.kind.value, dut.bits.value = 1, kind, bits
        await RisingEdge(dut.clk)
        dut.go.value = 0
        await RisingEdge(dut.done)
        await ReadOnly()
        stretched = common.value(dut.stretched)
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        assert not common.value(dut.busy)
        return common.value(dut.received), stretched

    async def send(self, byte: int) -> bool:
        """Whether it was acknowledged."""
        received, stretched = await self.do(BYTE, byte << 1 | 1)
        assert not stretched and received >> 1 == byte
        return not received & 1

    async def begin(self, address: int, read: int = 0) -> bool:
        await self.do(START)
        return await self.send(address << 1 | read)

    async def end(self) -> None:
        received, stretched = await self.do(STOP)
        assert not stretched and received & 1 == SDA_IS_FREE, "SDA is held behind a STOP"

    async def write(self, address: int, *data: int) -> None:
        assert await self.begin(address), "no acknowledge"
        for byte in data:
            assert await self.send(byte), "no acknowledge"

    async def read(self, address: int, count: int) -> list[int]:
        assert await self.begin(address, READ), "no acknowledge"
        received = [await self.do(BYTE, 0xFF << 1 | (place == count - 1)) for place in range(count)]
        return [bits >> 1 for bits, _ in received]


async def start(dut: Any, stretch: int = 0) -> tuple[Master, list[Chip], random.Random]:
    levels = {f"chip{number}_{wire}": 1 for number in range(len(ADDRESSES)) for wire in ("scl", "sda")}
    rng = await common.start(dut, **levels)
    chips = [Chip(dut, number, address, rng, stretch) for number, address in enumerate(ADDRESSES)]
    return Master(dut), chips, rng


async def registers(dut: Any, master: Master, chips: list[Chip], rng: random.Random, times: int) -> None:
    """Random bytes to and from random places, in one transfer with a repeated START or in two."""
    for _ in range(times):
        chip, place, count = rng.choice(chips), rng.randrange(250), rng.randint(1, 5)
        data = rng.randbytes(count)
        before = [other.read_mem(0, 256) for other in chips if other is not chip]
        await master.write(chip.addr, place, *data)
        await master.end()
        assert chip.read_mem(place, count) == data, "bytes written"
        chip.write_mem(place, data := rng.randbytes(count))
        await master.write(chip.addr, place)
        if rng.random() < 0.3:
            await master.end()
            await ClockCycles(dut.clk, rng.randint(1, 100))
        assert bytes(await master.read(chip.addr, count)) == data, "bytes read"
        await master.end()
        assert before == [other.read_mem(0, 256) for other in chips if other is not chip], "another chip"


@cocotb.test()
async def bytes_pass(dut: Any) -> None:
    """With and without chips that stretch the clock: those let SCL go and change SDA at once, so nothing is said
    of the times then.
    """
    quarter = common.parameters()["quarter"]
    master, chips, rng = await start(dut)
    wires = Wires(dut, low=2 * quarter, high=2 * quarter, hold=quarter, setup=quarter)
    await registers(dut, master, chips, rng, 6)
    assert wires.starts == chips[0].starts == chips[1].starts >= 18
    assert wires.stops >= 12
    wires.stop()
    for chip in chips:
        chip.stretch = 20 * quarter
    await registers(dut, master, chips, rng, 6)


@cocotb.test()
async def nobody_answers(dut: Any) -> None:
    master, chips, _ = await start(dut)
    for address in (0x41, 0x00, 0x7F):
        assert not await master.begin(address)
        await master.end()
    chips[0].write_mem(7, b"\x5a")
    await master.write(chips[0].addr, 7)
    assert await master.read(chips[0].addr, 1) == [0x5A]


@cocotb.test()
async def a_held_wire_is_freed(dut: Any) -> None:
    """The master is reset while a chip sends zeros: then that holds SDA, until nine clock pulses have passed."""
    for passed in (1, 4, 8):
        master, chips, _ = await start(dut)
        chip = chips[0]
        chip.write_mem(0, bytes(256))
        await master.write(chip.addr, 3)
        assert await master.begin(chip.addr, READ)
        dut.go.value, dut.kind.value, dut.bits.value = 1, BYTE, FREES - 1
        for _ in range(passed):
            await RisingEdge(dut.bus_scl)
            dut.go.value = 0
        dut.rst.value = 1
        await ClockCycles(dut.clk, 20)
        dut.rst.value = 0
        await ClockCycles(dut.clk, 20)
        assert not common.value(dut.bus_sda), "the chip should hold SDA"
        received, _ = await master.do(STOP)
        assert received & 1 != SDA_IS_FREE or passed == 8
        await master.do(BYTE, FREES)
        await master.end()
        assert common.value(dut.bus_sda)
        chip.write_mem(9, b"\xa5")
        await master.write(chip.addr, 9)
        assert await master.read(chip.addr, 1) == [0xA5]
        await master.end()


@cocotb.test()
async def a_held_clock_is_given_up(dut: Any) -> None:
    """A chip holds SCL for less than the limit, or for more."""
    given = common.parameters()
    limit, margin = given["tick"] * given["stretch"], 40 * given["quarter"]
    master, chips, _ = await start(dut)
    for cycles, gives_up in ((limit - given["tick"] - margin, 0), (limit + margin, 1)):
        assert await master.begin(chips[0].addr)

        async def hold(cycles: int = cycles) -> None:
            dut.chip1_scl.value = 0
            await ClockCycles(dut.clk, cycles)
            dut.chip1_scl.value = 1

        holding = cocotb.start_soon(hold())
        _, stretched = await master.do(BYTE, 5 << 1 | 1)
        assert stretched == gives_up, f"SCL held for {cycles} cycles of {limit}: stretched = {stretched}"
        if stretched:
            assert common.value(dut.bus_sda) and not common.value(dut.bus_scl)
        await holding
        await master.do(BYTE, FREES)
        await master.end()
    assert await master.begin(chips[0].addr)


@cocotb.test()
async def spikes_are_not_seen(dut: Any) -> None:
    """On both wires, as long as the filter bears, and pauses as short as it needs."""
    bears = common.parameters()["filter"] - 1
    master, chips, rng = await start(dut)

    async def spikes(pin: Any) -> None:
        while True:
            await ClockCycles(dut.clk, rng.randint(2 * bears + 2, 40))
            pin.value = 1
            await ClockCycles(dut.clk, rng.randint(1, bears))
            pin.value = 0

    # Not while the wire itself changes: that is another matter.
    for pin in (dut.spike_scl, dut.spike_sda):
        cocotb.start_soon(spikes(pin))
    await registers(dut, master, chips, rng, 5)
