"""The units that the array is measured against: what they compute, when, and that carry cells compute the same."""

from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.sim import Simulator
from bitfirst_hdl import baselines
from bitfirst_hdl.baselines import FixedMac, FusedUnit, PopcountElement, Width, arrange
from bitfirst_sim.formal.adding import SameBehindPairs, SamePairs, SameUnit
from bitfirst_sim.formal.prove import prove, search

BITS = 32
PASSES = 12


def inputs_of(low: int, high: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Numbers of which a fifth are extreme."""
    numbers = rng.integers(low, high + 1, shape)
    extreme = rng.random(shape)
    return np.where(extreme < 0.1, low, np.where(extreme > 0.9, high, numbers))


class Step:
    """Operands of one cycle, by member, and what they mean at the accumulator."""

    def __init__(self, operands: dict, first: bool, last: bool, double: bool = False, negative: bool = False) -> None:
        self.operands, self.first, self.last, self.double, self.negative = operands, first, last, double, negative


def shadows(unit, steps: Iterable[Step], constant: dict[str, int], idle: float, rng: np.random.Generator) -> list[int]:
    """What the shadow register holds a cycle after each step that is `last` has come to the accumulator."""
    script: dict[int, Step] = {}
    cycle = 0
    for step in steps:
        while rng.random() < idle:
            cycle += 1
        script[cycle], cycle = step, cycle + 1

    async def bench(ctx) -> None:
        for name, value in constant.items():
            ctx.set(getattr(unit, name), value)
        for tick in range(cycle + unit.latency + 2):
            operands = script[tick].operands if tick in script else {}
            for name, value in operands.items():
                member = getattr(unit, name)
                pairs = zip(member, value, strict=True) if isinstance(value, list) else [(member, value)]
                for signal, number in pairs:
                    ctx.set(signal, number)
            arrived, coming = script.get(tick - unit.latency), script.get(tick - unit.latency + 1)
            for name in "double", "negative":
                ctx.set(getattr(unit.control, name), bool(arrived and getattr(arrived, name)))
            ctx.set(unit.control.valid, arrived is not None)
            ctx.set(unit.control.load, bool(arrived and arrived.last))
            ctx.set(unit.control.next_first, bool(coming and coming.first))
            ctx.set(unit.control.next_negative, bool(coming and coming.negative))
            await ctx.tick()
            if arrived and arrived.last:
                value = ctx.get(unit.shadow)
                found.append(value - (value >> (BITS - 1) << BITS))

    found: list[int] = []
    simulator = Simulator(unit)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()
    return found


def passes(terms: list[dict], lengths: list[int]) -> list[Step]:
    steps = []
    for length in lengths:
        taken, terms = terms[:length], terms[length:]
        steps += [Step(term, n == 0, n == length - 1) for n, term in enumerate(taken)]
    return steps


def sums(products: np.ndarray, lengths: list[int]) -> list[int]:
    return [int(part.sum()) for part in np.split(products, np.cumsum(lengths)[:-1])]


def check_fixed(bits: int, idle: float, dsp: bool = False) -> None:
    rng = np.random.default_rng(bits)
    lengths = rng.integers(1, 9, PASSES).tolist()
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    x, y = inputs_of(low, high, (2, sum(lengths)), rng) >> (bits == 16)  # so that eight products fit 32 bits
    terms = [{"a": int(a), "b": int(b)} for a, b in zip(x, y, strict=True)]
    found = shadows(FixedMac(bits, BITS, dsp), passes(terms, lengths), {}, idle, rng)
    assert found == sums(x * y, lengths) and len(found) == PASSES


def check_fused(a_width: Width, b_width: Width, a_signed: bool, b_signed: bool) -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 9, PASSES).tolist()
    count = 8 // a_width.bits * (8 // b_width.bits)
    x, y = (
        inputs_of(-(2 ** (bits - 1)) * is_signed, 2 ** (bits - is_signed) - 1, (sum(lengths), count), rng)
        for bits, is_signed in ((a_width.bits, a_signed), (b_width.bits, b_signed))
    )
    terms = []
    for row_x, row_y in zip(x.tolist(), y.tolist(), strict=True):
        a, b = arrange(a_width, b_width, list(zip(row_x, row_y, strict=True)))
        terms.append({"a": a, "b": b})
    constant = {"a_width": a_width, "b_width": b_width, "a_signed": a_signed, "b_signed": b_signed}
    found = shadows(FusedUnit(BITS), passes(terms, lengths), constant, 0.2, rng)
    assert found == sums((x * y).sum(1), lengths) and len(found) == PASSES


@pytest.mark.parametrize("dsp", [False, True])
@pytest.mark.parametrize("idle", [0, 0.4])
@pytest.mark.parametrize("bits", [8, 16])
def test_fixed(bits: int, idle: float, dsp: bool) -> None:
    check_fixed(bits, idle, dsp)


@pytest.mark.parametrize("signs", [(0, 0), (0, 1), (1, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("b_width", Width, ids=str)
@pytest.mark.parametrize("a_width", Width, ids=str)
def test_fused(a_width: Width, b_width: Width, signs: tuple[int, int]) -> None:
    check_fused(a_width, b_width, *map(bool, signs))


def test_every_product_of_a_brick() -> None:
    """Of 2 x 2 bits, signed or not: one brick's digits against the integers, the others at 0."""
    rng = np.random.default_rng(0)
    for a_signed in False, True:
        for b_signed in False, True:
            x, y = (values.ravel() - 2 * s for values, s in zip(np.mgrid[:4, :4], (a_signed, b_signed), strict=True))
            terms = []
            for pair in zip(x.tolist(), y.tolist(), strict=True):
                a, b = arrange(Width.TWO, Width.TWO, [pair, *[(0, 0)] * 15])
                terms.append({"a": a, "b": b})
            constant = {"a_width": 0, "b_width": 0, "a_signed": a_signed, "b_signed": b_signed}
            assert shadows(FusedUnit(BITS), passes(terms, [1] * 16), constant, 0, rng) == (x * y).tolist()


def test_popcount() -> None:
    """Whole products of signed numbers of 3 x 4 bits, plane pair by plane pair in the order of their weight."""
    rng = np.random.default_rng(3)
    a_bits, b_bits, lanes = 3, 4, 24
    x = inputs_of(-(2 ** (a_bits - 1)), 2 ** (a_bits - 1) - 1, (PASSES, lanes), rng)
    y = inputs_of(-(2 ** (b_bits - 1)), 2 ** (b_bits - 1) - 1, (PASSES, lanes), rng)
    order = sorted(((i, j) for i in range(a_bits) for j in range(b_bits)), key=sum, reverse=True)
    steps = []
    for row_x, row_y in zip(x, y, strict=True):
        weight = sum(order[0])
        for n, (i, j) in enumerate(order):
            planes = {
                name: sum(int(v >> p & 1) << k for k, v in enumerate(row))
                for name, row, p in (("a", row_x, i), ("b", row_y, j))
            }
            negative = (i == a_bits - 1) != (j == b_bits - 1)
            steps.append(Step(planes, n == 0, n == len(order) - 1, i + j < weight, negative))
            weight = i + j
    found = shadows(PopcountElement(lanes, BITS), steps, {}, 0.2, rng)
    assert found == (x * y).sum(1).tolist()


def test_a_brick_that_forgets_a_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "_digit", lambda number: number & 3)
    check_fused(Width.FOUR, Width.EIGHT, False, False)
    with pytest.raises(AssertionError):
        check_fused(Width.FOUR, Width.EIGHT, True, False)


def test_a_row_that_counts_with_the_wrong_sign_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = FixedMac._pairs
    monkeypatch.setattr(FixedMac, "_pairs", lambda self: [*whole(self)[:-1], -whole(self)[-1]])
    with pytest.raises(AssertionError):
        check_fixed(8, 0)


# carry cells
def fixed(module: ModuleType) -> FixedMac:
    return module.FixedMac(8, 20)


def wide(module: ModuleType) -> FixedMac:
    return module.FixedMac(16, 36)


def fused(module: ModuleType) -> FusedUnit:
    return module.FusedUnit(20)


@pytest.mark.parametrize("make", [fixed, fused])
def test_carry_cells_are_the_same(make: Callable, tmp_path: Path) -> None:
    prove(SameUnit(make), tmp_path, induction=2, cover_steps=6)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [SamePairs, SameBehindPairs])
def test_carry_cells_of_16_bits_are_the_same(kind: type[SameUnit], tmp_path: Path) -> None:
    prove(kind(wide), tmp_path, induction=2, cover_steps=6)


@pytest.mark.parametrize(
    ("make", "old", "new"),
    [
        (fixed, '"last_rows", sign)', '"last_rows")'),  # complement without its 1
        (fixed, "a[min(place - 1, top)], b[n + 1]", "a[min(place, top)], b[n + 1]"),  # rows not shifted
        (fixed, "high[max(place - shift, 0)]", "high[max(place - shift - 1, 0)]"),
        (fused, "narrow[place], high[place - shift])", "high[place - shift], narrow[place])"),  # widths exchanged
        (fused, "ecp5.LOWEST_HORNER, ", "ecp5.SUM, "),  # low bits of what is shifted
    ],
)
def test_other_carry_cells_are_caught(make: Callable, old: str, new: str, tmp_path: Path) -> None:
    verdict = search(SameUnit(make, (old, new)), tmp_path, 6)
    assert not verdict.holds and "Assert failed in property" in verdict.log
