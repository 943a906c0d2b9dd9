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
from vcd.reader import TokenKind, tokenize

from .bench import run_bench

#: Of an element itself: not what others bring it, planes of B among that.
_PART = re.compile(r"\.element_(\d+)_(\d+)\.(tree|accumulator)\.(?!a__|mask__|port_|chain_in|clk|rst)")
_HELD = re.compile(r"\.own_(\d+)_(\d+)\.held")
Place = tuple[int, int]  #: row and column


def run(name: str = "tiny") -> dict[str, Any]:
    """Of passes in which a third of the elements have something to finish. Keys of `bitfirst bench gating`.

    element_cycles     cycles of elements that hold a word of A ("working"), or zeros since none is for them ("gated")
    toggles_per_cycle  bits of registers and wires that change in such a cycle: in the element's adder tree, and in its
                       accumulator, with the shadow register through which the sums of its column leave
    ratio              of the trees, gated over working; the cycles in which a tree runs empty are counted as gated
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


def rates(counted: Count) -> dict[str, Any]:
    """Raises `DeviceError` when no element was working, or none gated."""
    cycles, states = counted.cycles, ("working", "gated")
    if not all(cycles[state] for state in states):
        raise DeviceError(f"cycles of elements by what they did: {dict(cycles)}; this tells nothing about gating")
    parts = {
        state: {part: counted.toggles[state, part] / cycles[state] for part in ("tree", "accumulator")}
        for state in states
    }
    ratio = parts["gated"]["tree"] / parts["working"]["tree"]
    return {"element_cycles": dict(cycles), "toggles_per_cycle": parts, "ratio": ratio}


def count(waves: BinaryIO, config: ArrayConfig) -> Count:
    """What changes at an edge of the clock is the work of the cycle before it, with what was held in it."""
    parts, held, clock = {}, {}, None
    values: dict[str, int] = {}
    counted, started = Count(), False
    for moment in _moments(tokenize(waves), parts, held):
        clock = clock or parts.pop("clk")
        if moment.get(clock) and started:
            states = {place: _state(values, keys) for place, keys in held.items()}
            counted.cycles.update(states.values())
            for key in moment.keys() & parts.keys():
                place, part = parts[key]
                counted.toggles[states[place], part] += (values.get(key, 0) ^ moment[key]).bit_count()
        values.update(moment)
        started = started or any(values.get(key) for keys in held.values() for key in keys)
    if len(held) != config.rows * config.columns or {place for place, _ in parts.values()} != set(held):
        raise DeviceError("the waveforms lack signals of the array's elements")
    return counted


def _readable(waves: bytes) -> BytesIO:
    """With names of scopes and variables that the reader takes: letters, digits and underscores."""
    header, end, changes = waves.partition(b"$enddefinitions")
    names = re.compile(rb"(\$scope module |\$var wire \d+ \S+ )(\S+)")
    return BytesIO(names.sub(lambda found: found[1] + re.sub(rb"\W", b"_", found[2]), header) + end + changes)


def _moments(tokens: Iterator, parts: dict, held: dict[Place, list[str]]) -> Iterator[dict[str, int]]:
    """The values that change at each time; before, what the signals are goes into `parts` and `held`."""
    scopes: list[str] = []
    moment: dict[str, int] = {}
    for token in tokens:
        match token.kind:
            case TokenKind.SCOPE:
                scopes.append(token.scope.ident)
            case TokenKind.UPSCOPE:
                scopes.pop()
            case TokenKind.VAR:
                _note(".".join([*scopes, token.var.reference]), token.var.id_code, parts, held)
            case TokenKind.CHANGE_TIME:
                yield moment
                moment = {}
            case TokenKind.CHANGE_SCALAR:
                moment[token.scalar_change.id_code] = int(token.scalar_change.value == "1")
            case TokenKind.CHANGE_VECTOR:
                moment[token.vector_change.id_code] = int(token.vector_change.value)
    yield moment


def _note(name: str, key: str, parts: dict, held: dict[Place, list[str]]) -> None:
    if name.endswith(".clk"):
        parts["clk"] = key
    elif found := _PART.search(name):
        parts.setdefault(key, ((int(found[1]), int(found[2])), found[3]))
    elif found := _HELD.search(name):
        held.setdefault((int(found[1]), int(found[2])), []).append(key)


def _state(values: dict[str, int], keys: list[str]) -> str:
    return "working" if any(values.get(key) for key in keys) else "gated"
