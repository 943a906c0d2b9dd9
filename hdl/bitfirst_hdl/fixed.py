"""The datapath "fixed": elements that multiply 8 x 8 bits, behind the memories, walks and sums of the bit-serial array.

Digits of A are unsigned, as there (signed ones in offset binary, put right at the drain); those of B are unsigned or
two's complement. An octet of A and one of B are a digit each: operands of 16 bits take 2 x 2 passes and steps.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from . import element
from .array import Array
from .baselines import Unit
from .config import ArrayConfig
from .contract.packets import OCTET_BITS, WORD_BITS
from .element import LEVELS_PER_REGISTER, OwnWord, add_fields, segment_bits, segment_count

PRODUCT_BITS = 2 * OCTET_BITS + 1


def add_signed(m: Module, terms: Sequence[Value], name: str) -> Value:
    """Sum of signed terms, a power of two of them, with a register after every two levels of adders."""
    level = 0
    while len(terms) > 1:
        terms = [low + high for low, high in zip(terms[::2], terms[1::2], strict=True)]
        level += 1
        if level % LEVELS_PER_REGISTER == 0 or len(terms) == 1:
            terms = registered(m, terms, f"{name}_{level}")
    return terms[0]


def registered(m: Module, terms: Sequence[Value], name: str) -> list[Signal]:
    """Signed terms, a cycle later; no reset."""
    later = [Signal(signed(len(term)), name=f"{name}_{index}", reset_less=True) for index, term in enumerate(terms)]
    m.d.sync += [register.eq(term) for register, term in zip(later, terms, strict=True)]
    return later


class Accumulator(element.Accumulator):
    """As `element.Accumulator`, but the term is signed, and `double` starts an octet: the sum before is times 256.

    `negative` and `next_negative` mean nothing.
    """

    def _add(self, m: Module) -> Value:
        base = Mux(self.control.double, self.total << OCTET_BITS, self.total)
        return (base + self.term.as_signed())[: len(self.total)]


class FixedElement(Unit):
    """L multipliers of 8 x 8 bits, the sum of their products, and an accumulator.

    Members
    -------
    a : In(segment_bits) x segment_count
        Octets of A, unsigned, lane 0 least significant.
    b : In(9) x L
        Octets of B with their sign, two's complement.
    control : In(Control())
        For the operands given `latency` cycles earlier.
    shadow : Out(config.accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        a = In(segment_bits(config)).array(segment_count(config))
        super().__init__({"a": a, "b": In(signed(OCTET_BITS + 1)).array(config.lanes)}, config.accumulator_bits)

    @property
    def latency(self) -> int:
        """Cycles from the operands to the accumulator's input."""
        return self.config.tree_cycles

    def elaborate(self, platform: object) -> Module:
        m = Module()
        digits = [word[place : place + OCTET_BITS] for word in self.a for place in range(0, len(word), OCTET_BITS)]
        products = [(a * b)[:PRODUCT_BITS].as_signed() for a, b in zip(digits, self.b, strict=True)]
        term = add_signed(m, registered(m, products, "product"), "sum")
        self.accumulate(m, Accumulator(len(term), self.config.accumulator_bits), term)
        return m


class FixedArray(Array):
    """As `Array`, of `FixedElement`s; a row of B is L octets for each array column."""

    def _make_element(self) -> FixedElement:
        return FixedElement(self.config)

    def _operand(self, m: Module, column: int) -> list[Signal]:
        """A column's octets of B, with their sign."""
        config, digits = self.config, []
        octets = self._cut(self.b, column * config.lanes * OCTET_BITS, config.lanes * OCTET_BITS)
        for lane in range(config.lanes):
            octet = octets[lane * OCTET_BITS :][:OCTET_BITS]
            digit = Signal(signed(OCTET_BITS + 1), name=f"digit_{column}_{lane}")
            m.d.comb += digit.eq(Cat(octet, octet[-1] & self.control.negative))
            digits.append(digit)
        return digits

    def _multiply(self, m: Module, element: FixedElement, own: OwnWord, operand: list[Signal]) -> None:
        m.d.comb += [part.eq(held) for part, held in zip(element.a, own.held, strict=True)]
        m.d.comb += [part.eq(digit) for part, digit in zip(element.b, operand, strict=True)]

    def _sum_column(
        self, m: Module, column: int, operand: list[Signal], control: wiring.PureInterface, platform: object
    ) -> tuple[Value, Accumulator]:
        term = add_signed(m, registered(m, operand, f"column_digit_{column}"), f"column_total_{column}")
        column_sum = Accumulator(len(term), self.config.column_sum_bits)
        m.d.comb += column_sum.term.eq(term)
        bits = Cat(digit[:OCTET_BITS] for digit in operand)
        words = [bits[place : place + WORD_BITS] for place in range(0, len(bits), WORD_BITS)]
        ones, latency = add_fields(m, words, 1, 1, f"ones_{column}")
        assert latency == self.ones_tree_cycles
        return ones, column_sum
