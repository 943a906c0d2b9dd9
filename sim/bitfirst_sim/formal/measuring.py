"""The power monitor: its I2C bus is let go in time, a converter is asked once at a time, and its sums, copies and
records keep out of each other's way.
"""

from types import ModuleType

from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal
from amaranth.lib.wiring import In
from bitfirst_hdl.contract.power import RAILS
from bitfirst_hdl.power import i2c, spi, sums, xadc
from bitfirst_hdl.power.sums import SUM_WORDS, Task

from .prove import Property, altered

CLOCK_KHZ = 5000  #: a quarter of a bit takes four cycles
LIMIT_TICKS = 6  #: for which SCL may be held, a tick a cycle
_SHOWS = "        waits = self._waits(quarter, owned)\n"


def i2c_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.power.i2c` with `changes` in its source; the master shows registers of its."""
    shows = _SHOWS, f"{_SHOWS}        self.inside = quarter, owned, timer, waited, turns\n"
    return altered(i2c, *changes, shows, stretch_ticks=lambda clock_khz: LIMIT_TICKS)


def sums_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.power.sums` with `changes` in its source; a frame may be cut short, as `acknowledged` says."""
    cuts = "Mux(self.acknowledged & ~self._bit[1:].all(), WORD_BITS - 2, self._bit + 1)"
    return altered(sums, *changes, ("self._bit.eq(self._bit + 1)", f"self._bit.eq({cuts})"))


class LetsGo(Property):
    """`I2CMaster`, any bits, any levels of the wires at any time, a tick a cycle.

    Where STARTs are followed by something else, SDA changes under SCL held low, but for the START and STOP themselves.
    Everything is done within so many quarters, each with SCL held for as long as it may be. Behind a STOP, and where
    SCL was held for longer, both wires have been let go. `inductive` adds what a proof needs besides.
    """

    def __init__(self, module: ModuleType, inductive: bool = True) -> None:
        self.module, self.master, self.inductive = module, module.I2CMaster(CLOCK_KHZ), inductive
        super().__init__({"go": In(1), "kind": In(2), "send": In(1), "scl_i": In(1), "sda_i": In(1)})

    def state(self, m: Module) -> None:
        master, kind, began = self.master, Signal(2), Signal()
        m.submodules.master = Fragment.get(master, None)
        names = "go", "kind", "send", "scl_i", "sda_i"
        m.d.comb += [getattr(master, name).eq(getattr(self, name)) for name in names]
        m.d.comb += [
            master.tick.eq(1),
            Assume(~self.go | ~master.busy),
            Assume((self.kind == i2c.STOP) | (self.kind == i2c.BYTE) | (self.kind == i2c.START)),
            Assume(~(self.go & began & (self.kind == i2c.START))),
            Assume((kind != i2c.STOP) | ~master.busy | self.send),
        ]
        with m.If(self.go):
            m.d.sync += [kind.eq(self.kind), began.eq(self.kind == i2c.START)]
        with m.If(master.stretched):
            m.d.sync += began.eq(0)
        self._holds(m, kind, began)
        self._ends_in_time(m)

    def _holds(self, m: Module, kind: Signal, began: Signal) -> None:
        """Bits come a cycle behind their place, and stay."""
        master = self.master
        quarter, _, _, _, turns = master.inside
        moves, moved, send = Signal(), Signal(), Signal()
        scl_low, sda_low, turned, given_up, ended = Signal(), Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            moves.eq(self.go | master.bit_done),
            moved.eq(moves),
            send.eq(self.send),
            scl_low.eq(master.scl_low),
            sda_low.eq(master.sda_low),
            turned.eq(turns & (quarter == i2c.END)),
            given_up.eq(master.stretched),
            ended.eq(master.done & (kind == i2c.STOP)),
        ]
        m.d.comb += Assume(moved | (self.send == send))
        with m.If((master.sda_low != sda_low) & ~turned & ~given_up):
            m.d.comb += Assert(scl_low & master.scl_low, "SDA changes while SCL may be high")
        with m.If(given_up | ended):
            m.d.comb += Assert(~master.scl_low & ~master.sda_low, "a wire is held")
        if self.inductive:
            m.d.comb += [Assert(~moves | (quarter == 0)), Assert(~moved | (quarter <= i2c.CHANGE))]
            self._invariants(m, kind, began, turned)
        m.d.comb += [Cover(ended & ~given_up), Cover(given_up & sda_low & ~ended)]

    def _invariants(self, m: Module, kind: Signal, began: Signal, turned: Signal) -> None:
        """What is true of the registers besides."""
        master = self.master
        quarter, owned, _, _, turns = master.inside
        up, changed = master.place[-1], quarter > i2c.CHANGE
        is_byte, is_stop, is_start = (kind == one for one in (i2c.BYTE, i2c.STOP, i2c.START))
        with m.If(~master.busy):
            m.d.comb += [
                Assert(quarter == 0),
                Assert(~is_stop | ~owned),
                Assert(~began | master.sda_low),
                Assert(began | owned | ~master.sda_low),
            ]
        with m.Else():
            m.d.comb += [
                Assert(is_byte | is_stop | is_start),
                Assert(began == is_start),
                Assert(~is_byte | (owned & ~turns)),
                Assert(~is_start | (turns & (master.place == 15))),
                Assert(~is_stop | Mux(turns, owned & (master.place == 1), ~owned & ~master.sda_low)),
                Assert(~is_stop | turns | (master.place == 0) | (master.place == 15)),
                Assert(~(owned & (quarter == i2c.CHANGE)) | master.scl_low),
                Assert(~changed | turns | (master.sda_low == ~self.send)),
                Assert(~changed | ~turns | ((quarter == i2c.END) & turned) | (master.sda_low == ~up)),
                Assert(~(turned & turns) | (master.sda_low == up)),
                Assert(~is_start | owned | changed | ~master.sda_low),
            ]

    def _ends_in_time(self, m: Module) -> None:
        """Cycles gone, and those to come at most, are together no more than a byte's."""
        master = self.master
        quarter, _, timer, waited, _ = master.inside
        cycles = self.module.quarter_cycles(CLOCK_KHZ)
        each = cycles + LIMIT_TICKS
        bits = (master.place + 2)[: len(master.place)]  # this one, and those behind it
        most = 9 * 4 * each + LIMIT_TICKS
        gone, left = Signal(range(2 * most)), Signal(range(2 * most))
        m.d.sync += gone.eq(Mux(self.go, 0, gone + master.busy))
        m.d.comb += left.eq(
            ((bits - 1) * 4 + 3 - quarter) * each + Mux(timer != 0, timer + LIMIT_TICKS, LIMIT_TICKS - waited)
        )
        with m.If(master.busy):
            m.d.comb += [
                Assert((bits >= 1) & (bits <= 9)),
                Assert(timer < cycles),
                Assert(waited < LIMIT_TICKS),
                Assert(gone + left <= most, "too late"),
            ]


class Turns(Property):
    """`Sums`, any samples, spans, orders and readers; a sample only comes while none is at work, and READs wait for
    `clear` and `copy`.

    One task at a time, for whole frames. A sample at work stays as it is until each of its spans has been added to all
    four sums, and it has been written down, if it is to be. A copy begins between rounds, with the time of the last one
    at hand and no sample at work, and takes one word after another without anything between.
    """

    def __init__(self, module: ModuleType) -> None:
        self.sums = module.Sums(10)
        self.taken_in = {
            "__".join(map(str, path)): (path, member)
            for path, member, _ in self.sums.signature.flatten(self.sums)
            if member.flow == In
        }
        super().__init__({f"in_{name}": In(member.shape) for name, (_, member) in self.taken_in.items()})

    def state(self, m: Module) -> None:
        adds = self.sums
        m.submodules.sums = Fragment.get(adds, None)
        for name, (path, _) in self.taken_in.items():
            inner = adds
            for part in path:
                inner = getattr(inner, part)
            m.d.comb += inner.eq(getattr(self, f"in_{name}"))
        task, ended, before, place = adds._task, Signal(), Signal(Task.COUNT), Signal(range(SUM_WORDS + 1))
        m.d.sync += [ended.eq(adds._ends), before.eq(task)]
        m.d.comb += [
            Assume(~self.in_take | adds.idle),
            Assume(self.in_hold | ~(self.in_clear | self.in_copy)),
            Assert((task & (task - 1)) == 0, "two tasks"),
            Assert(ended | (task == before), "a task that changes in its frame"),
            Assert((ended == (adds._bit == 0)) | ~self._awake(m)),
        ]
        self._samples(m, ended, before)
        self._copies(m, ended, before, place)

    def _awake(self, m: Module) -> Signal:
        """From the second cycle on."""
        awake = Signal()
        m.d.sync += awake.eq(1)
        return awake

    def _samples(self, m: Module, ended: Signal, before: Signal) -> None:
        adds, task = self.sums, self.sums._task
        waited, held, last, record, known = Signal(), Signal.like(adds._held.as_value()), Signal(), Signal(), Signal()
        m.d.sync += [
            waited.eq(adds._waiting),
            held.eq(adds._held),
            last.eq(self.in_last),
            record.eq(self.in_record),
            known.eq(self.in_known),
        ]
        sums_done = ended & ((before[Task.ENERGY] & last) | (waited & ~before.any() & ~known))
        with m.If(waited & adds._waiting):
            m.d.comb += Assert(adds._held.as_value() == held, "a sample that changes")
        with m.If(waited & ~adds._waiting):
            m.d.comb += Assert(ended & (before[Task.CODES] | (sums_done & ~record)), "a sample that is lost")
        at_work = task[Task.CYCLES : Task.CODES + 1].any()
        m.d.comb += [Assert(~at_work | adds._waiting), Cover(waited & ~adds._waiting & before[Task.CODES])]
        followers = {Task.PRODUCT: 1, Task.CYCLES: 1, Task.SAMPLES: 1, Task.CHARGE: 1, Task.STAMP: 1}
        for place, follower in followers.items():
            after = {Task.PRODUCT: Task.CYCLES, Task.STAMP: Task.CODES}.get(place, place + follower)
            with m.If(ended & before[place]):
                m.d.comb += Assert(task[after], "a sum left out")
        with m.If(ended & before[Task.ENERGY]):
            m.d.comb += Assert(Mux(last, task[Task.STAMP] == record, task[Task.CYCLES]), "a span left out")

    def _copies(self, m: Module, ended: Signal, before: Signal, place: Signal) -> None:
        adds, task = self.sums, self.sums._task
        between, waited, timed, copied = Signal(), Signal(), Signal(), Signal()
        m.d.sync += [
            between.eq(self.in_between),
            waited.eq(adds._waiting),
            timed.eq(~adds._due & ~adds._stamping),
            copied.eq(adds.copied),
        ]
        with m.If(adds._ends & task[Task.COPY]):
            m.d.sync += place.eq(place + 1)
        with m.If(task[Task.TIME]):
            m.d.sync += place.eq(0)
        with m.If(ended & task[Task.TIME]):
            m.d.comb += Assert(between & ~waited & timed, "a copy in the midst of a round")
        with m.If(ended & (before[Task.TIME] | (before[Task.COPY] & ~copied))):
            m.d.comb += Assert(task[Task.COPY], "a copy that is left")
        with m.If(task[Task.TIME] & ~ended):
            m.d.comb += Assert((adds._index == 0) & (place == 0))
        with m.If(task[Task.COPY]):
            m.d.comb += [
                Assert((adds._index == place) & (place < SUM_WORDS)),
                Assert(~before[Task.TIME] | (place == 0)),
            ]
        m.d.comb += [
            Assert(~copied | (place == SUM_WORDS), "a copy of less than all"),
            Cover(task[Task.COPY] & (place == 1)),
        ]


def spi_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.power.spi` with `changes` in its source; the transfers show registers of theirs."""
    shows = "        with m.FSM():\n"
    inside = '            self.inside = timer, bit_ends, steps.ongoing("BITS")\n'
    return altered(spi, *changes, (shows, f"        with m.FSM() as steps:\n{inside}"))


class Selects(Property):
    """`SpiTransfers`, any transfers, any levels of `miso`; bits come a cycle behind their place, and stay.

    One chip is selected at most, from before the clock's first edge until behind its last. A level of the clock lasts
    for half a bit or longer. MOSI changes while the clock is high, but not as it falls.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.transfers = module, module.SpiTransfers(CLOCK_KHZ)
        names = "start", "recovers", "address", "written", "read", "send", "miso"
        self.taken_in = {name: self.transfers.signature.members[name] for name in names}
        super().__init__({f"in_{name}": In(member.shape) for name, member in self.taken_in.items()})

    def state(self, m: Module) -> None:
        bus, half = self.transfers, self.module.half_cycles(CLOCK_KHZ)
        m.submodules.bus = Fragment.get(bus, None)
        m.d.comb += [getattr(bus, name).eq(getattr(self, f"in_{name}")) for name in self.taken_in]
        timer, moves, passing = bus.inside
        told = Cat(self.in_address, self.in_written, self.in_read)
        was_told, send, moved, moves_on = Signal(len(told)), Signal(), Signal(), Signal()
        clock, said, lines = Signal(), Signal(), Signal(len(bus.cs_n), init=bus.cs_n.init)
        age = Signal(4, init=15)  # cycles for which the clock had been as it was in the one before
        m.d.sync += [
            was_told.eq(told),
            send.eq(self.in_send),
            moved.eq(moves),
            moves_on.eq(moved),
            clock.eq(bus.sclk),
            said.eq(bus.mosi),
            lines.eq(bus.cs_n),
            age.eq(Mux(bus.sclk != clock, 1, age + (age != 15))),
        ]
        low = ~bus.cs_n
        m.d.comb += [
            Assume(bus.ready | (told == was_told)),
            Assume(~bus.sclk | moves_on | (self.in_send == send)),
            Assert((low & (low - 1))[: len(low)] == 0, "two chips"),
            Assert((bus.cs_n == lines) | ~(bus.sclk | clock), "a line changes while the clock is high"),
            Assert((bus.mosi == said) | (bus.sclk & clock), "MOSI changes as it is taken"),
            Assert((bus.sclk == clock) | (age >= half), "the clock is too fast"),
            # What else is true of these registers.
            Assert(timer < half),
            Assert(passing | ~bus.sclk),
            Assert((bus.sclk != clock) | (age >= timer)),
            Assert(~moved | (timer == 0)),
            Assert(~moves_on | (timer == 1)),
            Cover(bus.done & bus.acknowledged & (self.in_read != 0)),
        ]


def xadc_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.power.xadc` with `changes` in its source; the transfers show registers of theirs."""
    shows = "        with m.FSM():\n"
    inside = '            self.inside = timer, number, flag, ended, steps.ongoing("ACCESS"), steps.ongoing("WAIT")\n'
    return altered(xadc, *changes, (shows, f"        with m.FSM() as steps:\n{inside}"))


class AsksOnce(Property):
    """`XadcTransfers`, any transfers, any answers of the converter at any time, or none.

    It is asked for one cycle, and not again before it has answered or its time is over, until when all that it was
    asked stays. Nothing is written but what is to be written. An end of a sequence is told once at each address, none
    is lost.
    """

    def __init__(self, module: ModuleType) -> None:
        self.module, self.transfers = module, module.XadcTransfers(CLOCK_KHZ)
        names = "start", "recovers", "address", "written", "read", "send", "drp_read", "drp_ready", "sequence_ended"
        self.taken_in = {name: self.transfers.signature.members[name] for name in names}
        super().__init__({f"in_{name}": In(member.shape) for name, member in self.taken_in.items()})

    def state(self, m: Module) -> None:
        bus, limit = self.transfers, self.module.WAIT_CYCLES
        m.submodules.bus = Fragment.get(bus, None)
        m.d.comb += [getattr(bus, name).eq(getattr(self, f"in_{name}")) for name in self.taken_in]
        timer, number, flag, ended, accesses, waits = bus.inside
        told = Cat(self.in_address, self.in_written, self.in_read)
        asked = Cat(bus.drp_address, bus.drp_written)
        was_told, was_asked, open_ends = Signal(len(told)), Signal(len(asked)), Signal(RAILS)
        age = Signal(range(limit + 1))  # cycles since it was asked; 0: it has answered, or its time is over
        m.d.sync += [was_told.eq(told), was_asked.eq(asked)]
        with m.If(bus.drp_enable):
            m.d.sync += age.eq(1)
        with m.Elif((age == limit) | self.in_drp_ready):
            m.d.sync += age.eq(0)
        with m.Elif(age != 0):
            m.d.sync += age.eq(age + 1)
        for place in range(RAILS):
            tells = accesses & number[7] & (self.in_address[:2] == place)
            m.d.sync += open_ends[place].eq((open_ends[place] | self.in_sequence_ended) & ~tells)
            m.d.comb += Assert(~tells | (flag == (open_ends[place] | self.in_sequence_ended)), "an end is lost")
        m.d.comb += [
            Assume(bus.ready | (told == was_told)),
            Assert(~bus.drp_enable | (age == 0), "asked before it has answered"),
            Assert((age == 0) | (asked == was_asked), "what was asked changes"),
            Assert(~bus.drp_enable | ~number[7], "asked for what it has not"),
            Assert(~(bus.drp_enable & bus.drp_write) | (self.in_written != 1), "written though nothing is to be"),
            # What else is true of these registers.
            Assert((age != 0) == waits),
            Assert((age == 0) | (age == timer + 1)),
            Assert(ended == open_ends),
            Cover(bus.done & bus.acknowledged & (self.in_read != 0)),
            Cover(waits & (age == limit)),
        ]
