"""Precision for each sample and block: buckets, DFQ, FracTrain."""

import bitfirst
import pytest
import torch
from bitfirst import buckets, data, models, training
from bitfirst.blocks import Skip
from bitfirst.buckets import Bucket, Buckets
from bitfirst.errors import UsageError
from bitfirst.methods import DFQ, PFQ, PSG, SLU, SMD, Compose, FracTrain, Method, SignSGD, StochasticDepth
from bitfirst.methods.dfq import CIFAR, IMAGENET, PrecisionGates, cost_of
from bitfirst.methods.precision import Pair
from bitfirst.nn import Bits, convert
from bitfirst.quantised import Quantised
from bitfirst.quantiser import dequantise
from bitfirst.training import TrainOptions
from method_runs import digits, few, interrupted_and_not, network, optimizer_of, total
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional
from work import CLASSIFIER, FIRST_BLOCK, SECOND_BLOCK, SHORTCUT, STEM, Array, Linear, bit_macs

# buckets of one layer


def groups(*pairs: tuple[list[int], int, int]) -> list[Bucket]:
    return [Bucket(torch.tensor(places), Bits(forward, 4, backward)) for places, forward, backward in pairs]


MIXED = groups(([0, 3], 3, 6), ([1], 4, 8), ([2, 4, 5], 6, 12))


def layer_of(kind: type, method: Method | None = None) -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    if kind is nn.Linear:
        return convert(nn.Linear(7, 5), ReferenceDevice(), method, bits=Bits(8, 4, 16)), torch.randn(6, 7)
    layer = nn.Conv2d(3, 4, 3, 2, 1)
    return convert(layer, ReferenceDevice(), method, bits=Bits(8, 4, 16)), torch.randn(6, 3, 5, 5).relu()


def passed(layer: nn.Module, x: torch.Tensor, chosen: list[Bucket] | None) -> list[torch.Tensor]:
    """y, dX, dW, db of sum(y * y * [1, 2, ...])."""
    x = x.clone().requires_grad_()
    layer.zero_grad()
    layer.buckets = None if chosen is None else Buckets(chosen)
    y = layer(x)
    (y.square() * torch.arange(1.0, y.numel() + 1).reshape(y.shape)).sum().backward()
    return [y.detach(), x.grad, layer.weight.grad, layer.bias.grad]


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear])
def test_one_bucket_is_the_ordinary_layer_bit_for_bit(kind):
    layer, x = layer_of(kind)
    layer.bits = Bits(5, 4, 9)
    ordinary = passed(layer, x, None)
    assert all(
        torch.equal(one, other)
        for one, other in zip(passed(layer, x, groups((list(range(6)), 5, 9))), ordinary, strict=True)
    )
    assert not torch.equal(passed(layer, x, groups((list(range(6)), 4, 9)))[0], ordinary[0])


def by_definition(layer: nn.Module, x: torch.Tensor, chosen: list[Bucket]) -> list[torch.Tensor]:
    """y, dX, dW in float64 of the numbers that the buckets hold, put together sample by sample."""
    scaled = buckets.scaled
    kept: list[list[Quantised]] = []
    try:
        buckets.scaled = lambda *arguments: kept.append(scaled(*arguments)) or kept[-1]
        passed(layer, x, chosen)
    finally:
        buckets.scaled = scaled
    whole = []
    for parts in kept:  # of x, of g
        numbers = torch.empty(6, *parts[0].values.shape[1:], dtype=torch.float64)
        for part, bucket in zip(parts, chosen, strict=True):
            numbers[bucket.places] = dequantise(part).double()
        whole.append(numbers)
    x64, g64 = whole
    w64 = dequantise(bitfirst.quantiser.quantise(layer.weight, 4)).double()
    if isinstance(layer, nn.Linear):
        return [x64 @ w64.T, g64 @ w64, g64.T @ x64]
    window = {"stride": layer.stride, "padding": layer.padding}
    return [
        functional.conv2d(x64, w64, **window),
        torch.nn.grad.conv2d_input(x64.shape, w64, g64, **window),
        torch.nn.grad.conv2d_weight(x64, w64.shape, g64, **window),
    ]


def check_exact(kind: type) -> None:
    layer, x = layer_of(kind)
    wanted = by_definition(layer, x, MIXED)
    y, dx, dw, _ = passed(layer, x, MIXED)
    bias = layer.bias if kind is nn.Linear else layer.bias[:, None, None]
    assert torch.equal(y, wanted[0].float() + bias)
    assert torch.equal(dx, wanted[1].float()) and torch.equal(dw, wanted[2].float())


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Linear])
def test_buckets_are_put_together_exactly(kind):
    check_exact(kind)


def test_sums_that_are_not_shifted_are_found(monkeypatch):
    def unshifted(sums):
        return sum(integers.to(torch.int64) for integers, _ in sums), min(exponent for _, exponent in sums)

    monkeypatch.setattr(buckets, "shifted", unshifted)
    with pytest.raises(AssertionError):
        check_exact(nn.Conv2d)


def test_steps_are_related_by_powers_of_two_and_clip_nothing():
    torch.manual_seed(3)
    for _ in range(50):
        tensor = torch.randn(6, 4) * torch.rand(()).exp()
        parts = buckets.scaled(tensor, MIXED, [3, 4, 8], None, "x")
        assert [part.exponent - parts[2].exponent for part in parts] == [5, 4, 0]
        for part, bucket in zip(parts, MIXED, strict=True):
            part.check()
            assert (dequantise(part) - tensor[bucket.places]).abs().max() <= 2.0**part.exponent / 2
            assert part.peak == part.values.abs().max()


def test_signs_are_taken_after_the_sum():
    ordinary, x = layer_of(nn.Conv2d)
    signed, _ = layer_of(nn.Conv2d, SignSGD())
    assert torch.equal(passed(signed, x, MIXED)[2], passed(ordinary, x, MIXED)[2].sign())


# the saving


def residual_perceptron(count: int = 3) -> nn.Module:
    torch.manual_seed(0)
    blocks = [Skip(nn.Sequential(nn.Linear(12, 12), nn.Tanh())) for _ in range(count)]
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), *blocks, nn.Linear(12, 10))


ENDS, BLOCK = (Linear(64, 12, first=True), Linear(12, 10)), Linear(12, 12)
WIDTHS = (8, 8, 16)


class Watching(Method):
    """Keeps the choices of each step, as a log would: widths of each sample, block by block."""

    def __init__(self, method: DFQ) -> None:
        self.method = method
        self.steps: list[list[list[tuple[int, int]]]] = []

    def step(self, loss):
        pairs = [(pair.forward, pair.backward) for pair in self.method.options]
        self.steps.append([[pairs[number] for number in one.option] for one in self.method.gates.choices])


def work_of(steps, weights: int = 4, samples: int = 8) -> tuple[int, int]:
    """Bit-MACs and cycles: each distinct pair of widths of a block and step is one product of its samples."""
    macs = cycles = 0
    for blocks in steps:
        macs += sum(bit_macs(layer, samples, WIDTHS) for layer in ENDS)
        cycles += sum(layer.array_steps(samples, WIDTHS, Array()) for layer in ENDS)
        for pairs in blocks:
            for forward, backward in {pair for pair in pairs if pair != (0, 0)}:
                count, widths = pairs.count((forward, backward)), (forward, weights, backward)
                macs += bit_macs(BLOCK, count, widths)
                cycles += BLOCK.array_steps(count, widths, Array())
    return macs, cycles


def check_saving(method: DFQ, url: str) -> list:
    watching = Watching(method)
    both = Compose([method, watching])
    with bitfirst.open(url) as device:
        net = convert(residual_perceptron(), device, both)
        bitfirst.train(net, few(3), optimizer_of(net, both), both)
        found = device.bit_macs, total(device, "array_steps")
    assert found == work_of(watching.steps)
    assert found[0] < work_of([[[(8, 16)] * 8] * 3] * 3, 8)[0]
    return watching.steps


@pytest.mark.parametrize(
    ("url", "options"), [("model:tiny", CIFAR), ("rtl:tiny", CIFAR), ("model:tiny", "0-3-6/0-6-8")]
)
def test_each_bucket_costs_its_own_widths(url, options):
    steps = check_saving(DFQ(options, seed=1), url)
    assert len({pair for blocks in steps for pairs in blocks for pair in pairs}) == (5 if options == CIFAR else 3)


def test_computing_all_at_the_widest_is_found(monkeypatch):
    monkeypatch.setattr(
        PrecisionGates,
        "buckets",
        lambda self, option: [Bucket(torch.arange(len(option)), Bits(6, 4, 12))] if len(option) else [],
    )
    with pytest.raises(AssertionError):
        check_saving(DFQ(seed=1), "model:tiny")


def test_convolutions_in_buckets():
    """The network of the main job: blocks at widths by sample, shortcut and ends at those of `convert`."""
    method = DFQ(seed=2)
    watching = Watching(method)
    both = Compose([method, watching])
    with bitfirst.open("model:tiny?counting=0") as device:
        net = network(both, device)
        bitfirst.train(net, few(2), optimizer_of(net, both), both)
    wanted = 0
    for first, second in watching.steps:
        wanted += sum(bit_macs(layer, 8, WIDTHS) for layer in (STEM, SHORTCUT, CLASSIFIER))
        for layers, pairs in ((FIRST_BLOCK, first), (SECOND_BLOCK, second)):
            wanted += sum(bit_macs(layer, 1, (x, 4, g)) for layer in layers for x, g in pairs)
    assert device.bit_macs == wanted
    assert method.summary()["buckets"] == sum(len(set(one)) for step in watching.steps for one in step) / 4


# what it does


def test_batch_norm_sees_the_whole_batch(monkeypatch):
    net = network(DFQ()).train()
    chosen = torch.tensor([0, 1, 4, 1, 0, 3, 4, 2])
    monkeypatch.setattr(net.blocks[0].gates, "_choose", lambda probability: chosen)
    block, x = net.blocks[0], torch.rand(8, 8, 8, 8)
    seen = []
    block.norm1.register_forward_hook(lambda norm, inputs, output: seen.append(inputs[0]))
    block(x)
    whole = seen[-1]  # the first pass was one without numbers, for the block's MACs
    torch.testing.assert_close(block.norm1.running_mean, 0.1 * whole.mean((0, 2, 3)))
    assert whole.shape[0] == 8


def test_a_bucket_of_one_sample_and_a_block_that_nobody_computes(monkeypatch):
    method = DFQ("0-3-6/0-6-8")
    net = network(method)
    optimizer = optimizer_of(net, method)
    chosen = torch.tensor([0, 1, 2, 2, 2, 2, 2, 2])
    monkeypatch.setattr(method.gates, "_choose", lambda probability: chosen)
    bitfirst.train(net, few(1), optimizer, method)
    assert net.blocks[0].conv1.buckets is None
    before = net.blocks[1].conv1.weight.clone()
    monkeypatch.setattr(method.gates, "_choose", lambda probability: torch.zeros(8, dtype=torch.int64))
    bitfirst.train(net, few(1), optimizer, method)
    assert torch.equal(net.blocks[1].conv1.weight, before)


def test_choices_are_as_likely_as_the_gates_say():
    gates = PrecisionGates([Skip(nn.Linear(3, 3))], DFQ().options, 4, 1)
    probability = torch.tensor([[0.1, 0.2, 0.3, 0.25, 0.15]]).expand(20_000, 5)
    shares = gates._choose(probability).bincount(minlength=5) / 20_000
    assert (shares - probability[0]).abs().max() < 0.015
    assert gates.eval()._choose(probability[:1]).item() == 2


def test_the_gates_learn_by_the_score_of_their_choices(monkeypatch):
    """Mean over all choices of two samples in one block against the gradient of the expectation, in float64."""
    method = DFQ("3-6/6-8", beta=0.05, target=100.0)
    net = convert(residual_perceptron(1), ReferenceDevice(), method)
    gates = method.gates.double()
    pooled = torch.rand(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = torch.tensor([[1.0, 0.2], [0.3, 0.9]], dtype=torch.float64)  # of a sample, by its option
    costs = torch.tensor([cost_of(pair, 4) for pair in method.options])
    gates.costs[0] = 1

    def logits():
        hidden, _ = gates.lstm(gates.inputs[0](pooled))
        return gates.output(hidden)

    def gradients():
        return torch.cat([parameter.grad.flatten() for parameter in gates.parameters()])

    (functional.softmax(logits(), 1) * (losses - 0.05 * costs)).sum(1).mean().backward()
    wanted = gradients()
    net.zero_grad()
    method._labels = torch.zeros(2)
    for one in range(2):
        for other in range(2):
            option = torch.tensor([one, other])
            gates.choices = [bitfirst.methods.dfq.Choice(logits(), option)]
            method.loss = lambda scores, y, option=option: losses[[0, 1], option]
            likely = gates.choices[0].log_probability.sum().exp().item()
            (likely * method.penalty(net)).backward()
    torch.testing.assert_close(gradients(), wanted, rtol=1e-5, atol=1e-9)
    assert wanted.abs().max() > 1e-3


def test_one_choice_for_a_batch_learns_by_the_score_of_its_mean_loss():
    """Mean over the choices against the gradient of the expectation; whatever the usual loss is, in float64."""
    method = DFQ("3-6/6-8", beta=0.05, target=100.0, per="batch")
    net = convert(residual_perceptron(1), ReferenceDevice(), method)
    gates = method.gates.double()
    pooled = torch.rand(2, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    losses = torch.tensor([[1.0, 0.2], [0.5, 0.9]], dtype=torch.float64)  # of a sample, by the option
    costs = torch.tensor([cost_of(pair, 4) for pair in method.options])
    gates.costs[0] = 1

    def logits():
        hidden, _ = gates.lstm(gates.inputs[0](pooled))
        return gates.output(hidden).mean(0, keepdim=True)

    def gradients():
        return torch.cat([parameter.grad.flatten() for parameter in gates.parameters()])

    (functional.softmax(logits(), 1) * (losses.mean(0) - 0.05 * costs)).sum().backward()
    wanted = gradients()
    for usual in 0.0, 3.0:
        net.zero_grad()
        method._labels = torch.zeros(2)
        for one in range(2):
            method._usual = usual
            gates.choices = [bitfirst.methods.dfq.Choice(logits(), torch.tensor([one, one]))]
            method.loss = lambda scores, y, one=one: losses[:, one]
            likely = gates.choices[0].log_probability.exp().item()
            (likely * method.penalty(net)).backward()
            loss = losses[:, one].mean().item() - 0.05 * costs[one].item()
            assert method._usual == pytest.approx(0.9 * usual + 0.1 * loss)
        torch.testing.assert_close(gradients(), wanted, rtol=1e-5, atol=1e-9)
    assert wanted.abs().max() > 1e-3


def test_one_choice_for_a_batch_is_one_bucket():
    method = DFQ(per="batch", seed=4)
    net = network(method)
    bitfirst.train(net, few(6), optimizer_of(net, method), method)
    chosen = [sum(count > 0 for count in counts) for counts in method.counts]
    assert method.summary()["buckets"] == 1.0 and max(chosen) > 1
    assert all(count % 8 == 0 for counts in method.counts for count in counts)


def test_costs_are_those_of_32_bit_products():
    assert cost_of(Pair(8, 8), 8) == pytest.approx(6.25)
    assert cost_of(Pair(8, 16), 8) == pytest.approx(10.42, abs=0.005)
    method = DFQ("0-3/0-6")
    net = network(method)
    method.gates.costs = {0: 30, 1: 10}
    method.gates.choices = [
        bitfirst.methods.dfq.Choice(torch.zeros(2, 2), torch.tensor(option)) for option in ([1, 0], [0, 1])
    ]
    assert method.batch_costs().tolist() == pytest.approx(
        [0.75 * cost_of(Pair(3, 6), 4), 0.25 * cost_of(Pair(3, 6), 4)]
    )
    assert net.blocks[0].conv1.bits == Bits(8, 4, 16)


def test_the_named_options_are_the_papers_and_may_be_capped():
    assert [(pair.forward, pair.backward) for pair in DFQ(CIFAR).options] == [(3, 6), (4, 6), (4, 8), (6, 8), (6, 12)]
    assert max(pair.backward for pair in DFQ(IMAGENET).options) == 16
    capped = DFQ(IMAGENET, cap=8)
    assert [(pair.forward, pair.backward) for pair in capped.options] == [(3, 6), (4, 8), (6, 8), (8, 8)]
    network(capped)
    assert capped.summary()["largest_bits"] == 8


def test_fractrains_target_rises_when_the_loss_stalls():
    method = FracTrain(epsilon=9.0, alpha=1.0)
    network(method)
    assert method.target == 1.5
    targets = []
    for _ in range(20):
        method.epoch_end(1.0)
        targets.append(method.target)
    assert targets == [1.5] * 4 + [2.0] * 5 + [2.5] * 5 + [3.0] * 6
    assert FracTrain.__mro__[1] is DFQ and method.summary()["stages_visited"] == 4


def costs_of(method: DFQ, steps: int) -> list[float]:
    """The mean cost of each batch of a training on digits, in per cent."""
    net = convert(residual_perceptron(), ReferenceDevice(), method)
    optimizer = bitfirst.optim.SGD(method.param_groups(net), lr=0.05, momentum=0.9)
    found = []
    while len(found) < steps:
        for x, y in method.loader(data.batches(digits().train, 32, 0, 0)):
            loss = functional.cross_entropy(net(x), y)
            (loss + method.penalty(net)).backward()
            found.append(method.batch_costs().mean().item())
            optimizer.step()
            optimizer.zero_grad()
            method.step(loss.detach())
    return found[:steps]


def late(costs: list[float]) -> float:
    return sum(costs[-30:]) / 30


@pytest.mark.parametrize("target", [2.0, 4.0])
def test_the_cost_comes_to_its_target(target):
    """From 2.9 per cent, that of options by chance."""
    assert late(costs_of(DFQ(target=target, beta=0.1), 150)) == pytest.approx(target, abs=0.15)


def test_a_target_below_is_not_come_to_with_the_released_beta_in_so_few_steps():
    assert late(costs_of(DFQ(target=2.0), 150)) > 2.7


def test_fractrains_cost_follows_its_targets():
    method = FracTrain((2.2, 3.8), epsilon=9.0, every=14, beta=0.1)  # rises with the last of five means
    costs = costs_of(method, 230)
    assert late(costs[:70]) == pytest.approx(2.2, abs=0.15) and late(costs) == pytest.approx(3.8, abs=0.35)


def test_the_penalty_is_of_the_sum_of_the_blocks_costs():
    """And not of their mean, which is three times less here."""
    method = DFQ("3-6/6-8", beta=0.5, target=1.0)
    convert(residual_perceptron(), ReferenceDevice(), method)
    method.gates.costs = {0: 1, 1: 1, 2: 1}
    chosen = [[0, 1], [1, 1], [0, 0]]
    method.gates.choices = [bitfirst.methods.dfq.Choice(torch.zeros(2, 2), torch.tensor(one)) for one in chosen]
    method.gates.scores, method._labels = torch.zeros(2, 10), torch.zeros(2, dtype=torch.int64)
    low, high = (cost_of(pair, 4) for pair in method.options)
    assert method.penalty(nn.Identity()).item() == pytest.approx(0.5 * 3 * (low + high) / 2)


@pytest.mark.parametrize("per", ["sample", "batch"])
def test_fractrain_resumes_with_signs_and_dropped_batches(per, monkeypatch, tmp_path):
    def small() -> Method:
        fractrain = FracTrain(every=2, epsilon=9.0, options="0-3-6/0-6-8", per=per, seed=1)
        return Compose([SMD(seed=1), fractrain, SignSGD()])

    whole, resumed = interrupted_and_not(small, monkeypatch, tmp_path, "signsgd")
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["method"] == whole["method"]


# refused


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ((DFQ(), PSG()), "DFQ and PSG conflict: a prediction is made of the first bits of one width.*SignSGD"),
        ((PSG(), FracTrain()), "PSG and FracTrain conflict: a prediction"),
        ((DFQ(), SignSGD(update="device")), "weights that the device makes have one width.*update='host'"),
        ((DFQ(), PFQ()), "each sets the widths"),
        ((DFQ(), SLU()), "each says which blocks"),
        ((DFQ(), StochasticDepth()), "each says which blocks"),
        ((DFQ(), FracTrain()), "each sets the widths"),
    ],
)
def test_conflicts(methods, words):
    with pytest.raises(UsageError, match=words):
        Compose(methods)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: DFQ("0-3/6-6"), "option 0/6: 0 on both sides skips"),
        (lambda: DFQ("3-4/6"), "2 widths forward and 1 backward"),
        (lambda: DFQ(weights=1), "weight: 1 bits"),
        (lambda: DFQ("3-17/6-6"), "17 bits"),
        (lambda: DFQ(target=0), "target = 0"),
        (lambda: DFQ(per="epoch"), "per 'epoch' is unknown: choose from sample, batch"),
        (lambda: FracTrain((2.0, 1.0)), "give rising costs"),
        (
            lambda: convert(nn.Linear(2, 2), ReferenceDevice(), DFQ()),
            r"no block with a shortcut.*bitfirst\.blocks\.Skip",
        ),
    ],
)
def test_bad_settings_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_data_that_are_not_finite_are_named():
    layer, x = layer_of(nn.Linear)
    x[0, 0] = float("nan")
    with pytest.raises(UsageError, match="input holds NaN"):
        passed(layer, x, MIXED)


# converting


def test_a_float_checkpoint_loads_into_a_gated_network():
    net, other = models.digits_resnet(), models.digits_resnet()
    gated = convert(net, ReferenceDevice(), DFQ())
    gated.load_state_dict(other.state_dict(), strict=True)
    assert torch.equal(gated.conv.weight, other.conv.weight)


@pytest.mark.parametrize("before", [SLU, DFQ, StochasticDepth])
def test_converting_again_takes_the_method_before_away(before):
    device, x = ReferenceDevice(), torch.randn(8, 1, 8, 8)
    gated = convert(models.digits_resnet(), device, before())
    plain = convert(gated, device, None)
    assert torch.equal(plain(x), plain(x))
    assert any(not torch.equal(gated(x), gated(x)) for _ in range(8))  # the control


@pytest.mark.parametrize(("target", "sign"), [(100.0, -1), (0.01, 1)], ids=["below", "above"])
def test_the_penalty_turns_at_the_target(target, sign):
    method = DFQ(target=target, beta=0.5)
    net, (batch,) = network(method), few(1)
    (x, _y) = next(iter(method.loader([batch])))
    net(x)
    assert method.penalty(net).item() == pytest.approx(sign * 0.5 * method._sums_of_costs().mean().item())


def test_the_report_has_a_row_for_each_layer_and_phase():
    method = DFQ(seed=1)
    device = bitfirst.open("model:tiny")
    net = network(method, device)
    run = training.Run("", net, method, optimizer_of(net, method), training.Meter(device))
    splits = data.Splits(*[digits().train] * 3)
    rows = training.profile(run, splits, TrainOptions(device="model:tiny", batch=8))
    assert len(rows) == len({(row["layer"], row["phase"]) for row in rows}) > 10
    assert all(0 < row["utilisation"] <= 1 for row in rows)
    parts = training.layer_counters(
        net, lambda net: functional.cross_entropy(net(few(1)[0][0]), few(1)[0][1]).backward()
    )
    assert len(parts) > len(rows)  # there were buckets
