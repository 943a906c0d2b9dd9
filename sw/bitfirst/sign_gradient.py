"""Signs of a weight's gradient on a board: what the host adds to the commands of `sign_schedule`."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from bitfirst_hdl.contract.numeric import MAX_THRESHOLD
from bitfirst_hdl.contract.packets import SIGN_BITS, Phase, Sign

from .errors import UsageError
from .golden import psg
from .golden.sign_gradient import check_kind, products_of
from .lowering import WeightGradient, Width
from .plan import store_signs
from .quantised import Quantised
from .residency import Store
from .schedule import Schedule
from .sign_schedule import SignTask, sign_schedules, with_threshold
from .steps import Step

Answers = Sequence[tuple[Step, np.ndarray]]  #: of READs, with their data words
_TERNARY = np.int8([0, 1, 0, -1])  #: of each `Sign`


class SignGradient(WeightGradient):
    """dW whose signs are wanted by a rule; `g` and `x` are taken split, as the rule cuts them.

    Raises `UsageError` for operands that do not fit the rule, and for a rule that the gateware has no part for.
    """

    def __init__(self, operation: WeightGradient, rule: psg.Rule) -> None:
        if rule.repair:
            raise UsageError("the gateware does not repair predictions; use a rule without repair, or the device model")
        x, g = _split(operation.x, rule.x, "input"), _split(operation.g, rule.g, "gradient")
        super().__init__(g, x, operation.geometry)
        self.rule = rule
        self.unit = x.low + g.low  #: of a prediction, as a power of two of the sums'

    @property
    def task(self) -> SignTask:
        x, g = (Width(role, operand.bits, operand.signed, operand.low) for role, operand in self.operands)
        return SignTask(Phase.WEIGHT_GRADIENT, self.geometry, x, g, SIGN_BITS, self.fresh)

    def decide(self, store: Store, state: psg.State | None, execute: Callable[[Schedule], Answers]) -> psg.Decision:
        """The decision, by the answers to schedules that `execute` executes."""
        threshold, exponent = self.rule.threshold, self.exponent + self.unit
        planned = sign_schedules(store.config, self.task, threshold.needs_maximum(exponent, state))
        largest = 0
        if planned.seek is not None:
            largest = max((int(words[-1]) for _, words in execute(planned.seek)), default=0) >> self.unit
        tau = threshold.integer(torch.tensor([largest]), exponent, state)
        decide = with_threshold(planned.decide, min(tau << self.unit, MAX_THRESHOLD))
        found = _Signs(self, decide, execute(decide), tau)
        return psg.Decision(
            found.signs,
            found.resolved,
            tau,
            self.unit,
            psg.State(found.largest >> self.unit, exponent),
            *self._work(found.resolved),
        )

    def _work(self, resolved: torch.Tensor) -> tuple[int, int]:
        """Bit products that had to be done, and that need not have been."""
        rule, (outputs, *_) = self.rule, self.geometry.weight_shape
        products = products_of(self.geometry).reshape(self.geometry.weight_shape[1:])
        whole, first = rule.x.bits * rule.g.bits, rule.x.high * rule.g.high
        saved = (whole - first) * int((resolved * products).sum())
        return whole * outputs * int(products.sum()) - saved, saved


def _split(operand: Quantised, split: psg.Split, name: str) -> Quantised:
    """The operand as the device stores it."""
    check_kind(operand, split, name)
    if split.predictor != psg.Predictor.ROUND:
        raise UsageError(f"the gateware splits by rounding, not by {split.predictor}: use the device model for that")
    made = replace(operand, low=split.low)
    made.check()
    return made


class _Signs:
    """What the answers to a schedule say: `signs` and `resolved` [o, c, kh, kw], the `largest` magnitude compared.

    A weight that no pixel meets has a prediction and a gradient of 0.
    """

    def __init__(self, operation: SignGradient, planned: Schedule, answers: Answers, tau: int) -> None:
        shapes = [(made.rows, made.columns) for made in planned.products]
        compared, final = ([np.zeros(shape, dtype=np.int64) for shape in shapes] for _ in range(2))
        self.largest = 0
        for step, words in answers:
            largest = store_signs(step.fetch, words, (compared if step.decides else final)[step.product])
            if step.decides:
                self.largest = max(self.largest, largest)
        signs, resolved = operation.empty_result(), operation.empty_result()
        met = operation.empty_result()
        for made, first, last in zip(planned.products, compared, final, strict=True):
            decided = first != Sign.UNRESOLVED
            made.placement.add(_TERNARY[np.where(decided, first, last)], signs)
            made.placement.add(decided, resolved)
            made.placement.add(np.ones_like(first), met)
        self.signs = torch.from_numpy(signs).to(torch.int8)
        self.resolved = torch.from_numpy(np.where(met, resolved, tau == 0)).to(torch.bool)
