"""Random commands, right and wrong, on a device and on the golden model: results, statuses and counters must agree."""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract.numeric import DECAY_SHIFT, MAX_SHIFT, MAX_THRESHOLD, STEP_SHIFT, container_bits, limits
from bitfirst_hdl.contract.packets import (
    COMMAND_WORDS,
    GROUP,
    LIST_ENTRIES,
    MAX_DATA_WORDS,
    OCTET_BITS,
    PROGRAM_ROWS,
    SIGN_BITS,
    STATE_WORDS,
    TENSOR_SLOTS,
    Opcode,
    Phase,
    Rounding,
    Space,
    Status,
    Target,
)

from .. import open as open_device
from ..board import BoardDevice
from ..command import Command, is_quiet
from ..errors import DeviceError, UsageError
from ..golden import loads
from ..golden.commands import MAX_EXTENT, RAW_BITS, GoldenDevice, place_of
from ..golden.model import ModelDevice
from ..link import FrameDecoder, encode_frame
from ..quantised import Quantised
from ..transports import Transport

LEAST_MATMULS = 32  # among random commands, where there are enough of these
PACKED_SHARE = 0.2  # of the MATMULs
SIZES = {"bursts": 8, "matmul_steps": 1500, "load_chunks": 6, "load_tiles": 3, "layers": 2}
BYTE_SCHEDULES = ("input_idle=0.5&output_stall=0.3", "output_stall=0.9")
MOST_GROUPS = 6  # of one UPDATE or WEIGHTS
REFUSED_SHARE = 0.3  # of the commands that are not one of the precision pairs
Payload = np.ndarray
Fields = dict[str, int]
Layer = tuple[int, int, int, int, int, int, int]  # batch, inputs, outputs, height, width, kernel, stride


def bench_cycles(device_url: str = "rtl:tiny", commands: int = 200, seed: int = 0) -> dict[str, Any]:
    """A few layers, then `commands` random commands, on `device_url` and on the golden model.

    Every answer is compared by status and data, and the execution counters after every few commands. Simulated
    hardware does it all once with every byte there when the device looks for it, and again under `BYTE_SCHEDULES`, with
    other commands each time. Raises `UsageError` for a device without a link.
    """
    urls = [device_url]
    if device_url.partition(":")[0] == "rtl" and "?" not in device_url:
        urls += [f"{device_url}?{schedule}&seed={seed}" for schedule in BYTE_SCHEDULES]
    total = Findings()
    for number, url in enumerate(urls):
        with open_device(url) as device:
            if not isinstance(device, BoardDevice):
                raise UsageError(f"{device_url} has no link to send commands on; choose rtl or a board")
            compare(device, commands, seed + number, total)
    return {
        "device": device_url,
        "rounds": urls,
        "random_commands": commands * len(urls),
        "seed": seed,
    } | total.as_dict()


def compare(device: BoardDevice, commands: int, seed: int, found: "Findings") -> None:
    """One round on a fresh device, which serves for nothing else afterwards."""
    rng = random.Random(seed)
    found.spilled_bytes += compare_layers(device, rng, found)
    comparison = Comparison(Wire(device.transport, device.config.rx_words), device.config, device.fingerprint, found)
    comparison.run([Command(Opcode.RESET).payload(), *forget_all(device.config)])
    comparison.run(list(fill(device.config, rng)))
    program = Program(device.config, rng)
    payloads = program.payloads(commands)
    while payloads:
        size = rng.randint(1, SIZES["bursts"])
        comparison.run(payloads[:size])
        payloads = payloads[size:]
    found.pairs_seen |= program.pairs_seen
    found.possible_pairs = len(device.config.slice_counts) * len(device.config.plane_counts)
    found.splits += program.splits


@dataclass
class Findings:
    """How much was compared, and what differed."""

    commands: int = 0
    opcodes: set[str] = field(default_factory=set)
    statuses: Counter[str] = field(default_factory=Counter)
    pairs_seen: set[tuple[int, int]] = field(default_factory=set)
    possible_pairs: int = 0
    splits: int = 0
    quiet_commands: int = 0
    spilled_bytes: int = 0
    result_mismatches: int = 0
    counter_mismatches: int = 0
    counter_comparisons: int = 0
    first_mismatch: str | None = None

    def result(self, what: str) -> None:
        self.result_mismatches += 1
        self.first_mismatch = self.first_mismatch or what

    def counters(self, where: str, found: Mapping[str, int], expected: Mapping[str, int]) -> None:
        self.counter_comparisons += 1
        for name in registers.EXECUTION_COUNTERS:
            if found[name] != expected[name]:
                self.counter_mismatches += 1
                what = f"{where}: {name} is {int(found[name])} for {int(expected[name])}"
                self.first_mismatch = self.first_mismatch or what

    def as_dict(self) -> dict[str, Any]:
        return {
            "commands": self.commands,
            "coverage": {
                "opcodes": sorted(self.opcodes),
                "statuses": dict(sorted(self.statuses.items())),
                "precision_pairs": len(self.pairs_seen),
                "possible_precision_pairs": self.possible_pairs,
                "splits": self.splits,
                "quiet": self.quiet_commands,
                "spills": self.spilled_bytes,
            },
            "result_mismatches": self.result_mismatches,
            "counter_mismatches": self.counter_mismatches,
            "counter_comparisons": self.counter_comparisons,
            "first_mismatch": self.first_mismatch,
        }


def compare_layers(device: BoardDevice, rng: random.Random, findings: Findings) -> int:
    """Forward and both gradients of layers, one of which does not fit the store; returns the bytes sent again."""
    model = ModelDevice(device.config)
    for shape in (*(_random_layer(rng) for _ in range(SIZES["layers"])), _large_layer(device.config)):
        batch, inputs, outputs, height, width, kernel, stride = shape
        x_bits, w_bits, g_bits = (rng.randint(2, MAX_BITS) for _ in range(3))
        padding = kernel // 2
        x = _random_operand(rng, (batch, inputs, height, width), x_bits, rng.random() < 0.5)
        w = _random_operand(rng, (outputs, inputs, kernel, kernel), w_bits, True)
        out = (batch, outputs, *((size + 2 * padding - kernel) // stride + 1 for size in (height, width)))
        g = _random_operand(rng, out, g_bits, True)
        window = stride, padding
        for operation, arguments in (
            ("conv2d", (x, w, *window)),
            ("conv2d_input_gradient", (g, w, x.values.shape, *window)),
            ("conv2d_weight_gradient", (g, x, w.values.shape, *window)),
        ):
            got, expected = (getattr(where, operation)(*arguments).to(torch.int64) for where in (device, model))
            if not torch.equal(got, expected):
                findings.result(f"{operation} of {shape}")
            findings.counters(f"{operation} of {shape}", device.counters(), model.counters())
    return device.store.refetched_bytes


class Wire:
    """Payloads over a faultless link, as many at a time as the device's receive buffer holds."""

    def __init__(self, transport: Transport, window_words: int) -> None:
        self._transport = transport
        self._window_words = window_words
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._restart = True

    def exchange(self, payloads: list[Payload]) -> list[tuple[int, Payload] | None]:
        """(status, data words) of the answer to each payload; None for quiet ones that have none.

        The last one must not be quiet: it shows that the answers to quiet ones before it are there. Raises
        `DeviceError` when an answer does not come.
        """
        answers: dict[int, tuple[int, Payload]] = {}
        sequences = []
        for group in self._groups(payloads):
            frames = b"".join(self._frame(payload) for payload in group)
            group_sequences = [(self._sequence - count) & 0xFFFF for count in range(len(group), 0, -1)]
            self._transport.write(frames)
            loud = [sequence for sequence, payload in zip(group_sequences, group, strict=True) if not is_quiet(payload)]
            self._collect(answers, loud)
            sequences += group_sequences
        return [answers.get(sequence) for sequence in sequences]

    def _groups(self, payloads: list[Payload]) -> Iterator[list[Payload]]:
        """As many as there is room for, quiet ones included that may still wait."""
        group, words, quiet_words = [], 0, 0
        for payload in payloads:
            if group and words + len(payload) + 1 > self._window_words:
                yield group
                group, words = [], quiet_words
            group.append(payload)
            words += len(payload) + 1
            quiet_words = quiet_words + len(payload) + 1 if is_quiet(payload) else 0
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
    findings: Findings

    def __post_init__(self) -> None:
        self.golden = GoldenDevice(self.config, self.fingerprint)

    def run(self, payloads: list[Payload]) -> list[Payload]:
        """Execute and compare, then wait for everything and compare the counters. Returns the device's data."""
        answers = self.wire.exchange([*payloads, Command(Opcode.SYNC).payload()])
        for payload, answer in zip([*payloads, Command(Opcode.SYNC).payload()], answers, strict=True):
            self._compare(payload, answer)
        counters = Command(Opcode.COUNTERS).payload()
        self._compare(counters, self.wire.exchange([counters])[0])
        return [answer[1] if answer else np.zeros(0, dtype=np.uint64) for answer in answers[:-1]]

    def _compare(self, payload: Payload, answer: tuple[int, Payload] | None) -> None:
        expected_status, expected = self.golden.execute_payload(payload)
        opcode = int(payload[0]) & 0xFF
        name = Opcode(opcode).name if opcode in packets.COMMANDS else "unknown"
        self.findings.commands += 1
        self.findings.opcodes.add(name)
        self.findings.statuses[expected_status.name] += 1
        where = f"command {self.findings.commands} {_describe(payload)}"
        without_answer = is_quiet(payload) and expected_status == Status.OK
        self.findings.quiet_commands += without_answer
        if without_answer != (answer is None):
            self.findings.result(f"{where}: {'no' if answer is None else 'an'} answer")
        if answer is None:
            return
        status, data = answer
        alike = status == expected_status and len(data) == len(expected)
        if alike and len(data) and opcode in (Opcode.COUNTERS, Opcode.MARK):
            names = [counter.name for counter in registers.COUNTERS]
            self.findings.counters(where, *(dict(zip(names, words, strict=True)) for words in (data, expected)))
        elif not alike or not np.array_equal(data, expected):
            found = f"words {np.flatnonzero(data != expected)[:3]} differ" if alike else f"{len(data)} words"
            self.findings.result(f"{where}: status {status} for {int(expected_status)}, {found} for {len(expected)}")


def _describe(payload: Payload) -> str:
    opcode = int(payload[0]) & 0xFF
    if opcode not in packets.COMMANDS or len(payload) < COMMAND_WORDS:
        return f"opcode {opcode}, {len(payload)} words"
    fields = codec.decode(packets.COMMANDS[opcode], payload)
    return f"{Opcode(opcode).name} { ({name: value for name, value in fields.items() if value}) }"


def _random_operand(rng: random.Random, shape: tuple[int, ...], bits: int, signed: bool) -> Quantised:
    generator = np.random.default_rng(rng.getrandbits(32))
    values = generator.integers(*limits(bits, signed), shape, endpoint=True)
    return Quantised(torch.tensor(values, dtype=torch.float32), bits, signed, 0)


def _random_layer(rng: random.Random) -> Layer:
    """With remainders everywhere."""
    kernel = rng.randint(1, 4)
    return (
        rng.randint(1, 3),
        rng.randint(1, 20),
        rng.randint(1, 20),
        rng.randint(kernel, 9),
        rng.randint(kernel, 9),
        kernel,
        rng.randint(1, 3),
    )


def _large_layer(config: ArrayConfig) -> Layer:
    """Its input alone has more elements than the store."""
    images = GROUP * config.store_words // (32 * 16) + 1
    return images, 32, 3, 4, 4, 3, 2


def forget_all(config: ArrayConfig) -> list[Payload]:
    """Commands after which the device holds no tensor."""
    if not config.gathers:
        return []
    return [Command(Opcode.TENSOR, {"slot": slot}).payload() for slot in range(TENSOR_SLOTS)]


def fill(config: ArrayConfig, rng: random.Random) -> Iterator[Payload]:
    """Commands that put random words into all memories: from here on every result is determined. No tensor is left."""
    for space, (depth, width) in config.writable.items():
        if space == Space.PROGRAM:
            continue
        rows = min(depth, config.max_write_words // width)
        for row in range(0, depth, rows):
            fields = {"space": space, "row": row, "rows": rows, "words": width}
            yield Command(Opcode.WRITE, fields, random_words(rng, rows * width)).payload()
    if config.gathers:
        yield from _fill_cells(config, rng)


def _fill_cells(config: ArrayConfig, rng: random.Random) -> Iterator[Payload]:
    """Operand cells, from a store that is full."""
    pixels = min(config.store_words, MAX_EXTENT // GROUP)
    tensor = {"bits": OCTET_BITS, "n": 1, "h": 1, "w": pixels, "c": GROUP}
    yield Command(Opcode.TENSOR, tensor).payload()
    counts = {"y_count": MAX_EXTENT, "x_count": pixels - config.lane_groups, "x_step": 1}  # the same row for ever
    for target, cells in ((Target.A, config.a_cells), (Target.B, config.b_cells)):
        vectors = loads.tile_vectors(config, target)
        most = min(cells, MAX_EXTENT // vectors)
        for cell in range(0, cells, most):
            part = {"cell": cell, "positions": min(most, cells - cell) * vectors, "x_first": rng.randrange(pixels // 2)}
            window = {"target": target, "run": config.lanes, "taps": config.lanes}
            yield Command(Opcode.LOAD, counts | window | part).payload()
    yield Command(Opcode.TENSOR).payload()


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
        self.tensors: dict[int, loads.Place] = {}  #: in the device, once it has executed what was made
        self.pairs_seen: set[tuple[int, int]] = set()
        self._refusals = 0
        self.splits = 0  #: MATMULs with signed digits below the top one, as balanced splits have

    def payloads(self, count: int) -> list[Payload]:
        """`count` commands; two thirds are for precision pairs, each once if they are enough. Few pairs come again."""
        pairs = list(product(self.config.slice_counts, self.config.plane_counts))
        self.rng.shuffle(pairs)
        pairs *= -(-LEAST_MATMULS // len(pairs))
        others = max(count - len(pairs), count // 3)
        turns: list[tuple[int, int] | None] = [*pairs[: count - others], *[None] * others]
        self.rng.shuffle(turns)
        return [self._pair(*turn) if turn else self.payload() for turn in turns[:count]]

    def payload(self) -> Payload:
        """A command of any kind but MATMUL, or a refused one."""
        if self.rng.random() < REFUSED_SHARE:
            return self._refused()
        kinds = [self.write, self.read, self.read, *self._makers_of_cells(), self.registers, self.mark]
        if self.config.updates:
            kinds += [self.update, self.weights, self.stored]
        command = self.rng.choice([*kinds, self.plain])()
        self.note(command)
        return command.payload()

    def _makers_of_cells(self) -> list[Callable[[], Command]]:
        return [self.tensor, self.load, self.load] if self.config.gathers else [self.write, self.write]

    def note(self, command: Command) -> None:
        """That the device will execute `command`."""
        if command.opcode == Opcode.TENSOR:
            self.tensors.pop(command.fields["slot"], None)
            if command.fields["bits"]:
                self.tensors[command.fields["slot"]] = place_of(command.fields)

    def _pair(self, slices: int, planes: int) -> Payload:
        self.pairs_seen.add((slices, planes))
        return self.matmul(slices, planes).payload()

    def matmul(self, slices: int, planes: int) -> Command:
        config, rng, serial = self.config, self.rng, self.config.datapath == "serial"
        steps = max(1, SIZES["matmul_steps"] // (slices * planes))
        a_octets = rng.randint(-(-slices // config.slices_per_octet), 2)
        b_octets = rng.randint(-(-planes // OCTET_BITS), 2)
        a_most, b_most = config.a_cells // a_octets, config.b_cells // b_octets
        chunks = rng.randint(1, min(a_most, b_most, steps))
        steps //= chunks
        row_tiles = rng.randint(1, max(1, min(a_most // chunks, config.sum_tiles, steps)))
        col_tiles = rng.randint(1, max(1, min(b_most // chunks, config.sum_tiles // row_tiles, steps // row_tiles)))
        a_offset = rng.choice((0, 1, rng.getrandbits(slices)))
        b_negative = rng.choice((0, 1, rng.getrandbits(planes)))
        b_first = rng.randrange(0, b_octets * OCTET_BITS - planes + 1, 1 if serial else min(planes, OCTET_BITS))
        b_below = rng.choice((0, rng.randint(0, b_octets * OCTET_BITS - planes)))
        a_offset, b_negative = a_offset & config.a_tops, b_negative & config.b_tops
        if not serial:
            b_below = 0
        self.splits += a_offset > 1 or b_negative > 1
        fields = {
            "accumulate": rng.getrandbits(1),
            "quiet": rng.getrandbits(1),
            "slices": slices,
            "planes": planes,
            "a_offset": a_offset,
            "b_negative": b_negative,
            "chunks": chunks,
            "row_tiles": row_tiles,
            "col_tiles": col_tiles,
            "sum_tile": rng.randint(0, config.sum_tiles - row_tiles * col_tiles),
            "a_cell": rng.randint(0, config.a_cells - row_tiles * a_octets * chunks),
            "b_cell": rng.randint(0, config.b_cells - col_tiles * b_octets * chunks),
            "a_octets": a_octets,
            "b_octets": b_octets,
            "a_first": rng.randrange(0, a_octets * config.slices_per_octet - slices + 1, config.pass_slices(slices)),
            "b_first": b_first,
            "a_below": rng.choice((0, rng.randint(0, config.max_slices - slices))),
            "b_below": b_below,
        }
        if config.packs and rng.random() < PACKED_SHARE:
            tiles = rng.randint(1, min(4, config.sum_tiles))
            fields |= {"packed": 1, "b_below": 0, "tiles": tiles, "program": rng.randrange(PROGRAM_ROWS)}
            fields["sum_tile"] = rng.randint(0, config.sum_tiles - tiles)
            chunks = rng.choice((1, 2, 4))  # the program may lead to any cell, so all are named
            fields |= {"a_cell": 0, "b_cell": 0, "chunks": chunks}
            fields |= {"row_tiles": config.a_cells // (a_octets * chunks)}
            fields |= {"col_tiles": config.b_cells // (b_octets * chunks)}
        return Command(Opcode.MATMUL, fields)

    def update(self) -> Command:
        rng, groups = self.rng, self.rng.randint(1, MOST_GROUPS)
        state, signs = self._states(groups, groups)
        fields = {"state": state, "signs": signs, "groups": groups, "coefficient": rng.getrandbits(8)}
        fields |= {"decay": rng.getrandbits(16), "decay_shift": rng.randint(DECAY_SHIFT, MAX_SHIFT)}
        fields |= {"rate": rng.getrandbits(16), "rate_shift": rng.randint(STEP_SHIFT, MAX_SHIFT)}
        return Command(Opcode.UPDATE, fields)

    def weights(self) -> Command:
        rng, groups, octets = self.rng, self.rng.randint(1, MOST_GROUPS), self.rng.randint(1, 2)
        state, word = self._states(groups, groups * octets)
        fields = {"state": state, "word": word, "groups": groups, "octets": octets, "shift": rng.randint(0, MAX_SHIFT)}
        return Command(Opcode.WEIGHTS, fields)

    def _states(self, groups: int, others: int) -> tuple[int, int]:
        """First words of masters and momenta, and of so many others, before them or behind."""
        size = STATE_WORDS * groups
        first = self.rng.randint(0, self.config.store_words - size - others - 2)
        even = first + first % 2
        return self.rng.choice(((even, even + size), (first + others + (first + others) % 2, first)))

    def stored(self) -> Command:
        """READ of the store."""
        count = self.rng.randint(1, min(64, self.config.store_words))
        first = self.rng.randint(0, self.config.store_words - count)
        return Command(Opcode.READ, {"space": Space.STORE, "first": first, "count": count})

    def write(self) -> Command:
        config, rng = self.config, self.rng
        space = rng.choice(list(config.writable))
        depth, width = config.writable[space]
        words = rng.randint(1, width)
        rows = rng.randint(1, min(depth, config.max_write_words // words))
        fields = {
            "space": space,
            "rows": rows,
            "word": rng.randint(0, width - words),
            "words": words,
            "row": rng.randint(0, depth - rows),
        }
        return Command(Opcode.WRITE, fields, random_words(rng, rows * words))

    def tensor(self) -> Command:
        """Where there is room for it; else the slot is forgotten."""
        rng, slot = self.rng, self.rng.randrange(TENSOR_SLOTS)
        others = [other.words for number, other in self.tensors.items() if number != slot]
        for _ in range(10):
            shape = {"n": rng.randint(1, 4), "h": rng.randint(1, 9), "w": rng.randint(1, 12)}
            fields = {"slot": slot, "bits": rng.randint(1, MAX_BITS), "signed": rng.getrandbits(1)} | shape
            fields |= {"c": rng.choice((1, 2, 3, 8, 16, rng.randint(1, 40))), "word": 0, "split": rng.getrandbits(8)}
            room = self.config.store_words - len(place_of(fields).words)
            fields["word"] = rng.randint(0, max(0, room))
            words = place_of(fields).words
            if room >= 0 and not any(words.start < other.stop and other.start < words.stop for other in others):
                return Command(Opcode.TENSOR, fields)
        return Command(Opcode.TENSOR, {"slot": slot, "bits": 0})

    def load(self, target: Target | None = None) -> Command:
        """Part of windows of any tensor, halo included; a tensor where there is none."""
        if not self.tensors:
            return self.tensor()
        config, rng = self.config, self.rng
        slot, place = rng.choice(list(self.tensors.items()))
        target = rng.choice(list(Target)) if target is None else target
        cells, tile = (config.b_cells if target else config.a_cells), loads.tile_vectors(config, target)
        chunks = rng.randint(1, min(cells // place.octets, SIZES["load_chunks"]))
        tiles = rng.randint(1, min(cells // (place.octets * chunks), SIZES["load_tiles"]))
        vectors = tiles * tile - rng.choice((0, rng.randrange(tile)))
        lanes = chunks * config.lanes - rng.choice((0, rng.randrange(config.lanes)))
        across = rng.getrandbits(1)
        positions, taps = (lanes, vectors) if across else (vectors, lanes)
        n, h, w, c = place.shape
        lines = -(-taps // rng.randint(1, h))  # so that most lines are in the image
        run = rng.choice((lines, lines, lines, c * rng.randint(1, w), rng.randint(1, 70)))
        flips = place.octets * config.slices_per_octet
        fields = {
            "slot": slot,
            "target": target,
            "across": across,
            "n_fast": rng.getrandbits(1),
            "listed": 0,
            "quiet": rng.getrandbits(1),
            "flip": 0 if target else rng.choice((0, rng.getrandbits(flips))),
            "turn": 0 if target else rng.choice((0, rng.getrandbits(3))),
            **self._axis("y", h, lines),
            **self._axis("x", w, -(-run // c)),
            "n_first": rng.randrange(n),
            "positions": positions,
            "line_first": rng.choice((0, 0, rng.randint(0, h))),
            "place_first": rng.choice((0, rng.randrange(run))),
            "run": run,
            "taps": taps,
            "cell": rng.randint(0, cells - tiles * chunks * place.octets),
        }
        again = {"y_step": 0, "y_count": MAX_EXTENT, "y_first": 0}  # the same row of pixels
        if rng.getrandbits(1):  # all within the image as far as can be
            fields |= {"y_start": 0, "x_start": 0, "line_first": 0, "x_step": rng.getrandbits(1)} | again
            fields |= {"x_count": min(fields["x_count"], w), "x_first": 0, "n_fast": 0}
        images = n
        if not fields["n_fast"] and rng.getrandbits(1):
            images = LIST_ENTRIES
            fields |= {"listed": 1, "n_first": rng.choice((0, rng.randrange(images), images - 1))}
        left = loads.Window.of(fields).positions_left(images)
        if left < positions:
            fields |= again if rng.random() < 0.3 else {"positions": left}
        return Command(Opcode.LOAD, fields)

    def _axis(self, name: str, size: int, taps: int) -> Fields:
        """Positions along an image axis: the last one sees a pixel with so many taps, none stands behind the image."""
        rng = self.rng
        count, step = rng.randint(1, size + 2), rng.choice((0, 1, rng.randint(-3, 3)))
        last = rng.choice((size - 1, size - 1, rng.randint(max(1 - taps, -3), size - 1), 1 - taps))
        start = last - (count - 1) * max(step, 0)
        first = rng.choice((0, rng.randrange(count)))
        axis = {"start": start & 0xFFFF, "step": step & 0xFF, "count": count, "first": first}
        return {f"{name}_{field}": value for field, value in axis.items()}

    def read(self) -> Command:
        config, rng = self.config, self.rng
        bits = rng.choice((RAW_BITS, 32, rng.randint(2, 32), rng.randint(2, 32))) if config.requantises else RAW_BITS
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
        compares = config.requantises and rng.random() < 0.3
        return Command(Opcode.READ, fields | (self._comparison() if compares else {}))

    def _comparison(self) -> Fields:
        """What a READ of few sums becomes one with that compares."""
        threshold = self.rng.choice((0, 1, MAX_THRESHOLD, self.rng.getrandbits(self.rng.randint(1, 47))))
        return {"compare": 1, "bits": SIGN_BITS, "key": threshold % 2**32, "index": threshold >> 32}

    def registers(self) -> Command:
        first = self.rng.randrange(registers.IDENTITY_WORDS)
        count = self.rng.randint(1, registers.IDENTITY_WORDS - first)
        return Command(Opcode.READ, {"space": Space.REGISTERS, "first": first, "count": count})

    def mark(self) -> Command:
        return Command(Opcode.MARK, {"phase": self.rng.choice(list(Phase))})

    def plain(self) -> Command:
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
        rng, command = (
            self.rng,
            self.rng.choice((self.write, self.read, *self._makers_of_cells()[:2], self.mark, self.plain))(),
        )
        payload = command.payload()
        kind = ("opcode", "short", "data", "reserved")[turn % 4]
        if kind == "opcode":
            unknown = [number for number in range(256) if number and number not in self.config.commands]
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
        changes = [*self._wrong_accesses(), *self._wrong_matmuls()]
        if self.config.gathers:
            changes += [*self._wrong_tensors(), *self._wrong_loads()]
        command, change = changes[turn % len(changes)]
        return Command(command.opcode, command.fields | change, command.data).payload()

    def _wrong_accesses(self) -> list[tuple[Command, Fields]]:
        config, rng = self.config, self.rng
        depths, widths = zip(*config.writable.values(), strict=True)
        others = [space for space in (*range(8), 255) if space not in config.writable]
        return [
            (self.write(), {"space": rng.choice(others)}),
            (self.write(), {"row": rng.choice((sum(depths), 2**32 - 1))}),
            (self.write(), {"word": rng.choice((sum(widths), 2**16 - 1))}),
            (self.read(), {"space": rng.choice((Space.STORE, Space.LIST, 4, 255))}),
            (self.read(), {"bits": rng.choice((0, 1, 33, 63, 65, 255))}),
            (self.read(), {"rounding": rng.choice((2, 3))}),
            (self.read(), {"shift": rng.randint(MAX_SHIFT + 1, 255)}),
            (self.read(), {rng.choice(("rows", "cols", "count")): 0}),
            (self.read(), {"rows": config.rows + 1}),
            (self.read(), {"cols": config.columns + 1}),
            (self.read(), {"first": config.sum_tiles}),
            (self.read(), {"compare": 1, "bits": rng.choice((3, 4, RAW_BITS))}),
            (self.read(), {"compare": 1, "bits": SIGN_BITS, "index": rng.randint(2**16, 2**32 - 1)}),
            (self.read(), {"compare": 1, "bits": SIGN_BITS, "index": 2**15, "key": rng.randint(1, 2**32 - 1)}),
            (self.registers(), {"first": registers.IDENTITY_WORDS}),
            (self.registers(), {"count": 0}),
            (self.mark(), {"phase": rng.randint(len(Phase), 255)}),
        ]

    def _wrong_tensors(self) -> list[tuple[Command, Fields]]:
        rng = self.rng
        slot = next((slot for slot in range(TENSOR_SLOTS) if slot not in self.tensors), 0)
        tensor = Command(Opcode.TENSOR, {"slot": slot, "bits": 9, "word": 0, "n": 1, "h": 1, "w": 1, "c": 1})
        changes = [
            (tensor, {"slot": rng.randint(TENSOR_SLOTS, 255)}),
            (tensor, {"bits": rng.randint(MAX_BITS + 1, 255)}),
            (tensor, {"layout": 1 << rng.randrange(7), "bits": rng.choice((0, 9))}),
            (tensor, {rng.choice(("n", "h", "w", "c")): 0}),
            (tensor, {"n": 2**8, "h": 2**8}),
            (tensor, {"w": 2**8, "c": 2**8}),
            (tensor, {"h": 2**5, "w": 2**5, "c": 2**6}),
            (tensor, {"word": self.config.store_words - 1}),
            (tensor, {"word": 2**32 - 1}),
        ]
        others = [other.words for number, other in self.tensors.items() if number != slot]
        if others:
            words = rng.choice(others)
            changes += [(tensor, {"word": words.stop - 1}), (tensor, {"word": words.start, "bits": 1})]
        return changes

    def _wrong_loads(self) -> list[tuple[Command, Fields]]:
        rng, config = self.rng, self.config
        free = [slot for slot in range(TENSOR_SLOTS) if slot not in self.tensors]
        counts = dict.fromkeys(("positions", "taps", "run", "y_count", "x_count"), 1)
        changes = [(Command(Opcode.LOAD, counts), {"slot": slot, "flip": rng.getrandbits(1)}) for slot in free[:1]]
        if not self.tensors:
            return changes
        to_a, to_b = self.load(Target.A), self.load(Target.B)
        flips = self.tensors[to_a.fields["slot"]].octets * config.slices_per_octet
        if flips < 16:
            changes.append((to_a, {"flip": 1 << rng.randint(flips, 15)}))
        return [
            *changes,
            (to_b, {"flip": 1 << rng.randrange(16)}),
            (to_b, {"turn": rng.randint(1, 7)}),
            (to_a, {rng.choice(list(counts)): 0}),
            (to_a, {"x_first": to_a.fields["x_count"]}),
            (to_b, {"y_first": to_b.fields["y_count"]}),
            (to_b, {"place_first": to_b.fields["run"]}),
            *((load, change) for load in (to_a, to_b) for change in self._leaving(load.fields)),
            (to_a, {"listed": 1, "n_fast": 1}),
            (to_a, {"cell": config.a_cells}),
            (to_b, {"cell": config.b_cells}),
            (to_b, {"positions": 2**16 - 1, "taps": 2**16 - 1}),
        ]

    def _leaving(self, fields: Fields) -> list[Fields]:
        """How a LOAD's window leaves the tensor's image."""
        rng, (n, h, w, c) = self.rng, self.tensors[fields["slot"]].shape
        axis, size = rng.choice((("y", h), ("x", w)))
        again = {f"{axis}_start": 0, f"{axis}_count": rng.choice((size + 1, 2**16 - 1)), f"{axis}_step": 1}
        before = rng.randint(-(-fields["run"] // c), 2**15)
        return [
            {f"{axis}_start": rng.randint(size, 2**15 - 1), f"{axis}_count": 1, f"{axis}_first": 0},
            again | {f"{axis}_first": 0},  # a kernel larger than the image
            {f"{axis}_start": 0, f"{axis}_count": 2, f"{axis}_step": 127, f"{axis}_first": 0},  # a stride past it
            {"x_start": -before & 0xFFFF, "x_count": 1, "x_first": 0},
            {"listed": 0, "n_first": rng.choice((n, 2**16 - 1))},
            {"listed": 0, "n_first": 0, "x_first": 0, "positions": n * fields["x_count"] + 1}
            | {"y_first": 0, "y_count": 1},
            {"listed": 1, "n_fast": 0, "n_first": rng.choice((LIST_ENTRIES, 2**16 - 1))},
        ]

    def _wrong_matmuls(self) -> list[tuple[Command, Fields]]:
        config, rng = self.config, self.rng
        slices, planes = rng.choice(config.slice_counts), rng.choice(config.plane_counts)
        matmul = self.matmul(slices, planes)
        b_left = matmul.fields["b_octets"] * OCTET_BITS - planes
        changes = [
            (matmul, {"slices": rng.choice((0, config.max_slices + 1, 255))}),
            (matmul, {"planes": rng.choice((0, MAX_BITS + 1, 255))}),
            (matmul, {rng.choice(("chunks", "row_tiles", "col_tiles")): 0}),
            (matmul, {rng.choice(("chunks", "row_tiles", "col_tiles")): 2**16 - 1}),
            (matmul, {rng.choice(("a_octets", "b_octets")): rng.choice((0, 3, 15))}),
            (matmul, {"a_first": 2 * config.slices_per_octet}),
            (matmul, {"b_first": 2 * OCTET_BITS}),
            (matmul, {"b_below": b_left + 1} if b_left < 15 else {"b_below": 15, "planes": 2}),
            (matmul, {"a_cell": config.a_cells}),
            (matmul, {"b_cell": config.b_cells}),
            (matmul, {"sum_tile": config.sum_tiles}),
            (matmul, {"packed": 1, "b_below": 0, "tiles": rng.choice((0, config.sum_tiles + 1, 2**16 - 1))}),
            (matmul, {"packed": 1, "b_below": 0, "program": rng.randint(PROGRAM_ROWS, 2**16 - 1)}),
            (matmul, {"packed": 1, "planes": 1, "b_below": 1}),
        ]
        if config.datapath != "serial":
            changes += [
                (matmul, {"planes": planes - 1}),
                (matmul, {"b_first": 1, "planes": OCTET_BITS, "b_octets": 2}),
                (matmul, {"b_below": 1, "planes": OCTET_BITS, "b_octets": 2, "b_first": 0}),
                (matmul, {"b_negative": 2}),
            ]
        if config.is_wide:
            changes.append((matmul, {"slices": 2, "a_octets": 2, "a_first": 0, "a_offset": 2}))
            changes.append((matmul, {"planes": MAX_BITS, "b_octets": 2, "b_first": 0, "b_negative": 1 << OCTET_BITS}))
        if config.fuses:
            changes += [
                (matmul, {"slices": 3}),
                (matmul, {"slices": 6, "a_octets": 2, "a_first": 0}),
                (matmul, {"slices": rng.choice((2, 4)), "a_octets": 2, "a_first": rng.choice((1, 3))}),
                (matmul, {"slices": 4, "a_octets": 2, "a_first": 2}),
                (matmul, {"slices": 8, "a_octets": 2, "a_first": 0, "a_offset": 2}),
                (matmul, {"planes": 4, "b_first": 2}),
                (matmul, {"planes": 12, "b_octets": 2, "b_first": 0}),
            ]
        if slices < 16:
            changes.append((matmul, {"a_offset": 1 << rng.randint(slices, 15)}))
        if 1 < slices < 16:
            changes.append((matmul, {"a_below": config.max_slices - slices + 1}))
        if planes < 16:
            changes.append((matmul, {"b_negative": 1 << rng.randint(planes, 15)}))
        return changes
