"""Units of carry cells are those of adders: ECP5's against the portable ones, for all inputs.

What a carry cell does is said by yosys' own model of it.
"""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

from amaranth.hdl import Assert, Assume, Cover, Fragment, Module, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bitfirst_hdl import baselines, ecp5, element, gowin
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.power import sums as power_sums

from .prove import Property, altered

ECP5 = SimpleNamespace(family="ecp5")
CARRY_CELLS = "ecp5/common_sim.vh", "ecp5/ccu2c_sim.vh"
_PORTABLE_LEVEL = "        words = sums\n", "        words = sums\n        LEVELS.append((words, field_bits))\n"
_CARRY_LEVEL = (
    "            size = len(pairs[0])\n",
    "            LEVELS.append(sums)\n            size = len(pairs[0])\n",
)
_FIRST_LEVEL = "        return sums\n", "        FIRST.extend(sums)\n        return sums\n"
_REGISTERS = "    return registers\n", "    LEVELS.append(registers)\n    return registers\n"
_PAIRS = "        shift, level = 2, 1\n", "        PAIRS.extend(sums)\n        shift, level = 2, 1\n"
_ACCUMULATOR = (
    "        m.submodules.accumulator = accumulator\n",
    "        m.submodules.accumulator = accumulator\n        LEVELS.append([accumulator.total])\n",
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
        m.submodules.placed = Fragment.get(self.placed, ECP5)
        for name, (path, _) in self.inputs.items():
            m.d.comb += [_at(side, path).eq(getattr(self, name)) for side in (self.portable, self.placed)]
        self.compare(m)

    @abstractmethod
    def compare(self, m: Module) -> None:
        """Asserts that both do the same."""


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


class SameFirstLevel(_Same):
    """Any digits, any masks: the sums of the first level of Gowin's tree are the portable one's; the others are made by
    the same code. `changes` are made in its source.
    """

    models = ("gowin/cells_sim.v",)

    def __init__(self, slice_bits: int, lanes: int, *changes: tuple[str, str]) -> None:
        config = ArrayConfig(slice_bits=slice_bits, lanes=lanes, rows=16, columns=16)
        self.noted = altered(element, _PORTABLE_LEVEL, LEVELS=[])
        self.module = altered(gowin, _FIRST_LEVEL, *changes, FIRST=[])
        super().__init__(self.noted.DotTree(config), self.module.DotTree(config))

    def compare(self, m: Module) -> None:
        sums, bits = self.noted.LEVELS[0]
        assert self.module.FIRST
        for word, other in zip(sums, self.module.FIRST, strict=True):
            for place in range(0, len(word), bits):
                m.d.comb += Assert(word[place:][:bits] == other[place:][:bits], "sum of a pair")
        m.d.comb += Cover(sums[0][:bits] == 2 * (2 ** (bits // 2) - 1))


class SameAdder(_Same):
    """Any numbers: the sum of the power monitor's adder is the same. `changes` are made in the source of ECP5's."""

    def __init__(self, bits: int, *changes: tuple[str, str]) -> None:
        placed = altered(power_sums, ecp5=altered(ecp5, *changes))
        super().__init__(power_sums.Adder(bits), placed.Adder(bits))

    def compare(self, m: Module) -> None:
        m.d.comb += [Assert(self.portable.total == self.placed.total), Cover(self.portable.total[-1])]


class SameAccumulator(_Same):
    """Any terms, any control: sum and shadow register are the same."""

    def __init__(self, module: ModuleType, term_bits: int, bits: int) -> None:
        super().__init__(element.Accumulator(term_bits, bits), module.Accumulator(term_bits, bits))

    def compare(self, m: Module) -> None:
        total = self.portable.total
        m.d.comb += [
            Assume(~self.control__load | self.control__valid),
            Assert(total == self.placed.total, "sum"),
            Assert(self.portable.kept == self.placed.kept, "shadow register"),
            Cover(total[-1] & total[0] & self.control__double & self.control__negative),
        ]


class SameUnit(_Same):
    """Any operands, any control: each register of a unit of `baselines` is the same.

    `changes` are made in the source of the placed one; `make` makes a unit of such a module. `assume_pairs`: sums of
    two rows, which are in no register, are taken to be the same, which `SamePairs` proves; the solver finds no way
    through two levels of 16 bits.
    """

    assume_pairs = False

    def __init__(self, make: Callable[[ModuleType], wiring.Component], *changes: tuple[str, str]) -> None:
        notes = _REGISTERS, _ACCUMULATOR, _PAIRS
        self.sides = [altered(baselines, *notes, *more, LEVELS=[], PAIRS=[]) for more in ((), changes)]
        super().__init__(*map(make, self.sides))

    def compare(self, m: Module) -> None:
        plain, placed = self.sides
        assert len(plain.LEVELS) > 1
        for registers, others in zip(plain.LEVELS, placed.LEVELS, strict=True):
            for register, other in zip(registers, others, strict=True):
                m.d.comb += Assert(register == other, "register")
        if self.assume_pairs:
            assert plain.PAIRS
            m.d.comb += [Assume(pair == other) for pair, other in zip(plain.PAIRS, placed.PAIRS, strict=True)]
        total = plain.LEVELS[-1][0]
        m.d.comb += [
            Assume(~self.control__load | self.control__valid),
            Assert(self.portable.shadow == self.placed.shadow, "shadow register"),
            Cover(total[-1] & total[0]),
        ]


class SamePairs(SameUnit):
    """Any operands: the sums of two rows of a `FixedMac` are the same."""

    def compare(self, m: Module) -> None:
        plain, placed = self.sides
        assert plain.PAIRS
        m.d.comb += [Assert(pair == other) for pair, other in zip(plain.PAIRS, placed.PAIRS, strict=True)]
        m.d.comb += Cover(plain.PAIRS[-1][-1] & plain.PAIRS[-1][0])


class SameBehindPairs(SameUnit):
    """As `SameUnit`, where `SamePairs` is proved."""

    assume_pairs = True
