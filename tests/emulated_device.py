"""The device's side of the link in Python, byte by byte, around the golden model.

It keeps the contract's rules: frames are committed whole, damaged and out-of-sequence ones are answered once,
the receive buffer has `rx_words` and a host that sends more fails the test, answers are not kept, and READ data
comes later than the acknowledgements of commands behind it.
"""

import zlib
from collections import deque

import numpy as np
from bitfirst.command import is_quiet
from bitfirst.golden.commands import GoldenDevice
from bitfirst.link import encode_frame
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode, Space, Status

WORD_BYTES = packets.WORD_BYTES
_WAITS_FOR_READ = (Opcode.READ, Opcode.SYNC, Opcode.MARK, Opcode.RESET)


def _is_read_of_sums(payload: np.ndarray) -> bool:
    return int(payload[0]) & 0xFFFF == Opcode.READ | Space.SUMS << 8


class EmulatedDevice:
    """Bytes in, bytes out. `step` executes one command or sends READ data that is ready."""

    def __init__(self, config: ArrayConfig, link_bytes: int = 1, fingerprint: int = 0) -> None:
        self.config = config
        self.golden = GoldenDevice(config, fingerprint)
        self.link_bytes = link_bytes
        self.opcodes: list[int] = []  # of the commands executed
        self.output = bytearray()
        self.most_words = 0
        self._input = bytearray()
        self._next_sequence = 0
        self._complained = False
        self._credit = 0
        self._stored: deque[tuple[int, np.ndarray]] = deque()
        self._stored_words = 0
        self._readout: deque[tuple[int, Status, np.ndarray]] = deque()
        self._sent_frames = 0

    def feed(self, data: bytes) -> None:
        """Take bytes from the link."""
        self._input += data
        while self._take_frame():
            pass

    def step(self) -> bool:
        """Do one thing; False when there is nothing to do."""
        if self._stored and not (self._readout and self._waits_for_readout()):
            self._run(*self._take_stored())
        elif self._readout:
            sequence, status, data = self._readout.popleft()
            self._respond(Opcode.READ, status, sequence, data)
        else:
            return False
        return True

    # link
    def _take_frame(self) -> bool:
        """Slide to a header and take its frame; False when more bytes are needed."""
        while len(self._input) >= WORD_BYTES:
            head = bytes(self._input[:WORD_BYTES])
            header = codec.decode(packets.Header, [int.from_bytes(head, "little")])
            right = header["sync"] == packets.SYNC and header["check"] == zlib.crc32(head[:6]) & 0xFFFF
            if right and 1 <= header["length"] <= packets.MAX_PAYLOAD_WORDS:
                break
            del self._input[: self.link_bytes]
        else:
            return False
        size = (header["length"] + 2) * WORD_BYTES
        if len(self._input) < size:
            return False
        frame = bytes(self._input[:size])
        del self._input[:size]
        crc = int.from_bytes(frame[-WORD_BYTES:], "little")  # the reserved half must be 0
        self._accept(header, frame, zlib.crc32(frame[:-WORD_BYTES]) == crc)
        return True

    def _accept(self, header: dict[str, int], frame: bytes, undamaged: bool) -> None:
        if not undamaged:
            self._complain(Status.BAD_FRAME, header["sequence"], always=False)
            return
        ahead = (header["sequence"] - self._next_sequence) & 0xFFFF
        if ahead and not header["restart"]:
            self._complain(Status.BAD_SEQUENCE, header["sequence"], always=ahead >= 0x8000)
            return
        payload = np.frombuffer(frame, dtype="<u8")[1:-1]
        self._stored.append((header["sequence"], payload))
        self._stored_words += len(payload) + 1
        self.most_words = max(self.most_words, self._stored_words)
        assert self._stored_words <= self.config.rx_words, "the host sent more words than it had credit for"
        self._next_sequence = (header["sequence"] + 1) & 0xFFFF
        self._complained = False

    def _complain(self, status: Status, sequence: int, always: bool) -> None:
        if always or not self._complained:
            self._respond(Opcode.LINK, status, sequence)
        self._complained = self._complained or not always

    def _respond(self, opcode: int, status: Status, sequence: int, data: np.ndarray | None = None) -> None:
        head = codec.encode(
            packets.Response,
            opcode=opcode,
            status=status,
            sequence=sequence,
            next_sequence=self._next_sequence,
            credit=self._credit,
        )
        payload = np.array(head, dtype=np.uint64)
        if data is not None:
            payload = np.concatenate([payload, data])
        self.output += encode_frame(payload, self._sent_frames)
        self._sent_frames = (self._sent_frames + 1) & 0xFFFF

    # commands
    def _waits_for_readout(self) -> bool:
        return int(self._stored[0][1][0]) & 0xFF in _WAITS_FOR_READ

    def _take_stored(self) -> tuple[int, np.ndarray]:
        sequence, payload = self._stored.popleft()
        self._stored_words -= len(payload) + 1
        self._credit = (self._credit + len(payload) + 1) & 0xFFFF
        return sequence, payload

    def _run(self, sequence: int, payload: np.ndarray) -> None:
        opcode = int(payload[0]) & 0xFF
        self.opcodes.append(opcode)
        status, data = self.golden.execute_payload(payload)
        if status == Status.OK and _is_read_of_sums(payload):
            self._readout.append((sequence, status, data))
        elif status != Status.OK or not is_quiet(payload):
            self._respond(opcode, status, sequence, data)


class EmulatedTransport:
    """An `EmulatedDevice` as a transport; like the simulator it runs only inside `read`."""

    name = "the emulated device"
    deterministic = True
    timeout_s = byte_s = 0.0

    def __init__(self, device: EmulatedDevice) -> None:
        self.device = device

    def write(self, data: bytes) -> None:
        self.device.feed(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        output = self.device.output
        while len(output) < min_bytes and self.device.step():
            pass
        data = bytes(output)
        output.clear()
        return data

    def close(self) -> None:
        self.device.output.clear()
