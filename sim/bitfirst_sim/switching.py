"""A second estimate of energy, by what toggles in the compiled RTL, beside that by what the device counts.

    joules = scale * sum over nets (toggles * coefficient of the net's kind)

A net belongs to where it is driven: registers and expressions are logic, read ports of memories are memory; where a
net only goes through, it is not counted again. Kinds weigh among each other as the default set of `energy_model` has
them, a bit of random data toggling every other time; the scale makes the total that of the counters. So what is
compared are shares: whether a phase takes more by its toggles than by its counters.

Not seen: clocks, glitches, leakage, wires' lengths, what a memory takes of a read that toggles nothing.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bitfirst import convert, energy_model
from bitfirst.board import BoardDevice
from bitfirst.energy import Energy, Provenance, Scope
from bitfirst.energy_model import EnergyModel
from bitfirst.errors import UsageError
from bitfirst.models import digits_resnet
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import ArrayConfig, load
from bitfirst_hdl.contract.packets import Phase
from torch.nn import functional

from . import build, saif
from .saif import Activity

TOGGLES_PER_BIT = 0.5  #: of random data
#: Joules a toggle, by kind, before scaling.
COEFFICIENTS = {
    "logic": 0.03e-12 / 8 / TOGGLES_PER_BIT,  # an add of 8 bits
    "memory": 10e-12 / 64 / TOGGLES_PER_BIT,  # a read of 64 bits from 8 KB
    "store": 40e-12 / 64 / TOGGLES_PER_BIT,  # from 128 KB
    "pin": 1300e-12 / 64 / TOGGLES_PER_BIT,  # from DRAM, the lower end
}
#: Parts of the device, by instances below the core: the first that fits has the net.
PARTS = {
    "array": r"engine\.array(\..*)?",
    "operands": r"engine\.[ab]_memory",
    "sums": r"engine\.partial_sums",
    "store": r"store",
    "link": r"(link|replies|sums)(\..*)?",
    "control": r".*",
}
#: Terms of `energy_model`, by part: what is counted of it.
TERMS = {
    "array": ("bit_macs_done", "bit_macs_gated"),
    "operands": ("operand_bits",),
    "sums": ("elements_read",),
    "store": ("fetches", "words_written"),
    "link": ("link_bytes",),
    "control": ("cycles", "update_cycles"),
}
CORE = ("TOP", "simulated", "core")
_PINS = re.compile(r"[rt]x__payload\[")
_NAME = r"(?:\\(?P<escaped{0}>\S+) |(?P<plain{0}>[A-Za-z_]\w*))"
_MODULE = re.compile(r"^module \\?(?P<name>[^\s(]+) ?\(.*?^endmodule", re.MULTILINE | re.DOTALL)
_MEMORY = re.compile(rf"^  reg \[[^\]]+\] {_NAME.format('')} ?\[", re.MULTILINE)
_ASSIGN = re.compile(rf"^  assign {_NAME.format('')} ?(?:\[[^\]]*\] )?= (?P<value>[^\n]*);$", re.MULTILINE)
_PROCESS = re.compile(rf"^ {{4,}}{_NAME.format('')} ?(?:\[[^\n]*?\] ?)?(?:<?=) ", re.MULTILINE)
_READ = re.compile(rf"{_NAME.format('')} ?\[[^\]]*[A-Za-z$]")
_NO_OPERATOR = re.compile(r"\\\S+ |\d+'[bhd][0-9a-fxz]+|[\w\s{},:\[\]]")


def _name(found: re.Match) -> str:
    return found["escaped"] or found["plain"]


def drivers(text: str, top: str) -> dict[tuple[str, ...], dict[str, str]]:
    """What drives a net, "logic" or "memory": by instances below the core, by name. Others are driven elsewhere.

    text  Verilog that yosys wrote, whose modules are named by their place
    top   its top module
    """
    found = {}
    for module in _MODULE.finditer(text):
        body = module[0]
        memories = {_name(one) for one in _MEMORY.finditer(body)}
        driven = {_name(one): "logic" for one in _PROCESS.finditer(body)}
        for one in _ASSIGN.finditer(body):
            read = _READ.match(one["value"])
            if read and _name(read) in memories:
                driven[_name(one)] = "memory"
            elif _NO_OPERATOR.sub("", one["value"]):
                driven[_name(one)] = "logic"
        place = module["name"].removeprefix(top).strip(".")
        found[tuple(place.split(".")) if place else ()] = {
            name: kind for name, kind in driven.items() if name not in memories
        }
    return found


def parts_of(activity: Activity, driven: Mapping[tuple[str, ...], Mapping[str, str]]) -> tuple[np.ndarray, np.ndarray]:
    """Of each net the number of its part in `PARTS` (-1: it is driven elsewhere), and its joules a toggle."""
    places: dict[tuple[str, ...], int] = {}
    numbers, joules = [], []
    for instances, name in activity.nets:
        number, coefficient = -1, 0.0
        if instances[: len(CORE)] == CORE:
            place = instances[len(CORE) :]
            kind = driven.get(place, {}).get(name.partition("[")[0])
            if not place and _PINS.match(name):
                number, coefficient = list(PARTS).index("link"), COEFFICIENTS["pin"]
            elif kind is not None:
                if place not in places:
                    places[place] = _part(place)
                number = places[place]
                in_store = kind == "memory" and number == list(PARTS).index("store")
                coefficient = COEFFICIENTS["store" if in_store else kind]
        numbers.append(number)
        joules.append(coefficient)
    return np.array(numbers), np.array(joules)


def _part(place: tuple[str, ...]) -> int:
    path = ".".join(place)
    return next(number for number, pattern in enumerate(PARTS.values()) if re.fullmatch(pattern, path))


def switched(activity: Activity, numbers: np.ndarray, joules: np.ndarray) -> dict[str, tuple[int, float]]:
    """Toggles and joules, not scaled, of each part."""
    return {
        part: (
            int(activity.toggles[numbers == number].sum()),
            float((activity.toggles * joules)[numbers == number].sum()),
        )
        for number, part in enumerate(PARTS)
    }


def counted(counters: Mapping[str, int], config: ArrayConfig, model: EnergyModel) -> dict[str, float]:
    """Joules of each part by what the device counted."""
    terms = model.parts(energy_model.activity(counters, config), config)
    by_term = {name.partition(" ")[0]: joules for name, joules in terms.items()}
    return {part: sum(by_term.get(term, 0.0) for term in names) for part, names in TERMS.items()}


def compare(
    activities: Mapping[Phase, Activity],
    counters: Mapping[Phase, Mapping[str, int]],
    config: ArrayConfig,
    model: EnergyModel,
    scale: float | None = None,
) -> dict[str, Any]:
    """Both estimates of each phase, side by side; `scale`: that of another run, to compare with it.

    Raises `UsageError` for coefficients of a whole board, and where nothing was done.

    scale    of the switching estimate; without a given one, it makes the total that of the counters
    phases   "name", "cycles", "toggles", "counted", "switching" (`Energy`, each), "counted_share", "switching_share"
             (of the counters' total), "ratio" (of the second share to the first; None where the first is 0), "parts":
             by part "toggles", "counted_j", "switching_j"
    """
    _check_scope(model)
    text = build.core_verilog(config)
    driven = drivers(text, build.top_name(text))
    numbers, joules = parts_of(next(iter(activities.values())), driven)
    by_toggles = {phase: switched(activity, numbers, joules) for phase, activity in activities.items()}
    by_counters = {phase: counted(counters[phase], config, model) for phase in activities}
    unscaled = sum(one for parts in by_toggles.values() for _, one in parts.values())
    total = sum(one for parts in by_counters.values() for one in parts.values())
    if not (unscaled and total):
        raise UsageError("nothing toggled, or nothing was counted: give the device something to do")
    scale = total / unscaled if scale is None else scale
    rows = []
    for phase, activity in activities.items():
        parts = {
            part: {"toggles": toggles, "counted_j": by_counters[phase][part], "switching_j": scale * one}
            for part, (toggles, one) in by_toggles[phase].items()
        }
        sums = {key: sum(part[key] for part in parts.values()) for key in ("toggles", "counted_j", "switching_j")}
        rows.append(
            {
                "name": phase.name.lower(),
                "cycles": activity.duration_ps // saif.CYCLE_PS,
                "toggles": sums["toggles"],
                **{key: _energy(sums[f"{key}_j"]) for key in ("counted", "switching")},
                "counted_share": sums["counted_j"] / total,
                "switching_share": sums["switching_j"] / total,
                "ratio": sums["switching_j"] / sums["counted_j"] if sums["counted_j"] else None,
                "parts": parts,
            }
        )
    return {"scale": scale, "phases": rows}


def _check_scope(model: EnergyModel) -> None:
    if model.scope != Scope.ARRAY:
        raise UsageError(f"{model.name} is of scope {model.scope}, toggles of scope array: take coefficients of that")


def _energy(joules: float) -> dict[str, Any]:
    return Energy(joules, None, Provenance.MODELLED, Scope.ARRAY).as_dict()


def step(config: ArrayConfig, images: int, zeros: bool) -> tuple[dict[Phase, Activity], dict[Phase, dict[str, int]]]:
    """What toggled and what was counted, by phase, in a forward and backward pass of the digits network.

    zeros  with images and weights that are all 0: the same commands
    """
    transport = RtlTransport(config, toggles=True)
    with BoardDevice("rtl", transport, config) as device:
        transport.activity()  # of the opening, which is not counted either
        torch.manual_seed(0)
        net = convert(digits_resnet(), device)
        pictures, labels = torch.rand(images, 1, 8, 8), torch.randint(10, (images,))
        if zeros:
            pictures.zero_()
            for parameter in net.parameters():
                parameter.data.zero_()
        functional.cross_entropy(net(pictures), labels).backward()
        device.mark(Phase.OTHER)
        return {Phase(number): one for number, one in transport.activity().items()}, device.phase_counters


def run(
    name: str,
    images: int,
    folder: Path | None = None,
    zeros: bool = False,
    scale: float | None = None,
    model: str = energy_model.DEFAULT,
) -> dict[str, Any]:
    """`compare` of a `step`; with `folder`, a SAIF file PHASE.saif of each phase there. Keys of `bench switching`."""
    config = load(name)
    if images < 2:
        raise UsageError(f"images = {images}: give 2 or more, as batch norm needs")
    if scale is not None and not 0 < scale < math.inf:
        raise UsageError(f"scale = {scale}: give that of another run, above 0")
    coefficients = energy_model.load(model)
    _check_scope(coefficients)  # before the minutes of simulating
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    activities, counters = step(config, images, zeros)
    found = {"config": name, "images": images, "zeros": zeros, "model": model}
    found |= compare(activities, counters, config, coefficients, scale)
    found["provenance"], found["scope"] = str(Provenance.MODELLED), str(Scope.ARRAY)
    if folder is not None:
        found["files"] = [
            saif.write(
                folder / f"{phase.name.lower()}.saif", activity, "bitfirst_core", f"{name}, {phase.name.lower()}"
            )
            for phase, activity in activities.items()
        ]
    return found
