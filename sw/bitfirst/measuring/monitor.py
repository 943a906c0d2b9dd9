"""A device's power monitor: its sensors set up, its sums read, its faults told."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract import power as contract

from ..device import Device
from ..energy import Scope
from ..errors import DeviceError, UsageError
from . import uncertainty
from .board_port import BoardPort
from .calibration import Calibration, applied
from .port import PowerPort
from .sensors import (
    BUS_NAMES,
    CHIPS,
    LINEAR11_BITS,
    LINEAR11_STEP,
    READ_POUT,
    VOUT_MODE,
    Rail,
    choose_timing,
    descriptor,
    read_s,
    reads_back,
    round_s,
    setup,
    volts_exponent,
)
from .windows import Window

INA_ADDRESSES, REGULATOR_ADDRESSES = range(0x40, 0x50), range(0x30, 0x40)  #: where one is looked for that is silent
DRIFT = 2e-3  #: of the device's clock against the host's, at most
LINK_S = 0.05  #: by which a time of the host may be off
_WORTH = "amps_per_code", "volts_per_code"
PACE = 1.05  #: of what a sample may take at most, by which samples may come more slowly
PACE_SAMPLES, PACE_TRIES, PACE_LONGER = 40, 8, 1.15


@dataclass(frozen=True)
class Sums:
    """What has been added up, [rail, phase]; `seconds` of the host when it was read; `stamp` in cycles.

    charge  codes of current x cycles
    energy  codes of current x codes of voltage x cycles
    """

    stamp: int
    seconds: float
    cycles: np.ndarray
    samples: np.ndarray
    charge: np.ndarray
    energy: np.ndarray

    def __sub__(self, before: "Sums") -> "Sums":
        return Sums(
            (self.stamp - before.stamp) % 2**48,
            self.seconds - before.seconds,
            *(getattr(self, name) - getattr(before, name) for name in contract.SUM_NAMES),
        )


@dataclass(frozen=True)
class Absent:
    """What a window has in the place of a monitor where there is none."""

    unavailable: str
    scope: Scope = Scope.BOARD


class Monitor:
    """The sensors of a device, set up and running.

    port      the device
    rails     what is measured, at most 4
    sample_s  the time of a sample; None: the shortest that the bus can read
    calibrations  of sensors; those of other ones are refused
    clock     seconds of the host, against which the device's are checked where it is a board

    unavailable  why there is nothing to measure with, or None. Then windows are there and have no figure.
    timings      how each rail's sensor is set up
    output_watts  what a regulator said of its power (READ_POUT) before all windows; None of other sensors

    Raises `UsageError` for rails that cannot be, and for a sensor that is another one than said, or elsewhere;
    `DeviceError` for a bus that is stuck, and for a sensor that does not keep what is written.
    """

    def __init__(
        self,
        port: PowerPort,
        rails: Sequence[Rail],
        sample_s: float | None = None,
        calibrations: Sequence[Calibration] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if len(rails) > contract.RAILS:
            raise UsageError(f"{len(rails)} rails are more than the device can go round: at most {contract.RAILS}")
        addresses = [rail.address for rail in rails]
        if len(set(addresses)) < len(addresses):
            if rails[0].regulates:
                raise UsageError("two rails of one regulators' controller: it says one page at a time; leave one out")
            raise UsageError("two rails have one address: sensors on a bus need different ones")
        self.port, self.rails, self.clock = port, tuple(rails), clock
        self.calibrations = applied(calibrations, self.rails, port.provenance)
        self.output_watts: tuple[float | None, ...] = (None,) * len(self.rails)
        self.unavailable = self._open()
        if self.unavailable is None:
            self._keep_pace(sample_s)

    @classmethod
    def of(cls, device: Device, rails: Sequence[Rail], **options: Any) -> "Monitor":
        """Of an open device, for whose `window` it is from now on; raises `UsageError` for one without "power", and for
        sensors that are on another bus than the device has."""
        port = BoardPort(device)
        for rail in rails:
            if rail.chip.bus != port.bus:
                kinds = [kind for kind, chip in CHIPS.items() if chip.bus == port.bus]
                raise UsageError(
                    f"{rail.where} is on {BUS_NAMES[rail.chip.bus]}, and this device has {BUS_NAMES[port.bus]}: name a "
                    f"sensor of that ({', '.join(kinds)}), or take another device"
                )
        device.monitor = monitor = cls(port, rails, **options)
        return monitor

    @property
    def device(self) -> Device:
        """Of `of`."""
        return self.port.device

    @property
    def scope(self) -> Scope:
        """Whose energy all rails together are."""
        return Scope.BOARD if all(rail.scope == Scope.BOARD for rail in self.rails) else Scope.RAILS

    @property
    def sample_s(self) -> float:
        """Of the slowest rail, with the longest conversions of its data sheet."""
        pairs = zip(self.rails, self.timings, strict=True)
        return max(timing.sample_s * (1 + rail.chip.time_error) for rail, timing in pairs)

    @property
    def period_s(self) -> float:
        """From one record of a rail to the next, at most."""
        pairs = zip(self.rails, self.timings, strict=True)
        return max(timing.period_s * (1 + (0 if rail.regulates else rail.chip.time_error)) for rail, timing in pairs)

    @property
    def longest_s(self) -> float:
        """That sums can add up in one phase before they leave 63 bits, at full scale of the current: half of it."""
        own = self._by_rail(self.records())
        volts = max((float(records["voltage"].max()) for records in own if len(records)), default=0.0)
        current = max(rail.range.volts / rail.range.step_volts for rail in self.rails)
        return 2**62 / max(volts * current * self.port.clock_hz, 1.0)

    @property
    def poll_s(self) -> float:
        """From a look at whether a sensor is ready to the next one."""
        return max(read_s(rail.chip.reads[0][1], self.port.clock_hz, rail.chip.bus) for rail in self.rails)

    def window(self, name: str, **options: Any) -> Window:
        """A window around what is measured; see `Window`."""
        return Window(self, name, **options)

    def steady(self, seconds: float, work: Callable[[], None] | None = None) -> list[tuple[float, float]]:
        """Each rail's mean watts over so many seconds of a load that does not change, as its sensor says them; `work`
        makes that load for so long, None: rest.

        With their standard uncertainty but for gain and offset: what `calibration.Load` takes. Raises as `snapshot`.
        """
        self.clear()
        before = self.snapshot()
        if work is None:
            self.wait(seconds)
        else:
            work()
        sums, records = self.snapshot() - before, self.records()
        records = records[(records["stamp"] - before.stamp) % 2**48 < sums.stamp]  # none of another load
        if len(records) < 2 * len(self.rails):
            raise UsageError(f"{seconds:.3g} s of a load are too short: at least {16 * self.sample_s:.3g} s")
        found = []
        parts = zip(self.rails, self.watts(sums), self._by_rail(records), strict=True)
        for number, (rail, watts, own) in enumerate(parts):
            codes = float(own["current"].std()), float(own["voltage"].std())
            volts = rail.volts(float(own["voltage"].mean()))
            samples = int(sums.samples[number].sum() * self.timings[number].independent)
            found.append((float(watts), uncertainty.power_watts(rail, float(watts), volts, codes, samples)))
        return found

    # bus
    def transfer(self, address: int, data: bytes, read: int = 0) -> int | None:
        """Writes `data`, reads so many bytes, most significant first; None when no sensor acknowledges."""
        fields = {"address": address, "written": len(data), "read": read, "bytes": int.from_bytes(data, "little")}
        self.port.write(contract.TRANSFER_ROW, codec.encode(contract.Transfer, **fields)[0])
        result = codec.decode(contract.Result, self.port.read(contract.RESULT_WORD, 1))
        if not result["done"]:
            raise DeviceError("the power monitor did no transfer: open the device anew")
        return result["bytes"] if result["acknowledged"] else None

    def _control(self, **fields: int) -> None:
        self.port.write(contract.CONTROL_ROW, codec.encode(contract.Control, **fields)[0])

    def _state(self) -> dict[str, int]:
        return codec.decode(contract.State, self.port.read(contract.STATE_WORD, 1))

    def _open(self) -> str | None:
        self._control(recover=1)
        state = self._state()
        if not (state["sda"] and state["scl"]):
            wire = "SDA" if state["scl"] else "SCL"
            raise DeviceError(f"{wire} of the sensors' bus stays low: check its wires and its pull-up resistors")
        if not self.rails:
            return "no rail is named"
        if len({rail.chip.bus for rail in self.rails}) > 1:
            raise UsageError(f"{' and '.join(rail.where for rail in self.rails)} are on different buses: take one")
        size, places = (1, REGULATOR_ADDRESSES) if self.rails[0].regulates else (2, INA_ADDRESSES)
        silent = [rail for rail in self.rails if self.transfer(rail.address, b"\x00", size) is None]
        if silent:
            found = [address for address in places if self.transfer(address, b"\x00", size) is not None]
            if not found:
                return f"no sensor answers on the bus: check the wiring of {silent[0].where}"
            places = ", ".join(f"{address:#x}" for address in found)
            raise UsageError(f"nothing answers for {silent[0].where}; sensors answer at {places}: give that address")
        for rail in self.rails:
            self._identify(rail)
        self.rails = tuple(map(self._told, self.rails))
        self.output_watts = tuple(map(self._output_watts, self.rails))
        return None

    def _told(self, rail: Rail) -> Rail:
        """With what a regulator says of its volts."""
        if not rail.regulates:
            return rail
        for register, byte in setup(rail, choose_timing(rail, 0.0)):
            self._keep(rail, register, byte)
        mode = self.transfer(rail.address, bytes([VOUT_MODE]), 1)
        exponent = None if mode is None else volts_exponent(mode)
        if exponent is None:
            raise DeviceError(f"{rail.where}: its volts are in no LINEAR16 (VOUT_MODE reads {mode}): take another rail")
        if rail.volts_exponent not in (None, exponent):
            raise UsageError(f"{rail.where}: volts_exponent is {exponent}, not {rail.volts_exponent}; leave it out")
        return replace(rail, volts_exponent=exponent)

    def _output_watts(self, rail: Rail) -> float | None:
        """By the chip itself, beside what is made of its volts and amperes; None where it does not say."""
        said = self.transfer(rail.address, bytes([READ_POUT]), LINEAR11_BITS // 8) if rail.regulates else None
        if said is None:
            return None
        half = 1 << LINEAR11_BITS - 1
        return ((said ^ half) - half) * LINEAR11_STEP

    def _keep_pace(self, wanted_s: float | None) -> None:
        """Sets the sensors up so that no sample is missed, with longer ones while the bus is too slow for that."""
        bus_s = round_s(self.rails, self.port.clock_hz)
        for _ in range(PACE_TRIES):
            self.timings = [choose_timing(rail, bus_s, wanted_s, self.port.clock_hz) for rail in self.rails]
            self._set_up()
            self.clear()
            self.wait(PACE_SAMPLES * self.sample_s)
            stamps = [one["stamp"] for one in self._by_rail(self.records())]
            if all(len(one) < 2 for one in stamps):
                self.snapshot()  # says what is wrong, if the device knows
                raise DeviceError(
                    f"{self.rails[0].where} converts nothing: check kind, address and supply of the sensor"
                )
            found_s = max(float(np.diff(one).mean()) for one in stamps if len(one) > 1) / self.port.clock_hz
            if found_s <= PACE * self.period_s:
                return
            bus_s *= PACE_LONGER
        raise DeviceError("the sensors' bus is too slow for these rails: take fewer, or a longer sample_s")

    def _set_up(self) -> None:
        self.close()
        self.wait(2 * self.sample_s)  # a round that goes on needs its rails as they are
        for row in range(contract.RAILS):
            self.port.write(contract.FIRST_RAIL_ROW + row, 0)
        for row, (rail, timing) in enumerate(zip(self.rails, self.timings, strict=True)):
            for register, word in setup(rail, timing):
                self._keep(rail, register, word)
            self.port.write(contract.FIRST_RAIL_ROW + row, descriptor(rail))

    def _by_rail(self, records: np.ndarray) -> list[np.ndarray]:
        return [records[records["rail"] == number] for number in range(len(self.rails))]

    def _identify(self, rail: Rail) -> None:
        size = 5 if rail.regulates else 2  # of a block: its length, which may be any, and four bytes
        for register, expected in rail.chip.identity.items():
            found = self.transfer(rail.address, bytes([register]), size)
            if found is not None and rail.regulates:
                found %= 2**32
            if found != expected:
                said = "nothing" if found is None else f"{found:#06x}"
                raise UsageError(
                    f"{rail.where} is another chip: register {register:#x} reads {said}, not {expected:#06x}; "
                    "check kind and address"
                )

    def _keep(self, rail: Rail, register: int, word: int) -> None:
        size = 1 if rail.regulates else 2
        self.transfer(rail.address, bytes([register, *word.to_bytes(size, "big")]))
        read = self.transfer(rail.address, bytes([register]), size)
        if read is None or not reads_back(rail, register, word, read):
            said = "nothing" if read is None else f"{read:#06x}"
            raise DeviceError(
                f"{rail.where} does not keep its set-up: register {register:#x} reads {said}, not {word:#06x}; "
                "check kind, address and supply of the sensor"
            )

    # sums
    def clear(self) -> None:
        """All sums, records and faults to 0; waits until the first time is there."""
        self._control(clear=1, run=1, record=1)
        self.wait(3 * self.sample_s)

    def close(self) -> None:
        """Stops going round."""
        self._control()

    def wait(self, seconds: float) -> None:
        self.port.wait(int(seconds * self.port.clock_hz) + 1)

    def watts(self, sums: Sums) -> np.ndarray:
        """Mean of each rail, as its sensor says it: no calibration."""
        return self.joules(sums).sum(axis=1) / (sums.cycles.sum(axis=1) / self.port.clock_hz)

    def joules(self, sums: Sums) -> np.ndarray:
        """[rail, phase], as the sensors say them: no calibration."""
        amps, volts = (np.array([[getattr(rail, name)] for rail in self.rails]) for name in _WORTH)
        flags = np.array([[rail.chip.bus_flags] for rail in self.rails])
        watts = np.array([[rail.says_watts] for rail in self.rails])
        return np.where(watts, sums.charge, (sums.energy - flags * sums.charge) * volts) * amps / self.port.clock_hz

    def snapshot(self) -> Sums:
        """The sums as of the last round. Raises `DeviceError` for faults since `clear`, with the mend."""
        self._control(snapshot=1, run=1, record=1)
        state, _, stamp = self.port.read(contract.STATE_WORD, 3)
        self._check(codec.decode(contract.State, [state]))
        count = len(self.rails) * contract.PHASES * contract.SUM_WORDS
        words = np.array(self.port.read(contract.FIRST_SUM_WORD, count), np.uint64).astype(np.int64)
        sums = words.reshape(len(self.rails), contract.PHASES, contract.SUM_WORDS)
        return Sums(stamp % 2**48, self.clock(), *np.moveaxis(sums, -1, 0))

    def records(self) -> np.ndarray:
        """The last samples, the oldest first: fields stamp (cycles), phase, rail, current, voltage (codes)."""
        recorded = self._state()["recorded"]
        words = self.port.read(contract.FIRST_RECORD_WORD, contract.RECORDS * contract.RECORD_WORDS)
        kind = [("stamp", np.int64), ("phase", int), ("rail", int), ("current", np.int64), ("voltage", np.int64)]
        low, high = np.array(words, np.uint64).reshape(-1, 2).T
        table = np.zeros(contract.RECORDS, kind)
        table["stamp"] = (low & np.uint64(2**48 - 1)).astype(np.int64)
        table["phase"] = (low >> np.uint64(48)).astype(int) & 0xFF
        table["rail"] = (low >> np.uint64(56)).astype(int)
        table["current"] = (high & np.uint64(2**32 - 1)).astype(np.uint32).astype(np.int32)
        table["voltage"] = (high >> np.uint64(32)).astype(np.int64)
        # those written while this was read are left out: they stand where the oldest ones were
        table = np.roll(table, -(recorded % contract.RECORDS)) if recorded >= contract.RECORDS else table[:recorded]
        ordered = np.concatenate([[True], np.diff(table["stamp"]) >= 0]) if len(table) else np.zeros(0, bool)
        return table[np.cumprod(ordered[::-1])[::-1].astype(bool)] if not ordered.all() else table

    def _check(self, state: dict[str, int]) -> None:
        for number, rail in enumerate(self.rails):
            if state["silent"] >> number & 1:
                raise DeviceError(f"{rail.where} stopped answering in a window: check its wires, then measure again")
            if state["saturated"] >> number & 1:
                what, unit = ("power", "W") if rail.says_watts else ("current", "A")
                raise DeviceError(
                    f"the {what} of {rail.where} reached the end of its range, {rail.range.volts / rail.ohm:.4g}"
                    f" {unit}: give a larger most_amps, or take a smaller shunt"
                )
        for name, text in _FAULTS.items():
            if state[name]:
                raise DeviceError(text)

    def time_s(self, sums: Sums) -> float:
        """When these were read: Unix time where it is a board, else seconds of the device since its power-up."""
        if self.port.provenance != "measured":
            return sums.stamp / self.port.clock_hz
        return sums.seconds + time.time() - self.clock()

    def check_clock(self, sums: Sums) -> None:
        """Raises `DeviceError` when a board's clock does not go as the host's, by more than `DRIFT`."""
        if self.port.provenance != "measured" or sums.seconds <= 0:
            return
        device_s = sums.stamp / self.port.clock_hz
        slack = DRIFT * sums.seconds + LINK_S + 2 * self.sample_s
        if abs(device_s - sums.seconds) > slack:
            raise DeviceError(
                f"the device's clock drifts: {device_s:.3f} s of it are {sums.seconds:.3f} s of the host; "
                f"check that it runs at {self.port.clock_hz / 1e6:g} MHz"
            )


_FAULTS = {
    "overflow": "a sum of the power monitor left 63 bits: measure shorter windows",
    "late": "a sensor gave no sample for 2**24 cycles, and energy is missing: check its wires, measure again",
    "stretched": "a chip held SCL of the sensors' bus for over 25 ms: check its supply and its wires",
}
