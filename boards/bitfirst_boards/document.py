"""Writes the document of the boards, of the catalogue and of what `bitfirst build --all --json` found.

    bitfirst build --all --json > RESULT
    bitfirst build BOARD --link LINK --json > OTHER
    python -m bitfirst_boards.document [--measured RESULT] [--other OTHER]... [DIRECTORY]

DIRECTORY (default: docs) gets `boards.md`, and the results that it shows: `measured/boards.json`, and in
`measured/others.json` each OTHER, of a board with another link or array than its own. Without them results stay as they
are, but for whether these sources and tools would still build the same.
"""

import argparse
import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bitfirst_hdl.config import INSIDE, ArrayConfig

from . import flow, toolchains, tops, vivado
from .catalogue import AXI, BOARDS, ETHERNET, UART, Board
from .sensors import Rail, Regulator

MEASURED, OTHERS, DOCUMENT = "measured/boards.json", "measured/others.json", "boards.md"
KEPT = (
    *("board", "link", "parameters", "lut", "ff", "bram", "dsp", "fmax_mhz", "clock_mhz", "path_from", "path_to"),
    *("link_clocks", "synthesis_s", "placement_s", "seed", "no_dsp", "tools", "fingerprint", "sha256", "error"),
)
OLDER = "older"  #: key: whether other sources or tools made it, when the document was written
HEAD = """# Boards

Rendered by `python -m bitfirst_boards.document` from the [catalogue](../boards/bitfirst_boards/catalogue.py) and from
[{measured}]({measured}), what `bitfirst build --all --json` found; do not edit.

    bitfirst build ulx3s-85f                    # build/ulx3s-85f/top.bit
    bitfirst build ulx3s-85f --config my.toml   # another array
    bitfirst build --all                        # every board; goes on after one that fails
    bitfirst program ulx3s-85f

A build takes nothing but packages from PyPI (`bitfirst doctor` looks after them). It fails where the array does not
fit, which packing alone tells before anything is placed, where routing finds no end, and where it misses a clock; all
say by how much, and what would help. What `bitfirst explore` has placed of the same is not placed again. `--clock-khz`
sets another clock, `--seed` another placement. No bitstream has been loaded into a board yet.

The folder's `build.json` tells what is in it. The fingerprint, 63 bits of SHA-256 over sources, configuration, board
and versions of the tools, is burnt into the device: `bitfirst info` reads it back, and says for which board these
sources would build the same; `train` and `measure` warn where they would not. The same inputs give the same bitstream,
byte by byte. A finished build of the same is taken as it is; an older one, and one that was interrupted, is made anew;
only one build at a time works in a folder.
"""
OPEN = """## To a bitstream

With yosys, nextpnr and the packers of Project Trellis, Project IceStorm and Project Apicula. The array is R x C
elements of L lanes and S bits. After packing: LUT of ECP5 are TRELLIS_COMB, of iCE40 logic cells, of Gowin LUT4 and the
ALUs in their places. MHz: the array's clock, and what nextpnr says it can reach; where the link has clocks of its own,
what they reach, of what they must. Arrays and clocks are those that `bitfirst explore` [chose](explored.md).

The trace, some 480 cells and 2 block RAMs, can be read from a device that hangs ([design](design.md#gateware));
`--feature trace` adds it to an array that has none of its own ({untraced}).

Arrays of the datapaths `fixed` and `fixed16` (`--config fixed`) multiply by the chip's multipliers on ECP5 and iCE40,
and more than there are do not fit: with `--no-dsp` all multipliers are made of LUTs, those of the requantiser too. On
Gowin they always are. Vivado decides by itself, and has none to use with `--no-dsp`. It is part of the fingerprint.
"""
WORST = """Slowest paths, and seconds of synthesis and of packing, placing and routing on one core of a shared host; and
what was built, by its fingerprint and the beginning of the bitstream's SHA-256. Above, "of older sources" is what other
sources or versions of the tools built than those by which `make docs` wrote this.
"""
OTHER = """With another link (`--link`), array (`--config`) or clock (`--clock-khz`) than the board's own, or
multipliers of LUTs (`--no-dsp`):
"""
FAILED = """What fails:
"""
PROJECTS = """## To a project for Vivado

There are no open tools for these chips here: `bitfirst build` writes a project (`top.v`, `top.xdc`, `top.tcl`,
`{script}`), which makes the bitstream where Vivado is. **None of them has been run through Vivado**; arrays and clocks
are guesses. On the Zynq boards the device is a peripheral of the processing system: the [AXI device](axi.md) as an IP
core, and a Tcl script that makes a block design with AXI DMA around it; its clock is FCLK0. Where Vivado has no board
files of a board, memory and peripherals of its processing system have to be configured by hand.
"""
SENSORS = """## Sensors of energy

With the feature `power` a device [measures joules](measuring.md): it reads sensors on an I2C bus of 3.3 V, on KC705 the
regulators on its PMBus, of 1.5 V at the chip (feature `pmbus`), on Arty A7 what the converter in the chip sees of the
board's supplies (feature `xadc`); `power` brings these there. Where a board has sensors, its own array has the feature;
elsewhere `bitfirst build ulx3s-85f --feature power` adds it, and a breakout of INA226 or INA228 goes to these pins
([from wiring to the first joule](first-joule.md)). **No sensor has been tried on a board.** The chip itself pulls both
wires up, enough for a bus that is empty; with sensors on it there must be resistors outside. The monitor by itself
is [some 590 LUTs and 6 block RAMs of ECP5](design.md#gateware).

{table}
{rails}
No pins for sensors are known of {without}: no free header, or none that is known to have 3.3 V. On `icebreaker` there
is no room: its smallest device takes 6,655 of 5,280 LUTs and 38 of 30 block RAMs with the feature. KC705's regulators
have more outputs, some without a sense of current: a rail's `page` chooses one, one of each controller (52, 53 and 54)
at a time.
"""
LINKS = """## Links

A board is built with the first of its links, or with another: `bitfirst build ulx3s-85f --link usb`. `uart`, at
{baud:,} baud, is the board's own USB bridge, `udp` its Ethernet, `axi` the processor's bus, but for those that the
table names; pins have 3.3 V. More in [Links](links.md).

{table}
`usb` is full speed everywhere: on three pins of the chip, or behind a PHY on ULPI ({phys}). What there is not:
`butterstick` has such a PHY too, and no `usb`: gateware would have to set and switch on the voltages of its expansion
ports first. `udp` is for Ethernet on RGMII: on MII, RMII and GMII it is not used. `rfsoc4x2` of amaranth-boards is no
board here: the block design is made for Zynq-7000, and the processor of its Zynq UltraScale+ is another.
"""


def size(config: ArrayConfig) -> str:
    """Elements, lanes, slice; features."""
    left_out = [name for name in INSIDE if name not in config.features]
    features = "all" if not left_out else "no " + ", ".join(left_out)
    features += "; power" * config.measures
    return f"{config.rows} x {config.columns}, L {config.lanes}, S {config.slice_bits}; {features}"


def _links(board: Board) -> str:
    """Names; what is measured is of the first."""
    return ", ".join(board.links)


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def _is_current(board: Board, row: Mapping[str, Any]) -> bool:
    return row["link"] == board.link and not row.get("no_dsp") and row["parameters"] == flow.fitted(board).as_dict()


def is_older(row: Mapping[str, Any]) -> bool:
    """Whether a result is of other sources or tools than these. Raises `FlowError` where a tool is missing."""
    config = ArrayConfig(**row["parameters"])
    board = BOARDS[row["board"]].linked(row["link"])
    board = replace(board, clock_khz=config.clock_khz, no_dsp=bool(row.get("no_dsp")))
    tools = toolchains.versions(toolchains.toolchain(board.platform), board.link)
    return row.get("fingerprint") != f"{flow.fingerprint(board, flow.fitted(board, config), tools):016x}"


def _cells(board: Board, row: Mapping[str, Any]) -> list[str]:
    """LUTs, block RAMs, multipliers, of how many there are."""
    chip = toolchains.chip(board)
    share = f"{row['lut']:,} of {chip.lut:,} ({100 * row['lut'] / chip.lut:.0f} %)"
    return [share, f"{row['bram']} of {chip.bram}", f"{row['dsp']} of {chip.dsp}"]


def reached(row: Mapping[str, Any]) -> str:
    """MHz that the array's clock reaches, then those of its link, each of what it must; older results have none."""
    clocks = sorted((row.get("link_clocks") or {}).values(), key=lambda clock: clock["clock_mhz"])
    link = ", ".join(f"{clock['fmax_mhz']:.1f} of {clock['clock_mhz']:.4g}" for clock in clocks)
    return f"{row['fmax_mhz']:.1f}" + f"; link {link}" * bool(link)


def _reached(row: Mapping[str, Any]) -> str:
    return reached(row) + ", of older sources" * row.get(OLDER, True)


def _open(board: Board, row: Mapping[str, Any] | None) -> list[object]:
    found: list[object] = ["", "", "", "fails" if row else "not built"]
    if row and row["error"] is None:
        found = [*_cells(board, row), _reached(row)]
    about = [toolchains.device(board.platform), _links(board), size(board.config), board.config.bit_macs_per_cycle]
    return [f"`{board.name}`", *about, *found[:3], f"{board.clock_khz / 1000:g}", found[3]]


def _other(row: Mapping[str, Any]) -> list[object]:
    config = ArrayConfig(**row["parameters"])
    datapath = f"{config.datapath}, " * (config.datapath != "serial") + "of LUTs, " * bool(row.get("no_dsp"))
    about = [f"`{row['board']}`", row["link"], datapath + size(config), config.bit_macs_per_cycle]
    return [*about, *_cells(BOARDS[row["board"]], row), f"{config.clock_khz / 1000:g}", _reached(row)]


def _project(board: Board) -> list[object]:
    chip = toolchains.chip(board)
    about = [vivado.part(board), f"{chip.lut:,}", chip.bram, chip.dsp, _links(board), f"{board.clock_khz / 1000:g}"]
    return [f"`{board.name}`", *about, size(board.config), board.config.bit_macs_per_cycle]


def _places() -> Iterable[list[object]]:
    """Of links that are not where most boards have them."""
    for board in BOARDS.values():
        for name, place in board.links.items():
            if {name: place} not in (UART, AXI, ETHERNET):
                yield [f"`{board.name}`", name, place]


def _phys() -> str:
    """Boards whose USB is behind one."""
    usb = [board.linked("usb") for board in BOARDS.values() if "usb" in board.links]
    return ", ".join(f"`{board.name}`" for board in usb if tops.has_phy(board))


def _sense(rail: Rail | Regulator) -> str:
    return f"none; page {rail.page}" if isinstance(rail, Regulator) else f"{rail.shunt_ohm * 1000:g}"


def _sensors() -> str:
    """Of boards with pins for sensors; those on boards; boards without."""
    have = {f"`{name}`": board.sensors for name, board in BOARDS.items() if board.sensors}
    rails = (
        [board, rail.name, rail.kind.upper(), f"{rail.address:#04x}", _sense(rail)]
        for board, sensors in have.items()
        for rail in sensors.rails
    )
    return SENSORS.format(
        table=_table(["board", "sensors, or room for them"], ([name, each.told] for name, each in have.items())),
        rails=_table(["board", "rail", "sensor", "address", "shunt, milliohm; XADC: mV/A"], rails),
        without=", ".join(f"`{name}`" for name, board in BOARDS.items() if not board.sensors),
    )


def rendered(measured: Mapping[str, Mapping[str, Any]], others: Iterable[Mapping[str, Any]] = ()) -> str:
    """The document.

    measured  board -> its result; results of other links, arrays or clocks than the catalogue's are left out
    others    results of boards with another link or array
    """
    built = {name: row for name, row in measured.items() if _is_current(BOARDS[name], row)}
    is_open = {name: toolchains.toolchain(board.platform) is not None for name, board in BOARDS.items()}
    untraced = [f"`{name}`" for name, board in BOARDS.items() if is_open[name] and not board.config.traces]
    parts = [
        HEAD.format(measured=MEASURED),
        OPEN.format(untraced=" and ".join(untraced)),
        _table(
            ["board", "chip", "link", "array", "bit-MACs a cycle", "LUT", "block RAM", "DSP", "MHz", "reached"],
            (_open(board, built.get(name)) for name, board in BOARDS.items() if is_open[name]),
        ),
    ]
    good = {name: row for name, row in built.items() if row["error"] is None and is_open[name]}
    if good:
        rows = (
            [
                f"`{name}`",
                *(row["path_from"], row["path_to"], f"{row['synthesis_s']:.0f}", f"{row['placement_s']:.0f}"),
                row.get("fingerprint") or "",
                (row.get("sha256") or "")[:16],
            ]
            for name, row in good.items()
        )
        parts += [WORST, _table(["board", "from", "to", "synthesis", "placement", "fingerprint", "SHA-256"], rows)]
    if rows := [_other(row) for row in others]:
        head = "board", "link", "array", "bit-MACs a cycle", "LUT", "block RAM", "DSP", "MHz", "reached"
        parts += [OTHER, _table(head, rows)]
    if wrong := [f"- `{name}`: {row['error']}\n" for name, row in built.items() if row["error"]]:
        parts += [FAILED, "".join(wrong)]
    parts += [
        PROJECTS.format(script=vivado.SCRIPT),
        _table(
            ["board", "part", "LUT", "block RAM", "DSP", "link", "MHz", "array", "bit-MACs a cycle"],
            (_project(board) for name, board in BOARDS.items() if not is_open[name]),
        ),
        _sensors(),
        LINKS.format(baud=Board.baud, phys=_phys(), table=_table(["board", "link", "where"], _places())),
    ]
    return "\n".join(parts)


def _named(row: Mapping[str, Any]) -> str:
    """What tells results of `OTHERS` apart."""
    config = ArrayConfig(**row["parameters"])
    array = config.datapath + ", of LUTs" * bool(row.get("no_dsp"))
    return f"{row['board']}, {row['link']}, {array}, {size(config)}, {config.clock_khz} kHz"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    return json.loads(path.read_text()) if path.exists() else {}


def _write(path: Path, results: dict[str, dict[str, Any]]) -> None:
    """With whether they are older; no file of none."""
    for row in results.values():
        row[OLDER] = is_older(row)
    if results:
        path.write_text(json.dumps(results, indent=1) + "\n")


def _kept(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: row.get(key) for key in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the document of the boards.")
    parser.add_argument("--measured", type=Path, help="what `bitfirst build --all --json` printed")
    parser.add_argument("--other", type=Path, action="append", default=[], help="what `bitfirst build --json` printed")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("docs"))
    given = parser.parse_args()
    measured, others = (_read(given.directory / name) for name in (MEASURED, OTHERS))
    if given.measured:
        rows = json.loads(given.measured.read_text())["boards"]
        if any(row.get("no_dsp") for row in rows):
            parser.error(f"{given.measured} is of --no-dsp; boards of the catalogue are built with multipliers")
        measured = {row["board"]: _kept(row) for row in rows}
    others |= {_named(row): _kept(row) for row in (json.loads(path.read_text()) for path in given.other)}
    _write(given.directory / MEASURED, measured)
    _write(given.directory / OTHERS, others)
    (given.directory / DOCUMENT).write_text(rendered(measured, others.values()))


if __name__ == "__main__":
    main()
