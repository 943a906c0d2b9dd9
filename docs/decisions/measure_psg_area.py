"""Measures what PSG adds to the array: ECP5 cells after `nextpnr-ecp5 --pack-only`.

    python docs/decisions/measure_psg_area.py [CONFIG ...]

Each part is counted as often as it is there; of operand B's memory what it has more than one that rotates its banks.
"""

import sys

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from bitfirst_hdl.compare import Comparator
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import OwnWord
from bitfirst_hdl.operands import _one_of, _registered, _rotate
from bitfirst_hdl.packed import PackedWalk
from bitfirst_hdl.readout import ABREAST
from measure_element import cells


class Columns(wiring.Component):
    """What stands between a group's banks of B and its columns: for each column a choice, as built, or a rotation by
    the plane's row, in as many cycles or more."""

    def __init__(self, config: ArrayConfig, choice: bool) -> None:
        self.choice, banks = choice, config.b_written_rows
        place = exact_log2(banks)
        super().__init__(
            {
                "banks": In(config.lanes).array(banks),
                "places": In(place).array(banks),
                "enable": In(1),
                "columns": Out(config.lanes).array(banks),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.choice:
            rows = _rotate(m, "columns", [[bank] for bank in self.banks], self.places[0], self.enable)
            m.d.comb += [column.eq(row[0]) for column, row in zip(self.columns, rows, strict=True)]
            return m
        held = [_registered(m, f"held_{number}", bank)[0] for number, bank in enumerate(self.banks)]
        for index, column in enumerate(self.columns):
            (chosen,) = _registered(m, f"chosen_{index}", _one_of(self.places[index], held))
            with m.If(self.enable):
                m.d.sync += column.eq(chosen)
        return m


def measure(config: ArrayConfig) -> None:
    elements, groups = config.rows * config.columns, -(-config.columns // config.b_written_rows)
    parts = [
        ("word of an element", elements, OwnWord(config)),
        ("B's choice of columns", groups, Columns(config, True)),
        ("B's rotation, in its place", -groups, Columns(config, False)),
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
    for name in sys.argv[1:] or ["default"]:
        print(name)
        measure(CONFIGS[name])
