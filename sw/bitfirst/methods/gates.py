"""Gates that choose, for each sample and each residual block, whether the block is computed."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from ..blocks import Residual, channels_of, for_some, norms_for
from .block_gates import BlockGates, HostLinear

WIDTH = 10  #: of what the gates say to each other
SCORE, PROBE, FULL = "score", "probe", "full"


@dataclass(frozen=True)
class Rules:
    """How gates choose and learn; see `slu.SLU`. chance: whether they choose by chance in training."""

    gate_gradient: str
    q: float
    bn: str
    min_bn_samples: int
    threshold: bool
    chance: bool = True


@dataclass
class Choice:
    """What one block did in the latest pass: logits float [n], computed and probed bool [n]."""

    logits: torch.Tensor
    chosen: torch.Tensor
    probed: torch.Tensor

    @property
    def straight_through(self) -> torch.Tensor:
        """0 or 1, with the gradient of the probability; float [n]."""
        probability = torch.sigmoid(self.logits)
        return self.chosen + probability - probability.detach()

    @property
    def log_probability(self) -> torch.Tensor:
        """Of having chosen so, float [n]."""
        return -functional.binary_cross_entropy_with_logits(
            self.logits, self.chosen.to(self.logits.dtype), reduction="none"
        )


class Gates(BlockGates):
    """The gates of blocks that may be skipped: a linear layer of each block, sigmoid behind the last one."""

    def __init__(self, blocks: list[Residual], rules: Rules, seed: int) -> None:
        super().__init__((HostLinear(channels_of(block), WIDTH) for block in blocks), WIDTH, 1, seed)
        self.rules = rules

    def block(self, number: int, block: Residual, x: torch.Tensor) -> torch.Tensor:
        """The block's output: of the samples that are chosen, and of the shortcut for all others."""
        logits = self.logits(number, block, x).squeeze(1)
        chosen = self._choose(torch.sigmoid(logits.detach()))
        choice = Choice(logits, chosen, torch.zeros_like(chosen))
        self.choices.append(choice)
        shortcut = block.shortcut(x)
        if self.training and self.rules.bn == "all":
            return self._of_all(block, x, shortcut, choice)
        least = self.rules.min_bn_samples
        y = for_some(block, x, shortcut, choice.chosen, least)
        if not self.training or self.rules.gate_gradient == SCORE:
            return y
        return y + self._for_gate(block, x, y, shortcut, choice)

    def _choose(self, probability: torch.Tensor) -> torch.Tensor:
        by_chance = self.rules.chance if self.training else not self.rules.threshold
        if not by_chance:
            return probability >= 0.5
        return self.random.uniform(len(probability), self.training, probability.device) < probability

    def _of_all(self, block: Residual, x: torch.Tensor, shortcut: torch.Tensor, choice: Choice) -> torch.Tensor:
        """As released: computed for all samples, and multiplied by the mask."""
        choice.probed = ~choice.chosen
        mask = _as_wide(choice.straight_through, shortcut)
        return mask * block.join(block.residual(x), shortcut) + (1 - mask) * shortcut

    def _for_gate(
        self, block: Residual, x: torch.Tensor, y: torch.Tensor, shortcut: torch.Tensor, choice: Choice
    ) -> torch.Tensor:
        """0, with a gradient for the gate: of the samples computed, and of those skipped that are probed."""
        q = 1.0 if self.rules.gate_gradient == FULL else self.rules.q
        choice.probed = ~choice.chosen & self._probes(len(x), q).to(x.device)
        probed = choice.probed.nonzero().squeeze(1)
        with torch.no_grad():
            difference = y - shortcut  # 0 where it was skipped
            if len(probed):
                with norms_for(block, 1.0, False):
                    tried = block.join(block.residual(x[probed]), shortcut[probed])
                difference[probed] = (tried - shortcut[probed]) / q
        probability = torch.sigmoid(choice.logits)
        return _as_wide(probability - probability.detach(), y) * difference

    def _probes(self, count: int, q: float) -> torch.Tensor:
        return self.random.uniform(count) < q


def _as_wide(numbers: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[n] as [n, 1, ...]."""
    return numbers.reshape(-1, *[1] * (like.ndim - 1))
