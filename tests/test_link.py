"""The host's frame layer against the device's rules in Python: frames, credits, order, transports."""

import contextlib
import itertools
import os
import socket
import threading
import zlib

import numpy as np
import pytest
from bitfirst.command import Command
from bitfirst.errors import DeviceError, LinkError, UsageError
from bitfirst.link import FrameDecoder, Link, encode_frame
from bitfirst.transports import RecordingTransport, ReplayTransport, SerialTransport, TcpTransport, Transport
from bitfirst_hdl import config
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode, Space
from emulated_device import EmulatedDevice, EmulatedTransport
from hypothesis import given, settings
from hypothesis import strategies as st

TINY = config.CONFIGS["tiny"]


def write_tile(tile: int, data: np.ndarray) -> Command:
    fields = {"space": Space.SUMS, "rows": TINY.rows, "words": TINY.columns, "row": tile * TINY.rows}
    return Command(Opcode.WRITE, fields, data)


def read_tile(tile: int) -> Command:
    fields = {"space": Space.SUMS, "bits": 64, "rows": TINY.rows, "cols": TINY.columns, "first": tile, "count": 1}
    return Command(Opcode.READ, fields)


def write_and_read(link: Link, rounds: int, seed: int = 0) -> int:
    """Fill tiles with random words and read them back, as deep as the credit allows; how many words were right."""
    random = np.random.default_rng(seed)
    reads: dict[int, tuple] = {}
    right_words = 0

    def check(tile: int) -> int:
        request, expected = reads.pop(tile)
        link.wait(request)
        assert request.data.tolist() == expected.tolist()
        return len(expected)

    for index in range(rounds):
        tile = index % TINY.sum_tiles
        if tile in reads:  # never overwrite what an unanswered READ covers
            right_words += check(tile)
        data = random.integers(0, 2**47, TINY.rows * TINY.columns, dtype=np.uint64)
        link.submit(write_tile(tile, data))
        reads[tile] = link.submit(read_tile(tile)), data
    right_words += sum(check(tile) for tile in list(reads))
    link.drain()
    return right_words


@pytest.fixture
def device() -> EmulatedDevice:
    return EmulatedDevice(TINY)


@pytest.fixture
def link(device: EmulatedDevice) -> Link:
    link = Link(EmulatedTransport(device))
    link.restart()
    link.reset_counters()
    return link


# frames


def test_frame_bytes_are_the_contract() -> None:
    frame = encode_frame(np.array([0x0807060504030201], dtype=np.uint64), sequence=0x1234, restart=True)
    start = bytes.fromhex("7fb1 0180 3412")
    header = start + (zlib.crc32(start) & 0xFFFF).to_bytes(2, "little")
    body = header + bytes(range(1, 9))
    assert frame == body + zlib.crc32(body).to_bytes(4, "little") + bytes(4)


@pytest.mark.parametrize("words", [0, packets.MAX_PAYLOAD_WORDS + 1])
def test_frame_length_is_checked(words: int) -> None:
    with pytest.raises(codec.FieldError, match="payload words"):
        encode_frame(np.zeros(words, dtype=np.uint64), 0)


payloads = st.lists(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), min_size=1, max_size=6)
noise = st.sampled_from([b"", b"\x7f", b"\x7f\xb1", b"\x7f\xb1\x03\x00\x00\x00\x12\x34", bytes(5)])
garbage = st.lists(noise, max_size=7)


@settings(max_examples=200, deadline=None)
@given(payloads=payloads, garbage=garbage, cuts=st.lists(st.integers(0, 2000), max_size=5))
def test_decoder_finds_every_frame_in_garbage(payloads: list, garbage: list, cuts: list) -> None:
    stream = b""
    for index, payload in enumerate(payloads):
        stream += garbage[index] if index < len(garbage) else b""
        stream += encode_frame(np.array(payload, dtype=np.uint64), index)
    decoder, found = FrameDecoder(), []
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    for start, stop in itertools.pairwise(edges):
        found += decoder.feed(stream[start:stop])
    assert [payload.tolist() for payload in found] == payloads
    assert decoder.damaged_frames == 0


def test_decoder_reports_a_damaged_frame_and_finds_those_hidden_in_it() -> None:
    frames = [encode_frame(np.arange(n, dtype=np.uint64) + 7, n) for n in (5, 6, 7)]
    decoder = FrameDecoder()
    cut = frames[0][:20] + frames[0][21:]  # one byte lost: its length now reaches into the next frame
    found = decoder.feed(cut + frames[1] + frames[2])
    assert [len(payload) for payload in found] == [6, 7]
    assert decoder.damaged_frames == 1
    assert decoder.skipped_bytes == len(cut)


def test_decoder_flush_gives_up_an_unfinished_frame() -> None:
    long, short = (encode_frame(np.zeros(n, dtype=np.uint64), 0) for n in (50, 1))
    decoder = FrameDecoder()
    assert decoder.feed(long[:40] + short) == []
    assert [len(payload) for payload in decoder.flush()] == [1]
    assert decoder.damaged_frames == 1
    assert decoder.missing_bytes == 24


# link


def test_commands_arrive_once_and_in_order(link: Link, device: EmulatedDevice) -> None:
    device.opcodes.clear()
    assert write_and_read(link, rounds=300) == 300 * TINY.rows * TINY.columns
    assert device.opcodes == [Opcode.WRITE, Opcode.READ] * 300
    statistics = link.statistics
    assert statistics.sent_frames == 3 + 600
    assert statistics.received_frames == 3 + 600
    faults = ("retransmitted_frames", "refused_frames", "damaged_frames", "skipped_bytes", "silences")
    assert [getattr(statistics, name) for name in (*faults, "lost_responses", "late_responses")] == [0] * 7


def test_credit_is_used_and_never_exceeded(link: Link, device: EmulatedDevice) -> None:
    data = np.zeros(8, dtype=np.uint64)
    command = Command(Opcode.WRITE, {"space": Space.STORE, "rows": 4, "words": 2}, data)
    for _ in range(1000):
        link.submit(command)
    link.drain()
    assert TINY.rx_words - 2 * 13 < device.most_words <= TINY.rx_words


def test_sequence_numbers_wrap(link: Link, device: EmulatedDevice) -> None:
    link.restart(first_sequence=65_000)
    for _ in range(3000):
        link.submit(Command(Opcode.SYNC))
    link.drain()
    assert device.opcodes.count(Opcode.SYNC) == 3000 + 2  # each restart sends one
    assert link.statistics.retransmitted_frames == 0


def test_restart_recovers_a_device_in_mid_frame(device: EmulatedDevice) -> None:
    link = Link(EmulatedTransport(device))
    link.restart()
    write_and_read(link, rounds=11)
    device.feed(encode_frame(np.zeros(516, dtype=np.uint64), 99)[:100])
    again = Link(EmulatedTransport(device))
    again.restart()
    assert again.statistics.silences > 0
    assert write_and_read(again, rounds=50) == 50 * TINY.rows * TINY.columns


def test_refused_command_is_named(link: Link) -> None:
    with pytest.raises(DeviceError, match=r"refused WRITE\(space=9, rows=1, words=1\) with BAD_SPACE: space unknown"):
        link.call(Command(Opcode.WRITE, {"space": 9, "rows": 1, "words": 1}, np.zeros(1, dtype=np.uint64)))
    assert write_and_read(link, rounds=5) > 0  # the link goes on


MATMUL = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "a_octets": 1, "b_octets": 1}


def quiet(**fields: int) -> Command:
    return Command(Opcode.MATMUL, MATMUL | {"quiet": 1} | fields)


def test_quiet_commands_are_settled_by_an_answer_in_order(link: Link, device: EmulatedDevice) -> None:
    received = link.statistics.received_frames
    first = [link.submit(quiet()) for _ in range(5)]
    loud = link.submit(Command(Opcode.MATMUL, MATMUL))
    read = link.submit(read_tile(0))
    last = link.submit(quiet())
    link.wait(read)  # its data come after the other's answer
    assert loud.done and all(request.done for request in first)
    assert not last.done
    assert link.statistics.received_frames == received + 2
    link.wait(last)
    assert last.done and len(last.data) == 0
    assert device.opcodes[-1] == Opcode.PING  # nothing else would have shown it
    assert device.opcodes.count(Opcode.PING) == 2  # the other one was that of the restart
    assert link.statistics.silences == link.statistics.lost_responses == 0


def test_an_answer_to_read_settles_no_quiet_command(link: Link) -> None:
    """It may overtake a refusal."""
    request, read = link.submit(quiet()), link.submit(read_tile(0))
    link.wait(read)
    assert not request.done
    link.drain()
    assert request.done


def test_quiet_commands_do_not_use_up_the_credit(link: Link, device: EmulatedDevice) -> None:
    requests = [link.submit(quiet()) for _ in range(1000)]
    assert sum(request.done for request in requests) > 500
    link.drain()
    assert all(request.done for request in requests)
    assert device.opcodes.count(Opcode.MATMUL) == 1000
    assert device.opcodes.count(Opcode.PING) < 20
    assert link.statistics.silences == 0


@pytest.mark.parametrize("behind", [0, 3, 300])
def test_refused_quiet_command_is_named(link: Link, behind: int) -> None:
    """By `drain` at the latest; `submit` may say so before."""
    bad = link.submit(quiet(chunks=0))

    def go_on() -> None:
        for _ in range(behind):
            link.submit(quiet())
        link.drain()

    with pytest.raises(DeviceError, match=r"refused MATMUL\(.*chunks=0.*quiet=1\) with BAD_RANGE"):
        go_on()
    assert bad.done
    link.drain()
    assert write_and_read(link, rounds=5) > 0


def test_command_larger_than_the_buffer_is_refused() -> None:
    link = Link(EmulatedTransport(EmulatedDevice(TINY)), window_words=100)
    link.restart()
    with pytest.raises(DeviceError, match="raise rx_words"):
        link.submit(Command(Opcode.WRITE, {}, np.zeros(100, dtype=np.uint64)))


class Mute:
    name, deterministic, timeout_s, byte_s = "the mute device", True, 0.0, 0.0

    def write(self, data: bytes) -> None:
        pass

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        return b""

    def close(self) -> None:
        pass


def test_no_answer_says_what_to_check() -> None:
    with pytest.raises(LinkError, match=r"the mute device does not answer; check its power, the cable"):
        Link(Mute()).restart()


# recordings


def test_recording_replays_the_same_answers(device: EmulatedDevice, tmp_path) -> None:
    path = tmp_path / "session"
    link = Link(RecordingTransport(EmulatedTransport(device), path))
    link.restart()
    expected = write_and_read(link, rounds=40)
    link.close()
    replayed = Link(ReplayTransport(path))
    replayed.restart()
    assert write_and_read(replayed, rounds=40) == expected > 0
    assert replayed.statistics == link.statistics


def test_replay_names_the_first_byte_that_differs(device: EmulatedDevice, tmp_path) -> None:
    path = tmp_path / "session"
    transport = RecordingTransport(EmulatedTransport(device), path)
    transport.write(b"abcdef")
    transport.close()
    with pytest.raises(LinkError, match="differs at request byte 4"):
        ReplayTransport(path).write(b"abcdXf")
    with pytest.raises(LinkError, match="ends at request byte 6"):
        ReplayTransport(path).write(b"abcdefg")


def test_bad_recordings_are_refused(tmp_path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        ReplayTransport(tmp_path / "absent")
    (tmp_path / "other").write_bytes(b"something else\n")
    with pytest.raises(UsageError, match="make one with"):
        ReplayTransport(tmp_path / "other")


@pytest.mark.parametrize("head", [b"", b"junk\n", b"[1]\n", b"3\n", b"{}\n", b"\xff\n"])
def test_recording_with_a_damaged_head_is_refused(tmp_path, head: bytes) -> None:
    (tmp_path / "session").write_bytes(b"BITFIRST RECORDING 1\n" + head)
    with pytest.raises(UsageError, match="damaged second line; record it again"):
        ReplayTransport(tmp_path / "session")


def test_recording_cut_short_is_refused(device: EmulatedDevice, tmp_path) -> None:
    path = tmp_path / "session"
    transport = RecordingTransport(EmulatedTransport(device), path)
    transport.write(b"abcdef")
    transport.close()
    whole = path.read_bytes()
    ReplayTransport(path)
    for damaged in (whole[:-1], whole[:-8], whole.replace(b"W\x06", b"X\x06")):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=f"cut short before byte {len(damaged)}; record it again"):
            ReplayTransport(path)


# transports that depend on wall time


def serve(transport: Transport, read, write) -> threading.Thread:
    """Pass bytes on between `transport` and two functions until `read` returns nothing."""

    def run() -> None:
        with contextlib.suppress(OSError):
            while data := read():
                transport.write(data)
                write(transport.read(2**40, 0))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


@contextlib.contextmanager
def serial_port(transport: Transport):
    """A serial port (its path) with `transport` behind it."""
    host, port = os.openpty()
    os.set_blocking(host, True)

    def write(data: bytes) -> None:
        while data:
            data = data[os.write(host, data) :]

    thread = serve(transport, lambda: os.read(host, 4096), write)
    try:
        yield os.ttyname(port)
    finally:
        os.close(port)
        thread.join(timeout=5)
        os.close(host)


def test_serial_port(device: EmulatedDevice) -> None:
    with serial_port(EmulatedTransport(device)) as path:
        link = Link(SerialTransport(path, baud=1_000_000))
        link.restart()
        assert write_and_read(link, rounds=200) == 200 * TINY.rows * TINY.columns
        link.close()
    assert link.statistics.retransmitted_frames == 0


def test_serial_port_that_does_not_exist() -> None:
    with pytest.raises(LinkError, match="/dev/ttyBITFIRST cannot be opened"):
        SerialTransport("/dev/ttyBITFIRST", baud=1_000_000)


def test_tcp(device: EmulatedDevice) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        transport = TcpTransport("127.0.0.1", port)
        connection, _ = server.accept()
        with connection:
            thread = serve(EmulatedTransport(device), lambda: connection.recv(4096), connection.sendall)
            link = Link(transport)
            link.restart()
            assert write_and_read(link, rounds=200) == 200 * TINY.rows * TINY.columns
            link.close()
            thread.join(timeout=5)


def test_tcp_without_a_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(LinkError, match="check that the server runs"):
        TcpTransport("127.0.0.1", port)
