"""Energy in `bitfirst report` that sensors told, of single trainings (`bitfirst measure`): like with like.

What simulated rails told is never set against what a board's did, nor one scope against another.
"""

import math
from typing import Any

from .energy import Energy, Scope
from .measuring.measured import epoch_energy, to_target

Row = dict[str, Any]
BASELINE = "sbm"  #: on the datapath "fixed": 8 bits on multipliers of 8 x 8 bits
HEAD = ("method", "device", "seed", "energy, k = 2", "a step", "a sample", "to the target", f"to {BASELINE}'s on fixed")
BRIEF = {"method": 0, "seed": 2, "energy, k = 2": 3, "to target": 6, "ratio": 7}  #: places in `HEAD`, for 80 characters
LIKE = ("study", "batch", "seed")  #: "study": what was learnt, and for how many epochs
COLUMNS = ("sensor_j", "sensor_uncertainty_j", "sensor_provenance", "sensor_scope", "sensor_extrapolated")


def add(rows: list[Row]) -> list[Row]:
    """Gives runs with a figure of sensors `COLUMNS`; returns these."""
    found = []
    for row in rows:
        told = row.get("sensed")
        if told is None or told["training"]["energy"]["total_j"] is None:
            continue
        energy = told["training"]["energy"]
        values = (energy[key] for key in ("total_j", "uncertainty_j", "provenance", "scope", "extrapolated"))
        row |= dict(zip(COLUMNS, values, strict=True))
        found.append(row)
    return found


def table(rows: list[Row], target: float | None) -> list[Row]:
    """Of the rows that `add` returns, a group for each of their labels: "title", "rows" for `HEAD`."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(_labels(row), []).append(row)
    return [{"title": title, "rows": [cells(row, own, target) for row in own]} for title, own in groups.items()]


def _labels(row: Row) -> str:
    """With the supplies where it is not the whole board: those of other ones are not alike."""
    labels = _energy(row["sensor_j"], row["sensor_uncertainty_j"], row).labels
    if row["sensor_scope"] != Scope.RAILS:
        return labels
    names = ", ".join(sorted(sensor["name"] for sensor in row["sensed"]["sensors"]))
    return labels.replace(f"scope {Scope.RAILS}", f"scope {Scope.RAILS} ({names})")


def cells(row: Row, group: list[Row], target: float | None) -> list[str]:
    """For `HEAD`."""
    training = row["sensed"]["training"]
    means = (_figure(training[f"{name}_j"], training[f"{name}_uncertainty_j"], row) for name in ("step", "sample"))
    total = _figure(row["sensor_j"], row["sensor_uncertainty_j"], row)
    return [row["variant"], row["device"], str(row["seed"]), total, *means, _until(row, target), _ratio(row, group)]


def _figure(joules: float | None, uncertainty: float | None, row: Row) -> str:
    if joules is None:
        return "-"
    return _energy(joules, uncertainty, row).figure.removesuffix(" at k = 2")


def _energy(joules: float, uncertainty: float, row: Row) -> Energy:
    return Energy(joules, uncertainty, row["sensor_provenance"], row["sensor_scope"], row["sensor_extrapolated"])


def _until(row: Row, target: float | None) -> str:
    if target is None:
        return "-"
    found = to_target(target, [epoch_energy(epoch) for epoch in row["history"]], row["history"])
    text = _figure(found["energy"]["total_j"], found["energy"]["uncertainty_j"], row)
    return f"≥ {text}" if found["censored"] and text != "-" else text


def ratio(row: Row, group: list[Row]) -> tuple[float, float] | None:
    """Of its joules to those of the baseline that learnt the same, as long, with the same seed, and the uncertainty
    (k = 2) of that: errors of both are taken as independent, which one sensor's gain is not, so it is rather too large.
    None where there is not just one such."""
    like = [one for one in group if _is_baseline(one) and all(one[key] == row[key] for key in LIKE)]
    theirs = like[0] if len(like) == 1 else None
    if theirs is None or not theirs["sensor_j"] or not row["sensor_j"]:
        return None
    found = row["sensor_j"] / theirs["sensor_j"]
    return found, found * math.hypot(*(one["sensor_uncertainty_j"] / one["sensor_j"] for one in (row, theirs)))


def _ratio(row: Row, group: list[Row]) -> str:
    found = None if _is_baseline(row) else ratio(row, group)
    return "-" if found is None else f"{found[0]:.3f} ± {found[1]:.3f}"


def _is_baseline(row: Row) -> bool:
    return row["method"] == BASELINE and row["config"]["datapath"] == "fixed"
