"""Bench of `bitfirst_hdl.engine.MatmulEngine`: sums, events and cycles of MATMULs against a transaction model."""

import random
from collections import Counter

import cocotb
import numpy as np
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract.numeric import SUM_BITS
from bitfirst_hdl.contract.packets import Matmul, Opcode
from cocotb.triggers import RisingEdge

from . import arrays, common

SHAPE = ("slices", "planes", "chunks", "row_tiles", "col_tiles")


def shape(command: dict[str, int]) -> list[int]:
    return [command[name] for name in SHAPE]


class Model:
    """Memories and sums as numbers."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.a = np.zeros((config.a_depth, config.rows, config.lanes), dtype=np.int64)
        self.b = np.zeros((config.b_depth, config.columns, config.lanes), dtype=np.int64)
        self.sums = np.zeros((config.sum_tiles, config.rows, config.columns), dtype=object)
        self.written = np.zeros(config.sum_tiles, dtype=bool)

    def tile(self, command: dict[str, int], i: int, j: int) -> tuple[np.ndarray, int]:
        """One tile's exact product, and the ones fed for it."""
        slices, planes, chunks = command["slices"], command["planes"], command["chunks"]
        total = np.zeros((self.config.rows, self.config.columns), dtype=object)
        ones = 0
        for s in range(slices):
            offset = 2 ** (self.config.slice_bits - 1) if command["a_offset"] >> s & 1 else 0
            for p in range(planes):
                weight = 2 ** (self.config.slice_bits * (slices - 1 - s) + planes - 1 - p)
                sign = -1 if command["b_negative"] >> p & 1 else 1
                for k in range(chunks):
                    a = self.a[command["a_row"] + (i * slices + s) * chunks + k] - offset
                    b = self.b[command["b_row"] + (j * planes + p) * chunks + k]
                    total += sign * weight * arrays.dot(self.config, a, b).astype(object)
                    ones += int(b.sum())
        return total, ones

    def matmul(self, command: dict[str, int]) -> Counter:
        """Update the sums; what the events must count."""
        ones = 0
        for i in range(command["row_tiles"]):
            for j in range(command["col_tiles"]):
                product, fed = self.tile(command, i, j)
                place = command["sum_tile"] + i * command["col_tiles"] + j
                self.sums[place] = product + (self.sums[place] if command["accumulate"] else 0)
                self.written[place] = True
                ones += fed
        return Counter(
            busy=self.config.matmul_cycles(*shape(command)),
            step=self.config.array_steps(*shape(command)),
            stall=self.config.stall_cycles(*shape(command)),
            serial_ones=ones,
        )


class Bench:
    """Drives all ports, counts all events."""

    def __init__(self, dut, rng: random.Random, config: ArrayConfig) -> None:
        self.dut, self.rng, self.config = dut, rng, config
        self.model = Model(config)
        self.events: Counter = Counter()
        self.writes: list[tuple[str, int, int, int]] = []  # waiting: port, row, word, data
        self.reads = common.Checker("rows of sums")
        self.read_answers = 0

    async def cycle(self) -> None:
        """To the next edge; count what happened in the cycle before it."""
        await RisingEdge(self.dut.clk)
        for name in "busy", "step", "stall", "overflow", "serial_ones":
            self.events[name] += common.value(getattr(self.dut, f"events__{name}"))
        assert common.value(self.dut.busy) == common.value(self.dut.events__busy)
        assert common.value(self.dut.start__ready) == 1 - common.value(self.dut.busy)
        self.drive_write()

    def drive_write(self) -> None:
        """At most one waiting write, at random."""
        for port in "a_write", "b_write", "sum_write":
            getattr(self.dut, f"{port}__valid").value = 0
        if self.writes and self.rng.random() < 0.8:
            port, row, word, data = self.writes.pop()
            for name, value in ("valid", 1), ("row", row), ("word", word), ("data", data):
                getattr(self.dut, f"{port}__{name}").value = value

    async def flush(self) -> None:
        while self.writes:
            await self.cycle()
        await self.cycle()
        await self.cycle()

    def fill(self, side: str, rows: range, kind: str = "random") -> None:
        """New contents for rows of an operand memory; they are written as cycles go by."""
        store, bits = (self.model.a, self.config.slice_bits) if side == "a" else (self.model.b, 1)
        store[rows.start : rows.stop] = arrays.numbers(self.rng, store[rows.start : rows.stop].shape, bits, kind)
        for row in rows:
            for word, data in enumerate(arrays.row_words(store[row], bits)):
                self.writes.append((f"{side}_write", row, word, data))

    def write_sums(self, tile: int, value: int) -> None:
        """One value for all sums of a tile; the words' high bits are noise."""
        self.model.sums[tile] = value
        self.model.written[tile] = True
        for row in range(self.config.rows):
            for column in range(self.config.columns):
                noise = self.rng.getrandbits(64 - SUM_BITS) << SUM_BITS
                self.writes.append(("sum_write", tile * self.config.rows + row, column, value % 2**SUM_BITS | noise))

    async def start(self, command: dict[str, int]) -> None:
        """Offer the command until it is taken; on return it is taken in the cycle that has just ended."""
        self.dut.start__payload.value = common.pack(Matmul, opcode=int(Opcode.MATMUL), **command)
        self.dut.start__valid.value = 1
        await self.cycle()
        while not common.value(self.dut.start__ready):
            await self.cycle()
        self.dut.start__valid.value = 0
        self.dut.start__payload.value = self.rng.getrandbits(256)

    async def finish(self, limit: int) -> None:
        """To the first idle cycle."""
        await self.cycle()
        while common.value(self.dut.busy):
            limit -= 1
            assert limit >= 0, "busy does not fall"
            await self.cycle()

    async def matmul(self, command: dict[str, int]) -> None:
        """One command from idle to idle, with its events checked."""
        expected = self.model.matmul(command)
        before = self.events.copy()
        await self.start(command)
        await self.finish(2 * expected["busy"] + 10)
        got = self.events - before
        assert got == +expected, f"{command}: {dict(got)}, expected {dict(expected)}"

    async def check_sums(self) -> None:
        """Read every row that was ever written."""
        for tile in np.flatnonzero(self.model.written):
            for row in range(self.config.rows):
                await self.read(int(tile), row)
        self.reads.finish()

    async def read(self, tile: int, row: int) -> int:
        """One row of sums; returns the cycles until it was accepted."""
        self.reads.expect([int(total) for total in self.model.sums[tile, row]])
        self.dut.sum_read__row.value = tile * self.config.rows + row
        self.dut.sum_read__valid.value = 1
        waited = 0
        await self.cycle()
        while not common.value(self.dut.sum_read__ready):
            waited += 1
            await self.cycle()
        self.dut.sum_read__valid.value = 0
        await self.cycle()
        assert not common.value(self.dut.sum_read__data_valid), "answer too early"
        await self.cycle()
        assert common.value(self.dut.sum_read__data_valid), "no answer two cycles after the request"
        packed = common.value(self.dut.sum_read__data)
        words = [(packed >> (SUM_BITS * column)) & (2**SUM_BITS - 1) for column in range(self.config.columns)]
        self.reads.got([common.to_signed(word, SUM_BITS) for word in words])
        return waited


def random_command(rng: random.Random, config: ArrayConfig, **fixed: int) -> dict[str, int]:
    """A command that fits the memories."""
    while True:
        command = {
            "accumulate": rng.randrange(2),
            "slices": rng.randrange(1, config.max_slices + 1),
            "planes": rng.randrange(1, MAX_BITS + 1),
            "chunks": rng.choice([1, 1, 2, 3, rng.randrange(1, 12)]),
            "row_tiles": rng.randrange(1, 4),
            "col_tiles": rng.randrange(1, 4),
            "a_offset": rng.getrandbits(16),
            "b_negative": rng.getrandbits(16),
        } | fixed
        rows_a = command["row_tiles"] * command["slices"] * command["chunks"]
        rows_b = command["col_tiles"] * command["planes"] * command["chunks"]
        tiles = command["row_tiles"] * command["col_tiles"]
        if rows_a <= config.a_depth and rows_b <= config.b_depth and tiles <= config.sum_tiles:
            break
    places = {
        "a_row": rng.randrange(config.a_depth - rows_a + 1),
        "b_row": rng.randrange(config.b_depth - rows_b + 1),
        "sum_tile": rng.randrange(config.sum_tiles - tiles + 1),
    }
    return command | places | {name: fixed[name] for name in places if name in fixed}


async def prepare(dut, kind: str = "random") -> Bench:
    """Reset, both operand memories filled, all sums written."""
    rng = await common.start(dut)
    config = arrays.config()
    bench = Bench(dut, rng, config)
    dut.start__valid.value = 0
    dut.sum_read__valid.value = 0
    bench.fill("a", range(config.a_depth), kind)
    bench.fill("b", range(config.b_depth), kind)
    for tile in range(config.sum_tiles):
        bench.write_sums(tile, rng.randrange(-(2**40), 2**40))
    await bench.flush()
    return bench


@cocotb.test()
async def every_precision(dut) -> None:
    """All slice counts with all plane counts, random signs, one tile."""
    bench = await prepare(dut)
    for slices in range(1, bench.config.max_slices + 1):
        for planes in range(1, MAX_BITS + 1):
            fixed = {
                "slices": slices,
                "planes": planes,
                "row_tiles": 1,
                "col_tiles": 1,
                "chunks": bench.rng.choice([1, 2]),
            }
            await bench.matmul(random_command(bench.rng, bench.config, **fixed))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def any_command(dut) -> None:
    """Random tiles, chunks, precisions, signs, accumulation; some operands change in between."""
    bench = await prepare(dut)
    for _ in range(30):
        await bench.matmul(random_command(bench.rng, bench.config))
        row = bench.rng.randrange(bench.config.a_depth)
        bench.fill(bench.rng.choice("ab"), range(row, row + 1), bench.rng.choice(arrays.KINDS))
        await bench.flush()
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def extremes(dut) -> None:
    """All operand bits set, as many chunks as fit, every combination of signs."""
    bench = await prepare(dut, "ones")
    config = bench.config
    for planes in 1, 8, MAX_BITS:
        for slices in 1, config.max_slices:
            chunks = min(config.max_chunks(planes), config.a_depth // slices)
            for a_offset in 0, 1, 2**16 - 1:
                for b_negative in 0, 1, 2**16 - 1:
                    fixed = {"slices": slices, "planes": planes, "chunks": chunks, "row_tiles": 1, "col_tiles": 1}
                    signs = {"a_offset": a_offset, "b_negative": b_negative}
                    await bench.matmul(random_command(bench.rng, config, **fixed, **signs))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def back_to_back(dut) -> None:
    """Commands offered all the time: each is taken in the first idle cycle, and events add up."""
    bench = await prepare(dut)
    expected, cycles = Counter(), 0
    commands = [random_command(bench.rng, bench.config) for _ in range(12)]
    before = bench.events.copy()
    for command in commands:
        expected += bench.model.matmul(command)
        await bench.start(command)
        cycles += bench.config.matmul_cycles(*shape(command)) + 1
    start = common.cycle()
    await bench.finish(bench.config.matmul_cycles(*shape(commands[-1])) + 1)
    assert common.cycle() - start == bench.config.matmul_cycles(*shape(commands[-1])) + 1
    assert bench.events - before == +expected
    await bench.check_sums()


@cocotb.test()
async def beside_a_matmul(dut) -> None:
    """While a MATMUL runs: operand writes to other rows, reads of other sums that wait for the drain."""
    bench = await prepare(dut)
    config = bench.config
    waits = reads = 0
    for _ in range(10):
        half = {"a_row": 0, "b_row": 0, "sum_tile": 0, "chunks": 1, "row_tiles": 1, "col_tiles": 1}
        command = random_command(bench.rng, config, **half)
        expected = bench.model.matmul(command)
        before = bench.events.copy()
        await bench.start(command)
        bench.fill("a", range(config.a_depth // 2, config.a_depth))
        bench.fill("b", range(config.b_depth // 2, config.b_depth))
        await bench.cycle()
        while common.value(dut.busy):
            waits += await bench.read(bench.rng.randrange(1, config.sum_tiles), bench.rng.randrange(config.rows))
            reads += 1
        await bench.cycle()
        assert bench.events - before == +expected
        await bench.flush()
        await bench.matmul(random_command(bench.rng, config))
    assert reads > 0 and waits > 0, "no read met the drain"
    await bench.check_sums()


@cocotb.test()
async def overflow(dut) -> None:
    """Sums at the ends of 48 bits: the last that fits is silent, one more is flagged and wraps."""
    bench = await prepare(dut, "ones")
    config = bench.config
    one = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "sum_tile": 0, "accumulate": 1}
    step = config.lanes * (2**config.slice_bits - 1)
    for negative in 0, 1:
        edge = 2 ** (SUM_BITS - 1) - 1 - step if not negative else -(2 ** (SUM_BITS - 1)) + step
        command = random_command(bench.rng, config, **one, a_offset=0, b_negative=negative)
        bench.write_sums(0, edge)
        await bench.flush()
        await bench.matmul(command)
        await bench.check_sums()
        before = bench.events["overflow"]
        bench.model.matmul(command)
        bench.model.sums[0] = [
            [common.to_signed(int(total) % 2**SUM_BITS, SUM_BITS) for total in row] for row in bench.model.sums[0]
        ]
        await bench.start(command)
        await bench.finish(config.matmul_cycles(*shape(command)))
        assert bench.events["overflow"] - before == config.rows, "one flag for each row that overflows"
        await bench.check_sums()
