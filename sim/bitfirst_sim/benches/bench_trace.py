"""Bench of `bitfirst_hdl.trace.Trace`: records, answers to knocks, and the watchdog's cycles. Parameter: its limit."""

import cocotb
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.packets import TRACE_RECORDS, Opcode, Status, TraceRecord, TraceState
from bitfirst_hdl.frames import Reply
from cocotb.triggers import RisingEdge

from . import common
from .common import StreamMonitor

LEAST_CYCLES = 9  # from command to command


class TraceBench:
    """Commands and faults in, answers out."""

    def __init__(self, dut, rng, stall: float = 0.0) -> None:
        self.dut, self.rng = dut, rng
        self.replies = StreamMonitor(dut, "replies", rng, stall, decode=lambda word: common.unpack(Reply, word))
        self.words = StreamMonitor(dut, "data", rng, stall)
        self.wanted: list[tuple[int, int, int]] = []  # opcode, status, sequence
        self.number = 0

    async def command(self, fault: int | None = None) -> None:
        """One command; a fault `fault` cycles behind it."""
        dut, opcode, status = self.dut, self.rng.randrange(1, 13), self.rng.randrange(8)
        self.number += 1
        dut.at_hand.value = common.pack(Reply, opcode=opcode, status=status, sequence=self.number)
        self.wanted.append((opcode, status, self.number))
        for cycle in range(LEAST_CYCLES):
            dut.command.value = int(cycle == 0)
            dut.fault.value = int(cycle == fault)
            await RisingEdge(dut.clk)
        dut.command.value = dut.fault.value = 0
        if fault is not None:
            self.wanted.append((Opcode.LINK, Status.BAD_FRAME, 0xFA17))

    async def knock(self, token: int) -> None:
        self.dut.knock.value, self.dut.token.value = 1, token
        await RisingEdge(self.dut.clk)
        self.dut.knock.value = 0

    async def ask(self, status: Status = Status.OK) -> list[tuple[int, int, int]]:
        """What the trace answers, without cycles, which must rise."""
        token, replies, words = self.rng.getrandbits(16), len(self.replies.taken), len(self.words.taken)
        await self.knock(token)
        await common.until(self.dut, lambda: len(self.replies.taken) > replies, 1000)
        reply = self.replies.taken[-1][1]
        assert (reply["opcode"], reply["status"], reply["sequence"]) == (Opcode.TRACE, status, token)
        await common.until(self.dut, lambda: len(self.words.taken) == words + reply["words"], 2000)
        await common.cycles(self.dut, 5)
        assert len(self.words.taken) == words + reply["words"]
        answer = [word for _, word in self.words.taken[words:]]
        state = common.unpack(TraceState, answer[0])
        records = [common.unpack(TraceRecord, word) for word in answer[1:]]
        cycles = [record["cycle"] for record in records]
        assert cycles == sorted(cycles) and all(cycle <= state["cycle"] for cycle in cycles)
        assert len(set(cycles)) == len(cycles)
        return [(record["opcode"], record["status"], record["sequence"]) for record in records]


async def start(dut, stall: float = 0.0, idle: int = 1) -> TraceBench:
    quiet = {"command": 0, "fault": 0, "advances": 0, "held": 0, "at_work": 0, "knock": 0, "idle": idle}
    rng = await common.start(dut, fault_status=Status.BAD_FRAME, fault_sequence=0xFA17, **quiet)
    return TraceBench(dut, rng, stall)


@cocotb.test()
async def first_records(dut) -> None:
    """From power-up on, before all places are filled; with a fault in each cycle that it may come in."""
    bench = await start(dut)
    assert await bench.ask() == []
    for fault in (None, *range(1, LEAST_CYCLES - 1), None):
        await bench.command(fault)
        assert await bench.ask() == bench.wanted


@cocotb.test()
async def last_records(dut) -> None:
    """More than there is room for, read haltingly."""
    bench = await start(dut, stall=0.6)
    for _ in range(TRACE_RECORDS + 20):
        await bench.command(bench.rng.choice((None, 3)))
    assert await bench.ask() == bench.wanted[-TRACE_RECORDS:]


@cocotb.test()
async def records_outlive_resets(dut) -> None:
    bench = await start(dut)
    for _ in range(TRACE_RECORDS):
        await bench.command()
    dut.rst.value = 1
    await common.cycles(dut, 3)
    dut.rst.value = 0
    await bench.command()
    assert await bench.ask() == bench.wanted[-TRACE_RECORDS:]


@cocotb.test()
async def watchdog(dut) -> None:
    """It barks once, after as many cycles as it is told, of those that count; progress takes it back."""
    limit = common.parameters()["watchdog_cycles"]
    bench = await start(dut)
    await bench.command()
    for held in (0, 25):
        dut.idle.value, dut.advances.value, dut.held.value = 0, 1, 0
        await RisingEdge(dut.clk)
        dut.advances.value = 0
        await common.cycles(dut, 10)
        dut.held.value = int(held > 0)
        await common.cycles(dut, held)
        dut.held.value = 0
        await common.cycles(dut, limit - 10)
        assert not common.value(dut.stuck)
        await common.cycles(dut, 1)
        assert common.value(dut.stuck)
        await common.cycles(dut, 3 * limit)
        bench.wanted.append((*bench.wanted[0][:1], Status.STUCK, bench.number))
        told = [reply for _, reply in bench.replies.taken if reply["opcode"] == Opcode.LINK]
        assert told and all(reply["status"] == Status.STUCK and reply["words"] == 0 for reply in told)
        assert len(told) == len(bench.wanted) - 1 and told[-1]["sequence"] == bench.number
        assert (await bench.ask(Status.STUCK))[-len(bench.wanted) :] == bench.wanted
        assert common.value(dut.stuck)
    dut.advances.value = 1
    await common.cycles(dut, 2)
    assert not common.value(dut.stuck)
    assert (await bench.ask())[-len(bench.wanted) :] == bench.wanted


@cocotb.test()
async def many_knocks(dut) -> None:
    """Knocks during an answer get one more; records that come meanwhile are told by their cycles."""
    bench = await start(dut, stall=0.5)
    for _ in range(TRACE_RECORDS):
        await bench.command()
    known = list(bench.wanted)
    await bench.knock(1)
    await common.until(dut, lambda: len(bench.words.taken) == 1, 100)
    for token in (2, 3):
        await bench.knock(token)
    await bench.command()
    await common.until(dut, lambda: len(bench.words.taken) == 2 * (1 + TRACE_RECORDS), 2000)
    assert [reply["sequence"] for _, reply in bench.replies.taken] == [1, 3]
    state, *words = (word for _, word in bench.words.taken[: 1 + TRACE_RECORDS])
    cycle = common.unpack(TraceState, state)["cycle"]
    records = [common.unpack(TraceRecord, word) for word in words]
    old = [record for record in records if record["cycle"] <= cycle]
    assert len(old) >= TRACE_RECORDS - 1
    assert [(record["opcode"], record["status"], record["sequence"]) for record in old] == known[-len(old) :]
    assert len(records) == packets.TRACE_RECORDS
