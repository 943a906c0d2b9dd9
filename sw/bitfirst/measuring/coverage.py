"""Whether windows tell the truth: sensors drawn within their data sheets' limits, recorded activity whose joules are
known."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..errors import UsageError
from . import uncertainty
from .activity import Activity, Segment, joules
from .calibration import Calibration, Load, calibrate
from .monitor import Monitor
from .port import PowerPort
from .rails import number as address_of
from .sensors import CHIPS, Rail, Timing
from .uncertainty import K
from .windows import Reading, Window, known, moved

KINDS = ("ina226", "ina228")  #: that goals are set for
WINDOWS = 200
HELD, WIDTH = 0.93, 1.5  #: goals: of intervals that hold the truth at least; widths over the bound at most
WINDOWS_A_SENSOR = 10  #: then another one is drawn and calibrated
LOADS = (0.1, 0.9)  #: of full scale, in a calibration
PHASE_S = (1e-3, 1.0)
#: rms at the shunt and at the load, in a conversion of 1 ms
NOISE_VOLTS = {"ina226": (1.5e-6, 0.6e-3), "ina228": (1.9e-6, 0.6e-3), "ina219": (3e-6, 1.3e-3)}
NOISE_VOLTS["ucd9248"] = 1e-3, 0.1e-3  # amperes and volts; taken
NOISE_VOLTS["xadc"] = 0.5e-3, 3e-3  # in any conversion
IDLE_WATTS, ABOVE_WATTS = (0.2, 1.0), (0.3, 1.4)  #: at rest; above it, the mean of all of an activity
SHORT_SAMPLES = 5  #: of a run: fewer are short
LENGTHS, OFFSETS = 8, 64  #: that `Samples` tries
SUPPLY_VOLTS, REGULATED_VOLTS, REGULATED_AMPS = (4.5, 5.5), (0.95, 1.05), 4.0  #: amperes: largest, of a regulator
REGULATED_S = 800e-6  #: its `update_s`, as one of KC705's


class Bed(PowerPort, Protocol):
    """A port whose loads can be set."""

    def load(self, *watts: float) -> None:
        """What each rail's load takes from now on."""

    def play(self, activity: Iterable[Segment]) -> None:
        """What it takes as time passes."""


@dataclass(frozen=True)
class Drawn:
    """A sensor with its errors, on its rail; names as in the simulated rails."""

    kind: str
    address: int
    shunt_ohm: float | None
    supply_volts: float
    offset_volts: float
    gain_error: float
    bus_offset_volts: float
    bus_gain_error: float
    time_error: float
    noise_volts: float
    bus_noise_volts: float
    seed: int
    linearity_volts: float


@dataclass(frozen=True)
class Tested:
    """A window: the truth of one run, what was found, the bound of quantisation and sampling (k = 2), and the same
    bound with what sampling really did to this very run in the place of what is derived for it; in joules."""

    seconds: float
    dynamic_j: float
    total_j: float
    reading: Reading
    bound_j: float
    sampled_j: float

    @property
    def held(self) -> bool:
        """Whether both intervals contain the truth."""
        reading = self.reading
        pairs = (reading.dynamic, self.dynamic_j), (reading.total, self.total_j)
        return all(abs(energy.total_j - truth) <= energy.uncertainty_j for energy, truth in pairs)

    @property
    def width(self) -> float:
        """Of the interval above rest, over the bound."""
        return self.reading.dynamic.uncertainty_j / self.bound_j

    @property
    def short(self) -> bool:
        """Whether a run has too few samples to tell how its power moves."""
        return self.reading.unresolved is None and self.seconds < SHORT_SAMPLES * self.reading.facts[0].sample_s

    @property
    def sampled_width(self) -> float:
        """The same, over the bound with the scatter of sampling itself."""
        return self.reading.dynamic.uncertainty_j / self.sampled_j


def draw(kind: str, rng: np.random.Generator) -> Drawn:
    """Errors anywhere within the limits of the data sheet."""
    chip = CHIPS[kind]

    def within(limit: float) -> float:
        return float(rng.uniform(-limit, limit))

    return Drawn(
        kind,
        address_of(None, kind),
        shunt_ohm=(chip.shunt_ohm or 0.1) if chip.update_s is None else None,
        supply_volts=float(rng.uniform(*(SUPPLY_VOLTS if chip.update_s is None else REGULATED_VOLTS))),
        offset_volts=within(chip.offset_volts),
        gain_error=within(chip.gain_error),
        bus_offset_volts=within(chip.bus_offset_volts),
        bus_gain_error=within(chip.bus_gain_error),
        time_error=float(rng.uniform(-chip.shorter_error, chip.time_error)),
        noise_volts=NOISE_VOLTS[kind][0],
        bus_noise_volts=NOISE_VOLTS[kind][1],
        seed=int(rng.integers(2**31)),
        linearity_volts=within(chip.linearity_volts) if chip.linearity_volts else 0.0,
    )


def test_windows(
    kind: str,
    bed: Callable[[Drawn], Bed],
    activities: Sequence[Activity],
    windows: int = 200,
    seed: int = 0,
    relative: float = 0.01,
    limit_s: float = 4.0,
    longest_s: float = PHASE_S[1],
) -> list[Tested]:
    """So many windows of phases of 1 ms to `longest_s`, each a stretch of one of the activities, on sensors that are
    drawn and calibrated apart."""
    rng = np.random.default_rng(seed)
    tested = []
    for number in range(windows):
        if number % WINDOWS_A_SENSOR == 0:
            drawn = draw(kind, rng)
            port = bed(drawn)
            rail = _rail(f"drawn {number // WINDOWS_A_SENSOR}", drawn)
            found = [calibrated(Monitor(port, [rail]), drawn)]
            monitor = Monitor(port, [rail], calibrations=found)
        tested.append(_window(monitor, drawn, activities, rng, relative, limit_s, longest_s))
    return tested


def _rail(name: str, drawn: Drawn) -> Rail:
    if drawn.shunt_ohm is None:
        return Rail(name, drawn.kind, drawn.address, most_amps=REGULATED_AMPS, update_s=REGULATED_S)
    return Rail(name, drawn.kind, drawn.address, drawn.shunt_ohm, shunt_error=0.0)


test_windows.__test__ = False  # it is no test of pytest's


def calibrated(monitor: Monitor, drawn: Drawn, seconds: float = 1.0) -> Calibration:
    """Against the truth, as a perfect meter would tell it."""
    rail = monitor.rails[0]
    loads = []
    for share in LOADS:
        amps = rail.range.volts / rail.ohm if rail.most_amps is None else rail.most_amps
        watts = share * amps * drawn.supply_volts
        monitor.port.load(watts)
        monitor.wait(4 * monitor.sample_s)
        loads.append(Load(*monitor.steady(seconds)[0], watts, 0.0))
    return calibrate(rail, loads, monitor.port.provenance)


def _window(
    monitor: Monitor,
    drawn: Drawn,
    activities: Sequence[Activity],
    rng: np.random.Generator,
    relative: float,
    limit_s: float,
    longest_s: float,
) -> Tested:
    port = monitor.port
    seconds = math.exp(rng.uniform(math.log(PHASE_S[0]), math.log(longest_s)))
    cycles = round(seconds * port.clock_hz)
    idle, above = float(rng.uniform(*IDLE_WATTS)), float(rng.uniform(*ABOVE_WATTS))
    activity = activities[rng.integers(len(activities))]
    run = activity.run(int(rng.integers(len(activity.above))), cycles, idle, above)
    port.load(idle)
    monitor.wait(4 * monitor.sample_s)
    with monitor.window("tested", relative=relative, limit_s=limit_s, seed=int(rng.integers(2**31))) as window:
        for _ in window.replays():
            port.play(run)
            port.wait(cycles)
            port.load(idle)
    total_j, rest_j, reading = joules(run, port.clock_hz), idle * cycles / port.clock_hz, window.reading
    bounds = bounds_j(window, drawn, run, idle)
    return Tested(cycles / port.clock_hz, total_j - rest_j, total_j, reading, *bounds)


def bounds_j(window: Window, drawn: Drawn, run: Sequence[Segment], idle_watts: float) -> tuple[float, float]:
    """What quantisation and sampling alone leave unknown of the energy above rest, at k = 2: as derived, of the truth
    and not of what was found; and with what sampling does to this very run. Infinite where nothing was resolved."""
    monitor, reading = window.monitor, window.reading
    if reading.unresolved is not None:
        return math.inf, math.inf
    rail, timing, facts = monitor.rails[0], monitor.timings[0], reading.facts[0]
    clock_hz = monitor.port.clock_hz
    longer = 1 + drawn.time_error
    held_s = None if timing.held_s is None else timing.held_s * longer
    true = replace(timing, shunt_s=timing.shunt_s * longer, bus_s=timing.bus_s * longer, held_s=held_s)
    of_s = timing.shunt_s if rail.chip.bus == "xadc" else 1e-3  # of what conversions `noise_volts` are
    noise = drawn.noise_volts * math.sqrt(of_s / (timing.shunt_s * timing.turns)) / rail.range.step_volts
    above_watts = joules(run, clock_hz) / facts.run_s - idle_watts
    facts = replace(
        facts,
        watts=facts.idle_watts + above_watts,
        sample_s=true.sample_s,
        current_codes=math.hypot(noise, rail.codes_per_step(facts.idle_watts / facts.volts) / math.sqrt(12)),
        edge_s=uncertainty.edge(uncertainty.gap(true), monitor.poll_s),
        steps_watts=math.sqrt(2) * above_watts,
    )
    if rail.regulates:  # its filter is not done again here: the activity is taken as found
        bound = K * uncertainty.budgets(rail, true, facts)[0].own
        return bound, bound
    samples = Samples.of(true, run, clock_hz, idle_watts)
    unsteady = samples.unsteady(known(timing, window.inside(0)))
    budget = uncertainty.budgets(rail, true, replace(facts, unsteady=unsteady))[0]
    sampled = samples.error_j(monitor.poll_s) / math.sqrt(facts.replays)
    return K * budget.own, K * math.hypot(sampled, budget.quantisation, budget.noise)


@dataclass(frozen=True)
class Samples:
    """What a sensor without any error sees of a run that begins anywhere in a turn, and goes on at its end for anything
    up to a turn: watts above rest, [length, offset, sample].

    whole    which samples have seen nothing but the run, less the first one, likewise
    taken_j  above rest, by length
    """

    timing: Timing
    watts: np.ndarray
    whole: np.ndarray
    taken_j: np.ndarray

    @classmethod
    def of(cls, timing: Timing, run: Sequence[Segment], clock_hz: float, idle_watts: float) -> "Samples":
        turn_s, run_s = timing.shunt_s + timing.bus_s, sum(segment.cycles for segment in run) / clock_hz
        count = 3 + math.ceil((run_s + turn_s) / timing.sample_s)
        begin = -timing.sample_s * (1 + (np.arange(OFFSETS) + 0.5) / OFFSETS)[:, None]
        turns = begin + turn_s * np.arange(count * timing.turns)
        seen = turns + timing.first_s
        watts, whole, taken_j = [], [], []
        for more_s in turn_s * (np.arange(LENGTHS) + 0.5) / LENGTHS:
            times, taken = _taken(run, clock_hz, idle_watts, more_s)
            mean = (np.interp(seen + timing.shunt_s, times, taken) - np.interp(seen, times, taken)) / timing.shunt_s
            within = (turns >= timing.sample_s) & (turns + turn_s <= times[-1])  # as `inside` leaves the first one out
            shape = OFFSETS, count, timing.turns
            watts.append(mean.reshape(shape).mean(axis=2))
            whole.append(within.reshape(shape).all(axis=2))
            taken_j.append(taken[-1])
        return cls(timing, np.array(watts), np.array(whole), np.array(taken_j))

    def unsteady(self, order: int) -> float:
        """As in `Facts`, by differences up to this order: the samples of a window are not more than it had."""
        rows = zip(
            self.watts.reshape(-1, self.watts.shape[-1]), self.whole.reshape(-1, self.whole.shape[-1]), strict=True
        )
        runs = [watts[whole] for watts, whole in rows]
        return moved(self.timing, self.timing.gap_s, runs, 0.0, min(order, known(self.timing, runs)))

    def error_j(self, poll_s: float) -> float:
        """By which the energy is off, rms; samples are seen ready up to `poll_s` late."""
        *sizes, count = self.watts.shape
        late = np.random.default_rng(0).uniform(0, poll_s, (*sizes, count + 1))
        found = (self.watts * (self.timing.sample_s + np.diff(late))).sum(axis=2)
        return float(np.sqrt(np.mean((found - self.taken_j[:, None]) ** 2)))


def _taken(run: Sequence[Segment], clock_hz: float, idle_watts: float, more_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Times from the beginning of a run on that goes on for `more_s` as it ends, and joules above rest until then."""
    lengths = np.array([segment.cycles for segment in run]) / clock_hz
    lengths[-1] += more_s
    above = np.array([segment.watts[0] for segment in run]) - idle_watts
    return np.cumsum([0.0, *lengths]), np.cumsum([0.0, *lengths * above])


def summary(tested: list[Tested]) -> dict[str, Any]:
    """Shares and widths, as `--json` has them under `coverage`; `held_short`: of windows with `short` runs alone."""
    resolved = [one for one in tested if one.reading.unresolved is None]
    widths = [one.width for one in resolved]
    return {
        "windows": len(tested),
        "resolved": len(resolved),
        "held": _share(one.held for one in resolved) or 0.0,
        "held_short": _share(one.held for one in resolved if one.short),
        "width_mean": float(np.mean(widths)) if widths else None,
        "width_most": max(widths, default=None),
        "sampled_width_mean": float(np.mean([one.sampled_width for one in resolved])) if resolved else None,
    }


def _share(held: Iterable[bool]) -> float | None:
    told = list(held)
    return sum(told) / len(told) if told else None


def run(
    kinds: Sequence[str],
    bed: Callable[[Drawn], Bed],
    activities: Sequence[Activity],
    windows: int = WINDOWS,
    seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """What `bitfirst measure --coverage` prints: "coverage", `summary` by kind; "goals"; "passed".

    Raises `UsageError` for an unknown kind.
    """
    check(kinds)
    found = {}
    for kind in kinds:
        say(f"{kind}: {windows} windows")
        found[kind] = summary(test_windows(kind, bed, activities, windows, seed))
    passed = all(passes(one) for one in found.values())
    return {"coverage": found, "goals": {"held_least": HELD, "width_most": WIDTH}, "passed": passed}


def check(kinds: Sequence[str]) -> None:
    """Raises `UsageError` for an unknown kind."""
    unknown = [kind for kind in kinds if kind not in NOISE_VOLTS]
    if unknown:
        raise UsageError(f"sensor {unknown[0]!r} is unknown; choose from {', '.join(NOISE_VOLTS)}")


def passes(found: dict[str, Any]) -> bool:
    """Whether a summary meets the goals: every window resolved, too."""
    good = found["resolved"] == found["windows"] and found["held"] >= HELD
    return good and found["width_most"] is not None and found["width_most"] <= WIDTH
