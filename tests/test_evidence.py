"""The tables of rung B, and of energy, are those of the study files beside them."""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from bitfirst import comparison, energy_model

ROOT, EVIDENCE = Path(__file__).parents[1], Path("docs/evidence")
MADE = "tables.md", "runs.csv"
#: study -> what `bitfirst report` was told besides
STUDIES = {"cifar": {}, "cifar-finetune": {}, "energy": {"model": energy_model.load("horowitz-45nm"), "target": 0.95}}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """An empty folder, in which files are called as they are from the root of the repository."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made_anew(study: str, spoil: str | None = None) -> list[bool]:
    """Of `MADE`, whether the study's file, after this statement of SQL, gives what stands there."""
    folder = EVIDENCE / study
    folder.mkdir(parents=True)
    shutil.copy(ROOT / folder / "study.sqlite", folder)
    if spoil:
        with closing(sqlite3.connect(folder / "study.sqlite")) as file, file:
            file.execute(spoil)
    comparison.write([folder], folder, **STUDIES[study])
    return [(folder / name).read_bytes() == (ROOT / folder / name).read_bytes() for name in MADE]


@pytest.mark.parametrize("study", STUDIES)
def test_tables_are_those_of_the_file(study, clone):
    assert made_anew(study) == [True, True]


def test_a_run_that_the_file_lacks_is_found(clone):
    spoil = "delete from runs where id = (select min(id) from runs)"
    assert made_anew("cifar-finetune", spoil) == [False, False]
