"""The wires between the gateware's I2C pins and chips in a bench."""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

PINS = ("scl_i", "sda_i", "scl_low", "sda_low")


class Ticking(wiring.Component):
    """A component with a `tick`, high in one of `cycles`; all its other ports."""

    def __init__(self, inner: wiring.Component, cycles: int) -> None:
        self.inner, self.cycles = inner, cycles
        self.members = {name: member for name, member in inner.signature.members.items() if name != "tick"}
        super().__init__(self.members)

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self.inner
        count = Signal(range(self.cycles))
        m.d.sync += count.eq(Mux(count == self.cycles - 1, 0, count + 1))
        m.d.comb += self.inner.tick.eq(count == 0)
        _pass_on(m, self, self.inner, self.members)
        return m


class WholeBytes(wiring.Component):
    """An `I2CMaster` that is given its bits together; all its other ports.

    bits      in(9)   BYTE: eight bits to send, the first one most significant, then that of the acknowledge. STOP: ones
    received  out(9)  those seen, in the same order, from the cycle after `done` on
    """

    def __init__(self, inner: wiring.Component) -> None:
        self.inner = inner
        self.members = {name: member for name, member in inner.signature.members.items() if name != "send"}
        super().__init__(self.members | {"bits": In(9), "received": Out(9)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = self.inner
        m.d.sync += self.inner.send.eq((self.bits >> (self.place + 1)[: len(self.place)])[0])
        with m.If(self.bit_done):
            m.d.sync += self.received.eq(Cat(self.bit, self.received[:-1]))
        _pass_on(m, self, self.inner, self.members)
        return m


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
        _pass_on(m, self, inner, self.members)
        return m


def _pass_on(m: Module, outer: wiring.Component, inner: wiring.Component, members: dict[str, wiring.Member]) -> None:
    """These ports of the outer component are those of the inner one."""
    ours = wiring.flipped(outer)
    for name, member in members.items():
        if member.is_signature:
            wiring.connect(m, getattr(ours, name), getattr(inner, name))
        elif member.flow == In:
            m.d.comb += getattr(inner, name).eq(getattr(outer, name))
        else:
            m.d.comb += getattr(outer, name).eq(getattr(inner, name))
