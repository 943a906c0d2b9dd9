"""The compiled power monitor with simulated sensors on its pins: what it adds up is what the loads took."""

import dataclasses
from collections.abc import Iterable

import numpy as np
import pytest
from bitfirst.errors import UsageError
from bitfirst.measuring import coverage, recording
from bitfirst.measuring.activity import Segment
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail, read_s, round_s
from bitfirst_hdl.contract import power as contract
from bitfirst_sim.power_simulator import COVERAGE_KHZ, PowerSimulator
from bitfirst_sim.sensors import BUSES, KINDS, SensorBus, SimulatedRail

CLOCK_KHZ = 5000
RUN, CLEAR, RECORD, RECOVER, SNAPSHOT = 1 << 3, 1 << 1, 1 << 4, 1 << 0, 1 << 2
#: What each rail takes in each phase
ACTIVITY = [Segment(1_000_000, 1, (0.8, 0.3)), Segment(1_500_000, 2, (2.0, 0.5)), Segment(1_200_000, 3, (0.5, 1.5))]


def test_each_sensor_has_a_clock_for_coverage() -> None:
    assert set(COVERAGE_KHZ) == set(BUSES.values()) and set(coverage.NOISE_VOLTS) >= {"ina226", "ucd9248", "xadc"}


def transfer(address: int, data: bytes, read: int) -> int:
    return address | len(data) << 8 | read << 11 | int.from_bytes(data, "little") << 16


def rail(kind: str, address: int) -> Rail:
    return Rail(f"rail {address:#x}", kind, address, 0.1, shunt_error=0.0)


def errors(kind: str, **fields: float) -> tuple[np.ndarray, float]:
    """By rail and phase 1 to 3: joules found less those taken; and how long a sample is."""
    lines = (0, 1) if BUSES[kind] == "spi" else (0x40, 0x41)
    port = PowerSimulator([SimulatedRail(kind, address=address, **fields) for address in lines], CLOCK_KHZ)
    port.load(*ACTIVITY[0].watts)
    monitor = Monitor(port, [rail(kind, address) for address in lines])
    port.phase(0)
    port.write(contract.CONTROL_ROW, CLEAR | RUN)
    port.wait(100_000)
    before = np.array(port.joules())
    port.play(ACTIVITY)
    port.wait(sum(segment.cycles for segment in ACTIVITY))
    port.phase(0)
    taken = (np.array(port.joules()) - before)[:, 1:4]
    expected = [[s.cycles / port.clock_hz * s.watts[place] for s in ACTIVITY] for place in range(2)]
    assert taken == pytest.approx(np.array(expected), rel=1e-9)
    port.wait(100_000)
    port.write(contract.CONTROL_ROW, SNAPSHOT | RUN)
    words = np.array(port.read(contract.FIRST_SUM_WORD, 2 * contract.PHASES * contract.SUM_WORDS), dtype=object)
    energy = words.reshape(2, contract.PHASES, contract.SUM_WORDS)[:, 1:4, 3]
    described = monitor.rails[0]
    scale = described.amps_per_code * described.volts_per_code / port.clock_hz
    assert port.violations <= 1  # the first clock pulse of all, which frees the bus
    return energy.astype(float) * scale - taken, monitor.sample_s


@pytest.mark.parametrize("kind", ["ina226", "ina228", "ina229"])
def test_sums_are_what_the_loads_took(kind: str) -> None:
    """Three phases of a fifth of a second or more: at each edge within the step of the load, for a sample's time."""
    watts = np.array([ACTIVITY[0].watts, *(segment.watts for segment in ACTIVITY), ACTIVITY[-1].watts]).T
    steps = np.abs(np.diff(watts))
    found, sample_s = errors(kind)
    allowed = (steps[:, :-1] + steps[:, 1:]) * sample_s + 1e-3
    assert (np.abs(found) < allowed).all()
    found, _ = errors(kind, gain_error=0.05)  # a sensor that is wrong
    assert (np.abs(found) > allowed).sum() > 3


def test_rounds_take_no_longer_than_the_host_thinks() -> None:
    """Conversions that are shorter than a round are always ready: then rounds follow one another."""
    for count in (1, 3):
        for kind, first, fast in (
            ("ina226", 0x40, transfer(0x40, b"\x00\x40\x07", 0)),
            ("ina228", 0x40, transfer(0x40, b"\x01\xb0\x00", 0)),
            ("ina229", 0, transfer(0, b"\x01\xb0\x00", 0)),
        ):
            rails = [rail(kind, first + number) for number in range(count)]
            port = PowerSimulator([SimulatedRail(kind, address=one.address) for one in rails], CLOCK_KHZ)
            Monitor(port, rails)
            port.write(contract.CONTROL_ROW, 0)
            port.read(0, 1)
            for one in rails:
                port.write(contract.TRANSFER_ROW, fast - first + one.address)
                assert port.read(contract.RESULT_WORD, 1)[0] & 3 == 3
            port.write(contract.CONTROL_ROW, CLEAR | RUN | RECORD)
            port.wait(200_000)
            port.write(contract.CONTROL_ROW, 0)
            recorded = port.read(contract.STATE_WORD, 1)[0] >> 32 & 0xFFFF
            words = port.read(contract.FIRST_RECORD_WORD, 2 * min(recorded, contract.RECORDS))
            stamps = sorted({word & 2**48 - 1 for word in words[::2]})
            longest = np.diff(stamps).max() / port.clock_hz
            reads = [(size, port.clock_hz, one.chip.bus) for one in rails for _, size, _ in one.chip.reads]
            assert 0.85 * sum(read_s(*read) for read in reads) < longest
            thought = round_s(rails, port.clock_hz)  # with the adding up of more phases than the one here
            assert 0.6 * thought < longest <= thought


def test_a_sensor_that_stops_and_one_that_is_not_there() -> None:
    port = PowerSimulator([SimulatedRail("ina226", stops_s=0.2), SimulatedRail("ina228", address=0x41)], CLOCK_KHZ)
    port.write(contract.TRANSFER_ROW, transfer(0x44, b"\xfe", 2))
    assert port.read(contract.RESULT_WORD, 1)[0] & 3 == 1  # done, not acknowledged
    for address, register, identity in ((0x40, 0xFE, 0x5449), (0x41, 0x3F, 0x2281)):
        port.write(contract.TRANSFER_ROW, transfer(address, bytes([register]), 2))
        result = port.read(contract.RESULT_WORD, 1)[0]
        assert result & 3 == 3 and result >> 24 == identity
    Monitor(port, [rail("ina226", 0x40), rail("ina228", 0x41)])
    port.write(contract.CONTROL_ROW, CLEAR | RUN)
    port.wait(200_000)
    silent = [port.read(contract.STATE_WORD, 1)[0] >> 8 & 0xF]
    port.wait(1_000_000)
    silent.append(port.read(contract.STATE_WORD, 1)[0] >> 8 & 0xF)
    assert silent == [0, 1]


def test_sensors_on_spi() -> None:
    """Each on its line; one that stops answering; none where the host looks for one."""
    port = PowerSimulator([SimulatedRail("ina229", stops_s=0.2), SimulatedRail("ina229", address=3)], CLOCK_KHZ)
    for line, register, found in ((0, 0x3F, 0x2291), (3, 0x3E, 0x5449), (3, 0x01, 0xFB68)):
        port.write(contract.TRANSFER_ROW, transfer(line, bytes([register]), 2))
        result = port.read(contract.RESULT_WORD, 1)[0]
        assert result & 3 == 3 and result >> 24 == found
    assert "no sensor answers on the bus" in Monitor(port, [rail("ina229", 1)]).unavailable
    Monitor(port, [rail("ina229", 0), rail("ina229", 3)])
    port.write(contract.CONTROL_ROW, CLEAR | RUN)
    port.wait(200_000)
    silent = [port.read(contract.STATE_WORD, 1)[0] >> 8 & 0xF]
    port.wait(1_000_000)
    silent.append(port.read(contract.STATE_WORD, 1)[0] >> 8 & 0xF)
    assert silent == [0, 1] and not port.violations
    with pytest.raises(UsageError, match="cannot hold it"):
        port.jam(9)


def test_a_jammed_bus_is_freed() -> None:
    port = PowerSimulator([SimulatedRail("ina226")], CLOCK_KHZ)
    port.read(contract.STATE_WORD, 1)
    port.jam(9)
    port.wait(100)
    assert not port.read(contract.STATE_WORD, 1)[0] & 2
    port.write(contract.CONTROL_ROW, RECOVER)
    assert port.read(contract.STATE_WORD, 1)[0] & 2
    port.write(contract.TRANSFER_ROW, transfer(0x40, b"\xff", 2))
    assert port.read(contract.RESULT_WORD, 1)[0] >> 24 == 0x2260


def test_activity() -> None:
    """Segments follow one another and the last one stays; a fast clock has less time, so takes less."""
    port = PowerSimulator([SimulatedRail("ina219")], CLOCK_KHZ, ACTIVITY_OF_ONE, clock_error=0.01)
    port.wait(1500)
    seconds = 1 / (CLOCK_KHZ * 1010)
    taken = [0.0, 1000 * 0.8 * seconds, 500 * 2.0 * seconds] + [0.0] * 5
    assert port.joules() == [pytest.approx(taken)] and port.cycles == 1500
    port.wait(1000)
    taken[2] += 1000 * 2.0 * seconds
    assert port.joules() == [pytest.approx(taken)]
    port.load(0.0)
    port.phase(4)
    port.wait(1000)
    assert port.joules() == [pytest.approx(taken)]


ACTIVITY_OF_ONE = [Segment(1000, 1, (0.8,)), Segment(300, 2, (2.0,))]
WINDOWS = 6


class Fuller(PowerSimulator):
    """Behind the calibration its loads take 3 % more than they are told."""

    loads = 0

    def load(self, *watts: float) -> None:
        self.loads += 1
        super().load(*(value * (1.03 if self.loads > len(coverage.LOADS) else 1) for value in watts))

    def play(self, activity: Iterable[Segment]) -> None:
        super().play(dataclasses.replace(one, watts=tuple(1.03 * value for value in one.watts)) for one in activity)


@pytest.mark.parametrize("kind", ["ina226", "ina228"])
def test_intervals_contain_the_truth(kind: str, power_url: str) -> None:
    """Reduced: some windows of recorded activity on one sensor, calibrated; they do not when the loads are others than
    told."""
    activities = recording.record(power_url)

    def held(simulator: type[PowerSimulator]) -> int:
        def bed(drawn: coverage.Drawn) -> PowerSimulator:
            return simulator([SimulatedRail(**dataclasses.asdict(drawn))], CLOCK_KHZ)

        tested = coverage.test_windows(
            kind, bed, activities, WINDOWS, seed=5, longest_s=0.03, limit_s=0.35, relative=0.03
        )
        found = coverage.summary(tested)
        assert found["resolved"] == WINDOWS
        return round(found["held"] * WINDOWS)

    assert held(PowerSimulator) >= WINDOWS - 1
    if kind == "ina228":
        assert held(Fuller) < WINDOWS - 2


def test_returns_to_rest_are_counted() -> None:
    port = PowerSimulator([SimulatedRail("ina219")], CLOCK_KHZ)
    for phase in (0, 1, 0, 8, 2, 3, 0, 1, 0):
        port.phase(phase)
    assert port.returns_to_rest[1:4] == [2, 0, 1]


def test_bad_input() -> None:
    with pytest.raises(UsageError, match="buses of i2c and spi: a device has one"):
        PowerSimulator([SimulatedRail("ina228"), SimulatedRail("ina229")])
    with pytest.raises(UsageError, match="there are 0 to 3"):
        SimulatedRail("ina229", address=4)
    with pytest.raises(UsageError, match="must be 0 to 3: its line"):
        rail("ina229", 0x40)
    with pytest.raises(UsageError, match="INA229 has no I2C bus"):
        SensorBus([SimulatedRail("ina229")])
    rails = [SimulatedRail(KINDS[0], address=0x40 + number) for number in range(5)]
    with pytest.raises(UsageError, match="5 sensors are more than the 4 rails"):
        PowerSimulator(rails)
    port = PowerSimulator(rails[:2], CLOCK_KHZ)
    with pytest.raises(UsageError, match="watts of 1 rails; there are 2"):
        port.load(1.0)
    with pytest.raises(UsageError, match="at least a cycle"):
        port.play([Segment(0, 0, (1.0, 1.0))])
    with pytest.raises(UsageError, match="out of range"):
        port.read(0, 513)
    with pytest.raises(UsageError, match="out of range"):
        port.write(8, 0)
