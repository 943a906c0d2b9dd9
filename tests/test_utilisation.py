"""`bench utilisation`: its figures add up, and agree with what the device counted."""

import pytest
from bitfirst.benches import utilisation
from bitfirst.benches.utilisation import RESNET20, bench_utilisation, sustained
from bitfirst.board import BoardDevice
from bitfirst.errors import UsageError
from bitfirst.residency import forget
from bitfirst_hdl.config import CONFIGS

BATCH = 3  # of the shortcut, two images lie in the store together


@pytest.fixture(scope="module")
def settled() -> list[dict[str, int]]:
    """The board's clock (`clock`) and counters whenever the bench has settled the device, in order."""
    return []


@pytest.fixture(scope="module")
def result(settled):
    chosen = tuple(layer for layer in RESNET20 if layer.name in ("stage 3, shortcut", "classifier"))
    settle = BoardDevice.settle

    def noted(device: BoardDevice) -> dict[str, int]:
        counters = settle(device)
        settled.append(counters | {"clock": device.transport.cycles})
        return counters

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utilisation, "RESNET20", chosen)
        patch.setattr(BoardDevice, "settle", noted)
        return bench_utilisation("rtl:small", batch=BATCH) | {"modelled": sustained(CONFIGS["small"], BATCH)}


def test_every_layer_phase_and_precision_has_a_row(result):
    rows = [(row["name"], row["phase"], row["precision"]) for row in result["layers"]]
    kinds = ("forward", "8x8"), ("forward", "3x4"), ("input_gradient", "8x16"), ("input_gradient", "4x6")
    kinds += ("weight_gradient", "8x16"), ("weight_gradient", "4x6")
    assert rows == [(name, *kind) for name in ("stage 3, shortcut", "classifier") for kind in kinds]


def test_use_and_waste_add_up_to_all_cycles(result):
    for row in result["layers"]:
        assert row["utilisation"] + sum(row["waste"].values()) == pytest.approx(1), row
        assert min(row["waste"].values()) >= 0, row
        assert 0 < row["utilisation_with_transport"] < row["utilisation"] <= row["nominal"], row


def test_the_useful_work_is_that_of_the_layer(result):
    """Independent of plan and counters: MACs of a 1 x 1 convolution with stride 2, and of a product."""
    macs = {"stage 3, shortcut": BATCH * 32 * 64 * 8 * 8, "classifier": BATCH * 64 * 10}
    for row in result["layers"]:
        a_bits, b_bits = map(int, row["precision"].split("x"))
        slots = row["cycles"] * 4 * 4 * 16 * 4  # R * C * L * S of small
        assert row["utilisation"] == pytest.approx(macs[row["name"]] * a_bits * b_bits / slots), row


def test_the_planners_account_comes_near(result):
    """Of the same layers and precisions, weighted alike."""
    assert result["modelled"] == pytest.approx(result["weighted_utilisation"], rel=0.05)


def test_cycles_are_those_of_the_clock(result, settled):
    """From the first command to the last, waiting included: the board's own clock says so. No result is read then."""
    rows, measurements = result["layers"], [settled[place : place + 3] for place in range(0, len(settled), 3)]
    assert len(measurements) > len(rows)  # some in parts
    cycles = (after["cycles"] - between["cycles"] for _, between, after in measurements)
    assert sum(row["cycles"] for row in rows) == sum(cycles)
    for _, between, after in measurements:
        grown = {name: after[name] - between[name] for name in after}
        assert grown["clock"] == grown["cycles"] > grown["matmul_cycles"] > 0
        assert grown["elements_read"] == 0
    for row in rows:
        assert row["waste"]["starvation"] > 0 and row["cycles"] < row["cycles_with_transport"], row


def test_operands_that_have_to_be_sent_again_are_refused(monkeypatch):
    """As where the store does not hold them together."""
    chosen = tuple(layer for layer in RESNET20 if layer.name == "classifier")
    monkeypatch.setattr(utilisation, "RESNET20", chosen)
    monkeypatch.setattr(utilisation, "issue", lambda wanted, store, operation: [(forget(0), None)])
    with pytest.raises(UsageError, match="more store_words"):
        bench_utilisation("rtl:tiny", batch=1)


def test_a_device_without_a_clock_is_refused():
    with pytest.raises(UsageError, match="no clock"):
        bench_utilisation("model:tiny")
