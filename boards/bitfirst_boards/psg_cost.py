"""What PSG costs the array in logic and in clock: ECP5, by yosys and nextpnr from PyPI."""

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.compare import Comparator
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig
from bitfirst_hdl.element import Element, OwnWord, segment_bits, segment_count
from bitfirst_hdl.engine import MatmulEngine
from bitfirst_hdl.operands import one_of
from bitfirst_hdl.packed import GatedCount, PackedWalk
from bitfirst_hdl.readout import ABREAST

from .synthesis import cells, synthesise
from .toolchains import routed_mhz

SEEDS = (1, 2, 3, 4, 5)
TARGET_MHZ = 150
Report = Callable[[str], None]


class Words(wiring.Component):
    """The words of all elements of one row of the array."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        word = In(segment_bits(config)).array(segment_count(config))
        held = Out(segment_bits(config)).array(segment_count(config)).array(config.columns)
        super().__init__({"a": word, "take": In(config.columns), "move": In(1), "held": held})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        for take, held in zip(self.take, self.held, strict=True):
            m.submodules += (word := OwnWord(self.config))
            m.d.comb += [word.take.eq(take), word.move.eq(self.move)]
            m.d.comb += [given.eq(part) for given, part in zip(word.a, self.a, strict=True)]
            m.d.comb += [part.eq(value) for part, value in zip(held, word.held, strict=True)]
        return m


class Choice(wiring.Component):
    """What stands behind the rotation of B's banks: for each column a choice out of its group."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        words = In(config.lanes).array(config.columns)
        places = In(range(config.group_columns)).array(config.columns)
        super().__init__(
            {"rotated": words, "choice": places, "enable": In(1), "columns": Out(config.lanes).array(config.columns)}
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = self.config.group_columns
        for index, column in enumerate(self.columns):
            group = self.rotated[index - index % size :][:size]
            with m.If(self.enable):
                m.d.sync += column.eq(one_of(self.choice[index], group))
        return m


def run(report: Report, logic: str = "psg", clock: str = "tiny", seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
    """Keys of `bitfirst bench psg`, minutes for each seed.

    lut_overhead  TRELLIS_COMB of PSG's parts over those of the array's elements, configuration `logic`; without what
                  readout, sequencer and gather unit have more besides the comparator
    lut_parts     of each part: count, comb and ff in all
    fmax_ratio    of the engine of configuration `clock` (array, operand memories, walks, partial sums), with packed
                  MATMULs over without: medians over `seeds`, out of context, speed grade 6
    fmax_mhz      of each seed: with, without
    """
    config = CONFIGS[logic]
    parts = {name: _part(name, count, part, report) for name, (count, part) in _parts(config).items()}
    elements = config.rows * config.columns * cells(Element(config))[0]
    with_, without = (
        fmax_mhz(replace(CONFIGS[clock], features=f), seeds, report) for f in ((*STANDARD, "packed"), STANDARD)
    )
    return {
        "lut_overhead": sum(part["comb"] for part in parts.values()) / elements,
        "lut_parts": parts,
        "fmax_ratio": statistics.median(with_) / statistics.median(without),
        "fmax_mhz": {"packed": with_, "without": without},
    }


def _parts(config: ArrayConfig) -> dict[str, tuple[int, wiring.Component]]:
    return {
        "words of a row's elements": (config.rows, Words(config)),
        "count of gated elements": (1, GatedCount(config)),
        "B's choice of columns": (1, Choice(config)),
        "walk of packed MATMULs": (1, PackedWalk(config)),
        "comparator": (1, Comparator(ABREAST)),
    }


def _part(name: str, count: int, part: wiring.Component, report: Report) -> dict[str, int]:
    comb, ff = cells(part)
    report(f"{count} x {name}: {comb} TRELLIS_COMB, {ff} TRELLIS_FF")
    return {"count": count, "comb": count * comb, "ff": count * ff}


def fmax_mhz(config: ArrayConfig, seeds: tuple[int, ...], report: Report) -> list[float]:
    """Of the configuration's engine, for each seed."""
    found = []
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as folder:
        synthesise(MatmulEngine(config), Path(folder))
        for seed in seeds:
            found.append(routed_mhz(Path(folder), TARGET_MHZ, seed))
            report(f"features {config.features}, seed {seed}: {found[-1]:.1f} MHz")
    return found
