"""READ of SUMS that compares: ternary signs where a sum reaches the threshold, and the largest magnitude of all."""

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .contract.numeric import SUM_BITS
from .contract.packets import SIGN_BITS, Sign

_BITS = SUM_BITS - 1  #: of a sum without its sign


class Magnitude:
    """|P| of a sum P as `bits` + `negative`: P's bits, inverted if it is negative. So only a carry is missing."""

    def __init__(self, name: str) -> None:
        self.bits = Signal(_BITS, name=f"{name}_bits")
        self.negative = Signal(name=f"{name}_negative")

    def exceeds(self, number: Value) -> Value:
        """Whether it is larger than an unsigned number of `_BITS` bits: one comparison, with half a unit more on each
        side, which only the missing carry makes up for."""
        return Cat(self.negative, self.bits) >= Cat(C(1, 1), number)

    def take(self, bits: Value, negative: Value) -> list:
        return [self.bits.eq(bits), self.negative.eq(negative)]


class Comparator(wiring.Component):
    """Compares up to `abreast` sums a cycle with a threshold, as `contract.numeric.compare` says.

    Parameters
    ----------
    abreast : int
        A power of two, 2 at least: lanes side by side.

    Members
    -------
    threshold : In(48)
        0 .. 2**47; holds still from the cycle before the job's first sums on.
    clear : In(1)
        A job begins, before its first sums. Needs no `enable`.
    enable : In(1)
        Everything else moves only while this is high.
    totals, used, last : In
        Sums, and which of them there are: the first ones. `last`: they are the job's last (with at least one used).
    codes, valid, ends : Out
        `abreast` codes (`Sign`), the first least significant, in the order of the sums and without gaps; behind the
        job's last one zeros. `ends` marks its last codes.
    elements : Out
        How many sums the codes that are made in this cycle come from: 3 steps after they came.
    maximum, maximum_valid : Out
        The largest |P| of the job, unsigned, for one step, `maximum_latency` steps after `last`.

    Codes leave when `abreast` of them are complete, 3 steps after the sum that completes them, 4 for the last ones if
    that sum's step completes two groups. Each lane keeps the largest magnitude of its own sums; after the last, they
    are compared with each other, half of them in each of log2(`abreast`) rounds of two steps. Reset: a job begins.
    """

    def __init__(self, abreast: int) -> None:
        self.abreast = abreast
        self.lane = [Magnitude(f"lane{place}") for place in range(abreast)]  #: compared in this cycle
        self.largest = [Magnitude(f"largest{place}") for place in range(abreast)]  #: of each lane so far
        self.rounds = exact_log2(abreast)
        self.merging = Signal(2 * self.rounds)  #: even places: a round compares; the last: all are done
        super().__init__(
            {
                "threshold": In(SUM_BITS),
                "clear": In(1),
                "enable": In(1),
                "totals": In(signed(SUM_BITS)).array(abreast),
                "used": In(abreast),
                "last": In(1),
                "codes": Out(SIGN_BITS * abreast),
                "valid": Out(1),
                "ends": Out(1),
                "elements": Out(range(abreast + 1)),
                "maximum": Out(SUM_BITS),
                "maximum_valid": Out(1),
            }
        )

    @property
    def maximum_latency(self) -> int:
        """Steps from the job's last sums to `maximum`: to compare them, and the rounds."""
        return 2 * self.rounds + 2

    def pairs(self, number: int) -> list[tuple[int, int]]:
        """Lanes that take the largest of others in round `number`, and these."""
        return [(place, place + (1 << number)) for place in range(0, self.abreast, 2 << number)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        used, last = Signal(self.abreast), Signal()  # of `lane`
        compared, decides, closing = Signal(self.abreast), Signal(self.abreast), Signal()  # a step later
        negative = Signal(self.abreast)
        least, alone = self._least(m)
        with m.If(self.enable):
            m.d.sync += [
                used.eq(self.used),
                last.eq(self.last & self.used[0]),
                compared.eq(used),
                closing.eq(last),
                decides.eq(Cat(lane.exceeds(least) for lane in self.lane)),
                negative.eq(Cat(lane.negative for lane in self.lane)),
                self.merging.eq(Cat(closing, self.merging)),
            ]
            for place, (lane, total) in enumerate(zip(self.lane, self.totals, strict=True)):
                sign = total[-1]
                with m.If(self.used[place]):
                    m.d.sync += lane.take(total[:_BITS] ^ sign.replicate(_BITS), sign)
        self._keep_largest(m, used, closing)
        signs = [
            Mux(decide, Mux(minus, Sign.NEGATIVE, Sign.POSITIVE), Mux(alone, Sign.ZERO, Sign.UNRESOLVED))
            for decide, minus in zip(decides, negative, strict=True)
        ]
        self._gather(m, signs, compared, closing)
        return m

    def _least(self, m: Module) -> tuple[Signal, Signal]:
        """What a magnitude must exceed to have a sign, and whether zeros count as decided.

        A threshold of 0 decides as 1 does, but for zeros: their sign is 0.
        """
        least, alone = Signal(_BITS), Signal()
        m.d.sync += [alone.eq(self.threshold == 0), least.eq(self.threshold - ~alone)]
        return least, alone

    def _keep_largest(self, m: Module, used: Signal, closing: Signal) -> None:
        """Equal magnitudes may take each other's place."""
        steps, there = Cat(closing, self.merging), list(used)
        with m.If(self.enable):
            for number in range(self.rounds):
                with m.If(steps[2 * number]):
                    for place, other in self.pairs(number):
                        m.d.sync += self.lane[place].take(self.largest[other].bits, self.largest[other].negative)
                for place, _ in self.pairs(number):
                    there[place] = there[place] | self.merging[2 * number]
            for compares, lane, largest in zip(there, self.lane, self.largest, strict=True):
                with m.If(compares & lane.exceeds(largest.bits)):
                    m.d.sync += largest.take(lane.bits, lane.negative)
        with m.If(self.clear):
            m.d.sync += [largest.bits.eq(0) for largest in self.largest]
            m.d.sync += [largest.negative.eq(0) for largest in self.largest]
        m.d.comb += [
            self.maximum.eq(self.largest[0].bits + self.largest[0].negative),
            self.maximum_valid.eq(self.merging[-1]),
        ]

    def _gather(self, m: Module, signs: list[Value], compared: Signal, closing: Signal) -> None:
        """Codes into groups of `abreast`: what a step leaves over goes first in the next one."""
        abreast, count = self.abreast, Signal(range(self.abreast + 1))
        left = Signal(SIGN_BITS * (abreast - 1))  # codes left over
        filled, total = Signal(range(abreast)), Signal(range(2 * abreast))  # how many; with those of now
        spills = Signal()  # the job's last codes are left over
        new = Cat(Mux(there, sign, 0) for there, sign in zip(compared, signs, strict=True))
        together = Signal(SIGN_BITS * (2 * abreast - 1))
        full = total[len(filled)]
        m.d.comb += [
            count.eq(sum(compared)),
            total.eq(filled + count),
            together.eq(left | Array(new << (SIGN_BITS * place) for place in range(abreast))[filled]),
        ]
        with m.If(self.enable):
            m.d.sync += [
                self.codes.eq(together),
                self.valid.eq(full | closing | spills),
                self.ends.eq((closing & ~(full & (total[: len(filled)] != 0))) | spills),
                self.elements.eq(count),
                spills.eq(closing & full & (total[: len(filled)] != 0)),
                filled.eq(total),
                left.eq(Mux(full, together[SIGN_BITS * abreast :], together)),
            ]
            with m.If((closing & ~full) | spills):
                m.d.sync += [filled.eq(0), left.eq(0)]
        with m.If(self.clear):
            m.d.sync += [filled.eq(0), left.eq(0)]
