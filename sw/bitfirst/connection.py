"""A layer's way to its device."""

import itertools
import weakref
from typing import Any

from bitfirst_hdl.contract.packets import Phase

from . import host_work
from .device import Device
from .errors import UsageError

# The operators take a number in place of the device, so that a compiled graph holds no object.
_numbers = itertools.count(1)
_connections: "weakref.WeakValueDictionary[int, Connection]" = weakref.WeakValueDictionary()


class Connection:
    """A layer's way to its device: shared by copies, empty after unpickling."""

    def __init__(self, device: Device | None = None) -> None:
        self.device = device
        self.measured: list[dict[str, Any]] | None = None  # rows of `layer_counters`, while it runs
        self.number = next(_numbers)
        _connections[self.number] = self

    def __copy__(self) -> "Connection":
        return self

    def __deepcopy__(self, memo: dict[int, object]) -> "Connection":
        return self

    def __reduce__(self) -> tuple[type["Connection"], tuple[()]]:
        return Connection, ()


def measured(number: int) -> bool:
    """Whether `layer_counters` is at work: it tells dX and dW apart."""
    connection = _connections.get(number)
    return connection is not None and connection.measured is not None


def compute(number: int, name: str, phase: Phase, operation: str, *arguments: Any, **more: Any) -> Any:
    """What the device's `operation` returns; none of it is the host's work."""
    with host_work.left_out():
        return _compute(number, name, phase, operation, *arguments, **more)


def _compute(number: int, name: str, phase: Phase, operation: str, *arguments: Any, **more: Any) -> Any:
    connection = _connections.get(number)
    if connection is None or connection.device is None:
        raise UsageError(f"layer {name} has no device: give the loaded module to bitfirst.convert(module, device)")
    device, rows = connection.device, connection.measured
    if rows is None:
        return getattr(device, operation)(*arguments, **more)
    device.mark(Phase.OTHER)
    counters, bit_macs = dict(device.phase_counters.get(phase, {})), device.bit_macs
    result = getattr(device, operation)(*arguments, **more)
    device.mark(Phase.OTHER)
    grown = {key: count - counters.get(key, 0) for key, count in device.phase_counters[phase].items()}
    rows.append({"layer": name, "phase": phase.name.lower(), "bit_macs": device.bit_macs - bit_macs, **grown})
    return result
