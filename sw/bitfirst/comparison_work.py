"""Columns of `bitfirst report` that some runs alone can fill: what they took beside bit-MACs. None is shown that no run
fills.
"""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from .grids import runs_of

Row = dict[str, Any]


@dataclass(frozen=True)
class Column:
    """title     in tables of methods, whose cells are the figures of the runs, `combined` and `shown`
    of        a run that is done: its figure, None where it does not tell
    """

    title: str
    of: Callable[[Row], float | None]
    shown: Callable[[float], str]
    combined: Callable[[list[float]], float] = fmean


def of_host(history: list[Row], name: str) -> int | None:
    """In the first step of the last epoch that had one."""
    return next((one["host"][name] for one in reversed(history) if "host" in one), None)


def _of_training(name: str) -> Callable[[Row], int | None]:
    """None where the device did nothing, too."""
    return lambda row: (row.get("history") or [{}])[-1].get(name) or None


def _buckets(row: Row) -> float | None:
    parts = row.get("methods", {}).values()
    return next((part["buckets"] for part in parts if part.get("buckets") is not None), None)


def _gates(row: Row) -> int | None:
    """MACs of gates, on the host, in training and evaluation; None for methods without, such as those that choose at
    random."""
    found = [part["gate_macs"] for part in row.get("methods", {}).values() if "gate_macs" in part]
    return sum(found) if found else None


def _cycles(row: Row) -> int | None:
    """Of matrix products in training steps, where the device counts them."""
    return (row.get("history") or [{}])[-1].get("training_counters", {}).get("matmul_cycles") or None


def millions(count: float) -> str:
    return f"{count / 1e6:.3g}"


#: By the name that runs.csv has.
COLUMNS = {
    "training_macs": Column("MACs, G", _of_training("training_macs"), lambda macs: f"{macs / 1e9:.3g}"),
    "largest_bits": Column("largest bits", _of_training("largest_bits"), str, max),
    "buckets": Column("buckets in a block", _buckets, "{:.2f}".format),
    "matmul_cycles": Column("cycles of products, M", _cycles, millions),
    "gate_macs": Column("gates on the host, M MACs", _gates, millions),
    "host_flops": Column("host, MFLOPs a step", lambda row: of_host(row.get("history", []), "flops"), millions),
    "host_bytes": Column("host, MB a step", lambda row: of_host(row.get("history", []), "bytes"), millions),
}


def add(rows: list[Row]) -> tuple[str, ...]:
    """Gives runs the `COLUMNS` that they tell of; the names of those that some run has."""
    for row in rows:
        found = {name: column.of(row) for name, column in COLUMNS.items()}
        row |= {name: one for name, one in found.items() if one is not None}
    return tuple(name for name in COLUMNS if any(name in row for row in rows))


def table(summary: Row) -> tuple[tuple[str, ...], list[list[str]]]:
    """Of a study (`grids.summary`) whose runs `add` was given: titles, and cells for each row of its table."""
    rows = [_means(one, summary["rows"]) for one in summary["table"]]
    names = [name for name in COLUMNS if any(name in row for row in rows)]
    cells = [[COLUMNS[name].shown(row[name]) if name in row else "-" for name in names] for row in rows]
    return tuple(COLUMNS[name].title for name in names), cells


def _means(one: Row, runs: list[Row]) -> dict[str, float]:
    own = runs_of(one, runs)
    told = {name: [row[name] for row in own if name in row] for name in COLUMNS}
    return {name: COLUMNS[name].combined(values) for name, values in told.items() if values}
