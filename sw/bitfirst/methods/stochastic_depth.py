"""Stochastic depth: blocks are skipped at random."""

from typing import Any

import torch
from torch import nn

from ..blocks import Residual, for_some, separate_blocks
from ..errors import UsageError
from .method import Method
from .random import Random

PAPERS_LAST = 0.5


class StochasticDepth(Method):
    """Stochastic depth (Huang et al. 2016), what SLU is compared to: block l of L is computed with probability
    1 - l / L * (1 - `last`), for a whole batch; in evaluation always, its residual times that probability.

    last  of the last block; 0.5 in the paper. `for_skip` gives the one that saves a wanted share
    seed  of the choices
    skip  in place of `last`: the share of all blocks that is skipped on average, as E2-Train tunes it to SLU's; the
          network says of how many, and is refused where that is too much

    `counts` are the batches seen and executed by each block, in training.
    """

    roles = ("blocks",)

    def __init__(self, last: float | None = None, seed: int = 0, skip: float | None = None) -> None:
        if last is not None and skip is not None:
            raise UsageError(f"last = {last} and skip = {skip}: choose one, as each makes the other")
        if last is not None and not 0 <= last <= 1:
            raise UsageError(f"last = {last}: choose a probability, 0 to 1")
        if skip is not None and not 0 <= skip <= 1:
            raise UsageError(f"skip = {skip}: choose a share of the blocks, 0 to 1")
        self.last = PAPERS_LAST if last is None and skip is None else last
        self.skip, self.random = skip, Random("depth", seed)
        self.counts: list[dict[str, int]] = []
        self._depth: Depth | None = None

    @classmethod
    def for_skip(cls, skip: float, blocks: int, seed: int = 0) -> "StochasticDepth":
        """By which `blocks` of them skip the share `skip` on average. Raises `UsageError` where that is too much."""
        return cls(last_for(skip, blocks), seed)

    def prepare(self, net: nn.Module) -> None:
        blocks = separate_blocks(net)
        if not blocks:
            raise UsageError(
                f"{type(net).__name__} has no block with a shortcut that could be skipped: take a residual network, or "
                "put shortcuts around parts of it with bitfirst.blocks.Skip"
            )
        if self.skip is not None:
            self.last = last_for(self.skip, len(blocks))
        keep = [1 - (number + 1) / len(blocks) * (1 - self.last) for number in range(len(blocks))]
        self.counts = [dict.fromkeys(("seen", "executed"), 0) for _ in blocks]
        self._depth = Depth(keep, self.random, self.counts)
        for number, block in enumerate(blocks):
            block.dispatch = self._depth, number

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.random.state, "counts": self.counts}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.random.state = state["random"]
        for counts, kept in zip(self.counts, state["counts"], strict=True):
            counts.update(kept)

    def summary(self) -> dict[str, Any]:
        return {"keep": self._depth.keep, "counts": self.counts}


def last_for(skip: float, blocks: int) -> float:
    """The last block's probability, where `blocks` of them are to skip the share `skip` on average."""
    most = (blocks + 1) / (2 * blocks)
    if not 0 <= skip <= most:
        raise UsageError(f"skip = {skip}: {blocks} blocks skip a share of 0 to {most:.3g} on average, choose one")
    return 1 - skip / most


class Depth:
    """Computes blocks with their probabilities `keep`."""

    def __init__(self, keep: list[float], random: Random, counts: list[dict[str, int]]) -> None:
        self.keep, self.random, self.counts = keep, random, counts

    def block(self, number: int, block: Residual, x: torch.Tensor) -> torch.Tensor:
        keep, counts = self.keep[number], self.counts[number]
        if not block.training:
            return block.join(keep * block.residual(x), block.shortcut(x))
        chosen = self.random.uniform(1).item() < keep
        counts["seen"] += 1
        counts["executed"] += chosen
        return for_some(block, x, block.shortcut(x), torch.full((len(x),), chosen, device=x.device), 1)
