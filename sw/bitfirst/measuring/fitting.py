"""Coefficients of energy for a board (`energy_fit`), by windows of work that differs: one product each, and rests."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from bitfirst_hdl.contract.packets import Phase

from ..device import ADDITIVE_COUNTERS, Device
from ..energy_fit import Fit, fit
from ..errors import UsageError
from ..quantiser import quantise
from .monitor import Monitor
from .uncertainty import K
from .windows import Reading

WINDOWS = 24
SAMPLES = 16  #: of images in a product, at most
WAITS = (0.0, 0.5, 2.0)  #: seconds of rest in a run, over its work's: so that cycles are told from work
RUN_SAMPLES = 30  #: that a run takes, about
LEAST_SHARE = 0.8  #: of windows that must be resolved


@dataclass(frozen=True)
class Work:
    """A convolution, or its gradients, of operands of `bits`, over and over; in each run a `rest`, relative to that."""

    samples: int
    channels: int
    outputs: int
    size: int
    kernel: int
    bits: tuple[int, int]
    gradients: bool
    rest: float

    def __str__(self) -> str:
        kind = "gradients of " if self.gradients else ""
        shape = f"{self.samples} x {self.channels} x {self.size} x {self.size} to {self.outputs}"
        return f"{kind}convolution {self.kernel} x {self.kernel}, {shape}, {self.bits[0]} x {self.bits[1]} bits"


def drawn(count: int, seed: int = 0) -> Iterator[Work]:
    """Work of all kinds."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        yield Work(
            samples=int(rng.integers(1, SAMPLES + 1)),
            channels=int(rng.choice([1, 3, 8, 16, 32])),
            outputs=int(rng.choice([4, 8, 16, 32])),
            size=int(rng.choice([4, 6, 8])),
            kernel=int(rng.choice([1, 3])),
            bits=tuple(int(bits) for bits in rng.choice([2, 4, 6, 8], 2)),
            gradients=bool(number % 2),
            rest=WAITS[number % len(WAITS)],
        )


def prepare(device: Device, work: Work, seed: int) -> Callable[[], None]:
    """What does it once."""
    rng = torch.Generator().manual_seed(seed)
    padding = work.kernel // 2
    x = torch.randn(work.samples, work.channels, work.size, work.size, generator=rng)
    w = torch.randn(work.outputs, work.channels, work.kernel, work.kernel, generator=rng)
    g = torch.randn(work.samples, work.outputs, work.size, work.size, generator=rng)
    a, b = work.bits
    if work.gradients:
        return lambda: device.conv2d_gradients(quantise(g, a), quantise(x, b), quantise(w, b), padding=padding)
    return lambda: device.conv2d(quantise(x, a), quantise(w, b), padding=padding)


def windows(
    monitor: Monitor,
    count: int = WINDOWS,
    relative: float = 0.02,
    limit_s: float = 4.0,
    seed: int = 0,
    on_window: Callable[[Work], None] = lambda work: None,
) -> tuple[list[dict[str, float]], list[Reading]]:
    """Counters of a run of each, and what it took; work that cannot be resolved is left out.

    Raises `UsageError` where there is no sensor, or too little was resolved.
    """
    if monitor.unavailable is not None:
        raise UsageError(f"nothing to fit to: {monitor.unavailable}")
    counts, readings, refused = [], [], ""
    for number, work in enumerate(drawn(count, seed)):
        on_window(work)
        grown, reading = _window(monitor, work, number, relative, limit_s)
        if reading.unresolved is not None:
            refused = reading.unresolved
            continue
        counts.append(grown)
        readings.append(reading)
    if len(counts) < LEAST_SHARE * count:
        raise UsageError(f"{count - len(counts)} of {count} windows have no figure, such as: {refused}")
    return counts, readings


def _window(
    monitor: Monitor, work: Work, seed: int, relative: float, limit_s: float
) -> tuple[dict[str, float], Reading]:
    device, do = monitor.device, prepare(monitor.device, work, seed)
    seconds = seconds_of(monitor, do)
    times = math.ceil(RUN_SAMPLES * monitor.sample_s / seconds)
    before = _counters(device)
    with device.window(str(work), phase=None, relative=relative, limit_s=limit_s, seed=seed) as window:
        for _ in window.replays():
            for _ in range(times):
                do()
            if work.rest:
                monitor.wait(work.rest * times * seconds)
    runs = max(window.reading.replays, 1)  # none where it has no figure
    return {name: (count - before[name]) / runs for name, count in _counters(device).items()}, window.reading


def seconds_of(monitor: Monitor, do: Callable[[], None]) -> float:
    """Of the device, for doing it once."""
    device = monitor.device
    device.enter(Phase.OTHER)
    before = _counters(device)["cycles"]
    do()
    device.enter(Phase.OTHER)
    return (_counters(device)["cycles"] - before) / monitor.port.clock_hz


def _counters(device: Device) -> dict[str, int]:
    """So far, of the phases that a window's runs are in."""
    found = dict.fromkeys(ADDITIVE_COUNTERS, 0)
    for phase, counters in device.phase_counters.items():
        if phase != Phase.OTHER:
            for name, count in counters.items():
                found[name] += count
    return found


def fitted(monitor: Monitor, name: str, count: int = WINDOWS, **options: object) -> Fit:
    """Coefficients of the monitor's device, of its windows. Raises `UsageError` as `windows` and `energy_fit.fit`."""
    counts, readings = windows(monitor, count, **options)
    own = [replace(one.total, uncertainty_j=K * one.own_j) for one in readings]
    gain = max(one.gain for one in readings)
    offset_j = max(one.offset_watts for one in readings) / monitor.port.clock_hz
    return fit(counts, own, monitor.device.config, name, gain=gain, offset_j=offset_j)
