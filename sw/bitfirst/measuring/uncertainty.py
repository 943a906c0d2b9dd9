"""What the joules of a window may be off by; docs/measuring.md derives it. Standard uncertainties, k = 1."""

import math
from dataclasses import dataclass

from .calibration import Calibration
from .sensors import Rail, Timing

K = 2
RECTANGLE = math.sqrt(3)  #: a limit over the standard deviation of what is anywhere within it
TOGETHER = 2  #: the edges of a run keep their distance, so their errors go together: twice the variance at most
_HARMONICS = 100


def quantisation(deviation: float) -> float:
    """Steps, of the mean of many numbers that were rounded and vary by `deviation` steps, rms.

    Noise below a step does not average the rounding away: each harmonic of its sawtooth stays, less what the noise
    takes of it. `deviation` is of the rounded numbers, of which a half may be the rounding itself.
    """
    variance = max(0.0, deviation**2 - 0.25)
    return math.sqrt(
        sum(math.exp(-4 * (math.pi * k) ** 2 * variance) / (2 * (math.pi * k) ** 2) for k in range(1, _HARMONICS))
    )


def gap(timing: Timing, alone: bool = True) -> float:
    """Seconds of a turn in which the shunt is not looked at. A rail that is not `alone` may miss whole samples; of
    regulators each round has a number of each."""
    return timing.gap_s if alone or timing.held_s is not None else timing.sample_s


def edge(gap_s: float, poll_s: float) -> float:
    """Seconds by which an edge between two powers counts at another time than it is, rms: the gap is not seen, and a
    sample is seen ready up to `poll_s` late."""
    return math.sqrt((TOGETHER * gap_s**2 + poll_s**2) / 12)


def unsteady(timing: Timing, gap_s: float, first: float, second: float, noise: float) -> float:
    """What is unknown of power that moves in the gaps: joules for each root of a second, rms.

    first, second  mean squares of the first and second differences of samples that follow one another, in watts
    noise          mean square of what they vary by at rest

    The power is taken as white noise and a random walk. Of a walk that adds w to its variance in the time of a sample,
    of which the share s lies between its first look and the end of its last one, samples have first differences of
    (1 - s / 3) w and second ones of (2 - s) w; of noise v they have 2 v and 6 v.
    """
    share = max(0.0, 1 - timing.gap_s / timing.sample_s)
    once, twice = 1 - share / 3, 2 - share
    white = max(0.0, (second * once - first * twice) / (6 * once - 2 * twice))
    walk = max(0.0, (first - 2 * white) / once)
    seen = max(0.0, white - noise) * timing.turns
    return math.sqrt(gap_s * seen + gap_s**2 * walk / (3 * timing.sample_s))


def unsteady_of_instants(timing: Timing, variance: float, noise: float) -> float:
    """The same of a regulator, which takes an instant each `held_s` and says their mean, exponentially by `turns`: what
    it says has a (2 turns - 1)th of their variance. All is taken for noise."""
    return math.sqrt(timing.held_s * (2 * timing.turns - 1) * max(0.0, variance - noise))


@dataclass(frozen=True)
class Facts:
    """Of a rail's windows, all replays together, as they were measured.

    watts, idle_watts   while it runs, and at rest; `volts` of both
    run_s, replays      of one run; how many
    window_s, idle_s    all windows, with the rest between the runs; all idles
    sample_s            from one sample to the next
    current_codes, voltage_codes   deviations of single samples at rest, in steps
    edge_s              as of `edge`
    steps_watts         root of the sum of squares of a run's steps in power
    unsteady            of the power inside a run, as of `unsteady`
    """

    watts: float
    idle_watts: float
    volts: float
    run_s: float
    replays: int
    window_s: float
    idle_s: float
    sample_s: float
    current_codes: float
    voltage_codes: float
    edge_s: float
    steps_watts: float
    unsteady: float = 0.0


@dataclass(frozen=True)
class Budget:
    """Joules of one run, by their cause."""

    gain: float
    offset: float
    edge: float
    activity: float
    quantisation: float
    noise: float

    @property
    def joules(self) -> float:
        return math.hypot(self.gain, self.offset, self.own)

    @property
    def own(self) -> float:
        """Of it what is this run's own: gain and offset are the same in others."""
        return math.hypot(self.random, self.quantisation)

    @property
    def random(self) -> float:
        """Of it what replays make less."""
        return math.hypot(self.edge, self.activity, self.noise)

    @property
    def systematic(self) -> float:
        """Of it what no replay makes less."""
        return math.hypot(self.gain, self.offset, self.quantisation)


def relative_gain(rail: Rail, volts: float, calibration: Calibration | None) -> float:
    if calibration is not None:
        return calibration.gain_error
    chip = rail.chip
    shunt_error = 0.0 if rail.regulates else rail.shunt_error
    limits = shunt_error, chip.gain_error, chip.bus_gain_error, chip.bus_offset_volts / max(volts, 1e-3)
    return math.hypot(*limits) / RECTANGLE


def offset_watts(rail: Rail, timing: Timing, volts: float, calibration: Calibration | None) -> float:
    if calibration is not None:
        return calibration.offset_error_watts
    cut = rail.amps_per_code / 2 if timing.turns > 1 else 0.0  # means are cut towards zero
    return (rail.chip.offset_volts / rail.ohm * volts + cut * rail.factor(volts)) / RECTANGLE


def budgets(rail: Rail, timing: Timing, facts: Facts, calibration: Calibration | None = None) -> tuple[Budget, Budget]:
    """Of the energy above rest, and of the whole."""
    dynamic = facts.watts - facts.idle_watts
    gain = relative_gain(rail, facts.volts, calibration)
    offset = offset_watts(rail, timing, facts.volts, calibration) * facts.run_s
    edges = facts.edge_s * facts.steps_watts / math.sqrt(facts.replays)
    activity = facts.unsteady * math.sqrt(facts.run_s / facts.replays)
    code, voltage_step = _steps_watts(rail, facts.volts)
    linearity = _linearity_watts(rail, facts.volts)
    voltage = voltage_step * quantisation(facts.voltage_codes)
    at_run, at_rest = (
        math.hypot(
            code * _rounding(rail, watts / rail.factor(facts.volts), facts.current_codes), linearity, voltage * watts
        )
        for watts in (facts.watts, facts.idle_watts)
    )
    noise = _noise_j(rail, facts)
    above = Budget(
        gain * abs(dynamic) * facts.run_s, 0.0, edges, activity, math.hypot(at_run, at_rest) * facts.run_s, noise
    )
    whole = Budget(gain * facts.watts * facts.run_s, offset, edges, activity, at_run * facts.run_s, noise)
    return above, whole


def power_watts(rail: Rail, watts: float, volts: float, codes: tuple[float, float], samples: int) -> float:
    """What the mean power of so many samples may be off by, of quantisation and noise; `codes` as in `Facts`."""
    steps = _steps_watts(rail, volts)
    factors = 1.0, watts
    amps = watts / rail.factor(max(volts, 1e-3))
    rounding = steps[0] * _rounding(rail, amps, codes[0]), steps[1] * watts * quantisation(codes[1])
    noise = (step * factor * code for step, factor, code in zip(steps, factors, codes, strict=True))
    return math.hypot(*rounding, _linearity_watts(rail, volts), math.hypot(*noise) / math.sqrt(max(samples, 1)))


def _linearity_watts(rail: Rail, volts: float) -> float:
    """What offset and gain leave, anew at each current."""
    return rail.chip.linearity_volts / rail.ohm * volts / RECTANGLE


def _rounding(rail: Rail, amps: float, codes: float) -> float:
    """Codes of a current that rounding leaves unknown, of numbers that vary by so many."""
    step = rail.codes_per_step(amps)
    return step * quantisation(codes / step)


def _steps_watts(rail: Rail, volts: float) -> tuple[float, float]:
    """Watts of a code of the current; of a step of the volts, a watt."""
    if rail.says_watts:
        return rail.amps_per_code, 0.0
    flags = 8 if rail.chip.bus_flags else 1  # bits of flags below the number
    return rail.amps_per_code * volts, flags * rail.volts_per_code / max(volts, 1e-3)


def _noise_j(rail: Rail, facts: Facts) -> float:
    """Noise of the samples in the windows, and in the idles that are taken off them."""
    current, voltage = _steps_watts(rail, facts.volts)
    codes = facts.current_codes, facts.voltage_codes / (8 if rail.chip.bus_flags else 1)
    watts = math.hypot(current * codes[0], voltage * facts.watts * codes[1])
    own, idle = facts.window_s * facts.sample_s, facts.window_s**2 * facts.sample_s / facts.idle_s
    return watts * math.sqrt(own + idle) / facts.replays
