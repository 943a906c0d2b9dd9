"""Bench of `bitfirst_hdl.top.UartTop`: the whole device over two pins."""

import logging
import random

import cocotb
import numpy as np
from bitfirst.command import Command
from bitfirst.golden.commands import GoldenDevice
from bitfirst_hdl import config as configs
from bitfirst_hdl.contract.packets import Opcode, Space, Status, Target
from bitfirst_hdl.contract.registers import IDENTITY_WORDS
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge
from cocotbext.uart import UartSink, UartSource

from . import common
from .bench_crossing import EMPTYING_CYCLES
from .bench_frames import FrameReader, frame

FRAME_BITS = 10  # of a byte, with start and stop bit
PERIOD_NS = 4  # of the clock beside cocotbext-uart


class Pins:
    """A serial port in Python: `send` bytes, `bytes` received. `bit_cycles` is its own idea of a bit's length."""

    def __init__(self, dut, divisor: int, bit_cycles: float) -> None:
        self.dut, self.divisor, self.bit_cycles = dut, divisor, bit_cycles
        self.received: list[int] = []
        self.first_edges: list[int] = []
        self.reader = FrameReader(unit_bytes=1)
        self.task = cocotb.start_soon(self._receive())

    async def send(self, stream: bytes, stop_bit: int = 1) -> None:
        passed = 0.0
        for byte in stream:
            for bit in (0, *((byte >> place) & 1 for place in range(8)), stop_bit):
                self.dut.rx_pin.value = bit
                before, passed = int(passed), passed + self.bit_cycles
                await common.cycles(self.dut, int(passed) - before)
        self.dut.rx_pin.value = 1

    async def _bit(self, at: float) -> int:
        """The line in the middle of a bit that begins `at` cycles after the start bit's edge."""
        await common.cycles(self.dut, int(at + self.bit_cycles / 2) - self._passed)
        self._passed = int(at + self.bit_cycles / 2)
        return common.value(self.dut.tx_pin)

    async def _receive(self) -> None:
        while True:
            await FallingEdge(self.dut.tx_pin)
            await RisingEdge(self.dut.clk)
            self.first_edges.append(common.cycle())
            self._passed = 0
            bits = [await self._bit(number * self.bit_cycles) for number in range(FRAME_BITS)]
            assert bits[0] == 0 and bits[-1] == 1, f"framing {bits}"
            byte = sum(bit << place for place, bit in enumerate(bits[1:-1]))
            self.received.append(byte)
            self.reader.unit(byte)


class OtherPins:
    """A serial port that nobody here wrote: cocotbext-uart's. It keeps time in whole nanoseconds."""

    def __init__(self, dut, divisor: int) -> None:
        baud = 10**9 // (divisor * PERIOD_NS)
        self.source, self.sink = UartSource(dut.rx_pin, baud=baud), UartSink(dut.tx_pin, baud=baud)
        for talkative in (self.source, self.sink):
            talkative.log.setLevel(logging.WARNING)
        self.reader = FrameReader(unit_bytes=1)
        self.task = cocotb.start_soon(self._receive())

    async def send(self, stream: bytes) -> None:
        await self.source.write(stream)
        await self.source.wait()

    async def _receive(self) -> None:
        while True:
            for byte in await self.sink.read():
                self.reader.unit(byte)


class LineBench:
    """Commands over `pins`, which send bytes and have a `reader`; answers against the golden model.

    byte_cycles  that one takes on the line; an answer has eight times as long, and a while
    """

    def __init__(self, dut, rng: random.Random, pins, byte_cycles: int) -> None:
        parameters = common.parameters()
        self.dut, self.rng, self.pins, self.byte_cycles = dut, rng, pins, byte_cycles
        self.config = configs.ArrayConfig(**parameters["config"])
        self.golden = GoldenDevice(self.config, parameters["fingerprint"])
        self.sequence = 0

    def frame(self, opcode: Opcode, data: np.ndarray | tuple = (), **fields: int) -> bytes:
        """The next command's frame."""
        payload = Command(opcode, fields, np.array(data, dtype=np.uint64)).payload()
        self.expected = self.golden.execute_payload(payload)
        stream = frame([int(word) for word in payload], self.sequence)
        self.sequence += 1
        return stream

    async def answer(self) -> None:
        """Wait for the answer to the command made last, and compare it."""
        status, words = self.expected
        count = len(self.pins.reader.frames) + 1
        limit = (len(words) + 8) * 8 * self.byte_cycles
        await common.until(self.dut, lambda: len(self.pins.reader.frames) >= count, limit)
        answer = self.pins.reader.frames[-1]
        assert answer.response["sequence"] == self.sequence - 1
        assert answer.response["status"] == status == Status.OK
        assert answer.data == [int(word) for word in words]

    async def call(self, opcode: Opcode, data: np.ndarray | tuple = (), **fields: int) -> None:
        await self.pins.send(self.frame(opcode, data, **fields))
        await self.answer()


async def start_array(dut, link_period: int, unit: str) -> None:
    """Clock and reset the core, where it has a clock of its own: `array_period` cycles of the link's long."""
    cycles = common.parameters().get("array_period")
    if cycles is None:
        return
    Clock(dut.array_clk, cycles * link_period, unit=unit).start(start_high=False)
    dut.array_rst.value = 1
    for _ in range(2):
        await RisingEdge(dut.array_clk)
    dut.array_rst.value = 0
    for _ in range(EMPTYING_CYCLES):
        await RisingEdge(dut.array_clk)


async def start(dut, speed: float = 1.0) -> LineBench:
    rng = await common.start(dut, rx_pin=1)
    await start_array(dut, common.PERIOD_STEPS, "step")
    divisor = common.parameters()["divisor"]
    return LineBench(dut, rng, Pins(dut, divisor, divisor / speed), FRAME_BITS * divisor)


async def product(bench: LineBench) -> None:
    """A tensor in, as both operands of one MATMUL; sums out."""
    config, rng = bench.config, bench.rng
    await bench.call(Opcode.PING, token=rng.getrandbits(64))
    await bench.call(Opcode.READ, space=Space.REGISTERS, first=0, count=IDENTITY_WORDS)
    data = [rng.getrandbits(64) for _ in range(8)]
    await bench.call(Opcode.WRITE, data, space=Space.STORE, row=0, rows=4, words=2)
    await bench.call(Opcode.TENSOR, bits=8, word=0, n=2, h=1, w=1, c=2 * config.lanes)
    vectors = {"positions": 2, "y_count": 1, "x_count": 1, "run": 2 * config.lanes, "taps": 2 * config.lanes}
    await bench.call(Opcode.LOAD, target=Target.A, flip=1, **vectors)
    await bench.call(Opcode.LOAD, target=Target.B, **vectors)
    signs = {"a_offset": 1, "b_negative": 1, "a_octets": 1, "b_octets": 1}
    await bench.call(Opcode.MATMUL, slices=2, planes=8, chunks=2, row_tiles=1, col_tiles=1, **signs)
    await bench.call(
        Opcode.READ, space=Space.SUMS, bits=32, signed=1, multiplier=1, count=1, rows=config.rows, cols=config.columns
    )


@cocotb.test()
async def same_speed(dut) -> None:
    """A product over the line; bytes of an answer follow one another without gaps."""
    bench = await start(dut)
    await product(bench)
    edges = bench.pins.first_edges[-8:]
    assert [edge - edges[0] for edge in edges] == [number * bench.byte_cycles for number in range(8)]


@cocotb.test()
async def other_speeds(dut) -> None:
    """The other end 2 % faster, then 2 % slower."""
    for speed in (1.02, 0.98):
        bench = await start(dut, speed)
        await product(bench)
        bench.pins.task.cancel()


@cocotb.test()
async def other_hands(dut) -> None:
    """A product over a serial port of other people's making."""
    Clock(dut.clk, PERIOD_NS, unit="ns").start(start_high=False)
    dut.rx_pin.value = dut.rst.value = 1
    await common.cycles(dut, 2)
    dut.rst.value = 0
    await common.cycles(dut, 1)
    await start_array(dut, PERIOD_NS, "ns")
    divisor = common.parameters()["divisor"]
    await product(LineBench(dut, random.Random(cocotb.RANDOM_SEED), OtherPins(dut, divisor), FRAME_BITS * divisor))


@cocotb.test()
async def disturbed_line(dut) -> None:
    """Glitches and stray bytes between frames, a byte without a stop bit and a byte lost within one."""
    bench = await start(dut)
    pins = bench.pins
    for kind in ("glitch", "no stop bit", "stray", "stray", "stray"):
        stream = bench.frame(Opcode.PING, token=bench.rng.getrandbits(64))
        if kind == "glitch":
            dut.rx_pin.value = 0
            await common.cycles(dut, pins.divisor // 4)
            dut.rx_pin.value = 1
            await common.cycles(dut, pins.divisor)
        elif kind == "no stop bit":
            await pins.send(stream[:20])
            await pins.send(bytes([bench.rng.randrange(256)]), stop_bit=0)
            await common.cycles(dut, pins.divisor)
            stream = stream[20:]
        else:
            await pins.send(bench.rng.randbytes(bench.rng.randint(1, 12)))
        await pins.send(stream)
        await bench.answer()
    stream = bench.frame(Opcode.PING, token=1)
    await pins.send(stream[:20] + stream[21:])
    await pins.send(stream)
    await pins.send(stream)
    await pins.send(stream)
    await common.until(dut, lambda: len(pins.reader.frames) == 8, 1_000 * bench.byte_cycles)
    answers = [(answer.response["opcode"], answer.response["status"]) for answer in pins.reader.frames[5:]]
    assert answers == [
        (Opcode.LINK, Status.BAD_FRAME),
        (Opcode.PING, Status.OK),
        (Opcode.LINK, Status.BAD_SEQUENCE),
    ]
