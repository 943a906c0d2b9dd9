"""Bench of `bitfirst_boards.usb.UsbTop`: the whole device on a bus, with a host on its pins."""

import cocotb
from bitfirst_hdl.contract.packets import Opcode, Space
from bitfirst_hdl.contract.registers import IDENTITY_WORDS

from . import common
from .bench_uart import LineBench, product, start_array
from .usb_host import IN, INTERFACE, OUT, PACKET_BYTES, Bus, Faults, Host

BYTE_CYCLES = 48 * 16  # far more than USB takes, packets that are repeated included
#: From a packet's end to the answer. USB 2.0 has 6.5 (7.1.18.1), LUNA's PHY is slower; hosts wait for 16 (7.1.19.1).
SLOWEST_BITS = 14
CLASSES = [2, 10]  # of the two interfaces: communication, data


async def start(dut, **faults: float) -> LineBench:
    rng = await common.start(dut, d_p=1)
    await start_array(dut, common.PERIOD_STEPS, "step")
    host = Host(Bus(dut), Faults(rng, **faults))
    await host.enumerate()
    host.start()
    return LineBench(dut, rng, host, BYTE_CYCLES)


async def clean(bench: LineBench) -> None:
    """What the device tells of itself, then a product."""
    host = bench.pins
    assert host.device[8:12].hex() == "09120100" and host.configuration[4] == 2
    assert [part[5] for part in host.parts(INTERFACE)] == CLASSES
    assert [host.strings[number] for number in host.device[14:17]] == [
        "Bitfirst",
        "Bitfirst",
        f"{common.parameters()['fingerprint']:016x}",
    ]
    await product(bench)
    assert max(host.packets) == PACKET_BYTES


async def faulty(bench: LineBench) -> None:
    """Packets damaged and lost, both ways; the device's streams notice nothing."""
    await product(bench)
    for token in range(8):
        await bench.call(Opcode.PING, token=token)
    assert all(bench.pins.faults.count[name] > 0 for name in ("damaged_out", "lost_answer", "damaged_in", "lost_ack"))


async def again(bench: LineBench) -> None:
    """Another host after an odd number of packets each way: it begins anew, and nothing is lost."""
    host = bench.pins
    for number in range(4 * IDENTITY_WORDS):  # answers of many sizes, and so numbers of packets
        await bench.call(Opcode.READ, space=Space.REGISTERS, first=0, count=1 + number % IDENTITY_WORDS)
        if all(host.toggles[way, host.data] for way in (OUT, IN)):
            break
    else:
        raise AssertionError("there never were odd numbers")
    host.task.cancel()
    await host.enumerate()
    host.start()
    await product(bench)
    assert host.naks == 0


@cocotb.test()
async def clean_bus(dut) -> None:
    """It answers before a host gives up."""
    bench = await start(dut)
    await clean(bench)
    assert bench.pins.bus.slowest_bits < SLOWEST_BITS, bench.pins.bus.slowest_bits


@cocotb.test()
async def faulty_bus(dut) -> None:
    await faulty(await start(dut, damaged_out=0.25, lost_answer=0.25, damaged_in=0.25, lost_ack=0.25))


@cocotb.test()
async def enumerated_again(dut) -> None:
    await again(await start(dut))
