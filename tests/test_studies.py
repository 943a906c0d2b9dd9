"""Studies of PSG: paired seeds, rows kept as they come, controls, verdicts."""

import io
import json
from dataclasses import replace

import pytest
import torch
from bitfirst import data, models, studies, training
from bitfirst.cli import _differences
from bitfirst.errors import UsageError
from bitfirst.nn import convert
from bitfirst.studies import MARGIN, REFERENCE, ROWS, VARIANTS, Task, study_psg, summary
from bitfirst.training import TrainOptions
from reference_device import ReferenceDevice
from rich.console import Console

QUIET = Console(quiet=True)
MODEL = "model:tiny?counting=0"


@pytest.fixture
def task():
    """One epoch of two steps."""
    whole = data.digits()

    def few(split, count):
        return data.Split(split.images[:count], split.labels[:count])

    splits = data.Splits(few(whole.train, 64), few(whole.validation, 20), few(whole.test, 20))
    return Task("few", models.digits_resnet, TrainOptions(epochs=1), lambda: splits)


def test_rows_are_paired_kept_and_not_trained_again(task, tmp_path, monkeypatch):
    result = study_psg(task, 2, tmp_path, MODEL, ("psg", "frozen"), QUIET)
    assert [(row["variant"], row["seed"]) for row in result["rows"]] == [
        (name, seed) for seed in (0, 1) for name in (REFERENCE, "psg", "frozen")
    ]
    lines = (tmp_path / ROWS).read_text().splitlines()
    assert [json.loads(line)["variant"] for line in lines] == [row["variant"] for row in result["rows"]]
    (tmp_path / ROWS).write_text("\n".join(lines[:4]) + "\n")  # as if interrupted
    trained = []
    train_one = studies.train_one

    def watched(task, variant, seed, *others):
        trained.append((variant, seed))
        return train_one(task, variant, seed, *others)

    monkeypatch.setattr(studies, "train_one", watched)
    again = study_psg(task, 2, tmp_path, MODEL, ("psg", "frozen"), QUIET)
    assert trained == [(VARIANTS["psg"], 1), (VARIANTS["frozen"], 1)]
    for row in (*result["rows"], *again["rows"]):
        row.pop("wall_s")
    assert again == result
    psg = next(row for row in result["table"] if row["variant"] == "psg")
    assert 0 < psg["resolved"] < 1 and 40 / 128 < psg["dw_work"] < psg["step_work"] < 1


def test_rows_of_another_study_and_damaged_ones_are_refused(task, tmp_path):
    (tmp_path / ROWS).write_text(
        json.dumps({"study": task.identity | {"epochs": 7}, "variant": "psg", "seed": 0}) + "\n"
    )
    with pytest.raises(UsageError, match=r"another study: choose another --out"):
        study_psg(task, 2, tmp_path, MODEL)
    (tmp_path / ROWS).write_text("[3]\n")
    with pytest.raises(UsageError, match=r"no rows of a study"):
        study_psg(task, 2, tmp_path, MODEL)


def test_bad_requests_are_refused(task, tmp_path):
    with pytest.raises(UsageError, match="variant 'x' is unknown; choose from signsgd, psg"):
        study_psg(task, 2, tmp_path, MODEL, ("x",))
    with pytest.raises(UsageError, match="1 seeds: an interval needs"):
        study_psg(task, 1, tmp_path, MODEL)


def rows_of(**accuracies):
    """Rows of each variant, one for each seed."""
    known = {"validation_accuracy": 0.9, "loss": 1.0, "resolved": 0.7, "dw_work": 0.5, "step_work": 0.8}
    return [
        {"variant": name.replace("_", " "), "seed": seed, "test_accuracy": accuracy, **known}
        for name, values in accuracies.items()
        for seed, accuracy in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("psg", "frozen", "passed"),
    [
        ((0.901, 0.912, 0.919), (0.5, 0.52, 0.51), True),
        ((0.901, 0.912, 0.889), (0.5, 0.52, 0.51), False),  # psg: 3 points worse once
        ((0.901, 0.912, 0.919), (0.9, 0.90, 0.91), False),  # the control does not fail
        ((0.901, 0.912, 0.919), (0.3, 0.90, 0.91), False),  # nor does it clearly
    ],
)
def test_verdicts_come_from_the_interval_of_the_pairs(task, psg, frozen, passed):
    result = summary(task, rows_of(signsgd=(0.9, 0.91, 0.92), psg=psg, frozen=frozen, flips=(0.1, 0.2, 0.3)))
    assert result["passed"] is passed
    table = {row["variant"]: row for row in result["table"]}
    assert table["flips"]["as_expected"] is None and table[REFERENCE]["difference"] is None
    low, high = table["psg"]["difference_interval"]
    assert low < table["psg"]["difference"] < high
    assert table["psg"]["as_expected"] == (low >= -MARGIN and high <= MARGIN)


def test_the_table_fits_80_characters(task):
    rows = rows_of(signsgd=(1.0, 0.9), psg=(1.0, 0.9), frozen=(0.6, 0.7), **{"4x10_floor": (0.1, 0.2)})
    file = io.StringIO()
    Console(file=file, width=80).print(_differences(summary(task, rows)))
    lines = [line.split() for line in file.getvalue().splitlines()]
    assert ["psg", "2", "95.00", "+0.00", "+0.00", "..", "+0.00", "yes", "0.700", "0.500", "0.800"] in lines
    assert "…" not in file.getvalue()


def test_seeds_without_their_pair_do_not_count(task):
    rows = rows_of(signsgd=(0.9, 0.91), psg=(0.9, 0.91, 0.2))
    assert {row["variant"]: row["seeds"] for row in summary(task, rows)["table"]} == {REFERENCE: 2, "psg": 2}


def network():
    torch.manual_seed(0)
    return convert(models.digits_resnet(), ReferenceDevice(), VARIANTS[REFERENCE].method)


def gradient(net, images):
    net.zero_grad()
    net(images).square().sum().backward()
    return net.blocks[1].conv2.weight.grad


def test_flips_turn_a_quarter_of_the_signs_differently_each_time():
    images = torch.rand(4, 1, 8, 8)
    plain, net = gradient(network(), images), network()
    studies.flip(net, 3)
    first, second = gradient(net, images).clone(), gradient(net, images)
    for flipped in first, second:
        assert torch.equal(flipped.abs(), plain.abs())
        assert abs((flipped != plain).float().mean().item() - studies.FLIPS) < 0.05
    assert not torch.equal(first, second)


def test_frozen_convolutions_keep_their_weights_and_the_rest_learns(task):
    net = network()
    studies.freeze(net, 0)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    optimizer = training.optimizer_of(net, VARIANTS["frozen"].method, replace(task.options, lr=0.1))
    for group in optimizer.param_groups:
        group["lr"] = 0.1
    net(torch.rand(4, 1, 8, 8)).square().sum().backward()
    optimizer.step()
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert "linear.weight" in changed and "norm.weight" in changed
    assert not changed & {name for name, value in before.items() if value.ndim == 4}
