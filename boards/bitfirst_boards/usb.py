"""The device behind USB at full speed: a serial port of class CDC-ACM, by LUNA's gateware; `UsbTop` on three pins.

USB 2.0: https://www.usb.org/document-library/usb-20-specification; CDC-ACM: the class definition "PSTN" 1.2, 3.2.
"""

import warnings
from dataclasses import replace
from types import SimpleNamespace

from amaranth.hdl import DomainRenamer, Elaboratable, EnableInserter, Module, ResetInserter, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.crossing import ClockCrossing
from bitfirst_hdl.ports import connect_sensors, sensor_pins
from bitfirst_hdl.top import Core

with warnings.catch_warnings():  # it uses what Amaranth 0.6 will not have any more
    warnings.simplefilter("ignore", DeprecationWarning)
    from luna.gateware.usb.devices.acm import ACMRequestHandlers, USBSerialDevice
    from luna.gateware.usb.usb2.device import USBDevice
    from luna.gateware.usb.usb2.endpoints.stream import USBStreamInEndpoint, USBStreamOutEndpoint
    from luna.gateware.usb.usb2.request import StallOnlyRequestHandler
    from usb_protocol.types import USBRequestType

PACKET_BYTES = 64  # the most that bulk endpoints have at full speed
#: pid.codes' numbers for tests: the device is none that can be bought.
VENDOR_ID, PRODUCT_ID = 0x1209, 0x0001


class _Restarted:
    """Mixed into an endpoint of LUNA's: it begins anew, with DATA0, at `restart`.

    USB 2.0, 9.1.1.5 wants that when a configuration is chosen; LUNA's own do so at CLEAR_FEATURE(ENDPOINT_HALT) alone.
    """

    def __init__(self, endpoint_number: int) -> None:
        super().__init__(endpoint_number=endpoint_number, max_packet_size=PACKET_BYTES)
        self.restart = Signal()

    def elaborate(self, platform: object) -> Elaboratable:
        return ResetInserter({"usb": self.restart})(super().elaborate(platform))


# Each of a class of its own: LUNA names endpoints of one class by where Python keeps them, other in each build.
class _DataOut(_Restarted, USBStreamOutEndpoint):
    pass


class _DataIn(_Restarted, USBStreamInEndpoint):
    pass


class _StatusIn(_Restarted, USBStreamInEndpoint):
    pass


class SerialDevice(USBSerialDevice):
    """LUNA's serial device, with descriptors and requests of its, at full speed; `fingerprint` is its serial number.

    A packet leaves as soon as the host asks for one and there is a byte to send, with all that have gathered till then;
    LUNA's own waits for a full packet. Whoever chooses a configuration finds the endpoints as after switching on.
    """

    def __init__(self, bus: SimpleNamespace, fingerprint: int) -> None:
        super().__init__(
            bus=bus,
            idVendor=VENDOR_ID,
            idProduct=PRODUCT_ID,
            manufacturer_string="Bitfirst",
            product_string="Bitfirst",
            serial_number=f"{fingerprint:016x}",
            max_packet_size=PACKET_BYTES,
        )

    def _device(self) -> USBDevice:
        return USBDevice(bus=self._bus, handle_clocking=False)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.usb = usb = self._device()
        control = usb.add_standard_control_endpoint(self.create_descriptors(), avoid_blockram=False)
        control.add_request_handler(ACMRequestHandlers())
        others = (USBRequestType.VENDOR, USBRequestType.RESERVED)
        control.add_request_handler(StallOnlyRequestHandler(lambda setup: setup.type.matches(*others)))
        status = _StatusIn(self._STATUS_ENDPOINT_NUMBER)  # tells nothing, ever
        received, sent = _DataOut(self._DATA_ENDPOINT_NUMBER), _DataIn(self._DATA_ENDPOINT_NUMBER)
        for endpoint in status, received, sent:
            usb.add_endpoint(endpoint)
            m.d.comb += endpoint.restart.eq(control.interface.config_changed)
        m.d.comb += [
            usb.connect.eq(self.connect),
            sent.stream.stream_eq(self.tx),
            sent.flush.eq(1),
            self.rx.stream_eq(received.stream),
        ]
        return m


def connect_core(m: Module, core: Core, serial: SerialDevice, domain: str, tick: Value | int = 1) -> None:
    """The serial device's streams in `domain`, which move when it ticks, with the core's."""
    m.submodules.to_core = to_core = ClockCrossing(8, domain, "sync")
    m.submodules.to_host = to_host = ClockCrossing(8, "sync", domain)
    wiring.connect(m, to_core.sink, core.rx)
    wiring.connect(m, core.tx, to_host.source)
    m.d.comb += [
        to_core.source.payload.eq(serial.rx.payload),
        to_core.source.valid.eq(serial.rx.valid & tick),
        serial.rx.ready.eq(to_core.source.ready),
        serial.tx.payload.eq(to_host.sink.payload),
        serial.tx.valid.eq(to_host.sink.valid),
        to_host.sink.ready.eq(serial.tx.ready & tick),
    ]


class UsbTop(wiring.Component):
    """`Core` behind USB at full speed; `config.link_bits` is taken as 8. Its serial number is the fingerprint.

    d_p, d_n          in(1)  the lines, asynchronous
    d_p_out, d_n_out  out(1) what to put on them
    drive             out(1) whether to
    pullup            out(1) of D+, by which the host sees that something is there
    `ports.SENSOR_PINS` with the feature "power"

    Clock domains: `usb_io`, 48 MHz (four samples a bit), and `sync`, of the core, to and from which bytes cross by
    `ClockCrossing`. LUNA's domain `usb` is `usb_io`, enabled in one of four cycles: one clock, so that paths between
    the two need no care.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.fingerprint = fingerprint
        self.core = Core(replace(config, link_bits=8), fingerprint)
        lines = {"d_p": In(1, init=1), "d_n": In(1), "d_p_out": Out(1), "d_n_out": Out(1)}
        super().__init__(lines | {"drive": Out(1), "pullup": Out(1)} | sensor_pins(config))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        connect_sensors(m, self, self.core)
        names = {"d_p": ("i", "o", "oe"), "d_n": ("i", "o", "oe"), "pullup": ("o",)}
        pins = SimpleNamespace(
            **{
                name: SimpleNamespace(**{part: Signal(name=f"{name}_{part}") for part in parts})
                for name, parts in names.items()
            }
        )
        m.submodules.d_p_in = FFSynchronizer(self.d_p, pins.d_p.i, o_domain="usb_io", init=1)
        m.submodules.d_n_in = FFSynchronizer(self.d_n, pins.d_n.i, o_domain="usb_io")
        m.d.comb += [
            self.d_p_out.eq(pins.d_p.o),
            self.d_n_out.eq(pins.d_n.o),
            self.drive.eq(pins.d_p.oe),
            self.pullup.eq(pins.pullup.o),
        ]
        serial = SerialDevice(pins, self.fingerprint)
        count, tick = Signal(2), Signal()
        m.d.usb_io += count.eq(count + 1)
        m.d.comb += [tick.eq(count == 0), serial.connect.eq(1)]
        slow = EnableInserter({"usb": tick})(serial)
        m.submodules.serial = DomainRenamer({"usb": "usb_io"})(slow)
        connect_core(m, self.core, serial, "usb_io", tick)
        return m
