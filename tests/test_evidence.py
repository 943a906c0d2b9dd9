"""The tables of rung B, and of energy, are those of the study files beside them."""

import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from bitfirst import comparison, energy_model, grids

ROOT, EVIDENCE = Path(__file__).parents[1], Path("docs/evidence")
MADE = "tables.md", "runs.csv"
#: study -> what `bitfirst report` was told besides
STUDIES = {
    "cifar": {"target": 0.6},
    "cifar-finetune": {},
    "energy": {"model": energy_model.load("horowitz-45nm"), "target": 0.95},
}


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
    reported = "json_extract(configuration, '$.variant') = 'e2train' and json_extract(configuration, '$.rate') = 2.0"
    assert made_anew("cifar-finetune", f"delete from runs where {reported}") == [False, False]


def rows_of(file: Path) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as database:
        return database.execute("SELECT * FROM runs ORDER BY rowid").fetchall()


def thin(file: Path) -> None:
    subprocess.run([sys.executable, ROOT / EVIDENCE / "thin.py", file], check=True)


@pytest.mark.parametrize("study", ["cifar", "cifar-finetune"])
def test_files_have_no_more_than_the_repository_keeps(study, tmp_path):
    file = Path(shutil.copy(ROOT / EVIDENCE / study / "study.sqlite", tmp_path))
    before = file.read_bytes()
    thin(file)
    assert file.read_bytes() == before
    assert len(before) < 2**20


VARIANT = "json_extract(configuration, '$.variant')"
TRIAL = f"json_extract(configuration, '$.rate') = 0.5 and {VARIANT} != 'e2train + swa'"  # the row that chose this rate
#: What a study writes and the repository does not keep: where in a result, and of which runs.
MORE = {
    "signs of trials": ("$.signs", TRIAL),
    "layers of trials": ("$.layers", TRIAL),
    "routes of trials": ("$.routing", TRIAL),
    "blocks of trials": ("$.blocks", TRIAL),
    "widths of trials": ("$.methods.pfq.changes", TRIAL),
    "work of epochs": ("$.layer_epochs", f"{VARIANT} = 'psg'"),
    "digits": ("$.signs.layers[0].resolved", f"{VARIANT} = 'psg'"),
    "samples of exact signs": ("$.signs.rows[0]", f"{VARIANT} = 'exact signs'"),
}


SPOIL = dict.fromkeys(MORE, "'too much'") | {"digits": "0.123456"}


@pytest.mark.parametrize("more", MORE)
def test_what_is_more_is_taken_out(more, tmp_path):
    where, whose = MORE[more]
    file = Path(shutil.copy(ROOT / EVIDENCE / "cifar" / "study.sqlite", tmp_path))
    with closing(sqlite3.connect(file)) as database, database:
        database.execute(f"update runs set result = json_set(result, '{where}', {SPOIL[more]}) where {whose}")
    assert SPOIL[more].strip("'") in str(rows_of(file))
    thin(file)
    assert SPOIL[more].strip("'") not in str(rows_of(file))


#: Rows of the table beside the papers' figures -> of ours, and to what its bit-MACs are told.
BESIDE = {
    "E2-Train": ("e2train", "sgd"),
    "E2-Train with SWA": ("e2train + swa", "sgd"),
    "SMD": ("smd", "sgd"),
    "SMB": ("smb scaled", "sgd"),
    "SLU": ("slu", "sgd"),
    "stochastic depth": ("stochastic depth, last 0.86", "sgd"),
    "PSG": ("psg", "sgd"),
    "SignSGD": ("exact signs", "sgd"),
    "SBM, 8/8 bits": ("sbm", "sgd"),
    "PFQ": ("pfq", "sbm"),
    "DFQ, cp 3": ("dfq", "sbm"),
    "FracTrain, cp 1.5/2/2.5/3": ("fractrain", "sbm"),
}


def beside_papers():
    """Row -> the two cells that are ours, as the page has them."""
    page = (ROOT / "docs" / "evidence.md").read_text().split("### Beside the papers")[1]
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    return {row[0]: row[3:] for row in rows[2:]}


def test_what_stands_beside_the_papers_figures_is_the_table_s():
    table = grids.summary("methods", comparison.read(ROOT / EVIDENCE / "cifar" / grids.FILE))["table"]
    ours, found = {row["variant"]: row for row in table}, beside_papers()
    assert found.keys() == BESIDE.keys()
    for name, (variant, base) in BESIDE.items():
        row, (accuracy, work) = ours[variant], found[name]
        assert f"{100 * row['accuracy']:.2f} % ({100 * row['difference']:+.2f})" in accuracy
        share = row["work"] if base == "sgd" else row["bit_macs"] / ours[base]["bit_macs"]
        assert work == f"{share:.3f} of {'`sgd`' if base == 'sgd' else 'SBM'}"
