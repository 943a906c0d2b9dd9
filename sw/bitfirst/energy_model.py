"""Energy by a model: what a device counted, times coefficients in joules. Always "modelled", whatever was counted.

Coefficients are a JSON file, from literature or fitted to a board (`energy_fit`):

    {"name": "ulx3s-85f",
     "about": "one line: what they hold for, and what they leave out",
     "origin": "where they come from",
     "scope": "array" or "board",
     "coefficients": {TERM: {"joules": 1e-12, "source": "of this one"}, ...},
     "config": those parts of a configuration that `SHAPE` names, of the board that they were fitted to,
     "covariance": {"terms": [TERM, ...], "joules2": [[...], ...]},
     "leaves_out": [TERM, ...]}

"joules" may be an object by datapath. TERM: `TERMS`. The last three may be missing; "config" and "covariance" are those
of a fitted set. Where there is something of a term that a set neither has nor "leaves_out", there is no figure.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from bitfirst_hdl.config import ArrayConfig

from .energy import Energy, Provenance, Scope
from .errors import UsageError

#: What coefficients are of, and its unit.
TERMS = {
    "cycles": "device cycle, busy or not",
    "bit_macs_done": "product of 1 x 1 bit that the array made, padding included",
    "bit_macs_gated": "product of 1 x 1 bit of an element that had nothing to finish",
    "operand_bits": "bit read from the operand memories",
    "fetches": "read of the store by a LOAD, 256 bits",
    "words_written": "word of 64 bits stored by WRITE",
    "elements_read": "sum sent by READ",
    "update_cycles": "cycle in which the device moved weights",
    "link_bytes": "byte on the link, both ways",
    "fp32_macs": "multiply-accumulate in float32 on the host",
    "fp16_macs": "multiply-accumulate of float16 with a sum in float32 on the host",
    "gate_macs": "multiply-accumulate of gates, in float32 on the host",
}
FLOATING_TERMS = ("fp32_macs", "fp16_macs")  #: in the place of the device's
HOST_TERMS = (*FLOATING_TERMS, "gate_macs")  #: not the device's; none where they are not said
SHAPE = ("datapath", "slice_bits", "lanes", "rows", "columns")
DEFAULT = "horowitz-45nm"
FOLDER = resources.files("bitfirst") / "coefficients"
FACTOR = 2.0  #: by which coefficients of literature are varied, up and down
LINK_WORD_BYTES = 8
NEEDED = ("array_steps", "gated_steps", "fetches_a", "fetches_b")  #: counters

Counts = Mapping[str, float]


def summed(counters: Counts) -> dict[str, float]:
    """Of a `training.Meter`: its counters added up over the phases, "bytes_moved" as it is."""
    found: dict[str, float] = {}
    for key, count in counters.items():
        name = key.rpartition("/")[2]
        if name != "bit_macs":  # these are the useful ones, which no device counts
            found[name] = found.get(name, 0) + count
    return found


def activity(counters: Counts, config: ArrayConfig) -> dict[str, float]:
    """How much there was of each of `TERMS`, by the counters of a device with `config` (of one window, or `summed`).

    A golden model has no cycles; the link's bytes are its words, or else "bytes_moved". Raises `UsageError` where the
    counters do not tell of the array.
    """
    missing = [name for name in NEEDED if name not in counters]
    if missing:
        raise UsageError(f"no {', '.join(missing)} among the counters: count them (not counting=0)")
    steps, gated = counters["array_steps"], counters["gated_steps"] * config.lanes * config.slice_bits
    found = {
        "bit_macs_done": steps * config.bit_macs_per_cycle - gated,
        "bit_macs_gated": gated,
        "operand_bits": steps * (config.a_row_bits + config.b_row_bits),
        "fetches": counters["fetches_a"] + counters["fetches_b"],
    }
    if "rx_words" in counters and "tx_words" in counters:
        found["link_bytes"] = LINK_WORD_BYTES * (counters["rx_words"] + counters["tx_words"])
    elif "bytes_moved" in counters:
        found["link_bytes"] = counters["bytes_moved"]
    return found | {name: counters[name] for name in TERMS if name in counters and name not in found}


@dataclass(frozen=True)
class EnergyModel:
    """What a file of coefficients says; see above. Raises `UsageError` for what makes no sense.

    joules  by term: a number, or by datapath
    """

    name: str
    about: str
    origin: str
    scope: Scope
    joules: dict[str, float | dict[str, float]]
    sources: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] | None = None
    covariance: dict[str, Any] | None = None
    leaves_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.scope not in tuple(Scope):
            raise UsageError(f"scope {self.scope!r} of {self.name} is unknown; choose from {', '.join(Scope)}")
        object.__setattr__(self, "scope", Scope(self.scope))
        if not self.joules:
            raise UsageError(f"{self.name} has no coefficients")
        for term, given in self.joules.items():
            self._check(term, given)
        if (self.scope == Scope.ARRAY) == ("cycles" in self.joules):
            raise UsageError(
                f"{self.name}: coefficients of scope {self.scope} "
                + ("have none of cycles" if self.scope == Scope.ARRAY else "need one of cycles")
            )
        if self.covariance is not None:
            self._check_covariance()

    def _check(self, term: str, given: object) -> None:
        if term not in TERMS:
            raise UsageError(f"coefficient {term!r} of {self.name} is unknown; choose from {', '.join(TERMS)}")
        for one in given.values() if isinstance(given, dict) else (given,):
            if not isinstance(one, int | float) or isinstance(one, bool) or not 0 <= one < math.inf:
                raise UsageError(f"coefficient {term} of {self.name} is {one!r}: give joules, 0 or more")

    def _check_covariance(self) -> None:
        try:
            terms = self.covariance["terms"]
            matrix = np.array(self.covariance["joules2"], float)
            whole = set(terms) == set(self.joules) and matrix.shape == (len(terms), len(terms))
            whole = whole and np.isfinite(matrix).all() and (matrix.diagonal() >= 0).all()
        except (KeyError, TypeError, ValueError):
            whole = False
        if not whole:
            raise UsageError(f"covariance of {self.name} is not that of its coefficients: fit them again")

    def of(self, term: str, datapath: str) -> float:
        """A coefficient, joules. Raises `UsageError` where it has none for this datapath."""
        given = self.joules[term]
        if not isinstance(given, dict):
            return given
        if datapath not in given:
            raise UsageError(f"{self.name} has no {term} of datapath {datapath}, only of {', '.join(given)}")
        return given[datapath]

    def parts(self, amounts: Counts, config: ArrayConfig) -> dict[str, float]:
        """Joules of each term, of `activity`; one that differs by datapath is named with it, as in "bit_macs_done
        (serial)". Terms that there was nothing of are left out.

        Raises `UsageError` for coefficients that were fitted to another array, and terms that were not counted.
        """
        own = {name: getattr(config, name) for name in SHAPE}
        if self.config is not None and own != self.config:
            theirs, ours = (" ".join(f"{key}={one}" for key, one in shape.items()) for shape in (self.config, own))
            raise UsageError(f"{self.name} was fitted to an array of {theirs}, and this one has {ours}: fit it, too")
        unknown = [term for term, amount in amounts.items() if amount and not {term} & {*self.joules, *self.leaves_out}]
        if unknown:
            raise UsageError(
                f"{self.name} has no coefficient of {', '.join(unknown)}, of which there is some here: fit it"
            )
        found = {}
        for term, given in self.joules.items():
            if term not in amounts and term not in HOST_TERMS:
                raise UsageError(
                    f"{self.name} needs {term}, which this device does not count: take rtl or a board, or {DEFAULT}"
                )
            name = f"{term} ({config.datapath})" if isinstance(given, dict) else term
            joules = self.of(term, config.datapath)
            if amounts.get(term):
                found[name] = amounts[term] * joules
        return found

    def energy(self, amounts: Counts, config: ArrayConfig) -> Energy:
        """Of `activity`; its uncertainty is known where the covariance of the coefficients is."""
        total = sum(self.parts(amounts, config).values())
        return Energy(total, self._uncertainty(amounts), Provenance.MODELLED, self.scope)

    def _uncertainty(self, amounts: Counts) -> float | None:
        if self.covariance is None:
            return None
        row = np.array([amounts.get(term, 0) for term in self.covariance["terms"]], float)
        return 2 * math.sqrt(max(0.0, row @ np.array(self.covariance["joules2"], float) @ row))

    def about_parts(self, amounts: Counts, config: ArrayConfig) -> dict[str, Any]:
        """For results: {"name", "about", "origin"; "parts": joules by term; "low_j", "high_j": the total with all
        coefficients over and times `FACTOR`}."""
        parts = self.parts(amounts, config)
        total = sum(parts.values())
        found = {"name": self.name, "about": self.about, "origin": self.origin, "parts": parts}
        return found | {"low_j": total / FACTOR, "high_j": total * FACTOR}

    def as_dict(self) -> dict[str, Any]:
        """What its file holds."""
        coefficients = {
            term: {"joules": given, "unit": TERMS[term], "source": self.sources.get(term, self.origin)}
            for term, given in self.joules.items()
        }
        found = {"name": self.name, "about": self.about, "origin": self.origin, "scope": str(self.scope)}
        found |= {"coefficients": coefficients, "config": self.config, "covariance": self.covariance}
        found["leaves_out"] = list(self.leaves_out)
        return {key: value for key, value in found.items() if value is not None}

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")


def names() -> list[str]:
    """Of the sets that come with Bitfirst."""
    return sorted(one.name.removesuffix(".json") for one in FOLDER.iterdir() if one.name.endswith(".json"))


def load(name: str) -> EnergyModel:
    """A set that comes with Bitfirst, by its name, or a file. Raises `UsageError`."""
    file = FOLDER / f"{name}.json" if name in names() else Path(name)
    if not file.is_file():
        raise UsageError(f"no coefficients {name!r}: give a file, or one of {', '.join(names())}")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        texts = {key: str(found[key]) for key in ("name", "about", "origin", "scope")}
        own = found["coefficients"]
        joules = {term: one["joules"] for term, one in own.items()}
        sources = {term: one["source"] for term, one in own.items() if "source" in one}
        more = {"config": found.get("config"), "covariance": found.get("covariance")}
        more["leaves_out"] = tuple(map(str, found.get("leaves_out", ())))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"{name} is no file of coefficients ({reason}): save one by bitfirst.energy_fit.fit") from None
    return EnergyModel(**texts, joules=joules, sources=sources, **more)
