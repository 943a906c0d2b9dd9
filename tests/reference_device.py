"""A device for the tests of layers and training: float64 convolutions, exact below 2**53; counters that only count."""

import torch
from bitfirst.device import Device
from bitfirst.lowering import Forward, InputGradient, Operation, WeightGradient
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract.packets import Phase
from torch.nn import functional


class ReferenceDevice(Device):
    """Counts each operation as one command of one cycle."""

    def __init__(self) -> None:
        super().__init__("reference", CONFIGS["tiny"])
        self.commands = 0

    def counters(self) -> dict[str, int]:
        names = "commands", "matmuls", "matmul_cycles", "array_steps"
        return dict.fromkeys(names, self.commands) | {"stall_cycles": 0, "elements_read": 0}

    def close(self) -> None:
        pass

    def _mark(self, phase: Phase) -> dict[str, int]:
        return self.counters()

    def _execute(self, operation: Operation) -> torch.Tensor:
        self.commands += 1
        geometry = operation.geometry
        window = {"stride": geometry.stride, "padding": geometry.padding}
        if isinstance(operation, Forward):
            return functional.conv2d(operation.x.values.double(), operation.w.values.double(), **window)
        gradient = operation.g.values.double()
        if isinstance(operation, InputGradient):
            return torch.nn.grad.conv2d_input(geometry.input_shape, operation.w.values.double(), gradient, **window)
        assert isinstance(operation, WeightGradient)
        return torch.nn.grad.conv2d_weight(operation.x.values.double(), geometry.weight_shape, gradient, **window)
