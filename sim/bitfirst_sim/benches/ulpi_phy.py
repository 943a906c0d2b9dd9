"""A PHY in Python, at the ULPI bus of `bitfirst_boards.ulpi.UlpiTop`, by the letter of ULPI 1.1, with a host behind it.

A cycle goes from one falling edge of the 60 MHz clock to the next, and a bit at full speed has five: the PHY's outputs
change at its beginning, and what is on the bus by then is taken at its rising edge. A device that breaks the bus's
rules fails the bench.
"""

import random
from collections import deque
from collections.abc import Awaitable, Callable

from cocotb import start_soon
from cocotb.clock import Clock
from cocotb.triggers import (
    Event,
    FallingEdge,
    First,
    ReadOnly,
    RisingEdge,
    SimTimeoutError,
    Timer,
    ValueChange,
    with_timeout,
)
from cocotb.utils import get_sim_time

from . import common
from .usb_host import TIMEOUT_BITS

CYCLE_STEPS = common.PERIOD_STEPS
BIT_CYCLES = 5
FUNCTION, OTG = 0x04, 0x0A  # registers, and their values after a reset (4.2)
AFTER_RESET = {FUNCTION: 0x41, OTG: 0x06}
FULL_SPEED, PULL_UP, MODE, PULL_DOWNS = 0x03, 0x04, 0x18, 0x06  # their bits
SE0, J, K = 0, 1, 2  # line states of an RX CMD (3.8.1.2)
STATUS, ACTIVE = 0x4C, 0x10  # its other bits: no ID to ground, VBUS is there; a packet comes
#: How long Microchip's PHYs want to be reset; the longest that any takes to start; by when the device is to be seen.
RESET_US, START_US, ATTACHED_US = 1, 5_600, 30_000
#: From the RX CMD that tells of the J behind a packet to that without RxActive, and to the device's TX CMD: pipeline
#: delays and link decision times at full speed (3.8.2.6), which leave it 2 to 6.5 bit times on the line.
END_CYCLES, DECISION_CYCLES = (3, 4), range(7, 19)
INTERRUPTS = 0.5  # probability of an RX CMD in the midst of a register's write, twice in each


class UlpiBus:
    """Packets through a PHY, once `start` is done.

    registers        those that it has at first
    detached_cycles  how long the device has been without pull-up, since the PHY started, when it was seen
    """

    bit_steps = BIT_CYCLES * CYCLE_STEPS

    def __init__(self, dut, rng: random.Random, registers: dict[int, int] | None = None) -> None:
        self.dut, self.rng = dut, rng
        self.registers = dict(registers or AFTER_RESET)
        self.detached_cycles = 0
        self.written: list[int] = []  # addresses
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._work, self._seen, self._begun, self._done = Event(), Event(), Event(), Event()
        self._reset = self._turned = False  # the host drives SE0; the PHY had the bus
        self._ended = self._commanded = self._detached = 0  # when

    # the host's side
    async def attached(self) -> None:
        """Till the device is seen, by its pull-up."""
        await with_timeout(self._seen.wait(), round(ATTACHED_US * self._us_steps), "step")
        assert self.registers[FUNCTION] & (FULL_SPEED | MODE) == 0x01 and not self.registers[OTG] & PULL_DOWNS

    async def put(self, d_p: int, d_n: int, bits: float) -> None:
        """A reset of the bus, or none, for so long."""
        self._reset = not d_p
        self._give(self._tell)
        await Timer(round(bits * self.bit_steps), "step")

    async def send(self, packet: bytes) -> None:
        assert not self._begun.is_set(), "the device speaks out of turn"
        gone = Event()

        async def job() -> None:
            await self._deliver(packet)
            gone.set()

        self._give(job)
        await gone.wait()

    async def receive(self) -> bytes | None:
        """The device's packet; None when none comes in time."""
        try:
            await with_timeout(self._begun.wait(), TIMEOUT_BITS * self.bit_steps, "step")
        except SimTimeoutError:
            return None
        await self._done.wait()
        self._begun.clear()
        self._done.clear()
        return bytes(self._packet)

    def _give(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        self._work.set()

    # the bus
    async def start(self) -> None:
        """Till the PHY has its clock and gives up the bus; some have it all the time, others after their reset alone.

        The device's time is that of its own clock, `clock_khz`, which is slower here than any, to save cycles.
        """
        parameters = common.parameters()
        self._us_steps = parameters["array_period"] * CYCLE_STEPS * parameters["config"]["clock_khz"] / 1000
        early = self.rng.random() < 0.5
        if early:
            await self._start_clock()
        self.dut.dir.value, self.dut.nxt.value, self.dut.data_in.value = 1, 0, 0
        await FallingEdge(self.dut.array_rst)
        reset = get_sim_time("step")
        await FallingEdge(self.dut.phy_reset)
        assert get_sim_time("step") - reset >= RESET_US * self._us_steps
        await Timer(round(self.rng.uniform(0.1, 1) * START_US * self._us_steps), "step")
        if not early:
            await self._start_clock()
        await RisingEdge(self.dut.clk)
        await FallingEdge(self.dut.clk)
        self._turned, self._detached = True, get_sim_time("step")
        self.task = start_soon(self._run())

    async def _start_clock(self) -> None:
        """With falling edges at multiples of its period."""
        await Timer(CYCLE_STEPS - get_sim_time("step") % CYCLE_STEPS, "step")
        Clock(self.dut.clk, CYCLE_STEPS, unit="step").start(start_high=False)

    async def _run(self) -> None:
        await self._cycle(dir=1)
        await self._cycle()
        await self._tell()  # as it must when it has started
        while True:
            if self._jobs:
                await self._jobs.popleft()()
            elif data := await self._cycle(rests=True):
                await self._command(data)

    async def _cycle(self, dir: int = 0, nxt: int = 0, data: int = 0, stops: bool = False, rests: bool = False) -> int:
        """One cycle, or as many as there is nothing to do (`rests`): what the device then has on the bus.

        stops  it may end a packet or a write, and `_stopped` is whether it did
        """
        pins = self.dut
        pins.dir.value, pins.nxt.value, pins.data_in.value = dir, nxt, data
        await ReadOnly()
        drives, self._stopped, found = (common.value(pin) for pin in (pins.drive, pins.stp, pins.data_out))
        assert drives == (not dir and not self._turned), f"dir {dir}, before {self._turned}: the device drives {drives}"
        assert stops or not self._stopped, "stp out of place"
        if rests and not found and not self._jobs:
            self._work.clear()
            await First(ValueChange(pins.data_out), ValueChange(pins.drive), RisingEdge(pins.stp), self._work.wait())
            await Timer(CYCLE_STEPS - get_sim_time("step") % CYCLE_STEPS, "step")
        else:
            await Timer(CYCLE_STEPS, "step")
        self._turned = bool(dir)
        return found

    async def _hold(self, cycles: int) -> None:
        """So many cycles like the last one, in which nothing of the device may change that the PHY sees."""
        seen = [self.dut.drive, self.dut.stp] + [self.dut.data_out] * (not self._turned)
        time = Timer(cycles * CYCLE_STEPS, "step")
        fired = await First(time, *(ValueChange(signal) for signal in seen))
        assert fired is time, f"{fired} while the PHY is at work"

    def _status(self, line: int, active: bool = False) -> int:
        """An RX CMD."""
        return STATUS | ACTIVE * active | line

    @property
    def _line(self) -> int:
        """The bus between packets."""
        return J if self.pulls_up and not self._reset else SE0

    @property
    def pulls_up(self) -> bool:
        """What a host sees."""
        return self.registers[FUNCTION] & (PULL_UP | MODE) == PULL_UP

    async def _tell(self, line: int | None = None) -> None:
        """The line's state: an RX CMD, between two turn-arounds."""
        await self._cycle(dir=1, data=self.rng.getrandbits(8))
        await self._cycle(dir=1, data=self._status(self._line if line is None else line))
        await self._cycle(data=self.rng.getrandbits(8))

    async def _deliver(self, packet: bytes) -> None:
        """A packet of the host's: its bytes with nxt, one in eight bits and those stuffed, and RX CMDs in between."""
        await self._cycle(dir=1, nxt=int(self.rng.random() < 0.5), data=self.rng.getrandbits(8))
        await self._receiving(K, 8 * BIT_CYCLES)
        ones = 0
        for byte in packet:
            bits = 8
            for place in range(8):
                ones = ones + 1 if byte >> place & 1 else 0
                if ones == 6:
                    bits, ones = bits + 1, 0
            await self._cycle(dir=1, nxt=1, data=byte)
            await self._receiving(self.rng.choice((J, K)), bits * BIT_CYCLES - 1)
        await self._receiving(SE0, 2 * BIT_CYCLES)
        self._ended = get_sim_time("step")
        await self._receiving(J, self.rng.choice(END_CYCLES))
        await self._cycle(dir=1, data=self._status(J))
        await self._cycle(data=self.rng.getrandbits(8))

    async def _receiving(self, line: int, cycles: int) -> None:
        await self._cycle(dir=1, data=self._status(line, active=True))
        await self._hold(cycles - 1)

    async def _command(self, data: int) -> None:
        """What the device has begun: a packet, or a register's write; it reads none, nor sends without a PID."""
        kind = data >> 6
        assert kind in (1, 2), f"TX CMD {data:#04x}"
        self._commanded = get_sim_time("step") - CYCLE_STEPS
        for _ in range(self.rng.randrange(3)):
            assert await self._cycle() == data
        await (self._transmit(data) if kind == 1 else self._write(data))

    async def _write(self, command: int) -> None:
        if self.rng.random() < INTERRUPTS:
            return await self._tell()  # and the device begins anew
        assert await self._cycle(nxt=1) == command
        if self.rng.random() < INTERRUPTS:
            return await self._tell()
        value = await self._cycle(nxt=1)
        assert await self._cycle(stops=True) == 0 and self._stopped, "no stp behind a write"
        pulled_up = self.pulls_up
        self.registers[command & 0x3F] = value
        self.written.append(command & 0x3F)
        if self.pulls_up != pulled_up:
            await self._pulled()

    async def _pulled(self) -> None:
        """The pull-up has come or gone."""
        if self.pulls_up:
            self.detached_cycles = (get_sim_time("step") - self._detached) // CYCLE_STEPS
            self._seen.set()
        else:
            self._detached = get_sim_time("step")
            self._seen.clear()
        await self._tell()

    async def _transmit(self, command: int) -> None:
        """A packet of the device's, a byte in eight bits' time, and the line's states behind it."""
        pid = command & 0x3F
        assert 0 < pid < 16 and self.pulls_up, f"TX CMD {command:#04x}"
        taken = (self._commanded - self._ended) // CYCLE_STEPS
        assert taken in DECISION_CYCLES, f"an answer after {taken} cycles"
        assert await self._cycle(nxt=1) == command
        self._begun.set()
        self._packet = bytearray([pid | (pid ^ 15) << 4])
        while True:
            data = await self._cycle(stops=True)
            if self._stopped:
                break
            await self._hold(8 * BIT_CYCLES - 2)
            assert await self._cycle(nxt=1) == data
            self._packet.append(data)
        assert data == 0, "an error told by stp"
        await self._hold(16 * BIT_CYCLES)  # what it has of the packet goes to the line
        await self._tell(SE0)
        await self._hold(2 * BIT_CYCLES)
        await self._tell(J)
        self._done.set()
