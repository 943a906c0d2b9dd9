"""Renders the contract: the register document and the C header.

`python -m bitfirst_hdl.contract.render [DIRECTORY]` writes `registers.md` and `bitfirst.h` there (default: `docs`).
"""

import inspect
import re
import sys
from collections.abc import Iterable
from enum import IntEnum
from pathlib import Path

from amaranth.lib import data

from . import codec, numeric, packets, power, registers

NOTE = "Rendered from bitfirst_hdl.contract by `python -m bitfirst_hdl.contract.render`; do not edit."
ENUMS = (packets.Opcode, packets.Status, packets.Space, packets.Rounding, packets.Sign, packets.Target, packets.Phase)
ENUMS += (power.Role,)
COMMAND_STRUCTS = tuple(dict.fromkeys(packets.COMMANDS.values()))
RESPONSE_STRUCTS = packets.Response, packets.TraceState, packets.TraceRecord
POWER_STRUCTS = power.Control, power.Transfer, power.Rail, power.RailRead, power.State, power.Result, power.Record
STRUCTS = (packets.Header, packets.Trailer, packets.Knock, *COMMAND_STRUCTS, *RESPONSE_STRUCTS, registers.Identity)
STRUCTS += POWER_STRUCTS
COUNTERS_NOTE = """COUNTERS and MARK respond with all of them, one 64-bit word each, in this order. Execution counters
are a function of commands and data alone; arrival counters depend on when words arrived.
"""
AXI_NOTE = """The port `s_axi` of the top made by `bitfirst generate --bus axi` (see docs/axi.md): 32-bit registers,
little endian, of which the identity block above has the first. Counters wrap around. Reads of other addresses, writes
to them and to registers with read-only fields alone are answered with SLVERR, and change nothing.
"""
CONSTANTS = {
    "CONTRACT_VERSION": packets.CONTRACT_VERSION,
    "MAGIC": registers.MAGIC,
    "SYNC": packets.SYNC,
    "KNOCK_SYNC": packets.KNOCK_SYNC,
    "WORD_BITS": packets.WORD_BITS,
    "COMMAND_WORDS": packets.COMMAND_WORDS,
    "MAX_DATA_WORDS": packets.MAX_DATA_WORDS,
    "MAX_PAYLOAD_WORDS": packets.MAX_PAYLOAD_WORDS,
    "GROUP": packets.GROUP,
    "OCTET_BITS": packets.OCTET_BITS,
    "STORE_WORD_WORDS": packets.STORE_WORD_WORDS,
    "TENSOR_SLOTS": packets.TENSOR_SLOTS,
    "SIGN_BITS": packets.SIGN_BITS,
    "TRACE_RECORDS": packets.TRACE_RECORDS,
    "SUM_BITS": numeric.SUM_BITS,
    "MULTIPLIER_BITS": numeric.MULTIPLIER_BITS,
    "MAX_SHIFT": numeric.MAX_SHIFT,
    "HASH_INITIAL": numeric.HASH_INITIAL,
    **{f"POWER_{name}": getattr(power, name) for name in power.NUMBERS},
    "AXI_ADDRESS_BITS": registers.AXI_ADDRESS_BITS,
}


def field_places(struct: type[data.Struct]) -> dict[str, tuple[int, int, int]]:
    """Name -> (word, shift, width); every field lies in one word."""
    places = {}
    for name, (offset, width) in codec.fields(struct).items():
        word, shift = divmod(offset, packets.WORD_BITS)
        if shift + width > packets.WORD_BITS:
            raise ValueError(f"{struct.__name__}.{name} lies across two words")
        places[name] = (word, shift, width)
    return places


def _comments(thing: type) -> dict[str, str]:
    """Member -> the comment at the end of its line in the source."""
    found = re.finditer(r"^    (\w+) ?[:=][^#\n]*#:? (.*)$", inspect.getsource(thing), re.MULTILINE)
    return {match[1]: match[2] for match in found}


def _table(head: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _bits(low: int, width: int) -> str:
    return f"{low + width - 1}:{low}" if width > 1 else str(low)


def _prose(thing: type) -> str:
    return inspect.getdoc(thing) or ""


def _struct_section(struct: type[data.Struct]) -> str:
    comments = _comments(struct)
    rows = [
        (word, _bits(shift, width), f"`{name}`", comments.get(name, ""))
        for name, (word, shift, width) in field_places(struct).items()
        if not name.startswith("reserved")
    ]
    opcodes = [f"{opcode.name} ({opcode.value})" for opcode, used in packets.COMMANDS.items() if used is struct]
    title = ", ".join(opcodes) or struct.__name__
    return f"### {title}\n\n{_prose(struct)}\n\n{_table(('word', 'bits', 'field', ''), rows)}\n"


def _enum_section(enum: type[IntEnum]) -> str:
    comments = _comments(enum)
    rows = [(member.value, f"`{member.name}`", comments.get(member.name, "")) for member in enum]
    return f"### {enum.__name__}\n\n{_table(('value', 'name', ''), rows)}\n"


def _axi_table() -> str:
    identity = range(0, registers.IDENTITY_WORDS * packets.WORD_BITS // 8, registers.AXI_BYTES)
    first = f"{identity[0]:#05x} .. {identity[-1]:#05x}", "`identity`", "", "", "read-only", "See above."
    rows = []
    for register in registers.AXI_REGISTERS:
        for field in register.fields:
            place = f"{register.address:#05x}", f"`{register.name}`", _bits(field.low, field.width), f"`{field.name}`"
            doc = f"{register.doc} {field.doc}" if field is register.fields[0] else field.doc
            rows.append((*place, field.access, doc))
    return _table(("address", "register", "bits", "field", "access", ""), [first, *rows])


def document() -> str:
    """The register document, Markdown."""
    counters = [
        (index, f"`{counter.name}`", counter.kind, counter.unit, counter.doc)
        for index, counter in enumerate(registers.COUNTERS)
    ]
    parts = [
        f"# Packets and registers, contract version {packets.CONTRACT_VERSION}\n\n<!-- {NOTE} -->\n",
        _prose(packets) + "\n\nReserved bits are sent as 0.\n",
        "## Frames\n",
        *(_struct_section(struct) for struct in (packets.Header, packets.Trailer, packets.Knock)),
        "## Commands\n",
        *(_struct_section(struct) for struct in COMMAND_STRUCTS),
        "## Responses\n",
        *(_struct_section(struct) for struct in RESPONSE_STRUCTS),
        "## Values\n",
        *(_enum_section(enum) for enum in ENUMS),
        "## Registers\n",
        f"READ of space REGISTERS: {registers.IDENTITY_WORDS} words from address 0.\n",
        _struct_section(registers.Identity),
        "## Counters\n",
        COUNTERS_NOTE,
        _table(("word", "counter", "class", "unit", ""), counters) + "\n",
        "## Power\n",
        _prose(power) + "\n",
        *(_struct_section(struct) for struct in POWER_STRUCTS),
        "## AXI4-Lite registers\n",
        AXI_NOTE,
        _axi_table() + "\n",
        "## Constants\n",
        _table(("name", "value"), [(f"`{name}`", f"{value} ({value:#x})") for name, value in CONSTANTS.items()]) + "\n",
    ]
    return "\n".join(parts)


def _define(name: str, value: str | int) -> str:
    return f"#define BITFIRST_{name} {value}"


def _c_name(struct: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", struct.__name__).upper()


def _struct_defines(struct: type[data.Struct]) -> list[str]:
    lines = ["", f"/* {struct.__name__} */", _define(f"{_c_name(struct)}_SIZE_WORDS", codec.word_count(struct))]
    for name, (word, shift, width) in field_places(struct).items():
        if name.startswith("reserved"):
            continue
        stem = f"{_c_name(struct)}_{name.upper()}"
        lines += [
            _define(f"{stem}_WORD", word),
            _define(f"{stem}_SHIFT", shift),
            _define(f"{stem}_MASK", f"UINT64_C({(1 << width) - 1:#x})"),
        ]
    return lines


def _axi_defines() -> list[str]:
    lines = ["", "/* AXI4-Lite registers: byte addresses; the identity block is at 0 */"]
    for register in registers.AXI_REGISTERS:
        stem = f"AXI_{register.name.upper()}"
        lines.append(_define(stem, f"{register.address:#x}"))
        for field in register.fields:
            lines += [
                _define(f"{stem}_{field.name.upper()}_SHIFT", field.low),
                _define(f"{stem}_{field.name.upper()}_MASK", f"UINT32_C({(1 << field.width) - 1:#x})"),
            ]
    return lines


def header() -> str:
    """The C header."""
    lines = [f"/* {NOTE} */", "#ifndef BITFIRST_H", "#define BITFIRST_H", "", "#include <stdint.h>", ""]
    lines += [_define(name, f"UINT64_C({value:#x})") for name, value in CONSTANTS.items()]
    for enum in ENUMS:
        lines += ["", f"/* {enum.__name__} */"]
        lines += [_define(f"{_c_name(enum)}_{member.name}", member.value) for member in enum]
    lines += ["", "/* Fields: BITFIRST_GET(words, WRITE_ROW), or a word |= BITFIRST_PUT(WRITE_ROW, value). */"]
    lines += [
        "#define BITFIRST_GET(words, field) \\",
        "    (((words)[BITFIRST_##field##_WORD] >> BITFIRST_##field##_SHIFT) & BITFIRST_##field##_MASK)",
        "#define BITFIRST_PUT(field, value) \\",
        "    (((uint64_t)(value) & BITFIRST_##field##_MASK) << BITFIRST_##field##_SHIFT)",
    ]
    for struct in STRUCTS:
        lines += _struct_defines(struct)
    lines += ["", "/* Counters: word of the COUNTERS and MARK responses' data */"]
    lines += [_define(f"COUNTER_{counter.name.upper()}", i) for i, counter in enumerate(registers.COUNTERS)]
    lines += [_define("COUNTERS_COUNT", len(registers.COUNTERS)), *_axi_defines(), "", "#endif", ""]
    return "\n".join(lines)


FILES = {"registers.md": document, "bitfirst.h": header}


def main(arguments: list[str]) -> None:
    directory = Path(arguments[0] if arguments else "docs")
    for name, render in FILES.items():
        (directory / name).write_text(render())


if __name__ == "__main__":
    main(sys.argv[1:])
