"""Coefficients fitted to boards that are made up, so that the true ones are known."""

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from bitfirst import energy_fit, energy_model
from bitfirst.energy import Energy, unavailable
from bitfirst.energy_fit import fit
from bitfirst.errors import UsageError
from bitfirst.measuring import shown
from bitfirst_hdl import config
from rich.console import Console

SMALL = config.load("small")
#: Joules of a made-up board: of some magnitudes that boards have.
TRUE = {"cycles": 4e-9, "bit_macs_done": 2e-12, "bit_macs_gated": 3e-13, "fetches": 6e-10, "words_written": 2e-9}
MOST = {
    "cycles": 10**7,
    "array_steps": 4 * 10**6,
    "fetches_a": 3 * 10**5,
    "fetches_b": 3 * 10**5,
    "words_written": 2 * 10**5,
}


def windows(random, count=20):
    """Counters of so many windows of different work."""
    rows = [{name: int(random.integers(0, most)) for name, most in MOST.items()} for _ in range(count)]
    elements = SMALL.rows * SMALL.columns
    return [row | {"gated_steps": int(random.random() * elements * row["array_steps"])} for row in rows]


def told(rows, random, coefficients=TRUE, relative=0.01, stated=1.0, hidden=0.0, scope="board"):
    """What sensors tell of windows: with errors of `relative` at k = 2, and `stated` times that as their uncertainty;
    `hidden` joules are taken that no counter tells of."""
    found = []
    for row in rows:
        amounts = energy_model.activity(row, SMALL)
        true = sum(joules * amounts[term] for term, joules in coefficients.items()) + hidden * random.random()
        uncertainty = relative * true
        found.append(Energy(true + random.normal(0, uncertainty / 2), stated * uncertainty, "simulated", scope))
    return found


def made(seed=1, **more):
    random = np.random.default_rng(seed)
    rows = windows(random)
    return rows, told(rows, random, **more)


def share_inside(narrowed=1.0, count=150):
    """Of the true coefficients of so many boards, those inside their intervals; `narrowed`: a broken variant."""
    inside = []
    for seed in range(count):
        found = fit(*made(seed), SMALL, "made up")
        for term, (_, high) in found.intervals.items():
            middle, half = found.model.joules[term], narrowed * (high - found.model.joules[term])
            inside.append(middle - half <= TRUE[term] <= middle + half)
    return sum(inside) / len(inside)


def test_intervals_hold_the_true_coefficients():
    assert share_inside() >= 0.93
    assert share_inside(narrowed=0.5) < 0.8


def test_without_noise_the_coefficients_are_the_true_ones():
    rows, _ = made()
    amounts = [energy_model.activity(row, SMALL) for row in rows]
    energies = [Energy(sum(TRUE[term] * row[term] for term in TRUE), 1e-6, "measured", "board") for row in amounts]
    found = fit(rows, energies, SMALL, "ulx3s")
    assert found.model.joules == pytest.approx(TRUE) and found.degrees == 15 and found.is_consistent
    assert max(map(abs, found.residuals)) < 1e-9 and found.chance > 0.999
    assert found.model.origin == "fitted to windows of ulx3s, measured" and found.model.scope == "board"


def test_a_model_of_the_fit_tells_new_work_within_its_uncertainty():
    inside = {1.0: 0, 0.25: 0}  # of the uncertainty stated; a quarter of it is a broken variant
    for seed in range(60):
        found = fit(*made(seed), SMALL, "made up")
        amounts = energy_model.activity(windows(np.random.default_rng(1000 + seed), 1)[0], SMALL)
        energy = found.model.energy(amounts, SMALL)
        error = energy.total_j - sum(TRUE[term] * amounts[term] for term in TRUE)
        for part in inside:
            inside[part] += abs(error) <= part * energy.uncertainty_j
    assert energy.provenance == "modelled" and inside[1.0] >= 54 and inside[0.25] < 40


def test_what_no_term_counts_shows_in_the_residuals():
    honest, hidden, boasting = (fit(*made(7, **more), SMALL, "x") for more in ({}, {"hidden": 0.05}, {"stated": 0.1}))
    assert honest.is_consistent and not hidden.is_consistent and not boasting.is_consistent
    wide, narrow = (one.intervals["cycles"][1] - one.model.joules["cycles"] for one in (boasting, honest))
    assert wide > 0.5 * narrow  # widened again by what the residuals say


def test_coefficients_are_never_below_0():
    rows, energies = made(3, coefficients=TRUE | {"words_written": 0.0}, relative=0.1)
    found = fit(rows, energies, SMALL, "x")
    assert all(joules >= 0 for joules in found.model.joules.values())
    low, high = found.intervals["words_written"]
    assert low == 0 < high


def test_a_fit_is_a_file_of_coefficients(tmp_path):
    found = fit(*made(), SMALL, "ulx3s")
    found.model.save(tmp_path / "ulx3s.json")
    read = energy_model.load(str(tmp_path / "ulx3s.json"))
    amounts = energy_model.activity(windows(np.random.default_rng(5), 1)[0], SMALL)
    assert read.energy(amounts, SMALL) == found.model.energy(amounts, SMALL)
    with pytest.raises(UsageError, match="was fitted to an array of"):
        read.energy(energy_model.activity(made()[0][0], config.load("tiny")), config.load("tiny"))
    with pytest.raises(UsageError, match="no coefficient of link_bytes, of which there is some here"):
        read.energy(amounts | {"link_bytes": 8}, SMALL)
    silent = fit(*made(), SMALL, "ulx3s", leaves_out=["link_bytes"])
    assert "without operand_bits, gate_macs, link_bytes" in silent.model.about
    assert read.energy(amounts | {"gate_macs": 8}, SMALL) == found.model.energy(amounts, SMALL)  # the board has none
    assert silent.model.energy(amounts | {"link_bytes": 8}, SMALL) == found.model.energy(amounts, SMALL)


def test_windows_that_do_not_tell_terms_apart_are_refused():
    random = np.random.default_rng(1)
    rows = [row | {"words_written": 3 * row["cycles"]} for row in windows(random)]
    energies = told(rows, random)
    with pytest.raises(UsageError, match="do not tell cycles from words_written: they grow in proportion"):
        fit(rows, energies, SMALL, "x")
    assert fit(rows, energies, SMALL, "x", terms=[*TRUE][:-1]).model.joules["cycles"] > TRUE["cycles"]
    idle = [row | {"words_written": 0} for row in rows]
    with pytest.raises(UsageError, match="no window has any words_written: measure some that do"):
        fit(idle, energies, SMALL, "x", terms=[*TRUE])
    assert "words_written" not in fit(idle, energies, SMALL, "x").model.joules
    with pytest.raises(UsageError, match="5 windows for 5 coefficients leave nothing to judge"):
        fit(*(part[:5] for part in made()), SMALL, "x")
    with pytest.raises(UsageError, match="'operand_bits' cannot be fitted; choose from cycles"):
        fit(*made(), SMALL, "x", terms=["cycles", "operand_bits"])


def test_only_what_sensors_told_is_fitted_to():
    rows, energies = made()
    for bad, words in (
        (unavailable(), "window 0 is unavailable"),
        (Energy(1.0, 0.1, "modelled", "board"), "window 0 is modelled: fit to what sensors told"),
        (replace(energies[0], uncertainty_j=0.0), "uncertainty of 0"),
        (Energy(1.0, 0.1, "measured", "array"), "do not add up"),
    ):
        with pytest.raises(UsageError, match=words):
            fit(rows, [bad, *energies[1:]], SMALL, "x")
    for count in 0, 3:
        with pytest.raises(UsageError, match="give one of each"):
            fit(rows[:count], energies[: 2 * count], SMALL, "x")
    mixed = fit(rows, [replace(energies[0], provenance="measured"), *energies[1:]], SMALL, "x")
    assert mixed.model.origin.endswith("simulated")


def test_of_the_array_alone_cycles_take_nothing():
    random = np.random.default_rng(2)
    rows = windows(random)
    found = fit(rows, told(rows, random, {**TRUE, "cycles": 0.0}, scope="array"), SMALL, "x")
    assert "cycles" not in found.model.joules and found.model.scope == "array" and found.is_consistent


def test_what_json_has():
    found = fit(*made(), SMALL, "x").as_dict()
    assert (
        found["coefficients"].keys() == TRUE.keys() and found["consistent"] is True and len(found["residuals_j"]) == 20
    )
    for one in found["coefficients"].values():
        assert one["low"] <= one["joules"] <= one["high"] and math.isfinite(one["high"])
    assert energy_fit.FITTED[0] == "cycles"
    with Console(file=io.StringIO(), width=200) as console:
        console.print(shown.fit_table(found | {"file": "x.json"}))
    shows = " ".join(console.file.getvalue().split())
    assert "fitted to windows of x, simulated, scope board" in shows
