"""Bench of `bitfirst_hdl.readout.Readout`: jobs over random partial sums against `contract.numeric`."""

import random
from collections import deque

import cocotb
from bitfirst_hdl import config as configs
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import SIGN_BITS, WORD_BITS, Opcode, Read, Rounding, Space
from bitfirst_hdl.ports import Payload
from bitfirst_hdl.readout import (
    ABREAST,
    AHEAD,
    EXACT_LATENCY,
    MAXIMUM_LATENCY,
    PACK_LATENCY,
    RAW_BITS,
    Job,
    elements_abreast,
)
from bitfirst_hdl.requantise import Requantiser
from cocotb.triggers import RisingEdge

from . import bench_requantise, common

FETCH_CYCLES = 2  # of the memory model, when it is quick
QUICK = {"idle": 0.0, "stall": 0.0, "wait": 0.0}
WIDTHS = [*bench_requantise.WIDTHS, RAW_BITS]
EXACT = {"multiplier": 1, "shift": 0}
WORD_NIBBLES = WORD_BITS // 4


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
        dut, ready, now, asked = self.dut, False, 0, deque()  # asked: (when it can be answered, row)
        while True:
            await RisingEdge(dut.clk)
            now += 1
            if ready and common.value(dut.sum_read__valid):
                asked.append((now + FETCH_CYCLES - 1, common.value(dut.sum_read__row)))
                assert len(asked) <= AHEAD, "more rows asked for than can be held"
                self.asked += 1
            dut.sum_read__data_valid.value = 0
            if asked and asked[0][0] <= now and self.rng.random() >= self.wait:
                dut.sum_read__data_valid.value = 1
                dut.sum_read__data.value = self._packed(asked.popleft()[1])
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


def pack_numbers(numbers: list[int], container: int) -> list[tuple[int, int]]:
    """Words of (data, last)."""
    whole = sum((number & (2**container - 1)) << (container * place) for place, number in enumerate(numbers))
    count = -(-container * len(numbers) // WORD_BITS)
    return [(whole >> (WORD_BITS * place) & (2**WORD_BITS - 1), int(place == count - 1)) for place in range(count)]


def expected_words(read: dict[str, int], totals: list[int], numbers: list[int]) -> list[tuple[int, int]]:
    """Words of (data, last) of a whole job: `numbers` of the sums `totals`."""
    if not read["compare"]:
        return pack_numbers(numbers, numeric.container_bits(read["bits"]))
    signs = [(word, 0) for word, _ in pack_numbers(numbers, SIGN_BITS)]
    return [*signs, (max(map(abs, totals)), 1)]


def model(read: dict[str, int], element: dict[str, int]) -> tuple[int, int]:
    """One element's number, and whether it was clipped."""
    if read["compare"]:
        return int(numeric.compare(element["total"], threshold_of(read))), 0
    if read["bits"] == RAW_BITS:
        return element["total"], 0
    result = bench_requantise.model(read, element)
    return result["value"], result["clipped"]


def threshold_of(read: dict[str, int]) -> int:
    return read["key"] + (read["index"] << 32)


def comparison(rng: random.Random, threshold: int | None = None) -> dict[str, int]:
    """Fields of a READ that compares, with any threshold or with this one."""
    if threshold is None:
        most = numeric.MAX_THRESHOLD
        threshold = rng.choice([0, 1, 2, most - 1, most, rng.randrange(2 ** rng.randrange(1, numeric.SUM_BITS))])
    return {"compare": 1, "bits": SIGN_BITS, "key": threshold % 2**32, "index": threshold >> 32}


def random_read(config: configs.ArrayConfig, rng: random.Random, **fixed: int) -> dict[str, int]:
    """A valid READ of SUMS, of about 200 elements at most."""
    bits = fixed.get("bits", rng.choice(WIDTHS))
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
        "compare": 0,
    }
    settings = bench_requantise.random_settings(rng, bits=bits) | (EXACT if rng.random() < 0.5 else {})
    return drawn | settings | fixed


def random_total(rng: random.Random, read: dict[str, int], settings: dict[str, int]) -> int:
    """A sum that is interesting for the READ: at its threshold, and just beside it, too."""
    if read["compare"] and rng.random() < 0.5:
        near = threshold_of(read) + rng.randrange(-1, 2)
        return max(bench_requantise.LOW, min(bench_requantise.HIGH, rng.choice((-1, 1)) * near))
    return bench_requantise.random_total(rng, settings)


async def run(dut, rng, memory: SumMemory, read: dict[str, int], *, idle: float, stall: float, wait: float) -> int:
    """One job: words and events. Returns the cycles from its acceptance to the last word, without stalled ones."""
    config = memory.config
    settings = {name: read[name] for name in ("multiplier", "shift", "rounding", "bits", "signed", "key")}
    memory.wait = wait
    used = slice(read["first"] * config.rows, (read["first"] + read["count"]) * config.rows)
    for row in memory.rows[used]:
        row[:] = [random_total(rng, read, settings) for _ in row]
    found = elements(config, read, memory.rows)
    results = [model(read, element) for element in found]
    checker = common.Checker("words")
    checker.expect(*expected_words(read, [element["total"] for element in found], [number for number, _ in results]))
    total = len(checker.expected)

    def decode(word: int) -> tuple[int, int]:
        fields = common.unpack(Payload, word)
        return fields["data"], fields["last"]

    sequence = rng.randrange(2**16)
    job = common.pack(Job, read=common.pack(Read, **read), sequence=sequence)
    driver = common.StreamDriver(dut, "start", rng, idle)
    monitor = common.StreamMonitor(dut, "words", rng, stall, checker, decode)
    driver.send(job)
    counts = {"elements": 0, "saturated": 0}
    limit = int((len(results) * 8 + 200) / (1 - idle) / (1 - stall) / (1 - wait))
    busy, stalled = [], 0
    for _ in range(limit):
        await RisingEdge(dut.clk)
        stalled += common.value(dut.words__valid) & ~common.value(dut.words__ready)
        for event in counts:
            counts[event] += common.value(getattr(dut, event))
        if common.value(dut.busy):
            busy.append(common.cycle())
        elif checker.count == total:
            break
    checker.finish()
    assert common.value(dut.sequence) == sequence
    assert busy == list(range(driver.accepted[0] + 1, monitor.taken[-1][0] + 1)), "busy from start to last word"
    assert counts == {"elements": len(results), "saturated": sum(clipped for _, clipped in results)}
    assert counts["elements"] > 0
    driver.stop()
    monitor.stop()
    return monitor.taken[-1][0] - driver.accepted[0] - stalled


async def start(dut) -> tuple[random.Random, SumMemory]:
    rng = await common.start(dut)
    return rng, SumMemory(dut, configs.CONFIGS[common.parameters()["config"]], rng)


@cocotb.test()
async def every_width(dut) -> None:
    """Each width, signed and unsigned, both roundings, sums exact and scaled, memory and words quick."""
    rng, memory = await start(dut)
    for bits in WIDTHS:
        for signed in 0, 1:
            for rounding in Rounding:
                fixed = {"bits": bits, "signed": signed, "rounding": int(rounding)}
                for settings in EXACT, {"multiplier": rng.randrange(2, 2**16)}:
                    await run(dut, rng, memory, random_read(memory.config, rng, **fixed, **settings), **QUICK)


@cocotb.test()
async def latency(dut) -> None:
    """A read, of full tiles or not, takes as many elements a cycle as said, and a fixed time to start and to end."""
    rng, memory = await start(dut)
    config = memory.config
    whole = {"rows": config.rows, "cols": config.columns}
    for bits in 4, 12, 16, 20, 24, 28, 32, 64:
        for settings in EXACT, {"multiplier": 3}:
            for count, shape in (1, whole), (2, whole), (4, {}):
                read = random_read(config, rng, bits=bits, count=count, first=0, **shape, **settings)
                took = await run(dut, rng, memory, read, **QUICK)
                assert took == cycles(config, read), (took, read)


def cycles(config: configs.ArrayConfig, read: dict[str, int]) -> int:
    """From the start of a READ to its last word, which may be one of what the last elements left over."""
    compare = read["compare"]
    nibbles = 1 if compare else numeric.container_bits(read["bits"]) // 4
    exact = compare or (read["multiplier"], read["shift"]) == (1, 0) or read["bits"] == RAW_BITS
    rows, total = [], 0  # cycles of each row; nibbles in the word after the last elements, whole ones too
    for _ in range(read["rows"] * read["count"]):
        left, taken = read["cols"], 0
        while left > 0:
            filled = total % WORD_NIBBLES
            count = min(left, elements_abreast(nibbles, filled)) if exact else 1
            left, total, taken = left - count, filled + count * nibbles, taken + 1
        rows.append(taken)
    asks, takes = [], []  # when each row is asked for, and taken apart
    for index in range(len(rows)):
        asks.append(max(asks[-1] + 1 if asks else 1, takes[index - AHEAD] if index >= AHEAD else 0))
        takes.append(max(asks[-1] + FETCH_CYCLES + 1, takes[-1] + rows[index - 1] if takes else 0))
    numbers = MAXIMUM_LATENCY if compare else EXACT_LATENCY if exact else Requantiser.latency + 1
    words = PACK_LATENCY + (total > WORD_NIBBLES and not compare)
    return takes[-1] + rows[-1] + numbers + words


@cocotb.test()
async def throughput(dut) -> None:
    """Whole rows of exact sums in every width: 4 a cycle, or one word a cycle, less the cycles in which words stall."""
    rng, memory = await start(dut)
    config = memory.config
    whole = {"rows": config.rows, "cols": config.columns, "count": 3, "first": 0}
    for bits in WIDTHS:
        row = config.columns * max(1 / 4, numeric.container_bits(bits) / WORD_BITS)
        for stall in 0, 0.4:
            read = random_read(config, rng, bits=bits, **whole, **EXACT)
            took = await run(dut, rng, memory, read, idle=0, stall=stall, wait=0)
            if row < 2:  # fetches are not hidden, but where words stall
                assert took == cycles(config, read) or (stall and took < cycles(config, read)), (took, read)
            else:
                elements = 1 + FETCH_CYCLES + 1 + config.rows * read["count"] * row
                assert took == elements + EXACT_LATENCY + PACK_LATENCY == cycles(config, read), (took, read)


@cocotb.test()
async def signs(dut) -> None:
    """A read that compares, of full tiles or not: 4 sums a cycle whatever the threshold, at it and beside it."""
    rng, memory = await start(dut)
    config = memory.config
    whole = {"rows": config.rows, "cols": config.columns, "count": 3, "first": 0}
    for threshold in (0, 1, 2, 12345, 2**40 + 1, numeric.MAX_THRESHOLD - 1, numeric.MAX_THRESHOLD):
        fields = comparison(rng, threshold)
        read = random_read(config, rng, **whole) | fields
        took = await run(dut, rng, memory, read, **QUICK)
        assert took == cycles(config, read), (took, read)
        if config.columns >= 2 * ABREAST:  # else fetching is slower
            sums = config.rows * config.columns * read["count"]
            assert took == 1 + FETCH_CYCLES + 1 + sums // ABREAST + MAXIMUM_LATENCY + PACK_LATENCY
        for _ in range(6):
            read = random_read(config, rng) | fields
            took = await run(dut, rng, memory, read, **QUICK)
            assert took == cycles(config, read), (took, read)


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
        read = random_read(memory.config, rng) | (comparison(rng) if rng.random() < 0.3 else {})
        rates = {name: rng.choice([0, 0.2, 0.7]) for name in ("idle", "stall", "wait")}
        await run(dut, rng, memory, read, **rates)
