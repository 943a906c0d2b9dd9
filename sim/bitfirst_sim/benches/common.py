"""What the benches share: clock, stream drivers and monitors, packing, the in-order checker.

All signals are sampled just before a rising edge of `clk` and driven just after it.
"""

import json
import os
import random
from collections import deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cocotb
from amaranth.lib import data
from bitfirst_hdl.contract import codec
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge
from cocotb.utils import get_sim_time

from ..bench import PARAMETERS_VARIABLE

PERIOD_STEPS = 2
STREAM = ("valid", "ready", "payload")


def parameters() -> dict[str, Any]:
    """What `run_bench` was given as `parameters`."""
    return json.loads(Path(os.environ[PARAMETERS_VARIABLE]).read_text())


def pack(struct: type[data.Struct], **values: int) -> int:
    """The struct as one number; absent fields are 0, negative values two's complement."""
    packed = 0
    for name, value in values.items():
        offset, width = codec.fields(struct)[name]
        if not -(1 << (width - 1)) <= value < 1 << width:
            raise ValueError(f"{struct.__name__}.{name} has {width} bits, not enough for {value}")
        packed |= (value & ((1 << width) - 1)) << offset
    return packed


def unpack(struct: type[data.Struct], packed: int) -> dict[str, int]:
    """The fields of one number, all unsigned."""
    return {name: (packed >> offset) & ((1 << width) - 1) for name, (offset, width) in codec.fields(struct).items()}


def to_signed(value: int, bits: int) -> int:
    """Two's complement."""
    return value - (1 << bits) if value >> (bits - 1) else value


def value(signal: Any) -> int:
    """A port's value as an unsigned number."""
    return int(signal.get())


def cycle() -> int:
    """Number of the present clock cycle."""
    return int(get_sim_time("step")) // PERIOD_STEPS


async def cycles(dut: Any, count: int) -> None:
    """Wait for `count` rising edges."""
    if count > 0:
        await ClockCycles(dut.clk, count)


async def start(dut: Any, **inputs: int) -> random.Random:
    """Clock and reset the component, with its inputs at `inputs` (else 0). Returns the test's random source."""
    Clock(dut.clk, PERIOD_STEPS, unit="step").start(start_high=False)
    for name, number in inputs.items():
        getattr(dut, name).value = number
    dut.rst.value = 1
    await cycles(dut, 2)
    dut.rst.value = 0
    await cycles(dut, 1)
    return random.Random(cocotb.RANDOM_SEED)


class StreamDriver:
    """Drives the stream input `name` of the component: `send` queues payloads, as numbers.

    Before each payload it idles while `rng.random() < idle`. `accepted` holds the cycle in which each was taken.
    """

    def __init__(self, dut: Any, name: str, rng: random.Random, idle: float = 0.0) -> None:
        self.clk, self.rng, self.idle = dut.clk, rng, idle
        self.valid, self.ready, self.payload = (getattr(dut, f"{name}__{part}") for part in STREAM)
        self.queue: deque[int] = deque()
        self.accepted: list[int] = []
        self.valid.value = 0
        self.task = cocotb.start_soon(self._run())

    def stop(self) -> None:
        """Leave the stream alone from now on, with `valid` low."""
        self.task.cancel()
        self.valid.value = 0

    def send(self, *payloads: int) -> None:
        self.queue.extend(payloads)

    @property
    def done(self) -> bool:
        """Everything queued has been taken."""
        return not self.queue

    async def _run(self) -> None:
        offered = False
        while True:
            await RisingEdge(self.clk)
            if offered and value(self.ready):
                self.queue.popleft()
                self.accepted.append(cycle())
                offered = False
            if not offered:
                offered = bool(self.queue) and self.rng.random() >= self.idle
                self.valid.value = int(offered)
                if offered:
                    self.payload.value = self.queue[0]


class Checker:
    """Compares what comes out with what a transaction model says, in order.

    `model(item)` gives the items that one input causes. Without one, call `expect`.
    """

    def __init__(self, name: str, model: Callable[[Any], Iterable[Any]] | None = None) -> None:
        self.name, self.model = name, model
        self.expected: deque[Any] = deque()
        self.count = 0

    def sent(self, item: Any) -> None:
        """An input went in."""
        assert self.model is not None, f"{self.name}: no model"
        self.expected.extend(self.model(item))

    def expect(self, *items: Any) -> None:
        self.expected.extend(items)

    def got(self, item: Any) -> None:
        """An output came out. Raises AssertionError when it is not the next one expected."""
        assert self.expected, f"{self.name}: item {self.count} was not expected: {item!r}"
        wanted = self.expected.popleft()
        assert item == wanted, f"{self.name}: item {self.count} is {item!r}, expected {wanted!r}"
        self.count += 1

    def finish(self) -> None:
        """Raises AssertionError when nothing came out, or items are missing."""
        assert not self.expected, f"{self.name}: {len(self.expected)} items missing after {self.count}"
        assert self.count > 0, f"{self.name}: nothing came out"


class StreamMonitor:
    """Takes the stream output `name`, with `ready` low while `rng.random() < stall`.

    Each payload, through `decode`, goes to `checker.got`; `taken` holds (cycle, payload). A payload that is withdrawn
    or changed before it is taken fails the test.
    """

    def __init__(
        self,
        dut: Any,
        name: str,
        rng: random.Random,
        stall: float = 0.0,
        checker: Checker | None = None,
        decode: Callable[[int], Any] = int,
    ) -> None:
        self.name, self.clk, self.rng, self.stall = name, dut.clk, rng, stall
        self.valid, self.ready, self.payload = (getattr(dut, f"{name}__{part}") for part in STREAM)
        self.checker, self.decode = checker, decode
        self.taken: list[tuple[int, Any]] = []
        self.ready.value = 0
        self.task = cocotb.start_soon(self._run())

    def stop(self) -> None:
        """Take nothing from now on, with `ready` low."""
        self.task.cancel()
        self.ready.value = 0

    async def _run(self) -> None:
        ready, held = False, None
        while True:
            await RisingEdge(self.clk)
            payload = value(self.payload) if value(self.valid) else None
            assert held is None or payload == held, f"{self.name}: payload changed before it was taken"
            held = payload
            if ready and payload is not None:
                held = None
                self._take(self.decode(payload))
            ready = self.rng.random() >= self.stall
            self.ready.value = int(ready)

    def _take(self, item: Any) -> None:
        self.taken.append((cycle(), item))
        if self.checker is not None:
            self.checker.got(item)


async def until(dut: Any, condition: Callable[[], bool], limit_cycles: int) -> None:
    """Wait until `condition()` holds just before a rising edge. Raises AssertionError after `limit_cycles`."""
    for _ in range(limit_cycles):
        await RisingEdge(dut.clk)
        if condition():
            return
    raise AssertionError(f"condition does not hold after {limit_cycles} cycles")
