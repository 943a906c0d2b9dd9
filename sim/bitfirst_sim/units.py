"""Units of the core that rest most of the time: in the compiled simulator each has a clock of its own.

The harness turns the clock of a unit with the core's, in the same evaluation, but only in cycles in which some register
of the unit may change. So the model passes over all that depends on resting units alone; every other register, and all
that leaves the core, is as it would be, cycle by cycle. The hardware has one clock: only the text that is compiled here
changes. Waveforms show the core as it is.

`UNITS` says which registers belong together and when they may change. `checked` text tests that: it clocks everything,
stops where a register of a resting unit would have changed, and spoils those that nobody may look at then.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

_MODULE = re.compile(r"^module \\?(?P<name>\S+) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_PROCESS = re.compile(
    r"^  always @\(posedge clk\)(?P<body>\n    \S+ +<= [^\n]*;\n| begin\n.*?^  end\n)", re.MULTILINE | re.DOTALL
)
_ASSIGNMENT = re.compile(r"(?<=\n)(?P<indent> *)(?P<place>\S[^\n]*?) +<= (?P<value>[^\n]*?) *;(?=\n)")


@dataclass(frozen=True)
class Unit:
    """Registers and memories with a clock of their own. The first unit that names a register has it.

    modules    regular expression: modules of the Verilog, below the core
    registers  regular expression: registers and memories there
    moves      SystemVerilog, `core` is the core: high in each cycle in which something new comes into it, or is at
               work there for longer than its pipelines take
    settles    how many cycles after those it still changes: the pipelines run empty, and constant inputs pass through
    loose      regular expression: registers that may hold anything while the unit rests, because they travel with a
               `valid` which has run out then
    """

    name: str
    modules: str
    registers: str
    moves: str
    settles: int
    loose: str = ""


UNITS = (
    # A job is taken by `start` and lasts until its last word has gone; behind that come bits of no element, which run
    # through the requantiser, the longest of the pipelines.
    Unit("readout", r"readout(\..*)?", ".*", "core.readout.busy | core.readout.start__valid", settles=24),
    # The transposer: a LOAD across fills and drains it. `busy` covers its pipeline, and the cycles in which the gather
    # unit stands still because the store is taken.
    Unit(
        "transposer",
        r"gather\.engine\.shuffle",
        r"bank_\d+|place_\d+|tap_\d+",
        r"core.gather.busy & core.gather.engine.turns.\job.load.across ",
        settles=2,
    ),
    # A LOAD, an entry of the row list, and words of the store that others read (the updater): they pass through the
    # first stages of the data path, which take a step in each cycle.
    Unit(
        "gather",
        r"gather(\..*)?",
        ".*",
        "core.gather.busy | core.gather.start__valid | core.gather.list_write__valid | core.store.read__enable",
        settles=16,
    ),
    # A's cells: written one cycle after they come; rows that the host writes (`words_N`), at once.
    Unit(
        "a_write",
        r"engine\.a_memory",
        r"bank_\d+_\d+|bank_\d+_write_enable|slices|\$signal.*|words_\d+",
        "core.engine.a_memory.write__valid",
        settles=1,
        loose=r"slices|\$signal.*",  # cell and digits: stored where a `bank_N_write_enable` is high
    ),
    # B's cells: up to three stages of the rotation and one more register in front of the banks; or as those of A.
    Unit(
        "b_write",
        r"engine\.b_memory",
        r"bank_\d+_\d+(_\d+)?|bank_\d+(_\d+)?_write_.*|slices|\$signal.*|planes_.*|taken_\d+|write_.*|words_\d+",
        "core.engine.b_memory.write__valid",
        settles=4,
        # places, groups and turns; `write_0`, `write_N_0` and `planes_turn_N_1` are the `valid` that goes with them
        loose=r"planes_turn_\d+_0|taken_\d+|bank_\d+_\d+_write_row|write_\d+_[1-9]\d*|write_[1-9]\d*|slices|\$signal.*",
    ),
    # Shadow registers and those at the columns' feet: `load` fills the first, a cycle later the rows are in turn, and
    # behind the last one's sums come zeros.
    Unit(
        "drain",
        r"engine\.array(\..*)?",
        r"kept|turn|drain_valid|(column_)?sums__\d+",
        "core.engine.array.load | core.engine.array.drain_valid",
        settles=1,
    ),
    # A row that drains takes 4 cycles (`PartialSums.latency`), one that is read 2, a sum from the host none.
    Unit(
        "partial_sums",
        r"engine\.partial_sums",
        ".*",
        "core.engine.partial_sums.drain__valid | core.engine.partial_sums.write__valid"
        " | core.engine.partial_sums.read__valid",
        settles=4,
        # what goes with `corrected_valid`, `shifted_valid`, `added_valid`
        loose=r"(corrected|shifted|added)_(row|replace)|(corrected|term|new|alike|negative)_\d+|slices_left",
    ),
    # The rest of the engine, with walks, array and the reading side of the memories: a MATMUL lasts until its last sum
    # is stored, and a program is written between MATMULs. Constant inputs take `operand_cycles` to pass, at first.
    Unit(
        "engine",
        r"engine(\..*)?",
        ".*",
        "core.engine.busy | core.engine.start__valid | core.sequencer.program_write__valid",
        settles=16,
    ),
    # A check takes 23 cycles at most (TENSOR), and then its products one more to become zero.
    Unit("check", r"sequencer\.check", ".*", "core.sequencer.check.go", settles=28),
    # A unit of the link comes, or a word moves on to the sequencer, or an answer waits. In front of a frame header
    # fields of what stands at the input are taken in each cycle: it stands there a cycle longer than its `valid`.
    Unit(
        "receiver",
        r"link\.receiver(\..*)?",
        ".*",
        "core.link.rx__valid | core.link.receiver.rx__valid | core.link.receiver.answers__valid"
        " | (core.link.receiver.frames__valid ? core.link.receiver.frames__ready"
        " : core.link.receiver.committed"
        " != core.link.receiver.credit[$bits(core.link.receiver.committed)-1:0])",
        settles=3,
    ),
    # A reply that waits, a frame under way, and a new first sequence number.
    Unit(
        "transmitter",
        r"link\.transmitter(\..*)?",
        ".*",
        "core.link.transmitter.replies__valid | ~core.link.transmitter.idle | core.link.transmitter.restart",
        settles=3,
    ),
    # A job of the updater; words that the gather unit reads pass through its first registers.
    Unit("updater", r"updater(\..*)?", ".*", "core.updater.busy | core.updater.start__valid", settles=16),
)


def divide(text: str, top: str, units: Iterable[Unit] = UNITS, checked: bool = False) -> tuple[str, str, int]:
    """A core's Verilog with the clocks of its units, what `wrapper.sv` includes for them, and how many there are.

    `top`: the core's module. Units of which the text has no register are left out.
    """
    present: dict[Unit, int] = {}

    def module(found: re.Match) -> str:
        below = found["name"].removeprefix(f"{top}.")
        mine = [unit for unit in units if below != found["name"] and re.fullmatch(unit.modules, below)]
        return _PROCESS.sub(_divider(mine, present, checked), found[0]) if mine else found[0]

    text = _MODULE.sub(module, text)
    clocks = "".join(
        f"// {unit.name}\nunit_clock #({unit.settles}) unit_{index} (clk, {unit.moves}, moves[{index}]);\n"
        for unit, index in present.items()
    )
    return text, clocks or "assign moves = 0;\n", len(present)


def _divider(units: list[Unit], present: dict[Unit, int], checked: bool) -> Callable[[re.Match], str]:
    """Gives a process of one of the units that unit's clock; those found first are numbered first."""

    def process(found: re.Match) -> str:
        names = {re.match(r"\\?([^\s\[]+)", made["place"])[1] for made in _ASSIGNMENT.finditer(found["body"])}
        for unit in units:
            if names and all(re.fullmatch(unit.registers, name) for name in names):
                index = present.setdefault(unit, len(present))
                if checked:
                    return _checked(found, unit, index, names)
                return f"  always @(edge simulated.clocks[{index}]){found['body']}"
        return found[0]

    return process


def _checked(process: re.Match, unit: Unit, index: int, names: set[str]) -> str:
    """Clocked in each cycle; where the unit rests, a loose register is spoilt, a change of another one is the end."""
    moves = f"simulated.moves[{index}]"
    if unit.loose and all(re.fullmatch(unit.loose, name) for name in names):
        return _ASSIGNMENT.sub(rf"\g<indent>\g<place> <= {moves} ? (\g<value> ) : ~(\g<value> );", process[0])
    call = f'resting_unit_changes("{unit.name}", "{", ".join(sorted(names))}");'
    compared = _ASSIGNMENT.sub(rf"\g<indent>if (\g<place> != (\g<value> )) {call}", process["body"])
    return f"{process[0]}  always @(posedge clk) if (~{moves}){compared}"
