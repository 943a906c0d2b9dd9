"""The space POWER (`contract.power`): sensors, and the sums of what they say."""

from amaranth.hdl import Module, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from ..contract.power import CONTROL_ROW, TRANSFER_ROW, WRITTEN_ROWS, Control, State
from ..counters import PHASE_BITS
from ..ports import BUS_PINS, MemoryWrite, connect_sensors, word_stream
from .i2c import tick_cycles
from .sampler import Sampler
from .spans import Spans
from .sums import STATE_BITS, Sums

ROW_BITS = (WRITTEN_ROWS - 1).bit_length()


class PowerMonitor(wiring.Component):
    """Measures while the device works.

    write        in       rows of the space POWER, word 0
    read_start   in(1)    READ: words are wanted from `read_first` on
    read_first   in(16)
    words        out, stream of words: those, one after another until the next `read_start`; held back while something
                 of a CONTROL or a transfer is under way
    phase        in(8)    of this cycle; its lowest three bits count
    scl_i, sda_i      in(1)   pins, asynchronous
    scl_low, sda_low  out(1)  registers: pull the wire low
    miso, sclk, mosi, cs_n   instead of these where `bus` is "spi": as those of `spi.SpiTransfers`
    drp_*, sequence_ended    likewise where it is "xadc": as those of `xadc.XadcTransfers`
    busy         out(1)   something of a CONTROL or a transfer is under way, or rounds are

    Sums and records are cleared behind a reset, which takes 32768 cycles, like each `clear`; `snapshot` takes 8192.
    Words come every 128 cycles, later while samples are added up. A CONTROL that comes before the last one is done is
    done with it, as one; a transfer takes the place of one that has not begun.
    """

    def __init__(self, clock_khz: int, bus: str = "i2c") -> None:
        self.sampler, self.spans = Sampler(clock_khz, bus), Spans()
        self.sums = Sums(exact_log2(tick_cycles(clock_khz)))
        super().__init__(
            {
                "write": In(MemoryWrite()),
                "read_start": In(1),
                "read_first": In(16),
                "words": Out(word_stream()),
                "phase": In(PHASE_BITS),
                "busy": Out(1),
            }
            | BUS_PINS[bus]
        )

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sampler, m.submodules.sums, m.submodules.span_queue = sampler, sums, spans = (
            self.sampler,
            self.sums,
            self.spans,
        )
        wiring.connect(m, wiring.flipped(self.write), sampler.write)
        wiring.connect(m, wiring.flipped(self.words), sums.words)
        connect_sensors(m, self, sampler)
        run, hold = self._control(m)
        m.d.comb += [
            spans.phase.eq(self.phase),
            spans.forget.eq(sums.clears | (sampler.rests & ~run)),
            spans.close.eq(sampler.close),
            spans.rewind.eq(sums.rewind),
            spans.next.eq(sums.next),
            *(
                getattr(sums, name).eq(getattr(spans, name))
                for name in ("known", "last", "span_phase", "span_cycles", "last_phase")
            ),
            sums.sample.eq(sampler.sample),
            sums.take.eq(sampler.take),
            sums.nibble.eq(sampler.nibble),
            sums.close.eq(sampler.close),
            sums.between.eq(~sampler.opened),
            sampler.idle.eq(sums.idle),
            sampler.late.eq(spans.late),
            sampler.tick.eq(sums.tick),
            sampler.beat.eq(sums.beat),
            sums.start.eq(self.read_start),
            sums.first.eq(self.read_first),
            sums.hold.eq(hold),
            self.busy.eq(hold | run),
        ]
        self._note(m, run)
        return m

    def _control(self, m: Module) -> tuple[Signal, Value]:
        """What is to be done until it is; whether it runs, and whether READs wait."""
        sampler, sums, control = self.sampler, self.sums, data.View(Control, self.write.data)
        run, transfer, done, acknowledged = Signal(), Signal(), Signal(), Signal()
        asked = {"recover": Signal(), "clear": Signal(init=1), "snapshot": Signal()}
        ends = {"recover": sampler.recovered, "clear": sums.cleared, "snapshot": sums.copied}
        row = self.write.row[:ROW_BITS]
        controls = self.write.valid & (row == CONTROL_ROW)
        for name, pending in asked.items():
            m.d.sync += pending.eq((pending & ~ends[name]) | (controls & getattr(control, name)))
        with m.If(controls):
            m.d.sync += [run.eq(control.run), sums.record.eq(control.record)]
        with m.If(run):
            m.d.sync += done.eq(0)
        with m.If(sampler.transferred):
            m.d.sync += [transfer.eq(0), done.eq(1), acknowledged.eq(sampler.acknowledged)]
            m.d.sync += sums.result_bytes.eq(sampler.result_bytes)
        with m.If(self.write.valid & (row == TRANSFER_ROW)):
            m.d.sync += [transfer.eq(~run), done.eq(0)]
        m.d.comb += [
            sampler.run.eq(run),
            sampler.recover.eq(asked["recover"]),
            sampler.transfer.eq(transfer),
            sampler.pause.eq(asked["clear"]),
            sums.clear.eq(asked["clear"]),
            sums.copy.eq(asked["snapshot"]),
            sums.done.eq(done),
            sums.acknowledged.eq(acknowledged),
        ]
        pending = asked["recover"] | asked["clear"] | asked["snapshot"] | transfer
        return run, pending | (~run & ~sampler.rests)

    def _note(self, m: Module, run: Signal) -> None:
        """Word 0: what is now, and faults since `clear`."""
        sampler, sums, spans = self.sampler, self.sums, self.spans
        state = Signal(State)
        faults = {
            "silent": sampler.silent,
            "saturated": sampler.saturated,
            "overflow": sums.overflow,
            "late": spans.late,
            "stretched": sampler.stretched,
        }
        m.d.comb += [
            state.running.eq(run),
            state.sda.eq(sampler.sda),
            state.scl.eq(sampler.scl),
            sums.state.eq(state.as_value()[:STATE_BITS]),
        ]
        for name, fault in faults.items():
            noted = Signal(len(fault), name=name)
            m.d.comb += getattr(state, name).eq(noted)
            m.d.sync += noted.eq(noted | fault)
            with m.If(sums.clears):
                m.d.sync += noted.eq(0)
