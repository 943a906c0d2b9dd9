"""A power meter's CSV, merged by time with what the sensors say."""

import csv
import math
import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from ..errors import UsageError

LEAST_READINGS = 8  #: of the meter, in what is compared
STANDS_OUT = 25  #: see `clock_offset`: five standard deviations
STEPS = 4  #: of an offset that are tried, to a reading of the meter
OTHER = 10  #: steps from the best offset, behind which one is another

_SECONDS = {"s": 1.0, "sec": 1.0, "seconds": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_SECONDS |= {"min": 60.0, "minutes": 60.0, "h": 3600.0, "hours": 3600.0}
_WATTS = {"w": 1.0, "watt": 1.0, "watts": 1.0, "mw": 1e-3, "kw": 1e3, "uw": 1e-6, "µw": 1e-6}
#: Units of other things, that a named column must not be in.
_OTHERS = {"j", "kj", "wh", "mwh", "kwh", "v", "mv", "a", "ma", "ua", "µa", "va", "kva", "var", "hz", "%", "c", "°c"}
_UNITS = {*_SECONDS, *_WATTS, *_OTHERS}
_TRAILING = re.compile(r"^(.*?)[\s_/]+([a-zµ°%]+)$", re.IGNORECASE)
_BRACKETED = re.compile(r"^(.*?)[\s_]*[\[(]\s*([^\])]*?)\s*[\])]$")
_MOST_PLAIN_S = 1e11  #: larger times without a unit are no seconds: the year 5138


@dataclass(frozen=True)
class _Kind:
    """What a column says: `names` and `units` of its heading, and one for people."""

    what: str
    names: tuple[str, ...]
    units: dict[str, float]
    such_as: str


_TIME = _Kind("time", ("time", "timestamp", "t", "elapsed"), _SECONDS, "time (ms)")
_POWER = _Kind("power", ("power", "p", "active power"), _WATTS, "power (mW)")


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
    (_, heads), *rows = _rows(path)
    heads = [head.strip() for head in heads]
    time_at, power_at = _column(path, heads, time, _TIME), _column(path, heads, power, _POWER)
    factors = _factor(path, heads[time_at], _TIME), _factor(path, heads[power_at], _POWER)
    seconds, watts = np.zeros(len(rows)), np.zeros(len(rows))
    for place, (line, row) in enumerate(rows):
        if len(row) > len(heads):
            raise UsageError(
                f"line {line} of {path} has {len(row)} cells under {len(heads)} headings: write numbers with points, "
                "not commas"
            )
        try:
            seconds[place] = _time(row[time_at], factors[0])
            watts[place] = float(row[power_at]) * factors[1]
        except (ValueError, IndexError):
            raise UsageError(f"line {line} of {path} has no time and power, such as 1.5: {row!r}") from None
    if not (np.isfinite(watts).all() and np.isfinite(seconds).all()):
        raise UsageError(f"{path} has readings that are no numbers: take them out")
    if not _split(heads[time_at])[1] and seconds.max() > _MOST_PLAIN_S:
        raise UsageError(f"times of {path} are no seconds: write their unit into the heading, such as {_TIME.such_as}")
    if (np.diff(seconds) <= 0).any():
        line = rows[int(np.argmax(np.diff(seconds) <= 0)) + 1][0]
        raise UsageError(
            f"the time does not grow in line {line} of {path}: sort it, name another column of time, or log dates with "
            "their time zone"
        )
    return Trace(seconds, watts)


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Lines that are not empty: number and cells; the headings first."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            delimiter = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter)
            rows = [(reader.line_num, row) for row in reader if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path} cannot be read as CSV: {error}") from None
    if len(rows) < 3:
        raise UsageError(f"{path} has no readings: a line of headings and two of numbers are the least")
    return rows


def _column(path: Path, heads: list[str], named: str | None, kind: _Kind) -> int:
    if named is not None:
        if named not in heads:
            raise UsageError(f"{path} has no column {named!r}; it has {', '.join(heads)}")
        return heads.index(named)
    found = [place for place, head in enumerate(heads) if _is(head, kind)]
    if len(found) != 1:
        raise UsageError(
            f"{path} has {len(found)} columns that look like {kind.what}; name one of {', '.join(heads)} as its "
            f"{kind.what}"
        )
    return found[0]


def _is(head: str, kind: _Kind) -> bool:
    name, unit = _split(head)
    return name in ("", *kind.names) and (unit in kind.units or (name != "" and not unit))


def _split(head: str) -> tuple[str, str]:
    """Name and unit of a heading, in small letters; the heading may be a unit alone."""
    if head.lower() in _UNITS:
        return "", head.lower()
    if (match := _BRACKETED.match(head)) is not None:
        return match[1].lower(), match[2].lower()
    if (match := _TRAILING.match(head)) is not None and match[2].lower() in _UNITS:
        return match[1].lower(), match[2].lower()
    return head.lower(), ""


def _factor(path: Path, head: str, kind: _Kind) -> float:
    unit = _split(head)[1]
    if not unit:
        return 1.0
    if unit not in kind.units or re.search(r"\bMW\b", head):  # some write MW for mW
        raise UsageError(
            f"column {head!r} of {path} is in {unit}, which is no unit of {kind.what}: name another one, or write the "
            f"unit, such as {kind.such_as}"
        )
    return kind.units[unit]


def _time(text: str, factor: float) -> float:
    """Seconds; a date has no unit."""
    try:
        return float(text) * factor
    except ValueError:
        return datetime.fromisoformat(text.strip()).timestamp()


def clock_offset(meter: Trace, sensors: Trace, most_s: float | None = None) -> float:
    """Seconds to add to the meter's times to have those of the sensors, at which both correlate best.

    sensors  NaN watts where nothing is known; the meter's log must hold all of its time
    most_s   the largest that is looked for; None: all at which it does

    Raises `UsageError` for a log that is too short, and where no time stands out: the best correlation r of n readings
    must be so far above the best one r2 of another time that n ln((1 - r2^2) / (1 - r^2)), twice the difference of
    their log-likelihoods, is over `STANDS_OUT`.
    """
    period_s = float(np.median(np.diff(meter.seconds)))
    step_s = period_s / STEPS
    first_s, length_s = sensors.seconds[0], np.ptp(sensors.seconds)
    offsets = sensors.seconds[-1] - meter.seconds[-1], first_s - meter.seconds[0]
    if most_s is not None:
        offsets = max(offsets[0], -most_s), min(offsets[1], most_s)
    if offsets[0] > offsets[1]:
        raise UsageError(
            f"the meter has {np.ptp(meter.seconds):.3f} s, in which the {length_s:.3f} s of the sensors have no "
            "room: log for longer, or check its clock"
        )
    ours = _regular(sensors, first_s, length_s, step_s)
    theirs = _regular(meter, first_s - offsets[1], length_s + offsets[1] - offsets[0], step_s)
    found = _correlations(ours, theirs)
    best = int(found.argmax())
    others = np.delete(found, slice(max(0, best - OTHER), best + OTHER + 1))
    r, other = float(found[best]), max(0.0, float(others.max(initial=0.0)))
    readings = float(np.isfinite(ours).sum()) / STEPS
    if readings < LEAST_READINGS or readings * math.log((1 - other**2) / max(1 - r**2, 1e-12)) < STANDS_OUT:
        raise UsageError(
            f"meter and sensors go together at no one time (correlation {r:.2f}, elsewhere {other:.2f}, of "
            f"{readings:.0f} readings): give the offset of the meter's clock in seconds, or log more often"
        )
    return float(offsets[1] - best * step_s)


def _regular(trace: Trace, first_s: float, length_s: float, step_s: float) -> np.ndarray:
    count = math.floor(length_s / step_s * (1 + 1e-12)) + 1
    return np.interp(first_s + step_s * np.arange(count), trace.seconds, trace.watts)


def _correlations(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Of ours, where it is known, with theirs from each place on at which it has enough."""
    known = np.isfinite(ours)
    a, count = np.where(known, ours, 0.0), known.sum()
    a = np.where(known, a - a.sum() / max(count, 1), 0.0)
    b = theirs - theirs.mean()
    size = 1 << (len(theirs) + len(ours)).bit_length()

    def along(kernel: np.ndarray, values: np.ndarray) -> np.ndarray:
        spectrum = np.fft.rfft(values, size) * np.conj(np.fft.rfft(kernel, size))
        return np.fft.irfft(spectrum, size)[: len(theirs) - len(ours) + 1]

    mean = along(known.astype(float), b) / max(count, 1)
    variance = along(known.astype(float), b**2) / max(count, 1) - mean**2
    deviations = np.sqrt(np.maximum(variance, 0.0) * (a @ a) / max(count, 1))
    enough = deviations > 1e-9 * max(b.std() * a.std(), 1e-300)
    return np.where(enough, along(a, b) / max(count, 1) / np.where(enough, deviations, 1.0), 0.0)
