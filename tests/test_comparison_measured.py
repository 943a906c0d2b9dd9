"""Trainings that sensors told of, in `bitfirst report`."""

import json

import pytest
from bitfirst import comparison, comparison_measured
from bitfirst_hdl import config

FIXED = config.load("fixed")
PSG = config.load("psg")


def result(folder, method, joules, array=PSG, provenance="simulated", seed=0, accuracies=(0.5, 0.9)):
    """What `bitfirst measure` writes, as far as a report reads it; each epoch takes the same."""
    each = joules / len(accuracies)
    told = {"energy_j": each, "uncertainty_j": 0.01 * each, "provenance": provenance, "scope": "board"}
    told |= {"extrapolated": False}
    history = [
        {"epoch": number, "validation_accuracy": accuracy, "loss": 1.0, "steps": 10 * number, "sensed": told}
        for number, accuracy in enumerate(accuracies, 1)
    ]
    energy = {"total_j": joules, "uncertainty_j": 0.01 * joules, "provenance": provenance, "scope": "board"}
    training = {"energy": energy | {"extrapolated": False}}
    for name, count in ("step", 20), ("sample", 640):
        training |= {f"{name}_j": joules / count, f"{name}_uncertainty_j": 0.01 * joules / count}
    found = {"options": {"method": method, "seed": seed, "batch": 32, "epochs": len(accuracies)}, "history": history}
    found |= {"task": {"title": "handwritten digits", "data": "digits"}, "test_accuracy": accuracies[-1]}
    found |= {"device": "rtl:power", "wall_s": 1.0, "config": array.as_dict(), "sensed": {"training": training}}
    folder.mkdir()
    (folder / "result.json").write_text(json.dumps(found))
    return folder


def test_energies_are_shown_to_the_baseline_on_fixed(tmp_path):
    paths = [
        result(tmp_path / "a", "sbm", 4.0, FIXED),
        result(tmp_path / "b", "e2train", 1.0),
        result(tmp_path / "c", "sbm", 2.0, seed=1),
    ]
    found = comparison.write(paths, tmp_path / "out", target=0.9)
    (table,) = found["sensed"]
    rows = {row[0]: row for row in table["rows"]}
    assert table["title"] == "simulated, scope board, not extrapolated"
    assert rows["e2train"][-1] == "0.250 ± 0.004" and rows["e2train"][3] == "1.000 J ± 0.010 J"
    assert [row[-1] for row in table["rows"] if row[0].startswith("sbm")] == ["-", "-"]  # itself; of another seed
    page = (tmp_path / "out/comparison.html").read_text()
    assert "0.250 ± 0.004" in page and table["title"] in page
    text = (tmp_path / "out/tables.md").read_text()
    assert "0.250 ± 0.004" in text and table["title"] in text
    assert "sensor_provenance" in (tmp_path / "out/runs.csv").read_text().splitlines()[0]


def test_files_of_earlier_versions_are_read(tmp_path):
    """They had another name for what sensors told, in the result and in its epochs."""
    new = result(tmp_path / "a", "e2train", 1.0)
    old = tmp_path / "b"
    old.mkdir()
    (old / "result.json").write_text((new / "result.json").read_text().replace('"sensed"', '"measured"'))
    tables = [comparison.write([path], tmp_path / "out", target=0.9)["sensed"] for path in (new, old)]
    assert tables[0] == tables[1] and tables[0][0]["rows"][0][3:] == [
        *("1.000 J ± 0.010 J", "50.00 mJ ± 0.50 mJ", "1.562 mJ ± 0.016 mJ"),
        *("1.000 J ± 0.010 J", "-"),
    ]


def test_what_is_simulated_is_not_set_against_what_is_measured(tmp_path):
    paths = [
        result(tmp_path / "a", "sbm", 4.0, FIXED, "measured"),
        result(tmp_path / "b", "e2train", 1.0, accuracies=(0.3, 0.4)),
    ]
    tables = comparison.write(paths, tmp_path / "out", target=0.9)["sensed"]
    assert {one["title"] for one in tables} == {
        "measured, scope board, not extrapolated",
        "simulated, scope board, not extrapolated",
    }
    (row,) = next(one["rows"] for one in tables if one["title"].startswith("simulated"))
    assert row[-1] == "-" and row[-2] == "≥ 1.000 J ± 0.010 J"  # it never reached the target


def test_other_supplies_are_not_alike(tmp_path):
    paths = [result(tmp_path / "a", "sbm", 4.0, FIXED)]
    for name, method, rails, array in (
        ("b", "sbm", "1V0", FIXED),
        ("c", "e2train", "1V0", PSG),
        ("d", "sgd", "3V3", PSG),
    ):
        path = result(tmp_path / name, method, 1.0, array)
        told = json.loads((path / "result.json").read_text())
        told["sensed"]["training"]["energy"]["scope"] = "rails"
        told["sensed"]["sensors"] = [{"name": rails}]
        (path / "result.json").write_text(json.dumps(told))
        paths.append(path)
    found = {one["title"]: one["rows"] for one in comparison.write(paths, tmp_path / "out")["sensed"]}
    assert {title: len(rows) for title, rows in found.items()} == {
        "simulated, scope board, not extrapolated": 1,
        "simulated, scope rails (1V0), not extrapolated": 2,
        "simulated, scope rails (3V3), not extrapolated": 1,
    }
    ratios = {row[0]: row[-1] for rows in found.values() for row in rows}
    assert ratios["e2train"] == "1.000 ± 0.014" and ratios["sgd"] == "-"


def test_trainings_without_sensors_have_no_table(tmp_path):
    path = result(tmp_path / "a", "sgd", 4.0)
    told = json.loads((path / "result.json").read_text())
    told["sensed"]["training"]["energy"] |= {"total_j": None, "uncertainty_j": None, "provenance": "unavailable"}
    (path / "result.json").write_text(json.dumps(told))
    found = comparison.write([path], tmp_path / "out")
    assert "sensed" not in found and "sensor_j" not in (tmp_path / "out/runs.csv").read_text()


def test_errors_of_both_are_in_a_ratio():
    def row(variant, joules, array):
        told = {"method": variant, "seed": 0, "study": "digits, epochs: 2", "batch": 32, "config": array.as_dict()}
        return told | {"sensor_j": joules, "sensor_uncertainty_j": 0.01 * joules}

    group = [row("sbm", 4.0, FIXED), row("e2train", 1.0, PSG)]
    ratio, uncertainty = comparison_measured.ratio(group[1], group)
    assert (ratio, uncertainty) == (0.25, pytest.approx(0.25 * 0.01 * 2**0.5))
    for key, other in ("study", "digits, epochs: 7"), ("batch", 64), ("seed", 1):
        assert comparison_measured.ratio(group[1] | {key: other}, group) is None
    assert comparison_measured.ratio(group[1], [*group, group[0]]) is None  # two of which neither is the one
