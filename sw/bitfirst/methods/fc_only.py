"""Fine-tuning of the classifier alone."""

from typing import Any

from torch import nn

from ..bits import Bits
from ..frozen import Frozen
from ..host import HostProducts
from .method import Method
from .precision import Pair
from .swa import SWA


class FCOnly(Method):
    """Only the last linear layer learns (a baseline of E2-Train, which fine-tunes all layers): of a trained network.

    All before it is computed as in evaluation, batch norm by its running statistics, and gets no gradient: the device
    computes its forward products, and forward and dW of the classifier.

    bits    of activations, weights and gradients; None: float32 on the host, as `FP32`
    cached  what comes to the classifier is kept for each image, in training and evaluation, so that the layers before
            it are computed once for an image. At few bits scales are those of the batch in which it came first

    `cached` keeps all features in memory and in checkpoints: float32, images x inputs of the classifier.
    """

    roles = ("precision", "blocks")

    def __init__(self, bits: int | None = 8, cached: bool = False) -> None:
        self.bits = None if bits is None else Pair(bits, bits).bits
        self.cached = cached
        self.products = HostProducts()
        self._frozen: Frozen | None = None

    @property
    def chooses_parameters(self) -> bool:
        return True

    def refuses(self, other: Method) -> str | None:
        if other.signs is not None:
            return "weights of convolutions learn by signs, and here the classifier alone learns"
        if isinstance(other, SWA):
            return "batch norm's statistics would be taken anew, and here they stay"
        return None

    def widths(self, bits: Bits) -> list[Bits]:
        return [bits if self.bits is None else self.bits]

    def prepare(self, net: nn.Module) -> None:
        self._frozen = Frozen(net, self.cached)
        net.forward = self._frozen
        for layer in net.modules():
            if hasattr(layer, "connection"):
                layer.bits = layer.bits if self.bits is None else self.bits
                layer.host = self.products if self.bits is None else None

    def param_groups(self, net: nn.Module) -> list[dict[str, Any]]:
        return [{"params": list(net.forward.classifier.parameters()), "signs": False}]

    def state_dict(self) -> dict[str, Any]:
        return {"macs": self.products.macs, **self._frozen.state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.products.macs = state["macs"]
        self._frozen.restore(state)

    def summary(self) -> dict[str, Any]:
        learning = {"learning": self._frozen.name, "parameters": self._frozen.count, "cached": self._frozen.kept}
        if self.bits is not None:
            return learning
        return learning | {"format": self.products.name, "computed_on": "host", "host_macs": self.products.macs}
