"""The compiled RTL as a board: a process that takes and gives the bytes of the link."""

import struct
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from bitfirst.errors import LinkError, UsageError
from bitfirst_hdl.config import ArrayConfig

from . import build, saif
from .supply import alone

SEND, RECV, TRACE, QUIT, WAIT, JOULES, TOGGLES, WATTS = range(1, 9)
PHASES = 8  # of which joules are told apart
CYCLE_LIMIT = 200_000_000


@dataclass(frozen=True)
class Schedule:
    """Random idle cycles on the link, for verification; the same seed gives the same cycles.

    input_idle    probability that a cycle offers the device no word although one waits
    output_stall  probability that a cycle does not take a word from the device
    """

    seed: int = 0
    input_idle: float = 0.0
    output_stall: float = 0.0

    def __post_init__(self) -> None:
        for name in ("input_idle", "output_stall"):
            if not 0 <= getattr(self, name) < 1:
                raise UsageError(f"{name} = {getattr(self, name)} must be at least 0 and below 1")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed = {self.seed} must be at least 0 and below 2**63")

    def arguments(self) -> list[str]:
        return [str(self.seed), *(str(round(p * 2**32)) for p in (self.input_idle, self.output_stall))]


def _check_trace(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise UsageError(f"waveforms cannot be written to {path}: no such directory; create it first")
    if path.is_dir():
        raise UsageError(f"waveforms cannot be written to {path}: it is a directory; name a file")


class Simulator:
    """One simulated board, reset, with its clock standing.

    Time passes in `receive` and `advance` alone, so cycles are a function of the calls made. Not thread safe.

    config       which device; compiled on first use, then taken from the cache
    trace        file for waveforms (VCD); tracing starts on
    schedule     idle and stall cycles on the link; none by default
    cycle_limit  most cycles in one `receive`
    verilog      other Verilog with the ports of `bitfirst_hdl.top.Core`
    sensor       of a device with the feature "power": one of `sensors.KINDS`, alone on its bus; none by default
    toggles      count those of all nets, see `activity`; it is slow (docs/energy.md), and not together with `trace`
    """

    def __init__(
        self,
        config: ArrayConfig,
        trace: Path | str | None = None,
        schedule: Schedule | None = None,
        cycle_limit: int = CYCLE_LIMIT,
        verilog: str | None = None,
        sensor: str | None = None,
        toggles: bool = False,
    ) -> None:
        if trace is not None:
            _check_trace(Path(trace))  # before the minutes of compiling
        if toggles and trace is not None:
            raise UsageError("a simulator writes waveforms or counts toggles, not both: open it once for each")
        supply = alone(sensor, config)
        text = build.core_verilog(config) if verilog is None else verilog
        kind = "saif" if toggles else "vcd" if trace is not None else None
        program = build.build_simulator(text, config.link_bits, kind)
        self._toggles = tempfile.TemporaryDirectory(prefix="bitfirst-toggles-") if toggles else None
        self._stretches_read = 0
        written = self._toggles.name if toggles else str(trace or "")
        arguments = [str(cycle_limit), *(schedule or Schedule()).arguments(), written]
        arguments.append("" if supply is None else supply.numbers(config.clock_khz * 1e3))
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
        )
        self._cycles = 0

    @property
    def cycles(self) -> int:
        """Clock cycles since reset, as of the last `receive`."""
        return self._cycles

    def send(self, data: bytes) -> None:
        """Queue bytes for the device. No time passes; they may stay in this process until the next `receive`."""
        self._message(SEND, len(data), data)

    def receive(self, min_bytes: int = 2**40) -> bytes:
        """Run the clock until `min_bytes` have come out or the device is idle with no input left; all that came.

        Raises `LinkError` when the simulator died or its cycle limit passed.
        """
        try:
            self._message(RECV, min_bytes)
            outcome, cycles, count = struct.unpack("<BQQ", self._read(17))
            data = self._read(count)
        except BaseException:  # interrupted half way: what is left of the answer would be taken for the next one
            self._process.kill()
            self.close()
            raise
        self._cycles = cycles
        if outcome:
            raise LinkError(f"the device is neither done nor idle at cycle {cycles}; it hangs, or raise cycle_limit")
        return data

    def advance(self, cycles: int) -> None:
        """Run the clock for so long, whatever the device does; `cycles` has it after the next `receive`."""
        self._message(WAIT, cycles)

    def joules(self) -> list[float]:
        """What the device has taken in each phase: the truth, which no sensor tells."""
        self._message(JOULES, 0)
        self._process.stdin.flush()
        return list(struct.unpack(f"<{PHASES}d", self._read(8 * PHASES)))

    def record(self) -> None:
        """Keep what the device takes from here on, for `recorded`."""
        self._message(WATTS, 1)

    def recorded(self) -> tuple[int, np.ndarray, np.ndarray]:
        """How many cycles a span has; the watts (float64) of each since `record`, and their phases (uint8). It ends."""
        self._message(WATTS, 0)
        self._process.stdin.flush()
        span_cycles, count = struct.unpack("<QQ", self._read(16))
        return span_cycles, np.frombuffer(self._read(8 * count), "<f8"), np.frombuffer(self._read(count), np.uint8)

    def set_tracing(self, on: bool) -> None:
        """Write waveforms from here on, or stop; or count toggles. Only with `trace` or `toggles`."""
        self._message(TRACE, int(on))

    def activity(self) -> dict[int, saif.Activity]:
        """What toggled in each phase (by number, as of MARK) since the last call, while tracing was on; with `toggles`.

        A phase is told apart by the cycle, as the counters are. Phases in which the clock stood are left out.
        """
        self._message(TOGGLES, 0)
        self._process.stdin.flush()
        (count,) = struct.unpack("<Q", self._read(8))
        first, self._stretches_read = self._stretches_read, count
        return saif.collect(Path(self._toggles.name), range(first, count))

    def close(self) -> None:
        """End the process; harmless when it has ended already."""
        if self._process.stdin.closed:
            return
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()
        if self._toggles is not None:
            self._toggles.cleanup()

    def __enter__(self) -> "Simulator":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()

    def _message(self, kind: int, argument: int, data: bytes = b"") -> None:
        if self._process.stdin.closed:
            raise LinkError("the simulator is closed; open the device again")
        try:
            self._process.stdin.write(struct.pack("<BQ", kind, argument))
            self._process.stdin.write(data)
            if kind == RECV:  # the others can wait: one turn of the processes less
                self._process.stdin.flush()
        except BrokenPipeError:
            self._died()

    def _read(self, count: int) -> bytes:
        data = self._process.stdout.read(count)
        if len(data) < count:
            self._died()
        return data

    def _died(self) -> None:
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = said[-1] if said else "without a message"
        raise LinkError(f"the simulator ended (exit code {code}): {reason}; open the device again")
