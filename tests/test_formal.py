"""Properties of the device's control, proved for any number of cycles, and mutants that the same properties catch."""

from collections.abc import Callable
from pathlib import Path

import pytest
from amaranth.lib import fifo
from bitfirst_hdl import frames, queues, update
from bitfirst_hdl.frames import Reply
from bitfirst_hdl.readout import ABREAST
from bitfirst_hdl.top import REPLY_QUEUE
from bitfirst_sim.formal.adding import SameAccumulator, SameAdder, SameFirstLevel, SameTree, carry_cells
from bitfirst_sim.formal.comparing import Comparison, compare_seen_through
from bitfirst_sim.formal.convert import UnitOrder, link_seen_through
from bitfirst_sim.formal.crossings import (
    CrossingOrder,
    CrossingResets,
    LateCatcher,
    crossing_seen_through,
    crossing_with_resets,
)
from bitfirst_sim.formal.fifos import QueueOrder, SameReady, SkidOrder
from bitfirst_sim.formal.handshakes import LiteHandshakes, Packets, axi_seen_through
from bitfirst_sim.formal.packing import OwnWords, Passes, element_seen_through, packed_seen_through
from bitfirst_sim.formal.prove import FormalError, Property, altered, prove, search
from bitfirst_sim.formal.receive import Reception, frames_with_any_crc
from bitfirst_sim.formal.replies import ReplyFrames, frames_seen_through
from bitfirst_sim.formal.sequencing import Apart, Commands, Ends, Hazards, sequencer_seen_through
from bitfirst_sim.formal.updating import UpdateArithmetic

RX_WORDS = 4
NARROW_BITS = 5  # of sums, where their largest is followed through all lanes
INDUCTION = 2
Make = Callable[[], Property]

#: What is proved, and the cycles within which all its covers must be reached.
PROVED: dict[str, tuple[Make, int]] = {
    "queue": (lambda: QueueOrder(fifo.SyncFIFO(width=4, depth=4)), 16),
    "queue of replies": (lambda: QueueOrder(fifo.SyncFIFO(width=Reply.as_shape().size, depth=REPLY_QUEUE)), 24),
    "buffered queue": (lambda: QueueOrder(fifo.SyncFIFOBuffered(width=4, depth=4), buffered=True), 16),
    "buffered queue of words": (lambda: QueueOrder(fifo.SyncFIFOBuffered(width=64, depth=9), buffered=True), 24),
    "ready queue": (lambda: SameReady(queues.ReadyFIFO(width=1, depth=5)), 16),
    "skid buffer": (lambda: SkidOrder(queues.SkidBuffer(4)), 12),
    "units of 8 bits": (lambda: UnitOrder(link_seen_through(), 8), 30),
    "units of 16 bits": (lambda: UnitOrder(link_seen_through(), 16), 30),
    "units of 32 bits": (lambda: UnitOrder(link_seen_through(), 32), 30),
    "receive buffer": (lambda: Reception(frames_with_any_crc(), RX_WORDS), 24),
    "credit": (lambda: Reception(frames_with_any_crc(), RX_WORDS, fits=True), 24),
    "replies": (lambda: ReplyFrames(frames_seen_through()), 20),
    "signs of sums": (lambda: Comparison(compare_seen_through(), 2, largest=False), 16),
    "signs and largest of narrow sums": (
        lambda: Comparison(compare_seen_through(sum_bits=NARROW_BITS), ABREAST),
        16,
    ),
    "arithmetic of the update": (UpdateArithmetic, 2),
    "carry cells, 16 lanes of 4 bits": (lambda: SameTree(carry_cells(), 4, 16), 6),
    "carry cells, 16 lanes of 8 bits": (lambda: SameTree(carry_cells(), 8, 16), 6),
    "carry cells, 32 lanes of 4 bits": (lambda: SameTree(carry_cells(), 4, 32), 6),
    "carry cells, 32 lanes of 8 bits": (lambda: SameTree(carry_cells(), 8, 32), 6),
    "carry cells, 64 lanes of 8 bits": (lambda: SameTree(carry_cells(), 8, 64), 6),
    "carry cells, 64 lanes of 1 bit": (lambda: SameTree(carry_cells(), 1, 64), 6),
    "first level of Gowin's cells, 16 lanes of 4 bits": (lambda: SameFirstLevel(4, 16), 2),
    "first level of Gowin's cells, 32 lanes of 4 bits": (lambda: SameFirstLevel(4, 32), 2),
    "first level of Gowin's cells, 32 lanes of 8 bits": (lambda: SameFirstLevel(8, 32), 2),
    "first level of Gowin's cells, 32 lanes of 2 bits": (lambda: SameFirstLevel(2, 32), 2),
    "adder of the power monitor": (lambda: SameAdder(24), 2),
    "accumulator of carry cells": (lambda: SameAccumulator(carry_cells(), 9, 33), 6),
    "words of elements": (lambda: OwnWords(element_seen_through()), 8),
    "packing": (lambda: Passes(packed_seen_through()), 40),
    "hazards": (lambda: Hazards(sequencer_seen_through()), 40),
    "ends": (lambda: Ends(sequencer_seen_through()), 40),
    "what is counted of commands": (lambda: Apart(sequencer_seen_through()), 40),
    "clock crossing": (lambda: CrossingOrder(crossing_seen_through()), 24),
    "clock crossing with resets": (lambda: CrossingResets(crossing_with_resets()), 40),
    "AXI4-Lite": (lambda: LiteHandshakes(axi_seen_through()), 12),
    "AXI4-Stream of 32 bits": (lambda: Packets(axi_seen_through(), 32), 16),
    "AXI4-Stream of 64 bits": (lambda: Packets(axi_seen_through(), 64), 16),
}


def queue_mutant(old: str, new: str) -> Property:
    module = altered(fifo, (old, new))
    return QueueOrder(module.SyncFIFOBuffered(width=4, depth=4), buffered=True, inductive=False)


def ready_mutant(old: str, new: str) -> Property:
    return SameReady(altered(queues, (old, new)).ReadyFIFO(width=1, depth=5))


def skid_mutant(old: str, new: str) -> Property:
    return SkidOrder(altered(queues, (old, new)).SkidBuffer(4), inductive=False)


def unit_mutant(old: str, new: str) -> Property:
    return UnitOrder(link_seen_through((old, new)), 16, inductive=False)


def reception_mutant(old: str, new: str) -> Property:
    return Reception(frames_with_any_crc((old, new)), RX_WORDS, inductive=False)


def credit_mutant(old: str, new: str) -> Property:
    return Reception(frames_with_any_crc((old, new)), RX_WORDS, fits=True, inductive=False)


def reply_mutant(old: str, new: str) -> Property:
    return ReplyFrames(frames_seen_through((old, new)), inductive=False)


def sign_mutant(old: str, new: str) -> Property:
    return Comparison(compare_seen_through((old, new), sum_bits=NARROW_BITS), 2)


def arithmetic_mutant(old: str, new: str) -> Property:
    return UpdateArithmetic(altered(update, (old, new)), bits=12)


def tree_mutant(old: str, new: str) -> Property:
    return SameTree(carry_cells((old, new)), 4, 16)


def first_level_mutant(old: str, new: str) -> Property:
    return SameFirstLevel(4, 16, (old, new))


def adder_mutant(old: str, new: str) -> Property:
    return SameAdder(24, (old, new))


def accumulator_mutant(old: str, new: str) -> Property:
    return SameAccumulator(carry_cells((old, new)), 6, 12)


def word_mutant(old: str, new: str) -> Property:
    return OwnWords(element_seen_through((old, new)))


def packing_mutant(old: str, new: str) -> Property:
    return Passes(packed_seen_through((old, new)))


def hazard_mutant(old: str, new: str) -> Property:
    return Hazards(sequencer_seen_through((old, new)), inductive=False)


def apart_mutant(old: str, new: str) -> Property:
    return Apart(sequencer_seen_through((old, new)), inductive=False)


def lite_mutant(old: str, new: str) -> Property:
    return LiteHandshakes(axi_seen_through((old, new)))


def packet_mutant(old: str, new: str) -> Property:
    return Packets(axi_seen_through((old, new)), 64)


def crossing_mutant(old: str, new: str) -> Property:
    return CrossingOrder(crossing_seen_through((old, new)), inductive=False)


def reset_mutant(old: str, new: str) -> Property:
    return CrossingResets(crossing_with_resets((old, new), catcher=LateCatcher), inductive=False)


def binary_mutant(old: str, new: str) -> Property:
    """All else fits the numbers, so that it works where bits that change together are also seen together."""
    halves = "(produce_w_gry[-2]  != consume_w_gry[-2])"
    changes = (old, new), ("rhs = rhs ^ val[i]", "rhs = val[i]"), (halves, halves.replace("!=", "=="))
    return CrossingOrder(crossing_seen_through(*changes), inductive=False)


def end_mutant(old: str, new: str) -> Property:
    return Ends(sequencer_seen_through((old, new)), inductive=False)


#: Designs with one mistake each: property, text of the design, text in its place, cycles that show the mistake.
MUTANTS: dict[str, tuple[Callable[[str, str], Property], str, str, int]] = {
    "products are added without a carry": (tree_mutant, "(a & b) ^ (c & d)", "(a & b & c) ^ (c & d)", 4),
    "a chain's first carry is what comes in": (
        tree_mutant,
        "Position(STOP) if carry is None",
        "Position(SUM, (OPEN, OPEN, Const(0), OPEN)) if carry is None",
        4,
    ),
    "one adder's carry goes into the next": (tree_mutant, "[*adder, Position(STOP)]", "[*adder, Position(SUM)]", 4),
    "complement without its 1": (tree_mutant, "self.negative if done else None", "None", 6),
    "complement of one part alone": (tree_mutant, "a ^ b ^ c ^ d", "a ^ b ^ c", 6),
    "a register too many": (tree_mutant, "if done or level %", "if not done or level %", 6),
    "one pair's carry goes into the next": (first_level_mutant, "(Const(0),) * 3", "Const(1), Const(0), Const(1)", 2),
    "a lane with its neighbour's mask": (first_level_mutant, "mask[place + size]", "mask[place]", 2),
    "two numbers added, and no third one": (adder_mutant, "a ^ (c | d)", "a ^ c", 2),
    "negative term without its 1": (accumulator_mutant, "start(step.negative)", "start()", 4),
    "doubling shifts in what it shifts out": (accumulator_mutant, "a ^ (c & ~b)", "a ^ c", 4),
    "term against the sum's own carry": (accumulator_mutant, "a ^ (d if b else c)", "a ^ (c if b else d)", 4),
    "word of an earlier pass is multiplied": (word_mutant, "(self.taken & ~self.move)", "self.taken", 8),
    "element without a word goes on with the last": (word_mutant, "m.d.sync += held.eq(0)", "pass", 8),
    "a pass begins without all its words": (packing_mutant, "(~self._fetching | fetched_all)", "1", 30),
    "a pass too many": (packing_mutant, "self._coming.eq(~last_pass)", "self._coming.eq(1)", 30),
    "elements are told of rows that are not taken": (
        packing_mutant,
        "later if stage else Mux(self._fetched, later, 0)",
        "later",
        12,
    ),
    "all tiles in one": (
        packing_mutant,
        "with m.Elif(self._turned_tile):\n            m.d.sync += coming.row",
        "with m.Elif(0):\n            m.d.sync += coming.row",
        30,
    ),
    "a tile ends with its first slice": (
        packing_mutant,
        'm.d.sync += [end.eq(_all(loops[: n + 1], "last"))',
        'm.d.sync += [end.eq(_all(loops[:1], "last"))',
        30,
    ),
    "every pass replaces": (packing_mutant, "m.d.sync += coming.replace.eq(0)", "pass", 30),
    "program written under a MATMUL": (
        hazard_mutant,
        "with m.Case(Space.PROGRAM):\n                m.d.comb += waits.matmuls.eq(1)",
        "with m.Case(Space.PROGRAM):\n                m.d.comb += waits.matmuls.eq(0)",
        40,
    ),
    "a tile's rows only once": (packing_mutant, "Mux(program.again, first, following)", "following", 20),
    "ready queue forgets that words leave": (ready_mutant, "held + takes - gives", "held + takes", 8),
    "ready queue is full a word late": (ready_mutant, "self.depth - 1)]", "self.depth)]", 8),
    "skid buffer keeps what comes last": (skid_mutant, "with m.If(ready)", "with m.If(1)", 8),
    "skid buffer takes two": (skid_mutant, "ready.eq(self.next_ready)", "ready.eq(1)", 8),
    "skid buffer gives one twice": (skid_mutant, "~self.o.valid | self.o.ready", "~self.o.valid", 8),
    "skid buffer keeps it a cycle": (skid_mutant, "valid.eq(self.i.valid | ~ready)", "valid.eq(~ready)", 8),
    "queue takes words when full": (queue_mutant, "w_rdy.eq(inner_level != inner_depth)", "w_rdy.eq(1)", 8),
    "queue drops a word that is not taken": (
        queue_mutant,
        "inner_r_rdy & (~self.r_rdy | self.r_en)",
        "inner_r_rdy",
        8,
    ),
    "a word's end is told a unit late": (unit_mutant, "next_unit == units - 1", "unit == units - 1", 9),
    "a unit leaves twice": (unit_mutant, "leaves.eq(self.rx.valid & self.rx.ready)", "leaves.eq(self.rx.valid)", 12),
    "slide drops the word": (unit_mutant, "Mux(self.slide, units - 1, 0)", "0", 10),
    "word taken before its last unit has gone": (
        unit_mutant,
        "(unit == units - 1) & self.tx.ready",
        "self.tx.ready",
        9,
    ),
    "buffer overflows": (reception_mutant, "== self.config.rx_words", "== self.config.rx_words + 1", 14),
    "refused frame stays": (reception_mutant, "write.eq(committed)", "write.eq(write)", 14),
    "damaged frame accepted": (reception_mutant, "taken & crc_right & in_sequence", "taken & in_sequence", 14),
    "frame out of sequence accepted": (
        reception_mutant,
        "self.accepted.eq(taken & crc_right & in_sequence)",
        "self.accepted.eq(taken & crc_right)",
        14,
    ),
    "credit for words not read": (reception_mutant, "self.credit + waiting", "self.credit + 1", 14),
    "word lost while the reader waits": (reception_mutant, "~self.frames.valid | self.frames.ready", "1", 14),
    "buffer full a word late": (reception_mutant, "self._fills(next_write)", "self._fills(write)", 14),
    "buffer has room after a frame that found none": (reception_mutant, "m.If(~lacked_room)", "m.If(1)", 14),
    "buffer stays full of a refused frame": (credit_mutant, "m.d.sync += full.eq(0)", "m.d.sync += full.eq(full)", 14),
    "buffer holds one word less": (credit_mutant, "== self.config.rx_words", "== self.config.rx_words - 1", 14),
    "response to a write withdrawn": (
        lite_mutant,
        "with m.If(self.bready):\n            m.d.sync += self.bvalid",
        "m.d.sync += self.bvalid",
        8,
    ),
    "data of a read change": (lite_mutant, "self.awake & ~self.rvalid", "self.awake", 8),
    "response before the data": (lite_mutant, "has_address & has_data & ~self.bvalid", "has_address & ~self.bvalid", 8),
    "two writes, one response": (lite_mutant, "has_data & ~self.bvalid", "has_data", 8),
    "unknown address read": (lite_mutant, "m.d.comb += known.eq(0)", "pass", 8),
    "beat withdrawn": (
        packet_mutant,
        "with m.If(self.tready):\n            m.d.sync += self.tvalid",
        "m.d.sync += self.tvalid",
        8,
    ),
    "beat changes": (packet_mutant, "free.eq(~self.tvalid | self.tready)", "free.eq(1)", 8),
    "packet ends a beat too early": (packet_mutant, "self.tlast.eq(left == 1)", "self.tlast.eq(left == 2)", 8),
    "packet that is cut has no end": (packet_mutant, "m.Elif(free & self.abort & self.within)", "m.Elif(0)", 8),
    "last source first": (
        reply_mutant,
        "for number in reversed(range(self.sources)):\n            with m.If(self.replies_in",
        "for number in range(self.sources):\n            with m.If(self.replies_in",
        8,
    ),
    "source changes inside a frame": (
        reply_mutant,
        "with m.If(self.replies.valid & self.replies.ready):\n            m.d.sync += source",
        "with m.If(self.replies.valid):\n            m.d.sync += source",
        12,
    ),
    "word taken before `tx` has its last one's end": (
        reply_mutant,
        "(free & ~load) | self.tx_next_ready",
        "1",
        12,
    ),
    "words a cycle apart": (reply_mutant, "(free & ~load) | self.tx_next_ready", "free & ~load", 12),
    "frame waits for the next reply": (
        reply_mutant,
        "word.eq(response), load.eq(free)",
        "word.eq(response), load.eq(free & self.replies.valid)",
        12,
    ),
    "a sum at the threshold is not decided": (sign_mutant, "self.threshold - ~alone", "self.threshold", 6),
    "zero without a sign": (sign_mutant, "Mux(alone, Sign.ZERO, Sign.UNRESOLVED)", "Sign.UNRESOLVED", 6),
    "magnitude of a negative sum without its carry": (
        sign_mutant,
        "Cat(self.negative, self.bits)",
        "Cat(C(0, 1), self.bits)",
        6,
    ),
    "last signs lost": (sign_mutant, "self.valid.eq(full | closing | spills)", "self.valid.eq(full | closing)", 12),
    "largest of one lane alone": (sign_mutant, "with m.If(steps[2 * number]):", "with m.If(0):", 12),
    "largest of the job before": (sign_mutant, "[largest.bits.eq(0) for largest in self.largest]", "[]", 20),
    "ties are rounded up": (arithmetic_mutant, "half & (rest | quotient[0])", "half", 1),
    "the first bit lost is forgotten": (
        arithmetic_mutant,
        "lost = rest | half | quotient",
        "lost = rest | quotient",
        1,
    ),
    "not rounded up by what a later shift loses": (
        arithmetic_mutant,
        "lost = rest | (amount[bit] &",
        "lost = rest & (amount[bit] |",
        1,
    ),
    "the least number is not clipped": (arithmetic_mutant, "~value[: bits - 1].any()", "C(0, 1)", 1),
    "the kind of a command is that of its last word": (hazard_mutant, "with m.If(index == 0)", "with m.If(1)", 12),
    "LOAD into cells that a MATMUL reads": (
        hazard_mutant,
        "waits.load.eq(1), waits.walk_cells.eq(1)",
        "waits.load.eq(1)",
        18,
    ),
    "MATMUL on cells that a LOAD fills": (hazard_mutant, "waits.load_cells.eq(1), ", "", 18),
    "cells of B forgotten": (
        hazard_mutant,
        "cells.eq(_overlap(check.a, a) | _overlap(check.b, b)),\n        ]\n        return self.gather_busy",
        "cells.eq(_overlap(check.a, a)),\n        ]\n        return self.gather_busy",
        18,
    ),
    "READ of sums that the MATMUL before last stores": (
        hazard_mutant,
        " | (self.engine_storing & meets_earlier)",
        "",
        26,
    ),
    "MATMUL into sums under READ": (hazard_mutant, ", waits.read_sums.eq(1)", "", 18),
    "WRITE into the row list under LOAD": (hazard_mutant, "Case(Space.LIST)", "Case(Space.REGISTERS)", 18),
    "WRITE into a tensor under LOAD": (hazard_mutant, "waits.load_words.eq(1)", "waits.load_words.eq(0)", 18),
    "WRITE into sums at work": (
        hazard_mutant,
        "waits.matmuls.eq(1), waits.readout.eq(1)",
        "waits.readout.eq(1)",
        18,
    ),
    "UPDATE beside a LOAD": (
        hazard_mutant,
        "If(self._is(*_UPDATES) & good):\n            m.d.comb += waits.load.eq(1)",
        "If(self._is(*_UPDATES) & good):\n            m.d.comb += waits.load.eq(0)",
        18,
    ),
    "commands behind an UPDATE do not wait": (
        hazard_mutant,
        'm.next = "UPDATE"',
        'm.next = "REPLY"',
        22,
    ),
    "READ of the store beside a LOAD": (
        hazard_mutant,
        "waits.load.eq(read.space == Space.STORE)",
        "waits.load.eq(0)",
        18,
    ),
    "SYNC before all is done": (
        hazard_mutant,
        "waits.matmuls.eq(1), waits.answers.eq(1)]",
        "waits.answers.eq(1)]",
        18,
    ),
    "answer to a quiet LOAD": (
        hazard_mutant,
        "self.load.ready, packets.Load(self._bits).quiet",
        "self.load.ready, 0",
        18,
    ),
    "no answer to a MATMUL that is not quiet": (
        hazard_mutant,
        "self.start.ready, packets.Matmul(self._bits).quiet",
        "self.start.ready, 1",
        18,
    ),
    "quiet LOAD dropped while another is under way": (
        hazard_mutant,
        'with m.If(~ready):\n            m.next = "WAIT"\n        with m.Elif(quiet)',
        'with m.If(~ready):\n            m.next = "WAIT"\n        with m.If(quiet)',
        18,
    ),
    "no answer to a quiet command that is refused": (
        hazard_mutant,
        'm.next = "DISCARD"',
        'm.next = "DISCARD"\n                    with m.If(packets.Load(self._bits).quiet):\n'
        + 24 * " "
        + 'm.next = "START"',
        18,
    ),
    "an answer promised twice": (
        hazard_mutant,
        "promises.r_en.eq(self.sum_replies.valid & ",
        "promises.r_en.eq(0 & ",
        18,
    ),
    "binary pointers cross": (binary_mutant, "return val ^ val[1:]", "return val", 12),
    "pointer to the sink through one stage": (
        crossing_mutant,
        "FFSynchronizer(produce_w_gry, produce_r_gry, o_domain=self._r_domain)",
        "FFSynchronizer(produce_w_gry, produce_r_gry, o_domain=self._r_domain, stages=1)",
        12,
    ),
    "pointer to the source through one stage": (
        crossing_mutant,
        "FFSynchronizer(consume_r_gry, consume_w_gry, o_domain=self._w_domain)",
        "FFSynchronizer(consume_r_gry, consume_w_gry, o_domain=self._w_domain, stages=1)",
        16,
    ),
    "pointer to the sink without a stage": (
        crossing_mutant,
        "r_empty.eq(consume_r_gry == produce_r_gry)",
        "r_empty.eq(consume_r_gry == produce_w_gry)",
        12,
    ),
    "crossing takes words when full": (crossing_mutant, "self.w_rdy.eq(~w_full)", "self.w_rdy.eq(1)", 20),
    "crossing gives words that are not there": (crossing_mutant, "self.r_rdy.eq(~r_empty)", "self.r_rdy.eq(1)", 8),
    "word read before it is written": (
        crossing_mutant,
        "w_port.addr.eq(produce_w_bin[:-1])",
        "w_port.addr.eq(produce_w_nxt[:-1])",
        20,
    ),
    "queue of a crossing reset with its source alone": (
        reset_mutant,
        'ResetSignal("queue_source").eq(emptied)',
        'ResetSignal("queue_source").eq(ResetSignal(self.source_domain))',
        12,
    ),
    "discarding stops before the last word": (
        end_mutant,
        "self.frames.ready.eq(self._words_left != 0)\n            with m.If(self._words_left == 0)",
        "self.frames.ready.eq(self._words_left != 0)\n            with m.If(self._words_left == 1)",
        64,
    ),
    "commands counted while they wait": (
        apart_mutant,
        "self._at_hand.eq(1)",
        "[self._at_hand.eq(1), self.command.eq(1)]",
        16,
    ),
    "SYNC waits for an answer that never leaves": (
        end_mutant,
        "valid.eq(promises.level != 0)",
        "valid.eq(promises.level > 1)",
        50,
    ),
}


@pytest.mark.parametrize("name", PROVED)
def test_property_holds(name: str, tmp_path: Path) -> None:
    make, cover_steps = PROVED[name]
    prove(make(), tmp_path, INDUCTION, cover_steps)


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, tmp_path: Path) -> None:
    make, old, new, steps = MUTANTS[name]
    verdict = search(make(old, new), tmp_path, steps)
    assert not verdict.holds
    assert "Assert failed in property" in verdict.log


def test_mutation_must_fit() -> None:
    with pytest.raises(ValueError, match="has 0 times 'no such text'"):
        altered(frames, ("no such text", ""))


@pytest.mark.parametrize("kind", [Property, Commands])
def test_property_that_says_nothing_cannot_be_made(kind: type[Property]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        kind({})


def test_empty_property_is_refused(tmp_path: Path) -> None:
    class Nothing(Property):
        def state(self, m) -> None:
            pass

    with pytest.raises(FormalError, match="nothing to assert"):
        search(Nothing({}), tmp_path, 2)
