"""The counters of `contract.registers`, and the snapshot that COUNTERS and MARK answer with.

Each counter is a narrow one of registers and a wide sum in memory. The narrow ones are visited in turn, one a cycle:
what one has counted is added to its sum, and it starts anew. One wide adder serves all.

A snapshot has the values of one cycle: all narrow counters move aside at once, and the next visits, from the first
counter on, add what was moved aside; each result is also a word of the copy.
"""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import WORD_BITS
from .contract.registers import COUNTER_INDEX, COUNTERS
from .operands import NO_COLLISIONS, one_in_turn
from .ports import word_stream
from .readout import ABREAST

PHASE_BITS = 8
COUNT = len(COUNTERS)
#: Most cycles that a narrow counter counts: from a snapshot over its pause and its own round to the end of the next.
LONGEST_COUNT = 2 * COUNT + 2
COMMAND_CYCLES = 4  # least from one command to the next


def apart(config: ArrayConfig) -> dict[str, int]:
    """Of counters that cannot count in every cycle: least cycles from one in which they do to the next."""
    units = WORD_BITS // config.link_bits  # of a word; the shortest frame has three words
    link = {"rx_words": units, "tx_words": units, "frame_errors": 3 * units, "sequence_errors": 3 * units}
    return link | dict.fromkeys(("commands", "faults", "matmuls", "loads", "updates"), COMMAND_CYCLES)


class Counters(wiring.Component):
    """64-bit counters, which wrap.

    NAME       in     one per counter but `phase`: what to add in this cycle; 1 bit, or more for those that grow faster
    set_phase  in(1)  high for one cycle: take over `phase`
    phase      in(8)
    clear      in(1)  all counters and the phase to zero; wins over everything counted in that cycle
    snapshot   in(1)  copy all counters, without what is counted in that cycle
    words      out, stream of words: the copy, one counter a word, in the order of `COUNTERS`

    The first word comes 6 cycles after `snapshot`, the others as fast as they are taken. From `snapshot` until the last
    word is taken there must be no other one, and no `clear`. Reset does what `clear` does.

    `most`: by name, what a counter can count in one cycle; `apart`: least cycles from one in which it counts to the
    next (`apart`).
    """

    def __init__(self, config: ArrayConfig) -> None:
        abreast = ABREAST if config.requantises else 1
        most = {
            "serial_ones": config.b_row_bits,
            "gated_steps": config.rows * config.columns,
            "elements_read": abreast,
            "saturated": abreast,
        }
        self.most = {counter.name: most.get(counter.name, 1) for counter in COUNTERS if counter.name != "phase"}
        self.apart = dict.fromkeys(self.most, 1) | apart(config)
        super().__init__(
            {name: In(range(most + 1)) for name, most in self.most.items()}
            | {
                "set_phase": In(1),
                "phase": In(PHASE_BITS),
                "clear": In(1),
                "snapshot": In(1),
                "words": Out(word_stream()),
            }
        )
        self._number = Signal(range(COUNT))  # of the counter whose turn it is
        self._turn = Signal(COUNT, init=1)  # the same, a bit for each
        self._visits = Signal()  # in this cycle
        self._copies = Signal()  # what was moved aside, this round

    def elaborate(self, platform: object) -> Module:
        m = Module()
        self._take_turns(m)
        narrow = self._count(m)
        aside = [
            Signal.like(value, name=f"aside_{counter.name}") for counter, value in zip(COUNTERS, narrow, strict=True)
        ]
        with m.If(self.snapshot):
            m.d.sync += [kept.eq(value) for kept, value in zip(aside, narrow, strict=True)]
        visit = Signal(_visit_layout(max(len(value) for value in narrow)))
        m.d.comb += [
            visit.valid.eq(self._visits),
            visit.copies.eq(self._copies),
            visit.number.eq(self._number),
            visit.starts.eq(self._starts(m)),
            visit.counted.eq(Mux(self._copies, one_in_turn(self._turn, aside), one_in_turn(self._turn, narrow))),
        ]
        self._copy(m, *self._add(m, visit))
        return m

    def _take_turns(self, m: Module) -> None:
        pauses = Signal()  # the sum of the last visit before a snapshot is being stored
        m.d.comb += self._visits.eq(~self.snapshot & ~pauses)
        m.d.sync += pauses.eq(self.snapshot)
        with m.If(self.snapshot | self.clear):
            m.d.sync += [self._number.eq(0), self._turn.eq(1), self._copies.eq(self.snapshot)]
        with m.Elif(~pauses):
            m.d.sync += [self._number.eq(self._number + 1), self._turn.eq(self._turn.rotate_left(1))]
            with m.If(self._number == COUNT - 1):
                m.d.sync += [self._number.eq(0), self._copies.eq(0)]

    def _count(self, m: Module) -> list[Signal]:
        """The narrow counters; the phase is one that stays."""
        narrow = []
        for counter, turn in zip(COUNTERS, self._turn, strict=True):
            if counter.name == "phase":
                value = Signal(PHASE_BITS, name="phase_now")
                with m.If(self.set_phase):
                    m.d.sync += value.eq(self.phase)
            else:
                times = -(-LONGEST_COUNT // self.apart[counter.name])
                value = Signal(range(times * self.most[counter.name] + 1), name=f"narrow_{counter.name}")
                moved = self.snapshot | (self._visits & ~self._copies & turn)
                m.d.sync += value.eq(value + getattr(self, counter.name))
                with m.If(moved):
                    m.d.sync += value.eq(getattr(self, counter.name))
            with m.If(self.clear):
                m.d.sync += value.eq(0)
            narrow.append(value)
        return narrow

    def _starts(self, m: Module) -> Value:
        """Whether the sum starts at zero: at the first visit after `clear`; that of the phase at each.

        Turns begin anew with `clear` and with a snapshot: so those that have not been visited since are the last ones.
        """
        begun, first = Signal(range(COUNT + 1)), Signal()  # how many sums have started since
        m.d.comb += first.eq(self._number == begun)
        with m.If(self.clear):
            m.d.sync += begun.eq(0)
        with m.Elif(first & self._visits):
            m.d.sync += begun.eq(begun + 1)
        return first | (self._number == COUNTER_INDEX["phase"])

    def _add(self, m: Module, visit: data.View) -> tuple[data.View, Signal]:
        """Read, add, store, a cycle each; the visit whose sum is stored in this cycle, and the sum."""
        zero = COUNT  # a row that stays 0: sums start with it
        m.submodules.sums = sums = memory.Memory(shape=WORD_BITS, depth=COUNT + 1, init=[], attrs=NO_COLLISIONS)
        read_port, write_port = sums.read_port(domain="comb"), sums.write_port()
        adds, stores = Signal.like(visit), Signal.like(visit)
        before, total = Signal(WORD_BITS, reset_less=True), Signal(WORD_BITS, reset_less=True)
        m.d.comb += read_port.addr.eq(Mux(visit.starts, zero, visit.number))
        m.d.sync += [before.eq(read_port.data), adds.eq(visit), stores.eq(adds), total.eq(before + adds.counted)]
        m.d.comb += [write_port.en.eq(stores.valid), write_port.addr.eq(stores.number), write_port.data.eq(total)]
        return stores, total

    def _copy(self, m: Module, stores: data.View, total: Signal) -> None:
        """The sums of what was moved aside, and their way out."""
        m.submodules.copy = copy = memory.Memory(shape=WORD_BITS, depth=COUNT, init=[], attrs=NO_COLLISIONS)
        read_port, write_port = copy.read_port(domain="comb"), copy.write_port()
        written, fetched = Signal(range(COUNT + 1)), Signal(range(COUNT + 1))
        word, waiting = Signal(WORD_BITS, reset_less=True), Signal()
        m.d.comb += [
            write_port.en.eq(stores.valid & stores.copies),
            write_port.addr.eq(stores.number),
            write_port.data.eq(total),
            read_port.addr.eq(fetched),
            waiting.eq(fetched < written),
            self.words.payload.eq(word),
        ]
        with m.If(~self.words.valid | self.words.ready):  # which comes late: it only enables
            m.d.sync += [word.eq(read_port.data), self.words.valid.eq(waiting), fetched.eq(fetched + waiting)]
        with m.If(write_port.en):
            m.d.sync += written.eq(stores.number + 1)
        with m.If(self.snapshot):
            m.d.sync += [fetched.eq(0), written.eq(0), self.words.valid.eq(0)]


def _visit_layout(counted_bits: int) -> data.StructLayout:
    """A visit of a counter: its sum, or zero if it `starts`, plus `counted`; if it `copies`, that is a word, too."""
    return data.StructLayout({"valid": 1, "copies": 1, "number": range(COUNT), "starts": 1, "counted": counted_bits})
