"""Plans and schedules: exact results by every choice, and what they promise without data is what the commands do."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from bitfirst.errors import UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.lowering import Forward, Geometry, InputGradient, Operation, Variant, WeightGradient, width_of_sums
from bitfirst.pace import Pace
from bitfirst.plan import ROW_CYCLES, Fetch, Plan, Shape, plan, store_sums, unpack_sums
from bitfirst.quantised import Quantised
from bitfirst.schedule import Schedule, arrange, schedule
from bitfirst.steps import Step
from bitfirst_hdl.config import CONFIGS, ArrayConfig
from bitfirst_hdl.contract.numeric import limits
from bitfirst_hdl.contract.packets import WORD_BITS, Opcode, Phase, Target
from bitfirst_hdl.readout import elements_abreast
from golden_board import GoldenBoard
from hypothesis import given, settings
from hypothesis import strategies as st
from test_board import check_convolution, check_random, random_convolution, random_tensor

TINY = CONFIGS["tiny"]
SIZES = ("slices", "planes", "chunks", "row_tiles", "col_tiles")
SMALL_STORE = replace(TINY, store_words=64)


def tensors(
    x_shape: tuple[int, ...], outputs: int, kernel: int, bits: tuple[int, int, int] = (8, 8, 16), **window: int
) -> tuple[Quantised, Quantised, Quantised, dict[str, int]]:
    """x, w and g of a convolution, random."""
    generator = random.Random(1)
    w_shape = (outputs, x_shape[1], kernel, kernel)
    geometry = Geometry.of(x_shape, w_shape, window.get("stride", 1), window.get("padding", 0))
    shapes = ((x_shape, False), (w_shape, True), (geometry.output_shape, True))
    return *(
        random_tensor(generator, shape, width, signed) for (shape, signed), width in zip(shapes, bits, strict=True)
    ), window


def operations(
    x: Quantised, w: Quantised, g: Quantised, window: dict[str, int]
) -> tuple[Forward, InputGradient, WeightGradient]:
    geometry = Geometry.of(x.values.shape, w.values.shape, window.get("stride", 1), window.get("padding", 0))
    return Forward(x, w, geometry), InputGradient(g, w, geometry), WeightGradient(g, x, geometry)


LAYERS = [
    tensors((2, 3, 5, 6), 4, 3, padding=1),
    tensors((3, 5, 7, 7), 3, 3, (4, 3, 5), stride=2, padding=1),
    tensors((5, 20, 4, 4), 9, 1, (12, 16, 2)),
    tensors((2, 2, 9, 9), 2, 5, (1, 8, 9), stride=3, padding=2),
    tensors((9, 33, 1, 1), 7, 1),
    tensors((1, 1, 1, 1), 1, 1, (1, 2, 2)),
    tensors((2, 2, 1, 1), 2, 2, padding=3),  # most windows see zeros alone
    tensors((2, 3, 4, 5), 3, 2, stride=3),  # some pixels are in no window
    tensors((2, 3, 1, 1), 3, 1, stride=2, padding=1),  # no window sees a pixel
    tensors((2, 3, 5, 4), 3, 2, stride=3, padding=3),  # the first and the last windows see none
]
NAMES = ["3x3", "stride", "1x1", "5x5", "linear", "one", "far", "gaps", "blind", "wide"]


# exact, with the counters promised


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_layers_are_exact_and_count_as_promised(name: str, layer: tuple) -> None:
    board, model = GoldenBoard(CONFIGS[name]), ModelDevice(CONFIGS[name])
    check_convolution(board, *layer)
    check_convolution(model, *layer)
    assert board.counters() == {key: model.counters()[key] for key in board.golden.counters} | {
        "commands": board.golden.counters["commands"]
    }
    assert board.golden.counters["saturated"] == board.golden.counters["overflows"] == 0


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32))
def test_random_layers(seed: int) -> None:
    board, model = GoldenBoard(TINY), ModelDevice(TINY)
    assert check_random(board, 1, seed) == check_random(model, 1, seed)


@pytest.mark.parametrize("layer", LAYERS, ids=NAMES)
def test_every_variant_is_exact(layer: tuple) -> None:
    chosen: list[Variant] = []

    def planned(number: int, config: ArrayConfig, operation: Operation) -> Schedule:
        task = operation.task
        variant = task.variants[min(number, len(task.variants) - 1)]
        chosen.append(variant)
        products = task.products(config, variant)
        plans = tuple(plan(config, Shape.of(product))[0] for product in products)
        made = arrange(config, task, products, plans)
        check_waste(made)
        return made

    most = max(len(operation.task.variants) for operation in operations(*layer))
    for number in range(most):
        check_convolution(GoldenBoard(TINY, partial(planned, number)), *layer)
    sides = [(swapped, chained) for swapped in (False, True) for chained in (False, True)]
    assert {(variant.swapped, variant.chained) for variant in chosen} == set(sides)
    assert most == len(sides) * len({variant.borders for variant in chosen})


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 15),
)
def test_any_block_size_that_fits_is_right(
    seed: int, row_tiles: int, col_tiles: int, chunks: int, rows_outer: bool, number: int
) -> None:
    """Also those that the planner would not choose: both loop orders, single buffers, blocks loaded again."""

    def planned(config: ArrayConfig, operation: Operation) -> Schedule:
        task = operation.task
        products = task.products(config, task.variants[min(number, len(task.variants) - 1)])
        shapes = [Shape.of(product) for product in products]
        forced = [Plan(config, shape, row_tiles, col_tiles, chunks, rows_outer) for shape in shapes]
        plans = tuple(own if own.fits(1) else plan(config, shape)[0] for own, shape in zip(forced, shapes, strict=True))
        made = arrange(config, task, products, plans)
        check_waste(made)
        return made

    check_convolution(GoldenBoard(TINY, planned), *random_convolution(random.Random(seed)))


def check_waste(made: Schedule) -> None:
    """The account of the array's steps adds up, and is that of single plans."""
    waste = made.waste
    assert sum(waste.values()) == made.counters["array_steps"] * made.config.bit_macs_per_cycle
    assert min(waste.values()) >= 0
    task = made.task
    assert waste["useful"] == task.geometry.useful_macs * task.a.bits * task.b.bits
    totals: Counter[str] = Counter()
    for planned in made.plans:
        totals.update(planned.multiplications)
    assert totals == {name: made.counters[name] for name in totals}
    assert min(made.idle.values()) >= 0
    assert made.counters["elements_read"] == sum(product.rows * product.columns for product in made.products)


@pytest.mark.parametrize("name", ["fixed", "fixed16", "fusion"])
def test_waste_where_digits_are_wider(name: str) -> None:
    for operation in operations(*LAYERS[1]):
        check_waste(schedule(CONFIGS[name], operation.task))


def test_waste_by_hand() -> None:
    """5 outputs in 3 row tiles of 2, 2 x 9 pixels in 5 column tiles of 4, 3 x 3 taps in one chunk of 16."""
    x, w, g, window = tensors((2, 1, 3, 3), 5, 3, (3, 6, 8), padding=1)
    operation = operations(x, w, g, window)[0]
    products = operation.task.products(TINY, Variant())
    plans = tuple(plan(TINY, Shape.of(product))[0] for product in products)
    made = arrange(TINY, operation.task, products, plans)
    real = 4 * 4 + 4 * 6 + 9  # taps of the 9 pixels in the image
    assert made.counters["array_steps"] == 3 * 5 * 2 * 3
    assert made.waste == {
        "useful": 2 * real * 5 * 18,
        "halo": 2 * (81 - real) * 5 * 18,
        "digits": 5 * 18 * 9 * (8 * 3 - 18),
        "lanes": 5 * 18 * 7 * 24,
        "columns": 5 * 2 * 16 * 24,
        "rows": 1 * 20 * 16 * 24,
    }


@pytest.mark.parametrize("kind", [0, 1, 2], ids=["forward", "dX", "dW"])
def test_border_strips_leave_out_the_halo(kind: int) -> None:
    x, w, g, window = tensors((4, 16, 4, 4), 8, 3, padding=1)
    operation = operations(x, w, g, window)[kind]
    config = CONFIGS["default"]
    halo = {}
    for borders in ((False, False), (True, False), (True, True)):
        products = operation.task.products(config, Variant(borders))
        plans = tuple(plan(config, Shape.of(product))[0] for product in products)
        halo[borders] = arrange(config, operation.task, products, plans).waste["halo"]
        assert len(products) == 3 ** sum(borders)
    assert halo[False, False] > halo[True, False] > halo[True, True] == 0


# answers


@pytest.mark.parametrize("config", [TINY, SMALL_STORE, CONFIGS["default"]], ids=["tiny", "spills", "default"])
def test_answers_in_order_come_before_the_credit_is_used_up(config: ArrayConfig) -> None:
    board, quiet, opcodes = GoldenBoard(config), Counter(), Counter()
    for operation in operations(*tensors((4, 16, 12, 12), 8, 3, padding=1)):
        board.run(operation)
        words, last = 0, None
        for command, _ in board.commands:
            words += len(command.payload()) + 1
            if command.quiet:
                assert words <= config.rx_words // 4
            elif command.opcode != Opcode.READ:
                words = 0
            if command.opcode in (Opcode.LOAD, Opcode.MATMUL):
                last = command
            quiet[command.quiet] += 1
            opcodes[command.opcode, command.quiet] += 1
        assert not last.quiet  # it settles all before it
        assert schedule(config, operation.task).quiet_commands == sum(command.quiet for command, _ in board.commands)
    assert opcodes[Opcode.LOAD, True] + opcodes[Opcode.MATMUL, True] == quiet[True]
    assert opcodes[Opcode.LOAD, True] > 10 and opcodes[Opcode.MATMUL, True] > 10
    assert sum(opcodes[opcode, False] for opcode in (Opcode.LOAD, Opcode.MATMUL)) < quiet[True] / 5 + 3


# order


def kinds(board: GoldenBoard) -> list[Opcode]:
    return [command.opcode for command, _ in board.commands]


def test_loads_run_one_block_ahead_and_reads_one_behind() -> None:
    x, w, *_ = tensors((4, 16, 8, 8), 4, 1)
    board = GoldenBoard(TINY)
    board.conv2d(x, w)
    order = [kind for kind in kinds(board) if kind in (Opcode.LOAD, Opcode.MATMUL, Opcode.READ)]
    matmuls = [index for index, kind in enumerate(order) if kind == Opcode.MATMUL]
    assert len(matmuls) > 3
    assert order[: matmuls[0]].count(Opcode.LOAD) == 2
    assert order[: matmuls[1]].count(Opcode.LOAD) == 3
    in_time = [place for place in matmuls[1:] if order[place - 1] != Opcode.LOAD]
    assert len(in_time) > len(matmuls) * 0.8  # something else went out between a block's last LOAD and its MATMUL
    behind = [done - order[:place].count(Opcode.READ) for done, place in enumerate(matmuls)]
    assert sum(1 <= reads <= 2 for reads in behind) > len(matmuls) * 0.8


def test_later_tensors_are_sent_while_the_array_works() -> None:
    config = CONFIGS["default"]
    x, w, *_ = tensors((32, 16, 8, 8), 16, 3, padding=1)
    board = GoldenBoard(config)
    board.conv2d(x, w, padding=1)
    order = kinds(board)
    first, last = order.index(Opcode.MATMUL), len(order) - 1 - order[::-1].index(Opcode.MATMUL)
    before, between = order[:first].count(Opcode.WRITE), order[first:last].count(Opcode.WRITE)
    assert between > before > 0
    left, waits = 0, 0  # steps that the array still has while data are sent, and words for which it has none
    for command, _ in board.commands[first:last]:
        if command.opcode == Opcode.WRITE:
            waits += max(0, len(command.data) - left)
            left = max(0, left - len(command.data))
        elif command.opcode == Opcode.MATMUL:
            left = config.array_steps(*(command.fields[name] for name in SIZES))
    assert 0 < waits < board.golden.counters["array_steps"] * 0.04


def test_what_is_in_its_cells_is_not_loaded_again() -> None:
    config = CONFIGS["default"]
    x, w, *_ = tensors((16, 16, 8, 8), 16, 3)
    board = GoldenBoard(config)
    board.conv2d(x, w)
    loads = [command.fields for command, _ in board.commands if command.opcode == Opcode.LOAD]
    places = [tuple(sorted((name, fields[name]) for name in fields if name != "cell")) for fields in loads]
    assert len(places) == len(set(places))
    assert sum(fields["taps"] * fields["positions"] for fields in loads if fields["target"] == Target.A) == 16 * 9 * 16


def test_old_contents_of_the_memories_do_not_matter() -> None:
    layer = LAYERS[0]
    counters = []
    for old in (0, 255):
        board = GoldenBoard(TINY)
        board.golden.store[:] = old
        for cells in board.golden.cells.values():
            cells[:] = old
        check_convolution(board, *layer)
        counters.append(board.counters())
    assert counters[0] == counters[1]
    assert counters[0]["serial_ones"] > 0


# sums


@pytest.mark.parametrize("bits", [*range(4, 33, 4), 64])
def test_dense_sums_unpack(bits: int) -> None:
    generator = np.random.default_rng(bits)
    low, high = -(2 ** (min(bits, 48) - 1)), 2 ** (min(bits, 48) - 1) - 1
    for count in (1, 2, 7, 64):
        numbers = generator.integers(low, high, count, endpoint=True)
        numbers[0], numbers[-1] = low, high
        packed = sum((int(number) & (2**bits - 1)) << index * bits for index, number in enumerate(numbers))
        words = -(-count * bits // 64)
        octets = np.frombuffer(packed.to_bytes(words * 8, "little"), dtype="<u8")
        assert unpack_sums(octets, bits)[:count].tolist() == numbers.tolist()


@pytest.mark.parametrize("bits", [*range(4, 33, 4), 64])
def test_the_sums_of_many_reads_come_to_their_places(bits: int) -> None:
    """READs of any number of words, into two results; what no READ brings stays."""
    generator = np.random.default_rng(bits)
    low, high = -(2 ** (min(bits, 48) - 1)), 2 ** (min(bits, 48) - 1) - 1
    results = [np.full((12, 7), 10**15) for _ in range(2)]
    expected = [generator.integers(low, high, (12, 7), endpoint=True) for _ in range(2)]
    answers = []
    for result, numbers in zip(results, expected, strict=True):
        numbers[0] = 10**15
        for row, column, row_tiles, rows, cols in ((1, 0, 3, 2, 5), (1, 5, 1, 6, 2), (7, 5, 5, 1, 2), (7, 0, 1, 5, 5)):
            fetch = Fetch(row, column, row_tiles, 1, rows, cols, bits)
            places = numbers[row : row + row_tiles * rows, column : column + cols].reshape(-1)
            packed = sum((int(number) & (2**bits - 1)) << index * bits for index, number in enumerate(places))
            words = np.frombuffer(packed.to_bytes(fetch.words * 8, "little"), dtype="<u8")
            answers.append((fetch, words, result))
    store_sums(answers)
    assert np.array_equal(results, expected)


@pytest.mark.parametrize(
    ("bound", "bits"), [(0, 4), (7, 4), (8, 8), (127, 8), (128, 12), (2**31 - 1, 32), (2**31, 64), (2**47, 64)]
)
def test_sums_come_back_in_the_least_width_that_holds_them(bound: int, bits: int) -> None:
    assert width_of_sums(bound) == bits


@pytest.mark.parametrize("depth", [1, 2, 9, 130, 600])
@pytest.mark.parametrize("widths", [(2, 2), (8, 8), (16, 16)])
def test_the_largest_sums_are_not_clipped(widths: tuple[int, int], depth: int) -> None:
    low, high = (limits(bits, True) for bits in widths)
    x = Quantised(torch.full((3, depth), float(low[0])), widths[0], True, 0)
    w = Quantised(torch.full((2, depth), float(high[1])), widths[1], True, 0)
    board = GoldenBoard(TINY)
    assert (board.linear(x, w) == low[0] * high[1] * depth).all()
    assert board.golden.counters["saturated"] == 0


def test_width_of_sums_follows_the_data() -> None:
    """Small numbers, though their type is wide, come back narrow; the bound is that of rows of w, not of all of it."""
    x = Quantised(torch.ones(2, 64), 8, False, 0)
    w = Quantised(torch.ones(3, 64), 8, True, 0)
    image, kernel = x.reshape(2, 64, 1, 1), w.reshape(3, 64, 1, 1)
    geometry = Geometry.of(image.values.shape, kernel.values.shape, 1, 0)
    assert Forward(image, kernel, geometry).sum_bound == 64
    assert Forward(image, kernel, geometry).task.sum_bits == 8
    g = Quantised(torch.ones(2, 3, 1, 1), 16, True, 0)
    assert InputGradient(g, kernel, geometry).sum_bound == 3
    assert WeightGradient(g, image, geometry).sum_bound == 2


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_the_width_of_sums_is_that_of_their_bound(seed: int) -> None:
    """However rough the numbers by which it is chosen, and every one of these bounds holds."""
    source = random.Random(seed)
    kernel, stride, padding = source.choice((1, 2, 3)), source.randint(1, 3), source.randint(0, 2)
    size = kernel + source.randint(0, 9)
    channels, outputs, batch = (source.choice((1, 2, 5, 17)) for _ in range(3))
    x = skewed(source, (batch, channels, size, size + 1))
    w = skewed(source, (outputs, channels, kernel, kernel))
    geometry = Geometry.of(x.values.shape, w.values.shape, stride, padding)
    g = skewed(source, geometry.output_shape)
    for operation in (Forward(x, w, geometry), InputGradient(g, w, geometry), WeightGradient(g, x, geometry)):
        assert operation.sum_bits == operation.task.sum_bits == width_of_sums(operation.sum_bound)
        for bound in operation._bounds():
            steps = list(bound)
            least, most = steps[-1]
            assert least == most == int(most)
            assert all(low <= least and most <= high for low, high in steps)
        result = ModelDevice(TINY).run(operation).abs().max()
        assert result <= operation.sum_bound <= operation.largest_sum


def skewed(source: random.Random, shape: tuple[int, ...]) -> Quantised:
    """Numbers of any width, few of them large; or none but zeros."""
    bits, signed = source.choice((1, 4, 8, 12, 16)), source.random() < 0.7
    bits += bits == signed
    high = limits(bits, signed)[1] if source.random() < 0.95 else 0
    sizes = torch.tensor(source.random()) ** 3 * torch.rand(shape, generator=torch.Generator().manual_seed(len(shape)))
    values = (high * sizes * (1 if not signed else torch.where(sizes > sizes.mean(), 1, -1))).round()
    values.view(-1)[source.randrange(values.numel())] = high
    return Quantised(values, bits, signed, 0)


# what does not fit


@pytest.mark.parametrize("bits", [*range(4, 33, 4), 64])
def test_the_cycles_of_a_read_are_those_of_the_readout(bits: int) -> None:
    """Exact where rows are whole words, at most two cycles a row too few elsewhere, never too many."""
    for cols in range(1, 17):
        fetch = Fetch(row=0, column=0, row_tiles=3, col_tiles=4, rows=8, cols=cols, bits=bits)
        cycles = filled = 0
        for _ in range(3 * 4 * 8):
            left, taken = cols, 0
            while left > 0:
                count = min(left, elements_abreast(bits // 4, filled))
                left, filled, taken = left - count, (filled + count * bits // 4) % (WORD_BITS // 4), taken + 1
            cycles += max(ROW_CYCLES, taken)
        slack = 0 if cols == 16 else 2 * 3 * 4 * 8
        assert fetch.cycles <= cycles <= fetch.cycles + slack, cols
    assert fetch.cycles == 3 * 4 * 8 * 16 / min(4, 64 / bits)


def test_cells_that_hold_one_block_only() -> None:
    """Two octets in 16 cells, a handful of sums: no double buffering, but right."""
    small = replace(TINY, a_cells=16, b_cells=16, sum_tiles=2)
    check_convolution(GoldenBoard(small), *tensors((2, 40, 3, 3), 9, 3, (16, 16, 16), padding=1))


@pytest.mark.parametrize(
    "layer",
    [
        tensors((2, 3, 24, 20), 2, 3, padding=1),  # an image is too large
        tensors((1, 200, 2, 2), 3, 1),  # a pixel is too large
        tensors((3, 40, 1, 1), 60, 1),  # weights are too large
        tensors((2, 6, 9, 40), 5, 3, (16, 16, 16), stride=2, padding=1),
        tensors((1, 2, 2, 9), 3, 2, stride=3, padding=3),
    ],
    ids=["image", "pixel", "weights", "all", "far"],
)
def test_what_does_not_fit_the_store_is_cut(layer: tuple) -> None:
    board, model = GoldenBoard(SMALL_STORE), ModelDevice(SMALL_STORE)
    check_convolution(board, *layer)
    check_convolution(model, *layer)
    assert board.golden.counters["loads"] == model.counters()["loads"]
    assert board.golden.counters["words_written"] == model.counters()["words_written"]
    assert board.store.refetched_bytes == model.store.refetched_bytes


def test_what_cannot_be_planned_is_refused() -> None:
    huge = ArrayConfig(rows=64, columns=64, a_cells=64)
    row = Quantised(torch.full((64, 64), 32767.0), 16, True, 0)
    with pytest.raises(UsageError, match="fewer rows or columns"):
        GoldenBoard(huge).linear(row, row)
    with pytest.raises(UsageError, match=r"stride of 200 is more than the 127 .*use a smaller"):
        GoldenBoard(TINY).conv2d(*tensors((1, 1, 401, 1), 1, 1)[:2], stride=200)
    with pytest.raises(UsageError, match=r"kernel of 300 rows is more than the 256 .*use fewer"):
        operation = operations(*tensors((1, 1, 300, 300), 1, 300))[0]
        schedule(TINY, operation.task)
    with pytest.raises(UsageError, match=r"do not fit their share \(32 words .*raise store_words"):
        operation = operations(*tensors((1, 1, 60, 60), 1, 60))[0]
        schedule(SMALL_STORE, operation.task)


def test_phases_have_their_operations() -> None:
    assert [operation.phase for operation in operations(*LAYERS[0])] == [
        Phase.FORWARD,
        Phase.INPUT_GRADIENT,
        Phase.WEIGHT_GRADIENT,
    ]


# pace


def matmul_step(sum_tile: int, b_cell: int) -> Step:
    sizes = {"slices": 2, "planes": 8, "chunks": 2, "row_tiles": 1, "col_tiles": 1}
    places = {"a_cell": 0, "b_cell": b_cell, "a_octets": 1, "b_octets": 1, "sum_tile": sum_tile}
    return Step(Opcode.MATMUL, sizes | places, sums=(sum_tile, 1))


def test_a_matmul_waits_for_the_read_of_its_sums_and_the_load_of_its_cells_and_for_no_other() -> None:
    pace = Pace(CONFIGS["default"], operations(*LAYERS[0])[0].task, ())
    fetch = Fetch(0, 0, 8, 1, rows=8, cols=16, bits=24)
    pace.take(Step(Opcode.READ, {"first": 4, "count": 8}, fetch=fetch))
    waits = pace.begin(matmul_step(11, 0)) - pace.begin(matmul_step(12, 0))
    assert fetch.cycles - 20 < waits < fetch.cycles + 20
    pace = Pace(CONFIGS["default"], operations(*LAYERS[0])[0].task, ())
    pace.take(Step(Opcode.LOAD, {"target": Target.B}, cells=range(10, 20), cycles=500))
    assert 480 < pace.begin(matmul_step(0, 19)) - pace.begin(matmul_step(0, 20)) < 520
