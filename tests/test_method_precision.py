"""Methods that change precision in training: PFQ, stages by hand, cycles, and their controls."""

import bitfirst
import pytest
import torch
from bitfirst.errors import UsageError
from bitfirst.methods import CPT, PFQ, PSG, SCHEDULES, ByHand, Compose, Method, Plan, SignSGD
from bitfirst.methods.pfq import Indicator
from bitfirst.methods.precision import Pair, Precision, stages_of
from bitfirst.nn import Bits, convert
from method_runs import few, optimizer_of, perceptron, total
from reference_device import ReferenceDevice
from torch import nn
from work import PERCEPTRON, Array, bit_macs

# the indicator


def stages_by_definition(losses: list[float], epsilon: float, alpha: float) -> list[int]:
    """Numbers of the losses at which a stage ends, as ALGORITHMS define it: S is the mean of the first ten losses."""
    ends, begin = [], 0
    for number, loss in enumerate(losses):
        scale = sum(losses[: min(number + 1, 10)]) / min(number + 1, 10)
        if number - begin < 4:
            continue
        if all(abs(loss - losses[number - k]) / scale <= epsilon for k in (1, 2, 3, 4)):
            ends.append(number)
            begin, epsilon = number + 1, epsilon * alpha
    return ends


@pytest.mark.parametrize("seed", range(20))
def test_the_indicator_is_the_definition(seed):
    generator = torch.Generator().manual_seed(seed)
    falling = torch.exp(-torch.arange(60) / 8) + 0.1
    losses = (falling + 0.004 * torch.randn(60, generator=generator)).tolist()
    indicator = Indicator(0.05, 0.8)
    ends = [number for number, loss in enumerate(losses) if indicator.fires(loss)]
    assert ends == stages_by_definition(losses, 0.05, 0.8) and len(ends) >= 2
    assert indicator.epsilon == pytest.approx(0.05 * 0.8 ** len(ends))


def test_a_flat_loss_ends_a_stage_every_five_losses_and_a_falling_one_never():
    flat, steep = Indicator(0.05, 0.3), Indicator(0.05, 0.3)
    assert [flat.fires(1.0) for _ in range(10)] == 2 * [False, False, False, False, True]
    assert not any(steep.fires(10.0 - number) for number in range(10))
    assert Indicator(0.05, 0.3, window=2).fires(0.0) is False  # a scale of 0 divides nothing


@pytest.mark.parametrize("other", [{"window": 4}, {"scale_over": 1}, {"alpha": 1.0}])
def test_other_indicators_are_found(other):
    losses = (torch.exp(-torch.arange(60) / 8) + 0.1).tolist()
    indicator = Indicator(**{"epsilon": 0.05, "alpha": 0.5, **other})
    ends = [number for number, loss in enumerate(losses) if indicator.fires(loss)]
    assert ends != stages_by_definition(losses, 0.05, 0.5)


# stages on the device


def run(method: Method, device, count: int = 4, epochs: int = 3) -> nn.Module:
    method.plan(Plan.of(count * epochs))
    net = perceptron(method, device)
    bitfirst.train(net, few(count), optimizer_of(net, method), method, epochs=epochs)
    return net


def work_of(changes: list[tuple[int, int, int]], steps: int) -> tuple[int, int]:
    """Bit-MACs and cycles of `steps` steps by the widths in the log: (from which step, forward, backward)."""
    macs = cycles = 0
    for step in range(steps):
        _, forward, backward = max(change for change in changes if change[0] <= step)
        widths = (forward, forward, backward)
        macs += sum(bit_macs(layer, 8, widths) for layer in PERCEPTRON)
        cycles += sum(layer.array_steps(8, widths, Array()) for layer in PERCEPTRON)
    return macs, cycles


def check_work(method: Precision, url: str, count: int = 4, epochs: int = 3) -> None:
    with bitfirst.open(url) as device:
        run(method, device, count, epochs)
        found = device.bit_macs, total(device, "array_steps")
    assert len(method.changes) > 1
    assert found == work_of(method.changes, count * epochs)
    assert found < work_of([(0, 8, 16)], count * epochs)


def automatic(kind: type[PFQ] = PFQ) -> PFQ:
    return kind(SCHEDULES[3], epsilon=9.0, alpha=0.9, every=1, window=3)


@pytest.mark.parametrize("url", ["model:tiny", "rtl:tiny"])
def test_fewer_bits_are_fewer_cycles(url):
    method = automatic()
    check_work(method, url)
    assert method.changes == [(0, 3, 6), (3, 4, 8), (6, 6, 12), (9, 8, 16)]


class Pretending(PFQ):
    """Broken: says what it does not do."""

    def _apply(self) -> None:
        for layer in self._layers:
            layer.bits = Bits(8, 8, 16)


def test_precision_that_is_only_claimed_is_found():
    with pytest.raises(AssertionError):
        check_work(automatic(Pretending), "model:tiny")


def test_losses_may_be_those_of_epochs_or_of_iterations():
    by_epoch = PFQ(epsilon=9.0, alpha=0.9, window=2)
    run(by_epoch, ReferenceDevice(), count=3, epochs=5)
    assert by_epoch.changes == [(0, 3, 6), (6, 4, 6), (12, 6, 8)]
    by_iterations = PFQ(epsilon=9.0, alpha=0.9, window=2, every=4)
    run(by_iterations, ReferenceDevice(), count=3, epochs=5)  # 15 steps, 3 means
    assert by_iterations.changes == [(0, 3, 6), (8, 4, 6)]
    assert by_iterations.summary()["stages_visited"] == 2


def test_the_layers_have_the_widths_of_their_stage():
    method = PFQ(epsilon=9.0, window=2)
    net = run(method, ReferenceDevice(), count=1, epochs=2)
    assert method.stage == 1 and net[1].bits == Bits(4, 4, 6)
    assert run(PFQ(), ReferenceDevice(), epochs=1)[3].bits == Bits(3, 3, 6)


# schedules


def test_the_named_schedules_are_those_of_the_paper():
    assert stages_of(SCHEDULES[0]) == (Pair(3, 6), Pair(4, 6), Pair(6, 8), Pair(8, 8))
    assert [stages_of(one)[-1] for one in SCHEDULES] == [Pair(8, 8), Pair(6, 8), Pair(8, 12), Pair(8, 16)]


def bits_of(method: Method, steps: int) -> list[Pair]:
    """Widths at each step, by a loop without a network."""
    method.plan(Plan.of(steps))
    found = []
    for _ in range(steps):
        found.append(method.pair)
        method.step(None)
    return found


def test_stages_by_hand_begin_where_they_are_told():
    pairs = bits_of(ByHand(at=(0.5, 0.75, 0.9)), 20)
    assert [pairs.count(pair) for pair in (Pair(3, 6), Pair(4, 6), Pair(6, 8), Pair(8, 8))] == [10, 5, 3, 2]
    assert pairs == sorted(pairs, key=lambda pair: (pair.forward, pair.backward))
    assert [pair.forward for pair in bits_of(ByHand(), 8)] == [3, 3, 4, 4, 6, 6, 8, 8]


def test_cycles_rise_by_half_a_cosine():
    bits = [pair.forward for pair in bits_of(CPT(cycles=2), 20)]
    assert bits == [3, 3, 3, 4, 5, 5, 6, 7, 8, 8] * 2
    assert {pair.backward for pair in bits_of(CPT(cycles=2), 20)} == {8}


@pytest.mark.parametrize("kind", [ByHand, CPT])
def test_reversed_and_random_orders_have_equal_bit_operations(kind):
    forward, backward, shuffled, other = (
        bits_of(kind(**order), 40)
        for order in ({}, {"order": "reversed"}, {"order": "random", "seed": 1}, {"order": "random", "seed": 2})
    )
    assert backward == forward[::-1] != forward
    assert len({tuple(one) for one in (forward, backward, shuffled, other)}) == 4
    by_bits = sorted(forward, key=repr)
    assert all(sorted(one, key=repr) == by_bits for one in (backward, shuffled, other))


class WithReplacement(CPT):
    """Broken: random widths, not in equal numbers."""

    def plan(self, plan):
        self._places = [0, 0, 0, *range(3, plan.trained)][: plan.trained]
        self._total = plan.trained
        return plan


def bit_operations(method: Method) -> int:
    with bitfirst.open("model:tiny?counting=0") as device:
        run(method, device)
    return device.bit_macs


def test_the_device_counts_equal_bit_operations():
    forward = bit_operations(CPT(cycles=2))
    assert forward == bit_operations(CPT(cycles=2, order="reversed"))
    assert forward == bit_operations(CPT(cycles=2, order="random"))
    assert forward != bit_operations(WithReplacement(cycles=2))
    assert forward == work_of([(step, pair.forward, 8) for step, pair in enumerate(bits_of(CPT(cycles=2), 12))], 12)[0]


# what does not go together


def test_widths_that_signs_cannot_have_are_refused_before_training():
    net = nn.Conv2d(1, 1, 1)
    with bitfirst.open("model:tiny?counting=0") as device:
        with pytest.raises(UsageError, match="4 leading bits of 3 bits of the input"):
            convert(net, device, Compose([PFQ(SCHEDULES[3]), PSG()]))
        with pytest.raises(UsageError, match="10 leading bits of 8 signed bits of the gradient"):
            convert(net, device, Compose([CPT(low=6), PSG()]))
        convert(net, device, Compose([CPT(low=6, gradient=12), PSG()]))
        convert(net, device, Compose([PFQ(), SignSGD()]))


@pytest.mark.parametrize("other", [PFQ(), CPT()])
def test_two_that_set_precision_conflict(other):
    with pytest.raises(UsageError, match="conflict: each sets the widths of all layers"):
        Compose([ByHand(), other])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PFQ("3-4/6"), "2 widths forward and 1 backward"),
        (lambda: PFQ("3,4/6,6"), "give bits forward/backward"),
        (lambda: PFQ("1-4/6-6"), "weight: 1 bits"),
        (lambda: PFQ(epsilon=0), "epsilon = 0"),
        (lambda: PFQ(every=0), "every = 0"),
        (lambda: ByHand(at=(0.5,)), "4 stages need 3 rising shares"),
        (lambda: ByHand(order="back"), "order 'back' is unknown"),
        (lambda: CPT(low=9), "low = 9 is above high = 8"),
        (lambda: CPT(cycles=0), "cycles = 0"),
        (lambda: run_without_plan(CPT()), r"CPT must know how long .*plan\(Plan\.of"),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def run_without_plan(method: Method) -> None:
    net = perceptron(method)
    bitfirst.train(net, few(1), optimizer_of(net, method), method)
