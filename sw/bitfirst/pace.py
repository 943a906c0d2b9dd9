"""How long commands will take: link, sequencer, gather unit, array and readout beside each other.

A rough account in cycles, only for choosing among schedules and the order of their commands. The sequencer takes
commands in order; each waits for what it needs, and holds up those behind it. All LOADs and MATMULs count as quiet.
"""

from collections import deque
from collections.abc import Mapping
from math import prod

from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Opcode, Target

from .cells import MOST_WRITE_WORDS
from .lowering import Cut, Task, tensor_words
from .plan import FRAME_WORDS
from .steps import Step, overlap

#: of the sequencer. MATMUL takes 11; with 13, orders come out that are better by 0.1 % (digits step: 203,586 cycles).
TAKE_CYCLES = {Opcode.TENSOR: 30, Opcode.WRITE: 11, Opcode.LOAD: 12, Opcode.MATMUL: 13, Opcode.READ: 12}
READOUT_CYCLES = 16  # first and last sum of a READ through its pipeline
COMMAND_FRAME_WORDS = packets.COMMAND_WORDS + FRAME_WORDS
ANSWER_WORDS = 1 + FRAME_WORDS
LEAST_WRITE_WORDS = 96


def write_cycles(words: int) -> int:
    """Cycles of the sequencer for a WRITE of so many data words, or a TENSOR (0)."""
    return TAKE_CYCLES[Opcode.WRITE if words else Opcode.TENSOR] + words


class Pace:
    """When each part of the device is free again, after the commands so far."""

    def __init__(self, config: ArrayConfig, task: Task, tensors: tuple[Cut, ...]) -> None:
        self.config = config
        self._word_cycles = packets.WORD_BITS // config.link_bits
        self._link_in = self._sequencer = self._link_out = 0
        self._gather = self._array = self._readout = 0
        self._walked: dict[Target, range] = dict.fromkeys(Target, range(0))
        self._loaded: dict[Target, range] = {}
        self._sums: deque[tuple[range, int]] = deque(maxlen=2)  # tiles of the latest MATMULs, and when they are stored
        self._read = range(0)  # tiles of the latest READ
        unsent = {index: pieces for index, cut in enumerate(tensors) if (pieces := _pieces(task, cut))}
        self._unsent = unsent if config.gathers else {}

    @property
    def end(self) -> int:
        """When the last answer has gone, and the last MATMUL is done."""
        return max(self._link_out, self._sequencer, self._array)

    def begin(self, step: Step) -> int:
        """When it could begin."""
        begin = max(self._sequencer, self._link_in + COMMAND_FRAME_WORDS * self._word_cycles) + TAKE_CYCLES[step.opcode]
        if step.opcode == Opcode.LOAD:
            begin = max(begin, self._gather)  # never busy where LOADs stand for WRITEs
            return max(begin, self._array) if overlap(step.cells, self._walked[step.fields["target"]]) else begin
        if step.opcode == Opcode.WRITE:
            return max(begin, self._array + self.config.matmul_tail_cycles)
        if step.opcode == Opcode.MATMUL:
            begin = max(begin, self._array)
            if overlap(self._read, _sums_of(step.fields)):
                begin = max(begin, self._readout)
            cells = self._walked_by(step.fields)
            loading = any(overlap(loaded, cells[target]) for target, loaded in self._loaded.items())
            return max(begin, self._gather) if loading else begin
        tiles = _from(step.fields["first"], step.fields["count"])
        stored = max((when for others, when in self._sums if overlap(others, tiles)), default=0)
        return max(begin, self._readout, stored)

    def fill(self, begin: int) -> int:
        """Cycles until the next command begins; data of tensors still to come go out meanwhile."""
        gap = left = begin - self._sequencer
        for pieces in list(self._unsent.values())[:1]:
            while pieces and fits(left, pieces[0]):
                left -= write_cycles(pieces[0])
                self._write(pieces.popleft())
        return gap

    def take(self, step: Step) -> None:
        """A command goes out; before a LOAD, its tensor."""
        if step.opcode == Opcode.LOAD:
            for words in self._unsent.pop(step.tensor, ()):
                self._write(words)
        begin = self.begin(step)
        if step.opcode == Opcode.WRITE or step.writes:
            self._sequencer = begin - TAKE_CYCLES[step.opcode]
            for words in step.writes or (len(step.data),):
                self._write(words)
            return
        self._link_in += COMMAND_FRAME_WORDS * self._word_cycles
        self._sequencer = begin
        if step.opcode == Opcode.LOAD:
            self._gather = begin + step.cycles + 1
            self._loaded = {step.fields["target"]: step.cells}
        elif step.opcode == Opcode.MATMUL:
            self._multiply(step.fields, step.cycles, begin)
        else:
            self._readout = begin + step.fetch.cycles + READOUT_CYCLES
            self._answer(step.fetch.words, begin + READOUT_CYCLES)  # it leaves while the readout makes it
            self._read = _from(step.fields["first"], step.fields["count"])

    def _multiply(self, fields: Mapping[str, int], cycles: int, begin: int) -> None:
        self._walked = self._walked_by(fields)
        self._array = begin + cycles
        self._sums.append((_sums_of(fields), self._array + self.config.matmul_tail_cycles))

    @staticmethod
    def _walked_by(fields: Mapping[str, int]) -> dict[Target, range]:
        chunks = fields["chunks"]
        return {
            Target.A: _from(fields["a_cell"], fields["row_tiles"] * fields["a_octets"] * chunks),
            Target.B: _from(fields["b_cell"], fields["col_tiles"] * fields["b_octets"] * chunks),
        }

    def _write(self, words: int) -> None:
        self._link_in += (COMMAND_FRAME_WORDS + words) * self._word_cycles
        self._sequencer = max(self._sequencer, self._link_in) + write_cycles(words)
        self._answer(0, self._sequencer)

    def _answer(self, words: int, ready: int) -> None:
        self._link_out = max(self._link_out, ready) + (words + ANSWER_WORDS) * self._word_cycles


def fits(gap: int, words: int) -> bool:
    """Whether a WRITE is worth while in a gap: it delays what follows by less than it uses."""
    return 2 * gap >= write_cycles(words)


def _pieces(task: Task, cut: Cut) -> deque[int]:
    """Data words of the WRITEs that bring a tensor, behind its TENSOR (0); none if it is in the store already."""
    if cut.role not in task.fresh:
        return deque()
    width = next(width for width in (task.a, task.b) if width.role == cut.role)
    words = packets.STORE_WORD_WORDS * tensor_words(prod(cut.shape), width.bits)
    size = most_write_words(words)
    return deque([0, *(min(size, words - first) for first in range(0, words, size))])


def most_write_words(words: int) -> int:
    """Data words of one WRITE of a tensor of so many: a small tensor is waited for, and is there sooner in pieces."""
    return max(LEAST_WRITE_WORDS, min(words // 4, MOST_WRITE_WORDS))


def _sums_of(fields: Mapping[str, int]) -> range:
    """Tiles that a MATMUL adds to."""
    packed = fields.get("packed", 0)
    return _from(fields["sum_tile"], fields["tiles"] if packed else fields["row_tiles"] * fields["col_tiles"])


def _from(first: int, count: int) -> range:
    return range(first, first + count)
