"""A power monitor in Python, after the contract: sensors with errors, rounds, spans by phase, sums in integers.

Time is in cycles, as floats inside. What the load takes and the phase are set as the port is used.
"""

import bisect
from collections import deque
from dataclasses import dataclass

import numpy as np
from bitfirst.measuring import sensors
from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract import power as contract

MASK = 2**64 - 1


@dataclass
class Part:
    """A sensor and its rail, with the errors of this one."""

    kind: str
    address: int
    shunt_ohm: float
    supply_volts: float = 5.0
    offset_volts: float = 0.0
    gain_error: float = 0.0
    bus_offset_volts: float = 0.0
    bus_gain_error: float = 0.0
    time_error: float = 0.0
    noise_volts: float = 0.0  # of a conversion of 1 ms
    bus_noise_volts: float = 0.0
    linearity_volts: float = 0.0  # of a converter in the chip, which is none of these
    keeps: bool = True  # what is written


class Chip:
    """Registers and conversions of one part; `watts` are looked up by time."""

    def __init__(self, part: Part, seed: int) -> None:
        self.part, self.data = part, sensors.CHIPS[part.kind]
        self.rng = np.random.default_rng(seed)
        self.registers = dict(self.data.identity)
        self.answers = True
        self.times, self.joules, self.watts = [0.0], [0.0], [0.0]
        self.turn, self.seen, self.codes = 0.0, -1, (0, 0)
        self.timing = None

    def load(self, seconds: float, watts: float) -> None:
        self.joules.append(self.joules[-1] + self.watts[-1] * (seconds - self.times[-1]))
        self.times.append(seconds)
        self.watts.append(watts)

    def energy(self, seconds: float) -> float:
        place = bisect.bisect_right(self.times, seconds) - 1
        return self.joules[place] + self.watts[place] * (seconds - self.times[place])

    def write(self, register: int, word: int, seconds: float) -> None:
        if not self.part.keeps:
            return
        self.registers[register] = word
        for timing in sensors.timings(self.data):
            for one in self.data.ranges:
                rail = sensors.Rail("r", self.part.kind, self.part.address, 1.0, one.volts)
                if all(self.registers.get(name) == value for name, value in sensors.setup(rail, timing)):
                    self.timing, self.range, self.start, self.taken = timing, one, seconds, 0

    @property
    def sample_s(self) -> float:
        return self.timing.sample_s * (1 + self.part.time_error)

    def ready(self, seconds: float) -> bool:
        return self.timing is not None and int((seconds - self.start) / self.sample_s) > self.taken

    def take(self, seconds: float) -> tuple[int, int]:
        """The codes of the sample that was there last."""
        number = self.taken = int((seconds - self.start) / self.sample_s)
        timing, part, longer = self.timing, self.part, 1 + self.part.time_error
        joules = 0.0
        begin = self.start + (number - 1) * self.sample_s
        for turn in range(timing.turns):
            first = begin + turn * (timing.shunt_s + timing.bus_s) * longer
            joules += self.energy(first + timing.shunt_s * longer) - self.energy(first)
        amps = joules / (timing.shunt_s * longer * timing.turns) / part.supply_volts
        noise = part.noise_volts * np.sqrt(1e-3 / (timing.shunt_s * timing.turns)) * self.rng.standard_normal()
        volts = amps * part.shunt_ohm * (1 + part.gain_error) + part.offset_volts + noise
        most = round(self.range.volts / self.range.step_volts)
        current = int(np.clip(np.rint(volts / self.range.step_volts), -most, most - 1))
        bus = part.supply_volts * (1 + part.bus_gain_error) + part.bus_offset_volts
        bus += part.bus_noise_volts * np.sqrt(1e-3 / (timing.bus_s * timing.turns)) * self.rng.standard_normal()
        step = self.data.bus_step_volts * (8 if self.data.bus_flags else 1)
        voltage = int(np.rint(bus / step)) * (8 if self.data.bus_flags else 1) + self.data.bus_flags
        return current, voltage


class PowerPortModel:
    """The port. `run(seconds, watts, phase)` is what a device would do of itself."""

    provenance = "simulated"

    def __init__(self, parts: list[Part], clock_hz: float = 5e6, seed: int = 0) -> None:
        self.clock_hz = clock_hz
        self.chips = [Chip(part, seed + i) for i, part in enumerate(parts)]
        self.now = 0.0  # seconds
        self.activity, self.left = deque(), 0  # what loads are to take; cycles of the segment under way
        self.bus = 0.0  # until when it is in use
        self.phases, self.returns_to_rest = [(0.0, 0)], [0] * contract.PHASES
        self.rows = [0] * contract.WRITTEN_ROWS
        self.result, self.state = 0, {}
        self.running = self.sda = False
        self.joules = [[0.0] * contract.PHASES for _ in parts]  # the truth
        self.idle_watts = [0.0 for _ in parts]
        self._clear()

    # the device
    def load(self, *watts: float) -> None:
        self.activity.clear()
        self.left = 0
        self._take(watts)

    def play(self, activity) -> None:
        self.activity.extend(activity)

    def _take(self, watts) -> None:
        self._settle()
        for chip, value in zip(self.chips, watts, strict=True):
            chip.load(self.now, value)

    def phase(self, number: int) -> None:
        self._settle()
        if number == 0:
            self.returns_to_rest[self.phases[-1][1]] += 1
        self.phases.append((self.now, number))

    def wait(self, cycles: int) -> None:
        while self.activity or self.left:
            if not self.left:
                segment = self.activity.popleft()
                self.left = segment.cycles
                self._take(segment.watts)
            passed = min(cycles, self.left)
            self._pass(passed)
            cycles, self.left = cycles - passed, self.left - passed
            if not cycles:
                return
        self._pass(cycles)

    def _pass(self, cycles: int) -> None:
        for rail, chip in enumerate(self.chips):
            self.joules[rail][self.phases[-1][1]] += chip.watts[-1] * cycles / self.clock_hz
        self.now += cycles / self.clock_hz
        self._settle()

    def run(self, seconds: float, *watts: float) -> None:
        idle = [chip.watts[-1] for chip in self.chips]
        self.load(*watts)
        self.wait(round(seconds * self.clock_hz))
        self.load(*idle)

    # the host
    def write(self, row: int, word: int) -> None:
        self.rows[row] = word
        if row == contract.CONTROL_ROW:
            self._control(codec.decode(contract.Control, [word]))
        if row == contract.TRANSFER_ROW:
            self._transfer(codec.decode(contract.Transfer, [word]))

    def read(self, first: int, count: int) -> list[int]:
        assert count <= 512
        self.wait(128 * count)
        words = {contract.STATE_WORD: self._state_word(), contract.RESULT_WORD: self.result}
        words[contract.STAMP_WORD] = round(self.copy[0] * self.clock_hz) % 2**48
        for place, value in enumerate(self.copy[1].reshape(-1)):
            words[contract.FIRST_SUM_WORD + place] = int(value) & MASK
        for place, record in enumerate(self.records[-contract.RECORDS :]):
            number = max(len(self.records) - contract.RECORDS, 0) + place
            place = contract.FIRST_RECORD_WORD + number % contract.RECORDS * 2
            words[place], words[place + 1] = record
        return [words.get(word, 0) for word in range(first, first + count)]

    def _state_word(self) -> int:
        fields = {"running": self.running, "sda": not self.sda, "scl": 1, "recorded": len(self.records) % 2**16}
        return codec.encode(contract.State, **fields, **self.state, rounds=self.rounds % 2**16)[0]

    def _control(self, control: dict[str, int]) -> None:
        self._settle()
        if control["clear"]:
            self.running = False
            self._clear()
            self.wait(32768)
        if control["snapshot"]:
            self.wait(8192)
            self.copy = (self.closed or 0.0, self.sums.copy())
        self.bus = self.bus if self.running else self.now
        self.running = bool(control["run"])

    def _clear(self) -> None:
        self.sums = np.zeros((contract.RAILS, contract.PHASES, contract.SUM_WORDS), object)
        self.records: list[tuple[int, int]] = []
        self.state, self.rounds, self.closed = {}, 0, None
        self.copy = (0.0, self.sums.copy())

    def _transfer(self, order: dict[str, int]) -> None:
        self.wait(round(sensors.read_s(order["read"], self.clock_hz) * self.clock_hz))
        chip = self._chip(order["address"])
        self.result = 1
        if chip is None or not chip.answers:
            return
        data = order["bytes"].to_bytes(4, "little")[: order["written"]]
        if len(data) == 3:
            chip.write(data[0], data[1] << 8 | data[2], self.now)
        value = chip.registers.get(data[0], 0) if order["read"] else 0
        self.result = codec.encode(contract.Result, done=1, acknowledged=1, bytes=value)[0]

    def _chip(self, address: int) -> Chip | None:
        return next((chip for chip in self.chips if chip.part.address == address), None)

    # rounds
    def _settle(self) -> None:
        """Rounds up to now."""
        rails = [codec.decode(contract.Rail, [word]) for word in self.rows[contract.FIRST_RAIL_ROW :]]
        enabled = [(rail, self._chip(rail["address"])) for rail in rails if rail["enabled"]]
        longest = sum(chip.sample_s for _, chip in enabled if chip.timing) + sum(
            sensors.read_s(size, self.clock_hz) for _, chip in enabled for _, size, _ in chip.data.reads
        )
        while self.running and enabled and self.bus + longest < self.now:  # what is later may still change
            self._round([chip for _, chip in enabled])

    def _round(self, chips: list[Chip]) -> None:
        spans = None
        for rail, chip in enumerate(chips):
            poll_s, *others = (sensors.read_s(size, self.clock_hz) for _, size, _ in chip.data.reads)
            descriptor = sensors.Rail("r", chip.part.kind, chip.part.address, 1.0)
            late = sensors.seen_s(descriptor, self.clock_hz)[0]  # what it sends it has taken by then
            self.bus += poll_s
            while spans is not None and chip.answers and not chip.ready(self.bus - late):
                self.bus += poll_s
            if chip.answers and not chip.ready(self.bus - late):
                return
            if spans is None:
                spans = self._close()
            if not chip.answers:
                self.state["silent"] = self.state.get("silent", 0) | 1 << rail
                continue
            self.bus += sum(others)
            self._add(rail, chip, chip.take(self.bus), spans)

    def _close(self) -> dict[int, int]:
        before, self.closed = self.closed, self.bus
        self.rounds += 1
        spans: dict[int, int] = {}
        if before is None:
            return spans
        first = max(bisect.bisect_right(self.phases, (before, 99)) - 1, 0)
        for place in range(first, len(self.phases)):
            begin = max(self.phases[place][0], before)
            end = min(self.phases[place + 1][0] if place + 1 < len(self.phases) else self.closed, self.closed)
            if begin < end:
                cycles = round(end * self.clock_hz) - round(begin * self.clock_hz)
                spans[self.phases[place][1]] = spans.get(self.phases[place][1], 0) + cycles
        return spans

    def _add(self, rail: int, chip: Chip, codes: tuple[int, int], spans: dict[int, int]) -> None:
        current, voltage = codes
        most = round(chip.range.volts / chip.range.step_volts)
        if current in (-most, most - 1):
            self.state["saturated"] = self.state.get("saturated", 0) | 1 << rail
        for phase, cycles in spans.items():
            self.sums[rail, phase] += np.array([cycles, 1, current * cycles, current * voltage * cycles], object)
        phase = self.phases[bisect.bisect_right(self.phases, (self.closed, 99)) - 1][1]
        fields = {"stamp": round(self.closed * self.clock_hz), "phase": phase, "rail": rail}
        fields |= {"current": current % 2**32, "voltage": voltage}
        self.records.append(codec.encode(contract.Record, **fields))
