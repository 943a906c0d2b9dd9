"""Studies that compare methods: runs over methods, batch sizes and seeds, on Dask; each is kept as soon as it is done.

Digits show mechanics: what a method saves, and that it trains. What they say of accuracy is no claim; nor is what
networks say that are not trained far enough (`note`).
"""

import copy
import hashlib
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from bitfirst_hdl import config as hardware
from torch import nn

import bitfirst

from . import data, models, observed, training
from .device import Device
from .errors import BitfirstError, LinkError, UsageError
from .training import Meter, TrainOptions

DIGITS, CIFAR = "digits", "cifar10 (JPEG copy), 20000"  #: images of a study
NETWORKS: dict[str, Callable[[], nn.Module]] = {DIGITS: models.digits_resnet, CIFAR: models.resnet8}
VERSION = 2  #: of the file
FILE = "study.sqlite"
CIFAR_BATCH = 4
TRAINED = 0.8  #: accuracy of ordinary training below which nothing is ranked
TIMEOUT = "10s"  #: for a scheduler to answer
HERE = "127.0.0.1"  #: where a cluster of this machine listens
REFERENCE, FLOAT = "sgd", "fp32"
FIXED_BASELINE = "sbm, fixed"  #: what the energy of methods is compared to: 8 bits, on multipliers of 8 x 8 bits
WORK = "0.6666667"
RATES = (1.0, 0.5, 2.0, 0.25, 4.0)  #: times the learning rates of `TrainOptions`: the trials of tuning, in their order
BOARDS = ("serial", "tcp", "udp")  #: devices of which a worker has one: it offers the resource `board`

#: What a row trains with: a method as the command line takes it, or options of `TrainOptions`; "array" is the
#: configuration of the device.
Variant = str | dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """about      one line, for the command's help
    variants   by the name that tables have; `REFERENCE` is what differences are to
    batches    sizes of a batch
    finetunes  each training begins with a network that fp32 has trained on one half of the images, and has the other
    """

    about: str
    variants: dict[str, Variant]
    batches: tuple[int, ...] = (32,)
    finetunes: bool = False


def _psg(**options: Any) -> dict[str, Any]:
    return {"method": "psg", **options}


_SMB = {f"smb {schedule}": f"smb:work={WORK},schedule={schedule}" for schedule in ("scaled", "truncated", "raised")}
_PFQ, _FRACTRAIN = (f"{name}:every=11,epsilon=0.1,alpha=0.8" for name in ("pfq", "fractrain"))
_PRECISION = {
    "static 8/8": "static",
    "pfq": _PFQ,
    "by hand": "byhand",
    "by hand, reversed": "byhand:order=reversed",
    "by hand, random": "byhand:order=random",
    "cpt": "cpt",
    "8 then 12": "int8int12",
}
_E2TRAIN = {"e2train": "e2train", "e2train + swa": "e2train:swa=true"}
GRIDS = {
    "smd": Grid(
        "SMD against SMB, over schedules of the learning rate and sizes of a batch.",
        {
            REFERENCE: "sgd",
            "smd": f"smd:p=0.5,work={WORK}",
            **_SMB,
            **{
                f"{name}, in steps": {"method": method, "schedule": "steps"}
                for name, method in {"sgd": "sgd", "smd": f"smd:p=0.5,work={WORK}", **_SMB}.items()
            },
        },
        (16, 32, 64),
    ),
    "slu": Grid(
        "SLU, by how much it skips and how its gates learn, against stochastic depth and SkipNet.",
        {
            REFERENCE: "sgd",
            **{f"slu, skip {skip}": f"slu:skip={skip}" for skip in (0.2, 0.4, 0.6)},
            "slu, skip 0.4, alpha 1": "slu:alpha=1.0",
            "slu, probe": "slu:gate_gradient=probe",
            "slu, full": "slu:gate_gradient=full",
            "slu, full, norm of all": "slu:gate_gradient=full,bn=all",
            **{f"stochastic depth, last {last}": f"sd:last={last}" for last in (0.8, 0.5, 0.2)},
            "stochastic depth, skip 0.4": "sd:skip=0.4",
            "skipnet": "skipnet",
        },
    ),
    "psg-grid": Grid(
        "PSG's threshold and how many first bits predict, against exact signs.",
        {
            REFERENCE: "sgd",
            "exact signs": "signsgd",
            **{f"beta {beta}": _psg(beta=beta) for beta in (0.0, 0.0125, 0.025, 0.05, 0.1, 0.2)},
            **{f"bits {bits}": _psg(predictor=f"{bits} round") for bits in ("2x6", "3x8", "4x6", "4x10", "6x12")},
        },
    ),
    "components": Grid(
        "E2-Train's parts, alone and together.",
        {
            REFERENCE: "sgd",
            "smd": f"smd:work={WORK}",
            "slu": "slu",
            "psg": "psg",
            "smd + slu": f"smd:work={WORK}+slu",
            "smd + psg": f"smd:work={WORK}+psg",
            "slu + psg": "slu+psg",
            **_E2TRAIN,
        },
    ),
    "pfq": Grid(
        "PFQ against static widths, stages by hand and in other orders, cycles, SBM, and 8 then 12 bits.",
        {REFERENCE: "sgd", "sbm": "sbm", **_PRECISION},
    ),
    "pfq-grid": Grid(
        "PFQ's epsilon, alpha and stages.",
        {
            REFERENCE: "sgd",
            **{
                f"epsilon {epsilon}, alpha {alpha}": f"pfq:every=11,epsilon={epsilon},alpha={alpha}"
                for epsilon in (0.05, 0.1, 0.2)
                for alpha in (0.3, 0.8)
            },
            **{
                f"stages {stages}": f"{_PFQ},schedule={stages}"
                for stages in ("3-8/6-8", "4-8/8-8", "3-4-6-8/8-8-8-8", "6-8/8-8")
            },
        },
    ),
    "dfq": Grid(
        "DFQ's options, their cap, what it aims at; FracTrain.",
        {
            REFERENCE: "sgd",
            "static 8/8": "static",
            "dfq": "dfq",
            "dfq, cap 8": "dfq:cap=8",
            "dfq, skipping": "dfq:options=0-3-4-6/0-6-8-12",
            "dfq, imagenet's": "dfq:options=3-4-6-8/6-8-12-16,weights=6",
            "dfq, per batch": "dfq:per=batch",
            "dfq, one option": "dfq:options=4/8",
            "dfq, target 2": "dfq:target=2.0",
            "dfq, target 2, beta 0.05": "dfq:target=2.0,beta=0.05",
            "fractrain": _FRACTRAIN,
            "fractrain, beta 0.02": f"{_FRACTRAIN},beta=0.02",
            "fractrain, cap 8": f"{_FRACTRAIN},cap=8",
        },
    ),
    "finetune": Grid(
        "Fine-tuning on one half of the images what fp32 has trained on the other: all layers, or the last.",
        {
            REFERENCE: "sgd",
            FLOAT: "fp32",
            "e2train": "e2train",
            "fractrain": _FRACTRAIN,
            "last layer, fp32": "fconly:bits=none",
            "last layer, 8 bits": "fconly",
            "last layer, 8 bits, kept": "fconly:cached=true",
        },
        finetunes=True,
    ),
    "energy": Grid(
        "E2-Train and FracTrain against SBM on an array of fixed multipliers, by what the device counts.",
        {
            FIXED_BASELINE: {"method": "sbm", "array": "fixed"},
            "fractrain, fixed": {"method": _FRACTRAIN, "array": "fixed"},
            REFERENCE: "sgd",
            "sbm": "sbm",
            "e2train": {"method": "e2train", "array": "psg"},
            "fractrain": _FRACTRAIN,
            FLOAT: "fp32",
            "fp16": "fp16",
        },
    ),
    "methods": Grid(
        "All methods and baselines that train from the beginning.",
        {
            REFERENCE: "sgd",
            FLOAT: "fp32",
            "fp16": "fp16",
            "sbm": "sbm",
            "swa": "swa",
            "smd": f"smd:work={WORK}",
            **_SMB,
            "slu": "slu",
            "stochastic depth": "sd",
            "stochastic depth, last 0.86": "sd:last=0.86",  # the work that `slu` has on ResNet-8
            "skipnet": "skipnet",
            "exact signs": "signsgd",
            "psg": "psg",
            **_E2TRAIN,
            **_PRECISION,
            "dfq": "dfq",
            "fractrain": _FRACTRAIN,
            "fractrain, beta 0.02": f"{_FRACTRAIN},beta=0.02",
        },
    ),
}


def configurations(name: str, seeds: int, device: str, epochs: int, images: str = DIGITS) -> list[dict[str, Any]]:
    """What each run is told, seed by seed: the name of its row, which images, whether a network that is trained already
    is tuned, by which of `RATES` the learning rates are multiplied, and options of `TrainOptions`. A batch of
    CIFAR-10's is `CIFAR_BATCH` times as large.
    """
    grid = GRIDS[name]
    common = {"images": images, "finetunes": grid.finetunes, "rate": RATES[0], "device": device, "epochs": epochs}
    return [
        {"variant": variant, "seed": seed, "batch": batch} | common | _options(given, device)
        for seed in range(seeds)
        for batch in (size if images == DIGITS else CIFAR_BATCH * size for size in grid.batches)
        for variant, given in grid.variants.items()
    ]


def _options(given: Variant, device: str) -> dict[str, Any]:
    options = {"method": given} if isinstance(given, str) else dict(given)
    array = options.pop("array", None)
    return options if array is None else options | {"device": with_array(device, array)}


def with_array(device: str, array: str) -> str:
    """The URL of a simulated device, with this configuration. Raises `UsageError` for any other device."""
    kind, mark, rest = device.partition("?")
    if kind not in ("model", "rtl"):
        raise UsageError(
            f"device {device!r} has an array of its own, and this study compares several: give model or rtl"
        )
    return f"{kind}:{array}{mark}{rest}"


OWN = ("variant", "images", "finetunes", "rate")  #: of a configuration, beside the options of `TrainOptions`


def options_of(configuration: dict[str, Any]) -> TrainOptions:
    """What a run trains with, its learning rates multiplied as it is told."""
    options = TrainOptions(**{key: value for key, value in configuration.items() if key not in OWN})
    rate = configuration["rate"]
    return replace(options, lr=rate * options.lr, lr_signs=rate * options.lr_signs)


def run_one(configuration: dict[str, Any], folder: str | None = None) -> dict[str, Any]:
    """One training: what came of it, and what was seen of it (`observed.result`). Learning rates are tuned by its
    validation split, and its test split is reported. Raises `UsageError` where the device cannot be opened.

    folder  of the images, where they are not the digits
    """
    options = options_of(configuration)
    started = time.monotonic()
    with training.host_settings(options.threads), bitfirst.open(options.device) as board:
        try:
            result = _trained(configuration, options, board, folder)
        except UsageError as error:  # it diverged: what failed is told, too
            result = {"failed": str(error)}
    return result | {"wall_s": time.monotonic() - started}


def _trained(configuration: dict[str, Any], options: TrainOptions, board: Device, folder: str | None) -> dict[str, Any]:
    """The result, all but `wall_s`."""
    splits, network = splits_of(folder), NETWORKS[configuration["images"]]
    if configuration["finetunes"]:
        network, splits = _begun(configuration["images"], folder, options.seed, options.epochs, options.batch)
    run = training.new_run(options, board, network)
    training.fit(run, splits, options)
    place = training.place_of(run.net)
    net = training.finished(run, splits, options)
    validation_accuracy = run.history[-1]["validation_accuracy"]
    if net is not run.net:  # such as a mean of weights
        validation_accuracy = training.evaluate(net, splits.validation)
    counters, methods = _counters(run.meter), {part.name: part.summary() for part in run.method.parts}
    accuracy = training.evaluate(net, splits.test)
    batch = training.epoch_batches(splits, options, options.epochs, place)[0]
    seen = observed.result(run, net, data.in_order(splits.validation, training.EVALUATION_BATCH, place), batch)
    return {
        "accuracy": accuracy,
        "validation_accuracy": validation_accuracy,
        "loss": run.history[-1]["loss"],
        "training_bit_macs": run.history[-1]["training_bit_macs"],
        "counters": counters,
        "config": board.config.as_dict(),
        "methods": methods,
        "history": run.history,
        "weights_sha256": training.weights_sha256(net),
        **seen,
    }


@lru_cache(maxsize=1)
def _begun(
    images: str, folder: str | None, seed: int, epochs: int, batch: int
) -> tuple[Callable[[], nn.Module], data.Splits]:
    """Makes copies of a network that fp32 has trained on one half of the images; and the other half, to train with."""
    splits = splits_of(folder)
    first, second = data.halves(splits.train)
    options = TrainOptions(seed=seed, epochs=epochs, batch=batch)
    run = training.new_run(options, None, NETWORKS[images])
    training.fit(run, replace(splits, train=first), options)
    return partial(copy.deepcopy, run.net), replace(splits, train=second)


@cache
def splits_of(folder: str | None) -> data.Splits:
    """The digits; or of a folder with JPEG copies of CIFAR-10, 20,000 images to train (`data.cifar`)."""
    return data.digits() if folder is None else data.cifar(Path(folder))


def _counters(meter: Meter) -> dict[str, int]:
    return meter.read() if meter.device.counting else {"bit_macs": meter.device.bit_macs}


# the file
class Runs:
    """Runs in an SQLite file, one row each. Raises `UsageError` for a file of something else, or of another version;
    `mend` is what it says to do."""

    def __init__(self, path: Path, mend: str = "choose another --out") -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path, self._database = path, sqlite3.connect(path)
        try:
            (found,) = self._database.execute("PRAGMA user_version").fetchone()
            (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.DatabaseError:
            self.close()
            raise UsageError(f"{path} is no file of a study: {mend}") from None
        if tables and found != VERSION:
            self.close()
            raise UsageError(f"{path} was written by another version ({found}, not {VERSION}): {mend}")
        if not tables:
            columns = "id TEXT PRIMARY KEY, study TEXT, configuration TEXT, versions TEXT, split TEXT, result TEXT"
            self._database.execute(f"CREATE TABLE runs ({columns})")
            self._database.execute(f"PRAGMA user_version = {VERSION}")
            self._database.commit()

    def close(self) -> None:
        self._database.close()

    def add(self, study: str, configuration: dict[str, Any], result: dict[str, Any]) -> None:
        """Keeps a run; one that is there already, such as by the same command beside this one, stays as it is."""
        row = (
            study,
            configuration,
            _versions(),
            {"seed": data.SPLIT_SEED, "tuned": "validation", "reported": "test"},
            result,
        )
        texts = [part if isinstance(part, str) else json.dumps(part) for part in row]
        self._database.execute(
            "INSERT OR IGNORE INTO runs VALUES (?, ?, ?, ?, ?, ?)", (identity([study, configuration]), *texts)
        )
        self._database.commit()

    def all(self, study: str) -> list[dict[str, Any]]:
        """What runs were told, and what came of them, in one dictionary each, with the `identity` of what they were
        told as "id", and "versions" of what they ran with; as they came."""
        columns = "configuration, result, versions"
        rows = self._database.execute(f"SELECT {columns} FROM runs WHERE study = ? ORDER BY rowid", (study,))
        told = [map(json.loads, row) for row in rows]
        return [{"id": identity(asked)} | asked | result | {"versions": versions} for asked, result, versions in told]

    def studies(self) -> list[str]:
        """Names, as they came."""
        names = self._database.execute("SELECT study FROM runs GROUP BY study ORDER BY min(rowid)")
        return [name for (name,) in names]


def _source() -> str:
    """A hash of this package and the hardware's, which has numeric rules and formats."""
    digest = hashlib.sha256()
    for module in bitfirst, hardware:
        for path in sorted(Path(module.__file__).parent.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


SOURCE = _source()  #: of what is imported, whatever becomes of the files


def _versions() -> dict[str, str]:
    """Of what a run depends on."""
    return {"bitfirst": version("bitfirst"), "source": SOURCE, "torch": torch.__version__}


def identity(configuration: dict[str, Any] | list[Any]) -> str:
    """Equal for equal runs."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()


# workers
@contextmanager
def cluster(scheduler: str | None, workers: int) -> Iterator[Any]:
    """A Dask client: of the scheduler at this address, or of `workers` processes here (one: in this process)."""
    import dask
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
    settings = {
        "distributed.scheduler.worker-ttl": None,  # or a computer that slept would leave the study without a worker
        "distributed.worker.profile.enabled": False,  # with the ticks a tenth of each worker's time
        "distributed.admin.tick.interval": "1s",
    }
    with dask.config.set(settings):
        local = LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=workers > 1,
            host=HERE if workers > 1 else None,
            dashboard_address=f"{HERE}:0",
            worker_dashboard_address=f"{HERE}:0",
            resources={"board": 1},
            memory_limit=None,
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
    folder: str | None = None,
    trials: int = 1,
    tell: Callable[[str], None] = lambda line: None,
    trial_epochs: int | None = None,
) -> dict[str, Any]:
    """All runs of `GRIDS[name]` that `out`/`FILE` does not have yet; then `summary`.

    folder  with JPEG copies of CIFAR-10; None: the digits
    trials  each variant tries so many of `RATES` with the first seed; all seeds have the one that validated best
    trial_epochs  length of the trials, where they are shorter than what is reported

    Runs are kept as they come, so that a study that was stopped goes on. Raises `UsageError` for an unknown name, fewer
    than 2 seeds, several workers here with one board, and a file that is not a study's, or holds this study with
    another device, length or images.
    """
    if name not in GRIDS:
        raise UsageError(f"study {name!r} is unknown; choose from {', '.join(GRIDS)}")
    if seeds < 2 or epochs < 1 or workers < 1:
        raise UsageError(f"seeds = {seeds}, epochs = {epochs}, workers = {workers}: choose at least 2, 1 and 1")
    if _is_board(device) and scheduler is None and workers > 1:
        raise UsageError(f"workers = {workers} would share the board {device}: choose 1, or give a --scheduler")
    if not 1 <= trials <= len(RATES):
        raise UsageError(f"trials = {trials}: choose 1 to {len(RATES)}")
    if trial_epochs is not None and not (trials > 1 and 1 <= trial_epochs < epochs):
        raise UsageError(f"trial epochs = {trial_epochs}: choose fewer than epochs = {epochs}, and trials above 1")
    wanted = configurations(name, seeds, device, epochs, DIGITS if folder is None else CIFAR)
    splits_of(folder)  # what is wrong with them is said before anything begins
    runs = Runs(out / FILE)
    length = trial_epochs or epochs
    try:
        _check_alike(runs, name, wanted, length)
        tries: list[dict[str, Any]] = []
        if trials > 1:
            first = [one | {"epochs": length} for one in wanted if one["seed"] == 0]
            tries = [one | {"rate": rate} for rate in RATES[:trials] for one in first]
            _complete(runs, name, tries, scheduler, workers, folder, tell)
            rates = tuned(runs.all(name), RATES[:trials])
            wanted = [one | {"rate": rates[one["variant"], one["batch"]]} for one in wanted]
        _complete(runs, name, wanted, scheduler, workers, folder, tell)
        ids = {identity(one) for one in tries + wanted}
        rows = [row for row in runs.all(name) if row["id"] in ids]
    finally:
        runs.close()
    return summary(name, rows) | {"file": str(out / FILE)}


def _check_alike(runs: "Runs", name: str, wanted: list[dict[str, Any]], trial_epochs: int) -> None:
    """Only trials may be shorter than the runs that are wanted."""
    for row in runs.all(name):
        one = next((one for one in wanted if one["variant"] == row["variant"]), wanted[0])
        alike = {"device": {one["device"]}, "epochs": {one["epochs"], trial_epochs}, "images": {one["images"]}}
        for key, values in alike.items():
            if row[key] not in values:
                raise UsageError(f"{runs.path} has this study with {key} = {row[key]}: choose another --out")


def _complete(
    runs: "Runs",
    name: str,
    wanted: list[dict[str, Any]],
    scheduler: str | None,
    workers: int,
    folder: str | None,
    tell: Callable[[str], None],
) -> None:
    """Trains what `runs` does not have."""
    known = {row["id"] for row in runs.all(name)}
    missing = [one for one in wanted if identity(one) not in known]
    tell(f"{len(wanted)} runs, {len(missing)} to do")
    if not missing:
        return
    with cluster(scheduler, workers) as client:
        for configuration, result in finished(client, missing, folder):
            runs.add(name, configuration, result)
            how = result.get("failed") or "accuracy {accuracy:.2%}, {wall_s:.0f} s".format(**result)
            tell("{variant}, batch {batch}, seed {seed}, rate {rate:g}: ".format(**configuration) + how)


def tuned(rows: list[dict[str, Any]], rates: tuple[float, ...] = RATES) -> dict[tuple[str, int], float]:
    """By variant and batch, the one of `rates` with which the first seed there is validated best after the fewest
    epochs there are; of equal ones the first."""
    found: dict[tuple[str, int], tuple[int, int, float, int, float]] = {}
    for row in rows:
        if row["rate"] in rates:
            good = row.get("validation_accuracy", -1.0), -rates.index(row["rate"]), row["rate"]
            key, tried = (row["variant"], row["batch"]), (-row["epochs"], -row["seed"], *good)
            found[key] = max(found.get(key, tried), tried)
    return {key: rate for key, (*_, rate) in found.items()}


def finished(
    client: Any, missing: list[dict[str, Any]], folder: str | None = None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each configuration with its result, as soon as it is there. Raises what a worker did (`BitfirstError`), and
    `LinkError` where workers or scheduler are lost."""
    from concurrent.futures import CancelledError

    from distributed import KilledWorker, as_completed

    resources = {"board": 1} if _is_board(missing[0]["device"]) else None
    futures = {client.submit(_run_or_error, one, folder, pure=False, resources=resources): one for one in missing}
    for future in as_completed(list(futures)):
        try:
            result = future.result()
        except (CancelledError, KilledWorker) as error:
            raise LinkError(
                f"Dask has lost its workers or its scheduler ({type(error).__name__}): what is finished is kept; start "
                "them again, and the same command goes on"
            ) from None
        future.release()  # else it is done again when the worker that has the result is lost
        if isinstance(result, BitfirstError):
            raise result
        yield futures[future], result


def _is_board(device: str) -> bool:
    return device.partition(":")[0] in BOARDS


def _run_or_error(configuration: dict[str, Any], folder: str | None) -> dict[str, Any] | BitfirstError:
    """Errors are returned: of one that is raised Dask writes a traceback."""
    try:
        return run_one(configuration, folder)
    except BitfirstError as error:
        return error


# comparison
def summary(name: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """{"study", "rows", "table", "note"}: a row of the table for each variant and size of a batch, with every seed's
    test accuracy, and where there are two or more the mean difference to the reference of the same seed with its 95 %
    interval; `work` is that of its training steps, as a share of the reference's (None: the device did none), `rate`
    what the learning rates were multiplied by, `trials` how many were tried, `trial_epochs` for how long, `stages` and
    `stages_visited` (the fewest of a seed) those of precision. Runs that tuning did not choose are left out, and trials
    that were shorter than what is reported.
    """
    rates, table = tuned(rows), []
    reported = max((row["epochs"] for row in rows), default=0)
    whole = [row for row in rows if row["epochs"] == reported]
    chosen = [row for row in whole if row["rate"] == rates.get((row["variant"], row["batch"]))]
    for variant, batch in rates:
        own = [row for row in chosen if (row["variant"], row["batch"]) == (variant, batch)]
        reference = {row["seed"]: row for row in chosen if (row["variant"], row["batch"]) == (REFERENCE, batch)}
        alike = [row for row in rows if (row["variant"], row["batch"]) == (variant, batch)]
        length = min(row["epochs"] for row in alike)
        tried = {row["rate"] for row in alike if row["epochs"] == length}
        about = {"variant": variant, "batch": batch, "rate": rates[variant, batch]}
        about |= {"trials": len(tried), "trial_epochs": length}
        table.append(about | _compared(own, reference) | _stages(own))
    order = list(GRIDS[name].variants) if name in GRIDS else []
    table.sort(key=lambda row: (row["batch"], order.index(row["variant"]) if row["variant"] in order else 0))
    return {"study": name, "rows": chosen, "table": table, "note": note(chosen, table)}


def runs_of(one: dict[str, Any], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of `rows` that row `one` of a table is of."""
    return [row for row in rows if (row["variant"], row["batch"]) == (one["variant"], one["batch"])]


def note(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> str:
    """What the table claims, how rates were tuned, and whether its runs are of more than one version of the program."""
    versions = {json.dumps(row.get("versions"), sort_keys=True) for row in rows}
    mixed = f"; runs of {len(versions)} versions of the program" if len(versions) > 1 else ""
    return _claim(rows, table) + _tuning(table) + mixed


def _tuning(table: list[dict[str, Any]]) -> str:
    """Of how many trials rates are, and how long those were."""
    trials, epochs = (sorted({row[key] for row in table}) for key in ("trials", "trial_epochs"))
    if max(trials, default=1) == 1:
        return ""
    return f"; rates by {' or '.join(map(str, trials))} trials of {' or '.join(map(str, epochs))} epochs each"


def _claim(rows: list[dict[str, Any]], table: list[dict[str, Any]]) -> str:
    if any(row["images"] == DIGITS for row in rows):
        return "digits: mechanics, no claim of accuracy"
    ordinary = FLOAT if any(row["variant"] == FLOAT for row in table) else REFERENCE
    reached = [row["accuracy"] for row in table if row["variant"] == ordinary and row["accuracy"] is not None]
    if not reached:
        return f"no run of {ordinary} to tell how far networks are trained: no ranking claimed"
    best = max(reached)
    return f"{ordinary} reaches {best:.1%}" + ("" if best >= TRAINED else ": under-trained, no ranking claimed")


def _stages(rows: list[dict[str, Any]]) -> dict[str, int | None]:
    """How many stages of precision there are, and how many every seed visited; None for methods without."""
    found = [part for row in rows for part in row.get("methods", {}).values() if "stages" in part]
    return {
        "stages": max((part["stages"] for part in found), default=None),
        "stages_visited": min((part["stages_visited"] for part in found), default=None),
    }


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
        found["work"] = ours / theirs if ours and theirs else None
    if len(pairs) > 1:
        mean, low, high = training.interval([row["accuracy"] - other["accuracy"] for row, other in pairs])
        found |= {"difference": mean, "difference_interval": [low, high]}
    return found


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
