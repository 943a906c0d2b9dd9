"""Joules of windows against the truth: intervals hold it, are no wider than they must be, and broken ones fail."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from bitfirst.errors import UsageError
from bitfirst.measuring import calibration, coverage, uncertainty
from bitfirst.measuring.activity import Activity
from bitfirst.measuring.calibration import Load
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from bitfirst.measuring.windows import LEAST_SAMPLES, Window
from power_port import Part, PowerPortModel

HELD, WIDTH, WINDOWS = 0.93, 1.5, 60
WATTS, IDLE = 1.5, 0.5
#: Made up; of 5 MHz: layers of some milliseconds, with a rest between two, and tiles of some tenths of one.
_TILES = np.repeat([1.0, 1.3, 0.2, 0.8, 1.6], [40, 25, 7, 60, 21]) * np.tile([1.1, 0.9, 1.0], 51)
ACTIVITIES = [Activity("steady", 1000, np.ones(8)), Activity("layers", 1000, _TILES / _TILES.mean())]


def bed(drawn: coverage.Drawn) -> PowerPortModel:
    fields = asdict(drawn)
    seed = fields.pop("seed")
    return PowerPortModel([Part(**fields)], seed=seed)


def measured(seconds: float = 0.01, watts: float = WATTS, rail: Rail | None = None, **options):
    """A window over a load, of a sensor with no error but those in `options` that are a part's."""
    errors = {name: options.pop(name) for name in list(options) if name in Part.__dataclass_fields__}
    port = PowerPortModel([Part("ina226", 0x40, 0.1, noise_volts=2e-6, **errors)])
    port.load(IDLE)
    rail = rail or Rail("5V", "ina226", 0x40, 0.1, shunt_error=0)
    monitor = Monitor(port, [rail], calibrations=options.pop("calibrations", ()))
    with monitor.window("forward", **options) as window:
        for _ in window.replays():
            port.run(seconds, watts)
    return window.reading


@pytest.mark.parametrize("kind", ["ina226", "ina228", "ina219"])
def test_intervals_hold_the_truth(kind):
    tested = coverage.test_windows(kind, bed, ACTIVITIES, WINDOWS, seed=5, longest_s=0.3)
    found = coverage.summary(tested)
    assert found["resolved"] == WINDOWS
    assert found["held"] >= HELD and found["width_most"] <= WIDTH
    halved = [replace(one, reading=_with_width(one.reading, 0.5)) for one in tested]
    assert coverage.summary(halved)["held"] < HELD
    doubled = [replace(one, reading=_with_width(one.reading, 2)) for one in tested]
    assert coverage.summary(doubled)["width_mean"] > WIDTH


def _with_width(reading, factor):
    def scaled(energy):
        return replace(energy, uncertainty_j=energy.uncertainty_j * factor)

    return replace(reading, dynamic=scaled(reading.dynamic), total=scaled(reading.total))


@pytest.mark.parametrize("times", [1, 5])
def test_a_gain_is_held_within_the_data_sheet_and_not_beyond(times):
    reading = measured(0.1, relative=0.002, gain_error=times * 1e-3)
    truth = (WATTS - IDLE) * 0.1
    held = abs(reading.dynamic.total_j - truth) <= reading.dynamic.uncertainty_j
    assert held == (times == 1)


def test_a_calibration_takes_no_sample_of_another_load():
    port = PowerPortModel([Part("ina226", 0x40, 0.1, noise_volts=2e-6)])
    port.load(0.4)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])
    monitor.wait(0.5)
    port.load(3.6)
    monitor.wait(4 * monitor.sample_s)
    ((watts, error),) = monitor.steady(0.03)
    assert watts == pytest.approx(3.6, rel=1e-3) and error < 1e-3
    slow = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)], sample_s=0.1)
    with pytest.raises(UsageError, match="too short"):
        slow.steady(1e-4)


def test_an_offset_is_in_the_whole_alone():
    clean, offset = measured(0.1, relative=0.002), measured(0.1, relative=0.002, offset_volts=10e-6)
    assert offset.dynamic.total_j == pytest.approx(clean.dynamic.total_j, rel=1e-3)
    assert offset.total.total_j - clean.total.total_j == pytest.approx(10e-6 / 0.1 * 5 * 0.1, rel=0.3)


def test_replays_go_on_until_it_is_known_well_enough_or_time_is_over():
    few, many = measured(1e-3, relative=0.05), measured(1e-3, relative=0.006)
    assert few.replays < many.replays
    assert many.dynamic.uncertainty_j <= 0.006 * many.dynamic.total_j
    assert measured(1e-3, relative=1e-3, limit_s=0.3).replays < many.replays


def test_what_cannot_be_resolved_is_refused():
    short = measured(1e-3, limit_s=1e-6)
    assert short.total.provenance == "unavailable" and "too short" in short.unresolved
    small = measured(0.03, watts=IDLE + 5e-5, limit_s=1e-6)
    assert "too small" in small.unresolved
    nothing = measured(3.0, watts=IDLE + 3e-6, limit_s=1e-6)
    assert "cannot be told from nothing" in nothing.unresolved
    with pytest.raises(UsageError, match="relative"):
        measured(relative=0)
    with pytest.raises(UsageError, match="1 to 7"):
        measured(phase=0)


def test_a_sample_of_several_phases_is_one():
    """Three phases in each of a dozen samples are not three dozen samples."""
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(IDLE)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])
    with monitor.window("step", phase=None) as window:
        for _ in range(12):
            for phase in 1, 2, 3:
                port.phase(phase)
                port.run(monitor.sample_s / 3, WATTS)
    counted = sum(block.sums.samples[0, 1:].sum() for block in window._blocks)
    assert counted > LEAST_SAMPLES and "too short: 1" in window.reading.unresolved


def test_without_a_sensor_work_goes_on():
    port = PowerPortModel([])
    done = []
    with Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)]).window("forward") as window:
        done.extend(window.replays())
    assert done == [0] and window.reading.as_dict()["provenance"] == "unavailable"
    assert "no sensor answers" in window.reading.unresolved


def test_a_calibration_takes_gain_and_offset_off(tmp_path):
    rail = Rail("5V", "ina226", 0x40, 0.1, serial="7")
    loads = [Load(0.5 * 1.01 + 0.002, 1e-5, 0.5, 0.0), Load(3 * 1.01 + 0.002, 1e-5, 3.0, 0.0)]
    found = calibration.calibrate(rail, loads, "simulated")
    assert found.gain == pytest.approx(1 / 1.01) and found.offset_watts == pytest.approx(-0.002 / 1.01)
    calibration.save(tmp_path / "c.json", [found])
    assert calibration.load(tmp_path / "c.json") == [found]
    reading = measured(0.1, relative=0.002, gain_error=0.01, rail=rail, calibrations=[found])
    assert abs(reading.dynamic.total_j - 0.1) <= reading.dynamic.uncertainty_j < 0.002 * 0.1
    other = Rail("5V", "ina226", 0x40, 0.1, serial="8")
    with pytest.raises(UsageError, match="another sensor.*serial 7"):  # noqa: RUF043
        measured(rail=other, calibrations=[found])
    with pytest.raises(UsageError, match="the calibration was measured"):
        measured(rail=rail, calibrations=[replace(found, provenance="measured")])
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(UsageError, match="holds no calibration"):
        calibration.load(tmp_path / "bad.json")
    with pytest.raises(UsageError, match="too near"):
        calibration.calibrate(rail, [loads[0], replace(loads[0], sensor_watts=0.51, meter_watts=0.501)], "simulated")
    with pytest.raises(UsageError, match="check the ohms"):
        calibration.calibrate(rail, [loads[0], replace(loads[1], sensor_watts=30)], "simulated")


def test_rounding_is_what_noise_leaves_of_it():
    """`quantisation` against rounding itself, of levels anywhere in a step."""
    rng = np.random.default_rng(0)
    levels = rng.uniform(0, 1, 4000)
    for noise in 0.0, 0.2, 0.4, 0.8:
        rounded = np.rint(levels[:, None] + noise * rng.standard_normal((4000, 400)))
        variance = np.mean(rounded.var(axis=1))
        found = np.mean((rounded.mean(axis=1) - levels) ** 2) - variance / 400
        assumed = uncertainty.quantisation(float(np.sqrt(variance)))
        assert found <= assumed**2 * 1.03 + variance / 400 / 10
        assert assumed < 0.3
    assert uncertainty.quantisation(0.0) == pytest.approx(12**-0.5, rel=0.03)
    assert uncertainty.quantisation(3.0) < 1e-6


@pytest.mark.parametrize("share", [1.0, 0.8, 0.5])
def test_edges_scatter_as_derived(share):
    """Edges anywhere in a sample of 1 s that sees the shunt for `share` of it: joules of all phases, and of its own."""
    edge = np.random.default_rng(0).random(200_000)
    seen = np.clip((share - edge) / share, 0, 1)
    gap = 1 - share
    assert np.std(seen - (1 - edge)) == pytest.approx(gap / 12**0.5, abs=1e-3)
    assert np.mean(seen - (1 - edge)) == pytest.approx(-gap / 2, abs=1e-3)
    own = seen * (1 - edge) - (1 - edge), (1 - seen) * edge - edge  # behind a rising edge, before a falling one
    assert sum(np.mean(error) for error in own) < -0.3


STEP = {1: ("forward", 1.5), 2: ("input gradient", 1.2), 3: ("weight gradient", 1.9), 4: ("update", 0.8)}


def step_windows(kind: str, count: int, seed: int) -> list[tuple[list[tuple[float, float]], Window]]:
    """Windows of a training step, its phases of 1.5 to 20 ms; (seconds, watts) of each."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        drawn = replace(coverage.draw(kind, rng), shunt_ohm=0.1)
        port = bed(drawn)
        rail = Rail("5V", kind, 0x40, 0.1, shunt_error=0)
        calibrations = [coverage.calibrated(Monitor(port, [rail]), drawn, 0.3)]
        monitor = Monitor(port, [rail], calibrations=calibrations)
        port.load(IDLE)
        monitor.wait(4 * monitor.sample_s)
        parts = [(float(np.exp(rng.uniform(np.log(1.5e-3), np.log(20e-3)))), watts) for _, watts in STEP.values()]
        order = [(number, name) for number, (name, _) in STEP.items()]
        with monitor.window("step", phase=None, order=order, seed=drawn.seed, limit_s=2, relative=0.005) as window:
            for _ in window.replays():
                for number, (seconds, watts) in zip(STEP, parts, strict=True):
                    port.phase(number)
                    port.load(watts)
                    port.wait(round(seconds * port.clock_hz))
                port.load(IDLE)
        found.append((parts, window))
    return found


@pytest.mark.parametrize("kind", ["ina226", "ina228"])
def test_phases_of_a_step_hold_the_truth_and_add_up(kind):
    wholes, held, swapped, plain = [], [], [], []
    for parts, window in step_windows(kind, 10, seed=3):
        whole, readings = window.reading, window.phases
        assert [one.name for one in readings] == [name for name, _ in STEP.values()]
        truths = [seconds * watts for seconds, watts in parts]
        wholes.append(_held(whole, sum(truths)))
        together = sum(one.total.uncertainty_j for one in readings)
        assert abs(sum(one.total.total_j for one in readings) - whole.total.total_j) <= together
        held += [_held(one, truth) for one, truth in zip(readings, truths, strict=True)]
        swapped += [_held(one, truth) for one, truth in zip(readings, truths[1:] + truths[:1], strict=True)]
        joules = sum(window.monitor.joules(block.sums)[0] for block in window._blocks) / whole.replays
        plain += [
            abs(joules[number] - truth) <= one.total.uncertainty_j
            for number, one, truth in zip(STEP, readings, truths, strict=True)
        ]
    assert np.mean(held) >= HELD and np.mean(wholes) > 0.9
    assert np.mean(swapped) < 0.5 and np.mean(plain) < HELD  # phases that are mixed up, or not separated


def _held(reading, truth: float) -> bool:
    return abs(reading.total.total_j - truth) <= reading.total.uncertainty_j


def test_an_order_of_phases_that_cannot_be_is_refused():
    with pytest.raises(UsageError, match="each once"):
        measured(phase=None, order=[(1, "a"), (1, "b")])
    with pytest.raises(UsageError, match="phase=None"):
        measured(order=[(1, "a")])
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(IDLE)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])
    with (
        pytest.raises(UsageError, match="no phase b"),
        monitor.window("step", phase=None, order=[(1, "a"), (2, "b")]),
    ):
        port.phase(1)
        port.run(0.1, WATTS)


def test_short_runs_have_a_share_of_their_own():
    tested = coverage.test_windows("ina226", bed, ACTIVITIES, 6, seed=1, longest_s=0.05)
    found = coverage.summary(tested)
    short = [one.held for one in tested if one.seconds < 5 * one.reading.facts[0].sample_s]
    assert 0 < len(short) < 6 and found["held_short"] == sum(short) / len(short)
    assert coverage.summary([one for one in tested if not one.short])["held_short"] is None


def test_each_return_to_rest_has_edges(monkeypatch):
    """A body of 60 pieces of work, with rest between them that no order tells of."""
    exact = replace(coverage.draw("ina219", np.random.default_rng(0)), shunt_ohm=0.1, offset_volts=0.0, gain_error=0.0)
    rail = Rail("5V", "ina219", 0x40, 0.1, shunt_error=0)
    calibrations = [coverage.calibrated(Monitor(bed(exact), [rail]), exact)]

    def held() -> tuple[float, float]:
        within = []
        for seed in range(10):
            port, rng = bed(replace(exact, seed=seed)), np.random.default_rng(seed)
            port.load(IDLE)
            with Monitor(port, [rail], calibrations=calibrations).window("epoch", phase=None, seed=seed) as window:
                for _ in range(60):
                    port.phase(1)
                    port.run(2e-3, WATTS)
                    port.phase(0)
                    port.wait(round(6e-3 * rng.random() * port.clock_hz))
            steps = window.reading.facts[0].steps_watts
            energy = window.reading.dynamic
            within.append(abs(energy.total_j - 60 * 2e-3 * (WATTS - IDLE)) <= energy.uncertainty_j)
        return float(np.mean(within)), steps

    share, steps = held()
    assert share >= HELD and steps == pytest.approx(math.sqrt(2 * 60) * (WATTS - IDLE), rel=0.05)
    monkeypatch.setattr(Window, "_pieces", lambda _: np.ones(7))
    assert held()[0] < HELD - 0.2


@pytest.mark.parametrize("options", [{"phase": 3}, {"phase": None, "order": [(3, "a")]}])
def test_a_run_of_one_phase_has_two_edges(options):
    port = bed(coverage.draw("ina219", np.random.default_rng(0)))
    port.load(IDLE)
    monitor = Monitor(port, [Rail("5V", "ina219", 0x40, 0.1)])
    with monitor.window("one", limit_s=0.5, **options) as window:
        for _ in window.replays():
            port.phase(3)
            port.run(20e-3, WATTS)
    assert window.reading.facts[0].steps_watts == pytest.approx(math.sqrt(2) * (WATTS - IDLE), rel=0.03)


def test_the_link_is_silent_while_a_run_goes_on(monkeypatch):
    """All words to and from the monitor pass at rest, and none between the runs of a block."""
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(IDLE)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])

    def heard(within: bool) -> list[tuple[int, int]]:
        calls, runs = [], [0]
        for name in "read", "write":
            told = getattr(PowerPortModel, name)
            monkeypatch.setattr(
                port, name, lambda *a, told=told: calls.append((port.phases[-1][1], runs[0])) or told(port, *a)
            )
        with monitor.window("run", limit_s=2.0) as window:
            for _ in window.replays():
                runs[0] += 1
                port.run(10e-3, WATTS)
                if within:
                    monitor.snapshot()
        assert len(window._blocks) > 1 and calls
        ends = np.cumsum([0, *(block.runs for block in window._blocks)])
        return [call for call in calls if call[0] != 0 or call[1] not in ends]

    assert heard(False) == []
    assert heard(True) != []


def test_returns_are_counted_by_phase():
    """Ten pieces of work in six phases, one behind the other with rest between, as those of one phase."""
    port = bed(coverage.draw("ina219", np.random.default_rng(0)))
    port.load(IDLE)
    monitor = Monitor(port, [Rail("5V", "ina219", 0x40, 0.1)])
    with monitor.window("epoch", phase=None) as window:
        for number in 10 * [1, 2, 3, 4, 5, 6]:
            port.phase(number)
            port.run(10e-3, WATTS)
            port.phase(0)
            monitor.wait(2e-3)
    assert list(window._pieces()) == [10] * 6 + [1]
    expected = math.sqrt(2 * 60) * (WATTS - IDLE)
    assert window.reading.facts[0].steps_watts == pytest.approx(expected, rel=0.15)  # phases' own sums are cut at edges
