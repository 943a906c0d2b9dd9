"""A device on a board: its clocks and its pins."""

from typing import Any

from amaranth.build import Platform, Resource
from amaranth.hdl import (
    ClockDomain,
    ClockSignal,
    Elaboratable,
    Instance,
    IOBufferInstance,
    Module,
    ResetSignal,
    Signal,
)
from amaranth.lib import io
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.vendor import GowinPlatform, XilinxPlatform
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.top import UartTop

from . import converter, liteeth_core
from .catalogue import BOARDS, Board
from .clocking import MHZ, ClockedByPll, Setting, choose, pll_of
from .errors import FlowError

BAUD_TOLERANCE = 0.01  # of the link, either way; a frame of ten bits bears a few per cent in both ends together

#: Clocks that links have besides the array's: domain, hertz, ppm that it may be off. USB at full speed may be 2500 ppm
#: off (USB 2.0, 7.1.11), of which 500 are left to the oscillator. A PHY on ULPI gives its clock itself.
LINK_CLOCKS = {"usb": ("usb_io", 48 * MHZ, 2_000), "udp": ("ethernet", liteeth_core.CLOCK_HZ, 1)}
RESOURCES = {"uart": ("uart",), "usb": ("usb", "ulpi"), "udp": ("eth_rgmii",)}  #: of the platforms, whichever is there
RGMII_HZ, ULPI_HZ = 125 * MHZ, 60 * MHZ
DELAY_HZ = 200 * MHZ  # of IDELAYCTRL, for which LiteEth's delays are worked out
ULPI_CLOCK = "ulpi_clock"  #: name of its constraint
ULPI_CONSTRAINT = "ulpi.sdc"  #: file beside the top's, for tools that get none from Amaranth
CONVERTER = f"{converter.NAME}.v"  #: file beside the top's


def resource_of(board: Board) -> Resource:
    """The one of the board's link, in its platform."""
    return next(
        resource
        for resource in board.platform.resources
        if resource.name in RESOURCES[board.link] and not resource.number
    )


def has_phy(board: Board) -> bool:
    """Whether its link is USB behind a PHY on ULPI, not on three pins."""
    return board.link == "usb" and any(part.name == "nxt" for part in resource_of(board).ios)


def make_device(board: Board, config: ArrayConfig, fingerprint: int) -> Elaboratable:
    """The whole device with the ports of the board's link, and of its sensors where the configuration has them."""
    if has_phy(board):
        from .ulpi import UlpiTop  # needs LUNA, which other links do not

        return UlpiTop(config, fingerprint)
    if board.link == "usb":
        from .usb import UsbTop

        return UsbTop(config, fingerprint)
    if board.link == "udp":
        from .ethernet import EthernetTop

        assert board.rgmii_ns is not None
        family = "xc7" if issubclass(board.platform, XilinxPlatform) else "ecp5"
        core = liteeth_core.generate(board.network, *board.rgmii_ns, family)
        return EthernetTop(config, fingerprint, core, family)
    return UartTop(config, fingerprint, divisor(board))


class Pinned(Elaboratable):
    """A device on the pins of a board's link, in the board's clock; USB and Ethernet have a clock of their own as well.

    device  with the ports of `UartTop`, of `usb.UsbTop`, of `ulpi.UlpiTop`, or of `ethernet.EthernetTop`; with those of
            sensors or without
    """

    def __init__(self, board: Board, device: Elaboratable) -> None:
        self.board = board
        self.device = device

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        drive_clocks(m, self.board, platform)
        m.submodules.device = self.device
        usb = self._ulpi if has_phy(self.board) else self._usb
        connect = {"uart": self._uart, "usb": usb, "udp": self._ethernet}
        connect[self.board.link](m, pins_of(self.board, platform), platform)
        if hasattr(self.device, "scl_low"):
            self._sensors(m, sensor_pins(self.board, platform))
        if hasattr(self.device, "drp_enable"):
            self._converter(m, sensor_pins(self.board, platform), platform)
        return m

    def _converter(self, m: Module, pins: Any, platform: Platform) -> None:
        """That of the chip, and the pins that it sees."""
        device, inputs = self.device, [name for name in vars(pins) if name.startswith("ad")]
        text = converter.verilog([int(name.removeprefix("ad")) for name in inputs], self.board.clock_khz)
        platform.add_file(CONVERTER, text)
        ports = {f"i_{name}_p": getattr(pins, name).p for name in inputs}
        ports |= {f"i_{name}_n": getattr(pins, name).n for name in inputs}
        m.submodules.converter = Instance(
            converter.NAME,
            i_clk=ClockSignal(),
            i_enable=device.drp_enable,
            i_write=device.drp_write,
            i_address=device.drp_address,
            i_written=device.drp_written,
            o_read=device.drp_read,
            o_ready=device.drp_ready,
            o_ended=device.sequence_ended,
            **ports,
        )

    def _sensors(self, m: Module, pins: Any) -> None:
        """Two wires that are pulled low, or let go."""
        for name in "scl", "sda":
            m.submodules[f"{name}_pin"] = pin = io.Buffer("io", getattr(pins, name))
            m.d.comb += [
                getattr(self.device, f"{name}_i").eq(pin.i),
                pin.o.eq(0),
                pin.oe.eq(getattr(self.device, f"{name}_low")),
            ]

    def _uart(self, m: Module, pins: Any, platform: Platform) -> None:
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.d.comb += [self.device.rx_pin.eq(rx.i), tx.o.eq(self.device.tx_pin)]

    def _usb(self, m: Module, pins: Any, platform: Platform) -> None:
        device = self.device
        m.submodules.d_p = d_p = io.Buffer("io", pins.d_p)
        m.submodules.d_n = d_n = io.Buffer("io", pins.d_n)
        m.submodules.pullup = pullup = io.Buffer("o", pins.pullup)
        m.d.comb += [
            device.d_p.eq(d_p.i),
            device.d_n.eq(d_n.i),
            d_p.o.eq(device.d_p_out),
            d_n.o.eq(device.d_n_out),
            d_p.oe.eq(device.drive),
            d_n.oe.eq(device.drive),
            pullup.o.eq(device.pullup),
        ]

    def _ulpi(self, m: Module, pins: Any, platform: Platform) -> None:
        """The PHY's clock is the link's, which is reset with the device."""
        device = self.device
        for name in "dir", "nxt", "clk":
            m.submodules[f"{name}_pin"] = io.Buffer("i", getattr(pins, name))
        for name in "stp", "rst":
            m.submodules[f"{name}_pin"] = io.Buffer("o", getattr(pins, name))
        m.submodules.data_pins = data = io.Buffer("io", pins.data)
        received = Signal(name=ULPI_CLOCK, attrs={"keep": "true"})
        platform.add_clock_constraint(received, ULPI_HZ)
        if isinstance(platform, GowinPlatform):
            period_ns = 10**9 / ULPI_HZ
            text = f"create_clock -name {ULPI_CLOCK} -period {period_ns:.3f} [get_nets {ULPI_CLOCK}]\n"
            platform.add_file(ULPI_CONSTRAINT, text)
        m.domains += ClockDomain("ulpi")
        m.submodules.ulpi_reset = ResetSynchronizer(ResetSignal("sync", allow_reset_less=True), domain="ulpi")
        m.d.comb += [
            received.eq(m.submodules.clk_pin.i),
            device.dir.eq(m.submodules.dir_pin.i),
            device.nxt.eq(m.submodules.nxt_pin.i),
            m.submodules.stp_pin.o.eq(device.stp),
            m.submodules.rst_pin.o.eq(device.phy_reset),
            device.data_in.eq(data.i),
            data.o.eq(device.data_out),
            data.oe.eq(device.drive),
        ]
        if isinstance(platform, XilinxPlatform):
            m.submodules.clock_buffer = Instance("BUFG", i_I=received, o_O=ClockSignal("ulpi"))
        else:
            m.d.comb += ClockSignal("ulpi").eq(received)

    def _ethernet(self, m: Module, pins: Any, platform: Platform) -> None:
        """The PHY is out of reset, and its registers are left alone."""
        device = self.device
        platform.add_file(f"{liteeth_core.NAME}.v", device.verilog)
        control = "ctl" if hasattr(pins, "rx_ctl") else "ctrl"  # boards differ
        names = {"clk": "clk", "ctl": control, "data": "data"}
        ports = {port: (getattr(pins, f"rx_{name}"), getattr(pins, f"tx_{name}")) for port, name in names.items()}
        if device.family == "xc7":  # whose core has the buffers
            platform.add_clock_constraint(pins.rx_clk.io, RGMII_HZ)
            for port, (rx, tx) in ports.items():
                m.submodules += IOBufferInstance(rx.io, i=getattr(device, f"rx_{port}"))
                m.submodules += IOBufferInstance(tx.io, o=getattr(device, f"tx_{port}"))
        else:
            self._rgmii_buffers(m, ports, platform)
        m.submodules.reset_pin = reset = io.Buffer("o", pins.rst)
        m.d.comb += reset.o.eq(0)

    def _rgmii_buffers(self, m: Module, ports: dict[str, tuple[Any, Any]], platform: Platform) -> None:
        """Between the device and pins that receive and send."""
        receive_clock = Signal(attrs={"keep": "true"})
        platform.add_clock_constraint(receive_clock, RGMII_HZ)
        for port, (rx, tx) in ports.items():
            m.submodules[f"rx_{port}"] = received = io.Buffer("i", rx)
            m.submodules[f"tx_{port}"] = sent = io.Buffer("o", tx)
            m.d.comb += sent.o.eq(getattr(self.device, f"tx_{port}"))
            if port == "clk":
                m.d.comb += [receive_clock.eq(received.i), self.device.rx_clk.eq(receive_clock)]
            else:
                m.d.comb += getattr(self.device, f"rx_{port}").eq(received.i)


def pins_of(board: Board, platform: Platform) -> Any:
    """The ports of the board's link, requested from its platform."""
    resource = resource_of(board)
    return platform.request(resource.name, resource.number, dir={pin.name: "-" for pin in resource.ios})


def sensor_pins(board: Board, platform: Platform) -> Any:
    """The ports of the board's sensors, requested from its platform."""
    resource = board.sensors.resource
    platform.add_resources([resource])
    return platform.request(resource.name, resource.number, dir={pin.name: "-" for pin in resource.ios})


def divisor(board: Board) -> int:
    """Clock cycles in a bit of a serial link. Raises `FlowError` where no whole number of them comes near enough."""
    wanted = board.clock_khz * 1000 / board.baud
    cycles = round(wanted)
    if abs(cycles - wanted) > BAUD_TOLERANCE * wanted:
        raise FlowError(
            f"{board.clock_khz} kHz makes no {board.baud} baud; choose a --clock-khz that is a multiple of it"
        )
    return cycles


def check_sensors(board: Board, config: ArrayConfig) -> None:
    """Raises `FlowError` where the configuration has sensors, and the board no pins for them."""
    if config.measures and board.sensors is not None and config.sensor_bus != board.sensors.bus:
        two = "two pins for sensors, of I2C or PMBus"
        have = {"i2c": two, "pmbus": two, "xadc": "its sensors at the converter in the chip"}[board.sensors.bus]
        if not {config.sensor_bus, board.sensors.bus} <= {"i2c", "pmbus"}:
            raise FlowError(f"feature {config.sensor_bus}: {board.name} has {have}; leave it out of features")
    if config.measures and board.sensors is None:
        others = ", ".join(other.name for other in BOARDS.values() if other.sensors)
        raise FlowError(f"{board.name} has no pins for sensors: leave feature power out, or take one of {others}")


def check(board: Board) -> None:
    """Raises `FlowError` where the board cannot have its clocks, or its link at that of the array."""
    if board.link == "uart":
        divisor(board)
    if board.link != "axi":
        clock_settings(board, board.platform())


def clock_settings(board: Board, platform: Platform) -> dict[str, Setting]:
    """Of the PLLs, by the clock domain that each drives; none for `sync` where the board's oscillator drives it.

    Raises `ClockError` where a PLL cannot make its clock.
    """
    oscillator_hz, wanted_hz = int(platform.default_clk_frequency), board.clock_khz * 1000
    if board.link in LINK_CLOCKS and not has_phy(board):
        pll = pll_of(platform)
        domain, link_hz, tolerance_ppm = LINK_CLOCKS[board.link]
        settings = {
            "sync": choose(pll, oscillator_hz, wanted_hz),
            domain: choose(pll, oscillator_hz, link_hz, tolerance_ppm),
        }
        if board.link == "udp" and isinstance(platform, XilinxPlatform):
            settings["delay"] = choose(pll, oscillator_hz, DELAY_HZ)
        return settings
    return {} if wanted_hz == oscillator_hz else {"sync": choose(pll_of(platform), oscillator_hz, wanted_hz)}


def drive_clocks(m: Module, board: Board, platform: Platform) -> None:
    """The domain `sync` at the board's `clock_khz`, and that of its link, by PLLs; none for the oscillator's own clock.

    Without any PLL `sync` is left to the platform.
    """
    settings = clock_settings(board, platform)
    if not settings:
        return
    reset = 0
    if platform.default_rst is not None:
        m.submodules.reset = pin = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
        reset = pin.i
    clock = platform.request(platform.default_clk, dir="-")
    if len(settings) > 1:  # a PLL alone may need the pin itself
        m.submodules.clock_pin = buffer = io.Buffer("i", clock)
        clock = buffer.i
        if isinstance(platform, XilinxPlatform):  # whose pins reach no PLL but the nearest
            clock = Signal()
            m.submodules.clock_buffer = Instance("BUFG", i_I=buffer.i, o_O=clock)
    for domain, setting in settings.items():
        m.domains += ClockDomain(domain)
        m.submodules[f"{domain}_pll"] = ClockedByPll(setting, clock, domain, reset)
