"""`bitfirst measure`: trainings whose joules are told by a simulated sensor, coefficients fitted to it, coverage."""

import io
import json
from dataclasses import replace
from pathlib import Path

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import cli, energy_model, report, training
from bitfirst.energy import Energy
from bitfirst.energy_fit import fit
from bitfirst.errors import UsageError
from bitfirst.measuring import calibrating, calibration, coverage, fitting, measured, rails, recording, shown
from bitfirst.measuring.measured import Measuring
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from bitfirst.measuring.uncertainty import Budget
from bitfirst.measuring.windows import Reading, Window
from bitfirst.quantiser import quantise
from bitfirst.training import TrainOptions
from bitfirst_hdl.config import load
from bitfirst_hdl.contract.packets import Phase
from bitfirst_sim import power_simulator
from bitfirst_sim.supply import Supply
from power_port import Part, PowerPortModel
from rich.console import Console
from test_coverage import ACTIVITIES, bed

RAIL = Rail("5V", "ina226", 0x40, 0.1)


@pytest.fixture(scope="module")
def board(power_url):
    with bitfirst.open(power_url) as board:
        yield board


def options(url, out, **more):
    some = {"train_images": 24, "eval_images": 20, "batch": 8, "epochs": 1, "fp32": False}
    return TrainOptions(device=url, out=out, **some | more)


@pytest.mark.parametrize("method", ["sgd", "e2train", "fractrain"])
def test_a_training_is_measured_and_is_the_same_training(board, tmp_path, method):
    chosen = options(board.url, tmp_path, method=method)
    measuring = Measuring((RAIL,), relative=0.05, limit_s=1.0, target=0.01)
    result = training.train_and_compare(chosen, board, measuring=measuring)
    found, energy = result["sensed"], result["energy"]
    assert energy["provenance"] == "simulated" and energy["scope"] == "board" and not energy["extrapolated"]
    epochs = [row["sensed"] for row in result["history"]]
    assert energy["total_j"] == pytest.approx(sum(row["energy_j"] for row in epochs))
    assert 0 < energy["uncertainty_j"] < 0.05 * energy["total_j"]
    steps = result["history"][-1]["steps"]
    assert found["training"]["step_j"] == pytest.approx(energy["total_j"] / steps)
    assert found["training"]["sample_j"] == pytest.approx(energy["total_j"] / steps / chosen.batch)
    assert not found["target"]["censored"] and found["target"]["energy"]["total_j"] == epochs[0]["energy_j"]
    assert found["phases_add_up"] and [one["name"] for one in found["phases"]] == ["forward", "backward"]
    assert found["trace"]["phases"] and max(found["trace"]["rails"]["5V"]["watts"]) > 0.6
    page = (tmp_path / "report.html").read_text()
    assert "simulated" in page and "measured)" not in page and (tmp_path / "watts.png").stat().st_size > 10_000
    with bitfirst.open(f"model:{board.url.removeprefix('rtl:').partition('?')[0]}") as model:
        plain = training.train_and_compare(replace(chosen, device=model.url, out=tmp_path / "plain"), model)
    assert plain["weights_sha256"] == result["weights_sha256"] and "sensed" not in plain


def test_without_a_sensor_a_training_goes_on(power_url, tmp_path, capsys):
    """Nothing is on the pins of this device."""
    url = power_url.partition("?")[0]
    with bitfirst.open(url) as board:
        chosen = options(url, tmp_path, train_images=8)
        result = training.train_and_compare(chosen, board, measuring=Measuring((RAIL,), target=0.01))
    assert len(result["history"]) == 1 and result["history"][0]["steps"] == 1
    found, why = result["sensed"], "no sensor answers on the bus: check the wiring of 5V (ina226 at 0x40)"
    given = result["energy"], found["training"]["energy"], found["target"]["energy"], found["step"], found["phases_sum"]
    assert [one["provenance"] for one in given] == 5 * ["unavailable"] and found["unavailable"] == why
    assert found["training"]["step_j"] is None and joules_without_labels([found, result["history"]]) == []
    Console().print(shown.measured_tables(result))
    page, text = (tmp_path / "report.html").read_text(), " ".join(capsys.readouterr().out.split())
    assert why in page and why in text and " J " not in text and "unavailable, scope board" in text


def joules_without_labels(told, place="result") -> list[str]:
    """Where an object has joules, and neither it nor its "energy" says what they are."""
    if isinstance(told, list):
        told = dict(enumerate(told))
    if not isinstance(told, dict):
        return []
    says = {"provenance", "scope", "extrapolated"}
    if not says <= set(told) and not says <= set(told.get("energy", ())):
        found = [f"{place}.{key}" for key in told if key in ("energy_j", "total_j", "dynamic_j", "step_j")]
    else:
        found = []
    return found + [one for key, value in told.items() for one in joules_without_labels(value, f"{place}.{key}")]


LABELS = "simulated, scope board, not extrapolated"


def says_measured(*texts):
    return ["measured" in text.lower() for text in texts]


def test_rtl_says_simulated_and_nothing_else(power_url, tmp_path, monkeypatch, capsys):
    """Whatever a run and a report on it print and write. The control: the same of figures that are of a board."""
    train = training.train_and_compare
    monkeypatch.setattr(training, "train_and_compare", lambda told, **how: train(replace(told, eval_images=20), **how))
    monkeypatch.chdir(tmp_path)
    few = ["--train-images", "24", "--batch", "8", "--epochs", "1", "--relative", "0.05", "--limit-s", "1"]
    assert cli.run(["measure", "--device", power_url, *few, "--target", "0.01"]) == 0
    said, out = capsys.readouterr(), tmp_path / "runs" / "sensed"
    assert not any(says_measured(said.out, said.err)) and "simulated" in said.out
    kept = (out / "result.json").read_text()
    for spoilt in "no word", "provenance", "scope", "extrapolated":
        told = json.loads(kept.replace(f'"{spoilt}"', '"other"'))
        assert (joules_without_labels([told["sensed"], told["history"]]) == []) == (spoilt == "no word")
    assert " ".join(said.out.split()).count(LABELS) == 2  # of the training, of a step
    pictures = report.measured_figures(json.loads(kept))
    titles = {name: figure.axes[0].get_title() for name, figure in pictures.items()}
    assert not any(says_measured(*titles.values())) and LABELS in titles["joules"] and "simulated" in titles["watts"]
    written = {name: (out / name).read_text() for name in ("report.html", "result.json")}
    assert not any(says_measured(*written.values())) and all("simulated" in text for text in written.values())

    def reported(*options):
        assert cli.run(["report", str(out), "--target", "0.01", *options]) == 0
        pages = [(out / name).read_text() for name in ("comparison.html", "tables.md", "runs.csv")]
        return [*capsys.readouterr(), *pages]

    for told in reported(), reported("--json"):
        assert not any(says_measured(*told)) and "simulated" in told[0]
    (out / "result.json").write_text(kept.replace('"simulated"', '"measured"'))
    for told in reported(), reported("--json"):
        assert says_measured(told[0], *told[2:]) == [True] * 4  # on standard error is progress
    report.write(json.loads(kept.replace('"simulated"', '"measured"')), out)
    assert says_measured((out / "report.html").read_text()) == [True]


def work(board):
    x, w = (quantise(torch.rand(shape), 8) for shape in ((8, 8, 8, 8), (8, 8, 3, 3)))
    for _ in range(12):
        board.conv2d(x, w)
    return "done"


def test_a_run_as_a_whole_holds_the_joules_taken(board):
    monitor, transport = Monitor.of(board, [RAIL]), board.transport
    before = transport.joules()
    found, reading = measured.whole(monitor, "twelve", lambda window: work(board))
    taken = sum(transport.joules()[1:]) - sum(before[1:])
    assert found == "done" and abs(reading.total.total_j - taken) < reading.total.uncertainty_j < 0.03 * taken
    at_rest = reading.seconds * Supply(()).idle_watts
    assert abs(reading.dynamic.total_j - (taken - at_rest)) < reading.dynamic.uncertainty_j
    assert abs(reading.total.total_j - 1.05 * taken) > reading.total.uncertainty_j  # as of another shunt


def test_a_device_has_windows_of_its_own(power_url):
    with bitfirst.open(power_url) as board:
        with pytest.raises(UsageError, match=r"no sensors of .* are set up"):
            board.window("forward")
        Monitor.of(board, [RAIL])
        with board.window("forward", relative=0.05) as window:
            for _ in window.replays():
                work(board)
        assert window.reading.total.provenance == "simulated" and window.reading.total.total_j > 0


class Stopping(PowerPortModel):
    """A port and a device in one; its chip stops when it is told."""

    device = None

    def stop(self) -> None:
        self.chips[0].answers = False


def stopping() -> tuple[Stopping, Monitor]:
    port = Stopping([Part("ina226", 0x40, 0.1)])
    port.load(0.5)
    return port, Monitor(port, [RAIL])


def test_a_sensor_that_stops_costs_the_figure_and_not_the_training():
    port, monitor = stopping()

    def breaks(window) -> str:
        port.phase(1)
        port.run(0.1, 2.0)
        port.stop()
        port.run(0.1, 2.0)
        return "trained"

    found, reading = measured.whole(monitor, "epoch 1", breaks)
    assert found == "trained" and reading.total.provenance == "unavailable"
    assert "stopped answering" in reading.unresolved and "check its wires" in reading.unresolved
    found, reading = measured.whole(monitor, "epoch 2", lambda window: "trained on")
    assert found == "trained on" and reading.total.total_j is None
    found, reading = measured.whole(Monitor(PowerPortModel([]), [RAIL]), "epoch 1", lambda window: "trained")
    assert found == "trained" and "no sensor answers" in reading.unresolved


def test_an_error_of_the_work_is_told_and_the_phase_is_rest():
    port, monitor = stopping()

    def fails(window) -> None:
        port.phase(1)
        raise UsageError("diverged")

    with pytest.raises(UsageError, match="diverged"):
        measured.whole(monitor, "epoch 1", fails)
    assert port.phases[-1][1] == Phase.OTHER


def test_sensors_of_a_part_of_the_board_say_so():
    port = Stopping([Part("ina226", 0x40, 0.1), Part("ina226", 0x41, 0.1)])
    port.load(0.5, 0.2)
    monitor = Monitor(port, [RAIL, replace(RAIL, name="1V0", address=0x41, scope="rails")])

    def work(window) -> None:
        port.phase(1)
        port.run(0.5, 2.0, 1.0)

    _, reading = measured.whole(monitor, "epoch 1", work)
    assert reading.total.scope == reading.dynamic.scope == "rails" and reading.total.total_j > 0
    port.stop()
    _, silent = measured.whole(monitor, "epoch 2", work)
    history = [{"sensed": one.as_dict()} for one in (reading, silent)]
    history.append({})  # trained without measuring
    total = measured.added([measured.epoch_energy(one) for one in history])
    assert (total.total_j, total.scope) == (None, "rails")
    with pytest.raises(UsageError, match=r"scope 'roof'.*board, rails"):
        replace(RAIL, scope="roof")


def test_what_makes_the_result_is_measured_with_the_last_epoch():
    port, monitor = stopping()

    def work(window) -> None:
        port.phase(1)
        port.run(0.2, 2.0)

    first, second = (measured.whole(monitor, "epoch 1", work)[1].as_dict() for _ in range(2))
    both = measured.joined(first, second)
    for name in "energy_j", "dynamic_j", "uncertainty_j", "seconds":
        assert both[name] == pytest.approx(first[name] + second[name])
    assert both["spans"] == first["spans"] + second["spans"] and both["provenance"] == "simulated"
    port.stop()
    silent = measured.whole(monitor, "epoch 1", work)[1].as_dict()
    for one in measured.joined(first, silent), measured.joined(silent, second):
        assert one["energy_j"] is one["dynamic_uncertainty_j"] is None and "stopped answering" in one["unresolved"]
    assert measured.joined(None, second)["energy_j"] is None


def row(epoch: int, joules: float | None, accuracy: float, steps: int) -> dict:
    told = {"energy_j": joules, "uncertainty_j": 0.1, "provenance": "simulated", "scope": "board"}
    told |= {"extrapolated": False}
    if joules is None:
        told |= {"uncertainty_j": None, "provenance": "unavailable"}
    return {"epoch": epoch, "sensed": told, "validation_accuracy": accuracy, "steps": steps}


def test_joules_to_a_target_and_of_the_parts():
    history = [row(1, 2.0, 0.5, 10), row(2, 3.0, 0.9, 20), row(3, 4.0, 0.95, 30)]
    energies = [measured.epoch_energy(one) for one in history]
    found = measured.of_training(energies, history, 32)
    assert found["energy"]["total_j"] == 9 and found["step_j"] == 0.3 and found["epoch_j"] == 3
    assert found["sample_j"] == pytest.approx(9 / 30 / 32) and found["step_uncertainty_j"] == pytest.approx(0.01)
    reached = measured.to_target(0.9, energies, history)
    assert (reached["epoch"], reached["energy"]["total_j"], reached["censored"]) == (2, 5.0, False)
    never = measured.to_target(0.99, energies, history)
    assert (never["epoch"], never["energy"]["total_j"], never["censored"]) == (None, 9.0, True)
    history[1] = row(2, None, 0.9, 20)  # a sum without one of them is none
    energies = [measured.epoch_energy(one) for one in history]
    assert measured.of_training(energies, history, 32)["energy"]["provenance"] == "unavailable"
    assert measured.to_target(0.5, energies, history)["energy"]["total_j"] == 2.0


def made(name: str, joules: float, own: float = 0.0) -> Reading:
    """Of a sensor whose gain is unknown to 1 %, and `own` joules of this window."""
    energy = Energy(joules, 0.02 * joules + 2 * own, "simulated", "board")
    budget = Budget(0.01 * joules, 0.0, own, 0.0, 0.0, 0.0)
    return Reading(name, energy, energy, seconds=1.0, budgets=((budget, budget),))


def test_phases_that_do_not_add_up_are_told():
    """What the gain leaves unknown excuses no gap: it is the same in all."""
    parts = [made("forward", 1.0, 0.003), made("backward", 2.0, 0.003)]
    good, bad = (measured.Steps(made("step", whole, 0.003), parts) for whole in (3.009, 3.03))
    assert good.adds_up and good.gap_j == pytest.approx(-0.009)
    assert bad.adds_up is False and bad.sum.uncertainty_j > 0.03
    assert measured.Steps(made("step", 3.0)).adds_up is None


def test_a_trace_has_the_phases_by_their_names():
    port, monitor = stopping()
    for phase in Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT, Phase.UPDATE, Phase.OTHER:
        port.phase(phase)
        port.wait(int(0.02 * port.clock_hz))
    spans = measured.trace(monitor, measured.Steps(made("step", 1.0), records=monitor.records()))["phases"]
    assert [name for *_, name in spans] == ["forward", "backward", "update"]
    lengths = [end_s - begin_s for begin_s, end_s, _ in spans]
    assert lengths == pytest.approx([0.02, 0.04, 0.02], abs=3e-3)


def test_a_run_is_read_in_parts_before_sums_overflow():
    port, monitor = stopping()
    monitor.clock = lambda: port.now
    type(monitor).longest_s, kept = 0.15, type(monitor).longest_s
    try:

        def epoch(window) -> Window:
            for _ in range(20):
                port.phase(1)
                port.run(0.05, 2.0)
                window.between()
            return window

        window, reading = measured.whole(monitor, "epoch 1", epoch)
        assert len(window._blocks) > 4 and reading.replays == 1
        assert sum(block.returns for block in window._blocks)[1] == len(window._blocks)
        assert abs(reading.total.total_j - 2.0) < reading.total.uncertainty_j < 0.1
        assert reading.seconds == pytest.approx(1.0, rel=0.01)

        def dies(window) -> str:
            port.run(0.2, 2.0)
            port.stop()
            port.run(0.2, 2.0)
            window.between()
            return "trained"

        found, reading = measured.whole(monitor, "epoch 2", dies)
        assert found == "trained" and "stopped answering" in reading.unresolved
    finally:
        type(monitor).longest_s = kept


def test_sums_of_a_fine_sensor_are_read_before_they_overflow():
    """INA228 on 0.1 ohm at 50 MHz: 63 bits last for less than a minute."""
    port = PowerPortModel([Part("ina228", 0x40, 0.1)])
    monitor = Monitor(port, [Rail("5V", "ina228", 0x40, 0.1)])
    port.load(2.5)
    monitor.wait(1.0)
    codes = 2**19 * 5 / 195.3125e-6
    assert monitor.longest_s * port.clock_hz * codes == pytest.approx(2**62, rel=0.01)


def test_a_load_below_rest_is_told_with_the_mend():
    port, monitor = stopping()

    def less(window) -> str:
        port.phase(1)
        port.run(0.2, 0.1)
        port.load(0.5)
        return "trained"

    found, reading = measured.whole(monitor, "epoch 1", less)
    assert found == "trained" and "less than rest: swap IN+ and IN-" in reading.unresolved


def test_a_sensor_that_sees_nothing_is_told_with_the_mend():
    port, monitor = stopping()
    port.load(0.0)
    found, reading = measured.whole(monitor, "epoch 1", lambda window: (port.phase(1), port.run(0.2, 0.0)))
    assert found and "check the wires" in reading.unresolved


def test_gain_and_offset_are_no_less_for_many_windows():
    """Fits to readings whose sensor is off by its gain and its offset: as often held as said, or more."""
    config, held = load("tiny"), {"both": [], "neither": []}
    true = {"cycles": 2e-7, "bit_macs_done": 1e-9}
    for seed in range(60):
        rng = np.random.default_rng(seed)
        gain, offset_j = 1 + 0.006 * rng.standard_normal(), 2e-9 * rng.standard_normal()
        counts, energies = [], []
        for _ in range(12):
            steps, cycles = (float(number) for number in rng.integers(10_000, 90_000, 2))
            row = {"array_steps": steps, "gated_steps": 0, "fetches_a": 0, "fetches_b": 0, "cycles": cycles}
            joules = true["cycles"] * cycles + true["bit_macs_done"] * steps * config.bit_macs_per_cycle
            own = 0.0002 * joules
            counts.append(row)
            energies.append(
                Energy(gain * joules + offset_j * cycles + own * rng.standard_normal(), 2 * own, "simulated", "board")
            )
        for name, common in ("both", {"gain": 0.006, "offset_j": 2e-9}), ("neither", {}):
            found = fit(counts, energies, config, "made up", list(true), **common)
            held[name] += [low <= true[term] <= high for term, (low, high) in found.intervals.items()]
    assert np.mean(held["both"]) >= 0.93 and np.mean(held["neither"]) < 0.5


def test_coefficients_are_fitted_to_a_device(board, tmp_path):
    """The simulated supply takes 0.5 W at rest, 250 nJ a step of the array, 50 nJ a word of the link."""
    monitor = Monitor.of(board, [replace(RAIL, shunt_error=0)])
    found = fitting.fitted(monitor, "simulated", 12, relative=0.05, limit_s=0.1)
    supply, config = Supply(()), board.config
    truth = {"cycles": supply.idle_watts / 2e6, "bit_macs_done": supply.step_joules / config.bit_macs_per_cycle}
    # the supply takes something for each cycle of a LOAD, which no term counts, so intervals need not hold it all
    for term, within in ("cycles", 0.03), ("bit_macs_done", 0.3):
        low, high = found.intervals[term]
        assert found.model.joules[term] == pytest.approx(truth[term], rel=within)
        assert high - low < truth[term] and not low <= 1.5 * truth[term] <= high
    assert found.model.scope == "board"
    found.model.save(tmp_path / "fit.json")
    assert energy_model.load(str(tmp_path / "fit.json")).joules == found.model.joules


def test_a_sensor_is_calibrated_against_a_meter(board):
    """The meter is the truth that the simulated supply tells."""
    monitor, transport = Monitor.of(board, [RAIL]), board.transport
    told = []

    def meter(text: str) -> float:
        told.append((sum(transport.joules()), board.counters()["cycles"]))
        return 0.5 if "rest" in text else 1.02 * float(text.rpartition("says ")[2].rstrip(")"))

    found = calibrating.rest_and_work(monitor, meter, 0.3, 0.01)
    (rest_j, rest_cycles), (work_j, work_cycles) = told
    assert (work_j - rest_j) / (work_cycles - rest_cycles) * 2e6 > 0.8  # watts: it did work
    assert 1.0 < found.gain < 1.06 and found.is_of(RAIL) and found.gain_error > 0.005


def test_nothing_to_fit_without_a_sensor():
    with pytest.raises(UsageError, match="nothing to fit to: no sensor answers"):
        fitting.windows(Monitor(PowerPortModel([]), [RAIL]))


def test_coverage_passes_and_fails(monkeypatch, capsys):
    """By its command; activity and monitor in Python are faster than those compiled, which the soak takes."""
    monkeypatch.setattr(recording, "record", lambda: ACTIVITIES)
    words = ["measure", "--coverage", "--sensor", "ina226", "--windows", "10", "--seed", "3", "--json"]
    monkeypatch.setattr(power_simulator, "bed", bed)
    assert cli.run(words) == 0
    good = json.loads(capsys.readouterr().out)
    assert good["passed"] and good["coverage"]["ina226"]["held"] == 1.0
    monkeypatch.setattr(power_simulator, "bed", lambda drawn: Off(bed(drawn)))
    assert cli.run(words) == 1
    wrong = json.loads(capsys.readouterr().out)
    assert not wrong["passed"] and wrong["coverage"]["ina226"]["held"] < 0.5
    with pytest.raises(UsageError, match="sensor 'ina999' is unknown; choose from"):
        coverage.run(["ina999"], bed, ACTIVITIES)


@pytest.mark.soak
def test_coverage_fit_and_calibration_by_their_commands(power_url, tmp_path, monkeypatch, capsys):
    assert cli.run(["measure", "--coverage", "--sensor", "ina226", "--windows", "10", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["coverage"]["ina226"]["held"] > 0.8
    file = str(tmp_path / "fit.json")
    assert cli.run(["measure", "--device", power_url, "--fit", file, "--windows", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == file and energy_model.load(file).joules["cycles"] == pytest.approx(2.5e-7, rel=0.05)
    file = str(tmp_path / "gain.json")
    monkeypatch.setattr("sys.stdin", io.StringIO("0.5\n1.04\n"))
    assert cli.run(["measure", "--device", power_url, "--calibrate", file, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["file"] == file and calibration.load(Path(file))[0].gain == told["gain"]


class Off:
    """A bed whose loads take 2 % more than they are told to once it is calibrated."""

    def __init__(self, port: PowerPortModel) -> None:
        self._port, self._loads = port, 0

    def __getattr__(self, name):
        return getattr(self._port, name)

    def load(self, watts: float) -> None:
        self._loads += 1
        self._port.load(watts * (1 if self._loads <= len(coverage.LOADS) else 1.02))

    def play(self, activity) -> None:
        self._port.play([replace(one, watts=tuple(1.02 * watts for watts in one.watts)) for one in activity])


def test_a_simulated_device_has_the_sensor_that_is_named():
    assert rails.device_with_sensor("rtl", None) == ("rtl:power?sensor=ina228", "ina228")
    assert rails.device_with_sensor("rtl", "ina219") == ("rtl:power?sensor=ina219", "ina219")
    assert rails.device_with_sensor("rtl:power?seed=3", None) == ("rtl:power?seed=3&sensor=ina228", "ina228")
    assert rails.device_with_sensor("rtl:power?sensor=ina226", None) == ("rtl:power?sensor=ina226", "ina226")
    assert rails.device_with_sensor("serial:///dev/ttyUSB0", None) == ("serial:///dev/ttyUSB0", None)
    with pytest.raises(UsageError, match="name one of them"):
        rails.device_with_sensor("rtl:power?sensor=ina226", "ina228")


def test_rails_of_a_file(tmp_path):
    path = tmp_path / "rails.toml"
    path.write_text('[[rail]]\nname = "1V0"\nkind = "ina219"\naddress = 0x45\nshunt_ohm = 0.005\n')
    assert rails.load(path) == (Rail("1V0", "ina219", 0x45, 0.005),)
    for text, words in (
        ("", "no table"),
        ("[[rail]]\nohm = 1\n", "unknown ohm"),
        ('[[rail]]\nname = "1V0"\n', "no kind, address, shunt_ohm"),
        ("[", "cannot be read"),
        ('[[rail]]\nname = "a"\nkind = "ina219"\naddress = "x"\nshunt_ohm = 0.1\n', "another type"),
    ):
        path.write_text(text)
        with pytest.raises(UsageError, match=words):
            rails.load(path)
    with pytest.raises(UsageError, match="cannot be read"):
        rails.load(tmp_path / "none.toml")


def test_a_result_is_plain_json(board, tmp_path):
    """No array is left in what is written."""
    found = measured.Steps(measured.none("step", "no sensor", "board"))
    monitor = Monitor.of(board, [RAIL])
    json.dumps(measured.summary(monitor, [row(1, 2.0, 0.5, 10)], found, 32, None))
