"""Energy by counters times coefficients: of the terms, of what is refused, and in a training's result."""

import json
from dataclasses import replace
from pathlib import Path

import bitfirst
import numpy as np
import pytest
from bitfirst import cli, comparison, comparison_energy, data, energy_model, training
from bitfirst.energy import Energy, co2_g
from bitfirst.errors import UsageError
from bitfirst_hdl import config
from work import Gates

TINY, FIXED = config.load("tiny"), config.load("fixed")
COUNTERS = {
    "array_steps": 100,
    "gated_steps": 30,
    "fetches_a": 5,
    "fetches_b": 7,
    "words_written": 11,
    "elements_read": 13,
    "update_cycles": 17,
    "bytes_moved": 4000,
}
ON_A_BOARD = COUNTERS | {"cycles": 1000, "rx_words": 20, "tx_words": 30}
FILE = {
    "name": "made up",
    "about": "Of a board that is not.",
    "origin": "a test",
    "scope": "board",
    "coefficients": {"cycles": {"joules": 2e-9}, "bit_macs_done": {"joules": {"serial": 3e-12}}},
    "leaves_out": [
        "operand_bits",
        "bit_macs_gated",
        "fetches",
        "words_written",
        "elements_read",
        "update_cycles",
        "link_bytes",
    ],
}


def model(tmp_path, **changes):
    path = tmp_path / "set.json"
    path.write_text(json.dumps(FILE | changes))
    return energy_model.load(str(path))


def test_terms_are_those_of_the_counters():
    # tiny: 2 x 4 elements of 16 lanes of 4 bits; a step reads 2 x 16 x 4 bits of A and 4 x 16 of B
    found = energy_model.activity(COUNTERS, TINY)
    assert found == {
        "bit_macs_done": (100 * 8 - 30) * 64,
        "bit_macs_gated": 30 * 64,
        "operand_bits": 100 * 192,
        "fetches": 12,
        "words_written": 11,
        "elements_read": 13,
        "update_cycles": 17,
        "link_bytes": 4000,
    }
    board = energy_model.activity(ON_A_BOARD, TINY)
    assert board["cycles"] == 1000 and board["link_bytes"] == 8 * 50 and found.keys() < energy_model.TERMS.keys()


def test_counters_are_added_up_over_the_phases():
    counters = {"bit_macs": 9, "bytes_moved": 80, "forward/array_steps": 3, "other/array_steps": 4}
    assert energy_model.summed(counters) == {"bytes_moved": 80, "array_steps": 7}
    with pytest.raises(UsageError, match=r"no array_steps, .* among the counters: count them"):
        energy_model.activity(energy_model.summed({"bit_macs": 9}), TINY)


def test_the_energy_is_counters_times_coefficients(tmp_path):
    amounts = energy_model.activity(ON_A_BOARD, TINY)
    made = model(tmp_path)
    assert made.parts(amounts, TINY) == pytest.approx({"cycles": 2e-6, "bit_macs_done (serial)": 3e-12 * 770 * 64})
    assert made.energy(amounts, TINY).as_dict() == {
        "total_j": pytest.approx(2e-6 + 3e-12 * 770 * 64),
        "uncertainty_j": None,
        "provenance": "modelled",
        "scope": "board",
        "extrapolated": False,
    }


def test_a_fitted_set_has_an_uncertainty_and_an_array(tmp_path):
    shape = {name: getattr(TINY, name) for name in energy_model.SHAPE}
    covariance = {"terms": ["bit_macs_done", "cycles"], "joules2": [[1e-26, 1e-24], [1e-24, 4e-22]]}
    fitted = model(tmp_path, config=shape, covariance=covariance)
    amounts = energy_model.activity(ON_A_BOARD, TINY)
    row = np.array([amounts["bit_macs_done"], amounts["cycles"]])
    expected = 2 * np.sqrt(row @ np.array(covariance["joules2"]) @ row)
    assert fitted.energy(amounts, TINY).uncertainty_j == pytest.approx(expected)
    with pytest.raises(UsageError, match=r"was fitted to an array of datapath=serial .* rows=2 .* this one has"):
        fitted.parts(amounts, config.load("small"))


def test_a_set_that_is_saved_is_read_as_it_was(tmp_path):
    for made in model(tmp_path), energy_model.load(energy_model.DEFAULT):
        made.save(tmp_path / "again.json")
        again = energy_model.load(str(tmp_path / "again.json"))
        assert again.as_dict() == made.as_dict() and again.joules == made.joules


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scope": "chip"}, "scope 'chip' of made up is unknown"),
        ({"scope": "array"}, "scope array have none of cycles"),
        ({"coefficients": {"bit_macs_done": {"joules": 1.0}}}, "scope board need one of cycles"),
        ({"coefficients": {}}, "has no coefficients"),
        ({"coefficients": {"volts": {"joules": 1.0}}}, "coefficient 'volts' of made up is unknown; choose from cycles"),
        ({"coefficients": {"cycles": {"joules": -1.0}}}, "cycles of made up is -1.0: give joules, 0 or more"),
        ({"coefficients": {"cycles": {"joules": "1"}}}, "give joules"),
        ({"coefficients": {"cycles": 1.0}}, "no file of coefficients"),
        ({"coefficients": 3}, "no file of coefficients"),
        ({"covariance": {"terms": ["cycles"], "joules2": [[1.0]]}}, "not that of its coefficients: fit them again"),
        ({"covariance": {"terms": ["cycles", "bit_macs_done"], "joules2": [[1.0]]}}, "fit them again"),
        ({"covariance": [1]}, "fit them again"),
    ],
)
def test_files_that_make_no_sense_are_refused(changes, words, tmp_path):
    with pytest.raises(UsageError, match=words):
        model(tmp_path, **changes)


def test_what_is_no_file_is_refused(tmp_path):
    (tmp_path / "text").write_text("joules")
    with pytest.raises(UsageError, match="no file of coefficients"):
        energy_model.load(str(tmp_path / "text"))
    with pytest.raises(UsageError, match="give a file, or one of horowitz-45nm"):
        energy_model.load("nonsense")


def test_what_was_not_counted_has_no_energy(tmp_path):
    amounts = energy_model.activity(COUNTERS, TINY)
    with pytest.raises(UsageError, match="needs cycles, which this device does not count: take rtl or a board"):
        model(tmp_path).energy(amounts, TINY)
    with pytest.raises(UsageError, match="no bit_macs_done of datapath fixed, only of serial"):
        model(tmp_path).energy(energy_model.activity(ON_A_BOARD, FIXED), FIXED)
    with pytest.raises(UsageError, match="no coefficient of fp32_macs, of which there is some here: fit it"):
        model(tmp_path).energy(energy_model.activity(ON_A_BOARD | {"fp32_macs": 3}, TINY), TINY)
    with pytest.raises(UsageError, match="no coefficient of link_bytes, of which"):
        model(tmp_path, leaves_out=FILE["leaves_out"][:-1]).energy(energy_model.activity(ON_A_BOARD, TINY), TINY)


def test_the_default_set_names_what_each_coefficient_comes_from():
    default = energy_model.load(energy_model.DEFAULT)
    assert default.scope == "array" and default.covariance is None and "no particular board" in default.about
    assert default.sources.keys() == default.joules.keys() and all(map(len, default.sources.values()))
    # 8 x 8 bits of the array's arithmetic cost more bit by bit than in a multiplier
    assert default.of("bit_macs_done", "serial") > default.of("bit_macs_done", "fixed")


def test_the_document_has_the_coefficients_as_they_are():
    page = (Path(__file__).parents[1] / "docs" / "energy.md").read_text()
    default = energy_model.load(energy_model.DEFAULT)
    for term, joules in default.joules.items():
        values = [f"{name} {1e12 * one:g}" for name, one in joules.items()] if isinstance(joules, dict) else []
        assert f"| `{term}` | {', '.join(values) or f'{1e12 * joules:g}'} |" in page


def test_co2_is_by_the_factor_of_a_grid():
    assert co2_g(3.6e6, 400.0) == 400.0 and co2_g(1.8e6, 50.0) == 25.0
    for factor in -1.0, float("inf"), float("nan"):
        with pytest.raises(UsageError, match="grams of CO2 a kWh"):
            co2_g(1.0, factor)


@pytest.fixture
def few_digits(monkeypatch):
    whole = data.digits()
    parts = (data.Split(part.images[:16], part.labels[:16]) for part in (whole.train, whole.validation, whole.test))
    splits = data.Splits(*parts)
    monkeypatch.setattr(training.data, "digits", lambda: splits)


def test_a_training_has_a_modelled_figure_where_it_is_asked_for(few_digits, tmp_path, capfd):
    command = ["train", "--device", "model:tiny", "--epochs", "2", "--batch", "8", "--no-fp32", "--json"]
    assert cli.run([*command, "--energy-model", "horowitz-45nm", "--out", str(tmp_path)]) == 0
    told = capfd.readouterr()
    result = json.loads(told.out)
    counters = {name: sum(phase[name] for phase in result["phases"].values()) for name in result["phases"]["forward"]}
    amounts = energy_model.activity(counters | {"bytes_moved": result["bytes_moved"]}, TINY)
    default = energy_model.load("horowitz-45nm")
    expected = sum(default.of(term, "serial") * amounts.get(term, 0) for term in default.joules)
    assert result["energy"]["total_j"] == pytest.approx(expected) and expected > 0
    assert Energy(**result["energy"]).provenance == "modelled" and result["energy"]["scope"] == "array"
    assert sum(result["energy_model"]["parts"].values()) == pytest.approx(expected)
    page = (tmp_path / "report.html").read_text()
    for shown in " ".join(told.err.split()), page:
        assert "modelled" in shown and "scope array" in shown and "measured" not in shown
    first, second = (row["training_counters"] for row in result["history"])
    # the epochs' own counters are those of training alone, and grow
    assert 0 < first["array_steps"] < second["array_steps"] < counters["array_steps"]
    assert second["array_steps"] == 2 * first["array_steps"]  # as many images again
    assert second["bytes_moved"] < result["bytes_moved"]
    (row,) = comparison.read(tmp_path / comparison.RESULT)
    comparison_energy.add([row], default)
    assert 0 < row["energy_j"] < expected  # without evaluation
    alone = result["energy_model"]["training"]
    assert (alone["provenance"], alone["scope"], alone["extrapolated"]) == ("modelled", "array", False)
    assert alone["total_j"] == pytest.approx(row["energy_j"]) == pytest.approx(2 * alone["epoch_j"])
    assert alone["total_j"] == pytest.approx(4 * alone["step_j"]) == pytest.approx(4 * 8 * alone["sample_j"])


def test_counters_of_training_are_whole_or_not_there(few_digits):
    options = training.TrainOptions(device="model:tiny", epochs=1, batch=8, method="fp32")
    names = "training_counters", "training_macs", "largest_bits"
    with bitfirst.open("model:tiny") as device:
        run = training.new_run(options, device)
        training.fit(run, training.data.digits(), options)
        macs = run.history[0]["training_counters"]["fp32_macs"]
        assert 0 < macs < run.method.products.macs  # without evaluation
        for name in names:
            del run.history[0][name]  # as in a checkpoint of an earlier version
        training.fit(run, training.data.digits(), replace(options, epochs=2))
    assert len(run.history) == 2 and run.history[1].keys().isdisjoint(names)


@pytest.mark.parametrize(
    ("method", "gates"),
    [("slu", Gates((8,), (10,), 1)), ("skipnet", Gates((8,), (10,), 1)), ("dfq", Gates((8, 8), (32, 16), 5))],
)
def test_gates_are_charged_to_the_training_and_the_energy(method, gates, few_digits, tmp_path, capfd):
    command = ["train", "--device", "model:tiny", "--epochs", "2", "--batch", "8", "--no-fp32", "--json"]
    command += ["--energy-model", "horowitz-45nm", "--method", method, "--out", str(tmp_path)]
    assert cli.run(command) == 0
    result = json.loads(capfd.readouterr().out)
    counted = [row["training_counters"]["gate_macs"] for row in result["history"]]
    assert counted == [gates.macs(16), gates.macs(32)]
    whole = gates.macs(32, 3 * 16)  # with two validations and the test, and no step that is only looked at
    assert result["energy_model"]["parts"]["gate_macs"] == pytest.approx(4.6e-12 * whole)
    (row,) = comparison.read(tmp_path / comparison.RESULT)
    default = energy_model.load("horowitz-45nm")
    comparison_energy.add([row], default)
    without = row["history"][-1]["training_counters"] | {"gate_macs": 0}
    less = default.energy(energy_model.activity(without, TINY), TINY).total_j
    assert row["energy_j"] - less == pytest.approx(4.6e-12 * counted[1])
    assert result["energy_model"]["training"]["total_j"] == pytest.approx(row["energy_j"])


@pytest.mark.parametrize(
    ("device", "name", "words"),
    [
        ("model:tiny?counting=0", "horowitz-45nm", "count them (not counting=0)"),
        ("model:fusion", "horowitz-45nm", "no bit_macs_done of datapath fusion"),
        ("model:tiny", "nowhere.json", "give a file, or one of horowitz-45nm"),
    ],
)
def test_what_cannot_be_modelled_is_said_before_anything_begins(device, name, words, few_digits, tmp_path, capfd):
    assert cli.run(["train", "--device", device, "--energy-model", name, "--out", str(tmp_path)]) == 2
    told = capfd.readouterr()
    assert words in " ".join(told.err.split()) and "epoch" not in told.err and not (tmp_path / "result.json").exists()
