"""Which paths of decision 0008's array are late: 8 x 8 elements (4, 32) with operand memories, for 120 MHz.

    python docs/decisions/measure_paths.py

It is synthesised and placed as by `bitfirst bench arith --part ecp5 --seed 1`, and not routed: wires have the delays
that nextpnr estimates, and writes as SDF beside those of the cells. Prints how many of the inputs of registers and
block RAMs are late, by where their slowest path begins and ends; it finds the clock that nextpnr tells. Takes some five
minutes.
"""

import re
import sys
import tempfile
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import NamedTuple

from bitfirst_boards.arith_cost import CARRY_CELLS, WANTED_MHZ, WHOLE, units
from bitfirst_boards.synthesis import PART, PLACEMENT, Chip, run_tool, synthesise

DELAY = r"\([\d.]+:[\d.]+:([\d.]+)\)"  #: of least : usual : most, ps
CELL = re.compile(r'\(CELLTYPE "(.*)"\)')
NAME = re.compile(r"\(INSTANCE (.*?)\s*\)")
WIRE = re.compile(rf"\(INTERCONNECT (\S+) (\S+) {DELAY}")
ARC = re.compile(rf"\(IOPATH (\S+) (\S+) {DELAY}")
SETUP = re.compile(rf"\(SETUPHOLD \(posedge (\S+)\) \(posedge \S+\) {DELAY}")
REGISTERS = "TRELLIS_FF", "DP16KD"
PS_PER_S = 1e12
DEEPEST = 20_000  #: calls: some for each position of carry chains behind one another


class Slowest(NamedTuple):
    """The slowest path to a pin: ps in all, of these in wires, and where it begins."""

    total_ps: float
    wires_ps: float
    begin: str


class Timing:
    """Cells and wires of an SDF file, and the slowest paths through them."""

    def __init__(self, text: str) -> None:
        self.types: dict[str, str] = {}
        self.arcs: dict[str, list[tuple[str, float]]] = defaultdict(list)  # output -> inputs
        self.wires: dict[str, tuple[str, float]] = {}  # input -> output that drives it
        self.setups: dict[str, float] = {}
        self.to_output, self.to_input = cache(self._to_output), cache(self._to_input)
        kind = name = ""
        for line in text.splitlines():
            if found := WIRE.search(line):
                driver, sink, delay = found.groups()
                self.wires[_plain(sink)] = _plain(driver), float(delay)
            elif found := ARC.search(line):
                self.arcs[f"{name}/{found[2]}"].append((f"{name}/{found[1]}", float(found[3])))
            elif found := SETUP.search(line):
                self.setups[f"{name}/{found[1]}"] = float(found[2])
            elif found := CELL.search(line):
                kind = found[1]
            elif found := NAME.search(line):
                name = _plain(found[1])
                self.types[name] = kind

    def _to_output(self, pin: str) -> Slowest | None:
        paths = []
        for source, delay in self.arcs[pin]:
            if self.types[pin.rpartition("/")[0]] in REGISTERS:
                paths.append(Slowest(delay, 0, pin))
            elif before := self.to_input(source):
                paths.append(before._replace(total_ps=before.total_ps + delay))
        return max(paths, default=None)

    def _to_input(self, pin: str) -> Slowest | None:
        driver, delay = self.wires.get(pin, (None, 0))
        before = driver and self.to_output(driver)
        return before and Slowest(before.total_ps + delay, before.wires_ps + delay, before.begin)

    def ends(self) -> list[tuple[str, Slowest]]:
        """Inputs of registers that a register drives, and the slowest path to each, setup time included."""
        found = [(pin, self.to_input(pin), setup) for pin, setup in self.setups.items()]
        return [(pin, path._replace(total_ps=path.total_ps + setup)) for pin, path, setup in found if path]


def _plain(name: str) -> str:
    return re.sub(r"\\(.)", r"\1", name)


def _kind(pin: str) -> str:
    """What a pin belongs to, one for all rows, columns and bits."""
    cell = re.sub(r"_TRELLIS.*|_LUT4.*|_PFUMX.*|_L6MUX.*|\$CCU2.*", "", pin.rpartition("/")[0])
    return re.sub(r"(\.#)+$", "", re.sub(r"\$?\d+(_\d+)*", "#", cell))


def placed(directory: Path) -> Timing:
    """The array, placed."""
    unit = next(unit for unit in units() if unit.name == WHOLE)
    synthesise(unit.make(CARRY_CELLS), directory, Chip("ecp5"), dsp=False)
    wanted = ["--freq", str(WANTED_MHZ), "--timing-allow-fail", "--seed", "1"]
    run_tool([*PART, *PLACEMENT, *wanted, "--no-route", "--sdf", "top.sdf"], directory)
    return Timing((directory / "top.sdf").read_text())


def main() -> None:
    sys.setrecursionlimit(DEEPEST)
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as name:
        ends = placed(Path(name)).ends()
    limit = PS_PER_S / (WANTED_MHZ * 1e6)
    late = defaultdict(list)
    for pin, path in ends:
        if path.total_ps > limit:
            late[_kind(path.begin), _kind(pin)].append(path)
    slowest = max(path.total_ps for _, path in ends)
    print(f"{PS_PER_S / slowest / 1e6:.2f} MHz; late {sum(map(len, late.values())):,} of {len(ends):,} inputs")
    for (begin, end), paths in sorted(late.items(), key=lambda item: -len(item[1])):
        worst = max(paths)
        print(
            f"{len(paths):6,}  {worst.total_ps / 1000:5.1f} ns, {worst.wires_ps / 1000:.1f} of wires  {begin} -> {end}"
        )


if __name__ == "__main__":
    main()
