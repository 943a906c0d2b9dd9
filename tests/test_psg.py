"""Predictive sign gradient in the golden model, against plain Python integers written from the definitions."""

import math
from fractions import Fraction

import pytest
import torch
from bitfirst.errors import UsageError
from bitfirst.golden import psg
from bitfirst.golden.psg import Mode, Predictor, Split, State, Sums, Threshold, beta_units, decide, state_of
from hypothesis import given, settings
from hypothesis import strategies as st

EVERY_SPLIT = [
    (bits, low, signed) for signed in (False, True) for bits in range(2 + signed, 17) for low in range(1, bits - signed)
]


# the definitions, one number at a time
def reference_cut(value: int, low: int, predictor: Predictor) -> tuple[int, int]:
    unit = 2**low
    if predictor == Predictor.ROUND:
        high = math.floor(Fraction(value, unit) + Fraction(1, 2))
    elif predictor == Predictor.FLOOR:
        high = math.floor(Fraction(value, unit))
    else:
        high = math.trunc(Fraction(value, unit))
    return high, value - high * unit


def reference_threshold(real: Fraction) -> int:
    return min(2**47, math.ceil(real))


def reference_sign(p: int, total: int, tau: int) -> int:
    decided = p if abs(p) >= tau else total
    return (decided > 0) - (decided < 0)


# the split
def check_split_exhaustively(bits: int, low: int, signed: bool) -> None:
    split = Split(bits, low, signed)
    least, most = split.limits
    high, rest = split.cut(torch.arange(least, most + 1))
    expected = [reference_cut(value, low, Predictor.ROUND) for value in range(least, most + 1)]
    assert list(zip(high.tolist(), rest.tolist(), strict=True)) == expected
    top = 2 ** (split.high - signed) - 1
    assert (high.min(), high.max()) == ((-top if signed else 0), top)  # it fits, and it is used
    assert -(2 ** (low - 1)) <= rest.min() and rest.max() <= 2 ** (low - 1) - 1  # a two's complement number


@pytest.mark.parametrize(("bits", "low", "signed"), [split for split in EVERY_SPLIT if split[0] <= 10])
def test_every_number_of_narrow_splits(bits, low, signed):
    check_split_exhaustively(bits, low, signed)


def prove_split(bits: int, low: int, signed: bool) -> None:
    """Every number that may be split, against what defines its parts: there is one such pair."""
    split = Split(bits, low, signed)
    values = torch.arange(split.limits[0], split.limits[1] + 1)
    high, rest = split.cut(values)
    half, top = 2 ** (low - 1), 2 ** (split.high - signed) - 1
    assert len(values) == len(high) == len(rest) > 0
    assert torch.equal(high * 2**low + rest, values)  # the sum is exact
    assert -half <= rest.min() and rest.max() < half  # the nearest, ties upwards; a two's complement number
    assert (-top if signed else 0) <= high.min() and high.max() <= top  # no overflow


@pytest.mark.parametrize("bits", range(2, 17))
def test_every_number_of_every_split(bits):
    splits = [split for split in EVERY_SPLIT if split[0] == bits]
    assert splits
    for split in splits:
        prove_split(*split)


@given(st.sampled_from(EVERY_SPLIT), st.sampled_from(Predictor), st.data())
def test_any_number_of_any_split(shape, predictor, data):
    split = Split(*shape, predictor)
    value = data.draw(st.integers(*split.limits) | st.sampled_from(split.limits))
    high, rest = (part.item() for part in split.cut(torch.tensor([value])))
    assert (high, rest) == reference_cut(value, split.low, predictor)
    assert abs(high) < 2 ** (split.high - split.signed) + (predictor == Predictor.FLOOR)


@pytest.mark.parametrize(
    ("bits", "low", "signed", "most"), [(8, 4, False, 247), (8, 4, True, 119), (16, 6, True, 32735)]
)
def test_the_limits_of_the_presets(bits, low, signed, most):
    """One more would need one bit more in the high part, and is refused."""
    split = Split(bits, low, signed)
    assert split.limits == (-most if signed else 0, most)
    assert reference_cut(most + 1, low, Predictor.ROUND)[0] == 2 ** (split.high - signed)
    for value in (most + 1, -most - 1):
        with pytest.raises(UsageError, match=f"{most} to be split"):
            split.cut(torch.tensor([0, value]))


@pytest.mark.parametrize(
    "shape", [(8, 0, False), (8, 8, False), (8, 7, True), (1, 1, False), (2, 1, True), (17, 4, True), (8, -1, True)]
)
def test_splits_without_two_parts_are_refused(shape):
    with pytest.raises(UsageError, match="split"):
        Split(*shape)


def check_unbiased(bits: int, low: int) -> None:
    """What the first part leaves out is, on average, half a unit of the last bit at most."""
    split = Split(bits, low, True)
    values = torch.arange(split.limits[0], split.limits[1] + 1)
    assert abs(split.cut(values)[1].double().mean()) <= 0.5


@pytest.mark.parametrize(("bits", "low"), [(8, 4), (16, 6), (16, 8), (16, 10), (12, 1)])
def test_the_split_has_no_bias(bits, low):
    check_unbiased(bits, low)


def test_floor_in_place_of_round_is_noticed(monkeypatch):
    floor = Split(8, 4, True, Predictor.FLOOR).cut
    monkeypatch.setattr(Split, "cut", lambda self, values: floor(values))
    with pytest.raises(AssertionError):
        check_unbiased(8, 4)
    for check in check_split_exhaustively, prove_split:
        with pytest.raises(AssertionError):
            check(8, 4, True)


# sums
X_SPLITS = [Split(8, 4, False), Split(8, 4, True), Split(8, 1, False), Split(5, 2, True), Split(3, 1, False)]
G_SPLITS = [Split(16, 6, True), Split(16, 8, True), Split(16, 10, True), Split(7, 3, True)]
PREDICTORS = [Predictor.FLOOR, Predictor.SIGN_MAGNITUDE]
X_SPLITS += [Split(8, 4, False, predictor) for predictor in PREDICTORS]
G_SPLITS += [Split(16, 6, True, predictor) for predictor in PREDICTORS]


def operands(x: Split, g: Split, length: int, rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def one(split: Split, width: int) -> torch.Tensor:
        low, high = split.limits
        values = torch.randint(low, high + 1, (length, width), generator=generator)
        extreme = torch.rand(values.shape, generator=generator)
        return torch.where(extreme < 0.1, low, torch.where(extreme > 0.9, high, values))

    return one(x, rows), one(g, columns)


def closed(x_split: Split, g_split: Split, x: torch.Tensor, g: torch.Tensor, parts: int = 1) -> Sums:
    sums = Sums(x_split, g_split, x.shape[1], g.shape[1], len(x))
    for x_part, g_part in zip(x.tensor_split(parts), g.tensor_split(parts), strict=True):
        sums.add(x_part, g_part)
    return sums


def check_sums(x_split: Split, g_split: Split, length: int, rows: int, columns: int, parts: int, seed: int) -> None:
    """First pass, continuation and repair against integers, element by element."""
    x, g = operands(x_split, g_split, length, rows, columns, seed)
    sums = closed(x_split, g_split, x, g, parts)
    (repaired, unit), x_low, g_low = sums.prediction(repair=True), x_split.low, g_split.low
    assert unit == x_low
    for row in range(rows):
        x_high = [reference_cut(value, x_low, x_split.predictor)[0] for value in x[:, row].tolist()]
        for column in range(columns):
            g_parts = [reference_cut(value, g_low, g_split.predictor) for value in g[:, column].tolist()]
            first = sum(a * b for a, (b, _) in zip(x_high, g_parts, strict=True))
            total = sum(a * b for a, b in zip(x[:, row].tolist(), g[:, column].tolist(), strict=True))
            mean = math.floor(Fraction(sum(rest for _, rest in g_parts) * 2**16, length) + Fraction(1, 2))
            repair = Fraction(sum(x_high) * mean, 2**16)
            assert sums.first[row, column] == first
            assert (first << (x_low + g_low)) + sums.rest[row, column].item() == total == sums.total[row, column]
            assert repaired[row, column] == (first << g_low) + math.floor(repair + Fraction(1, 2))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(X_SPLITS),
    st.sampled_from(G_SPLITS),
    st.integers(1, 40),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(0, 2**32),
)
def test_sums_are_exact_however_they_are_cut(x_split, g_split, length, rows, columns, parts, seed):
    check_sums(x_split, g_split, length, rows, columns, parts, seed)


def test_sums_longer_than_float64_can_hold_at_once(monkeypatch):
    """With a bound so low that every product is summed in pieces."""
    monkeypatch.setattr(psg, "EXACT_FLOAT64", 2**26)
    check_sums(Split(8, 4, True), Split(16, 6, True), 40, 2, 3, 2, 5)


def test_a_batch_of_extremes_stays_exact():
    """K = 2**17, the longest sum of a ResNet-20 at batch 128: 41 bits and a sign."""
    x, g = torch.full((2**17, 1), 247), torch.full((2**17, 1), -32735)
    sums = closed(Split(8, 4, False), Split(16, 6, True), x, g)
    assert sums.total.item() == -(2**17) * 247 * 32735
    assert sums.first.item() == -(2**17) * 15 * 511


def check_unfinished_sums_are_refused() -> None:
    x, g = operands(*(shape := (Split(8, 4, False), Split(16, 6, True))), 10, 2, 2, 1)
    sums = Sums(*shape, 2, 2, 10)
    sums.add(x[:9], g[:9])
    for read in (lambda: sums.first, lambda: sums.total, lambda: decide(sums, Threshold())):
        try:
            read()
        except UsageError as error:
            assert "unfinished" in str(error)
        else:
            raise AssertionError("an unfinished sum was given a sign")
    sums.add(x[9:], g[9:])
    assert sums.total.shape == (2, 2)
    with pytest.raises(UsageError, match="closed"):
        sums.add(x[:1], g[:1])


def test_unfinished_sums_are_refused():
    check_unfinished_sums_are_refused()


def test_the_sign_of_a_partial_sum_is_noticed(monkeypatch):
    monkeypatch.setattr(Sums, "_closed", lambda self, value: value)
    with pytest.raises(AssertionError):
        check_unfinished_sums_are_refused()


def test_a_sum_that_leaves_48_bits_is_refused():
    x, g = (torch.full((2**17, 1), value) for value in (65503, 32735))
    sums = closed(Split(16, 6, False), Split(16, 6, True), x, g)
    with pytest.raises(UsageError, match="48 bits"):
        _ = sums.total


def test_the_bias_of_floor_decides_signs_that_rounding_gets_right():
    """x is never negative, as behind a ReLU: what floor leaves out of g then adds up over a long sum."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(20_000, 8, generator=generator).clamp(0, 3).mul(80).round()
    g = torch.randn(20_000, 32, generator=generator).clamp(-5, 5).mul(400).round()
    wrong = {}
    for predictor in Predictor:
        sums = closed(Split(8, 4, False, predictor), Split(16, 6, True, predictor), x, g)
        wrong[predictor] = float((decide(sums, Threshold()).signs != sums.total.sign()).double().mean())
    assert wrong[Predictor.ROUND] < 0.15 and wrong[Predictor.FLOOR] > 0.3, wrong


# thresholds
def predictions(*values: int) -> torch.Tensor:
    return torch.tensor([values])


@settings(max_examples=300)
@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=5), st.integers(0, 4096), st.integers(-90, 90))
def test_exact_threshold(values, beta, exponent):
    tau = Threshold(Mode.EXACT, beta).integer(predictions(*values), exponent)
    real = Fraction(beta, 4096) * max(abs(value) for value in values)
    assert tau == (max(1, reference_threshold(real)) if beta else 0)


@settings(max_examples=300)
@given(st.integers(1, 2**40), st.integers(1, 4096), st.integers(-90, 90), st.integers(-31, 31))
def test_lagged_threshold_is_a_shift_rounded_up(maximum, beta, exponent, change):
    tau = Threshold(Mode.LAGGED, beta).integer(predictions(5), exponent, State(maximum, exponent + change))
    assert tau == reference_threshold(Fraction(beta, 4096) * maximum * Fraction(2) ** change)


@pytest.mark.parametrize(
    "state",
    [None, State(0, 3), State(100, 3 + 32), State(100, 3 - 32)],
    ids=["first use", "all-zero step", "far larger scale", "far smaller scale"],
)
def test_a_missing_or_stale_state_falls_back_to_exact(state):
    p = predictions(-4096, 7)
    assert Threshold(Mode.LAGGED, 205).integer(p, 3, state) == Threshold(Mode.EXACT, 205).integer(p, 3) == 205


@settings(max_examples=300)
@given(st.floats(0, 2.0**100, width=32), st.integers(-60, 60))
def test_constant_threshold_in_real_units(constant, exponent):
    tau = Threshold(Mode.CONSTANT, constant=constant).integer(predictions(1), exponent)
    assert tau == reference_threshold(Fraction(constant) / Fraction(2) ** exponent)


def test_a_constant_has_24_significant_bits():
    assert Threshold(Mode.CONSTANT, constant=2**24 + 1).integer(predictions(1), 0) == 2**24


@pytest.mark.parametrize(("beta", "units"), [(0, 0), (0.02, 82), (0.05, 205), (0.1, 410), (1, 4096), (1.5 / 4096, 2)])
def test_beta_in_units(beta, units):
    assert beta_units(beta) == units


@pytest.mark.parametrize("beta", [-0.01, 1.01, math.nan, 1e-5])
def test_betas_out_of_range_are_refused(beta):
    with pytest.raises(UsageError, match="beta"):
        beta_units(beta)


@pytest.mark.parametrize("fields", [{"beta": -1}, {"beta": 4097}, {"constant": -1.0}, {"constant": math.inf}])
def test_thresholds_out_of_range_are_refused(fields):
    with pytest.raises(UsageError):
        Threshold(**fields)


# decisions
def given_sums(first: list[int], total: list[int]) -> Sums:
    """Closed sums with these values, of one bit each below the cut."""
    rest = torch.tensor([total]) - (torch.tensor([first]) << 2)
    none = {"x_high": torch.zeros(1, dtype=torch.int64), "g_rest": torch.zeros(len(first), dtype=torch.int64)}
    parts = {"first": torch.tensor([first]), "rest": rest, **none}
    return Sums.of(Split(8, 1, False), Split(16, 1, True), 1, parts)


def check_decisions() -> None:
    """At tau exactly, one below, zero, and a residual that turns the sign round or cancels it."""
    first = [40, -40, 4, -4, 3, -3, 3, 0, 0, 1]
    total = [9, 9, -9, 9, -9, 9, 0, 5, 0, -7]
    decision = decide(given_sums(first, total), Threshold(Mode.EXACT, 410))
    assert decision.threshold == 5  # 410 * 40 / 4096 = 4.004
    decision = decide(given_sums(first, total), Threshold(Mode.CONSTANT, constant=16.0))  # 4 in units of 4
    assert decision.threshold == 4
    assert decision.resolved.tolist()[0] == [True] * 4 + [False] * 6
    assert decision.signs.tolist()[0] == [1, -1, 1, -1, -1, 1, 0, 1, 0, -1]
    assert decision.signs.tolist()[0] == [reference_sign(p, t, 4) for p, t in zip(first, total, strict=True)]
    assert decision.state == State(40, 2)


def test_decisions():
    check_decisions()


def test_greater_in_place_of_greater_or_equal_is_noticed(monkeypatch):
    integer = Threshold.integer
    monkeypatch.setattr(Threshold, "integer", lambda *args: integer(*args) + 1)
    with pytest.raises(AssertionError):
        check_decisions()


def test_beta_0_is_the_predictor_alone():
    decision = decide(given_sums([3, 0, -1], [-3, 8, 4]), Threshold())
    assert decision.resolved.all() and decision.signs.tolist() == [[1, 0, -1]]
    assert (decision.done, decision.saved) == (3 * 7 * 15, 3 * (8 * 16 - 7 * 15))


def test_predictions_of_nothing_but_zeros_are_finished():
    decision = decide(given_sums([0, 0], [-3, 0]), Threshold(Mode.EXACT, 205))
    assert not decision.resolved.any() and decision.signs.tolist() == [[-1, 0]]


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("beta", [0, 205])
def test_all_zero_tensors_and_single_elements_are_legal(mode, beta):
    sums = closed(Split(8, 4, False), Split(16, 6, True), torch.zeros(1, 1), torch.zeros(1, 1))
    decision = decide(sums, Threshold(mode, beta, 0.5 * beta), repair=beta == 0)
    assert decision.signs.tolist() == [[0]] and decision.state.maximum == 0
    assert decision.done == (128 if beta else 40)


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(X_SPLITS),
    st.sampled_from(G_SPLITS),
    st.sampled_from(Mode),
    st.sampled_from([0, 82, 205, 410, 4096]),
    st.booleans(),
    st.integers(0, 2**32),
)
def test_decisions_follow_the_definition(x_split, g_split, mode, beta, repair, seed):
    x, g = operands(x_split, g_split, 20, 3, 4, seed)
    sums = closed(x_split, g_split, x, g, 3)
    prediction, unit = sums.prediction(repair)
    state = State(int(prediction.abs().max()) // 3 + 1, unit - 2)
    threshold = Threshold(mode, beta, 2.0**unit * 50)
    decision = decide(sums, threshold, 0, state, repair)
    for p, total, sign, resolved in zip(
        prediction.flatten().tolist(),
        (x.T.long() @ g.long()).flatten().tolist(),
        decision.signs.flatten().tolist(),
        decision.resolved.flatten().tolist(),
        strict=True,
    ):
        assert resolved == (abs(p) >= decision.threshold)
        assert sign == reference_sign(p, total, decision.threshold)
    whole, first = x_split.bits * g_split.bits, x_split.high * g_split.high
    left = int((~decision.resolved).sum())
    assert decision.done == 20 * (12 * first + left * (whole - first))
    assert decision.done + decision.saved == 20 * 12 * whole
    assert decision.state == state_of(prediction, unit)


def test_zero_gradients_have_no_sign_whatever_is_resolved():
    sums = closed(Split(8, 4, False), Split(16, 6, True), torch.tensor([[3], [3]]), torch.tensor([[5], [-5]]))
    for beta in (0, 4096):
        assert decide(sums, Threshold(beta=beta)).signs.item() == 0
