"""SBM: gradients in two copies, stochastic rounding, range batch norm."""

import copy
import itertools
import math

import bitfirst
import pytest
import torch
from bitfirst import norms
from bitfirst.errors import UsageError
from bitfirst.gradients import Gradients
from bitfirst.methods import DFQ, PFQ, PSG, SBM, SLU, SWA, Compose, Method, SignSGD
from bitfirst.models import digits_resnet
from bitfirst.nn import Bits, convert, in_float
from bitfirst.norms import RangeBatchNorm1d, RangeBatchNorm2d
from bitfirst.quantiser import dequantise, quantise, quantise_stochastically
from bitfirst_hdl.contract import numeric
from method_runs import assert_same, few, interrupted_and_not, network, optimizer_of, perceptron, state, total
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional
from work import PERCEPTRON, Array

# stochastic rounding


def numbers(count: int = 40) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(1)) * torch.logspace(-4, 0, count)


@pytest.mark.parametrize("bits", [2, 5, 8, 16])
def test_numbers_are_rounded_up_by_the_contracts_random_bits(bits):
    tensor, key = numbers(), 12345
    found = quantise_stochastically(tensor, bits, key)
    for place, (real, integer) in enumerate(zip(tensor.double().tolist(), found.values.tolist(), strict=True)):
        chance = numeric.random_bits(key, place) / 2**32
        assert integer == math.floor(real / 2.0**found.exponent + chance)
    assert found.peak <= 2 ** (bits - 1) - 1
    finer = numbers().abs().max().item() / 2.0 ** (found.exponent - 1)
    assert math.ceil(finer) > 2 ** (bits - 1) - 1


def bias(rounding, keys: int = 4000) -> float:
    """Largest difference of the mean to the numbers, in standard errors of rounding by chance."""
    tensor = numbers()
    taken = [dequantise(rounding(tensor, key)) for key in range(keys)]
    step = 2.0 ** quantise_stochastically(tensor, 4, 0).exponent
    return ((torch.stack(taken).mean(0) - tensor).abs() / (step / 2 / math.sqrt(keys))).max().item()


def test_rounding_by_chance_is_without_bias_and_to_nearest_is_not():
    assert bias(lambda tensor, key: quantise_stochastically(tensor, 4, numeric.hash_key(0, key, 0))) < 5
    assert bias(lambda tensor, key: quantise(tensor, 4, signed=True)) > 20


def test_nothing_is_clipped_and_zero_stays_zero():
    for key in range(50):
        found = quantise_stochastically(torch.tensor([127.4, -127.4, 0.0]), 8, key)
        assert found.exponent == 1 and found.values[2] == 0 and found.values.abs().max() <= 64
    assert quantise_stochastically(torch.zeros(3), 8, 1).values.tolist() == [0, 0, 0]
    assert quantise_stochastically(torch.zeros(0), 8, 1).values.shape == (0,)
    split = quantise_stochastically(numbers(), 8, 3, low=4)
    split.check()
    with pytest.raises(UsageError, match="layer a holds NaN"):
        quantise_stochastically(torch.tensor([math.nan]), 8, 1, "layer a")


# two copies


def gradients_of(method: SBM, url: str, seed: int = 3) -> list[torch.Tensor]:
    """dX, dW of a convolution for one output gradient, and what they should be, in float64."""
    torch.manual_seed(seed)
    x, g = torch.rand(2, 3, 6, 6).requires_grad_(), torch.randn(2, 4, 6, 6)
    with bitfirst.open(url) as device:
        layer = convert(nn.Conv2d(3, 4, 3, padding=1, bias=False), device, method)
        layer(x).backward(g)
    xq, wq = (dequantise(quantise(one.detach(), 8)).double().requires_grad_() for one in (x, layer.weight))
    y = functional.conv2d(xq, wq, padding=1)
    if method.rounding == "nearest":
        error, gradient = (dequantise(quantise(g, bits, signed=True)) for bits in (8, 16))
    else:
        error, gradient = (
            dequantise(quantise_stochastically(g, bits, numeric.hash_key(method.seed, 0, place)))
            for place, bits in enumerate((8, 16))
        )
    (dx,) = torch.autograd.grad(y, xq, error.double(), retain_graph=True)
    (dw,) = torch.autograd.grad(y, wq, gradient.double())
    return [x.grad, layer.weight.grad, dx.float(), dw.float()]


@pytest.mark.parametrize("rounding", ["nearest", "stochastic"])
@pytest.mark.parametrize("url", ["model:tiny", "rtl:tiny"])
def test_dx_is_of_8_bits_and_dw_of_16(url, rounding):
    dx, dw, wanted_dx, wanted_dw = gradients_of(SBM(rounding=rounding, seed=5), url)
    assert torch.equal(dx, wanted_dx) and torch.equal(dw, wanted_dw)


@pytest.mark.parametrize("broken", [{"error": 16}, {"gradient": 8}])
def test_one_copy_for_both_is_found(broken):
    dx, dw, wanted_dx, wanted_dw = gradients_of(SBM(rounding="nearest", **broken), "model:tiny")
    assert torch.equal(dx, wanted_dx) != torch.equal(dw, wanted_dw)


def test_copies_that_are_alike_are_one():
    copies = Gradients(8, 1, 0).copies(numbers(), 8, 0, "g")
    assert copies[0] is copies[1]
    one, other = Gradients(8, 1, 0).copies(numbers(), 16, 0, "g")
    assert (one.bits, other.bits) == (8, 16)


def test_each_step_and_layer_has_random_bits_of_its_own():
    keys = itertools.product((0, 1), (0, 1))
    taken = [Gradients(4, 7, tensor, step).copies(numbers(), 4, 0, "g")[0].values for tensor, step in keys]
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(taken, 2))
    method = SBM(seed=7)
    net = perceptron(method)
    bitfirst.train(net, few(3), optimizer_of(net, method), method)
    assert [net[number].gradients.step for number in (1, 3)] == [3, 3]
    assert [net[number].gradients.tensor for number in (1, 3)] == [0, 1]
    assert copy.deepcopy(net)[1].gradients.step == 3


def work_of(steps: int, error: int) -> tuple[int, int]:
    """Bit-MACs and cycles of `steps` steps of 8 samples: forward 8 x 8, dX 8 x `error`, dW 8 x 16."""
    macs = cycles = 0
    for layer in PERCEPTRON:
        macs += layer.macs * 8 * (64 + 128 + (0 if layer.first else 8 * error))
        cycles += layer.array_steps(8, (8, 8, 16), Array())
        if not layer.first:
            dx = [Array().steps(layer.inputs, 8, layer.outputs, 8, bits) for bits in (16, error)]
            cycles += dx[1] - dx[0]
    return steps * macs, steps * cycles


@pytest.mark.parametrize("url", ["model:tiny", "rtl:tiny"])
def test_the_narrow_copy_is_fewer_cycles(url):
    method = SBM()
    with bitfirst.open(url) as device:
        net = perceptron(method, device)
        bitfirst.train(net, few(3), optimizer_of(net, method), method)
        found = device.bit_macs, total(device, "array_steps")
    assert found == work_of(3, 8) != work_of(3, 16)


# range batch norm


def by_definition(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor) -> torch.Tensor:
    """Channel by channel, as the paper has it, with PyTorch's 1e-5 under the root."""
    channels = []
    for channel in range(x.shape[1]):
        values = x[:, channel].flatten()
        centred = values - sum(values) / len(values)
        divisor = (max(centred) - min(centred)) / math.sqrt(2 * math.log(len(values)))
        channels.append(gamma[channel] * centred / (divisor**2 + 1e-5) ** 0.5 + beta[channel])
    return torch.stack([channel.reshape(x.shape[0], *x.shape[2:]) for channel in channels], 1)


def range_norm(kind: type[nn.Module], channels: int) -> nn.Module:
    norm = kind(channels).double()
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


@pytest.mark.parametrize(
    ("kind", "shape"), [(RangeBatchNorm2d, (3, 2, 4, 5)), (RangeBatchNorm1d, (9, 2)), (RangeBatchNorm1d, (3, 2, 4))]
)
def test_the_range_takes_the_place_of_the_deviation(kind, shape):
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    norm = range_norm(kind, 2)
    torch.testing.assert_close(norm(x), by_definition(x, norm.weight, norm.bias))
    ordinary = range_norm(kind.__bases__[1], 2)
    with pytest.raises(AssertionError):  # control
        torch.testing.assert_close(ordinary(x), by_definition(x, norm.weight, norm.bias))
    assert torch.autograd.gradcheck(copy.deepcopy(norm), x.requires_grad_())


def test_statistics_are_kept_and_pytorch_evaluates_alike():
    x = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(3)) * 2 + 1
    norm, ordinary = RangeBatchNorm2d(3), nn.BatchNorm2d(3)
    norm(x)
    spread = (x.amax((0, 2, 3)) - x.amin((0, 2, 3))).square() / (2 * math.log(256))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * spread)
    torch.testing.assert_close(norm.running_mean, 0.1 * x.mean((0, 2, 3)))
    assert norm.num_batches_tracked == 1
    ordinary.load_state_dict(norm.state_dict(), strict=True)
    torch.testing.assert_close(norm.eval()(x), ordinary.eval()(x))
    mean = RangeBatchNorm2d(3, momentum=None)  # a plain mean over batches
    mean(x), mean(x + 1)
    torch.testing.assert_close(mean.running_mean, x.mean((0, 2, 3)) + 0.5)
    assert spread.sqrt().min() > 0.325 * 2 and spread.sqrt().max() <= 2 * 2  # the paper's bounds, of a deviation of 2
    with pytest.raises(ValueError, match="more than 1 value in each channel"):
        RangeBatchNorm1d(3)(torch.rand(1, 3))


def test_converting_puts_it_in_and_takes_it_out():
    net = network(SBM())
    assert type(net.norm) is RangeBatchNorm2d and net.conv.bits == Bits(8, 8, 16)
    digits_resnet().load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(digits_resnet().state_dict(), strict=True)
    assert type(in_float(net).norm) is RangeBatchNorm2d  # to compare gradients of the same network
    again = convert(net, ReferenceDevice(), Method())
    assert type(again.norm) is nn.BatchNorm2d and again.conv.gradients is None
    assert type(network(SBM(norm="batch")).norm) is nn.BatchNorm2d
    assert norms.by_range(nn.Sequential(nn.BatchNorm1d(2), nn.GroupNorm(1, 2))) == 1


# with others


def test_it_resumes_with_others(monkeypatch, tmp_path):
    def make() -> Method:
        return Compose([SBM(seed=2), SLU(seed=2), SignSGD(), SWA(start=0.0)])

    whole, resumed = interrupted_and_not(make, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] == whole["weights_sha256"]


class Forgetful(SBM):
    """Broken: begins anew with its random bits."""

    def load_state_dict(self, kept):
        super().load_state_dict(kept | {"steps": 0})


def test_random_bits_that_begin_anew_are_found(monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(Forgetful, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] != whole["weights_sha256"]


def test_predicted_signs_take_the_wide_copy():
    weights = []
    for url in "model:tiny", "rtl:tiny":
        method = Compose([SBM(seed=1), PSG()])
        with bitfirst.open(url) as device:
            net = network(method, device)
            optimizer = optimizer_of(net, method)
            bitfirst.train(net, few(1, 2), optimizer, method)
        weights.append(state(net, optimizer))
    assert_same(*weights)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Compose([SBM(), PFQ()]), "each sets the widths of all layers"),
        (lambda: Compose([SBM(), DFQ()]), "each sets the widths of all layers"),
        (lambda: SBM(error=1), "error: 1 bits"),
        (lambda: SBM(norm="group"), "choose from range, batch"),
        (lambda: SBM(rounding="up"), "choose from stochastic, nearest"),
        (
            lambda: convert(nn.Conv2d(1, 1, 1), bitfirst.open("model:tiny"), Compose([SBM(gradient=8), PSG()])),
            "10 lead",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()
