"""The device, command by command: memories, results, statuses and execution counters, exactly as the gateware."""

from collections import Counter, deque
from collections.abc import Callable

import numpy as np
import torch
from bitfirst_hdl.config import MAX_BITS, ArrayConfig
from bitfirst_hdl.contract import codec, packets, power, registers
from bitfirst_hdl.contract.numeric import (
    DECAY_SHIFT,
    MASTER_BITS,
    MAX_SHIFT,
    MAX_THRESHOLD,
    STEP_SHIFT,
    SUM_BITS,
    answer_words,
    container_bits,
)
from bitfirst_hdl.contract.packets import (
    COMMAND_WORDS,
    GROUP,
    LIST_ENTRIES,
    MAX_DATA_WORDS,
    OCTET_BITS,
    PROGRAM_ROWS,
    SIGN_BITS,
    STATE_WORDS,
    STORE_WORD_WORDS,
    TENSOR_SLOTS,
    Opcode,
    Phase,
    Rounding,
    Space,
    Status,
    Target,
)

from ..cells import Layout
from ..command import Command
from . import loads, numeric, programs, update

RAW_BITS = 64
MAX_EXTENT = 2**16 - 1  #: of n * h, w * c and h * w * c of a tensor
CELLS = {Space.CELLS_A: Target.A, Space.CELLS_B: Target.B}
Answer = tuple[Status, np.ndarray]
Fields = dict[str, int]


class GoldenDevice:
    """Executes commands in order, each at once. Arrival counters stay 0. It has no sensors: READ of POWER gives zeros.

    The order of the checks is that of `bitfirst_hdl.sequencer`.

    store  uint8 [store words, GROUP]: the octet of each element
    cells  uint8 [cells, vectors, lanes] of each target: octets, flips done
    rows   the row list
    sums   int64 [sum rows, columns]
    program  uint64 [PROGRAM_ROWS, words of a row]
    trace    opcodes and statuses of the last commands
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.config = config
        self.identity = codec.encode(registers.Identity, **config.identity(fingerprint))
        self.store = np.zeros((config.store_words, GROUP), dtype=np.uint8)
        self.cells = {
            Target.A: np.zeros((config.a_cells, config.rows, config.lanes), dtype=np.uint8),
            Target.B: np.zeros((config.b_cells, config.columns, config.lanes), dtype=np.uint8),
        }
        self.sums = np.zeros((config.sum_rows, config.columns), dtype=np.int64)
        self.program = np.zeros((PROGRAM_ROWS, config.program_words), dtype=np.uint64)
        self.rows: loads.Rows = (0,) * LIST_ENTRIES
        self.tensors: dict[int, loads.Place] = {}
        self.trace: deque[tuple[int, Status]] = deque(maxlen=packets.TRACE_RECORDS)
        self._counters: Counter[str] = Counter()
        self._commands, self._writable = config.commands, config.writable
        self._checks: dict[Opcode, Callable[[Fields], Status]] = {
            Opcode.WRITE: self._check_write,
            Opcode.READ: self._check_read,
            Opcode.MATMUL: self._check_matmul,
            Opcode.MARK: self._check_mark,
            Opcode.TENSOR: self._check_tensor,
            Opcode.LOAD: self._check_load,
            Opcode.UPDATE: self._check_update,
            Opcode.WEIGHTS: self._check_weights,
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
            Opcode.TENSOR: self._tensor,
            Opcode.LOAD: self._load,
            Opcode.UPDATE: self._update,
            Opcode.WEIGHTS: self._weights,
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
        self.trace.append((opcode, status))
        if status != Status.OK:
            self._counters["faults"] += 1
            return status, _words()
        return Status.OK, self._actions[Opcode(opcode)](fields, payload[COMMAND_WORDS:])

    # checks
    def _decode(self, opcode: int, payload: np.ndarray) -> tuple[Status, Fields]:
        """Opcode, length and reserved fields."""
        layout = self._commands.get(opcode)
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
        if fields["space"] not in self._writable:
            return Status.BAD_SPACE
        depth, width = self._writable[fields["space"]]
        row, rows, word, words = (fields[name] for name in ("row", "rows", "word", "words"))
        if not rows or not words or row + rows > depth or word + words > width:
            return Status.BAD_RANGE
        return Status.OK

    def _check_read(self, fields: Fields) -> Status:
        first, count = fields["first"], fields["count"]
        if fields["space"] == Space.REGISTERS:
            return Status.OK if count and first + count <= len(self.identity) else Status.BAD_RANGE
        if fields["space"] == Space.STORE and self.config.updates:
            inside = first + count <= len(self.store) and count * STORE_WORD_WORDS <= MAX_DATA_WORDS
            return Status.OK if count and inside else Status.BAD_RANGE
        if fields["space"] == Space.POWER and self.config.measures:
            inside = first + count <= power.READ_WORDS and count <= MAX_DATA_WORDS
            return Status.OK if count and inside else Status.BAD_RANGE
        if fields["space"] != Space.SUMS:
            return Status.BAD_SPACE
        bits, rows, cols = fields["bits"], fields["rows"], fields["cols"]
        if not self.config.requantises and (bits != RAW_BITS or fields["compare"]):
            return Status.BAD_VALUE
        if not (2 <= bits <= 32 or bits == RAW_BITS) or fields["rounding"] > 1 or fields["shift"] > MAX_SHIFT:
            return Status.BAD_VALUE
        if fields["compare"] and (bits != SIGN_BITS or threshold_of(fields) > MAX_THRESHOLD):
            return Status.BAD_VALUE
        inside = first + count <= self.config.sum_tiles and rows <= self.config.rows and cols <= self.config.columns
        if not count * rows * cols or not inside:
            return Status.BAD_RANGE
        words = answer_words(count * rows * cols, bits, bool(fields["compare"]))
        return Status.OK if words <= MAX_DATA_WORDS else Status.BAD_RANGE

    def _check_tensor(self, fields: Fields) -> Status:
        if fields["slot"] >= TENSOR_SLOTS or fields["bits"] > MAX_BITS or fields["layout"]:
            return Status.BAD_VALUE
        if not fields["bits"]:
            return Status.OK
        place = place_of(fields)
        n, h, w, c = place.shape
        if not n * h * w * c or max(n * h, w * c, h * w * c) > MAX_EXTENT or place.words.stop > self.config.store_words:
            return Status.BAD_RANGE
        others = [other for slot, other in self.tensors.items() if slot != fields["slot"]]
        return Status.BAD_RANGE if any(_overlap(place.words, other.words) for other in others) else Status.OK

    def _check_load(self, fields: Fields) -> Status:
        place, target = self.tensors.get(fields["slot"]), Target(fields["target"])
        octets = place.octets if place else 0
        flips = 0 if target == Target.B else octets * self.config.slices_per_octet
        if (
            fields["flip"] >> flips
            or (fields["listed"] and fields["n_fast"])
            or (fields["turn"] and target == Target.B)
        ):
            return Status.BAD_VALUE
        counts = ("positions", "taps", "run", "y_count", "x_count")
        if not place or not all(fields[name] for name in counts):
            return Status.BAD_RANGE
        firsts = ("x_first", "x_count"), ("y_first", "y_count"), ("place_first", "run")
        if any(fields[first] >= fields[count] for first, count in firsts):
            return Status.BAD_RANGE
        if loads.Window.of(fields).leaves(place.shape):
            return Status.BAD_RANGE
        end = fields["cell"] + loads.load_cells(self.config, fields, octets)
        return Status.OK if end <= len(self.cells[target]) else Status.BAD_RANGE

    def _check_matmul(self, fields: Fields) -> Status:
        config = self.config
        slices, planes, chunks = fields["slices"], fields["planes"], fields["chunks"]
        row_tiles, col_tiles = fields["row_tiles"], fields["col_tiles"]
        a_octets, b_octets = fields["a_octets"], fields["b_octets"]
        if not 1 <= slices <= config.max_slices or not 1 <= planes <= MAX_BITS:
            return Status.BAD_VALUE
        if fields["a_offset"] >> slices or fields["b_negative"] >> planes:
            return Status.BAD_VALUE
        if not 1 <= a_octets <= 2 or not 1 <= b_octets <= 2:
            return Status.BAD_VALUE
        if fields["a_first"] + slices > a_octets * config.slices_per_octet:
            return Status.BAD_VALUE
        if fields["b_first"] + planes > b_octets * OCTET_BITS:
            return Status.BAD_VALUE
        if slices + fields["a_below"] > config.max_slices or planes + fields["b_below"] > b_octets * OCTET_BITS:
            return Status.BAD_VALUE
        if config.datapath != "serial" and _cuts_digits(config, fields):
            return Status.BAD_VALUE
        packed = fields["packed"]
        if packed and (fields["b_below"] or not config.packs):
            return Status.BAD_VALUE
        tiles = fields["tiles"] if packed else row_tiles * col_tiles
        inside = (
            fields["a_cell"] + row_tiles * a_octets * chunks <= config.a_cells
            and fields["b_cell"] + col_tiles * b_octets * chunks <= config.b_cells
            and fields["sum_tile"] + tiles <= config.sum_tiles
            and not (packed and fields["program"] >= PROGRAM_ROWS)
        )
        return Status.OK if chunks * row_tiles * col_tiles * tiles and inside else Status.BAD_RANGE

    def _check_update(self, fields: Fields) -> Status:
        shifts = (fields["decay_shift"], DECAY_SHIFT), (fields["rate_shift"], STEP_SHIFT)
        if fields["state"] % 2 or not all(least <= shift <= MAX_SHIFT for shift, least in shifts):
            return Status.BAD_VALUE
        return self._check_states(fields, fields["signs"], fields["groups"])

    def _check_weights(self, fields: Fields) -> Status:
        if fields["state"] % 2 or not 1 <= fields["octets"] <= 2 or fields["shift"] > MAX_SHIFT:
            return Status.BAD_VALUE
        return self._check_states(fields, fields["word"], fields["groups"] * fields["octets"])

    def _check_states(self, fields: Fields, first: int, count: int) -> Status:
        """The words of masters and momenta, and the others."""
        states, others = _states(fields), range(first, first + count)
        if not count or max(states.stop, others.stop) > len(self.store) or _overlap(states, others):
            return Status.BAD_RANGE
        return Status.OK

    @staticmethod
    def _check_mark(fields: Fields) -> Status:
        return Status.OK if fields["phase"] in list(Phase) else Status.BAD_VALUE

    # actions
    def _write(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        rows = slice(fields["row"], fields["row"] + fields["rows"])
        values = np.asarray(data, dtype=np.uint64).reshape(fields["rows"], fields["words"])
        self._counters["words_written"] += values.size
        if fields["space"] == Space.POWER:
            return _words()
        if fields["space"] in CELLS:
            self._write_cells(CELLS[fields["space"]], fields, values)
            return _words()
        for word, column in enumerate(values.T, fields["word"]):
            if fields["space"] == Space.SUMS:
                self.sums[rows, word] = _wrap(column)
            elif fields["space"] == Space.PROGRAM:
                self.program[rows, word] = column
            elif fields["space"] == Space.LIST:
                entries = (column % np.uint64(self.store.size)).tolist()
                self.rows = (*self.rows[: rows.start], *entries, *self.rows[rows.stop :])
            else:
                self.store[rows] = _with_nibbles(self.store[rows], column, word)
        return _words()

    def _write_cells(self, target: Target, fields: Fields, values: np.ndarray) -> None:
        """Rows of an operand memory, or parts of them."""
        layout = Layout.of(self.config, target)
        first, behind = fields["row"], fields["row"] + fields["rows"]
        cells = self.cells[target][first // layout.parts : -(-behind // layout.parts)]
        rows = layout.rows(cells).reshape(-1, layout.words)
        start = first % layout.parts
        rows[start : start + len(values), fields["word"] : fields["word"] + fields["words"]] = values
        cells[:] = layout.cells(rows.reshape(len(cells), layout.parts, layout.words))

    def _tensor(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        self.tensors.pop(fields["slot"], None)
        if fields["bits"]:
            self.tensors[fields["slot"]] = place_of(fields)
        return _words()

    def _load(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        place, target = self.tensors[fields["slot"]], Target(fields["target"])
        values = loads.load_values(self.config, fields, place, self.store, self.rows)
        self.cells[target][fields["cell"] : fields["cell"] + len(values)] = values
        cost = loads.load_cost(self.config, fields, place.shape, place.octets, self.rows)
        self._counters["loads"] += 1
        self._counters["load_cycles"] += cost.cycles
        self._counters["fetches_b" if target == Target.B else "fetches_a"] += cost.fetches
        return _words()

    def _read(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        first, count = fields["first"], fields["count"]
        if fields["space"] == Space.REGISTERS:
            return _words(*self.identity[first : first + count])
        if fields["space"] == Space.POWER:
            return _words(*[0] * count)
        if fields["space"] == Space.STORE:
            return _halves(self.store[first : first + count])
        rows, cols, bits = fields["rows"], fields["cols"], fields["bits"]
        tiles = self.sums.reshape(self.config.sum_tiles, self.config.rows, self.config.columns)
        elements = torch.from_numpy(tiles[first : first + count, :rows, :cols].copy())
        self._counters["elements_read"] += elements.numel()
        if fields["compare"]:
            signs = numeric.compare(elements, threshold_of(fields)).numpy().reshape(-1)
            return np.append(_containers(signs, SIGN_BITS), np.uint64(elements.abs().max()))
        if bits != RAW_BITS:
            elements = self._requantise(fields, elements)
        return _containers(elements.numpy().reshape(-1), container_bits(bits))

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
        if fields["packed"]:
            return self._packed(fields)
        config = self.config
        slices, planes, chunks = fields["slices"], fields["planes"], fields["chunks"]
        row_tiles, col_tiles = fields["row_tiles"], fields["col_tiles"]
        digits, bits = self._digits(fields), self._bits(fields)
        weights = np.array(
            [(-1 if fields["b_negative"] >> p & 1 else 1) * 2.0 ** (planes - 1 - p) for p in range(planes)]
        )
        b = np.tensordot(weights, bits, axes=(0, 0))  # [columns, k]
        tiles = slice(fields["sum_tile"], fields["sum_tile"] + row_tiles * col_tiles)
        all_sums = self.sums.reshape(config.sum_tiles, config.rows, config.columns)
        sums = all_sums[tiles] if fields["accumulate"] else np.zeros_like(all_sums[tiles])
        at_once = config.pass_slices(slices)
        for index in range(0, slices, at_once):
            products = _joined(digits[index : index + at_once], config.slice_bits) @ b.T  # all sums far below 2**53
            by_tile = products.reshape(row_tiles, config.rows, col_tiles, config.columns).swapaxes(1, 2)
            weight = config.slice_bits * (slices - at_once - index + fields["a_below"]) + fields["b_below"]
            term = by_tile.astype(np.int64).reshape(sums.shape) << weight
            total = sums + term
            sums = _wrap(total)
            self._counters["overflows"] += int((sums != total).any(axis=2).sum())
        all_sums[tiles] = sums

        size = slices, planes, chunks, row_tiles, col_tiles
        self._counters["matmuls"] += 1
        self._counters["matmul_cycles"] += config.matmul_cycles(*size, fields["b_below"])
        self._counters["array_steps"] += config.array_steps(*size)
        self._counters["stall_cycles"] += config.stall_cycles(*size, fields["b_below"])
        self._counters["serial_ones"] += int(bits.sum()) * row_tiles * config.feeds(slices)
        return _words()

    def _packed(self, fields: Fields) -> np.ndarray:
        """Tile by tile, each slice of each chunk by itself, in the order of the gateware: so sums wrap alike."""
        config = self.config
        slices, planes, chunks = fields["slices"], fields["planes"], fields["chunks"]
        tiles = list(programs.tiles_of(config, self.program, fields["program"], fields["tiles"]))
        for place, tile in enumerate(tiles, fields["sum_tile"]):
            rows = slice(place * config.rows, (place + 1) * config.rows)
            if not fields["accumulate"]:
                self.sums[rows] = 0
            for index in range(slices):
                weight = config.slice_bits * (slices - 1 - index + fields["a_below"])
                for chunk in range(chunks):
                    digits, bits = self._own_digits(fields, tile, index, chunk), self._own_bits(fields, tile, chunk)
                    signs = [-1 if fields["b_negative"] >> p & 1 else 1 for p in range(planes)]
                    b = np.tensordot([sign << planes - 1 - p for p, sign in enumerate(signs)], bits, axes=(0, 0))
                    total = self.sums[rows] + (np.einsum("rcl,cl->rc", digits, b) << weight)
                    self.sums[rows] = _wrap(total)
                    self._counters["overflows"] += int((self.sums[rows] != total).any(axis=1).sum())
                    self._counters["serial_ones"] += int(bits.sum())
        cycles, stalls = config.packed_cycles([tile.rows for tile in tiles], slices, planes, chunks)
        self._counters["matmuls"] += 1
        self._counters["matmul_cycles"] += cycles
        self._counters["array_steps"] += len(tiles) * slices * planes * chunks
        self._counters["gated_steps"] += sum(int((~tile.used).sum()) for tile in tiles) * slices * planes * chunks
        self._counters["stall_cycles"] += stalls
        return _words()

    def _own_digits(self, fields: Fields, tile: programs.Tile, index: int, chunk: int) -> np.ndarray:
        """int64 [rows, columns, lanes]: the digits of slice `index` that each element multiplies, less their offset."""
        config, size = self.config, self.config.slice_bits
        octet, part = divmod(fields["a_first"] + index, config.slices_per_octet)
        cells = fields["a_cell"] + octet * fields["chunks"] + chunk + tile.a_cell
        octets = self.cells[Target.A][cells % config.a_cells, np.arange(config.rows)[:, None]]
        digits = (octets >> OCTET_BITS - size * (part + 1) & 2**size - 1).astype(np.int64)
        offset = 2 ** (size - 1) if fields["a_offset"] >> index & 1 else 0
        return np.where(tile.used[:, :, None], digits, 0) - offset

    def _own_bits(self, fields: Fields, tile: programs.Tile, chunk: int) -> np.ndarray:
        """int64 [planes, columns, lanes]: the bits of B that each column multiplies with."""
        octet, plane = np.divmod(fields["b_first"] + np.arange(fields["planes"]), OCTET_BITS)
        cells = fields["b_cell"] + octet * fields["chunks"] + chunk + tile.b_cell
        octets = self.cells[Target.B][cells[:, None] % self.config.b_cells, tile.column]
        return (octets >> (OCTET_BITS - 1 - plane)[:, None, None] & 1).astype(np.int64)

    def _digits(self, fields: Fields) -> np.ndarray:
        """float64 [slices, array rows of all tiles, k]: the digits in A, less their offsets."""
        size, slices = self.config.slice_bits, fields["slices"]
        octets = self._octets(Target.A, fields["a_cell"], fields["row_tiles"], fields["a_octets"], fields["chunks"])
        digits = np.empty((slices, *octets.shape[1:]))
        for index in range(slices):
            octet, part = divmod(fields["a_first"] + index, self.config.slices_per_octet)
            digits[index] = octets[octet] >> OCTET_BITS - size * (part + 1) & 2**size - 1
            if fields["a_offset"] >> index & 1:
                digits[index] -= 2 ** (size - 1)
        return digits

    def _bits(self, fields: Fields) -> np.ndarray:
        """float64 [planes, array columns of all tiles, k]: the bits in B."""
        octets = self._octets(Target.B, fields["b_cell"], fields["col_tiles"], fields["b_octets"], fields["chunks"])
        bits = np.empty((fields["planes"], *octets.shape[1:]))
        for index in range(fields["planes"]):
            octet, plane = divmod(fields["b_first"] + index, OCTET_BITS)
            bits[index] = octets[octet] >> OCTET_BITS - 1 - plane & 1
        return bits

    def _octets(self, target: Target, cell: int, tiles: int, octets: int, chunks: int) -> np.ndarray:
        """uint8 [octets, vectors of all tiles, k] of the cells from `cell` on."""
        cells = self.cells[target][cell : cell + tiles * octets * chunks]
        _, vectors, lanes = cells.shape
        by_tile = cells.reshape(tiles, octets, chunks, vectors, lanes).transpose(1, 0, 3, 2, 4)
        return by_tile.reshape(octets, tiles * vectors, chunks * lanes)

    def _update(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        states = _states(fields)
        master, momentum = states_of(self.store[states.start : states.stop])
        signs = self.store[fields["signs"] : fields["signs"] + fields["groups"]].astype(np.int64)
        signs = np.where(signs & 1, 1 - (signs & 2), 0)
        rate, decay = (update.Rate(fields[name], fields[name + "_shift"]) for name in ("rate", "decay"))
        moved = update.update(*map(torch.from_numpy, (master, momentum, signs)), rate, decay, fields["coefficient"])
        self.store[states.start : states.stop] = store_of_states(*(part.numpy() for part in moved))
        self._count_update(fields)
        return _words(int((moved[0].to(torch.int64) >> update.HIDDEN_BITS).abs().max()))

    def _weights(self, fields: Fields, data: np.ndarray) -> np.ndarray:
        states, octets = _states(fields), fields["octets"]
        master, _ = states_of(self.store[states.start : states.stop])
        codes = update.weights(torch.from_numpy(master), fields["shift"]).numpy()
        for octet in range(octets):
            first = fields["word"] + octet * fields["groups"]
            shifted = codes >> OCTET_BITS * (octets - 1 - octet)
            self.store[first : first + fields["groups"]] = shifted.astype(np.uint8)
        self._count_update(fields)
        return _words()

    def _count_update(self, fields: Fields) -> None:
        self._counters["updates"] += 1
        self._counters["update_cycles"] += self.config.update_cycles(fields["groups"])

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


def place_of(fields: Fields) -> loads.Place:
    """Where the tensor lies that a TENSOR describes."""
    shape = tuple(fields[name] for name in ("n", "h", "w", "c"))
    return loads.Place(shape, fields["word"], -(-fields["bits"] // OCTET_BITS))


def _states(fields: Fields) -> range:
    """Words of the masters and momenta of UPDATE and WEIGHTS."""
    return range(fields["state"], fields["state"] + STATE_WORDS * fields["groups"])


def states_of(store: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masters and momenta, int64 [groups, GROUP], in their store words: octets, uint8 [words, GROUP]."""
    octets = store.reshape(-1, STATE_WORDS, GROUP)
    masters = MASTER_BITS // OCTET_BITS
    return _numbers(octets[:, :masters]), _numbers(octets[:, masters:])


def _numbers(octets: np.ndarray) -> np.ndarray:
    """Two's complement numbers of [groups, octets, GROUP], the most significant octet first."""
    numbers = octets[:, 0].astype(np.int8).astype(np.int64)
    for octet in octets[:, 1:].swapaxes(0, 1):
        numbers = numbers << OCTET_BITS | octet
    return numbers


def store_of_states(master: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    """`states_of`, backwards; of integers of any type."""
    octets = [master >> shift for shift in (24, 16, 8, 0)] + [momentum >> shift for shift in (8, 0)]
    return np.stack(octets, axis=1).astype(np.uint8).reshape(-1, GROUP)


def _cuts_digits(config: ArrayConfig, fields: Fields) -> bool:
    """Whether a MATMUL takes less than whole digits of either side, or signs within them."""
    slices, planes = fields["slices"], fields["planes"]
    if slices not in config.slice_counts or planes not in config.plane_counts:
        return True
    cut = fields["a_first"] % config.pass_slices(slices) or fields["b_first"] % min(planes, OCTET_BITS)
    signs = fields["a_offset"] & ~config.a_tops or fields["b_negative"] & ~config.b_tops
    return bool(cut or signs or fields["b_below"])


def _joined(slices: np.ndarray, slice_bits: int) -> np.ndarray:
    """One digit of several slices [slices, ...], the most significant first."""
    weights = 2.0 ** (slice_bits * np.arange(len(slices))[::-1])
    return np.tensordot(weights, slices, axes=(0, 0))


def threshold_of(fields: Fields) -> int:
    """Of a READ that compares."""
    return fields["key"] + (fields["index"] << 32)


def _overlap(words: range, others: range) -> bool:
    return words.start < others.stop and others.start < words.stop


def _with_nibbles(octets: np.ndarray, words: np.ndarray, half: int) -> np.ndarray:
    """uint8 [words, GROUP], with the low (`half` = 0) or high four bits of each from 64-bit words [words]."""
    bits = np.unpackbits(words.astype("<u8").view(np.uint8), bitorder="little").reshape(len(words), -1, GROUP)
    nibbles = np.tensordot(np.uint8([1, 2, 4, 8]), bits, axes=(0, 1))
    return octets & 0x0F | nibbles << 4 if half else octets & 0xF0 | nibbles


def _halves(octets: np.ndarray) -> np.ndarray:
    """uint8 [words, GROUP] as the 64-bit words that a READ sends: four planes of 16 elements each."""
    planes = octets[:, None] >> np.arange(OCTET_BITS, dtype=np.uint8)[:, None] & 1  # [words, planes, GROUP]
    return np.packbits(planes, axis=2, bitorder="little").reshape(-1).view("<u8").astype(np.uint64)


def _containers(values: np.ndarray, width: int) -> np.ndarray:
    """int64 [n] as uint64 words: each value's low `width` bits, an even number, without gaps."""
    pairs = (values[:, None] >> np.arange(0, width, 2) & 3).astype(np.uint8).reshape(-1)
    pairs = np.pad(pairs, (0, -len(pairs) % (packets.WORD_BITS // 2))).reshape(-1, 4)
    return (pairs << np.uint8([0, 2, 4, 6])).sum(axis=1, dtype=np.uint8).view("<u8").astype(np.uint64)


def _wrap(values: np.ndarray) -> np.ndarray:
    """The low 48 bits as signed int64."""
    unused = 64 - SUM_BITS
    return (values.astype(np.uint64) << np.uint64(unused)).view(np.int64) >> unused
