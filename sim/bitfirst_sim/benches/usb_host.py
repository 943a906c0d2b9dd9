"""A USB host at full speed in Python, by the letter of USB 2.0, on a bus: `Bus`, or `ulpi_phy.UlpiBus`."""

import random
from dataclasses import dataclass, field

from cocotb import start_soon
from cocotb.triggers import RisingEdge, SimTimeoutError, Timer, with_timeout
from cocotb.utils import get_sim_time

from . import common
from .bench_frames import FrameReader

FRAME_BITS = 12_000  # 1 ms, a start of frame apart
RESET_BITS = 600  # a real one takes 10 ms; LUNA counts to 25 us
TIMEOUT_BITS = 16  # at least so long a host waits for an answer (7.1.19.1)
PACKET_BYTES = 64
OUT, IN, SOF, SETUP = 0xE1, 0x69, 0xA5, 0x2D
DATA, ACK, NAK, STALL = (0xC3, 0x4B), 0xD2, 0x5A, 0x1E
SYNC = 0x80
GET_DESCRIPTOR, SET_ADDRESS, SET_CONFIGURATION = 6, 5, 9
DEVICE, CONFIGURATION, STRING, INTERFACE, ENDPOINT = 1, 2, 3, 4, 5
SET_LINE_CODING = 0x20


def crc5(value: int) -> int:
    """Of the 11 bits of a token (8.3.5.1)."""
    crc = 0x1F
    for place in range(11):
        crc = crc >> 1 ^ (0x14 if (crc ^ value >> place) & 1 else 0)
    return crc ^ 0x1F


def crc16(data: bytes) -> bytes:
    """Of the bytes of a data packet (8.3.5.2)."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return (crc ^ 0xFFFF).to_bytes(2, "little")


def start_of_frame(number: int) -> bytes:
    return bytes([SOF]) + (number | crc5(number) << 11).to_bytes(2, "little")


@dataclass
class Faults:
    """Probabilities for each transaction of the data endpoints; `count` says how often each happened.

    damaged_out  a bit of the host's data packet falls over
    lost_answer  the device's handshake does not reach the host
    damaged_in   the device's data packet reaches the host damaged
    lost_ack     the host's handshake does not reach the device
    """

    rng: random.Random
    damaged_out: float = 0.0
    lost_answer: float = 0.0
    damaged_in: float = 0.0
    lost_ack: float = 0.0
    count: dict[str, int] = field(default_factory=dict)

    def happens(self, name: str) -> bool:
        happened = self.rng.random() < getattr(self, name)
        self.count[name] = self.count.get(name, 0) + happened
        return happened


class Bus:
    """Packets on the three pins of `bitfirst_boards.usb.UsbTop`. `slowest_bits`: the longest that it took to answer.

    It drives and samples at falling edges of the 48 MHz clock, of which a bit has four.
    """

    bit_steps = 4 * common.PERIOD_STEPS

    def __init__(self, dut) -> None:
        self.dut = dut
        self.slowest_bits = 0.0

    async def attached(self) -> None:
        """Till the device is seen, by its pull-up."""
        await Timer(1, "step")  # to the falling edge
        assert common.value(self.dut.pullup)

    async def put(self, d_p: int, d_n: int, bits: float) -> None:
        """A state of the lines, for so long."""
        self.dut.d_p.value, self.dut.d_n.value = d_p, d_n
        await Timer(round(bits * self.bit_steps), "step")

    async def send(self, packet: bytes) -> None:
        """SYNC, the packet, end of packet; NRZI, with a 0 after six 1s."""
        level, ones = 1, 0
        for byte in bytes([SYNC]) + packet:
            for place in range(8):
                bit = byte >> place & 1
                level ^= 1 - bit
                await self.put(level, 1 - level, 1)
                ones = ones + 1 if bit else 0
                if ones == 6:
                    level, ones = 1 - level, 0
                    await self.put(level, 1 - level, 1)
        await self.put(0, 0, 2)
        await self.put(1, 0, 1)

    async def receive(self) -> bytes | None:
        """The device's packet; None when none comes in time."""
        start = get_sim_time("step")
        try:
            await with_timeout(RisingEdge(self.dut.drive), TIMEOUT_BITS * self.bit_steps, "step")
        except SimTimeoutError:
            return None
        self.slowest_bits = max(self.slowest_bits, (get_sim_time("step") - start) / self.bit_steps)
        await Timer(self.bit_steps // 2 + 1, "step")
        bits, level, ones = [], 1, 0
        while (now := common.value(self.dut.d_p_out)) != common.value(self.dut.d_n_out):
            bit, level = int(now == level), now
            if ones == 6:
                assert not bit, "seven ones in a row"
                ones = 0
            else:
                bits.append(bit)
                ones = ones + 1 if bit else 0
            await Timer(self.bit_steps, "step")
        assert not now, "both lines high"
        await Timer(2 * self.bit_steps, "step")
        assert common.value(self.dut.d_p_out) and not common.value(self.dut.d_n_out), "no J after the end"
        await Timer(self.bit_steps, "step")
        assert not common.value(self.dut.drive) and len(bits) % 8 == 0
        octets = [sum(bit << place for place, bit in enumerate(bits[at : at + 8])) for at in range(0, len(bits), 8)]
        assert octets[0] == SYNC
        return bytes(octets[1:])


class Host:
    """One device, of class CDC-ACM, on `bus`: enumerated by `enumerate`, then bytes both ways.

    What the data endpoint sends goes to `reader`, which finds frames in it. `naks`: how often the device had no room.
    """

    def __init__(self, bus, faults: Faults) -> None:
        self.bus = bus
        self.faults = faults
        self.reader = FrameReader(unit_bytes=1)
        self.naks = 0
        self.packets: list[int] = []  # sizes of those received
        self._outbox = bytearray()
        self._next_frame = 0

    async def _pause(self, bits: int) -> None:
        await Timer(bits * self.bus.bit_steps, "step")

    # transactions
    async def token(self, pid: int, endpoint: int) -> None:
        await self._start_frame()
        value = self.address | endpoint << 7
        await self.bus.send(bytes([pid]) + (value | crc5(value) << 11).to_bytes(2, "little"))

    async def _start_frame(self) -> None:
        await self._pause(4)
        if get_sim_time("step") < self._next_frame:
            return
        frame_steps = FRAME_BITS * self.bus.bit_steps
        number = get_sim_time("step") // frame_steps & 0x7FF
        self._next_frame = get_sim_time("step") + frame_steps
        await self.bus.send(start_of_frame(number))
        await self._pause(4)

    async def write(self, endpoint: int, data: bytes, pid: int = OUT, faulty: bool = False) -> int:
        """One packet, sent until it is taken or refused; returns the last handshake."""
        toggle = self.toggles.get((OUT, endpoint), 0)
        for _ in range(100):
            packet = bytearray(bytes([DATA[toggle]]) + data + crc16(data))
            if faulty and self.faults.happens("damaged_out"):
                packet[self.faults.rng.randrange(1, len(packet))] ^= 1 << self.faults.rng.randrange(8)
            await self.token(pid, endpoint)
            await self._pause(4)
            await self.bus.send(bytes(packet))
            answer = await self.bus.receive()
            if answer is None or (faulty and self.faults.happens("lost_answer")):
                continue
            assert len(answer) == 1 and answer[0] in (ACK, NAK, STALL)
            if answer[0] == NAK:
                self.naks += 1
                continue
            self.toggles[OUT, endpoint] = 1 - toggle
            return answer[0]
        raise AssertionError(f"endpoint {endpoint} takes nothing")

    async def read(self, endpoint: int, faulty: bool = False) -> bytes | int:
        """One packet's data; NAK or STALL."""
        toggle = self.toggles.get((IN, endpoint), 0)
        for _ in range(100):
            await self.token(IN, endpoint)
            answer = await self.bus.receive()
            if answer is None:
                continue
            if len(answer) == 1:
                assert answer[0] in (NAK, STALL)
                return answer[0]
            data = answer[1:-2]
            assert answer[-2:] == crc16(data) and len(data) <= PACKET_BYTES and answer[0] in DATA
            if faulty and self.faults.happens("damaged_in"):
                continue
            if not (faulty and self.faults.happens("lost_ack")):
                await self._pause(4)
                await self.bus.send(bytes([ACK]))
            if answer[0] != DATA[toggle]:
                continue  # the same as before: its ACK was lost
            self.toggles[IN, endpoint] = 1 - toggle
            return data
        raise AssertionError(f"endpoint {endpoint} sends nothing good")

    async def control(
        self, kind: int, request: int, value: int, index: int = 0, data: bytes | int = b""
    ) -> bytes | None:
        """A control transfer, of `data` to the device or of so many bytes from it; None when the device refuses it."""
        length = data if isinstance(data, int) else len(data)
        setup = bytes([kind, request]) + b"".join(part.to_bytes(2, "little") for part in (value, index, length))
        self.toggles[OUT, 0] = 0
        assert await self.write(0, setup, pid=SETUP) == ACK
        self.toggles[OUT, 0] = self.toggles[IN, 0] = 1
        received = b""
        while isinstance(data, int):
            part = await self._wait_for(0)
            if part == STALL:
                return None
            received += part
            if len(part) < PACKET_BYTES or len(received) == data:
                break
        if isinstance(data, int):
            self.toggles[OUT, 0] = 1
            assert await self.write(0, b"") == ACK
            return received
        if data:
            assert await self.write(0, data) == ACK
            self.toggles[IN, 0] = 1
        return None if await self._wait_for(0) == STALL else b""

    async def _wait_for(self, endpoint: int) -> bytes | int:
        for _ in range(100):
            data = await self.read(endpoint)
            if data != NAK:
                return data
        raise AssertionError("it never answers")

    # the device
    async def enumerate(self) -> None:
        """From a bus reset to open data endpoints; `device`, `configuration` and `strings` are what it told."""
        self.address, self.toggles = 0, {}
        await self.bus.attached()
        await self.bus.put(0, 0, RESET_BITS)
        await self.bus.put(1, 0, 100)
        start = await self._describe(DEVICE, 8)
        assert start[0] == 18 and start[7] == PACKET_BYTES
        address = self.faults.rng.randrange(1, 128)
        assert await self.control(0x00, SET_ADDRESS, address) == b""
        self.address = address
        self.device = await self._describe(DEVICE, 18)
        head = await self._describe(CONFIGURATION, 9)
        self.configuration = await self._describe(CONFIGURATION, int.from_bytes(head[2:4], "little"))
        self.strings = {}
        for number in self.device[14:17]:
            text = await self._describe(STRING, 255, number, language=0x0409)
            assert text[0] == len(text) and text[1] == STRING
            self.strings[number] = text[2:].decode("utf-16-le")
        assert await self.control(0x00, SET_CONFIGURATION, self.configuration[5]) == b""
        self.toggles = {}  # 9.1.1.5
        self.data, self.status = self._endpoints()
        coding = (115_200).to_bytes(4, "little") + bytes([0, 0, 8])
        assert await self.control(0x21, SET_LINE_CODING, 0, 0, coding) == b""
        assert await self.read(self.status) == NAK

    async def _describe(self, kind: int, length: int, index: int = 0, language: int = 0) -> bytes:
        data = await self.control(0x80, GET_DESCRIPTOR, kind << 8 | index, language, length)
        assert data is not None and data[1] == kind and len(data) <= length
        return data

    def _endpoints(self) -> tuple[int, int]:
        """Numbers of the bulk endpoints, one each way, and of the interrupt endpoint."""
        found = {}
        for part in self.parts(ENDPOINT):
            assert int.from_bytes(part[4:6], "little") == PACKET_BYTES
            found[part[3] & 3, part[2] >> 7] = part[2] & 15
        assert found.keys() == {(2, 0), (2, 1), (3, 1)} and found[2, 0] == found[2, 1]
        return found[2, 0], found[3, 1]

    def parts(self, kind: int) -> list[bytes]:
        """The descriptors of that kind in the configuration's."""
        found, rest = [], self.configuration
        while rest:
            found += [rest[: rest[0]]] if rest[1] == kind else []
            rest = rest[rest[0] :]
        return found

    # bytes
    def start(self) -> None:
        self.task = start_soon(self._run())

    async def send(self, stream: bytes) -> None:
        """Returns when the device has them."""
        self._outbox += stream
        while self._outbox:
            await self._pause(1)

    async def _run(self) -> None:
        while True:
            if self._outbox:
                assert await self.write(self.data, bytes(self._outbox[:PACKET_BYTES]), faulty=True) == ACK
                del self._outbox[:PACKET_BYTES]
            data = await self.read(self.data, faulty=True)
            if data != NAK:
                self.packets.append(len(data))
                for byte in data:
                    self.reader.unit(byte)
