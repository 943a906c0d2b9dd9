"""Frames, commands and responses, as they travel on the link.

Everything on the link is a sequence of 64-bit words; on a byte link a word travels least significant
byte first. A frame is one header word, `length` payload words and one trailer word. Host to device the
payload is one command (`COMMAND_WORDS` words) followed by its data; device to host it is one `Response`
word followed by its data.

The structs here are the only definition: the gateware views its signals through them, and
`bitfirst_hdl.contract.codec` encodes and decodes them on the host. Their first field is least significant.
"""

from amaranth.lib import data, enum

CONTRACT_VERSION = 1
WORD_BITS = 64
WORD_BYTES = WORD_BITS // 8

SYNC = 0xB17F  #: first 16 bits of each frame, both directions
COMMAND_WORDS = 4
MAX_DATA_WORDS = 512  #: data words in one frame, both directions
MAX_PAYLOAD_WORDS = COMMAND_WORDS + MAX_DATA_WORDS


class Header(data.Struct):
    """First word of a frame, both directions.

    `check` is the low half of CRC-32 (ISO-HDLC, as in zlib) over the first six bytes. `restart` on a frame
    to the device makes it accept any `sequence` and count on from there; the device never sets it.
    """

    sync: 16
    length: 15  # payload words, 1 .. MAX_PAYLOAD_WORDS
    restart: 1
    sequence: 16
    check: 16


class Trailer(data.Struct):
    """Last word of a frame. `crc` is CRC-32 (ISO-HDLC, as in zlib) over header and payload bytes."""

    crc: 32
    reserved: 32


class Opcode(enum.IntEnum, shape=8):
    LINK = 0  # only in responses: the link's own word about a frame it did not accept
    WRITE = 1
    READ = 2
    MATMUL = 3
    MARK = 4
    COUNTERS = 5
    SYNC = 6
    PING = 7
    RESET = 8


class Status(enum.IntEnum, shape=8):
    OK = 0
    BAD_FRAME = 1  # damaged frame dropped: send again from `next_sequence`
    BAD_SEQUENCE = 2  # frame out of sequence dropped: send again from `next_sequence`
    BAD_OPCODE = 3
    BAD_LENGTH = 4  # data words do not match the command's fields
    BAD_SPACE = 5  # space unknown, or not writable / readable
    BAD_RANGE = 6  # reaches outside the space, or a count is zero
    BAD_VALUE = 7  # a field's value is outside what this configuration can do


class Space(enum.IntEnum, shape=8):
    REGISTERS = 0  # read only; identity block from address 0, one word per address
    A = 1  # operand A, write only; row = lanes of all array rows, one slice
    B = 2  # operand B, write only; row = lanes of all array columns, one plane
    SUMS = 3  # partial sums; row = one array row of one tile, one 48-bit sum per column


class Rounding(enum.IntEnum, shape=2):
    NEAREST_EVEN = 0
    STOCHASTIC = 1


class Phase(enum.IntEnum, shape=8):
    OTHER = 0
    FORWARD = 1
    INPUT_GRADIENT = 2  # dX
    WEIGHT_GRADIENT = 3  # dW
    UPDATE = 4


class Write(data.Struct):
    """Store data words, two-dimensionally: `rows` memory rows from `row`, in each `words` words from `word`.

    Data: rows * words words, row by row. Operand rows are (rows or columns) * lane bits wide, cut in 64-bit
    words; a SUMS row has one word per column, its low 48 bits the sum (row = tile * array rows + array row).
    Waits while a running MATMUL still reads the same operand rows (or, for SUMS, while anything runs).
    """

    opcode: 8
    space: 8
    rows: 16
    word: 16
    words: 16
    row: 32
    reserved0: 32
    reserved1: 64
    reserved2: 64


class Matmul(data.Struct):
    """Multiply row_tiles x col_tiles tiles over `chunks` K chunks of L lanes into partial sums.

    Slice s (0 = most significant) of row tile i, chunk k is A row a_row + (i * slices + s) * chunks + k.
    Plane p (0 = most significant) of column tile j, chunk k is B row b_row + (j * planes + p) * chunks + k.
    Tile (i, j) adds to (or, without `accumulate`, replaces) sum tile sum_tile + i * col_tiles + j.

    Bit s of `a_offset`: digits of slice s are stored in offset binary (digit + 2**(S-1)), so signed.
    Bit p of `b_negative`: plane p counts negative. Weights: slice s 2**(S*(slices-1-s)), plane p
    2**(planes-1-p). Plain two's complement A: a_offset = 1 if signed else 0; B: b_negative likewise.
    """

    opcode: 8
    accumulate: 1
    reserved0: 7
    slices: 8
    planes: 8
    a_offset: 16
    b_negative: 16
    chunks: 16
    row_tiles: 16
    col_tiles: 16
    sum_tile: 16
    a_row: 16
    b_row: 16
    reserved1: 32
    reserved2: 64


class Read(data.Struct):
    """Read `count` words of REGISTERS from `first`, or `count` tiles of SUMS from tile `first`.

    SUMS: elements come tile by tile, row-major, only the first `rows` rows and `cols` columns of each tile.
    `bits` = 64 gives the sum as it is, one word each. `bits` = 2 .. 32 requantises (see `numeric`) with
    `multiplier`, `shift`, `rounding`, saturates to `bits` (`signed` or not) and packs into containers of
    8, 16 or 32 bits, the smallest that holds `bits`; least significant first, zeros after the last.
    Stochastic rounding hashes (`key`, index + tile * C * col_stride + row * row_stride + col * col_stride),
    modulo 2**32, where tile counts from 0 in this command. Waits for every earlier MATMUL.
    """

    opcode: 8
    space: 8
    bits: 8
    signed: 1
    rounding: 2
    reserved0: 5
    rows: 8
    cols: 8
    multiplier: 16
    first: 16
    count: 16
    shift: 8
    reserved1: 24
    key: 32
    index: 32
    row_stride: 32
    col_stride: 32


class Mark(data.Struct):
    """Wait until everything before is done, then set the phase. Responds with the counters at that moment."""

    opcode: 8
    phase: 8
    reserved0: 48
    reserved1: 64
    reserved2: 64
    reserved3: 64


class Ping(data.Struct):
    """Respond with `token`. PING alone also serves to learn the link's state."""

    opcode: 8
    reserved0: 56
    token: 64
    reserved1: 64
    reserved2: 64


class Plain(data.Struct):
    """A command without fields.

    COUNTERS responds at once with all counters. SYNC waits until everything before is done. RESET does the
    same, then clears counters and phase; memories keep what they hold.
    """

    opcode: 8
    reserved0: 56
    reserved1: 64
    reserved2: 64
    reserved3: 64


class Response(data.Struct):
    """First payload word of each frame to the host.

    `sequence` is that of the command answered (responses may overtake: READ data comes when it is ready).
    `next_sequence` is what the link expects next: every earlier frame has arrived. `credit` counts the
    words that the receive buffer has freed since reset, modulo 2**16: a frame takes payload + 1 words of it.
    """

    opcode: Opcode
    status: Status
    sequence: 16
    next_sequence: 16
    credit: 16


COMMANDS = {
    Opcode.WRITE: Write,
    Opcode.READ: Read,
    Opcode.MATMUL: Matmul,
    Opcode.MARK: Mark,
    Opcode.COUNTERS: Plain,
    Opcode.SYNC: Plain,
    Opcode.PING: Ping,
    Opcode.RESET: Plain,
}
