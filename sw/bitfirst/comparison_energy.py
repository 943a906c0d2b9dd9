"""Energy in `bitfirst report`: of each run by a model, and what of a comparison holds if its coefficients are others.

Ratios of counters come first: they need no coefficient. What the host computed in floating point in the device's place
is arithmetic alone, from literature: it stands beside the others, and is ranked with none. Gates are a part of theirs.
"""

from itertools import combinations, product
from typing import Any

import numpy as np
from bitfirst_hdl.config import ArrayConfig

from .energy import Energy, Provenance, co2_g, unavailable
from .energy_model import FACTOR, FLOATING_TERMS, HOST_TERMS, TERMS, EnergyModel, activity
from .errors import UsageError
from .grids import FIXED_BASELINE, REFERENCE, runs_of

SBM = "sbm"
BASELINES = (FIXED_BASELINE, REFERENCE)  #: what energies are compared to: the first of these that there is
COLUMNS = ("energy_j", "energy_provenance", "energy_scope", "energy_extrapolated", "energy_model", "co2_g", "no_energy")
TARGET_COLUMNS = ("energy_j_to_target", "co2_g_to_target")
#: Of what ratios are shown: short names for tables.
RATIOS = {
    "cycles": "cycles",
    "bit_macs_done": "bit-MACs",
    "operand_bits": "operands",
    "fetches": "fetches",
    "words_written": "written",
    "elements_read": "sums",
    "update_cycles": "updates",
    "link_bytes": "link",
}
TO_COUNT = "its training counters are not in the file: train again, on a device that counts (model, not counting=0)"
GATES = "its gates were not counted among its training counters, by an earlier version: train again"

ARITHMETIC = ("bit_macs_done", "bit_macs_gated", *HOST_TERMS)

Row = dict[str, Any]
Parts = dict[str, float]  #: joules by term


def add(rows: list[Row], model: EnergyModel, g_per_kwh: float | None = None) -> None:
    """Gives each run `COLUMNS` ("no_energy": why there is no figure), "energy" (an `Energy`), "energy_parts" and
    "amounts", of its training steps. Raises `UsageError` where no run has a figure.
    """
    for row in rows:
        row |= _of_run(row, model, g_per_kwh)
    reasons = [row["no_energy"] for row in rows if "failed" not in row]
    if all(reasons):
        raise UsageError(f"no energy of any of these runs: {reasons[0] if reasons else 'they failed'}")


def _of_run(row: Row, model: EnergyModel, g_per_kwh: float | None) -> Row:
    why, parts, amounts, energy = None, {}, {}, unavailable(model.scope)
    try:
        amounts = amounts_of(row, (row.get("history") or [{}])[-1])
        parts = model.parts(amounts, config_of(row))
        energy = model.energy(amounts, config_of(row))
    except UsageError as error:
        why = row.get("failed") or str(error)
    told = energy.as_dict()
    return {f"energy_{key}": told[key] for key in ("provenance", "scope", "extrapolated")} | {
        "energy": energy,
        "energy_j": energy.total_j,
        "energy_parts": parts,
        "energy_model": model.name,
        "amounts": amounts,
        "co2_g": _co2(energy, g_per_kwh),
        "no_energy": why,
    }


def config_of(row: Row) -> ArrayConfig:
    """The array that a run was on."""
    if not row.get("config"):
        raise UsageError(TO_COUNT)
    return ArrayConfig(**row["config"])


def amounts_of(row: Row, epoch: Row) -> Parts:
    """`energy_model.activity` of a run's training steps to the end of `epoch`, a row of its history."""
    if not epoch.get("training_counters"):
        raise UsageError(TO_COUNT)
    counters = epoch["training_counters"]
    if "gate_macs" not in counters and any("gate_macs" in told for told in row.get("methods", {}).values()):
        raise UsageError(GATES)
    host = {term: counters[term] for term in HOST_TERMS if term in counters}
    return activity(counters, config_of(row)) | host


def _co2(energy: Energy, g_per_kwh: float | None) -> float | None:
    return None if energy.total_j is None or g_per_kwh is None else co2_g(energy.total_j, g_per_kwh)


def until(row: Row, epoch: Row, model: EnergyModel, g_per_kwh: float | None = None) -> Row:
    """Of a run with `COLUMNS`, `TARGET_COLUMNS` to the end of `epoch`; None where it has no figure."""
    if row["energy_j"] is None:
        return dict.fromkeys(TARGET_COLUMNS)
    energy = model.energy(amounts_of(row, epoch), config_of(row))
    return dict(zip(TARGET_COLUMNS, (energy.total_j, _co2(energy, g_per_kwh)), strict=True))


# a study
def table(summary: Row, model: EnergyModel, g_per_kwh: float | None = None) -> Row:
    """Of a study (`grids.summary`) whose runs `add` was given:

    label     "modelled, scope array, ...": what each figure of it is, by the "model" of this name
    rows      of each variant and size of a batch with a figure, those of the host's floating point last: "variant",
              "batch", "label", "accuracies", "runs"; means of the runs: "energy" as of `Energy.as_dict`, "parts",
              "amounts", "co2_g"; "host": whether the host computed in the device's place
    and, where there is one of `BASELINES` of the same batch ("baseline"), "ratios" of the amounts (None where the
              baseline has none of it), "ratio" of the energies (of the "host": of the arithmetic of both), and "low",
              "high": the least and the most of it with each coefficient between 1 / `FACTOR` and `FACTOR` times its own
    ranking   `ranking` of those of each size of a batch
    """
    rows = [_mean_row(one, summary, model, g_per_kwh) for one in summary["table"]]
    rows = sorted((row for row in rows if row is not None), key=lambda row: row["host"])
    for row in rows:
        row |= _to_baseline(row, [one for one in rows if one["batch"] == row["batch"]])
    ranked = [ranking([row for row in rows if row["batch"] == size]) for size in {row["batch"]: 0 for row in rows}]
    found = {"pairs": sum(one["pairs"] for one in ranked), "turned": [pair for one in ranked for pair in one["turned"]]}
    label = f"{Provenance.MODELLED}, scope {model.scope}, not extrapolated"
    return {"study": summary["study"], "label": label, "model": model.name, "rows": rows, "ranking": found}


def _mean_row(one: Row, summary: Row, model: EnergyModel, g_per_kwh: float | None) -> Row | None:
    own = runs_of(one, summary["rows"])
    own = [row for row in own if row["energy_j"] is not None]
    if not own:
        return None
    amounts = {term: sum(row["amounts"].get(term, 0) for row in own) / len(own) for term in own[0]["amounts"]}
    config = config_of(own[0])
    energy = model.energy(amounts, config)
    return {key: one[key] for key in ("variant", "batch", "label", "accuracies")} | {
        "runs": len(own),
        "energy": energy.as_dict(),
        "parts": model.parts(amounts, config),
        "amounts": amounts,
        "co2_g": _co2(energy, g_per_kwh),
        "host": any(amounts.get(term) for term in FLOATING_TERMS),
        "datapath": config.datapath,
    }


def _to_baseline(row: Row, rows: list[Row]) -> Row:
    named = {one["variant"]: one for one in rows}
    if (single := named.get(SBM)) is not None and single["datapath"] == "fixed":  # a training, of no study
        named.setdefault(FIXED_BASELINE, single)
    baseline = next((named[name] for name in BASELINES if name in named), None)
    if baseline is None:
        return dict.fromkeys(("baseline", "ratios", "ratio", "low", "high"))
    theirs = baseline["amounts"]
    ratios = {term: amount / theirs[term] if theirs.get(term) else None for term, amount in row["amounts"].items()}
    own, other = (_arithmetic(one["parts"]) if row["host"] else one["parts"] for one in (row, baseline))
    if not other:
        return {"baseline": baseline["variant"], "ratios": ratios, "ratio": None, "low": None, "high": None}
    low, high = extremes(own, other)
    ratio = sum(own.values()) / sum(other.values())
    return {"baseline": baseline["variant"], "ratios": ratios, "ratio": ratio, "low": low, "high": high}


def _arithmetic(parts: Parts) -> Parts:
    return {term: joules for term, joules in parts.items() if term.partition(" ")[0] in ARITHMETIC}


# other coefficients
def extremes(ours: Parts, theirs: Parts) -> tuple[float, float]:
    """The least and the most that ours are of theirs, over all coefficients between 1 / `FACTOR` and `FACTOR` times
    their own, each by itself: they are in corners."""
    terms = sorted({*ours, *theirs})
    corners = np.array(list(product((1 / FACTOR, FACTOR), repeat=len(terms))))
    ratios = corners @ _vector(ours, terms) / (corners @ _vector(theirs, terms))
    return float(ratios.min()), float(ratios.max())


def _vector(parts: Parts, terms: list[str]) -> np.ndarray:
    return np.array([parts.get(term, 0.0) for term in terms])


def ranking(rows: list[Row]) -> Row:
    """Which takes less, pair by pair, of rows with "parts" and "label", those of the "host" left out: {"pairs": how
    many, "turned": those that some coefficients between 1 / `FACTOR` and `FACTOR` times their own turn, each {"less",
    "more": labels, "alone": terms of which one coefficient alone does it}}.
    """
    ranked = sorted((row for row in rows if not row["host"]), key=lambda row: sum(row["parts"].values()))
    turned = []
    for less, more in combinations(ranked, 2):
        terms = sorted({*less["parts"], *more["parts"]})
        ahead = _vector(more["parts"], terms) - _vector(less["parts"], terms)  # joules, term by term
        worst = np.minimum(ahead * FACTOR, ahead / FACTOR)
        if worst.sum() <= 0:
            alone = [term for number, term in enumerate(terms) if ahead.sum() - ahead[number] + worst[number] <= 0]
            turned.append({"less": less["label"], "more": more["label"], "alone": alone})
    return {"pairs": len(ranked) * (len(ranked) - 1) // 2, "turned": turned}


# for people
def tables_of(found: Row, with_co2: bool) -> Row:
    """Of `table`, for people: "study", "label", "baseline", "verdict"; "ratios" and "energies", (head, rows); "legend":
    what the columns of the ratios are of."""
    rows, shown = found["rows"], _shown(found["rows"])
    baseline = next((row["baseline"] for row in rows), None)
    sizes = len({row["batch"] for row in rows}) > 1
    names = ("method", "batch") if sizes else ("method",)
    heads = (*names, "n", *(RATIOS[term] for term in shown), "gated"), (*names, *HEAD, *(CO2_HEAD if with_co2 else ()))
    ratios = [_names(row, sizes) + _ratio_cells(row, shown) for row in rows if row["baseline"] and not row["host"]]
    energies = [_names(row, sizes) + _cells(row, with_co2) for row in rows]
    return {key: found[key] for key in ("study", "label")} | {
        "baseline": baseline,
        "verdict": verdict(found) + (ALONE if any(row["host"] for row in rows) else ""),
        "ratios": (heads[0], ratios),
        "energies": (heads[1], energies),
        "legend": [(RATIOS[term], TERMS[term]) for term in shown] + [("gated", GATED)],
    }


HEAD = ("energy", "most of it", "ratio", "x 2, / 2")
CO2_HEAD = ("CO2, g",)
ALONE = " *: of the arithmetic alone, of both; floating point on the host is ranked with none."
GATED = "share of the products of 1 x 1 bit whose elements had nothing to finish, of its own: no ratio"


def _shown(rows: list[Row]) -> list[str]:
    return [term for term in RATIOS if any((row["ratios"] or {}).get(term) for row in rows)]


def _names(row: Row, sizes: bool) -> list[str]:
    name = row["variant"] + (" (arithmetic)" if row["host"] else "")
    return [name, str(row["batch"])] if sizes else [name]


def _ratio_cells(row: Row, shown: list[str]) -> list[str]:
    ratios, amounts = [row["ratios"].get(term) for term in shown], row["amounts"]
    possible = amounts["bit_macs_done"] + amounts["bit_macs_gated"]
    gated = f"{amounts['bit_macs_gated'] / possible:.1%}" if possible else "-"
    return [str(row["runs"]), *("-" if one is None else f"{one:.3f}" for one in ratios), gated]


def _cells(row: Row, with_co2: bool) -> list[str]:
    total = row["energy"]["total_j"]
    term, joules = max(row["parts"].items(), key=lambda part: part[1], default=("", 0.0))
    found = [
        Energy(**row["energy"]).figure,
        f"{RATIOS.get(term, term.partition(' ')[0].replace('_', ' '))} {joules / total:.0%}" if total else "-",
        "-" if row["ratio"] is None else f"{row['ratio']:.3f}" + ("*" if row["host"] else ""),
        "-" if row["ratio"] is None else f"{row['low']:.2f} .. {row['high']:.2f}",
    ]
    return [*found, "-" if row["co2_g"] is None else f"{row['co2_g']:.3g}"] if with_co2 else found


def verdict(found: Row) -> str:
    """Whether the ranking survives other coefficients, in words."""
    pairs, turned = found["ranking"]["pairs"], found["ranking"]["turned"]
    if not pairs:
        return "There is nothing to rank."
    span = f"with every coefficient anywhere between 1/{FACTOR:g} and {FACTOR:g} times its own, all at once"
    if not turned:
        return f"The ranking survives: all {pairs} pairs keep their order {span}."
    alone = [pair for pair in turned if pair["alone"]]
    text = f"The ranking does not survive as a whole: {len(turned)} of {pairs} pairs may turn {span}; "
    return text + f"{len(alone)} of them by one coefficient alone. May turn: " + "; ".join(map(_pair, turned)) + "."


def _pair(pair: Row) -> str:
    alone = f" ({', '.join(pair['alone'])} alone)" if pair["alone"] else ""
    return f"{pair['less']} < {pair['more']}{alone}"
