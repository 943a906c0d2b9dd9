"""A meter's CSV: columns, units, its clock; and what people are shown."""

import io

import numpy as np
import pytest
from bitfirst.errors import UsageError
from bitfirst.measuring import meter, shown
from bitfirst.measuring.meter import Trace
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from power_port import Part, PowerPortModel
from rich.console import Console


def written(path, text):
    path.write_text(text)
    return path


def test_columns_are_recognised_or_named_with_their_units(tmp_path):
    trace = meter.read_csv(written(tmp_path / "a.csv", "Time (ms);Voltage;Power_mW\n0;5;100\n500;5;300\n1000;5;300\n"))
    assert trace.seconds.tolist() == [0, 0.5, 1] and trace.watts == pytest.approx([0.1, 0.3, 0.3])
    assert trace.joules(0, 1) == pytest.approx(0.1 + 0.15) and trace.joules(0.25, 0.75) == pytest.approx(0.0625 + 0.075)
    trace = meter.read_csv(written(tmp_path / "u.csv", "s,mW\n0,100\n2,300\n"))
    assert trace.seconds.tolist() == [0, 2] and trace.watts == pytest.approx([0.1, 0.3])
    trace = meter.read_csv(written(tmp_path / "d.csv", "Time (ms),W\n2024-05-01T10:00:00Z,1\n2024-05-01T10:00:02Z,1\n"))
    assert np.ptp(trace.seconds) == 2  # a date has no unit
    dated = "when,p1,p2\n2024-05-01T10:00:00,1,2\n2024-05-01T10:00:02,1,2\n"
    trace = meter.read_csv(written(tmp_path / "b.csv", dated), time="when", power="p2")
    assert np.ptp(trace.seconds) == 2 and trace.watts.tolist() == [2, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,power\n", "no readings"),
        ("time,volts\n0,1\n1,1\n", "name one of time, volts as its power"),
        ("time,power,watts\n0,1,1\n1,1,1\n", "2 columns that look like power"),
        ("time,power\n0,1\n1,x\n", "line 3"),
        ("time,power\n0,1\n1,1\n0.5,1\n", "does not grow in line 4"),
        ("time,power\n0,1\n1,nan\n", "no numbers"),
        ("time,power\n0,1\n\n\n1,x\n", "line 5"),
        ("time,power\n0,1,5\n1,2,5\n", "3 cells under 2 headings: write numbers with points"),
        ("time,power\n1.7e12,1\n1.8e12,1\n", "no seconds: write their unit"),
        ("time,power min\n0,1\n1,1\n", "0 columns that look like power"),
        ("time,power (MW)\n0,1\n1,1\n", "no unit of power"),
        ("time (%),power\n0,1\n1,1\n", "0 columns that look like time"),
    ],
)
def test_bad_files_are_told(tmp_path, text, said):
    with pytest.raises(UsageError, match=said):
        meter.read_csv(written(tmp_path / "a.csv", text))


def test_a_missing_file_and_column_are_told(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        meter.read_csv(tmp_path / "none.csv")
    other = written(tmp_path / "b.csv", "time,Energy (Wh),Current (mA),kWh,gauge (x)\n0,1,1,1,1\n1,1,1,1,1\n")
    for column in "Energy (Wh)", "Current (mA)", "kWh", "gauge (x)":
        with pytest.raises(UsageError, match="no unit of power: name another one"):
            meter.read_csv(other, power=column)
    with pytest.raises(UsageError, match="it has time, power"):
        meter.read_csv(written(tmp_path / "a.csv", "time,power\n0,1\n1,1\n"), power="W")


@pytest.mark.parametrize("offset_s", [-3.0, 0.0, 12.4])
def test_the_clock_of_a_meter_is_found(offset_s):
    rng = np.random.default_rng(1)
    fine = np.arange(0, 60, 0.05)
    watts = 1 + (np.interp(fine, np.arange(61), rng.integers(0, 2, 61)) > 0.5)
    sensors = Trace(fine, watts + 0.02 * rng.standard_normal(len(fine)))
    coarse, some = np.arange(0, 60, 0.2), slice(150, 800)
    part = Trace(sensors.seconds[some], sensors.watts[some])
    theirs = Trace(coarse - offset_s, 1.05 * np.interp(coarse, fine, watts) + 2)
    assert meter.clock_offset(theirs, part) == pytest.approx(offset_s, abs=0.1)
    assert theirs.shifted(offset_s).joules(10, 20) == pytest.approx(1.05 * sensors.joules(10, 20) + 20, rel=0.01)
    with pytest.raises(UsageError, match="give the offset"):
        meter.clock_offset(Trace(coarse, rng.standard_normal(len(coarse))), part)
    with pytest.raises(UsageError, match="log for longer"):
        meter.clock_offset(Trace(coarse[:40], theirs.watts[:40]), part)
    if abs(offset_s) > 1:
        with pytest.raises(UsageError, match="no one time"):
            meter.clock_offset(theirs, part, most_s=1.0)
    with pytest.raises(UsageError, match="log for longer"):
        theirs.joules(-100, 0)


def test_people_see_joules_and_watts_over_time():
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(0.5)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])
    with monitor.window("forward", limit_s=0.1) as window:
        port.run(0.05, 1.5)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(shown.table([window.reading]))
    text = console.export_text()
    assert "forward" in text and "mJ" in text and "simulated" in text
    monitor.clear()
    port.phase(1)
    port.run(0.02, 1.5)
    port.phase(0)
    monitor.wait(0.01)
    records = monitor.records()
    spans = shown.phases(monitor, records, {1: "forward"})
    assert len(spans) == 1 and spans[0][1] - spans[0][0] == pytest.approx(0.02, abs=2e-3)
    traces = shown.traces(monitor, records)
    inside = (traces["5V"].seconds > spans[0][0] + 2e-3) & (traces["5V"].seconds < spans[0][1])
    assert traces["5V"].watts[inside] == pytest.approx(1.5, rel=1e-3)
    figure = shown.figure(traces, spans, port.provenance)
    assert "simulated" in figure.axes[0].get_title()
