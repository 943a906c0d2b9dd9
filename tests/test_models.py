"""Networks: sizes as published, the same after conversion, their methods."""

from collections.abc import Callable

import bitfirst
import pytest
import torch
from bitfirst import models
from bitfirst.blocks import residual_blocks
from bitfirst.errors import UsageError
from bitfirst.methods import DFQ, SLU, Compose, Method, SignSGD
from bitfirst.models import cifar_resnet
from bitfirst.nn import convert, left_on_host, macs_by_place
from method_runs import optimizer_of
from reference_device import ReferenceDevice
from torch import nn
from torch.nn import functional

MILLION = 1_000_000


def on_paper(make: Callable[[], nn.Module]) -> nn.Module:
    """Without memory for its weights."""
    with torch.device("meta"):
        return make()


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# sizes

#: exact where the literature counts (torchvision's and widely used CIFAR networks), else as rounded there
COUNTS = {
    "resnet8": 78_042,
    "resnet20": 269_722 + 2_752,  # with padding 269,722; two convolutions with batch norm more
    "resnet38": 564_122,
    "resnet74": 1_147_418,
    "resnet110": 1_727_962 + 2_752,
    "resnet164": 1_703_258,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "mobilenet_v2": 3_504_872,
    "mobilenet_v2_cifar": 3_504_872 - 990 * 1281,  # 10 classes
    "vgg11": 9_231_114,
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_published(name):
    assert parameters(on_paper(getattr(models, name))) == COUNTS[name]


def test_parameters_of_shortcuts_without_them():
    assert parameters(on_paper(lambda: cifar_resnet(20, shortcut="padding"))) == 269_722
    assert parameters(on_paper(lambda: cifar_resnet(110, shortcut="padding"))) == 1_727_962
    assert parameters(on_paper(lambda: cifar_resnet(110))) != 1_727_962  # control: the count tells them apart
    assert parameters(on_paper(lambda: models.vgg11(skips=False))) == COUNTS["vgg11"]


def test_the_base_transformer_is_the_papers():
    """65 million there; by hand: embeddings, attention of 4 (w * w + w), feed-forward, norms of 2 w."""
    w, inner, attention = 512, 2048, 4 * (512 * 512 + 512)
    forward = 2 * w * inner + inner + w
    layers = 6 * (attention + forward + 2 * 2 * w) + 6 * (2 * attention + forward + 3 * 2 * w)
    net = on_paper(models.transformer_base)
    assert parameters(net) == 37_000 * w + layers == pytest.approx(65 * MILLION, rel=0.03)
    assert net.linear.weight is net.embedding.table.weight
    assert len(net.encoder) == 12 and len(net.decoder) == 18


def weighted_layers(net: nn.Module) -> int:
    """On the longest way: without shortcuts."""
    kinds = (nn.Conv2d, nn.Linear)
    return sum(isinstance(layer, kinds) for name, layer in net.named_modules() if "shortcut" not in name)


@pytest.mark.parametrize("depth", [8, 20, 38, 74, 110, 164, 18, 34])
def test_depths_are_those_of_the_names(depth):
    assert weighted_layers(on_paper(getattr(models, f"resnet{depth}"))) == depth


def test_other_depths_are_made_and_refused():
    assert weighted_layers(on_paper(lambda: cifar_resnet(164))) == 164
    with pytest.raises(UsageError, match=r"depth = 21: choose 8, 14, 20 or another 6 n \+ 2"):
        cifar_resnet(21)
    with pytest.raises(UsageError, match="shortcut 'none' is unknown"):
        cifar_resnet(20, shortcut="none")


#: millions of multiply-accumulates for one image, and pixels a side
MACS = {
    "resnet20": (40.8, 32),
    "resnet110": (255, 32),
    "resnet18": (1_814, 224),
    "resnet34": (3_664, 224),
    "mobilenet_v2": (300, 224),
}


@pytest.mark.parametrize("name", MACS)
def test_work_is_as_published(name):
    macs, size = MACS[name]
    found = macs_by_place(on_paper(getattr(models, name)), torch.empty(1, 3, size, size, device="meta"))
    assert found["device"] == 0 and found["host"] == pytest.approx(macs * MILLION, rel=0.015)


# conversion

IMAGES = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(2))
LABELS = torch.tensor([3, 1, 4, 1])


def tiny(name: str) -> nn.Module:
    torch.manual_seed(0)
    makers: dict[str, Callable[[], nn.Module]] = {
        "padding": lambda: cifar_resnet(8, shortcut="padding"),
        "bottlenecks": lambda: models.PreResNet(1, 10),
        "large": lambda: models.ResNet(3, 8, ((8, 1, 1), (16, 1, 2)), 10, large=True),
        "mobilenet": models.mobilenet_v2_cifar,
        "plain": lambda: models.Plain((8, 8, models.vgg.POOL, 16, 16), 10, True),
    }
    return makers[name]()


TINY = ("padding", "bottlenecks", "large", "mobilenet", "plain")


@pytest.mark.parametrize("name", TINY)
def test_networks_convert_train_and_load_both_ways(name):
    plain, method = tiny(name), Method()
    net = convert(plain, ReferenceDevice(), method)
    assert list(net.state_dict()) == list(plain.state_dict())
    closeness = functional.cosine_similarity(net.eval()(IMAGES), plain.eval()(IMAGES))
    assert closeness.min() > 0.95  # 8 bits of the same network
    bitfirst.train(net, [(IMAGES, LABELS)], optimizer_of(net, method), method)
    moved = [not torch.equal(one, other) for one, other in zip(net.parameters(), plain.parameters(), strict=True)]
    assert sum(moved) > 0.9 * len(moved)
    plain.load_state_dict(net.state_dict(), strict=True)
    net.load_state_dict(tiny(name).state_dict(), strict=True)


def test_a_network_that_is_another_is_no_float_checkpoint():
    with pytest.raises(RuntimeError, match="Missing key"):
        convert(tiny("padding"), ReferenceDevice()).load_state_dict(tiny("large").state_dict(), strict=True)


def test_depthwise_layers_stay_on_the_host_and_their_share_is_told():
    """By hand: of each block of t times c channels on s x s pixels, c * t * 9 * s * s of depthwise work."""
    net = convert(on_paper(models.mobilenet_v2_cifar), ReferenceDevice())
    reasons = left_on_host(net)
    assert len(reasons) == 17 and all("groups" in reason for reason in reasons.values())
    found = macs_by_place(net, torch.empty(2, 3, 32, 32, device="meta"))
    host = dense = 0
    size, width = 32, 32
    dense += 27 * 32 * size**2
    for expansion, channels, count, stride in models.mobilenet.STAGES:
        for index in range(count):
            wide = width * expansion
            dense += width * wide * size**2 if expansion > 1 else 0
            size //= stride if index == 0 and channels not in (24,) else 1
            host += 9 * wide * size**2
            dense += wide * channels * size**2
            width = channels
    dense += 320 * 1280 * size**2 + 12_800
    assert found == {"device": 2 * dense, "host": 2 * host}
    assert 0.05 < host / (host + dense) < 0.1


def test_a_host_that_computes_all_has_all():
    net = convert(on_paper(models.resnet8), ReferenceDevice())
    there = macs_by_place(net, torch.empty(1, 3, 32, 32, device="meta"))
    here = macs_by_place(on_paper(models.resnet8), torch.empty(1, 3, 32, 32, device="meta"))
    assert there["host"] == here["device"] == 0 and there["device"] == here["host"] > 0


# methods on them


@pytest.mark.parametrize(("name", "blocks"), [("padding", 3), ("bottlenecks", 3), ("mobilenet", 10), ("plain", 2)])
def test_blocks_may_be_skipped(name, blocks):
    torch.manual_seed(1)
    gates = SLU(seed=1)
    method = Compose([gates, SignSGD()])
    net = convert(tiny(name), ReferenceDevice(), method)
    assert len(residual_blocks(net)) == blocks
    bitfirst.train(net, [(IMAGES, LABELS)], optimizer_of(net, method), method, epochs=2)
    seen = sum(counts["seen"] for counts in gates.counts)
    assert seen == 2 * 4 * (blocks - 1) and 0 < sum(counts["executed"] for counts in gates.counts) < seen


def test_a_plain_network_without_shortcuts_is_refused():
    with pytest.raises(UsageError, match="Plain has 0 blocks with a shortcut"):
        convert(models.Plain((8, 8), 10, False), ReferenceDevice(), SLU())


def test_shortcuts_change_no_parameter_of_a_plain_network():
    with_skips, without = (models.Plain((8, 8, models.vgg.POOL, 16, 16), 10, skips) for skips in (True, False))
    with_skips.load_state_dict(without.state_dict(), strict=True)
    layer, plain = with_skips.features[1].eval(), without.features[1].eval()
    x = torch.rand(2, 8, 4, 4)
    torch.testing.assert_close(layer(x), functional.relu(x + plain.norm(plain.conv(x))))


# text


def text(count: int = 6, length: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    tokens = torch.randint(0, 20, (count, length + 1), generator=torch.Generator().manual_seed(3))
    return tokens[:, :-1], tokens[:, 1:]


def by_sequence(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(scores, y, reduction="none").mean(1)


@pytest.mark.parametrize("make", [Method, lambda: DFQ(loss=by_sequence), lambda: SLU(loss=by_sequence)])
def test_a_small_transformer_trains_its_linear_layers_on_the_device(make):
    torch.manual_seed(0)
    method, device = make(), ReferenceDevice()
    net = convert(models.TextTransformer(20, 16, 32, 2, 2, 0.0), device, method)
    x, y = text()
    before = functional.cross_entropy(net.eval()(x), y).item()
    optimizer = bitfirst.optim.SGD(method.param_groups(net), lr=0.3)
    bitfirst.train(net, [(x, y)], optimizer, method, epochs=15)
    assert functional.cross_entropy(net.eval()(x), y).item() < before - 0.5
    assert macs_by_place(net, x)["device"] == 6 * 12 * (2 * (4 * 256 + 2 * 512) + 16 * 20)


def test_the_base_transformer_has_its_linear_layers_on_the_device():
    """By hand: of 5 source tokens, 3 target tokens."""
    net = convert(on_paper(lambda: models.transformer_base(1_000)), ReferenceDevice())
    tokens = [torch.zeros(1, length, dtype=torch.int64, device="meta") for length in (5, 3)]
    square, inner = 512 * 512, 2 * 512 * 2048
    encoder, decoder = 5 * (4 * square + inner), 3 * (6 * square + inner) + 5 * 2 * square
    assert macs_by_place(net, *tokens) == {"device": 6 * (encoder + decoder) + 3 * 512 * 1_000, "host": 0}


def test_encoder_and_decoder_train_on_the_device():
    torch.manual_seed(0)
    method = Method()
    net = convert(models.Transformer(20, 16, 32, 2, 1, 0.0), ReferenceDevice(), method)
    (x, y), optimizer = text(), bitfirst.optim.SGD(method.param_groups(net), lr=0.3)
    losses = []
    for _ in range(15):
        losses.append(functional.cross_entropy(net(y, x).transpose(1, 2), y))  # it is told what follows
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5


def test_the_base_transformer_takes_steps_on_the_device():
    """At its full width and depth, with 1,000 tokens: two sentences, three steps."""
    torch.manual_seed(0)
    method = Method()
    with bitfirst.open("model?counting=0") as device:
        net = convert(models.transformer_base(1_000), device, method)
        (x, y), optimizer = text(2, 6), bitfirst.optim.SGD(method.param_groups(net), lr=0.05)
        before, losses = device.bit_macs, []
        for _ in range(3):
            losses.append(functional.cross_entropy(net(y, x).transpose(1, 2), y))
            losses[-1].backward()
            optimizer.step()
            optimizer.zero_grad()
        assert device.bit_macs > before
    assert losses[-1] < losses[0] - 0.5


def test_a_token_sees_those_before_it_alone():
    torch.manual_seed(0)
    net = models.transformer_small(20).eval()
    x, _ = text()
    other = x.clone()
    other[:, 7:] = (other[:, 7:] + 1) % 20
    torch.testing.assert_close(net(x)[:, :, :7], net(other)[:, :, :7])
    assert not torch.allclose(net(x)[:, :, 7], net(other)[:, :, 7])


def test_a_translator_converts_and_its_decoder_sees_the_source():
    torch.manual_seed(0)
    plain = models.Transformer(20, 16, 32, 2, 1, 0.0)
    device = ReferenceDevice()
    net = convert(plain, device)
    x, y = text()
    assert net.linear.weight is net.embedding.table.weight
    scores = net(x, y)
    assert scores.shape == (6, 12, 20)
    assert not torch.allclose(scores, net((x + 1) % 20, y), atol=1e-3)
    functional.cross_entropy(scores.transpose(1, 2), y).backward()
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Linear)]
    assert len(layers) == 3 * 4 + 2 * 2 + 1 and all(layer.weight.grad is not None for layer in layers)
    plain.load_state_dict(net.state_dict(), strict=True)
    with pytest.raises(UsageError, match="width = 16 is not a multiple of heads = 3"):
        models.Transformer(20, 16, 32, 3, 1, 0.0)
