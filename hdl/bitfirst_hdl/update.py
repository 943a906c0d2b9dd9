"""UPDATE and WEIGHTS: masters and momenta in the tensor store move by signs, and become the next forward's weights."""

from itertools import pairwise

from amaranth.hdl import Array, C, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import UPDATE_SETUP_CYCLES, UPDATE_TAIL_CYCLES, ArrayConfig
from .contract.numeric import (
    COEFFICIENT_BITS,
    DECAY_SHIFT,
    HIDDEN_BITS,
    MASTER_BITS,
    MOMENTUM_BITS,
    MOMENTUM_FRACTION,
    MULTIPLIER_BITS,
    STEP_SHIFT,
    WEIGHT_FRACTION,
    limits,
)
from .contract.packets import GROUP, OCTET_BITS, STATE_WORDS, STORE_WORD_WORDS, WORD_BITS
from .ports import MemoryWrite, StoreRead, word_stream

VISIBLE_BITS = MASTER_BITS - HIDDEN_BITS  #: of a master, what the layers see
HALVES = STATE_WORDS * STORE_WORD_WORDS  #: 64-bit words of a group, and cycles to exchange it for the next one
MOMENTUM_LATENCY = 4  #: cycles from an element to its new momentum, or to its weight
MASTER_LATENCY = UPDATE_TAIL_CYCLES  #: cycles from an element to its new master

_PLANES = OCTET_BITS // STORE_WORD_WORDS  # in a 64-bit word
_MASTER_HALVES = MASTER_BITS // _PLANES
_PAIR_HALVES = 2 * STORE_WORD_WORDS  # of what the store gives at once
_SHIFTED_BITS = VISIBLE_BITS + WEIGHT_FRACTION
_AMOUNT_BITS = 6
_LEVELS = (5, 4, 3), (2, 1, 0)  # bits of the amount by which each of two cycles shifts


class Task(enum.IntEnum, shape=2):
    UPDATE = 0
    WEIGHTS = 1
    WORDS = 2  # a READ of the store


class UpdateJob(data.Struct):
    """One command with fields already checked.

    state        first store word of masters and momenta; WORDS: of what is read
    other        of the signs; WEIGHTS: of the weights
    groups       of `GROUP` elements; WORDS: store words
    two_octets   WEIGHTS: weights of two octets
    amount       `rate_shift`; WEIGHTS: `shift`
    decay, decay_shift, rate, coefficient   UPDATE: its fields
    """

    task: Task
    two_octets: 1
    state: 16
    other: 16
    groups: 16
    decay: MULTIPLIER_BITS
    decay_shift: _AMOUNT_BITS
    rate: MULTIPLIER_BITS
    amount: _AMOUNT_BITS
    coefficient: COEFFICIENT_BITS


def shifted_up(quotient: Value, rest: Value, amount: Value, bits: tuple[int, ...]) -> tuple[Value, Value]:
    """A shift to the right by these bits of `amount`, and whether anything is lost; added to it, it rounds up."""
    for bit in bits:
        lost = rest | (amount[bit] & quotient[: 1 << bit].any())
        quotient, rest = Mux(amount[bit], quotient >> (1 << bit), quotient), lost
    return quotient, rest


def shifted(
    quotient: Value, half: Value, rest: Value, amount: Value, bits: tuple[int, ...]
) -> tuple[Value, Value, Value]:
    """Likewise: the quotient, the first bit behind it, and whether any bit behind that is set."""
    for bit in bits:
        count = 1 << bit
        lost = rest | half | quotient[: count - 1].any()
        quotient, half, rest = (
            Mux(amount[bit], behind, before)
            for behind, before in ((quotient >> count, quotient), (quotient[count - 1], half), (lost, rest))
        )
    return quotient, half, rest


def carry_of(quotient: Value, half: Value, rest: Value) -> Value:
    """What rounding to nearest, ties to even, adds."""
    return half & (rest | quotient[0])


class Updater(wiring.Component):
    """Executes one `UpdateJob` at a time, as `contract.numeric.update` and `weight` define it (see `packets.Update`).

    start    in, stream of `UpdateJob`; ready while not busy
    busy     out(1)  high from the cycle after a job is taken until its last word is written, or taken from `words`
    counted  out(1)  busy with UPDATE or WEIGHTS, for the counter
    largest  out     largest magnitude of the latest UPDATE's masters, as layers see them; valid when it is done
    read     out, `StoreRead` of a store that is always ready; nobody else reads while busy
    write    out, `MemoryWrite`
    words    out, stream of words: what a READ of the store asks for, in order

    The 12 words of 64 bits of a group lie in 48 shift registers, one for each plane. `HALVES` cycles exchange them for
    those of the next group, word by word; then the 16 elements pass through the arithmetic, one a cycle, and come back
    to their places `MOMENTUM_LATENCY` and `MASTER_LATENCY` cycles later. So a job of G groups takes
    `config.update_cycles(G)` = 37 * G + 14 cycles; WORDS takes 2, and one for each 64-bit word that is taken at once.
    Every register but those of the state holds still without a job. Reset abandons the job.
    """

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(
            {
                "start": In(stream.Signature(UpdateJob)),
                "busy": Out(1),
                "counted": Out(1),
                "largest": Out(VISIBLE_BITS),
                "read": Out(StoreRead(config)),
                "write": Out(MemoryWrite()),
                "words": Out(word_stream()),
            }
        )
        self._job = Signal(UpdateJob, reset_less=True)
        self._beat, self._left = Signal(range(GROUP + MASTER_LATENCY)), Signal(16, reset_less=True)
        # store words: the first of the next two of the state, the next signs, the next to be written
        self._pair, self._other, self._out = (
            Signal(16, name=name, reset_less=True) for name in ("pair", "other", "out")
        )
        self._first = Signal()  # no group is in the registers yet
        self._exchanges, self._runs = Signal(), Signal()
        self._asks, self._for_signs = Signal(), Signal()  # for words of the store
        self._halves = [Signal(WORD_BITS, name=f"half_{index}", reset_less=True) for index in range(HALVES)]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        job = self._job
        with m.FSM() as fsm:
            self._rest(m)
            self._fetch(m)
            self._send(m)
        self._ask(m)
        m.d.comb += [
            self.busy.eq(~fsm.ongoing("REST")),
            self.counted.eq(self.busy & (job.task != Task.WORDS)),
        ]
        arriving = self._arriving(m)
        self._put(m)
        master, momentum = self._state()
        with m.If(self._runs):
            new_momentum = self._new_momentum(m, momentum, self._signs(m))
            quotient, carry = self._step(m, new_momentum, master)
            new_master = self._new_master(m, self._decay(m, master), quotient, carry)
            weight = self._weight(m, quotient, carry)
        self._keep_largest(m, new_master)
        self._move(m, arriving, new_master, Mux(job.task == Task.WEIGHTS, weight, new_momentum.as_unsigned()))
        return m

    # order
    def _rest(self, m: Module) -> None:
        job, new = self._job, self.start.payload
        with m.State("REST"):
            m.d.comb += self.start.ready.eq(1)
            with m.If(self.start.valid):
                m.d.sync += [
                    job.eq(new),
                    job.decay_shift.eq(new.decay_shift - DECAY_SHIFT),
                    job.amount.eq(new.amount - Mux(new.task == Task.UPDATE, STEP_SHIFT, 0)),
                    self._pair.eq(Cat(C(0, 1), new.state[1:])),
                    self._other.eq(new.other),
                    self._out.eq(Mux(new.task == Task.UPDATE, new.state, new.other)),
                    self._left.eq(new.groups),
                    self._beat.eq(0),
                    self._first.eq(1),
                    self.largest.eq(0),
                ]
                m.next = "PRIME"

    def _fetch(self, m: Module) -> None:
        """The store is asked two of its steps before words are needed: for three pairs of the state, then for signs."""
        beat, left, asks = self._beat, self._left, self._asks
        with m.State("PRIME"):
            m.d.comb += asks.eq(1)
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == UPDATE_SETUP_CYCLES - 1):
                m.d.sync += beat.eq(Mux(self._job.task == Task.WORDS, Cat(C(0, 1), self._job.state[0]), 0))
                m.next = "EXCHANGE"
                with m.If(self._job.task == Task.WORDS):
                    m.next = "WORDS"
        with m.State("EXCHANGE"):
            m.d.comb += [
                self._exchanges.eq(1),
                asks.eq(beat[:2] == _PAIR_HALVES - 1),
                self._for_signs.eq(beat == 2 * _PAIR_HALVES - 1),
            ]
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == HALVES - 1):
                m.d.sync += [beat.eq(0), self._first.eq(0), left.eq(left - 1)]
                m.next = "RUN"
                with m.If(left == 0):
                    m.next = "REST"
        with m.State("RUN"):
            m.d.comb += [self._runs.eq(1), asks.eq(beat == 0)]
            m.d.sync += beat.eq(beat + 1)
            with m.If(beat == 0):
                m.d.sync += self._other.eq(self._other + 1)
            with m.If(beat == GROUP + MASTER_LATENCY - 1):
                m.d.sync += beat.eq(0)
                m.next = "EXCHANGE"

    def _send(self, m: Module) -> None:
        beat, left, asks = self._beat, self._left, self._asks
        with m.State("WORDS"):
            m.d.comb += [self.words.valid.eq(1), asks.eq(self.words.ready & (beat == _PAIR_HALVES - 1))]
            with m.If(self.words.ready):
                m.d.sync += [beat.eq(Mux(asks, 0, beat + 1)), left.eq(left - beat[0])]
                with m.If(beat[0] & (left == 1)):
                    m.next = "REST"

    def _ask(self, m: Module) -> None:
        word = Mux(self._for_signs, self._other, self._pair)
        m.d.comb += [self.read.enable.eq(self._asks), self.read.word.eq(word)]
        with m.If(self._asks & ~self._for_signs):
            m.d.sync += self._pair.eq(self._pair + 2)

    # words
    def _arriving(self, m: Module) -> Value:
        """The word of 64 bits of the pair that the store gives, by the lowest bits of the beat."""
        parts = Array(word[place : place + WORD_BITS] for word in self.read.data for place in (0, WORD_BITS))
        m.d.comb += self.words.payload.eq(parts[self._beat[:2]])
        return self.words.payload

    def _put(self, m: Module) -> None:
        """Of the group before: everything, or its weights, which lie where the momentum did."""
        job, beat, write = self._job, self._beat, self.write
        weights, low = job.task == Task.WEIGHTS, Signal()
        m.d.comb += [
            low.eq(beat >= HALVES - STORE_WORD_WORDS),
            write.row.eq(self._out + Mux(weights & job.two_octets & low, job.groups, 0)),
            write.word.eq(beat[0]),
            write.data.eq(self._halves[0]),
            write.valid.eq(
                self._exchanges & ~self._first & (~weights | low | ((beat >= _MASTER_HALVES) & job.two_octets))
            ),
        ]
        goes_on = Mux(weights, beat == HALVES - 1, beat[0])
        with m.If(self._exchanges & ~self._first & goes_on):
            m.d.sync += self._out.eq(self._out + 1)

    def _places(self, first: int, end: int) -> list[tuple[int, int]]:
        """(word of 64 bits, plane) of the bits of the number in these words, least significant first."""
        octets = range(end - STORE_WORD_WORDS, first - 1, -STORE_WORD_WORDS)
        return [
            (octet + half, plane) for octet in octets for half in range(STORE_WORD_WORDS) for plane in range(_PLANES)
        ]

    def _state(self) -> tuple[Value, Value]:
        """Master and momentum of the next element."""
        master, momentum = (
            Cat(self._halves[half][GROUP * plane] for half, plane in self._places(*ends))
            for ends in ((0, _MASTER_HALVES), (_MASTER_HALVES, HALVES))
        )
        return master, momentum

    def _move(self, m: Module, arriving: Value, master: Value, momentum: Value) -> None:
        with m.If(self._exchanges):
            for half, behind in zip(self._halves, [*self._halves[1:], arriving], strict=True):
                m.d.sync += half.eq(behind)
        with m.Elif(self._runs):
            self._turn(m, self._places(0, _MASTER_HALVES), master)
            with m.If(self._beat < GROUP + MOMENTUM_LATENCY):
                self._turn(m, self._places(_MASTER_HALVES, HALVES), momentum)

    def _turn(self, m: Module, places: list[tuple[int, int]], number: Value) -> None:
        """One element of these planes goes, `number` comes in behind the last."""
        for (half, plane), bit in zip(places, number, strict=True):
            register = self._halves[half][GROUP * plane : GROUP * (plane + 1)]
            m.d.sync += register.eq(Cat(register[1:], bit))

    # arithmetic: what follows is called while `_runs`; a number in the comments is the cycle in which the first
    # element's results can be seen, where the element itself is in cycle 0
    def _signs(self, m: Module) -> tuple[Value, Value]:
        """2: whether there is a sign, and whether it is negative."""
        nonzero, negative = (Signal(GROUP, name=name, reset_less=True) for name in ("nonzero", "negative"))
        word = Mux(self._other[0], self.read.data[1], self.read.data[0])
        with m.If(self._beat == 0):
            m.d.sync += [nonzero.eq(word[:GROUP]), negative.eq(word[GROUP : 2 * GROUP])]
        with m.Elif(self._beat != 1):
            m.d.sync += [nonzero.eq(nonzero >> 1), negative.eq(negative >> 1)]
        return nonzero[0], negative[0]

    def _decay(self, m: Module, master: Value) -> Value:
        """7: the master after its decay."""
        job = self._job
        size = [Signal(MASTER_BITS, name=f"size_{cycle}", reset_less=True) for cycle in range(1, 6)]
        minus = [Signal(name=f"minus_{cycle}", reset_less=True) for cycle in range(1, 7)]
        low, high = (Signal(2 * MULTIPLIER_BITS, name=name, reset_less=True) for name in ("loss_low", "loss_high"))
        product = Signal(MASTER_BITS + MULTIPLIER_BITS, name="loss_product", reset_less=True)
        loss = product[DECAY_SHIFT:], product[:DECAY_SHIFT].any()
        m.d.sync += [
            size[0].eq(Mux(master[-1], -master, master)),
            minus[0].eq(master[-1]),
            low.eq(size[0][:MULTIPLIER_BITS] * job.decay),
            high.eq(size[0][MULTIPLIER_BITS:] * job.decay),
            product.eq(low + (high << MULTIPLIER_BITS)),
            *(after.eq(before) for before, after in pairwise(size)),
            *(after.eq(before) for before, after in pairwise(minus)),
        ]
        for cycle, bits in zip((4, 5), _LEVELS, strict=True):
            loss = self._registered(m, f"loss_{cycle}", shifted_up(*loss, job.decay_shift, bits))
        quotient, rest = loss
        left, decayed = Signal(MASTER_BITS, reset_less=True), Signal(signed(MASTER_BITS), reset_less=True)
        m.d.sync += [left.eq(less(size[-1], quotient, rest)), decayed.eq(Mux(minus[-1], -left, left))]
        return decayed

    def _new_momentum(self, m: Module, momentum: Value, signs: tuple[Value, Value]) -> Value:
        """4: the momentum, saturated."""
        nonzero, negative = signs
        size, minus = Signal(MOMENTUM_BITS, reset_less=True), Signal(2, name="momentum_minus", reset_less=True)
        product = Signal(MOMENTUM_BITS + COEFFICIENT_BITS, name="kept_product", reset_less=True)
        moved = Signal(signed(MOMENTUM_BITS + 1), reset_less=True)
        new = Signal(signed(MOMENTUM_BITS), name="momentum", reset_less=True)
        kept, unit = product[COEFFICIENT_BITS:], 1 << MOMENTUM_FRACTION
        m.d.sync += [
            size.eq(Mux(momentum[-1], -momentum, momentum)),
            minus.eq(Cat(momentum[-1], minus)),
            product.eq(size * self._job.coefficient),
            moved.eq(Mux(minus[1], -kept, kept) + Mux(nonzero, Mux(negative, -unit, unit), 0)),
            new.eq(saturated(moved, MOMENTUM_BITS)),
        ]
        return new

    def _step(self, m: Module, momentum: Value, master: Value) -> tuple[Value, Value]:
        """7, for WEIGHTS 3: the step, or the weight, rounded down, and what rounding adds."""
        job = self._job
        product = Signal(signed(_SHIFTED_BITS), name="step_product", reset_less=True)
        visible = Cat(C(0, WEIGHT_FRACTION), master[HIDDEN_BITS:]).as_signed()
        m.d.sync += product.eq(Mux(job.task == Task.WEIGHTS, visible, momentum * job.rate))
        parts = product, C(0, 1), C(0, 1)
        for cycle, bits in zip((6, 7), _LEVELS, strict=True):
            parts = self._registered(m, f"step_{cycle}", shifted(*parts, job.amount, bits))
        return parts[0], carry_of(*parts)

    def _new_master(self, m: Module, decayed: Value, quotient: Value, carry: Value) -> Value:
        """9: the master, saturated."""
        wide = MASTER_BITS + 1
        total = Signal(signed(wide), name="stepped", reset_less=True)
        new = Signal(signed(MASTER_BITS), name="master", reset_less=True)
        m.d.sync += [
            total.eq(less(_widened(decayed, wide), quotient[:wide], carry)),
            new.eq(saturated(total, MASTER_BITS)),
        ]
        return new

    def _weight(self, m: Module, quotient: Value, carry: Value) -> Value:
        """4: of WEIGHTS."""
        weight = Signal(MOMENTUM_BITS, name="weight", reset_less=True)
        m.d.sync += weight.eq(quotient[:MOMENTUM_BITS] + carry)
        return weight

    def _keep_largest(self, m: Module, master: Value) -> None:
        visible, size, fresh = master[HIDDEN_BITS:], Signal(VISIBLE_BITS, name="visible", reset_less=True), Signal()
        m.d.sync += fresh.eq(self._runs & (self._beat >= MASTER_LATENCY))
        with m.If(self._runs):
            m.d.sync += size.eq(Mux(visible[-1], -visible, visible))
        with m.If(fresh & (size > self.largest)):
            m.d.sync += self.largest.eq(size)

    @staticmethod
    def _registered(m: Module, name: str, values: tuple[Value, ...]) -> tuple[Signal, ...]:
        registers = [
            Signal(value.shape(), name=f"{name}_{index}", reset_less=True) for index, value in enumerate(values)
        ]
        m.d.sync += [register.eq(value) for register, value in zip(registers, values, strict=True)]
        return tuple(registers)


def _widened(value: Value, bits: int) -> Value:
    return Cat(value, value[-1].replicate(bits - len(value)))


def less(value: Value, other: Value, one: Value) -> Value:
    """value - other - one in one addition: `~one` is carried in by a bit below."""
    return (Cat(C(1, 1), value) + Cat(~one, ~other))[1 : 1 + len(value)]


def saturated(value: Value, bits: int) -> Value:
    """A signed number as one of `bits` bits, symmetrically."""
    low, high = limits(bits, True)
    top, negative = value[bits - 1 :], value[-1]
    above, below = ~negative & top.any(), negative & (~top.all() | ~value[: bits - 1].any())
    return Mux(above, high, Mux(below, low, value[:bits].as_signed()))
