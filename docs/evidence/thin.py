"""Makes a study's file small enough for the repository.

    python docs/evidence/thin.py docs/evidence/cifar/study.sqlite

Trials whose rate was not chosen keep figures and the course of their accuracy, and lose what was seen of signs, layers,
routes and changes of width; exact signs lose their samples, which those of PSG have too; no run keeps the work of its
layers in each epoch. Numbers seen in signs have four digits. A file that is thin already stays as it is.
"""

import argparse
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from bitfirst import grids

SEEN = "signs", "layers", "routing", "blocks"
DIGITS = 4


def thin(file: Path) -> None:
    """Changes the file in place."""
    runs = grids.Runs(file)
    chosen = {row["id"] for study in runs.studies() for row in grids.summary(study, runs.all(study))["rows"]}
    runs.close()
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT id, configuration, result FROM runs").fetchall()
        kept = [(_kept(json.loads(told), json.loads(result), chosen), result, name) for name, told, result in rows]
        changes = [(text, name) for text, result, name in kept if text != result]
        if changes:
            database.executemany("UPDATE runs SET result = ? WHERE id = ?", changes)
            database.commit()
            database.execute("VACUUM")


def _kept(told: dict[str, Any], result: dict[str, Any], chosen: set[str]) -> str:
    result.pop("layer_epochs", None)
    if grids.identity(told) not in chosen:
        for part in result.get("methods", {}).values():
            part.pop("changes", None)
        result = {key: value for key, value in result.items() if key not in SEEN}
    elif "signs" in result:
        signs = _rounded(result["signs"])
        result["signs"] = signs | ({"rows": []} if told["method"] == "signsgd" else {})
    return json.dumps(result, separators=(",", ":"))


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage="python docs/evidence/thin.py FILE [FILE ...]")
    parser.add_argument("files", nargs="+", type=Path)
    for given in parser.parse_args().files:
        if not given.is_file():
            parser.error(f"{given} is no file: give a study.sqlite")
        thin(given)
