"""Measures the logic of the memory system against the array's: ECP5 cells after `nextpnr-ecp5 --pack-only`.

    python docs/decisions/measure_memory.py [CONFIG ...]

The array is counted as R * C elements, without the columns' sums and the drain.
"""

import sys

from bitfirst_boards.psg_cost import cells
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import Element
from bitfirst_hdl.gather import Gather
from bitfirst_hdl.operands import AMemory, BMemory
from bitfirst_hdl.readout import Readout
from bitfirst_hdl.sequencer import Sequencer
from bitfirst_hdl.store import TensorStore
from bitfirst_hdl.update import Updater

MEMORY_SYSTEM = TensorStore, Gather, Sequencer


def measure(config: ArrayConfig) -> None:
    comb, ff = cells(Element(config))
    elements = config.rows * config.columns
    array = elements * comb
    print(f"{elements} elements  TRELLIS_COMB {array:6} ({comb} each) TRELLIS_FF {elements * ff:6}", flush=True)
    total = 0
    for kind in (*MEMORY_SYSTEM, AMemory, BMemory, Readout, Updater):
        comb, ff = cells(kind(config))
        total += comb if kind in MEMORY_SYSTEM else 0
        print(f"{kind.__name__:12}  TRELLIS_COMB {comb:6} TRELLIS_FF {ff:6}", flush=True)
    print(f"store, gather unit and sequencer: {total} of the elements' {array}, {total / array:.1%}")


if __name__ == "__main__":
    for name in sys.argv[1:] or ["default"]:
        print(name)
        measure(CONFIGS[name])
