"""`bench gating`: elements with nothing to finish hardly toggle in the compiled RTL."""

from io import BytesIO
from typing import Any

import pytest
from amaranth.hdl import Module
from bitfirst.errors import DeviceError, UsageError
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.element import OwnWord
from bitfirst_sim import gating

TINY = CONFIGS["tiny"]


def check(found: dict[str, Any]) -> None:
    share = found["element_cycles"]["gated"] / sum(found["element_cycles"].values())
    assert 0.55 < share < 0.75  # a third has something to finish
    working, gated = (found["toggles_per_cycle"][state] for state in ("working", "gated"))
    assert working["tree"] > TINY.lanes * TINY.slice_bits / 2
    assert gated["tree"] < 0.09 * working["tree"] and found["ratio"] == gated["tree"] / working["tree"]
    assert gated["accumulator"] < working["accumulator"] / 4


def test_elements_without_a_word_stand_still() -> None:
    check(gating.run("tiny"))


def test_words_that_stay_are_found(monkeypatch) -> None:
    """An element that nothing is for goes on with its last word."""

    def elaborate(own: OwnWord, platform: object) -> Module:
        m = Module()
        for word, held in zip(own.a, own.held, strict=True):
            with m.If(own.take):
                m.d.sync += held.eq(word)
        return m

    monkeypatch.setattr(OwnWord, "elaborate", elaborate)
    with pytest.raises(AssertionError):
        check(gating.run("tiny"))


def test_changes_are_counted_by_what_is_held() -> None:
    """Made by hand: one element of two bits, which holds 3 and then nothing."""
    waves = b"""$scope module array $end $var wire 1 c clk $end $scope module own_0_0 $end $var wire 2 h held__0 $end
    $upscope $end $scope module element_0_0 $end
    $scope module tree $end $var wire 2 t sum $end $var wire 2 m mask__0 $end $upscope $end
    $scope module accumulator $end $var wire 2 a total $end $upscope $end $upscope $end $upscope $end
    $enddefinitions $end
    #0 0c b0 h b0 t b0 m b0 a
    #1 1c b11 h b1 m
    #2 0c
    #3 1c b11 t b0 m b0 h
    #4 0c
    #5 1c b0 t b11 a b11 m
    #7 1c b1 t
    """
    counted = gating.count(BytesIO(waves), ONE)
    assert counted.cycles == {"working": 1, "gated": 2}
    assert counted.toggles == {("working", "tree"): 2, ("gated", "tree"): 3, ("gated", "accumulator"): 2}


class ONE:
    rows = columns = 1


def test_waveforms_without_elements_are_refused() -> None:
    with pytest.raises(DeviceError, match="lack signals"):
        gating.count(
            BytesIO(b"$scope module a $end $var wire 1 c clk $end $upscope $end $enddefinitions $end #1 1c "), TINY
        )


def test_an_array_that_packs_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no packed MATMULs"):
        gating.run("small")
