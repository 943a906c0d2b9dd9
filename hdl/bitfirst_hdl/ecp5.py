"""Tree and accumulator of an element in ECP5's carry cells, placed by hand: the same sums in the same cycles as
`element.DotTree` and `element.Accumulator`, in half the cells.

A CCU2C cell has two positions of a carry chain. A position is a table of four inputs, A to D: where it gives 1 the
carry passes, and where it gives 0 the carry becomes what the table gives for A and B with C = D = 0. The sum is the
table's bit, exclusive-or the carry that comes in. Inputs that a table does not read are 1, which costs no wire.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value
from amaranth.lib import wiring

from . import element
from .config import ArrayConfig

LONGEST_CHAIN = (
    48  #: positions: the carry passes two of them in 0.04 ns, and timing analysis believes that it passes all
)


def _table(bit: Callable[[int, int, int, int], int]) -> int:
    return sum(bit(n & 1, n >> 1 & 1, n >> 2 & 1, n >> 3) << n for n in range(16))


OPEN = Const(1)
STOP = _table(lambda a, b, c, d: 0)  #: puts out the carry that comes in, and lets none go on
SUM = _table(lambda a, b, c, d: a ^ c)
PRODUCTS = _table(lambda a, b, c, d: (a & b) ^ (c & d))  #: sum of two products
FLIPPED = _table(lambda a, b, c, d: a ^ b ^ c ^ d)  #: sum of A ^ B and C ^ D, where B is D
HORNER = _table(lambda a, b, c, d: a ^ (d if b else c))  #: A and what B chooses of C and D
LOWEST_HORNER = _table(lambda a, b, c, d: a ^ (c & ~b))  #: with 0 for D


@dataclass(frozen=True)
class Position:
    """One position of a carry chain: its table, and its inputs A to D."""

    table: int
    inputs: tuple[Value, Value, Value, Value] = (OPEN, OPEN, OPEN, OPEN)


def start(carry: Value | None = None) -> Position:
    """The first position of a chain: the carry out of it is `carry`, whatever comes in."""
    return Position(STOP) if carry is None else Position(SUM, (carry, OPEN, carry, OPEN))


def chain(m: Module, positions: Sequence[Position], name: str) -> Value:
    """The positions' sums, combinational. The first position must be a `start`."""
    sums, carry = Signal(len(positions) + len(positions) % 2, name=name), None
    for place in range(0, len(positions), 2):
        connections: dict[str, object] = {}
        for half, position in enumerate([*positions, Position(STOP)][place : place + 2]):
            connections |= {f"p_INIT{half}": Const(position.table, 16), f"o_S{half}": sums[place + half]}
            connections |= {f"i_{port}{half}": value for port, value in zip("ABCD", position.inputs, strict=True)}
        if carry is None:
            connections["a_bitfirst_first"] = 1
        else:
            connections["i_CIN"] = carry
        if place + 2 < len(positions):
            connections["o_COUT"] = carry = Signal(name=f"{name}_carry_{place}")
        else:
            connections["a_bitfirst_last"] = 1
        m.submodules[f"{name}_{place}"] = Instance("CCU2C", p_INJECT1_0="NO", p_INJECT1_1="NO", **connections)
    return sums[: len(positions)]


def add(m: Module, adders: Sequence[Sequence[Position]], name: str, carry: Value | None = None) -> list[Value]:
    """Sums of several adders of equal width, each a bit wider than that; they share chains. `carry` goes into the first
    adder of each chain.
    """
    each = len(adders[0]) + 1
    together = max(1, (LONGEST_CHAIN - 1) // each)
    sums = []
    for place in range(0, len(adders), together):
        positions = [start(carry)]
        for adder in adders[place : place + together]:
            positions += [*adder, Position(STOP)]
        bits = chain(m, positions, f"{name}_{place}")[1:]
        sums += [bits[low : low + each] for low in range(0, len(bits), each)]
    return sums


class DotTree(element.DotTree):
    """As `element.DotTree`, in carry cells: the first level multiplies too, the last one complements."""

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = self.config.slice_bits
        pairs = [
            zip(_digits(a, size), _digits(mask, size), strict=True) for a, mask in zip(self.a, self.mask, strict=True)
        ]
        lanes = [lane for segment in pairs for lane in segment]
        adders = [
            [Position(PRODUCTS, bits) for bits in zip(*low, *high, strict=True)]
            for low, high in zip(lanes[::2], lanes[1::2], strict=True)
        ]
        words, level = add(m, adders, "sum_1"), 1
        while len(words) > 2:
            if level % element.LEVELS_PER_REGISTER == 0:
                words = _registers(m, words, f"kept_{level}")
            adders = [
                [Position(SUM, (x, OPEN, y, OPEN)) for x, y in zip(low, high, strict=True)]
                for low, high in zip(words[::2], words[1::2], strict=True)
            ]
            words, level = add(m, adders, f"sum_{level + 1}"), level + 1
        if level % element.LEVELS_PER_REGISTER == 0:
            words = _registers(m, words, f"kept_{level}")
        # ~x + ~y + 1 is ~(x + y)
        adder = [Position(FLIPPED, (x, self.negative, y, self.negative)) for x, y in zip(*words, strict=True)]
        (total,) = add(m, [adder], "sum", self.negative)
        m.d.sync += self.total.eq(total)
        return m


def _digits(word: Value, size: int) -> Iterable[Value]:
    return [word[place : place + size] for place in range(0, len(word), size)]


def _registers(m: Module, words: Sequence[Value], name: str) -> list[Value]:
    kept = [Signal(len(word), name=f"{name}_{index}", reset_less=True) for index, word in enumerate(words)]
    m.d.sync += [register.eq(word) for register, word in zip(kept, words, strict=True)]
    return kept


class Accumulator(element.Accumulator):
    """As `element.Accumulator`: a position of the chain shifts the sum and adds to it."""

    def _add(self, m: Module) -> Value:
        step, term = self.control, self.term
        term = Cat(term, step.negative.replicate(len(self.total) - len(term)))
        positions = [start(step.negative), Position(LOWEST_HORNER, (term[0], step.double, self.total[0], OPEN))]
        for place in range(1, len(self.total)):
            inputs = term[place], step.double, self.total[place], self.total[place - 1]
            positions.append(Position(HORNER, inputs))
        return chain(m, positions, "sum")[1:]
