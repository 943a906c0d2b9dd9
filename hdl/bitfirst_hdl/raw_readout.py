"""READ of SUMS as they are, one a cycle: what stands in the place of `readout.Readout` without "requantise"."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring

from .config import ArrayConfig
from .contract.numeric import SUM_BITS
from .readout import Job, readout_members


class RawReadout(wiring.Component):
    """Executes one `Job` of `bits` = 64 at a time; order as in `packets.Read`, each sum extended by its sign to a word.

    Members as those of `Readout`; nothing saturates. A row is fetched when the one before has gone: a row of n sums
    takes n + 3 cycles where neither drain nor host holds it up. Reset abandons the job.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(readout_members(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job, columns, request = Signal(Job), self.config.columns, self.sum_read
        base, row, tiles = Signal(16), Signal(range(self.config.rows)), Signal(16)  # next row; tiles to come
        sums, left = Signal(SUM_BITS * columns), Signal(range(columns + 1))  # of the row at hand, how many are to go
        asked, goes, last_row = Signal(), Signal(), Signal()
        m.d.comb += [
            self.start.ready.eq(~self.busy),
            self.sequence.eq(job.sequence),
            request.row.eq(base + row),
            request.valid.eq((tiles != 0) & (left == 0) & ~asked),
            self.words.valid.eq(left != 0),
            self.words.payload.data.eq(sums[:SUM_BITS].as_signed()),
            self.words.payload.last.eq((left == 1) & (tiles == 0)),
            goes.eq(self.words.valid & self.words.ready),
            self.elements.eq(goes),
            last_row.eq(row == (job.read.rows - 1)[: len(row)]),
        ]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [
                job.eq(self.start.payload),
                base.eq(self.start.payload.read.first * self.config.rows),
                row.eq(0),
                tiles.eq(self.start.payload.read.count),
                self.busy.eq(1),
            ]
        with m.If(request.valid & request.ready):
            m.d.sync += [asked.eq(1), row.eq(row + 1)]
            with m.If(last_row):
                m.d.sync += [row.eq(0), base.eq(base + self.config.rows), tiles.eq(tiles - 1)]
        with m.If(request.data_valid):
            m.d.sync += [asked.eq(0), sums.eq(request.data), left.eq(job.read.cols)]
        with m.If(goes):
            m.d.sync += [sums.eq(sums >> SUM_BITS), left.eq(left - 1)]
            with m.If(self.words.payload.last):
                m.d.sync += self.busy.eq(0)
        return m
