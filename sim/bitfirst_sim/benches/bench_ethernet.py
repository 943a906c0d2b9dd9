"""Bench of `bitfirst_boards.ethernet.EthernetTop`: the whole device on RGMII, with a host on its pins.

Nobody here wrote the host's wire and packets: RGMII, preambles and frame check sequences are cocotbext-eth's; ARP, IP,
ICMP and UDP are scapy's.
"""

import logging
import random
from collections.abc import Callable

import cocotb
from bitfirst_hdl.contract import datagrams
from bitfirst_hdl.contract.packets import Opcode
from cocotb.clock import Clock
from cocotb.triggers import Timer
from cocotbext.eth import GmiiFrame, RgmiiPhy
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from . import common
from .bench_frames import FrameReader
from .bench_uart import LineBench, product

HEAD_BYTES, WORD_BYTES = 8, 4
HOST_MAC, HOST_ADDRESS, HOST_PORT = "52:54:00:12:34:56", "192.168.1.7", 40_001
EVERYONE = "ff:ff:ff:ff:ff:ff"
WHO_HAS, IS_AT = 1, 2
ETHERNET_PERIOD_PS, ARRAY_PERIOD_PS = 13_334, 20_000
PREAMBLE = bytes(
    [0x55] * 6 + [0xD5]
)  # one byte less than is sent: the first one's edge comes with the clock's, undelayed
FAR = 1_000  # a number that makes all others late, were it taken
LIMIT_CYCLES = 4_000  # of the ethernet's clock, 53 us, for one answer


class Host:
    """On the device's pins. It answers to ARP. Datagrams of the link go to `reader`; what else it hears, it keeps."""

    def __init__(self, dut) -> None:
        parameters = common.parameters()
        self.dut = dut
        self.mac, self.address = parameters["mac"], parameters["address"]
        self.phy = RgmiiPhy(dut.tx_data, dut.tx_ctl, dut.tx_clk, dut.rx_data, dut.rx_ctl, dut.rx_clk)
        for end in self.phy.tx, self.phy.rx:
            end.log.setLevel(logging.WARNING)
        self.reader = FrameReader(unit_bytes=WORD_BYTES)
        self.number = 0
        self.heads: list[tuple[int, int, int]] = []  # number, taken, bytes
        self.questions: list[ARP] = []
        self.answers: list[ARP] = []
        self.echoes: list[ICMP] = []

    def listen(self) -> None:
        """From now on; what the device was still sending is not heard."""
        self.phy.tx.clear()
        cocotb.start_soon(self._hear())

    def put(self, packet: Packet, damaged: bool = False) -> None:
        frame = GmiiFrame.from_payload(bytes(packet))
        if damaged:
            frame.data[-1] ^= 0x10
        self.phy.rx.send_nowait(frame)

    def ask_for_mac(self) -> None:
        """As a host does before it sends."""
        self.put(Ether(src=HOST_MAC, dst=EVERYONE) / self._arp(WHO_HAS, EVERYONE))

    def datagram(self, data: bytes, damaged: bool = False, **other: str | int) -> None:
        """`other`: than the device's own `mac`, `address` or `port`."""
        ends = {"mac": self.mac, "address": self.address, "port": datagrams.PORT} | other
        to = Ether(src=HOST_MAC, dst=ends["mac"]) / IP(src=HOST_ADDRESS, dst=ends["address"])
        self.put(to / UDP(sport=HOST_PORT, dport=ends["port"]) / Raw(data), damaged)

    async def send(self, stream: bytes) -> None:
        for start in range(0, len(stream), datagrams.MAX_BYTES):
            self.number += 1
            self.datagram(self.number.to_bytes(HEAD_BYTES, "little") + stream[start : start + datagrams.MAX_BYTES])
        await self.phy.rx.wait()

    async def until(self, condition: Callable[[], object]) -> None:
        await common.until(self.dut, condition, LIMIT_CYCLES)

    async def ask(self) -> tuple[int, int]:
        """Numbers of the last datagram sent and taken, as the device tells them."""
        count = len(self.heads)
        self.datagram(bytes(HEAD_BYTES))
        await self.until(lambda: len(self.heads) > count)
        number, taken, size = self.heads[-1]
        assert size == 0
        return number, taken

    def _arp(self, operation: int, mac: str) -> ARP:
        return ARP(op=operation, hwsrc=HOST_MAC, psrc=HOST_ADDRESS, hwdst=mac, pdst=self.address)

    async def _hear(self) -> None:
        while True:
            frame = await self.phy.tx.recv()
            assert frame.error is None and frame.data.startswith(PREAMBLE)
            assert frame.check_fcs() and len(frame.data) >= len(PREAMBLE) + 64
            packet = Ether(bytes(frame.get_payload()))
            assert packet.src == self.mac
            if IP in packet:
                self._check(packet)
            if UDP in packet:
                self._take(packet)
            elif ICMP in packet:
                self.echoes.append(packet[ICMP])
            elif packet[ARP].op == IS_AT:
                assert packet.dst == HOST_MAC
                self.answers.append(packet[ARP])
            else:
                assert packet.dst == EVERYONE and packet[ARP].pdst == HOST_ADDRESS
                self.questions.append(packet[ARP])
                self.put(Ether(src=HOST_MAC, dst=self.mac) / self._arp(IS_AT, self.mac))

    def _check(self, packet: Packet) -> None:
        """Addresses and lengths, and IP's checksum as scapy makes it."""
        head = packet[IP]
        assert (packet.dst, head.src, head.dst) == (HOST_MAC, self.address, HOST_ADDRESS)
        again = head.copy()
        del again.chksum
        assert IP(bytes(again)).chksum == head.chksum

    def _take(self, packet: Packet) -> None:
        head = packet[UDP]
        assert (head.sport, head.dport) == (datagrams.PORT, HOST_PORT)
        data = bytes(head.payload)[: head.len - 8]  # without Ethernet's padding
        words = [int.from_bytes(data[at : at + WORD_BYTES], "little") for at in range(0, len(data), WORD_BYTES)]
        assert packet[IP].len == 28 + len(data) and len(data) % WORD_BYTES == 0
        self.heads.append((words[0], words[1], len(data) - HEAD_BYTES))
        for word in words[2:]:
            self.reader.unit(word)


async def start(dut) -> tuple[LineBench, Host]:
    Clock(dut.clk, ETHERNET_PERIOD_PS, unit="ps").start(start_high=False)
    Clock(dut.array_clk, ARRAY_PERIOD_PS, unit="ps").start(start_high=False)
    dut.rst.value = dut.array_rst.value = 1
    host = Host(dut)
    await Timer(2, "us")
    host.listen()
    dut.rst.value = dut.array_rst.value = 0
    await Timer(500, "ns")
    return LineBench(dut, random.Random(cocotb.RANDOM_SEED), host, byte_cycles=100), host


@cocotb.test()
async def network(dut) -> None:
    """ARP, ping, the numbers, then a product: each datagram is the next one, and tells what was taken."""
    bench, host = await start(dut)
    host.ask_for_mac()
    await host.until(lambda: host.answers)
    (arp,) = host.answers
    assert (arp.hwsrc, arp.psrc, arp.hwdst, arp.pdst) == (host.mac, host.address, HOST_MAC, HOST_ADDRESS)
    echo = ICMP(id=7, seq=3) / Raw(bytes(range(56)))
    host.put(Ether(src=HOST_MAC, dst=host.mac) / IP(src=HOST_ADDRESS, dst=host.address) / echo)
    await host.until(lambda: host.echoes)
    (answer,) = host.echoes
    assert (answer.type, answer.id, answer.seq, bytes(answer.payload)) == (0, 7, 3, bytes(range(56)))
    assert await host.ask() == (0, 0)
    await product(bench)
    heads = host.heads[1:]
    assert [number for number, *_ in heads] == list(range(1, len(heads) + 1))
    assert heads[-1][1] == host.number and all(size > 0 for *_, size in heads)
    assert len(host.questions) == 1  # it remembers the answer


@cocotb.test()
async def not_for_it(dut) -> None:
    """What is for another device, which a switch may pass to all, for all, or for another port, does not count."""
    bench, host = await start(dut)
    data = FAR.to_bytes(HEAD_BYTES, "little") + bytes(64)
    host.datagram(data, mac="02:b1:7f:a8:01:33", address="192.168.1.51")
    host.datagram(data, mac=EVERYONE, address="192.168.1.255")
    host.datagram(data, port=datagrams.PORT + 1)
    await host.phy.rx.wait()
    assert await host.ask() == (0, 0)
    await bench.call(Opcode.PING, token=1)
    assert await host.ask() == (1, host.number)


@cocotb.test()
async def damaged(dut) -> None:
    """A datagram that is damaged does not count as taken; those after it are."""
    bench, host = await start(dut)
    host.datagram(FAR.to_bytes(HEAD_BYTES, "little") + bytes(64), damaged=True)
    await host.phy.rx.wait()
    assert await host.ask() == (0, 0)
    await bench.call(Opcode.PING, token=1)
    assert await host.ask() == (1, host.number)
