"""Chips on an I2C bus that nobody here wrote: cocotbext-i2c's; and what the wires must keep to."""

import logging
import random
from typing import Any

import cocotb
from cocotb.triggers import ClockCycles, FallingEdge
from cocotbext.i2c import I2cMemory

from . import common


class Chip(I2cMemory):
    """256 bytes behind a pointer. It holds SCL before each byte that it gives, and behind each one that it takes, for
    up to `stretch` cycles.
    """

    def __init__(self, dut: Any, number: int, address: int, rng: random.Random, stretch: int = 0) -> None:
        self.clk, self.rng, self.stretch = dut.clk, rng, stretch
        self.starts = self.stops = 0
        wires = {"sda": dut.bus_sda, "scl": dut.bus_scl}
        pulls = {f"{wire}_o": getattr(dut, f"chip{number}_{wire}") for wire in wires}
        super().__init__(**wires, **pulls, addr=address, size=256)
        self.log.setLevel(logging.WARNING)

    async def _wait(self) -> None:
        cycles = self.rng.randint(0, self.stretch)
        if cycles:
            await ClockCycles(self.clk, cycles)

    async def handle_write(self, data: int) -> None:
        await self._wait()
        await super().handle_write(data)

    async def handle_read(self) -> int:
        await self._wait()
        return await super().handle_read()

    async def _send_byte_ack(self, b: int) -> bool:
        """Until SCL is low again: cocotbext-i2c 0.1.2 would hold it in the midst of the acknowledge's pulse."""
        acknowledged = await super()._send_byte_ack(b)
        await FallingEdge(self.scl)
        return acknowledged

    def handle_start(self) -> None:
        self.starts += 1
        super().handle_start()

    def handle_stop(self) -> None:
        self.stops += 1


class Wires:
    """Watches the wires: least times, in cycles; `starts` and `stops` seen.

    SCL is low for `low` cycles at least, and high for `high`; SDA changes `hold` cycles behind an edge of SCL and
    `setup` ones before the next, at least: while SCL is high, that is a START or a STOP.
    """

    def __init__(self, dut: Any, low: int, high: int, hold: int, setup: int) -> None:
        self.dut, self.least = dut, {0: low, 1: high}
        self.hold, self.setup = hold, setup
        self.starts = self.stops = self.edges = 0
        self.scl_at = self.sda_at = common.cycle() - 10**6
        self.tasks = cocotb.start_soon(self._scl()), cocotb.start_soon(self._sda())

    def stop(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def _scl(self) -> None:
        while True:
            await self.dut.bus_scl.value_change
            now, level = common.cycle(), common.value(self.dut.bus_scl)
            assert now - self.scl_at >= self.least[1 - level], f"SCL was {1 - level} for {now - self.scl_at} cycles"
            assert now - self.sda_at >= self.setup, f"SDA changed {now - self.sda_at} cycles before SCL"
            self.scl_at, self.edges = now, self.edges + 1

    async def _sda(self) -> None:
        while True:
            await self.dut.bus_sda.value_change
            now, level = common.cycle(), common.value(self.dut.bus_sda)
            if common.value(self.dut.bus_scl):
                assert now - self.scl_at >= self.hold, f"SDA changed {now - self.scl_at} cycles behind SCL"
                self.stops += level
                self.starts += 1 - level
            self.sda_at = now
