"""The device, command by command: memories, results, statuses and execution counters, exactly as the gateware."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract.numeric import MAX_SHIFT, SUM_BITS, container_bits
from bitfirst_hdl.contract.packets import COMMAND_WORDS, MAX_DATA_WORDS, Opcode, Phase, Rounding, Space, Status

from ..command import Command
from . import numeric

RAW_BITS = 64
Answer = tuple[Status, np.ndarray]
Fields = dict[str, int]


class GoldenDevice:
    """Executes commands in order, each at once. Arrival counters stay 0.

    The order of the checks is that of `bitfirst_hdl.sequencer`. Operands are read bit by bit from the memories,
    independently of `bitfirst.packing`.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.config = config
        self.identity = codec.encode(registers.Identity, **config.identity(fingerprint))
        self.memories = {
            Space.A: np.zeros((config.a_depth, config.a_row_words), dtype=np.uint64),
            Space.B: np.zeros((config.b_depth, config.b_row_words), dtype=np.uint64),
            Space.SUMS: np.zeros((config.sum_rows, config.columns), dtype=np.int64),
        }
        self._counters: Counter[str] = Counter()
        self._checks: dict[Opcode, Callable[[Fields], Status]] = {
            Opcode.WRITE: self._check_write,
            Opcode.READ: self._check_read,
            Opcode.MATMUL: self._check_matmul,
            Opcode.MARK: self._check_mark,
        }
        self._actions: dict[Opcode, Callable[[Fields, np.ndarray], np.ndarray]] = {
            Opcode.WRITE: self._write,
            Opcode.READ: self._read,
            Opcode.MATMUL: self._matmul,
            Opcode.MARK: self._mark,
            Opcode.COUNTERS: lambda fields, data: self._counter_words(),
            Opcode.SYNC: lambda fields, data: _words(),
            Opcode.PING: lambda fields, data: _words(fields["token"]),
            Opcode.RESET: self._reset,
        }

    @property
    def counters(self) -> dict[str, int]:
        """The execution counters, without a command that asks for them."""
        return {name: self._counters[name] for name in registers.EXECUTION_COUNTERS}

    def execute(self, command: Command) -> Answer:
        """Status and data words (uint64) of the answer to `command`."""
        return self.execute_payload(command.payload())

    def execute_payload(self, payload: np.ndarray) -> Answer:
        """The same for a frame's payload as it is, right or wrong (at least one uint64 word)."""
        self._counters["commands"] += 1
        opcode = int(payload[0]) & 0xFF
        status, fields = self._decode(opcode, payload)
        if status == Status.OK and opcode in self._checks:
            status = self._checks[Opcode(opcode)](fields)
        if status != Status.OK:
            self._counters["faults"] += 1
            return status, _words()
        return Status.OK, self._actions[Opcode(opcode)](fields, payload[COMMAND_WORDS:])

    # checks
    @staticmethod
    def _decode(opcode: int, payload: np.ndarray) -> tuple[Status, Fields]:
        """Opcode, length and reserved fields."""
        layout = packets.COMMANDS.get(opcode)
        if layout is None:
            return Status.BAD_OPCODE, {}
        if len(payload) < COMMAND_WORDS:
            return Status.BAD_LENGTH, {}
        fields = codec.decode(layout, payload)
        expected = fields["rows"] * fields["words"] if opcode == Opcode.WRITE else 0
        if len(payload) - COMMAND_WORDS != expected:
            return Status.BAD_LENGTH, {}
        if any(value for name, value in fields.items() if name.startswith("reserved")):
            return Status.BAD_VALUE, {}
        return Status.OK, fields

    def _check_write(self, fields: Fields) -> Status:
        memory = self.memories.get(fields["space"])
        if memory is None:
            return Status.BAD_SPACE
        depth, width = memory.shape
        row, rows, word, words = (fields[name] for name in ("row", "rows", "word", "words"))
        if not rows or not words or row + rows > depth or word + words > width:
            return Status.BAD_RANGE
        return Status.OK

    def _check_read(self, fields: Fields) -> Status:
        first, count = fields["first"], fields["count"]
        if fields["space"] == Space.REGISTERS:
            return Status.OK if count and first + count <= len(self.identity) else Status.BAD_RANGE
        if fields["space"] != Space.SUMS:
            return Status.BAD_SPACE
        bits, rows, cols = fields["bits"], fields["rows"], fields["cols"]
        if not (2 <= bits <= 32 or bits == RAW_BITS) or fields["rounding"] > 1 or fields["shift"] > MAX_SHIFT:
            return Status.BAD_VALUE
        inside = first + count <= self.config.sum_tiles and rows <= self.config.rows and cols <= self.config.columns
        if not count * rows * cols or not inside:
            return Status.BAD_RANGE
        words = -(-count * rows * cols * container_bits(bits) // packets.WORD_BITS)
        return Status.OK if words <= MAX_DATA_WORDS else Status.BAD_RANGE

    def _check_matmul(self, fields: Fields) -> Status:
        slices, planes, chunks = fields["slices"], fields["planes"], fields["chunks"]
        row_tiles, col_tiles = fields["row_tiles"], fields["col_tiles"]
        if not 1 <= slices <= MAX_BITS // self.config.slice_bits or not 1 <= planes <= MAX_BITS:
            return Status.BAD_VALUE
        if fields["a_offset"] >> slices or fields["b_negative"] >> planes:
            return Status.BAD_VALUE
        inside = (
            fields["a_row"] + row_tiles * slices * chunks <= self.config.a_depth
            and fields["b_row"] + col_tiles * planes * chunks <= self.config.b_depth
            and fields["sum_tile"] + row_tiles * col_tiles <= self.config.sum_tiles
        )
        return Status.OK if chunks * row_tiles * col_tiles and inside else Status.BAD_RANGE

    @staticmethod
    def _check_mark(fields: Fields) -> Status:
        return Status.OK if fields["phase"] in list(Phase) else Status.BAD_VALUE

    # actions
    def _write(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        shape = fields["rows"], fields["words"]
        place = (
            slice(fields["row"], fields["row"] + shape[0]),
            slice(fields["word"], fields["word"] + shape[1]),
        )
        values = np.asarray(data, dtype=np.uint64).reshape(shape)
        self.memories[fields["space"]][place] = _wrap(values) if fields["space"] == Space.SUMS else values
        self._counters["words_written"] += values.size
        return _words()

    def _read(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        first, count = fields["first"], fields["count"]
        if fields["space"] == Space.REGISTERS:
            return _words(*self.identity[first : first + count])
        rows, cols, bits = fields["rows"], fields["cols"], fields["bits"]
        tiles = self.memories[Space.SUMS].reshape(self.config.sum_tiles, self.config.rows, self.config.columns)
        elements = torch.from_numpy(tiles[first : first + count, :rows, :cols].copy())
        self._counters["elements_read"] += elements.numel()
        if bits != RAW_BITS:
            elements = self._requantise(fields, elements)
        width = container_bits(bits) // 8
        octets = elements.numpy().astype(f"<i{width}").tobytes()
        return np.frombuffer(octets + bytes(-len(octets) % packets.WORD_BYTES), dtype="<u8").astype(np.uint64)

    def _requantise(self, fields: Fields, elements: torch.Tensor) -> torch.Tensor:
        """Of [tiles, rows, cols] sums."""
        tile, row, col = (torch.arange(size, dtype=torch.int64) for size in elements.shape)
        index = (
            fields["index"]
            + (tile * self.config.columns * fields["col_stride"])[:, None, None]
            + (row * fields["row_stride"])[:, None]
            + col * fields["col_stride"]
        )
        numbers, clipped = numeric.requantise(
            elements,
            fields["multiplier"],
            fields["shift"],
            Rounding(fields["rounding"]),
            fields["bits"],
            bool(fields["signed"]),
            numeric.random_bits(fields["key"], index),
        )
        self._counters["saturated"] += int(clipped.sum())
        return numbers

    def _matmul(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        config = self.config
        slices, planes, chunks = fields["slices"], fields["planes"], fields["chunks"]
        row_tiles, col_tiles = fields["row_tiles"], fields["col_tiles"]
        digits = self._digits(fields["a_row"], row_tiles, slices, chunks)
        bits = self._bits(fields["b_row"], col_tiles, planes, chunks)
        weights = np.array(
            [(-1 if fields["b_negative"] >> p & 1 else 1) * 2.0 ** (planes - 1 - p) for p in range(planes)]
        )
        b = np.tensordot(weights, bits, axes=(0, 0))  # [columns, k]
        tiles = slice(fields["sum_tile"], fields["sum_tile"] + row_tiles * col_tiles)
        all_sums = self.memories[Space.SUMS].reshape(config.sum_tiles, config.rows, config.columns)
        sums = all_sums[tiles] if fields["accumulate"] else np.zeros_like(all_sums[tiles])
        for index in range(slices):
            offset = 2 ** (config.slice_bits - 1) if fields["a_offset"] >> index & 1 else 0
            products = (digits[index] - offset) @ b.T  # every partial sum is far below 2**53
            by_tile = products.reshape(row_tiles, config.rows, col_tiles, config.columns).swapaxes(1, 2)
            term = by_tile.astype(np.int64).reshape(sums.shape) << config.slice_bits * (slices - 1 - index)
            total = sums + term
            sums = _wrap(total)
            self._counters["overflows"] += int((sums != total).any(axis=2).sum())
        all_sums[tiles] = sums

        size = slices, planes, chunks, row_tiles, col_tiles
        self._counters["matmuls"] += 1
        self._counters["matmul_cycles"] += config.matmul_cycles(*size)
        self._counters["array_steps"] += config.array_steps(*size)
        self._counters["stall_cycles"] += config.stall_cycles(*size)
        self._counters["serial_ones"] += int(bits.sum()) * row_tiles * slices
        return _words()

    def _digits(self, row: int, tiles: int, slices: int, chunks: int) -> np.ndarray:
        """float64 [slices, array rows of all tiles, k]: the digits in A, offsets included."""
        config = self.config
        words = self.memories[Space.A][row : row + tiles * slices * chunks]
        bits = _unpack(words).reshape(tiles, slices, chunks, config.rows, config.lanes, config.slice_bits)
        lanes = [config.lane_of_bit(element) for element in range(config.lanes)]
        digits = (bits[..., lanes, :] @ 2 ** np.arange(config.slice_bits)).astype(np.float64)
        return digits.transpose(1, 0, 3, 2, 4).reshape(slices, tiles * config.rows, chunks * config.lanes)

    def _bits(self, row: int, tiles: int, planes: int, chunks: int) -> np.ndarray:
        """float64 [planes, array columns of all tiles, k]: the bits in B."""
        config = self.config
        words = self.memories[Space.B][row : row + tiles * planes * chunks]
        bits = _unpack(words).reshape(tiles, planes, chunks, config.columns, config.lanes).astype(np.float64)
        return bits.transpose(1, 0, 3, 2, 4).reshape(planes, tiles * config.columns, chunks * config.lanes)

    def _mark(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        self._counters["phase"] = fields["phase"]
        return self._counter_words()

    def _counter_words(self) -> np.ndarray:
        return _words(*(self._counters[counter.name] for counter in registers.COUNTERS))

    def _reset(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        self._counters.clear()
        return _words()


def _words(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.uint64)


def _unpack(words: np.ndarray) -> np.ndarray:
    """Every bit of uint64 [rows, words], least significant first: uint8 [rows, 64 * words]."""
    return np.unpackbits(np.ascontiguousarray(words, dtype="<u8").view(np.uint8), axis=1, bitorder="little")


def _wrap(values: np.ndarray) -> np.ndarray:
    """The low 48 bits as signed int64."""
    unused = 64 - SUM_BITS
    return (values.astype(np.uint64) << np.uint64(unused)).view(np.int64) >> unused
