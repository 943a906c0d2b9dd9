"""One training step of ResNet-20 on `model`, against the same step in fp32 and in two quantisation libraries."""

import copy
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .. import convert
from .. import open as open_device
from ..models import resnet20

BATCH = 32
CLASSES = 10
REPETITIONS = 7
UNCOUNTED = "model?counting=0"
OTHERS = "fp32", "qtorch", "brevitas"
ACTIVATION_BITS, WEIGHT_BITS, GRADIENT_BITS = 8, 8, 16

logger = logging.getLogger(__name__)
Replace = Callable[[nn.Conv2d | nn.Linear], nn.Module]


def bench_step(batch: int = BATCH, repetitions: int = REPETITIONS, device_url: str = "model") -> dict[str, Any]:
    """Times of one step (forward, backward, SGD) and our ratio to each of the others; None where one is missing.

    The variants take turns, so that a busy machine slows all of them; times are medians in seconds. Our step
    includes checking every operand; "bitfirst" counts everything that the hardware would count, too, "uncounted" does
    as the others, and as studies of accuracy, and counts nothing.
    """
    torch.manual_seed(0)
    fp32 = resnet20()
    with open_device(device_url) as device, open_device(UNCOUNTED) as uncounted:
        networks = {"fp32": fp32, "bitfirst": convert(fp32, device), "uncounted": convert(fp32, uncounted)}
        for name, make in (("qtorch", _qtorch_layers), ("brevitas", _brevitas_layers)):
            network = _replaced(name, fp32, make)
            if network is not None:
                networks[name] = network
        times = _measure(networks, batch, repetitions)
        counters = device.counters()
        bit_macs = device.bit_macs
        refetched_bytes = device.store.refetched_bytes
    seconds = {name: statistics.median(values) for name, values in times.items()}
    return {
        **{f"ratio_to_{name}": _ratio(seconds, "bitfirst", name) for name in OTHERS},
        **{f"uncounted_ratio_to_{name}": _ratio(seconds, "uncounted", name) for name in OTHERS},
        "seconds": seconds,
        "fastest_seconds": {name: min(values) for name, values in times.items()},
        "batch": batch,
        "repetitions": repetitions,
        "threads": torch.get_num_threads(),
        "device": device_url,
        "matmul_cycles": counters["matmul_cycles"],
        "bit_macs": bit_macs,
        "refetched_bytes": refetched_bytes,
    }


def _ratio(seconds: dict[str, float], ours: str, name: str) -> float | None:
    return seconds[ours] / seconds[name] if name in seconds else None


def _measure(networks: dict[str, nn.Module], batch: int, repetitions: int) -> dict[str, list[float]]:
    """Seconds of each step of each network; the first step, which also allocates and plans, is left out."""
    images, labels = torch.rand(batch, 3, 32, 32), torch.randint(CLASSES, (batch,))
    optimisers = {name: torch.optim.SGD(network.parameters(), lr=0.01) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in networks}
    for repetition in range(repetitions + 1):
        for name, network in networks.items():
            start = time.perf_counter()
            loss = functional.cross_entropy(network(images), labels)
            loss.backward()
            optimisers[name].step()
            optimisers[name].zero_grad()
            if repetition:
                times[name].append(time.perf_counter() - start)
    return times


def _replaced(name: str, module: nn.Module, make: Callable[[], Replace]) -> nn.Module | None:
    """A copy of `module` with its layers replaced; None when the library is missing or does not run here."""
    try:
        replace = make()
        network = _with_layers(copy.deepcopy(module), replace)
        functional.cross_entropy(network(torch.rand(2, 3, 32, 32)), torch.tensor([0, 1])).backward()
    except (ImportError, OSError, RuntimeError) as error:
        logger.warning("%s is left out: %s", name, error)
        return None
    network.zero_grad()
    return network


def _with_layers(module: nn.Module, replace: Replace) -> nn.Module:
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d | nn.Linear):
            setattr(module, name, replace(child))
        else:
            _with_layers(child, replace)
    return module


def _qtorch_layers() -> Replace:
    """QPyTorch: block floating point with one exponent per tensor is our quantisation, x and w and dL/dy alike."""
    from qtorch import BlockFloatingPoint
    from qtorch.quant import Quantizer

    def quantiser(**bits: int) -> nn.Module:
        numbers = {f"{way}_number": BlockFloatingPoint(wl=width, dim=-1) for way, width in bits.items()}
        rounding = {f"{way}_rounding": "nearest" for way in bits}
        return Quantizer(**numbers, **rounding)

    class Layer(nn.Module):
        def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
            super().__init__()
            self.layer = layer
            self.input = quantiser(forward=ACTIVATION_BITS)
            self.weight = quantiser(forward=WEIGHT_BITS)
            self.output = quantiser(backward=GRADIENT_BITS)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.weight(self.layer.weight)
            if isinstance(self.layer, nn.Conv2d):
                y = self.layer._conv_forward(self.input(x), weight, self.layer.bias)
            else:
                y = functional.linear(self.input(x), weight, self.layer.bias)
            return self.output(y)

    return Layer


def _brevitas_layers() -> Replace:
    """Brevitas: power-of-two scales for x and w; it has no quantiser for gradients, so its backward pass is fp32."""
    from brevitas.nn import QuantConv2d, QuantLinear
    from brevitas.quant import Int8ActPerTensorFixedPoint, Int8WeightPerTensorFixedPoint

    quantisers = {"weight_quant": Int8WeightPerTensorFixedPoint, "input_quant": Int8ActPerTensorFixedPoint}

    def replace(layer: nn.Conv2d | nn.Linear) -> nn.Module:
        bias = layer.bias is not None
        if isinstance(layer, nn.Linear):
            made = QuantLinear(layer.in_features, layer.out_features, bias=bias, **quantisers)
        else:
            made = QuantConv2d(
                layer.in_channels,
                layer.out_channels,
                layer.kernel_size,
                layer.stride,
                layer.padding,
                bias=bias,
                **quantisers,
            )
        made.load_state_dict(layer.state_dict(), strict=False)
        return made

    return replace
