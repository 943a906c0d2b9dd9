"""Pins of sensors on boards: which, with what, and who is told that there are none."""

import json
import re
import tomllib
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from amaranth.build import DiffPairs, Pins, ResourceError, Subsignal
from amaranth.hdl import Elaboratable, Fragment, Module, Signal
from amaranth.lib import io
from amaranth.sim import Simulator
from bitfirst import cli
from bitfirst.cli import run as bitfirst
from bitfirst.errors import UsageError
from bitfirst.measuring import sensors as host
from bitfirst_boards import explore, flow, sensors, toolchains, tops, ulpi, usb
from bitfirst_boards.catalogue import BOARDS, Board
from bitfirst_boards.errors import FlowError
from bitfirst_hdl import top, verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract.power import RAILS
from bitfirst_sim.formal.prove import altered
from test_boards import SmallCore, Vivado, check_block_design, refused

WITH = [board for board in BOARDS.values() if board.sensors]
ON_I2C = [board for board in WITH if board.sensors.bus == "i2c"]
WITHOUT = [board for board in BOARDS.values() if not board.sensors]
#: Other things at pins of sensors, none of which a device here has: other names of the header's pins, and of the same
#: bus; a socket and a connector that must be empty.
OTHERS = {"diff_gpio", "i2c", "sd_card_1bit", "sd_card_4bit", "sd_card_spi", "lcd"}
POWER = replace(CONFIGS["least"], features=("power",))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in top, usb, ulpi:
        monkeypatch.setattr(module, "Core", SmallCore)


def pads(pins: object) -> dict[str, tuple[str, dict]]:
    """Name and attributes of the chip's pins."""
    found = {}
    for name in "scl", "sda":
        (pad,) = getattr(pins, name).io.metadata
        found[name] = pad.name, dict(pad.attrs)
    return found


def named(board: Board) -> dict[str, set[str]]:
    """The board's own resources -> pins of the chip."""
    platform = board.platform()

    def of(ios: tuple) -> set[str]:
        places = set()
        for one in ios:
            if isinstance(one, Subsignal):
                places |= of(one.ios)
            elif isinstance(one, DiffPairs):
                places |= of((one.p, one.n))
            elif isinstance(one, Pins):
                places |= set(one.map_names(platform._conn_pins, one))
        return places

    return {resource.name: of(resource.ios) for resource in platform.resources.values()}


def with_all_else(board: Board) -> object:
    """A platform of which clock, reset and all links that the board can have are taken."""
    platform = board.platform()
    for name in filter(None, (platform.default_clk, platform.default_rst)):
        platform.request(name, dir="-")
    for link in set(board.links) - {"axi"}:
        tops.pins_of(board.linked(link), platform)
    return platform


@pytest.mark.parametrize("board", ON_I2C, ids=lambda board: board.name)
def test_pins_are_free_and_pulled_up(board: Board) -> None:
    found = pads(tops.sensor_pins(board, with_all_else(board)))
    (scl, attrs), (sda, same) = found.values()
    assert scl != sda and attrs == same
    assert ("LVCMOS15" if board.name == "kc705" else "LVCMOS33") in attrs.values()
    assert attrs.items() & {("PULLMODE", "UP"), ("PULL_MODE", "UP"), ("PULLUP", "TRUE")}
    assert {name for name, places in named(board).items() if places & {scl, sda}} <= OTHERS


def test_pins_of_the_link_are_refused() -> None:
    """Broken: sensors at the pins of the serial port."""
    board = replace(BOARDS["ulx3s-12f"], sensors=sensors.wired("nowhere", "M1", "L4", sensors.ECP5))
    with pytest.raises(ResourceError, match="already"):
        tops.sensor_pins(board, with_all_else(board))
    assert named(board)["uart"] & {"M1", "L4"}


def test_rails_are_as_the_host_takes_them() -> None:
    rails = [host.Rail(**vars(rail)) for rail in BOARDS["genesys2"].sensors.rails]
    assert {rail.name: rail.address for rail in rails} == {
        **{"1V0": 0x45, "1V5": 0x4C, "1V8": 0x48},
        **{"VADJ": 0x41, "3V3": 0x44, "5V0": 0x40},
    }
    assert {(rail.kind, rail.shunt_ohm) for rail in rails} == {("ina219", 0.005)}
    assert len(rails) > RAILS  # so the host chooses
    (core,) = [host.Rail(**vars(rail)) for rail in BOARDS["kc705"].sensors.rails]
    assert (core.address, core.page, core.shunt_ohm, core.chip.bus) == (52, 0, None, BOARDS["kc705"].sensors.bus)
    for board in WITH:
        taken = [rail.address for rail in board.sensors.rails]
        assert len(set(taken)) == len(taken)
        assert bool(taken) == ("power" in board.config.features)  # by default where there are some
        assert board.config.sensor_bus == board.sensors.bus


def built(name: str, wrong: int = 0) -> SimpleNamespace:
    """An open device, as far as it tells which board it was built for."""
    board = BOARDS[name]
    config = flow.fitted(board, board.config)
    tools = toolchains.versions(toolchains.toolchain(board.platform), board.link)
    number = flow.fingerprint(board, config, tools) + wrong
    return SimpleNamespace(config=config, fingerprint=number, url="serial:///dev/any")


def test_the_rails_of_a_known_board_need_no_names(capsys: pytest.CaptureFixture) -> None:
    rails = cli.rails_on_board(built("genesys2"))
    assert [rail.name for rail in rails] == ["1V0", "1V5", "1V8", "3V3"] and {rail.scope for rail in rails} == {"rails"}
    assert "--rails FILE, with scope rails, names others: VADJ, 5V0" in " ".join(capsys.readouterr().err.split())
    with pytest.raises(UsageError, match=r"no sensor is named: .*; ulx3s-85f has none"):
        cli.rails_on_board(built("ulx3s-85f"))
    for name, known, scope in ("kc705", "VCCINT", "rails"), ("arty-a7-35", "5V", "board"):
        (rail,) = cli.rails_on_board(built(name))
        assert (rail.name, rail.scope) == (known, scope)
    with pytest.raises(UsageError, match="not known which board"):
        cli.rails_on_board(built("genesys2", wrong=1))


class Wires(Elaboratable):
    """In the place of a device: ports alone."""

    def __init__(self) -> None:
        for name in ("rx_pin", "tx_pin", "scl_i", "sda_i", "scl_low", "sda_low"):
            setattr(self, name, Signal(name=name))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.tx_pin.eq(self.rx_pin)
        return m


def see_wires(tops: ModuleType) -> None:
    """A device on pins that are simulated: what it does to them, and what it sees."""
    ports = {name: io.SimulationPort("io", 1, name=name) for name in ("rx", "tx", "scl", "sda")}
    real = BOARDS["ulx3s-12f"].platform()
    platform = SimpleNamespace(
        default_clk_frequency=real.default_clk_frequency,
        lookup=real.lookup,
        add_resources=lambda resources: None,
        request=lambda name, number, *, dir: SimpleNamespace(**ports),
    )
    board = replace(BOARDS["ulx3s-12f"], clock_khz=real.default_clk_frequency // 1000)
    device = Wires()
    simulator = Simulator(Fragment.get(tops.Pinned(board, device), platform))

    async def bench(context: object) -> None:
        for lows, levels in product(product((0, 1), repeat=2), repeat=2):
            for name, low, level in zip(("scl", "sda"), lows, levels, strict=True):
                context.set(getattr(device, f"{name}_low"), low)
                context.set(ports[name].i, level)
            await context.delay(1e-9)
            for name, low, level in zip(("scl", "sda"), lows, levels, strict=True):
                assert context.get(ports[name].oe) == low, "pulled low otherwise"
                assert context.get(ports[name].o) == 0, "driven high"
                assert context.get(getattr(device, f"{name}_i")) == (level and not low), "seen otherwise"

    simulator.add_testbench(bench)
    simulator.run()


def test_wires_are_pulled_low_or_let_go() -> None:
    see_wires(tops)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("pin.o.eq(0)", "pin.o.eq(1)", "driven high"),
        ("pin.oe.eq(", "pin.oe.eq(~", "pulled low otherwise"),
        ('pin = io.Buffer("io", getattr(pins, name))', 'pin = io.Buffer("io", pins.sda)', "seen otherwise"),
    ],
)
def test_wrong_wires_are_found(old: str, new: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        see_wires(altered(tops, (old, new)))


@pytest.mark.parametrize(
    ("name", "file", "lines"),
    [
        (
            "ulx3s-85f",
            "top.lpf",
            (
                'LOCATE COMP "sensors_0__scl__io" SITE "A10";',
                'LOCATE COMP "sensors_0__sda__io" SITE "B11";',
                'IOBUF PORT "sensors_0__scl__io" IO_TYPE=LVCMOS33 PULLMODE=UP;',
                'IOBUF PORT "sensors_0__sda__io" IO_TYPE=LVCMOS33 PULLMODE=UP;',
            ),
        ),
        (
            "tang-nano-9k",
            "top.cst",
            (
                'IO_LOC "sensors_0__scl__io" 25;',
                'IO_LOC "sensors_0__sda__io" 26;',
                'IO_PORT "sensors_0__scl__io" PULL_MODE=UP;',
                'IO_PORT "sensors_0__sda__io" PULL_MODE=UP;',
            ),
        ),
    ],
)
def test_constraints(name: str, file: str, lines: tuple[str, ...]) -> None:
    board = BOARDS[name]
    for features, present in ((("power",), True), ((), False)):
        config = flow.fitted(board, replace(POWER, features=features))
        with verilog.use_yosys():
            plan = board.platform().prepare(tops.Pinned(board, tops.make_device(board, config, 0)), "top")
        assert [line in plan.files[file].splitlines() for line in lines] == [present] * len(lines)


@pytest.mark.parametrize(
    ("name", "scl", "sda", "standard"), [("genesys2", "AE30", "AF30", "LVCMOS33"), ("kc705", "AG17", "Y14", "LVCMOS15")]
)
def test_a_project_with_sensors_by_default(tmp_path: Path, name: str, scl: str, sda: str, standard: str) -> None:
    built = flow.build(BOARDS[name], tmp_path / "build")
    constraints = (built.directory / "top.xdc").read_text().splitlines()
    for wire, pad in (("scl", scl), ("sda", sda)):
        assert f'set_property LOC {pad} [get_ports "sensors_0__{wire}__io"]' in constraints
        assert f'set_property IOSTANDARD "{standard}" [get_ports "sensors_0__{wire}__io"]' in constraints
        assert f'set_property PULLUP "TRUE" [get_ports "sensors_0__{wire}__io"]' in constraints
        assert f"inout sensors_0__{wire}__io;" in (built.directory / "top.v").read_text()
    assert "sensors of energy" in (built.directory / "README.txt").read_text().lower()


@pytest.mark.parametrize("measures", [True, False])
def test_a_block_design_with_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measures: bool) -> None:
    monkeypatch.setattr(verilog, "generate_axi", lambda config, number: {"bitfirst.v": f"32 {number:016x}"})
    board = BOARDS["zedboard"]
    config = replace(board.config, features=(*board.config.features, *["power"] * measures))
    built = flow.build(board, tmp_path / "build", config)
    ran = Vivado(built.directory, slack="0.1")
    check_block_design(board, built, ran)
    assert (("-fileset", "constrs_1", "sensors.xdc") in ran.of("add_files")) == measures
    port = "-mode", "Master", "-vlnv", "xilinx.com:interface:iic_rtl:1.0", "sensors"
    assert ran.of("create_bd_intf_port") == [port] * measures
    assert (built.directory / "sensors.xdc").exists() == measures
    if measures:
        assert (built.directory / "sensors.xdc").read_text().splitlines() == [
            "set_property PACKAGE_PIN Y10 [get_ports sensors_scl_io]",
            "set_property IOSTANDARD LVCMOS33 [get_ports sensors_scl_io]",
            "set_property PULLUP TRUE [get_ports sensors_scl_io]",
            "set_property PACKAGE_PIN AA9 [get_ports sensors_sda_io]",
            "set_property IOSTANDARD LVCMOS33 [get_ports sensors_sda_io]",
            "set_property PULLUP TRUE [get_ports sensors_sda_io]",
        ]


def test_the_feature_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bitfirst(["build", "nexys4-ddr", "--config", "least", "--feature", "power", "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["parameters"]["features"] == ["power"]
    assert "sensors_0__scl__io" in (tmp_path / "build" / "nexys4-ddr" / "top.xdc").read_text()
    assert bitfirst(["boards", "--json"]) == 0
    told = {row["name"]: row["sensors"] for row in json.loads(capsys.readouterr().out)["boards"]}
    assert (
        told["genesys2"] == "6 x INA219"
        and told["kc705"] == "1 x UCD9248"
        and told["arty-a7-35"] == "XADC: 5 V and core"
        and told["ulx3s-85f"] == "J1: GP1 SCL, GP0 SDA"
        and told["ebaz4205"] is None
    )


@pytest.mark.parametrize("board", WITHOUT, ids=lambda board: board.name)
def test_boards_without_pins(
    board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, "build", board.name, "--feature", "power")
    assert f"{board.name} has no pins for sensors: leave feature power out, or take one of ulx3s-12f, " in said
    assert all(other.name in said for other in WITH) and not list(tmp_path.iterdir())


def test_the_feature_power_has_the_bus_of_the_board(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bitfirst(["build", "kc705", "--feature", "power", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"]["features"][-2:] == ["power", "pmbus"]
    assert flow.fitted(BOARDS["kc705"], POWER).features == ("power", "pmbus")
    for features in (), ("power", "spi"):
        assert flow.fitted(BOARDS["kc705"], replace(POWER, features=features)).features == features
    assert flow.fitted(BOARDS["ulx3s-85f"], POWER).features == ("power",)


def test_other_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    assert "must be a list of some of update" in refused(capsys, "build", "ulx3s-85f", "--feature", "watts")
    (tmp_path / "my.toml").write_text('base = "least"\nfeatures = ["power"]\n')
    with pytest.raises(FlowError, match="versa-5g has no pins for sensors"):
        explore.Search(BOARDS["versa-5g"], tmp_path, POWER, explore.Space(), 1, 1, lambda config: 1.0)
    assert "versa-5g has no pins for sensors" in refused(capsys, "build", "versa-5g", "--config", "my.toml")


# docs/first-joule.md

PAGE = (Path(__file__).parents[1] / "docs" / "first-joule.md").read_text()


def test_the_page_has_the_pins() -> None:
    board = BOARDS["ulx3s-85f"]
    for name, (ball, _) in pads(tops.sensor_pins(board, board.platform())).items():
        assert re.search(rf"\| {name.upper()} \| J1, GP[01] \(ball {ball}\) \|", PAGE)
        assert f"`sensors_0__{name}__io` at {ball}" in PAGE
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    rails = tomllib.loads(text)["rail"]
    known = {rail.name: rail for rail in BOARDS["genesys2"].sensors.rails}
    assert [vars(known.pop(rail["name"])) for rail in rails] == rails
    said = dict(re.findall(r"(\w+) at (0x\w\w)", PAGE[PAGE.index("with 1V5") :]))
    assert {name: int(address, 16) for name, address in said.items()} == {
        name: rail.address for name, rail in known.items()
    }


def test_the_page_has_the_arithmetic() -> None:
    """Range, step, its watts at 5 V, offset, and drop and heat at 0.5 A."""
    rows = re.findall(r"\| \**INA(\d+)[^|]*\|((?: [^|]*\|){7})\n", PAGE)
    assert len(rows) == 5
    for kind, cells in rows:
        ohm, amps, *said = (float(number) for number in re.findall(r"([\d.]+) [a-zA-Z]", cells))
        ranges = (host.Rail("5V", f"ina{kind}", 0x40, ohm / 1000, most) for most in (0.5, 1.5, None))
        rail = next(one for one in ranges if one.range.volts / one.shunt_ohm == pytest.approx(amps, rel=0.01))
        step, offset = rail.amps_per_code * 1e6, rail.chip.offset_volts / rail.shunt_ohm * 1e6
        assert said == pytest.approx([step, 5 * step, offset, 0.5 * ohm, 0.25 * ohm], rel=0.04)
