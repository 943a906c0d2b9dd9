"""Bench of `bitfirst_hdl.power.monitor.PowerMonitor` on a bus with chips of cocotbext-i2c, against `power_model`."""

import random
from bisect import bisect_right
from itertools import pairwise
from typing import Any

import cocotb
from bitfirst_hdl.contract import power
from bitfirst_hdl.contract.packets import WORD_BITS
from bitfirst_hdl.contract.power import Control, Rail, RailRead, Record, Result, Role, State, Transfer
from cocotb.triggers import ClockCycles, RisingEdge

from ..power_model import Phases, Sample, sums
from . import common
from .chips import Chip

ADDRESSES = (0x40, 0x45)
CHIPS = len(ADDRESSES) + 1  #: the last one only holds wires
READY, CURRENT, VOLTAGE = 0x10, 0x20, 0x30  # registers; the bytes behind belong to them
LIMIT = 400_000  # cycles that nothing takes
FAULTS = ("silent", "saturated", "overflow", "late", "stretched")


class Sensor(Chip):
    """A chip with a current, a voltage and a register with a bit that says that they are new.

    The next numbers, those of `draw`, come up to `pause` cycles after the voltage has been read.
    """

    def __init__(
        self, dut: Any, number: int, rng: random.Random, sizes: tuple[int, int, int] = (2, 2, 2), pause: int = 9000
    ) -> None:
        super().__init__(dut, number, ADDRESSES[number], rng)
        self.bytes = dict(zip((READY, CURRENT, VOLTAGE), sizes, strict=True))
        self.pause, self.ready_bit = pause, rng.randrange(8 * sizes[0])
        self.given: list[tuple[int, int]] = []  # (current, voltage), one after another
        self.reads = self.told = 0  # bytes; `ready_bit` as it was read last
        self.say(0)

    def rail(self, **other: int) -> int:
        """The row that describes it."""
        reads = 0
        for place, (register, role) in enumerate(
            ((READY, Role.READY), (CURRENT, Role.CURRENT), (VOLTAGE, Role.VOLTAGE))
        ):
            read = common.pack(RailRead, register=register, bytes=self.bytes[register], role=role)
            reads |= read << RailRead.as_shape().size * place
        return common.pack(
            Rail, **{"address": self.addr, "enabled": 1, "ready": self.ready_bit, "reads": reads} | other
        )

    def bits(self, register: int) -> int:
        """Of a number there."""
        return min(8 * self.bytes[register], power.CODE_BITS)

    def draw(self) -> tuple[int, int]:
        """A current and a voltage, far from their limits or near to them, but none of these."""
        largest = 2 ** (self.bits(CURRENT) - 1) - 2
        current = self.rng.choice((0, 1, -1, largest, -largest, self.rng.randint(-largest, largest)))
        return current, self.rng.randrange(2 ** (self.bits(VOLTAGE) - 1) - 1)

    def convert(self, current: int, voltage: int) -> None:
        for register, number in ((CURRENT, current), (VOLTAGE, voltage)):
            count = self.bytes[register]
            lower = self.rng.randrange(16) if count == 3 else 0
            packed = (number << 4 | lower) if count == 3 else number
            self.write_mem(register, (packed % 2 ** (8 * count)).to_bytes(count, "big"))
        self.given.append((current, voltage))
        self.say(1)

    def say(self, ready: int) -> None:
        """Whether the numbers are new, among bits that say something else."""
        count = self.bytes[READY]
        others = self.rng.getrandbits(8 * count) & ~(1 << self.ready_bit)
        self.write_mem(READY, (others | ready << self.ready_bit).to_bytes(count, "big"))

    async def later(self) -> None:
        await ClockCycles(self.clk, self.rng.randint(1, self.pause))
        self.convert(*self.draw())

    async def handle_read(self) -> int:
        place, self.reads = self.ptr, self.reads + 1
        byte = await super().handle_read()
        ends = READY + self.bytes[READY] - 1
        if place == ends - self.ready_bit // 8:
            self.told = byte >> self.ready_bit % 8 & 1
        if place == ends and self.told:
            self.say(0)
        if place == VOLTAGE + self.bytes[VOLTAGE] - 1:
            cocotb.start_soon(self.later())
        return byte


class Bench:
    """Rows in, words out; the phase; what the device's time is."""

    def __init__(self, dut: Any, rng: random.Random) -> None:
        self.dut, self.rng = dut, rng
        self.zero = common.cycle() - 1
        self.phases = Phases()
        self.stops: list[int] = []
        self.recorded: list[Sample] = []
        self.tasks = [cocotb.start_soon(self.see_stops())]

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()

    def now(self) -> int:
        """The device's time in the cycle that begins now."""
        return common.cycle() - self.zero

    async def write(self, row: int, word: int) -> None:
        dut = self.dut
        dut.write__valid.value, dut.write__row.value, dut.write__data.value = 1, row, word
        await RisingEdge(dut.clk)
        dut.write__valid.value, dut.write__row.value, dut.write__data.value = 0, 0, self.rng.getrandbits(WORD_BITS)

    async def control(self, **fields: int) -> None:
        await self.write(power.CONTROL_ROW, common.pack(Control, **fields))

    async def read(self, first: int, count: int) -> list[int]:
        dut, found = self.dut, []
        dut.read_start.value, dut.read_first.value = 1, first
        await RisingEdge(dut.clk)
        dut.read_start.value, dut.read_first.value = 0, 0
        dut.words__ready.value = 1
        await RisingEdge(dut.clk)
        while len(found) < count:
            if not common.value(dut.words__valid):
                await RisingEdge(dut.words__valid)
                await RisingEdge(dut.clk)
            found.append(common.value(dut.words__payload))
            if self.rng.random() < 0.1:
                dut.words__ready.value = 0
                await ClockCycles(dut.clk, self.rng.randint(1, 150))
                dut.words__ready.value = 1
            await RisingEdge(dut.clk)
        dut.words__ready.value = 0
        return found

    async def state(self) -> dict[str, int]:
        return common.unpack(State, (await self.read(power.STATE_WORD, 1))[0])

    async def transfer(self, address: int, data: bytes = b"", read: int = 0) -> dict[str, int]:
        bits = int.from_bytes(data, "little")
        packed = common.pack(Transfer, address=address, written=len(data), read=read, bytes=bits)
        await self.write(power.TRANSFER_ROW, packed)
        return common.unpack(Result, (await self.read(power.RESULT_WORD, 1))[0])

    async def sums(self) -> tuple[int, dict[tuple[int, int], tuple[int, ...]]]:
        """(stamp, sums that are not 0) of the copy."""
        stamp = (await self.read(power.STAMP_WORD, 1))[0]
        words = await self.read(power.FIRST_SUM_WORD, power.RAILS * power.PHASES * power.SUM_WORDS)
        found = {}
        for place in range(0, len(words), power.SUM_WORDS):
            total = tuple(common.to_signed(word, WORD_BITS) for word in words[place : place + power.SUM_WORDS])
            if any(total):
                found[divmod(place // power.SUM_WORDS, power.PHASES)] = total
        return stamp, found

    async def samples(self) -> list[Sample]:
        """All records since `clear`; those not read before are, and their phases are compared."""
        known = len(self.recorded)
        count = ((await self.state())["recorded"] - known) % 2**16
        assert count <= power.RECORDS, "records lost"
        while count:
            place = len(self.recorded) % power.RECORDS
            block = min(count, power.RECORDS - place)
            words = await self.read(power.FIRST_RECORD_WORD + place * power.RECORD_WORDS, block * power.RECORD_WORDS)
            for low, high in zip(words[::2], words[1::2], strict=True):
                record = common.unpack(Record, low | high << WORD_BITS)
                stamp, current = record["stamp"], common.to_signed(record["current"], 32)
                assert record["phase"] == self.phases.at(stamp - 1), (record, self.phases.at(stamp - 1))
                self.recorded.append(Sample(stamp, record["rail"], current, record["voltage"]))
            count -= block
        return self.recorded

    def change_phases(self, most: int) -> None:
        """From now on: one after the other, each for up to `most` cycles."""
        self.tasks.append(cocotb.start_soon(self._change_phases(most)))

    async def _change_phases(self, most: int) -> None:
        while True:
            number = self.rng.randrange(2**8)
            self.dut.phase.value = number
            self.phases.set(self.now(), number)
            await ClockCycles(self.dut.clk, self.rng.choice((1, self.rng.randint(1, most), most, most, most)))

    async def see_stops(self) -> None:
        while True:
            await RisingEdge(self.dut.bus_sda)
            if common.value(self.dut.bus_scl):
                self.stops.append(self.now())

    def check_times(self, samples: list[Sample]) -> None:
        """Each round's time is so many cycles behind a STOP, always the same number."""
        delays = {stamp - self.stops[bisect_right(self.stops, stamp) - 1] for stamp in {one.stamp for one in samples}}
        assert len(delays) == 1 and delays < set(range(100)), f"from a STOP to a round's time: {delays} cycles"

    async def check_sums(self, samples: list[Sample], **most: int) -> None:
        """Those of the copy, against the model."""
        stamp, found = await self.sums()
        wanted = sums((sample for sample in samples if sample.stamp <= stamp), self.phases, **most)
        assert stamp in {sample.stamp for sample in samples}, f"no round at {stamp}"
        assert found == wanted, f"sums at {stamp}: {found}, expected {wanted}"


async def start(dut: Any, **more: Any) -> tuple[Bench, list[Sensor]]:
    """The device, and a sensor on each of its first rails, with numbers to come."""
    levels = {f"chip{number}_{wire}": 1 for number in range(CHIPS) for wire in ("scl", "sda")}
    rng = await common.start(dut, write__valid=0, read_start=0, phase=0, words__ready=0, **levels)
    bench = Bench(dut, rng)
    sensors = [Sensor(dut, number, rng, **more) for number in range(len(ADDRESSES))]
    for number, sensor in enumerate(sensors):
        await bench.write(power.FIRST_RAIL_ROW + number, sensor.rail())
        cocotb.start_soon(sensor.later())
    return bench, sensors


def check_numbers(samples: list[Sample], sensors: list[Sensor]) -> None:
    """Each rail's are those that its sensor gave, one after another."""
    for number, sensor in enumerate(sensors):
        found = [(sample.current, sample.voltage) for sample in samples if sample.rail == number]
        assert len(found) > 1 and found == sensor.given[: len(found)], f"rail {number}: {found}, {sensor.given}"


async def rounds(bench: Bench, count: int) -> None:
    """Wait for so many more."""
    before = (await bench.state())["rounds"]
    for _ in range(LIMIT // 1000):
        if ((await bench.state())["rounds"] - before) % 2**16 >= count:
            return
        await ClockCycles(bench.dut.clk, 1000)
    raise AssertionError(f"{count} rounds take more than {LIMIT} cycles")


@cocotb.test()
async def adds_up(dut: Any) -> None:
    """Snapshots at any time while it runs, and one with the stop."""
    for sizes in ((2, 2, 2), (1, 3, 3)):
        bench, sensors = await start(dut, sizes=sizes)
        bench.change_phases(6000)
        await bench.control(clear=1, run=1, record=1)
        for _ in range(3):
            await rounds(bench, 2)
            await ClockCycles(dut.clk, bench.rng.randint(1, 3000))
            await bench.control(snapshot=1, run=1, record=1)
            copied = await bench.sums()
            samples = await bench.samples()
            await bench.check_sums(samples)
            assert copied == await bench.sums(), "the copy changed"
        await bench.control(snapshot=1, record=1)
        state = await bench.state()
        samples = await bench.samples()
        await bench.check_sums(samples)
        check_numbers(samples, sensors)
        bench.check_times(samples)
        assert {name: state[name] for name in FAULTS} == dict.fromkeys(FAULTS, 0), state
        assert not state["running"] and not common.value(dut.busy)
        assert state["rounds"] == len({sample.stamp for sample in samples}) >= 6
        edges = len(bench.stops)
        await ClockCycles(dut.clk, 5000)
        assert len(bench.stops) == edges, "it goes on behind a stop"
        bench.stop()


async def sum_up(bench: Bench) -> tuple[dict[str, int], dict[tuple[int, int], tuple[int, ...]]]:
    """Stop; the state, and the sums of all rounds."""
    await bench.control(snapshot=1, record=1)
    state = await bench.state()
    return state, (await bench.sums())[1]


def faults(state: dict[str, int]) -> dict[str, int]:
    return {name: state[name] for name in FAULTS if state[name]}


@cocotb.test()
async def transfers(dut: Any) -> None:
    """Bytes to and from chips, nobody there, and none while it runs."""
    bench, sensors = await start(dut)
    for _ in range(6):
        sensor, count, place = bench.rng.choice(sensors), bench.rng.randint(0, 3), bench.rng.randrange(0x40, 0x80)
        data, size = bench.rng.randbytes(count), bench.rng.randint(1, 5)
        result = await bench.transfer(sensor.addr, bytes([place]) + data)
        assert result == {"done": 1, "acknowledged": 1, "reserved0": 0, "bytes": 0}, result
        assert sensor.read_mem(place, count) == data
        sensor.write_mem(place, wanted := bench.rng.randbytes(5))
        result = await bench.transfer(sensor.addr, bytes([place]), size)
        assert result["done"] and result["acknowledged"]
        assert result["bytes"] == int.from_bytes(wanted[:size], "big"), hex(result["bytes"])
    result = await bench.transfer(0x11, b"\x00", 2)
    assert result["done"] and not result["acknowledged"]
    await bench.control(clear=1, run=1)
    assert not (await bench.transfer(sensors[0].addr, b"\x00", 2))["done"], "a transfer between rounds"
    state, _ = await sum_up(bench)
    assert not state["running"] and not faults(state)
    assert (await bench.transfer(sensors[0].addr, b"\x00", 2))["acknowledged"]


@cocotb.test()
async def rails_that_say_nothing(dut: Any) -> None:
    """A sensor that answers no more, and does again; one with full scale; registers without a number or a bit."""
    bench, sensors = await start(dut)
    bench.change_phases(6000)
    await bench.control(clear=1, run=1, record=1)
    await rounds(bench, 3)
    sensors[1].addr = 0x11
    await rounds(bench, 3)
    sensors[1].addr = ADDRESSES[1]
    await rounds(bench, 3)
    state, _ = await sum_up(bench)
    samples = await bench.samples()
    await bench.check_sums(samples)
    check_numbers(samples, sensors)
    stamps = [{sample.stamp for sample in samples if sample.rail == rail} for rail in range(2)]
    assert stamps[1] < stamps[0] and faults(state) == {"silent": 2}, state
    for register, roles in ((CURRENT, (2**15 - 1, -(2**15))), (VOLTAGE, (2**15 - 1, 2**16 - 1))):
        for number in roles:
            sensors[0].draw = lambda number=number, register=register: (
                (number, 5) if register == CURRENT else (-1, number)
            )
            await bench.control(clear=1, run=1)
            await rounds(bench, 2)
            state, _ = await sum_up(bench)
            assert faults(state) == {"saturated": 1}, (number, state)
    del sensors[0].draw
    # One rail: its only register says that it is ready, and is a voltage.
    read = common.pack(RailRead, register=READY, bytes=2, role=Role.READY)
    await bench.write(power.FIRST_RAIL_ROW, sensors[0].rail(reads=read))
    await bench.write(power.FIRST_RAIL_ROW + 1, 0)
    await bench.control(clear=1, run=1, record=1)
    bench.recorded.clear()
    for _ in range(4):
        sensors[0].say(1)
        await rounds(bench, 1)
    state, _ = await sum_up(bench)
    samples = await bench.samples()
    assert len(samples) >= 4 and {sample.current for sample in samples} == {0} and not faults(state)
    assert all(sample.voltage >> sensors[0].ready_bit & 1 for sample in samples)
    await bench.check_sums(samples)


@cocotb.test()
async def many_phases(dut: Any) -> None:
    """Hundreds of changes in a round are as exact as one."""
    bench, _ = await start(dut)
    bench.change_phases(20)
    await bench.control(clear=1, run=1, record=1)
    await rounds(bench, 4)
    state, _ = await sum_up(bench)
    samples = await bench.samples()
    await bench.check_sums(samples)
    for before, stamp in pairwise(sorted({sample.stamp for sample in samples})):
        assert sum(before < time < stamp for time in bench.phases.times) > 100, (before, stamp)
    assert not faults(state), state


@cocotb.test()
async def frees_the_bus(dut: Any) -> None:
    """A chip holds SDA, as it should, or for good; a chip holds SCL."""
    bench, sensors = await start(dut)
    sensors[0].write_mem(0x40, bytes(8))
    await bench.write(power.TRANSFER_ROW, common.pack(Transfer, address=sensors[0].addr, written=1, read=5, bytes=0x40))
    while not sensors[0].reads:
        await RisingEdge(dut.bus_scl)
    for _ in range(3):
        await RisingEdge(dut.bus_scl)
    dut.rst.value = 1
    await ClockCycles(dut.clk, 3)
    dut.rst.value = 0
    await ClockCycles(dut.clk, 3)
    state = await bench.state()
    assert state["scl"] and not state["sda"], state
    await bench.control(recover=1)
    assert (await bench.state())["sda"]
    assert (await bench.transfer(ADDRESSES[1], b"\x00", 1))["acknowledged"]
    dut.chip2_sda.value = 0
    assert not (await bench.transfer(0x11, b"\x00", 1))["acknowledged"], "acknowledged by a wire that is held"
    dut.chip2_sda.value = 1
    dut.chip2_scl.value = 0
    assert not (await bench.transfer(ADDRESSES[0], b"\x00", 1))["acknowledged"]
    assert faults(await bench.state()) == {"stretched": 1}
    dut.chip2_scl.value = 1
    assert (await bench.transfer(ADDRESSES[0], b"\x00", 1))["acknowledged"]
