"""Bench of `bitfirst_hdl.requantise.Requantiser` against `contract.numeric`."""

import random

import cocotb
from bitfirst_hdl.contract import numeric
from bitfirst_hdl.contract.packets import Rounding
from bitfirst_hdl.requantise import RESULT_BITS, Element, Requantiser, Result, Settings

from . import common

LOW, HIGH = -(2 ** (numeric.SUM_BITS - 1)), 2 ** (numeric.SUM_BITS - 1) - 1
WIDTHS = range(2, RESULT_BITS + 1)


def model(settings: dict[str, int], element: dict[str, int]) -> dict[str, int]:
    """One element's result, with `Result`'s fields."""
    number, clipped = numeric.requantise(
        element["total"],
        settings["multiplier"],
        settings["shift"],
        Rounding(settings["rounding"]),
        settings["bits"],
        bool(settings["signed"]),
        numeric.random_bits(settings["key"], element["index"]),
    )
    return {"value": number & (2**RESULT_BITS - 1), "clipped": int(clipped), "last": element["last"]}


def random_settings(rng: random.Random, **fixed: int) -> dict[str, int]:
    """Settings of any kind; half of them with shifts that keep sums of any size interesting."""
    drawn = {
        "multiplier": rng.choice([0, 1, 2, 2**15, 2**16 - 1, rng.randrange(2**16)]),
        "shift": rng.randrange(64),
        "rounding": rng.randrange(2),
        "bits": rng.choice(WIDTHS),
        "signed": rng.randrange(2),
        "key": rng.randrange(2**32),
    }
    return drawn | fixed


def random_total(rng: random.Random, settings: dict[str, int]) -> int:
    """A sum: an extreme, any, a small one, near a tie, or near where `settings` saturates."""
    multiplier, shift = max(1, settings["multiplier"]), settings["shift"]
    bits = min(settings["bits"], 32)
    edge = ((rng.choice([-1, 1]) << (bits - rng.randrange(2))) << shift) // multiplier
    tie = ((2 * rng.randrange(-(2**7), 2**7) + 1) << max(0, shift - 1)) // multiplier
    near = rng.randrange(-2, 3)
    magnitude = rng.randrange(-(2 ** rng.randrange(1, 48)), 2 ** rng.randrange(1, 48))
    total = rng.choice([LOW, LOW + 1, HIGH, HIGH - 1, 0, 1, -1, magnitude, magnitude, edge + near, tie + near, tie])
    return min(max(total, LOW), HIGH)


async def run(dut, rng: random.Random, settings: dict[str, int], totals: list[int], idle: float, stall: float) -> None:
    """Send `totals` through; compare every result."""
    fields = {name: value for name, value in settings.items() if name != "bits"}
    limit = numeric.limits(settings["bits"], bool(settings["signed"]))[1]
    dut.settings.value = common.pack(Settings, **fields, limit=limit)
    checker = common.Checker("results", lambda element: [model(settings, element)])
    driver = common.StreamDriver(dut, "elements", rng, idle)
    monitor = common.StreamMonitor(dut, "results", rng, stall, checker, lambda word: common.unpack(Result, word))
    first = rng.randrange(2**32)
    for place, total in enumerate(totals):
        element = {"total": total, "index": (first + 7 * place) % 2**32, "last": int(place == len(totals) - 1)}
        checker.sent(element)
        driver.send(common.pack(Element, **element))
    limit = 100 + int(len(totals) * 3 / (1 - idle) / (1 - stall))
    await common.until(dut, lambda: checker.count == len(totals), limit)
    await common.cycles(dut, Requantiser.latency + 2)
    checker.finish()
    assert driver.done
    if idle == 0 and stall == 0:
        latencies = [out - taken for taken, (out, _) in zip(driver.accepted, monitor.taken, strict=True)]
        assert set(latencies) == {Requantiser.latency}, f"latencies {sorted(set(latencies))}"
        assert driver.accepted[-1] - driver.accepted[0] == len(totals) - 1, "not one element a cycle"
    driver.stop()
    monitor.stop()


@cocotb.test()
async def every_width(dut) -> None:
    """All widths, signs and roundings, at full rate: values and latency."""
    rng = await common.start(dut)
    for bits in WIDTHS:
        for signed in 0, 1:
            for rounding in Rounding:
                settings = random_settings(rng, bits=bits, signed=signed, rounding=int(rounding))
                await run(dut, rng, settings, [random_total(rng, settings) for _ in range(24)], 0, 0)


@cocotb.test()
async def every_shift(dut) -> None:
    """All shifts, with ties of both parities and the extremes of 48 bits."""
    rng = await common.start(dut)
    for shift in range(64):
        for rounding in Rounding:
            settings = random_settings(
                rng, shift=shift, rounding=int(rounding), multiplier=rng.choice([1, 2**15, 65535])
            )
            ties = [(n << shift) + (1 << shift >> 1) for n in range(-4, 4)]
            totals = [LOW, HIGH, 0, *(tie for tie in ties if LOW <= tie <= HIGH)]
            totals += [random_total(rng, settings) for _ in range(8)]
            await run(dut, rng, settings, totals, 0, 0)


@cocotb.test()
async def back_pressure(dut) -> None:
    """Random settings with idle cycles in and stalls out."""
    rng = await common.start(dut)
    for _ in range(60):
        settings = random_settings(rng)
        totals = [random_total(rng, settings) for _ in range(rng.randrange(1, 40))]
        await run(dut, rng, settings, totals, rng.choice([0, 0.3, 0.8]), rng.choice([0.1, 0.5, 0.9]))
