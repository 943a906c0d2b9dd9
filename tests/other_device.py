"""A device of PyTorch's beside the CPU, where there is no GPU: what mixes tensors of both, or asks the CPU's numpy for
one of the other's, fails as it would with CUDA.

It is called "meta", which PyTorch has everywhere, but holds numbers: those of a tensor on the CPU, which computes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from bitfirst import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

PLACE = torch.device("meta")
COPIES = torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten.to.device
#: as CUDA has them: places in a tensor may lie on the CPU
INDEXED = torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default, torch.ops.aten._index_put_impl_.default
OPERATORS = {
    torch.ops.bitfirst.product.default: nn._product._init_fn,
    torch.ops.bitfirst.product_backward.default: nn._product_backward._init_fn,
}


class Elsewhere(torch.Tensor):
    """A tensor there; `inner` is on the CPU."""

    is_cuda = True  # by which the golden model takes the kernels that it has for CUDA

    def tolist(self) -> Any:
        return self.inner.tolist()

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, inner.stride(), inner.storage_offset(), dtype=inner.dtype, device=PLACE
        )
        made.inner = inner
        return made

    def __repr__(self, **_: object) -> str:
        return f"Elsewhere({self.inner})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(function, args, kwargs or {})


def _inner(one: Any) -> Any:
    """What the CPU computes with in its place."""
    if isinstance(one, torch.device):
        return torch.device("cpu")
    return one.inner if isinstance(one, Elsewhere) else one


def computed(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """What `function` returns, there if it is to be. Raises `RuntimeError` where tensors of both devices meet."""
    if function in OPERATORS:
        with _Made():
            return OPERATORS[function](*args, **kwargs)
    tensors = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.Tensor)]
    there = [one for one in tensors if isinstance(one, Elsewhere)]
    here = [one for one in tensors if not isinstance(one, Elsewhere) and one.ndim]
    if there and here and function not in (*COPIES, *INDEXED):
        raise RuntimeError(f"{function} of tensors on two devices: {[tuple(one.shape) for one in tensors]}")
    if there and function in INDEXED and not isinstance(args[0], Elsewhere):
        raise RuntimeError(f"{function}: places of a tensor on the CPU lie elsewhere")
    devices = [one for one in tree_leaves((args, kwargs)) if isinstance(one, torch.device)]
    wanted = devices[0] if devices else PLACE if there else None
    arguments, named = tree_map(_inner, (args, kwargs))
    result = function(*arguments, **named)
    name = function._schema.name
    if name.endswith("_") and not name.endswith("__"):  # in place; not such as __rshift__
        return args[0]
    if named.get("out") is not None:
        return kwargs["out"]
    if wanted != PLACE:
        return result
    return tree_map(lambda one: Elsewhere(one) if isinstance(one, torch.Tensor) else one, result)


class _Made(TorchDispatchMode):
    """Tensors that are made there, or brought there."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("device") == PLACE or any(issubclass(one, Elsewhere) for one in types):
            return computed(function, args, kwargs)
        return function(*args, **kwargs)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """`PLACE`, where tensors can be as long as this lasts."""
    with _Made():
        yield PLACE
