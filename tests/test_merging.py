"""A meter's log beside what sensors told of a training."""

import csv
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from bitfirst.cli import run as bitfirst
from bitfirst.errors import UsageError
from bitfirst.measuring import measured, merging
from bitfirst.measuring import monitor as monitors
from bitfirst.measuring.calibration import Calibration
from bitfirst.measuring.meter import Trace
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from power_port import Part, PowerPortModel
from test_comparison_measured import result

OFFSET_S = 3.25  # that the meter's clock is behind
LOSS_WATTS = 0.8  # of what the meter sees and the sensor does not
STEP_S = 0.02
EPOCHS = (0.7, 1.3, 1.0)


class Measured(PowerPortModel):
    """A board as far as its figures say so; the host's clock goes with it, and began at some time."""

    provenance = "measured"


def trained(port, rails, calibrations=(), lengths=EPOCHS, between=0.4):
    """History of epochs of two windows each, and something else between them."""
    monitor = Monitor(port, rails, calibrations=calibrations, clock=lambda: port.now + 1000)
    loads = [2.0] * len(rails)

    def work(length, window) -> None:
        port.phase(1)
        port.run(length / 2, *loads)
        window._longest_s = 0.0  # as of sums that would overflow
        window.between()
        port.phase(1)
        port.run(length / 2, *loads)

    rows = []
    for length in lengths:
        _, reading = measured.whole(monitor, "epoch", partial(work, length))
        rows.append({"epoch": len(rows) + 1, "sensed": reading.as_dict()})
        port.run(between, *[1.2] * len(rails))
    return rows


@pytest.fixture(scope="module")
def history():
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(0.5)
    rows = trained(port, [Rail("5V", "ina226", 0x40, 0.1)])
    return rows, log(port.chips, port.now), port.chips[0]


def log(chips, end_s: float, step_s: float = STEP_S, behind_s: float = OFFSET_S) -> Trace:
    """Means, as of a meter of the whole board with another clock."""
    borders = np.arange(0, end_s, step_s)
    watts = sum(np.diff([chip.energy(border) for border in borders]) for chip in chips) / step_s
    return Trace(borders[:-1] + step_s / 2 - behind_s, watts + LOSS_WATTS)


def truth(epoch, *chips) -> float:
    taken = sum(chip.energy(end_s) - chip.energy(begin_s) for begin_s, end_s, _ in epoch.spans for chip in chips)
    return taken + LOSS_WATTS * epoch.seconds


def test_joules_of_epochs_by_a_meter(history):
    rows, logged, chip = history
    found = merging.merged(rows, logged, error=0.001)
    assert found.offset_s == pytest.approx(OFFSET_S, abs=STEP_S / 2)
    for epoch, energy in zip(found.epochs, found.by_meter, strict=True):
        assert len(epoch.spans) == 2
        expected = truth(epoch, chip)
        assert abs(energy.total_j - expected) < energy.uncertainty_j < 0.03 * expected
        assert epoch.sensors.total_j + LOSS_WATTS * epoch.seconds == pytest.approx(expected, rel=0.01)
        assert (energy.provenance, energy.scope) == (epoch.sensors.provenance, epoch.sensors.scope)
    late = merging.merged(rows, logged, OFFSET_S - 0.3, error=0.001)
    assert any(
        abs(wrong.total_j - right.total_j) > wrong.uncertainty_j
        for wrong, right in zip(late.by_meter, found.by_meter, strict=True)
    )
    assert "simulated, scope board" in found.labels and merging.cells(found)[-1][0] == "all"


def test_calibrated_sensors_of_two_rails_on_a_board(monkeypatch):
    """Times are the host's, in Unix time; the meter's clock is right but for a tenth of a second."""
    port = Measured([Part("ina226", 0x40, 0.1), Part("ina226", 0x41, 0.1)])
    port.load(0.5, 0.5)
    rails = [Rail("5V", "ina226", 0x40, 0.1), Rail("1V0", "ina226", 0x41, 0.1, scope="rails")]
    kept = [
        Calibration(rail.kind, rail.address, 0.1, rail.range.volts, "", 2.0, 1e-3, 0.25, 1e-3, "measured")
        for rail in rails
    ]
    monkeypatch.setattr(monitors.time, "time", lambda: port.now + 5e8)
    rows = trained(port, rails, kept)
    logged = log(port.chips, port.now, behind_s=0.1 - 5e8)
    found = merging.merged(rows, logged, error=0.001, scope="board+host")
    assert found.offset_s == pytest.approx(0.1, abs=STEP_S / 2)
    for epoch, energy in zip(found.epochs, found.by_meter, strict=True):
        moved = replace(epoch, spans=tuple((a - 5e8, b - 5e8, joules) for a, b, joules in epoch.spans))
        taken = truth(moved, *port.chips)
        assert abs(energy.total_j - taken) < energy.uncertainty_j < 0.03 * taken
        doubled = 2 * (taken - LOSS_WATTS * epoch.seconds) + 2 * 0.25 * epoch.seconds
        assert epoch.sensors.total_j == pytest.approx(doubled, rel=0.01)
        assert (epoch.sensors.scope, energy.scope, energy.provenance) == ("rails", "board+host", "measured")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda log: replace(log, watts=np.random.default_rng(0).random(len(log.watts))), "at no one time"),
        (lambda log: Trace(log.seconds[100:], log.watts[100:]), "log for longer"),
        (
            lambda log: Trace(np.delete(log.seconds, slice(20, 30)), np.delete(log.watts, slice(20, 30))),
            "no reading for",
        ),
        (lambda log: replace(log, watts=-log.watts), "turn its sign"),
    ],
)
def test_logs_that_do_not_go_with_a_training(history, spoil, words):
    rows, logged, _ = history
    offset_s = OFFSET_S if "no reading" in words or "sign" in words else None
    with pytest.raises(UsageError, match=words):
        merging.merged(rows, spoil(logged), offset_s)


def test_what_cannot_be_merged_is_told(history):
    rows, logged, _ = history
    with pytest.raises(UsageError, match="not all of"):
        merging.merged(rows, logged, OFFSET_S + 1)
    for bad, words in ({"error": 1}, "meter_error = 1"), ({"offset_s": float("nan")}, "meter_offset_s = nan"):
        with pytest.raises(UsageError, match=words):
            merging.merged(rows, logged, **bad)
    for nothing in [{"epoch": 1}], [{"epoch": 1, "sensed": None}], [{"epoch": 1, "sensed": {"spans": [[1, 1, 0]]}}]:
        with pytest.raises(UsageError, match="no epoch has a figure"):
            merging.merged(nothing, logged)
    with pytest.raises(UsageError, match="opened anew"):
        merging.merged(rows + rows, logged)
    some = merging.merged([rows[0], {"epoch": 2}, rows[2]], logged)
    assert [row[0] for row in merging.cells(some)] == ["1", "2", "3", "all with a figure"]
    assert merging.cells(some)[1][3] == "no figure" and some.by_meter[1].provenance == "unavailable"


NOISE = {"quiet": (0.0, 0.0), "noisy": (0.2, 0.0), "coarse": (0.0, 0.5)}


@pytest.mark.parametrize("trainings", [60, pytest.param(700, marks=pytest.mark.soak)])
@pytest.mark.parametrize(("noise_watts", "rounded_to"), NOISE.values(), ids=NOISE)
def test_intervals_by_meters_hold_the_truth(noise_watts, rounded_to, trainings):
    """Of trainings of one to four epochs with meters of one to twenty readings a second: times found wrongly are
    refused, and the intervals of the others hold."""
    held, accepted, refused, wrong = [], 0, 0, 0
    rng = np.random.default_rng(5)
    for _ in range(trainings):
        period_s, lengths = 10 ** rng.uniform(-1.3, 0.0), rng.uniform(0.5, 20, rng.integers(1, 5))
        rows, joules, seconds = made(rng, lengths)
        behind_s = rng.uniform(-100, 100)
        borders = np.arange(rng.random() * period_s, seconds[-1], period_s)
        energy = np.interp(borders, seconds, joules)
        means = np.diff(energy) / period_s + rng.normal(0, noise_watts or 1e-4, len(borders) - 1)
        means = means if not rounded_to else np.round(means / rounded_to) * rounded_to
        try:
            found = merging.merged(rows, Trace(borders[:-1] + period_s / 2 - behind_s, means), error=0.002)
        except UsageError as error:
            refused += "no one time" in str(error)
            continue
        accepted += 1
        wrong += abs(found.offset_s - behind_s) > 1.5 * period_s
        for epoch, energy_j in zip(found.epochs, found.by_meter, strict=True):
            ((begin_s, end_s, _),) = epoch.spans
            taken = float(np.diff(np.interp([begin_s, end_s], seconds, joules))[0])
            held.append(abs(energy_j.total_j - taken) <= energy_j.uncertainty_j)
    print(f"{refused} refused, {wrong} of {accepted} wrong, {np.mean(held):.1%} held")
    assert accepted > trainings / 4 and refused and accepted + refused == trainings
    assert wrong <= 0.01 * accepted and np.mean(held) >= 0.93  # of 60: none


def made(rng, lengths):
    """A history, and joules over seconds: rest, epochs at some watts, rest around, something else between."""
    pieces, rows, now = [(5.0, 1.3)], [], 5.0
    for number, length in enumerate(lengths):
        begin_s, watts = now + 0.3, rng.uniform(1.5, 4)
        told = {"spans": [[begin_s, begin_s + length, watts * length]], "provenance": "simulated", "scope": "board"}
        told["rests"] = [[now, begin_s, 0.39], [begin_s + length, begin_s + length + 0.3, 0.39]]
        rows.append({"epoch": number + 1, "sensed": told | {"energy_j": 1.0, "uncertainty_j": 0.01}})
        pieces += [(0.3, 1.3), (length, watts), (0.3, 1.3), (rng.uniform(0.2, 3), rng.uniform(1.3, 4))]
        now = sum(seconds for seconds, _ in pieces)
    pieces.append((5.0, 1.3))
    seconds, watts = np.array(pieces).T
    borders = np.concatenate([[0], np.cumsum(seconds)])
    return rows, np.concatenate([[0], np.cumsum(seconds * watts)]), borders


def test_a_report_has_the_meter(history, tmp_path, capsys):
    rows, logged, _ = history
    run = result(tmp_path / "run", "e2train", 1.0)
    told = json.loads((run / "result.json").read_text())
    told["history"] = [told["history"][-1] | row for row in rows]
    (run / "result.json").write_text(json.dumps(told))
    with (tmp_path / "log.csv").open("w") as file:
        table = csv.writer(file)
        table.writerow(["time (ms)", "mW"])
        table.writerows(zip(logged.seconds * 1e3, logged.watts * 1e3, strict=True))
    options = ["report", str(run), "--meter", str(tmp_path / "log.csv"), "--json"]
    assert bitfirst(options) == 0
    found = json.loads(capsys.readouterr().out)["meter"]
    assert [row["epoch"] for row in found["epochs"]] == [1, 2, 3] and found["offset_s"] == pytest.approx(3.25, abs=0.02)
    assert all(row["meter"]["provenance"] == "simulated" for row in found["epochs"])
    assert found["epochs"][0]["sensors"]["total_j"] / found["epochs"][0]["meter"]["total_j"] == pytest.approx(
        2 / 2.8, rel=0.02
    )
    assert found["table"][-1][0] == "all" and (run / "meter.png").stat().st_size > 10_000
    page = (run / "comparison.html").read_text()
    assert "By a meter" in page and found["table"][-1][3] in page
    assert bitfirst([*options, "--meter-power", "W"]) == 2 and "no column 'W'" in capsys.readouterr().err
    bent = [*options, "--meter-offset-s", "3.2", "--meter-error", "0.1", "--meter-scope", "board+host"]
    assert bitfirst([*bent, "--meter-time", "time (ms)"]) == 0
    other = json.loads(capsys.readouterr().out)["meter"]
    assert other["offset_s"] == 3.2 and other["epochs"][0]["meter"]["scope"] == "board+host"
    assert other["epochs"][0]["meter"]["uncertainty_j"] > 3 * found["epochs"][0]["meter"]["uncertainty_j"]
    assert bitfirst([*options, "--meter-time", "mW"]) == 2 and "no unit of time" in capsys.readouterr().err
    assert bitfirst([*options, "--meter-scope", "roof"]) == 2 and "scope 'roof'" in capsys.readouterr().err
    assert bitfirst([*options[:2], "--meter-error", "0.1"]) == 2 and "give --meter FILE" in capsys.readouterr().err
    other = result(tmp_path / "other", "sgd", 1.0)
    assert bitfirst([*options[:2], str(other), *options[2:]]) == 2
    assert "2 runs: a meter's log is of one training" in capsys.readouterr().err
