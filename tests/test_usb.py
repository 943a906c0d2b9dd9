"""The device behind USB: LUNA's gateware with a host on its pins."""

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

import pytest
from amaranth.hdl import DomainRenamer
from amaranth.lib import io
from bitfirst_boards import flow, toolchains, tops, ulpi, usb, vivado
from bitfirst_boards.catalogue import BOARDS
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
