"""The receive buffer: accepted frames come out whole and in order, nothing else does, and credit is never wrong."""

from types import ModuleType, SimpleNamespace

from amaranth.asserts import AnyConst, AnySeq
from amaranth.hdl import Array, Assert, Assume, Cover, Fragment, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2
from bitfirst_hdl import frames
from bitfirst_hdl.contract.packets import MAX_PAYLOAD_WORDS, SYNC, WORD_BITS, Header, Trailer
from bitfirst_hdl.crc import CRC_BITS

from .prove import Property, altered

INDEX_BITS = 16
HEADER, PAYLOAD, TRAILER = range(3)
_WORDS = "lacks_room, lacked_room = Signal(), Signal()  # the word at hand, one of the frame"
_SHOWN = _WORDS, f"{_WORDS}\n        self.seen = checker.crc, write, left, sequence, restart, lacked_room, full"


class AnyCrc(wiring.Component):
    """In the place of `Crc32`: any value at any time, so that what is proved holds for every checksum."""

    def __init__(self, unit_bits: int) -> None:
        super().__init__({"start": In(1), "data": In(unit_bits), "valid": In(1), "crc": Out(CRC_BITS)})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.crc.eq(AnySeq(CRC_BITS))
        return m


def frames_with_any_crc(*changes: tuple[str, str]) -> ModuleType:
    """`bitfirst_hdl.frames` with free checksums and with `changes` in its source; the receiver shows its registers."""
    return altered(frames, *changes, _SHOWN, Crc32=AnyCrc)


class Reception(Property):
    """`FrameReceiver` with a buffer of `rx_words`, any words in, any reader.

    The words that come out are the stored words (header and payload) of the accepted frames, in order, none twice; a
    frame is accepted when its checksum and number are right, and only then the next number is expected; `credit` counts
    the words read, at most what was accepted; the buffer never holds more than it can. One stored word in 2**16 is
    followed, whichever.

    In any cycle the device may be stuck: then a word that finds no room is taken and lost, and its frame with it.

    `fits`: the host begins a frame only where its credit allows; then no word of it waits.
    `inductive`: with asserts on the inside, which make the proof hold for any number of cycles.
    """

    def __init__(self, module: ModuleType, rx_words: int, fits: bool = False, inductive: bool = True) -> None:
        sizes = {"rx_words": rx_words, "max_payload_words": MAX_PAYLOAD_WORDS}  # smaller than a device may have
        config = SimpleNamespace(**sizes, link_bits=WORD_BITS, traces=False)
        self.receiver = module.FrameReceiver(config)
        self.rx_words, self.fits, self.inductive = rx_words, fits, inductive
        members = {"rx_valid": In(1), "rx_data": In(WORD_BITS), "frames_ready": In(1)}
        if inductive:
            inside = {"committed": In(exact_log2(rx_words) + 1), "fsm_state": In(2)}
            words = {f"word{i}": In(WORD_BITS) for i in range(rx_words)}
            self.probes = {name: f"receiver.{name}" for name in inside}
            self.probes |= {f"word{i}": f"receiver.buffer[{i}]" for i in range(rx_words)}
            members |= inside | words
        super().__init__(members)
        self.place, self.left = Signal(2), Signal(15)
        self.stored, self.taken = Signal(INDEX_BITS), Signal(INDEX_BITS)  # words accepted, words read
        self.inside = Signal(INDEX_BITS)  # words of the frame under way
        self.chosen, self.value = Signal(INDEX_BITS), Signal(WORD_BITS)
        self.number, self.is_restart, self.expected = Signal(16), Signal(), Signal(16)
        self.before = Signal(INDEX_BITS)  # the credit a cycle before
        self.lacks, self.lacked = Signal(), Signal()  # the word at hand finds no room, one of its frame found none
        self.lost = Signal()  # a cycle before, such a frame ended

    def state(self, m: Module) -> None:
        receiver = self.receiver
        m.submodules.receiver = Fragment.get(receiver, None)
        m.d.comb += [
            receiver.rx.valid.eq(self.rx_valid),
            receiver.rx.payload.eq(self.rx_data),
            receiver.frames.ready.eq(self.frames_ready),
            receiver.answers.ready.eq(AnySeq(1)),
            receiver.stuck.eq(AnySeq(1)),
            self.chosen.eq(AnyConst(INDEX_BITS)),
        ]
        self._follow(m)
        self._read(m)
        if self.fits:
            self._keep_to_credit(m)
        if self.inductive:
            self._look_inside(m)

    def _follow(self, m: Module) -> None:
        """What came in, by the rules of the contract."""
        receiver, header, trailer = self.receiver, Header(self.rx_data), Trailer(self.rx_data)
        crc = receiver.seen[0]
        takes, accepts, rejected = Signal(), Signal(), Signal()
        begins, follows, stores = Signal(), Signal(), Signal()
        m.d.comb += [
            takes.eq(receiver.rx.valid & receiver.rx.ready),
            begins.eq(takes & (self.place == HEADER) & ~receiver.slide),
            follows.eq(takes & (self.place == PAYLOAD)),
            self.lacks.eq(receiver.stuck & receiver.seen[-1]),
            stores.eq((begins | follows) & ~self.lacks),
            accepts.eq(
                takes
                & (self.place == TRAILER)
                & (trailer.crc == crc)
                & (trailer.reserved == 0)
                & (self.is_restart | (self.number == self.expected))
                & ~self.lacked
            ),
            Assert(receiver.next_sequence == self.expected),
            Assert(receiver.accepted == accepts),
            Assert(~receiver.slide | (self.place == HEADER)),
        ]
        with m.If(stores & ((self.stored + self.inside)[:INDEX_BITS] == self.chosen)):
            m.d.sync += self.value.eq(self.rx_data)
        with m.If(begins):
            m.d.sync += [self.place.eq(PAYLOAD), self.left.eq(header.length), self.inside.eq(stores)]
            m.d.sync += self.lacked.eq(self.lacks)
            m.d.sync += [self.number.eq(header.sequence), self.is_restart.eq(header.restart)]
            m.d.comb += Assert((header.sync == SYNC) & (header.length != 0) & (header.length <= MAX_PAYLOAD_WORDS))
        with m.If(follows):
            m.d.sync += [self.left.eq(self.left - 1), self.inside.eq(self.inside + stores)]
            m.d.sync += self.lacked.eq(self.lacked | self.lacks)
            with m.If(self.left == 1):
                m.d.sync += self.place.eq(TRAILER)
        m.d.sync += self.lost.eq(takes & (self.place == TRAILER) & self.lacked)
        with m.If(takes & (self.place == TRAILER)):
            m.d.sync += [self.place.eq(HEADER), self.inside.eq(0), rejected.eq(rejected | ~accepts)]
            with m.If(accepts):
                m.d.sync += [self.stored.eq(self.stored + self.inside), self.expected.eq(self.number + 1)]
        outgoing = receiver.frames.valid & (self.taken == self.chosen)
        m.d.comb += Cover(rejected & outgoing & (self.chosen > self.rx_words) & (self.value[:16] == 0x1234))
        if not self.fits:
            m.d.comb += Cover(self.lost & (self.taken > self.rx_words))

    def _read(self, m: Module) -> None:
        receiver, held, free = self.receiver, Signal(INDEX_BITS), Signal(INDEX_BITS)
        m.d.sync += self.before.eq(receiver.credit)
        with m.If(receiver.frames.valid & receiver.frames.ready):
            m.d.sync += self.taken.eq(self.taken + 1)
        with m.If(receiver.frames.valid & (self.taken == self.chosen)):
            m.d.comb += Assert(receiver.frames.payload == self.value)
        m.d.comb += [
            held.eq(self.stored - receiver.credit),
            free.eq(self.rx_words - held),
            Assert(receiver.credit == (self.taken + receiver.frames.valid)[:INDEX_BITS]),
            Assert(held <= self.rx_words),
            Assert(self.inside <= free),
        ]

    def _keep_to_credit(self, m: Module) -> None:
        receiver = self.receiver
        with m.If(self.rx_valid):
            with m.If(self.place != HEADER):
                m.d.comb += Assert(receiver.rx.ready)
            with m.Elif(~receiver.slide):
                length = Header(self.rx_data).length
                m.d.comb += [
                    Assume((self.stored - receiver.credit)[:INDEX_BITS] + 1 + length <= self.rx_words),
                    Assert(receiver.rx.ready),
                ]
        if self.inductive:
            used = (self.stored - self.before)[:INDEX_BITS] + self.inside
            m.d.comb += [Assert(~self.lacked | (self.place == HEADER)), Assert(~self.lost)]
            with m.If(self.place == PAYLOAD):
                m.d.comb += Assert(used + self.left <= self.rx_words)

    def _look_inside(self, m: Module) -> None:
        receiver = self.receiver
        _, write, left, sequence, restart, lacked, full = receiver.seen
        ahead = (self.chosen - receiver.credit)[:INDEX_BITS]
        words = Array(getattr(self, f"word{i}") for i in range(self.rx_words))
        used = (self.stored + self.inside - self.before)[:INDEX_BITS]
        m.d.comb += [
            Assert(self.fsm_state == self.place),
            Assert(self.place <= TRAILER),
            Assert(self.committed == self.stored[: len(self.committed)]),
            Assert(write == (self.stored + self.inside)[: len(write)]),
            Assert((self.place != HEADER) | (self.inside == 0)),
            Assert((self.place == HEADER) | self.lacked | (self.inside != 0)),
            Assert((self.place == HEADER) | (lacked == self.lacked)),
            Assert(full | (used != self.rx_words)),
            Assert(~full | (used == self.rx_words) | self.lost),
            Assert(used <= self.rx_words),
            Assert((receiver.credit - self.before)[:INDEX_BITS] <= 1),
        ]
        with m.If(self.place != HEADER):
            m.d.comb += Assert((sequence == self.number) & (restart == self.is_restart))
        with m.If(self.place == PAYLOAD):
            m.d.comb += Assert((left == self.left) & (self.left != 0))
        with m.If(ahead < (self.stored + self.inside - receiver.credit)[:INDEX_BITS]):
            m.d.comb += Assert(words[self.chosen % self.rx_words] == self.value)
