"""Scalable 8-bit training: range batch norm, gradients in two copies, stochastic rounding."""

from typing import Any

from torch import nn

from ..bits import Bits
from ..errors import UsageError
from ..gradients import Gradients
from ..norms import by_range
from ..quantiser import check_bits
from .precision import Pair, Precision

STOCHASTIC, NEAREST = ROUNDINGS = "stochastic", "nearest"


class SBM(Precision):
    """8-bit training as of Banner et al., "Scalable methods for 8-bit training of neural networks" (NeurIPS 2018), the
    baseline of FracTrain.

    bits      of activations and weights
    error     bits of the output's gradient for dX
    gradient  bits of its other copy, for dW
    norm      "range": batch norm divides by the range over sqrt(2 ln n) of a channel's n values; "batch": as it is
    rounding  of both copies: "stochastic", without bias, or "nearest"; activations and weights go to nearest
    seed      of the rounding

    Scales are those of the layers: one power of two for each tensor, symmetric, where the paper's are affine.
    """

    def __init__(
        self,
        bits: int = 8,
        error: int = 8,
        gradient: int = 16,
        norm: str = "range",
        rounding: str = STOCHASTIC,
        seed: int = 0,
    ) -> None:
        if norm not in ("range", "batch"):
            raise UsageError(f"norm {norm!r} is unknown: choose from range, batch")
        if rounding not in ROUNDINGS:
            raise UsageError(f"rounding {rounding!r} is unknown: choose from {', '.join(ROUNDINGS)}")
        check_bits(error, True, "error")
        _ = Pair(bits, gradient).bits
        super().__init__(Pair(bits, gradient))
        self.error, self.norm, self.rounding, self.seed = error, norm, rounding, seed

    def widths(self, bits: Bits) -> list[Bits]:
        return [self.pair.bits]

    def prepare(self, net: nn.Module) -> None:
        super().prepare(net)
        seed = self.seed if self.rounding == STOCHASTIC else None
        for number, layer in enumerate(self._layers):
            layer.gradients = Gradients(self.error, seed, number, self.steps)
        if self.norm == "range":
            by_range(net)

    def step(self, loss: Any) -> None:
        super().step(loss)
        self._tell()

    def _tell(self) -> None:
        """The layers, which step it is."""
        for layer in self._layers:
            layer.gradients.step = self.steps

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._tell()

    def summary(self) -> dict[str, Any]:
        return super().summary() | {"error_bits": self.error, "norm": self.norm, "rounding": self.rounding}
