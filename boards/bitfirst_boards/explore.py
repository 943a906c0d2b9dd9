"""Which array a board is built with: a search over rows, columns, lanes, slice width and clock.

An array goes through three sieves, each dearer than the one before. Its elements (one of them is synthesised) and the
bits of its memories are more than the chip has: a bound from below, which loses nothing that fits. Packing: only of as
many arrays as it takes to know the largest that fit, because an array that does not fit rules out all larger ones of
its shape, and one that fits needs no packing of smaller ones. Placing and routing, from the most sustained bit-MACs a
second (array x clock x the share that a training step of ResNet-20 uses) down, until one meets its clock; then that
array at higher clocks, as long as it reaches more than it was asked for. What was found stays in the folders of the
builds.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from math import ceil, floor
from multiprocessing import get_context
from operator import truediv
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.hdl import Module
from amaranth.lib import wiring
from bitfirst_hdl import verilog
from bitfirst_hdl.config import ArrayConfig, ConfigError
from bitfirst_hdl.contract.packets import STORE_WORD_WORDS, WORD_BITS
from bitfirst_hdl.element import Element
from bitfirst_hdl.fixed import FixedElement
from bitfirst_hdl.fusion import FusionElement
from bitfirst_hdl.wide import WideElement

from . import flow, folder, toolchains
from .catalogue import Board
from .errors import FlowError
from .toolchains import Figures, Usage
from .tops import Pinned, check, check_sensors, make_device

Say = Callable[[str], None]
NOT_TRIED, TOO_LARGE, FITS, FAILS = "not tried", "too large", "fits", "is not placed and routed"
MISSES, MEETS = "misses its clock", "meets its clock"
SUM_BITS = 48
#: LUTs of a cell as nextpnr counts them, at least
LUTS = dict.fromkeys(("LUT1", "LUT2", "LUT3", "LUT4", "ALU", "SB_LUT4"), 1) | {"CCU2C": 2}
SURE = 0.9  #: of an element's LUTs: among its like, synthesis may do with a little less than alone
SHALLOW = 64  #: rows of a memory that may be made of LUTs
#: Placements for each array kept: one tells what it reaches, one is for the clock below, one for what that reaches.
TRIES = 3


@dataclass(frozen=True)
class Space:
    """What is searched; kHz that the board's PLL or link cannot have are left out.

    Clocks are whole MHz, which UARTs like, and so many that what is left of them is close on any board.
    """

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    columns: tuple[int, ...] = (4, 8, 16, 32)
    lanes: tuple[int, ...] = (16, 32, 64)
    slices: tuple[int, ...] = (4, 8)
    clocks_khz: tuple[int, ...] = tuple(1000 * mhz for mhz in range(12, 121) if 0 in (mhz % 3, mhz % 5, mhz % 8))


def sized(base: ArrayConfig, rows: int, columns: int, lanes: int, slice_bits: int) -> ArrayConfig:
    """`base` with another array; its memories get wider or narrower, and keep their depths.

    Raises `ConfigError` where there is no such array.
    """
    return replace(
        base,
        rows=rows,
        columns=columns,
        lanes=lanes,
        slice_bits=slice_bits,
        a_cells=max(16, base.a_rows * slice_bits // 8),
        sum_tiles=max(2, base.sum_rows // rows),
    )


def arrays(base: ArrayConfig, space: Space) -> list[ArrayConfig]:
    """Those of the space that there can be, largest first. Raises `FlowError` where there is none."""
    found, reason = [], "it is empty"
    for slice_bits in space.slices:
        for lanes in space.lanes:
            for rows in space.rows:
                for columns in space.columns:
                    try:
                        found.append(sized(base, rows, columns, lanes, slice_bits))
                    except ConfigError as error:
                        reason = str(error)
    if not found:
        raise FlowError(f"the space has no array: {reason}; give other --rows, --columns, --lanes or --slice")
    return sorted(dict.fromkeys(found), key=lambda config: -config.bit_macs_per_cycle)


def clocks(board: Board, space: Space) -> list[int]:
    """kHz of the space that the board can have, highest first. Raises `FlowError` where there is none."""
    found, reason = [], "it is empty"
    for khz in space.clocks_khz:
        timed = replace(board, clock_khz=khz)
        try:
            if khz < 1:
                raise FlowError(f"{khz} kHz is none")
            check(timed)
        except FlowError as error:
            reason = str(error)
        else:
            found.append(khz)
    if not found:
        raise FlowError(f"the space has no clock: {reason}; give other --clock-khz")
    return sorted(set(found), reverse=True)


def name(config: ArrayConfig) -> str:
    """Of the array's folder."""
    return f"{config.rows}x{config.columns}-L{config.lanes}-S{config.slice_bits}"


def shape(config: ArrayConfig) -> tuple[int, int]:
    return config.slice_bits, config.lanes


def contains(large: ArrayConfig, small: ArrayConfig) -> bool:
    """Whether it has the same elements, and no fewer rows and columns: so it takes no less of a chip."""
    return shape(large) == shape(small) and large.rows >= small.rows and large.columns >= small.columns


# estimate


def memory_bits(config: ArrayConfig) -> int:
    """Bits of the memories that are too deep for LUTs."""
    sizes = [
        (config.a_rows, config.a_row_bits),
        (config.b_rows, config.b_row_bits),
        (config.sum_rows, config.columns * SUM_BITS),
        (config.rx_words, WORD_BITS),
    ]
    if config.gathers:
        sizes.append((config.store_words, STORE_WORD_WORDS * WORD_BITS))
    return sum(rows * bits for rows, bits in sizes if rows > SHALLOW)


def bound(board: Board, config: ArrayConfig, element_luts: int) -> tuple[int, int]:
    """(LUTs, block RAMs) that an array takes at least: those of its elements, and of the bits of its memories."""
    bram_bits = toolchains.chip(board).bram_kbit * 1024
    luts = floor(config.rows * config.columns * element_luts * SURE)
    return luts, ceil(memory_bits(config) / bram_bits)


def element(config: ArrayConfig) -> wiring.Component:
    kinds = {"serial": Element, "fixed": FixedElement, "fusion": FusionElement, "fixed16": WideElement}
    return kinds[config.datapath](config)


def synthesise_part(board: Board, component: wiring.Component, directory: Path) -> dict[str, Any]:
    """The netlist of a component alone, by the steps that make bitstreams. Raises `FlowError`."""
    tools = toolchains.toolchain(board.platform)
    with verilog.use_yosys():
        options = toolchains.overrides(board, tools, board.seed)
        plan = board.platform().prepare(Module(), "top", emit_src=False, **options)
        plan.files["top.il"] = rtlil.convert(component, name="top", platform=board.platform(), emit_src=False)
    return json.loads(toolchains.synthesise(board, tools, plan, directory).read_text())


def luts_of(netlist: Mapping[str, Any]) -> int:
    """LUTs of a flat netlist, at least."""
    return sum(LUTS.get(cell["type"], 0) for cell in netlist["modules"]["top"]["cells"].values())


# which fit


def largest_fitting(
    configs: Sequence[ArrayConfig],
    estimate: Mapping[ArrayConfig, float],
    fit: Callable[[list[ArrayConfig]], list[tuple[bool, float]]],
    most: int,
    jobs: int = 1,
) -> dict[ArrayConfig, bool]:
    """Whether they fit, as far as it takes to know the `most` largest that do.

    estimate  of each array's share of the chip, right or wrong: those nearest to the whole chip are tried first
    fit       tries up to `jobs` arrays: whether each fits, and its share of the chip
    """
    known: dict[ArrayConfig, bool] = {}
    beside = 0.0  # share of what is no part of the elements: learnt from the arrays that were tried
    ordered = sorted(configs, key=lambda config: -config.bit_macs_per_cycle)
    while open_ := list(_undecided(ordered, known, most)):
        chosen = sorted(open_, key=lambda config: abs(estimate[config] + beside - 1))[:jobs]
        answers = fit(chosen)
        for config, (fits, share) in zip(chosen, answers, strict=True):
            beside = share - estimate[config]
            for other in configs:
                if contains(config, other) if fits else contains(other, config):
                    known.setdefault(other, fits)
    return known


def _undecided(ordered: Sequence[ArrayConfig], known: Mapping[ArrayConfig, bool], most: int) -> Iterator[ArrayConfig]:
    """Those that may be among the `most` largest that fit."""
    fitting = 0
    for config in ordered:
        if fitting == most:
            return
        if config not in known:
            yield config
        fitting += known.get(config, False)


# builds in their folders


@dataclass(frozen=True)
class Candidate:
    """An array on a board, whose clock is that of the array; `config` is fitted to it."""

    board: Board
    config: ArrayConfig
    directory: Path

    @property
    def peak(self) -> int:
        """Bit-MACs a second."""
        return self.config.bit_macs_per_cycle * self.board.clock_khz * 1000


def candidate(board: Board, config: ArrayConfig, clock_khz: int, directory: Path) -> Candidate:
    timed = replace(board, clock_khz=clock_khz)
    return Candidate(timed, flow.fitted(timed, config), directory / f"{name(config)}-{clock_khz}")


def measure(one: Candidate) -> int:
    """LUTs of one of its elements alone; what was found before is taken as it is. Raises `FlowError`."""
    with folder.held(one.directory):
        record = _begun(one)
        if "element_luts" not in record:
            netlist = synthesise_part(one.board, element(one.config), one.directory)
            record |= {"element_luts": luts_of(netlist)}
            folder.write(one.directory, record)
        return record["element_luts"]


def pack(one: Candidate) -> Usage:
    """Synthesises and packs; what was found before is taken as it is. Raises `FlowError`."""
    with folder.held(one.directory):
        return Usage(**_packed(one)["usage"])


def place(one: Candidate) -> Figures:
    """Places and routes; what was found before is taken as it is, a missed clock too. Raises `FlowError`."""
    with folder.held(one.directory):
        record = _packed(one)
        usage = Usage(**record["usage"])
        if "figures" not in record:
            start = time.monotonic()
            report = toolchains.place(one.board, record["placement"], one.directory, usage)
            figures = toolchains.read_report(one.board, report, usage, record["synthesis_s"], time.monotonic() - start)
            record |= {"figures": asdict(figures)}
            folder.write(one.directory, record)
        return Figures(**record["figures"] | {"usage": usage})


def _begun(one: Candidate) -> dict[str, Any]:
    """The record of a folder that is held; of a cleared one where it was of other sources, tools or settings."""
    wanted, record = flow.identity(one.board, one.config), folder.read(one.directory)
    if record | wanted == record:
        return record
    folder.clear(one.directory)
    folder.write(one.directory, wanted)
    return wanted


def _packed(one: Candidate) -> dict[str, Any]:
    """The record of a folder that is held, with `usage`; the netlist is beside it."""
    record = _begun(one)
    if "usage" in record:
        return record
    board, tools = one.board, toolchains.toolchain(one.board.platform)
    device = make_device(board, one.config, int(record["fingerprint"], 16))
    start = time.monotonic()
    with verilog.use_yosys():
        options = toolchains.overrides(board, tools, board.seed)
        plan = board.platform().prepare(Pinned(board, device), "top", emit_src=False, **options)
    toolchains.synthesise(board, tools, plan, one.directory)
    synthesis_s = time.monotonic() - start
    _, placement, packer = dict(toolchains.commands(plan, tools)).values()
    usage = toolchains.pack(board, tools, placement, one.directory)
    record |= {"synthesis_s": synthesis_s, "usage": asdict(usage), "placement": placement, "packer": packer}
    folder.write(one.directory, record)
    return record


# search


@dataclass
class Row:
    """What was found of an array.

    at_least   (LUTs, block RAMs) by the estimate
    usage      after packing
    sustained  share of the peak over a training step of ResNet-20, of those that may be placed
    clock_khz, figures   of one that was placed
    tried_khz  clocks it was to be placed for, in turn, also where that failed
    """

    config: ArrayConfig
    at_least: tuple[int, int]
    verdict: str = NOT_TRIED
    usage: Usage | None = None
    clock_khz: int | None = None
    figures: Figures | None = None
    sustained: float | None = None
    tried_khz: tuple[int, ...] = ()

    @property
    def peak(self) -> int | None:
        """Bit-MACs a second."""
        return None if self.clock_khz is None else self.config.bit_macs_per_cycle * self.clock_khz * 1000


@dataclass
class Search:
    """One exploration. Raises `FlowError` where there is nothing to explore.

    directory  of the folders of its builds
    most       arrays that are kept after packing; three times as many placements are tried
    jobs       how many are synthesised and packed at a time
    share      the sustained share of an array, from the cycle model
    say        is told each step
    """

    board: Board
    directory: Path
    base: ArrayConfig
    space: Space
    most: int
    jobs: int
    share: Callable[[ArrayConfig], float]
    say: Say = flow.silent

    def __post_init__(self) -> None:
        if toolchains.toolchain(self.board.platform) is None:
            raise FlowError(f"no open tools make {self.board.name}'s bitstream, so nothing can be measured of it")
        check_sensors(self.board, self.base)
        self.clocks_khz, self.configs = clocks(self.board, self.space), arrays(self.base, self.space)

    def run(self) -> list[Row]:
        """Largest arrays first; the one that meets its clock, if any, has verdict `MEETS`. Raises `FlowError`."""
        with self._workers() as each:
            rows = self._estimate(each)
            self._pack(rows, each)
        self._place(rows)
        return list(rows.values())

    @contextmanager
    def _workers(self) -> Iterator[Callable]:
        """`map` by as many processes as there are jobs."""
        if self.jobs == 1:
            yield map
            return
        with ProcessPoolExecutor(self.jobs, get_context("spawn")) as pool:
            yield pool.map

    def _at(self, config: ArrayConfig, khz: int | None = None) -> Candidate:
        return candidate(self.board, config, khz or self.clocks_khz[0], self.directory)

    def _estimate(self, each: Callable) -> dict[ArrayConfig, Row]:
        shapes = {shape(config): self._at(config) for config in self.configs}
        self.say(f"one element of each of {len(shapes)} kinds")
        alone = [replace(one, directory=self.directory / f"element-{name(one.config)}") for one in shapes.values()]
        luts = dict(zip(shapes, each(measure, alone), strict=True))
        return {config: Row(config, bound(self.board, config, luts[shape(config)])) for config in self.configs}

    def _pack(self, rows: dict[ArrayConfig, Row], each: Callable) -> None:
        chip = toolchains.chip(self.board)
        estimate = {config: max(map(truediv, row.at_least, (chip.lut, chip.bram))) for config, row in rows.items()}
        for config, row in rows.items():
            row.verdict = TOO_LARGE if estimate[config] > 1 else NOT_TRIED

        def fit(configs: list[ArrayConfig]) -> list[tuple[bool, float]]:
            self.say(f"packing {', '.join(map(name, configs))}")
            answers = []
            for config, usage in zip(configs, each(pack, [self._at(one) for one in configs]), strict=True):
                rows[config].usage = usage
                shares = [getattr(usage, kind) / getattr(chip, kind) for kind in asdict(usage)]
                answers.append((toolchains.misfit(self.board, usage) is None, max(shares)))
            return answers

        open_ = [config for config in rows if estimate[config] <= 1]
        for config, fits in largest_fitting(open_, estimate, fit, self.most, self.jobs).items():
            rows[config].verdict = FITS if fits else TOO_LARGE

    def _place(self, rows: dict[ArrayConfig, Row]) -> None:
        fitting = [config for config, row in rows.items() if row.verdict == FITS][: self.most]
        for config in fitting:
            rows[config].sustained = self.share(self._at(config).config)  # of cycles, whatever the clock
        used = {config: config.bit_macs_per_cycle * rows[config].sustained for config in fitting}
        tries = sorted(product(fitting, self.clocks_khz), key=lambda one: (-used[one[0]] * one[1], one[1]))
        left = TRIES * self.most
        for config, clock_khz in tries:
            row = rows[config]
            if row.verdict == FAILS or (row.figures and row.figures.fmax_mhz < clock_khz / 1000):
                continue
            if not left:
                return
            left -= 1
            if self._place_one(row, clock_khz) == MEETS:
                rows[config] = self._hasten(row, left)
                return

    def _hasten(self, row: Row, left: int) -> Row:
        """The array at higher clocks, if it meets them: each is asked for because the placement before reached it."""
        reached_khz, verdict = 1000 * row.figures.fmax_mhz, row.verdict
        while left and verdict != FAILS:
            faster = [khz for khz in self.clocks_khz if row.clock_khz < khz <= reached_khz and khz not in row.tried_khz]
            if not faster:
                break
            asked = replace(row)
            verdict = self._place_one(asked, faster[0])
            row = asked if verdict == MEETS else replace(row, tried_khz=asked.tried_khz)
            reached_khz, left = 1000 * asked.figures.fmax_mhz, left - 1
        return row

    def _place_one(self, row: Row, clock_khz: int) -> str:
        """Its verdict; an array that the tools cannot place or route is told, and the others are tried all the same."""
        self.say(f"placing and routing {name(row.config)} at {clock_khz / 1000:g} MHz")
        one = self._at(row.config, clock_khz)
        row.tried_khz += (clock_khz,)
        try:
            row.figures, row.clock_khz = place(one), clock_khz
        except FlowError as error:
            self.say(str(error))
            row.verdict = FAILS
            return FAILS
        row.usage = row.figures.usage
        row.verdict = MISSES if row.figures.late else MEETS
        return row.verdict


def chosen(rows: Sequence[Row]) -> Row | None:
    """The one that meets its clock."""
    return next((row for row in rows if row.verdict == MEETS), None)


def told(search: Search, rows: Sequence[Row]) -> dict[str, Any]:
    """All about a search, under the keys of `bitfirst explore --json`."""
    board, best = search.board, chosen(rows)
    return {
        "board": board.name,
        "base": search.base.as_dict(),
        "chosen": best and best.config.as_dict() | {"clock_khz": best.clock_khz},
        "clocks_khz": search.clocks_khz,
        "arrays": [_told(board, row) for row in rows],
    }


def _told(board: Board, row: Row) -> dict[str, Any]:
    chip = toolchains.chip(board)
    found: dict[str, Any] = {key: getattr(row.config, key) for key in ("rows", "columns", "lanes", "slice_bits")}
    found |= {"bit_macs_per_cycle": row.config.bit_macs_per_cycle}
    found |= {"lut_at_least": row.at_least[0], "bram_at_least": row.at_least[1]}
    for kind in (field.name for field in fields(Usage)):
        found |= {kind: getattr(row.usage, kind, None), f"{kind}_total": getattr(chip, kind)}
    for key in ("fmax_mhz", "path_from", "path_to", "path_ns", "link_clocks", "synthesis_s", "placement_s"):
        found[key] = getattr(row.figures, key, None)
    clock_mhz = None if row.clock_khz is None else row.clock_khz / 1000
    return found | {
        "clock_mhz": clock_mhz,
        "peak_bit_macs_per_s": row.peak,
        "sustained": row.sustained,
        "tried_khz": row.tried_khz,
        "verdict": row.verdict,
    }


def as_toml(parameters: Mapping[str, Any]) -> str:
    """A configuration for `bitfirst build --config`."""
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in parameters.items())
