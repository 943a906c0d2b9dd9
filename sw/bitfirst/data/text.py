"""Plain text, byte by byte or word by word."""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch

from ..errors import UsageError
from .splits import Split, Splits

BYTE, WORD = LEVELS = "byte", "word"
UNKNOWN = "<unknown>"  #: token 0 of words


@dataclass(frozen=True)
class Text(Splits):
    """Sequences int64 [n, length], and as labels the tokens that follow each; `classes`: what the tokens are."""


def text(
    path: Path,
    level: str = BYTE,
    length: int = 64,
    vocabulary: int = 10_000,
    validation: float = 0.1,
    test: float = 0.1,
) -> Text:
    """The text of a file, such as WikiText's or Shakespeare's: its first part to train, the shares `validation` and
    `test` at its end, each cut into sequences that do not overlap.

    level       "byte": 256 tokens; "word": what stands between blanks, the most frequent words of the training part,
                up to `vocabulary` tokens, and `UNKNOWN` for all others
    length      of a sequence

    Raises `UsageError` when the file cannot be read, is no UTF-8 (words), or a part is shorter than a sequence.
    """
    path = Path(path)
    if level not in LEVELS:
        raise UsageError(f"level {level!r} is unknown: choose from {', '.join(LEVELS)}")
    if length < 1 or vocabulary < 2 or not (validation > 0 and test > 0 and validation + test < 1):
        raise UsageError(
            f"length = {length}, vocabulary = {vocabulary}, validation = {validation}, test = {test}: choose at least "
            "1 and 2, and shares above 0, together below 1"
        )
    try:
        data = path.read_bytes()
        words = data.decode().split() if level == WORD else None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no UTF-8 ({error.reason} at byte {error.start}): take level='byte'") from None
    count = len(data) if words is None else len(words)
    ends = [0, int(count * (1 - validation - test)), int(count * (1 - test)), count]
    tokens, names = _tokens(data, words, ends[1], vocabulary)
    parts = [tokens[first:last] for first, last in pairwise(ends)]
    return Text(*(_sequences(part, length, path) for part in parts), names)


def _tokens(data: bytes, words: list[str] | None, end: int, vocabulary: int) -> tuple[torch.Tensor, tuple[str, ...]]:
    """int64, and what they are; words are counted before `end`."""
    if words is None:
        return torch.tensor(list(data), dtype=torch.int64), tuple(f"{byte:02x}" for byte in range(256))
    frequent = sorted(Counter(words[:end]).items(), key=lambda item: (-item[1], item[0]))
    names = (UNKNOWN, *(word for word, _ in frequent[: vocabulary - 1]))
    numbers = {word: number for number, word in enumerate(names)}
    return torch.tensor([numbers.get(word, 0) for word in words], dtype=torch.int64), names


def _sequences(tokens: torch.Tensor, length: int, path: Path) -> Split:
    count = (len(tokens) - 1) // length
    if count < 1:
        raise UsageError(f"{path} is too short: a part of {len(tokens)} tokens has no sequence of {length}")
    x, y = tokens[: count * length], tokens[1 : count * length + 1]
    return Split(x.reshape(count, length), y.reshape(count, length))
