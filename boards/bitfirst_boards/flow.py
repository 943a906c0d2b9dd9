"""From a board and an array configuration to a bitstream, or to a project for Vivado, in a folder."""

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from amaranth.hdl import Elaboratable
from bitfirst_hdl import verilog
from bitfirst_hdl.config import ArrayConfig, ConfigError
from bitfirst_hdl.contract.registers import fingerprint_of

from . import folder, toolchains, vivado
from .catalogue import BOARDS, Board
from .errors import FlowError
from .network import Network, network
from .toolchains import Figures, Usage
from .tops import Pinned, check, check_sensors, make_device

Say = Callable[[str], None]
#: Modules of this package that nothing of a build comes from.
BESIDE = frozenset(
    f"{name}.py" for name in ("arith_cost", "arith_docs", "document", "explore", "explored", "program", "psg_cost")
)
LINK_BITS = {"uart": 8, "usb": 8, "udp": 32, "axi": 32}


def silent(step: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Build:
    """What was built: a bitstream, or a project for Vivado.

    link         name of its link
    network      its addresses, where that is Ethernet
    fingerprint  burnt into the device
    seed         of the placement
    no_dsp       multipliers are made of LUTs
    tools        package -> version
    figures      of the bitstream; None of a project
    files        what was asked for, name in `directory` -> SHA-256
    reused       it was there already
    """

    board: str
    link: str
    network: Network | None
    config: ArrayConfig
    fingerprint: int
    seed: int
    no_dsp: bool
    tools: dict[str, str]
    figures: Figures | None
    directory: Path
    files: dict[str, str]
    reused: bool = False

    @property
    def bitstream(self) -> Path | None:
        return self.directory / next(iter(self.files)) if self.figures else None

    @property
    def sha256(self) -> str | None:
        return next(iter(self.files.values())) if self.figures else None


def fitted(board: Board, config: ArrayConfig | None = None) -> ArrayConfig:
    """A configuration (the board's own by default) with the board's link and clock, and the bus of its sensors."""
    config = replace(config or board.config, link_bits=LINK_BITS[board.link], clock_khz=board.clock_khz)
    if config.measures and board.sensors and config.sensor_bus == "i2c" != board.sensors.bus:
        config = replace(config, features=(*config.features, board.sensors.bus))
    return config


@cache
def _sources() -> str:
    return verilog.source_hash(Path(__file__).parent, without=BESIDE)


def _network(board: Board) -> Network | None:
    """Its addresses, where it is built with Ethernet."""
    return board.network if board.link == "udp" else None


def fingerprint(board: Board, config: ArrayConfig, tools: dict[str, str]) -> int:
    """63 bits that change with board, link, addresses, configuration, what multipliers are made of, the sources of it
    all, or a version of a tool.
    """
    parts = {
        "device": f"{verilog.fingerprint(config):016x}",
        "board": board.name,
        "link": board.link,
        "no_dsp": board.no_dsp,
        "source": _sources(),
        "tools": tools | {"amaranth-boards": metadata.version("amaranth-boards")},
    }
    if (addresses := _network(board)) is not None:
        parts["network"] = asdict(addresses)
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return fingerprint_of(digest.digest())


def identify(config: ArrayConfig, found: int, address: str | None = None) -> str | None:
    """The board for which these sources and tools build a device with this configuration and fingerprint, if any.

    address  of a device on Ethernet: that of the boards unless it is given
    """
    boards = [each.linked(link) for each in BOARDS.values() for link in each.links]
    if address is not None:
        with suppress(FlowError):  # a name, say
            boards += [replace(each, network=network(address)) for each in boards if each.link == "udp"]
    for board in (*boards, *(replace(each, no_dsp=True) for each in boards)):
        try:
            versions = toolchains.versions(toolchains.toolchain(board.platform), board.link)
        except FlowError:
            continue
        if fingerprint(board, replace(config, link_bits=LINK_BITS[board.link]), versions) == found:
            return board.name
    return None


def run_tools(board: Board, device: Elaboratable, directory: Path, seed: int = 1, say: Say = silent) -> Figures:
    """Makes the bitstream of one device with the ports of the board's link, in a folder with none of another's files.

    Raises as `toolchains.make`.
    """
    tools = toolchains.toolchain(board.platform)
    with verilog.use_yosys():
        plan = board.platform().prepare(
            Pinned(board, device), "top", emit_src=False, **toolchains.overrides(board, tools, seed)
        )
    return toolchains.make(board, tools, plan, directory, say)


def identity(board: Board, config: ArrayConfig) -> dict[str, Any]:
    """What the record of a build of a fitted configuration begins with: all that its result depends on.

    Raises `FlowError` where a tool is missing or too old.
    """
    tools = toolchains.versions(toolchains.toolchain(board.platform), board.link)
    return {
        "board": board.name,
        "link": board.link,
        "network": None if (addresses := _network(board)) is None else asdict(addresses),
        "fingerprint": f"{fingerprint(board, config, tools):016x}",
        "config": config.as_dict(),
        "seed": board.seed,
        "no_dsp": board.no_dsp,
        "tools": tools,
    }


def placed_before(explored: Path | None, wanted: dict[str, Any]) -> Path | None:
    """The folder, of those in `explored`, in which just that is placed and routed."""
    for record in sorted(explored.glob(f"*/{folder.RECORD}")) if explored else ():
        found = folder.read(record.parent)
        if "figures" in found and found | wanted == found:
            return record.parent
    return None


def _adopted(board: Board, before: Path, directory: Path) -> Figures:
    """Copies what is placed and routed, and makes its bitstream. Raises as `toolchains.make`."""
    with folder.held(before):
        record = folder.read(before)
        figures = Figures(**record["figures"] | {"usage": Usage(**record["usage"])})
        folder.copy(before, directory)
    toolchains.finish(board, figures, record["packer"], directory)
    return figures


def build(
    board: Board,
    directory: Path,
    config: ArrayConfig | None = None,
    seed: int | None = None,
    say: Say = silent,
    explored: Path | None = None,
) -> Build:
    """The bitstream of a configuration (the board's own by default) with its figures; it gets the board's clock.

    For chips without open tools it is a project for Vivado. A finished build of the same is taken as it is; what an
    older one left in the folder is removed. What `bitfirst explore` has placed of the same in a folder of `explored` is
    not placed again. `say` is told each step. Raises `FlowError` when the folder holds something else or another build
    is at work in it, when the array does not fit, when it misses its clock or no PLL makes that, when it has sensors
    and the board no pins for them, and when a tool is missing, too old, or fails.
    """
    tools = toolchains.toolchain(board.platform)
    board, config = board if seed is None else replace(board, seed=seed), fitted(board, config)
    check(board)  # refused before anything is made
    check_sensors(board, config)
    wanted = identity(board, config)
    number = int(wanted["fingerprint"], 16)
    with folder.held(directory):
        left = folder.read(directory)
        if left.get("board", board.name) != board.name:
            raise FlowError(f"{directory} holds a build for {left['board']}; name another folder with --out")
        if built := finished(directory, left):
            if left | wanted == left:
                return replace(built, reused=True)
            say(f"the build in {directory} is of other sources, tools or settings: made anew")
        elif left:
            say(f"the build in {directory} did not finish: made anew")
        folder.clear(directory)
        folder.write(directory, wanted)
        if tools is None:
            say("project")
            files, figures = vivado.write(board, config, number, directory), None
        else:
            if before := placed_before(explored, wanted):
                say(f"bitstream of what is placed in {before}")
                made = _adopted(board, before, directory)
            else:
                made = run_tools(board, make_device(board, config, number), directory, board.seed, say)
            files, figures = [tools.bitstream], asdict(made)
        record = wanted | {"figures": figures, "files": {name: folder.digest(directory / name) for name in files}}
        folder.write(directory, record)
        return finished(directory, record)


def finished(directory: Path, record: dict) -> Build | None:
    """The build that a record tells of; None where it did not finish, or its files are not those any more."""
    try:
        figures = record["figures"]
        built = Build(
            board=record["board"],
            link=record["link"],
            network=None if record["network"] is None else Network(**record["network"]),
            config=ArrayConfig(**record["config"]),
            fingerprint=int(record["fingerprint"], 16),
            seed=record["seed"],
            no_dsp=record.get("no_dsp", False),  # builds of before that option have none
            tools=record["tools"],
            figures=None if figures is None else Figures(**figures | {"usage": Usage(**figures["usage"])}),
            directory=directory,
            files=dict(record["files"]),
        )
        whole = all(folder.digest(directory / name) == digest for name, digest in built.files.items())
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
        return None
    return built if built.files and whole else None


def told(board: Board, built: Build) -> dict[str, Any]:
    """All about a build, under the keys of `bitfirst build --json`; what a project has no figures of is None."""
    figures = asdict(built.figures) if built.figures else {}
    usage, chip = figures.get("usage", {}), toolchains.chip(board)
    result = {
        "board": built.board,
        "link": built.link,
        "network": None if built.network is None else asdict(built.network),
        "parameters": built.config.as_dict(),
        "bit_macs_per_cycle": built.config.bit_macs_per_cycle,
    }
    for kind in (field.name for field in fields(Usage)):
        result |= {kind: usage.get(kind), f"{kind}_total": getattr(chip, kind)}
    result |= {field.name: figures.get(field.name) for field in fields(Figures) if field.name != "usage"}
    return result | {
        "clock_mhz": board.clock_khz / 1000,
        "seed": built.seed,
        "no_dsp": built.no_dsp,
        "tools": built.tools,
        "directory": built.directory,
        "bitstream": built.bitstream,
        "sha256": built.sha256,
        "fingerprint": f"{built.fingerprint:016x}",
        "reused": built.reused,
    }
