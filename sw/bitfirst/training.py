"""The main job: trains a network on a device and in fp32, and compares; of itself a small one on handwritten digits."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from bitfirst_hdl.contract.packets import CONTRACT_VERSION, Phase
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from torch import nn
from torch.nn import functional

import bitfirst

from . import checkpoint, data, energy, energy_model, interrupts, loop, memory, models, observed, optim, tasks
from .device import Device
from .errors import DeviceError, Diverged, LinkError, UsageError
from .host_work import HostWork, left_out
from .measuring import measured
from .measuring.monitor import Monitor
from .measuring.windows import Window
from .methods import E2TRAIN, HOST, NAMES, PSG, Compose, Method, Plan, SignSGD, named
from .nn import Bits, convert, layer_counters
from .signs import Journal
from .tasks import Task

CHECKPOINT = "checkpoint.safetensors"
STATES = {"momentum": optim.BUFFER, "master": optim.MASTER}  #: of the optimiser, by their names in a checkpoint
MAX_THREADS = 256
EVALUATION_BATCH = 60
WARM_UP = 0.25  #: share of all steps in which the learning rate of one cycle rises
MILESTONES = 0.5, 0.75  #: shares of all steps at which the learning rate falls in steps
WEIGHT_DECAY = 1e-3
LABEL_SMOOTHING = 0.1
METHODS = tuple(dict.fromkeys(("sgd", "signsgd", "psg", *NAMES)))
PSG_OPTIONS = ("beta", "tau", "predictor", "update")
MOST_LR_SIGNS = 0.5  #: what a step of `optim.SGD` by signs can hold


@dataclass(frozen=True)
class TrainOptions:
    """device   URL for `bitfirst.open`
    data     what is learnt: `tasks.KINDS`, such as "digits" or "cifar10:FOLDER"
    network  one of `tasks.NETWORKS`; None: that of the data
    train_images, eval_images
             train with so many of the images (or sequences), validate and test with at most so many; None: all
    augment  images are moved and mirrored by chance, as is usual for CIFAR
    fp32     whether the same is trained in fp32, too
    seed     initial weights and order of the images
    lr       peak of the learning rate
    schedule of the learning rate: one of `SCHEDULES`
    bits     widths of x, w and of the output's gradient
    method   one of `METHODS`, or several with "+" between them, such as "smd:p=0.3+psg"; "sgd" is ordinary training,
             by "signsgd" and "psg" the convolutions' weights learn by the signs of their gradients
    beta, tau, predictor
             of `methods.PSG`; tau may be a number, a constant threshold in real units
    lr_signs peak of the rate for weights that learn by signs
    update   "host" or "device": where these weights are moved; the result is the same
    init     checkpoint of another training of this network, such as `out`'s: weights and statistics are those at first
    out      directory for checkpoint, result.json and report.html; None: runs/KIND, by the data
    resume   continue from the checkpoint in `out`
    trace    file for waveforms (simulated boards only)
    threads  of PyTorch on the host; a part of what makes runs identical
    energy_model
             name or file of coefficients (`energy_model`): energy is modelled by them; None: there is no figure
    """

    device: str = "rtl"
    data: str = "digits"
    network: str | None = None
    train_images: int | None = None
    eval_images: int | None = None
    augment: bool = False
    fp32: bool = True
    seed: int = 0
    epochs: int = 6
    batch: int = 32
    lr: float = 0.1
    schedule: str = "cycle"
    momentum: float = 0.9
    bits: Bits = field(default_factory=Bits)
    method: str = "sgd"
    beta: float = 0.05
    tau: str = "exact"
    predictor: str = E2TRAIN
    lr_signs: float = 0.001
    update: str = HOST
    init: Path | None = None
    out: Path | None = None
    resume: bool = False
    trace: Path | None = None
    threads: int = 1
    energy_model: str | None = None

    def __post_init__(self) -> None:
        for name in "epochs", "batch", "threads", "train_images", "eval_images":
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} = {value} must be at least 1")
        self._choose_task()
        if not 0 <= self.seed < 2**31:
            raise UsageError(f"seed = {self.seed} must be 0 to {2**31 - 1}")
        if self.threads > MAX_THREADS:
            raise UsageError(f"threads = {self.threads} must be at most {MAX_THREADS}")
        if not 2 <= self.batch <= 1024:
            raise UsageError(f"batch = {self.batch} must be 2 to 1024: batch norm needs two images")
        if self.schedule not in SCHEDULES:
            raise UsageError(f"schedule {self.schedule!r} is unknown: choose from {', '.join(SCHEDULES)}")
        if not 0 < self.lr < math.inf:
            raise UsageError(f"lr = {self.lr} must be positive")
        if not 0 <= self.momentum < 1:
            raise UsageError(f"momentum = {self.momentum} must be 0 or more and below 1")
        method = self.training_method()
        signs = method.signs
        if signs is None and self.update != HOST:
            raise UsageError(f"update = {self.update!r} is for weights that learn by signs: choose signsgd or psg, too")
        if signs is not None:
            self._check_psg_options()
            method.check(self.bits)
            if not 0 < self.lr_signs < MOST_LR_SIGNS:
                raise UsageError(f"lr_signs = {self.lr_signs} must be positive and below {MOST_LR_SIGNS}")

    def _choose_task(self) -> None:
        """Network and `out` where they follow from the data."""
        network = tasks.kind_of(self.data).network if self.network is None else self.network
        task = Task(self.data, network)
        if self.augment and not task.is_colour:
            raise UsageError(f"augment moves and mirrors colour images: leave it out for {task.name}")
        object.__setattr__(self, "network", network)
        if self.out is None:
            object.__setattr__(self, "out", Path("runs", task.name))

    @property
    def task(self) -> Task:
        return Task(self.data, self.network)

    def _check_psg_options(self) -> None:
        """They are for psg and signsgd, not for a method that has signs of its own."""
        if {text.partition(":")[0] for text in self.method.split("+")} & {"psg", "signsgd"}:
            return
        for field_ in fields(self):
            given = getattr(self, field_.name)
            if field_.name in PSG_OPTIONS and given != field_.default:
                raise UsageError(
                    f"{field_.name} = {given!r} is an option of psg; e2train has its own, such as e2train:beta=0.1"
                )

    def training_method(self) -> Method:
        """What `convert` is given: a new one."""
        parts = [self._method(text) for text in self.method.split("+")]
        return parts[0] if len(parts) == 1 else Compose(parts)

    def _method(self, text: str) -> Method:
        name = text.partition(":")[0]
        if name not in METHODS:
            raise UsageError(f"method {name!r} is unknown; choose from {', '.join(METHODS)}")
        if name in NAMES:
            return named(text, seed=self.seed, loss=_cross_entropies)
        if text != name:
            raise UsageError(f"method {text!r}: settings of {name} are options, such as beta, tau and update")
        if name == "signsgd":
            return SignSGD(update=self.update)
        try:
            tau, constant = "constant", float(self.tau)
        except ValueError:
            tau, constant = self.tau, None
        return PSG(self.beta, self.predictor, tau, constant, update=self.update)

    def identity(self) -> dict[str, Any]:
        """What must be the same in a checkpoint to continue from it."""
        names = ["seed", "epochs", "batch", "lr", "momentum", "threads"]
        signs = self.training_method().signs
        names += ("method",) if self.method != "sgd" else ()
        names += ("schedule",) if self.schedule != "cycle" else ()
        names += () if signs is None else ("lr_signs",)
        found = {name: getattr(self, name) for name in names} | {"bits": asdict(self.bits)}
        found |= self._task_identity() | ({} if self.init is None else {"init": str(self.init)})
        if isinstance(signs, PSG):
            tau = signs.tau if signs.constant is None else str(signs.constant)
            found |= {"beta": signs.beta, "tau": tau, "predictor": signs.predictor}
        return found

    def _task_identity(self) -> dict[str, Any]:
        """What is other than in the training on the digits."""
        found = {"data": self.data, "network": self.network} if self.data != "digits" else {}
        names = "train_images", "eval_images", "augment"
        return found | {name: getattr(self, name) for name in names if getattr(self, name)}


class Meter:
    """Counters of a device since the meter was made, plus those that a checkpoint brought."""

    def __init__(self, device: Device, earlier: dict[str, int] | None = None) -> None:
        self.device = device
        self.earlier = earlier or {}
        device.mark(Phase.OTHER)
        self._start = self._totals()

    def _totals(self) -> dict[str, int]:
        if not self.device.counting:
            return {"bit_macs": self.device.bit_macs}
        totals = {"bit_macs": self.device.bit_macs, "bytes_moved": self.device.bytes_moved}
        for phase, counters in self.device.phase_counters.items():
            totals |= {f"{Phase(phase).name.lower()}/{name}": count for name, count in counters.items()}
        return totals

    def latest(self) -> dict[str, int]:
        """As of the latest MARK: costs the device nothing."""
        now = self._totals()
        keys = [*self.earlier, *(key for key in now if key not in self.earlier)]
        return {key: self.earlier.get(key, 0) + now.get(key, 0) - self._start.get(key, 0) for key in keys}

    def read(self) -> dict[str, int]:
        """As of now, by a MARK. "bit_macs", "bytes_moved", and "PHASE/COUNTER" for each phase and counter; "bit_macs"
        alone of a model that does not count.
        """
        self.device.mark(Phase.OTHER)
        return self.latest()


def total(counters: dict[str, int], name: str) -> int | None:
    """A counter summed over the phases; None when the device does not have it."""
    counts = [count for key, count in counters.items() if key.endswith("/" + name)]
    return sum(counts) if counts else None


def costs(counters: dict[str, int], *names: str) -> dict[str, int | None]:
    """These counters in total; None of all where the device computed nothing, so that it has cost nothing to tell."""
    if not counters["bit_macs"]:
        return dict.fromkeys(names)
    return {name: counters[name] if name in counters else total(counters, name) for name in names}


def utilisation(counters: dict[str, int], device: Device, cycles: str = "cycles") -> float | None:
    """Useful bit-MACs over what the array could have done in those cycles; None without either of them."""
    count = total(counters, cycles)
    useful = counters["bit_macs"]
    return useful / (device.config.bit_macs_per_cycle * count) if count and useful else None


def one_cycle(step: int, steps: int, peak: float) -> float:
    """Learning rate: linearly from peak / 10 to `peak` in the first quarter, then by a half cosine to 0."""
    rise = WARM_UP * steps
    if step < rise:
        return peak * (0.1 + 0.9 * step / rise)
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise)))


def stepwise(step: int, steps: int, peak: float) -> float:
    """Learning rate: `peak`, a tenth of it from one half of the steps on, a hundredth from three quarters on
    (FracTrain's released code: 32,000 and 48,000 of 64,000)."""
    return peak * 0.1 ** sum(step >= share * steps for share in MILESTONES)


SCHEDULES = {"cycle": one_cycle, "steps": stepwise}


@dataclass
class Run:
    """A network in training: what a checkpoint holds.

    `meter` is None for fp32 on the host, `journal` where no weight learns by signs, `monitor` where no joules are
    measured. `kept` are the epochs in the checkpoint.
    """

    name: str
    net: nn.Module
    method: Method
    optimizer: optim.SGD
    meter: Meter | None = None
    journal: Journal | None = None
    epochs: int = 0
    epoch: int = 0
    kept: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    monitor: Monitor | None = None


def new_run(
    options: TrainOptions,
    device: Device | None,
    network: Callable[[], nn.Module] = models.digits_resnet,
    place: torch.device | None = None,
) -> Run:
    """`network` and its optimiser, before the first step. The same weights with and without a device.

    Without, the network is put on `place`; with one, on that of the device.
    """
    torch.manual_seed(options.seed)
    net = network()
    if options.init is not None:
        _load_weights(net, options.init)
    if device is None:
        net.to(place)
        return Run("fp32", net, Method(), optimizer_of(net, Method(), options), epochs=options.epochs)
    method = options.training_method()
    device.largest_bits = 0  # of this training
    convert(net.to(device.place), device, method, bits=options.bits, inplace=True)
    journal = None if method.signs is None else Journal()
    optimizer = optimizer_of(net, method, options)
    return Run(device.url, net, method, optimizer, Meter(device), journal, options.epochs)


def _load_weights(net: nn.Module, path: Path) -> None:
    """Of a checkpoint of `keep`, without those of gates. Raises `UsageError` when it is of another network."""
    tensors, _ = checkpoint.load(path)
    own = net.state_dict()
    found = {name: tensor for name, tensor in checkpoint.strip(tensors, "net.").items() if name in own}
    try:
        net.load_state_dict(found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path} is no checkpoint of this network ({reason}): give one of bitfirst train") from None


def optimizer_of(net: nn.Module, method: Method, options: TrainOptions) -> optim.SGD:
    """Each group with its own `peak` of the learning rate."""
    groups = [
        group | {"peak": options.lr_signs if group["signs"] else options.lr, "lr": 0.0}
        for group in method.param_groups(net)
    ]
    return optim.SGD(groups, options.lr, options.momentum, WEIGHT_DECAY)


def fit(
    run: Run,
    splits: data.Splits,
    options: TrainOptions,
    on_step: Callable[[Run, int, int, float], None] | None = None,
    on_epoch: Callable[[Run], None] | None = None,
) -> None:
    """Trains `run` to its last epoch. Raises `UsageError`, naming the layer, when it diverges, and where there is not
    one batch.

    A row of its history has, beside loss and accuracies: "wall_s" of the epoch; so far, "steps" that were trained, the
    device's "cycles" and "bit_macs", and without those of evaluation "training_bit_macs", "training_macs" (of whatever
    widths) and "training_counters" (of a device that counts: added up over the phases, and MACs in float32 on the
    host); "largest_bits" that an operand of the device has had; what `observed.grown` says of blocks; "host", what the
    host computed in the first step (`host_work.HostWork`), where there was one; and with a monitor, in place of that,
    what the epoch's steps took, "sensed".
    """
    per_epoch = len(splits.train) // options.batch
    if not per_epoch:
        raise UsageError(f"{len(splits.train)} images are no batch of {options.batch}: choose a smaller batch, or more")
    plan = run.method.plan(Plan.of(per_epoch * options.epochs))
    run.epochs = math.ceil(plan.steps / per_epoch)
    while run.epoch < run.epochs:
        started, before = time.monotonic(), run.history[-1] if run.history else {}
        first = run.epoch * per_epoch
        batches = epoch_batches(splits, options, run.epoch, place_of(run.net))[: plan.steps - first]
        beside = _Beside(run, batches, first, plan, SCHEDULES[options.schedule], on_step)
        chosen = observed.counts(run.method)
        (loss, work, counted), told = _measured(run, partial(_steps, run, batches, beside))
        validation_accuracy = evaluate(run.net, splits.validation)
        run.epoch += 1
        run.history.append(
            {
                "epoch": run.epoch,
                "loss": loss,
                "train_accuracy": beside.right / max(beside.seen, 1),
                "validation_accuracy": validation_accuracy,
                "learning_rate": run.optimizer.param_groups[0]["lr"],
                "wall_s": time.monotonic() - started,
                "steps": before.get("steps", 0) + beside.steps,
                **observed.grown(run.method, chosen),
                **({"host": beside.host.counted} if beside.host.bytes else {}),
                **told,
            }
        )
        if run.meter is not None:
            counters = run.meter.read()
            run.history[-1] |= costs(counters, "cycles", "bit_macs")
            run.history[-1] |= _added(before, work, run.meter.device.largest_bits)
            if counted and (not before or "training_counters" in before):  # not after a checkpoint without them
                earlier = before.get("training_counters", {})
                run.history[-1]["training_counters"] = {
                    name: earlier.get(name, 0) + count for name, count in counted.items()
                }
        if on_epoch is not None:
            on_epoch(run)


def _added(before: dict[str, Any], work: dict[str, int], largest_bits: int) -> dict[str, int]:
    """Of the device, for a row of the history behind `before`: not after a checkpoint without it."""
    found = {name: before.get(name, 0) + count for name, count in work.items()}
    found["largest_bits"] = max(before.get("largest_bits", 0), largest_bits)
    return {name: one for name, one in found.items() if not before or name in before}


def _steps(
    run: Run, batches: data.Batches, beside: "_Beside", window: Window | None
) -> tuple[float | None, dict[str, int], dict[str, int]]:
    """Trains an epoch; its loss, work and counters. `window`: that it is measured in."""
    beside.window = window
    work, before = _work(run), _counted(run)
    with beside.watching:  # also where it ends before the first step does
        loss = loop.epoch(run.net, batches, run.optimizer, run.method, _cross_entropy, beside)
    return loss, _grown(work, _work(run)), _grown(before, _counted(run))


def finished(run: Run, splits: data.Splits, options: TrainOptions) -> nn.Module:
    """The network that a training was for, as `Method.result` makes it. What that takes is charged to the last epoch;
    checkpoints are of before, so a run that goes on from the last one is charged once, too."""
    batches = epoch_batches(splits, options, 0, place_of(run.net))
    if not run.method.finishes:
        return run.method.result(run.net, batches)

    def work(window: Window | None) -> nn.Module:
        return run.method.result(run.net, _between(batches, window))

    done, before, last = _work(run), _counted(run), run.history[-1]
    net, told = _measured(run, work)
    for name, count in _grown(done, _work(run)).items():
        if name in last:
            last[name] += count
    if "training_counters" in last:
        counted = last["training_counters"]
        for name, count in _grown(before, _counted(run)).items():
            counted[name] = counted.get(name, 0) + count
    if told:
        last["sensed"] = measured.joined(last.get("sensed"), told["sensed"])
    return net


def _between(batches: data.Batches, window: Window | None) -> Iterator[Any]:
    for batch in batches:
        yield batch
        if window is not None:
            window.between()


def _measured(run: Run, work: Callable[[Window | None], Any]) -> tuple[Any, dict[str, Any]]:
    """What `work` returns, and of a row of the history what it took."""
    if run.monitor is None:
        return work(None), {}
    found, reading = measured.whole(run.monitor, f"epoch {run.epoch + 1}", work)
    return found, {"sensed": reading.as_dict()}


def epoch_batches(
    splits: data.Splits, options: TrainOptions, epoch: int, place: torch.device | None = None
) -> data.Batches:
    """What is trained with in this epoch, from 0, on `place`."""
    return data.batches(splits.train, options.batch, options.seed, epoch, options.augment, place)


def place_of(net: nn.Module) -> torch.device:
    """PyTorch's device on which the network is."""
    return next(net.parameters()).device


def _work(run: Run) -> dict[str, int]:
    """The device's so far; {} without one."""
    if run.meter is None:
        return {}
    return {"training_bit_macs": run.meter.device.bit_macs, "training_macs": run.meter.device.macs}


def _grown(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {name: count - before.get(name, 0) for name, count in after.items()}


def _counted(run: Run) -> dict[str, int]:
    """The device's counters as of now, and the host's MACs; {} where the device does not count."""
    if run.meter is None or not run.meter.device.counting:
        return {}
    return energy_model.summed(run.meter.read()) | observed.host_macs(run.method)


class _Beside(loop.Hooks):
    """What one epoch of `fit` does beside the loop: learning rate, journal, accuracy (`right` of `seen` in `steps`),
    work of the `host` in the first step, progress."""

    def __init__(
        self,
        run: Run,
        batches: data.Batches,
        first: int,
        plan: Plan,
        schedule: Callable[[int, int, float], float],
        on_step: Callable[[Run, int, int, float], None] | None,
    ) -> None:
        self.run, self.batches, self.first, self.on_step = run, batches, first, on_step
        self.plan, self.schedule = plan, schedule
        self.right = self.seen = self.steps = 0
        self.window: Window | None = None
        self.host, self.watching = HostWork(), ExitStack()

    @property
    def step(self) -> int:
        """Number of the step, from 0: that of its batch, whether those before were trained on or not."""
        return self.first + self.batches.latest

    def before(self, x: torch.Tensor, y: torch.Tensor) -> None:
        interrupts.check()
        run = self.run
        for group in run.optimizer.param_groups:
            group["lr"] = self.plan.rate(self.step, group["peak"], self.schedule)
        if run.journal is not None:
            run.journal.begin(run.net, self.step, self.plan.steps, partial(_loss, x, y), run.meter.device.bit_macs)
        if not self.steps and run.monitor is None:  # it takes time, and so joules
            self.watching.enter_context(self.host)

    def after_backward(self) -> None:
        run = self.run
        if run.journal is not None:
            with left_out():
                run.journal.end(run.net, self.step, run.meter.device.bit_macs)

    def after(self, scores: torch.Tensor, y: torch.Tensor, loss: float) -> None:
        self.watching.close()
        self.right += int((scores.argmax(1) == y).sum())
        self.seen += y.numel()
        self.steps += 1
        if self.window is not None:
            self.window.between()
        if self.on_step is not None:
            self.on_step(self.run, self.step + 1, self.plan.steps, loss)


def _cross_entropy(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(scores, labels, label_smoothing=LABEL_SMOOTHING)


def _cross_entropies(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Of each sample: of a sequence, the mean of its tokens'."""
    losses = functional.cross_entropy(scores, labels, label_smoothing=LABEL_SMOOTHING, reduction="none")
    return losses if losses.ndim == 1 else losses.flatten(1).mean(1)


def _loss(images: torch.Tensor, labels: torch.Tensor, net: nn.Module) -> torch.Tensor:
    return _cross_entropy(net(images), labels)


def evaluate(net: nn.Module, split: data.Split) -> float:
    """Share of `split` that `net` classifies correctly; of text, of its tokens."""
    net.eval()
    batches = data.in_order(split, EVALUATION_BATCH, place_of(net))
    with torch.no_grad():
        right = sum(int((net(images).argmax(1) == labels).sum()) for images, labels in batches)
    return right / split.labels.numel()


def weights_sha256(net: nn.Module) -> str:
    """Over names, types, shapes and bytes of parameters and statistics."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def keep(run: Run, options: TrainOptions) -> None:
    """Writes the checkpoint: network, momentum, the method's state, random state, counters.

    Raises `Diverged`, and the checkpoint before it stays, when something in it is not finite.
    """
    tensors = {f"net.{name}": tensor for name, tensor in run.net.state_dict().items()}
    for name, parameter in run.net.named_parameters():
        kept = run.optimizer.state_of(parameter)
        tensors |= {f"{short}.{name}": kept[full] for short, full in STATES.items() if full in kept}
    tensors["random"] = torch.get_rng_state()
    if place_of(run.net).type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state(place_of(run.net))
    state = {
        "options": options.identity(),
        "epoch": run.epoch,
        "epochs": run.epochs,
        "history": run.history,
        "counters": run.meter.latest(),
    }
    state["moved"] = sorted(name for name in tensors if name.split(".")[0] in STATES)
    state["method"] = {}
    for name, value in run.method.state_dict().items():
        if isinstance(value, torch.Tensor):
            tensors[f"method.{name}"] = value
        else:
            state["method"][name] = value
    if run.journal is not None:
        state["journal"] = run.journal.state(run.net)
    bad = loop.not_finite(tensors.items())
    if bad is not None:
        raise Diverged(f"{bad} is not finite: {loop.MEND}")
    checkpoint.save(options.out / CHECKPOINT, tensors, state)
    run.kept = run.epoch


def restore(run: Run, options: TrainOptions) -> None:
    """Puts the checkpoint into a new run. The order of the images follows from seed and epoch.

    Raises `UsageError` when it was made with other options, or lacks something.
    """
    path = options.out / CHECKPOINT
    tensors, state = checkpoint.load(path)
    try:
        wanted, found = options.identity(), state["options"]
        for name in wanted | found:
            made, now = found.get(name), wanted.get(name)
            if made != now:
                raise UsageError(f"{path} was made with {name} = {made}, not {now}: use the same")
        counted = set(state["counters"]) != {"bit_macs"}
        if counted != run.meter.device.counting:
            raise UsageError(f"{path} was made {'with' if counted else 'without'} counting: continue it so")
        run.net.load_state_dict(checkpoint.strip(tensors, "net."))
        parameters = dict(run.net.named_parameters())
        for moved in state["moved"]:
            kind, _, name = moved.partition(".")
            run.optimizer.state[parameters[name]][STATES[kind]] = tensors[moved].to(parameters[name].device)
        run.method.load_state_dict(state["method"] | checkpoint.strip(tensors, "method."))
        torch.set_rng_state(tensors["random"])
        if place_of(run.net).type == "cuda" and "random_cuda" in tensors:
            torch.cuda.set_rng_state(tensors["random_cuda"], place_of(run.net))
        run.epoch, run.history, run.meter.earlier = state["epoch"], state["history"], state["counters"]
        run.kept = run.epoch
        measured.as_now(run.history)
        if run.journal is not None:
            run.journal.restore(state["journal"])
    except (AttributeError, KeyError, RuntimeError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"checkpoint {path} is not whole ({reason}): delete it and start without --resume") from None


def refuse_to_overwrite(path: Path) -> None:
    """Raises `UsageError` when `path` is the checkpoint of a run that did not finish."""
    if not path.exists():
        return
    _, state = checkpoint.load(path)
    try:
        epoch, epochs = state["epoch"], state["epochs"]
        unfinished = epoch < epochs
    except (KeyError, TypeError):
        raise UsageError(f"checkpoint {path} is not whole: delete it, or choose another --out") from None
    if unfinished:
        raise UsageError(
            f"{path} holds {epoch} of {epochs} epochs of a run that did not finish: continue it with --resume, or "
            "choose another --out"
        )


@contextmanager
def host_settings(threads: int) -> Iterator[None]:
    """Fixed thread count, a random state of our own, and on a GPU convolutions in float32 as such, the same each time;
    all as before afterwards, but for `memory.keep`.
    """
    memory.keep()
    before, cudnn = torch.get_num_threads(), torch.backends.cudnn
    precision, deterministic = cudnn.conv.fp32_precision, cudnn.deterministic
    torch.set_num_threads(threads)
    cudnn.conv.fp32_precision, cudnn.deterministic = "ieee", True
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before)
        cudnn.conv.fp32_precision, cudnn.deterministic = precision, deterministic


class Watch:
    """Progress for people: a bar with loss, accuracy, cycles a second and utilisation; one line for each epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, Any] = {}
        self.started: dict[str, tuple[float, int]] = {}

    def __enter__(self) -> "Watch":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def step(self, run: Run, step: int, steps: int, loss: float) -> None:
        cycles = total(run.meter.latest(), "cycles") or 0 if run.meter else 0
        if run.name not in self.tasks:
            self.tasks[run.name] = self.progress.add_task(run.name, total=steps, note="")
            self.started[run.name] = time.monotonic(), cycles
        note = f"epoch {run.epoch + 1}  loss {loss:.3f}"
        if run.history:
            note += f"  accuracy {run.history[-1]['validation_accuracy']:.1%}"
        if cycles:
            then, cycles_then = self.started[run.name]
            rate = (cycles - cycles_then) / max(time.monotonic() - then, 1e-9)
            note += (
                f"  {rate / 1e3:,.0f} k cycles/s  utilisation {utilisation(run.meter.latest(), run.meter.device):.1%}"
            )
        self.progress.update(self.tasks[run.name], completed=step, note=note)

    def finish(self, name: str) -> None:
        """Takes away the bar of the run `name`."""
        self.progress.remove_task(self.tasks.pop(name))

    def epoch(self, run: Run) -> None:
        row = run.history[-1]
        line = f"{run.name}: epoch {row['epoch']}, loss {_loss_text(row['loss'])}"
        line += f", validation accuracy {row['validation_accuracy']:.2%}, {row['wall_s']:.1f} s"
        if row.get("cycles"):
            line += f", {row['cycles']:,} cycles"
        self.console.print(line, highlight=False, soft_wrap=True)


def _loss_text(loss: float | None) -> str:
    return "-" if loss is None else f"{loss:.4f}"


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"


@dataclass
class Comparison:
    """One network trained on a device and in fp32, from the same weights, on the same batches.

    `net` is what came of `run`: its network, or such as the mean of its weights. `fp32` is None where it was not
    wanted.
    """

    run: Run
    net: nn.Module
    fp32: Run | None
    test_accuracy: float
    fp32_test_accuracy: float | None
    counters: dict[str, int]


@contextmanager
def saying_what_is_kept(run: Run, options: TrainOptions) -> Iterator[None]:
    """Adds to the message of a device that fails, and of a training that diverges, what can be gone on from."""
    try:
        yield
    except (DeviceError, Diverged, LinkError) as error:
        if not run.kept:
            raise
        path = options.out / CHECKPOINT
        how = "continue with the same command and --resume"
        if isinstance(error, Diverged):  # which the same would do again
            how = f"begin with their weights by --init {path}, a lower --lr and another --out"
        raise type(error)(f"{error}; {run.kept} of {run.epochs} epochs are kept in {path}: {how}") from error


def compare(
    options: TrainOptions,
    device: Device,
    splits: data.Splits,
    watch: Watch | None = None,
    checkpoints: bool = False,
    spoil: Callable[[nn.Module], None] | None = None,
    monitor: Monitor | None = None,
) -> Comparison:
    """Trains and tests both. `spoil` changes the converted network first, for negative controls; `monitor` is the
    device's, by which epochs are measured."""
    network = partial(options.task.make, len(splits.classes))
    run = new_run(options, device, network)
    run.monitor = monitor
    if options.resume:
        restore(run, options)
    if spoil is not None:
        spoil(run.net)

    def on_epoch(run: Run) -> None:
        if checkpoints and run.meter is not None:
            keep(run, options)
        if watch is not None:
            watch.epoch(run)

    on_step = watch.step if watch is not None else None
    with saying_what_is_kept(run, options):
        fit(run, splits, options, on_step, on_epoch)
        net = finished(run, splits, options)
        test_accuracy = evaluate(net, splits.test)
        counters = run.meter.read() | observed.host_macs(run.method)
    if not options.fp32:
        return Comparison(run, net, None, test_accuracy, None, counters)
    fp32 = new_run(options, None, network, device.place)
    try:
        fit(fp32, splits, options, on_step, on_epoch)
    except Diverged as error:
        how = "leave it out with --no-fp32" + (", and go on with --resume" if run.kept else "")
        raise Diverged(f"of fp32, which is trained beside to compare: {error}, or {how}") from error
    return Comparison(run, net, fp32, test_accuracy, evaluate(fp32.net, splits.test), counters)


def train_and_compare(
    options: TrainOptions,
    device: Device | None = None,
    console: Console | None = None,
    measuring: measured.Measuring | None = None,
    opened: Callable[[Device], None] = lambda device: None,
) -> dict[str, Any]:
    """Trains on `options.device` (or on `device`, which stays open) and in fp32; writes checkpoint, result and report.
    With `measuring` joules are measured: the result has "sensed", too. `opened` gets the device before anything begins.

    Returns the object that `bitfirst train --json` prints. Progress goes to `console`, standard error by default.
    Raises `UsageError` for bad options, data that cannot be read, and divergence, `LinkError` when the device dies (the
    checkpoint stays).
    """
    from . import report  # matplotlib is slow to import

    console = console or Console(stderr=True)
    started = time.monotonic()
    try:
        options.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{options.out} cannot be made a directory ({error.strerror}): choose another --out") from None
    if options.resume:
        checkpoint.load(options.out / CHECKPOINT)  # fails before a device is opened
    else:
        refuse_to_overwrite(options.out / CHECKPOINT)
    splits = options.task.splits(options.train_images, options.eval_images)
    model = None if options.energy_model is None else energy_model.load(options.energy_model)
    board = device or bitfirst.open(options.device, trace=options.trace)
    try:
        opened(board)
        if model is not None:
            modelled(model, Meter(board).read(), board)  # what it cannot tell of is said before anything begins
        monitor = None if measuring is None else measuring.monitor(board)
        with host_settings(options.threads), Watch(console) as watch:
            comparison = compare(options, board, splits, watch, checkpoints=True, monitor=monitor)
            with saying_what_is_kept(comparison.run, options):
                layers = profile(comparison.run, splits, options)
                routing = _routing(comparison.net, splits.validation)
        result = {"task": task_of(options, splits), **summary(options, board, comparison, layers)}
        result["blocks"], result["routing"] = observed.blocks(comparison.run.net), routing
        if model is not None:
            result["energy"], about = modelled(model, comparison.counters, board)
            result["energy_model"] = about | {"training": training_energy(model, comparison.run, options)}
        if measuring is not None:
            status = console.status("measuring steps, phase by phase")
            with host_settings(options.threads), status, saying_what_is_kept(comparison.run, options):
                steps = measured_steps(comparison.run, splits, options, measuring)
            told = measured.summary(monitor, comparison.run.history, steps, options.batch, measuring.target)
            result["sensed"], result["energy"] = told, told["training"]["energy"]
    finally:
        if device is None:
            board.close()
    result["wall_s"] = time.monotonic() - started
    result["report"] = str(options.out / "report.html")
    report.write(result, options.out)
    (options.out / "result.json").write_text(json.dumps(result, indent=1))
    console.print(comparison_table(result))
    return result


def _routing(net: nn.Module, split: data.Split) -> dict[str, Any] | None:
    """`observed.routing`; None for sequences, which have no class."""
    if split.labels.ndim != 1:
        return None
    return observed.routing(net, data.in_order(split, EVALUATION_BATCH, place_of(net)))


def measured_steps(
    run: Run, splits: data.Splits, options: TrainOptions, measuring: measured.Measuring
) -> measured.Steps:
    """Steps of the network as it is, which is trained on by them: this comes last."""
    batches = epoch_batches(splits, options, options.epochs, place_of(run.net))
    how = run.optimizer, run.method, _cross_entropy, measuring.relative, measuring.limit_s
    return measured.steps(run.monitor, run.net, batches, *how)


def profile(run: Run, splits: data.Splits, options: TrainOptions) -> list[dict[str, Any]]:
    """Counters of each layer and phase in one training step more, whose results are dropped; of a model that does not
    count, "bit_macs" alone.
    """
    images, labels = epoch_batches(splits, options, options.epochs, place_of(run.net))[0]
    run.net.train()
    rows = observed.by_layer(
        layer_counters(run.net, lambda net: functional.cross_entropy(net(images), labels).backward())
    )
    device = run.meter.device
    if not device.counting:
        return [{name: row[name] for name in ("layer", "phase", "bit_macs")} for row in rows]
    for row in rows:
        cycles = row.get("cycles") or row["matmul_cycles"]
        row["utilisation"] = row["bit_macs"] / (device.config.bit_macs_per_cycle * cycles)
    return rows


def task_of(options: TrainOptions, splits: data.Splits) -> dict[str, Any]:
    """What was learnt, and of how many samples: `task` of the result."""
    counts = {name: len(getattr(splits, name)) for name in ("train", "validation", "test")}
    named = {"title": options.task.title, "data": options.task.data, "network": options.network}
    return named | {"classes": len(splits.classes), **counts}


def summary(
    options: TrainOptions, device: Device, comparison: Comparison, layers: list[dict[str, Any]]
) -> dict[str, Any]:
    """The result, all but `task`, `wall_s` and `report`."""
    counters = comparison.counters
    phases: dict[str, dict[str, int]] = {}
    for key, count in counters.items():
        phase, _, name = key.partition("/")
        if name:
            phases.setdefault(phase, {})[name] = count
    signs = {} if comparison.run.journal is None else {"signs": comparison.run.journal.summary(comparison.run.net)}
    return signs | {
        "method": {part.name: part.summary() for part in comparison.run.method.parts},
        "test_accuracy": comparison.test_accuracy,
        "fp32_test_accuracy": comparison.fp32_test_accuracy,
        "weights_sha256": weights_sha256(comparison.net),
        "device": options.device,
        **costs(counters, "cycles", "bit_macs", "bytes_moved"),
        "utilisation": utilisation(counters, device),
        "array_utilisation": utilisation(counters, device, "matmul_cycles"),
        "energy": energy.unavailable().as_dict(),
        "options": options.identity() | {"torch": torch.__version__},
        "identity": identity(device),
        "config": device.config.as_dict(),
        "bit_macs_per_cycle": device.config.bit_macs_per_cycle,
        "history": comparison.run.history,
        "fp32_history": [] if comparison.fp32 is None else comparison.fp32.history,
        "phases": phases,
        "layers": layers,
    }


def modelled(
    model: energy_model.EnergyModel, counters: dict[str, int], device: Device
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Energy by these counters, as `--json` has it; and by what it was modelled, of which parts."""
    amounts = energy_model.activity(energy_model.summed(counters), device.config)
    found = model.energy(amounts, device.config)
    return found.as_dict(), model.about_parts(amounts, device.config)


def training_energy(model: energy_model.EnergyModel, run: Run, options: TrainOptions) -> dict[str, Any] | None:
    """Of the training steps alone: as of `Energy.as_dict`, and what that is of each "step_j", "sample_j" and "epoch_j",
    joules. None where their counters are not known (after a checkpoint without them), or there was no step."""
    last = run.history[-1] if run.history else {}
    if not (last.get("training_counters") and last["steps"]):
        return None
    config = run.meter.device.config
    energy = model.energy(energy_model.activity(last["training_counters"], config), config)
    per_step = energy.total_j / last["steps"]
    each = {"step_j": per_step, "sample_j": per_step / options.batch, "epoch_j": energy.total_j / len(run.history)}
    return energy.as_dict() | each


def identity(device: Device) -> dict[str, Any]:
    """What the device says of itself beyond its configuration."""
    fingerprint = getattr(device, "fingerprint", None)  # the golden model has none
    contract = {"contract_version": CONTRACT_VERSION}
    return contract if fingerprint is None else contract | {"fingerprint": f"{fingerprint:016x}"}


def comparison_table(result: dict[str, Any]) -> Table:
    """The end of a training, for people."""
    title = result["task"]["title"]
    table = Table(
        title=f"{title[0].upper()}{title[1:]}" + (", the same network twice" if result["fp32_history"] else "")
    )
    bits = result["options"]["bits"]
    table.add_column("")
    table.add_column(result["device"], justify="right")
    table.add_column("fp32 on the host", justify="right")
    table.add_row("test accuracy", *(_share(result[key]) for key in ("test_accuracy", "fp32_test_accuracy")))
    for name, key in ("validation accuracy", "validation_accuracy"), ("last training loss", "loss"):
        show = _share if key == "validation_accuracy" else _loss_text
        last = [result[runs][-1][key] if result[runs] else None for runs in ("history", "fp32_history")]
        table.add_row(name, *map(show, last))
    table.add_row("bits of x, w, g", f"{bits['activation']}, {bits['weight']}, {bits['gradient']}", "32, 32, 32")
    table.add_row("device cycles", f"{result['cycles']:,}" if result["cycles"] else "-", "-")
    for key in "utilisation", "array_utilisation":
        table.add_row(key.replace("_", " "), f"{result[key]:.1%}" if result[key] else "-", "-")
    table.add_row("bytes on the link", f"{result['bytes_moved']:,}" if result["bytes_moved"] is not None else "-", "-")
    table.add_row("energy", str(energy.Energy(**result["energy"])), "-")
    table.caption = f"weights sha256 {result['weights_sha256'][:16]}, report {result['report']}"
    return table


# several seeds
def shuffled(splits: data.Splits, seed: int) -> data.Splits:
    """Negative control: the training labels in another order."""
    order = torch.randperm(len(splits.train), generator=torch.Generator().manual_seed(seed))
    return replace(splits, train=replace(splits.train, labels=splits.train.labels[order]))


def randomise_gradients(seed: int) -> Callable[[nn.Module], None]:
    """Negative control: the gradient at each converted layer's output gets random signs."""
    generator = torch.Generator().manual_seed(seed)

    def randomise(gradient: torch.Tensor) -> torch.Tensor:
        return gradient * (torch.randint(0, 2, gradient.shape, generator=generator) * 2 - 1).to(gradient.device)

    def watch_output(_: nn.Module, __: object, output: torch.Tensor) -> None:
        if output.requires_grad:
            output.register_hook(randomise)

    def spoil(net: nn.Module) -> None:
        for layer in net.modules():
            if hasattr(layer, "connection"):
                layer.register_forward_hook(watch_output)

    return spoil


def interval(values: list[float]) -> tuple[float, float, float]:
    """(mean, low, high): 95 % interval of the mean, by Student's t; at least two values."""
    from scipy import stats  # slow to import

    tensor = torch.tensor(values, dtype=torch.float64)
    mean = tensor.mean().item()
    half = float(stats.t.ppf(0.975, len(values) - 1)) * tensor.std().item() / math.sqrt(len(values))
    return mean, mean - half, mean + half


CONTROLS = ("labels", "gradients")
ACCURACY_GOAL = 0.95
DIFFERENCE_GOAL = 0.015


def train_many(
    seeds: list[int],
    options: TrainOptions,
    device: Device | None = None,
    control: str | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """One comparison for each seed; the mean test accuracy and the 95 % interval of the paired difference to fp32.

    `control`: "labels" (shuffled) or "gradients" (random signs) must make `passed` False.
    """
    if len(seeds) < 2 or len(set(seeds)) < len(seeds):
        raise UsageError("an interval needs at least two different seeds")
    if control not in (None, *CONTROLS):
        raise UsageError(f"control {control!r} is unknown; choose from {', '.join(CONTROLS)}")
    splits = data.digits()
    board = device or bitfirst.open(options.device, trace=None)
    rows = []
    try:
        with host_settings(options.threads), Watch(console or Console(stderr=True)) as watch:
            for seed in seeds:
                comparison = compare(
                    replace(options, seed=seed, resume=False),
                    board,
                    shuffled(splits, seed) if control == "labels" else splits,
                    watch,
                    spoil=randomise_gradients(seed) if control == "gradients" else None,
                )
                rows.append(
                    {
                        "seed": seed,
                        "test_accuracy": comparison.test_accuracy,
                        "fp32_test_accuracy": comparison.fp32_test_accuracy,
                        "difference": comparison.test_accuracy - comparison.fp32_test_accuracy,
                        "weights_sha256": weights_sha256(comparison.net),
                    }
                )
    finally:
        if device is None:
            board.close()
    mean, low, high = interval([row["difference"] for row in rows])
    test_accuracy = sum(row["test_accuracy"] for row in rows) / len(rows)
    return {
        "device": options.device,
        "control": control,
        "options": options.identity() | {"seed": None},
        "seeds": rows,
        "test_accuracy": test_accuracy,
        "fp32_test_accuracy": sum(row["fp32_test_accuracy"] for row in rows) / len(rows),
        "difference": mean,
        "difference_interval": [low, high],
        "passed": test_accuracy >= ACCURACY_GOAL and low >= -DIFFERENCE_GOAL and high <= DIFFERENCE_GOAL,
    }
