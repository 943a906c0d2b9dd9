"""What the array is measured against: units of fixed precision, of fused bricks, and a bit-serial one of adders.

Each ends, as `element.Element` does, in an accumulator with a shadow register. For a platform
of the family "ecp5" the first two are made of carry cells (`ecp5`) as the element is, else of adders for any synthesis;
both do the same, cycle by cycle.
"""

from collections.abc import Sequence
from enum import IntEnum
from itertools import product

from amaranth.hdl import Cat, Module, Mux, Shape, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from . import ecp5, element
from .config import BRICK_PLANES, BRICKS
from .element import Control

DIGIT_BITS = BRICK_PLANES  #: of an operand, in one brick
PRODUCT_BITS = 5  #: of a brick: -6 .. 9


def carries(platform: object) -> bool:
    """Whether the platform has ECP5's carry cells."""
    return getattr(platform, "family", None) == "ecp5"


class SignedAccumulator(element.Accumulator):
    """Accumulator of signed terms, with a shadow register.

    sum = (0 if first else total) + term, when `control.valid`. Parameters, members and latency as
    `element.Accumulator`, but that `term` is two's complement, and that `double`, `negative` and `next_negative` mean
    nothing.
    """

    def elaborate(self, platform: object) -> Module:
        self._carries = carries(platform)
        return super().elaborate(platform)

    def _add(self, m: Module) -> Value:
        bits = len(self.total)
        term = self.term.as_signed()
        if not self._carries:
            return (self.total + term)[:bits]
        term = _extended(term, bits)
        adder = [ecp5.Position(ecp5.SUM, (t, ecp5.OPEN, x, ecp5.OPEN)) for t, x in zip(self.total, term, strict=True)]
        return ecp5.chain(m, [ecp5.start(), *adder], "sum")[1:]


def _extended(value: Value, bits: int) -> Value:
    """A signed number in more bits."""
    return Cat(value, value[-1].replicate(bits - len(value)))


def _shifted_sums(
    m: Module, platform: object, name: str, pairs: Sequence[tuple[Value, Value]], shift: int, wide: Value | None = None
) -> list[Value]:
    """low + (high << shift if wide else high) for each pair of signed numbers; without `wide` it is always shifted.

    The sums have `shift` bits more than `high`: what a product has to whose parts `low` and `high` belong.
    """
    bits = len(pairs[0][1]) + shift
    if not carries(platform):
        sums = [low + (high << shift if wide is None else Mux(wide, high << shift, high)) for low, high in pairs]
        return [total[:bits].as_signed() for total in sums]
    through = shift if wide is None else 0  # bits of `low` that nothing is added to
    adders = [_shifted_adder(low, high, shift, wide)[through:] for low, high in pairs]
    sums = ecp5.add(m, adders, name)
    return [Cat(low[:through], total[:-1]).as_signed() for (low, _), total in zip(pairs, sums, strict=True)]


def _shifted_adder(low: Value, high: Value, shift: int, wide: Value | None) -> list[ecp5.Position]:
    bits = len(high) + shift
    low, narrow = _extended(low, bits), _extended(high, bits)
    positions = []
    for place in range(bits):
        if wide is None:
            inputs = ecp5.SUM, (low[place], ecp5.OPEN, high[max(place - shift, 0)], ecp5.OPEN)
        elif place < shift:
            inputs = ecp5.LOWEST_HORNER, (low[place], wide, narrow[place], ecp5.OPEN)
        else:
            inputs = ecp5.HORNER, (low[place], wide, narrow[place], high[place - shift])
        positions.append(ecp5.Position(*inputs))
    return positions


def _kept(m: Module, values: Sequence[Value], name: str) -> list[Value]:
    """A cycle later."""
    registers = [Signal(signed(len(value)), name=f"{name}_{n}", reset_less=True) for n, value in enumerate(values)]
    m.d.sync += [register.eq(value) for register, value in zip(registers, values, strict=True)]
    return registers


class Unit(wiring.Component):
    """Base of units and elements: operands to a sum of products, and an accumulator behind it."""

    def __init__(self, operands: dict, accumulator_bits: int) -> None:
        super().__init__(operands | {"control": In(Control()), "shadow": Out(accumulator_bits)})

    def accumulate(self, m: Module, accumulator: element.Accumulator, term: Value) -> None:
        m.submodules.accumulator = accumulator
        wiring.connect(m, wiring.flipped(self.control), accumulator.control)
        m.d.comb += [accumulator.term.eq(term), self.shadow.eq(accumulator.shadow)]


class FixedMac(Unit):
    """Multiply-accumulate unit of one precision, signed.

    Parameters
    ----------
    bits : int
        Width of both operands: 8 or 16.
    accumulator_bits : int
        Width of the signed sum.
    dsp : bool
        Leave the multiplication to synthesis, which finds the chip's multipliers; else it is a tree of adders.

    Members
    -------
    a, b : In(signed(bits))
        A new pair each cycle.
    control : In(Control())
        For the operands given `latency` cycles earlier, as in `SignedAccumulator`.
    shadow : Out(accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure, no reset.
    """

    latency = 2

    def __init__(self, bits: int, accumulator_bits: int, dsp: bool = False) -> None:
        self.bits, self.dsp = bits, dsp
        super().__init__({"a": In(signed(bits)), "b": In(signed(bits))}, accumulator_bits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        if self.dsp:
            a, b = _kept(m, [self.a, self.b], "operand")
            (total,) = _kept(m, [a * b], "product")
        else:
            total = self._tree(m, platform)
        self.accumulate(m, SignedAccumulator(2 * self.bits, len(self.shadow)), total)
        return m

    def _tree(self, m: Module, platform: object) -> Value:
        """Sum of `a` under each bit of `b`, with a register after every two levels of adders."""
        pairs = self._placed_pairs(m) if carries(platform) else self._pairs()
        sums = [total[: self.bits + 2].as_signed() for total in pairs]
        shift, level = 2, 1
        while len(sums) > 1:
            pairs, level = list(zip(sums[::2], sums[1::2], strict=True)), level + 1
            sums = _shifted_sums(m, platform, f"level_{level}", pairs, shift)
            shift *= 2
            if level % element.LEVELS_PER_REGISTER == 0 or len(sums) == 1:
                sums = _kept(m, sums, f"kept_{level}")
        assert -(-level // element.LEVELS_PER_REGISTER) == self.latency
        return sums[0]

    def _pairs(self) -> list[Value]:
        """`a` under two neighbouring bits of `b`, added; the highest one, of b's sign, counts negative."""
        rows = [(self.a.as_unsigned() & bit.replicate(self.bits)).as_signed() for bit in self.b]
        *pairs, (low, high) = zip(rows[::2], rows[1::2], strict=True)
        return [*(x + (y << 1) for x, y in pairs), low - (high << 1)]

    def _placed_pairs(self, m: Module) -> list[Value]:
        """As `_pairs`, multiplied in the adders' positions; the highest row as its complement, and 1 more."""
        a, b, bits = self.a, self.b, self.bits
        lowest = [ecp5.Position(ecp5.PRODUCT, (a[0], b[n], ecp5.OPEN, ecp5.OPEN)) for n in range(0, bits - 2, 2)]
        adders = [self._pair(ecp5.PRODUCTS, position, 2 * n) for n, position in enumerate(lowest)]
        sign = b[-1]  # twice in the lowest place: 1 in the next
        last = self._pair(ecp5.LESS, ecp5.Position(ecp5.PRODUCTS, (a[0], b[-2], ecp5.OPEN, sign)), bits - 2)
        return ecp5.add(m, adders, "rows") + ecp5.add(m, [last], "last_rows", sign)

    def _pair(self, table: int, lowest: ecp5.Position, n: int) -> list[ecp5.Position]:
        a, b, top = self.a, self.b, self.bits - 1
        inputs = [(a[min(place, top)], b[n], a[min(place - 1, top)], b[n + 1]) for place in range(1, self.bits + 2)]
        return [lowest, *(ecp5.Position(table, four) for four in inputs)]


class Width(IntEnum):
    """Width of a fused operand, as `FusedUnit` takes it."""

    TWO = 0
    FOUR = 1
    EIGHT = 3

    @property
    def bits(self) -> int:
        return {Width.TWO: 2, Width.FOUR: 4, Width.EIGHT: 8}[self]


class FusedUnit(Unit):
    """Sixteen multipliers of two bits that make up 16 products of 2 x 2 bits a cycle, 4 of 4 x 4, or one of 8 x 8.

    Mixed widths too: 8 / a * 8 / b products. After the fusion unit of Sharma et al., Bit Fusion (ISCA 2018), with its
    spatial fusion alone. What lays the operands' digits out to the bricks is not in it (`arrange` tells how): there it
    is shared by a row of units.

    Parameters
    ----------
    accumulator_bits : int
        Width of the signed sum.

    Members
    -------
    a, b : In(2) x 16
        Each brick's digits; a new set each cycle.
    a_width, b_width : In(2)
        As `Width`; constant as long as products are under way.
    a_signed, b_signed : In(1)
        Whether operands are two's complement, in their cycle.
    control : In(Control())
        For the operands given `latency` cycles earlier, as in `SignedAccumulator`.
    shadow : Out(accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure, no reset.
    """

    latency = 2

    def __init__(self, accumulator_bits: int) -> None:
        digits, flags = In(DIGIT_BITS).array(BRICKS), dict.fromkeys(("a_signed", "b_signed"), In(1))
        widths = dict.fromkeys(("a_width", "b_width"), In(Shape(2)))
        super().__init__({"a": digits, "b": digits} | widths | flags, accumulator_bits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = fused_sum(m, platform, "", self, self.a, self.b)
        self.accumulate(m, SignedAccumulator(len(total), len(self.shadow)), total)
        return m


def fused_sum(
    m: Module, platform: object, name: str, flags: wiring.PureInterface, a: Sequence[Value], b: Sequence[Value]
) -> Value:
    """Sum of the products of `BRICKS` pairs of digits, `FusedUnit.latency` cycles later.

    `flags` has `a_width`, `b_width`, `a_signed` and `b_signed`, as in `FusedUnit`.
    """
    a_negative = top_digits(flags.a_width, flags.a_signed)
    b_negative = top_digits(flags.b_width, flags.b_signed)
    sums = []
    for n, (high_a, high_b, low_a, low_b) in enumerate(places()):
        inputs = Cat(a[n], a_negative[high_a][low_a], b[n], b_negative[high_b][low_b])
        sums.append(_brick(m, f"{name}brick_{n}", inputs))
    wides = flags.b_width[0], flags.a_width[0], flags.b_width[1], flags.a_width[1]
    for level, (shift, wide) in enumerate(zip((2, 2, 4, 4), wides, strict=True)):
        pairs = list(zip(sums[::2], sums[1::2], strict=True))
        sums = _shifted_sums(m, platform, f"{name}level_{level}", pairs, shift, wide)
        if level % 2:
            sums = _kept(m, sums, f"{name}kept_{level}")
    return sums[0]


def _brick(m: Module, name: str, inputs: Value) -> Value:
    """Product of two digits, each with its sign above it, as a table: synthesis would make adders of a product."""
    found = Signal(signed(PRODUCT_BITS), name=name)
    with m.Switch(inputs):
        for number in range(2 ** len(inputs)):
            with m.Case(number):
                m.d.comb += found.eq(_digit(number & 7) * _digit(number >> 3))
    return found


def _digit(number: int) -> int:
    """What two bits mean with a third that says whether they are signed."""
    return number - 8 if number in (6, 7) else number & 3


def places() -> list[tuple[int, ...]]:
    """For each brick the bits of its digits' numbers: (higher of A's, higher of B's, lower of A's, lower of B's)."""
    return list(product((0, 1), repeat=4))


def top_digits(width: Value, is_signed: Value) -> list[list[Value]]:
    """Whether digit [higher bit][lower bit] has its operand's sign."""
    lower = is_signed & ~width[0]  # of two bits each
    return [[lower, is_signed & ~width[1]], [lower, is_signed]]


def arrange(a_width: Width, b_width: Width, pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[int]]:
    """Digits of A and of B for the bricks of `FusedUnit`, from 8 / a * 8 / b pairs of numbers."""
    a_count, b_count = (width.bits // DIGIT_BITS for width in (a_width, b_width))  # digits of one operand
    a_digits, b_digits = [], []
    for high_a, high_b, low_a, low_b in places():
        a_place, b_place = 2 * high_a + low_a, 2 * high_b + low_b
        a, b = pairs[a_place // a_count * (8 // b_width.bits) + b_place // b_count]
        a_digits.append(a >> DIGIT_BITS * (a_place % a_count) & 3)
        b_digits.append(b >> DIGIT_BITS * (b_place % b_count) & 3)
    return a_digits, b_digits


class PopcountElement(Unit):
    """Bit-serial dot product: L bits of A and of B, and the ones of A & B counted by `+`; no carry cells by hand.

    After the dot-product unit of BISMO (Umuroglu et al., FPL 2018), with the element's Horner accumulator in place of
    a shifter: planes of A and of B are to come in the order of their weight together.

    Parameters
    ----------
    lanes : int
        L, products per cycle.
    accumulator_bits : int
        Width of the signed sum.

    Members
    -------
    a, b : In(lanes)
        A new pair each cycle.
    control : In(Control())
        For the operands given `latency` cycles earlier.
    shadow : Out(accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure, no reset.
    """

    latency = 1

    def __init__(self, lanes: int, accumulator_bits: int) -> None:
        self.lanes = lanes
        super().__init__({"a": In(lanes), "b": In(lanes)}, accumulator_bits)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        both, count = self.a & self.b, Signal(range(self.lanes + 1), reset_less=True)
        total = sum(both[1:], both[0])
        m.d.sync += count.eq(total ^ self.control.next_negative.replicate(len(count)))
        self.accumulate(m, element.Accumulator(len(count), len(self.shadow)), count)
        return m
