"""LOAD in the golden model against the contract's words, element by element and cycle by cycle."""

import random
from collections import deque
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from bitfirst import packing
from bitfirst.benches.cycles import Program, random_words
from bitfirst.command import Command
from bitfirst.golden import loads
from bitfirst.golden.commands import GoldenDevice
from bitfirst_hdl.config import CONFIGS, LOAD_SETUP_CYCLES, LOAD_TAIL_CYCLES, ArrayConfig
from bitfirst_hdl.contract.packets import GROUP, LIST_ENTRIES, MAX_DATA_WORDS, Opcode, Space, Status, Target

WIDE = ArrayConfig(lanes=64, rows=2, columns=4, a_cells=64, b_cells=64, store_words=1024)
ARRAYS = {name: CONFIGS[name] for name in ("tiny", "small", "default", "square", "slice1", "slice8")} | {"wide": WIDE}


def signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value


def positions(load: dict[str, int], images: int) -> Iterator[tuple[int, int, int]]:
    """(image, row, pixel), counted one by one."""
    image, down, right = load["n_first"], load["y_first"], load["x_first"]
    for _ in range(load["positions"]):
        row = signed(load["y_start"], 16) + down * signed(load["y_step"], 8)
        yield image, row, signed(load["x_start"], 16) + right * signed(load["x_step"], 8)
        if load["n_fast"]:
            image += 1
            if image < images:
                continue
            image = 0
        right += 1
        if right < load["x_count"]:
            continue
        right, down = 0, down + 1
        if down == load["y_count"]:
            image, down = image + 1, 0


def taps(load: dict[str, int]) -> Iterator[tuple[int, int]]:
    """(line, place), counted one by one."""
    line, place = load["line_first"], load["place_first"]
    for _ in range(load["taps"]):
        yield line, place
        place += 1
        if place == load["run"]:
            line, place = line + 1, 0


class Images:
    """A tensor, and where its images begin: one after the other, or as the row list says."""

    def __init__(self, place: loads.Place, rows: loads.Rows, load: dict[str, int]) -> None:
        self.shape, self.word, self.octets, self.octet_words = place.shape, place.word, place.octets, place.octet_words
        self.rows = rows if load["listed"] else None

    def begin(self, image: int) -> int:
        _, h, w, c = self.shape
        return GROUP * self.word + (image * h * w * c if self.rows is None else self.rows[image])


def element(place: Images, position: tuple[int, int, int], tap: tuple[int, int]) -> tuple[int, bool]:
    """Number of an element in its octet, the place in the store included, and whether it is real."""
    _, h, w, c = place.shape
    y, at = position[1] + tap[0], position[2] * c + tap[1]
    return place.begin(position[0]) + y * w * c + at, 0 <= y < h and 0 <= at < w * c


def stored_octet(words: np.ndarray, number: int) -> int:
    """Of the store as uint64 [words, 2]: bit e + 16 * i is bit i of element e. Behind its end it begins again."""
    number %= GROUP * len(words)
    word = int(words[number // GROUP, 0]) | int(words[number // GROUP, 1]) << 64
    return sum((word >> (number % GROUP + GROUP * i) & 1) << i for i in range(8))


def expected_cells(config: ArrayConfig, load: dict, place: Images, words: np.ndarray) -> dict[tuple, int]:
    """(cell, vector in its tile, lane) -> octet, of every element; cells are complete."""
    points, lines = list(positions(load, place.shape[0])), list(taps(load))
    tile = config.columns if load["target"] else config.rows
    vectors, lanes = (lines, points) if load["across"] else (points, lines)
    tiles, chunks = -(-len(vectors) // tile), -(-len(lanes) // config.lanes)
    cells = {}
    for octet in range(place.octets):
        flip = sum(
            0x80 >> s * config.slice_bits
            for s in range(8 // config.slice_bits)
            if load["flip"] >> (octet * (8 // config.slice_bits) + s) & 1
        )
        for v in range(tiles * tile):
            for k in range(chunks * config.lanes):
                value = 0
                if v < len(vectors) and k < len(lanes):
                    position, tap = (lanes[k], vectors[v]) if load["across"] else (vectors[v], lanes[k])
                    number, real = element(place, position, tap)
                    value = stored_octet(words, number + octet * GROUP * place.octet_words) if real else 0
                cell = load["cell"] + (v // tile * place.octets + octet) * chunks + k // config.lanes
                turned = v // tile // 2 ** (load["turn"] - 1) if load["turn"] else 0
                cells[cell, (v + turned) % tile, k % config.lanes] = value ^ flip
    return cells


def written_in(config: ArrayConfig, load: dict, chunks: int) -> int:
    """Cycles to write chunks of one vector: A takes one in each, B 32 lanes or a chunk if that is longer."""
    return -(-chunks * config.lanes // max(config.lanes, 32)) if load["target"] else chunks


def along_cycles(config: ArrayConfig, load: dict, place: Images, reads: list[int], octet: int) -> int:
    """Fetch by fetch, each of the taps that one pair of words gives."""
    cycles, lines = 0, list(taps(load))
    for position in positions(load, place.shape[0]):
        done, held = 0, 0
        while done < len(lines):
            number, _ = element(place, position, lines[done])
            number += octet * GROUP * place.octet_words
            inside = 0 <= position[1] + lines[done][0] < place.shape[1]
            reads += [number // GROUP % config.store_words] if inside else []
            line, first = lines[done][0], number // GROUP
            chunks = 0
            while done < len(lines) and lines[done][0] == line:
                number, _ = element(place, position, lines[done])
                if (number + octet * GROUP * place.octet_words) // GROUP > first + 1:
                    break
                done, held = done + 1, held + 1
                if held == config.lanes:
                    chunks, held = chunks + 1, 0
            chunks += done == len(lines) and held > 0
            cycles += max(1, written_in(config, load, chunks))
    return cycles


def across_cycles(config: ArrayConfig, load: dict, place: Images, reads: list[int], octet: int) -> int:
    """Two buffers between filling and draining, one cycle at a time."""
    write = written_in(config, load, 1)
    points, blocks = (
        list(positions(load, place.shape[0])),
        -(-load["positions"] // config.lanes) * config.lanes // GROUP,
    )
    to_fill: deque[int] = deque()
    lines = list(taps(load))
    while lines:
        group = [tap for tap in lines[:GROUP] if tap[0] == lines[0][0]]
        lines = lines[len(group) :]
        to_fill.extend([len(group) * write] * blocks)
        for position in points:
            number, _ = element(place, position, group[0])
            if 0 <= position[1] + group[0][0] < place.shape[1]:
                reads.append((number // GROUP + octet * place.octet_words) % config.store_words)
    full: deque[int] = deque()
    cycles = filling = draining = 0
    while to_fill or full:
        if to_fill and not filling and len(full) < 2:
            filling = GROUP
        if full and not draining:
            draining = full[0]
        cycles += 1
        if draining:
            draining -= 1
            if not draining:
                full.popleft()
        if filling:
            filling -= 1
            if not filling:
                full.append(to_fill.popleft())
    return cycles


def random_loads(config: ArrayConfig, rng: random.Random, count: int) -> Iterator[tuple[dict[str, int], loads.Place]]:
    """(fields, tensor), with other tensors in between."""
    program = Program(config, rng)
    while count:
        if rng.random() < 0.2 or not program.tensors:
            program.note(program.tensor())
            continue
        load = program.load().fields
        yield load, program.tensors[load["slot"]]
        count -= 1


@pytest.mark.parametrize("name", ARRAYS)
def test_cells_cycles_and_reads(name: str) -> None:
    config, rng = ARRAYS[name], random.Random(name)
    words = random_words(rng, 2 * config.store_words).reshape(-1, 2)
    device = GoldenDevice(config)
    for row in range(0, config.store_words, MAX_DATA_WORDS // 2):
        rows = min(config.store_words, MAX_DATA_WORDS // 2)
        fields = {"space": Space.STORE, "row": row, "rows": rows, "words": 2}
        assert device.execute(Command(Opcode.WRITE, fields, words[row : row + rows].reshape(-1)))[0] == Status.OK
    listed = random_words(rng, LIST_ENTRIES)
    fields = {"space": Space.LIST, "rows": LIST_ENTRIES, "words": 1}
    assert device.execute(Command(Opcode.WRITE, fields, listed))[0] == Status.OK
    rows = tuple(int(entry) % (GROUP * config.store_words) for entry in listed)
    kinds = set()
    for load, tensor in random_loads(config, rng, 160):
        place = Images(tensor, rows, load)
        kinds.add((load["target"], load["across"], place.octets, load["listed"]))
        expected = expected_cells(config, load, place, words)
        values = loads.load_values(config, load, tensor, device.store, device.rows)
        assert values.size == len(expected)
        assert all(values[cell - load["cell"], v, lane] == value for (cell, v, lane), value in expected.items()), load
        assert loads.load_cells(config, load, place.octets) == len(values)

        reads: list[int] = []
        run = across_cycles if load["across"] else along_cycles
        cycles = sum(run(config, load, place, reads, octet) for octet in range(place.octets))
        tile = config.columns if load["target"] else config.rows
        vectors, lanes = (load["taps"], load["positions"])[:: 1 if load["across"] else -1]
        cycles += place.octets * (-vectors % tile) * written_in(config, load, -(-lanes // config.lanes))
        cost = loads.load_cost(config, load, place.shape, place.octets, device.rows)
        assert cost == loads.LoadCost(LOAD_SETUP_CYCLES + cycles + LOAD_TAIL_CYCLES, len(reads)), load
        assert loads.load_reads(config, load, tensor, device.rows) == reads, load
    assert len(kinds) == 16


def leaves(load: dict[str, int], shape: tuple[int, int, int, int]) -> bool:
    """By every position of the window; an image is a row of `y_count` times `x_count` of them."""
    n, h, w, c = shape
    if load["n_first"] >= n:
        return True
    all_rows = [signed(load["y_start"], 16) + i * signed(load["y_step"], 8) for i in range(load["y_count"])]
    pixels = [signed(load["x_start"], 16) + i * signed(load["x_step"], 8) for i in range(load["x_count"])]
    left_of_image = all(pixel * c + load["run"] <= 0 for pixel in pixels)
    whole = [(i, j) for i in range(load["y_count"]) for j in range(load["x_count"])]
    one = (load["y_first"], load["x_first"])
    turns = [(*p, i) for p in whole for i in range(n)] if load["n_fast"] else [(i, *p) for i in range(n) for p in whole]
    first = turns.index((*one, load["n_first"]) if load["n_fast"] else (load["n_first"], *one))
    return max(all_rows) >= h or max(pixels) >= w or left_of_image or len(turns) - first < load["positions"]


def test_windows_that_leave_the_image() -> None:
    rng, found = random.Random(5), {True: 0, False: 0}
    for _ in range(4000):
        shape = tuple(rng.randint(1, 4) for _ in range(4))
        load = {"n_first": rng.randint(0, 4), "n_fast": rng.getrandbits(1), "run": rng.randint(1, 9), "listed": 0}
        for axis in "yx":
            count = rng.randint(1, 4)
            load |= {f"{axis}_start": rng.randint(-4, 4) & 0xFFFF, f"{axis}_step": rng.randint(-2, 2) & 0xFF}
            load |= {f"{axis}_count": count, f"{axis}_first": rng.randrange(count)}
        load["positions"] = rng.choice((1, rng.randint(1, 20)))
        expected = leaves(load, shape)
        assert loads.Window.of(load).leaves(shape) == expected, (load, shape)
        found[expected] += 1
    assert min(found.values()) > 300


def test_a_lost_halo_is_noticed() -> None:
    """The reference is no copy of what it checks: a tensor taken for a larger one gives other values."""
    config = CONFIGS["tiny"]
    store = np.random.default_rng(5).integers(1, 256, (config.store_words, GROUP), dtype=np.uint8)
    load = {
        "positions": 4,
        "taps": 4,
        "run": 4,
        "y_count": 2,
        "x_count": 2,
        "y_start": 0xFFFF,
        "x_step": 1,
        "y_step": 1,
    }
    right = loads.load_values(config, load, loads.Place((1, 2, 2, 2), 8, 1), store)
    wrong = loads.load_values(config, load, loads.Place((1, 2, 3, 2), 8, 1), store)
    assert right[0, 0].max() == 0 < right[1].max()
    assert not np.array_equal(right, wrong)


# whole products on the command-level device
class Bench:
    """A golden device with tensors [n, h, w, c] in its store."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config, self.device = config, GoldenDevice(config)
        self.row = self.slot = 0

    def call(self, opcode: Opcode, fields: dict[str, int], data: np.ndarray | None = None) -> np.ndarray:
        command = Command(opcode, fields) if data is None else Command(opcode, fields, data)
        status, words = self.device.execute(command)
        assert status == Status.OK, command
        return words

    def hold(self, values: torch.Tensor, bits: int) -> int:
        """The slot of a tensor [n, h, w, c]."""
        words = packing.pack_store(values.numpy(), bits).reshape(-1, 2)
        shape = dict(zip("nhwc", values.shape, strict=True))
        self.call(Opcode.TENSOR, {"slot": self.slot, "bits": bits, "word": self.row} | shape)
        place = {"space": Space.STORE, "rows": len(words), "words": 2, "row": self.row}
        self.call(Opcode.WRITE, place, words.reshape(-1))
        self.row, self.slot = self.row + len(words), self.slot + 1
        return self.slot - 1

    def product(self, a: dict[str, int], b: dict[str, int], a_bits: int, b_bits: int, chunks: int) -> np.ndarray:
        """int64 [rows, columns] of two whole LOADs of signed numbers."""
        size, spo = self.config.slice_bits, self.config.slices_per_octet
        a_octets, b_octets, slices = -(-a_bits // 8), -(-b_bits // 8), -(-a_bits // size)
        a_first = a_octets * spo - slices
        self.call(Opcode.LOAD, a | {"target": Target.A, "flip": 1 << a_first})
        self.call(Opcode.LOAD, b | {"target": Target.B})
        m, n = (load["taps" if load.get("across") else "positions"] for load in (a, b))
        tiles = -(-m // self.config.rows), -(-n // self.config.columns)
        fields = {"slices": slices, "planes": b_bits, "a_offset": 1, "b_negative": 1, "chunks": chunks}
        fields |= {"row_tiles": tiles[0], "col_tiles": tiles[1], "a_octets": a_octets, "b_octets": b_octets}
        self.call(Opcode.MATMUL, fields | {"a_first": a_first, "b_first": 8 * b_octets - b_bits})
        read = {"space": Space.SUMS, "bits": 64, "rows": self.config.rows, "cols": self.config.columns, "count": 1}
        sums = [self.call(Opcode.READ, read | {"first": tile}) for tile in range(tiles[0] * tiles[1])]
        grid = np.array(sums).view(np.int64).reshape(*tiles, self.config.rows, self.config.columns)
        return grid.swapaxes(1, 2).reshape(tiles[0] * self.config.rows, -1)[:m, :n]


@pytest.mark.parametrize("name", ["small", "slice1", "slice8", "wide"])
@pytest.mark.parametrize(("x_bits", "w_bits", "g_bits"), [(8, 8, 16), (3, 5, 9), (16, 12, 2)])
def test_the_three_products_of_a_convolution(name: str, x_bits: int, w_bits: int, g_bits: int) -> None:
    """Forward, dX and dW of a 3 x 3 convolution as `packets.Load` describes them, against PyTorch."""
    config, generator = ARRAYS[name], torch.Generator().manual_seed(x_bits)

    def numbers(bits: int, *shape: int) -> torch.Tensor:
        return torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), shape, generator=generator)

    n, h, w, c, o = 2, 4, 3, 3, 5
    x, weight, g = numbers(x_bits, n, h, w, c), numbers(w_bits, o, 3, 3, c), numbers(g_bits, n, h, w, o)
    bench = Bench(config)
    slots = bench.hold(x, x_bits), bench.hold(weight, w_bits), bench.hold(g, g_bits)
    nchw, kernel, gradient = (part.permute(0, 3, 1, 2).double() for part in (x, weight, g))
    pixels = {"y_count": h, "x_count": w, "y_step": 1, "x_step": 1, "positions": n * h * w}
    halo = {"y_start": 0xFFFF, "x_start": 0xFFFF}

    # forward: W along, X along
    one = {"y_count": 1, "x_count": 1, "positions": o, "run": 3 * c, "taps": 9 * c}
    got = bench.product(
        {"slot": slots[1]} | one,
        {"slot": slots[0], "run": 3 * c, "taps": 9 * c} | pixels | halo,
        w_bits,
        x_bits,
        -(-9 * c // config.lanes),
    )
    y = torch.nn.functional.conv2d(nchw, kernel, padding=1)
    assert np.array_equal(got, y.permute(1, 0, 2, 3).reshape(o, -1).long().numpy())

    # dX: W across, reversed, g along
    turned = {"y_start": 2, "x_start": 2, "y_step": 0xFF, "x_step": 0xFF, "y_count": 3, "x_count": 3, "n_fast": 1}
    got = bench.product(
        {"slot": slots[1], "across": 1, "positions": 9 * o, "run": c, "taps": c} | turned,
        {"slot": slots[2], "run": 3 * o, "taps": 9 * o} | pixels | halo,
        w_bits,
        g_bits,
        -(-9 * o // config.lanes),
    )
    dx = torch.nn.grad.conv2d_input(nchw.shape, kernel, gradient, padding=1)
    assert np.array_equal(got, dx.permute(1, 0, 2, 3).reshape(c, -1).long().numpy())

    # dW: X across, g across
    got = bench.product(
        {"slot": slots[0], "across": 1, "run": 3 * c, "taps": 9 * c} | pixels | halo,
        {"slot": slots[2], "across": 1, "run": o, "taps": o} | pixels,
        x_bits,
        g_bits,
        -(-n * h * w // config.lanes),
    )
    dw = torch.nn.grad.conv2d_weight(nchw, kernel.shape, gradient, padding=1)
    assert np.array_equal(got, dw.permute(2, 3, 1, 0).reshape(9 * c, o).long().numpy())
    counters = bench.device.counters
    assert (counters["loads"], counters["matmuls"], counters["faults"]) == (6, 3, 0)
    assert counters["fetches_a"] > 0 and counters["fetches_b"] > 0 and counters["load_cycles"] > 0


@pytest.mark.parametrize("name", ["small", "slice8", "wide"])
def test_products_of_listed_images(name: str) -> None:
    """Forward and dW of some images of a batch, in any order and some twice, without sending them again."""
    config, generator = ARRAYS[name], torch.Generator().manual_seed(1)
    n, h, w, c, o = 4, 3, 4, 3, 5
    shapes = (n, h, w, c), (o, 3, 3, c), (n, h, w, o)
    x, weight, g = (torch.randint(-127, 128, shape, generator=generator) for shape in shapes)
    bench = Bench(config)
    slots = [bench.hold(values, 8) for values in (x, weight, g)]
    chosen, at = [3, 0, 3, 1], 7
    pixels = {"y_count": h, "x_count": w, "y_step": 1, "x_step": 1, "positions": len(chosen) * h * w, "n_first": at}
    halo = {"y_start": 0xFFFF, "x_start": 0xFFFF, "run": 3 * c, "taps": 9 * c}
    nchw, kernel, gradient = (part.permute(0, 3, 1, 2).double() for part in (x[chosen], weight, g[chosen]))

    def listed(channels: int) -> dict[str, int]:
        entries = np.array(chosen, dtype=np.uint64) * np.uint64(h * w * channels)
        bench.call(Opcode.WRITE, {"space": Space.LIST, "row": at, "rows": len(chosen), "words": 1}, entries)
        return pixels | {"listed": 1}

    one = {"y_count": 1, "x_count": 1, "positions": o, "run": 3 * c, "taps": 9 * c}
    got = bench.product(
        {"slot": slots[1]} | one, {"slot": slots[0]} | halo | listed(c), 8, 8, -(-9 * c // config.lanes)
    )
    y = torch.nn.functional.conv2d(nchw, kernel, padding=1)
    assert np.array_equal(got, y.permute(1, 0, 2, 3).reshape(o, -1).long().numpy())

    loads_of_x = {"slot": slots[0], "across": 1} | halo | listed(c)
    rows_of_x = bench.device.rows
    loads_of_g = {"slot": slots[2], "across": 1, "run": o, "taps": o, "n_first": at + 10}
    entries = np.array(chosen, dtype=np.uint64) * np.uint64(h * w * o)
    bench.call(Opcode.WRITE, {"space": Space.LIST, "row": at + 10, "rows": len(chosen), "words": 1}, entries)
    assert bench.device.rows[: at + 10] == rows_of_x[: at + 10]
    got = bench.product(loads_of_x, pixels | {"listed": 1} | loads_of_g, 8, 8, -(-len(chosen) * h * w // config.lanes))
    dw = torch.nn.grad.conv2d_weight(nchw, kernel.shape, gradient, padding=1)
    assert np.array_equal(got, dw.permute(2, 3, 1, 0).reshape(9 * c, o).long().numpy())
