"""The frame layer: frames in, with CRC-32, sequence, commit and rollback; frames out."""

import zlib
from collections.abc import Callable

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .config import ArrayConfig
from .contract.packets import (
    KNOCK_SYNC,
    MAX_DATA_WORDS,
    SYNC,
    WORD_BITS,
    Header,
    Knock,
    Opcode,
    Response,
    Status,
    Trailer,
)
from .crc import Crc32
from .link import WidthConverter
from .operands import NO_COLLISIONS
from .ports import word_stream
from .queues import SkidBuffer

POINTER_BITS = 16  # as `Response.credit`, so that the read pointer is the credit
_CHECKED_BYTES = 6
_SYNC_BITS = 16
_CHECK_BITS = 16
_CHECKED = slice(_SYNC_BITS, 8 * _CHECKED_BYTES)  # bits behind `sync` that `check` is made of


class Reply(data.Struct):
    """A frame to send: what is known of its `Response`, and the number of data words behind it."""

    opcode: 8
    status: Status
    sequence: 16
    words: range(MAX_DATA_WORDS + 1)


def header_check(sync: int, rest: Value) -> Value:
    """`Header.check` of a header with `sync` and the 32 bits behind it, combinational.

    CRC-32 is linear: so XORs, and a constant.
    """
    first_bits = Cat(Const(sync, _SYNC_BITS), rest)
    constant = zlib.crc32(bytes(_CHECKED_BYTES))
    columns = [zlib.crc32((1 << i).to_bytes(_CHECKED_BYTES, "little")) ^ constant for i in range(8 * _CHECKED_BYTES)]
    rows = [Cat(first_bits[i] for i, column in enumerate(columns) if column >> bit & 1) for bit in range(_CHECK_BITS)]
    return Cat(row.xor() for row in rows) ^ Const(constant & (1 << _CHECK_BITS) - 1, _CHECK_BITS)


def _is_knock(word: Value) -> Value:
    knock = Knock(word)
    right = knock.check == header_check(KNOCK_SYNC, word[_CHECKED])
    return (knock.sync == KNOCK_SYNC) & (knock.reserved0 == 0) & right


class FrameReceiver(wiring.Component):
    """Checks frames, stores them in the receive buffer, and hands the accepted ones on.

    A frame is accepted when its CRC-32 is right and its sequence number is `next_sequence`, or any with
    `restart`. Other frames are rolled back and answered: damaged ones with BAD_FRAME, others with BAD_SEQUENCE.
    After an answer, frames ahead of `next_sequence` are passed over in silence until a frame is accepted; frames
    at or behind it are always answered. A word that should be a header but is none is dropped with `slide`. With the
    feature "trace", a `Knock` in its place is reported, whether the buffer has room or not.

    rx               in, stream of words
    leaves, coming   in       the lowest unit of `config.link_bits` leaves `rx.payload`, which will be `coming`: as of
                     `link.WidthConverter`
    slide            out, with `rx.valid` and `rx.ready`: only the first unit of `rx.payload` is dropped, not all of it
    frames           out, stream of words: `Header` and payload of each accepted frame
    answers          out, stream of `Reply` without data. One that waits gives way to a later one, except to
                     one for a repeated frame (the host goes back on the others)
    next_sequence    out(16)  sequence number of the frame expected next
    credit           out(16)  words taken out of the buffer since reset, modulo 2**16
    accepted         out(1)   high for one cycle per accepted frame
    restarted        out(1)   high with `accepted` when the frame had `restart`
    received         out(1)   high for one cycle per word taken, except words dropped with `slide`
    frame_error      out(1)   high for one cycle per damaged frame
    sequence_error   out(1)   high for one cycle per frame out of sequence
    sequence         out(16)  number of the frame under way, or just judged
    stuck            in(1)    wait for no room: a frame that finds none is damaged
    knock            out(1)   high for one cycle per knock
    token            out(16)  with `knock`
    idle             out(1)   buffer and answers are empty; the start of a frame may be in

    Takes one word a cycle while the buffer (`rx_words`) has room, and of a full one two cycles after a word is freed. A
    frame's first word comes out two cycles after its trailer is taken, the others one a cycle. Reset empties
    everything, expects sequence 0, credit 0.
    """

    def __init__(self, config: ArrayConfig) -> None:
        self.config = config
        super().__init__(
            {
                "rx": In(word_stream()),
                "leaves": In(1),
                "coming": In(WORD_BITS),
                "slide": Out(1),
                "frames": Out(word_stream()),
                "answers": Out(stream.Signature(Reply)),
                "next_sequence": Out(16),
                "credit": Out(POINTER_BITS),
                "accepted": Out(1),
                "restarted": Out(1),
                "received": Out(1),
                "frame_error": Out(1),
                "sequence_error": Out(1),
                "sequence": Out(16),
                "stuck": In(1),
                "knock": Out(1),
                "token": Out(16),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        buffer = memory.Memory(shape=WORD_BITS, depth=self.config.rx_words, init=[], attrs=NO_COLLISIONS)
        m.submodules.buffer = buffer
        committed = Signal(exact_log2(self.config.rx_words) + 1)
        self._receive(m, buffer.write_port(), committed)
        self._fetch(m, buffer.read_port(domain="comb"), committed)
        m.d.comb += self.idle.eq(
            (committed == self.credit[: len(committed)]) & ~self.frames.valid & ~self.answers.valid
        )
        return m

    def _find_knock(self, m: Module) -> Value:
        """Whether the word at hand is a knock, if it stands in the place of a header."""
        if not self.config.traces:
            return Const(0)
        m.d.comb += self.token.eq(Knock(self.rx.payload).token)
        return self._foresee(m, "is_knock", _is_knock)

    def _foresee(self, m: Module, name: str, test: Callable[[Value], Value]) -> Signal:
        """The test of the word at hand, made as its last unit comes in; with 64-bit links when it is there."""
        passes = Signal(name=name)
        if self.config.link_bits == WORD_BITS:
            m.d.comb += passes.eq(test(self.rx.payload))
        else:
            with m.If(self.leaves):
                m.d.sync += passes.eq(test(self.coming))
        return passes

    def _is_header(self, word: Value) -> Value:
        header = Header(word)
        return (
            (header.sync == SYNC)
            & (header.length != 0)
            & (header.length <= self.config.max_payload_words)
            & (header.check == header_check(SYNC, word[_CHECKED]))
        )

    def _receive(self, m: Module, write_port, committed: Signal) -> None:
        m.submodules.checker = checker = Crc32(self.config.link_bits)
        header, trailer = Header(self.rx.payload), Trailer(self.rx.payload)
        write, left = Signal.like(committed), Signal(range(self.config.max_payload_words + 1))
        sequence, restart = Signal(16), Signal()
        full = Signal()  # or was, until the word that left in the cycle before: no host knows of that one yet
        taken, crc_right, refused = Signal(), Signal(), Signal()
        header_right = self._foresee(m, "header_right", self._is_header)
        in_sequence = restart | (sequence == self.next_sequence)
        lacks_room, lacked_room = Signal(), Signal()  # the word at hand, one of the frame
        knocks = self._find_knock(m)
        m.d.comb += [
            taken.eq(self.rx.valid & self.rx.ready),
            self.received.eq(taken & ~self.slide),
            checker.data.eq(self.rx.payload[: self.config.link_bits]),
            checker.valid.eq(self.leaves),
            lacks_room.eq(full & self.stuck),
            crc_right.eq((trailer.crc == checker.crc) & (trailer.reserved == 0) & ~lacked_room),
            self.sequence.eq(sequence),
            write_port.addr.eq(write),
            write_port.data.eq(self.rx.payload),
        ]
        next_write = (write + 1)[: len(write)]
        # a register, so that the way from credit to buffer is cut
        m.d.sync += full.eq(Mux(write_port.en, self._fills(next_write), self._fills(write)))
        with m.If(write_port.en):
            m.d.sync += write.eq(next_write)
        with m.FSM():
            with m.State("HEADER"):
                m.d.comb += [
                    self.rx.ready.eq(~full | lacks_room | knocks),
                    self.slide.eq(~header_right & ~knocks),
                    self.knock.eq(taken & knocks),
                    checker.start.eq(1),
                    write_port.en.eq(taken & header_right & ~lacks_room),
                ]
                m.d.sync += [left.eq(header.length), sequence.eq(header.sequence), restart.eq(header.restart)]
                m.d.sync += lacked_room.eq(lacks_room)
                with m.If(taken & header_right):
                    m.next = "PAYLOAD"
            with m.State("PAYLOAD"):
                m.d.comb += [
                    self.rx.ready.eq(~full | lacks_room),
                    write_port.en.eq(taken & ~lacks_room),
                ]
                with m.If(taken):
                    m.d.sync += [left.eq(left - 1), lacked_room.eq(lacked_room | lacks_room)]
                    with m.If(left == 1):
                        m.next = "TRAILER"
            with m.State("TRAILER"):
                m.d.comb += [
                    self.rx.ready.eq(1),
                    self.accepted.eq(taken & crc_right & in_sequence),
                    self.restarted.eq(self.accepted & restart),
                    refused.eq(taken & ~(crc_right & in_sequence)),
                    self.frame_error.eq(taken & ~crc_right),
                    self.sequence_error.eq(taken & crc_right & ~in_sequence),
                ]
                with m.If(self.accepted):
                    m.d.sync += [committed.eq(write), self.next_sequence.eq(sequence + 1)]
                with m.Elif(taken):
                    m.d.sync += write.eq(committed)
                    with m.If(~lacked_room):  # all its words go, of which there are two at least
                        m.d.sync += full.eq(0)
                with m.If(taken):
                    m.next = "HEADER"
        self._answer(m, sequence, refused, crc_right)

    def _fills(self, write: Value) -> Value:
        """Whether the buffer is full when `write` is where the next word goes."""
        return (write ^ self.credit)[: len(write)] == self.config.rx_words  # a power of two

    def _answer(self, m: Module, sequence: Signal, refused: Signal, crc_right: Signal) -> None:
        ahead, silent = Signal(16), Signal()
        is_future, is_repeated, due, replaces = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            ahead.eq(sequence - self.next_sequence),
            is_future.eq((ahead != 0) & ~ahead[-1]),
            is_repeated.eq(ahead[-1] & crc_right),
            due.eq(refused & ~(silent & is_future)),
            replaces.eq(due & (~self.answers.valid | self.answers.ready | ~is_repeated)),
        ]
        with m.If(self.accepted):
            m.d.sync += silent.eq(0)
        with m.Elif(due & ~is_repeated):
            m.d.sync += silent.eq(1)
        with m.If(self.answers.ready):
            m.d.sync += self.answers.valid.eq(0)
        with m.If(replaces):
            m.d.sync += [
                self.answers.valid.eq(1),
                self.answers.payload.opcode.eq(Opcode.LINK),
                self.answers.payload.status.eq(Mux(crc_right, Status.BAD_SEQUENCE, Status.BAD_FRAME)),
                self.answers.payload.sequence.eq(sequence),
            ]

    def _fetch(self, m: Module, read_port, committed: Signal) -> None:
        """Keeps the buffer's read register full, one word a cycle; what is fetched is freed.

        The word read is being written only where it is none: then nothing waits.
        """
        waiting = committed != self.credit[: len(committed)]
        word = Signal(WORD_BITS, reset_less=True)
        m.d.comb += [read_port.addr.eq(self.credit), self.frames.payload.eq(word)]
        with m.If(~self.frames.valid | self.frames.ready):
            m.d.sync += [
                word.eq(read_port.data),
                self.frames.valid.eq(waiting),
                self.credit.eq(self.credit + waiting),
            ]


class ReplyMerge(wiring.Component):
    """Several sources of replies to one transmitter, the first one first; data follow their reply.

    replies_in  in, array of `sources` streams of `Reply`
    data_in     in, array of `sources` streams of words
    replies     out, stream of `Reply`
    data        out, stream of words, from the source of the reply taken last

    No latency. `replies` may change to another source while it waits.
    """

    def __init__(self, sources: int) -> None:
        self.sources = sources
        super().__init__(
            {
                "replies_in": In(stream.Signature(Reply)).array(sources),
                "data_in": In(word_stream()).array(sources),
                "replies": Out(stream.Signature(Reply)),
                "data": Out(word_stream()),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        chosen, source = Signal(range(self.sources)), Signal(range(self.sources))
        for number in reversed(range(self.sources)):
            with m.If(self.replies_in[number].valid):
                m.d.comb += chosen.eq(number)
        with m.If(self.replies.valid & self.replies.ready):
            m.d.sync += source.eq(chosen)
        with m.Switch(chosen):
            for number, replies in enumerate(self.replies_in):
                with m.Case(number):
                    m.d.comb += [
                        self.replies.valid.eq(replies.valid),
                        self.replies.payload.eq(replies.payload),
                        replies.ready.eq(self.replies.ready),
                    ]
        with m.Switch(source):
            for number, words in enumerate(self.data_in):
                with m.Case(number):
                    m.d.comb += [
                        self.data.valid.eq(words.valid),
                        self.data.payload.eq(words.payload),
                        words.ready.eq(self.data.ready),
                    ]
        return m


class FrameTransmitter(wiring.Component):
    """Makes frames of replies: header, `Response`, data words, trailer.

    replies        in, stream of `Reply`; taken as the frame starts
    data           in, stream of words: `words` of them for each reply
    next_sequence  in(16)  sampled for each `Response`
    credit         in(16)  sampled for each `Response`
    restart        in(1)   the next frame that starts has sequence number 0
    abandon        in(1)   wait for no data: where there are none, the frame is filled up with zeros, and its CRC wrong
    abandoned      out(1)  a frame was, since reset
    tx             out, stream of words
    tx_next_ready  in(1)   `tx.ready` of the next cycle: by that alone words follow one another
    unit           in(link_bits)  part of the word in `tx`
    unit_sent      in(1)   it goes: all parts of a word, in order, the last one with the word
    idle           out(1)  no frame under way

    Sends one word a cycle, also from frame to frame, while data and `tx` keep up; a reply's header is valid in the
    cycle after the reply was taken. Reset drops the frame under way; sequence numbers start at 0.
    """

    def __init__(self, link_bits: int) -> None:
        self.link_bits = link_bits
        super().__init__(
            {
                "replies": In(stream.Signature(Reply)),
                "data": In(word_stream()),
                "next_sequence": In(16),
                "credit": In(16),
                "restart": In(1),
                "abandon": In(1),
                "abandoned": Out(1),
                "tx": Out(word_stream()),
                "tx_next_ready": In(1),
                "unit": In(link_bits),
                "unit_sent": In(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.checker = checker = Crc32(self.link_bits)
        word, load = Signal(WORD_BITS), Signal()
        free = Signal(init=1)  # `tx` has no word, or it takes it in this cycle
        held, is_trailer = Signal(WORD_BITS), Signal()  # the word in `tx`, but for a trailer's CRC
        reply, left, sequence = Signal(Reply), Signal(range(MAX_DATA_WORDS + 1)), Signal(16)
        header, response, trailer = Signal(Header), Signal(Response), Signal(Trailer)
        spoilt, has_word = Signal(), Signal()
        m.d.comb += [
            checker.data.eq(self.unit),
            checker.valid.eq(self.unit_sent & ~is_trailer),
            header.sync.eq(SYNC),
            header.length.eq(self.replies.payload.words + 1),
            header.sequence.eq(sequence),
            response.opcode.eq(reply.opcode),
            response.status.eq(reply.status),
            response.sequence.eq(reply.sequence),
            response.next_sequence.eq(self.next_sequence),
            response.credit.eq(self.credit),
            trailer.crc.eq(Mux(spoilt, ~checker.crc, checker.crc)),
            has_word.eq(self.data.valid | spoilt),
            self.tx.payload.eq(Mux(is_trailer, trailer, held)),
        ]
        m.d.sync += free.eq((free & ~load) | self.tx_next_ready)
        with m.If(free):
            m.d.sync += [self.tx.valid.eq(load), held.eq(word), is_trailer.eq(0)]
        self._check_header(m, header, held, checker.start)
        with m.FSM() as fsm:
            with m.State("HEADER"):
                m.d.comb += [
                    word.eq(header),
                    checker.start.eq(load),
                    load.eq(free & self.replies.valid),
                    self.replies.ready.eq(free),
                ]
                with m.If(load):
                    m.d.sync += [reply.eq(self.replies.payload), sequence.eq(sequence + 1), spoilt.eq(0)]
                    m.next = "RESPONSE"
            with m.State("RESPONSE"):
                m.d.comb += [word.eq(response), load.eq(free)]
                m.d.sync += left.eq(reply.words)
                with m.If(load):
                    m.next = "DATA"
                    with m.If(reply.words == 0):
                        m.next = "TRAILER"
            with m.State("DATA"):
                m.d.comb += [
                    word.eq(Mux(self.data.valid, self.data.payload, 0)),
                    load.eq(free & has_word),
                    self.data.ready.eq(free),
                ]
                with m.If(self.abandon & ~self.data.valid):
                    m.d.sync += [spoilt.eq(1), self.abandoned.eq(1)]
                with m.If(load):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "TRAILER"
            with m.State("TRAILER"):
                m.d.comb += load.eq(free)
                with m.If(load):
                    m.d.sync += is_trailer.eq(1)
                    m.next = "HEADER"
        with m.If(self.restart):
            m.d.sync += sequence.eq(0)
        m.d.comb += self.idle.eq(fsm.ongoing("HEADER") & ~self.tx.valid)
        return m

    def _check_header(self, m: Module, header: data.View, held: Signal, begins: Value) -> None:
        """`Header.check`: with 64-bit links as the header is made, else a cycle later, before its last unit goes."""
        if self.link_bits == WORD_BITS:
            m.d.comb += header.check.eq(header_check(SYNC, header.as_value()[_CHECKED]))
            return
        lacks_check = Signal()
        m.d.sync += lacks_check.eq(begins)
        with m.If(lacks_check):
            m.d.sync += Header(held).check.eq(header_check(SYNC, held[_CHECKED]))


class FrameLink(wiring.Component):
    """All between the link's units and the sequencer: width converter, receiver, merge and transmitter.

    rx, tx          streams of `config.link_bits` bits
    frames          out, stream of words, as of `FrameReceiver`
    replies, data   in, arrays of `sources` streams, as of `ReplyMerge`; the receiver's answers go before them
    received, frame_error, sequence_error, sequence, stuck, knock, token  as of `FrameReceiver`
    sent            out(1)  high for one cycle per word sent; its last unit may still wait for `tx`
    abandoned       out(1)  as of `FrameTransmitter`
    quiet           out(1)  nothing to send, no whole word from the host
    idle            out(1)  nothing buffered, nothing to send; the start of a frame may be in

    With the feature "trace" the first source is the trace's. While it has a reply and `stuck` is high, the frame under
    way is waited for no longer; once one was abandoned, no other source is heard until a reset.
    """

    def __init__(self, config: ArrayConfig, sources: int) -> None:
        self.config = config
        self.sources = sources
        super().__init__(
            {
                "rx": In(stream.Signature(config.link_bits)),
                "tx": Out(stream.Signature(config.link_bits)),
                "frames": Out(word_stream()),
                "replies": In(stream.Signature(Reply)).array(sources),
                "data": In(word_stream()).array(sources),
                "received": Out(1),
                "sent": Out(1),
                "frame_error": Out(1),
                "sequence_error": Out(1),
                "sequence": Out(16),
                "stuck": In(1),
                "knock": Out(1),
                "token": Out(16),
                "abandoned": Out(1),
                "quiet": Out(1),
                "idle": Out(1),
            }
        )

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.converter = converter = WidthConverter(self.config.link_bits)
        m.submodules.receiver = receiver = FrameReceiver(self.config)
        m.submodules.merge = merge = ReplyMerge(1 + self.sources)
        m.submodules.transmitter = transmitter = FrameTransmitter(self.config.link_bits)
        # for a unit, not for a word, whose 64 bits would be a hundredth of the smallest chip
        m.submodules.skid = skid = SkidBuffer(self.config.link_bits)
        wiring.connect(m, wiring.flipped(self.rx), converter.rx)
        wiring.connect(m, converter.rx_words, receiver.rx)
        wiring.connect(m, receiver.frames, wiring.flipped(self.frames))
        wiring.connect(m, receiver.answers, merge.replies_in[0])
        for number in range(self.sources):
            wiring.connect(m, wiring.flipped(self.data[number]), merge.data_in[1 + number])
            own, merged = self.replies[number], merge.replies_in[1 + number]
            heard = ~transmitter.abandoned if self.config.traces and number > 0 else 1
            m.d.comb += [
                merged.payload.eq(own.payload),
                merged.valid.eq(own.valid & heard),
                own.ready.eq(merged.ready & heard),
            ]
        if self.config.traces:
            m.d.comb += [
                receiver.stuck.eq(self.stuck),
                transmitter.abandon.eq(self.stuck & self.replies[0].valid),
                self.knock.eq(receiver.knock),
                self.token.eq(receiver.token),
            ]
        wiring.connect(m, merge.replies, transmitter.replies)
        wiring.connect(m, merge.data, transmitter.data)
        wiring.connect(m, transmitter.tx, converter.tx_words)
        wiring.connect(m, converter.tx, skid.i)
        wiring.connect(m, skid.o, wiring.flipped(self.tx))
        m.d.comb += [
            converter.tx_next_ready.eq(skid.next_ready),
            transmitter.tx_next_ready.eq(converter.next_ready),
            converter.slide.eq(receiver.slide),
            receiver.leaves.eq(converter.leaves),
            receiver.coming.eq(converter.coming),
            transmitter.unit.eq(converter.tx.payload),
            transmitter.unit_sent.eq(converter.tx.valid & converter.tx.ready),
            transmitter.next_sequence.eq(receiver.next_sequence),
            transmitter.credit.eq(receiver.credit),
            transmitter.restart.eq(receiver.restarted),
            self.received.eq(receiver.received),
            self.sent.eq(transmitter.tx.valid & transmitter.tx.ready),
            self.frame_error.eq(receiver.frame_error),
            self.sequence.eq(receiver.sequence),
            self.sequence_error.eq(receiver.sequence_error),
            self.abandoned.eq(transmitter.abandoned),
            self.quiet.eq(transmitter.idle & converter.idle & ~self.tx.valid & ~receiver.answers.valid),
            self.idle.eq(receiver.idle & transmitter.idle & converter.idle & ~self.tx.valid),
        ]
        return m
