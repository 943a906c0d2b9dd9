"""The register map: the identity block at address 0, and the counters."""

from dataclasses import dataclass

from amaranth.lib import data

MAGIC = int.from_bytes(b"BITFIRST", "little")


class Identity(data.Struct):
    """Who answers: the words of REGISTERS from address 0, least significant word first."""

    magic: 64
    contract_version: 16
    datapath: 8
    slice_bits: 8  # S
    lanes: 16  # L
    rows: 8  # R
    columns: 8  # C
    a_cells: 16
    b_cells: 16
    sum_tiles: 16
    rx_words: 16
    features: 32  # bit 0: UPDATE, WEIGHTS and READ of the store
    clock_khz: 32
    store_words: 32
    reserved: 32
    fingerprint: 64


IDENTITY_WORDS = 6


@dataclass(frozen=True)
class Counter:
    """One 64-bit counter.

    `kind` is "execution" (a function of commands and data alone: model and hardware agree exactly) or
    "arrival" (depends on when words arrived).
    """

    name: str
    kind: str
    unit: str
    doc: str


COUNTERS = (
    Counter("cycles", "arrival", "cycles", "Device clock cycles since RESET."),
    Counter("starved_cycles", "arrival", "cycles", "Cycles with nothing to do: no word waiting, nothing running."),
    Counter("rx_words", "arrival", "words", "Words received on the link, damaged and repeated frames included."),
    Counter("tx_words", "arrival", "words", "Words sent on the link."),
    Counter("frame_errors", "arrival", "frames", "Frames dropped for a wrong CRC-32."),
    Counter("sequence_errors", "arrival", "frames", "Frames dropped for their sequence number."),
    Counter("load_wait_cycles", "arrival", "cycles", "Cycles in which the array waited for a LOAD under way."),
    Counter("read_wait_cycles", "arrival", "cycles", "Cycles in which the array waited for a READ under way."),
    Counter("commands", "execution", "commands", "Commands executed, refused ones and this one included."),
    Counter("faults", "execution", "commands", "Commands refused with an error status."),
    Counter("matmuls", "execution", "commands", "MATMULs executed."),
    Counter("matmul_cycles", "execution", "cycles", "Cycles of MATMULs: set-up, steps, doublings and stalls."),
    Counter("array_steps", "execution", "cycles", "Cycles in which the array took one slice word and one plane word."),
    Counter("stall_cycles", "execution", "cycles", "Cycles in which the array waited for its shadow registers."),
    Counter("serial_ones", "execution", "bits", "One bits among the B planes fed, summed over columns and steps."),
    Counter(
        "gated_steps",
        "execution",
        "element steps",
        "Elements without a row of A, so with nothing to do, added up over the steps of packed MATMULs. Bit-MACs done: "
        "(R * C * array_steps - gated_steps) * L * S.",
    ),
    Counter("loads", "execution", "commands", "LOADs executed."),
    Counter("load_cycles", "execution", "cycles", "Cycles from the start of each LOAD to its last cell written."),
    Counter("fetches_a", "execution", "reads", "Reads of the store for operand A, two store words each."),
    Counter("fetches_b", "execution", "reads", "Reads of the store for operand B, two store words each."),
    Counter("updates", "execution", "commands", "UPDATEs and WEIGHTSs executed."),
    Counter("update_cycles", "execution", "cycles", "Cycles of UPDATEs and WEIGHTSs."),
    Counter("words_written", "execution", "words", "Data words stored by WRITE."),
    Counter("elements_read", "execution", "elements", "Sums sent by READ."),
    Counter("saturated", "execution", "elements", "Requantised elements that were clipped."),
    Counter("overflows", "execution", "sums", "Partial sums that left 48 bits; always 0 within the rules."),
    Counter("phase", "execution", "", "The current phase, as set by MARK."),
)

COUNTER_INDEX = {counter.name: index for index, counter in enumerate(COUNTERS)}
EXECUTION_COUNTERS = tuple(counter.name for counter in COUNTERS if counter.kind == "execution")
