"""Baselines in floating point on the host, and fine-tuning of the classifier alone."""

import copy
import itertools
from dataclasses import replace

import bitfirst
import pytest
import torch
from bitfirst import checkpoint, models, report, training
from bitfirst.errors import UsageError
from bitfirst.frozen import Frozen
from bitfirst.host import HalfProducts
from bitfirst.methods import FP16, FP32, PSG, SLU, SMD, SWA, Compose, FCOnly, Method, SignSGD, Static
from bitfirst.nn import Bits, convert
from bitfirst.training import TrainOptions
from method_runs import (
    QUIET,
    assert_same,
    few,
    interrupted_and_not,
    network,
    optimizer_of,
    perceptron,
    small_digits,
    state,
    total,
)
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional
from work import CLASSIFIER, DIGITS, bit_macs, forward_bit_macs

# float32


def test_fp32_is_the_network_without_a_device_bit_for_bit():
    method, device = FP32(), ReferenceDevice()
    net = network(method, device)
    optimizer = optimizer_of(net, method)
    bitfirst.train(net, few(3), optimizer, method)
    torch.manual_seed(0)
    plain = models.digits_resnet()
    other = optimizer_of(plain, Method())
    bitfirst.train(plain, few(3), other)
    assert_same(state(net, optimizer), state(plain, other))
    assert device.commands == 0
    with pytest.raises(AssertionError):  # control: the layers on the device
        converted = network(Method())
        other = optimizer_of(converted, Method())
        bitfirst.train(converted, few(3), other)
        assert_same(state(net, optimizer), state(converted, other))


#: MACs of an image with the padding's, forward, dX and dW, of the digits network
PADDED = {"conv": (72 * 64, 2), "1": (576 * 64, 3), "2": (576 * 64, 3), "3": (1152 * 16, 3), "4": (2304 * 16, 3)}
PADDED |= {"shortcut": (128 * 16, 3), "linear": (160, 3)}


def test_the_hosts_macs_are_counted_and_the_devices_are_none():
    with bitfirst.open("model:tiny") as device:
        method = FP32()
        net = network(method, device)
        bitfirst.train(net, few(2), optimizer_of(net, method), method)
        assert device.bit_macs == 0 and total(device, "array_steps") == 0
    assert method.summary()["host_macs"] == 2 * 8 * sum(macs * times for macs, times in PADDED.values())
    before = method.products.macs
    net.eval()(few(1)[0][0])
    assert method.products.macs - before == 8 * sum(macs for macs, _ in PADDED.values())


def test_the_result_has_no_cost_of_a_device(monkeypatch, tmp_path):
    written = report.write
    small_digits(monkeypatch, FP16)
    monkeypatch.setattr(report, "write", written)
    options = TrainOptions(device="reference", epochs=1, batch=8, method="fp16", out=tmp_path)
    result = training.train_and_compare(options, ReferenceDevice(), QUIET)
    for name in "cycles", "bit_macs", "bytes_moved", "utilisation", "array_utilisation":
        assert result[name] is None
    assert result["energy"]["provenance"] == "unavailable" and result["layers"] == []
    assert result["method"]["fp16"]["computed_on"] == "host" and result["history"][0]["cycles"] is None
    assert "was computed on the host in floating point" in (tmp_path / "report.html").read_text()


# float16


def half_by_hand(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, scale: float) -> list[torch.Tensor]:
    """y, dX, dW of a linear layer: numbers of float16, sums in float64 rounded to it."""

    def half(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.half().double()

    g16 = half(g * scale)
    return [half(half(x) @ half(w).T), half(g16 @ half(w)) / scale, half(g16.T @ half(x)) / scale]


def test_products_are_of_float16_numbers():
    torch.manual_seed(1)
    x, g = torch.randn(5, 6).requires_grad_(), torch.randn(5, 4) * 1e-7
    layer = convert(nn.Linear(6, 4, bias=False), ReferenceDevice(), FP16())
    y = layer(x)
    y.backward(g)
    wanted = half_by_hand(x.detach(), layer.weight.detach(), g, 2.0**16)
    for found, value in zip((y, x.grad, layer.weight.grad), wanted, strict=True):
        torch.testing.assert_close(found.detach().double(), value, rtol=2**-10, atol=0)
    unscaled = half_by_hand(x.detach(), layer.weight.detach(), g, 1.0)  # most of g vanishes
    assert (unscaled[2] - layer.weight.grad).abs().max() > 0.1 * layer.weight.grad.abs().max()
    assert not torch.equal(y.detach(), functional.linear(x, layer.weight).detach())


def overflowing(kind: type[FP16] = FP16) -> tuple[FP16, nn.Module, torch.optim.Optimizer, list]:
    """A network whose second step overflows; weights and momenta after each of four steps."""
    method = kind(scale=256.0, interval=2)
    net = perceptron(method)
    optimizer = optimizer_of(net, method)
    kept, scales = [], []
    for step, (x, y) in enumerate(few(4)):
        scales.append(method.products.scale)
        loss = functional.cross_entropy(net(x), y) * (1e6 if step == 1 else 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step(loss)
        kept.append([tensor.clone() for tensor in state(net, optimizer)])
    assert scales == [256.0, 256.0, 128.0, 128.0]
    return method, net, optimizer, kept


def check_left_out(kind: type[FP16]) -> None:
    method, _, _, kept = overflowing(kind)
    assert_same(kept[0], kept[1])
    assert not torch.equal(kept[1][0], kept[2][0])
    assert (method.skipped, method.products.scale) == (1, 256.0)  # grown after two good steps


def test_a_step_that_overflows_is_left_out_and_the_scale_follows():
    check_left_out(FP16)


class Keeping(FP16):
    """Broken: moves by what overflowed."""

    def param_groups(self, net):
        groups = super().param_groups(net)
        self.products.parameters = []
        return groups


def test_moving_by_what_overflowed_is_found():
    with pytest.raises(AssertionError):
        check_left_out(Keeping)


def test_a_penalty_in_float32_knows_nothing_of_the_scale():
    """The gradient of what is not a product is as ever."""
    gradients = []
    for scale in 1.0, 2.0**14:
        method = Compose([FP16(scale=scale), SLU(alpha=0.5, seed=1)])
        net = network(method).train()
        ((x, y),) = method.loader(few(1))
        (functional.cross_entropy(net(x), y) + method.penalty(net)).backward()
        gradients.append(torch.cat([one.grad.flatten() for one in net.blocks[1].gates.parameters()]))
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-5)
    assert gradients[0].abs().max() > 1e-4


@pytest.mark.parametrize("make", [lambda: Compose([FP16(interval=2), SMD(seed=1), SWA(start=0.0)]), FP32])
def test_they_resume(make, monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(make, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] == whole["weights_sha256"] and resumed["method"] == whole["method"]


# the classifier alone


def learnt(method: FCOnly, url: str, epochs: int = 2) -> tuple[nn.Module, nn.Module, int]:
    """The network before and after, and bit-MACs for `epochs` times two batches of 8."""
    with bitfirst.open(url) as device:
        net = network(method, device)
        with torch.no_grad():
            net.norm.running_mean.add_(0.1)
        before = copy.deepcopy(net)
        bitfirst.train(net, few(2), optimizer_of(net, method), method, epochs=epochs)
        return before, net, device.bit_macs


def work_of(passes: int, steps: int) -> tuple[int, int]:
    """Bit-MACs of so many passes of 8 images to the classifier, and its steps."""
    bits = (8, 8, 8)
    features = sum(forward_bit_macs(layer, 8, bits) for layer in DIGITS if layer is not CLASSIFIER)
    step = bit_macs(CLASSIFIER, 8, bits) - 8 * CLASSIFIER.macs * 64  # no dX
    return passes * features + steps * step


def check_alone(method: FCOnly, url: str, passes: int) -> None:
    before, net, macs = learnt(method, url)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    assert moved == {"linear.weight", "linear.bias"}
    assert macs == work_of(passes, 4)
    assert net.training and net.norm.training


@pytest.mark.parametrize("url", ["model:tiny?counting=0", "rtl:tiny"])
@pytest.mark.parametrize(("cached", "passes"), [(False, 4), (True, 2)])
def test_only_the_classifier_learns_and_nothing_else_is_paid_for(url, cached, passes):
    check_alone(FCOnly(cached=cached), url, passes)


class AllLayers(FCOnly):
    """Broken: the others are computed as ever, and only not moved."""

    def prepare(self, net):
        super().prepare(net)
        classifier = net.forward.classifier
        del net.forward
        net.__dict__["forward"] = Whole(net, classifier)


class Whole:
    def __init__(self, net, classifier):
        self.net, self.classifier = net, classifier

    def __call__(self, x):
        return type(self.net).forward(self.net, x)


def test_gradients_that_nobody_needs_are_found():
    with pytest.raises(AssertionError):
        check_alone(AllLayers(), "model:tiny?counting=0", 4)


def test_the_classifier_learns_as_by_itself():
    """On the features in evaluation, in float32."""
    method = FCOnly(bits=None)
    net = network(method)
    alone, body = copy.deepcopy(net.linear), copy.deepcopy(net).eval()
    body.linear = nn.Identity()
    del body.forward
    optimizer = optimizer_of(net, method)
    bitfirst.train(net, few(3), optimizer, method)
    linear = nn.Linear(16, 10)
    linear.load_state_dict(alone.state_dict())
    own = optimizer_of(linear, Method())
    with torch.no_grad():
        features = [(body(x), y) for x, y in few(3)]
    bitfirst.train(linear, features, own)
    assert torch.equal(net.linear.weight, linear.weight) and torch.equal(net.linear.bias, linear.bias)
    assert method.summary()["computed_on"] == "host" and method.summary()["parameters"] == 170


def test_kept_features_are_those_of_each_image():
    plain, cached = (network(FCOnly(bits=None, cached=cached)) for cached in (False, True))
    batches = few(3)
    for index in torch.randperm(24, generator=torch.Generator().manual_seed(0)).split(8):
        images = torch.cat([x for x, _ in batches])[index]
        torch.testing.assert_close(plain(images), cached(images))
        assert torch.equal(cached.train()(images), cached.eval()(images))
    assert cached.forward.kept == 24
    twice = torch.cat([images, images[:3]])
    assert cached(twice).shape == (11, 10) and cached.forward.kept == 24


def test_kept_features_resume(monkeypatch, tmp_path):
    def make() -> Method:
        return Compose([FCOnly(cached=True), SMD(seed=1)])

    whole, resumed = interrupted_and_not(make, monkeypatch, tmp_path, epochs=3)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["method"] == whole["method"] and whole["method"]["fconly"]["cached"] > 0
    assert resumed["bit_macs"] == whole["bit_macs"]


class Anew(FCOnly):
    """Broken: the features are computed again."""

    def load_state_dict(self, kept):
        super().load_state_dict({"macs": kept["macs"]})


def test_features_that_are_computed_again_are_found(monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(lambda: Anew(cached=True), monkeypatch, tmp_path)
    assert resumed["bit_macs"] > whole["bit_macs"]


def test_copies_and_conversions_are_without_it():
    net = network(FCOnly())
    again = copy.deepcopy(net)
    assert again.forward.net is again and again.forward.classifier is again.linear
    plain = convert(net, ReferenceDevice(), Method())
    assert "forward" not in plain.__dict__ and plain.linear.host is None
    assert network(FP32()).conv.host is not None
    assert convert(network(FP32()), ReferenceDevice()).conv.host is None
    assert network(FCOnly()).conv.bits == Bits(8, 8, 8)


def test_a_training_begins_with_the_weights_of_another(monkeypatch, tmp_path):
    small_digits(monkeypatch, lambda: Compose([SLU(seed=1)]))
    options = TrainOptions(device="reference", epochs=1, batch=8, out=tmp_path / "first")
    training.train_and_compare(options, ReferenceDevice(), QUIET)
    weights, _ = checkpoint.load(tmp_path / "first" / training.CHECKPOINT)
    monkeypatch.setattr(TrainOptions, "training_method", lambda self: FCOnly())
    tuned = replace(options, init=tmp_path / "first" / training.CHECKPOINT, out=tmp_path / "second", method="fconly")
    assert tuned.identity()["init"] == str(tuned.init)
    for device in ReferenceDevice(), None:
        run = training.new_run(tuned, device)
        for name, tensor in run.net.state_dict().items():
            assert torch.equal(tensor, weights[f"net.{name}"])
    training.train_and_compare(tuned, ReferenceDevice(), QUIET)
    after, _ = checkpoint.load(tmp_path / "second" / training.CHECKPOINT)
    assert torch.equal(after["net.conv.weight"], weights["net.conv.weight"])
    assert not torch.equal(after["net.linear.weight"], weights["net.linear.weight"])
    checkpoint.save(tmp_path / "other", {"net.conv.weight": torch.zeros(1)}, {})
    with pytest.raises(UsageError, match="is no checkpoint of this network") as error:
        training.new_run(replace(tuned, init=tmp_path / "other"), None)
    assert "\n" not in str(error.value)


# what cannot be


class TwoHeads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(64, 4), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.body(x.flatten(1))).log_softmax(1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        *(
            (lambda one=one, other=other: Compose([one, other]), "conflict")
            for one, other in itertools.chain(
                itertools.product((FP32(), FP16(), FCOnly()), (SignSGD(), PSG(), Static())),
                [(FCOnly(), SLU()), (FCOnly(), SWA()), (FP32(), FP16())],
            )
        ),
        (lambda: FP16(scale=0.0), "scale = 0.0"),
        (lambda: FP16(backoff=1.0), "backoff = 1.0"),
        (lambda: FCOnly(bits=1), "weight: 1 bits"),
        (lambda: Frozen(nn.Conv2d(1, 1, 1), False), "Conv2d has no linear layer within it"),
        (
            lambda: convert(TwoHeads(), ReferenceDevice(), FCOnly())(few(1)[0][0]),
            "layer head is not the last one of TwoHeads",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, words):
    with pytest.raises(UsageError, match=words):
        make()


def test_copies_share_the_hosts_count():
    products = HalfProducts(2.0)
    assert copy.deepcopy(products) is products
