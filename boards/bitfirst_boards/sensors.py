"""Where a board has sensors of energy, or room for some. Data.

Sources: Genesys 2 FPGA Board Reference Manual (Digilent), 3, "Power monitoring"; Pmod Interface Specification, type 6,
I2C (Digilent); ULX3S Manual; Arty A7 Reference Manual and master XDC (Digilent); the platforms of amaranth-boards;
KC705 Evaluation Board, UG810 (Xilinx), whose pins of PMBus are those of three designs' constraints and of a net list.
Which output of its regulators is which: what was read from one (billauer.co.il, "Power supply parameters of Xilinx'
KC705 board, obtained via PMBus").
"""

from collections import Counter
from dataclasses import dataclass

from amaranth.build import Attrs, DiffPairs, Pins, Resource, Subsignal
from bitfirst_hdl.contract.power import RAILS

NAME = "sensors"  #: of the resource

# 3.3 V, pulled up inside the chip, by tens of kilohms: enough for a bus with nothing on it to rest. With sensors it
# takes resistors of some kilohms outside; see docs/first-joule.md.
ECP5 = Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")
GOWIN = Attrs(IO_TYPE="LVCMOS33", PULL_MODE="UP")
XILINX = Attrs(IOSTANDARD="LVCMOS33", PULLUP="TRUE")
KC705 = Attrs(IOSTANDARD="LVCMOS15", PULLUP="TRUE")  # behind level shifters


@dataclass(frozen=True)
class Rail:
    """A sensor that a board has, with the fields that `bitfirst.measuring.sensors.Rail` has; of a converter in the chip
    `shunt_ohm` is the volts that it sees for an ampere."""

    name: str
    kind: str
    address: int
    shunt_ohm: float
    scope: str = "rails"


@dataclass(frozen=True)
class Regulator:
    """An output of a regulators' controller, likewise."""

    name: str
    kind: str
    address: int
    page: int
    update_s: float
    scope: str = "rails"


@dataclass(frozen=True)
class Sensors:
    """A board's bus of sensors, of two wires, or what the converter in its chip sees.

    resource  its two pins, `scl` and `sda`, or pairs of pins `ad1` and so on, by the converter's auxiliary inputs
    place     where they are, for people
    rails     sensors that are on the board
    bus       "i2c", or the feature that a device needs for it besides "power"
    taken     so many of the rails, the first ones, are measured unless others are named: a device reads no more at a
              time, or the others are supplied by them, so that both would count twice
    """

    resource: Resource
    place: str
    rails: tuple[Rail | Regulator, ...] = ()
    bus: str = "i2c"
    taken: int = RAILS

    @property
    def bus_name(self) -> str:
        """For people."""
        return {"i2c": "I2C", "pmbus": "PMBus", "xadc": "the chip's converter"}[self.bus]

    @property
    def told(self) -> str:
        """For people: what is there, or where something may be put."""
        if self.bus == "xadc":
            return self.place
        kinds = Counter(rail.kind.upper() for rail in self.rails)
        return ", ".join(f"{count} x {kind}" for kind, count in kinds.items()) or self.place


def wired(
    place: str,
    scl: str,
    sda: str,
    attrs: Attrs,
    conn: tuple[str, int] | None = None,
    rails: tuple[Rail | Regulator, ...] = (),
    bus: str = "i2c",
) -> Sensors:
    """Two pins, of a connector of the platform or of the chip."""
    pins = {"scl": scl, "sda": sda}
    lines = (Subsignal(name, Pins(pin, dir="io", conn=conn, assert_width=1)) for name, pin in pins.items())
    return Sensors(Resource(NAME, 0, *lines, attrs), place, rails, bus)


def converter(place: str, inputs: dict[int, tuple[str, str]], rails: tuple[Rail, ...], taken: int) -> Sensors:
    """`inputs`: auxiliary ones -> their pins, positive and negative."""
    attrs = Attrs(IOSTANDARD="LVCMOS33")  # that of the bank; inputs of the converter have none
    lines = (Subsignal(f"ad{number}", DiffPairs(*pins, dir="i", assert_width=1)) for number, pins in inputs.items())
    return Sensors(Resource(NAME, 0, *lines, attrs), place, rails, "xadc", taken)


def pmod(number: int, label: str, attrs: Attrs) -> Sensors:
    """Pins 3 and 4, as I2C has on a Pmod."""
    return wired(f"{label}: 3 SCL, 4 SDA", "3", "4", attrs, ("pmod", number))
