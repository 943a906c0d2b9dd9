"""Are falling and random widths worse, or only tested in fewer bits?

    python docs/evidence/orders.py FOLDER docs/evidence/cifar/study.sqlite

A network is tested in the widths of its last step, which are 8/8 for rising ones, 3/6 for falling ones, and any for
random ones. This trains the runs of the study `methods` by falling and random widths again, with the images of FOLDER,
and tests each in its last widths (the study's figure) and in 8/8: `orders.csv` beside the study's file. Two processes.
"""

import csv
import sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import bitfirst
from bitfirst import grids, training
from bitfirst.bits import Bits

COLUMNS = "variant", "seed", "rate", "last_bits", "accuracy", "accuracy_8_8"
VARIANTS = "by hand, random", "by hand, reversed"


def runs(file: Path) -> list[dict[str, Any]]:
    """What the study's runs by `VARIANTS` are told, with the rates that were chosen."""
    rows = grids.Runs(file).all("methods")
    rates, seeds = grids.tuned(rows), 1 + max(row["seed"] for row in rows)
    told = grids.configurations("methods", seeds, rows[0]["device"], rows[0]["epochs"], rows[0]["images"])
    return [one | {"rate": rates[one["variant"], one["batch"]]} for one in told if one["variant"] in VARIANTS]


def tested(folder: str, one: dict[str, Any]) -> dict[str, Any]:
    """A row of the file."""
    options, splits = grids.options_of(one), grids.splits_of(folder)
    with training.host_settings(options.threads), bitfirst.open(options.device) as board:
        run = training.new_run(options, board, grids.NETWORKS[one["images"]])
        training.fit(run, splits, options)
        last, narrow = run.method.pair, training.evaluate(run.net, splits.test)
        for layer in run.net.modules():
            if hasattr(layer, "connection"):
                layer.bits = Bits(8, 8, 8)
        wide = training.evaluate(run.net, splits.test)
    found = f"{last.forward}/{last.backward}", narrow, wide
    return dict(zip(COLUMNS, (one["variant"], one["seed"], one["rate"], *found), strict=True))


def main(folder: str, file: Path) -> None:
    pool = ProcessPoolExecutor(2, get_context("spawn"))
    with pool, file.with_name("orders.csv").open("w", newline="") as out:
        writer = csv.DictWriter(out, COLUMNS)
        writer.writeheader()
        for row in pool.map(partial(tested, folder), runs(file)):
            writer.writerow(row)
            out.flush()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
