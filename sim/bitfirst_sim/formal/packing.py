"""A packed MATMUL: every pass that the command names is walked once, in order, each by all its planes and all its rows
of PROGRAM; each element multiplies what it took for the pass, and zeros if it took nothing.

PROGRAM may hold anything: its memory is free, so tiles end anywhere.
"""

from types import ModuleType

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, Value
from amaranth.lib.wiring import In
from bitfirst_hdl import element, packed
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import Matmul

from .prove import Property, altered

CONFIG = ArrayConfig(rows=2, columns=4, a_cells=16, b_cells=16, sum_tiles=4, store_words=64, rx_words=1024)
COUNT_BITS = 3  #: of slices, planes, chunks and tiles: each up to 7
_LOOPS = "        self._loop(m, chunk, slice_, tile, plane)\n"
_LAST = "        last, begin, (_, ends_tile, _) = Signal(), self.command.program, self._ends\n"
_PLACES = "self.places = first, behind_first, following, behind_following"
_PACED = "        stepped_all, last_pass = ~stepping | plane.last, self._ends[-1]\n"
_MASKS = "        config, row = self.config, program.row\n"
_STAGE = '                later = Signal(config.columns, name=f"mask_{number}_{stage}")\n'
_OFFSETS = "        offsets, slices_left = Signal.like(command.a_offset), Signal.like(slice_.left)\n"
_FRONT = "            with m.If(self.take):\n                m.d.sync += front.eq(word)\n"


def packed_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.packed` with `changes` in its source and any program; the walk shows its registers."""
    seen = (
        (_LOOPS, f"        self.loops, self.row = (chunk, slice_, tile, plane), program.row\n{_LOOPS}"),
        (_LAST, f"{_LAST}        self.program, self.last_row = program, last\n        {_PLACES}\n"),
        (_PACED, f"        self.paced, self.apart = (loaded, stepping), apart\n{_PACED}"),
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
            Assert(~walk._fetching | walk._coming),
            Assert(~walk._coming | running),
        ]
        limits = [count[:COUNT_BITS] - 1 for count in counts]
        coming, now, plane = self._ghosts(m, limits, stepping)
        self._loops(m, limits, coming, plane)
        first = Signal()  # no pass has begun
        with m.If(walk._set_up):
            m.d.sync += first.eq(1)
        with m.Elif(turn):
            m.d.sync += first.eq(0)
        turned_ends = [walk._turned & (now[2] == limits[2])]
        turned_ends.append(turned_ends[0] & (now[1] == limits[1]))
        m.d.comb += [Assert(Cat(walk._turned_slice, walk._turned_tile) == Cat(*turned_ends))]
        stepped, stepped_plane = Signal(), Signal.like(plane)
        m.d.sync += [stepped.eq(walk.step), stepped_plane.eq(plane)]
        ends = [value == limit for value, limit in zip(now, limits, strict=False)]
        follows = Cat(*coming) == Cat(*_behind(now, limits))
        m.d.comb += [
            Assert(~running | ~walk._coming | Mux(first, Cat(*coming) == 0, follows), "passes in order"),
            Assert(~running | walk._coming | (Cat(ends).all() & ~first), "the last pass is the last"),
            Assert(~walk.ends | (Cat(ends).all() & (plane == limits[3])), "the end is the end of the last pass"),
            Assert(~stepping | (running & ~first)),
            Assert(walk.control.valid == stepped),
            Assert(walk.control.last == (stepped & (stepped_plane == limits[3])), "a pass ends with its last plane"),
            Assert(~stepped | (walk.control.first == (stepped_plane == 0)), "a pass begins with its first plane"),
            Cover(walk.ends & (limits[0] == 1) & (limits[1] == 1) & (limits[2] == 1)),
        ]
        self._sums(m, now, coming, stepping, stepped)
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
                m.d.sync += plane.eq(Mux(plane == limits[3], 0, plane + 1))
        m.d.comb += Assert(~walk._running | stepping | (plane == 0))
        return coming, now, plane

    def _loops(self, m: Module, limits: list, coming: list[Signal], plane: Signal) -> None:
        """The loops' counters are what is left of the ghosts, those of passes of the pass behind the one to come."""
        walk = self.walk
        chunk, slice_, tile, planes = walk.loops
        at_last = [value == limit for value, limit in zip(coming, limits, strict=False)]
        pairs = zip(coming, _behind(coming, limits), strict=True)
        ahead = [Mux(walk._ahead, here, behind) for here, behind in pairs]
        no_pass = ~walk._coming | (Cat(at_last).all() & ~walk._ahead)
        for loop, limit, turn in zip((tile, slice_, chunk, planes), limits, [*ahead, plane], strict=True):
            skip = 0 if loop is planes else no_pass
            m.d.comb += [
                Assert(~(walk._set_up | walk._running) | (loop._reload_left == limit)),
                Assert(~(walk._set_up | walk._running) | (loop.once == (limit == 0))),
                Assert(~walk._running | skip | (loop.left == limit - turn)),
                Assert(~walk._running | skip | (loop.last == (turn == limit))),
                Assert(~walk._running | skip | (turn <= limit)),
            ]
        ends = [Cat(*at_last[place:]).all() for place in (2, 1, 0)]
        m.d.comb += [Assert(~walk._coming | (end == value)) for end, value in zip(walk._ends, ends, strict=True)]
        m.d.comb += [Assert(~walk._coming | (value <= limit)) for value, limit in zip(coming, limits, strict=False)]
        m.d.comb += [
            Assert(~walk._ahead | ~walk._turn, "the loops have a cycle"),
            Assert(~walk._ahead | (walk._running & ~walk.apart)),
            Assert(~walk._turned | (walk._ahead & walk.step)),
        ]

    def _sums(self, m: Module, now: list[Signal], coming: list[Signal], stepping: Signal, stepped: Signal) -> None:
        """Each pass adds to its own tile, at the weight of its slice."""
        walk = self.walk
        before = [Signal.like(value, name=f"before_{number}") for number, value in enumerate(now)]
        m.d.sync += [to.eq(value) for to, value in zip(before, now, strict=True)]
        early, late = ("row", "replace", "offset"), ("slices_left",)
        there = walk._running & walk._coming
        for place, sums, fields, when in (
            (before, walk.sums, early + late, stepped),
            (now, walk.sums, early + late, stepping & ~walk._turned),
            (now, walk.coming_sums, early + late, walk._turned),
            (coming, walk.coming_sums, early, there & ~walk._turned),
            (coming, walk.coming_sums, late, there & ~walk._ahead),
        ):
            wanted = self._wanted_sums(*place)
            for name in fields:
                m.d.comb += Assert(~when | (sums[name] == wanted[name][: len(sums[name])]), f"{name} of a pass")
        m.d.comb += [
            Assert(~there | walk._turned | (walk.offsets == self.command.a_offset >> coming[1])),
            Assert(~walk._turned | (walk.offsets == self.command.a_offset >> now[1])),
        ]

    def _wanted_sums(self, tile: Signal, slice_: Signal, chunk: Signal) -> dict[str, Value]:
        """Only a tile's first pass replaces."""
        command = self.command
        return {
            "row": (command.sum_tile + tile) * CONFIG.rows,
            "replace": Cat(~command.accumulate & (slice_ == 0) & (chunk == 0)),
            "slices_left": command.slices - 1 - slice_ + command.a_below,
            "offset": (command.a_offset >> slice_)[:1],
        }

    def _rows(self, m: Module) -> None:
        """Rows of PROGRAM are taken to the last one, and every element of their masks is told so."""
        walk, ended = self.walk, Signal()
        stages = [
            walk.stages[r * packed.take_cycles(CONFIG) :][: packed.take_cycles(CONFIG)] for r in range(CONFIG.rows)
        ]
        before, fetched = [Mux(walk._fetching, walk.row.mask[r], 0) for r in range(CONFIG.rows)], Signal()
        m.d.sync += fetched.eq(walk._fetching)
        m.d.comb += Assert(walk._fetched == fetched)
        for number, stage in enumerate(zip(*stages, strict=True)):
            kept = [Signal(CONFIG.columns, name=f"kept_{r}") for r in range(CONFIG.rows)]
            m.d.sync += [to.eq(value) for to, value in zip(kept, before, strict=True)]
            m.d.comb += [
                Assert((mask if number else Mux(fetched, mask, 0)) == value, "takers")
                for mask, value in zip(stage, kept, strict=True)
            ]
            before = kept
        m.d.comb += [Assert(take == value, "takers") for take, value in zip(walk.take, before, strict=True)]
        with m.If(walk._set_up | walk._turn):
            m.d.sync += ended.eq(0)
        with m.Elif(walk._fetching & walk.last_row):
            m.d.sync += ended.eq(1)
        m.d.comb += [
            Assert(~walk._turn | ended | (walk._fetching & walk.last_row), "a pass has all its words"),
            Assert(~walk._running | ~walk._coming | (walk._fetching == ~ended)),
        ]

    def _program(self, m: Module, last: list) -> None:
        """A tile's rows again for each of its passes; behind them those of the next tile."""
        walk = self.walk
        first, behind_first, following, behind_following = walk.places
        fetched, began = Signal.like(following), Signal.like(first)
        again = walk.last_row & ~(last[1] & last[2])
        with m.If(walk._set_up):
            m.d.sync += [fetched.eq(self.command.program), began.eq(self.command.program)]
        with m.Elif(walk._fetching):
            m.d.sync += fetched.eq(Mux(again, began, fetched + 1))
            with m.If(walk.last_row & ~again):
                m.d.sync += began.eq(fetched + 1)
        there, rows = walk._running & walk._coming, len(first)
        m.d.comb += [
            Assert(~there | ((following == (fetched + 1)[:rows]) & (first == began)), "rows of a tile"),
            Assert(~there | (behind_first == (first + 1)[:rows])),
            Assert(~(there | walk._set_up) | (behind_following == (following + 1)[:rows])),
            Assert(~walk._set_up | (following == self.command.program[:rows])),
            Assert(~walk._set_up | (walk.program.place == self.command.program[:rows]), "the first row"),
            Assert(~walk._fetching | (walk.program.place == Mux(again, began, fetched + 1)[:rows]), "a tile's rows"),
            Assert(
                ~walk.program.fetch | (walk.program.behind == (walk.program.place + 1)[:rows]), "what is read ahead"
            ),
            Assert(~walk.program.prepare | (walk.program.behind == self.command.program[:rows]), "what is read ahead"),
        ]


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
