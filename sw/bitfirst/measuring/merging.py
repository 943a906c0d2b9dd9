"""A power meter's log beside what the sensors told of a training, merged by time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..energy import Energy, Provenance, Scope
from ..errors import UsageError
from . import meter
from .meter import Trace
from .uncertainty import RECTANGLE, K

BORDER_S = 1e-6  #: of a step in power, in the trace that sensors are taken for
NO_TIMES = "no epoch was measured, so a meter's log has nothing to be set beside: give a run of bitfirst measure"


Span = tuple[float, float, float]


@dataclass(frozen=True)
class Epoch:
    """What sensors told of an epoch: its windows and the rests around, as in `windows.Reading`; watts of those."""

    number: int
    spans: tuple[Span, ...]
    rests: tuple[Span, ...]
    idle_watts: float

    @property
    def joules(self) -> float:
        return sum(joules for *_, joules in self.spans)

    @property
    def seconds(self) -> float:
        return sum(end_s - begin_s for begin_s, end_s, _ in self.spans)


@dataclass(frozen=True)
class Merged:
    """offset_s  added to the meter's times
    epochs       those that were measured
    energies     of each, by the meter
    log          the meter's, on the clock of the training
    """

    offset_s: float
    epochs: tuple[Epoch, ...]
    energies: tuple[Energy, ...]
    log: Trace

    def as_dict(self) -> dict[str, Any]:
        """Of `--json`: "offset_s", "epochs": [{"epoch", "seconds", "sensors_j", "meter": as of `Energy.as_dict`}]."""
        rows = [
            {"epoch": one.number, "seconds": one.seconds, "sensors_j": one.joules, "meter": energy.as_dict()}
            for one, energy in zip(self.epochs, self.energies, strict=True)
        ]
        return {"offset_s": self.offset_s, "epochs": rows}


def epochs(history: Sequence[dict[str, Any]]) -> tuple[Epoch, ...]:
    """Of a training's history. Raises `UsageError` where none was measured."""
    rows = [(row["epoch"], row["measured"]) for row in history if row.get("measured", {}).get("spans")]
    if not rows:
        raise UsageError(NO_TIMES)
    return tuple(
        Epoch(number, *(tuple(map(tuple, told[name])) for name in ("spans", "rests")), told["idle_watts"])
        for number, told in rows
    )


def merged(
    history: Sequence[dict[str, Any]],
    log: Trace,
    offset_s: float | None = None,
    error: float = 0.01,
    scope: Scope = Scope.BOARD,
) -> Merged:
    """The joules of each epoch by a meter.

    log       the meter's
    offset_s  to add to its times; None: that at which it goes best with what the sensors told
    error     limit of the meter's error, relative
    scope     what goes through the meter

    Raises `UsageError` for a log that does not cover the training, or goes with it nowhere.
    """
    if not 0 <= error < 1:
        raise UsageError(f"meter_error = {error} must be 0 or more, below 1: 0.01 for 1 %")
    found = epochs(history)
    provenance = next(row["measured"]["provenance"] for row in history if row.get("measured", {}).get("spans"))
    step_s = float(np.median(np.diff(log.seconds)))
    if offset_s is None:
        offset_s = meter.clock_offset(log, sensed(found), covered=True)
    moved = log.shifted(offset_s)
    energies = tuple(_energy(one, moved, step_s, error, Provenance(provenance), scope) for one in found)
    return Merged(offset_s, found, energies, moved)


def sensed(found: Sequence[Epoch]) -> Trace:
    """Watts as if they were even in each window and in each rest; NaN between, where the device did something else."""
    spans = sorted(span for epoch in found for span in (*epoch.spans, *epoch.rests))
    seconds, watts = [], []
    for begin_s, end_s, joules in spans:
        mean = joules / (end_s - begin_s)
        seconds += [begin_s, begin_s + BORDER_S, end_s - BORDER_S, end_s]
        watts += [math.nan, mean, mean, math.nan]
    return Trace(np.array(seconds), np.array(watts))


def _energy(epoch: Epoch, log: Trace, step_s: float, error: float, provenance: Provenance, scope: Scope) -> Energy:
    """Uncertain by the meter's limit, and by its readings' distance at both ends of each window."""
    total = sum(log.joules(begin_s, end_s) for begin_s, end_s, _ in epoch.spans)
    above_watts = epoch.joules / epoch.seconds - epoch.idle_watts
    edges = abs(above_watts) * step_s * math.sqrt(2 * len(epoch.spans) / 12)
    return Energy(total, K * math.hypot(error / RECTANGLE * total, edges), provenance, scope)


HEAD = ("epoch", "seconds", "sensors", "meter, k = 2", "sensors / meter")


def cells(found: Merged) -> list[list[str]]:
    """For `HEAD`: a row an epoch, and all of them."""
    rows = [(str(one.number), one, energy) for one, energy in zip(found.epochs, found.energies, strict=True)]
    if len(rows) > 1:
        spans = tuple(span for one in found.epochs for span in one.spans)
        rows.append(("all", Epoch(0, spans, (), 0.0), reduce(Energy.__add__, found.energies)))
    return [
        [
            name,
            f"{one.seconds:.3f}",
            f"{one.joules:.4g} J",
            energy.figure.removesuffix(" at k = 2"),
            f"{one.joules / energy.total_j:.3f}" if energy.total_j else "-",
        ]
        for name, one, energy in rows
    ]


def figure(found: Merged) -> Figure:
    """Watts over time by the meter, and in each epoch by the sensors."""
    shown = Figure(figsize=(10, 4), layout="constrained")
    axes = shown.subplots()
    first_s = found.epochs[0].spans[0][0]
    axes.plot(found.log.seconds - first_s, found.log.watts, color="C0", linewidth=1, label="meter")
    for one in found.epochs:
        for begin_s, end_s, joules in one.spans:
            axes.axvspan(begin_s - first_s, end_s - first_s, color="C2", alpha=0.15, linewidth=0)
            axes.hlines(joules / (end_s - begin_s), begin_s - first_s, end_s - first_s, color="C1", linewidth=2)
        middle_s = (one.spans[0][0] + one.spans[-1][1]) / 2 - first_s
        axes.annotate(f"epoch {one.number}", (middle_s, 0.02), xycoords=("data", "axes fraction"), ha="center")
    axes.plot([], [], color="C1", linewidth=2, label="sensors, mean")
    axes.set(
        title=f"Watts over time, {found.energies[0].provenance}",
        xlabel="seconds from the first epoch on",
        ylabel="watts",
    )
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return shown
