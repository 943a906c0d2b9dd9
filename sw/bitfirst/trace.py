"""What a device did last, also one that hangs: asked of its link, past the commands."""

import zlib
from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode, Status

from .errors import LinkError
from .link import SMALLEST_RESPONSE_BYTES, FrameDecoder
from .transports import Transport

ATTEMPTS = 3
_UNITS = ("loads", "multiplies", "stores", "reads", "updates")


@dataclass(frozen=True)
class Record:
    """A command that was checked, or a fault; `cycle` modulo 2**32. `opcode`, `status`: their names."""

    cycle: int
    sequence: int
    opcode: str
    status: str


@dataclass(frozen=True)
class Trace:
    """What the device was doing in cycle `cycle`, and before.

    stuck    the watchdog sees no progress
    command  the last one checked
    at_work  units of the device that were at work
    records  the oldest one first
    """

    cycle: int
    stuck: bool
    command: str
    at_work: tuple[str, ...]
    records: tuple[Record, ...]


def read(transport: Transport) -> Trace:
    """The trace of a device in any state; nothing that it is doing is disturbed.

    Raises `LinkError` when no answer comes: no device is there, or one without the feature "trace".
    """
    decoder = FrameDecoder()
    for token in range(1, ATTEMPTS + 1):
        transport.write(knock(token) + bytes(packets.WORD_BYTES))  # zeros mean nothing; Ethernet pads what is shorter
        if (answer := _await(transport, decoder, token)) is not None:
            return _decode(answer)
        # what an interrupted program left behind may have swallowed the knock
        transport.write(bytes((packets.MAX_PAYLOAD_WORDS + 2) * packets.WORD_BYTES))
    raise LinkError(
        f"{transport.name} does not tell what it did; check its power, the cable, the speed of the link, "
        "and that its configuration has the feature trace"
    )


def knock(token: int) -> bytes:
    """The word that asks for the trace."""
    word = codec.encode(packets.Knock, sync=packets.KNOCK_SYNC, token=token)[0].to_bytes(packets.WORD_BYTES, "little")
    return word[:6] + (zlib.crc32(word[:6]) & 0xFFFF).to_bytes(2, "little")


def _await(transport: Transport, decoder: FrameDecoder, token: int) -> np.ndarray | None:
    """The answer with `token`, among whatever else comes; None when the device falls silent."""
    answer_words = packets.TRACE_RECORDS + SMALLEST_RESPONSE_BYTES // packets.WORD_BYTES + 1
    timeout_s = transport.timeout_s + 2 * answer_words * packets.WORD_BYTES * transport.byte_s
    data = b"-"
    while data:
        data = transport.read(decoder.missing_bytes, timeout_s)
        for payload in decoder.feed(data) if data else decoder.flush():
            response = codec.decode(packets.Response, payload)
            if response["opcode"] == Opcode.TRACE and response["sequence"] == token:
                return payload
    return None


def _decode(payload: np.ndarray) -> Trace:
    state = codec.decode(packets.TraceState, payload[1:2])
    words = [codec.decode(packets.TraceRecord, payload[place : place + 1]) for place in range(2, len(payload))]
    return Trace(
        cycle=state["cycle"],
        stuck=codec.decode(packets.Response, payload)["status"] == Status.STUCK,
        command=_name(Opcode, state["opcode"]),
        at_work=tuple(name for name in _UNITS if state[name]),
        records=tuple(
            Record(word["cycle"], word["sequence"], _name(Opcode, word["opcode"]), _name(Status, word["status"]))
            for word in words
            if (state["cycle"] - word["cycle"]) % 2**32 < 2**31  # later ones were written while this was sent
        ),
    )


def _name(kind: type, value: int) -> str:
    return kind(value).name if value in list(kind) else str(value)
