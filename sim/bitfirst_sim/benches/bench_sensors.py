"""Bench of the simulated sensors: the I2C master of cocotbext-i2c reads and writes them, over wires in Verilog."""

import cocotb
from cocotb.triggers import First, Timer
from cocotb.utils import get_sim_time
from cocotbext.i2c import I2cMaster

from ..sensors import SensorBus, SimulatedRail

KINDS = {"ina226": 0x40, "ina228": 0x41, "ina219": 0x42}
IDENTITIES = {("ina226", 0xFE): 0x5449, ("ina226", 0xFF): 0x2260, ("ina228", 0x3E): 0x5449, ("ina228", 0x3F): 0x2281}


def seconds() -> float:
    return get_sim_time("ps") * 1e-12


async def follow(dut, bus: SensorBus) -> None:
    """Give the wires to the chips, and what they pull back."""
    while True:
        scl, sda = int(dut.scl_o.value), int(dut.sda_o.value)
        dut.chips.value = bus.drive(seconds(), not scl, not sda)[1] or 1 - sda
        await First(dut.scl_o.value_change, dut.sda_o.value_change)


async def start(dut, speed: float = 400e3, **fields: float) -> tuple[SensorBus, I2cMaster]:
    return await attach(dut, [SimulatedRail(kind, address=place, **fields) for kind, place in KINDS.items()], speed)


async def attach(dut, rails: list[SimulatedRail], speed: float = 400e3) -> tuple[SensorBus, I2cMaster]:
    bus = SensorBus(rails)
    dut.chips.value = 1
    master = I2cMaster(dut.sda, dut.sda_o, dut.scl, dut.scl_o, speed)
    await Timer(10, "us")
    cocotb.start_soon(follow(dut, bus))
    return bus, master


async def read(master: I2cMaster, kind: str, register: int, size: int = 2) -> int:
    await master.write(KINDS[kind], bytes([register]))
    value = int.from_bytes(await master.read(KINDS[kind], size), "big")
    await master.send_stop()
    return value


async def write(master: I2cMaster, kind: str, register: int, value: int) -> None:
    await master.write(KINDS[kind], bytes([register, *value.to_bytes(2, "big")]))
    await master.send_stop()


@cocotb.test()
async def test_identities(dut) -> None:
    bus, master = await start(dut)
    for (kind, register), expected in IDENTITIES.items():
        assert await read(master, kind, register) == expected
    assert await read(master, "ina219", 0) == 0x399F
    assert bus.violations == 0


@cocotb.test()
async def test_writes_and_measures(dut) -> None:
    """1 A through 0.1 Ohm; each chip shows what it is worth in its own steps."""
    bus, master = await start(dut)
    for rail in range(len(KINDS)):
        bus.set_watts(seconds(), rail, 0.5 * 4.95)
    for kind, register, value in (("ina226", 5, 0x0800), ("ina228", 2, 0x0800), ("ina219", 5, 0x1000)):
        await write(master, kind, register, value)
        assert await read(master, kind, register) == value
    await Timer(10, "ms")
    assert await read(master, "ina226", 1) == await read(master, "ina226", 4) == 20000
    assert await read(master, "ina228", 4, 3) == 160000 << 4
    assert await read(master, "ina228", 7, 3) == 320000 << 4
    assert await read(master, "ina219", 1) == await read(master, "ina219", 4) == 5000
    assert bus.violations == 0


@cocotb.test()
async def test_regulators(dut) -> None:
    """Of two controllers a page each: words, low byte first, and a block."""
    rails = [SimulatedRail("ucd9248", address=52 + page, supply_volts=1.0 + page, page=page) for page in range(2)]
    bus, master = await attach(dut, rails)
    for rail in range(2):
        bus.set_watts(seconds(), rail, 10.0 * (1 + rail))
    await Timer(30, "ms")
    for page, rail in enumerate(rails):
        for command, byte in ((0x00, page), (0x04, 0xFF)):
            await master.write(rail.address, bytes([command, byte]))
            await master.send_stop()
        for command, expected in (
            (0x8C, (0xD280).to_bytes(2, "little")),  # 10 A
            (0x8B, (0x1000 * (1 + page)).to_bytes(2, "little")),
            (0xFD, b"\x07UCD9248"),
            (0x00, bytes([page])),
        ):
            await master.write(rail.address, bytes([command]))
            assert bytes(await master.read(rail.address, len(expected))) == expected
            await master.send_stop()
    assert bus.violations == 0


@cocotb.test()
async def test_nobody_answers(dut) -> None:
    """An address that none has; chips that are gone."""
    _, master = await start(dut, stops_s=seconds() + 1e-3)
    for address in (0x43, *KINDS.values()):
        assert await acknowledges(master, address) is (address != 0x43)
    await Timer(1, "ms")
    for address in KINDS.values():
        assert not await acknowledges(master, address)


async def acknowledges(master: I2cMaster, address: int) -> bool:
    await master.send_start()
    low = not await master.send_byte(address << 1)
    await master.send_stop()
    return low
