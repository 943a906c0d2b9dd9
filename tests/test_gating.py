"""`bench gating`: elements with nothing to finish hardly toggle in the compiled RTL."""

from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
from amaranth.hdl import Module, Signal
from bitfirst.errors import DeviceError, UsageError
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.element import OwnWord
from bitfirst_sim import gating

TINY = CONFIGS["tiny"]


def stands_still(found: dict[str, Any]) -> bool:
    return found["tree_ratio"] < 0.05 and found["accumulator_ratio"] < 0.25


def test_elements_without_a_word_stand_still() -> None:
    found = gating.run("tiny")
    share = found["element_cycles_gated"] / (found["element_cycles_gated"] + found["element_cycles_working"])
    assert 0.55 < share < 0.75  # a third has something to finish
    assert found["tree_toggles_working"] > TINY.lanes * TINY.slice_bits / 2
    assert stands_still(found)


def test_words_that_stay_are_found(monkeypatch) -> None:
    """An element that nothing is for goes on with its last word."""

    def elaborate(own: OwnWord, platform: object) -> Module:
        m = Module()
        for word, held in zip(own.a, own.held, strict=True):
            front = Signal.like(word)
            with m.If(own.take):
                m.d.sync += front.eq(word)
            with m.If(own.move):
                m.d.sync += held.eq(front)
        return m

    monkeypatch.setattr(OwnWord, "elaborate", elaborate)
    found = gating.run("tiny")
    assert not stands_still(found) and found["tree_ratio"] > 0.5


def test_changes_are_counted_by_what_was_taken() -> None:
    """Made by hand: one element that takes a word, then none; `mask__0` is not its own."""
    waves = b"""$scope module array $end $var wire 1 c clk $end
    $scope module own_0_0 $end $var wire 1 k take $end $var wire 1 m move $end $upscope $end
    $scope module element_0_0 $end
    $scope module tree $end $var wire 2 t sum $end $var wire 2 x mask__0 $end $upscope $end
    $scope module accumulator $end $var wire 2 a total $end $upscope $end $upscope $end $upscope $end
    $enddefinitions $end
    #0 0c b0 t b0 x b0 a 1k 0m
    #1 1c b11 t 0k 1m
    #2 0c
    #3 1c b0 t b11 x 1m
    #4 0c
    #5 1c b11 t b1 a 0m
    #6 0c
    #7 1c b10 t b11 a
    """
    counted = gating.count(BytesIO(waves), replace(TINY, rows=1, columns=1, lanes=64))
    assert counted.cycles == {"working": 1, "gated": 1}
    assert counted.toggles == {("working", "tree"): 2, ("working", "accumulator"): 1, ("gated", "tree"): 1} | {
        ("gated", "accumulator"): 1
    }


def test_waveforms_without_elements_are_refused() -> None:
    with pytest.raises(DeviceError, match="lack signals"):
        gating.count(
            BytesIO(b"$scope module a $end $var wire 1 c clk $end $upscope $end $enddefinitions $end #1 1c "), TINY
        )


def test_an_array_that_packs_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no packed MATMULs"):
        gating.run("small")
