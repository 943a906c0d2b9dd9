"""Signs of weight gradients: the device's operation against unfolded sums, layers, methods, the journal."""

import copy
import pickle
from dataclasses import replace

import bitfirst
import pytest
import torch
from bitfirst import models, signs
from bitfirst.errors import UsageError
from bitfirst.golden.psg import (
    Mode,
    Predictor,
    Rule,
    Split,
    State,
    Sums,
    Threshold,
    decide,
)
from bitfirst.methods import PSG, Leading, SignSGD
from bitfirst.nn import Bits, convert, in_float, signers
from bitfirst.optim import SGD
from bitfirst.quantised import Quantised
from bitfirst.quantiser import dequantise, quantise
from bitfirst.signs import Journal
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional

MODEL = bitfirst.open("model:tiny?counting=0")
E2TRAIN = PSG().rule(8, False, 16)


def random_operand(shape: tuple[int, ...], split: Split, generator: torch.Generator, exponent: int = 0) -> Quantised:
    """Small and large numbers within the split's limits."""
    low, high = split.limits
    most = max(1, high >> int(torch.randint(0, 5, (), generator=generator)))
    values = torch.randint(max(low, -most), most + 1, shape, generator=generator)
    return Quantised(values.float(), split.bits, split.signed, exponent)


def unfolded(x: torch.Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int]):
    return functional.unfold(x.double(), kernel, padding=padding, stride=stride).transpose(1, 2).flatten(0, 1)


def reference(g: Quantised, x: Quantised, kernel, rule: Rule, stride, padding, exponent=0, state=None):
    """The decision by `Sums.add` over unfolded operands, and the products with real pixels: [c * taps]."""
    rows = unfolded(x.values, kernel, stride, padding)
    columns = g.values.flatten(2).transpose(1, 2).flatten(0, 1)
    sums = Sums(rule.x, rule.g, rows.shape[1], columns.shape[1], len(rows))
    sums.add(rows, columns)
    real = unfolded(torch.ones_like(x.values), kernel, stride, padding).sum(0).long()
    return decide(sums, rule.threshold, exponent, state, rule.repair), real


def check_equal(decision, expected, real, rule):
    shape = decision.signs.shape
    assert torch.equal(decision.signs.flatten(1), expected.signs.T)
    assert torch.equal(decision.resolved.flatten(1), expected.resolved.T)
    assert (decision.threshold, decision.unit, decision.state) == (expected.threshold, expected.unit, expected.state)
    whole, first = rule.x.bits * rule.g.bits, rule.x.high * rule.g.high
    left = (~expected.resolved).sum(1)
    assert decision.done == int((real * (first * shape[0] + (whole - first) * left)).sum())
    assert decision.done + decision.saved == int(real.sum()) * whole * shape[0]


CUTS = st.sampled_from(Predictor)
RULES = st.builds(
    lambda signed, bits, low, cut, threshold, repair: Rule(
        Split(bits, min(low, bits - 2), signed, cut), Split(16, 2 + 2 * low, True, cut), threshold, repair
    ),
    st.booleans(),
    st.integers(4, 9),
    st.integers(1, 5),
    CUTS,
    st.builds(Threshold, st.sampled_from(Mode), st.sampled_from((0, 205, 410, 4096)), st.sampled_from((0.0, 3e5))),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(
    rule=RULES,
    channels=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    image=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    padding=st.tuples(st.integers(0, 1), st.integers(0, 2)),
    batch=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_signs_of_convolutions_are_those_of_unfolded_sums(rule, channels, image, kernel, stride, padding, batch, seed):
    generator = torch.Generator().manual_seed(seed)
    size = [max(pixels, taps - 2 * p) for pixels, taps, p in zip(image, kernel, padding, strict=True)]
    x = random_operand((batch, channels[0], *size), rule.x, generator, 3)
    output = [(n + 2 * p - t) // s + 1 for n, p, t, s in zip(size, padding, kernel, stride, strict=True)]
    g = random_operand((batch, channels[1], *output), rule.g, generator, -5)
    shape = (channels[1], channels[0], *kernel)
    expected, real = reference(g, x, kernel, rule, stride, padding, -2)
    state = State(expected.state.maximum * 3 // 2, expected.state.exponent + 1)
    expected, _ = reference(g, x, kernel, rule, stride, padding, -2, state)
    found = MODEL.conv2d_weight_signs(g, x, shape, rule, stride, padding, state)
    assert found.signs.shape == shape
    check_equal(found, expected, real, rule)


def test_large_sums_are_exact_where_float32_would_not_be():
    """All operands at their limits, enough of them that the kernels must cut."""
    x = Quantised(torch.full((8, 2, 32, 32), 247.0), 8, False, 0)
    g = Quantised(torch.full((8, 3, 32, 32), 32735.0), 16, True, 0)
    g.values[:, 1] *= -1
    g.values[0, 2] = -32734
    found = MODEL.conv2d_weight_signs(g, x, (3, 2, 3, 3), E2TRAIN, 1, 1)
    check_equal(found, *reference(g, x, (3, 3), E2TRAIN, (1, 1), (1, 1)), E2TRAIN)


@pytest.mark.parametrize("leading", [(), (5,)])
def test_signs_of_linear_layers(leading):
    generator = torch.Generator().manual_seed(2)
    x = random_operand((*leading, 4, 6), E2TRAIN.x, generator)
    g = random_operand((*leading, 4, 3), E2TRAIN.g, generator)
    found = MODEL.linear_weight_signs(g, x, E2TRAIN)
    sums = Sums(E2TRAIN.x, E2TRAIN.g, 6, 3, x.values.numel() // 6)
    sums.add(x.values.reshape(-1, 6), g.values.reshape(-1, 3))
    expected = decide(sums, E2TRAIN.threshold, repair=True)
    assert torch.equal(found.signs, expected.signs.T) and torch.equal(found.resolved, expected.resolved.T)
    assert (found.done, found.saved) == (expected.done, expected.saved)


@pytest.mark.parametrize("device", [MODEL, ReferenceDevice()], ids=["model", "reference"])
def test_without_a_rule_the_whole_product_decides_on_every_device(device):
    generator = torch.Generator().manual_seed(3)
    x, g = random_operand((2, 3, 6, 6), E2TRAIN.x, generator), random_operand((2, 4, 6, 6), E2TRAIN.g, generator)
    before = device.bit_macs
    found = device.conv2d_weight_signs(g, x, (4, 3, 3, 3), None, 1, 1)
    exact = torch.nn.grad.conv2d_weight(x.values.double(), (4, 3, 3, 3), g.values.double(), 1, 1)
    assert found.signs.dtype == torch.int8 and torch.equal(found.signs.double(), exact.sign())
    assert not found.resolved.any() and found.saved == 0 and found.done == device.bit_macs - before > 0


def test_the_devices_bit_macs_grow_by_what_was_done():
    generator = torch.Generator().manual_seed(4)
    x, g = random_operand((2, 3, 6, 6), E2TRAIN.x, generator), random_operand((2, 4, 6, 6), E2TRAIN.g, generator)
    with bitfirst.open("model:tiny") as device:
        whole = device.conv2d_weight_signs(g, x, (4, 3, 3, 3), None, 1, 1)
        before = device.bit_macs
        found = device.conv2d_weight_signs(g, x, (4, 3, 3, 3), E2TRAIN, 1, 1)
        assert device.bit_macs - before == found.done < whole.done == found.done + found.saved


def test_rules_that_no_gateware_has_count_as_the_whole_product():
    generator = torch.Generator().manual_seed(4)
    x, g = random_operand((2, 3, 6, 6), E2TRAIN.x, generator), random_operand((2, 4, 6, 6), E2TRAIN.g, generator)
    floor = Rule(replace(E2TRAIN.x, predictor=Predictor.FLOOR), E2TRAIN.g, E2TRAIN.threshold)
    with bitfirst.open("model:tiny") as device:
        device.conv2d_weight_signs(g, x, (4, 3, 3, 3), None, 1, 1)
        counters = device.counters()
        device.conv2d_weight_signs(g, x, (4, 3, 3, 3), floor, 1, 1)
        assert device.counters()["matmul_cycles"] == 2 * counters["matmul_cycles"]


@pytest.mark.parametrize("cut", Predictor)
@pytest.mark.parametrize(("bits", "low", "signed"), [(8, 4, False), (8, 4, True), (10, 3, True), (5, 1, False)])
def test_the_leading_part_is_that_of_the_cut(bits, low, signed, cut):
    split = Split(bits, low, signed, cut)
    least, most = split.limits
    values = torch.arange(least, most + 1)
    assert torch.equal(split.leading(values.float()).long(), split.cut(values)[0])
    assert torch.equal(values, torch.arange(least, most + 1))


# bad input
def test_all_zero_gradients_and_single_elements_are_legal():
    for x_value, g_value in ((0, 0), (0, 9), (5, 0), (3, -70)):
        x = Quantised(torch.full((1, 1, 1, 1), float(x_value)), 8, False, 0)
        g = Quantised(torch.full((1, 1, 1, 1), float(g_value)), 16, True, 0)
        for rule in E2TRAIN, PSG(beta=0.0).rule(8, False, 16), PSG(tau="constant", constant=0.0).rule(8, False, 16):
            found = MODEL.conv2d_weight_signs(g, x, (1, 1, 1, 1), rule)
            finished = rule is E2TRAIN and not found.resolved.item()
            wanted = x_value * g_value if finished else found.signs.item()
            assert found.signs.item() == (wanted > 0) - (wanted < 0)
            assert x_value * g_value != 0 or found.signs.item() == 0


@pytest.mark.parametrize(
    ("x_value", "g_value", "words"),
    [(248, 0, r"the input goes up to 248; .* hold 0 to 247: .*low=4"), (0, -32736, "the gradient goes up to 32736")],
)
def test_operands_outside_the_balanced_range_are_refused(x_value, g_value, words):
    x = Quantised(torch.full((1, 1, 1, 1), float(x_value)), 8, False, 0)
    g = Quantised(torch.full((1, 1, 1, 1), float(g_value)), 16, True, 0)
    before = MODEL.bit_macs
    with pytest.raises(UsageError, match=words):
        MODEL.conv2d_weight_signs(g, x, (1, 1, 1, 1), E2TRAIN)
    assert MODEL.bit_macs == before


def test_operands_of_other_widths_than_the_rules_are_refused():
    x, g = Quantised(torch.zeros(1, 1, 1, 1), 7, False, 0), Quantised(torch.zeros(1, 1, 1, 1), 16, True, 0)
    with pytest.raises(UsageError, match=r"the input has 7 bits unsigned, the rule cuts 8 bits unsigned"):
        MODEL.conv2d_weight_signs(g, x, (1, 1, 1, 1), E2TRAIN)


def test_other_devices_say_that_they_cannot_predict():
    device, words = ReferenceDevice(), r"reference does not predict signs .* use the device model"
    with pytest.raises(UsageError, match=words):
        convert(nn.Conv2d(1, 1, 1), device, PSG())
    with pytest.raises(UsageError, match=words):
        device.linear_weight_signs(
            Quantised(torch.ones(1, 1), 16, True, 0), Quantised(torch.ones(1, 1), 8, False, 0), E2TRAIN
        )


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"beta": -0.01}, "beta = -0.01"),
        ({"beta": 1.01}, "beta = 1.01"),
        ({"beta": 1e-5}, "too small"),
        ({"tau": "best"}, "tau 'best' is unknown: choose from exact, lagged, constant"),
        ({"tau": "constant"}, "needs constant"),
        ({"constant": 1.0}, "no other tau takes it"),
        ({"tau": "constant", "constant": -1.0}, "threshold of -1"),
        ({"predictor": "4x10 up"}, "predictor '4x10 up' is unknown"),
    ],
)
def test_bad_methods_are_refused(fields, words):
    with pytest.raises(UsageError, match=words):
        PSG(**fields)


@pytest.mark.parametrize(
    ("bits", "predictor", "words"),
    [
        (Bits(4, 8, 16), "e2train", r"4 leading bits of 4 bits of the input: choose 1 to 3"),
        (Bits(8, 8, 10), "e2train", r"10 leading bits of 10 signed bits of the gradient: choose 2 to 9"),
        (Bits(8, 8, 16), "1x10 round", r"1 leading bits of 8 signed bits of the input"),
        (Bits(8, 8, 16), "9x10 round", r"9 leading bits of 8"),
    ],
)
def test_leading_bits_must_be_fewer_than_all(bits, predictor, words):
    with pytest.raises(UsageError, match=words):
        convert(nn.Conv2d(1, 1, 1), MODEL, PSG(predictor=predictor), bits=bits)


def test_something_else_than_a_method_is_refused():
    with pytest.raises(UsageError, match=r"method 'psg' is none: give methods\.PSG"):
        convert(nn.Conv2d(1, 1, 1), MODEL, "psg")


def test_the_preset_is_4_of_8_and_10_of_16_repaired():
    assert Leading.of("e2train") == Leading(4, 10, Predictor.ROUND, True)
    assert Leading.of("4x6 sign-magnitude") == Leading(4, 6, Predictor.SIGN_MAGNITUDE)
    assert PSG(repair=False).rule(8, True, 16) == Rule(
        Split(8, 4, True), Split(16, 6, True), Threshold(Mode.EXACT, 205), False
    )
    assert PSG(0.1).beta == 0.1


# quantiser
@settings(max_examples=300)
@given(
    st.floats(2.0**-60, 2.0**60, width=32),
    st.sampled_from(((8, 4, False), (8, 4, True), (16, 6, True), (16, 13, True))),
)
def test_the_quantiser_keeps_the_balanced_limits_with_the_smallest_scale(largest, split):
    bits, low, signed = split
    most = Split(bits, low, signed).limits[1]
    quantised = quantise(torch.tensor([largest]), bits, signed, low=low)
    assert round(largest * 2.0**-quantised.exponent) == quantised.peak == quantised.values.item() <= most
    assert round(largest * 2.0 ** (1 - quantised.exponent)) > most


# layers
def step(net, x, scale=1.0):
    net.zero_grad()
    y = net(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape) * scale).sum().backward()


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 3))


def test_weights_of_convolutions_get_signs_and_all_others_ordinary_gradients():
    x = torch.rand(3, 2, 5, 5)
    plain, signed = convert(network(), ReferenceDevice()), convert(network(), ReferenceDevice(), SignSGD())
    for net in plain, signed:
        step(net, x)
    assert torch.equal(signed[0].weight.grad, plain[0].weight.grad.sign())
    for name, parameter in plain.named_parameters():
        if name != "0.weight":
            assert torch.equal(signed.get_parameter(name).grad, parameter.grad), name
    both = convert(network(), ReferenceDevice(), SignSGD(linear=True))
    step(both, x)
    assert torch.equal(both[4].weight.grad, plain[4].weight.grad.sign())


def test_exact_signs_are_the_same_in_hardware():
    """And so are the weights after some steps of the integer update."""
    x, weights = torch.rand(2, 2, 5, 5), []
    for url in "rtl:tiny", "model:tiny":
        with bitfirst.open(url) as device:
            net = convert(network(), device, SignSGD(linear=True))
            optimizer = SGD(SignSGD().param_groups(net), 0.01, weight_decay=1e-3)
            for _ in range(3):
                step(net, x)
                optimizer.step()
            weights.append(net.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert not torch.equal(weights[0]["0.weight"], network().state_dict()["0.weight"])


def test_psg_that_resolves_nothing_is_the_sign_of_its_quantised_product():
    x = torch.rand(3, 2, 5, 5) - 0.3
    net = convert(network(), MODEL, PSG(tau="constant", constant=1e30))
    net[0].signer.watch = True
    step(net, x)
    seen = net[0].signer.watched
    assert net[0].signer.resolved == 0 and net[0].signer.decided == net[0].weight.numel()
    assert seen.x.peak <= 119 and seen.x.signed and seen.g.peak <= 32735
    assert torch.equal(dequantise(seen.x), dequantise(quantise(x, 8, low=4)))
    exact = torch.nn.grad.conv2d_weight(seen.x.values.double(), (4, 2, 3, 3), seen.g.values.double(), 1, 1)
    assert torch.equal(net[0].weight.grad.double(), exact.sign())


def test_psg_gives_the_devices_decision():
    net = convert(network(), MODEL, PSG())
    net[0].signer.watch = True
    step(net, torch.rand(3, 2, 5, 5))
    seen = net[0].signer.watched
    rule = PSG().rule(8, False, 16)
    wanted = MODEL.conv2d_weight_signs(seen.g, seen.x, (4, 2, 3, 3), rule, 1, 1)
    assert torch.equal(net[0].weight.grad, wanted.signs.float()) and 0 < wanted.resolved.sum() < 72
    assert (net[0].signer.done, net[0].signer.saved) == (wanted.done, wanted.saved)


def lagged():
    return convert(network(), MODEL, PSG(tau="lagged"))


def watched_step(net, x, scale=1.0):
    net[0].signer.watch = True
    step(net, x, scale)
    return net[0].signer.watched.decision


def test_the_lagged_threshold_is_that_of_the_step_before():
    net, x = lagged(), torch.rand(3, 2, 5, 5)
    first = watched_step(net, x)
    assert first.threshold == Threshold(Mode.EXACT, 205).integer(torch.tensor(first.state.maximum), 0)
    second = watched_step(net, x, 16.0)
    assert second.state.exponent - first.state.exponent == 4
    assert second.threshold == max(1, -(-205 * first.state.maximum // 2**16))


def test_a_state_of_another_scale_is_stale():
    net, x = lagged(), torch.rand(3, 2, 5, 5)
    watched_step(net, x)
    after = watched_step(net, x, 2.0**40)
    assert after.threshold == Threshold(Mode.EXACT, 205).integer(torch.tensor(after.state.maximum), 0)


def test_the_state_is_in_checkpoints_and_float_ones_load_too():
    net, x = lagged(), torch.rand(3, 2, 5, 5)
    assert set(net.state_dict()) == set(network().state_dict())
    net.load_state_dict(network().state_dict())
    first = watched_step(net, x)
    state = net.state_dict()
    assert state["0.threshold_state"].tolist() == [first.state.maximum, first.state.exponent]
    other = lagged()
    other.load_state_dict(state)
    assert other[0].signer.state == first.state
    other.load_state_dict(network().state_dict())
    assert other[0].signer.state is None
    convert(network(), MODEL, PSG()).load_state_dict(state)  # another method has no use for it
    assert "0.threshold_state" not in convert(network(), MODEL, PSG()).state_dict()


def test_copies_have_a_state_of_their_own_and_saved_modules_keep_it():
    net, x = lagged(), torch.rand(3, 2, 5, 5)
    first = watched_step(net, x)
    twin = copy.deepcopy(net)
    assert twin[0].signer.state == first.state
    step(twin, 3 * x)
    assert net[0].signer.state == first.state != twin[0].signer.state
    loaded = convert(pickle.loads(pickle.dumps(net)), MODEL, PSG(tau="lagged"))
    assert loaded[0].signer.state == first.state
    assert convert(net, MODEL, PSG(beta=0.1, tau="lagged"))[0].signer.state is None
    assert convert(net, MODEL)[0].signer is None


def test_layers_with_signs_compile_into_one_graph():
    net, x = convert(network()[0], MODEL, PSG()), torch.rand(3, 2, 5, 5)
    step(net, x)
    wanted = net.weight.grad, net.bias.grad
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    step(compiled, x)
    assert torch.equal(net.weight.grad, wanted[0]) and torch.equal(net.bias.grad, wanted[1])


def test_the_optimisers_groups():
    net = convert(network(), MODEL, PSG())
    signed, others = PSG().param_groups(net)
    assert signed["signs"] and signed["params"] == [net[0].weight]
    assert not others["signs"] and len(others["params"]) == 5
    with pytest.raises(UsageError, match="convert it with this method"):
        PSG().param_groups(network())


# the journal
def watched_layer(method):
    """A convolution after a backward pass; its gradient in float32."""
    torch.manual_seed(1)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, bias=False))
    images, target = torch.rand(4, 2, 7, 7), torch.randn(4, 3, 4, 4)

    def loss(net):
        return (net(images) - target).square().sum()

    converted = convert(net, MODEL, method)
    journal = Journal()
    journal.begin(converted, 0, 1, loss, MODEL.bit_macs)
    converted.zero_grad()
    converted[0].signer.watch = True
    loss(converted).backward()
    loss(net).backward()
    return converted, net[0].weight.grad, journal


def test_a_sample_counts_against_the_exact_product_and_fp32():
    net, fp32, journal = watched_layer(PSG(beta=0.1, predictor="2x3 floor"))
    seen = net[0].signer.watched
    journal.end(net, 0, MODEL.bit_macs)
    (row,) = journal.rows
    exact = torch.nn.grad.conv2d_weight(seen.x.values.double(), (3, 2, 3, 3), seen.g.values.double(), 2, 1).sign()
    found, resolved = seen.decision.signs.double(), seen.decision.resolved
    assert 0 < resolved.sum() < 54 and (found != exact).any()
    assert row["resolved"] == resolved.sum().item() / 54
    assert row["wrong_resolved"] == (found != exact)[resolved].sum().item() / resolved.sum().item()
    assert row["wrong_overall"] == (found != exact).sum().item() / 54
    assert row["wrong_fp32"] == (found != fp32.sign()).sum().item() / 54
    assert row["exact_wrong_fp32"] == (exact != fp32.sign()).sum().item() / 54
    assert row["bit_work"] == seen.decision.done / (seen.decision.done + seen.decision.saved)
    assert journal.summary(net)["dw"] == {"done": seen.decision.done, "saved": seen.decision.saved}


def test_the_bounds_are_those_of_each_weights_own_products():
    net, _, journal = watched_layer(PSG())
    seen = net[0].signer.watched
    journal.end(net, 0, MODEL.bit_macs)
    x = unfolded(seen.x.values, (3, 3), (2, 2), (1, 1))
    g = seen.g.values.flatten(2).transpose(1, 2).flatten(0, 1).double()
    real = unfolded(torch.ones_like(seen.x.values), (3, 3), (2, 2), (1, 1))
    spread = (2.0**8 / 12) * (real.T @ g.square()) + (2.0**12 / 12) * (x.square().sum(0)[:, None].expand(-1, 3))
    bound = spread / (2 * (x.T @ g).square())
    (row,) = journal.rows
    assert row["bound_mean"] == pytest.approx(bound.clamp(max=1).mean().item())
    assert row["bound_median"] == pytest.approx(bound.median().item())
    assert row["bound_vacuous"] == pytest.approx((bound >= 1).double().mean().item())
    tau = seen.decision.threshold * 2.0**seen.decision.unit
    assert row["bound_tau"] == pytest.approx((spread / (2 * tau**2)).mean().item())


@pytest.mark.parametrize("method", [SignSGD(), PSG(beta=0.0)])
def test_where_there_is_no_threshold_there_is_no_bound_with_it(method):
    net, _, journal = watched_layer(method)
    journal.end(net, 0, MODEL.bit_macs)
    (row,) = journal.rows
    assert row["bound_tau"] is None and (row["bound_mean"] is None) == (method == SignSGD())
    assert (row["wrong_overall"] == 0) == (method == SignSGD())


def test_rounding_to_the_first_bits_turns_signs_less_often_than_the_bound():
    """Chebyshev's bound holds for the share of wrong signs of many sums."""
    generator = torch.Generator().manual_seed(5)
    x = random_operand((16, 8, 8, 8), E2TRAIN.x, generator)
    g = random_operand((16, 16, 8, 8), E2TRAIN.g, generator)
    rule = PSG(beta=0.0, repair=False).rule(8, False, 16)
    decision = MODEL.conv2d_weight_signs(g, x, (16, 8, 3, 3), rule, 1, 1)
    seen = signs.Watched(g, x, ((1, 1), (1, 1)), decision)
    exact = signs.exact_gradient(seen)
    bound = signs.variance(seen, 16.0, 64.0) / (2 * exact.square())
    assert 0 < (decision.signs != exact.sign()).double().mean() <= bound.clamp(max=1).mean()


def test_in_float_is_the_network_before_conversion():
    net = network()
    converted = convert(net, MODEL, PSG(tau="lagged"))
    plain = in_float(converted)
    assert [type(layer) for layer in plain.modules()] == [type(layer) for layer in net.modules()]
    x = torch.rand(3, 2, 5, 5)
    assert torch.equal(plain(x), net(x)) and set(signers(plain)) == set() and set(signers(converted)) == {"0"}


def test_the_journal_counts_whole_steps_and_changes_nothing():
    def train(journal):
        torch.manual_seed(3)
        net = convert(models.digits_resnet(), MODEL, PSG(tau="lagged"))
        images = torch.rand(4, 1, 8, 8)

        def loss(net):
            return net(images).square().sum()

        macs = 0
        for number in range(3):
            before = MODEL.bit_macs
            if journal is not None:
                journal.begin(net, number, 3, loss, MODEL.bit_macs)
            net.zero_grad()
            loss(net).backward()
            macs += MODEL.bit_macs - before
            if journal is not None:
                journal.end(net, number, MODEL.bit_macs)
        return net, macs

    journal = Journal(samples=2)
    net, macs = train(journal)
    other, _ = train(None)
    for name, value in net.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(net.parameters(), other.parameters(), strict=True))
    assert sorted({row["step"] for row in journal.rows}) == [0, 2] and len(journal.rows) == 2 * 6
    summary = journal.summary(net)
    assert summary["step"]["done"] == macs and summary["step"]["saved"] == summary["dw"]["saved"] > 0
    assert 0 < summary["dw"]["done"] < macs
    again = Journal()
    again.restore(journal.state(net))
    assert again.summary(other)["dw"]["done"] == 2 * summary["dw"]["done"]
