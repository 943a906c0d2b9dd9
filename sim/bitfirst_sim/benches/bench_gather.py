"""Bench of `bitfirst_hdl.gather.Gather` on a `TensorStore`: cells, fetches and cycles against the integer model."""

import random
from collections.abc import Iterator
from itertools import chain, repeat

import cocotb
from bitfirst_hdl.config import LOAD_SETUP_CYCLES, LOAD_TAIL_CYCLES, ArrayConfig
from bitfirst_hdl.contract.packets import GROUP, LIST_ENTRIES, OCTET_BITS, WORD_BITS, Load, Opcode, Target
from bitfirst_hdl.gather import RING, Gathered, GatherModel
from bitfirst_hdl.ports import TensorPlace
from cocotb.triggers import RisingEdge

from . import common

Fields = dict[str, int]
Job = tuple[Fields, Fields]
JOBS = 20
MOST_ELEMENTS = 1500  # positions * taps of one job


class Bench:
    """Fills the store, starts jobs, checks what comes out in each cycle."""

    def __init__(self, dut, rng: random.Random, config: ArrayConfig) -> None:
        self.dut, self.rng, self.config = dut, rng, config
        self.hold = 0.0  # how often the store is not ready
        self.held = 0
        self.busy = 0
        self.store = [0] * config.store_words
        self.rows = [0] * LIST_ENTRIES
        self.cells = {target: common.Checker(f"cells of {target.name}") for target in Target}
        self.words = {target: common.Checker(f"words fetched for {target.name}") for target in Target}
        self.word = 0

    async def fill_store(self) -> None:
        """Noise everywhere."""
        self.store = [self.rng.getrandbits(GROUP * OCTET_BITS) for _ in self.store]
        self.dut.write__valid.value = 1
        for row, number in enumerate(self.store):
            for half in range(2):
                self.dut.write__row.value = row
                self.dut.write__word.value = half
                self.dut.write__data.value = (number >> (WORD_BITS * half)) % 2**WORD_BITS
                await RisingEdge(self.dut.clk)
        self.dut.write__valid.value = 0
        await RisingEdge(self.dut.clk)

    async def fill_list(self) -> None:
        """Anything: only as many bits count as an element's address has."""
        elements = GROUP * self.config.store_words
        self.dut.list_write__valid.value = 1
        for row in range(LIST_ENTRIES):
            number = self.rng.getrandbits(WORD_BITS)
            self.rows[row] = number % elements
            self.dut.list_write__row.value = row
            self.dut.list_write__data.value = number
            await RisingEdge(self.dut.clk)
        self.dut.list_write__valid.value = 0
        await RisingEdge(self.dut.clk)

    async def cycle(self) -> None:
        """To the next edge; look at the cycle before it."""
        await RisingEdge(self.dut.clk)
        value, dut = common.value, self.dut
        assert value(dut.busy) == value(dut.events__busy) == 1 - value(dut.start__ready)
        assert not (value(dut.enable) and value(dut.hold)), "a step of the store that is not ready"
        self.busy += value(dut.busy)
        self.held += value(dut.busy) & value(dut.hold)
        for target, side in (Target.A, "a"), (Target.B, "b"):
            if value(getattr(dut, f"events__fetch_{side}")):
                assert value(dut.enable), "a fetch without a read"
                self.words[target].got(value(dut.word))
            if value(getattr(dut, f"{side}_write__valid")):
                self.cells[target].got(self._cell(side))
        if self.hold:
            dut.hold.value = int(self.rng.random() < self.hold)

    def _cell(self, side: str) -> tuple[int, int, int, int, tuple[int, ...]]:
        cell, vector, groups = (
            common.value(getattr(self.dut, f"{side}_write__{name}")) for name in ("cell", "vector", "groups")
        )
        planes = tuple(common.value(getattr(self.dut, f"{side}_write__data__{plane}")) for plane in range(OCTET_BITS))
        return cell, vector, groups, planes

    def expect(self, job: Job) -> Gathered:
        """What the model says, told to the checkers."""
        load, place = job
        result = GatherModel(self.config, load, place, self.store, self.rows).run()
        self.cells[Target(load["target"])].expect(*result.cells)
        self.words[Target(load["target"])].expect(*result.words)
        return result

    async def start(self, job: Job) -> None:
        """Offer the job until it is taken; on return it is taken in the cycle that has just ended."""
        load, place = job
        packed = common.pack(Load, opcode=int(Opcode.LOAD), **load)
        self.dut.start__payload.value = packed | common.pack(TensorPlace, **place) << 256
        self.dut.start__valid.value = 1
        await self.cycle()
        while not common.value(self.dut.start__ready):
            await self.cycle()
        self.dut.start__valid.value = 0
        self.dut.start__payload.value = self.rng.getrandbits(len(self.dut.start__payload))

    async def finish(self) -> None:
        """To the first idle cycle; everything has come out by then."""
        await self.cycle()
        while common.value(self.dut.busy):
            await self.cycle()
        for checker in chain(self.cells.values(), self.words.values()):
            assert not checker.expected, f"{checker.name}: {len(checker.expected)} missing"

    async def check(self, job: Job) -> Gathered:
        """One job from idle to idle."""
        expected = self.expect(job)
        busy, held = self.busy, self.held
        await self.start(job)
        await self.finish()
        cycles = self.busy - busy - (self.held - held)
        assert cycles == expected.cycles, f"{job}: {cycles} cycles, expected {expected.cycles}"
        return expected


def tensor(rng: random.Random, config: ArrayConfig, **shape: int) -> Fields:
    """A place for a tensor of this shape, or one that fits."""
    while True:
        sizes = {
            "n": rng.randint(1, 5),
            "h": rng.randint(1, 9),
            "w": rng.randint(1, 9),
            "c": rng.randint(1, 24),
        } | shape
        octets = rng.choice([1, 1, 2])
        row = sizes["w"] * sizes["c"]
        words = -(-sizes["n"] * sizes["h"] * row // GROUP)
        if octets * words <= config.store_words:
            break
        octets = 1
    place = {name: sizes[name] for name in ("n", "h", "c")}
    place |= {"row": row, "image": sizes["h"] * row, "octets": octets, "octet_words": words}
    return place | {"word": rng.randint(0, config.store_words - octets * words)}


def windows(rng: random.Random, place: Fields, sign: int) -> Fields:
    """Windows of a convolution: kernels, strides and halos of all kinds."""
    stride, pad = rng.randint(1, 3), rng.randint(0, 3)
    kernel_h, kernel_w = rng.randint(1, 4), rng.randint(1, 4)
    width = place["row"] // place["c"]
    y_count, x_count = (max(1, (size + 2 * pad) // stride) for size in (place["h"], width))
    return {
        "y_start": -pad if sign > 0 else place["h"] - 1 + pad,
        "x_start": -pad if sign > 0 else width - 1 + pad,
        "y_step": sign * stride,
        "x_step": sign * stride,
        "y_count": y_count,
        "x_count": x_count,
        "run": kernel_w * place["c"],
        "taps": kernel_h * kernel_w * place["c"],
    }


def anything(rng: random.Random, bits: int) -> Fields:
    """Fields with hardly any sense."""
    half = 2 ** (bits - 1)
    steps = min(half, 128)
    return {
        "y_start": rng.randint(-half, half - 1),
        "x_start": rng.randint(-half, half - 1),
        "y_step": rng.randint(-steps, steps - 1),
        "x_step": rng.randint(-steps, steps - 1),
        "y_count": rng.randint(1, 2 * half - 1),
        "x_count": rng.randint(1, 2 * half - 1),
        "run": rng.choice([rng.randint(1, 70), rng.randint(1, min(4 * half, 2**16) - 1)]),
        "taps": rng.randint(1, 90),
    }


def within(rng: random.Random, load: Fields, place: Fields) -> Fields:
    """The same moved to where no position stands behind the image; a favourite is the very end."""
    load = dict(load)
    least = {"y": -(2**15), "x": 1 - -(-load["run"] // place["c"])}  # the last pixel's run reaches into the image
    for axis, size in ("y", place["h"]), ("x", place["row"] // place["c"]):
        distance = (load[f"{axis}_count"] - 1) * max(load[f"{axis}_step"], 0)
        if distance > 2**15:
            load[f"{axis}_step"], distance = -load[f"{axis}_step"], 0
        most, low = size - 1 - distance, max(-(2**15), least[axis] - distance)
        start = load[f"{axis}_start"]
        load[f"{axis}_start"] = rng.choice((low, most)) if not low <= start <= most else start
    return load


def positions_left(load: Fields, place: Fields) -> int:
    """Positions from the first one on."""
    pixels, before = load["y_count"] * load["x_count"], load["y_first"] * load["x_count"] + load["x_first"]
    if load["n_fast"]:
        return (pixels - before) * place["n"] - load["n_first"]
    return pixels * (images(load, place) - load["n_first"]) - before


def images(load: Fields, place: Fields) -> int:
    """How many there are to count through."""
    return LIST_ENTRIES if load["listed"] else place["n"]


def part(rng: random.Random, config: ArrayConfig, load: Fields, place: Fields, **fixed: int) -> Fields:
    """The whole load or a part of it, small enough, with a target that holds it."""
    load = {"across": rng.randrange(2), "n_fast": rng.randrange(2), "target": rng.randrange(2)} | load
    load["listed"] = 0 if load["n_fast"] else rng.randrange(2)
    load = within(rng, load, place)
    firsts = {"y_first": "y_count", "x_first": "x_count", "place_first": "run"}
    whole = rng.random() < 0.4
    load |= {first: 0 if whole else rng.randrange(load[count]) for first, count in firsts.items()}
    load["n_first"] = 0 if whole else rng.randrange(images(load, place))
    load["line_first"] = 0 if whole else rng.choice([0, 1, rng.randrange(256)])
    left = positions_left(load, place)
    load["positions"] = left if whole else min(left, rng.randint(1, 150))
    load["taps"] = load["taps"] if whole else rng.randint(1, load["taps"])
    load |= fixed
    load["positions"] = min(load["positions"], -(-MOST_ELEMENTS // load["taps"]))
    tile, cells = (config.columns, config.b_cells) if load["target"] else (config.rows, config.a_cells)
    while (used := count_cells(config, load, place, tile)) > cells:
        load["positions"], load["taps"] = -(-load["positions"] // 2), -(-load["taps"] // 2)
    slices = place["octets"] * config.slices_per_octet
    flip = rng.choice([0, 1, rng.getrandbits(slices)]) if load["target"] == Target.A else 0
    turn = rng.choice([0, rng.randrange(8)]) if load["target"] == Target.A else 0
    return load | {"cell": rng.randint(0, cells - used), "flip": flip, "turn": turn}


def count_cells(config: ArrayConfig, load: Fields, place: Fields, tile: int) -> int:
    lanes, vectors = load["positions"], load["taps"]
    if not load["across"]:
        lanes, vectors = vectors, lanes
    return -(-vectors // tile) * place["octets"] * -(-lanes // config.lanes)


def random_jobs(rng: random.Random, config: ArrayConfig) -> Iterator[Job]:
    """Windows forwards and backwards, and fields without sense, near the tensor and far away."""
    for kind in chain.from_iterable(repeat(("forward", "backward", "near", "far"))):
        place = tensor(rng, config)
        if kind in ("forward", "backward"):
            load = windows(rng, place, 1 if kind == "forward" else -1)
        else:
            load = anything(rng, 4 if kind == "near" else 16)
        yield part(rng, config, load, place), place


async def prepare(dut) -> Bench:
    """Reset, and a store full of noise."""
    rng = await common.start(dut, hold=0, start__valid=0, write__valid=0, list_write__valid=0)
    bench = Bench(dut, rng, ArrayConfig(**common.parameters()["config"]))
    await bench.fill_store()
    await bench.fill_list()
    return bench


@cocotb.test()
async def jobs(dut) -> None:
    """Jobs of all kinds, one after the other."""
    bench = await prepare(dut)
    for _, job in zip(range(3 * JOBS), random_jobs(bench.rng, bench.config), strict=False):
        await bench.check(job)
    for checker in chain(bench.cells.values(), bench.words.values()):
        checker.finish()


@cocotb.test()
async def store_not_ready(dut) -> None:
    """The store is often not ready: the same cells, in as many more cycles."""
    bench = await prepare(dut)
    for _, job in zip(range(JOBS), random_jobs(bench.rng, bench.config), strict=False):
        bench.hold = bench.rng.choice([0.1, 0.3, 0.6])
        await bench.check(job)
    assert bench.held > 500


@cocotb.test()
async def back_to_back(dut) -> None:
    """Jobs offered all the time: each is taken in the first idle cycle."""
    bench = await prepare(dut)
    begin, cycles = bench.busy, 0
    first = common.cycle()
    for _, job in zip(range(JOBS), random_jobs(bench.rng, bench.config), strict=False):
        cycles += bench.expect(job).cycles
        await bench.start(job)
    await bench.finish()
    assert bench.busy - begin == cycles
    assert common.cycle() - first == cycles + JOBS + 1


@cocotb.test()
async def whole_words(dut) -> None:
    """Runs of whole words, one tile full: into B all that the store gives, 256 bits a cycle; into A what A can take."""
    bench = await prepare(dut)
    config = bench.config
    for target, vectors in (Target.A, config.rows), (Target.B, config.columns):
        place = tensor(bench.rng, config, n=vectors, h=1, w=1, c=64) | {"octets": 1}
        load = {"y_start": 0, "x_start": 0, "y_step": 1, "x_step": 1, "y_count": 1, "x_count": 1, "run": 64, "taps": 64}
        fixed = {
            "across": 0,
            "n_fast": 0,
            "listed": 0,
            "n_first": 0,
            "place_first": 0,
            "line_first": 0,
            "positions": vectors,
        }
        load = part(bench.rng, config, load, place, **fixed, target=int(target), taps=64)
        result = await bench.check((load, place))
        spent = result.cycles - LOAD_SETUP_CYCLES - LOAD_TAIL_CYCLES
        assert spent <= len(result.words) + len(result.cells)
        assert target == Target.A or 256 * spent <= RING * OCTET_BITS * len(result.words)
