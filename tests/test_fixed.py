"""The datapath "fixed", 8 x 8 bit multipliers behind the same ports: whole devices against the golden model."""

from dataclasses import replace
from pathlib import Path

import bitfirst
import pytest
from amaranth.hdl import Cat, Const, Module, Signal, signed
from bitfirst.benches import cycles
from bitfirst.errors import UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.methods import PSG
from bitfirst.nn import convert
from bitfirst_hdl import fixed
from bitfirst_hdl.config import CONFIGS, STANDARD, ConfigError
from bitfirst_sim import build
from test_device_equality import assert_covered
from torch import nn

TINY = replace(CONFIGS["tiny"], datapath="fixed", slice_bits=8, columns=2, features=STANDARD)
TOML = "base = 'tiny'\ndatapath = 'fixed'\nslice_bits = 8\ncolumns = 2\nfeatures = {}\n"


@pytest.fixture
def url(tmp_path: Path) -> str:
    path = tmp_path / "fixed.toml"
    path.write_text(TOML.format(list(STANDARD)))
    return f"rtl:{path}"


@pytest.fixture(autouse=True)
def soon_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes longer than to run."""
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    monkeypatch.setattr(build, "NATIVE_FLAGS", ())


@pytest.mark.parametrize(
    "features", [STANDARD, pytest.param((), marks=pytest.mark.soak)], ids=["gathers", "host writes cells"]
)
def test_random_commands(features: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "fixed.toml"
    path.write_text(TOML.format(list(features)))
    found = cycles.Findings()
    with bitfirst.open(f"rtl:{path}") as board:
        assert board.config == replace(TINY, features=features)
        cycles.compare(board, 200, 1, found)
    assert_covered(found.as_dict(), board.config)


def test_a_sign_that_is_dropped_is_found(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Octets of B taken as unsigned, whatever the MATMUL says."""

    def operand(self: fixed.FixedArray, m: Module, column: int) -> list[Signal]:
        octets = self._cut(self.b, column * self.config.lanes * 8, self.config.lanes * 8)
        digits = [Signal(signed(9), name=f"digit_{column}_{lane}") for lane in range(self.config.lanes)]
        m.d.comb += [digit.eq(Cat(octets.word_select(n, 8), Const(0))) for n, digit in enumerate(digits)]
        return digits

    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))
    monkeypatch.setattr(fixed.FixedArray, "_operand", operand)
    found = cycles.Findings()
    with bitfirst.open(url) as board:
        cycles.compare(board, 50, 1, found)
    assert found.result_mismatches > 0


@pytest.mark.parametrize(
    ("values", "mend"),
    [
        ({"slice_bits": 4}, "slice_bits = 4 must be one of 8"),
        ({"features": [*STANDARD, "packed"]}, "datapath fixed has no packed; leave it out"),
        ({"datapath": "fused"}, "choose from serial, fixed"),
    ],
    ids=str,
)
def test_bad_configurations(values: dict, mend: str) -> None:
    with pytest.raises(ConfigError, match=mend):
        replace(TINY, **values)


def test_signs_are_not_predicted() -> None:
    """Nor are they where sums are not compared."""
    for config in (TINY, CONFIGS["least"]):
        with pytest.raises(UsageError, match=r"does not predict signs .*, and a serial configuration with"):
            convert(nn.Conv2d(1, 1, 1), ModelDevice(config), PSG())
