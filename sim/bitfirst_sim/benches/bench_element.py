"""Bench of `bitfirst_hdl.element.Element`: each cycle of its shadow register against the integer model."""

import cocotb
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.element import Element, accumulate_model, dot_model, segment_bits, segment_count
from cocotb.triggers import RisingEdge

from . import arrays, common
from .arrays import Step


def spread(config: ArrayConfig, bits: list[int]) -> list[int]:
    """B over the fields of A, from the lane order alone."""
    whole = 0
    for number, bit in enumerate(bits):
        whole |= bit * (2**config.slice_bits - 1) << (config.slice_bits * config.lane_of_bit(number))
    size = segment_bits(config)
    return [(whole >> (size * index)) & (2**size - 1) for index in range(segment_count(config))]


class Script:
    """Inputs by cycle, and the model's sums by cycle."""

    def __init__(self, rng, config: ArrayConfig, idle: float) -> None:
        self.rng, self.config, self.idle = rng, config, idle
        self.latency = Element(config).latency
        self.inputs: dict[int, dict[str, int]] = {}
        self.totals: dict[int, int] = {}  # by the cycle of `load`
        self.now = 0
        self.total = 0

    def set(self, cycle: int, **inputs: int) -> None:
        self.inputs.setdefault(cycle, {}).update(inputs)

    def step(self, step: Step) -> None:
        """Operands now, their meaning when they reach the accumulator."""
        while self.rng.random() < self.idle:
            self.now += 1
        digits, bits = step.digits[0].tolist(), step.bits[0].tolist()
        words = arrays.row_words(step.digits, self.config.slice_bits, segment_bits(self.config))
        self.set(self.now, **{f"a__{index}": word for index, word in enumerate(words)})
        self.set(self.now, **{f"mask__{index}": word for index, word in enumerate(spread(self.config, bits))})
        arrival = self.now + self.latency
        meaning = {"first": step.first, "double": step.double, "negative": step.negative}
        flags = {"double": step.double, "negative": step.negative, "load": step.last}
        self.set(arrival, control__valid=1, **{f"control__{name}": int(flag) for name, flag in flags.items()})
        ahead = {"next_first": step.first, "next_negative": step.negative}
        self.set(arrival - 1, **{f"control__{name}": int(flag) for name, flag in ahead.items()})
        self.total = accumulate_model(self.total, dot_model(self.config, digits, bits), **meaning)
        if step.last:
            self.totals[arrival] = self.total
        self.now += 1


async def play(dut, script: Script) -> int:
    """Run the script with noise where it says nothing; check every cycle. Returns the number of sums seen."""
    config, rng = script.config, script.rng
    bits = config.accumulator_bits
    expected, seen = None, 0
    for cycle in range(script.now + script.latency + 3):
        noise = {
            f"{port}__{i}": rng.getrandbits(segment_bits(config))
            for port in ("a", "mask")
            for i in range(segment_count(config))
        }
        flags = {f"control__{name}": rng.getrandbits(1) for name in ("double", "negative", "next_negative")}
        given = {
            **noise,
            **flags,
            "control__valid": 0,
            "control__load": 0,
            "control__next_first": 0,
        }
        for name, value in (given | script.inputs.get(cycle, {})).items():
            getattr(dut, name).value = value
        await RisingEdge(dut.clk)
        got = common.value(dut.shadow)
        assert expected is None or got == expected, f"cycle {cycle}: shadow {got:#x}, expected {expected:#x}"
        seen += cycle - 1 in script.totals
        expected = script.totals[cycle] % 2**bits if cycle in script.totals else expected
    return seen


async def run(dut, passes: int, idle: float) -> None:
    rng = await common.start(dut)
    config = arrays.config()
    script = Script(rng, config, idle)
    for _ in range(passes):
        for step in arrays.random_pass(rng, config, 1, 1):
            script.step(step)
    assert await play(dut, script) == passes > 0


@cocotb.test()
async def every_cycle(dut) -> None:
    """A step in each cycle, passes back to back."""
    await run(dut, 60, 0.0)


@cocotb.test()
async def idle_cycles(dut) -> None:
    """Steps with random gaps, noise on all inputs in between."""
    await run(dut, 40, 0.5)
