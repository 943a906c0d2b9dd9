"""What the host computes beside the device: counted by hand for a small network, and counting changes nothing."""

import dataclasses

import bitfirst
import pytest
import torch
from bitfirst import data, host_work, training
from bitfirst.host_work import HostWork
from bitfirst.nn import convert
from bitfirst.training import TrainOptions
from method_runs import digits
from torch import nn

#: (operations, numbers of 4 bytes that are taken and given), operator by operator, of `step`: x is 5 x 6
QUANTISING = [
    *((30, 30 + 2), (0, 2), (30, 60), (30, 60)),  # of x: its range, read, scaled, rounded
    *((24, 24 + 2), (0, 2), (24, 48), (24, 48)),  # of the device's weight, 4 x 6
    *((20, 20 + 2), (0, 2), (20, 40), (20, 40)),  # of its output's gradient, 5 x 4
]
BESIDE = [
    *((20, 20 + 4 + 20), (20, 40)),  # bias, ReLU
    (2 * 60, 20 + 12 + 3 + 15),  # a linear layer of 4 x 3 on the host, with its bias
    (15, 15 + 1),  # the sum
    (0, 2),  # its gradient, like it
    *((2 * 60, 15 + 20 + 12), (2 * 60, 15 + 12 + 20), (15, 15 + 3)),  # that layer's dW, dX, and of its bias
    *((20, 60), (20, 20 + 4)),  # of ReLU, of the device's bias
    *((0, 30), (0, 24), (0, 28)),  # zeros, as gradients of the integers that are kept, and of 14 words about them
]


def counted(rows):
    return {"flops": sum(flops for flops, _ in rows), "bytes": 4 * sum(numbers for _, numbers in rows)}


def step(watching):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    x = torch.randn(5, 6)
    with bitfirst.open("model:tiny") as device:
        net = convert(net, device, filter_fn=lambda _, name: name == "0")
        with watching:
            net(x).sum().backward()
    return watching.counted


def test_a_small_network_is_counted_as_by_hand():
    assert step(HostWork()) == counted(QUANTISING + BESIDE)


@pytest.mark.parametrize(
    ("groups", "macs"), [(1, 2 * 4 * 25 * 4 * 9), (4, 2 * 4 * 25 * 9)], ids=["dense", "by channel"]
)
def test_convolutions_are_counted_by_their_groups(groups, macs):
    layer = nn.Conv2d(4, 4, 3, padding=1, groups=groups, bias=False)
    x = torch.rand(2, 4, 5, 5, requires_grad=True)
    with HostWork() as forward:
        y = layer(x)
    with HostWork() as backward:
        y.backward(torch.ones_like(y))
    assert (forward.flops, backward.flops) == (2 * macs, 2 * 2 * macs)


def test_attention_is_counted_as_its_products():
    """Of 2 heads, 3 places, 4 numbers: scores and means; backward dX of both sides of both, and the scores anew."""
    q, k, v = (torch.rand(1, 2, 3, 4, requires_grad=True) for _ in range(3))
    with HostWork() as forward:
        y = nn.functional.scaled_dot_product_attention(q, k, v)
    with HostWork() as backward:
        y.backward(torch.ones_like(y))
    assert (forward.flops, backward.flops) == (2 * 2 * 72, 5 * 2 * 72)


@pytest.mark.parametrize("missed", ["relu", "addmm", "threshold_backward", "aminmax"])
def test_an_operator_that_is_missed_is_missing(missed, monkeypatch):
    monkeypatch.setattr(host_work, "NOTHING", {*host_work.NOTHING, missed})
    found, wanted = step(HostWork()), counted(QUANTISING + BESIDE)
    assert found["flops"] < wanted["flops"] and found["bytes"] < wanted["bytes"]


def test_what_is_within_the_devices_operators_is_theirs_or_quantising(monkeypatch):
    wanted = counted(QUANTISING + BESIDE)["flops"]
    monkeypatch.setattr(host_work, "_watching", [])  # neither seen within operators nor left out within devices
    monkeypatch.setattr(HostWork, "__enter__", torch.utils._python_dispatch.TorchDispatchMode.__enter__)
    monkeypatch.setattr(HostWork, "__exit__", torch.utils._python_dispatch.TorchDispatchMode.__exit__)
    assert step(HostWork())["flops"] == wanted - counted(QUANTISING)["flops"]


@pytest.fixture
def few():
    whole = digits()
    return data.Splits(*(data.some(part, 32) for part in (whole.train, whole.validation, whole.test)))


def trained(method, splits):
    options = TrainOptions(device="model:psg", epochs=2, batch=16, method=method)
    with training.host_settings(1), bitfirst.open(options.device) as device:
        run = training.new_run(options, device)
        training.fit(run, splits, options)
        net = training.finished(run, splits, options)
        return run.history, training.weights_sha256(net), run.meter.read()


def unseen(history):
    return [{name: one for name, one in row.items() if name not in ("host", "wall_s")} for row in history]


@pytest.mark.parametrize("method", ["sgd", "slu+psg+swa", "fractrain", "sbm", "fp16"])
def test_counting_changes_neither_the_training_nor_its_counters(method, few, monkeypatch):
    history, weights, counters = trained(method, few)
    assert all(row["host"]["flops"] > 0 < row["host"]["bytes"] for row in history)
    monkeypatch.setattr(HostWork, "__enter__", lambda self: self)
    monkeypatch.setattr(HostWork, "__exit__", lambda self, *raised: None)
    other, *rest = trained(method, few)
    assert not any("host" in row for row in other)
    assert (unseen(history), weights, counters) == (unseen(other), *rest)


def test_one_step_is_counted_however_many_an_epoch_has(few):
    half = dataclasses.replace(few, train=data.some(few.train, 16))
    assert trained("sgd", few)[0][0]["host"] == trained("sgd", half)[0][0]["host"]
