"""After synthesis: netlists for nextpnr under the benches of the RTL."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import bitfirst
import pytest
from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out
from bitfirst.benches import cycles
from bitfirst.command import Command
from bitfirst_boards import flow
from bitfirst_boards.catalogue import BOARDS, Board
from bitfirst_boards.tops import divisor, make_device
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract.packets import Opcode
from bitfirst_hdl.element import Element
from bitfirst_hdl.engine import MatmulEngine
from bitfirst_hdl.frames import FrameLink
from bitfirst_hdl.top import Core
from bitfirst_sim import build, netlist
from bitfirst_sim.bench import BenchError, BenchResult, run_bench
from test_default_rtl import steps

ULX3S = BOARDS["ulx3s-12f"]
OTHERS = ["icebreaker", "tang-nano-9k"]
SMALLEST = [ULX3S.name, *OTHERS]  #: of ECP5, iCE40 and Gowin
TINY = CONFIGS["tiny"]
ONE_ELEMENT = ArrayConfig(
    slice_bits=1, lanes=64, rows=1, columns=1, sum_tiles=512, features=("gather", "requantise", "packed")
)
FINGERPRINT = 0x0123_4567_89AB_CDEF
Url = Callable[[str, ArrayConfig], str]


def run(text: str, name: str, bench: str, config: ArrayConfig) -> BenchResult:
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    return run_bench(text, name, f"bitfirst_sim.benches.bench_{bench}", parameters=parameters)


@pytest.mark.parametrize("board", SMALLEST)
def test_element(board: str, tmp_path: Path) -> None:
    text = netlist.after_synthesis(Element(TINY), "element", BOARDS[board], tmp_path)
    assert set(run(text, "element", "element", TINY).tests) == {"every_cycle", "idle_cycles"}


def change(path: Path, kind: str, parameter: str, value: Callable[[str], str], part: str = "") -> None:
    """Another value for a parameter of the first cell of a kind (of one part of the device), in a netlist."""
    design = json.loads(path.read_text())
    cells = design["modules"]["top"]["cells"]
    label = next(label for label, cell in sorted(cells.items()) if cell["type"] == kind and label.startswith(part))
    cells[label]["parameters"][parameter] = value(cells[label]["parameters"][parameter])
    path.write_text(json.dumps(design))


def test_one_wrong_table_is_found(tmp_path: Path) -> None:
    path = netlist.synthesise(Element(TINY), ULX3S, tmp_path)
    change(path, "CCU2C", "INIT0", lambda table: "10"[int(table[0])] + table[1:])  # where all inputs are 1
    with pytest.raises(BenchError, match="shadow"):
        run(netlist.to_verilog(path, "element", ULX3S), "element", "element", TINY)


def types(path: Path) -> set[str]:
    """Of a netlist's cells."""
    return {cell["type"] for cell in json.loads(path.read_text())["modules"]["top"]["cells"].values()}


def test_frame_link(tmp_path: Path) -> None:
    """A unit with block RAM."""
    path = netlist.synthesise(FrameLink(TINY, sources=1), ULX3S, tmp_path)
    assert "DP16KD" in types(path)
    text = netlist.to_verilog(path, "frame_link", ULX3S)
    assert len(run(text, "frame_link", "frames", TINY).tests) == 7


@pytest.mark.soak
@pytest.mark.parametrize("board", OTHERS)
def test_frame_link_of_other_chips(board: str, tmp_path: Path) -> None:
    text = netlist.after_synthesis(FrameLink(TINY, sources=1), "frame_link", BOARDS[board], tmp_path)
    assert len(run(text, "frame_link", "frames", TINY).tests) == 7


class Words(wiring.Component):
    """A block RAM and little else."""

    row: In(9)
    word: In(16)
    write: In(1)
    read: Out(16)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.memory = memory = Memory(shape=16, depth=512, init=[])
        into, out = memory.write_port(), memory.read_port()
        m.d.comb += [into.addr.eq(self.row), into.data.eq(self.word), into.en.eq(self.write)]
        m.d.comb += [out.addr.eq(self.row), self.read.eq(out.data)]
        return m


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return netlist.synthesise(Words(), ULX3S, tmp_path_factory.mktemp("words"))


def test_what_the_models_cover_is_taken(words: Path) -> None:
    assert "DP16KD" in types(words)
    assert "module words" in netlist.to_verilog(words, "words", ULX3S)


@pytest.mark.parametrize(
    ("kind", "parameter", "value", "message"),
    [
        ("DP16KD", "REGMODE_B", "OUTREG", "REGMODE_B = OUTREG is not in the model"),
        ("DP16KD", "INITVAL_3F", "1", "INITVAL_3F not zero is not in the model"),
    ],
)
def test_what_no_model_covers_is_refused(
    kind: str, parameter: str, value: str, message: str, words: Path, tmp_path: Path
) -> None:
    path = tmp_path / "top.json"
    path.write_text(words.read_text())
    change(path, kind, parameter, lambda before: value)
    with pytest.raises(netlist.NetlistError, match=message) as error:
        netlist.to_verilog(path, "words", ULX3S)
    assert "\n" not in str(error.value)


def test_a_cell_without_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "top.json"
    cell = {"type": "USRMCLK", "parameters": {}, "connections": {}}
    path.write_text(json.dumps({"modules": {"top": {"ports": {}, "cells": {"flash": cell}, "netnames": {}}}}))
    with pytest.raises(netlist.NetlistError, match=r"USRMCLK.* is not part of the design"):
        netlist.to_verilog(path, "top", ULX3S)


@pytest.mark.soak
def test_engine(tmp_path: Path) -> None:
    text = netlist.after_synthesis(MatmulEngine(ONE_ELEMENT), "engine", ULX3S, tmp_path)
    assert len(run(text, "engine", "engine", ONE_ELEMENT).tests) == 11


@pytest.mark.soak
def test_device(tmp_path: Path) -> None:
    """With all features."""
    text = netlist.after_synthesis(Core(TINY, FINGERPRINT), "core", ULX3S, tmp_path)
    assert len(run(text, "core", "device", TINY).tests) == 9


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Url:
    """The address of a simulated board made of other Verilog."""

    def simulated(text: str, config: ArrayConfig) -> str:
        monkeypatch.setattr(build, "core_verilog", lambda config: text)
        path = tmp_path / "board.toml"
        path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in config.as_dict().items()))
        return f"rtl:{path}"

    return simulated


def own_device(board: Board, folder: Path) -> tuple[Path, ArrayConfig]:
    """The netlist of a board's own device, between its link's bytes, and what it is made of."""
    config = flow.fitted(board)
    return netlist.synthesise(verilog.make(config, "core", verilog.fingerprint(config)), board, folder), config


def random_commands(address: str, commands: int) -> cycles.Findings:
    """Without layers, which take most of the cycles."""
    found, rng = cycles.Findings(), random.Random(1)
    with bitfirst.open(address) as device:
        wire = cycles.Wire(device.transport, device.config.rx_words)
        comparison = cycles.Comparison(wire, device.config, device.fingerprint, found)
        comparison.run([Command(Opcode.RESET).payload(), *cycles.fill(device.config, rng)])
        for payload in cycles.Program(device.config, rng).payloads(commands):
            comparison.run([payload])
    return found


def test_smallest_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: Url) -> None:
    """iCEBreaker's own device, under the driver."""
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))  # compiles faster than it would run
    board = BOARDS["icebreaker"]
    path, config = own_device(board, tmp_path)
    found = random_commands(url(netlist.to_verilog(path, verilog.module_name("core"), board), config), 60)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.opcodes >= {"WRITE", "MATMUL", "READ"}
    assert found.counter_comparisons > 60


@pytest.mark.soak
def test_one_wrong_table_of_a_device_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: Url) -> None:
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    board = BOARDS["icebreaker"]
    path, config = own_device(board, tmp_path)
    change(
        path, "SB_LUT4", "LUT_INIT", lambda table: "".join("10"[int(bit)] for bit in table), part="engine.array.element"
    )
    found = random_commands(url(netlist.to_verilog(path, verilog.module_name("core"), board), config), 60)
    assert found.result_mismatches > 0


@pytest.mark.soak
@pytest.mark.parametrize("board", SMALLEST)
def test_own_device(board: str, tmp_path: Path, url: Url) -> None:
    """The smallest boards' own devices, under the driver: random commands, and two small steps of a training."""
    path, config = own_device(BOARDS[board], tmp_path)
    address = url(netlist.to_verilog(path, verilog.module_name("core"), BOARDS[board]), config)
    found = cycles.bench_cycles(address, commands=200, seed=1)
    assert (found["result_mismatches"], found["counter_mismatches"]) == (0, 0), found["first_mismatch"]
    assert found["commands"] > 600
    assert steps(address, batch=2)[0] == steps("model", batch=2)[0]


@pytest.mark.soak
@pytest.mark.parametrize("board", SMALLEST)
def test_whole_board(board: str, tmp_path: Path, url: Url) -> None:
    """All that a bitstream is made of, from the pins on, at the board's baud rate: random commands."""
    oscillator_khz = int(BOARDS[board].platform().default_clk_frequency) // 1000  # PLLs have no model
    chosen, top = replace(BOARDS[board], clock_khz=oscillator_khz), verilog.module_name("core")
    config = flow.fitted(chosen)
    device = make_device(chosen, config, verilog.fingerprint(config))
    path = netlist.synthesise_whole(device, chosen, tmp_path / "build")
    whole = netlist.to_verilog(path, f"{top}.board", chosen, netlist.pins(chosen))
    text = verilog.convert(netlist.SerialBoard(f"{top}.board", divisor(chosen)), top) + whole
    found = random_commands(url(text, config), 100)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.commands > 100
