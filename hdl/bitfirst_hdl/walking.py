"""What the walks over operands share: loop counters, addresses of cells, where a pass's sums go."""

from amaranth.hdl import Cat, Module, Mux, Signal, Value
from amaranth.lib import data
from amaranth.utils import exact_log2

from .config import ArrayConfig


def pass_layout(config: ArrayConfig) -> data.StructLayout:
    """Where one pass's sums go: first row of sums, and the fields of `sums.Drain`."""
    return data.StructLayout(
        {"row": range(config.sum_rows), "offset": 1, "replace": 1, "slices_left": range(config.max_slices)}
    )


class Countdown:
    """A loop counter that knows, one cycle ahead, when it is on its last turn."""

    def __init__(self, m: Module, count: Value, name: str) -> None:
        """`count` is the number of turns, at least 1; it must hold still while the loop runs."""
        self.m = m
        self.left = Signal(len(count), name=f"{name}_left")  # turns after this one
        self.last = Signal(name=f"{name}_last")
        self.once = Signal(name=f"{name}_once")  # there is one turn only
        self._reload_left = Signal(len(count), name=f"{name}_reload")
        m.d.sync += [self._reload_left.eq(count - 1), self.once.eq(count == 1)]

    def restart(self) -> None:
        """Back to the first turn; at least a cycle after `count` has changed."""
        self.m.d.sync += [self.left.eq(self._reload_left), self.last.eq(self.once)]

    def advance(self) -> None:
        """To the next turn, from the last one to the first."""
        with self.m.If(self.last):
            self.restart()
        with self.m.Else():
            self.m.d.sync += [self.left.eq(self.left - 1), self.last.eq(self.left == 1)]


class Cells:
    """Address of one step's row in an operand memory: a cell, and a part of it (slice of A or plane of B)."""

    def __init__(
        self, m: Module, name: str, cells: int, parts: int, command: Value, side: str, part_planes: int = 1
    ) -> None:
        """`command` must hold still from a cycle before the first `restart`; its first part counts by `part_planes`."""
        self.m = m
        self.cell = Signal(range(cells), name=f"{name}_cell")
        self.part = Signal(range(parts), name=f"{name}_part")
        first, chunks = command[f"{side}_first"][exact_log2(part_planes) :], command.chunks
        self._first_part = first[: len(self.part)]
        self._last = Signal(name=f"{name}_last")
        self._octet = Signal.like(self.cell, name=f"{name}_octet")  # first chunk of the octet at hand
        self._tile = Signal.like(self.cell, name=f"{name}_tile")  # first chunk of the first octet used in the tile
        self._first_tile = Signal.like(self.cell, name=f"{name}_first_tile")
        self._next_tile = Signal.like(self.cell, name=f"{name}_next_tile")
        self._next = Signal.like(self.cell, name=f"{name}_next")
        self._stride = Signal.like(self.cell, name=f"{name}_stride")
        m.d.comb += [
            self._next.eq(self.cell + 1),
            self._last.eq(self.part == parts - 1),
            self._stride.eq(Mux(command[f"{side}_octets"][1], chunks << 1, chunks)),
        ]
        m.d.sync += [
            self._first_tile.eq(command[f"{side}_cell"] + Mux(first[len(self.part)], chunks, 0)),
            self._next_tile.eq(self._tile + self._stride),
        ]

    @property
    def row(self) -> Value:
        return Cat(self.part, self.cell)

    def _begin(self, tile: Value) -> None:
        places = self.cell, self._octet, self._tile
        self.m.d.sync += [self.part.eq(self._first_part), *(place.eq(tile) for place in places)]

    def first_tile(self) -> None:
        self._begin(self._first_tile)
        self.m.d.sync += self._next_tile.eq(self._first_tile + self._stride)

    def same_tile(self) -> None:
        self._begin(self._tile)

    def next_tile(self) -> None:
        """At least two cycles after the one before."""
        self._begin(self._next_tile)

    def next_chunk(self) -> None:
        self.m.d.sync += self.cell.eq(self._next)

    def same_part(self) -> None:
        """The part at hand again, from its first chunk on."""
        self.m.d.sync += self.cell.eq(self._octet)

    def next_part(self) -> None:
        """After the last chunk: the next part's first chunk, in the next octet after the last part."""
        with self.m.If(self._last):
            self.m.d.sync += [self.cell.eq(self._next), self._octet.eq(self._next), self.part.eq(0)]
        with self.m.Else():
            self.m.d.sync += [self.cell.eq(self._octet), self.part.eq(self.part + 1)]
