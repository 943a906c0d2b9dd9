"""The counters of `contract.registers`, and the snapshot that COUNTERS and MARK answer with."""

from itertools import pairwise

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import WORD_BITS
from .contract.registers import COUNTER_INDEX, COUNTERS
from .ports import word_stream
from .readout import ABREAST

PHASE_BITS = 8


class Counters(wiring.Component):
    """64-bit counters, which wrap.

    NAME       in     one per counter but `phase`: what to add in this cycle; 1 bit, or more for those that grow faster
    set_phase  in(1)  high for one cycle: take over `phase`
    phase      in(8)
    clear      in(1)  all counters and the phase to zero; wins over everything counted in that cycle
    snapshot   in(1)  copy all counters, without what is counted in that cycle
    words      out, stream of words: the copy, one counter a word, in the order of `COUNTERS`; always valid
    """

    def __init__(self, config: ArrayConfig) -> None:
        wide = {
            "serial_ones": range(config.columns * config.lanes + 1),
            "elements_read": range(ABREAST + 1),
            "saturated": range(ABREAST + 1),
        }
        counted = {counter.name: In(wide.get(counter.name, 1)) for counter in COUNTERS if counter.name != "phase"}
        super().__init__(
            counted
            | {
                "set_phase": In(1),
                "phase": In(PHASE_BITS),
                "clear": In(1),
                "snapshot": In(1),
                "words": Out(word_stream()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        values = [Signal(WORD_BITS, name=f"value_{counter.name}") for counter in COUNTERS]
        copies = [Signal(WORD_BITS, name=f"copy_{counter.name}") for counter in COUNTERS]
        for counter, value in zip(COUNTERS, values, strict=True):
            if counter.name != "phase":
                m.d.sync += value.eq(value + getattr(self, counter.name))
        with m.If(self.set_phase):
            m.d.sync += values[COUNTER_INDEX["phase"]].eq(self.phase)
        with m.If(self.clear):
            m.d.sync += [value.eq(0) for value in values]
        with m.If(self.words.ready):
            m.d.sync += [here.eq(above) for here, above in pairwise(copies)]
        with m.If(self.snapshot):
            m.d.sync += [copy.eq(value) for copy, value in zip(copies, values, strict=True)]
        m.d.comb += [self.words.valid.eq(1), self.words.payload.eq(copies[0])]
        return m
