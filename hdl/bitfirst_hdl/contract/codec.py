"""The one packer: fields to words and back, with every value checked against its field's range.

`encode` and `decode` handle one struct; `encode_many` is their vectorised twin. amaranth's own
`Struct.const` truncates silently (31 into four bits gives 15); nothing here does.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any

from amaranth.hdl import Shape
from amaranth.lib import data

from .packets import WORD_BITS


class FieldError(ValueError):
    """A field name that the struct does not have, or a value that its field cannot hold."""


@cache
def fields(struct: type[data.Struct]) -> dict[str, tuple[int, int]]:
    """Name -> (offset, width) of each field; all are unsigned."""
    layout = data.Layout.cast(struct)
    return {name: (field.offset, Shape.cast(field.shape).width) for name, field in layout}


@cache
def word_count(struct: type[data.Struct]) -> int:
    """Number of 64-bit words that the struct fills."""
    return -(-data.Layout.cast(struct).size // WORD_BITS)


def _check(struct: type[data.Struct], name: str, low: int, high: int) -> tuple[int, int]:
    place = fields(struct).get(name)
    if place is None:
        raise FieldError(f"{struct.__name__} has no field {name!r}; it has {', '.join(fields(struct))}")
    if low < 0 or high >= 1 << place[1]:
        bad = low if low < 0 else high
        raise FieldError(f"{struct.__name__}.{name} holds 0 .. {(1 << place[1]) - 1}, not {bad}")
    return place


def _integer(struct: type[data.Struct], name: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):
        number = None
    if number is None or number != value:
        raise FieldError(f"{struct.__name__}.{name} takes an integer, not {value!r}")
    return number


def encode(struct: type[data.Struct], **values: int) -> tuple[int, ...]:
    """The struct as 64-bit words, least significant first; absent fields are 0.

    Raises `FieldError` when a name is unknown or a value does not fit.
    """
    packed = 0
    for name, value in values.items():
        value = _integer(struct, name, value)
        packed |= value << _check(struct, name, value, value)[0]
    return tuple((packed >> (WORD_BITS * i)) & (2**WORD_BITS - 1) for i in range(word_count(struct)))


def decode(struct: type[data.Struct], words: "Mapping[int, int] | Any") -> dict[str, int]:
    """Every field of the struct from its words (any sequence of integers, least significant first)."""
    packed = sum(int(words[i]) << (WORD_BITS * i) for i in range(word_count(struct)))
    return {name: (packed >> offset) & ((1 << width) - 1) for name, (offset, width) in fields(struct).items()}


def encode_many(struct: type[data.Struct], **values: Any) -> Any:
    """`encode` for integer arrays [n]: returns uint64 [n, words]. Scalars and arrays of length 1 are broadcast.

    Raises `FieldError` as `encode` does, and when lengths differ.
    """
    import numpy as np  # the gateware side needs no numpy

    arrays = {name: np.atleast_1d(np.asarray(value)) for name, value in values.items()}
    if any(array.ndim != 1 for array in arrays.values()):
        raise FieldError(f"{struct.__name__} takes scalars and one-dimensional arrays")
    lengths = {len(array) for array in arrays.values()} - {1}
    if len(lengths) > 1:
        raise FieldError(f"{struct.__name__} takes arrays of one length, not {', '.join(map(str, sorted(lengths)))}")
    count = lengths.pop() if lengths else 1
    words = np.zeros((count, word_count(struct)), dtype=np.uint64)
    for name, array in arrays.items():
        if array.dtype.kind not in "iub":
            raise FieldError(f"{struct.__name__}.{name} takes integers, not {array.dtype}")
        offset, width = _check(struct, name, int(array.min(initial=0)), int(array.max(initial=0)))
        first, shift = divmod(offset, WORD_BITS)
        bits = array.astype(np.uint64)
        words[:, first] |= bits << np.uint64(shift)
        if shift + width > WORD_BITS:
            words[:, first + 1] |= bits >> np.uint64(WORD_BITS - shift)
    return words
