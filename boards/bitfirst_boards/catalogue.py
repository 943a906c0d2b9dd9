"""The boards: pins, clock, link and default array of each. Data, no logic."""

from dataclasses import dataclass

from amaranth.build import Platform
from amaranth_boards.ecpix5 import ECPIX545Platform, ECPIX585Platform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from amaranth_boards.tang_primer_20k import TangPrimer20kDockPlatform
from amaranth_boards.ulx3s import ULX3S_12F_Platform, ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform
from amaranth_boards.versa_ecp5_5g import VersaECP55GPlatform
from bitfirst_hdl.config import CONFIGS, ArrayConfig

from .platforms import ButterStickPlatform, OrangeCrab25FPlatform, OrangeCrab85FPlatform


@dataclass(frozen=True)
class Board:
    """One board.

    name       as in `bitfirst build NAME`
    platform   its pins, for Amaranth; the link is its `uart`
    clock_khz  of the array
    link       where the link comes out
    config     the array built by default
    programmer tool and options of `bitfirst program`; the bitstream's path follows
    to_flash   options more, for the board's flash memory; none where the tool writes nothing else
    baud       of the link; divides the clock exactly
    seed       of the placement: one that meets the clock
    """

    name: str
    platform: type[Platform]
    clock_khz: int
    link: str
    config: ArrayConfig
    programmer: tuple[str, ...]
    to_flash: tuple[str, ...]
    baud: int = 1_000_000
    seed: int = 1


@dataclass(frozen=True)
class Chip:
    """What a chip has: LUTs of four inputs, flip-flops, block RAMs of `bram_kbit`, multipliers."""

    lut: int
    ff: int
    bram: int
    bram_kbit: int
    dsp: int


#: By the device's name in a platform (Gowin: the family's).
CHIPS = {
    "LFE5U-12F": Chip(24_288, 24_288, 56, 18, 28),  # the 25F's die, all of which the open tools use
    "LFE5U-25F": Chip(24_288, 24_288, 56, 18, 28),
    "LFE5U-45F": Chip(43_848, 43_848, 108, 18, 72),
    "LFE5UM5G-45F": Chip(43_848, 43_848, 108, 18, 72),
    "LFE5U-85F": Chip(83_640, 83_640, 208, 18, 156),
    "LFE5UM5G-85F": Chip(83_640, 83_640, 208, 18, 156),
    "iCE40UP5K": Chip(5_280, 5_280, 30, 4, 8),
    "GW1NR-9C": Chip(8_640, 6_480, 26, 18, 20),
    "GW2A-18C": Chip(20_736, 15_552, 46, 18, 48),
}

_FTDI = "USB, the programmer's"
_DFU_CRAB = ("dfu-util", "-d", "1209:5af0", "-a", "0", "-D")
_DFU_BUTTER = ("dfu-util", "-d", "1209:5af1", "-a", "0", "-D")

BOARDS = {
    board.name: board
    for board in (
        Board(
            name="ulx3s-12f",
            platform=ULX3S_12F_Platform,
            clock_khz=25_000,
            link=_FTDI,
            config=CONFIGS["least"],
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="ulx3s-25f",
            platform=ULX3S_25F_Platform,
            clock_khz=25_000,
            link=_FTDI,
            config=CONFIGS["least"],
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="ulx3s-45f",
            platform=ULX3S_45F_Platform,
            clock_khz=25_000,
            link=_FTDI,
            config=CONFIGS["small"],
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="ulx3s-85f",
            platform=ULX3S_85F_Platform,
            clock_khz=25_000,
            link=_FTDI,
            config=CONFIGS["small"],
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="orangecrab-25f",
            platform=OrangeCrab25FPlatform,
            clock_khz=48_000,
            link="Feather header: 0 is rx, 1 is tx",
            config=CONFIGS["least"],
            programmer=_DFU_CRAB,
            to_flash=(),
        ),
        Board(
            name="orangecrab-85f",
            platform=OrangeCrab85FPlatform,
            clock_khz=48_000,
            link="Feather header: 0 is rx, 1 is tx",
            config=CONFIGS["small"],
            programmer=_DFU_CRAB,
            to_flash=(),
        ),
        Board(
            name="ecpix5-45f",
            platform=ECPIX545Platform,
            clock_khz=100_000,
            link=_FTDI,
            config=CONFIGS["small"],
            programmer=("openFPGALoader", "--board", "ecpix5"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="ecpix5-85f",
            platform=ECPIX585Platform,
            clock_khz=100_000,
            link=_FTDI,
            config=CONFIGS["small"],
            programmer=("openFPGALoader", "--board", "ecpix5"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="versa-5g",
            platform=VersaECP55GPlatform,
            clock_khz=100_000,
            link=_FTDI,
            config=CONFIGS["small"],
            programmer=("openFPGALoader", "--cable", "ft2232"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="butterstick",
            platform=ButterStickPlatform,
            clock_khz=30_000,
            link="microSD socket: CMD is rx, CLK is tx",
            config=CONFIGS["small"],
            programmer=_DFU_BUTTER,
            to_flash=(),
        ),
        Board(
            name="icebreaker",
            platform=ICEBreakerPlatform,
            clock_khz=12_000,
            link=_FTDI,
            config=CONFIGS["least"],
            programmer=("openFPGALoader", "--board", "ice40_generic"),
            to_flash=(),
        ),
        Board(
            name="tang-nano-9k",
            platform=TangNano9kPlatform,
            clock_khz=27_000,
            link=_FTDI,
            config=CONFIGS["least"],
            programmer=("openFPGALoader", "--board", "tangnano9k"),
            to_flash=("--write-flash",),
        ),
        Board(
            name="tang-primer-20k",
            platform=TangPrimer20kDockPlatform,
            clock_khz=27_000,
            link=_FTDI,
            config=CONFIGS["least"],
            programmer=("openFPGALoader", "--board", "tangprimer20k"),
            to_flash=("--write-flash",),
        ),
    )
}
