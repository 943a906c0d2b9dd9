"""Small trainings for the tests of methods."""

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bitfirst
import pytest
import torch
from bitfirst import data, loop, models, report, training
from bitfirst.device import Device
from bitfirst.errors import LinkError
from bitfirst.methods import Method
from bitfirst.nn import convert
from bitfirst.training import TrainOptions
from reference_device import ReferenceDevice
from rich.console import Console
from torch import nn

QUIET = Console(quiet=True)
digits = functools.cache(data.digits)


def few(count: int, size: int = 8) -> data.Batches:
    """So many batches of digits."""
    split = digits().train
    return data.batches(data.Split(split.images[: count * size], split.labels[: count * size]), size, 0, 0)


def perceptron(method: Method | None = None, device: Device | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    return convert(net, device or ReferenceDevice(), method)


def network(method: Method | None = None, device: Device | None = None) -> nn.Module:
    torch.manual_seed(0)
    return convert(models.digits_resnet(), device or ReferenceDevice(), method)


def optimizer_of(net: nn.Module, method: Method) -> bitfirst.optim.SGD:
    return bitfirst.optim.SGD(method.param_groups(net), lr=0.01, momentum=0.9, weight_decay=1e-3)


def state(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Weights, statistics, momenta."""
    momenta = [entry["momentum_buffer"] for _, entry in sorted(optimizer.state_dict()["state"].items())]
    return [*net.state_dict().values(), *momenta]


def assert_same(some: list[torch.Tensor], others: list[torch.Tensor]) -> None:
    assert len(some) == len(others) > 0
    assert all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


def total(device: Device, counter: str) -> int:
    """A counter over all phases so far."""
    device.mark(0)
    return sum(counters.get(counter, 0) for counters in device.phase_counters.values())


def small_digits(monkeypatch: pytest.MonkeyPatch, make: Callable[[], Method]) -> None:
    """Trainings of the main job have 40 images in each split, the method that `make` makes, and no report."""
    whole = digits()
    splits = data.Splits(
        *(data.Split(part.images[:40], part.labels[:40]) for part in (whole.train, whole.validation, whole.test))
    )
    monkeypatch.setattr(training.data, "digits", lambda: splits)
    monkeypatch.setattr(report, "write", lambda result, out: None)
    monkeypatch.setattr(TrainOptions, "training_method", lambda self: make())


def interrupted_and_not(
    make: Callable[[], Method],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    name: str = "sgd",
    epochs: int = 2,
) -> tuple[dict, dict]:
    """Results of a run, and of one that was interrupted in its last epoch and went on."""
    small_digits(monkeypatch, make)
    options = TrainOptions(device="reference", epochs=epochs, batch=8, method=name, out=tmp_path / "whole")
    uninterrupted = training.train_and_compare(options, ReferenceDevice(), QUIET)
    options = replace(options, out=tmp_path / "parts")
    epoch = loop.epoch

    def once(net, batches, optimizer, method, loss, hooks):
        if hooks.run.epoch == epochs - 1 and hooks.run.meter is not None:
            raise LinkError("the device does not answer")
        return epoch(net, batches, optimizer, method, loss, hooks)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "epoch", once)
        with pytest.raises(LinkError, match=r"\d of \d epochs are kept"):
            training.train_and_compare(options, ReferenceDevice(), QUIET)
    return uninterrupted, training.train_and_compare(replace(options, resume=True), ReferenceDevice(), QUIET)
