"""A device that hangs for real says what it did: watchdog, trace, and the way to them past the commands."""

import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from amaranth.lib import data
from bitfirst.cli import run
from bitfirst.command import Command
from bitfirst.errors import DeviceError, LinkError
from bitfirst.golden.commands import GoldenDevice
from bitfirst.link import MIN_WINDOW_WORDS, Link, encode_frame
from bitfirst.trace import read
from bitfirst.transports import RtlTransport
from bitfirst_hdl import engine, top, trace, verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract.datagrams import Head
from bitfirst_hdl.contract.packets import TRACE_RECORDS, Opcode, Space, Status, Target
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.simulator import Simulator

TINY = CONFIGS["tiny"]
CONFIG = replace(TINY, watchdog_cycles=2000)
CYCLE_LIMIT = 1_000_000
MIN_UDP_BYTES = 18  # of payload: with 28 of IP and UDP they make the 46 that an Ethernet frame carries at least
HEAD_BYTES = data.Layout.cast(Head).size // 8
READ_SUM = Command(Opcode.READ, {"space": Space.SUMS, "bits": 64, "count": 1, "rows": 1, "cols": 1})


class OverSimulator:
    """A transport to one simulated board, which may be taken up again by another `Link`."""

    name = "the simulated device"
    deterministic = True
    timeout_s = byte_s = 0.0

    def __init__(self, text: str) -> None:
        self.simulator = Simulator(CONFIG, verilog=text, cycle_limit=CYCLE_LIMIT)

    def write(self, data: bytes) -> None:
        self.simulator.send(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        return self.simulator.receive(min_bytes)

    def close(self) -> None:
        self.simulator.close()


@pytest.fixture(scope="module")
def broken() -> str:
    """A device whose engine never finishes: it multiplies, but stays at it; and which loses the data of READ."""
    ends = "m.d.sync += [self._running.eq(0), self.walking.eq(0)]"
    endless = altered(engine, (ends, "m.d.sync += self._running.eq(0)"))
    lossy = altered(top, ("sums.w_en.eq(readout.words.valid)", "sums.w_en.eq(0)"), MatmulEngine=endless.MatmulEngine)
    return verilog.convert(lossy.Core(CONFIG), "core")


@pytest.fixture
def hung(broken: str) -> Iterator[OverSimulator]:
    transport = OverSimulator(broken)
    yield transport
    transport.close()


def multiply(link: Link) -> None:
    """A product of zeros."""
    lanes = {"run": CONFIG.lanes, "taps": CONFIG.lanes, "positions": 1, "y_count": 1, "x_count": 1}
    link.submit(Command(Opcode.TENSOR, {"bits": 8, "n": 1, "h": 1, "w": 1, "c": CONFIG.lanes}))
    for target in Target:
        link.submit(Command(Opcode.LOAD, {"target": target, **lanes}))
    shape = {"slices": 1, "planes": 8, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "a_octets": 1, "b_octets": 1}
    link.submit(Command(Opcode.MATMUL, shape))


@pytest.mark.parametrize("last", [Command(Opcode.SYNC), READ_SUM], ids=["SYNC", "READ"])
def test_hang_is_told_and_traced(hung: OverSimulator, last: Command) -> None:
    """The engine never finishes; what waits for it is named, and what came before."""
    link, name = Link(hung), last.opcode.name
    link.restart()
    assert not read(hung).stuck
    multiply(link)
    with pytest.raises(LinkError, match=f"is stuck in {name}; see what it did with `bitfirst info DEVICE --trace`"):
        link.call(last)
    told = read(hung)
    assert told.stuck and told.command == name and told.at_work == ("multiplies",)
    commands = [(record.opcode, record.status) for record in told.records]
    good = ["SYNC", "PING", "TENSOR", "LOAD", "LOAD", "MATMUL", name]
    assert commands == [*((name, "OK") for name in good), (name, "STUCK")]
    assert [record.sequence for record in told.records] == [0, 1, 2, 3, 4, 5, 6, 6]
    cycles = [record.cycle for record in told.records]
    assert cycles == sorted(cycles) and told.cycle >= cycles[-1]
    assert CONFIG.watchdog_cycles <= cycles[-1] - cycles[-2] <= CONFIG.watchdog_cycles + 100
    assert read(hung).records == told.records


def test_answer_that_never_ends(hung: OverSimulator) -> None:
    """The frame of a READ whose data do not come is filled up, damaged, and given up: the way is free for the trace."""
    link = Link(hung)
    link.restart()
    with pytest.raises(LinkError, match="is stuck in READ"):
        link.call(READ_SUM)
    assert link.statistics.damaged_frames == 1
    told = read(hung)
    assert told.stuck and told.command == "READ" and told.at_work == ()
    assert [(record.opcode, record.status) for record in told.records[-2:]] == [("READ", "OK"), ("READ", "STUCK")]


def test_full_device_still_listens(hung: OverSimulator) -> None:
    """Behind the stuck command the buffer overflows, and a program was cut short in a frame: a knock comes through."""
    link = Link(hung)
    link.restart()
    multiply(link)
    with pytest.raises(LinkError, match="is stuck in SYNC"):
        link.call(Command(Opcode.SYNC))
    write = Command(Opcode.WRITE, {"space": Space.LIST, "row": 0, "rows": 500, "words": 1}, np.zeros(500, np.uint64))
    frames = [encode_frame(write.payload(), 7 + number) for number in range(MIN_WINDOW_WORDS // 500 + 2)]
    hung.write(b"".join(frames)[:-1000])
    told = read(hung)
    assert told.stuck and told.command == "SYNC"
    assert ("LINK", "BAD_FRAME") in [(record.opcode, record.status) for record in told.records]


def test_records_are_the_golden_models() -> None:
    """Of commands good and refused; RESET leaves them, and the oldest make room."""
    golden, transport = GoldenDevice(TINY), RtlTransport(TINY)
    link = Link(transport)
    link.restart()
    commands = [
        Command(Opcode.PING, {"token": 1}),
        Command(Opcode.MARK, {"phase": 99}),
        Command(Opcode.TENSOR, {"bits": 8, "word": 600, "n": 1, "h": 1, "w": 1, "c": 16}),
        Command(Opcode.LOAD, {"slot": 3}),
        Command(Opcode.READ, {"space": Space.LIST, "count": 1}),
        Command(Opcode.RESET),
        READ_SUM,
    ]
    for command in (Command(Opcode.SYNC), Command(Opcode.PING)):  # of the restart
        golden.execute(command)
    for number in range(TRACE_RECORDS + 9):
        command = commands[number % len(commands)]
        status, _ = golden.execute(command)
        if status == Status.OK:
            link.call(command)
        else:
            with pytest.raises(DeviceError, match=status.name):
                link.call(command)
    records = read(transport).records
    transport.close()
    assert [(record.opcode, record.status) for record in records] == [
        (Opcode(opcode).name, status.name) for opcode, status in golden.trace
    ]
    assert {status for _, status in golden.trace} >= {Status.OK, Status.BAD_VALUE, Status.BAD_RANGE, Status.BAD_SPACE}


def test_knocks_change_nothing() -> None:
    """A device without the feature passes over them, and over the zeros behind them."""
    transport = RtlTransport(CONFIGS["default"])
    link = Link(transport)
    link.restart()
    with pytest.raises(LinkError, match=r"does not tell what it did; .* has the feature trace"):
        read(transport)
    link.call(Command(Opcode.SYNC))
    transport.close()


def test_command_line(capfd: pytest.CaptureFixture) -> None:
    assert run(["info", "rtl:tiny", "--trace", "--json"]) == 0
    told = json.loads(capfd.readouterr().out)
    assert told["records"] == [] and not told["stuck"] and told["at_work"] == []
    assert run(["info", "rtl:tiny", "--trace"]) == 0
    assert run(["info", "model", "--trace"]) == 2
    assert "model has no trace; give rtl or a board" in capfd.readouterr().err


BENCH = "bitfirst_sim.benches.bench_trace"
LIMIT = {"watchdog_cycles": 40}


def test_unit() -> None:
    result = run_bench(trace.Trace(replace(TINY, **LIMIT)), "trace", BENCH, parameters=LIMIT)
    assert len(result.tests) == 5


@pytest.mark.parametrize(
    ("changes", "failing"),
    [
        (("range(PLACES), reset_less=True)  # of", "range(PLACES))  # of"), "records_outlive_resets"),
        (("~self.held & ~self.stuck", "~self.stuck"), "watchdog"),
    ],
)
def test_mutant_is_caught(changes: tuple[str, str], failing: str) -> None:
    mutant = altered(trace, changes).Trace(replace(TINY, **LIMIT))
    with pytest.raises(BenchError, match=f"failed: (.*, )?{failing}"):
        run_bench(mutant, "trace", BENCH, parameters=LIMIT)


class Deaf:
    """Keeps what is written."""

    name = "deaf"
    timeout_s = byte_s = 0.0

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        return b""


def test_nothing_that_is_asked_is_so_short_that_ethernet_pads_it() -> None:
    deaf = Deaf()
    with pytest.raises(LinkError, match="deaf does not tell"):
        read(deaf)
    assert deaf.written and min(map(len, deaf.written)) >= MIN_UDP_BYTES - HEAD_BYTES
