"""Output gradients in two copies: one for dX, another for dW."""

import itertools
import weakref

import torch
from bitfirst_hdl.contract.numeric import hash_key

from .quantised import Quantised
from .quantiser import quantise, quantise_stochastically

_numbers = itertools.count(1)  # the operators take a number in place of the object
_known: "weakref.WeakValueDictionary[int, Gradients]" = weakref.WeakValueDictionary()
WHOLE = 0  #: the number of no such object: one copy, rounded to nearest


class Gradients:
    """How a layer's output gradient is quantised.

    error   bits of the copy for dX; that for dW has the layer's `bits.gradient`
    seed    of stochastic rounding; None: to nearest
    tensor  number of the layer among those of the network
    step    number of the step: random bits are those of the contract, by seed, step, tensor and element
    """

    def __init__(self, error: int, seed: int | None, tensor: int, step: int = 0) -> None:
        self.error, self.seed, self.tensor, self.step = error, seed, tensor, step
        self.number = next(_numbers)
        _known[self.number] = self

    def copies(self, g: torch.Tensor, bits: int, low: int, name: str) -> tuple[Quantised, Quantised]:
        """For dX, and for dW with `bits` and `low` of them (`quantise`); the same one where they are alike."""
        for_w = self._quantised(g, bits, low, 1, name)
        if (self.error, 0) == (bits, low):
            return for_w, for_w
        return self._quantised(g, self.error, 0, 0, name), for_w

    def _quantised(self, g: torch.Tensor, bits: int, low: int, copy: int, name: str) -> Quantised:
        if self.seed is None:
            return quantise(g, bits, signed=True, name=name, low=low)
        return quantise_stochastically(g, bits, hash_key(self.seed, self.step, 2 * self.tensor + copy), name, low)

    def __deepcopy__(self, memo: dict[int, object]) -> "Gradients":
        return Gradients(self.error, self.seed, self.tensor, self.step)

    def __reduce__(self) -> tuple[type["Gradients"], tuple[int, int | None, int, int]]:
        return Gradients, (self.error, self.seed, self.tensor, self.step)


def copies(number: int, g: torch.Tensor, bits: int, low: int, name: str) -> tuple[Quantised, Quantised]:
    """(for dX, for dW), by the `Gradients` of this number."""
    if number == WHOLE:
        whole = quantise(g, bits, signed=True, name=name, low=low)
        return whole, whole
    return _known[number].copies(g, bits, low, name)
