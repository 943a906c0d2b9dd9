"""The register map: the identity block at address 0, the counters, and the registers of the AXI4-Lite port."""

from dataclasses import dataclass
from enum import StrEnum

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
    features: 32  # from bit 0: update, packed, gather, requantise, trace, power, spi, pmbus, xadc; see `ArrayConfig`
    clock_khz: 32
    store_words: 32
    watchdog_cycles: 32  # of the feature "trace"
    fingerprint: 64  # of a build; bit 63 is set in simulations, and 0 is nobody's


IDENTITY_WORDS = 6
SIMULATED = 1 << 63  #: this bit of a fingerprint


def fingerprint_of(digest: bytes) -> int:
    """Of a build, by a digest of all that it is made of."""
    return int.from_bytes(digest[:8], "little") % SIMULATED


def is_built(fingerprint: int) -> bool:
    """Whether a build for hardware made the device: no simulation, and not one without a fingerprint."""
    return 0 < fingerprint < SIMULATED


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


class Access(StrEnum):
    """What a field of an AXI register does. Bits that belong to no field read as 0 and ignore writes."""

    READ = "read-only"  # a write to a register that has no other fields is refused
    WRITE = "read-write"
    CLEAR = "write 1 to clear"  # set by the device, which goes before a clearing in the same cycle
    START = "write 1 to start"  # reads as 1 until it is done


@dataclass(frozen=True)
class Field:
    """`width` bits from bit `low` on."""

    name: str
    low: int
    width: int
    access: Access
    doc: str


@dataclass(frozen=True)
class Register:
    """32 bits at byte `address`; all fields are 0 after reset."""

    name: str
    address: int
    doc: str
    fields: tuple[Field, ...]

    @property
    def writable(self) -> bool:
        return any(field.access != Access.READ for field in self.fields)


AXI_ADDRESS_BITS = 12
AXI_BYTES = 4  #: of a register
_WORD = 32


def _events(access: Access) -> tuple[Field, ...]:
    """The events that can interrupt: in the status register and in the one that enables them."""
    docs = {
        "answer": "The last beat of an answer was taken at `m_axis`.",
        "idle": "The device has become idle.",
        "rx_partial": "A beat with some, not all bits of `s_axis_tkeep` set was dropped.",
    }
    return tuple(Field(name, low, 1, access, doc) for low, (name, doc) in enumerate(docs.items()))


def _whole(access: Access, doc: str) -> tuple[Field, ...]:
    return (Field("value", 0, _WORD, access, doc),)


#: Those besides the identity block, which has the first 8 * IDENTITY_WORDS bytes of the same port.
AXI_REGISTERS = (
    Register(
        "control",
        0x100,
        "What software starts.",
        (
            Field(
                "reset",
                0,
                1,
                Access.START,
                "Resets the device, not these registers: as after switching on, but that memories keep what they hold. "
                "An answer that has begun at `m_axis` is ended: by one beat of zeros, if its last one is not there.",
            ),
        ),
    ),
    Register(
        "status",
        0x104,
        "What the device is doing.",
        (
            Field("idle", 0, 1, Access.READ, "Nothing buffered, running or to be sent, or stuck (see TRACE)."),
            Field("rx_waits", 1, 1, Access.READ, "A beat waits at `s_axis`."),
            Field("tx_waits", 2, 1, Access.READ, "A beat waits at `m_axis`."),
        ),
    ),
    Register("interrupt_status", 0x108, "What has happened since it was cleared.", _events(Access.CLEAR)),
    Register("interrupt_enable", 0x10C, "`irq` is high while some bit is set here and there.", _events(Access.WRITE)),
    Register("rx_beats", 0x110, "Counter.", _whole(Access.READ, "Beats that the device took from `s_axis`.")),
    Register("rx_dropped", 0x114, "Counter.", _whole(Access.READ, "Beats dropped for `s_axis_tkeep`, null ones too.")),
    Register("tx_beats", 0x118, "Counter.", _whole(Access.READ, "Beats taken at `m_axis`.")),
    Register("tx_packets", 0x11C, "Counter.", _whole(Access.READ, "Beats with `m_axis_tlast` taken at `m_axis`.")),
    Register("scratch", 0x120, "To try the port with.", _whole(Access.WRITE, "Any value; it does nothing.")),
)
