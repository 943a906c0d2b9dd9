"""Takes committed frames in order, checks each command, executes it, and answers.

Order of the checks
-------------------
The first that fails gives the status; the golden model does the same.

1. `BAD_OPCODE`  opcode is none of `packets.COMMANDS` (looked up in the first word, whatever the length).
2. `BAD_LENGTH`  fewer than `COMMAND_WORDS` words; or data words (those after the command): WRITE has other than
   rows * words of them, any other command has some.
3. `BAD_VALUE`   a reserved field is not zero.
4. `BAD_SPACE`   WRITE to other than A, B, SUMS; READ of other than REGISTERS, SUMS.
5. `BAD_VALUE`   MATMUL: slices or planes 0, slices * S > 16, planes > 16, a bit of `a_offset` at or above `slices`, of
   `b_negative` at or above `planes`. READ of SUMS: `bits` other than 2 .. 32 or 64, `rounding` > 1, `shift` > 63 (also
   where `bits` = 64). MARK: `phase` not in `packets.Phase`. READ of REGISTERS looks at no field but `first`, `count`.
6. `BAD_RANGE`   a count (rows, words, cols, count, chunks, row_tiles, col_tiles) is zero, or what is addressed ends
   behind the memory: WRITE row + rows, word + words; MATMUL a_row + row_tiles * slices * chunks,
   b_row + col_tiles * planes * chunks, sum_tile + row_tiles * col_tiles; READ first + count (`IDENTITY_WORDS` or
   `sum_tiles`), rows > R, cols > C, or an answer of more than `MAX_DATA_WORDS` words.

The response repeats the opcode byte, also an unknown one. MARK answers with the counters after the phase is set and
with itself counted.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import MAX_BITS, ArrayConfig
from .contract import codec, packets
from .contract.numeric import MAX_SHIFT
from .contract.packets import COMMAND_WORDS, COMMANDS, MAX_DATA_WORDS, WORD_BITS, Opcode, Phase, Rounding, Space, Status
from .contract.registers import COUNTERS, IDENTITY_WORDS, Identity
from .counters import PHASE_BITS
from .frames import FrameStart, Reply
from .ports import MemoryWrite, word_stream
from .readout import Job

_FACTOR_BITS = 16
_RAW_BITS = 64
_COMMAND_BITS = COMMAND_WORDS * WORD_BITS
_WAITS_FOR_ALL = (Opcode.SYNC, Opcode.MARK, Opcode.RESET)


class Rows(data.Struct):
    """Rows (or tiles) `first` to `end` - 1 of a memory."""

    first: 16
    end: 17


def _overlap(rows: Rows, others: Rows) -> Value:
    return (rows.first < others.end) & (others.first < rows.end)


class CommandCheck(wiring.Component):
    """Checks all fields of one command, in the order given above.

    command     in(256)  its words; holds still from `go` to `done`
    data_words  in(15)   data words behind it
    short       in(1)    it has fewer than `COMMAND_WORDS` words
    go          in(1)    high for one cycle, one cycle after which the check begins
    done        out(1)   high for one cycle, when the outputs below are valid; they hold until the next `go`
    status      out      `Status`
    a, b        out      `Rows` of A and B that MATMUL reads or WRITE writes
    sums        out      `Rows`: tiles of SUMS that MATMUL or READ uses
    read_words  out      data words of READ's answer

    Products are made by one 16 x 16 bit multiplier, one a cycle. `done` comes 2 cycles after `go`, plus one per
    product: WRITE 1, READ 2, MATMUL 5.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "command": In(_COMMAND_BITS),
                "data_words": In(15),
                "short": In(1),
                "go": In(1),
                "done": Out(1),
                "status": Out(Status),
                "a": Out(Rows),
                "b": Out(Rows),
                "sums": Out(Rows),
                "read_words": Out(range(MAX_DATA_WORDS + 1)),
            }
        )
        self._active, self._step = Signal(), Signal(range(6))
        self._left, self._right = Signal(_FACTOR_BITS), Signal(_FACTOR_BITS)
        self._product = Signal(2 * _FACTOR_BITS)
        self._ends = Signal()  # the last step is reached
        self._wrong_length, self._bad_reserved = Signal(), Signal()
        self._bad_space, self._bad_value = Signal(), Signal()
        self._bad_range, self._was_bad_range = Signal(), Signal()

    def elaborate(self, platform) -> Module:
        m = Module()
        known = Signal()
        m.d.sync += [
            self._active.eq(self.go | (self._active & ~self._ends)),
            self._step.eq(Mux(self._active, self._step + 1, 0)),
            self._product.eq(self._left * self._right),
            self._was_bad_range.eq(self._active & (self._was_bad_range | self._bad_range)),
            self.done.eq(self._active & self._ends),
        ]
        m.d.comb += [self._ends.eq(1), self._wrong_length.eq(self.data_words != 0)]
        with m.If(self._active):
            with m.Switch(self.command[:8]):
                for opcode, struct in COMMANDS.items():
                    with m.Case(opcode):
                        m.d.comb += [known.eq(1), self._bad_reserved.eq(self._reserved(struct).any())]
                        self._fields(m, opcode)
            self._judge(m, known)
        return m

    def _reserved(self, struct: type[data.Struct]) -> Value:
        places = [place for name, place in codec.fields(struct).items() if name.startswith("reserved")]
        return Cat(self.command[offset : offset + width] for offset, width in places)

    def _judge(self, m: Module, known: Value) -> None:
        failures = (
            (~known, Status.BAD_OPCODE),
            (self.short | self._wrong_length, Status.BAD_LENGTH),
            (self._bad_reserved, Status.BAD_VALUE),
            (self._bad_space, Status.BAD_SPACE),
            (self._bad_value, Status.BAD_VALUE),
            (self._bad_range | self._was_bad_range, Status.BAD_RANGE),
        )
        m.d.sync += self.status.eq(Status.OK)
        for failed, status in reversed(failures):
            with m.If(failed):
                m.d.sync += self.status.eq(status)

    def _fields(self, m: Module, opcode: Opcode) -> None:
        if opcode == Opcode.WRITE:
            self._write(m, packets.Write(self.command))
        elif opcode == Opcode.READ:
            self._read(m, packets.Read(self.command))
        elif opcode == Opcode.MATMUL:
            self._matmul(m, packets.Matmul(self.command))
        elif opcode == Opcode.MARK:
            m.d.comb += self._bad_value.eq(packets.Mark(self.command).phase > max(Phase))

    def _multiply(self, m: Module, left: Value, right: Value) -> None:
        m.d.comb += [self._left.eq(left), self._right.eq(right)]

    def _write(self, m: Module, write: packets.Write) -> None:
        config = self.config
        shapes = {
            Space.A: (config.a_depth, config.a_row_words),
            Space.B: (config.b_depth, config.b_row_words),
            Space.SUMS: (config.sum_rows, config.columns),
        }
        rows, words = Signal(17), Signal(17)
        self._multiply(m, write.rows, write.words)
        m.d.comb += [
            self._ends.eq(self._step == 1),
            self._wrong_length.eq(self._product != self.data_words),
            self._bad_space.eq(1),
        ]
        with m.Switch(write.space):
            for space, (depth, row_words) in shapes.items():
                with m.Case(space):
                    m.d.comb += [self._bad_space.eq(0), rows.eq(depth), words.eq(row_words)]
        m.d.comb += self._bad_range.eq(
            (write.rows == 0)
            | (write.words == 0)
            | (write.row + write.rows > rows)
            | (write.word + write.words > words)
        )
        for used in (self.a, self.b):
            m.d.sync += [used.first.eq(write.row), used.end.eq(write.row + write.rows)]

    def _read(self, m: Module, read: packets.Read) -> None:
        config = self.config
        needed, end = Signal(32), Signal(17)
        m.d.comb += [end.eq(read.first + read.count), self._bad_range.eq(read.count == 0)]
        m.d.sync += [self.read_words.eq(needed), self.sums.first.eq(read.first), self.sums.end.eq(end)]
        with m.If(self._step == 0):
            self._multiply(m, read.rows, read.cols)
        with m.Else():
            self._multiply(m, self._product, read.count)
        with m.Switch(read.space):
            with m.Case(Space.REGISTERS):
                m.d.comb += needed.eq(read.count)
                with m.If(end > IDENTITY_WORDS):
                    m.d.comb += self._bad_range.eq(1)
            with m.Case(Space.SUMS):
                m.d.comb += [
                    self._ends.eq(self._step == 2),
                    self._bad_value.eq(
                        (read.bits < 2)
                        | ((read.bits > 32) & (read.bits != _RAW_BITS))
                        | (read.rounding > max(Rounding))
                        | (read.shift > MAX_SHIFT)
                    ),
                ]
                for log2_bytes, most_bits in enumerate((8, 16, 32, _RAW_BITS)):
                    log2_elements = 3 - log2_bytes
                    with m.If((read.bits <= most_bits) & (read.bits > (most_bits // 2 if log2_bytes else 0))):
                        m.d.comb += needed.eq((self._product + (1 << log2_elements) - 1) >> log2_elements)
                outside = (read.rows > config.rows) | (read.cols > config.columns) | (end > config.sum_tiles)
                with m.If((read.rows == 0) | (read.cols == 0) | outside):
                    m.d.comb += self._bad_range.eq(1)
                with m.If((self._step == 2) & (needed > MAX_DATA_WORDS)):
                    m.d.comb += self._bad_range.eq(1)
            with m.Default():
                m.d.comb += self._bad_space.eq(1)

    def _matmul(self, m: Module, matmul: packets.Matmul) -> None:
        config, product = self.config, self._product
        m.d.comb += [
            self._ends.eq(self._step == 5),
            self._bad_value.eq(
                (matmul.slices == 0)
                | (matmul.slices > config.max_slices)
                | (matmul.planes == 0)
                | (matmul.planes > MAX_BITS)
                | (matmul.a_offset >> matmul.slices[:5]).any()
                | (matmul.b_negative >> matmul.planes[:5]).any()
            ),
        ]
        with m.Switch(self._step):
            with m.Case(0):
                self._multiply(m, matmul.row_tiles, matmul.slices)
                zero = (matmul.row_tiles == 0) | (matmul.col_tiles == 0) | (matmul.chunks == 0)
                m.d.comb += self._bad_range.eq(zero)
            with m.Case(1):
                self._multiply(m, product, matmul.chunks)
                m.d.comb += self._bad_range.eq(product > config.a_depth)
            with m.Case(2):
                self._multiply(m, matmul.col_tiles, matmul.planes)
                self._use(m, self.a, matmul.a_row, config.a_depth)
            with m.Case(3):
                self._multiply(m, product, matmul.chunks)
                m.d.comb += self._bad_range.eq(product > config.b_depth)
            with m.Case(4):
                self._multiply(m, matmul.row_tiles, matmul.col_tiles)
                self._use(m, self.b, matmul.b_row, config.b_depth)
            with m.Default():
                self._use(m, self.sums, matmul.sum_tile, config.sum_tiles)

    def _use(self, m: Module, rows: Rows, first: Value, depth: int) -> None:
        """`product` rows from `first` are used."""
        end = first + self._product
        m.d.sync += [rows.first.eq(first), rows.end.eq(end)]
        m.d.comb += self._bad_range.eq(end > depth)


class Sequencer(wiring.Component):
    """Executes commands strictly in order; what overlaps is in docs/design.md, section Execution.

    frames         in, stream of words: `FrameStart` and payload of each accepted frame
    replies        out, stream of `Reply`: all answers but the data of SUMS, in order
    data           out, stream of words: the data words of `replies`
    sum_replies    out, stream of `Reply`: READ of SUMS, when all its data words have left the readout
    start          out, stream of `packets.Matmul`, to the engine
    engine_busy    in(1)
    a_write, b_write, sum_write  out, `MemoryWrite`
    job            out, stream of `readout.Job`
    readout_busy   in(1)
    command, fault, matmul, word_written  out(1)  high for one cycle each, for the counters
    snapshot, clear, set_phase, phase     out, to the counters
    counters       in, stream of words: the snapshot
    idle           out(1)  no command at hand, no READ under way

    READ waits until the answer of the READ before it is on its way to the host; SYNC, MARK and RESET wait for that and
    for the engine; refused ones too, so that answers keep their order. A command takes 9 cycles from `FrameStart` to
    `Reply`, both included, plus one per product (see `CommandCheck`), one to start a MATMUL or take a snapshot, one per
    data word either way, and its waits. Replies that are not taken hold up later commands, never engine and readout.
    Reset drops the command at hand.
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
                "start": Out(stream.Signature(packets.Matmul)),
                "engine_busy": In(1),
                "a_write": Out(MemoryWrite()),
                "b_write": Out(MemoryWrite()),
                "sum_write": Out(MemoryWrite()),
                "job": Out(stream.Signature(Job)),
                "readout_busy": In(1),
                "command": Out(1),
                "fault": Out(1),
                "matmul": Out(1),
                "word_written": Out(1),
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
        self._sequence, self._words_left = Signal(16), Signal(15)
        self._reading, self._read_tiles = Signal(), Signal(Rows)  # the READ of SUMS under way
        self._engine_a, self._engine_b = Signal(Rows), Signal(Rows)  # what the MATMUL started last reads

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.check = check = self._check
        m.d.comb += [
            check.command.eq(self._bits),
            check.data_words.eq(self._words_left),
            self.start.payload.eq(packets.Matmul(self._bits)),
            self.job.payload.read.eq(packets.Read(self._bits)),
            self.job.payload.sequence.eq(self._sequence),
            self.phase.eq(packets.Mark(self._bits).phase),
        ]
        self._answer_read_of_sums(m)
        self._name_answer(m)
        held, stores = self._held(m), Signal()
        self._store(m, stores)
        with m.FSM() as fsm:
            self._take_command(m)
            self._begin(m, held)
            self._take_data(m, stores)
            self._start_matmul(m)
            self._start_read(m)
            self._answer(m)
        m.d.comb += self.idle.eq(fsm.ongoing("START") & ~self._reading)
        return m

    @property
    def _opcode(self) -> Value:
        return self._bits[:8]

    def _take_command(self, m: Module) -> None:
        frame_start, index = FrameStart(self.frames.payload), Signal(range(COMMAND_WORDS))
        last = (index == COMMAND_WORDS - 1) | (self._words_left == 1)
        with m.State("START"):
            m.d.comb += self.frames.ready.eq(1)
            m.d.sync += [
                self._sequence.eq(frame_start.sequence),
                self._words_left.eq(frame_start.length),
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
                with m.If(last):
                    m.next = "CHECK"
        with m.State("CHECK"), m.If(self._check.done):
            m.d.comb += [self.command.eq(1), self.fault.eq(self._check.status != Status.OK)]
            m.next = "WAIT"

    def _held(self, m: Module) -> Signal:
        """Whether the command must wait for what is under way."""
        held, check = Signal(), self._check
        write, read = packets.Write(self._bits), packets.Read(self._bits)
        good = check.status == Status.OK
        with m.Switch(self._opcode):
            with m.Case(Opcode.WRITE), m.If(good), m.Switch(write.space):
                with m.Case(Space.A):
                    m.d.comb += held.eq(self.engine_busy & _overlap(check.a, self._engine_a))
                with m.Case(Space.B):
                    m.d.comb += held.eq(self.engine_busy & _overlap(check.b, self._engine_b))
                with m.Case(Space.SUMS):
                    m.d.comb += held.eq(self.engine_busy | self.readout_busy)
            with m.Case(Opcode.READ):
                needs_engine = good & (read.space == Space.SUMS)
                m.d.comb += held.eq(self._reading | (needs_engine & self.engine_busy))
            with m.Case(Opcode.MATMUL), m.If(good):
                reading = self.readout_busy & _overlap(check.sums, self._read_tiles)
                m.d.comb += held.eq(self.engine_busy | reading)
            with m.Case(*_WAITS_FOR_ALL):
                m.d.comb += held.eq(self.engine_busy | self._reading)
        return held

    def _begin(self, m: Module, held: Signal) -> None:
        read = packets.Read(self._bits)
        with m.State("WAIT"), m.If(~held):
            m.next = "REPLY"
            with m.If(self._check.status != Status.OK):
                m.next = "DISCARD"
            with m.Else(), m.Switch(self._opcode):
                with m.Case(Opcode.WRITE):
                    m.next = "WRITE"
                with m.Case(Opcode.MATMUL):
                    m.next = "MATMUL"
                with m.Case(Opcode.READ), m.If(read.space == Space.SUMS):
                    m.next = "READ"
                with m.Case(Opcode.MARK):
                    m.d.comb += self.set_phase.eq(1)
                    m.next = "SNAPSHOT"
                with m.Case(Opcode.COUNTERS):
                    m.next = "SNAPSHOT"
                with m.Case(Opcode.RESET):
                    m.d.comb += self.clear.eq(1)
        with m.State("SNAPSHOT"):
            m.d.comb += self.snapshot.eq(1)
            m.next = "REPLY"

    def _store(self, m: Module, stores: Signal) -> None:
        """WRITE: the data word at hand to its place, through one register, while `stores`."""
        write = packets.Write(self._bits)
        row, word, words_left = Signal(16), Signal(8), Signal(16)  # place of the next word; words left in its row
        stored_row, stored_word, stored = Signal(16), Signal(8), Signal(WORD_BITS)
        m.d.sync += [stored_row.eq(row), stored_word.eq(word), stored.eq(self.frames.payload)]
        for space, port in ((Space.A, self.a_write), (Space.B, self.b_write), (Space.SUMS, self.sum_write)):
            m.d.comb += [port.row.eq(stored_row), port.word.eq(stored_word), port.data.eq(stored)]
            m.d.sync += port.valid.eq(stores & (write.space == space))
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
                with m.If(self._opcode == Opcode.READ):  # in its place among the READs
                    self._promise_read(m, words=0)
                    m.next = "START"
            with m.Elif(self.frames.valid):
                m.d.sync += self._words_left.eq(self._words_left - 1)

    def _start_matmul(self, m: Module) -> None:
        with m.State("MATMUL"):
            m.d.comb += [self.start.valid.eq(1), self.matmul.eq(self.start.ready)]
            with m.If(self.start.ready):
                m.d.sync += [self._engine_a.eq(self._check.a), self._engine_b.eq(self._check.b)]
                m.next = "REPLY"

    def _start_read(self, m: Module) -> None:
        with m.State("READ"):
            m.d.comb += self.job.valid.eq(1)
            with m.If(self.job.ready):
                self._promise_read(m, words=self._check.read_words)
                m.next = "START"

    def _promise_read(self, m: Module, words: Value | int) -> None:
        """The answer to this READ comes once the readout is no longer busy."""
        reply = self.sum_replies.payload
        m.d.sync += [
            self._reading.eq(1),
            self._read_tiles.eq(self._check.sums),
            reply.opcode.eq(Opcode.READ),
            reply.status.eq(self._check.status),
            reply.sequence.eq(self._sequence),
            reply.words.eq(words),
        ]

    def _answer_read_of_sums(self, m: Module) -> None:
        m.d.comb += self.sum_replies.valid.eq(self._reading & ~self.readout_busy)
        with m.If(self.sum_replies.valid & self.sum_replies.ready):
            m.d.sync += self._reading.eq(0)

    def _name_answer(self, m: Module) -> None:
        reply = self.replies.payload
        m.d.comb += [
            reply.opcode.eq(self._opcode),
            reply.status.eq(self._check.status),
            reply.sequence.eq(self._sequence),
        ]
        with m.If(self._check.status == Status.OK), m.Switch(self._opcode):
            with m.Case(Opcode.READ):
                m.d.comb += reply.words.eq(self._check.read_words)
            with m.Case(Opcode.MARK, Opcode.COUNTERS):
                m.d.comb += reply.words.eq(len(COUNTERS))
            with m.Case(Opcode.PING):
                m.d.comb += reply.words.eq(1)

    def _answer(self, m: Module) -> None:
        words, sent = self.replies.payload.words, Signal(range(len(COUNTERS)))
        identity = Array(self.identity)
        with m.State("REPLY"):
            m.d.comb += self.replies.valid.eq(1)
            m.d.sync += sent.eq(0)
            with m.If(self.replies.ready):
                m.next = "START"
                with m.If(words != 0):
                    m.next = "DATA"
        with m.State("DATA"):
            m.d.comb += self.data.valid.eq(1)
            with m.Switch(self._opcode):
                with m.Case(Opcode.READ):
                    m.d.comb += self.data.payload.eq(identity[(packets.Read(self._bits).first + sent)[:3]])
                with m.Case(Opcode.PING):
                    m.d.comb += self.data.payload.eq(packets.Ping(self._bits).token)
                with m.Default():
                    m.d.comb += [self.data.payload.eq(self.counters.payload), self.counters.ready.eq(self.data.ready)]
            with m.If(self.data.ready):
                m.d.sync += sent.eq(sent + 1)
                with m.If(sent == words - 1):
                    m.next = "START"
