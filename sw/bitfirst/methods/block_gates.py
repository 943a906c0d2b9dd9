"""What methods have in common whose gates choose, for each sample, what is done in each residual block."""

import copy
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from ..blocks import Residual, macs_of
from ..errors import UsageError
from ..host import GateMacs
from .method import Method
from .random import Random

NAME = "gates"  #: of the submodule

SampleLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  #: of scores [n, classes] and labels: [n]


def cross_entropies(scores: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return functional.cross_entropy(scores, y, reduction="none")


class HostLinear(nn.Linear):
    """A linear layer that `convert` leaves on the host."""


class BlockGates(nn.Module):
    """The gates of a network's blocks: mean over the pixels or places, a layer of `inputs` for each block, an LSTM cell
    that runs along the depth, a linear layer. They run on the host, in float32.

    host     their MACs so far, which copies share
    choices  of the latest forward pass, by block
    scores   what the network said then, [n, classes], no gradient
    costs    MACs of a sample in each block, known after the first pass
    """

    def __init__(self, inputs: Iterable[nn.Module], width: int, outputs: int, seed: int) -> None:
        super().__init__()
        self.inputs = nn.ModuleList(inputs)
        self.lstm = nn.LSTMCell(width, width)
        self.output = HostLinear(width, outputs)
        self.random = Random(type(self).__name__, seed)
        self.host = GateMacs()
        self.choices: list[Any] = []
        self.scores: torch.Tensor | None = None
        self.costs: dict[int, int] = {}
        self._state: tuple[torch.Tensor, torch.Tensor] | None = None
        self.register_load_state_dict_pre_hook(_keep_missing)

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles: without what belongs to one pass."""
        return self.__dict__ | {"choices": [], "scores": None, "_state": None}

    def attach(self, net: nn.Module, block: Residual) -> None:
        """To a network: as a submodule of `block`, not of `net`, which may be a Sequential."""
        block.add_module(NAME, self.to(next(net.parameters()).device))
        net.register_forward_pre_hook(self._begin)
        net.register_forward_hook(self._end)

    # hooks of the network
    def _begin(self, *_: object) -> None:
        self.choices, self._state = [], None

    def _end(self, net: nn.Module, inputs: object, scores: torch.Tensor) -> None:
        self.scores = scores.detach()

    def logits(self, number: int, block: Residual, x: torch.Tensor) -> torch.Tensor:
        """Of block `number`, which comes next in this pass; [n, outputs]."""
        if number not in self.costs:
            self.costs[number] = macs_of(block, x.shape[1:])
        pooled = x.mean((2, 3)) if x.ndim == 4 else x.mean(1) if x.ndim == 3 else x
        before, self._state = self._state, self.lstm(self.inputs[number](pooled), self._state)
        logits = self.output(self._state[0])
        self._charge(number, pooled, before is None, logits)
        return logits

    def _charge(self, number: int, pooled: torch.Tensor, is_first: bool, logits: torch.Tensor) -> None:
        """Each product has its dX and dW, but no dX where what it is of has no gradient: what the LSTM begins with."""
        layers = [layer.weight.numel() for layer in self.inputs[number].modules() if isinstance(layer, nn.Linear)]
        own = [*layers, self.lstm.weight_ih.numel(), self.lstm.weight_hh.numel(), self.output.weight.numel()]
        without = (0 if pooled.requires_grad else layers[0]) + (self.lstm.weight_hh.numel() if is_first else 0)
        self.host.count(logits, len(pooled) * sum(own), len(pooled) * (2 * sum(own) - without))


def _keep_missing(gates: nn.Module, state_dict: dict[str, Any], prefix: str, *_: object) -> None:
    """A checkpoint without gates, such as a float one, leaves them as they are."""
    if not any(name.startswith(prefix) for name in state_dict):
        state_dict.update({prefix + name: value for name, value in gates.state_dict().items()})


class GatedMethod(Method):
    """A method with `gates`, which learn by the score function from the loss of each sample.

    `counts` of what was done in training, by block.
    """

    gates: BlockGates | None = None
    counts: list[Any]
    _labels: torch.Tensor | None = None

    def __init__(self, loss: SampleLoss, seed: int) -> None:
        self.loss, self.seed = loss, seed
        self.counts = []

    def loader(self, data: Iterable[Any]) -> Iterator[Any]:
        for batch in data:
            self._labels = batch[1]
            yield batch

    def _score(self, costs: torch.Tensor, log_probability: torch.Tensor) -> torch.Tensor:
        """The mean of `costs` (of each sample), with the gradient of the expectation of `costs` and losses.

        By the score function: what a sample's choices were worth, less the mean of all other samples, times the
        gradient of the choices' `log_probability` (of each sample). That is the gradient where a sample's loss depends
        on its own choices alone; batch norm makes it depend on the others' too, and then it is biased.
        """
        losses = self._losses(costs)
        others = (losses.sum() - losses) / max(len(losses) - 1, 1)
        expected = ((losses - others) * log_probability).mean()
        return costs.mean() + expected - expected.detach()

    def _losses(self, costs: torch.Tensor) -> torch.Tensor:
        """Of each sample in the latest pass, with its cost; no gradient."""
        if self._labels is None or len(self._labels) != len(costs):
            raise UsageError("the gates' gradient by score needs the labels: take the batches from method.loader(data)")
        with torch.no_grad():
            return self.loss(self.gates.scores, self._labels) + costs

    def _passed(self) -> list[Any]:
        """The choices of the latest pass. Raises `UsageError` where there was none."""
        if self.gates is None or not self.gates.choices:
            raise UsageError(
                f"{type(self).__name__}'s penalty is of a batch that the converted network was given: first"
            )
        return self.gates.choices

    @property
    def products(self) -> GateMacs:
        """The gates'."""
        return self.gates.host

    def _macs(self) -> list[int | None]:
        """Of a sample in each block with a gate; None before the first pass."""
        return [self.gates.costs.get(number) for number in range(len(self.counts))]

    def state_dict(self) -> dict[str, Any]:
        return {"random": self.gates.random.state, "counts": self.counts, "gate_macs": self.products.macs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.gates.random.state = state["random"]
        self.counts = copy.deepcopy(state["counts"])
        self.products.macs = state["gate_macs"]

    def summary(self) -> dict[str, Any]:
        """`counts` of samples in training, by block with a gate; the blocks' MACs for a sample; those of the gates so
        far, on the host."""
        return {"counts": self.counts, "macs": self._macs(), "gate_macs": self.products.macs}
