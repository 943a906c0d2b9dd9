"""Bench of `bitfirst_hdl.array.Array`: rows drained, column sums and counts of ones, each in its cycle."""

from collections import defaultdict

import cocotb
import numpy as np
from bitfirst_hdl.array import Array, StepControl
from bitfirst_hdl.config import ArrayConfig
from cocotb.triggers import RisingEdge

from . import arrays, common
from .arrays import Step


class Model:
    """What the array gives for the steps fed, by cycle."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.array = Array(config)
        self.total = np.zeros((config.rows, config.columns), dtype=object)
        self.column_sum = np.zeros(config.columns, dtype=object)
        self.rows: dict[int, tuple[list[int], list[int]]] = {}  # sums and column sums
        self.ones: dict[int, int] = defaultdict(int)

    def step(self, now: int, step: Step) -> None:
        sign = -1 if step.negative else 1
        scale = 0 if step.first else 2 if step.double else 1
        self.total = scale * self.total + sign * arrays.dot(self.config, step.digits, step.bits)
        self.column_sum = scale * self.column_sum + sign * step.bits.sum(axis=1)
        self.ones[now + self.array.ones_latency] = int(step.bits.sum())
        if step.last:
            for row in range(self.config.rows):
                cycle = now + self.array.latency + row
                assert cycle not in self.rows, "the bench ends passes too close together"
                self.rows[cycle] = (self.total[row].tolist(), self.column_sum.tolist())


class Driver:
    """Feeds steps, noise in between, and checks each cycle."""

    def __init__(self, dut, rng, config: ArrayConfig) -> None:
        self.dut, self.rng, self.config = dut, rng, config
        self.model = Model(config)
        self.now = 0
        self.taken: Step | None = None  # its words of A are in front
        self.moved: Step | None = None  # and held
        self.rows_seen = self.ones_seen = 0
        self.last_end = -config.drain_cycles

    async def cycle(self, step: Step | None) -> None:
        """The next step, or none: its words of A are taken now, moved in the next cycle, then multiplied."""
        config, dut = self.config, self.dut
        self.words_of_a(step)
        for row in range(config.rows):
            getattr(dut, f"take__{row}").value = (step is not None) * (2**config.columns - 1)
        dut.move.value = int(self.taken is not None)
        self.step(self.moved)
        self.taken, self.moved = step, self.taken
        await RisingEdge(dut.clk)
        self.check()
        self.now += 1

    def words_of_a(self, step: Step | None) -> None:
        config = self.config
        noise = [self.rng.getrandbits(64) for _ in range(config.a_row_words)]
        words = noise if step is None else arrays.row_words(step.digits, config.slice_bits)
        for index, word in enumerate(words):
            getattr(self.dut, f"a__{index}").value = word

    def step(self, step: Step | None) -> None:
        """B and control of a step, or noise."""
        config, dut = self.config, self.dut
        if step is None:
            b = [self.rng.getrandbits(64) for _ in range(config.b_row_words)]
            control = {name: self.rng.getrandbits(1) for name in ("first", "double", "negative", "last")}
        else:
            b = arrays.row_words(step.bits, 1)
            control = {name: int(getattr(step, name)) for name in ("first", "double", "negative", "last")}
            self.model.step(self.now, step)
        for index, word in enumerate(b):
            getattr(dut, f"b__{index}").value = word
        dut.control.value = common.pack(StepControl, valid=int(step is not None), **control)

    def check(self) -> None:
        config, dut = self.config, self.dut
        ones = common.value(dut.ones)
        assert ones == self.model.ones[self.now], f"cycle {self.now}: {ones} ones, not {self.model.ones[self.now]}"
        self.ones_seen += ones
        valid = common.value(dut.drain_valid)
        assert valid == (self.now in self.model.rows), f"cycle {self.now}: drain_valid {valid}"
        if valid:
            self.rows_seen += 1
            got = (self.outputs("sums", config.accumulator_bits), self.outputs("column_sums", config.column_sum_bits))
            assert got == self.model.rows[self.now], f"cycle {self.now}: {got}, expected {self.model.rows[self.now]}"

    def outputs(self, name: str, bits: int) -> list[int]:
        ports = [getattr(self.dut, f"{name}__{column}") for column in range(self.config.columns)]
        return [common.to_signed(common.value(port), bits) for port in ports]

    async def feed(self, step: Step, idle: float) -> None:
        """The step, after random idle cycles, and after as many as the shadow registers need."""
        while self.rng.random() < idle or (step.last and self.now < self.last_end + self.config.drain_cycles):
            await self.cycle(None)
        if step.last:
            self.last_end = self.now
        await self.cycle(step)


async def run(dut, passes: int, idle: float) -> None:
    rng = await common.start(dut)
    config = arrays.config()
    driver = Driver(dut, rng, config)
    for _ in range(passes):
        for step in arrays.random_pass(rng, config, config.rows, config.columns):
            await driver.feed(step, idle)
    for _ in range(2 + driver.model.array.latency + config.rows + driver.model.array.ones_latency):
        await driver.cycle(None)
    assert driver.rows_seen == passes * config.rows > 0
    assert driver.ones_seen > 0


@cocotb.test()
async def every_cycle(dut) -> None:
    """A step in each cycle, passes as close as they may be."""
    await run(dut, 40, 0.0)


@cocotb.test()
async def idle_cycles(dut) -> None:
    """Steps with random gaps, noise on all inputs in between."""
    await run(dut, 20, 0.4)
