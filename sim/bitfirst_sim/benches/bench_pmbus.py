"""Bench of `bitfirst_hdl.power.monitor.PowerMonitor` on a PMBus with chips of cocotbext-i2c, which give words low byte
first: what it makes of them, against the formula of LINEAR11.
"""

import math
import random
from itertools import pairwise
from typing import Any

import cocotb
from bitfirst_hdl.contract import power
from bitfirst_hdl.contract.power import Rail, RailRead, Result, Role
from cocotb.triggers import ClockCycles

from . import common
from .bench_power import FAULTS, Bench, rounds
from .chips import Chip

ADDRESSES = (52, 53)
CURRENT, VOLTAGE = 0x20, 0x30  # registers of a word
LIMIT = 128  #: that numbers are below


def linear11(word: int) -> float:
    return math.ldexp(common.to_signed(word & 0x7FF, 11), common.to_signed(word >> 11, 5))


def steps(word: int, bits: int) -> int:
    """Of `LIMIT`, cut to so many bits and a sign, down."""
    number = math.floor(linear11(word) * 2**bits / LIMIT)
    return min(max(number, -(2**bits)), 2**bits - 1)


class Regulator(Chip):
    """The next words, those of `draw`, come behind the voltage's last byte."""

    def __init__(self, dut: Any, number: int, rng: random.Random) -> None:
        super().__init__(dut, number, ADDRESSES[number], rng, stretch=200)
        self.given: list[tuple[int, int]] = []
        self.say()

    def rail(self, *reads: tuple[int, int, Role]) -> int:
        reads = reads or ((CURRENT, 3, Role.CURRENT), (VOLTAGE, 2, Role.VOLTAGE))
        packed = [common.pack(RailRead, register=place, bytes=size, role=role) for place, size, role in reads]
        bits = sum(read << RailRead.as_shape().size * place for place, read in enumerate(packed))
        return common.pack(Rail, address=self.addr, enabled=1, reads=bits)

    def draw(self) -> tuple[int, int]:
        """Nothing that is at the ends."""
        current = next(
            word for word in iter(lambda: self.rng.getrandbits(16), None) if abs(steps(word, 19)) < 2**19 - 1
        )
        return current, self.rng.randrange(2**15)

    def say(self) -> None:
        current, voltage = self.draw()
        for register, word in ((CURRENT, current), (VOLTAGE, voltage)):
            self.write_mem(register, word.to_bytes(2, "little"))
        self.given.append((steps(current, 19), voltage))

    async def handle_read(self) -> int:
        place, byte = self.ptr, await super().handle_read()
        if place == VOLTAGE + 1:
            self.say()
        return byte


async def start(dut: Any) -> tuple[Bench, list[Regulator]]:
    levels = {f"chip{number}_{wire}": 1 for number in range(len(ADDRESSES)) for wire in ("scl", "sda")}
    rng = await common.start(dut, write__valid=0, read_start=0, phase=0, words__ready=0, **levels)
    bench, chips = Bench(dut, rng), [Regulator(dut, number, rng) for number in range(len(ADDRESSES))]
    for number, chip in enumerate(chips):
        await bench.write(power.FIRST_RAIL_ROW + number, chip.rail())
    return bench, chips


@cocotb.test()
async def transfers(dut: Any) -> None:
    """Bytes, words, numbers and blocks; nobody there."""
    bench, chips = await start(dut)
    for size in (2, 3, 1, 5, 4, 3, 2, 3):
        chip = bench.rng.choice(chips)
        chip.write_mem(0x40, data := bench.rng.randbytes(5))
        word = int.from_bytes(data[:2], "little")
        wanted = {2: word, 3: steps(word, 23) % 2**24}.get(size, int.from_bytes(data[:size], "big"))
        result = await bench.transfer(chip.addr, b"\x40", size)
        assert result["done"] and result["acknowledged"] and result["bytes"] == wanted, (size, hex(result["bytes"]))
        assert (await bench.transfer(chip.addr, bytes([0x50, *data[:3]])))["acknowledged"]
        assert chip.read_mem(0x50, 3) == data[:3]
    reads = [(VOLTAGE, 2, Role.VOLTAGE)] * (power.READS - 1) + [(CURRENT, 3, Role.CURRENT)]
    await bench.write(power.FIRST_RAIL_ROW + power.RAILS - 1, chips[1].rail(*reads))  # the last one of all is a number
    await bench.control(clear=1, run=1)
    await rounds(bench, 2)
    await bench.control()
    result = await bench.transfer(chips[0].addr, b"\x40", 3)
    await bench.control(recover=1)
    (word,) = await bench.read(power.RESULT_WORD, 1)
    assert common.unpack(Result, word) == result, "freeing the bus changes what was read before"
    await bench.write(power.FIRST_RAIL_ROW + power.RAILS - 1, 0)
    for size in (2, 3, 5):
        result = await bench.transfer(0x40, b"\x40", size)
        assert result["done"] and not result["acknowledged"]


@cocotb.test()
async def adds_up(dut: Any) -> None:
    """Rounds one after another, none waits; numbers as they are read, and sums of them."""
    bench, chips = await start(dut)
    bench.change_phases(6000)
    await bench.control(clear=1, run=1, record=1)
    await rounds(bench, 8)
    await bench.control(snapshot=1, record=1)
    state, samples = await bench.state(), await bench.samples()
    for number, chip in enumerate(chips):
        found = [(sample.current, sample.voltage) for sample in samples if sample.rail == number]
        assert len(found) >= 8 and found == chip.given[: len(found)], f"rail {number}: {found}, {chip.given}"
    await bench.check_sums(samples)
    assert not any(state[name] for name in FAULTS), state
    stamps = sorted({sample.stamp for sample in samples})
    longest = max(after - before for before, after in pairwise(stamps))
    assert longest < 1.5 * (stamps[-1] - stamps[0]) / (len(stamps) - 1), "rounds follow one another"
    bench.stop()


@cocotb.test()
async def ends_of_the_range(dut: Any) -> None:
    """128 A and more, either way, are told; so is a rail that is silent."""
    bench, chips = await start(dut)
    at_ends, within = (0x79FF, 0x7E00, 0x3BFF, 0x03FF, 0x0780), (0xDA80, 0x007F, 0x0781)
    for word in at_ends + within:
        chips[1].draw = lambda word=word: (word, 0x1000)
        chips[1].say()
        await bench.control(clear=1, run=1)
        await rounds(bench, 2)
        await bench.control()
        state = await bench.state()
        assert state["saturated"] == 2 * (word in at_ends) and not state["silent"], (hex(word), state)
    chips[0].addr = 0x11
    await bench.control(clear=1, run=1, record=1)
    await rounds(bench, 2)
    await bench.control()
    await ClockCycles(dut.clk, 1000)
    assert (await bench.state())["silent"] == 1
    bench.stop()
