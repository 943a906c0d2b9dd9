"""One command as an object: what the planner makes, the driver sends, and the golden model executes."""

from dataclasses import dataclass, field

import numpy as np
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode


def _no_data() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


_QUIET = {
    int(opcode): 1 << codec.fields(struct)["quiet"][0]
    for opcode, struct in packets.COMMANDS.items()
    if "quiet" in codec.fields(struct)
}


def is_quiet(payload: np.ndarray) -> bool:
    """Whether a command, right or wrong, wants no answer unless it is refused; `payload`: its words (uint64)."""
    word = int(payload[0])
    return bool(word & _QUIET.get(word & 0xFF, 0))


@dataclass(frozen=True)
class Command:
    """`fields` are those of `packets.COMMANDS[opcode]` (opcode itself left out); `data` its uint64 words."""

    opcode: Opcode
    fields: dict[str, int] = field(default_factory=dict)
    data: np.ndarray = field(default_factory=_no_data)

    @property
    def quiet(self) -> bool:
        """No answer is wanted unless it is refused."""
        return bool(self.fields.get("quiet"))

    def payload(self) -> np.ndarray:
        """Command words followed by data words, uint64. Raises `codec.FieldError` when a value does not fit."""
        head = codec.encode(packets.COMMANDS[self.opcode], opcode=self.opcode, **self.fields)
        return np.concatenate([np.array(head, dtype=np.uint64), self.data])
