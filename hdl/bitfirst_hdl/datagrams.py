"""The link in datagrams: between a UDP port of 32-bit words and a core's streams. See `contract.datagrams`."""

from dataclasses import replace

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import ArrayConfig
from .contract.datagrams import MAX_BYTES, NUMBER_BITS
from .top import Core

WORD_BITS = 32
_WORD_BYTES = WORD_BITS // 8
_HEAD_WORDS = 2
_DEPTH = MAX_BYTES // _WORD_BYTES
#: Cycles without a word from the core after which a datagram leaves. A longer pause within a frame splits it in two.
QUIET = 64


class Peer(data.Struct):
    """Where a datagram comes from, or goes to."""

    address: 32  # of IPv4
    port: 16


class Piece(data.Struct):
    """A word of a datagram. `peer` and `length`, in bytes without UDP's head, stand in every one.

    error  in the last one: the datagram is damaged; not of those to be sent
    """

    word: WORD_BITS
    last: 1
    error: 1
    length: 16
    peer: Peer


class DatagramLink(wiring.Component):
    """Takes the link's words out of datagrams and puts them into such.

    received  in, stream of `Piece`
    sent      out, stream of `Piece`
    rx        out, stream of words to the core
    tx        in, stream of words from the core

    A datagram is sent when it is full, or when `tx` has been quiet for `QUIET` cycles. While one is sent, `tx` waits.
    Nothing is sent before a datagram was taken, but answers to those without bytes. A datagram that is found damaged in
    its last word has been passed on, but does not count as taken. Latency: to `rx` none. Reset: as if none had been
    taken or sent.
    """

    received: In(stream.Signature(Piece))
    sent: Out(stream.Signature(Piece))
    rx: Out(stream.Signature(WORD_BITS))
    tx: In(stream.Signature(WORD_BITS))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        taken, peer = Signal(NUMBER_BITS), Signal(Peer)
        asked, asker, answered = Signal(), Signal(Peer), Signal()
        self._receive(m, taken, peer, asked, asker, answered)
        self._send(m, taken, peer, asked, asker, answered)
        return m

    def _receive(self, m: Module, taken: Signal, peer: Signal, asked: Signal, asker: Signal, answered: Signal) -> None:
        piece, place = self.received.payload, Signal(range(_HEAD_WORDS + 1))
        number, good = Signal(NUMBER_BITS), Signal()
        in_body, moves = place == _HEAD_WORDS, self.received.valid & self.received.ready
        ahead = Signal(NUMBER_BITS)
        whole = (piece.length[:2] == 0) & (piece.length > _HEAD_WORDS * _WORD_BYTES)
        m.d.comb += [
            ahead.eq(piece.word - taken),
            self.rx.payload.eq(piece.word),
            self.rx.valid.eq(self.received.valid & in_body & good),
            self.received.ready.eq(~(in_body & good) | self.rx.ready),
        ]
        with m.If(answered):
            m.d.sync += asked.eq(0)
        with m.If(moves):
            m.d.sync += place.eq(Mux(piece.last, 0, Mux(in_body, place, place + 1)))
            with m.If(place == 0):
                m.d.sync += [number.eq(piece.word), good.eq(whole & (ahead != 0) & ~ahead[-1])]
            with m.If(piece.last & in_body & good & ~piece.error):
                m.d.sync += [taken.eq(number), peer.eq(piece.peer)]
            with m.If(piece.last & (piece.length == _HEAD_WORDS * _WORD_BYTES) & ~piece.error):
                m.d.sync += [asked.eq(1), asker.eq(piece.peer)]

    def _send(self, m: Module, taken: Signal, peer: Signal, asked: Signal, asker: Signal, answered: Signal) -> None:
        m.submodules.waiting = waiting = memory.Memory(shape=WORD_BITS, depth=_DEPTH, init=[])
        write, read = waiting.write_port(), waiting.read_port()
        count, quiet, number = Signal(range(_DEPTH + 1)), Signal(range(QUIET + 1)), Signal(NUMBER_BITS)
        place, length = Signal(range(_DEPTH + _HEAD_WORDS)), Signal(range(_DEPTH + _HEAD_WORDS + 1))
        sending, to, piece = Signal(), Signal(Peer), self.sent.payload
        told = Signal(NUMBER_BITS)  # stands still while it is sent
        following = Signal(range(_DEPTH + _HEAD_WORDS + 1))
        m.d.comb += [
            write.data.eq(self.tx.payload),
            write.addr.eq(count),
            write.en.eq(self.tx.valid & self.tx.ready),
            self.tx.ready.eq(~sending & (count != _DEPTH)),
            self.sent.valid.eq(sending),
            piece.last.eq(place + 1 == length),
            piece.length.eq(length << 2),
            piece.peer.eq(to),
            piece.word.eq(Mux(place == 0, number, Mux(place == 1, told, read.data))),
            read.en.eq(1),
            following.eq(place + self.sent.ready),
            read.addr.eq(Mux(following < _HEAD_WORDS, 0, following - _HEAD_WORDS)),
        ]
        with m.If(~sending):
            m.d.sync += quiet.eq(Mux(write.en, 0, Mux(quiet == QUIET, quiet, quiet + 1)))
            with m.If(write.en):
                m.d.sync += count.eq(count + 1)
            m.d.sync += [place.eq(0), told.eq(taken)]
            with m.If(asked):
                m.d.comb += answered.eq(1)
                m.d.sync += [sending.eq(1), length.eq(_HEAD_WORDS), to.eq(asker)]
            with m.Elif((count == _DEPTH) | ((count != 0) & (quiet == QUIET) & ~write.en)):
                m.d.sync += [sending.eq(1), length.eq(count + _HEAD_WORDS), to.eq(peer), number.eq(number + 1)]
        with m.Elif(self.sent.ready):
            m.d.sync += place.eq(place + 1)
            with m.If(piece.last):
                m.d.sync += sending.eq(0)
                with m.If(length != _HEAD_WORDS):
                    m.d.sync += [count.eq(0), quiet.eq(0)]


class DatagramTop(wiring.Component):
    """`Core` behind a `DatagramLink`, whose streams `received` and `sent` are its ports; 32 bits a link unit."""

    received: In(stream.Signature(Piece))
    sent: Out(stream.Signature(Piece))

    def __init__(self, config: ArrayConfig, fingerprint: int = 0) -> None:
        self.core = Core(replace(config, link_bits=WORD_BITS), fingerprint)
        super().__init__()

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.core = self.core
        m.submodules.link = link = DatagramLink()
        wiring.connect(m, wiring.flipped(self.received), link.received)
        wiring.connect(m, link.sent, wiring.flipped(self.sent))
        wiring.connect(m, link.rx, self.core.rx)
        wiring.connect(m, self.core.tx, link.tx)
        return m
