"""The compiled power monitor alone, with simulated sensors on its pins and loads that are told: a `PowerPort`.

Some hundred times as fast as a whole device, for statistics over many windows.
"""

import ctypes
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache

from bitfirst.errors import LinkError, UsageError
from bitfirst.measuring.activity import Segment
from bitfirst.measuring.coverage import Drawn
from bitfirst_hdl import verilog
from bitfirst_hdl.contract.power import PHASES, RAILS, READ_WORDS, WRITTEN_ROWS
from bitfirst_hdl.power.monitor import PowerMonitor

from . import build
from .sensors import CRail, SimulatedRail, c_rails, declare

MOST_WORDS = 512  #: in one `read`
BREATH_CYCLES = 1 << 22  #: after which Ctrl-C is heard
KEEP_PHASE = -1
COVERAGE_KHZ = {"i2c": 1_000, "spi": 1_000, "pmbus": 1_000, "xadc": 2_000}  #: the slowest that the converter bears


@cache
def _library(clock_khz: int, bus: str) -> ctypes.CDLL:
    text = verilog.convert(PowerMonitor(clock_khz, bus), "monitor")
    library = ctypes.CDLL(str(build.build_power_simulator(text)))
    simulator, number, count = ctypes.c_void_p, ctypes.c_uint64, ctypes.c_size_t
    watts = ctypes.POINTER(ctypes.c_double)
    declare(
        library,
        power_rail_bytes=(count, []),
        power_new=(simulator, [ctypes.POINTER(CRail), count, ctypes.c_double]),
        power_delete=(None, [simulator]),
        power_load=(None, [simulator, watts]),
        power_play=(None, [simulator, number, ctypes.c_int, watts]),
        power_phase=(None, [simulator, ctypes.c_int]),
        power_run=(None, [simulator, number]),
        power_write=(None, [simulator, ctypes.c_int, number]),
        power_read=(ctypes.c_int, [simulator, ctypes.c_int, count, ctypes.POINTER(number)]),
        power_joules=(ctypes.c_double, [simulator, count, ctypes.c_int]),
        power_cycles=(number, [simulator]),
        power_violations=(number, [simulator]),
        power_jam=(ctypes.c_int, [simulator, ctypes.c_int]),
    )
    assert library.power_rail_bytes() == ctypes.sizeof(CRail)
    return library


class PowerSimulator:
    """A device that has nothing but its power monitor. Time passes in `write`, `read` and `wait`. Not thread safe.

    sensors      the rails, at most `RAILS`, and their chips
    clock_khz    of the device, as its monitor knows it
    activity     what the loads take, one after another from cycle 0 on; then they stay as in the last one
    clock_error  of the clock: 1e-3 is 0.1 % faster than `clock_khz`; sensors and joules know the true one

    Raises `build.BuildError` when there is no C++ compiler, `UsageError` for rails or segments that cannot be.
    """

    provenance = "simulated"

    def __init__(
        self,
        sensors: Sequence[SimulatedRail],
        clock_khz: int = 5000,
        activity: Iterable[Segment] = (),
        clock_error: float = 0.0,
    ) -> None:
        if len(sensors) > RAILS:
            raise UsageError(f"{len(sensors)} sensors are more than the {RAILS} rails of a device")
        self.sensors, self.clock_hz = tuple(sensors), clock_khz * 1e3
        rails = c_rails(self.sensors)
        self._phase, self.returns_to_rest = 0, [0] * PHASES
        self._library = _library(clock_khz, self.sensors[0].bus if sensors else "i2c")
        self._simulator = self._library.power_new(rails, len(sensors), self.clock_hz * (1 + clock_error))
        self.play(activity)

    def __del__(self) -> None:
        if getattr(self, "_simulator", None):
            self._library.power_delete(self._simulator)
            self._simulator = None

    # PowerPort
    def write(self, row: int, word: int) -> None:
        """One word of 64 bits into `row`; a cycle."""
        if not (0 <= row < WRITTEN_ROWS and 0 <= word < 2**64):
            raise UsageError(f"row {row} of {WRITTEN_ROWS}, word {word:#x}: out of range")
        self._library.power_write(self._simulator, row, word)

    def read(self, first: int, count: int) -> list[int]:
        """`count` words from `first` on, at most 512; 128 cycles each, and what is to be done before.

        Raises `LinkError` when the monitor does not answer.
        """
        if not (0 < count <= MOST_WORDS and 0 <= first <= READ_WORDS - count):
            raise UsageError(
                f"words {first} to {first + count - 1} of {READ_WORDS}, at most {MOST_WORDS}: out of range"
            )
        words = (ctypes.c_uint64 * count)()
        if not self._library.power_read(self._simulator, first, count, words):
            raise LinkError("the power monitor does not answer")
        return list(words)

    def wait(self, cycles: int) -> None:
        """So many cycles pass."""
        while cycles > 0:
            self._library.power_run(self._simulator, min(cycles, BREATH_CYCLES))
            cycles -= BREATH_CYCLES

    def phase(self, number: int) -> None:
        """Sets the phase from the next cycle on; a segment may set another, which `returns_to_rest` does not count."""
        number %= PHASES
        if number == 0:
            self.returns_to_rest[self._phase] += 1
        self._phase = number
        self._library.power_phase(self._simulator, number)

    # the loads
    def load(self, *watts: float) -> None:
        """What each rail's load takes from now on; forgets what is left of the activity."""
        self._library.power_load(self._simulator, self._watts(watts))

    def play(self, activity: Iterable[Segment]) -> None:
        """Append to the activity; it goes on now if there was none left."""
        for segment in activity:
            if segment.cycles < 1:
                raise UsageError("a segment must last at least a cycle")
            phase = KEEP_PHASE if segment.phase is None else segment.phase % PHASES
            self._library.power_play(self._simulator, segment.cycles, phase, self._watts(segment.watts))

    def joules(self) -> list[list[float]]:
        """The truth: what the loads have taken since power-up, by rail and phase."""
        rails = range(len(self.sensors))
        return [[self._library.power_joules(self._simulator, rail, phase) for phase in range(PHASES)] for rail in rails]

    @property
    def cycles(self) -> int:
        """Since power-up."""
        return self._library.power_cycles(self._simulator)

    @property
    def violations(self) -> int:
        """How often the monitor broke the times of I2C; see sensors.hpp."""
        return self._library.power_violations(self._simulator)

    def jam(self, falls: int) -> None:
        """A chip holds SDA low until SCL has fallen so many times. Raises `UsageError` where there is no SDA."""
        if not self._library.power_jam(self._simulator, falls):
            raise UsageError("chips on an SPI bus cannot hold it")

    def _watts(self, watts: Sequence[float]) -> ctypes.Array:
        if len(watts) != len(self.sensors):
            raise UsageError(f"watts of {len(watts)} rails; there are {len(self.sensors)}")
        return (ctypes.c_double * len(watts))(*watts)


def bed(drawn: Drawn) -> PowerSimulator:
    """For `bitfirst.measuring.coverage`: the monitor with this sensor on its bus."""
    rail = SimulatedRail(**asdict(drawn))
    return PowerSimulator([rail], COVERAGE_KHZ[rail.bus])
