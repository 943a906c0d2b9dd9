"""The datapath "fusion", bricks of 2 x 2 bits behind the same ports: whole devices against the golden model."""

from dataclasses import replace
from pathlib import Path

import bitfirst
import pytest
from amaranth.hdl import Const, Module, Value
from bitfirst.benches import cycles
from bitfirst.board import BoardDevice
from bitfirst.errors import UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.methods import PSG
from bitfirst.nn import convert
from bitfirst_hdl import baselines, fusion
from bitfirst_hdl.config import CONFIGS, STANDARD, ArrayConfig, ConfigError
from bitfirst_sim import build
from test_device_equality import assert_covered
from test_fixed import at_their_extremes, check_a_few_commands
from torch import nn

TINY = replace(CONFIGS["tiny"], datapath="fusion", slice_bits=2, columns=2, features=STANDARD)
TOML = "base = 'tiny'\ndatapath = 'fusion'\nslice_bits = 2\ncolumns = 2\nlanes = {}\nfeatures = {}\n"
#: Slices and planes: of one width, mixed, and in parts.
SIZES = ((1, 2), (2, 4), (4, 8), (1, 8), (4, 2), (8, 16))


@pytest.fixture(autouse=True)
def soon_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than to run."""
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    monkeypatch.setattr(build, "NATIVE_FLAGS", ())


def opened(folder: Path, features: tuple[str, ...], lanes: int = 16) -> BoardDevice:
    path = folder / "fusion.toml"
    path.write_text(TOML.format(lanes, list(features)))
    board = bitfirst.open(f"rtl:{path}")
    assert board.config == replace(TINY, features=features, lanes=lanes)
    return board


def test_random_commands(tmp_path: Path) -> None:
    found = cycles.Findings()
    with opened(tmp_path, STANDARD) as board:
        cycles.compare(board, 250, 1, found)
    assert_covered(found.as_dict(), board.config)
    assert found.possible_pairs == 16


def test_a_few_random_commands(tmp_path: Path) -> None:
    check_a_few_commands(tmp_path / "fusion.toml", TOML.format(16, ["gather"]))


@pytest.mark.soak
def test_two_units_to_an_element_and_cells_that_the_host_writes(tmp_path: Path) -> None:
    found = cycles.Findings()
    with opened(tmp_path, (), lanes=32) as board:
        cycles.compare(board, 60, 1, found)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch


def test_extremes(tmp_path: Path) -> None:
    with opened(tmp_path, ()) as board:
        found = at_their_extremes(board, SIZES)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    assert found.commands > 400


@pytest.mark.soak
def test_narrow_accumulators_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By one bit."""
    bits = ArrayConfig.accumulator_bits.func
    monkeypatch.setattr(ArrayConfig, "accumulator_bits", property(lambda config: bits(config) - 1))
    assert differs(tmp_path, monkeypatch)


def differs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("BITFIRST_CACHE", str(folder))
    with opened(folder, ()) as board:
        return at_their_extremes(board, SIZES).result_mismatches > 0


def test_a_brick_with_the_wrong_sign_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the highest digits, which is negative where it should not be."""
    brick = baselines._brick

    def wrong(m: Module, name: str, inputs: Value) -> Value:
        return brick(m, name, inputs | 0b100 if name.endswith("brick_15") else inputs)

    monkeypatch.setattr(baselines, "_brick", wrong)
    assert differs(tmp_path, monkeypatch)


@pytest.mark.soak
def test_digits_left_in_offset_binary_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion, "top_digits", lambda width, signed: [[Const(0)] * 2] * 2)
    assert differs(tmp_path, monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("constant", ["turn", "place"])
def test_digits_picked_wrongly_are_found(constant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of B always the first turn's lane, or always the low digit."""
    whole = fusion._Picks

    def picks(m: Module, name: str, width: Value, turn: Value, place: Value) -> fusion._Picks:
        if name == "b":
            turn, place = (Const(0, 2), place) if constant == "turn" else (turn, Const(0, 2))
        return whole(m, name, width, turn, place)

    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setattr(fusion, "_Picks", picks)
    found = cycles.Findings()
    with opened(tmp_path, ()) as board:
        cycles.compare(board, 60, 1, found)
    assert found.result_mismatches > 0


@pytest.mark.parametrize(
    ("values", "mend"),
    [
        ({"slice_bits": 4}, "slice_bits = 4 must be one of 2"),
        ({"features": [*STANDARD, "packed"]}, "datapath fusion has no packed; leave it out"),
        ({"rows": 64, "lanes": 256}, r"rows \* lanes \* 8 = 131072 must be at most"),
    ],
    ids=str,
)
def test_bad_configurations(values: dict, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        replace(TINY, **values)


def test_signs_are_not_predicted() -> None:
    with pytest.raises(UsageError, match=r"does not predict signs .*: take a configuration such as psg"):
        convert(nn.Conv2d(1, 1, 1), ModelDevice(TINY), PSG())
