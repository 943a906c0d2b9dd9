"""Random pipelined commands, which no planner makes, on the simulated device and on the golden model."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
from bitfirst.benches.cycles import Program, fill
from bitfirst.command import Command, is_quiet
from bitfirst.errors import DeviceError
from bitfirst.golden import loads
from bitfirst.golden.commands import GoldenDevice
from bitfirst.link import FrameDecoder, Link, encode_frame
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import CONFIGS, MAX_BITS, ArrayConfig
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import COMMANDS, Opcode, Phase, Space, Status
from bitfirst_hdl.contract.registers import COUNTER_INDEX, EXECUTION_COUNTERS, IDENTITY_WORDS, SIMULATED
from bitfirst_hdl.verilog import fingerprint
from bitfirst_sim.simulator import Schedule, Simulator

AT_ONCE = ("commands", "faults", "matmuls", "loads", "words_written", "phase")  # exact at every moment
PING_WORDS = packets.COMMAND_WORDS + 1
SETTLED = (Opcode.MARK, Opcode.RESET, Opcode.SYNC)
WEIGHTS = {
    "store": 10,
    "list": 3,
    "sums": 6,
    "tensor": 8,
    "load": 26,
    "matmul": 24,
    "read": 24,
    "registers": 4,
    "mark": 2,
}
WEIGHTS |= {"plain": 6, "wrong": 8, "update": 5, "weights": 5, "stored": 3}


class Commands:
    """Payloads of random commands, right and wrong, for a device that holds what `golden` holds."""

    def __init__(self, golden: GoldenDevice, rng: random.Random) -> None:
        self.config, self.rng = golden.config, rng
        self.program = Program(golden.config, rng)
        self.program.tensors = golden.tensors
        self.last_matmul = {"a_cell": 0, "b_cell": 0, "sum_tile": 0}
        self.last_row = 0  # of the tensor that was loaded last

    def payload(self) -> np.ndarray:
        kind = self.rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        return getattr(self, f"_{kind}")()

    def _numbers(self, count: int) -> np.ndarray:
        style = self.rng.random()
        if style < 0.15:
            return np.full(count, self.rng.choice((0, 2**64 - 1, 2**47 - 1, 2**47, 2**47 + 1)), dtype=np.uint64)
        return np.array([self.rng.getrandbits(64) for _ in range(count)], dtype=np.uint64)

    def _place(self, depth: int, size: int, near: int) -> int:
        """First of `size` rows: at the start, the very end, near where the last MATMUL is, or anywhere."""
        most = depth - size
        return self.rng.choice(
            (0, most, max(0, min(most, near + self.rng.randint(-size, 2))), self.rng.randint(0, most))
        )

    def _write(self, space: Space, depth: int, width: int, near: int) -> np.ndarray:
        words = self.rng.randint(1, width)
        rows = self.rng.randint(1, self.rng.choice((2, 8, min(depth, packets.MAX_DATA_WORDS // words))))
        row, word = self._place(depth, rows, near), self.rng.randint(0, width - words)
        fields = {"space": space, "rows": rows, "words": words, "row": row, "word": word}
        return Command(Opcode.WRITE, fields, self._numbers(rows * words)).payload()

    def _store(self) -> np.ndarray:
        return self._write(Space.STORE, self.config.store_words, packets.STORE_WORD_WORDS, self.last_row)

    def _list(self) -> np.ndarray:
        return self._write(Space.LIST, packets.LIST_ENTRIES, 1, 0)

    def _sums(self) -> np.ndarray:
        near = self.last_matmul["sum_tile"] * self.config.rows
        return self._write(Space.SUMS, self.config.sum_rows, self.config.columns, near)

    def _tensor(self) -> np.ndarray:
        return self.program.tensor().payload()

    def _load(self) -> np.ndarray:
        command = self.program.load()
        if command.opcode != Opcode.LOAD:
            return command.payload()
        place = self.program.tensors[command.fields["slot"]]
        self.last_row = place.word
        size = loads.load_cells(self.config, command.fields, place.octets)
        name, cells = ("b_cell", self.config.b_cells) if command.fields["target"] else ("a_cell", self.config.a_cells)
        cell = self._place(cells, size, self.last_matmul[name])
        return Command(Opcode.LOAD, command.fields | {"cell": cell}).payload()

    def _matmul(self) -> np.ndarray:
        rng, config, last = self.rng, self.config, self.last_matmul
        fields = self.program.matmul(rng.randint(1, config.max_slices), rng.randint(1, MAX_BITS)).fields
        a_cells, b_cells = (fields[side + "_octets"] * fields["chunks"] for side in "ab")
        tiles = fields["tiles"] if fields.get("packed") else fields["row_tiles"] * fields["col_tiles"]
        fields |= {
            "sum_tile": self._place(config.sum_tiles, tiles, last["sum_tile"]),
            "a_cell": self._place(config.a_cells, fields["row_tiles"] * a_cells, last["a_cell"]),
            "b_cell": self._place(config.b_cells, fields["col_tiles"] * b_cells, last["b_cell"]),
        }
        self.last_matmul = fields
        return Command(Opcode.MATMUL, fields).payload()

    def _read(self) -> np.ndarray:
        rng, config = self.rng, self.config
        count = rng.randint(1, config.sum_tiles)
        fields = {
            "space": Space.SUMS,
            "bits": rng.choice((64, rng.randint(2, 32))),
            "signed": rng.getrandbits(1),
            "rounding": rng.getrandbits(1),
            "rows": rng.randint(1, config.rows),
            "cols": rng.randint(1, config.columns),
            "multiplier": rng.choice((1, rng.getrandbits(16))),
            "first": self._place(config.sum_tiles, count, self.last_matmul["sum_tile"]),
            "count": count,
            "shift": rng.choice((0, 31, 32, 33, rng.randint(0, 63))),
        }
        fields |= {name: rng.getrandbits(32) for name in ("key", "index", "row_stride", "col_stride")}
        return Command(Opcode.READ, fields).payload()

    def _update(self) -> np.ndarray:
        return self.program.update().payload()

    def _weights(self) -> np.ndarray:
        return self.program.weights().payload()

    def _stored(self) -> np.ndarray:
        return self.program.stored().payload()

    def _registers(self) -> np.ndarray:
        first = self.rng.randint(0, IDENTITY_WORDS - 1)
        count = self.rng.randint(1, IDENTITY_WORDS - first)
        return Command(Opcode.READ, {"space": Space.REGISTERS, "first": first, "count": count}).payload()

    def _mark(self) -> np.ndarray:
        return Command(Opcode.MARK, {"phase": self.rng.choice(list(Phase))}).payload()

    def _plain(self) -> np.ndarray:
        opcode = self.rng.choice((Opcode.COUNTERS, Opcode.COUNTERS, Opcode.PING, Opcode.SYNC, Opcode.RESET))
        fields = {"token": self.rng.getrandbits(64)} if opcode == Opcode.PING else {}
        return Command(opcode, fields).payload()

    def _wrong(self) -> np.ndarray:
        """A command with bits flipped, or cut off, or too long; it may be right all the same."""
        kind = self.rng.choice([kind for kind in WEIGHTS if kind != "wrong"])
        payload = getattr(self, f"_{kind}")()
        how = self.rng.randrange(5)
        if how == 0:
            return payload[: self.rng.randint(1, len(payload))]
        if how == 1:
            extra = self.rng.randint(1, packets.MAX_PAYLOAD_WORDS - len(payload))
            return np.concatenate([payload, self._numbers(extra)])
        if how == 2:
            payload[0] ^= np.uint64(self.rng.randrange(1, 256) << 8)  # where WRITE and READ name a space
            return payload
        for _ in range(self.rng.choice((1, 1, 2, 3))):
            word = self.rng.randrange(packets.COMMAND_WORDS if how == 3 else 1)
            payload[word] ^= np.uint64(1 << self.rng.randrange(64))
        return payload


@dataclass
class Expected:
    payload: np.ndarray
    opcode: int
    status: Status
    data: np.ndarray
    settled: bool
    reset: bool


class Pipeline:
    """Sends payloads as far as the credit allows, not waiting for answers, and compares every answer."""

    def __init__(self, simulator: Simulator, config: ArrayConfig, rng: random.Random, sequence: int) -> None:
        self.simulator, self.config, self.rng = simulator, config, rng
        self.golden = GoldenDevice(config, fingerprint(config) | SIMULATED)
        self.decoder = FrameDecoder()
        self.sequence = sequence
        self.restart = True
        self.expected: dict[int, Expected] = {}
        self.sent_words = self.freed_words = 0
        self.settled = True
        self.seen: Counter = Counter()

    def submit(self, payload: np.ndarray) -> None:
        while self.sent_words - self.freed_words + len(payload) + 1 + PING_WORDS > self.config.rx_words:
            if not self.expected:  # quiet ones alone: no answer would bring credit
                self._send(Command(Opcode.PING).payload())
                self.seen["asked for credit"] += 1
            self.take(self.rng.choice((1, 24, 200)))
        self._send(payload)

    def _send(self, payload: np.ndarray) -> None:
        opcode = int(payload[0]) & 0xFF
        status, data = self.golden.execute_payload(payload)
        if opcode in SETTLED:
            self.settled = True
        elif opcode in (Opcode.MATMUL, Opcode.LOAD, Opcode.READ) and status == Status.OK:
            self.settled = False
        reset = opcode == Opcode.RESET and status == Status.OK
        if status == Status.OK and is_quiet(payload):
            self.seen[f"quiet {Opcode(opcode).name}"] += 1
        else:
            self.expected[self.sequence] = Expected(payload, opcode, status, data, self.settled, reset)
            self.seen["quiet refused"] += is_quiet(payload)
        self.simulator.send(encode_frame(payload, self.sequence, self.restart))
        self.sequence, self.restart = (self.sequence + 1) & 0xFFFF, False
        self.sent_words += len(payload) + 1

    def jump(self) -> None:
        """The next frame restarts the sequence elsewhere, whatever is under way."""
        self.sequence, self.restart = (self.sequence + self.rng.randint(2000, 60000)) & 0xFFFF, True
        self.seen["restarts"] += 1

    def take(self, min_bytes: int = 2**40) -> None:
        data = self.simulator.receive(min_bytes)
        assert data or not self.expected, f"no answer to {self.expected}"
        for payload in self.decoder.feed(data):
            self._compare(payload)

    def finish(self) -> None:
        """All execution counters, at the end, exactly."""
        self.submit(Command(Opcode.MARK, {"phase": Phase.UPDATE}).payload())
        self.take()
        assert not self.expected, f"{len(self.expected)} commands are not answered"
        assert (self.decoder.damaged_frames, self.decoder.skipped_bytes) == (0, 0)
        assert self.sent_words == self.freed_words

    def _compare(self, payload: np.ndarray) -> None:
        response = codec.decode(packets.Response, payload)
        freed = (response["credit"] - self.freed_words) & 0xFFFF
        assert freed <= self.sent_words - self.freed_words
        self.freed_words += freed
        sequence = response["sequence"]
        expected = self.expected.get(sequence)
        assert expected, f"answer to {sequence}, which waits for none: {response}"
        is_read = expected.opcode == Opcode.READ
        before = [number for number in self.expected if number != sequence]
        before = before[: list(self.expected).index(sequence)]
        for number in before:
            other = self.expected[number]
            assert (other.opcode == Opcode.READ) != is_read, f"{sequence} before {number}"
            assert expected.opcode not in SETTLED, f"{sequence} before {number}"
        del self.expected[sequence]
        self.seen["overtaken"] += bool(before)
        what = f"{sequence}: {[hex(word) for word in expected.payload[:4]]}"
        assert (response["opcode"], response["status"]) == (expected.opcode, expected.status), (what, response)
        data, wanted = payload[1:], expected.data
        self.seen[Status(expected.status).name] += 1
        if expected.status == Status.OK:
            self.seen[Opcode(expected.opcode).name] += 1
        if len(wanted) and expected.opcode in (Opcode.COUNTERS, Opcode.MARK):
            assert len(data) == len(COUNTER_INDEX)
            names = EXECUTION_COUNTERS if expected.settled else AT_ONCE
            places = [COUNTER_INDEX[name] for name in names]
            self.seen["exact counters"] += expected.settled
            data, wanted = data[places], wanted[places]
        assert np.array_equal(data, wanted), (what, [hex(w) for w in data], [hex(w) for w in wanted])


def stress(seed: int, commands: int, schedule: Schedule | None = None, config_name: str = "tiny") -> Counter:
    """What happened how often. Raises `AssertionError` at the first difference."""
    rng, config = random.Random(seed), CONFIGS[config_name]
    with Simulator(config, schedule=schedule, cycle_limit=2_000_000) as simulator:
        pipeline = Pipeline(simulator, config, rng, sequence=(-commands // 2) & 0xFFFF)
        source = Commands(pipeline.golden, rng)
        for payload in fill(config, rng):
            pipeline.submit(payload)
        for _ in range(commands):
            pipeline.submit(source.payload())
            if rng.random() < 0.03:
                pipeline.take(rng.choice((1, 100, 2**40)))
            if rng.random() < 0.003:
                pipeline.jump()
        pipeline.finish()
        pipeline.seen["cycles"] = simulator.cycles
        pipeline.seen["overflows"] = pipeline.golden.counters["overflows"]
    return pipeline.seen


SCHEDULES = [None, Schedule(1, 0.0, 0.9), Schedule(2, 0.5, 0.5), Schedule(3, 0.0, 0.98)]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_raw_commands_in_a_pipeline(schedule: Schedule | None) -> None:
    seen = stress(7, 3000, schedule)
    kinds = [opcode.name for opcode in COMMANDS]
    for name in (*kinds, "overtaken", "exact counters", "quiet LOAD", "quiet MATMUL", "quiet refused"):
        assert seen[name] > 0, name
    for status in ("BAD_OPCODE", "BAD_LENGTH", "BAD_SPACE", "BAD_RANGE", "BAD_VALUE"):
        assert seen[status] > 0, status


class ScheduledTransport(RtlTransport):
    """The simulated device with random idle and stall cycles."""

    def __init__(self, config: ArrayConfig, schedule: Schedule | None) -> None:
        self.name = "the simulated device"
        self._simulator = Simulator(config, schedule=schedule, cycle_limit=2_000_000)
        self._outbox: list[bytes] = []


def _as_command(payload: np.ndarray) -> Command:
    opcode = Opcode(int(payload[0]) & 0xFF)
    fields = codec.decode(packets.COMMANDS[opcode], payload)
    del fields["opcode"]
    return Command(opcode, fields, payload[packets.COMMAND_WORDS :])


def stress_link(seed: int, commands: int, schedule: Schedule | None = None) -> Counter:
    """The same through `Link`: refusals are raised in between, restarts come while work is under way."""
    rng, config, seen = random.Random(seed), CONFIGS["tiny"], Counter()
    golden = GoldenDevice(config, fingerprint(config) | SIMULATED)
    source = Commands(golden, rng)
    link = Link(ScheduledTransport(config, schedule))
    requests: list[tuple] = []

    def attempt(action: Callable[..., object], *arguments: object) -> object:
        """Again after each refusal: one that is raised by `submit` is that of an earlier command."""
        while True:
            try:
                return action(*arguments)
            except DeviceError as error:
                assert "refused" in str(error), error
                seen["refusals raised"] += 1

    def send(command: Command) -> None:
        status, data = golden.execute(command)
        requests.append((attempt(link.submit, command), status, data))

    def compare() -> None:
        send(Command(Opcode.PING, {"token": rng.getrandbits(64)}))  # or the link would ask, behind quiet ones
        attempt(link.drain)
        for request, status, data in requests:
            assert request.done
            opcode = request.command.opcode
            if opcode in (Opcode.COUNTERS, Opcode.MARK) and status == Status.OK:
                names = EXECUTION_COUNTERS if opcode == Opcode.MARK else AT_ONCE
                places = [COUNTER_INDEX[name] for name in names]
                assert np.array_equal(request.data[places], data[places]), (names, request.data[places], data[places])
            else:
                assert np.array_equal(request.data, data), (opcode, request.command.fields, status)
            seen[opcode.name] += 1
            seen["refused"] += status != Status.OK
            seen["quiet"] += request.quiet
            seen["quiet refused"] += request.quiet and status != Status.OK
        requests.clear()

    try:
        link.restart(first_sequence=65536 - commands // 3)
        link.set_window(config.rx_words)
        for payload in fill(config, rng):
            golden.execute_payload(payload)
            link.call(_as_command(payload))
        golden.execute(Command(Opcode.RESET))
        link.reset_counters()
        for _ in range(commands):
            payload = source.payload()
            opcode = int(payload[0]) & 0xFF
            if opcode not in packets.COMMANDS or len(payload) < packets.COMMAND_WORDS or opcode == Opcode.RESET:
                continue
            command = _as_command(payload)
            if opcode == Opcode.READ and command.fields["bits"] > 64:  # `response_words` cannot
                continue
            send(command)
            if rng.random() < 0.02:
                compare()
        compare()
        words = attempt(link.call, Command(Opcode.MARK, {"phase": Phase.UPDATE}))
        golden.execute(Command(Opcode.MARK, {"phase": Phase.UPDATE}))
        got = {name: int(words[COUNTER_INDEX[name]]) for name in EXECUTION_COUNTERS}
        assert got == golden.counters
        statistics = link.statistics
        assert (statistics.retransmitted_frames, statistics.lost_responses, statistics.late_responses) == (0, 0, 0)
    finally:
        link.close()
    return seen


@pytest.mark.parametrize("schedule", SCHEDULES[:2], ids=str)
def test_commands_through_the_link(schedule: Schedule | None) -> None:
    seen = stress_link(8, 2000, schedule)
    kinds = [opcode.name for opcode in packets.COMMANDS if opcode != Opcode.RESET]
    for name in (*kinds, "refused", "quiet", "quiet refused"):
        assert seen[name] > 0, name
    assert 0 < seen["refusals raised"] <= seen["refused"]


def test_what_was_under_way_before_a_restart_is_done() -> None:
    """A READ whose answer comes late must not be taken for one of the same number after the restart."""
    read = Command(Opcode.READ, {"space": Space.SUMS, "bits": 64, "rows": 2, "cols": 4, "count": 8})
    place = {"space": Space.SUMS, "rows": 16, "words": 4}
    before, after = (np.arange(first, first + 64, dtype=np.uint64) for first in (100, 500))
    old = Link(RtlTransport(CONFIGS["tiny"]))
    old.restart()
    old.call(Command(Opcode.WRITE, place, before))
    for _ in range(4):
        old.submit(read)
    old.flush()
    new = Link(old.transport)
    new.restart()
    new.submit(Command(Opcode.WRITE, place, after))
    for request in [new.submit(read) for _ in range(4)]:
        new.wait(request)
        assert np.array_equal(request.data, after)
    new.close()


def test_a_refused_read_is_answered_before_the_next_one() -> None:
    link = Link(RtlTransport(CONFIGS["tiny"]))
    link.restart()
    link.reset_counters()
    whole = {"space": Space.SUMS, "bits": 64, "rows": 2, "cols": 4, "count": 8}
    for fields in (whole, whole | {"count": 9}, whole | {"rows": 1, "cols": 1, "count": 1}):
        link.submit(Command(Opcode.READ, fields))
    with pytest.raises(DeviceError, match=r"count=9.*BAD_RANGE"):
        link.drain()
    link.drain()
    counters = link.call(Command(Opcode.COUNTERS))
    assert [int(counters[COUNTER_INDEX[name]]) for name in ("commands", "faults")] == [4, 1]
    link.close()


def test_quiet_commands_alone_use_up_the_credit() -> None:
    """Far more of them than the buffer holds: no answer comes by itself, and all are executed."""
    config = CONFIGS["tiny"]
    link = Link(RtlTransport(config))
    link.restart()
    link.reset_counters()
    fields = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "a_octets": 1, "b_octets": 1}
    requests = [link.submit(Command(Opcode.MATMUL, fields | {"quiet": 1})) for _ in range(config.rx_words)]
    link.drain()
    assert all(request.done and len(request.data) == 0 for request in requests)
    counters = link.call(Command(Opcode.COUNTERS))
    assert counters[COUNTER_INDEX["matmuls"]] == config.rx_words
    assert link.statistics.silences == link.statistics.retransmitted_frames == link.statistics.lost_responses == 0
    link.close()
