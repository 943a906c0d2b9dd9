"""The golden model against the scalar contract, plain integers, and an independent PyTorch reference."""

import copy
import pickle
from dataclasses import replace

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import packing
from bitfirst.command import Command
from bitfirst.errors import UsageError
from bitfirst.golden import exact, numeric
from bitfirst.golden.commands import GoldenDevice
from bitfirst.golden.model import ModelDevice
from bitfirst.lowering import Geometry
from bitfirst.quantised import Quantised
from bitfirst_hdl.config import CONFIGS, STANDARD
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract import numeric as contract
from bitfirst_hdl.contract.packets import (
    LIST_ENTRIES,
    PROGRAM_ROWS,
    SIGN_BITS,
    Opcode,
    Phase,
    Rounding,
    Sign,
    Space,
    Status,
    Target,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

TINY = CONFIGS["tiny"]
sums = st.integers(-(2**47), 2**47 - 1) | st.sampled_from([0, -1, 2**47 - 1, -(2**47)])
words = st.integers(0, 2**32 - 1) | st.sampled_from([0, 2**32 - 1])


def random_integers(generator: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool) -> np.ndarray:
    low, high = contract.limits(bits, signed)
    values = generator.integers(low, high, shape, endpoint=True)
    return np.where(generator.random(shape) < 0.1, generator.choice([low, high, 0], shape), values)


def quantised(generator: np.random.Generator, shape: tuple[int, ...], bits: int, signed: bool = True) -> Quantised:
    values = random_integers(generator, shape, bits, signed)
    return Quantised(torch.tensor(values, dtype=torch.float32), bits, signed, 0)


@pytest.mark.parametrize("axes", [(3, 2, 0), (0,)])
@pytest.mark.parametrize("least", [0, 2**15 - 100])
def test_sums_are_exact_where_float32_is_not(axes, least):
    """Odd numbers near the end of their range: float32 alone would drop their last bits."""
    values = torch.randint(least, 2**15, (64, 2, 32, 32), generator=torch.Generator().manual_seed(0)) | 1
    operand = Quantised(values.float(), 16, True, 0)
    assert torch.equal(exact.sums(operand, axes).to(torch.int64), values.sum(axes, keepdim=True))
    if axes != (0,):
        assert not torch.equal(values.float().sum(axes, keepdim=True).to(torch.int64), values.sum(axes, keepdim=True))


# numbers
@given(words, words, words)
def test_hash_equals_the_contract(a: int, b: int, c: int) -> None:
    assert numeric.mix(*(torch.tensor([word]) for word in (a, b, c))).item() == contract.mix(a, b, c)
    assert numeric.random_bits(a, torch.tensor([b])).item() == contract.random_bits(a, b)


@settings(max_examples=400)
@given(
    sums,
    st.integers(0, 2**16 - 1) | st.sampled_from([1, 2**16 - 1]),
    st.integers(0, 63),
    st.sampled_from(Rounding),
    st.integers(2, 32),
    st.booleans(),
    words,
)
def test_requantise_equals_the_contract(
    total: int, multiplier: int, shift: int, rounding: Rounding, bits: int, signed: bool, random: int
) -> None:
    expected = contract.requantise(total, multiplier, shift, rounding, bits, signed, random)
    number, clipped = numeric.requantise(
        torch.tensor([total]), multiplier, shift, rounding, bits, signed, torch.tensor([random])
    )
    assert (number.item(), clipped.item()) == expected


def test_ties_and_carries_at_every_shift() -> None:
    for shift in range(64):
        half = 2**shift >> 1
        totals = [value for n in (-2, -1, 0, 1, 2) for value in (n * half, n * half + 1, n * half - 1)]
        totals = [value for value in totals if -(2**63) <= value < 2**63]
        for rounding in Rounding:
            for random in (0, 2**31, 2**32 - 1):
                got = numeric.round_shift(torch.tensor(totals), shift, rounding, torch.full((len(totals),), random))
                assert got.tolist() == [contract.round_shift(value, shift, rounding, random) for value in totals]


# packing, read back by the documented place of each bit
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(1, 17))
def test_packed_tensors_lie_where_the_device_looks(bits: int, signed: bool) -> None:
    generator = np.random.default_rng(bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    for shape in ((1,), (2, 8), (3, 5, 7), (16, 1, 1)):
        values = generator.integers(low, high, shape, endpoint=True)
        narrow = next(
            kind for kind in (np.int8, np.uint8, np.int16, np.uint16) if np.array_equal(values.astype(kind), values)
        )
        for kind in (np.int64, np.int32, narrow):
            words = packing.pack_store(values.astype(kind), bits)
            octets, count = -(-bits // 8), -(-values.size // 16)
            assert (words.dtype, words.shape) == (np.uint64, (octets, count, 2))
            for index in range(count * 16):
                value = int(values.reshape(-1)[index]) if index < values.size else 0
                for octet in range(octets):
                    word = sum(int(words[octet, index // 16, half]) << 64 * half for half in range(2))
                    code = sum((word >> (index % 16 + 16 * bit) & 1) << bit for bit in range(8))
                    assert code == value >> 8 * (octets - 1 - octet) & 0xFF
            assert np.array_equal(packing.unpack_store(words, values.size, signed), values.reshape(-1))


# operations
GEOMETRIES = [
    # n, c, o, h, w, kernel, stride, padding
    (2, 3, 5, 7, 6, 3, 1, 1),
    (3, 4, 8, 8, 8, 3, 2, 1),
    (2, 2, 3, 9, 7, (3, 2), (2, 3), (0, 1)),
    (1, 1, 1, 1, 1, 1, 3, 1),
    (2, 4, 6, 8, 8, 1, 2, 0),
    (4, 3, 2, 5, 5, 5, 1, 2),
    (2, 20, 6, 6, 5, 4, 3, 2),
]


def reference(x: torch.Tensor, w: torch.Tensor, stride: object, padding: object) -> torch.Tensor:
    """The convolution by unfolded int64 products, none of whose code the model uses."""
    x, w = x.to(torch.int64), w.to(torch.int64)
    (down, right), (top, left) = ((v, v) if isinstance(v, int) else v for v in (stride, padding))
    x = functional.pad(x, (left, left, top, top))
    windows = x.unfold(2, w.shape[2], down).unfold(3, w.shape[3], right)
    return (windows[:, None] * w[None, :, :, None, None]).sum(dim=(2, 5, 6))


def reference_gradients(x: torch.Tensor, w: torch.Tensor, g: torch.Tensor, stride: object, padding: object) -> tuple:
    """dX and dW in int64, tap by tap."""
    (down, right), (top, left) = ((v, v) if isinstance(v, int) else v for v in (stride, padding))
    padded = functional.pad(x.to(torch.int64), (left, left, top, top))
    dx, dw = torch.zeros_like(padded), torch.zeros(w.shape, dtype=torch.int64)
    g, w = g.to(torch.int64), w.to(torch.int64)
    for i in range(w.shape[2]):
        for j in range(w.shape[3]):
            place = (..., slice(i, i + down * g.shape[2], down), slice(j, j + right * g.shape[3], right))
            rows = padded[place]
            dx[place][..., : g.shape[2], : g.shape[3]] += (g[:, :, None] * w[None, :, :, i, j, None, None]).sum(1)
            dw[:, :, i, j] = (g[:, :, None] * rows[:, None]).sum(dim=(0, 3, 4))
    return dx[:, :, top : top + x.shape[2], left : left + x.shape[3]], dw


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(("x_bits", "w_bits", "g_bits"), [(8, 8, 16), (16, 16, 16), (1, 3, 5), (9, 2, 12)])
def test_operations_equal_plain_integers(geometry: tuple, x_bits: int, w_bits: int, g_bits: int) -> None:
    n, c, o, h, width, kernel, stride, padding = geometry
    generator = np.random.default_rng(abs(hash((geometry, x_bits))) % 2**32)
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    device = ModelDevice(TINY)
    x, w = quantised(generator, (n, c, h, width), x_bits, False), quantised(generator, (o, c, *kernel), w_bits)
    y = device.conv2d(x, w, stride, padding)
    assert torch.equal(y.to(torch.int64), reference(x.values, w.values, stride, padding))
    g = quantised(generator, tuple(y.shape), g_bits)
    dx, dw = reference_gradients(x.values, w.values, g.values, stride, padding)
    got = device.conv2d_input_gradient(g, w, x.values.shape, stride, padding)
    assert torch.equal(got.to(torch.int64), dx)
    got = device.conv2d_weight_gradient(g, x, w.values.shape, stride, padding)
    assert torch.equal(got.to(torch.int64), dw)


def test_linear_layers_with_leading_dimensions() -> None:
    generator = np.random.default_rng(3)
    device = ModelDevice(TINY)
    x, w, g = (quantised(generator, shape, 16) for shape in ((2, 3, 40), (7, 40), (2, 3, 7)))
    integers = [operand.values.to(torch.int64) for operand in (x, w, g)]
    assert torch.equal(device.linear(x, w).to(torch.int64), integers[0] @ integers[1].T)
    assert torch.equal(device.linear_input_gradient(g, w).to(torch.int64), integers[2] @ integers[1])
    expected = integers[2].flatten(0, 1).T @ integers[0].flatten(0, 1)
    assert torch.equal(device.linear_weight_gradient(g, x).to(torch.int64), expected)


@pytest.mark.parametrize("bits", [8, 16])
def test_extreme_values_stay_exact_where_float32_alone_would_not(bits: int) -> None:
    """All operands at their limits: every bound is met with equality, and the last unit counts."""
    limit = contract.limits(bits, True)[1]
    device = ModelDevice(CONFIGS["default"])
    shape = (4, 130, 16, 16)
    x = Quantised(torch.full(shape, float(limit)), bits, True, 0)
    odd = torch.full((3, 130, 3, 3), float(limit))
    odd[0, 0, 0, 0] = limit - 1
    w = Quantised(odd, bits, True, 0)
    y = device.conv2d(x, w)
    assert y[0, 1, 0, 0] == limit * limit * 130 * 9
    assert y[0, 0, 0, 0] == limit * limit * 130 * 9 - limit
    g_values = torch.full(tuple(y.shape), 32767.0)
    g_values[0, 0, 0, 0] = -32766
    g = Quantised(g_values, 16, True, 0)
    dw = device.conv2d_weight_gradient(g, x, w.values.shape)
    assert dw[1, 0, 0, 0] == 32767 * limit * 4 * 14 * 14
    assert dw[0, 0, 0, 0] == 32767 * limit * (4 * 14 * 14 - 1) - 32766 * limit
    dx = device.conv2d_input_gradient(g, w, shape)
    assert dx[1, 5, 8, 8] == 32767 * limit * 27


def test_float64_kernels_equal_the_float32_ones() -> None:
    """The GPU's kernels, on the CPU."""
    generator = np.random.default_rng(9)
    geometry = Geometry.of((2, 3, 9, 8), (4, 3, 3, 2), (2, 1), (1, 0))
    x, w = (quantised(generator, shape, 8) for shape in (geometry.input_shape, geometry.weight_shape))
    g = quantised(generator, geometry.output_shape, 16)
    cut = [exact.cut(operand) for operand in (x, w, g)]
    got = exact.convolution(cut[0], cut[1], geometry)
    assert torch.equal(got.double(), exact._forward_float64(x.values, w.values, geometry))
    got = exact.input_gradient(cut[2], cut[1], geometry)
    assert torch.equal(got.integers(), exact._input_gradient_float64(g.values, w.values, geometry))
    got = exact.weight_gradient(cut[2], cut[0], geometry)
    assert torch.equal(got.integers(), exact._weight_gradient_float64(g.values, x.values, geometry))


@pytest.mark.parametrize("spread", [20, 300, 4000, 32767])
@pytest.mark.parametrize("window", [{"padding": 1}, {"stride": 2, "padding": 1}, {"stride": (3, 1), "padding": (0, 2)}])
def test_float32_is_used_where_it_is_exact_and_no_further(spread: int, window: dict) -> None:
    """Sums beyond 2**24 of every size: over parts of the batch and of the channels, in halves; all positive numbers."""
    generator = np.random.default_rng(spread)
    device = ModelDevice(CONFIGS["default"])
    x, w = (
        Quantised(torch.tensor(generator.integers(64, 256, shape), dtype=torch.float32), 8, False, 0)
        for shape in ((6, 40, 18, 17), (24, 40, 3, 3))
    )
    y = functional.conv2d(x.values.double(), w.values.double(), **window)
    values = generator.integers(spread // 2, spread, tuple(y.shape), endpoint=True)
    g = Quantised(torch.tensor(values, dtype=torch.float32), 16, True, 0)
    assert torch.equal(device.conv2d(x, w, **window).double(), y)
    geometry = Geometry.of(x.values.shape, w.values.shape, window.get("stride", 1), window["padding"])
    dx, dw = device.conv2d_gradients(g, x, w, geometry.stride, geometry.padding)
    assert torch.equal(dx.double(), exact._input_gradient_float64(g.values, w.values, geometry))
    assert torch.equal(dw.double(), exact._weight_gradient_float64(g.values, x.values, geometry))


@pytest.mark.parametrize("peak", [1, 255, 256, 300, 4095, 32767, 65535])
@pytest.mark.parametrize("share", [1, 0.02])
def test_pieces_add_up_and_keep_their_bounds(peak: int, share: float) -> None:
    generator = np.random.default_rng(peak)
    values = generator.integers(-peak, peak, (3, 4, 5, 6), endpoint=True) * share // 1
    values[0, 0, 0, 0] = peak
    operand = Quantised(torch.tensor(values.clip(min=0 if peak > 32767 else -peak), dtype=torch.float32), 16, False, 0)
    operand = replace(operand, signed=peak <= 32767)
    pieces = exact.cut(operand)
    assert len(pieces.weights) == 1 + (peak > 255)
    total = sum(weight * piece.double() for weight, piece in pieces.split())
    assert torch.equal(total, operand.values.double())
    for (_, piece), energies in zip(pieces.split(), pieces.energies, strict=True):
        assert piece.abs().max() <= pieces.bound < 2**12
        assert (piece.double().square().sum((2, 3)).numpy() <= energies).all()
        assert torch.equal(piece, piece.round())


# facts about operands
@pytest.mark.parametrize(("bits", "signed"), [(b, s) for b in range(1, 17) for s in (False, True) if b > s])
def test_facts_are_those_of_the_integers(bits: int, signed: bool) -> None:
    generator = np.random.default_rng(bits)
    integers = random_integers(generator, (3, 70, 2, 3), bits, signed)
    operand = Quantised(torch.tensor(integers, dtype=torch.float32), bits, signed, 0)
    known = replace(operand, known_peak=operand.peak)
    assert operand.peak == abs(integers).max()
    for same in (operand, known, operand.reshape(3, 70, 2, 3)):
        assert same.integers.tolist() == integers.tolist()
        assert same.integers.dtype == operand.integers.dtype and same.integers.flags.c_contiguous
        assert same.name == operand.name
        for channels, images in (((0, 70), (0, 3)), ((5, 69), (1, 2))):
            part = integers[slice(*images), slice(*channels)]
            ones = np.vectorize(lambda value: (int(value) & 2**bits - 1).bit_count())(part)
            assert same.ones_of_pixels(channels, images, same.bits).tolist() == ones.sum((0, 1)).tolist()
    parts = integers.clip(min=0), -integers.clip(max=0)
    for axis, others in ((0, (1, 2, 3)), (1, (0, 2, 3))):
        assert operand.magnitudes(axis).tolist() == [part.sum(others).tolist() for part in parts]
        assert operand.energies(axis).tolist() == [(part**2).sum(others).tolist() for part in parts]
    assert operand.pixel_energies.tolist() == (integers**2).sum(1).tolist()
    strided = Quantised(operand.values.contiguous(memory_format=torch.channels_last), bits, signed, 0)
    assert strided.name == operand.name


@pytest.mark.parametrize("shape", [(2, 3, 64, 64), (1, 300, 1, 2), (2, 8, 5, 5)])
def test_rough_sums_are_as_right_as_they_say(shape: tuple[int, ...]) -> None:
    generator = np.random.default_rng(7)
    integers = random_integers(generator, shape, 16, True)
    operand = Quantised(torch.tensor(integers, dtype=torch.float32), 16, True, 0)
    positive = integers.clip(min=0)
    for rough, right in (
        (operand.rough_sums(1), abs(integers).sum((2, 3))),
        (operand.rough_sums(2), (integers**2).sum((2, 3))),
        (operand.rough_sums(1, positive=True), positive.sum((2, 3))),
        (operand.rough_sums(2, positive=True), (positive**2).sum((2, 3))),
        (operand.rough_pixel_energies.double().numpy(), (integers**2).sum(1)),
    ):
        assert 0 < operand.rough_error < 2**-10
        assert (abs(rough - right) <= operand.rough_error * rough).all()


# what a device refuses
def test_bad_operands_are_refused_before_anything_is_counted() -> None:
    device = ModelDevice(TINY)
    good = Quantised(torch.ones(1, 1, 2, 2), 8, True, 0)
    for values, bits, word in (
        (torch.full((1, 1, 1, 1), 128.0), 8, "-127 to 127"),
        (torch.full((1, 1, 1, 1), 0.5), 8, "must be integers"),
        (torch.full((1, 1, 1, 1), float("nan")), 8, "must be integers"),
        (torch.ones(1, 1, 1, 1), 17, "1 to 16 bits"),
        (torch.ones(1, 2, 1, 1), 8, r"\[1, 1, 2, 2\]"),
        (torch.ones(1, 1, 3, 3), 8, "kernel does not fit into 2 x 2 pixels: raise the padding"),
        (torch.ones(0, 1, 1, 1), 8, "no size may be 0"),
    ):
        with pytest.raises(UsageError, match=word):
            device.conv2d(good, Quantised(values, bits, True, 0))
    with pytest.raises(UsageError, match="output's shape"):
        device.conv2d_input_gradient(good, Quantised(torch.ones(1, 1, 1, 1), 8, True, 0), (1, 1, 3, 3))
    assert device.bit_macs == 0
    assert device.counters()["commands"] == 1


def test_a_sum_that_leaves_48_bits_is_refused() -> None:
    device = ModelDevice(TINY)
    row = Quantised(torch.full((1, 2**16), 65535.0), 16, False, 0)
    with pytest.raises(UsageError, match="sum of 48 bits"):
        device.linear(row, row)


# the device as an object
def test_a_device_is_shared_by_copies_and_never_pickled() -> None:
    device = bitfirst.open("model")
    assert copy.deepcopy([device])[0] is device
    with pytest.raises(TypeError, match="state_dict"):
        pickle.dumps(device)


def test_counters_are_booked_to_their_phases() -> None:
    generator = np.random.default_rng(4)
    x, w = quantised(generator, (2, 1, 4, 4), 8), quantised(generator, (1, 1, 3, 3), 8)
    with ModelDevice(TINY) as device:
        y = device.conv2d(x, w)
        g = quantised(generator, tuple(y.shape), 16)
        device.conv2d_weight_gradient(g, x, w.values.shape)
        device.conv2d(x, w)
        device.mark(Phase.OTHER)
        total = device.counters()
        phases = device.phase_counters
    assert set(phases) == {Phase.OTHER, Phase.FORWARD, Phase.WEIGHT_GRADIENT}
    assert [device.returns_to_rest[phase] for phase in (Phase.FORWARD, Phase.WEIGHT_GRADIENT)] == [1, 0]
    for name in ("matmuls", "array_steps", "serial_ones", "words_written"):
        assert sum(counters[name] for counters in phases.values()) == total[name] > 0
    assert total["commands"] == sum(counters["commands"] for counters in phases.values()) + 1
    assert phases[Phase.FORWARD]["elements_read"] == 2 * 2 * 2 * 2
    taps = 2 * 2 * 2 * 9
    assert device.bit_macs == taps * (8 * 8 + 8 * 8 + 8 * 16)
    assert set(total) == set(registers.EXECUTION_COUNTERS)


def test_without_counting_the_numbers_are_the_same() -> None:
    generator = np.random.default_rng(4)
    x, w = quantised(generator, (2, 3, 6, 6), 8), quantised(generator, (4, 3, 3, 3), 8)
    with bitfirst.open("model:tiny") as counting, bitfirst.open("model:tiny?counting=0") as other:
        assert (counting.counting, other.counting) == (True, False)
        results = [device.conv2d(x, w) for device in (counting, other)]
        assert torch.equal(*results) and counting.bit_macs == other.bit_macs > 0
        assert counting.counters()["matmuls"] > other.counters()["matmuls"] == 0


# commands
def golden(config_name: str = "tiny") -> GoldenDevice:
    return GoldenDevice(CONFIGS[config_name], fingerprint=0x1234)


def test_identity_and_ping() -> None:
    device = golden()
    fields = {"space": Space.REGISTERS, "first": 0, "count": registers.IDENTITY_WORDS}
    status, identity = device.execute(Command(Opcode.READ, fields))
    assert status == Status.OK
    assert codec.decode(registers.Identity, identity) == TINY.identity(0x1234)
    status, token = device.execute(Command(Opcode.PING, {"token": 2**64 - 1}))
    assert (status, token.tolist()) == (Status.OK, [2**64 - 1])


TENSOR = {"slot": 3, "bits": 9, "word": 10, "n": 2, "h": 2, "w": 3, "c": 4}  # two octets of three words
LOAD = {"slot": 3, "positions": 2, "taps": 4, "run": 4, "y_count": 1, "x_count": 2, "x_step": 1}
MATMUL = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "a_octets": 1, "b_octets": 1}
PACKED = {"packed": 1, "tiles": 1}
READ = {"space": Space.SUMS, "bits": 64, "rows": 1, "cols": 1, "count": 1}
UPDATE = {"state": 0, "signs": 6, "groups": 1, "rate_shift": 17, "decay_shift": 16}
COMPARE = READ | {"compare": 1, "bits": SIGN_BITS}
ROW = np.arange(1, 3, dtype=np.uint64)
LAST_ENTRY = LIST_ENTRIES - 1
STORE_ROW = {"space": Space.STORE, "rows": 1, "words": 2, "row": 3}


def done(device: GoldenDevice, opcode: Opcode, fields: dict[str, int], data: np.ndarray | None = None) -> np.ndarray:
    status, words = device.execute(Command(opcode, fields) if data is None else Command(opcode, fields, data))
    assert status == Status.OK, (opcode, fields)
    return words


def memories(device: GoldenDevice) -> list[np.ndarray]:
    memories = device.store, *device.cells.values(), device.sums, device.program, np.array(device.rows)
    return [memory.copy() for memory in memories]


def test_refused_commands_change_nothing_but_two_counters() -> None:
    device = golden()
    done(device, Opcode.WRITE, STORE_ROW, ROW)
    done(device, Opcode.TENSOR, TENSOR)
    done(device, Opcode.TENSOR, TENSOR | {"slot": 4, "bits": 8, "word": 16})
    before, tensors = memories(device), dict(device.tensors)
    refused = [
        (Status.BAD_SPACE, Command(Opcode.WRITE, STORE_ROW | {"space": Space.REGISTERS}, ROW)),
        (Status.BAD_SPACE, Command(Opcode.WRITE, STORE_ROW | {"space": 5}, ROW)),
        (Status.BAD_SPACE, Command(Opcode.READ, READ | {"space": Space.LIST})),
        (Status.BAD_RANGE, Command(Opcode.WRITE, {"space": Space.LIST, "rows": 1, "words": 2}, ROW)),
        (Status.BAD_RANGE, Command(Opcode.WRITE, {"space": Space.LIST, "rows": 2, "words": 1, "row": LAST_ENTRY}, ROW)),
        (Status.BAD_LENGTH, Command(Opcode.WRITE, STORE_ROW | {"rows": 2}, ROW)),
        (Status.BAD_LENGTH, Command(Opcode.SYNC, {}, ROW)),
        (Status.BAD_RANGE, Command(Opcode.WRITE, STORE_ROW | {"row": TINY.store_words}, ROW)),
        (Status.BAD_RANGE, Command(Opcode.WRITE, STORE_ROW | {"word": 1}, ROW)),
        (Status.BAD_VALUE, Command(Opcode.WRITE, STORE_ROW | {"reserved1": 1}, ROW)),
        (Status.BAD_RANGE, Command(Opcode.READ, {"space": Space.STORE, "first": TINY.store_words, "count": 1})),
        (Status.BAD_RANGE, Command(Opcode.READ, {"space": Space.STORE, "count": 257})),
        (Status.BAD_RANGE, Command(Opcode.READ, {"space": Space.STORE})),
        (Status.BAD_VALUE, Command(Opcode.UPDATE, UPDATE | {"state": 1})),
        (Status.BAD_VALUE, Command(Opcode.UPDATE, UPDATE | {"rate_shift": 16})),
        (Status.BAD_VALUE, Command(Opcode.UPDATE, UPDATE | {"decay_shift": 15})),
        (Status.BAD_RANGE, Command(Opcode.UPDATE, UPDATE | {"groups": 0})),
        (Status.BAD_RANGE, Command(Opcode.UPDATE, UPDATE | {"signs": 5})),
        (Status.BAD_VALUE, Command(Opcode.WEIGHTS, {"word": 6, "groups": 1})),
        (Status.BAD_RANGE, Command(Opcode.WEIGHTS, {"word": 5, "groups": 1, "octets": 1})),
        (Status.BAD_VALUE, Command(Opcode.READ, READ | {"bits": 33})),
        (Status.BAD_VALUE, Command(Opcode.READ, READ | {"shift": 64})),
        (Status.BAD_VALUE, Command(Opcode.READ, READ | {"compare": 1})),
        (Status.BAD_VALUE, Command(Opcode.READ, COMPARE | {"key": 1, "index": 2**15})),
        (Status.BAD_VALUE, Command(Opcode.READ, COMPARE | {"index": 2**16})),
        (Status.BAD_RANGE, Command(Opcode.READ, COMPARE | {"first": TINY.sum_tiles})),
        (Status.BAD_RANGE, Command(Opcode.READ, READ | {"cols": TINY.columns + 1})),
        (Status.BAD_RANGE, Command(Opcode.READ, READ | {"first": TINY.sum_tiles})),
        (Status.BAD_RANGE, Command(Opcode.READ, {"space": Space.REGISTERS, "first": 1, "count": 6})),
        (Status.BAD_VALUE, Command(Opcode.MARK, {"phase": 6})),
    ]
    changes = {
        Opcode.TENSOR: [
            *[(Status.BAD_VALUE, {"slot": 16}), (Status.BAD_VALUE, {"bits": 17}), (Status.BAD_VALUE, {"layout": 1})],
            *[(Status.BAD_VALUE, {"bits": 0, "slot": 255}), (Status.BAD_VALUE, {"bits": 0, "reserved1": 1})],
            *[(Status.BAD_RANGE, {name: 0}) for name in "nhwc"],
            *[(Status.BAD_RANGE, {"n": 2**15, "h": 2}), (Status.BAD_RANGE, {"w": 2**8, "c": 2**8})],
            *[(Status.BAD_RANGE, {"h": 2**6, "w": 2**5, "c": 2**5}), (Status.BAD_RANGE, {"word": 2**32 - 1})],
            *[(Status.BAD_RANGE, {"word": TINY.store_words - 5}), (Status.BAD_RANGE, {"word": 11})],
        ],
        Opcode.LOAD: [
            *[(Status.BAD_VALUE, {"flip": 1 << 4}), (Status.BAD_VALUE, {"flip": 1, "target": Target.B})],
            *[(Status.BAD_VALUE, {"flip": 1, "slot": 5}), (Status.BAD_VALUE, {"reserved1": 1, "taps": 0})],
            (Status.BAD_VALUE, {"turn": 1, "target": Target.B}),
            *[(Status.BAD_RANGE, {name: 0}) for name in ("positions", "taps", "run", "y_count", "x_count")],
            *[(Status.BAD_RANGE, {"slot": 5}), (Status.BAD_RANGE, {"x_first": 2}), (Status.BAD_RANGE, {"y_first": 1})],
            *[
                (Status.BAD_VALUE, {"listed": 1, "n_fast": 1}),
                (Status.BAD_RANGE, {"listed": 1, "n_first": LIST_ENTRIES}),
            ],
            (Status.BAD_RANGE, {"listed": 1, "n_first": LAST_ENTRY, "positions": 3}),
            *[(Status.BAD_RANGE, {"place_first": 4}), (Status.BAD_RANGE, {"cell": TINY.a_cells - 1})],
            *[(Status.BAD_RANGE, {"taps": 17, "cell": TINY.a_cells - 3}), (Status.BAD_RANGE, {"positions": 65535})],
            (Status.BAD_RANGE, {"target": Target.B, "positions": 5, "cell": TINY.b_cells - 3}),
        ],
        Opcode.MATMUL: [
            *[(Status.BAD_VALUE, {"slices": 5}), (Status.BAD_VALUE, {"slices": 0}), (Status.BAD_VALUE, {"planes": 17})],
            *[(Status.BAD_VALUE, {"a_offset": 2}), (Status.BAD_VALUE, {"b_negative": 2})],
            *[(Status.BAD_VALUE, {name: octets}) for name in ("a_octets", "b_octets") for octets in (0, 3)],
            *[(Status.BAD_VALUE, {"a_first": 2}), (Status.BAD_VALUE, {"b_first": 8, "chunks": 0})],
            *[(Status.BAD_VALUE, {"a_below": 4}), (Status.BAD_VALUE, {"a_below": 3, "slices": 2})],
            *[(Status.BAD_VALUE, {"b_below": 8}), (Status.BAD_VALUE, {"b_below": 1, "planes": 8})],
            *[(Status.BAD_RANGE, {"b_octets": 2, "planes": 8, "b_below": 8, "b_cell": TINY.b_cells - 1})],
            *[(Status.BAD_RANGE, {name: 0}) for name in ("chunks", "row_tiles", "col_tiles")],
            *[(Status.BAD_RANGE, {"a_cell": TINY.a_cells}), (Status.BAD_RANGE, {"b_cell": TINY.b_cells})],
            *[(Status.BAD_RANGE, {"a_octets": 2, "a_cell": TINY.a_cells - 1})],
            (Status.BAD_RANGE, {"sum_tile": TINY.sum_tiles}),
            *[(Status.BAD_VALUE, PACKED | {"b_below": 1}), (Status.BAD_RANGE, PACKED | {"tiles": 0})],
            *[
                (Status.BAD_RANGE, PACKED | {"tiles": TINY.sum_tiles + 1}),
                (Status.BAD_RANGE, PACKED | {"program": PROGRAM_ROWS}),
            ],
        ],
    }
    good = {Opcode.TENSOR: TENSOR | {"slot": 2, "word": 100}, Opcode.LOAD: LOAD, Opcode.MATMUL: MATMUL}
    for opcode, cases in changes.items():
        refused += [(status, Command(opcode, good[opcode] | change)) for status, change in cases]
    for expected, command in refused:
        status, data = device.execute(command)
        assert (status, len(data)) == (expected, 0), command
    assert device.execute_payload(np.array([99], dtype=np.uint64))[0] == Status.BAD_OPCODE
    assert device.execute_payload(np.array([int(Opcode.SYNC)] * 3, dtype=np.uint64))[0] == Status.BAD_LENGTH
    assert all(np.array_equal(*pair) for pair in zip(before, memories(device), strict=True))
    assert device.tensors == tensors
    counters = device.counters
    assert (counters["commands"], counters["faults"]) == (3 + len(refused) + 2, len(refused) + 2)
    assert counters["matmuls"] == counters["loads"] == counters["elements_read"] == counters["phase"] == 0
    for opcode, fields in good.items():
        done(device, opcode, fields)


@pytest.mark.parametrize("threshold", [0, 1, 2, 7, 2**40 + 5, 2**47 - 1, 2**47])
def test_sums_are_compared_as_the_contract_says(threshold: int) -> None:
    """At the threshold, beside it, at the ends of 48 bits; signs without gaps, the largest magnitude behind them."""
    device = golden("default")
    edges = [0, 1, -1, threshold, -threshold, threshold - 1, 1 - threshold, -threshold - 1, 2**47 - 1, -(2**47)]
    rows, cols, count = 3, 5, 7
    totals = [max(-(2**47), min(2**47 - 1, edges[i % len(edges)])) for i in range(rows * cols * count)]
    tiles = device.sums.reshape(-1, device.config.rows, device.config.columns)
    tiles[2 : 2 + count, :rows, :cols] = np.array(totals).reshape(count, rows, cols)
    fields = COMPARE | {"rows": rows, "cols": cols, "count": count, "first": 2}
    words = done(device, Opcode.READ, fields | {"key": threshold % 2**32, "index": threshold >> 32})
    signs = [int(words[i // 32]) >> 2 * (i % 32) & 3 for i in range(32 * (len(words) - 1))]
    assert signs[: len(totals)] == [int(contract.compare(total, threshold)) for total in totals]
    assert not any(signs[len(totals) :]) and len(words) == -(-len(totals) // 32) + 1
    assert int(words[-1]) == 2**47
    assert device.counters["elements_read"] == len(totals)


def test_signs_by_the_contract() -> None:
    compare = contract.compare
    assert [compare(total, 0) for total in (-5, 0, 5)] == [Sign.NEGATIVE, Sign.ZERO, Sign.POSITIVE]
    assert [compare(total, 5) for total in (-5, -4, 0, 4, 5)] == [Sign.NEGATIVE, *[Sign.UNRESOLVED] * 3, Sign.POSITIVE]
    assert [sign - 4 * (sign >> 1) for sign in (Sign.NEGATIVE, Sign.ZERO, Sign.POSITIVE)] == [-1, 0, 1]


@pytest.mark.parametrize(("a_below", "b_below"), [(0, 0), (1, 0), (0, 7), (3, 5)])
def test_digits_left_out_below_raise_the_weight(a_below: int, b_below: int) -> None:
    device, plain = golden(), golden()
    for each in (device, plain):
        each.cells[Target.A][:] = np.random.default_rng(1).integers(0, 256, each.cells[Target.A].shape)
        each.cells[Target.B][:] = np.random.default_rng(2).integers(0, 256, each.cells[Target.B].shape)
    fields = MATMUL | {"a_offset": 1, "b_negative": 1, "b_octets": 2, "planes": 9, "a_octets": 2, "chunks": 3}
    done(device, Opcode.MATMUL, fields | {"a_below": a_below, "b_below": b_below})
    done(plain, Opcode.MATMUL, fields)
    assert np.array_equal(device.sums, plain.sums << (device.config.slice_bits * a_below + b_below))
    grown = device.counters["matmul_cycles"] - plain.counters["matmul_cycles"]
    assert grown == b_below and device.counters["array_steps"] == plain.counters["array_steps"]


def test_tensors_may_be_described_anew_and_forgotten() -> None:
    device = golden()
    done(device, Opcode.TENSOR, TENSOR)
    done(device, Opcode.TENSOR, TENSOR | {"word": 11})  # overlaps only what it replaces
    assert device.execute(Command(Opcode.TENSOR, TENSOR | {"slot": 4, "word": 5}))[0] == Status.OK  # ends before 11
    assert device.execute(Command(Opcode.TENSOR, TENSOR | {"slot": 5, "word": 16}))[0] == Status.BAD_RANGE
    done(device, Opcode.TENSOR, TENSOR | {"bits": 0, "n": 0, "word": 2**32 - 1})
    assert device.execute(Command(Opcode.LOAD, LOAD))[0] == Status.BAD_RANGE
    done(device, Opcode.TENSOR, TENSOR | {"slot": 5, "word": 16})
    assert [place.word for place in device.tensors.values()] == [5, 16]
    done(device, Opcode.RESET, {})
    done(device, Opcode.LOAD, LOAD | {"slot": 5})  # the table outlives a reset


def test_half_a_store_word_is_written_alone() -> None:
    device = golden()
    done(device, Opcode.WRITE, STORE_ROW, np.array([2**64 - 1, 0], dtype=np.uint64))
    assert (device.store[3] == 0x0F).all()
    done(device, Opcode.WRITE, STORE_ROW | {"word": 1, "words": 1}, np.array([1 << 5 + 16], dtype=np.uint64))
    assert device.store[3].tolist() == [0x0F] * 5 + [0x2F] + [0x0F] * 10
    assert not device.store[[2, 4]].any()


def hold(device: GoldenDevice, values: list[int], bits: int, slot: int) -> None:
    """A tensor of one pixel, at word 8 * `slot`."""
    words = packing.pack_store(np.array(values), bits)
    fields = {"slot": slot, "bits": bits, "word": 8 * slot, "n": 1, "h": 1, "w": 1, "c": len(values)}
    done(device, Opcode.TENSOR, fields)
    place = {"space": Space.STORE, "rows": len(words), "words": 2, "row": 8 * slot}
    done(device, Opcode.WRITE, place, words.reshape(-1))


def one_pixel(slot: int, taps: int) -> dict[str, int]:
    return {"slot": slot, "positions": 1, "taps": taps, "run": taps, "y_count": 1, "x_count": 1}


def test_a_dot_product_by_hand() -> None:
    """3 * -2 + -5 * 7 with A in one slice of 4 bits, B in four planes, both at the low end of their octets."""
    device = golden()
    hold(device, [3, -5], 4, 0)
    hold(device, [-2, 7], 4, 1)
    done(device, Opcode.LOAD, one_pixel(0, 2) | {"cell": 2, "flip": 0b10})
    done(device, Opcode.LOAD, one_pixel(1, 2) | {"target": Target.B})
    assert device.cells[Target.A][2, 0, :3].tolist() == [0x0B, 0xF3, 0x08]  # offset binary, zero too
    assert device.cells[Target.B][0, 0, :3].tolist() == [0xFE, 0x07, 0]
    matmul = MATMUL | {"planes": 4, "a_cell": 2, "a_first": 1, "b_first": 4}
    matmul |= {"a_offset": 1, "b_negative": 1, "accumulate": 1}
    for times in (1, 2):
        done(device, Opcode.MATMUL, matmul)
        words = done(device, Opcode.READ, READ | {"cols": 2})
        assert words.view(np.int64).tolist() == [times * (3 * -2 + -5 * 7), 0]
    assert device.counters["serial_ones"] == 2 * (3 + 3)
    assert device.counters["array_steps"] == 2 * 4
    words = done(device, Opcode.READ, READ | {"bits": 5, "signed": 1, "multiplier": 1, "shift": 1})
    assert (words.view(np.int8)[0], device.counters["saturated"]) == (-15, 1)


def test_sums_wrap_at_48_bits_and_are_counted() -> None:
    device = golden()
    sums = np.array([2**47 - 1] * TINY.columns, dtype=np.uint64)
    done(device, Opcode.WRITE, {"space": Space.SUMS, "rows": 1, "words": TINY.columns}, sums)
    hold(device, [1], 1, 0)
    for target in Target:
        done(device, Opcode.LOAD, one_pixel(0, 1) | {"target": target})
    done(device, Opcode.MATMUL, MATMUL | {"a_first": 1, "b_first": 7, "accumulate": 1})
    words = done(device, Opcode.READ, READ | {"cols": 2})
    assert words.view(np.int64).tolist() == [-(2**47), 2**47 - 1]
    assert device.counters["overflows"] == 1


@pytest.mark.parametrize("bits", [*range(2, 33), 64])
def test_answers_are_packed_without_gaps(bits: int) -> None:
    device, generator = golden("small"), np.random.default_rng(bits)
    config = CONFIGS["small"]
    sums = generator.integers(*contract.limits(min(bits, 48), True), (3, config.rows, config.columns), endpoint=True)
    place = {"space": Space.SUMS, "rows": 3 * config.rows, "words": config.columns, "row": 5 * config.rows}
    done(device, Opcode.WRITE, place, sums.astype(np.uint64).reshape(-1) & np.uint64(2**48 - 1))
    read = READ | {"bits": bits, "signed": 1, "multiplier": 1, "first": 5, "count": 3, "rows": 3, "cols": 3}
    words = done(device, Opcode.READ, read)
    width = contract.container_bits(bits)
    assert len(words) == -(-27 * width // 64)
    stream = int.from_bytes(words.astype("<u8").tobytes(), "little")
    for index, value in enumerate(sums[:, :3, :3].reshape(-1).tolist()):
        assert stream >> index * width & (1 << width) - 1 == value & (1 << width) - 1
    assert stream >> 27 * width == 0
    assert (device.counters["elements_read"], device.counters["saturated"]) == (27, 0)


@pytest.mark.parametrize("seed", range(3))
def test_update_and_weights_are_the_scalar_rules(seed: int) -> None:
    """Each element of the store, bit by bit; what is around stays. A READ gives what is there."""
    rng, device, groups = np.random.default_rng(seed), golden(), 3
    words = rng.integers(0, 2**64, (40, 2), dtype=np.uint64)
    done(device, Opcode.WRITE, {"space": Space.STORE, "rows": 40, "words": 2}, words.reshape(-1))
    stored = {"space": Space.STORE, "first": 0, "count": 40}
    assert np.array_equal(done(device, Opcode.READ, stored), words.reshape(-1))
    before = device.store[:40].astype(int)
    rates = {"rate": 40000 + seed, "rate_shift": 24, "decay": 3, "decay_shift": 16 + seed, "coefficient": 230}
    fields = {"state": 2, "signs": 30, "groups": groups} | rates
    (largest,) = done(device, Opcode.UPDATE, fields)
    done(device, Opcode.WEIGHTS, {"state": 2, "word": 20, "groups": groups, "octets": 2, "shift": 33})
    done(device, Opcode.WEIGHTS, {"state": 2, "word": 27, "groups": groups, "octets": 1, "shift": 33})
    after, seen = device.store[:40].astype(int), []
    expected = before.copy()
    for group, element in np.ndindex(groups, 16):
        place = 2 + 6 * group, element
        octets = before[place[0] : place[0] + 6, element].tolist()
        master = int.from_bytes(octets[:4], "big", signed=True)
        momentum = int.from_bytes(octets[4:], "big", signed=True)
        sign = (0, 1, 0, -1)[before[30 + group, element] & 3]
        master, momentum = contract.update(master, momentum, sign, *rates.values())
        weight = contract.weight(master, 33) % 2**16
        octets = master.to_bytes(4, "big", signed=True) + momentum.to_bytes(2, "big", signed=True)
        expected[place[0] : place[0] + 6, element] = list(octets)
        expected[[20 + group, 23 + group, 27 + group], element] = weight >> 8, weight % 256, weight % 256
        seen.append(abs(master >> 8))
    assert np.array_equal(after, expected) and largest == max(seen)
    assert (device.counters["updates"], device.counters["update_cycles"]) == (3, 3 * (37 * groups + 14))


def test_without_the_feature_nothing_is_updated() -> None:
    for config, status in ((TINY, Status.OK), (replace(TINY, features=STANDARD), Status.BAD_OPCODE)):
        device = GoldenDevice(config)
        assert device.execute(Command(Opcode.UPDATE, UPDATE))[0] == status
        assert device.execute(Command(Opcode.WEIGHTS, {"word": 6, "groups": 1, "octets": 1}))[0] == status
        read = Command(Opcode.READ, {"space": Space.STORE, "count": 1})
        assert device.execute(read)[0] == (status if status == Status.OK else Status.BAD_SPACE)


def test_reset_clears_counters_and_keeps_memories() -> None:
    device = golden()
    done(device, Opcode.WRITE, STORE_ROW, ROW)
    words = done(device, Opcode.MARK, {"phase": Phase.FORWARD})
    assert words[registers.COUNTER_INDEX["commands"]] == 2
    assert words[registers.COUNTER_INDEX["phase"]] == Phase.FORWARD
    assert len(words) == len(registers.COUNTERS)
    before = memories(device)
    done(device, Opcode.RESET, {})
    assert not any(device.counters.values())
    assert all(np.array_equal(*pair) for pair in zip(before, memories(device), strict=True))
    assert before[0].any()
    assert len(Command(Opcode.RESET).payload()) == packets.COMMAND_WORDS
