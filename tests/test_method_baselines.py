"""Baselines: SkipNet, static widths, 8 and then 12 bits."""

import bitfirst
import pytest
import torch
from bitfirst.errors import UsageError
from bitfirst.methods import SLU, SMD, Compose, Int8Int12, SkipNet, Static, StochasticDepth
from bitfirst.methods.precision import Pair
from bitfirst.methods.random import Random
from bitfirst.nn import Bits, convert
from method_runs import digits, few, network, optimizer_of, perceptron, total
from reference_device import ReferenceDevice
from test_method_blocks import Watching, gates_of, residual_perceptron, work_of
from test_method_precision import bits_of, check_work, run
from torch.nn import functional
from work import PERCEPTRON, Array, bit_macs

# SkipNet


def opened_and_closed(net: torch.nn.Module) -> None:
    """The gates differ from sample to sample, about as many above 1/2 as below."""
    gates = gates_of(net)
    with torch.no_grad():
        for layer in gates.inputs:
            layer.weight.mul_(20)
            layer.bias.zero_()
        gates.output.weight.mul_(20)
        gates.output.bias.zero_()


def check_skipnet_saving(method: SLU, url: str) -> None:
    """What `work` says of gates that are above 1/2, for all samples of four batches of 8."""
    watching = Watching(method)
    both = Compose([method, watching])
    with bitfirst.open(url) as device:
        net = convert(residual_perceptron(), device, both)
        opened_and_closed(net)
        optimizer = optimizer_of(net, both)
        for x, y in both.loader(few(4)):
            (functional.cross_entropy(net.train()(x), y) + both.penalty(net)).backward()
            for choice in gates_of(net).choices:
                assert torch.equal(choice.chosen, choice.logits >= 0)
                assert torch.equal(choice.probed, ~choice.chosen) or method.rules.gate_gradient == "probe"
            optimizer.step()
            optimizer.zero_grad()
            both.step(torch.zeros(()))
        found = device.bit_macs, total(device, "array_steps")
    assert 0 < sum(int(chosen.sum()) for blocks in watching.steps for chosen, _ in blocks) < 4 * 4 * 8
    assert found == work_of(watching.steps)


@pytest.mark.parametrize(("url", "gradient"), [("model:tiny", "full"), ("rtl:tiny", "full"), ("model:tiny", "probe")])
def test_skipnet_computes_what_its_gates_say_and_is_charged_for_what_it_tries(url, gradient):
    check_skipnet_saving(SkipNet(gate_gradient=gradient), url)


def test_gates_that_choose_by_chance_are_no_skipnet():
    with pytest.raises(AssertionError):
        check_skipnet_saving(SLU(gate_gradient="full"), "model:tiny")


def test_skipnet_pays_for_all_that_it_computes():
    """However little that is; SLU's penalty would turn."""
    found = {}
    for method in SkipNet(alpha=0.3), SLU(skip=0.0, alpha=0.3, gate_gradient="full"):
        net = network(method).train()
        next(iter(method.loader(few(1))))
        gates_of(net)._choose = lambda probability: torch.zeros(len(probability), dtype=torch.bool)
        net(few(1)[0][0])
        (choice,) = gates_of(net).choices
        (gradient,) = torch.autograd.grad(method.penalty(net), choice.logits)
        probability = torch.sigmoid(choice.logits.detach())
        found[type(method)] = gradient / (0.3 * probability * (1 - probability) / len(probability))
    torch.testing.assert_close(found[SkipNet], torch.ones(8))
    torch.testing.assert_close(found[SLU], -torch.ones(8))


def test_skipnet_refuses():
    with pytest.raises(UsageError, match="'score': SkipNet leaves nothing to chance"):
        SkipNet(gate_gradient="score")
    for other in SLU(), StochasticDepth():
        with pytest.raises(UsageError, match="conflict: each says which blocks"):
            Compose([SkipNet(), other])


# chance


def test_evaluating_by_chance_changes_nothing_of_the_training():
    images, nets = digits().test.images[:64], []
    for evaluations in 0, 3:
        method = SLU(evaluation="stochastic")
        net = network(method)
        optimizer = optimizer_of(net, method)
        for _ in range(2):
            bitfirst.train(net, few(2), optimizer, method)
            passes = [net.eval()(images) for _ in range(evaluations)]
        nets.append(net)
    assert len(passes) == 3 and not torch.equal(passes[0], passes[1])
    states = [net.state_dict() for net in nets]
    assert all(torch.equal(one, other) for one, other in zip(*(state.values() for state in states), strict=True))


def test_random_numbers_of_evaluation_that_are_the_trainings_are_found(monkeypatch):
    monkeypatch.setattr(Random, "uniform", lambda self, count, *_: torch.rand(count, generator=self._training))
    with pytest.raises(AssertionError):
        test_evaluating_by_chance_changes_nothing_of_the_training()


def test_equal_seeds_of_two_methods_are_not_equal_choices():
    """The batches that SMD drops say nothing of the samples that skip a block."""
    smd, gates = SMD(seed=4), gates_of(network(SLU(seed=4)))
    kept = torch.tensor([smd.keeps() for _ in range(400)])
    chosen = gates.random.uniform(400) >= 0.5
    assert (kept == chosen).float().mean().item() == pytest.approx(0.5, abs=0.1)
    same = torch.tensor([SMD(seed=4).keeps() for _ in range(1)])
    assert kept[0] == same[0]


# widths


def test_static_widths_are_those_of_all_layers_whatever_convert_was_told():
    net = convert(perceptron(), ReferenceDevice(), Static(), bits=Bits(3, 5, 16))
    assert [net[number].bits for number in (1, 3)] == [Bits(8, 8, 8)] * 2
    with bitfirst.open("model:tiny") as device:
        run(Static(), device)
        steps = sum(layer.array_steps(8, (8, 8, 8), Array()) for layer in PERCEPTRON)
        assert (device.bit_macs, total(device, "array_steps")) == (
            12 * sum(bit_macs(layer, 8, (8, 8, 8)) for layer in PERCEPTRON),
            12 * steps,
        )


@pytest.mark.parametrize("url", ["model:tiny", "rtl:tiny"])
def test_fine_tuning_with_12_bits_is_counted(url):
    pairs = bits_of(Int8Int12(), 12)
    assert pairs == 9 * [Pair(8, 8)] + 3 * [Pair(12, 12)]
    check_work(Int8Int12(3, 5, at=0.5), url)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Static(1, 8), "weight: 1 bits"),
        (lambda: Int8Int12(8, 17), "17 bits"),
        (lambda: Int8Int12(at=1.5), "rising shares of the training"),
        (lambda: Compose([Static(), Int8Int12()]), "each sets the widths of all layers"),
    ],
)
def test_bad_widths_are_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
