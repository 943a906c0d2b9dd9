"""Bench of `bitfirst_hdl.top.Core`: whole commands against the golden model."""

import random
from dataclasses import dataclass
from itertools import pairwise

import cocotb
import numpy as np
from bitfirst.command import Command
from bitfirst.golden.commands import GoldenDevice
from bitfirst_hdl import config as configs
from bitfirst_hdl.contract import codec, numeric, packets, registers
from bitfirst_hdl.contract.packets import COMMAND_WORDS, MAX_DATA_WORDS, Opcode, Phase, Space, Status
from bitfirst_hdl.contract.registers import COUNTER_INDEX, EXECUTION_COUNTERS

from . import bench_requantise, common
from .bench_frames import HostEnd, Received, frame

SETTLING = (Opcode.SYNC, Opcode.MARK, Opcode.RESET)  # wait for everything before them
AT_ONCE = ("commands", "faults", "matmuls", "words_written", "phase")  # exact at every moment
PING_CYCLES = 12  # from the last word of a PING to its answer's header, on an idle device
SHAPE = ("slices", "planes", "chunks", "row_tiles", "col_tiles")
WRITE_OVERHEAD_CYCLES = 10  # of a WRITE in the sequencer, besides its data words


@dataclass
class Expected:
    opcode: int
    status: Status
    sequence: int
    data: list[int]
    settled: bool  # nothing was under way


class DeviceBench:
    """Sends commands, executes them on the golden model, and compares every answer."""

    def __init__(self, dut, rng: random.Random, idle: float, tx_stall: float) -> None:
        self.dut, self.rng = dut, rng
        self.config = configs.CONFIGS[common.parameters()["config"]]
        self.golden = GoldenDevice(self.config, common.parameters()["fingerprint"])
        self.rx = common.StreamDriver(dut, "rx", rng, idle)
        self.host = HostEnd(dut, self.config, rng, tx_stall)
        self.expected: list[Expected] = []
        self.statuses: dict[Status, int] = dict.fromkeys(Status, 0)
        self.sequence = 0
        self.settled = True

    def send(self, opcode: Opcode, data: list[int] | np.ndarray = (), **fields: int) -> None:
        self.send_payload(Command(opcode, fields, np.array(data, dtype=np.uint64)).payload())

    def send_payload(self, payload: np.ndarray) -> None:
        opcode = int(payload[0]) & 0xFF
        status, words = self.golden.execute_payload(payload)
        self.settled = opcode in SETTLING or (self.settled and opcode not in (Opcode.MATMUL, Opcode.READ))
        data = [int(word) for word in words]
        self.expected.append(Expected(opcode, status, self.sequence, data, self.settled))
        self.statuses[status] += 1
        self.rx.send(*words_of(frame([int(word) for word in payload], self.sequence)))
        self.sequence = (self.sequence + 1) & 0xFFFF

    async def quiet(self, limit_cycles: int = 40_000) -> None:
        """Wait until everything is answered and the device idle."""
        done = lambda: self.rx.done and len(self.host.frames) == len(self.expected) and common.value(self.dut.idle)  # noqa: E731
        await common.until(self.dut, done, limit_cycles)
        await common.cycles(self.dut, 50)
        assert common.value(self.dut.idle)

    def finish(self) -> None:
        """Every answer is there, right, and in its place: READ among READs, the others among the others."""
        got = self.host.frames
        assert got and len(got) == len(self.expected), f"{len(got)} answers, expected {len(self.expected)}"
        by_sequence = {answer.response["sequence"]: answer for answer in got}
        for expected in self.expected:
            self._compare(expected, by_sequence[expected.sequence])
        for is_read in (True, False):
            order = [f.response["sequence"] for f in got if (f.response["opcode"] == Opcode.READ) == is_read]
            wanted = [e.sequence for e in self.expected if (e.opcode == Opcode.READ) == is_read]
            assert order == wanted
        places = {answer.response["sequence"]: place for place, answer in enumerate(got)}
        for number, expected in enumerate(self.expected):
            if expected.opcode in SETTLING:
                assert places[expected.sequence] == number, "before something that it had to wait for"

    @staticmethod
    def _compare(expected: Expected, answer: Received) -> None:
        response = answer.response
        got = response["opcode"], response["status"]
        assert got == (expected.opcode, expected.status), f"{got}, expected {expected}"
        if expected.opcode in (Opcode.MARK, Opcode.COUNTERS) and expected.data:
            names = EXECUTION_COUNTERS if expected.settled else AT_ONCE
            places = [COUNTER_INDEX[name] for name in names]
            counted = {name: answer.data[place] for name, place in zip(names, places, strict=True)}
            wanted = {name: expected.data[place] for name, place in zip(names, places, strict=True)}
            assert counted == wanted, f"counters {counted}, expected {wanted} in answer {expected.sequence}"
            assert len(answer.data) == len(expected.data)
        else:
            assert answer.data == expected.data, f"data of {response}: {answer.data}, expected {expected.data}"


async def start(dut, idle: float = 0.0, tx_stall: float = 0.0) -> DeviceBench:
    """A device after reset with something in every memory (they keep what they hold)."""
    rng = await common.start(dut, rx__valid=0, tx__ready=0)
    bench = DeviceBench(dut, rng, idle=0.0, tx_stall=0.0)
    maker = CommandMaker(bench.config, rng)
    for space, depth, words in maker.spaces:
        fields = {"space": space, "rows": depth, "words": words}
        bench.send(Opcode.WRITE, maker.data(depth * words, fields), **fields)
    await bench.quiet()
    bench.finish()
    bench.expected.clear()
    bench.host.frames.clear()
    bench.rx.idle, bench.host.monitor.stall = idle, tx_stall
    return bench


def words_of(stream: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(stream, dtype="<u8")]


class CommandMaker:
    """Random commands; MATMULs and WRITEs like to meet in the same few rows."""

    def __init__(self, config: configs.ArrayConfig, rng: random.Random) -> None:
        self.config, self.rng = config, rng
        self.spaces = (
            (Space.A, config.a_depth, config.a_row_words),
            (Space.B, config.b_depth, config.b_row_words),
            (Space.SUMS, config.sum_rows, config.columns),
        )

    def command(self) -> tuple[Opcode, dict[str, int], int]:
        """A valid one: opcode, fields, number of data words."""
        makers = [self.write, self.matmul, self.read, self.registers, self.plain]
        return self.rng.choices(makers, (30, 25, 20, 5, 12))[0]()

    def _range(self, depth: int, most: int) -> tuple[int, int]:
        """First and count of a range in 0 .. depth - 1; the last row is a favourite."""
        count = self.rng.randint(1, min(depth, most))
        first = self.rng.choice((depth - count, self.rng.randint(0, depth - count), self.rng.randint(0, depth - count)))
        return first, count

    def write(self) -> tuple[Opcode, dict[str, int], int]:
        space, depth, width = self.rng.choice(self.spaces)
        row, rows = self._range(depth, self.rng.choice((2, 16, 64)))
        word, words = self._range(width, width)
        fields = {"space": space, "row": row, "rows": rows, "word": word, "words": words}
        return Opcode.WRITE, fields, rows * words

    def matmul(self) -> tuple[Opcode, dict[str, int], int]:
        config, rng = self.config, self.rng
        slices, planes = rng.randint(1, config.max_slices), rng.randint(1, rng.choice((4, 16)))
        chunks = rng.randint(1, min(config.a_depth // slices, config.b_depth // planes))
        row_tiles = rng.randint(1, min(config.a_depth // slices // chunks, config.sum_tiles))
        col_tiles = rng.randint(1, min(config.b_depth // planes // chunks, config.sum_tiles // row_tiles))
        sizes = {"slices": slices, "planes": planes, "chunks": chunks, "row_tiles": row_tiles, "col_tiles": col_tiles}
        places = {
            "a_row": self._first(config.a_depth, row_tiles * slices * chunks),
            "b_row": self._first(config.b_depth, col_tiles * planes * chunks),
            "sum_tile": self._first(config.sum_tiles, row_tiles * col_tiles),
        }
        signs = {"a_offset": rng.getrandbits(slices), "b_negative": rng.getrandbits(planes)}
        return Opcode.MATMUL, sizes | places | signs | {"accumulate": rng.randint(0, 1)}, 0

    def _first(self, depth: int, count: int) -> int:
        return self.rng.choice((0, depth - count, self.rng.randint(0, depth - count)))

    def read(self) -> tuple[Opcode, dict[str, int], int]:
        config, rng = self.config, self.rng
        bits = rng.choice((64, 8, 16, 32, rng.randint(2, 32)))
        fields = bench_requantise.random_settings(rng, bits=bits)
        first, count = self._range(config.sum_tiles, config.sum_tiles)
        fields |= {"space": Space.SUMS, "first": first, "count": count}
        fields |= {"rows": rng.randint(1, config.rows), "cols": rng.randint(1, config.columns)}
        fields |= {name: rng.getrandbits(32) for name in ("index", "row_stride", "col_stride")}
        return Opcode.READ, fields, 0

    def registers(self) -> tuple[Opcode, dict[str, int], int]:
        first, count = self._range(registers.IDENTITY_WORDS, registers.IDENTITY_WORDS)
        return Opcode.READ, {"space": Space.REGISTERS, "first": first, "count": count}, 0

    def plain(self) -> tuple[Opcode, dict[str, int], int]:
        opcode = self.rng.choices(
            (Opcode.MARK, Opcode.COUNTERS, Opcode.SYNC, Opcode.PING, Opcode.RESET), (4, 4, 2, 4, 1)
        )[0]
        fields = {"phase": int(self.rng.choice(list(Phase)))} if opcode == Opcode.MARK else {}
        return opcode, fields | ({"token": self.rng.getrandbits(64)} if opcode == Opcode.PING else {}), 0

    def payload(self) -> np.ndarray:
        """A valid command with its data."""
        opcode, fields, words = self.command()
        return Command(opcode, fields, self.data(words, fields)).payload()

    def data(self, words: int, fields: dict[str, int]) -> np.ndarray:
        sums = fields.get("space") == Space.SUMS
        bits = self.rng.choice((12, 40, numeric.SUM_BITS)) if sums else 64
        words = [self.rng.getrandbits(bits) - (sums << (bits - 1)) for _ in range(words)]
        return np.array([word % 2**64 for word in words], dtype=np.uint64)

    def wrong_payload(self) -> np.ndarray:
        """A command that differs from a valid one in one place; it may still be valid."""
        rng = self.rng
        opcode, fields, words = self.command()
        kind = rng.choice(("opcode", "short", "data", "reserved", "space", "field", "field", "field"))
        if kind in ("space", "field"):
            names = ["space"] if kind == "space" and "space" in fields else sorted(fields)
            if names:
                name = rng.choice(names)
                fields[name] = self._other(packets.COMMANDS[opcode], name, fields[name])
            if opcode == Opcode.WRITE and rng.random() < 0.8:
                words = fields["rows"] * fields["words"]
        if kind == "data":
            words = max(0, words + rng.choice((-1, 1, 40)))
        payload = Command(opcode, fields, self.data(min(words, MAX_DATA_WORDS), fields)).payload()
        if kind == "opcode":
            payload[0] = int(payload[0]) & ~0xFF | rng.choice((0, 9, 255, rng.randrange(9, 256)))
        if kind == "short":
            payload = payload[: rng.randint(1, COMMAND_WORDS - 1)]
        if kind == "reserved":
            places = [place for name, place in codec.fields(packets.COMMANDS[opcode]).items() if "reserved" in name]
            offset, width = rng.choice(places)
            word, bit = divmod(offset + rng.randrange(width), 64)
            payload[word] ^= np.uint64(1 << bit)
        return payload

    def _other(self, struct: type, name: str, value: int) -> int:
        """Another value of the field: a neighbour, nothing, the largest, anything."""
        top = 2 ** codec.fields(struct)[name][1] - 1
        return (
            self.rng.choice((0, min(top, value + 1), max(0, value - 1), 1, 17, 64, 128, top, self.rng.randint(0, top)))
            & top
        )


async def random_run(dut, count: int, idle: float, tx_stall: float) -> None:
    bench = await start(dut, idle, tx_stall)
    maker = CommandMaker(bench.config, bench.rng)
    for number in range(count):
        wrong = bench.rng.random() < 0.35
        bench.send_payload(maker.wrong_payload() if wrong else maker.payload())
        if number % 40 == 39:
            bench.send(Opcode.MARK, phase=int(Phase.OTHER))
            await bench.quiet()
    for first in range(0, bench.config.sum_tiles, 4):
        bench.send(
            Opcode.READ,
            space=Space.SUMS,
            bits=64,
            first=first,
            count=4,
            rows=bench.config.rows,
            cols=bench.config.columns,
        )
    bench.send(Opcode.MARK, phase=int(Phase.OTHER))
    await bench.quiet()
    bench.finish()
    least = {status: 3 for status in Status if status not in (Status.BAD_FRAME, Status.BAD_SEQUENCE)}
    assert all(bench.statuses[status] >= number for status, number in least.items()), bench.statuses
    counters = bench.host.frames[-1].data
    assert counters[COUNTER_INDEX["commands"]] > 0


@cocotb.test()
async def random_commands(dut) -> None:
    """Commands of all kinds, a third of them wrong, as fast as they go."""
    await random_run(dut, 400, idle=0.0, tx_stall=0.0)


@cocotb.test()
async def random_commands_slow_link(dut) -> None:
    """The same with idle cycles and back-pressure."""
    await random_run(dut, 200, idle=0.3, tx_stall=0.6)


def big_matmul(config: configs.ArrayConfig, half: int, sum_tile: int) -> dict[str, int]:
    """A MATMUL that reads all of one half of A and B."""
    chunks = config.a_depth // 2
    planes = config.b_depth // 2 // chunks
    return {
        "slices": 1,
        "planes": planes,
        "chunks": chunks,
        "row_tiles": 1,
        "col_tiles": 1,
        "a_row": half * config.a_depth // 2,
        "b_row": half * config.b_depth // 2,
        "sum_tile": sum_tile,
    }


def write_half(bench: DeviceBench, maker: CommandMaker, half: int) -> None:
    for space, depth, words in maker.spaces[:2]:
        fields = {"space": space, "row": half * depth // 2, "rows": depth // 2, "words": words}
        bench.send(Opcode.WRITE, maker.data(depth // 2 * words, fields), **fields)


@cocotb.test()
async def overlap(dut) -> None:
    """W0 M0 W1 R0 M1 W0 R1 M0 ...: loading, computing and reading at the same time, and still exact."""
    bench = await start(dut)
    config, maker = bench.config, CommandMaker(bench.config, bench.rng)
    rounds = 12
    bench.send(Opcode.RESET)
    for number in range(rounds):
        half = number % 2
        write_half(bench, maker, half)
        if number:
            bench.send(
                Opcode.READ, space=Space.SUMS, bits=64, first=1 - half, count=1, rows=config.rows, cols=config.columns
            )
        bench.send(Opcode.MATMUL, **big_matmul(config, half, sum_tile=half))
    bench.send(Opcode.MARK, phase=int(Phase.FORWARD))
    await bench.quiet()
    bench.finish()
    counters = dict(zip((counter.name for counter in registers.COUNTERS), bench.host.frames[-1].data, strict=True))
    assert counters["matmuls"] == rounds
    words_in = counters["words_written"] + counters["commands"] * (COMMAND_WORDS + 2)
    one_after_another = words_in + counters["matmul_cycles"] + counters["elements_read"]
    assert counters["cycles"] < 0.75 * one_after_another, (counters["cycles"], one_after_another)
    reads = [place for place, answer in enumerate(bench.host.frames) if answer.response["opcode"] == Opcode.READ]
    assert any(answer.response["sequence"] != place for place, answer in enumerate(bench.host.frames)), "none overtook"
    assert len(reads) == rounds - 1


@cocotb.test()
async def interlocks(dut) -> None:
    """A WRITE to rows that the running MATMUL reads waits for its end; one beside them does not."""
    bench = await start(dut)
    config, maker = bench.config, CommandMaker(bench.config, bench.rng)
    write_half(bench, maker, 0)
    write_half(bench, maker, 1)
    for space, depth, words in maker.spaces[:2]:
        for row, waits in ((0, True), (depth // 2 - 1, True), (depth // 2, False), (depth - 1, False)):
            await bench.quiet()
            before = len(bench.host.frames)
            bench.send(Opcode.MATMUL, **big_matmul(config, 0, sum_tile=0))
            fields = {"space": space, "row": row, "rows": 1, "words": words}
            bench.send(Opcode.WRITE, maker.data(words, fields), **fields)
            await bench.quiet()
            matmul, write = bench.host.frames[before:]
            length = config.matmul_cycles(*(big_matmul(config, 0, 0)[name] for name in SHAPE))
            assert (write.cycle - matmul.cycle > length / 2) == waits, (space, row, write.cycle - matmul.cycle, length)
    whole = {"rows": config.rows, "cols": config.columns, "bits": 64}
    bench.send(Opcode.READ, space=Space.SUMS, count=config.sum_tiles, **whole)
    bench.send(Opcode.MATMUL, **big_matmul(config, 0, sum_tile=config.sum_tiles - 1))
    bench.send(Opcode.READ, space=Space.SUMS, count=config.sum_tiles, **whole)
    bench.send(
        Opcode.WRITE, maker.data(1, {"space": Space.SUMS}), space=Space.SUMS, row=config.sum_rows - 1, rows=1, words=1
    )
    bench.send(Opcode.READ, space=Space.SUMS, count=config.sum_tiles, **whole)
    await bench.quiet()
    bench.finish()


@cocotb.test()
async def host_takes_nothing(dut) -> None:
    """READs, PINGs and acknowledgements pile up behind a link that takes nothing; then all come."""
    bench = await start(dut, tx_stall=1.0)
    config, maker = bench.config, CommandMaker(bench.config, bench.rng)
    for number in range(12):
        write_half(bench, maker, number % 2)
        bench.send(Opcode.MATMUL, **big_matmul(config, number % 2, sum_tile=0))
        bench.send(
            Opcode.READ,
            space=Space.SUMS,
            bits=64,
            first=0,
            count=config.sum_tiles,
            rows=config.rows,
            cols=config.columns,
        )
        bench.send(Opcode.PING, token=number)
    await common.cycles(dut, 6000)
    assert not bench.host.frames
    bench.host.monitor.stall = 0.0
    await bench.quiet()
    bench.finish()


@cocotb.test()
async def speed(dut) -> None:
    """Latency of PING; WRITEs one word a cycle with a fixed overhead; `idle` and the arrival counters."""
    bench = await start(dut)
    await common.cycles(dut, 5)
    assert common.value(dut.idle)
    bench.send(Opcode.PING, token=5)
    await bench.quiet()
    first_unit = bench.host.monitor.taken[-4][0]
    assert first_unit - bench.rx.accepted[-1] == PING_CYCLES, first_unit - bench.rx.accepted[-1]
    maker, rows = CommandMaker(bench.config, bench.rng), bench.config.b_depth
    fields = {"space": Space.B, "rows": rows, "words": bench.config.b_row_words}
    count, words = 20, rows * bench.config.b_row_words
    for _ in range(count):
        bench.send(Opcode.WRITE, maker.data(words, fields), **fields)
    await bench.quiet()
    writes = bench.host.frames[1:]
    spacing = [later.cycle - earlier.cycle for earlier, later in pairwise(writes[5:])]
    assert set(spacing) == {words + WRITE_OVERHEAD_CYCLES}, spacing
    bench.send(Opcode.RESET)
    await bench.quiet()
    before = len(bench.rx.accepted), len(bench.host.monitor.taken)
    waited = 300
    await common.cycles(dut, waited)
    bench.rx.send(*words_of(frame([0], bench.sequence - 1)))  # repeated: answered by the link
    bad = bytearray(frame([0], bench.sequence))
    bad[8] ^= 1
    bench.rx.send(*words_of(bytes(bad)))
    await common.until(dut, lambda: len(bench.host.frames) == len(bench.expected) + 2, 200)
    bench.host.frames = [answer for answer in bench.host.frames if answer.response["opcode"] != Opcode.LINK]
    bench.send(Opcode.COUNTERS)
    await bench.quiet()
    counters = dict(zip((counter.name for counter in registers.COUNTERS), bench.host.frames[-1].data, strict=True))
    command_words = COMMAND_WORDS + 2
    assert counters["rx_words"] == len(bench.rx.accepted) - before[0] == 2 * 3 + command_words
    assert counters["tx_words"] == len(bench.host.monitor.taken) - before[1] - 3 - len(registers.COUNTERS) + 3
    assert counters["frame_errors"] == counters["sequence_errors"] == 1
    assert waited < counters["starved_cycles"] < counters["cycles"] < waited + 250
    bench.finish()
