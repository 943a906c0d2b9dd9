"""The whole device: link, frames, sequencer, store, gather unit, engine, readout, counters."""

from dataclasses import replace

from amaranth.hdl import Cat, Const, DomainRenamer, Module, Mux, Signal, Value
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.packets import MAX_DATA_WORDS, WORD_BITS, Status
from .counters import Counters
from .crossing import cross
from .engine import MatmulEngine
from .frames import FrameLink, Reply
from .gather import Gather
from .ports import connect_sensors, sensor_pins
from .power.monitor import PowerMonitor
from .queues import ReadyFIFO
from .raw_readout import RawReadout
from .readout import Readout
from .sequencer import Sequencer
from .store import TensorStore
from .trace import Trace
from .uart import UART, check_divisor
from .update import Updater

REPLY_QUEUE = 16  # acknowledgements that may wait for the transmitter
UART_BAUD = 1_000_000


class Core(wiring.Component):
    """The device between two streams of link units.

    rx    in, stream of `config.link_bits` bits, least significant unit of each word first
    tx    out, likewise
    idle  out(1)  nothing buffered, running or to be sent, or stuck (see `Trace`): nothing changes (but `cycles`,
                  `starved_cycles`, and what goes on in the power monitor) until the next unit comes. The start of a
                  frame may be in.
    `ports.sensor_pins` with the feature "power"

    Answers come in the order of the commands, except that those of READ of SUMS come when their sums do. `rx` is not
    held up while the host keeps to its credit. Reset: as after switching on; memories keep what they hold.
    """

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.config = config
        self.fingerprint = fingerprint
        units = stream.Signature(config.link_bits)
        super().__init__({"rx": In(units), "tx": Out(units), "idle": Out(1)} | sensor_pins(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        config = self.config
        m.submodules.link = link = FrameLink(config, sources=2 + config.traces)
        m.submodules.sequencer = sequencer = Sequencer(config, self.fingerprint)
        m.submodules.engine = engine = MatmulEngine(config)
        m.submodules.readout = readout = Readout(config) if config.requantises else RawReadout(config)
        m.submodules.counters = counters = Counters(config)
        # without "gather" each WRITE is answered, and without the credit in its answer the host sends no more of them
        depth = REPLY_QUEUE if config.gathers else config.rx_words // MAX_DATA_WORDS
        m.submodules.replies = replies = fifo.SyncFIFO(width=Reply.as_shape().size, depth=depth)

        wiring.connect(m, wiring.flipped(self.rx), link.rx)
        wiring.connect(m, link.tx, wiring.flipped(self.tx))
        wiring.connect(m, link.frames, sequencer.frames)
        wiring.connect(m, sequencer.sum_replies, link.replies[-2])
        sums_left = self._queue_sums(m, readout, link.data[-2])
        wiring.connect(m, replies.r_stream, link.replies[-1])
        wiring.connect(m, sequencer.data, link.data[-1])
        wiring.connect(m, sequencer.start, engine.start)
        wiring.connect(m, sequencer.job, readout.start)
        wiring.connect(m, readout.sum_read, engine.sum_read)
        wiring.connect(m, sequencer.sum_write, engine.sum_write)
        wiring.connect(m, sequencer.program_write, engine.program_write)
        if config.gathers:
            self._gather(m, sequencer, engine, counters)
        else:
            wiring.connect(m, sequencer.a_cells_write, engine.a_write)
            wiring.connect(m, sequencer.b_cells_write, engine.b_write)
        working, done, is_stuck = Signal(), Signal(), Signal()
        m.d.comb += [
            replies.w_data.eq(sequencer.replies.payload),
            replies.w_en.eq(sequencer.replies.valid),
            sequencer.replies.ready.eq(replies.w_rdy),
            sequencer.engine_walking.eq(engine.walking),  # a LOAD behind it writes no cell within three cycles
            sequencer.engine_storing.eq(engine.storing),
            sequencer.engine_busy.eq(engine.busy),
            sequencer.readout_busy.eq(readout.busy),
            working.eq(sequencer.gather_busy | engine.busy | readout.busy),
            done.eq(link.idle & sequencer.idle & ~working & ~replies.r_rdy & ~sums_left),
            self.idle.eq(done | is_stuck),
        ]
        if config.traces:
            self._trace(m, link, sequencer, engine, readout, done, is_stuck)
        if config.measures:
            self._measure(m, sequencer)
        self._count(m, counters, link, sequencer, engine, readout, done)
        return m

    def _queue_sums(self, m: Module, readout: Readout | RawReadout, words: stream.Interface) -> Value:
        """The readout's words to the link, by a queue of two answers where they are requantised; whether it has some.

        Else the readout waits with the answer.
        """
        if not self.config.requantises:
            m.d.comb += [
                words.valid.eq(readout.words.valid),
                words.payload.eq(readout.words.payload.data),
                readout.words.ready.eq(words.ready),
            ]
            return Const(0)
        m.submodules.sums = sums = ReadyFIFO(width=WORD_BITS, depth=2 * MAX_DATA_WORDS)
        wiring.connect(m, sums.r_stream, words)
        m.d.comb += [
            sums.w_data.eq(readout.words.payload.data),
            sums.w_en.eq(readout.words.valid),
            readout.words.ready.eq(sums.w_rdy),
        ]
        return sums.level != 0

    def _gather(self, m: Module, sequencer, engine, counters) -> None:
        """Tensor store and gather unit between sequencer and operand cells."""
        m.submodules.store = store = TensorStore(self.config)
        m.submodules.gather = gather = Gather(self.config)
        wiring.connect(m, sequencer.list_write, gather.list_write)
        wiring.connect(m, sequencer.load, gather.start)
        wiring.connect(m, gather.a_write, engine.a_write)
        wiring.connect(m, gather.b_write, engine.b_write)
        m.d.comb += [
            sequencer.gather_busy.eq(gather.busy),
            counters.load_cycles.eq(gather.events.busy),
            counters.fetches_a.eq(gather.events.fetch_a),
            counters.fetches_b.eq(gather.events.fetch_b),
        ]
        self._share_store(m, sequencer, gather, store, counters)

    def _share_store(self, m: Module, sequencer, gather, store, counters) -> None:
        """The updater has the store while it is busy: gather unit and WRITEs rest then."""
        if not self.config.updates:
            wiring.connect(m, sequencer.store_write, store.write)
            wiring.connect(m, gather.read, store.read)
            return
        m.submodules.updater = updater = Updater(self.config)
        wiring.connect(m, sequencer.update, updater.start)
        wiring.connect(m, updater.words, sequencer.stored)
        m.d.comb += [
            sequencer.updating.eq(updater.busy),
            counters.update_cycles.eq(updater.counted),
            sequencer.largest.eq(updater.largest),
            gather.read.ready.eq(store.read.ready & ~updater.busy),
            updater.read.ready.eq(1),
            store.read.enable.eq(Mux(updater.busy, updater.read.enable, gather.read.enable)),
            store.read.word.eq(Mux(updater.busy, updater.read.word, gather.read.word)),
            store.write.valid.eq(sequencer.store_write.valid | updater.write.valid),
        ]
        for reader in gather.read, updater.read:
            m.d.comb += [taken.eq(word) for taken, word in zip(reader.data, store.read.data, strict=True)]
        for name in "row", "word", "data":
            writers = (getattr(writer, name) for writer in (updater.write, sequencer.store_write))
            m.d.comb += getattr(store.write, name).eq(Mux(updater.busy, *writers))

    def _trace(self, m: Module, link, sequencer, engine, readout, done: Signal, is_stuck: Signal) -> None:
        """Watchdog and memory of commands. Something advances with each word and command, and where a unit is done.

        Frames of the link's own do not count, so that answers to knocks leave the watchdog alone.
        """
        asked = Signal()  # a knock waits for its answer
        m.submodules.trace = trace = Trace(self.config)
        wiring.connect(m, trace.replies, link.replies[0])
        wiring.connect(m, trace.data, link.data[0])
        before = Signal.like(trace.at_work)
        working_units = sequencer.gather_busy, engine.walking, engine.storing, readout.busy, sequencer.updating
        # the link is told a cycle later, of very many: what moves in that one moves too late
        m.d.sync += [before.eq(trace.at_work), link.stuck.eq(trace.stuck)]
        moves = [sequencer.frames, sequencer.replies, readout.words, *link.replies[1:], *link.data[1:]]
        m.d.comb += [
            trace.command.eq(sequencer.command),
            trace.at_hand.eq(sequencer.replies.payload),
            trace.fault.eq(link.frame_error | link.sequence_error),
            trace.fault_status.eq(Mux(link.frame_error, Status.BAD_FRAME, Status.BAD_SEQUENCE)),
            trace.fault_sequence.eq(link.sequence),
            trace.at_work.eq(Cat(working_units)),
            trace.advances.eq(
                Cat(words.valid & words.ready for words in moves).any() | sequencer.command | (before != trace.at_work)
            ),
            trace.idle.eq(done),
            trace.held.eq(self.tx.valid & ~self.tx.ready),
            trace.knock.eq(link.knock),
            trace.token.eq(link.token),
            trace.abandoned.eq(link.abandoned),
            asked.eq(trace.replies.valid),
            is_stuck.eq(trace.stuck & link.quiet & ~asked),
        ]
        with m.If(asked):
            m.d.comb += done.eq(0)

    def _measure(self, m: Module, sequencer) -> None:
        """The power monitor; its phase is the counters', one cycle later."""
        m.submodules.power = monitor = PowerMonitor(self.config.clock_khz, self.config.sensor_bus)
        wiring.connect(m, sequencer.power_write, monitor.write)
        wiring.connect(m, monitor.words, sequencer.power)
        connect_sensors(m, self, monitor)
        m.d.comb += [monitor.read_start.eq(sequencer.power_start), monitor.read_first.eq(sequencer.power_first)]
        with m.If(sequencer.clear):
            m.d.sync += monitor.phase.eq(0)
        with m.Elif(sequencer.set_phase):
            m.d.sync += monitor.phase.eq(sequencer.phase)

    def _count(self, m: Module, counters, link, sequencer, engine, readout, done: Signal) -> None:
        wiring.connect(m, counters.words, sequencer.counters)
        starved = Signal()  # counted a cycle later: no command ends so soon
        m.d.sync += starved.eq(done & ~self.rx.valid)
        m.d.comb += [
            counters.snapshot.eq(sequencer.snapshot),
            counters.clear.eq(sequencer.clear),
            counters.set_phase.eq(sequencer.set_phase),
            counters.phase.eq(sequencer.phase),
            counters.cycles.eq(1),
            counters.starved_cycles.eq(starved),
            counters.rx_words.eq(link.received),
            counters.tx_words.eq(link.sent),
            counters.frame_errors.eq(link.frame_error),
            counters.sequence_errors.eq(link.sequence_error),
            counters.load_wait_cycles.eq(sequencer.load_wait),
            counters.read_wait_cycles.eq(sequencer.read_wait),
            counters.commands.eq(sequencer.command),
            counters.faults.eq(sequencer.fault),
            counters.matmuls.eq(sequencer.matmul),
            counters.matmul_cycles.eq(engine.events.busy),
            counters.array_steps.eq(engine.events.step),
            counters.stall_cycles.eq(engine.events.stall),
            counters.serial_ones.eq(engine.events.serial_ones),
            counters.gated_steps.eq(engine.events.gated),
            counters.loads.eq(sequencer.load_started),
            counters.updates.eq(sequencer.update_started),
            counters.words_written.eq(sequencer.word_written),
            counters.elements_read.eq(readout.elements),
            counters.saturated.eq(readout.saturated),
            counters.overflows.eq(engine.events.overflow),
        ]


def uart_divisor(config: ArrayConfig) -> int:
    """Clock cycles a bit for `UART_BAUD`. Raises `ValueError` when the clock is too slow."""
    return check_divisor(round(config.clock_khz * 1000 / UART_BAUD))


class UartTop(wiring.Component):
    """`Core` behind a UART; `config.link_bits` is taken as 8.

    rx_pin  in(1)   asynchronous
    tx_pin  out(1)
    `ports.sensor_pins` with the feature "power"

    `divisor`: clock cycles a bit; by default 1 Mbaud at the configuration's clock. A byte that finds no room is
    lost and shows as a damaged frame. `link_domain`: clock domain of the UART, whose cycles `divisor` then counts;
    bytes cross to and from the core's by `ClockCrossing`.
    """

    def __init__(
        self, config: ArrayConfig, fingerprint: int = 0, divisor: int | None = None, link_domain: str = "sync"
    ) -> None:
        self.divisor = uart_divisor(config) if divisor is None else check_divisor(divisor)
        self.link_domain = link_domain
        self.core = Core(replace(config, link_bits=8), fingerprint)
        super().__init__({"rx_pin": In(1, init=1), "tx_pin": Out(1, init=1)} | sensor_pins(config))

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.core = self.core
        connect_sensors(m, self, self.core)
        uart = UART(self.divisor)
        m.submodules.uart = DomainRenamer(self.link_domain)(uart)
        if self.link_domain == "sync":
            wiring.connect(m, uart.tx, self.core.rx)
            wiring.connect(m, self.core.tx, uart.rx)
        else:
            cross(m, uart.tx, self.core.rx, self.link_domain, "sync")
            cross(m, self.core.tx, uart.rx, "sync", self.link_domain)
        m.d.comb += [uart.rx_pin.eq(self.rx_pin), self.tx_pin.eq(uart.tx_pin)]
        return m
