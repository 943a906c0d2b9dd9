"""READ of SUMS: fetches rows of partial sums, makes numbers of their elements and packs these into data words."""

from math import gcd

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .compare import Comparator
from .config import ArrayConfig
from .contract import packets
from .contract.numeric import SUM_BITS
from .ports import Payload, SumRead
from .requantise import RESULT_BITS, Requantiser

RAW_BITS = packets.WORD_BITS  #: the value of `bits` that passes a sum as it is
ABREAST = 4  #: most elements in one cycle
AHEAD = 2  #: rows of sums that are fetched before they are needed: the drain may keep them waiting meanwhile
EXACT_LATENCY = 3  #: cycles from exact sums to their numbers; `Requantiser.latency` + 1 for others
MAXIMUM_LATENCY = 8  #: cycles from the last sums that are compared to the largest magnitude, as a number
PACK_LATENCY = 6  #: cycles from numbers to their word

_NIBBLE = 4
_WORD_NIBBLES = packets.WORD_BITS // _NIBBLE
_CONTAINERS = range(1, RESULT_BITS // _NIBBLE + 1)  # nibbles of a container, but of a raw sum's
_SIGNS_NIBBLES = packets.SIGN_BITS * ABREAST // _NIBBLE  # signs travel by `ABREAST` in one container


def elements_abreast(nibbles: int, filled: int = 0) -> int:
    """How many exact sums are taken in one cycle, by the nibbles of their containers.

    `ABREAST` where a word holds as many. Else as many as it takes to fill the word of which `filled` nibbles are there
    already: so each cycle gives one word, and 64 / bits sums are taken a cycle on average.
    """
    return ABREAST if ABREAST * nibbles <= _WORD_NIBBLES else -(-(_WORD_NIBBLES - filled) // nibbles)


_PIECE_NIBBLES = max(nibbles * elements_abreast(nibbles) for nibbles in _CONTAINERS)
#: of a piece that is longer than a word, what can lie behind the word that it fills
_BEYOND = _NIBBLE * max(nibbles - gcd(nibbles, _WORD_NIBBLES) for nibbles in _CONTAINERS)


class Job(data.Struct):
    """One READ of SUMS with fields already checked, and the sequence number of its frame."""

    read: packets.Read
    sequence: 16


def readout_members(config: ArrayConfig) -> dict[str, wiring.Member]:
    """As `Readout` describes them."""
    return {
        "start": In(stream.Signature(Job)),
        "busy": Out(1),
        "sequence": Out(16),
        "sum_read": Out(SumRead(config)),
        "words": Out(stream.Signature(Payload)),
        "elements": Out(range(ABREAST + 1)),
        "saturated": Out(range(ABREAST + 1)),
    }


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
    they pass by the requantiser, `elements_abreast` of a row in one cycle; others one a cycle. So where `ABREAST` exact
    sums fill a word or more, a word leaves in every cycle but those in which a row ends before it fills one. This holds
    while nothing holds it up and a row takes 2 cycles or more: the next `AHEAD` rows, 3 cycles away, are fetched
    meanwhile. Reset abandons the job.

    `compare`: `Comparator` takes `ABREAST` sums of a row in one cycle, likewise.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(readout_members(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.requantiser = requantiser = Requantiser()
        m.submodules.comparator = comparator = Comparator(ABREAST)
        assert EXACT_LATENCY - 2 + comparator.maximum_latency + 1 == MAXIMUM_LATENCY
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
            comparator.threshold.eq(Cat(read.key, read.index)),
            comparator.clear.eq(self.start.valid & self.start.ready),
            comparator.enable.eq(move),
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
        m.d.comb += [
            *(to.eq(total) for to, total in zip(comparator.totals, exact.totals, strict=True)),
            comparator.used.eq(Mux(form.compare, exact.used, 0)),
            comparator.last.eq(exact.last),
        ]
        numbers = self._numbers(m, form, exact, requantiser.results, comparator, move)
        m.d.comb += [
            self.elements.eq(Mux(move, numbers.elements, 0)),
            self.saturated.eq(Mux(move, numbers.clipped, 0)),
        ]
        self._pack(m, form, numbers, move)
        return m

    def _fetch(self, m: Module, read: packets.Read) -> "_Row":
        """Asks for the rows of the job, up to `AHEAD` of them before they are taken apart, and holds them."""
        row, spare = _Row(self.config, "row"), _Row(self.config, "spare")
        start, request = self.start.valid & self.start.ready, self.sum_read
        asked, came = _Rows("asked", read), _Rows("came", read)
        base = Signal(16)  # first row of the tile that is asked for
        ahead = Signal(range(AHEAD + 1))  # asked for and not yet taken
        accepted = request.valid & request.ready
        m.d.comb += [
            request.valid.eq((asked.tiles != 0) & ((ahead != AHEAD) | row.taken)),
            request.row.eq(base + asked.offset),
        ]
        m.d.sync += ahead.eq(ahead + accepted - row.taken)
        count, first = self.start.payload.read.count, self.start.payload.read.first
        # a job starts while none is under way: that alone chooses, and what comes late only enables
        with m.If(start | accepted):
            with m.If(~self.busy):
                m.d.sync += base.eq(first * self.config.rows)
            with m.Elif(asked.ends_tile):
                m.d.sync += base.eq(base + self.config.rows)
            asked.move(m, self.busy, count)
        with m.If(start | request.data_valid):
            came.move(m, self.busy, count)

        with m.If(row.taken):
            row.hold(m, spare.sums, spare.ends_tile, spare.ends_job, spare.valid)
            m.d.sync += spare.valid.eq(0)
        with m.If(request.data_valid):
            arrived = request.data, came.ends_tile, came.ends_job
            with m.If(Mux(row.taken, spare.valid, row.valid)):
                spare.hold(m, *arrived)
            with m.Else():
                row.hold(m, *arrived)
        return row

    def _take_apart(self, m: Module, read: packets.Read, form: "_Form", row: "_Row", elements, move: Signal) -> "_Sums":
        """Takes fetched rows apart: exact sums several a cycle, others one by one with their places in the tensor."""
        columns = self.config.columns
        sums = Signal(SUM_BITS * max(columns, ABREAST))  # the next `ABREAST` and all behind them
        valid, ends_job, goes = Signal(), Signal(), Signal()
        column, left = Signal(range(ABREAST)), Signal(range(columns + 1))  # next element in `sums`; how many to come
        after = Signal(range(2 * ABREAST))  # `column` of the element after those taken now
        most = Signal(range(ABREAST + 1))  # elements that are taken now, if the row has as many
        index, next_index, tile_index, following = (Signal(32) for _ in range(4))
        ends_row = left <= most
        abreast = self._abreast(sums, column)
        self._pace(m, form, most, valid, goes, Mux(ends_row, left[: len(most)], most))
        m.d.comb += [
            elements.valid.eq(valid & ~form.exact),
            elements.payload.total.eq(abreast[0]),
            elements.payload.index.eq(index),
            elements.payload.last.eq(ends_job & ends_row),
            goes.eq(valid & Mux(form.exact, move, elements.ready)),
            after.eq(column + most),
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
                left.eq(left - most),
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
                used = valid & form.exact & (left > place) & (most > place)
                m.d.sync += [exact.totals[place].eq(total), exact.used[place].eq(used)]
        return exact

    def _pace(self, m: Module, form: "_Form", most: Signal, valid: Signal, goes: Signal, taken: Value) -> None:
        """Sets `most` for the next cycle: what fills the word that the elements taken so far have left off in."""
        filled, next_filled, next_most = Signal(range(_WORD_NIBBLES)), Signal(range(_WORD_NIBBLES)), Signal.like(most)
        m.d.comb += [next_filled.eq(Mux(valid, filled + _times(taken, form.nibbles), filled)), next_most.eq(1)]
        with m.If(form.exact), m.Switch(form.nibbles):  # raw sums: no case
            for nibbles in _CONTAINERS:
                with m.Case(nibbles):
                    table = Array(elements_abreast(nibbles, place) for place in range(_WORD_NIBBLES))
                    m.d.comb += next_most.eq(table[next_filled])
        with m.If(goes | ~valid):  # `goes` comes late: it only enables
            m.d.sync += [filled.eq(next_filled), most.eq(next_most)]
        with m.If(self.start.valid & self.start.ready):
            m.d.sync += filled.eq(0)

    @staticmethod
    def _abreast(sums: Signal, column: Signal) -> list[Value]:
        """The sum at `column` of `sums`, and those at the columns behind it."""
        held = [sums.word_select(place, SUM_BITS) for place in range(len(sums) // SUM_BITS)][: 2 * ABREAST - 1]
        at = held + [held[-1]] * (2 * ABREAST - 1 - len(held))  # behind the array's last column, not used
        for bit in reversed(range(len(column))):
            at = [Mux(column[bit], at[place + 2**bit], at[place]) for place in range(len(at) - 2**bit)]
        return at

    def _numbers(
        self, m: Module, form: "_Form", exact: "_Sums", results, comparator: Comparator, move: Signal
    ) -> "_Numbers":
        """Saturates exact sums, in two cycles; requantised numbers, and signs, join in the second."""
        numbers = _Numbers()
        m.d.comb += results.ready.eq(move)
        outside, used = Signal(ABREAST), Signal(ABREAST)
        m.d.comb += used.eq(Mux(form.compare, 0, exact.used))
        checked = _Sums("checked")
        with m.If(move):
            m.d.sync += [
                outside.eq(used & Cat(form.outside(total) for total in exact.totals)),
                *(to.eq(total) for to, total in zip(checked.totals, exact.totals, strict=True)),
                checked.used.eq(used),
                checked.last.eq(exact.last),
            ]
            for place, (total, number) in enumerate(zip(checked.totals, numbers.values, strict=True)):
                clipped = Mux(total[-1], form.lowest, form.limit)
                m.d.sync += number.eq(Mux(checked.used[place], Mux(outside[place], clipped, total), 0))
            m.d.sync += [
                numbers.count.eq(sum(checked.used)),
                numbers.elements.eq(sum(checked.used)),
                numbers.clipped.eq(sum(outside)),
                numbers.last.eq(checked.last),
                numbers.ends_word.eq(0),
                numbers.whole.eq(0),
            ]
            with m.If(results.valid):
                m.d.sync += [
                    numbers.values[0].eq(results.payload.value),
                    numbers.count.eq(1),
                    numbers.elements.eq(1),
                    numbers.clipped.eq(results.payload.clipped),
                    numbers.last.eq(results.payload.last),
                ]
            with m.If(form.compare):
                m.d.sync += [
                    numbers.values[0].eq(Mux(comparator.maximum_valid, comparator.maximum, comparator.codes)),
                    numbers.count.eq(comparator.valid | comparator.maximum_valid),
                    numbers.elements.eq(comparator.elements),
                    numbers.last.eq(comparator.maximum_valid),
                    numbers.ends_word.eq(comparator.ends),
                    numbers.whole.eq(comparator.maximum_valid),
                ]
        return numbers

    def _pack(self, m: Module, form: "_Form", numbers: "_Numbers", move: Signal) -> None:
        """Numbers into containers, containers into words: turned round to where the word before has left off."""
        piece = Signal(packets.WORD_BITS + _BEYOND)  # containers
        length = Signal(range(_PIECE_NIBBLES + 1))  # nibbles of them
        valid, last = Signal(), Signal()
        ends_word = Signal()  # the word is sent as it is
        spills = Signal()  # behind the job's last piece comes one more word
        with m.If(move):
            m.d.sync += [
                length.eq(Mux(numbers.whole, _WORD_NIBBLES, _times(numbers.count, form.nibbles))),
                valid.eq(numbers.count != 0),
                last.eq(numbers.last),
                ends_word.eq(numbers.ends_word),
            ]
            with m.Switch(form.nibbles):
                for nibbles in _CONTAINERS:
                    with m.Case(nibbles):
                        used = numbers.values[: elements_abreast(nibbles)]
                        m.d.sync += piece.eq(Cat(number[: nibbles * _NIBBLE] for number in used))
                with m.Default():
                    m.d.sync += piece.eq(numbers.values[0].as_signed())
            with m.If(numbers.whole):
                m.d.sync += piece.eq(numbers.values[0])
            with m.If(spills):
                m.d.sync += [length.eq(0), valid.eq(1), last.eq(1), piece.eq(0)]
        filled = Signal(range(_WORD_NIBBLES))  # nibbles in the word that the piece goes on with
        total = filled + length
        full = total[4]
        m.d.comb += spills.eq(valid & last & full & (total[:4] != 0))
        with m.If(move & valid):
            m.d.sync += filled.eq(Mux((last & ~spills) | ends_word, 0, total))

        turned = _Turned(piece, filled, full, emits=valid & (full | last | ends_word), last=last & ~spills)
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
                word.eq(Mux(turned.full, turned.rest, merged)),
            ]


def _times(count: Value, nibbles: Value) -> Value:
    """Their product, without a multiplier."""
    return sum(Mux(bit, nibbles, 0) << place for place, bit in enumerate(count))


class _Form:
    """What follows from the fields of the READ under way, two cycles later.

    exact    there is nothing to round
    compare  signs are wanted
    nibbles  of a container
    limit    largest number, 32 bits, all ones
    lowest   smallest number, 32 bits
    """

    def __init__(self, m: Module, read: packets.Read) -> None:
        self.exact, self._raw, self._signed = Signal(name="exact"), Signal(name="raw"), Signal(name="signed")
        self.compare = Signal(name="compare")
        self.nibbles = Signal(range(_WORD_NIBBLES + 1), name="nibbles")
        self.limit, self.lowest = Signal(RESULT_BITS, name="limit"), Signal(RESULT_BITS, name="lowest")
        raw = read.bits == RAW_BITS
        exact = raw | ((read.multiplier == 1) & (read.shift == 0)) | read.compare
        nibbles = Mux(read.compare, _SIGNS_NIBBLES, (read.bits[:7] + _NIBBLE - 1) >> 2)
        magnitude, ones = Signal(6), Signal(RESULT_BITS)  # bits of `limit`
        m.d.comb += ones.eq(~(C(2**RESULT_BITS - 1, RESULT_BITS) << magnitude))
        m.d.sync += [
            self.exact.eq(exact),
            self.compare.eq(read.compare),
            self._raw.eq(raw),
            self._signed.eq(read.signed),
            self.nibbles.eq(nibbles),
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
    """`count` numbers side by side, zeros behind them; `last`: the job's last ones.

    elements   how many sums they come from; `clipped` of them did not fit
    ends_word  nothing follows in their word
    whole      there is one, a word by itself
    """

    def __init__(self) -> None:
        most = [max(size for size in _CONTAINERS if elements_abreast(size) > place) for place in range(1, ABREAST)]
        widths = SUM_BITS, *(_NIBBLE * nibbles for nibbles in most)  # a word takes no wider ones side by side
        self.values = [Signal(width, name=f"number{place}") for place, width in enumerate(widths)]
        self.count, self.clipped = Signal(range(ABREAST + 1)), Signal(range(ABREAST + 1))
        self.elements = Signal(range(ABREAST + 1), name="numbers_elements")
        self.last = Signal(name="numbers_last")
        self.ends_word, self.whole = Signal(), Signal()


class _Turned:
    """A piece on its way to the place where it goes on with a word, `filled` nibbles up.

    What leaves the word at its top comes in below, and the first `_BEYOND` bits of it come in behind the word as well:
    there is the rest of a piece that is longer than a word.

    full   it fills that word, and `rest` begins the next
    emits  that word is complete, or the job's last, as `last` says
    """

    def __init__(self, piece: Value, filled: Value, full: Value, emits: Value, last: Value) -> None:
        self.piece, self.filled, self.full, self.emits, self.last = piece, filled, full, emits, last

    @property
    def rest(self) -> Value:
        """What lies behind the word."""
        return Cat(self.piece[packets.WORD_BITS :], self.piece[_BEYOND : packets.WORD_BITS])

    def by(self, m: Module, move: Signal, bit: int) -> "_Turned":
        """One stage: turned by 2**`bit` nibbles if that bit of `filled` is set."""
        size, word = _NIBBLE << bit, self.piece[: packets.WORD_BITS]
        turned = Cat(word.rotate_left(size), self.piece[packets.WORD_BITS - size : len(self.piece) - size])
        now = vars(self) | {"piece": Mux(self.filled[bit], turned, self.piece)}
        after = {name: Signal(len(value), name=f"turned{bit}_{name}") for name, value in now.items()}
        with m.If(move):
            m.d.sync += [after[name].eq(value) for name, value in now.items()]
        return _Turned(**after)


class _Rows:
    """Goes through the rows of a job: how many tiles are left, and the place in the tile."""

    def __init__(self, name: str, read: packets.Read) -> None:
        self.offset, self.tiles = Signal(8, name=f"{name}_offset"), Signal(16, name=f"{name}_tiles")
        self.ends_tile = self.offset == read.rows - 1
        self.ends_job = self.ends_tile & (self.tiles == 1)

    def move(self, m: Module, goes_on: Value, count: Value) -> None:
        """To the next row, or else to the first one of a job of `count` tiles."""
        with m.If(~goes_on):
            m.d.sync += [self.offset.eq(0), self.tiles.eq(count)]
        with m.Elif(self.ends_tile):
            m.d.sync += [self.offset.eq(0), self.tiles.eq(self.tiles - 1)]
        with m.Else():
            m.d.sync += self.offset.eq(self.offset + 1)


class _Row:
    """A fetched row of partial sums, waiting to be taken apart."""

    def __init__(self, config: ArrayConfig, name: str) -> None:
        self.sums = Signal(SUM_BITS * config.columns, name=f"{name}_sums")
        self.valid = Signal(name=f"{name}_valid")
        self.taken = Signal(name=f"{name}_taken")
        self.ends_tile = Signal(name=f"{name}_ends_tile")
        self.ends_job = Signal(name=f"{name}_ends_job")

    def hold(self, m: Module, sums: Value, ends_tile: Value, ends_job: Value, valid: Value | int = 1) -> None:
        m.d.sync += [
            self.sums.eq(sums),
            self.ends_tile.eq(ends_tile),
            self.ends_job.eq(ends_job),
            self.valid.eq(valid),
        ]
