"""Each sum that is compared gets its sign by the definition, in its place; the largest magnitude is that of all."""

from types import ModuleType

from amaranth.asserts import AnyConst
from amaranth.hdl import Array, Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, Value, signed
from amaranth.lib.wiring import In
from bitfirst_hdl import compare
from bitfirst_hdl.contract.numeric import SUM_BITS
from bitfirst_hdl.contract.packets import SIGN_BITS, Sign

from .prove import Property, altered

INDEX_BITS = 5
_SUM_BITS = "from .contract.numeric import SUM_BITS\n"
_GATHERED = "        self._gather(m, signs, compared, closing)\n"
_LEFT = "        spills = Signal()  # the job's last codes are left over\n"


def compare_seen_through(*changes: tuple[str, str], sum_bits: int = SUM_BITS) -> ModuleType:
    """`bitfirst_hdl.compare` with `changes` in its source, and narrower sums; the comparator shows its registers."""
    narrow = _SUM_BITS, f"SUM_BITS = {sum_bits}\n"
    now = "        self.now = used, last, compared, closing, Cat(signs), least, alone\n"
    seen = (_GATHERED, now + _GATHERED), (_LEFT, f"{_LEFT}        self.gathered = left, filled, spills\n")
    return altered(compare, narrow, *changes, *seen)


def magnitude_of(total: Value) -> Value:
    """|P|, by its definition."""
    return Mux(total < 0, -total, total)[: len(total)]


def sign_of(total: Value, threshold: Value) -> Value:
    """What READ says of a sum, by its definition."""
    sign = Mux(total == 0, Sign.ZERO, Mux(total > 0, Sign.POSITIVE, Sign.NEGATIVE))
    return Mux(magnitude_of(total) >= threshold, sign, Sign.UNRESOLVED)


def largest_of(values: list[Value]) -> Value:
    if len(values) == 1:
        return values[0]
    half = len(values) // 2
    one, other = largest_of(values[:half]), largest_of(values[half:])
    return Mux(one > other, one, other)


class Comparison(Property):
    """One job after the other, any sums in any steps, any threshold; the sum of one index in `2**INDEX_BITS` is
    followed, whichever.

    `since` counts steps from the job's last sums on: 1 when the lanes hold them. `largest`: their magnitude, too.
    """

    def __init__(self, module: ModuleType, abreast: int, largest: bool = True) -> None:
        self.comparator, self.abreast = module.Comparator(abreast), abreast
        self.follows_largest = largest
        self.over, self.bits = self.comparator.maximum_latency + 1, module.SUM_BITS
        totals = {f"total{place}": In(signed(self.bits)) for place in range(abreast)}
        super().__init__(totals | {"count": In(range(abreast + 1)), "last": In(1), "enable": In(1), "clear": In(1)})

    def state(self, m: Module) -> None:
        comparator, abreast = self.comparator, self.abreast
        m.submodules.comparator = Fragment.get(comparator, None)
        totals = [getattr(self, f"total{place}") for place in range(abreast)]
        threshold, since, settled = Signal(self.bits), Signal(range(self.over + 1)), Signal(2)
        m.d.sync += settled.eq(Cat(1, settled))
        m.d.comb += [
            *(to.eq(total) for to, total in zip(comparator.totals, totals, strict=True)),
            threshold.eq(AnyConst(self.bits)),
            comparator.threshold.eq(threshold),
            comparator.used.eq(Cat(self.count > place for place in range(abreast))),
            comparator.last.eq(self.last),
            comparator.enable.eq(self.enable),
            comparator.clear.eq(self.clear),
            Assume(threshold <= 2 ** (self.bits - 1)),
            Assume((self.count == 0) | ((since == 0) & ~self.clear & settled[0])),
            Assume(self.count <= abreast),
            Assume(~self.clear | (since == self.over)),
        ]
        ends = self.last & (self.count != 0)
        with m.If(self.clear):
            m.d.sync += since.eq(0)
        with m.Elif(self.enable & Mux(since == 0, ends, since != self.over)):
            m.d.sync += since.eq(since + 1)
        taken = Mux(self.enable, self.count, 0)
        self._follow(m, totals, threshold, taken, since, settled)
        if self.follows_largest:
            self._largest(m, totals, taken, since)

    def _follow(self, m: Module, totals: list, threshold: Signal, taken: Value, since: Signal, settled: Signal) -> None:
        comparator, abreast = self.comparator, self.abreast
        came, given, chosen, counted = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS)
        held, ahead, place, value = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(SIGN_BITS)
        m.d.comb += [
            chosen.eq(AnyConst(INDEX_BITS)),
            held.eq(came - given),
            ahead.eq(chosen - given),
            place.eq(chosen - came),
        ]
        with m.If(place < taken):
            m.d.sync += value.eq(Array(sign_of(total, threshold) for total in totals)[place])
        with m.If(self.clear):
            m.d.sync += [came.eq(0), given.eq(0), counted.eq(0)]
        with m.Else():
            m.d.sync += came.eq(came + taken)
            with m.If(self.enable):
                m.d.sync += [
                    given.eq(given + Mux(comparator.valid, abreast, 0)),
                    counted.eq(counted + comparator.elements),
                ]
        codes = [comparator.codes.word_select(index, SIGN_BITS) for index in range(abreast)]
        with m.If(comparator.valid):
            for index, code in enumerate(codes):
                with m.If((ahead == index) & (ahead < held)):
                    m.d.comb += Assert(code == value, "sign")
                with m.If(held <= index):
                    m.d.comb += Assert(code == 0, "behind the last")
            m.d.comb += Assert(comparator.ends == ((since > 2) & (held <= abreast)), "ends")
        with m.If(since == self.over):
            m.d.comb += [Assert(given - came < abreast, "all signs"), Assert(counted == came, "all counted")]
        m.d.comb += [
            Cover(comparator.valid & comparator.ends & (since == 4) & (value == Sign.NEGATIVE)),
            Cover(comparator.valid & (ahead == 2) & (value == Sign.UNRESOLVED)),
        ]
        self._look_inside(m, threshold, since, settled, held, ahead, value)
        used, _, compared, *_ = comparator.now
        waiting = (came - counted)[:INDEX_BITS]
        m.d.comb += Assert(waiting == comparator.elements + sum(compared) + sum(used))

    def _look_inside(self, m: Module, threshold, since, settled, held, ahead, value) -> None:
        comparator, abreast = self.comparator, self.abreast
        used, last, compared, closing, signs, least, alone = comparator.now
        left, filled, spills = comparator.gathered
        in_lanes, in_signs = Signal(range(abreast + 1)), Signal(range(abreast + 1))
        offsets = [Signal(INDEX_BITS + 1, name=f"offset{stage}") for stage in range(3)]
        m.d.comb += [
            in_lanes.eq(sum(used)),
            in_signs.eq(sum(compared)),
            offsets[0].eq(ahead - Mux(comparator.valid, abreast, 0)),
            offsets[1].eq(offsets[0] - filled),
            offsets[2].eq(offsets[1] - in_signs),
            Assert((used & (used + 1)) == 0),
            Assert((compared & (compared + 1)) == 0),
            Assert(since <= self.over),
            Assert(last == (since == 1)),
            Assert(closing == (since == 2)),
            Assert(comparator.merging == Cat(since == place + 3 for place in range(2 * comparator.rounds))),
            Assert(~spills | (since == 3)),
            Assert((since != 1) | used[0]),
            Assert((since != 2) | compared[0]),
            Assert((since < 2) | (used == 0)),
            Assert((since < 3) | (compared == 0)),
            Assert((since < 4) | ((filled == 0) & (left == 0))),
            Assert((since < 5) | ~comparator.valid),
            Assert(comparator.valid | ~comparator.ends),
            Assert(~settled[1] | settled[0]),
            Assert(settled[1] | ((since == 0) & (held == 0) & ~comparator.valid & (filled == 0))),
            Assert(~settled[0] | (alone == (threshold == 0))),
            Assert(~settled[1] | (least == Mux(alone, 0, threshold - 1))),
        ]
        whole = Mux(comparator.valid, abreast, 0)
        with m.If(since < 3):
            m.d.comb += Assert(held == whole + filled + in_signs + in_lanes)
        with m.Elif(since == 3):
            m.d.comb += [
                Assert(comparator.valid),
                Assert(Mux(spills, (held == abreast + filled) & (filled != 0), (held - 1)[:INDEX_BITS] < abreast)),
                Assert(spills | ((filled == 0) & (left == 0))),
            ]
        with m.Elif(comparator.valid):
            m.d.comb += Assert((held != 0) & (held < abreast))
        with m.Else():
            m.d.comb += Assert((-held)[:INDEX_BITS] < abreast)
        for index in range(abreast - 1):
            code = left.word_select(index, SIGN_BITS)
            with m.If(filled <= index):
                m.d.comb += Assert(code == 0)
            with m.If((ahead < held) & (offsets[0] == index) & (filled > index)):
                m.d.comb += Assert(code == value)
        for index, lane in enumerate(comparator.lane):
            with m.If((ahead < held) & (offsets[1] == index) & (in_signs > index)):
                m.d.comb += Assert(signs.word_select(index, SIGN_BITS) == value)
            total = Cat(lane.bits ^ lane.negative.replicate(self.bits - 1), lane.negative).as_signed()
            with m.If((ahead < held) & (offsets[2] == index) & (in_lanes > index)):
                m.d.comb += Assert(sign_of(total, threshold) == value)

    def _largest(self, m: Module, totals: list, taken: Value, since: Signal) -> None:
        comparator = self.comparator
        largest = Signal(self.bits)
        now = [Mux(taken > place, magnitude_of(total), 0) for place, total in enumerate(totals)]
        with m.If(self.clear):
            m.d.sync += largest.eq(0)
        with m.Else():
            m.d.sync += largest.eq(largest_of([largest, *now]))
        with m.If(comparator.maximum_valid):
            m.d.comb += Assert(comparator.maximum == largest, "largest")
        m.d.comb += [
            Assert(comparator.maximum_valid == (since == self.over - 1), "largest in time"),
            Cover(comparator.maximum_valid & (comparator.maximum == 2 ** (self.bits - 1))),
        ]
        used, *_ = comparator.now
        kept = [(one.bits + one.negative)[: self.bits] for one in comparator.largest]
        lanes = [
            Mux(there, (lane.bits + lane.negative)[: self.bits], 0)
            for there, lane in zip(used, comparator.lane, strict=True)
        ]
        m.d.comb += Assert(largest_of([*kept, *lanes]) == largest)
        for number in range(comparator.rounds):
            for place, other in comparator.pairs(number):
                lane, its = comparator.lane[place], comparator.largest[other]
                with m.If(comparator.merging[2 * number]):
                    m.d.comb += [Assert(lane.bits == its.bits), Assert(lane.negative == its.negative)]
                with m.If(comparator.merging[2 * number + 1 :].any()):
                    m.d.comb += Assert(kept[place] >= kept[other])
