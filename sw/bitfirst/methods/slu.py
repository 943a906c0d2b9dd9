"""Selective layer update: blocks are skipped, sample by sample."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import residual_blocks
from ..errors import UsageError
from .gates import FULL, NAME, PROBE, SCORE, Gates, Rules
from .method import Method

GRADIENTS = (SCORE, PROBE, FULL)
NORMS = EXECUTED, ALL = "executed", "all"
EVALUATIONS = THRESHOLD, STOCHASTIC = "threshold", "stochastic"


SampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  #: of scores [n, classes] and labels: [n]


def cross_entropies(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(scores, y, reduction="none")


def score(
    loss: SampleLoss,
    scores: torch.Tensor,
    labels: torch.Tensor | None,
    costs: torch.Tensor,
    log_probability: torch.Tensor,
) -> torch.Tensor:
    """The mean of `costs` (of each sample), with the gradient of the expectation of `costs` and losses.

    By the score function: what a sample's choices were worth, less the mean of all other samples, times the gradient
    of the choices' `log_probability` (of each sample). That is the gradient where a sample's loss depends on its own
    choices alone; batch norm makes it depend on the others' too, and then it is biased.
    """
    if labels is None or len(labels) != len(costs):
        raise UsageError("the gates' gradient by score needs the labels: take the batches from method.loader(data)")
    with torch.no_grad():
        losses = loss(scores, labels) + costs
        others = (losses.sum() - losses) / max(len(losses) - 1, 1)
    expected = ((losses - others) * log_probability).mean()
    return costs.mean() + expected - expected.detach()


class SLU(Method):
    """Selective layer update (E2-Train): gates choose for each sample which residual blocks are computed.

    A sample that skips a block costs no product of it, neither forward nor backward: the others alone are given to the
    device. The first block is never skipped; shortcuts are computed for all.

    skip    share of the gated blocks' MACs that should be saved
    alpha   of the penalty: alpha times the share computed, negative where that is below 1 - `skip`
    gate_gradient
            "score": score function, with the mean of the batch's other samples as the baseline; needs no result of
            what is skipped. "probe": straight-through; of the skipped samples a random share `q` is computed forward,
            and counts 1 / q. "full": straight-through, all are computed
    bn      "executed": batch norm takes the statistics of the samples that are computed, its momentum in proportion to
            their share, and the running ones where they are fewer than `min_bn_samples`; what is probed takes the
            running ones. "all": as released, all samples are computed forward and backward and multiplied by the mask;
            for "full" alone
    evaluation
            "threshold": blocks with a probability of 1/2 or more are computed, as in SkipNet; "stochastic", as released
    loss    of each sample, by which "score" learns: of scores [n, classes] and labels [n]
    seed    of the gates' choices

    The gates, a submodule of the second block, run on the host. The alpha of 0.1 is not from the paper.
    """

    roles = ("blocks",)

    def __init__(
        self,
        skip: float = 0.4,
        alpha: float = 0.1,
        gate_gradient: str = SCORE,
        q: float = 0.25,
        bn: str = EXECUTED,
        min_bn_samples: int = 2,
        evaluation: str = THRESHOLD,
        loss: SampleLoss = cross_entropies,
        seed: int = 0,
    ) -> None:
        for name, value, known in (
            ("gate_gradient", gate_gradient, GRADIENTS),
            ("bn", bn, NORMS),
            ("evaluation", evaluation, EVALUATIONS),
        ):
            if value not in known:
                raise UsageError(f"{name} {value!r} is unknown: choose from {', '.join(known)}")
        if not (0 <= skip < 1 and alpha >= 0 and 0 < q <= 1 and min_bn_samples >= 2):
            raise UsageError(
                f"skip = {skip}, alpha = {alpha}, q = {q}, min_bn_samples = {min_bn_samples}: choose skip 0 or more, "
                "below 1; alpha 0 or more; q above 0, up to 1; at least 2 samples"
            )
        if bn == ALL and gate_gradient != FULL:
            raise UsageError("bn='all' needs what is skipped: it goes with gate_gradient='full' alone")
        self.skip, self.alpha, self.loss, self.seed = skip, alpha, loss, seed
        self.rules = Rules(gate_gradient, q, bn, min_bn_samples, evaluation == THRESHOLD)
        self.gates: Gates | None = None
        self.counts: list[dict[str, int]] = []
        self._labels: torch.Tensor | None = None

    def prepare(self, net: nn.Module) -> None:
        blocks = list(residual_blocks(net).values())
        if len(blocks) < 2:
            raise UsageError(
                f"{type(net).__name__} has {len(blocks)} blocks with a shortcut, and the first is never skipped: take "
                "a residual network, or put shortcuts around parts of it with bitfirst.blocks.Skip"
            )
        self.gates = next((one for one in net.modules() if isinstance(one, Gates)), None)
        if self.gates is None:
            self.gates = Gates(blocks[1:], self.rules, self.seed)
            blocks[1].add_module(NAME, self.gates)  # not to `net`, which may be a Sequential
            net.register_forward_pre_hook(self.gates.begin)
            net.register_forward_hook(self.gates.end)
        self.gates.rules = self.rules
        for number, block in enumerate(blocks[1:]):
            block.dispatch = self.gates, number
        self.counts = [dict.fromkeys(("seen", "executed", "probed"), 0) for _ in blocks[1:]]

    def loader(self, data: Iterable[Any]) -> Iterator[Any]:
        for batch in data:
            self._labels = batch[1]
            yield batch

    def penalty(self, net: nn.Module) -> torch.Tensor:
        """Its value is that of the penalty of MACs; its gradient by "score" that of both losses for the gates."""
        choices, costs = self.gates.choices, self._costs()
        for choice, counts in zip(choices, self.counts, strict=True):
            counts["seen"] += len(choice.chosen)
            counts["executed"] += int(choice.chosen.sum())
            counts["probed"] += int(choice.probed.sum())
        shares = [choice.chosen.to(choice.logits.dtype) * cost for choice, cost in zip(choices, costs, strict=True)]
        alpha = self.alpha if sum(shares).mean() > 1 - self.skip else -self.alpha
        if self.rules.gate_gradient != SCORE:
            through = [choice.straight_through * cost for choice, cost in zip(choices, costs, strict=True)]
            return alpha * sum(through).mean()
        return self._score(alpha * sum(shares), sum(choice.log_probability for choice in choices))

    def _costs(self) -> list[float]:
        """Of each gated block, as a share of all of them."""
        costs = [self.gates.costs[number] for number in range(len(self.counts))]
        return [cost / sum(costs) for cost in costs]

    def _score(self, costs: torch.Tensor, log_probability: torch.Tensor) -> torch.Tensor:
        """The mean of `costs` (of each sample), with the gradient of their mean and of the loss's expectation."""
        return score(self.loss, self.gates.scores, self._labels, costs, log_probability)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.gates.random.state, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gates.random.state = state["random"]
        self.counts = [dict(counts) for counts in state["counts"]]

    def summary(self) -> dict[str, Any]:
        """`counts` of samples in training, by gated block; the blocks' MACs; those of the gates, on the host."""
        macs = [self.gates.costs.get(number) for number in range(len(self.counts))]
        return {"counts": self.counts, "macs": macs, "gate_macs": self.gates.host_macs}
