"""The power monitor of an open device."""

import time
from collections.abc import Sequence

import numpy as np
from bitfirst_hdl.contract.packets import Opcode, Phase, Space
from bitfirst_hdl.contract.registers import is_built

from ..board import BoardDevice
from ..command import Command
from ..device import Device
from ..energy import Provenance
from ..errors import UsageError
from ..transports import RtlTransport


class BoardPort:
    """A `PowerPort` on a device with the feature "power". Raises `UsageError` for one that has it not.

    simulated  of a device behind a port or a network: why its figures are no measured ones, or None
    """

    def __init__(self, board: Device) -> None:
        if not isinstance(board, BoardDevice) or not board.config.measures:
            raise UsageError(
                f"{board.url} has no power monitor: take a configuration with the feature power, as rtl:power"
            )
        self.device, self.bus = board, board.config.sensor_bus
        self.clock_hz = board.config.clock_khz * 1e3
        built, linked = is_built(board.fingerprint), not board.transport.deterministic
        self.provenance = Provenance.MEASURED if built and linked else Provenance.SIMULATED
        self.simulated = _why(board) if linked and not built else None

    def write(self, row: int, word: int) -> None:
        place = {"space": Space.POWER, "rows": 1, "words": 1, "row": row, "word": 0}
        self.device.execute(Command(Opcode.WRITE, place, np.array([word], np.uint64)))

    def read(self, first: int, count: int) -> list[int]:
        words = self.device.execute(Command(Opcode.READ, {"space": Space.POWER, "first": first, "count": count}))
        return [int(word) for word in words]

    def wait(self, cycles: int) -> None:
        """By the device's cycles where they are simulated, else by its nominal clock."""
        if isinstance(self.device.transport, RtlTransport):
            self.device.transport.advance(cycles)
        else:
            time.sleep(cycles / self.clock_hz)

    def phase(self, number: int) -> None:
        self.device.mark(Phase(number))

    @property
    def returns_to_rest(self) -> Sequence[int]:
        return self.device.returns_to_rest


def _why(board: BoardDevice) -> str:
    what = "that it is a simulation" if board.fingerprint else "that no build made it: it is 0"
    return f"the fingerprint of {board.url} says {what}; its figures are {Provenance.SIMULATED}"
