"""Stochastic mini-batch dropping."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

from .. import optim
from ..errors import UsageError
from .method import Method
from .plan import Plan
from .random import generator


class SMD(Method):
    """Stochastic mini-batch dropping (E2-Train): each batch is left out with probability `p`, independently.

    A batch that is left out is not fetched, and nothing moves: neither weights nor momentum.

    p      0 or more, below 1
    work   share of ordinary training's batches that are trained on: 2/3 at p = 1/2 is 4/3 as many iterations, with the
           schedule of learning rates as much longer. None: as many iterations
    coast  as the released code did: the batch is fetched, and momentum and weight decay act as if gradients were 0
    seed   of the choice

    `kept` says of each iteration so far whether it was trained on.
    """

    roles = ("batches",)

    def __init__(self, p: float = 0.5, work: float | None = None, coast: bool = False, seed: int = 0) -> None:
        if not 0 <= p < 1:
            raise UsageError(f"p = {p}: choose 0 or more, below 1; 1 would drop every batch")
        if work is not None and not 0 < work <= 1:
            raise UsageError(f"work = {work}: choose a share above 0, up to 1")
        self.p, self.work, self.coast = p, work, coast
        self.kept: list[bool] = []
        self._generator = generator("smd", seed)
        self._parameters: list[nn.Parameter] = []

    def plan(self, plan: Plan) -> Plan:
        return plan.scaled((1 - self.p) if self.work is None else self.work, 1 - self.p)

    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        self._parameters = list(net.parameters())
        return super().param_groups(net)

    def keeps(self) -> bool:
        """Whether the next batch is trained on."""
        self.kept.append(torch.rand((), generator=self._generator).item() >= self.p)
        return self.kept[-1]

    def loader(self, data: Iterable[Any]) -> Iterable[Any]:
        """Raises `UsageError` for data that can only be had in a row: what is dropped would be fetched."""
        if self.coast:
            return self._coasting(data)
        in_any_order = isinstance(data, DataLoader) and not isinstance(data.dataset, IterableDataset)
        if in_any_order and data.batch_sampler is not None:
            return _with_batches(data, _Kept(self, data.batch_sampler))
        if isinstance(data, Sequence):
            return (data[index] for index in range(len(data)) if self.keeps())
        raise UsageError(
            f"{type(data).__name__} gives its batches in a row, so a dropped one would be fetched: give a list or "
            "another sequence, or a DataLoader over a map-style dataset; or coast=True"
        )

    def _coasting(self, data: Iterable[Any]) -> Iterator[Any]:
        for batch in data:
            if self.keeps():
                yield batch
            else:
                optim.coast(self._parameters)

    def state_dict(self) -> dict[str, Any]:
        return {"random": self._generator.get_state(), "kept": torch.tensor(self.kept, dtype=torch.bool)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["random"])
        self.kept = state["kept"].tolist()

    def summary(self) -> dict[str, Any]:
        return {"iterations": len(self.kept), "dropped": len(self.kept) - sum(self.kept)}


class _Kept:
    """The batches of indices that are not dropped."""

    def __init__(self, method: SMD, sampler: Iterable[Any]) -> None:
        self.method, self.sampler = method, sampler

    def __iter__(self) -> Iterator[Any]:
        return (batch for batch in self.sampler if self.method.keeps())


def _with_batches(data: DataLoader, sampler: _Kept) -> DataLoader:
    """`data`, but for its batches."""
    names = "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context"
    same = {name: getattr(data, name) for name in (*names, "generator", "prefetch_factor")}
    return DataLoader(data.dataset, batch_sampler=sampler, **same)
