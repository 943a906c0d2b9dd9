"""What `bitfirst bench psg --hardware` makes of its measurements."""

import pytest
from bitfirst.benches.psg import with_hardware


@pytest.mark.parametrize(("lut", "fmax", "met"), [(0.078, 0.935, [True, False]), (0.081, 0.97, [False, True])])
def test_goals_of_the_hardware(lut: float, fmax: float, met: list[bool]) -> None:
    result = with_hardware({"goals": []}, {"lut_overhead": lut, "fmax_ratio": fmax})
    assert (result["lut_overhead"], result["fmax_ratio"]) == (lut, fmax)
    assert [goal["met"] for goal in result["goals"]] == met


def test_what_was_not_measured_is_null() -> None:
    assert with_hardware({"goals": []}, None) == {"goals": [], "lut_overhead": None, "fmax_ratio": None}
