"""Readings for people: a table, and watts over time with the phases marked."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Group
from rich.markup import escape
from rich.table import Column, Table

from ..energy import Energy, Provenance, Scope
from ..energy_model import TERMS
from .meter import Trace
from .monitor import Monitor
from .windows import Reading


def table(readings: Sequence[Reading]) -> Table:
    """A row a window: joules with k = 2, what they are, how they were found."""
    shown = Table(title="Energy of a run, k = 2")
    for name in "window", "energy", "above rest", "time", "replays", "provenance", "scope", "extrapolated":
        shown.add_column(name, justify="right" if name in ("time", "replays") else "left")
    for one in readings:
        if one.unresolved is not None:
            shown.add_row(one.name, one.unresolved, "", "", "", str(one.total.provenance), str(one.total.scope), "")
            continue
        shown.add_row(
            one.name,
            one.total.figure,
            one.dynamic.figure,
            f"{one.seconds * 1e3:.4g} ms",
            str(one.replays),
            str(one.total.provenance),
            str(one.total.scope),
            "yes" if one.total.extrapolated else "no",
        )
    return shown


def measured_tables(result: dict[str, Any]) -> Group:
    """A training's joules: of steps, samples, epochs, to a target; of a step and its phases."""
    found = result["sensed"]
    energy = Energy(**found["training"]["energy"])
    table = Table("of", Column("energy", justify="right"), title="Energy of the training's steps, k = 2")
    for row in training_rows(found):
        table.add_row(*row)
    sensors = "; ".join(map(sensor_text, found["sensors"]))
    table.caption = f"{energy.labels}; without validation and test; {sensors}"
    reasons = dict.fromkeys(filter(None, [found["unavailable"], *unresolved(result)]))
    told = (f"[yellow]{escape(reason)}[/]" for reason in reasons)
    return Group(table, _phases_table(found), *told, f"report: {escape(str(result['report']))}")


def training_rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    """Of "sensed" of a result: joules of the training, in the mean of its parts, and to the target."""
    training = found["training"]
    energy = Energy(**training["energy"])
    rows = [("training, all epochs", _figure(energy))]
    for name in "epoch", "step", "sample":
        joules = training.get(f"{name}_j")
        if joules is not None:
            mean = replace(energy, total_j=joules, uncertainty_j=training[f"{name}_uncertainty_j"])
            rows.append((f"{name}, in the mean", _figure(mean)))
    if found["target"] is not None:
        rows.append((target_text(found["target"]), _figure(Energy(**found["target"]["energy"]))))
    return rows


def sensor_text(sensor: dict[str, Any]) -> str:
    """Of "sensors": what stands beside figures."""
    kept = "calibrated" if sensor["calibrated"] else "not calibrated"
    place = f"page {sensor['page']}" if sensor["shunt_ohm"] is None else f"{sensor['shunt_ohm']:g} ohm"
    watts = sensor["output_watts"]
    said = "" if watts is None else f", {watts:.4g} W at rest by its own READ_POUT"
    by = ", by READ_POUT" if sensor.get("power") == "pout" else ""
    return f"{sensor['kind']} of {sensor['name']} at {sensor['address']:#x}, {place}{by}{said}, {kept}"


def _figure(energy: Energy) -> str:
    """Where the title says what k is."""
    return energy.figure.removesuffix(" at k = 2")


def unresolved(result: dict[str, Any]) -> list[str]:
    """Why windows of a training have no figure."""
    rows = [row.get("sensed", {}) for row in result["history"]]
    missing = [str(row["epoch"]) for row in result["history"] if "sensed" not in row]
    told = [f"epochs {', '.join(missing)} were trained without measuring"] if missing else []
    return told + [row["unresolved"] for row in (*rows, result["sensed"]["step"]) if row.get("unresolved")]


def target_text(target: dict[str, Any]) -> str:
    """Of "target" of a measured training."""
    if target["censored"]:
        return f"validation accuracy {target['accuracy']:.1%} was never reached: all of it"
    return f"to a validation accuracy of {target['accuracy']:.1%}, {target['epoch']} epochs"


def phase_rows(found: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """Of a step's phases, their sum, and the step: name, joules, joules above rest, milliseconds, steps."""
    rows = []
    for one in (*found["phases"], found["step"]):
        if one["energy_j"] is None:
            rows.append((one["name"], "no figure", "", "", ""))
            continue
        pairs = ("energy_j", "uncertainty_j"), ("dynamic_j", "dynamic_uncertainty_j")
        figures = (_figure(_of(one, *pair)) for pair in pairs)
        rows.append((one["name"], *figures, f"{one['seconds'] * 1e3:.4g}", str(one["replays"])))
    if found["phases"]:
        rows.insert(-1, ("sum of the phases", _figure(Energy(**found["phases_sum"])), "", "", ""))
    return rows


def _of(reading: dict[str, Any], joules: str, uncertainty: str) -> Energy:
    """One of the energies of `Reading.as_dict`."""
    labels = Provenance(reading["provenance"]), Scope(reading["scope"]), reading["extrapolated"]
    return Energy(reading[joules], reading[uncertainty], *labels)


def _phases_table(found: dict[str, Any]) -> Table:
    table = Table(title="A step of the trained network, k = 2")
    for name in "phase", "energy", "above rest", "ms", "steps":
        table.add_column(name, justify="left" if name == "phase" else "right")
    for row in phase_rows(found):
        table.add_row(*row)
    table.caption = "; ".join(filter(None, [phase_labels(found), ADDS_UP[found["phases_add_up"]]]))
    return table


def phase_labels(found: dict[str, Any]) -> str:
    """What each figure of `phase_rows` is."""
    return _of(found["step"], "energy_j", "uncertainty_j").labels


ADDS_UP = {
    True: "The phases add up to the step, within the uncertainties.",
    False: "The phases do not add up to the step: do not use them.",
    None: "",
}


def coverage_table(result: dict[str, Any]) -> Table:
    """A row a sensor: windows, how many had a figure, shares and widths against the goals."""
    goals = result["goals"]
    table = Table(title=f"Goals: {goals['held_least']:.0%} held, at most {goals['width_most']:g} times the bound wide")
    for name in "sensor", "windows", "resolved", "held", "of short runs", "width, mean", "most", "of what sampling did":
        table.add_column(name, justify="left" if name == "sensor" else "right")
    for kind, row in result["coverage"].items():
        keys = "width_mean", "width_most", "sampled_width_mean"
        widths = ("-" if row[key] is None else f"{row[key]:.3f}" for key in keys)
        shares = ("-" if row[key] is None else f"{row[key]:.1%}" for key in ("held", "held_short"))
        table.add_row(kind, str(row["windows"]), str(row["resolved"]), *shares, *widths)
    table.caption = "passed" if result["passed"] else "[red]not passed[/]"
    return table


def fit_table(result: dict[str, Any]) -> Group:
    """A row a coefficient with its interval, then the residuals."""
    table = Table(title="Joules, fitted, k = 2")
    for name in "for each", "from", "joules", "to":
        table.add_column(name, justify="left" if name == "for each" else "right")
    for term, one in result["coefficients"].items():
        table.add_row(TERMS[term], *(f"{one[key]:.3g}" for key in ("low", "joules", "high")))
    table.caption = f"{result['model']['origin']}, scope {result['model']['scope']}"
    most = max(map(abs, result["residuals_j"]))
    judged = "such as the uncertainties let expect" if result["consistent"] else "[red]larger than they should be[/]"
    line = f"residuals of {len(result['residuals_j'])} windows: at most {most:.3g} J, {judged}"
    return Group(table, line, f"for --energy-model: {escape(result['file'])}")


def figure(traces: dict[str, Trace], phases: Sequence[tuple[float, float, str]], provenance: str) -> Figure:
    """Watts over time of each rail or meter, and the phases: (begin, end, name), seconds of the same clock."""
    shown = Figure(figsize=(10, 4), layout="constrained")
    axes = shown.subplots()
    names = sorted({name for _, _, name in phases})
    for begin_s, end_s, name in phases:
        axes.axvspan(begin_s, end_s, color=f"C{names.index(name) + 2}", alpha=0.2, linewidth=0)
    for number, name in enumerate(names):
        axes.fill([], [], color=f"C{number + 2}", alpha=0.2, label=name)
    for number, (name, trace) in enumerate(traces.items()):
        axes.step(trace.seconds, trace.watts, where="pre", label=name, color=f"C{number}", linewidth=1)
    axes.set(title=f"Watts over time, {provenance}", xlabel="seconds", ylabel="watts")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    if traces or phases:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return shown


def traces(monitor: Monitor, records: np.ndarray) -> dict[str, Trace]:
    """Of `Monitor.records`, a rail each; seconds of the device since its power-up."""
    found = {}
    for number, rail in enumerate(monitor.rails):
        own = records[records["rail"] == number]
        watts = own["current"] * rail.amps_per_code * rail.factor(rail.volts(own["voltage"]))
        calibration = monitor.calibrations[number]
        if calibration is not None:
            watts = watts * calibration.gain + calibration.offset_watts
        found[rail.name] = Trace(own["stamp"] / monitor.port.clock_hz, watts)
    return found


def phases(monitor: Monitor, records: np.ndarray, names: dict[int, str]) -> list[tuple[float, float, str]]:
    """Spans of the phases in `Monitor.records`, those with a name; to a sample."""
    spans: list[tuple[float, float, str]] = []
    for before, after in pairwise(records[records["rail"] == 0]):
        name = names.get(int(after["phase"]))
        begin_s, end_s = (float(one["stamp"]) / monitor.port.clock_hz for one in (before, after))
        if name is None:
            continue
        if spans and spans[-1][2] == name and spans[-1][1] == begin_s:
            begin_s = spans.pop()[0]
        spans.append((begin_s, end_s, name))
    return spans
