"""Frames, commands and responses, as they travel on the link.

Everything on the link is a sequence of 64-bit words; on a byte link a word travels least significant
byte first. A frame is one header word, `length` payload words and one trailer word. Host to device the
payload is one command (`COMMAND_WORDS` words) followed by its data; device to host it is one `Response`
word followed by its data. A device with less receive buffer takes shorter frames alone: `rx_words` - 1 payload words.

The structs here are the only definition: the gateware views its signals through them, and
`bitfirst_hdl.contract.codec` encodes and decodes them on the host. Their first field is least significant.
"""

from amaranth.lib import data, enum

CONTRACT_VERSION = 8
WORD_BITS = 64
WORD_BYTES = WORD_BITS // 8

SYNC = 0xB17F  #: first 16 bits of each frame, both directions
KNOCK_SYNC = 0x7FB1  #: first 16 bits of a `Knock`
COMMAND_WORDS = 4
MAX_DATA_WORDS = 512  #: data words in one frame, both directions
MAX_PAYLOAD_WORDS = COMMAND_WORDS + MAX_DATA_WORDS

GROUP = 16  #: elements side by side in one store word
OCTET_BITS = 8  #: planes in one store word: bits 8 * i + 7 .. 8 * i of the elements
STORE_WORD_WORDS = GROUP * OCTET_BITS // WORD_BITS  #: 64-bit words in one store word
TENSOR_SLOTS = 16  #: tensor descriptors that the device holds
LIST_ENTRIES = 512  #: images that the row list names
STATE_WORDS = 6  #: store words of a group's masters and momenta
PROGRAM_ROWS = 512  #: of the programs that packed MATMULs follow
SIGN_BITS = 2  #: of a sum's sign, as a READ that compares sends it
TRACE_RECORDS = 64  #: commands and faults that the trace remembers


class Header(data.Struct):
    """First word of a frame, both directions.

    `check` is the low half of CRC-32 (ISO-HDLC, as in zlib) over the first six bytes. `restart` on a frame
    to the device makes it accept any `sequence` and count on from there; the device never sets it.
    """

    sync: 16
    length: 15  # payload words, 1 .. MAX_PAYLOAD_WORDS, and fewer than `rx_words`
    restart: 1
    sequence: 16
    check: 16


class Trailer(data.Struct):
    """Last word of a frame. `crc` is CRC-32 (ISO-HDLC, as in zlib) over header and payload bytes."""

    crc: 32
    reserved: 32


class Knock(data.Struct):
    """A word to the device that stands alone between frames: asks for the trace, whatever the device is doing.

    The link answers it itself, also while a command is stuck, and without room in the receive buffer: `TRACE`, with
    `token` as `sequence`. It has no part in sequence numbers and credit. `check` as in `Header`. Devices without the
    feature "trace" pass over it.
    """

    sync: 16  # KNOCK_SYNC
    reserved0: 16
    token: 16
    check: 16


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
    TENSOR = 9
    LOAD = 10
    UPDATE = 11
    WEIGHTS = 12
    TRACE = 13  # only in responses: the answer to a `Knock`


class Status(enum.IntEnum, shape=8):
    OK = 0
    BAD_FRAME = 1  # damaged frame dropped: send again from `next_sequence`
    BAD_SEQUENCE = 2  # frame out of sequence dropped: send again from `next_sequence`
    BAD_OPCODE = 3
    BAD_LENGTH = 4  # data words do not match the command's fields
    BAD_SPACE = 5  # space unknown, or not writable / readable
    BAD_RANGE = 6  # reaches outside the space, or a count is zero
    BAD_VALUE = 7  # a field's value is outside what this configuration can do
    STUCK = 8  # the watchdog: the command `sequence` makes no progress


class Space(enum.IntEnum, shape=8):
    REGISTERS = 0  # read only; identity block from address 0, one word per address
    STORE = 1  # the tensor store; row = one store word: 8 planes of `GROUP` elements
    LIST = 2  # the row list, write only; row = one entry: elements from a tensor's first to an image's
    SUMS = 3  # partial sums; row = one array row of one tile, one 48-bit sum per column
    PROGRAM = 4  # which elements of a packed MATMUL multiply what, write only; row = one word of A for each array row
    CELLS_A = 5  # operand A as the array takes it, write only; row = one slice of one K chunk for all array rows
    CELLS_B = 6  # operand B, likewise; row = one plane (but for "serial": all) of one K chunk for all array columns
    POWER = 7  # sensors and what they measured, see `power`; rows to write, words to read


class Rounding(enum.IntEnum, shape=2):
    NEAREST_EVEN = 0
    STOCHASTIC = 1


class Sign(enum.IntEnum, shape=SIGN_BITS):
    """What a READ that compares says of a sum; the signs are two's complement numbers."""

    ZERO = 0
    POSITIVE = 1
    UNRESOLVED = 2  # the sum does not reach the threshold
    NEGATIVE = 3


class Target(enum.IntEnum, shape=1):
    A = 0  # rows of the array, parallel slices
    B = 1  # columns of the array, serial planes


class Phase(enum.IntEnum, shape=8):
    OTHER = 0
    FORWARD = 1
    INPUT_GRADIENT = 2  # dX
    WEIGHT_GRADIENT = 3  # dW
    UPDATE = 4
    BACKWARD = 5  # dX and dW together


class Write(data.Struct):
    """Store data words, two-dimensionally: `rows` memory rows from `row`, in each `words` words from `word`.

    Data: rows * words words, row by row.

    STORE: bit e + 16 * i of a store word is bit i of element e, so its 64-bit word 0 has the low four bits of its 16
    elements, word 1 the high four: a tensor of at most 4 bits needs word 0 alone. Waits while a LOAD reads a tensor
    that overlaps the rows, or any by the row list. LIST: the low bits of one word, as many as an element's address in
    the store has; waits while a LOAD runs. SUMS: one word per column, its low 48 bits the sum (row = tile * array rows
    + array row); waits while anything computes. PROGRAM: a row's fields side by side from bit 0 on, as
    `config.ArrayConfig.program_fields` names them (see `Matmul`); waits while anything computes. CELLS_A: row 8 / S *
    cell + s is slice s of the cell's octet (0 = the most significant); bits (r * L + l) * S and behind are the digit of
    array row r on lane l, `config.ArrayConfig.lane_of_bit`(e) for element e of the chunk; what `Load` calls `flip` is
    done. CELLS_B: row 8 * cell + p is plane p (0 = the most significant); bit c * L + e is that of column c, element e.
    Datapaths but "serial": row `cell` has all planes, bits (c * L + e) * 8 and behind the octet of column c,
    element e; "fusion" has all slices in row `cell` of CELLS_A likewise. What
    a word has more than a row means nothing. Both wait while a MATMUL walks over the cells.

    A device with the feature "gather" has STORE and LIST, any other CELLS_A and CELLS_B (BAD_SPACE). POWER, of devices
    with the feature "power", takes one word a row; what that starts goes on beside later commands.
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


class Tensor(data.Struct):
    """Describe a tensor [n, h, w, c] in the store, for LOAD. `bits` = 0 forgets the slot's tensor instead.

    Element ((i * h + y) * w + x) * c + j, in the first octet of planes (bits 7 .. 0 if `bits` <= 8, else 15 .. 8),
    lies in store word `word` + index // 16, element index % 16 of it; the second octet (bits 7 .. 0) of more than 8
    bits follows `octet_words` = ceil(n * h * w * c / 16) words later. Values are two's complement, extended by sign
    (or zeros) up to a multiple of the slice width S. The device uses `word`, `bits` and the shape; `signed`,
    `exponent`, `split` and `layout` (0) are kept for the host.

    A slot may be described anew. Refused: a zero in the shape, n * h, w * c or h * w * c above 65535, an end behind
    the store, an overlap with the tensor of another slot.
    """

    opcode: 8
    slot: 8
    bits: 8
    signed: 1
    layout: 7
    exponent: 16
    split: 8
    reserved0: 8
    word: 32
    n: 16
    c: 16
    h: 16
    w: 16
    reserved1: 32
    reserved2: 64


class Load(data.Struct):
    """Gather part of a tensor into operand cells.

    Positions count through (n, y, x), x fastest; with `n_fast` through (y, x, n), n fastest. Position (i, Y, X), Y
    below `y_count`, X below `x_count`, stands at row y_start + Y * y_step and pixel x_start + X * x_step of image i;
    starts and steps are signed. The load takes `positions` of them from (`n_first`, `y_first`, `x_first`) on.
    Taps count through (line, place), place fastest and below `run`: tap (t, o) of a position at (i, y, x) is the
    element x * c + o of image row y + t of image i, or 0 where that row or element or image is not in the tensor. The
    load takes `taps` of them from (`line_first`, `place_first`) on.

    along (`across` = 0): vectors are positions, lanes are taps. `across`: vectors are taps, lanes are positions.
    `target` A: vectors are rows of the array, in tiles of R; B: columns, in tiles of C. Lanes are cut in chunks of L.
    What is missing in the last tile or chunk is filled with zeros.

    `listed`: image i begins LIST[i] elements behind the tensor's first one, modulo the store: rows of a batch in any
    order, some left out, some twice. Images are counted through the list, whatever n is. Not with `n_fast` (BAD_VALUE).

    One cell is one chunk of one octet of one tile's vectors. Vector v, chunk k of octet o (0 = most significant) goes
    to cell `cell` + (v // tile * octets + o) * chunks + k. `flip` (A alone): bit s inverts the top bit of slice s
    (0 = most significant, 8 / S of them in an octet) of every element, zeros too: two's complement to offset binary.
    `turn` (A alone), if not 0: tile t stands turned by t >> (turn - 1) array rows, round the end: so packed MATMULs
    find rows that are often wanted together in different banks.

    Refused (BAD_RANGE) are windows that leave the image. That is so if the last row of positions, y_start + (y_count -
    1) * max(y_step, 0), is not less than h; if the last pixel, x_start + (x_count - 1) * max(x_step, 0), is not less
    than w, or its run ends before the image: pixel * c + run <= 0. Likewise `n_first` >= n (`listed`: `LIST_ENTRIES`),
    and more positions than follow from the first one on: those of images behind the last, with `n_fast` those of rows
    behind `y_count`. So a kernel that is larger than the padded image is refused (its count is zero or, in 16 bits,
    huge), and a stride that steps past the image. Pixels between positions may be left out, as by a 1 x 1 kernel with
    stride 2; windows may begin before the image and end behind it. Rows that all lie before the image are not refused:
    a LOAD may take the lines of a kernel in parts, so what it takes may lie in the halo alone.

    Runs beside later commands; waits for the LOAD before it, and for a MATMUL that reads the cells. How many cycles it
    takes is said in `bitfirst_hdl.gather`. `quiet`: has no response unless it is refused. TENSOR and LOAD are known to
    devices with the feature "gather" alone (BAD_OPCODE).
    """

    opcode: 8
    slot: 4
    target: Target
    across: 1
    n_fast: 1
    quiet: 1
    flip: 16
    y_start: 16
    x_start: 16
    y_step: 8
    x_step: 8
    y_count: 16
    x_count: 16
    n_first: 16
    y_first: 16
    x_first: 16
    positions: 16
    line_first: 8
    listed: 1
    turn: 3
    reserved1: 4
    place_first: 16
    run: 16
    taps: 16
    cell: 16


class Matmul(data.Struct):
    """Multiply row_tiles x col_tiles tiles over `chunks` K chunks of L lanes into partial sums.

    Row tile i occupies the A cells a_cell + (i * a_octets + o) * chunks + k, column tile j the B cells
    b_cell + (j * b_octets + o) * chunks + k, as LOAD fills them. Used are `slices` slices from `a_first` on (0 = the
    most significant of octet 0, 8 / S in each octet), and `planes` planes from `b_first` on (8 in each octet).
    Tile (i, j) adds to (or, without `accumulate`, replaces) sum tile sum_tile + i * col_tiles + j.

    Bit s of `a_offset`: digits of used slice s are in offset binary (digit + 2**(S-1)), so signed. Bit p of
    `b_negative`: used plane p counts negative. Weights: slice s 2**(S*(slices-1-s)), plane p 2**(planes-1-p). Plain
    two's complement A: a_offset = 1 if signed else 0, and LOAD's `flip` = 1 << a_first; B: b_negative likewise.

    `a_below`, `b_below`: so many slices and planes of less weight are left out, and to be added by another MATMUL. All
    weights are larger by 2**(S*a_below) * 2**b_below. BAD_VALUE where slices + a_below are more than 16 / S, or
    planes + b_below more than 8 * b_octets: so sums stay what whole operands make them. For `b_below` each slice of a
    tile takes as many cycles more.

    The datapath "fixed" takes whole octets of B alone: `planes` and `b_first` are multiples of 8, only bits 0 and 8 of
    `b_negative` may be set, `b_below` is 0 (BAD_VALUE). So does "fixed16", with bit 0 alone of both `b_negative` and
    `a_offset`. The datapath "fusion" takes operands of 2, 4, 8 and 16 bits
    that lie aligned: `slices` (S = 2) is 1, 2, 4 or 8, `planes` 2, 4, 8 or 16, `a_first` a multiple of min(slices, 4),
    `b_first` of min(planes, 8); only bits 0 and 4 of `a_offset`, 0 and 8 of `b_negative` may be set, `b_below` is 0
    (BAD_VALUE).

    `packed`: `tiles` sum tiles from `sum_tile` on, whose elements each have a row of A and a column of B of their own;
    PROGRAM says which, in as many rows for each tile as it needs, from row `program` on, round the end. A row gives
    each bank r of A one word: that of the row tile whose cells are `a_cell`[r] behind those of tile 0; the elements
    (r, c) for which bit c of `mask`[r] is set multiply it. Elements without one multiply digits of 0. `last` ends a
    tile; row `PROGRAM_ROWS` - 1 does so, too. The tile's first row says what its columns are: those of the column tile
    whose cells are `b_cell` behind those of tile 0, column `choice`[c] of c's group (of `config.group_columns`) in
    column c. `row_tiles`, `col_tiles` are the cells that the program leads to. It is not checked for that: cells count
    round the end of their memory, and a LOAD may be changing others. `b_below` must be 0 (BAD_VALUE). Cycles:
    `config.packed_cycles`. Without `packed`, `program` and `tiles` mean nothing.

    Waits for the MATMUL before it, for a LOAD that fills the cells, and for a READ of the sums. `quiet`: has no
    response unless it is refused.
    """

    opcode: 8
    accumulate: 1
    quiet: 1
    packed: 1
    reserved0: 5
    slices: 8
    planes: 8
    a_offset: 16
    b_negative: 16
    chunks: 16
    row_tiles: 16
    col_tiles: 16
    sum_tile: 16
    a_cell: 16
    b_cell: 16
    a_octets: 4
    b_octets: 4
    a_first: 8
    b_first: 8
    a_below: 4
    b_below: 4
    program: 16
    tiles: 16
    reserved1: 32


class Read(data.Struct):
    """Read `count` words of REGISTERS or POWER from `first`, store words of STORE, or tiles of SUMS from tile `first`.

    STORE: two data words for each store word, as WRITE takes them; no other field is looked at. Waits while a LOAD
    runs. On devices with the feature "update" alone (BAD_SPACE).

    POWER: likewise, at most 512 words; waits until what was written there is done. On devices with the feature "power"
    alone (BAD_SPACE).

    SUMS: elements come tile by tile, row-major, only the first `rows` rows and `cols` columns of each tile.
    `bits` = 64 gives the sum as it is, one word each. `bits` = 2 .. 32 requantises (see `numeric`) with
    `multiplier`, `shift`, `rounding`, saturates to `bits` (`signed` or not) and packs into containers of
    a multiple of 4 bits, the smallest that holds `bits`, without gaps; least significant first, zeros after the last.
    Stochastic rounding hashes (`key`, index + tile * C * col_stride + row * row_stride + col * col_stride),
    modulo 2**32, where tile counts from 0 in this command. Waits for the READ before it, and for a MATMUL that computes
    these tiles.

    `compare`: signs (`Sign`) in place of numbers, `bits` = 2 each (BAD_VALUE if not), without gaps. The threshold is
    tau = `key` + 2**32 * `index`, at most 2**47 (BAD_VALUE). A sum P has its sign, 0 where it is 0, if |P| >= tau, and
    is `UNRESOLVED` if not; so tau = 0 gives plain signs. Behind the last word of signs comes one word more: the largest
    |P| of these sums. Multiplier, rounding, shift and strides mean nothing.

    Without the feature "requantise" there is `bits` = 64 alone, without `compare` (BAD_VALUE).
    """

    opcode: 8
    space: 8
    bits: 8
    signed: 1
    rounding: 2
    compare: 1
    reserved0: 4
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


class Update(data.Struct):
    """Move `groups` groups of `GROUP` weights by their signs: decay, momentum, step, in this order.

    Group g has the `STATE_WORDS` words of the store from `state` + 6 * g on: the octets of its masters (32 bits, in
    units of 2**-28), most significant first, then those of its momenta (16 bits, in units of 2**-11), two's complement.
    Its signs are word `signs` + g: bit 0 of an element says that there is one, bit 1 that it is negative (so -1, 0, 1
    in two's complement, or `Sign`); the others mean nothing. Elements behind the last weight are zeros, and stay so.

    Rates are multiplier * 2**-shift: `decay`, `decay_shift` (what a weight loses of itself), `rate`, `rate_shift`, and
    `coefficient` / 256 (what the momentum keeps of itself).

        decay     master -= sign(master) * ceil(|master| * decay / 2**decay_shift)
        momentum  v = |v| * coefficient / 256 with v's sign, towards 0, plus sign * 2**11, saturated
        step      master -= v * rate * 2**17 / 2**rate_shift, rounded to nearest, ties to even; saturated

    Saturated is symmetric. Answered by one data word: the largest magnitude of master >> 8 (rounded down), which is
    what layers see of the masters, in units of 2**-20.

    Refused: decay_shift < 16, rate_shift < 17, shifts above 63, an odd `state` (BAD_VALUE); no groups, an end behind
    the store, signs that overlap the masters (BAD_RANGE). Waits while a LOAD runs; commands behind it wait for its end,
    `ArrayConfig.update_cycles` later. On devices with the feature "update" alone (BAD_OPCODE).
    """

    opcode: 8
    coefficient: 8
    decay_shift: 8
    rate_shift: 8
    state: 16
    signs: 16
    groups: 16
    decay: 16
    rate: 16
    reserved0: 16
    reserved1: 64
    reserved2: 64


class Weights(data.Struct):
    """Quantise the masters of `groups` groups: weights as a tensor of `octets` octets (see `Tensor`) from `word` on.

    A weight is (master >> 8) * 2**14 / 2**shift, rounded to nearest, ties to even, of which the low 8 * `octets` bits
    are kept. So `shift` = 34 + exponent gives weights in units of 2**exponent; who gives it sees to it that they fit.
    `state` as in UPDATE; the momenta are left alone.

    Refused: octets other than 1, 2, a shift above 63, an odd `state` (BAD_VALUE); no groups, an end behind the store,
    weights that overlap the masters (BAD_RANGE). Waits, and takes its time, as UPDATE does.
    """

    opcode: 8
    octets: 8
    shift: 8
    reserved0: 8
    state: 16
    word: 16
    groups: 16
    reserved1: 48
    reserved2: 64
    reserved3: 64


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

    A quiet command (a flag of LOAD and MATMUL) that is not refused has none: that it was executed follows from the
    response to a later command other than READ, which comes after all refusals before it. So the host asks for one
    before its credit runs dry. That a refusal was lost shows in the numbers of the frames: the device counts them.
    """

    opcode: Opcode
    status: Status
    sequence: 16
    next_sequence: 16
    credit: 16


class TraceState(data.Struct):
    """First data word of TRACE: what the device is doing. The records that it has follow, the oldest one first.

    The response's status is STUCK while the watchdog sees no progress. It counts cycles in which something is to be
    done, nothing moves on and the host is not what is waited for; after `watchdog_cycles` of them it sends a `LINK`
    response with STUCK, once, and writes a record. An answer that is waited for at that time is filled up with zeros
    and gets a wrong CRC-32; from then on until a reset the device answers knocks and damaged frames alone. A frame
    that finds no room is dropped meanwhile, as a damaged one, so that knocks come through.
    """

    cycle: 32  # modulo 2**32, since power-up; resets leave it alone, as they do the records
    opcode: 8  # of the last command checked
    loads: 1  # gather unit at work
    multiplies: 1  # the engine reads its cells
    stores: 1  # the engine stores sums
    reads: 1  # readout at work
    updates: 1  # updater at work
    reserved0: 19


class TraceRecord(data.Struct):
    """One data word of TRACE: a command, when it has been checked, or a fault.

    A frame that was not accepted has opcode LINK and status BAD_FRAME or BAD_SEQUENCE; what the watchdog found stuck
    has status STUCK and names the last command checked. A record with a `cycle` behind that of `TraceState` was written
    while the answer was sent, in the place of an older one.
    """

    cycle: 32
    sequence: 16
    opcode: 8
    status: 8


COMMANDS = {
    Opcode.WRITE: Write,
    Opcode.READ: Read,
    Opcode.MATMUL: Matmul,
    Opcode.MARK: Mark,
    Opcode.COUNTERS: Plain,
    Opcode.SYNC: Plain,
    Opcode.PING: Ping,
    Opcode.RESET: Plain,
    Opcode.TENSOR: Tensor,
    Opcode.LOAD: Load,
    Opcode.UPDATE: Update,
    Opcode.WEIGHTS: Weights,
}
