"""The folder of a build: who has it, what state it is in, and how it is cleared."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import FlowError

#: What a build is: board, fingerprint, configuration; when it has finished, its figures and the bitstream's SHA-256.
RECORD = "build.json"
LOCK = ".lock"
#: What builds make, besides these two; other files in the folder are left alone.
MADE = ("top.*", "top_*", "build_top.*", "report.json", "packing.log", "README.txt", "ip", "zynq.tcl", "vivado")


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Makes the folder where there is none, and keeps other builds out of it.

    Raises `FlowError` when one is in it, and when it holds something that is no build.
    """
    there = {path.name for path in directory.iterdir()} if directory.is_dir() else set()
    if there and there.isdisjoint((LOCK, RECORD)):
        raise FlowError(f"{directory} exists and is no build; name another folder with --out")
    directory.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(directory / LOCK, timeout=0):
            yield
    except Timeout:
        raise FlowError(f"another build is at work in {directory}; wait for it, or name another with --out") from None


def clear(directory: Path) -> None:
    """Removes what builds make; the record last, so that a folder half cleared is still known as one."""
    for pattern in (*MADE, RECORD):
        for path in directory.glob(pattern):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def copy(source: Path, directory: Path) -> None:
    """What a build has made, without its record."""
    for path in (path for pattern in MADE for path in source.glob(pattern)):
        if path.is_dir():
            shutil.copytree(path, directory / path.name)
        else:
            shutil.copy2(path, directory / path.name)


def read(directory: Path) -> dict:
    """The record; empty where there is none that can be read."""
    try:
        record = json.loads((directory / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def write(directory: Path, record: dict) -> None:
    """In one step, so that no half of one is ever read."""
    new = directory / f"{RECORD}.new"
    new.write_text(json.dumps(record, indent=1))
    new.replace(directory / RECORD)


def digest(path: Path) -> str | None:
    """SHA-256 of a file; None where there is none."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
