"""After synthesis: netlists for nextpnr under the benches of the RTL."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from bitfirst_boards.catalogue import BOARDS
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import Element
from bitfirst_hdl.frames import FrameLink
from bitfirst_sim import netlist
from bitfirst_sim.bench import BenchError, BenchResult, run_bench

ULX3S = BOARDS["ulx3s-85f"]
SMALLEST = ["icebreaker", "tang-nano-9k"]  #: of iCE40 and Gowin
TINY = CONFIGS["tiny"]


def run(text: str, name: str, bench: str, config: ArrayConfig) -> BenchResult:
    return run_bench(text, name, f"bitfirst_sim.benches.bench_{bench}", parameters={"config": config.as_dict()})


@pytest.mark.parametrize("board", [ULX3S.name, *SMALLEST])
def test_element(board: str, tmp_path: Path) -> None:
    text = netlist.after_synthesis(Element(TINY), "element", BOARDS[board], tmp_path)
    assert set(run(text, "element", "element", TINY).tests) == {"every_cycle", "idle_cycles"}


def change(path: Path, kind: str, parameter: str, value: Callable[[str], str]) -> None:
    """Another value for a parameter of the first cell of a kind, in a netlist."""
    design = json.loads(path.read_text())
    cells = design["modules"]["top"]["cells"]
    label = next(label for label, cell in sorted(cells.items()) if cell["type"] == kind)
    cells[label]["parameters"][parameter] = value(cells[label]["parameters"][parameter])
    path.write_text(json.dumps(design))


def test_one_wrong_table_is_found(tmp_path: Path) -> None:
    path = netlist.synthesise(Element(TINY), ULX3S, tmp_path)
    change(path, "CCU2C", "INIT0", lambda table: "10"[int(table[0])] + table[1:])  # where all inputs are 1
    with pytest.raises(BenchError, match="shadow"):
        run(netlist.to_verilog(path, "element", ULX3S), "element", "element", TINY)


@pytest.fixture(scope="module")
def frame_link(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The netlist of a unit with block RAM."""
    return netlist.synthesise(FrameLink(TINY, sources=1), ULX3S, tmp_path_factory.mktemp("frame_link"))


def test_frame_link(frame_link: Path) -> None:
    assert "DP16KD" in {cell["type"] for cell in json.loads(frame_link.read_text())["modules"]["top"]["cells"].values()}
    text = netlist.to_verilog(frame_link, "frame_link", ULX3S)
    assert len(run(text, "frame_link", "frames", TINY).tests) == 7


@pytest.mark.soak
@pytest.mark.parametrize("board", SMALLEST)
def test_frame_link_of_other_chips(board: str, tmp_path: Path) -> None:
    text = netlist.after_synthesis(FrameLink(TINY, sources=1), "frame_link", BOARDS[board], tmp_path)
    assert len(run(text, "frame_link", "frames", TINY).tests) == 7


@pytest.mark.parametrize(
    ("kind", "parameter", "value", "message"),
    [
        ("DP16KD", "REGMODE_B", "OUTREG", "REGMODE_B = OUTREG is not in the model"),
        ("DP16KD", "INITVAL_3F", "1", "INITVAL_3F not zero is not in the model"),
    ],
)
def test_what_no_model_covers_is_refused(
    kind: str, parameter: str, value: str, message: str, frame_link: Path, tmp_path: Path
) -> None:
    path = tmp_path / "top.json"
    path.write_text(frame_link.read_text())
    change(path, kind, parameter, lambda before: value)
    with pytest.raises(netlist.NetlistError, match=message) as error:
        netlist.to_verilog(path, "frame_link", ULX3S)
    assert "\n" not in str(error.value)


def test_a_cell_without_a_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "top.json"
    cell = {"type": "USRMCLK", "parameters": {}, "connections": {}}
    path.write_text(json.dumps({"modules": {"top": {"ports": {}, "cells": {"flash": cell}, "netnames": {}}}}))
    with pytest.raises(netlist.NetlistError, match=r"USRMCLK.* is not part of the design"):
        netlist.to_verilog(path, "top", ULX3S)
