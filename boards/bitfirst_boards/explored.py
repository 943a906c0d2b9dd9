"""Writes the document of what `bitfirst explore` found.

    bitfirst explore BOARD --json > RESULT
    python -m bitfirst_boards.explored [--found RESULT]... [DIRECTORY]

DIRECTORY (default: docs) gets `explored.md`, and `measured/explored.json`, the results that it shows; a RESULT takes
the place of an older one of the same board, the others stay as they are. The arrays that were chosen become those of
the catalogue (`arrays.json`).
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .catalogue import ARRAYS, BOARDS
from .document import reached
from .explore import MEETS, TOO_LARGE

FOUND, DOCUMENT = "measured/explored.json", "explored.md"
COLUMNS = "R x C", "L", "S", "bit-MACs a cycle", "LUT", "block RAM", "DSP", "MHz", "reached", "peak", "sustained", ""
HEAD = """# Arrays for boards

Rendered by `python -m bitfirst_boards.explored` from [{found}]({found}), what `bitfirst explore BOARD --json` found; do
not edit.

    bitfirst explore ulx3s-25f --rows 2 --columns 4 --lanes 32 --clock-khz 50000,60000
    bitfirst build ulx3s-25f --config build/explore/ulx3s-25f/best.toml --clock-khz 60000
    python -m bitfirst_boards.explored --found RESULT    # of --json: here, and in the catalogue

It looks for the array that fits a board, meets its clock, and sustains the most bit-MACs a second (array x clock x the
share that a training step uses). Every array has the features and the depths of memories of one configuration, the
board's own or `--config`; rows, columns, lanes and slice width change how wide they are.

1. **Estimate**: the elements (one of them is synthesised) and the bits of the memories are a bound from below. Arrays
   beyond the chip by that alone are left out; no array that fits is.
2. **Packing**, of arrays near the chip's size first. One that does not fit rules out all larger ones of its lanes and
   slice width, one that fits needs no packing of smaller ones: until the `--most` largest that fit are known.
3. **Placing and routing**, from the most sustained down, until one meets its clock; then that array at higher clocks,
   as long as it reaches more than it was asked for; three times `--most` times at most. A clock that is above what an
   array has reached is not tried with it.

Each table is of the arrays and the clocks that its search was given: mostly the largest that had a chance, and half of
it. What still larger ones came to on an 85F stands in [0011](decisions/0011-array-for-ulx3s-85f.md). Features are those
of the base: boards of the smaller chips are without the gather unit, whose room elements take, so that a smaller chip
may show the higher peak. A placement of another seed or clock may reach a quarter more or less.

All that was found stays in the folders of the builds: the same command again goes on after an interruption, and `build`
places nothing that is placed there. *LUT* after packing, as in [boards](boards.md); *peak* in 10^9 bit-MACs a second;
*sustained*: the share of it that a training step of ResNet-20 uses (forward, dX and dW at 8x8 and 8x16 bits, operands
in the store), by the planner's account of cycles. An array without the gather unit has no store: its host sends every
operand, and the link decides.
"""


def _line(array: Mapping[str, Any]) -> str:
    """One row of a table."""

    def of(kind: str) -> str:
        used, has = array[kind], array[f"{kind}_total"]
        return "" if used is None else f"{used:,} ({100 * used / has:.0f} %)"

    words = [f"{array['rows']} x {array['columns']}", array["lanes"], array["slice_bits"]]
    words += [f"{array['bit_macs_per_cycle']:,}", *map(of, ("lut", "bram", "dsp"))]
    if array["clock_mhz"] is None:
        words += [""] * 4
    else:
        words += [f"{array['clock_mhz']:g}", reached(array)]
        words += [f"{array['peak_bit_macs_per_s'] / 1e9:,.1f}", f"{100 * array['sustained']:.0f} %"]
    verdict = f"**{MEETS}**" if array["verdict"] == MEETS else array["verdict"]
    return f"| {' | '.join(map(str, [*words, verdict]))} |"


def _space(arrays: Sequence[Mapping[str, Any]]) -> str:
    """What a search was given."""
    keys = {"rows": "R", "columns": "C", "lanes": "L", "slice_bits": "S"}
    given = ({array[key] for array in arrays} for key in keys)
    words = (f"{name} {' or '.join(map(str, sorted(own)))}" for name, own in zip(keys.values(), given, strict=True))
    return f" ({', '.join(words)})"


def _board(found: Mapping[str, Any]) -> str:
    """A table of the arrays that were packed or placed, and what is to be said of the rest."""
    arrays = found["arrays"]
    shown = [array for array in arrays if array["lut"] is not None]
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{' --- |' * len(COLUMNS)}", *map(_line, shown)]
    rest = [array["verdict"] for array in arrays if array["lut"] is None]
    large, small = rest.count(TOO_LARGE), len(rest) - rest.count(TOO_LARGE)
    text = f"\n## {found['board']}\n\n" + "\n".join(lines) + "\n"
    if len(arrays) > 1:
        left_out = f"{large} more are too large, {small} smaller ones were not needed"
        text += f"\nOf {len(arrays)} arrays{_space(arrays)} {left_out}.\n"
    else:
        text += "\nOf this array alone the clock was looked for.\n"
    text += f"\nClocks to choose from: {_mhz(found['clocks_khz'])} MHz.\n"
    worst = [array for array in shown if array["path_from"] is not None]
    paths = [
        f"- {array['rows']} x {array['columns']} at {array['clock_mhz']:g} MHz: {array['path_ns']:.1f} ns from "
        f"`{array['path_from']}` to `{array['path_to']}`\n"
        for array in worst
    ]
    asked = [_asked(array) for array in arrays if array["tried_khz"]]
    text += f"\nClocks asked for, of each array in turn: {'; '.join(asked)}.\n" if asked else ""
    return text + ("\nSlowest paths:\n\n" + "".join(paths) if paths else "")


def _asked(array: Mapping[str, Any]) -> str:
    size = f"{array['rows']} x {array['columns']} of ({array['slice_bits']}, {array['lanes']})"
    return f"{size} {_mhz(array['tried_khz'])} MHz"


def _mhz(clocks_khz: Sequence[int]) -> str:
    return ", ".join(f"{khz / 1000:g}" for khz in clocks_khz)


def rendered(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The document; `found`: board -> what was found."""
    parts = [_board(found[name]) for name in BOARDS if name in found]
    missing = [f"`{name}`" for name in json.loads(ARRAYS.read_text()) if name not in found]
    if missing:
        parts.append(f"\nNot explored, with arrays that meet their clocks but were guessed: {', '.join(missing)}.\n")
    return HEAD.format(found=FOUND) + "".join(parts)


def arrays(found: Mapping[str, Mapping[str, Any]], before: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the catalogue: what was chosen, and `before` where nothing was."""
    return before | {name: result["chosen"] for name, result in found.items() if result["chosen"]}


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the document of explored arrays.")
    parser.add_argument(
        "--found", type=Path, action="append", default=[], help="what `bitfirst explore --json` printed"
    )
    parser.add_argument("--arrays", type=Path, default=ARRAYS, help="the catalogue's, which are written with --found")
    parser.add_argument("directory", type=Path, nargs="?", default=Path("docs"))
    given = parser.parse_args()
    kept = given.directory / FOUND
    found = json.loads(kept.read_text()) if kept.exists() else {}
    for path in given.found:
        result = json.loads(path.read_text())
        if result.get("no_dsp"):
            parser.error(f"{path} is of --no-dsp; boards of the catalogue are built with multipliers")
        found[result["board"]] = {key: result[key] for key in ("board", "base", "chosen", "clocks_khz", "arrays")}
    text = rendered(found)  # before anything is written
    if given.found:
        kept.write_text(json.dumps(found, indent=1) + "\n")
        given.arrays.write_text(json.dumps(arrays(found, json.loads(given.arrays.read_text())), indent=1) + "\n")
    (given.directory / DOCUMENT).write_text(text)


if __name__ == "__main__":
    main()
