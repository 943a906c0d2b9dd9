"""The `model` device, and the planned commands executed one by one, agree in results, counters and bytes."""

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import packing
from bitfirst.benches import cycles
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.golden.commands import GoldenDevice
from bitfirst.golden.model import ModelDevice
from bitfirst.lowering import Operation
from bitfirst.plan import FRAME_WORDS, plan
from bitfirst.quantised import Quantised
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract import packets
from bitfirst_hdl.contract.numeric import limits
from bitfirst_hdl.contract.packets import Opcode, Phase, Status
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS


class CommandDevice(Device):
    """Executes every planned command on the command-level model, as a board would."""

    def __init__(self, config: ArrayConfig) -> None:
        super().__init__("commands", config)
        self.golden = GoldenDevice(config)

    def close(self) -> None:
        """Nothing is held."""

    def counters(self) -> dict[str, int]:
        self._call(Command(Opcode.COUNTERS))
        return self.golden.counters

    def _mark(self, phase: Phase) -> dict[str, int]:
        self._call(Command(Opcode.MARK, {"phase": phase}))
        return self.golden.counters

    def _execute(self, operation: Operation) -> torch.Tensor:
        results = []
        for product in operation.products:
            shape = product.shape
            result = np.full((shape.rows, shape.columns), -(2**62))
            a = packing.pack_a(self.config, product.a(), shape.a_bits, shape.a_signed)
            b = packing.pack_b(self.config, product.b(), shape.b_bits)
            for step in plan(self.config, shape).commands(a, b):
                data = self._call(step.command)
                if step.fetch is not None:
                    step.fetch.store(data, result)
            results.append(result)
        return operation.assemble(results)

    def _call(self, command: Command) -> np.ndarray:
        status, data = self.golden.execute(command)
        assert status == Status.OK, command
        words = len(command.payload()) + FRAME_WORDS + 1 + len(data) + FRAME_WORDS
        self.bytes_moved += words * packets.WORD_BYTES
        return data


def quantised(generator: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> Quantised:
    values = generator.integers(*limits(bits, signed), shape, endpoint=True)
    return Quantised(torch.tensor(values, dtype=torch.float32), bits, signed, 0)


LAYERS = [
    # batch, inputs, outputs, height, width, kernel, stride, padding
    (2, 3, 5, 7, 6, 3, 1, 1),
    (3, 4, 8, 8, 8, 3, 2, 1),
    (2, 2, 3, 9, 7, (3, 2), (2, 3), (0, 1)),
    (1, 1, 1, 1, 1, 1, 3, 1),  # no input pixel is used
    (2, 4, 6, 8, 8, 1, 2, 0),  # a shortcut: most input pixels are not used
    (2, 9, 12, 6, 6, 3, 1, 1),
]
PRECISIONS = [  # x, x signed, w, g
    (8, False, 8, 16),
    (16, True, 16, 16),
    (1, False, 3, 5),
    (7, True, 2, 9),
]


def same(model: ModelDevice, board: Device, operation: str, *arguments: object) -> torch.Tensor:
    expected, got = (getattr(device, operation)(*arguments) for device in (model, board))
    assert torch.equal(expected.to(torch.int64), got.to(torch.int64)), operation
    return got


@pytest.mark.parametrize("name", ["tiny", "default", "slice1", "slice8"])
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_convolutions(name: str, precision: tuple[int, bool, int, int]) -> None:
    x_bits, x_signed, w_bits, g_bits = precision
    generator = np.random.default_rng(x_bits)
    model, board = ModelDevice(CONFIGS[name]), CommandDevice(CONFIGS[name])
    for batch, inputs, outputs, height, width, kernel, stride, padding in LAYERS:
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = quantised(generator, (batch, inputs, height, width), x_bits, x_signed)
        w = quantised(generator, (outputs, inputs, *taps), w_bits, True)
        y = same(model, board, "conv2d", x, w, stride, padding)
        g = quantised(generator, tuple(y.shape), g_bits, True)
        same(model, board, "conv2d_input_gradient", g, w, x.values.shape, stride, padding)
        same(model, board, "conv2d_weight_gradient", g, x, w.values.shape, stride, padding)
        assert model.counters() == board.counters()
    assert_same_books(model, board)


def test_linear_layers() -> None:
    generator = np.random.default_rng(5)
    model, board = ModelDevice(CONFIGS["tiny"]), CommandDevice(CONFIGS["tiny"])
    for batch, inputs, outputs in ((1, 1, 1), (5, 33, 10), (64, 20, 3)):
        x, w = quantised(generator, (batch, inputs), 8, False), quantised(generator, (outputs, inputs), 8, True)
        g = quantised(generator, (batch, outputs), 16, True)
        same(model, board, "linear", x, w)
        same(model, board, "linear_input_gradient", g, w)
        same(model, board, "linear_weight_gradient", g, x)
    assert_same_books(model, board)


def test_zeros_are_legal_everywhere() -> None:
    model, board = ModelDevice(CONFIGS["tiny"]), CommandDevice(CONFIGS["tiny"])
    zeros = Quantised(torch.zeros(2, 3, 4, 4), 8, True, 0)
    kernel = Quantised(torch.zeros(2, 3, 3, 3), 8, True, 0)
    assert not same(model, board, "conv2d", zeros, kernel, 1, 1).any()
    assert model.counters()["serial_ones"] == board.counters()["serial_ones"] == 0
    assert_same_books(model, board)


def assert_same_books(model: ModelDevice, board: CommandDevice) -> None:
    for device in (model, board):
        device.mark(Phase.OTHER)
    assert model.counters() == board.counters()
    assert model.phase_counters == board.phase_counters
    assert model.bytes_moved == board.bytes_moved > 0
    assert model.bit_macs == board.bit_macs
    assert model.counters()["array_steps"] > 0


# the same on the simulated hardware
def test_layers_on_the_simulated_board() -> None:
    generator = np.random.default_rng(11)
    config = CONFIGS["tiny"]
    model = ModelDevice(config)
    with bitfirst.open("rtl:tiny") as board:
        for batch, inputs, outputs, height, width, kernel, stride, padding in (LAYERS[1], LAYERS[2], LAYERS[5]):
            taps = (kernel, kernel) if isinstance(kernel, int) else kernel
            x = quantised(generator, (batch, inputs, height, width), 8, False)
            w = quantised(generator, (outputs, inputs, *taps), 8, True)
            y = same(model, board, "conv2d", x, w, stride, padding)
            g = quantised(generator, tuple(y.shape), 16, True)
            same(model, board, "conv2d_input_gradient", g, w, x.values.shape, stride, padding)
            same(model, board, "conv2d_weight_gradient", g, x, w.values.shape, stride, padding)
            expected, got = model.counters(), board.counters()
            assert {name: got[name] for name in EXECUTION_COUNTERS} == expected
        assert board.bytes_moved == model.bytes_moved > 0
        assert got["cycles"] > got["matmul_cycles"] > 0


def test_random_commands_on_the_simulated_board() -> None:
    found = cycles.bench_cycles("rtl:tiny", commands=200, seed=1)
    assert (found["result_mismatches"], found["counter_mismatches"]) == (0, 0), found["first_mismatch"]
    assert found["commands"] > 200
    assert found["counter_comparisons"] > 20
    coverage = found["coverage"]
    assert coverage["precision_pairs"] == coverage["possible_precision_pairs"] == 64
    assert {"WRITE", "READ", "MATMUL", "MARK", "COUNTERS", "SYNC", "PING", "RESET"} <= set(coverage["opcodes"])
    assert set(coverage["statuses"]) == {"OK", "BAD_OPCODE", "BAD_LENGTH", "BAD_SPACE", "BAD_RANGE", "BAD_VALUE"}
    assert coverage["splits"] > 0
    assert coverage["spills"] > 0


def test_a_wrong_counter_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    multiply = GoldenDevice._matmul

    def miscount(device: GoldenDevice, *arguments: object) -> np.ndarray:
        device._counters["serial_ones"] += 1
        return multiply(device, *arguments)

    monkeypatch.setattr(GoldenDevice, "_matmul", miscount)
    found = cycles.bench_cycles("rtl:tiny", commands=30)
    assert found["counter_mismatches"] > 0
    assert "serial_ones" in found["first_mismatch"]
