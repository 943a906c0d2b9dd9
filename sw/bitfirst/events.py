"""Events for TensorBoard: what runs were over their steps, one folder for each run."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .errors import UsageError

MEND = "TensorBoard is not installed: pip install 'bitfirst[tensorboard]', or leave out --tensorboard"


def check() -> None:
    """Raises `UsageError`, naming the mend, where the library is missing."""
    _writer_class()


def _writer_class() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and an extra
    except ImportError:
        raise UsageError(MEND) from None
    return SummaryWriter


def write(rows: Iterable[dict[str, Any]], folder: Path) -> None:
    """Of each run in `rows` (those of studies, with "label") that did not fail: FOLDER/LABEL/seed N.

    Scalars over the steps: of each epoch accuracy/train, accuracy/validation, loss/train, bit_macs/training,
    executed/BLOCK and bits/BLOCK; at each change bits/forward and bits/backward; resolved/LAYER of sampled steps; at
    the end accuracy/test. Raises `UsageError` where the library is missing, or the folder cannot be written to.
    """
    writer_class = _writer_class()
    for row in rows:
        if "failed" in row:
            continue
        name = re.sub(r"[^\w .,+=-]", "-", row["label"])
        try:
            with writer_class(str(folder / name / f"seed {row['seed']}")) as writer:
                for tag, step, value in scalars(row):
                    writer.add_scalar(tag, value, step)
        except OSError as error:
            raise UsageError(
                f"{folder} cannot be written to ({error.strerror}): choose another --tensorboard"
            ) from None


def scalars(row: dict[str, Any]) -> list[tuple[str, int, float]]:
    """(tag, step, value) of a run, without what it does not tell."""
    found = []
    for epoch, one in enumerate(row.get("history", ()), 1):
        step = one.get("steps", epoch)
        values = {tag: one.get(key) for tag, key in OF_AN_EPOCH.items()}
        values |= {f"executed/{name}": share for name, share in _by_block(row, one, "executed")}
        values |= {f"bits/{name}": bits for name, bits in _by_block(row, one, "block_bits")}
        found += [(tag, step, value) for tag, value in values.items()]
    for own in row.get("methods", {}).values():
        for step, forward, backward in own.get("changes", ()):
            found += [("bits/forward", step, forward), ("bits/backward", step, backward)]
    for one in (row.get("signs") or {}).get("rows", ()):
        found.append((f"resolved/{one['layer']}", one["step"], one["resolved"]))
    last = max((step for _, step, _ in found), default=0)
    found.append(("accuracy/test", last, row["accuracy"]))
    return [(tag, step, value) for tag, step, value in found if value is not None]


OF_AN_EPOCH = {
    "accuracy/train": "train_accuracy",
    "accuracy/validation": "validation_accuracy",
    "loss/train": "loss",
    "bit_macs/training": "training_bit_macs",
}


def _by_block(row: dict[str, Any], epoch: dict[str, Any], key: str) -> list[tuple[str, float | None]]:
    return list(zip(row["blocks"], epoch[key], strict=True)) if key in epoch and "blocks" in row else []
