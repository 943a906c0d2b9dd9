"""Datapaths of 8 x 8 and of 16 x 16 bit multipliers behind the same ports: whole devices against the golden model."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import bitfirst
import numpy as np
import pytest
from amaranth.hdl import Cat, Const, Module, Signal, Value, signed
from bitfirst.benches import cycles
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.errors import UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.methods import PSG
from bitfirst.nn import convert
from bitfirst_hdl import fixed, wide
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig, ConfigError
from bitfirst_hdl.contract.packets import Opcode, Space
from bitfirst_sim import build
from test_device_equality import assert_covered
from torch import nn

TINY = replace(CONFIGS["tiny"], datapath="fixed", slice_bits=8, columns=2, features=STANDARD)
TOML = "base = 'tiny'\ndatapath = '{}'\nslice_bits = 8\ncolumns = 2\nfeatures = {}\n"
SIZES = ((1, 8), (2, 16), (1, 16), (2, 8))  #: slices and planes
BOTH = pytest.mark.parametrize("datapath", ["fixed", "fixed16"])


@pytest.fixture(autouse=True)
def soon_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than to run."""
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    monkeypatch.setattr(build, "NATIVE_FLAGS", ())


def opened(folder: Path, features: tuple[str, ...], datapath: str = "fixed") -> BoardDevice:
    path = folder / "fixed.toml"
    path.write_text(TOML.format(datapath, list(features)))
    board = bitfirst.open(f"rtl:{path}")
    assert board.config == replace(TINY, datapath=datapath, features=features)
    return board


@BOTH
def test_random_commands(datapath: str, tmp_path: Path) -> None:
    found = cycles.Findings()
    with opened(tmp_path, STANDARD, datapath) as board:
        cycles.compare(board, 200, 1, found)
    assert_covered(found.as_dict(), board.config)


def check_a_few_commands(path: Path, toml: str) -> None:
    """Random ones, on a device of one row with the gather unit; the soak has more of them, on larger devices."""
    path.write_text(f"{toml}rows = 1\n")
    found = cycles.Findings()
    with bitfirst.open(f"rtl:{path}") as board:
        cycles.compare(board, 100, 1, found)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.commands > 150 and len(found.pairs_seen) == found.possible_pairs
    assert found.opcodes >= {"LOAD", "MATMUL", "READ", "TENSOR", "WRITE"}


def test_a_few_random_commands(tmp_path: Path) -> None:
    check_a_few_commands(tmp_path / "fixed.toml", TOML.format("fixed", ["gather"]))


def at_their_extremes(board: BoardDevice, sizes: Sequence[tuple[int, int]] = SIZES) -> cycles.Findings:
    """All digits alike, the largest and smallest there are, signed and not, over the longest passes there are.

    `sizes`: slices and planes.
    """
    found, config = cycles.Findings(), board.config
    wire = cycles.Wire(board.transport, config.rx_words)
    comparison = cycles.Comparison(wire, config, board.fingerprint, found)
    comparison.run([Command(Opcode.RESET).payload(), *cycles.fill(config, random.Random(1))])
    read = {"space": Space.SUMS, "bits": 64, "rows": config.rows, "cols": config.columns, "count": 1}
    for a, b in product((0xFF, 0x80, 0x00), (0xFF, 0x80, 0x7F)):
        comparison.run([*filled(config, Space.CELLS_A, a), *filled(config, Space.CELLS_B, b)])
        for (slices, planes), a_offset, b_negative in product(sizes, (0, 1), (0, 1)):
            a_octets, b_octets = -(-slices // config.slices_per_octet), -(-planes // 8)
            walk = {"slices": slices, "planes": planes, "a_octets": a_octets, "b_octets": b_octets}
            chunks = min(config.a_cells // a_octets, config.b_cells // b_octets)
            walk |= {"chunks": chunks, "row_tiles": 1, "col_tiles": 1}
            walk |= {"a_offset": a_offset, "b_negative": b_negative}
            comparison.run([Command(Opcode.MATMUL, walk).payload(), Command(Opcode.READ, read).payload()])
    return found


def filled(config: ArrayConfig, space: Space, octet: int) -> Iterator[np.ndarray]:
    rows, words = config.writable[space]
    data = np.full(rows * words, octet * 0x0101_0101_0101_0101, dtype=np.uint64)
    yield Command(Opcode.WRITE, {"space": space, "rows": rows, "words": words}, data).payload()


@BOTH
def test_where_the_host_writes_cells(datapath: str, tmp_path: Path) -> None:
    found = cycles.Findings()
    with opened(tmp_path, (), datapath) as board:
        cycles.compare(board, 60, 1, found)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    with opened(tmp_path, (), datapath) as board:
        found = at_their_extremes(board)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.commands > 300


@BOTH
@pytest.mark.soak
def test_narrow_accumulators_are_found(datapath: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one bit."""
    bits = ArrayConfig.accumulator_bits.func
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setattr(ArrayConfig, "accumulator_bits", property(lambda config: bits(config) - 1))
    with opened(tmp_path, (), datapath) as board:
        assert at_their_extremes(board).result_mismatches > 0


def unsigned_operand(self: fixed.FixedArray, m: Module, column: int) -> list[Signal]:
    octets = self._cut(self.b, column * self.config.lanes * 8, self.config.lanes * 8)
    digits = [Signal(signed(9), name=f"digit_{column}_{lane}") for lane in range(self.config.lanes)]
    m.d.comb += [digit.eq(Cat(octets.word_select(n, 8), Const(0))) for n, digit in enumerate(digits)]
    return digits


@pytest.mark.parametrize("datapath", ["fixed", pytest.param("fixed16", marks=pytest.mark.soak)])
def test_a_sign_that_is_dropped_is_found(datapath: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of B, taken as unsigned whatever the MATMUL says."""
    numbers = wide.WideArray._numbers

    def unsigned(self: wide.WideArray, m: Module, name: str, *values: Value) -> list[Signal]:
        words, two, is_signed, flip = values
        return numbers(self, m, name, words, two, is_signed if name.startswith("a") else Const(0), flip)

    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setattr(fixed.FixedArray, "_operand", unsigned_operand)
    monkeypatch.setattr(wide.WideArray, "_numbers", unsigned)
    with opened(tmp_path, (), datapath) as board:
        assert at_their_extremes(board).result_mismatches > 0


@pytest.mark.parametrize(
    ("values", "mend"),
    [
        ({"slice_bits": 4}, "slice_bits = 4 must be one of 8"),
        ({"features": [*STANDARD, "packed"]}, "datapath fixed has no packed; leave it out"),
        ({"datapath": "fused"}, "choose from serial, fixed, fusion, fixed16"),
    ],
    ids=str,
)
def test_bad_configurations(values: dict, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        replace(TINY, **values)


def test_signs_are_not_predicted() -> None:
    """Nor are they where sums are not compared."""
    for config in (TINY, CONFIGS["least"]):
        with pytest.raises(UsageError, match=r"does not predict signs .*: take a configuration such as psg"):
            convert(nn.Conv2d(1, 1, 1), ModelDevice(config), PSG())
