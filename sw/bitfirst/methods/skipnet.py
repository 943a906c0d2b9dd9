"""SkipNet: blocks are skipped where their gate says less than 1/2, in training too."""

from dataclasses import replace

import torch

from ..errors import UsageError
from .gates import FULL, PROBE
from .slu import EXECUTED, SLU


class SkipNet(SLU):
    """SkipNet (Wang et al., ECCV 2018; its supervised stage), what `SLU` is compared to: the same gates, but nothing is
    left to chance. A block is computed where its gate's probability is 1/2 or more, in training and evaluation; the
    gradient goes straight through. Whatever is computed is paid for, without a target.

    alpha   of the penalty: alpha times the share of the gated blocks' MACs that is computed. 0.1 is not from the paper
    gate_gradient
            "full", as published: what is skipped is computed too, forward alone, and counted; or "probe", a random
            share `q` of it. "score" needs choices by chance, so it is not for this method
    bn, min_bn_samples, seed
            of `SLU`
    """

    def __init__(
        self,
        alpha: float = 0.1,
        gate_gradient: str = FULL,
        q: float = 0.25,
        bn: str = EXECUTED,
        min_bn_samples: int = 2,
        seed: int = 0,
    ) -> None:
        if gate_gradient not in (FULL, PROBE):
            raise UsageError(f"gate_gradient {gate_gradient!r}: SkipNet leaves nothing to chance; choose full or probe")
        super().__init__(0.0, alpha, gate_gradient, q, bn, min_bn_samples, seed=seed)
        self.rules = replace(self.rules, chance=False)

    def _signed_alpha(self, share: torch.Tensor) -> float:
        return self.alpha
