"""`bitfirst bench step`: what is timed, and what is told of a library that is missing."""

import sys

import pytest
from bitfirst.benches.step import OTHERS, UNCOUNTED, bench_step
from bitfirst.device import Device


def test_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours twice, with counters and without; the same products, by devices that are or are not counting."""
    monkeypatch.setitem(sys.modules, "qtorch", None)  # as if it were not installed
    products: list[tuple[bool, int]] = []
    run_all = Device._run_all

    def noted(device: Device, *given: object) -> object:
        products.append((device.counting, device.bit_macs))
        return run_all(device, *given)

    monkeypatch.setattr(Device, "_run_all", noted)
    result = bench_step(batch=2, repetitions=1)
    assert {"fp32", "bitfirst", "uncounted"} <= result["seconds"].keys() and "qtorch" not in result["seconds"]
    assert UNCOUNTED.startswith("model?") and result["device"] == "model"
    counted, uncounted = ([done for counting, done in products if counting is kind] for kind in (True, False))
    assert counted == uncounted and len(counted) == 2 * 44  # two steps of 22 layers, each forward and backward
    assert result["matmul_cycles"] > 0 and result["bit_macs"] > counted[-1]
    for name in OTHERS:
        for ours in "", "uncounted_":
            ratio = result[f"{ours}ratio_to_{name}"]
            assert ratio is None if name not in result["seconds"] else ratio > 0
    ours, theirs = (result["seconds"][name] for name in ("uncounted", "fp32"))
    assert result["uncounted_ratio_to_fp32"] == ours / theirs
