"""PLL settings keep to the data sheets' limits, make what they say, and nothing nearer can be had."""

import json
import re
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from amaranth.build import Platform
from amaranth.hdl import ClockDomain, Const, Elaboratable, Fragment, Instance, Module, Signal
from amaranth.lib import io
from amaranth.sim import Simulator
from amaranth_boards.arty_a7 import ArtyA7_35Platform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.kc705 import KC705Platform
from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from amaranth_boards.ulx3s import ULX3S_85F_Platform
from bitfirst_boards import clocking, flow, toolchains
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.clocking import PLLS, ClockedByPll, ClockError, Setting, choose, nearest, pll_of
from bitfirst_hdl import verilog
from hypothesis import example, given, settings
from hypothesis import strategies as st


@dataclass(frozen=True)
class Sheet:
    """What a data sheet says, in MHz: limits, and all dividers; `multipliers` are of the VCO, or of the output."""

    input: tuple[float, float]
    pfd: tuple[float, float]
    vco: tuple[float, float]
    output: tuple[float, float]
    input_dividers: np.ndarray
    multipliers: np.ndarray
    output_dividers: np.ndarray
    of_output: bool = False


TO_64, TO_128 = np.arange(1, 65), np.arange(1, 129)
GOWIN_OUTPUTS = np.array([2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128])
SHEETS = {
    "ecp5": Sheet((8, 400), (10, 400), (400, 800), (3.125, 400), TO_128, TO_128, TO_128),
    "ice40": Sheet((10, 133), (10, 133), (533, 1066), (16, 275), np.arange(1, 17), TO_128, 2 ** np.arange(1, 7)),
    "gw1n": Sheet((3, 400), (3, 400), (400, 1200), (3.125, 600), TO_64, TO_64, GOWIN_OUTPUTS, True),
    "gw2a": Sheet((3, 400), (3, 400), (500, 1000), (3.90625, 500), TO_64, TO_64, GOWIN_OUTPUTS, True),
    "plle2": Sheet((19, 800), (19, 450), (800, 1600), (6.25, 800), np.arange(1, 57), np.arange(2, 65), TO_128),
    "mmcme2": Sheet(
        (10, 800),
        (10, 450),
        (600, 1200),
        (4.69, 800),
        np.arange(1, 107),
        np.arange(2, 64.0625, 0.125),
        TO_128,
    ),
}
EXAMPLES = 25


def outputs(sheet: Sheet, input_mhz: float) -> np.ndarray:
    """All frequencies that can be had, by trying each setting; MHz."""
    pfd = input_mhz / sheet.input_dividers
    pfd = pfd[_inside(pfd, sheet.pfd)]
    product = pfd[:, None, None] * sheet.multipliers[None, :, None]
    dividers = sheet.output_dividers[None, None, :]
    vco, output = (product * dividers, product + 0 * dividers) if sheet.of_output else (product, product / dividers)
    vco = vco + 0 * output
    return output[_inside(vco, sheet.vco) & _inside(output, sheet.output)]


def _inside(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    rounding = 1e-12
    return (values >= limits[0] * (1 - rounding)) & (values <= limits[1] * (1 + rounding))


def parameters(setting: Setting) -> dict[str, int | float | str]:
    """Of the primitive that a setting becomes."""
    platform = SimpleNamespace(family="GW1NR-9C")
    instance = clocking._INSTANCES[setting.pll.name](setting, Signal(), Signal(), Signal(), platform)
    assert isinstance(instance, Instance)
    return {name: value.value if isinstance(value, Const) else value for name, value in instance.parameters.items()}


def vco_and_output(kind: str, input_mhz: Fraction, given: dict) -> tuple[Fraction, Fraction, Fraction]:
    """PFD, VCO and output in MHz by the vendors' formulas, from the primitive's parameters."""
    if kind == "ecp5":
        assert given["FEEDBK_PATH"] == "INT_OP"
        pfd = input_mhz / given["CLKI_DIV"]
        clkop = pfd * given["CLKFB_DIV"]  # the feedback brings it there
        assert 3.125 <= clkop <= 400 and given["CLKFB_DIV"] <= 128
        return pfd, clkop * given["CLKOP_DIV"], clkop * given["CLKOP_DIV"] / given["CLKOS_DIV"]
    if kind == "ice40":
        assert given["FEEDBACK_PATH"] == "SIMPLE" and 0 <= given["DIVR"] < 16 and 0 <= given["DIVF"] < 128
        vco = input_mhz * (given["DIVF"] + 1) / (given["DIVR"] + 1)
        return input_mhz / (given["DIVR"] + 1), vco, vco / 2 ** given["DIVQ"]
    if kind in ("gw1n", "gw2a"):
        pfd = input_mhz / (given["IDIV_SEL"] + 1)
        output = pfd * (given["FBDIV_SEL"] + 1)
        return pfd, output * given["ODIV_SEL"], output
    suffix = "_F" if kind == "mmcme2" else ""
    assert given["CLKIN1_PERIOD"] == pytest.approx(1000 / float(input_mhz))
    pfd = input_mhz / given["DIVCLK_DIVIDE"]
    vco = pfd * Fraction(given[f"CLKFBOUT_MULT{suffix}"])
    return pfd, vco, vco / Fraction(given[f"CLKOUT0_DIVIDE{suffix}"])


def check(setting: Setting) -> None:
    kind, sheet = setting.pll.name, SHEETS[setting.pll.name]
    given = parameters(setting)
    pfd, vco, output = vco_and_output(kind, Fraction(setting.input_hz, 10**6), given)
    assert output * 10**6 == setting.output_hz
    for value, limits in (pfd, sheet.pfd), (vco, sheet.vco), (output, sheet.output):
        assert Fraction(limits[0]) <= value <= Fraction(limits[1])
    if kind == "ice40":  # FPGA-TN-02052, as `icepll` has it
        assert given["FILTER_RANGE"] == 1 + int(np.searchsorted([17, 26, 44, 66, 101], float(pfd), side="right"))


@pytest.mark.parametrize("kind", PLLS)
def test_limits_and_nearest(kind: str) -> None:
    """Whatever is asked for: settings within the limits, exact, and the nearest on either side."""
    sheet, pll = SHEETS[kind], PLLS[kind]
    low, high = max(sheet.input[0], sheet.pfd[0]), sheet.input[1]
    wanted_khz = st.integers(1_000, int(sheet.output[1] * 1200))
    common_khz = st.sampled_from([12_000, 25_000, 27_000, 48_000, 100_000, 125_000])
    inputs = st.one_of(st.integers(int(low * 1000), int(high * 1000)), common_khz.filter(lambda khz: khz >= low * 1000))
    seen = set()

    @settings(max_examples=EXAMPLES, deadline=None)
    @given(inputs, wanted_khz)
    @example(100_000, 1_000)
    @example(100_000, int(sheet.output[1] * 1200))
    def holds(input_khz: int, output_khz: int) -> None:
        below, above = nearest(pll, input_khz * 1000, output_khz * 1000)
        possible = outputs(sheet, input_khz / 1000) * 1000
        for setting, side, best in (
            (below, possible <= output_khz + 1e-6, max),
            (above, possible >= output_khz - 1e-6, min),
        ):
            seen.add(setting is None)
            if setting is None:
                assert not side.any()
            else:
                check(setting)
                assert float(setting.output_hz) / 1000 == pytest.approx(best(possible[side]), rel=1e-9)

    holds()
    assert seen == {False, True}


@pytest.mark.parametrize(
    ("kind", "input_mhz", "output_mhz"),
    [
        ("ecp5", 25, 120),
        ("ecp5", 100, 150),
        ("ice40", 12, 48),
        ("gw1n", 27, 54),
        ("gw2a", 27, 150),
        ("plle2", 100, 150),
        ("mmcme2", 156.25, 150),
        ("mmcme2", 200, 131.25),
    ],
)
def test_exact(kind: str, input_mhz: float, output_mhz: float) -> None:
    setting = choose(PLLS[kind], int(input_mhz * 10**6), int(output_mhz * 10**6))
    assert setting.output_hz == int(output_mhz * 10**6)
    check(setting)


@pytest.mark.parametrize(
    ("kind", "input_mhz", "output_mhz", "message"),
    [
        ("ecp5", 25, 117, "makes no 117 MHz of 25 MHz; nearest: 116.666667 MHz and 117.5 MHz"),
        ("ecp5", 25, 500, "makes no 500 MHz of 25 MHz; nearest: 400 MHz"),
        ("ice40", 12, 10, "makes no 10 MHz of 12 MHz; nearest: 16.125 MHz"),
        ("gw1n", 2, 10, "takes 3 to 400 MHz, not 2 MHz"),
        ("ecp5", 9, 100, "takes 10 to 400 MHz, not 9 MHz"),
    ],
)
def test_refused(kind: str, input_mhz: int, output_mhz: int, message: str) -> None:
    with pytest.raises(ClockError) as error:
        choose(PLLS[kind], input_mhz * 10**6, output_mhz * 10**6)
    assert str(error.value) == f"the {kind} PLL {message}"


def test_tolerance() -> None:
    setting = choose(PLLS["ecp5"], 25_000_000, 117_000_000, tolerance_ppm=3000)
    assert setting.output_hz == Fraction(350_000_000, 3)
    with pytest.raises(ClockError):
        choose(PLLS["ecp5"], 25_000_000, 117_000_000, tolerance_ppm=2000)


class Counters(Elaboratable):
    """A PLL for each domain, with a counter of 24 bits in it; `tx_pin` joins the counters' top bits.

    mhz  domain -> frequency
    """

    def __init__(self, mhz: dict[str, int]) -> None:
        self.mhz = mhz
        self.rx_pin, self.tx_pin = Signal(), Signal()

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        pin = platform.request(platform.default_clk, dir="-")
        if len(self.mhz) > 1:
            m.submodules.pin = buffer = io.Buffer("i", pin)
            pin = buffer.i
        tops = Signal(len(self.mhz))
        for top, (domain, mhz) in zip(tops, self.mhz.items(), strict=True):
            setting = choose(pll_of(platform), int(platform.default_clk_frequency), mhz * 10**6)
            m.domains += ClockDomain(domain)
            m.submodules[f"{domain}_pll"] = ClockedByPll(setting, pin, domain)
            count = Signal(24, name=f"{domain}_count")
            m.d[domain] += count.eq(count + 1)
            m.d.comb += top.eq(count[-1])
        m.d.comb += self.tx_pin.eq(tops.xor())
        return m


@pytest.mark.parametrize(
    ("platform", "mhz", "cell", "constraint"),
    [
        (ULX3S_85F_Platform, 120, "EHXPLLL", "FREQUENCY NET .* 120000000.0 HZ"),
        (ICEBreakerPlatform, 48, "SB_PLL40_PAD", "set_frequency .* 48.0"),
        (TangNano9kPlatform, 54, "rPLL", None),  # Amaranth hands none to nextpnr
        (ArtyA7_35Platform, 150, "MMCME2_BASE", "create_clock .* -period 10.0"),  # of the input; Vivado derives ours
        (KC705Platform, 150, "MMCME2_BASE", "create_clock .* -period 6.41"),
    ],
)
def test_primitive_of_platform(platform: type[Platform], mhz: int, cell: str, constraint: str | None) -> None:
    with verilog.use_yosys():
        files = platform().prepare(Counters({"sync": mhz}), "top", emit_src=False).files
    text = {name: content if isinstance(content, str) else content.decode() for name, content in files.items()}
    assert re.search(rf"cell \\?{cell} |{cell} #\(", text.get("top.il", "") + text.get("top.v", ""))
    assert constraint is None or re.search(constraint, "".join(text.values()))


class Locking(Elaboratable):
    """Stands for a PLL, whose clock and lock the test drives."""

    def __init__(self, made: Signal, locked: Signal) -> None:
        self.made, self.locked = made, locked

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.made.eq(CLOCK), self.locked.eq(LOCK)]
        return m


CLOCK, LOCK = Signal(), Signal()


@pytest.mark.parametrize(("kind", "least_us"), [("ecp5", 0), ("ice40", 15)])
def test_reset_until_lock(kind: str, least_us: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset from the start to `RESET_STAGES` edges after the lock (iCE40: 15 us), and from the loss of the lock on."""
    monkeypatch.setitem(clocking._INSTANCES, kind, lambda _, clock, made, locked, platform: Locking(made, locked))
    m = Module()
    count = Signal(32)
    m.domains.sync = ClockDomain()
    m.submodules.clocking = ClockedByPll(choose(PLLS[kind], 12_000_000, 48_000_000), Signal())
    m.d.sync += count.eq(count + 1)
    board = SimpleNamespace(add_clock_constraint=lambda clock, frequency: None)
    period_us, counted = 1 / 48, []

    async def bench(ctx) -> None:
        async def cycles(number: int) -> int:
            for _ in range(number):
                for level in 1, 0:
                    ctx.set(CLOCK, level)
                    await ctx.delay(1e-6 * period_us / 2)
            return ctx.get(count)

        counted.append(await cycles(2000))
        ctx.set(LOCK, 1)
        counted.append(await cycles(int(least_us / period_us)))
        counted.append(await cycles(8 + clocking.RESET_STAGES))
        ctx.set(LOCK, 0)
        counted.append(await cycles(3))
        ctx.set(LOCK, 1)
        counted.append(await cycles(int(least_us / period_us) + 8 + clocking.RESET_STAGES))

    simulator = Simulator(Fragment.get(m, board))
    simulator.add_testbench(bench)
    simulator.run()
    assert counted[0] == counted[1] == counted[3] == 0
    assert 5 <= counted[2] <= 8 and 5 <= counted[4] <= 8


def test_routed_on_ecp5(tmp_path: Path) -> None:
    """nextpnr holds each domain to its frequency, which is what it works out itself from the PLL's parameters.

    The constraint of `wrong` is falsified on its way: nextpnr has to notice that alone.
    """

    class Falsified(ULX3S_85F_Platform):
        def add_clock_constraint(self, clock: Signal, frequency: float) -> None:
            super().add_clock_constraint(clock, 70e6 if clock.name == "wrong_clock" else frequency)

    board = replace(BOARDS["ulx3s-85f"], platform=Falsified, clock_khz=25_000)  # no PLL before those of the test
    flow.run_tools(board, Counters({"sync": 120, "wrong": 80}), tmp_path)
    report = json.loads((tmp_path / toolchains.REPORT).read_text())
    held = {name.removeprefix("$glbnet$device."): clock["constraint"] for name, clock in report["fmax"].items()}
    assert held == {"clk": pytest.approx(120, rel=1e-4), "wrong_clk": pytest.approx(70, rel=1e-4)}
    log = (tmp_path / "top.tim").read_text()
    overridden = [line for line in log.splitlines() if "Overriding derived constraint" in line]
    assert len(overridden) == 1 and "device.wrong_clk" in overridden[0] and "80.0 MHz" in overridden[0]
