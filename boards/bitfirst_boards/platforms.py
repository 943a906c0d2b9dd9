"""Boards that amaranth-boards lacks, and serial ports for boards of it that have none.

Sources: ZedBoard Hardware User's Guide (Avnet, version 2.2); KC705 Evaluation Board, UG810 (Xilinx); schematics of
OrangeCrab r0.2 and ButterStick r1.0; Adafruit's Feather pinout.
"""

from amaranth.build import Attrs, Clock, Connector, DiffPairs, Pins, Resource
from amaranth.vendor import XilinxPlatform
from amaranth_boards import butterstick, kc705, orangecrab_r0_2, tang_primer_20k
from amaranth_boards.resources import ButtonResources, LEDResources, SwitchResources, UARTResource

_FEATHER_UART = UARTResource(
    0, rx="0", tx="1", conn=("io", 0), attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")
)  # on a Feather, 0 is RX and 1 is TX


class OrangeCrab25FPlatform(orangecrab_r0_2.OrangeCrabR0_2_25FPlatform):
    """With a serial port on the Feather header."""

    resources = (*orangecrab_r0_2.OrangeCrabR0_2_25FPlatform.resources, _FEATHER_UART)


class OrangeCrab85FPlatform(orangecrab_r0_2.OrangeCrabR0_2_85FPlatform):
    """With a serial port on the Feather header."""

    resources = (*orangecrab_r0_2.OrangeCrabR0_2_85FPlatform.resources, _FEATHER_UART)


class ButterStickPlatform(butterstick.ButterStickPlatform):
    """With a serial port in the microSD socket: its other headers have no voltage before gateware sets one."""

    resources = (
        *butterstick.ButterStickPlatform.resources,
        UARTResource(0, rx="A13", tx="B13", attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),  # CMD and CLK
    )


class TangPrimer20kPlatform(tang_primer_20k.TangPrimer20kDockPlatform):
    """With the chip's name where LUNA looks for one."""

    device = tang_primer_20k.TangPrimer20kDockPlatform.part


class KC705Platform(kc705.KC705Platform):
    """With the fixed oscillator of 200 MHz, and the serial port at 2.5 V, its bank's voltage.

    amaranth-boards has the programmable oscillator, as 156 MHz where it is 156.25, and the port at 3.3 V.
    """

    default_clk = "clk200"
    resources = (
        Resource("clk200", 0, DiffPairs("AD12", "AD11", dir="i"), Clock(200e6), Attrs(IOSTANDARD="LVDS")),
        UARTResource(0, rx="M19", tx="K24", attrs=Attrs(IOSTANDARD="LVCMOS25")),
    )


class ZedBoardPlatform(XilinxPlatform):
    """Zynq-7020. Buttons and switches are in banks of Vadj, here 1.8 V, where its jumper J18 stands at first."""

    device = "xc7z020"
    package = "clg484"
    speed = "1"
    default_clk = "clk100"
    resources = (
        Resource("clk100", 0, Pins("Y9", dir="i"), Clock(100e6), Attrs(IOSTANDARD="LVCMOS33")),
        *LEDResources(pins="T22 T21 U22 U21 V22 W22 U19 U14", attrs=Attrs(IOSTANDARD="LVCMOS33")),
        *SwitchResources(pins="F22 G22 H22 F21 H19 H18 H17 M15", attrs=Attrs(IOSTANDARD="LVCMOS18")),
        *ButtonResources(
            pins="P16 R16 N15 R18 T18", attrs=Attrs(IOSTANDARD="LVCMOS18")
        ),  # centre, down, left, right, up
    )
    connectors = (
        Connector("pmod", 0, "Y11 AA11 Y10 AA9 - - AB11 AB10 AB9 AA8 - -"),  # JA
        Connector("pmod", 1, "W12 W11 V10 W8 - - V12 W10 V9 V8 - -"),  # JB
        Connector("pmod", 2, "AB7 AB6 Y4 AA4 - - R6 T6 T4 U4 - -"),  # JC
        Connector("pmod", 3, "V7 W7 V5 V4 - - W6 W5 U6 U5 - -"),  # JD
    )
