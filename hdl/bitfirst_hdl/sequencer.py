"""Takes committed frames in order, checks each command, executes it, and answers.

Order of the checks
-------------------
The first that fails gives the status; the golden model does the same.

1. `BAD_OPCODE`  opcode is none of `config.ArrayConfig.commands` (looked up in the first word, whatever the length).
2. `BAD_LENGTH`  fewer than `COMMAND_WORDS` words; or data words (those after the command): WRITE has other than
   rows * words of them, any other command has some.
3. `BAD_VALUE`   a reserved field is not zero.
4. `BAD_SPACE`   WRITE to other than `config.ArrayConfig.writable`; READ of other than REGISTERS, SUMS and, with the
   feature "update", STORE, with the feature "power", POWER.
5. `BAD_VALUE`   TENSOR: slot > 15, bits > 16, `layout` not 0. LOAD: `flip` has a bit at or above octets * 8 / S (octets
   of the slot's tensor, 0 without one), or is not zero for target B, as `turn`; both `listed` and `n_fast`. MATMUL:
   slices or planes 0, slices * S > 16, planes > 16, a bit of `a_offset` at or above `slices`, of `b_negative` at or
   above `planes`, a_octets or b_octets other than 1, 2, a_first + slices > a_octets * 8 / S, b_first + planes >
   b_octets * 8, (slices + a_below) * S > 16, planes + b_below > b_octets * 8, `packed` with `b_below`, or without the
   feature "packed"; datapaths but "serial": b_below not 0, bits of `a_offset` and `b_negative` outside
   `config.ArrayConfig.a_tops` and `b_tops`; "fixed", "fixed16": planes or b_first no multiple of 8; "fusion": slices or
   planes / 2 other than 1, 2, 4, 8, a_first no multiple of min(slices, 4), b_first none of min(planes, 8). READ of
   SUMS: `bits` other than 2 .. 32 or 64, `rounding` > 1, `shift` > 63 (also where `bits` = 64), or than 64 without the
   feature "requantise"; `compare` with `bits` other than 2 or a threshold above 2**47.
   MARK: `phase` not in `packets.Phase`. READ of REGISTERS and STORE looks at no field but `first`, `count`. UPDATE,
   WEIGHTS: an odd `state`, a shift above 63; decay_shift < 16, rate_shift < 17; octets other than 1, 2.
6. `BAD_RANGE`   a count (rows, words, cols, count, chunks, row_tiles, col_tiles; n, h, w, c; positions, taps, run,
   y_count, x_count; groups) is zero, or what is addressed ends behind the memory: WRITE row + rows, word + words;
   TENSOR word + octets * octet_words; LOAD cell + tiles * octets * chunks (cells of the target); MATMUL a_cell +
   row_tiles * a_octets * chunks, b_cell + col_tiles * b_octets * chunks, sum_tile + row_tiles * col_tiles (`packed`:
   + tiles, which may not be zero either; program); READ first + count (`IDENTITY_WORDS`, `store_words` or
   `sum_tiles`); UPDATE, WEIGHTS state + 6 * groups and signs + groups or word + octets * groups, also where these
   overlap. READ: an answer of more than `MAX_DATA_WORDS` words; of SUMS: rows > R, cols > C. TENSOR: n * h, w * c or
   h * w * c > 65535, an overlap with the tensor of another slot. LOAD: a slot without tensor, n_first >= n (`listed`:
   `LIST_ENTRIES`), x_first >= x_count, y_first >= y_count, place_first >= run, positions that leave the image or go
   on behind the last one (see `packets.Load`). TENSOR with bits = 0 forgets the slot's tensor, and no field is
   checked for its range.

A quiet LOAD or MATMUL has no response unless a check fails. A response repeats the opcode byte, also an unknown one.
MARK answers with the counters after the phase is set and with itself counted.
"""

from collections.abc import Sequence

from amaranth.hdl import Array, Cat, Const, Module, Mux, ShapeLike, Signal, Value, signed
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .config import MAX_BITS, ArrayConfig
from .contract import codec, packets, power
from .contract.numeric import DECAY_SHIFT, MAX_SHIFT, MAX_THRESHOLD, STEP_SHIFT
from .contract.packets import (
    COMMAND_WORDS,
    GROUP,
    LIST_ENTRIES,
    MAX_DATA_WORDS,
    MAX_PAYLOAD_WORDS,
    OCTET_BITS,
    PROGRAM_ROWS,
    SIGN_BITS,
    STATE_WORDS,
    STORE_WORD_WORDS,
    TENSOR_SLOTS,
    WORD_BITS,
    Opcode,
    Phase,
    Rounding,
    Space,
    Status,
    Target,
)
from .contract.registers import COUNTERS, IDENTITY_WORDS, Identity
from .counters import PHASE_BITS
from .frames import Reply
from .operands import one_in_turn
from .ports import GatherJob, MemoryWrite, TensorPlace, word_stream
from .readout import Job
from .update import VISIBLE_BITS, Task, UpdateJob

_FACTOR_BITS = 16
_RAW_BITS = 64
_COMMAND_BITS = COMMAND_WORDS * WORD_BITS
_MAX_EXTENT = 2**16 - 1  # of n * h, w * c and h * w * c of a tensor
_FIRST_COMPARED = 6  # step in which TENSOR is compared with the tensor of slot 0
PROMISES = 4  #: READs of SUMS whose answers may wait for the transmitter
_BEFORE = (0, 1, 3, 5)  # active and step of a check, in the cycle before steps 0, 1, 2, 3
_CELLS = (Space.CELLS_A, Space.CELLS_B)
_UPDATES = (Opcode.UPDATE, Opcode.WEIGHTS)
_WAITS_FOR_ALL = (Opcode.SYNC, Opcode.MARK, Opcode.RESET)


class Slot(data.Struct):
    """A tensor descriptor as it is kept; `end` is the store word behind the tensor."""

    place: TensorPlace
    end: 17


class Promise(data.Struct):
    """An answer to a READ of SUMS that is to come."""

    status: Status
    sequence: 16
    words: range(MAX_DATA_WORDS + 1)


class Waits(data.Struct):
    """What a command waits for, where it is under way."""

    load: 1
    load_words: 1  # a LOAD that may read the words
    load_cells: 1  # a LOAD that writes the cells
    matmuls: 1
    walk_cells: 1  # a MATMUL that walks over the cells
    matmul_sums: 1  # MATMULs that have sums of the tiles to store
    readout: 1
    read_sums: 1  # a READ of the tiles
    answers: 1  # READs that are not answered
    room: 1  # for one more of them


def rows_of(count: int) -> data.StructLayout:
    """Rows `first` to `end` - 1 of a memory of `count` rows."""
    return data.StructLayout({"first": range(count), "end": range(count + 1)})


def decoded_bit(config: ArrayConfig, opcode: Opcode) -> int:
    """The bit that says that it is this command, of those that a device knows."""
    return list(config.commands).index(opcode)


def _overlap(rows: data.View, others: data.View) -> Value:
    return (rows.first < others.end) & (others.first < rows.end)


def _parts(count: Value, size: int) -> Value:
    """count / size, rounded up; `size` is a power of two."""
    return (count + (size - 1)) >> (size.bit_length() - 1)


def _forwards(step: Value) -> Value:
    """A signed step; 0 if it goes back."""
    return Mux(step[-1], 0, step)


class _ByCommand:
    """Signals that each command has; of the one at hand they are chosen by a bit each, without a decoder.

    They are no fields of a `data.Struct`, each set by itself: in Verilog one that is always 1 is then an `always @*`
    that waits for a change, and stays 0.
    """

    def __init__(self, name: str, **shapes: ShapeLike) -> None:
        for field, shape in shapes.items():
            setattr(self, field, Signal(shape, name=f"{name}_{field}"))

    def choose(self, decoded: Value, each: Sequence["_ByCommand"]) -> list:
        """Statements that take over those of the command at hand."""
        return [to.eq(one_in_turn(decoded, [getattr(one, field) for one in each])) for field, to in vars(self).items()]


class _Finding(_ByCommand):
    """What a command is found to be in the step at hand.

    more_steps  there are steps to come
    bad_fields  values are wrong, as is known in the next step
    uses        it addresses `count` rows from `first` on, of a memory of `depth`
    """

    def __init__(self, name: str) -> None:
        flags = ("more_steps", "bad_reserved", "bad_space", "bad_value", "bad_fields", "bad_range", "uses")
        super().__init__(name, **dict.fromkeys(flags, 1), first=32, count=2 * _FACTOR_BITS + 1, depth=17)


class _Factors(_ByCommand):
    """What a command multiplies in the coming step.

    from_product  the product of the step before, instead of `left`
    """

    def __init__(self, name: str) -> None:
        factors = ("left", "right", "window_left", "window_right")
        super().__init__(name, **dict.fromkeys(factors, _FACTOR_BITS), from_product=1)


class CommandCheck(wiring.Component):
    """Checks all fields of one command, in the order given above.

    command     in(256)  its words; holds still from `go` to `done`
    decoded     in       which command it is: the bit that `decoded_bit` tells, or none; as `command`
    data_words  in(10)   data words behind it
    short       in(1)    it has fewer than `COMMAND_WORDS` words
    go          in(1)    high for one cycle, one cycle after which the check begins
    slot_read   out      slot of the tensor table that is looked up
    slot        in       `Slot`: what it held in the cycle before
    done        out(1)   high for one cycle, when the outputs below are valid; they hold until the next `go`
    status      out      `Status`
    a, b        out      cells of A and B that MATMUL reads or LOAD writes; none: `end` is 0
    sums        out      tiles of SUMS that MATMUL or READ uses
    store       out      words of STORE that WRITE writes or LOAD may read
    described   out      `Slot`: what TENSOR describes
    read_words  out      data words of READ's answer

    Products are made by a 16 x 16 bit multiplier, one a cycle, from operands that were chosen a cycle before; LOAD's
    window by a second one beside it. `done` comes 2
    cycles after `go`, plus one per product: WRITE, UPDATE and WEIGHTS 1, READ of SUMS and MATMUL 3 (READ 2 without
    "requantise"), LOAD 4; TENSOR 21, with 16 comparisons.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(_COMMAND_BITS),
                "decoded": In(len(config.commands)),
                "data_words": In(range(MAX_PAYLOAD_WORDS + 1)),
                "short": In(1),
                "go": In(1),
                "slot_read": Out(range(TENSOR_SLOTS)),
                "slot": In(Slot),
                "done": Out(1),
                "status": Out(Status),
                "a": Out(rows_of(config.a_cells)),
                "b": Out(rows_of(config.b_cells)),
                "sums": Out(rows_of(config.sum_tiles)),
                "store": Out(rows_of(config.store_words)),
                "described": Out(Slot),
                "read_words": Out(range(MAX_DATA_WORDS + 1)),
            }
        )
        self._active, self._step = Signal(), Signal(range(_FIRST_COMPARED + TENSOR_SLOTS))
        self._product = Signal(2 * _FACTOR_BITS, reset_less=True)
        self._window_product = Signal(2 * _FACTOR_BITS, reset_less=True)
        self._found = _Finding("found")  # of the command at hand
        self._bad_fields = Signal()  # values of commands with products, known from step 1 on
        # of LOAD: tiles and chunks, last pixel, positions of an image before the first one, images from that on
        self._tiles, self._chunks = Signal(_FACTOR_BITS), Signal(_FACTOR_BITS)
        self._last_x, self._before, self._images_from_first = Signal(signed(25)), Signal(32), Signal(_FACTOR_BITS)
        self._end = Signal(18)  # behind what is addressed

    def elaborate(self, platform) -> Module:
        m = Module()
        ends = ~self._found.more_steps
        m.d.sync += [
            self._active.eq(self.go | (self._active & ~ends)),
            self._step.eq(Mux(self._active, self._step + 1, 0)),
            self.done.eq(self._active & ends),
        ]
        with m.If(self._active):  # else all of this rests
            m.d.sync += self._bad_fields.eq(self._found.bad_fields)
        m.d.comb += [
            self._end.eq(self._found.first[:16] + self._found.count[:17]),
            self.slot_read.eq(packets.Load(self.command).slot),
        ]
        self._make_products(m)
        # all commands are looked at side by side: a bit of `decoded` comes late, and only chooses
        found = [self._finding(m, opcode) for opcode in self.config.commands]
        m.d.comb += self._found.choose(self.decoded, found)
        self._judge(m)
        return m

    def _finding(self, m: Module, opcode: Opcode) -> _Finding:
        """What is found if it is this command."""
        found, active = _Finding(f"found_{opcode.name}"), Signal(name=f"checks_{opcode.name}")
        m.d.comb += [
            active.eq(self._active & self._is(opcode)),
            found.bad_reserved.eq(self._reserved(self.config.commands[opcode]).any()),
        ]
        self._fields(m, opcode, found, active)
        return found

    def _is(self, opcode: Opcode) -> Value:
        return self.decoded[decoded_bit(self.config, opcode)]

    def _make_products(self, m: Module) -> None:
        """One a step of each multiplier. Its operands are registered; a product that goes on is one by itself."""
        factors, coming = [], _Factors("coming")
        for opcode in self.config.commands:
            factors.append(_Factors(f"factors_{opcode.name}"))
            self._factors(m, opcode, factors[-1])
        with m.If(self.go | self._active):
            m.d.sync += coming.choose(self.decoded, factors)
        with m.If(self._active):  # a command may end where its product would go on for ever
            m.d.sync += [
                self._product.eq(Mux(coming.from_product, self._product[:_FACTOR_BITS], coming.left) * coming.right),
                self._window_product.eq(coming.window_left * coming.window_right),
            ]

    def _outside(self) -> Value:
        """What is wrong with what is addressed: it is nothing, or it ends far behind the memory."""
        found = self._found
        far = found.first[16:].any() | found.count[17:].any()
        return found.uses.replicate(2) & Cat(found.count == 0, far)

    @staticmethod
    def _use(m: Module, found: _Finding, first: Value, count: Value, depth: Value | int) -> None:
        """`count` rows from `first` are addressed."""
        m.d.comb += [found.uses.eq(1), found.first.eq(first), found.count.eq(count), found.depth.eq(depth)]

    def _reserved(self, struct: type[data.Struct]) -> Value:
        places = [place for name, place in codec.fields(struct).items() if name.startswith("reserved")]
        return Cat(self.command[offset : offset + width] for offset, width in places)

    def _judge(self, m: Module) -> None:
        """The status, of what was found wrong: ranges in any step, the rest in the last one."""
        writes = self._is(Opcode.WRITE)  # of which all steps but the first see the product
        wrong_length = Mux(writes, self._product != self.data_words, self.data_words != 0)
        failures = (
            (~self.decoded.any(), Status.BAD_OPCODE),
            (self.short | wrong_length, Status.BAD_LENGTH),
            (self._found.bad_reserved, Status.BAD_VALUE),
            (self._found.bad_space, Status.BAD_SPACE),
            (self._found.bad_value, Status.BAD_VALUE),
        )
        was_bad_range, bad_ranges = Signal(), Signal(3)  # before the last step, in it
        # the end is compared in the cycle behind the step, where the sum and the comparison would be a long path
        used, end, depth = Signal(), Signal.like(self._end), Signal.like(self._found.depth)
        is_bad_range = was_bad_range | bad_ranges.any() | (used & (end > depth))
        with m.If(self.go):
            m.d.sync += [was_bad_range.eq(0), bad_ranges.eq(0), used.eq(0)]
        with m.Elif(self._active):
            m.d.sync += [
                was_bad_range.eq(is_bad_range),
                bad_ranges.eq(Cat(self._found.bad_range, self._outside())),
                *(used.eq(self._found.uses), end.eq(self._end), depth.eq(self._found.depth)),
            ]
        m.d.comb += self.status.eq(Mux(is_bad_range, Status.BAD_RANGE, Status.OK))
        for number, (failed, status) in reversed(list(enumerate(failures))):
            found = Signal(name=f"found_{number}")
            with m.If(self._active):
                m.d.sync += found.eq(failed)
            with m.If(found):
                m.d.comb += self.status.eq(status)

    def _fields(self, m: Module, opcode: Opcode, found: _Finding, active: Value) -> None:
        """What its fields are found to be; while it is `active`, what they say is kept."""
        if opcode == Opcode.WRITE:
            self._write(m, found, active, packets.Write(self.command))
        elif opcode == Opcode.READ:
            self._read(m, found, active, packets.Read(self.command))
        elif opcode == Opcode.MATMUL:
            self._matmul(m, found, active, packets.Matmul(self.command))
        elif opcode == Opcode.TENSOR:
            self._tensor(m, found, active, packets.Tensor(self.command))
        elif opcode == Opcode.LOAD:
            self._load(m, found, active, packets.Load(self.command))
        elif opcode == Opcode.UPDATE:
            self._update(m, found, packets.Update(self.command))
        elif opcode == Opcode.WEIGHTS:
            self._weights(m, found, packets.Weights(self.command))
        elif opcode == Opcode.MARK:
            m.d.comb += found.bad_value.eq(packets.Mark(self.command).phase > max(Phase))

    def _factors(self, m: Module, opcode: Opcode, factors: _Factors) -> None:
        """What a command multiplies in the coming step."""
        if opcode == Opcode.WRITE:
            write = packets.Write(self.command)
            self._multiply(m, factors, write.rows, write.words)
        elif opcode == Opcode.READ:
            self._read_factors(m, factors, packets.Read(self.command))
        elif opcode == Opcode.MATMUL:
            self._matmul_factors(m, factors, packets.Matmul(self.command))
        elif opcode == Opcode.TENSOR:
            self._tensor_factors(m, factors, packets.Tensor(self.command))
        elif opcode == Opcode.LOAD:
            self._load_factors(m, factors, packets.Load(self.command))
        elif opcode == Opcode.UPDATE:
            self._multiply(m, factors, packets.Update(self.command).groups, STATE_WORDS)
        elif opcode == Opcode.WEIGHTS:
            self._multiply(m, factors, packets.Weights(self.command).groups, STATE_WORDS)

    @staticmethod
    def _multiply(m: Module, factors: _Factors, left: Value, right: Value) -> None:
        m.d.comb += [factors.left.eq(left), factors.right.eq(right)]

    @staticmethod
    def _multiply_product(m: Module, factors: _Factors, right: Value) -> None:
        m.d.comb += [factors.from_product.eq(1), factors.right.eq(right)]

    @staticmethod
    def _multiply_beside(m: Module, factors: _Factors, left: Value, right: Value) -> None:
        m.d.comb += [factors.window_left.eq(left), factors.window_right.eq(right)]

    def _write(self, m: Module, found: _Finding, active: Value, write: packets.Write) -> None:
        rows, words = Signal(17), Signal(17)
        m.d.comb += [found.more_steps.eq(self._step != 1), found.bad_space.eq(1)]
        with m.Switch(write.space):
            for space, (depth, row_words) in self.config.writable.items():
                with m.Case(space):
                    m.d.comb += [found.bad_space.eq(0), rows.eq(depth), words.eq(row_words)]
        with m.If(self._step == 0):
            self._use(m, found, write.word, write.words, words)
        with m.Else():
            self._use(m, found, write.row, write.rows, rows)
        with m.If(active):
            m.d.sync += [self.store.first.eq(write.row), self.store.end.eq(self._end)]
        if not self.config.gathers:
            self._write_cells(m, active, write)

    def _write_cells(self, m: Module, active: Value, write: packets.Write) -> None:
        for space, cells, parts in (
            (Space.CELLS_A, self.a, self.config.a_cell_rows),
            (Space.CELLS_B, self.b, self.config.b_cell_rows),
        ):
            with m.If(active):
                m.d.sync += [
                    cells.first.eq(write.row >> exact_log2(parts)),
                    cells.end.eq(Mux(write.space == space, _parts(self._end, parts), 0)),
                ]

    def _read(self, m: Module, found: _Finding, active: Value, read: packets.Read) -> None:
        config, depth, words = self.config, Signal(17), Signal.like(self.read_words)
        self._use(m, found, read.first, read.count, depth)
        with m.If(active):
            m.d.sync += [self.sums.first.eq(read.first), self.sums.end.eq(self._end), self.read_words.eq(words)]
        m.d.comb += words.eq(read.count)
        with m.Switch(read.space):
            with m.Case(Space.REGISTERS):
                m.d.comb += depth.eq(IDENTITY_WORDS)
            with m.Case(*([Space.STORE] if config.updates else [])):
                stored = read.count << exact_log2(STORE_WORD_WORDS)
                m.d.comb += [
                    depth.eq(config.store_words),
                    words.eq(stored),
                    found.bad_range.eq(stored > MAX_DATA_WORDS),
                ]
            with m.Case(*([Space.POWER] if config.measures else [])):
                m.d.comb += [depth.eq(power.READ_WORDS), found.bad_range.eq(read.count > MAX_DATA_WORDS)]
            with m.Case(Space.SUMS):
                self._read_of_sums(m, found, words, read)
                m.d.comb += depth.eq(config.sum_tiles)
            with m.Default():
                m.d.comb += found.bad_space.eq(1)

    def _read_of_sums(self, m: Module, found: _Finding, words: Signal, read: packets.Read) -> None:
        config = self.config
        outside = (read.rows == 0) | (read.cols == 0) | (read.rows > config.rows) | (read.cols > config.columns)
        m.d.comb += [
            found.bad_value.eq(self._bad_fields),
            found.bad_fields.eq(
                self._bad_form(read) | (read.rounding > max(Rounding)) | (read.shift > MAX_SHIFT),
            ),
            found.bad_range.eq(outside | self._too_many(m, found, words, read)),
        ]

    def _read_factors(self, m: Module, factors: _Factors, read: packets.Read) -> None:
        with m.Switch(Cat(self._active, self._step)):
            with m.Case(_BEFORE[0]):
                self._multiply(m, factors, read.rows, read.cols)
            with m.Case(_BEFORE[1]):
                self._multiply_product(m, factors, read.count)
            with m.Case(*([_BEFORE[2]] if self.config.requantises else [])):
                self._multiply_product(m, factors, (read.bits[:7] + 3) >> 2)  # nibbles

    def _too_many(self, m: Module, found: _Finding, words: Signal, read: packets.Read) -> Value:
        """Counts the data words of sums; whether these are more than an answer has."""
        if not self.config.requantises:  # a word each
            m.d.comb += [found.more_steps.eq(self._step != 2), words.eq(self._product)]
            return (self._step == 2) & (self._product > MAX_DATA_WORDS)
        numbers, signs = WORD_BITS // 4, WORD_BITS // SIGN_BITS  # in a word; behind signs comes one word more
        needed, filled = Signal(range(2**28 + 2)), Signal(33)
        m.d.comb += [
            found.more_steps.eq(self._step != 3),
            filled.eq(self._product + Mux(read.compare, 2 * signs - 1, numbers - 1)),
            needed.eq(Mux(read.compare, filled >> exact_log2(signs), filled >> exact_log2(numbers))),
            words.eq(needed),
        ]
        overflows = (self._step == 2) & self._product[_FACTOR_BITS:].any()  # more elements than nibbles fit
        return overflows | ((self._step == 3) & (needed > MAX_DATA_WORDS))

    def _update(self, m: Module, found: _Finding, update: packets.Update) -> None:
        too_small = (update.decay_shift < DECAY_SHIFT) | (update.rate_shift < STEP_SHIFT)
        too_large = (update.decay_shift > MAX_SHIFT) | (update.rate_shift > MAX_SHIFT)
        m.d.comb += found.bad_value.eq(update.state[0] | too_small | too_large)
        self._state(m, found, update, update.signs, update.groups)

    def _weights(self, m: Module, found: _Finding, weights: packets.Weights) -> None:
        octets = weights.octets
        m.d.comb += found.bad_value.eq(
            weights.state[0] | (octets < 1) | (octets > 2) | (weights.shift > MAX_SHIFT),
        )
        self._state(m, found, weights, weights.word, weights.groups << octets[1])

    def _state(self, m: Module, found: _Finding, fields: data.View, other: Value, count: Value) -> None:
        """The words of masters and momenta, and `count` others from `other` on."""
        end, other_end = Signal(20), Signal(20)
        m.d.comb += [
            found.more_steps.eq(self._step != 1),
            end.eq(fields.state + self._product),
            other_end.eq(other + count),
        ]
        overlap = (fields.state < other_end) & (other < end)
        outside = (end > self.config.store_words) | (other_end > self.config.store_words)
        m.d.comb += found.bad_range.eq((fields.groups == 0) | ((self._step == 1) & (outside | overlap)))

    def _bad_form(self, read: packets.Read) -> Value:
        """Whether sums cannot be read in these bits."""
        if not self.config.requantises:
            return (read.bits != _RAW_BITS) | read.compare
        other = (read.bits < 2) | ((read.bits > 32) & (read.bits != _RAW_BITS))
        return other | (read.compare & ((read.bits != SIGN_BITS) | self._too_high(read)))

    @staticmethod
    def _too_high(read: packets.Read) -> Value:
        """Whether the threshold is above `MAX_THRESHOLD`, a power of two."""
        threshold, top = Cat(read.key, read.index), exact_log2(MAX_THRESHOLD)
        return threshold[top + 1 :].any() | (threshold[top] & threshold[:top].any())

    def _matmul(self, m: Module, found: _Finding, active: Value, matmul: packets.Matmul) -> None:
        m.d.comb += [
            found.more_steps.eq(self._step != 3),
            found.bad_value.eq(self._bad_fields),
            found.bad_fields.eq(self._bad_matmul(matmul)),
        ]
        self._matmul_ranges(m, found, active, matmul)

    def _bad_matmul(self, matmul: packets.Matmul) -> Value:
        config = self.config
        return (
            (matmul.slices == 0)
            | (matmul.slices > config.max_slices)
            | (matmul.planes == 0)
            | (matmul.planes > MAX_BITS)
            | (matmul.a_offset >> matmul.slices[:5]).any()
            | (matmul.b_negative >> matmul.planes[:5]).any()
            | (matmul.a_octets < 1)
            | (matmul.a_octets > 2)
            | (matmul.b_octets < 1)
            | (matmul.b_octets > 2)
            | (matmul.a_first + matmul.slices > matmul.a_octets * config.slices_per_octet)
            | (matmul.b_first + matmul.planes > matmul.b_octets * OCTET_BITS)
            | (matmul.slices + matmul.a_below > config.max_slices)
            | (matmul.planes + matmul.b_below > matmul.b_octets * OCTET_BITS)
            | (matmul.packed & (matmul.b_below != 0 if config.packs else 1))
            | self._cuts_digits(matmul)
        )

    def _matmul_ranges(self, m: Module, found: _Finding, active: Value, matmul: packets.Matmul) -> None:
        config, product = self.config, self._product
        with m.Switch(self._step):  # a product of 0 is a count of 0
            with m.Case(0):
                pass
            with m.Case(1):
                self._use(m, found, matmul.a_cell, product << matmul.a_octets[1], config.a_cells)
                with m.If(active):
                    m.d.sync += [self.a.first.eq(matmul.a_cell), self.a.end.eq(self._end)]
            with m.Case(2):
                self._use(m, found, matmul.b_cell, product << matmul.b_octets[1], config.b_cells)
                with m.If(active):
                    m.d.sync += [self.b.first.eq(matmul.b_cell), self.b.end.eq(self._end)]
            with m.Default():
                self._use(m, found, matmul.sum_tile, Mux(matmul.packed, matmul.tiles, product), config.sum_tiles)
                with m.If(active):
                    m.d.sync += [self.sums.first.eq(matmul.sum_tile), self.sums.end.eq(self._end)]
                m.d.comb += found.bad_range.eq(matmul.packed & (matmul.program >= PROGRAM_ROWS))

    def _matmul_factors(self, m: Module, factors: _Factors, matmul: packets.Matmul) -> None:
        with m.Switch(Cat(self._active, self._step)):
            with m.Case(_BEFORE[0]):
                self._multiply(m, factors, matmul.row_tiles, matmul.chunks)
            with m.Case(_BEFORE[1]):
                self._multiply(m, factors, matmul.col_tiles, matmul.chunks)
            with m.Case(_BEFORE[2]):
                self._multiply(m, factors, matmul.row_tiles, matmul.col_tiles)

    def _cuts_digits(self, matmul: packets.Matmul) -> Value:
        """Whether operands are not in whole digits, or signed within them, where they must be."""
        if self.config.datapath == "serial":
            return Const(0)
        config = self.config
        signs = (matmul.a_offset & ~config.a_tops).any() | (matmul.b_negative & ~config.b_tops).any()
        signs |= matmul.b_below != 0
        slices, planes, a_first, b_first = matmul.slices, matmul.planes, matmul.a_first, matmul.b_first
        if not config.fuses:
            low = exact_log2(OCTET_BITS)
            return signs | planes[:low].any() | b_first[:low].any()
        widths = (slices & (slices - 1)).any() | (planes & (planes - 1)).any() | planes[0]
        a_cut = (a_first[0] & ~slices[0]) | (a_first[1] & slices[2:].any())
        b_cut = b_first[0] | (b_first[1] & ~planes[1]) | (b_first[2] & planes[3:].any())
        return signs | widths | a_cut | b_cut

    def _tensor(self, m: Module, found: _Finding, active: Value, tensor: packets.Tensor) -> None:
        product, place = self._product, self.described.place
        end = Signal(34)
        extent_is_bad = product > _MAX_EXTENT
        octet_words = (product + GROUP - 1) >> (GROUP.bit_length() - 1)
        m.d.comb += [
            found.more_steps.eq((tensor.bits != 0) & (self._step != _FIRST_COMPARED + TENSOR_SLOTS - 1)),
            found.bad_value.eq((tensor.slot >= TENSOR_SLOTS) | (tensor.bits > MAX_BITS) | (tensor.layout != 0)),
        ]
        with m.If(self._is(Opcode.TENSOR)):
            m.d.comb += self.slot_read.eq(self._step - (_FIRST_COMPARED - 1))
        with m.If(active):
            m.d.sync += [
                place.octets.eq(Mux(tensor.bits == 0, 0, Mux(tensor.bits > OCTET_BITS, 2, 1))),
                *(getattr(place, name).eq(getattr(tensor, name)) for name in ("word", "n", "h", "c")),
            ]
        with m.Switch(self._step):
            with m.Case(0):
                zero = (tensor.n == 0) | (tensor.h == 0) | (tensor.w == 0) | (tensor.c == 0)
                m.d.comb += found.bad_range.eq((tensor.bits != 0) & zero)
            with m.Case(1):
                m.d.comb += found.bad_range.eq(extent_is_bad)
            with m.Case(2):
                m.d.comb += found.bad_range.eq(extent_is_bad)
                with m.If(active):
                    m.d.sync += place.row.eq(product)
            with m.Case(3):
                m.d.comb += found.bad_range.eq(extent_is_bad)
                with m.If(active):
                    m.d.sync += place.image.eq(product)
            with m.Case(4):
                m.d.sync += end.eq(tensor.word + (octet_words << place.octets[1]))
                with m.If(active):
                    m.d.sync += place.octet_words.eq(octet_words)
            with m.Case(5):
                with m.If(active):
                    m.d.sync += self.described.end.eq(end)
                m.d.comb += found.bad_range.eq(end > self.config.store_words)
            with m.Default():
                other = (self._step - _FIRST_COMPARED)[:4] != tensor.slot
                meets = (place.word < self.slot.end) & (self.slot.place.word < self.described.end)
                m.d.comb += found.bad_range.eq(other & (self.slot.place.octets != 0) & meets)

    def _tensor_factors(self, m: Module, factors: _Factors, tensor: packets.Tensor) -> None:
        with m.Switch(Cat(self._active, self._step)):
            with m.Case(_BEFORE[0]):
                self._multiply(m, factors, tensor.n, tensor.h)
            with m.Case(_BEFORE[1]):
                self._multiply(m, factors, tensor.w, tensor.c)
            with m.Case(_BEFORE[2]):
                self._multiply_product(m, factors, tensor.h)
            with m.Case(_BEFORE[3]):
                self._multiply_product(m, factors, tensor.n)

    def _load(self, m: Module, found: _Finding, active: Value, load: packets.Load) -> None:
        config, place = self.config, self.slot.place
        zero = (load.positions == 0) | (load.taps == 0)
        outside = (load.x_first >= load.x_count) | (load.y_first >= load.y_count) | (load.place_first >= load.run)
        no_image = (place.octets == 0) | (load.n_first >= self._images(load))
        bad_start = Signal()  # known in step 1
        cells = self._load_cells(m, active, load)
        window, positions = self._load_window(m, load), self._load_positions(m, load)
        m.d.comb += [
            found.more_steps.eq(self._step != 4),
            found.bad_range.eq(cells | ((self._step == 4) & (bad_start | window | positions))),
        ]
        with m.If(active):
            m.d.sync += [
                bad_start.eq(zero | outside | no_image),
                # a list may lead anywhere
                self.store.first.eq(Mux(load.listed, 0, place.word)),
                self.store.end.eq(Mux(load.listed, config.store_words, self.slot.end)),
            ]
        flips = Signal(range(config.max_slices + 1))  # bits that `flip` may use
        m.d.comb += [
            flips.eq(Mux(load.target == Target.A, place.octets * config.slices_per_octet, 0)),
            found.bad_value.eq(self._bad_fields),
            found.bad_fields.eq(
                (load.flip >> flips).any()
                | (load.listed & load.n_fast)
                | ((load.target == Target.B) & (load.turn != 0)),
            ),
        ]

    def _images(self, load: packets.Load) -> Value:
        """How many images there are to count through."""
        return Mux(load.listed, LIST_ENTRIES, self.slot.place.n)

    def _load_cells(self, m: Module, active: Value, load: packets.Load) -> Value:
        """Cells that LOAD writes, their number multiplied in step 2; whether they end behind the memory."""
        config = self.config
        vectors, lanes = Signal(16), Signal(16)
        m.d.comb += [
            vectors.eq(Mux(load.across, load.taps, load.positions)),
            lanes.eq(Mux(load.across, load.positions, load.taps)),
        ]
        tiles = Mux(load.target == Target.B, _parts(vectors, config.columns), _parts(vectors, config.rows))
        with m.If(self._active):
            m.d.sync += [self._tiles.eq(tiles), self._chunks.eq(_parts(lanes, config.lanes))]
        end = load.cell + (self._product << self.slot.place.octets[1])
        with m.If(active & (self._step == 3)):
            m.d.sync += [
                self.a.first.eq(load.cell),
                self.a.end.eq(Mux(load.target == Target.A, end, 0)),
                self.b.first.eq(load.cell),
                self.b.end.eq(Mux(load.target == Target.B, end, 0)),
            ]
        return (self._step == 3) & (end > Mux(load.target == Target.B, config.b_cells, config.a_cells))

    def _load_window(self, m: Module, load: packets.Load) -> Value:
        """Whether LOAD's last row or pixel lies behind the image, or that pixel's run before it; known in step 4."""
        place, product, x = self.slot.place, self._window_product, self._last_x
        y = Signal(signed(25))  # the last row
        with m.Switch(self._step):
            with m.Case(1):
                m.d.sync += x.eq(load.x_start.as_signed() + product)
            with m.Case(2):
                m.d.sync += y.eq(load.y_start.as_signed() + product)
        far = (x >= 0) & (x >> _FACTOR_BITS).any()
        right = far | (product >= Mux(x < 0, load.run, place.row))
        return right | (y >= place.h)

    def _load_positions(self, m: Module, load: packets.Load) -> Value:
        """Whether LOAD takes more positions than there are from its first one on; known in step 4.

        There are images * pixels - first: with `n_fast` all images, the pixels from (y_first, x_first) on, `n_first`;
        without it the images from `n_first` on, all pixels, those before (y_first, x_first). Both are the pixels from
        there on where there is one image. Else there are enough if the pixels are more than 16 bits tell.
        """
        place, product = self.slot.place, self._product
        before, left, each = self._before, Signal(32), Signal(32)  # first, pixels - first
        needed, one_image, images = Signal(17), Signal(), self._images_from_first
        m.d.comb += images.eq(Mux(load.n_fast, place.n, self._images(load) - load.n_first))
        with m.If(self._active):
            m.d.sync += one_image.eq(images == 1)
        with m.Switch(self._step):
            with m.Case(1):
                m.d.sync += before.eq(product + load.x_first)
            with m.Case(2):
                m.d.sync += [left.eq(product - before), each.eq(self._each(load))]
            with m.Case(3):
                m.d.sync += needed.eq(Mux(load.n_fast, load.n_first, before[:_FACTOR_BITS]) + load.positions)
        lacking = ~each[_FACTOR_BITS:].any() & (product < needed)
        return Mux(one_image, left < load.positions, lacking)

    def _each(self, load: packets.Load) -> Value:
        """In step 2: how many positions there are in each image."""
        return Mux(load.n_fast, self._product - self._before, self._product)

    def _load_factors(self, m: Module, factors: _Factors, load: packets.Load) -> None:
        with m.Switch(Cat(self._active, self._step)):
            with m.Case(_BEFORE[0]):
                self._multiply(m, factors, load.x_count, load.y_first)
                self._multiply_beside(m, factors, load.x_count - 1, _forwards(load.x_step))
            with m.Case(_BEFORE[1]):
                self._multiply(m, factors, load.x_count, load.y_count)
                self._multiply_beside(m, factors, load.y_count - 1, _forwards(load.y_step))
            with m.Case(_BEFORE[2]):
                self._multiply(m, factors, self._tiles, self._chunks)
            with m.Case(_BEFORE[3]):
                self._multiply(m, factors, self._images_from_first, self._each(load)[:_FACTOR_BITS])
                self._multiply_beside(m, factors, Mux(self._last_x < 0, -self._last_x, self._last_x), self.slot.place.c)


class Sequencer(wiring.Component):
    """Executes commands strictly in order; what overlaps is in docs/design.md, section Execution.

    frames         in, stream of words: `packets.Header` and payload of each accepted frame
    replies        out, stream of `Reply`: all answers but the data of SUMS, in order; quiet commands have none
    data           out, stream of words: the data words of `replies`
    sum_replies    out, stream of `Reply`: READ of SUMS, from its start on; the readout makes its data words meanwhile
    load           out, stream of `GatherJob`, to the gather unit
    gather_busy    in(1)  a LOAD is under way, from the cycle after it was taken
    start          out, stream of `packets.Matmul`, to the engine
    engine_walking in(1)  a MATMUL reads its cells, from the cycle after it was taken
    engine_storing in(1)  not all sums of a MATMUL that has walked are stored: the last but one at most while this
    engine_busy    in(1)  either of them
    update         out, stream of `UpdateJob`, to the updater: UPDATE, WEIGHTS, READ of STORE
    updating       in(1)  it is busy, from the cycle after it took one
    largest        in     its answer to UPDATE, once it is not busy
    stored         in, stream of words: its answer to READ
    power_start    out(1)  READ of POWER: words are wanted from `power_first` on
    power_first    out(16)
    power          in, stream of words: those, one after another
    store_write, list_write, sum_write, program_write, a_cells_write, b_cells_write, power_write  out, `MemoryWrite`
    job            out, stream of `readout.Job`
    readout_busy   in(1)
    command, fault, matmul, load_started, update_started, word_written  out(1)  high for a cycle each, for the counters
    load_wait, read_wait  out(1)  LOAD, MATMUL or READ waits for a LOAD, or else for a READ, while the array has no work
    snapshot, clear, set_phase, phase     out, to the counters
    counters       in, stream of words: the snapshot
    idle           out(1)  no command at hand, no READ under way

    Besides gather unit and readout, each with one command, up to two MATMULs are under way: one whose sums are being
    stored, and one that walks. What a command waits for:

    WRITE         STORE: a LOAD from a tensor that overlaps the rows. SUMS: engine and readout. PROGRAM: engine.
                  CELLS: a MATMUL that walks over them
    LOAD          the LOAD before it; a MATMUL that walks over cells to be written
    MATMUL        the engine; a LOAD into its cells; a READ of its sums
    READ of SUMS  the readout; room among `PROMISES` answers not yet on their way to the host; MATMULs into its sums
    READ of REGISTERS, POWER  all answers of READs before it being on their way to the host
    READ of STORE  likewise; the LOAD before it
    UPDATE, WEIGHTS  the LOAD before it; commands behind it for its end
    SYNC, MARK, RESET  all of it; refused ones too, so that answers keep their order

    A command takes 9 cycles from its header to `Reply`, both included, plus one per product (see `CommandCheck`), 5
    for a snapshot, one per data word either way, and its waits; UPDATE and WEIGHTS `update_cycles` and one more,
    READ of STORE one more; a quiet one takes a cycle less. Replies that are not taken hold up later commands, never
    gather unit and engine, nor a readout that requantises. Reset drops the command at hand; the tensor table keeps what
    it holds.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.config = config
        self.identity = codec.encode(Identity, **config.identity(fingerprint))
        super().__init__(
            {
                "frames": In(word_stream()),
                "replies": Out(stream.Signature(Reply)),
                "data": Out(word_stream()),
                "sum_replies": Out(stream.Signature(Reply)),
                "load": Out(stream.Signature(GatherJob)),
                "gather_busy": In(1),
                "start": Out(stream.Signature(packets.Matmul)),
                "engine_walking": In(1),
                "engine_storing": In(1),
                "engine_busy": In(1),
                "store_write": Out(MemoryWrite()),
                "list_write": Out(MemoryWrite()),
                "sum_write": Out(MemoryWrite()),
                "update": Out(stream.Signature(UpdateJob)),
                "updating": In(1),
                "largest": In(VISIBLE_BITS),
                "stored": In(word_stream()),
                "program_write": Out(MemoryWrite()),
                "a_cells_write": Out(MemoryWrite()),
                "b_cells_write": Out(MemoryWrite()),
                "power_write": Out(MemoryWrite()),
                "power_start": Out(1),
                "power_first": Out(16),
                "power": In(word_stream()),
                "job": Out(stream.Signature(Job)),
                "readout_busy": In(1),
                "command": Out(1),
                "fault": Out(1),
                "matmul": Out(1),
                "load_started": Out(1),
                "update_started": Out(1),
                "word_written": Out(1),
                "load_wait": Out(1),
                "read_wait": Out(1),
                "snapshot": Out(1),
                "clear": Out(1),
                "set_phase": Out(1),
                "phase": Out(PHASE_BITS),
                "counters": In(word_stream()),
                "idle": Out(1),
            }
        )
        self._check = CommandCheck(config)
        self._bits = Signal(_COMMAND_BITS)  # the command at hand
        self._decoded = Signal.like(self._check.decoded)  # likewise: the bit that `decoded_bit` tells
        self._sequence, self._words_left = Signal(16), Signal(range(MAX_PAYLOAD_WORDS + 1))
        self._at_hand = Signal()  # a checked command waits or begins
        self._good = Signal()  # it does not fail its check
        promises = PROMISES if config.requantises else 1  # else the readout waits with the answer
        self._promises = fifo.SyncFIFO(width=Promise.as_shape().size, depth=promises)  # answers of READs to come
        self._reading = Signal()  # there are some
        self._read_sums = Signal(rows_of(config.sum_tiles))  # what it reads

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.check = check = self._check
        m.d.comb += [
            check.command.eq(self._bits),
            check.decoded.eq(self._decoded),
            check.data_words.eq(self._words_left),
            self.load.payload.load.eq(packets.Load(self._bits)),
            self.load.payload.tensor.eq(check.slot.place),
            self.start.payload.eq(packets.Matmul(self._bits)),
            self.job.payload.read.eq(packets.Read(self._bits)),
            self.job.payload.sequence.eq(self._sequence),
            self.phase.eq(packets.Mark(self._bits).phase),
            self.power_first.eq(packets.Read(self._bits).first),
        ]
        self._name_update(m)
        self._answer_read_of_sums(m)
        self._name_answer(m)
        held, stores, describes = self._held(m), Signal(), Signal()
        self._keep_tensors(m, describes)
        self._store(m, stores)
        with m.FSM() as fsm:
            self._take_command(m)
            self._begin(m, held, describes)
            self._take_data(m, stores)
            self._answer(m)
        m.d.comb += self.idle.eq(fsm.ongoing("START") & ~self._reading)
        return m

    @property
    def _opcode(self) -> Value:
        return self._bits[:8]

    def _take_command(self, m: Module) -> None:
        header, index = packets.Header(self.frames.payload), Signal(range(COMMAND_WORDS))
        last = (index == COMMAND_WORDS - 1) | (self._words_left == 1)
        with m.State("START"):
            m.d.comb += self.frames.ready.eq(1)
            m.d.sync += [
                self._sequence.eq(header.sequence),
                self._words_left.eq(header.length),
                index.eq(0),
            ]
            with m.If(self.frames.valid):
                m.next = "COMMAND"
        with m.State("COMMAND"):
            m.d.comb += [self.frames.ready.eq(1), self._check.go.eq(self.frames.valid & last)]
            m.d.sync += self._check.short.eq(index != COMMAND_WORDS - 1)
            with m.If(self.frames.valid):
                m.d.sync += [
                    self._bits.word_select(index, WORD_BITS).eq(self.frames.payload),
                    self._words_left.eq(self._words_left - 1),
                    index.eq(index + 1),
                ]
                with m.If(index == 0):  # its decoder is here, so that there is none behind the register
                    m.d.sync += self._decoded.eq(
                        Cat(self.frames.payload[:8] == opcode for opcode in self.config.commands)
                    )
                with m.If(last):
                    m.next = "CHECK"
        with m.State("CHECK"), m.If(self._check.done):
            m.d.comb += [self.command.eq(1), self.fault.eq(self._check.status != Status.OK)]
            m.next = "WAIT"

    def _is(self, *opcodes: Opcode) -> Value:
        """Whether the command at hand is one of these, if the device knows them."""
        known = [opcode for opcode in opcodes if opcode in self.config.commands]
        return Cat(self._decoded[decoded_bit(self.config, opcode)] for opcode in known).any() if known else Const(0)

    def _keep_tensors(self, m: Module, describes: Signal) -> None:
        """The tensor table: TENSOR's slot is written while `describes`."""
        check = self._check
        if not self.config.gathers:
            return
        m.submodules.slots = slots = memory.Memory(shape=Slot, depth=TENSOR_SLOTS, init=[])
        read_port, write_port = slots.read_port(domain="comb"), slots.write_port()
        m.d.comb += [
            read_port.addr.eq(check.slot_read),
            write_port.addr.eq(packets.Tensor(self._bits).slot),
            write_port.data.eq(check.described),
            write_port.en.eq(describes),
        ]
        m.d.sync += check.slot.eq(read_port.data)

    def _held(self, m: Module) -> Value:
        """Whether the command must wait for what is under way: what may hold it up is known a cycle before."""
        read_sums = Signal()
        may_wait, wanted = Signal(Waits), self._waits(m)
        loading_words, loading_cells = self._meets_load(m)
        walked_cells, unfinished_sums = self._meets_matmuls(m)
        # rows of the last steps are read for four cycles more; a WRITE's first word comes a cycle behind this wait
        walked_before, walked_earlier, lately_walked = Signal(), Signal(), Signal()
        m.d.sync += [
            walked_before.eq(walked_cells),
            walked_earlier.eq(walked_before),
            lately_walked.eq(walked_cells | walked_before | walked_earlier),
            read_sums.eq(_overlap(self._check.sums, self._read_sums)),
            may_wait.eq(wanted),
            self._good.eq(self._check.status == Status.OK),
        ]
        walked = walked_cells if self.config.gathers else walked_cells | lately_walked
        by_load = (
            (may_wait.load & self.gather_busy)
            | (may_wait.load_words & loading_words)
            | (may_wait.load_cells & loading_cells)
        )
        by_matmul = (
            (may_wait.matmuls & self.engine_busy)
            | (may_wait.walk_cells & walked)
            | (may_wait.matmul_sums & unfinished_sums)
        )
        by_read = (
            (may_wait.readout & self.readout_busy)
            | (may_wait.read_sums & self.readout_busy & read_sums)
            | (may_wait.answers & self._reading)
            | (may_wait.room & ~self._promises.w_rdy)
        )
        without_work = self._at_hand & ~self.engine_walking
        m.d.comb += [
            self.load_wait.eq(without_work & by_load & self._is(Opcode.LOAD, Opcode.MATMUL)),
            self.read_wait.eq(
                without_work & by_read & (self._is(Opcode.READ) | (self._is(Opcode.MATMUL) & ~by_load)),
            ),
        ]
        return by_load | by_matmul | by_read

    def _waits(self, m: Module) -> data.View:
        """What the command at hand waits for."""
        good = self._check.status == Status.OK
        write, read = packets.Write(self._bits), packets.Read(self._bits)
        waits = Signal(Waits)
        with m.If(self._is(Opcode.WRITE) & good), m.Switch(write.space):
            with m.Case(Space.STORE):
                m.d.comb += waits.load_words.eq(1)
            with m.Case(Space.LIST):
                m.d.comb += waits.load.eq(1)
            with m.Case(Space.PROGRAM):
                m.d.comb += waits.matmuls.eq(1)
            with m.Case(*([Space.POWER] if self.config.measures else [])):
                pass
            with m.Case(*([] if self.config.gathers else _CELLS)):
                m.d.comb += waits.walk_cells.eq(1)
            with m.Default():
                m.d.comb += [waits.matmuls.eq(1), waits.readout.eq(1)]
        with m.If(self._is(Opcode.LOAD) & good):
            m.d.comb += [waits.load.eq(1), waits.walk_cells.eq(1)]
        with m.If(self._is(Opcode.MATMUL) & good):
            m.d.comb += [waits.load_cells.eq(1), waits.read_sums.eq(1)]
        with m.If(self._is(Opcode.READ)):
            of_sums = good & (read.space == Space.SUMS)
            with m.If(good & ~of_sums):
                m.d.comb += [waits.answers.eq(1), waits.load.eq(read.space == Space.STORE)]
            with m.Else():
                m.d.comb += [waits.matmul_sums.eq(of_sums), waits.readout.eq(1), waits.room.eq(1)]
        with m.If(self._is(*_UPDATES) & good):
            m.d.comb += waits.load.eq(1)
        with m.If(self._is(*_WAITS_FOR_ALL)):
            m.d.comb += [waits.load.eq(1), waits.matmuls.eq(1), waits.answers.eq(1)]
        return waits

    def _meets_load(self, m: Module) -> tuple[Value, Value]:
        """Whether the checked command uses words that the LOAD under way may read, and cells that it writes."""
        check = self._check
        store, a, b = (Signal.like(rows) for rows in (check.store, check.a, check.b))
        words, cells = Signal(), Signal()
        with m.If(self.load.valid & self.load.ready):
            m.d.sync += [store.eq(check.store), a.eq(check.a), b.eq(check.b)]
        m.d.sync += [
            words.eq(_overlap(check.store, store)),
            cells.eq(_overlap(check.a, a) | _overlap(check.b, b)),
        ]
        return self.gather_busy & words, self.gather_busy & cells

    def _meets_matmuls(self, m: Module) -> tuple[Value, Value]:
        """Whether the checked command uses cells that a MATMUL walks over, and sums that are not all stored."""
        check = self._check
        a, b, sums = (Signal.like(rows) for rows in (check.a, check.b, check.sums))
        earlier_sums = Signal.like(check.sums)
        cells, meets, meets_earlier = Signal(), Signal(), Signal()
        with m.If(self.matmul):
            m.d.sync += [a.eq(check.a), b.eq(check.b), sums.eq(check.sums), earlier_sums.eq(sums)]
        m.d.sync += [
            cells.eq(_overlap(check.a, a) | _overlap(check.b, b)),
            meets.eq(_overlap(check.sums, sums)),
            meets_earlier.eq(_overlap(check.sums, earlier_sums)),
        ]
        if not self.config.gathers:  # logic is scarce, and sums are stored within a few cycles
            meets_earlier = Const(1)
        unfinished = (self.engine_busy & meets) | (self.engine_storing & meets_earlier)
        return self.engine_walking & cells, unfinished

    def _begin(self, m: Module, held: Value, describes: Signal) -> None:
        read = packets.Read(self._bits)
        with m.State("WAIT"):
            m.d.comb += self._at_hand.eq(1)
            with m.If(~held):
                m.next = "REPLY"
                with m.If(~self._good):
                    m.next = "DISCARD"
                with m.Else():
                    with m.If(self._is(Opcode.WRITE)):
                        m.next = "WRITE"
                    with m.If(self._is(Opcode.TENSOR)):
                        m.d.comb += describes.eq(1)
                    with m.If(self._is(Opcode.LOAD)):
                        m.d.comb += [self.load.valid.eq(1), self.load_started.eq(self.load.ready)]
                        self._stay_until(m, self.load.ready, packets.Load(self._bits).quiet)
                    with m.If(self._is(Opcode.MATMUL)):
                        m.d.comb += [self.start.valid.eq(1), self.matmul.eq(self.start.ready)]
                        self._stay_until(m, self.start.ready, packets.Matmul(self._bits).quiet)
                    with m.If(self._is(Opcode.READ)):
                        with m.If(read.space == Space.SUMS):
                            m.d.comb += self.job.valid.eq(1)
                            self._stay_until(m, self.job.ready)
                            with m.If(self.job.ready):
                                self._promise_read(m, words=self._check.read_words)
                                m.next = "START"
                        with m.Elif(self._of_store(read)):
                            m.d.comb += self.update.valid.eq(1)
                            self._stay_until(m, self.update.ready)
                        with m.Elif(self._of_power(read)):
                            m.d.comb += self.power_start.eq(1)
                    with m.If(self._is(*_UPDATES)):
                        m.d.comb += [self.update.valid.eq(1), self.update_started.eq(self.update.ready)]
                        self._stay_until(m, self.update.ready)
                        with m.If(self.update.ready):
                            m.next = "UPDATE"
                    with m.If(self._is(Opcode.MARK)):
                        m.d.comb += self.set_phase.eq(1)
                        m.next = "SNAPSHOT"
                    with m.If(self._is(Opcode.COUNTERS)):
                        m.next = "SNAPSHOT"
                    with m.If(self._is(Opcode.RESET)):
                        m.d.comb += self.clear.eq(1)
        with m.State("UPDATE"), m.If(~self.updating):
            m.next = "REPLY"
        with m.State("SNAPSHOT"):
            m.d.comb += self.snapshot.eq(1)
            m.next = "REPLY"

    def _of_power(self, read: packets.Read) -> Value:
        return Const(0) if not self.config.measures else read.space == Space.POWER

    def _of_store(self, read: packets.Read) -> Value:
        return Const(0) if not self.config.updates else read.space == Space.STORE

    @staticmethod
    def _stay_until(m: Module, ready: Signal, quiet: Value | int = 0) -> None:
        """Then, without an answer if `quiet`, to the next command."""
        with m.If(~ready):
            m.next = "WAIT"
        with m.Elif(quiet):
            m.next = "START"

    def _store(self, m: Module, stores: Signal) -> None:
        """WRITE: the data word at hand to its place, while `stores`; through one register where there is a store."""
        write = packets.Write(self._bits)
        deepest, widest = (max(sizes) for sizes in zip(*self.config.writable.values(), strict=True))
        row, word = Signal(range(deepest)), Signal(range(widest))  # place of the next word
        words_left = Signal(range(widest + 1))  # in its row
        stored_row, stored_word, stored = Signal.like(row), Signal.like(word), Signal(WORD_BITS)
        domain = m.d.sync if self.config.gathers else m.d.comb
        domain += [stored_row.eq(row), stored_word.eq(word), stored.eq(self.frames.payload)]
        ports = {
            Space.STORE: self.store_write,
            Space.LIST: self.list_write,
            Space.SUMS: self.sum_write,
            Space.PROGRAM: self.program_write,
            Space.CELLS_A: self.a_cells_write,
            Space.CELLS_B: self.b_cells_write,
            Space.POWER: self.power_write,
        }
        for space, port in ports.items():
            m.d.comb += [port.row.eq(stored_row), port.word.eq(stored_word), port.data.eq(stored)]
            domain += port.valid.eq(stores & (write.space == space))
        with m.If(self._check.done):
            m.d.sync += [row.eq(write.row), word.eq(write.word), words_left.eq(write.words)]
        with m.Elif(stores):
            m.d.sync += [word.eq(word + 1), words_left.eq(words_left - 1)]
            with m.If(words_left == 1):
                m.d.sync += [row.eq(row + 1), word.eq(write.word), words_left.eq(write.words)]

    def _take_data(self, m: Module, stores: Signal) -> None:
        with m.State("WRITE"):
            m.d.comb += [self.frames.ready.eq(1), stores.eq(self.frames.valid), self.word_written.eq(stores)]
            with m.If(self.frames.valid):
                m.d.sync += self._words_left.eq(self._words_left - 1)
                with m.If(self._words_left == 1):
                    m.next = "REPLY"
        with m.State("DISCARD"):
            m.d.comb += self.frames.ready.eq(self._words_left != 0)
            with m.If(self._words_left == 0):
                m.next = "REPLY"
                with m.If(self._is(Opcode.READ)):  # in its place among the READs
                    self._promise_read(m, words=0)
                    m.next = "START"
            with m.Elif(self.frames.valid):
                m.d.sync += self._words_left.eq(self._words_left - 1)

    def _promise_read(self, m: Module, words: Value | int) -> None:
        """The answer to this READ follows those promised before."""
        promise = Signal(Promise)
        m.d.comb += [
            promise.status.eq(self._check.status),
            promise.sequence.eq(self._sequence),
            promise.words.eq(words),
            self._promises.w_data.eq(promise),
            self._promises.w_en.eq(1),
        ]
        m.d.sync += self._read_sums.eq(self._check.sums)

    def _answer_read_of_sums(self, m: Module) -> None:
        """An answer may leave as soon as it is promised: only that of the latest READ can still be in the making."""
        m.submodules.promises = promises = self._promises
        promise, reply = Promise(promises.r_data), self.sum_replies.payload
        m.d.comb += [
            self._reading.eq((promises.level != 0) | self.readout_busy),
            self.sum_replies.valid.eq(promises.level != 0),
            reply.opcode.eq(Opcode.READ),
            *(getattr(reply, name).eq(getattr(promise, name)) for name in ("status", "sequence", "words")),
            promises.r_en.eq(self.sum_replies.valid & self.sum_replies.ready),
        ]

    def _name_update(self, m: Module) -> None:
        """What the updater is to do: fields that a command does not have mean nothing to it."""
        job, read = self.update.payload, packets.Read(self._bits)
        update, weights = packets.Update(self._bits), packets.Weights(self._bits)
        m.d.comb += [
            job.state.eq(update.state),
            job.other.eq(update.signs),
            job.groups.eq(update.groups),
            job.amount.eq(update.rate_shift),
            job.two_octets.eq(weights.octets[1]),
            *(getattr(job, name).eq(getattr(update, name)) for name in ("decay", "decay_shift", "rate", "coefficient")),
        ]
        with m.If(self._is(Opcode.READ)):
            m.d.comb += [job.task.eq(Task.WORDS), job.state.eq(read.first), job.groups.eq(read.count)]
        with m.If(self._is(Opcode.WEIGHTS)):
            m.d.comb += [
                job.task.eq(Task.WEIGHTS),
                job.state.eq(weights.state),
                job.other.eq(weights.word),
                job.groups.eq(weights.groups),
                job.amount.eq(weights.shift),
            ]

    def _name_answer(self, m: Module) -> None:
        reply = self.replies.payload
        m.d.comb += [
            reply.opcode.eq(self._opcode),
            reply.status.eq(self._check.status),
            reply.sequence.eq(self._sequence),
        ]
        with m.If(self._good & self._is(Opcode.READ)):
            m.d.comb += reply.words.eq(self._check.read_words)
        with m.If(self._good & self._is(Opcode.MARK, Opcode.COUNTERS)):
            m.d.comb += reply.words.eq(len(COUNTERS))
        with m.If(self._good & self._is(Opcode.PING, Opcode.UPDATE)):
            m.d.comb += reply.words.eq(1)

    def _answer(self, m: Module) -> None:
        words, left = self.replies.payload.words, Signal(range(MAX_DATA_WORDS + 1))
        number = Signal(range(IDENTITY_WORDS))  # of the word of the identity that is sent next
        streams = self._choose_data(m, number)
        with m.State("REPLY"):
            m.d.comb += self.replies.valid.eq(1)
            m.d.sync += [left.eq(words), number.eq(packets.Read(self._bits).first)]
            with m.If(self.replies.ready):
                m.next = "START"
                with m.If(words != 0):
                    m.next = "DATA"
        with m.State("DATA"):
            m.d.comb += self.data.valid.eq(~Cat(wanted & ~source.valid for wanted, source in streams).any())
            m.d.comb += [source.ready.eq(wanted & self.data.ready) for wanted, source in streams]
            with m.If(self.data.valid & self.data.ready):
                m.d.sync += [left.eq(left - 1), number.eq(number + 1)]
                with m.If(left == 1):
                    m.next = "START"

    def _choose_data(self, m: Module, number: Signal) -> list[tuple[Value, stream.Interface]]:
        """The data word of the command at hand; streams of such words, and whether it is one of theirs."""
        read, reads = packets.Read(self._bits), self._is(Opcode.READ)
        of_store, of_power = reads & self._of_store(read), reads & self._of_power(read)
        streams = [
            (of_store, self.stored),
            (of_power, self.power),
            (self._is(Opcode.MARK, Opcode.COUNTERS), self.counters),
        ]
        words = [
            (reads & ~of_store & ~of_power, Array(self.identity)[number]),
            (self._is(Opcode.UPDATE), self.largest),
            (self._is(Opcode.PING), packets.Ping(self._bits).token),
            *((wanted, source.payload) for wanted, source in streams),
        ]
        m.d.comb += self.data.payload.eq(one_in_turn(*zip(*words, strict=True)))
        return streams
