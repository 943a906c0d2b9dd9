"""R x C elements, the columns' sums of B, and what drains them."""

from amaranth.hdl import Cat, Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import WORD_BITS
from .element import Accumulator, Control, Element, OwnWord, add_fields, parts, segment_bits, segment_count, spread
from .operands import one_in_turn


class StepControl(data.Struct):
    """What one array step means; see `element.Control`. `last` ends the pass."""

    valid: 1
    first: 1
    double: 1
    negative: 1
    last: 1


class Array(wiring.Component):
    """The array: each step multiplies C words of B bits with the words of A digits that the elements hold.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    a : In(64) x a_row_words
        One row of the A memory: L digits for each array row.
    take : In(C) x R
        Elements that take their array row's digits: those of a step at least two cycles before it.
    move : In(1)
        As in `OwnWord`: a step multiplies what was moved in the cycle before it or earlier.
    taken : Out(C) x R
        Elements that have taken something since the last move, as in `OwnWord`; only with packed MATMULs.
    b : In(64) x b_row_words
        One row of the B memory: L bits for each array column, of this step (of `fixed.FixedArray` L octets).
    control : In(StepControl)
        Of this step; `last` steps are at least `config.drain_cycles` cycles apart.
    drain_valid : Out(1)
        High in the R cycles in which a pass leaves, array row 0 first.
    sums : Out(accumulator_bits) x C
        The drained row's dot products, two's complement.
    column_sums : Out(column_sum_bits) x C
        Sums of B of the same pass (planes weighted and signed alike), in each of these R cycles.
    ones : Out(range(C * L * digit_planes + 1))
        One bits in one step's B words, `ones_latency` cycles after the step; 0 otherwise.

    Latency: the first row of sums comes `latency` cycles after the last step of the pass. No back-pressure.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "a": In(WORD_BITS).array(config.a_row_words),
                "take": In(config.columns).array(config.rows),
                "move": In(1),
                "taken": Out(config.columns).array(config.rows),
                "b": In(WORD_BITS).array(config.b_row_words),
                "control": In(StepControl),
                "drain_valid": Out(1),
                "sums": Out(config.accumulator_bits).array(config.columns),
                "column_sums": Out(config.column_sum_bits).array(config.columns),
                "ones": Out(range(config.b_row_bits + 1)),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from the last step of a pass to its first row of sums: tree, shadow register, register at the foot."""
        return self.config.tree_cycles + 2

    @property
    def ones_latency(self) -> int:
        """Cycles from a step to the count of its ones."""
        return self.ones_tree_cycles + 1 + self.config.columns.bit_length() // 2

    @property
    def ones_tree_cycles(self) -> int:
        """Cycles from a step to the counts of its columns' ones."""
        return (self.config.lanes * self.config.digit_planes).bit_length() // 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        control, load = self._delayed_control(m)
        turn = self._time_drain(m, load)

        own = self._own_words(m)
        if config.packs:
            m.d.comb += [self.taken[row].eq(Cat(word.taken for word in words)) for row, words in enumerate(own)]
        elements = [[self._make_element() for _ in range(config.columns)] for _ in range(config.rows)]
        counts = []
        for column in range(config.columns):
            operand = self._operand(m, column)
            for row in range(config.rows):
                m.submodules[f"element_{row}_{column}"] = element = elements[row][column]
                self._multiply(m, element, own[row][column], operand)
                wiring.connect(m, control, element.control)
            m.d.sync += self.sums[column].eq(one_in_turn(turn, [row[column].shadow for row in elements]))
            counts.append(self._column(m, column, operand, control, platform))
        self._count_ones(m, counts, control.valid)
        return m

    def _make_element(self) -> Element:
        return Element(self.config)

    def _operand(self, m: Module, column: int) -> tuple[Signal, list[Signal]]:
        """A column's plane of B, and masks made of it."""
        config = self.config
        plane = Signal(config.lanes, name=f"plane_{column}")
        m.d.comb += plane.eq(self._cut(self.b, column * config.lanes, config.lanes))
        masks = [Signal(segment_bits(config), name=f"mask_{column}_{i}") for i in range(segment_count(config))]
        m.d.comb += [mask.eq(value) for mask, value in zip(masks, spread(config, plane), strict=True)]
        return plane, masks

    def _multiply(self, m: Module, element: Element, own: OwnWord, operand: tuple[Signal, list[Signal]]) -> None:
        for index, mask in enumerate(operand[1]):
            m.d.comb += [element.a[index].eq(own.held[index]), element.mask[index].eq(mask)]

    def _own_words(self, m: Module) -> list[list[OwnWord]]:
        """Of all elements; without packed MATMULs those of a row have one between them."""
        config = self.config
        if config.packs:
            return [[self._own_word(m, row, column) for column in range(config.columns)] for row in range(config.rows)]
        return [[self._own_word(m, row, 0)] * config.columns for row in range(config.rows)]

    def _own_word(self, m: Module, row: int, column: int) -> OwnWord:
        config = self.config
        m.submodules[f"own_{row}_{column}"] = own = OwnWord(config)
        m.d.comb += [own.take.eq(self.take[row][column]), own.move.eq(self.move)]
        place, size = row * config.lanes * config.slice_bits, segment_bits(config)
        for index, word in enumerate(own.a):
            m.d.comb += word.eq(self._cut(self.a, place + index * size, size))
        return own

    @staticmethod
    def _cut(words: list, place: int, width: int):
        """`width` bits from bit `place` of the words laid side by side, without making one wide signal."""
        if width > WORD_BITS:
            return Cat(words[place // WORD_BITS : (place + width) // WORD_BITS])
        return words[place // WORD_BITS][place % WORD_BITS :][:width]

    def _delayed_control(self, m: Module) -> tuple[wiring.PureInterface, Signal]:
        """What the terms that reach the accumulators now mean, and `load` of it."""
        coming = step = self.control
        for index in range(self.config.tree_cycles):
            coming, step = step, Signal(StepControl, name=f"control_{index}")
            m.d.sync += step.eq(coming)
        control, load = Control().create(path=("control",)), Signal()
        m.d.comb += [
            load.eq(step.valid & step.last),
            control.valid.eq(step.valid),
            control.double.eq(step.double),
            control.negative.eq(step.negative),
            control.load.eq(load),
            control.next_first.eq(coming.valid & coming.first),
            control.next_negative.eq(coming.negative),
        ]
        return control, load

    def _column(self, m: Module, column: int, operand, control: wiring.PureInterface, platform: object) -> Value:
        """Sum of one column's B; returns the count of ones of a step, `ones_tree_cycles` after it."""
        ones, column_sum = self._sum_column(m, column, operand, control, platform)
        m.submodules[f"column_sum_{column}"] = column_sum
        wiring.connect(m, control, column_sum.control)
        m.d.sync += self.column_sums[column].eq(column_sum.shadow)
        return ones

    def _sum_column(
        self,
        m: Module,
        column: int,
        operand: tuple[Signal, list[Signal]],
        control: wiring.PureInterface,
        platform: object,
    ) -> tuple[Value, Accumulator]:
        """The count of ones, which a plane adds to the sum, and the accumulator with its term."""
        (plane, _), lanes = operand, self.config.lanes
        width = min(WORD_BITS, lanes)
        words = [plane[place : place + width] for place in range(0, lanes, width)]
        ones, latency = add_fields(m, words, 1, 1, f"ones_{column}")
        assert latency == self.config.tree_cycles == self.ones_tree_cycles
        column_sum = parts(platform)[1](len(ones), self.config.column_sum_bits)
        m.d.comb += column_sum.term.eq(ones ^ control.negative.replicate(len(ones)))
        return ones, column_sum

    def _count_ones(self, m: Module, counts: list, valid) -> None:
        """Sum of the columns' counts, four to one a cycle."""
        for index in range(self.ones_tree_cycles - self.config.tree_cycles):
            valid, before = Signal(name=f"counts_{index}"), valid
            m.d.sync += valid.eq(before)
        stage = 0
        masked = []
        for column, count in enumerate(counts):
            kept = Signal.like(count, name=f"count_{column}")
            m.d.sync += kept.eq(count & valid.replicate(len(count)))
            masked.append(kept)
        while len(masked) > 1:
            sums = []
            for index in range(0, len(masked), 4):
                total = sum(masked[index + 1 : index + 4], masked[index])
                kept = Signal(len(masked[0]) + 2, name=f"counts_{stage}_{index}")
                m.d.sync += kept.eq(total)
                sums.append(kept)
            masked, stage = sums, stage + 1
        assert self.ones_latency == self.ones_tree_cycles + 1 + stage
        m.d.comb += self.ones.eq(masked[0])

    def _time_drain(self, m: Module, load: Signal) -> Signal:
        """The row whose sums go to the foot of their columns has its bit high, for R cycles from behind `load` on."""
        turn = Signal(self.config.rows)
        m.d.sync += [turn.eq(Cat(load, turn)), self.drain_valid.eq(turn.any())]
        return turn
