"""READ of SUMS: fetches rows of partial sums, requantises their elements and packs them into data words."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract import packets
from .contract.numeric import SUM_BITS
from .ports import Payload, SumRead
from .requantise import RAW_BITS, Requantiser


class Job(data.Struct):
    """One READ of SUMS with fields already checked, and the sequence number of its frame."""

    read: packets.Read
    sequence: 16


class Readout(wiring.Component):
    """Executes one `Job` at a time; order and packing as in `packets.Read`.

    start      in, stream of `Job`; ready while not busy
    busy       out, high from the cycle after a job is taken until its last word has gone
    sequence   out, that of the job under way (or of the last one)
    sum_read   out, `SumRead`: one row of partial sums at a time
    words      out, stream of `Payload`: the data words alone, `last` on the final one
    element    out, high for one cycle per element sent
    saturated  out, high with `element` when that element was clipped

    While nothing holds it up it sends one element a cycle, as long as a row's columns take no fewer cycles than
    its fetch; the next row is fetched meanwhile. Reset abandons the job.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(Job)),
                "busy": Out(1),
                "sequence": Out(16),
                "sum_read": Out(SumRead(config)),
                "words": Out(stream.Signature(Payload)),
                "element": Out(1),
                "saturated": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.requantiser = requantiser = Requantiser()
        read = Signal(packets.Read)
        settings = requantiser.settings
        m.d.comb += [
            self.start.ready.eq(~self.busy),
            settings.multiplier.eq(read.multiplier),
            settings.shift.eq(read.shift),
            settings.rounding.eq(read.rounding),
            settings.bits.eq(read.bits),
            settings.signed.eq(read.signed),
            settings.key.eq(read.key),
        ]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [
                self.busy.eq(1),
                read.eq(self.start.payload.read),
                self.sequence.eq(self.start.payload.sequence),
            ]
        with m.If(self.words.valid & self.words.ready & self.words.payload.last):
            m.d.sync += self.busy.eq(0)
        fetched = self._fetch(m, read)
        self._elements(m, read, fetched, requantiser.elements)
        self._pack(m, read, requantiser.results)
        return m

    def _fetch(self, m: Module, read: packets.Read) -> "_Row":
        """Asks for the rows of the job, one ahead of the elements."""
        row = _Row(self.config)
        base, offset = Signal(16), Signal(8)  # first row of the tile, row in the tile
        tiles = Signal(16)  # still to ask for
        asked = Signal()
        ends_tile = offset == read.rows - 1
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [
                base.eq(self.start.payload.read.first * self.config.rows),
                tiles.eq(self.start.payload.read.count),
                offset.eq(0),
            ]
        m.d.comb += [
            self.sum_read.valid.eq((tiles != 0) & ~asked & ~row.valid),
            self.sum_read.row.eq(base + offset),
        ]
        with m.If(self.sum_read.valid & self.sum_read.ready):
            m.d.sync += [asked.eq(1), row.ends_tile.eq(ends_tile), row.ends_job.eq(ends_tile & (tiles == 1))]
            with m.If(ends_tile):
                m.d.sync += [offset.eq(0), base.eq(base + self.config.rows), tiles.eq(tiles - 1)]
            with m.Else():
                m.d.sync += offset.eq(offset + 1)
        with m.If(row.taken):
            m.d.sync += row.valid.eq(0)
        with m.If(self.sum_read.data_valid):
            m.d.sync += [asked.eq(0), row.valid.eq(1), row.sums.eq(self.sum_read.data)]
        return row

    def _elements(self, m: Module, read: packets.Read, row: "_Row", elements) -> None:
        """Takes fetched rows apart, and counts the elements' places in the tensor."""
        sums = Signal(SUM_BITS * self.config.columns)
        index, next_index, tile_index = Signal(32), Signal(32), Signal(32)
        valid, ends_job = Signal(), Signal()
        left = Signal(range(self.config.columns))  # elements of this row after this one
        ends_row = left == 0
        following = Signal(32)
        m.d.comb += [
            elements.valid.eq(valid),
            elements.payload.total.eq(sums[:SUM_BITS]),
            elements.payload.index.eq(index),
            elements.payload.last.eq(ends_job & ends_row),
            row.taken.eq(row.valid & (~valid | (elements.ready & ends_row))),
            following.eq(
                Mux(
                    row.ends_tile,
                    tile_index + read.col_stride * self.config.columns,
                    next_index + read.row_stride,
                )
            ),
        ]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [next_index.eq(self.start.payload.read.index), tile_index.eq(self.start.payload.read.index)]
        with m.If(elements.valid & elements.ready):
            m.d.sync += [left.eq(left - 1), index.eq(index + read.col_stride), sums.eq(sums >> SUM_BITS)]
            with m.If(ends_row):
                m.d.sync += valid.eq(0)
        with m.If(row.taken):
            m.d.sync += [
                valid.eq(1),
                ends_job.eq(row.ends_job),
                sums.eq(row.sums),
                left.eq(read.cols - 1),
                index.eq(next_index),
                next_index.eq(following),
            ]
            with m.If(row.ends_tile):
                m.d.sync += tile_index.eq(following)

    def _pack(self, m: Module, read: packets.Read, results) -> None:
        """Numbers into containers, containers into words."""
        word, placed, filled = Signal(64), Signal(64), Signal(3)  # `filled`: bytes in `word`
        container = [read.bits <= 8, (read.bits > 8) & (read.bits <= 16), (read.bits > 16) & (read.bits <= 32)]
        raw = read.bits == RAW_BITS
        value = results.payload.value
        for byte in range(8):
            at = placed.word_select(byte, 8)
            for log2_bytes in range(4):
                source = value.word_select(byte % (1 << log2_bytes), 8)
                chosen = raw if log2_bytes == 3 else container[log2_bytes]
                with m.If(chosen & (filled >> log2_bytes == byte >> log2_bytes)):
                    m.d.comb += at.eq(source)
        after = Signal(4)
        m.d.comb += [
            after.eq(filled + Mux(raw, 8, Cat(container))),
            results.ready.eq(~self.words.valid | self.words.ready),
            self.element.eq(results.valid & results.ready),
            self.saturated.eq(self.element & results.payload.clipped),
        ]
        with m.If(self.words.ready):
            m.d.sync += self.words.valid.eq(0)
        with m.If(self.element):
            with m.If(after[3] | results.payload.last):
                m.d.sync += [
                    self.words.valid.eq(1),
                    self.words.payload.data.eq(word | placed),
                    self.words.payload.last.eq(results.payload.last),
                    word.eq(0),
                    filled.eq(0),
                ]
            with m.Else():
                m.d.sync += [word.eq(word | placed), filled.eq(after)]


class _Row:
    """A fetched row of partial sums, waiting to be taken apart."""

    def __init__(self, config: ArrayConfig) -> None:
        self.sums = Signal(SUM_BITS * config.columns, name="row_sums")
        self.valid = Signal(name="row_valid")
        self.taken = Signal(name="row_taken")
        self.ends_tile = Signal(name="row_ends_tile")
        self.ends_job = Signal(name="row_ends_job")
