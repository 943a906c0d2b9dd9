"""The operand memories: cells in, one row of slices (A) or planes (B) out in each array step."""

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth.hdl import C, Cat, Module, Mux, Signal, Value
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .config import ArrayConfig
from .contract.packets import GROUP, OCTET_BITS, WORD_BITS
from .ports import CellWrite, MemoryWrite

#: Tells synthesis that no address is read and written in one cycle: otherwise it adds a bypass around each block
#: RAM. It takes effect on an asynchronous read port with a register behind it, which becomes a synchronous one.
NO_COLLISIONS = {"no_rw_check": True}

PLANE_BITS = exact_log2(OCTET_BITS)
BLOCK_RAM_WORDS = 512  #: of ECP5 and of Gowin, each of 32 bits, where the write port is as wide as it can be


class _Bank:
    """A memory of `width` bits a row, built of words of at most 64 bits; it is written in parts of 16 bits.

    row, enable  read port; `words` holds the row a cycle later, until the next one
    write_row, write_enable (a bit for each 16 bits), write_data: `together` rows at once, `write_row` counts these. In
        block RAM that is one write port, wider than the read port.
    """

    def __init__(self, m: Module, name: str, width: int, depth: int, together: int = 1) -> None:
        size = min(WORD_BITS, width)
        self.enable = Signal(name=f"{name}_enable")
        self.row = Signal(range(depth), name=f"{name}_row")
        self.write_row = Signal(range(depth // together), name=f"{name}_write_row")
        self.write_enable = Signal(width // GROUP, name=f"{name}_write_enable")
        places = range(0, width, size)
        self.write_data = [
            [Signal(size, name=f"{name}_write_data_{number}_{place}") for place in places] for number in range(together)
        ]
        self.words = [Signal(size, name=f"{name}_word_{place}", reset_less=True) for place in places]
        for index, word in enumerate(self.words):
            store = memory.Memory(shape=size, depth=depth, init=[], attrs=NO_COLLISIONS)
            m.submodules[f"{name}_{index}"] = store
            read_port = store.read_port(domain="comb")
            m.d.comb += read_port.addr.eq(self.row)
            for number, write_data in enumerate(self.write_data):
                write_port = store.write_port(granularity=GROUP)
                m.d.comb += [
                    write_port.en.eq(self.write_enable.word_select(index, size // GROUP)),
                    write_port.addr.eq(Cat(C(number, exact_log2(together)), self.write_row)),
                    write_port.data.eq(write_data[index]),
                ]
            with m.If(self.enable):
                m.d.sync += word.eq(read_port.data)


def _side_by_side(words: Sequence[Value]) -> list[Value]:
    """Words of one width, at most 64 bits, as words of 64 bits."""
    count = WORD_BITS // len(words[0])
    return [Cat(words[place : place + count]) for place in range(0, len(words), count)]


class AMemory(wiring.Component):
    """Operand A: for each array row a bank of `config.a_rows` rows, each of L digits of S bits.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    write : In(CellWrite(config))
        Stores all slices of the octets in `data`, in rows cell * 8 / S (the most significant one) and behind of bank
        `vector`: element e as the digit on lane `config.lane_of_bit(e)`. Readable two cycles later.
    enable, rows : In
        Reads a row of each bank. Who writes keeps away from rows that are being read: a word written in the same cycle
        is undefined in hardware.
    data : Out(64) x a_row_words
        The banks' rows side by side, `latency` cycles after `enable`; they stay until the next ones.

    One read and one write each cycle, no back-pressure. The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.vectors, self.cells = self._size()
        words = self.vectors * config.lanes * config.slice_bits // WORD_BITS
        super().__init__(
            {
                "write": In(CellWrite(config)),
                "enable": In(1),
                "rows": In(range(self.cells * config.slices_per_octet)).array(self.vectors),
                "data": Out(WORD_BITS).array(words),
            }
        )

    def _size(self) -> tuple[int, int]:
        """Banks, and cells."""
        return self.config.rows, self.config.a_cells

    @property
    def latency(self) -> int:
        """Cycles from `enable` to `data`: block RAM and register, but for the waiting for B; two less than B takes."""
        return self.config.operand_cycles - 4

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config = self.config
        enable, rows = self.enable, list(self.rows)
        for index in range(self.latency - 2):
            enable, *rows = _registered(m, f"later_{index}", enable, *rows)
        (fetched,) = _registered(m, "fetched", enable)
        cell, slices, parts = self._arrange(m)
        words = []
        for number in range(self.vectors):
            width, depth = config.lanes * config.slice_bits, self.cells * config.slices_per_octet
            bank = _Bank(m, f"bank_{number}", width, depth, together=config.slices_per_octet)
            wanted = self.write.valid & (self.write.vector == number)
            m.d.comb += [bank.enable.eq(enable), bank.row.eq(rows[number]), bank.write_row.eq(cell)]
            for digits, row in zip(slices, bank.write_data, strict=True):
                m.d.comb += [place.eq(digits[index * len(place) :][: len(place)]) for index, place in enumerate(row)]
            m.d.sync += bank.write_enable.eq(parts & wanted.replicate(len(parts)))
            words += bank.words
        with m.If(fetched):
            m.d.sync += [data.eq(word) for data, word in zip(self.data, _side_by_side(words), strict=True)]
        return m

    def _arrange(self, m: Module) -> tuple[Signal, list[Signal], Value]:
        """The cell and the words to write, registered, and which parts of 16 bits of these, not registered."""
        config, write = self.config, self.write
        size, elements = config.slice_bits, [0] * config.lanes
        for element in range(config.lanes):
            elements[config.lane_of_bit(element)] = element
        cell, slices = Signal(range(self.cells)), []
        m.d.sync += cell.eq(write.cell)
        for part in range(config.slices_per_octet):
            lowest, digits = OCTET_BITS - size * (part + 1), Signal(config.lanes * size, reset_less=True)
            m.d.sync += digits.eq(Cat(write.data[lowest + bit][element] for element in elements for bit in range(size)))
            slices.append(digits)
        parts = [write.groups[elements[place // size] // GROUP] for place in range(0, config.lanes * size, GROUP)]
        return cell, slices, Cat(parts)


class DigitMemory(AMemory):
    """Operand B of the datapath "fixed", whose digits are octets: for each array column a bank, as in `AMemory`."""

    def _size(self) -> tuple[int, int]:
        return self.config.columns, self.config.b_cells

    @property
    def latency(self) -> int:
        """Cycles from `enable` to `data`."""
        return self.config.operand_cycles - 2


class BMemory(wiring.Component):
    """Operand B: `config.b_rows` rows, each a plane of L bits for every array column.

    N rows of a column, eight planes of each chunk, are written at once although one row of all columns is read at once;
    N is `config.b_written_rows`, 16 (L = 16) or 8. A write port of block RAM takes `together` rows at once, in a word
    of 32 bits of which the read port gives a part: one row, of as many lanes as are left. That alone turns the corner
    where memories are deep enough to fill block RAMs of 512 such words. Else the columns stand in groups of
    T = N / `together`, and each group has T banks: block q of `together` rows, of column c, lies in bank (c + q) % T.
    Any T blocks in a row are in T banks, so chunks are written in pairs wherever they begin. A row is read from all
    banks at one address, then rotated by its block's q; then, with packed MATMULs, each column of the array takes the
    word of its choice, out of those of `config.group_columns`.

    A group of W columns, W < T, has only W of T blocks in a bank: they are found by q % W and q // T.

    Parameters
    ----------
    config : ArrayConfig

    Members
    -------
    write : In(CellWrite(config, config.b_chunks))
        Stores all planes of `data` in rows cell * 8 (weight 2**7) to cell * 8 + 7 of column `vector`, those of a second
        chunk in the eight rows behind them. Readable two to four cycles later.
    enable, row : In
        Reads a row; as in `AMemory`.
    clear : In(1)
        In place of a row zeros; not together with `enable`.
    choice : In(range(config.group_columns)) x C
        Which column of its group each column of the array takes; with `enable`. Only with packed MATMULs.
    data : Out(64) x b_row_words
        The columns' planes side by side, `latency` cycles after `enable` or `clear`; they stay until the next ones.

    One read and one write each cycle, no back-pressure. The contents survive reset.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.together = min(OCTET_BITS, max(1, config.b_rows // BLOCK_RAM_WORDS))
        self._turn_bits = exact_log2(config.b_written_rows // self.together)
        choice = {"choice": In(range(config.group_columns)).array(config.columns)} if config.packs else {}
        super().__init__(
            {
                "write": In(CellWrite(config, config.b_chunks)),
                "enable": In(1),
                "clear": In(1),
                "row": In(range(config.b_rows)),
                "data": Out(WORD_BITS).array(config.b_row_words),
            }
            | choice
        )

    @property
    def latency(self) -> int:
        """Cycles from `enable` to `data`: those without work, block RAM, rotation, choice."""
        return self.config.operand_cycles - 2

    def elaborate(self, platform: object) -> Module:
        m = Module()
        config, count, bits = self.config, 1 << self._turn_bits, self._turn_bits
        groups = range(-(-config.columns // count))
        depth = config.b_rows * min(config.columns, count) // count
        banks = [
            [_Bank(m, f"bank_{group}_{number}", config.lanes, depth, self.together) for number in range(count)]
            for group in groups
        ]
        self._write(m, banks)
        enable, row = self.enable, self.row
        for stage in range(self.latency - bits - 2):
            enable, row = _registered(m, f"wait_{stage}", enable, row)
        within, block = row[: exact_log2(self.together)], row[exact_log2(self.together) :]
        (fetched, turn), columns = _registered(m, "fetched", enable, block[:bits]), []
        for group in groups:
            for bank in banks[group]:
                m.d.comb += bank.enable.eq(enable)
                m.d.comb += bank.row.eq(Cat(within, self._place(block)))
            rows = [bank.words for bank in banks[group]]
            columns += _rotate(m, f"columns_{group}", rows, turn, fetched)[: config.columns]
        self._choose(m, columns)
        return m

    def _choose(self, m: Module, columns: list[list[Value]]) -> None:
        """Each column's word, out of its group's; without a choice its own."""
        config, words = self.config, []
        enable, clear, choice = self.enable, self.clear, list(self.choice) if config.packs else []
        for stage in range(self.latency - 1):
            enable, clear, *choice = _registered(m, f"later_{stage}", enable, clear, *choice)
        for column, place in enumerate(choice):
            group = columns[column - column % config.group_columns :][: config.group_columns]
            words += [one_of(place, alike) for alike in zip(*group, strict=True)]
        if not config.packs:
            words = [word for column in columns for word in column]
        with m.If(enable):
            m.d.sync += [data.eq(word) for data, word in zip(self.data, _side_by_side(words), strict=True)]
        with m.If(clear):
            m.d.sync += [data.eq(0) for data in self.data]

    def _place(self, block: Value) -> Value:
        """Where a bank has it."""
        bits = self._turn_bits
        return Cat(block[: min(bits, exact_log2(self.config.columns))], block[bits:])

    def _write(self, m: Module, banks: list[list[_Bank]]) -> None:
        """Rotates the blocks by the place of the first, and stores them in one group of banks."""
        config, write, bits = self.config, self.write, self._turn_bits
        block_bits = exact_log2(OCTET_BITS // self.together)  # of those in a cell
        size = len(banks[0][0].words[0])
        rows = [
            [write.data[plane][first + place :][:size] for place in range(0, config.lanes, size)]
            for first in range(0, config.b_chunks * config.lanes, config.lanes)
            for plane in reversed(range(OCTET_BITS))
        ]
        together = range(self.together)
        blocks = [
            [word for row in together for word in rows[place + row]] for place in range(0, len(rows), self.together)
        ]
        column, turn = Signal(max(bits, len(write.vector))), Signal(bits)
        cells = [Signal(range(config.b_cells), name=f"cell_{chunk}") for chunk in range(config.b_chunks)]
        m.d.comb += [column.eq(write.vector), turn.eq(-(column + (write.cell << block_bits)))]
        m.d.comb += [cell.eq(write.cell + chunk) for chunk, cell in enumerate(cells)]
        stages = min(bits, PLANE_BITS)
        fields = write.valid, write.groups, column[bits:], *cells, turn
        if stages:
            blocks = _rotate(m, "planes", blocks, turn[:stages], write.valid)
        else:
            blocks = _kept(m, "planes", blocks, write.valid)
        for stage in range(stages - 1):
            fields = _registered(m, f"write_{stage}", *fields)
        *_, turn = fields
        taken = [(turn + number)[:bits] for number in range(len(banks[0]))]  # which of the blocks a bank takes
        valid, groups, column_group, *cells, turn = _registered(m, "write", *fields)
        taken = _registered(m, "taken", *taken)
        if bits > stages:  # without a register, so that no write takes longer than a MATMUL's first read
            blocks = _turned(blocks, 1 << stages, turn[stages])
        chunk_groups = [groups.word_select(chunk, config.lane_groups) for chunk in range(config.b_chunks)]
        for group, members in enumerate(banks):
            here = valid & (column_group == group)
            for number, (bank, block) in enumerate(zip(members, taken, strict=True)):
                cell, enable = (_chosen(block[block_bits:], values) for values in (cells, chunk_groups))
                m.d.comb += bank.write_row.eq(self._place(Cat(block[:block_bits], cell)))
                m.d.comb += bank.write_enable.eq(enable & here.replicate(config.lane_groups))
                words = [word for row in bank.write_data for word in row]
                m.d.comb += [word.eq(new) for word, new in zip(words, blocks[number], strict=True)]


class RowMemory(wiring.Component):
    """An operand whose rows the host writes as the array takes them.

    Parameters
    ----------
    words, depth : int
        64-bit words of a row, and how many rows there are.
    latency : int
        Cycles from `enable` or `clear` to `data`, at least 2.

    Members
    -------
    write : In(MemoryWrite())
        Readable in the next cycle.
    enable, row : In
        Reads a row; as in `AMemory`.
    clear : In(1)
        In place of a row zeros; not together with `enable`.
    data : Out(64) x words
        They stay until the next ones.

    One read and one write each cycle, no back-pressure. The contents survive reset.
    """

    def __init__(self, words: int, depth: int, latency: int) -> None:
        self.depth = depth
        self.latency = latency
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "enable": In(1),
                "clear": In(1),
                "row": In(range(depth)),
                "data": Out(WORD_BITS).array(words),
            }
        )

    @classmethod
    def of_a(cls, config: ArrayConfig) -> "RowMemory":
        """In the place of `AMemory`."""
        return cls(config.a_row_words, config.a_rows, config.operand_cycles - 4)

    @classmethod
    def of_b(cls, config: ArrayConfig) -> "RowMemory":
        """In the place of `BMemory`."""
        return cls(config.b_row_words, config.b_rows, config.operand_cycles - 2)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        enable, clear, row = self.enable, self.clear, self.row
        for stage in range(self.latency - 2):
            enable, clear, row = _registered(m, f"later_{stage}", enable, clear, row)
        fetched, cleared = _registered(m, "fetched", enable, clear)
        for number, data in enumerate(self.data):
            store = memory.Memory(shape=WORD_BITS, depth=self.depth, init=[], attrs=NO_COLLISIONS)
            m.submodules[f"words_{number}"] = store
            read_port, write_port = store.read_port(domain="comb"), store.write_port()
            word = Signal(WORD_BITS, name=f"word_{number}", reset_less=True)
            m.d.comb += [
                read_port.addr.eq(row),
                write_port.addr.eq(self.write.row),
                write_port.data.eq(self.write.data),
                write_port.en.eq(self.write.valid & (self.write.word == number)),
            ]
            with m.If(enable):
                m.d.sync += word.eq(read_port.data)
            with m.If(fetched):
                m.d.sync += data.eq(word)
            with m.Elif(cleared):
                m.d.sync += data.eq(0)
        return m


def _registered(m: Module, name: str, *values: Value) -> list[Signal]:
    """The values, a cycle later; those without bits as they are."""
    later = [Signal(len(value), name=f"{name}_{index}") if len(value) else value for index, value in enumerate(values)]
    m.d.sync += [new.eq(value) for new, value in zip(later, values, strict=True) if len(value)]
    return later


def one_of(index: Value, values: Sequence[Value]) -> Value:
    """One of as many values as the index tells apart."""
    for bit in index:
        values = [Mux(bit, odd, even) for even, odd in zip(values[::2], values[1::2], strict=True)]
    return values[0]


def one_in_turn(turn: Value, values: Sequence[Value]) -> Value:
    """The one whose bit of `turn` is high, of which there is at most one; zeros if there is none.

    On ECP5 its ANDs and ORs take less logic than a multiplexer of many values does.
    """
    return reduce(or_, [Mux(bit, value, 0) for bit, value in zip(turn, values, strict=True)])


def _chosen(index: Value, values: Sequence[Value]) -> Value:
    """One of one or two values."""
    return Mux(index, values[1], values[0]) if len(values) > 1 else values[0]


def _turned(rows: Sequence[Sequence[Value]], places: int, turn: Value) -> list[list[Value]]:
    """Row i of the result is row i + `places` (round the end) if `turn` is high; a row is a list of words."""
    away = [rows[(number + places) % len(rows)] for number in range(len(rows))]
    return [
        [Mux(turn, other, word) for word, other in zip(row, others, strict=True)]
        for row, others in zip(rows, away, strict=True)
    ]


def _rotate(m: Module, name: str, rows: list[list[Value]], turn: Value, enable: Value) -> list[list[Value]]:
    """Row i of the result is row i + `turn` (round the end), a cycle later for each bit of `turn`.

    It holds until the next `enable`. A register behind each stage costs nothing, and keeps synthesis from building one
    large multiplexer for each bit.
    """
    for stage in range(len(turn)):
        rows = _kept(m, f"{name}_{stage}", _turned(rows, 2**stage, turn[stage]), enable)
        turn, enable = _registered(m, f"{name}_turn_{stage}", turn, enable)
    return rows


def _kept(m: Module, name: str, rows: Sequence[Sequence[Value]], enable: Value) -> list[list[Value]]:
    """The rows, a cycle later; they hold until the next `enable`."""
    kept = []
    for number, row in enumerate(rows):
        words = [Signal(len(word), name=f"{name}_{number}_{index}", reset_less=True) for index, word in enumerate(row)]
        with m.If(enable):
            m.d.sync += [later.eq(word) for later, word in zip(words, row, strict=True)]
        kept.append(words)
    return kept
