"""Signs of dW on boards: first pass, comparison, the rest on the same sums, against integers and the golden model."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import sign_gradient, sign_schedule
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.errors import DeviceError, UsageError
from bitfirst.golden import psg
from bitfirst.golden.model import ModelDevice
from bitfirst.golden.psg import Mode, Predictor, Rule, Split, State, Sums, Threshold
from bitfirst.lowering import Axis, Gather, Geometry, WeightGradient, Width
from bitfirst.plan import Digits, Plan, Shape
from bitfirst.quantised import Quantised
from bitfirst.quantiser import quantise
from bitfirst.residual import ResidualTile
from bitfirst.schedule import Schedule
from bitfirst.sign_schedule import Finish
from bitfirst.steps import Step
from bitfirst_hdl.config import CONFIGS, MAX_BITS, ArrayConfig
from bitfirst_hdl.contract.packets import OCTET_BITS, PROGRAM_ROWS, WORD_BYTES, Opcode, Space
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from emulated_device import EmulatedDevice, EmulatedTransport
from faulty_transport import Faults, FaultyTransport
from torch.nn import functional

TINY = CONFIGS["tiny"]
UNALIKE = ("commands", "phase", "words_written")  # what was in the store before makes a difference
E2TRAIN = Split(8, 4, False), Split(16, 6, True)
SPLITS = [E2TRAIN, (Split(8, 4, True), Split(16, 8, True)), (Split(16, 8, False), Split(9, 7, True))]
LAYERS = [
    # batch, inputs, outputs, height, width, kernel, stride, padding
    (3, 3, 5, 6, 6, 3, 1, 1),
    (2, 4, 9, 8, 7, (3, 2), (2, 3), (0, 1)),
    (2, 9, 3, 4, 4, 1, 1, 0),
    (1, 1, 1, 1, 1, 1, 1, 0),
    (2, 3, 5, 4, 4, 3, 1, 3),  # some taps at the border meet no pixel
]


def command_board(config: ArrayConfig) -> BoardDevice:
    return BoardDevice("commands", EmulatedTransport(EmulatedDevice(config)), config)


# the split, digit by digit
EVERY_SPLIT = [
    Split(bits, low, signed)
    for signed in (False, True)
    for bits in range(2 + signed, MAX_BITS + 1)
    for low in range(1, bits - signed)
]


def as_quantised(values: torch.Tensor, split: Split, exponent: int = 0) -> Quantised:
    return Quantised(values.to(torch.float32), split.bits, split.signed, exponent, low=split.low)


@pytest.mark.parametrize("split", EVERY_SPLIT, ids=lambda split: f"{split.bits}-{split.low}-{split.signed}")
def test_codes_are_both_parts_side_by_side(split: Split) -> None:
    """Every number of the narrow splits, some of the wide ones; zero is stored as zero."""
    least, most = split.limits
    values = torch.arange(least, most + 1, max(1, (most - least) // 300))
    high, rest = split.cut(values)
    codes = torch.from_numpy(as_quantised(values, split).codes.astype(np.int64))
    assert torch.equal(codes >> split.low, high)
    assert torch.equal(codes & 2**split.low - 1, rest & 2**split.low - 1)
    assert as_quantised(torch.zeros(1), split).codes == 0


def planned(config: ArrayConfig, x: Split, g: Split) -> Plan:
    gather = Gather((1, 1, 1, 1), Axis(0, 1, 1, 1), Axis(0, 1, 1, 1), 1, 0, 1)
    a, b = (Width(role, split.bits, split.signed, split.low) for role, split in (("x", x), ("g", g)))
    return Plan(config, Shape(1, 1, (1,), a, b, gather, gather), 1, 1, 1, True)


def taken(config: ArrayConfig, plan: Plan, digits: Digits, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    """What a MATMUL of these digits makes of the products of numbers `x` and `g`, by the contract's weights."""
    size, total = config.slice_bits, np.zeros((len(x), len(g)), dtype=np.int64)
    for s in range(digits.slices):
        place = digits.a_first + s
        digit = x >> OCTET_BITS * plan.shape.a.octets - size * (place + 1) & 2**size - 1
        if digits.a_offset >> s & 1:
            digit = (digit ^ 2 ** (size - 1)) - 2 ** (size - 1)
        for p in range(digits.planes):
            bit = g >> OCTET_BITS * plan.shape.b.octets - 1 - (digits.b_first + p) & 1
            weight = size * (digits.slices - 1 - s + digits.a_below) + digits.planes - 1 - p + digits.b_below
            total += np.outer(digit, -bit if digits.b_negative >> p & 1 else bit) << weight
    return total


@pytest.mark.parametrize("name", ["tiny", "slice1", "slice8"])
def test_first_pass_and_rest_are_the_whole_product(name: str) -> None:
    """Every pair of splits: exact, within the fields of MATMUL, and never larger in magnitude than whole operands."""
    config, generator = CONFIGS[name], np.random.default_rng(4)
    splits = [split for split in EVERY_SPLIT if split.low % config.slice_bits == 0]
    for x in splits:
        for g in generator.choice(np.array(EVERY_SPLIT, dtype=object), 4):
            plan = planned(config, x, g)
            values, codes = [], []
            for split in (x, g):
                least, most = split.limits
                some = np.array([least, most, 0, *generator.integers(least, most, 3, endpoint=True)])
                values.append(some)
                codes.append(as_quantised(torch.from_numpy(some), split).codes.astype(np.int64))
            first, *rest = (taken(config, plan, digits, *codes) for digits in (plan.leading, *plan.rest))
            whole = np.outer(*values)
            high = np.outer(*(split.cut(torch.from_numpy(some))[0] for split, some in zip((x, g), values, strict=True)))
            assert np.array_equal(first, high << x.low + g.low)
            assert np.array_equal(first + rest[0] + rest[1], whole)
            assert np.array_equal(taken(config, plan, plan.whole, *codes), whole)
            most = (2 ** (x.bits - x.signed) - 1) * (2 ** (g.bits - g.signed) - 1)
            assert max(np.abs(first).max(), np.abs(first + rest[0]).max()) <= most
            for digits in (plan.leading, *plan.rest):
                assert digits.slices + digits.a_below <= config.max_slices
                assert digits.planes + digits.b_below <= OCTET_BITS * plan.shape.b.octets
                assert max(digits.a_below, digits.b_below) < 16


# signs
def operands(layer: tuple, splits: tuple[Split, Split], seed: int) -> tuple[Quantised, Quantised, tuple[int, ...]]:
    """g, x and the shape of dW; numbers of which many are small or zero."""
    batch, inputs, outputs, height, width, kernel, stride, padding = layer
    generator = torch.Generator().manual_seed(seed)
    taps = (kernel, kernel) if isinstance(kernel, int) else kernel
    shape = (outputs, inputs, *taps)
    geometry = Geometry.of((batch, inputs, height, width), shape, stride, padding)

    def numbers(size: tuple[int, ...], split: Split) -> torch.Tensor:
        least, most = split.limits
        wild = torch.randn(size, generator=generator).pow(3).mul(most / 8).round()
        return wild.clamp(least, most)

    x_split, g_split = splits
    x = Quantised(numbers(geometry.input_shape, x_split), x_split.bits, x_split.signed, -3)
    g = Quantised(numbers(geometry.output_shape, g_split), g_split.bits, g_split.signed, -9)
    return g, x, shape


def reference(g: Quantised, x: Quantised, shape: tuple, rule: Rule, layer: tuple, state: State | None) -> psg.Decision:
    """Unfolded windows, sums of integers, and the definitions of `psg`."""
    *_, stride, padding = layer
    columns = functional.unfold(x.values.double(), shape[2:], padding=padding, stride=stride)
    pixels = columns.transpose(1, 2).reshape(-1, columns.shape[1]).to(torch.int64)
    gradients = g.values.flatten(2).transpose(1, 2).reshape(-1, shape[0]).to(torch.int64)
    sums = Sums(rule.x, rule.g, pixels.shape[1], shape[0], len(pixels))
    sums.add(pixels, gradients)
    assert torch.equal(
        sums.total.T.reshape(shape).double(),
        torch.nn.grad.conv2d_weight(x.values.double(), shape, g.values.double(), stride, padding),
    )
    decision = psg.decide(sums, rule.threshold, g.exponent + x.exponent, state, rule.repair)
    signs, resolved = (part.T.reshape(shape) for part in (decision.signs, decision.resolved))
    return replace(decision, signs=signs, resolved=resolved)


def rules(splits: tuple[Split, Split]) -> Iterator[tuple[Rule, State | None]]:
    near, far = State(5, -12 + splits[0].low + splits[1].low), State(5, 99)
    yield Rule(*splits, Threshold(Mode.CONSTANT, constant=2.5)), None
    yield Rule(*splits, Threshold(Mode.CONSTANT, constant=2.0**90)), None  # nothing is resolved
    yield Rule(*splits, Threshold(Mode.LAGGED, 820)), near
    yield Rule(*splits, Threshold(Mode.LAGGED, 820)), far  # stale
    yield Rule(*splits, Threshold(Mode.EXACT, 820)), near
    yield Rule(*splits, Threshold(Mode.EXACT, 0)), None  # the predictor alone
    yield Rule(*splits, Threshold(Mode.EXACT, 820), repair=True), None


def check(board: Device, layer: tuple, splits: tuple[Split, Split], seed: int = 0, least_resolved: int = 0) -> Counter:
    """All rules; returns how many signs were resolved, finished, and what they are. Board and model count alike."""
    *_, stride, padding = layer
    g, x, shape = operands(layer, splits, seed)
    seen: Counter = Counter()
    model, before = ModelDevice(board.config), board.counters()
    for rule, state in rules(splits):
        expected = reference(g, x, shape, rule, layer, state)
        found = board.conv2d_weight_signs(g, x, shape, rule, stride, padding, state)
        assert torch.equal(found.signs, expected.signs), rule
        assert torch.equal(found.resolved, expected.resolved), rule
        assert (found.threshold, found.unit, found.state) == (expected.threshold, expected.unit, expected.state), rule
        known = model.conv2d_weight_signs(g, x, shape, rule, stride, padding, state)
        assert (found.done, found.saved) == (known.done, known.saved)
        assert torch.equal(found.signs, known.signs) and torch.equal(found.resolved, known.resolved)
        seen["resolved"] += int(found.resolved.sum())
        seen["finished"] += int((~found.resolved).sum())
        seen.update(found.signs.flatten().tolist())
    if not board.statistics.retransmitted_frames:
        counted, known = board.counters(), model.counters()
        grown = {name: counted[name] - before[name] for name in EXECUTION_COUNTERS if name not in UNALIKE}
        assert grown == {name: known[name] for name in grown}
    return seen


def check_at_the_threshold(board: Device) -> None:
    """Predictions of -20 to 20 and a threshold of 10; one of 0 whose rest decides, and one that stays 0."""
    predictions = torch.arange(-20, 21)
    rest = torch.where(predictions.abs() < 10, 31, 0)
    layer, x = (1, 2, 41, 1, 1, 1, 1, 0), torch.tensor([16.0, 0.0]).reshape(1, 2, 1, 1)
    g = (64 * predictions + rest).to(torch.float32).reshape(1, 41, 1, 1)
    operands = Quantised(g, 16, True, 0), Quantised(x, 8, False, 0)
    rule = Rule(*E2TRAIN, Threshold(Mode.CONSTANT, constant=10.0 * 2**10))
    found = board.conv2d_weight_signs(*operands, (41, 2, 1, 1), rule)
    expected = reference(*operands, (41, 2, 1, 1), rule, layer, None)
    assert found.threshold == 10 and found.state == State(20, 10)
    assert torch.equal(found.resolved[:, 0].flatten(), predictions.abs() >= 10)
    assert not found.resolved[:, 1].any() and not found.signs[:, 1].any()
    assert torch.equal(found.signs, expected.signs) and torch.equal(found.resolved, expected.resolved)


def test_at_the_threshold() -> None:
    check_at_the_threshold(command_board(TINY))


@pytest.mark.parametrize("name", ["tiny", "small", "default", "psg", "slice1", "slice8"])
def test_signs_on_the_command_level_model(name: str) -> None:
    seen: Counter = Counter()
    for splits, layer in zip(SPLITS * 2, LAYERS, strict=False):
        if splits[0].low % CONFIGS[name].slice_bits == 0:
            seen += check(command_board(CONFIGS[name]), layer, splits, seed=len(name))
    assert min(seen[key] for key in ("resolved", "finished", -1, 0, 1)) > 0, seen


def assert_packing_is_refused(board: BoardDevice) -> None:
    """By a device without the part for it."""
    sizes = {name: 1 for name in ("chunks", "slices", "planes", "row_tiles", "col_tiles", "a_octets", "b_octets")}
    board.execute(Command(Opcode.MATMUL, sizes))
    with pytest.raises(DeviceError, match="BAD_VALUE"):
        board.execute(Command(Opcode.MATMUL, sizes | {"packed": 1, "tiles": 1}))
    with pytest.raises(DeviceError, match="BAD_SPACE"):
        board.execute(Command(Opcode.WRITE, {"space": Space.PROGRAM, "rows": 1, "words": 1}, np.zeros(1, np.uint64)))


def test_packing_without_the_part_for_it_is_refused() -> None:
    assert_packing_is_refused(command_board(CONFIGS["small"]))


def test_smallest_sums_hold_both_passes_where_nothing_packs() -> None:
    config = replace(CONFIGS["small"], sum_tiles=2)
    with command_board(config) as board:
        seen = check(board, LAYERS[0], E2TRAIN)
    assert seen["resolved"] and seen["finished"], seen


@pytest.mark.parametrize("name", ["tiny", "default"])
def test_signs_on_the_simulated_board(name: str) -> None:
    seen: Counter = Counter()
    with bitfirst.open(f"rtl:{name}") as board:
        for number, layer in enumerate(LAYERS[:3]):
            seen += check(board, layer, SPLITS[number], seed=number)
        check_at_the_threshold(board)
        counters = board.counters()
        if not board.config.packs:
            assert_packing_is_refused(board)
    assert counters["faults"] == counters["overflows"] == 0 < counters["cycles"]
    assert min(seen[key] for key in ("resolved", "finished", -1, 0, 1)) > 0, seen


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("beta", [0, 205])
def test_gradients_of_nothing_but_zeros_have_no_sign(mode: Mode, beta: int) -> None:
    x, g = (Quantised(torch.zeros(2, 3, 2, 2), split.bits, split.signed, 0) for split in E2TRAIN)
    rule = Rule(*E2TRAIN, Threshold(mode, beta, 0.5 * beta))
    found, known = (
        where.conv2d_weight_signs(g, x, (3, 3, 1, 1), rule) for where in (command_board(TINY), ModelDevice(TINY))
    )
    assert not found.signs.any() and found.resolved.all() == (not beta)
    assert (found.threshold, found.state, found.done) == (known.threshold, known.state, known.done)


@pytest.mark.parametrize("seed", range(3))
def test_signs_are_exact_on_a_damaged_link(seed: int) -> None:
    """An answer that is lost is asked for again: until it is there, its sums stay as they were compared."""
    faults = Faults(flip=1e-3, seed=seed), Faults(flip=1e-3, seed=seed + 100)
    emulated = EmulatedTransport(EmulatedDevice(TINY))
    board = BoardDevice("damaged", FaultyTransport(emulated, *faults), TINY)
    check(board, LAYERS[0], E2TRAIN)
    assert board.statistics.retransmitted_frames > 0


def test_signs_of_linear_layers() -> None:
    generator = torch.Generator().manual_seed(8)
    x = Quantised(torch.randint(0, 240, (7, 20), generator=generator).float(), 8, False, 0)
    g = Quantised(torch.randint(-9999, 9999, (7, 3), generator=generator).float(), 16, True, 0)
    rule = Rule(*E2TRAIN, Threshold(Mode.EXACT, 820))
    found, known = (where.linear_weight_signs(g, x, rule) for where in (command_board(TINY), ModelDevice(TINY)))
    assert torch.equal(found.signs, known.signs) and torch.equal(found.resolved, known.resolved)
    assert 0 < found.resolved.sum() < found.resolved.numel()


# what the schedules promise
def wanted_of(layer: tuple, splits: tuple = E2TRAIN, seed: int = 0) -> sign_gradient.SignGradient:
    g, x, shape = operands(layer, splits, seed)
    *_, stride, padding = layer
    operation = WeightGradient(g, x, Geometry.of(x.values.shape, shape, stride, padding))
    return sign_gradient.SignGradient(operation, Rule(*splits, Threshold()))


def schedules(config: ArrayConfig, layer: tuple, share: float = 0.3) -> tuple[Schedule, Finish]:
    """That of the first pass, and that of the rest of so many sums."""
    wanted = wanted_of(layer)
    led = sign_schedule.lead(config, wanted.task).schedule
    resolved = some_resolved(wanted.geometry.weight_shape, share)
    return led, wanted.finish(config, resolved, np.zeros(resolved.shape, dtype=np.int64)).plan


def some_resolved(shape: tuple[int, ...], unresolved: float) -> np.ndarray:
    return np.random.default_rng(5).random(shape) >= unresolved


def commands(schedule: Schedule, opcode: Opcode) -> list[dict[str, int]]:
    return [step.fields for step in schedule.steps if isinstance(step, Step) and step.opcode == opcode]


@pytest.mark.parametrize("layer", LAYERS[:3])
@pytest.mark.parametrize("name", ["tiny", "psg"])
def test_only_closed_sums_are_read(name: str, layer: tuple) -> None:
    """No READ before all of K; the rest begins with sums that were written."""
    led, rest = schedules(CONFIGS[name], layer)
    for schedule, passes in ((led, 1), (rest.schedule, 2)):
        depth: dict[int, int] = {}
        for step in schedule.steps:
            fields = step.fields if isinstance(step, Step) else {}
            if isinstance(step, Step) and step.opcode == Opcode.MATMUL:
                tiles = fields["tiles"] if fields.get("packed") else fields["row_tiles"] * fields["col_tiles"]
                for tile in range(fields["sum_tile"], fields["sum_tile"] + tiles):
                    assert fields["accumulate"] or passes == 1
                    depth[tile] = (depth[tile] if fields["accumulate"] else 0) + fields["chunks"]
            elif fields.get("space") == Space.SUMS and step.opcode == Opcode.WRITE:
                rows = range(fields["row"], fields["row"] + fields["rows"])
                depth |= {row // CONFIGS[name].rows: 0 for row in rows}
            elif isinstance(step, Step) and step.opcode == Opcode.READ:
                part, product = divmod(step.product, len(schedule.products))  # part: of a walk that does the rest too
                if passes == 2:
                    part, product = 1, rest.rectangles[step.product].product
                for tile in range(fields["first"], fields["first"] + fields["count"]):
                    assert depth.pop(tile) == (1 + part) * schedule.plans[product].total_chunks
        assert not depth


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 1.0])
def test_every_unresolved_sum_is_finished_once(share: float) -> None:
    """Whatever the rectangles: those of a small array and small memories are many."""
    layer = (2, 9, 21, 6, 6, 3, 1, 1)
    for config in (TINY, CONFIGS["default"], replace(CONFIGS["default"], a_cells=16, sum_tiles=8)):
        _, rest = schedules(config, layer, share)
        done: Counter = Counter()
        for part in rest.rectangles:
            used, rows, columns = part.elements(config)
            done.update(zip([part.product] * int(used.sum()), rows[used].tolist(), columns[used].tolist(), strict=True))
            assert len(part.tiles) <= config.sum_tiles
            assert sum(len(tile.words) for tile in part.tiles) <= PROGRAM_ROWS
        assert set(done.values()) <= {1} and len(done) == int((~some_resolved((21, 9, 3, 3), share)).sum())
        assert bool(rest.rectangles) == (share > 0)


def test_only_what_is_not_resolved_takes_steps() -> None:
    """A tenth of the sums takes less than a third of the steps that all take, on the default array."""
    layer = (2, 16, 32, 8, 8, 3, 1, 1)
    few, all_ = (schedules(CONFIGS["default"], layer, share)[1].schedule.counters for share in (0.1, 1.0))
    assert 0 < few["array_steps"] < 0.3 * all_["array_steps"]


def test_a_program_is_written_for_each_number_of_chunks() -> None:
    layer = (1, 4, 5, 13, 13, 1, 1, 0)
    _, rest = schedules(TINY, layer)
    chunks: list[int] = []
    for step in rest.schedule.steps:
        if isinstance(step, Step) and step.opcode == Opcode.WRITE and step.fields["space"] == Space.PROGRAM:
            chunks.append(0)
        elif isinstance(step, Step) and step.opcode == Opcode.MATMUL:
            assert chunks[-1] in (0, step.fields["chunks"])
            chunks[-1] = step.fields["chunks"]
    assert len(set(chunks)) > 1


def test_each_walk_brings_its_tensors_ahead() -> None:
    """A second walk over K goes back to tensors that are no longer there: these are brought as the first ones were."""
    config = ArrayConfig(**TINY.as_dict() | {"store_words": 128})
    _, rest = schedules(config, (8, 16, 9, 6, 6, 3, 1, 1))
    uses = rest.schedule.uses
    assert len(rest.rectangles) > 1 and len(rest.schedule.tensors) > 2
    assert sum(len(hold.tensors) for hold, _ in uses) == len(rest.rectangles) * len(rest.schedule.tensors)
    assert all(set(tensors) <= set(hold.keep) for hold, tensors in uses)


def test_what_is_sent_twice_is_counted() -> None:
    layer = (8, 16, 4, 6, 6, 3, 1, 1)
    g, x, shape = operands(layer, E2TRAIN, 1)
    for store_words, again in ((1024, False), (256, True)):
        board = command_board(ArrayConfig(**TINY.as_dict() | {"store_words": store_words}))
        board.conv2d_weight_signs(g, x, shape, Rule(*E2TRAIN, Threshold(Mode.CONSTANT, constant=1.0)), 1, 1)
        assert (board.store.refetched_bytes > 0) == again


def busy_outputs() -> tuple[Quantised, Quantised, tuple[int, ...]]:
    """Only four outputs are not resolved by `BUSY_RULE`: those of one group of columns."""
    generator = torch.Generator().manual_seed(7)
    x = torch.randint(1, 200, (16, 16, 8, 8), generator=generator).float()
    g = torch.randint(-1, 30, (16, 16, 8, 8), generator=generator).float()
    g[:, 4:] += 9000
    return Quantised(g, 16, True, 0), Quantised(x, 8, False, 0), (16, 16, 3, 3)


BUSY_RULE = Rule(*E2TRAIN, Threshold(Mode.CONSTANT, constant=2.0**20))


def check_busy_outputs() -> tuple[int, int]:
    """Array steps, and words that were sent again; the signs, and all that is counted, are the model's."""
    g, x, shape = busy_outputs()
    model = ModelDevice(CONFIGS["psg"])
    with command_board(CONFIGS["psg"]) as board:
        board.conv2d(x, Quantised(torch.ones(shape), 8, True, 0), 1, 1)
        model.conv2d(x, Quantised(torch.ones(shape), 8, True, 0), 1, 1)
        found = board.conv2d_weight_signs(g, x, shape, BUSY_RULE, 1, 1)
        known = model.conv2d_weight_signs(g, x, shape, BUSY_RULE, 1, 1)
        expected = reference(g, x, shape, BUSY_RULE, (16, 16, 16, 8, 8, 3, 1, 1), None)
        assert torch.equal(found.signs, expected.signs), "signs"
        assert torch.equal(found.resolved, expected.resolved)
        assert torch.equal(known.signs, expected.signs)
        assert int((~found.resolved).sum()) == 4 * 16 * 9
        counted, counted_by_model = board.counters(), model.counters()
        names = [name for name in EXECUTION_COUNTERS if name not in UNALIKE]
        assert {name: counted[name] for name in names} == {name: counted_by_model[name] for name in names}
        assert model.store.refetched_bytes == board.store.refetched_bytes
        return counted["array_steps"], board.store.refetched_bytes // WORD_BYTES


def test_busy_outputs_are_put_apart_in_the_rest(monkeypatch) -> None:
    """g goes again with its channels in another order, since that saves more steps than it sends words."""
    steps, sent = check_busy_outputs()
    assert sent == 16 * 8 * 8 * 16 * 16 // 64
    monkeypatch.setattr(sign_gradient, "order_outputs", lambda *_: None)
    unordered, none_sent = check_busy_outputs()
    assert none_sent == 0 and steps < unordered - sent


def test_a_wrong_order_of_outputs_is_found(monkeypatch) -> None:
    monkeypatch.setattr(sign_gradient.Rest, "in_place", lambda rest, signs: signs)
    with pytest.raises(AssertionError, match="signs"):
        check_busy_outputs()


# mutants
def test_what_the_forward_pass_sent_is_not_sent_again() -> None:
    """`quantise` with `low` makes operands that the device stores cut, so all three products read them."""
    words = {}
    for low in (4, 0):
        with command_board(TINY) as board:
            torch.manual_seed(0)
            x = replace(quantise(torch.rand(2, 16, 6, 6), 8, low=4), low=low)
            w = quantise(torch.randn(4, 16, 3, 3), 8, signed=True)
            g = quantise(torch.randn(2, 4, 6, 6), 16, signed=True, low=6)
            board.conv2d(x, w, 1, 1)
            before = board.counters()["words_written"]
            rule = Rule(*E2TRAIN, Threshold(Mode.EXACT, 205))
            board.conv2d_weight_signs(g, x, tuple(w.values.shape), rule, 1, 1)
            words[low] = board.counters()["words_written"] - before
    of_x = 2 * 6 * 6 * 16 // 8
    assert words[0] - words[4] == of_x


@pytest.fixture
def planned_anew() -> Iterator[None]:
    """Nothing planned before, and nothing of what is planned meanwhile stays."""
    sign_schedule.lead.cache_clear()
    yield
    sign_schedule.lead.cache_clear()


def assert_caught(layer: tuple = LAYERS[0]) -> None:
    with pytest.raises(AssertionError):
        check(command_board(TINY), layer, E2TRAIN)


def test_an_unfinished_first_pass_is_caught(monkeypatch, planned_anew) -> None:
    """A first pass over a later part of K forgets the parts before."""
    make = sign_schedule._LeadBuilder.schedule

    def forgetful(builder) -> Schedule:
        led = [one for work in builder.work for one in work.matmuls if one.fields["b_below"]]
        later = [one for one in led if one.fields["accumulate"]]
        later[0].fields["accumulate"] = 0
        return make(builder)

    monkeypatch.setattr(sign_schedule._LeadBuilder, "schedule", forgetful)
    assert_caught((8, 3, 5, 8, 8, 3, 1, 1))


def test_an_unfinished_rest_is_caught(monkeypatch, planned_anew) -> None:
    """The low slices of x are left out."""
    right = sign_schedule._FinishBuilder._multiply
    monkeypatch.setattr(
        sign_schedule._FinishBuilder,
        "_multiply",
        lambda builder, *fields: right(builder, *fields[:3], fields[3][:1], fields[4]),
    )
    assert_caught()


def test_sums_that_do_not_go_on_are_caught(monkeypatch) -> None:
    """The first pass's sums do not come back."""
    right = sign_gradient.finish
    monkeypatch.setattr(
        sign_gradient, "finish", lambda *args: right(*args[:3], [np.zeros_like(one) for one in args[3]])
    )
    assert_caught()


def test_an_element_at_a_wrong_column_is_caught(monkeypatch) -> None:
    right = ResidualTile.program

    def turned(tile, *arguments) -> list[dict]:
        rows = right(tile, *arguments)
        return [row | {"choice": np.roll(row["choice"], 1)} for row in rows]

    monkeypatch.setattr(ResidualTile, "program", turned)
    assert_caught()


# bad input
@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(Split(8, 4, True), E2TRAIN[1], Threshold()), "the input has 8 bits unsigned, the rule cuts 8 bits s"),
        (Rule(E2TRAIN[0], Split(12, 4, True), Threshold()), "the gradient has 16 bits signed, the rule cuts 12"),
        (Rule(E2TRAIN[0], Split(16, 6, True, Predictor.FLOOR), Threshold()), "splits by rounding, not by floor"),
        (Rule(Split(8, 3, False), E2TRAIN[1], Threshold()), "3 low bits cannot be taken in slices of 4"),
    ],
)
def test_rules_that_do_not_fit_are_refused(rule: Rule, message: str) -> None:
    g, x, shape = operands(LAYERS[0], E2TRAIN, 0)
    with pytest.raises(UsageError, match=message):
        command_board(TINY).conv2d_weight_signs(g, x, shape, rule, 1, 1)


def test_numbers_that_the_first_part_cannot_hold_are_refused() -> None:
    g, x, shape = operands(LAYERS[0], E2TRAIN, 0)
    x = replace(x, values=x.values.clone().index_put_((torch.tensor(0),) * 4, torch.tensor(248.0)))
    with pytest.raises(UsageError, match=r"8 bits split 4 \+ 4 hold magnitudes up to 247, not 248; quantise .* low=4"):
        command_board(TINY).conv2d_weight_signs(g, x, shape, Rule(*E2TRAIN, Threshold()), 1, 1)
