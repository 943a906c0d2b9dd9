"""Toggles of the compiled RTL: those that its waveforms show, by phase, in files that others read."""

import re
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from amaranth import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst.errors import DeviceError, UsageError
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.ports import word_stream
from bitfirst_sim import saif
from bitfirst_sim.saif import Activity
from bitfirst_sim.simulator import TOGGLES, Schedule, Simulator
from vcd.reader import TokenKind, tokenize

TINY = CONFIGS["tiny"]
CYCLE_PS, HALF_PS = 10_000, 5_000
CORE = ("TOP", "simulated", "core")
Traces = dict[saif.Net, list[tuple[int, int]]]  #: each bit's values, from which time on


class Accumulator(wiring.Component):
    """Each word plus all before it, a cycle later; the low byte of the first word in each message is its phase."""

    rx: In(word_stream())
    tx: Out(word_stream())
    idle: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full, toggling = Signal(), Signal(init=1)
        m.submodules.counters = counters = Phase()
        m.d.comb += [self.rx.ready.eq(~full | self.tx.ready), self.tx.valid.eq(full), self.idle.eq(~full)]
        m.d.comb += counters.word.eq(self.rx.payload)
        m.d.sync += toggling.eq(~toggling)
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += [full.eq(1), self.tx.payload.eq(self.tx.payload + self.rx.payload)]
            m.d.comb += counters.take.eq(1)
        with m.Elif(self.tx.ready):
            m.d.sync += full.eq(0)
        return m


class Phase(wiring.Component):
    """Takes the phase from words with a high top bit."""

    word: In(64)
    take: In(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        phase = Signal(8, name="phase_now")
        with m.If(self.take & self.word[63]):
            m.d.sync += phase.eq(self.word)
        return m


@pytest.fixture(scope="module")
def accumulator() -> str:
    return verilog.convert(Accumulator(), "accumulator")


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def mark(phase: int) -> int:
    return phase + (1 << 63)


MESSAGES = [(5, 6, 7), (8, mark(2), 2**40 - 1, 12), (mark(3), 0, 0, 0), (9, mark(2), 2**33)]
SCHEDULE = Schedule(3, 0.4, 0.3)


def traces(path: Path) -> Traces:
    """Of a VCD file, by pyvcd, which takes no names such as `$1`."""
    waves = re.sub(rb" *\$var wire +\d+ \S+ \$.*\n", b"", path.read_bytes())
    nets: dict[str, list[list[saif.Net]]] = {}  # by code
    changes: dict[str, list[tuple[int, int]]] = {}
    instances, time_ps = [], 0
    for token in tokenize(BytesIO(waves)):
        match token.kind:
            case TokenKind.SCOPE:
                instances.append(token.scope.ident)
            case TokenKind.UPSCOPE:
                instances.pop()
            case TokenKind.VAR:
                bits = [(tuple(instances), name) for name in bits_of(token.var.reference, token.var.size)]
                nets.setdefault(token.var.id_code, []).append(bits)
            case TokenKind.CHANGE_TIME:
                time_ps = token.data
            case TokenKind.CHANGE_SCALAR:
                changes.setdefault(token.scalar_change.id_code, []).append((time_ps, int(token.scalar_change.value)))
            case TokenKind.CHANGE_VECTOR:
                changes.setdefault(token.vector_change.id_code, []).append((time_ps, token.vector_change.value))
    return {
        net: [(when, value >> index & 1) for when, value in changes[code]]
        for code, names in nets.items()
        for bits in names
        for index, net in enumerate(bits)
    }


def bits_of(name: str, size: int) -> Iterator[str]:
    return (name if size == 1 else f"{name}[{index}]" for index in range(size))


def counted(changes: list[tuple[int, int]], first_ps: int, last_ps: int) -> np.ndarray:
    """Picoseconds high and toggles, from behind `first_ps` to `last_ps`."""
    value, since, high_ps, toggles = 0, first_ps, 0, 0
    for when, new in changes:
        if when <= first_ps:
            value = new
        elif when <= last_ps and new != value:
            high_ps += value * (when - since)
            toggles += 1
            value, since = new, when
    return np.array([high_ps + value * (last_ps - since), toggles])


def stretches(seen: Traces, first_cycle: int, cycles: int) -> list[tuple[int, int, int]]:
    """Phase, first and last time; what an edge of the clock changes is of the phase before it."""
    bits = [seen[(*CORE, "counters"), f"phase_now[{bit}]"] for bit in range(8)]
    begins = {first_cycle} | {when // CYCLE_PS + 1 for changes in bits for when, _ in changes}
    begins = sorted(begin for begin in begins if begin >= first_cycle)
    found = []
    for begin, end in pairwise([*begins, cycles]):
        now = [max((one for one in changes if one[0] < begin * CYCLE_PS), default=(0, 0))[1] for changes in bits]
        found.append(
            (sum(value << bit for bit, value in enumerate(now)), begin * CYCLE_PS - HALF_PS, end * CYCLE_PS - HALF_PS)
        )
    return found


def activity(accumulator: str) -> tuple[dict[int, Activity], int, int]:
    """By phase, without the first message; its cycles, and those of all."""
    with Simulator(TINY, None, SCHEDULE, verilog=accumulator, toggles=True) as board:
        board.send(words(*MESSAGES[0]))
        board.receive()
        first = board.cycles
        assert list(board.activity()) == [0]
        for message in MESSAGES[1:]:
            board.send(words(*message))
            board.receive()
        return board.activity(), first, board.cycles


def test_toggles_are_those_of_waveforms(accumulator: str, tmp_path: Path) -> None:
    """Of each bit and phase; the waveforms by Verilator's other writer and by a reader that nobody here wrote."""
    path = tmp_path / "waves.vcd"
    with Simulator(TINY, path, SCHEDULE, verilog=accumulator) as board:
        for message in MESSAGES:
            board.send(words(*message))
            board.receive()
        cycles = board.cycles
    seen = traces(path)
    found, first, last = activity(accumulator)
    assert last == cycles and list(found) == [0, 2, 3]
    parts = stretches(seen, first, cycles)
    assert [phase for phase, *_ in parts] == [0, 2, 3, 2]
    for phase, one in found.items():
        times = [(begin, end) for number, begin, end in parts if number == phase]
        assert one.duration_ps == sum(end - begin for begin, end in times)
        compared = 0
        for net, high_ps, toggles in zip(one.nets, one.high_ps, one.toggles, strict=True):
            if net in seen:
                assert [high_ps, toggles] == sum(counted(seen[net], *time) for time in times).tolist(), net
                compared += 1
        assert compared > 300


def lists(text: str) -> list:
    """The file as nested lists of words: another reader than `saif.read`, by the standard's rules for names alone."""
    found: list[list] = [[]]
    for word in re.findall(r"/\*.*?\*/|\(|\)|\"[^\"]*\"|[^\s()]+", text):
        if word == "(":
            found.append([])
        elif word == ")":
            closed = found.pop()
            found[-1].append(closed)
        elif not word.startswith("/*"):
            found[-1].append(word)
    (only,) = found
    return only[0]


def nets_of(instance: list, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, int]]]:
    place = (*place, instance[1])
    for kind, *content in instance[2:]:
        if kind == "INSTANCE":
            yield from nets_of([kind, *content], place)
        for name, *numbers in content if kind == "NET" else ():
            yield (*place, name), {key: int(number) for key, number in numbers}


def test_files_are_such_as_others_read(accumulator: str, tmp_path: Path) -> None:
    found, _, _ = activity(accumulator)
    path = tmp_path / "two.saif"
    saif.write(path, found[2], "accumulator", "of a test")
    head, *rest = lists(path.read_text())
    assert head == "SAIFILE" and rest[0] == ["SAIFVERSION", '"2.0"'] and ["TIMESCALE", "1", "ps"] in rest
    (duration_ps,) = (int(one[1]) for one in rest if one[0] == "DURATION")
    nets = dict(nets_of(rest[-1]))
    assert len(nets) == sum(not name.startswith("$") for _, name in found[2].nets) > 300
    assert all(re.fullmatch(r"[A-Za-z_](\w|\\\W)*", word) for words in nets for word in words)
    assert all(one["T0"] + one["T1"] == duration_ps and one["TX"] == 0 for one in nets.values())
    assert nets["TOP", "simulated", "core", "clk"] == {"T0": duration_ps // 2, "T1": duration_ps // 2, "TX": 0} | {
        "TC": 2 * duration_ps // CYCLE_PS
    }
    assert nets["TOP", "simulated", "core", "counters", r"phase_now\[1\]"]["T1"] == duration_ps


def test_files_are_read_as_they_were_written(accumulator: str, tmp_path: Path) -> None:
    found, _, _ = activity(accumulator)
    path = tmp_path / "two.saif"
    saif.write(path, found[2], "accumulator", "of a test")
    again = saif.read(path)
    named = np.array([not name.startswith("$") for _, name in found[2].nets])
    assert again.nets == tuple(net for net in found[2].nets if not net[1].startswith("$"))
    assert again.duration_ps == found[2].duration_ps
    assert (again.high_ps == found[2].high_ps[named]).all() and (again.toggles == found[2].toggles[named]).all()
    assert again.toggles.sum() > 0


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("1 ps", "1 ns", "no SAIF file with times in picoseconds"),
        ("(T0 30)", "(T0 29)", r"clk\[0\] is low 29 ps and high 10 ps of 40"),
        ("(TX 0)", "(TX 1)", "damaged or cut short in line 3"),
        ("))\n)", "", "damaged or cut short in line 4"),
    ],
)
def test_bad_files_are_refused(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = "(SAIFILE (TIMESCALE 1 ps)\n(DURATION 40)\n(INSTANCE a (NET\n(clk\\[0\\] (T0 30) (T1 10) (TX 0) (TC 7))))\n)"
    path = tmp_path / "a.saif"
    path.write_text(text)
    good = saif.read(path)
    assert good.nets == ((("a",), "clk[0]"),) and [good.high_ps[0], good.toggles[0]] == [10, 7]
    path.write_text(text.replace(old, new))
    with pytest.raises(UsageError, match=said):
        saif.read(path)


def test_different_designs_do_not_add_up() -> None:
    one, other = (Activity((((), name),), 1, np.zeros(1, int), np.zeros(1, int)) for name in "ab")
    with pytest.raises(UsageError, match="different designs"):
        one + other


def test_waveforms_or_toggles(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not both"):
        Simulator(TINY, tmp_path / "waves.vcd", verilog="compiles not", toggles=True)


def test_lost_files_are_told(accumulator: str) -> None:
    with Simulator(TINY, verilog=accumulator, toggles=True) as board:
        board.send(words(1))
        board.receive()
        board._message(TOGGLES, 0)
        board._process.stdin.flush()
        board._read(8)
        for path in Path(board._toggles.name).glob("*.start.saif"):
            path.unlink()
        with pytest.raises(DeviceError, match="stretch 0 are lost"):
            board.activity()
