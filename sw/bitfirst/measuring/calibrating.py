"""A calibration against a meter, at rest and at work: who reads the meter is asked for its watts."""

import math
from collections.abc import Callable

from .calibration import Calibration, Load, calibrate
from .fitting import Work, prepare, seconds_of
from .monitor import Monitor
from .uncertainty import RECTANGLE

#: Fills the array for a while: a layer of a network, over and over.
FULL = Work(samples=16, channels=32, outputs=32, size=8, kernel=3, bits=(8, 8), gradients=True, rest=0.0)
Ask = Callable[[str], float]


def rest_and_work(monitor: Monitor, ask: Ask, seconds: float, meter_error: float) -> Calibration:
    """Of the monitor's only rail.

    ask          what the meter said, in watts, as the mean of the time that its text tells of
    seconds      of the device, of each load
    meter_error  limit of the meter's error, relative

    Raises `UsageError` for another number of rails, and as `calibrate`.
    """
    (rail,) = monitor.rails
    do = prepare(monitor.device, FULL, 0)
    times = math.ceil(seconds / seconds_of(monitor, do))

    def works() -> None:
        for _ in range(times):
            do()

    loads = []
    for name, work in ("rest", None), ("work", works):
        ((watts, error),) = monitor.steady(seconds, work)
        meter = ask(f"Watts by the meter, mean of the last {seconds:g} s, at {name} (the sensor says {watts:.4g})")
        loads.append(Load(watts, error, meter, meter * meter_error / RECTANGLE))
    return calibrate(rail, loads, monitor.port.provenance)
