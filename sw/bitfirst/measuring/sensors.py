"""Sensors as data, and how one is set up: INA226 (SBOS547), INA228 (SLYS021), INA219 (SBOS448), and INA229 (SLYS023),
which is INA228 on an SPI bus; UCD9248 (SLVSA33A; commands: SLUU337), a regulators' controller, on a PMBus; and the
converter in Xilinx 7-series chips (XADC: UG480, DS181), as it is wired on an Arty A7.

Each INA converts the volts across the shunt, then those at the load, and begins again. What the volts across the shunt
are worth is the host's: the chips' own registers of current and power are not used. A regulator says amperes; what is
said here of volts across a shunt is of amperes, as of a shunt of 1 ohm. The converter goes round four channels: the
core's volts, those of the 5 V, the currents of both; amplifiers give volts for amperes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract import power as contract
from bitfirst_hdl.contract.power import RAILS, Role

from ..energy import Scope
from ..errors import UsageError

SCOPES = (Scope.BOARD, Scope.RAILS)  #: that a sensor can see
BUS_NAMES = {"i2c": "an I2C bus", "spi": "an SPI bus", "pmbus": "a PMBus", "xadc": "the converter in the chip"}
_AVERAGES = (1, 4, 16, 64, 128, 256, 512, 1024)
_FIELD_BITS = 12  # of a `RailRead` in `Rail`


@dataclass(frozen=True)
class Range:
    """A range of the shunt's input: full scale and a step of its register, in volts; `code` is the chip's field."""

    volts: float
    step_volts: float
    code: int


@dataclass(frozen=True)
class Chip:
    """What a data sheet says of a sensor; times are typical.

    identity            register -> what it reads
    ranges              the narrowest one first
    bus_step_volts, bus_volts    a step of the register of the volts at the load, and its end
    bus_flags           what other bits of that register add to its number when it is ready
    shunt_us, bus_us    conversions that can be chosen, by field
    averages            turns of both of which a sample is the mean, by field; of INA219 of each alone
    time_error          the most by which a conversion is longer; shorter likewise, by `shorter_error`
    offset_volts, gain_error, bus_offset_volts, bus_gain_error    limits, at 25 degrees
    reads               (register, bytes, role) of a sample; `ready_bit` as in the contract's `Rail`
    bus                 "i2c", "spi", "pmbus" or "xadc"
    update_s            of a regulator, which never says that a number is new: from one sample of the current to the
                        next, at most. A sample is a moment's; the number is a mean of samples, as if of the last
                        `averages` of them
    shunt_ohm           where it is wired on its board: the volts that an amplifier gives for an ampere
    linearity_volts     limit of what offset and gain leave
    """

    kind: str
    identity: dict[int, int]
    ranges: tuple[Range, ...]
    bus_step_volts: float
    bus_volts: float
    bus_flags: int
    shunt_us: tuple[int, ...]
    bus_us: tuple[int, ...]
    averages: tuple[int, ...]
    time_error: float
    shorter_error: float
    offset_volts: float
    gain_error: float
    bus_offset_volts: float
    bus_gain_error: float
    reads: tuple[tuple[int, int, Role], ...]
    ready_bit: int
    bus: str = "i2c"
    update_s: float | None = None
    shunt_ohm: float | None = None
    linearity_volts: float = 0.0


_INA226 = Chip(
    kind="ina226",
    identity={0xFE: 0x5449, 0xFF: 0x2260},
    ranges=(Range(81.92e-3, 2.5e-6, 0),),
    bus_step_volts=1.25e-3,
    bus_volts=36,
    bus_flags=0,
    shunt_us=(140, 204, 332, 588, 1100, 2116, 4156, 8244),
    bus_us=(140, 204, 332, 588, 1100, 2116, 4156, 8244),
    averages=_AVERAGES,
    time_error=0.1,
    shorter_error=0.0,
    offset_volts=10e-6,
    gain_error=1e-3,
    bus_offset_volts=7.5e-3,
    bus_gain_error=1e-3,
    reads=((0x06, 2, Role.READY), (0x01, 2, Role.CURRENT), (0x02, 2, Role.VOLTAGE)),
    ready_bit=3,
)
_INA228 = Chip(
    kind="ina228",
    identity={0x3E: 0x5449, 0x3F: 0x2281},
    ranges=(Range(40.96e-3, 78.125e-9, 1), Range(163.84e-3, 312.5e-9, 0)),
    bus_step_volts=195.3125e-6,
    bus_volts=85,
    bus_flags=0,
    shunt_us=(50, 84, 150, 280, 540, 1052, 2074, 4120),
    bus_us=(50, 84, 150, 280, 540, 1052, 2074, 4120),
    averages=_AVERAGES,
    time_error=0.01,
    shorter_error=0.01,
    offset_volts=1e-6,
    gain_error=0.5e-3,
    bus_offset_volts=2.5e-3,
    bus_gain_error=0.5e-3,
    reads=((0x0B, 2, Role.READY), (0x04, 3, Role.CURRENT), (0x05, 3, Role.VOLTAGE)),
    ready_bit=1,
)
_INA219 = Chip(
    kind="ina219",
    identity={},  # it has none: its register of the configuration must keep what is written
    ranges=tuple(Range(40e-3 * 2**code, 10e-6, code) for code in range(4)),
    bus_step_volts=0.5e-3,  # of the register as a whole: bits 15 to 3 are steps of 4 mV
    bus_volts=32,
    bus_flags=2,
    shunt_us=(532,),
    bus_us=(532,),
    averages=(1, 2, 4, 8, 16, 32, 64, 128),
    time_error=0.1,
    shorter_error=0.0,
    offset_volts=100e-6,
    gain_error=5e-3,
    bus_offset_volts=4e-3,
    bus_gain_error=5e-3,
    # reading the register of the power is what makes it not ready any more
    reads=((0x02, 2, Role.READY), (0x01, 2, Role.CURRENT), (0x03, 2, Role.NONE)),
    ready_bit=1,
)
_INA229 = replace(_INA228, kind="ina229", identity={0x3E: 0x5449, 0x3F: 0x2291}, bus="spi")
#: A sample of one output each 200 us, in turn, smoothed over 3.5 samples, is what UCD9244-EP has, its sibling of four
#: stages (SLVSC86A, 8.3.16); UCD9248 has eight. A quarter of each new sample makes a mean that is as good as one of 7.
#: Limits of the current are taken: it is sensed by the board's power stages, and no data sheet says how well.
_UCD9248 = Chip(
    kind="ucd9248",
    identity={0xFD: int.from_bytes(b"UCD9", "big")},  # of DEVICE_ID, a block, what follows on its length
    ranges=(Range(128, 2**-12, 0),),
    bus_step_volts=2**-12,
    bus_volts=16,
    bus_flags=0,
    shunt_us=(5,),
    bus_us=(5,),
    averages=(7,),
    time_error=0.05,
    shorter_error=0.05,
    offset_volts=0.1,
    gain_error=0.05,
    bus_offset_volts=5e-3,
    bus_gain_error=0.01,
    reads=((0x8C, 3, Role.CURRENT), (0x8B, 2, Role.VOLTAGE)),
    ready_bit=0,
    bus="pmbus",
    update_s=1.6e-3,
)
#: Likewise by its own word of watts, READ_POUT, in the place of amperes: what is said of these is of watts then. The
#: limits stay, as its power is made of the same amperes and volts.
_UCD9248_POUT = replace(_UCD9248, reads=((0x96, 3, Role.CURRENT), (0x8B, 2, Role.VOLTAGE)))
POWERS = "iv", "pout"  #: of a regulator: amperes times volts, or the chip's own watts
XADC_STEPS = 2**15  #: as the device gives its 16 bits, of 1 V; of 3 V where it is the chip's own supply
_LSB = 1 / 2**12  # V: data sheets count in them
_AD1_DIVIDER = 5.99
_CHANNEL_CYCLES, _FASTEST_HZ, _SLOWEST_HZ = 26, 26e6, 1e6  # of the converter's clock
_XADC_ENDED = 0x80
#: Channels of the sequence, and 16 bits more that say which of them are auxiliary inputs.
_XADC_SUPPLIES, _XADC_INPUTS = 0x0200, 1 << 1 | 1 << 9 | 1 << 10
_XADC_CHANNELS = 4
#: The converter at the pair of address 9: current on AD9, 5 V behind a divider on AD1. Its limits, by DS181 with its
#: calibration: 8 LSB of offset, 0.5 % of gain, 2 LSB of linearity; 1 % of the reference in the chip. Of the board: an
#: amplifier of 50 V/V that is taken to have 1 %, and 150 uV at its input, as INA199; resistors of 1 % in the divider.
_XADC_5V = Chip(
    kind="xadc",
    identity={},
    ranges=(Range(1.0, 1 / XADC_STEPS, 0),),
    bus_step_volts=_AD1_DIVIDER / XADC_STEPS,
    bus_volts=_AD1_DIVIDER,
    bus_flags=0,
    shunt_us=(),
    bus_us=(),
    averages=(16, 64, 256),
    time_error=0.0,
    shorter_error=0.0,
    offset_volts=8 * _LSB + 50 * 150e-6,
    gain_error=0.025,
    bus_offset_volts=8 * _LSB * _AD1_DIVIDER,
    bus_gain_error=0.015 + 2 * 0.01 * (1 - 1 / _AD1_DIVIDER),
    reads=((_XADC_ENDED, 1, Role.READY), (0x19, 2, Role.CURRENT), (0x11, 2, Role.VOLTAGE)),
    ready_bit=0,
    bus="xadc",
    shunt_ohm=0.25,
    linearity_volts=2 * _LSB,
)
#: At that of 10: current on AD10, and the core's volts, which the converter has inside (1 %, and the reference).
_XADC_CORE = replace(
    _XADC_5V,
    bus_step_volts=3 / XADC_STEPS,
    bus_volts=3.0,
    bus_offset_volts=0.0,
    bus_gain_error=0.02,
    reads=((_XADC_ENDED, 1, Role.READY), (0x1A, 2, Role.CURRENT), (0x01, 2, Role.VOLTAGE)),
    shunt_ohm=0.5,
)
XADC = {9: _XADC_5V, 10: _XADC_CORE}  #: by address, the auxiliary input of the current
CHIPS = {chip.kind: chip for chip in (_INA226, _INA228, _INA219, _INA229, _UCD9248, _XADC_5V)}


@dataclass(frozen=True)
class Rail:
    """A supply that is measured.

    name        for people
    kind        one of `CHIPS`
    address     on the I2C bus or PMBus, 7 bits; on an SPI bus the number of the line that selects it, 0 to 3; of the
                converter one of `XADC`
    shunt_ohm   of the shunt, which a regulator has none of; of the converter the volts that an amplifier gives for an
                ampere, as on its board if None
    most_amps   the largest current that is expected; None: as wide as the chip can
    shunt_error by which the shunt may be off, relative; most are 1 % parts. A calibration takes its place
    serial      of the board that carries sensor and shunt, as the user names it: a calibration is for one alone
    page        of a regulator: which of its controller's outputs
    update_s    of a regulator: from one sample of the current to the next; None: the longest that its chip can have
    volts_exponent  of a regulator: two to the power of it is a step of its volts; a `Monitor` asks the chip
    power       of a regulator, one of `POWERS`: what its watts are
    scope       "board", where the whole board goes through it, "rails", where a part; None: that of a regulator, and of
                the core's supply by the converter, is "rails"

    Raises `UsageError` for an unknown kind, an address that no chip has, a shunt that is missing or cannot be, and what
    is a regulator's alone.
    """

    name: str
    kind: str
    address: int
    shunt_ohm: float | None = None
    most_amps: float | None = None
    shunt_error: float = 0.01
    serial: str = ""
    page: int = 0
    update_s: float | None = None
    volts_exponent: int | None = None
    scope: str | None = None
    power: str = "iv"

    def __post_init__(self) -> None:
        if self.scope is None:
            object.__setattr__(self, "scope", Scope.RAILS if self._is_part() else Scope.BOARD)
        if self.scope not in SCOPES:
            raise UsageError(f"scope {self.scope!r} of {self.name} is unknown; choose from {', '.join(SCOPES)}")
        if self.kind not in CHIPS:
            raise UsageError(f"sensor {self.kind!r} of {self.name} is unknown; choose from {', '.join(CHIPS)}")
        if self.kind == "xadc" and self.address not in XADC:
            raise UsageError(
                f"address {self.address:#x} of {self.name} must be 9 (5 V) or 10 (core), the input of its current"
            )
        if self.chip.bus == "spi" and not 0 <= self.address < RAILS:
            raise UsageError(
                f"address {self.address:#x} of {self.name} must be 0 to {RAILS - 1}: its line on the SPI bus"
            )
        if self.chip.bus in ("i2c", "pmbus") and not 0x08 <= self.address <= 0x77:
            have = "those of KC705 0x34 on" if self.regulates else "INA sensors have 0x40 on"
            raise UsageError(f"address {self.address:#x} of {self.name} must be 0x08 to 0x77; {have}")
        self._check_regulator()
        if self.shunt_ohm is None:
            object.__setattr__(self, "shunt_ohm", self.chip.shunt_ohm)
        if self.shunt_ohm is None and not self.regulates:
            raise UsageError(f"{self.name} has no shunt_ohm: give the ohms of its shunt, which is printed on it")
        if not 0 < self.ohm < 1000:
            raise UsageError(f"shunt_ohm = {self.shunt_ohm} of {self.name} must be over 0, in ohms")
        if not 0 <= self.shunt_error < 1:
            raise UsageError(
                f"shunt_error = {self.shunt_error} of {self.name} must be 0 or more, below 1: 0.01 for 1 %"
            )
        if self.most_amps is not None and not 0 < self.most_amps * self.ohm <= self.chip.ranges[-1].volts:
            limit = self.chip.ranges[-1].volts / self.ohm
            raise UsageError(f"most_amps = {self.most_amps} of {self.name} must be 0 to {limit:.4g} A at this shunt")

    def _is_part(self) -> bool:
        """Whether it can be no supply of a whole board."""
        chip = CHIPS.get(self.kind)
        return chip is not None and (chip.bus == "pmbus" or (chip.bus == "xadc" and self.address != min(XADC)))

    def _check_regulator(self) -> None:
        if self.regulates and self.shunt_ohm is not None:
            raise UsageError(f"{self.name} has a shunt_ohm, but {self.kind} says amperes: leave it out")
        if not self.regulates and (self.page or self.update_s is not None or self.volts_exponent is not None):
            raise UsageError(f"{self.name}: {self.kind} has no page, update_s or volts_exponent: leave them out")
        if self.power not in POWERS:
            raise UsageError(f"power = {self.power!r} of {self.name} is unknown; choose from {', '.join(POWERS)}")
        if self.says_watts and not self.regulates:
            raise UsageError(f"{self.name}: {self.kind} has no READ_POUT: leave power = {self.power!r} out")
        if not 0 <= self.page < 0xFF:
            raise UsageError(f"page = {self.page} of {self.name} must be 0 to 254: the output of its controller")
        if self.update_s is not None and not 0 <= self.update_s < 1:
            raise UsageError(f"update_s = {self.update_s} of {self.name} must be in seconds: 0.0008 for 800 us")

    @property
    def chip(self) -> Chip:
        if self.kind == "xadc":
            return XADC.get(self.address, _XADC_5V)
        return _UCD9248_POUT if self.says_watts and self.kind == _UCD9248.kind else CHIPS[self.kind]

    @property
    def regulates(self) -> bool:
        """Whether it is a regulator, which says amperes."""
        return self.chip.update_s is not None

    @property
    def says_watts(self) -> bool:
        """Whether numbers of the current are watts."""
        return self.power == "pout"

    def factor(self, volts: Any) -> Any:
        """What makes watts of a current; of one that is watts nothing."""
        return 1.0 if self.says_watts else volts

    @property
    def ohm(self) -> float:
        """By which volts across the shunt become amperes."""
        return 1.0 if self.shunt_ohm is None else self.shunt_ohm

    @property
    def range(self) -> Range:
        """The narrowest one that `most_amps` fit."""
        volts = self.chip.ranges[-1].volts if self.most_amps is None else self.most_amps * self.ohm
        return next(one for one in self.chip.ranges if volts <= one.volts)

    @property
    def amps_per_code(self) -> float:
        return self.range.step_volts / self.ohm

    def codes_per_step(self, amps: float) -> float:
        """Of a current: LINEAR11 has ten bits and a sign, from the first one on that is not the sign."""
        if not self.regulates or not amps:
            return 1.0
        step = math.ldexp(1.0, math.frexp(amps)[1] - _MANTISSA_BITS)
        return max(1.0, step / self.amps_per_code)

    @property
    def volts_per_code(self) -> float:
        return self.chip.bus_step_volts if self.volts_exponent is None else 2.0**self.volts_exponent

    def volts(self, code: float) -> float:
        """At the load, of a number as read."""
        return (code - self.chip.bus_flags) * self.volts_per_code

    @property
    def where(self) -> str:
        page = f", page {self.page}{', by READ_POUT' * self.says_watts}" if self.regulates else ""
        return f"{self.name} ({self.kind} at {self.address:#x}{page})"


@dataclass(frozen=True)
class Timing:
    """How a rail's sensor is set up: fields of the chip, seconds of the conversions of a turn, turns a sample.

    held_s   of a regulator: `update_s`, after which a number may be another one; `turns` as its `averages`
    round_s  likewise: from one look at it to the next
    The converter takes its input in an instant: `shunt_s` is a cycle of its clock, `shunt_field` the divider of that,
    and `first_s` from the beginning of a turn on.
    """

    shunt_field: int
    bus_field: int
    average_field: int
    shunt_s: float
    bus_s: float
    turns: int
    held_s: float | None = None
    round_s: float = 0.0
    first_s: float = 0.0

    @property
    def sample_s(self) -> float:
        """From one sample to the next; of a regulator, from which on its numbers are independent."""
        if self.held_s is not None:
            return self.round_s + self.turns * self.held_s
        return (self.shunt_s + self.bus_s) * self.turns

    @property
    def period_s(self) -> float:
        """From one record to the next."""
        return self.sample_s if self.held_s is None else self.round_s

    @property
    def fresh(self) -> float:
        """Of all records, those with a new number."""
        return min(1.0, self.round_s / self.held_s) if self.held_s else 1.0

    @property
    def independent(self) -> float:
        """Of all records, as many as are worth as much for a mean, whose numbers have nothing to do with each other."""
        return self.period_s / self.sample_s

    @property
    def gap_s(self) -> float:
        """Of a turn, in which the shunt is not looked at; of a regulator, a gap that makes as much uncertain."""
        if self.held_s is None:
            return self.bus_s
        steps_s = min(self.held_s, self.round_s) if self.held_s else self.round_s
        return math.hypot(self.held_s, steps_s, _rounds_gap(self.round_s, self.turns / 2 * self.held_s))


def _rounds_gap(round_s: float, smoothed_s: float) -> float:
    """A gap for looking each `round_s` at what goes to its end by exp(-t / `smoothed_s`): of the root mean square."""
    if not smoothed_s:
        return 0.0
    ratio = round_s / smoothed_s
    left = math.exp(-ratio)
    square = 1 / 3 + 2 * (1 - left - left * ratio) / ratio**2 / (1 - left) + (1 + left) / (1 - left) / (2 * ratio)
    return round_s * math.sqrt(12 * max(0.0, square - (0.5 + 1 / ratio) ** 2))


def _converter_timings(chip: Chip, clock_hz: float) -> list[Timing]:
    """Of the converter's clock, the device's over 2 to 255, the fastest that it bears, and halves of that."""
    fastest = max(2, math.ceil(clock_hz / _FASTEST_HZ))
    dividers = [fastest << i for i in range(5) if clock_hz / (fastest << i) >= _SLOWEST_HZ and fastest << i < 256]
    if not dividers:
        raise UsageError(f"{clock_hz / 1e6:g} MHz are too slow for xadc: give the device a clock of 2 MHz or more")
    place = chip.reads[1][0] - 0x19 + 2  # of the current in the sequence
    found = []
    for divider in dividers:
        cycle_s = divider / clock_hz
        turn_s, first_s = _XADC_CHANNELS * _CHANNEL_CYCLES * cycle_s, (_CHANNEL_CYCLES * place + 4) * cycle_s
        for field, turns in enumerate(chip.averages, 1):
            found.append(Timing(divider, 0, field, cycle_s, turn_s - cycle_s, turns, first_s=first_s))
    return sorted(found, key=lambda timing: (timing.shunt_field * timing.turns, timing.shunt_field))


def timings(chip: Chip, clock_hz: float = 0.0) -> list[Timing]:
    """All that can be chosen, the shortest sample first; the load's volts take as little as they can.

    clock_hz  of the device, for the converter. Raises `UsageError` where that is too slow for it.
    """
    if chip.bus == "xadc":
        return _converter_timings(chip, clock_hz)
    if chip.kind == "ina219":
        sets = (Timing(0, 0, i, chip.shunt_us[0] * n * 1e-6, 532e-6, 1) for i, n in enumerate(chip.averages))
    else:
        sets = (
            Timing(field, 0, i, us * 1e-6, chip.bus_us[0] * 1e-6, n)
            for field, us in enumerate(chip.shunt_us)
            for i, n in enumerate(chip.averages)
        )
    return sorted(sets, key=lambda timing: (timing.sample_s, timing.turns))


MARGIN = 1.1  #: of a sample's time, over what the bus takes
_MANTISSA_BITS = 10  # of LINEAR11, without its sign


def choose_timing(rail: Rail, bus_s: float, wanted_s: float | None = None, clock_hz: float = 0.0) -> Timing:
    """The shortest sample of at least `wanted_s` that the bus, which takes `bus_s` for a round, can read.

    clock_hz  of the device, as of `timings`.

    Raises `UsageError` when the sensor has none so long.
    """
    if rail.regulates:
        held_s = rail.chip.update_s if rail.update_s is None else rail.update_s
        conversions = rail.chip.shunt_us[0] * 1e-6, rail.chip.bus_us[0] * 1e-6
        timing = Timing(0, 0, 0, *conversions, rail.chip.averages[0], held_s, bus_s)
        if (wanted_s or 0) > timing.sample_s:
            raise UsageError(f"a sample of {wanted_s:.3g} s: {rail.where} has one of {timing.sample_s:.3g} s alone")
        return timing
    least = max(bus_s * MARGIN / (1 - rail.chip.shorter_error), (wanted_s or 0) * (1 - 1e-9))
    for timing in timings(rail.chip, clock_hz):
        if timing.sample_s >= least:
            return timing
    longest = timings(rail.chip, clock_hz)[-1].sample_s
    raise UsageError(f"a sample of {least:.3g} s is longer than {rail.where} can: at most {longest:.3g} s")


def setup(rail: Rail, timing: Timing) -> list[tuple[int, int]]:
    """(register, 16 bits, of a regulator 8) to write, in this order; each reads back as written."""
    shunt, bus, average, code = timing.shunt_field, timing.bus_field, timing.average_field, rail.range.code
    if rail.regulates:
        return [(PAGE, rail.page), (PHASE, ALL_PHASES)]
    if rail.kind == "ina226":
        return [(0x06, 0), (0x00, 0x4000 | average << 9 | bus << 6 | shunt << 3 | 7)]
    if rail.kind in ("ina228", "ina229"):
        # 0x0B, bit 15: with it reading the register is what makes it not ready any more
        return [(0x00, code << 4), (0x0B, 0x8000), (0x01, 0xB000 | bus << 9 | shunt << 6 | average)]
    if rail.kind == "xadc":
        # the sequence by default, which calibrates, while that of the channels is written: means, unipolar, the
        # shortest time to settle; then that, again and again. The same for each of its rails.
        corrected = 0x0FFE  # by what was calibrated; no alarms
        chosen = _XADC_SUPPLIES, _XADC_INPUTS
        pairs = [(0x48, chosen), (0x4A, chosen), (0x4C, (0, 0)), (0x4E, (0, 0))]
        sequence = [(first + i, words[i]) for first, words in pairs for i in range(2)]
        begun = [(0x41, corrected), (0x42, shunt << 8), (0x40, average << 12)]
        return [*begun, *sequence, (0x41, 2 << 12 | corrected)]
    return [(0x00, 0x2000 | code << 11 | 8 << 7 | (8 | average) << 3 | 7)]


#: bits of a register that read back otherwise than written
_FLAGS = {("ina226", 0x06): 0x1C, ("ina228", 0x0B): 0x0FFF, ("ina229", 0x0B): 0x0FFF}


def reads_back(rail: Rail, register: int, written: int, read: int) -> bool:
    return not (written ^ read) & ~_FLAGS.get((rail.kind, register), 0)


def descriptor(rail: Rail) -> int:
    """The word of the contract's `Rail`."""
    reads = 0
    for place, (register, size, role) in enumerate(rail.chip.reads):
        word = codec.encode(contract.RailRead, register=register, bytes=size, role=int(role))[0]
        reads |= word << _FIELD_BITS * place
    return codec.encode(contract.Rail, address=rail.address, enabled=1, ready=rail.chip.ready_bit, reads=reads)[0]


#: Of a PMBus: commands, and all power stages of an output.
PAGE, PHASE, ALL_PHASES, VOUT_MODE, READ_POUT = 0x00, 0x04, 0xFF, 0x20, 0x96
LINEAR11_STEP = 2.0**-16  #: as the device gives such a number, in `LINEAR11_BITS`, two's complement
LINEAR11_BITS = 24


def volts_exponent(mode: int) -> int | None:
    """Of LINEAR16, as VOUT_MODE says it; None where volts are in another format."""
    return None if mode >> 5 else (mode ^ 0x10) - 0x10


_READ_BITS = 31  # START, address, register, START, address and STOP, with acknowledges
_QUARTER_NS, _LEAST_BIT_CYCLES, _BIT_CYCLES = 650, 12, 6  # of the gateware's I2C master, and on top of each bit
_SLACK_BITS = 1
_SUM_CYCLES = 1024  # in which a sample is added up, with an edge in it


_BEATS = 64  # in which a word of a PMBus is given, when they begin

_FLAG_BITS = 22  # from the bit with which a chip takes a register to send, to what follows on the STOP
#: Likewise on an SPI bus, in nanoseconds and cycles of half a bit, and in bits: the register's number, the lines
_HALF_NS, _LEAST_HALF_CYCLES, _SPI_BITS, _SPI_CYCLES = 50, 3, 10, 12
#: Likewise of the converter: cycles of a bit, of all but bits, and of those behind the moment that is looked at
_XADC_BIT_CYCLES, _XADC_CYCLES, _XADC_BEHIND_CYCLES = 4, 18, 3


def seen_s(rail: Rail, clock_hz: float) -> tuple[float, float]:
    """Seconds by which a sample is seen ready later than it is, at least and at most.

    Of a regulator: by which a round's time is later than that at which its number was taken.
    """
    _, size, _ = rail.chip.reads[0]
    poll_s = read_s(size, clock_hz, rail.chip.bus)
    if rail.regulates:
        frame_s = _BEATS / clock_hz
        least_s = (poll_s - 2 * frame_s) * _FLAG_BITS / (_READ_BITS + 18 + _SLACK_BITS) + frame_s
        return least_s, least_s + frame_s
    least_s = poll_s * _FLAG_BITS / (_READ_BITS + 18 + _SLACK_BITS)
    if rail.chip.bus == "spi":
        least_s = poll_s * 8 * size / (8 * size + _SPI_BITS)
    if rail.chip.bus == "xadc":
        least_s = (8 * size * _XADC_BIT_CYCLES + _XADC_BEHIND_CYCLES) / clock_hz
    return least_s, least_s + poll_s


def read_s(size: int, clock_hz: float, bus: str = "i2c") -> float:
    """Seconds that the bus takes to read a register of so many bytes."""
    if bus == "spi":
        half = max(_LEAST_HALF_CYCLES, -(-clock_hz * _HALF_NS // 10**9))
        return ((8 * size + _SPI_BITS) * 2 * half + _SPI_CYCLES) / clock_hz
    if bus == "xadc":
        return ((8 * size + 8) * _XADC_BIT_CYCLES + _XADC_CYCLES) / clock_hz
    quarter = -(-clock_hz * _QUARTER_NS // 10**9)
    bytes_read, more = (2, 2 * _BEATS) if bus == "pmbus" else (size, 0)
    bit_cycles = max(4 * quarter, _LEAST_BIT_CYCLES) + _BIT_CYCLES
    return ((_READ_BITS + 9 * bytes_read + _SLACK_BITS) * bit_cycles + more) / clock_hz


def round_s(rails: Sequence[Rail], clock_hz: float) -> float:
    """Seconds that a round of these rails takes: the bus, and the adding up behind the last."""
    reads_s = sum(read_s(size, clock_hz, rail.chip.bus) for rail in rails for _, size, _ in rail.chip.reads)
    return reads_s + _SUM_CYCLES / clock_hz
