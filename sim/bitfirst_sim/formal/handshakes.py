"""What the AXI ports promise: nothing valid is withdrawn or changed, no answer comes unasked, none is forgotten."""

from types import ModuleType

from amaranth.hdl import Assert, Assume, Cat, Cover, Fragment, Module, Mux, Signal, Value
from amaranth.lib.wiring import In
from bitfirst_hdl import axi
from bitfirst_hdl.axi import OKAY
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import codec
from bitfirst_hdl.contract.packets import MAX_PAYLOAD_WORDS, WORD_BITS, Header
from bitfirst_hdl.contract.registers import AXI_BYTES, AXI_REGISTERS, Identity

from .prove import Property, altered

_LEFT = "left, length = Signal(range((MAX_PAYLOAD_WORDS + 2) * per_word)), Signal(width)"
_HELD = "address, data, strobe = Signal(AXI_ADDRESS_BITS), Signal(DATA_BITS), Signal(AXI_BYTES)"


def axi_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.axi` with `changes` in its source; its parts show registers of theirs."""
    seen = (
        (_HELD, f"{_HELD}\n        self.held = has_address, has_data, address"),
        (_LEFT, f"{_LEFT}; self.left = left"),
    )
    return altered(axi, *changes, *seen)


def waits(m: Module, valid: Value, ready: Value, payload: Value) -> None:
    """Asserts that what is valid and not taken is there, unchanged, in the next cycle."""
    waited, before = Signal(), Signal(len(payload))
    m.d.sync += [waited.eq(valid & ~ready), before.eq(payload)]
    with m.If(waited):
        m.d.comb += [Assert(valid), Assert(payload == before)]


def _names(address: Value, places: list[int]) -> Value:
    """Whether a byte address is in one of the registers at `places`."""
    return Cat(address // AXI_BYTES == place // AXI_BYTES for place in places).any()


class LiteHandshakes(Property):
    """`AxiRegisters`, any master, any values of the fields.

    Responses wait unchanged. There are never more of them than addresses, nor than data; a write that is complete is
    answered in the next cycle unless an answer waits, a read in the next one; with SLVERR where no register is.
    """

    def __init__(self, module: ModuleType) -> None:
        self.registers = module.AxiRegisters(CONFIGS["tiny"], 0)
        self.taken_in = {name for name, member in self.registers.signature.members.items() if member.flow == In}
        super().__init__({f"in_{name}": In(self.registers.signature.members[name].shape) for name in self.taken_in})

    def state(self, m: Module) -> None:
        registers = self.registers
        m.submodules.registers = Fragment.get(registers, None)
        m.d.comb += [getattr(registers, name).eq(getattr(self, f"in_{name}")) for name in sorted(self.taken_in)]
        waits(m, registers.bvalid, registers.bready, registers.bresp)
        waits(m, registers.rvalid, registers.rready, Cat(registers.rdata, registers.rresp))
        self._writes(m, registers)
        self._reads(m, registers)

    def _writes(self, m: Module, registers) -> None:
        addresses, data = Signal(3), Signal(3)  # taken, and not answered yet
        has_address, has_data, address = registers.held
        answers = registers.bvalid & registers.bready
        for count, channel in (addresses, "aw"), (data, "w"):
            takes = getattr(registers, f"{channel}valid") & getattr(registers, f"{channel}ready")
            m.d.sync += count.eq(count + takes - answers)
        m.d.comb += [
            Assert(addresses == has_address + registers.bvalid),
            Assert(data == has_data + registers.bvalid),
            Assert(~registers.bvalid | ((addresses != 0) & (data != 0))),
            Cover((addresses == 2) & (data == 1) & answers),
            Cover((addresses == 1) & (data == 2) & answers),
        ]
        due, known = Signal(), Signal()
        m.d.sync += [
            due.eq(has_address & has_data & ~registers.bvalid),
            known.eq(_names(address, [register.address for register in AXI_REGISTERS if register.writable])),
        ]
        with m.If(due):
            m.d.comb += [Assert(registers.bvalid), Assert((registers.bresp == OKAY) == known)]

    def _reads(self, m: Module, registers) -> None:
        due, known, waited = Signal(), Signal(), Signal()
        identity = range(0, Identity.as_shape().size // 8, AXI_BYTES)
        m.d.sync += [
            due.eq(registers.arvalid & registers.arready),
            known.eq(_names(registers.araddr, [*identity, *(register.address for register in AXI_REGISTERS)])),
            waited.eq(registers.rvalid & ~registers.rready),
        ]
        m.d.comb += [Assert(registers.rvalid == (due | waited)), Cover(due & ~known), Cover(due & known)]
        with m.If(due):
            m.d.comb += Assert((registers.rresp == OKAY) == known)


class Packets(Property):
    """`PacketEnds`, any frames, any delays, `abort` at any time.

    A unit taken is the next beat; beats wait unchanged. The last one has `tlast`, as the header's length says, and no
    other has, but for a beat of zeros that `abort` puts in the place of what has not been taken.
    """

    def __init__(self, module: ModuleType, link_bits: int) -> None:
        self.ends, self.per_word = module.PacketEnds(link_bits), WORD_BITS // link_bits
        super().__init__({"valid": In(1), "unit": In(link_bits), "abort": In(1), "tready": In(1)})

    def _units(self, header: Value) -> Value:
        """Of the frame, behind its first."""
        offset, width = codec.fields(Header)["length"]
        return (header[offset : offset + width] + 2) * self.per_word - 1

    def state(self, m: Module) -> None:
        ends = self.ends
        m.submodules.ends = Fragment.get(ends, None)
        offset, width = codec.fields(Header)["length"]
        length, taken, cut = self.unit[offset : offset + width], Signal(), Signal()
        m.d.comb += [
            ends.units.valid.eq(self.valid),
            ends.units.payload.eq(self.unit),
            ends.abort.eq(self.abort),
            ends.tready.eq(self.tready),
            Assume(ends.within | ~self.valid | ((length != 0) & (length <= MAX_PAYLOAD_WORDS))),
            taken.eq(self.valid & ends.units.ready),
            cut.eq(self.abort & ends.within & (~ends.tvalid | self.tready)),
            Assert(ends.units.ready == (~self.abort & (~ends.tvalid | self.tready))),
        ]
        waits(m, ends.tvalid, ends.tready, Cat(ends.tdata, ends.tlast))
        was_taken, was_cut, unit = Signal(), Signal(), Signal.like(self.unit)
        m.d.sync += [was_taken.eq(taken), was_cut.eq(cut), unit.eq(self.unit)]
        with m.If(was_taken):
            m.d.comb += Assert(ends.tvalid & (ends.tdata == unit))
        with m.If(was_cut):
            m.d.comb += Assert(ends.tvalid & (ends.tdata == 0) & ends.tlast)
        self._count(m, was_cut)

    def _count(self, m: Module, was_cut: Signal) -> None:
        """`ahead`: beats to come of the packet whose beats leave; `behind`: those behind the beat that waits."""
        ends, ahead, behind, holds_cut, is_cut = self.ends, Signal(18), Signal(18), Signal(), Signal()
        with m.If(ahead == 0):
            m.d.comb += behind.eq(self._units(ends.tdata))
        with m.Else():
            m.d.comb += behind.eq(ahead - 1)
        m.d.comb += is_cut.eq(was_cut | holds_cut)
        m.d.sync += holds_cut.eq(is_cut & ends.tvalid & ~ends.tready)
        with m.If(ends.tvalid):
            m.d.comb += [
                Assert(ends.tlast == (is_cut | ((ahead != 0) & (behind == 0)))),
                Assert(ends.left == Mux(ends.tlast, 0, behind)),
                Assert(~is_cut | (ahead != 0)),
            ]
            with m.If(ends.tready):
                m.d.sync += ahead.eq(Mux(ends.tlast, 0, behind))
        with m.Else():
            m.d.comb += [Assert(ends.left == ahead), Assert(~is_cut)]
        m.d.comb += [
            Cover(ends.tvalid & ends.tlast & ~is_cut & ends.tready),
            Cover(ends.tvalid & is_cut & (ahead == 2) & ends.tready),
        ]
