"""Captured gradients: the run can be resumed, operands keep the limits, sums are those of the convolution."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from bitfirst.benches import psg, psg_board, psg_capture, psg_docs
from bitfirst.benches.psg import PREDICTORS, gradients, study, table
from bitfirst.benches.psg_capture import capture, capture_steps, quantise_within, read_captures, read_images
from bitfirst.errors import UsageError
from PIL import Image
from torch.nn import functional

STEPS, IMAGES, BATCH = 8, 8, 4
LAYERS = 21


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    generator = np.random.default_rng(1)
    files = []
    for _ in range(IMAGES):
        file = io.BytesIO()
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(file, "JPEG")
        files.append(np.frombuffer(file.getvalue(), dtype=np.uint8))
    offsets = np.cumsum([0, *map(len, files)])
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, jpeg=np.concatenate(files), offsets=offsets, labels=np.arange(IMAGES) % 10)
    return path


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psg_capture, "BATCH", BATCH)
        patch.setattr(psg_capture, "IMAGES", IMAGES)
        patch.setattr(psg_capture, "SAVE_EVERY", 1)
        yield patch


@pytest.fixture(scope="module")
def folder(archive, small, tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    capture(archive, path, STEPS, report=lambda line: None)
    return path


def test_steps_before_and_at_the_shares():
    assert capture_steps(500) == {24: False, 25: True, 249: False, 250: True, 474: False, 475: True}


def test_an_interrupted_run_goes_on_to_the_same_captures(archive, small, folder, tmp_path):
    def stop(line: str) -> None:
        if line.startswith("step 3 "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        capture(archive, tmp_path, STEPS, report=stop)
    assert not (tmp_path / f"step_{STEPS // 2}.pt").exists()
    capture(archive, tmp_path, STEPS, report=lambda line: None)
    for step in capture_steps(STEPS):
        for once, again in zip(read_captures(folder, step), read_captures(tmp_path, step), strict=True):
            assert torch.equal(once.x, again.x) and torch.equal(once.g, again.g)
            assert (once.x_exponent, once.g_exponent) == (again.x_exponent, again.g_exponent)
    with pytest.raises(UsageError, match="another folder"):
        capture(archive, tmp_path, STEPS, seed=1)


def test_sums_are_the_convolutions_gradient(folder):
    """Of every layer, by every predictor, against PyTorch's own kernel in float64."""
    step = STEPS // 2
    for captured, gradient in zip(read_captures(folder, step), gradients(folder, step), strict=True):
        x, g = captured.x.double(), captured.g.double()
        shape = (g.shape[1], x.shape[1], captured.taps, captured.taps)
        expected = torch.nn.grad.conv2d_weight(x, shape, g, captured.stride, captured.padding)
        for name in PREDICTORS:
            assert torch.equal(gradient.sums[name].total, expected.flatten(1).T.long()), (captured.layer, name)
        assert gradient.exponent == captured.x_exponent + captured.g_exponent


def test_rows_of_the_bench(folder, monkeypatch):
    some = {name: PREDICTORS[name] for name in ("4x6 round", "4x10 floor")}  # all of them take a minute
    monkeypatch.setattr(psg, "PREDICTORS", some)
    rows = study(folder, STEPS)
    combinations = len(some) * 2 * 7
    assert len(rows) == combinations * (3 * LAYERS + 1)
    for row in rows:
        if row["beta"] == 0:
            assert row["resolved"] == 1
        least = 16 / 128 if row["predictor"] == "4x6 round" else 0
        assert least < row["bit_work"] <= 1 and 0 <= row["wrong_overall"] <= row["resolved"], row
    means = [row for row in rows if row["layer"] == "mean"]
    for mean in means:  # dW is 128 / 320 of a step, a bit more since the first layer has no dX
        assert mean["beta"] or 0.4 < (1 - mean["step_work"]) / (1 - mean["bit_work"]) < 0.41, mean
    assert len(table(rows).splitlines()) == 2 + len(means) == 2 + combinations


def a_shortcut(folder, step):
    """The smallest layer: 1 x 1, 16 to 32 channels."""
    return [captured for captured in read_captures(folder, step) if captured.layer == "blocks.3.shortcut.0"]


@pytest.fixture(scope="module")
def on_board(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(psg_board, "_one_of_each_stage", a_shortcut)
        yield list(psg_board.check("rtl:tiny", folder, STEPS))


def test_a_board_gives_the_golden_models_signs(on_board):
    assert [row["tau"] for row in on_board] == ["exact", "lagged", "never"]
    for row in on_board:
        assert row["failures"] == 0 and row["elements"] == 16 * 32 and row["cycle_work"] > 0
    assert on_board[0]["resolved"] > 0.3 and on_board[2]["resolved"] == 0


def test_a_board_with_another_rule_fails(folder, monkeypatch):
    """Control: the board's threshold is half as high as the model's."""
    decide = psg_board._decide

    def lower(device, captured, threshold, state=None):
        if device.url.startswith("rtl"):
            threshold = psg_board.Threshold(threshold.mode, threshold.beta // 2)
        return decide(device, captured, threshold, state)

    monkeypatch.setattr(psg_board, "_one_of_each_stage", a_shortcut)
    monkeypatch.setattr(psg_board, "_decide", lower)
    monkeypatch.setattr(psg_board, "CASES", {"exact": psg_board.CASES["exact"]})
    assert [row["failures"] > 0 for row in psg_board.check("rtl:tiny", folder, STEPS)] == [True]


def test_failures_count_elements():
    decision = psg.decide(psg.Sums.of(*psg._splits("4x10 round", False), 1, parts_of_ones()), psg.Threshold())
    assert psg_board.failures(decision, decision) == 0
    other = replace(decision, signs=decision.signs.clone())
    other.signs[0, 1] = 0
    assert psg_board.failures(other, decision) == 1
    assert psg_board.failures(replace(decision, threshold=7), decision) == decision.signs.numel()


def parts_of_ones():
    return {name: torch.ones(2, 3, dtype=torch.int64) for name in ("first", "rest")} | {
        "x_high": torch.ones(2, dtype=torch.int64),
        "g_rest": torch.ones(3, dtype=torch.int64),
    }


def test_checked_rows_and_goals(on_board):
    rows = [
        {"layer": layer, "step": step, "predictor": "4x10 round", "repair": repair, "beta": 0.05, "tau": tau}
        | {"resolved": 0.7, "bit_work": 0.55, "wrong_resolved": 0.01}
        for layer, step in (("blocks.3.shortcut.0", STEPS // 2), ("mean", None))
        for repair in (False, True)
        for tau in ("exact", "lagged")
    ]
    psg._note_checked(rows, on_board)
    assert [row["rtl_checked"] for row in rows] == [False, False, True, True] + [False] * 4
    assert rows[3]["cycle_work"] == on_board[1]["cycle_work"] and rows[1]["cycle_work"] is None
    met = {(goal["tau"], goal["name"]): goal["met"] for goal in psg.goals(rows, on_board)}
    assert met["exact", "resolved"] and not met["exact", "bit_work"] and met["lagged", "bit_work"]
    psg._note_checked(rows, [row | {"failures": 1} for row in on_board])
    assert not any(row["rtl_checked"] for row in rows)


def test_the_document_is_the_measured_one():
    docs = Path(__file__).parents[1] / "docs"
    measured = json.loads((docs / psg_docs.MEASURED).read_text())
    assert (docs / psg_docs.DOCUMENT).read_text() == psg_docs.rendered(measured)
    assert measured["failures"] == 0 and len(measured["checked"]) == 9
    assert len(measured["rows"]) == len(PREDICTORS) * 2 * 7


@pytest.mark.parametrize("largest", [0.0, 1e-30, 0.49, 1.0, 247.4, 247.6, 495.1, 3e30])
@pytest.mark.parametrize("limit", [119, 247, 32255])
def test_quantised_within_limits_with_the_smallest_scale(largest, limit):
    values, exponent = quantise_within(torch.tensor([0.0, largest, -largest]), limit)
    assert values.abs().max() <= limit and values[1] == -values[2]
    if largest:
        wanted = float(torch.tensor(largest))
        assert values[1] == round(wanted * 2.0**-exponent) and round(wanted * 2.0 ** (1 - exponent)) > limit


@pytest.mark.parametrize("content", [None, b"no archive"])
def test_files_without_images_are_refused(tmp_path, content):
    path = tmp_path / "images.npz"
    if content:
        path.write_bytes(content)
    with pytest.raises(UsageError, match="no images"):
        read_images(path, 1)


def test_too_few_images_are_refused(archive):
    with pytest.raises(UsageError, match="wanted"):
        read_images(archive, IMAGES + 1)


def test_a_step_that_was_not_captured_is_refused(tmp_path):
    with pytest.raises(UsageError, match="capture the training first"):
        psg.gradients(tmp_path, 3)


def test_windows_are_those_of_the_convolution(folder):
    captured = next(iter(read_captures(folder, STEPS // 2)))
    kernel = torch.arange(27, dtype=torch.float64)
    y = functional.conv2d(captured.x.double(), kernel.reshape(1, 3, 3, 3), padding=1)
    assert torch.equal(psg.unfolded(captured.x, captured) @ kernel, y.flatten())
