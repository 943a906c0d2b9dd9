"""Dynamic fractional quantization: gates choose the widths of each sample in each block; and FracTrain."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..bits import Bits
from ..blocks import Residual, channels_of, converted_layers, for_some, separate_blocks
from ..buckets import Bucket, Buckets
from ..errors import UsageError
from .block_gates import BlockGates, GatedMethod, HostLinear, SampleLoss, cross_entropies
from .method import Method
from .pfq import Indicator, Stages
from .precision import Pair, pairs_of
from .psg import PSG
from .sign_sgd import DEVICE

CIFAR, IMAGENET = "3-4-4-6-6/6-6-8-8-12", "3-4-6-8/6-8-12-16"  #: FracTrain's options, with weights of 4 and of 6 bits
HIDDEN, WIDTH = 32, 16  #: of the gates
FULL_BITS = 32  #: of what costs are compared to
PER = SAMPLE, BATCH = "sample", "batch"
BASELINE_MOMENTUM = 0.9  #: of the mean of batches' losses that one batch's is compared to


def cost_of(pair: Pair, weights: int) -> float:
    """Per cent of a product of 32 x 32 bits, mean of forward, dX and dW; 0 for a skipped block."""
    x, g = pair.forward, pair.backward
    return 100 * (x * weights + g * weights + x * g) / (3 * FULL_BITS**2)


@dataclass
class Choice:
    """Of one block in the latest pass: logits [n, options], of one choice for all [1, options]; option int64 [n]."""

    logits: torch.Tensor
    option: torch.Tensor

    @property
    def log_probability(self) -> torch.Tensor:
        """Of having chosen so, [n]; of one choice [1]."""
        option = self.option[: len(self.logits), None]
        return functional.log_softmax(self.logits, 1).gather(1, option).squeeze(1)


class PrecisionGates(BlockGates):
    """The gates of blocks whose samples have widths of their own: C -> 32, ReLU, 32 -> 16 of each block, one logit for
    each option.
    """

    per_batch = False  #: one choice for all samples of a pass

    def __init__(self, blocks: list[Residual], options: tuple[Pair, ...], weights: int, seed: int) -> None:
        inputs = (
            nn.Sequential(HostLinear(channels_of(block), HIDDEN), nn.ReLU(), HostLinear(HIDDEN, WIDTH))
            for block in blocks
        )
        super().__init__(inputs, WIDTH, len(options), seed)
        self.options, self.weights = options, weights

    def block(self, number: int, block: Residual, x: torch.Tensor) -> torch.Tensor:
        logits = self.logits(number, block, x)
        if self.per_batch:
            logits = logits.mean(0, keepdim=True)
        option = self._choose(functional.softmax(logits.detach(), 1)).expand(len(x))
        self.choices.append(Choice(logits, option))
        computed = torch.tensor([pair.forward > 0 for pair in self.options]).to(option.device)[option]
        with _in_buckets(block, self.buckets(option[computed])):
            return for_some(block, x, block.shortcut(x), computed, 2)

    def _choose(self, probability: torch.Tensor) -> torch.Tensor:
        """By chance in training; the likeliest in evaluation."""
        if not self.training:
            return probability.argmax(1)
        drawn = self.random.uniform(len(probability), device=probability.device)[:, None]
        return (drawn >= probability.cumsum(1)).sum(1).clamp(max=len(self.options) - 1)

    def buckets(self, option: torch.Tensor) -> list[Bucket]:
        """Of samples that are computed; options of equal widths are one bucket."""
        found: dict[Pair, list[int]] = {}
        for place, number in enumerate(option.tolist()):
            found.setdefault(self.options[number], []).append(place)
        return [
            Bucket(torch.tensor(places), Bits(pair.forward, self.weights, pair.backward))
            for pair, places in sorted(found.items(), key=lambda item: (item[0].forward, item[0].backward))
        ]


@contextmanager
def _in_buckets(block: Residual, buckets: list[Bucket]) -> Iterator[None]:
    layers = converted_layers(block)
    for layer in layers:
        layer.buckets = Buckets(buckets)
    try:
        yield
    finally:
        for layer in layers:
            layer.buckets = None


class DFQ(GatedMethod):
    """Dynamic fractional quantization (FracTrain): gates choose for each sample and each residual block how many bits
    activations and output gradients have there.

    Samples of equal widths are given to the device together, each bucket once, at its own widths; batch norm sees the
    batch as a whole. Shortcuts, and layers outside blocks, have the widths of `convert`.

    options  bits by option, activations/gradients; `CIFAR` and `IMAGENET` are FracTrain's. 0/0 skips the block
    weights  bits of the blocks' weights
    target   cost that is aimed at, in per cent of 32-bit products (`cost_of`), by the blocks' MACs
    beta     of the penalty: beta times the sum of the blocks' costs, negative where their mean is below the target
    cap      no width of an option is above it; None: as they are
    per      "sample"; "batch": one choice in each block for all samples of a batch, by the mean of their logits
    loss     of each sample: of scores [n, classes] and labels [n]
    seed     of the gates' choices

    In training the gates choose by chance and learn by the score function, with the mean of the batch's other samples
    as the baseline, which needs no result of what is not chosen; the released code computes all options. With
    per="batch" it is the batch's mean loss, and the baseline is a moving mean of those before; what batch norm shares
    among the samples does no harm then. In evaluation they take the likeliest.
    """

    roles = ("precision", "blocks")

    def __init__(
        self,
        options: str = CIFAR,
        weights: int = 4,
        target: float = 3.0,
        beta: float = 1e-3,
        cap: int | None = None,
        per: str = SAMPLE,
        loss: SampleLoss = cross_entropies,
        seed: int = 0,
    ) -> None:
        if per not in PER:
            raise UsageError(f"per {per!r} is unknown: choose from {', '.join(PER)}")
        if not (target > 0 and beta >= 0 and (cap is None or cap >= 2)):
            raise UsageError(
                f"target = {target}, beta = {beta}, cap = {cap}: choose above 0, 0 or more, 2 bits or more"
            )
        most = FULL_BITS if cap is None else cap
        self.options = tuple(Pair(min(one.forward, most), min(one.backward, most)) for one in pairs_of(options))
        for pair in self.options:
            if (pair.forward == 0) != (pair.backward == 0):
                raise UsageError(f"option {pair.forward}/{pair.backward}: 0 on both sides skips the block")
            _ = Bits(pair.forward or 1, weights, pair.backward or 2)
        super().__init__(loss, seed)
        self.weights, self.target, self.beta, self.per = weights, target, beta, per
        self.passes = self.dispatched = 0
        self._usual: float | None = None  # mean of the batches' losses before

    def refuses(self, other: Method) -> str | None:
        if isinstance(other, PSG):
            return "a prediction is made of the first bits of one width, and here samples differ; take SignSGD"
        if other.signs is not None and other.signs.update == DEVICE:
            return "weights that the device makes have one width; let the host move them (update='host')"
        return None

    def prepare(self, net: nn.Module) -> None:
        blocks = separate_blocks(net)
        if not blocks:
            raise UsageError(
                f"{type(net).__name__} has no block with a shortcut, for which widths could be chosen: take a residual "
                "network, or put shortcuts around parts of it with bitfirst.blocks.Skip"
            )
        self.gates = next((one for one in net.modules() if isinstance(one, PrecisionGates)), None)
        if self.gates is None:
            self.gates = PrecisionGates(blocks, self.options, self.weights, self.seed)
            self.gates.attach(net, blocks[0])
        if len(self.gates.options) != len(self.options):
            raise UsageError(f"the network's gates have {len(self.gates.options)} options, not {len(self.options)}")
        self.gates.options, self.gates.weights = self.options, self.weights
        self.gates.per_batch = self.per == BATCH
        for number, block in enumerate(blocks):
            block.dispatch = self.gates, number
            for layer in converted_layers(block):
                layer.bits = replace(layer.bits, weight=self.weights)
        self.counts = [[0] * len(self.options) for _ in blocks]

    def penalty(self, net: nn.Module) -> torch.Tensor:
        """Its value is that of the penalty of the cost; its gradient that of both losses for the gates."""
        choices = self._passed()
        for choice, counts in zip(choices, self.counts, strict=True):
            counts[:] = [count + int((choice.option == number).sum()) for number, count in enumerate(counts)]
            self.passes += 1
            self.dispatched += len(self.gates.buckets(choice.option[self._costs()[choice.option] > 0]))
        costs = self._sums_of_costs()
        beta = self.beta if self.batch_costs().mean() > self.target else -self.beta
        log_probability = sum(choice.log_probability for choice in choices)
        if self.per == BATCH:
            return self._score_of_batch(beta * costs, log_probability)
        return self._score(beta * costs, log_probability)

    def _score_of_batch(self, costs: torch.Tensor, log_probability: torch.Tensor) -> torch.Tensor:
        """As `_score`, of one choice for all: what the batch's mean loss is above the usual one."""
        loss = self._losses(costs).mean().item()
        usual = loss if self._usual is None else self._usual
        self._usual = BASELINE_MOMENTUM * usual + (1 - BASELINE_MOMENTUM) * loss
        expected = (loss - usual) * log_probability.sum()
        return costs.mean() + expected - expected.detach()

    def _costs(self) -> torch.Tensor:
        """Of each option, in per cent."""
        costs = [cost_of(pair, self.weights) if pair.forward else 0.0 for pair in self.options]
        return torch.tensor(costs).to(self.gates.output.weight.device)

    def _sums_of_costs(self) -> torch.Tensor:
        """Of each sample in the latest pass, in per cent: over the blocks, as released."""
        return sum(self._costs()[choice.option] for choice in self.gates.choices)

    def batch_costs(self) -> torch.Tensor:
        """Of each sample in the latest pass, in per cent: the mean over the blocks, by their MACs."""
        macs = self._macs()
        costs = [self._costs()[choice.option] * own for choice, own in zip(self.gates.choices, macs, strict=True)]
        return sum(costs) / sum(macs)

    def state_dict(self) -> dict[str, Any]:
        counted = {"passes": self.passes, "dispatched": self.dispatched}
        return super().state_dict() | counted | {"usual": self._usual}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.passes, self.dispatched, self._usual = state["passes"], state["dispatched"], state["usual"]

    def summary(self) -> dict[str, Any]:
        """`counts` are by block and option; the largest bits of an option; buckets in a block's pass on average."""
        options = [[pair.forward, pair.backward] for pair in self.options]
        most = max(max(pair) for pair in options)
        buckets = self.dispatched / self.passes if self.passes else None
        return super().summary() | {"options": options, "largest_bits": most, "buckets": buckets}


class FracTrain(DFQ):
    """DFQ whose target rises when the loss stalls (FracTrain): PFQ's indicator, targets of its own.

    targets                stage by stage, in per cent
    epsilon, alpha, every  of `pfq.PFQ`
    options, weights, beta, cap, per, loss, seed  of `DFQ`
    """

    def __init__(
        self,
        targets: tuple[float, ...] = (1.5, 2.0, 2.5, 3.0),
        epsilon: float = 0.05,
        alpha: float = 0.3,
        every: int | None = None,
        options: str = CIFAR,
        weights: int = 4,
        beta: float = 1e-3,
        cap: int | None = None,
        per: str = SAMPLE,
        loss: SampleLoss = cross_entropies,
        seed: int = 0,
    ) -> None:
        if not targets or list(targets) != sorted(targets):
            raise UsageError(f"targets = {targets}: give rising costs in per cent, such as 1.5, 2, 2.5, 3")
        super().__init__(options, weights, targets[0], beta, cap, per, loss, seed)
        self.targets = tuple(targets)
        self._stages = Stages(len(self.targets), Indicator(epsilon, alpha), every)

    @property
    def stage(self) -> int:
        return self._stages.now

    def step(self, loss: torch.Tensor) -> None:
        if self._stages.rises_with_step(loss):
            self.target = self.targets[self.stage]

    def epoch_end(self, loss: float | None) -> None:
        if self._stages.rises_with_epoch(loss):
            self.target = self.targets[self.stage]

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | self._stages.state()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._stages.restore(state)
        self.target = self.targets[self.stage]

    def summary(self) -> dict[str, Any]:
        return super().summary() | self._stages.summary()
