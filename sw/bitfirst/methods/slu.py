"""Selective layer update: blocks are skipped, sample by sample."""

import torch
from torch import nn

from ..blocks import separate_blocks
from ..errors import UsageError
from .block_gates import GatedMethod, SampleLoss, cross_entropies
from .gates import FULL, PROBE, SCORE, Gates, Rules

GRADIENTS = (SCORE, PROBE, FULL)
NORMS = EXECUTED, ALL = "executed", "all"
EVALUATIONS = THRESHOLD, STOCHASTIC = "threshold", "stochastic"


class SLU(GatedMethod):
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
            "threshold": blocks with a probability of 1/2 or more are computed, as in SkipNet; "stochastic", as
            released, by random numbers that are not the training's
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
        super().__init__(loss, seed)
        self.skip, self.alpha = skip, alpha
        self.rules = Rules(gate_gradient, q, bn, min_bn_samples, evaluation == THRESHOLD)

    def prepare(self, net: nn.Module) -> None:
        blocks = separate_blocks(net)
        if len(blocks) < 2:
            raise UsageError(
                f"{type(net).__name__} has {len(blocks)} blocks with a shortcut, and the first is never skipped: take "
                "a residual network, or put shortcuts around parts of it with bitfirst.blocks.Skip"
            )
        self.gates = next((one for one in net.modules() if isinstance(one, Gates)), None)
        if self.gates is None:
            self.gates = Gates(blocks[1:], self.rules, self.seed)
            self.gates.attach(net, blocks[1])
        self.gates.rules = self.rules
        for number, block in enumerate(blocks[1:]):
            block.dispatch = self.gates, number
        self.counts = [dict.fromkeys(("seen", "executed", "probed"), 0) for _ in blocks[1:]]

    def penalty(self, net: nn.Module) -> torch.Tensor:
        """Its value is that of the penalty of MACs; its gradient by "score" that of both losses for the gates."""
        choices, costs = self._passed(), self._costs()
        for choice, counts in zip(choices, self.counts, strict=True):
            counts["seen"] += len(choice.chosen)
            counts["executed"] += int(choice.chosen.sum())
            counts["probed"] += int(choice.probed.sum())
        shares = [choice.chosen.to(choice.logits.dtype) * cost for choice, cost in zip(choices, costs, strict=True)]
        alpha = self._signed_alpha(sum(shares).mean())
        if self.rules.gate_gradient != SCORE:
            through = [choice.straight_through * cost for choice, cost in zip(choices, costs, strict=True)]
            return alpha * sum(through).mean()
        return self._score(alpha * sum(shares), sum(choice.log_probability for choice in choices))

    def _signed_alpha(self, share: torch.Tensor) -> float:
        """Of the penalty, where this share of the MACs was computed."""
        return self.alpha if share > 1 - self.skip else -self.alpha

    def _costs(self) -> list[float]:
        """Of each gated block, as a share of all of them."""
        macs = self._macs()
        return [own / sum(macs) for own in macs]
