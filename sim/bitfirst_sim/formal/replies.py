"""Replies of several sources to one transmitter: frames stay whole, the first source goes first, no frame lasts."""

from types import ModuleType

from amaranth.asserts import AnyConst
from amaranth.hdl import Array, Assert, Assume, Cat, Const, Cover, Fragment, Module, Mux, Signal
from amaranth.lib.wiring import In
from bitfirst_hdl import frames
from bitfirst_hdl.contract.packets import MAX_DATA_WORDS, SYNC, WORD_BITS, Header, Response

from .prove import Property
from .receive import frames_with_any_crc

SOURCES = 3
COUNT_BITS = 16
HEADER, RESPONSE, DATA, TRAILER = range(4)
_REPLY = "reply, left, sequence = Signal(Reply), Signal(range(MAX_DATA_WORDS + 1)), Signal(16)"
_SOURCE = "chosen, source = Signal(range(self.sources)), Signal(range(self.sources))"
_SEEN = (
    (_REPLY, f"{_REPLY}\n        self.seen = reply, left, sequence, is_trailer, free"),
    (_SOURCE, f"{_SOURCE}\n        self.seen = source"),
)


def frames_seen_through(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.frames` with `changes` in its source; merge and transmitter show their registers."""
    return frames_with_any_crc(*changes, *_SEEN)


class ReplyFrames(Property):
    """`ReplyMerge` and `FrameTransmitter`, any replies of `SOURCES` sources, any delays.

    A reply is taken only when no source before it has one, and only one at a time. Words on `tx` are then its header,
    its `Response`, its own source's data words in order, its trailer, and nothing between. `Response.credit` is the
    credit of some cycle before, never more than was freed. A frame of n data words is loaded within n + 3 cycles in
    which `tx` is ready and data are there: so a source waits for the frame under way and those of sources before it.
    """

    def __init__(self, module: ModuleType, inductive: bool = True) -> None:
        self.merge, self.transmitter = module.ReplyMerge(SOURCES), module.FrameTransmitter(WORD_BITS)
        self.inductive = inductive
        members = {"tx_ready": In(1), "credit": In(16), "restart": In(1), "next_sequence": In(16)}
        for number in range(SOURCES):
            members |= {f"reply{number}": In(frames.Reply), f"reply{number}_valid": In(1), f"data{number}_valid": In(1)}
        if inductive:
            members |= {"fsm_state": In(2)}
            self.probes = {"fsm_state": "transmitter.fsm_state"}
        super().__init__(members)
        self.reply, self.source, self.place = Signal(frames.Reply), Signal(range(SOURCES)), Signal(2)
        self.left, self.number, self.next_number = Signal(range(MAX_DATA_WORDS + 1)), Signal(16), Signal(16)
        self.given = [Signal(COUNT_BITS, name=f"given{i}") for i in range(SOURCES)]  # data words taken from a source
        self.sent = [Signal(COUNT_BITS, name=f"sent{i}") for i in range(SOURCES)]  # of those, the ones sent on
        self.under_way, self.ends, self.age = Signal(), Signal(), Signal(16)
        self.ready = Signal()  # of `tx`, which the transmitter was told of a cycle before

    def state(self, m: Module) -> None:
        m.submodules.merge = Fragment.get(self.merge, None)
        m.submodules.transmitter = Fragment.get(self.transmitter, None)
        self._environment(m)
        self._take(m)
        self._send(m)
        self._respond(m)
        if self.inductive:
            self._look_inside(m)

    def _environment(self, m: Module) -> None:
        merge, transmitter = self.merge, self.transmitter
        m.d.comb += [
            transmitter.replies.valid.eq(merge.replies.valid),
            transmitter.replies.payload.eq(merge.replies.payload),
            merge.replies.ready.eq(transmitter.replies.ready),
            transmitter.data.valid.eq(merge.data.valid),
            transmitter.data.payload.eq(merge.data.payload),
            merge.data.ready.eq(transmitter.data.ready),
            transmitter.tx.ready.eq(self.ready),
            transmitter.tx_next_ready.eq(self.tx_ready),
            transmitter.credit.eq(self.credit),
            transmitter.next_sequence.eq(self.next_sequence),
            transmitter.restart.eq(self.restart),
        ]
        m.d.sync += self.ready.eq(self.tx_ready)
        for number, (replies, words) in enumerate(zip(merge.replies_in, merge.data_in, strict=True)):
            reply = getattr(self, f"reply{number}")
            m.d.comb += [
                replies.valid.eq(getattr(self, f"reply{number}_valid")),
                replies.payload.eq(reply),
                words.valid.eq(getattr(self, f"data{number}_valid")),
                words.payload.eq(self._word(number, self.given[number])),
                Assume(reply.words <= MAX_DATA_WORDS),
            ]
            with m.If(words.valid & words.ready):
                m.d.sync += self.given[number].eq(self.given[number] + 1)

    @staticmethod
    def _word(source: int, count: Signal):
        """Data words name their source and their place, so that any exchange shows."""
        return Cat(count, Const(source, WORD_BITS - COUNT_BITS))

    def _take(self, m: Module) -> None:
        transmitter, replies = self.transmitter, self.merge.replies_in
        takes = transmitter.replies.valid & transmitter.replies.ready
        for number, stream in enumerate(replies):
            earlier = Cat(other.valid for other in list(replies)[:number])
            with m.If(stream.valid & stream.ready):
                m.d.comb += [Assert(takes), Assert(~earlier.any()), Assert(~self.under_way | self.ends)]
                m.d.sync += [self.reply.eq(stream.payload), self.source.eq(number)]
        with m.If(takes):
            m.d.comb += Assert(Cat(stream.valid & stream.ready for stream in replies).any())
            m.d.sync += [
                self.under_way.eq(1),
                self.number.eq(self.next_number),
                self.next_number.eq(self.next_number + 1),
            ]
        with m.If(self.restart):
            m.d.sync += self.next_number.eq(0)

    def _send(self, m: Module) -> None:
        reply, tx = self.reply, self.transmitter.tx
        header, response = Header(tx.payload), Response(tx.payload)
        expected = Array(self._word(number, count) for number, count in enumerate(self.sent))
        with m.If(tx.valid), m.Switch(self.place):
            with m.Case(HEADER):
                m.d.comb += [
                    Assert((header.sync == SYNC) & (header.length == reply.words + 1)),
                    Assert(header.sequence == self.number),
                ]
            with m.Case(RESPONSE):
                m.d.comb += [
                    Assert((response.opcode == reply.opcode) & (response.status == reply.status)),
                    Assert(response.sequence == reply.sequence),
                ]
            with m.Case(DATA):
                m.d.comb += Assert(tx.payload == expected[self.source])
        with m.If(tx.valid & tx.ready), m.Switch(self.place):
            with m.Case(HEADER):
                m.d.sync += self.place.eq(RESPONSE)
            with m.Case(RESPONSE):
                m.d.sync += [self.place.eq(Mux(reply.words == 0, TRAILER, DATA)), self.left.eq(reply.words)]
            with m.Case(DATA):
                m.d.sync += [self.left.eq(self.left - 1), self.place.eq(Mux(self.left == 1, TRAILER, DATA))]
                for number, count in enumerate(self.sent):
                    with m.If(self.source == number):
                        m.d.sync += count.eq(count + 1)
            with m.Case(TRAILER):
                m.d.sync += self.place.eq(HEADER)
                m.d.comb += Cover((self.source == 2) & (self.sent[1] == 2) & (self.sent[2] == 1) & (self.number == 2))
        self._credit(m)

    def _credit(self, m: Module) -> None:
        chosen, was = Signal(16), Signal()
        tx = self.transmitter.tx
        m.d.comb += chosen.eq(AnyConst(16))
        with m.If(self.credit == chosen):
            m.d.sync += was.eq(1)
        with m.If(tx.valid & (self.place == RESPONSE) & (Response(tx.payload).credit == chosen)):
            m.d.comb += Assert(was)

    def _respond(self, m: Module) -> None:
        transmitter = self.transmitter
        takes = transmitter.replies.valid & transmitter.replies.ready
        proceeds = self.ready & Cat(words.valid for words in self.merge.data_in).all()
        m.d.comb += [
            self.ends.eq(transmitter.tx.valid & transmitter.tx.ready & (self.place == TRAILER)),
            Assert(~self.under_way | (self.age <= self.reply.words + 2)),
        ]
        with m.If(takes):
            m.d.sync += self.age.eq(0)
        with m.Elif(proceeds):
            m.d.sync += self.age.eq(self.age + 1)
        with m.If(self.ends & ~takes):
            m.d.sync += self.under_way.eq(0)
        waits = Cat(stream.valid for stream in self.merge.replies_in).any()
        with m.If(waits & proceeds & ~(self.under_way & ~self.ends)):
            m.d.comb += Assert(takes)

    def _look_inside(self, m: Module) -> None:
        """The word in `tx` is the one before the word that the transmitter's state makes next."""
        reply, left, sequence, is_trailer, free = self.transmitter.seen
        tx, place = self.transmitter.tx, self.place
        following, following_left = Signal(2), Signal.like(self.left)
        m.d.comb += [following.eq(place + tx.valid), following_left.eq(self.left)]
        with m.If(tx.valid & (place == RESPONSE)):
            m.d.comb += [following.eq(Mux(self.reply.words == 0, TRAILER, DATA)), following_left.eq(self.reply.words)]
        with m.If(tx.valid & (place == DATA)):
            m.d.comb += [following.eq(Mux(self.left == 1, TRAILER, DATA)), following_left.eq(self.left - 1)]
        m.d.comb += [
            Assert(self.fsm_state == following),
            Assert(free == (~tx.valid | tx.ready)),
            Assert(sequence == self.next_number),
            Assert(is_trailer == (tx.valid & (place == TRAILER))),
            Assert(self.under_way == ((place != HEADER) | tx.valid)),
        ]
        with m.If(self.under_way):
            m.d.comb += [Assert(reply.as_value() == self.reply.as_value()), Assert(self.merge.seen == self.source)]
            m.d.comb += [Assert(self.reply.words <= MAX_DATA_WORDS), Assert(self.source < SOURCES)]
        with m.If(place == DATA):
            m.d.comb += [Assert(self.left != 0), Assert(self.left <= self.reply.words)]
        with m.If(following == DATA):
            m.d.comb += [Assert(left == following_left), Assert(following_left != 0)]
            m.d.comb += Assert(~self.under_way | (self.age + left <= self.reply.words + 1))
        with m.If(self.under_way & (following == RESPONSE)):
            m.d.comb += Assert(self.age == 0)
        with m.If(self.under_way & (following == TRAILER)):
            m.d.comb += Assert(self.age <= self.reply.words + 1)
        for number, (given, sent) in enumerate(zip(self.given, self.sent, strict=True)):
            held = tx.valid & (place == DATA) & (self.source == number)
            m.d.comb += Assert(given == (sent + held)[:COUNT_BITS])
