"""Gain and offset of a sensor against a meter, at two loads; kept in a file, each for one sensor alone."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import NoneType
from typing import Any

from ..errors import UsageError
from .sensors import Rail

APART = 0.2  #: of the larger load, at least, that two loads must lie apart


@dataclass(frozen=True)
class Calibration:
    """Watts are `gain` times those that the sensor says, plus `offset_watts`; errors are standard uncertainties.

    kind, address, shunt_ohm, range_volts, serial, page, power    of the sensor, as in its `Rail`
    gain_error   relative
    provenance   of what the sensor said: one on simulated rails is for these alone
    """

    kind: str
    address: int
    shunt_ohm: float | None
    range_volts: float
    serial: str
    gain: float
    gain_error: float
    offset_watts: float
    offset_error_watts: float
    provenance: str
    page: int = 0
    power: str = "iv"

    def is_of(self, rail: Rail) -> bool:
        told = rail.kind, rail.address, rail.shunt_ohm, rail.range.volts, rail.serial, rail.page, rail.power
        return self._identity == told

    @property
    def _identity(self) -> tuple[Any, ...]:
        return self.kind, self.address, self.shunt_ohm, self.range_volts, self.serial, self.page, self.power


@dataclass(frozen=True)
class Load:
    """A steady load: what the sensor says and the meter, in watts, and the standard uncertainty of each."""

    sensor_watts: float
    sensor_error: float
    meter_watts: float
    meter_error: float


def calibrate(rail: Rail, loads: Sequence[Load], provenance: str) -> Calibration:
    """The line through two loads. Raises `UsageError` when they are not two, too near, or not to be believed."""
    if len(loads) != 2:
        raise UsageError(f"a calibration takes two loads, not {len(loads)}")
    low, high = sorted(loads, key=lambda load: load.meter_watts)
    span = high.sensor_watts - low.sensor_watts
    if span <= 0 or high.meter_watts - low.meter_watts < APART * high.meter_watts:
        raise UsageError(
            f"loads of {low.meter_watts:.4g} W and {high.meter_watts:.4g} W are too near for a calibration: "
            "let one be rest, the other one full load"
        )
    gain = (high.meter_watts - low.meter_watts) / span
    if not 0.8 < gain < 1.25:
        raise UsageError(f"the meter says {gain:.3g} times the watts of {rail.where}: check the ohms of its shunt")
    low_error, high_error = (math.hypot(gain * load.sensor_error, load.meter_error) for load in (low, high))
    share = low.sensor_watts / span  # by which the line goes on from the lower load to nothing
    return Calibration(
        rail.kind,
        rail.address,
        rail.shunt_ohm,
        rail.range.volts,
        rail.serial,
        gain,
        math.hypot(low_error, high_error) / span / gain,
        low.meter_watts - gain * low.sensor_watts,
        math.hypot((1 + share) * low_error, share * high_error),
        provenance,
        rail.page,
        rail.power,
    )


def applied(calibrations: Iterable[Calibration], rails: Sequence[Rail], provenance: str) -> list[Calibration | None]:
    """Of each rail its own, or None. Raises `UsageError` for one of a sensor that is none of them, and for one of a
    simulated sensor where these are none, or the other way round."""
    calibrations = list(calibrations)
    for one in calibrations:
        if one.provenance != provenance:
            raise UsageError(
                f"the calibration was {one.provenance}, and what it is for is {provenance}: calibrate anew"
            )
        if not any(one.is_of(rail) for rail in rails):
            place = f"page {one.page}, power {one.power}" if one.shunt_ohm is None else f"{one.shunt_ohm:g} ohm"
            name = f"{one.kind} at {one.address:#x}, {place}, serial {one.serial or 'not given'}"
            raise UsageError(f"the calibration is of another sensor ({name}): calibrate this one, or leave it out")
    return [next((one for one in calibrations if one.is_of(rail)), None) for rail in rails]


def save(path: Path, calibrations: Iterable[Calibration]) -> None:
    path.write_text(json.dumps({"calibrations": [asdict(one) for one in calibrations]}, indent=2) + "\n")


def load(path: Path) -> list[Calibration]:
    """Raises `UsageError` when the file is missing or no such file."""
    types = {field.name: str if field.type is str else (int, float) for field in fields(Calibration)}
    types["shunt_ohm"] = int, float, NoneType  # a regulator has none
    try:
        rows = [{"page": 0, "power": "iv"} | row for row in json.loads(path.read_text())["calibrations"]]
        good = all(set(row) == set(types) and all(isinstance(row[n], types[n]) for n in types) for row in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{path} holds no calibration ({error}): write one by a calibration run") from None
    if not good:
        raise UsageError(f"{path} holds other fields than a calibration has: write it anew by a calibration run")
    return [Calibration(**row) for row in rows]
