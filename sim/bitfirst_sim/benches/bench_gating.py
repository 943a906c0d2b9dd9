"""Passes of `bitfirst_hdl.array.Array` in which a third of the elements take a word of A, as in packed MATMULs.

Only a stimulus for waveforms (`bitfirst_sim.gating`); what comes out is checked by the benches of array and engine.
"""

import cocotb
from bitfirst_hdl.array import StepControl
from bitfirst_hdl.config import MAX_BITS
from cocotb.triggers import RisingEdge

from . import arrays, common

PASSES = 60
LISTED = 1 / 3


@cocotb.test()
async def packed_passes(dut) -> None:
    rng = await common.start(dut)
    config, drained = arrays.config(), 0
    for _ in range(PASSES):
        for step in range(MAX_BITS):
            for index in range(config.a_row_words):
                getattr(dut, f"a__{index}").value = rng.getrandbits(64)
            for index in range(config.b_row_words):
                getattr(dut, f"b__{index}").value = rng.getrandbits(64)
            for row in range(config.rows):
                mask = sum((rng.random() < LISTED) << column for column in range(config.columns))
                getattr(dut, f"take__{row}").value = mask if step == 0 else 0
            ends = step == MAX_BITS - 1
            dut.move.value = int(ends)
            dut.control.value = common.pack(
                StepControl,
                valid=1,
                first=int(step == 0),
                double=int(step > 0),
                negative=int(step == 0),
                last=int(ends),
            )
            await RisingEdge(dut.clk)
            drained += common.value(dut.drain_valid)
    assert (PASSES - 2) * config.rows <= drained <= PASSES * config.rows
