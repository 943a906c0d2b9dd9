"""`bitfirst report`: the runs of a study side by side, as one self-contained page, plots and a table for others."""

import csv
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from . import grids
from .errors import UsageError
from .report import STYLE, save

COLUMNS = ("study", "variant", "batch", "seed", "accuracy", "loss", "training_bit_macs", "wall_s", "failed")
HEAD = ("method", "batch", "seeds", "failed", "validation accuracy, each seed", "mean", "bit-MACs to sgd's")
DIFFERENCE = ("difference to sgd", "95 % interval")
MARKS, LINES = "os^Dv", ("-", "--", ":")


def write(path: Path, out: Path) -> dict[str, Any]:
    """Of a study's file: comparison.html, runs.csv, and accuracy.png, learning.png and precision.png (where some method
    changes it) into `out`; {"page", "csv", "plots", "studies"}.

    Raises `UsageError` for a file that is no study's, or has no run yet.
    """
    if not path.is_file():
        raise UsageError(f"{path} is not there: give the file of a study, such as runs/smd/{grids.FILE}")
    runs = grids.Runs(path)
    try:
        studies = {name: runs.all(name) for name in runs.studies()}
    finally:
        runs.close()
    if not studies:
        raise UsageError(f"{path} holds no runs yet: let the study do some")
    out.mkdir(parents=True, exist_ok=True)
    rows = [{"study": name} | row for name, own in studies.items() for row in own]
    with (out / "runs.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    done = [row for row in rows if "failed" not in row]
    summaries = [grids.summary(name, own) for name, own in studies.items()]
    with matplotlib.rc_context(STYLE):
        figures = {"accuracy": accuracy_figure(summaries), "learning": learning_figure(done)}
        changing = precision_rows(done)
        if changing:
            figures["precision"] = precision_figure(changing)
        plots = {name: save(figure, out / f"{name}.png") for name, figure in figures.items()}
    environment = Environment(
        loader=PackageLoader("bitfirst"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("comparison.html.jinja").render(
        head=HEAD + DIFFERENCE,
        studies={one["study"]: (one["note"], [cells(row) for row in one["table"]]) for one in summaries},
        plots=plots,
        file=path.name,
    )
    (out / "comparison.html").write_text(page, encoding="utf-8")
    names = [f"{name}.png" for name in plots]
    return {"page": str(out / "comparison.html"), "csv": str(out / "runs.csv"), "plots": names, "studies": summaries}


def cells(row: dict[str, Any]) -> list[str]:
    """Of a row of `grids.summary`'s table, for `HEAD` and `DIFFERENCE`."""
    interval = row["difference_interval"]
    return [
        row["variant"],
        str(row["batch"]),
        str(row["seeds"]),
        str(row["failed"]),
        ", ".join(f"{one:.2%}" for one in row["accuracies"]) or "-",
        "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
        "-" if row["work"] is None else f"{row['work']:.3f}",
        "-" if interval is None else f"{row['difference']:+.2%}",
        "-" if interval is None else f"{interval[0]:+.2%} .. {interval[1]:+.2%}",
    ]


# figures
def accuracy_figure(summaries: list[dict[str, Any]]) -> Figure:
    """Validation accuracy against the bit-MACs of training: the mean, and a bar from the worst seed to the best."""
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots()
    rows = [row for one in summaries for row in one["table"] if row["accuracies"]]
    styles = _styles(rows)
    for row, style in zip(rows, styles, strict=True):
        percent = [100 * accuracy for accuracy in row["accuracies"]]
        mean = sum(percent) / len(percent)
        bars = [[mean - min(percent)], [max(percent) - mean]]
        axes.errorbar([row["bit_macs"] / 1e9], [mean], bars, capsize=3, label=_label(row), **style)
    axes.set(title="Accuracy against work", xlabel="thousand million bit-MACs of training", ylabel="validation, %")
    _legend(axes)
    return figure


def learning_figure(rows: list[dict[str, Any]]) -> Figure:
    """Validation accuracy over the epochs, the mean of the seeds."""
    figure = Figure(figsize=(9, 4))
    axes = figure.subplots()
    first = list({_label(row): row for row in reversed(rows)}.values())[::-1]
    for label, style in zip(map(_label, first), _styles(first), strict=True):
        histories = [row["history"] for row in rows if _label(row) == label and row.get("history")]
        epochs = min(map(len, histories), default=0)
        means = [sum(one[epoch]["validation_accuracy"] for one in histories) for epoch in range(epochs)]
        axes.plot(range(1, epochs + 1), [100 * mean / len(histories) for mean in means], label=label, **style)
    axes.set(title="Accuracy over the training", xlabel="epoch", ylabel="validation, %")
    axes.xaxis.get_major_locator().set_params(integer=True)
    _legend(axes)
    return figure


def precision_rows(rows: list[dict[str, Any]]) -> dict[str, list[list[int]]]:
    """(step, bits forward, bits backward) at each change, by label, of the first run that has such."""
    found: dict[str, list[list[int]]] = {}
    for row in rows:
        for own in row["methods"].values():
            if len(own.get("changes", ())) > 1:
                found.setdefault(_label(row), own["changes"])
    return found


def precision_figure(changing: dict[str, list[list[int]]]) -> Figure:
    """Bits over the steps, forward and backward."""
    figure = Figure(figsize=(9, 3.4))
    for axes, column, title in zip(figure.subplots(1, 2), (1, 2), ("forward", "backward"), strict=True):
        for label, changes in changing.items():
            steps = [change[0] for change in changes]
            axes.step(steps, [change[column] for change in changes], ".-", where="post", label=label)
        axes.set(title=f"Precision, {title}", xlabel="step", ylabel="bits")
    _legend(axes)
    return figure


def _styles(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A colour for each method, a mark for each size of a batch."""
    variants, sizes = (list(dict.fromkeys(row[key] for row in rows)) for key in ("variant", "batch"))
    return [
        {
            "color": f"C{variants.index(row['variant'])}",
            "marker": MARKS[sizes.index(row["batch"]) % len(MARKS)],
            "linestyle": LINES[sizes.index(row["batch"]) % len(LINES)],
        }
        for row in rows
    ]


def _label(row: dict[str, Any]) -> str:
    return f"{row['variant']}, batch {row['batch']}"


def _legend(axes: Any) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
