"""Host side of the frame layer: frames, go-back-N, credits, and answers that may be lost.

The contract (`bitfirst_hdl.contract.packets`) defines frames and responses. A frame that the device does not
accept is sent again from where the device says. The device keeps no answers, so one that is lost on its way to
the host is settled here: reading commands are asked again as new commands, plain acknowledgements are taken as
given and checked against the device's `faults` counter.

A quiet command is answered only when it is refused. It is settled by the next answer in order, that is to any command
but READ; where none is under way, a PING asks for one. A gap in the numbers of the device's frames may have been a
refusal, so then the `faults` counter is looked at as well.
"""

import zlib
from collections import deque
from dataclasses import dataclass
from functools import cache
from itertools import islice

import numpy as np
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract.numeric import answer_words
from bitfirst_hdl.contract.packets import Opcode, Space, Status

from .command import Command
from .errors import DeviceError, LinkError
from .transports import Transport

WORD_BYTES = packets.WORD_BYTES
SYNC_BYTES = packets.SYNC.to_bytes(2, "little")
MIN_WINDOW_WORDS = 1024  # what every configuration has, for as long as the identity is not known
PROBE_WORDS = packets.COMMAND_WORDS + 1  # always kept free, so that a probe may be sent when all answers are lost
SMALLEST_RESPONSE_BYTES = 3 * WORD_BYTES
RESTART_ATTEMPTS = 4
SILENCES_BEFORE_DEAD = 12  # in a row, without any progress
FUTILE_BYTES = 1 << 16  # so much without any progress is as good as silence

_ASKED_AGAIN = (Opcode.READ, Opcode.COUNTERS, Opcode.PING, Opcode.MARK)
_AFTER_EVERYTHING = (Opcode.SYNC, Opcode.MARK, Opcode.RESET)
_MEANING = {
    Status.BAD_OPCODE: "unknown opcode",
    Status.BAD_LENGTH: "the data words do not match the fields",
    Status.BAD_SPACE: "space unknown, or not for this opcode",
    Status.BAD_RANGE: "reaches outside the space, or a count is zero",
    Status.BAD_VALUE: "a value is outside what this configuration can do",
}


def _header_check(first_bytes: bytes) -> int:
    return zlib.crc32(first_bytes[:6]) & 0xFFFF


def _name(kind: type, value: int) -> str:
    return kind(value).name if value in list(kind) else f"{kind.__name__} {value}"


def encode_frame(payload: np.ndarray, sequence: int, restart: bool = False) -> bytes:
    """The frame's bytes: header, `payload` (uint64 words), trailer. Raises `codec.FieldError` for a bad length."""
    if not 1 <= len(payload) <= packets.MAX_PAYLOAD_WORDS:
        raise codec.FieldError(f"a frame holds 1 .. {packets.MAX_PAYLOAD_WORDS} payload words, not {len(payload)}")
    if not 0 <= sequence < 1 << _SEQUENCE_BITS:
        raise codec.FieldError(f"a sequence number has {_SEQUENCE_BITS} bits, not {sequence}")
    header = _header_without_sequence(len(payload), restart) | sequence << _SEQUENCE_PLACE
    start = header.to_bytes(WORD_BYTES, "little")[:6]
    body = start + _header_check(start).to_bytes(2, "little") + np.asarray(payload, dtype="<u8").tobytes()
    return body + (zlib.crc32(body) << _CRC_PLACE).to_bytes(WORD_BYTES, "little")


_SEQUENCE_PLACE, _SEQUENCE_BITS = codec.fields(packets.Header)["sequence"]
_CRC_PLACE = codec.fields(packets.Trailer)["crc"][0]


@cache
def _header_without_sequence(length: int, restart: bool) -> int:
    return codec.encode(packets.Header, sync=packets.SYNC, length=length, restart=int(restart))[0]


class FrameDecoder:
    """Finds frames in a byte stream that may be damaged; slides byte by byte until a header is right.

    After a frame with a wrong CRC-32 the search goes on right behind its `sync`, so that a good frame
    swallowed by a damaged length is still found.
    """

    def __init__(self) -> None:
        self.damaged_frames = 0
        self.skipped_bytes = 0
        self.gaps = 0  #: frames whose number does not follow that of the frame before
        self._next_number: int | None = None
        self.missing_bytes = SMALLEST_RESPONSE_BYTES  #: until the next frame can be complete
        self._rest = b""

    @property
    def held_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[np.ndarray]:
        """Payloads (uint64 words) of the frames that `data` completes."""
        stream, position, payloads = self._rest + data, 0, []
        while True:
            start = self._find_header(stream, position)
            self.skipped_bytes += start - position
            position = start
            if len(stream) - start < WORD_BYTES:
                self.missing_bytes = SMALLEST_RESPONSE_BYTES - (len(stream) - start)
                break
            end = start + (self._length(stream, start) + 2) * WORD_BYTES
            if end > len(stream):
                self.missing_bytes = end - len(stream)
                break
            body = stream[start : end - WORD_BYTES]
            if zlib.crc32(body) == int.from_bytes(stream[end - WORD_BYTES : end - WORD_BYTES + 4], "little"):
                payloads.append(np.frombuffer(body, dtype="<u8", offset=WORD_BYTES))
                self._note_number(int.from_bytes(body[4:6], "little"))
                position = end
            else:
                position = self._drop(start)
        self._rest = stream[position:]
        return payloads

    def flush(self) -> list[np.ndarray]:
        """Nothing more comes: an unfinished frame is damaged. Payloads that were hidden in it."""
        payloads = []
        while len(self._rest) >= SMALLEST_RESPONSE_BYTES:
            self._rest = self._rest[self._drop(0) :]
            payloads += self.feed(b"")
        self.skipped_bytes += len(self._rest)
        self._rest = b""
        self.missing_bytes = SMALLEST_RESPONSE_BYTES
        return payloads

    def _note_number(self, number: int) -> None:
        self.gaps += self._next_number not in (None, number)
        self._next_number = (number + 1) & 0xFFFF

    def _drop(self, start: int) -> int:
        self.damaged_frames += 1
        self.skipped_bytes += 1
        return start + 1

    @staticmethod
    def _length(stream: bytes, start: int) -> int:
        return int.from_bytes(stream[start + 2 : start + 4], "little") & 0x7FFF

    def _find_header(self, stream: bytes, position: int) -> int:
        """Place of the next right header, or of what may still become one."""
        while True:
            start = stream.find(SYNC_BYTES, position)
            if start < 0:
                return len(stream) - stream.endswith(SYNC_BYTES[:1])
            if len(stream) - start < WORD_BYTES:
                return start
            check = int.from_bytes(stream[start + 6 : start + 8], "little")
            right = _header_check(stream[start : start + 6]) == check
            if right and 1 <= self._length(stream, start) <= packets.MAX_PAYLOAD_WORDS:
                return start
            position = start + 1


def response_words(command: Command) -> int:
    """Data words of the answer to `command` when all is well."""
    if command.opcode == Opcode.READ:
        space, bits, count, rows, cols = (command.fields.get(n, 0) for n in ("space", "bits", "count", "rows", "cols"))
        if space in (Space.REGISTERS, Space.POWER):
            return count
        if space == Space.STORE:
            return count * packets.STORE_WORD_WORDS
        compare = bool(command.fields.get("compare", 0))
        return 0 if bits > packets.WORD_BITS else answer_words(count * rows * cols, bits, compare)
    if command.opcode in (Opcode.MARK, Opcode.COUNTERS):
        return len(registers.COUNTERS)
    return 1 if command.opcode in (Opcode.PING, Opcode.UPDATE) else 0


class Request:
    """A command under way. `done` when it is answered or settled; `data` are the answer's uint64 words."""

    __slots__ = ("command", "data", "done", "expected_words", "in_order", "quiet")

    def __init__(self, command: Command) -> None:
        self.command = command
        self.quiet = command.quiet
        self.in_order = not self.quiet and command.opcode != Opcode.READ  # its answer comes after all refusals before
        self.expected_words = response_words(command)
        self.done = False
        self.data: np.ndarray | None = None


@dataclass
class LinkStatistics:
    """What happened on the link so far. On a faultless link all from `retransmitted_frames` on stay 0."""

    sent_frames: int = 0
    sent_bytes: int = 0
    received_frames: int = 0
    received_bytes: int = 0
    retransmitted_frames: int = 0  # sent again, damaged or lost on the way to the device
    refused_frames: int = 0  # LINK answers of the device: damaged or out of sequence
    damaged_frames: int = 0  # frames of the device with a wrong CRC-32
    skipped_bytes: int = 0  # bytes of the device that belong to no frame
    lost_responses: int = 0  # answers that never came
    late_responses: int = 0  # answers that nobody waits for any more
    silences: int = 0  # time-outs, or a simulated device that stood idle


class Link:
    """Numbered commands over a transport, with credits, go-back-N and time-outs.

    `submit` sends as far as the device's receive buffer has room and otherwise takes in answers first; commands
    are executed in order. Raises `LinkError` when nothing comes any more, `DeviceError` when a command is refused.
    """

    def __init__(self, transport: Transport, window_words: int = MIN_WINDOW_WORDS) -> None:
        self.transport = transport
        self.set_window(window_words)
        self.statistics = LinkStatistics()
        self._decoder = FrameDecoder()
        self._sequence = 0
        self._pending: dict[int, Request] = {}  # by sequence, in the order sent
        self._again: deque[Request] = deque()
        self._unreceived: deque[tuple[int, bytes]] = deque()  # frames of which the device has not said it has them
        self._unwritten_frames = 0  # at the end of _unreceived
        self._unwritten_bytes = 0
        self._sent_words = 0
        self._freed_words = 0
        self._credit_base = 0
        self._last_frame = b""
        self._silences_in_a_row = 0
        self._futile_bytes = 0
        self._refusals: list[DeviceError] = []
        self._known_faults = 0
        self._unsettled = False
        self._closed = False

    def set_window(self, window_words: int) -> None:
        """How many words may be under way to the device: its `rx_words`. An answer waits for all of them to arrive."""
        self.window_words = window_words
        self._timeout_s = self.transport.timeout_s + 2 * window_words * WORD_BYTES * self.transport.byte_s

    # opening and closing
    def restart(self, first_sequence: int = 0) -> None:
        """Agree on sequence numbers and credits with a device in any state; what it had to do is then done.

        Raises `LinkError` when it does not answer.
        """
        ping_sequence = (first_sequence + 1) & 0xFFFF
        self._sequence = (first_sequence + 2) & 0xFFFF
        self._pending.clear()
        self._again.clear()
        self._unreceived.clear()
        self._unwritten_frames = self._unwritten_bytes = 0
        for attempt in range(RESTART_ATTEMPTS):
            token = registers.MAGIC ^ (attempt + 1)
            ping = Command(Opcode.PING, {"token": token})
            # the answers of earlier READs may overtake that of a PING, but not that of a SYNC
            self._write(encode_frame(Command(Opcode.SYNC).payload(), first_sequence, restart=True))
            self._write(encode_frame(ping.payload(), ping_sequence))
            self.statistics.sent_frames += 2
            response = self._await_token(token)
            if response is not None:
                self._credit_base, self._sent_words, self._freed_words = response["credit"], 0, 0
                return
            # what an interrupted program left behind may still swallow a whole frame
            self._write(bytes((packets.MAX_PAYLOAD_WORDS + 2) * WORD_BYTES))
        raise LinkError(
            f"{self.transport.name} does not answer; check its power, the cable, the speed of the link, "
            "and that a Bitfirst bitstream is loaded"
        )

    def reset_counters(self) -> None:
        """Execute a RESET: from here on the device's counters count, `faults` too."""
        self.call(Command(Opcode.RESET))
        self._known_faults, self._unsettled = 0, False

    def close(self) -> None:
        """Nothing can be sent afterwards: that raises `LinkError`."""
        self._closed = True
        self.transport.close()

    # commands
    def submit(self, command: Command) -> Request:
        """Send one command as soon as the device has room for it; its answer is taken in later."""
        request = Request(command)
        self._ask_again()
        self._send(request)
        return request

    def call(self, command: Command) -> np.ndarray:
        """Send one command, wait for its answer, return the answer's data words (uint64)."""
        request = self.submit(command)
        self.wait(request)
        return request.data

    def wait(self, request: Request) -> None:
        """Return once `request` is answered."""
        while not request.done:
            self._ask_again()
            if request.quiet:
                self._ask_about_quiet()
            self._exchange(self._bytes_until(request))

    def drain(self) -> None:
        """Return once everything is answered or settled, and what was lost is known to have been good answers."""
        while self._pending or self._again:
            self._ask_again()
            self._ask_about_quiet()
            if self._pending:
                self._exchange(self._bytes_until(None))
        if self._unsettled:
            self._settle()

    def flush(self) -> None:
        """Hand everything submitted to the transport."""
        if self._unwritten_frames:
            first = len(self._unreceived) - self._unwritten_frames
            self._write(b"".join(frame for _, frame in islice(self._unreceived, first, None)))
            self.statistics.sent_frames += self._unwritten_frames
            self._unwritten_frames = self._unwritten_bytes = 0

    # sending
    def _send(self, request: Request, reserve_words: int = PROBE_WORDS) -> None:
        payload = request.command.payload()
        words = len(payload) + 1
        if words + reserve_words > self.window_words:
            raise DeviceError(
                f"a {request.command.opcode.name} of {words} words does not fit the device's receive buffer of "
                f"{self.window_words} words; cut it, or raise rx_words in the configuration"
            )
        while self._outstanding_words() + words + reserve_words > self.window_words:
            if all(pending.quiet for pending in self._pending.values()):  # no answer would bring credit
                self._ask_about_quiet()
            self._exchange(self._bytes_until_half_free())
        frame = encode_frame(payload, self._sequence)
        self._unreceived.append((self._sequence, frame))
        self._last_frame = frame
        self._pending[self._sequence] = request
        self._sequence = (self._sequence + 1) & 0xFFFF
        self._sent_words = (self._sent_words + words) & 0xFFFF
        self._unwritten_frames += 1
        self._unwritten_bytes += len(frame)
        if self._unwritten_bytes >= 4096:
            self.flush()

    def _ask_again(self) -> None:
        while self._again:
            self._send(self._again[0])  # an earlier refusal may be raised here: the request must not be lost
            self._again.popleft()

    def _ask_about_quiet(self) -> None:
        """Send a PING if the last commands are quiet, so that no answer under way will settle them."""
        for request in reversed(self._pending.values()):
            if request.in_order:
                return
            if request.quiet:
                self._send(Request(Command(Opcode.PING)), reserve_words=0)
                return

    def _outstanding_words(self) -> int:
        return (self._sent_words - self._freed_words) & 0xFFFF

    def _check_open(self) -> None:
        if self._closed:
            raise LinkError(f"{self.transport.name} is closed; open it again")

    def _write(self, data: bytes) -> None:
        self._check_open()
        self.transport.write(data)
        self.statistics.sent_bytes += len(data)

    def _retransmit(self) -> None:
        self.statistics.retransmitted_frames += len(self._unreceived) - self._unwritten_frames
        self.statistics.sent_frames -= len(self._unreceived) - self._unwritten_frames
        self._unwritten_frames = len(self._unreceived)
        self.flush()

    # receiving
    def _bytes_until(self, request: Request | None) -> int:
        """Bytes of the answers up to what settles `request` (None: of all), as far as they are already sent for."""
        total_words, reached = 0, False
        for pending in self._pending.values():
            reached = reached or pending is request
            if pending.quiet:
                continue
            total_words += 3 + pending.expected_words
            if reached and (pending is request or pending.in_order):
                break
        return total_words * WORD_BYTES

    def _bytes_until_half_free(self) -> int:
        """Bytes of the acknowledgements after which half of the window is free: fewer turns, and no idle device.

        Where a lost answer costs a time-out, those of one answer.
        """
        if not self.transport.deterministic:
            return SMALLEST_RESPONSE_BYTES
        acknowledgements, excess_words = 0, self._outstanding_words() - self.window_words // 2
        for pending in self._pending.values():
            excess_words -= len(pending.command.data) + PROBE_WORDS
            acknowledgements += pending.in_order  # the data of READ may come later
            if excess_words <= 0 and pending.in_order:
                break
        return max(1, acknowledgements) * SMALLEST_RESPONSE_BYTES

    def _exchange(self, min_bytes: int) -> None:
        """Write what is submitted, take in at least one answer or notice that none comes."""
        self._check_open()
        self.flush()
        # what a frame under way has brought counts: to wait for more than will come is to wait until the device is idle
        min_bytes -= self._decoder.held_bytes
        data = self.transport.read(max(1, min_bytes, self._decoder.missing_bytes), self._timeout_s)
        self.statistics.received_bytes += len(data)
        gaps = self._decoder.gaps
        payloads = self._decoder.feed(data) if data else self._decoder.flush()
        if self._decoder.gaps > gaps and any(request.quiet for request in self._pending.values()):
            self._unsettled = True  # the refusal of a quiet command may be lost
        progress = [self._take(payload) for payload in payloads]
        self.statistics.damaged_frames = self._decoder.damaged_frames
        self.statistics.skipped_bytes = self._decoder.skipped_bytes
        self._futile_bytes += len(data)
        if any(progress):
            self._silences_in_a_row = self._futile_bytes = 0
        elif not data or self._futile_bytes > FUTILE_BYTES:
            self._futile_bytes = 0
            self._silence()
        if self._refusals:
            refusal, self._refusals = self._refusals[0], []
            raise refusal

    def _take(self, payload: np.ndarray) -> bool:
        """Take in one response; whether it brought anything forward."""
        self.statistics.received_frames += 1
        response = codec.decode(packets.Response, payload)
        progress = self._note_received(response["next_sequence"])
        self._note_credit(response["credit"])
        if response["opcode"] == Opcode.LINK:
            self._take_link_answer(response)
            return progress
        if response["opcode"] == Opcode.TRACE:  # somebody knocked
            self.statistics.late_responses += 1
            return progress
        request = self._pending.get(response["sequence"])
        if request is None or request.command.opcode != response["opcode"]:
            self.statistics.late_responses += 1
            self._note_status(response, None)
            return progress
        self._give_up_overtaken(response["sequence"], request)
        del self._pending[response["sequence"]]
        request.done = True
        request.data = payload[1:]
        if not self._note_status(response, request) and len(request.data) != request.expected_words:
            raise DeviceError(
                f"the device answered {request.command.opcode.name} with {len(request.data)} data words instead of "
                f"{request.expected_words}; rebuild the bitstream, or use the software it was built with"
            )
        return True

    def _note_status(self, response: dict[str, int], request: Request | None) -> bool:
        if response["status"] == Status.OK:
            return False
        self._known_faults += 1
        fields = {} if request is None else request.command.fields
        values = ", ".join(f"{name}={int(value)}" for name, value in fields.items())
        status = response["status"]
        self._refusals.append(
            DeviceError(
                f"device refused {_name(Opcode, response['opcode'])}({values}) with {_name(Status, status)}: "
                f"{_MEANING.get(status, 'no status of a command')}"
            )
        )
        return True

    def _note_received(self, next_sequence: int) -> bool:
        """Forget the frames that the device has; whether there were any."""
        if not self._unreceived:
            return False
        count = (next_sequence - self._unreceived[0][0]) & 0xFFFF
        if not 0 < count <= len(self._unreceived) - self._unwritten_frames:
            return False
        for _ in range(count):
            self._unreceived.popleft()
        return True

    def _note_credit(self, credit: int) -> None:
        freed = (credit - self._credit_base) & 0xFFFF
        if (self._sent_words - freed) & 0xFFFF > (self._sent_words - self._freed_words) & 0xFFFF:
            raise DeviceError("the device freed more words than it was sent; another program uses it, or it was reset")
        self._freed_words = freed

    def _take_link_answer(self, response: dict[str, int]) -> None:
        if response["status"] == Status.STUCK:
            request = self._pending.get(response["sequence"])
            name = "a command" if request is None else request.command.opcode.name
            raise LinkError(
                f"{self.transport.name} is stuck in {name}; see what it did with `bitfirst info DEVICE --trace`, "
                "then reset it"
            )
        self.statistics.refused_frames += 1
        behind = (response["next_sequence"] - response["sequence"] - 1) & 0xFFFF
        repeated = response["status"] == Status.BAD_SEQUENCE and behind < 0x8000
        if self._unreceived and not repeated:
            self._retransmit()

    # answers that do not come
    def _give_up_overtaken(self, sequence: int, request: Request) -> None:
        """Acknowledgements come in order, and so does READ data; what should have come before is lost, or was quiet."""
        everything = request.command.opcode in _AFTER_EVERYTHING
        is_read = request.command.opcode == Opcode.READ
        older = []
        for other_sequence, other in self._pending.items():
            if other_sequence == sequence:
                break
            if everything or (other.command.opcode == Opcode.READ) == is_read:
                older.append(other_sequence)
        for other_sequence in older:
            self._give_up(other_sequence)

    def _give_up(self, sequence: int) -> None:
        request = self._pending.pop(sequence)
        self.statistics.lost_responses += not request.quiet
        if request.command.opcode in _ASKED_AGAIN:
            self._again.append(request)
            return
        request.done = True
        request.data = np.zeros(0, dtype=np.uint64)
        self._unsettled = self._unsettled or not request.quiet

    def _silence(self) -> None:
        """Frames of which the device said nothing are sent again; else a SYNC shows which answers are lost."""
        self.statistics.silences += 1
        self._silences_in_a_row += 1
        if self._silences_in_a_row > SILENCES_BEFORE_DEAD:
            raise LinkError(
                f"{self.transport.name} does not answer any more ({len(self._pending)} commands under way); "
                "check its power and cable, then open it again"
            )
        if self._unreceived:
            self._retransmit()
        elif self._outstanding_words() + PROBE_WORDS > self.window_words:
            self._write(self._last_frame)  # a repeated frame is always answered, with the credit
        else:
            self._send(Request(Command(Opcode.SYNC)), reserve_words=0)

    def _settle(self) -> None:
        """Lost acknowledgements were good ones if the device counted no fault that the host does not know."""
        self._unsettled = False
        counters = self.call(Command(Opcode.COUNTERS))
        faults = int(counters[registers.COUNTER_INDEX["faults"]])
        if faults != self._known_faults:
            raise DeviceError(
                f"the device refused {faults - self._known_faults} commands whose answers were lost; "
                "run again, or check the commands on the golden model"
            )

    def _await_token(self, token: int) -> dict[str, int] | None:
        """The answer to PING with `token`; None when none comes."""
        futile_bytes, data = 0, b"-"
        while data and futile_bytes <= FUTILE_BYTES:
            data = self.transport.read(self._decoder.missing_bytes, self._timeout_s)
            futile_bytes += len(data)
            for payload in self._decoder.feed(data) if data else self._decoder.flush():
                response = codec.decode(packets.Response, payload)
                self.statistics.received_frames += 1
                if response["opcode"] == Opcode.PING and len(payload) == 2 and int(payload[1]) == token:
                    self.statistics.received_bytes += futile_bytes
                    return response
        self.statistics.received_bytes += futile_bytes
        self.statistics.silences += 1
        return None
