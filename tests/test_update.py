"""The update by signs in integers, against plain Python integers written from the definitions; its optimiser."""

import copy
from dataclasses import replace
from fractions import Fraction

import bitfirst
import pytest
import torch
from bitfirst import data, training
from bitfirst.errors import UsageError
from bitfirst.golden import update
from bitfirst.golden.update import Rate, coefficient_of, decay_rate, masters, rate_of, step_rate, visible
from bitfirst.optim import SGD
from bitfirst.quantiser import quantise
from bitfirst.training import TrainOptions
from bitfirst_hdl.contract import numeric as contract
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

MOST_MASTER, MOST_MOMENTUM = 2**31 - 1, 2**15 - 1


# the definitions, one number at a time
def nearest_even(value: Fraction) -> int:
    return round(value)


def reference(master: int, momentum: int, sign: int, rate: Rate, decay: Rate, k: int) -> tuple[int, int]:
    loss = -(-abs(master) * decay.multiplier // 2**decay.shift)  # rounded up
    master = master - loss if master > 0 else master + loss if master < 0 else 0
    kept = abs(momentum) * k // 256
    momentum = (kept if momentum >= 0 else -kept) + 2048 * sign
    momentum = max(-MOST_MOMENTUM, min(MOST_MOMENTUM, momentum))
    step = nearest_even(Fraction(momentum * rate.multiplier * 2**17, 2**rate.shift))
    return max(-MOST_MASTER, min(MOST_MASTER, master - step)), momentum


def one(value: int, kind: torch.dtype) -> torch.Tensor:
    return torch.tensor([value], dtype=kind)


def computed(master: int, momentum: int, sign: int, rate: Rate, decay: Rate, k: int) -> tuple[int, int]:
    states = one(master, torch.int32), one(momentum, torch.int16), one(sign, torch.float32)
    m, v = update.update(*states, rate, decay, k)
    assert (m.dtype, v.dtype) == (torch.int32, torch.int16)
    return m.item(), v.item()


EDGES = st.sampled_from((-MOST_MASTER, -(2**15), -257, -1, 0, 1, 2, 255, 2**16, MOST_MASTER))
MASTERS = st.integers(-MOST_MASTER, MOST_MASTER) | EDGES
MOMENTA = st.integers(-MOST_MOMENTUM, MOST_MOMENTUM) | st.sampled_from((-MOST_MOMENTUM, -1, 0, 1, MOST_MOMENTUM))


def rates(least_shift: int) -> st.SearchStrategy[Rate]:
    return st.builds(Rate, st.integers(0, 2**16 - 1), st.integers(least_shift, 63))


@settings(max_examples=400)
@given(MASTERS, MOMENTA, st.sampled_from((-1, 0, 1)), rates(17), rates(16), st.integers(0, 255))
def test_update_follows_the_definition(master, momentum, sign, rate, decay, k):
    expected = reference(master, momentum, sign, rate, decay, k)
    assert computed(master, momentum, sign, rate, decay, k) == expected
    rates = rate.multiplier, rate.shift, decay.multiplier, decay.shift, k
    assert contract.update(master, momentum, sign, *rates) == expected


def test_everything_saturates():
    large = step_rate(0.4)
    assert computed(-MOST_MASTER, MOST_MOMENTUM, 1, large, Rate(0, 63), 255)[0] == -MOST_MASTER
    assert computed(MOST_MASTER, -MOST_MOMENTUM, -1, large, Rate(0, 63), 255) == (MOST_MASTER, -MOST_MOMENTUM)
    assert computed(0, MOST_MOMENTUM, 1, Rate(0, 63), Rate(0, 63), 255) == (0, MOST_MOMENTUM)


@pytest.mark.parametrize("master", [1, -1, 100, -5000, 2**16, -(2**20), MOST_MASTER])
def test_a_decay_of_2_to_the_minus_16_acts_on_every_weight(master):
    decay = decay_rate(2.0**-8, 2.0**-8)
    shrunk, _ = computed(master, 0, 0, Rate(0, 63), decay, 230)
    assert abs(master) - abs(shrunk) == max(1, -(-abs(master) // 2**16))
    assert shrunk * master >= 0


@pytest.mark.parametrize("decay", [2.0**-62, 1e-9, 0.99])
def test_decay_takes_nothing_beyond_zero_and_leaves_zero_alone(decay):
    for master in (1, -1, 3):
        for _ in range(3):
            master, _ = computed(master, 0, 0, Rate(0, 63), rate_of(decay), 0)
        assert master == 0
    assert computed(0, 0, 0, Rate(0, 63), rate_of(decay), 0) == (0, 0)


@pytest.mark.parametrize("start", [-MOST_MOMENTUM, -7, 9, MOST_MOMENTUM])
def test_without_signs_the_momentum_comes_to_rest(start):
    momentum, steps = start, 0
    while momentum and steps < 200:
        _, momentum = computed(0, momentum, 0, Rate(0, 63), Rate(0, 63), 230)
        steps += 1
    assert momentum == 0


def test_momentum_of_signs_stays_within_its_range():
    momentum = 0
    for _ in range(200):
        _, momentum = computed(0, momentum, 1, Rate(0, 63), Rate(0, 63), coefficient_of(0.9))
    assert 9.8 * 2048 < momentum < 10 * 2048


@given(st.floats(1e-12, 0.49))
def test_rates_have_16_significant_bits(value):
    rate = step_rate(value)
    assert 2**15 <= rate.multiplier < 2**16 and 17 <= rate.shift <= 63
    assert abs(Fraction(rate.multiplier, 2**rate.shift) - Fraction(value)) <= Fraction(value) / 2**16


def test_the_smallest_rates_and_zero():
    assert rate_of(0.0).value == 0 and rate_of(2.0**-66).value == 0
    assert rate_of(2.0**-62) == Rate(2, 63)
    assert rate_of(1 - 2.0**-16) == Rate(2**16 - 1, 16)


@pytest.mark.parametrize("value", [-0.1, 0.5, 0.49999999, float("nan"), float("inf")])
def test_rates_out_of_range_are_refused(value):
    with pytest.raises(UsageError, match="lr = "):
        step_rate(value)


@pytest.mark.parametrize("momentum", [-0.1, 0.999, 1.0, float("nan")])
def test_coefficients_out_of_range_are_refused(momentum):
    with pytest.raises(UsageError, match="momentum"):
        coefficient_of(momentum)
    assert coefficient_of(0.9) == 230 and coefficient_of(0) == 0


@given(st.lists(st.integers(-MOST_MASTER, MOST_MASTER), min_size=1, max_size=8))
def test_layers_see_the_upper_24_bits_of_the_masters(values):
    """And the 8 bits of the next forward pass are these, rounded once."""
    weights = visible(torch.tensor(values, dtype=torch.int32))
    assert [Fraction(w) for w in weights.tolist()] == [Fraction(value >> 8, 2**20) for value in values]
    quantised = quantise(weights, 8, signed=True)
    unit = Fraction(2) ** quantised.exponent
    assert quantised.values.tolist() == [round(Fraction(value >> 8, 2**20) / unit) for value in values]


def test_masters_of_weights():
    weights = torch.tensor([0.0, 1.0, -1.0, 2.0**-28, 1.5 * 2.0**-28, 8.0, -9.0])
    assert masters(weights).tolist() == [0, 2**28, -(2**28), 1, 2, MOST_MASTER, -MOST_MASTER]
    with pytest.raises(UsageError, match="NaN"):
        masters(torch.tensor([float("nan")]))


# the optimiser
def signed(values: list[float], **options: float) -> tuple[nn.Parameter, SGD]:
    parameter = nn.Parameter(torch.tensor(values))
    return parameter, SGD([{"params": [parameter], "signs": True}], **{"lr": 0.01, **options})


def test_a_hundred_steps_are_those_of_plain_integers():
    generator = torch.Generator().manual_seed(1)
    parameter, optimizer = signed(torch.randn(50, generator=generator).tolist(), weight_decay=1e-3)
    states = [(master, 0) for master in masters(parameter).tolist()]
    for step in range(100):
        optimizer.param_groups[0]["lr"] = lr = 0.01 / (1 + step)
        parameter.grad = torch.randint(-1, 2, (50,), generator=generator).float()
        rate, decay = step_rate(lr), decay_rate(lr, 1e-3)
        signs = parameter.grad.int().tolist()
        states = [reference(*state, sign, rate, decay, 230) for state, sign in zip(states, signs, strict=True)]
        optimizer.step()
    assert optimizer.state[parameter]["master"].tolist() == [master for master, _ in states]
    assert optimizer.state[parameter]["momentum_buffer"].tolist() == [momentum for _, momentum in states]
    assert torch.equal(parameter, visible(optimizer.state[parameter]["master"]))


def test_small_steps_add_up_below_what_the_layer_sees():
    parameter, optimizer = signed([0.0], lr=2.0**-26, momentum=0.0)
    for _ in range(63):
        parameter.grad = torch.ones(1)
        optimizer.step()
    assert optimizer.state[parameter]["master"].item() == -63 * 4
    assert parameter.item() == -(2.0**-20)


def test_many_backward_passes_decide_by_majority():
    parameter, optimizer = signed([0.0, 0.0, 0.0])
    parameter.grad = torch.tensor([3.0, -1.0, 0.0])
    optimizer.step()
    assert (parameter < 0).tolist() == [True, False, False] and parameter[0] == -parameter[1] - 2.0**-20
    assert parameter[2] == 0


def test_clipped_signs_move_weights_as_signs_do():
    """Clipping scales a gradient of signs, of which the optimiser takes the signs."""
    moved = []
    for clips in False, True:
        parameter, optimizer = signed([0.5, -0.5, 0.25])
        parameter.grad = torch.tensor([1.0, -1.0, 0.0])
        if clips:
            torch.nn.utils.clip_grad_norm_([parameter], 0.01)
            assert parameter.grad.abs().max() < 0.01
        optimizer.step()
        moved.append(parameter.detach().clone())
    assert torch.equal(*moved) and moved[0][0] < 0.5 and moved[0][1] > -0.5 and moved[0][2] == 0.25


def test_without_a_gradient_nothing_moves():
    parameter, optimizer = signed([0.5], weight_decay=0.1)
    parameter.grad = torch.ones(1)
    optimizer.step()
    before = parameter.item(), copy.deepcopy(optimizer.state_dict()["state"])
    parameter.grad = None
    optimizer.step()
    assert (parameter.item(), optimizer.state_dict()["state"]) == before


def test_loaded_weights_get_new_masters():
    parameter, optimizer = signed([0.5], momentum=0.0)
    parameter.grad = torch.ones(1)
    optimizer.step()
    with torch.no_grad():
        parameter.fill_(-0.25)
    optimizer.step()
    assert parameter.item() == pytest.approx(-0.26, abs=1e-6)


def test_states_go_through_checkpoints_bit_by_bit():
    def run(steps: int, resumed_after: int | None = None) -> list[int]:
        parameter, optimizer = signed([0.3, -0.7], weight_decay=1e-4)
        for step in range(steps):
            if step == resumed_after:
                state, values = copy.deepcopy(optimizer.state_dict()), parameter.tolist()
                parameter, optimizer = signed(values, weight_decay=1e-4)
                optimizer.load_state_dict(state)
            parameter.grad = torch.tensor([1.0, -1.0 if step % 3 else 1.0])
            optimizer.step()
        assert optimizer.state[parameter]["momentum_buffer"].dtype == torch.int16
        return optimizer.state[parameter]["master"].tolist()

    assert run(9, 4) == run(9)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_other_groups_are_those_of_pytorch(momentum):
    torch.manual_seed(0)
    ours, theirs = (nn.Parameter(torch.arange(6.0) / 7) for _ in range(2))
    options = {"lr": 0.1, "momentum": momentum, "weight_decay": 1e-3}
    optimizers = SGD([ours], **options), torch.optim.SGD([theirs], foreach=False, **options)
    for _ in range(5):
        ours.grad = torch.randn(6)
        theirs.grad = ours.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lr": 0.5}, "lr = 0.5"),
        ({"lr": -1.0}, "lr = -1"),
        ({"momentum": 1.0}, "momentum"),
        ({"weight_decay": -1.0}, "decay"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        signed([1.0], **options)


def test_schedulers_set_the_rate():
    parameter, optimizer = signed([0.0], lr=0.1, momentum=0.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    moved = []
    for _ in range(3):
        parameter.grad = torch.ones(1)
        before = parameter.item()
        optimizer.step()
        scheduler.step()
        moved.append(before - parameter.item())
    assert moved == pytest.approx([0.1, 0.05, 0.025], abs=1e-5)


# in training
def test_a_training_by_signs_is_resumed_to_the_identical_weights(tmp_path, monkeypatch):
    whole = data.digits()
    splits = data.Splits(
        *(data.Split(split.images[:64], split.labels[:64]) for split in (whole.train, whole.test, whole.test))
    )
    options = TrainOptions(method="psg", tau="lagged", epochs=2, out=tmp_path)
    board = bitfirst.open("model:tiny?counting=0")

    def keep_and_stop(run, options):
        training_keep(run, options)
        raise KeyboardInterrupt

    training_keep = training.keep
    with training.host_settings(1):
        uninterrupted = training.compare(options, board, splits)
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training, "keep", keep_and_stop)
            training.compare(options, board, splits, checkpoints=True)
        resumed = training.compare(replace(options, resume=True), board, splits)
        with pytest.raises(UsageError, match=r"made with beta = 0\.05, not 0\.1"):
            training.compare(replace(options, resume=True, beta=0.1), board, splits)
    assert training.weights_sha256(resumed.run.net) == training.weights_sha256(uninterrupted.run.net)
    ours, theirs = (comparison.run.journal.summary(comparison.run.net) for comparison in (resumed, uninterrupted))
    assert ours == theirs and len(ours["rows"]) == 4 * 6
