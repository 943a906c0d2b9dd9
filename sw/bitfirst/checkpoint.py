"""Checkpoints: tensors and a JSON state in one safetensors file, replaced atomically."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from .errors import UsageError

_KEY = "bitfirst"
VERSION = 1


def save(path: Path, tensors: dict[str, torch.Tensor], state: dict[str, Any]) -> None:
    """Writes beside `path` and then renames, so that a crash leaves the old file whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    metadata = {_KEY: json.dumps({"version": VERSION, **state})}
    apart = {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    save_file(apart, new, metadata)  # which refuses tensors that share memory, such as a classifier of the embedding's
    with new.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(new, path)


def load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """(tensors, state) as given to `save`. Raises `UsageError` when the file is missing or is not one of ours."""
    try:
        with safe_open(path, "pt") as file:
            state = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except FileNotFoundError:
        raise UsageError(f"there is no checkpoint {path}: start without --resume, or give one that is there") from None
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UsageError(f"checkpoint {path} cannot be read ({error}): delete it and start without --resume") from None
    if not isinstance(state, dict) or state.pop("version", None) != VERSION:
        raise UsageError(f"checkpoint {path} is of another version: delete it and start without --resume")
    return tensors, state


def strip(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose name begins with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
