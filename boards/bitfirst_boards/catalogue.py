"""The boards: pins, clock, link and default array of each. Data, no logic."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from amaranth.build import Platform
from amaranth_boards.arty_a7 import ArtyA7_35Platform, ArtyA7_100Platform
from amaranth_boards.arty_z7 import ArtyZ720Platform
from amaranth_boards.cora_z7 import CoraZ7_07SPlatform, CoraZ7_10Platform
from amaranth_boards.ebaz4205 import EBAZ4205Platform
from amaranth_boards.ecpix5 import ECPIX545Platform, ECPIX585Platform
from amaranth_boards.genesys2 import Genesys2Platform
from amaranth_boards.icebreaker import ICEBreakerPlatform
from amaranth_boards.microzed_z010 import MicroZedZ010Platform
from amaranth_boards.microzed_z020 import MicroZedZ020Platform
from amaranth_boards.nexys4ddr import Nexys4DDRPlatform
from amaranth_boards.redpitaya_125_14 import RedPitaya14Platform
from amaranth_boards.tang_nano_9k import TangNano9kPlatform
from amaranth_boards.ulx3s import ULX3S_12F_Platform, ULX3S_25F_Platform, ULX3S_45F_Platform, ULX3S_85F_Platform
from amaranth_boards.versa_ecp5_5g import VersaECP55GPlatform
from amaranth_boards.zturn_lite_z007s import ZTurnLiteZ007SPlatform
from amaranth_boards.zturn_lite_z010 import ZTurnLiteZ010Platform
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig

from .network import DEFAULT, Network
from .platforms import (
    ButterStickPlatform,
    KC705Platform,
    OrangeCrab25FPlatform,
    OrangeCrab85FPlatform,
    TangPrimer20kPlatform,
    ZedBoardPlatform,
)
from .sensors import ECP5, GOWIN, KC705, XILINX, Rail, Regulator, Sensors, converter, pmod, wired


@dataclass(frozen=True)
class Board:
    """One board.

    name       as in `bitfirst build NAME`
    platform   its pins, for Amaranth
    clock_khz  of the array
    links      those it can be built with, the default first: `uart` and `usb`, the platform's resources of these names
               (`usb` is three pins, or a PHY's, which may be called `ulpi`), `udp`, its `eth_rgmii`, or `axi`, a
               peripheral of the processing system (Zynq); and where each comes out
    config     the array built by default
    programmer tool and options of `bitfirst program`; the bitstream's path follows. None: the processor does it
    to_flash   options more, for the board's flash memory; none where the tool writes nothing else
    baud       of the serial link; divides the clock exactly
    seed       of the placement: one that meets the clock
    no_dsp     multipliers are made of LUTs, and the chip's own left alone
    board_files  Vivado's board files, a pattern of their names (Zynq: settings of its memory)
    network    its addresses on Ethernet
    rgmii_ns   with `udp`: delays that its PHY leaves to the chip, of the clock that is sent, of the data received
    sensors    pins of devices with the feature "power"; None: no free ones are known
    """

    name: str
    platform: type[Platform]
    clock_khz: int
    links: Mapping[str, str]
    config: ArrayConfig
    programmer: tuple[str, ...]
    to_flash: tuple[str, ...] = ()
    baud: int = 1_000_000
    seed: int = 1
    no_dsp: bool = False
    board_files: str = ""
    network: Network = DEFAULT
    rgmii_ns: tuple[float, float] | None = None
    sensors: Sensors | None = None

    @property
    def link(self) -> str:
        """Name of the link that it is built with."""
        return next(iter(self.links))

    def linked(self, name: str) -> "Board":
        """The board with that link, one of `links`, alone."""
        return replace(self, links={name: self.links[name]})


@dataclass(frozen=True)
class Chip:
    """What a chip has: LUTs (of four inputs; Xilinx: of six), flip-flops, block RAMs of `bram_kbit`, multipliers."""

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
    "xc7a35ti": Chip(20_800, 41_600, 50, 36, 90),
    "xc7a100t": Chip(63_400, 126_800, 135, 36, 240),
    "xc7a100ti": Chip(63_400, 126_800, 135, 36, 240),
    "xc7k325t": Chip(203_800, 407_600, 445, 36, 840),
    "xc7z007s": Chip(14_400, 28_800, 50, 36, 66),
    "xc7z010": Chip(17_600, 35_200, 60, 36, 80),
    "xc7z020": Chip(53_200, 106_400, 140, 36, 220),
}

#: Board -> its array and clock, as `bitfirst explore` chose them; `python -m bitfirst_boards.explored` writes it.
ARRAYS = Path(__file__).parent / "arrays.json"
_CHOSEN = json.loads(ARRAYS.read_text())


def _explored(name: str) -> dict[str, Any]:
    """Name, array and clock of a board that has been explored."""
    config = ArrayConfig(**_CHOSEN[name])
    return {"name": name, "config": config, "clock_khz": config.clock_khz}


UART = {"uart": "USB bridge"}
AXI = {"axi": "AXI, to the processor"}
ETHERNET = {"udp": "RJ45"}
_ULX3S = UART | {"usb": "USB, US2"}
_ECPIX5 = UART | ETHERNET | {"usb": "USB-C"}
_CRAB = {"usb": "USB", "uart": "header: 0 rx, 1 tx"}
_ULX3S_J1 = wired("J1: GP1 SCL, GP0 SDA", "1+", "0+", ECP5, ("gpio", 0))  # in a row with its 3.3 V and GND
_CRAB_I2C = wired("header: SCL, SDA", "scl", "sda", ECP5, ("io", 0))
_SHIELD_I2C = wired("shield header: SCL, SDA", "P16", "P15", XILINX)
_DFU_CRAB = ("dfu-util", "-d", "1209:5af0", "-a", "0", "-D")
_DFU_BUTTER = ("dfu-util", "-d", "1209:5af1", "-a", "0", "-D")
#: The converter in the chip sees the volts of the 5 V behind a divider, and by amplifiers the currents of both.
_ARTY_A7 = converter(
    "XADC: 5 V and core",
    {1: ("C12", "B12"), 9: ("F13", "F14"), 10: ("A15", "A16")},
    (Rail("5V", "xadc", 9, 0.25, scope="board"), Rail("core", "xadc", 10, 0.5)),
    taken=1,  # the core is made of the 5 V
)
#: Its six INA219, each on 5 milliohms.
_GENESYS2_RAILS = tuple(
    Rail(name, "ina219", address, 0.005)
    for name, address in (
        ("1V0", 0x45),
        ("1V5", 0x4C),
        ("1V8", 0x48),
        ("3V3", 0x44),
        ("VADJ", 0x41),
        ("5V0", 0x40),
    )
)
#: Of its three controllers, at 52 to 54. The first one has four outputs, a sample of each in 200 us.
_KC705_RAILS = (Regulator("VCCINT", "ucd9248", 52, page=0, update_s=800e-6),)

BOARDS = {
    board.name: board
    for board in (
        Board(
            **_explored("ulx3s-12f"),
            platform=ULX3S_12F_Platform,
            links=_ULX3S,
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
            sensors=_ULX3S_J1,
        ),
        Board(
            **_explored("ulx3s-25f"),
            platform=ULX3S_25F_Platform,
            links=_ULX3S,
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
            sensors=_ULX3S_J1,
        ),
        Board(
            **_explored("ulx3s-45f"),
            platform=ULX3S_45F_Platform,
            links=_ULX3S,
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
            sensors=_ULX3S_J1,
        ),
        Board(
            **_explored("ulx3s-85f"),
            platform=ULX3S_85F_Platform,
            links=_ULX3S,
            programmer=("openFPGALoader", "--board", "ulx3s"),
            to_flash=("--write-flash",),
            sensors=_ULX3S_J1,
        ),
        Board(
            **_explored("orangecrab-25f"),
            platform=OrangeCrab25FPlatform,
            links=_CRAB,
            programmer=_DFU_CRAB,
            sensors=_CRAB_I2C,
        ),
        Board(
            **_explored("orangecrab-85f"),
            platform=OrangeCrab85FPlatform,
            links=_CRAB,
            programmer=_DFU_CRAB,
            sensors=_CRAB_I2C,
        ),
        Board(
            **_explored("ecpix5-45f"),
            platform=ECPIX545Platform,
            links=_ECPIX5,
            programmer=("openFPGALoader", "--board", "ecpix5"),
            to_flash=("--write-flash",),
            rgmii_ns=(2, 0),
            sensors=pmod(0, "PMOD0", ECP5),
        ),
        Board(
            **_explored("ecpix5-85f"),
            platform=ECPIX585Platform,
            links=_ECPIX5,
            programmer=("openFPGALoader", "--board", "ecpix5"),
            to_flash=("--write-flash",),
            rgmii_ns=(2, 0),
            sensors=pmod(0, "PMOD0", ECP5),
        ),
        Board(
            **_explored("versa-5g"),
            platform=VersaECP55GPlatform,
            links=UART | ETHERNET,
            programmer=("openFPGALoader", "--cable", "ft2232"),
            to_flash=("--write-flash",),
            rgmii_ns=(0, 0),
        ),
        Board(
            **_explored("butterstick"),
            platform=ButterStickPlatform,
            links={"uart": "microSD: CMD rx, CLK tx"} | ETHERNET,
            programmer=_DFU_BUTTER,
            rgmii_ns=(2, 2),
            sensors=wired("microSD: DAT0 SCL, DAT1 SDA", "C12", "A12", ECP5),
        ),
        Board(
            **_explored("icebreaker"),
            platform=ICEBreakerPlatform,
            links=UART,
            programmer=("openFPGALoader", "--board", "ice40_generic"),
        ),
        Board(
            **_explored("tang-nano-9k"),
            platform=TangNano9kPlatform,
            links=UART,
            programmer=("openFPGALoader", "--board", "tangnano9k"),
            to_flash=("--write-flash",),
            sensors=wired("header: 25 SCL, 26 SDA", "25", "26", GOWIN),
        ),
        Board(
            **_explored("tang-primer-20k"),
            platform=TangPrimer20kPlatform,
            links=UART | {"usb": "dock, USB OTG"},
            programmer=("openFPGALoader", "--board", "tangprimer20k"),
            to_flash=("--write-flash",),
            sensors=pmod(0, "dock, first Pmod (its display connector empty)", GOWIN),
        ),
        Board(
            name="arty-a7-35",
            platform=ArtyA7_35Platform,
            clock_khz=50_000,
            links=UART,
            config=replace(CONFIGS["least"], features=("power", "xadc")),
            programmer=("openFPGALoader", "--board", "arty_a7_35t"),
            to_flash=("--write-flash",),
            sensors=_ARTY_A7,
        ),
        Board(
            name="arty-a7-100",
            platform=ArtyA7_100Platform,
            clock_khz=50_000,
            links=UART,
            config=replace(CONFIGS["default"], features=(*STANDARD, "power", "xadc")),
            programmer=("openFPGALoader", "--board", "arty_a7_100t"),
            to_flash=("--write-flash",),
            sensors=_ARTY_A7,
        ),
        Board(
            name="nexys4-ddr",
            platform=Nexys4DDRPlatform,
            clock_khz=50_000,
            links=UART,
            config=CONFIGS["default"],
            programmer=("openFPGALoader", "--board", "nexys_a7_100"),
            to_flash=("--write-flash",),
            sensors=pmod(0, "Pmod JA", XILINX),
        ),
        Board(
            name="genesys2",
            platform=Genesys2Platform,
            clock_khz=100_000,
            links=UART | {"usb": "USB OTG"} | ETHERNET,
            config=replace(CONFIGS["default"], features=(*STANDARD, "power")),
            programmer=("openFPGALoader", "--board", "genesys2"),
            to_flash=("--write-flash",),
            rgmii_ns=(2, 2),
            sensors=wired("on the board", "AE30", "AF30", XILINX, rails=_GENESYS2_RAILS),
        ),
        Board(
            name="kc705",
            platform=KC705Platform,
            clock_khz=100_000,
            links=UART,
            config=replace(CONFIGS["default"], features=(*STANDARD, "power", "pmbus")),
            programmer=("openFPGALoader", "--board", "kc705"),
            to_flash=("--write-flash",),
            sensors=wired("on the board", "AG17", "Y14", KC705, rails=_KC705_RAILS, bus="pmbus"),
        ),
        Board(
            name="zedboard",
            platform=ZedBoardPlatform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["default"],
            programmer=(),
            board_files="*:zed*:part0:*",
            sensors=pmod(0, "Pmod JA", XILINX),
        ),
        Board(
            name="arty-z7-20",
            platform=ArtyZ720Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["default"],
            programmer=(),
            board_files="*:arty-z7-20:part0:*",
            sensors=_SHIELD_I2C,
        ),
        Board(
            name="microzed-7020",
            platform=MicroZedZ020Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["default"],
            programmer=(),
            board_files="*:microzed_7020:part0:*",
        ),
        Board(
            name="microzed-7010",
            platform=MicroZedZ010Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
            board_files="*:microzed_7010:part0:*",
        ),
        Board(
            name="cora-z7-10",
            platform=CoraZ7_10Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
            board_files="*:cora-z7-10:part0:*",
            sensors=_SHIELD_I2C,
        ),
        Board(
            name="cora-z7-07s",
            platform=CoraZ7_07SPlatform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
            board_files="*:cora-z7-07s:part0:*",
            sensors=_SHIELD_I2C,
        ),
        Board(
            name="red-pitaya",
            platform=RedPitaya14Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
            board_files="*:redpitaya*:part0:*",
            sensors=wired("E1: DIO0_P SCL, DIO0_N SDA", "dio0_p", "dio0_n", XILINX, ("E1", 0)),
        ),
        Board(
            name="zturn-lite-7010",
            platform=ZTurnLiteZ010Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
        ),
        Board(
            name="zturn-lite-7007s",
            platform=ZTurnLiteZ007SPlatform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
        ),
        Board(
            name="ebaz4205",
            platform=EBAZ4205Platform,
            clock_khz=50_000,
            links=AXI,
            config=CONFIGS["least"],
            programmer=(),
        ),
    )
}
