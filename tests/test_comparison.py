"""`bitfirst report`: runs of studies and trainings side by side; what is drawn is what the runs tell."""

import csv
import html
import json
import sys

import numpy as np
import pytest
from bitfirst import cli, comparison, comparison_figures, data, grids, training
from bitfirst.errors import UsageError
from bitfirst.grids import FILE, Runs

ALIKE = {"rate": 1.0, "epochs": 1, "images": grids.DIGITS, "batch": 8}
LAYERS = {
    ("conv", "forward"): 30,
    ("conv", "weight_gradient"): 30,
    ("body", "forward"): 20,
    ("body", "input_gradient"): 20,
}


def work(**factors):
    """Bit-MACs by layer and product; of layer NAME times `factors`, none at all where that is 0."""
    found = [
        {"layer": layer, "phase": phase, "bit_macs": factors.get(layer, 1) * count}
        for (layer, phase), count in LAYERS.items()
    ]
    return [row for row in found if row["bit_macs"]]


def history(*accuracies, **more):
    """Of epochs of 5 steps, 2 s and 100 bit-MACs; `more`: lists, one of each epoch."""
    rows = [
        {"epoch": number, "loss": 1 / number, "validation_accuracy": accuracy, "wall_s": 2.0}
        | {"steps": 5 * number, "training_bit_macs": 100 * number}
        for number, accuracy in enumerate(accuracies, 1)
    ]
    for key, values in more.items():
        for row, value in zip(rows, values, strict=True):
            row[key] = value
    return rows


def told(accuracy=0.5, bit_macs=200, methods=None, **more):
    """What a run tells; without `more` as little as one can."""
    found = {"accuracy": accuracy, "validation_accuracy": accuracy, "loss": 1.0, "training_bit_macs": bit_macs}
    return found | {"wall_s": 1.0, "history": history(0.2, accuracy), "methods": methods or {}} | more


def signs(*shares):
    rows = [
        {"step": 3 * number, "layer": layer, "resolved": share}
        for number, pair in enumerate(shares)
        for layer, share in zip(("conv", "body"), pair, strict=True)
    ]
    return {"rows": rows}


def keep(path, *runs, study="small"):
    """A study's file with these runs: (variant, seed, result)."""
    kept = Runs(path)
    for variant, seed, result in runs:
        kept.add(study, ALIKE | {"variant": variant, "method": variant, "seed": seed}, result)
    kept.close()
    return path


CHANGES = {"pfq": {"changes": [[0, 3, 6], [4, 8, 8]], "stages": 2, "stages_visited": 2}}


def few(path):
    """Four runs, one of which failed."""
    return keep(
        path,
        ("sgd", 0, told(0.5, 400)),
        ("pfq", 0, told(0.5, 100, CHANGES)),
        ("sgd", 1, told(0.6, 400)),
        ("pfq", 1, {"failed": "diverged <b>", "wall_s": 1.0}),
    )


def trained(folder, method="sgd", accuracy=0.9, epochs=2, data="digits", **more):
    """The result of a training, in `folder`; `more`: options."""
    options = {"seed": 0, "batch": 8, "epochs": epochs} | more | ({} if method == "sgd" else {"method": method})
    task = {"title": f"of {data}", "data": data}
    result = {
        "task": task,
        "options": options,
        "history": history(*[accuracy] * epochs),
        "test_accuracy": accuracy,
        "wall_s": 3.0,
    }
    folder.mkdir()
    (folder / comparison.RESULT).write_text(json.dumps(result | {"method": {}, "device": "model", "layers": work()}))
    return folder


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def panels(*paths):
    """Of the figures' heat maps, those that have any: {name: {title: panel}}."""
    rows = [row for path in paths for row in comparison.read(path)]
    summaries = [grids.summary(name, own) for name, own in comparison.grouped(rows).items()]
    comparison.label(summaries)
    by_label = {}
    for row in summaries[0]["rows"]:
        by_label.setdefault(row["label"], []).append(row)
    maps = comparison_figures.heat_maps(summaries, by_label)
    return {name: {one.title: one for one in found} for name, _, found, _ in maps if found}


def same(values, expected):
    return np.allclose(values, np.array(expected, float), equal_nan=True)


def test_a_report_has_every_run_and_is_self_contained(tmp_path):
    few(tmp_path / FILE)
    found = comparison.write([tmp_path / FILE], tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "digits: mechanics, no claim of accuracy" in page and "50.00%, 60.00%" in page and "0.250" in page
    assert "2 of 2" in page and "http" not in page and page.count("data:image/png;base64,") == 3
    assert found["plots"] == ["accuracy.png", "learning.png", "precision.png"]
    assert all((tmp_path / "out" / name).stat().st_size > 5_000 for name in found["plots"])
    rows = table(tmp_path / "out" / "runs.csv")
    assert [(row["variant"], row["seed"], row["accuracy"]) for row in rows] == [
        ("sgd", "0", "0.5"),
        ("pfq", "0", "0.5"),
        ("sgd", "1", "0.6"),
        ("pfq", "1", ""),
    ]
    assert rows[3]["failed"] == "diverged <b>" and rows[1]["training_bit_macs"] == "100"
    assert json.dumps(found)


def test_what_runs_do_not_tell_is_not_drawn(tmp_path):
    bare = told(methods={"pfq": {"changes": [[0, 8, 8]]}})
    del bare["history"]
    keep(tmp_path / FILE, ("sgd", 0, bare))
    found = comparison.write([tmp_path / FILE], tmp_path, target=0.5)
    assert found["plots"] == ["accuracy.png", "learning.png"] and panels(tmp_path / FILE) == {}


def test_curves_are_means_and_the_span_of_the_seeds():
    named = {"study": "small", "batch": 8}
    rows = [
        named | {"label": "a", "variant": "a", "accuracies": [0.5, 0.75, 0.875], "bit_macs": 2e9},
        named | {"label": "host", "variant": "host", "accuracies": [0.75, 0.25], "bit_macs": 0},
    ]
    axes = comparison_figures.accuracy_figure(rows).axes[0]
    (bar,) = axes.containers
    mean, _, (span,) = bar.lines
    assert same(mean.get_xydata(), [[2e9, 212.5 / 3]]) and same(span.get_segments(), [[[2e9, 50], [2e9, 87.5]]])
    assert axes.xaxis.get_major_formatter()(2e9) == "2 G"
    (line,) = (one for one in axes.lines if one.get_label() == "host")
    assert line.get_ydata() == [50, 50]
    runs = [named | {"variant": "a", "history": history(*one)} for one in ((0.25, 0.5), (0.75, 1.0))]
    learning, target = comparison_figures.learning_figure({"a": runs}, 0.9).axes[0].lines
    assert same(learning.get_xydata(), [[1, 50], [2, 75]]) and same(target.get_ydata(), [90, 90])


def test_a_method_has_one_colour_in_all_figures(tmp_path):
    """In whatever order its runs came; one without curves has no name among the curves."""
    curve = told() | {"history": history(0.25, 0.5)}
    keep(
        tmp_path / FILE,
        ("psg", 0, curve),
        ("slu", 0, curve),
        ("smd", 0, told() | {"history": []}),
        ("sgd", 0, curve),
        study="methods",
    )
    summaries = [grids.summary("methods", comparison.read(tmp_path / FILE))]
    comparison.label(summaries)
    drawn = {name: figure.axes[0] for name, *_, figure in comparison_figures.figures(summaries)}
    points = {bar.get_label(): bar.lines[0].get_color() for bar in drawn["accuracy"].containers}
    curves = {line.get_label(): line.get_color() for line in drawn["learning"].lines}
    assert list(points) == ["sgd", "smd", "slu", "psg"] and len(set(points.values())) == 4
    assert curves == {name: colour for name, colour in points.items() if name != "smd"}


def test_each_size_of_a_batch_has_a_panel():
    """However many: with a curve of its own in each, in one colour, under one name."""
    for sizes in (8, 32), (8, 16, 32, 64):
        rows = [
            {"study": "small", "variant": "a", "batch": size, "label": f"a, batch {size}", "accuracies": [0.5]}
            | {"bit_macs": size, "history": history(size / 100)}
            for size in sizes
        ]
        accuracy = comparison_figures.accuracy_figure(rows[::-1])
        learning = comparison_figures.learning_figure({row["label"]: [row] for row in rows[::-1]})
        assert [axes.containers[0].lines[0].get_xdata() for axes in accuracy.axes] == [[size] for size in sizes]
        assert [list(axes.lines[0].get_ydata()) for axes in learning.axes] == [[size] for size in sizes]
        for figure in accuracy, learning:
            assert [axes.get_title() for axes in figure.axes] == [f"batch {size}" for size in sizes]
            assert len({axes.lines[0].get_color() for axes in figure.axes}) == 1
            (legend,) = figure.legends
            assert [text.get_text() for text in legend.get_texts()] == ["a"]


def test_precision_is_that_of_the_first_run_that_changes_it_to_its_end():
    fixed = told(methods={"static": {"changes": [[0, 8, 8]]}}) | {"seed": 0}
    other = {"pfq": {"changes": [[0, 3, 6], [9, 4, 6]]}}
    first, second = told(methods=CHANGES) | {"seed": 1}, told(methods=other) | {"seed": 2}
    found = comparison_figures.precision_rows({"pfq": [fixed, first, second], "static": [fixed], "alone": [first]})
    steps = [[0, 3, 6], [4, 8, 8], [10, 8, 8]]
    assert found == {"pfq (seed 1)": steps, "alone": steps}


def test_panels_say_of_which_seeds_they_are_where_others_have_no_curves(tmp_path):
    run = told(blocks=["one"]) | {"history": history(0.5, executed=[[0.5]])}
    keep(
        tmp_path / FILE,
        *(("slu", seed, run if seed else told()) for seed in range(3)),
        *(("skipnet", seed, told() if seed < 2 else run) for seed in range(3)),
        *(("sd", seed, run) for seed in range(2)),
    )
    found = panels(tmp_path / FILE)["gates"]
    assert {name: panel.seeds for name, panel in found.items()} == {
        "slu": " (seeds 1, 2)",
        "skipnet": " (seed 2)",
        "sd": "",
    }
    shown = comparison_figures.heat_figure([found["skipnet"]], comparison_figures.Shown("", "", "")).axes[0]
    assert shown.get_title() == "skipnet (seed 2)"


# heat maps
def test_work_by_layer_stands_beside_the_references(tmp_path):
    keep(
        tmp_path / FILE,
        ("sgd", 0, told(layers=work())),
        ("same", 0, told(layers=work())),
        ("half", 0, told(layers=work(body=0.5))),
        ("half", 1, told(layers=work(body=0))),
        ("none", 0, told(layers=work(body=0))),
    )
    found = panels(tmp_path / FILE)["layers"]
    assert list(found) == ["sgd", "half", "none"]  # one that is the same needs no panel
    nan = float("nan")
    assert found["sgd"].own and same(found["sgd"].values, [[30, nan, 30], [20, 20, nan]])
    assert same(found["half"].values, [[100, nan, 100], [25, 25, nan]])
    assert same(found["none"].values, [[100, nan, 100], [0, 0, nan]])
    assert found["none"].rows == ["conv", "body"] and found["none"].columns == ["forward", "dX", "dW"]


def test_work_over_the_epochs_is_to_the_first(tmp_path):
    epochs = [{"epoch": 1, "layers": work()}, {"epoch": 3, "layers": work(body=2)}]
    run = told(layer_epochs=epochs)
    keep(tmp_path / FILE, ("pfq", 0, run), ("sgd", 0, told()))
    (panel,) = panels(tmp_path / FILE)["work"].values()
    assert panel.title == "pfq" and same(panel.values, [[100, 100], [100, 200]])
    assert panel.columns == ["1", "3"]


def test_gates_are_means_of_the_seeds(tmp_path):
    def run(*executed, **more):
        return told(blocks=["one", "two"]) | {"history": history(0.2, 0.5, executed=executed, **more)}

    keep(
        tmp_path / FILE,
        ("slu", 0, run([0.5, 1.0], [0.25, None])),
        ("slu", 1, run([0.7, 0.0], [0.75, 0.5])),
        ("dfq", 0, run([1.0, 1.0], [1.0, 1.0], block_bits=[[3.5, 8.0], [4.0, 6.0]])),
    )
    found = panels(tmp_path / FILE)
    assert same(found["gates"]["slu"].values, [[60, 50], [50, 50]]) and found["gates"].keys() == {"slu"}
    assert same(found["gate_bits"]["dfq"].values, [[3.5, 4], [8, 6]]) and found["gate_bits"].keys() == {"dfq"}
    assert found["gates"]["slu"].rows == ["one", "two"] and found["gates"]["slu"].columns == ["1", "2"]


def test_routes_are_by_class_and_block(tmp_path):
    def run(executed, **more):
        return told(blocks=["one", "two"], routing={"blocks": ["one", "two"], "executed": executed, **more})

    keep(
        tmp_path / FILE,
        ("slu", 0, run([[0.5, 1], [0.0, 1], [1, 1]])),
        ("slu", 1, run([[0.7, 1], [0.5, 0], [1, 1]])),
        ("dfq", 0, run([[0.5, 1], [1, 1], [1, 1]], bits=[[2, 3], [4, 5], [6, 7]])),
    )
    found = panels(tmp_path / FILE)
    assert same(found["routing"]["slu"].values, [[60, 100], [25, 50], [100, 100]])
    assert found["routing"]["slu"].rows == ["0", "1", "2"] and found["routing"].keys() == {"slu", "dfq"}
    assert same(found["routing_bits"]["dfq"].values, [[2, 3], [4, 5], [6, 7]])


def test_resolved_shares_are_by_layer_and_step(tmp_path):
    keep(
        tmp_path / FILE,
        ("psg", 0, told(signs=signs((0.5, 0.25), (1.0, 0.75), (1.0, 1.0)))),
        (
            "psg",
            1,
            told(signs={"rows": [row for row in signs((0.7, 0.25), (0, 0), (0, 0))["rows"] if row["step"] != 3]}),
        ),
        ("exact", 0, told(signs=signs((0.0, 0.0), (0.0, 0.0)))),  # nothing is predicted there
    )
    found = panels(tmp_path / FILE)["resolved"]
    assert found.keys() == {"psg"} and same(found["psg"].values, [[60, 100, 50], [25, 75, 50]])
    assert found["psg"].rows == ["conv", "body"] and found["psg"].columns == ["0", "3", "6"]


def test_every_figure_is_made(tmp_path):
    gated = told(0.4, 100, layers=work(body=0.5), blocks=["one"], routing={"blocks": ["one"], "executed": [[0.5]]})
    widths = told(methods=CHANGES, layers=work(body=2), blocks=["one"], signs=signs((0.5, 0.25)))
    widths["routing"] = {"blocks": ["one"], "executed": [[1]], "bits": [[4]]}
    widths["layer_epochs"] = [{"epoch": 1, "layers": work()}, {"epoch": 2, "layers": work(body=2)}]
    keep(
        tmp_path / FILE,
        ("sgd", 0, told(layers=work())),
        ("slu", 0, gated | {"history": history(0.1, 0.2, executed=[[0.5], [None]])}),
        ("pfq", 0, widths | {"history": history(0.1, 0.2, executed=[[1], [1]], block_bits=[[3], [4]])}),
        ("fp32", 0, told(0.9, 0)),
    )
    found = comparison.write([tmp_path], tmp_path, target=0.5)
    wanted = {name: about for name, about in comparison_figures.ABOUT.items() if not name.startswith("energy")}
    assert [name.removesuffix(".png") for name in found["plots"]] == list(wanted)
    page = html.unescape((tmp_path / "comparison.html").read_text())
    assert page.count("data:image/png;base64,") == 10 and all(one in page for one in wanted.values())


def test_predicted_signs_stand_beside_the_bound_of_their_errors(tmp_path):
    """A layer is the mean of its samples, whichever seed they are of; exact signs have no bound, and no row."""

    fixed = {"wrong_resolved": 0.01, "wrong_overall": 0.02, "wrong_fp32": 0.03, "exact_wrong_fp32": 0.04}
    fixed |= {"bound_mean": 0.05, "bound_vacuous": 0.06, "bound_tau": None}

    def run(*samples):
        rows = [
            {"step": 0, "layer": layer, "resolved": share, "bound_median": bound} for layer, share, bound in samples
        ]
        return told(signs={"rows": [row | fixed for row in rows], "layers": []})

    keep(
        tmp_path / FILE,
        ("psg", 0, run(("a", 0.5, 0.25), ("b", 0.0, 0.5))),
        ("psg", 1, run(("a", 0.25, 0.5), ("a", 0.75, 1.5))),
        ("psg", 2, told()),
        ("signsgd", 0, run(("a", 0.0, None))),
        ("sgd", 0, told()),
    )
    comparison.write([tmp_path], tmp_path)
    text = (tmp_path / "tables.md").read_text().split("small, predicted signs; ")[1].splitlines()
    assert len(text) == 5
    cells = dict(zip(*(line.strip("| ").split(" | ") for line in (text[2], text[4])), strict=True))
    assert (cells["method"], cells["seeds"]) == ("psg", "2")
    assert cells["resolved"] == "0.250 (0.000 .. 0.500)" and cells["bound: median"] == "0.625 (0.500 .. 0.750)"
    titles = "wrong of these", "wrong of all", "other than fp32's", "exact ones other than fp32's"
    titles += "mean of min(1, bound)", "bounds of 1 or more"
    assert [cells[title][:5] for title in titles] == ["0.010", "0.020", "0.030", "0.040", "0.050", "0.060"]
    assert cells["with the threshold"] == "-"
    page = (tmp_path / "comparison.html").read_text()
    assert all(f"<td>{cell}</td>" in page for cell in cells.values())


# several files
def test_studies_and_trainings_stand_in_one_page(tmp_path):
    few(tmp_path / FILE)
    keep(tmp_path / "other.sqlite", ("sgd", 0, told(0.75)))
    ours = [trained(tmp_path / "a"), trained(tmp_path / "b", "psg"), trained(tmp_path / "c", "psg", 0.8)]
    longer = trained(tmp_path / "d", "slu", epochs=3) / comparison.RESULT
    paths = [tmp_path, tmp_path / "other.sqlite", *ours, longer, ours[0]]
    found = comparison.write(paths, tmp_path / "out")
    names = [one["study"] for one in found["studies"]]
    assert names == [
        f"small ({tmp_path / FILE})",
        f"small ({tmp_path / 'other.sqlite'})",
        "of digits, epochs: 2",
        "of digits, epochs: 3",
    ]
    rows = {row["variant"]: row for row in found["studies"][2]["table"]}
    assert rows.keys() == {"sgd", f"psg ({tmp_path / 'b'})", f"psg ({tmp_path / 'c'})"}
    assert rows[f"psg ({tmp_path / 'c'})"]["accuracies"] == [0.8] and rows["sgd"]["bit_macs"] == 200
    rows = table(tmp_path / "out" / "runs.csv")
    assert len(rows) == 9 and rows[-1]["source"] == str(longer) and rows[-1]["variant"] == "slu"
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert all(str(path / comparison.RESULT) in page for path in ours) and "75.00%" in page


def test_tables_are_markdown_too(tmp_path):
    keep(tmp_path / FILE, ("sgd", 0, told(0.5)), ("a | b", 0, told(0.25)))
    comparison.write([tmp_path], tmp_path)
    lines = (tmp_path / "tables.md").read_text().splitlines()
    assert lines[0] == "small: digits: mechanics, no claim of accuracy" and lines[2].startswith("| method | batch |")
    assert lines[5].startswith("| a \\| b | 8 | 1 | 0 | 1 | 25.00% | 25.00% |") and len(lines) == 6


def test_trainings_on_other_data_are_apart_and_claim_by_their_own_reference(tmp_path):
    found = comparison.write([trained(tmp_path / "a"), trained(tmp_path / "b", data="cifar10:x")], tmp_path / "out")
    assert {one["study"]: one["note"] for one in found["studies"]} == {
        "of digits, epochs: 2": "digits: mechanics, no claim of accuracy",
        "of cifar10:x, epochs: 2": "sgd reaches 90.0%",
    }


def test_trainings_with_other_options_are_no_seeds_of_the_same(tmp_path):
    bits = {"activation": 8, "weight": 8, "gradient": 16}
    paths = [
        trained(tmp_path / "a", lr=0.1, bits=bits),
        trained(tmp_path / "b", accuracy=0.8, seed=1, lr=0.5, bits=bits),
        trained(tmp_path / "c", "psg", lr=0.1, bits=bits, beta=0.1),
        trained(tmp_path / "d", "psg", seed=1, lr=0.1, bits=bits, beta=0.1),
        trained(tmp_path / "e", "slu", lr=0.1, bits=bits),
        trained(tmp_path / "f", "slu", seed=1, lr=0.1, bits=bits | {"weight": 4}, init="x"),
        trained(tmp_path / "g", lr=0.1, bits=bits, train_images=16),
    ]
    found = comparison.write(paths, tmp_path / "out")["studies"]
    assert [one["study"] for one in found] == ["of digits, epochs: 2", "of digits, epochs: 2, train_images: 16"]
    assert {row["variant"]: row["seeds"] for row in found[0]["table"]} == {
        "sgd, lr 0.1": 1,
        "sgd, lr 0.5": 1,
        "psg": 2,
        "slu, bits 8/8/16, init None": 1,
        "slu, bits 8/4/16, init x": 1,
    }
    assert [row["variant"] for row in found[1]["table"]] == ["sgd"]


def test_a_training_is_read_as_it_was_written(tmp_path, monkeypatch):
    whole = data.digits()
    parts = (data.Split(part.images[:32], part.labels[:32]) for part in (whole.train, whole.validation, whole.test))
    splits = data.Splits(*parts)
    monkeypatch.setattr(training.data, "digits", lambda: splits)
    options = training.TrainOptions(device="model", epochs=1, batch=16, method="slu", out=tmp_path / "run")
    result = training.train_and_compare(options)
    (row,) = comparison.read(tmp_path / "run" / comparison.RESULT)
    assert (row["variant"], row["batch"], row["accuracy"]) == ("slu", 16, result["test_accuracy"])
    assert 0 < row["training_bit_macs"] < result["bit_macs"]  # without evaluation
    assert row["training_bit_macs"] == result["history"][-1]["training_bit_macs"] and row["layers"] == result["layers"]
    found = comparison.write([tmp_path / "run"], tmp_path / "out")
    assert found["plots"] == ["accuracy.png", "learning.png", "layers.png", "gates.png", "routing.png"]


BAD = {
    "absent": (None, "is not there: give files of studies, such as runs/smd/study.sqlite"),
    "empty folder": ("", "holds neither study.sqlite nor result.json"),
    "text": ("rows, rows, rows " * 100, "is no file of a study: give files of studies"),
    "text.json": ("rows", "is no result of bitfirst train"),
    "object.json": ('{"options": {"seed": 0}}', "is no result of bitfirst train"),
    "list.json": ("[1, 2]", "is no result of bitfirst train"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_path_of_something_else_is_one_line(name, tmp_path, capfd):
    content, words = BAD[name]
    few(tmp_path / "good.sqlite")
    path = tmp_path / name
    if content == "":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    out = tmp_path / "out"
    assert cli.run(["report", str(tmp_path / "good.sqlite"), str(path), "--out", str(out)]) == 2
    told_ = capfd.readouterr()
    assert told_.out == "" and words in " ".join(told_.err.split()) and told_.err.count("\n") == 1
    assert not out.exists() and (content is not None or not path.exists())


def test_a_file_without_runs_is_one_line(tmp_path):
    keep(tmp_path / FILE)
    with pytest.raises(UsageError, match="holds no runs yet"):
        comparison.write([tmp_path], tmp_path)


# to an accuracy
def test_a_target_is_reached_or_censored(tmp_path):
    late = told(0.9) | {"history": history(0.1, 0.5, 0.5, 0.9)}
    never = told(0.3) | {"history": history(0.1, 0.2, 0.3)}
    host = told(0.9, 0) | {"history": history(0.1, 0.9, training_bit_macs=[0, 0])}
    old = told(0.9) | {"history": [{"validation_accuracy": 0.9, "wall_s": 2.0}]}
    failed, lost = {"failed": "no", "wall_s": 1.0}, told(0.9) | {"history": []}
    runs = zip("sxyzhl", (late, never, old, failed, host, lost), strict=True)
    keep(tmp_path / FILE, *((name, 0, run) for name, run in runs))
    found = comparison.write([tmp_path], tmp_path, target=0.5)
    rows = {row["variant"]: row for row in table(tmp_path / "runs.csv")}
    keys = comparison.TARGET_COLUMNS
    assert [rows["s"][key] for key in keys] == ["0.5", "200", "10", "4.0", "", "False"]
    assert [rows["x"][key] for key in keys] == ["0.5", "300", "15", "6.0", "", "True"]
    assert [rows["y"][key] for key in keys] == ["0.5", "", "", "2.0", "", "False"]
    assert [rows["z"][key] for key in keys] == ["0.5", "", "", "", "", ""]
    assert [rows["h"][key] for key in keys] == ["0.5", "", "10", "4.0", "", "False"]
    page = " ".join((tmp_path / "comparison.html").read_text().split())
    assert "To a validation accuracy of 50 %" in page
    assert "<td>s</td><td>8</td><td>0</td><td>200</td><td>10</td><td>4.0</td>" in page
    assert "<td>x</td><td>8</td><td>0</td><td>≥ 300</td><td>≥ 15</td><td>≥ 6.0</td>" in page
    assert "<td>z</td><td>8</td><td>0</td><td>failed</td>" in page
    assert "<td>l</td><td>8</td><td>0</td><td>-</td><td>-</td>" in page
    assert [row["censored"] for row in found["targets"]] == [False, True, False, None, False, None]
    brief = (tmp_path / "tables.md").read_text()
    assert "to a validation accuracy of 50 %" in brief
    assert "| s | 8 | 1 of 1 | 2e-10 | 10 |\n| x | 8 | 0 of 1 | ≥ 3e-10 | ≥ 15 |" in brief
    assert "| z | 8 | 0 of 0 | - | - |" in brief
    higher = comparison.write([tmp_path], tmp_path, target=0.95)
    assert [row["censored"] for row in higher["targets"]] == [True, True, True, None, True, None]
    assert not any(key in row for row in comparison.write([tmp_path], tmp_path)["studies"][0]["rows"] for key in keys)


def test_the_command_shows_targets_and_refuses_what_is_no_accuracy(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    keep(tmp_path / FILE, ("sgd", 0, told(0.5)), ("slow", 0, told(0.3)))
    assert cli.run(["report", str(tmp_path), "--target", "0.5"]) == 0
    shown = capfd.readouterr().out
    assert ">= 200" in shown and ">= 10" in shown and "comparison.html" in shown
    assert cli.run(["report", str(tmp_path), "--target", "90"]) == 2
    assert "target = 90.0: give an accuracy above 0, up to 1" in " ".join(capfd.readouterr().err.split())


# TensorBoard
def test_events_are_read_back_by_tensorboard(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = told(0.5, methods=CHANGES, blocks=["one"], signs=signs((0.5, 0.25)))
    run["history"] = history(0.25, 0.75, executed=[[0.5], [None]], train_accuracy=[0.5, 0.625])
    keep(tmp_path / FILE, ("pfq / slu", 0, run), ("sgd", 0, {"failed": "no", "wall_s": 1.0}))
    found = comparison.write([tmp_path], tmp_path / "out", tensorboard=tmp_path / "events")
    assert found["tensorboard"] == str(tmp_path / "events")
    (folder,) = (tmp_path / "events").glob("*/*")
    assert folder.relative_to(tmp_path / "events").parts == ("pfq - slu", "seed 0")
    events = EventAccumulator(str(folder)).Reload()
    read = {tag: [(one.step, one.value) for one in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert read == {
        "accuracy/train": [(5, 0.5), (10, 0.625)],
        "accuracy/validation": [(5, 0.25), (10, 0.75)],
        "accuracy/test": [(10, 0.5)],
        "loss/train": [(5, 1.0), (10, 0.5)],
        "bit_macs/training": [(5, 100.0), (10, 200.0)],
        "executed/one": [(5, 0.5)],
        "bits/forward": [(0, 3.0), (4, 8.0)],
        "bits/backward": [(0, 6.0), (4, 8.0)],
        "resolved/conv": [(0, 0.5)],
        "resolved/body": [(0, 0.25)],
    }


def test_without_tensorboard_it_says_what_to_install(tmp_path, monkeypatch, capfd):
    few(tmp_path / FILE)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert cli.run(["report", str(tmp_path), "--out", str(tmp_path / "out"), "--tensorboard", str(tmp_path / "x")]) == 2
    assert "pip install 'bitfirst[tensorboard]'" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "out").exists()
