"""The golden model against the scalar contract, plain integers, and an independent PyTorch reference."""

import copy
import pickle

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
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract import codec, packets, registers
from bitfirst_hdl.contract import numeric as contract
from bitfirst_hdl.contract.packets import Opcode, Phase, Rounding, Space, Status
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
@pytest.mark.parametrize("name", ["tiny", "default", "slice1", "slice8"])
@pytest.mark.parametrize("signed", [False, True])
def test_packed_operands_lie_where_the_array_looks(name: str, signed: bool) -> None:
    config, generator = CONFIGS[name], np.random.default_rng(1)
    lanes = [config.lane_of_bit(element) for element in range(config.lanes)]
    for bits in range(1, 17):
        depth = 2 * config.lanes + 3
        a = random_integers(generator, (config.rows + 1, depth), bits, signed)
        b = random_integers(generator, (config.columns + 1, depth), bits, signed)
        size = config.slice_bits
        slices = -(-bits // size)
        a_bits = np.unpackbits(packing.pack_a(config, a, bits, signed).view(np.uint8), axis=-1, bitorder="little")
        digits = a_bits.reshape(2, slices, 3, config.rows, config.lanes, size) @ (1 << np.arange(size))
        if signed:
            digits[:, 0] -= 1 << (size - 1)
        read = np.tensordot(1 << size * np.arange(slices)[::-1], digits, axes=(0, 1))[..., lanes]
        assert np.array_equal(read.swapaxes(1, 2).reshape(2 * config.rows, -1)[: config.rows + 1, :depth], a)
        assert not read.swapaxes(1, 2).reshape(2 * config.rows, -1)[config.rows + 1 :].any()
        b_bits = np.unpackbits(packing.pack_b(config, b, bits).view(np.uint8), axis=-1, bitorder="little")
        weights = 1 << np.arange(bits)[::-1]
        weights[0] *= -1 if signed else 1
        read = np.tensordot(weights, b_bits.reshape(2, bits, 3, config.columns, config.lanes), axes=(0, 1))
        assert np.array_equal(read.swapaxes(1, 2).reshape(2 * config.columns, -1)[: config.columns + 1, :depth], b)


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
    x, w = (quantised(generator, shape, 8).values for shape in (geometry.input_shape, geometry.weight_shape))
    g = quantised(generator, geometry.output_shape, 16).values
    cut = [exact.cut(values, bound) for values, bound in ((x, 127), (w, 127), (g, 32767))]
    assert torch.equal(exact.convolution(cut[0], cut[1], geometry).double(), exact._forward_float64(x, w, geometry))
    got = exact.input_gradient(cut[2], cut[1], geometry).double()
    assert torch.equal(got, exact._input_gradient_float64(g, w, geometry))
    got = exact.weight_gradient(cut[2], cut[0], geometry).double()
    assert torch.equal(got, exact._weight_gradient_float64(g, x, geometry))


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
        (torch.ones(1, 1, 3, 3), 8, "raise the padding"),
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
    for name in ("matmuls", "array_steps", "serial_ones", "words_written"):
        assert sum(counters[name] for counters in phases.values()) == total[name] > 0
    assert total["commands"] == sum(counters["commands"] for counters in phases.values()) + 1
    assert phases[Phase.FORWARD]["elements_read"] == 2 * 2 * 2 * 2
    taps = 2 * 2 * 2 * 9
    assert device.bit_macs == taps * (8 * 8 + 8 * 8 + 8 * 16)
    assert set(total) == set(registers.EXECUTION_COUNTERS)


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


def test_refused_commands_change_nothing_but_two_counters() -> None:
    device = golden()
    row = np.arange(TINY.a_row_words, dtype=np.uint64)
    place = {"space": Space.A, "rows": 1, "words": TINY.a_row_words, "row": 3}
    assert device.execute(Command(Opcode.WRITE, place, row))[0] == Status.OK
    before = {space: memory.copy() for space, memory in device.memories.items()}
    read = {"space": Space.SUMS, "bits": 64, "rows": 1, "cols": 1, "count": 1}
    matmul = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1}
    refused = [
        (Status.BAD_SPACE, Command(Opcode.WRITE, place | {"space": Space.REGISTERS}, row)),
        (Status.BAD_LENGTH, Command(Opcode.WRITE, place | {"rows": 2}, row)),
        (Status.BAD_LENGTH, Command(Opcode.SYNC, {}, row)),
        (Status.BAD_RANGE, Command(Opcode.WRITE, place | {"row": TINY.a_depth}, row)),
        (Status.BAD_RANGE, Command(Opcode.WRITE, place | {"word": 1}, row)),
        (Status.BAD_VALUE, Command(Opcode.WRITE, place | {"reserved1": 1}, row)),
        (Status.BAD_SPACE, Command(Opcode.READ, read | {"space": Space.B})),
        (Status.BAD_VALUE, Command(Opcode.READ, read | {"bits": 33})),
        (Status.BAD_VALUE, Command(Opcode.READ, read | {"shift": 64})),
        (Status.BAD_RANGE, Command(Opcode.READ, read | {"cols": TINY.columns + 1})),
        (Status.BAD_RANGE, Command(Opcode.READ, read | {"first": TINY.sum_tiles})),
        (Status.BAD_RANGE, Command(Opcode.READ, {"space": Space.REGISTERS, "first": 1, "count": 5})),
        (Status.BAD_VALUE, Command(Opcode.MATMUL, matmul | {"slices": 5})),
        (Status.BAD_VALUE, Command(Opcode.MATMUL, matmul | {"a_offset": 2})),
        (Status.BAD_VALUE, Command(Opcode.MATMUL, matmul | {"b_negative": 2})),
        (Status.BAD_RANGE, Command(Opcode.MATMUL, matmul | {"chunks": 0})),
        (Status.BAD_RANGE, Command(Opcode.MATMUL, matmul | {"a_row": TINY.a_depth})),
        (Status.BAD_RANGE, Command(Opcode.MATMUL, matmul | {"b_row": TINY.b_depth})),
        (Status.BAD_RANGE, Command(Opcode.MATMUL, matmul | {"sum_tile": TINY.sum_tiles})),
        (Status.BAD_VALUE, Command(Opcode.MARK, {"phase": 5})),
    ]
    for expected, command in refused:
        status, data = device.execute(command)
        assert (status, len(data)) == (expected, 0), command
    assert device.execute_payload(np.array([99], dtype=np.uint64))[0] == Status.BAD_OPCODE
    assert device.execute_payload(np.array([int(Opcode.SYNC)] * 3, dtype=np.uint64))[0] == Status.BAD_LENGTH
    assert all(np.array_equal(before[space], memory) for space, memory in device.memories.items())
    counters = device.counters
    assert (counters["commands"], counters["faults"]) == (1 + len(refused) + 2, len(refused) + 2)
    assert counters["matmuls"] == counters["elements_read"] == counters["phase"] == 0


def test_a_dot_product_by_hand() -> None:
    """3 * -2 + -5 * 7 with A in one slice of 4 bits, B in four planes, on lanes placed by hand."""
    device = golden()
    a_row = [8] * TINY.lanes  # offset binary zero
    a_row[TINY.lane_of_bit(0)], a_row[TINY.lane_of_bit(1)] = 3 + 8, -5 + 8
    a_word = sum(digit << 4 * lane for lane, digit in enumerate(a_row))
    write = {"rows": 1, "words": 1}
    data = np.array([a_word], dtype=np.uint64)
    assert device.execute(Command(Opcode.WRITE, write | {"space": Space.A, "row": 2}, data))[0] == Status.OK
    for plane in range(4):
        bits = (-2 >> (3 - plane) & 1) | (7 >> (3 - plane) & 1) << 1
        data = np.array([bits], dtype=np.uint64)
        assert device.execute(Command(Opcode.WRITE, write | {"space": Space.B, "row": plane}, data))[0] == Status.OK
    matmul = {"slices": 1, "planes": 4, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "a_row": 2}
    matmul |= {"a_offset": 1, "b_negative": 1, "accumulate": 1}
    for times in (1, 2):
        assert device.execute(Command(Opcode.MATMUL, matmul))[0] == Status.OK
        read = {"space": Space.SUMS, "bits": 64, "rows": 1, "cols": 2, "count": 1}
        _, words = device.execute(Command(Opcode.READ, read))
        assert words.view(np.int64).tolist() == [times * (3 * -2 + -5 * 7), 0]
    assert device.counters["serial_ones"] == 2 * (3 + 3)
    assert device.counters["array_steps"] == 2 * 4
    read |= {"bits": 5, "signed": 1, "multiplier": 1, "shift": 1, "cols": 1}
    _, words = device.execute(Command(Opcode.READ, read))
    assert (words.view(np.int8)[0], device.counters["saturated"]) == (-15, 1)


def test_sums_wrap_at_48_bits_and_are_counted() -> None:
    device = golden()
    sums = np.array([2**47 - 1] * TINY.columns, dtype=np.uint64)
    place = {"space": Space.SUMS, "rows": 1, "words": TINY.columns}
    assert device.execute(Command(Opcode.WRITE, place, sums))[0] == Status.OK
    ones = {"rows": 1, "words": 1}
    assert device.execute(Command(Opcode.WRITE, ones | {"space": Space.A}, np.array([1], dtype=np.uint64)))[0] == 0
    assert device.execute(Command(Opcode.WRITE, ones | {"space": Space.B}, np.array([1], dtype=np.uint64)))[0] == 0
    matmul = {"slices": 1, "planes": 1, "chunks": 1, "row_tiles": 1, "col_tiles": 1, "accumulate": 1}
    assert device.execute(Command(Opcode.MATMUL, matmul))[0] == Status.OK
    read = {"space": Space.SUMS, "bits": 64, "rows": 1, "cols": 2, "count": 1}
    _, words = device.execute(Command(Opcode.READ, read))
    assert words.view(np.int64).tolist() == [-(2**47), 2**47 - 1]
    assert device.counters["overflows"] == 1


def test_reset_clears_counters_and_keeps_memories() -> None:
    device = golden()
    data = np.array([5], dtype=np.uint64)
    assert device.execute(Command(Opcode.WRITE, {"space": Space.A, "rows": 1, "words": 1}, data))[0] == Status.OK
    _, words = device.execute(Command(Opcode.MARK, {"phase": Phase.FORWARD}))
    assert words[registers.COUNTER_INDEX["commands"]] == 2
    assert words[registers.COUNTER_INDEX["phase"]] == Phase.FORWARD
    assert len(words) == len(registers.COUNTERS)
    assert device.execute(Command(Opcode.RESET))[0] == Status.OK
    assert not any(device.counters.values())
    assert device.memories[Space.A][0, 0] == 5
    assert len(Command(Opcode.RESET).payload()) == packets.COMMAND_WORDS
