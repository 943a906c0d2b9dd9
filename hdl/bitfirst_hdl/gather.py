"""The gather unit: parts of a tensor in the store to operand cells (im2col, transposition, zero halo).

What a LOAD gathers is said in `contract.packets.Load`; this is how many cycles it takes, to the cycle.

A *fetch* reads the two store words E // 16 and E // 16 + 1, where E is the address (in elements, signed) of the first
element it wants, and uses up to 32 - E % 16 elements of them. When its row is outside the image it reads nothing, but
takes its turn; elements of the halo left or right do not save the read. w(k) is the cycles that k chunks of one vector
in a row take to be written: k for A; for B, which takes as many as have 32 lanes in a cycle, k / 2 rounded up (L = 16)
or k. Octets go one after the other, each in T cycles:

along   Each position takes its taps in order, each fetch n = min(32 - E % 16, what is left of the run, taps left) of
        them, and max(1, w(done)) cycles, where `done` chunks of L lanes are completed by it: at a position's last
        fetch also a chunk that is partly filled. The vectors missing in the last tile follow, w(chunks) cycles each.
across  Tap groups in order: up to 16 places of one line, counted from where the load's part of the line begins. For
        each, blocks of 16 positions in order, chunks * L / 16 of them. A block is filled in 16 cycles, a fetch each (a
        position behind the last reads nothing), and drained in n * w(1) cycles for n taps, one chunk at a time. There
        are two buffers: a fill starts when the fill before it and the drain two before it have ended, a drain when its
        fill and the drain before it have. After the last drain the vectors missing in the last tile follow, w(chunks)
        cycles each.

The unit is busy for LOAD_SETUP_CYCLES + octets * T + LOAD_TAIL_CYCLES cycles, and for as many more as the store is
not ready.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from amaranth.hdl import Cat, Const, EnableInserter, Module, Mux, Signal, Value, signed
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .config import LOAD_SETUP_CYCLES, LOAD_TAIL_CYCLES, ArrayConfig
from .contract.packets import GROUP, LIST_ENTRIES, OCTET_BITS, Target
from .operands import NO_COLLISIONS
from .ports import CellWrite, GatherEvents, GatherJob, MemoryWrite, StoreRead

RING = 2 * GROUP  #: elements of one fetch: the lanes of the rotator, an element on lane E % 32

# cycles of the set-up, counted from 0
START_STEP = 6  #: the first position enters
TAPS_STEP = 8  #: the first position is complete, and the first tap's place
RUN_STEP = LOAD_SETUP_CYCLES - 1  #: the first fetch is ready after this one

# stages of the data path, counted from the cycle in which the store sees the word
DATA_STAGE = 2  #: the store's answer, before the rotator
TURNED_STAGE = 5  #: fetched elements on their lanes, masked
CELL_STAGE = 7  #: a chunk is written; the first stage comes a cycle after the fetch takes its turn

X_BITS = 41  #: signed elements from the row's first to a position's pixel: (2**15 + 2**16 * 2**7) * 2**16
Y_BITS = 25  #: signed row of a position: 2**15 + 2**16 * 2**7


def address_bits(config: ArrayConfig) -> int:
    """Width of an element's address in the store."""
    return exact_log2(config.store_words * GROUP)


def lane_bits(config: ArrayConfig) -> int:
    """Width of a lane number in a chunk."""
    return exact_log2(config.lanes)


def delayed(m: Module, value: Value, cycles: int, name: str) -> list[Value]:
    """`value` after 0 .. `cycles` cycles; it is 0 after reset."""
    line = [value]
    for index in range(1, cycles + 1):
        later = Signal(value.shape(), name=f"{name}_{index}")
        m.d.sync += later.eq(line[-1])
        line.append(later)
    return line


def turned(plane: Value, places: int, turn: Value) -> Value:
    """Bit i of `plane` moves to i + `places` (round the end) if `turn` is high."""
    return Mux(turn, plane.rotate_left(places), plane)


def registered(m: Module, planes: Sequence[Value], name: str) -> list[Value]:
    """A register for each plane."""
    later = [Signal(len(plane), name=f"{name}_{index}", reset_less=True) for index, plane in enumerate(planes)]
    m.d.sync += [after.eq(before) for after, before in zip(later, planes, strict=True)]
    return later


def at_most(value: Value, bound: int) -> Value:
    """value <= bound, without a comparison where that is always so."""
    return Const(1, 1) if bound >= 2 ** len(value) - 1 else value <= bound


def left_of_row(x: Value) -> Value:
    """How many of the `RING` elements from element `x` (signed) on lie left of the row."""
    return Mux(x[-1], Mux(x[5:].all(), RING - x[:5], RING), 0)


def start_layout(config: ArrayConfig) -> data.StructLayout:
    """What the set-up computes. Addresses are in elements, modulo the store's size.

    x_step, y_step        elements from one X, and address from one Y, to the next
    x_zero, y_zero        elements of X = 0, address of Y = 0
    x, y_row, image       the same of the first position; address of its image
    y                     row of the first position
    line                  address of the first line of taps
    low                   address of the first tap, modulo 16
    segment, after        taps on the first line, taps after it
    chunks, stride        chunks of a vector; cells from one tile to the next
    turns, missing        positions of an octet, with those that fill the last chunk (across); how many of these
    """
    address = address_bits(config)
    return data.StructLayout(
        {
            "x_step": signed(25),
            "y_step": address,
            "x_zero": signed(32),
            "y_zero": address,
            "x": signed(X_BITS),
            "y_row": address,
            "image": address,
            "y": signed(Y_BITS),
            "line": address,
            "low": exact_log2(GROUP),
            "segment": 16,
            "after": 16,
            "chunks": 13,
            "stride": 14,
            "turns": 17,
            "missing": lane_bits(config),
        }
    )


class Setup(wiring.Component):
    """Products and counts that a LOAD starts from, with two multipliers.

    Members
    -------
    job : In(GatherJob)
        Holds still while it is worked on.
    step : In
        Cycle of the set-up, 0 in the first.
    listed : In
        From step 5 on the entry of the row list for the first image.
    start : Out(start_layout(config))
        All but `line` and `low` are right from step 6 on, `line` from 7, `low` from 8.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "job": In(GatherJob),
                "step": In(range(LOAD_SETUP_CYCLES)),
                "listed": In(address_bits(config)),
                "start": Out(start_layout(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load, start = self.job.load, self.start
        x_product, y_product = self._products(m)
        with m.Switch(self.step):
            with m.Case(2):
                m.d.sync += [start.x_step.eq(x_product), start.y_step.eq(y_product)]
            with m.Case(3):
                m.d.sync += [start.x_zero.eq(x_product), start.y_zero.eq(y_product)]
            with m.Case(4):
                m.d.sync += [start.x.eq(start.x_zero + x_product), start.y_row.eq(start.y_zero + y_product)]
            with m.Case(5):
                m.d.sync += start.image.eq(Mux(load.listed, self.listed, x_product))
                m.d.sync += [start.y.eq(load.y_start.as_signed() + y_product)]
            with m.Case(6):
                m.d.sync += start.line.eq(y_product)
        m.d.sync += start.low.eq(start.line + load.place_first)
        self._counts(m)
        return m

    def _products(self, m: Module) -> tuple[Signal, Signal]:
        """Operands are chosen in one cycle, multiplied in the next; the product is there in the one after."""
        load, place = self.job.load, self.job.tensor
        y_bits = max(address_bits(self.config), 16)
        x_factor, y_factor = Signal(signed(25)), Signal(signed(y_bits))
        x_other, y_other = Signal(16), Signal(16)
        x_product, y_product = Signal(signed(X_BITS)), Signal(signed(y_bits + 16))
        m.d.sync += [x_product.eq(x_factor * x_other), y_product.eq(y_factor * y_other)]
        choices = (
            (load.x_step.as_signed(), place.c, load.y_step.as_signed(), place.row),
            (load.x_start.as_signed(), place.c, load.y_start.as_signed(), place.row),
            (x_product, load.x_first, y_product, load.y_first),
            (load.n_first, place.image, load.y_step.as_signed(), load.y_first),
            (load.n_first, place.image, load.line_first, place.row),
        )
        with m.Switch(self.step):
            for step, choice in enumerate(choices):
                with m.Case(step):
                    operands = zip((x_factor, x_other, y_factor, y_other), choice, strict=True)
                    m.d.sync += [operand.eq(value) for operand, value in operands]
        return x_product, y_product

    def _counts(self, m: Module) -> None:
        load, start, lanes = self.job.load, self.start, self.config.lanes
        room, beyond = Signal(16), Signal(signed(17))
        count, rounded = Signal(16), Signal(17)
        m.d.sync += [
            room.eq(load.run - load.place_first),
            count.eq(Mux(load.across, load.positions, load.taps)),
            rounded.eq(count + (lanes - 1)),
            start.segment.eq(Mux(beyond < 0, load.taps, room)),
            start.after.eq(Mux(beyond < 0, 0, beyond)),
            start.chunks.eq(rounded >> lane_bits(self.config)),
            start.stride.eq(start.chunks << self.job.tensor.octets[1]),
            start.turns.eq(Mux(load.across, start.chunks * lanes, load.positions)),
            start.missing.eq(-count),
        ]
        m.d.comb += beyond.eq(load.taps - room)


class RowList(wiring.Component):
    """Where the images of a listed LOAD begin: `LIST_ENTRIES` addresses of elements.

    Members
    -------
    write : In(MemoryWrite())
        Stores the low bits of a word in entry `row`. Not while a LOAD runs.
    enable, index : In
        Reads an entry.
    image : Out
        It, a cycle after `enable`, until the next one. The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "enable": In(1),
                "index": In(range(LIST_ENTRIES)),
                "image": Out(address_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.entries = entries = memory.Memory(
            shape=address_bits(self.config), depth=LIST_ENTRIES, init=[], attrs=NO_COLLISIONS
        )
        read_port, write_port = entries.read_port(domain="comb"), entries.write_port()
        m.d.comb += [
            write_port.en.eq(self.write.valid),
            write_port.addr.eq(self.write.row),
            write_port.data.eq(self.write.data),
            read_port.addr.eq(self.index),
        ]
        with m.If(self.enable):
            m.d.sync += self.image.eq(read_port.data)
        return m


def position_layout(config: ArrayConfig) -> data.StructLayout:
    """One position on its way to a fetch.

    address  of its pixel, without octet and taps
    x        elements from the row's first to its pixel
    y        its row
    live     it is a position of the load, not one that fills the last chunk
    last     the last one of an octet
    """
    members = {"address": address_bits(config), "x": signed(X_BITS), "y": signed(Y_BITS), "live": 1, "last": 1}
    return data.StructLayout(members)


class Positions(wiring.Component):
    """The positions of a LOAD in order, round and round; a new one each cycle.

    Members
    -------
    job, start : In
        As in `Setup`.
    set_up : In(1)
        Before `load`; two cycles at least, in which `listed` becomes that of the first position.
    load : In(1)
        Enter the first position; it is at `now` after two steps.
    step : In(1)
        Go on to the next position. Not together with `load`.
    now : Out(position_layout(config))
        The present position, registered.
    next_low : Out(4)
        Address of the next position's pixel, modulo 16.
    list_enable, list_index, listed
        To the `RowList`.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "job": In(GatherJob),
                "start": In(start_layout(config)),
                "set_up": In(1),
                "load": In(1),
                "step": In(1),
                "now": Out(position_layout(config)),
                "next_low": Out(exact_log2(GROUP)),
                "list_enable": Out(1),
                "list_index": Out(range(LIST_ENTRIES)),
                "listed": In(address_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load, place, start, now = self.job.load, self.job.tensor, self.start, self.now
        address = address_bits(self.config)
        image = Signal(address)
        y, y_row, x = Signal(signed(Y_BITS)), Signal(address), Signal(signed(X_BITS))
        turns, last_turn = Signal(17), Signal()
        # `step` comes late: it only enables what is decided without it
        moves, first = self.load | self.step, self.load | last_turn
        carry_x, carry_y, carry_n, x_wraps, y_wraps, n_wraps = self._carries(m, moves, first)
        self._look_up(m, moves & (first | carry_n), first)
        with m.If(moves):
            with m.If(first):
                m.d.sync += [turns.eq(start.turns), last_turn.eq(start.turns == 1), image.eq(start.image)]
                m.d.sync += [y.eq(start.y), y_row.eq(start.y_row), x.eq(start.x)]
            with m.Else():
                m.d.sync += [turns.eq(turns - 1), last_turn.eq(turns == 2)]
                with m.If(carry_x):
                    m.d.sync += x.eq(Mux(x_wraps, start.x_zero, x + start.x_step))
                with m.If(carry_y):
                    m.d.sync += y.eq(Mux(y_wraps, load.y_start.as_signed(), y + load.y_step.as_signed()))
                    m.d.sync += y_row.eq(Mux(y_wraps, start.y_zero, y_row + start.y_step))
                with m.If(carry_n):
                    following = Mux(n_wraps, 0, image + place.image)
                    m.d.sync += image.eq(Mux(load.listed, self.listed, following))

        rows, pixels = Signal(address, reset_less=True), Signal(address, reset_less=True)
        late = Signal(position_layout(self.config), reset_less=True)
        low = len(self.next_low)
        m.d.comb += self.next_low.eq(rows[:low] + pixels[:low])
        with m.If(self.step):
            m.d.sync += [
                rows.eq(image + y_row),
                pixels.eq((place.word << low) + x),
                late.x.eq(x),
                late.y.eq(y),
                late.live.eq(~(load.across & (turns <= start.missing))),
                late.last.eq(last_turn),
                now.eq(late),
                now.address.eq(rows + pixels),
            ]
        return m

    def _look_up(self, m: Module, goes_on: Value, first: Value) -> None:
        """The list's entry for the image after the present one, always one ahead."""
        ahead, begin = Signal.like(self.list_index), self.job.load.n_first
        m.d.comb += self.list_enable.eq(self.set_up | goes_on)
        with m.If(self.set_up):
            m.d.comb += self.list_index.eq(begin)
        with m.Else():
            m.d.comb += self.list_index.eq(Mux(first, begin + 1, ahead))
        with m.If(goes_on):
            m.d.sync += ahead.eq(self.list_index + 1)

    def _carries(self, m: Module, moves: Value, first: Value) -> list[Value]:
        """Which of x, y, n move on at a step, and which of these start anew."""
        load, place = self.job.load, self.job.tensor
        x_left, y_left, n_left = Signal(16), Signal(16), Signal(16)  # turns after this one
        counts = (
            (x_left, load.x_count, load.x_first),
            (y_left, load.y_count, load.y_first),
            (n_left, place.n, load.n_first),
        )
        wraps, carries = [], []
        for left, count, begin in counts:
            carry, wrap = Signal(), Signal()
            m.d.comb += wrap.eq(left == 0)
            base, minus = Mux(first, count, Mux(wrap, count, left)), Mux(first, begin, 0)
            with m.If(moves & (first | carry)):
                m.d.sync += left.eq(base - minus - 1)
            wraps.append(wrap)
            carries.append(carry)
        carry_x, carry_y, carry_n = carries
        x_last, y_last, n_last = wraps
        m.d.comb += [
            carry_x.eq(~load.n_fast | n_last),
            carry_y.eq(x_last & carry_x),
            carry_n.eq(load.n_fast | (x_last & y_last)),
        ]
        return [carry_x, carry_y, carry_n, x_last, y_last, n_last]


def fetch_layout(config: ArrayConfig) -> data.StructLayout:
    """One fetch.

    address      of its first element, without octet
    count        elements, 1 .. 32
    low          how many of them lie left of the row
    room         elements from its first to the row's end, signed
    live         it reads: its row is in the image, and its position is one of the load
    lane         along: lane of its first element in the chunk; across: position in the block
    done         along: chunks that it completes
    vector_last  along: the last one of its position
    final        the last one of the octet
    """
    return data.StructLayout(
        {
            "address": address_bits(config),
            "count": 6,
            "low": 6,
            "room": signed(X_BITS + 2),
            "live": 1,
            "lane": lane_bits(config),
            "done": 2,
            "vector_last": 1,
            "final": 1,
        }
    )


class Fetches(wiring.Component):
    """The fetches of a LOAD in order, octet after octet; a new one each cycle.

    Members
    -------
    job, start, step : In
        As in `Setup`.
    set_up : In(1)
        `step` counts.
    advance : In(1)
        Go on to the next fetch. Not while `set_up`.
    now : Out(fetch_layout(config))
        The present fetch, registered; the first one after the set-up.
    list_enable, list_index, listed
        As in `Positions`.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "job": In(GatherJob),
                "start": In(start_layout(config)),
                "step": In(range(LOAD_SETUP_CYCLES)),
                "set_up": In(1),
                "advance": In(1),
                "now": Out(fetch_layout(config)),
                "list_enable": Out(1),
                "list_index": Out(range(LIST_ENTRIES)),
                "listed": In(address_bits(config)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.positions = positions = Positions(self.config)
        position, load = positions.now, self.job.load
        move, restart, taps_last = Signal(), Signal(), Signal()
        before_taps = self.set_up & (self.step > START_STEP) & (self.step <= TAPS_STEP)
        m.d.comb += [
            positions.job.eq(self.job),
            positions.start.eq(self.start),
            positions.set_up.eq(self.set_up & (self.step < START_STEP)),
            positions.load.eq(self.set_up & (self.step == START_STEP)),
            positions.listed.eq(self.listed),
            self.list_enable.eq(positions.list_enable),
            self.list_index.eq(positions.list_index),
            restart.eq(self.set_up & (self.step == TAPS_STEP)),
            move.eq(self.advance | (self.set_up & (self.step > TAPS_STEP))),
            positions.step.eq(before_taps | (move & (load.across | taps_last))),
        ]
        line, row, place, count = self._taps(m, positions, move & (~load.across | position.last), restart, taps_last)

        early = Signal(fetch_layout(self.config), reset_less=True)  # the fields that are known at once
        x, y, offset = Signal(signed(X_BITS + 1)), Signal(signed(Y_BITS + 1)), Signal(16)
        with m.If(move):
            m.d.sync += [
                early.address.eq(position.address + line),
                early.count.eq(count),
                early.live.eq(position.live),
                early.vector_last.eq(taps_last),
                early.final.eq(taps_last & position.last),
                x.eq(position.x + place),
                y.eq(position.y + row),
                offset.eq(place),
            ]
        self._complete(m, move, early, x, y, offset)
        return m

    def _taps(
        self, m: Module, positions: Positions, step: Value, restart: Value, last: Signal
    ) -> tuple[Signal, Signal, Signal, Signal]:
        """Pieces of the lines of taps: address and number of the line, first place, and how many taps."""
        load, start, position = self.job.load, self.start, positions.now
        line, row, place = Signal.like(start.line), Signal(17), Signal(16)
        left, after, limit = Signal(16), Signal(16), Signal(range(RING + 1))
        count, next_line, ends = Signal(range(RING + 1)), Signal.like(line), Signal()
        beyond = Signal(signed(17))
        low, low_of_line = Signal(exact_log2(GROUP)), Signal(exact_log2(GROUP))  # of the first line, of the next one
        m.d.comb += [
            next_line.eq(line + self.job.tensor.row),
            ends.eq(left <= limit),
            count.eq(Mux(ends, left, limit)),
            last.eq(ends & (after == 0)),
            beyond.eq(after - load.run),
            low.eq(positions.next_low + start.low),
            low_of_line.eq(position.address + next_line),
        ]
        with m.If(restart | (step & last)):
            m.d.sync += [line.eq(start.line), row.eq(load.line_first), place.eq(load.place_first)]
            m.d.sync += [left.eq(start.segment), after.eq(start.after), limit.eq(RING - low)]
        with m.Elif(step & ends):
            m.d.sync += [line.eq(next_line), row.eq(row + 1), place.eq(0)]
            m.d.sync += [left.eq(Mux(beyond < 0, after, load.run)), after.eq(Mux(beyond < 0, 0, beyond))]
            m.d.sync += limit.eq(RING - low_of_line)
        with m.Elif(step):  # a piece that goes on in its line begins a word
            m.d.sync += [place.eq(place + limit), left.eq(left - limit), limit.eq(RING)]
        with m.If(load.across):
            m.d.sync += limit.eq(GROUP)
        return line, row, place, count

    def _complete(self, m: Module, move: Value, early: data.View, x: Signal, y: Signal, offset: Signal) -> None:
        """Where the fetch begins, what it may use, which chunks it completes."""
        now, place, across = self.now, self.job.tensor, self.job.load.across
        lanes, lane = self.config.lanes, Signal(lane_bits(self.config))
        end = Signal(range(lanes + RING))
        m.d.comb += end.eq(lane + early.count)
        with m.If(move):
            m.d.sync += [
                now.eq(early),
                now.address.eq(early.address + offset),
                now.low.eq(left_of_row(x)),
                now.room.eq(place.row - x),
                now.live.eq(early.live & (y[16:] == 0) & (y[:16] < place.h)),
                now.lane.eq(lane),
                now.done.eq((end >> len(lane)) + (early.vector_last & (end[: len(lane)] != 0))),
                lane.eq(Mux(early.vector_last, 0, end)),
            ]
            with m.If(across):
                m.d.sync += [now.done.eq(0), lane.eq((lane + 1) % GROUP)]
        with m.If(self.set_up & (self.step <= TAPS_STEP + 1)):
            m.d.sync += lane.eq(0)


def step_layout(config: ArrayConfig) -> data.StructLayout:
    """What happens in one cycle, on its way down the data path.

    fetch              a fetch takes its turn: its elements are turned to their lanes
    fill, buffer       across: they go to the transposer's `buffer`, as position `lane`
    lane               along: lane of its first element in the chunk; across: position in the block
    feed, nth          along: the fetch feeds a chunk, the nth of those that it feeds, from 0
    full               along: it completes the chunk
    both               target B: the chunk behind it is complete too, and written with it
    drain, tap, other  across: vector `tap` of the transposer's buffer `other` is written
    emit, cell, vector, groups, octet  a cell is written
    """
    return data.StructLayout(
        {
            "fetch": 1,
            "fill": 1,
            "buffer": 1,
            "lane": lane_bits(config),
            "feed": 1,
            "nth": 2,
            "full": 1,
            "both": 1,
            "drain": 1,
            "tap": exact_log2(GROUP),
            "other": 1,
            "emit": 1,
            "cell": 14,
            "vector": 6,
            "groups": config.b_chunks * config.lane_groups,
            "octet": 1,
        }
    )


class Turns(wiring.Component):
    """Who takes a turn in which cycle: fetches, drains of the transposer, cells, zero cells.

    Members
    -------
    job, start : In
        As in `Setup`.
    clear : In(1)
        During the set-up.
    run : In(1)
        From the end of the set-up until `finished`.
    fetch : In(fetch_layout(config))
        The present fetch.
    advance : Out(1)
        It ends its turn in this cycle.
    now : Out(step_layout(config))
        What happens in this cycle.
    finished : Out(1)
        This is the last cycle.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "job": In(GatherJob),
                "start": In(start_layout(config)),
                "clear": In(1),
                "run": In(1),
                "fetch": In(fetch_layout(config)),
                "advance": Out(1),
                "now": Out(step_layout(config)),
                "finished": Out(1),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        load, now = self.job.load, self.now
        self.zeros = zeros = Signal()  # the missing vectors are being written
        self.both = both = Signal()  # two chunks are written
        along, across = Signal(), Signal()
        m.d.comb += [
            along.eq(self.run & ~zeros & ~load.across),
            across.eq(self.run & ~zeros & load.across),
            now.both.eq(both),
        ]
        with m.If(self.run & zeros):
            m.d.comb += now.emit.eq(1)
        vector_end = self._along(m, along)
        block_end, final_block = self._across(m, across)
        self._cells(m, across, vector_end, block_end, final_block)
        with m.If(load.across):
            m.d.comb += self.advance.eq(now.fill)
        return m

    def _along(self, m: Module, along: Signal) -> Value:
        """A fetch and the chunks that it feeds; returns: a position ends."""
        now, fetch = self.now, self.fetch
        nth, advance = Signal(2), Signal()
        waits = fetch.done != 0
        if self.config.b_chunks > 1:
            with m.If(along):
                m.d.comb += self.both.eq(self.job.load.target & (nth == 0) & fetch.done[1])
        m.d.comb += [
            advance.eq(along & (~waits | (now.emit & (nth + 1 + self.both == fetch.done)))),
            self.advance.eq(advance),
            now.feed.eq(along),
            now.nth.eq(nth),
            now.full.eq(waits),
            now.lane.eq(fetch.lane),
        ]
        with m.If(along):
            m.d.comb += [now.fetch.eq(nth == 0), now.emit.eq(waits)]
            m.d.sync += nth.eq(Mux(advance, 0, nth + now.emit + self.both))
        return advance & fetch.vector_last

    def _across(self, m: Module, across: Signal) -> tuple[Value, Value]:
        """Fill and drain the two buffers; returns: a block ends, and it is the last of the octet."""
        now, fetch = self.now, self.fetch
        self.closed = Signal()  # the octet's last block is filled
        block = data.StructLayout({"taps": range(GROUP + 1), "final": 1})
        filled, draining, pending = Signal(block), Signal(block), Signal(block)
        active, waiting = Signal(), Signal()
        buffer, other, tap = Signal(), Signal(), Signal.like(now.tap)
        fill, fill_end, drain_end = Signal(), Signal(), Signal()
        m.d.comb += [
            fill.eq(across & ~self.closed & ~(waiting & (fetch.lane == 0))),
            fill_end.eq(fill & (fetch.lane == GROUP - 1)),
            filled.taps.eq(fetch.count),
            filled.final.eq(fetch.final),
            *(now.fill.eq(fill), now.buffer.eq(buffer), now.other.eq(other), now.tap.eq(tap)),
            drain_end.eq(now.emit & active & (tap + 1 == draining.taps)),
        ]
        with m.If(across):
            m.d.comb += [now.fetch.eq(fill), now.drain.eq(active), now.emit.eq(active)]
        with m.If(fill_end):
            m.d.sync += buffer.eq(~buffer)
        with m.If(fill_end & fetch.final):
            m.d.sync += self.closed.eq(1)
        with m.If(active & now.emit):
            m.d.sync += tap.eq(Mux(drain_end, 0, tap + 1))
        with m.If(drain_end):
            m.d.sync += other.eq(~other)
        with m.If(drain_end | ~active):
            m.d.sync += [active.eq(fill_end | waiting), waiting.eq(0), draining.eq(Mux(waiting, pending, filled))]
        with m.Elif(fill_end):
            m.d.sync += [waiting.eq(1), pending.eq(filled)]
        return drain_end, draining.final

    def _cells(self, m: Module, across: Signal, vector_end: Value, block_end: Value, final_block: Value) -> None:
        """Where the cells go, what ends an octet, and the zero cells at its end."""
        config, now, load, start = self.config, self.now, self.job.load, self.start
        octet, vector, tile, chunk = Signal(), Signal.like(now.vector), Signal.like(now.cell), Signal(13)
        next_vector, next_tile, chunk_next = Signal.like(vector), Signal.like(tile), Signal.like(chunk)
        number, next_number, begin_number = (
            Signal.like(tile, name=f"{name}number") for name in ("", "next_", "begin_")
        )
        vector_last, chunk_turns = Signal(), Signal()
        group_last = self._groups(m, across, block_end)
        chunk_last = self._last_chunk(m, chunk_turns)
        to_next, octet_end = Signal(), Signal()
        in_tile = Mux(load.target, config.columns - 1, config.rows - 1)
        m.d.comb += [
            now.octet.eq(octet),
            now.cell.eq(tile + chunk),
            now.vector.eq(self._turned(m, vector, number)),
            chunk_next.eq(chunk + 1 + self.both),
            vector_last.eq(vector == in_tile),
            next_vector.eq(Mux(vector_last, 0, vector + 1)),
            next_tile.eq(tile + Mux(vector_last, start.stride, 0)),
            next_number.eq(number + vector_last),
        ]
        zeros_end = self.zeros & now.emit & chunk_last
        m.d.comb += to_next.eq(vector_end | zeros_end | (across & now.emit))
        with m.If(to_next):
            m.d.sync += [vector.eq(next_vector), tile.eq(next_tile), number.eq(next_number)]
        begin_vector, begin_tile = Signal.like(vector), Signal.like(tile)  # of the tap group
        with m.If(block_end & ~(chunk_last & group_last)):
            m.d.sync += [vector.eq(begin_vector), tile.eq(begin_tile), number.eq(begin_number)]
        with m.If(block_end & chunk_last & group_last):
            m.d.sync += [begin_vector.eq(next_vector), begin_tile.eq(next_tile), begin_number.eq(next_number)]
        m.d.comb += chunk_turns.eq(Mux(across, block_end & group_last, now.emit))
        with m.If(chunk_turns):
            m.d.sync += chunk.eq(Mux(chunk_last, 0, chunk_next))

        ends = (vector_end & self.fetch.final) | (block_end & final_block) | zeros_end
        m.d.comb += [
            octet_end.eq(ends & vector_last),
            self.finished.eq(octet_end & (octet | ~self.job.tensor.octets[1])),
        ]
        with m.If(ends):
            m.d.sync += self.zeros.eq(~vector_last)
        with m.If(octet_end | self.clear):
            first = Signal.like(tile)
            m.d.comb += first.eq(load.cell + Mux(self.clear, 0, start.chunks))
            m.d.sync += [tile.eq(first), begin_tile.eq(first), vector.eq(0), begin_vector.eq(0)]
            m.d.sync += [octet.eq(~self.clear), self.closed.eq(0), number.eq(0), begin_number.eq(0)]

    def _last_chunk(self, m: Module, turns: Signal) -> Signal:
        """Counts down the chunks of a vector, one or `both` with each of the `turns`; whether these are the last."""
        chunks, left, last = self.start.chunks, Signal(13), Signal()
        one_left, two_left = Signal(), Signal()
        m.d.comb += last.eq(Mux(self.both, two_left, one_left))
        if self.config.b_chunks > 1:
            with m.If(self.zeros):
                m.d.comb += self.both.eq(self.job.load.target & ~one_left)
        with m.If(self.clear | (turns & last)):
            m.d.sync += [left.eq(chunks), one_left.eq(chunks == 1), two_left.eq(chunks == 2)]
        with m.Elif(turns & self.both):
            m.d.sync += [left.eq(left - 2), one_left.eq(left == 3), two_left.eq(left == 4)]
        with m.Elif(turns):
            m.d.sync += [left.eq(left - 1), one_left.eq(left == 2), two_left.eq(left == 3)]
        return last

    def _turned(self, m: Module, vector: Signal, number: Signal) -> Value:
        """The array row of a vector of tile `number`: turned as the LOAD says. B is not turned."""
        turn, rows = self.job.load.turn, exact_log2(self.config.rows)
        places, turned = Signal(rows), Signal.like(vector)
        with m.If(turn != 0):
            m.d.comb += places.eq(number >> (turn - 1)[: len(turn)])
        m.d.comb += turned.eq(Mux(turn != 0, (vector + places)[:rows], vector))
        return turned

    def _groups(self, m: Module, across: Signal, block_end: Value) -> Value:
        """Lane groups of a chunk: one for each block, or all at once. Returns: the block's is the last one."""
        groups = self.config.lane_groups
        group = Signal(range(max(groups, 2)))
        if groups > 1:
            with m.If(block_end):
                m.d.sync += group.eq(group + 1)
        mask = Mux(across, Const(1, groups) << group, 2**groups - 1)
        m.d.comb += self.now.groups.eq(Cat(mask[:groups], self.both.replicate(groups)))
        return group == groups - 1


class Shuffle(wiring.Component):
    """The data path: turn fetched elements to their lanes, gather them to chunks or transpose them.

    Elements move as `OCTET_BITS` planes, bit e of a plane being element e's: so they come from the store and go to the
    cells, and whole words turn at once, which is quick to simulate.

    Members
    -------
    fetch : In(fetch_layout(config)); step : In(step_layout(config))
        A fetch, and what happens in this cycle. The store's answer to it comes `DATA_STAGE` + 1 cycles later.
    flip : In(16)
        As in `packets.Load`; holds still.
    odd : In(1)
        The octets are an odd number of words apart; holds still.
    words : In(128) x 2
        The store's answer, as in `StoreRead`.
    write : Out(CellWrite(config, config.b_chunks))
        `CELL_STAGE` + 1 cycles later.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "fetch": In(fetch_layout(config)),
                "step": In(step_layout(config)),
                "flip": In(16),
                "odd": In(1),
                "words": In(GROUP * OCTET_BITS).array(2),
                "write": Out(CellWrite(config, config.b_chunks)),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        steps = [data.View(step_layout(self.config), step) for step in self._steps(m)]
        ring = self._ring(m, steps)
        chunk = self._chunk(m, steps, ring)
        block = self._transposed(m, steps, ring)
        self._write(m, steps, chunk, block)
        return m

    def _steps(self, m: Module) -> list[Value]:
        """What happens in stage 0, 1, ... of the data path."""
        return delayed(m, self.step.as_value(), CELL_STAGE + 1, "stage")[1:]

    def _mask(self, m: Module) -> Signal:
        """Ring lanes with elements that are wanted and real: ready in the stage before `TURNED_STAGE`."""
        low, high, end, lane, live = Signal(6), Signal(6), Signal(6), Signal(5), Signal()
        first, behind, none, empty = Signal(5), Signal(5), Signal(), Signal()
        from_first, before_end, wraps, mask = Signal(5), Signal(5), Signal(), Signal(RING)
        room = self.fetch.room
        m.d.sync += [
            end.eq(Mux(room[-1], 0, Mux(room[5:].any(), RING, room))),
            *(low.eq(self.fetch.low), lane.eq(self.fetch.lane), live.eq(self.fetch.live)),
        ]
        count, late_low, late_lane, late_live = Signal(6), Signal(6), Signal(5), Signal()
        m.d.sync += [
            count.eq(self.fetch.count),
            high.eq(Mux(count < end, count, end)),
            *(late_low.eq(low), late_lane.eq(lane), late_live.eq(live)),
        ]
        m.d.sync += [
            first.eq(late_lane + late_low),
            behind.eq(late_lane + high),
            none.eq(~late_live | (late_low >= high)),
        ]
        m.d.sync += [from_first.eq(first), before_end.eq(behind), wraps.eq(first >= behind), empty.eq(none)]
        for index in range(RING):
            after, before = at_most(from_first, index), ~at_most(before_end, index)
            m.d.sync += mask[index].eq(Mux(wraps, after | before, after & before) & ~empty)
        return mask

    def _ring(self, m: Module, steps: list[data.View]) -> list[Value]:
        """Planes of `RING` elements on ring lanes, in `TURNED_STAGE`; they stay until the next fetch."""
        mask = self._mask(m)
        turn, other_bank = Signal(5), Signal(5)
        m.d.comb += other_bank[4].eq(self.odd & self.step.octet)
        m.d.sync += turn.eq((self.fetch.lane - self.fetch.address) ^ other_bank)
        turns = delayed(m, turn, TURNED_STAGE - 1, "turn")
        planes: list[Value] = [
            Cat(word.word_select(plane, GROUP) for word in self.words) for plane in range(OCTET_BITS)
        ]
        for stage, bits in (DATA_STAGE, (0, 1)), (DATA_STAGE + 1, (2, 3)):
            for bit in bits:
                planes = [turned(plane, 1 << bit, turns[stage][bit]) for plane in planes]
            planes = registered(m, planes, f"turned_{stage}")
        ring = [Signal(RING, name=f"ring_{index}", reset_less=True) for index in range(OCTET_BITS)]
        with m.If(steps[TURNED_STAGE - 1].fetch):
            for kept, plane in zip(ring, planes, strict=True):
                m.d.sync += kept.eq(turned(plane, GROUP, turns[TURNED_STAGE - 1][4]) & mask)
        return ring

    def _chunk(self, m: Module, steps: list[data.View], ring: list[Value]) -> list[Value]:
        """along: planes of a chunk in `CELL_STAGE` - 1, the part of the next one that has come already kept.

        For B with L = 16 those of the chunk behind it too, above it, if `both`.
        """
        lanes = self.config.lanes
        step, now = steps[TURNED_STAGE - 1], steps[TURNED_STAGE]
        take, take_high, follow, follow_high = Signal(lanes), Signal(), Signal(lanes), Signal()
        keep = Signal()
        for lane in range(lanes):
            chosen, next_one = self._lane_masks(step, lane)
            m.d.sync += take[lane].eq(chosen)
            m.d.sync += follow[lane].eq(Mux(step.full, next_one, chosen))
        m.d.sync += follow_high.eq(step.full & (step.nth == 0) & ~step.both)
        m.d.sync += take_high.eq(step.feed & step.both)
        m.d.comb += keep.eq(~now.full)
        chunk = []
        for index, plane in enumerate(ring):
            elements = plane[:lanes].replicate(max(1, lanes // RING))
            kept = Signal(lanes, name=f"kept_{index}")
            behind = (elements & follow) | Mux(keep, kept, 0)
            if lanes == GROUP:
                behind |= Mux(follow_high, plane[GROUP:], 0)
            with m.If(now.feed):
                m.d.sync += kept.eq(behind)
            now_and_then = kept | (elements & take)
            if self.config.b_chunks > 1:
                now_and_then = Cat(now_and_then, Mux(take_high, plane[lanes:], 0))
            chunk.append(now_and_then)
        return registered(m, chunk, "chunk")

    def _lane_masks(self, step: data.View, lane: int) -> tuple[Value, Value]:
        """A lane of the chunk: it takes an element of the fetch; when the chunk is full, one for the next chunk."""
        ring_bits, lanes = exact_log2(min(RING, self.config.lanes)), self.config.lanes
        reached = at_most(step.lane[:ring_bits], lane % RING)
        first = step.feed & (step.nth == 0)
        if lanes == GROUP:  # a fetch may feed three chunks: the third from the ring lanes before the first
            return first & reached, ((step.nth == 1) | step.both) & ~reached
        block, blocks = step.lane[ring_bits:], lanes // RING
        chosen = ((block == lane // RING) & reached) | ((block + 1 == lane // RING) & ~reached)
        wraps = first & (block == blocks - 1) & ~reached if lane < RING else Const(0)
        return first & chosen, wraps

    def _transposed(self, m: Module, steps: list[data.View], ring: list[Value]) -> list[Value]:
        """across: planes of one tap of 16 positions, in `CELL_STAGE` - 1 but for two turns.

        Element j of position p lies in bank (p + j) % 16 at address p, so that 16 elements of one position can be
        written and 16 elements of one tap be read at once.
        """
        early, now = steps[TURNED_STAGE - 1], steps[TURNED_STAGE]
        folded = [plane[:GROUP] | plane[GROUP:] for plane in ring]
        elements: list[Value] = []
        for index in range(GROUP):
            bank = memory.Memory(shape=OCTET_BITS, depth=2 * GROUP, init=[])
            m.submodules[f"bank_{index}"] = bank
            write_port, read_port = bank.write_port(), bank.read_port(domain="comb")
            place = Signal(exact_log2(GROUP), name=f"place_{index}")
            m.d.sync += place.eq(index - early.tap)
            m.d.comb += [
                write_port.en.eq(now.fill),
                write_port.addr.eq(Cat(now.lane[: len(place)], now.buffer)),
                write_port.data.eq(Cat(plane[index] for plane in folded)),
                read_port.addr.eq(Cat(place, now.other)),
            ]
            elements.append(read_port.data)
        planes: list[Value] = [Cat(element[plane] for element in elements) for plane in range(OCTET_BITS)]
        for bit in 0, 1:
            planes = [turned(plane, -(1 << bit), now.tap[bit]) for plane in planes]
        return registered(m, [Mux(now.drain, plane, 0) for plane in planes], "tap")

    def _write(self, m: Module, steps: list[data.View], chunk: list[Value], block: list[Value]) -> None:
        """One of the two is zero."""
        before, now, config = steps[CELL_STAGE - 1], steps[CELL_STAGE], self.config
        slices = config.slices_per_octet
        flips = Mux(before.octet, self.flip[slices : 2 * slices], self.flip[:slices])
        for index, (plane, taps) in enumerate(zip(chunk, block, strict=True)):
            for bit in 2, 3:
                taps = turned(taps, -(1 << bit), before.tap[bit])
            lanes = plane[: config.lanes] | taps.replicate(config.lane_groups)
            second = plane[config.lanes :]  # B's alone, and B has no flips
            slice_, place = divmod(OCTET_BITS - 1 - index, config.slice_bits)
            flip = flips[slice_] if place == 0 else Const(0)
            m.d.sync += self.write.data[index].eq(Cat(lanes ^ flip.replicate(config.lanes), second))
        m.d.comb += [
            self.write.valid.eq(now.emit),
            self.write.cell.eq(now.cell),
            self.write.vector.eq(now.vector),
            self.write.groups.eq(now.groups),
        ]


class _Engine(wiring.Component):
    """`Gather` without waiting for the store: it works in each cycle in which it is enabled."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(GatherJob)),
                "busy": Out(1),
                "target": Out(1),
                "fetch": Out(1),
                "word": Out(range(config.store_words)),
                "words": In(GROUP * OCTET_BITS).array(2),
                "write": Out(CellWrite(config, config.b_chunks)),
                "list_write": In(MemoryWrite()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.rows = rows = RowList(self.config)
        m.submodules.setup = setup = Setup(self.config)
        m.submodules.fetches = fetches = Fetches(self.config)
        m.submodules.turns = turns = Turns(self.config)
        m.submodules.shuffle = shuffle = Shuffle(self.config)
        job = Signal(GatherJob)
        for part in setup, fetches, turns:
            m.d.comb += part.job.eq(job)
        for part in fetches, turns:
            m.d.comb += part.start.eq(setup.start)
        self._time(m, job, setup, fetches, turns)
        wiring.connect(m, wiring.flipped(self.list_write), rows.write)
        m.d.comb += [
            rows.enable.eq(fetches.list_enable),
            rows.index.eq(fetches.list_index),
            fetches.listed.eq(rows.image),
            setup.listed.eq(rows.image),
        ]

        fetch, now = fetches.now, turns.now
        first = Signal(len(self.word), reset_less=True)
        octet_words = Mux(now.octet, job.tensor.octet_words, 0)
        m.d.comb += [
            turns.fetch.eq(fetch),
            fetches.advance.eq(turns.advance),
            shuffle.fetch.eq(fetch),
            shuffle.step.eq(now),
            shuffle.flip.eq(job.load.flip),
            shuffle.odd.eq(job.tensor.octet_words[0]),
            self.target.eq(job.load.target),
            self.word.eq(first),
        ]
        m.d.sync += first.eq((fetch.address >> exact_log2(GROUP)) + octet_words)
        m.d.sync += self.fetch.eq(now.fetch & fetch.live)
        m.d.comb += [taken.eq(word) for taken, word in zip(shuffle.words, self.words, strict=True)]
        wiring.connect(m, shuffle.write, wiring.flipped(self.write))
        return m

    def _time(self, m: Module, job: data.View, setup: Setup, fetches: Fetches, turns: Turns) -> None:
        tail = Signal(range(LOAD_TAIL_CYCLES))
        set_up, run = Signal(), Signal()  # `busy` and `run` are states, but registers: much waits for them
        m.d.comb += [setup.step.eq(fetches.step), fetches.set_up.eq(set_up), turns.clear.eq(set_up), turns.run.eq(run)]
        step = Signal.like(setup.step)
        m.d.comb += fetches.step.eq(step)
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.start.ready.eq(1)
                with m.If(self.start.valid):
                    m.d.sync += [job.eq(self.start.payload), self.busy.eq(1)]
                    m.next = "SET_UP"
            with m.State("SET_UP"):
                m.d.comb += set_up.eq(1)
                m.d.sync += step.eq(Mux(step == RUN_STEP, 0, step + 1))
                with m.If(step == RUN_STEP):
                    m.d.sync += run.eq(1)
                    m.next = "RUN"
            with m.State("RUN"):
                m.d.sync += tail.eq(LOAD_TAIL_CYCLES - 1)
                with m.If(turns.finished):
                    m.d.sync += run.eq(0)
                    m.next = "TAIL"
            with m.State("TAIL"):
                m.d.sync += tail.eq(tail - 1)
                with m.If(tail == 0):
                    m.d.sync += self.busy.eq(0)
                    m.next = "IDLE"


class Gather(wiring.Component):
    """Executes one LOAD at a time.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    start : In(stream.Signature(GatherJob))
        Ready when idle; the fields must already be checked, positions among them (see `packets.Load`).
    busy : Out(1)
        From the cycle after `start` is taken, as many cycles as said above; then all cells are written, and the next
        job is taken in the first cycle in which `busy` is low.
    read : Out(StoreRead(config))
        While `ready` is low, everything stands still.
    a_write, b_write : Out(CellWrite(config)), Out(CellWrite(config, config.b_chunks))
        `data` of A has its bits flipped already, in all slices at once.
    events : Out(GatherEvents())
    list_write : In(MemoryWrite())
        Entries of the row list (see `packets.Load`), `row` each; not while `busy`.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "start": In(stream.Signature(GatherJob)),
                "busy": Out(1),
                "read": Out(StoreRead(config)),
                "a_write": Out(CellWrite(config)),
                "b_write": Out(CellWrite(config, config.b_chunks)),
                "events": Out(GatherEvents()),
                "list_write": In(MemoryWrite()),
            }
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        engine, moves = _Engine(self.config), Signal()
        m.submodules.engine = EnableInserter(moves)(engine)
        m.d.comb += [
            moves.eq(self.read.ready | ~engine.busy),
            engine.start.valid.eq(self.start.valid),
            engine.start.payload.eq(self.start.payload),
            self.start.ready.eq(engine.start.ready),
            self.busy.eq(engine.busy),
            self.events.busy.eq(engine.busy),
            self.read.enable.eq(self.read.ready & engine.busy),
            self.read.word.eq(engine.word),
        ]
        m.d.comb += [taken.eq(word) for taken, word in zip(engine.words, self.read.data, strict=True)]
        wiring.connect(m, wiring.flipped(self.list_write), engine.list_write)
        sides = (Target.A, self.a_write, self.events.fetch_a), (Target.B, self.b_write, self.events.fetch_b)
        for target, write, fetched in sides:
            chosen = moves & (engine.target == target.value)
            m.d.comb += [
                fetched.eq(chosen & engine.fetch),
                write.valid.eq(chosen & engine.write.valid),
                write.cell.eq(engine.write.cell),
                write.vector.eq(engine.write.vector),
                write.groups.eq(engine.write.groups[: len(write.groups)]),
            ]
            m.d.comb += [
                plane.eq(bits[: len(plane)]) for plane, bits in zip(write.data, engine.write.data, strict=True)
            ]
        return m


@dataclass
class Gathered:
    """What a LOAD does: writes of cells, in order, as (cell, vector, groups, planes); words read; cycles busy."""

    cells: list[tuple[int, int, int, int, tuple[int, ...]]] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    cycles: int = LOAD_SETUP_CYCLES + LOAD_TAIL_CYCLES


class GatherModel:
    """The integer model of one LOAD on a tensor.

    `load` and `place` have the fields of `packets.Load` and `TensorPlace` as numbers, signed ones signed; `store` has
    the store's words as 128-bit numbers, `rows` the row list. `run` gives what happens.
    """

    def __init__(
        self,
        config: ArrayConfig,
        load: Mapping[str, int],
        place: Mapping[str, int],
        store: Sequence[int],
        rows: Sequence[int],
    ) -> None:
        self.config, self.load, self.place, self.store, self.rows = config, load, place, store, rows
        self.octet = 0
        self.result = Gathered()
        a_side = load["target"] == Target.A
        self.at_once = 1 if a_side else config.b_chunks
        self.tile = config.rows if a_side else config.columns
        self.chunks = -(-(load["positions"] if load["across"] else load["taps"]) // config.lanes)

    def run(self) -> Gathered:
        for octet in range(self.place["octets"]):
            self.octet = octet
            self.result.cycles += self._across() if self.load["across"] else self._along()
        return self.result

    def positions(self) -> Iterator[tuple[int, int, int]]:
        """Image, row and pixel of each position."""
        load, n = self.load, self.place["n"]
        image, y, x = load["n_first"], load["y_first"], load["x_first"]
        for _ in range(load["positions"]):
            yield image, load["y_start"] + y * load["y_step"], load["x_start"] + x * load["x_step"]
            if load["n_fast"]:
                image, carry = (image + 1) % n, image + 1 == n
                x, y = (x + carry) % load["x_count"], y + (x + carry) // load["x_count"]
            else:
                x, carry = (x + 1) % load["x_count"], x + 1 == load["x_count"]
                y, image = (y + carry) % load["y_count"], image + (y + carry) // load["y_count"]

    def lines(self) -> Iterator[tuple[int, int, int]]:
        """Line, first place and number of the taps on each line."""
        line, first, left = self.load["line_first"], self.load["place_first"], self.load["taps"]
        while left:
            count = min(self.load["run"] - first, left)
            yield line, first, count
            line, first, left = line + 1, 0, left - count

    def start(self, position: tuple[int, int, int], line: int, first: int) -> int:
        """Address of an element, without octet."""
        place, (image, y, x) = self.place, position
        begin = self.rows[image] if self.load["listed"] else image * place["image"]
        return 16 * place["word"] + begin + (y + line) * place["row"] + x * place["c"] + first

    def fetch(self, position: tuple[int, int, int], line: int, first: int, count: int) -> list[int]:
        """Read `count` elements; those outside the tensor are zero."""
        place, (_, y, x) = self.place, position
        if not 0 <= y + line < place["h"]:
            return [0] * count
        address = self.start(position, line, first) + GROUP * self.octet * place["octet_words"]
        self.result.words.append(address // GROUP % self.config.store_words)
        column = x * place["c"] + first
        return [self.element(address + index) if 0 <= column + index < place["row"] else 0 for index in range(count)]

    def element(self, address: int) -> int:
        word = self.store[address // GROUP % self.config.store_words]
        return sum((word >> (address % GROUP + GROUP * plane) & 1) << plane for plane in range(OCTET_BITS))

    def write_chunks(self, vector: int, chunk: int, count: int, elements: Sequence[int]) -> int:
        """Chunks of a vector into their cells, as many at once as the target takes; returns the cycles."""
        lanes, cycles = self.config.lanes, 0
        for first in range(0, count, self.at_once):
            groups = 2 ** (min(self.at_once, count - first) * self.config.lane_groups) - 1
            cycles += self.write(vector, chunk + first, groups, elements[first * lanes :][: self.at_once * lanes])
        return cycles

    def write(self, vector: int, chunk: int, groups: int, elements: Sequence[int]) -> int:
        """A chunk of a vector into its cell, or some at once; what lies behind the elements is zero. The cycles."""
        size, slices = self.config.slice_bits, self.config.slices_per_octet
        width = self.at_once * self.config.lanes
        flip = sum((self.load["flip"] >> (self.octet * slices + s) & 1) << (7 - s * size) for s in range(slices))
        elements = [element ^ flip for element in [*elements, *[0] * (width - len(elements))]]
        planes = [sum((e >> plane & 1) << lane for lane, e in enumerate(elements)) for plane in range(OCTET_BITS)]
        octets = self.place["octets"]
        cell = self.load["cell"] + (vector // self.tile * octets + self.octet) * self.chunks + chunk
        turn = self.load["turn"]
        place = (vector + (vector // self.tile >> turn - 1 if turn else 0)) % self.tile
        self.result.cells.append((cell, place, groups, tuple(planes)))
        return 1

    def _zeros(self, vectors: int) -> int:
        """The vectors missing in the last tile; returns the cycles."""
        missing = range(vectors, -(-vectors // self.tile) * self.tile)
        return sum(self.write_chunks(vector, 0, self.chunks, []) for vector in missing)

    def _along(self) -> int:
        cycles, lanes = 0, self.config.lanes
        for vector, position in enumerate(self.positions()):
            elements: list[int] = []
            chunk = 0
            for line, first, count in self.lines():
                while count:
                    taken = min(RING - self.start(position, line, first) % GROUP, count)
                    elements += self.fetch(position, line, first, taken)
                    first, count = first + taken, count - taken
                    total = chunk * lanes + len(elements)
                    done = -(-len(elements) // lanes) if total == self.load["taps"] else len(elements) // lanes
                    cycles += max(1, self.write_chunks(vector, chunk, done, elements[: done * lanes]))
                    elements, chunk = elements[done * lanes :], chunk + done
        return cycles + self._zeros(self.load["positions"])

    def _across(self) -> int:
        groups = self.config.lane_groups
        positions = list(self.positions())
        fills, drains = [0], [0, 0]  # ends of those before
        vector = 0
        for line, begin, many in self.lines():
            for first in range(begin, begin + many, GROUP):
                count = min(GROUP, begin + many - first)
                for block in range(self.chunks * groups):
                    some = positions[GROUP * block : GROUP * block + GROUP]
                    rows = [self.fetch(position, line, first, count) for position in some]
                    fills.append(max(fills[-1], drains[-2]) + GROUP)
                    drains.append(max(fills[-1], drains[-1]) + count)
                    group = block % groups
                    for tap in range(count):
                        column = [row[tap] for row in rows] + [0] * (GROUP - len(rows))
                        self.write(vector + tap, block // groups, 1 << group, column * groups)
                vector += count
        return drains[-1] + self._zeros(vector)
