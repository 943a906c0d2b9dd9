"""Requantisation: one 48-bit sum a cycle becomes a rounded, saturated number (`contract.numeric.requantise`)."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .contract.numeric import HASH_INITIAL, SUM_BITS
from .contract.packets import Rounding

RANDOM_BITS = 32
RESULT_BITS = 32


class Hash(wiring.Component):
    """`contract.numeric.mix` of three 32-bit words, one result a cycle.

    Inputs   enable     the pipeline moves only while high (back-pressure)
             a, b, c    32 bits each
    Output   random     the hash of the words seen `latency` enabled cycles before
    Reset    none is needed: the contents are those of the inputs.
    """

    ROUNDS = ((2, 1, 14), (0, 2, 11), (1, 0, 25), (2, 1, 16), (0, 2, 4), (1, 0, 14), (2, 1, 24))
    latency = len(ROUNDS)

    def __init__(self) -> None:
        word = RANDOM_BITS
        super().__init__({"enable": In(1), "a": In(word), "b": In(word), "c": In(word), "random": Out(word)})

    def elaborate(self, platform) -> Module:
        m = Module()
        words = [self.a, self.b, self.c]
        for stage, (target, source, rotation) in enumerate(self.ROUNDS):
            after = [Signal(RANDOM_BITS, name=f"{name}{stage}") for name in "abc"]
            with m.If(self.enable):
                for index, word in enumerate(words):
                    m.d.sync += after[index].eq(word)
                mixed = (words[target] ^ words[source]) - words[source].rotate_left(rotation)
                m.d.sync += after[target].eq(mixed)
            words = after
        m.d.comb += self.random.eq(words[2])
        return m


class Settings(data.Struct):
    """How to requantise: fields of `packets.Read`, and the largest number of its `bits` and `signed`."""

    multiplier: 16
    shift: 6
    rounding: Rounding
    signed: 1
    limit: RESULT_BITS  # ones; the smallest number is -limit, or 0
    key: 32


class Element(data.Struct):
    """One sum; `index` is its place in the tensor (for stochastic rounding), `last` travels along."""

    total: signed(SUM_BITS)
    index: 32
    last: 1


class Result(data.Struct):
    """One number; `clipped` if it did not fit; `last` of its element."""

    value: RESULT_BITS
    clipped: 1
    last: 1


class Requantiser(wiring.Component):
    """Multiply, shift, round once and saturate: exactly `contract.numeric.requantise`, one element a cycle.

    settings   in; must hold still from the cycle in which the first element is taken until its last result left
    elements   in, stream of `Element`
    results    out, stream of `Result`, in the same order

    Latency `latency` cycles when nothing holds it up. Back-pressure stops the whole pipeline.
    Reset empties the pipeline.
    """

    latency = Hash.latency + 4

    def __init__(self) -> None:
        super().__init__(
            {
                "settings": In(Settings),
                "elements": In(stream.Signature(Element)),
                "results": Out(stream.Signature(Result)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.hash = hash_ = Hash()
        settings = self.settings
        move = Signal()  # the pipeline advances
        m.d.comb += [
            move.eq(~self.results.valid | self.results.ready),
            self.elements.ready.eq(move),
            hash_.enable.eq(move),
            hash_.a.eq(settings.key),
            hash_.b.eq(self.elements.payload.index),
            hash_.c.eq(HASH_INITIAL),
        ]

        low, high = Signal(signed(34)), Signal(signed(34))
        m.d.sync += [
            high.eq(settings.limit),
            low.eq(Mux(settings.signed, -settings.limit, 0)),
        ]

        valid, last = Signal(self.latency), Signal(self.latency)
        with m.If(move):
            m.d.sync += [
                valid.eq(Cat(self.elements.valid, valid)),
                last.eq(Cat(self.elements.payload.last, last)),
            ]
            quotient, fraction, sticky = self._divide(m, settings.multiplier, settings.shift)
            result = self._round(m, quotient, fraction, sticky, hash_.random, low, high)
        m.d.comb += [
            self.results.valid.eq(valid[-1]),
            self.results.payload.last.eq(last[-1]),
            self.results.payload.value.eq(result),
        ]
        return m

    def _divide(self, m: Module, multiplier: Value, shift: Value) -> tuple[Signal, Signal, Signal]:
        """total * multiplier / 2**shift in `Hash.latency` cycles: quotient, 32 bits of fraction, OR of the rest."""
        total = Signal(signed(SUM_BITS))
        parts = [Signal(32, name="part0"), Signal(32, name="part1"), Signal(signed(32), name="part2")]
        lower, middle, top = Signal(16), Signal(32), Signal(signed(32))
        product = Signal(signed(64))
        m.d.sync += [
            total.eq(self.elements.payload.total),
            parts[0].eq(total[0:16] * multiplier),
            parts[1].eq(total[16:32] * multiplier),
            parts[2].eq(total[32:48].as_signed() * multiplier),
            lower.eq(parts[0]),
            middle.eq(parts[0][16:32] + parts[1]),
            top.eq(parts[2]),
            product.eq(Cat(lower, middle + (top << 16))),
        ]
        quotient, fraction, sticky = product, C(0, RANDOM_BITS), C(0, 1)
        for pair in (5, 4), (3, 2), (1, 0):
            for bit in pair:
                count = 1 << bit
                wide = Cat(fraction, quotient).as_signed()
                quotient, fraction, sticky = (
                    Mux(shift[bit], quotient >> count, quotient),
                    Mux(shift[bit], (wide >> count)[0:RANDOM_BITS], fraction),
                    sticky | (shift[bit] & fraction[0:count].any()),
                )
            registers = Signal(signed(64)), Signal(RANDOM_BITS), Signal()
            m.d.sync += [to.eq(value) for to, value in zip(registers, (quotient, fraction, sticky), strict=True)]
            quotient, fraction, sticky = registers
        return quotient, fraction, sticky

    def _round(self, m: Module, quotient, fraction, sticky, random, low, high) -> Signal:
        """Rounding and saturation, in four cycles: the number, and `clipped`."""
        whole = Signal(signed(33))
        rounded = [Signal(signed(34), name=f"rounded{stage}") for stage in range(2)]
        # quotients that need more than 33 bits
        huge = [Signal(name=f"huge{stage}") for stage in range(2)]
        tiny = [Signal(name=f"tiny{stage}") for stage in range(2)]
        carry, above, below = Signal(), Signal(), Signal()
        result = Signal(RESULT_BITS)
        to_even = fraction[-1] & (fraction[:-1].any() | sticky | quotient[0])
        # below its top 32 bits the stochastic addend is zero, so those bits alone make the carry
        stochastic = (fraction + random)[RANDOM_BITS]
        m.d.sync += [
            carry.eq(Mux(self.settings.rounding == Rounding.STOCHASTIC, stochastic, to_even)),
            whole.eq(quotient),
            huge[0].eq(~quotient[-1] & quotient[32:].any()),
            tiny[0].eq(quotient[-1] & ~quotient[32:].all()),
            # next cycle
            rounded[0].eq(whole + carry),
            huge[1].eq(huge[0]),
            tiny[1].eq(tiny[0]),
            # next cycle
            above.eq(huge[1] | (~tiny[1] & (rounded[0] > high))),
            below.eq(tiny[1] | (~huge[1] & (rounded[0] < low))),
            rounded[1].eq(rounded[0]),
            # next cycle
            result.eq(Mux(above, high, Mux(below, low, rounded[1]))),
            self.results.payload.clipped.eq(above | below),
        ]
        return result
