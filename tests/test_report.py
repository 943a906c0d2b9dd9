"""The report: self-contained, complete, and its figures are those of the result."""

import base64
import re
import struct
from html.parser import HTMLParser

import pytest
from bitfirst import report

COUNTERS = {
    "cycles": 1000,
    "starved_cycles": 100,
    "matmul_cycles": 600,
    "array_steps": 500,
    "stall_cycles": 40,
    "matmuls": 7,
    "rx_words": 2000,
    "tx_words": 300,
    "elements_read": 250,
}


@pytest.fixture
def result():
    history = [
        {"epoch": epoch, "loss": 1 / epoch, "validation_accuracy": 1 - 0.1 / epoch, "wall_s": 1.0}
        for epoch in (1, 2, 3)
    ]
    layers = [
        {"layer": layer, "phase": phase, "bit_macs": 12345, "cycles": 678, "utilisation": 0.25}
        for layer in ("conv", "linear")
        for phase in ("forward", "input_gradient", "weight_gradient")
    ]
    return {
        "task": {
            "title": "CIFAR-10, resnet20",
            "network": "resnet20",
            "classes": 10,
            "train": 45000,
            "validation": 5000,
            "test": 10000,
        },
        "test_accuracy": 0.98765,
        "fp32_test_accuracy": 0.97654,
        "weights_sha256": "ab" * 32,
        "device": "rtl",
        "cycles": 3000,
        "bit_macs": 4321,
        "bytes_moved": 55555,
        "utilisation": 0.345,
        "array_utilisation": 0.5,
        "energy": {
            "total_j": None,
            "uncertainty_j": None,
            "provenance": "unavailable",
            "scope": "board",
            "extrapolated": False,
        },
        "options": {"seed": 0, "batch": 32, "bits": {"activation": 8, "weight": 7, "gradient": 16}},
        "config": {"slice_bits": 4, "rows": 8},
        "identity": {"fingerprint": "0123456789abcdef"},
        "bit_macs_per_cycle": 8192,
        "history": history,
        "fp32_history": history,
        "phases": {phase: dict(COUNTERS) for phase in ("forward", "input_gradient", "weight_gradient")},
        "layers": layers,
        "wall_s": 12.3,
    }


class Page(HTMLParser):
    """What the page shows and what it loads; checks that its tags are closed in order."""

    VOID = ("meta", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(path):
    page = Page()
    page.feed(path.read_text())
    assert page.open == []
    return page


def test_report_is_complete_and_self_contained(result, tmp_path):
    page = read(report.write(result, tmp_path))
    text = " ".join(page.text)
    for words in "98.77%", "97.65%", "34.5%", "55,555", "unavailable", "ab" * 32, "8, 7, 16", "0123456789abcdef", "dX":
        assert words in text
    assert len(page.sources) == 3
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert "CIFAR-10, resnet20: 45,000 samples to train" in " ".join(text.split()) and "digits" not in text


def test_without_fp32_nothing_stands_beside(result, tmp_path):
    with_fp32 = " ".join(read(report.write(result, tmp_path)).text)
    result |= {"fp32_test_accuracy": None, "fp32_history": []}
    text = " ".join(read(report.write(result, tmp_path)).text)
    assert "98.77%" in text and "97.65%" not in text and text.count("n/a") == with_fp32.count("n/a") + 4
    loss, accuracy = report.accuracy_figure(result).axes
    assert [line.get_label() for line in loss.lines] == [line.get_label() for line in accuracy.lines] == ["rtl"]


def test_the_hosts_work_stands_beside_that_of_fp32(result, tmp_path):
    """That of the last epoch that tells of it; nothing is said where none does."""
    told = {"flops": 3_000_000, "bytes": 45_600_000}
    result["history"] = [row | ({} if row["epoch"] == 3 else {"host": told}) for row in result["history"]]
    rows = {name: cells for name, *cells in report.comparison(result)}
    assert rows["host, MFLOPs a step"] == ["3", "n/a"] and rows["host, MB a step"] == ["45.6", "n/a"]
    assert "host, MB a step" in read(report.write(result, tmp_path)).text


@pytest.fixture
def signs():
    keys = "resolved", "wrong_resolved", "wrong_overall", "wrong_fp32", "exact_wrong_fp32", "bit_work"
    bounds = {"bound_median": 0.02, "bound_mean": 0.2, "bound_vacuous": 0.1}
    rows = [
        {"step": step, "layer": layer, **dict.fromkeys(keys, 0.01 * step), **bounds, "bound_tau": step / 8 or None}
        for step in (0, 9, 18)
        for layer in ("conv", "other")
    ]
    layers = [{"layer": layer, "resolved": 0.7, "bit_work": 0.515} for layer in ("conv", "other")]
    return {
        "rows": rows,
        "layers": layers,
        "dw": {"done": 1_500_000, "saved": 500_000},
        "step": {"done": 7_500_000, "saved": 500_000},
    }


def test_signs_are_told_and_pictured(result, signs, tmp_path):
    result["signs"] = signs
    result["options"]["method"] = "psg"
    page = read(report.write(result, tmp_path))
    text = " ".join(page.text)
    for words in "(psg)", "in 3 steps", "9.00%", "51.5%", "168.75%", "1,500,000", "500,000", "75.0%", "93.8%":
        assert words in text, words
    assert len(page.sources) == 4 and (tmp_path / "signs.png").exists()


def test_curves_of_signs_show_the_rows(signs):
    resolved, wrong, fp32, bounds = report.signs_figure(signs["rows"]).axes
    for axes in resolved, wrong, fp32:
        assert [line.get_label() for line in axes.lines] == ["conv", "other"]
        for line in axes.lines:
            assert list(line.get_xdata()) == [0, 9, 18] and list(line.get_ydata()) == pytest.approx([0, 9, 18])
    shown = {line.get_label(): list(line.get_ydata()) for line in bounds.lines}
    assert shown["V / (2 tau²)"] == [9 / 8, 18 / 8] and shown["median of the bounds"] == [0.02] * 3
    assert set(shown) == {name for name, _ in report.BOUNDS.values()}


def test_signs_without_predictions_have_no_bounds(result, signs, tmp_path):
    for row in signs["rows"]:
        row |= dict.fromkeys(report.BOUNDS, None) | {"wrong_resolved": 0.0}
    result |= {"signs": signs, "options": result["options"] | {"method": "signsgd"}}
    assert "n/a" in " ".join(read(report.write(result, tmp_path)).text)


def test_pictures_are_in_the_page_and_beside_it(result, tmp_path):
    page = read(report.write(result, tmp_path))
    files = {path.name: path.read_bytes() for path in tmp_path.glob("*.png")}
    assert set(files) == {"accuracy.png", "cycles.png", "layers.png"}
    assert sorted(base64.b64decode(source.partition(",")[2]) for source in page.sources) == sorted(files.values())
    for png in files.values():
        width, height = struct.unpack(">II", png[16:24])
        assert width > 1000 and height > 350


def test_cycles_are_all_accounted_for(result):
    shares = report.cycle_shares(COUNTERS)
    assert shares == {
        "array steps": 500,
        "stalls": 40,
        "fill and drain": 60,
        "link, array idle": 300,
        "nothing to do": 100,
    }
    assert sum(shares.values()) == COUNTERS["cycles"]
    bars = report.cycles_figure(result).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == pytest.approx(3 * 1000 / 1e6)


def test_curves_show_the_histories(result):
    result["fp32_history"] = [row | {"loss": 2.0} for row in result["history"]]
    loss, accuracy = report.accuracy_figure(result).axes
    assert [list(line.get_ydata()) for line in loss.lines] == [[1, 1 / 2, 1 / 3], [2, 2, 2]]
    assert list(accuracy.lines[0].get_ydata()) == pytest.approx([90, 95, 100 - 10 / 3])
    assert [label.get_text() for label in loss.get_legend().get_texts()] == ["rtl", "fp32"]


def test_without_a_link_there_are_no_wall_cycles(result, tmp_path):
    for counters in result["phases"].values():
        for name in "cycles", "starved_cycles", "rx_words", "tx_words":
            counters.pop(name, None)
    result |= {"device": "model", "cycles": None, "utilisation": None}
    text = " ".join(read(report.write(result, tmp_path)).text)
    assert "golden model" in text and "n/a" in text
    assert report.cycle_shares(result["phases"]["forward"])["array steps"] == 500


def test_measured_energy_has_its_provenance(result, tmp_path):
    result["energy"] |= {"total_j": 12.5, "uncertainty_j": 0.25, "provenance": "measured"}
    text = " ".join(read(report.write(result, tmp_path)).text)
    assert "12.50 J ± 0.25 J at k = 2 (measured, scope board, not extrapolated)." in text and "modelled" not in text


def test_modelled_energy_says_by_what(result, tmp_path):
    result["energy"] |= {"total_j": 4e-3, "provenance": "modelled", "scope": "array"}
    about = {"name": "set", "about": "Of no board.", "origin": "a paper"}
    about["training"] = {"total_j": 3e-3, "step_j": 3e-4, "sample_j": 3e-5, "epoch_j": 1.5e-3}
    result["energy_model"] = about | {"parts": {"link_bytes": 3e-3, "fetches": 1e-3}, "low_j": 2e-3, "high_j": 8e-3}
    text = " ".join(" ".join(read(report.write(result, tmp_path)).text).split())
    assert "4 mJ, uncertainty not known (modelled, scope array, not extrapolated)." in text
    assert "times coefficients set: Of no board. Origin: a paper. With all" in text and "0.002 J and 0.008 J" in text
    assert (
        "steps alone, modelled too: 0.003 J, which is 0.0003 J a step, 3e-05 J a sample and 0.0015 J an epoch." in text
    )
    assert re.search(r"link_bytes byte on the link, both ways 0\.003 75\.0%", text) and "measured" not in text


def test_names_are_escaped(result, tmp_path):
    result["device"] = "serial:///dev/<script>"
    path = report.write(result, tmp_path)
    read(path)
    assert "<script>" not in path.read_text()
