"""PSG's predictors on captured gradients: what is resolved, what is wrong, how many bit products it takes."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from ..golden.psg import Decision, Mode, Predictor, Split, State, Sums, Threshold, beta_units, decide
from . import psg_board
from .psg_capture import G_BITS, STEPS, X_BITS, X_LOW, Captured, capture, capture_steps, read_captures

BETAS = (0.0, 0.02, 0.05, 0.1)
IMAGES_AT_ONCE = 16
Report = Callable[[str], None]
#: name -> (low bits of g, how it is cut); x is always cut 4 + 4
PREDICTORS = {
    "4x10 round": (6, Predictor.ROUND),
    "4x8 round": (8, Predictor.ROUND),
    "4x6 round": (10, Predictor.ROUND),
    "4x10 floor": (6, Predictor.FLOOR),
    "4x10 sign-magnitude": (6, Predictor.SIGN_MAGNITUDE),
}
PRESET = (psg_board.PREDICTOR, psg_board.REPAIR, psg_board.BETA)  #: predictor, repair, beta
GOALS = (("exact", 0.67, 0.54), ("lagged", 0.62, 0.58))  #: tau, least share resolved, most bit-MACs of the product's
MOST_WRONG, MOST_CYCLES = 0.02, 0.75
MOST_LUT, LEAST_FMAX = 0.08, 0.97
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = 8 * 8, 16 * 8, 8 * 16  #: bit products of a MAC
_IDENTITY = ("layer", "step", "predictor", "repair", "beta", "tau")  #: of a row
SUMS = ("first", "rest", "x_high", "g_rest")


@dataclass(frozen=True)
class Gradient:
    """The sums of one layer in one step, by predictor. Rows are (channel, tap row, tap column), columns outputs."""

    layer: str
    step: int
    exponent: int  #: of s_x * s_g
    batch: int
    pixels: int  #: of the output, per image
    taps: int
    sums: dict[str, Sums]


def unfolded(x: torch.Tensor, captured: Captured) -> torch.Tensor:
    """Images [n, c, h, w] of the layer's input as [n * pixels, c * taps], float64."""
    windows = functional.unfold(
        x.double(), captured.taps, padding=captured.padding, stride=captured.stride
    )  # [n, c * taps, pixels]
    return windows.transpose(1, 2).flatten(0, 1)


def gradient_sums(captured: Captured, x: Split, g: Split) -> Sums:
    """dW's sums over all of the batch's pixels."""
    batch, outputs, height, width = captured.g.shape
    sums = Sums(x, g, captured.x.shape[1] * captured.taps**2, outputs, batch * height * width)
    for x_part, g_part in zip(captured.x.split(IMAGES_AT_ONCE), captured.g.split(IMAGES_AT_ONCE), strict=True):
        sums.add(unfolded(x_part, captured), g_part.flatten(2).transpose(1, 2).flatten(0, 1))
    return sums


@lru_cache(maxsize=8)
def gradients(folder: Path, step: int) -> list[Gradient]:
    """Of all layers in one step that `psg_capture.capture` kept in `folder`; what was computed is kept there too."""
    cache = folder / f"sums_{step}.pt"
    if not cache.exists():
        torch.save([_reduced(captured) for captured in read_captures(folder, step)], cache)
    return [_restored(fields) for fields in torch.load(cache, weights_only=True)]


def _splits(predictor: str, x_signed: bool) -> tuple[Split, Split]:
    low, cut = PREDICTORS[predictor]
    return Split(X_BITS, X_LOW, x_signed, cut), Split(G_BITS, low, True, cut)


def _reduced(captured: Captured) -> dict[str, Any]:
    parts = {}
    for name in PREDICTORS:
        sums = gradient_sums(captured, *_splits(name, captured.x_signed))
        parts[name] = {part: getattr(sums, part) for part in SUMS}
    return {
        "layer": captured.layer,
        "step": captured.step,
        "exponent": captured.x_exponent + captured.g_exponent,
        "pixels": captured.g.shape[2] * captured.g.shape[3],
        "taps": captured.taps,
        "x_signed": captured.x_signed,
        "length": captured.g.shape[0] * captured.g.shape[2] * captured.g.shape[3],
        "parts": parts,
    }


def _restored(fields: dict[str, Any]) -> Gradient:
    x_signed, length, parts = (fields.pop(name) for name in ("x_signed", "length", "parts"))
    sums = {name: Sums.of(*_splits(name, x_signed), length, parts[name]) for name in PREDICTORS}
    return Gradient(**fields, batch=length // fields["pixels"], sums=sums)


def decisions(
    folder: Path, predictor: str, beta: float, mode: Mode, repair: bool = False, steps: int = STEPS
) -> list[tuple[Gradient, Decision]]:
    """Every layer at every captured share of the run of `steps` steps."""
    threshold = Threshold(mode, beta_units(beta))
    found = []
    for step, studied in sorted(capture_steps(steps).items()):
        if not studied:
            states = {g.layer: _state(g, predictor, repair) for g in gradients(folder, step)}
            continue
        for gradient in gradients(folder, step):
            sums = gradient.sums[predictor]
            state = states[gradient.layer]
            found.append((gradient, decide(sums, threshold, gradient.exponent, state, repair)))
    return found


def _state(gradient: Gradient, predictor: str, repair: bool) -> State:
    return decide(gradient.sums[predictor], Threshold(), gradient.exponent, repair=repair).state


def bench_psg(
    folder: Path, images: Path | None = None, steps: int = STEPS, device_url: str = "rtl:psg", report: Report = print
) -> dict[str, Any]:
    """Captures a training into `folder` where it is not there yet (`images`: see `data.read_images`), studies it, and
    checks a board. `failures`: of the rows that were checked; `goals`: what the preset reaches, and whether."""
    if images is not None:
        capture(images, folder, steps, report=report)
    rows = study(folder, steps)
    checked = []
    for row in psg_board.check(device_url, folder, steps):
        report(f"{row['layer']}, {row['tau']}: {row['failures']} failures, {row['cycles']:,} cycles")
        checked.append(row)
    _note_checked(rows, checked)
    return {
        "rows": rows,
        "checked": checked,
        "failures": sum(row["failures"] for row in checked),
        "goals": goals(rows, checked),
        "steps": steps,
        "device": device_url,
    }


def with_hardware(result: dict[str, Any], cost: dict[str, Any] | None) -> dict[str, Any]:
    """A result of `bench_psg` with what `bitfirst_boards.psg_cost` measured, and its goals; null where it did not."""
    measured = cost or {"lut_overhead": None, "fmax_ratio": None}
    wanted = (("lut_overhead", MOST_LUT, -1), ("fmax_ratio", LEAST_FMAX, 1)) if cost else ()
    more = [
        {"tau": "", "name": name, "value": cost[name], "goal": goal, "met": sign * cost[name] >= sign * goal}
        for name, goal, sign in wanted
    ]
    return result | measured | {"goals": [*result["goals"], *more]}


def study(folder: Path, steps: int = STEPS) -> list[dict[str, Any]]:
    """A row for each predictor, beta, mode and layer, and one with the layers' mean (`layer` "mean")."""
    rows = []
    for predictor in PREDICTORS:
        for repair in (False, True):
            for beta in BETAS:
                for mode in (Mode.EXACT, Mode.LAGGED) if beta else (Mode.EXACT,):
                    part = [_row(*pair) for pair in decisions(folder, predictor, beta, mode, repair, steps)]
                    shared = {"predictor": predictor, "repair": repair, "beta": beta, "tau": str(mode)}
                    rows += [shared | row for row in [*part, _mean(part)]]
    return rows


def _note_checked(rows: list[dict[str, Any]], checked: list[dict[str, Any]]) -> None:
    """`rtl_checked` and `cycle_work` of each row: of those that no board has done they are False and None."""
    known = {tuple(row[name] for name in _IDENTITY): row for row in checked}
    for row in rows:
        board = known.get(tuple(row[name] for name in _IDENTITY))
        row["rtl_checked"] = board is not None and not board["failures"]
        row["cycle_work"] = board["cycle_work"] if board else None


def goals(rows: list[dict[str, Any]], checked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What preset `e2train` (4x10 round, repaired) is to reach, its means, and whether they do; cycles are those of the
    layers checked on the board."""
    found = []
    for tau, least_resolved, most_work in GOALS:
        (mean,) = (
            row for row in means(rows) if (row["predictor"], row["repair"], row["beta"], row["tau"]) == (*PRESET, tau)
        )
        cycles = [row["cycle_work"] for row in checked if row["tau"] == tau]
        wanted = {
            "resolved": (mean["resolved"], least_resolved),
            "bit_work": (mean["bit_work"], most_work),
            "wrong_resolved": (mean["wrong_resolved"], MOST_WRONG),
            "cycle_work": (sum(cycles) / len(cycles), MOST_CYCLES),
        }
        for name, (value, goal) in wanted.items():
            met = value >= goal if name == "resolved" else value <= goal
            found.append({"tau": tau, "name": name, "value": value, "goal": goal, "met": met})
    return found


def _row(gradient: Gradient, decision: Decision) -> dict[str, Any]:
    exact = next(iter(gradient.sums.values())).total.sign()
    wrong = decision.signs != exact
    resolved = int(decision.resolved.sum())
    return {
        "layer": gradient.layer,
        "step": gradient.step,
        "batch": gradient.batch,
        "macs": wrong.numel() * gradient.batch * gradient.pixels,
        "resolved": resolved / wrong.numel(),
        "wrong_resolved": int(wrong.sum()) / max(resolved, 1),
        "wrong_overall": int(wrong.sum()) / wrong.numel(),
        "bit_work": decision.done / (decision.done + decision.saved),
    }


def _mean(rows: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Layers count alike, whatever their size; beside it the worst layer's share of wrong signs."""
    rows = list(rows)
    names = ("resolved", "wrong_resolved", "wrong_overall", "bit_work")
    shares = {name: sum(row[name] for row in rows) / len(rows) for name in names}
    worst = max(row["wrong_overall"] for row in rows)
    whole = {"layer": "mean", "step": None, "batch": rows[0]["batch"], "macs": sum(row["macs"] for row in rows)}
    return {**whole, **shares, "worst_wrong": worst, "step_work": _step_work(rows)}


def _step_work(rows: list[dict[str, Any]]) -> float:
    """Bit products of forward, dX (not of the first layer) and dW, over those with whole products."""
    first = rows[0]["layer"]
    others = sum(row["macs"] * (FORWARD + INPUT_GRADIENT * (row["layer"] != first)) for row in rows)
    whole = WEIGHT_GRADIENT * sum(row["macs"] for row in rows)
    done = WEIGHT_GRADIENT * sum(row["macs"] * row["bit_work"] for row in rows)
    return (others + done) / (others + whole)


def table(rows: Iterable[dict[str, Any]]) -> str:
    """The means, in Markdown."""
    names = "predictor", "beta", "tau", "resolved %", "wrong among resolved %", "wrong overall %: mean / worst"
    lines = [f"| {' | '.join(names)} | work of dW | of a step |", "|" + " --- |" * (len(names) + 2)]
    for row in means(rows):
        name = row["predictor"] + (", repaired" if row["repair"] else "")
        percents = [f"{100 * row[key]:.1f}" for key in ("resolved", "wrong_resolved")]
        wrong = f"{100 * row['wrong_overall']:.2f} / {100 * row['worst_wrong']:.1f}"
        work = f"{row['bit_work']:.3f} | {row['step_work']:.3f}"
        lines.append(f"| {name} | {row['beta']:g} | {row['tau']} | {' | '.join(percents)} | {wrong} | {work} |")
    return "\n".join(lines)


def means(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of all layers."""
    return [row for row in rows if row["layer"] == "mean"]
