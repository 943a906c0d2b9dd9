"""Signs of a convolution's dW, by `psg`, with the exact convolutions: nothing is unfolded that grows with the batch."""

from dataclasses import replace

import torch
from torch.nn import functional

from ..errors import UsageError
from ..lowering import Geometry
from ..quantised import Quantised
from . import exact
from .psg import Decision, Rule, Split, State, Sums
from .psg import decide as decide_sums


def decide(
    g: exact.Pieces, x: exact.Pieces, geometry: Geometry, rule: Rule, exponent: int = 0, state: State | None = None
) -> Decision:
    """`psg.decide` for dW [o, c, kh, kw] of g [n, o, ...] and x [n, c, ...]; `signs` and `resolved` have its shape.

    Work counts as in `Operation.bit_macs`: products with real pixels alone. Raises `UsageError` for operands that do
    not fit the rule.
    """
    decision = decide_closed(sums_of(g, x, geometry, rule), geometry, rule, exponent, state)
    device = x.operand.values.device
    return replace(decision, signs=decision.signs.to(device), resolved=decision.resolved.to(device))


def decide_closed(
    sums: Sums, geometry: Geometry, rule: Rule, exponent: int = 0, state: State | None = None
) -> Decision:
    """The same of `sums_of` dW."""
    decision = decide_sums(sums, rule.threshold, exponent, state, rule.repair, products_of(geometry))
    signs, resolved = (
        part.T.reshape(geometry.weight_shape).contiguous() for part in (decision.signs, decision.resolved)
    )
    return replace(decision, signs=signs, resolved=resolved)


def predictions_of(
    g: Quantised, x: Quantised, first: torch.Tensor, rest: torch.Tensor, geometry: Geometry, rule: Rule
) -> Sums:
    """Sums whose first pass and rest are known, int64 [o, c, kh, kw]."""
    parts = {"first": first.flatten(1).T, "rest": rest.flatten(1).T} | _for_repair(
        g, x, _leading(g, rule.g, "gradient"), _leading(x, rule.x, "input"), geometry, rule
    )
    return Sums.of(rule.x, rule.g, _length(g, geometry), parts)


def products_of(geometry: Geometry) -> torch.Tensor:
    """int64 [c * taps]: how many products with real pixels a weight's gradient is the sum of."""
    return geometry.input_shape[0] * _over_windows(torch.ones(1, *geometry.input_shape[1:]), geometry).to(torch.int64)


def sums_of(g: exact.Pieces, x: exact.Pieces, geometry: Geometry, rule: Rule) -> Sums:
    """Closed sums: rows are (channel, tap row, tap column), columns output channels."""
    x_high, g_high = _leading(x.operand, rule.x, "input"), _leading(g.operand, rule.g, "gradient")
    first = _matrix(exact.weight_gradient(exact.uncut(g_high), exact.uncut(x_high), geometry))
    total = _matrix(exact.weight_gradient(g, x, geometry))
    parts = {"first": first, "rest": total - (first << (rule.x.low + rule.g.low))}
    parts |= _for_repair(g.operand, x.operand, g_high, x_high, geometry, rule)
    return Sums.of(rule.x, rule.g, _length(g.operand, geometry), parts)


def _for_repair(
    g: Quantised, x: Quantised, g_high: Quantised, x_high: Quantised, geometry: Geometry, rule: Rule
) -> dict[str, torch.Tensor]:
    """Sums of the high part of x and of the low part of g."""
    g_sum, g_high_sum = (exact.sums(part, (3, 2, 0)).flatten() for part in (g, g_high))
    x_sum = _over_windows(exact.sums(x_high, (0,)), geometry)
    return {
        "x_high": x_sum.to("cpu", torch.int64),
        "g_rest": (g_sum - g_high_sum * 2.0**rule.g.low).to("cpu", torch.int64),
    }


def _length(g: Quantised, geometry: Geometry) -> int:
    return g.values.numel() // geometry.weight_shape[0]


def check_kind(operand: Quantised, split: Split, name: str) -> None:
    """Raises `UsageError` when width or sign is not what the split cuts."""
    if (operand.bits, operand.signed) != (split.bits, split.signed):
        kinds = [
            f"{bits} bits {'signed' if signed else 'unsigned'}"
            for bits, signed in ((operand.bits, operand.signed), (split.bits, split.signed))
        ]
        raise UsageError(f"the {name} has {kinds[0]}, the rule cuts {kinds[1]}: give the rule the operand's own")


def _leading(operand: Quantised, split: Split, name: str) -> Quantised:
    """The high part of an operand."""
    check_kind(operand, split, name)
    least, most = split.limits
    if operand.peak > most:
        raise UsageError(
            f"the {name} goes up to {operand.peak}; {split.bits} bits split {split.high} + {split.low} hold "
            f"{least} to {most}: quantise it with low={split.low}"
        )
    high = split.leading(operand.values.detach())
    low, top = torch.aminmax(high)
    return Quantised(high, split.high, split.signed, 0, known_peak=int(max(-low, top)))


def _matrix(result: exact.Exact) -> torch.Tensor:
    """int64 [c * taps, o] on the CPU, of dW."""
    return exact.integers(result).flatten(1).T.cpu()


def _over_windows(image: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """[c * taps], of [1, c, h, w]: for each tap, the sum of the pixels that it meets."""
    taps, padding, stride = geometry.weight_shape[2:], geometry.padding, geometry.stride
    return functional.unfold(image, taps, padding=padding, stride=stride).sum((0, 2))
