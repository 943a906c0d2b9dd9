"""report.html of a training: self-contained, plots inlined; the plots also as PNG files beside it."""

import base64
import io
from itertools import accumulate
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .comparison_work import millions, of_host
from .energy import Energy
from .energy_model import TERMS
from .measuring import shown
from .measuring.meter import Trace

PHASES = {
    "forward": "forward",
    "backward": "dX and dW",
    "input_gradient": "dX",
    "weight_gradient": "dW",
    "other": "other",
}
COLOURS = {
    "forward": "#0969da",
    "backward": "#8250df",
    "input_gradient": "#bf8700",
    "weight_gradient": "#1a7f37",
    "other": "#8c959f",
}
DEVICE, FP32 = "#0969da", "#bc4c00"
MOST_CHARACTERS = 40  #: of a device in a legend
MOST_NAMES = 12  #: of layers below a plot that are not turned and made smaller
STYLE = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "figure.constrained_layout.use": True,
}


def write(result: dict[str, Any], out: Path) -> Path:
    """Writes report.html and its plots into `out`; returns the report's path.

    `result` as `training.train_and_compare` makes it. Plots: accuracy.png; cycles.png and layers.png where cycles were
    counted; signs.png where weights learnt by signs; watts.png and joules.png where they were measured.
    """
    with matplotlib.rc_context(STYLE):
        figures = {"accuracy": accuracy_figure(result)}
        if result["phases"]:
            figures |= {"cycles": cycles_figure(result), "layers": layers_figure(result)}
        if "sensed" in result:
            figures |= measured_figures(result)
        if "signs" in result:
            figures["signs"] = signs_figure(result["signs"]["rows"])
        plots = {name: save(figure, out / f"{name}.png") for name, figure in figures.items()}
    environment = Environment(
        loader=PackageLoader("bitfirst"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = environment.get_template("report.html.jinja").render(
        result=result,
        plots=plots,
        computed_by=computed_by(result),
        cards=cards(result),
        comparison=comparison(result),
        phase_columns=list(PHASE_COLUMNS),
        phases=phase_rows(result),
        layers=layer_rows(result),
        signs=signs_of(result["signs"]) if "signs" in result else None,
        energy=energy_line(result["energy"]),
        energy_model=result.get("energy_model"),
        energy_parts=energy_parts(result["energy_model"]) if "energy_model" in result else [],
        measured=measured_of(result) if "sensed" in result else None,
        settings=settings(result),
    )
    path = out / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def save(figure: Figure, path: Path) -> str:
    """Writes the PNG; returns it as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=144, metadata={"Software": None})
    path.write_bytes(buffer.getvalue())
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


# figures
def accuracy_figure(result: dict[str, Any]) -> Figure:
    """Training loss and validation accuracy over the epochs, device and fp32."""
    figure = Figure(figsize=(9, 3.4))
    loss, accuracy = figure.subplots(1, 2)
    runs = (_short(result["device"]), result["history"], DEVICE, "o-"), ("fp32", result["fp32_history"], FP32, "s--")
    for name, history, colour, style in (one for one in runs if one[1]):
        epochs = [row["epoch"] for row in history]
        loss.plot(epochs, [row["loss"] for row in history], style, color=colour, label=name)
        percent = [100 * row["validation_accuracy"] for row in history]
        accuracy.plot(epochs, percent, style, color=colour, label=name)
    loss.set(title="Training loss", xlabel="epoch", ylabel="cross entropy, labels smoothed")
    accuracy.set(title="Validation accuracy", xlabel="epoch", ylabel="%")
    for axes in loss, accuracy:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(frameon=False)
    return figure


def _short(url: str) -> str:
    """For a legend, which would else leave a plot no room."""
    return url if len(url) <= MOST_CHARACTERS else f"...{url[3 - MOST_CHARACTERS :]}"


def cycle_shares(counters: dict[str, int]) -> dict[str, int]:
    """Where the cycles of one phase went: array steps, stalls, fill and drain, and those outside matrix products."""
    product = counters["matmul_cycles"]
    shares = {
        "array steps": counters["array_steps"],
        "stalls": counters["stall_cycles"],
        "fill and drain": product - counters["array_steps"] - counters["stall_cycles"],
    }
    if "cycles" in counters:
        starved = min(counters["starved_cycles"], counters["cycles"] - product)
        shares["link, array idle"] = counters["cycles"] - product - starved
        shares["nothing to do"] = starved
    return shares


SHARE_COLOURS = {
    "array steps": "#1a7f37",
    "stalls": "#8250df",
    "fill and drain": "#d4a72c",
    "link, array idle": "#bc4c00",
    "nothing to do": "#d0d7de",
}


def cycles_figure(result: dict[str, Any]) -> Figure:
    """Device cycles by phase, each split by what the array did."""
    figure = Figure(figsize=(9, 2.9))
    axes = figure.subplots()
    phases = [phase for phase in reversed(PHASES) if phase in result["phases"]]
    shares = [cycle_shares(result["phases"][phase]) for phase in phases]
    left = [0.0] * len(phases)
    for name in shares[0]:
        widths = [share[name] / 1e6 for share in shares]
        axes.barh([PHASES[phase] for phase in phases], widths, left=left, color=SHARE_COLOURS[name], label=name)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    unit = "million device cycles" if result["cycles"] else "million cycles of matrix products"
    axes.set(title="Cycles by phase", xlabel=unit, xlim=(0, 1.04 * max(left) or 1))
    axes.grid(axis="y", visible=False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def layers_figure(result: dict[str, Any]) -> Figure:
    """Utilisation of each layer in forward, dX and dW."""
    figure = Figure(figsize=(9, 3.2))
    axes: Axes = figure.subplots()
    names = list(dict.fromkeys(row["layer"] for row in result["layers"]))
    for offset, phase in (-0.27, "forward"), (0.0, "input_gradient"), (0.27, "weight_gradient"):
        rows = [row for row in result["layers"] if row["phase"] == phase]
        places = [names.index(row["layer"]) + offset for row in rows]
        heights = [100 * row["utilisation"] for row in rows]
        axes.bar(places, heights, 0.25, color=COLOURS[phase], label=PHASES[phase])
    few = len(names) <= MOST_NAMES
    axes.set_xticks(range(len(names)), names, rotation=20 if few else 90, ha="right" if few else "center")
    axes.tick_params(axis="x", labelsize=10 if few else max(3, 10 * MOST_NAMES / len(names)))
    axes.set(title="Utilisation by layer", ylabel="% of the array's bit-MACs")
    axes.grid(axis="x", visible=False)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def measured_figures(result: dict[str, Any]) -> dict[str, Figure]:
    """Watts over time of a step, its phases marked; validation accuracy over the joules of the epochs so far."""
    trace, found = result["sensed"]["trace"], {}
    if trace["rails"]:
        traces = {name: Trace(one["seconds"], one["watts"]) for name, one in trace["rails"].items()}
        found["watts"] = shown.figure(traces, trace["phases"], result["sensed"]["step"]["provenance"])
    if result["energy"]["total_j"] is not None:
        found["joules"] = joules_figure(result)
    return found


def joules_figure(result: dict[str, Any]) -> Figure:
    """Validation accuracy over joules, of all and of what is above rest; bars are k = 2."""
    figure = Figure(figsize=(9, 3.2))
    axes = figure.subplots()
    percent = [100 * row["validation_accuracy"] for row in result["history"]]
    rows = [row["sensed"] for row in result["history"]]
    kinds = ("all", "energy_j", "uncertainty_j", DEVICE), ("above rest", "dynamic_j", "dynamic_uncertainty_j", FP32)
    for name, joules, uncertainty, colour in kinds:
        sums, errors = (list(accumulate(row[key] for row in rows)) for key in (joules, uncertainty))
        axes.errorbar(sums, percent, xerr=errors, fmt="o-", color=colour, label=name, capsize=3, linewidth=1.2)
    title = f"Validation accuracy over energy, {Energy(**result['energy']).labels}"
    axes.set(title=title, xlabel="joules of the training steps, k = 2", ylabel="%")
    axes.set_xlim(left=0)
    axes.set_ylim(0, 103)
    axes.legend(frameon=False, loc="lower right")
    return figure


BOUNDS = {
    "bound_mean": ("mean of min(1, bound)", "#bc4c00"),
    "bound_vacuous": ("share of bounds of 1 or more", "#bf8700"),
    "bound_median": ("median of the bounds", "#8250df"),
    "bound_tau": ("V / (2 tau²)", "#1a7f37"),
    "wrong_resolved": ("measured: wrong among resolved", "#0969da"),
}


def signs_figure(rows: list[dict[str, Any]]) -> Figure:
    """Signs of each layer over the training: resolved, wrong against the exact product and fp32; eq. (3)'s bounds."""
    figure = Figure(figsize=(9, 6.4))
    resolved, wrong, fp32, bounds = figure.subplots(2, 2).flat
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    for index, layer in enumerate(layers):
        own = [row for row in rows if row["layer"] == layer]
        steps = [row["step"] for row in own]
        colour = matplotlib.colormaps["viridis"](0.9 * index / max(1, len(layers) - 1))
        for axes, key in (resolved, "resolved"), (wrong, "wrong_overall"), (fp32, "wrong_fp32"):
            axes.plot(steps, [100 * row[key] for row in own], color=colour, label=layer, linewidth=1.2)
    resolved.set(title="Resolved by the first bits", ylabel="% of the layer's weights", ylim=(0, 103))
    wrong.set(title="Wrong signs, against the exact product", ylabel="% of the layer's weights")
    fp32.set(title="Other than in fp32", ylabel="% of the layer's weights", xlabel="step")
    wrong.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), title="layer", fontsize=8)
    _bounds(bounds, rows)
    return figure


def _bounds(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Means over the layers, on a logarithmic axis; zeros and what is not known are left out."""
    steps = sorted({row["step"] for row in rows})
    for key, (name, colour) in BOUNDS.items():
        means = [_mean([row[key] for row in rows if row["step"] == step]) for step in steps]
        points = [(step, mean) for step, mean in zip(steps, means, strict=True) if mean]
        if points:
            axes.plot(*zip(*points, strict=True), ".-", color=colour, label=name, linewidth=1.2)
    axes.set(title="Eq. (3), mean of the layers", ylabel="chance of a wrong sign", xlabel="step", yscale="log")
    if axes.lines:
        axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


# text
def computed_by(result: dict[str, Any]) -> str:
    """Who computed, as the end of a sentence."""
    if result["bit_macs"] is None:
        return "on the host in floating point"
    kind = result["device"].partition(":")[0]
    known = {
        "model": "by the golden model, which is bit-exact",
        "rtl": "by the generated hardware, simulated cycle by cycle",
        "replay": "from a recording of a device",
    }
    return known.get(kind, "by a board")


def _number(value: float | None, pattern: str = "{:,}") -> str:
    return "n/a" if value is None else pattern.format(value)


def cards(result: dict[str, Any]) -> list[tuple[str, str]]:
    return [
        ("test accuracy", f"{result['test_accuracy']:.2%}"),
        ("fp32 test accuracy", _number(result["fp32_test_accuracy"], "{:.2%}")),
        ("device cycles", _number(result["cycles"])),
        ("utilisation", _number(result["utilisation"] or result["array_utilisation"], "{:.1%}")),
        ("bytes on the link", _number(result["bytes_moved"])),
        ("wall time", f"{result['wall_s']:.0f} s"),
    ]


def comparison(result: dict[str, Any]) -> list[tuple[str, str, str]]:
    unknown = {"validation_accuracy": None, "loss": None}
    last = [(result[runs] or [unknown])[-1] for runs in ("history", "fp32_history")]
    tests = result["test_accuracy"], result["fp32_test_accuracy"]
    bits = result["options"]["bits"]
    host = {name: [of_host(result[runs], name) for runs in ("history", "fp32_history")] for name in ("flops", "bytes")}
    return [
        ("test accuracy", *(_number(share, "{:.2%}") for share in tests)),
        ("validation accuracy", *(_number(row["validation_accuracy"], "{:.2%}") for row in last)),
        ("training loss, last epoch", *(_number(row["loss"], "{:.4f}") for row in last)),
        ("bits of x, w, gradient", f"{bits['activation']}, {bits['weight']}, {bits['gradient']}", "32, 32, 32"),
        ("host, MFLOPs a step", *("n/a" if count is None else millions(count) for count in host["flops"])),
        ("host, MB a step", *("n/a" if count is None else millions(count) for count in host["bytes"])),
    ]


PHASE_COLUMNS = {
    "cycles": "cycles",
    "array steps": "array_steps",
    "gated element steps": "gated_steps",
    "stalls": "stall_cycles",
    "matrix products": "matmul_cycles",
    "MATMULs": "matmuls",
    "words received": "rx_words",
    "words sent": "tx_words",
    "sums read": "elements_read",
}


def phase_rows(result: dict[str, Any]) -> list[list[str]]:
    phases = [phase for phase in PHASES if phase in result["phases"]]
    rows = [
        [PHASES[phase], *(_number(result["phases"][phase].get(key)) for key in PHASE_COLUMNS.values())]
        for phase in phases
    ]
    sums = [[result["phases"][phase].get(key) for phase in phases] for key in PHASE_COLUMNS.values()]
    return [*rows, ["all", *(_number(None if None in counts else sum(counts)) for counts in sums)]]


def layer_rows(result: dict[str, Any]) -> list[list[str]]:
    return [
        [
            row["layer"],
            PHASES[row["phase"]],
            f"{row['bit_macs']:,}",
            _number(row.get("cycles") or row.get("matmul_cycles")),
            _number(row.get("utilisation"), "{:.1%}"),
        ]
        for row in result["layers"]
    ]


SIGN_COLUMNS = {
    "resolved": "resolved",
    "wrong among resolved": "wrong_resolved",
    "wrong of all": "wrong_overall",
    "other than fp32": "wrong_fp32",
    "exact: other than fp32": "exact_wrong_fp32",
    "bound: median": "bound_median",
    "mean of min(1, bound)": "bound_mean",
    "bounds of 1 or more": "bound_vacuous",
    "V / (2 tau²)": "bound_tau",
}


def signs_of(signs: dict[str, Any]) -> dict[str, Any]:
    """Tables: `layers`, means of the sampled steps, the work of all steps; `work`: bit-MACs of dW and of the steps."""
    layers = []
    for layer in signs["layers"]:
        own = [row for row in signs["rows"] if row["layer"] == layer["layer"]]
        means = [_mean([row[key] for row in own]) for key in SIGN_COLUMNS.values()]
        layers.append([layer["layer"], *(_number(mean, "{:.2%}") for mean in means), f"{layer['bit_work']:.1%}"])
    work = []
    for name, key in ("dW of these layers", "dw"), ("whole training steps", "step"):
        done, saved = signs[key]["done"], signs[key]["saved"]
        work.append([name, f"{done:,}", f"{saved:,}", f"{done / max(done + saved, 1):.1%}"])
    samples = len({row["step"] for row in signs["rows"]})
    return {"columns": list(SIGN_COLUMNS), "layers": layers, "work": work, "samples": samples}


def energy_line(energy: dict[str, Any]) -> str:
    found = str(Energy(**energy))
    if energy["total_j"] is not None:
        return f"{found}."
    return f"{found[0].upper()}{found[1:]}: this device told none; --energy-model gives a modelled one."


def measured_of(result: dict[str, Any]) -> dict[str, Any]:
    """Tables: of the training, of a step's phases; what is said below them."""
    found = result["sensed"]
    reasons = dict.fromkeys(filter(None, [found["unavailable"], *shown.unresolved(result)]))
    return {
        "training": shown.training_rows(found),
        "phases": shown.phase_rows(found),
        "labels": shown.phase_labels(found),
        "adds_up": shown.ADDS_UP[found["phases_add_up"]],
        "reasons": list(reasons),
        "sensors": ", ".join(shown.sensor_text(one) for one in found["sensors"]),
    }


def energy_parts(model: dict[str, Any]) -> list[list[str]]:
    """Of `energy_model.EnergyModel.about_parts`: what each term is of, joules, share."""
    total = sum(model["parts"].values())
    return [
        [name, TERMS[name.partition(" ")[0]], f"{joules:.4g}", f"{joules / total:.1%}"]
        for name, joules in sorted(model["parts"].items(), key=lambda part: -part[1])
    ]


def settings(result: dict[str, Any]) -> list[tuple[str, Any]]:
    rows = [("device", result["device"]), *result["identity"].items(), *result["config"].items()]
    rows += [("bit-MACs per cycle", result["bit_macs_per_cycle"]), ("useful bit-MACs", _number(result["bit_macs"]))]
    learnt = {name: result["task"][name] for name in ("network", "classes")}
    rows += [(name, value) for name, value in (learnt | result["options"]).items() if name != "bits"]
    return [*rows, ("weights sha256", result["weights_sha256"])]
