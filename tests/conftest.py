"""Order of the tests; figures that they found, at the end."""

from typing import Any

import pytest

FIGURE = "figure"  #: property of a test: a line for the summary, also from another process


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests recorded as `FIGURE`."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    lines = [text for report in reports for name, text in getattr(report, "user_properties", ()) if name == FIGURE]
    if lines:
        terminalreporter.section("figures")
        for line in dict.fromkeys(lines):
            terminalreporter.line(line)
