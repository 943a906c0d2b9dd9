"""What the host computes beside the device's products: operations and bytes, as PyTorch's operators take them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import wraps
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

#: Operators that only move, make or draw numbers: bytes, but no operation.
_MOVES = """
_local_scalar_dense _to_copy arange bernoulli bernoulli_ cat clone constant_pad_nd copy_ embedding fill fill_ flip full
full_like gather index index_copy index_fill index_put index_put_ index_select item masked_fill new_full new_ones
new_zeros nonzero normal_ ones ones_like rand randint randn randperm repeat roll scatter select_backward slice_backward
stack uniform_ where zero_ zeros zeros_like
"""
MOVES = frozenset(_MOVES.split())
#: Those that do not even that: views of which PyTorch does not say so, and room that is not written.
_NOTHING = "_unsafe_view detach_ empty empty_like empty_strided new_empty new_empty_strided unsafe_split"
NOTHING = frozenset(_NOTHING.split())

_watching: "list[HostWork]" = []
aten = torch.ops.aten


def _convolution_backward(g: Any, x: Any, w: Any, *settings: Any, **_: Any) -> int:
    """dX and dW, those of the two that are wanted."""
    *_, is_transposed, _, _, wanted = settings
    return 2 * (x if is_transposed else g).numel() * w[0].numel() * sum(wanted[:2])


#: In the place of PyTorch's formulas: its own for convolutions leaves groups out of account, and on the CPU it has none
#: for attention.
FORMULAS = {
    aten.convolution_backward: _convolution_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(
        q.shape, k.shape, v.shape
    ),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: sdpa_backward_flop_count(
        g.shape, q.shape, k.shape, v.shape
    ),
}


class HostWork(TorchDispatchMode):
    """Counts the operators that PyTorch executes while it is entered, backward passes included; it changes no result.

    flops  a convolution or product of matrices has 2 for each multiply-accumulate, zeros of the padding included; any
           other operator that computes 1 for each element of the largest tensor that it takes or gives, of whatever
           type. One that is fused, such as batch norm, is one operator: so this is the least. `MOVES` have none
    bytes  of all tensors that an operator takes and gives, as if none stayed in a cache; views have none

    Quantising is in it. Left out is what is done within the device's operations: from the integers that a layer hands
    over to the numbers that it gets, packing and link included.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = self.bytes = 0
        self.paused = False

    def __enter__(self) -> "HostWork":
        _watching.append(self)
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        _watching.remove(self)
        super().__exit__(*raised)

    @property
    def counted(self) -> dict[str, int]:
        return {"flops": self.flops, "bytes": self.bytes}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not self.paused and func.namespace != "bitfirst" and not _is_free(func):
            self._count(func, args, kwargs or {}, found)
        return found

    def _count(self, func: Any, args: tuple, kwargs: dict[str, Any], found: Any) -> None:
        tensors = [one for one in tree_leaves((args, kwargs, found)) if isinstance(one, torch.Tensor)]
        self.bytes += sum(one.numel() * one.itemsize for one in tensors)
        formula = FORMULAS.get(func.overloadpacket) or flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=found)
        elif func.overloadpacket.__name__ not in MOVES:
            self.flops += max((one.numel() for one in tensors), default=0)


def _is_free(func: Any) -> bool:
    aliases = [one.alias_info for one in func._schema.returns]
    return func.overloadpacket.__name__ in NOTHING or any(one is not None and not one.is_write for one in aliases)


def seen(body: Callable[..., Any]) -> Callable[..., Any]:
    """Of an operator of Bitfirst's: those within it, which PyTorch does not show, are counted too."""

    @wraps(body)  # keeps the signature, which is that of the operator
    def shown(*args: Any) -> Any:
        with _watching[-1] if _watching else nullcontext():
            return body(*args)

    return shown


@contextmanager
def left_out() -> Iterator[None]:
    """What is done meanwhile is not counted: it is the device's, or only looks on."""
    watching = _watching[-1] if _watching and not _watching[-1].paused else None
    if watching is None:
        yield
        return
    watching.paused = True
    try:
        yield
    finally:
        watching.paused = False
