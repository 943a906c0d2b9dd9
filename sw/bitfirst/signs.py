"""What the signs of a training are worth: how many the prediction resolves, how many are wrong, what they save.

Wrong is measured on sampled steps, against the sign of the exact quantised product, and against the gradient of the
same network with the same batch in float32. Beside it stands eq. (3) of the E2-Train paper, a bound of the chance that
a predicted sign is wrong. Rounding to the first bits (steps d_x and d_g) leaves out a part of each product; the sum G
then differs from the prediction by a number of variance V = d_x**2 / 12 * sum g**2 + d_g**2 / 12 * sum x**2, which
turns its sign with a chance of at most V / (2 G**2) (Chebyshev, one side). As the mean of that says nothing where one
G is small, it is given by its median, the mean of min(1, bound), and the share of bounds of 1 or more; and with the
threshold in the place of G, as V / (2 tau**2).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .golden.psg import NEVER
from .nn import Signer, Watched, in_float, signers
from .quantised import Quantised

SAMPLES = 24
COUNTS = ("done", "saved", "resolved", "decided")


class Journal:
    """The signs of one training, step by step.

    samples in so many steps at most wrong signs are counted; 0 for none
    rows    of each layer in each sampled step, see `sample`
    step    {"done", "saved"}: bit-MACs of the training steps, all three products
    """

    def __init__(self, samples: int = SAMPLES) -> None:
        self.samples = samples
        self.rows: list[dict[str, Any]] = []
        self.step = {"done": 0, "saved": 0}
        self._earlier: dict[str, dict[str, int]] = {}
        self._before = (0, 0)
        self._float: dict[str, torch.Tensor] | None = None

    def begin(
        self, net: nn.Module, step: int, steps: int, loss: Callable[[nn.Module], torch.Tensor], bit_macs: int
    ) -> None:
        """Before step number `step` (from 0) of `steps`. `loss`: of a network, on the step's batch; `bit_macs`: of the
        device so far."""
        self._before = bit_macs, sum(signer.saved for signer in signers(net).values())
        self._float = _float_gradients(net, loss) if self._is_sample(step, steps) else None
        for signer in signers(net).values():
            signer.watch = self._float is not None

    def _is_sample(self, step: int, steps: int) -> bool:
        return self.samples > 0 and step % math.ceil(steps / self.samples) == 0

    def end(self, net: nn.Module, step: int, bit_macs: int) -> None:
        """After the backward pass."""
        macs, saved = self._before
        self.step["done"] += bit_macs - macs
        self.step["saved"] += sum(signer.saved for signer in signers(net).values()) - saved
        for name, signer in signers(net).items():
            if signer.watched is not None and self._float.get(name) is not None:  # None: skipped there
                self.rows.append({"step": step, "layer": name, **sample(signer, self._float[name])})
                signer.watched = None

    def layers(self, net: nn.Module) -> dict[str, dict[str, int]]:
        """Totals of each layer so far, by name: `COUNTS`."""
        return {
            name: {key: getattr(signer, key) + self._earlier.get(name, {}).get(key, 0) for key in COUNTS}
            for name, signer in signers(net).items()
        }

    def state(self, net: nn.Module) -> dict[str, Any]:
        """For a checkpoint."""
        return {"rows": self.rows, "step": self.step, "layers": self.layers(net)}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a checkpoint's."""
        self.rows, self.step, self._earlier = state["rows"], state["step"], state["layers"]

    def summary(self, net: nn.Module) -> dict[str, Any]:
        """`rows`; `layers`: the share resolved and the share of dW's bit-MACs done; `dw` and `step`: bit-MACs."""
        layers = self.layers(net)
        return {
            "rows": self.rows,
            "layers": [
                {
                    "layer": name,
                    "resolved": counts["resolved"] / max(counts["decided"], 1),
                    "bit_work": counts["done"] / max(counts["done"] + counts["saved"], 1),
                }
                for name, counts in layers.items()
            ],
            "dw": {key: sum(counts[key] for counts in layers.values()) for key in ("done", "saved")},
            "step": self.step,
        }


def _float_gradients(net: nn.Module, loss: Callable[[nn.Module], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of each layer whose weight gets signs: the weight's gradient in float32."""
    plain = in_float(net)
    plain.zero_grad()
    loss(plain).backward()
    layers = dict(plain.named_modules())
    return {name: layers[name].weight.grad for name in signers(net)}


def sample(signer: Signer, fp32: torch.Tensor) -> dict[str, Any]:
    """A layer in one step; `fp32`: its weight's gradient in float32.

    resolved        share of the weights; wrong_resolved: wrong among these, against the exact quantised product
    wrong_overall   share of all signs, finished ones too, against the same
    wrong_fp32      share of all signs against float32; exact_wrong_fp32: that of the exact product's
    bit_work        bit-MACs of dW that were needed
    bound_median, bound_mean, bound_vacuous, bound_tau
                    of eq. (3), as above; None without prediction, bound_tau for a threshold of 0 too
    """
    seen = signer.watched
    decision = seen.decision
    gradient = exact_gradient(seen)
    exact, signs = gradient.sign(), decision.signs.reshape(gradient.shape)
    wrong, theirs = signs != exact, fp32.reshape(gradient.shape).sign()
    resolved = int(decision.resolved.sum())
    return {
        "resolved": resolved / wrong.numel(),
        "wrong_resolved": int(wrong.sum()) / max(resolved, 1),
        "wrong_overall": int(wrong.sum()) / wrong.numel(),
        "wrong_fp32": int((signs != theirs).sum()) / wrong.numel(),
        "exact_wrong_fp32": int((exact != theirs).sum()) / wrong.numel(),
        "bit_work": decision.done / (decision.done + decision.saved),
        **_bounds(signer, seen, gradient),
    }


def _images(operand: Quantised) -> torch.Tensor:
    """float64 [n, c, h, w]; a linear layer's as 1 x 1 pixels."""
    values = operand.values.to(torch.float64)
    return values if values.ndim == 4 else values.reshape(-1, values.shape[-1], 1, 1)


def _taps(seen: Watched) -> tuple[int, ...]:
    return tuple(seen.decision.signs.shape[2:]) or (1, 1)


def _window(seen: Watched) -> tuple[tuple[int, ...], tuple[int, ...]]:
    stride, padding = seen.window
    return stride or (1, 1), padding or (0, 0)


def exact_gradient(seen: Watched) -> torch.Tensor:
    """dW [o, c, kh, kw] of the integers, float64: exact below 2**53."""
    g, x = _images(seen.g), _images(seen.x)
    return torch.nn.grad.conv2d_weight(x, (g.shape[1], x.shape[1], *_taps(seen)), g, *_window(seen))


def variance(seen: Watched, x_step: float, g_step: float) -> torch.Tensor:
    """V [o, c, kh, kw], in units of the exact gradient squared; steps in units of x and g."""
    g, x = (_images(operand).square().sum(0, keepdim=True) for operand in (seen.g, seen.x))
    taps, window = _taps(seen), _window(seen)
    of_g = torch.nn.grad.conv2d_weight(torch.ones_like(x[:, :1]), (g.shape[1], 1, *taps), g, *window)
    of_x = torch.nn.grad.conv2d_weight(x, (1, x.shape[1], *taps), torch.ones_like(g[:, :1]), *window)
    return x_step**2 / 12 * of_g + g_step**2 / 12 * of_x


def _bounds(signer: Signer, seen: Watched, gradient: torch.Tensor) -> dict[str, float | None]:
    rule = signer.method.rule(seen.x.bits, seen.x.signed, seen.g.bits)
    if rule is None:
        return dict.fromkeys(("bound_median", "bound_mean", "bound_vacuous", "bound_tau"))
    spread = variance(seen, 2.0**rule.x.low, 2.0**rule.g.low)
    bound = torch.where(gradient == 0, torch.inf, spread / (2 * gradient.square()))
    tau = seen.decision.threshold * 2.0**seen.decision.unit
    usable = 0 < seen.decision.threshold < NEVER
    return {
        "bound_median": min(float(bound.median()), 1.0),
        "bound_mean": float(bound.clamp(max=1).mean()),
        "bound_vacuous": float((bound >= 1).double().mean()),
        "bound_tau": float((spread / (2 * tau**2)).mean()) if usable else None,
    }
