"""A packed MATMUL: every pass that the command names is walked once, in order, each by all its planes and all its rows
of PROGRAM; each element multiplies what it took for the pass, and zeros if it took nothing.

PROGRAM may hold anything: its memory is free, so tiles end anywhere.
"""

from types import ModuleType

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal
from amaranth.lib.wiring import In
from bitfirst_hdl import element, packed
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import Matmul

from .prove import Property, altered

CONFIG = ArrayConfig(rows=2, columns=4, a_cells=16, b_cells=16, sum_tiles=4, store_words=64, rx_words=1024)
COUNT_BITS = 3  #: of slices, planes, chunks and tiles: each up to 7
_LOOPS = "        ends_slice = chunk.last\n"
_LAST = "        with m.If(program.fetch):\n            m.d.sync += behind.eq(program.place + 1)\n"
_PACED = "        stepped_all = ~stepping | plane.last\n"
_MASKS = "        config, row = self.config, program.row\n"
_STAGE = '                later = Signal(config.columns, name=f"mask_{number}_{stage}")\n'
_OFFSETS = "        offsets = Signal.like(command.a_offset)\n"
_FRONT = "            with m.If(self.take):\n                m.d.sync += front.eq(word)\n"


def packed_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.packed` with `changes` in its source and any program; the walk shows its registers."""
    seen = (
        (_LOOPS, f"        self.loops, self.row = (chunk, slice_, tile, plane), program.row\n{_LOOPS}"),
        (_LAST, f"        self.last_row, self.places = last, (behind, first)\n{_LAST}"),
        (_PACED, f"        self.paced = loaded, stepping\n{_PACED}"),
        (_MASKS, f"        self.stages = []\n{_MASKS}"),
        (_STAGE, f"{_STAGE}                self.stages.append(later)\n"),
        (_OFFSETS, f"{_OFFSETS}        self.coming_sums, self.offsets = coming, offsets\n"),
    )
    return altered(packed, *changes, *seen)


def element_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.element` with `changes` in its source; a word of A shows its registers."""
    return altered(element, *changes, (_FRONT, f"            self.inside = front, self.taken\n{_FRONT}"))


class OwnWords(Property):
    """Any words, taken and moved at any time: what is held is what was taken last before the last move, or zeros."""

    def __init__(self, module: ModuleType) -> None:
        self.word = module.OwnWord(CONFIG)
        super().__init__({"a": In(len(self.word.a[0])), "take": In(1), "move": In(1)})

    def state(self, m: Module) -> None:
        word = self.word
        m.submodules.word = Fragment.get(word, None)
        m.d.comb += [word.a[0].eq(self.a), word.take.eq(self.take), word.move.eq(self.move)]
        latest, there, expected, moved = Signal.like(self.a), Signal(), Signal.like(self.a), Signal()
        with m.If(self.move):
            m.d.sync += [expected.eq(Mux(there, latest, 0)), moved.eq(1), there.eq(0)]
        with m.If(self.take):
            m.d.sync += [latest.eq(self.a), there.eq(1)]
        front, taken = word.inside
        m.d.comb += [
            Assert(~moved | (word.held[0] == expected), "what is multiplied"),
            Assert((taken == there) & (~there | (front == latest)), "what is to come"),
            Cover(moved & (expected != 0)),
            Cover(moved & (expected == 0) & there),
        ]


class Passes(Property):
    """Any command of up to 7 tiles, slices, chunks and planes, any program.

    Ghosts: the pass whose words are fetched (`next`), the one at work (`now`), as (tile, slice, chunk), and its plane.
    """

    def __init__(self, module: ModuleType) -> None:
        class AnyProgram(module.Program):
            """Rows of anything."""

            def elaborate(self, platform: object) -> Module:
                m = Module()
                with m.If(self.fetch):
                    m.d.sync += self.row.as_value().eq(AnySeq(len(self.row.as_value())))
                return m

        module.Program = AnyProgram
        self.walk = module.PackedWalk(CONFIG)
        super().__init__({"load": In(1)})

    def state(self, m: Module) -> None:
        walk, self.command = self.walk, Signal(Matmul)
        m.submodules.walk = Fragment.get(walk, None)
        m.d.comb += [self.command.as_value().eq(AnyConst(len(self.command.as_value()))), walk.command.eq(self.command)]
        counts = self.command.tiles, self.command.slices, self.command.chunks, self.command.planes
        m.d.comb += [Assume((count > 0) & (count < 1 << COUNT_BITS)) for count in counts]
        m.d.comb += [walk.load.eq(self.load), Assume(~self.load | ~walk.walking)]
        loaded, stepping = walk.paced
        running, turn = walk._running, walk._turn
        m.d.comb += [
            Assert(walk.walking == (loaded | walk._set_up | running)),
            Assert((loaded + walk._set_up + running) <= 1),
            Assert(~walk._fetching | ~running | walk._coming),
        ]
        limits = [count[:COUNT_BITS] - 1 for count in counts]
        coming, now, plane = self._ghosts(m, limits[:3], stepping)
        self._loops(m, limits, [*coming, plane])
        first = Signal()  # no pass has begun
        with m.If(walk._set_up):
            m.d.sync += first.eq(1)
        with m.Elif(turn):
            m.d.sync += first.eq(0)
        ends = [value == limit for value, limit in zip(now, limits, strict=False)]
        follows = Cat(*coming) == Cat(*_behind(now, limits))
        m.d.comb += [
            Assert(~running | ~walk._coming | Mux(first, Cat(*coming) == 0, follows), "passes in order"),
            Assert(~running | walk._coming | (Cat(ends).all() & ~first), "the last pass is the last"),
            Assert(~walk.ends | (Cat(ends).all() & (plane == limits[3])), "the end is the end of the last pass"),
            Assert(~stepping | (running & ~first)),
            Assert(walk.control.last == (walk.step & (plane == limits[3])), "a pass ends with its last plane"),
            Assert(~walk.step | (walk.control.first == (plane == 0)), "a pass begins with its first plane"),
            Cover(walk.ends & (limits[0] == 1) & (limits[1] == 1) & (limits[2] == 1)),
        ]
        self._sums(m, now, coming, stepping)
        self._rows(m)
        self._program(m, [value == limit for value, limit in zip(coming, limits, strict=False)])

    def _ghosts(self, m: Module, limits: list, stepping: Signal) -> tuple[list[Signal], list[Signal], Signal]:
        walk = self.walk
        coming = [Signal(COUNT_BITS, name=f"coming_{name}") for name in ("tile", "slice", "chunk")]
        now = [Signal(COUNT_BITS, name=f"now_{name}") for name in ("tile", "slice", "chunk")]
        plane = Signal(COUNT_BITS)
        with m.If(walk._set_up):
            m.d.sync += [value.eq(0) for value in (*coming, plane)]
        with m.Else():
            with m.If(walk._turn):
                m.d.sync += [to.eq(value) for to, value in zip(now, coming, strict=True)]
                m.d.sync += [to.eq(value) for to, value in zip(coming, _behind(coming, limits), strict=True)]
            with m.If(walk.step):
                m.d.sync += plane.eq(Mux(walk.control.last, 0, plane + 1))
        m.d.comb += Assert(~walk._running | stepping | (plane == 0))
        return coming, now, plane

    def _loops(self, m: Module, limits: list, turns: list[Signal]) -> None:
        """The loops' counters are what is left of the ghosts."""
        walk = self.walk
        chunk, slice_, tile, plane = walk.loops
        for loop, limit, turn in zip((tile, slice_, chunk, plane), limits, turns, strict=True):
            skip = 0 if loop is plane else ~walk._coming  # behind the last pass
            m.d.comb += [
                Assert(~(walk._set_up | walk._running) | (loop._reload_left == limit)),
                Assert(~(walk._set_up | walk._running) | (loop._reload_last == (limit == 0))),
                Assert(~walk._running | skip | (loop.left == limit - turn)),
                Assert(~walk._running | skip | (loop.last == (turn == limit))),
                Assert(~walk._running | skip | (turn <= limit)),
            ]

    def _sums(self, m: Module, now: list[Signal], coming: list[Signal], stepping: Signal) -> None:
        """Each pass adds to its own tile, at the weight of its slice."""
        walk = self.walk
        fields = "row", "replace", "slices_left", "offset"
        for place, sums, there in (
            (now, walk.sums, walk._running & stepping),
            (coming, walk.coming_sums, walk._running & walk._coming),
        ):
            for name, value in zip(fields, self._wanted_sums(*place), strict=True):
                m.d.comb += Assert(~there | (sums[name] == value[: len(sums[name])]), f"{name} of a pass")
        m.d.comb += Assert(~(walk._running & walk._coming) | (walk.offsets == self.command.a_offset >> coming[1]))

    def _wanted_sums(self, tile: Signal, slice_: Signal, chunk: Signal) -> tuple:
        """Only a tile's first pass replaces."""
        command = self.command
        return (
            (command.sum_tile + tile) * CONFIG.rows,
            Cat(~command.accumulate & (slice_ == 0) & (chunk == 0)),
            command.slices - 1 - slice_ + command.a_below,
            (command.a_offset >> slice_)[:1],
        )

    def _rows(self, m: Module) -> None:
        """Rows of PROGRAM are taken to the last one, and every element of their masks is told so."""
        walk, ended = self.walk, Signal()
        stages = [
            walk.stages[r * packed.take_cycles(CONFIG) :][: packed.take_cycles(CONFIG)] for r in range(CONFIG.rows)
        ]
        before = [Mux(walk._takes, walk.row.mask[r], 0) for r in range(CONFIG.rows)]
        for stage in zip(*stages, strict=True):
            kept = [Signal(CONFIG.columns, name=f"kept_{r}") for r in range(CONFIG.rows)]
            m.d.sync += [to.eq(value) for to, value in zip(kept, before, strict=True)]
            m.d.comb += [Assert(mask == value, "takers") for mask, value in zip(stage, kept, strict=True)]
            before = kept
        m.d.comb += [Assert(take == value, "takers") for take, value in zip(walk.take, before, strict=True)]
        with m.If(walk._set_up | walk._turn):
            m.d.sync += ended.eq(0)
        with m.Elif(walk._takes & walk.last_row):
            m.d.sync += ended.eq(1)
        m.d.comb += [
            Assert(~walk._turn | ended | (walk._takes & walk.last_row), "a pass has all its words"),
            Assert(~walk._running | ~walk._coming | (walk._fetching == ~ended)),
        ]

    def _program(self, m: Module, last: list) -> None:
        """A tile's rows again for each of its passes; behind them those of the next tile."""
        walk = self.walk
        behind, first = walk.places
        fetched, began = Signal.like(behind), Signal.like(first)
        again = walk.last_row & ~(last[1] & last[2])
        with m.If(walk._set_up):
            m.d.sync += [fetched.eq(self.command.program), began.eq(self.command.program)]
        with m.Elif(walk._takes):
            m.d.sync += fetched.eq(Mux(again, began, fetched + 1))
            with m.If(walk.last_row & ~again):
                m.d.sync += began.eq(fetched + 1)
        m.d.comb += Assert(
            ~(walk._running & walk._coming) | ((behind == (fetched + 1)[: len(behind)]) & (first == began)),
            "rows of a tile",
        )


def _behind(place: list, limits: list) -> list:
    """The (tile, slice, chunk) behind this one."""
    tile, slice_, chunk = place
    slices, chunks = limits[1:3]
    ends_chunk = chunk == chunks
    ends_slice = ends_chunk & (slice_ == slices)
    return [
        (tile + ends_slice)[:COUNT_BITS],
        Mux(ends_slice, 0, slice_ + ends_chunk)[:COUNT_BITS],
        Mux(ends_chunk, 0, chunk + 1)[:COUNT_BITS],
    ]
