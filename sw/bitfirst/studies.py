"""Studies of what predicted signs do to training: several seeds, paired, with controls that must fail.

A pair is a variant and the exact `SignSGD` with the same seed: same initial weights, same batches in the same order.
Each row is kept in a file as soon as it is known, so that an interrupted study goes on.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

import bitfirst

from . import data, models, training
from .device import Device
from .errors import UsageError
from .methods import PSG, SignSGD
from .nn import convert, signers
from .signs import COUNTS, Journal
from .training import Meter, Run, TrainOptions

REFERENCE = "signsgd"
MARGIN = 0.01  #: of test accuracy
FLIPS = 0.25
ROWS = "rows.jsonl"


@dataclass(frozen=True)
class Variant:
    """A way to train. `spoil`, of the converted network and the seed, makes a control of it.

    expected  "within": the interval of the difference to the reference must lie within `MARGIN`; "below": all of it
              below -`MARGIN`; None: it is only shown
    """

    method: SignSGD
    spoil: Callable[[nn.Module, int], None] | None = None
    expected: str | None = None


def flip(net: nn.Module, seed: int) -> None:
    """Turns a quarter of the signs, at random."""
    generator = torch.Generator().manual_seed(seed)

    def turned(gradient: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(gradient.shape, generator=generator) < FLIPS, -gradient, gradient)

    for layer in _signed_layers(net):
        layer.weight.register_hook(turned)


def freeze(net: nn.Module, seed: int) -> None:
    """The convolutions keep their initial weights."""
    for layer in _signed_layers(net):
        layer.weight.requires_grad_(False)


def _signed_layers(net: nn.Module) -> list[nn.Module]:
    return [net.get_submodule(name) for name in signers(net)]


VARIANTS = {
    REFERENCE: Variant(SignSGD()),
    "psg": Variant(PSG(), expected="within"),
    "4x10 floor": Variant(PSG(predictor="4x10 floor"), expected="below"),
    "beta 0": Variant(PSG(beta=0.0)),
    "lagged": Variant(PSG(tau="lagged")),
    "flips": Variant(SignSGD(), flip),
    "frozen": Variant(SignSGD(), freeze, "below"),
}


@dataclass(frozen=True)
class Task:
    """What is learnt: network, options (seed and output left open), and images, which are loaded when needed."""

    name: str
    network: Callable[[], nn.Module]
    options: TrainOptions
    images: Callable[[], data.Splits]

    @property
    def identity(self) -> dict[str, Any]:
        """What rows of one file have in common."""
        names = "epochs", "batch", "lr", "lr_signs", "momentum", "threads"
        bits = asdict(self.options.bits)
        return {"task": self.name, **{name: getattr(self.options, name) for name in names}, "bits": bits}


def digits_task() -> Task:
    """The network of `bitfirst train`, six epochs."""
    return Task("digits", models.digits_resnet, TrainOptions(method=REFERENCE), data.digits)


def cifar_task(folder: Path) -> Task:
    """ResNet-8 and 20,000 images of CIFAR-10 (JPEG copy) in `folder`: 312 steps of 128."""
    options = TrainOptions(method=REFERENCE, epochs=2, batch=128)
    return Task("cifar", models.resnet8, options, lambda: data.cifar(folder))


def train_one(
    task: Task, variant: Variant, seed: int, splits: data.Splits, device: Device, watch: training.Watch, name: str
) -> dict[str, Any]:
    """One training and its test. `name` is shown."""
    options = replace(task.options, seed=seed)
    started = time.monotonic()
    with training.host_settings(options.threads):
        torch.manual_seed(seed)
        net = convert(task.network(), device, variant.method, bits=options.bits, inplace=True)
        optimizer = training.optimizer_of(net, variant.method, options)
        if variant.spoil is not None:
            variant.spoil(net, seed)
        run = Run(name, net, variant.method, optimizer, Meter(device), Journal(samples=0))
        training.fit(run, splits, options, watch.step, watch.epoch)
        accuracy = training.evaluate(net, splits.test)
    layers = run.journal.layers(net).values()
    done, saved, resolved, decided = (sum(counts[key] for counts in layers) for key in COUNTS)
    return {
        "test_accuracy": accuracy,
        "validation_accuracy": run.history[-1]["validation_accuracy"],
        "loss": run.history[-1]["loss"],
        "resolved": resolved / decided if decided else None,
        "dw_work": done / (done + saved) if done else None,
        "step_work": run.journal.step["done"] / sum(run.journal.step.values()),
        "weights_sha256": training.weights_sha256(net),
        "wall_s": time.monotonic() - started,
    }


# rows
def read_rows(path: Path, identity: dict[str, Any]) -> list[dict[str, Any]]:
    """Those that an earlier call kept. Raises `UsageError` when they are of another study, or damaged."""
    if not path.exists():
        return []
    try:
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        known = [row.pop("study") for row in rows]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UsageError(f"{path} holds no rows of a study: delete it, or choose another --out") from None
    if any(one != identity for one in known):
        raise UsageError(f"{path} holds rows of another study: choose another --out")
    return rows


def _keep(path: Path, identity: dict[str, Any], row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({"study": identity, **row}) + "\n")


def study_psg(
    task: Task,
    seeds: int,
    out: Path,
    device: str = "model?counting=0",
    chosen: tuple[str, ...] = tuple(VARIANTS),
    console: Console | None = None,
) -> dict[str, Any]:
    """Trains all `chosen` variants with seeds 0 to `seeds` - 1, seed by seed, and compares.

    Rows are kept in `out`/rows.jsonl; those already there are not trained again. Returns `summary`. Raises `UsageError`
    for unknown variants, fewer than 2 seeds, and rows of another study.
    """
    unknown = [name for name in chosen if name not in VARIANTS]
    if unknown:
        raise UsageError(f"variant {unknown[0]!r} is unknown; choose from {', '.join(VARIANTS)}")
    if seeds < 2:
        raise UsageError(f"{seeds} seeds: an interval needs at least two")
    path = out / ROWS
    rows = read_rows(path, task.identity)
    known = {(row["variant"], row["seed"]) for row in rows}
    names = [REFERENCE, *(name for name in chosen if name != REFERENCE)]
    missing = [(name, seed) for seed in range(seeds) for name in names if (name, seed) not in known]
    if missing:
        splits = task.images()
        with bitfirst.open(device) as board, training.Watch(console or Console(stderr=True)) as watch:
            for number, (name, seed) in enumerate(missing, 1):
                title = f"{number} of {len(missing)}: {name}, seed {seed}"
                found = train_one(task, VARIANTS[name], seed, splits, board, watch, title)
                rows.append({"variant": name, "seed": seed, **found})
                _keep(path, task.identity, rows[-1])
                watch.finish(title)
    return summary(task, [row for row in rows if row["variant"] in names and row["seed"] < seeds])


# comparison
def summary(task: Task, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{"task", "options", "margin", "rows", "table", "passed"}.

    A row of `table` for each variant: its means, and the mean `difference` of test accuracy to the reference's of the
    same seed with its 95 % interval; `as_expected` as `Variant` has it. `passed` when all that are expected are.
    """
    reference = {row["seed"]: row for row in rows if row["variant"] == REFERENCE}
    table = []
    for name in dict.fromkeys(row["variant"] for row in rows):
        own = [row for row in rows if row["variant"] == name and row["seed"] in reference]
        table.append(_table_row(name, own, reference))
    verdicts = [row["as_expected"] for row in table if row["as_expected"] is not None]
    return {
        "task": task.name,
        "options": task.identity,
        "margin": MARGIN,
        "rows": rows,
        "table": table,
        "passed": bool(verdicts) and all(verdicts),
    }


def _table_row(name: str, rows: list[dict[str, Any]], reference: dict[int, dict[str, Any]]) -> dict[str, Any]:
    def mean(key: str) -> float | None:
        values = [row[key] for row in rows]
        return None if None in values else sum(values) / len(values)

    keys = "test_accuracy", "validation_accuracy", "loss", "resolved", "dw_work", "step_work"
    row = {"variant": name, "seeds": len(rows), **{key: mean(key) for key in keys}}
    row |= {"difference": None, "difference_interval": None, "expected": VARIANTS[name].expected, "as_expected": None}
    if name == REFERENCE or len(rows) < 2:
        return row
    difference, low, high = training.interval(
        [one["test_accuracy"] - reference[one["seed"]]["test_accuracy"] for one in rows]
    )
    met = {"within": low >= -MARGIN and high <= MARGIN, "below": high < -MARGIN}.get(row["expected"])
    return row | {"difference": difference, "difference_interval": [low, high], "as_expected": met}
