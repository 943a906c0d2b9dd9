"""Order of the tests, which broken variants CI tries; figures that tests found, at the end."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

MUTANTS = 4  #: of a test's `mutants`, one in so many is tried by `make test`, and the others by `make soak`
POWER_TOML = 'base = "tiny"\nclock_khz = 2000\nfeatures = ["gather", "requantise", "power"]\n'
#: Only for the soak, as those marked so: fifteen seconds of a slow core and more. What CI then does not check at all
#: is listed in docs/verification.md.
SOAK = frozenset(Path(__file__).with_name("soak.txt").read_text().splitlines())
STRAYS = pytest.StashKey[set[str]]()  #: names in it that are no tests; an error here has no message in `make test`
FIGURE = "figure"  #: property of a test: a line for the summary, also from another process


@pytest.fixture(scope="session")
def power_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small simulated device with a supply; several files share its simulator."""
    path = tmp_path_factory.mktemp("power") / "with.toml"
    path.write_text(POWER_TOML)
    return f"rtl:{path}?sensor=ina226"


@pytest.fixture
def strays(pytestconfig: pytest.Config) -> set[str]:
    """What soak.txt names of the files collected, and is no test."""
    return pytestconfig.stash[STRAYS]


@pytest.hookimpl(tryfirst=True)  # before those of the soak are left out
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """All mutants but one in `MUTANTS`, and `SOAK`, to the soak. Those marked `longest` first, so that no core waits
    for them at the end."""
    names = {item.nodeid.removeprefix("tests/"): item for item in items}
    for name in SOAK & names.keys():
        names[name].add_marker("soak")
    files = {name.partition("::")[0] for name in names}
    strays = {name for name in SOAK - names.keys() if name.partition("::")[0] in files}
    config.stash[STRAYS] = set() if any("::" in argument for argument in config.args) else strays
    seen = Counter()
    for item in items:
        if item.get_closest_marker("mutants"):
            if seen[item.function] % MUTANTS:
                item.add_marker("soak")
            seen[item.function] += 1
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests recorded as `FIGURE`."""
    reports = (report for reports in terminalreporter.stats.values() for report in reports)
    lines = [text for report in reports for name, text in getattr(report, "user_properties", ()) if name == FIGURE]
    if lines:
        terminalreporter.section("figures")
        for line in dict.fromkeys(lines):
            terminalreporter.line(line)
