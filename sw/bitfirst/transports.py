"""What carries the link's bytes: a simulated device, a serial port, TCP, UDP, a recording."""

import json
import os
import select
import socket
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, Protocol

from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import codec, datagrams, packets

from .errors import LinkError, UsageError

_RECORDING_MAGIC = b"BITFIRST RECORDING 1\n"
_CHUNK_BYTES = 1024  # written at once, so that answers are taken in meanwhile and no buffer fills up


class Transport(Protocol):
    """Carries bytes both ways.

    name           for messages
    timeout_s      how long the link waits for an answer, the time on the way aside
    byte_s         time that a byte takes on the way; 0 where it hardly takes any
    deterministic  True where nothing depends on wall time: an empty `read` then means that the device stands idle
    """

    name: str
    timeout_s: float
    byte_s: float
    deterministic: bool

    def write(self, data: bytes) -> None:
        """Send all of `data`. Raises `LinkError` when the other side is gone."""

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        """Bytes that came: at least `min_bytes`, or fewer when nothing came for `timeout_s` (or the device is idle).

        Raises `LinkError` when the other side is gone.
        """

    def close(self) -> None:
        """Give the port, the process or the file back; twice does no harm."""


class RtlTransport:
    """The compiled RTL. Its clock runs only inside `read` and `advance`, and stops when the device is idle.

    link_cycles  fields of `bitfirst_sim.simulator.Schedule`: random cycles in which the link does not move
    sensor       of a device with the feature "power": one of `bitfirst_sim.sensors.KINDS`, alone on its bus
    toggles      count those of all nets, for `activity`
    """

    deterministic = True
    timeout_s = byte_s = 0.0

    def __init__(
        self,
        config: ArrayConfig,
        trace: str | Path | None = None,
        link_cycles: Mapping[str, float] = MappingProxyType({}),
        sensor: str | None = None,
        toggles: bool = False,
    ) -> None:
        from bitfirst_sim.simulator import Schedule, Simulator  # needs a compiler; a board does not

        self.name = "the simulated device"
        self._simulator = Simulator(config, trace, Schedule(**link_cycles), sensor=sensor, toggles=toggles)
        self._outbox: list[bytes] = []

    def write(self, data: bytes) -> None:
        self._outbox.append(data)  # no time passes before `read`: one message will do

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        if self._outbox:
            self._simulator.send(b"".join(self._outbox))
            self._outbox.clear()
        return self._simulator.receive(min_bytes)

    def joules(self) -> list[float]:
        """What the device has taken in each phase, which no board tells."""
        self.read(0, self.timeout_s)
        return self._simulator.joules()

    def record(self) -> None:
        """Keep what the device takes from here on, for `recorded`."""
        self.read(0, self.timeout_s)
        self._simulator.record()

    def recorded(self) -> tuple[int, Any, Any]:
        """How many cycles a span has; the watts of each since `record`, and their phases. It ends."""
        self.read(0, self.timeout_s)
        return self._simulator.recorded()

    def activity(self) -> dict[int, Any]:
        """What toggled since the last call, `bitfirst_sim.saif.Activity` by phase; with `toggles`.

        Take it after each step: until then it is kept in files of some MB for each change of the phase.
        """
        return self._simulator.activity()

    def advance(self, cycles: int) -> None:
        """Let so many cycles pass, behind all that was written before."""
        self.read(0, self.timeout_s)
        self._simulator.advance(cycles)

    @property
    def cycles(self) -> int:
        """Of the clock, since the device was opened."""
        return self._simulator.cycles

    def close(self) -> None:
        self._simulator.close()


class SerialTransport:
    """A serial port, by pyserial.

    path  the port, such as /dev/ttyUSB0
    baud  bits per second; a byte takes 10
    """

    deterministic = False
    timeout_s = 0.5

    def __init__(self, path: str, baud: int) -> None:
        import serial  # only who has a board needs it

        self._error = serial.SerialException
        self.name = f"the device at {path}"
        self.byte_s = 10 / baud
        try:
            self._port = serial.Serial(
                path, baud, timeout=self.timeout_s, write_timeout=10 * (self.timeout_s + _CHUNK_BYTES * self.byte_s)
            )
            self._port.reset_input_buffer()
        except (serial.SerialException, ValueError) as error:
            reason = os.strerror(error.errno) if getattr(error, "errno", None) else error
            raise LinkError(f"{path} cannot be opened: {reason}; check path, baud rate and permissions") from None
        self._inbox = bytearray()

    def write(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _CHUNK_BYTES):
                self._port.write(data[start : start + _CHUNK_BYTES])
                self._inbox += self._port.read(self._port.in_waiting)
        except (self._error, OSError) as error:
            raise LinkError(f"{self.name} is gone: {error}; check the cable, then open it again") from None

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        try:
            if self._port.timeout != timeout_s:
                self._port.timeout = timeout_s
            while len(self._inbox) < min_bytes:
                data = self._port.read(max(1, self._port.in_waiting))
                if not data:
                    break
                self._inbox += data
        except (self._error, OSError, TypeError) as error:  # TypeError: pyserial's word for a port that vanished
            raise LinkError(f"{self.name} is gone: {error}; check the cable, then open it again") from None
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    def close(self) -> None:
        self._port.close()


class TcpTransport:
    """A device behind a TCP server that passes bytes on."""

    deterministic = False
    timeout_s = 2.0
    byte_s = 0.0

    def __init__(self, host: str, port: int) -> None:
        self.name = f"the device at {host}:{port}"
        try:
            self._socket = socket.create_connection((host, port), timeout=self.timeout_s)
        except (OSError, UnicodeError) as error:  # the latter of names that none can be
            raise LinkError(f"{host}:{port} cannot be reached: {error}; check that the server runs there") from None
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._inbox = bytearray()

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            readable, writable, _ = select.select([self._socket], [self._socket], [], 10 * self.timeout_s)
            if not readable and not writable:
                raise LinkError(f"{self.name} takes no more bytes; check that it still runs")
            if readable:
                self._receive()
            if writable:
                view = view[self._attempt(self._socket.send, view) :]

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        while len(self._inbox) < min_bytes and select.select([self._socket], [], [], timeout_s)[0]:
            self._receive()
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    def _receive(self) -> None:
        data = self._attempt(self._socket.recv, 1 << 16)
        if not data:
            raise LinkError(f"{self.name} closed the connection; start it and open it again")
        self._inbox += data

    def _attempt(self, action, argument):
        try:
            return action(argument)
        except OSError as error:
            raise LinkError(f"{self.name} is gone: {error}; start it and open it again") from None

    def close(self) -> None:
        self._socket.close()


class UdpTransport:
    """A device on Ethernet, or whatever speaks `bitfirst_hdl.contract.datagrams`; numbers tell late and doubled ones.

    A datagram that is lost leaves a gap in the bytes, which the link mends like any damage.
    """

    deterministic = False
    timeout_s = 0.25
    byte_s = 0.0
    _ATTEMPTS = 8

    def __init__(self, host: str, port: int) -> None:
        self.name = f"the device at {host}:{port}"
        self._inbox = bytearray()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._socket.connect((host, port))
            self._number, self._taken = self._ask()
        except (OSError, UnicodeError) as error:
            self._socket.close()
            raise LinkError(f"{host}:{port} cannot be reached: {error}; check address, cable and power") from None

    def _ask(self) -> tuple[int, int]:
        """Numbers of the last datagram sent and taken, as if there had been such."""
        for _ in range(self._ATTEMPTS):
            self._socket.send(self._head(0))
            if select.select([self._socket], [], [], self.timeout_s)[0]:
                head = codec.decode(datagrams.Head, [int.from_bytes(self._socket.recv(1 << 16)[:8], "little")])
                return head["taken"] + datagrams.AHEAD, head["number"]
        raise OSError(f"no answer in {self._ATTEMPTS * self.timeout_s:g} s")

    @staticmethod
    def _head(number: int) -> bytes:
        (word,) = codec.encode(datagrams.Head, number=number % (1 << datagrams.NUMBER_BITS))
        return word.to_bytes(packets.WORD_BYTES, "little")

    def write(self, data: bytes) -> None:
        try:
            for piece in datagrams.pieces(data):
                self._number += 1
                self._socket.send(self._head(self._number) + piece)
                self._take_in()
        except OSError as error:
            raise LinkError(f"{self.name} is gone: {error}; check cable and power, then open it again") from None

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        try:
            while len(self._inbox) < min_bytes and select.select([self._socket], [], [], timeout_s)[0]:
                self._take_in()
        except OSError as error:
            raise LinkError(f"{self.name} is gone: {error}; check cable and power, then open it again") from None
        data = bytes(self._inbox)
        self._inbox.clear()
        return data

    def _take_in(self) -> None:
        """All datagrams that are there."""
        while select.select([self._socket], [], [], 0)[0]:
            datagram = self._socket.recv(1 << 16)
            number = int.from_bytes(datagram[:4], "little")
            if len(datagram) > packets.WORD_BYTES and datagrams.is_ahead(number, self._taken):
                self._taken = number
                self._inbox += datagram[packets.WORD_BYTES :]

    def close(self) -> None:
        self._socket.close()


class RecordingTransport:
    """Passes everything on to `inner` and writes it to `path`: see `ReplayTransport`.

    File: a magic line, a line of JSON (contract version, name), then records of direction (W or R), length
    (32 bits, little endian) and bytes. A read that brought nothing is recorded too: it was a time-out.
    """

    def __init__(self, inner: Transport, path: str | Path) -> None:
        self._inner = inner
        self.name, self.deterministic = inner.name, inner.deterministic
        self.timeout_s, self.byte_s = inner.timeout_s, inner.byte_s
        try:
            self._file = open(path, "wb")  # noqa: SIM115 - closed by close()
        except OSError as error:
            inner.close()
            raise UsageError(f"recording {path} cannot be written ({error.strerror}); choose another path") from None
        head = {"contract_version": packets.CONTRACT_VERSION, "name": inner.name}
        self._file.write(_RECORDING_MAGIC + json.dumps(head).encode() + b"\n")

    def write(self, data: bytes) -> None:
        self._note(b"W", data)
        self._inner.write(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        data = self._inner.read(min_bytes, timeout_s)
        self._note(b"R", data)
        return data

    def _note(self, direction: bytes, data: bytes) -> None:
        self._file.write(direction + len(data).to_bytes(4, "little") + data)

    def close(self) -> None:
        self._inner.close()
        self._file.close()


class ReplayTransport:
    """Answers with what was recorded, for as long as the host sends what was recorded.

    Raises `LinkError` naming the first byte that differs.
    """

    deterministic = True
    timeout_s = byte_s = 0.0

    def __init__(self, path: str | Path) -> None:
        self.name = f"the recording {path}"
        self._requests = bytearray()
        self._answers: list[tuple[int, bytes]] = []  # (request bytes sent before it, answer)
        self._written_bytes = 0
        self._next_answer = 0
        try:
            with open(path, "rb") as file:
                self._load(file)
        except OSError as error:
            raise UsageError(f"recording {path} cannot be read ({error.strerror}); check the path") from None

    def _load(self, file: BinaryIO) -> None:
        if file.readline() != _RECORDING_MAGIC:
            raise UsageError(f"{self.name} is none; make one with bitfirst.open(url, record=PATH)")
        try:
            version = json.loads(file.readline())["contract_version"]
        except (ValueError, TypeError, KeyError):  # no JSON, no object, an object without it
            raise UsageError(f"{self.name} has a damaged second line; record it again") from None
        if version != packets.CONTRACT_VERSION:
            raise UsageError(
                f"{self.name} has contract version {version}, this software {packets.CONTRACT_VERSION}; record it again"
            )
        while head := file.read(5):
            length = int.from_bytes(head[1:], "little")
            data = file.read(length)
            if len(head) < 5 or len(data) < length or head[:1] not in (b"W", b"R"):
                raise UsageError(f"{self.name} is damaged or cut short before byte {file.tell()}; record it again")
            if head[:1] == b"W":
                self._requests += data
            else:
                self._answers.append((len(self._requests), data))

    def write(self, data: bytes) -> None:
        recorded = self._requests[self._written_bytes : self._written_bytes + len(data)]
        if recorded != data:
            same = next((i for i, (a, b) in enumerate(zip(recorded, data, strict=False)) if a != b), len(recorded))
            place = self._written_bytes + same
            how = "ends" if same == len(recorded) else "differs"
            raise LinkError(f"{self.name} {how} at request byte {place}; replay what was recorded, or record it again")
        self._written_bytes += len(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        if self._next_answer == len(self._answers) or self._answers[self._next_answer][0] > self._written_bytes:
            return b""
        self._next_answer += 1
        return self._answers[self._next_answer - 1][1]

    def close(self) -> None:
        self._requests.clear()
        self._answers.clear()
