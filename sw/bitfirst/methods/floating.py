"""Floating point on the host, what integers on a device are compared to."""

from typing import Any

import torch
from torch import nn

from ..errors import UsageError
from ..host import HalfProducts, HostProducts
from .method import Method


class FP32(Method):
    """Ordinary training in float32 on the host: full-precision SGD, the baseline of both papers.

    The network is converted, but its products are the host's: no device sees or counts them, so their cost is never a
    measured one. `summary()` has their MACs.
    """

    roles = ("precision",)

    def __init__(self) -> None:
        self.products = HostProducts()

    def refuses(self, other: Method) -> str | None:
        if other.signs is not None:
            return "signs are made of the integer products of a device, and here the host computes in floating point"
        return None

    def prepare(self, net: nn.Module) -> None:
        for layer in net.modules():
            if hasattr(layer, "connection"):
                layer.host = self.products

    def state_dict(self) -> dict[str, Any]:
        return {"macs": self.products.macs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.products.macs = state["macs"]

    def summary(self) -> dict[str, Any]:
        return {"format": self.products.name, "computed_on": "host", "host_macs": self.products.macs}


class FP16(FP32):
    """Mixed precision with a dynamic scale of the loss (Micikevicius et al., ICLR 2018), on the host: products of
    float16 numbers with sums in float32 (`host.HalfProducts`), all else and the weights in float32.

    scale    at first
    growth   factor, after `interval` steps in a row without overflow
    backoff  factor after an overflow, where the step is left out: neither weights nor momentum move
    interval of steps; these four are the defaults of `torch.amp.GradScaler`
    """

    def __init__(self, scale: float = 2.0**16, growth: float = 2.0, backoff: float = 0.5, interval: int = 2000) -> None:
        if not (0 < scale < float("inf") and growth >= 1 and 0 < backoff < 1 and interval >= 1):
            raise UsageError(
                f"scale = {scale}, growth = {growth}, backoff = {backoff}, interval = {interval}: choose a scale above "
                "0, growth of 1 or more, backoff above 0, below 1, and at least 1 step"
            )
        super().__init__()
        self.products: HalfProducts = HalfProducts(scale)
        self.growth, self.backoff, self.interval = growth, backoff, interval
        self.skipped = self._since = 0

    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        self.products.parameters = list(net.parameters())
        return super().param_groups(net)

    def step(self, loss: torch.Tensor) -> None:
        if self.products.overflowed:
            self.products.overflowed = False
            self.products.scale *= self.backoff
            self.skipped += 1
            self._since = 0
            return
        self._since += 1
        if self._since == self.interval:
            self.products.scale *= self.growth
            self._since = 0

    def state_dict(self) -> dict[str, Any]:
        own = {"scale": self.products.scale, "since": self._since, "skipped": self.skipped}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.products.scale, self._since, self.skipped = state["scale"], state["since"], state["skipped"]

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"scale": self.products.scale, "skipped_steps": self.skipped}
