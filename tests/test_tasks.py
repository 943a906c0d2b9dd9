"""Other data and networks than the digits: which go together, and training on them from end to end."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from bitfirst import cli, data, models, report, tasks, training
from bitfirst.data.splits import Split
from bitfirst.errors import LinkError, UsageError
from bitfirst.nn import Bits
from bitfirst.tasks import CIFAR, KINDS, NETWORKS, TOKENS, Task
from bitfirst.training import TrainOptions, train_and_compare
from data_files import put, tree
from reference_device import ReferenceDevice
from rich.console import Console

BITS = "--device", "model", "--bits-x", "4", "--bits-w", "4", "--bits-g", "8"  # soon planned
WORDS = "to be or not to be, that is the question; whether it is nobler in the mind to suffer. "


def train(options: TrainOptions) -> dict:
    return train_and_compare(options, ReferenceDevice(), Console(quiet=True))


# what goes together


def test_each_network_computes_what_it_takes():
    samples = {
        shape: torch.zeros(2, 5, dtype=torch.long) if shape is TOKENS else torch.rand(2, shape[0], shape[1], shape[1])
        for shape in {network.takes for network in NETWORKS.values()}
    }
    for name, network in NETWORKS.items():
        if name in ("resnet34", "resnet74", "resnet110", "resnet164", "mobilenet_v2"):
            continue  # as others, and slow
        net = Task(next(kind for kind in forms("x") if NETWORKS[name].takes in tasks.kind_of(kind).shapes), name).make(
            10
        )
        with torch.no_grad():
            scores = net.eval()(samples[network.takes])
        assert scores.shape[:2] == (2, 10), name


def forms(path: str) -> list[str]:
    return [kind.form.replace("FOLDER", path).replace("FILE", path) for kind in KINDS.values()]


def test_each_kind_has_a_network_of_its_own():
    chosen = {form: TrainOptions(data=form) for form in forms("x")}
    assert {form: options.network for form, options in chosen.items()} == {
        "digits": "digits_resnet",
        "cifar10:x": "resnet20",
        "cifar100:x": "resnet20",
        "folders:x": "resnet18",
        "text:x": "transformer_small",
    }
    assert [str(options.out) for options in chosen.values()] == [f"runs/{name}" for name in KINDS]
    assert "data" not in TrainOptions().identity()  # checkpoints on the digits stay what they were


def test_names_of_networks_are_those_of_the_models():
    assert {name for name in NETWORKS if not hasattr(models, name)} == {"vgg11_plain"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--data", "letters"), ("data 'letters' is unknown", "digits, cifar10:FOLDER", "text:FILE")),
        (("--data", "pictures/cifar"), ("is unknown", "cifar10:FOLDER")),
        (("--data", "cifar10"), ("data 'cifar10' is unknown", "cifar10:FOLDER")),
        (("--data", "digits:x"), ("data 'digits:x' is unknown",)),
        (("--network", "resnet21"), ("network 'resnet21' is unknown", "resnet20")),
        (("--network", "resnet20"), ("takes images of 3 x 32 x 32", "digits has images of 1 x 8 x 8", "digits_resnet")),
        (("--data", "cifar10:x", "--network", "resnet18"), ("3 x 224 x 224", "choose from resnet8, resnet20")),
        (("--data", "text:x", "--network", "resnet20"), ("sequences of tokens", "transformer_small")),
        (("--augment",), ("leave it out for digits",)),
        (("--data", "text:x", "--augment"), ("leave it out for text",)),
        (("--train-images", "0"), ("train_images = 0", "at least 1")),
        (("--eval-images", "-1"), ("eval_images = -1", "at least 1")),
        (("--train-images", "2000"), ("digits has 1077 samples", "2000 are wanted")),
        (("--train-images", "20"), ("20 images are no batch of 32", "a smaller batch")),
        (("--data", "cifar10:nowhere"), ("nowhere holds no CIFAR-10",)),
        (("--data", "folders:nowhere"), ("train is not there",)),
        (("--data", "text:nowhere"), ("nowhere cannot be read",)),
    ],
)
def test_what_cannot_be_is_one_line(options, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.run(["train", "--device", "model", "--out", "run", *options]) == 2
    line = capsys.readouterr().err.strip()
    assert line.startswith("bitfirst: ") and "\n" not in line
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("network", "method", "words"),
    [
        ("vgg11_plain", "slu", "Plain has 0 blocks with a shortcut.*a residual network"),
        ("vgg11_plain", "sd", "no block with a shortcut.*a residual network"),
        ("vgg11_plain", "fractrain", "no block with a shortcut.*a residual network"),
        ("resnet8", "slu+sd", "SLU and StochasticDepth conflict: each says which blocks"),
        ("resnet8", "sbm+pfq", "SBM and PFQ conflict: each sets the widths"),
        ("resnet8", "fractrain+psg", "conflict: a prediction is made of the first bits"),
    ],
)
def test_methods_that_do_not_go_with_a_network_say_why(network, method, words, images, tmp_path):
    with pytest.raises(UsageError, match=words):
        train(small(images, network=network, method=method, out=tmp_path / "run"))


# some of the samples


def test_some_samples_are_always_the_same_ones():
    split = Split(torch.arange(100), torch.arange(100))
    few, more = (data.some(split, count) for count in (10, 30))
    assert len(few) == 10 and len(set(few.labels.tolist())) == 10
    assert set(few.labels.tolist()) < set(more.labels.tolist())
    assert few.labels.tolist() == sorted(few.labels.tolist()) != list(range(10))
    images, labels = more.fetch(torch.tensor([3, 1]))
    assert torch.equal(images, labels) and torch.equal(labels, more.labels[[3, 1]])
    assert len(data.some(split, 1000)) == 100


def test_files_of_a_part_are_read_when_they_are_asked_for(tmp_path):
    splits = Task(f"folders:{tree(tmp_path)}", "resnet8").splits(train=3, rest=1)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [3, 1, 1]
    assert splits.train.fetch(torch.tensor([0]))[0].shape == (1, *(CIFAR[0], CIFAR[1], CIFAR[1]))
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    with pytest.raises(UsageError, match="cannot be read"):
        splits.train.fetch(torch.tensor([0]))


# training


@pytest.fixture
def images(tmp_path, monkeypatch) -> Path:
    """200 random images as CIFAR-10 is published, 40 of them to validate."""
    monkeypatch.setattr(tasks.data, "cifar10", partial(data.cifar10, validation=40))
    return put(tmp_path, 10, "binary", "folder")


def small(folder: Path, **more: object) -> TrainOptions:
    wanted = {"data": f"cifar10:{folder}", "network": "resnet8", "device": "reference", "bits": Bits(4, 4, 8)}
    wanted |= {"epochs": 1, "batch": 8, "train_images": 16, "eval_images": 8}
    return TrainOptions(**(wanted | more))


def test_cifar_from_the_command_line(images, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = "--network resnet8 --augment --epochs 1 --batch 8 --train-images 16 --eval-images 8"
    assert cli.run(["train", "--data", f"cifar10:{images}", *options.split(), *BITS, "--json"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["task"] == {
        "title": "CIFAR-10, resnet8",
        "data": f"cifar10:{images}",
        "network": "resnet8",
        "classes": 10,
        "train": 16,
        "validation": 8,
        "test": 8,
    }
    assert result["options"]["augment"] is True and result["report"] == "runs/cifar10/report.html"
    assert result["bit_macs"] > 0 and len(result["fp32_history"]) == 1
    assert len({row["layer"] for row in result["layers"]}) == 10  # seven of 3 x 3, two shortcuts, the classifier
    page = (tmp_path / result["report"]).read_text()
    assert "CIFAR-10, resnet8" in page and "digits" not in page + shown.err
    assert "CIFAR-10, resnet8, the same network twice" in " ".join(shown.err.split())


def test_jpeg_copies_are_called_so(tmp_path):
    assert Task(f"cifar10:{tmp_path}", "resnet8").title == "CIFAR-10, resnet8"
    (tmp_path / data.CIFAR_FILES[0]).touch()
    assert Task(f"cifar10:{tmp_path}", "resnet8").title == "CIFAR-10 (JPEG copies), resnet8"
    assert Task(f"cifar100:{tmp_path}", "resnet8").title == "CIFAR-100, resnet8"


def test_classes_are_those_of_the_data(tmp_path, monkeypatch):
    monkeypatch.setattr(tasks.data, "cifar100", partial(data.cifar100, validation=100))
    put(tmp_path, 100, "binary", "folder")
    options = small(tmp_path, data=f"cifar100:{tmp_path}", fp32=False, out=tmp_path / "run")
    monkeypatch.setattr(report, "write", lambda result, out: None)
    result = train(options)
    assert result["task"]["classes"] == 100
    (classifier,) = (row for row in result["layers"] if row["layer"] == "linear" and row["phase"] == "forward")
    assert classifier["bit_macs"] == 8 * 64 * 100 * 4 * 4


def test_images_are_moved_where_it_is_wanted(images):
    options = small(images)
    splits = options.task.splits()
    plain, moved = (
        training.epoch_batches(splits, replace(options, augment=augment), 0)[0][0] for augment in (False, True)
    )
    assert plain.shape == moved.shape and not torch.equal(plain, moved)
    assert torch.equal(plain, data.batches(splits.train, 8, 0, 0)[0][0])


def test_a_training_on_images_goes_on_after_an_interruption(images, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda result, out: None)
    options = small(images, epochs=2, augment=True, fp32=False, method="smd+slu", out=tmp_path / "whole")
    whole = train(options)
    parts, keep = replace(options, out=tmp_path / "parts"), training.keep

    def keep_once(run, options):
        keep(run, options)
        raise LinkError("the device does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(training, "keep", keep_once)
        with pytest.raises(LinkError, match=r"1 of \d epochs are kept"):
            train(parts)
    for change, words in (
        ({"augment": False}, "augment = True, not None"),
        ({"train_images": 8}, "train_images = 16, not 8"),
        ({"network": "resnet20"}, "network = resnet8, not resnet20"),
    ):
        with pytest.raises(UsageError, match=words):
            train(replace(parts, resume=True, **change))
    resumed = train(replace(parts, resume=True))
    assert resumed["weights_sha256"] == whole["weights_sha256"] and len(resumed["history"]) == len(whole["history"])


def test_training_begins_with_the_weights_of_another(images, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "write", lambda result, out: None)
    train(small(images, fp32=False, out=tmp_path / "first"))
    first = tmp_path / "first" / training.CHECKPOINT
    tuned = small(images, init=first, method="fconly", fp32=False, out=tmp_path / "second")
    assert train(tuned)["fp32_test_accuracy"] is None
    with pytest.raises(UsageError, match=r"is no checkpoint of this network.*give one of bitfirst train"):
        train(small(images, network="resnet20", init=first, out=tmp_path / "third"))


def test_a_model_that_does_not_count_trains_too(images, tmp_path):
    options = small(images, device="model?counting=0", fp32=False, out=tmp_path / "run")
    result = train_and_compare(options, console=Console(quiet=True))
    counted = train(replace(options, device="reference", out=tmp_path / "counted"))
    assert result["weights_sha256"] == counted["weights_sha256"] and result["bit_macs"] == counted["bit_macs"] > 0
    assert (result["phases"], result["cycles"], result["bytes_moved"], result["utilisation"]) == ({}, None, None, None)
    assert {row["bit_macs"] > 0 for row in result["layers"]} == {True}
    assert "Where the device" not in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(UsageError, match="was made without counting: continue it so"):
        train(replace(options, resume=True))


def test_text_trains_the_transformer(tmp_path, monkeypatch):
    """Accuracy is that of tokens; gates learn from one loss for each sequence."""
    monkeypatch.setattr(report, "write", lambda result, out: None)
    (tmp_path / "words.txt").write_text(60 * WORDS)
    options = TrainOptions(
        device="reference",
        data=f"text:{tmp_path / 'words.txt'}",
        method="slu",
        epochs=2,
        batch=8,
        train_images=16,
        eval_images=4,
        out=tmp_path / "run",
    )
    result = train(options)
    assert result["task"]["network"] == "transformer_small" and result["task"]["classes"] == 256
    for key in "test_accuracy", "fp32_test_accuracy":
        tokens = result[key] * 4 * 64
        assert 0 < tokens <= 4 * 64 and tokens == pytest.approx(round(tokens))
    assert result["history"][1]["loss"] < result["history"][0]["loss"]
