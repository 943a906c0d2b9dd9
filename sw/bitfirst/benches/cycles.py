"""Random commands, right and wrong, on a device and on the golden model: results, statuses and counters must agree."""

import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract.numeric import MAX_SHIFT, container_bits
from bitfirst_hdl.contract.packets import COMMAND_WORDS, MAX_DATA_WORDS, Opcode, Phase, Rounding, Space

from .. import open as open_device
from .. import packing
from ..board import BoardDevice
from ..command import Command
from ..errors import DeviceError, UsageError
from ..golden.commands import RAW_BITS, GoldenDevice
from ..link import FrameDecoder, encode_frame
from ..plan import Shape, plan
from ..transports import Transport

SIZES = {"bursts": 8, "matmul_steps": 1500, "products": 2}
REFUSED_SHARE = 0.3  # of the commands that are not one of the precision pairs
Payload = np.ndarray
Fields = dict[str, int]


def bench_cycles(device_url: str = "rtl:tiny", commands: int = 200, seed: int = 0) -> dict[str, Any]:
    """`commands` random commands, and a few planned matrix products, on `device_url` and on the golden model.

    Every answer is compared by status and data, and the execution counters after every few commands. The first
    commands fill the memories. Raises `UsageError` for a device without a link.
    """
    rng = random.Random(seed)
    with open_device(device_url) as device:
        if not isinstance(device, BoardDevice):
            raise UsageError(f"{device_url} has no link to send commands on; choose rtl or a board")
        comparison = Comparison(Wire(device.transport, device.config.rx_words), device.config, device.fingerprint)
        comparison.run([Command(Opcode.RESET).payload()])
        comparison.run(list(fill(device.config, rng)))
        program = Program(device.config, rng)
        payloads = program.payloads(commands)
        while payloads:
            size = rng.randint(1, SIZES["bursts"])
            comparison.run(payloads[:size])
            payloads = payloads[size:]
        shapes = [_random_shape(device.config, rng) for _ in range(SIZES["products"])]
        resent = sum(comparison.multiply(shape, rng) for shape in (*shapes, _large_shape(device.config)))
    slices = device.config.max_slices
    return {
        "device": device_url,
        "commands": comparison.commands,
        "random_commands": commands,
        "coverage": {
            "opcodes": sorted(comparison.opcodes),
            "statuses": dict(sorted(comparison.statuses.items())),
            "precision_pairs": len(program.pairs_seen),
            "possible_precision_pairs": slices * MAX_BITS,
            "splits": program.splits,
            "spills": resent,
        },
        "result_mismatches": comparison.result_mismatches,
        "counter_mismatches": comparison.counter_mismatches,
        "counter_comparisons": comparison.counter_comparisons,
        "first_mismatch": comparison.first_mismatch,
        "seed": seed,
    }


class Wire:
    """Payloads over a faultless link, as many at a time as the device's receive buffer holds."""

    def __init__(self, transport: Transport, window_words: int) -> None:
        self._transport = transport
        self._window_words = window_words
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._restart = True

    def exchange(self, payloads: list[Payload]) -> list[tuple[int, Payload]]:
        """(status, data words) of the answer to each payload. Raises `DeviceError` when one does not come."""
        answers: dict[int, tuple[int, Payload]] = {}
        sequences = []
        for group in self._groups(payloads):
            frames = b"".join(self._frame(payload) for payload in group)
            group_sequences = [(self._sequence - count) & 0xFFFF for count in range(len(group), 0, -1)]
            self._transport.write(frames)
            self._collect(answers, group_sequences)
            sequences += group_sequences
        return [answers[sequence] for sequence in sequences]

    def _groups(self, payloads: list[Payload]) -> Iterator[list[Payload]]:
        group, words = [], 0
        for payload in payloads:
            if group and words + len(payload) + 1 > self._window_words:
                yield group
                group, words = [], 0
            group.append(payload)
            words += len(payload) + 1
        if group:
            yield group

    def _frame(self, payload: Payload) -> bytes:
        frame = encode_frame(payload, self._sequence, self._restart)
        self._restart = False
        self._sequence = (self._sequence + 1) & 0xFFFF
        return frame

    def _collect(self, answers: dict[int, tuple[int, Payload]], sequences: list[int]) -> None:
        while not all(sequence in answers for sequence in sequences):
            data = self._transport.read(self._decoder.missing_bytes, self._transport.timeout_s)
            if not data:
                missing = sum(sequence not in answers for sequence in sequences)
                raise DeviceError(f"{missing} commands were not answered; check the link with `bitfirst doctor`")
            for payload in self._decoder.feed(data):
                response = codec.decode(packets.Response, payload)
                if response["opcode"] == Opcode.LINK:
                    raise DeviceError("the link damaged a frame; this bench needs a faultless one, such as rtl")
                answers[response["sequence"]] = response["status"], payload[1:]


@dataclass
class Comparison:
    """Executes the same payloads on the device and on the golden model, and counts what differs."""

    wire: Wire
    config: ArrayConfig
    fingerprint: int
    commands: int = 0
    result_mismatches: int = 0
    counter_mismatches: int = 0
    counter_comparisons: int = 0
    first_mismatch: str | None = None
    opcodes: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.golden = GoldenDevice(self.config, self.fingerprint)

    def run(self, payloads: list[Payload]) -> list[Payload]:
        """Execute and compare, then wait for everything and compare the counters. Returns the device's data."""
        answers = self.wire.exchange([*payloads, Command(Opcode.SYNC).payload()])
        for payload, answer in zip([*payloads, Command(Opcode.SYNC).payload()], answers, strict=True):
            self._compare(payload, *answer)
        counters = Command(Opcode.COUNTERS).payload()
        self._compare(counters, *self.wire.exchange([counters])[0])
        return [data for _, data in answers[:-1]]

    def multiply(self, shape: Shape, rng: random.Random) -> int:
        """A planned product, also compared with plain integers; returns how many operand words were sent again."""
        generator = np.random.default_rng(rng.getrandbits(32))
        a = _random_operand(generator, (shape.rows, shape.depth), shape.a_bits, shape.a_signed)
        b = _random_operand(generator, (shape.columns, shape.depth), shape.b_bits, shape.b_signed)
        planned = plan(self.config, shape)
        packed = (
            packing.pack_a(self.config, a, shape.a_bits, shape.a_signed),
            packing.pack_b(self.config, b, shape.b_bits),
        )
        steps = list(planned.commands(*packed))
        data = self.run([step.command.payload() for step in steps])
        result = np.zeros((shape.rows, shape.columns), dtype=np.int64)
        for step, words in zip(steps, data, strict=True):
            if step.fetch is not None:
                step.fetch.store(words, result)
        if not np.array_equal(result, a @ b.T):
            self._mismatch("result_mismatches", f"product {shape}")
        return planned.counters["words_written"] - packed[0].size - packed[1].size

    def _compare(self, payload: Payload, status: int, data: Payload) -> None:
        expected_status, expected = self.golden.execute_payload(payload)
        opcode = int(payload[0]) & 0xFF
        name = Opcode(opcode).name if opcode in packets.COMMANDS else "unknown"
        self.commands += 1
        self.opcodes.add(name)
        self.statuses[expected_status.name] += 1
        alike = status == expected_status and len(data) == len(expected)
        if alike and len(data) and opcode in (Opcode.COUNTERS, Opcode.MARK):
            self._compare_counters(name, data, expected)
        elif not alike or not np.array_equal(data, expected):
            found = f"words {np.flatnonzero(data != expected)[:3]} differ" if alike else f"{len(data)} words"
            self._mismatch(
                "result_mismatches",
                f"command {self.commands} {_describe(payload)}: status {status} for {int(expected_status)}, {found} "
                f"for {len(expected)}",
            )

    def _compare_counters(self, name: str, data: Payload, expected: Payload) -> None:
        self.counter_comparisons += 1
        for counter in registers.EXECUTION_COUNTERS:
            index = registers.COUNTER_INDEX[counter]
            if data[index] != expected[index]:
                found = f"{counter} is {int(data[index])} for {int(expected[index])}"
                self._mismatch("counter_mismatches", f"command {self.commands} {name}: {found}")

    def _mismatch(self, kind: str, what: str) -> None:
        setattr(self, kind, getattr(self, kind) + 1)
        self.first_mismatch = self.first_mismatch or what


def _describe(payload: Payload) -> str:
    opcode = int(payload[0]) & 0xFF
    if opcode not in packets.COMMANDS or len(payload) < COMMAND_WORDS:
        return f"opcode {opcode}, {len(payload)} words"
    fields = codec.decode(packets.COMMANDS[opcode], payload)
    return f"{Opcode(opcode).name} { ({name: value for name, value in fields.items() if value}) }"


def _random_operand(generator: np.random.Generator, shape: tuple[int, int], bits: int, signed: bool) -> np.ndarray:
    low, high = (1 - 2 ** (bits - 1), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    return generator.integers(low, high, shape, dtype=np.int64, endpoint=True)


def _random_shape(config: ArrayConfig, rng: random.Random) -> Shape:
    """A product with remainders everywhere."""
    return Shape(
        rows=rng.randint(1, 8 * config.rows),
        columns=rng.randint(1, 8 * config.columns),
        depth=rng.randint(1, 12 * config.lanes),
        a_bits=rng.randint(2, MAX_BITS),
        b_bits=rng.randint(2, MAX_BITS),
        a_signed=rng.random() < 0.5,
        b_signed=rng.random() < 0.5,
    )


def _large_shape(config: ArrayConfig) -> Shape:
    """A product of 16-bit numbers of which neither operand nor result fits the memories."""
    tiles = math.isqrt(config.sum_tiles) + 1
    chunks = max(config.a_depth // (tiles * config.max_slices), config.b_depth // (tiles * MAX_BITS)) + 1
    return Shape(
        tiles * config.rows,
        tiles * config.columns,
        chunks * config.lanes,
        MAX_BITS,
        MAX_BITS,
        a_signed=True,
        b_signed=True,
    )


def fill(config: ArrayConfig, rng: random.Random) -> Iterator[Payload]:
    """WRITEs of random words to all memories: from here on every result is determined."""
    sizes = {
        Space.A: (config.a_depth, config.a_row_words),
        Space.B: (config.b_depth, config.b_row_words),
        Space.SUMS: (config.sum_rows, config.columns),
    }
    for space, (depth, width) in sizes.items():
        rows = min(depth, MAX_DATA_WORDS // width)
        for row in range(0, depth, rows):
            fields = {"space": space, "row": row, "rows": rows, "words": width}
            yield Command(Opcode.WRITE, fields, random_words(rng, rows * width)).payload()


def random_words(rng: random.Random, count: int) -> np.ndarray:
    """uint64 [count]: random, with some words all zeros and some all ones."""
    generator = np.random.default_rng(rng.getrandbits(32))
    words = generator.integers(0, 2**64, count, dtype=np.uint64)
    words[generator.random(count) < 0.1] = 0
    words[generator.random(count) < 0.1] = 2**64 - 1
    return words


class Program:
    """Makes random commands: each precision pair once, then all kinds, refused ones too."""

    def __init__(self, config: ArrayConfig, rng: random.Random) -> None:
        self.config = config
        self.rng = rng
        self.pairs_seen: set[tuple[int, int]] = set()
        self._refusals = 0
        self.splits = 0  #: MATMULs with signed digits below the top one, as balanced splits have

    def payloads(self, count: int) -> list[Payload]:
        """`count` commands; if there are fewer than precision pairs, only so many pairs."""
        pairs = [(s, p) for s in range(1, self.config.max_slices + 1) for p in range(1, MAX_BITS + 1)]
        self.rng.shuffle(pairs)
        others = max(count - len(pairs), count // 3)
        made = [self._pair(*pair) for pair in pairs[: count - others]]
        kinds = [self._write, self._write, self._read, self._read, self._registers, self._mark, self._plain]
        while len(made) < count:
            if self.rng.random() < REFUSED_SHARE:
                made.append(self._refused())
            else:
                made.append(self.rng.choice(kinds)().payload())
        self.rng.shuffle(made)
        return made

    def _pair(self, slices: int, planes: int) -> Payload:
        self.pairs_seen.add((slices, planes))
        return self._matmul(slices, planes).payload()

    def _matmul(self, slices: int, planes: int) -> Command:
        config, rng = self.config, self.rng
        steps = max(1, SIZES["matmul_steps"] // (slices * planes))
        chunks = rng.randint(1, min(config.a_depth // slices, config.b_depth // planes, steps))
        steps //= chunks
        row_tiles = rng.randint(1, max(1, min(config.a_depth // (slices * chunks), config.sum_tiles, steps)))
        most = min(config.b_depth // (planes * chunks), config.sum_tiles // row_tiles, steps // row_tiles)
        col_tiles = rng.randint(1, max(1, most))
        a_offset = rng.choice((0, 1, rng.getrandbits(slices)))
        b_negative = rng.choice((0, 1, rng.getrandbits(planes)))
        self.splits += a_offset > 1 or b_negative > 1
        fields = {
            "accumulate": rng.getrandbits(1),
            "slices": slices,
            "planes": planes,
            "a_offset": a_offset,
            "b_negative": b_negative,
            "chunks": chunks,
            "row_tiles": row_tiles,
            "col_tiles": col_tiles,
            "sum_tile": rng.randint(0, config.sum_tiles - row_tiles * col_tiles),
            "a_row": rng.randint(0, config.a_depth - row_tiles * slices * chunks),
            "b_row": rng.randint(0, config.b_depth - col_tiles * planes * chunks),
        }
        return Command(Opcode.MATMUL, fields)

    def _write(self) -> Command:
        config, rng = self.config, self.rng
        space, depth, width = rng.choice(
            (
                (Space.A, config.a_depth, config.a_row_words),
                (Space.B, config.b_depth, config.b_row_words),
                (Space.SUMS, config.sum_rows, config.columns),
            )
        )
        words = rng.randint(1, min(width, MAX_DATA_WORDS))
        rows = rng.randint(1, min(depth, MAX_DATA_WORDS // words))
        fields = {
            "space": space,
            "rows": rows,
            "word": rng.randint(0, width - words),
            "words": words,
            "row": rng.randint(0, depth - rows),
        }
        return Command(Opcode.WRITE, fields, random_words(rng, rows * words))

    def _read(self) -> Command:
        config, rng = self.config, self.rng
        bits = rng.choice((RAW_BITS, 32, rng.randint(2, 32), rng.randint(2, 32)))
        elements = MAX_DATA_WORDS * packets.WORD_BITS // container_bits(bits)
        rows = rng.randint(1, min(config.rows, elements))
        cols = rng.randint(1, min(config.columns, elements // rows))
        count = rng.randint(1, min(config.sum_tiles, elements // (rows * cols)))
        fields = {
            "space": Space.SUMS,
            "bits": bits,
            "signed": rng.getrandbits(1),
            "rounding": rng.choice(list(Rounding)),
            "rows": rows,
            "cols": cols,
            "multiplier": rng.choice((0, 1, 2**16 - 1, rng.getrandbits(16))),
            "first": rng.randint(0, config.sum_tiles - count),
            "count": count,
            "shift": rng.choice((0, MAX_SHIFT, rng.randint(0, MAX_SHIFT), rng.randint(16, 48))),
            "key": rng.getrandbits(32),
            "index": rng.getrandbits(32),
            "row_stride": rng.getrandbits(32),
            "col_stride": rng.getrandbits(32),
        }
        return Command(Opcode.READ, fields)

    def _registers(self) -> Command:
        first = self.rng.randrange(registers.IDENTITY_WORDS)
        count = self.rng.randint(1, registers.IDENTITY_WORDS - first)
        return Command(Opcode.READ, {"space": Space.REGISTERS, "first": first, "count": count})

    def _mark(self) -> Command:
        return Command(Opcode.MARK, {"phase": self.rng.choice(list(Phase))})

    def _plain(self) -> Command:
        if self.rng.random() < 0.2:
            return Command(Opcode.RESET)
        if self.rng.random() < 0.2:
            return Command(Opcode.SYNC)
        return Command(Opcode.PING, {"token": self.rng.getrandbits(64)})

    def _refused(self) -> Payload:
        """A command that must be refused, and change nothing: every kind in turn."""
        turn, kind = divmod(self._refusals, 3)
        self._refusals += 1
        return self._broken_fields(2 * turn + kind - 1) if kind else self._broken_shape(turn)

    def _broken_shape(self, turn: int) -> Payload:
        """Opcode, length, reserved field."""
        rng, command = self.rng, self.rng.choice((self._write, self._read, self._mark, self._plain))()
        payload = command.payload()
        kind = ("opcode", "short", "data", "reserved")[turn % 4]
        if kind == "opcode":
            unknown = [number for number in range(256) if number not in packets.COMMANDS]
            payload[0] = (int(payload[0]) & ~0xFF) | rng.choice(unknown)
        elif kind == "short":
            payload = payload[: rng.randint(1, COMMAND_WORDS - 1)]
        elif kind == "data":  # a word too few, or one where there must be none
            payload = payload[:-1] if len(command.data) else np.append(payload, np.uint64(rng.getrandbits(64)))
        else:
            reserved = [name for name in codec.fields(packets.COMMANDS[command.opcode]) if name.startswith("reserved")]
            offset, width = codec.fields(packets.COMMANDS[command.opcode])[rng.choice(reserved)]
            bit = offset + rng.randrange(width)
            payload[bit // 64] |= np.uint64(1 << bit % 64)
        return payload

    def _broken_fields(self, turn: int) -> Payload:
        """A good command with one field out of what this configuration can do."""
        config, rng = self.config, self.rng
        slices, planes = rng.randint(1, config.max_slices), rng.randint(1, MAX_BITS)
        changes: list[tuple[Callable[[], Command], Fields]] = [
            (self._write, {"space": rng.choice((Space.REGISTERS, 4, 255))}),
            (self._write, {"row": rng.choice((config.a_depth + config.b_depth + config.sum_rows, 2**32 - 1))}),
            (self._write, {"word": rng.choice((config.a_row_words + config.b_row_words + config.columns, 2**16 - 1))}),
            (self._read, {"space": rng.choice((Space.A, Space.B, 4, 255))}),
            (self._read, {"bits": rng.choice((0, 1, 33, 63, 65, 255))}),
            (self._read, {"rounding": rng.choice((2, 3))}),
            (self._read, {"shift": rng.randint(MAX_SHIFT + 1, 255)}),
            (self._read, {rng.choice(("rows", "cols", "count")): 0}),
            (self._read, {"rows": config.rows + 1}),
            (self._read, {"cols": config.columns + 1}),
            (self._read, {"first": config.sum_tiles}),
            (self._registers, {"first": registers.IDENTITY_WORDS}),
            (self._registers, {"count": 0}),
            (self._mark, {"phase": rng.randint(len(Phase), 255)}),
            (lambda: self._matmul(slices, planes), {"slices": rng.choice((0, config.max_slices + 1, 255))}),
            (lambda: self._matmul(slices, planes), {"planes": rng.choice((0, MAX_BITS + 1, 255))}),
            (lambda: self._matmul(slices, planes), {rng.choice(("chunks", "row_tiles", "col_tiles")): 0}),
            (lambda: self._matmul(slices, planes), {rng.choice(("chunks", "row_tiles", "col_tiles")): 2**16 - 1}),
            (lambda: self._matmul(slices, planes), {"a_row": config.a_depth}),
            (lambda: self._matmul(slices, planes), {"b_row": config.b_depth}),
            (lambda: self._matmul(slices, planes), {"sum_tile": config.sum_tiles}),
        ]
        if slices < 16:
            changes.append((lambda: self._matmul(slices, planes), {"a_offset": 1 << rng.randint(slices, 15)}))
        if planes < 16:
            changes.append((lambda: self._matmul(slices, planes), {"b_negative": 1 << rng.randint(planes, 15)}))
        make, change = changes[turn % len(changes)]
        command = make()
        return Command(command.opcode, command.fields | change, command.data).payload()
