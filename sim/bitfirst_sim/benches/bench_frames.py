"""Bench of `bitfirst_hdl.frames.FrameLink`: frames of every kind in, replies out, at any link width.

Parameters: `config`; `apart`, by counter: least cycles between its events, by default those of `Counters`.
"""

import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import cocotb
from bitfirst_hdl import config as configs
from bitfirst_hdl import counters
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import MAX_DATA_WORDS, MAX_PAYLOAD_WORDS, WORD_BYTES, Opcode, Status
from bitfirst_hdl.frames import Reply
from cocotb.triggers import RisingEdge

from . import common

FIRST_WORD_CYCLES = 2  # from a trailer's last unit on a 64-bit link to the frame's first word
HEADER_CYCLES = 1  # from a reply taken to its header
EVENTS = {  # outputs -> counters
    "frame_error": "frame_errors",
    "sequence_error": "sequence_errors",
    "received": "rx_words",
    "sent": "tx_words",
}


def frame(payload: list[int], sequence: int, restart: bool = False, reserved: int = 0) -> bytes:
    """A frame's bytes, made without the gateware's or the driver's code."""
    start = b"".join(
        number.to_bytes(2, "little") for number in (packets.SYNC, len(payload) | restart << 15, sequence & 0xFFFF)
    )
    body = start + (zlib.crc32(start) & 0xFFFF).to_bytes(2, "little")
    body += b"".join(word.to_bytes(WORD_BYTES, "little") for word in payload)
    return body + zlib.crc32(body).to_bytes(4, "little") + reserved.to_bytes(4, "little")


def random_words(rng: random.Random, count: int) -> list[int]:
    return [rng.getrandbits(64) for _ in range(count)]


def random_length(rng: random.Random) -> int:
    return rng.choice((1, 2, 4, rng.randint(1, 12), rng.randint(1, 40)))


class ReceiverModel:
    """What the frame layer makes of a stream of bytes, byte by byte."""

    def __init__(self, unit_bytes: int, most_words: int) -> None:
        self.unit_bytes = unit_bytes
        self.most_words = most_words  # of a frame's payload
        self.next_sequence = 0
        self.credit = 0  # words of accepted frames
        self.silent = False
        self.counts = {"accepted": 0, "frame_error": 0, "sequence_error": 0, "received": 0, "slid": 0, "answers": 0}
        self._rest = b""
        self._words: list[int] = []  # header, and what came after it

    def feed(self, stream: bytes) -> Iterator[tuple[str, object]]:
        """("word", word) for the sequencer, ("answer", (status, sequence)) for the host."""
        self._rest += stream
        while len(self._rest) >= WORD_BYTES:
            word = int.from_bytes(self._rest[:WORD_BYTES], "little")
            if not self._words and not self._is_header(self._rest[:WORD_BYTES]):
                self._rest = self._rest[self.unit_bytes :]
                self.counts["slid"] += 1
                continue
            self._rest = self._rest[WORD_BYTES:]
            self.counts["received"] += 1
            self._words.append(word)
            if len(self._words) == (self._words[0] >> 16 & 0x7FFF) + 2:
                words, self._words = self._words, []
                yield from self._end(words)

    def _is_header(self, head: bytes) -> bool:
        length = int.from_bytes(head[2:4], "little") & 0x7FFF
        right = head[:2] == packets.SYNC.to_bytes(2, "little")
        return (
            right
            and 1 <= length <= self.most_words
            and zlib.crc32(head[:6]) & 0xFFFF == int.from_bytes(head[6:], "little")
        )

    def _end(self, words: list[int]) -> Iterator[tuple[str, object]]:
        restart, sequence = words[0] >> 31 & 1, words[0] >> 32 & 0xFFFF
        body = b"".join(word.to_bytes(WORD_BYTES, "little") for word in words[:-1])
        ahead = (sequence - self.next_sequence) & 0xFFFF
        if zlib.crc32(body) != words[-1]:
            self.counts["frame_error"] += 1
            yield from self._answer(Status.BAD_FRAME, sequence, ahead)
        elif ahead and not restart:
            self.counts["sequence_error"] += 1
            yield from self._answer(Status.BAD_SEQUENCE, sequence, ahead)
        else:
            self.counts["accepted"] += 1
            self.next_sequence, self.silent = (sequence + 1) & 0xFFFF, False
            self.credit += len(words) - 1
            yield "word", words[0]
            for word in words[1:-1]:
                yield "word", word

    def _answer(self, status: Status, sequence: int, ahead: int) -> Iterator[tuple[str, object]]:
        if self.silent and 0 < ahead < 0x8000:
            return
        if not (status == Status.BAD_SEQUENCE and ahead >= 0x8000):
            self.silent = True
        self.counts["answers"] += 1
        yield "answer", (status, sequence)


@dataclass
class Received:
    """A frame from the device; `cycle` is that of its last unit."""

    header: dict[str, int]
    response: dict[str, int]
    data: list[int]
    cycle: int


class FrameReader:
    """Holds what comes from the device, unit by unit, to the frame format, and collects the frames."""

    def __init__(self, unit_bytes: int) -> None:
        self.unit_bytes = unit_bytes
        self.frames: list[Received] = []
        self.sequence = 0  # of the next frame; None: any
        self._bytes = b""
        self._words: list[int] = []

    def unit(self, unit: int) -> int:
        self._bytes += unit.to_bytes(self.unit_bytes, "little")
        if len(self._bytes) == WORD_BYTES:
            self._words.append(int.from_bytes(self._bytes, "little"))
            self._bytes = b""
            self._end_of_frame()
        return unit

    def _end_of_frame(self) -> None:
        header = common.unpack(packets.Header, self._words[0])
        if len(self._words) < header["length"] + 2:
            return
        words, self._words = self._words, []
        expected = frame(words[1:-1], header["sequence"])
        got = b"".join(word.to_bytes(WORD_BYTES, "little") for word in words)
        assert got == expected, f"malformed frame {got.hex()}, expected {expected.hex()}"
        if self.sequence is not None:
            assert header["sequence"] == self.sequence, f"frame {header['sequence']}, expected {self.sequence}"
            self.sequence = (self.sequence + 1) & 0xFFFF
        self.frames.append(Received(header, common.unpack(packets.Response, words[1]), words[2:-1], common.cycle()))


class HostEnd(FrameReader):
    """Takes the units of `tx`."""

    def __init__(self, dut, config: configs.ArrayConfig, rng: random.Random, stall: float = 0.0) -> None:
        super().__init__(config.link_bits // 8)
        self.monitor = common.StreamMonitor(dut, "tx", rng, stall, decode=self.unit)


class Bench:
    """Everything around the component: what is sent goes through the model too."""

    def __init__(self, dut, rng: random.Random, idle: float, stall: float, tx_stall: float = 0.0) -> None:
        self.dut, self.rng = dut, rng
        self.config = configs.ArrayConfig(**common.parameters()["config"])
        self.unit_bytes = self.config.link_bits // 8
        self.model = ReceiverModel(self.unit_bytes, min(MAX_PAYLOAD_WORDS, self.config.rx_words - 1))
        self.rx = common.StreamDriver(dut, "rx", rng, idle)
        self.words = common.Checker("frames")
        self.frames = common.StreamMonitor(dut, "frames", rng, stall, self.words)
        self.host = HostEnd(dut, self.config, rng, tx_stall)
        self.replies = common.StreamDriver(dut, "replies__0", rng, idle)
        self.data = common.StreamDriver(dut, "data__0", rng, idle)
        self.answers: list[tuple[Status, int]] = []
        self.counts = dict.fromkeys(EVENTS, 0)
        self.task = cocotb.start_soon(self._count())

    async def _count(self) -> None:
        """Events, which must come as far apart as `Counters` takes them to come."""
        apart = common.parameters().get("apart", counters.apart(self.config))
        last = dict.fromkeys(self.counts, -MAX_PAYLOAD_WORDS)
        while True:
            await RisingEdge(self.dut.clk)
            for event, counter in EVENTS.items():
                if common.value(getattr(self.dut, event)):
                    since = common.cycle() - last[event]
                    assert since >= apart[counter], f"{event} {since} cycles after the last one, not {apart[counter]}"
                    last[event] = common.cycle()
                    self.counts[event] += 1

    def send(self, stream: bytes) -> None:
        assert len(stream) % self.unit_bytes == 0
        size = self.unit_bytes
        self.rx.send(*(int.from_bytes(stream[at : at + size], "little") for at in range(0, len(stream), size)))
        for kind, item in self.model.feed(stream):
            if kind == "word":
                self.words.expect(item)
            else:
                self.answers.append(item)

    async def quiet(self, limit_cycles: int = 200_000) -> None:
        """Wait until all has been taken, come out, and been answered."""
        done = lambda: self.rx.done and self.replies.done and self.data.done and common.value(self.dut.idle)  # noqa: E731
        await common.until(self.dut, done, limit_cycles)
        await common.cycles(self.dut, 2)

    def finish(self) -> None:
        """All words and answers came, and no more."""
        self.words.finish()
        link = [received for received in self.host.frames if received.response["opcode"] == Opcode.LINK]
        got = [(received.response["status"], received.response["sequence"]) for received in link]
        assert got == self.answers, f"LINK answers {got}, expected {self.answers}"
        for event in ("frame_error", "sequence_error", "received"):
            assert self.counts[event] == self.model.counts[event], (event, self.counts, self.model.counts)
        words = sum(len(received.data) + 3 for received in self.host.frames)
        assert self.counts["sent"] == words


async def start(dut, idle: float = 0.0, stall: float = 0.0, tx_stall: float = 0.0) -> Bench:
    streams = ("rx__valid", "tx__ready", "frames__ready", "replies__0__valid", "data__0__valid")
    rng = await common.start(dut, **dict.fromkeys(streams, 0))
    return Bench(dut, rng, idle, stall, tx_stall)


def good_frame(bench: Bench, length: int | None = None) -> bytes:
    """The next frame in order."""
    return frame(random_words(bench.rng, length or random_length(bench.rng)), bench.model.next_sequence)


def flip_bits(rng: random.Random, stream: bytes, first: int, last: int) -> bytes:
    """One to three bits changed between byte `first` and byte `last` - 1."""
    number = int.from_bytes(stream, "little")
    for place in rng.sample(range(8 * first, 8 * last), rng.randint(1, 3)):
        number ^= 1 << place
    return number.to_bytes(len(stream), "little")


def cut(rng: random.Random, stream: bytes, unit_bytes: int) -> bytes:
    """Some units lost, at the end or within."""
    first = rng.randrange(0, len(stream), unit_bytes)
    last = rng.choice((len(stream), min(len(stream), first + unit_bytes)))
    return stream[:first] + stream[last:]


def trouble(bench: Bench) -> tuple[str, bytes]:
    """One of the ways in which a frame can be wrong."""
    rng, good = bench.rng, good_frame(bench)
    payload, expected = random_words(rng, random_length(rng)), bench.model.next_sequence
    kind = rng.choice(
        ("header", "payload", "trailer", "reserved", "cut", "repeated", "future", "garbage", "length", "restart")
    )
    if kind == "header":
        return kind, flip_bits(rng, good, 0, WORD_BYTES)
    if kind == "payload":
        return kind, flip_bits(rng, good, WORD_BYTES, len(good) - WORD_BYTES)
    if kind == "trailer":
        return kind, flip_bits(rng, good, len(good) - WORD_BYTES, len(good) - 4)
    if kind == "reserved":
        return kind, frame(payload, expected, reserved=1 << rng.randrange(32))
    if kind == "cut":
        return kind, cut(rng, good, bench.unit_bytes)
    if kind == "repeated":
        return kind, frame(payload, expected - rng.choice((1, 2, 100, 0x8000)))
    if kind == "future":
        return kind, frame(payload, expected + rng.choice((1, 2, 100, 0x7FFF)))
    if kind == "garbage":
        return kind, rng.randbytes(bench.unit_bytes * rng.randint(1, 24))
    if kind == "length":
        too_long = rng.choice((bench.model.most_words + 1, 4000))
        return kind, frame([0] * too_long, expected)[:8]
    return kind, frame(payload, rng.randrange(2**16), restart=True)


def flush(bench: Bench) -> None:
    """Complete what a cut frame left open: zeros are never a header."""
    bench.send(bytes((MAX_PAYLOAD_WORDS + 2) * WORD_BYTES))


@cocotb.test()
async def good_frames(dut) -> None:
    """Frames in order with idle cycles and back-pressure, replies with data at the same time."""
    bench = await start(dut, idle=0.2, stall=0.3, tx_stall=0.3)
    expected = []
    for _ in range(60):
        bench.send(good_frame(bench))
        words = bench.rng.choice((0, 0, 1, 5, 18))
        reply = {"opcode": bench.rng.randrange(1, 256), "status": bench.rng.randrange(8), "words": words}
        reply["sequence"] = bench.rng.randrange(2**16)
        data = random_words(bench.rng, words)
        bench.replies.send(common.pack(Reply, **reply))
        bench.data.send(*data)
        expected.append((reply["opcode"], reply["status"], reply["sequence"], data))
    await bench.quiet()
    got = [(f.response["opcode"], f.response["status"], f.response["sequence"], f.data) for f in bench.host.frames]
    assert got == expected
    assert bench.model.counts["accepted"] == 60
    bench.finish()


@cocotb.test()
async def damaged_frames(dut) -> None:
    """Frames damaged, cut, repeated, ahead, garbage between them: model and gateware agree on every one."""
    bench = await start(dut, idle=0.05, stall=0.05)
    bench.host.sequence = None
    seen = set()
    for _ in range(120 if bench.unit_bytes == 1 else 250):
        if bench.rng.random() < 0.5:
            bench.send(good_frame(bench))
        else:
            kind, stream = trouble(bench)
            seen.add(kind)
            bench.send(stream)
        if bench.rng.random() < 0.06:
            flush(bench)
            bench.send(frame([0], bench.model.next_sequence - 1))  # a repeated one tells the host where things stand
            await bench.quiet()
            response = bench.host.frames[-1].response
            assert response["next_sequence"] == bench.model.next_sequence
            assert response["credit"] == bench.model.credit & 0xFFFF
    flush(bench)
    await bench.quiet()
    assert len(seen) == 10
    counts = bench.model.counts
    assert min(counts.values()) > 10, f"the bench is too tame: {counts}"
    bench.finish()


@cocotb.test()
async def silence(dut) -> None:
    """One answer for a window lost behind a damaged frame, one for each damaged retransmission and repetition."""
    bench = await start(dut)

    async def answers_to(*streams: bytes) -> list[tuple[int, int, int]]:
        before = len(bench.host.frames)
        for stream in streams:
            bench.send(stream)
        await bench.quiet()
        responses = [received.response for received in bench.host.frames[before:]]
        return [(response["status"], response["sequence"], response["next_sequence"]) for response in responses]

    damaged = bytearray(frame([1, 2], 0))
    damaged[9] ^= 1
    ahead = [frame([3], sequence) for sequence in (1, 2, 3)]
    assert await answers_to(bytes(damaged), *ahead) == [(Status.BAD_FRAME, 0, 0)]
    assert await answers_to(bytes(damaged), *ahead) == [(Status.BAD_FRAME, 0, 0)]
    assert await answers_to(frame([1, 2], 0)) == []
    assert await answers_to(frame([1, 2], 0)) == [(Status.BAD_SEQUENCE, 0, 1)]
    assert await answers_to(*ahead[1:]) == [(Status.BAD_SEQUENCE, 2, 1)]
    assert await answers_to(frame([1, 2], 0)) == [(Status.BAD_SEQUENCE, 0, 1)]
    assert await answers_to(*ahead[2:]) == []
    assert await answers_to(*ahead) == []
    bench.finish()


@cocotb.test()
async def restart(dut) -> None:
    """A frame with `restart` sets the sequence both ways, whatever was before; the credit goes on."""
    bench = await start(dut)
    for sequence in (0, 1, 2):
        bench.send(frame([sequence], sequence))
    bench.send(frame([9], 7))
    await bench.quiet()
    assert len(bench.host.frames) == 1 and bench.host.sequence == 1
    bench.send(frame([4, 5], 0xFFFF, restart=True))
    bench.send(frame([6], 0))
    await bench.quiet()
    bench.host.sequence = 0
    bench.send(frame([6], 0))
    await bench.quiet()
    assert len(bench.host.frames) == 2
    response = bench.host.frames[-1].response
    assert response["next_sequence"] == 1
    assert response["credit"] == bench.model.credit == 11
    bench.finish()


@cocotb.test()
async def receiving_speed(dut) -> None:
    """One unit a cycle in without gaps, one word a cycle out, the first two cycles after the trailer."""
    bench = await start(dut)
    lengths = (1, 1, 2, 40, 3, 200, 4, 1)
    for length in lengths:
        bench.send(good_frame(bench, length))
    await bench.quiet()
    units = sum(length + 2 for length in lengths) * WORD_BYTES // bench.unit_bytes
    accepted = bench.rx.accepted
    assert len(accepted) == units
    assert accepted == list(range(accepted[0], accepted[0] + units)), "units without gaps"
    out = [cycle for cycle, _ in bench.frames.taken]
    end = last = -1
    for length in lengths:
        end += (length + 2) * WORD_BYTES // bench.unit_bytes
        first, out = out[: length + 1], out[length + 1 :]
        conversion = 0 if bench.unit_bytes == WORD_BYTES else 1
        if first[0] != accepted[end] + FIRST_WORD_CYCLES + conversion:
            assert first[0] == last + 1, "behind the frame before it, else two cycles after its trailer"
        assert first == list(range(first[0], first[0] + length + 1)), "words without gaps"
        last = first[-1]
    assert not out
    bench.finish()


@cocotb.test()
async def sending_speed(dut) -> None:
    """One unit a cycle out without gaps, also between frames; the header one cycle after the reply is taken."""
    bench = await start(dut)
    bench.send(good_frame(bench))
    await bench.quiet()
    words = (0, 0, 3, MAX_DATA_WORDS, 1, 0, 18, 0)
    data = random_words(bench.rng, sum(words))
    bench.data.send(*data)
    await common.cycles(dut, 3)
    for count in words:
        bench.replies.send(common.pack(Reply, opcode=Opcode.READ, words=count))
    await bench.quiet()
    assert [word for received in bench.host.frames for word in received.data] == data
    taken = [cycle for cycle, _ in bench.host.monitor.taken]
    assert len(taken) == sum(count + 3 for count in words) * WORD_BYTES // bench.unit_bytes
    assert taken == list(range(taken[0], taken[0] + len(taken))), "units without gaps"
    assert taken[0] == bench.replies.accepted[0] + HEADER_CYCLES
    bench.finish()


@cocotb.test()
async def credit(dut) -> None:
    """A host within its credit is never held up; one beyond it is, and loses nothing."""
    bench = await start(dut, stall=1.0)
    await bench.quiet()
    sizes, room = [], bench.config.rx_words
    while room:
        longest = min(bench.model.most_words, room - 1)
        sizes.append(longest if room == longest + 1 else bench.rng.randint(100, min(longest, room - 3)))
        room -= sizes[-1] + 1
    for length in sizes:
        bench.send(good_frame(bench, length))
    per_word = WORD_BYTES // bench.unit_bytes
    await common.until(dut, lambda: bench.rx.done, 2 * bench.config.rx_words * per_word)
    assert bench.rx.accepted[-1] - bench.rx.accepted[0] == len(bench.rx.accepted) - 1, "held up within the credit"
    taken = len(bench.rx.accepted)
    bench.send(good_frame(bench, 100))
    await common.cycles(dut, 200 * per_word)
    held = len(bench.rx.accepted) - taken
    assert held <= 5 * per_word, "the buffer takes more than it has"
    bench.frames.stall = 0.5
    await bench.quiet()
    bench.send(frame([0], bench.model.next_sequence - 1))
    await bench.quiet()
    assert bench.host.frames[-1].response["credit"] == bench.model.credit & 0xFFFF
    bench.finish()
