"""What a training did besides its accuracy: how often blocks were computed, which classes took them, work by layer.

Blocks with a gate (or, for stochastic depth, with a probability) are those whose `dispatch` a method has set; tables
have them in the order of the network.
"""

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .bits import Bits
from .blocks import residual_blocks
from .connection import Connection
from .device import Device
from .golden.model import ModelDevice
from .methods import Method
from .methods.block_gates import BlockGates
from .methods.dfq import PrecisionGates
from .methods.precision import Pair
from .nn import layer_counters

Batch = tuple[torch.Tensor, torch.Tensor]  #: images and labels
Counts = list[list[int]]  #: of what was done in training: by block, by option


def blocks(net: nn.Module) -> list[str]:
    """Names of those for which a method chooses."""
    chosen = {name: block.dispatch[1] for name, block in residual_blocks(net).items() if block.dispatch}
    return sorted(chosen, key=chosen.__getitem__)


# gate dynamics
def counts(method: Method) -> Counts:
    """So far, by block: [skipped, executed], or how often each option of `options` was taken; [] without blocks."""
    found = next((part.counts for part in method.parts if getattr(part, "counts", None)), [])
    return [[one["seen"] - one["executed"], one["executed"]] if isinstance(one, dict) else list(one) for one in found]


def options(method: Method) -> list[list[int]] | None:
    """[bits forward, bits backward] of each option, 0 for one that skips; None where blocks are computed or skipped."""
    own = next((part.options for part in method.parts if hasattr(part, "options")), None)
    return None if own is None else [[pair.forward, pair.backward] for pair in own]


def grown(method: Method, before: Counts) -> dict[str, Any]:
    """For the history of a training, since `before`: {"executed": by block the share that computed it}, where a method
    chooses blocks; with options "block_bits" too, the mean bits forward. None for a block that was not reached.
    """
    since = [
        [after - until for after, until in zip(*pair, strict=True)] for pair in zip(counts(method), before, strict=True)
    ]
    if not since:
        return {}
    widths = options(method)
    if widths is None:
        return {"executed": [_mean(block, [0, 1]) for block in since]}
    bits = [forward for forward, _ in widths]
    executed = [_mean(block, [int(one > 0) for one in bits]) for block in since]
    return {"executed": executed, "block_bits": [_mean(block, bits) for block in since]}


def _mean(counted: list[int], values: list[int]) -> float | None:
    total = sum(counted)
    return sum(count * value for count, value in zip(counted, values, strict=True)) / total if total else None


def host_macs(method: Method) -> dict[str, int]:
    """MACs so far that the host has computed in floating point, by what they are: {"fp32_macs": n, "gate_macs": n}."""
    found = [part.products for part in method.parts if hasattr(part, "products")]
    return {f"{one.name}_macs": one.macs for one in found}


# routing
def routing(net: nn.Module, batches: Iterable[Batch]) -> dict[str, Any] | None:
    """Of the trained `net` in evaluation: {"blocks", "samples": of each class, "executed": by class and block, the
    share of samples that compute it}; with options "bits" too, the mean bits forward, 0 for what is skipped.

    None for a network without gates. Costs the device a forward pass of the batches.
    """
    gates = next((one for one in net.modules() if isinstance(one, BlockGates)), None)
    names = blocks(net)
    if gates is None or not names:
        return None
    net.eval()
    taken, labels = [], []
    with torch.no_grad():
        for images, classes in batches:
            net(images)
            taken.append(torch.stack([_bits(gates, choice) for choice in gates.choices], 1))
            labels.append(classes)
    bits, members = torch.cat(taken).double(), functional.one_hot(torch.cat(labels)).double()  # [n, blocks or classes]
    samples = members.sum(0)
    executed, mean_bits = (
        (members.T @ part / samples[:, None].clamp(min=1)).tolist() for part in ((bits > 0).double(), bits)
    )
    found = {"blocks": names, "samples": [int(one) for one in samples], "executed": executed}
    return found | ({"bits": mean_bits} if isinstance(gates, PrecisionGates) else {})


def _bits(gates: BlockGates, choice: Any) -> torch.Tensor:
    """[n]: bits forward of each sample, 0 where it skips; without options 0 or 1."""
    if not isinstance(gates, PrecisionGates):
        return choice.chosen.long()
    return torch.tensor([pair.forward for pair in gates.options]).to(choice.option.device)[choice.option]


# work
def layers(net: nn.Module, device: Device, batch: Batch, bits: Bits | None = None) -> list[dict[str, Any]]:
    """Bit-MACs of each layer and phase ({"layer", "phase", "bit_macs"}) in one training step on this batch; with
    `bits`, as if all layers had these.

    The step is that of a copy on a golden model with the configuration of `device`, which is not asked: nothing of the
    training, and no counter, changes.
    """
    other = copy.deepcopy(net)
    connection = Connection(ModelDevice(device.config, device.url, False))
    for layer in other.modules():
        if hasattr(layer, "connection"):
            layer.connection, layer.bits = connection, bits or layer.bits
    other.train()
    images, labels = batch
    rows = layer_counters(other, lambda one: functional.cross_entropy(one(images), labels).backward())
    found = [{key: row[key] for key in ("layer", "phase", "bit_macs")} for row in by_layer(rows)]
    order = [name for name, _ in net.named_modules()]
    return sorted(found, key=lambda row: order.index(row["layer"]))


def by_layer(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each layer and phase, also where its samples went in several buckets."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        named = {name: row[name] for name in ("layer", "phase")}
        before = found.setdefault(tuple(named.values()), dict(named))
        before.update({name: before.get(name, 0) + count for name, count in row.items() if name not in named})
    return list(found.values())


def layer_epochs(run: Any, batch: Batch) -> list[dict[str, Any]] | None:
    """Of a `training.Run` that is done: {"epoch": from 1, "layers": as of `layers`, the mean of the widths that its
    steps had}, for each epoch with a step. All are measured on the trained network. None where widths have stayed.
    """
    changes = next((part.changes for part in run.method.parts if hasattr(part, "changes")), [])
    if len(changes) < 2:
        return None
    measured = {
        pair: layers(run.net, run.meter.device, batch, Pair(*pair).bits) for pair in {one[1:] for one in changes}
    }
    found, start = [], 0
    for row in run.history:
        if row["steps"] > start:
            widths = Counter(_pair_at(changes, step) for step in range(start, row["steps"]))
            found.append({"epoch": row["epoch"], "layers": _mean_work(widths, measured)})
        start = row["steps"]
    return found


def _pair_at(changes: list[tuple[int, int, int]], step: int) -> tuple[int, int]:
    return next((forward, backward) for since, forward, backward in reversed(changes) if since <= step)


def _mean_work(widths: Counter, measured: dict[tuple[int, int], list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Of as many steps with each of these widths."""
    rows = by_layer(
        [row | {"bit_macs": row["bit_macs"] * steps} for pair, steps in widths.items() for row in measured[pair]]
    )
    return [row | {"bit_macs": row["bit_macs"] / widths.total()} for row in rows]


def result(run: Any, net: nn.Module, batches: Iterable[Batch], batch: Batch) -> dict[str, Any]:
    """Of a `training.Run` that is done, what a study keeps: "blocks"; "routing" of `net`, which came of it, on
    `batches`; "signs" as of `signs.Journal.summary`; "layers" and "layer_epochs", the work of a step with `batch`.
    Only what there is.
    """
    found = {
        "blocks": blocks(run.net),
        "routing": routing(net, batches),
        "signs": None if run.journal is None else run.journal.summary(run.net),
        "layers": layers(run.net, run.meter.device, batch),
        "layer_epochs": layer_epochs(run, batch),
    }
    return {name: one for name, one in found.items() if one}
