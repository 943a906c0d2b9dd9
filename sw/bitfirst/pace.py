"""How long the commands of a schedule will take: link, sequencer, gather unit, array and readout beside each other.

A rough account in cycles, only for choosing among schedules. The sequencer takes commands in order; each waits for what
it needs, and holds up those behind it.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from math import prod

from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import Opcode, Phase, Target

from .lowering import Cut, Task, tensor_words
from .plan import FRAME_WORDS, SUMS_A_CYCLE
from .steps import Hold, Step, overlap

TAKE_CYCLES = {Opcode.TENSOR: 30, Opcode.WRITE: 11, Opcode.LOAD: 12, Opcode.MATMUL: 13, Opcode.READ: 12}
READOUT_CYCLES = 16  # first and last sum of a READ through its pipeline
ANSWER_WORDS = 1 + FRAME_WORDS
SENT_AT_ONCE = 256
#: operands that are not in the store yet when layers follow each other as in training: dX goes before dW
_NEW = {Phase.FORWARD: "wx", Phase.INPUT_GRADIENT: "g", Phase.WEIGHT_GRADIENT: ""}


def cycles_of(config: ArrayConfig, task: Task, tensors: tuple[Cut, ...], steps: tuple[Step | Hold, ...]) -> int:
    """About how many cycles these steps take, from the first word to the last answer."""
    device = _Device(config)
    for item in _issued(task, tensors, steps):
        if isinstance(item, int):
            device.write(item)
        else:
            device.take(item)
    return max(device.link_out, device.sequencer)


def _issued(task: Task, tensors: tuple[Cut, ...], steps: tuple[Step | Hold, ...]) -> Iterator[int | Step]:
    """Steps, and between them the data words of WRITEs (0: TENSOR), as `residency.issue` puts them."""
    waiting: deque[int] = deque()
    unsent: set[int] = set()
    at_once = 0
    for step in steps:
        if isinstance(step, Hold):
            for tensor in step.tensors:
                pieces = _pieces(task, tensors[tensor])
                waiting.extend(pieces)
                if pieces:
                    unsent.add(tensor)
            at_once = -(-len(waiting) // max(1, step.matmuls))
            continue
        if step.tensor in unsent:
            yield from waiting
            waiting.clear()
            unsent.clear()
        yield step
        if step.opcode == Opcode.MATMUL:
            for _ in range(min(at_once, len(waiting))):
                yield waiting.popleft()


def _pieces(task: Task, cut: Cut) -> list[int]:
    if cut.role not in _NEW[task.phase]:
        return []
    width = next(width for width in (task.a, task.b) if width.role == cut.role)
    words = packets.STORE_WORD_WORDS * tensor_words(prod(cut.shape), width.bits)
    return [0] + [min(SENT_AT_ONCE, words - first) for first in range(0, words, SENT_AT_ONCE)]


class _Device:
    """When each part is free again."""

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        self.word_cycles = packets.WORD_BITS // config.link_bits
        self.link_in = self.sequencer = self.link_out = 0
        self.gather = self.array = self.readout = 0
        self._walked: dict[Target, range] = dict.fromkeys(Target, range(0))
        self._loaded: dict[Target, range] = {}
        self._sums: deque[tuple[range, int]] = deque(maxlen=2)  # tiles of the latest MATMULs, and when they are stored
        self._answered: dict[int, int] = {}  # SUMS tile -> when its READ is answered

    def _arrive(self, words: int, opcode: Opcode) -> int:
        """When the sequencer has taken and checked a command."""
        self.link_in += (packets.COMMAND_WORDS + FRAME_WORDS + words) * self.word_cycles
        self.sequencer = max(self.sequencer, self.link_in) + TAKE_CYCLES[opcode]
        return self.sequencer

    def _answer(self, words: int, ready: int) -> None:
        self.link_out = max(self.link_out, ready) + (words + ANSWER_WORDS) * self.word_cycles

    def write(self, words: int) -> None:
        self._arrive(words, Opcode.WRITE if words else Opcode.TENSOR)
        self.sequencer += words
        self._answer(0, self.sequencer)

    def take(self, step: Step) -> None:
        if step.opcode == Opcode.LOAD:
            self._load(step)
        elif step.opcode == Opcode.MATMUL:
            self._multiply(step.fields, step.sums)
        else:
            self._read(step)

    def _load(self, step: Step) -> None:
        target = Target(step.fields["target"])
        cells = step.cells
        begin = max(self._arrive(0, Opcode.LOAD), self.gather)
        if overlap(cells, self._walked[target]):
            begin = max(begin, self.array)
        self.gather = begin + step.cycles + 1
        self._loaded = {target: cells}
        self.sequencer = begin
        self._answer(0, begin)

    def _multiply(self, fields: Mapping[str, int], sums: tuple[int, int]) -> None:
        chunks, row_tiles, col_tiles = (fields[name] for name in ("chunks", "row_tiles", "col_tiles"))
        first, count = sums
        if count:
            answered = max((self._answered.get(tile, 0) for tile in range(first, first + count)), default=0)
            self.link_in = max(self.link_in, answered)
        begin = max(self._arrive(0, Opcode.MATMUL), self.array)
        self._walked = {
            Target.A: _from(fields["a_cell"], row_tiles * fields["a_octets"] * chunks),
            Target.B: _from(fields["b_cell"], col_tiles * fields["b_octets"] * chunks),
        }
        if any(overlap(cells, self._walked[target]) for target, cells in self._loaded.items()):
            begin = max(begin, self.gather)
        steps = self.config.matmul_cycles(fields["slices"], fields["planes"], chunks, row_tiles, col_tiles)
        self.array = begin + steps
        tiles = _from(fields["sum_tile"], row_tiles * col_tiles)
        self._sums.append((tiles, self.array + self.config.matmul_tail_cycles))
        self.sequencer = begin
        self._answer(0, begin)

    def _read(self, step: Step) -> None:
        first, count = step.fields["first"], step.fields["count"]
        tiles = _from(first, count)
        stored = max((when for others, when in self._sums if overlap(others, tiles)), default=0)
        begin = max(self._arrive(0, Opcode.READ), self.readout, stored)
        self.sequencer = begin
        self.readout = begin + step.fetch.elements // SUMS_A_CYCLE + READOUT_CYCLES
        self._answer(step.fetch.words, self.readout)
        self._answered.update(dict.fromkeys(tiles, self.link_out))


def _from(first: int, count: int) -> range:
    return range(first, first + count)
