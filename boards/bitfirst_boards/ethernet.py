"""The device behind gigabit Ethernet: datagrams of UDP through LiteEth's core, which is Verilog, on RGMII."""

from dataclasses import replace

from amaranth.hdl import ClockSignal, DomainRenamer, Instance, Module, ResetSignal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.datagrams import PORT
from bitfirst_hdl.crossing import cross
from bitfirst_hdl.datagrams import WORD_BITS, DatagramLink
from bitfirst_hdl.ports import connect_sensors, sensor_pins
from bitfirst_hdl.top import Core

from . import liteeth_core


class EthernetTop(wiring.Component):
    """`Core` behind RGMII; `config.link_bits` is taken as 32. ARP and ping are answered, too, by LiteEth's core.

    family   of the chip, in `liteeth_core.FAMILIES`
    verilog  what `liteeth_core.generate` gave for it, which has to be added to that of this component

    rx_clk                    in(1)  125 MHz, which the PHY received; what is sent goes with it as well
    rx_ctl, rx_data           in(1), in(4)   both of its edges
    tx_clk, tx_ctl, tx_data   out(1), out(1), out(4)
    `ports.SENSOR_PINS` with the feature "power"

    Clock domains: `ethernet`, `liteeth_core.CLOCK_HZ`, and `sync`, of the core, to and from which words cross by
    `ClockCrossing`; with `xc7` also `delay`, 200 MHz, by which its delays of pins are measured. LiteEth's core crosses
    to and from `rx_clk` itself.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int, verilog: str, family: str = "ecp5") -> None:
        self.verilog = verilog
        self.family = family
        self.core = Core(replace(config, link_bits=WORD_BITS), fingerprint)
        received = {"rx_clk": In(1), "rx_ctl": In(1), "rx_data": In(4)}
        sent = {"tx_clk": Out(1), "tx_ctl": Out(1), "tx_data": Out(4)}
        super().__init__(received | sent | sensor_pins(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        connect_sensors(m, self, self.core)
        link = DatagramLink()
        m.submodules.link = DomainRenamer("ethernet")(link)
        cross(m, link.rx, self.core.rx, "ethernet", "sync")
        cross(m, self.core.tx, link.tx, "sync", "ethernet")
        if self.family == "xc7":
            m.submodules.delays = Instance("IDELAYCTRL", i_REFCLK=ClockSignal("delay"), i_RST=ResetSignal("delay"))
        received, sent = link.received.payload, link.sent.payload
        m.submodules.udp = Instance(
            liteeth_core.NAME,
            i_sys_clock=ClockSignal("ethernet"),
            i_sys_reset=ResetSignal("ethernet"),
            o_link_source_valid=link.received.valid,
            i_link_source_ready=link.received.ready,
            o_link_source_data=received.word,
            o_link_source_last=received.last,
            o_link_source_error=received.error,
            o_link_source_length=received.length,
            o_link_source_ip_address=received.peer.address,
            o_link_source_src_port=received.peer.port,
            i_link_sink_valid=link.sent.valid,
            o_link_sink_ready=link.sent.ready,
            i_link_sink_data=sent.word,
            i_link_sink_last=sent.last,
            i_link_sink_last_be=sent.last << (WORD_BITS // 8 - 1),
            i_link_sink_length=sent.length,
            i_link_sink_ip_address=sent.peer.address,
            i_link_sink_dst_port=sent.peer.port,
            i_link_sink_src_port=PORT,
            i_rgmii_clocks_rx=self.rx_clk,
            i_rgmii_rx_ctl=self.rx_ctl,
            i_rgmii_rx_data=self.rx_data,
            o_rgmii_clocks_tx=self.tx_clk,
            o_rgmii_tx_ctl=self.tx_ctl,
            o_rgmii_tx_data=self.tx_data,
        )
        return m
