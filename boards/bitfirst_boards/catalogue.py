"""The boards: pins, clock, link and default array of each. Data, no logic."""

from dataclasses import dataclass, replace

from amaranth.build import Platform
from amaranth_boards.ulx3s import ULX3S_85F_Platform
from bitfirst_hdl.config import CONFIGS, ArrayConfig


@dataclass(frozen=True)
class Board:
    """One board.

    name       as in `bitfirst build NAME`
    platform   its pins, for Amaranth
    clock_khz  of the oscillator that drives the array
    uart       number of its `uart` resource
    baud       of that UART; divides the clock exactly
    config     the array built by default
    programmer tool and options of `bitfirst program`; the bitstream's path follows
    to_flash   options more, for the board's flash memory
    """

    name: str
    platform: type[Platform]
    clock_khz: int
    uart: int
    baud: int
    config: ArrayConfig
    programmer: tuple[str, ...]
    to_flash: tuple[str, ...]


BOARDS = {
    board.name: board
    for board in (
        Board(
            name="ulx3s-85f",
            platform=ULX3S_85F_Platform,
            clock_khz=25_000,
            uart=0,
            baud=1_000_000,
            config=replace(CONFIGS["small"], link_bits=8, clock_khz=25_000),
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
        ),
    )
}
