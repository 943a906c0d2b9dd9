"""A damaged link costs time, never a result: bits flipped, bytes lost and doubled in both directions."""

from dataclasses import replace

import numpy as np
import pytest
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.errors import DeviceError, LinkError
from bitfirst.link import Link
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import Opcode, Status
from emulated_device import EmulatedDevice, EmulatedTransport
from faulty_transport import Faults, FaultyTransport
from test_board import check_random
from test_link import MATMUL, TINY, read_tile, write_and_read

KINDS = ("flip", "drop", "duplicate")


def open_faulty(**options) -> tuple[Link, FaultyTransport]:
    transport = FaultyTransport(EmulatedTransport(EmulatedDevice(TINY)), **options)
    return Link(transport), transport


def check_exact(link: Link, rounds: int) -> None:
    link.restart()
    link.reset_counters()
    assert write_and_read(link, rounds) == rounds * TINY.rows * TINY.columns


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 3e-3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_faults_to_the_device(kind: str, rate: float, seed: int) -> None:
    link, transport = open_faulty(to_device=Faults(**{kind: rate}, seed=seed))
    check_exact(link, rounds=300)
    assert transport.to_device.count > 0
    assert link.statistics.retransmitted_frames > 0


@pytest.mark.parametrize("rate", [1e-4, 1e-3, 3e-3])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(2))
def test_faults_to_the_host(kind: str, rate: float, seed: int) -> None:
    link, transport = open_faulty(to_host=Faults(**{kind: rate}, seed=seed))
    check_exact(link, rounds=300)
    assert transport.to_host.count > 0
    assert link.statistics.lost_responses > 0
    assert link.statistics.damaged_frames + link.statistics.skipped_bytes > 0


@pytest.mark.parametrize("seed", range(8))
def test_all_faults_at_once(seed: int) -> None:
    rates = dict.fromkeys(KINDS, 5e-4)
    link, transport = open_faulty(to_device=Faults(**rates, seed=seed), to_host=Faults(**rates, seed=seed + 1000))
    check_exact(link, rounds=200)
    assert transport.to_device.count > 0
    assert transport.to_host.count > 0
    assert link.statistics.retransmitted_frames > 0


class OneFault(Faults):
    """Flips one bit, that of byte `place` of the stream."""

    def __init__(self, place: int) -> None:
        super().__init__()
        self._place = place

    def apply(self, data: bytes) -> bytes:
        stream = bytearray(data)
        if 0 <= self._place < len(stream):
            stream[self._place] ^= 4
            self.count += 1
        self._place -= len(stream)
        return bytes(stream)


@pytest.mark.parametrize("place", [1000, 5001, 9998])
def test_damaged_frame_is_sent_again_without_a_time_out(place: int) -> None:
    link, transport = open_faulty(to_device=OneFault(place))
    check_exact(link, rounds=100)
    assert transport.to_device.count == 1
    assert link.statistics.refused_frames > 0
    assert link.statistics.retransmitted_frames > 0
    assert link.statistics.silences == link.statistics.lost_responses == 0


class Losing(EmulatedTransport):
    """Loses all that comes while `losing`."""

    losing = False

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        data = super().read(min_bytes, timeout_s)
        return b"" if self.losing else data


def test_lost_acknowledgements_are_settled() -> None:
    transport = Losing(EmulatedDevice(TINY))
    link = Link(transport)
    link.restart()
    link.reset_counters()
    requests = [link.submit(read_tile(0)), link.submit(Command(Opcode.SYNC)), link.submit(Command(Opcode.SYNC))]
    link.flush()
    transport.losing = True
    transport.read(2**40, 0)
    transport.losing = False
    link.drain()
    assert all(request.done for request in requests)
    assert len(requests[0].data) == TINY.rows * TINY.columns
    assert link.statistics.lost_responses == 3


def test_lost_refusal_is_found() -> None:
    transport = Losing(EmulatedDevice(TINY))
    link = Link(transport)
    link.restart()
    link.reset_counters()
    link.submit(Command(Opcode.MATMUL))
    link.flush()
    transport.losing = True
    transport.read(2**40, 0)
    transport.losing = False
    with pytest.raises(DeviceError, match="refused 1 commands whose answers were lost"):
        link.drain()


def test_lost_refusal_of_a_quiet_command_is_found() -> None:
    """The frame that follows it has the wrong number, and nothing else tells."""

    class LosingOne(EmulatedTransport):
        lost = 0

        def read(self, min_bytes: int, timeout_s: float) -> bytes:
            data = super().read(min_bytes, timeout_s)
            refusal = data.find(bytes([Opcode.MATMUL, Status.BAD_VALUE]), 8)
            if refusal < 0:
                return data
            self.lost += 1
            return data[: refusal - 8] + data[refusal + 16 :]

    for behind in (Command(Opcode.SYNC), Command(Opcode.MATMUL, {"quiet": 1} | MATMUL)):
        transport = LosingOne(EmulatedDevice(TINY))
        link = Link(transport)
        link.restart()
        link.reset_counters()
        link.submit(Command(Opcode.MATMUL, {"quiet": 1}))
        link.submit(behind)
        with pytest.raises(DeviceError, match="refused 1 commands whose answers were lost"):
            link.drain()
        assert transport.lost == 1
        assert link.statistics.lost_responses == 0


def drain_all(link: Link) -> None:
    """Also what is still under way after a refusal."""
    while True:
        try:
            return link.drain()
        except DeviceError as error:
            assert "refused" in str(error), error


@pytest.mark.parametrize("seed", range(6))
def test_quiet_commands_on_a_damaged_link(seed: int) -> None:
    """Refused ones are noticed, each with its own answer or by their number; the others are executed once."""
    rates, rng = dict.fromkeys(KINDS, 5e-4), np.random.default_rng(seed)
    device = EmulatedDevice(TINY)
    faults = Faults(**rates, seed=seed), Faults(**rates, seed=seed + 50)
    link = Link(FaultyTransport(EmulatedTransport(device), *faults))
    link.restart()
    link.reset_counters()
    right = wrong = 0
    for turn in range(60):
        try:
            for _ in range(20):
                bad = turn % 2 == 1 and rng.random() < 0.1
                right, wrong = right + (not bad), wrong + bad
                link.submit(Command(Opcode.MATMUL, MATMUL | {"quiet": 1, "chunks": int(not bad)}))
            link.drain()
        except DeviceError:
            drain_all(link)
            link.reset_counters()
        assert device.golden.counters["faults"] == 0, "a refusal was missed"
    assert device.opcodes.count(Opcode.MATMUL) == right + wrong
    assert wrong > 10
    assert link.statistics.retransmitted_frames > 0


def check_board(transport: FaultyTransport, config: ArrayConfig) -> None:
    """Random layers are exact in spite of the faults, and the faults were noticed."""
    device = BoardDevice("faulty", transport, config)
    check_random(device, rounds=3, seed=2)
    assert transport.to_device.count > 0
    assert transport.to_host.count > 0
    assert device.statistics.retransmitted_frames > 0
    assert device.statistics.lost_responses > 0
    assert device.counters()["faults"] == 0
    device.close()


def test_layers_are_exact_on_a_damaged_link() -> None:
    rates = dict.fromkeys(KINDS, 3e-4)
    emulated = EmulatedTransport(EmulatedDevice(TINY))
    check_board(FaultyTransport(emulated, Faults(**rates, seed=1), Faults(**rates, seed=2)), TINY)


@pytest.mark.parametrize("seed", range(3))
def test_layers_on_the_rtl_are_exact_with_flipped_bits(seed: int) -> None:
    faults = Faults(flip=1e-3, seed=seed), Faults(flip=1e-3, seed=seed + 100)
    check_board(FaultyTransport(RtlTransport(TINY), *faults), TINY)


@pytest.mark.parametrize("seed", range(3))
def test_layers_on_the_rtl_with_a_byte_link_are_exact_with_all_faults(seed: int) -> None:
    config = replace(TINY, link_bits=8)  # where a lost byte can be made up for
    rates = dict.fromkeys(KINDS, 3e-4)
    check_board(
        FaultyTransport(RtlTransport(config), Faults(**rates, seed=seed), Faults(**rates, seed=seed + 100)), config
    )


@pytest.mark.parametrize("closes", [False, True])
@pytest.mark.parametrize("dead_after_bytes", [0, 3000, 20_000])
def test_dead_link_is_an_error(dead_after_bytes: int, closes: bool) -> None:
    link, _ = open_faulty(dead_after_bytes=dead_after_bytes, closes=closes)
    with pytest.raises(LinkError):
        check_exact(link, rounds=300)
    assert link.statistics.sent_bytes >= dead_after_bytes


def test_noise_alone_is_an_error() -> None:
    """A link that brings bytes for ever, but never a frame."""

    class Noise(EmulatedTransport):
        def read(self, min_bytes: int, timeout_s: float) -> bytes:
            super().read(min_bytes, timeout_s)
            return self.random.bytes(min_bytes)

        random = np.random.default_rng(0)

    link = Link(Noise(EmulatedDevice(TINY)))
    with pytest.raises(LinkError, match="does not answer"):
        link.restart()
