"""Element, array and engine: the cocotb benches on configurations of all kinds."""

from math import ceil, log2

import pytest
from amaranth.back import rtlil
from bitfirst_hdl.array import Array
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.element import DotTree, Element
from bitfirst_hdl.engine import MatmulEngine
from bitfirst_sim.bench import BenchError, run_bench

SMALL = {"a_cells": 32, "b_cells": 32, "sum_tiles": 16, "store_words": 64}
#: Of these B's memory takes two, and eight rows at once.
TWO, EIGHT = SMALL | {"b_cells": 128}, SMALL | {"b_cells": 512}
CONFIGURATIONS = {
    "tiny": CONFIGS["tiny"],
    "one_bit": ArrayConfig(slice_bits=1, lanes=16, rows=4, columns=4, **TWO),
    "byte_one_row": ArrayConfig(slice_bits=8, lanes=16, rows=1, columns=16, **EIGHT),
    "byte_in_twos": ArrayConfig(slice_bits=8, lanes=16, rows=1, columns=16, **TWO),
    "tall_one_column": ArrayConfig(slice_bits=2, lanes=64, rows=8, columns=1, **EIGHT),
    "wide_one_row": ArrayConfig(slice_bits=2, lanes=32, rows=1, columns=16, **SMALL),
}
#: A single row is in `byte_one_row` too, two rows at once in `one_bit`.
SOAK = ("byte_in_twos", "wide_one_row")
configurations = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.soak if name in SOAK else ()) for name in CONFIGURATIONS]
)


def run(component, name: str, bench: str, only: str | None = None):
    module, parameters = f"bitfirst_sim.benches.bench_{bench}", {"config": CONFIGURATIONS[name].as_dict()}
    return run_bench(component, f"{bench}_{name}", module, parameters=parameters, only=only)


@configurations
def test_element(name: str) -> None:
    assert set(run(Element(CONFIGURATIONS[name]), name, "element").tests) == {"every_cycle", "idle_cycles"}


@configurations
def test_array(name: str) -> None:
    assert set(run(Array(CONFIGURATIONS[name]), name, "array").tests) == {"every_cycle", "idle_cycles"}


@configurations
def test_engine(name: str) -> None:
    tests = run(MatmulEngine(CONFIGURATIONS[name]), name, "engine").tests
    assert len(tests) == len(set(tests)) == 11


def test_tree_latency_is_half_its_levels() -> None:
    for lanes in 16, 32, 64, 128, 256:
        tree = DotTree(ArrayConfig(slice_bits=4, lanes=lanes, rows=16, columns=16))
        assert tree.latency == ceil(log2(lanes) / 2)
        rtlil.convert(tree)  # asserts that it is built so


def test_a_wrong_lane_order_is_found(monkeypatch) -> None:
    """The element's bench fails when the tree pairs lanes otherwise than the configuration says."""
    monkeypatch.setattr("bitfirst_hdl.element.repeated", lambda pattern, period, width: pattern)
    with pytest.raises(BenchError, match="shadow"):
        run(Element(CONFIGURATIONS["tiny"]), "tiny", "element")


def test_a_wrong_cycle_count_is_found(monkeypatch) -> None:
    """The engine's bench fails when the array waits a cycle longer than the configuration says."""
    wrong = ArrayConfig.drain_cycles.fget
    monkeypatch.setattr(ArrayConfig, "drain_cycles", property(lambda config: wrong(config) + 1))
    with pytest.raises(BenchError, match="cycles, not"):
        run(MatmulEngine(CONFIGURATIONS["tiny"]), "tiny", "engine", only="every_precision")
