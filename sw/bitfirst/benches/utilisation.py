"""Utilisation of the array by the layers of ResNet-20, with the operands in the store and with all transport.

utilisation = useful bit-MACs / (bit-MACs a cycle * cycles). Useful are products of a weight with a real pixel, at the
widths asked for: zeros of the halo do not count, nor empty lanes, rows or columns. `nominal` counts the halo's zeros,
as most figures of others do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from bitfirst_hdl.config import ArrayConfig
from bitfirst_hdl.contract.numeric import limits
from bitfirst_hdl.contract.packets import Phase

from .. import open as open_device
from ..board import BoardDevice
from ..errors import UsageError
from ..lowering import Forward, Geometry, InputGradient, Operation, WeightGradient
from ..quantised import Quantised
from ..residency import issue
from ..schedule import schedule

BATCH = 8
SHARE = 0.75  #: of the store that the operands of one measurement may take
DEFAULT, THREE_FOUR, FOUR_SIX = (8, 8, 16), (4, 3, 6), (4, 4, 6)  # x, w, g


@dataclass(frozen=True)
class Layer:
    """`count` equal convolutions of a network; `stage` 0 is the first layer, the last one the classifier."""

    name: str
    stage: int
    count: int
    inputs: int
    outputs: int
    pixels: int
    taps: int = 3
    stride: int = 1

    def geometry(self, batch: int) -> Geometry:
        x = batch, self.inputs, self.pixels, self.pixels
        return Geometry.of(x, (self.outputs, self.inputs, self.taps, self.taps), self.stride, self.taps // 2)


#: with 1 x 1 convolutions as shortcuts, as `models.resnet20` has them
RESNET20 = (
    Layer("first", 0, 1, 3, 16, 32),
    Layer("stage 1", 1, 6, 16, 16, 32),
    Layer("stage 2, first", 2, 1, 16, 32, 32, stride=2),
    Layer("stage 2, shortcut", 2, 1, 16, 32, 32, taps=1, stride=2),
    Layer("stage 2", 2, 5, 32, 32, 16),
    Layer("stage 3, first", 3, 1, 32, 64, 16, stride=2),
    Layer("stage 3, shortcut", 3, 1, 32, 64, 16, taps=1, stride=2),
    Layer("stage 3", 3, 5, 64, 64, 8),
    Layer("classifier", 4, 1, 64, 10, 1, taps=1),
)


def bench_utilisation(device_url: str = "rtl", batch: int = BATCH, seed: int = 0) -> dict[str, Any]:
    """Rows per layer, phase and precision, and means weighted by MACs. Needs a device with a clock (not `model`)."""
    with open_device(device_url) as device:
        if not isinstance(device, BoardDevice):
            raise UsageError(f"{device_url} has no clock: give rtl, rtl:CONFIG or a board")
        rows = [
            _row(device, layer, operation, batch, generator)
            for generator in [torch.Generator().manual_seed(seed)]
            for layer in RESNET20
            for operation in _kinds(layer)
        ]
        config = device.config.as_dict()
    ours = [row for row in rows if row["precision"] in ("8x8", "8x16")]
    return {
        "layers": rows,
        "weighted_utilisation": _mean(ours),
        "weighted_nominal": _mean(ours, "nominal"),
        "weighted_with_transport": _mean(ours, "utilisation_with_transport"),
        "stages": {
            name: {"utilisation": _mean(part), "nominal": _mean(part, "nominal")}
            for name in ("first", "stage 1", "stage 2", "stage 3", "classifier")
            if (part := [row for row in ours if row["name"].startswith(name)])
        },
        "device": device_url,
        "config": config,
    }


def sustained(config: ArrayConfig, batch: int = BATCH) -> float:
    """About the share of `config`'s bit-MAC slots that ResNet-20 uses in forward, dX and dW at 8x8 and 8x16 bits.

    By the planner's account of cycles, without a device: operands in the store, no result read, all layers weighted by
    MACs. `bench_utilisation` measures it.
    """
    useful = slots = 0.0
    for layer in RESNET20:
        macs = layer.count * layer.geometry(batch).useful_macs
        for phase, widths in _kinds(layer):
            if widths != DEFAULT:
                continue
            used, taken = _planned(config, layer, (phase, widths), batch)
            useful += macs
            slots += macs * taken / used
    return useful / slots


def _planned(
    config: ArrayConfig, layer: Layer, kind: tuple[Phase, tuple[int, int, int]], batch: int
) -> tuple[int, int]:
    """Bit-MACs of a layer that are useful, and slots of the cycles that it takes, in portions."""
    phase, widths = kind
    useful = cycles = 0
    for images in _portions(config, layer, kind, batch):
        operation = _operation(layer, phase, widths, images, torch.Generator())
        made = schedule(config, replace(operation.task, sum_bits=0, fresh=""))
        useful += made.waste["useful"]
        cycles += made.cycles
    return useful, cycles * config.bit_macs_per_cycle


def _kinds(layer: Layer) -> Iterator[tuple[Phase, tuple[int, int, int]]]:
    """(phase, widths of x, w and g)"""
    phases = [Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT]
    if layer.stage == 0:
        phases.remove(Phase.INPUT_GRADIENT)
    for phase in phases:
        yield phase, DEFAULT
        yield phase, THREE_FOUR if phase == Phase.FORWARD else FOUR_SIX


def _row(
    device: BoardDevice,
    layer: Layer,
    kind: tuple[Phase, tuple[int, int, int]],
    batch: int,
    generator: torch.Generator,
) -> dict[str, Any]:
    phase, widths = kind
    totals: dict[str, float] = {}
    for images in _portions(device.config, layer, kind, batch):
        operation = _operation(layer, phase, widths, images, generator)
        for name, count in _measure(device, operation).items():
            totals[name] = totals.get(name, 0) + count
    slots = totals["cycles"] * device.config.bit_macs_per_cycle
    waste = {
        "halo": totals["halo"] / slots,
        "padding": totals["padding"] / slots,
        "fill": totals["fill"] / slots,
        "drain": totals["stall"] / slots,
        "starvation": (totals["cycles"] - totals["matmul_cycles"]) / totals["cycles"],
    }
    return {
        "name": layer.name,
        "phase": phase.name.lower(),
        "precision": "x".join(map(str, operation.bits)),
        "batch": batch,
        "count": layer.count,
        "macs": layer.count * layer.geometry(batch).useful_macs,
        "utilisation": totals["useful"] / slots,
        "nominal": _nominal_macs(layer.geometry(batch)) * np.prod(operation.bits) / slots,
        "waste": waste,
        "utilisation_with_transport": totals["useful"] / (totals["all_cycles"] * device.config.bit_macs_per_cycle),
        "cycles": int(totals["cycles"]),
        "cycles_with_transport": int(totals["all_cycles"]),
        "load_wait_cycles": int(totals["load_wait_cycles"]),
    }


def _nominal_macs(geometry: Geometry) -> int:
    """MACs as papers count them: every tap of every output pixel."""
    return int(np.prod(geometry.output_shape)) * int(np.prod(geometry.weight_shape[1:]))


def _portions(config: ArrayConfig, layer: Layer, kind: tuple[Phase, tuple[int, int, int]], batch: int) -> list[int]:
    """The batch in parts whose operands lie in the store together, equal but for the last."""
    phase, widths = kind
    images = batch
    while images > 1:
        generator = torch.Generator().manual_seed(0)
        operation = _operation(layer, phase, widths, images, generator)
        bytes_ = sum(-(-operand.bits // 8) * operand.values.numel() for _, operand in operation.operands)
        if bytes_ <= SHARE * 16 * config.store_words:
            break
        images //= 2
    return [min(images, batch - first) for first in range(0, batch, images)]


def _operation(
    layer: Layer, phase: Phase, widths: tuple[int, int, int], images: int, generator: torch.Generator
) -> Operation:
    geometry = layer.geometry(images)
    x = _random(geometry.input_shape, widths[0], False, generator)
    w = _random(geometry.weight_shape, widths[1], True, generator)
    g = _random(geometry.output_shape, widths[2], True, generator)
    if phase == Phase.FORWARD:
        return Forward(x, w, geometry)
    return InputGradient(g, w, geometry) if phase == Phase.INPUT_GRADIENT else WeightGradient(g, x, geometry)


def _random(shape: tuple[int, ...], bits: int, signed: bool, generator: torch.Generator) -> Quantised:
    low, high = limits(bits, signed)
    values = torch.randint(low, high + 1, shape, generator=generator).to(torch.float32)
    return Quantised(values, bits, signed, 0)


def _measure(device: BoardDevice, operation: Operation) -> dict[str, int]:
    """Cycles from an empty store to all results on the host, and again with the operands there and no result read."""
    device.forget_tensors()
    before = device.settle()
    device.run(operation)
    between = device.settle()
    wanted = schedule(device.config, replace(operation.task, sum_bits=0))
    for command, step in issue(wanted, device.store, operation):
        if step is None:
            raise UsageError(
                f"the store of {device.url} does not hold a layer's operands together: "
                "give a configuration with more store_words"
            )
        device.submit(command)
    after = device.settle()
    grown = {name: after[name] - between[name] for name in after}
    if grown["matmuls"] != wanted.counters["matmuls"]:
        raise AssertionError("the device did not execute what was planned")
    waste = dict(wanted.waste)
    useful, halo = waste.pop("useful"), waste.pop("halo")
    return {
        "cycles": grown["cycles"],
        "all_cycles": between["cycles"] - before["cycles"],
        "matmul_cycles": grown["matmul_cycles"],
        "load_wait_cycles": grown["load_wait_cycles"],
        "useful": useful,
        "halo": halo,
        "padding": sum(waste.values()),
        **wanted.idle,
    }


def _mean(rows: list[dict[str, Any]], name: str = "utilisation") -> float:
    """Weighted by MACs."""
    macs = sum(row["macs"] for row in rows)
    return sum(row[name] * row["macs"] for row in rows) / macs
