"""Studies of methods: runs on Dask, one file, going on where it stopped, paired differences."""

import io
import json
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import bitfirst
import dask
import distributed  # (brings Dask its settings: `set` would take what it finds missing away again)
import pytest
import torch
from bitfirst import cli, data, grids, training
from bitfirst.errors import LinkError, UsageError
from bitfirst.grids import FILE, GRIDS, Grid, Runs, configurations, study, summary
from bitfirst.training import TrainOptions
from rich.console import Console

ALIKE = {"rate": 1.0, "epochs": 1, "images": grids.DIGITS}
SMALL = Grid("", {"sgd": "sgd", "smd": "smd:p=0.5,work=0.5", "smb": "smb:work=0.5"}, (8, 16))


@pytest.fixture
def small(monkeypatch):
    """A grid of six runs a seed, on 64 images."""
    whole = data.digits()
    parts = (data.Split(part.images[:64], part.labels[:64]) for part in (whole.train, whole.validation, whole.test))
    splits = data.Splits(*parts)
    monkeypatch.setattr(grids.data, "digits", lambda: splits)
    grids.splits_of.cache_clear()
    monkeypatch.setitem(GRIDS, "small", SMALL)
    yield
    grids.splits_of.cache_clear()


def untimed(result):
    """Without what is not the same twice."""
    for row in result["rows"]:
        row.pop("wall_s", None)
        for epoch in row.get("history", ()):
            epoch.pop("wall_s")
    result["rows"].sort(key=lambda row: (row["seed"], row["batch"], row["variant"]))
    return result


def test_a_study_trains_each_once_pairs_them_and_goes_on(small, tmp_path, monkeypatch):
    whole = untimed(study("small", 2, tmp_path / "whole", "model:tiny?counting=0", 1))
    assert len(whole["rows"]) == 12 and not any("failed" in row for row in whole["rows"])
    for row in whole["table"]:
        assert row["seeds"] == 2 and len(row["accuracies"]) == 2 and row["failed"] == 0
        expected = {"sgd": 1.0, "smb": 0.5}.get(row["variant"])
        assert row["work"] == (pytest.approx(expected) if expected else row["work"])
    given, finished = [], grids.finished

    def stopping(client, missing, folder):
        given.append(missing)
        for number, done in enumerate(finished(client, missing, folder)):
            if number == 5:
                raise KeyboardInterrupt
            yield done

    def watched(client, missing, folder):
        given.append(missing)
        return finished(client, missing, folder)

    monkeypatch.setattr(grids, "finished", stopping)
    with pytest.raises(KeyboardInterrupt):
        study("small", 2, tmp_path / "parts", "model:tiny?counting=0", 1)
    monkeypatch.setattr(grids, "finished", watched)
    resumed = untimed(study("small", 2, tmp_path / "parts", "model:tiny?counting=0", 1))
    assert [len(missing) for missing in given] == [12, 7]
    assert resumed["table"] == whole["table"]
    assert [row["weights_sha256"] for row in resumed["rows"]] == [row["weights_sha256"] for row in whole["rows"]]
    assert untimed(study("small", 2, tmp_path / "parts", "model:tiny?counting=0", 1))["table"] == whole["table"]
    assert len(given) == 2


def test_workers_are_not_profiled():
    with grids.cluster(None, 1) as client:
        (worker,) = client.cluster.workers.values()
        assert "profile" not in worker.periodic_callbacks and worker.periodic_callbacks["tick"].callback_time == 1000


#: Runs of a study that do nothing but say that they have begun; the sixth takes the whole process along.
KILLED = """
import os, signal, sys, time
from pathlib import Path
from bitfirst import grids

def run_one(one, folder):
    begun = Path(sys.argv[1], "begun")
    with begun.open("a") as file:
        file.write(f"{one['variant']} {one['seed']}\\n")
    if len(begun.read_text().splitlines()) == 6:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)
    return {"accuracy": 0.5, "validation_accuracy": 0.5, "training_bit_macs": 7, "wall_s": 1.0}

grids.run_one = run_one
grids.study("pfq", 2, Path(sys.argv[1]), "model:tiny?counting=0", 1)
"""


def test_a_study_that_is_killed_begins_no_finished_run_again(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    assert subprocess.run(command, timeout=120, check=False).returncode == -signal.SIGKILL
    runs = grids.Runs(tmp_path / FILE)
    finished = {f"{row['variant']} {row['seed']}" for row in runs.all("pfq")}
    runs.close()
    before = (tmp_path / "begun").read_text().splitlines()
    assert len(before) == 6 and set(before) > finished  # the latest may have been on their way to the file
    assert subprocess.run(command, timeout=120, check=False).returncode == 0
    after = (tmp_path / "begun").read_text().splitlines()[6:]
    assert len(finished) >= 2 and not finished & set(after)
    assert len(after) == len(set(after)) == 2 * len(grids.GRIDS["pfq"].variants) - len(finished)


def test_each_variant_tries_as_many_rates_and_keeps_what_validates_best(small, tmp_path, monkeypatch):
    best = {"sgd": 2.0, "smd": 1.0, "smb": 0.5}

    def run_one(one, folder):
        good = one["rate"] == best[one["variant"]]
        found = {"validation_accuracy": 0.5 + 0.1 * good, "accuracy": 0.9 - 0.1 * good}  # by test another would win
        return found | {"training_bit_macs": 7, "wall_s": 1.0}

    monkeypatch.setattr(grids, "run_one", run_one)
    found = study("small", 2, tmp_path, "model:tiny?counting=0", 1, trials=3)
    assert {(row["variant"], row["rate"], row["trials"]) for row in found["table"]} == {
        (variant, rate, 3) for variant, rate in best.items()
    }
    assert all(row["accuracies"] == [0.8, 0.8] for row in found["table"]) and len(found["rows"]) == 12
    runs = Runs(tmp_path / FILE)
    assert len(runs.all("small")) == 6 * 3 + 6  # the first seed's trial is its run
    assert summary("small", runs.all("small"))["table"] == found["table"]
    runs.close()


def test_trials_may_be_shorter_than_what_is_reported(small, tmp_path, monkeypatch):
    best = {"sgd": 2.0, "smd": 1.0, "smb": 0.5}
    ran = []

    def run_one(one, folder):
        ran.append((one["epochs"], one["seed"]))
        good = one["rate"] == best[one["variant"]] if one["epochs"] == 2 else one["rate"] == 1.0
        found = {"validation_accuracy": 0.5 + 0.1 * good, "accuracy": 0.1 * one["epochs"] + 0.01 * one["rate"]}
        return found | {"training_bit_macs": one["epochs"], "wall_s": 1.0}

    monkeypatch.setattr(grids, "run_one", run_one)
    run = partial(study, "small", 2, tmp_path, "model:tiny?counting=0", 6, trials=3)
    found = run(trial_epochs=2)
    assert ran == [(2, 0)] * 18 + [(6, seed) for seed in (0, 1) for _ in range(6)]
    told = {(row["variant"], row["rate"], row["trials"], row["trial_epochs"]) for row in found["table"]}
    assert told == {(variant, rate, 3, 2) for variant, rate in best.items()}
    for row in found["table"]:
        assert row["accuracies"] == pytest.approx([0.6 + 0.01 * row["rate"]] * 2) and row["bit_macs"] == 6
    assert {row["epochs"] for row in found["rows"]} == {6} and "rates by 3 trials of 2 epochs each" in found["note"]
    assert run(trial_epochs=2)["table"] == found["table"] and len(ran) == 30
    with pytest.raises(UsageError, match="has this study with epochs = 2"):
        run()
    for trials, epochs in (1, 2), (3, 6), (3, 0):
        with pytest.raises(UsageError, match=f"trial epochs = {epochs}: choose fewer than epochs = 6, and trials"):
            run(trials=trials, trial_epochs=epochs)


def test_two_studies_in_one_file_have_each_their_reference(small, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "run_one", lambda one, folder: {"accuracy": 0.5, "training_bit_macs": 7, "wall_s": 1.0})
    monkeypatch.setitem(GRIDS, "other", Grid("", {"sgd": "sgd", "slu": "slu"}, (8,)))
    tables = [study(name, 2, tmp_path, "model:tiny?counting=0", 1)["table"] for name in ("small", "other")]
    assert [[row["variant"] for row in table] for table in tables] == [["sgd", "smd", "smb"] * 2, ["sgd", "slu"]]
    assert all(row["seeds"] == 2 and row["difference"] == 0 for table in tables for row in table)
    runs = Runs(tmp_path / FILE)
    assert [len(runs.all(name)) for name in runs.studies()] == [12, 4]
    runs.close()


def test_what_the_same_command_beside_it_has_done_stays(small, tmp_path, monkeypatch):
    def run_one(one, folder):
        runs = Runs(tmp_path / FILE)
        runs.add("small", one, {"accuracy": 0.5, "training_bit_macs": 7, "wall_s": 1.0})
        runs.close()
        return {"accuracy": 0.5, "training_bit_macs": 7, "wall_s": 2.0}

    monkeypatch.setattr(grids, "run_one", run_one)
    rows = study("small", 2, tmp_path, "model:tiny?counting=0", 1)["rows"]
    assert [row["wall_s"] for row in rows] == [1.0] * 12


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"epochs": 2}, "epochs = 1"),
        ({"device": "model?counting=0"}, "device = model:tiny"),
        ({"folder": "copies"}, "images = digits"),
    ],
)
def test_a_file_of_another_length_device_or_images_is_refused(other, words, small, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "run_one", lambda one, folder: {"failed": "no", "wall_s": 1.0})
    monkeypatch.setattr(grids.data, "cifar", lambda folder: None)
    told = {"name": "small", "seeds": 2, "out": tmp_path, "device": "model:tiny", "epochs": 1}
    study(**told)
    with pytest.raises(UsageError, match=f"has this study with {words}: choose another --out"):
        study(**told | other)


def test_fine_tuning_begins_with_a_network_trained_on_the_other_half(small, tmp_path, monkeypatch):
    monkeypatch.setitem(GRIDS, "small", Grid("", {"sgd": "sgd", "last": "fconly"}, (8,), finetunes=True))
    grids._begun.cache_clear()
    begun, used = grids._begun, []

    def watched(*told):
        used.append(begun(*told))
        return used[-1]

    monkeypatch.setattr(grids, "_begun", watched)
    all_layers, last = (grids.run_one(one) for one in configurations("small", 1, "model:tiny?counting=0", 1))
    network, splits = used[0]
    assert used[0] is used[1] and len(splits.train) == 32 and network() is not network()
    first, second = data.halves(grids.data.digits().train)
    assert not any((one == other).all() for one in first.images for other in second.images)
    assert (splits.train.images == second.images).all()
    assert 0 < last["training_bit_macs"] < all_layers["training_bit_macs"] / 2
    untrained = grids.run_one(configurations("small", 1, "model:tiny?counting=0", 1)[0] | {"finetunes": False})
    assert untrained["weights_sha256"] != all_layers["weights_sha256"]


def test_a_row_of_the_file_has_all_that_made_it(small, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "run_one", lambda one, folder: {"accuracy": 0.5, "training_bit_macs": 7, "wall_s": 1.0})
    study("small", 2, tmp_path, "model:tiny?counting=0", 1)
    with sqlite3.connect(tmp_path / FILE) as database:
        rows = database.execute("SELECT study, configuration, versions, split, result FROM runs").fetchall()
    database.close()
    assert len(rows) == 12
    name, configuration, versions, split, result = rows[0]
    assert name == "small" and json.loads(configuration)["seed"] == 0 and json.loads(result)["accuracy"] == 0.5
    assert set(json.loads(versions)) == {"bitfirst", "source", "torch"} and json.loads(split) == {
        "seed": data.SPLIT_SEED,
        "tuned": "validation",
        "reported": "test",
    }


def test_runs_are_those_of_the_main_job(small):
    """The same weights as by the parts of `train_and_compare`; counters where the device counts."""
    (one, *_) = configurations("small", 1, "model:tiny", 1)
    found = grids.run_one(one)
    options = TrainOptions(device="model:tiny", seed=0, batch=8, epochs=1, method="sgd")
    with training.host_settings(1), bitfirst.open("model:tiny") as board:
        run = training.new_run(options, board)
        training.fit(run, grids.data.digits(), options)
        assert found["weights_sha256"] == training.weights_sha256(run.net)
        counters = run.meter.read()
    assert found["counters"]["forward/array_steps"] == counters["forward/array_steps"] > 0


def test_both_learning_rates_are_tuned_by_what_came_of_the_training(small):
    """The rate of weights that learn by signs, too; and of a mean of weights its own accuracies."""
    (one, *_) = configurations("small", 1, "model:tiny?counting=0", 3)
    found = grids.run_one(one | {"method": "psg+swa", "rate": 4.0})
    options = TrainOptions(batch=8, epochs=3, method="psg+swa", lr=0.4, lr_signs=0.004)
    with training.host_settings(1), bitfirst.open("model:tiny?counting=0") as board:
        run, splits = training.new_run(options, board), grids.data.digits()
        training.fit(run, splits, options)
        net = run.method.result(run.net, training.epoch_batches(splits, options, 0))
        assert found["weights_sha256"] == training.weights_sha256(net)
        assert found["accuracy"] == training.evaluate(net, splits.test)
        assert found["validation_accuracy"] == training.evaluate(net, splits.validation)
        assert found["validation_accuracy"] != run.history[-1]["validation_accuracy"]


def test_a_run_that_diverges_is_told_and_not_averaged(small, monkeypatch):
    (one, *_) = configurations("small", 1, "model:tiny?counting=0", 1)
    found = grids.run_one(one | {"rate": 1e9})
    assert "training has diverged" in found["failed"]
    rows = [
        ALIKE | {"variant": "sgd", "batch": 8, "seed": seed, "accuracy": 0.5, "training_bit_macs": 4} for seed in (0, 1)
    ]
    rows += [ALIKE | {"variant": "x", "batch": 8, "seed": 0, **found}]
    rows += [ALIKE | {"variant": "x", "batch": 8, "seed": 1, "accuracy": 0.25, "training_bit_macs": 3}]
    table = {row["variant"]: row for row in summary("small", rows)["table"]}
    assert (table["x"]["failed"], table["x"]["accuracies"], table["x"]["work"]) == (1, [0.25], 0.75)
    assert table["x"]["difference"] is None and table["sgd"]["difference_interval"] == [0.0, 0.0]


def test_a_device_that_cannot_be_opened_is_one_line_and_no_run(small, tmp_path, capfd):
    arguments = ["study", "smd", "--seeds", "2", "--epochs", "1", "--out", str(tmp_path)]
    assert cli.run([*arguments, "--device", "model:nosuch"]) == 2
    told, *line = capfd.readouterr().err.splitlines()
    assert told == "60 runs, 60 to do" and len(line) == 1
    assert line[0].startswith("bitfirst: configuration 'nosuch' is unknown; choose from default")
    runs = Runs(tmp_path / FILE)
    assert runs.studies() == []
    runs.close()


def test_a_study_goes_on_when_the_computer_slept() -> None:
    """Dask gives up workers that were silent for minutes, and one without a nanny is not started again."""
    with dask.config.set({"distributed.scheduler.worker-ttl": "1s"}), grids.cluster(None, 1) as client:
        long = client.submit(lambda: time.sleep(9) or "trained", pure=False)
        client.loop.add_callback(time.sleep, 8)  # no heartbeat
        assert long.result(timeout=30) == "trained"


@pytest.mark.parametrize("device", ["serial:///dev/nothing", "tcp://127.0.0.1:9", "udp://127.0.0.1:9"])
def test_a_board_is_had_by_the_worker_here(device, small, tmp_path, monkeypatch):
    assert grids._is_board(device)
    with grids.cluster(None, 1) as client:
        assert client.submit(int, 1, resources={"board": 1}).result(timeout=30) == 1  # else it waits for ever
    monkeypatch.setattr(grids, "run_one", lambda one, folder: {"accuracy": 0.5, "training_bit_macs": 7, "wall_s": 1.0})
    assert len(study("small", 2, tmp_path, device, 1)["rows"]) == 12


def test_differences_are_to_the_same_seed_and_batch():
    rows = [
        ALIKE | {"variant": variant, "batch": batch, "seed": seed, "accuracy": accuracy, "training_bit_macs": 1}
        for variant, batch, accuracies in (("sgd", 8, (0.5, 0.7)), ("smd", 8, (0.4, 0.6)), ("sgd", 16, (0.1, 0.1)))
        for seed, accuracy in enumerate(accuracies)
    ]
    smd = next(row for row in summary("small", rows)["table"] if row["variant"] == "smd")
    assert smd["difference"] == pytest.approx(-0.1) and smd["difference_interval"] == pytest.approx([-0.1, -0.1])
    shuffled = [row | {"seed": 1 - row["seed"]} if row["variant"] == "smd" else row for row in rows]
    other = next(row for row in summary("small", shuffled)["table"] if row["variant"] == "smd")
    assert other["difference_interval"][0] < -0.5  # control: unpaired


def test_runs_without_the_first_seed_are_in_the_table():
    """As in a file that is half done, and of a training with another seed."""
    good = ALIKE | {"variant": "sgd", "batch": 8, "validation_accuracy": 0.5, "training_bit_macs": 1}
    rows = [good | {"seed": seed, "accuracy": seed / 10} for seed in (3, 2)]
    (row,) = summary("small", rows)["table"]
    assert (row["accuracies"], row["rate"], row["seeds"]) == ([0.2, 0.3], 1.0, 2)
    assert grids.tuned([good | {"seed": 2, "rate": rate} for rate in (4.0, 0.5, 1.0)]) == {("sgd", 8): 1.0}  # alike
    better = good | {"seed": 3, "accuracy": 0.9, "validation_accuracy": 0.9, "rate": 2.0}
    assert grids.tuned([*rows, better]) == {("sgd", 8): 1.0}  # it is the second seed's
    assert grids.tuned([*rows, better | {"seed": 2}]) == {("sgd", 8): 2.0}


def test_images_of_cifar_train_resnet_8_with_larger_batches(small, tmp_path, monkeypatch):
    def split(count):
        generator = torch.Generator().manual_seed(count)
        return data.Split(torch.rand(count, 3, 8, 8, generator=generator), torch.arange(count) % 10)

    whole = grids.data.Splits(split(80), split(20), split(20))
    monkeypatch.setattr(grids.data, "cifar", lambda folder: whole)
    monkeypatch.setitem(GRIDS, "small", Grid("", {"sgd": "sgd", "slu": "slu"}, (8,)))
    found = study("small", 2, tmp_path, "model:tiny?counting=0", 1, folder="copies")
    assert [row["batch"] for row in found["table"]] == [32, 32] and len(found["rows"]) == 4
    (macs,) = {row["training_bit_macs"] for row in found["rows"] if row["variant"] == "sgd"}
    assert macs > 4 * max(
        row["training_bit_macs"] for row in study("small", 2, tmp_path / "digits", "model:tiny?counting=0", 1)["rows"]
    )
    assert found["note"].endswith("under-trained, no ranking claimed")
    good = [
        ALIKE
        | {"images": grids.CIFAR, "variant": "sgd", "batch": 8, "seed": 0, "accuracy": 0.9, "training_bit_macs": 1}
    ]
    assert summary("small", good)["note"] == "sgd reaches 90.0%"


@pytest.mark.parametrize(
    ("runs", "note"),
    [
        ({"sgd": 0.9, "fp32": 0.7}, "fp32 reaches 70.0%: under-trained, no ranking claimed"),
        ({"sgd": 0.7, "fp32": 0.8}, "fp32 reaches 80.0%"),
        ({"sgd": 0.7, "slu": 0.9}, "sgd reaches 70.0%: under-trained, no ranking claimed"),
        ({"slu": 0.9}, "no run of sgd to tell how far networks are trained: no ranking claimed"),
        ({"sgd": None, "slu": 0.9}, "no run of sgd to tell how far networks are trained: no ranking claimed"),
    ],
)
def test_what_a_table_claims_is_by_fp32_or_ordinary_training(runs, note):
    results = {
        variant: {"failed": "no"} if accuracy is None else {"accuracy": accuracy, "training_bit_macs": 1}
        for variant, accuracy in runs.items()
    }
    alike = ALIKE | {"images": grids.CIFAR, "batch": 8, "seed": 0}
    rows = [alike | {"variant": variant} | result for variant, result in results.items()]
    assert summary("small", rows)["note"] == note


def test_runs_of_other_versions_are_told(tmp_path, monkeypatch):
    runs = Runs(tmp_path / FILE)
    try:
        for seed, source in enumerate(("aa", "aa", "bb")):
            monkeypatch.setattr(grids, "_versions", lambda source=source: {"source": source})
            told = {"images": grids.CIFAR, "variant": "sgd", "batch": 8, "seed": seed}
            runs.add("small", ALIKE | told, {"accuracy": 0.9, "training_bit_macs": 1})
        rows = runs.all("small")
    finally:
        runs.close()
    assert summary("small", rows[:2])["note"] == "sgd reaches 90.0%"
    assert summary("small", rows)["note"] == "sgd reaches 90.0%; runs of 2 versions of the program"


def test_stages_are_those_that_every_seed_visited():
    rows = [
        ALIKE | {"variant": variant, "batch": 8, "seed": seed, "accuracy": 0.5, "training_bit_macs": 1, "methods": own}
        for variant, visited in (("sgd", (None, None)), ("pfq", (4, 2)))
        for seed, count in enumerate(visited)
        for own in ({} if count is None else {"pfq": {"stages": 4, "stages_visited": count}},)
    ]
    table = {row["variant"]: (row["stages_visited"], row["stages"]) for row in summary("small", rows)["table"]}
    assert table == {"sgd": (None, None), "pfq": (2, 4)}


def test_the_table_for_people_says_each_seed_or_the_mean_of_many(monkeypatch):
    def shown(seeds, rates=(1.0,)):
        alike = ALIKE | {"batch": 8, "images": grids.DIGITS, "training_bit_macs": 4}
        rows = [alike | {"variant": "sgd", "seed": seed, "accuracy": 0.0, "rate": 1.0} for seed in range(seeds)]
        for seed in range(seeds):
            result = {"failed": "no"} if seed == 2 else {"accuracy": 0.25 + seed / 8, "training_bit_macs": 3}
            rows += [alike | {"variant": "x", "seed": seed, "rate": rate} | result for rate in rates]
        console = Console(width=200, record=True, file=io.StringIO())
        console.print(cli._compared(summary("small", rows)))
        text = console.export_text()
        return text, [line.split() for line in text.splitlines() if line.strip()]

    text, lines = shown(3)
    assert lines[1] == ["method", "n", "test", "%", "work", "diff.", "95", "%"] and lines[-1][0] == "work:"
    assert lines[-2] == ["x", "3", "25.0", "37.5", "1", "failed", "0.750", "+31.2", "-48.2", "..", "+110.7"]
    assert "the mean" not in text and "rate" not in lines[1]
    text, lines = shown(4, (1.0, 0.5))
    assert ["method", "n", "rate", "test", "%", "work", "diff.", "95", "%"] in lines
    assert "rates by 1 or 2 trials of 1 epochs each" in " ".join(text.split())
    assert lines[-2][:6] == ["x", "4", "1", "41.7", "1", "failed"] and "of more than 3 seeds the mean" in text
    assert [line[:3] for line in lines if line[0] == "sgd"] == [["sgd", "4", "0.0"]]


def test_all_grids_name_methods_that_there_are():
    for name, grid in GRIDS.items():
        assert grids.REFERENCE in grid.variants and cli.GRIDS[name] == grid.about
        for given in grid.variants.values():
            TrainOptions(**grids._options(given, "model"))
    assert set(cli.GRIDS) == set(GRIDS)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("text", "is no file of a study"),
        ("version", r"was written by another version \(99, not 2\)"),
    ],
)
def test_other_files_are_refused(how, words, tmp_path):
    path = tmp_path / FILE
    if how == "text":
        path.write_text("rows, rows, rows " * 100)
    else:
        Runs(path).close()
        database = sqlite3.connect(path)
        database.execute("PRAGMA user_version = 99")
        database.close()
    with pytest.raises(UsageError, match=words):
        study("smd", 2, tmp_path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "letters"}, "study 'letters' is unknown; choose from smd"),
        ({"seeds": 1}, "seeds = 1"),
        ({"device": "serial:///dev/ttyUSB0", "workers": 2}, "workers = 2 would share the board serial:///dev/ttyUSB0"),
        ({"scheduler": "tcp://127.0.0.1:9"}, "no Dask scheduler answers at"),
    ],
)
def test_what_cannot_be_is_one_line(arguments, words, tmp_path, monkeypatch):
    monkeypatch.setattr(grids, "TIMEOUT", "1s")
    with pytest.raises(UsageError, match=words) as error:
        study(**{"name": "smd", "seeds": 2, "out": tmp_path, **arguments})
    assert "\n" not in str(error.value)


# a cluster by its address

#: A worker that has few images, writes a line for each run begun, and never ends the run that is the third of all
#: workers, so that it can be killed there.
WORKER = """
import time
from pathlib import Path

from bitfirst import data, grids
from distributed.cli.dask_worker import main

whole = data.digits()
parts = (data.Split(part.images[:64], part.labels[:64]) for part in (whole.train, whole.validation, whole.test))
splits = data.Splits(*parts)
grids.data.digits = lambda: splits
run_one = grids.run_one


def told(configuration, folder):
    with open("begun", "a") as file:
        file.write("{variant} {seed}\\n".format(**configuration))
    if len(Path("begun").read_text().splitlines()) == 3:
        Path("third").touch()
        time.sleep(600)
    return run_one(configuration, folder)


grids.run_one = told
main()
"""


def kept(path):
    """Runs of the study `smd` in a file."""
    runs = Runs(path)
    try:
        return runs.all("smd")
    finally:
        runs.close()


def wait_for(there, process):
    """Until it is, while the process lives."""
    end = time.monotonic() + 120
    while not there():
        assert process.poll() is None and time.monotonic() < end, "what is waited for does not come"
        time.sleep(0.05)


@pytest.fixture
def begin(tmp_path):
    """Starts processes of this Python in `tmp_path`, which end with the test."""
    processes = []

    def start(name, *arguments):
        with (tmp_path / f"{name}.log").open("a") as log:
            command = [sys.executable, *arguments, "--host", grids.HERE, "--no-dashboard"]
            processes.append(subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_study_on_a_scheduler_survives_its_worker(small, tmp_path, monkeypatch, begin, capfd):
    """Scheduler and worker are processes of their own; the worker is killed in the third run, and another comes."""
    monkeypatch.setitem(GRIDS, "smd", Grid("", {"sgd": "sgd", "smd": "smd:p=0.5,work=0.5"}, (32,)))
    monkeypatch.setattr(grids, "TIMEOUT", "100s")  # of a busy machine
    (tmp_path / "worker.py").write_text(WORKER)
    where = "--port", "0", "--scheduler-file", "scheduler"
    scheduler = begin("scheduler", "-m", "distributed.cli.dask_scheduler", *where)
    wait_for(lambda: (tmp_path / "scheduler").exists(), scheduler)
    address = json.loads((tmp_path / "scheduler").read_text())["address"]
    assert address.startswith("tcp://127.0.0.1:")
    worker = partial(begin, "worker", "worker.py", address, "--no-nanny", "--nthreads", "1")

    def replace_the_worker(first):
        try:
            wait_for(lambda: (tmp_path / "third").exists(), first)
            wait_for(lambda: len(kept(tmp_path / "out" / FILE)) == 2, first)
        except AssertionError:
            scheduler.kill()  # or the study would wait for ever
            raise
        time.sleep(1)  # until the scheduler knows, too, that they are
        first.kill()
        worker()

    with ThreadPoolExecutor(1) as beside:
        replaced = beside.submit(replace_the_worker, worker())
        arguments = ["--seeds", "2", "--epochs", "1", "--device", "model:tiny?counting=0", "--scheduler", address]
        assert cli.run(["study", "smd", *arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
        replaced.result()
    found = json.loads(capfd.readouterr().out)
    begun = (tmp_path / "begun").read_text().splitlines()
    assert begun[:3] == ["sgd 0", "smd 0", "sgd 1"]
    assert sorted(begun[3:]) == ["sgd 1", "smd 1"]  # what was finished is not begun again
    assert [(row["seeds"], row["failed"]) for row in found["table"]] == [(2, 0), (2, 0)]
    rows = {(row["variant"], row["seed"]): row for row in kept(tmp_path / "out" / FILE)}
    (here,) = (
        one for one in configurations("smd", 2, "model:tiny?counting=0", 1) if one["variant"] == "smd" and one["seed"]
    )
    assert rows["smd", 1]["weights_sha256"] == grids.run_one(here)["weights_sha256"] and len(rows) == 4


@pytest.mark.parametrize(
    "error", [distributed.KilledWorker("run", SimpleNamespace(address="tcp://127.0.0.1:9"), 3), CancelledError("run")]
)
def test_lost_workers_are_one_line(error, small, tmp_path, monkeypatch):
    def lost(configuration, folder):
        raise error

    monkeypatch.setattr(grids, "_run_or_error", lost)
    with pytest.raises(LinkError, match=r"lost its workers or its scheduler .*: what is finished is kept; .* goes on"):
        study("small", 2, tmp_path, "model:tiny?counting=0", 1)
