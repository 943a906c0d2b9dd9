"""The device for other people's systems: registers on AXI4-Lite, the link on two AXI4-Streams.

Sources: AMBA AXI and ACE Protocol Specification, Arm IHI 0022 (A3.2 handshakes, A3.3 dependencies between channels,
A3.1.2 reset, B1 AXI4-Lite); AMBA AXI-Stream Protocol Specification, Arm IHI 0051.
"""

from collections.abc import Iterator

from amaranth.hdl import Cat, ClockDomain, Const, Module, ResetInserter, Signal, Value
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig, ConfigError
from .contract import codec
from .contract.packets import MAX_PAYLOAD_WORDS, WORD_BITS, Header
from .contract.registers import AXI_ADDRESS_BITS, AXI_BYTES, AXI_REGISTERS, Access, Field, Identity, Register
from .top import Core

DATA_BITS = 8 * AXI_BYTES
TDATA_BITS = (32, 64)
OKAY, SLVERR = 0, 2
SENSOR_WIRES = ("scl", "sda")
RESET_CYCLES = 16  # of a reset by software: longer than any pipeline that has no reset of its own
_WORD_ADDRESS = (AXI_BYTES - 1).bit_length()  # address bits within a register, which are not looked at

#: Ports of an AXI4-Lite subordinate.
LITE_PORTS = {
    "awaddr": In(AXI_ADDRESS_BITS),
    "awprot": In(3),
    "awvalid": In(1),
    "awready": Out(1),
    "wdata": In(DATA_BITS),
    "wstrb": In(AXI_BYTES),
    "wvalid": In(1),
    "wready": Out(1),
    "bresp": Out(2),
    "bvalid": Out(1),
    "bready": In(1),
    "araddr": In(AXI_ADDRESS_BITS),
    "arprot": In(3),
    "arvalid": In(1),
    "arready": Out(1),
    "rdata": Out(DATA_BITS),
    "rresp": Out(2),
    "rvalid": Out(1),
    "rready": In(1),
}


def fields() -> Iterator[tuple[str, Register, Field]]:
    """All fields of `AXI_REGISTERS`, with the name that they have as members of `AxiRegisters`."""
    for register in AXI_REGISTERS:
        for field in register.fields:
            yield f"{register.name}_{field.name}", register, field


class AxiRegisters(wiring.Component):
    """The identity block and `AXI_REGISTERS` behind AXI4-Lite.

    awaddr .. rready  see `LITE_PORTS`; `awprot`, `arprot` and the low two bits of addresses are not looked at
    REGISTER_FIELD    for each field: in where it is read-only, else out, as it is stored
    .._event          in, for each field that is cleared by writing 1: sets it
    .._done           in, for each field that starts something: clears it
    irq               out(1)  some event's status and enable bits are both set; one cycle behind them
    awake             out(1)  low in reset and the cycle after it: masters may be up earlier, and nothing is taken then

    Address and data of a write come in any order; it is done in the cycle after both are there and the response before
    it was taken, and answered in the next one. Data of a read come in the cycle after its address. One write and one
    read at a time. Reset: all fields 0.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int) -> None:
        self.identity = codec.encode(Identity, **config.identity(fingerprint))
        members = dict(LITE_PORTS) | {"irq": Out(1), "awake": Out(1)}
        for name, _, field in fields():
            members[name] = (In if field.access == Access.READ else Out)(field.width)
            if field.access == Access.CLEAR:
                members[f"{name}_event"] = In(field.width)
            if field.access == Access.START:
                members[f"{name}_done"] = In(1)
        super().__init__(members)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.sync += self.awake.eq(1)
        self._write(m)
        self._read(m)
        status = {field.name: getattr(self, name) for name, _, field in fields() if field.access == Access.CLEAR}
        enabled = Cat(bits & getattr(self, f"interrupt_enable_{name}") for name, bits in status.items())
        m.d.sync += self.irq.eq(enabled.any())
        return m

    def _write(self, m: Module) -> None:
        has_address, has_data, write, known = Signal(), Signal(), Signal(), Signal()
        address, data, strobe = Signal(AXI_ADDRESS_BITS), Signal(DATA_BITS), Signal(AXI_BYTES)
        m.d.comb += [
            self.awready.eq(self.awake & ~has_address),
            self.wready.eq(self.awake & ~has_data),
            write.eq(has_address & has_data & ~self.bvalid),
        ]
        with m.If(self.awvalid & self.awready):
            m.d.sync += [has_address.eq(1), address.eq(self.awaddr)]
        with m.If(self.wvalid & self.wready):
            m.d.sync += [has_data.eq(1), data.eq(self.wdata), strobe.eq(self.wstrb)]
        with m.If(self.bready):
            m.d.sync += self.bvalid.eq(0)
        with m.If(write):
            m.d.sync += [has_address.eq(0), has_data.eq(0), self.bvalid.eq(1)]
            m.d.sync += self.bresp.eq(SLVERR)
            with m.If(known):
                m.d.sync += self.bresp.eq(OKAY)
        mask = Cat(enable.replicate(8) for enable in strobe)
        for register in AXI_REGISTERS:
            if register.writable:
                chosen = Signal(name=f"writes_{register.name}")
                m.d.comb += chosen.eq(write & (address[_WORD_ADDRESS:] == register.address // AXI_BYTES))
                with m.If(chosen):
                    m.d.comb += known.eq(1)
                for field in register.fields:
                    self._store(m, f"{register.name}_{field.name}", field, chosen, data, mask)

    def _store(self, m: Module, name: str, field: Field, chosen: Value, data: Value, mask: Value) -> None:
        stored, bits = getattr(self, name), slice(field.low, field.low + field.width)
        data, mask = data[bits], mask[bits] & chosen.replicate(field.width)
        if field.access == Access.WRITE:
            m.d.sync += stored.eq((data & mask) | (stored & ~mask))
        if field.access == Access.CLEAR:
            m.d.sync += stored.eq((stored & ~(data & mask)) | getattr(self, f"{name}_event"))
        if field.access == Access.START:
            m.d.sync += stored.eq((stored & ~getattr(self, f"{name}_done")) | (data & mask))

    def _read(self, m: Module) -> None:
        value, known = Signal(DATA_BITS), Signal()
        m.d.comb += [self.arready.eq(self.awake & ~self.rvalid), known.eq(1)]
        with m.Switch(self.araddr[_WORD_ADDRESS:]):
            for place in range(len(self.identity) * WORD_BITS // DATA_BITS):
                with m.Case(place):
                    bits = self.identity[place * DATA_BITS // WORD_BITS] >> place * DATA_BITS % WORD_BITS
                    m.d.comb += value.eq(Const(bits & (1 << DATA_BITS) - 1, DATA_BITS))
            for register in AXI_REGISTERS:
                with m.Case(register.address // AXI_BYTES):
                    for field in register.fields:
                        bits = slice(field.low, field.low + field.width)
                        m.d.comb += value[bits].eq(getattr(self, f"{register.name}_{field.name}"))
            with m.Default():
                m.d.comb += known.eq(0)
        with m.If(self.rready):
            m.d.sync += self.rvalid.eq(0)
        with m.If(self.arvalid & self.arready):
            m.d.sync += [self.rvalid.eq(1), self.rdata.eq(value), self.rresp.eq(SLVERR)]
            with m.If(known):
                m.d.sync += self.rresp.eq(OKAY)


class PacketEnds(wiring.Component):
    """Marks the last unit of each frame that the device sends, and holds one unit.

    units   in, stream of `link_bits` bits: frames, beginning with a header's first unit
    abort   in(1)   take no unit; end the frame under way by a unit of zeros
    within  out(1)  a frame has begun, and its last unit is not held yet
    tdata, tlast, tvalid, tready  AXI4-Stream; `tlast` with a frame's last unit

    A unit is valid in the cycle after it was taken, and stays so with or without `abort`; without gaps. Reset: empty,
    the next unit begins a frame.
    """

    def __init__(self, link_bits: int) -> None:
        self.link_bits = link_bits
        units = In(stream.Signature(link_bits))
        members = {"units": units, "abort": In(1), "within": Out(1)}
        super().__init__(members | {"tdata": Out(link_bits), "tlast": Out(1), "tvalid": Out(1), "tready": In(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        per_word = WORD_BITS // self.link_bits
        offset, width = codec.fields(Header)["length"]
        left, length = Signal(range((MAX_PAYLOAD_WORDS + 2) * per_word)), Signal(width)
        free, taken = Signal(), Signal()
        m.d.comb += [
            length.eq(self.units.payload[offset : offset + width]),
            free.eq(~self.tvalid | self.tready),
            self.units.ready.eq(free & ~self.abort),
            taken.eq(self.units.valid & self.units.ready),
            self.within.eq(left != 0),
        ]
        with m.If(self.tready):
            m.d.sync += self.tvalid.eq(0)
        with m.If(taken):
            m.d.sync += [self.tvalid.eq(1), self.tdata.eq(self.units.payload), self.tlast.eq(left == 1)]
            m.d.sync += left.eq(left - 1)
            with m.If(~self.within):
                header_and_trailer = 2
                m.d.sync += left.eq((length + header_and_trailer) * per_word - 1)
        with m.Elif(free & self.abort & self.within):
            m.d.sync += [self.tvalid.eq(1), self.tdata.eq(0), self.tlast.eq(1), left.eq(0)]
        return m


def check(config: ArrayConfig) -> int:
    """`config.link_bits`; raises `ConfigError` where the streams cannot be that wide, and for sensors on another bus
    than two wires."""
    if config.measures and config.sensor_bus not in ("i2c", "pmbus"):
        raise ConfigError(
            f"feature {config.sensor_bus}: AXI devices have sensors on an I2C bus or a PMBus alone; leave it out"
        )
    if config.link_bits not in TDATA_BITS:
        raise ConfigError(f"link_bits = {config.link_bits} is not for AXI4-Stream; set link_bits to 32 or 64")
    return config.link_bits


class AxiTop(wiring.Component):
    """`Core` with AXI ports, all of the clock `aclk`. `config.link_bits` is the width of TDATA: 32 or 64.

    aclk       in(1)
    aresetn    in(1)   low resets; asynchronous, synchronised here: it ends two cycles late
    irq        out(1)  level, high active; see `AxiRegisters`
    s_axi_*    AXI4-Lite subordinate; see `AxiRegisters`
    s_axis_*   AXI4-Stream in: the link's units, as many as you like in a packet (`tlast` is not looked at). A beat with
               some bit of `tkeep` low is dropped and counted.
    m_axis_*   AXI4-Stream out: one frame in each packet, `tkeep` all ones
    i2c_*_*    with the feature "power": the wires scl and sda of a bus of sensors, of each `_i` in(1), asynchronous,
               `_o` out(1), always 0, and `_t` out(1), high to let it go

    No output depends on an input of its own channel in the same cycle; what is valid waits, unchanged, until it is
    taken (A3.2.1). Valid and ready are low from the first clock edge in reset on. Raises `ConfigError` as `check`.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        bits = check(config)
        self.config, self.core = config, Core(config, fingerprint)
        self.registers = AxiRegisters(config, fingerprint)
        self.ends = PacketEnds(bits)
        members = {"aclk": In(1), "aresetn": In(1), "irq": Out(1)}
        members |= {f"s_axi_{name}": member for name, member in LITE_PORTS.items()}
        beat = {"tdata": Out(bits), "tkeep": Out(bits // 8), "tlast": Out(1), "tvalid": Out(1), "tready": In(1)}
        members |= {f"s_axis_{name}": member.flip() for name, member in beat.items()}
        members |= {f"m_axis_{name}": member for name, member in beat.items()}
        if config.measures:
            for wire in SENSOR_WIRES:
                members |= {f"i2c_{wire}_i": In(1, init=1), f"i2c_{wire}_o": Out(1), f"i2c_{wire}_t": Out(1, init=1)}
        super().__init__(members)

    def elaborate(self, platform) -> Module:
        m = Module()
        m.domains.sync = domain = ClockDomain()
        domain.clk = self.aclk
        m.submodules.reset = ResetSynchronizer(~self.aresetn)
        m.submodules.registers = registers = self.registers
        m.submodules.core = ResetInserter(registers.control_reset)(self.core)
        m.submodules.ends = self.ends
        for name, member in LITE_PORTS.items():
            ours, theirs = getattr(self, f"s_axi_{name}"), getattr(registers, name)
            m.d.comb += theirs.eq(ours) if member.flow == In else ours.eq(theirs)
        m.d.comb += self.irq.eq(registers.irq)
        for wire in SENSOR_WIRES if self.config.measures else ():
            m.d.comb += [
                getattr(self.core, f"{wire}_i").eq(getattr(self, f"i2c_{wire}_i")),
                getattr(self, f"i2c_{wire}_t").eq(~getattr(self.core, f"{wire}_low")),
            ]
        self._receive(m)
        self._send(m)
        self._restart(m)
        return m

    def _receive(self, m: Module) -> None:
        core, registers = self.core, self.registers
        whole, taken, running = Signal(), Signal(), Signal()
        m.d.comb += [
            running.eq(registers.awake & ~registers.control_reset),
            whole.eq(self.s_axis_tkeep.all()),
            self.s_axis_tready.eq(core.rx.ready & running),
            taken.eq(self.s_axis_tvalid & self.s_axis_tready),
            core.rx.valid.eq(self.s_axis_tvalid & whole & running),
            core.rx.payload.eq(self.s_axis_tdata),
            registers.status_rx_waits.eq(self.s_axis_tvalid & ~self.s_axis_tready),
            registers.interrupt_status_rx_partial_event.eq(taken & ~whole & self.s_axis_tkeep.any()),
        ]
        self._count(m, registers.rx_beats_value, taken & whole)
        self._count(m, registers.rx_dropped_value, taken & ~whole)

    def _send(self, m: Module) -> None:
        core, registers, ends = self.core, self.registers, self.ends
        taken = Signal()
        wiring.connect(m, core.tx, ends.units)
        m.d.comb += [
            ends.abort.eq(registers.control_reset),
            ends.tready.eq(self.m_axis_tready),
            self.m_axis_tvalid.eq(ends.tvalid),
            self.m_axis_tdata.eq(ends.tdata),
            self.m_axis_tlast.eq(ends.tlast),
            self.m_axis_tkeep.eq(~0),
            taken.eq(self.m_axis_tvalid & self.m_axis_tready),
            registers.status_tx_waits.eq(self.m_axis_tvalid & ~self.m_axis_tready),
            registers.interrupt_status_answer_event.eq(taken & self.m_axis_tlast),
        ]
        self._count(m, registers.tx_beats_value, taken)
        self._count(m, registers.tx_packets_value, taken & self.m_axis_tlast)

    @staticmethod
    def _count(m: Module, register: Signal, event: Value) -> None:
        counted = Signal.like(register, name="counted")
        m.d.sync += counted.eq(counted + event)
        m.d.comb += register.eq(counted)

    def _restart(self, m: Module) -> None:
        """The device is in reset while software's bit is set: until the packet under way has its end."""
        registers, cycles, was_idle = self.registers, Signal(range(RESET_CYCLES)), Signal(init=1)
        idle = registers.status_idle
        m.d.comb += [
            registers.control_reset_done.eq((cycles == RESET_CYCLES - 1) & ~self.ends.within),
            idle.eq(self.core.idle & ~self.m_axis_tvalid & ~registers.control_reset),
            registers.interrupt_status_idle_event.eq(idle & ~was_idle),
        ]
        m.d.sync += was_idle.eq(idle)
        with m.If(~registers.control_reset | registers.control_reset_done):
            m.d.sync += cycles.eq(0)
        with m.Elif(cycles != RESET_CYCLES - 1):
            m.d.sync += cycles.eq(cycles + 1)
