"""After synthesis: netlists for nextpnr under the benches of the RTL."""

import json
from pathlib import Path

import pytest
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from amaranth_boards.ulx3s import ULX3S_85F_Platform
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import Element
from bitfirst_sim import netlist
from bitfirst_sim.bench import BenchError, BenchResult, run_bench

PLATFORMS = {"ecp5": ULX3S_85F_Platform, "ice40": ICEBreakerPlatform, "gowin": TangNano9kPlatform}
TINY = CONFIGS["tiny"]


def run(text: str, name: str, config: ArrayConfig, **options) -> BenchResult:
    return run_bench(
        text, name, f"bitfirst_sim.benches.bench_{name}", parameters={"config": config.as_dict()}, **options
    )


@pytest.mark.parametrize("family", PLATFORMS)
def test_element(family: str, tmp_path: Path) -> None:
    text = netlist.after_synthesis(Element(TINY), "element", PLATFORMS[family], tmp_path / "element")
    assert set(run(text, "element", TINY).tests) == {"every_cycle", "idle_cycles"}


def alter(path: Path, kind: str, parameter: str) -> None:
    """Flip what one cell's table gives where all its inputs are 1, in the netlist."""
    design = json.loads(path.read_text())
    cells = design["modules"]["top"]["cells"]
    label = next(label for label, cell in sorted(cells.items()) if cell["type"] == kind)
    table = cells[label]["parameters"][parameter]
    cells[label]["parameters"][parameter] = "10"[int(table[0])] + table[1:]
    path.write_text(json.dumps(design))


def test_one_wrong_table_is_found(tmp_path: Path) -> None:
    path = netlist.synthesise(Element(TINY), PLATFORMS["ecp5"], tmp_path / "element")
    alter(path, "CCU2C", "INIT0")
    with pytest.raises(BenchError, match="shadow"):
        run(netlist.to_verilog(path, "element", PLATFORMS["ecp5"]), "element", TINY)
