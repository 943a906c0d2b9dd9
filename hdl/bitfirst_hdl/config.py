"""Validated array configurations, and what follows from them: widths, depths, cycles."""

import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from amaranth.lib.data import Struct

from .contract import power
from .contract.packets import (
    COMMANDS,
    GROUP,
    LIST_ENTRIES,
    MAX_DATA_WORDS,
    MAX_PAYLOAD_WORDS,
    OCTET_BITS,
    PROGRAM_ROWS,
    STATE_WORDS,
    STORE_WORD_WORDS,
    WORD_BITS,
    Opcode,
    Space,
)

MAX_BITS = 16  #: widest operand, both sides
DATAPATHS = {"serial": 1, "fixed": 2, "fusion": 3, "fixed16": 4}
SLICE_BITS = {"serial": (1, 2, 4, 8), "fixed": (8,), "fusion": (2,), "fixed16": (8,)}  #: that each may have
BRICKS, BRICK_PLANES = 16, 2  #: of a fused unit; planes of B that each multiplies, as many as slices of A have bits
#: Parts that a device may be without; bit i of the identity's `features` is the i-th.
FEATURES = ("update", "packed", "gather", "requantise", "trace", "power", "spi", "pmbus", "xadc")
STANDARD = ("gather", "requantise")  #: what a device for training by ordinary gradients has
INSIDE = FEATURES[:5]  #: those that take no pins
BUSES = ("spi", "pmbus", "xadc")  #: of sensors, instead of I2C

# latencies of the engine's parts, in cycles
SETUP_CYCLES = 2  #: a MATMUL's fields to counters and flags
CHOICES = 4  #: columns of B among which each column of the array may choose
ACCUMULATE_CYCLES = 1  #: the tree's sum to the accumulator
LOAD_SETUP_CYCLES = 11  #: a LOAD's fields to its first fetch
LOAD_TAIL_CYCLES = 8  #: last step of a LOAD to its last cell written
UPDATE_SETUP_CYCLES = 2  #: an UPDATE's fields to its first words of the store
UPDATE_TAIL_CYCLES = 9  #: a weight's old master to its new one
FUSED_CYCLES = 3  #: digits of a fused unit's operands to its bricks, and the sum of its products
WIDE_CYCLES = 3  #: octets to numbers of two, half the lanes a cycle later than the others, and products
SUM_CYCLES = 4  #: drained row to partial sum stored: correct, shift, add, write


class ConfigError(ValueError):
    """A configuration that cannot be built; the message says what would mend it."""


@dataclass(frozen=True)
class ArrayConfig:
    """One array and its buffers.

    datapath    "serial": elements take operand B bit by bit, of any width; "fixed": they multiply 8 x 8 bits, and
                wider operands in parts (S = 8, planes by eights; without "packed"); "fusion": bricks of 2 x 2 bits that
                make up products of 2, 4 or 8 bits on each side, and wider ones in parts of 8 (S = 2; without "packed");
                "fixed16": L / 2 multipliers of 16 x 16 bits (S = 8, planes by eights; without "packed")
    slice_bits  S, bits of operand A taken in parallel (1, 2, 4 or 8)
    lanes       L, products per element and cycle (a power of two)
    rows        R, array rows (operand A)
    columns     C, array columns (operand B)
    a_cells     cells of the A operand memory: one octet of one K chunk for every array row
    b_cells     cells of the B operand memory: one octet of one K chunk for every array column
    sum_tiles   tiles of rows * columns partial sums, 48 bits each
    store_words words of the tensor store, 8 planes of 16 elements each (16 bytes)
    rx_words    receive buffer, 64-bit words; a frame that is longer is none
    link_bits   width of the byte stream (8, 16, 32 or 64)
    clock_khz   nominal clock, for time stamps; no effect on behaviour
    watchdog_cycles  cycles without progress after which a command counts as stuck: more than any command takes
    features    which of `FEATURES` it has, in any order. "update": UPDATE, WEIGHTS and READ of the store (needs
                "gather"); "packed": packed MATMULs and PROGRAM (needs "gather" and "requantise"); "gather": the tensor
                store, TENSOR and LOAD: without it the host lays out operands, and writes cells; "requantise": READ of
                sums as numbers of fewer bits, and of their signs: without it they come as they are; "trace": watchdog,
                and a memory of the last commands and faults; "power": sensors of energy, on pins of their own, a
                bus of I2C; "spi": one of SPI instead, "pmbus": a PMBus instead, on the same pins, "xadc": the converter
                in a Xilinx 7-series chip instead (need "power")
    """

    datapath: str = "serial"
    slice_bits: int = 4
    lanes: int = 16
    rows: int = 8
    columns: int = 16
    a_cells: int = 512
    b_cells: int = 256
    sum_tiles: int = 64
    store_words: int = 8192
    rx_words: int = 2048
    link_bits: int = 64
    clock_khz: int = 100_000
    watchdog_cycles: int = 1 << 26
    features: tuple[str, ...] = INSIDE

    def __post_init__(self) -> None:
        self._name_features()
        if not isinstance(self.datapath, str) or self.datapath not in DATAPATHS:
            raise ConfigError(f"datapath {self.datapath!r} is unknown; choose from {', '.join(DATAPATHS)}")
        for field in fields(self)[1:-1]:
            value = getattr(self, field.name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{field.name} = {value!r} must be a positive integer")
        self.one_of("slice_bits", SLICE_BITS[self.datapath])
        if self.datapath != "serial" and self.packs:
            raise ConfigError(f"features = {list(self.features)}: datapath {self.datapath} has no packed; leave it out")
        self.one_of("link_bits", (8, 16, 32, 64))
        self._power_of_two("lanes", GROUP, 256)
        self._power_of_two("rows", 1, 64)
        self._power_of_two("columns", 1, 64)
        self._power_of_two("a_cells", 16, 4096)
        self._power_of_two("b_cells", 16, 4096)
        self._power_of_two("store_words", 64, 65536)
        self._power_of_two("sum_tiles", 2, 4096)
        self._power_of_two("rx_words", 1024 if self.gathers else 512, 32768)  # 512: WRITEs to cells have half of it
        a_name = "rows * lanes * " + ("8" if self.fuses else "slice_bits")
        b_name = "columns * lanes" + ("" if self.datapath == "serial" else " * 8")
        for name, bits in (a_name, self.a_row_bits), (b_name, self.b_row_bits):
            if bits % WORD_BITS and (self.gathers or bits > WORD_BITS):
                raise ConfigError(f"{name} = {bits} must be a multiple of {WORD_BITS}; raise lanes or the count")
            if bits > 256 * WORD_BITS:
                raise ConfigError(f"{name} = {bits} must be at most {256 * WORD_BITS}")
        if self.sum_rows > 2**16:
            raise ConfigError(f"rows * sum_tiles = {self.sum_rows} must be at most {2**16}; lower sum_tiles")
        for name in "clock_khz", "watchdog_cycles":
            if getattr(self, name) >= 2**32:
                raise ConfigError(f"{name} = {getattr(self, name)} must be below 2**32")

    def _name_features(self) -> None:
        """Lists become tuples in the order of `FEATURES`."""
        wanted = self.features
        if not isinstance(wanted, list | tuple) or not set(map(str, wanted)) <= set(FEATURES):
            raise ConfigError(f"features = {wanted!r} must be a list of some of {', '.join(FEATURES)}")
        object.__setattr__(self, "features", tuple(name for name in FEATURES if name in wanted))
        for name, needed in (("update", ("gather",)), ("packed", STANDARD), *((bus, ("power",)) for bus in BUSES)):
            if name in wanted and (missing := [other for other in needed if other not in wanted]):
                raise ConfigError(f"feature {name} needs {' and '.join(missing)}; add to features, or leave {name} out")
        if len(buses := [name for name in BUSES if name in wanted]) > 1:
            raise ConfigError(f"features {' and '.join(buses)} are different buses of sensors; leave one of them out")

    def one_of(self, name: str, allowed: tuple[int, ...]) -> None:
        if getattr(self, name) not in allowed:
            raise ConfigError(f"{name} = {getattr(self, name)} must be one of {', '.join(map(str, allowed))}")

    def _power_of_two(self, name: str, low: int, high: int) -> None:
        value = getattr(self, name)
        if not low <= value <= high or value & (value - 1):
            raise ConfigError(f"{name} = {value} must be a power of two, {low} .. {high}")

    # widths
    @property
    def fuses(self) -> bool:
        """Whether its elements are bricks that are put together to the operands' widths."""
        return self.datapath == "fusion"

    @property
    def is_wide(self) -> bool:
        """Whether its elements multiply two octets of each side at once."""
        return self.datapath == "fixed16"

    @property
    def takes_turns(self) -> bool:
        """Whether the lanes of a chunk have turns, so that it takes several steps in a pass."""
        return self.fuses or self.is_wide

    @property
    def a_row_slice_bits(self) -> int:
        """Bits of A in one row of its memory, for each lane."""
        return OCTET_BITS if self.fuses else self.slice_bits

    @property
    def b_row_planes(self) -> int:
        """Planes of B in one row of its memory."""
        return 1 if self.datapath == "serial" else OCTET_BITS

    @property
    def a_digit_bits(self) -> int:
        """The widest digit of A that a pass multiplies."""
        return MAX_BITS if self.is_wide else self.a_row_slice_bits

    @property
    def b_digit_planes(self) -> int:
        """The widest digit of B that a pass multiplies at once."""
        return MAX_BITS if self.is_wide else self.b_row_planes

    @property
    def slice_counts(self) -> tuple[int, ...]:
        """How many slices of A a MATMUL can take."""
        return (1, 2, 4, 8) if self.fuses else tuple(range(1, self.max_slices + 1))

    @property
    def plane_counts(self) -> tuple[int, ...]:
        """How many planes of B a MATMUL can take."""
        return (2, 4, 8, 16) if self.fuses else tuple(range(self.b_row_planes, MAX_BITS + 1, self.b_row_planes))

    @property
    def a_tops(self) -> int:
        """Bits of `a_offset` that may be set: those of each digit's top slice."""
        return sum(1 << top for top in range(0, self.max_slices, self.a_digit_bits // self.slice_bits))

    @property
    def b_tops(self) -> int:
        """Bits of `b_negative` that may be set: those of each digit's top plane."""
        return sum(1 << top for top in range(0, MAX_BITS, self.b_digit_planes))

    def slices_of(self, bits: int) -> int:
        """Slices that MATMULs take of an operand A of so many bits: the fewest that hold it."""
        return next(count for count in self.slice_counts if count * self.slice_bits >= bits)

    def planes_of(self, bits: int) -> int:
        """Planes that MATMULs take of an operand B of so many bits: the fewest that hold it."""
        return next(count for count in self.plane_counts if count >= bits)

    def pass_slices(self, slices: int) -> int:
        """Of so many slices, those that a pass multiplies at once."""
        return min(slices, self.a_digit_bits // self.slice_bits)

    def chunk_steps(self, slices: int, planes: int) -> int:
        """Array steps of one K chunk in a pass: planes, or digits.

        Where bricks are fused, as many as digits of 2 x 2 bits: a unit has a brick for each of its lanes. Where two
        octets are multiplied at once, one for each.
        """
        if self.is_wide:
            return MAX_BITS // OCTET_BITS
        if self.fuses:
            return self.pass_slices(slices) * planes // BRICK_PLANES
        return planes // self.b_digit_planes

    def feeds(self, slices: int) -> int:
        """How often each bit of B is fed to an array row's elements, for so many slices of A."""
        return 1 if self.is_wide else slices

    @property
    def a_row_bits(self) -> int:
        return self.rows * self.lanes * self.a_row_slice_bits

    @property
    def b_row_bits(self) -> int:
        return self.columns * self.lanes * self.b_row_planes

    @property
    def a_row_words(self) -> int:
        return -(-self.a_row_bits // WORD_BITS)

    @property
    def b_row_words(self) -> int:
        return -(-self.b_row_bits // WORD_BITS)

    @property
    def slices_per_octet(self) -> int:
        return OCTET_BITS // self.slice_bits

    @property
    def a_cell_rows(self) -> int:
        """Rows of the A memory in one cell."""
        return OCTET_BITS // self.a_row_slice_bits

    @property
    def a_rows(self) -> int:
        return self.a_cells * self.a_cell_rows

    @property
    def b_cell_rows(self) -> int:
        """Rows of the B memory in one cell."""
        return OCTET_BITS // self.b_row_planes

    @property
    def b_rows(self) -> int:
        return self.b_cells * self.b_cell_rows

    @property
    def lane_groups(self) -> int:
        """Parts of `GROUP` lanes in one chunk."""
        return self.lanes // GROUP

    @property
    def b_chunks(self) -> int:
        """Chunks of one vector that the B memory takes in a cycle: as many lanes as one read of the store has."""
        if self.datapath != "serial":
            return 1
        return max(1, 2 * GROUP // self.lanes)

    @property
    def b_written_rows(self) -> int:
        """Rows of the B memory that a vector takes in a cycle."""
        return self.b_chunks * OCTET_BITS

    @property
    def group_columns(self) -> int:
        """Columns in a group: a column of the array may be at any of its group's."""
        return min(self.columns, CHOICES)

    @property
    def program_fields(self) -> dict[str, tuple[int, int]]:
        """Fields of one row of PROGRAM in order: how many, and bits of each; see `packets.Matmul`."""
        return {
            "last": (1, 1),
            "b_cell": (1, (self.b_cells - 1).bit_length()),
            "choice": (self.columns, (self.group_columns - 1).bit_length()),
            "a_cell": (self.rows, (self.a_cells - 1).bit_length()),
            "mask": (self.rows, self.columns),
        }

    @property
    def program_bits(self) -> int:
        """Of one row."""
        return sum(count * width for count, width in self.program_fields.values())

    @property
    def program_words(self) -> int:
        """64-bit words of one row."""
        return -(-self.program_bits // WORD_BITS)

    @property
    def sum_rows(self) -> int:
        return self.sum_tiles * self.rows

    @property
    def max_slices(self) -> int:
        return MAX_BITS // self.slice_bits

    @property
    def bit_macs_per_cycle(self) -> int:
        """1 x 1 bit multiply-accumulates in one array step: those of its multipliers, or R * C * L * S."""
        in_lane = {"serial": 1, "fixed": OCTET_BITS, "fusion": BRICK_PLANES, "fixed16": MAX_BITS}[self.datapath]
        return self.rows * self.columns * self.lanes * self.slice_bits * in_lane

    @property
    def max_payload_words(self) -> int:
        """Of a frame to the device: one that the receive buffer holds, with its start."""
        return min(MAX_PAYLOAD_WORDS, self.rx_words - 1)

    @property
    def max_write_words(self) -> int:
        """Data words of the longest WRITE that leaves room for the next one to travel while it is stored."""
        return min(MAX_DATA_WORDS, self.rx_words // 2)

    def max_chunks(self, planes: int) -> int:
        """Most K chunks that one MATMUL can take: what both operand memories can hold."""
        return min(self.a_cells, self.b_cells // -(-planes // OCTET_BITS))

    @cached_property
    def accumulator_bits(self) -> int:
        """Signed width of an element's sum over the longest pass; it cannot overflow.

        Largest magnitude: (2**S - 1) * (2**planes - 1) * lanes * chunks (S: `a_digit_bits`).
        """
        widest = max(
            (2**self.a_digit_bits - 1) * (2**planes - 1) * self.lanes * self.max_chunks(planes)
            for planes in range(1, MAX_BITS + 1)
        )
        return widest.bit_length() + 1

    @property
    def column_sum_bits(self) -> int:
        """Signed width of a column's sum of B over the longest pass."""
        widest = max((2**planes - 1) * self.lanes * self.max_chunks(planes) for planes in range(1, MAX_BITS + 1))
        return widest.bit_length() + 1

    def lane_of_bit(self, bit: int) -> int:
        """Lane of A that meets bit `bit` of a B plane word (see `bitfirst_hdl.element`)."""
        if self.datapath != "serial":
            return bit
        return (bit % self.slice_bits) * (self.lanes // self.slice_bits) + bit // self.slice_bits

    # cycles of one MATMUL; the engine is built to these, benches hold it to them
    @property
    def drain_cycles(self) -> int:
        """Least cycles between the ends of two passes: the R rows of the shadow registers leave one by one."""
        return max(self.rows, 4)

    def stall_cycles(
        self, slices: int, planes: int, chunks: int, row_tiles: int, col_tiles: int, b_below: int = 0
    ) -> int:
        """Cycles in which the array waits for its shadow registers, in one MATMUL."""
        steps = self.chunk_steps(slices, planes) * chunks + b_below
        passes = row_tiles * col_tiles * slices // self.pass_slices(slices)
        return (passes - 1) * max(0, self.drain_cycles - steps)

    def array_steps(self, slices: int, planes: int, chunks: int, row_tiles: int, col_tiles: int) -> int:
        """Cycles in which the array works, in one MATMUL."""
        passes = row_tiles * col_tiles * slices // self.pass_slices(slices)
        return passes * self.chunk_steps(slices, planes) * chunks

    def matmul_cycles(
        self, slices: int, planes: int, chunks: int, row_tiles: int, col_tiles: int, b_below: int = 0
    ) -> int:
        """Cycles that one MATMUL takes of the engine's time: set up, steps, doublings for `b_below`, and stalls.

        The next MATMUL begins in the cycle after these; the last sums are stored meanwhile, `matmul_tail_cycles` later.
        Not counted are the cycles in which a short first pass waits for the shadow registers of the MATMUL before.
        """
        shape = slices, planes, chunks, row_tiles, col_tiles
        doublings = row_tiles * col_tiles * slices * b_below
        return SETUP_CYCLES + self.array_steps(*shape) + doublings + self.stall_cycles(*shape, b_below)

    def packed_cycles(self, tile_rows: Sequence[int], slices: int, planes: int, chunks: int) -> tuple[int, int]:
        """(cycles, stall cycles) of one packed MATMUL whose tiles have so many rows of PROGRAM.

        Tile by tile, slice by slice, each chunk is a pass of its own: its words are taken while the pass before is at
        work. So a pass takes as many cycles as the next one has words, or its planes, or a drain; the last its planes.
        """
        passes = [rows for rows in tile_rows for _ in range(slices * chunks)]
        lengths = [max(passes[0], self.drain_cycles)]
        lengths += [max(rows, planes, self.drain_cycles) for rows in passes[1:]] + [planes]
        return SETUP_CYCLES + sum(lengths), sum(lengths) - len(passes) * planes

    @property
    def operand_cycles(self) -> int:
        """A step to its operands at the elements.

        Both: rows that follow from the step, and which walk's rows are read. Then for B: block RAM, a cycle for each
        step of the rotation, choice of columns. For A: block RAM, a register, and two words in the element; it waits
        for B. Where rows are read as they were written, there is no rotation and no choice, and A sets the pace.
        """
        if not self.gathers or self.datapath != "serial":
            return 6
        return self.b_written_rows.bit_length() + 3

    @property
    def tree_cycles(self) -> int:
        """Latency of an element's tree: log2(L) levels, a register after every two.

        "fixed": products first; "fusion": digits to their bricks, a unit's products, the units' sum; "fixed16": octets
        to L / 2 pairs of numbers, products, their sum.
        """
        if self.is_wide:
            return WIDE_CYCLES + (self.lanes // 2).bit_length() // 2
        if self.fuses:
            return FUSED_CYCLES + (self.lanes // BRICKS).bit_length() // 2
        return self.lanes.bit_length() // 2 + (self.datapath == "fixed")

    @property
    def matmul_tail_cycles(self) -> int:
        """Cycles from the last step of a MATMUL to its last sum stored."""
        last_row = self.operand_cycles + self.tree_cycles + ACCUMULATE_CYCLES + self.rows  # step to last row drained
        return last_row + SUM_CYCLES - 1  # the last step itself is in `array_steps`

    @property
    def updates(self) -> bool:
        """Whether it has the feature "update"."""
        return "update" in self.features

    @property
    def packs(self) -> bool:
        """Whether it has the feature "packed"."""
        return "packed" in self.features

    @property
    def gathers(self) -> bool:
        """Whether it has the feature "gather"."""
        return "gather" in self.features

    @property
    def requantises(self) -> bool:
        """Whether it has the feature "requantise"."""
        return "requantise" in self.features

    @property
    def traces(self) -> bool:
        """Whether it has the feature "trace"."""
        return "trace" in self.features

    @property
    def measures(self) -> bool:
        """Whether it has the feature "power"."""
        return "power" in self.features

    @property
    def sensor_bus(self) -> str:
        """That of its sensors, where it has them: "i2c", or the feature of `BUSES` that it has."""
        return next((name for name in BUSES if name in self.features), "i2c")

    # commands
    @property
    def writable(self) -> dict[Space, tuple[int, int]]:
        """Rows, and 64-bit words in a row, of the spaces that WRITE may name."""
        spaces = {Space.SUMS: (self.sum_rows, self.columns)}
        if self.gathers:
            spaces |= {Space.STORE: (self.store_words, STORE_WORD_WORDS), Space.LIST: (LIST_ENTRIES, 1)}
        else:
            spaces[Space.CELLS_A] = self.a_rows, self.a_row_words
            spaces[Space.CELLS_B] = self.b_rows, self.b_row_words
        if self.packs:
            spaces[Space.PROGRAM] = PROGRAM_ROWS, self.program_words
        if self.measures:
            spaces[Space.POWER] = power.WRITTEN_ROWS, 1
        return spaces

    @property
    def commands(self) -> dict[Opcode, type[Struct]]:
        """Those that it knows."""
        left_out = () if self.updates else (Opcode.UPDATE, Opcode.WEIGHTS)
        left_out += () if self.gathers else (Opcode.TENSOR, Opcode.LOAD)
        return {opcode: struct for opcode, struct in COMMANDS.items() if opcode not in left_out}

    @staticmethod
    def update_cycles(groups: int) -> int:
        """Cycles of one UPDATE or WEIGHTS: a group's words are exchanged for the next one's, then its weights move."""
        exchanges = (groups + 1) * STATE_WORDS * STORE_WORD_WORDS
        return UPDATE_SETUP_CYCLES + exchanges + groups * (GROUP + UPDATE_TAIL_CYCLES)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"features": list(self.features)}

    def identity(self, fingerprint: int = 0) -> dict[str, int]:
        """The identity block's fields, for `codec.encode(Identity, ...)`."""
        from .contract.packets import CONTRACT_VERSION
        from .contract.registers import MAGIC

        return {
            "magic": MAGIC,
            "contract_version": CONTRACT_VERSION,
            "datapath": DATAPATHS[self.datapath],
            "slice_bits": self.slice_bits,
            "lanes": self.lanes,
            "rows": self.rows,
            "columns": self.columns,
            "a_cells": self.a_cells,
            "b_cells": self.b_cells,
            "sum_tiles": self.sum_tiles,
            "rx_words": self.rx_words,
            "features": sum(1 << bit for bit, name in enumerate(FEATURES) if name in self.features),
            "clock_khz": self.clock_khz,
            "store_words": self.store_words,
            "watchdog_cycles": self.watchdog_cycles,
            "fingerprint": fingerprint,
        }


#: Named configurations. `psg` is `default` with all features that take no pins: what learning by signs takes makes the
#: simulated board a third slower. `power` is `psg` with sensors, at a clock that lets a simulation last seconds of the
#: board. `tiny` and `small` compile in seconds; `least` is for small chips, `micro` for the smallest; `slice1` and
#: `slice8` compare S; `fixed`, `fixed16` and `fusion` multiply 8 x 8 bits as often in a cycle as `default`.
CONFIGS = {
    "default": ArrayConfig(features=STANDARD),
    "psg": ArrayConfig(),
    "power": ArrayConfig(clock_khz=2_000, features=(*INSIDE, "power")),
    "small": ArrayConfig(rows=4, columns=4, a_cells=128, b_cells=64, sum_tiles=32, store_words=2048, features=STANDARD),
    "tiny": ArrayConfig(rows=2, columns=4, a_cells=32, b_cells=32, sum_tiles=8, store_words=512, rx_words=1024),
    "least": ArrayConfig(lanes=16, rows=1, columns=4, b_cells=64, sum_tiles=512, rx_words=1024, features=()),
    "micro": ArrayConfig(
        lanes=16,
        rows=1,
        columns=1,
        a_cells=64,
        b_cells=32,
        sum_tiles=128,
        rx_words=512,
        features=(),
    ),
    "square": ArrayConfig(lanes=32, columns=8),
    "fixed": ArrayConfig("fixed", slice_bits=8, rows=4, columns=2, features=STANDARD),
    "fixed16": ArrayConfig("fixed16", slice_bits=8, rows=4, columns=4, features=STANDARD),
    "fusion": ArrayConfig("fusion", slice_bits=2, features=STANDARD),
    "slice1": ArrayConfig(slice_bits=1, lanes=64),
    "slice8": ArrayConfig(slice_bits=8, columns=8),
}


def load(name: str) -> ArrayConfig:
    """A named configuration, or a TOML file with `ArrayConfig` keys (and optionally `base = NAME`).

    Raises `ConfigError` with one line that names the mend.
    """
    if name in CONFIGS:
        return CONFIGS[name]
    path = Path(name)
    if path.suffix != ".toml":
        raise ConfigError(f"configuration {name!r} is unknown; choose from {', '.join(CONFIGS)}, or give a .toml file")
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"configuration file {name} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {name} cannot be read: {error}") from None
    base = values.pop("base", "default")
    if not isinstance(base, str) or base not in CONFIGS:
        raise ConfigError(f"base = {base!r} in {name} is unknown; choose from {', '.join(CONFIGS)}")
    known = {field.name for field in fields(ArrayConfig)}
    for key in values:
        if key not in known:
            raise ConfigError(f"key {key!r} in {name} is unknown; known keys: {', '.join(sorted(known))}")
    return ArrayConfig(**(CONFIGS[base].as_dict() | values))
