"""The simulated board on a small design of its own: what goes in comes out, and the clock counts as promised."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from amaranth import Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst.command import Command
from bitfirst.errors import LinkError, UsageError
from bitfirst.link import Link
from bitfirst.transports import RtlTransport
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_sim import bench_sim, build
from bitfirst_sim.simulator import Schedule, Simulator

TINY = CONFIGS["tiny"]


class Increment(wiring.Component):
    """Each word plus one, a cycle later. Never takes the word 13: it hangs there, neither idle nor done."""

    def __init__(self, bits: int = 64) -> None:
        word = stream.Signature(bits)
        super().__init__({"rx": In(word), "tx": Out(word), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        full = Signal()
        m.d.comb += [
            self.rx.ready.eq((~full | self.tx.ready) & (self.rx.payload != 13)),
            self.tx.valid.eq(full),
            self.idle.eq(~full),
        ]
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += [full.eq(1), self.tx.payload.eq(self.rx.payload + 1)]
        with m.Elif(self.tx.ready):
            m.d.sync += full.eq(0)
        return m


@pytest.fixture(scope="module")
def increment() -> str:
    return verilog.convert(Increment(), "increment")


def words(*values: int) -> bytes:
    return b"".join(value.to_bytes(8, "little") for value in values)


def test_words_pass_in_order(increment: str) -> None:
    values = [*range(14, 1000), 2**64 - 1]
    with Simulator(TINY, verilog=increment) as board:
        board.send(words(*values))
        assert board.receive() == words(*[(value + 1) % 2**64 for value in values])
        assert board.cycles == len(values) + 2  # one to offer the first word, one to answer the last


def test_clock_runs_in_receive_alone(increment: str) -> None:
    with Simulator(TINY, verilog=increment) as board:
        assert board.receive() == b"" and board.cycles == 0
        board.send(words(1, 2))
        board.send(words(3))
        assert board.receive(0) == b"" and board.cycles == 0
        assert board.receive(1) == words(2) and board.cycles == 3
        assert board.receive(16) == words(3, 4) and board.cycles == 5
        assert board.receive() == b"" and board.cycles == 5


def test_part_of_a_word_waits_for_the_rest(increment: str) -> None:
    with Simulator(TINY, verilog=increment) as board:
        board.send(words(1)[:3])
        assert board.receive() == b"" and board.cycles == 0
        board.send(words(1)[3:])
        assert board.receive() == words(2)


def test_schedule_delays_and_repeats(increment: str) -> None:
    values = list(range(100, 1100))
    cycles = {}
    for schedule in (Schedule(1, 0.5, 0.25), Schedule(2, 0.5, 0.25), Schedule(1, 0.5, 0), Schedule(1, 0, 0.25)):
        seen = set()
        for _ in range(2):
            with Simulator(TINY, verilog=increment, schedule=schedule) as board:
                board.send(words(*values))
                assert board.receive() == words(*[value + 1 for value in values])
                seen.add(board.cycles)
        assert len(seen) == 1
        cycles[schedule] = seen.pop()
    assert len(set(cycles.values())) == 4
    assert cycles[Schedule(1, 0.5, 0)] == pytest.approx(2000, rel=0.1)
    assert cycles[Schedule(1, 0, 0.25)] == pytest.approx(1333, rel=0.1)


@pytest.mark.parametrize("values", [{"input_idle": 1.0}, {"output_stall": -0.1}, {"seed": -1}])
def test_schedule_refuses_nonsense(values: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(values))):
        Schedule(**values)


def test_narrow_link() -> None:
    text = verilog.convert(Increment(8), "increment")
    config = type(TINY)(**TINY.as_dict() | {"link_bits": 8})
    with Simulator(config, verilog=text) as board:
        board.send(bytes([1, 2, 255]))
        assert board.receive() == bytes([2, 3, 0])


def test_cycle_limit(increment: str) -> None:
    with Simulator(TINY, verilog=increment, cycle_limit=100_000) as board:
        board.send(words(1, 13))
        with pytest.raises(LinkError, match="neither done nor idle at cycle 100000"):
            board.receive()


def test_waveforms(increment: str, tmp_path) -> None:
    path = tmp_path / "waves.vcd"
    with Simulator(TINY, verilog=increment, trace=path) as board:
        board.send(words(0x123456789ABCDEF0))
        board.receive()
        board.set_tracing(False)
        board.send(words(0x5555))
        board.receive()
    text = path.read_text()
    assert "rx__payload" in text
    assert f"b{0x123456789ABCDEF1:064b} " in text
    assert f"b{0x5556:064b} " not in text


def test_waveforms_that_cannot_be_are_refused_at_once(tmp_path) -> None:
    with pytest.raises(UsageError, match="no such directory"):
        Simulator(TINY, verilog="compiles not", trace=tmp_path / "absent" / "waves.vcd")
    for directory in ("", tmp_path):
        with pytest.raises(UsageError, match="it is a directory"):
            Simulator(TINY, verilog="compiles not", trace=directory)


def test_waveforms_change_nothing(increment: str, tmp_path) -> None:
    """With waveforms the device is clocked by rising edges, without by both: the same cycles, the same bytes."""
    seen = []
    for trace in (None, tmp_path / "waves.vcd"):
        with Simulator(TINY, trace, Schedule(5, 0.3, 0.6), verilog=increment) as board:
            board.send(words(*range(20, 300)))
            seen.append([(board.receive(least), board.cycles) for least in (0, 8, 800, 2**40)])
    assert seen[0] == seen[1]
    assert b"".join(data for data, _ in seen[0]) == words(*range(21, 301))


def test_the_device_answers() -> None:
    """The real device, through the real link: who it is, and how many cycles it counts."""
    board = RtlTransport(TINY)
    link = Link(board)
    link.restart()
    first = board._simulator.cycles
    fields = {"space": packets.Space.REGISTERS, "first": 0, "count": registers.IDENTITY_WORDS}
    block = link.call(Command(packets.Opcode.READ, fields))
    assert codec.decode(registers.Identity, block) == TINY.identity(verilog.fingerprint(TINY) | registers.SIMULATED)
    counted = [link.call(Command(packets.Opcode.COUNTERS))[registers.COUNTER_INDEX["cycles"]] for _ in range(2)]
    assert 0 < counted[0] < counted[1] <= board._simulator.cycles
    assert first < board._simulator.cycles < first + 1000
    link.close()


def test_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_sim, "LEAST_SECONDS", 0.1)
    monkeypatch.setattr(bench_sim, "BATCH", 4)
    result = bench_sim.run("tiny")
    assert result["config"] == "tiny"
    assert result["cycles_per_second"] > 0 and result["compile_s"] > 0.5
    assert result["commands"] > 100 and result["cycles"] > 10_000
    assert min(result["matmuls"], result["loads"]) > 0
    assert 0 < result["array_utilisation"] < 1


def test_death_is_told(increment: str) -> None:
    board = Simulator(TINY, verilog=increment)
    os.kill(board._process.pid, signal.SIGKILL)
    with pytest.raises(LinkError, match="simulator ended"):
        board.receive()
    board.close()
    with pytest.raises(LinkError, match="closed"):
        board.send(b"")


def test_no_orphan(increment: str, tmp_path) -> None:
    """The simulator ends with its host, even when that is killed while the clock runs."""
    (tmp_path / "increment.v").write_text(increment)
    script = (
        "import sys; from bitfirst_hdl.config import CONFIGS; from bitfirst_sim.simulator import Simulator\n"
        "board = Simulator(CONFIGS['tiny'], verilog=open(sys.argv[1]).read(), cycle_limit=2**50)\n"
        "board.send((13).to_bytes(8, 'little')); print(board._process.pid, flush=True); board.receive()"
    )
    host = subprocess.Popen([sys.executable, "-c", script, tmp_path / "increment.v"], stdout=subprocess.PIPE, text=True)
    pid = int(host.stdout.readline())
    time.sleep(0.2)
    os.kill(pid, 0)  # still there
    host.kill()
    host.communicate()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _is_running(pid):
        time.sleep(0.02)
    assert not _is_running(pid)


def _is_running(pid: int) -> bool:
    """Whether the process lives; one that has ended but that nobody has waited for counts as ended."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_two_builds_at_once(increment: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that want the same simulator get one, whole."""
    (tmp_path / "increment.v").write_text(increment)
    script = (
        "import sys; from bitfirst_sim.build import build_simulator\n"
        "print(build_simulator(open(sys.argv[1]).read(), 64))"
    )
    environment = os.environ | {"BITFIRST_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-c", script, tmp_path / "increment.v"]
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(paths) == 1
    made = {path.name for path in (tmp_path / "cache" / "simulators").iterdir() if path.suffix != ".lock"}
    assert made == {os.path.basename(paths.pop())}


def test_instruction_set_is_a_part_of_the_key(increment: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that share a cache do not run each other's instructions; a compiler that knows no such flag will do."""
    both, one = build.NATIVE_FLAGS
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path / "cache"))
    made = {}  # name -> program, and flags of what runs in every cycle

    def compile_nothing(directory, _harness, _compiler, fast, *_rest):
        made[name] = fast
        (directory / "simulator").write_text("")
        return directory / "simulator"

    monkeypatch.setattr(build, "compile_model", compile_nothing)
    monkeypatch.setattr(build, "_compile_all", lambda *_: [])
    script = tmp_path / "compiler"
    monkeypatch.setenv("CXX", str(script))
    paths = {}
    narrow = 'case "$*" in *width*) exit 1;; *) echo 3;; esac'
    answers = {"this": "echo 1", "other": "echo 2", "narrow": narrow, "plain": "exit 1", "again": "echo 1"}
    for name, answer in answers.items():
        script.write_text(f'#!/bin/sh\ncase "$*" in *-dM*) {answer};; *) echo 1.0;; esac\n')
        script.chmod(0o755)
        paths[name] = build.build_simulator(increment, 64)
    assert len(set(paths.values())) == 4 and paths["again"] == paths["this"]
    assert sum(path.is_dir() for path in (tmp_path / "cache" / "runtimes").iterdir()) == 4
    native = {name: tuple(flag for flag in fast if flag in both) for name, fast in made.items()}
    assert native == {"this": both, "other": both, "narrow": one, "plain": ()}


@pytest.mark.parametrize("make", [lambda text: build.build_simulator(text, 64), build.build_power_simulator])
def test_what_is_compiled_is_what_the_key_is_of(
    make, increment: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that changes meanwhile must not come into the cache under the key of the one before."""
    names = "HARNESS", "WRAPPER", "POWER_HARNESS", "SENSORS", "CONVERTER"
    sources = {name: tmp_path / getattr(build, name).name for name in names}
    headers = [tmp_path / header.name for header in build.SENSOR_HEADERS]
    for name, value in {**sources, "SENSOR_HEADERS": headers}.items():
        monkeypatch.setattr(build, name, value)
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path / "cache"))
    compiled = {}

    def write(word: str) -> None:
        for path in [*sources.values(), *headers]:
            path.write_text(word)

    def verilator(*arguments, **_) -> str:
        if "--version" not in arguments:
            write("new")
        return ""

    def compile_all(_, directory: Path) -> list[Path]:
        compiled.update((path.name, path.read_text()) for path in directory.glob("*.*"))
        raise build.BuildError("seen")

    write("old")
    monkeypatch.setattr(build, "verilator", verilator)
    monkeypatch.setattr(build, "runtime", lambda *_: [])
    monkeypatch.setattr(build, "_header", lambda *_: "")
    monkeypatch.setattr(build, "_compile_all", compile_all)
    with pytest.raises(build.BuildError, match="seen"):
        make(increment)
    assert compiled["harness.cpp"].endswith("old") and compiled["sensors.hpp"] == compiled["xadc.hpp"] == "old"
    assert "new" not in compiled.values() and compiled.get("wrapper.sv") in ("old", None)


def test_headers_are_compiled_by_one_process_and_kept_whole(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path / "cache"))
    log, compiler, broken = (tmp_path / name for name in ("log", "compiler", "broken"))
    compiler.write_text(f"""#!/bin/sh
case "$*" in *--version) exec cat {tmp_path}/version;; esac
echo "$*" >>{log}
while [ "$1" != -o ]; do shift; done
echo half >"$2" && sleep 0.2 && [ ! -e {broken} ] && echo whole >"$2"
""")
    compiler.chmod(0o755)
    version = tmp_path / "version"
    version.write_text("of GNU")

    def header(*flags: str, **fresh: bool) -> Path:
        return build._header([str(compiler), *flags], ("1",), **fresh)

    broken.touch()
    with pytest.raises(build.BuildError, match="see that the C"):
        header()
    broken.unlink()
    log.unlink()
    with ThreadPoolExecutor(2) as pool:
        made, same = pool.map(lambda _: header(), range(2))
    assert made == same and made.with_name("headers.hpp.gch").read_text() == "whole\n"
    assert len(log.read_text().splitlines()) == 1
    assert header() == made != header("-O3") and len(log.read_text().splitlines()) == 2
    header(fresh=True)
    assert len(log.read_text().splitlines()) == 3
    version.write_text("Debian clang version 14")
    header("-of-clang")
    assert header("-of-clang").read_text() and len(log.read_text().splitlines()) == 3
    left = {path.suffix for path in made.parents[1].iterdir()} | {path.name for path in made.parent.iterdir()}
    assert left == {"", ".lock", "headers.hpp", "headers.hpp.gch"}


def test_missing_compiler_is_one_line(increment: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    mend = "install one (Debian, Ubuntu: `apt install g++`) or set CXX"
    with pytest.raises(build.BuildError) as error:
        build.build_simulator(increment, 64)
    assert str(error.value) == f"no C++ compiler: CXX=no-such-compiler is not on PATH; {mend}"
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError) as error:
        build.build_simulator(increment, 64)
    assert str(error.value) == f"no C++ compiler: none of c++, g++, clang++ is on PATH; {mend}"


def test_bad_verilog_is_one_line(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    with pytest.raises(build.BuildError, match="verilator_bin failed: %Error") as error:
        build.build_simulator("module broken(input", 64)
    assert "\n" not in str(error.value)
    assert [path.suffix for path in (tmp_path / "simulators").iterdir()] == [".lock"]


def test_cache_may_be_named_from_here(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BITFIRST_CACHE", "cache")
    made = build.runtime(build.find_compiler(), ("verilated_threads.cpp",), ("of this test",))
    assert made[0].exists() and {path.name for path in tmp_path.iterdir()} == {"cache"}


def test_cache_that_cannot_be_written(tmp_path, monkeypatch: pytest.MonkeyPatch, increment: str) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path / "file"))
    with pytest.raises(build.BuildError, match="set BITFIRST_CACHE"):
        build.build_simulator(increment, 64)


def test_lint_complains(increment: str) -> None:
    build.lint(increment)
    with pytest.raises(build.BuildError, match="WIDTH"):
        build.lint("module wide(input [3:0] a, output [1:0] b); assign b = a; endmodule\n")
