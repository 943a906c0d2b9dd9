"""Bench of `bitfirst_hdl.readout.Readout`: jobs over random partial sums against `contract.numeric`."""

import random

import cocotb
from bitfirst_hdl import config as configs
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import WORD_BITS, Opcode, Read, Rounding, Space
from bitfirst_hdl.ports import Payload
from bitfirst_hdl.readout import Job
from bitfirst_hdl.requantise import Requantiser
from cocotb.triggers import RisingEdge

from . import bench_requantise, common

FETCH_CYCLES = 2  # of the memory model, when it is quick
QUICK = {"idle": 0.0, "stall": 0.0, "wait": 0.0}


class SumMemory:
    """Answers `sum_read` from `rows` (lists of sums), with random waits before `ready` and before the data."""

    def __init__(self, dut, config: configs.ArrayConfig, rng: random.Random) -> None:
        self.dut, self.config, self.rng, self.wait = dut, config, rng, 0.0
        self.rows = [[0] * config.columns for _ in range(config.sum_rows)]
        self.asked = 0
        cocotb.start_soon(self._run())

    def _packed(self, row: int) -> int:
        mask = 2**numeric.SUM_BITS - 1
        return sum((total & mask) << (numeric.SUM_BITS * col) for col, total in enumerate(self.rows[row]))

    async def _run(self) -> None:
        dut, ready, row, delay = self.dut, False, None, 0
        while True:
            await RisingEdge(dut.clk)
            if ready and common.value(dut.sum_read__valid):
                assert row is None, "two requests under way"
                row, delay = common.value(dut.sum_read__row), FETCH_CYCLES
                self.asked += 1
            dut.sum_read__data_valid.value = 0
            if row is not None:
                delay -= 1
                if delay <= 0 and self.rng.random() >= self.wait:
                    dut.sum_read__data_valid.value = 1
                    dut.sum_read__data.value = self._packed(row)
                    row = None
            ready = self.rng.random() >= self.wait
            dut.sum_read__ready.value = int(ready)


def elements(config: configs.ArrayConfig, read: dict[str, int], rows: list[list[int]]) -> list[dict[str, int]]:
    """The elements of one READ in order, as `Element` fields."""
    found = []
    for tile in range(read["count"]):
        for row in range(read["rows"]):
            for col in range(read["cols"]):
                place = tile * config.columns * read["col_stride"] + row * read["row_stride"] + col * read["col_stride"]
                total = rows[(read["first"] + tile) * config.rows + row][col]
                found.append({"total": total, "index": (read["index"] + place) % 2**32, "last": 0})
    return found


def pack_numbers(numbers: list[int], bits: int) -> list[tuple[int, int]]:
    """Words of (data, last)."""
    container = numeric.container_bits(bits)
    each = WORD_BITS // container
    words = []
    for start in range(0, len(numbers), each):
        group = enumerate(numbers[start : start + each])
        words.append(sum((number & (2**container - 1)) << (container * place) for place, number in group))
    return [(word, int(place == len(words) - 1)) for place, word in enumerate(words)]


def random_read(config: configs.ArrayConfig, rng: random.Random, **fixed: int) -> dict[str, int]:
    """A valid READ of SUMS, of about 200 elements at most."""
    bits = fixed.get("bits", rng.choice(bench_requantise.WIDTHS))
    rows, cols = rng.randint(1, config.rows), rng.randint(1, config.columns)
    most = max(1, min(config.sum_tiles, 200 // (rows * cols)))
    count = rng.randint(1, most)
    drawn = {
        "opcode": int(Opcode.READ),
        "space": int(Space.SUMS),
        "bits": bits,
        "rows": rows,
        "cols": cols,
        "first": rng.randint(0, config.sum_tiles - count),
        "count": count,
        "index": rng.randrange(2**32),
        "row_stride": rng.randrange(2**32),
        "col_stride": rng.choice([1, rng.randrange(2**32)]),
    }
    settings = bench_requantise.random_settings(rng, bits=bits)
    return drawn | settings | fixed


async def run(dut, rng, memory: SumMemory, read: dict[str, int], *, idle: float, stall: float, wait: float) -> int:
    """One job: words and events. Returns the cycles from its acceptance to the last word."""
    config = memory.config
    settings = {name: read[name] for name in ("multiplier", "shift", "rounding", "bits", "signed", "key")}
    memory.wait = wait
    used = slice(read["first"] * config.rows, (read["first"] + read["count"]) * config.rows)
    for row in memory.rows[used]:
        row[:] = [bench_requantise.random_total(rng, settings) for _ in row]
    results = [bench_requantise.model(settings, element) for element in elements(config, read, memory.rows)]
    checker = common.Checker("words")
    checker.expect(*pack_numbers([result["value"] for result in results], read["bits"]))
    total = len(checker.expected)

    def decode(word: int) -> tuple[int, int]:
        fields = common.unpack(Payload, word)
        return fields["data"], fields["last"]

    sequence = rng.randrange(2**16)
    job = common.pack(Job, read=common.pack(Read, **read), sequence=sequence)
    driver = common.StreamDriver(dut, "start", rng, idle)
    monitor = common.StreamMonitor(dut, "words", rng, stall, checker, decode)
    driver.send(job)
    counts = {"element": 0, "saturated": 0}
    limit = int((len(results) * 8 + 200) / (1 - idle) / (1 - stall) / (1 - wait))
    busy = []
    for _ in range(limit):
        await RisingEdge(dut.clk)
        for event in counts:
            counts[event] += common.value(getattr(dut, event))
        if common.value(dut.busy):
            busy.append(common.cycle())
        elif checker.count == total:
            break
    checker.finish()
    assert common.value(dut.sequence) == sequence
    assert busy == list(range(driver.accepted[0] + 1, monitor.taken[-1][0] + 1)), "busy from start to last word"
    assert counts == {"element": len(results), "saturated": sum(result["clipped"] for result in results)}
    assert counts["element"] > 0
    driver.stop()
    monitor.stop()
    return monitor.taken[-1][0] - driver.accepted[0]


async def start(dut) -> tuple[random.Random, SumMemory]:
    rng = await common.start(dut)
    return rng, SumMemory(dut, configs.CONFIGS[common.parameters()["config"]], rng)


@cocotb.test()
async def every_width(dut) -> None:
    """Each width, signed and unsigned, both roundings, memory and words quick."""
    rng, memory = await start(dut)
    for bits in bench_requantise.WIDTHS:
        for signed in 0, 1:
            for rounding in Rounding:
                read = random_read(memory.config, rng, bits=bits, signed=signed, rounding=int(rounding))
                await run(dut, rng, memory, read, **QUICK)


@cocotb.test()
async def latency(dut) -> None:
    """A read of full tiles takes one cycle an element, and a fixed time to start and to end."""
    rng, memory = await start(dut)
    config = memory.config
    for bits in 4, 16, 32, 64:
        for count in 1, 2, config.sum_tiles:
            read = random_read(config, rng, bits=bits, rows=config.rows, cols=config.columns, count=count, first=0)
            took = await run(dut, rng, memory, read, **QUICK)
            # ask, fetch, take the row apart | elements, the last of which passes the requantiser | word
            first = 1 + FETCH_CYCLES + 2
            assert took == first + (config.rows * config.columns * count - 1) + Requantiser.latency + 1


@cocotb.test()
async def one_column(dut) -> None:
    """Rows and columns of one, where fetching is slower than sending."""
    rng, memory = await start(dut)
    for rows, cols in ((1, 1), (1, memory.config.columns), (memory.config.rows, 1), (1, 2)):
        read = random_read(memory.config, rng, rows=rows, cols=cols, count=memory.config.sum_tiles, first=0)
        await run(dut, rng, memory, read, **QUICK)


@cocotb.test()
async def back_pressure(dut) -> None:
    """Random reads with idle cycles, a slow memory and stalls."""
    rng, memory = await start(dut)
    for _ in range(60):
        read = random_read(memory.config, rng)
        rates = {name: rng.choice([0, 0.2, 0.7]) for name in ("idle", "stall", "wait")}
        await run(dut, rng, memory, read, **rates)
