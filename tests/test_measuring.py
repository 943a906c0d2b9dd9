"""Sensors set up over a port, their faults, and joules of windows whose truth is known."""

import numpy as np
import pytest
from bitfirst.energy import Energy
from bitfirst.errors import DeviceError, UsageError
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import CHIPS, Rail
from power_port import Part, PowerPortModel

KINDS = tuple(kind for kind, chip in CHIPS.items() if chip.bus == "i2c")  # of the bus in `power_port`


def opened(kind: str = "ina226", **part: float) -> tuple[PowerPortModel, Monitor]:
    port = PowerPortModel([Part(kind, 0x40, 0.1, **part)])
    port.load(0.5)
    return port, Monitor(port, [Rail("5V", kind, 0x40, 0.1)])


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_watts_times_seconds(kind):
    port, monitor = opened(kind)
    before = monitor.snapshot()
    port.wait(1_000_000)
    sums = monitor.snapshot() - before
    rail = monitor.rails[0]
    watts = (sums.energy.sum() - rail.chip.bus_flags * sums.charge.sum()) / sums.cycles.sum()
    assert watts * rail.amps_per_code * rail.volts_per_code == pytest.approx(0.5, rel=1e-3)
    assert sums.cycles.sum() == sums.stamp > 1_000_000 and sums.samples.sum() > 100


@pytest.mark.parametrize("kind", KINDS)
def test_records_are_samples_in_their_order(kind):
    _, monitor = opened(kind)
    monitor.wait(0.5)
    records = monitor.records()
    assert len(records) > 100 and (np.diff(records["stamp"]) > 0).all()
    assert records["current"] * monitor.rails[0].amps_per_code == pytest.approx(0.1, rel=2e-3)
    assert monitor.rails[0].volts(records["voltage"]) == pytest.approx(5, rel=1e-3)


def test_no_sensor_is_unavailable():
    monitor = Monitor(PowerPortModel([]), [Rail("5V", "ina226", 0x40, 0.1)])
    assert "no sensor answers" in monitor.unavailable


def test_bad_sensors_are_told_with_the_mend():
    def open_with(part: Part, rail: Rail) -> None:
        Monitor(PowerPortModel([part]), [rail])

    with pytest.raises(UsageError, match="sensors answer at 0x41: give that address"):
        open_with(Part("ina226", 0x41, 0.1), Rail("5V", "ina226", 0x40, 0.1))
    with pytest.raises(UsageError, match=r"another chip.*check kind and address"):
        open_with(Part("ina226", 0x40, 0.1), Rail("5V", "ina228", 0x40, 0.1))
    with pytest.raises(DeviceError, match="does not keep its set-up"):
        open_with(Part("ina219", 0x40, 0.1, keeps=False), Rail("5V", "ina219", 0x40, 0.1))
    with pytest.raises(UsageError, match="no shunt_ohm"):
        Rail("5V", "ina226", 0x40)
    with pytest.raises(UsageError, match="choose from ina226"):
        Rail("5V", "ina260", 0x40, 0.1)
    with pytest.raises(UsageError, match="most_amps"):
        Rail("5V", "ina226", 0x40, 0.1, most_amps=5)


def test_faults_in_a_window_are_told_with_the_mend():
    port, monitor = opened()
    port.chips[0].answers = False
    port.wait(100_000)
    with pytest.raises(DeviceError, match="stopped answering"):
        monitor.snapshot()
    port, monitor = opened()
    port.run(0.1, 8.0)
    with pytest.raises(DeviceError, match="end of its range"):
        monitor.snapshot()
    for name, said in ("overflow", "63 bits"), ("late", "gave no sample"):
        port, monitor = opened()
        port.state[name] = 1
        with pytest.raises(DeviceError, match=said):
            monitor.snapshot()
    monitor.clear()
    assert monitor.snapshot().samples.sum() >= 0  # faults are gone


def test_a_drifting_clock_of_a_board_is_refused():
    seconds = [0.0]
    port, monitor = opened()
    monitor.clock = lambda: seconds[0]
    port.provenance = "measured"
    before = monitor.snapshot()
    port.wait(int(20 * port.clock_hz))
    seconds[0] = 20.0
    monitor.check_clock(monitor.snapshot() - before)
    port.wait(int(20 * port.clock_hz))
    seconds[0] = 41.0
    with pytest.raises(DeviceError, match="clock drifts"):
        monitor.check_clock(monitor.snapshot() - before)


@pytest.mark.parametrize(("factor", "run_s"), [(1.5, 0.1), (1.05, 0.6)], ids=["in a block", "with the rest around"])
def test_a_window_sees_the_clock_drift(factor, run_s):
    port, monitor = opened()
    port.provenance = "measured"

    def measured() -> Energy:
        with monitor.window("run", limit_s=0.1) as window:
            for _ in window.replays():
                port.run(run_s, 1.5)
        return window.reading.total

    monitor.clock = lambda: port.now
    assert measured().provenance == "measured"
    monitor.clock = lambda: factor * port.now
    with pytest.raises(DeviceError, match=r"clock drifts: .* s of the host; check that it runs at"):
        measured()
