"""The space POWER of devices with the feature "power": how their sensors are told, and what has been measured.

Sensors hang on one I2C bus, or, with a feature, on another one. The device knows no chip: the host says which registers
hold what (`Rail`), and sets the chips up by transfers of its own (`Transfer`). Numbers stay in the sensors' units; the
host knows what they are worth.

With the feature "spi" the bus is one of SPI, and all is said in the same way: an address is the number of a chip's
line, 0 to 3; the first byte written is a register's number, six bits, to which the device adds whether it is read; and
what is not acknowledged had no 0 among the bits read. There `recover` does nothing, and SDA is MISO.

With the feature "pmbus" the two wires are those of a PMBus, whose words come low byte first. Two bytes read are such a
word, the high byte given first; three bytes read are, on the bus, a word of the format LINEAR11, and are given as a
number of 24 bits in steps of 2**-16: exact, or, from 128 on and from -128 down, the one at that end, which counts as
`saturated`; so the 20 bits that are added up are steps of 2**-12. That is so in transfers, too; other counts of bytes
are as on the bus. Nothing says there when a number is a new one: `READY` is another word for `VOLTAGE`, each round is a
sample, and one follows another.

With the feature "xadc" the sensor is the converter in a Xilinx 7-series chip (XADC, UG480), its rails are pairs of its
channels, and all is said in the same way. Written is a register's number, then nothing or its two bytes; read are two.
Numbers below 0x40, of what has been converted, are read as a 0 and the upper 15 bits. Number 0x80 is none of its
registers but one byte, of which bit 0 says that a sequence has ended since it was read last, for each address by its
lowest two bits; else an address says nothing. `recover` does nothing, and SCL and SDA are 1.

While it runs, the device goes round its rails. A round has one time for all of them: the cycle in which the first
rail's first register was read and said that it is ready, or was not acknowledged; so what says READY comes first. From
the time of the round before to this one the numbers read are taken as valid, in each phase for as many cycles as it had
of them. So the sums over all phases are those of no phases at all.

WRITE takes one word a row (`WRITTEN_ROWS`), READ words from `first` on (`READ_WORDS`); words that are no field are 0.
"""

from amaranth.lib import data, enum

RAILS = 4
PHASES = 8  #: bits above those of the phase that MARK sets mean nothing here
READS = 4  #: registers read in a round of a rail
CODE_BITS = 20  #: of a current (signed) and a voltage (unsigned), as they are added up
CYCLES_BITS = 24  #: of what a phase has of a round

CONTROL_ROW, TRANSFER_ROW, FIRST_RAIL_ROW = 0, 1, 4
WRITTEN_ROWS = FIRST_RAIL_ROW + RAILS

STATE_WORD, RESULT_WORD, STAMP_WORD = 0, 1, 2
FIRST_SUM_WORD = 128  #: those of rail r, phase p from `FIRST_SUM_WORD` + (r * PHASES + p) * SUM_WORDS on
SUM_NAMES = ("cycles", "samples", "charge", "energy")  #: samples: rounds that the phase had cycles of
SUM_WORDS = len(SUM_NAMES)
FIRST_RECORD_WORD = 512  #: record i from `FIRST_RECORD_WORD` + i % RECORDS * RECORD_WORDS on
RECORDS = 128  #: the last ones
RECORD_WORDS = 2
READ_WORDS = FIRST_RECORD_WORD + RECORDS * RECORD_WORDS

#: Those above that other software needs.
NUMBERS = ("RAILS", "PHASES", "CONTROL_ROW", "TRANSFER_ROW", "FIRST_RAIL_ROW")
NUMBERS += ("STATE_WORD", "RESULT_WORD", "STAMP_WORD", "FIRST_SUM_WORD", "SUM_WORDS")
NUMBERS += ("FIRST_RECORD_WORD", "RECORDS", "RECORD_WORDS", "READ_WORDS")


class Control(data.Struct):
    """Row 0. What it starts is done in the order of the fields; READs wait until it is.

    Behind a `clear`, and where `run` begins anew, the first round says when the time begins: what its numbers are valid
    for is not known. It is written down, not added up. CONTROLs without a READ between them are done as one.
    """

    recover: 1  # free the bus: clock pulses until no chip holds SDA, then a STOP
    clear: 1  # all sums, records and faults to 0
    snapshot: 1  # copy the sums as of the last round whole, and its time; READ gives the copy
    run: 1  # go round the rails from now on; 0: stop after this round
    record: 1  # write each sample down
    reserved0: 59


class Transfer(data.Struct):
    """Row 1. START, address and `written` bytes, then, where `read` is not 0, START, address and so many bytes; STOP.

    Not while `run` (nothing happens, the result is not `done`). READs wait until it is done. The result is gone when
    `run` begins.
    """

    address: 7
    reserved0: 1
    written: 3  # bytes, at most 4
    read: 3  # bytes, at most 5
    reserved1: 2
    bytes: 32  # the first one least significant
    reserved2: 16


class Rail(data.Struct):
    """Rows 4 to 7. A sensor, and the registers that make a sample, in their order; those with `bytes` 0 are left out.

    A register is 1 to 3 bytes, the most significant first. Of three the top 20 bits are the number. `READY`: read again
    and again until bit `ready` of the register is set. One register may say `READY` and hold the voltage: then both.
    """

    address: 7
    enabled: 1
    ready: 5  # bit of the register as read
    reserved0: 3
    reads: data.ArrayLayout(12, READS)  # `RailRead`


class RailRead(data.Struct):
    """A register that is read in a round, 12 bits of `Rail`."""

    register: 8
    bytes: 2
    role: 2  # `Role`


class Role(enum.IntEnum, shape=2):
    """What a register read in a round is for."""

    NONE = 0
    READY = 1
    CURRENT = 2
    VOLTAGE = 3


class State(data.Struct):
    """Word 0. Faults stay until `clear`."""

    running: 1
    sda: 1  # as seen
    scl: 1
    reserved0: 5
    silent: RAILS  # rails whose sensor did not acknowledge: no sample in such a round
    saturated: RAILS  # a number had all ones, or all but the sign, so may stand for a larger one
    overflow: 1  # a sum left 63 bits
    late: 1  # a phase had more than 2**24 - 1 cycles of a round: the rest is not in the sums
    reserved1: 1
    stretched: 1  # a chip held SCL for over 25 ms
    reserved2: 12
    recorded: 16  # samples written down since `clear`, modulo 2**16
    rounds: 16  # since `clear`, modulo 2**16


class Result(data.Struct):
    """Word 1, of the last transfer."""

    done: 1
    acknowledged: 1  # each byte
    reserved0: 22
    bytes: 40  # read, the first one most significant of as many as were asked for; if acknowledged


class Record(data.Struct):
    """Two words: a sample. `stamp` is the time of its round, in cycles since power-up, modulo 2**48."""

    stamp: 48
    phase: 8
    rail: 8
    current: 32  # signed
    voltage: 32
