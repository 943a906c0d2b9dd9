"""The simulated power monitors against their data sheets, whose formulas are worked out by hand here."""

import statistics
from dataclasses import fields, replace

import pytest
from bitfirst.errors import UsageError
from bitfirst_sim import build
from bitfirst_sim.bench import run_bench
from bitfirst_sim.sensors import BUSES, LIMITS, Limits, SensorBus, SimulatedRail, drawn

KINDS = tuple(kind for kind, bus in BUSES.items() if bus == "i2c")
INA226, INA228, INA219 = (SimulatedRail(kind) for kind in KINDS)
UCD9248 = SimulatedRail("ucd9248", supply_volts=1.0)
MASK_226, DIAG_228, POWER_219 = 0x06, 0x0B, 0x03
ALATCH = 0x8000
HALF_BIT_S = 1.25e-6
SINCE_WRITE_S = 7 * HALF_BIT_S  #: from the last bit of a `Master.write` to its end


class Master:
    """An I2C master at 400 kHz; time passes in its transfers and in `wait`."""

    header: str | None = None  #: other text for sensors.hpp

    def __init__(self, *rails: SimulatedRail) -> None:
        self.bus = SensorBus(rails, self.header)
        self.time_s = 0.0
        self.scl_low = self.sda_low = False
        self.sda = 1

    def wait(self, seconds: float) -> None:
        self.time_s += seconds

    def load(self, watts: float, rail: int = 0) -> None:
        self.bus.set_watts(self.time_s, rail, watts)

    def look(self, register: int, rail: int = 0) -> int:
        return self.bus.look(self.time_s, rail, register)

    def write(self, register: int, value: int, size: int = 2, address: int = 0x40) -> bool:
        """Whether all bytes were acknowledged."""
        self._start()
        acknowledged = [self._send(byte) for byte in (address << 1, register, *value.to_bytes(size, "big"))]
        self._stop()
        return all(acknowledged)

    def word(self, command: int, address: int = 52) -> int:
        """Of a PMBus, low byte first."""
        return int.from_bytes(self.read(command, 2, address).to_bytes(2, "little"), "big")

    def choose(self, page: int, address: int = 52) -> bool:
        """That page of a regulators' controller, all its stages."""
        return self.write(0x00, page, 1, address) and self.write(0x04, 0xFF, 1, address)

    def read(self, register: int, size: int = 2, address: int = 0x40) -> int | None:
        """None when the address is not acknowledged."""
        self._start()
        if not (self._send(address << 1) and self._send(register)):
            return self._stop()
        self._start()
        if not self._send(address << 1 | 1):
            return self._stop()
        value = int.from_bytes(bytes(self._receive(last=place == size - 1) for place in range(size)), "big")
        self._stop()
        return value

    def clock(self, bit: int) -> int:
        """Give a bit, or 1 to leave the wire to the chip; what was on it."""
        self._pull(sda_low=not bit)
        self._pull(scl_low=False)
        seen = self.sda
        self._pull(scl_low=True)
        return seen

    def _pull(self, **wires: bool) -> None:
        for name, low in wires.items():
            setattr(self, name, low)
        self.sda = self.bus.drive(self.time_s, self.scl_low, self.sda_low)[1]
        self.wait(HALF_BIT_S)

    def _start(self) -> None:
        self._pull(sda_low=False)
        self._pull(scl_low=False)
        self._pull(sda_low=True)
        self._pull(scl_low=True)

    def _stop(self) -> None:
        self._pull(sda_low=True)
        self._pull(scl_low=False)
        self._pull(sda_low=False)

    def _send(self, byte: int) -> bool:
        for place in range(8):
            self.clock(byte >> (7 - place) & 1)
        return self.clock(1) == 0

    def _receive(self, last: bool) -> int:
        byte = 0
        for _ in range(8):
            byte = byte << 1 | self.clock(1)
        self.clock(int(last))
        return byte


def signed(value: int, bits: int) -> int:
    return value - (value >> (bits - 1) << bits)


def test_registers_after_power_up() -> None:
    master = Master(INA226, replace(INA228, address=0x41), replace(INA219, address=0x4F))
    expected = {0x00: 0x4127, 0x05: 0, 0x06: 0, 0x07: 0, 0xFE: 0x5449, 0xFF: 0x2260}
    assert {register: master.read(register) for register in expected} == expected
    expected = {0x00: 0, 0x01: 0xFB68, 0x02: 0x1000, 0x03: 0, DIAG_228: 0x0001, 0x0C: 0x7FFF, 0x0D: 0x8000}
    expected |= {0x0E: 0x7FFF, 0x0F: 0, 0x10: 0x7FFF, 0x11: 0xFFFF, 0x3E: 0x5449, 0x3F: 0x2281}
    assert {register: master.read(register, address=0x41) for register in expected} == expected
    assert [master.read(register, address=0x4F) for register in (0x00, 0x05)] == [0x399F, 0]
    assert master.bus.violations == 0


def test_wrong_address_is_not_acknowledged() -> None:
    master = Master(replace(INA226, address=0x44))
    assert master.read(0xFE, address=0x44) == 0x5449
    assert master.read(0xFE, address=0x45) is None and not master.write(0x05, 1, address=0x45)
    assert master.look(0x05) == 0


def test_example_of_ina226() -> None:
    """10 A through 2 mOhm, 11.98 V at the load, 1 mA a step."""
    master = Master(replace(INA226, shunt_ohm=0.002, supply_volts=12))
    assert master.write(0x05, 0x0A00)  # 0.00512 / (0.001 * 0.002)
    master.load(119.8)
    master.wait(6e-3)
    assert [master.read(register) for register in (1, 2, 3, 4)] == [8000, 9584, 4792, 10000]


def test_example_of_ina219() -> None:
    """The same load; steps of 1 mA and 20 mW."""
    master = Master(replace(INA219, shunt_ohm=0.002, supply_volts=12))
    assert master.write(0x05, 0x5001)  # 0.04096 / (0.001 * 0.002); its bit 0 cannot be set
    assert master.read(0x05) == 0x5000
    master.load(119.8)
    master.wait(3e-3)
    assert [master.read(register) for register in (1, 2, 4, 3)] == [2000, 2995 << 3 | 2, 10000, 5990]
    assert master.read(2) == 2995 << 3  # reading the power says that it is known


def test_example_of_ina228() -> None:
    """6 A through 16.2 mOhm at 48 V for a second; 10 A / 2**19 a step.

    The data sheet prints 4718604 for the power: 5 ppm more than its formula gives with the codes that it prints.
    """
    master = Master(replace(INA228, shunt_ohm=0.0162, supply_volts=48 + 6 * 0.0162))
    step = 10 / 2**19
    assert master.write(0x02, round(13107.2e6 * step * 0.0162)) and master.look(0x02) == 4050
    master.load(288.0)
    master.wait(10e-3)
    master.write(0x00, 0x4000)  # the sums begin
    before = master.time_s
    master.wait(1.0)
    assert master.read(0x04, 3) == 311040 << 4 and master.read(0x05, 3) == 245760 << 4
    assert master.read(0x06) == 3200  # 25 degrees
    assert master.read(0x07, 3) == 314572 << 4
    assert master.read(0x08, 3) == 314572 * 245760 // 16384
    seconds = master.time_s - before
    lag = 3 * 1052e-6  # of a sum, at most a turn of three conversions; half of one more for the read itself
    assert (seconds - 2 * lag) * 6 <= master.read(0x0A, 5) * step <= seconds * 6
    assert (seconds - 2 * lag) * 288 <= master.read(0x09, 5) * step * 3.2 * 16 <= seconds * 288
    master.write(0x00, 0x4000)
    assert master.read(0x0A, 5) == master.read(0x09, 5) == 0


def test_ina228_range_of_40_mv() -> None:
    master = Master(replace(INA228, shunt_ohm=0.0162, supply_volts=48 + 2 * 0.0162))
    master.write(0x00, 0x0010)
    master.write(0x02, 4 * 4050)
    master.load(96.0)
    master.wait(10e-3)
    assert master.read(0x04, 3) == 414720 << 4  # 32.4 mV / 78.125 nV
    assert master.read(0x07, 3) == 104857 << 4  # 2 A


def test_current_the_other_way() -> None:
    master = Master(replace(INA228, shunt_ohm=0.0162, supply_volts=48 - 6 * 0.0162))
    master.write(0x02, 4050)
    master.write(0x00, 0x4000)
    master.load(-288.0)
    master.wait(1.0)
    assert master.read(0x04, 3) == 0xB41000  # the data sheet's -97.2 mV
    assert signed(master.read(0x07, 3), 24) >> 4 == -314572
    assert signed(master.read(0x0A, 5), 40) == pytest.approx(-314572, rel=0.01)
    assert master.read(0x08, 3) == 314572 * 245760 // 16384 and master.read(0x09, 5) > 0
    master = Master(replace(INA226, shunt_ohm=0.002, supply_volts=11.96))
    master.write(0x05, 0x0A00)
    master.load(-119.8)
    master.wait(6e-3)
    assert [signed(master.read(register), 16) for register in (1, 4)] == [-8000, -10000]
    assert master.read(3) == 4792


@pytest.mark.parametrize(
    ("rail", "size", "positive", "negative"),
    [(INA226, 2, 0x7FFF, 0x8000), (INA228, 3, 0x7FFFF0, 0x800000), (INA219, 2, 32000, -32000 & 0xFFFF)],
    ids=KINDS,
)
def test_saturation(rail: SimulatedRail, size: int, positive: int, negative: int) -> None:
    """5 A through 0.1 Ohm are beyond every range; half of the range is not held."""
    register = 0x04 if rail.kind == "ina228" else 0x01
    for watts, code in ((5 * 4.5, positive), (-5 * 5.5, negative)):
        master = Master(rail)
        master.load(watts)
        master.wait(20e-3)
        assert master.read(register, size) == code
        master.load(watts / 25)
        master.wait(20e-3)
        assert master.look(register) != code


def test_bus_voltage_saturates() -> None:
    for rail, register, code in ((INA226, 2, 0x7FFF), (INA228, 5, 0x7FFFF0), (INA219, 2, 8000 << 3 | 2)):
        master = Master(replace(rail, supply_volts=120.0))
        master.wait(20e-3)
        assert master.look(register) == code
        master = Master(replace(rail, supply_volts=30.0))
        master.wait(20e-3)
        assert master.look(register) < code


def test_numbers_too_large_are_flagged() -> None:
    master = Master(INA226)
    master.load(5 * 0.7)
    master.write(0x05, 0x1000)
    master.wait(3e-3)
    assert master.read(MASK_226) & 4 and master.read(4) == 0x7FFF
    master.write(0x05, 0x0200)
    master.wait(3e-3)
    assert not master.read(MASK_226) & 4
    master = Master(INA228)
    master.write(0x02, 0x0100)
    master.load(5 * 0.7)
    master.wait(10e-3)
    assert master.read(DIAG_228) & 0x200 and master.look(0x07) == 0x7FFFF0


def test_load_is_power_at_the_load() -> None:
    """Behind 0.4 and 0.1 Ohm at 5 V, 4.5 W are 1 A at 4.5 V; what cannot be given is not taken."""
    master = Master(replace(INA226, source_ohm=0.4, shunt_ohm=0.05))
    master.load(1 * 4.55)
    master.wait(3e-3)
    assert [master.look(1), master.look(2)] == [20000, 3640]
    master.load(1000.0)
    master.wait(3e-3)
    assert master.look(2) == 2000  # at most half of the supply's voltage


def test_a_conversion_across_a_step_lies_between() -> None:
    """INA226, 8.244 ms each: a load for three quarters of the shunt's; it is over before the bus has its turn."""
    master = Master(replace(INA226, source_ohm=1.0))
    master.load(0.5 * 4.45)
    master.write(0x00, 0x4000 | 7 << 6 | 7 << 3 | 7)
    began = master.time_s - SINCE_WRITE_S
    master.time_s = began + 0.75 * 8.244e-3
    master.load(0.0)
    master.time_s = began + 2 * 8.244e-3 + 1e-4
    assert master.look(1) == round(0.75 * 0.05 / 2.5e-6) and master.look(2) == 4000


@pytest.mark.parametrize(
    ("kind", "register", "value", "micros", "result", "step"),
    [
        ("ina226", 0x00, 0x4000 | 1 << 9 | 7 << 3 | 5, 8244, 1, 2.5e-6),
        ("ina228", 0x01, 0xA000 | 7 << 6 | 1, 4120, 4, 312.5e-9 / 16),
        ("ina219", 0x00, 0x3800 | 0b1010 << 3 | 5, 532, 1, 10e-6),
    ],
)
def test_averages(kind: str, register: int, value: int, micros: int, result: int, step: float) -> None:
    """Four conversions of the shunt: 60 mV, and from the middle on 30 mV. Nothing is shown before all are done."""
    master = Master(SimulatedRail(kind))
    master.load(0.6 * 4.94)
    master.write(register, value)
    began, before = master.time_s - SINCE_WRITE_S, master.look(result)
    master.time_s = began + 2 * micros * 1e-6
    master.load(0.3 * 4.97)
    master.time_s = began + 3.99 * micros * 1e-6
    assert master.look(result) == before
    master.time_s = began + 4.01 * micros * 1e-6
    assert abs(master.look(result) * step - 0.045) <= step


def ready(master: Master, kind: str) -> bool:
    register, bit = {"ina226": (MASK_226, 3), "ina228": (DIAG_228, 1), "ina219": (2, 1)}[kind]
    return bool(master.look(register) >> bit & 1)


#: A configuration, its register, how long a turn is, and what to read so that "ready" is cleared
TURNS = {
    "ina226": (0x00, 0x4127, 2.2e-3, MASK_226),
    "ina228": (0x01, 0xBB68, 2.104e-3, DIAG_228),
    "ina219": (0x00, 0x399F, 1.064e-3, POWER_219),
}


@pytest.mark.parametrize("error", [0.0, 0.1, -0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_conversion_times(kind: str, error: float) -> None:
    register, value, turn_s, clears = TURNS[kind]
    master = Master(SimulatedRail(kind, time_error=error))
    if kind == "ina228":
        master.write(DIAG_228, ALATCH)
    master.write(register, value)
    began = master.time_s - SINCE_WRITE_S
    for turn in range(1, 4):
        for seconds, expected in ((-1e-6, False), (1e-6, True)):
            master.time_s = began + turn * turn_s * (1 + error) + seconds
            assert ready(master, kind) is expected
        master.read(clears)


def test_ready_of_ina226() -> None:
    """Cleared by reading the mask and by writing the configuration, unless that is power-down."""
    master = Master(INA226)
    master.wait(3e-3)
    assert ready(master, "ina226") and master.read(1) is not None and ready(master, "ina226")
    assert master.read(MASK_226) & 8 and not ready(master, "ina226")
    master.wait(3e-3)
    master.write(0x00, 0x4120)
    assert ready(master, "ina226")
    master.write(0x00, 0x4123)  # triggered: once
    assert not ready(master, "ina226")
    master.wait(3e-3)
    assert master.read(MASK_226) & 8
    master.wait(9e-3)
    assert not ready(master, "ina226")


def test_ready_of_ina228() -> None:
    """Reading clears it with ALATCH alone; writing the configuration does."""
    master = Master(INA228)
    master.write(0x01, 0x7000)  # once
    master.wait(1e-3)
    assert master.read(DIAG_228) & 2 and master.read(DIAG_228) & 2
    master.write(DIAG_228, ALATCH)
    assert master.read(DIAG_228) == ALATCH | 3 and master.read(DIAG_228) == ALATCH | 1
    master.write(0x01, 0x7000)
    master.wait(1e-3)
    assert ready(master, "ina228")
    master.write(0x01, 0x7FFF)
    assert not ready(master, "ina228")


def test_ready_of_ina219() -> None:
    master = Master(INA219)
    master.wait(3e-3)
    assert master.read(2) & 2 and master.read(2) & 2
    master.read(POWER_219)
    assert not ready(master, "ina219")
    master.wait(3e-3)
    master.write(0x00, 0x3998)
    assert ready(master, "ina219")
    master.write(0x00, 0x399F)
    assert not ready(master, "ina219")


def test_alerts() -> None:
    master = Master(INA226)
    master.write(0x07, 1000)
    master.write(MASK_226, 0x8001)  # shunt over 2.5 mV, latched
    master.load(1.0)
    master.wait(3e-3)
    assert master.bus.alert(master.time_s, 0)
    master.load(0.0)
    master.wait(6e-3)
    assert master.read(MASK_226) & 0x10 and not master.bus.alert(master.time_s, 0)
    master = Master(INA228)
    master.write(0x0E, 0x0400)  # bus over 3.2 V
    master.wait(10e-3)
    assert master.read(DIAG_228) & 0x10 and master.bus.alert(master.time_s, 0)
    master.write(0x0E, 0x0800)
    master.wait(10e-3)
    assert not master.read(DIAG_228) & 0x10 and not master.bus.alert(master.time_s, 0)


@pytest.mark.soak
def test_sums_of_ina228_overflow() -> None:
    """2**40 LSB of ENERGY at the most power last 1048576 s, as half as many of CHARGE at the most current."""
    master = Master(replace(INA228, supply_volts=100.0, shunt_ohm=0.01))
    master.write(0x01, 0xFFF8)  # the longest conversions
    master.write(0x02, 4096)
    master.load(16.0 * 99.84)
    master.wait(1048000)
    assert not master.look(DIAG_228) & 0x0C00 and signed(master.look(0x0A), 40) > 0
    master.wait(200_000)
    assert master.read(DIAG_228) & 0x0C00 == 0x0C00 and signed(master.read(0x0A, 5), 40) < 0
    assert not master.read(DIAG_228) & 0x0400


def test_errors_of_a_chip() -> None:
    master = Master(replace(INA228, offset_volts=1e-6, gain_error=5e-4, bus_offset_volts=2.5e-3, bus_gain_error=-5e-4))
    master.load(0.1 * 4.99)
    master.wait(10e-3)
    assert master.look(4) >> 4 == round((0.01 * 1.0005 + 1e-6) / 312.5e-9)
    assert master.look(5) >> 4 == round((4.99 * 0.9995 + 2.5e-3) / 195.3125e-6)


@pytest.mark.parametrize(("field", "micros", "expected"), [(0, 50, 8.94e-6), (7, 4120, 0.985e-6)])
def test_noise(field: int, micros: float, expected: float) -> None:
    """2 uV in 1 ms; falls with the root of the time."""
    master = Master(replace(INA228, noise_volts=2e-6, seed=5), replace(INA228, address=0x41, noise_volts=2e-6, seed=6))
    for address in (0x40, 0x41):
        master.write(0x01, 0xA000 | field << 6, address=address)
    codes: tuple[list[float], list[float]] = ([], [])
    for _ in range(1000):
        master.wait(micros * 1e-6)
        for rail in range(2):
            codes[rail].append(signed(master.look(4, rail), 24) / 16 * 312.5e-9)
    assert codes[0] != codes[1]
    for series in codes:
        assert statistics.stdev(series) == pytest.approx(expected, rel=0.1)
        assert statistics.mean(series) == pytest.approx(0, abs=4 * expected / 1000**0.5)


def test_drawn_errors_are_within_the_limits() -> None:
    for kind in KINDS:
        chips = [drawn(kind, seed) for seed in range(200)]
        assert drawn(kind, 3) == chips[3] and drawn(kind, 3, offset_volts=0.0).offset_volts == 0
        for name in (field.name for field in fields(Limits) if "noise" not in field.name):
            limit, errors = getattr(LIMITS[kind], name), [getattr(chip, name) for chip in chips]
            if name == "linearity_volts":
                assert not any(errors)
                continue
            assert -limit <= min(errors) < -0.8 * limit and 0.8 * limit < max(errors) <= limit


def test_a_chip_that_stops_answering() -> None:
    master = Master(replace(INA226, stops_s=5e-3), replace(INA228, address=0x41))
    assert master.read(0xFE) == 0x5449
    master.wait(4.7e-3)
    master._start()
    assert master._send(0x80)  # it acknowledges still, and is gone in what follows
    master.wait(1e-3)
    assert not master._send(0xFE)
    master._stop()
    assert master.read(0xFE) is None and master.read(0x3E, address=0x41) == 0x5449


def test_a_register_is_read_whole() -> None:
    """A conversion that ends between two bytes is not seen by half."""
    master = Master(INA226)
    master.load(0.0)
    master.wait(3e-3)
    for byte in (0x80, 1):
        if byte == 0x80:
            master._start()
        assert master._send(byte)
    master._start()
    assert master._send(0x81)
    high = master._receive(last=False)
    master.load(0.8 * 4.92)
    master.wait(5e-3)
    assert (high, master._receive(last=True)) == (0, 0)
    master._stop()
    assert master.read(1) == 32000


def test_behind_a_register_are_ones() -> None:
    master = Master(INA226)
    assert master.read(0xFE, 3) == 0x5449FF


def test_a_jammed_bus_is_freed_by_clocks() -> None:
    master = Master(INA226)
    master.bus.jam(9)
    assert master.read(0xFF) != 0x2260
    while not master.clock(1):
        pass
    master._stop()
    assert master.read(0xFF) == 0x2260


def test_a_held_clock_resets_the_interface() -> None:
    """A chip that is sending low lets SDA go when SCL is low for over 28 ms; not after 20 ms."""
    for seconds, level in ((20e-3, 0), (40e-3, 1)):
        master = Master(INA226)
        master._start()
        assert master._send(0x80) and master._send(0xFE)
        master._start()
        assert master._send(0x81)
        master.wait(seconds)
        assert master.clock(1) == level


def test_a_master_too_fast_is_noticed() -> None:
    master = Master(INA226)
    for seconds in (0.0, 1e-6, 2e-6):
        master.bus.drive(seconds, True, False)
        master.bus.drive(seconds + 0.5e-6, False, False)
    assert master.bus.violations >= 3


def test_sda_that_changes_with_scl_is_noticed() -> None:
    bus = SensorBus([INA226])
    bus.drive(0, True, False)
    bus.drive(10e-6, False, True)
    assert bus.violations == 1


def linear11(word: int) -> float:
    return signed(word & 0x7FF, 11) * 2.0 ** signed(word >> 11, 5)


def test_regulators_say_who_they_are() -> None:
    master = Master(UCD9248, replace(UCD9248, address=53, page=3))
    for address in (52, 53):
        assert master.read(0xFD, 8, address) == int.from_bytes(b"\x07UCD9248", "big")
        assert master.read(0x20, 1, address) == 0x14  # VOUT_MODE: 2**-12 V
        assert master.choose(3, address) and master.read(0x00, 1, address) == 3
        assert master.read(0x04, 1, address) == 0xFF
    assert master.bus.violations == 0


def test_a_regulator_says_its_page_alone() -> None:
    master = Master(replace(UCD9248, page=1))
    master.load(2.0)
    master.wait(20e-3)
    assert master.choose(0) and master.word(0x8C) == 0x8000 and master.word(0x8B) == 0  # 0, as KC705's does
    assert master.choose(1) and linear11(master.word(0x8C)) == 2.0 and master.word(0x8B) == 0x1000
    assert linear11(master.word(0x96)) == pytest.approx(2.0, rel=1e-3)  # READ_POUT
    master.write(0x04, 0x00, 1, 52)  # one stage alone
    assert master.word(0x8C) == 0x8000


@pytest.mark.parametrize(
    ("amps", "word"), [(20.0, 0xDA80), (10.0, 0xD280), (16.8125, 0xDA1A), (0.01, 0x828F), (-1.5, 0xBD00)]
)
def test_a_regulator_takes_the_least_exponent(amps: float, word: int) -> None:
    """The first three are limits of KC705's regulators, as they were read there."""
    master = Master(UCD9248)
    assert master.choose(0)
    master.load(amps)
    master.wait(30e-3)
    assert master.word(0x8C) == word and abs(linear11(word) - amps) <= abs(amps) / 1024


def test_a_regulator_samples_and_smooths() -> None:
    """A quarter of each new sample; what flows between two samples is not seen."""
    master = Master(UCD9248)
    assert master.choose(0)
    master.load(1.0)
    master.wait(30e-3)
    period = UCD9248.update_s
    after = (int(master.time_s / period) + 1) * period + 0.1e-3  # behind a sample
    master.bus.set_watts(after, 0, 3.0)
    master.bus.set_watts(after + period / 2, 0, 1.0)  # over before the next one
    seen = [linear11(swap(master.bus.look(after + place * period, 0, 0x8C))) for place in (0.9, 1.5)]
    assert seen == [1.0, 1.0]
    master.bus.set_watts(after + 1.6 * period, 0, 2.0)
    seen = [linear11(swap(master.bus.look(after + (place + 0.5) * period, 0, 0x8C))) for place in (2, 3, 4, 20)]
    assert seen == pytest.approx([1.25, 1.4375, 1.578125, 2.0], abs=4e-3)


def swap(word: int) -> int:
    return word >> 8 | (word & 0xFF) << 8


BROKEN = {
    "a regulator gives the mean": (
        "{Input::SHUNT, SAMPLE}, {Input::BUS, SAMPLE}, {Input::DIE, rail.update_s * 1e6 - 2 * SAMPLE}",
        "{Input::SHUNT, rail.update_s * 1e6 - SAMPLE}, {Input::BUS, SAMPLE}",
        (test_a_regulator_samples_and_smooths,),
    ),
    "exponents that stay": (
        "int exponent = -16;",
        "int exponent = -4;",
        (lambda: test_a_regulator_takes_the_least_exponent(10.0, 0xD280),),
    ),
    "the converter takes the volts at the end": (
        "mean = integral / (end - from)",
        "mean = micros * 0 + (input == Input::SHUNT ? shunt_volts : bus_volts)",
        (test_a_conversion_across_a_step_lies_between,),
    ),
    "conversions take what is typical": ("(1 + rail.time_error)", "1", (lambda: test_conversion_times("ina226", 0.1),)),
    "ready stays": ("~(READY | EXCEEDED) : ~READY", "~EXCEEDED : ~0", (test_ready_of_ina226,)),
    "a shunt beyond the range wraps": (
        "rounded(volts / 2.5e-6, -0x8000, 0x7FFF)",
        "rounded(volts / 2.5e-6, -0x80000, 0x7FFFF)",
        (lambda: test_saturation(INA226, 2, 0x7FFF, 0x8000),),
    ),
    "20 bits are not at the top": (
        "shunt << 4",
        "shunt",
        (test_example_of_ina228, test_ina228_range_of_40_mv, test_current_the_other_way),
    ),
}


@pytest.mark.parametrize("defect", BROKEN)
def test_a_broken_sensor_fails(defect: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong, checks = BROKEN[defect]
    header = build.SENSORS.read_text()
    assert right in header
    monkeypatch.setattr(Master, "header", header.replace(right, wrong))
    for check in checks:
        with pytest.raises(AssertionError):
            check()


def test_bad_rails() -> None:
    with pytest.raises(UsageError, match="'ina3221' is not known"):
        SimulatedRail("ina3221")
    with pytest.raises(UsageError, match="'ina3221' is not known"):
        drawn("ina3221", 0)
    with pytest.raises(UsageError, match="reserved"):
        SimulatedRail("ina226", address=0x80)
    with pytest.raises(UsageError, match="above 0"):
        SimulatedRail("ina226", shunt_ohm=0.0)
    with pytest.raises(UsageError, match="time_error"):
        SimulatedRail("ina226", time_error=-1.0)
    with pytest.raises(UsageError, match="same address"):
        SensorBus([INA226, INA228])
    with pytest.raises(UsageError, match="it has no shunt_ohm"):
        SimulatedRail("ucd9248", shunt_ohm=0.1)
    with pytest.raises(UsageError, match="update_s must be"):
        SimulatedRail("ucd9248", update_s=0.0)
    with pytest.raises(UsageError, match="buses of i2c and pmbus: a device has one"):
        SensorBus([INA226, UCD9248])


WIRES = """
module wires(scl_o, sda_o, chips, scl, sda);
    input scl_o, sda_o, chips;
    output scl, sda;
    assign scl = scl_o;
    assign sda = sda_o & chips;
endmodule
"""


def test_with_a_master_that_nobody_here_wrote() -> None:
    assert len(run_bench(WIRES, "wires", "bitfirst_sim.benches.bench_sensors").tests) == 4
