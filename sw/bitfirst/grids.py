"""Studies that compare methods: runs over methods, batch sizes and seeds, on Dask; each is kept as soon as it is done.

Digits show mechanics: what a method saves, and that it trains. What they say of accuracy is no claim; nor is what
networks say that are not trained far enough (`note`).
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

import bitfirst

from . import data, models, training
from .device import Device
from .errors import UsageError
from .training import Meter, TrainOptions

VERSION = 1  #: of the file
FILE = "study.sqlite"
CIFAR_BATCH = 4
TRAINED = 0.8  #: accuracy of the reference below which nothing is ranked
TIMEOUT = "10s"  #: for a scheduler to answer
REFERENCE = "sgd"
WORK = "0.6666667"
BOARDS = ("serial", "udp", "usb")  #: devices of which a worker has one: it offers the resource `board`


@dataclass(frozen=True)
class Grid:
    """methods  by the name that tables have, as the command line takes them; `REFERENCE` is what differences are to
    batches  sizes of a batch
    """

    methods: dict[str, str]
    batches: tuple[int, ...] = (32,)


GRIDS = {
    "smd": Grid(
        {
            REFERENCE: "sgd",
            "smd": f"smd:p=0.5,work={WORK}",
            "smb scaled": f"smb:work={WORK}",
            "smb truncated": f"smb:work={WORK},schedule=truncated",
            "smb raised": f"smb:work={WORK},schedule=raised",
        },
        (16, 32, 64),
    ),
    "slu": Grid(
        {REFERENCE: "sgd", "slu": "slu:skip=0.4", "stochastic depth": "sd:last=0.5", "skipnet": "skipnet"},
    ),
    "pfq": Grid(
        {
            REFERENCE: "sgd",
            "sbm": "sbm",
            "static 8/8": "static",
            "pfq": "pfq:every=11,epsilon=0.1,alpha=0.8",
            "by hand": "byhand",
            "by hand, reversed": "byhand:order=reversed",
            "by hand, random": "byhand:order=random",
            "cpt": "cpt",
            "8 then 12": "int8int12",
        },
    ),
    "components": Grid(
        {
            REFERENCE: "sgd",
            "smd": f"smd:work={WORK}",
            "slu": "slu",
            "psg": "psg",
            "smd + slu": f"smd:work={WORK}+slu",
            "slu + psg": "slu+psg",
            "e2train": "e2train",
            "e2train + swa": "e2train:swa=true",
        },
    ),
}


def configurations(name: str, seeds: int, device: str, epochs: int, images: str | None = None) -> list[dict[str, Any]]:
    """What each run is told, seed by seed: the name of its row, folder of `images` (None: the digits), and options of
    `TrainOptions`. A batch of CIFAR-10's is `CIFAR_BATCH` times as large.
    """
    grid = GRIDS[name]
    common = {"device": device, "epochs": epochs} | ({} if images is None else {"images": images})
    return [
        {"variant": variant, "method": method, "seed": seed, "batch": batch} | common
        for seed in range(seeds)
        for batch in (size if images is None else CIFAR_BATCH * size for size in grid.batches)
        for variant, method in grid.methods.items()
    ]


def run_one(configuration: dict[str, Any]) -> dict[str, Any]:
    """One training, judged by the validation split: what came of it."""
    options = TrainOptions(**{key: value for key, value in configuration.items() if key not in ("variant", "images")})
    started, splits = time.monotonic(), splits_of(configuration.get("images"))
    network = models.digits_resnet if configuration.get("images") is None else models.resnet8
    try:
        with training.host_settings(options.threads), bitfirst.open(options.device) as board:
            run = training.new_run(options, board, network)
            work = _Work(board)
            training.fit(run, splits, options, work.step, work.epoch)
            net = run.method.result(run.net, data.batches(splits.train, options.batch, options.seed, 0))
            accuracy = run.history[-1]["validation_accuracy"]
            if net is not run.net:  # such as a mean of weights
                accuracy = training.evaluate(net, splits.validation)
            counters = _counters(run.meter)
    except UsageError as error:  # it diverged: what failed is told, too
        return {"failed": str(error), "wall_s": time.monotonic() - started}
    return {
        "accuracy": accuracy,
        "loss": run.history[-1]["loss"],
        "training_bit_macs": work.done,
        "counters": counters,
        "methods": {part.name: part.summary() for part in run.method.parts},
        "history": run.history,
        "weights_sha256": training.weights_sha256(net),
        "wall_s": time.monotonic() - started,
    }


@cache
def splits_of(images: str | None) -> data.Splits:
    """The digits; or of a folder with JPEG copies of CIFAR-10, 20,000 images to train (`data.cifar`)."""
    return data.digits() if images is None else data.cifar(Path(images))


class _Work:
    """Bit-MACs of the training steps alone (`done`), without those of evaluation."""

    def __init__(self, device: Device) -> None:
        self.device, self.done = device, 0
        self._before = device.bit_macs

    def step(self, *_: object) -> None:
        self.done += self.device.bit_macs - self._before
        self.epoch()

    def epoch(self, *_: object) -> None:
        self._before = self.device.bit_macs


def _counters(meter: Meter) -> dict[str, int]:
    return meter.read() if meter.device.counting else {"bit_macs": meter.device.bit_macs}


# the file
class Runs:
    """Runs in an SQLite file, one row each. Raises `UsageError` for a file of something else, or of another version."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._database = path, sqlite3.connect(path)
        try:
            (found,) = self._database.execute("PRAGMA user_version").fetchone()
            (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError:
            self.close()
            raise UsageError(f"{path} is no file of a study: choose another --out") from None
        if tables and found != VERSION:
            self.close()
            raise UsageError(f"{path} was written by another version ({found}, not {VERSION}): choose another --out")
        if not tables:
            columns = "id TEXT PRIMARY KEY, study TEXT, configuration TEXT, versions TEXT, split TEXT, result TEXT"
            self._database.execute(f"CREATE TABLE runs ({columns})")
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._database.commit()

    def close(self) -> None:
        self._database.close()

    def add(self, study: str, configuration: dict[str, Any], result: dict[str, Any]) -> None:
        versions = {"bitfirst": version("bitfirst"), "torch": torch.__version__}
        row = study, configuration, versions, {"seed": data.SPLIT_SEED, "reported": "validation"}, result
        texts = [part if isinstance(part, str) else json.dumps(part) for part in row]
        self._database.execute("INSERT INTO runs VALUES (?, ?, ?, ?, ?, ?)", (identity(configuration), *texts))
        self._database.commit()

    def all(self, study: str) -> list[dict[str, Any]]:
        """What runs were told, and what came of them, in one dictionary each; as they came."""
        rows = self._database.execute(
            "SELECT configuration, result FROM runs WHERE study = ? ORDER BY rowid", (study,)
        ).fetchall()
        return [json.loads(configuration) | json.loads(result) for configuration, result in rows]

    def studies(self) -> list[str]:
        """Names, as they came."""
        names = self._database.execute("SELECT study FROM runs GROUP BY study ORDER BY min(rowid)")
        return [name for (name,) in names]

    def known(self) -> set[str]:
        return {one for (one,) in self._database.execute("SELECT id FROM runs")}


def identity(configuration: dict[str, Any]) -> str:
    """Equal for equal runs."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


# workers
@contextmanager
def cluster(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A Dask client: of the scheduler at this address, or of `workers` processes here (one: in this process)."""
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=TIMEOUT)
        except (OSError, ValueError) as error:
            reason = str(error) or "no answer"
            raise UsageError(
                f"no Dask scheduler answers at {scheduler} ({reason}): start one, or leave it out"
            ) from None
        with client:
            yield client
        return
    local = LocalCluster(
        n_workers=workers, threads_per_worker=1, processes=workers > 1, dashboard_address=":0", memory_limit=None
    )
    with local, Client(local) as client:
        yield client


def study(
    name: str,
    seeds: int,
    out: Path,
    device: str = "model?counting=0",
    epochs: int = 6,
    scheduler: str | None = None,
    workers: int = 1,
    images: str | None = None,
    tell: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """All runs of `GRIDS[name]` that `out`/`FILE` does not have yet; then `summary`.

    Runs are kept as they come, so that a study that was stopped goes on. Raises `UsageError` for an unknown name, fewer
    than 2 seeds, and a file that is not a study's.
    """
    if name not in GRIDS:
        raise UsageError(f"study {name!r} is unknown; choose from {', '.join(GRIDS)}")
    if seeds < 2 or epochs < 1 or workers < 1:
        raise UsageError(f"seeds = {seeds}, epochs = {epochs}, workers = {workers}: choose at least 2, 1 and 1")
    wanted = configurations(name, seeds, device, epochs, images)
    if images is not None:
        splits_of(images)  # what is wrong with them is said before anything begins
    runs = Runs(out / FILE)
    try:
        known = runs.known()
        missing = [one for one in wanted if identity(one) not in known]
        tell(f"{len(wanted)} runs, {len(missing)} to do")
        if missing:
            with cluster(scheduler, workers) as client:
                for configuration, result in finished(client, missing):
                    runs.add(name, configuration, result)
                    how = result.get("failed") or f"validation accuracy {result['accuracy']:.2%}"
                    tell("{variant}, batch {batch}, seed {seed}: ".format(**configuration) + how)
        ids = {identity(one) for one in wanted}
        keys = wanted[0].keys()
        rows = [row for row in runs.all(name) if identity({key: row[key] for key in keys if key in row}) in ids]
    finally:
        runs.close()
    return summary(name, rows) | {"file": str(out / FILE)}


def finished(client: Any, missing: list[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each configuration with its result, as soon as it is there."""
    from distributed import as_completed

    board = missing[0]["device"].partition(":")[0] in BOARDS
    resources = {"board": 1} if board else None
    futures = {client.submit(run_one, one, pure=False, resources=resources): one for one in missing}
    for future in as_completed(list(futures)):
        yield futures[future], future.result()


# comparison
def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{"study", "rows", "table", "note"}: a row of the table for each variant and size of a batch, with every seed's
    accuracy, and where there are two or more the mean difference to the reference of the same seed with its 95 %
    interval; `work` is that of its training steps, as a share of the reference's.
    """
    table = []
    for variant, batch in dict.fromkeys((row["variant"], row["batch"]) for row in rows):
        own = [row for row in rows if (row["variant"], row["batch"]) == (variant, batch)]
        reference = {row["seed"]: row for row in rows if (row["variant"], row["batch"]) == (REFERENCE, batch)}
        table.append({"variant": variant, "batch": batch, **_compared(own, reference)})
    table.sort(key=lambda row: (row["batch"], row["variant"] != REFERENCE, row["variant"]))
    return {"study": name, "rows": rows, "table": table, "note": note(rows, table)}


def note(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> str:
    """What the table claims."""
    if any(row.get("images") is None for row in rows):
        return "digits: mechanics, no claim of accuracy"
    best = max((row["accuracy"] or 0.0 for row in table if row["variant"] == REFERENCE), default=0.0)
    return f"{REFERENCE} reaches {best:.1%}" + ("" if best >= TRAINED else ": under-trained, no ranking claimed")


def _compared(rows: list[dict[str, Any]], reference: dict[int, dict[str, Any]]) -> dict[str, Any]:
    done = sorted((row for row in rows if "failed" not in row), key=lambda row: row["seed"])
    found: dict[str, Any] = {
        "seeds": len(rows),
        "failed": len(rows) - len(done),
        "accuracies": [row["accuracy"] for row in done],
        "accuracy": _mean([row["accuracy"] for row in done]),
        "bit_macs": _mean([row["training_bit_macs"] for row in done]),
        "work": None,
        "difference": None,
        "difference_interval": None,
    }
    pairs = [(row, reference[row["seed"]]) for row in done if "accuracy" in reference.get(row["seed"], {})]
    if pairs:
        ours, theirs = (sum(row["training_bit_macs"] for row in part) for part in zip(*pairs, strict=True))
        found["work"] = ours / theirs if theirs else None
    if len(pairs) > 1:
        mean, low, high = training.interval([row["accuracy"] - other["accuracy"] for row, other in pairs])
        found |= {"difference": mean, "difference_interval": [low, high]}
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
