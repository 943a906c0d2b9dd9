"""Whole devices, to the bitstream, as `bitfirst build BOARD` makes them: the two smallest boards here; the others, and
their arrays as RTL, by the soak, since each takes many minutes."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bitfirst.benches import cycles
from bitfirst.cli import run as bitfirst
from bitfirst_boards import document, explore, flow, toolchains
from bitfirst_boards.catalogue import BOARDS
from conftest import FIGURE

ROOT = Path(__file__).parents[1]
OPEN = [board.name for board in BOARDS.values() if toolchains.toolchain(board.platform)]
SMALLEST = "icebreaker", "tang-nano-9k"
TWICE = "ulx3s-12f", *SMALLEST  # one of each family


def build(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, directory: Path) -> dict[str, Any]:
    """Its own array fits and meets the board's clock, and what was built is found again."""
    monkeypatch.chdir(directory)
    assert bitfirst(["build", name, "--json"]) == 0
    board, built = BOARDS[name], json.loads(capsys.readouterr().out)
    assert built["lut"] <= built["lut_total"] and built["fmax_mhz"] >= built["clock_mhz"] == board.clock_khz / 1000
    assert built["bit_macs_per_cycle"] == board.config.bit_macs_per_cycle
    assert (directory / built["bitstream"]).stat().st_size > 50_000
    assert built["path_from"] and built["path_to"] and built["synthesis_s"] > 0 and built["placement_s"] > 0
    assert built["path_ns"] == pytest.approx(1000 / built["fmax_mhz"], abs=0.01)
    assert bitfirst(["build", name, "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["reused"] and again["sha256"] == built["sha256"]
    return built


@pytest.mark.longest
@pytest.mark.parametrize(
    "name", [name if name in SMALLEST else pytest.param(name, marks=pytest.mark.soak) for name in OPEN]
)
def test_board(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    record_property: Callable,
) -> None:
    """It is what docs/boards.md shows, byte by byte, or else of other sources, which the summary tells."""
    built = build(name, monkeypatch, capsys, tmp_path)
    shown = json.loads((ROOT / "docs" / document.MEASURED).read_text()).get(name, {})
    if (shown.get("fingerprint"), shown.get("seed")) == (built["fingerprint"], built["seed"]):
        assert shown["sha256"] == built["sha256"] and shown["fmax_mhz"] == built["fmax_mhz"]
    else:
        record_property(FIGURE, f"{name} in docs/boards.md is of older sources: `bitfirst build --all`, `make docs`")


@pytest.mark.soak
def test_the_table_is_of_these_sources() -> None:
    """All of docs/boards.md, which may be of older ones between two `bitfirst build --all`."""
    shown = json.loads((ROOT / "docs" / document.MEASURED).read_text())
    assert all(document._is_current(BOARDS[name], shown[name]) for name in OPEN)
    assert [name for name in OPEN if document.is_older(shown[name])] == []


@pytest.mark.soak
@pytest.mark.parametrize("name", TWICE)
def test_same_bytes_from_another_process(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    built = build(name, monkeypatch, capsys, tmp_path)
    words = ["build", name, "--out", "again", "--json"]
    run = f"import sys; from bitfirst.cli import run; sys.exit(run({words}))"
    other = os.environ | {"PYTHONHASHSEED": "7"}
    done = subprocess.run([sys.executable, "-c", run], env=other, stdout=subprocess.PIPE, check=True)
    again = json.loads(done.stdout)
    assert not again["reused"] and again["sha256"] == built["sha256"]


#: One board for each array that boards have of their own, whatever its clock: the first one.
FIRST = {flow.fitted(replace(BOARDS[name], clock_khz=1)): name for name in reversed(OPEN)}


@pytest.mark.soak
@pytest.mark.parametrize("name", sorted(FIRST.values()))
def test_array_of_a_board(name: str, tmp_path: Path) -> None:
    """As RTL it does what the golden model does: layers, and random commands under schedules of bytes."""
    config = flow.fitted(BOARDS[name])
    (tmp_path / "own.toml").write_text(explore.as_toml(config.as_dict()))
    found = cycles.bench_cycles(f"rtl:{tmp_path / 'own.toml'}", commands=200, seed=4)
    assert (found["result_mismatches"], found["counter_mismatches"]) == (0, 0), found["first_mismatch"]
    assert found["commands"] > 3 * 200 and {opcode.name for opcode in config.commands} <= set(
        found["coverage"]["opcodes"]
    )
