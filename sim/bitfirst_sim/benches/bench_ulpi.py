"""Bench of `bitfirst_boards.ulpi.UlpiTop`: the whole device behind a PHY, with a host on it."""

import random

import cocotb
from cocotb import start_soon
from cocotb.triggers import RisingEdge

from . import common
from .bench_uart import LineBench, start_array
from .bench_usb import again, clean, faulty
from .ulpi_phy import FUNCTION, OTG, UlpiBus
from .usb_host import Faults, Host, start_of_frame

BYTE_CYCLES = 60 * 16  # far more than USB takes, packets that are repeated included
MOST_FRAMES = 200
LIMIT_STEPS = 2_000_000  # five times what the longest takes
DISCONNECTED_CYCLES = 150  # after 2.5 us a hub has seen that nothing is there (USB 2.0, 7.1.7.3)


async def start(dut, registers: dict[int, int] | None = None, **faults: float) -> LineBench:
    rng = random.Random(cocotb.RANDOM_SEED)
    dut.rst.value = 1
    bus = UlpiBus(dut, rng, registers)
    started = start_soon(bus.start())
    await start_array(dut, common.PERIOD_STEPS, "step")
    for _ in range(2):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    await started
    for number in range(MOST_FRAMES):  # the device before is seen, and told the time, till it goes
        if not bus.pulls_up:
            break
        await bus.send(start_of_frame(number))
    host = Host(bus, Faults(rng, **faults))
    await host.enumerate()
    host.start()
    return LineBench(dut, rng, host, BYTE_CYCLES)


@cocotb.test(timeout_time=LIMIT_STEPS, timeout_unit="step")
async def clean_bus(dut) -> None:
    """As on three pins; the PHY's registers are written once each."""
    bench = await start(dut)
    await clean(bench)
    assert sorted(bench.pins.bus.written) == [FUNCTION, OTG]


@cocotb.test(timeout_time=LIMIT_STEPS, timeout_unit="step")
async def faulty_bus(dut) -> None:
    await faulty(await start(dut, damaged_out=0.25, lost_answer=0.25, damaged_in=0.25, lost_ack=0.25))


@cocotb.test(timeout_time=LIMIT_STEPS, timeout_unit="step")
async def enumerated_again(dut) -> None:
    await again(await start(dut))


@cocotb.test(timeout_time=LIMIT_STEPS, timeout_unit="step")
async def left_attached(dut) -> None:
    """A PHY that has kept the registers of the device before: its host sees that one go."""
    bench = await start(dut, {FUNCTION: 0x45, OTG: 0x00})
    assert bench.pins.bus.detached_cycles > DISCONNECTED_CYCLES
