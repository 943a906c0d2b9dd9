"""Bench of `bitfirst_hdl.top.Core`: whole commands against the golden model."""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import cocotb
import numpy as np
from bitfirst.command import Command, is_quiet
from bitfirst.golden.commands import GoldenDevice
from bitfirst.golden.loads import Place, load_cost
from bitfirst_hdl import config as configs
from bitfirst_hdl.config import MAX_BITS
from bitfirst_hdl.contract import codec, numeric, packets, registers
from bitfirst_hdl.contract.packets import (
    COMMAND_WORDS,
    GROUP,
    LIST_ENTRIES,
    MAX_DATA_WORDS,
    OCTET_BITS,
    PROGRAM_ROWS,
    SIGN_BITS,
    STATE_WORDS,
    STORE_WORD_WORDS,
    TENSOR_SLOTS,
    Opcode,
    Phase,
    Space,
    Status,
    Target,
)
from bitfirst_hdl.contract.registers import COUNTER_INDEX, EXECUTION_COUNTERS

from . import bench_gather, bench_readout, bench_requantise, bench_update, common
from .bench_frames import HostEnd, Received, frame

SETTLING = (Opcode.SYNC, Opcode.MARK, Opcode.RESET)  # wait for everything before them
UNDER_WAY = (Opcode.MATMUL, Opcode.READ, Opcode.LOAD)  # go on after their answer, or answer late
AT_ONCE = ("commands", "faults", "matmuls", "loads", "words_written", "phase")  # exact at every moment
PING_CYCLES = 12  # from the last word of a PING to its answer's header, on an idle device
FIRST_HALF, SECOND_HALF = 0, 1  # slots of tensors that take half of the store each
SHAPE = ("slices", "planes", "chunks", "row_tiles", "col_tiles")
WRITE_OVERHEAD_CYCLES = 10  # of a WRITE in the sequencer, besides its data words
UPDATE_OVERHEAD_CYCLES = 11  # of an UPDATE or WEIGHTS, besides `update_cycles` and data words
READ_OVERHEAD_CYCLES = 9  # of a READ of the store, besides its data words
DATA_CYCLES = 2  # from an answer to its first data word, on an idle link


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
        self.config = configs.ArrayConfig(**common.parameters()["config"])
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
        self.settled = opcode in SETTLING or (self.settled and opcode not in UNDER_WAY)
        data = [int(word) for word in words]
        if status != Status.OK or not is_quiet(payload):
            self.expected.append(Expected(opcode, status, self.sequence, data, self.settled))
        self.statuses[status] += 1
        self.rx.send(*words_of(frame([int(word) for word in payload], self.sequence)))
        self.sequence = (self.sequence + 1) & 0xFFFF

    async def quiet(self, limit_cycles: int = 200_000) -> None:
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
        latest = -1  # place of the last answer to any command so far
        for expected in self.expected:
            place = places[expected.sequence]
            assert expected.opcode not in SETTLING or place > latest, "before something that it had to wait for"
            latest = max(latest, place)

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
    fill(bench)
    await bench.quiet()
    bench.finish()
    bench.expected.clear()
    bench.host.frames.clear()
    bench.rx.idle, bench.host.monitor.stall = idle, tx_stall
    return bench


def fill(bench: DeviceBench) -> None:
    """Noise in the store and the sums; no tensor but those of `slots` 0 and 1; noise in all cells."""
    maker, config = CommandMaker(bench), bench.config
    for space, depth, words in maker.spaces:
        most = MAX_DATA_WORDS // words
        for row in range(0, depth, most):
            maker.write_rows(space, row, min(most, depth - row))
    for slot in range(TENSOR_SLOTS):
        bench.send(Opcode.TENSOR, slot=slot)
    maker.describe(FIRST_HALF, first=0)
    maker.describe(SECOND_HALF, first=config.store_words // 2)
    for half in range(2):
        for target in Target:
            bench.send(Opcode.LOAD, **load_half(config, target, half))


def load_half(config: configs.ArrayConfig, target: Target, half: int, slot: int = 0) -> dict[str, int]:
    """A LOAD of one tile's vectors that fills half of the target's cells."""
    vectors, cells = (config.columns, config.b_cells) if target == Target.B else (config.rows, config.a_cells)
    lanes = cells // 2 * config.lanes
    places = {"positions": vectors, "x_count": vectors, "y_count": 1, "x_step": 1, "run": lanes, "taps": lanes}
    return places | {"slot": slot, "target": int(target), "cell": half * cells // 2}


def words_of(stream: bytes) -> list[int]:
    return [int(word) for word in np.frombuffer(stream, dtype="<u8")]


class CommandMaker:
    """Random commands for the device as the golden model has it at that moment."""

    def __init__(self, bench: DeviceBench) -> None:
        self.bench, self.golden = bench, bench.golden
        self.config, self.rng = bench.config, bench.rng
        self.spaces = (
            (Space.STORE, self.config.store_words, STORE_WORD_WORDS),
            (Space.LIST, LIST_ENTRIES, 1),
            (Space.SUMS, self.config.sum_rows, self.config.columns),
            (Space.PROGRAM, PROGRAM_ROWS, self.config.program_words),
        )

    def write_rows(self, space: Space, row: int, rows: int) -> None:
        words = dict((place, width) for place, _, width in self.spaces)[space]
        fields = {"space": int(space), "row": row, "rows": rows, "words": words}
        self.bench.send(Opcode.WRITE, self.data(rows * words, fields), **fields)

    def describe(self, slot: int, first: int) -> None:
        """An image of one row that takes half of the store, in 8 bits."""
        self.bench.send(Opcode.TENSOR, slot=slot, bits=8, word=first, n=1, h=1, w=self.config.store_words // 2, c=GROUP)

    def command(self) -> tuple[Opcode, dict[str, int], int]:
        """A valid one, but for TENSORs that overlap: opcode, fields, number of data words."""
        makers = [self.write, self.tensor, self.load, self.matmul, self.read, self.registers, self.plain]
        makers += [self.update, self.weights, self.stored]
        return self.rng.choices(makers, (20, 10, 25, 25, 20, 5, 12, 5, 5, 3))[0]()

    def _range(self, depth: int, most: int) -> tuple[int, int]:
        """First and count of a range in 0 .. depth - 1; the last row is a favourite."""
        count = self.rng.randint(1, min(depth, most))
        first = self.rng.choice((depth - count, self.rng.randint(0, depth - count), self.rng.randint(0, depth - count)))
        return first, count

    def write(self) -> tuple[Opcode, dict[str, int], int]:
        space, depth, width = self.rng.choice(self.spaces)
        row, rows = self._range(depth, self.rng.choice((2, 16, 64)))
        word, words = self._range(width, width)
        fields = {"space": int(space), "row": row, "rows": rows, "word": word, "words": words}
        return Opcode.WRITE, fields, rows * words

    def tensor(self) -> tuple[Opcode, dict[str, int], int]:
        """Mostly in the slot's own part of the store."""
        rng = self.rng
        slot, part = rng.randrange(TENSOR_SLOTS), self.config.store_words // TENSOR_SLOTS
        shape = {"n": rng.randint(1, 3), "h": rng.randint(1, 5), "w": rng.randint(1, 5), "c": rng.randint(1, 20)}
        fields = {"slot": slot, "bits": rng.randint(0 if rng.random() < 0.2 else 1, MAX_BITS), **shape}
        words = -(-fields["bits"] // OCTET_BITS) * -(-shape["n"] * shape["h"] * shape["w"] * shape["c"] // GROUP)
        anywhere = rng.randint(0, self.config.store_words - min(words, self.config.store_words))
        fields["word"] = anywhere if rng.random() < 0.2 else min(slot * part, anywhere)
        fields |= {"signed": rng.randrange(2), "exponent": rng.getrandbits(16), "split": rng.getrandbits(8)}
        return Opcode.TENSOR, fields, 0

    def load(self) -> tuple[Opcode, dict[str, int], int]:
        if not self.golden.tensors:
            return self.tensor()
        rng = self.rng
        slot = rng.choice(sorted(self.golden.tensors))
        place = place_fields(self.golden.tensors[slot])
        kind = rng.choice(("forward", "backward", "near", "far"))
        if kind in ("forward", "backward"):
            wanted = bench_gather.windows(rng, place, 1 if kind == "forward" else -1)
        else:
            wanted = bench_gather.anything(rng, 4 if kind == "near" else 16)
        wanted["run"], wanted["taps"] = min(wanted["run"], 2**16 - 1), min(wanted["taps"], 300)
        fields = bench_gather.part(rng, self.config, wanted, place) | {"slot": slot, "quiet": rng.getrandbits(1)}
        widths = {name: width for name, (_, width) in codec.fields(packets.Load).items()}
        return Opcode.LOAD, {name: value % 2 ** widths[name] for name, value in fields.items()}, 0

    def matmul(self) -> tuple[Opcode, dict[str, int], int]:
        config, rng = self.config, self.rng
        a_octets, b_octets = rng.choice((1, 1, 2)), rng.choice((1, 1, 2))
        a_most, b_most = a_octets * config.slices_per_octet, b_octets * OCTET_BITS
        slices, planes = rng.randint(1, a_most), rng.randint(1, rng.choice((4, b_most)))
        chunks = rng.randint(1, min(config.a_cells // a_octets, config.b_cells // b_octets))
        row_tiles = rng.randint(1, min(config.a_cells // a_octets // chunks, config.sum_tiles))
        col_tiles = rng.randint(1, min(config.b_cells // b_octets // chunks, config.sum_tiles // row_tiles))
        sizes = {"slices": slices, "planes": planes, "chunks": chunks, "row_tiles": row_tiles, "col_tiles": col_tiles}
        places = {
            "a_octets": a_octets,
            "b_octets": b_octets,
            "a_first": self._first(a_most, slices),
            "b_first": self._first(b_most, planes),
            "a_cell": self._first(config.a_cells, row_tiles * a_octets * chunks),
            "b_cell": self._first(config.b_cells, col_tiles * b_octets * chunks),
            "sum_tile": self._first(config.sum_tiles, row_tiles * col_tiles),
        }
        places |= {
            "a_below": self._first(config.max_slices, slices),
            "b_below": self._first(b_most, planes),
        }
        signs = {"a_offset": rng.getrandbits(slices), "b_negative": rng.getrandbits(planes)}
        flags = {"accumulate": rng.randint(0, 1), "quiet": rng.randint(0, 1)}
        if rng.random() < 0.3:
            places |= self.program(a_octets, b_octets)
            sizes |= {name: places.pop(name) for name in ("chunks", "row_tiles", "col_tiles")}
        return Opcode.MATMUL, sizes | places | signs | flags, 0

    def program(self, a_octets: int, b_octets: int) -> dict[str, int]:
        """What a packed MATMUL has besides, and otherwise: its program may lead to any cell, so it names them all."""
        config, chunks = self.config, self.rng.choice((1, 2, 4))
        tiles = self.rng.randint(1, min(4, config.sum_tiles))
        places = {"sum_tile": self._first(config.sum_tiles, tiles), "program": self.rng.randrange(PROGRAM_ROWS)}
        rows, columns = config.a_cells // (a_octets * chunks), config.b_cells // (b_octets * chunks)
        cells = {"a_cell": 0, "b_cell": 0, "chunks": chunks, "row_tiles": rows, "col_tiles": columns}
        return {"packed": 1, "b_below": 0, "tiles": tiles} | places | cells

    def _first(self, depth: int, count: int) -> int:
        return self.rng.choice((0, depth - count, self.rng.randint(0, depth - count)))

    def read(self) -> tuple[Opcode, dict[str, int], int]:
        config, rng = self.config, self.rng
        bits = rng.choice((64, 8, 16, 24, 32, rng.randint(2, 32)))
        fields = bench_requantise.random_settings(rng, bits=bits)
        if rng.random() < 0.5:
            fields |= bench_readout.EXACT
        first, count = self._range(config.sum_tiles, config.sum_tiles)
        fields |= {"space": int(Space.SUMS), "first": first, "count": count}
        fields |= {"rows": rng.randint(1, config.rows), "cols": rng.randint(1, config.columns)}
        fields |= {name: rng.getrandbits(32) for name in ("index", "row_stride", "col_stride")}
        if rng.random() < 0.3:
            fields |= bench_readout.comparison(rng)
        return Opcode.READ, fields, 0

    def update(self) -> tuple[Opcode, dict[str, int], int]:
        job = bench_update.job_of(self.rng, self.config, bench_update.Task.UPDATE, self.rng.randint(1, 6))
        names = {"state": "state", "signs": "other", "groups": "groups", "decay": "decay", "decay_shift": "decay_shift"}
        names |= {"rate": "rate", "rate_shift": "amount", "coefficient": "coefficient"}
        return Opcode.UPDATE, {name: job[key] for name, key in names.items()}, 0

    def weights(self) -> tuple[Opcode, dict[str, int], int]:
        job = bench_update.job_of(self.rng, self.config, bench_update.Task.WEIGHTS, self.rng.randint(1, 6))
        names = {"state": "state", "word": "other", "groups": "groups", "shift": "amount"}
        return Opcode.WEIGHTS, {name: job[key] for name, key in names.items()} | {"octets": 1 + job["two_octets"]}, 0

    def stored(self) -> tuple[Opcode, dict[str, int], int]:
        first, count = self._range(self.config.store_words, self.rng.choice((2, 40)))
        return Opcode.READ, {"space": int(Space.STORE), "first": first, "count": count}, 0

    def registers(self) -> tuple[Opcode, dict[str, int], int]:
        first, count = self._range(registers.IDENTITY_WORDS, registers.IDENTITY_WORDS)
        return Opcode.READ, {"space": int(Space.REGISTERS), "first": first, "count": count}, 0

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
        if kind == "space":
            opcode, fields, words = rng.choice((self.write, self.read))()
        if kind in ("space", "field"):
            names = ["space"] if kind == "space" else sorted(fields)
            if names:
                name = rng.choice(names)
                fields[name] = self._other(packets.COMMANDS[opcode], name, fields[name])
            if opcode == Opcode.WRITE and rng.random() < 0.8:
                words = fields["rows"] * fields["words"]
        if kind == "data":
            words = max(0, words + rng.choice((-1, 1, 40)))
        payload = Command(opcode, fields, self.data(min(words, MAX_DATA_WORDS), fields)).payload()
        if kind == "opcode":
            payload[0] = int(payload[0]) & ~0xFF | rng.choice((0, 11, 255, rng.randrange(11, 256)))
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
    maker = CommandMaker(bench)
    for number in range(count):
        wrong = bench.rng.random() < 0.35
        bench.send_payload(maker.wrong_payload() if wrong else maker.payload())
        if number % 40 == 39:
            bench.send(Opcode.MARK, phase=int(Phase.OTHER))
            await bench.quiet()
    for first in range(0, bench.config.sum_tiles, 4):
        bench.send(Opcode.READ, **read_tile(bench.config, first, count=4))
    bench.send(Opcode.MARK, phase=int(Phase.OTHER))
    await bench.quiet()
    bench.finish()
    of_commands = set(Status) - {Status.BAD_FRAME, Status.BAD_SEQUENCE, Status.STUCK}
    assert all(bench.statuses[status] for status in of_commands), bench.statuses
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


def place_fields(place: Place) -> dict[str, int]:
    """The fields of `TensorPlace` that a window depends on."""
    n, h, w, c = place.shape
    return {"n": n, "h": h, "c": c, "row": w * c, "image": h * w * c, "octets": place.octets}


def big_matmul(config: configs.ArrayConfig, half: int, sum_tile: int) -> dict[str, int]:
    """A MATMUL of one tile that reads all 8 bits of one half of A and B."""
    chunks = min(config.a_cells, config.b_cells) // 2
    sizes = {"slices": config.slices_per_octet, "planes": OCTET_BITS, "chunks": chunks, "row_tiles": 1, "col_tiles": 1}
    cells = {"a_cell": half * config.a_cells // 2, "b_cell": half * config.b_cells // 2}
    return sizes | cells | {"a_octets": 1, "b_octets": 1, "sum_tile": sum_tile}


def read_tile(config: configs.ArrayConfig, tile: int, count: int = 1) -> dict[str, int]:
    """A READ of whole tiles as they are."""
    return {
        "space": int(Space.SUMS),
        "bits": 64,
        "first": tile,
        "count": count,
        "rows": config.rows,
        "cols": config.columns,
    }


def counters_of(answer: Received) -> dict[str, int]:
    return dict(zip((counter.name for counter in registers.COUNTERS), answer.data, strict=True))


@cocotb.test()
async def overlap(dut) -> None:
    """LA0 LB0 M0 LA1 LB1 M1 R0 LA0 ...: loading, computing and reading at the same time, and still exact."""
    bench = await start(dut)
    config = bench.config
    rounds = 12
    bench.send(Opcode.RESET)
    for number in range(rounds):
        half = number % 2
        for target in Target:
            bench.send(Opcode.LOAD, **load_half(config, target, half, slot=half))
        bench.send(Opcode.MATMUL, **big_matmul(config, half, sum_tile=half))
        if number:
            bench.send(Opcode.READ, **read_tile(config, 1 - half))
    bench.send(Opcode.MARK, phase=int(Phase.FORWARD))
    await bench.quiet()
    bench.finish()
    counters = counters_of(bench.host.frames[-1])
    assert counters["matmuls"] == rounds and counters["loads"] == 2 * rounds
    first_loads = counters["load_cycles"] // rounds
    busiest = max(counters["matmul_cycles"], counters["load_cycles"])
    between = 5 if busiest == counters["matmul_cycles"] else 30  # LOADs wait for the commands between them
    assert counters["cycles"] < busiest + rounds * between + 1.5 * first_loads + 60, counters
    waited = first_loads + counters["cycles"] - counters["matmul_cycles"]
    assert first_loads / 2 < counters["load_wait_cycles"] < waited
    assert any(answer.response["sequence"] != place for place, answer in enumerate(bench.host.frames)), "none overtook"


def refusals(config: configs.ArrayConfig) -> Iterator[tuple[Opcode, dict[str, int], Status]]:
    """Each bound of TENSOR, LOAD, MATMUL, READ, UPDATE and WEIGHTS, just kept and just broken, after `fill`."""
    half, last = config.store_words // 2, config.store_words - 1
    good, value, place = Status.OK, Status.BAD_VALUE, Status.BAD_RANGE
    free = {"slot": 2, "bits": 8, "n": 1, "h": 1, "w": 1, "c": 1}
    yield Opcode.TENSOR, {"slot": SECOND_HALF}, good
    for fields, status in (
        ({"slot": TENSOR_SLOTS}, value),
        ({"bits": MAX_BITS + 1}, value),
        ({"layout": 1}, value),
        ({"layout": 1, "bits": 0}, value),
        ({"n": 0, "bits": 0}, good),
        *(({name: 0}, place) for name in "nhwc"),
        ({"n": 2, "h": 2**15}, place),
        ({"w": 2**8, "c": 2**8}, place),
        ({"h": 2, "w": 2**8, "c": 2**7}, place),
        ({"word": config.store_words}, place),
        ({"word": 2**16 + half}, place),
        ({"word": last, "c": GROUP + 1}, place),
        ({"word": last, "bits": 9}, place),
        ({"word": half - 1}, place),
        ({"word": last, "c": GROUP}, good),
        ({"word": last - 1, "c": GROUP, "bits": 9, "slot": 3}, place),
        ({"word": last - 1, "c": GROUP, "bits": 9}, good),
        ({"word": half, "c": GROUP, "bits": 9, "slot": 15}, good),
    ):
        yield Opcode.TENSOR, free | {"word": half} | fields, status
    load = {"slot": FIRST_HALF, "positions": 1, "taps": 1, "run": 1, "y_count": 2**16 - 1, "x_count": 1}
    to_b = load | {"target": int(Target.B)}
    for fields, status in (
        (load | {"flip": 1 << config.slices_per_octet}, value),
        (load | {"flip": (1 << config.slices_per_octet) - 1}, good),
        (load | {"slot": 2, "flip": 1 << config.max_slices - 1}, good),
        (load | {"slot": 4, "flip": 1}, value),
        (load | {"slot": 4}, place),
        (to_b | {"flip": 1}, value),
        (to_b | {"turn": 1}, value),
        *((load | {name: 0}, place) for name in ("positions", "taps", "run", "y_count", "x_count")),
        (load | {"x_count": 4, "x_first": 4}, place),
        (load | {"x_count": 4, "x_first": 3}, good),
        (load | {"y_count": 4, "y_first": 4}, place),
        (load | {"y_count": 4, "y_first": 3}, good),
        (load | {"run": 4, "place_first": 4}, place),
        (load | {"run": 4, "place_first": 3}, good),
        (load | {"cell": config.a_cells}, place),
        (load | {"cell": config.a_cells - 1, "positions": config.rows, "taps": config.lanes}, good),
        (load | {"cell": config.a_cells - 1, "positions": config.rows + 1}, place),
        (load | {"cell": config.a_cells - 1, "taps": config.lanes + 1}, place),
        (load | {"cell": config.a_cells - 1, "slot": 2}, place),
        (load | {"cell": config.a_cells - 1, "across": 1, "taps": config.rows, "positions": config.lanes}, good),
        (load | {"cell": config.a_cells - 1, "across": 1, "taps": config.rows + 1}, place),
        (to_b | {"cell": config.b_cells - 1, "positions": config.columns}, good),
        (to_b | {"cell": config.b_cells - 1, "positions": config.columns + 1}, place),
    ):
        yield Opcode.LOAD, fields, status
    yield from window_refusals(config)
    a_cell, b_cell, tile = config.a_cells - 4, config.b_cells - 4, config.sum_tiles - 2
    sizes = {"slices": 1, "planes": 1, "chunks": 2, "row_tiles": 2, "col_tiles": 1, "a_octets": 1, "b_octets": 1}
    matmul = sizes | {"a_cell": a_cell, "b_cell": b_cell, "sum_tile": tile}
    for fields, status in (
        ({}, good),
        *(({name: count}, value) for name in ("a_octets", "b_octets") for count in (0, 3)),
        ({"slices": 0}, value),
        ({"planes": 0}, value),
        ({"a_offset": 2}, value),
        ({"b_negative": 2}, value),
        ({"a_first": config.slices_per_octet}, value),
        ({"a_first": config.slices_per_octet - 1}, good),
        ({"b_first": OCTET_BITS}, value),
        ({"b_first": OCTET_BITS - 1}, good),
        ({"a_octets": 2, "a_cell": a_cell - 4, "a_first": config.max_slices - 1}, good),
        ({"a_octets": 2, "a_cell": a_cell - 4, "a_first": config.max_slices}, value),
        ({"a_octets": 2, "a_cell": a_cell - 3}, place),
        ({"b_octets": 2, "b_cell": b_cell, "b_first": 2 * OCTET_BITS - 1}, good),
        ({"b_octets": 2, "b_cell": b_cell + 1}, place),
        ({"a_below": config.max_slices - 1}, good),
        ({"b_below": OCTET_BITS - 1}, good),
        ({"b_below": OCTET_BITS}, value),
        ({"b_octets": 2, "b_cell": b_cell, "b_below": 2 * OCTET_BITS - 1}, good),
        *([({"a_below": config.max_slices}, value)] if config.max_slices < 16 else []),
        ({"a_cell": a_cell + 1}, place),
        ({"b_cell": b_cell + 3}, place),
        ({"sum_tile": tile + 1}, place),
        *(({name: 0}, place) for name in ("chunks", "row_tiles", "col_tiles")),
        ({"packed": 1, "tiles": 2, "program": PROGRAM_ROWS - 1}, good),
        ({"packed": 1, "tiles": 2, "b_below": 1}, value),
        ({"packed": 1, "tiles": 3}, place),
        ({"packed": 1, "tiles": 0}, place),
        ({"packed": 1, "tiles": 1, "program": PROGRAM_ROWS}, place),
    ):
        yield Opcode.MATMUL, matmul | fields, status
    read = read_tile(config, 0, config.sum_tiles) | {"bits": 16}
    raw_words = config.sum_rows * config.columns
    for fields, status in (
        ({}, good),
        ({"count": 0}, place),
        ({"first": 1}, place),
        ({"rows": config.rows + 1}, place),
        ({"cols": config.columns + 1}, place),
        ({"bits": 64}, place if raw_words > MAX_DATA_WORDS else good),
        *(({"bits": bits}, value) for bits in (0, 1, 33, 63, 65, 128)),
        ({"rounding": 2}, value),
        ({"shift": 64}, value),
        ({"compare": 1}, value),
        ({"compare": 1, "bits": SIGN_BITS}, good),
        ({"compare": 1, "bits": SIGN_BITS, "index": 2**15}, good),
        ({"compare": 1, "bits": SIGN_BITS, "index": 2**15, "key": 1}, value),
        ({"compare": 1, "bits": SIGN_BITS, "index": 2**16}, value),
    ):
        yield Opcode.READ, read | fields, status


def update_refusals(config: configs.ArrayConfig) -> Iterator[tuple[Opcode, dict[str, int], Status]]:
    """Bounds of UPDATE, WEIGHTS and READ of STORE, just kept and just broken."""
    good, value, place, depth = Status.OK, Status.BAD_VALUE, Status.BAD_RANGE, config.store_words
    size, groups = 2 * STATE_WORDS, 2
    update = {"state": 8, "signs": 8 + size, "groups": groups, "decay_shift": 16, "rate_shift": 17}
    for fields, status in (
        ({}, good),
        ({"groups": 0}, place),
        ({"state": 9}, value),
        ({"decay_shift": 15}, value),
        ({"decay_shift": 63}, good),
        ({"decay_shift": 64}, value),
        ({"rate_shift": 16}, value),
        ({"rate_shift": 63}, good),
        ({"rate_shift": 64}, value),
        ({"state": depth - size}, good),
        ({"state": depth - size + 2}, place),
        ({"state": 2**16 - 2}, place),
        ({"signs": depth - groups}, good),
        ({"signs": depth - groups + 1}, place),
        ({"signs": 2**16 - 1}, place),
        ({"signs": 7 + size}, place),
        ({"signs": 8 - groups}, good),
        ({"signs": 9 - groups}, place),
        ({"groups": 2**16 - 1}, place),
    ):
        yield Opcode.UPDATE, update | fields, status
    weights = {"state": 8, "word": 8 + size, "groups": groups, "octets": 2, "shift": 34}
    for fields, status in (
        ({}, good),
        ({"groups": 0}, place),
        ({"state": 9}, value),
        *(({"octets": octets}, value) for octets in (0, 3, 4, 255)),
        ({"shift": 63}, good),
        ({"shift": 64}, value),
        ({"state": depth - size + 2}, place),
        ({"word": depth - 2 * groups}, good),
        ({"word": depth - 2 * groups + 1}, place),
        ({"word": depth - 2 * groups + 2, "octets": 1}, good),
        ({"word": 8 - 2 * groups}, good),
        ({"word": 9 - 2 * groups}, place),
        ({"word": 8 - groups, "octets": 1}, good),
        ({"word": 7 + size}, place),
    ):
        yield Opcode.WEIGHTS, weights | fields, status
    most = MAX_DATA_WORDS // STORE_WORD_WORDS
    for first, count, status in (
        (0, 0, place),
        (depth - 1, 1, good),
        (depth - 1, 2, place),
        (depth, 1, place),
        (0, most, good),
        (0, most + 1, place),
    ):
        yield Opcode.READ, {"space": int(Space.STORE), "first": first, "count": count}, status


def window_refusals(config: configs.ArrayConfig) -> Iterator[tuple[Opcode, dict[str, int], Status]]:
    """LOADs of windows that only just stay in a tensor of 3 images of 4 x 5 pixels of 3 numbers, and that do not."""
    good, place = Status.OK, Status.BAD_RANGE
    yield (
        Opcode.TENSOR,
        {"slot": 5, "bits": 8, "word": config.store_words // 2 + 8, "n": 3, "h": 4, "w": 5, "c": 3},
        good,
    )
    base = {"slot": 5, "target": int(Target.B), "positions": 1, "taps": 1, "run": 1, "y_count": 1, "x_count": 1}
    pixels = {"y_count": 4, "y_step": 1, "x_count": 5, "x_step": 1}
    inner = pixels | {"n_first": 1, "y_first": 2, "x_first": 3}
    again = {"y_count": 2**16 - 1, "x_count": 5, "y_first": 2**16 - 2, "x_first": 3}  # the same row: 2 pixels are left
    many = {"y_count": 2**15, "x_count": 2}
    for fields, status in (
        ({"y_start": 3}, good),
        ({"y_start": 4}, place),
        ({"y_start": 2**15}, good),  # far above: a kernel's last line may reach it
        ({"y_start": 3, "y_count": 2, "y_step": 0xFF}, good),
        ({"y_start": 4, "y_count": 2, "y_step": 0xFF}, place),
        ({"y_count": 4, "y_step": 1}, good),
        ({"y_count": 5, "y_step": 1}, place),
        ({"y_count": 5, "y_step": 1, "y_start": 0xFFFF}, good),
        ({"y_count": 2, "y_step": 3}, good),  # pixels between positions are left out
        ({"y_count": 2, "y_step": 4}, place),  # a stride past the image
        ({"y_count": 0, "y_step": 1}, place),  # a kernel of 5 rows
        ({"y_count": 0xFFFF, "y_step": 1}, place),  # a kernel of 6 rows
        ({"y_count": 0xFFFF, "y_step": 127, "y_start": 2**15}, place),
        ({"x_start": 4}, good),
        ({"x_start": 5}, place),
        ({"x_start": 4, "x_count": 2, "x_step": 0xFF}, good),
        ({"x_start": 5, "x_count": 2, "x_step": 0xFF}, place),
        ({"x_count": 5, "x_step": 1}, good),
        ({"x_count": 6, "x_step": 1}, place),
        ({"x_count": 6, "x_step": 1, "x_start": 0xFFFF}, good),
        ({"x_count": 2, "x_step": 4}, good),
        ({"x_count": 2, "x_step": 5}, place),
        ({"x_count": 0, "x_step": 1}, place),
        ({"x_count": 0xFFFF, "x_step": 1}, place),
        ({"x_count": 0xFFFF, "x_step": 127, "x_start": 2**15}, place),
        ({"x_count": 1025, "x_step": 64}, place),  # pixel 2**16
        ({"x_start": 0xFFFF, "run": 4}, good),
        ({"x_start": 0xFFFF, "run": 3}, place),  # wholly left of the image
        ({"x_start": 0xFFFF, "run": 3, "x_count": 2, "x_step": 1}, good),
        ({"x_start": 2**16 - 100, "run": 301}, good),
        ({"x_start": 2**16 - 100, "run": 300}, place),
        ({"x_start": 2**15, "run": 2**16 - 1}, place),
        ({"n_first": 2}, good),
        ({"n_first": 3}, place),
        ({"n_first": 3, "n_fast": 1}, place),
        ({"n_first": 2**16 - 1}, place),
        (pixels | {"positions": 60}, good),
        (pixels | {"positions": 61}, place),
        (pixels | {"positions": 60, "n_fast": 1}, good),
        (pixels | {"positions": 61, "n_fast": 1}, place),
        (inner | {"positions": 27}, good),
        (inner | {"positions": 28}, place),
        (inner | {"positions": 20, "n_fast": 1}, good),
        (inner | {"positions": 21, "n_fast": 1}, place),
        (inner | {"positions": 7, "n_first": 2}, good),
        (inner | {"positions": 8, "n_first": 2}, place),
        (again | {"positions": 2, "n_first": 2}, good),
        (again | {"positions": 3, "n_first": 2}, place),
        (again | {"positions": 3, "n_first": 1}, good),
        (again | {"positions": 5, "n_first": 1, "n_fast": 1}, good),
        (again | {"positions": 6, "n_first": 1, "n_fast": 1}, place),
        (many | {"positions": 5, "n_first": 2}, good),
        (many | {"positions": 5, "n_first": 1}, good),
        (many | {"positions": 5, "n_first": 1, "n_fast": 1}, good),
    ):
        yield Opcode.LOAD, base | fields, status


@cocotb.test()
async def bounds(dut) -> None:
    """What is refused, and what only just is not."""
    bench = await start(dut)
    for opcode, fields, status in (*refusals(bench.config), *update_refusals(bench.config)):
        bench.send(opcode, **fields)
        assert bench.expected[-1].status == status, (opcode, fields, bench.expected[-1].status)
    bench.send(Opcode.MARK, phase=int(Phase.OTHER))
    await bench.quiet()
    bench.finish()


Sent = tuple[Opcode, dict[str, int]]
ONE_SUM = {"rows": 1, "cols": 1}  # of each tile: the answer comes soon


class Interlocks:
    """Sends one command behind others, and says how long its answer comes after that of the command before."""

    def __init__(self, bench: DeviceBench) -> None:
        self.bench, self.maker = bench, CommandMaker(bench)

    async def gap(self, *commands: Sent) -> int:
        bench = self.bench
        await bench.quiet()
        before = len(bench.host.frames)
        for opcode, fields in commands:
            words = fields["rows"] * fields["words"] if opcode == Opcode.WRITE else 0
            bench.send(opcode, self.maker.data(words, fields), **fields)
        await bench.quiet()
        cycles = {answer.response["sequence"]: answer.cycle for answer in bench.host.frames[before:]}
        last = bench.sequence - 1
        return cycles[last] - cycles[last - 1]


@cocotb.test()
async def loads_hold_up(dut) -> None:
    """What a LOAD under way holds up: the next LOAD, a WRITE to its tensor, a MATMUL of its cells; and nothing else."""
    bench = await start(dut)
    config, interlocks = bench.config, Interlocks(bench)
    half_store = config.store_words // 2
    for target in Target:
        fields = load_half(config, target, half=0)
        load = Opcode.LOAD, fields
        length = load_cost(config, fields, bench.golden.tensors[0].shape, octets=1).cycles
        for row, waits in ((0, True), (half_store - 1, True), (half_store, False), (2 * half_store - 1, False)):
            write = {"space": int(Space.STORE), "row": row, "rows": 1, "words": 2}
            assert (await interlocks.gap(load, (Opcode.WRITE, write)) > length / 2) == waits, (target, row)
        for half, waits in ((0, True), (1, False)):
            assert (await interlocks.gap(load, (Opcode.MATMUL, big_matmul(config, half, 0))) > length / 2) == waits
        assert await interlocks.gap(load, (Opcode.LOAD, load_half(config, target, half=1, slot=1))) > length / 2
        sums = {"space": int(Space.SUMS), "row": 0, "rows": 1, "words": 1}
        assert await interlocks.gap(load, (Opcode.WRITE, sums)) < length / 2
        assert await interlocks.gap(load, (Opcode.WRITE, sums | {"space": int(Space.LIST)})) > length / 2
        listed = Opcode.LOAD, fields | {"listed": 1}  # it may read anywhere
        write = {"space": int(Space.STORE), "row": 2 * half_store - 1, "rows": 1, "words": 2}
        assert await interlocks.gap(listed, (Opcode.WRITE, write)) > length / 2
        assert await interlocks.gap(load, (Opcode.READ, read_tile(config, 0) | ONE_SUM)) < length / 2
        assert await interlocks.gap(load, (Opcode.SYNC, {})) > length / 2
        update = {"state": 2 * half_store - 8, "groups": 1, "rate_shift": 17, "decay_shift": 16}
        assert await interlocks.gap(load, (Opcode.UPDATE, update)) > length / 2
        weights = {"state": 2 * half_store - 8, "groups": 1, "octets": 1}
        assert await interlocks.gap(load, (Opcode.WEIGHTS, weights)) > length / 2
        read = {"space": int(Space.STORE), "first": 2 * half_store - 1, "count": 1}
        assert await interlocks.gap(load, (Opcode.READ, read)) > length / 2
        assert await interlocks.gap(load, (Opcode.UPDATE, update | {"groups": 0})) < length / 2
    bench.finish()


@cocotb.test()
async def matmuls_hold_up(dut) -> None:
    """What a MATMUL under way holds up: a LOAD of its cells, a READ of its sums, a WRITE to SUMS; and nothing else."""
    bench = await start(dut)
    config, interlocks = bench.config, Interlocks(bench)
    fields = big_matmul(config, half=0, sum_tile=2)
    matmul, other = (Opcode.MATMUL, fields), (Opcode.MATMUL, big_matmul(config, half=1, sum_tile=4))
    length = config.matmul_cycles(*(fields[name] for name in SHAPE))
    for target in Target:
        for half, waits in ((0, True), (1, False)):
            load = Opcode.LOAD, load_half(config, target, half)
            assert (await interlocks.gap(matmul, load) > length / 2) == waits, (target, half)
    for tile, count, waits in ((2, 1, True), (0, 3, True), (0, 2, False), (3, 2, False)):
        read = Opcode.READ, read_tile(config, tile, count) | ONE_SUM
        assert (await interlocks.gap(matmul, read) > length / 2) == waits, (tile, count)
    for tile, waits in ((4, True), (2, False), (3, False)):  # the first one ends soon after the second has begun
        read = Opcode.READ, read_tile(config, tile) | ONE_SUM
        assert (await interlocks.gap(matmul, other, read) > length / 2) == waits, tile
    sums = {"space": int(Space.SUMS), "row": config.sum_rows - 1, "rows": 1, "words": 1}
    assert await interlocks.gap(matmul, (Opcode.WRITE, sums)) > length / 2
    assert await interlocks.gap(matmul, (Opcode.SYNC, {})) > length / 2
    bench.finish()


@cocotb.test()
async def reads_hold_up(dut) -> None:
    """A MATMUL into tiles that are being read waits; the counter says how long the array did."""
    bench = await start(dut)
    config = bench.config
    count = config.sum_tiles - 1
    scaled = read_tile(config, 0, count) | {"bits": 8, "multiplier": 3}
    waited = {}
    for tile in range(0, config.sum_tiles, count):
        bench.send(Opcode.RESET)
        bench.send(Opcode.READ, **scaled)
        bench.send(Opcode.MATMUL, **big_matmul(config, half=0, sum_tile=tile))
        bench.send(Opcode.MARK, phase=int(Phase.FORWARD))
        await bench.quiet()
        waited[tile] = counters_of(bench.host.frames[-1])["read_wait_cycles"]
        bench.send(Opcode.READ, **read_tile(config, tile))
    assert waited[0] > count * config.rows * config.columns / 2 > waited[count] == 0, waited
    await bench.quiet()
    bench.finish()


@cocotb.test()
async def host_takes_nothing(dut) -> None:
    """READs, PINGs and acknowledgements pile up behind a link that takes nothing; then all come."""
    bench = await start(dut, tx_stall=1.0)
    config, maker = bench.config, CommandMaker(bench)
    for number in range(12):
        maker.write_rows(Space.STORE, number, rows=100)
        for target in Target:
            bench.send(Opcode.LOAD, **load_half(config, target, half=number % 2))
        bench.send(Opcode.MATMUL, **big_matmul(config, number % 2, sum_tile=0))
        bench.send(Opcode.READ, **read_tile(config, 0, min(config.sum_tiles, 6)))
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
    count, words = 20, MAX_DATA_WORDS
    for _ in range(count):
        CommandMaker(bench).write_rows(Space.STORE, row=0, rows=words // STORE_WORD_WORDS)
    await bench.quiet()
    writes = bench.host.frames[1:]
    spacing = [later.cycle - earlier.cycle for earlier, later in pairwise(writes[5:])]
    assert set(spacing) == {words + WRITE_OVERHEAD_CYCLES}, spacing
    matmul = big_matmul(bench.config, half=0, sum_tile=0)
    length = bench.config.matmul_cycles(*(matmul[name] for name in SHAPE))
    groups = 3
    state = {"groups": groups, "octets": 1, "word": 6 * groups}
    update = {"groups": groups, "signs": 6 * groups, "rate_shift": 17, "decay_shift": 16}
    for opcode, fields, cycles in (
        (Opcode.UPDATE, update, bench.config.update_cycles(groups) + UPDATE_OVERHEAD_CYCLES + DATA_CYCLES + 1),
        (Opcode.WEIGHTS, state, bench.config.update_cycles(groups) + UPDATE_OVERHEAD_CYCLES),
        (Opcode.READ, {"space": int(Space.STORE), "count": groups}, 2 * groups + READ_OVERHEAD_CYCLES + DATA_CYCLES),
        (Opcode.TENSOR, {"slot": FIRST_HALF, "bits": 1, "n": 1, "h": 1, "w": 1, "c": 1}, 30),
        (Opcode.TENSOR, {"slot": 2}, 9),
        (Opcode.LOAD, {"slot": 2}, 14),  # refused, which takes a cycle
        (Opcode.MATMUL, matmul | {"slices": 0}, 13),  # likewise
        (Opcode.MATMUL, matmul, length + 1),  # as fast as the engine takes them
    ):
        before = len(bench.host.frames)
        for _ in range(count):
            bench.send(opcode, **fields)
        await bench.quiet()
        answers = bench.host.frames[before:]
        spacing = [later.cycle - earlier.cycle for earlier, later in pairwise(answers[2:])]
        assert set(spacing) == {cycles}, (opcode, fields, spacing)
    for opcode, fields, cycles in (
        (Opcode.LOAD, load_half(bench.config, Target.A, half=0, slot=SECOND_HALF), 13),
        (Opcode.MATMUL, matmul, 12),
    ):
        for quiet in range(2):
            for asked in (Opcode.PING, Opcode.PING, Opcode.PING, opcode, Opcode.PING):
                bench.send(asked, **fields | {"quiet": quiet} if asked == opcode else {})
            await bench.quiet()
            _, first, second, *_, last = [answer.cycle for answer in bench.host.frames[quiet - 5 :]]
            taken = last - second - (second - first)
            assert taken == cycles - quiet, (opcode, quiet, first, second, last)
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
    counters = counters_of(bench.host.frames[-1])
    command_words = COMMAND_WORDS + 2
    assert counters["rx_words"] == len(bench.rx.accepted) - before[0] == 2 * 3 + command_words
    assert counters["tx_words"] == len(bench.host.monitor.taken) - before[1] - 3 - len(registers.COUNTERS) + 3
    assert counters["frame_errors"] == counters["sequence_errors"] == 1
    assert waited < counters["starved_cycles"] < counters["cycles"] < waited + 250
    bench.finish()
