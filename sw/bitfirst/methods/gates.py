"""Gates that choose, for each sample and each residual block, whether the block is computed."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import Residual, channels_of, for_some, macs_of, norms_for
from .random import Random

WIDTH = 10  #: of what the gates say to each other
NAME = "gates"  #: of the submodule
SCORE, PROBE, FULL = "score", "probe", "full"


@dataclass(frozen=True)
class Rules:
    """How gates choose and learn; see `slu.SLU`."""

    gate_gradient: str
    q: float
    bn: str
    min_bn_samples: int
    threshold: bool


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


class HostLinear(nn.Linear):
    """A linear layer that `convert` leaves on the host."""


class Gates(nn.Module):
    """The gates of a network's blocks: mean over the pixels, a linear layer of each block, an LSTM cell that runs
    along the depth, a linear layer, sigmoid. They run on the host, in float32.

    choices  of the latest forward pass, by block
    scores   what the network said then, [n, classes], no gradient
    costs    MACs of a sample in each block, known after the first pass
    """

    def __init__(self, blocks: list[Residual], rules: Rules, seed: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(HostLinear(channels_of(block), WIDTH) for block in blocks)
        self.lstm = nn.LSTMCell(WIDTH, WIDTH)
        self.output = HostLinear(WIDTH, 1)
        self.rules, self.random = rules, Random(seed)
        self.choices: list[Choice] = []
        self.scores: torch.Tensor | None = None
        self.costs: dict[int, int] = {}
        self._state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.register_load_state_dict_pre_hook(keep_missing)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what belongs to one pass."""
        return self.__dict__ | {"choices": [], "scores": None, "_state": None}

    @property
    def host_macs(self) -> int:
        """Of all gates, for one sample."""
        weights = sum(layer.weight.numel() for layer in self.inputs)
        lstm = self.lstm.weight_ih.numel() + self.lstm.weight_hh.numel()
        return weights + len(self.inputs) * (lstm + self.output.weight.numel())

    # hooks of the network
    def begin(self, *_: object) -> None:
        self.choices, self._state = [], None

    def end(self, net: nn.Module, inputs: object, scores: torch.Tensor) -> None:
        self.scores = scores.detach()

    # a block
    def block(self, number: int, block: Residual, x: torch.Tensor) -> torch.Tensor:
        """The block's output: of the samples that are chosen, and of the shortcut for all others."""
        if number not in self.costs:
            self.costs[number] = macs_of(block, x.shape[1:])
        logits = self._logits(number, x)
        choice = Choice(logits, self._choose(torch.sigmoid(logits.detach())), torch.zeros(len(x), dtype=torch.bool))
        self.choices.append(choice)
        shortcut = block.shortcut(x)
        if self.training and self.rules.bn == "all":
            return self._of_all(block, x, shortcut, choice)
        least = self.rules.min_bn_samples
        y = for_some(block, x, shortcut, choice.chosen, least)
        if not self.training or self.rules.gate_gradient == SCORE:
            return y
        return y + self._for_gate(block, x, y, shortcut, choice)

    def _logits(self, number: int, x: torch.Tensor) -> torch.Tensor:
        pooled = x.mean((2, 3)) if x.ndim == 4 else x
        self._state = self.lstm(self.inputs[number](pooled), self._state)
        return self.output(self._state[0]).squeeze(1)

    def _choose(self, probability: torch.Tensor) -> torch.Tensor:
        if not self.training and self.rules.threshold:
            return probability >= 0.5
        return self.random.uniform(len(probability)) < probability

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
        choice.probed = ~choice.chosen & self._probes(len(x), q)
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


def keep_missing(gates: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """A checkpoint without gates, such as a float one, leaves them as they are."""
    if not any(name.startswith(prefix) for name in state_dict):
        state_dict.update({prefix + name: value for name, value in gates.state_dict().items()})
