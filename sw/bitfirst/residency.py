"""The book of the device's tensor store: what lies where, and the commands that bring in what is missing.

Tensors are named by their content, so that one that is used again (x in dW, w in dX, g in both) is found again,
whoever made it. What makes room is what no later phase of training wants, then what was not used for longest. The
model device keeps the same book as a board.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from math import inf, prod
from typing import NamedTuple

import numpy as np
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import GROUP, OCTET_BITS, Opcode, Phase, Space

from . import packing
from .cells import CellWrites
from .command import Command
from .errors import UsageError
from .lowering import Cut, Operation, octets_of
from .masters import MasterWeights
from .pace import fits, most_write_words, write_cycles
from .quantised import Quantised
from .schedule import Schedule
from .steps import Hold, Step, overlap

Key = bytes | int  #: a tensor's name; a number stands for it while `Supplies` looks ahead
Piece = tuple[int, int, int, int]
MOST_REMEMBERED = 1 << 14  #: names of tensors that are no longer in the store
MOST_FORESEEN = 1 << 10  #: ways in which operations meet the store
WORTH_KNOWING = packets.TENSOR_SLOTS // 2  #: tensors of one operation
#: what a use of an operand says about the uses that follow, where dX comes before dW
_USES_TO_COME = {
    (Phase.FORWARD, "x"): 1,
    (Phase.FORWARD, "w"): 1,
    (Phase.INPUT_GRADIENT, "g"): 1,
    (Phase.INPUT_GRADIENT, "w"): -1,
    (Phase.WEIGHT_GRADIENT, "x"): -1,
    (Phase.WEIGHT_GRADIENT, "g"): -1,
}


@dataclass(frozen=True)
class Tensor:
    """What may lie in the store: `cut` of `operand`; `alias`, where it is given, is its name."""

    operand: Quantised
    cut: Cut
    alias: int | None = None

    @cached_property
    def key(self) -> Key:
        """Its name: equal for equal parts of equal operands."""
        return self.operand.name + self.cut.name if self.alias is None else self.alias

    @property
    def octets(self) -> int:
        return octets_of(self.operand.bits)

    @cached_property
    def octet_words(self) -> int:
        n, h, w, c = self.cut.shape
        return -(-n * h * w * c // GROUP)

    @cached_property
    def words(self) -> int:
        return self.octets * self.octet_words

    def pieces(self, config: ArrayConfig) -> tuple[tuple[Piece, ...], int]:
        """Its WRITEs, and the 64-bit words that travel."""
        bits = self.operand.bits
        return _pieces(self.octet_words, bits, max(config.slices_of(bits) * config.slice_bits, config.planes_of(bits)))

    @property
    def made_there(self) -> bool:
        """Whether the device itself makes it, of masters that it keeps: whole weights alone."""
        operand = self.operand
        return isinstance(operand, MasterWeights) and prod(self.cut.shape) == operand.values.numel()

    def packed(self) -> np.ndarray:
        """uint64 [octets, octet_words, 2]"""
        values = self.cut.of(self.operand.codes).transpose(0, 2, 3, 1)
        return packing.pack_store(values, self.operand.bits)


@dataclass(frozen=True)
class Move:
    """A tensor on its way into the store: its place, and the slots to forget before."""

    config: ArrayConfig
    tensor: Tensor
    slot: int
    word: int
    forget: tuple[int, ...]

    @property
    def _pieces(self) -> tuple[Piece, ...]:
        return () if self.made_there else self.tensor.pieces(self.config)[0]

    @property
    def command_count(self) -> int:
        return len(self.forget) + 1 + self.made_there + len(self._pieces)

    @property
    def made_there(self) -> bool:
        return self.tensor.made_there

    @property
    def counters(self) -> dict[str, int]:
        """Execution counters, but those of every command and WRITE."""
        if not self.made_there:
            return {}
        return {"updates": 1, "update_cycles": self.config.update_cycles(self.tensor.octet_words)}

    @property
    def data_words(self) -> int:
        """64-bit words that travel."""
        return 0 if self.made_there else self.tensor.pieces(self.config)[1]

    def commands(self) -> Iterator[Command]:
        for slot in self.forget:
            yield forget(slot)
        operand, (n, h, w, c) = self.tensor.operand, self.tensor.cut.shape
        place = {"slot": self.slot, "bits": operand.bits, "signed": int(operand.signed), "word": self.word}
        place |= {"exponent": operand.exponent & 0xFFFF, "split": operand.low}
        yield Command(Opcode.TENSOR, place | {"n": n, "h": h, "w": w, "c": c})
        if self.made_there:
            yield operand.command(self.word)
            return
        packed = self.tensor.packed()
        for octet, row, rows, words in self._pieces:
            first = self.word + octet * self.tensor.octet_words + row
            data = np.ascontiguousarray(packed[octet, row : row + rows, :words]).reshape(-1)
            yield Command(Opcode.WRITE, {"space": Space.STORE, "rows": rows, "words": words, "row": first}, data)


@lru_cache(maxsize=4096)
def _pieces(octet_words: int, bits: int, taken: int) -> tuple[tuple[Piece, ...], int]:
    """(octet, first row, rows, 64-bit words of each row) of a tensor's WRITEs, and all their words.

    Four bits need the lower word alone; `taken`: of those that MATMULs take.
    """
    pieces, octets = [], octets_of(bits)
    for octet in range(octets):
        words = 1 if taken - (octets - 1 - octet) * OCTET_BITS <= 4 else packets.STORE_WORD_WORDS
        rows = most_write_words(octets * octet_words * packets.STORE_WORD_WORDS) // words
        for row in range(0, octet_words, rows):
            pieces.append((octet, row, min(rows, octet_words - row), words))
    return tuple(pieces), sum(rows * words for _, _, rows, words in pieces)


def forget(slot: int) -> Command:
    return Command(Opcode.TENSOR, {"slot": slot})


class _Place(NamedTuple):
    slot: int
    words: range


class Store:
    """Which tensors lie in the store and its slots, least recently held first.

    refetched_bytes  sent again after they had to make room, or in another order
    reserved         first word and words of what lies at the end of the store, and is no tensor
    """

    def __init__(self, config: ArrayConfig, reserved: dict[int, int] | None = None) -> None:
        self.config = config
        self.reserved = {} if reserved is None else reserved
        self.refetched_bytes = 0
        self._places: OrderedDict[Key, _Place] = OrderedDict()
        self._described = [range(0)] * packets.TENSOR_SLOTS  # words of each slot, of dropped tensors too
        self._to_come: dict[Key, int] = {}  # uses
        self._wanted: frozenset[Key] = frozenset()
        self._dropped: OrderedDict[Key, None] = OrderedDict()

    def __contains__(self, key: Key) -> bool:
        return key in self._places

    def slot(self, key: Key) -> int:
        return self._places[key].slot

    @property
    def limit(self) -> int:
        """Tensors lie before this word."""
        return min(self.reserved, default=self.config.store_words)

    def reserve(self, words: int) -> int | None:
        """First word of so many, an even one, from now on kept free of tensors; None if less than half of the store
        would be left for them: any tensor of a schedule has room there."""
        behind = self.config.store_words
        for first, count in sorted(self.reserved.items(), reverse=True):
            if behind - (first + count) >= words + words % 2:
                break
            behind = first
        first = behind - words - words % 2
        if first < self.config.store_words // 2:
            return None
        self.reserved[first] = words
        for key in [key for key, place in self._places.items() if place.words.stop > self.limit]:
            self._forget(key)
        return first

    def release(self, first: int) -> None:
        """`reserve`, undone."""
        self.reserved.pop(first, None)

    def note_sent_again(self, tensor: Tensor) -> None:
        """Once more by this name: in another order, it had been sent before."""
        self.refetched_bytes += tensor.pieces(self.config)[1] * packets.WORD_BYTES

    def want(self, keys: Iterable[Key]) -> None:
        """These the next operation will hold: they make room after all others but those of `keep`."""
        self._wanted = frozenset(keys)
        while len(self._dropped) > MOST_REMEMBERED:
            self._dropped.popitem(last=False)

    def note_use(self, key: Key, uses_to_come: int) -> None:
        """So many more (or fewer) uses are expected to follow."""
        uses = self._to_come.pop(key, 0) + uses_to_come
        if uses > 0:
            self._to_come[key] = uses

    def hold(self, tensor: Tensor, keep: frozenset[Key] = frozenset()) -> Move | None:
        """How to bring the tensor into the store; None when it is there. Tensors of `keep` make room last."""
        key = tensor.key
        if key in self._places:
            self._places.move_to_end(key)
            return None
        while (word := self._gap(tensor.words)) is None:
            self._drop(keep, lambda place: 0)
        if len(self._places) == packets.TENSOR_SLOTS:
            self._drop(keep, lambda place: len(place.words))
        words = range(word, word + tensor.words)
        slot, forgotten = self._take_slot(words)
        self._places[key] = _Place(slot, words)
        move = Move(self.config, tensor, slot, word, forgotten)
        if key in self._dropped:
            self.refetched_bytes += move.data_words * packets.WORD_BYTES
        return move

    def _gap(self, words: int) -> int | None:
        """First word of the first gap of so many words."""
        start = 0
        for first, behind in sorted((place.words.start, place.words.stop) for place in self._places.values()):
            if first - start >= words:
                return start
            start = behind
        return start if self.limit - start >= words else None

    def _drop(self, keep: frozenset[Key], cost: Callable[[_Place], int]) -> None:
        """Do without a tensor: one that is not to be used again, or the cheapest, or the least recently held."""
        if not self._places:
            raise UsageError("a tensor is larger than the store: raise store_words in the configuration")
        wanted, to_come = self._wanted, self._to_come
        key = min(self._places, key=lambda key: (key in keep, key in wanted, key in to_come, cost(self._places[key])))
        self._forget(key)

    def _forget(self, key: Key) -> None:
        self._places.pop(key)
        self._to_come.pop(key, None)
        self._dropped[key] = None

    def _take_slot(self, words: range) -> tuple[int, tuple[int, ...]]:
        """A free slot for these words, and the slots to forget before: no other may describe any of them."""
        taken = {place.slot for place in self._places.values()}
        free = [slot for slot in range(packets.TENSOR_SLOTS) if slot not in taken]
        in_the_way = [slot for slot in free if overlap(self._described[slot], words)]
        slot = (in_the_way or free)[0]
        forgotten = tuple(in_the_way[1:])
        for other in forgotten:
            self._described[other] = range(0)
        self._described[slot] = words
        return slot, forgotten

    # the same with other names
    def names(self, keys: Sequence[Key]) -> dict[Key, Key]:
        """Other names for these tensors, by their place in `keys`, and for those in the store."""
        names: dict[Key, Key] = dict(zip(self._places, range(-1, -1 - len(self._places), -1), strict=True))
        names.update(zip(reversed(keys), range(len(keys) - 1, -1, -1), strict=True))
        return names

    def view(self, keys: Sequence[Key], names: dict[Key, Key]) -> Hashable:
        """All that decides what an operation that wants these tensors will do to the store."""
        to_come, dropped = self._to_come, self._dropped
        places = [(place, names[key], key in to_come) for key, place in self._places.items()]
        wanted = [(names[key], to_come.get(key, 0), key in dropped) for key in keys]
        return tuple(places), tuple(self._described), tuple(wanted), self.limit

    def renamed(self, names: dict[Key, Key]) -> "Store":
        """A copy that knows these tensors alone, those in the store among them, by other names."""
        copy = Store(self.config, self.reserved)
        copy._places = OrderedDict((names[key], place) for key, place in self._places.items())
        copy._described = list(self._described)
        copy._to_come = {names[key]: uses for key, uses in self._to_come.items() if key in names}
        copy._dropped = OrderedDict.fromkeys(name for key, name in names.items() if key in self._dropped)
        return copy

    def become(self, after: "Store", names: dict[Key, Key]) -> None:
        """As `after`, which comes from this store, `renamed` by `names`."""
        keys = dict(zip(names.values(), names, strict=True))
        self.refetched_bytes += after.refetched_bytes
        self._places = OrderedDict([(keys[name], place) for name, place in after._places.items()])
        self._described = list(after._described)
        for key in names:
            self._to_come.pop(key, None)
        self._to_come.update([(keys[name], uses) for name, uses in after._to_come.items()])
        self._dropped.update([(keys[name], None) for name in after._dropped])


class Supply:
    """Brings an operation's tensors into the store as its schedule wants them: `hold` at a Hold, `need` at a LOAD.

    `bring` is called with each move, in order.
    """

    def __init__(self, store: Store, tensors: Sequence[Tensor], phase: Phase, bring: Callable[[Move], None]) -> None:
        self._store = store
        self._wanted = tensors
        self._phase = phase
        self._bring = bring
        store.want(tensor.key for tensor in self._wanted)

    def hold(self, hold: Hold) -> None:
        keep = frozenset(self._wanted[index].key for index in hold.keep)
        for index in hold.tensors:
            tensor = self._wanted[index]
            self._fetch(tensor, keep)
            self._store.note_use(tensor.key, _USES_TO_COME[self._phase, tensor.cut.role])

    def need(self, index: int) -> Key:
        """The tensor's key, once it is in the store: it may have had to make room since its `hold`."""
        tensor = self._wanted[index]
        if tensor.key not in self._store:
            self._fetch(tensor, frozenset())
        return tensor.key

    def need_all(self, indices: tuple[int, ...]) -> None:
        """`need` of each, in order."""
        if not all(self._wanted[index].key in self._store for index in set(indices)):
            for index in indices:
                self.need(index)

    def _fetch(self, tensor: Tensor, keep: frozenset[Key]) -> None:
        move = self._store.hold(tensor, keep)
        if move is not None:
            self._bring(move)


def tensors_of(wanted: Schedule, operation: Operation) -> list[Tensor]:
    operands = dict(operation.operands)
    return [Tensor(operands[cut.role], cut) for cut in wanted.tensors]


class _Supplied(NamedTuple):
    """What an operation did to the store: words and commands that brought tensors in, and the store afterwards."""

    data_words: int
    commands: int
    counters: Mapping[str, int]
    after: Store


class Supplies:
    """Brings the tensors of whole operations into the store, where only the sums of the moves matter.

    An operation with many tensors leaves little of what was there. So in training the same operations meet the store
    in the same state again and again, but for the tensors' names: what they did is kept without the names and done
    again.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[Hashable, ...], _Supplied] = {}

    def bring(self, wanted: Schedule, operation: Operation) -> tuple[int, int, Mapping[str, int]]:
        """(data words, commands, other counters) of all moves that the operation needs; the store is then as after
        them. Nothing where there is no store."""
        if not wanted.config.gathers:
            return 0, 0, {}
        if len(wanted.tensors) < WORTH_KNOWING:
            known = _supplied(self._store, wanted, tensors_of(wanted, operation))
        else:
            known = self._again(wanted, operation)
        return known.data_words, known.commands, known.counters

    def _again(self, wanted: Schedule, operation: Operation) -> "_Supplied":
        store, operands = self._store, {role: operand.name for role, operand in operation.operands}
        keys = [operands[cut.role] + cut.name for cut in wanted.tensors]
        store.want(keys)
        names = store.names(keys)
        made_there = [role for role, operand in operation.operands if isinstance(operand, MasterWeights)]
        seen = wanted.needs, tuple(made_there), store.view(keys, names)
        if seen not in self._known:
            if len(self._known) == MOST_FORESEEN:
                self._known.clear()
            renamed = [replace(tensor, alias=names[tensor.key]) for tensor in tensors_of(wanted, operation)]
            self._known[seen] = _supplied(store.renamed(names), wanted, renamed)
        known = self._known[seen]
        store.become(known.after, names)
        return known


def _supplied(store: Store, wanted: Schedule, tensors: list[Tensor]) -> _Supplied:
    moved: list[Move] = []
    supply = Supply(store, tensors, wanted.task.phase, moved.append)
    for hold, needed in wanted.uses:
        supply.hold(hold)
        supply.need_all(needed)
    counters: Counter[str] = Counter()
    for move in moved:
        counters.update(move.counters)
    return _Supplied(sum(move.data_words for move in moved), sum(move.command_count for move in moved), counters, store)


@dataclass(frozen=True)
class _Encoded(Command):
    """A command whose words are known."""

    words: np.ndarray | None = None

    def payload(self) -> np.ndarray:
        return self.words


class _Issue:
    """The commands of a schedule and, between MATMULs, those that bring in the tensors for what follows."""

    def __init__(self, wanted: Schedule, store: Store, operation: Operation) -> None:
        self._schedule = wanted
        self._store = store
        self._supply = Supply(store, tensors_of(wanted, operation), operation.phase, self._bring)
        self._waiting: deque[Command] = deque()
        self._unsent: set[Key] = set()

    def commands(self) -> Iterator[tuple[Command, Step | None]]:
        for step in self._schedule.steps:
            if isinstance(step, Hold):
                self._supply.hold(step)
                continue
            if step.opcode == Opcode.LOAD:
                key = self._supply.need(step.tensor)
                if key in self._unsent:
                    yield from self._send(inf)
                yield _load(step, self._store.slot(key)), step
            else:
                yield _Encoded(step.opcode, step.fields, words=step.words), step
            if self._waiting:
                yield from self._send(step.gap)

    def _bring(self, move: Move) -> None:
        self._waiting.extend(move.commands())
        self._unsent.add(move.tensor.key)

    def _send(self, gap: float) -> Iterator[tuple[Command, None]]:
        """What is waiting, as far as it is worth while in a gap of so many cycles."""
        while self._waiting and fits(gap, len(self._waiting[0].data)):
            gap -= write_cycles(len(self._waiting[0].data))
            yield self._waiting.popleft(), None
        if not self._waiting:
            self._unsent.clear()


_SLOT_PLACE = np.uint64(codec.fields(packets.Load)["slot"][0])


def _load(step: Step, slot: int) -> Command:
    words = step.words.copy()
    words[0] |= np.uint64(slot) << _SLOT_PLACE
    return _Encoded(Opcode.LOAD, step.fields | {"slot": slot}, words=words)


def issue(wanted: Schedule, store: Store, operation: Operation) -> Iterator[tuple[Command, Step | None]]:
    """All commands of an operation in order, each with its step (None: it fills store or cells)."""
    if not wanted.config.gathers:
        return _issue_cells(wanted, operation)
    return _Issue(wanted, store, operation).commands()


def _issue_cells(wanted: Schedule, operation: Operation) -> Iterator[tuple[Command, Step | None]]:
    cells = CellWrites(wanted.config, [(tensor.operand, tensor.cut) for tensor in tensors_of(wanted, operation)])
    for step in wanted.steps:
        if isinstance(step, Hold):
            continue
        if step.opcode == Opcode.LOAD:
            yield from ((command, None) for command in cells.writes(step.fields, step.tensor))
        else:
            yield _Encoded(step.opcode, step.fields, words=step.words), step
