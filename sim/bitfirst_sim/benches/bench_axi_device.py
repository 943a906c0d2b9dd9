"""Bench of `bitfirst_hdl.axi.AxiTop`: whole commands over AXI against the golden model, by cocotbext-axi's masters."""

import cocotb
from bitfirst.golden.commands import GoldenDevice
from bitfirst_hdl.axi import RESET_CYCLES
from bitfirst_hdl.contract.packets import Opcode, Phase, Status
from bitfirst_hdl.contract.registers import COUNTER_INDEX
from cocotbext.axi import AxiStreamFrame

from . import bench_axi, bench_device, bench_uart
from .bench_axi import check_identity, mask_of
from .bench_frames import FrameReader

BURST = 20  # commands between two pauses; their answers are waited for
LIMIT_CYCLES = 100_000


class Sent:
    """As `common.StreamDriver`, but that words go out through the AXI4-Stream source, a command in each packet."""

    def __init__(self, bench: bench_axi.Bench) -> None:
        self.source = bench.source

    def send(self, *words: int) -> None:
        self.source.send_nowait(AxiStreamFrame(b"".join(word.to_bytes(8, "little") for word in words)))

    @property
    def done(self) -> bool:
        return self.source.idle()


class Answers(FrameReader):
    """Packets from the device: each is one frame."""

    def __init__(self, bench: bench_axi.Bench) -> None:
        super().__init__(bench.unit_bytes)
        self.sink = bench.sink
        self.task = cocotb.start_soon(self._run())

    async def _run(self) -> None:
        while True:
            packet = bytes((await self.sink.recv()).tdata)
            count, size = len(self.frames), self.unit_bytes
            for at in range(0, len(packet), size):
                self.unit(int.from_bytes(packet[at : at + size], "little"))
            assert len(self.frames) == count + 1, "a packet is not a frame"


class DeviceBench(bench_device.DeviceBench):
    """The same commands and comparisons, by other ways in and out."""

    def __init__(self, axi: bench_axi.Bench) -> None:
        self.axi, self.dut, self.rng, self.config = axi, axi.dut, axi.rng, axi.config
        self.restart()

    def restart(self) -> None:
        """Everything as after reset."""
        self.golden = GoldenDevice(self.config, self.axi.fingerprint)
        self.rx, self.host = Sent(self.axi), Answers(self.axi)
        self.expected: list[bench_device.Expected] = []
        self.statuses = dict.fromkeys(Status, 0)
        self.sequence, self.settled = 0, True

    async def quiet(self, limit_cycles: int = LIMIT_CYCLES) -> None:
        """Wait until everything is answered, and the status register says that the device is idle."""
        done = lambda: self.rx.done and len(self.host.frames) == len(self.expected)  # noqa: E731
        await self.axi.until(done, limit_cycles)
        for _ in range(limit_cycles):
            if await self.axi.read("status") == mask_of("status", "idle"):
                return
        raise AssertionError(f"not idle after {limit_cycles} reads of the status")

    async def call(self, opcode: Opcode, data=(), **fields: int) -> None:
        """One command and its answer."""
        self.send(opcode, data, **fields)
        await self.axi.until(lambda: len(self.host.frames) == len(self.expected), LIMIT_CYCLES)


async def start(dut) -> DeviceBench:
    bench = DeviceBench(await bench_axi.start(dut))
    bench_device.fill(bench)
    await bench.quiet()
    bench.finish()
    return bench


@cocotb.test()
async def product(dut) -> None:
    """PING, identity both ways, a tensor in, LOAD of both operands, MATMUL, sums out; then again after a reset."""
    bench = DeviceBench(await bench_axi.start(dut))
    for way in ("software", "pin", "software"):
        await check_identity(bench.axi)
        packets = await bench.axi.read("tx_packets")
        await bench_uart.product(bench)
        bench.finish()
        assert await bench.axi.read("tx_packets") - packets == len(bench.host.frames)
        bench.send(Opcode.PING, token=1)  # lost: half of it is in when the device is reset
        await bench.axi.cycles(3)
        if way == "pin":
            await bench.axi.reset()
        else:
            await bench.axi.write("control", mask_of("control"))
            await bench.axi.until(lambda: bench.rx.done, LIMIT_CYCLES)
            await bench.axi.cycles(RESET_CYCLES)
        bench.host.task.cancel()
        await bench.axi.cycles(100)
        bench.axi.sink.clear()
        bench.restart()


@cocotb.test()
async def random_commands(dut) -> None:
    """Commands of all kinds, a third of them wrong; all channels stop at random, in other shares for each burst."""
    bench = await start(dut)
    maker = bench_device.CommandMaker(bench)
    for number in range(200):
        if number % BURST == 0:
            await bench.quiet()
            bench.axi.pause(0.0, 0.2, 0.6)
        wrong = bench.rng.random() < 0.35
        bench.send_payload(maker.wrong_payload() if wrong else maker.payload())
    bench.send(Opcode.MARK, phase=int(Phase.OTHER))
    await bench.quiet()
    bench.finish()
    of_commands = set(Status) - {Status.BAD_FRAME, Status.BAD_SEQUENCE, Status.STUCK}
    assert all(bench.statuses[status] for status in of_commands), bench.statuses
    assert bench.host.frames[-1].data[COUNTER_INDEX["commands"]] > 0
    assert bench.axi.rules.checked > 100
