"""The converter of a Xilinx chip as a sensor: simulated behind the monitor and on a whole device, and bad input."""

import dataclasses
import math
from dataclasses import replace

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst.errors import DeviceError, UsageError
from bitfirst.measuring import coverage, rails, sensors, uncertainty
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from bitfirst.quantiser import quantise
from bitfirst_hdl.contract import power as contract
from bitfirst_sim.power_simulator import COVERAGE_KHZ, PowerSimulator
from bitfirst_sim.sensors import SimulatedRail
from bitfirst_sim.supply import Supply, alone
from test_coverage import ACTIVITIES

CLOCK_KHZ = COVERAGE_KHZ["xadc"]
TURN_CYCLES = 4 * 26 * 2  #: channels, cycles of the converter's clock in each, cycles of the device in that
SAMPLE_CYCLES = 16 * TURN_CYCLES
FIVE, CORE = Rail("5V", "xadc", 9), Rail("core", "xadc", 10)


def opened(*parts: SimulatedRail, watts: tuple[float, ...] | None = None) -> tuple[PowerSimulator, Monitor]:
    """At a steady load, with its rails."""
    port = PowerSimulator(parts, CLOCK_KHZ)
    port.load(*(watts or [0.5] * len(parts)))
    return port, Monitor(port, [Rail(f"at {one.address}", "xadc", one.address) for one in parts])


def code(volts: float, full_scale: float = 1.0) -> int:
    """Of a steady input: cut to 16 bits, and halved."""
    return min(max(math.floor(volts / full_scale * 65536), 0), 65535) >> 1


def test_codes() -> None:
    """What is told against the formulas of UG480 and of the board, worked out here, errors in it."""
    five = SimulatedRail("xadc", 9, 0.25, 5.1, 0.2, offset_volts=3e-3, gain_error=0.01, bus_offset_volts=-0.02)
    core = SimulatedRail("xadc", 10, 0.5, 0.95, bus_gain_error=0.01, linearity_volts=4e-4)
    port, monitor = opened(five, core, watts=(2.0, 0.6))
    assert monitor.unavailable is None and port.violations == 0
    monitor.wait(0.1)
    records = monitor.records()
    amps = (5.1 - math.sqrt(5.1**2 - 4 * 0.2 * 2.0)) / (2 * 0.2)  # 2 W behind 0.2 ohm
    core_volts = 0.6 / 0.95 * 0.5
    for rail, current, voltage in (
        (0, code(amps * 0.25 * 1.01 + 3e-3), code((5.1 - amps * 0.2 - 0.02) / 5.99)),
        (1, code(core_volts + 4e-4 * math.sin(18.85 * core_volts)), code(0.95 * 1.01, 3.0)),
    ):
        own = records[records["rail"] == rail][2:]
        assert len(own) > 20 and set(own["current"]) == {current} and set(own["voltage"]) == {voltage}


def test_a_sample_is_the_mean_of_instants() -> None:
    """Of 16, as far apart as four channels: an edge of the load is at one of them in its sample."""
    port, monitor = opened(SimulatedRail("xadc", 9, 0.25))
    shares = []
    for place in range(12):
        port.load(0.5)
        monitor.wait(0.02)
        port.wait(389 * place + 7)
        port.load(1.5)
        monitor.wait(0.02)
        own = monitor.records()[-20:]
        gaps = np.diff(own["stamp"])
        assert (
            set(gaps) <= set(range(SAMPLE_CYCLES - 150, SAMPLE_CYCLES + 150))
            and abs(gaps.sum() - 19 * SAMPLE_CYCLES) < 150
        )
        low, high = code(0.5 / 5 * 0.25), code(1.5 / 5 * 0.25)
        between = [one for one in own["current"] if one not in (low, high)]
        assert len(between) <= 1 and {low, high} <= set(own["current"])
        shares += [16 * (one - low) / (high - low) for one in between]
    assert len({round(share) for share in shares}) > 6
    assert all(abs(share - round(share)) < 0.02 for share in shares)


def test_times_that_the_host_counts_with() -> None:
    """A round that is always ready takes no longer than is thought, and not much less."""
    port, monitor = opened(SimulatedRail("xadc", 9, 0.25))
    port.write(contract.CONTROL_ROW, 0)
    port.read(0, 1)
    assert monitor.transfer(9, b"\x40\x00\x00") == 0  # no means: a sequence ends in `TURN_CYCLES`
    monitor.clear()
    monitor.wait(0.05)
    stamps = monitor.records()["stamp"]
    longest_s = np.diff(stamps).max() / port.clock_hz
    assert TURN_CYCLES / port.clock_hz < sum(
        sensors.read_s(size, port.clock_hz, "xadc") for _, size, _ in FIVE.chip.reads
    )
    thought_s = sensors.round_s([FIVE], port.clock_hz)
    assert 0.25 * thought_s < longest_s <= thought_s
    least_s, most_s = sensors.seen_s(FIVE, port.clock_hz)
    assert 0 < least_s < most_s < 300 / port.clock_hz


@pytest.mark.parametrize("clock_khz", [2_000, 5_000, 27_000, 50_000, 100_000])
def test_timings(clock_khz: int) -> None:
    """The converter's clock is 1 to 26 MHz, the first one as fast as it can be."""
    found = sensors.timings(FIVE.chip, clock_khz * 1e3)
    assert found == sorted(found, key=lambda one: (one.shunt_field * one.turns, one.shunt_field))
    for timing in found:
        clock_hz = clock_khz * 1e3 / timing.shunt_field
        assert 1e6 <= clock_hz <= 26e6 and timing.turns == (16, 64, 256)[timing.average_field - 1]
        assert timing.sample_s == pytest.approx(4 * 26 / clock_hz * timing.turns)
        assert timing.shunt_s == pytest.approx(1 / clock_hz)
    assert found[0].shunt_field == max(2, -(-clock_khz // 26_000))


def test_set_up() -> None:
    """By UG480: VCCINT and inputs 1, 9 and 10 are chosen and averaged, unipolar; last of all it goes on for ever."""
    writes = sensors.setup(CORE, sensors.timings(CORE.chip, 50e6)[-1])
    assert writes == sensors.setup(FIVE, sensors.timings(FIVE.chip, 50e6)[-1])  # there is one converter
    assert writes[0][0] == writes[-1][0] == 0x41
    assert writes[0][1] >> 12 == 0 and writes[-1][1] >> 12 == 2 and writes[-1][1] >> 4 & 0xF == 0xF
    assert dict(writes[1:-1]) == {
        **{0x42: 32 << 8, 0x40: 3 << 12, 0x48: 0x0200, 0x49: 0x0602, 0x4A: 0x0200, 0x4B: 0x0602},
        **{0x4C: 0, 0x4D: 0, 0x4E: 0, 0x4F: 0},
    }


def test_full_scale_and_silence_are_told() -> None:
    port, monitor = opened(SimulatedRail("xadc", 9, 0.25, stops_s=0.5), watts=(19.0,))
    monitor.snapshot()  # 3.8 A of 4
    port.load(21.0)
    monitor.wait(0.02)
    with pytest.raises(DeviceError, match=r"current of at 9 \(xadc at 0x9\) reached the end of its range, 4 A"):
        monitor.snapshot()
    port.load(1.0)
    monitor.clear()
    monitor.snapshot()
    monitor.wait(0.5)
    with pytest.raises(DeviceError, match="stopped answering"):
        monitor.snapshot()


def test_windows_hold_the_truth() -> None:
    """On converters with errors within their limits; not when one is three times as wrong as it may be."""

    def held(wrong: float) -> list[bool]:
        limits = FIVE.chip
        part = SimulatedRail(
            "xadc", 9, 0.25, offset_volts=limits.offset_volts * 0.8, noise_volts=5e-4, bus_noise_volts=3e-3
        )
        part = replace(part, linearity_volts=limits.linearity_volts, gain_error=wrong * limits.gain_error, seed=3)
        port, monitor = opened(part)
        with monitor.window("w", relative=0.01, limit_s=2.0) as window:
            for _ in window.replays():
                port.load(1.5)
                port.wait(15_000)
                port.load(0.5)
        pairs = (window.reading.total, 1.5), (window.reading.dynamic, 1.0)
        seconds = 15_000 / port.clock_hz
        return [abs(energy.total_j - watts * seconds) <= energy.uncertainty_j for energy, watts in pairs]

    assert held(0.8) == [True, True]
    assert held(4.0)[1] is False


def test_calibrated_intervals() -> None:
    """Reduced: on one converter that is drawn, and calibrated."""

    def bed(drawn: coverage.Drawn) -> PowerSimulator:
        return PowerSimulator([SimulatedRail(**dataclasses.asdict(drawn))], CLOCK_KHZ)

    tested = coverage.test_windows("xadc", bed, ACTIVITIES, 4, seed=5, longest_s=0.03, limit_s=0.5, relative=0.03)
    found = coverage.summary(tested)
    assert found["resolved"] == 4 and found["held"] >= 0.75 and found["width_most"] < 1.5


def test_phases_of_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told apart, by a converter without errors: where in its turn the current is taken makes 70 uJ of the second."""
    none = dict.fromkeys(("offset_volts", "gain_error", "bus_offset_volts", "bus_gain_error", "linearity_volts"), 0.0)
    monkeypatch.setitem(sensors.XADC, 9, replace(FIVE.chip, **none))
    port = PowerSimulator([SimulatedRail("xadc", 9, 0.25)], CLOCK_KHZ)
    port.load(0.5)
    monitor = Monitor(port, [replace(FIVE, shunt_error=0.0)])
    order = [(1, "forward"), (5, "backward")]
    with monitor.window("step", phase=None, order=order, relative=1e-4, limit_s=5.0) as window:
        for _ in window.replays():
            for phase, watts, cycles in ((1, 2.5, 8000), (5, 1.0, 6000), (0, 0.5, 1)):
                port.phase(phase)
                port.load(watts)
                port.wait(cycles)
    for reading, truth in zip(window.phases, (2.0 * 8000, 0.5 * 6000), strict=True):
        error = abs(reading.dynamic.total_j - truth / port.clock_hz)
        assert error < reading.dynamic.uncertainty_j and error < 35e-6


def test_linearity_is_in_the_budget() -> None:
    """2 LSB at 0.25 V for an ampere and 5 V, run and rest apart."""
    timing = sensors.timings(FIVE.chip, 50e6)[0]
    facts = uncertainty.Facts(1.5, 0.5, 5.0, 1e-2, 10, 1.0, 1.0, timing.sample_s, 3.0, 3.0, 1e-6, 1.4)
    above, whole = uncertainty.budgets(FIVE, timing, facts)
    watts = 2 / 4096 / 0.25 * 5 / math.sqrt(3)
    assert whole.quantisation == pytest.approx(watts * 1e-2, rel=1e-3)
    assert above.quantisation == pytest.approx(math.sqrt(2) * watts * 1e-2, rel=1e-3)


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("power") / "with.toml"
    path.write_text('base = "tiny"\nclock_khz = 2000\nfeatures = ["gather", "requantise", "power"]\n')
    with bitfirst.open(f"rtl:{path}?sensor=xadc") as opened_board:
        yield opened_board


def test_a_window_on_the_whole_device(board) -> None:
    """Holds the joules that the simulated supply gave, and not a tenth more."""
    assert board.config.sensor_bus == "xadc"
    monitor = Monitor.of(board, [FIVE])
    x, w = (quantise(torch.rand(shape), 8) for shape in ((8, 8, 8, 8), (8, 8, 3, 3)))
    before = board.transport.joules()
    with monitor.window("forward", relative=0.03) as window:
        runs = [board.conv2d(x, w) for _ in window.replays()]
    taken = (board.transport.joules()[1] - before[1]) / len(runs)
    dynamic = window.reading.dynamic
    above = taken - window.reading.seconds * Supply(()).idle_watts
    assert abs(dynamic.total_j - above) < dynamic.uncertainty_j < 0.08 * above
    assert abs(dynamic.total_j - 1.1 * above) > dynamic.uncertainty_j
    assert abs(window.reading.total.total_j - taken) < window.reading.total.uncertainty_j


def test_sensors_of_another_bus_are_refused(board) -> None:
    said = "is on an I2C bus, and this device has the converter in the chip: name a sensor of that .xadc., or"
    with pytest.raises(UsageError, match=said):
        Monitor.of(board, [Rail("5V", "ina226", 0x40, 0.1)])
    with pytest.raises(UsageError, match="sensor ina228 is on a bus of I2C: leave out the feature xadc"):
        alone("ina228", board.config)
    with pytest.raises(UsageError, match="sensor xadc is on a bus of XADC: add the feature xadc"):
        alone("xadc", replace(board.config, features=("power",)))


def test_bad_input(tmp_path) -> None:
    for address in (0, 1, 0x40):
        with pytest.raises(UsageError, match=rf"address {address:#x} of r must be 9 \(5 V\) or 10 \(core\)"):
            Rail("r", "xadc", address)
    with pytest.raises(UsageError, match="most_amps = 5 of r must be 0 to 4 A at this shunt"):
        Rail("r", "xadc", 9, most_amps=5)
    with pytest.raises(UsageError, match="inputs 9 and 10 have currents"):
        SimulatedRail("xadc", 3)
    with pytest.raises(UsageError, match="sensors on buses of i2c and xadc"):
        PowerSimulator([SimulatedRail("xadc"), SimulatedRail("ina226")])
    with pytest.raises(UsageError, match=r"1\.9 MHz are too slow for xadc: give the device a clock of 2 MHz or more"):
        sensors.timings(FIVE.chip, 1.9e6)
    assert rails.one("serial:///dev/ttyUSB0", "xadc", rails.number(None, "xadc"), None, None, 0.01)[0].shunt_ohm == 0.25
    path = tmp_path / "rails.toml"
    path.write_text('[[rail]]\nname = "core"\nkind = "xadc"\naddress = 10\n')
    assert rails.load(path) == (CORE,) and CORE.shunt_ohm == 0.5
