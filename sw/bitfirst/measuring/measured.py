"""A training whose joules are measured: each epoch as it was, then steps of the trained network, phase by phase."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import reduce
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from bitfirst_hdl.contract.packets import Phase

from .. import loop
from ..device import Device
from ..energy import Energy, Provenance, Scope, unavailable
from ..errors import DeviceError, UsageError
from . import shown
from .board_port import BoardPort
from .calibration import Calibration
from .monitor import Absent, Monitor
from .sensors import Rail
from .uncertainty import K
from .windows import Reading, Window, none

if TYPE_CHECKING:
    from ..methods import Method

T = TypeVar("T")

#: What a step consists of, in its order; dX and dW of layer after layer go to and fro, so they are one.
PARTS = {
    "forward": (Phase.FORWARD,),
    "backward": (Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT, Phase.BACKWARD),
    "update": (Phase.UPDATE,),
}
WHOLE_STEP = "step"


@dataclass(frozen=True)
class Measuring:
    """How a training is measured.

    rails     what sensors there are; or what says so of an open device, raising `UsageError` where there are none
    sample_s, calibrations   as of `Monitor`
    relative  the uncertainty (k = 2) of a step's energy above rest, relative, that steps go on for
    limit_s   seconds of the device after which no further steps begin
    target    validation accuracy, of which the joules until then are told; None for none
    say       for a line about a device on a link whose figures are no measured ones

    Raises `UsageError` for what cannot be.
    """

    rails: tuple[Rail, ...] | Callable[[Device], tuple[Rail, ...]]
    sample_s: float | None = None
    calibrations: tuple[Calibration, ...] = ()
    relative: float = 0.01
    limit_s: float = 20.0
    target: float | None = None
    say: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        if not 0 < self.relative < 1:
            raise UsageError(f"relative = {self.relative} must be over 0 and below 1: 0.01 for 1 %")
        if not 0 < self.limit_s < float("inf"):
            raise UsageError(f"limit_s = {self.limit_s} must be seconds, over 0")
        if self.target is not None and not 0 < self.target <= 1:
            raise UsageError(f"target = {self.target} must be an accuracy over 0, up to 1, such as 0.95")

    def monitor(self, device: Device) -> Monitor:
        """Of an open device. Raises as `Monitor`."""
        rails = self.rails(device) if callable(self.rails) else self.rails
        why = BoardPort(device).simulated
        if why is not None:
            self.say(why)
        return Monitor.of(device, rails, sample_s=self.sample_s, calibrations=self.calibrations)


def whole(monitor: Monitor, name: str, work: Callable[[Window], T]) -> tuple[T, Reading]:
    """`work(window)`, done once, and what it took. A sensor's fault costs the figure, not the work."""
    window = monitor.window(name, phase=None)
    try:
        window.__enter__()
    except DeviceError as error:
        monitor.clear()
        return work(Window(Absent(str(error)), name)), none(name, str(error), monitor.scope)
    try:
        found = work(window)
    except BaseException:
        window.__exit__(*sys.exc_info())
        raise
    try:
        window.__exit__(None, None, None)
    except DeviceError as error:
        monitor.clear()
        return found, none(name, str(error), monitor.scope)
    return found, window.reading


@dataclass
class Steps:
    """Steps of one network on batches in turn, phase by phase.

    step     a reading of the mean of them
    parts    of each of `PARTS` that there was
    records  the last samples, as of `Monitor.records`
    """

    step: Reading
    parts: list[Reading] = field(default_factory=list)
    records: np.ndarray | None = None

    @property
    def sum(self) -> Energy:
        """Of the parts; none where one has none."""
        return added([one.total for one in self.parts]) if self.parts else unavailable(self.step.total.scope)

    @property
    def gap_j(self) -> float | None:
        """By which the parts are more than the step; None where one is not known."""
        ours, theirs = self.sum.total_j, self.step.total.total_j
        return None if ours is None or theirs is None else ours - theirs

    @property
    def adds_up(self) -> bool | None:
        """Whether the parts are the step, within what each has of its own (k = 2): the sensors' gain and offset are the
        same in all, and excuse no gap."""
        if self.gap_j is None:
            return None
        return abs(self.gap_j) <= K * math.hypot(self.step.own_j, *(one.own_j for one in self.parts))


def steps(
    monitor: Monitor,
    net: torch.nn.Module,
    batches: Sequence[tuple[torch.Tensor, torch.Tensor]],
    optimizer: torch.optim.Optimizer,
    method: "Method",
    loss: loop.Loss,
    relative: float = 0.01,
    limit_s: float = 20.0,
) -> Steps:
    """Trains on, so many steps as it takes until one is known to `relative` (k = 2), at most `limit_s` of the device.

    The network, its optimiser and the method are not as before afterwards: give copies, or what is at its end.
    """
    device = monitor.device
    if monitor.unavailable is not None:
        return Steps(none(WHOLE_STEP, monitor.unavailable, monitor.scope))
    seen = _phases_of(device, lambda: _on(net, _Once(batches), optimizer, method, loss))
    order = [(phases, name) for name, phases in PARTS.items() if seen & set(phases)]
    window = monitor.window(WHOLE_STEP, phase=None, order=order, relative=relative, limit_s=limit_s)
    try:
        with window:
            _on(net, _Replayed(batches, window), optimizer, method, loss)
    except (DeviceError, UsageError) as error:
        monitor.clear()
        return Steps(none(WHOLE_STEP, str(error), monitor.scope))
    return Steps(window.reading, window.phases, window.records)


def _phases_of(device: Any, work: Callable[[], None]) -> set[Phase]:
    """In which the device did something."""
    device.enter(Phase.OTHER)
    before = {phase: counters.get("cycles", 0) for phase, counters in device.phase_counters.items()}
    work()
    device.enter(Phase.OTHER)
    after = {phase: counters.get("cycles", 0) for phase, counters in device.phase_counters.items()}
    return {phase for phase, cycles in after.items() if cycles > before.get(phase, 0)}


class _Done(IndexError):
    """No further batch is wanted. As an `IndexError` it ends what goes through a sequence, too."""


class _Once(Sequence[Any]):
    """The first of these batches that is taken."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self.batches, self.taken = batches, 0

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: Any) -> Any:
        if self._is_over():
            raise _Done
        self.taken += 1
        return self.batches[(self.taken - 1) % len(self.batches)]

    def _is_over(self) -> bool:
        return self.taken > 0


class _Replayed(_Once):
    """A batch for each replay of the window, in turn: when the next is asked for, the step before is done. A batch that
    is dropped is not asked for, so that each replay is a step."""

    def __init__(self, batches: Sequence[Any], window: Window) -> None:
        super().__init__(batches)
        self.replays: Iterator[int] = window.replays()

    def _is_over(self) -> bool:
        return next(self.replays, None) is None


def _on(
    net: torch.nn.Module, batches: _Once, optimizer: torch.optim.Optimizer, method: "Method", loss: loop.Loss
) -> None:
    with suppress(_Done):  # by a method that asks for batches by their numbers
        loop.epoch(net, batches, optimizer, method, loss)


# what a training took
def summary(monitor: Monitor, history: Sequence[dict[str, Any]], found: Steps, batch: int, target: float | None) -> Any:
    """`sensed` of the result of a training.

    history  rows with "sensed", `Reading.as_dict` of the epoch, and "steps" so far
    batch    samples in a step
    target   validation accuracy, of which the joules until then are told; None for none
    """
    energies = [epoch_energy(row) for row in history]
    return {
        "sensors": [
            {
                "name": rail.name,
                "kind": rail.kind,
                "address": rail.address,
                "shunt_ohm": rail.shunt_ohm,
                "scope": str(rail.scope),
                "page": rail.page if rail.regulates else None,
                "power": rail.power if rail.regulates else None,
                "output_watts": watts,
                "calibrated": calibration is not None,
            }
            for rail, calibration, watts in zip(monitor.rails, monitor.calibrations, monitor.output_watts, strict=True)
        ],
        "unavailable": monitor.unavailable,
        "training": of_training(energies, history, batch),
        "target": None if target is None else to_target(target, energies, history),
        "step": found.step.as_dict(),
        "phases": [one.as_dict() for one in found.parts],
        "phases_sum": found.sum.as_dict(),
        "phases_gap_j": found.gap_j,
        "phases_add_up": found.adds_up,
        "trace": trace(monitor, found),
    }


def as_now(history: list[dict[str, Any]], *results: dict[str, Any]) -> None:
    """Of files that earlier versions wrote, which had "measured" for "sensed", simulated or not: changes them."""
    for one in (*history, *results):
        if "measured" in one:
            one["sensed"] = one.pop("measured")


def epoch_energy(row: dict[str, Any]) -> Energy:
    """Of an epoch in a history."""
    told = row.get("sensed")
    if told is None:
        return unavailable(Scope.BOARD)
    if told["energy_j"] is None:
        return unavailable(Scope(told["scope"]))
    return Energy(
        told["energy_j"],
        told["uncertainty_j"],
        Provenance(told["provenance"]),
        Scope(told["scope"]),
        told["extrapolated"],
    )


def joined(first: dict[str, Any] | None, second: dict[str, Any]) -> dict[str, Any]:
    """Of two windows one after another, each as of `Reading.as_dict`; the first may be missing. Without a figure where
    one has none."""
    names = ("energy_j", "dynamic_j"), ("uncertainty_j", "dynamic_uncertainty_j")
    if first is None or None in (first["energy_j"], second["energy_j"]):
        why = "an epoch was trained without measuring" if first is None else first["unresolved"] or second["unresolved"]
        return second | dict.fromkeys(chain(*names)) | {"provenance": "unavailable", "unresolved": why}
    summed = (*chain(*names), "seconds", "spans", "rests")
    return first | {name: first[name] + second[name] for name in summed}


def added(energies: Sequence[Energy]) -> Energy:
    """Of all of them; none where one has none, or there is none."""
    known = [one for one in energies if one.total_j is not None]
    if not known or len(known) < len(energies):
        return unavailable(known[0].scope if known else Scope.BOARD)
    return reduce(Energy.__add__, known)


def of_training(energies: Sequence[Energy], history: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Joules of all epochs, without validation and test: "energy"; and what that is of each "step", "sample", "epoch",
    (joules, uncertainty at k = 2)."""
    total = added(energies)
    found: dict[str, Any] = {"energy": total.as_dict()}
    counts = {"step": history[-1]["steps"], "epoch": len(history)} if history else {}
    counts |= {"sample": counts["step"] * batch} if history else {}
    for name, count in counts.items():
        known = total.total_j is not None and count
        found[f"{name}_j"] = total.total_j / count if known else None
        found[f"{name}_uncertainty_j"] = total.uncertainty_j / count if known else None
    return found


def to_target(target: float, energies: Sequence[Energy], history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joules to the end of the first epoch whose validation accuracy is `target`: "epoch", "energy"; of all epochs, and
    "censored", where there is none."""
    reached = next((row["epoch"] for row in history if row["validation_accuracy"] >= target), None)
    energy = added(energies[: len(history) if reached is None else reached])
    return {"accuracy": target, "epoch": reached, "censored": reached is None, "energy": energy.as_dict()}


def trace(monitor: Monitor, found: Steps) -> dict[str, Any]:
    """The last samples of the steps: "rails", seconds and watts by name; "phases", [begin_s, end_s, name]."""
    if found.records is None:
        return {"rails": {}, "phases": []}
    names = {int(phase): name for name, phases in PARTS.items() for phase in phases}
    rails = shown.traces(monitor, found.records)
    return {
        "rails": {name: {"seconds": one.seconds.tolist(), "watts": one.watts.tolist()} for name, one in rails.items()},
        "phases": [list(span) for span in shown.phases(monitor, found.records, names)],
    }
