"""A device on a board: its clock and its pins."""

from amaranth.build import Platform
from amaranth.hdl import ClockDomain, Elaboratable, Module
from amaranth.lib import io
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.top import UartTop

from .catalogue import Board
from .clocking import ClockedByPll, Setting, choose, pll_of
from .errors import FlowError

BAUD_TOLERANCE = 0.01  # of the link, either way; a frame of ten bits bears a few per cent in both ends together


class Pinned(Elaboratable):
    """`device`, with serial pins `rx_pin` and `tx_pin`, on a board's UART, in the board's clock."""

    def __init__(self, board: Board, device: Elaboratable) -> None:
        self.board = board
        self.device = device

    def elaborate(self, platform: Platform) -> Module:
        m = Module()
        drive_clock(m, self.board, platform)
        m.submodules.device = self.device
        resource = platform.lookup("uart", 0)
        pins = platform.request(resource.name, resource.number, dir={pin.name: "-" for pin in resource.ios})
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.d.comb += [self.device.rx_pin.eq(rx.i), tx.o.eq(self.device.tx_pin)]
        return m


def serial_device(board: Board, config: ArrayConfig, fingerprint: int) -> UartTop:
    """The device with the board's serial link."""
    return UartTop(config, fingerprint, divisor(board))


def divisor(board: Board) -> int:
    """Clock cycles in a bit of the link. Raises `FlowError` where no whole number of them comes near enough."""
    wanted = board.clock_khz * 1000 / board.baud
    cycles = round(wanted)
    if abs(cycles - wanted) > BAUD_TOLERANCE * wanted:
        raise FlowError(
            f"{board.clock_khz} kHz makes no {board.baud} baud; choose a --clock-khz that is a multiple of it"
        )
    return cycles


def clock_setting(board: Board, platform: Platform) -> Setting | None:
    """Of the PLL that makes the board's `clock_khz`; None where that is its oscillator's clock.

    Raises `ClockError` where the PLL cannot make it.
    """
    oscillator_hz, wanted_hz = int(platform.default_clk_frequency), board.clock_khz * 1000
    return None if wanted_hz == oscillator_hz else choose(pll_of(platform), oscillator_hz, wanted_hz)


def drive_clock(m: Module, board: Board, platform: Platform) -> None:
    """The domain `sync` at the board's `clock_khz`, by a PLL; left to the platform where that is its oscillator's."""
    setting = clock_setting(board, platform)
    if setting is None:
        return
    reset = 0
    if platform.default_rst is not None:
        m.submodules.reset = pin = io.Buffer("i", platform.request(platform.default_rst, dir="-"))
        reset = pin.i
    m.domains.sync = ClockDomain()
    clock = platform.request(platform.default_clk, dir="-")
    m.submodules.clock = ClockedByPll(setting, clock, reset=reset)
