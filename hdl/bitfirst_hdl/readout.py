"""READ of SUMS: fetches rows of partial sums, makes numbers of their elements and packs these into data words."""

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract import packets
from .contract.numeric import SUM_BITS
from .ports import Payload, SumRead
from .requantise import RESULT_BITS, Requantiser

RAW_BITS = packets.WORD_BITS  #: the value of `bits` that passes a sum as it is
ABREAST = 4  #: most elements in one cycle
EXACT_LATENCY = 3  #: cycles from exact sums to their numbers; `Requantiser.latency` + 1 for others
PACK_LATENCY = 6  #: cycles from numbers to their word

_NIBBLE = 4
_WORD_NIBBLES = packets.WORD_BITS // _NIBBLE


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
    elements   out, how many elements were made into numbers in this cycle
    saturated  out, how many of them were clipped

    Where `multiplier` is 1 and `shift` 0, or `bits` is `RAW_BITS`, sums are *exact*: there is nothing to round, and
    they pass by the requantiser, `elements_abreast` of a row in one cycle; others one a cycle. This holds while nothing
    holds it up and a row takes no fewer cycles than its fetch; the next row is fetched meanwhile. Reset abandons the
    job.
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
                "elements": Out(range(ABREAST + 1)),
                "saturated": Out(range(ABREAST + 1)),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.requantiser = requantiser = Requantiser()
        read, move = Signal(packets.Read), Signal()
        form = _Form(m, read)
        settings = requantiser.settings
        m.d.comb += [
            self.start.ready.eq(~self.busy),
            move.eq(~self.words.valid | self.words.ready),
            settings.multiplier.eq(read.multiplier),
            settings.shift.eq(read.shift),
            settings.rounding.eq(read.rounding),
            settings.signed.eq(read.signed),
            settings.limit.eq(form.limit),
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
        row = self._fetch(m, read)
        exact = self._take_apart(m, read, form, row, requantiser.elements, move)
        numbers = self._numbers(m, form, exact, requantiser.results, move)
        m.d.comb += [
            self.elements.eq(Mux(move, numbers.count, 0)),
            self.saturated.eq(Mux(move, numbers.clipped, 0)),
        ]
        self._pack(m, form, numbers, move)
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
            self.sum_read.valid.eq((tiles != 0) & ~asked & (~row.valid | row.taken)),
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

    def _take_apart(self, m: Module, read: packets.Read, form: "_Form", row: "_Row", elements, move: Signal) -> "_Sums":
        """Takes fetched rows apart: exact sums several a cycle, others one by one with their places in the tensor."""
        columns = self.config.columns
        sums = Signal(SUM_BITS * max(columns, ABREAST))  # the next `ABREAST` and all behind them
        valid, ends_job, goes = Signal(), Signal(), Signal()
        column, left = Signal(range(ABREAST)), Signal(range(columns + 1))  # next element in `sums`; how many to come
        after = Signal(range(2 * ABREAST))  # `column` of the element after those taken now
        index, next_index, tile_index, following = (Signal(32) for _ in range(4))
        ends_row = left <= form.abreast
        abreast = self._abreast(sums, column)
        m.d.comb += [
            elements.valid.eq(valid & ~form.exact),
            elements.payload.total.eq(abreast[0]),
            elements.payload.index.eq(index),
            elements.payload.last.eq(ends_job & ends_row),
            goes.eq(valid & Mux(form.exact, move, elements.ready)),
            after.eq(column + form.abreast),
            row.taken.eq(row.valid & (~valid | (goes & ends_row))),
            following.eq(Mux(row.ends_tile, tile_index + read.col_stride * columns, next_index + read.row_stride)),
        ]
        shifted = Cat(sums[ABREAST * SUM_BITS :], sums[-ABREAST * SUM_BITS :])
        with m.If(row.taken | (goes & (after >= ABREAST))):
            m.d.sync += sums.eq(Mux(row.taken, row.sums, shifted))
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += [next_index.eq(self.start.payload.read.index), tile_index.eq(self.start.payload.read.index)]
        with m.If(goes):
            m.d.sync += [
                left.eq(left - form.abreast),
                column.eq(after),
                index.eq(index + read.col_stride),
            ]
            with m.If(ends_row):
                m.d.sync += valid.eq(0)
        with m.If(row.taken):
            m.d.sync += [
                valid.eq(1),
                ends_job.eq(row.ends_job),
                left.eq(read.cols),
                column.eq(0),
                index.eq(next_index),
                next_index.eq(following),
            ]
            with m.If(row.ends_tile):
                m.d.sync += tile_index.eq(following)

        exact = _Sums("exact")
        with m.If(move):
            m.d.sync += exact.last.eq(ends_job & ends_row)
            for place, total in enumerate(abreast):
                used = valid & form.exact & (left > place) & (form.abreast > place)
                m.d.sync += [exact.totals[place].eq(total), exact.used[place].eq(used)]
        return exact

    @staticmethod
    def _abreast(sums: Signal, column: Signal) -> list[Value]:
        """The sums at `column`, a multiple of 4, 2 or 1, and at the columns behind it up to the next multiple."""
        at = [sums.word_select(place, SUM_BITS) for place in range(ABREAST)]
        lower, upper = Mux(column[0], at[1], at[0]), Mux(column[0], at[3], at[2])
        return [Mux(column[1], upper, lower), Mux(column[1], at[3], at[1]), at[2], at[3]]

    def _numbers(self, m: Module, form: "_Form", exact: "_Sums", results, move: Signal) -> "_Numbers":
        """Saturates exact sums, in two cycles; requantised numbers join in the second."""
        numbers = _Numbers()
        m.d.comb += results.ready.eq(move)
        outside = Signal(ABREAST)
        checked = _Sums("checked")
        with m.If(move):
            m.d.sync += [
                outside.eq(exact.used & Cat(form.outside(total) for total in exact.totals)),
                *(to.eq(total) for to, total in zip(checked.totals, exact.totals, strict=True)),
                checked.used.eq(exact.used),
                checked.last.eq(exact.last),
            ]
            for place, (total, number) in enumerate(zip(checked.totals, numbers.values, strict=True)):
                clipped = Mux(total[-1], form.lowest, form.limit)
                m.d.sync += number.eq(Mux(checked.used[place], Mux(outside[place], clipped, total), 0))
            m.d.sync += [
                numbers.count.eq(sum(checked.used)),
                numbers.clipped.eq(sum(outside)),
                numbers.last.eq(checked.last),
            ]
            with m.If(results.valid):
                m.d.sync += [
                    numbers.values[0].eq(results.payload.value),
                    numbers.count.eq(1),
                    numbers.clipped.eq(results.payload.clipped),
                    numbers.last.eq(results.payload.last),
                ]
        return numbers

    def _pack(self, m: Module, form: "_Form", numbers: "_Numbers", move: Signal) -> None:
        """Numbers into containers, containers into words: turned round to where the word before has left off."""
        piece, length = Signal(packets.WORD_BITS), Signal(range(_WORD_NIBBLES + 1))  # containers; nibbles of them
        valid, last = Signal(), Signal()
        spills = Signal()  # behind the job's last piece comes one more word
        with m.If(move):
            m.d.sync += [
                length.eq(numbers.count * form.nibbles),
                valid.eq(numbers.count != 0),
                last.eq(numbers.last),
            ]
            with m.Switch(form.nibbles):
                for nibbles in range(1, RESULT_BITS // _NIBBLE + 1):
                    with m.Case(nibbles):
                        used = numbers.values[: elements_abreast(nibbles)]
                        m.d.sync += piece.eq(Cat(number[: nibbles * _NIBBLE] for number in used))
                with m.Default():
                    m.d.sync += piece.eq(numbers.values[0].as_signed())
            with m.If(spills):
                m.d.sync += [length.eq(0), valid.eq(1), last.eq(1), piece.eq(0)]
        filled = Signal(range(_WORD_NIBBLES))  # nibbles in the word that the piece goes on with
        total = filled + length
        full = total[4]
        m.d.comb += spills.eq(valid & last & full & (total[:4] != 0))
        with m.If(move & valid):
            m.d.sync += filled.eq(Mux(last & ~spills, 0, total))

        turned = _Turned(piece, filled, full, emits=valid & (full | last), last=last & ~spills)
        for bit in range(len(filled)):
            turned = turned.by(m, move, bit)
        word, merged = Signal(packets.WORD_BITS), Signal(packets.WORD_BITS)  # what is left over; that and the piece
        for nibble in range(_WORD_NIBBLES):
            place = slice(nibble * _NIBBLE, (nibble + 1) * _NIBBLE)
            held = turned.filled > nibble if nibble < _WORD_NIBBLES - 1 else C(0, 1)
            m.d.comb += merged[place].eq(Mux(held, word[place], turned.piece[place]))
        with m.If(move):
            m.d.sync += [
                self.words.valid.eq(turned.emits),
                self.words.payload.data.eq(merged),
                self.words.payload.last.eq(turned.last),
                word.eq(Mux(turned.full, turned.piece, merged)),
            ]


def elements_abreast(nibbles: int) -> int:
    """How many exact sums are taken in one cycle, by the nibbles of their containers."""
    return next(count for count in (ABREAST, 2, 1) if count * nibbles <= _WORD_NIBBLES)


class _Form:
    """What follows from the fields of the READ under way, two cycles later.

    exact    there is nothing to round
    nibbles  of a container
    abreast  elements taken in one cycle
    limit    largest number, 32 bits, all ones
    lowest   smallest number, 32 bits
    """

    def __init__(self, m: Module, read: packets.Read) -> None:
        self.exact, self._raw, self._signed = Signal(name="exact"), Signal(name="raw"), Signal(name="signed")
        self.nibbles = Signal(range(_WORD_NIBBLES + 1), name="nibbles")
        self.abreast = Signal(range(ABREAST + 1), name="abreast")
        self.limit, self.lowest = Signal(RESULT_BITS, name="limit"), Signal(RESULT_BITS, name="lowest")
        raw = read.bits == RAW_BITS
        exact = raw | ((read.multiplier == 1) & (read.shift == 0))
        nibbles = (read.bits[:7] + _NIBBLE - 1) >> 2
        magnitude, ones = Signal(6), Signal(RESULT_BITS)  # bits of `limit`
        m.d.comb += ones.eq(~(C(2**RESULT_BITS - 1, RESULT_BITS) << magnitude))
        m.d.sync += [
            self.exact.eq(exact),
            self._raw.eq(raw),
            self._signed.eq(read.signed),
            self.nibbles.eq(nibbles),
            self.abreast.eq(Mux(~exact | raw, 1, Mux(nibbles <= _WORD_NIBBLES // ABREAST, ABREAST, 2))),
            magnitude.eq(read.bits - read.signed),
            self.limit.eq(ones),
            self.lowest.eq(Mux(self._signed, ~ones | 1, 0)),
        ]

    def outside(self, total: Value) -> Value:
        """Whether a sum lies outside `lowest` .. `limit`."""
        negative = (total[-1] & self._signed).replicate(SUM_BITS)
        too_long = ((total ^ negative) & ~Cat(self.limit, C(0, SUM_BITS - RESULT_BITS))).any()
        below_lowest = negative[0] & ~(total & self.limit).any()  # -limit - 1 is not too long
        return ~self._raw & (too_long | below_lowest)


class _Sums:
    """Exact sums side by side, as many as are `used`; `last`: the job's last ones."""

    def __init__(self, name: str) -> None:
        self.totals = [Signal(SUM_BITS, name=f"{name}_total{place}") for place in range(ABREAST)]
        self.used = Signal(ABREAST, name=f"{name}_used")
        self.last = Signal(name=f"{name}_last")


class _Numbers:
    """`count` numbers side by side, zeros behind them; `clipped` of them did not fit; `last`: the job's last ones."""

    WIDTHS = (SUM_BITS, RESULT_BITS, RESULT_BITS // 2, RESULT_BITS // 2)  # a word holds no more

    def __init__(self) -> None:
        self.values = [Signal(width, name=f"number{place}") for place, width in enumerate(self.WIDTHS)]
        self.count, self.clipped = Signal(range(ABREAST + 1)), Signal(range(ABREAST + 1))
        self.last = Signal(name="numbers_last")


class _Turned:
    """A piece on its way to the place where it goes on with a word, `filled` nibbles up, the top ones coming in below.

    full   it fills that word, and what came in below begins the next
    emits  that word is complete, or the job's last, as `last` says
    """

    def __init__(self, piece: Value, filled: Value, full: Value, emits: Value, last: Value) -> None:
        self.piece, self.filled, self.full, self.emits, self.last = piece, filled, full, emits, last

    def by(self, m: Module, move: Signal, bit: int) -> "_Turned":
        """One stage: turned by 2**`bit` nibbles if that bit of `filled` is set."""
        now = vars(self) | {"piece": Mux(self.filled[bit], self.piece.rotate_left(_NIBBLE << bit), self.piece)}
        after = {name: Signal(len(value), name=f"turned{bit}_{name}") for name, value in now.items()}
        with m.If(move):
            m.d.sync += [after[name].eq(value) for name, value in now.items()]
        return _Turned(**after)


class _Row:
    """A fetched row of partial sums, waiting to be taken apart."""

    def __init__(self, config: ArrayConfig) -> None:
        self.sums = Signal(SUM_BITS * config.columns, name="row_sums")
        self.valid = Signal(name="row_valid")
        self.taken = Signal(name="row_taken")
        self.ends_tile = Signal(name="row_ends_tile")
        self.ends_job = Signal(name="row_ends_job")
