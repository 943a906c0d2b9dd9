"""Coefficients of energy (`energy_model`) fitted to windows of a board: what its counters grew by, and its joules."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
from bitfirst_hdl.config import ArrayConfig

from .energy import Energy, Provenance, Scope
from .energy_model import HOST_TERMS, SHAPE, TERMS, Counts, EnergyModel, activity
from .errors import UsageError

#: In windows of one array "operand_bits" are in proportion to the bit-MACs done and gated: no fit tells them apart.
FITTED = tuple(name for name in TERMS if name not in ("operand_bits", *HOST_TERMS))
K = 2.0  #: of uncertainties and intervals
LEAST_RATIO = 1e-6  #: of the smallest to the largest singular value of what is told apart
LEAST_PART = 0.1  #: of a term in what is not
LEAST_CHANCE = 1e-3  #: of residuals as large as these, if the model is right and the uncertainties are


@dataclass(frozen=True)
class Fit:
    """model      what was fitted; its `save` writes the file
    intervals  by term, joules: from .. to at k = 2, never below 0
    residuals  by window, joules: measured less modelled
    chi_square, degrees
               of the residuals over their uncertainties, and of freedom; where their ratio is above 1 the intervals
               have been widened by its root
    chance     of residuals as large as these or larger, if terms and uncertainties are right
    """

    model: EnergyModel
    intervals: dict[str, tuple[float, float]]
    residuals: list[float]
    chi_square: float
    degrees: int
    chance: float

    @property
    def is_consistent(self) -> bool:
        """Whether the residuals are such as the uncertainties let expect. If not, something takes energy that no term
        counts, or an uncertainty was stated too small."""
        return self.chance >= LEAST_CHANCE

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        coefficients = {
            term: {"joules": given, "low": self.intervals[term][0], "high": self.intervals[term][1]}
            for term, given in self.model.joules.items()
        }
        found = {"model": self.model.as_dict(), "coefficients": coefficients, "residuals_j": self.residuals}
        found |= {"chi_square": self.chi_square, "degrees": self.degrees, "chance": self.chance}
        return found | {"consistent": self.is_consistent}


def fit(
    windows: Sequence[Counts],
    energies: Sequence[Energy],
    config: ArrayConfig,
    name: str,
    terms: Sequence[str] | None = None,
    leaves_out: Sequence[str] = (),
    gain: float = 0.0,
    offset_j: float = 0.0,
) -> Fit:
    """Weighted least squares with coefficients of 0 or more.

    windows     counters of each, grown in it, of a device with `config`
    energies    of each: measured or simulated, of one scope, with their uncertainties
    name        of the set: such as the board's
    terms       of `FITTED`; None: all that some window has, without `leaves_out`
    leaves_out  terms that the set is used without though there is something of them, such as "link_bytes" after
                windows in which the link was silent
    gain, offset_j
                standard uncertainties that all windows have in common and `energies` are without: relative, as of one
                sensor's gain, and joules a cycle, as of its offset; no number of windows makes them less

    Raises `UsageError`, naming the terms, where windows do not tell them apart, and for energies that are no
    measurement.
    """
    from scipy import optimize, stats  # slow to import

    scope, provenance = _checked(windows, energies)
    terms = None if terms is None else list(terms)
    amounts = [activity(window, config) for window in windows]
    if terms is None:
        terms = [term for term in FITTED if term not in leaves_out and any(row.get(term) for row in amounts)]
    if scope == Scope.ARRAY:
        terms = [term for term in terms if term != "cycles"]
    table = np.array([[_amount(row, term) for term in terms] for row in amounts], float)
    joules, sigma = (
        np.array(values, float)
        for values in zip(*((one.total_j, one.uncertainty_j / K) for one in energies), strict=True)
    )
    rows, wanted = table / sigma[:, None], joules / sigma
    sizes = _told_apart(rows, terms)
    scaled, _ = optimize.nnls(rows / sizes, wanted)
    found = scaled / sizes
    residuals = joules - table @ found
    chi_square, degrees = float(np.sum((residuals / sigma) ** 2)), len(energies) - len(terms)
    covariance = np.linalg.inv((rows / sizes).T @ (rows / sizes)) / np.outer(sizes, sizes)
    covariance *= max(1.0, chi_square / degrees)
    covariance += gain**2 * np.outer(found, found)
    if "cycles" in terms:
        covariance[terms.index("cycles"), terms.index("cycles")] += offset_j**2
    half = K * np.sqrt(covariance.diagonal())
    model = EnergyModel(
        name,
        f"Fitted to {len(energies)} windows, without {', '.join(_without(terms, leaves_out))}.",
        f"fitted to windows of {name}, {provenance}",
        scope,
        dict(zip(terms, map(float, found), strict=True)),
        config={key: getattr(config, key) for key in SHAPE},
        covariance={"terms": list(terms), "joules2": covariance.tolist()},
        leaves_out=_without(terms, leaves_out),
    )
    return Fit(
        model,
        {
            term: (max(0.0, one - by), one + by)
            for term, one, by in zip(terms, model.joules.values(), half, strict=True)
        },
        residuals.tolist(),
        chi_square,
        degrees,
        float(stats.chi2.sf(chi_square, degrees)),
    )


def _without(terms: Sequence[str], leaves_out: Sequence[str]) -> tuple[str, ...]:
    """ "operand_bits" are in the coefficients of bit-MACs; gates are in no window of the board."""
    return tuple(dict.fromkeys(("operand_bits", "gate_macs", *leaves_out)))


def _checked(windows: Sequence[Counts], energies: Sequence[Energy]) -> tuple[Scope, Provenance]:
    """What they all are of, and the least trusted of where they come from."""
    if not energies or len(windows) != len(energies):
        raise UsageError(f"{len(windows)} windows and {len(energies)} energies: give one of each, and some")
    for number, one in enumerate(energies):
        if one.provenance not in (Provenance.MEASURED, Provenance.SIMULATED):
            raise UsageError(f"the energy of window {number} is {one.provenance}: fit to what sensors told")
        if not one.uncertainty_j:
            raise UsageError(f"the energy of window {number} has an uncertainty of 0, which no sensor has")
    total = reduce(Energy.__add__, energies)  # refuses different scopes
    return total.scope, total.provenance


def _amount(row: Counts, term: str) -> float:
    if term not in FITTED:
        raise UsageError(f"term {term!r} cannot be fitted; choose from {', '.join(FITTED)}")
    return row.get(term, 0)


def _told_apart(rows: np.ndarray, terms: Sequence[str]) -> np.ndarray:
    """Sizes of the columns. Raises `UsageError` where windows do not tell terms apart."""
    sizes = np.linalg.norm(rows, axis=0)
    absent = [term for term, size in zip(terms, sizes, strict=True) if size == 0]
    if absent or not terms:
        raise UsageError(f"no window has any {' or '.join(absent or FITTED)}: measure some that do, or fit without")
    if len(rows) <= len(terms):
        raise UsageError(
            f"{len(rows)} windows for {len(terms)} coefficients leave nothing to judge the fit by: measure more, of "
            "different work"
        )
    _, values, directions = np.linalg.svd(rows / sizes, full_matrices=False)
    if values[-1] < LEAST_RATIO * values[0]:
        alike = [term for term, part in zip(terms, directions[-1], strict=True) if abs(part) > LEAST_PART]
        raise UsageError(
            f"these windows do not tell {' from '.join(alike)}: they grow in proportion; measure windows in which they "
            "do not, or fit without one"
        )
    return sizes
