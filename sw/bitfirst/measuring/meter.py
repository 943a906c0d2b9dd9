"""A power meter's CSV, merged by time with what the sensors say."""

import csv
import math
import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ..errors import UsageError

LEAST_CORRELATION = 0.7  #: of meter and sensors, at the best offset
LEAST_POINTS = 8  #: that both have, to be compared
GRID = 4000  #: points that traces are compared at, at most

_TIME_NAMES = ("time", "timestamp", "t", "seconds", "elapsed")
_POWER_NAMES = ("power", "watts", "watt", "p", "active power")
_UNITS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "min": 60.0, "h": 3600.0}
_UNITS |= {"w": 1.0, "watt": 1.0, "watts": 1.0, "mw": 1e-3, "kw": 1e3, "uw": 1e-6, "µw": 1e-6}
_SECONDS, _WATTS = {"s", "sec", "seconds", "ms", "us", "µs", "min", "h"}, {"w", "watt", "watts", "mw", "kw", "uw", "µw"}
_NAMED = re.compile(r"^\s*(.*?)\s*[\[(_ /]\s*([a-zµ]+)\s*[\])]?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Trace:
    """Watts at times in seconds, which grow; a meter's clock, or a device's."""

    seconds: np.ndarray
    watts: np.ndarray

    def shifted(self, offset_s: float) -> "Trace":
        """The same, `offset_s` later."""
        return Trace(self.seconds + offset_s, self.watts)

    def joules(self, begin_s: float, end_s: float) -> float:
        """Of the straight lines between the readings. Raises `UsageError` outside of them."""
        if not self.seconds[0] <= begin_s <= end_s <= self.seconds[-1]:
            raise UsageError(
                f"the meter has {self.seconds[0]:.3f} s to {self.seconds[-1]:.3f} s, not all of {begin_s:.3f} s to "
                f"{end_s:.3f} s: log for longer, or check the offset of its clock"
            )
        inside = self.seconds[(self.seconds > begin_s) & (self.seconds < end_s)]
        times = np.concatenate([[begin_s], inside, [end_s]])
        watts = np.interp(times, self.seconds, self.watts)
        return float(np.sum((watts[1:] + watts[:-1]) / 2 * np.diff(times)))


def read_csv(path: Path, time: str | None = None, power: str | None = None) -> Trace:
    """The columns `time` and `power`, by their headings; None: those whose heading says so.

    Units are those of the heading, as in "time (ms)", "power_mW"; without one, seconds and watts. A time may be a date
    with a time of day (ISO 8601). Raises `UsageError` for a file without such columns, or whose times go back.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = max(",;\t", key=file.readline().count)
            file.seek(0)
            rows = [row for row in csv.reader(file, delimiter=delimiter) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from None
    if len(rows) < 3:
        raise UsageError(f"{path} has no readings: a line of headings and two of numbers are the least")
    heads = [head.strip() for head in rows[0]]
    time_at = _column(path, heads, time, (_TIME_NAMES, _SECONDS), "time")
    power_at = _column(path, heads, power, (_POWER_NAMES, _WATTS), "power")
    seconds, watts = [], []
    for number, row in enumerate(rows[1:], 2):
        try:
            seconds.append(_time(row[time_at]))
            watts.append(float(row[power_at]))
        except (ValueError, IndexError):
            raise UsageError(f"line {number} of {path} has no time and power: {','.join(row)!r}") from None
    trace = Trace(
        np.array(seconds) * _factor(heads[time_at], _SECONDS), np.array(watts) * _factor(heads[power_at], _WATTS)
    )
    if not (np.isfinite(trace.watts).all() and np.isfinite(trace.seconds).all()):
        raise UsageError(f"{path} has readings that are no numbers: take them out")
    if (np.diff(trace.seconds) <= 0).any():
        line = int(np.argmax(np.diff(trace.seconds) <= 0)) + 3
        raise UsageError(f"the time does not grow in line {line} of {path}: sort it, or name another column of time")
    return trace


def _column(path: Path, heads: list[str], named: str | None, words: tuple[Collection[str], ...], what: str) -> int:
    if named is not None:
        if named not in heads:
            raise UsageError(f"{path} has no column {named!r}; it has {', '.join(heads)}")
        return heads.index(named)
    names, units = words
    parts = [_split(head) for head in heads]
    found = [place for place, (name, unit) in enumerate(parts) if name in names or (not name and unit in units)]
    if len(found) != 1:
        raise UsageError(
            f"{path} has {len(found)} columns that look like {what}; name one of {', '.join(heads)} as its {what}"
        )
    return found[0]


def _split(head: str) -> tuple[str, str]:
    """Name and unit of a heading, in small letters; the heading may be a unit alone."""
    if head.lower() in _UNITS:
        return "", head.lower()
    match = _NAMED.match(head)
    if match and match[2].lower() in _UNITS:
        return match[1].lower(), match[2].lower()
    return head.lower(), ""


def _factor(head: str, units: set[str]) -> float:
    unit = _split(head)[1]
    return _UNITS[unit] if unit in units else 1.0


def _time(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return datetime.fromisoformat(text.strip()).timestamp()


def clock_offset(meter: Trace, sensors: Trace, most_s: float | None = None, covered: bool = False) -> float:
    """Seconds to add to the meter's times to have those of the sensors, at which both traces correlate best.

    sensors  NaN watts around what is not known: such times count for nothing
    most_s   the largest that is looked for; None: as far as half of the shorter trace overlaps
    covered  whether the meter's log holds all the time of the sensors

    Raises `UsageError` when they nowhere correlate enough to be believed.
    """
    length_s = min(np.ptp(meter.seconds), np.ptp(sensors.seconds))
    step_s = max(
        float(np.median(np.diff(meter.seconds))) / 4, max(np.ptp(meter.seconds), np.ptp(sensors.seconds)) / GRID
    )
    ours, theirs = (_regular(trace, step_s) for trace in (sensors, meter))
    least = max(LEAST_POINTS, round(length_s / 2 / step_s))
    if covered and len(theirs) < len(ours):
        raise UsageError(
            f"the meter has {np.ptp(meter.seconds):.3f} s, less than the {np.ptp(sensors.seconds):.3f} s that were "
            "measured: log for longer"
        )
    begins = sensors.seconds[0] - meter.seconds[0]
    best, found = -1.0, 0.0
    for lag in range(-(len(theirs) - least), len(ours) - least + 1):
        offset_s = begins + lag * step_s
        if most_s is not None and abs(offset_s) > most_s:
            continue
        if covered and not len(ours) - len(theirs) <= lag <= 0:
            continue
        a, b = ours[max(lag, 0) : lag + len(theirs)], theirs[max(-lag, 0) : len(ours) - lag]
        value = _correlation(a, b)
        if value > best:
            best, found = value, offset_s
    if best < LEAST_CORRELATION:
        raise UsageError(
            f"meter and sensors do not go together anywhere (correlation {best:.2f}): give the offset of the meter's "
            "clock in seconds"
        )
    return found


def _regular(trace: Trace, step_s: float) -> np.ndarray:
    count = math.floor(np.ptp(trace.seconds) / step_s) + 1
    return np.interp(trace.seconds[0] + step_s * np.arange(count), trace.seconds, trace.watts)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    known = np.isfinite(a)
    if known.sum() < LEAST_POINTS:
        return -1.0
    a, b = a[known], b[known]
    deviations = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / deviations) if deviations > 0 else -1.0
