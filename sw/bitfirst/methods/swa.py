"""Stochastic weight averaging."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from ..blocks import residual_blocks
from ..errors import UsageError
from .method import Method
from .plan import Plan

COUNT = "averaged"


class SWA(Method):
    """Stochastic weight averaging, as E2-Train takes it from SWALP: the mean of the weights after each late epoch.

    start  share of the training after which averaging begins
    rate   share of the peak at which the learning rate stays from there; None: as it is

    `result` is a network with the mean, its batch norm's statistics taken anew from training data: one forward pass of
    all of them, on the device, and counted there. Momentum, masters and the network itself stay as they are.
    """

    roles = ("average",)
    finishes = True

    def __init__(self, start: float = 2 / 3, rate: float | None = 0.1) -> None:
        if not 0 <= start < 1:
            raise UsageError(f"start = {start}: choose a share, 0 or more, below 1")
        if rate is not None and not 0 < rate <= 1:
            raise UsageError(f"rate = {rate}: choose a share of the peak above 0, up to 1")
        self.start, self.rate = start, rate
        self.average: AveragedModel | None = None
        self._net: nn.Module | None = None
        self._first: float | None = None
        self._steps = 0

    def plan(self, plan: Plan) -> Plan:
        self._first = self.start * plan.trained
        return plan if self.rate is None else replace(plan, hold=(round(self.start * plan.steps), self.rate))

    def prepare(self, net: nn.Module) -> None:
        self._net = net

    def step(self, loss: Any) -> None:
        self._steps += 1

    def epoch_end(self, loss: float | None) -> None:
        if self._first is None:
            raise UsageError("SWA averages late in the training: ask its plan(Plan.of(iterations)) before")
        if self._steps >= self._first and loss is not None:
            _refresh(self._net)
            self._averaged().update_parameters(self._net)

    def _averaged(self) -> AveragedModel:
        if self.average is None:
            self.average = AveragedModel(self._net)
        return self.average

    def result(self, net: nn.Module, data: Iterable[Any]) -> nn.Module:
        """`net` itself where nothing was averaged yet."""
        if self.average is None:
            return net
        averaged = self.average.module
        for ours, theirs in zip(averaged.modules(), net.modules(), strict=True):
            if hasattr(theirs, "connection"):
                ours.bits = theirs.bits
        for ours, theirs in zip(*(residual_blocks(one).values() for one in (averaged, net)), strict=True):
            if theirs.dispatch:  # choices by chance go on from here, whenever the copy was made
                ours.dispatch[0].random.state = theirs.dispatch[0].random.state
        update_bn(data, averaged)
        return averaged

    def state_dict(self) -> dict[str, Any]:
        if self.average is None:
            return {"steps": self._steps, COUNT: 0}
        tensors = [*self.average.module.named_parameters(), *self.average.module.named_buffers()]
        kept = {f"mean.{name}": tensor.detach() for name, tensor in tensors}
        return {"steps": self._steps, COUNT: int(self.average.n_averaged), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state["steps"]
        if not state[COUNT]:
            self.average = None
            return
        average = self._averaged()
        average.n_averaged.fill_(state[COUNT])
        for name, tensor in [*average.module.named_parameters(), *average.module.named_buffers()]:
            tensor.data.copy_(state[f"mean.{name}"])

    def summary(self) -> dict[str, Any]:
        return {"averaged_epochs": 0 if self.average is None else int(self.average.n_averaged)}


def _refresh(net: nn.Module) -> None:
    """Reads weights back that a device has."""
    for layer in net.modules():
        if hasattr(layer, "connection"):
            layer.refresh()
