"""From the byte stream's width to 64-bit words and back."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .contract.packets import WORD_BITS
from .operands import one_of
from .ports import word_stream


class WidthConverter(wiring.Component):
    """Both directions between units of `link_bits` (8, 16, 32 or 64) and words, least significant unit first.

    rx        in, stream of units
    rx_words  out, stream of words
    coming    out(64) with `leaves`: what will stand in `rx_words.payload`; nothing on 64-bit links
    slide     in(1)   with a transfer of `rx_words`: drop the first unit only, the others begin the next word
    leaves    out(1)  high for one cycle per unit that leaves `rx_words.payload`: its lowest one
    tx_words  in, stream of words; a word is taken with its last unit
    tx        out, stream of units
    tx_next_ready  in(1)   `tx.ready` of the next cycle
    next_ready     out(1)  `tx_words.ready` of the next cycle
    idle      out(1)  no unit left to send of a word that was begun, no whole word received

    One unit a cycle each way, without gaps. A word is valid in the cycle after its last unit was taken, and stands in
    `rx_words.payload` until further units come, each of which pushes one out: so all units of the words before have
    left it when a word is valid. Units to `tx` have no latency, nor have 64-bit links. Reset drops what has been taken
    in.
    """

    def __init__(self, link_bits: int) -> None:
        self.link_bits = link_bits
        super().__init__(
            {
                "rx": In(stream.Signature(link_bits)),
                "rx_words": Out(word_stream()),
                "coming": Out(WORD_BITS),
                "slide": In(1),
                "leaves": Out(1),
                "tx_words": In(word_stream()),
                "tx": Out(stream.Signature(link_bits)),
                "tx_next_ready": In(1),
                "next_ready": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.leaves.eq(self.rx.valid & self.rx.ready)
        if self.link_bits == WORD_BITS:
            wiring.connect(m, wiring.flipped(self.rx), wiring.flipped(self.rx_words))
            wiring.connect(m, wiring.flipped(self.tx_words), wiring.flipped(self.tx))
            m.d.comb += [self.next_ready.eq(self.tx_next_ready), self.idle.eq(1)]
            return m
        self._collect(m)
        self._split(m)
        return m

    def _collect(self, m: Module) -> None:
        units = WORD_BITS // self.link_bits
        held, kept = Signal(range(units + 1)), Signal(range(units + 1))  # units at the word's upper end
        word = self.rx_words.payload
        m.d.comb += self.coming.eq(Cat(word[self.link_bits :], self.rx.payload))
        m.d.comb += [self.rx_words.valid.eq(held == units), kept.eq(held), self.rx.ready.eq(kept != units)]
        with m.If(self.rx_words.valid & self.rx_words.ready):
            m.d.comb += kept.eq(Mux(self.slide, units - 1, 0))
        m.d.sync += held.eq(kept)
        with m.If(self.rx.valid & self.rx.ready):
            m.d.sync += [held.eq(kept + 1), word.eq(self.coming)]

    def _split(self, m: Module) -> None:
        units = WORD_BITS // self.link_bits
        unit = Signal(range(units))  # of the word at hand
        next_unit = Signal.like(unit)
        word, firsts = self.tx_words.payload, range(0, WORD_BITS, self.link_bits)
        m.d.comb += [
            self.tx.valid.eq(self.tx_words.valid),
            self.tx.payload.eq(one_of(unit, [word[first : first + self.link_bits] for first in firsts])),
            self.tx_words.ready.eq((unit == units - 1) & self.tx.ready),
            self.idle.eq((unit == 0) & ~self.rx_words.valid),
            next_unit.eq(unit + (self.tx.valid & self.tx.ready)),
            self.next_ready.eq((next_unit == units - 1) & self.tx_next_ready),
        ]
        m.d.sync += unit.eq(next_unit)
