"""Learning by the signs of gradients."""

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from ..errors import UsageError
from ..golden.psg import Rule
from .method import Method, groups_by_signs

UPDATES = HOST, DEVICE = "host", "device"


@dataclass(frozen=True)
class SignSGD(Method):
    """Signs of the exact quantised product (signSGD, Bernstein et al., ICML 2018): the reference for `PSG`, which
    computes less. Runs on every device.

    Weight gradients of convolutions become ternary signs (-1, 0, 1). Biases, batch norm and all other layers keep
    their ordinary gradients.

    linear  linear layers' weights too; by default they keep ordinary gradients, as published
    update  "host": `optim.SGD` moves the weights on the host; "device": the device does, with the same result. What
            does not fit the half of the device's store that may hold masters is moved on the host all the same
    """

    linear: bool = field(default=False, kw_only=True)
    update: str = field(default=HOST, kw_only=True)

    roles = ("signs",)

    def __post_init__(self) -> None:
        if self.update not in UPDATES:
            raise UsageError(f"update {self.update!r} is unknown: choose from {', '.join(UPDATES)}")

    @property
    def signs(self) -> "SignSGD":
        return self

    @property
    def lagged(self) -> bool:
        """Whether layers keep a state from one step to the next."""
        return False

    def takes(self, layer: nn.Module) -> bool:
        """Whether this layer's weight gets signs."""
        return isinstance(layer, nn.Conv2d) or (self.linear and isinstance(layer, nn.Linear))

    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        """For `bitfirst.optim.SGD`: the weights that get signs (`signs` True), and all other parameters.

        With update="device" devices find room for masters of the first ones, in their order.

        Raises `UsageError` when no layer of `net` was converted with this method, or a device cannot update.
        """
        layers = [layer for layer in net.modules() if getattr(layer, "signer", None)]
        if not layers:
            raise UsageError("no weight of this network gets signs: convert it with this method first")
        for layer in layers if self.update == DEVICE else ():
            layer.keep_masters()
        return groups_by_signs(net, [layer.weight for layer in layers])

    def low_bits(self, x_bits: int, g_bits: int) -> tuple[int, int]:
        """Of x and g: low bits of the balanced split, for which the quantiser leaves room; 0 for none."""
        return 0, 0

    def rule(self, x_bits: int, x_signed: bool, g_bits: int) -> Rule | None:
        """How a layer with these widths is decided; None: by the whole product."""
        return None

    def check_widths(self, x_bits: int, g_bits: int) -> None:
        """Raises `UsageError` when layers of these widths cannot have this method."""
        for signed in (False, True):
            self.rule(x_bits, signed, g_bits)
