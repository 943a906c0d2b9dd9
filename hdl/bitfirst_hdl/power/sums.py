"""The sums, their copy and the records, in one memory of single bits.

Everything is done bit by bit, the least significant one first, in frames of 64 cycles: a frame reads a word of the
memory, adds something to it and writes it, in the same place or another one, each bit three cycles after it is read.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .. import ecp5
from ..baselines import carries
from ..contract import codec
from ..contract.packets import WORD_BITS
from ..contract.power import (
    CODE_BITS,
    CYCLES_BITS,
    FIRST_RECORD_WORD,
    FIRST_SUM_WORD,
    PHASES,
    RAILS,
    READ_WORDS,
    RECORD_WORDS,
    RECORDS,
    RESULT_WORD,
    STAMP_WORD,
    STATE_WORD,
    SUM_NAMES,
    Record,
    Result,
    State,
)
from ..operands import NO_COLLISIONS
from ..ports import word_stream
from .spans import PHASE_BITS

STAMP_BITS = 48
FRAME_BITS = (WORD_BITS - 1).bit_length()
SUM_WORDS = RAILS * PHASES * len(SUM_NAMES)
MEMORY_WORDS = 2 * SUM_WORDS + RECORDS * RECORD_WORDS  #: the sums, their copy, the records
PRODUCT_BITS = 2 * CODE_BITS
INDEX_BITS = (READ_WORDS - 1).bit_length()
RAIL_BITS = (RAILS - 1).bit_length()
STATE_BITS = 20  #: of `State`, below those counted here
RESULT_BITS = 40
NIBBLE_BITS = 4  #: of the number of a nibble
COUNT_BITS = 16
_RECORDED, _ROUNDS = 32, 48  # places in `State`
_VOLTAGE_PLACE = 32
_CYCLES = 3  # from reading a bit to writing it

assert codec.fields(State)["recorded"][0] == _RECORDED and codec.fields(State)["rounds"][0] == _ROUNDS
assert codec.fields(Record)["voltage"][0] == WORD_BITS + _VOLTAGE_PLACE
assert codec.fields(Result)["bytes"] == (WORD_BITS - RESULT_BITS, RESULT_BITS)
assert (FIRST_SUM_WORD, FIRST_RECORD_WORD) == (SUM_WORDS, MEMORY_WORDS)  # so an address is most of a number of a word
assert (RESULT_WORD, STAMP_WORD) == (STATE_WORD + 1, STATE_WORD + 2)


class Sample(data.Struct):
    """What a rail said in a round.

    voltage  from its lowest bit on
    bytes    of the current's register; 0: no current, then `sign` is 0
    sign     of the current
    half     of the nibbles that the current is in
    """

    voltage: CODE_BITS
    bytes: 2
    sign: 1
    half: 1
    rail: RAIL_BITS


class Nibble(data.Struct):
    """Four bits of a register, as it is read.

    place  counted from its last ones on: of a current three bits, below which half of all it goes to
    """

    valid: 1
    place: NIBBLE_BITS
    bits: 4


class Task:
    """What is done in a frame, a bit each. The first four are the sums, in their order; TIME copies that of a round."""

    CYCLES, SAMPLES, CHARGE, ENERGY, PRODUCT, STAMP, CODES, READ, TIME, COPY, CLEAR = range(11)
    COUNT = 11


class Adder(wiring.Component):
    """a + (b | c), combinational: numbers of so many bits, the total has one more."""

    def __init__(self, bits: int) -> None:
        super().__init__({"a": In(bits), "b": In(bits), "c": In(bits), "total": Out(bits + 1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        total = self.a + (self.b | self.c)
        if carries(platform):
            bits = zip(self.a, self.b, self.c, strict=True)
            adder = [ecp5.Position(ecp5.EITHER, (a, ecp5.OPEN, b, c)) for a, b, c in bits]
            (total,) = ecp5.add(m, [adder], "total")
        m.d.comb += self.total.eq(total)
        return m


class Sums(wiring.Component):
    """Adds up, keeps records, and answers READs.

    nibble   in       `Nibble`: of a current, or of a transfer's result
    sample   in       `Sample`
    take     in(1)    only while `idle`: it is added to the sums, if its round is known, and written down, if `record`
    idle     out(1)   no sample is at work
    record   in(1)
    between  in(1)    each sample of the last round has been taken
    clear, copy       in(1), until `cleared` or `copied`: all words to 0; the sums of whole rounds to their copy, and
                      the time of the last one. The first one before the other
    clears   out(1)   high for one cycle: `clear` begins
    cleared, copied   out(1), high for one cycle
    close    in(1)    this cycle is the time of a round; `rounds` counts it
    known, rewind, next, last, span_phase, span_cycles, last_phase   the spans of the round (`Spans`)
    state    in(20)   of word 0, the lowest ones
    done, acknowledged, result_bytes   in(1), in(1), in(3)   of word 1; as many bytes were asked for
    start, first, words, hold   words from `first` on, after `start`; none begins while `hold`
    overflow out(1)   high for one cycle: a sum left 63 bits
    tick     out(1)   high for one cycle in 2**`tick_bit`
    beat     out(6)   place of this cycle in its frame

    A sample with n spans takes 1 + 4 n frames of 64 cycles, and 2 if it is written down, after at most two frames.
    Words come every other frame; `clear` takes 512 frames and `copy` 128; nothing else is done meanwhile. Reset: time
    and counts to 0; the memory keeps what it has.
    """

    def __init__(self, tick_bit: int) -> None:
        self.tick_bit = tick_bit
        super().__init__(
            {
                "nibble": In(Nibble),
                "sample": In(Sample),
                "take": In(1),
                "idle": Out(1),
                "record": In(1),
                "between": In(1),
                "clear": In(1),
                "copy": In(1),
                "clears": Out(1),
                "cleared": Out(1),
                "copied": Out(1),
                "close": In(1),
                "known": In(1),
                "rewind": Out(1),
                "next": Out(1),
                "last": In(1),
                "span_phase": In(PHASE_BITS),
                "last_phase": In(PHASE_BITS),
                "span_cycles": In(CYCLES_BITS),
                "state": In(STATE_BITS),
                "done": In(1),
                "acknowledged": In(1),
                "result_bytes": In(3),
                "start": In(1),
                "first": In(INDEX_BITS),
                "words": Out(word_stream()),
                "hold": In(1),
                "overflow": Out(1),
                "tick": Out(1),
                "beat": Out(FRAME_BITS),
            }
        )
        self._bit = Signal(FRAME_BITS)  # that is read in this cycle
        self._ends = Signal()  # it is the last one
        self._task = Signal(Task.COUNT)
        self._index = Signal(INDEX_BITS)  # of a word to read, copy or clear
        self._held = Signal(Sample)
        self._waiting = Signal()  # a sample
        self._due = Signal()  # the time of the last round is to be kept
        self._stamping = Signal()  # it is being kept
        self._stamp = Signal(STAMP_BITS)
        self._copied_stamp = Signal(STAMP_BITS)
        self._counts = Signal(2 * COUNT_BITS)  # `recorded` below `rounds`
        self._record = Signal(range(RECORDS))  # where the next one goes
        self._current = Signal()  # its bit of this number
        self._result = Signal()  # likewise
        self._full = Signal()  # a word waits to be taken
        self._fresh = Signal()  # the next word is `_wanted`
        self._wanted = Signal(INDEX_BITS)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self._ends.eq(self._bit == WORD_BITS - 1)
        m.d.comb += self.beat.eq(self._bit)
        m.d.sync += self._bit.eq(self._bit + 1)
        self._choose(m)
        self._tell_time(m)
        self._count(m)
        self._take_apart(m)
        total = self._add(m)
        self._give(m, total)
        return m

    def _is(self, *tasks: int) -> Value:
        return Cat(self._task[task] for task in tasks).any()

    def _choose(self, m: Module) -> None:
        """The task of the next frame."""
        task, rests, written, then = self._task, Signal(), Signal(), Signal(Task.COUNT)
        following, kept = Signal(INDEX_BITS), Signal()  # `kept`: the time of the last round is
        adds, reads, copies, clears = (Signal(name=name) for name in ("adds", "reads", "copies", "clears"))
        m.d.comb += [
            following.eq(self._index + 1),
            rests.eq(self._ends & ~task.any()),
            kept.eq(~self._due & ~self._stamping),
            # What begins when nothing is done.
            adds.eq(rests & self._waiting & kept),
            clears.eq(rests & ~self._waiting & self.clear & self.between),
            copies.eq(rests & ~self._waiting & ~self.clear & self.copy & self.between & kept & ~self.close),
            reads.eq(rests & ~self._waiting & ~self.hold & ~self._full),
            # What goes on, when a frame ends.
            written.eq((task[Task.ENERGY] & self.last) | (adds & ~self.known)),
            self.copied.eq(self._ends & task[Task.COPY] & following[exact_log2(SUM_WORDS)]),
            self.cleared.eq(self._ends & task[Task.CLEAR] & following[exact_log2(MEMORY_WORDS)]),
            self.clears.eq(clears),
            self.rewind.eq(adds),
            self.next.eq((self._bit == WORD_BITS - 2) & task[Task.ENERGY]),
            then[Task.PRODUCT].eq(adds & self.known),
            then[Task.CYCLES].eq(task[Task.PRODUCT] | (task[Task.ENERGY] & ~self.last)),
            then[Task.SAMPLES].eq(task[Task.CYCLES]),
            then[Task.CHARGE].eq(task[Task.SAMPLES]),
            then[Task.ENERGY].eq(task[Task.CHARGE]),
            then[Task.STAMP].eq(written & self.record),
            then[Task.CODES].eq(task[Task.STAMP]),
            then[Task.READ].eq(reads),
            then[Task.TIME].eq(copies),
            then[Task.COPY].eq(task[Task.TIME] | (task[Task.COPY] & ~self.copied)),
            then[Task.CLEAR].eq(clears | (task[Task.CLEAR] & ~self.cleared)),
            self.idle.eq(~self._waiting),
        ]
        with m.If(self._ends):
            m.d.sync += task.eq(then)
            with m.If(task[Task.CODES] | (written & ~self.record)):
                m.d.sync += self._waiting.eq(0)
        with m.If(self.take):
            m.d.sync += [self._waiting.eq(1), self._held.eq(self.sample)]
        with m.If(self._ends & self._is(Task.READ, Task.COPY, Task.CLEAR)):
            m.d.sync += self._index.eq(following)
        with m.If(reads & self._fresh):
            m.d.sync += self._index.eq(self._wanted)
        with m.If(clears | copies):
            m.d.sync += self._index.eq(0)
        with m.If(reads):
            m.d.sync += self._fresh.eq(0)

    def _tell_time(self, m: Module) -> None:
        """Frames are counted bit by bit, too. `frames` gives the number of the frame before.

        So the frame behind that of a round's time, whose place in its frame is `then`, still gives what it was.
        """
        bit, then = self._bit, Signal(FRAME_BITS)
        frames, carry = Signal(STAMP_BITS - FRAME_BITS, init=2 ** (STAMP_BITS - FRAME_BITS) - 1), Signal(init=1)
        in_stamp, counts = Signal(), Signal()
        m.d.comb += [in_stamp.eq(bit < STAMP_BITS), counts.eq(in_stamp & (bit >= FRAME_BITS))]
        m.d.comb += self.tick.eq((bit == self.tick_bit) & carry)
        with m.If(counts):
            m.d.sync += [frames.eq(Cat(frames[1:], frames[0] ^ carry)), carry.eq(frames[0] & carry)]
        with m.If(self._ends):
            m.d.sync += [carry.eq(1), self._stamping.eq(self._due | self.close), self._due.eq(0)]
        with m.If(self.close):
            m.d.sync += [self._due.eq(~self._ends), then.eq(bit)]
        with m.If((self._stamping | self._is(Task.STAMP, Task.TIME)) & in_stamp):
            time = Mux(counts, frames[0], (then >> bit[:3])[0])
            m.d.sync += self._stamp.eq(Cat(self._stamp[1:], Mux(self._stamping, time, self._stamp[0])))
        copied, reads = self._copied_stamp, self._task[Task.READ] & (self._index == STAMP_WORD)
        with m.If((reads | self._task[Task.TIME]) & in_stamp):
            m.d.sync += copied.eq(Cat(copied[1:], Mux(self._task[Task.TIME], self._stamp[0], copied[0])))

    def _count(self, m: Module) -> None:
        """Samples written down and rounds, in the places of `State`."""
        counts, bit, carry, starts = self._counts, self._bit, Signal(), []
        events = self._task[Task.CODES] & self._ends, self.close
        for first, event, name in zip((_RECORDED, _ROUNDS), events, ("recorded", "rounds"), strict=True):
            pending, adds = Signal(name=f"{name}_pending"), Signal(name=f"{name}_adds")
            with m.If(self._ends):
                m.d.sync += [adds.eq(pending), pending.eq(0)]
            with m.If(event):
                m.d.sync += pending.eq(1)
            with m.If(self.clears):
                m.d.sync += [adds.eq(0), pending.eq(0)]
            starts.append((bit == first - 1) & adds)
        with m.If(bit >= _RECORDED):
            m.d.sync += counts.eq(Cat(counts[1:], counts[0] ^ carry))
        with m.Else():
            m.d.sync += self._record.eq(counts)
        m.d.sync += carry.eq(Mux(bit == _ROUNDS - 1, 0, counts[0] & carry & bit[-1]) | Cat(starts).any())
        with m.If(self.clears):
            m.d.sync += [counts.eq(0), carry.eq(0)]

    def _add(self, m: Module) -> Signal:
        """What the memory has, and what is new. Returns the sum, a bit `_CYCLES` cycles after it is read."""
        old, new, carry, total, more = Signal(), Signal(), Signal(), Signal(), Signal()
        was = self._access(m, total)
        keeps = self._is(*range(Task.PRODUCT), Task.COPY) | (self._task[Task.READ] & self._in_memory())
        sums_end = self._ends & self._is(*range(Task.PRODUCT))
        m.d.sync += [
            old.eq(later(m, was & later(m, keeps))),
            new.eq((later(m, self._adds_product(), 2) & self._multiply(m)) | self._other(m)),
            carry.eq(more & ~later(m, self._ends, _CYCLES)),
        ]
        m.d.comb += [
            total.eq(old ^ new ^ carry),
            more.eq((old & new) | (carry & (old ^ new))),
            self.overflow.eq(later(m, sums_end, _CYCLES) & (more ^ carry)),
        ]
        return total

    def _access(self, m: Module, total: Signal) -> Signal:
        """Reads a bit, and writes what becomes of it; the bit read, in the next cycle."""
        task, index = self._task, self._index
        bits = MEMORY_WORDS * WORD_BITS
        m.submodules.memory = bit_memory = memory.Memory(shape=1, depth=bits, init=[], attrs=NO_COLLISIONS)
        read, write = bit_memory.read_port(domain="comb"), bit_memory.write_port()
        word, was = Signal(range(MEMORY_WORDS)), Signal()
        which = Cat(self._is(Task.SAMPLES, Task.ENERGY), self._is(Task.CHARGE, Task.ENERGY))
        m.d.comb += word.eq(Cat(index[:8], Mux(task[Task.CLEAR], index[8], index[9])))
        with m.If(self._is(*range(Task.PRODUCT))):
            m.d.comb += word.eq(Cat(which, self.span_phase, self._held.rail))
        with m.If(self._is(Task.STAMP, Task.CODES)):
            m.d.comb += word.eq(Cat(task[Task.CODES], self._record, 1))
        writes = self._is(*range(Task.PRODUCT), Task.STAMP, Task.CODES, Task.COPY, Task.CLEAR)
        m.d.sync += was.eq(read.data)
        m.d.comb += [
            read.addr.eq(Cat(self._bit, word)),
            write.addr.eq(later(m, Cat(self._bit, word | Mux(task[Task.COPY], SUM_WORDS, 0)), _CYCLES)),
            write.data.eq(total),
            write.en.eq(later(m, writes, _CYCLES)),
        ]
        return was

    def _in_memory(self) -> Value:
        return Mux(self._index[9], 1, self._index[7:9] == 1)

    def _adds_product(self) -> Value:
        return self._is(Task.CYCLES, Task.CHARGE, Task.ENERGY) | (self._task[Task.CODES] & self._bit[-1])

    def _other(self, m: Module) -> Value:
        """What is added, but for products; two cycles later."""
        bit, task, rail, index = self._bit, self._task, self._held.rail, self._index
        high = Cat(self.last_phase, Const(0, 8 - PHASE_BITS), rail, Const(0, 8 - RAIL_BITS))
        state, of_state = self.state[:STATE_BITS], bit[2:5]
        fours = Cat((state[first : first + 4] >> bit[:2])[0] for first in range(0, STATE_BITS, 4))
        reads = [task[Task.READ] & (index == word) for word in (STATE_WORD, RESULT_WORD, STAMP_WORD)]
        kinds = (
            (task[Task.SAMPLES] & (bit == 0), Const(1)),
            (task[Task.STAMP] & (bit < STAMP_BITS), self._stamp[0]),
            (task[Task.STAMP] & (bit >= STAMP_BITS), (high >> bit[:4])[0]),
            (task[Task.CODES] & ~bit[-1], self._current),
            *((reads[0] & ~bit[-1] & (of_state == place), four) for place, four in enumerate(fours)),
            (reads[0] & bit[-1], self._counts[0]),
            (reads[1] & (bit < 2), Mux(bit[0], self.acknowledged, self.done)),
            (reads[1] & (bit >= WORD_BITS - RESULT_BITS), self._result),
            (reads[2] & (bit < STAMP_BITS), self._copied_stamp[0]),
        )
        return later(m, Cat(later(m, counts & value) for counts, value in kinds).any())

    def _take_apart(self, m: Module) -> None:
        """The bit of the current that belongs in this place; in READs that of a transfer's result."""
        m.submodules.nibbles = nibbles = memory.Memory(shape=4, depth=2**NIBBLE_BITS, init=[])
        write, read = nibbles.write_port(), nibbles.read_port(domain="comb")
        bit, held, code = self._bit, self._held, Signal()
        of_result = bit[3:] - (WORD_BITS - RESULT_BITS) // 8  # byte
        nibble = Cat((bit[2:5] + (held.bytes == 3))[:3], held.half)
        m.d.comb += [
            write.en.eq(self.nibble.valid),
            write.addr.eq(self.nibble.place),
            write.data.eq(self.nibble.bits),
            read.addr.eq(Mux(self._task[Task.READ], Cat(bit[2], of_result[:3]), nibble)),
            code.eq((read.data >> bit[:2])[0]),
        ]
        short = Cat((held.bytes == 0), (held.bytes <= 1) & (bit >= 8), (held.bytes <= 2) & (bit >= 16))
        above = short.any() | (bit >= CODE_BITS)
        m.d.comb += self._current.eq(Mux(above, held.sign, code))
        m.d.comb += self._result.eq(code & (of_result[:3] < self.result_bytes))

    def _multiply(self, m: Module) -> Value:
        """Current times voltage goes to `power`; that, the current or 1 times the span's cycles is what is added.

        One factor is there whole, the other one comes bit by bit, and goes on with its sign: so the product is right
        modulo 2**64. The product's bit comes two cycles later.
        """
        bit, task = self._bit, self._task
        m.submodules.adder = adder = Adder(CYCLES_BITS)
        kept, power = Signal(CYCLES_BITS), Signal(PRODUCT_BITS)
        factor, total, in_power = Signal(), Signal(CYCLES_BITS + 1), Signal()
        cycles, by_voltage = later(m, self.span_cycles), later(m, self._is(Task.PRODUCT, Task.CODES))
        factors = (
            (task[Task.CYCLES] & (bit == 0)) | (task[Task.CODES] & (bit == _VOLTAGE_PLACE)),
            task[Task.ENERGY] & Mux(in_power, power[0], power[-1]),
            self._is(Task.PRODUCT, Task.CHARGE) & self._current,
        )
        m.d.comb += [
            in_power.eq(bit < PRODUCT_BITS),
            factor.eq(Cat(later(m, factor) for factor in factors).any()),
            adder.a.eq(kept),
            adder.b.eq(later(m, Mux(factor & by_voltage, self._held.voltage, 0))),
            adder.c.eq(later(m, Mux(factor & ~by_voltage, cycles, 0))),
            total.eq(adder.total),
        ]
        m.d.sync += kept.eq(total[1:])
        with m.If(later(m, self._ends, 2)):
            m.d.sync += kept.eq(0)
        comes = later(m, task[Task.PRODUCT] & in_power, 2)
        with m.If(comes | (task[Task.ENERGY] & in_power)):
            m.d.sync += power.eq(Cat(power[1:], Mux(comes, total[0], power[0])))
        return total[0]

    def _give(self, m: Module, total: Signal) -> None:
        """Words, and where they are wanted from."""
        words = self.words
        m.d.comb += self._full.eq(words.valid & ~words.ready)
        with m.If(words.ready):
            m.d.sync += words.valid.eq(0)
        with m.If(later(m, self._task[Task.READ], _CYCLES)):
            m.d.sync += words.payload.eq(Cat(words.payload[1:], total))
        with m.If(later(m, self._task[Task.READ] & self._ends, _CYCLES)):
            m.d.sync += words.valid.eq(~self._fresh)
        with m.If(self.start):
            m.d.sync += [self._fresh.eq(1), self._wanted.eq(self.first), words.valid.eq(0)]


def later(m: Module, value: Value, cycles: int = 1) -> Signal:
    """The value of so many cycles before."""
    for _ in range(cycles):
        kept = Signal(len(value), name="later")
        m.d.sync += kept.eq(value)
        value = kept
    return kept
