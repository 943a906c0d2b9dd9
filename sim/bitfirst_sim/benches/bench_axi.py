"""Bench of what `bitfirst_hdl.axi.AxiTop` puts around a device: registers and packets.

In the device's place stands one that sends back what it receives. The masters are those of cocotbext-axi.
"""

import logging
import random
from collections.abc import Callable, Iterator

import cocotb
from bitfirst_hdl import config as configs
from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract.registers import AXI_ADDRESS_BITS, AXI_BYTES, AXI_REGISTERS, Access, Identity
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotbext.axi import (
    AxiLiteBus,
    AxiLiteMaster,
    AxiResp,
    AxiStreamBus,
    AxiStreamFrame,
    AxiStreamSink,
    AxiStreamSource,
)

from . import common
from .bench_frames import frame, random_length, random_words

PERIOD_NS = 2
RESET_EDGES = 3  # from `aresetn` high to the first edge with a ready signal
HELD_BY_ECHO_BEATS = 64  # more than it and the output's register can hold
REGISTERS = {register.name: register for register in AXI_REGISTERS}
LITE = ("aw", "w", "b", "ar", "r")


def mask_of(name: str, *fields: str) -> int:
    """Of all fields of a register, or of those named."""
    chosen = [field for field in REGISTERS[name].fields if not fields or field.name in fields]
    return sum((1 << field.width) - 1 << field.low for field in chosen)


class Rules:
    """The handshake rules for what the component drives: IHI 0022, A3.1.2, A3.2 and A3.3."""

    def __init__(self, dut) -> None:
        self.dut = dut
        self.handshakes = dict.fromkeys(LITE, 0)
        self.channels = {
            "b": ("s_axi_b", ("resp",)),
            "r": ("s_axi_r", ("data", "resp")),
            "m_axis": ("m_axis_t", ("data", "keep", "last")),
        }
        self.readies = ("s_axi_awready", "s_axi_wready", "s_axi_arready", "s_axis_tready")
        self.held: dict[str, tuple[int, ...] | None] = dict.fromkeys(self.channels)
        self.edges_in_reset, self.checked = 0, 0
        self.task = cocotb.start_soon(self._run())

    def _value(self, name: str) -> int:
        return common.value(getattr(self.dut, name))

    async def _run(self) -> None:
        while True:
            await RisingEdge(self.dut.aclk)
            if not self._value("aresetn"):
                self.edges_in_reset += 1
                self.held, self.handshakes = dict.fromkeys(self.channels), dict.fromkeys(LITE, 0)
                if self.edges_in_reset > 1:
                    up = [name for name in self.readies if self._value(name)]
                    up += [name for name, (stem, _) in self.channels.items() if self._value(f"{stem}valid")]
                    assert not up, f"high in reset: {up}"
                continue
            self.edges_in_reset = 0
            for name, (stem, parts) in self.channels.items():
                self._check(name, stem, parts)
            for name in LITE:
                self.handshakes[name] += self._value(f"s_axi_{name}valid") and self._value(f"s_axi_{name}ready")

    def _check(self, name: str, stem: str, parts: tuple[str, ...]) -> None:
        valid, ready = self._value(f"{stem}valid"), self._value(f"{stem}ready")
        payload = tuple(self._value(f"{stem}{part}") for part in parts)
        counts = self.handshakes
        if self.held[name] is not None:
            assert valid, f"{name}: valid was withdrawn"
            assert payload == self.held[name], f"{name}: payload changed before it was taken"
            self.checked += 1
        if valid and name == "b":
            assert counts["b"] < min(counts["aw"], counts["w"]), "response before address and data"
        if valid and name == "r":
            assert counts["r"] < counts["ar"], "data before address"
        self.held[name] = payload if valid and not ready else None


class Bench:
    """Masters of the three ports, and the rules."""

    def __init__(self, dut) -> None:
        self.dut, self.rng = dut, random.Random(cocotb.RANDOM_SEED)
        self.config = configs.ArrayConfig(**common.parameters()["config"])
        self.fingerprint = common.parameters()["fingerprint"]
        self.unit_bytes = self.config.link_bits // 8
        reset = {"reset": dut.aresetn, "reset_active_level": False}
        self.lite = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axi"), dut.aclk, **reset)
        self.source = AxiStreamSource(AxiStreamBus.from_prefix(dut, "s_axis"), dut.aclk, **reset)
        self.sink = AxiStreamSink(AxiStreamBus.from_prefix(dut, "m_axis"), dut.aclk, **reset)
        self.rules = Rules(dut)
        write, read = self.lite.write_if, self.lite.read_if
        self.paused = [write.aw_channel, write.w_channel, write.b_channel, read.ar_channel, read.r_channel]
        self.paused += [self.source, self.sink]
        for talkative in (*self.paused, write, read):
            talkative.log.setLevel(logging.WARNING)

    def pause(self, *shares: float) -> None:
        """Each channel waits in that share of the cycles, one of `shares` for each."""
        for channel in self.paused:
            channel.set_pause_generator(self._pauses(self.rng.choice(shares)))

    def _pauses(self, share: float) -> Iterator[bool]:
        while True:
            yield self.rng.random() < share

    async def cycles(self, count: int) -> None:
        for _ in range(count):
            await RisingEdge(self.dut.aclk)

    async def until(self, condition: Callable[[], bool], limit_cycles: int = 20_000) -> None:
        for _ in range(limit_cycles):
            await RisingEdge(self.dut.aclk)
            if condition():
                return
        raise AssertionError(f"condition does not hold after {limit_cycles} cycles")

    async def reset(self, count: int = 4) -> None:
        self.dut.aresetn.value = 0
        await self.cycles(count)
        self.dut.aresetn.value = 1

    async def read(self, name: str) -> int:
        """A register."""
        answer = await self.lite.read(REGISTERS[name].address, AXI_BYTES)
        assert answer.resp == AxiResp.OKAY
        return int.from_bytes(answer.data, "little")

    async def write(self, name: str, value: int) -> None:
        answer = await self.lite.write(REGISTERS[name].address, value.to_bytes(AXI_BYTES, "little"))
        assert answer.resp == AxiResp.OKAY

    def frame(self, words: int) -> bytes:
        return frame(random_words(self.rng, words), self.rng.getrandbits(16))

    async def echo(self, frames: list[bytes]) -> None:
        """Frames, in packets of any length, come back in a packet each."""
        stream = b"".join(frames)
        while stream:
            most = len(stream) // self.unit_bytes
            size = self.rng.choice((most, self.rng.randint(1, most))) * self.unit_bytes
            self.source.send_nowait(AxiStreamFrame(stream[:size]))
            stream = stream[size:]
        for expected in frames:
            got = await self.sink.recv()
            assert bytes(got.tdata) == expected, f"packet {bytes(got.tdata).hex()}, expected {expected.hex()}"
        assert self.sink.empty()


async def start(dut) -> Bench:
    Clock(dut.aclk, PERIOD_NS, unit="ns").start(start_high=False)
    dut.aresetn.value = 0
    bench = Bench(dut)
    await bench.reset()
    return bench


async def check_identity(bench: Bench) -> None:
    words = codec.encode(Identity, **bench.config.identity(bench.fingerprint))
    expected = b"".join(word.to_bytes(8, "little") for word in words)
    answer = await bench.lite.read(0, len(expected))
    assert (answer.resp, answer.data) == (AxiResp.OKAY, expected)


@cocotb.test()
async def identity(dut) -> None:
    bench = await start(dut)
    await check_identity(bench)
    bench.pause(0.3, 0.7)
    await check_identity(bench)
    assert bench.rules.checked > 3


@cocotb.test()
async def register_access(dut) -> None:
    """Bytes written and read at random, reads beside writes, every channel stopping at random, against a model."""
    bench = await start(dut)
    rng, memory = bench.rng, bytearray(1 << AXI_ADDRESS_BITS)
    writable = [name for name, register in REGISTERS.items() if register.fields[0].access == Access.WRITE]
    for number in range(150):
        if number % 30 == 0:
            bench.pause(0.0, 0.2, 0.8)
        name = rng.choice(writable)
        address, other = REGISTERS[name].address, REGISTERS[rng.choice(writable)].address
        first, last = sorted(rng.choices(range(AXI_BYTES), k=2))
        data = rng.randbytes(last + 1 - first)
        reading = None if other == address else cocotb.start_soon(bench.lite.read(other, AXI_BYTES))
        answer = await bench.lite.write(address + first, data)
        assert answer.resp == AxiResp.OKAY
        mask = mask_of(name).to_bytes(AXI_BYTES, "little")
        for place, byte in enumerate(data, first):
            memory[address + place] = byte & mask[place]
        for place in (address, other):
            answer = await (reading if reading is not None and place == other else bench.lite.read(place, AXI_BYTES))
            assert (answer.resp, answer.data) == (AxiResp.OKAY, bytes(memory[place : place + AXI_BYTES]))
    assert bench.rules.checked > 50


@cocotb.test()
async def unknown_addresses(dut) -> None:
    """Answered with SLVERR, and nothing changes; so are writes of what is read-only."""
    bench = await start(dut)
    identity_bytes = Identity.as_shape().size // 8
    known = {register.address for register in AXI_REGISTERS}
    words = range(0, 1 << AXI_ADDRESS_BITS, AXI_BYTES)
    unknown = [address for address in words if address >= identity_bytes and address not in known]
    await bench.write("scratch", 0x1234_5678)
    for address in (unknown[0], unknown[-1], *bench.rng.sample(unknown, 40)):
        assert (await bench.lite.read(address, AXI_BYTES)).resp == AxiResp.SLVERR
        assert (await bench.lite.write(address, bytes(AXI_BYTES))).resp == AxiResp.SLVERR
    read_only = [register.address for register in AXI_REGISTERS if not register.writable]
    for address in (0, identity_bytes - AXI_BYTES, *read_only):
        assert (await bench.lite.write(address, b"\xff" * AXI_BYTES)).resp == AxiResp.SLVERR
    assert await bench.read("scratch") == 0x1234_5678
    await check_identity(bench)


@cocotb.test()
async def packets(dut) -> None:
    """Frames come back, one in each packet, whatever stops; counters, and the interrupt that each answer makes."""
    bench = await start(dut)
    sent = packets = 0
    for shares in ((0.0,), (0.0, 0.5), (0.7,)):
        bench.pause(*shares)
        frames = [bench.frame(random_length(bench.rng)) for _ in range(20)]
        await bench.echo(frames)
        sent, packets = sent + len(b"".join(frames)) // bench.unit_bytes, packets + len(frames)
        counted = [await bench.read(name) for name in ("rx_beats", "tx_beats", "tx_packets", "rx_dropped")]
        assert counted == [sent, sent, packets, 0]
    assert bench.rules.checked > 50
    await bench.until(lambda: not common.value(dut.irq))
    await bench.write("interrupt_status", mask_of("interrupt_status"))
    await bench.write("interrupt_enable", mask_of("interrupt_enable", "answer"))
    for _ in range(2):
        assert await bench.read("interrupt_status") == 0 and not common.value(dut.irq)
        await bench.echo([bench.frame(3)])
        await bench.cycles(3)
        assert await bench.read("interrupt_status") == mask_of("interrupt_status", "answer", "idle")
        assert await bench.read("status") == mask_of("status", "idle")
        assert common.value(dut.irq)
        await bench.write("interrupt_status", mask_of("interrupt_status", "idle"))
        await bench.cycles(2)
        assert common.value(dut.irq)
        await bench.write("interrupt_status", mask_of("interrupt_status", "answer"))
        await bench.cycles(2)


@cocotb.test()
async def without_gaps(dut) -> None:
    """One beat a cycle through both streams, and a read's data the cycle after its address."""
    bench = await start(dut)
    await bench.echo([bench.frame(1)])
    frames = [bench.frame(20) for _ in range(5)]
    bench.source.send_nowait(AxiStreamFrame(b"".join(frames)))
    await bench.until(lambda: common.value(dut.m_axis_tvalid))
    beats = len(b"".join(frames)) // bench.unit_bytes
    for _ in range(beats - 1):
        await RisingEdge(dut.aclk)
        assert common.value(dut.m_axis_tvalid)
    await RisingEdge(dut.aclk)
    assert not common.value(dut.m_axis_tvalid)
    reading = cocotb.start_soon(bench.read("scratch"))
    await bench.until(lambda: common.value(dut.s_axi_arvalid) and common.value(dut.s_axi_arready))
    await RisingEdge(dut.aclk)
    assert common.value(dut.s_axi_rvalid)
    await reading


@cocotb.test()
async def partial_beats(dut) -> None:
    """Beats without all bytes are dropped, counted, and told; those without any are only counted."""
    bench = await start(dut)
    rng, size = bench.rng, bench.unit_bytes
    bench.pause(0.0, 0.5)
    for kind in ("null", "partial"):
        await bench.write("interrupt_status", mask_of("interrupt_status"))
        stream, dropped = bench.frame(5), await bench.read("rx_dropped")
        for at in range(0, len(stream), size):
            keep = [0] * size if kind == "null" else [1] * (size - 1) + [0]
            bench.source.send_nowait(AxiStreamFrame(rng.randbytes(size), tkeep=keep))
            bench.source.send_nowait(AxiStreamFrame(stream[at : at + size]))
        assert bytes((await bench.sink.recv()).tdata) == stream
        assert await bench.read("rx_dropped") == dropped + len(stream) // size
        told = await bench.read("interrupt_status") & mask_of("interrupt_status", "rx_partial")
        assert bool(told) == (kind == "partial")


@cocotb.test()
async def reset_by_software(dut) -> None:
    """What is under way is lost, but the packet that has begun gets an end, and the next frame is whole."""
    bench = await start(dut)
    for stalled in (False, True, True):
        stream, packets = bench.frame(HELD_BY_ECHO_BEATS), await bench.read("tx_packets")
        bench.sink.pause = stalled
        bench.source.send_nowait(AxiStreamFrame(stream[: len(stream) // 2]))
        await bench.until(lambda: common.value(dut.m_axis_tvalid))
        await bench.cycles(HELD_BY_ECHO_BEATS * 2)
        await bench.write("scratch", 0x5A5A)
        await bench.write("control", mask_of("control"))
        await bench.cycles(40)
        assert await bench.read("control") == (mask_of("control") if stalled else 0), "done with the packet open"
        assert bool(await bench.read("status") & mask_of("status", "tx_waits")) == stalled
        bench.sink.pause = False
        cut = bytes((await bench.sink.recv()).tdata)
        assert cut[-bench.unit_bytes :] == bytes(bench.unit_bytes)
        assert stream.startswith(cut[: -bench.unit_bytes]) and len(cut) > bench.unit_bytes
        await bench.until(lambda: bench.source.idle())
        await bench.cycles(40)
        assert (await bench.read("control"), await bench.read("scratch")) == (0, 0x5A5A)
        if not stalled:  # else the rest of the frame has come in, and out as it were frames
            assert await bench.read("tx_packets") == packets + 1
        await bench.write("control", mask_of("control"))  # what has come in since is not a frame's beginning
        await bench.cycles(40)
        bench.sink.clear()
        await bench.echo([bench.frame(4), bench.frame(1)])


@cocotb.test()
async def reset(dut) -> None:
    """In the middle of everything, with valid signals up before and behind it; nothing is left of before."""
    bench = await start(dut)
    await bench.write("interrupt_enable", mask_of("interrupt_enable"))
    await bench.write("scratch", 1)
    await bench.echo([bench.frame(1)])
    bench.sink.pause = True
    bench.source.send_nowait(AxiStreamFrame(bench.frame(HELD_BY_ECHO_BEATS)))
    await bench.cycles(3 * HELD_BY_ECHO_BEATS)
    assert common.value(dut.m_axis_tvalid) and common.value(dut.irq)
    bench.lite.init_write(REGISTERS["scratch"].address, b"\x02")
    await bench.cycles(1)
    await bench.reset(5)
    bench.source.clear()
    dut.s_axis_tvalid.value = dut.s_axi_arvalid.value = 1  # taken only when the device is up
    dut.s_axi_araddr.value, dut.s_axis_tkeep.value = REGISTERS["scratch"].address, 0
    ready = []
    for _ in range(RESET_EDGES + 1):
        await RisingEdge(dut.aclk)
        ready.append((common.value(dut.s_axis_tready), common.value(dut.s_axi_arready)))
    assert ready == [(0, 0)] * RESET_EDGES + [(1, 1)]
    dut.s_axis_tvalid.value = dut.s_axi_arvalid.value = 0
    dut.s_axi_rready.value = 1
    await bench.cycles(3)
    bench.sink.pause = False
    assert not common.value(dut.irq)
    for name in ("scratch", "interrupt_enable", "tx_beats"):
        assert await bench.read(name) == 0
    await bench.echo([bench.frame(2)])
