"""Bench of `bitfirst_hdl.update.Updater` on a `TensorStore`: the whole store, and cycles, by `contract.numeric`."""

import random
from dataclasses import dataclass, field

import cocotb
from bitfirst_hdl.config import UPDATE_SETUP_CYCLES, ArrayConfig
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.numeric import MASTER_BITS, MAX_SHIFT, MOMENTUM_BITS
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, STATE_WORDS, WORD_BITS
from bitfirst_hdl.update import Task, UpdateJob
from cocotb.triggers import RisingEdge

from . import common

MOST_GROUPS = 9
MASTERS = tuple(range(MASTER_BITS // OCTET_BITS))  # words of a group, most significant octet first
MOMENTA = tuple(range(len(MASTERS), STATE_WORDS))


@dataclass
class Store:
    """Words of 16 octets each."""

    words: list[list[int]]

    @classmethod
    def of(cls, words: list[int]) -> "Store":
        """From numbers of 128 bits: planes."""
        places = range(GROUP), range(OCTET_BITS)
        return cls([[sum((word >> e + GROUP * i & 1) << i for i in places[1]) for e in places[0]] for word in words])

    def halves(self) -> list[int]:
        """As WRITE and READ have it."""
        found = []
        for octets in self.words:
            planes = [sum((octet >> i & 1) << e for e, octet in enumerate(octets)) for i in range(OCTET_BITS)]
            word = sum(plane << GROUP * i for i, plane in enumerate(planes))
            found += [word % 2**WORD_BITS, word >> WORD_BITS]
        return found

    def number(self, words: list[int], element: int) -> int:
        code = 0
        for word in words:
            code = code << OCTET_BITS | self.words[word][element]
        return common.to_signed(code, OCTET_BITS * len(words))

    def put(self, words: list[int], element: int, number: int) -> None:
        for word in reversed(words):
            self.words[word][element] = number % 2**OCTET_BITS
            number >>= OCTET_BITS


def state_of(job: dict[str, int], group: int) -> tuple[list[int], list[int]]:
    """Words of the masters and of the momenta."""
    first = job["state"] + STATE_WORDS * group
    return [first + word for word in MASTERS], [first + word for word in MOMENTA]


def update(store: Store, job: dict[str, int]) -> int:
    """What UPDATE does to the store; the largest magnitude that the layers see."""
    largest = 0
    for group in range(job["groups"]):
        masters, momenta = state_of(job, group)
        for element in range(GROUP):
            code = store.words[job["other"] + group][element] & 3
            sign = {0: 0, 1: 1, 2: 0, 3: -1}[code]
            old = store.number(masters, element), store.number(momenta, element)
            rates = job["rate"], job["amount"], job["decay"], job["decay_shift"], job["coefficient"]
            master, momentum = numeric.update(*old, sign, *rates)
            store.put(masters, element, master)
            store.put(momenta, element, momentum)
            largest = max(largest, abs(master >> numeric.HIDDEN_BITS))
    return largest


def weights(store: Store, job: dict[str, int]) -> None:
    """What WEIGHTS does to the store."""
    for group in range(job["groups"]):
        masters, _ = state_of(job, group)
        low = job["other"] + group + job["two_octets"] * job["groups"]
        places = [job["other"] + group, low] if job["two_octets"] else [low]
        for element in range(GROUP):
            store.put(places, element, numeric.weight(store.number(masters, element), job["amount"]))


@dataclass
class Bench:
    dut: object
    rng: random.Random
    config: ArrayConfig
    store: Store = field(init=False)
    taken: int = 0

    async def fill(self, words: list[int]) -> None:
        self.store = Store.of(words)
        self.dut.fill__valid.value = 1
        for row, word in enumerate(words):
            for half in range(2):
                self.dut.fill__row.value, self.dut.fill__word.value = row, half
                self.dut.fill__data.value = word >> WORD_BITS * half & 2**WORD_BITS - 1
                await RisingEdge(self.dut.clk)
        self.dut.fill__valid.value = 0
        await RisingEdge(self.dut.clk)

    async def run(self, job: dict[str, int]) -> int:
        """Executes it; returns how many cycles it was busy."""
        self.dut.start__payload.value = common.pack(UpdateJob, **job)
        self.dut.start__valid.value = 1
        await RisingEdge(self.dut.clk)
        assert common.value(self.dut.start__ready) and not common.value(self.dut.busy)
        self.dut.start__valid.value = 0
        cycles = counted = 0
        while True:
            await RisingEdge(self.dut.clk)
            if not common.value(self.dut.busy):
                break
            cycles += 1
            counted += common.value(self.dut.counted)
            assert cycles < 10_000 and not common.value(self.dut.start__ready)
        assert counted == (0 if job["task"] == Task.WORDS else cycles)
        return cycles

    async def words(self, first: int, count: int, stall: float) -> list[int]:
        """64-bit words of the store from store word `first` on."""
        monitor = common.StreamMonitor(self.dut, "words", self.rng, stall)
        cycles = await self.run({"task": Task.WORDS, "state": first, "groups": count})
        await RisingEdge(self.dut.clk)
        monitor.stop()
        assert stall or cycles == UPDATE_SETUP_CYCLES + 2 * count, f"{cycles} cycles for {count} store words"
        return [word for _, word in monitor.taken]

    async def check_store(self, stall: float = 0.0) -> None:
        depth = self.config.store_words
        assert await self.words(0, depth, stall) == self.store.halves()

    async def check(self, job: dict[str, int]) -> None:
        """Largest magnitude, cycles and the whole store."""
        largest = update(self.store, job) if job["task"] == Task.UPDATE else weights(self.store, job)
        cycles = await self.run(job)
        assert cycles == self.config.update_cycles(job["groups"]), f"{cycles} cycles for {job}"
        assert largest is None or common.value(self.dut.largest) == largest, job
        await self.check_store()


def numbers(rng: random.Random, bits: int) -> int:
    """Of any size, and the extremes."""
    most = 2 ** (bits - 1) - 1
    small = rng.randint(-(2 ** rng.randint(0, bits - 1)), 2 ** rng.randint(0, bits - 1) - 1)
    return rng.choice((small, small, small, 0, -1, 1, most, -most, -most - 1, most - rng.randint(0, 300)))


def planes(octets: list[int]) -> int:
    return sum((octet >> i & 1) << e + GROUP * i for e, octet in enumerate(octets) for i in range(OCTET_BITS))


def group_of(rng: random.Random, most: int) -> list[int]:
    """The six words of a group; masters of any size, or with `most` up to it."""
    masters = [rng.randint(-most, most) if most else numbers(rng, MASTER_BITS) for _ in range(GROUP)]
    codes = [(master % 2**MASTER_BITS, numbers(rng, MOMENTUM_BITS) % 2**MOMENTUM_BITS) for master in masters]
    octets = [[code[0] >> OCTET_BITS * (3 - word) & 255 for code in codes] for word in MASTERS]
    octets += [[code[1] >> OCTET_BITS * (1 - word) & 255 for code in codes] for word in range(2)]
    return [planes(word) for word in octets]


def rate(rng: random.Random, least_shift: int) -> tuple[int, int]:
    """Multiplier and shift, extremes among them; half of the shifts move the numbers little."""
    multiplier = rng.choice((0, 1, 2**15, 2**16 - 1, rng.getrandbits(16), rng.getrandbits(16)))
    return multiplier, rng.choice((least_shift, MAX_SHIFT, rng.randint(least_shift, 34), rng.randint(least_shift, 63)))


def job_of(rng: random.Random, config: ArrayConfig, task: Task, groups: int) -> dict[str, int]:
    """Masters and the other words anywhere, the one before or behind the other."""
    two, depth = rng.randrange(2), config.store_words
    size, more = STATE_WORDS * groups, groups * (1 + (two if task == Task.WEIGHTS else 0))
    gap = rng.randint(0, depth - size - more - 1)
    first = rng.choice((0, gap, depth - size - more - gap - 1))
    state, other = rng.choice(((first, first + size + 1), (first + more, first)))
    state += state % 2
    (decay, decay_shift), (multiplier, shift) = rate(rng, numeric.DECAY_SHIFT), rate(rng, numeric.STEP_SHIFT)
    coefficient = rng.choice((0, 255, 230, rng.getrandbits(8)))
    rates = {"decay": decay, "decay_shift": decay_shift, "rate": multiplier, "coefficient": coefficient}
    amount = shift if task == Task.UPDATE else rng.choice((0, MAX_SHIFT, rng.randint(14, 40), rng.randint(20, 36)))
    place = {"task": task, "state": state, "other": other, "groups": groups}
    return place | rates | {"amount": amount, "two_octets": two}


async def start(dut) -> Bench:
    config = ArrayConfig(**common.parameters()["config"])
    rng = await common.start(dut, fill__valid=0, start__valid=0, words__ready=0)
    bench = Bench(dut, rng, config)
    await bench.fill([rng.getrandbits(GROUP * OCTET_BITS) for _ in range(config.store_words)])
    return bench


async def refill(bench: Bench, job: dict[str, int]) -> None:
    """Numbers of any size where the job finds its masters and momenta."""
    words = [planes(octets) for octets in bench.store.words]
    most = bench.rng.choice((0, 2 ** bench.rng.randint(9, 31) - 1))
    for group in range(job["groups"]):
        first = job["state"] + STATE_WORDS * group
        words[first : first + STATE_WORDS] = group_of(bench.rng, most)
    await bench.fill(words)


async def any_jobs(dut, task: Task) -> None:
    """Of each number of groups, on numbers of any size."""
    bench = await start(dut)
    for number in range(18):
        job = job_of(bench.rng, bench.config, task, number % MOST_GROUPS + 1)
        await refill(bench, job)
        await bench.check(job)


@cocotb.test()
async def updates(dut) -> None:
    """Any masters, momenta, signs and rates: every word of the store, the largest magnitude, the cycles."""
    await any_jobs(dut, Task.UPDATE)


@cocotb.test()
async def a_training(dut) -> None:
    """Updates of the same weights, and their weights after each."""
    bench = await start(dut)
    job = job_of(bench.rng, bench.config, Task.UPDATE, 3)
    job |= {"state": 2, "other": 40, "decay": 40000, "decay_shift": 32, "rate": 50000, "amount": 26, "coefficient": 230}
    await refill(bench, job)
    for _ in range(10):
        job["other"] = bench.rng.randint(20, 100)
        await bench.check(job)
        await bench.check(job | {"task": Task.WEIGHTS, "amount": bench.rng.randint(26, 34), "other": 30})


@cocotb.test()
async def ties(dut) -> None:
    """Steps and weights that lie half way, of both signs and parities, and next to it; steps that saturate."""
    bench = await start(dut)
    rng = bench.rng
    for shift in range(bench.rng.randint(1, 3), 47, 3):
        momenta = [rng.choice((-3, -1, 1, 3)) * 2**exponent for exponent in range(14)]
        job = job_of(rng, bench.config, Task.UPDATE, 1) | {"amount": numeric.STEP_SHIFT + shift}
        job |= {"decay": rng.choice((0, 1)), "rate": rng.choice((1, 2**15, 2**15 + 1)), "coefficient": 255}
        await refill(bench, job)
        words = [planes(octets) for octets in bench.store.words]
        _, places = state_of(job, 0)
        codes = [momentum % 2**MOMENTUM_BITS for momentum in [*momenta, 2**15 - 1, 1 - 2**15]]
        for word, octet in zip(places, (1, 0), strict=True):
            words[word] = planes([code >> OCTET_BITS * octet & 255 for code in codes])
        await bench.fill(words)
        await bench.check(job)
        await bench.check(job | {"task": Task.WEIGHTS, "amount": shift, "two_octets": shift % 2})


@cocotb.test()
async def quantises(dut) -> None:
    """Weights of one octet and of two, in any place, at any shift; nothing else of the store changes."""
    await any_jobs(dut, Task.WEIGHTS)


@cocotb.test()
async def reads(dut) -> None:
    """Words of the store, from even and odd ones on, with stalls."""
    bench = await start(dut)
    expected, depth = bench.store.halves(), bench.config.store_words
    for _ in range(20):
        count = bench.rng.randint(1, 12)
        first = bench.rng.randint(0, depth - count)
        stall = bench.rng.choice((0.0, 0.3, 0.8))
        assert await bench.words(first, count, stall) == expected[2 * first : 2 * (first + count)]
