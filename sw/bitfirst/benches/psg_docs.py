"""Writes what `bitfirst bench psg --json` found into the documents.

    bitfirst bench psg --images FOLDER --json > RESULT
    python -m bitfirst.benches.psg_docs RESULT [DIRECTORY]

DIRECTORY (default: docs) gets `measured/psg.json`, the result without the rows of single layers, and
`psg-predictors.md`, rendered from that file alone.
"""

import json
import sys
from pathlib import Path
from typing import Any

from .psg import means, table

MEASURED, DOCUMENT = "measured/psg.json", "psg-predictors.md"
HEAD = """# PSG's predictors on real gradients

Rendered by `python -m bitfirst.benches.psg_docs` from [{measured}]({measured}), a result of

    bitfirst bench psg --images FOLDER --steps {steps} --device {device} --json

ResNet-20, CIFAR-10 (JPEG copy, 20,000 images), fp32 training of {steps} steps; operands of all convolutions at 5, 50
and 95 % of the run, batch {batch}, sums over all of the batch's pixels. Means over layers and captures. Work: bit
products that have to be done, over those of whole products: of dW (8 x 16), and of a step with forward (8 x 8) and dX
(16 x 8) beside it. It is no time. What training makes of it: [psg.md](psg.md).
"""
BOARD = """## On the board

Whole layers, one of each stage, at half of the run, on `{device}` against the golden model: a failure is an element
whose sign, or whose being resolved, differs. `never`: a threshold that nothing reaches, so that every sum is finished.
All of them with rank-1 repair. Cycles are over those of the whole product, both with all operands sent; nothing is read
back of the whole product.
"""
HARDWARE = """## Logic and clock

ECP5, by yosys and nextpnr (`--hardware`): cells of PSG's parts, without what readout, checks and gather unit have more
besides the comparator; clock of the engine of configuration `tiny` (array, operand memories, walks, partial sums), out
of context, speed grade 6, a placement for each seed.
"""
GOALS = """## Goals

Of preset `e2train` (4x10 round, repaired) at beta 0.05; the cycles are means over the layers above.
"""


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """A result of `bench_psg` without the rows of single layers."""
    return result | {"rows": means(result["rows"])}


def rendered(result: dict[str, Any]) -> str:
    """The document of a `summary`."""
    values = {"measured": MEASURED, "batch": result["rows"][0]["batch"], **result}
    board = [
        "| layer | tau | elements | resolved % | failures | cycles | of the whole product's |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in result["checked"]:
        shares = f"{100 * row['resolved']:.1f} | {row['failures']} | {row['cycles']:,} | {row['cycle_work']:.3f}"
        board.append(f"| {row['layer']} | {row['tau']} | {row['elements']:,} | {shares} |")
    goals = ["| tau | | reached | goal | |", "| --- | --- | --- | --- | --- |"]
    for goal in result["goals"]:
        met = "met" if goal["met"] else "**missed**"
        goals.append(f"| {goal['tau']} | {goal['name']} | {goal['value']:.4f} | {goal['goal']:g} | {met} |")
    parts = [HEAD.format(**values), table(result["rows"]), BOARD.format(**values), "\n".join(board)]
    hardware = ["", HARDWARE, *_hardware(result)] if result.get("lut_parts") else []
    return "\n".join([*parts[:2], "", *parts[2:], *hardware, "", GOALS, *goals, ""])


def _hardware(result: dict[str, Any]) -> list[str]:
    lines = ["| part | TRELLIS_COMB | TRELLIS_FF |", "| --- | --- | --- |"]
    lines += [
        f"| {part['count']} x {name} | {part['comb']} | {part['ff']} |" for name, part in result["lut_parts"].items()
    ]
    clocks = [", ".join(f"{clock:.1f}" for clock in result["fmax_mhz"][name]) for name in ("packed", "without")]
    return [*lines, "", f"With packed MATMULs {clocks[0]} MHz, without {clocks[1]} MHz."]


def main(arguments: list[str]) -> None:
    """RESULT [DIRECTORY]"""
    result, directory = Path(arguments[0]), Path(arguments[1] if len(arguments) > 1 else "docs")
    found = summary(json.loads(result.read_text()))
    measured = directory / MEASURED
    measured.parent.mkdir(exist_ok=True)
    measured.write_text(json.dumps(found, indent=1) + "\n")
    (directory / DOCUMENT).write_text(rendered(found))


if __name__ == "__main__":
    main(sys.argv[1:])
