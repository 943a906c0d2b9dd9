"""Complete projects for Vivado, for Xilinx chips, which no open tools make bitstreams for here.

They are written, not run: there is no Vivado where this is developed.
"""

from pathlib import Path

from bitfirst_hdl import ipxact, verilog
from bitfirst_hdl.config import ArrayConfig

from . import liteeth_core
from .catalogue import Board
from .clocking import MHZ
from .tops import CONVERTER, RGMII_HZ, ULPI_CLOCK, ULPI_HZ, Pinned, make_device, pins_of, sensor_pins

SCRIPT = "build_top.sh"
_BLOCK_DESIGN = "zynq.tcl"
_WRITE = "write_bitstream "
_CHECK = 'if {[get_property SLACK [get_timing_paths]] < 0} { error "the clock is missed: see top_timing.rpt" }\n'
_README = """Bitfirst {fingerprint:016x} for {board}, a project for Vivado.

    sh {script}

makes top.bit, where Vivado is on PATH (or in VIVADO), and ends with an error where the clock is missed.
{made}

This project was generated. It has never been run through Vivado by those who wrote the generator, and no board has
been tried with it.
"""
_MADE = {
    "uart": "The device has its link on the board's serial port ({place}).",
    "usb": "The device has its link on USB ({place}), behind the board's PHY.",
    "udp": "The device is at {address}, with UDP on the board's Ethernet ({place}), which has to be 1000BASE-T.",
}
_MADE_AXI = """The device is a peripheral of the processing system: registers on AXI4-Lite, its link on AXI DMA,
both in the block design that {script} makes. ip/ has its Verilog, IP-XACT description, register document and C
header. Its clock is FCLK0, {clock_mhz:g} MHz, whose constraint comes with the processing system."""
_MADE_SENSORS = "\nSensors of energy hang on {bus} ({place})."
#: Between clocks that have nothing to do with each other words are passed by pointers in Gray code, of which no bit may
#: be a cycle of either clock behind another; Vivado would take clocks of one oscillator for related.
_APART = """set clocks [list {clocks}]
foreach from $clocks {{
    foreach to $clocks {{
        if {{$from ne $to}} {{
            set_max_delay -datapath_only -from $from -to $to {most_ns:g}
        }}
    }}
}}
"""
LINK_HZ = {"udp": RGMII_HZ, "usb": ULPI_HZ}  #: clocks that PHYs give; on USB all these boards have one
_RUN = """#!/bin/sh
set -e
cd "$(dirname "$0")"
"${VIVADO:-vivado}" -mode batch -log top.log -journal top.jou -source top.tcl
"""


def part(board: Board) -> str:
    """The chip's full name."""
    platform = board.platform
    return f"{platform.device}{platform.package}-{platform.speed}"


def write(board: Board, config: ArrayConfig, fingerprint: int, directory: Path) -> list[str]:
    """Writes a project; returns the names of its files."""
    texts = (_block_design if board.link == "axi" else _serial)(board, config, fingerprint)
    for name, text in texts.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    (directory / SCRIPT).chmod(0o755)
    return sorted(texts)


def _readme(board: Board, fingerprint: int, made: str) -> str:
    return _README.format(board=board.name, fingerprint=fingerprint, script=SCRIPT, made=made)


def _serial(board: Board, config: ArrayConfig, fingerprint: int) -> dict[str, str]:
    """Amaranth's project: Verilog, pins and clocks, synthesis to bitstream."""
    device = make_device(board, config, fingerprint)
    options = {"synth_design_opts": "-max_dsp 0"} if board.no_dsp else {}
    if board.link in LINK_HZ:
        options["script_after_synth"] = _apart(board)
    with verilog.use_yosys():
        plan = board.platform().prepare(Pinned(board, device), "top", emit_src=False, **options)
    beside = CONVERTER, f"{liteeth_core.NAME}.v"
    wanted = "top.v", "top.xdc", "top.tcl", *(name for name in beside if name in plan.files)
    texts = {name: plan.files[name] for name in wanted}
    before, after = texts["top.tcl"].split(_WRITE)
    texts["top.tcl"] = before + _CHECK + _WRITE + after  # boards take Amaranth's own place for it
    made = _MADE[board.link].format(place=board.links[board.link], address=board.network.address)
    if config.measures:
        made += _MADE_SENSORS.format(bus=board.sensors.bus_name, place=board.sensors.place)
    texts["README.txt"] = _readme(board, fingerprint, made)
    return texts | {SCRIPT: _RUN}


def _apart(board: Board) -> str:
    """Tcl, of a device behind a PHY. On Ethernet: its array's clock, LiteEth's, and the PHY's with what a PLL makes of
    that; on USB the PHY's, and all others.
    """
    if board.link == "udp":
        received = pins_of(board, board.platform()).rx_clk.io.name
        clocks = [f"[get_clocks -of_objects [get_pins {domain}_pll/buffer/O]]" for domain in ("sync", "ethernet")]
        clocks.append(f"[get_clocks -include_generated_clocks {received}]")
    else:
        clocks = [f"[get_clocks {ULPI_CLOCK}]", f"[get_clocks -filter {{NAME != {ULPI_CLOCK}}}]"]
    fastest_hz = max(LINK_HZ[board.link], board.clock_khz * 1000)
    return _APART.format(clocks=" ".join(clocks), most_ns=1000 * MHZ / fastest_hz)


def _block_design(board: Board, config: ArrayConfig, fingerprint: int) -> dict[str, str]:
    """The device with AXI ports as an IP core, and the block design around it."""
    texts = {f"ip/{name}": text for name, text in verilog.generate_axi(config, fingerprint).items()}
    settings = {
        "part": part(board),
        "board_files": board.board_files,
        "clock_mhz": f"{board.clock_khz / 1000:g}",
        "link_bits": config.link_bits,
        "core": ipxact.vlnv(verilog.module_name("axi")),
        "sensors": int(config.measures),
        "no_dsp": int(board.no_dsp),
    }
    lines = [f"set {name} {{{value}}}" for name, value in settings.items()]
    texts["top.tcl"] = "\n".join([*lines, f"source {_BLOCK_DESIGN}", ""])
    texts[_BLOCK_DESIGN] = Path(__file__).with_name(_BLOCK_DESIGN).read_text()
    made = _MADE_AXI.format(script=_BLOCK_DESIGN, clock_mhz=board.clock_khz / 1000)
    if config.measures:
        texts["sensors.xdc"] = _sensor_constraints(board)
        made += _MADE_SENSORS.format(bus=board.sensors.bus_name, place=board.sensors.place)
    texts["README.txt"] = _readme(board, fingerprint, made)
    return texts | {SCRIPT: _RUN}


def _sensor_constraints(board: Board) -> str:
    """Of the pins `sensors_scl_io` and `sensors_sda_io`, which Vivado makes of the block design's port."""
    pins, lines = sensor_pins(board, board.platform()), []
    for name in "scl", "sda":
        (pad,) = getattr(pins, name).io.metadata
        settings = {"PACKAGE_PIN": pad.name} | pad.attrs
        lines += [f"set_property {key} {value} [get_ports sensors_{name}_io]" for key, value in settings.items()]
    return "\n".join([*lines, ""])
