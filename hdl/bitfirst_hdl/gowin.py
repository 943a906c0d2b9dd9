"""Tree of an element for Gowin's chips: the same sums in the same cycles as `element.DotTree`, with half of its ANDs in
the adders' cells.

An ALU cell is a position of a carry chain and takes a LUT's place. In its mode MULT it adds I3 to the product of I0 and
I1: that is one lane of a pair, where ECP5's cell takes both.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value

from . import element

MULT = 9  #: ALU_MODE
GUARD = (Const(0),) * 3  #: puts out the carry that comes in, and lets none go on


def chain(m: Module, positions: Sequence[tuple[Value, Value, Value]], name: str) -> Value:
    """Sums of I0 & I1 and I3 at each position, combinational."""
    sums, carry = Signal(len(positions), name=name), Const(0)
    for place, (i0, i1, i3) in enumerate(positions):
        out = Signal(name=f"{name}_carry_{place}")
        inputs = {"i_I0": i0, "i_I1": i1, "i_I3": i3, "i_CIN": carry}
        m.submodules[f"{name}_{place}"] = Instance("ALU", p_ALU_MODE=MULT, **inputs, o_SUM=sums[place], o_COUT=out)
        carry = out
    return sums


class DotTree(element.DotTree):
    """As `element.DotTree`; where digits have more than one bit, the first level multiplies one lane of each pair."""

    def _sum_pairs(self, m: Module, products: Sequence[Value], size: int) -> list[Value]:
        if size == 1:
            return super()._sum_pairs(m, products, size)
        sums = []
        for index, (a, mask, product) in enumerate(zip(self.a, self.mask, products, strict=True)):
            positions = []
            for low in range(0, len(a), 2 * size):
                positions += [(a[place + size], mask[place + size], product[place]) for place in range(low, low + size)]
                positions.append(GUARD)
            bits = chain(m, positions, f"pairs_{index}")
            fields = [bits[low : low + size + 1] for low in range(0, len(bits), size + 1)]
            sums.append(Cat(Cat(field, Const(0, size - 1)) for field in fields))
        return sums
