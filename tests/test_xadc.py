"""Transfers with the converter of a Xilinx chip in gateware, and mutants that the bench must find."""

import random
from pathlib import Path
from types import ModuleType

import pytest
from amaranth.sim import Simulator
from bitfirst_boards.synthesis import Chip, packed, synthesise
from bitfirst_hdl import axi, verilog
from bitfirst_hdl.config import ArrayConfig, ConfigError
from bitfirst_hdl.power import xadc
from bitfirst_hdl.power.monitor import PowerMonitor
from bitfirst_sim import build
from bitfirst_sim.formal.prove import altered

CLOCK_KHZ, CELLS = 50_000, 594


class Bench:
    """A converter's registers by UG480 alone, and whole transfers; what the port forbids is an error."""

    def __init__(self, module: ModuleType) -> None:
        self.dut, self.rng = module.XadcTransfers(CLOCK_KHZ), random.Random(1)
        self.words = [self.rng.getrandbits(16) for _ in range(128)]
        self.silent, self.accesses = False, 0
        self.simulator = Simulator(self.dut)
        self.simulator.add_clock(1e-6)
        self.simulator.add_process(self.converter)

    def run(self, testbench: object) -> None:
        self.simulator.add_testbench(testbench)
        self.simulator.run()

    async def converter(self, context: object) -> None:
        dut = self.dut
        names = dut.drp_enable, dut.drp_write, dut.drp_address, dut.drp_written
        while True:
            _, _, enable, writes, address, written = await context.tick().sample(*names)
            if not enable or self.silent:
                continue
            self.accesses += 1
            for _ in range(self.rng.randint(1, 20)):
                _, _, *busy = await context.tick().sample(dut.drp_enable)
                assert not any(busy), "asked for another one before it was done"
            if writes:
                assert address >= 0x40, "what was converted is read only"
                self.words[address] = written
            context.set(dut.drp_read, self.words[address])
            context.set(dut.drp_ready, 1)
            await context.tick()
            context.set(dut.drp_ready, 0)
            context.set(dut.drp_read, self.rng.getrandbits(16))

    async def end_sequence(self, context: object) -> None:
        context.set(self.dut.sequence_ended, 1)
        await context.tick()
        context.set(self.dut.sequence_ended, 0)

    async def transfer(self, context: object, data: bytes, read: int = 0, address: int = 0) -> int | None:
        """What was read; None if not acknowledged. `send` comes two cycles late, as the sampler has it."""
        dut, got, taken = self.dut, [], 0
        for name, value in (("address", address), ("written", len(data)), ("read", read), ("start", 1)):
            context.set(getattr(dut, name), value)
        await context.tick()
        context.set(dut.start, 0)
        before = 0
        for _ in range(1000):
            place, count = context.get(dut.place), context.get(dut.count)
            context.set(dut.send, before)
            before = data[min(count, len(data)) - 1] >> place & 1
            if context.get(dut.bit_read):
                got.append(context.get(dut.bit))
                taken += place == 7 - (len(got) - 1) % 8 and count == 1 + (len(got) - 1) // 8
            if context.get(dut.done):
                acknowledged = context.get(dut.acknowledged)
                await context.tick()
                assert context.get(dut.ready), "not ready behind the last one"
                if not acknowledged:
                    return None
                assert taken == len(got) == 8 * read, "bits are not where they are said to be"
                return int("".join(map(str, got)) or "0", 2)
            await context.tick()
        raise AssertionError("it does not end")


def check(module: ModuleType) -> None:
    bench = Bench(module)

    async def all_of_it(context: object) -> None:
        rng, words = random.Random(2), bench.words
        for _ in range(12):
            number, word = rng.randrange(0x40, 0x60), rng.getrandbits(16)
            assert await bench.transfer(context, bytes([number, word >> 8, word & 0xFF])) == 0
            assert words[number] == word, "written otherwise"
            assert await bench.transfer(context, bytes([number]), 2) == word, "read otherwise"
        for word in (0x0000, 0x8001, 0xFFEF, 0xFFF0, 0xFFFF, *(rng.getrandbits(16) for _ in range(8))):
            words[0x19] = word
            expected = 0x7FFF if word >= 0xFFF0 else word >> 1
            assert await bench.transfer(context, b"\x19", 2) == expected, "converted, and read otherwise"
        accesses = bench.accesses

        async def ended(address: int) -> int | None:
            return await bench.transfer(context, bytes([xadc.ENDED]), 1, address)

        for address in (9, 10):
            assert await ended(address) == 0, "no sequence has ended"
        await bench.end_sequence(context)
        for address in (9, 10):  # each is told once
            assert [await ended(address), await ended(address)] == [1, 0], "an end of a sequence is told otherwise"
        assert bench.accesses == accesses, "the converter was asked for what it has not"
        bench.silent = True
        assert await bench.transfer(context, b"\x19", 2) is None, "silence was taken for numbers"
        bench.silent = False
        words[0x11] = 0x1234
        assert await bench.transfer(context, b"\x11", 2) == 0x091A, "not read after silence"
        context.set(bench.dut.recovers, 1)
        assert await bench.transfer(context, b"\x11") is None and bench.accesses == accesses + 1

    bench.run(all_of_it)


def test_transfers() -> None:
    check(xadc)


def test_the_feature() -> None:
    with pytest.raises(ConfigError, match="feature xadc needs power; add to features"):
        ArrayConfig(features=("xadc",))
    with pytest.raises(ConfigError, match="features spi and xadc are different buses of sensors; leave one"):
        ArrayConfig(features=("power", "spi", "xadc"))
    with pytest.raises(ConfigError, match="feature xadc: AXI devices have sensors on an I2C bus or a PMBus alone"):
        axi.check(ArrayConfig(features=("power", "xadc"), link_bits=32))


def test_the_monitor(tmp_path: Path) -> None:
    """No more cells of ECP5 than there are, which the goal is 600 for; and the Verilog is sound."""
    synthesise(PowerMonitor(25_000, "xadc"), tmp_path, Chip("ecp5"))
    found = packed(tmp_path)
    assert found["TRELLIS_COMB"] <= CELLS and found["DP16KD"] <= 6 and not found.get("MULT18X18D"), found
    build.lint(verilog.convert(PowerMonitor(CLOCK_KHZ, "xadc"), "monitor"))


#: What is changed, and what the bench says.
MUTANTS = {
    "bits taken too early": ("BIT_CYCLES = 4", "BIT_CYCLES = 1", "no sequence|otherwise"),
    "the port asked twice": ('m.next = "WAIT"', 'm.next = "ACCESS"', "another one|does not end"),
    "converted numbers that are not halved": ("Mux(number[6], ", "Mux(1, ", "converted, and"),
    "registers that are halved": ("Mux(number[6], ", "Mux(0, ", "read otherwise"),
    "full scale that is not told": ("drp_read[4:].all()", "drp_read.all()", "converted, and"),
    "writes that read": ("self.written != 1", "0", "written otherwise"),
    "an end that is told again": ("ended.bit_select(place, 1).eq(0)", "", "told otherwise"),
    "one end for all rails": ("ended.bit_select(place, 1).eq(0)", "ended.eq(0)", "told otherwise"),
    "silence that is taken for numbers": ("acknowledged.eq(heard)", "acknowledged.eq(1)", "assert|silence"),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    old, new, said = MUTANTS[mutant]
    with pytest.raises(AssertionError, match=said):
        check(altered(xadc, (old, new)))
