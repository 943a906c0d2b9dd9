"""Whole transfers on an SPI bus, for a bench."""

from amaranth.hdl import Cat, Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from bitfirst_hdl.ports import SPI_PINS

_WANTED = ("address", "written", "read", "recovers")


class WholeTransfers(wiring.Component):
    """An `SpiTransfers` that is given its bytes together.

    go, address, written, read, recovers   as there; `go` is its `start`
    bytes         in(32)   to write, the first one least significant
    ended         out(1)   high for one cycle, behind the transfer; then there is
    received      out(40)  what was read, the last bit least significant
    acknowledged  out(1)
    """

    def __init__(self, inner: wiring.Component) -> None:
        self.inner = inner
        wanted = {name: inner.signature.members[name] for name in _WANTED}
        told = {"ended": Out(1), "received": Out(40), "acknowledged": Out(1)}
        super().__init__(wanted | SPI_PINS | told | {"go": In(1), "bytes": In(32)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.inner = inner = self.inner
        m.d.comb += [getattr(inner, name).eq(getattr(self, name)) for name in (*_WANTED, "miso")]
        m.d.comb += [getattr(self, name).eq(getattr(inner, name)) for name in ("sclk", "mosi", "cs_n")]
        m.d.comb += inner.start.eq(self.go)
        m.d.sync += [
            inner.send.eq((self.bytes >> Cat(inner.place, (inner.count - 1)[:2]))[0]),
            self.ended.eq(inner.done),
        ]
        with m.If(inner.bit_read):
            m.d.sync += self.received.eq(Cat(inner.bit, self.received))
        with m.If(inner.done):
            m.d.sync += self.acknowledged.eq(inner.acknowledged)
        return m
