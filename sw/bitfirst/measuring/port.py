"""How the host reaches a device's power monitor."""

from collections.abc import Sequence
from typing import Protocol


class PowerPort(Protocol):
    """The space POWER (`bitfirst_hdl.contract.power`) of a device, and the passing of its time.

    clock_hz         nominal clock of the device
    provenance       "measured" for a board, "simulated" for simulated rails
    returns_to_rest  by phase: times that it was left for phase 0
    """

    clock_hz: float
    provenance: str
    returns_to_rest: Sequence[int]

    def write(self, row: int, word: int) -> None:
        """One word of 64 bits into `row`."""

    def read(self, first: int, count: int) -> list[int]:
        """`count` words from `first` on, at most 512."""

    def wait(self, cycles: int) -> None:
        """Returns when at least so many cycles of the device have passed."""

    def phase(self, number: int) -> None:
        """Sets the phase that the device is in from now on."""
