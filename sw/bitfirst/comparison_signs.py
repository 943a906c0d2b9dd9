"""Predicted signs in `bitfirst report`: how many the first bits decide, how many of them wrongly, and E2-Train's bound
of the chance of a wrong sign, eq. (3), by layer over the sampled steps of the training (`signs.sample`).
"""

from statistics import fmean
from typing import Any

from .grids import runs_of

Row = dict[str, Any]
#: Name in the rows of a run's signs -> title.
SHARES = {
    "resolved": "resolved",
    "wrong_resolved": "wrong of these",
    "wrong_overall": "wrong of all",
    "wrong_fp32": "other than fp32's",
    "exact_wrong_fp32": "exact ones other than fp32's",
    "bound_median": "bound: median",
    "bound_mean": "mean of min(1, bound)",
    "bound_vacuous": "bounds of 1 or more",
    "bound_tau": "with the threshold",
}
HEAD = ("method", "batch", "seeds", *SHARES.values())
ABOUT = (
    "mean of the layers (least .. most of a layer), each the mean of its sampled steps in the seeds that tell of them"
)


def table(summary: Row) -> list[list[str]]:
    """Of a study (`grids.summary`): cells for `HEAD` of each row of its table whose runs predicted signs."""
    found = []
    for one in summary["table"]:
        runs = [samples for row in runs_of(one, summary["rows"]) if (samples := _predicted(row))]
        if runs:
            seen = [sample for samples in runs for sample in samples]
            cells = (_cell(seen, name) for name in SHARES)
            found.append([one["variant"], str(one["batch"]), str(len(runs)), *cells])
    return found


def _predicted(row: Row) -> list[Row]:
    """Its samples, but for those of exact signs, which have no bound."""
    return [one for one in row.get("signs", {}).get("rows", ()) if one.get("bound_median") is not None]


def _cell(seen: list[Row], name: str) -> str:
    layers: dict[str, list[float]] = {}
    for sample in seen:
        if sample[name] is not None:
            layers.setdefault(sample["layer"], []).append(sample[name])
    means = [fmean(values) for values in layers.values()]
    return f"{fmean(means):.3f} ({min(means):.3f} .. {max(means):.3f})" if means else "-"
