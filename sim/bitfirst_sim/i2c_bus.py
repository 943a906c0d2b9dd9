"""The wires between the gateware's I2C pins and chips in a bench."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

PINS = ("scl_i", "sda_i", "scl_low", "sda_low")


class OnBus(wiring.Component):
    """A component with pins `PINS` on wires that anybody can pull low.

    bus_scl, bus_sda      out(1)  the wires
    chipN_scl, chipN_sda  in(1)   0: chip N of `chips` pulls it low
    spike_scl, spike_sda  in(1)   the component, and nobody else, sees the wire's other level

    All its other ports are this component's.
    """

    def __init__(self, inner: wiring.Component, chips: int) -> None:
        self.inner, self.chips = inner, chips
        self.members = {name: member for name, member in inner.signature.members.items() if name not in PINS}
        pulls = {f"chip{chip}_{wire}": In(1, init=1) for chip in range(chips) for wire in ("scl", "sda")}
        spikes = {"spike_scl": In(1), "spike_sda": In(1)}
        super().__init__(self.members | pulls | spikes | {"bus_scl": Out(1), "bus_sda": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = inner = self.inner
        for wire in ("scl", "sda"):
            level = getattr(self, f"bus_{wire}")
            chips = Cat(getattr(self, f"chip{chip}_{wire}") for chip in range(self.chips))
            m.d.comb += [
                level.eq(chips.all() & ~getattr(inner, f"{wire}_low")),
                getattr(inner, f"{wire}_i").eq(level ^ getattr(self, f"spike_{wire}")),
            ]
        ours = wiring.flipped(self)
        for name, member in self.members.items():
            if member.is_signature:
                wiring.connect(m, getattr(ours, name), getattr(inner, name))
            elif member.flow == In:
                m.d.comb += getattr(inner, name).eq(getattr(self, name))
            else:
                m.d.comb += getattr(self, name).eq(getattr(inner, name))
        return m
