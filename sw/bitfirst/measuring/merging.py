"""A power meter's log beside what the sensors told of a training, merged by time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ..energy import Energy, Provenance, Scope, unavailable
from ..errors import UsageError
from . import meter
from .meter import Trace
from .uncertainty import RECTANGLE, K

BORDER_S = 1e-6  #: of a step in power, in the trace that sensors are taken for
NEAR_S = 60.0  #: within which a board's clock and a meter's are looked for to agree, before all else
MOST_PERIODS = 3  #: between two readings: more are a gap
REST_PERCENT = 2  #: of the readings lie below what is taken for rest
NORMAL_MEDIAN = 0.6745  #: of a normal deviate's magnitude
NOT_MEASURED = "no epoch has a figure of sensors to set a meter's log beside: give a run of bitfirst measure"
HEAD = ("epoch", "seconds", "sensors, k = 2", "meter, k = 2", "sensors / meter")

Span = tuple[float, float, float]


@dataclass(frozen=True)
class Epoch:
    """What sensors told of an epoch: its windows and the rests around, as in `windows.Reading`; `sensors`: of all that
    time in the windows, rest inside them included. A windowless one has no figure.
    """

    number: int
    spans: tuple[Span, ...]
    rests: tuple[Span, ...]
    sensors: Energy

    @property
    def seconds(self) -> float:
        return sum(end_s - begin_s for begin_s, end_s, _ in self.spans)


@dataclass(frozen=True)
class Merged:
    """offset_s   added to the meter's times
    epochs        of the training
    by_meter      of each; none where sensors have none
    log           the meter's, on the clock of the training
    """

    offset_s: float
    epochs: tuple[Epoch, ...]
    by_meter: tuple[Energy, ...]
    log: Trace

    @property
    def provenance(self) -> Provenance:
        return next(one.provenance for one in self.by_meter if one.total_j is not None)

    @property
    def labels(self) -> str:
        """What stands beside the figures."""
        first = next(place for place, one in enumerate(self.epochs) if one.spans)
        pair = ("sensors", self.epochs[first].sensors), ("meter", self.by_meter[first])
        told = (f"{name}: {energy.labels}" for name, energy in pair)
        return f"{'; '.join(told)}; {self.offset_s:.3f} s were added to the meter's times"

    def as_dict(self) -> dict[str, Any]:
        """Of `--json`: "offset_s", "labels", "epochs": [{"epoch", "seconds", "sensors", "meter": as of
        `Energy.as_dict`}], "table": `cells`."""
        rows = [
            {
                "epoch": one.number,
                "seconds": one.seconds,
                "sensors": one.sensors.as_dict(),
                "meter": energy.as_dict(),
            }
            for one, energy in zip(self.epochs, self.by_meter, strict=True)
        ]
        return {"offset_s": self.offset_s, "labels": self.labels, "epochs": rows, "table": cells(self)}


def epochs(history: Sequence[dict[str, Any]]) -> tuple[Epoch, ...]:
    """Of a training's history. Raises `UsageError` where none was measured, and where their times overlap, as those of
    a simulated board do that was opened anew."""
    found = []
    for row in history:
        told = row.get("sensed") or {}
        spans, rests = (tuple(map(tuple, told.get(name, ()))) for name in ("spans", "rests"))
        seconds = [end_s - begin_s for begin_s, end_s, _ in (*spans, *rests)]
        if not (spans and told.get("energy_j") and min(seconds) > 0):
            found.append(Epoch(row["epoch"], (), (), unavailable(Scope.BOARD)))
            continue
        joules = sum(joules for *_, joules in spans)
        uncertainty = told["uncertainty_j"] / told["energy_j"] * joules  # mostly gain: as uncertain as their part
        energy = Energy(joules, uncertainty, told["provenance"], told["scope"])
        found.append(Epoch(row["epoch"], spans, rests, energy))
    spans = [span for one in found for span in one.spans]
    if not spans:
        raise UsageError(NOT_MEASURED)
    if any(before[1] > after[0] for before, after in pairwise(spans)):
        raise UsageError("times of the epochs overlap: the simulated board was opened anew, and its clock with it")
    return tuple(found)


def merged(
    history: Sequence[dict[str, Any]],
    log: Trace,
    offset_s: float | None = None,
    error: float = 0.01,
    scope: Scope = Scope.BOARD,
) -> Merged:
    """The joules of each epoch by a meter.

    log       the meter's
    offset_s  to add to its times; None: that at which it goes best with what the sensors told, on a board within
              `NEAR_S` of 0 if there is one
    error     limit of the meter's error, relative
    scope     what goes through the meter

    Raises `UsageError` for a log that does not cover the training, has gaps, or goes with it at no one time.
    """
    if not 0 <= error < 1:
        raise UsageError(f"meter_error = {error} must be 0 or more, below 1: 0.01 for 1 %")
    if offset_s is not None and not math.isfinite(offset_s):
        raise UsageError(f"meter_offset_s = {offset_s} must be seconds to add to the meter's times")
    found = epochs(history)
    provenances = [one.sensors.provenance for one in found if one.spans]
    if offset_s is None:
        offset_s = _offset(log, found, Provenance.MEASURED in provenances)
    moved = log.shifted(offset_s)
    trusted = max(provenances, key=tuple(Provenance).index)
    spans = [span for one in found for span in one.spans]
    readings = _Readings.of(moved, spans[0][0], spans[-1][1])
    by_meter = tuple(_energy(one, moved, readings, error, (trusted, scope)) for one in found)
    return Merged(offset_s, found, by_meter, moved)


def _offset(log: Trace, found: Sequence[Epoch], of_board: bool) -> float:
    sensors = sensed(found)
    if of_board:
        try:
            return meter.clock_offset(log, sensors, NEAR_S)
        except UsageError:
            pass  # the clocks are further apart
    return meter.clock_offset(log, sensors)


def sensed(found: Sequence[Epoch]) -> Trace:
    """Watts as if they were even in each window and in each rest; NaN between, where the device did something else."""
    spans = sorted(span for epoch in found for span in (*epoch.spans, *epoch.rests))
    seconds, watts = [], []
    for begin_s, end_s, joules in spans:
        mean = joules / (end_s - begin_s)
        seconds += [begin_s, begin_s + BORDER_S, end_s - BORDER_S, end_s]
        watts += [math.nan, mean, mean, math.nan]
    return Trace(np.array(seconds), np.array(watts))


@dataclass(frozen=True)
class _Readings:
    """Of a meter's log, while a training was measured.

    period_s       from one reading to the next
    rest_watts     at rest
    scatter_watts  deviation of one reading beside its neighbours, robustly
    step_watts     the least step between readings
    """

    period_s: float
    rest_watts: float
    scatter_watts: float
    step_watts: float

    @classmethod
    def of(cls, log: Trace, first_s: float, last_s: float) -> "_Readings":
        period_s = float(np.median(np.diff(log.seconds)))
        watts = log.watts[(log.seconds >= first_s - period_s) & (log.seconds <= last_s + period_s)]
        values = np.unique(watts)
        if len(watts) < 2:
            raise UsageError("the meter has no two readings while the sensors were read: check the offset of its clock")
        scatter = float(np.median(np.abs(np.diff(watts)))) / NORMAL_MEDIAN / math.sqrt(2)
        step = float(np.diff(values).min()) if len(values) > 1 else 0.0
        return cls(period_s, float(np.percentile(watts, REST_PERCENT)), scatter, step)


def _energy(epoch: Epoch, log: Trace, readings: _Readings, error: float, labels: tuple[Provenance, Scope]) -> Energy:
    """Uncertain by the meter's limit; by its readings' distance, and the steps in which their offset is found, at both
    ends of each window, where its power steps; and by what its readings scatter, and are rounded to."""
    if not epoch.spans:
        return epoch.sensors
    period_s = readings.period_s
    total = sum(log.joules(begin_s, end_s) for begin_s, end_s, _ in epoch.spans)
    for begin_s, end_s, _ in epoch.spans:
        _check_gaps(epoch, log, begin_s, end_s, MOST_PERIODS * period_s)
    edge_s = math.hypot(period_s, period_s / meter.STEPS) * math.sqrt(2 * len(epoch.spans) / 12)
    edges = abs(total / epoch.seconds - readings.rest_watts) * edge_s
    noise = readings.scatter_watts * math.sqrt(epoch.seconds * period_s)
    rounding = readings.step_watts / math.sqrt(12) * epoch.seconds
    own = math.hypot(error / RECTANGLE * total, edges, noise, rounding)
    if total < -K * own:
        raise UsageError(f"the meter has {total:.4g} J in epoch {epoch.number}: its power is negative, turn its sign")
    return Energy(total, K * own, *labels)


def _check_gaps(epoch: Epoch, log: Trace, begin_s: float, end_s: float, most_s: float) -> None:
    first, last = np.searchsorted(log.seconds, [begin_s, end_s])
    times = log.seconds[max(first - 1, 0) : last + 1]
    if (gap_s := float(np.diff(times).max())) > most_s:
        raise UsageError(
            f"the meter has no reading for {gap_s:.3g} s in epoch {epoch.number}: what it took there is not known; log "
            "at even times"
        )


def cells(found: Merged) -> list[list[str]]:
    """For `HEAD`: a row an epoch, and all of them."""
    rows = list(zip(map(str, [one.number for one in found.epochs]), found.epochs, found.by_meter, strict=True))
    known = [(one, energy) for _, one, energy in rows if one.spans]
    if len(rows) > 1:
        name = "all" if len(known) == len(rows) else "all with a figure"
        spans = tuple(span for one, _ in known for span in one.spans)
        sensors, by_meter = (
            reduce(Energy.__add__, each) for each in zip(*((a.sensors, b) for a, b in known), strict=True)
        )
        rows.append((name, Epoch(0, spans, (), sensors), by_meter))
    return [
        [
            name,
            f"{one.seconds:.3f}",
            *(energy.figure.removesuffix(" at k = 2") for energy in (one.sensors, by_meter)),
            f"{one.sensors.total_j / by_meter.total_j:.3f}" if by_meter.total_j else "-",
        ]
        for name, one, by_meter in rows
    ]


def figure(found: Merged) -> Figure:
    """Watts over time by the meter, and in each epoch by the sensors."""
    shown = Figure(figsize=(10, 4), layout="constrained")
    axes = shown.subplots()
    measured = [one for one in found.epochs if one.spans]
    first_s = measured[0].spans[0][0]
    axes.plot(found.log.seconds - first_s, found.log.watts, color="C0", linewidth=1, label="meter")
    for one in measured:
        for begin_s, end_s, joules in one.spans:
            axes.axvspan(begin_s - first_s, end_s - first_s, color="C2", alpha=0.15, linewidth=0)
            axes.hlines(joules / (end_s - begin_s), begin_s - first_s, end_s - first_s, color="C1", linewidth=2)
        middle_s = (one.spans[0][0] + one.spans[-1][1]) / 2 - first_s
        axes.annotate(f"epoch {one.number}", (middle_s, 0.02), xycoords=("data", "axes fraction"), ha="center")
    axes.plot([], [], color="C1", linewidth=2, label="sensors, mean")
    axes.set(title=f"Watts over time, {found.provenance}", xlabel="seconds from the first epoch on", ylabel="watts")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return shown
