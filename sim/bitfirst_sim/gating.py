"""How much an element of the array toggles while it has nothing to finish: waveforms of the compiled RTL."""

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

from bitfirst.errors import DeviceError, UsageError
from bitfirst_hdl.array import Array
from bitfirst_hdl.config import ArrayConfig, load
from vcd.reader import Token, TokenKind, tokenize

from .bench import run_bench

#: Of an element itself: not what others bring it.
_PART = re.compile(r"\.element_(\d+)_(\d+)\.(tree|accumulator)\.(?!a__|mask__|port_|control_|term|clk|rst)")
_OWN = re.compile(r"\.own_(\d+)_(\d+)\.(take|move)$")
Place = tuple[int, int]  #: row and column


def run(name: str = "tiny") -> dict[str, Any]:
    """Of passes in which a third of the elements have something to finish. Keys of `bitfirst bench gating`.

    STATE is "working" for elements that took a word of A before the pass, and "gated" for those that none was for.

    element_cycles_STATE
                     cycles of all elements in it
    tree_toggles_STATE, accumulator_toggles_STATE
                     bits of registers and wires that change in such a cycle: in an element's adder tree, and in its
                     accumulator, with its shadow register
    tree_ratio, accumulator_ratio
                     gated over working; the cycles in which a tree runs empty are counted as gated
    """
    config = load(name)
    if not config.packs:
        raise UsageError(f"configuration {name} has no packed MATMULs; give one with the feature packed, such as tiny")
    if find_spec("cocotb_tools") is None:
        raise UsageError("bench gating needs cocotb: pip install 'bitfirst[test]'")
    with tempfile.TemporaryDirectory(prefix="bitfirst-gating-") as folder:
        waveform = run_bench(
            Array(config),
            "array",
            "bitfirst_sim.benches.bench_gating",
            parameters={"config": config.as_dict()},
            waves=Path(folder),
        ).waveform
        return {"config": name, **rates(count(_readable(waveform.read_bytes()), config))}


@dataclass
class Count:
    """cycles of elements by state; toggles by (state, part)"""

    cycles: Counter = field(default_factory=Counter)
    toggles: Counter = field(default_factory=Counter)


def rates(counted: Count) -> dict[str, float]:
    """Raises `DeviceError` when no element was working, or none gated."""
    cycles = counted.cycles
    if not (cycles["working"] and cycles["gated"]):
        raise DeviceError(f"cycles of elements by what they did: {dict(cycles)}; this tells nothing about gating")
    found = {f"element_cycles_{state}": cycles[state] for state in ("working", "gated")}
    for part in ("tree", "accumulator"):
        working, gated = (counted.toggles[state, part] / cycles[state] for state in ("working", "gated"))
        found |= {f"{part}_toggles_working": working, f"{part}_toggles_gated": gated, f"{part}_ratio": gated / working}
    return found


@dataclass
class _Own:
    """One element: codes of the signals `take` and `move` of its word; whether it took one; its state."""

    codes: dict[str, str] = field(default_factory=dict)
    taken: bool = False
    state: str | None = None

    def edge(self, values: dict[str, int]) -> None:
        take, move = (values.get(self.codes.get(name), 0) for name in ("take", "move"))
        if move:
            self.state = "working" if self.taken else "gated"
        self.taken = bool(take or (self.taken and not move))


@dataclass
class _Signals:
    """Codes of signals: `parts` of elements to what they belong, the words of elements, the clock."""

    parts: dict[str, tuple[Place, str]] = field(default_factory=dict)
    owns: dict[Place, _Own] = field(default_factory=dict)
    clock: str | None = None

    def note(self, name: str, code: str) -> None:
        if name.endswith(".clk"):
            self.clock = self.clock or code
        elif found := _PART.search(name):
            self.parts.setdefault(code, ((int(found[1]), int(found[2])), found[3]))
        elif found := _OWN.search(name):
            self.owns.setdefault((int(found[1]), int(found[2])), _Own()).codes[found[3]] = code

    def complete(self, config: ArrayConfig) -> bool:
        places = {place for place, own in self.owns.items() if len(own.codes) == 2}
        return len(places) == config.rows * config.columns and {place for place, _ in self.parts.values()} == places


def count(waves: BinaryIO, config: ArrayConfig) -> Count:
    """From the first move on. What changes at an edge of the clock is the work of the cycle before it."""
    signals, counted = _Signals(), Count()
    values: dict[str, int] = {}
    for moment in _moments(tokenize(waves), signals):
        if moment.get(signals.clock):
            _count_edge(signals, values, moment, counted)
        values.update(moment)
    if not signals.complete(config):
        raise DeviceError("the waveforms lack signals of the array's elements")
    return counted


def _count_edge(signals: _Signals, values: dict[str, int], moment: dict[str, int], counted: Count) -> None:
    """`values`: before the edge."""
    states = {place: own.state for place, own in signals.owns.items()}
    counted.cycles.update(state for state in states.values() if state)
    for code in moment.keys() & signals.parts.keys():
        place, part = signals.parts[code]
        if states.get(place):
            counted.toggles[states[place], part] += (values.get(code, 0) ^ moment[code]).bit_count()
    for own in signals.owns.values():
        own.edge(values)


def _readable(waves: bytes) -> BytesIO:
    """With names of scopes and variables that the reader takes: letters, digits and underscores."""
    header, end, changes = waves.partition(b"$enddefinitions")
    names = re.compile(rb"(\$scope module |\$var wire \d+ \S+ )(\S+)")
    return BytesIO(names.sub(lambda found: found[1] + re.sub(rb"\W", b"_", found[2]), header) + end + changes)


def _moments(tokens: Iterator[Token], signals: _Signals) -> Iterator[dict[str, int]]:
    """The values that change at each time, by code; before, `signals` learns the codes."""
    scopes: list[str] = []
    moment: dict[str, int] = {}
    for token in tokens:
        match token.kind:
            case TokenKind.SCOPE:
                scopes.append(token.scope.ident)
            case TokenKind.UPSCOPE:
                scopes.pop()
            case TokenKind.VAR:
                signals.note(".".join([*scopes, token.var.reference]), token.var.id_code)
            case TokenKind.CHANGE_TIME:
                yield moment
                moment = {}
            case TokenKind.CHANGE_SCALAR:
                moment[token.scalar_change.id_code] = int(token.scalar_change.value == "1")
            case TokenKind.CHANGE_VECTOR:
                moment[token.vector_change.id_code] = int(token.vector_change.value)
    yield moment
