"""What a simulated device takes from its supply, and the sensors there."""

import math
from dataclasses import astuple, dataclass

from bitfirst.errors import UsageError
from bitfirst_hdl.config import ArrayConfig

from .sensors import KINDS, SimulatedRail

CORE_VOLTS = 1.0  # of a regulator
NEVER_S = 1e300  # for `inf`, which not every C++ library reads
XADC_OHM = 0.25  # volts for an ampere, as on an Arty A7


@dataclass(frozen=True)
class Supply:
    """Of no board: numbers with which a clock of some MHz takes a watt or so, half of it for work.

    rails          with a chip each, that all carry the whole current
    idle_watts     whatever the device does
    *_joules       for each array step, each cycle of a LOAD and of an UPDATE, and each word of the link
    """

    rails: tuple[SimulatedRail, ...]
    idle_watts: float = 0.5
    step_joules: float = 250e-9
    load_joules: float = 80e-9
    update_joules: float = 80e-9
    rx_word_joules: float = 50e-9
    tx_word_joules: float = 50e-9

    def numbers(self, clock_hz: float) -> str:
        """As rails.hpp reads them."""
        joules = self.step_joules, self.load_joules, self.update_joules, self.rx_word_joules, self.tx_word_joules
        numbers = [clock_hz, self.idle_watts, *joules, len(self.rails)]
        for rail in self.rails:
            numbers += [rail.number, *(NEVER_S if math.isinf(number) else number for number in astuple(rail)[1:])]
        return " ".join(map(repr, numbers))


def alone(kind: str | None, config: ArrayConfig) -> Supply | None:
    """A supply with one sensor, None for none. Raises `UsageError` where there can be none."""
    if kind is None:
        return None
    if kind not in KINDS:
        raise UsageError(f"sensor {kind!r} is unknown; choose from {', '.join(KINDS)}")
    if not config.measures:
        raise UsageError(
            f"there are no pins for sensor {kind}: take a configuration with the feature power, as rtl:power"
        )
    given = {"ucd9248": {"supply_volts": CORE_VOLTS}, "xadc": {"shunt_ohm": XADC_OHM}}
    rail = SimulatedRail(kind, **given.get(kind, {}))
    if rail.bus != config.sensor_bus:
        mends = [f"leave out the feature {config.sensor_bus}"] if config.sensor_bus != "i2c" else []
        mends += [f"add the feature {rail.bus}"] if rail.bus != "i2c" else []
        raise UsageError(f"sensor {kind} is on a bus of {rail.bus.upper()}: {' and '.join(mends)}")
    return Supply((rail,))
