"""The partial sums: 48 bits each, in block RAM, one memory for each array column."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .config import SUM_CYCLES, ArrayConfig
from .contract.numeric import SUM_BITS
from .operands import NO_COLLISIONS
from .ports import MemoryWrite, SumRead


class Drain(wiring.Signature):
    """One array row of a finished pass on its way to the partial sums.

    valid        out(1)
    row          out(range(sum_rows))      row of partial sums to add to
    sums         out(accumulator_bits) x C  two's complement
    column_sums  out(column_sum_bits) x C   two's complement, the same in each row of a pass
    offset       out(1)                    the slice is in offset binary: subtract 2**(S-1) times the column's sum
    replace      out(1)                    replace the partial sum instead of adding
    slices_left  out(range(max_slices))    less significant slices to come: the weight is 2**(S * slices_left)
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "valid": Out(1),
                "row": Out(range(config.sum_rows)),
                "sums": Out(config.accumulator_bits).array(config.columns),
                "column_sums": Out(config.column_sum_bits).array(config.columns),
                "offset": Out(1),
                "replace": Out(1),
                "slices_left": Out(range(config.max_slices)),
            }
        )


class PartialSums(wiring.Component):
    """C memories of `sum_rows` 48-bit sums with read-modify-write.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    drain : In(Drain(config))
        sum = (0 if replace else sum) + ((sums - correction) << (S * slices_left)), modulo 2**48. One row may come
        each cycle; the same row not again within `latency` cycles.
    write : In(MemoryWrite())
        Stores the low 48 bits of a word (`word` is the column). Not within `latency` cycles of a drained row.
    read : In(SumRead(config))
        `data` two cycles after the request is accepted, for one cycle. The drain goes first.
    overflow : Out(1)
        Some sum left 48 bits; it was stored modulo 2**48. `latency` - 1 cycles after the row.

    `latency` cycles from a drained row to its sums being readable. The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "drain": In(Drain(config)),
                "write": In(MemoryWrite()),
                "read": In(SumRead(config)),
                "overflow": Out(1),
            }
        )

    @property
    def latency(self) -> int:
        """Cycles from a drained row to its sums being readable."""
        return SUM_CYCLES

    def elaborate(self, platform: object) -> Module:
        m = Module()
        drain = self.drain
        corrected = _Stage(m, "corrected", drain)
        shifted = _Stage(m, "shifted", corrected)
        added = _Stage(m, "added", shifted)

        slices_left = Signal.like(drain.slices_left)
        m.d.sync += slices_left.eq(drain.slices_left)
        enable, row = self._read_port(m)
        overflows = []
        for column in range(self.config.columns):
            new = Signal(SUM_BITS, name=f"new_{column}", reset_less=True)
            stored = self._memory(m, column, enable, row, corrected, added, new)
            m.d.comb += self.read.data[column].eq(stored)
            term = self._term(m, column, slices_left)
            alike, negative = Signal(name=f"alike_{column}"), Signal(name=f"negative_{column}")
            m.d.sync += [new.eq(stored + term), alike.eq(stored[-1] == term[-1]), negative.eq(term[-1])]
            overflows.append(added.valid & alike & (new[-1] != negative))
        m.d.comb += self.overflow.eq(Cat(overflows).any())
        return m

    def _read_port(self, m: Module) -> tuple[Signal, Signal]:
        """The memories' read port: the drain first, then whoever reads."""
        read, drain = self.read, self.drain
        enable, accepted = Signal(), Signal()
        row = Signal(range(self.config.sum_rows))
        m.d.comb += [
            read.ready.eq(~drain.valid),
            enable.eq(drain.valid | read.valid),
            row.eq(Mux(drain.valid, drain.row, read.row)),
        ]
        m.d.sync += [accepted.eq(read.valid & read.ready), read.data_valid.eq(accepted)]
        return enable, row

    def _memory(
        self, m: Module, column: int, enable: Signal, row: Signal, corrected: "_Stage", added: "_Stage", new: Signal
    ) -> Signal:
        """One column's memory; returns the sum of the row asked for two cycles ago, or 0 if it is to be replaced."""
        store = memory.Memory(shape=SUM_BITS, depth=self.config.sum_rows, init=[], attrs=NO_COLLISIONS)
        m.submodules[f"column_{column}"] = store
        read_port, write_port = store.read_port(domain="comb"), store.write_port()
        by_host = self.write.valid & (self.write.word == column)
        m.d.comb += [
            write_port.en.eq(added.valid | by_host),
            write_port.addr.eq(Mux(added.valid, added.row, self.write.row)),
            write_port.data.eq(Mux(added.valid, new, self.write.data)),
            read_port.addr.eq(row),
        ]
        latched = Signal(SUM_BITS, name=f"latched_{column}", reset_less=True)
        stored = Signal(SUM_BITS, name=f"stored_{column}", reset_less=True)
        with m.If(enable):
            m.d.sync += latched.eq(read_port.data)
        m.d.sync += stored.eq(latched)
        with m.If(corrected.valid & corrected.replace):
            m.d.sync += stored.eq(0)
        return stored

    def _term(self, m: Module, column: int, slices_left: Signal) -> Signal:
        """What one drained sum adds, two cycles later."""
        config, drain = self.config, self.drain
        corrected = Signal(config.accumulator_bits, name=f"corrected_{column}", reset_less=True)
        term = Signal(SUM_BITS, name=f"term_{column}", reset_less=True)
        correction = Mux(drain.offset, drain.column_sums[column].as_signed() << (config.slice_bits - 1), 0)
        m.d.sync += corrected.eq(drain.sums[column] - correction)
        m.d.sync += term.eq(corrected.as_signed() << (slices_left * config.slice_bits))
        return term


class _Stage:
    """What travels with a row through one stage of the pipeline, registered."""

    def __init__(self, m: Module, name: str, before: "Drain | _Stage") -> None:
        self.valid = Signal(name=f"{name}_valid")
        self.row = Signal.like(before.row, name=f"{name}_row")
        self.replace = Signal(name=f"{name}_replace")
        m.d.sync += [self.valid.eq(before.valid), self.row.eq(before.row), self.replace.eq(before.replace)]
