"""Bench of `bitfirst_hdl.crossing.ClockCrossing`: two clocks, each side driven and reset as it likes.

Parameters: `periods` of source and sink in simulation steps, `depth`.
"""

import random
from types import SimpleNamespace

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer
from cocotb.utils import get_sim_time

from . import common
from .common import Checker, StreamDriver, StreamMonitor

WORDS = 1500
RESETS = 60
#: Cycles of either clock after which a reset is over and done with.
EMPTYING_CYCLES = 12


class Sides:
    """The component's two sides, each with its `clk`, for the drivers of `common`."""

    def __init__(self, dut, idle: float, stall: float) -> None:
        parameters = common.parameters()
        self.dut, self.depth, self.rng = dut, parameters["depth"], random.Random(cocotb.RANDOM_SEED)
        self.periods = dict(zip(("source", "sink"), parameters["periods"], strict=True))
        self.checker = Checker("words", lambda word: [word])
        ports = {f"source__{part}": getattr(dut, f"source__{part}") for part in common.STREAM}
        self.driver = StreamDriver(SimpleNamespace(clk=dut.source_clk, **ports), "source", self.rng, idle)
        ports = {f"sink__{part}": getattr(dut, f"sink__{part}") for part in common.STREAM}
        self.monitor = StreamMonitor(SimpleNamespace(clk=dut.sink_clk, **ports), "sink", self.rng, stall, self.checker)

    def send(self, *words: int) -> None:
        for word in words:
            self.checker.sent(word)
        self.driver.send(*words)

    async def settle(self, cycles: int = EMPTYING_CYCLES) -> None:
        """So many cycles of both clocks."""
        await Timer(cycles * max(self.periods.values()), "step")

    async def reset(self, side: str, cycles: int) -> None:
        """Reset one side for so many cycles of its own clock, in step with it."""
        clk, rst = getattr(self.dut, f"{side}_clk"), getattr(self.dut, f"{side}_rst")
        await RisingEdge(clk)
        rst.value = 1
        for _ in range(cycles):
            await RisingEdge(clk)
        rst.value = 0

    async def take(self, received: list[int]) -> None:
        """Take words in the rhythm of the monitor."""
        ready = False
        while True:
            await RisingEdge(self.dut.sink_clk)
            if ready and common.value(self.dut.sink__valid):
                received.append(common.value(self.dut.sink__payload))
            ready = self.rng.random() >= self.monitor.stall
            self.dut.sink__ready.value = int(ready)

    async def finish(self, count: int) -> None:
        """Wait for the last of the words expected; `count` bounds the cycles."""
        for _ in range(40 * count):
            if not self.checker.expected:
                break
            await Timer(max(self.periods.values()), "step")
        self.checker.finish()


async def start(dut, idle: float = 0.0, stall: float = 0.0) -> Sides:
    dut.source_rst.value, dut.sink_rst.value = 1, 1
    dut.source__valid.value = 0
    sides = Sides(dut, idle, stall)
    for side, period in sides.periods.items():
        Clock(getattr(dut, f"{side}_clk"), period, unit="step").start(start_high=False)
    await sides.settle(2)
    dut.source_rst.value, dut.sink_rst.value = 0, 0
    await sides.settle()
    return sides


@cocotb.test()
async def any_rhythm(dut) -> None:
    """Words come out as they went in, however often either side waits."""
    sides = await start(dut)
    for idle, stall in (0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, 0.5), (0.9, 0.1), (0.1, 0.9):
        sides.driver.idle, sides.monitor.stall = idle, stall
        sides.send(*(sides.rng.getrandbits(16) for _ in range(WORDS // 6)))
        await sides.finish(WORDS // 6)
    assert sides.checker.count == WORDS // 6 * 6


@cocotb.test()
async def full_speed(dut) -> None:
    """A word in each cycle of the slower clock."""
    sides = await start(dut)
    sides.send(*range(WORDS))
    begun = get_sim_time("step")
    await sides.finish(WORDS)
    cycles = (get_sim_time("step") - begun) / max(sides.periods.values())
    assert WORDS <= cycles <= WORDS + 12, f"{cycles} cycles"


@cocotb.test()
async def latency(dut) -> None:
    """A word stands at the sink two edges of its clock behind the edge that took it in at the source."""
    sides = await start(dut)
    for _ in range(50):
        await sides.settle(8 + sides.rng.randrange(8))
        count = sides.checker.count
        sides.send(sides.rng.getrandbits(16))
        while not common.value(dut.source__valid):
            await RisingEdge(dut.source_clk)
        taken = get_sim_time("step")
        while sides.checker.count == count:
            await RisingEdge(dut.sink_clk)
        passed = get_sim_time("step") - taken
        assert 2 < passed / sides.periods["sink"] <= 3, f"{passed} steps"


@cocotb.test()
async def full(dut) -> None:
    """It takes `depth` words while the sink takes none, and no more."""
    sides = await start(dut, stall=1.0)
    sides.send(*range(sides.depth + 5))
    await sides.settle(3 * sides.depth)
    assert len(sides.driver.queue) == 5 and sides.checker.count == 0
    sides.monitor.stall = 0.0
    await sides.finish(sides.depth)


@cocotb.test()
async def resets(dut) -> None:
    """Resets of either side at any time, a cycle long or many: words stay in their order, none comes twice.

    Words are numbered. Some are lost; those given once a reset is done with are not.
    """
    sides = await start(dut)
    sides.monitor.stop()  # a reset may withdraw a word
    received: list[int] = []
    kept: list[int] = []
    cocotb.start_soon(sides.take(received))
    for _ in range(RESETS):
        sides.driver.idle, sides.monitor.stall = sides.rng.choice((0.0, 0.5)), sides.rng.choice((0.0, 0.7))
        first = kept[-1] + 1 if kept else 0
        sides.driver.send(*range(first, first + 20))
        await Timer(sides.rng.randrange(1, 20 * max(sides.periods.values())), "step")
        reset = sides.rng.choice((("source",), ("sink",), ("source", "sink")))
        tasks = [cocotb.start_soon(sides.reset(side, sides.rng.choice((1, 1, 2, 3, 15)))) for side in reset]
        for task in tasks:
            await task
        while not sides.driver.done:
            await Timer(max(sides.periods.values()), "step")
        await sides.settle()
        kept += range(first + 20, first + 40)
        sides.driver.send(*kept[-20:])
        while not sides.driver.done or not received or received[-1] != kept[-1]:
            await Timer(max(sides.periods.values()), "step")
            assert get_sim_time("step") < 1e8, "words are missing"
    assert received == sorted(set(received)), "words twice or out of turn"
    assert set(kept) <= set(received)
    lost = kept[-1] + 1 - len(received)
    assert 0 < lost < RESETS * 20
