"""Streams cross from clock to clock: order, speed and resets, in simulation."""

import pytest
from bitfirst_hdl import crossing
from bitfirst_hdl.crossing import ClockCrossing
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered

BENCH = "bitfirst_sim.benches.bench_crossing"
#: Source and sink in MHz, and the lengths of their cycles in simulation steps.
CLOCKS = {
    "25 to 60": (24, 10),
    "60 to 25": (10, 24),
    "125 to 40": (16, 50),
    "40 to 125": (50, 16),
    "nearly equal": (100, 102),
    "equal": (10, 10),
}


@pytest.mark.parametrize("periods", CLOCKS.values(), ids=CLOCKS)
def test_crossing(periods: tuple[int, int]) -> None:
    parameters = {"periods": periods, "depth": crossing.DEPTH}
    result = run_bench(ClockCrossing(16, "source", "sink"), "crossing", BENCH, parameters=parameters)
    assert len(result.tests) == 5


def test_queue_alone_fails() -> None:
    """The library's queue, reset with its source alone: a short reset leaves words behind that nobody gave."""
    alone = altered(
        crossing,
        ('ResetSignal("queue_source").eq(emptied)', 'ResetSignal("queue_source").eq(ResetSignal(self.source_domain))'),
        ("        self._empty(m, emptied, blocked)\n", ""),
    )
    parameters = {"periods": CLOCKS["60 to 25"], "depth": crossing.DEPTH}
    with pytest.raises(BenchError, match=r"cocotb tests failed: resets\n"):
        run_bench(alone.ClockCrossing(16, "source", "sink"), "crossing", BENCH, parameters=parameters)


@pytest.mark.parametrize("depth", [0, 2, 12])
def test_bad_depth(depth: int) -> None:
    with pytest.raises(ValueError, match=f"depth = {depth} must be a power of two, 4 at least"):
        crossing.check_depth(depth)
