"""Measures what PSG adds to the array: ECP5 cells after `nextpnr-ecp5 --pack-only`.

python docs/decisions/measure_psg_area.py [CONFIG ...]
"""

import sys

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.compare import Comparator
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import OwnWord, segment_bits, segment_count
from bitfirst_hdl.operands import _one_of
from bitfirst_hdl.packed import GatedCount, PackedWalk
from bitfirst_hdl.readout import ABREAST
from measure_element import cells


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
                m.d.sync += column.eq(_one_of(self.choice[index], group))
        return m


def measure(config: ArrayConfig) -> None:
    parts = [
        ("words of elements of a row", config.rows, Words(config)),
        ("count of gated elements", 1, GatedCount(config)),
        ("B's choice of columns", 1, Choice(config)),
        ("walk of packed MATMULs", 1, PackedWalk(config)),
        ("comparator", 1, Comparator(ABREAST)),
    ]
    total = [0, 0]
    for name, count, part in parts:
        comb, ff = cells(part)
        total = [total[0] + count * comb, total[1] + count * ff]
        print(
            f"{count:4} x {name:30} TRELLIS_COMB {comb:5} TRELLIS_FF {ff:5}  all: {count * comb:6} {count * ff:6}",
            flush=True,
        )
    print("together", *total)


if __name__ == "__main__":
    for name in sys.argv[1:] or ["psg"]:
        print(name)
        measure(CONFIGS[name])
