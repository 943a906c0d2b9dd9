"""The datapath "fixed16": multipliers of 16 x 16 bits, behind the memories, walks and sums of the bit-serial array.

A chunk takes two steps: its top octets are read, then its low ones (of operands of one octet, these twice). Then both
are there, and half the lanes are multiplied, then the others, while the next chunk's top octets come.
"""

from collections.abc import Sequence

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In

from .array import Array, StepControl
from .baselines import Unit
from .config import MAX_BITS, ArrayConfig
from .contract.packets import OCTET_BITS, WORD_BITS
from .element import OwnWord, add_fields
from .fixed import Accumulator, add_signed, registered

NUMBER = signed(MAX_BITS + 1)  #: of both sides, signed or not


class WideElement(Unit):
    """L / 2 multipliers of 16 x 16 bits, the sum of their products, and an accumulator.

    Members
    -------
    a, b : In(17) x L / 2
        Numbers with their sign, two's complement; a new pair each cycle.
    control : In(Control())
        For the numbers given `latency` cycles earlier.
    shadow : Out(config.accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from numbers to the accumulator's input, one more to the sum. No back-pressure.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        numbers = In(NUMBER).array(config.lanes // 2)
        super().__init__({"a": numbers, "b": numbers}, config.accumulator_bits)

    @property
    def latency(self) -> int:
        """Cycles from the numbers to the accumulator's input: all of an array's but the two of the octets."""
        return self.config.tree_cycles - 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        products = [(a * b)[: 2 * MAX_BITS + 1].as_signed() for a, b in zip(self.a, self.b, strict=True)]
        term = add_signed(m, registered(m, products, "product"), "sum")
        self.accumulate(m, Accumulator(len(term), self.config.accumulator_bits), term)
        return m


class WideArray(Array):
    """As `Array`, of `WideElement`s; a row of B is L octets for each array column.

    A is signed as it is: there is nothing to correct, and `column_sums` are 0.
    """

    @property
    def ones_tree_cycles(self) -> int:
        """Cycles from a chunk's second step to the counts of its columns' ones in the second half of the lanes."""
        return 2 + (self.config.lanes * OCTET_BITS).bit_length() // 2

    def _make_element(self) -> WideElement:
        return WideElement(self.config)

    def _terms(self, m: Module) -> tuple[data.View, int]:
        """The lower lanes' terms come with a chunk's second step, the upper ones' a cycle later."""
        step, term = self.control, Signal(StepControl)
        lower, self._upper = step.valid & self.digits.b_turn[0], Signal()
        first, last = Signal(), Signal()
        m.d.sync += [self._upper.eq(lower), last.eq(step.last)]
        with m.If(step.valid):
            m.d.sync += first.eq(step.first)
        m.d.comb += [
            term.valid.eq(lower | self._upper),
            term.first.eq(lower & first),
            term.last.eq(self._upper & last),
        ]
        return term, self.config.tree_cycles - 1

    def _own_words(self, m: Module) -> list[list[list[Signal]]]:
        """Each element's numbers of A; those of a row are the same."""
        words = super()._own_words(m)
        return [[self._numbers_of_a(m, row, alike[0])] * len(alike) for row, alike in enumerate(words)]

    def _numbers_of_a(self, m: Module, row: int, own: OwnWord) -> list[Signal]:
        """In offset binary, which becomes two's complement."""
        digits = self.digits
        return self._numbers(m, f"a_{row}", own.held, digits.a_width[0], digits.a_signed, digits.a_signed)

    def _operand(self, m: Module, column: int) -> list[Signal]:
        """A column's numbers of B."""
        size = self.config.lanes * OCTET_BITS
        words = self.b[column * size // WORD_BITS : (column + 1) * size // WORD_BITS]
        return self._numbers(m, f"b_{column}", words, self.digits.b_width[0], self.control.negative, Const(0))

    def _numbers(
        self, m: Module, name: str, words: Sequence[Value], two: Value, is_signed: Value, flip: Value
    ) -> list[Signal]:
        """Of half the lanes, a cycle behind their octets: of `two` or of one; `flip` inverts the top bit."""
        octets = [word[place : place + OCTET_BITS] for word in words for place in range(0, len(word), OCTET_BITS)]
        half, numbers = len(octets) // 2, []
        kept = [Signal(OCTET_BITS, name=f"{name}_kept_{lane}", reset_less=True) for lane in range(len(octets))]
        older = [Signal(OCTET_BITS, name=f"{name}_older_{lane}", reset_less=True) for lane in range(half)]
        with m.If(self.control.valid):
            m.d.sync += [later.eq(octet) for later, octet in zip(kept, octets, strict=True)]
            m.d.sync += [later.eq(octet) for later, octet in zip(older, kept[half:], strict=True)]
        for lane in range(half):
            number = Signal(NUMBER, name=f"{name}_{lane}", reset_less=True)
            high, low = Mux(self._upper, older[lane], kept[lane]), Mux(self._upper, kept[half + lane], octets[lane])
            top = high[-1] ^ flip
            sign = top & is_signed
            one = Cat(low[:-1], top, sign.replicate(OCTET_BITS + 1))
            m.d.sync += number.eq(Mux(two, Cat(low, high[:-1], top, sign), one))
            numbers.append(number)
        return numbers

    def _multiply(self, m: Module, element: WideElement, own: list[Signal], operand: list[Signal]) -> None:
        for member, numbers in (element.a, own), (element.b, operand):
            m.d.comb += [part.eq(number) for part, number in zip(member, numbers, strict=True)]

    def _column(
        self, m: Module, column: int, operand: list[Signal], control: wiring.PureInterface, platform: object
    ) -> Value:
        """The count of ones, `ones_tree_cycles` after a chunk's second step."""
        two = self.digits.b_width[0].replicate(OCTET_BITS)
        octets = [Cat(number[:OCTET_BITS], number[OCTET_BITS:MAX_BITS] & two) for number in operand]
        bits = Cat(octets)
        words = [bits[place : place + WORD_BITS] for place in range(0, len(bits), WORD_BITS)]
        ones, latency = add_fields(m, words, 1, 1, f"ones_{column}")
        assert 2 + latency == self.ones_tree_cycles
        return ones
