"""Bench of a `PowerMonitor` whose limits come soon: its spans have few bits, and its sums do not begin at 0.

Parameters: `most`, cycles of a span; `first`, what each sum holds until it is cleared.
"""

from typing import Any

import cocotb
from bitfirst_hdl.contract.packets import WORD_BITS

from . import bench_power, common
from .bench_power import faults, rounds, start, sum_up


@cocotb.test()
async def sums_overflow(dut: Any) -> None:
    """Some of them, by the first cycles that are added; they go on modulo 2**64. It is the first test: no clear yet."""
    first = common.parameters()["first"]
    bench, sensors = await start(dut)
    for sensor in sensors:
        sensor.draw = lambda: (1, 1)
    await bench.control(run=1, record=1)
    await rounds(bench, 3)
    state, found = await sum_up(bench)
    assert faults(state).keys() == {"overflow", "late"}, state
    cycles, count, charge, energy = found[0, 0]
    assert cycles == charge == energy < first - 2**WORD_BITS + common.parameters()["most"] * count, found[0, 0]
    assert found[1, 7] == found[2, 0] == (first,) * 4, "sums that nobody has added to"
    await bench.control(clear=1)
    assert not faults(await bench.state())


@cocotb.test()
async def phases_are_long(dut: Any) -> None:
    """Each phase counts for what it can of a round, and no more."""
    bench, sensors = await start(dut)
    bench.change_phases(6000)
    await bench.control(clear=1, run=1, record=1)
    await rounds(bench, 4)
    state, _ = await sum_up(bench)
    samples = await bench.samples()
    await bench.check_sums(samples, most=common.parameters()["most"])
    bench_power.check_numbers(samples, sensors)
    assert faults(state) == {"late": 1}, state
