"""Figures of energy: what stands beside them, and what is refused."""

import json
from dataclasses import replace

import pytest
from bitfirst.energy import Energy, unavailable
from bitfirst.errors import UsageError
from result_keys import ENERGY_KEYS

MEASURED = Energy(12.5, 0.25, "measured", "board")
SIMULATED = Energy(2.0, 0.5, "simulated", "board")
MODELLED = Energy(1.0, None, "modelled", "board")
NONE = unavailable()


def test_it_is_what_json_has_and_comes_back():
    for one in MEASURED, SIMULATED, MODELLED, NONE, MEASURED.times(3):
        found = json.loads(json.dumps(one.as_dict()))
        assert found.keys() == ENERGY_KEYS and Energy(**found) == one
    assert MEASURED.as_dict() == {
        "total_j": 12.5,
        "uncertainty_j": 0.25,
        "provenance": "measured",
        "scope": "board",
        "extrapolated": False,
    }


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"provenance": "guessed"}, "choose from measured, simulated, modelled, unavailable"),
        ({"scope": "chip"}, "choose from array, rails, board, board\\+host"),
        ({"provenance": "unavailable"}, "unavailable has no figure"),
        ({"total_j": None}, "measured needs a figure"),
        ({"total_j": None, "provenance": "modelled"}, "modelled needs a figure"),
        ({"uncertainty_j": None}, "measured needs its uncertainty"),
        ({"uncertainty_j": None, "provenance": "simulated"}, "simulated needs its uncertainty"),
        ({"uncertainty_j": -0.1}, "must be 0 or more"),
        ({"total_j": float("nan")}, "finite number"),
        ({"uncertainty_j": float("inf")}, "finite number"),
        ({"total_j": "12.5"}, "finite number"),
        ({"total_j": True}, "finite number"),
        ({"total_j": -0.3}, "below 0 by more than its uncertainty"),
        ({"total_j": -0.3, "uncertainty_j": None, "provenance": "modelled"}, "below 0"),
        ({"extrapolated": "no"}, "must be true or false"),
    ],
)
def test_what_makes_no_sense_is_refused(change, words):
    with pytest.raises(UsageError, match=words):
        replace(MEASURED, **change)


def test_a_figure_that_cannot_be_told_from_0_may_be_below_it():
    assert replace(MEASURED, total_j=-0.2).total_j == -0.2
    with pytest.raises(UsageError, match="unavailable has no figure"):
        replace(NONE, extrapolated=True)


def test_a_sum_is_never_trusted_more_than_its_parts():
    order = [MEASURED, SIMULATED, MODELLED, NONE]
    for number, one in enumerate(order):
        for other in order[number:]:
            assert (one + other).provenance == (other + one).provenance == other.provenance
    total = MEASURED + SIMULATED
    assert total == Energy(14.5, 0.75, "simulated", "board")
    total = MEASURED + MODELLED
    assert total == Energy(13.5, None, "modelled", "board")
    assert MEASURED + NONE == NONE
    assert (MEASURED + MEASURED.times(2)) == Energy(37.5, 0.75, "measured", "board", True)
    assert not (MEASURED + MEASURED).extrapolated


def test_scopes_do_not_mix():
    for other in Energy(1.0, 0.1, "measured", "array"), unavailable("board+host"):
        with pytest.raises(UsageError, match="do not add up"):
            MEASURED + other


def test_what_is_multiplied_is_extrapolated():
    assert MEASURED.times(4) == Energy(50.0, 1.0, "measured", "board", True)
    assert MODELLED.times(0) == Energy(0.0, None, "modelled", "board", True)
    assert NONE.times(4) == NONE
    for count in -1, float("inf"), float("nan"):
        with pytest.raises(UsageError, match="must be 0 or more"):
            MEASURED.times(count)


def test_the_line_for_people_always_says_what_it_is():
    assert str(MEASURED) == "12.50 J ± 0.25 J at k = 2 (measured, scope board, not extrapolated)"
    assert str(MEASURED.times(2e-4)) == "2.500 mJ ± 0.050 mJ at k = 2 (measured, scope board, extrapolated)"
    assert str(MODELLED) == "1 J, uncertainty not known (modelled, scope board, not extrapolated)"
    assert str(NONE) == "no figure (unavailable, scope board, not extrapolated)"
    assert str(Energy(0, 0, "simulated", "array")).startswith("0.000 J ± 0.000 J at k = 2 (simulated, scope array")
    assert str(Energy(1234.5, 56.7, "simulated", "board")).startswith("1234 J ± 57 J")
    assert str(Energy(0, 3e-7, "simulated", "board")).startswith("0 nJ ± 300 nJ")
    assert str(Energy(3e-14, 0, "simulated", "board")).startswith("0.030 pJ")
