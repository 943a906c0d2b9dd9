"""Plans: what they promise without the data is what their commands do."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from bitfirst import packing
from bitfirst.errors import UsageError
from bitfirst.golden.commands import GoldenDevice
from bitfirst.link import response_words
from bitfirst.plan import FRAME_WORDS, Plan, Shape, plan
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract import numeric, packets
from bitfirst_hdl.contract.packets import Opcode, Space, Status
from hypothesis import given, settings
from hypothesis import strategies as st

TINY = CONFIGS["tiny"]
UNTOUCHED = -(2**62)


def operands(shape: Shape, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    sides = ((shape.rows, shape.a_bits, shape.a_signed), (shape.columns, shape.b_bits, shape.b_signed))
    a, b = (
        generator.integers(*numeric.limits(bits, signed), (rows, shape.depth), endpoint=True)
        for rows, bits, signed in sides
    )
    return a, b


def execute(chosen: Plan, seed: int = 0) -> tuple[GoldenDevice, int]:
    """Run a plan on the command-level model and check result and promises; returns it and the READs' count."""
    config, shape = chosen.config, chosen.shape
    a, b = operands(shape, seed)
    packed = packing.pack_a(config, a, shape.a_bits, shape.a_signed), packing.pack_b(config, b, shape.b_bits)
    device, result = GoldenDevice(config), np.full((shape.rows, shape.columns), UNTOUCHED)
    to_device = from_device = reads = 0
    pending: list = []
    region_reads: dict[int, int] = {}
    for step in chosen.commands(*packed):
        command = step.command
        status, data = device.execute(command)
        assert status == Status.OK, command
        assert len(command.data) <= packets.MAX_DATA_WORDS
        assert len(data) == response_words(command) <= packets.MAX_DATA_WORDS
        to_device += len(command.payload()) + FRAME_WORDS
        from_device += 1 + len(data) + FRAME_WORDS
        if command.opcode == Opcode.MATMUL and not command.fields["accumulate"]:
            tiles = command.fields["row_tiles"] * command.fields["col_tiles"]
            first = command.fields["sum_tile"]
            needed = max((region_reads.get(tile, 0) for tile in range(first, first + tiles)), default=0)
            assert step.reads_before >= needed
        if command.opcode == Opcode.READ:
            reads += 1
            first, count = command.fields["first"], command.fields["count"]
            region_reads.update(dict.fromkeys(range(first, first + count), reads))
            pending.append((step.fetch, data))
        assert (step.fetch is not None) == (command.opcode == Opcode.READ)
    for fetch, data in pending:
        assert fetch.words == len(data)
        fetch.store(data, result)
    assert reads > 0
    assert np.array_equal(result, a @ b.T)
    assert {name: device.counters[name] for name in chosen.counters} == chosen.counters
    ones = np.bitwise_count((b & (2**shape.b_bits - 1)).astype(np.uint64)).sum()
    assert device.counters["serial_ones"] == ones * chosen.serial_uses
    assert (chosen.words_to_device, chosen.words_from_device) == (to_device, from_device)
    assert chosen.link_bytes == 8 * (to_device + from_device)
    assert device.counters["elements_read"] == shape.rows * shape.columns
    assert not device.counters["saturated"] and not device.counters["overflows"]
    return device, reads


bits = st.integers(2, 16)
shapes = st.builds(
    Shape, st.integers(1, 40), st.integers(1, 70), st.integers(1, 90), bits, bits, st.booleans(), st.booleans()
)
EDGES = [
    Shape(1, 1, 1, 1, 1, False, False),
    Shape(2, 8, 8, 4, 4, True, True),  # exactly one tile
    Shape(3, 9, 9, 5, 5, True, False),  # one more everywhere
    Shape(40, 3, 500, 16, 16, True, True),  # K in many blocks
    Shape(5, 200, 17, 8, 8, True, False),  # many columns
    Shape(150, 9, 20, 2, 3, False, True),  # many rows
]


@pytest.mark.parametrize("shape", EDGES, ids=str)
@pytest.mark.parametrize("name", ["tiny", "small", "slice1", "slice8"])
def test_edges(shape: Shape, name: str) -> None:
    execute(plan(CONFIGS[name], shape))


@settings(max_examples=40, deadline=None)
@given(shapes, st.integers(0, 2**16))
def test_chosen_plans(shape: Shape, seed: int) -> None:
    execute(plan(TINY, shape), seed)


@settings(max_examples=60, deadline=None)
@given(shapes, st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_any_block_size_that_fits_is_right(
    shape: Shape, row_tiles: int, col_tiles: int, chunks: int, rows_outer: bool
) -> None:
    """Also those that the planner would not choose: both loop orders, single buffers, blocks sent again."""
    candidate = Plan(TINY, shape, row_tiles, col_tiles, chunks, rows_outer)
    if candidate.fits(1):
        execute(candidate)


def test_resending_is_seen() -> None:
    """The loop order decides which side stays in its memory."""
    shape = Shape(16, 64, 64, 8, 8, True, True)
    orders = [Plan(TINY, shape, 2, 2, 2, rows_outer) for rows_outer in (True, False)]
    for order in orders:
        execute(order)
    written = [order.counters["words_written"] for order in orders]
    once = sum(array.size for array in _packed(shape))
    assert min(written) > once


def _packed(shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    a, b = operands(shape)
    return packing.pack_a(TINY, a, shape.a_bits, shape.a_signed), packing.pack_b(TINY, b, shape.b_bits)


def test_what_fits_is_sent_once_in_few_commands() -> None:
    shape = Shape(16, 64, 64, 8, 8, True, True)
    chosen = plan(CONFIGS["default"], shape)
    device, _ = execute(chosen)
    a, b = operands(shape)
    packed = packing.pack_a(chosen.config, a, 8, True).size + packing.pack_b(chosen.config, b, 8).size
    assert device.counters["words_written"] == packed
    assert chosen.counters["commands"] <= 8


@pytest.mark.parametrize(
    ("shape", "bits"),
    [
        (Shape(3, 3, 2, 4, 4, True, True), 8),  # 2 * 7 * 7 = 98
        (Shape(3, 3, 3, 4, 4, True, True), 16),  # 147
        (Shape(3, 3, 2, 8, 8, True, True), 16),  # 32258
        (Shape(3, 3, 3, 8, 8, True, True), 32),
        (Shape(3, 3, 516, 8, 16, True, True), 32),  # 516 * 127 * 32767 < 2**31
        (Shape(3, 3, 517, 8, 16, True, True), 64),
    ],
)
def test_sums_come_back_in_the_least_width_that_holds_them(shape: Shape, bits: int) -> None:
    chosen = plan(TINY, shape)
    assert shape.sum_bits == bits
    limit = shape.largest_sum
    assert limit == shape.depth * (2 ** (shape.a_bits - 1) - 1) * (2 ** (shape.b_bits - 1) - 1)
    extreme = (
        np.full((3, shape.depth), 2 ** (shape.a_bits - 1) - 1),
        np.full((3, shape.depth), -(2 ** (shape.b_bits - 1) - 1)),
    )
    result = np.zeros((3, 3), dtype=np.int64)
    device = GoldenDevice(TINY)
    packed = packing.pack_a(TINY, extreme[0], shape.a_bits, True), packing.pack_b(TINY, extreme[1], shape.b_bits)
    for step in chosen.commands(*packed):
        _, data = device.execute(step.command)
        if step.fetch is not None:
            step.fetch.store(data, result)
    assert (result == -limit).all()
    assert device.counters["saturated"] == 0


def test_unused_lanes_are_written_too() -> None:
    """Whatever was in the memories before, counters and results are the same."""
    shape = Shape(3, 9, 9, 8, 8, True, True)
    chosen = plan(TINY, shape)
    counters = []
    for old in (0, 2**64 - 1):
        device = GoldenDevice(TINY)
        for space in (Space.A, Space.B):
            device.memories[space][:] = old
        a, b = operands(shape)
        for step in chosen.commands(packing.pack_a(TINY, a, 8, True), packing.pack_b(TINY, b, 8)):
            assert device.execute(step.command)[0] == Status.OK
        counters.append(device.counters)
    assert counters[0] == counters[1]
    assert counters[0]["serial_ones"] > 0


def test_loading_overlaps_computing() -> None:
    """W M W R M W R M ...: before each READ, the next block is already on its way."""
    chosen = plan(TINY, Shape(4, 400, 8, 8, 8, True, True))
    a, b = operands(chosen.shape)
    kinds = [
        step.command.opcode for step in chosen.commands(packing.pack_a(TINY, a, 8, True), packing.pack_b(TINY, b, 8))
    ]
    assert Counter(kinds)[Opcode.MATMUL] > 3
    first = kinds.index(Opcode.MATMUL)
    assert kinds[first + 1] == Opcode.WRITE
    last = len(kinds) - 1 - kinds[::-1].index(Opcode.MATMUL)
    assert kinds[last - 1] == Opcode.READ


def test_memories_that_hold_one_block_only() -> None:
    """Sixteen planes in a memory of sixteen rows: no double buffering, but right."""
    small = replace(TINY, a_depth=16, b_depth=16, sum_tiles=2)
    execute(plan(small, Shape(9, 20, 40, 16, 16, True, True)))


def test_what_cannot_be_planned_is_refused() -> None:
    with pytest.raises(UsageError, match="nothing to compute"):
        plan(TINY, Shape(0, 1, 1, 8, 8, True, True))
    huge = ArrayConfig(rows=64, columns=64, a_depth=64)
    with pytest.raises(UsageError, match="fewer rows or columns"):
        plan(huge, Shape(64, 64, 64, 16, 16, True, True))
