"""Makes a study's file small enough for the repository.

    python docs/evidence/thin.py docs/evidence/cifar/study.sqlite

Trials whose rate was not chosen keep their figures and the course of their training, and lose what was seen of signs,
layers and routes; exact signs lose their samples, which those of PSG have too; no run keeps the work of its layers in
each epoch. Numbers seen in signs have four digits. A file that is thin already stays as it is.
"""

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from bitfirst import grids

SEEN = "signs", "layers", "routing", "blocks"
DIGITS = 4


def thin(file: Path) -> None:
    """Changes the file in place. Raises `UsageError` for a file of no study."""
    grids.Runs(file).close()
    with closing(sqlite3.connect(file)) as database:
        rows = database.execute("SELECT id, configuration, result FROM runs").fetchall()
        told = [(name, json.loads(asked), json.loads(result)) for name, asked, result in rows]
        rates = grids.tuned([asked | result for _, asked, result in told])
        for name, asked, result in told:
            chosen = rates[asked["variant"], asked["batch"]] == asked["rate"]
            text = json.dumps(_kept(asked, result, chosen), separators=(",", ":"))
            database.execute("UPDATE runs SET result = ? WHERE id = ?", (text, name))
        database.commit()
        database.execute("VACUUM")


def _kept(asked: dict[str, Any], result: dict[str, Any], chosen: bool) -> dict[str, Any]:
    result.pop("layer_epochs", None)
    if not chosen:
        for part in result.get("methods", {}).values():
            part.pop("changes", None)
        return {key: value for key, value in result.items() if key not in SEEN}
    if "signs" in result:
        signs = _rounded(result["signs"])
        result["signs"] = signs | ({"rows": []} if asked["method"] == "signsgd" else {})
    return result


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: _rounded(one) for key, one in value.items()} if isinstance(value, dict) else value


if __name__ == "__main__":
    for given in sys.argv[1:]:
        thin(Path(given))
