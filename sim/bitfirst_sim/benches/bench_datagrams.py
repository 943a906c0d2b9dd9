"""Bench of `bitfirst_hdl.datagrams.DatagramTop`: the device behind datagrams, late, doubled and damaged ones."""

import random

import cocotb
from bitfirst_hdl.contract import datagrams
from bitfirst_hdl.contract.packets import Opcode
from bitfirst_hdl.datagrams import Peer, Piece

from . import common
from .bench_frames import FrameReader
from .bench_uart import LineBench, product

HEAD_BYTES = 8
WORD_BYTES = 4
HERE, ELSEWHERE = {"address": 0xC0A8_0102, "port": 40_000}, {"address": 0xC0A8_0103, "port": 40_001}
STEPS = 0x7FFF_FFFF, 0xFFFF_FFFA  # numbers so far ahead that they wrap around on the way


class Ethernet:
    """Datagrams to and from the device. What comes for `HERE` goes to `reader`; `heads` are all, and whom they are for.

    doubles, lates  probabilities: a datagram comes twice; one of those before it comes again after it
    """

    def __init__(self, dut, rng: random.Random, doubles: float = 0.0, lates: float = 0.0) -> None:
        self.rng, self.doubles, self.lates = rng, doubles, lates
        self.driver = common.StreamDriver(dut, "received", rng, idle=0.2)
        self.monitor = common.StreamMonitor(dut, "sent", rng, stall=0.2, decode=self._take)
        self.dut = dut
        self.reader = FrameReader(unit_bytes=WORD_BYTES)
        self.number = 0
        self.heads: list[tuple[int, int, int, dict[str, int]]] = []  # number, taken, bytes, peer
        self.before: list[bytes] = []
        self.harmful = 0
        self._words: list[int] = []

    def put(self, datagram: bytes, peer: dict[str, int] = HERE, error: int = 0) -> None:
        source = common.pack(Peer, **peer)
        words = [datagram[at : at + WORD_BYTES] for at in range(0, len(datagram), WORD_BYTES)]
        for place, word in enumerate(words):
            last = place == len(words) - 1
            fields = {"word": int.from_bytes(word, "little"), "last": last, "error": error * last}
            self.driver.send(common.pack(Piece, **fields, length=len(datagram), peer=source))

    def datagram(self, data: bytes) -> bytes:
        """The next one."""
        self.number = (self.number + 1) & 0xFFFF_FFFF
        return self.number.to_bytes(HEAD_BYTES, "little") + data

    async def send(self, stream: bytes) -> None:
        for start in range(0, len(stream), datagrams.MAX_BYTES):
            datagram = self.datagram(stream[start : start + datagrams.MAX_BYTES])
            again = [datagram] * (self.rng.random() < self.doubles)
            late = self.rng.sample(self.before, 1) if self.before and self.rng.random() < self.lates else []
            for each in (datagram, *again, *late):
                self.put(each)
            self.harmful += len(again) + len(late)
            self.before.append(datagram)
        await self.done()

    async def done(self) -> None:
        await common.until(self.dut, lambda: self.driver.done, 100_000)

    def _take(self, payload: int) -> None:
        piece = common.unpack(Piece, payload)
        self._words.append(piece["word"])
        if not piece["last"]:
            assert len(self._words) * WORD_BYTES < piece["length"]
            return
        words, self._words = self._words, []
        assert len(words) * WORD_BYTES == piece["length"] <= HEAD_BYTES + datagrams.MAX_BYTES
        peer = common.unpack(Peer, piece["peer"])
        self.heads.append((words[0], words[1], len(words[2:]) * WORD_BYTES, peer))
        for word in words[2:]:
            self.reader.unit(word)


async def start(dut, **options: float) -> LineBench:
    rng = await common.start(dut)
    ethernet = Ethernet(dut, rng, **options)
    for ethernet.number in STEPS:
        ethernet.put(ethernet.number.to_bytes(HEAD_BYTES, "little") + bytes(8))
    return LineBench(dut, rng, ethernet, byte_cycles=100)


async def ask(bench: LineBench, peer: dict[str, int]) -> tuple[int, int]:
    """Numbers of the last datagram sent and taken, as the device tells `peer`."""
    ethernet = bench.pins
    count = len(ethernet.heads)
    ethernet.put(bytes(HEAD_BYTES), peer)
    await common.until(bench.dut, lambda: len(ethernet.heads) > count, 1_000)
    number, taken, size, to = ethernet.heads[-1]
    assert (size, to) == (0, peer)
    return number, taken


@cocotb.test()
async def good_network(dut) -> None:
    """A product; each datagram is the next one, tells what was taken, and goes to who sent."""
    bench = await start(dut)
    ethernet = bench.pins
    await product(bench)
    assert [number for number, *_ in ethernet.heads] == list(range(1, len(ethernet.heads) + 1))
    assert ethernet.heads[-1][1] == ethernet.number < 100
    assert all(to == HERE and size > 0 for *_, size, to in ethernet.heads)
    assert len(ethernet.heads) >= len(ethernet.reader.frames)


@cocotb.test()
async def asked(dut) -> None:
    """The numbers are told to whoever asks, which changes nothing; a damaged question gets no answer."""
    bench = LineBench(dut, rng := await common.start(dut), Ethernet(dut, rng), byte_cycles=100)
    ethernet = bench.pins
    assert await ask(bench, ELSEWHERE) == (0, 0)
    await bench.call(Opcode.PING, token=1)
    assert ethernet.heads[-1][1:] == (1, 32, HERE)
    ethernet.put(bytes(HEAD_BYTES), ELSEWHERE, error=1)
    await bench.call(Opcode.PING, token=2)
    assert await ask(bench, ELSEWHERE) == (2, 2)
    assert len(ethernet.heads) == 4
    await bench.call(Opcode.PING, token=3)
    assert ethernet.heads[-1] == (3, 3, 32, HERE)


@cocotb.test()
async def late_and_doubled(dut) -> None:
    bench = await start(dut, doubles=0.4, lates=0.4)
    await product(bench)
    assert bench.pins.harmful > 4


@cocotb.test()
async def damaged(dut) -> None:
    """A datagram that is damaged in its number too does not count: those after it are taken."""
    bench = await start(dut)
    bench.pins.put((bench.pins.number + 1_000).to_bytes(HEAD_BYTES, "little") + bytes(64), ELSEWHERE, error=1)
    await product(bench)
    assert all(to == HERE for *_, to in bench.pins.heads)
