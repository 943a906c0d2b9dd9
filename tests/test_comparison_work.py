"""Columns of `bitfirst report` that some runs alone can fill."""

import html

from bitfirst import comparison
from bitfirst.grids import FILE
from test_comparison import few, history, keep, table, told


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
