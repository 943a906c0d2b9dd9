"""The device behind USB at full speed, on a PHY with an ULPI bus; its serial port is that of `usb`.

ULPI: UTMI+ Low Pin Interface Specification, revision 1.1.
"""

import warnings
from dataclasses import replace
from types import SimpleNamespace

from amaranth.hdl import DomainRenamer, Module, ResetInserter, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.ports import connect_sensors, sensor_pins
from bitfirst_hdl.top import Core

from .tops import ULPI_HZ
from .usb import SerialDevice, connect_core

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # as in `usb`
    from luna.gateware.interface.ulpi import UTMITranslator
    from luna.gateware.usb.usb2.device import USBDevice
    from luna.gateware.usb.usb2.packet import USBInterpacketTimer

#: After the core's reset: how long the PHY's is held (Microchip's want 1 us), when the bus is used first (a PHY takes
#: up to 5.6 ms to start, ULPI 1.1), and when the host sees the device. USB3300's reset leaves its registers, so a
#: pull-up that the gateware before has left is taken away in between: else the host would go on with that device.
RESET_US, STARTED_US, ATTACHED_US = 10, 10_000, 20_000

# LUNA lets 10 cycles pass from a packet's end, then takes 5 to 9 more to answer. ULPI has 7 to 18 (3.8.2.6), but counts
# from the J behind a packet, which is told 3 or 4 before RxActive ends: the device would be late.
USBInterpacketTimer._FS_RX_TO_TX_DELAY = USBInterpacketTimer._FS_RX_TO_TX_DELAY | {ULPI_HZ: (3, 32)}


class _Translator(UTMITranslator):
    """LUNA's, with a register for the byte that is sent: the PHY wants it 5 to 6 ns before its clock's edge, and what
    makes it takes long.

    LUNA's device has to ask for these signals before the translator is elaborated, and the translator after. A test
    looks for the register in the netlist.
    """

    def elaborate(self, platform: object) -> Module:
        data, valid, ready = self.tx_data, self.tx_valid, self.tx_ready
        self.tx_data, self.tx_valid = Signal(8, name="sent_byte"), Signal(name="sends_byte")
        self.tx_ready = Signal()
        m = super().elaborate(platform)
        m.d.comb += ready.eq(~self.tx_valid | self.tx_ready)
        with m.If(ready):
            m.d.usb += [self.tx_data.eq(data), self.tx_valid.eq(valid)]
        return m


class _Device(SerialDevice):
    def _device(self) -> USBDevice:
        translator = _Translator(ulpi=self._bus, handle_clocking=False)
        device = USBDevice(bus=translator)  # which takes it for a PHY with a bus of its own, at full speed
        device.translator, device.bus_busy, device.data_clock = translator, translator.busy, ULPI_HZ
        return device


class UlpiTop(wiring.Component):
    """`Core` behind USB at full speed on a PHY; `config.link_bits` is taken as 8. Its serial number is the fingerprint.

    data_in, data_out  in(8), out(8)  the bus's lines, and what to put on them
    drive     out(1)  whether to
    dir, nxt  in(1)   of the PHY
    stp       out(1)  to it
    phy_reset out(1)  active high, of `sync`: some give no clock before it ends
    `ports.SENSOR_PINS` with the feature "power"

    Clock domains: `ulpi`, the bus's 60 MHz, with all of LUNA's logic, and `sync`, of the core, to and from which bytes
    cross by `ClockCrossing`.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.fingerprint = fingerprint
        self.core = Core(replace(config, link_bits=8), fingerprint)
        self.times = [-(-us * config.clock_khz // 1000) for us in (RESET_US, STARTED_US, ATTACHED_US)]
        lines = {"data_in": In(8), "data_out": Out(8), "drive": Out(1), "dir": In(1), "nxt": In(1), "stp": Out(1)}
        super().__init__(lines | {"phy_reset": Out(1, init=1)} | sensor_pins(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        connect_sensors(m, self, self.core)
        bus = SimpleNamespace(
            data=SimpleNamespace(i=self.data_in, o=self.data_out, oe=Signal()),  # `oe` would leave no turn-around
            dir=SimpleNamespace(i=self.dir),
            nxt=SimpleNamespace(i=self.nxt),
            stp=SimpleNamespace(o=self.stp),
        )
        serial = _Device(bus, self.fingerprint)
        waits, attached, turned = Signal(), Signal(), Signal(init=1)
        self._start(m, waits, attached)
        m.d.ulpi += turned.eq(self.dir)
        m.d.comb += [serial.connect.eq(attached), self.drive.eq(~self.dir & ~turned)]
        m.submodules.serial = DomainRenamer({"usb": "ulpi"})(ResetInserter({"usb": waits})(serial))
        connect_core(m, self.core, serial, "ulpi")
        return m

    def _start(self, m: Module, waits: Signal, attached: Signal) -> None:
        """Resets the PHY; both signals are of `ulpi`, which may have no clock before that."""
        reset, started, seen = self.times
        passed, waiting, there = Signal(range(seen + 1)), Signal(init=1), Signal()
        with m.If(passed != seen):
            m.d.sync += passed.eq(passed + 1)
        m.d.sync += [self.phy_reset.eq(passed < reset), waiting.eq(passed < started), there.eq(passed == seen)]
        m.submodules.waits = FFSynchronizer(waiting, waits, o_domain="ulpi", init=1)
        m.submodules.attached = FFSynchronizer(there, attached, o_domain="ulpi")
