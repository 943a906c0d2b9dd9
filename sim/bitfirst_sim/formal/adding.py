"""Elements of carry cells are those of adders: ECP5's tree and accumulator against the portable ones, for all inputs.

What a carry cell does is said by yosys' own model of it.
"""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from amaranth.hdl import Assert, Assume, Cover, Fragment, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bitfirst_hdl import ecp5, element
from bitfirst_hdl.config import ArrayConfig

from .prove import Property, altered

CARRY_CELLS = "ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh"
_PORTABLE_LEVEL = "        words = sums\n", "        words = sums\n        LEVELS.append((words, field_bits))\n"
_CARRY_LEVEL = (
    "            size = len(pairs[0])\n",
    "            LEVELS.append(sums)\n            size = len(pairs[0])\n",
)


def carry_cells(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.ecp5` with `changes` in its source; its tree notes the sums of each level."""
    return altered(ecp5, *changes, _CARRY_LEVEL, LEVELS=[])


class _Same(Property):
    """Base: two components of one signature, with the same inputs. What comes into a chain's first cell is free."""

    models, gates = CARRY_CELLS, True

    def __init__(self, portable: wiring.Component, placed: wiring.Component) -> None:
        self.portable, self.placed = portable, placed
        self.inputs = {
            "__".join(map(str, path)): (path, member)
            for path, member, _ in portable.signature.flatten(portable)
            if member.flow == In
        }
        super().__init__({name: In(member.shape) for name, (_, member) in self.inputs.items()})

    def state(self, m: Module) -> None:
        m.submodules.portable = Fragment.get(self.portable, None)
        m.submodules.placed = Fragment.get(self.placed, None)
        for name, (path, _) in self.inputs.items():
            m.d.comb += [_at(side, path).eq(getattr(self, name)) for side in (self.portable, self.placed)]
        self.compare(m)

    def compare(self, m: Module) -> None:
        raise NotImplementedError


def _at(component: Any, path: Sequence[str | int]) -> Value:
    for part in path:
        component = component[part] if isinstance(part, int) else getattr(component, part)
    return component


class SameTree(_Same):
    """Any digits, any masks, complements at any time: each sum of each level is the same, and so is the total."""

    def __init__(self, module: ModuleType, slice_bits: int, lanes: int) -> None:
        config = ArrayConfig(slice_bits=slice_bits, lanes=lanes, rows=16, columns=16)
        self.noted = altered(element, _PORTABLE_LEVEL, LEVELS=[])
        self.module = module
        super().__init__(self.noted.DotTree(config), module.DotTree(config))

    def compare(self, m: Module) -> None:
        for (words, field_bits), sums in zip(self.noted.LEVELS, self.module.LEVELS, strict=True):
            fields = [word[place : place + field_bits] for word in words for place in range(0, len(word), field_bits)]
            for field, total in zip(fields, sums, strict=True):
                m.d.comb += Assert(field == total, "sum of a level")
        total = self.portable.total
        m.d.comb += [
            Assert(total == self.placed.total, "total"),
            Cover(total == self.portable.largest),
            Cover(total == self.portable.largest ^ (2 ** len(total) - 1)),
        ]


class SameAccumulator(_Same):
    """Any terms, any control: sum and shadow register are the same."""

    def __init__(self, module: ModuleType, term_bits: int, bits: int) -> None:
        super().__init__(element.Accumulator(term_bits, bits), module.Accumulator(term_bits, bits))

    def compare(self, m: Module) -> None:
        total = self.portable.total
        m.d.comb += [
            Assume(~self.control__load | self.control__valid),
            Assert(total == self.placed.total, "sum"),
            Assert(self.portable.chain_out == self.placed.chain_out, "shadow register"),
            Cover(total[-1] & total[0] & self.control__double & self.control__negative),
        ]
