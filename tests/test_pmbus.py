"""Transfers on a PMBus in gateware: LINEAR11 of every word, the monitor on a bus with chips, and mutants of both."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_boards.synthesis import Chip, packed, synthesise
from bitfirst_hdl import verilog
from bitfirst_hdl.power import monitor, pmbus, sampler
from bitfirst_hdl.power.pmbus import BEAT_BITS
from bitfirst_hdl.power.transfers import COUNT_BITS, SENSOR_PINS, TRANSFER_PORTS
from bitfirst_sim import build
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from bitfirst_sim.gates import Gates
from bitfirst_sim.i2c_bus import OnBus

WORDS = np.arange(2**16)
LONGEST = 130  # cycles from the STOP to `done`


class Fed(wiring.Component):
    """In the place of `Transfers`: what the bus says is driven from outside."""

    def __init__(self, clock_khz: int) -> None:
        super().__init__(TRANSFER_PORTS | {"tick": In(1), "count": Out(COUNT_BITS)} | SENSOR_PINS)

    def elaborate(self, platform: object) -> Module:
        return Module()


class Words(wiring.Component):
    """A `PmbusTransfers` whose bus gives `word_bit` with `comes`, and is done with `stops`."""

    def __init__(self, module: ModuleType) -> None:
        self.inner = module.PmbusTransfers(1000)
        fed = {"read": In(COUNT_BITS), "beat": In(BEAT_BITS), "word_bit": In(1), "comes": In(1), "stops": In(1)}
        seen = {"bit_read": Out(1), "bit": Out(1), "place": Out(3), "count": Out(COUNT_BITS), "done": Out(1)}
        super().__init__(fed | seen | {"acknowledged": Out(1)})
        self.seen = [*seen, "acknowledged"]

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = inner = self.inner
        bus = inner.transfers
        m.d.comb += [getattr(self, name).eq(getattr(inner, name)) for name in self.seen]
        m.d.comb += [
            *(getattr(inner, name).eq(getattr(self, name)) for name in ("read", "beat")),
            bus.bit.eq(self.word_bit),
            bus.bit_read.eq(self.comes),
            *(port.eq(self.stops) for port in (bus.done, bus.acknowledged)),
        ]
        return m


def given(module: ModuleType, read: int, first_beat: int = 0) -> np.ndarray:
    """Of every word on the bus, low byte first: the number that comes, as its bits say, whatever their place."""
    gates = Gates(Words(module), len(WORDS))
    ones, beat = gates.ones, first_beat
    asked = [ones * (read >> bit & 1) for bit in range(COUNT_BITS)]
    planes = [int.from_bytes(np.packbits(WORDS >> bit & 1, bitorder="little").tobytes(), "little") for bit in range(16)]

    def cycle(**inputs: list[int]) -> dict[str, int]:
        """Numbers that are the same in each run, but for `bit`."""
        nonlocal beat
        found = gates.cycle(read=asked, beat=[ones * (beat >> bit & 1) for bit in range(BEAT_BITS)], **inputs)
        beat = (beat + 1) % 2**BEAT_BITS
        (bit,) = found.pop("bit")
        same = {name: sum((net & 1) << place for place, net in enumerate(nets)) for name, nets in found.items()}
        assert all(net in (0, ones) for name in ("bit_read", "done", "count") for net in found[name])
        return same | {"bit": bit}

    for bit in (*range(7, -1, -1), *range(15, 7, -1)):
        assert not cycle(word_bit=[planes[bit]], comes=[ones])["bit_read"], "a word's bits come behind the STOP"
        cycle()
    for _ in range(8):
        cycle()  # the acknowledge and the STOP take longer
    last = cycle(stops=[ones])
    numbers, places = np.zeros(len(WORDS), np.int64), []
    for _ in range(LONGEST):
        assert not last["done"]
        now = cycle()
        if now["bit_read"]:
            places.append((last["count"], now["place"]))  # the count is looked at a cycle before
            bits = np.frombuffer(now["bit"].to_bytes(len(WORDS) // 8, "little"), np.uint8)
            numbers = numbers << 1 | np.unpackbits(bits, bitorder="little")
        last = now
        if now["done"]:
            break
    assert last["done"] and last["acknowledged"]
    assert places == [(byte + 1, 7 - bit) for byte in range(read) for bit in range(8)], places
    assert not any(cycle()["done"] or cycle()["bit_read"] for _ in range(LONGEST))
    return numbers


def linear11() -> np.ndarray:
    """By the specification's formula, in steps of 2**-16, of 24 bits; in floats, which are exact here."""
    exponent, mantissa = WORDS >> 11, WORDS & 0x7FF
    exponent, mantissa = (
        np.where(exponent > 15, exponent - 32, exponent),
        np.where(mantissa > 1023, mantissa - 2048, mantissa),
    )
    steps = mantissa * 2.0**exponent * 2**16
    assert (steps == np.rint(steps)).all()
    return np.clip(steps, -(2**23), 2**23 - 1).astype(np.int64) % 2**24


@pytest.mark.parametrize("first_beat", [0, 37])
def test_every_word(first_beat: int) -> None:
    """As LINEAR11, and as it is."""
    fed = altered(pmbus, Transfers=Fed)
    assert (given(fed, 3, first_beat) == linear11()).all()
    assert (given(fed, 2, first_beat) == WORDS).all()


#: What is changed; how many words are read wrongly, at least.
MUTANTS = {
    "exponents without a sign": ("beat[5] == exponent[4]", "beat[5] == 1", 1000),
    "large numbers wrap": ("Mux(over, full, line[-1])", "line[-1]", 10_000),
    "large numbers are noticed late": ("(~gives & (line[-2] ^ sign))", "(~gives & (line[-1] ^ sign))", 500),
    "zeros in front": ("line.eq(Cat(high[2], line))", "line.eq(Cat(high[2] & moved, line))", 10_000),
    "mantissas go round": ("high[-1] & ~plays, low", "high[-1], low", 10_000),
}


@pytest.mark.mutants
@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_found(mutant: str) -> None:
    old, new, wrong = MUTANTS[mutant]
    found = given(altered(pmbus, (old, new), Transfers=Fed), 3)
    assert (found != linear11()).sum() >= wrong


BENCH = "bitfirst_sim.benches.bench_pmbus"
CLOCK_KHZ, BOARD_KHZ, CELLS = 2000, 25_000, 596  # cells of ECP5


def run(module: ModuleType, only: str | None = None) -> set[str]:
    """The bench, on a monitor with these transfers."""
    changed = altered(monitor, Sampler=altered(sampler, PmbusTransfers=module.PmbusTransfers).Sampler)
    return set(run_bench(OnBus(changed.PowerMonitor(CLOCK_KHZ, "pmbus"), 2), "power", BENCH, only=only).tests)


def test_monitor() -> None:
    assert len(run(pmbus)) == 3


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("old", "new"), [("linear, beat = self.read[0]", "linear, beat = 0"), ("word & heard", "word")]
)
def test_transfers_that_are_wrong_are_found(old: str, new: str) -> None:
    """Numbers that are not converted; numbers where nothing was read."""
    with pytest.raises(BenchError, match="cocotb tests failed: transfers"):
        run(altered(pmbus, (old, new)), "transfers")


def test_cells(tmp_path: Path) -> None:
    """No more than there are, which the goal is 600 for; and the Verilog is sound."""
    synthesise(monitor.PowerMonitor(BOARD_KHZ, "pmbus"), tmp_path, Chip("ecp5"))
    found = packed(tmp_path)
    assert found["TRELLIS_COMB"] <= CELLS, found
    build.lint(verilog.convert(monitor.PowerMonitor(BOARD_KHZ, "pmbus"), "monitor"))
