"""Activity recorded from the whole device, and what sampling makes of it."""

import bitfirst
import numpy as np
import pytest
from bitfirst.errors import UsageError
from bitfirst.measuring import activity, coverage, recording, sensors, uncertainty
from bitfirst.measuring.activity import Activity, Segment
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from bitfirst.measuring.windows import Window, doubt, inside, known, moved
from bitfirst_hdl.contract.packets import Phase

TURN = sensors.Timing(0, 0, 0, shunt_s=4e-3, bus_s=1e-3, turns=1)
TURNS = sensors.Timing(0, 0, 0, shunt_s=0.8e-3, bus_s=0.2e-3, turns=5)


@pytest.fixture(scope="module")
def recorded(power_url) -> tuple[Activity, ...]:
    return recording.record(power_url)


def test_steps_of_training_are_recorded_phase_by_phase(recorded):
    by_name = {one.name: one for one in recorded}
    assert set(by_name) >= {"step", "forward", "input gradient", "weight gradient"}
    assert all(one.above.mean() == pytest.approx(1) and one.above.min() >= 0 for one in recorded)
    parts = sum(len(one.above) for name, one in by_name.items() if name != "step")
    assert 1000 < len(by_name["step"].above) - activity.LEAST_SPANS <= parts <= len(by_name["step"].above)
    assert by_name["weight gradient"].above.std() > 0.2  # it moves


@pytest.mark.soak
def test_the_device_that_is_recorded_by_itself():
    """It is larger than the one of the other tests: fewer cycles, the same phases."""
    by_name = {one.name: one for one in recording.record()}
    assert set(by_name) >= {"step", "forward", "input gradient", "weight gradient"}
    assert by_name["forward"].above.std() > 0.2


def test_what_is_recorded_is_what_the_device_took(power_url):
    with bitfirst.open(power_url) as device:
        transport = device.transport
        device.mark(Phase.FORWARD)
        before = transport.joules()
        transport.record()
        transport.advance(100_000)
        device.mark(Phase.UPDATE)
        transport.advance(50_000)
        after = transport.joules()
        span_cycles, watts, phases = transport.recorded()
    joules = np.array(after) - before
    found = [watts[phases == phase].sum() * span_cycles / (device.config.clock_khz * 1e3) for phase in range(8)]
    edge_j = 2 * span_cycles * watts.max() / (device.config.clock_khz * 1e3)
    assert found == pytest.approx(list(joules), abs=edge_j)
    assert joules[Phase.FORWARD] > 100 * edge_j < joules[Phase.UPDATE]


def test_no_other_device_is_recorded(power_url):
    for url in ("model", "rtl:tiny", power_url.partition("?")[0]):
        with pytest.raises(UsageError, match="on a simulated device with a supply, such as"):
            recording.record(url)


def test_a_run_goes_round_and_is_cut():
    one = Activity("made up", 10, np.array([0.5, 1.5, 1.0]))
    run = one.run(1, 35, 1.0, 2.0)
    assert run == [Segment(cycles, None, (watts,)) for cycles, watts in ((10, 4.0), (10, 3.0), (10, 2.0), (5, 4.0))]
    assert activity.joules(run, 1e3) == pytest.approx(0.11)


def error_j(timing: sensors.Timing, watts: np.ndarray, step_s: float) -> float:
    """Of all the watts' joules by samples that never see them while the volts are converted, by brute force."""
    shunt, turn = round(timing.shunt_s / step_s), round((timing.shunt_s + timing.bus_s) / step_s)
    turns = watts[:, : watts.shape[1] // turn * turn].reshape(len(watts), -1, turn)
    return float(np.std((turns[..., :shunt].mean(axis=2) - turns.mean(axis=2)).sum(axis=1) * turn * step_s))


@pytest.mark.parametrize("timing", [TURN, TURNS])
@pytest.mark.parametrize("kind", ["noise", "walk", "both"])
def test_power_that_moves_unseen_is_as_derived(timing, kind):
    """Runs of 1 s; of noise that is white far below the turn, and of a random walk."""
    rng, step_s, runs = np.random.default_rng(0), 0.1e-3, 600
    noise, steps = rng.standard_normal((2, runs, 10_000))
    watts = {"noise": 0.3 * noise, "walk": 0.02 * np.cumsum(steps, axis=1)}
    watts["both"] = watts["noise"] + watts["walk"]
    sample = round(timing.sample_s / step_s)
    turn, shunt = sample // timing.turns, round(timing.shunt_s / step_s)
    seen = watts[kind].reshape(runs, -1, timing.turns, turn)[..., :shunt].mean(axis=(2, 3))
    first, second = (float(np.mean(np.diff(seen, order) ** 2)) for order in (1, 2))
    derived, found = (
        uncertainty.unsteady(timing, timing.gap_s, first, second, 0.0),
        error_j(timing, watts[kind], step_s),
    )
    assert derived == pytest.approx(found, rel=0.06)
    white = uncertainty.unsteady(timing, timing.gap_s, first, 3 * first, 0.0)  # a walk that is taken for noise
    assert (white > 1.4 * found) == (kind != "noise")
    assert uncertainty.unsteady(timing, timing.gap_s, first, second, first) <= derived


def test_noise_of_the_sensor_is_no_activity():
    assert uncertainty.unsteady(TURN, TURN.gap_s, 2 * 0.01, 6 * 0.01, 0.01) == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("timing", [TURN, TURNS])
def test_sampling_errs_by_the_edges_of_a_steady_run(timing):
    """The scatter that is tried and the one that is derived, of edges that have nothing to do with each other."""
    run = [Segment(40_000, None, (3.0,))]
    tried = coverage.Samples.of(timing, run, 1e6, 1.0)
    assert tried.error_j(0.0) == pytest.approx(2.0 * (2 * timing.gap_s**2 / 12) ** 0.5, rel=0.03)
    assert tried.unsteady(2) == pytest.approx(0.0, abs=1e-6)
    assert tried.error_j(timing.sample_s) > 1.2 * tried.error_j(0.0)


def moving(seed: int) -> Activity:
    """A made-up activity that is another one each quarter of a millisecond, at 5 MHz."""
    return Activity("made up", 1250, np.random.default_rng(seed).choice([0.3, 1.7], 997))


def test_intervals_of_power_that_moves(monkeypatch):
    """They hold because its movement is in the budget."""
    from test_coverage import bed

    def found() -> dict:
        return coverage.summary(coverage.test_windows("ina226", bed, [moving(0)], 16, seed=4, longest_s=0.2))

    good = found()
    assert good["held"] >= coverage.HELD and 0.8 < good["width_mean"] < 1.2
    monkeypatch.setattr(uncertainty, "unsteady", lambda *_: 0.0)
    assert found()["held"] < coverage.HELD - 0.1


def test_samples_inside_runs():
    """Those that may have seen rest, or another phase, are left out."""
    phases = np.array([0, 1, 1, 1, 1, 2, 2, 2, 2, 0, 1, 1, 0])
    records = np.zeros(len(phases), [("phase", int), ("current", np.int64)])
    records["phase"], records["current"] = phases, np.arange(len(phases))
    assert [list(run) for run in inside(records, [1, 2])] == [[3, 4, 5, 6, 7, 8]]
    assert [list(run) for run in inside(records, [1])] == [[3, 4]]
    assert [list(run) for run in inside(records, [1], 3)] == [[4]] and inside(records, [3]) == []


def test_short_runs_tell_by_what_their_samples_vary():
    rng = np.random.default_rng(0)
    samples = 2.0 + 0.3 * rng.standard_normal((400, 4))
    whole = moved(TURN, TURN.gap_s, list(samples), 0.0, 2)
    assert whole == pytest.approx((TURN.gap_s * 0.09) ** 0.5, rel=0.15)
    for length, order in ((4, 2), (2, 1), (1, 0)):  # no second differences, no differences
        runs = list(samples[:, :length])
        assert known(TURN, runs) == order
        assert moved(TURN, TURN.gap_s, runs, 0.0, order) == pytest.approx(whole, rel=0.15)
    assert known(TURN, []) == known(TURN, [samples[0]]) == -1 and moved(TURN, TURN.gap_s, [], 0.0, -1) == 0.0
    assert moved(TURN, TURN.sample_s, list(samples), 0.0, 2) > 2 * whole  # one of several rails, which may miss samples


def test_how_well_it_is_told_of_a_regulator():
    """Whose records go together: the mean, exponentially by 8, of instants each millisecond, looked at each time."""
    timing = sensors.Timing(0, 0, 0, 0.0, 0.0, turns=8, held_s=1e-3, round_s=1e-3)
    noise = 0.3 * np.random.default_rng(0).standard_normal((200, 2, 1200))
    said = np.zeros_like(noise)
    for place in range(1, noise.shape[2]):
        said[..., place] = said[..., place - 1] + (noise[..., place] - said[..., place - 1]) / 8
    given = [(timing, timing.gap_s, list(runs[:, 60:]), 0.0) for runs in said]
    found = [moved(*one, known(timing, one[2])) ** 2 for one in given]
    doubts = [doubt(*one, known(timing, one[2])) for one in given]
    assert np.mean(doubts) == pytest.approx(np.std(found), rel=0.2)


@pytest.mark.parametrize(("count", "length"), [(40, 4), (3, 120)])
def test_how_well_it_is_told(count, length):
    """The doubt of an estimate is what estimates by other samples scatter by: of short runs and of long ones."""
    rng = np.random.default_rng(0)
    steps = 0.3 * rng.standard_normal((200, count, length)) + np.cumsum(
        0.1 * rng.standard_normal((200, count, length)), 2
    )
    told = [(list(runs), known(TURN, list(runs))) for runs in steps]
    found = [moved(TURN, TURN.gap_s, runs, 0.0, order) ** 2 for runs, order in told]
    doubts = [doubt(TURN, TURN.gap_s, runs, 0.0, order) for runs, order in told]
    assert np.mean(doubts) == pytest.approx(np.std(found), rel=0.2)
    assert doubt(TURN, TURN.gap_s, [], 0.0, -1) == 0.0  # nothing tells it, ever
    assert doubt(TURN, TURN.gap_s, [np.ones(12)], 0.0, 0) == np.inf  # what one part says is not known
    assert [known(TURN, [np.ones(samples)]) for samples in (19, 20, 21, 22)] == [-1, 0, 1, 2]
    assert doubt(TURN, TURN.gap_s, [np.ones(1)] * 19, 0.0, -1) == np.inf  # more runs will tell


def test_runs_of_few_samples_go_on_until_these_are_enough(monkeypatch):
    """Of some four samples, of which one or none has seen no edge."""

    def held() -> float:
        found = windows_of([(1, 2.0, 18_000)], 12, relative=0.03, limit_s=2.0)
        taken = [one.monitor.port.joules[0][1] / one.reading.replays - 0.5 * 3.6e-3 for one in found]
        pairs = zip([one.reading.dynamic for one in found], taken, strict=True)
        return float(np.mean([abs(energy.total_j - truth) <= energy.uncertainty_j for energy, truth in pairs]))

    assert held() >= coverage.HELD
    monkeypatch.setattr("bitfirst.measuring.windows.doubt", lambda *_: 0.0)
    assert held() < coverage.HELD - 0.1


def test_replays_go_on_until_the_activity_is_told(monkeypatch):
    """Runs of some six samples: that their energy seems to be known to 10 % is not enough."""

    def found() -> list[Window]:
        return windows_of([(1, 2.0, 40_000)], 2, relative=0.1, limit_s=4.0)

    told = found()
    assert all(one._told(0, one.reading) for one in told)
    monkeypatch.setattr(Window, "_told", lambda *_: True)
    assert min(one.reading.replays for one in told) > 2 * max(one.reading.replays for one in found())


def test_moving_power_of_a_regulator_is_as_derived():
    """Instants each 1 ms, their mean exponentially by 4, looked at each 0.3 ms: of runs of 2 s."""
    timing = sensors.Timing(0, 0, 0, 0.0, 0.0, turns=4, held_s=1e-3, round_s=0.3e-3)
    noise = 0.3 * np.random.default_rng(0).standard_normal((200, 2000))
    said = np.zeros_like(noise)
    for place in range(1, noise.shape[1]):
        said[:, place] = said[:, place - 1] + (noise[:, place] - said[:, place - 1]) / 4
    looks = said[:, (np.arange(40, 6500) * 0.3).astype(int)]
    derived = moved(timing, timing.gap_s, list(looks), 0.0, known(timing, list(looks)))
    assert derived == pytest.approx(float(np.std(noise.sum(axis=1)) * 1e-3 / 2**0.5), rel=0.15)


def windows_of(loads: list[tuple[int, float, int]], count: int, order=(), relative=0.02, limit_s=1.0) -> list:
    """Windows by an INA226 without errors: each run plays (phase, watts, cycles) a piece, which moves by 70 %."""
    from power_port import Part, PowerPortModel

    found = []
    for seed in range(count):
        port = PowerPortModel([Part("ina226", 0x40, 0.1, noise_volts=2e-6)], seed=seed)
        port.load(0.5)
        monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1, shunt_error=0)])
        rng = np.random.default_rng(seed)
        with monitor.window("step", phase=None, order=order, relative=relative, limit_s=limit_s, seed=seed) as window:
            for _ in window.replays():
                for phase, watts, cycles in loads:
                    port.phase(phase)
                    port.play(
                        [Segment(500, None, (watts * rng.choice([0.3, 1.7]) + 0.5,)) for _ in range(cycles // 500)]
                    )
                    port.wait(cycles)
                port.load(0.5)
        found.append(window)
    return found


def test_each_phase_of_an_order_has_its_own_activity():
    """A quiet phase of 60 ms, and one of 15 ms whose power moves."""
    order = [(1, "quiet"), (2, "busy")]
    for window in windows_of([(1, 0.02, 300_000), (2, 2.0, 75_000)], 2, order):
        quiet, busy = (one.budgets[0][0].activity / one.seconds**0.5 for one in window.phases)
        assert busy > 10 * quiet > 0
        whole = window.reading.budgets[0][0].activity
        assert whole == pytest.approx(float(np.hypot(*(one.budgets[0][0].activity for one in window.phases))), rel=0.02)


def test_a_steady_load_has_no_activity():
    steady = Activity("steady", 1000, np.ones(8))
    from test_coverage import bed

    tested = coverage.test_windows("ina226", bed, [steady], 10, seed=2, longest_s=0.02)
    assert all(one.reading.budgets[0][0].activity < 0.1 * one.reading.budgets[0][0].edge for one in tested)
