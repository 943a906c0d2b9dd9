"""Runs a cocotb bench on one component: Verilog, Verilator, cocotb, verdict.

The compiled simulator is cached under a hash of the Verilog and of the tools' versions.
"""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from amaranth.lib import wiring
from bitfirst_hdl.verilog import convert

from .build import (
    SLOW_FLAGS,
    cache_path,
    compile_model,
    compiler_version,
    digest,
    find_compiler,
    locked,
    runtime,
    verilator,
)

PARAMETERS_VARIABLE = "BITFIRST_BENCH_PARAMETERS"
VERILATOR_FLAGS = ("--cc", "--vpi", "--prefix", "Vtop", "-Wno-fatal", "-O3")
COMPILER_FLAGS = ("-std=c++17", "-DVERILATOR=1")
FAST_FLAGS = ("-O1",)  # what runs in every cycle: a bench waits for Python, and for the compiler
RUNTIME_SOURCES = ("verilated.cpp", "verilated_dpi.cpp", "verilated_vpi.cpp", "verilated_threads.cpp")


class BenchError(AssertionError):
    """A bench that failed or ran no test; the message ends with what the tools said."""


@dataclass(frozen=True)
class BenchResult:
    """`tests` names the cocotb tests that passed; `waveform` is the VCD file, if one was asked for."""

    tests: tuple[str, ...]
    seed: int
    waveform: Path | None


def _port_names(verilog: str, name: str) -> list[str]:
    """Ports of module `name`, from Verilog as yosys writes it."""
    module = verilog[verilog.index(f"module {name}(") :]
    header = module[module.index("(") + 1 : module.index(");")]
    return [port.strip().removeprefix("\\") for port in header.split(",")]


def build(verilog: str, name: str, *, waves: bool = False) -> Path:
    """The simulator of module `name`, built or taken from the cache. Only its ports are visible to the bench.

    Raises `BuildError` when a tool is missing or fails.
    """
    import cocotb_tools.config as cocotb_config

    compiler = find_compiler()
    harness = (Path(cocotb_config.share_dir) / "lib" / "verilator" / "verilator.cpp").read_text()
    libraries = Path(cocotb_config.libs_dir)
    flags = [*VERILATOR_FLAGS, "--top-module", name, *(["--trace"] if waves else [])]
    common = [*compiler, *COMPILER_FLAGS, f"-DVM_TRACE={int(waves)}", f"-DVM_TRACE_VCD={int(waves)}"]
    versions = metadata.version("verilator"), metadata.version("cocotb"), sys.version, compiler_version(compiler)
    key = digest(verilog, flags, common, FAST_FLAGS, SLOW_FLAGS, harness, str(libraries), versions)
    simulator = cache_path() / "benches" / key / name
    if simulator.exists():
        return simulator
    with locked(simulator.parent), tempfile.TemporaryDirectory(prefix=f"{key}.", dir=simulator.parent.parent) as folder:
        if simulator.exists():  # another process made it
            return simulator
        work = Path(folder)
        public = [f'public_flat_rw -module "{name}" -var "{port}"' for port in _port_names(verilog, name)]
        (work / "ports.vlt").write_text("\n".join(["`verilator_config", *public, ""]))
        (work / "design.v").write_text(verilog)
        verilator(*flags, "-Mdir", "model", "ports.vlt", "design.v", cwd=work)
        names = *RUNTIME_SOURCES, *(["verilated_vcd_c.cpp"] if waves else [])
        linked = [*runtime([*common, *FAST_FLAGS], names, versions), f"-Wl,-rpath,{libraries}", f"-L{libraries}"]
        linked += ["-lcocotbvpi_verilator"]
        made = compile_model(work, harness, common, list(FAST_FLAGS), versions, linked)
        simulator.parent.mkdir(exist_ok=True)
        made.replace(simulator)
    return simulator


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

    Raises `BenchError` when a test fails or none ran, `BuildError` when it cannot be built.
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
