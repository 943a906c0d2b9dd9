"""Signs of a weight's gradient on a board: what the host adds to the commands of `sign_schedule`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.packets import Phase

from .errors import UsageError
from .golden import psg
from .golden.sign_gradient import check_kind, decide_closed, predictions_of
from .lowering import RAW_BITS, MatrixProduct, WeightGradient, Width
from .plan import store_signs, store_sums
from .quantised import Quantised
from .residency import Store, tensors_of
from .schedule import Schedule
from .sign_schedule import Finish, Lead, SignTask, finish, lead, order_outputs, prediction_bits, products_finished
from .steps import Step

Answers = Sequence[tuple[Step, np.ndarray]]  #: of READs, with their data words
_TERNARY = np.int8([0, 1, 0, -1])  #: of each `Sign`


class SignGradient(WeightGradient):
    """dW whose signs are wanted by a rule; `g` and `x` are taken split, as the rule cuts them.

    Raises `UsageError` for operands that do not fit the rule, and for a rule that the gateware has no part for.
    """

    def __init__(self, operation: WeightGradient, rule: psg.Rule) -> None:
        x, g = _split(operation.x, rule.x, "input"), _split(operation.g, rule.g, "gradient")
        super().__init__(g, x, operation.geometry)
        self.rule = rule
        self.unit = x.low + g.low  #: of a first pass's sums, as a power of two of the whole ones

    @property
    def task(self) -> SignTask:
        x, g = (Width(role, operand.bits, operand.signed, operand.low) for role, operand in self.operands)
        depth = self.g.values.numel() // self.geometry.weight_shape[0]
        bits = prediction_bits(depth, self.rule.x.high - x.signed, self.rule.g.high - g.signed)
        return SignTask(Phase.WEIGHT_GRADIENT, self.geometry, x, g, bits, self.fresh)

    def decide(
        self,
        store: Store,
        state: psg.State | None,
        execute: Callable[["SignGradient", Schedule], Answers],
    ) -> psg.Decision:
        """The decision, by the answers to schedules that `execute` executes with the operands of an operation."""
        led = lead(store.config, self.task)
        first, others = self._sums(led, execute(self, led.schedule))
        sums = predictions_of(self.g, self.x, *map(torch.from_numpy, (first, others)), self.geometry, self.rule)
        decision = decide_closed(sums, self.geometry, self.rule, self.exponent, state)
        if led.whole:
            return decision
        rest = self.finish(store.config, decision.resolved.numpy(), first << self.unit)
        rest.note_sent_again(store)
        finished = rest.in_place(rest.operation.signs(rest.plan, execute(rest.operation, rest.plan.schedule)))
        return replace(decision, signs=torch.where(decision.resolved, decision.signs, torch.from_numpy(finished)))

    def finish(self, config: ArrayConfig, resolved: np.ndarray, first: np.ndarray) -> "Rest":
        """What finishes the sums that are not resolved, of bool and int64 [o, c, kh, kw]."""
        order = order_outputs(config, self.task, self._by_product(config, ~resolved))
        operation = self
        if order is None:
            order = np.arange(len(resolved))
        else:
            g = replace(self.g, values=self.g.values[:, torch.from_numpy(order)], known_content=None)
            operation = SignGradient(WeightGradient(g, self.x, self.geometry), self.rule)
        parts = (operation._by_product(config, part[order]) for part in (~resolved, first))
        return Rest(operation, order, finish(config, operation.task, *parts))

    def _by_product(self, config: ArrayConfig, part: np.ndarray) -> list[np.ndarray]:
        """Of an array [o, c, kh, kw] what belongs to the sums of each of `products_finished`, [rows, columns]."""
        products = products_finished(config, self.task)
        return [made.placement.take(part).reshape(made.rows, made.columns) for made in products]

    def _sums(self, led: Lead, answers: Answers) -> tuple[np.ndarray, np.ndarray]:
        """Sums of the first pass, in its unit, and of the rest, int64 [o, c, kh, kw]; 0 for what is not there."""
        products, bits = led.schedule.products, led.schedule.task.sum_bits
        results = [[np.zeros((made.rows, made.columns), dtype=np.int64) for made in products] for _ in range(2)]
        for rest, wanted in enumerate((bits, RAW_BITS)):
            of_part = [(*divmod(step.product, len(products)), step, words) for step, words in answers]
            some = [(step.fetch, words, results[part][index]) for part, index, step, words in of_part if part == rest]
            assert all(fetch.bits == wanted for fetch, _, _ in some)
            store_sums(some)
        first, others = self.empty_result(), self.empty_result()
        for made, high, low in zip(products, *results, strict=True):
            made.placement.add(high >> self.unit if bits == RAW_BITS else high, first)
            made.placement.add(low, others)
        return first, others

    def signs(self, rest: Finish, answers: Answers) -> np.ndarray:
        """int8 [o, c, kh, kw]: those that the answers say, else 0."""
        config, products = rest.schedule.config, rest.schedule.products
        codes = [np.zeros((config.rows, len(part.tiles) * config.columns), dtype=np.int64) for part in rest.rectangles]
        for step, words in answers:
            store_signs(step.fetch, words, codes[step.product])
        finished = [np.zeros((made.rows, made.columns), dtype=np.int8) for made in products]
        for part, found in zip(rest.rectangles, codes, strict=True):
            used, rows, columns = part.elements(config)
            finished[part.product][rows[used], columns[used]] = _TERNARY[found[used]]
        signs = np.zeros(self.geometry.weight_shape, dtype=np.int8)
        for made, result in zip(products, finished, strict=True):
            made.placement.add(result, signs)
        return signs

    # what the array is fed, for a model that counts
    def ones_led(self, led: Lead) -> int:
        """One bits of B in all steps of the first walk."""
        masks, total = (-(1 << self.g.low), (1 << self.g.low) - 1, -1), 0
        for made, planned in zip(led.schedule.products, led.schedule.plans, strict=True):
            passes = (planned.leading, *planned.rest)[: 3 if led.whole else 1]
            for digits, mask in zip(passes, masks, strict=False):
                total += planned.total_row_tiles * digits.slices * int(self._ones(made, mask).sum())
        return total

    def ones_finished(self, rest: Finish) -> int:
        """One bits of B in all steps of packed MATMULs: each column of each tile at its output."""
        masks, made = ((1 << self.g.low) - 1, -1), rest.schedule
        ones = [[self._ones(product, mask) for mask in masks] for product in made.products]
        total = 0
        for part in rest.rectangles:
            columns = part.elements(made.config)[2][0]
            there = columns[columns < made.products[part.product].columns]
            for digits, own in zip(made.plans[part.product].rest, ones[part.product], strict=True):
                total += digits.slices * int(own[there].sum())
        return total

    def _ones(self, made: MatrixProduct, mask: int) -> np.ndarray:
        """int64 [columns]: one bits among those of `mask` that a walk over all of K is fed for each output."""
        codes = self.g.codes.astype(np.int64) & mask & (1 << self.g.bits) - 1
        total = np.zeros(made.columns, dtype=np.int64)
        for segment in made.segments:
            cut, gather = segment.b, segment.b_gather
            images = slice(cut.n[0] + gather.first_image, cut.n[0] + gather.first_image + gather.images)
            part = np.bitwise_count(codes[images, slice(*cut.c), slice(*cut.rows), slice(*cut.cols)]).astype(np.int64)
            total += np.einsum("nchw,h,w->c", part, gather.down.uses(cut.shape[1]), gather.right.uses(cut.shape[2]))
        return total


@dataclass(frozen=True)
class Rest:
    """How the sums that are not resolved are finished.

    operation  whose operands: the one that led, or with outputs, so channels of g, in another order
    order      int64 [outputs]: output i of `operation` is output order[i] of the one that led
    plan       the schedule
    """

    operation: SignGradient
    order: np.ndarray
    plan: Finish

    def note_sent_again(self, store: Store) -> None:
        """That g comes in another order than before."""
        if (self.order != np.arange(len(self.order))).any():
            for tensor in tensors_of(self.plan.schedule, self.operation):
                if tensor.cut.role == "g":
                    store.note_sent_again(tensor)

    def in_place(self, signs: np.ndarray) -> np.ndarray:
        """Those of `operation`, in the order of outputs of the one that led."""
        return signs[np.argsort(self.order)]


def _split(operand: Quantised, split: psg.Split, name: str) -> Quantised:
    """The operand as the device stores it."""
    check_kind(operand, split, name)
    if split.predictor != psg.Predictor.ROUND:
        raise UsageError(f"the gateware splits by rounding, not by {split.predictor}: use the device model for that")
    made = replace(operand, low=split.low)
    made.check()
    return made
