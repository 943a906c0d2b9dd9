"""An operand memory: whole rows out, single 64-bit words in."""

from amaranth.hdl import Module, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .config import OPERAND_CYCLES
from .contract.packets import WORD_BITS
from .ports import MemoryWrite

#: Tells synthesis that no address is read and written in one cycle: otherwise it adds a bypass around each block
#: RAM. It takes effect on an asynchronous read port with a register behind it, which becomes a synchronous one.
NO_COLLISIONS = {"no_rw_check": True}


class OperandMemory(wiring.Component):
    """`row_words` memories of 64-bit words side by side, with one row address.

    Parameters
    ----------
    row_words : int
        64-bit words in a row.
    depth : int
        Rows.

    Members
    -------
    write : In(MemoryWrite())
        Stores a word; readable in the next cycle. Rows and words outside the memory must not be given.
    enable, row : In
        Reads a row. Who writes keeps away from rows that are being read: a word written in the same cycle is
        undefined in hardware.
    data : Out(64) x row_words
        The row, `latency` cycles after `enable`; it stays until the next one.

    One read and one write each cycle, no back-pressure. The contents survive reset.
    """

    def __init__(self, row_words: int, depth: int) -> None:
        self.row_words = row_words
        self.depth = depth
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "enable": In(1),
                "row": In(range(depth)),
                "data": Out(WORD_BITS).array(row_words),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from `enable` to `data`: block RAM and its output register."""
        return OPERAND_CYCLES

    def elaborate(self, platform: object) -> Module:
        m = Module()
        fetched = Signal()
        m.d.sync += fetched.eq(self.enable)
        for word in range(self.row_words):
            store = memory.Memory(shape=WORD_BITS, depth=self.depth, init=[], attrs=NO_COLLISIONS)
            m.submodules[f"word_{word}"] = store
            write_port = store.write_port()
            read_port = store.read_port(domain="comb")
            m.d.comb += [
                write_port.en.eq(self.write.valid & (self.write.word == word)),
                write_port.addr.eq(self.write.row),
                write_port.data.eq(self.write.data),
                read_port.addr.eq(self.row),
            ]
            latched = Signal(WORD_BITS, name=f"latched_{word}", reset_less=True)
            with m.If(self.enable):
                m.d.sync += latched.eq(read_port.data)
            with m.If(fetched):
                m.d.sync += self.data[word].eq(latched)
        return m
