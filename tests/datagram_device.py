"""A device behind a UDP socket in Python, as `contract.datagrams` has it, and a network with faults."""

import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from bitfirst.transports import Transport
from bitfirst_hdl.contract import codec, datagrams, packets

WORD_BYTES = packets.WORD_BYTES
MODULUS = 1 << datagrams.NUMBER_BITS


@dataclass
class Network:
    """Probabilities for each datagram. `count` says how many faults there were.

    late  it comes after `held` others; where none follow, it never does
    """

    lose: float = 0.0
    double: float = 0.0
    late: float = 0.0
    held: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        self.count = dict.fromkeys(("lose", "double", "late"), 0)
        self._random = np.random.default_rng(self.seed)
        self._held: list[tuple[int, bytes]] = []

    def pass_on(self, datagram: bytes, deliver: Callable[[bytes], object]) -> None:
        """Delivers the datagram once, twice, later or not at all, and those whose time has come."""
        happens = {name: self._random.random() < getattr(self, name) for name in self.count}
        for name in self.count:
            self.count[name] += happens[name]
        due = [held for left, held in self._held if left == 0]
        self._held = [(left - 1, held) for left, held in self._held if left]
        if happens["late"]:
            self._held.append((self.held - 1, datagram))
        elif not happens["lose"]:
            for _ in range(1 + happens["double"]):
                deliver(datagram)
        for held in due:
            deliver(held)


class DatagramDevice:
    """`transport` behind a socket on `port` of this machine, with networks on either way; a context.

    checks  whether late and doubled datagrams are dropped
    """

    def __init__(
        self,
        transport: Transport,
        to_device: Network | None = None,
        to_host: Network | None = None,
        checks: bool = True,
        taken: int = 0,
    ) -> None:
        self.transport, self.checks = transport, checks
        self.to_device, self.to_host = to_device or Network(), to_host or Network()
        self.taken, self.number = taken, MODULUS - 3  # wraps around soon
        self.dropped = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "DatagramDevice":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join(timeout=5)
        self._socket.close()

    def _run(self) -> None:
        while True:
            datagram, peer = self._socket.recvfrom(1 << 16)
            if not datagram:
                return
            self.to_device.pass_on(datagram, lambda datagram, peer=peer: self._receive(datagram, peer))

    def _receive(self, datagram: bytes, peer: tuple[str, int]) -> None:
        if len(datagram) == WORD_BYTES:
            self._send(b"", peer)
            return
        assert len(datagram) % 4 == 0 and len(datagram) <= WORD_BYTES + datagrams.MAX_BYTES
        number = codec.decode(datagrams.Head, [int.from_bytes(datagram[:WORD_BYTES], "little")])["number"]
        if self.checks and not datagrams.is_ahead(number, self.taken):
            self.dropped += 1
            return
        self.taken = number
        self.transport.write(datagram[WORD_BYTES:])
        answer = self.transport.read(2**40, 0)
        for start in range(0, len(answer), datagrams.MAX_BYTES):
            self.number = (self.number + 1) % MODULUS
            self._send(answer[start : start + datagrams.MAX_BYTES], peer)

    def _send(self, data: bytes, peer: tuple[str, int]) -> None:
        (head,) = codec.encode(datagrams.Head, number=self.number, taken=self.taken)
        datagram = head.to_bytes(WORD_BYTES, "little") + data
        self.to_host.pass_on(datagram, lambda datagram: self._socket.sendto(datagram, peer))
