"""`bitfirst report`: runs side by side, as one self-contained page, plots and a table for others.

Runs are those of studies, and single trainings; in the page each study is a group, as are trainings of equal length.
"""

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined

from . import comparison_energy, comparison_figures, comparison_measured, comparison_signs, comparison_work, grids
from .energy import Scope, co2_g
from .energy_model import EnergyModel
from .errors import UsageError
from .measuring import merging
from .measuring.measured import as_now
from .measuring.meter import read_csv
from .report import STYLE, save

RESULT = "result.json"  #: of a single training
MEND = f"give files of studies, such as runs/smd/{grids.FILE}, or of trainings, such as runs/digits/{RESULT}"
COLUMNS = (
    "study",
    "source",
    "variant",
    "batch",
    "seed",
    "rate",
    "accuracy",
    "validation_accuracy",
    "loss",
    "training_bit_macs",
    "wall_s",
    "failed",
)
TARGET_COLUMNS = ("target", "bit_macs_to_target", "steps_to_target", "wall_s_to_target", "array_cycles_to_target")
TARGET_COLUMNS += ("censored",)
HEAD = ("method", "batch", "seeds", "failed", "rate", "test accuracy, each seed", "mean", "bit-MACs to sgd's")
DIFFERENCE = ("difference to sgd", "95 % interval", "stages visited")
TARGET_HEAD = ("method", "batch", "seed", "bit-MACs", "steps", "wall time, s", "cycles of products")
ENERGY_TARGET_HEAD = ("energy, J", "CO2, g")
TARGET_BRIEF = ("method", "batch", "reached")
#: Behind these, of each seed: name in runs.csv, title, its unit, how it is shown.
TARGET_COUNTS = (
    ("bit_macs_to_target", "bit-MACs, T", 1e12, "{:.3g}"),
    ("steps_to_target", "steps", 1, "{:,.0f}"),
    ("array_cycles_to_target", "cycles of products, M", 1e6, "{:.3g}"),
)


METER_ABOUT = "A power meter's watts, and the sensors' mean in each epoch's windows, rest inside them included."


@dataclass(frozen=True)
class Meter:
    """A power meter's log: its columns, as of `meter.read_csv`; offset, error and scope as of `merging.merged`."""

    path: Path
    time: str | None = None
    power: str | None = None
    offset_s: float | None = None
    error: float = 0.01
    scope: Scope = Scope.BOARD


def write(
    paths: Iterable[Path],
    out: Path,
    target: float | None = None,
    tensorboard: Path | None = None,
    model: EnergyModel | None = None,
    g_per_kwh: float | None = None,
    meter: Meter | None = None,
) -> dict[str, Any]:
    """Of the runs in these files (or folders that hold one): comparison.html, tables.md, runs.csv and PNGs into `out`.

    target       a validation accuracy: what each run took to reach it is told, too
    tensorboard  folder for events
    model        of the energy of their training steps
    g_per_kwh    of a grid: CO2 by that energy
    meter        a power meter's log of the training, of which there must be just one

    Returns {"page", "csv", "plots", "studies": as of `grids.summary`, runs with `COLUMNS`}, with a target "targets",
    with a folder "tensorboard", with a meter "meter": as of `merging.Merged.as_dict`, with trainings that sensors told
    of "sensed": as of `comparison_measured.table`, with a model "energy": its "name", "origin", "about", and
    "studies" as of `comparison_energy.table`, of those that have a figure. Raises `UsageError` for what holds no runs,
    before anything is written.
    """
    _check_options(target, tensorboard, model, g_per_kwh)
    files = list(dict.fromkeys(file for path in paths for file in files_of(path)))
    groups = grouped([row for file in files for row in read(file)])
    summaries = [grids.summary(name, rows) for name, rows in groups.items()]
    label(summaries)
    rows = [row for own in groups.values() for row in own]
    shown = [row for one in summaries for row in one["rows"]]
    found: dict[str, Any] = {"page": str(out / "comparison.html"), "csv": str(out / "runs.csv")}
    merged = None if meter is None else _merged(rows, meter)
    if merged is not None:
        found["meter"] = merged.as_dict()
    energies, sensed, work = [], comparison_measured.add(rows), comparison_work.add(rows)
    measured = comparison_measured.table(sensed, target)
    if sensed:
        found["sensed"] = measured
    if model is not None:
        comparison_energy.add(rows, model, g_per_kwh)
        tables = (comparison_energy.table(one, model, g_per_kwh) for one in summaries)
        energies = [one for one in tables if one["rows"]]
        found["energy"] = {"name": model.name, "origin": model.origin, "about": model.about, "studies": energies}
    if target is not None:
        for row in rows:
            row |= reached(row, target, model, g_per_kwh)
    out.mkdir(parents=True, exist_ok=True)
    columns = COLUMNS + work + (() if model is None else comparison_energy.COLUMNS)
    columns += comparison_measured.COLUMNS if sensed else ()
    if target is not None:
        columns += TARGET_COLUMNS + (() if model is None else comparison_energy.TARGET_COLUMNS)
    _write_csv(rows, out / "runs.csv", columns)
    energy_tables = [comparison_energy.tables_of(one, g_per_kwh is not None) for one in energies]
    texts = list(map(markdown, summaries))
    signs = {one["study"]: cells for one in summaries if (cells := comparison_signs.table(one))}
    texts += [signs_markdown(study, cells) for study, cells in signs.items()]
    texts += [] if target is None else [targets_markdown(one, target) for one in summaries]
    texts += [energy_markdown(one, model) for one in energy_tables]
    texts += [f"Energy, {one['title']}:\n\n{_markdown(comparison_measured.HEAD, one['rows'])}" for one in measured]
    if merged is not None:
        texts.append(f"By a meter; {merged.labels}:\n\n{_markdown(merging.HEAD, merging.cells(merged))}")
    (out / "tables.md").write_text("\n".join(texts), encoding="utf-8")
    with matplotlib.rc_context(STYLE):
        figures = comparison_figures.figures(summaries, target, energies)
        if merged is not None:
            figures = [*figures, ("meter", "By a meter", METER_ABOUT, merging.figure(merged))]
        plots = {name: (title, about, save(figure, out / f"{name}.png")) for name, title, about, figure in figures}
    environment = Environment(
        loader=PackageLoader("bitfirst"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("comparison.html.jinja").render(
        studies={one["study"]: (one["note"], *table(one)) for one in summaries},
        target=target,
        target_head=TARGET_HEAD + (() if model is None else ENERGY_TARGET_HEAD),
        energies=energy_tables,
        measured=measured,
        measured_head=comparison_measured.HEAD,
        meter=found.get("meter"),
        meter_head=merging.HEAD,
        model=model,
        g_per_kwh=g_per_kwh,
        signs=signs,
        signs_head=comparison_signs.HEAD,
        signs_about=comparison_signs.ABOUT,
        targets={one["study"]: [target_cells(row) for row in one["rows"]] for one in summaries} if target else {},
        plots=plots,
        files=[str(file) for file in files],
    )
    (out / "comparison.html").write_text(page, encoding="utf-8")
    found |= {"plots": [f"{name}.png" for name in plots], "studies": [brief(one) for one in summaries]}
    if target is not None:
        keys = ("study", "label", "seed", *TARGET_COLUMNS, *comparison_energy.TARGET_COLUMNS)
        found["targets"] = [{key: row[key] for key in keys if key in row} for row in shown]
    if tensorboard is not None:
        from . import events

        found["tensorboard"] = str(tensorboard)
        events.write(shown, tensorboard)
    return found


def _merged(rows: list[dict[str, Any]], meter: Meter) -> merging.Merged:
    if len(rows) != 1 or "history" not in rows[0]:
        raise UsageError(f"{len(rows)} runs: a meter's log is of one training, so give the folder of that one")
    log = read_csv(meter.path, meter.time, meter.power)
    return merging.merged(rows[0]["history"], log, meter.offset_s, meter.error, meter.scope)


def _check_options(
    target: float | None, tensorboard: Path | None, model: EnergyModel | None, g_per_kwh: float | None
) -> None:
    if target is not None and not 0 < target <= 1:
        raise UsageError(f"target = {target}: give an accuracy above 0, up to 1, such as 0.9")
    if g_per_kwh is not None:
        co2_g(0.0, g_per_kwh)
        if model is None:
            raise UsageError("a grid factor makes CO2 of energy: give --energy-model, too")
    if tensorboard is not None:
        from . import events

        events.check()


# reading
def files_of(path: Path) -> list[Path]:
    """What can be read of a path: itself, or in a folder a study's file and a training's result.

    Raises `UsageError` where there is nothing.
    """
    if path.is_dir():
        found = [path / name for name in (grids.FILE, RESULT) if (path / name).is_file()]
        if not found:
            raise UsageError(f"{path} holds neither {grids.FILE} nor {RESULT}: {MEND}")
        return found
    if not path.is_file():
        raise UsageError(f"{path} is not there: {MEND}")
    return [path]


def read(file: Path) -> list[dict[str, Any]]:
    """The runs of a file: one dictionary each, with its "study" (of a training what it learnt and its length) and
    "source"; a training has "options". Raises `UsageError` for a file of something else, of another version, or
    without runs.
    """
    rows = [_training(file)] if file.suffix == ".json" else _runs(file)
    if not rows:
        raise UsageError(f"{file} holds no runs yet: let the study do some")
    return [row | {"source": str(file)} for row in rows]


def _runs(file: Path) -> list[dict[str, Any]]:
    runs = grids.Runs(file, MEND)
    try:
        return [{"study": name} | row for name in runs.studies() for row in runs.all(name)]
    finally:
        runs.close()


def _training(file: Path) -> dict[str, Any]:
    """The result of `bitfirst train` as a study would have it."""
    try:
        result = json.loads(file.read_text(encoding="utf-8"))
        as_now(result["history"], result)
        told, last = result["options"], result["history"][-1]
        method = told.get("method", grids.REFERENCE)
        title, data = (result["task"][key] for key in ("title", "data"))
        row = {
            "variant": method,
            "method": method,
            "images": grids.DIGITS if data == grids.DIGITS else title,
            "rate": 1.0,
        }
        row |= {key: told[key] for key in ("seed", "batch", "epochs")}
        about = [f"{name}: {told[name]}" for name in ("epochs", *OF_ITS_DATA) if name in told]
        row |= {"study": ", ".join([title, *about]), "accuracy": result["test_accuracy"]}
        row["options"] = {name: _option(told[name]) for name in OF_ITS_METHOD if name in told}
        row |= {key: last[key] for key in ("validation_accuracy", "loss")}
        row |= {"training_bit_macs": last.get("training_bit_macs", 0), "methods": result.get("method", {})}
        return row | {key: result[key] for key in OF_A_TRAINING if result.get(key)}
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise UsageError(f"{file} is no result of bitfirst train: {MEND}") from None


def _option(value: Any) -> str:
    return "/".join(map(str, value.values())) if isinstance(value, dict) else str(value)


#: Options of a training by which trainings are apart, and those by which trainings of one method have other names.
OF_ITS_DATA = ("train_images", "eval_images", "augment")
OF_ITS_METHOD = ("lr", "schedule", "momentum", "bits", "lr_signs", "beta", "tau", "predictor", "init")
OF_A_TRAINING = ("device", "wall_s", "history", "weights_sha256", "layers", "blocks", "routing", "signs", "config")
OF_A_TRAINING += ("sensed",)


def grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """By "study", to which the file is added where several have it; trainings by one method are named by the options in
    which they differ, and those that are told the same by their folders.
    """
    sources = {row["study"]: {one["source"] for one in rows if one["study"] == row["study"]} for row in rows}
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if len(sources[row["study"]]) > 1 and not _is_training(row):
            row["study"] += f" ({row['source']})"
        groups.setdefault(row["study"], []).append(row)
    for own in groups.values():
        _name_options([row for row in own if _is_training(row)])
        told = [(row["variant"], row["batch"], row["seed"]) for row in own]
        for row, one in zip(own, told, strict=True):
            if _is_training(row) and told.count(one) > 1:
                row["variant"] += f" ({Path(row['source']).parent})"
    return groups


def _name_options(rows: list[dict[str, Any]]) -> None:
    """Runs of one method with other options are no seeds of the same."""
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        methods.setdefault(row["variant"], []).append(row)
    for own in methods.values():
        differing = [name for name in OF_ITS_METHOD if len({row["options"].get(name) for row in own}) > 1]
        for row in own:
            row["variant"] = ", ".join([row["variant"], *(f"{name} {row['options'].get(name)}" for name in differing)])


def _is_training(row: dict[str, Any]) -> bool:
    return row["source"].endswith(".json")


def label(summaries: list[dict[str, Any]]) -> None:
    """Gives rows of tables and runs their "study", and the name ("label") that figures have: with batch and study where
    these differ."""
    sizes = {row["batch"] for one in summaries for row in one["table"]}
    for one in summaries:
        for row in one["table"] + one["rows"]:
            row["study"], parts = one["study"], [row["variant"]]
            parts += [f"batch {row['batch']}"] if len(sizes) > 1 else []
            parts += [one["study"]] if len(summaries) > 1 else []
            row["label"] = ", ".join(parts)


# what it took to reach an accuracy
def reached(
    row: dict[str, Any], target: float, model: EnergyModel | None = None, g_per_kwh: float | None = None
) -> dict[str, Any]:
    """Of a run, `TARGET_COLUMNS`: bit-MACs, number and cycles (of matrix products) of its training steps, and time with
    evaluation, to the end of the first epoch whose validation accuracy is `target` or more; censored: it never was,
    these are the totals, and what it takes is more. With a model energy and CO2, too. None for what the run does not
    tell, such as bit-MACs where the device computed nothing; all but the target for one that failed.
    """
    found: dict[str, Any] = dict.fromkeys(TARGET_COLUMNS) | {"target": target}
    found |= {} if model is None else dict.fromkeys(comparison_energy.TARGET_COLUMNS)
    history = row.get("history")
    if not history:
        return found
    accuracies = [epoch["validation_accuracy"] for epoch in history]
    end = next((number for number, one in enumerate(accuracies) if one >= target), None)
    until = history if end is None else history[: end + 1]
    times = [epoch.get("wall_s") for epoch in until]
    return found | {
        "bit_macs_to_target": until[-1].get("training_bit_macs") if history[-1].get("training_bit_macs") else None,
        "steps_to_target": until[-1].get("steps"),
        "wall_s_to_target": None if None in times else sum(times),
        "array_cycles_to_target": until[-1].get("training_counters", {}).get("matmul_cycles") or None,
        "censored": end is None,
        **({} if model is None else comparison_energy.until(row, until[-1], model, g_per_kwh)),
    }


def target_cells(row: dict[str, Any]) -> list[str]:
    """Of a run that `reached` was asked of, for `TARGET_HEAD`."""
    cells = [row["variant"], str(row["batch"]), str(row["seed"])]
    names = {"bit_macs": "{:,}", "steps": "{:,}", "wall_s": "{:.1f}", "array_cycles": "{:,}"}
    names |= {"energy_j": "{:.4g}", "co2_g": "{:.3g}"} if "energy_j_to_target" in row else {}
    if "failed" in row:
        return [*cells, *["failed"] * len(names)]
    return cells + [_to_target(row, row[f"{name}_to_target"], pattern) for name, pattern in names.items()]


def _to_target(row: dict[str, Any], count: float | None, pattern: str) -> str:
    sign = "≥ " if row["censored"] else ""
    return "-" if count is None else sign + pattern.format(count)


def targets_markdown(summary: dict[str, Any], target: float) -> str:
    """Of a summary whose rows `reached` was asked of, as Markdown: one row for each of its table. What no run tells of
    `TARGET_COUNTS` has no column."""
    rows = summary["rows"]
    counts = [one for one in TARGET_COUNTS if any(run[one[0]] is not None for run in rows)]
    lines = []
    for row in summary["table"]:
        runs = [run for run in grids.runs_of(row, rows) if "failed" not in run]
        runs.sort(key=lambda run: run["seed"])
        told = [run for run in runs if run["censored"] is not None]
        got = f"{sum(not run['censored'] for run in told)} of {len(told)}"
        took = [
            ", ".join(_to_target(run, run[name] and run[name] / unit, pattern) for run in runs) or "-"
            for name, _, unit, pattern in counts
        ]
        lines.append([row["variant"], str(row["batch"]), got, *took])
    title = f"{summary['study']}, to a validation accuracy of {100 * target:g} % (≥: censored, it never was reached):"
    head = TARGET_BRIEF + tuple(f"{count}, each seed" for _, count, *_ in counts)
    return f"{title}\n\n{_markdown(head, lines)}"


# tables
def cells(row: dict[str, Any]) -> list[str]:
    """Of a row of `grids.summary`'s table, for `HEAD` and `DIFFERENCE`."""
    interval = row["difference_interval"]
    return [
        row["variant"],
        str(row["batch"]),
        str(row["seeds"]),
        str(row["failed"]),
        f"{row['rate']:g}",
        ", ".join(f"{one:.2%}" for one in row["accuracies"]) or "-",
        "-" if row["accuracy"] is None else f"{row['accuracy']:.2%}",
        "-" if row["work"] is None else f"{row['work']:.3f}",
        "-" if interval is None else f"{row['difference']:+.2%}",
        "-" if interval is None else f"{interval[0]:+.2%} .. {interval[1]:+.2%}",
        "-" if row["stages"] is None else "{stages_visited} of {stages}".format(**row),
    ]


def table(summary: dict[str, Any]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Its table for people: head and rows."""
    titles, work = comparison_work.table(summary)
    rows = [cells(row) + more for row, more in zip(summary["table"], work, strict=True)]
    return HEAD + DIFFERENCE + titles, rows


def markdown(summary: dict[str, Any]) -> str:
    """Its table as Markdown, for documents."""
    return f"{summary['study']}: {summary['note']}\n\n{_markdown(*table(summary))}"


def _markdown(head: tuple[str, ...], rows: Iterable[list[str]]) -> str:
    lines = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in _ruled(head, rows))
    return "\n".join(lines) + "\n"


def _ruled(head: tuple[str, ...], rows: Iterable[list[str]]) -> list[Iterable[str]]:
    return [head, ("---",) * len(head), *rows]


def signs_markdown(study: str, rows: list[list[str]]) -> str:
    """Of `comparison_signs.table`, as Markdown."""
    return f"{study}, predicted signs; {comparison_signs.ABOUT}:\n\n{_markdown(comparison_signs.HEAD, rows)}"


def energy_markdown(shown: dict[str, Any], model: EnergyModel) -> str:
    """Of `comparison_energy.tables_of`, as Markdown."""
    parts = []
    if shown["ratios"][1]:
        parts += [f"{shown['study']}, what the device counted in training steps, to {shown['baseline']}:"]
        parts += [_markdown(*shown["ratios"])]
    parts += [f"{shown['study']}, energy of the training steps ({shown['label']}; coefficients {model.name}):"]
    parts += [_markdown(*shown["energies"]), shown["verdict"]]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def brief(summary: dict[str, Any]) -> dict[str, Any]:
    """Its runs without all that figures are made of."""
    keys = (*COLUMNS, *comparison_work.COLUMNS, *comparison_energy.COLUMNS)
    return summary | {"rows": [{key: row[key] for key in keys if key in row} for row in summary["rows"]]}


def _write_csv(rows: list[dict[str, Any]], path: Path, columns: tuple[str, ...]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
