"""The driver on the simulated hardware: exact results, the model's execution counters, clear refusals."""

import os
import random
import sys
from pathlib import Path

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.errors import DeviceError, LinkError, UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.quantised import Quantised
from bitfirst.transports import RtlTransport
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import codec, registers
from bitfirst_hdl.contract.numeric import limits
from bitfirst_hdl.contract.packets import CONTRACT_VERSION, Opcode, Phase, Space
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from emulated_device import EmulatedDevice, EmulatedTransport
from test_link import serial_port
from torch.nn import functional

TINY = CONFIGS["tiny"]
TROUBLE = ("retransmitted_frames", "refused_frames", "damaged_frames", "skipped_bytes", "lost_responses", "silences")


@pytest.fixture
def rtl() -> BoardDevice:
    with bitfirst.open("rtl:tiny") as device:
        yield device


def random_tensor(generator: random.Random, shape: tuple[int, ...], bits: int, signed: bool) -> Quantised:
    """Random integers of the whole range; in some tensors the extremes alone, or zeros."""
    low, high = limits(bits, signed)
    source = torch.Generator().manual_seed(generator.getrandbits(32))
    values = torch.randint(low, high + 1, shape, generator=source)
    kind = generator.random()
    if kind < 0.2:
        values = torch.where(values > (low + high) // 2, high, low)
    elif kind < 0.25:
        values = torch.zeros_like(values)
    return Quantised(values.float(), bits, signed, 0)


def random_convolution(generator: random.Random) -> tuple[Quantised, Quantised, Quantised, dict[str, int]]:
    """x, w and g of a random convolution with its stride and padding; signed operands of 2 to 16 bits."""
    kernel, stride, padding = generator.choice((1, 2, 3, 5)), generator.randint(1, 3), generator.randint(0, 2)
    size = generator.randint(max(kernel - 2 * padding, 1), 7)
    batch, inputs, outputs = (generator.randint(1, most) for most in (8, 6, 6))
    pixels = (size + 2 * padding - kernel) // stride + 1
    x_signed = generator.random() < 0.5
    x = random_tensor(generator, (batch, inputs, size, size), generator.randint(1 + x_signed, 16), x_signed)
    w = random_tensor(generator, (outputs, inputs, kernel, kernel), generator.randint(2, 16), True)
    g = random_tensor(generator, (batch, outputs, pixels, pixels), generator.randint(2, 16), True)
    return x, w, g, {"stride": stride, "padding": padding}


def check_convolution(device: Device, x: Quantised, w: Quantised, g: Quantised, window: dict[str, int]) -> None:
    """y, dX and dW against torch in float64, exact below 2**53."""
    x64, w64 = (operand.values.double().requires_grad_() for operand in (x, w))
    y = functional.conv2d(x64, w64, **window)
    dx, dw = torch.autograd.grad(y, (x64, w64), g.values.double())
    assert torch.equal(device.conv2d(x, w, **window).double(), y)
    assert torch.equal(device.conv2d_input_gradient(g, w, tuple(x.values.shape), **window).double(), dx)
    assert torch.equal(device.conv2d_weight_gradient(g, x, tuple(w.values.shape), **window).double(), dw)


def check_linear(device: Device, generator: random.Random) -> None:
    batch, inputs, outputs = (generator.randint(1, most) for most in (9, 70, 40))
    x = random_tensor(generator, (batch, inputs), 8, True)
    w = random_tensor(generator, (outputs, inputs), 8, True)
    g = random_tensor(generator, (batch, outputs), 16, True)
    x64, w64, g64 = (operand.values.double() for operand in (x, w, g))
    assert torch.equal(device.linear(x, w).double(), x64 @ w64.T)
    assert torch.equal(device.linear_input_gradient(g, w).double(), g64 @ w64)
    assert torch.equal(device.linear_weight_gradient(g, x).double(), g64.T @ x64)


def check_random(device: Device, rounds: int, seed: int) -> dict[str, int]:
    """Random layers, forward and backward, exact; returns the execution counters."""
    generator = random.Random(seed)
    for _ in range(rounds):
        check_convolution(device, *random_convolution(generator))
        check_linear(device, generator)
    counters = device.counters()
    return {name: counters[name] for name in EXECUTION_COUNTERS}


def check_as_on_the_model(device: Device, rounds: int, seed: int) -> None:
    model = ModelDevice(device.config)
    counters, expected = check_random(device, rounds, seed), check_random(model, rounds, seed)
    assert counters == expected
    assert counters["matmuls"] >= 6 * rounds
    assert counters["elements_read"] > 0
    assert counters["phase"] == Phase.WEIGHT_GRADIENT
    assert device.bytes_moved == model.bytes_moved
    assert device.bit_macs == model.bit_macs > 0
    execution = [name for name in EXECUTION_COUNTERS if name != "phase"]
    for phase, booked in model.phase_counters.items():
        assert {name: device.phase_counters[phase][name] for name in execution} == booked
    assert len(device.phase_counters) >= 4


def trouble(device: BoardDevice) -> dict[str, int]:
    return {name: getattr(device.statistics, name) for name in TROUBLE if getattr(device.statistics, name)}


# results and counters


@pytest.mark.parametrize("seed", range(3))
def test_rtl_is_exact_and_counts_as_the_model(rtl: BoardDevice, seed: int) -> None:
    check_as_on_the_model(rtl, rounds=12, seed=seed)
    assert trouble(rtl) == {}


def test_layers_beyond_the_store_are_exact(rtl: BoardDevice) -> None:
    """Tensors that make room for one another, against PyTorch alone."""
    generator = random.Random(3)
    x = random_tensor(generator, (8, 25, 7, 7), 8, False)
    w = random_tensor(generator, (20, 25, 3, 3), 5, True)
    g = random_tensor(generator, (8, 20, 4, 4), 11, True)
    check_convolution(rtl, x, w, g, {"stride": 2, "padding": 1})
    assert rtl.store.refetched_bytes > 0


def test_emulated_board_is_exact_and_counts_as_the_model() -> None:
    device = BoardDevice("emulated", EmulatedTransport(EmulatedDevice(TINY)), TINY)
    check_as_on_the_model(device, rounds=6, seed=7)
    assert trouble(device) == {}


def test_arrival_counters_are_the_same_each_time() -> None:
    counters = []
    for _ in range(2):
        with bitfirst.open("rtl:tiny") as device:
            check_random(device, rounds=3, seed=11)
            counters.append(device.counters())
    assert counters[0] == counters[1]
    assert counters[0]["cycles"] > counters[0]["matmul_cycles"] > 0


def test_serial_port_to_the_rtl() -> None:
    transport = RtlTransport(TINY)
    with serial_port(transport) as path, bitfirst.open(f"serial://{path}?baud=1000000&config=tiny") as device:
        check_as_on_the_model(device, rounds=2, seed=3)
        assert trouble(device) == {}
    transport.close()


def test_recording_of_the_rtl_replays(tmp_path: Path) -> None:
    path = tmp_path / "session"
    with bitfirst.open("rtl:tiny", record=path) as device:
        counters = check_random(device, rounds=2, seed=5)
    with bitfirst.open(f"replay:{path}") as replayed:
        assert check_random(replayed, rounds=2, seed=5) == counters
        assert replayed.config == TINY
    with (
        bitfirst.open(f"replay:{path}?config=tiny") as replayed,
        pytest.raises(LinkError, match="differs at request byte"),
    ):
        check_random(replayed, rounds=2, seed=6)


# single commands and refusals


def test_refused_command_names_itself_and_the_device_goes_on(rtl: BoardDevice) -> None:
    fields = {"space": Space.SUMS, "bits": 64, "rows": 1, "cols": 1, "first": TINY.sum_tiles, "count": 1}
    with pytest.raises(DeviceError, match=r"refused READ\(.*first=8, count=1\) with BAD_RANGE"):
        rtl.execute(Command(Opcode.READ, fields))
    assert rtl.counters()["faults"] == 1
    assert check_random(rtl, rounds=1, seed=0)["faults"] == 1


def windows(size: int, kernel: int, stride: int = 1, padding: int = 0) -> dict[str, int]:
    """LOAD's fields for a convolution of square images of one channel, as a driver without checks would make them."""
    count, one_axis = (size + 2 * padding - kernel) // stride + 1, {}
    for axis in "yx":
        one_axis |= {f"{axis}_start": -padding & 0xFFFF, f"{axis}_step": stride, f"{axis}_count": count & 0xFFFF}
    return one_axis | {"run": kernel, "taps": kernel * kernel, "positions": max(1, count * count)}


ONE_IMAGE = {"slot": 0, "bits": 8, "word": 0, "n": 1, "h": 4, "w": 4, "c": 1}


@pytest.mark.parametrize(
    ("opcode", "fields"),
    [
        (Opcode.TENSOR, {"word": TINY.store_words}),  # outside the store
        (Opcode.TENSOR, {"word": TINY.store_words - 1, "c": 2}),
        (Opcode.TENSOR, {"slot": 1, "word": 0}),  # overlaps the one in slot 0
        (Opcode.TENSOR, {"h": 0}),
        (Opcode.TENSOR, {"c": 0}),
        (Opcode.WRITE, {"row": TINY.store_words - 1, "rows": 2}),
        (Opcode.LOAD, windows(4, kernel=5)),  # larger than the image
        (Opcode.LOAD, windows(4, kernel=6)),
        (Opcode.LOAD, windows(4, kernel=9, padding=2)),
        (Opcode.LOAD, windows(4, kernel=10, padding=2)),
        (Opcode.LOAD, windows(4, kernel=1) | {"y_step": 2}),  # steps past the image
        (Opcode.LOAD, windows(4, kernel=1) | {"x_step": 2}),
        (Opcode.LOAD, windows(4, kernel=1) | {"y_count": 1, "x_count": 2, "x_step": 4, "positions": 2}),
        (Opcode.LOAD, windows(4, kernel=1) | {"positions": 17}),  # behind the last image
        (Opcode.LOAD, windows(4, kernel=1) | {"n_first": 1, "positions": 1}),
        (Opcode.LOAD, windows(4, kernel=4) | {"cell": TINY.b_cells}),
    ],
)
def test_the_gateware_refuses_what_cannot_be(rtl: BoardDevice, opcode: Opcode, fields: dict[str, int]) -> None:
    rtl.execute(Command(Opcode.TENSOR, ONE_IMAGE))
    base = {
        Opcode.TENSOR: ONE_IMAGE,
        Opcode.WRITE: {"space": Space.STORE, "words": 1},
        Opcode.LOAD: {"slot": 0, "target": 1},
    }[opcode]
    data = np.zeros(fields.get("rows", 0), dtype=np.uint64)
    with pytest.raises(DeviceError, match=f"refused {opcode.name}.* with BAD_RANGE: reaches outside"):
        rtl.execute(Command(opcode, base | fields, data))
    for kernel, stride, padding in ((1, 1, 0), (1, 3, 0), (3, 3, 2), (4, 1, 0), (8, 1, 2)):
        rtl.execute(Command(Opcode.LOAD, {"slot": 0, "target": 1} | windows(4, kernel, stride, padding)))
    assert rtl.counters()["faults"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"magic": 0}, "no Bitfirst device"),
        ({"contract_version": 2}, f"contract version 2, this software {CONTRACT_VERSION}; rebuild the bitstream"),
        ({"contract_version": 99}, f"contract version 99, this software {CONTRACT_VERSION}; update this software"),
        ({"lanes": 32}, "built with lanes 32 instead of 16; rebuild the bitstream"),
        ({"datapath": 77}, "update the software"),
    ],
)
def test_other_device_is_refused(change: dict[str, int], message: str) -> None:
    device = EmulatedDevice(TINY)
    device.golden.identity = codec.encode(registers.Identity, **(TINY.identity() | change))
    with pytest.raises(DeviceError, match=message):
        BoardDevice("emulated", EmulatedTransport(device), TINY)


def test_board_tells_its_configuration() -> None:
    assert BoardDevice("emulated", EmulatedTransport(EmulatedDevice(CONFIGS["small"]))).config == CONFIGS["small"]


def test_dead_simulator_is_a_link_error(rtl: BoardDevice) -> None:
    check_random(rtl, rounds=1, seed=0)
    rtl._link.transport._simulator._process.kill()
    with pytest.raises(LinkError, match="open the device again"):
        check_random(rtl, rounds=1, seed=0)


# bitfirst.open


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("modell", "did you mean 'model'.*rtl:CONFIG.*serial:///dev.*replay:FILE"),
        ("usb:1", "unknown.*Kinds: model"),
        ("rtl:tyny", "choose from .*tiny"),
        ("model:absent.toml", "does not exist"),
        ("rtl?speed=1", "options of rtl: record, seed, input_idle, output_stall"),
        ("serial:", "names no path"),
        ("serial:///dev/null?baud=fast", "must be a positive integer"),
        ("tcp://nowhere", "must name a host and a port"),
        ("replay:/nonexistent/file", "cannot be read"),
        ("rtl?output_stall=much", "output_stall = 'much' in rtl.output_stall=much is no number: give it as 0.0"),
        ("rtl?input_idle=1.5", "input_idle = 1.5 must be at least 0 and below 1"),
        ("model?record=x", "unknown; options of model: counting, device"),
    ],
)
def test_urls_that_make_no_sense(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        bitfirst.open(url)


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="waveforms come from the simulator"):
        bitfirst.open("model", trace=tmp_path / "x.vcd")
    with pytest.raises(UsageError, match="no link to record"):
        bitfirst.open("model", record=tmp_path / "x")


@pytest.mark.parametrize("place", ["", ".", "absent/x"])
def test_recording_that_cannot_be_is_refused_before_anything_compiles(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CXX", "no-such-compiler")
    for options in ({"url": f"rtl:tiny?record={place}"}, {"url": "rtl:tiny", "record": place}):
        with pytest.raises(UsageError, match="cannot be written; give record= a file"):
            bitfirst.open(**options)


def test_default_configuration() -> None:
    assert bitfirst.open("model").config == CONFIGS["default"]
    assert bitfirst.open("model:small").config == CONFIGS["small"]


def test_board_needs_no_simulator(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("bitfirst_sim")] + ["bitfirst_sim"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("PATH", os.devnull)
    with serial_port(EmulatedTransport(EmulatedDevice(TINY))) as path, bitfirst.open(f"serial://{path}") as device:
        assert device.config == TINY
        check_random(device, rounds=1, seed=1)


def test_sums_that_may_leave_48_bits_are_refused() -> None:
    with BoardDevice("emulated", EmulatedTransport(EmulatedDevice(CONFIGS["tiny"]))) as board:
        row = Quantised(torch.full((1, 2**16), 65535.0), 16, False, 0)
        with pytest.raises(UsageError, match="sum of 48 bits"):
            board.linear(row, row)
