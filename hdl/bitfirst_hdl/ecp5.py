"""Tree and accumulator of an element in ECP5's carry cells, placed by hand: the same sums in the same cycles as
`element.DotTree` and `element.Accumulator`, in half the cells.

A CCU2C cell has two positions of a carry chain. A position is a table of four inputs, A to D: where it gives 1 the
carry passes, and where it gives 0 the carry becomes what the table gives for A and B with C = D = 0. The sum is the
table's bit, exclusive-or the carry that comes in. Inputs that a table does not read are 1, which costs no wire.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Instance, Module, Signal, Value

from . import element

#: Positions. The carry passes two of them in 0.04 ns, and timing analysis believes that it passes all.
LONGEST_CHAIN = 48


def _table(bit: Callable[[int, int, int, int], int]) -> int:
    return sum(bit(n & 1, n >> 1 & 1, n >> 2 & 1, n >> 3) << n for n in range(16))


OPEN = Const(1)
STOP = _table(lambda a, b, c, d: 0)  #: puts out the carry that comes in, and lets none go on
SUM = _table(lambda a, b, c, d: a ^ c)
EITHER = _table(lambda a, b, c, d: a ^ (c | d))  #: sum of A and C | D
PRODUCT = _table(lambda a, b, c, d: a & b)
PRODUCTS = _table(lambda a, b, c, d: (a & b) ^ (c & d))  #: sum of two products
LESS = _table(lambda a, b, c, d: (a & b) ^ (~c & d))  #: of a product and what D lets pass of C's complement
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
    """The positions' sums, combinational. The first position must be a `start`.

    Its cell has the attribute `bitfirst_first`: what comes into the chain does not matter, so that no cell feeds it in.
    """
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
    """As `element.DotTree`, in carry cells: the first level multiplies too, the last one complements.

    It adds the same pairs in the same cycles as `element.add_fields`, so that the proof goes level by level.
    """

    def elaborate(self, platform: object) -> Module:
        m = Module()
        field_bits, largest, level = self.config.slice_bits, 2**self.config.slice_bits - 1, 0
        words = [_lanes(a, mask, field_bits) for a, mask in zip(self.a, self.mask, strict=True)]
        while len(words) > 1 or len(words[0]) > 1:
            widens = not element.has_room(field_bits, largest)
            pairs, field_bits = _pairs(words, widens), field_bits << widens
            largest, level, done = 2 * largest, level + 1, len(pairs) == len(pairs[0]) == 1
            adders = [self._adder(low, high, level == 1, done) for word in pairs for low, high in word]
            sums = add(m, adders, f"sum_{level}", self.negative if done else None)
            if done or level % element.LEVELS_PER_REGISTER == 0:
                sums = _registers(m, sums, f"kept_{level}")
            size = len(pairs[0])
            words = [sums[place : place + size] for place in range(0, len(sums), size)]
        m.d.comb += self.total.eq(words[0][0])
        return m

    def _adder(self, low: Sequence, high: Sequence, first: bool, last: bool) -> list[Position]:
        if first:  # pairs of digit and mask
            return [Position(PRODUCTS, (*x, *y)) for x, y in zip(low, high, strict=True)]
        if last:  # ~x + ~y + 1 is ~(x + y); `add` brings the 1
            return [Position(FLIPPED, (x, self.negative, y, self.negative)) for x, y in zip(low, high, strict=True)]
        return [Position(SUM, (x, OPEN, y, OPEN)) for x, y in zip(low, high, strict=True)]


def _lanes(a: Value, mask: Value, size: int) -> list[list[tuple[Value, Value]]]:
    """For each lane its digit's bits, each with its mask."""
    bits = list(zip(a, mask, strict=True))
    return [bits[place : place + size] for place in range(0, len(bits), size)]


def _pairs(words: Sequence[Sequence], widens: bool) -> list[list[tuple[Sequence, Sequence]]]:
    """Fields that are added: neighbours, fields of neighbouring words, or those of a word's halves."""
    if widens:
        return [list(zip(word[::2], word[1::2], strict=True)) for word in words]
    if len(words) > 1:
        return [list(zip(low, high, strict=True)) for low, high in zip(words[::2], words[1::2], strict=True)]
    half = len(words[0]) // 2
    return [list(zip(words[0][:half], words[0][half:], strict=True))]


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
