"""Measures what decision 0005 adds to the array: ECP5 cells after `nextpnr-ecp5 --pack-only`.

    python docs/decisions/measure_psg_area.py [CONFIG ...]

Each new part is counted beside what it replaces; the list builder's data path stands for the whole of it.
"""

import sys

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.compare import Comparator
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract.packets import OCTET_BITS
from bitfirst_hdl.element import Element
from bitfirst_hdl.operands import PLANE_BITS, _rotate
from bitfirst_hdl.readout import ABREAST
from measure_element import cells


class OwnRow(Element):
    """An element with its own word of A: `front` is loaded from the bank, `held` multiplies.

    normal: both follow the bank; otherwise a word that is `for_me` goes into `front`, and `swap` moves it on. `idle`
    clears `held`, so that nothing toggles behind it.
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(config)
        self.more = {name: Signal(name=name) for name in ("normal", "for_me", "word_valid", "swap", "idle")}

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.element = element = Element(self.config)
        more = self.more
        load, swap = Signal(), Signal()
        m.d.sync += [load.eq(more["normal"] | (more["for_me"] & more["word_valid"])), swap.eq(more["swap"])]
        wiring.connect(m, wiring.flipped(self.control), element.control)
        m.d.comb += [element.chain_in.eq(self.chain_in), self.chain_out.eq(element.chain_out)]
        for index, word in enumerate(self.a):
            front, held = (Signal.like(word, name=f"{name}_{index}", reset_less=True) for name in ("front", "held"))
            with m.If(load):
                m.d.sync += front.eq(word)
            with m.If(more["idle"]):
                m.d.sync += held.eq(0)
            with m.Elif(swap):
                m.d.sync += held.eq(front)
            m.d.comb += [element.a[index].eq(held), element.mask[index].eq(self.mask[index])]
        return m


class OwnRowTop(wiring.Component):
    """`OwnRow` with its extra inputs as ports."""

    def __init__(self, config: ArrayConfig) -> None:
        self.inner = OwnRow(config)
        names = {name: In(1) for name in self.inner.more}
        super().__init__({**dict(self.inner.signature.members), **names})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = inner = self.inner
        for name in inner.more:
            m.d.comb += inner.more[name].eq(getattr(self, name))
        for name in inner.signature.members:
            mine, its = getattr(self, name), getattr(inner, name)
            if name == "control":
                wiring.connect(m, wiring.flipped(mine), its)
            elif name == "chain_out":
                m.d.comb += mine.eq(its)
            elif isinstance(its, Signal):
                m.d.comb += its.eq(mine)
            else:
                m.d.comb += [a.eq(b) for a, b in zip(its, mine, strict=True)]
        return m


class Columns(wiring.Component):
    """What stands between eight banks of B and eight columns: a rotation by the plane's row, as built, or for each
    column a choice of its own, in as many cycles."""

    def __init__(self, config: ArrayConfig, choice: bool) -> None:
        self.choice = choice
        words = config.lanes
        super().__init__(
            {
                "banks": In(words).array(OCTET_BITS),
                "turn": In(PLANE_BITS).array(OCTET_BITS),
                "enable": In(1),
                "columns": Out(words).array(OCTET_BITS),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if not self.choice:
            rows = _rotate(m, "columns", [[bank] for bank in self.banks], self.turn[0], self.enable)
            m.d.comb += [column.eq(row[0]) for column, row in zip(self.columns, rows, strict=True)]
            return m
        for index, column in enumerate(self.columns):
            turn = self.turn[index]
            pairs = [Mux(turn[0], odd, even) for even, odd in zip(self.banks[::2], self.banks[1::2], strict=True)]
            quads = [Mux(turn[1], odd, even) for even, odd in zip(pairs[::2], pairs[1::2], strict=True)]
            chosen = Signal.like(column, name=f"chosen_{index}", reset_less=True)
            with m.If(self.enable):
                m.d.sync += chosen.eq(Mux(turn[2], quads[1], quads[0]))
            m.d.sync += column.eq(chosen)
        return m


class Builder(wiring.Component):
    """One row of the list builder: who takes it, who still wants one, and whether they are enough."""

    def __init__(self, config: ArrayConfig) -> None:
        columns = config.columns
        super().__init__(
            {
                "listed": In(columns),
                "output_of": In(PLANE_BITS).array(columns),
                "threshold": In(range(columns + 1)),
                "restart": In(1),
                "active": In(columns),
                "left": Out(columns),
                "takers": Out(columns),
                "valid": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        columns = len(self.listed)
        wanting, able, kept = (Signal(columns, name=name) for name in ("wanting", "able", "kept"))
        seen = []
        for column in range(columns):
            group = self.listed[column // OCTET_BITS * OCTET_BITS :][:OCTET_BITS]
            has = Array(group)[self.output_of[column]]
            # of two columns at one output the first that wants takes the row
            earlier = [
                able[other] & (self.output_of[other] == self.output_of[column])
                for other in range(column // OCTET_BITS * OCTET_BITS, column)
            ][-1:]  # outputs run on: only the neighbour can have the same
            m.d.comb += able[column].eq(
                has & wanting[column] & ~Cat(earlier).any() if earlier else has & wanting[column]
            )
            seen.append(able[column])
        enough = Signal()
        m.d.comb += enough.eq(sum(seen[1:], seen[0] + 0) >= self.threshold)
        m.d.comb += kept.eq(Mux(enough, able, 0))
        m.d.sync += [self.takers.eq(kept), self.valid.eq(kept.any())]
        taken = []
        for output in range(columns):
            first = output // OCTET_BITS * OCTET_BITS
            hits = [
                kept[column] & (self.output_of[column] == output % OCTET_BITS)
                for column in range(first, first + OCTET_BITS)
            ]
            taken.append(Cat(hits).any())
        m.d.sync += self.left.eq(self.listed & ~Cat(taken))
        with m.If(self.restart):
            m.d.sync += wanting.eq(self.active)
        with m.Else():
            m.d.sync += wanting.eq(wanting & ~kept)
        return m


def measure(config: ArrayConfig) -> None:
    elements, groups = config.rows * config.columns, -(-config.columns // OCTET_BITS)
    parts = [
        ("element, as built", elements, Element(config)),
        ("element with a row of its own", elements, OwnRowTop(config)),
        ("B's rotation, as built", groups, Columns(config, False)),
        ("B's choice of columns", groups, Columns(config, True)),
        ("list builder", 1, Builder(config)),
        ("comparator, as built", 1, Comparator(ABREAST)),
    ]
    for name, count, part in parts:
        comb, ff = cells(part)
        print(
            f"{count:4} x {name:30} TRELLIS_COMB {comb:5} TRELLIS_FF {ff:5}  all: {count * comb:6} {count * ff:6}",
            flush=True,
        )


if __name__ == "__main__":
    for name in sys.argv[1:] or ["default"]:
        print(name)
        measure(CONFIGS[name])
