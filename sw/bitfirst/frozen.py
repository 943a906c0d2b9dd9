"""A network of which only the classifier learns."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from .errors import UsageError

KEY_BYTES = 16


class Frozen:
    """In the place of a network's `forward`: features as in evaluation, without gradient; then the classifier.

    classifier  the network's last `nn.Linear`, whose output must be that of the network; `name` and `count` of its
                parameters
    cached      whether features are kept, by what the images are

    Raises `UsageError` for a network that has no such layer, or nothing before it.
    """

    def __init__(self, net: nn.Module, cached: bool) -> None:
        linear = [(name, layer) for name, layer in net.named_modules() if isinstance(layer, nn.Linear) and name]
        if not linear:
            raise UsageError(f"{type(net).__name__} has no linear layer within it that could learn alone")
        self.net, self.cached = net, cached
        self.name, self.classifier = linear[-1]
        self._features: dict[bytes, torch.Tensor] = {}

    @property
    def count(self) -> int:
        return sum(parameter.numel() for parameter in self.classifier.parameters())

    @property
    def kept(self) -> int:
        """Images whose features are kept."""
        return len(self._features)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self._kept_features(x) if self.cached else self._computed(x))

    def _kept_features(self, x: torch.Tensor) -> torch.Tensor:
        keys = [hashlib.sha256(image.numpy().tobytes()).digest()[:KEY_BYTES] for image in x.detach().cpu()]
        missing = {key: place for place, key in enumerate(keys) if key not in self._features}
        if missing:
            computed = self._computed(x[torch.tensor(list(missing.values()))])
            self._features.update(zip(missing, computed, strict=True))
        return torch.stack([self._features[key].to(x.device) for key in keys])

    @torch.no_grad()
    def _computed(self, x: torch.Tensor) -> torch.Tensor:
        """What comes to the classifier; the classifier itself is left out."""
        seen: list[torch.Tensor] = []
        instead: list[torch.Tensor] = []

        def classifier(features: torch.Tensor) -> torch.Tensor:
            seen.append(features)
            instead.append(features.new_zeros(*features.shape[:-1], self.classifier.out_features))
            return instead[-1]

        with _evaluating(self.net):
            self.classifier.forward = classifier
            try:
                y = type(self.net).forward(self.net, x)
            finally:
                del self.classifier.forward
        if len(seen) != 1 or y is not instead[0]:
            raise UsageError(
                f"layer {self.name} is not the last one of {type(self.net).__name__}: it cannot learn alone"
            )
        return seen[0]

    def state(self) -> dict[str, torch.Tensor]:
        """For checkpoints."""
        if not self._features:
            return {}
        keys = torch.frombuffer(bytearray(b"".join(self._features)), dtype=torch.uint8)
        return {"keys": keys, "features": torch.stack(list(self._features.values()))}

    def restore(self, state: dict[str, Any]) -> None:
        if "keys" not in state:
            self._features = {}
            return
        keys = state["keys"].numpy().tobytes()
        each = (keys[place : place + KEY_BYTES] for place in range(0, len(keys), KEY_BYTES))
        self._features = dict(zip(each, state["features"], strict=True))


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    training = [module for module in net.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
