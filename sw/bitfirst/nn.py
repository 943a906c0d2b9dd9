"""PyTorch layers whose matrix products (forward, dX, dW) a device computes, and `convert`, which puts them in.

Each tensor is quantised when it is used: x and w in the forward pass, the output's gradient in the backward pass.
Gradients are the ordinary ones, straight through the quantisers; the bias is added, and its gradient summed, on the
host in float32. With a method of signs (`methods.PSG`, `methods.SignSGD`) `weight.grad` of the layers that it takes is
-1, 0 or 1; their bias, and everything else, keeps its ordinary gradient. Several backward passes add up their signs:
`optim.SGD` takes the sign of that, the majority's vote.
"""

import copy
import itertools
import logging
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from bitfirst_hdl.contract.packets import Phase
from torch import nn

from . import host_work
from .bits import Bits
from .blocks import check_not_again, converted_layers, macs_of_output, residual_blocks
from .connection import Connection, compute, measured
from .device import Device
from .errors import UsageError
from .frozen import Frozen
from .golden.psg import Decision, State
from .gradients import WHOLE, Gradients, copies
from .host import HostProducts
from .lowering import Geometry
from .masters import Kept, MasterWeights, kept_weights
from .methods import PSG, Method, SignSGD
from .norms import ordinary
from .quantised import CONTENT_BYTES, Quantised
from .quantiser import quantise

if TYPE_CHECKING:
    from .buckets import Buckets

logger = logging.getLogger(__name__)


_numbers = itertools.count(1)  # the operators take a number in place of the signer, too
_signers: "weakref.WeakValueDictionary[int, Signer]" = weakref.WeakValueDictionary()
NO_SIGNER = 0


@dataclass(frozen=True)
class Watched:
    """What one backward pass of a watched layer was about: operands, (stride, padding), and what was decided."""

    g: Quantised
    x: Quantised
    window: tuple[tuple[int, ...], tuple[int, ...]]
    decision: Decision


class Signer:
    """How a layer's weight gradient becomes signs, and what came of it. A copy has a state of its own.

    state        for the next step's lagged threshold
    done, saved  bit-MACs of dW so far
    resolved, decided
                 signs so far: those that the prediction gave, and all
    kept         the weight's masters, where the device has them
    watch        keep operands and decision of the next backward pass in `watched`
    """

    def __init__(self, method: SignSGD, state: State | None = None) -> None:
        self.method, self.state = method, state
        self.done = self.saved = self.resolved = self.decided = 0
        self.watch = False
        self.watched: Watched | None = None
        self.kept: Kept | None = None
        self.number = next(_numbers)
        _signers[self.number] = self

    def low_bits(self, bits: list[int]) -> tuple[int, int]:
        return self.method.low_bits(bits[0], bits[2])

    def take(self, seen: Watched) -> None:
        """Books a decision."""
        decision = seen.decision
        self.state = decision.state
        self.done += decision.done
        self.saved += decision.saved
        self.resolved += int(decision.resolved.sum())
        self.decided += decision.resolved.numel()
        if self.watch:
            self.watch, self.watched = False, seen

    def __deepcopy__(self, memo: dict[int, object]) -> "Signer":
        return Signer(self.method, self.state)

    def __reduce__(self) -> tuple[type["Signer"], tuple[SignSGD, State | None]]:
        return Signer, (self.method, self.state)


# Operators: a linear layer is kernel_dims 0, a convolution 2. `meta` is what makes integers `Quantised` again.
_ABOUT = 5 + CONTENT_BYTES // 8  # int64 words about an operand: signed, the device's, exponent, low bits, peak, content


def _about(operand: Quantised) -> list[int]:
    about = operand.signed, isinstance(operand, MasterWeights), operand.exponent, operand.low, operand.peak
    return [*about, *np.frombuffer(operand.content, np.int64).tolist()]


def _again(values: torch.Tensor, bits: int, about: list[int]) -> Quantised:
    """What `_about` is about; `quantise` made the values."""
    signed, _, exponent, low, peak, *content = about
    return Quantised(values, bits, bool(signed), exponent, peak, np.array(content, np.int64).tobytes(), low)


def _weight(w: torch.Tensor, bits: int, signer: int, name: str) -> Quantised:
    kept = _signers[signer].kept if signer != NO_SIGNER else None
    if kept is not None and kept.decides:
        return kept.masters.weights(bits).on(w.device)
    return quantise(w, bits, signed=True, name=f"layer {name}: weight")


def _weight_again(values: torch.Tensor, bits: int, about: list[int], signer: int, name: str) -> Quantised:
    """`_weight` of the forward pass. Raises `UsageError` where the device has moved it since."""
    before = _again(values, bits, about)
    if not about[1]:
        return before
    kept = _signers[signer].kept
    weights = kept.masters.weights(bits).on(values.device) if kept is not None else before
    if weights is before or weights.content != before.content:
        raise UsageError(f"layer {name}: its weight was updated between forward and backward pass: step after both")
    return weights


@torch.library.custom_op("bitfirst::product", mutates_args=())
@host_work.seen
def _product(
    x: torch.Tensor,
    w: torch.Tensor,
    connection: int,
    stride: list[int],
    padding: list[int],
    bits: list[int],
    name: str,
    signer: int,
    gradients: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    low, _ = _low_bits(signer, bits)
    xq = quantise(x, bits[0], name=f"layer {name}: input", low=low)
    wq = _weight(w, bits[1], signer, name)
    meta = torch.tensor([*_about(xq), *_about(wq)])
    if _is_empty(x, w, stride, padding):
        return _empty_output(x, w, stride, padding), xq.values, wq.values, meta
    operation, window = ("conv2d", (tuple(stride), tuple(padding))) if w.ndim == 4 else ("linear", ())
    y = compute(connection, name, Phase.FORWARD, operation, xq, wq, *window, real=True)
    return y, xq.values, wq.values, meta


def _low_bits(signer: int, bits: list[int]) -> tuple[int, int]:
    return _signers[signer].low_bits(bits) if signer != NO_SIGNER else (0, 0)


def _is_empty(x: torch.Tensor, w: torch.Tensor, stride: list[int], padding: list[int]) -> bool:
    """Whether there is no image or vector at all; raises `UsageError` where those there were could not be computed."""
    if w.ndim == 2:
        return x.numel() == 0 and x.shape[-1] == w.shape[1]
    if x.shape[0]:
        return False
    try:
        Geometry.of((1, *x.shape[1:]), w.shape, tuple(stride), tuple(padding))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return True


def _empty_output(x: torch.Tensor, w: torch.Tensor, stride: list[int], padding: list[int]) -> torch.Tensor:
    if w.ndim == 2:
        return x.new_empty(*x.shape[:-1], w.shape[0])
    size = [
        (pixels + 2 * p - taps) // s + 1
        for pixels, taps, s, p in zip(x.shape[2:], w.shape[2:], stride, padding, strict=True)
    ]
    return x.new_empty(x.shape[0], w.shape[0], *size)


@_product.register_fake
def _(x, w, connection, stride, padding, bits, name, signer, gradients):
    meta = torch.empty(2 * _ABOUT, dtype=torch.int64, device="cpu")
    return _empty_output(x, w, stride, padding), torch.empty_like(x), torch.empty_like(w), meta


@torch.library.custom_op("bitfirst::product_backward", mutates_args=())
@host_work.seen
def _product_backward(
    g: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    meta: torch.Tensor,
    connection: int,
    stride: list[int],
    padding: list[int],
    bits: list[int],
    name: str,
    signer: int,
    gradients: int,
    needs: list[bool],
) -> tuple[torch.Tensor, torch.Tensor]:
    if g.numel() == 0:
        return torch.zeros_like(x), torch.zeros_like(w)
    about = meta.tolist()
    xq, wq = _again(x, bits[0], about[:_ABOUT]), _weight_again(w, bits[1], about[_ABOUT:], signer, name)
    _, low = _low_bits(signer, bits)
    for_x, gq = copies(gradients, g, bits[2], low, f"layer {name}: output gradient")
    window = (tuple(stride), tuple(padding))
    if all(needs) and signer == NO_SIGNER and for_x is gq and not measured(connection):
        operation, more = ("conv2d_gradients", window) if w.ndim == 4 else ("linear_gradients", ())
        return compute(connection, name, Phase.BACKWARD, operation, gq, xq, wq, *more, real=True)
    dx, dw = x.new_empty(0), w.new_empty(0)
    if needs[0]:
        operation, more = (
            ("conv2d_input_gradient", (tuple(x.shape), *window)) if w.ndim == 4 else ("linear_input_gradient", ())
        )
        dx = compute(connection, name, Phase.INPUT_GRADIENT, operation, for_x, wq, *more, real=True)
    if needs[1] and signer != NO_SIGNER:
        dw = _signs(_signers[signer], connection, name, gq, xq, tuple(w.shape), window)
    elif needs[1]:
        operation, more = (
            ("conv2d_weight_gradient", (tuple(w.shape), *window)) if w.ndim == 4 else ("linear_weight_gradient", ())
        )
        dw = compute(connection, name, Phase.WEIGHT_GRADIENT, operation, gq, xq, *more, real=True)
    return dx, dw


def _signs(
    signer: Signer,
    connection: int,
    name: str,
    g: Quantised,
    x: Quantised,
    weight_shape: tuple[int, ...],
    window: tuple[tuple[int, ...], tuple[int, ...]],
) -> torch.Tensor:
    """dW's signs, float32."""
    rule = signer.method.rule(x.bits, x.signed, g.bits)
    operation, arguments = (
        ("conv2d_weight_signs", (g, x, weight_shape, rule, *window, signer.state))
        if len(weight_shape) == 4
        else ("linear_weight_signs", (g, x, rule, signer.state))
    )
    decision = compute(connection, name, Phase.WEIGHT_GRADIENT, operation, *arguments)
    signer.take(Watched(g, x, window, decision))
    return decision.signs.to(torch.float32)


@_product_backward.register_fake
def _(g, x, w, meta, connection, stride, padding, bits, name, signer, gradients, needs):
    return (
        torch.empty_like(x) if needs[0] else x.new_empty(0),
        torch.empty_like(w) if needs[1] else w.new_empty(0),
    )


def _remember(ctx, inputs, output) -> None:
    ctx.arguments = inputs[2:]
    ctx.mark_non_differentiable(*output[1:])
    ctx.save_for_backward(*output[1:])


def _backward(ctx, g, *_):
    needs = list(ctx.needs_input_grad[:2])
    dx, dw = torch.ops.bitfirst.product_backward(g, *ctx.saved_tensors, *ctx.arguments, needs)
    return dx if needs[0] else None, dw if needs[1] else None, *[None] * 7


def _backward_twice(ctx, *_):
    raise UsageError("bitfirst layers have first derivatives only: leave out create_graph=True")


_product.register_autograd(_backward, setup_context=_remember)
_product_backward.register_autograd(_backward_twice)
for _kind in ("cpu", "cuda"):
    _product.register_autocast(_kind, torch.float32)


STATE = "threshold_state"  #: what a layer with a lagged threshold adds to its state_dict: int64, maximum and exponent


class _Layer:
    """What both layers have: `bits` (settable for each layer), `connection`, `fqn`, its name in messages, and `signer`,
    None where the weight has ordinary gradients; `gradients`, where dX and dW have copies of their own; `buckets`,
    while the samples of a batch have widths of their own; `host`, which computes the products in the device's place;
    `chosen`: in each forward pass a method chooses for which samples, or in which widths."""

    bits: Bits
    connection: Connection
    fqn: str
    signer: Signer | None = None
    gradients: Gradients | None = None
    buckets: "Buckets | None" = None
    host: HostProducts | None = None
    chosen: bool = False

    @property
    def _lagged(self) -> bool:
        return self.signer is not None and self.signer.method.lagged

    def keep_masters(self) -> None:
        """The device is to keep the weight's masters, if it has room for them."""
        before: Kept | None = kept_weights.get(self.weight)
        device, signer = self.connection.device, self.signer
        if before is not None and before.masters.device is device:
            signer.kept = before
            return
        self.refresh()
        masters = device.masters(self.weight.shape)
        if masters is None:
            logger.warning("layer %s: no room for its masters in %s; it is updated on the host", self.fqn, device.url)
            return
        signer.kept = kept_weights[self.weight] = Kept(self.weight, masters)

    def refresh(self) -> None:
        """The weight becomes what the layer sees of its masters, where a device has them."""
        kept: Kept | None = kept_weights.get(self.weight)
        if kept is not None:
            kept.refresh()

    def __getstate__(self) -> dict[str, Any]:
        """For copies and pickles."""
        self.refresh()
        return self.__dict__

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.refresh()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._lagged and self.signer.state is not None:
            state = self.signer.state
            destination[prefix + STATE] = torch.tensor([state.maximum, state.exponent])

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        metadata: dict[str, Any],
        strict: bool,
        missing: list[str],
        unexpected: list[str],
        errors: list[str],
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, missing, unexpected, errors)
        if prefix + STATE in unexpected:
            unexpected.remove(prefix + STATE)
        if self._lagged:  # a checkpoint without it, such as a float one: the first step is exact
            saved = state_dict.get(prefix + STATE)
            self.signer.state = None if saved is None else State(*saved.tolist())

    def _product(self, x: torch.Tensor, stride: tuple[int, ...], padding: tuple[int, ...]) -> torch.Tensor:
        if self.chosen:
            check_not_again(f"layer {self.fqn}")
        if self.host is not None:
            return self.host.product(self, x, stride, padding)
        if self.buckets is not None:
            return self.buckets.product(self, x, stride, padding)
        bits = [self.bits.activation, self.bits.weight, self.bits.gradient]
        number = self.connection.number
        signer = NO_SIGNER if self.signer is None else self.signer.number
        gradients = WHOLE if self.gradients is None else self.gradients.number
        return torch.ops.bitfirst.product(x, self.weight, number, stride, padding, bits, self.fqn, signer, gradients)[0]


class Conv2d(_Layer, nn.Conv2d):
    """`nn.Conv2d` (groups 1, dilation 1, zero padding) whose products a device computes. Made by `convert`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [n, c, h, w] or [c, h, w] -> [n, o, h', w'] or [o, h', w']."""
        images = x if x.ndim == 4 else x.unsqueeze(0)
        y = self._product(images, self.stride, _padding(self))
        if self.bias is not None:
            y = y + self.bias[:, None, None]
        return y if x.ndim == 4 else y.squeeze(0)


class Linear(_Layer, nn.Linear):
    """`nn.Linear` whose products a device computes. Made by `convert`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """float32 [..., in_features] -> [..., out_features]."""
        y = self._product(x, (), ())
        return y if self.bias is None else y + self.bias


def _padding(layer: nn.Conv2d) -> tuple[int, ...]:
    if layer.padding == "valid":
        return (0, 0)
    if layer.padding == "same":  # stride 1 and odd kernels, as checked by `refusal`
        return tuple((taps - 1) // 2 for taps in layer.kernel_size)
    return layer.padding


def refusal(module: nn.Module) -> str | None:
    """Why `convert` leaves this convolution or linear layer on the host; None when it takes it."""
    if type(module) in (nn.Linear, Linear):
        return None
    if type(module) not in (nn.Conv2d, Conv2d):
        return f"{type(module).__name__} is not nn.Conv2d or nn.Linear itself"
    if module.groups != 1:
        return f"groups = {module.groups}; only 1 is supported"
    if module.dilation != (1, 1):
        return f"dilation = {module.dilation}; only 1 is supported"
    if module.padding_mode != "zeros":
        return f"padding_mode = {module.padding_mode!r}; only 'zeros' is supported"
    if module.padding == "same" and not all(taps % 2 for taps in module.kernel_size):
        return "padding = 'same' with an even kernel is not symmetric"
    return None


_KINDS = (nn.Linear, nn.modules.conv._ConvNd)


def left_on_host(module: nn.Module) -> dict[str, str]:
    """Name -> reason, of each convolution and linear layer in `module` that runs on the host."""
    return {
        name: refusal(layer) or "not chosen by filter_fn"
        for name, layer in module.named_modules()
        if isinstance(layer, _KINDS) and not isinstance(layer, _Layer)
    }


def convert(
    module: nn.Module,
    device: Device,
    method: Method | None = None,
    filter_fn: Callable[[nn.Module, str], bool] | None = None,
    inplace: bool = False,
    bits: Bits = Bits(),
) -> nn.Module:
    """`module` with its `nn.Conv2d` and `nn.Linear` computing on `device`; a copy unless `inplace`.

    `filter_fn(layer, name)` chooses among the layers that can be converted; `left_on_host` lists the others. Names,
    parameters and hooks stay, so float checkpoints load both ways. A converted module is connected again, to
    another device or after unpickling, by converting it again; its layers then take the new `bits` and `method`.

    `method`: what changes how the network learns (`methods`); None: ordinary training. With `methods.PSG` or
    `methods.SignSGD` weights get signs as gradients.
    With PSG's lagged threshold a `state_dict` has one entry more for each layer (`threshold_state`); one without it,
    such as a float network's, can be loaded all the same, and the first step is then exact.

    Raises `UsageError` when no layer is converted, `bits` are too narrow for the method, or the device cannot do it.
    """
    if not isinstance(device, Device):
        raise UsageError(f"device {device!r} is not open: give what bitfirst.open(...) returns")
    method = Method() if method is None else method
    if not isinstance(method, Method):
        raise UsageError(f"method {method!r} is none: give methods.PSG(...), another of bitfirst.methods, or None")
    method.check(bits)
    if isinstance(method.signs, PSG) and not device.predicts:
        raise UsageError(device.no_prediction)
    chosen = {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, _KINDS) and refusal(layer) is None and (filter_fn is None or filter_fn(layer, name))
    }
    if not chosen:
        raise UsageError(_nothing_to_convert(module))
    converted = module if inplace else copy.deepcopy(module)
    connection = Connection(device)
    for name, layer in converted.named_modules():
        if name in chosen:
            layer.__class__ = Conv2d if isinstance(layer, nn.Conv2d) else Linear  # keeps parameters, hooks and name
            layer.bits, layer.connection, layer.fqn = bits, connection, name or "(whole module)"
            layer.signer = _signer(layer, method.signs)
            layer.gradients = layer.host = None
    for name, reason in left_on_host(converted).items():
        logger.info("%s stays on the host: %s", name, reason)
    _take_off(converted)
    method.prepare(converted)
    for block in residual_blocks(converted).values():
        for layer in converted_layers(block):
            layer.chosen = bool(block.dispatch)
    return converted


def _take_off(net: nn.Module) -> None:
    """Of what the method before, if there was one, has put on `net`, all but gates."""
    ordinary(net)
    for block in residual_blocks(net).values():
        block.dispatch = ()
    if isinstance(net.__dict__.get("forward"), Frozen):
        del net.forward


def _signer(layer: _Layer, method: SignSGD | None) -> Signer | None:
    """A new one; the state of the one before stays where the method does, masters where the device does too."""
    before, kept = layer.signer, kept_weights.get(layer.weight)
    same = before is not None and before.method == method
    if kept is not None and not (same and kept.masters.device is layer.connection.device):
        kept.refresh()
        kept_weights.pop(layer.weight)
    if method is None or not method.takes(layer):
        return None
    signer = Signer(method, before.state if same else None)
    signer.kept = kept_weights.get(layer.weight)
    return signer


def _nothing_to_convert(module: nn.Module) -> str:
    layers = left_on_host(module)
    if not layers:
        return f"{type(module).__name__} has no nn.Conv2d or nn.Linear to convert: give a module that has one"
    name, reason = next(iter(layers.items()))
    return f"no layer of {type(module).__name__} can be converted (first: {name or 'the module itself'}: {reason})"


def macs_by_place(net: nn.Module, *inputs: torch.Tensor) -> dict[str, int]:
    """{"device", "host"}: multiply-accumulates of the converted `net`'s convolutions and linear layers in a forward
    pass in which no block is skipped, zeros of the padding included, gates left out. Of `inputs` shapes and types
    count; nothing is computed.
    """
    placed = {"device": 0, "host": 0}
    there = {name for name, layer in net.named_modules() if isinstance(layer, _Layer) and layer.host is None}
    plain = in_float(net).to("meta").eval()
    _take_off(plain)

    def count(name: str) -> Callable[[nn.Module, object, torch.Tensor], None]:
        place = "device" if name in there else "host"
        return lambda layer, _, y: placed.update({place: placed[place] + macs_of_output(layer, y)})

    for name, layer in plain.named_modules():
        if isinstance(layer, _KINDS):
            layer.register_forward_hook(count(name))
    with torch.no_grad():
        plain(*(one.to("meta") for one in inputs))
    return placed


def in_float(module: nn.Module) -> nn.Module:
    """A copy of the converted `module` that computes in float32 on the host, as before `convert`.

    What a method has put on it stays, such as gates and batch norm by range.
    """
    plain = copy.deepcopy(module)
    for layer in plain.modules():
        if isinstance(layer, _Layer):
            layer.__class__ = nn.Conv2d if isinstance(layer, nn.Conv2d) else nn.Linear
            for name in "bits", "connection", "fqn", "signer", "gradients", "buckets", "host", "chosen":
                layer.__dict__.pop(name, None)
    return plain


def signers(module: nn.Module) -> dict[str, Signer]:
    """By name, of all layers whose weight gets signs."""
    return {
        name: layer.signer
        for name, layer in module.named_modules()
        if isinstance(layer, _Layer) and layer.signer is not None
    }


def layer_counters(net: nn.Module, step: Callable[[nn.Module], object]) -> list[dict[str, Any]]:
    """Runs `step` on a copy of the converted `net` with a MARK around each product.

    Rows in the order of execution: "layer", "phase", "bit_macs" and how much each counter grew.
    """
    net = copy.deepcopy(net)
    for module in net.modules():
        if getattr(module, "host", None) is not None:
            module.host = copy.copy(module.host)  # this step is none of those that were counted
    connections = {layer.connection for layer in net.modules() if isinstance(layer, _Layer)}
    rows: list[dict[str, Any]] = []
    for connection in connections:
        connection.measured = rows
    try:
        step(net)
    finally:
        for connection in connections:
            connection.measured = None
    return rows
