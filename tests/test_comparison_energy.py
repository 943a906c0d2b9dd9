"""Energy in `bitfirst report`: whose figure it is, counter ratios, and what other coefficients leave of a ranking."""

import html
import json

import numpy as np
import pytest
from bitfirst import cli, comparison, comparison_energy, comparison_figures, energy_model, grids
from bitfirst.errors import UsageError
from bitfirst.grids import FILE
from bitfirst_hdl import config
from test_comparison import history, keep, table, told

TINY = config.load("tiny")
STEP = {"array_steps": 1000, "gated_steps": 0, "fetches_a": 50, "fetches_b": 50, "words_written": 10}
STEP |= {"elements_read": 20, "bytes_moved": 8000, "matmul_cycles": 1100, "update_cycles": 0}
JOULES = {"bit_macs_done": 1e-9, "operand_bits": 0.0, "fetches": 0.0, "bit_macs_gated": 0.0, "link_bytes": 1e-8}
DEFAULT = energy_model.load(energy_model.DEFAULT)


def made_up(**joules):
    """Coefficients with which each counter's part is easily told."""
    left = ("words_written", "elements_read", "update_cycles")
    return energy_model.EnergyModel("made up", "Of nothing.", "a test", "array", JOULES | joules, leaves_out=left)


def run(accuracies=(0.2, 0.5), array=TINY, host=None, **counters):
    """What a run tells whose epochs take `STEP` each, with some counters of its own."""
    one = STEP | counters
    grown = [
        {name: number * count for name, count in one.items()} | ({"fp32_macs": number * host} if host else {})
        for number in range(1, len(accuracies) + 1)
    ]
    rows = history(*accuracies, training_counters=grown)
    return told(accuracies[-1]) | {"history": rows, "config": array.as_dict()}


def tables(path, model):
    """Of the only study in this file."""
    rows = comparison.read(path)
    comparison_energy.add(rows, model)
    summary = grids.summary("small", rows)
    comparison.label([summary])
    return comparison_energy.table(summary, model)


def page_of(folder):
    return " ".join(html.unescape((folder / "comparison.html").read_text()).split())


@pytest.mark.parametrize(("array", "baseline"), [(config.load("fixed"), "sbm"), (TINY, None)], ids=["fixed", "tiny"])
def test_a_training_by_sbm_on_fixed_is_the_baseline(tmp_path, array, baseline):
    keep(tmp_path / FILE, ("sbm", 0, run(array=array)), ("e2train", 0, run(array_steps=500)))
    rows = {row["variant"]: row for row in tables(tmp_path / FILE, made_up())["rows"]}
    assert rows["e2train"]["baseline"] == rows["sbm"]["baseline"] == baseline
    assert rows["sbm"]["ratio"] == (None if baseline is None else 1.0)


def test_energies_are_means_of_counters_times_coefficients(tmp_path):
    sparse = run(array_steps=500, gated_steps=800, bytes_moved=4000)
    runs = [("sgd", seed, run()) for seed in (0, 1)] + [("psg", 0, sparse), ("psg", 1, run(array_steps=1500))]
    keep(tmp_path / FILE, *runs)
    rows = {row["variant"]: row for row in tables(tmp_path / FILE, made_up())["rows"]}
    bit_macs, link = 2 * 1000 * 512 * 1e-9, 2 * 8000 * 1e-8  # tiny makes 512 bit-MACs a step; two epochs
    assert rows["sgd"]["energy"]["total_j"] == pytest.approx(bit_macs + link)
    assert rows["sgd"]["energy"]["provenance"] == "modelled" and rows["sgd"]["energy"]["scope"] == "array"
    done = 0.5 * (1500 * 512 + 500 * 512 - 800 * 64) / (1000 * 512)  # the mean of psg's two seeds
    assert rows["psg"]["ratios"]["bit_macs_done"] == pytest.approx(done)
    assert (
        rows["psg"]["ratios"]["link_bytes"] == pytest.approx(0.75) and rows["psg"]["ratios"]["bit_macs_gated"] is None
    )
    assert rows["psg"]["ratio"] == pytest.approx((done * bit_macs + 0.75 * link) / (bit_macs + link))
    assert rows["psg"]["baseline"] == rows["sgd"]["baseline"] == "sgd" and rows["sgd"]["ratio"] == 1.0
    assert rows["sgd"]["low"] == rows["sgd"]["high"] == 1.0


def test_sbm_on_fixed_multipliers_is_the_baseline_where_there_is_one(tmp_path):
    fixed = config.load("fixed")
    model = made_up(bit_macs_done={"serial": 2e-9, "fixed": 1e-9})
    keep(tmp_path / FILE, ("sgd", 0, run()), ("sbm, fixed", 0, run(array=fixed)))
    rows = {row["variant"]: row for row in tables(tmp_path / FILE, model)["rows"]}
    assert rows["sgd"]["baseline"] == "sbm, fixed" and "bit_macs_done (serial)" in rows["sgd"]["parts"]
    # what is of another datapath has a coefficient of its own: 16 times as far apart, not 4
    assert rows["sgd"]["high"] / rows["sgd"]["low"] > 4


# other coefficients
def random_parts(random):
    return {f"term {number}": float(random.random() ** 3) for number in range(5)}


def total(parts, factors):
    return sum(factors[term] * joules for term, joules in parts.items())


def test_a_ranking_survives_where_no_coefficients_turn_it():
    random = np.random.default_rng(4)
    rows = [{"label": f"row {number}", "parts": random_parts(random), "host": False} for number in range(8)]
    found = comparison_energy.ranking(rows)
    turned = {(pair["less"], pair["more"]): pair["alone"] for pair in found["turned"]}
    assert found["pairs"] == 28 and 0 < len(turned) < 28
    names = sorted(rows, key=lambda row: sum(row["parts"].values()))
    seen = set()
    for _ in range(4000):  # what chance finds is no more than what was told, and nearly all of it
        factors = {term: 2.0 ** random.choice((-1, random.uniform(-1, 1), 1)) for term in rows[0]["parts"]}
        for number, less in enumerate(names):
            for more in names[number + 1 :]:
                if total(less["parts"], factors) > total(more["parts"], factors):
                    seen.add((less["label"], more["label"]))
    assert seen == turned.keys()
    assert not all(turned.values())  # some are turned by several coefficients at once alone
    for (less, more), alone in turned.items():
        ours, theirs = (next(row["parts"] for row in rows if row["label"] == name) for name in (less, more))
        turns = [
            term
            for term in ours
            if any(
                total(ours, dict.fromkeys(ours, 1.0) | {term: factor})
                >= total(theirs, dict.fromkeys(ours, 1.0) | {term: factor})
                for factor in (0.5, 2.0)
            )
        ]
        assert alone == turns


def test_a_ratio_is_as_far_off_as_coefficients_can_make_it():
    random = np.random.default_rng(5)
    ours, theirs = random_parts(random), random_parts(random)
    low, high = comparison_energy.extremes(ours, theirs)
    seen = []
    for _ in range(4000):
        factors = {term: 2.0 ** random.choice((-1, random.uniform(-1, 1), 1)) for term in ours}
        seen.append(total(ours, factors) / total(theirs, factors))
    assert low - 1e-12 <= min(seen) < 1.02 * low and 0.98 * high < max(seen) <= high + 1e-12
    assert comparison_energy.extremes({"a": 1.0}, {"b": 1.0}) == (0.25, 4.0)
    assert comparison_energy.extremes({"a": 3.0}, {"a": 1.0}) == (3.0, 3.0)


def test_the_verdict_says_which_pairs_may_turn(tmp_path):
    keep(tmp_path / FILE, ("sgd", 0, run()), ("half", 0, run(array_steps=500, bytes_moved=4000)))
    assert "The ranking survives: all 1 pairs" in comparison_energy.verdict(tables(tmp_path / FILE, made_up()))
    keep(tmp_path / "other.sqlite", ("sgd", 0, run()), ("talks", 0, run(array_steps=300, bytes_moved=32_000)))
    found = comparison_energy.verdict(tables(tmp_path / "other.sqlite", made_up()))
    assert "does not survive as a whole: 1 of 1 pairs may turn" in found
    assert found.endswith("talks < sgd (bit_macs_done, link_bytes alone).") or "sgd < talks" in found


# what stands in the page
def test_a_report_says_what_each_energy_is(tmp_path):
    keep(
        tmp_path / FILE,
        ("sgd", 0, run()),
        ("half", 0, run(array_steps=500)),
        ("fp32", 0, run(host=10**6, **dict.fromkeys(STEP, 0))),
    )
    found = comparison.write([tmp_path], tmp_path, model=DEFAULT, g_per_kwh=250.0)
    assert [row["variant"] for row in found["energy"]["studies"][0]["rows"]] == ["sgd", "half", "fp32"]
    assert found["energy"]["studies"][0]["ranking"]["pairs"] == 1  # fp32 is ranked with none
    assert json.dumps(found["energy"]) and found["energy"]["name"] == "horowitz-45nm"
    page = page_of(tmp_path)
    for words in (
        "Each energy below: modelled, scope array, not extrapolated.",
        "of no particular board",
        "Horowitz",
        "fp32 (arithmetic)",
        "The ranking survives",
        "grid factor of 250 g a kWh",
        "This needs no coefficient.",
    ):
        assert words in page
    assert "measured" not in page and page.index("needs no coefficient") < page.index("Each energy below")
    assert {"energy.png", "energy_parts.png"} < set(found["plots"])
    rows = {row["variant"]: row for row in table(tmp_path / "runs.csv")}
    assert rows["sgd"]["energy_provenance"] == "modelled" and rows["sgd"]["energy_extrapolated"] == "False"
    joules = float(rows["sgd"]["energy_j"])
    assert float(rows["sgd"]["co2_g"]) == pytest.approx(joules / 3.6e6 * 250)
    assert float(rows["fp32"]["energy_j"]) == pytest.approx(2 * 4.6e-12 * 10**6)
    sgd, fp32 = (found["energy"]["studies"][0]["rows"][number] for number in (0, 2))
    assert fp32["ratio"] == pytest.approx(4.6e-12 * 10**6 / (9.1e-15 * 1000 * 512))  # of arithmetic alone, both
    assert fp32["high"] == pytest.approx(4 * fp32["ratio"]) and sgd["ratio"] == 1.0
    text = (tmp_path / "tables.md").read_text()
    assert "energy of the training steps (modelled, scope array, not extrapolated; coefficients horowitz-45nm)" in text
    assert "| half | 1 | 0.500 | 0.500 |" in text


def test_gates_that_were_not_counted_are_no_figure(tmp_path):
    """As of runs of earlier versions, whose gates cost nothing."""
    older = run() | {"methods": {"SLU": {"gate_macs": 2100}}}
    keep(tmp_path / FILE, ("sgd", 0, run()), ("slu", 0, older))
    rows = comparison.read(tmp_path / FILE)
    comparison_energy.add(rows, DEFAULT)
    assert [row["energy_j"] is None for row in rows] == [False, True]
    assert "gates were not counted" in rows[1]["no_energy"]


def test_gates_are_a_part_of_a_row_that_is_ranked(tmp_path):
    keep(tmp_path / FILE, ("sgd", 0, run()), ("slu", 0, run(gate_macs=10**6)))
    found = tables(tmp_path / FILE, DEFAULT)
    sgd, slu = found["rows"]
    assert not slu["host"] and found["ranking"]["pairs"] == 1
    assert slu["energy"]["total_j"] - sgd["energy"]["total_j"] == pytest.approx(2 * 4.6e-12 * 10**6)
    assert slu["ratio"] == pytest.approx(slu["energy"]["total_j"] / sgd["energy"]["total_j"])


def test_files_without_counters_still_report_and_say_so_where_energy_is_asked_for(tmp_path, capfd):
    keep(tmp_path / FILE, ("sgd", 0, told()), ("psg", 0, {"failed": "diverged", "wall_s": 1.0}))
    assert "energy" not in comparison.write([tmp_path], tmp_path, target=0.5)
    (tmp_path / "comparison.html").unlink()
    assert cli.run(["report", str(tmp_path), "--energy-model", "horowitz-45nm"]) == 2
    line = " ".join(capfd.readouterr().err.split())
    assert "no energy of any of these runs: its training counters are not in the file: train again, on a device" in line
    assert not (tmp_path / "comparison.html").exists()
    keep(tmp_path / "more.sqlite", ("sgd", 0, run()), ("old", 0, told()), study="new")
    comparison.write([tmp_path, tmp_path / "more.sqlite"], tmp_path, target=0.5, model=DEFAULT)
    rows = {(row["study"], row["variant"]): row for row in table(tmp_path / "runs.csv")}
    assert rows["new", "old"]["energy_provenance"] == "unavailable" and rows["new", "old"]["energy_j"] == ""
    assert "train again" in rows["small", "sgd"]["no_energy"] and rows["small", "psg"]["no_energy"] == "diverged"
    assert rows["new", "sgd"]["no_energy"] == "" and float(rows["new", "sgd"]["energy_j"]) > 0


def test_a_set_for_another_device_is_refused(tmp_path):
    keep(tmp_path / FILE, ("sgd", 0, run()))
    board = energy_model.EnergyModel("board", "", "", "board", {"cycles": 1e-9}, leaves_out=tuple(energy_model.TERMS))
    with pytest.raises(UsageError, match="no energy of any of these runs: board needs cycles, which this device"):
        comparison.write([tmp_path], tmp_path, model=board)


def test_co2_needs_energy_and_a_factor(tmp_path, capfd):
    keep(tmp_path / FILE, ("sgd", 0, run()))
    for options, words in (
        (["--grid-factor", "100"], "a grid factor makes CO2 of energy: give --energy-model, too"),
        (["--grid-factor", "-1", "--energy-model", "horowitz-45nm"], "give grams of CO2 a kWh, 0 or more"),
    ):
        assert cli.run(["report", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
        assert words in " ".join(capfd.readouterr().err.split()) and not (tmp_path / "out").exists()
    assert "CO2" not in comparison.markdown(grids.summary("small", comparison.read(tmp_path / FILE)))


# to an accuracy
def test_energy_to_a_target_is_that_of_the_epochs_it_took(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    model = made_up()
    model.save(tmp_path / "set.json")
    fast, never = run((0.1, 0.6, 0.7, 0.7)), run((0.1, 0.2, 0.3))
    failed = {"failed": "no", "wall_s": 1.0}
    keep(tmp_path / FILE, ("sgd", 0, fast), ("x", 0, never), ("y", 0, told(0.9)), ("z", 0, failed))
    options = {"--target": "0.5", "--energy-model": str(tmp_path / "set.json"), "--grid-factor": "360"}
    command = ["report", str(tmp_path), *(word for pair in options.items() for word in pair)]
    assert cli.run(command) == 0
    shown = capfd.readouterr().out
    epoch = 1000 * 512 * 1e-9 + 8000 * 1e-8  # joules
    rows = {row["variant"]: row for row in table(tmp_path / "runs.csv")}
    assert float(rows["sgd"]["energy_j_to_target"]) == pytest.approx(2 * epoch) and rows["sgd"]["censored"] == "False"
    assert float(rows["sgd"]["energy_j"]) == pytest.approx(4 * epoch)
    assert float(rows["sgd"]["co2_g_to_target"]) == pytest.approx(2 * epoch * 1e-4)
    assert float(rows["x"]["energy_j_to_target"]) == pytest.approx(3 * epoch) and rows["x"]["censored"] == "True"
    assert [rows[name]["energy_j_to_target"] for name in "yz"] == ["", ""]
    assert rows["sgd"]["array_cycles_to_target"] == "2200"
    brief = (tmp_path / "tables.md").read_text().split("to a validation accuracy of 50 %")[1]
    assert "steps, each seed | cycles of products, M, each seed |" in brief
    assert "| 0.0022 |\n| x | 8 | 0 of 1 |" in brief and "| ≥ 0.0033 |" in brief
    page = page_of(tmp_path)
    assert "<td>2,200</td><td>0.001184</td><td>1.18e-07</td>" in page and "<td>≥ 0.001776</td>" in page
    assert "<td>-</td>" in page and page.count("<td>failed</td>") == 6
    assert ">= 0.001776" in shown and "modelled, scope array, not extrapolated" in shown and "measured" not in shown
    assert "energy_to_target.png" in {path.name for path in tmp_path.iterdir()}


def test_every_figure_of_energy_is_made(tmp_path):
    keep(tmp_path / FILE, ("sgd", 0, run()), ("fp32", 0, run(host=10**6)), ("x", 0, run((0.1, 0.2))))
    found = comparison.write([tmp_path], tmp_path, target=0.5, model=DEFAULT)
    made = [name.removesuffix(".png") for name in found["plots"] if name.startswith("energy")]
    assert made == [name for name in comparison_figures.ABOUT if name.startswith("energy")]


# the study of it
def test_the_study_of_energy_has_arrays_of_its_own():
    runs = {one["variant"]: one for one in grids.configurations("energy", 1, "model", 2)}
    devices = {name: one["device"] for name, one in runs.items()}
    assert devices["sbm, fixed"] == devices["fractrain, fixed"] == "model:fixed" and devices["e2train"] == "model:psg"
    assert devices["sgd"] == "model" and not any("array" in one for one in runs.values())
    assert grids.with_array("rtl?trace=x", "fixed") == "rtl:fixed?trace=x"
    for device in "serial:///dev/x", "model:tiny":
        with pytest.raises(UsageError, match="this study compares several: give model or rtl"):
            grids.configurations("energy", 1, device, 2)


def test_runs_of_a_study_are_alike_row_by_row(tmp_path):
    runs = grids.Runs(tmp_path / FILE)
    wanted = grids.configurations("energy", 1, "model", 2)
    runs.add("energy", next(one for one in wanted if one["variant"] == "sgd"), told())
    grids._check_alike(runs, "energy", wanted, 2)
    with pytest.raises(UsageError, match="has this study with device = model: choose another"):
        grids._check_alike(runs, "energy", grids.configurations("energy", 1, "rtl", 2), 2)
    runs.close()


def test_parts_of_one_name_stand_as_they_come():
    """Not as a set has them, which is another order in each process."""
    terms = [f"bit_macs_done ({datapath})" for datapath in ("serial", "fusion", "fixed", "fixed16")]
    rows = [{"label": "sgd", "host": False, "parts": dict.fromkeys(("fetches", *terms), 1.0)}]
    (axes,) = comparison_figures.parts_figure(rows, "modelled").axes
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    assert shown == [term.replace("_", " ") for term in (*terms, "fetches")]
