"""The dot-product element: S-bit digits of A in parallel against one bit of B per lane.

Everything works on whole words with several fields side by side ("SIMD within a register"): that is fast in a
simulator (native 64-bit operations) and gives carry chains that many small adders share in an FPGA.
"""

from collections.abc import Callable, Sequence
from functools import partial

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import WORD_BITS

LEVELS_PER_REGISTER = 2


def repeated(pattern: int, period: int, width: int) -> int:
    """`pattern` at every multiple of `period` bits below `width`."""
    return sum(pattern << place for place in range(0, width, period))


def segment_bits(config: ArrayConfig) -> int:
    """Width of the segments in which an element's operand word travels: at most one 64-bit word."""
    return min(WORD_BITS, config.lanes * config.slice_bits)


def segment_count(config: ArrayConfig) -> int:
    """Number of segments in an element's operand word of L * S bits."""
    return config.lanes * config.slice_bits // segment_bits(config)


def spread(config: ArrayConfig, plane: Value) -> list[Value]:
    """One column's B plane word (L bits) as masks over the segments of A: S equal bits for each lane.

    Bit j of the plane lands on lane `config.lane_of_bit(j)`. Wires only, no logic.
    """
    lowest = repeated(1, config.slice_bits, config.lanes)
    parts = []
    for place in range(config.slice_bits):
        part, filled = plane[place:] & lowest, 1
        while filled < config.slice_bits:
            part, filled = (part | part << filled)[: config.lanes], 2 * filled
        parts.append(part[: config.lanes] | 0)
    word, size = Cat(parts), segment_bits(config)
    return [word[place : place + size] for place in range(0, len(word), size)]


def _halve(words: Sequence[Value]) -> list[Value]:
    """Sum fields pairwise, keeping their width; the fields' top bits are still free."""
    if len(words) > 1:
        return [(low[:-1] + high[:-1])[: len(low)] for low, high in zip(words[::2], words[1::2], strict=True)]
    (word,) = words
    half = len(word) // 2
    return [(word[: half - 1] + word[half:-1])[:half]]


def _widen(words: Sequence[Value], field_bits: int) -> list[Value]:
    """Sum neighbouring fields into fields of twice the width."""
    width = len(words[0])
    even = repeated(2**field_bits - 1, 2 * field_bits, width)
    used = width - field_bits  # the even fields end here: no operand is as wide as the word, no sum wider
    return [((word & even)[:used] + (word[field_bits:] & even)[:used]) | Const(0, width) for word in words]


def has_room(field_bits: int, largest: int) -> bool:
    """Whether a field holds the sum of two."""
    return 2 * largest < 2**field_bits


def add_fields(
    m: Module,
    words: Sequence[Value],
    field_bits: int,
    largest: int,
    name: str,
    flips: Value | None = None,
    first: Callable[[Sequence[Value], int], list[Value]] = _widen,
) -> tuple[Value, int]:
    """Sum of all unsigned fields of `words`, with a register after every two levels of adders.

    `words` have one width, a power of two times `field_bits`; each field holds at most `largest`. Returns the
    sum and its latency in cycles: the sum's complement where `flips` was high in the cycle before. `first` widens the
    first time, if fields have no room at first. No enable, no reset: it computes in each cycle.
    """
    level, widen = 0, first
    while len(words) > 1 or len(words[0]) > field_bits:
        if has_room(field_bits, largest):
            words = _halve(words)
        else:
            words, field_bits, widen = widen(words, field_bits), 2 * field_bits, _widen
        largest, level = 2 * largest, level + 1
        done = len(words) == 1 and len(words[0]) == field_bits
        registered = done or level % LEVELS_PER_REGISTER == 0
        used = repeated(2 ** largest.bit_length() - 1, field_bits, len(words[0]))
        sums = [Signal(len(word), name=f"{name}_{level}_{index}", reset_less=True) for index, word in enumerate(words)]
        # the mask tells synthesis which bits are always 0, so that they cost no flip-flop
        domain = m.d.sync if registered else m.d.comb
        if done and flips is not None:
            words = [word ^ flips.replicate(len(word)) for word in words]
        domain += [total.eq(word & used) for total, word in zip(sums, words, strict=True)]
        words = sums
    return words[0][: largest.bit_length()], -(-level // LEVELS_PER_REGISTER)


class DotTree(wiring.Component):
    """Dot product of L unsigned S-bit digits with L bits.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    a : In(segment_bits) x segment_count
        Digits of A, lane 0 least significant.
    mask : In(segment_bits) x segment_count
        B over the fields of A, as `spread` makes it.
    negative : In(1)
        In the cycle before `total`: give the complement.
    total : Out(bit length of L * (2**S - 1))
        The dot product, `latency` cycles later, or its complement. A new one each cycle; no back-pressure, no reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.largest = config.lanes * (2**config.slice_bits - 1)
        segments = In(segment_bits(config)).array(segment_count(config))
        total = Out(self.largest.bit_length())
        super().__init__({"a": segments, "mask": segments, "negative": In(1), "total": total})

    @property
    def latency(self) -> int:
        """Cycles from the operands to their dot product."""
        return self.config.tree_cycles

    def elaborate(self, platform: object) -> Module:
        m = Module()
        size = self.config.slice_bits
        products = [Signal.like(a, name=f"product_{index}") for index, a in enumerate(self.a)]
        m.d.comb += [p.eq(a & mask) for p, a, mask in zip(products, self.a, self.mask, strict=True)]
        sum_pairs = partial(self._sum_pairs, m)
        total, latency = add_fields(m, products, size, 2**size - 1, "sum", self.negative, sum_pairs)
        assert latency == self.latency
        m.d.comb += self.total.eq(total)
        return m

    def _sum_pairs(self, m: Module, products: Sequence[Value], size: int) -> list[Value]:
        """The first level: products of neighbouring lanes added, in fields of twice the width."""
        return _widen(products, size)


class Control(wiring.Signature):
    """What a term that arrives at the accumulators means, and what the next cycle's will.

    valid          out(1)  there is a term
    double         out(1)  it starts a plane: the sum before is doubled
    negative       out(1)  its plane counts negative
    load           out(1)  it ends a pass: the sum goes to the shadow register; only with `valid`
    next_first     out(1)  the next cycle's term starts a pass: the sum before counts as 0
    next_negative  out(1)  `negative` of the next cycle
    """

    def __init__(self) -> None:
        names = "valid", "double", "negative", "load", "next_first", "next_negative"
        super().__init__({name: Out(1) for name in names})


class Accumulator(wiring.Component):
    """Horner accumulator with a shadow register, which holds a pass's sum while the next one is made.

    sum = (0 if first else 2 * total if double else total) +- term, when `control.valid`. The width is that
    of the longest pass, so it cannot overflow. Two's complement.

    Parameters
    ----------
    term_bits : int
        Width of the unsigned term.
    bits : int
        Width of the signed sum.

    Members
    -------
    term : In(term_bits)
        Its complement where `control.negative`.
    control : In(Control())
        Aligned with `term`.
    shadow : Out(bits)
        From the cycle after `load` on the sum with that term, until the next `load`.

    Latency: one cycle from term to `shadow`. No back-pressure, no reset: `next_first` clears the sum.
    """

    def __init__(self, term_bits: int, bits: int) -> None:
        super().__init__({"term": In(term_bits), "control": In(Control()), "shadow": Out(bits)})
        self.total, self.kept = (Signal(bits, name=name, reset_less=True) for name in ("total", "kept"))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        step, new = self.control, self._add(m)
        with m.If(step.next_first):  # a reset of the registers: no logic for each bit
            m.d.sync += self.total.eq(0)
        with m.Elif(step.valid):
            m.d.sync += self.total.eq(new)
        with m.If(step.load):
            m.d.sync += self.kept.eq(new)
        m.d.comb += self.shadow.eq(self.kept)
        return m

    def _add(self, m: Module) -> Value:
        """The sum with this cycle's term, combinational."""
        bits, step = len(self.total), self.control
        base, new = Signal(bits), Signal(bits + 1)
        m.d.comb += base.eq(Mux(step.double, self.total << 1, self.total))
        # base - term is base + ~term + 1, the 1 carried in from a bit below: one adder for both signs
        term = Cat(step.negative, self.term, step.negative.replicate(bits - len(self.term)))
        m.d.comb += new.eq(Cat(step.negative, base) + term)
        return new[1:]


class OwnWord(wiring.Component):
    """An element's word of A: one is taken while the one before is multiplied.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    a : In(segment_bits) x segment_count
        What the array row's bank gives.
    take : In(1)
        It is for this element.
    move : In(1)
        From the next cycle on multiply what was taken since the last move, before this cycle; zeros if nothing was.
    held : Out(segment_bits) x segment_count
    taken : Out(1)
        Something was taken since the last move, before this cycle.

    No back-pressure. Reset: nothing is taken; `held` is undefined until the first move.
    """

    def __init__(self, config: ArrayConfig) -> None:
        word = segment_bits(config), segment_count(config)
        super().__init__(
            {
                "a": In(word[0]).array(word[1]),
                "take": In(1),
                "move": In(1),
                "held": Out(word[0]).array(word[1]),
                "taken": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        clear = Signal()
        m.d.sync += self.taken.eq(self.take | (self.taken & ~self.move))
        m.d.comb += clear.eq(self.move & ~self.taken)
        for index, (word, held) in enumerate(zip(self.a, self.held, strict=True)):
            front = Signal.like(word, name=f"front_{index}", reset_less=True)
            with m.If(self.take):
                m.d.sync += front.eq(word)
            with m.If(clear):  # a reset of the registers: no logic for each bit
                m.d.sync += held.eq(0)
            with m.Elif(self.move):
                m.d.sync += held.eq(front)
        return m


def parts(platform: object) -> tuple[type["DotTree"], type["Accumulator"]]:
    """Tree and accumulator for the platform's family."""
    from . import ecp5, gowin

    family = getattr(platform, "family", "")
    if family == "ecp5":
        return ecp5.DotTree, ecp5.Accumulator
    return (gowin.DotTree if family.startswith("GW") else DotTree), Accumulator


class Element(wiring.Component):
    """One element of the array: `DotTree` and `Accumulator`.

    Members
    -------
    a, mask : In(segment_bits) x segment_count
        As in `DotTree`; a new pair each cycle.
    control : In(Control())
        For the operands given `latency` cycles earlier.
    shadow : Out(config.accumulator_bits)
        As in `Accumulator`.

    `latency` cycles from operands to the accumulator's input, one more to the sum. No back-pressure.

    For ECP5 and Gowin it is made of carry cells (`ecp5`, `gowin`), else of adders for any synthesis; all do the same,
    cycle by cycle.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        segments = In(segment_bits(config)).array(segment_count(config))
        shadow = Out(config.accumulator_bits)
        super().__init__({"a": segments, "mask": segments, "control": In(Control()), "shadow": shadow})

    @property
    def latency(self) -> int:
        """Cycles from the operands to the accumulator's input."""
        return self.config.tree_cycles

    def elaborate(self, platform: object) -> Module:
        m = Module()
        make_tree, make_accumulator = parts(platform)
        m.submodules.tree = tree = make_tree(self.config)
        m.submodules.accumulator = accumulator = make_accumulator(len(tree.total), self.config.accumulator_bits)
        for index in range(segment_count(self.config)):
            m.d.comb += [tree.a[index].eq(self.a[index]), tree.mask[index].eq(self.mask[index])]
        wiring.connect(m, wiring.flipped(self.control), accumulator.control)
        m.d.comb += [
            tree.negative.eq(self.control.next_negative),
            accumulator.term.eq(tree.total),
            self.shadow.eq(accumulator.shadow),
        ]
        return m


def dot_model(config: ArrayConfig, digits: Sequence[int], bits: Sequence[int]) -> int:
    """What `DotTree` gives for digits of A by lane and bits of B by bit number."""
    return sum(digits[config.lane_of_bit(j)] for j, bit in enumerate(bits) if bit)


def accumulate_model(total: int, term: int, first: bool, double: bool, negative: bool) -> int:
    """What `Accumulator` holds after one valid term."""
    base = 0 if first else 2 * total if double else total
    return base - term if negative else base + term
