"""LOAD: what it writes, what it costs, what it reads.

    load_cost(config: ArrayConfig, load: Mapping[str, int], shape: (n, h, w, c), octets: int, rows: the row list)
        -> LoadCost(cycles, fetches)

needs no other data, and remembers what it found for equal windows. `load` holds the fields of `packets.Load`, absent
ones 0. The cost does not depend on slot, cell and flip, nor on the tensor's place in the store (a word is 16 elements).
Only `listed` loads look at `rows`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from bitfirst_hdl.config import LOAD_SETUP_CYCLES, LOAD_TAIL_CYCLES, ArrayConfig
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import GROUP, LIST_ENTRIES, OCTET_BITS, Target

PAIR = 2 * GROUP  # elements of the two words of one read
Shape = tuple[int, int, int, int]  # n, h, w, c
Rows = tuple[int, ...]  # the row list: where images begin, in elements from the tensor's first


@dataclass(frozen=True)
class LoadCost:
    """`cycles` in which the gather unit is busy; `fetches`: reads of the store, two words each."""

    cycles: int
    fetches: int


@dataclass(frozen=True)
class Place:
    """A tensor in the store: `shape` (n, h, w, c), first `word`, 1 or 2 `octets`."""

    shape: Shape
    word: int
    octets: int

    @property
    def octet_words(self) -> int:
        n, h, w, c = self.shape
        return -(-n * h * w * c // GROUP)

    @property
    def words(self) -> range:
        return range(self.word, self.word + self.octets * self.octet_words)


@dataclass(frozen=True)
class Window:
    """The fields of a LOAD that choose elements, starts and steps as the signed numbers that they are."""

    target: int
    across: int
    n_fast: int
    y_start: int
    x_start: int
    y_step: int
    x_step: int
    y_count: int
    x_count: int
    n_first: int
    y_first: int
    x_first: int
    positions: int
    line_first: int
    place_first: int
    run: int
    taps: int
    listed: int

    @classmethod
    def of(cls, load: Mapping[str, int]) -> "Window":
        values = {name: load.get(name, 0) for name in cls.__dataclass_fields__}
        for name in ("y_start", "x_start", "y_step", "x_step"):
            top = 1 << codec.fields(packets.Load)[name][1] - 1
            values[name] = (values[name] ^ top) - top
        return cls(**values)

    @property
    def vectors(self) -> int:
        return self.taps if self.across else self.positions

    @property
    def lanes(self) -> int:
        return self.positions if self.across else self.taps

    def tiles(self, config: ArrayConfig) -> int:
        return -(-self.vectors // tile_vectors(config, self.target))

    def chunks(self, config: ArrayConfig) -> int:
        return -(-self.lanes // config.lanes)

    def spare_vectors(self, config: ArrayConfig) -> int:
        """Vectors that the last tile lacks."""
        return self.tiles(config) * tile_vectors(config, self.target) - self.vectors

    def pixels(self, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(image, row, pixel) of each position, int64 [positions]; rows and pixels may lie outside."""
        index = np.arange(self.positions)
        at = self.y_first * self.x_count + self.x_first
        if self.n_fast:
            turn, image = np.divmod(index + self.n_first, images)
            at = at + turn
        else:
            image, at = np.divmod(index + at, self.y_count * self.x_count)
            image += self.n_first
        down, right = np.divmod(at, self.x_count)
        return image, self.y_start + down * self.y_step, self.x_start + right * self.x_step

    def starts(self, shape: Shape, rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(first element, row, pixel) of each position, int64 [positions]; the element counted from the tensor's."""
        n, h, w, c = shape
        image, y, x = self.pixels(n)
        begin = np.array(rows)[image] if self.listed else image * h * w * c
        return begin + (y * w + x) * c, y, x

    def leaves(self, shape: Shape) -> bool:
        """Whether positions go where `packets.Load` forbids it, in a tensor of this shape; counts are not 0."""
        n, h, w, c = shape
        images = LIST_ENTRIES if self.listed else n
        if self.n_first >= images or self.positions > self.positions_left(images):
            return True
        bottom = self.y_start + (self.y_count - 1) * max(self.y_step, 0)
        right = self.x_start + (self.x_count - 1) * max(self.x_step, 0)
        return bottom >= h or right >= w or right * c + self.run <= 0

    def positions_left(self, images: int) -> int:
        """How many there are from the first one on."""
        at, pixels = self.y_first * self.x_count + self.x_first, self.y_count * self.x_count
        return (pixels - at) * images - self.n_first if self.n_fast else (images - self.n_first) * pixels - at

    def lines(self) -> Iterator[tuple[int, int, int]]:
        """(line, first place, taps) of the parts of the run, in order."""
        line, place, left = self.line_first, self.place_first, self.taps
        while left:
            count = min(self.run - place, left)
            yield line, place, count
            line, place, left = line + 1, 0, left - count


def tile_vectors(config: ArrayConfig, target: int) -> int:
    """Vectors in one tile: array rows for A, columns for B."""
    return config.columns if target == Target.B else config.rows


def write_cycles(config: ArrayConfig, target: int, chunks: int) -> int:
    """Cycles to write one octet of so many chunks in a row of one vector."""
    return -(-chunks // config.b_chunks) if target == Target.B else chunks


def load_cells(config: ArrayConfig, load: Mapping[str, int], octets: int) -> int:
    """How many cells a LOAD writes, from `cell` on."""
    window = Window.of(load)
    return window.tiles(config) * octets * window.chunks(config)


# values
def load_values(
    config: ArrayConfig, load: Mapping[str, int], place: Place, store: np.ndarray, rows: Rows = ()
) -> np.ndarray:
    """What a LOAD writes: uint8 [cells, vectors of a tile, lanes], each an octet of one element, flips done.

    `store`: uint8 [store words, GROUP], the octet of each element.
    """
    window = Window.of(load)
    _, h, w, c = place.shape
    start, y, x = (part[:, None] for part in window.starts(place.shape, rows))
    line, tap = np.divmod(window.place_first + np.arange(window.taps), window.run)
    line = line + window.line_first
    y, x = y + line, x * c + tap
    real = (y >= 0) & (y < h) & (x >= 0) & (x < w * c)
    element = start + line * w * c + tap
    if window.across:
        real, element = real.T, element.T
    tile, tiles, chunks = tile_vectors(config, window.target), window.tiles(config), window.chunks(config)
    values = np.zeros((place.octets, tiles * tile, chunks * config.lanes), dtype=np.uint8)
    for octet in range(place.octets):
        first = GROUP * (place.word + octet * place.octet_words)
        octets = store.reshape(-1).take(first + element, mode="wrap")
        values[octet, : window.vectors, : window.lanes] = np.where(real, octets, 0)
        values[octet] ^= _flip_mask(config, load.get("flip", 0), octet)
    if load.get("turn", 0):
        banks = rows_by_bank(np.arange(tiles), tile, load["turn"])
        values = values.reshape(place.octets, tiles, tile, -1)[:, np.arange(tiles)[:, None], banks]
    cells = values.reshape(place.octets, tiles, tile, chunks, config.lanes).transpose(1, 0, 3, 2, 4)
    return cells.reshape(-1, tile, config.lanes)


def rows_by_bank(tiles: np.ndarray, rows: int, turn: int) -> np.ndarray:
    """int64 [tiles, rows]: which row of these tiles a LOAD with `turn` puts into each bank."""
    places = tiles >> turn - 1 if turn else np.zeros_like(tiles)
    return (np.arange(rows) - places[:, None]) % rows


def _flip_mask(config: ArrayConfig, flip: int, octet: int) -> np.uint8:
    """The bits of an octet that `flip` inverts: the top bits of its marked slices."""
    first = octet * config.slices_per_octet
    marked = [s for s in range(config.slices_per_octet) if flip >> (first + s) & 1]
    return np.uint8(sum(1 << OCTET_BITS - 1 - s * config.slice_bits for s in marked))


# cost
def load_cost(config: ArrayConfig, load: Mapping[str, int], shape: Shape, octets: int, rows: Rows = ()) -> LoadCost:
    """Cycles and reads of a LOAD from a tensor [n, h, w, c] of `octets` octets."""
    window = Window.of(load)
    return _cost(config, window, shape, octets, rows if window.listed else ())


@lru_cache(maxsize=65536)
def _cost(config: ArrayConfig, window: Window, shape: Shape, octets: int, rows: Rows) -> LoadCost:
    steps, fetches = (_across_cost if window.across else _along_cost)(config, window, shape, rows)
    spare = window.spare_vectors(config) * write_cycles(config, window.target, window.chunks(config))
    return LoadCost(LOAD_SETUP_CYCLES + octets * (steps + spare) + LOAD_TAIL_CYCLES, octets * fetches)


def _along_cost(config: ArrayConfig, window: Window, shape: Shape, rows: Rows) -> tuple[int, int]:
    """(cycles without spare vectors, reads) of one octet: positions that start alike in their word cost alike."""
    _, h, w, c = shape
    start, y, _ = window.starts(shape, rows)
    start %= GROUP
    cycles = fetches = 0
    for alignment, count in enumerate(np.bincount(start, minlength=GROUP).tolist()):
        if not count:
            continue
        alike = y[start == alignment]
        filled = 0
        for line, place, taps in window.lines():
            steps = _steps((alignment + line * w * c + place) % GROUP, taps)
            fetches += len(steps) * int(np.count_nonzero((alike + line >= 0) & (alike + line < h)))
            for step in steps:
                done = (filled + step) // config.lanes - filled // config.lanes
                filled += step
                done += filled == window.taps and filled % config.lanes > 0
                cycles += count * max(1, write_cycles(config, window.target, done))
    return cycles, fetches


def _steps(alignment: int, taps: int) -> list[int]:
    """Elements that each fetch of a line gives, the first one starting at element `alignment` of a word."""
    first = min(PAIR - alignment, taps)
    whole, rest = divmod(taps - first, PAIR)
    return [first] + [PAIR] * whole + ([rest] if rest else [])


def _tap_groups(window: Window) -> Iterator[tuple[int, int, int]]:
    """(line, first place, taps) of each group of at most `GROUP` taps."""
    for line, place, taps in window.lines():
        for used in range(0, taps, GROUP):
            yield line, place + used, min(GROUP, taps - used)


def _across_cost(config: ArrayConfig, window: Window, shape: Shape, rows: Rows) -> tuple[int, int]:
    """(cycles without spare vectors, reads) of one octet: blocks of positions x taps through two buffers."""
    _, h, _, _ = shape
    _, y, _ = window.starts(shape, rows)
    blocks = window.chunks(config) * config.lane_groups
    fetches = filled = drained = drained_before = 0  # ends of the last fill, of the last drain, of the one before
    for line, _, taps in _tap_groups(window):
        fetches += int(np.count_nonzero((y + line >= 0) & (y + line < h)))
        drain = taps * write_cycles(config, window.target, 1)
        for _ in range(blocks):
            filled = max(filled, drained_before) + GROUP
            drained_before, drained = drained, max(filled, drained) + drain
    return drained, fetches


# reads
def load_reads(config: ArrayConfig, load: Mapping[str, int], place: Place, rows: Rows = ()) -> list[int]:
    """The first of the two store words of each read, in order."""
    window = Window.of(load)
    _, h, w, c = place.shape
    positions = list(zip(*(part.tolist() for part in window.starts(place.shape, rows)), strict=True))
    reads = []
    for octet in range(place.octets):
        base = GROUP * (place.word + octet * place.octet_words)
        for (start, y, _), (line, tap, taps) in _visits(window, positions):
            if not 0 <= y + line < h:
                continue
            element = base + start + line * w * c + tap
            for step in [taps] if window.across else _steps(element % GROUP, taps):
                reads.append(element // GROUP % config.store_words)
                element += step
    return reads


def _visits(window: Window, positions: list[tuple[int, int, int]]) -> Iterator[tuple[tuple, tuple]]:
    """(position, part of a line) in the order of an octet."""
    if window.across:
        return ((position, group) for group in _tap_groups(window) for position in positions)
    return ((position, line) for position in positions for line in window.lines())
