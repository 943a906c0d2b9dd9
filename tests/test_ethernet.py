"""The device behind Ethernet: LiteEth's core with a host on its pins, its addresses, and what is refused."""

import json
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import bitfirst_sim
import pytest
from amaranth.hdl import DomainRenamer
from bitfirst.cli import run as bitfirst
from bitfirst_boards import ethernet, flow, liteeth_core, toolchains, tops
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.errors import FlowError
from bitfirst_boards.network import DEFAULT, network
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import datagrams
from bitfirst_sim.bench import BenchError, convert, run_bench
from bitfirst_sim.formal.prove import altered

BENCH = "bitfirst_sim.benches.bench_ethernet"
FINGERPRINT = 0x0123_4567_89AB_CDEF
CELLS = Path(bitfirst_sim.__file__).with_name("cells") / "rgmii.v"
WITH_ETHERNET = [name for name, board in BOARDS.items() if "udp" in board.links]


@pytest.fixture(scope="module")
def core() -> str:
    return liteeth_core.generate(DEFAULT, 2, 0)


def run(core: str, module=ethernet) -> tuple[str, ...]:
    top = module.EthernetTop(CONFIGS["tiny"], FINGERPRINT, core)
    renamed = DomainRenamer({"sync": "array", "ethernet": "sync"})(top)
    text = "\n".join([convert(renamed, "ethernet"), core, CELLS.read_text()])
    parameters = {"config": CONFIGS["tiny"].as_dict(), "fingerprint": FINGERPRINT, **asdict(DEFAULT)}
    return run_bench(text, "ethernet", BENCH, parameters=parameters).tests


def test_ethernet(core: str) -> None:
    assert len(run(core)) == 3


@pytest.mark.soak
def test_damaged_datagrams_matter(core: str) -> None:
    """The control: a device that is not told of damage."""
    change = "            o_link_source_error=received.error,\n", ""
    with pytest.raises(BenchError, match=r"cocotb tests failed: damaged\n"):
        run(core, altered(ethernet, change))


def test_the_core(core: str) -> None:
    """The same each time, with its addresses, without a date and LiteX's list of cells, which comes in any order."""
    assert core == liteeth_core.generate(DEFAULT, 2, 0)
    assert core.startswith("module liteeth (") and "// Date" not in core and "/*" not in core
    assert all(f"'d{number}" in core for number in (0xC0A8_0132, DEFAULT.mac_number, datagrams.PORT))


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name != WITH_ETHERNET[0] else ()) for name in WITH_ETHERNET]
)
def test_pins_and_clocks(name: str, core: str) -> None:
    """Every pin of RGMII but the PHY's registers is placed; its clock, the array's and LiteEth's have constraints."""
    board = BOARDS[name].linked("udp")
    platform = board.platform()
    with verilog.use_yosys():
        device = ethernet.EthernetTop(CONFIGS["tiny"], FINGERPRINT, core)
        plan = platform.prepare(tops.Pinned(board, device), "top", emit_src=False)
    assert plan.files["liteeth.v"] == core
    preferences = plan.files["top.lpf"]
    placed = {line.split('"')[3] for line in preferences.splitlines() if line.startswith("LOCATE")}
    for pin in platform.lookup("eth_rgmii", 0).ios:
        names = set(pin.ios[0].names)
        assert names <= placed if pin.name not in ("mdc", "mdio") else not names & placed
    for hertz in (125_000_000, liteeth_core.CLOCK_HZ, board.clock_khz * 1000):
        assert f" {hertz:.1f} HZ;" in preferences


def test_addresses() -> None:
    assert network("10.1.2.3").mac == "02:b1:7f:01:02:03" != DEFAULT.mac
    assert asdict(network("10.1.2.3", "02:00:00:00:00:0A")) == {"address": "10.1.2.3", "mac": "02:00:00:00:00:0a"}
    for address in ("board", "10.1.2", "224.0.0.1", "127.0.0.1", "0.0.0.0", "255.255.255.255"):
        with pytest.raises(FlowError, match=r"--address .*; give one"):
            network(address)
    for mac in ("", "02:00:00:00:00", "01:00:5e:00:00:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff"):
        with pytest.raises(FlowError, match=r"--mac .*; give one"):
            network(mac=mac)


def test_the_fingerprint_covers_addresses() -> None:
    """And `info` finds the board by the address that the device has, whichever it was built with."""
    board = BOARDS["ecpix5-45f"].linked("udp")
    versions = toolchains.versions(toolchains.toolchain(board.platform), "udp")
    assert versions["liteeth"] == metadata.version("liteeth") and "litex" in versions
    config = flow.fitted(board, CONFIGS["tiny"])
    others = [replace(board, network=one) for one in (network("10.1.2.3"), network(mac="02:00:00:00:00:01"))]
    numbers = [flow.fingerprint(each, config, versions) for each in (board, *others, BOARDS["ecpix5-45f"])]
    assert len(set(numbers)) == 4
    told = replace(config, link_bits=8)  # which the identity block does not tell
    assert flow.identify(told, numbers[0]) == flow.identify(told, numbers[1], "10.1.2.3") == board.name
    assert flow.identify(told, numbers[1]) is flow.identify(told, numbers[1], "a-name") is None


def test_what_is_refused(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    """In one line, and before anything is made."""
    for arguments, said in (
        (["ulx3s-12f", "--link", "udp"], "ulx3s-12f has no link 'udp'; choose from uart, usb"),
        (
            ["ecpix5-45f", "--address", "10.0.0.1"],
            "--address and --mac are for --link udp, not for uart",
        ),
        (["ecpix5-45f", "--link", "udp", "--address", "here"], "--address 'here' is none of IPv4"),
        (["ecpix5-45f", "--link", "udp", "--mac", "01:00:00:00:00:00"], "is no single device's"),
        (["--all", "--mac", "02:00:00:00:00:01"], "are for one board"),
    ):
        assert bitfirst(["build", *arguments, "--out", str(tmp_path / "out")]) == 2
        printed = capsys.readouterr()
        assert said in " ".join(printed.err.split()) and not printed.out
    assert not (tmp_path / "out").exists()


@pytest.mark.soak
def test_bitstream(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Nothing in the place of anything: the smallest device behind Ethernet meets all its clocks."""
    arguments = ["ecpix5-45f", "--link", "udp", "--config", "least", "--address", "10.1.2.3"]
    assert bitfirst(["build", *arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["network"] == asdict(network("10.1.2.3"))
    report = json.loads((tmp_path / "out" / toolchains.REPORT).read_text())
    wanted = sorted(clock["constraint"] for clock in report["fmax"].values())
    assert wanted == [pytest.approx(mhz, rel=1e-3) for mhz in (50, 75, 125)]
    assert bitfirst(["program", "ecpix5-45f", "--build", str(tmp_path / "out"), "--dry-run"]) == 0
