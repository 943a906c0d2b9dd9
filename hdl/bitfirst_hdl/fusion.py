"""The datapath "fusion": fused units of 2 x 2 bit bricks, behind the memories, walks and sums of the bit-serial array.

After Sharma et al., Bit Fusion (ISCA 2018), with its spatial fusion; operands wider than 8 bits take several passes and
steps, as theirs do. A row pair of the operand memories, octets of L lanes, is fed for as many steps as it has digit
pairs to a brick: 16 of 8 x 8 bits, 4 of 4 x 4, one of 2 x 2. What picks the digits of a step is shared by all elements
of a row or a column of the array.
"""

from collections.abc import Sequence
from itertools import product

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .array import Array
from .baselines import DIGIT_BITS, Unit, fused_sum, places, top_digits
from .config import BRICKS, ArrayConfig
from .contract.packets import OCTET_BITS, WORD_BITS
from .element import OwnWord, add_fields
from .fixed import Accumulator, add_signed
from .operands import one_of


class Flags(wiring.Signature):
    """How digits are put together, as `baselines.FusedUnit` takes it."""

    def __init__(self) -> None:
        super().__init__({"a_width": Out(2), "b_width": Out(2), "a_signed": Out(1), "b_signed": Out(1)})


class _Picks:
    """What one side of a brick takes, for the higher and the lower bit [level][bit of its digit's number].

    An operand of 2 bits has its lane for each digit of the brick's number, one of 8 bits a digit; `lanes` and `digits`
    are then the brick's own bit, and the others `turn` and `place`: lanes have turns, digits are chosen.
    """

    def __init__(self, m: Module, name: str, width: Value, turn: Value, place: Value) -> None:
        self.lanes = [[Signal(name=f"{name}_lane_{level}_{own}") for own in (0, 1)] for level in (0, 1)]
        self.digits = [[Signal(name=f"{name}_digit_{level}_{own}") for own in (0, 1)] for level in (0, 1)]
        for level, own in product((0, 1), repeat=2):
            m.d.comb += [
                self.lanes[level][own].eq(Mux(width[level], turn[level], own)),
                self.digits[level][own].eq(Mux(width[level], own, place[level])),
            ]


def _lay(m: Module, name: str, octets: Sequence[Sequence[Value]], own: _Picks, other: _Picks) -> dict[tuple, Signal]:
    """Digits for a unit's bricks, by (higher, lower bit of their number, those of the other side's), combinational.

    octets  of 4 x 4 lanes: [own side's number][other side's]
    """
    found = {}
    for high, low in product((0, 1), repeat=2):
        digits = []
        for lane in range(4):
            nibbles = [
                _one_of_four(
                    m,
                    f"{name}_nibble_{high}_{low}_{lane}_{odd}",
                    (own.digits[1][high], own.lanes[1][high]),
                    [octets[2 * upper + odd][lane].word_select(half, 4) for upper in (0, 1) for half in (0, 1)],
                )
                for odd in (0, 1)
            ]
            halves = [nibble.word_select(half, DIGIT_BITS) for nibble in nibbles for half in (0, 1)]
            select = own.digits[0][low], own.lanes[0][low]
            digits.append(_one_of_four(m, f"{name}_digit_{high}_{low}_{lane}", select, halves))
        for other_high, other_low in product((0, 1), repeat=2):
            place = high, low, other_high, other_low
            select = other.lanes[0][other_low], other.lanes[1][other_high]
            found[place] = _one_of_four(m, "_".join(map(str, (name, *place))), select, digits)
    return found


def _one_of_four(m: Module, name: str, select: tuple[Value, Value], values: Sequence[Value]) -> Signal:
    chosen = Signal(len(values[0]), name=name)
    m.d.comb += chosen.eq(one_of(Cat(select), values))
    return chosen


class FusionElement(Unit):
    """L / 16 fused units, the sum of their products, and an accumulator.

    Members
    -------
    a, b : In(2) x L
        Each brick's digits; a new set each cycle.
    flags : In(Flags())
        Of these operands; widths constant as long as products are under way.
    control : In(Control())
        For the operands given `latency` cycles earlier.
    shadow : Out(config.accumulator_bits)
        As in `element.Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        digits = In(DIGIT_BITS).array(config.lanes)
        super().__init__({"a": digits, "b": digits, "flags": In(Flags())}, config.accumulator_bits)

    @property
    def latency(self) -> int:
        """Cycles from the operands to the accumulator's input: all of an array's but the one to the bricks."""
        return self.config.tree_cycles - 1

    def elaborate(self, platform: object) -> Module:
        m = Module()
        sums = []
        for first in range(0, self.config.lanes, BRICKS):
            a, b = (list(digits)[first : first + BRICKS] for digits in (self.a, self.b))
            sums.append(fused_sum(m, platform, f"unit_{first}_", self.flags, a, b))
        term = add_signed(m, sums, "sum")
        self.accumulate(m, Accumulator(len(term), self.config.accumulator_bits), term)
        return m


class FusionArray(Array):
    """As `Array`, of `FusionElement`s; a row of B is L octets for each array column.

    A is signed as it is: there is nothing to correct, and `column_sums` are 0.
    """

    @property
    def ones_tree_cycles(self) -> int:
        """Cycles from a step to the counts of its columns' ones: digits to their bricks, and their tree."""
        return 1 + (self.config.lanes * DIGIT_BITS).bit_length() // 2

    def _make_element(self) -> FusionElement:
        return FusionElement(self.config)

    def _own_words(self, m: Module) -> list[list[list[Signal]]]:
        """Each element's digits of A; those of a row are the same."""
        step, self._flags = self.digits, Flags().create(path=("flags",))
        self._a = _Picks(m, "a", step.a_width, step.a_turn, step.a_place)
        self._b = _Picks(m, "b", step.b_width, step.b_turn, step.b_place)
        m.d.sync += [
            self._flags.a_width.eq(step.a_width),
            self._flags.b_width.eq(step.b_width),
            self._flags.a_signed.eq(step.a_signed),
            self._flags.b_signed.eq(self.control.negative),
        ]
        return [[self._digits_of_a(m, row, words[0])] * len(words) for row, words in enumerate(super()._own_words(m))]

    def _digits_of_a(self, m: Module, row: int, own: OwnWord) -> list[Signal]:
        """A cycle later; offset binary has become two's complement."""
        signs, digits = top_digits(self.digits.a_width, self.digits.a_signed), []
        for number, octets in enumerate(_units(own.held)):
            laid = _lay(m, f"a_{row}_{number}", octets, self._a, self._b)
            for high_a, high_b, low_a, low_b in places():
                sign = Cat(Const(0, DIGIT_BITS - 1), signs[high_a][low_a])
                digits.append(laid[high_a, low_a, high_b, low_b] ^ sign)
        return _registered(m, f"a_{row}", digits)

    def _operand(self, m: Module, column: int) -> list[Signal]:
        """A column's digits of B, a cycle later."""
        size, digits = self.config.lanes * OCTET_BITS, []
        words = self.b[column * size // WORD_BITS : (column + 1) * size // WORD_BITS]
        for number, octets in enumerate(_units(words)):
            turned = [list(lanes) for lanes in zip(*octets, strict=True)]
            laid = _lay(m, f"b_{column}_{number}", turned, self._b, self._a)
            digits += [laid[high_b, low_b, high_a, low_a] for high_a, high_b, low_a, low_b in places()]
        return _registered(m, f"b_{column}", digits)

    def _multiply(self, m: Module, element: FusionElement, own: list[Signal], operand: list[Signal]) -> None:
        wiring.connect(m, self._flags, element.flags)
        for member, digits in (element.a, own), (element.b, operand):
            m.d.comb += [part.eq(digit) for part, digit in zip(member, digits, strict=True)]

    def _column(
        self, m: Module, column: int, operand: list[Signal], control: wiring.PureInterface, platform: object
    ) -> Value:
        """The count of ones, `ones_tree_cycles` after the step."""
        bits = Cat(operand)
        words = [bits[place : place + WORD_BITS] for place in range(0, len(bits), WORD_BITS)]
        ones, latency = add_fields(m, words, 1, 1, f"ones_{column}")
        assert 1 + latency == self.ones_tree_cycles
        return ones


def _units(words: Sequence[Value]) -> list[list[list[Value]]]:
    """Octets of each unit's lanes: [unit][A's number of the lane][B's]."""
    octets = [word[place : place + OCTET_BITS] for word in words for place in range(0, len(word), OCTET_BITS)]
    units = [octets[place : place + BRICKS] for place in range(0, len(octets), BRICKS)]
    return [[unit[place : place + 4] for place in range(0, BRICKS, 4)] for unit in units]


def _registered(m: Module, name: str, digits: Sequence[Value]) -> list[Signal]:
    later = [Signal(DIGIT_BITS, name=f"{name}_{number}_later", reset_less=True) for number in range(len(digits))]
    m.d.sync += [register.eq(digit) for register, digit in zip(later, digits, strict=True)]
    return later
