"""IP-XACT description (IEEE 1685-2009, which Vivado and Kactus2 read) of the device with AXI ports."""

from collections.abc import Iterator, Mapping
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from amaranth.lib.wiring import In

from .axi import DATA_BITS, AxiTop
from .contract import codec, registers
from .contract.packets import CONTRACT_VERSION
from .contract.registers import AXI_ADDRESS_BITS, AXI_BYTES, Access, Field, Register

SPIRIT = "http://www.spiritconsortium.org/XMLSchema/SPIRIT/1685-2009"
XILINX = "http://www.xilinx.com"
#: Families that Vivado offers the component for; nothing in it is particular to them.
FAMILIES = ("artix7", "kintex7", "virtex7", "spartan7", "zynq", "kintexu", "kintexuplus", "virtexuplus", "zynquplus")
OURS = "bitfirst", "bitfirst"  # vendor and library
VERSION = f"{CONTRACT_VERSION}.0"
MEMORY_MAP = "s_axi"
#: Bus interface -> Vivado's bus definition, the mode of the component's side, and parameters.
BUSES: dict[str, tuple[str, str, Mapping[str, str]]] = {
    "s_axi": ("interface:aximm", "slave", {"PROTOCOL": "AXI4LITE"}),
    "s_axis": ("interface:axis", "slave", {}),
    "m_axis": ("interface:axis", "master", {}),
    "aclk": ("signal:clock", "slave", {"ASSOCIATED_BUSIF": "s_axi:s_axis:m_axis", "ASSOCIATED_RESET": "aresetn"}),
    "aresetn": ("signal:reset", "slave", {"POLARITY": "ACTIVE_LOW"}),
    "irq": ("signal:interrupt", "master", {"SENSITIVITY": "LEVEL_HIGH"}),
    "i2c": ("interface:iic", "master", {}),  # with the feature "power"
}
_SINGLE = {"aclk": "CLK", "aresetn": "RST", "irq": "INTERRUPT"}  # ports that are an interface of their own
_WRITTEN = {Access.CLEAR: "oneToClear", Access.START: "oneToSet"}


def _add(parent: Element, tag: str, text: object = None, **attributes: str) -> Element:
    """A new child in the namespace of IP-XACT."""
    named = {f"{{{SPIRIT}}}{name}": value for name, value in attributes.items()}
    child = SubElement(parent, f"{{{SPIRIT}}}{tag}", named)
    if text is not None:
        child.text = str(text)
    return child


def _vector(parent: Element, width: int) -> None:
    if width > 1:
        vector = _add(parent, "vector")
        _add(vector, "left", width - 1)
        _add(vector, "right", 0)


def _parameters(parent: Element, values: Mapping[str, object]) -> None:
    if values:
        group = _add(parent, "parameters")
        for name, value in values.items():
            parameter = _add(group, "parameter")
            _add(parameter, "name", name)
            _add(parameter, "value", value)


def _ports(top: AxiTop) -> dict[str, tuple[str, int]]:
    """Direction and width of each."""
    return {
        name: ("in" if member.flow == In else "out", len(getattr(top, name)))
        for name, member in top.signature.members.items()
    }


def _identity() -> Iterator[Register]:
    """The identity block as registers of the port; fields that are wider than a register in several."""
    places = codec.fields(registers.Identity).items()
    for number in range(registers.Identity.as_shape().size // DATA_BITS):
        start, parts = number * DATA_BITS, []
        for name, (offset, width) in places:
            low, high = max(offset, start), min(offset + width, start + DATA_BITS)
            if low < high and not name.startswith("reserved"):
                part = f"{name}_{low - offset}" if width > DATA_BITS else name
                parts.append(Field(part, low - start, high - low, Access.READ, f"`{name}` of the identity block."))
        yield Register(f"identity_{number}", number * AXI_BYTES, "Who answers.", tuple(parts))


def _bus(parent: Element, name: str, ports: Mapping[str, tuple[str, int]]) -> None:
    definition, mode, values = BUSES[name]
    library, bus = definition.split(":")
    interface = _add(parent, "busInterface")
    _add(interface, "name", name)
    for tag, suffix in ("busType", ""), ("abstractionType", "_rtl"):
        _add(interface, tag, vendor="xilinx.com", library=library, name=f"{bus}{suffix}", version="1.0")
    side = _add(interface, mode)
    if name == MEMORY_MAP:
        _add(side, "memoryMapRef", memoryMapRef=MEMORY_MAP)
    maps = _add(interface, "portMaps")
    for port, (_, width) in ports.items():
        logical = _SINGLE.get(name) if port == name else port.removeprefix(f"{name}_").upper()
        if port != name and not port.startswith(f"{name}_"):
            continue
        entry = _add(maps, "portMap")
        for kind, called in ("logicalPort", logical), ("physicalPort", port):
            end = _add(entry, kind)
            _add(end, "name", called)
            _vector(end, width)
    _parameters(interface, values)


def _register(block: Element, register: Register, reset: int) -> None:
    element = _add(block, "register")
    _add(element, "name", register.name)
    _add(element, "description", register.doc)
    _add(element, "addressOffset", f"{register.address:#x}")
    _add(element, "size", DATA_BITS)
    _add(element, "volatile", "false" if all(f.access == Access.WRITE for f in register.fields) else "true")
    _add(element, "access", "read-write" if register.writable else "read-only")
    _add(_add(element, "reset"), "value", f"{reset:#x}")
    for field in register.fields:
        bits = _add(element, "field")
        _add(bits, "name", field.name)
        _add(bits, "description", field.doc)
        _add(bits, "bitOffset", field.low)
        _add(bits, "bitWidth", field.width)
        _add(bits, "access", "read-only" if field.access == Access.READ else "read-write")
        if field.access in _WRITTEN:
            _add(bits, "modifiedWriteValue", _WRITTEN[field.access])


def _memory_map(component: Element, identity: list[int]) -> None:
    memory_map = _add(_add(component, "memoryMaps"), "memoryMap")
    _add(memory_map, "name", MEMORY_MAP)
    block = _add(memory_map, "addressBlock")
    _add(block, "name", "registers")
    _add(block, "baseAddress", 0)
    _add(block, "range", 1 << AXI_ADDRESS_BITS)
    _add(block, "width", DATA_BITS)
    _add(block, "usage", "register")
    packed = sum(word << 64 * place for place, word in enumerate(identity))
    for register in _identity():
        _register(block, register, packed >> 8 * register.address & (1 << DATA_BITS) - 1)
    for register in registers.AXI_REGISTERS:
        _register(block, register, 0)


def _model(component: Element, name: str, ports: Mapping[str, tuple[str, int]]) -> None:
    model = _add(component, "model")
    views = _add(model, "views")
    for kind in ("synthesis", "simulation"):
        view = _add(views, "view")
        _add(view, "name", kind)
        _add(view, "envIdentifier", f"verilogSource:vivado.xilinx.com:{kind}")
        _add(view, "language", "verilog")
        _add(view, "modelName", name)
        _add(_add(view, "fileSetRef"), "localName", "verilog")
    listed = _add(model, "ports")
    for port, (direction, width) in ports.items():
        element = _add(listed, "port")
        _add(element, "name", port)
        wire = _add(element, "wire")
        _add(wire, "direction", direction)
        _vector(wire, width)
        if direction == "in" and port.endswith(("tkeep", "tlast", "prot")):  # what may stay open in a block design
            _add(_add(wire, "driver"), "defaultValue", (1 << width) - 1 if port.endswith("tkeep") else 0)


def _files(component: Element, verilog: str) -> None:
    files = _add(_add(component, "fileSets"), "fileSet")
    _add(files, "name", "verilog")
    file = _add(files, "file")
    _add(file, "name", verilog)
    _add(file, "fileType", "verilogSource")


def _vivado(component: Element) -> None:
    extensions = SubElement(_add(component, "vendorExtensions"), f"{{{XILINX}}}coreExtensions")
    families = SubElement(extensions, f"{{{XILINX}}}supportedFamilies")
    for name in FAMILIES:
        SubElement(families, f"{{{XILINX}}}family", {f"{{{XILINX}}}lifeCycle": "Beta"}).text = name
    SubElement(extensions, f"{{{XILINX}}}displayName").text = "Bitfirst training device"


def vlnv(name: str) -> str:
    """Vendor, library, name and version, as Vivado names a component."""
    return ":".join((*OURS, name, VERSION))


def describe(top: AxiTop, name: str, verilog: str) -> str:
    """The component as XML: bus interfaces, register map, ports, and what it was generated for.

    top      only its ports and its configuration are looked at
    name     of the Verilog module
    verilog  the file with it, relative to the description
    """
    ElementTree.register_namespace("spirit", SPIRIT)
    ElementTree.register_namespace("xilinx", XILINX)
    component, ports, config = Element(f"{{{SPIRIT}}}component"), _ports(top), top.core.config
    for tag, text in zip(("vendor", "library", "name", "version"), (*OURS, name, VERSION), strict=True):
        _add(component, tag, text)
    interfaces = _add(component, "busInterfaces")
    for bus in BUSES:
        if any(port == bus or port.startswith(f"{bus}_") for port in ports):
            _bus(interfaces, bus, ports)
    _memory_map(component, top.registers.identity)
    _model(component, name, ports)
    _files(component, verilog)
    _add(component, "description", "Trains neural networks most significant bits first.")
    values = {key: " ".join(value) if isinstance(value, list) else value for key, value in config.as_dict().items()}
    _parameters(component, values | {"fingerprint": f"{top.core.fingerprint:016x}"})
    _vivado(component)
    ElementTree.indent(component)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(component, encoding="unicode") + "\n"
