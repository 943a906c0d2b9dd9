"""What a schedule consists of: commands on cells and sums, and in between what the store must hold."""

from dataclasses import dataclass

import numpy as np
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode

from .plan import Fetch

Fields = dict[str, int]


@dataclass(slots=True)
class Step:
    """One command on cells and sums; where the device has no gather unit, a LOAD stands for WRITEs to its cells.

    fields   of the command; a LOAD's `slot` is left out
    tensor   LOAD: which of the schedule's tensors
    cells    LOAD: those that it fills
    writes   LOAD that stands for WRITEs: data words of each
    cycles   LOAD, MATMUL: that it takes
    block    LOAD, READ: for or after which block, in order
    gap      cycles for which the sequencer has nothing to do before the next command, about
    sums     MATMUL, WRITE: (first, number) of the tiles that it is the first to change; no READ of these may be left
    fetch    READ: where its data belong in the result of product `product`
    data     WRITE: its data words
    """

    opcode: Opcode
    fields: Fields
    tensor: int = -1
    cells: range = range(0)
    cycles: int = 0
    block: int = -1
    gap: int = 0
    sums: tuple[int, int] = (0, 0)
    fetch: Fetch | None = None
    product: int = -1
    data: np.ndarray | None = None
    writes: tuple[int, ...] = ()
    _words: np.ndarray | None = None

    @property
    def words(self) -> np.ndarray:
        """The command's words (uint64), with its data."""
        if self._words is None:
            words = codec.encode(packets.COMMANDS[self.opcode], opcode=self.opcode, **self.fields)
            data = () if self.data is None else self.data
            self._words = np.array([*words, *data], dtype=np.uint64)
        return self._words


@dataclass(frozen=True, slots=True)
class Hold:
    """Bring `tensors` into the store in the gaps that follow; do not drop those of `keep`."""

    tensors: tuple[int, ...]
    keep: tuple[int, ...]


def overlap(one: range, other: range) -> bool:
    """Whether two ranges share something."""
    return one.start < other.stop and other.start < one.stop
