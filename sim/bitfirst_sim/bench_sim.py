"""How fast the simulated board runs, under the bytes of a real training step."""

import resource
import time
from typing import Any

import torch
from bitfirst import convert
from bitfirst.board import BoardDevice
from bitfirst.errors import DeviceError
from bitfirst.models import digits_resnet
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import ArrayConfig, load
from torch.nn import functional

from . import build
from .simulator import Simulator

BATCH = 16
LEAST_SECONDS = 3.0
Call = tuple[bytes, int]  # bytes to send, least bytes to receive then


class RecordingBoard(RtlTransport):
    """A simulated board that notes what the driver asks of it."""

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__(config)
        self.calls: list[Call] = []
        self._unsent = b""

    def write(self, data: bytes) -> None:
        self._unsent += data
        super().write(data)

    def read(self, min_bytes: int, timeout_s: float) -> bytes:
        self.calls.append((self._unsent, min_bytes))
        self._unsent = b""
        return super().read(min_bytes, timeout_s)


def record_step(config: ArrayConfig) -> tuple[list[Call], dict[str, int]]:
    """What the driver sends for a forward and backward pass of the digits network, and the device's counters then."""
    board = RecordingBoard(config)
    with BoardDevice("rtl", board, config) as device:
        torch.manual_seed(0)
        net = convert(digits_resnet(), device)
        images, labels = torch.rand(BATCH, 1, 8, 8), torch.randint(10, (BATCH,))
        functional.cross_entropy(net(images), labels).backward()
        counters = device.counters()
    return board.calls, counters


def replay(config: ArrayConfig, calls: list[Call]) -> tuple[int, float, float]:
    """Cycles, wall seconds and the simulator's processor seconds for them, of the same bytes sent to a fresh board."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with Simulator(config) as simulator:
        start = time.perf_counter()
        for data, min_bytes in calls:
            simulator.send(data)
            simulator.receive(min_bytes)
        wall_s = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return simulator.cycles, wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run(name: str = "default") -> dict[str, Any]:
    """Compile the simulator of a configuration anew, and time it. Keys of `bitfirst bench sim`.

    cycles_per_second  of the clock, over wall time and over at least `LEAST_SECONDS`; the bytes to the board
                       are those of a training step, the host's own work is left out
    cycles_per_cpu_second
                       the same over the simulator's processor time: what an idle machine reaches
    compile_s          Verilog to executable
    generate_s         configuration to Verilog; near 0 when it was in the cache
    cycles, commands, loads, matmuls, array_utilisation
                       of one training step; array_utilisation = array steps over cycles
    """
    config = load(name)
    start = time.perf_counter()
    text = build.core_verilog(config)
    generated = time.perf_counter()
    build.build_simulator(text, config.link_bits, fresh=True)
    compiled = time.perf_counter()
    calls, counters = record_step(config)
    runs = [replay(config, calls)]
    while sum(wall_s for _, wall_s, _ in runs) < LEAST_SECONDS:
        runs.append(replay(config, calls))
    cycles, wall_s, cpu_s = (sum(column) for column in zip(*runs, strict=True))
    if {run[0] for run in runs} != {runs[0][0]}:
        raise DeviceError(f"the same bytes took {[run[0] for run in runs]} cycles: the simulation is not deterministic")
    return {
        "config": name,
        "cycles_per_second": cycles / wall_s,
        "cycles_per_cpu_second": cycles / cpu_s,
        "compile_s": compiled - generated,
        "generate_s": generated - start,
        "cycles": runs[0][0],
        **{name: counters[name] for name in ("commands", "loads", "matmuls")},
        "array_utilisation": counters["array_steps"] / counters["cycles"],
    }
