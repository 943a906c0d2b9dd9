"""The device with AXI ports, driven by masters that nobody here wrote."""

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
from amaranth.hdl import Module
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from bitfirst_hdl import axi, ipxact, verilog
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig, ConfigError
from bitfirst_hdl.contract import codec, registers, render
from bitfirst_hdl.ports import sensor_pins
from bitfirst_sim.bench import BenchError, BenchResult, run_bench
from bitfirst_sim.formal.prove import altered

FINGERPRINT = 0x0F1E_2D3C_4B5A_6978
TINY = CONFIGS["tiny"]
ECHO_BEATS = 8
DEVICE = replace(TINY, link_bits=32, rows=1, features=STANDARD)  # less to compile


class Echo(wiring.Component):
    """Stands for the device: sends back what it receives."""

    def __init__(self, config: ArrayConfig, fingerprint: int) -> None:
        units = stream.Signature(config.link_bits)
        super().__init__({"rx": In(units), "tx": Out(units), "idle": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.queue = queue = fifo.SyncFIFOBuffered(width=len(self.rx.payload), depth=ECHO_BEATS)
        wiring.connect(m, wiring.flipped(self.rx), queue.w_stream)
        wiring.connect(m, queue.r_stream, wiring.flipped(self.tx))
        m.d.comb += self.idle.eq(queue.level == 0)
        return m


def run(link_bits: int, *changes: tuple[str, str], only: str | None = None) -> BenchResult:
    """The bench of everything around the device, with `changes` in the source."""
    config = replace(TINY, link_bits=link_bits)
    component = altered(axi, *changes, Core=Echo).AxiTop(config, FINGERPRINT)
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    return run_bench(component, "axi", "bitfirst_sim.benches.bench_axi", parameters=parameters, only=only)


@pytest.mark.parametrize("link_bits", axi.TDATA_BITS)
def test_ports(link_bits: int) -> None:
    assert len(run(link_bits).tests) == 8


@pytest.mark.parametrize("link_bits", [32, pytest.param(64, marks=pytest.mark.soak)])
def test_device(link_bits: int) -> None:
    config = replace(DEVICE, link_bits=link_bits)
    parameters = {"config": config.as_dict(), "fingerprint": FINGERPRINT}
    component = axi.AxiTop(config, FINGERPRINT)
    result = run_bench(component, "axi_device", "bitfirst_sim.benches.bench_axi_device", parameters=parameters)
    assert len(result.tests) == 2


#: One mistake each: text of `bitfirst_hdl.axi`, text in its place, the test of the bench that must fail, its words.
MUTANTS = {
    "valid is withdrawn": (
        "with m.If(self.tready):\n            m.d.sync += self.tvalid.eq(0)",
        "m.d.sync += self.tvalid.eq(0)",
        "packets",
        "valid was withdrawn",
    ),
    "payload changes": ("free.eq(~self.tvalid | self.tready)", "free.eq(1)", "packets", "payload changed"),
    "response before data": (
        "write.eq(has_address & has_data &",
        "write.eq(has_address &",
        "register_access",
        "response before address and data",
    ),
    "last a beat too early": ("self.tlast.eq(left == 1)", "self.tlast.eq(left == 2)", "packets", "expected"),
    "taken while in reset": ("core.rx.ready & running", "core.rx.ready", "reset", "high in reset"),
}


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_the_bench_finds_mutants(name: str) -> None:
    old, new, only, words = MUTANTS[name]
    with pytest.raises(BenchError, match=words):
        run(64, (old, new), only=only)


def test_width_of_the_link() -> None:
    assert axi.check(TINY) == 64
    with pytest.raises(ConfigError, match="link_bits = 8 is not for AXI4-Stream; set link_bits to 32 or 64"):
        axi.check(replace(TINY, link_bits=8))


# what `bitfirst generate --bus axi` writes

PORT = re.compile(r"^  (input|output) (?:\[(\d+):0\] )?(\w+);$", re.MULTILINE)
SPIRIT = {"": "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"}
Ports = dict[str, tuple[str, int]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory, for a small device."""
    folder = tmp_path_factory.mktemp("generate")
    (folder / "small.toml").write_text(
        f"base = 'tiny'\nlink_bits = {DEVICE.link_bits}\nrows = 1\nfeatures = ['gather', 'requantise']\n"
    )
    command = [sys.executable, "-c", "from bitfirst.cli import main; main()", "generate", "small.toml", "--bus", "axi"]
    done = subprocess.run([*command, "--json"], cwd=folder, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout)
    assert result["directory"] == "small-axi" and result["parameters"] == DEVICE.as_dict()
    assert {name: folder / path for name, path in result["files"].items()} == {
        path.name: path for path in (folder / "small-axi").iterdir()
    }
    return folder / "small-axi"


def ports_of_verilog(text: str) -> Ports:
    module = text[text.index(f"module {verilog.module_name('axi')}(") :]
    found = PORT.findall(module[: module.index("endmodule")])
    return {name: (direction, int(left or 0) + 1) for direction, left, name in found}


def width(element: ElementTree.Element) -> int:
    left, right = (element.findtext(f"vector/{end}", "0", SPIRIT) for end in ("left", "right"))
    return int(left) - int(right) + 1


def ports_of_model(component: ElementTree.Element) -> Ports:
    wires = {
        port.findtext("name", "", SPIRIT): port.find("wire", SPIRIT) for port in component.iterfind(".//port", SPIRIT)
    }
    return {name: (wire.findtext("direction", "", SPIRIT) + "put", width(wire)) for name, wire in wires.items()}


def check_ports(text: str, component: ElementTree.Element) -> None:
    """The model's ports are the Verilog's, and each is in one bus interface, once, with all its bits."""
    expected = ports_of_verilog(text)
    assert len(expected) > 20
    assert ports_of_model(component) == expected, "the model's ports are others"
    ends = list(component.iterfind(".//physicalPort", SPIRIT))
    assert Counter(end.findtext("name", "", SPIRIT) for end in ends) == Counter(list(expected)), "not each mapped once"
    for entry in component.iterfind(".//portMap", SPIRIT):
        logical, physical = (entry.find(f"{kind}Port", SPIRIT) for kind in ("logical", "physical"))
        assert width(logical) == width(physical) == expected[physical.findtext("name", "", SPIRIT)][1], "another width"


def test_files(made: Path) -> None:
    assert {path.name for path in made.iterdir()} == {"bitfirst.v", "component.xml", *render.FILES}
    for name, text in render.FILES.items():
        assert (made / name).read_text() == text()
    assert (made / "bitfirst.v").read_text() == verilog.generate(DEVICE, "axi")


def test_ports_of_the_description(made: Path) -> None:
    text, component = (made / "bitfirst.v").read_text(), ElementTree.parse(made / "component.xml").getroot()
    check_ports(text, component)
    assert component.findtext("model/views/view/modelName", "", SPIRIT) == verilog.module_name("axi")
    assert component.findtext("fileSets/fileSet/file/name", "", SPIRIT) == "bitfirst.v"
    names = [bus.findtext("name", "", SPIRIT) for bus in component.iterfind("busInterfaces/busInterface", SPIRIT)]
    assert names == ["s_axi", "s_axis", "m_axis", "aclk", "aresetn", "irq"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("input [31:0] s_axis_tdata;", "input [63:0] s_axis_tdata;", "the model's ports"),
        ("input s_axis_tlast;", "output s_axis_tlast;", "the model's ports"),
        ("<spirit:name>m_axis_tlast</spirit:name>\n          </spirit:physicalPort>",) * 2 + ("not each mapped once",),
    ],
)
def test_wrong_descriptions_are_found(made: Path, old: str, new: str, words: str) -> None:
    text, description = (made / "bitfirst.v").read_text(), (made / "component.xml").read_text()
    if new == old:  # a port mapped in place of another
        new = old.replace("tlast", "tvalid")
    assert (text + description).count(old) == 1
    with pytest.raises(AssertionError, match=words):
        check_ports(text.replace(old, new), ElementTree.fromstring(description.replace(old, new).encode()))


def test_registers_of_the_description(made: Path) -> None:
    """Addresses, fields, access and values after reset, as the contract has them."""
    component = ElementTree.parse(made / "component.xml").getroot()
    block = component.find("memoryMaps/memoryMap/addressBlock", SPIRIT)
    assert int(block.findtext("range", "", SPIRIT)) == 1 << registers.AXI_ADDRESS_BITS
    found = {}
    for element in block.iterfind("register", SPIRIT):
        fields = {
            field.findtext("name", "", SPIRIT): tuple(
                int(field.findtext(tag, "", SPIRIT)) for tag in ("bitOffset", "bitWidth")
            )
            for field in element.iterfind("field", SPIRIT)
        }
        address, reset = (int(element.findtext(tag, "", SPIRIT), 0) for tag in ("addressOffset", "reset/value"))
        assert address not in found
        found[address] = element.findtext("access", "", SPIRIT), reset, fields
    for register in registers.AXI_REGISTERS:
        access = "read-write" if register.writable else "read-only"
        fields = {field.name: (field.low, field.width) for field in register.fields}
        assert found.pop(register.address) == (access, 0, fields)
    words = codec.encode(registers.Identity, **DEVICE.identity(verilog.fingerprint(DEVICE)))
    block_bytes = b"".join(word.to_bytes(8, "little") for word in words)
    assert b"".join(found[address][1].to_bytes(4, "little") for address in sorted(found)) == block_bytes
    assert {access for access, _, _ in found.values()} == {"read-only"}
    lanes = next(fields["lanes"] for _, _, fields in found.values() if "lanes" in fields)
    assert found[12][1] >> lanes[0] & (1 << lanes[1]) - 1 == DEVICE.lanes


def test_registers_do_not_overlap() -> None:
    addresses = [register.address for register in registers.AXI_REGISTERS]
    assert len(set(addresses)) == len(addresses)
    assert (
        min(addresses) >= registers.Identity.as_shape().size // 8 and max(addresses) < 1 << registers.AXI_ADDRESS_BITS
    )
    for register in registers.AXI_REGISTERS:
        bits = [bit for field in register.fields for bit in range(field.low, field.low + field.width)]
        assert len(set(bits)) == len(bits) and max(bits) < 32 and register.address % registers.AXI_BYTES == 0


# with sensors


class WiredCore(wiring.Component):
    """In the place of the device: a link that rests, and what a test puts on the wires of the sensors."""

    def __init__(self, config: ArrayConfig, fingerprint: int) -> None:
        self.config, self.fingerprint = config, fingerprint
        units = stream.Signature(config.link_bits)
        super().__init__({"rx": In(units), "tx": Out(units), "idle": Out(1)} | sensor_pins(config))

    def elaborate(self, platform: object) -> Module:
        return Module()


def with_sensors(*changes: tuple[str, str]) -> axi.AxiTop:
    config = replace(DEVICE, features=(*DEVICE.features, "power"))
    return altered(axi, *changes, Core=WiredCore).AxiTop(config)


def test_sensors_are_an_i2c_interface() -> None:
    """Three ports a wire, as Vivado's `iic` has them."""
    component = with_sensors()
    description = ElementTree.fromstring(ipxact.describe(component, verilog.module_name("axi"), "v").encode())
    check_ports(verilog.convert(component, verilog.module_name("axi")), description)
    buses = {
        bus.findtext("name", "", SPIRIT): bus for bus in description.iterfind("busInterfaces/busInterface", SPIRIT)
    }
    assert buses["i2c"].find("busType", SPIRIT).attrib[f"{{{SPIRIT['']}}}name"] == "iic"
    assert buses["i2c"].find("master", SPIRIT) is not None
    ends = {
        entry.findtext("logicalPort/name", "", SPIRIT): entry.findtext("physicalPort/name", "", SPIRIT)
        for entry in buses["i2c"].iterfind("portMaps/portMap", SPIRIT)
    }
    assert ends == {f"{wire}_{part}": f"i2c_{wire}_{part}".lower() for wire in ("SCL", "SDA") for part in "IOT"}


def see_wires(component: axi.AxiTop) -> None:
    """What is pulled low, what is let go, and what is seen."""
    simulator, wires = Simulator(component), ("scl", "sda")

    async def bench(context: object) -> None:
        for lows, levels in product(product((0, 1), repeat=2), repeat=2):
            for wire, low, level in zip(wires, lows, levels, strict=True):
                context.set(getattr(component.core, f"{wire}_low"), low)
                context.set(getattr(component, f"i2c_{wire}_i"), level)
            await context.delay(1e-9)
            for wire, low, level in zip(wires, lows, levels, strict=True):
                assert context.get(getattr(component, f"i2c_{wire}_t")) == 1 - low, "let go otherwise"
                assert context.get(getattr(component, f"i2c_{wire}_o")) == 0, "driven high"
                assert context.get(getattr(component.core, f"{wire}_i")) == level, "seen otherwise"

    simulator.add_testbench(bench)
    simulator.run()


def test_wires_of_sensors() -> None:
    see_wires(with_sensors())


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("eq(~getattr(self.core", "eq(getattr(self.core", "let go otherwise"),
        (
            'getattr(self.core, f"{wire}_i").eq(getattr(self, f"i2c_{wire}_i"))',
            "self.core.sda_i.eq(self.i2c_sda_i)",
            "seen",
        ),
    ],
)
def test_wrong_wires_are_found(old: str, new: str, words: str) -> None:
    with pytest.raises(AssertionError, match=words):
        see_wires(with_sensors((old, new)))
