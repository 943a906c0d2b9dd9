"""Columns of `bitfirst report` that some runs alone can fill."""

import html

import bitfirst
import pytest
import torch
from bitfirst import comparison, data, observed, training
from bitfirst.grids import FILE
from bitfirst.nn import Bits, convert
from bitfirst.training import TrainOptions
from test_comparison import few, history, keep, table, told
from torch import nn
from work import DIGITS, SECOND_BLOCK, bit_macs, forward_bit_macs


def markdown_cells(path):
    """By variant, the cells of each column by its title."""
    lines = [line.strip("| ").split(" | ") for line in path.read_text().splitlines() if line.startswith("|")]
    head, _, *rows = lines
    return {row[0]: dict(zip(head, row, strict=True)) for row in rows}


def with_host(flops, size):
    """The last epoch has no step, and tells nothing."""
    rows = history(0.2, 0.5, 0.5, host=[{"flops": 1, "bytes": 1}, {"flops": flops, "bytes": size}, {}])
    rows[-1].pop("host")
    return told(history=rows)


def test_the_hosts_work_stands_in_the_tables(tmp_path):
    runs = [("sgd", seed, with_host(10**6 * (1 + seed), 4 * 10**6)) for seed in (0, 1)]
    keep(tmp_path / FILE, *runs, ("old", 0, told()), ("failed", 0, {"failed": "diverged", "wall_s": 1.0}))
    comparison.write([tmp_path], tmp_path)
    rows = markdown_cells(tmp_path / "tables.md")
    assert [rows["sgd"][f"host, {unit} a step"] for unit in ("MFLOPs", "MB")] == ["1.5", "4"]
    assert [rows[name]["host, MB a step"] for name in ("old", "failed")] == ["-", "-"]
    assert [row["host_flops"] for row in table(tmp_path / "runs.csv")] == ["1000000", "2000000", "", ""]
    assert "<th>host, MB a step</th>" in html.unescape((tmp_path / "comparison.html").read_text())


def test_columns_that_no_run_fills_are_not_there(tmp_path):
    few(tmp_path / FILE)
    comparison.write([tmp_path], tmp_path)
    assert next(iter(table(tmp_path / "runs.csv"))).keys() == set(comparison.COLUMNS)
    assert set(markdown_cells(tmp_path / "tables.md")["sgd"]) == {*comparison.HEAD, *comparison.DIFFERENCE}
    assert "a step" not in (tmp_path / "comparison.html").read_text()


def test_what_runs_tell_of_their_work_stands_in_the_tables(tmp_path):
    def one(macs, bits, buckets):
        rows = history(0.2, 0.5, training_macs=[1, macs], largest_bits=[20, bits])
        rows[-1]["training_counters"] = {"matmul_cycles": macs // 100}
        gates = {"buckets": buckets, "gate_macs": macs // 1000}
        return told(history=rows, methods={"smd": {"kept": 1}, "dfq": gates, "slu": {"gate_macs": macs // 1000}})

    keep(tmp_path / FILE, ("dfq", 0, one(10**9, 12, 2.0)), ("dfq", 1, one(2 * 10**9, 16, 3.0)), ("sgd", 0, told()))
    comparison.write([tmp_path], tmp_path)
    titles = "MACs, G", "largest bits", "buckets in a block", "cycles of products, M", "gates on the host, M MACs"
    rows = markdown_cells(tmp_path / "tables.md")
    assert [rows["dfq"][title] for title in titles] == ["1.5", "16", "2.50", "15", "3"]
    assert [rows["sgd"][title] for title in titles] == ["-"] * 5
    names = "training_macs", "largest_bits", "buckets", "matmul_cycles", "gate_macs"
    assert [table(tmp_path / "runs.csv")[1][name] for name in names] == [
        "2000000000",
        "16",
        "3.0",
        "20000000",
        "4000000",
    ]


def trained(method, device, epochs=2):
    """Of the digits network on 32 images, a batch of 16."""
    whole = data.digits()
    splits = data.Splits(*(data.some(part, 32) for part in (whole.train, whole.validation, whole.test)))
    options = TrainOptions(device=device, epochs=epochs, batch=16, method=method)
    with training.host_settings(1), bitfirst.open(device) as board:
        run = training.new_run(options, board)
        training.fit(run, splits, options)
        training.finished(run, splits, options)
    return run


@pytest.mark.parametrize(
    ("method", "bits"),
    [
        ("sgd", 16),
        ("psg", 16),
        ("byhand:schedule=4-6/8-12", 12),
        ("static:forward=5,backward=7", 7),
        ("slu", 16),
        ("swa", 16),
    ],
)
def test_macs_are_counted_once_of_whatever_widths(method, bits):
    run = trained(method, "model:psg?counting=0")
    images = 2 * 32
    wanted = sum(bit_macs(layer, images, (1, 1, 1)) for layer in DIGITS)
    if method == "slu":
        ((left_out, _),) = observed.counts(run.method)
        wanted -= sum(bit_macs(layer, left_out, (1, 1, 1)) for layer in SECOND_BLOCK)
        assert left_out
    if method == "swa":  # the pass for batch norm
        wanted += sum(forward_bit_macs(layer, 32, (1, 1, 1)) for layer in DIGITS)
    last = run.history[-1]
    assert (last["training_macs"], last["largest_bits"]) == (wanted, bits)
    assert last["training_bit_macs"] > 16 * last["training_macs"]


def test_the_largest_bits_are_of_either_operand():
    found = []
    with bitfirst.open("model:tiny") as device:
        for activation, weight in (3, 9), (10, 4), (2, 2):
            convert(nn.Linear(2, 2), device, bits=Bits(activation, weight, 2))(torch.ones(1, 2))
            found.append(device.largest_bits)
    assert found == [9, 10, 10]


def test_the_largest_bits_are_of_one_training():
    """Of the second on an open device, too."""
    with bitfirst.open("model:tiny?counting=0") as device:
        device.largest_bits = 16  # as after the first
        training.new_run(TrainOptions(method="static"), device)
        assert device.largest_bits == 0
