"""The power monitor's buses and sums, proved for any number of cycles, and mutants that the same properties catch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from bitfirst_sim.formal.measuring import (
    AsksOnce,
    LetsGo,
    Selects,
    Turns,
    i2c_seen_through,
    spi_seen_through,
    sums_seen_through,
    xadc_seen_through,
)
from bitfirst_sim.formal.prove import Property, prove, search

#: What is proved, by induction over how many cycles, and the cycles within which all its covers must be reached.
PROVED: dict[str, tuple[Callable[[], Property], int, int]] = {
    "I2C": (lambda: LetsGo(i2c_seen_through()), 2, 60),
    "SPI": (lambda: Selects(spi_seen_through()), 5, 120),
    "XADC": (lambda: AsksOnce(xadc_seen_through()), 2, 100),
    "sums": (lambda: Turns(sums_seen_through()), 2, 40),
}


def bus_mutant(old: str, new: str) -> Property:
    return LetsGo(i2c_seen_through((old, new)), inductive=False)


def spi_mutant(old: str, new: str) -> Property:
    return Selects(spi_seen_through((old, new)))


def xadc_mutant(old: str, new: str) -> Property:
    return AsksOnce(xadc_seen_through((old, new)))


def sums_mutant(old: str, new: str) -> Property:
    return Turns(sums_seen_through((old, new)))


#: Designs with one mistake each: property, text of the design, text in its place, cycles that show the mistake.
MUTANTS: dict[str, tuple[Callable[[str, str], Property], str, str, int]] = {
    "SDA changes with SCL": (bus_mutant, "self.busy & (quarter != 0)", "self.busy", 40),
    "a clock that is held for too long keeps SDA": (
        bus_mutant,
        ", self.sda_low.eq(0), self.scl_low",
        ", self.scl_low",
        40,
    ),
    "a clock that is held is waited for": (bus_mutant, "waits & self.tick &", "0 & self.tick &", 40),
    "SDA turns again behind a STOP": (bus_mutant, "turns.eq(0), ", "", 60),
    "MOSI changes behind the edge that takes it": (
        spi_mutant,
        "with m.If(high):\n",
        "with m.If(~high):\n",
        20,
    ),
    "a level of the clock is too short": (spi_mutant, "ends.eq(timer == half - 1)", "ends.eq(timer == half - 2)", 20),
    "a chip is let go while the clock is high": (
        spi_mutant,
        "m.d.sync += high.eq(0)",
        "pass",
        60,
    ),
    "the converter is asked twice": (xadc_mutant, 'm.next = "WAIT"', "pass", 50),
    "the converter is asked for its own end": (xadc_mutant, "drp_enable.eq(~number[7])", "drp_enable.eq(1)", 50),
    "a number alone writes": (xadc_mutant, "self.written != 1", "self.written != 0", 50),
    "ends of a sequence that are lost": (
        xadc_mutant,
        "flag = (ended >> place)[0] | self.sequence_ended",
        "flag = (ended >> place)[0]",
        50,
    ),
    "READs beside samples": (sums_mutant, "reads.eq(rests & ~self._waiting &", "reads.eq(rests &", 12),
    "copies in the midst of a round": (sums_mutant, "self.copy & self.between & kept", "self.copy & kept", 12),
    "copies without their time": (sums_mutant, "self.between & kept & ~self.close", "self.between", 12),
    "the first span alone": (sums_mutant, "(task[Task.ENERGY] & ~self.last)),", "Const(0)),", 20),
    "a sum left out": (sums_mutant, "then[Task.CHARGE].eq(task[Task.SAMPLES])", "then[Task.CHARGE].eq(0)", 20),
    "a sample makes room before it is written down": (
        sums_mutant,
        "task[Task.CODES] | (written & ~self.record)",
        "task[Task.CODES] | written",
        20,
    ),
}


@pytest.mark.parametrize("name", PROVED)
def test_proved(name: str, tmp_path: Path) -> None:
    make, induction, cover_steps = PROVED[name]
    prove(make(), tmp_path, induction, cover_steps)


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_mutants_are_caught(name: str, tmp_path: Path) -> None:
    make, old, new, steps = MUTANTS[name]
    assert not search(make(old, new), tmp_path, steps).holds
