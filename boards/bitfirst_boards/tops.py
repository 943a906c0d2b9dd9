"""A device on a board: its clock and its pins."""

from amaranth.hdl import Elaboratable, Module
from amaranth.lib import io

from .catalogue import Board


class Pinned(Elaboratable):
    """`device`, with serial pins `rx_pin` and `tx_pin`, on a board's UART, in the board's clock."""

    def __init__(self, board: Board, device: Elaboratable) -> None:
        self.board = board
        self.device = device

    def elaborate(self, platform: object) -> Module:
        m = Module()
        drive_clock(m, self.board, platform)
        m.submodules.device = self.device
        resource = platform.lookup("uart", 0)
        pins = platform.request(resource.name, resource.number, dir={pin.name: "-" for pin in resource.ios})
        m.submodules.rx = rx = io.Buffer("i", pins.rx)
        m.submodules.tx = tx = io.Buffer("o", pins.tx)
        m.d.comb += [self.device.rx_pin.eq(rx.i), tx.o.eq(self.device.tx_pin)]
        return m


def drive_clock(m: Module, board: Board, platform: object) -> None:
    """The domain `sync` at the board's `clock_khz`. It is left to the platform where that is its oscillator's clock."""
    if board.clock_khz * 1000 != platform.default_clk_frequency:
        raise NotImplementedError(f"{board.name}: no PLL makes {board.clock_khz} kHz")
