"""Readings for people: a table, and watts over time with the phases marked."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

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
        watts = own["current"] * rail.amps_per_code * rail.volts(own["voltage"])
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
