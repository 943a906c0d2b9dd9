"""From a board and an array configuration to a bitstream, with yosys and nextpnr from PyPI."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib import metadata
from pathlib import Path

from amaranth.hdl import Elaboratable
from bitfirst_hdl import verilog
from bitfirst_hdl.config import ArrayConfig, ConfigError
from bitfirst_hdl.top import UartTop

from . import folder, toolchains
from .catalogue import Board
from .errors import FlowError
from .toolchains import Figures, Toolchain, Usage
from .tops import Pinned

Say = Callable[[str], None]


def silent(step: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Build:
    """What was built.

    fingerprint  burnt into the device
    seed         of the placement
    tools        package -> version
    reused       it was there already
    """

    board: str
    config: ArrayConfig
    fingerprint: int
    seed: int
    tools: dict[str, str]
    figures: Figures
    bitstream: Path
    sha256: str
    reused: bool = False


def fitted(board: Board, config: ArrayConfig | None = None) -> ArrayConfig:
    """A configuration (the board's own by default) with the board's link and clock."""
    return replace(config or board.config, link_bits=8, clock_khz=board.clock_khz)


@cache
def _sources() -> str:
    return verilog.source_hash(Path(__file__).parent)


def fingerprint(board: Board, config: ArrayConfig, tools: dict[str, str]) -> int:
    """64 bits that change with the board, the configuration, the sources of it all, or a version of a tool."""
    parts = {
        "device": f"{verilog.fingerprint(config):016x}",
        "board": board.name,
        "source": _sources(),
        "tools": tools | {"amaranth-boards": metadata.version("amaranth-boards")},
    }
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    return int.from_bytes(digest.digest()[:8], "little")


def run_tools(board: Board, device: Elaboratable, directory: Path, seed: int = 1, say: Say = silent) -> Figures:
    """Makes the bitstream of one device with pins `rx_pin` and `tx_pin`, in a folder that has none of another's files.

    Raises as `toolchains.make`.
    """
    tools = _tools(board)
    with verilog.use_yosys():
        plan = board.platform().prepare(
            Pinned(board, device), "top", emit_src=False, **toolchains.overrides(board, tools, seed)
        )
    return toolchains.make(board, tools, plan, directory, say)


def _tools(board: Board) -> Toolchain:
    return toolchains.toolchain(board.platform)


def build(
    board: Board,
    directory: Path,
    config: ArrayConfig | None = None,
    seed: int | None = None,
    say: Say = silent,
) -> Build:
    """The bitstream of a configuration (the board's own by default) with its figures; it gets the board's clock.

    A finished build of the same is taken as it is. What another build left in the folder is removed. `say` is told
    each step. Raises `FlowError` when the folder holds something else or another build is at work in it, when the array
    does not fit, when it misses the board's clock, and when a tool is missing, too old, or fails.
    """
    tools = _tools(board)
    config, seed = fitted(board, config), board.seed if seed is None else seed
    versions = toolchains.versions(tools)
    wanted = {
        "board": board.name,
        "fingerprint": f"{fingerprint(board, config, versions):016x}",
        "config": config.as_dict(),
        "seed": seed,
        "tools": versions,
    }
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
        device = UartTop(config, int(wanted["fingerprint"], 16), divisor=board.clock_khz * 1000 // board.baud)
        figures = run_tools(board, device, directory, seed, say)
        record = wanted | {"figures": asdict(figures), "bitstream": tools.bitstream}
        record["sha256"] = folder.digest(directory / tools.bitstream)
        folder.write(directory, record)
        return finished(directory, record)


def finished(directory: Path, record: dict) -> Build | None:
    """The build that a record tells of; None where it did not finish, or its bitstream is not that one any more."""
    try:
        figures = record["figures"] | {"usage": Usage(**record["figures"]["usage"])}
        built = Build(
            board=record["board"],
            config=ArrayConfig(**record["config"]),
            fingerprint=int(record["fingerprint"], 16),
            seed=record["seed"],
            tools=record["tools"],
            figures=Figures(**figures),
            bitstream=directory / record["bitstream"],
            sha256=record["sha256"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError):
        return None
    return built if folder.digest(built.bitstream) == built.sha256 else None
