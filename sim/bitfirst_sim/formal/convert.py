"""The width converter of the link loses no unit, doubles none, and keeps their order, both ways.

Units leave the word that came in, one by one, in the same order: over these the receiver makes its CRC-32.
"""

from types import ModuleType

from amaranth.asserts import AnyConst
from amaranth.hdl import Assert, Assume, Cover, Fragment, Module, Signal
from amaranth.lib.wiring import In
from bitfirst_hdl import link
from bitfirst_hdl.contract.packets import WORD_BITS

from .prove import Property, altered

INDEX_BITS = 6
_HELD = "word = self.rx_words.payload"
_UNIT = "unit = Signal(range(units))  # of the word at hand"


def link_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.link` with `changes` in its source; the converter shows its registers."""
    seen = (_HELD, f"{_HELD}\n        self.collected = held"), (_UNIT, f"{_UNIT}\n        self.splitting = unit")
    return altered(link, *changes, *seen)


class UnitOrder(Property):
    """One unit in `2**INDEX_BITS` is followed each way, whichever; with `slide`, a word begins at the next unit."""

    def __init__(self, module: ModuleType, link_bits: int, inductive: bool = True) -> None:
        self.converter = module.WidthConverter(link_bits)
        self.unit_bits, self.units, self.inductive = link_bits, WORD_BITS // link_bits, inductive
        inputs = {"rx_valid": In(1), "rx_data": In(link_bits), "words_ready": In(1), "slide": In(1)}
        inputs |= {"words_valid": In(1), "words_data": In(WORD_BITS), "tx_next_ready": In(1)}
        super().__init__(inputs)

    def state(self, m: Module) -> None:
        converter = self.converter
        m.submodules.converter = Fragment.get(converter, None)
        m.d.comb += [
            converter.rx.valid.eq(self.rx_valid),
            converter.rx.payload.eq(self.rx_data),
            converter.rx_words.ready.eq(self.words_ready),
            converter.slide.eq(self.slide),
            converter.tx_words.valid.eq(self.words_valid),
            converter.tx_words.payload.eq(self.words_data),
            converter.tx_next_ready.eq(self.tx_next_ready),
        ]
        m.d.sync += converter.tx.ready.eq(self.tx_next_ready)
        self._inwards(m)
        self._outwards(m)

    def _index(self, m: Module) -> tuple[Signal, ...]:
        """Units in and out, the difference, how far ahead of the unit next out the followed one is, and its value."""
        taken, given, chosen = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS)
        held, ahead, value = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(self.unit_bits)
        m.d.comb += [chosen.eq(AnyConst(INDEX_BITS)), held.eq(taken - given), ahead.eq(chosen - given)]
        return taken, given, chosen, held, ahead, value

    def _inwards(self, m: Module) -> None:
        units, rx, words = self.units, self.converter.rx, self.converter.rx_words
        taken, given, chosen, held, ahead, value = self._index(m)
        with m.If(rx.valid & rx.ready):
            m.d.sync += taken.eq(taken + 1)
            with m.If(taken == chosen):
                m.d.sync += value.eq(rx.payload)
        with m.If(words.valid & words.ready & self.slide):
            m.d.sync += given.eq(given + 1)
        with m.Elif(words.valid & words.ready):
            m.d.sync += given.eq(given + units)
        with m.If(words.valid & (ahead < units)):
            m.d.comb += Assert(words.payload.word_select(ahead[:3], self.unit_bits) == value)
        m.d.comb += [
            Assert(words.valid == (held == units)),
            Assert(held <= units),
            Assert(rx.ready | (held == units)),
            Cover(words.valid & words.ready & (given == units + 1) & (ahead == 1)),
        ]
        # what leaves the word is the unit that came `units` before
        seen, window, left = Signal(), Signal(INDEX_BITS), Signal(INDEX_BITS)
        m.d.sync += left.eq(left + self.converter.leaves)
        m.d.comb += [window.eq(chosen - taken + units), Assert(left == taken)]
        with m.If(rx.valid & rx.ready & (taken == chosen)):
            m.d.sync += seen.eq(1)
        with m.If(self.converter.leaves & seen & (window == 0)):
            m.d.comb += Assert(words.payload[: self.unit_bits] == value)
        if self.inductive:
            with m.If(seen & (window < units)):
                m.d.comb += Assert(words.payload.word_select(window[:3], self.unit_bits) == value)
            m.d.comb += Assert(self.converter.collected == held)
            place = (units - held + ahead)[:3]
            with m.If(ahead < held):
                m.d.comb += Assert(words.payload.word_select(place, self.unit_bits) == value)

    def _outwards(self, m: Module) -> None:
        """Units of a word go while it waits, the last one with it."""
        units, tx, words = self.units, self.converter.tx, self.converter.tx_words
        given, chosen, taken = Signal(INDEX_BITS), Signal(INDEX_BITS), Signal(INDEX_BITS)
        waited, waiting, ready = Signal(), Signal(WORD_BITS), Signal()
        m.d.comb += chosen.eq(AnyConst(INDEX_BITS))
        m.d.sync += [waited.eq(words.valid & ~words.ready), waiting.eq(words.payload)]
        m.d.sync += ready.eq(self.converter.next_ready)
        with m.If(waited):
            m.d.comb += Assume(words.valid & (words.payload == waiting))
        with m.If(words.valid & words.ready):
            m.d.sync += taken.eq(taken + units)
        with m.If(tx.valid & tx.ready):
            m.d.sync += given.eq(given + 1)
        with m.If(tx.valid & (given == chosen)):
            m.d.comb += Assert(tx.payload == words.payload.word_select((chosen - taken)[:3], self.unit_bits))
        m.d.comb += [
            Assert(tx.valid == words.valid),
            Assert((given - taken)[:INDEX_BITS] < units),
            Assert(words.ready == (tx.ready & ((given - taken)[:INDEX_BITS] == units - 1))),
            Assert(words.ready == ready),
            Cover(tx.valid & tx.ready & (given == units + 1)),
        ]
        if self.inductive:
            m.d.comb += Assert(self.converter.splitting == (given - taken)[:INDEX_BITS])
