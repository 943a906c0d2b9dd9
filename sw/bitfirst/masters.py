"""Weights that a device updates by itself: masters and momenta in its store, and what a layer sees of them.

A weight has the words of UPDATE (`packets.Update`) at the end of the store, with those of its signs behind them. The
host has neither masters nor weights: it sends signs, and is told the largest master, from which it chooses the scale
of the next weights, as `quantiser.quantise` would. A product that wants the weights has the device make them (WEIGHTS)
where the book of the store has room; they make room for other tensors as those do, and are made again.
"""

import itertools
import math
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256
from typing import Any, Protocol

import numpy as np
import torch
from bitfirst_hdl.contract.packets import (
    GROUP,
    MAX_DATA_WORDS,
    OCTET_BITS,
    STATE_WORDS,
    STORE_WORD_WORDS,
    Opcode,
    Phase,
    Space,
)
from torch.utils.weak import WeakTensorKeyDictionary

from . import packing
from .command import Command
from .golden import update
from .golden.update import Rate
from .quantised import CONTENT_BYTES, Quantised
from .quantiser import exponent_of

WORDS_OF_GROUP = STATE_WORDS + 1  #: store words: masters, momenta and signs
_GROUPS_AT_ONCE = MAX_DATA_WORDS // (STATE_WORDS * STORE_WORD_WORDS)  # in one WRITE or READ
_UNIT = 2.0 ** (update.HIDDEN_BITS - update.MASTER_FRACTION)  # of what a layer sees
_SHIFT_OF_ONES = update.WEIGHT_FRACTION - round(math.log2(_UNIT))  # WEIGHTS' `shift` for weights in units of 1
_numbers = itertools.count(1)


class Performer(Protocol):
    """What `Masters` needs of a device."""

    def enter(self, phase: Phase) -> None: ...
    def perform(self, commands: Iterable[Command]) -> list[np.ndarray]: ...
    def peek(self, masters: "Masters") -> np.ndarray | None: ...


def groups_of(shape: Sequence[int]) -> int:
    return -(-math.prod(shape) // GROUP)


def _in_store(weights: torch.Tensor) -> np.ndarray:
    """[o, c, kh, kw] or [o, i], flat in the order of the store: [o, kh, kw, c]."""
    ordered = weights.permute(0, 2, 3, 1) if weights.ndim == 4 else weights
    return ordered.detach().cpu().contiguous().numpy().reshape(-1)


def _from_store(flat: np.ndarray, shape: Sequence[int]) -> torch.Tensor:
    """`_in_store`, backwards; with the plain strides that parameters have, where one channel leaves a choice, too: the
    host's kernels choose by them in which order they add."""
    values = torch.from_numpy(np.ascontiguousarray(flat))
    if len(shape) == 2:
        return values.reshape(*shape)
    o, c, kh, kw = shape
    return torch.empty(o, c, kh, kw, dtype=values.dtype).copy_(values.reshape(o, kh, kw, c).permute(0, 3, 1, 2))


class Masters:
    """Masters and momenta of one weight in a device's store. Made by `Device.masters`; zeros are there until `put`.

    shape    the weight's: [o, c, kh, kw] or [o, i]
    state    store word where they begin; the signs begin `STATE_WORDS` * `groups` words behind it
    largest  largest magnitude that a layer sees, in units of 2**-20
    """

    def __init__(self, device: Performer, shape: Sequence[int], state: int) -> None:
        self.device = device
        self.shape, self.groups, self.state = tuple(shape), groups_of(shape), state
        self.largest = 0
        self._number, self._version = next(_numbers), 0
        zeros = torch.zeros(self.shape, dtype=torch.int32)
        self.put(zeros, zeros)

    def put(self, master: torch.Tensor, momentum: torch.Tensor) -> None:
        """Writes them: integers of 32 and of 16 bits, of the weight's shape."""
        words = packing.pack_states(_in_store(master), _in_store(momentum))
        self.device.perform(
            self._write(self.state, words[first : first + _GROUPS_AT_ONCE], STATE_WORDS * first)
            for first in range(0, self.groups, _GROUPS_AT_ONCE)
        )
        self._changed(int((master.to(torch.int64) >> update.HIDDEN_BITS).abs().max()))

    def get(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads them back: (int32 masters, int16 momenta)."""
        reads = []
        for first in range(0, self.groups, _GROUPS_AT_ONCE):
            count = STATE_WORDS * min(_GROUPS_AT_ONCE, self.groups - first)
            place = {"space": Space.STORE, "first": self.state + STATE_WORDS * first, "count": count}
            reads.append(Command(Opcode.READ, place))
        words = np.concatenate(self.device.perform(reads)).reshape(self.groups, STATE_WORDS, STORE_WORD_WORDS)
        master, momentum = packing.unpack_states(words, math.prod(self.shape))
        return _from_store(master, self.shape), _from_store(momentum, self.shape)

    def update(self, signs: torch.Tensor, rate: Rate, decay: Rate, coefficient: int) -> None:
        """One step, as `golden.update.update`, in phase UPDATE; `signs`: -1, 0 or 1 in any type."""
        words = packing.pack_store(_in_store(signs.to(torch.int8)), 2)[0, :, :1]  # low planes alone
        place = self.state + STATE_WORDS * self.groups
        writes = [
            self._write(place, words[first : first + MAX_DATA_WORDS], first)
            for first in range(0, self.groups, MAX_DATA_WORDS)
        ]
        fields = {"state": self.state, "signs": place, "groups": self.groups, "coefficient": coefficient}
        fields |= {"rate": rate.multiplier, "rate_shift": rate.shift}
        fields |= {"decay": decay.multiplier, "decay_shift": decay.shift}
        self.device.enter(Phase.UPDATE)
        *_, answer = self.device.perform([*writes, Command(Opcode.UPDATE, fields)])
        self._changed(int(answer[0]))

    @staticmethod
    def _write(place: int, words: np.ndarray, row: int) -> Command:
        """`words` [groups, store words of each, 64-bit words of each] to `place` + `row`."""
        rows, width = math.prod(words.shape[:-1]), words.shape[-1]
        fields = {"space": Space.STORE, "row": place + row, "rows": rows, "words": width}
        return Command(Opcode.WRITE, fields, np.ascontiguousarray(words).reshape(-1))

    def _changed(self, largest: int) -> None:
        self.largest = largest
        self._version += 1

    def weights(self, bits: int) -> "MasterWeights":
        """Weights of `bits` bits: integers and scale are those of `quantise` on what a layer sees of the masters."""
        exponent = exponent_of(self.largest * _UNIT, bits, True)
        peak = round(self.largest * _UNIT * 2.0**-exponent)
        name = sha256(repr((self._number, self._version, bits)).encode()).digest()[:CONTENT_BYTES]
        bound = torch.full(self.shape, float(peak))
        return MasterWeights(bound, bits, True, exponent, peak, name, masters=self)


@dataclass(frozen=True)
class MasterWeights(Quantised):
    """Weights that a device has, or makes from `masters` when they are wanted.

    `values` are not they, but all as large as the largest, so that bounds of sums hold.
    """

    masters: Masters | None = None

    def on(self, place: torch.device) -> "MasterWeights":
        """The same, for operands that lie there."""
        return self if self.values.device == place else replace(self, values=self.values.to(place))

    @cached_property
    def real(self) -> Quantised:
        """The weights themselves, as long as the masters are those of which these weights were made."""
        masters = self.masters.device.peek(self.masters)
        if masters is None:
            masters = self.read_back
        flat = update.weights(torch.from_numpy(masters), self.exponent + _SHIFT_OF_ONES).numpy()
        values = _from_store(flat, self.masters.shape).to(self.values).reshape(self.values.shape)
        return Quantised(values, self.bits, True, self.exponent, self.known_peak, self.content)

    @cached_property
    def read_back(self) -> np.ndarray:
        """Masters, flat as in the store, by READs."""
        return _in_store(self.masters.get()[0])

    @property
    def codes(self) -> np.ndarray:
        return self.real.integers

    def command(self, word: int) -> Command:
        """WEIGHTS that puts them at store word `word`."""
        octets = -(-self.bits // OCTET_BITS)
        fields = {"state": self.masters.state, "groups": self.masters.groups, "word": word, "octets": octets}
        return Command(Opcode.WEIGHTS, fields | {"shift": self.exponent + _SHIFT_OF_ONES})


class Kept:
    """A parameter whose masters a device keeps.

    From one `update` on layers take their weights from the device, and the parameter lags behind until `refresh`.
    Before the first one, and when someone else has changed the parameter, layers take its own values; the next
    update makes new masters of them. Momenta stay.
    """

    def __init__(self, parameter: torch.Tensor, masters: Masters) -> None:
        self.masters = masters
        self._parameter = weakref.ref(parameter)
        self._seen: tuple[int, int] | None = None  # version and place of the parameter's values when they agreed last
        self._lags = False

    @property
    def _values(self) -> tuple[int, int]:
        parameter = self._parameter()
        return parameter._version, parameter.data_ptr()

    @property
    def decides(self) -> bool:
        """Whether the device's masters are what counts."""
        return self._seen == self._values

    @property
    def has_moved(self) -> bool:
        """Whether there was an update, or a state was loaded."""
        return self._seen is not None

    def put(self, master: torch.Tensor | None, momentum: torch.Tensor) -> None:
        """Momenta, and masters, where these are what the parameter says."""
        parameter = self._parameter()
        if master is None or not torch.equal(update.visible(master).to(parameter.device), parameter):
            master = update.masters(parameter)
        self.masters.put(master, momentum)
        self._seen = self._values

    def update(self, signs: torch.Tensor, rate: Rate, decay: Rate, coefficient: int) -> None:
        if not self.decides:
            self.put(None, self.masters.get()[1])
        self.masters.update(signs, rate, decay, coefficient)
        self._lags = True

    def state(self) -> dict[str, torch.Tensor]:
        """Masters and momenta, read back, as in an optimiser's state; empty before the first update."""
        if self._seen is None:
            return {}
        master, momentum = self.masters.get()
        self._show(master)
        return {MASTER: master, BUFFER: momentum}

    def refresh(self) -> None:
        """The parameter becomes what layers see of the masters."""
        if self._lags:
            self._show(self.masters.get()[0])

    @torch.no_grad()
    def _show(self, master: torch.Tensor) -> None:
        if self._lags and self.decides:
            self._parameter().copy_(update.visible(master))
            self._seen = self._values
        self._lags = False


MASTER, BUFFER = "master", "momentum_buffer"  #: names in an optimiser's state
kept_weights: Any = WeakTensorKeyDictionary()  #: parameter -> `Kept`
