"""Regulators on a PMBus: what the host makes of them, on the compiled monitor and on a whole device."""

import dataclasses
from pathlib import Path

import bitfirst
import numpy as np
import pytest
from bitfirst.errors import DeviceError, UsageError
from bitfirst.measuring import calibration, rails, sensors, separation, shown
from bitfirst.measuring.board_port import BoardPort
from bitfirst.measuring.calibration import Calibration
from bitfirst.measuring.monitor import Monitor
from bitfirst.measuring.sensors import POWERS, Rail, Timing, choose_timing, round_s, seen_s, volts_exponent
from bitfirst_hdl import axi
from bitfirst_hdl.config import CONFIGS, ConfigError
from bitfirst_sim.power_simulator import PowerSimulator
from bitfirst_sim.sensors import SimulatedRail
from bitfirst_sim.supply import Supply, alone

CLOCK_KHZ = 5000
UPDATE_S = 1.6e-3
WINDOWS = 3
VCCINT = Rail("VCCINT", "ucd9248", 52, update_s=UPDATE_S)


def simulated(*rails: Rail, **fields: float) -> PowerSimulator:
    chips = [
        SimulatedRail(one.kind, one.address, page=one.page, **{"supply_volts": 1.0, "update_s": UPDATE_S} | fields)
        for one in rails
    ]
    return PowerSimulator(chips, CLOCK_KHZ)


def exact(rail: Rail) -> Calibration:
    """Of a sensor without errors."""
    return Calibration(
        rail.kind, rail.address, None, rail.range.volts, "", 1.0, 0.0, 0.0, 0.0, "simulated", *(rail.page, rail.power)
    )


def held(update_s: float, chip_s: float = UPDATE_S) -> int:
    """Of windows of one run each, those that hold the truth, where the host thinks this of the chip, which has another
    one."""
    rail = dataclasses.replace(VCCINT, update_s=update_s, page=2)
    port, rng, found = simulated(rail, update_s=chip_s), np.random.default_rng(1), 0
    monitor = Monitor(port, [rail], calibrations=[exact(rail)])
    for number in range(WINDOWS):
        port.load(1.0)
        monitor.wait(20 * UPDATE_S)
        cycles, above = int(rng.uniform(0.05, 0.08) * port.clock_hz), float(rng.uniform(1.0, 3.0))
        with monitor.window("tested", relative=0.5, seed=number) as window:
            for _ in window.replays():
                port.load(1.0 + above)
                port.wait(cycles)
                port.load(1.0)
        reading, seconds = window.reading, cycles / port.clock_hz
        pairs = (reading.dynamic, above * seconds), (reading.total, (1.0 + above) * seconds)
        found += all(abs(energy.total_j - truth) <= energy.uncertainty_j for energy, truth in pairs)
    assert port.violations <= 1  # the first clock pulse of all, which frees the bus
    return found


def test_intervals_hold_the_truth_where_updates_are_known() -> None:
    """With 0 for `update_s` nobody waits for the filter, and edges are thought to be seen at once: reading the records
    is all the rest there is, which is too short for a slow chip."""
    assert held(UPDATE_S) == WINDOWS
    assert held(0.0, 5 * UPDATE_S) == 0


def watts_held(windows: int, calibrations: tuple[Calibration, ...] = (), **chip: float) -> list[bool]:
    """Of windows of the chip's own watts, whether they hold the truth."""
    port, rng, found = simulated(WATTS, **chip), np.random.default_rng(3), []
    monitor = Monitor(port, [WATTS], calibrations=calibrations)
    for number in range(windows):
        idle = float(rng.uniform(0.5, 1.0))
        port.load(idle)
        monitor.wait(20 * UPDATE_S)
        cycles, above = int(rng.uniform(0.05, 0.08) * port.clock_hz), float(rng.uniform(1.0, 3.0))
        with monitor.window("tested", relative=0.5, seed=number) as window:
            for _ in window.replays():
                port.load(idle + above)
                port.wait(cycles)
                port.load(idle)
        reading, seconds = window.reading, cycles / port.clock_hz
        pairs = (reading.dynamic, above * seconds), (reading.total, (idle + above) * seconds)
        found.append(all(abs(energy.total_j - truth) <= energy.uncertainty_j for energy, truth in pairs))
    return found


#: As of `simulated`, at volts by which amperes and watts are different numbers.
VOLTS = {"supply_volts": 2.5}
WATTS = dataclasses.replace(VCCINT, power="pout")


def test_windows_by_the_word_of_watts_hold_the_truth(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a calibrated sensor, and by the limits where it is off. With the amperes in its place none does."""
    assert all(watts_held(2, (exact(WATTS),), **VOLTS))
    assert all(watts_held(1, gain_error=0.03, offset_volts=0.06, **VOLTS))
    of_watts = sensors._UCD9248_POUT
    monkeypatch.setattr(sensors, "_UCD9248_POUT", dataclasses.replace(of_watts, reads=sensors._UCD9248.reads))
    assert not any(watts_held(1, (exact(WATTS),), **VOLTS))


def test_rounds_of_both_ways() -> None:
    """Of two rails one says watts, the other one amperes."""
    both = [WATTS, dataclasses.replace(VCCINT, name="beside", address=53)]
    port = simulated(*both, **VOLTS)
    port.load(2.0, 2.0)
    monitor = Monitor(port, both)
    assert [watts for watts, _ in monitor.steady(0.3)] == pytest.approx([2.0, 2.0], rel=2e-3)
    assert [rail.chip.reads[0][0] for rail in monitor.rails] == [0x96, 0x8C]
    traces = shown.traces(monitor, monitor.records())
    assert [one.watts.mean() for one in traces.values()] == pytest.approx([2.0, 2.0], rel=5e-3)
    port.load(200.0, 2.0)
    monitor.wait(0.1)
    with pytest.raises(DeviceError, match=r"the power of VCCINT .*page 0, by READ_POUT\) reached .*, 128 W"):
        monitor.snapshot()


def test_rounds_of_two_regulators() -> None:
    """Each says its page; a round takes no longer than the host thinks; what is at the end of the range is told."""
    both = [VCCINT, Rail("VCCBRAM", "ucd9248", 54, page=1)]
    port = simulated(*both)
    port.load(2.0, 0.5)
    monitor = Monitor(port, both)
    assert [rail.volts_exponent for rail in monitor.rails] == [-12, -12]
    assert [watts for watts, _ in monitor.steady(0.3)] == pytest.approx([2.0, 0.5], rel=2e-3)
    monitor.wait(0.2)  # so that no snapshot is among the records
    stamps = np.unique(monitor.records()["stamp"])
    thought = round_s(both, port.clock_hz)
    assert 0.6 * thought < np.diff(stamps).max() / port.clock_hz <= thought
    port.load(2.0, 200.0)
    monitor.wait(0.1)
    with pytest.raises(DeviceError, match=r"VCCBRAM \(ucd9248 at 0x36, page 1\) reached the end of its range, 128 A"):
        monitor.snapshot()


def test_edges_of_what_is_smoothed_scatter_as_derived() -> None:
    """Samples each `held_s`, of which a number takes a quarter, looked at each `look_s`: where an edge is counted."""
    rng = np.random.default_rng(0)
    for held_s, look_s in ((0.8, 0.3), (0.8, 0.8), (0.8, 2.1), (0.2, 0.3), (1.6, 0.5)):
        looks = (rng.random((20_000, 1)) + np.arange(int(60 * held_s / look_s) + 5)) * look_s
        samples = np.floor((looks - held_s * rng.random((20_000, 1))) / held_s) + 1
        missing = 0.75 ** np.maximum(samples, 0)
        counted = (looks[:, 0] - look_s) + look_s * missing.sum(axis=1)
        gap_s = Timing(0, 0, 0, 5e-6, 5e-6, 7, held_s, look_s).gap_s
        assert 0.75 * gap_s < np.sqrt(12) * counted.std() < 1.02 * gap_s


def test_phases_are_told_apart() -> None:
    """Of counts that are made by the same chip, drawn anew: unbiased, and scattered as it says."""
    timing, looked_s = Timing(0, 0, 0, 5e-6, 5e-6, 7, 0.8e-3, 0.5e-3), 0.5e-3
    lengths, watts, seen = np.array([20e-3, 8e-3, 15e-3]), np.array([2.0, 0.5, 1.0]), (0.1e-3, 0.12e-3)
    ends, rng, found = np.cumsum(lengths), np.random.default_rng(2), []
    for _ in range(80):
        at = np.arange(-2, 130) * timing.held_s + timing.held_s * rng.random()
        samples = sum(
            power * ((at >= end - length) & (at < end)) for power, length, end in zip(watts, lengths, ends, strict=True)
        )
        numbers = [0.0]
        for sample in samples:
            numbers.append(numbers[-1] + (sample - numbers[-1]) / 4)
        looks = np.arange(190) * looked_s + looked_s * rng.random()
        shown = np.array(numbers[1:])[np.searchsorted(at, looks, side="right") - 1]
        stamps = np.append(looks[0] - looked_s, looks) + seen[0]
        borders = np.append(0.0, ends)
        counted = [
            (np.diff(np.clip(stamps, begin, end)) * shown).sum() for begin, end in zip(borders, ends, strict=False)
        ]
        joules, covariance = separation.separate(np.array(counted), lengths, timing, looked_s, seen)
        found.append(joules)
    deviation = np.sqrt(np.diag(covariance))
    assert np.mean(found, axis=0) == pytest.approx(lengths * watts, rel=0.03)
    assert (np.std(found, axis=0) < 1.2 * deviation).all() and (np.std(found, axis=0) > 0.2 * deviation).all()


def test_a_whole_device(tmp_path: Path) -> None:
    path = tmp_path / "with.toml"
    path.write_text('base = "tiny"\nclock_khz = 2000\nfeatures = ["gather", "requantise", "power"]\n')
    with bitfirst.open(f"rtl:{path}?sensor=ucd9248") as board:
        assert board.config.sensor_bus == "pmbus"
        for power in POWERS:
            (rail,) = rails.one("rtl", "ucd9248", rails.number(None, "ucd9248"), None, None, 0.01, power=power)
            monitor = Monitor(BoardPort(board), [rail])
            before = monitor.snapshot()
            monitor.wait(20 * monitor.sample_s)
            (watts,) = monitor.watts(monitor.snapshot() - before)
            assert watts == pytest.approx(Supply(()).idle_watts, rel=0.02)  # READs of the link take some, too


# data and bad input


def test_what_the_chip_is_told() -> None:
    assert [volts_exponent(mode) for mode in (0x14, 0x17, 0x00, 0x0F, 0x10)] == [-12, -9, 0, 15, -16]
    assert volts_exponent(0x40) is None and volts_exponent(0x21) is None
    assert [VCCINT.codes_per_step(amps) for amps in (0.0, 0.1, 0.13, 1.0, 1.99, 2.0, -20.0)] == [
        1,
        1,
        1,
        8,
        8,
        16,
        64 * 2,
    ]
    timing = choose_timing(Rail("1V0", "ucd9248", 52), 0.5e-3)
    assert timing.held_s == UPDATE_S and timing.period_s == 0.5e-3 and timing.sample_s == 0.5e-3 + 7 * UPDATE_S
    assert timing.fresh == pytest.approx(0.5 / 1.6) and seen_s(VCCINT, 5e6)[0] > 64 / 5e6


def test_what_the_chip_says_of_its_power() -> None:
    chip = SimulatedRail("ucd9248", supply_volts=1.5, gain_error=0.1)
    port = PowerSimulator([chip], CLOCK_KHZ)
    port.load(3.0)
    port.wait(100_000)
    monitor = Monitor(port, [VCCINT])
    before = monitor.snapshot()
    monitor.wait(50 * monitor.sample_s)
    (watts,) = monitor.watts(monitor.snapshot() - before)
    assert monitor.output_watts == (pytest.approx(3.3, rel=0.005),) and watts == pytest.approx(3.3, rel=0.005)
    other = Monitor(PowerSimulator([SimulatedRail("ina226")], CLOCK_KHZ), [Rail("5V", "ina226", 0x40, 0.1)])
    assert other.output_watts == (None,)


def open_with(chip: SimulatedRail, *rails: Rail) -> Monitor:
    return Monitor(PowerSimulator([chip], CLOCK_KHZ), rails)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shunt_ohm": 0.1}, "says amperes: leave it out"),
        ({"page": 255}, "page = 255 of 1V0 must be 0 to 254"),
        ({"update_s": 1.5}, "update_s = 1.5 of 1V0 must be in seconds"),
        ({"power": "p"}, "power = 'p' of 1V0 is unknown; choose from iv, pout"),
        ({"kind": "ina226", "shunt_ohm": 0.1, "power": "pout"}, "ina226 has no READ_POUT"),
        ({"address": 0x80}, "must be 0x08 to 0x77; those of KC705 0x34 on"),
        ({"most_amps": 200.0}, "most_amps = 200.0 of 1V0 must be 0 to 128 A"),
        ({"kind": "ina226", "shunt_ohm": 0.1, "page": 1}, "ina226 has no page, update_s or volts_exponent"),
    ],
)
def test_rails_that_cannot_be(fields: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Rail(**{"name": "1V0", "kind": "ucd9248", "address": 52} | fields)


def test_bad_regulators_are_told_with_the_mend() -> None:
    chip = SimulatedRail("ucd9248", supply_volts=1.0)
    with pytest.raises(UsageError, match=r"two rails of one regulators' controller: .*leave one out"):
        open_with(chip, VCCINT, dataclasses.replace(VCCINT, page=1))
    with pytest.raises(UsageError, match="answer at 0x34: give that address"):
        open_with(chip, dataclasses.replace(VCCINT, address=53))
    with pytest.raises(UsageError, match="volts_exponent is -12, not -9"):
        open_with(chip, dataclasses.replace(VCCINT, volts_exponent=-9))
    with pytest.raises(UsageError, match="are on different buses"):
        open_with(chip, VCCINT, Rail("5V", "ina226", 0x40, 0.1))
    with pytest.raises(UsageError, match=r"has one of 0\.0117 s alone"):
        choose_timing(VCCINT, 0.5e-3, 0.1)
    monitor = open_with(chip, dataclasses.replace(VCCINT, page=1))  # nothing is sensed there
    with monitor.window("run", limit_s=0.1) as window:
        monitor.wait(0.1)
    assert "sees no current or no volts: take a page whose current is sensed" in window.reading.unresolved


def test_a_calibration_is_of_a_page(tmp_path: Path) -> None:
    calibration.save(tmp_path / "c.json", [exact(VCCINT)])
    (kept,) = calibration.load(tmp_path / "c.json")
    assert not kept.is_of(WATTS)
    assert kept.is_of(VCCINT) and not kept.is_of(dataclasses.replace(VCCINT, page=1))
    with pytest.raises(UsageError, match=r"another sensor \(ucd9248 at 0x34, page 0"):
        calibration.applied([kept], [dataclasses.replace(VCCINT, page=1)], "simulated")


def test_rails_of_a_file_and_of_options(tmp_path: Path) -> None:
    path = tmp_path / "rails.toml"
    path.write_text('[[rail]]\nname = "VCCINT"\nkind = "ucd9248"\naddress = 52\nupdate_s = 0.0016\n')
    assert rails.load(path) == (VCCINT,)
    assert rails.number(None, "ucd9248") == 52
    (one,) = rails.one("serial:///dev/x", "ucd9248", 53, None, None, 0.01, page=2)
    assert (one.address, one.page, one.shunt_ohm, one.power) == (53, 2, None, "iv")
    (one,) = rails.one("serial:///dev/x", "ucd9248", 53, None, None, 0.01, power="pout")
    assert one.power == "pout"
    path.write_text(path.read_text() + 'power = "pout"\n')
    assert rails.load(path) == (WATTS,)


def test_configurations() -> None:
    power = CONFIGS["power"]
    with pytest.raises(ConfigError, match="feature pmbus needs power"):
        dataclasses.replace(CONFIGS["tiny"], features=("pmbus",))
    with pytest.raises(ConfigError, match="features spi and pmbus are different buses of sensors; leave one"):
        dataclasses.replace(power, features=(*power.features, "spi", "pmbus"))
    config = dataclasses.replace(power, features=(*power.features, "pmbus"))
    assert config.sensor_bus == "pmbus" and axi.check(dataclasses.replace(config, link_bits=32)) == 32
    assert alone("ucd9248", config).rails[0].address == 52
    with pytest.raises(UsageError, match="bus of PMBUS: add the feature pmbus"):
        alone("ucd9248", power)
    with pytest.raises(UsageError, match="bus of I2C: leave out the feature pmbus"):
        alone("ina226", config)
