"""PSG on a board, on captured gradients: signs as the golden model's, and cycles over those of the whole product."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import open as open_device
from ..board import BoardDevice
from ..device import Device
from ..errors import UsageError
from ..golden.psg import Decision, Mode, Rule, Split, State, Threshold, beta_units
from ..lowering import Geometry, WeightGradient
from ..quantised import Quantised
from ..residency import issue
from ..schedule import schedule
from .psg_capture import G_BITS, X_BITS, X_LOW, Captured, capture_steps, read_captures

PREDICTOR, G_LOW, REPAIR, BETA = "4x10 round", 6, True, 0.05
NEVER = 2.0**200  #: a threshold that no prediction reaches
#: tau -> (beta, threshold); by the last one all that can be finished is finished
CASES = {
    "exact": (BETA, Threshold(Mode.EXACT, beta_units(BETA))),
    "lagged": (BETA, Threshold(Mode.LAGGED, beta_units(BETA))),
    "never": (None, Threshold(Mode.CONSTANT, constant=NEVER)),
}


def check(device_url: str, folder: Path, steps: int) -> Iterator[dict[str, Any]]:
    """A row for each case of `CASES` and each of three complete layers, one a stage, in the middle of the run.

    `failures`: elements whose sign, or whose being resolved, is not the golden model's. `cycle_work`: cycles over
    those of the whole product, operands sent and no result read back.
    """
    before, step = _middle(steps)
    with open_device(device_url) as device, open_device("model?counting=0") as model:
        if not isinstance(device, BoardDevice):
            raise UsageError(f"{device_url} has no clock: give rtl, rtl:CONFIG or a board")
        earlier = {captured.layer: captured for captured in read_captures(folder, before)}
        for captured in _one_of_each_stage(folder, step):
            whole = _cycles_of_the_whole(device, captured)
            state = _decide(model, earlier[captured.layer], Threshold()).state
            for tau, (beta, threshold) in CASES.items():
                expected = _decide(model, captured, threshold, state)
                device.forget_tensors()
                start = device.settle()["cycles"]
                found = _decide(device, captured, threshold, state)
                cycles = device.settle()["cycles"] - start
                yield {
                    "layer": captured.layer,
                    "step": step,
                    "predictor": PREDICTOR,
                    "repair": REPAIR,
                    "beta": beta,
                    "tau": tau,
                    "elements": found.signs.numel(),
                    "resolved": found.resolved.double().mean().item(),
                    "failures": failures(found, expected),
                    "cycles": cycles,
                    "cycle_work": cycles / whole,
                }


def failures(found: Decision, expected: Decision) -> int:
    """Elements that differ; all of them where the threshold, the state or the work does."""
    if any(getattr(found, name) != getattr(expected, name) for name in ("threshold", "unit", "state", "done", "saved")):
        return found.signs.numel()
    return int(((found.signs != expected.signs) | (found.resolved != expected.resolved)).sum())


def _middle(steps: int) -> tuple[int, int]:
    """The step captured in the middle of the run, and the one before it."""
    before, step = sorted(capture_steps(steps))[2:4]
    return before, step


def _one_of_each_stage(folder: Path, step: int) -> Iterator[Captured]:
    """The first 3 x 3 convolution of each width that keeps it."""
    seen = set()
    for captured in read_captures(folder, step):
        width = captured.g.shape[1]
        if captured.x.shape[1] == width and width not in seen:
            seen.add(width)
            yield captured


def _operands(captured: Captured) -> tuple[Quantised, Quantised, tuple[int, ...]]:
    """g, x and the weight's shape."""
    g = Quantised(captured.g.float(), G_BITS, True, captured.g_exponent)
    x = Quantised(captured.x.float(), X_BITS, captured.x_signed, captured.x_exponent)
    return g, x, (g.values.shape[1], x.values.shape[1], captured.taps, captured.taps)


def _decide(device: Device, captured: Captured, threshold: Threshold, state: State | None = None) -> Decision:
    g, x, shape = _operands(captured)
    rule = Rule(Split(X_BITS, X_LOW, captured.x_signed), Split(G_BITS, G_LOW, True), threshold, REPAIR)
    return device.conv2d_weight_signs(g, x, shape, rule, captured.stride, captured.padding, state)


def _cycles_of_the_whole(device: BoardDevice, captured: Captured) -> int:
    """Of dW at full width, from an empty store; no result is read back."""
    g, x, shape = _operands(captured)
    operation = WeightGradient(g, x, Geometry.of(x.values.shape, shape, captured.stride, captured.padding))
    device.forget_tensors()
    start = device.settle()["cycles"]
    for command, _ in issue(schedule(device.config, replace(operation.task, sum_bits=0)), device.store, operation):
        device.submit(command)
    return device.settle()["cycles"] - start
