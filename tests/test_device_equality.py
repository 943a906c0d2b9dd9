"""The `model` device, and boards that execute the planned commands, agree in results, counters and bytes."""

import random
from dataclasses import replace
from itertools import product
from pathlib import Path

import bitfirst
import numpy as np
import pytest
import torch
from amaranth.hdl import Const
from bitfirst.benches import cycles
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.errors import UsageError
from bitfirst.golden.commands import GoldenDevice
from bitfirst.golden.model import ModelDevice
from bitfirst.golden.psg import Split
from bitfirst.quantised import Quantised
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract.numeric import limits
from bitfirst_hdl.contract.packets import Opcode, Phase, Space, Target
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from bitfirst_hdl.sequencer import Sequencer
from bitfirst_sim import build
from emulated_device import EmulatedDevice, EmulatedTransport


def command_board(config: ArrayConfig) -> BoardDevice:
    """The driver in front of the command-level model."""
    return BoardDevice("commands", EmulatedTransport(EmulatedDevice(config)), config)


def execution(device: Device) -> dict[str, int]:
    counters = device.counters()
    return {name: counters[name] for name in EXECUTION_COUNTERS}


def quantised(
    generator: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool, low: int = 0
) -> Quantised:
    least, most = Split(bits, low, signed).limits if low else limits(bits, signed)
    values = generator.integers(least, most, shape, endpoint=True)
    return Quantised(torch.tensor(values, dtype=torch.float32), bits, signed, 0, low=low)


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


@pytest.mark.parametrize(
    "name", ["tiny", "default", "slice1", "slice8", "least", "micro", "fixed", "fixed16", "fusion"]
)
@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_convolutions(name: str, precision: tuple[int, bool, int, int]) -> None:
    x_bits, x_signed, w_bits, g_bits = precision
    generator = np.random.default_rng(x_bits)
    model, board = ModelDevice(CONFIGS[name]), command_board(CONFIGS[name])
    for batch, inputs, outputs, height, width, kernel, stride, padding in LAYERS:
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = quantised(generator, (batch, inputs, height, width), x_bits, x_signed)
        w = quantised(generator, (outputs, inputs, *taps), w_bits, True)
        y = same(model, board, "conv2d", x, w, stride, padding)
        g = quantised(generator, tuple(y.shape), g_bits, True)
        same(model, board, "conv2d_input_gradient", g, w, x.values.shape, stride, padding)
        same(model, board, "conv2d_weight_gradient", g, x, w.values.shape, stride, padding)
        assert execution(model) == execution(board)
    assert_same_books(model, board)


@pytest.mark.parametrize("name", ["tiny", "slice1", "slice8", "least", "fixed", "fusion"])
@pytest.mark.parametrize("x_signed", [False, True])
def test_split_operands_are_read_whole(name: str, x_signed: bool) -> None:
    """Forward, dX and dW of tensors that are stored cut in two: the same integers, on both sides."""
    generator = np.random.default_rng(7)
    config = CONFIGS[name]
    model, board = ModelDevice(config), command_board(config)
    g_lows = (6, 1, 10) if config.datapath == "serial" else (8, 8, 8)
    for (batch, inputs, outputs, height, width, kernel, stride, padding), g_low in zip(LAYERS, g_lows, strict=False):
        taps = (kernel, kernel) if isinstance(kernel, int) else kernel
        x = quantised(generator, (batch, inputs, height, width), 16, x_signed, low=8)
        w = quantised(generator, (outputs, inputs, *taps), 8, True)
        y = same(model, board, "conv2d", x, w, stride, padding)
        plain = replace(x, low=0)
        assert torch.equal(y.to(torch.int64), board.conv2d(plain, w, stride, padding).to(torch.int64))
        assert torch.equal(y.to(torch.int64), model.conv2d(plain, w, stride, padding).to(torch.int64))
        g = quantised(generator, tuple(y.shape), 16, True, low=g_low)
        same(model, board, "conv2d_input_gradient", g, w, x.values.shape, stride, padding)
        dw = same(model, board, "conv2d_weight_gradient", g, x, w.values.shape, stride, padding)
        expected = torch.nn.grad.conv2d_weight(x.values.double(), w.values.shape, g.values.double(), stride, padding)
        assert torch.equal(dw.double(), expected)
    assert_same_books(model, board)


def test_slices_that_a_split_does_not_meet_are_refused() -> None:
    w = quantised(np.random.default_rng(1), (2, 2, 1, 1), 8, True, low=3)
    x = Quantised(torch.zeros(1, 2, 2, 2), 8, False, 0)
    with pytest.raises(UsageError, match="3 low bits cannot be taken in slices of 4: choose a multiple"):
        command_board(CONFIGS["tiny"]).conv2d(x, w)
    split = quantised(np.random.default_rng(1), (1, 2, 2, 2), 12, False, low=4)
    digits = {"fixed": 8, "fusion": 8, "fixed16": 16}
    for name, make in product(digits, (command_board, ModelDevice)):
        device = make(CONFIGS[name])
        with pytest.raises(UsageError, match=f"4 low bits cannot be taken in slices of {digits[name]}: choose a mul"):
            device.conv2d(split, replace(w, low=0))


def test_linear_layers() -> None:
    generator = np.random.default_rng(5)
    model, board = ModelDevice(CONFIGS["tiny"]), command_board(CONFIGS["tiny"])
    for batch, inputs, outputs in ((1, 1, 1), (5, 33, 10), (64, 20, 3)):
        x, w = quantised(generator, (batch, inputs), 8, False), quantised(generator, (outputs, inputs), 8, True)
        g = quantised(generator, (batch, outputs), 16, True)
        same(model, board, "linear", x, w)
        same(model, board, "linear_input_gradient", g, w)
        same(model, board, "linear_weight_gradient", g, x)
    assert_same_books(model, board)


def test_zeros_are_legal_everywhere() -> None:
    model, board = ModelDevice(CONFIGS["tiny"]), command_board(CONFIGS["tiny"])
    zeros = Quantised(torch.zeros(2, 3, 4, 4), 8, True, 0)
    kernel = Quantised(torch.zeros(2, 3, 3, 3), 8, True, 0)
    assert not same(model, board, "conv2d", zeros, kernel, 1, 1).any()
    assert model.counters()["serial_ones"] == board.counters()["serial_ones"] == 0
    assert_same_books(model, board)


def assert_same_books(model: ModelDevice, board: BoardDevice) -> None:
    for device in (model, board):
        device.mark(Phase.OTHER)
    assert execution(model) == execution(board)
    for phase, counters in model.phase_counters.items():
        assert counters == {name: board.phase_counters[phase][name] for name in counters}
    assert model.phase_counters.keys() == board.phase_counters.keys()
    assert model.bytes_moved == board.bytes_moved > 0
    assert model.bit_macs == board.bit_macs
    assert model.counters()["array_steps"] > 0
    assert model.counters()["loads" if model.config.gathers else "words_written"] > 0


def test_a_tensor_in_the_store_is_not_sent_again() -> None:
    """Forward, dX and dW need three tensors; when the store holds less, the rest is counted as spilled."""
    generator = np.random.default_rng(6)
    x = quantised(generator, (2, 16, 6, 6), 8, False)
    w, g = quantised(generator, (4, 16, 3, 3), 8, True), quantised(generator, (2, 4, 6, 6), 8, True)
    written = []
    for store_words in (1024, 64):
        config = ArrayConfig(**CONFIGS["tiny"].as_dict() | {"store_words": store_words})
        model, board = ModelDevice(config), command_board(config)
        same(model, board, "conv2d", x, w, 1, 1)
        same(model, board, "conv2d_input_gradient", g, w, x.values.shape, 1, 1)
        same(model, board, "conv2d_weight_gradient", g, x, w.values.shape, 1, 1)
        assert_same_books(model, board)
        assert model.store.refetched_bytes == board.store.refetched_bytes
        assert (board.store.refetched_bytes > 0) == (store_words == 64)
        written.append(board.counters()["words_written"])
    assert 2 * (72 + 36 + 18) <= written[0] < written[1]


# the same on the simulated hardware
@pytest.mark.parametrize("name", ["tiny", "least", "micro"])
def test_layers_on_the_simulated_board(name: str) -> None:
    generator = np.random.default_rng(11)
    model = ModelDevice(CONFIGS[name])
    with bitfirst.open(f"rtl:{name}") as board:
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


def compared(board: BoardDevice, commands: int, seed: int) -> dict:
    found = cycles.Findings()
    cycles.compare(board, commands, seed, found)
    return found.as_dict()


def assert_covered(found: dict, config: ArrayConfig) -> None:
    assert (found["result_mismatches"], found["counter_mismatches"]) == (0, 0), found["first_mismatch"]
    assert found["commands"] > 200
    assert found["counter_comparisons"] > 20
    coverage = found["coverage"]
    pairs = len(config.slice_counts) * len(config.plane_counts)
    assert coverage["precision_pairs"] == coverage["possible_precision_pairs"] == pairs
    assert pairs <= 2 * 200 // 3  # so that 200 commands, of which two thirds are for pairs, reach all by any seed
    assert {opcode.name for opcode in config.commands} <= set(coverage["opcodes"])
    assert set(coverage["statuses"]) == {"OK", "BAD_OPCODE", "BAD_LENGTH", "BAD_SPACE", "BAD_RANGE", "BAD_VALUE"}
    assert (coverage["splits"] > 0) == (not config.is_wide)  # no sign within a digit
    assert (coverage["spills"] > 0) == config.gathers  # without a store nothing is kept


@pytest.mark.parametrize("name", ["tiny", "slice8", "least", "micro"])
def test_random_commands_on_the_command_level_model(name: str) -> None:
    """The bench itself, without hardware: it finds nothing where nothing differs."""
    config = CONFIGS[name]
    assert_covered(compared(command_board(config), commands=250, seed=2), config)


@pytest.mark.parametrize("name", ["tiny", "least", "micro"])
def test_random_commands_on_the_simulated_board(name: str) -> None:
    """With every byte there in time, and under schedules of bytes."""
    found = cycles.bench_cycles(f"rtl:{name}", commands=200, seed=1)
    assert_covered(found, CONFIGS[name])
    assert found["commands"] > 3 * 200
    assert [url.partition("?")[2] for url in found["rounds"]] == ["", *(f"{s}&seed=1" for s in cycles.BYTE_SCHEDULES)]


#: Rows of a memory whose cells 0 to 31 a MATMUL walks over: the first, those around the last, one behind
WRITTEN_ROWS = {Space.CELLS_A: (0, 61, 62, 63, 64), Space.CELLS_B: (0, 239, 247, 255, 256)}


def written_while_read(board: BoardDevice) -> cycles.Findings:
    """For both operands long MATMULs, a WRITE of one row right behind each, and its sums."""
    found = cycles.Findings()
    wire = cycles.Wire(board.transport, board.config.rx_words)
    comparison = cycles.Comparison(wire, board.config, board.fingerprint, found)
    rng = random.Random(5)
    comparison.run([Command(Opcode.RESET).payload(), *cycles.fill(board.config, rng)])
    walk = {"slices": 4, "planes": 16, "chunks": 16, "row_tiles": 1, "col_tiles": 1, "a_octets": 2, "b_octets": 2}
    read = {"space": Space.SUMS, "bits": 64, "rows": board.config.rows, "cols": board.config.columns, "count": 1}
    for space, rows in WRITTEN_ROWS.items():
        for row in rows:
            place = {"space": space, "row": row, "rows": 1, "words": 1}
            write = Command(Opcode.WRITE, place, cycles.random_words(rng, 1))
            comparison.run([c.payload() for c in (Command(Opcode.MATMUL, walk), write, Command(Opcode.READ, read))])
    return found


def test_cells_are_not_written_while_they_are_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And it shows where WRITEs do not wait for the MATMUL that walks over the cells."""
    with bitfirst.open("rtl:least") as board:
        found = written_while_read(board)
    assert (found.result_mismatches, found.counter_mismatches) == (0, 0), found.first_mismatch
    monkeypatch.setenv("BITFIRST_CACHE", str(tmp_path))  # the cache goes by the sources
    monkeypatch.setattr(build, "FAST_FLAGS", ("-O0",))
    meets = Sequencer._meets_matmuls
    monkeypatch.setattr(Sequencer, "_meets_matmuls", lambda self, m: (Const(0), meets(self, m)[1]))
    with bitfirst.open("rtl:least") as board:
        found = written_while_read(board)
    assert found.result_mismatches > 4 and "READ" in found.first_mismatch


def test_a_byte_schedule_changes_cycles_and_nothing_else() -> None:
    waits = {}
    slow = f"rtl:tiny?{cycles.BYTE_SCHEDULES[0]}&seed=3"
    for url in ("rtl:tiny", slow, slow):
        with bitfirst.open(url) as board:
            found = compared(board, commands=60, seed=3)
            assert (found["result_mismatches"], found["counter_mismatches"]) == (0, 0), found["first_mismatch"]
            waits.setdefault(url, []).append(board.transport.cycles)
    (free,), (first, second) = waits.values()
    assert first == second > free


class Miscounting(GoldenDevice):
    """Counts a one too many in every MATMUL."""

    def _matmul(self, fields: dict[str, int], data: np.ndarray) -> np.ndarray:
        self._counters["serial_ones"] += 1
        return super()._matmul(fields, data)


class Misplacing(GoldenDevice):
    """Takes one lane of each LOAD for another."""

    def _load(self, fields: dict[str, int], data: np.ndarray) -> np.ndarray:
        answer = super()._load(fields, data)
        cell = self.cells[Target(fields["target"])][fields["cell"]]
        cell[0, :2] = cell[0, 1::-1]
        return answer


def compare_with(kind: type[GoldenDevice]) -> dict:
    emulated = EmulatedDevice(CONFIGS["tiny"])
    emulated.golden = kind(CONFIGS["tiny"])
    board = BoardDevice("commands", EmulatedTransport(emulated), CONFIGS["tiny"])
    return compared(board, commands=100, seed=0)


def test_a_wrong_counter_is_found() -> None:
    found = compare_with(Miscounting)
    assert found["counter_mismatches"] > 0 == found["result_mismatches"]
    assert "serial_ones" in found["first_mismatch"]


def test_a_wrong_lane_is_found() -> None:
    assert compare_with(Misplacing)["result_mismatches"] > 0
