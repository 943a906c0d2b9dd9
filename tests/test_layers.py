"""Quantiser and layers: exact results, ordinary gradients, checkpoints, copies, compilation, clear errors."""

import copy
import io
import math
from fractions import Fraction

import bitfirst
import pytest
import torch
from bitfirst import nn as layers
from bitfirst.errors import UsageError
from bitfirst.gradients import WHOLE
from bitfirst.methods import DFQ, FP32, SBM, SLU, Method, SignSGD, StochasticDepth
from bitfirst.models import digits_resnet
from bitfirst.nn import NO_SIGNER, Bits, convert, layer_counters, left_on_host
from bitfirst.quantiser import Halves, dequantise, quantise, to_float
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100)


# quantiser


def nearest_even(value: float, exponent: int) -> int:
    return round(Fraction(value) / Fraction(2) ** exponent)


@settings(max_examples=300, deadline=None)
@given(st.lists(FLOATS, min_size=1, max_size=8), st.integers(2, 16))
def test_quantiser_rounds_to_nearest_even_with_the_finest_scale_that_clips_nothing(numbers, bits):
    tensor = torch.tensor(numbers)
    quantised = quantise(tensor, bits)
    assert quantised.signed == any(value < 0 for value in numbers)
    limit = 2 ** (bits - quantised.signed) - 1
    exact = [nearest_even(value, quantised.exponent) for value in tensor.tolist()]
    assert quantised.values.tolist() == exact
    assert quantised.peak == max(map(abs, exact))
    assert quantised.integers.tolist() == exact
    again = layers._again(quantised.values, bits, layers._about(quantised))
    assert (again.name, again.peak, again.exponent) == (quantised.name, quantised.peak, quantised.exponent)
    assert max(map(abs, exact)) <= limit
    if any(numbers) and quantised.exponent > -126:
        finer = [nearest_even(value, quantised.exponent - 1) for value in tensor.tolist()]
        assert max(map(abs, finer)) > limit


@pytest.mark.parametrize("bits", range(1, 17))
def test_every_width_reaches_its_largest_number(bits):
    unsigned = quantise(torch.tensor([0.0, 2.0**bits - 1]), bits)
    assert (unsigned.signed, unsigned.exponent, unsigned.values.tolist()) == (False, 0, [0, 2**bits - 1])
    if bits > 1:
        limit = 2 ** (bits - 1) - 1
        signed = quantise(torch.tensor([-1.0, 1.0]) * limit, bits)
        assert (signed.signed, signed.exponent, signed.values.tolist()) == (True, 0, [-limit, limit])


def test_zero_stays_zero_and_all_zero_is_legal():
    quantised = quantise(torch.tensor([-3.0, 0.0, 1e-9]), 8)
    assert quantised.values[1] == 0
    zero = quantise(torch.zeros(2, 3), 8)
    assert (zero.exponent, zero.signed) == (0, False)
    assert torch.equal(dequantise(zero), torch.zeros(2, 3))
    assert quantise(torch.zeros(0, 3), 8, signed=True).values.shape == (0, 3)


@pytest.mark.parametrize("largest", [1e-45, 1e-38, 3e38])
def test_extreme_magnitudes_stay_finite(largest):
    quantised = quantise(torch.tensor([largest, -largest]), 8)
    assert quantised.values.isfinite().all()
    assert quantised.values.abs().max() <= 127


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_quantiser_names_what_is_not_finite(bad):
    with pytest.raises(UsageError, match=r"^layer stem: input holds NaN or infinity"):
        quantise(torch.tensor([1.0, bad]), 8, name="layer stem: input")


@pytest.mark.parametrize(
    ("tensor", "bits", "signed", "words"),
    [
        (torch.tensor([-1.0]), 1, None, "1 bits for signed"),
        (torch.tensor([1.0]), 17, None, "17 bits"),
        (torch.tensor([1.0]), 0, None, "0 bits"),
        (torch.tensor([-1.0]), 8, False, "negative"),
        (torch.tensor([1.0], dtype=torch.float64), 8, None, "float64"),
    ],
)
def test_quantiser_refuses(tensor, bits, signed, words):
    with pytest.raises(UsageError, match=words):
        quantise(tensor, bits, signed)


def test_sums_are_rounded_once():
    halfway = 2**24 + 1  # between two float32 numbers, even below
    assert to_float(torch.tensor([halfway, halfway + 2]), -3).tolist() == [2**21, (2**24 + 4) / 8]
    assert to_float(torch.tensor([2**46 + 1]), 0).tolist() == [2.0**46]
    assert math.copysign(1, to_float(torch.tensor([-0.0], dtype=torch.float64), 0).item()) == 1


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(*[st.integers(-(2**24) + 1, 2**24 - 1)] * 2), min_size=1, max_size=9),
    st.integers(0, 16),
    st.sampled_from((-200, -61, -30, 0, 60, 70)),
)
def test_halves_are_rounded_once(pairs, shift, exponent):
    low, high = (torch.tensor(part, dtype=torch.float32) for part in zip(*pairs, strict=True))
    halves = Halves(low, high, 2**shift)
    integers = torch.tensor([one + (other << shift) for one, other in pairs], dtype=torch.float64)
    assert torch.equal(halves.integers(), integers)
    expected = (integers * 2.0**exponent + 0.0).to(torch.float32)
    assert torch.equal(to_float(halves, exponent).view(torch.int32), expected.view(torch.int32))


def test_halves_that_cancel_are_plus_zero():
    halves = Halves(torch.tensor([-0.0, 256.0]), torch.tensor([-0.0, -1.0]), 256)
    assert to_float(halves, 0).view(torch.int32).tolist() == [0, 0]


@pytest.mark.parametrize("exponent", (-260, -150, -61, -60, 0, 60, 61, 104, 130, 260))
def test_scaling_is_the_same_whatever_type_a_device_answers_with(exponent):
    integers = torch.tensor([0, 1, -1, 3, 12_345_677, -(2**24) + 1, 2**20])
    expected = to_float(integers, exponent)
    for dtype in (torch.float32, torch.float64):
        found = to_float(integers.to(dtype), exponent)
        assert torch.equal(found.view(torch.int32), expected.view(torch.int32))
    assert torch.equal(expected, (integers.double() * 2.0**exponent).float())


# layers: results and gradients


CONVOLUTIONS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2, "padding": 1, "bias": False},
    {"kernel_size": 1, "stride": 2},
    {"kernel_size": (2, 3), "stride": (1, 2), "padding": (0, 1)},
    {"kernel_size": 3, "padding": "same"},
    {"kernel_size": 2, "padding": "valid"},
]


def expected(layer, x, bits):
    """(y, dX, dW, db) with float64 convolutions of the dequantised tensors."""
    x64 = dequantise(quantise(x, bits.activation)).double().requires_grad_()
    w64 = dequantise(quantise(layer.weight, bits.weight, signed=True)).double().requires_grad_()
    if isinstance(layer, nn.Conv2d):
        padding = layer.padding
        y = functional.conv2d(x64, w64, None, layer.stride, padding)
    else:
        y = functional.linear(x64, w64)
    g = gradient_like(y)
    y.backward(dequantise(quantise(g.float(), bits.gradient, signed=True)).double())
    y = y.detach().float()
    if layer.bias is not None:
        y = y + (layer.bias[:, None, None] if isinstance(layer, nn.Conv2d) else layer.bias).detach()
    channels_last = g.movedim(1, -1) if isinstance(layer, nn.Conv2d) else g
    return y, x64.grad.float(), w64.grad.float(), channels_last.reshape(-1, len(layer.weight)).sum(0)


def gradient_like(y):
    return torch.randn(y.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float32)


def check_layer(layer, x, bits, device):
    x.requires_grad_()
    y, dx, dw, db = expected(layer, x.detach(), bits)
    converted = convert(layer, device, bits=bits)
    got = converted(x)
    got.backward(gradient_like(got))
    assert torch.equal(got, y)
    assert torch.equal(x.grad, dx)
    assert torch.equal(converted.weight.grad, dw)
    assert dx.abs().max() > 0 and dw.abs().max() > 0
    if layer.bias is not None:
        assert torch.allclose(converted.bias.grad, db, rtol=1e-5)


@pytest.mark.parametrize("url", ["reference", "model:tiny"])
@pytest.mark.parametrize("arguments", CONVOLUTIONS)
@pytest.mark.parametrize("bits", [Bits(), Bits(3, 5, 7), Bits(1, 2, 2), Bits(16, 16, 16)])
def test_convolution_is_exact(url, arguments, bits):
    torch.manual_seed(1)
    device = ReferenceDevice() if url == "reference" else bitfirst.open(url)
    check_layer(nn.Conv2d(3, 5, **arguments), torch.rand(4, 3, 7, 6), bits, device)


@pytest.mark.parametrize("shape", [(6, 12), (2, 3, 12), (12,)])
def test_linear_is_exact(shape):
    torch.manual_seed(2)
    check_layer(nn.Linear(12, 7), torch.randn(shape), Bits(), bitfirst.open("model:tiny"))


def test_unbatched_image():
    layer = convert(nn.Conv2d(3, 5, 3), ReferenceDevice())
    image = torch.rand(3, 8, 8)
    assert torch.equal(layer(image), layer(image[None])[0])


def test_empty_batch():
    layer = convert(nn.Conv2d(3, 5, 3, stride=2, padding=1), bitfirst.open("model:tiny"))
    x = torch.rand(0, 3, 8, 8, requires_grad=True)
    y = layer(x)
    assert y.shape == nn.Conv2d(3, 5, 3, stride=2, padding=1)(x).shape
    y.sum().backward()
    assert x.grad.shape == x.shape and torch.equal(layer.weight.grad, torch.zeros_like(layer.weight))


@pytest.mark.parametrize("shape", [(1, 3, 0, 8), (0, 3, 1, 8), (0, 2, 8, 8)])
def test_layers_that_have_nothing_to_compute_are_refused(shape):
    """Batches without an image too, where an image could not be computed."""
    layer = convert(nn.Conv2d(3, 5, 3), bitfirst.open("model:tiny"))
    with pytest.raises(UsageError, match=r"nothing to compute|does not fit|takes"):
        layer(torch.rand(shape))


def test_wrong_number_of_features_is_one_clear_line():
    layer = convert(nn.Linear(5, 2), bitfirst.open("model:tiny"))
    with pytest.raises(UsageError, match=r"a linear layer of 5 inputs takes \[\.\.\., 5\], not \[1, 4\]"):
        layer(torch.rand(1, 4))


def test_a_url_is_no_device():
    with pytest.raises(UsageError, match="device 'rtl' is not open"):
        convert(nn.Linear(2, 2), "rtl")


def test_only_needed_products_are_computed():
    device = ReferenceDevice()
    layer = convert(nn.Conv2d(1, 2, 3), device)
    layer(torch.rand(1, 1, 8, 8)).sum().backward()
    assert device.commands == 2  # no dX for data
    layer.weight.requires_grad_(False)
    layer(torch.rand(1, 1, 8, 8, requires_grad=True)).sum().backward()
    assert device.commands == 4  # no dW for frozen weights


def test_widths_are_settable_for_each_layer():
    net = convert(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), ReferenceDevice(), bits=Bits(6, 6, 6))
    net[1].bits = Bits(2, 2, 2)
    x = torch.rand(3, 4)
    assert torch.equal(net[1](x), expected(net[1], x, Bits(2, 2, 2))[0])
    assert not torch.equal(net[1](x), expected(net[1], x, Bits(6, 6, 6))[0])
    with pytest.raises(UsageError, match="weight: 1 bits"):
        Bits(8, 1, 16)


# conversion


def test_names_stay_and_checkpoints_load_both_ways():
    module = digits_resnet()
    converted = convert(module, ReferenceDevice())
    assert isinstance(converted.conv, nn.Conv2d) and type(module.conv) is nn.Conv2d
    assert list(converted.state_dict()) == list(module.state_dict())
    fresh = digits_resnet()
    fresh.load_state_dict(converted.state_dict(), strict=True)
    converted.load_state_dict(digits_resnet().state_dict(), strict=True)


def test_inplace_and_filter():
    module = digits_resnet()
    converted = convert(module, ReferenceDevice(), filter_fn=lambda layer, name: "shortcut" in name, inplace=True)
    assert converted is module
    chosen = [name for name, layer in module.named_modules() if isinstance(layer, layers.Conv2d)]
    assert chosen == ["blocks.1.shortcut.0"]
    assert left_on_host(module)["conv"] == "not chosen by filter_fn"


def test_what_cannot_be_converted_is_left_and_listed():
    module = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.Conv2d(4, 4, 3, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 2, padding="same"),
        nn.ConvTranspose2d(4, 4, 3),
        nn.Conv2d(4, 4, 3),
    )
    left = left_on_host(convert(module, ReferenceDevice()))
    assert list(left) == ["0", "1", "2", "3", "4"]
    for reason, word in zip(left.values(), ("groups", "dilation", "reflect", "same", "ConvTranspose2d"), strict=True):
        assert word in reason


def test_nothing_to_convert_names_the_mend():
    with pytest.raises(UsageError, match=r"ReLU has no nn\.Conv2d or nn\.Linear"):
        convert(nn.ReLU(), ReferenceDevice())
    with pytest.raises(UsageError, match="groups = 2"):
        convert(nn.Conv2d(4, 4, 3, groups=2), ReferenceDevice())
    with pytest.raises(UsageError, match="filter_fn"):
        convert(nn.Linear(2, 2), ReferenceDevice(), filter_fn=lambda layer, name: False)


def test_copies_share_the_device_and_averages_work():
    device = ReferenceDevice()
    net = convert(nn.Linear(4, 3), device)
    average = torch.optim.swa_utils.AveragedModel(net)
    average.update_parameters(net)
    x = torch.rand(2, 4)
    assert torch.equal(average(x), net(x))
    assert copy.deepcopy(net).connection.device is device


def test_a_saved_module_has_no_device_until_converted_again():
    device = ReferenceDevice()
    net = convert(nn.Sequential(nn.Linear(4, 3)), device, bits=Bits(4, 4, 4))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    x = torch.rand(2, 4)
    with pytest.raises(UsageError, match=r"layer 0 has no device: .*convert"):
        loaded(x)
    assert torch.equal(convert(loaded, device, bits=Bits(4, 4, 4))(x), net(x))


# PyTorch around the layers


@pytest.mark.parametrize("arguments", [(nn.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 6)), (nn.Linear(6, 4), (5, 6))])
def test_layers_compile_into_one_graph(arguments):
    module, shape = arguments
    net = convert(module, ReferenceDevice())
    x = torch.rand(shape, requires_grad=True)
    y = net(x)
    y.sum().backward()
    wanted = y.detach(), x.grad, net.weight.grad, net.bias.grad
    x.grad = net.weight.grad = net.bias.grad = None
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    y = compiled(x)
    y.sum().backward()
    for got, value in zip((y.detach(), x.grad, net.weight.grad, net.bias.grad), wanted, strict=True):
        assert torch.equal(got, value)


def gradients_of(net, x):
    """Of a fixed loss: of x, and of all parameters."""
    x = x.clone().requires_grad_()
    net.zero_grad()
    net(x).square().sum().backward()
    return [x.grad, *(parameter.grad for parameter in net.parameters())]


NETWORKS = {
    "ordinary": (digits_resnet, Method, (2, 1, 8, 8)),
    "sbm": (digits_resnet, lambda: SBM(seed=1), (2, 1, 8, 8)),
    "signs": (digits_resnet, SignSGD, (2, 1, 8, 8)),
    "float": (lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4)), FP32, (3, 6)),
}


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "float"])
def test_whole_networks_compile_into_one_graph(name):
    make, method, shape = NETWORKS[name]
    torch.manual_seed(0)
    net, x = convert(make(), ReferenceDevice(), method()), torch.rand(shape)
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, backend="aot_eager")
    found, wanted = gradients_of(compiled, x), gradients_of(net, x)
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(found, wanted, strict=True))
    assert all(one.abs().max() > 0 for one in wanted)


@pytest.mark.parametrize("name", NETWORKS)
def test_activations_may_be_computed_again(name):
    """Activation checkpointing: the same gradients bit for bit, with one forward product more of each layer."""
    make, method, shape = NETWORKS[name]
    torch.manual_seed(0)
    device = ReferenceDevice()
    plain, x = convert(make(), device, method()), torch.rand(shape)
    wanted = gradients_of(plain, x)
    once = device.commands
    again = copy.deepcopy(plain)
    found = gradients_of(Checkpointed(again), x)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    products = sum(hasattr(layer, "connection") and layer.host is None for layer in plain.modules())
    assert device.commands - 2 * once == products


class Checkpointed(nn.Module):
    """All of it is computed again in the backward pass."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return torch.utils.checkpoint.checkpoint(self.net, x, use_reentrant=False)


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("method", [DFQ, SLU, StochasticDepth])
def test_choices_are_not_made_again(method, reentrant):
    """A forward pass that is computed again would choose anew: refused; the numbers of the choices stay as they are."""
    torch.manual_seed(0)
    net, x = convert(digits_resnet(), ReferenceDevice(), method()), torch.rand(2, 1, 8, 8, requires_grad=True)
    loss = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=reentrant).square().sum()
    random = (net.blocks[1].dispatch[0].random).state
    with pytest.raises(
        UsageError, match=r"a block \(Block\) is computed again .*: leave activation checkpointing, .* out"
    ):
        loss.backward()
    assert torch.equal((net.blocks[1].dispatch[0].random).state, random)


@pytest.mark.parametrize("method", [DFQ, SLU, StochasticDepth])
def test_a_block_whose_own_code_computes_again_is_refused(method):
    """There it would have no widths of its own, and batch norm would take the samples for all."""
    torch.manual_seed(0)
    net = convert(digits_resnet(), ReferenceDevice(), method())
    block, x = net.blocks[1], torch.rand(8, 1, 8, 8)

    class Frugal(type(block)):
        def residual(self, x):
            return torch.utils.checkpoint.checkpoint(super().residual, x, use_reentrant=False)

    block.__class__ = Frugal
    losses = [net(x).square().sum() for _ in range(4)]  # some compute the block
    with pytest.raises(UsageError, match=r"layer blocks\.1\.conv. is computed again"):
        sum(losses).backward()
    ordinary = convert(net, ReferenceDevice(), Method())
    ordinary(x).square().sum().backward()
    assert ordinary.blocks[1].conv1.weight.grad is not None


def test_rounding_that_is_new_in_each_pass_is_found_by_checkpointing():
    """Control: random bits must be those of the step, not of the pass."""
    torch.manual_seed(0)
    net, x = (
        convert(nn.Conv2d(1, 2, 3), ReferenceDevice(), SBM(bits=2, error=2, gradient=2, seed=1)),
        torch.rand(2, 1, 8, 8),
    )
    wanted = gradients_of(net, x)
    net.gradients.step += 1
    assert not all(torch.equal(one, other) for one, other in zip(gradients_of(net, x), wanted, strict=True))


def test_operators_follow_the_rules():
    net = convert(nn.Conv2d(3, 4, 3, padding=1), ReferenceDevice())
    arguments = (net.connection.number, [1, 1], [1, 1], [8, 8, 16], "layer", NO_SIGNER, WHOLE)
    x, w = torch.rand(2, 3, 6, 6, requires_grad=True), net.weight
    torch.library.opcheck(torch.ops.bitfirst.product.default, (x, w, *arguments))


def test_autocast_computes_in_float32():
    net = convert(nn.Linear(6, 4), ReferenceDevice())
    x = torch.rand(5, 6)
    with torch.autocast("cpu", torch.bfloat16):
        y = net(x.bfloat16())
    assert y.dtype == torch.float32
    assert torch.equal(y, net(x.bfloat16().float()))


@pytest.mark.parametrize("shape", [(5, 6), (2, 3, 6, 6)])
def test_autocast_changes_no_gradient(shape):
    """Products of both kinds of layers, forward and backward, are those without autocast."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 4) if len(shape) == 2 else nn.Conv2d(3, 4, 3)
    net, x = convert(layer, ReferenceDevice()), torch.rand(shape)
    wanted = gradients_of(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradients_of(net, x)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert found[0].abs().max() > 0


def test_no_gradient_modes():
    net = convert(nn.Linear(6, 4), ReferenceDevice())
    x = torch.rand(5, 6)
    wanted = net(x).detach()
    with torch.no_grad():
        assert torch.equal(net(x), wanted)
    with torch.inference_mode():
        assert torch.equal(net(x), wanted)


def test_second_derivatives_are_refused():
    net = convert(nn.Linear(6, 4), ReferenceDevice())
    x = torch.rand(5, 6, requires_grad=True)
    (first,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
    with pytest.raises(UsageError, match="first derivatives only"):
        first.sum().backward()


def test_a_gradient_that_is_not_finite_names_its_layer():
    net = convert(nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2)), ReferenceDevice())
    y = net(torch.rand(5, 6))
    with pytest.raises(UsageError, match="layer 1: output gradient holds NaN"):
        y.backward(torch.full_like(y, math.nan))


def test_wrong_type_is_refused():
    net = convert(nn.Linear(6, 4), ReferenceDevice())
    with pytest.raises(UsageError, match="float64: only float32"):
        net(torch.rand(5, 6, dtype=torch.float64))


def test_counters_of_each_layer():
    device = bitfirst.open("model:tiny")
    net = convert(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2)), device)
    rows = layer_counters(net, lambda net: net(torch.rand(5, 6)).sum().backward())
    seen = [(row["layer"], row["phase"]) for row in rows]
    assert seen == [
        ("0", "forward"),
        ("2", "forward"),
        ("2", "input_gradient"),
        ("2", "weight_gradient"),
        ("0", "weight_gradient"),
    ]
    assert [row["bit_macs"] for row in rows] == [5 * 24 * 64, 5 * 8 * 64, 5 * 8 * 128, 5 * 8 * 128, 5 * 24 * 128]
    assert all(row["matmuls"] > 0 and row["matmul_cycles"] > 0 for row in rows)
    assert net[0].weight.grad is None and net[0].connection.measured is None
