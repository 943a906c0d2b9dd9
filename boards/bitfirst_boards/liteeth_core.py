"""Verilog of a UDP port behind gigabit Ethernet on RGMII, by LiteEth's generator.

The generator runs in a process of its own, which is this module as a program: LiteX keeps what it generates in the
state of its modules, and prints all the while.
"""

import json
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bitfirst_hdl.contract.datagrams import PORT
from bitfirst_hdl.datagrams import WORD_BITS

from .errors import FlowError
from .network import Network

NAME = "liteeth"  #: of the Verilog module
#: A word of 32 bits a cycle is more than the wire brings; LiteEth's core misses 125 MHz on ECP5.
CLOCK_HZ = 50_000_000
#: What of RGMII is left out: the PHY's registers stay as its pins set them, and its reset is not the core's.
_UNUSED = ("rst_n", "int_n", "mdio", "mdc")
_COMMENT = re.compile(r"/\*.*?\*/\n?", re.DOTALL)  #: LiteX lists its modules' cells in one, in any order
#: Of xc7: cycles, a power of two, that the PLL of the clock that is sent is given to lock; it may take 100 us.
LOCK_CYCLES = 8192


@dataclass(frozen=True)
class Family:
    """Chips with the same cells between RGMII's pins and logic: LiteEth's PHY, and how LiteX calls a chip of them."""

    phy: str
    vendor: str
    toolchain: str
    device: str


FAMILIES = {
    "ecp5": Family("LiteEthECP5PHYRGMII", "lattice", "trellis", "LFE5U-25F-6BG381C"),
    "xc7": Family("LiteEthS7PHYRGMII", "xilinx", "vivado", "xc7k325tffg900-2"),
}


def generate(network: Network, sent_delay_ns: float, received_delay_ns: float, family: str = "ecp5") -> str:
    """Verilog of module `NAME` with UDP port `contract.datagrams.PORT`; the same text each time.

    sent_delay_ns      of the clock that is sent, against its data
    received_delay_ns  of the data that are received, against their clock
    family             one of `FAMILIES`; the core for `xc7` has buffers at its pins, and needs an IDELAYCTRL beside it

    Raises `FlowError` when LiteEth's generator fails.
    """
    chips = FAMILIES[family]
    settings = {
        "phy": chips.phy,
        "phy_tx_delay": sent_delay_ns * 1e-9,
        "phy_rx_delay": received_delay_ns * 1e-9,
        "vendor": chips.vendor,
        "toolchain": chips.toolchain,
        "device": chips.device,
        "clk_freq": CLOCK_HZ,
        "core": "udp",
        "mac_address": network.mac_number,
        "ip_address": network.address,
        "data_width": WORD_BITS,
        "udp_ports": {"link": {"mode": "raw", "data_width": WORD_BITS, "udp_port": PORT}},
        "lock_cycles": LOCK_CYCLES,  # not LiteEth's, but of `_main`
    }
    with tempfile.TemporaryDirectory(prefix="bitfirst-liteeth-") as folder:
        given = Path(folder, "settings.yml")
        given.write_text(json.dumps(settings))  # JSON is YAML
        command = [sys.executable, "-m", __name__, str(given), folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        made = Path(folder, "gateware", f"{NAME}.v")
        if done.returncode or not made.exists():
            said = (done.stderr + done.stdout).strip().splitlines() or ["it said nothing"]
            raise FlowError(
                f"LiteEth's generator failed: {said[-1].strip()}; pip install 'bitfirst[build]', or make setup"
            )
        text = made.read_text()
    end = "endmodule\n"
    core = text[text.index(f"module {NAME}") : text.rindex(end) + len(end)]  # without dates
    return _COMMENT.sub("", core)


def _main(settings: str, folder: str) -> None:
    from liteeth import gen
    from migen import If, Signal
    from migen.genlib.cdc import MultiReg

    class Core(gen.UDPCore):
        def __init__(self, platform: object, config: dict) -> None:
            super().__init__(platform, config)
            if config["vendor"] == "xilinx":
                self.lock_again(self.ethphy.crg.pll, config["lock_cycles"])

        def lock_again(self, pll: object, cycles: int) -> None:
            """Resets the PLL when it has no lock: its input, the PHY's clock, is another one until there is a link."""
            locked, waited = Signal(), Signal(max=2 * cycles)
            self.specials += MultiReg(pll.locked, locked)
            self.sync += If(locked, waited.eq(0)).Else(waited.eq(waited + 1))
            self.comb += pll.reset.eq(waited[-1])

        def add_raw_port(self, platform: object, name: str, port: dict) -> None:
            """It takes what comes for its own port; LiteEth's own, what comes for the port that it sends to."""
            super().add_raw_port(platform, name, port)
            users = self.core.udp.crossbar.users
            users[port["udp_port"]] = users.popitem()[1]

    def used(resource: tuple) -> tuple:
        return tuple(part for part in resource if getattr(part, "name", None) not in _UNUSED)

    gen.UDPCore = Core
    gen.LiteEthUDPIPCore = partial(gen.LiteEthUDPIPCore, with_ip_broadcast=False)  # or it takes those for all
    gen._io = [used(resource) if resource[0] == "rgmii" else resource for resource in gen._io]
    sys.argv = [gen.__file__, settings, "--output-dir", folder, "--no-compile-software", "--name", NAME]
    gen.main()


if __name__ == "__main__":
    _main(*sys.argv[1:])
