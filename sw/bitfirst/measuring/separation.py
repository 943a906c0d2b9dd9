"""Joules of phases that follow one another: what a sample counts in a phase is of a little before.

A sample is valid for a time, in which the shunt was seen in part, and earlier. So between a moment that is counted and
the one that was seen is a delay, of which the density is known. A phase k is counted as the sum over j of D_j B_kj: D_j
are the watts of phase j above rest, and B_kj is the time that k has in common with j made later, in the mean of delays.
"""

from collections.abc import Sequence

import numpy as np

from .sensors import Timing
from .uncertainty import TOGETHER

GRID = 24  #: points a variable, that means are taken over
DRAWS = 20_000  #: of edges
SMOOTHING = 0.25  #: of a regulator: the share of a new sample in its number
SETTLED, SMOOTHED_DRAWS = 40, 2_000  #: samples that are smoothed until an edge is over; draws of such edges


def _spread(low: float, high: float) -> np.ndarray:
    return low + (high - low) * (np.arange(GRID) + 0.5) / GRID


def delays(timing: Timing, sample_s: float, seen_s: tuple[float, float]) -> np.ndarray:
    """Seconds by which what is counted is later than what was seen, all as likely.

    sample_s  from one sample to the next, as it is
    seen_s    how much later a sample is seen ready, at least and at most
    """
    if timing.held_s is not None:
        kept = np.floor(np.log(_spread(0, 1)) / np.log(1 - SMOOTHING))  # samples by which one in the number is older
        older = (kept[:, None] + _spread(0, 1)).ravel() * timing.held_s
        counted = (_spread(-sample_s, 0)[:, None] + _spread(*seen_s)).ravel()
        return (counted[:, None] + older).ravel()
    scale = sample_s / timing.sample_s
    turn_s, shunt_s = sample_s / timing.turns, timing.shunt_s * scale
    turns = np.unique(np.linspace(0, timing.turns - 1, GRID).round())
    seen = (timing.first_s * scale + turns[:, None] * turn_s + _spread(0, shunt_s)).ravel()
    counted = (_spread(0, sample_s)[:, None] + _spread(*seen_s)).ravel()
    return (counted[:, None] - seen).ravel()


def shares(lengths_s: Sequence[float], delays_s: np.ndarray) -> np.ndarray:
    """B, [k, j] in seconds, of phases that follow one another, with rest around."""
    ends = np.cumsum(lengths_s)
    begins = ends - lengths_s
    late_begins, late_ends = begins[:, None] + delays_s, ends[:, None] + delays_s
    common = np.minimum(ends[:, None, None], late_ends) - np.maximum(begins[:, None, None], late_begins)
    return np.maximum(common, 0).mean(axis=-1)


def edge_covariance(timing: Timing, sample_s: float, seen_s: tuple[float, float]) -> np.ndarray:
    """[2, 2] in s^2: of what a watt more from an edge on is counted as too much, before the edge and behind it."""
    if timing.held_s is not None:
        return _smoothed_covariance(timing.held_s, sample_s, seen_s)
    scale = sample_s / timing.sample_s
    turn_s, shunt_s = sample_s / timing.turns, timing.shunt_s * scale
    rng = np.random.default_rng(0)
    earlier, late, later = rng.uniform(
        *seen_s, (3, DRAWS)
    )  # at which the sample before, this one, and the next are seen
    length = sample_s + late - earlier
    place = rng.random(DRAWS) * length
    at = earlier + place  # of the edge, since the conversions of its sample began
    begins = timing.first_s * scale + np.arange(timing.turns) * turn_s

    def share(edge: np.ndarray) -> np.ndarray:
        """Of a sample's conversions of the shunt, what is behind the edge."""
        return np.clip((begins + shunt_s - edge[:, None]) / shunt_s, 0, 1).mean(axis=1)

    own, following = share(at), share(at - sample_s)
    before = own * place
    rest, after = length - place, sample_s + later - late
    behind = own * rest + following * after - (rest + after)
    return np.cov(before, behind, bias=True)


def _smoothed_covariance(held_s: float, round_s: float, seen_s: tuple[float, float]) -> np.ndarray:
    """Likewise of a regulator: samples each `held_s`, smoothed, of which the number is taken each `round_s`."""
    rng = np.random.default_rng(0)
    count = int(SETTLED * held_s / round_s) + 2
    taken = (rng.random((SMOOTHED_DRAWS, 1)) + np.arange(count)) * round_s  # since the edge
    samples = np.floor((taken - held_s * rng.random((SMOOTHED_DRAWS, 1))) / held_s) + 1  # behind the edge
    numbers = 1 - (1 - SMOOTHING) ** np.maximum(samples, 0)
    stamps = np.concatenate([taken[:, :1] - round_s, taken], axis=1) + rng.uniform(*seen_s, (SMOOTHED_DRAWS, count + 1))
    before = np.diff(np.minimum(stamps, 0), axis=1)
    behind = np.diff(np.maximum(stamps, 0), axis=1)
    return np.cov((numbers * before).sum(axis=1), ((numbers - 1) * behind).sum(axis=1), bias=True)


def separate(
    counted_j: np.ndarray, lengths_s: Sequence[float], timing: Timing, sample_s: float, seen_s: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Joules above rest of each phase in one run, of those that were counted; and what edges make uncertain in one run.

    The second is the covariance in J^2, [phase, phase].
    """
    lengths = np.asarray(lengths_s, float)
    inverse = np.linalg.inv(shares(lengths, delays(timing, sample_s, seen_s)))
    watts = inverse @ counted_j
    steps = np.diff(watts, prepend=0.0, append=0.0)
    edges, counted = edge_covariance(timing, sample_s, seen_s), np.zeros((len(lengths) + 2,) * 2)
    for number, step in enumerate(steps):
        counted[number : number + 2, number : number + 2] += step**2 * edges
    to_joules = lengths[:, None] * inverse
    return watts * lengths, TOGETHER * to_joules @ counted[1:-1, 1:-1] @ to_joules.T
