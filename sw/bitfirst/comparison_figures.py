"""Figures of `bitfirst report`: curves of all runs, and heat maps with a small panel for each method.

Panels are means of the seeds. What a run does not tell is not drawn.
"""

import math
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import EngFormatter

from .energy_model import TERMS
from .grids import REFERENCE
from .report import PHASES

MARKS, LINES = "os^Dv", ("-", "--", ":")
PANELS = 3  #: side by side
TITLE = 40  #: characters in a line of a title
LUMINANCE = (0.299, 0.587, 0.114)  #: of red, green and blue
PRODUCTS = ("forward", "input_gradient", "weight_gradient")
MOST_WRITTEN = 10  #: columns of a panel whose cells have their numbers written in
COLOURS = 10  #: of the default cycle; more methods have twice as many, in pairs

Row = dict[str, Any]


def figures(
    summaries: list[Row], target: float | None = None, energies: list[Row] = ()
) -> Iterator[tuple[str, str, str, Figure]]:
    """(name, title, what it shows, figure) of each that there is something for; `summaries` as of `grids.summary`, with
    "label" in rows, `energies` as of `comparison_energy.table`, with rows."""
    table = [row for one in summaries for row in one["table"] if row["accuracies"]]
    by_label: dict[str, list[Row]] = {row["label"]: [] for row in table}  # in its order: all figures have its colours
    for row in (row for one in summaries for row in one["rows"] if "failed" not in row):
        by_label[row["label"]].append(row)
    yield "accuracy", "Accuracy against work", ABOUT["accuracy"], accuracy_figure(table)
    known = [row for one in energies for row in one["rows"]]
    whole = {row["label"]: row for row in known if not row["host"]}
    if whole:
        label = "{label}; {model}".format(**energies[0])
        yield "energy", "Accuracy against energy", ABOUT["energy"], energy_figure([*whole.values()], label)
        yield "energy_parts", "Energy by what took it", ABOUT["energy_parts"], parts_figure(known, label)
        if target is not None:
            runs = {name: rows for name, rows in by_label.items() if name in whole}
            yield "energy_to_target", "Energy to the target", ABOUT["energy_to_target"], to_target_figure(runs, label)
    yield "learning", "Accuracy over the training", ABOUT["learning"], learning_figure(by_label, target)
    changing = precision_rows(by_label)
    if changing:
        yield "precision", "Precision over the steps", ABOUT["precision"], precision_figure(changing)
    for name, title, panels, shown in heat_maps(summaries, by_label):
        if panels:
            yield name, title, ABOUT[name], heat_figure(panels, shown)


ABOUT = {
    "accuracy": "Test accuracy against the bit-MACs of the training steps: the mean, and a bar from the worst seed to "
    "the best. A dashed line is a training of which the device computed nothing.",
    "energy": "Test accuracy against the modelled energy of the training steps: the mean, and a bar from the worst "
    "seed to the best. All coefficients times 2 would move all points together; what else they do stands in the table.",
    "energy_parts": "The same energies, by what was counted; beside them floating point on the host, of which this is "
    "the arithmetic alone.",
    "energy_to_target": "Energy of each run's training steps to the first epoch that reached the target (dots), and to "
    "the end of the training, whose length was fixed (bars). Triangles: censored; the run never reached it.",
    "learning": "Validation accuracy over the epochs, the mean of the seeds.",
    "precision": "Bits of activations and weights (forward) and of output gradients (backward), of the first run that "
    "changes them.",
    "layers": "Bit-MACs of one training step at the end, by layer and product. Of the reference: per cent of its step; "
    "of each method whose step is another: per cent of the reference's in the same place.",
    "work": "Bit-MACs of a training step by layer, the mean of each epoch's widths, in per cent of the first epoch's.",
    "gates": "Share of the samples (stochastic depth: batches) that computed a block in training, by epoch, in per "
    "cent.",
    "gate_bits": "Mean bits forward that the gates gave a block in training, by epoch; 0 for what is skipped.",
    "routing": "Share of the samples of each class that compute a block, of the validation split after the training, "
    "in per cent.",
    "routing_bits": "Mean bits forward of the samples of each class in a block, of the validation split after the "
    "training; 0 for what is skipped.",
    "resolved": "Share of a layer's weights whose sign the first bits decided, in sampled steps, in per cent.",
}


# curves
def accuracy_figure(rows: list[Row]) -> Figure:
    figure, of_batch = _by_batch(rows)
    for row, style in zip(rows, _styles_of_panels(rows), strict=True):
        axes, label = of_batch[row["batch"]], _wrapped(_within(row, of_batch))
        percent = [100 * accuracy for accuracy in row["accuracies"]]
        mean = sum(percent) / len(percent)
        if not row["bit_macs"]:
            axes.axhline(mean, color=style["color"], linestyle="--", linewidth=1, label=label)
            continue
        bars = [[mean - min(percent)], [max(percent) - mean]]
        axes.errorbar([row["bit_macs"]], [mean], bars, capsize=3, label=label, **style)
    _label(figure, "Accuracy against work", "bit-MACs of training", "test, %")
    for axes in figure.axes:
        axes.xaxis.set_major_formatter(EngFormatter())
    return figure


def energy_figure(rows: list[Row], label: str) -> Figure:
    """`rows` and `label` as of `comparison_energy.table`."""
    figure, axes = _wide(len(rows))
    for row, style in zip(rows, _styles([row | {"study": ""} for row in rows]), strict=True):
        percent = [100 * accuracy for accuracy in row["accuracies"]]
        mean = sum(percent) / len(percent)
        bars = [[mean - min(percent)], [max(percent) - mean]]
        millijoules = [1e3 * row["energy"]["total_j"]]
        axes.errorbar(millijoules, [mean], bars, capsize=3, label=_wrapped(row["label"]), **style)
    axes.set(title="Accuracy against energy", xlabel=f"mJ of training, {label}", ylabel="test, %")
    axes.set_xlim(left=0)
    _legend(axes)
    return figure


def parts_figure(rows: list[Row], label: str) -> Figure:
    """A bar for each method, the first one on top, of what took how much."""
    figure = Figure(figsize=(9, max(2.5, 0.3 * len(rows) + 1.1)))
    axes = figure.subplots()
    names = [_wrapped(row["label"] + (" (arithmetic)" if row["host"] else "")) for row in rows][::-1]
    left = np.zeros(len(rows))
    order = list(TERMS)
    terms = sorted(
        dict.fromkeys(term for row in rows for term in row["parts"]),  # of two datapaths: as they come
        key=lambda term: order.index(term.partition(" ")[0]),
    )
    for number, term in enumerate(terms):
        widths = np.array([1e3 * row["parts"].get(term, 0.0) for row in rows][::-1])
        colour = matplotlib.colormaps["tab10"].colors[number % COLOURS]
        axes.barh(names, widths, left=left, color=colour, label=term.replace("_", " "))
        left += widths
    axes.set(title="Energy by what took it", xlabel=f"mJ of training, {label}", xlim=(0, 1.04 * left.max()))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", labelsize=8)
    _legend(axes)
    return figure


def to_target_figure(by_label: dict[str, list[Row]], label: str) -> Figure:
    """A line for each method, with each of its runs."""
    shown = {name: [row for row in rows if row["energy_j_to_target"]] for name, rows in by_label.items()}
    shown = {name: rows for name, rows in shown.items() if rows}
    figure = Figure(figsize=(9, max(2.5, 0.3 * len(shown) + 1.1)))
    axes = figure.subplots()
    kinds = ("o", False, "reached the target"), (">", True, "censored: never did")
    for mark, censored, name in kinds:
        points = [
            (1e3 * row["energy_j_to_target"], place)
            for place, rows in enumerate(shown.values())
            for row in rows
            if row["censored"] == censored
        ]
        filled = "none" if censored else "#0969da"
        x, y = zip(*points, strict=True) if points else ((), ())
        axes.plot(x, y, mark, color="#0969da", markerfacecolor=filled, label=name)
    ends = [(1e3 * row["energy_j"], place) for place, rows in enumerate(shown.values()) for row in rows]
    axes.plot(*zip(*ends, strict=True), "|", color="#59636e", markersize=12, label="whole training")
    axes.set_yticks(range(len(shown)), [_wrapped(name) for name in shown], fontsize=8)
    axes.set(title="Energy to the target", xlabel=f"mJ of training, {label}", ylim=(len(shown) - 0.5, -0.5))
    axes.set_xlim(left=0)
    _legend(axes)
    return figure


def learning_figure(by_label: dict[str, list[Row]], target: float | None = None) -> Figure:
    firsts = [rows[0] | {"label": label} for label, rows in by_label.items()]
    figure, of_batch = _by_batch(firsts)
    styles = _styles_of_panels(firsts)
    for first, rows, style in zip(firsts, by_label.values(), styles, strict=True):
        curves = [[100 * one["validation_accuracy"] for one in row["history"]] for row in rows if row.get("history")]
        if not curves:
            continue
        means = mean_of([np.array(curve) for curve in curves])
        label = _wrapped(_within(first, of_batch))
        of_batch[first["batch"]].plot(range(1, len(means) + 1), means, label=label, **style)
    for axes in figure.axes:
        if target is not None:
            axes.axhline(100 * target, color="#59636e", linestyle="--", linewidth=1, label="target")
        axes.xaxis.get_major_locator().set_params(integer=True)
    _label(figure, "Accuracy over the training", "epoch", "validation, %")
    return figure


def precision_rows(by_label: dict[str, list[Row]]) -> dict[str, list[list[int]]]:
    """[step, bits forward, bits backward] at each change, and at the end, of the first run that has such, by label and
    seed."""
    found: dict[str, list[list[int]]] = {}
    for label, rows in by_label.items():
        changing = (
            (row, own["changes"]) for row in rows for own in row.get("methods", {}).values() if "changes" in own
        )
        row, changes = next(((row, changes) for row, changes in changing if len(changes) > 1), (None, None))
        if row is not None:
            end = max(row.get("history", [{}])[-1].get("steps", 0), changes[-1][0])
            found[label + _of_seeds([row], rows)] = [*changes, [end, *changes[-1][1:]]]
    return found


def _of_seeds(shown: list[Row], rows: list[Row]) -> str:
    """For a title: of which seeds it is, where these are not all that there are."""
    if len(shown) == len(rows):
        return ""
    seeds = ", ".join(str(row["seed"]) for row in sorted(shown, key=lambda row: row["seed"]))
    return f" (seed{'s' * (len(shown) > 1)} {seeds})"


def precision_figure(changing: dict[str, list[list[int]]]) -> Figure:
    lines = math.ceil(len(changing) / PANELS)
    figure = Figure(figsize=(9, 0.4 + 1.5 * lines))
    grid = figure.subplots(lines, PANELS, squeeze=False, sharey=True).flat
    for axes in grid[len(changing) :]:
        axes.set_axis_off()
    for axes, (label, changes) in zip(grid, changing.items(), strict=False):
        steps, forward, backward = zip(*changes, strict=True)
        axes.step(steps, forward, where="post", label="forward", linewidth=1.2)
        axes.step(steps, backward, "--", where="post", label="backward", linewidth=1.2)
        axes.set_title(_wrapped(label), fontsize=8)
        axes.tick_params(labelsize=7)
        axes.set_xlabel("step", fontsize=8)
    most = max(max(change[1:]) for changes in changing.values() for change in changes)
    grid[0].set(ylim=(0, most + 1), yticks=range(0, most + 1, 4))
    grid[0].set_ylabel("bits", fontsize=8)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False, fontsize=8)
    return figure


def _wide(labels: int) -> tuple[Figure, Axes]:
    """As high as its legend needs it."""
    figure = Figure(figsize=(9, max(4, 0.19 * labels + 0.8)))
    return figure, figure.subplots()


def _by_batch(rows: list[Row]) -> tuple[Figure, dict[int, Axes]]:
    """Axes for each size of a batch, side by side."""
    sizes = sorted({row["batch"] for row in rows}) or [0]
    lines, across = math.ceil(len(sizes) / PANELS), min(len(sizes), PANELS)
    entries = len(rows) / len(sizes)  # of the legend
    figure = Figure(figsize=(9 if across == 1 else 13, lines * max(4, 0.19 * entries + 0.8)))
    grid = list(figure.subplots(lines, across, squeeze=False, sharex=True, sharey=True).flat)
    for axes in grid[len(sizes) :]:
        axes.remove()
    for size, axes in zip(sizes, grid, strict=False):
        axes.set_title(f"batch {size}" if across > 1 else "")
    return figure, dict(zip(sizes, grid, strict=False))


def _styles_of_panels(rows: list[Row]) -> list[dict[str, Any]]:
    """As `_styles`, and the same for all sizes of a batch, which panels tell apart."""
    return _styles([row | {"batch": 0} for row in rows])


def _within(row: Row, of_batch: dict[int, Axes]) -> str:
    """Its name beside others of its panel."""
    return row["label"] if len(of_batch) == 1 else row["label"].replace(f", batch {row['batch']}", "")


def _label(figure: Figure, title: str, x: str, y: str) -> None:
    """Title, names of the axes, and a legend that all panels share."""
    known = {name: one for axes in figure.axes for one, name in zip(*axes.get_legend_handles_labels(), strict=True)}
    first, *others = figure.axes
    first.set(ylabel=y)
    for axes in figure.axes:
        axes.set_xlabel(x)
    if others:
        figure.suptitle(title)
        figure.legend(known.values(), known, frameon=False, loc="outside right center", fontsize=8)
    else:
        first.set_title(title)
        _legend(first)


def _styles(rows: list[Row]) -> list[dict[str, Any]]:
    """A colour for each method, a mark for each study and size of a batch."""
    variants, sizes = ([*dict.fromkeys(one)] for one in zip(*map(_kind, rows), strict=True)) if rows else ([], [])
    colours = matplotlib.colormaps["tab10" if len(variants) <= COLOURS else "tab20"].colors
    styles = []
    for row in rows:
        variant, size = (known.index(one) for known, one in zip((variants, sizes), _kind(row), strict=True))
        turn = size + variant // len(colours)
        styles.append(
            {
                "color": colours[variant % len(colours)],
                "marker": MARKS[turn % len(MARKS)],
                "linestyle": LINES[turn % len(LINES)],
            }
        )
    return styles


def _kind(row: Row) -> tuple[str, tuple[str, int]]:
    return row["variant"], (row["study"], row["batch"])


def _wrapped(text: str) -> str:
    return textwrap.fill(text, TITLE)


def _legend(axes: Axes) -> None:
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)


# heat maps
@dataclass(frozen=True)
class Panel:
    """values [rows, columns], NaN where nothing is known; `own` is said of a panel whose numbers mean something else,
    `seeds` of which runs it is, where others have no such"""

    title: str
    values: np.ndarray
    rows: list[str]
    columns: list[str]
    own: str = ""
    seeds: str = ""


@dataclass(frozen=True)
class Shown:
    """How panels are drawn: names of the axes, the colours' `unit`, and where they end (None: at the largest value)."""

    x: str
    y: str
    unit: str
    high: float | None = 100
    colours: str = "viridis"


def heat_maps(summaries: list[Row], by_label: dict[str, list[Row]]) -> Iterator[tuple[str, str, list[Panel], Shown]]:
    """(name, title, panels, how) of each heat map."""
    percent = Shown("epoch", "block", "% of the samples")
    bits = Shown("epoch", "block", "bits", high=None)
    yield (
        "layers",
        "Work by layer and product",
        layer_panels(summaries),
        Shown("", "", "% of the reference's", 200, "RdBu_r"),
    )
    work = Shown("epoch", "", "% of the first epoch's", None)
    yield "work", "Work by layer over the epochs", panels_of(by_label, work_over_epochs), work
    yield "gates", "Blocks computed in training", panels_of(by_label, dynamics("executed", 100)), percent
    yield "gate_bits", "Bits in blocks in training", panels_of(by_label, dynamics("block_bits", 1)), bits
    by_class = Shown("block", "class", "% of the samples")
    yield "routing", "Routes by class", panels_of(by_label, routes("executed", 100)), by_class
    bits_by_class = Shown("block", "class", "bits", high=None)
    yield "routing_bits", "Bits by class", panels_of(by_label, routes("bits", 1)), bits_by_class
    signs = Shown("step", "", "% of the weights")
    yield "resolved", "Resolved by the first bits", panels_of(by_label, resolved), signs


#: (values, names of rows, names or numbers of columns) of a run; None where it has none.
Matrix = Callable[[Row], tuple[np.ndarray, list[str], list[Any]] | None]


def panels_of(by_label: dict[str, list[Row]], matrix: Matrix) -> list[Panel]:
    """The mean of each label's runs, where they have one of the same kind."""
    panels = []
    for label, rows in by_label.items():
        found = [(row, *one) for row in rows if (one := matrix(row)) is not None]
        if found:
            _, _, names, columns = found[0]
            seeds = _of_seeds([row for row, _, others, _ in found if others == names], rows)
            alike = [(values, own) for _, values, others, own in found if others == names]
            if isinstance(columns[0], int):  # seeds may have other steps
                columns = sorted({column for _, own in alike for column in own})
            values = mean_of([_spread(values, own, columns) for values, own in alike])
            panels.append(Panel(label, values, names, [str(column) for column in columns], seeds=seeds))
    return panels


def _spread(values: np.ndarray, own: list[Any], columns: list[Any]) -> np.ndarray:
    """`values`, whose columns are `own`, in all `columns`."""
    found = np.full((len(values), len(columns)), np.nan)
    found[:, [columns.index(column) for column in own]] = values
    return found


def mean_of(arrays: list[np.ndarray]) -> np.ndarray:
    """Of each place that all have; NaN is left out, and is there where all are."""
    size = tuple(min(lengths) for lengths in zip(*(array.shape for array in arrays), strict=True))
    stack = np.stack([array[tuple(map(slice, size))] for array in arrays]).astype(float)
    return np.ma.masked_invalid(stack).mean(0).filled(np.nan) if stack.size else stack[0]


def dynamics(key: str, scale: float) -> Matrix:
    """Blocks over epochs, by the history's `key`."""

    def matrix(row: Row) -> tuple[np.ndarray, list[str], list[Any]] | None:
        epochs = [one[key] for one in row.get("history", ()) if key in one]
        if not epochs or "blocks" not in row or (key == "executed" and _computes_all(row, epochs)):
            return None
        return scale * np.array(epochs, float).T, row["blocks"], list(range(1, len(epochs) + 1))

    return matrix


def routes(key: str, scale: float) -> Matrix:
    """Classes over blocks."""

    def matrix(row: Row) -> tuple[np.ndarray, list[str], list[Any]] | None:
        found = row.get("routing") or {}
        if key not in found or (key == "executed" and _computes_all(row, found[key])):
            return None
        values = np.array(found[key], float)
        return scale * values, [str(one) for one in range(len(values))], found["blocks"]

    return matrix


def _computes_all(row: Row, shares: list[list[float | None]]) -> bool:
    """Whether it is widths alone that its gates choose."""
    has_bits = any("block_bits" in one for one in row["history"])
    return has_bits and all(share in (1, None) for part in shares for share in part)


def resolved(row: Row) -> tuple[np.ndarray, list[str], list[Any]] | None:
    """Layers over the sampled steps; None where nothing was predicted."""
    rows = (row.get("signs") or {}).get("rows", [])
    if not any(one["resolved"] for one in rows):
        return None
    layers, steps = ([*dict.fromkeys(one[key] for one in rows)] for key in ("layer", "step"))
    values = np.full((len(layers), len(steps)), np.nan)
    for one in rows:
        values[layers.index(one["layer"]), steps.index(one["step"])] = 100 * one["resolved"]
    return values, layers, steps


def work_over_epochs(row: Row) -> tuple[np.ndarray, list[str], list[Any]] | None:
    """Layers over epochs, to the first epoch; None where widths stay."""
    epochs = row.get("layer_epochs")
    if not epochs:
        return None
    names = list(dict.fromkeys(one["layer"] for one in epochs[0]["layers"]))
    columns = [
        [sum(one["bit_macs"] for one in epoch["layers"] if one["layer"] == name) for name in names] for epoch in epochs
    ]
    values = np.array(columns, float).T
    return 100 * values / values[:, :1], names, [epoch["epoch"] for epoch in epochs]


def layer_panels(summaries: list[Row]) -> list[Panel]:
    """Of each study, and size of a batch: the reference in per cent of its step, and what differs from it."""
    panels = []
    for one in summaries:
        for size in dict.fromkeys(row["batch"] for row in one["table"]):
            own = {row["label"]: row["variant"] for row in one["table"] if row["batch"] == size}
            runs = {label: [row for row in one["rows"] if row["label"] == label] for label in own}
            work = {label: mean for label, rows in runs.items() if (mean := _work_of(rows))}
            panels += _relative(work, next((label for label, variant in own.items() if variant == REFERENCE), None))
    return panels


Work = dict[tuple[str, str], float]  #: bit-MACs by layer and product


def _work_of(rows: list[Row]) -> Work:
    """Of a step, the mean of the runs."""
    kept = [row["layers"] for row in rows if row.get("layers")]
    found: Work = {}
    for one in (one for layers in kept for one in layers):
        key = one["layer"], one["phase"]
        found[key] = found.get(key, 0) + one["bit_macs"] / len(kept)
    return found


def _relative(work: dict[str, Work], reference: str | None) -> list[Panel]:
    """Without a reference each in per cent of its own step."""
    panels = []
    theirs = work.get(reference, {})
    for label, own in work.items():
        alone = label == reference or not theirs
        if not alone and own == theirs:
            continue
        to = dict.fromkeys(own, sum(own.values())) if alone else theirs
        layers = list(dict.fromkeys(layer for layer, _ in to))
        values = np.full((len(layers), len(PRODUCTS)), np.nan)
        for layer, phase in to:
            if phase in PRODUCTS:
                share = 100 * own.get((layer, phase), 0) / to[layer, phase]
                values[layers.index(layer), PRODUCTS.index(phase)] = share
        columns = [PHASES[phase] for phase in PRODUCTS]
        panels.append(Panel(label, values, layers, columns, own="% of its step" if alone else ""))
    return panels


def heat_figure(panels: list[Panel], shown: Shown) -> Figure:
    """Panels side by side, on one scale of colours but for those of their `own`."""
    lines = math.ceil(len(panels) / PANELS)
    heights = [
        0.75 + 0.19 * max(len(panel.rows) for panel in panels[PANELS * n : PANELS * (n + 1)]) for n in range(lines)
    ]
    figure = Figure(figsize=(9, max(2.2, sum(heights) + 0.3)))
    grid = figure.subplots(lines, PANELS, squeeze=False, height_ratios=heights)
    common = [panel.values for panel in panels if not panel.own]
    high = shown.high if shown.high is not None else max((np.nanmax(one) for one in common), default=100)
    image = None
    for number, axes in enumerate(grid.flat):
        if number >= len(panels):
            axes.set_axis_off()
            continue
        panel = panels[number]
        drawn = _draw(axes, panel, shown.colours, high)
        image = drawn if not panel.own or image is None else image
        axes.set_xlabel(shown.x, fontsize=8)
        before = panels[number - 1] if number % PANELS else None
        if before is not None and before.rows == panel.rows:
            axes.set_yticklabels([])
        elif shown.y:
            axes.set_ylabel(shown.y, fontsize=8)
    if common:
        over = max(np.nanmax(one) for one in common) > high
        bar = figure.colorbar(image, ax=grid, fraction=0.03, aspect=30, extend="max" if over else "neither")
        bar.set_label(shown.unit, fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def _draw(axes: Axes, panel: Panel, colours: str, high: float) -> AxesImage:
    colours, high = ("Greys", 1.3 * np.nanmax(panel.values)) if panel.own else (colours, high)
    image = axes.imshow(panel.values, cmap=colours, vmin=0, vmax=high, aspect="auto")
    axes.grid(visible=False)
    axes.set_title(_wrapped(panel.title + panel.seeds + (f": {panel.own}" if panel.own else "")), fontsize=8)
    every = math.ceil(len(panel.columns) / MOST_WRITTEN)
    axes.set_xticks(range(0, len(panel.columns), every), panel.columns[::every], fontsize=7)
    axes.set_yticks(range(len(panel.rows)), panel.rows, fontsize=7)
    if len(panel.columns) <= MOST_WRITTEN:
        for (y, x), value in np.ndenumerate(panel.values):
            if not np.isnan(value):
                light = np.dot(image.to_rgba(value)[:3], LUMINANCE) > 0.5
                colour = "black" if light else "white"
                axes.text(x, y, _short(value), ha="center", va="center", fontsize=6, color=colour)
    return image


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 9.95 or value == 0 else f"{value:.1f}"
