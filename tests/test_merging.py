"""A meter's log beside what sensors told of a training."""

import csv
import json

import numpy as np
import pytest
from bitfirst.cli import run as bitfirst
from bitfirst.errors import UsageError
from bitfirst.measuring import measured, merging
from bitfirst.measuring.meter import Trace
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import Rail
from power_port import Part, PowerPortModel
from test_comparison_measured import result

OFFSET_S = 3.25  # that the meter's clock is behind
LOSS_WATTS = 0.8  # of what the meter sees and the sensor does not
STEP_S = 0.02
EPOCHS = (0.7, 1.3, 1.0)


@pytest.fixture(scope="module")
def history():
    """Three epochs with something else between them."""
    port = PowerPortModel([Part("ina226", 0x40, 0.1)])
    port.load(0.5)
    monitor = Monitor(port, [Rail("5V", "ina226", 0x40, 0.1)])

    def work(window) -> None:
        port.phase(1)
        port.run(EPOCHS[number], 2.0)

    rows = []
    for number in range(len(EPOCHS)):
        _, reading = measured.whole(monitor, "epoch", work)
        rows.append({"epoch": number + 1, "measured": reading.as_dict()})
        port.run(0.4, 1.2)
    return rows, log(port.chips[0], port.now), port.chips[0]


def log(chip, end_s: float) -> Trace:
    """Means of STEP_S, as of a meter of the whole board with another clock."""
    borders = np.arange(0, end_s, STEP_S)
    watts = np.diff([chip.energy(border) for border in borders]) / STEP_S
    return Trace(borders[:-1] + STEP_S / 2 - OFFSET_S, watts + LOSS_WATTS)


def test_joules_of_epochs_by_a_meter(history):
    rows, logged, chip = history
    found = merging.merged(rows, logged, error=0.001)
    assert found.offset_s == pytest.approx(OFFSET_S, abs=STEP_S)
    for epoch, energy in zip(found.epochs, found.energies, strict=True):
        taken = sum(chip.energy(end_s) - chip.energy(begin_s) for begin_s, end_s, _ in epoch.spans)
        expected = taken + LOSS_WATTS * epoch.seconds
        assert abs(energy.total_j - expected) < energy.uncertainty_j < 0.03 * expected
        assert epoch.joules == pytest.approx(taken, rel=0.01)
        assert (energy.provenance, energy.scope) == ("simulated", "board")
    late = merging.merged(rows, logged, OFFSET_S - 0.3, error=0.001)
    assert any(
        abs(wrong.total_j - right.total_j) > wrong.uncertainty_j
        for wrong, right in zip(late.energies, found.energies, strict=True)
    )


def test_logs_that_do_not_go_with_a_training(history):
    rows, logged, _ = history
    noise = Trace(logged.seconds, np.random.default_rng(0).random(len(logged.seconds)))
    for other, words in (
        (noise, "do not go together anywhere"),
        (Trace(logged.seconds[100:], logged.watts[100:]), "log for longer"),
    ):
        with pytest.raises(UsageError, match=words):
            merging.merged(rows, other)
    with pytest.raises(UsageError, match="not all of"):
        merging.merged(rows, logged, OFFSET_S + 1)
    with pytest.raises(UsageError, match="meter_error = 1"):
        merging.merged(rows, logged, error=1)
    with pytest.raises(UsageError, match="no epoch was measured"):
        merging.merged([{"epoch": 1}], logged)


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
    assert found["epochs"][0]["sensors_j"] / found["epochs"][0]["meter"]["total_j"] == pytest.approx(2 / 2.8, rel=0.02)
    assert found["table"][-1][0] == "all" and (run / "meter.png").stat().st_size > 10_000
    page = (run / "comparison.html").read_text()
    assert "By a meter" in page and found["table"][-1][3] in page
    assert bitfirst([*options, "--meter-power", "W"]) == 2 and "no column 'W'" in capsys.readouterr().err
    other = result(tmp_path / "other", "sgd", 1.0)
    assert bitfirst([*options[:2], str(other), *options[2:]]) == 2
    assert "2 runs: a meter's log is of one training" in capsys.readouterr().err
