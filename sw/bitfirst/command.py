"""One command as an object: what the planner makes, the driver sends, and the golden model executes."""

from dataclasses import dataclass, field

import numpy as np
from bitfirst_hdl.contract import codec, packets
from bitfirst_hdl.contract.packets import Opcode


def _no_data() -> np.ndarray:
    return np.zeros(0, dtype=np.uint64)


@dataclass(frozen=True)
class Command:
    """`fields` are those of `packets.COMMANDS[opcode]` (opcode itself left out); `data` its uint64 words."""

    opcode: Opcode
    fields: dict[str, int] = field(default_factory=dict)
    data: np.ndarray = field(default_factory=_no_data)

    def payload(self) -> np.ndarray:
        """Command words followed by data words, uint64. Raises `codec.FieldError` when a value does not fit."""
        head = codec.encode(packets.COMMANDS[self.opcode], opcode=self.opcode, **self.fields)
        return np.concatenate([np.array(head, dtype=np.uint64), self.data])
