"""Windows: rest, run, rest, interleaved, until the joules of a run are known well enough."""

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from ..energy import Energy, Scope, unavailable
from ..errors import DeviceError, LinkError, UsageError
from . import uncertainty
from .sensors import Timing, seen_s
from .separation import separate
from .uncertainty import TOGETHER, Budget, Facts, K

if TYPE_CHECKING:
    from .monitor import Monitor, Sums

IDLE_PHASE = 0
LEAST_SAMPLES = 20  #: in the runs of a window together
LEAST_INSIDE = 20  #: samples, or differences, that have seen no edge: they tell how the power moves inside the runs
PIECE = 16  #: samples, of longer runs, of which one or more are left out to see how well that is told
CORRELATED = 4  #: a piece is at least so many times as long as records of a regulator have to do with each other
PARTS = 20  #: of these pieces, at most: one at a time is left out
TOLD = 0.25  #: of a run's own variance, that what the power's moving adds to it may be off by (k = 1) at the end
LEAST_STEPS = 20  #: of the current above rest, summed over those samples
IDLE_SAMPLES = 60  #: of a rest, at least
BLOCK_S = 0.5  #: of replays between two rests, about
MOST_IN_BLOCK = 1000
PAD_SAMPLES = 3  #: of rest around the runs of a block
REST_SAMPLES = 2  #: of rest between two runs, so that a record tells them apart
SPREAD_SAMPLES = 8  #: of rest, drawn, so that edges meet samples and looks at them in every way
SPREAD = 3.0  #: of what blocks scatter over what they should: from there on their own scatter counts
SHARE = 1 / 3  #: of the random part in the systematic one, below which replays help no more


@dataclass(frozen=True)
class Reading:
    """What a window found of one run.

    total, dynamic   all of it, and what is above rest
    seconds, replays of one run; how many the figures are the mean of
    watts_idle       of the rests around
    budgets          of `dynamic` and `total`, a pair a rail; standard uncertainties, in joules
    facts            that they come from, by rail
    spans, rests     of the windows, and of the rests around: begin and end, as of `Monitor.time_s`, and all joules
                     between
    unresolved       why there is no figure, or None
    """

    name: str
    total: Energy
    dynamic: Energy
    seconds: float = 0.0
    replays: int = 0
    watts_idle: float = 0.0
    budgets: tuple[tuple[Budget, Budget], ...] = ()
    facts: tuple[Facts, ...] = ()
    spans: tuple[tuple[float, float, float], ...] = ()
    rests: tuple[tuple[float, float, float], ...] = ()
    unresolved: str | None = None

    @property
    def gain(self) -> float:
        """Relative standard uncertainty of it all that is the sensors' gain, which stays the same."""
        return math.hypot(*(total.gain for _, total in self.budgets)) / abs(self.total.total_j)

    @property
    def offset_watts(self) -> float:
        """Standard uncertainty of the watts that is the sensors' offset, which stays the same."""
        return math.hypot(*(total.offset for _, total in self.budgets)) / self.seconds

    @property
    def own_j(self) -> float:
        """Standard uncertainty of it all without these: what this window has of its own."""
        return math.hypot(*(total.own for _, total in self.budgets))

    def as_dict(self) -> dict[str, object]:
        """A row of `phases` in `--json`."""
        return {
            "name": self.name,
            "energy_j": self.total.total_j,
            "uncertainty_j": self.total.uncertainty_j,
            "dynamic_j": self.dynamic.total_j,
            "dynamic_uncertainty_j": self.dynamic.uncertainty_j,
            "provenance": str(self.total.provenance),
            "scope": str(self.total.scope),
            "extrapolated": self.total.extrapolated,
            "seconds": self.seconds,
            "replays": self.replays,
            "idle_watts": self.watts_idle,
            "spans": [list(span) for span in self.spans],
            "rests": [list(span) for span in self.rests],
            "unresolved": self.unresolved,
        }


def none(name: str, why: str, scope: Scope) -> Reading:
    """Of what could not be measured."""
    return Reading(name, unavailable(scope), unavailable(scope), unresolved=why)


def inside(records: np.ndarray, phases: Sequence[int], behind: int = 2) -> list[np.ndarray]:
    """The currents of one rail's samples that follow one another and have seen nothing but these phases, stretch by
    stretch; a sample may have seen what was so many stamps before its own."""
    works = np.isin(records["phase"], phases)
    whole = np.convolve(works, np.ones(behind + 1, int))[: len(works)] > behind
    borders = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(int)))
    pairs = zip(borders[::2], borders[1::2], strict=True)
    return [records["current"][first:end].astype(float) for first, end in pairs]


def known(timing: Timing, runs: Sequence[np.ndarray]) -> int:
    """Of which order there are differences enough of samples, run by run: 2, 1, 0 (samples themselves), -1: of none."""
    counts = [sum(max(0, len(run) - order) for run in runs) * timing.independent for order in range(3)]
    return sum(count >= LEAST_INSIDE for count in counts) - 1


def moved(timing: Timing, gap_s: float, runs: Sequence[np.ndarray], noise: float, order: int) -> float:
    """`uncertainty.unsteady`, by samples run by run, in their unit, with differences up to this order. Without second
    ones all is taken for noise, without any all that samples vary by; without samples nothing is known."""
    if order < 0:
        return 0.0
    samples, first, second = (np.concatenate([np.diff(run, times) for run in runs]) for times in range(3))
    variance = float(np.var(samples))
    if timing.held_s is not None:
        return uncertainty.unsteady_of_instants(timing, variance, noise)
    once = float(np.mean(first**2)) if order >= 1 else 2 * variance
    twice = float(np.mean(second**2)) if order >= 2 else 3 * once
    return uncertainty.unsteady(timing, gap_s, once, twice, noise)


def doubt(timing: Timing, gap_s: float, runs: Sequence[np.ndarray], noise: float, order: int) -> float:
    """Standard uncertainty of the square of `moved`, by leaving out parts of the runs, one at a time (jackknife). Few
    samples leave all in doubt; runs without any, which will never have one, nothing."""
    if order < 0:
        return math.inf if any(len(run) for run in runs) else 0.0
    length = max(PIECE, math.ceil(CORRELATED / timing.independent))
    pieces = [run[first : first + length + order] for run in runs for first in range(0, len(run) - order, length)]
    parts = min(len(pieces), PARTS)
    if parts < 2:
        return math.inf
    others = ([piece for at, piece in enumerate(pieces) if at % parts != part] for part in range(parts))
    return math.sqrt(parts - 1) * float(np.std([moved(timing, gap_s, other, noise, order) ** 2 for other in others]))


@dataclass
class _Block:
    """Rest, or runs with rest around: what was added up, when, and how often work ended in it."""

    sums: "Sums"
    middle: int  # stamp
    begin_s: float  # as of `Monitor.time_s`
    end_s: float
    runs: int = 0
    returns: np.ndarray | int = 0  # to rest, by phase


@dataclass
class Window:
    """`with monitor.window("forward") as w:` measures the body; `for _ in w.replays(): ...` inside it does it again and
    again. `w.reading` is there behind it.

    phase     that the device is set to in a run; None: the body sets those in `order` itself
    order     (phases, name) as they follow one another in a run, each once, a phase or several that go to and fro;
              `phases` has a reading of each
    relative  the uncertainty (k = 2) of the energy above rest, relative, that replays go on for
    limit_s   seconds of the device after which no further replays begin
    seed      of the rests between replays, which are drawn so that samples fall everywhere

    Nothing is read from the device in a run: sums are read before and behind. A body that sets no phase has taken
    nothing. Raises `DeviceError` for faults of
    sensors in the window. What cannot be resolved has no figure, and `reading.unresolved` says why.
    """

    monitor: "Monitor"
    name: str
    phase: int | None = 1
    order: Sequence[tuple[int | tuple[int, ...], str]] = ()
    relative: float = 0.01
    limit_s: float = 60.0
    seed: int = 0
    reading: Reading | None = None
    phases: list[Reading] = field(default_factory=list)
    records: np.ndarray | None = None  #: the last samples of the last runs, and of rest around; see `Monitor.records`
    _idles: list[_Block] = field(default_factory=list)
    _blocks: list[_Block] = field(default_factory=list)
    _fault: str | None = None
    _opened: "Sums | None" = None  #: as of its beginning

    @property
    def scope(self) -> Scope:
        """As of `Monitor`."""
        return self.monitor.scope

    def __enter__(self) -> "Window":
        if not 0 < self.relative < 1:
            raise UsageError(f"relative = {self.relative} of a window must be over 0 and below 1: 0.01 for 1 %")
        if self.phase is not None and not 0 < self.phase < 8:
            raise UsageError(f"phase = {self.phase} of a window must be 1 to 7; 0 is rest")
        self._groups = [(number,) if isinstance(number, int) else tuple(number) for number, _ in self.order]
        numbers = [number for group in self._groups for number in group]
        if len(set(numbers)) < len(numbers) or not all(0 < number < 8 for number in numbers):
            raise UsageError(f"phases {numbers} of a window must be 1 to 7, each once, in the order of a run")
        if self.order and self.phase is not None:
            raise UsageError("a window that sets the phase has no order of phases: give phase=None")
        if self.monitor.unavailable is None:
            self._rng = np.random.default_rng(self.seed)
            self.monitor.clear()  # so that sums have all their bits before them
            self._codes: list[np.ndarray] = []
            self._worked: list[np.ndarray] = []
            self._begin_s = self.monitor.clock()
            self._idle(IDLE_SAMPLES * self.monitor.sample_s)
            self._longest_s = self.monitor.longest_s
            self._begin()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            if self.monitor.unavailable is None and issubclass(kind, Exception):  # Ctrl-C may come amid an answer
                with suppress(DeviceError, LinkError):  # the body's own error is what matters
                    self.monitor.port.phase(IDLE_PHASE)
            return
        if self.monitor.unavailable is not None or self._fault is not None:
            self.reading = none(self.name, self.monitor.unavailable or self._fault, self.scope)
        else:
            if self._open:
                self._finish()
            self.reading = self._evaluate()
        if self.reading.unresolved is not None:
            self.phases = [none(name, self.reading.unresolved, self.scope) for _, name in self.order]
        else:
            self.phases = self._separated()

    def replays(self) -> Iterator[int]:
        """Numbers of runs, each to be done once; ends when the joules are known well enough, or time is over."""
        yield 0
        if self.monitor.unavailable is not None:
            return
        number, in_block = 1, 1
        while self._open:
            runs_s = self._spent_s() / self._runs
            if self._runs < min(in_block, MOST_IN_BLOCK):
                self._next()
                yield number
                number += 1
                continue
            self._finish()
            if self._enough():
                return
            in_block = max(1, round(BLOCK_S / max(runs_s, 1e-6)))
            self._begin()
            yield number
            number += 1

    def between(self) -> None:
        """To be called now and then between parts of one long run, as steps of an epoch are: before a sum could leave
        its bits the sums are read, and begun anew. A fault then costs the figure, and not the run."""
        if self.monitor.unavailable is not None or self.monitor.clock() - self._begun_s < self._longest_s:
            return
        self._runs -= 1  # the run goes on
        try:
            self._finish()
            self.monitor.clear()
            self._begin()
        except DeviceError as error:
            self._fault = self._fault or str(error)
            self._begun_s = self.monitor.clock()
            self.monitor.clear()

    # what is done
    def _begin(self) -> None:
        self._begun_s = self.monitor.clock()
        self._first, self._returns = self.monitor.snapshot(), np.array(self.monitor.port.returns_to_rest)
        self._runs, self._open = 1, True
        self._rest(PAD_SAMPLES)
        self._set()

    def _next(self) -> None:
        self.monitor.port.phase(IDLE_PHASE)
        self._rest(PAD_SAMPLES if self.order else REST_SAMPLES)  # so that no run is counted in another one's phases
        self._runs += 1
        self._set()

    def _finish(self) -> None:
        self.monitor.port.phase(IDLE_PHASE)
        records = self.monitor.records()
        self._worked.append(records[records["stamp"] > self._first.stamp])
        self._rest(PAD_SAMPLES)
        block = self._block(self._first, self._runs, self.monitor.port.returns_to_rest - self._returns)
        self._blocks.append(block)
        self.records = self.monitor.records()
        self._open = False
        window_s = block.sums.stamp / self.monitor.port.clock_hz
        self._idle(max(IDLE_SAMPLES * self.monitor.sample_s, min(window_s, BLOCK_S)))

    def _set(self) -> None:
        if self.phase is not None:
            self.monitor.port.phase(self.phase)

    def _rest(self, samples: int) -> None:
        self.monitor.wait((samples + SPREAD_SAMPLES * self._rng.random()) * self.monitor.sample_s)

    def _idle(self, seconds: float) -> None:
        first = self.monitor.snapshot()
        self.monitor.wait(seconds)
        self._idles.append(self._block(first))
        records = self.monitor.records()
        begin = self._idles[-1].middle - self._idles[-1].sums.stamp // 2
        self._codes.append(records[(records["stamp"] > begin + 1) & (records["phase"] == IDLE_PHASE)])

    def _block(self, first: "Sums", runs: int = 0, returns: np.ndarray | int = 0) -> _Block:
        last = self.monitor.snapshot()
        sums = last - first
        self._opened = self._opened or first
        for since in first, self._opened:  # a slow drift shows over longer times alone
            self.monitor.check_clock(last - since)
        times = (self.monitor.time_s(one) for one in (first, last))
        return _Block(sums, first.stamp + sums.stamp // 2, *times, runs, returns)

    def _spent_s(self) -> float:
        """Seconds of a run in the window so far, all runs of this block, by those of the blocks before."""
        runs = sum(block.runs for block in self._blocks)
        if not runs:
            return BLOCK_S
        return self._runs * sum(block.sums.stamp for block in self._blocks) / runs / self.monitor.port.clock_hz

    def _all_s(self) -> float:
        stamps = sum(block.sums.stamp for block in (*self._blocks, *self._idles))
        return stamps / self.monitor.port.clock_hz

    def _enough(self) -> bool:
        if self._all_s() >= self.limit_s:
            return True
        reading = self._evaluate()
        if reading.unresolved is not None or any(self._samples_of(group) < LEAST_SAMPLES for group in self._groups):
            return False
        if not all(self._told(rail, reading) for rail in range(len(reading.facts))):
            return False
        if reading.dynamic.uncertainty_j <= self.relative * reading.dynamic.total_j:
            return True
        random = math.hypot(*(above.random for above, _ in reading.budgets))
        return random < SHARE * math.hypot(*(above.systematic for above, _ in reading.budgets))

    def _told(self, rail: int, reading: Reading) -> bool:
        """Whether it is known well enough how the power moves inside the runs: an interval by a few samples would be
        too wide, or too narrow and so the reason to end."""
        facts, above = reading.facts[rail], reading.budgets[rail][0]
        watts = self.monitor.rails[rail].amps_per_code * self.monitor.rails[rail].factor(facts.volts)
        parts = [share * doubt(*self._movements(rail, group)) for group, share in self._shares(rail)]
        return math.hypot(*parts) * watts**2 * facts.run_s / facts.replays <= TOLD * above.own**2

    # what it says
    def _evaluate(self) -> Reading:
        rails = range(len(self.monitor.rails))
        if self.phase is None and not any(block.sums.cycles[:, 1:].any() for block in self._blocks):
            return self._nothing()
        found = [self._rail(rail) for rail in rails]
        refused = next((one for one in found if isinstance(one, str)), None)
        if refused is not None:
            return none(self.name, refused, self.scope)
        dynamic = sum(one[0] for one in found)
        total = sum(one[1] for one in found)
        pairs = tuple(one[2] for one in found)
        u_dynamic, u_total = (K * math.hypot(*(pair[i].joules for pair in pairs)) for i in (0, 1))
        if u_dynamic >= abs(dynamic):
            why = f"{self.name}: {dynamic:.3g} J above rest cannot be told from nothing (k = 2: {u_dynamic:.3g} J)"
            return none(self.name, f"{why}; replay it longer, or take a larger shunt", self.scope)
        if dynamic < 0:
            why = f"{self.name} takes {-dynamic:.3g} J less than rest"
            return none(self.name, f"{why}: swap IN+ and IN- of the shunt, or let it rest with less to do", self.scope)
        provenance = self.monitor.port.provenance
        facts = found[0][3]
        return Reading(
            self.name,
            Energy(total, u_total, provenance, self.scope),
            Energy(dynamic, u_dynamic, provenance, self.scope),
            facts.run_s,
            facts.replays,
            sum(one[3].idle_watts for one in found),
            pairs,
            tuple(one[3] for one in found),
            self._spans(self._blocks),
            self._spans(self._idles),
        )

    def _nothing(self) -> Reading:
        """Of a body that let the device do nothing."""
        zero = Energy(0.0, 0.0, self.monitor.port.provenance, self.scope)
        return Reading(self.name, zero, zero, replays=sum(block.runs for block in self._blocks))

    def _rail(self, rail: int) -> tuple[float, float, tuple[Budget, Budget], Facts] | str:
        """Joules above rest and in all of one run, by one rail; or why there are none."""
        monitor, calibration = self.monitor, self.monitor.calibrations[rail]
        clock_hz, descriptor = monitor.port.clock_hz, monitor.rails[rail]
        gain = calibration.gain if calibration else 1.0
        offset = calibration.offset_watts if calibration else 0.0
        idle_at = np.array([block.middle for block in self._idles], float)
        idle_watts = np.array([monitor.watts(block.sums)[rail] for block in self._idles]) * gain + offset
        runs = sum(block.runs for block in self._blocks)
        cycles = np.array([block.sums.cycles[rail].sum() for block in self._blocks])
        busy = np.array([block.sums.cycles[rail, 1:].sum() for block in self._blocks])
        joules = np.array([self._joules(rail, block) for block in self._blocks])
        at_rest = np.interp([block.middle for block in self._blocks], idle_at, idle_watts)
        above = joules - at_rest * cycles / clock_hz
        dynamic, run_s = above.sum() / runs, busy.sum() / clock_hz / runs
        rest_watts = float(at_rest @ busy / max(busy.sum(), 1))
        # of the phase that has most: one sample may count in several phases
        samples = int(sum(block.sums.samples[rail, 1:] for block in self._blocks).max() * monitor.timings[rail].fresh)
        volts = self._volts(rail)
        if volts == 0:
            mend = (
                "take a page whose current is sensed" if descriptor.regulates else "check the wires of shunt and VBUS"
            )
            return f"{self.name}: {descriptor.where} sees no current or no volts: {mend}"
        factor = descriptor.factor(volts)
        step_watts = descriptor.amps_per_code * descriptor.codes_per_step(rest_watts / factor) * factor
        steps = dynamic * runs / (step_watts * monitor.sample_s)
        if (refused := self._too_short(samples, steps)) is not None:
            return refused
        sums = [block.sums for block in self._blocks]
        facts = Facts(
            watts=rest_watts + dynamic / run_s,
            idle_watts=rest_watts,
            volts=volts,
            run_s=run_s,
            replays=runs,
            window_s=cycles.sum() / clock_hz,
            idle_s=sum(block.sums.stamp for block in self._idles) / clock_hz,
            sample_s=monitor.timings[rail].sample_s,
            current_codes=self._deviation(rail, "current"),
            voltage_codes=self._deviation(rail, "voltage"),
            edge_s=uncertainty.edge(self._gap_s(rail), monitor.poll_s),
            steps_watts=self._steps_watts(rail, gain, rest_watts - offset, dynamic / run_s),
            unsteady=self._unsteady(rail) * descriptor.amps_per_code * factor,
        )
        pair = uncertainty.budgets(descriptor, monitor.timings[rail], facts, calibration)
        return dynamic, dynamic + rest_watts * run_s, self._scattered(pair, above, sums), facts

    def _joules(self, rail: int, block: _Block) -> float:
        """By one rail, calibrated, of all phases."""
        calibration = self.monitor.calibrations[rail]
        joules = float(self.monitor.joules(block.sums)[rail].sum())
        if calibration is None:
            return joules
        seconds = int(block.sums.cycles[rail].sum()) / self.monitor.port.clock_hz
        return joules * calibration.gain + calibration.offset_watts * seconds

    def _spans(self, blocks: list[_Block]) -> tuple[tuple[float, float, float], ...]:
        """As in `Reading`."""
        rails = range(len(self.monitor.rails))
        return tuple((one.begin_s, one.end_s, sum(self._joules(rail, one) for rail in rails)) for one in blocks)

    def _samples_of(self, group: tuple[int, ...]) -> int:
        records = sum(int(block.sums.samples[0, group].sum()) for block in self._blocks)
        return int(records * self.monitor.timings[0].fresh)

    def _separated(self) -> list[Reading]:
        """A reading of each phase in `order`, by what the whole run's has."""
        rows = [self._separated_rail(rail, facts) for rail, facts in enumerate(self.reading.facts)]
        found = []
        for place, (_, name) in enumerate(self.order):
            samples = self._samples_of(self._groups[place])
            if samples < LEAST_SAMPLES:
                why = (
                    f"{name} is too short: {samples} samples in its runs, {LEAST_SAMPLES} are needed; replay it longer"
                )
                found.append(none(name, why, self.scope))
                continue
            dynamic, total = (sum(row[i][place] for row in rows) for i in (0, 1))
            pairs = tuple(row[2][place] for row in rows)
            u_dynamic, u_total = (K * math.hypot(*(pair[i].joules for pair in pairs)) for i in (0, 1))
            provenance, facts = self.monitor.port.provenance, tuple(row[3][place] for row in rows)
            found.append(
                Reading(
                    name,
                    Energy(max(total, -u_total), u_total, provenance, self.scope),
                    Energy(max(dynamic, -u_dynamic), u_dynamic, provenance, self.scope),
                    facts[0].run_s,
                    facts[0].replays,
                    sum(one.idle_watts for one in facts),
                    pairs,
                    facts,
                )
            )
        return found

    def _separated_rail(self, rail: int, whole: Facts) -> tuple[list[float], list[float], list, list[Facts]]:
        """Of each phase: joules above rest and in all, budgets, facts."""
        monitor, clock_hz = self.monitor, self.monitor.port.clock_hz
        calibration, descriptor, timing = monitor.calibrations[rail], monitor.rails[rail], monitor.timings[rail]
        if not self.order:
            return [], [], [], []
        gain, offset = (calibration.gain, calibration.offset_watts) if calibration else (1.0, 0.0)
        joules = self._grouped(sum(monitor.joules(block.sums)[rail] for block in self._blocks)) / whole.replays * gain
        lengths = self._grouped(sum(block.sums.cycles[rail] for block in self._blocks)) / clock_hz / whole.replays
        if (lengths <= 0).any():
            missing = next(name for (_, name), length in zip(self.order, lengths, strict=True) if length <= 0)
            raise UsageError(f"the run had no phase {missing}: leave it out of the order")
        rest = [block.sums for block in self._idles]
        sample_s = sum(one.stamp for one in rest) / clock_hz / sum(int(one.samples[rail].sum()) for one in rest)
        counted = joules + (offset - whole.idle_watts) * lengths
        dynamic, edges = separate(counted, lengths, timing, sample_s, seen_s(descriptor, clock_hz))
        pairs, facts = [], []
        for place, length in enumerate(lengths):
            watts = whole.idle_watts + dynamic[place] / length
            window_s = float(length) * whole.replays
            unsteady = (
                self._moved(rail, self._groups[place]) * descriptor.amps_per_code * descriptor.factor(whole.volts)
            )
            own = replace(whole, watts=watts, run_s=float(length), window_s=window_s, edge_s=0.0, unsteady=unsteady)
            edge = math.sqrt(edges[place, place] / whole.replays)
            pair = uncertainty.budgets(descriptor, timing, own, calibration)
            pairs.append(tuple(replace(one, edge=edge) for one in pair))
            facts.append(own)
        return list(dynamic), list(dynamic + whole.idle_watts * lengths), pairs, facts

    def _grouped(self, by_phase: np.ndarray) -> np.ndarray:
        return np.array([by_phase[list(group)].sum() for group in self._groups], float)

    def _too_short(self, samples: int, steps: float) -> str | None:
        if samples < LEAST_SAMPLES:
            return (
                f"{self.name} is too short: {samples} samples in its runs, {LEAST_SAMPLES} are needed; replay it, "
                "or take a shorter sample_s"
            )
        if abs(steps) < LEAST_STEPS:
            return (
                f"{self.name} is too small: {abs(steps):.1f} steps of the sensor above rest, {LEAST_STEPS} are needed; "
                "replay it, or take a larger shunt"
            )
        return None

    def _steps_watts(self, rail: int, gain: float, rest_watts: float, above_watts: float) -> float:
        """As in `Facts`. Phases without an order are taken as if rest was between them, as often as a run went back to
        it from each, once at least."""
        sums = [block.sums for block in self._blocks]
        cycles = sum(one.cycles[rail] for one in sums) / self.monitor.port.clock_hz
        joules = sum(self.monitor.joules(one)[rail] for one in sums) * gain
        if self.order:
            cycles, joules = self._grouped(cycles), self._grouped(joules)
        else:
            cycles, joules = cycles[1:], joules[1:]
        numbers = [number for number in range(len(cycles)) if cycles[number]]
        above = np.array([joules[number] / max(cycles[number], 1e-9) - rest_watts for number in numbers])
        if len(numbers) == 1:
            above = np.array([above_watts])
        elif self.order:
            return math.sqrt(TOGETHER) * math.hypot(*np.diff(above, prepend=0.0, append=0.0))
        pieces = np.ones(len(cycles)) if self.order else self._pieces()
        return math.sqrt(2) * math.hypot(*(above * np.sqrt(pieces[numbers])))

    def _pieces(self) -> np.ndarray:
        """Of each phase of work, how often a run goes back to rest from it, once at least: each has its own edges."""
        returns = sum(block.returns for block in self._blocks)[1:]
        return np.maximum(1.0, returns / sum(block.runs for block in self._blocks))

    def _volts(self, rail: int) -> float:
        charge = sum(float(block.sums.charge[rail].sum()) for block in self._blocks)
        energy = sum(float(block.sums.energy[rail].sum()) for block in self._blocks)
        return self.monitor.rails[rail].volts(energy / charge) if charge else 0.0

    def _deviation(self, rail: int, name: str) -> float:
        """Of single samples at rest, around the mean of their idle."""
        parts = [records[name][records["rail"] == rail] for records in self._codes]
        parts = [part - part.mean() for part in parts if len(part) > 1]
        count = sum(len(part) - 1 for part in parts)
        return math.sqrt(sum(float(part @ part) for part in parts) / count) if count else 1.0

    def _unsteady(self, rail: int) -> float:
        """As in `Facts`, in codes of the current: of phases in an order that of each for its share of the cycles."""
        return math.sqrt(sum(share * self._moved(rail, group) ** 2 for group, share in self._shares(rail)))

    def _shares(self, rail: int) -> list[tuple[Sequence[int], float]]:
        """The phases whose power moves together, and their shares of a run."""
        if not self.order:
            return [(range(1, 8), 1.0)]
        cycles = self._grouped(sum(block.sums.cycles[rail] for block in self._blocks))
        return list(zip(self._groups, cycles / max(cycles.sum(), 1), strict=True))

    def _moved(self, rail: int, phases: Sequence[int]) -> float:
        """`unsteady` of `Facts` for these phases, in codes of the current."""
        return moved(*self._movements(rail, phases))

    def _movements(self, rail: int, phases: Sequence[int]) -> tuple[Timing, float, list[np.ndarray], float, int]:
        """What `moved` takes."""
        timing, runs = self.monitor.timings[rail], self.inside(rail, phases)
        noise = self._deviation(rail, "current") ** 2
        return timing, self._gap_s(rail), runs, noise, known(timing, runs)

    def inside(self, rail: int, phases: Sequence[int] = range(1, 8)) -> list[np.ndarray]:
        """The currents that `inside` finds in this window, in codes."""
        timing = self.monitor.timings[rail]
        behind = 2 if timing.held_s is None else 1 + math.ceil(timing.sample_s / timing.period_s)
        parts = (records[records["rail"] == rail] for records in self._worked)
        return [run for part in parts for run in inside(part, phases, behind)]

    def _gap_s(self, rail: int) -> float:
        return uncertainty.gap(self.monitor.timings[rail], len(self.monitor.rails) == 1)

    def _scattered(self, pair: tuple[Budget, Budget], above: np.ndarray, sums: list["Sums"]) -> tuple[Budget, Budget]:
        """With what the blocks scatter as their noise, where that is far more than it should: another load beside."""
        runs = np.array([block.runs for block in self._blocks])
        if len(above) < 4 or not runs.all():  # parts of a run may differ as they like
            return pair
        each = above / runs
        mean = above.sum() / runs.sum()
        scatter = math.sqrt(float(runs @ (each - mean) ** 2) / (len(above) - 1) / runs.sum())
        if scatter <= SPREAD * pair[0].own:
            return pair
        return tuple(replace(one, activity=0.0, noise=scatter) for one in pair)
