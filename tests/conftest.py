"""Order of the tests."""

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that no core waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)
