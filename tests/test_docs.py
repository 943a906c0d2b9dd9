"""What the documents point at is in the repository."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\]\(([^)#\s]+)(?:#[^)]*)?\)")


def tracked(*patterns: str) -> set[str]:
    done = subprocess.run(["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines())


def links(document: str) -> list[str]:
    """Relative targets of a document, as paths from the root."""
    targets = [target for target in LINK.findall((ROOT / document).read_text()) if "://" not in target]
    return [str((ROOT / document).parent.joinpath(target).resolve().relative_to(ROOT)) for target in targets]


@pytest.mark.parametrize("document", sorted(tracked("*.md")))
def test_links_and_pictures_exist(document: str) -> None:
    files = tracked()
    assert [target for target in links(document) if target not in files] == []


def test_the_readme_shows_a_picture_of_the_report() -> None:
    assert "docs/images/report.png" in links("README.md")
    assert (ROOT / "docs/images/report.png").stat().st_size > 10_000


def test_the_alternatives_of_decisions_compute_what_they_should() -> None:
    """What was measured still runs, and is exact."""
    script = ROOT / "docs/decisions/measure_element.py"
    done = subprocess.run([sys.executable, script, "check", "tiny"], capture_output=True, text=True, check=True)
    assert [line.split() for line in done.stdout.splitlines()[1:]] == [
        [name, "exact"] for name in ("Built", "ChunkOutside", "Unsigned")
    ]


def test_what_only_the_soak_runs_is_there(strays: set[str]) -> None:
    """A name that is no test any more would let the test back in, and nobody would know why CI is slow."""
    assert not strays, "tests/soak.txt names what is no test"
