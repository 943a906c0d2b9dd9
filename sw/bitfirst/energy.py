"""A figure of energy, with what must stand beside it wherever it is shown: where it comes from, and what it covers."""

import math
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from .errors import UsageError


class Provenance(StrEnum):
    """Where a figure comes from; the most trusted first."""

    MEASURED = "measured"  # by sensors of a physical board
    SIMULATED = "simulated"  # by a simulated rail, or from a recording of one
    MODELLED = "modelled"  # counters times coefficients
    UNAVAILABLE = "unavailable"  # there is none


class Scope(StrEnum):
    """Whose energy it is."""

    ARRAY = "array"  # of the array, its memories and the link: no clocks at rest, no leakage, no regulators
    RAILS = "rails"  # of the supplies that are named beside it, not of all that a board has
    BOARD = "board"
    HOST = "board+host"


_TRUST = tuple(Provenance)
PREFIXES = {1.0: "J", 1e-3: "mJ", 1e-6: "µJ", 1e-9: "nJ", 1e-12: "pJ"}
LEAST_PREFIX = min(PREFIXES)


@dataclass(frozen=True)
class Energy:
    """total_j        joules; None where the provenance is "unavailable", and only there
    uncertainty_j  half the interval at k = 2 (95 %), joules; None: not known, of "modelled" alone
    provenance     `Provenance`
    scope          `Scope`
    extrapolated   whether it is windows times counts, and not what was there in whole

    A total below 0 is one that cannot be told from 0: its interval holds 0. Raises `UsageError` for anything else.
    """

    total_j: float | None
    uncertainty_j: float | None
    provenance: Provenance
    scope: Scope
    extrapolated: bool = False

    def __post_init__(self) -> None:
        for name, kind in ("provenance", Provenance), ("scope", Scope):
            given = getattr(self, name)
            if given not in tuple(kind):
                raise UsageError(f"{name} {given!r} of an energy is unknown; choose from {', '.join(kind)}")
            object.__setattr__(self, name, kind(given))
        if not isinstance(self.extrapolated, bool):
            raise UsageError(f"extrapolated = {self.extrapolated!r} of an energy must be true or false")
        for name in "total_j", "uncertainty_j":
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        if self.provenance == Provenance.UNAVAILABLE:
            self._check_absence()
        else:
            self._check_figure()

    def _check_absence(self) -> None:
        if (self.total_j, self.uncertainty_j, self.extrapolated) != (None, None, False):
            raise UsageError("an energy that is unavailable has no figure: say where the figure comes from")

    def _check_figure(self) -> None:
        if self.total_j is None:
            raise UsageError(f"an energy that is {self.provenance} needs a figure; without, it is unavailable")
        if self.uncertainty_j is None and self.provenance != Provenance.MODELLED:
            raise UsageError(f"an energy that is {self.provenance} needs its uncertainty (k = 2), in joules")
        if self.uncertainty_j is not None and self.uncertainty_j < 0:
            raise UsageError(f"uncertainty_j = {self.uncertainty_j} of an energy must be 0 or more")
        if self.total_j < -(self.uncertainty_j or 0):
            raise UsageError(f"total_j = {self.total_j} of an energy is below 0 by more than its uncertainty")

    def __add__(self, other: "Energy") -> "Energy":
        """Of both together: the less trusted provenance; extrapolated if one is; no figure where one has none.

        Uncertainties add up as if they went together, as errors of one sensor's gain do: independent ones make less.
        Raises `UsageError` for different scopes, of which one may hold the other.
        """
        if not isinstance(other, Energy):
            return NotImplemented
        if self.scope != other.scope:
            raise UsageError(f"energies of the scopes {self.scope} and {other.scope} do not add up: take one scope")
        provenance = max(self.provenance, other.provenance, key=_TRUST.index)
        if provenance == Provenance.UNAVAILABLE:
            return unavailable(self.scope)
        known = None not in (self.uncertainty_j, other.uncertainty_j)
        return Energy(
            self.total_j + other.total_j,
            self.uncertainty_j + other.uncertainty_j if known else None,
            provenance,
            self.scope,
            self.extrapolated or other.extrapolated,
        )

    def times(self, count: float) -> "Energy":
        """Of `count` such: extrapolated."""
        if self.provenance == Provenance.UNAVAILABLE:
            return self
        if not 0 <= count < math.inf:
            raise UsageError(f"count = {count} of energies must be 0 or more")
        uncertainty = None if self.uncertainty_j is None else self.uncertainty_j * count
        return replace(self, total_j=self.total_j * count, uncertainty_j=uncertainty, extrapolated=True)

    def as_dict(self) -> dict[str, Any]:
        """What `--json` has: `Energy(**energy.as_dict())` is the same."""
        return {name: str(value) if isinstance(value, StrEnum) else value for name, value in asdict(self).items()}

    def __str__(self) -> str:
        """For people: "12.50 J ± 0.25 J at k = 2 (measured, scope board, not extrapolated)"."""
        unknown = ", uncertainty not known" if self.total_j is not None and self.uncertainty_j is None else ""
        return f"{self.figure}{unknown} ({self.labels})"

    @property
    def labels(self) -> str:
        """What must stand beside the number: "measured, scope board, not extrapolated"."""
        return f"{self.provenance}, scope {self.scope}, {'extrapolated' if self.extrapolated else 'not extrapolated'}"

    @property
    def figure(self) -> str:
        """The number alone, for tables that say the rest: "12.50 J ± 0.25 J at k = 2"."""
        if self.total_j is None:
            return "no figure"
        factor, unit = _prefix(abs(self.total_j) or self.uncertainty_j or 0)
        total = self.total_j / factor
        if self.uncertainty_j is None:
            return f"{total:.4g} {unit}"
        uncertainty = self.uncertainty_j / factor
        places = max(0, 1 - math.floor(math.log10(uncertainty))) if uncertainty else 3
        return f"{total:.{places}f} {unit} ± {uncertainty:.{places}f} {unit} at k = 2"


def _number(name: str, value: object) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, bool | str):
        raise UsageError(f"{name} = {value!r} of an energy must be a finite number of joules")
    return number


def _prefix(joules: float) -> tuple[float, str]:
    """The unit in which so many joules are 1 or more."""
    if joules == 0:
        return 1.0, PREFIXES[1.0]
    return next((pair for pair in PREFIXES.items() if joules >= pair[0]), (LEAST_PREFIX, PREFIXES[LEAST_PREFIX]))


def unavailable(scope: Scope = Scope.BOARD) -> Energy:
    """No figure."""
    return Energy(None, None, Provenance.UNAVAILABLE, scope)


JOULES_PER_KWH = 3.6e6


def co2_g(joules: float, g_per_kwh: float) -> float:
    """Grams of CO2 by the factor of a grid, in grams a kilowatt-hour. Raises `UsageError` for no such factor."""
    if not 0 <= g_per_kwh < math.inf:
        raise UsageError(f"grid factor = {g_per_kwh}: give grams of CO2 a kWh, 0 or more")
    return joules / JOULES_PER_KWH * g_per_kwh
