"""The tensor store: block RAM on the chip, read two neighbouring words at a time."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In
from amaranth.utils import exact_log2

from .config import ArrayConfig
from .contract import packets
from .operands import NO_COLLISIONS
from .ports import MemoryWrite, StoreRead


class TensorStore(wiring.Component):
    """`store_words` words of 8 planes of 16 elements, in two banks: even words and odd words.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    write : In(MemoryWrite())
        Stores half a word, at any time; `row` is the store word, `word` 0 its planes 3 .. 0, 1 its planes 7 .. 4.
        Readable in the next cycle. Who writes keeps away from words that are being read.
    read : In(StoreRead(config))
        Always `ready`. The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__({"write": In(MemoryWrite()), "read": In(StoreRead(config))})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.read.ready.eq(1)
        for parity in range(2):
            self._bank(m, parity)
        return m

    def _bank(self, m: Module, parity: int) -> None:
        depth = self.config.store_words // 2
        address = Signal(exact_log2(depth), name=f"address_{parity}")
        # of two neighbours the first is the even one if its number is even: else the even one is in the next row
        m.d.comb += address.eq((self.read.word >> 1) + (self.read.word[0] if parity == 0 else 0))
        for half in range(packets.STORE_WORD_WORDS):
            bank = memory.Memory(shape=packets.WORD_BITS, depth=depth, init=[], attrs=NO_COLLISIONS)
            m.submodules[f"bank_{parity}_{half}"] = bank
            write_port = bank.write_port()
            read_port = bank.read_port(domain="comb")
            chosen = (self.write.row[0] == parity) & (self.write.word == half)
            m.d.comb += [
                write_port.en.eq(self.write.valid & chosen),
                write_port.addr.eq(self.write.row >> 1),
                write_port.data.eq(self.write.data),
                read_port.addr.eq(address),
            ]
            latched = Signal(packets.WORD_BITS, name=f"latched_{parity}_{half}", reset_less=True)
            with m.If(self.read.enable):
                place = half * packets.WORD_BITS
                m.d.sync += latched.eq(read_port.data)
                m.d.sync += self.read.data[parity][place : place + packets.WORD_BITS].eq(latched)
