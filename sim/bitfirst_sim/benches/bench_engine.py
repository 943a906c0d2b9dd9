"""Bench of `bitfirst_hdl.engine.MatmulEngine`: sums, events and cycles of MATMULs against a transaction model."""

import random
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import cocotb
import numpy as np
from bitfirst_hdl.config import MAX_BITS, SETUP_CYCLES, ArrayConfig
from bitfirst_hdl.contract.numeric import SUM_BITS
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, PROGRAM_ROWS, WORD_BITS, Matmul, Opcode
from cocotb.triggers import RisingEdge

from . import arrays, common

SHAPE = ("slices", "planes", "chunks", "row_tiles", "col_tiles")
START_LIMIT = 200_000  # cycles, more than any MATMUL here
WRITE_PORTS = ("a_write", "b_write", "sum_write", "program_write")
EVENTS = ("busy", "step", "stall", "overflow", "serial_ones", "gated")
ONE_TILE = {"row_tiles": 1, "col_tiles": 1}


def shape(command: dict[str, int]) -> list[int]:
    return [command[name] for name in SHAPE]


def timed(command: dict[str, int]) -> list[int]:
    """What its cycles depend on."""
    return [*shape(command), command["b_below"]]


def cells_used(command: dict[str, int]) -> tuple[int, int]:
    """Cells of A and of B that the command spans."""
    return (
        command["row_tiles"] * command["a_octets"] * command["chunks"],
        command["col_tiles"] * command["b_octets"] * command["chunks"],
    )


class Model:
    """Cells and sums as numbers."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.a = np.zeros((config.a_cells, config.rows, config.lanes), dtype=np.int64)
        self.b = np.zeros((config.b_cells, config.columns, config.lanes), dtype=np.int64)
        self.sums = np.zeros((config.sum_tiles, config.rows, config.columns), dtype=object)
        self.written = np.zeros(config.sum_tiles, dtype=bool)
        self.program: list[ProgramRow] = [ProgramRow.drawn(random.Random(0), config) for _ in range(PROGRAM_ROWS)]

    def operand(self, command: dict[str, int], side: str, tile: int, bits: int) -> np.ndarray:
        """Digits of `bits` bits of one tile: [digits used, vectors, chunks * lanes], most significant first."""
        octets, chunks, first = command[f"{side}_octets"], command["chunks"], command[f"{side}_first"]
        start = command[f"{side}_cell"] + tile * octets * chunks
        cells = getattr(self, side)[start : start + octets * chunks].reshape(octets, chunks, -1, self.config.lanes)
        shifts = np.arange(OCTET_BITS - bits, -1, -bits)
        digits = (cells[:, None] >> shifts[:, None, None, None]) & (2**bits - 1)  # [octet, digit, chunk, vector, lane]
        digits = digits.reshape(octets * len(shifts), *digits.shape[2:])
        used = digits[first : first + command["slices" if side == "a" else "planes"]]
        return used.transpose(0, 2, 1, 3).reshape(len(used), used.shape[2], -1)

    def tile(self, command: dict[str, int], i: int, j: int) -> tuple[np.ndarray, int]:
        """One tile's exact product, and the ones fed for it."""
        size = self.config.slice_bits
        slices, planes = self.operand(command, "a", i, size), self.operand(command, "b", j, 1)
        total = np.zeros((self.config.rows, self.config.columns), dtype=object)
        for s, a in enumerate(slices):
            offset = 2 ** (size - 1) if command["a_offset"] >> s & 1 else 0
            for p, b in enumerate(planes):
                a_place = len(slices) - 1 - s + command["a_below"]
                weight = 2 ** (size * a_place + len(planes) - 1 - p + command["b_below"])
                sign = -1 if command["b_negative"] >> p & 1 else 1
                total += sign * weight * ((a - offset) @ b.T).astype(object)
        return total, len(slices) * int(planes.sum())

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
            busy=self.config.matmul_cycles(*timed(command)),
            step=self.config.array_steps(*shape(command)),
            stall=self.config.stall_cycles(*timed(command)),
            serial_ones=ones,
        )

    def packed(self, command: dict[str, int]) -> Counter:
        """As `matmul`, of a command that follows the program."""
        tiles = list(self.tiles_of_program(command))
        ones = 0
        for place, rows in enumerate(tiles, command["sum_tile"]):
            total = 0 if not command["accumulate"] else self.sums[place]
            for s in range(command["slices"]):
                for k in range(command["chunks"]):
                    term, fed = self.packed_pass(command, rows, s, k)
                    total, ones = total + term, ones + fed
            self.sums[place] = total
            self.written[place] = True
        sizes = command["slices"], command["planes"], command["chunks"]
        cycles, stalls = self.config.packed_cycles([len(rows) for rows in tiles], *sizes)
        steps = len(tiles) * sizes[0] * sizes[1] * sizes[2]
        gated = sum(self.gated(rows) for rows in tiles) * sizes[0] * sizes[1] * sizes[2]
        return Counter(busy=cycles, step=steps, stall=stalls, serial_ones=ones, gated=gated)

    def gated(self, rows: list["ProgramRow"]) -> int:
        """Elements of a tile that no row of its program names."""
        named = {
            (r, c) for row in rows for r, mask in enumerate(row.mask) for c in range(mask.bit_length()) if mask >> c & 1
        }
        return self.config.rows * self.config.columns - len(named)

    def tiles_of_program(self, command: dict[str, int]) -> Iterator[list["ProgramRow"]]:
        place = command["program"]
        for _ in range(command["tiles"]):
            rows: list[ProgramRow] = []
            while not rows or not (rows[-1].last or place == 0):
                rows.append(self.program[place])
                place = (place + 1) % PROGRAM_ROWS
            yield rows

    def packed_pass(self, command: dict[str, int], rows: list["ProgramRow"], s: int, k: int) -> tuple[np.ndarray, int]:
        """One slice of one chunk of one tile, each element by itself, at its weight; and the ones fed."""
        config, size = self.config, self.config.slice_bits
        octet, part = divmod(command["a_first"] + s, config.slices_per_octet)
        cell = command["a_cell"] + octet * command["chunks"] + k
        digits = np.zeros((config.rows, config.columns, config.lanes), dtype=np.int64)
        for row in rows:
            for r, c in product(range(config.rows), range(config.columns)):
                if row.mask[r] >> c & 1:
                    octets = self.a[(cell + row.a_cell[r]) % config.a_cells, r]
                    digits[r, c] = octets >> OCTET_BITS - size * (part + 1) & 2**size - 1
        offset = 2 ** (size - 1) if command["a_offset"] >> s & 1 else 0
        groups = [c - c % config.group_columns + rows[0].choice[c] for c in range(config.columns)]
        total, fed = np.zeros((config.rows, config.columns), dtype=object), 0
        for p in range(command["planes"]):
            octet, plane = divmod(command["b_first"] + p, OCTET_BITS)
            cell = command["b_cell"] + octet * command["chunks"] + k + rows[0].b_cell
            bits = self.b[cell % config.b_cells, groups] >> OCTET_BITS - 1 - plane & 1
            term = ((digits - offset) * bits).sum(axis=2) << command["planes"] - 1 - p
            total += -term.astype(object) if command["b_negative"] >> p & 1 else term.astype(object)
            fed += int(bits.sum())
        return total * 2 ** (size * (command["slices"] - 1 - s + command["a_below"])), fed


@dataclass
class ProgramRow:
    """One row of PROGRAM."""

    last: int
    b_cell: int
    choice: list[int]
    a_cell: list[int]
    mask: list[int]

    @classmethod
    def drawn(cls, rng: random.Random, config: ArrayConfig) -> "ProgramRow":
        """Anything; now and then nothing but the end of a tile."""
        masks = [rng.getrandbits(config.columns) & rng.getrandbits(config.columns) for _ in range(config.rows)]
        return cls(
            last=int(rng.random() < 0.3),
            b_cell=rng.randrange(config.b_cells),
            choice=[rng.randrange(config.group_columns) for _ in range(config.columns)],
            a_cell=[rng.randrange(config.a_cells) for _ in range(config.rows)],
            mask=[0] * config.rows if rng.random() < 0.1 else masks,
        )

    def words(self, config: ArrayConfig) -> list[int]:
        """As WRITE brings them."""
        packed, place = 0, 0
        for name, (_, width) in config.program_fields.items():
            values = getattr(self, name)
            for value in values if isinstance(values, list) else [values]:
                packed |= value << place
                place += width
        return [packed >> WORD_BITS * index & 2**WORD_BITS - 1 for index in range(config.program_words)]


class Timing:
    """In which cycles commands are taken that are offered all the time, and when the last one is done."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.apart = config.drain_cycles + 1  # first pass of a MATMUL to the last one of the MATMUL before
        self.last_end = -self.apart - config.matmul_tail_cycles

    def matmul(self, taken: int, command: dict[str, int]) -> int:
        """The first cycle in which the next command can be taken."""
        config = self.config
        first_pass = command["planes"] * command["chunks"] + command["b_below"]
        first_end = max(taken + SETUP_CYCLES + first_pass, self.last_end + self.apart)
        passes = command["slices"] * command["row_tiles"] * command["col_tiles"]
        end = first_end + (passes - 1) * max(first_pass, config.drain_cycles)
        two_store = end <= self.last_end + config.matmul_tail_cycles
        self.last_end = end
        return end + 1 + (config.matmul_tail_cycles - self.apart if two_store else 0)

    @property
    def idle(self) -> int:
        """The first cycle in which the engine is not busy."""
        return self.last_end + self.config.matmul_tail_cycles + 1


class Bench:
    """Drives all ports, counts all events."""

    def __init__(self, dut, rng: random.Random, config: ArrayConfig) -> None:
        self.dut, self.rng, self.config = dut, rng, config
        self.model = Model(config)
        self.events: Counter = Counter()
        self.writes: dict[str, deque[dict[str, int]]] = {port: deque() for port in WRITE_PORTS}
        self.reads = common.Checker("rows of sums")
        # Looked up once: every cycle asks for them.
        self.counted = {name: getattr(dut, f"events__{name}") for name in EVENTS}
        self.valids = {port: getattr(dut, f"{port}__valid") for port in WRITE_PORTS}
        self.driven = set(WRITE_PORTS)  # whose `valid` may be high

    async def cycle(self) -> None:
        """To the next edge; count what happened in the cycle before it."""
        dut = self.dut
        await RisingEdge(dut.clk)
        for name, event in self.counted.items():
            self.events[name] += common.value(event)
        walking, storing = common.value(dut.walking), common.value(dut.storing)
        assert common.value(dut.busy) == walking | storing
        assert not (common.value(dut.start__ready) and walking)
        for port in WRITE_PORTS:
            self.drive_write(port)

    def drive_write(self, port: str) -> None:
        """The port's next write, at random."""
        if self.writes[port] and self.rng.random() < 0.8:
            for name, value in self.writes[port].popleft().items():
                getattr(self.dut, f"{port}__{name}").value = value
            self.valids[port].value = 1
            self.driven.add(port)
        elif port in self.driven:
            self.valids[port].value = 0
            self.driven.remove(port)

    async def flush(self) -> None:
        """Until the last write is being made, in the cycle that begins."""
        while any(self.writes.values()):
            await self.cycle()

    def fill(self, side: str, cells: range, kind: str = "random") -> None:
        """New contents for some cells; they are written as cycles go by, lane groups together or one by one.

        Of B some chunks are written together.
        """
        store = getattr(self.model, side)
        chosen = slice(cells.start, cells.stop)
        store[chosen] = arrays.numbers(self.rng, store[chosen].shape, OCTET_BITS, kind)
        left = list(cells)
        while left:
            count = self.rng.randint(1, min(len(left), self.at_once(side)))
            together, left = left[:count], left[count:]
            for vector, octets in enumerate(store[together].swapaxes(0, 1)):
                apart = [1 << group for group in range(count * self.config.lane_groups)]
                for groups in apart if self.rng.random() < 0.3 else [sum(apart)]:
                    self.write_octets(side, together[0], vector, groups, octets.reshape(-1))

    def at_once(self, side: str) -> int:
        """Chunks that a write may have."""
        return self.config.b_chunks if side == "b" else 1

    def write_octets(self, side: str, cell: int, vector: int, groups: int, octets: np.ndarray) -> None:
        """One vector's octets in some lane groups; what is not to be written is noise."""
        lanes = self.at_once(side) * self.config.lanes
        octets = np.pad(octets, (0, lanes - len(octets)))
        mask = sum((2**GROUP - 1) << (GROUP * group) for group in range(lanes // GROUP) if groups >> group & 1)
        planes = arrays.row_words((octets >> np.arange(OCTET_BITS)[:, None]) & 1, 1, lanes)
        write = {"cell": cell, "vector": vector, "groups": groups}
        for plane in range(OCTET_BITS):
            write[f"data__{plane}"] = planes[plane] & mask | self.rng.getrandbits(lanes) & ~mask
        self.writes[f"{side}_write"].append(write)

    def write_sums(self, tile: int, value: int) -> None:
        """One value for all sums of a tile; the words' high bits are noise."""
        self.model.sums[tile] = value
        self.model.written[tile] = True
        for row in range(self.config.rows):
            for column in range(self.config.columns):
                noise = self.rng.getrandbits(64 - SUM_BITS) << SUM_BITS
                place = {"row": tile * self.config.rows + row, "word": column}
                self.writes["sum_write"].append(place | {"data": value % 2**SUM_BITS | noise})

    def write_program(self, row: int, content: ProgramRow) -> None:
        self.model.program[row] = content
        for word, bits in enumerate(content.words(self.config)):
            self.writes["program_write"].append({"row": row, "word": word, "data": bits})

    async def start(self, command: dict[str, int]) -> None:
        """Offer the command until it is taken; on return it is taken in the cycle that has just ended."""
        self.dut.start__payload.value = common.pack(Matmul, opcode=int(Opcode.MATMUL), **command)
        self.dut.start__valid.value = 1
        await self.cycle()
        limit = START_LIMIT
        while not common.value(self.dut.start__ready):
            limit -= 1
            assert limit >= 0, "start.ready does not rise"
            await self.cycle()
        self.dut.start__valid.value = 0
        self.dut.start__payload.value = self.rng.getrandbits(256)

    async def finish(self, limit: int, signal: str = "busy") -> None:
        """To the first cycle in which `signal` is low."""
        await self.cycle()
        while common.value(getattr(self.dut, signal)):
            limit -= 1
            assert limit >= 0, f"{signal} does not fall"
            await self.cycle()

    def longest(self, command: dict[str, int]) -> int:
        """Cycles in which a MATMUL must be done, whatever came before."""
        config = self.config
        return config.matmul_cycles(*timed(command)) + config.drain_cycles + 2 * config.matmul_tail_cycles

    async def matmul(self, command: dict[str, int]) -> None:
        """One command from idle to idle, with its events and cycles checked."""
        expected = self.model.packed(command) if command.get("packed") else self.model.matmul(command)
        before = self.events.copy()
        await self.start(command)
        taken = common.cycle()
        await self.finish(expected["busy"] + self.longest(command))
        cycles = expected["busy"] + self.config.matmul_tail_cycles
        assert common.cycle() - taken == cycles + 1, f"{command}: {common.cycle() - taken - 1} cycles, not {cycles}"
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
    """A command that fits the memories; the digits used lie anywhere in its octets."""
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
        for side, count, each in ("a", "slices", config.slices_per_octet), ("b", "planes", OCTET_BITS):
            octets = command.setdefault(f"{side}_octets", rng.randrange(-(-command[count] // each), 3))
            command.setdefault(f"{side}_first", rng.randrange(octets * each - command[count] + 1))
            most = (config.max_slices if side == "a" else octets * each) - command[count]
            command.setdefault(f"{side}_below", rng.choice((0, most, rng.randrange(most + 1))))
        used_a, used_b = cells_used(command)
        tiles = command["row_tiles"] * command["col_tiles"]
        if used_a <= config.a_cells and used_b <= config.b_cells and tiles <= config.sum_tiles:
            break
    places = {
        "a_cell": rng.randrange(config.a_cells - used_a + 1),
        "b_cell": rng.randrange(config.b_cells - used_b + 1),
        "sum_tile": rng.randrange(config.sum_tiles - tiles + 1),
    }
    return places | command


async def prepare(dut, kind: str = "random") -> Bench:
    """Reset, both operand memories filled, all sums written."""
    rng = await common.start(dut)
    config = arrays.config()
    bench = Bench(dut, rng, config)
    dut.start__valid.value = 0
    dut.sum_read__valid.value = 0
    bench.fill("a", range(config.a_cells), kind)
    bench.fill("b", range(config.b_cells), kind)
    for tile in range(config.sum_tiles):
        bench.write_sums(tile, rng.randrange(-(2**40), 2**40))
    await bench.flush()
    return bench


@cocotb.test()
async def every_precision(dut) -> None:
    """All slice counts with all plane counts from any first one on, random signs, one tile."""
    bench = await prepare(dut)
    for slices in range(1, bench.config.max_slices + 1):
        for planes in range(1, MAX_BITS + 1):
            fixed = ONE_TILE | {"slices": slices, "planes": planes, "chunks": bench.rng.choice([1, 2])}
            await bench.matmul(random_command(bench.rng, bench.config, **fixed))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def any_command(dut) -> None:
    """Random tiles, chunks, precisions, signs, accumulation; some cells change just before and just behind it."""
    bench = await prepare(dut)
    for _ in range(25):
        command = random_command(bench.rng, bench.config)
        side = bench.rng.choice("ab")
        cell = command[f"{side}_cell"] + bench.rng.randrange(cells_used(command)["ab".index(side)])
        bench.fill(side, range(cell, cell + 1), bench.rng.choice(arrays.KINDS))
        await bench.flush()
        await bench.cycle()  # the command is taken in the cycle after the last write
        bench.model.matmul(command)
        await bench.start(command)
        await bench.finish(bench.longest(command), "walking")
        await bench.cycle()
        bench.fill(side, range(cell, cell + 1))  # the sums are still being stored
        await bench.flush()
        await bench.finish(bench.longest(command))
        await bench.matmul(random_command(bench.rng, bench.config))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def extremes(dut) -> None:
    """All operand bits set, as many chunks as fit, every combination of signs."""
    bench = await prepare(dut, "ones")
    config = bench.config
    for planes in 1, 8, MAX_BITS:
        for slices in 1, config.max_slices:
            octets = {"a_octets": -(-slices // config.slices_per_octet), "b_octets": -(-planes // OCTET_BITS)}
            chunks = min(config.a_cells // octets["a_octets"], config.b_cells // octets["b_octets"])
            for a_offset in 0, 1, 2**16 - 1:
                for b_negative in 0, 1, 2**16 - 1:
                    fixed = ONE_TILE | octets | {"slices": slices, "planes": planes, "chunks": chunks}
                    signs = {"a_offset": a_offset, "b_negative": b_negative}
                    await bench.matmul(random_command(bench.rng, config, **fixed, **signs))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


async def one_behind_the_other(bench: Bench, commands: list[dict[str, int]]) -> None:
    """Offers all the time, from idle to idle: each command is taken in its cycle, events add up."""
    timing, expected, before = Timing(bench.config), Counter(), bench.events.copy()
    ready = None
    for command in commands:
        expected += bench.model.matmul(command)
        await bench.start(command)
        assert ready in (None, common.cycle()), f"{command}: taken in cycle {common.cycle()}, not {ready}"
        ready = timing.matmul(common.cycle(), command)
    await bench.finish(bench.longest(commands[-1]))
    assert common.cycle() == timing.idle
    assert bench.events - before == +expected


@cocotb.test()
async def back_to_back(dut) -> None:
    """Commands offered all the time."""
    bench = await prepare(dut)
    for _ in range(3):
        await one_behind_the_other(bench, [random_command(bench.rng, bench.config) for _ in range(6)])
    short = {"slices": 1, "chunks": 1}
    for planes in 1, 2, 5, bench.config.drain_cycles - 3, bench.config.drain_cycles:
        fixed = ONE_TILE | short | {"planes": max(1, min(planes, MAX_BITS))}
        await one_behind_the_other(bench, [random_command(bench.rng, bench.config, **fixed) for _ in range(8)])
    one_step = short | {"planes": 1, "row_tiles": 3, "col_tiles": 2}
    await one_behind_the_other(bench, [random_command(bench.rng, bench.config, **one_step) for _ in range(3)])
    await bench.check_sums()


@cocotb.test()
async def same_tile(dut) -> None:
    """Commands offered all the time that add to one tile or replace it, with the shortest passes."""
    bench = await prepare(dut)
    for _ in range(4):
        commands = [
            random_command(
                bench.rng,
                bench.config,
                **ONE_TILE,
                sum_tile=1,
                slices=1,
                chunks=1,
                planes=bench.rng.randrange(1, 4),
                accumulate=int(bench.rng.random() < 0.7),
            )
            for _ in range(8)
        ]
        await one_behind_the_other(bench, commands)
        await bench.read(1, bench.config.rows - 1)
    await bench.check_sums()


@cocotb.test()
async def beside_a_matmul(dut) -> None:
    """While a MATMUL runs: writes of other cells, reads of other sums that wait for the drain."""
    bench = await prepare(dut)
    config = bench.config
    waits = reads = 0
    for _ in range(10):
        fixed = ONE_TILE | {"a_cell": 0, "b_cell": 0, "sum_tile": 0, "chunks": 1}
        command = random_command(bench.rng, config, **fixed)
        expected = bench.model.matmul(command)
        before = bench.events.copy()
        await bench.start(command)
        bench.fill("a", range(config.a_cells // 2, config.a_cells))
        bench.fill("b", range(config.b_cells // 2, config.b_cells))
        await bench.cycle()
        while common.value(dut.busy):
            waits += await bench.read(bench.rng.randrange(1, config.sum_tiles), bench.rng.randrange(config.rows))
            reads += 1
        await bench.cycle()
        assert bench.events - before == +expected
        await bench.flush()
        await bench.cycle()  # the command is taken in the cycle after the last write, at the earliest
        await bench.matmul(random_command(bench.rng, config))
    assert reads > 0 and waits > 0, "no read met the drain"
    await bench.check_sums()


@cocotb.test()
async def behind_a_matmul(dut) -> None:
    """Cells that a MATMUL read in its last steps are written again as early as they may be."""
    bench = await prepare(dut)
    for _ in range(10):
        command = random_command(bench.rng, bench.config, **ONE_TILE | {"a_cell": 0, "b_cell": 0, "chunks": 1})
        bench.model.matmul(command)
        await bench.start(command)
        await bench.finish(bench.longest(command), "walking")
        await bench.cycle()  # the third of the three cycles behind it begins
        bench.fill("a", range(2))
        bench.fill("b", range(2))
        await bench.flush()
        await bench.finish(bench.longest(command))
        await bench.check_sums()


@cocotb.test()
async def reads_between(dut) -> None:
    """The shortest MATMULs all the time: a read waits for the drain of one of them, no longer."""
    bench = await prepare(dut)
    config = bench.config
    one_step = ONE_TILE | {"slices": 1, "planes": 1, "chunks": 1, "b_below": 0}
    command = random_command(bench.rng, config, **one_step, sum_tile=0, accumulate=1)
    packed = common.pack(Matmul, opcode=int(Opcode.MATMUL), **command)
    dut.start__payload.value = packed
    dut.start__valid.value = 1
    waits = [await bench.read(bench.rng.randrange(1, config.sum_tiles), 0) for _ in range(20)]
    assert max(waits) <= config.rows
    dut.start__valid.value = 0
    await bench.finish(bench.longest(command))
    for _ in range(bench.events["step"]):
        bench.model.matmul(command)
    assert bench.events["step"] * config.matmul_cycles(*timed(command)) == bench.events["busy"]
    await bench.check_sums()


@cocotb.test()
async def overflow(dut) -> None:
    """Sums at the ends of 48 bits: the last that fits is silent, one more is flagged and wraps."""
    bench = await prepare(dut, "ones")
    config = bench.config
    one = ONE_TILE | {"slices": 1, "planes": 1, "chunks": 1, "sum_tile": 0, "accumulate": 1, "a_below": 0, "b_below": 0}
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
        await bench.finish(bench.longest(command))
        assert bench.events["overflow"] - before == config.rows, "one flag for each row that overflows"
        await bench.check_sums()


def packed_command(rng: random.Random, config: ArrayConfig, **fixed: int) -> dict[str, int]:
    """A command that follows the program, from any row on."""
    command = random_command(rng, config, b_below=0, **fixed) | {"packed": 1, "program": rng.randrange(PROGRAM_ROWS)}
    tiles = rng.randrange(1, 1 + min(3, config.sum_tiles))
    return command | {"tiles": tiles, "sum_tile": rng.randrange(config.sum_tiles - tiles + 1)}


async def prepare_packed(dut) -> Bench:
    bench = await prepare(dut)
    for row in range(PROGRAM_ROWS):
        bench.write_program(row, ProgramRow.drawn(bench.rng, bench.config))
    await bench.flush()
    await bench.cycle()
    return bench


@cocotb.test()
async def packed(dut) -> None:
    """Any programs, precisions, chunks and signs; ordinary MATMULs before and behind."""
    bench = await prepare_packed(dut)
    for turn in range(40):
        await bench.matmul(packed_command(bench.rng, bench.config))
        if turn % 3 == 0:
            await bench.matmul(random_command(bench.rng, bench.config))
    await bench.check_sums()
    assert bench.events["overflow"] == 0


@cocotb.test()
async def packed_behind_each_other(dut) -> None:
    """Packed and ordinary MATMULs offered all the time, with the shortest passes: sums and counts are right."""
    bench = await prepare_packed(dut)
    one_step = {"slices": 1, "planes": 1, "chunks": 1}
    for _ in range(4):
        expected, before = Counter(), bench.events.copy()
        for _ in range(8):
            is_packed = bench.rng.random() < 0.5
            make, model = (packed_command, bench.model.packed) if is_packed else (random_command, bench.model.matmul)
            command = make(bench.rng, bench.config, **(one_step if bench.rng.random() < 0.6 else {}))
            expected += model(command)
            await bench.start(command)
        await bench.finish(expected["busy"] + 1000)
        assert bench.events - before == +expected
    await bench.check_sums()
