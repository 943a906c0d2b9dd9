"""Simulated power monitors: INA226, INA228 and INA219 on an I2C bus, INA229 on an SPI bus, and UCD9248, a regulators'
controller, on a PMBus, as sensors.hpp models them; and the converter in a Xilinx chip, as xadc.hpp does.

`drawn` gives a chip with the errors of one out of the box; `SensorBus` is the bus and its chips for Python, which pulls
the wires and sets what the loads take.
"""

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from bitfirst.errors import UsageError
from bitfirst_hdl.contract.power import RAILS

from . import build

ADDRESSES = range(0x08, 0x78)  #: that chips on an I2C bus may have
#: Addresses, as most chips have them; of KC705's first controller; of the 5 V of Arty A7.
FIRST = {"i2c": 0x40, "spi": 0, "pmbus": 52, "xadc": 9}
LEAST_UPDATE_S = 100e-6


@dataclass(frozen=True)
class Limits:
    """What a data sheet promises of a chip at 25 degrees: errors are at most so large, either way; noise is typical.

    offset_volts, gain_error          at the shunt; of the reading
    bus_offset_volts, bus_gain_error  likewise of the volts at the load
    time_error                        of conversions, of the time that the data sheet gives as typical
    noise_volts, bus_noise_volts      rms of a conversion of 1 ms; of "xadc" of any conversion
    linearity_volts                   at the shunt
    """

    offset_volts: float
    gain_error: float
    bus_offset_volts: float
    bus_gain_error: float
    time_error: float
    noise_volts: float
    bus_noise_volts: float
    linearity_volts: float = 0.0


#: Data sheets SBOS547, SLYS021 and SBOS448 (INA219A, gain /1). For conversions of INA226 and INA219 they give 10 % more
#: than typical as the most, and nothing as the least; for INA228 what its oscillator may be off. Noise is taken for
#: INA228 as what leaves 12.5 bits free of it (6.6 times the rms) in 50 us; the other two have no table of it.
LIMITS = {
    "ina226": Limits(10e-6, 1e-3, 7.5e-3, 1e-3, 0.1, 1.5e-6, 0.6e-3),
    "ina228": Limits(1e-6, 0.5e-3, 2.5e-3, 0.5e-3, 0.01, 1.9e-6, 0.6e-3),
    "ina219": Limits(100e-6, 5e-3, 4e-3, 5e-3, 0.1, 3e-6, 1.3e-3),
}
LIMITS["ina229"] = LIMITS["ina228"]  # SLYS023
#: Of amperes. Taken: no data sheet says what the sense of KC705's power stages may be off by.
LIMITS["ucd9248"] = Limits(0.1, 0.05, 5e-3, 0.01, 0.05, 1e-3, 0.1e-3)
#: DS181, with amplifier and divider of an Arty A7, of the rail at address 9: see `bitfirst.measuring.sensors`.
LIMITS["xadc"] = Limits(9.5e-3, 25e-3, 12e-3, 32e-3, 0.0, 0.5e-3, 3e-3, 0.5e-3)
KINDS = tuple(LIMITS)
BUSES = dict.fromkeys(KINDS, "i2c") | {"ina229": "spi", "ucd9248": "pmbus", "xadc": "xadc"}
XADC_ADDRESSES = (9, 10)


@dataclass(frozen=True)
class SimulatedRail:
    """A supply, its shunt and the chip that measures it, without any error unless one is given; see sensors.hpp.

    kind              one of `KINDS`
    address           on the I2C bus or PMBus, 7 bits; on SPI the number of the line that selects it; of "xadc" the
                      auxiliary input of the current, 9 or 10; None: the first one of `FIRST`
    shunt_ohm         of the shunt, or volts for an ampere that an amplifier gives; what it differs from its nominal
                      value by belongs to `gain_error`. None: 0.1, or, of UCD9248, 0: there is none, and what is called
                      volts of it are amperes
    supply_volts      in front of `source_ohm`, which stands for supply and wires
    offset_volts, gain_error, bus_offset_volts, bus_gain_error, time_error, noise_volts, bus_noise_volts
                      as in `Limits`, but with a sign: those of this chip
    die_celsius       its temperature
    stops_s           from that time of the world on it does not answer
    seed              of its noise
    update_s, page    of UCD9248: from one sample of the current to the next; which of its outputs the rail is
    """

    kind: str
    address: int | None = None
    shunt_ohm: float | None = None
    supply_volts: float = 5.0
    source_ohm: float = 0.0
    offset_volts: float = 0.0
    gain_error: float = 0.0
    bus_offset_volts: float = 0.0
    bus_gain_error: float = 0.0
    time_error: float = 0.0
    noise_volts: float = 0.0
    bus_noise_volts: float = 0.0
    die_celsius: float = 25.0
    stops_s: float = math.inf
    seed: int = 0
    update_s: float = 800e-6
    page: int = 0
    linearity_volts: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"sensor {self.kind!r} is not known; choose one of {', '.join(KINDS)}")
        if self.address is None:
            object.__setattr__(self, "address", FIRST[self.bus])
        if self.shunt_ohm is None:
            object.__setattr__(self, "shunt_ohm", 0.0 if self.bus == "pmbus" else 0.1)
        if self.bus == "xadc" and self.address not in XADC_ADDRESSES:
            raise UsageError(f"address {self.address} of xadc: inputs 9 and 10 have currents")
        if self.bus == "spi" and self.address not in range(RAILS):
            raise UsageError(f"line {self.address} of the SPI bus: there are 0 to {RAILS - 1}")
        if self.bus != "spi" and self.address not in ADDRESSES:
            raise UsageError(f"I2C address {self.address:#x} is reserved; chips have {ADDRESSES[0]:#x} to 0x77")
        if self.bus == "pmbus" and self.shunt_ohm:
            raise UsageError(f"{self.kind} says amperes: it has no shunt_ohm")
        if self.bus == "pmbus" and not (self.update_s >= LEAST_UPDATE_S and self.page in range(256)):
            raise UsageError(f"update_s must be {LEAST_UPDATE_S} or more, page 0 to 255")
        if not ((self.shunt_ohm > 0) != (self.bus == "pmbus") and self.supply_volts > 0 and self.source_ohm >= 0):
            raise UsageError("shunt_ohm and supply_volts must be above 0, source_ohm not below")
        if not (self.time_error > -1 and self.noise_volts >= 0 and self.bus_noise_volts >= 0):
            raise UsageError("time_error must be above -1, and noise not below 0")

    @property
    def bus(self) -> str:
        """ "i2c", "spi", "pmbus" or "xadc"."""
        return BUSES[self.kind]

    @property
    def number(self) -> int:
        """Of the kind, as sensors.hpp has it; xadc.hpp asks for none."""
        return int(self.kind.lstrip("abcdefghijklmnopqrstuvwxyz") or 0)


def drawn(kind: str, seed: int, **given: float) -> SimulatedRail:
    """A chip whose errors are drawn, evenly, from what its data sheet allows; `given` are fields, which stay."""
    if kind not in KINDS:
        raise UsageError(f"sensor {kind!r} is not known; choose one of {', '.join(KINDS)}")
    random = np.random.default_rng(seed)
    limits = {field.name: getattr(LIMITS[kind], field.name) for field in fields(Limits)}
    errors = {name: limit if "noise" in name else random.uniform(-limit, limit) for name, limit in limits.items()}
    return SimulatedRail(**{"kind": kind, "seed": seed, **errors, **given})


C_TYPES = {
    "kind": ctypes.c_int,
    "address": ctypes.c_int,
    "seed": ctypes.c_uint64,
    "page": ctypes.c_int,
}  #: the others are double


class CRail(ctypes.Structure):
    """`Rail` of sensors.hpp: the fields of `SimulatedRail` in their order, numbers for names."""

    _fields_ = [(field.name, C_TYPES.get(field.name, ctypes.c_double)) for field in fields(SimulatedRail)]


def c_rails(rails: Sequence[SimulatedRail]) -> ctypes.Array:
    """The rails as C has them. Raises `UsageError` for two chips with one address."""
    if len({rail.address for rail in rails}) < len(rails):
        raise UsageError("two sensors have the same address; give each its own")
    if len(buses := {rail.bus for rail in rails}) > 1:
        raise UsageError(f"sensors on buses of {' and '.join(sorted(buses))}: a device has one of them")
    numbers = [{field.name: getattr(rail, field.name) for field in fields(rail)} for rail in rails]
    for rail, number in zip(rails, numbers, strict=True):
        number["kind"] = rail.number
    return (CRail * len(rails))(*(CRail(**number) for number in numbers))


def declare(library: ctypes.CDLL, **functions: tuple[type | None, list[type]]) -> None:
    """Set result and argument types of a library's functions."""
    for name, (result, arguments) in functions.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments


@cache
def _library(header: str | None) -> ctypes.CDLL:
    library = ctypes.CDLL(str(build.build_sensors(header)))
    bus, seconds, number = ctypes.c_void_p, ctypes.c_double, ctypes.c_size_t
    declare(
        library,
        sensors_rail_bytes=(ctypes.c_size_t, []),
        sensors_new=(bus, [ctypes.POINTER(CRail), number]),
        sensors_delete=(None, [bus]),
        sensors_watts=(None, [bus, seconds, number, seconds]),
        sensors_drive=(ctypes.c_int, [bus, seconds, ctypes.c_int, ctypes.c_int]),
        sensors_look=(ctypes.c_uint64, [bus, seconds, number, ctypes.c_int]),
        sensors_alert=(ctypes.c_int, [bus, seconds, number]),
        sensors_jam=(None, [bus, ctypes.c_int]),
        sensors_violations=(ctypes.c_uint64, [bus]),
    )
    assert library.sensors_rail_bytes() == ctypes.sizeof(CRail)
    return library


class SensorBus:
    """Chips on two wires. Times are seconds since power-up; they must not go back.

    `header`: other text for sensors.hpp, to see what a test makes of it.
    Raises `build.BuildError` when there is no C++ compiler, `UsageError` for two chips with one address.
    """

    def __init__(self, rails: Sequence[SimulatedRail], header: str | None = None) -> None:
        self.rails = tuple(rails)
        for rail in rails:
            if rail.bus not in ("i2c", "pmbus"):
                raise UsageError(f"{rail.kind.upper()} has no I2C bus; `PowerSimulator` has its pins")
        self._library = _library(header)
        self._bus = self._library.sensors_new(c_rails(self.rails), len(self.rails))

    def __del__(self) -> None:
        if getattr(self, "_bus", None):
            self._library.sensors_delete(self._bus)
            self._bus = None

    def set_watts(self, time_s: float, rail: int, watts: float) -> None:
        """What the load of a rail takes from then on; negative where it feeds the supply."""
        self._library.sensors_watts(self._bus, time_s, self._checked(rail), watts)

    def drive(self, time_s: float, scl_low: bool, sda_low: bool) -> tuple[int, int]:
        """Pull the wires low, or leave them, from then on; levels of SCL and SDA."""
        levels = self._library.sensors_drive(self._bus, time_s, scl_low, sda_low)
        return levels & 1, levels >> 1

    def look(self, time_s: float, rail: int, register: int) -> int:
        """What is in a register of a chip, as unsigned number; reads it not, so clears nothing."""
        return self._library.sensors_look(self._bus, time_s, self._checked(rail), register)

    def alert(self, time_s: float, rail: int) -> bool:
        """Whether a chip signals on its alert pin."""
        return bool(self._library.sensors_alert(self._bus, time_s, self._checked(rail)))

    def jam(self, falls: int) -> None:
        """Hold SDA low until SCL has fallen so many times, as a chip that was left in the middle of a byte."""
        self._library.sensors_jam(self._bus, falls)

    @property
    def violations(self) -> int:
        """How often the master broke the times of the fast mode (400 kHz) since power-up; see sensors.hpp."""
        return self._library.sensors_violations(self._bus)

    def _checked(self, rail: int) -> int:
        if not 0 <= rail < len(self.rails):
            raise IndexError(f"rail {rail} of {len(self.rails)}")
        return rail
