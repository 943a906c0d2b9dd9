"""The sequencer: commands that overlap never meet in a cell, a sum or a stored word, and every command comes to an end.

Around it stands whatever the real units could do: a check of any outcome and of any rows, and units that are busy for
any time. What the check finds is the check's own business (the benches hold it to the golden model); here it is the
truth about which rows a command uses.
"""

from abc import abstractmethod
from types import ModuleType

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, Value
from amaranth.lib.wiring import In
from bitfirst_hdl import counters, sequencer
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import (
    MAX_DATA_WORDS,
    MAX_PAYLOAD_WORDS,
    WORD_BITS,
    Header,
    Load,
    Matmul,
    Opcode,
    Read,
    Space,
    Status,
    Write,
)
from bitfirst_hdl.update import Task

from .prove import Property, altered

CONFIG = ArrayConfig(rows=2, columns=4, a_cells=16, b_cells=16, sum_tiles=4, store_words=64, rx_words=1024)
STATES = ("START", "COMMAND", "CHECK", "WAIT", "UPDATE", "SNAPSHOT", "WRITE", "DISCARD", "REPLY", "DATA")
LIMIT = 6  #: cycles that a check, a unit or an answer takes at most, where ends are looked at
#: a MATMUL walks, and stores after the one before it; or a READ ends, and all promised answers leave one by one
WAIT_LIMIT = max(3, 1 + sequencer.PROMISES) * LIMIT
AGE_BITS = 17
_IDLE = 'self.idle.eq(fsm.ongoing("START") & ~self._reading)'
_INDEX = "header, index = packets.Header(self.frames.payload), Signal(range(COMMAND_WORDS))"
_LEFT = "words, left = self.replies.payload.words, Signal(range(MAX_DATA_WORDS + 1))"
_LOADING = "store, a, b = (Signal.like(rows) for rows in (check.store, check.a, check.b))"
_LOADING_MET = "words, cells = Signal(), Signal()"
_WALKED = "earlier_sums = Signal.like(check.sums)"
_WALKED_MET = "cells, meets, meets_earlier = Signal(), Signal(), Signal()"
_READ_MET = "read_sums = Signal()"
_WAITS = "may_wait, wanted = Signal(Waits), self._waits(m)"
_SEEN = (
    (_IDLE, f"{_IDLE}\n        self.ongoing = {{name: fsm.ongoing(name) for name in {STATES}}}"),
    (_INDEX, f"{_INDEX}\n        self.index = index"),
    (_LEFT, f"{_LEFT}\n        self.left = left"),
    (_LOADING, f"{_LOADING}\n        self.loading = store, a, b"),
    (_LOADING_MET, f"{_LOADING_MET}\n        self.loading_met = words, cells"),
    (_WALKED, f"{_WALKED}\n        self.walked = a, b, sums, earlier_sums"),
    (_WALKED_MET, f"{_WALKED_MET}\n        self.walked_met = cells, meets, meets_earlier"),
    (_READ_MET, f"{_READ_MET}\n        self.read_met = read_sums"),
    (_WAITS, f"{_WAITS}\n        self.waits = may_wait, wanted"),
)


def sequencer_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.sequencer` with `changes` in its source and any check; it shows its registers."""
    module = altered(sequencer, *changes, *_SEEN)

    class AnyCheck(module.CommandCheck):
        """Ends after any time with any outcome. Assumed is what keeps data words and their number together."""

        def elaborate(self, platform) -> Module:
            m = Module()
            self.active, self.age = Signal(), Signal(range(LIMIT + 1))
            self.ends = Signal()
            m.d.comb += self.ends.eq(self.active & AnySeq(1))
            m.d.sync += [
                self.active.eq(self.go | (self.active & ~self.ends)),
                self.age.eq(Mux(self.active & ~self.ends, self.age + 1, 0)),
                self.done.eq(self.ends),
            ]
            with m.If(self.active):
                for outcome in (self.status, self.a, self.b, self.sums, self.store, self.read_words):
                    m.d.sync += Value.cast(outcome).eq(AnySeq(len(Value.cast(outcome))))
            good, opcode = self.done & (self.status == Status.OK), self.command[:8]
            with m.If(good & (opcode == Opcode.WRITE)):
                m.d.comb += Assume(self.data_words != 0)
            with m.If(good & (opcode == Opcode.READ) & (Read(self.command).space != Space.SUMS)):
                m.d.comb += Assume((self.read_words != 0) & (self.read_words <= MAX_DATA_WORDS))
            return m

    module.CommandCheck = AnyCheck
    return module


def _has(rows, row: Value) -> Value:
    return (rows.first <= row) & (row < rows.end)


def _meet(rows, others) -> Value:
    return (rows.first < others.end) & (others.first < rows.end)


def _known_still(unit) -> list[Assert]:
    """What was known of the command a cycle before is so still."""
    waits, wanted = unit.waits
    return [
        Assert(waits.as_value() == wanted.as_value()),
        Assert(unit._good == (unit._check.status == Status.OK)),
    ]


def _decodes_its_opcode(unit) -> Assert:
    """From its second word on the command's decoded bits are those of its opcode."""
    comes = unit.ongoing["START"] | (unit.ongoing["COMMAND"] & (unit.index == 0))
    bits = (
        unit._decoded[sequencer.decoded_bit(CONFIG, opcode)] == (unit._opcode == opcode) for opcode in CONFIG.commands
    )
    return Assert(comes | Cat(bits).all())


def _is_update(unit) -> Value:
    return (unit._opcode == Opcode.UPDATE) | (unit._opcode == Opcode.WEIGHTS)


class _Unit:
    """Busy from the cycle after `starts`, for any time, or for at most `LIMIT` cycles."""

    def __init__(self, m: Module, starts: Value, ends_in_time: bool) -> None:
        self.busy, self.ends, self.spent = Signal(), Signal(), Signal(range(LIMIT + 1))
        m.d.comb += self.ends.eq(self.busy & AnySeq(1))
        m.d.sync += self.busy.eq(starts | (self.busy & ~self.ends))
        if ends_in_time:
            m.d.sync += self.spent.eq(Mux(self.busy & ~self.ends, self.spent + 1, 0))
            m.d.comb += Assume(~self.busy | self.ends | (self.spent < LIMIT - 1))
            m.d.comb += Assert(self.spent < LIMIT)

    @property
    def left(self) -> Value:
        return Mux(self.busy, LIMIT - self.spent, 0)


class Commands(Property):
    """Base: `Sequencer` with any commands, any check, a gather unit, an engine, a readout and an updater of any
    speed. A READ of the store is under way until its last word is taken.

    The engine takes a MATMUL when none walks and at most one stores; it stores them in order.
    """

    ends_in_time = False

    def __init__(self, module: ModuleType, inductive: bool = True) -> None:
        self.sequencer, self.inductive = module.Sequencer(CONFIG), inductive
        members = {"frames_valid": In(1), "frames_data": In(WORD_BITS), "replies_ready": In(1), "data_ready": In(1)}
        super().__init__(members | {"sum_replies_ready": In(1)})

    def state(self, m: Module) -> None:
        unit = self.sequencer
        m.submodules.sequencer = Fragment.get(unit, None)
        m.d.comb += [
            unit.frames.valid.eq(self.frames_valid),
            unit.frames.payload.eq(self.frames_data),
            unit.replies.ready.eq(self.replies_ready),
            unit.data.ready.eq(self.data_ready),
            unit.sum_replies.ready.eq(self.sum_replies_ready),
        ]
        with m.If(unit.ongoing["START"] & self.frames_valid):
            length = Header(self.frames_data).length
            m.d.comb += Assume((length != 0) & (length <= MAX_PAYLOAD_WORDS))
        self.check = unit._check
        self.loads, self.starts = unit.load.valid & unit.load.ready, unit.start.valid & unit.start.ready
        self.reads = unit.job.valid & unit.job.ready
        self.updates = unit.update.valid & unit.update.ready & (unit.update.payload.task != Task.WORDS)
        self._units(m)
        self.everything_idle = ~(
            self.gather.busy
            | self.walk.busy
            | (self.stored != 0)
            | self.readout.busy
            | self.updater.busy
            | unit._reading
        )
        self.hold(m)

    def _units(self, m: Module) -> None:
        unit, bounded = self.sequencer, self.ends_in_time
        self.gather, self.walk = _Unit(m, self.loads, bounded), _Unit(m, self.starts, bounded)
        self.readout, self.updater = _Unit(m, self.reads, bounded), _Unit(m, self.updates, bounded)
        self.stored, self.store_ends = Signal(2), Signal()  # MATMULs that store; the first of them ends
        self.store_spent = Signal(range(LIMIT + 1))
        m.d.comb += [
            unit.load.ready.eq(~self.gather.busy),
            unit.gather_busy.eq(self.gather.busy),
            unit.start.ready.eq(~self.walk.busy & (self.stored < 2)),
            unit.engine_walking.eq(self.walk.busy),
            unit.engine_storing.eq(self.stored != 0),
            unit.engine_busy.eq(self.walk.busy | (self.stored != 0)),
            unit.job.ready.eq(~self.readout.busy),
            unit.readout_busy.eq(self.readout.busy),
            unit.update.ready.eq(~self.updater.busy),
            unit.updating.eq(self.updater.busy),
            unit.stored.valid.eq(1),
            unit.counters.valid.eq(AnySeq(1)),
            self.store_ends.eq((self.stored != 0) & AnySeq(1)),
            Assert((self.stored + self.walk.busy) <= 2),
        ]
        m.d.sync += self.stored.eq(self.stored + self.walk.ends - self.store_ends)
        if bounded:
            m.d.sync += self.store_spent.eq(Mux((self.stored != 0) & ~self.store_ends, self.store_spent + 1, 0))
            m.d.comb += Assume((self.stored == 0) | self.store_ends | (self.store_spent < LIMIT - 1))
            m.d.comb += Assert(self.store_spent < LIMIT)

    @abstractmethod
    def hold(self, m: Module) -> None:
        """Adds what is asserted and covered."""


class Hazards(Commands):
    """One cell of A, one of B, one sum tile and one store word are followed, whichever.

    No LOAD under way writes the cell while a MATMUL reads it; no READ under way takes the tile while a MATMUL has yet
    to store it; no WRITE changes the word while a LOAD may read it, the row list while a LOAD runs, sums while anything
    uses sums, or the program while a MATMUL is under way. While an UPDATE or a READ of the store is under way, no LOAD
    is, and no WRITE changes the store. At SYNC, MARK and RESET nothing is under way. Each command is answered once, but
    a quiet one that begins not at all.
    """

    def hold(self, m: Module) -> None:
        unit = self.sequencer
        self.cell_a, self.cell_b = Signal(range(CONFIG.a_cells)), Signal(range(CONFIG.b_cells))
        self.tile, self.word = Signal(range(CONFIG.sum_tiles)), Signal(range(CONFIG.store_words))
        for chosen in (self.cell_a, self.cell_b, self.tile, self.word):
            m.d.comb += chosen.eq(AnyConst(len(chosen)))
        self._follow(m)
        loading, walking, reading = self.gather.busy, self.walk.busy, self.readout.busy
        self.reading_store = (
            (unit.ongoing["REPLY"] | unit.ongoing["DATA"])
            & (unit._opcode == Opcode.READ)
            & (self.check.status == Status.OK)
            & (Read(unit._bits).space == Space.STORE)
        )
        self.has_store = self.updater.busy | self.reading_store
        self.computing = (walking & self.walk_tile) | self.stores[0] | self.stores[1]
        writes_word = unit.store_write.valid & _has(self.check.store, self.word)
        m.d.comb += [
            Assert(~(loading & walking & self.load_a & self.walk_a), "cell of A"),
            Assert(~(loading & walking & self.load_b & self.walk_b), "cell of B"),
            Assert(~(reading & self.read_tile & self.computing), "sum tile"),
            Assert(~(writes_word & loading & self.load_word), "store word"),
            Assert(~(unit.list_write.valid & loading), "row list"),
            Assert(~(self.has_store & (loading | unit.store_write.valid)), "store"),
            Cover(self.updater.busy & walking & reading),
            Cover(self.reading_store & walking),
            Assert(~unit.sum_write.valid | ~(walking | reading | (self.stored != 0)), "sums"),
            Assert(~unit.program_write.valid | ~(walking | (self.stored != 0)), "program"),
            Cover(loading & walking & reading & self.load_a & ~self.walk_a & self.read_tile & (self.stored == 1)),
            Cover(writes_word & loading),
        ]
        self._answers(m)
        if self.inductive:
            self._look_inside(m)

    def _follow(self, m: Module) -> None:
        check = self.check
        self.load_a, self.load_b, self.load_word = Signal(), Signal(), Signal()
        self.walk_a, self.walk_b, self.walk_tile, self.read_tile = Signal(), Signal(), Signal(), Signal()
        self.stores = [Signal(name="stores_first"), Signal(name="stores_second")]
        with m.If(self.loads):
            m.d.sync += [
                self.load_a.eq(_has(check.a, self.cell_a)),
                self.load_b.eq(_has(check.b, self.cell_b)),
                self.load_word.eq(_has(check.store, self.word)),
            ]
        with m.If(self.starts):
            m.d.sync += [
                self.walk_a.eq(_has(check.a, self.cell_a)),
                self.walk_b.eq(_has(check.b, self.cell_b)),
                self.walk_tile.eq(_has(check.sums, self.tile)),
            ]
        with m.If(self.reads):
            m.d.sync += self.read_tile.eq(_has(check.sums, self.tile))
        first, second = self.stores
        ended = self.walk.ends & self.walk_tile
        with m.If(self.store_ends):
            m.d.sync += [first.eq(Mux(self.stored == 2, second, ended)), second.eq(0)]
        with m.Elif(self.stored == 0):
            m.d.sync += first.eq(ended)
        with m.Elif(self.walk.ends):
            m.d.sync += second.eq(ended)

    def _answers(self, m: Module) -> None:
        unit, owed, promised = self.sequencer, Signal(), Signal(range(sequencer.PROMISES + 1))
        answers, opcode = unit.replies.valid & unit.replies.ready, unit.replies.payload.opcode
        promises, keeps = unit._promises.w_en, unit.sum_replies.valid & unit.sum_replies.ready
        begins_quietly = (self.loads & Load(unit._bits).quiet) | (self.starts & Matmul(unit._bits).quiet)
        after_all = (opcode == Opcode.SYNC) | (opcode == Opcode.MARK) | (opcode == Opcode.RESET)
        m.d.sync += promised.eq(promised + promises - keeps)
        with m.If(unit.ongoing["START"] & unit.frames.valid):
            m.d.sync += owed.eq(1)
        with m.Elif(answers | promises | begins_quietly):
            m.d.sync += owed.eq(0)
        m.d.comb += [
            Assert(~(answers | promises) | owed, "an answer for a command"),
            Assert(~unit.ongoing["START"] | ~owed, "a command without answer"),
            Assert(~begins_quietly | owed, "a quiet command begins once"),
            Assert(~promises | unit._promises.w_rdy, "a promise lost"),
            Assert(unit.sum_replies.valid == (promised != 0), "all that is promised leaves"),
            Assert(~(unit.replies.valid & after_all) | self.everything_idle),
            Assert(~(unit.set_phase | unit.clear) | self.everything_idle),
            Cover(begins_quietly),
            Cover(answers & (opcode == Opcode.LOAD) & Load(unit._bits).quiet),
        ]
        if self.inductive:
            refused_read = unit.ongoing["DISCARD"] & (unit._opcode == Opcode.READ)
            m.d.comb += Assert(owed == ~(unit.ongoing["START"] | unit.ongoing["DATA"]))
            m.d.comb += Assert(promised == unit._promises.level)
            m.d.comb += Assert(promised <= sequencer.PROMISES)
            m.d.comb += Assert(~refused_read | ((promised < sequencer.PROMISES) & ~self.readout.busy))
            with m.If(after_all & Cat(unit.ongoing[name] for name in ("DISCARD", "SNAPSHOT", "REPLY")).any()):
                m.d.comb += Assert(self.everything_idle)

    def _look_inside(self, m: Module) -> None:
        unit, check = self.sequencer, self.check
        ongoing, space = unit.ongoing, Write(unit._bits).space
        store, a, b = unit.loading
        walked_a, walked_b, sums, earlier_sums = unit.walked
        words, cells = unit.loading_met
        walked_cells, meets, meets_earlier = unit.walked_met
        first, second = self.stores
        m.d.comb += [
            Assert(Cat(ongoing.values()).any()),
            Assert(check.active == (ongoing["CHECK"] & ~check.done)),
            Assert(~check.done | ongoing["CHECK"]),
            Assert(~self.readout.busy | unit._reading),
            Assert(~self.updater.busy | ongoing["UPDATE"]),
            Assert(~ongoing["UPDATE"] | ((check.status == Status.OK) & ~self.gather.busy & _is_update(unit))),
            Assert(~ongoing["WRITE"] | ((unit._opcode == Opcode.WRITE) & (check.status == Status.OK))),
            Assert((self.stored == 2) | ~second),
            Assert((self.stored != 0) | ~first),
            _decodes_its_opcode(unit),
        ]
        with m.If(self.gather.busy):
            m.d.comb += Assert(self.load_a == _has(a, self.cell_a))
            m.d.comb += Assert(self.load_b == _has(b, self.cell_b))
            m.d.comb += Assert(self.load_word == _has(store, self.word))
        with m.If(self.walk.busy):
            m.d.comb += Assert(self.walk_a == _has(walked_a, self.cell_a))
            m.d.comb += Assert(self.walk_b == _has(walked_b, self.cell_b))
            m.d.comb += Assert(self.walk_tile == _has(sums, self.tile))
        with m.If((self.stored == 2) | (self.walk.busy & (self.stored == 1))):
            m.d.comb += Assert(first == _has(earlier_sums, self.tile))
            m.d.comb += Assert(second == ((self.stored == 2) & _has(sums, self.tile)))
        with m.Elif(self.stored == 1):
            m.d.comb += Assert(first == _has(sums, self.tile))
        with m.If(self.readout.busy):
            m.d.comb += Assert(self.read_tile == _has(unit._read_sums, self.tile))
        with m.If(ongoing["WAIT"]):
            m.d.comb += [
                Assert(words == _meet(check.store, store)),
                Assert(cells == (_meet(check.a, a) | _meet(check.b, b))),
                Assert(walked_cells == (_meet(check.a, walked_a) | _meet(check.b, walked_b))),
                Assert(meets == _meet(check.sums, sums)),
                Assert(meets_earlier == _meet(check.sums, earlier_sums)),
                Assert(unit.read_met == _meet(check.sums, unit._read_sums)),
                *_known_still(unit),
            ]
        with m.If((ongoing["WRITE"] & (space == Space.STORE)) | unit.store_write.valid):
            m.d.comb += Assert(~(self.gather.busy & _meet(check.store, store)))
        with m.If((ongoing["WRITE"] & (space == Space.LIST)) | unit.list_write.valid):
            m.d.comb += Assert(~self.gather.busy)
        with m.If((ongoing["WRITE"] & (space == Space.SUMS)) | unit.sum_write.valid):
            m.d.comb += Assert(~(self.walk.busy | (self.stored != 0) | self.readout.busy))
        with m.If((ongoing["WRITE"] & (space == Space.PROGRAM)) | unit.program_write.valid):
            m.d.comb += Assert(~(self.walk.busy | (self.stored != 0)))
        ports = unit.store_write, unit.list_write, unit.sum_write, unit.program_write
        with m.If(Cat(port.valid for port in ports).any()):
            m.d.comb += Assert((unit._opcode == Opcode.WRITE) & (ongoing["WRITE"] | ongoing["REPLY"]))


class Apart(Commands):
    """Commands, faults, and starts of MATMULs, LOADs and UPDATEs come as far apart as `Counters` takes them to come."""

    def hold(self, m: Module) -> None:
        unit, check = self.sequencer, self.check
        checked = {"commands": unit.command, "faults": unit.fault}
        started = {"matmuls": unit.matmul, "loads": unit.load_started, "updates": unit.update_started}
        for name, event in (checked | started).items():
            apart = counters.apart(CONFIG)[name]
            since = Signal(range(apart), init=apart - 1, name=f"since_{name}")  # cycles, as many as matter
            m.d.sync += since.eq(Mux(event, 0, Mux(since == apart - 1, since, since + 1)))
            m.d.comb += [Assert(~event | (since == apart - 1), name), Cover(event)]
            if self.inductive:
                first = "START" if name in checked else "COMMAND"  # a cycle behind the event at the earliest
                least = enumerate(STATES[STATES.index(first) :][:3], 1)
                m.d.comb += [Assert(~unit.ongoing[state] | (since >= count)) for count, state in least]
                m.d.comb += Assert(~check.done | (since >= 3))
        if self.inductive:
            m.d.comb += Assert(check.active == (unit.ongoing["CHECK"] & ~check.done))
            m.d.comb += Assert(~check.done | unit.ongoing["CHECK"])
            m.d.comb += _decodes_its_opcode(unit)


class Ends(Commands):
    """With checks, units and answers to READ that take `LIMIT` cycles at most, a command waits `WAIT_LIMIT` at most.

    From the cycle after its frame begins to the return to START, not counting cycles in which frames or replies hold it
    up or data are sent (counters come after a few cycles, see `Counters`), it takes at most its words and a constant.
    So no sequence of commands ends in a deadlock.
    """

    ends_in_time = True

    def hold(self, m: Module) -> None:
        unit = self.sequencer
        ongoing = unit.ongoing
        self.waited, self.age = Signal(range(WAIT_LIMIT + 2)), Signal(AGE_BITS)
        self.length, self.unsent = Signal(15), Signal(range(LIMIT + 1))
        held_up = (unit.frames.ready & ~unit.frames.valid) | (unit.replies.valid & ~unit.replies.ready)
        begins = ongoing["START"] & unit.frames.valid
        m.d.sync += [
            self.waited.eq(Mux(ongoing["WAIT"], self.waited + 1, 0)),
            self.unsent.eq(Mux(unit.sum_replies.valid & ~unit.sum_replies.ready, self.unsent + 1, 0)),
        ]
        with m.If(begins):
            m.d.sync += [self.age.eq(0), self.length.eq(Header(self.frames_data).length)]
        with m.Elif(~(held_up | ongoing["DATA"])):
            m.d.sync += self.age.eq(self.age + 1)
        most = self.length + 2 * LIMIT + WAIT_LIMIT + 5
        m.d.comb += [
            Assume(~self.check.active | (self.check.age < LIMIT - 1) | self.check.ends),
            Assume(~unit.sum_replies.valid | unit.sum_replies.ready | (self.unsent < LIMIT - 1)),
            Assert(~ongoing["WAIT"] | (self.waited <= WAIT_LIMIT), "wait"),
            Assert(ongoing["START"] | (self.age <= most), "end"),
            Cover(ongoing["WAIT"] & (self.waited > LIMIT)),
            Cover(begins & (self.age > 2 * LIMIT)),
        ]
        if self.inductive:
            self._look_inside(m)

    def _look_inside(self, m: Module) -> None:
        unit, check = self.sequencer, self.check
        ongoing, left, opcode = unit.ongoing, unit._words_left, unit._opcode
        words, unsent, good = unit.replies.payload.words, unit.left, check.status == Status.OK
        walk_left = Mux(self.walk.busy, LIMIT - self.walk.spent + LIMIT, 0)
        storing_left = self.stored * LIMIT - self.store_spent
        read_left = self.readout.left + unit._promises.level * LIMIT - self.unsent
        writing, sending = ongoing["WRITE"], ongoing["DATA"]
        m.d.comb += [
            Assert(Cat(ongoing.values()).any()),
            Assert(check.active == (ongoing["CHECK"] & ~check.done)),
            Assert(~check.done | ongoing["CHECK"]),
            Assert(check.age < LIMIT),
            Assert(check.active | (check.age == 0)),
            Assert(~self.readout.busy | unit._reading),
            Assert(~self.updater.busy | ongoing["UPDATE"]),
            Assert(~ongoing["UPDATE"] | (good & _is_update(unit))),
            Assert((self.stored != 0) | (self.store_spent == 0)),
            Assert(unit.sum_replies.valid | (self.unsent == 0)),
            Assert(unit._promises.level <= sequencer.PROMISES),
            Assert(self.unsent < LIMIT),
            Assert(~(ongoing["COMMAND"] | ongoing["CHECK"]) | (self.waited == 0)),
            Assert((left <= self.length) | ongoing["START"]),
            Assert(~ongoing["COMMAND"] | (left != 0)),
            Assert(~writing | ((opcode == Opcode.WRITE) & good & (left != 0))),
            Assert(~sending | ((unsent != 0) & (unsent <= words) & (words <= MAX_DATA_WORDS))),
            _decodes_its_opcode(unit),
            Assert(~(ongoing["WAIT"] & good & (opcode == Opcode.WRITE)) | (left != 0)),
            Assert(~ongoing["SNAPSHOT"] | (opcode == Opcode.MARK) | (opcode == Opcode.COUNTERS)),
        ]
        of_registers = Read(unit._bits).space != Space.SUMS
        with m.If(good & (opcode == Opcode.READ) & (ongoing["WAIT"] | ongoing["REPLY"])):
            m.d.comb += Assert(of_registers | ongoing["WAIT"])
            m.d.comb += Assert(~of_registers | ((words != 0) & (words <= MAX_DATA_WORDS)))
        with m.If(ongoing["WAIT"]):
            m.d.comb += [
                Assert(self.waited + self.gather.left <= WAIT_LIMIT),
                Assert(self.waited + walk_left + storing_left <= WAIT_LIMIT),
                Assert(self.waited + read_left <= WAIT_LIMIT),
                *_known_still(unit),
            ]
        self._age(m)

    def _age(self, m: Module) -> None:
        """What each state has cost at most when it is reached."""
        unit, ongoing = self.sequencer, self.sequencer.ongoing
        taken, waits = self.length - unit._words_left, WAIT_LIMIT + LIMIT
        checked = Mux(self.check.done, LIMIT, self.check.age)
        most = {
            "COMMAND": taken,
            "CHECK": taken + checked,
            "WAIT": taken + LIMIT + 1 + self.waited,
            "UPDATE": taken + waits + 2 + Mux(self.updater.busy, self.updater.spent, LIMIT),
            "SNAPSHOT": taken + waits + 2,
            "WRITE": taken + waits + 2,
            "DISCARD": taken + waits + 2,
            "REPLY": taken + waits + LIMIT + 3,
            "DATA": taken + waits + LIMIT + 4,
        }
        for name, age in most.items():
            with m.If(ongoing[name]):
                m.d.comb += Assert(self.age <= age)
