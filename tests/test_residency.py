"""The book of the tensor store: nothing is sent twice while it fits, what was dropped is counted, results are exact."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from bitfirst import packing
from bitfirst.board import BoardDevice
from bitfirst.errors import DeviceError, UsageError
from bitfirst.golden.model import ModelDevice
from bitfirst.lowering import Cut, Forward, Geometry, InputGradient, WeightGradient
from bitfirst.quantised import Quantised
from bitfirst.residency import WORTH_KNOWING, Move, Store, Supplies, Supply, Tensor, forget, tensors_of
from bitfirst.schedule import schedule
from bitfirst_hdl.config import CONFIGS
from bitfirst_hdl.contract.packets import TENSOR_SLOTS, Opcode
from emulated_device import EmulatedDevice, EmulatedTransport
from golden_board import GoldenBoard
from test_board import check_convolution, random_convolution, random_tensor
from test_plan import tensors

TINY, DEFAULT = CONFIGS["tiny"], CONFIGS["default"]


def tensor(words: int, seed: int = 0, bits: int = 8) -> Tensor:
    """A tensor of so many store words, different for each seed."""
    values = np.random.default_rng(seed).integers(0, 2**bits, (1, words * 16 // -(-bits // 8), 1, 1))
    operand = Quantised(torch.tensor(values, dtype=torch.float32), bits, False, 0)
    return Tensor(operand, Cut("x", (0, 1), (0, values.size), (0, 1), (0, 1)))


# words


def written(board: GoldenBoard) -> int:
    return board.golden.counters["words_written"]


def words(x: Quantised, bits: int) -> int:
    """64-bit words of a tensor whose octets are all wide."""
    return -(-x.values.numel() // 16) * -(-bits // 8) * 2


def test_nothing_is_sent_twice() -> None:
    x, w, g, window = tensors((4, 16, 8, 8), 16, 3, padding=1)
    board = GoldenBoard(DEFAULT)
    board.conv2d(x, w, **window)
    assert written(board) == words(x, 8) + words(w, 8)
    again = Quantised(x.values.clone(), x.bits, x.signed, x.exponent)
    board.conv2d_weight_gradient(g, again, tuple(w.values.shape), **window)
    assert written(board) == words(x, 8) + words(w, 8) + words(g, 16)
    board.conv2d_input_gradient(g, w, tuple(x.values.shape), **window)
    assert written(board) == words(x, 8) + words(w, 8) + words(g, 16)
    assert board.store.refetched_bytes == 0


@pytest.mark.parametrize(("bits", "share"), [(3, 2), (4, 2), (5, 4), (8, 4), (12, 6), (13, 8), (16, 8)])
def test_narrow_numbers_travel_in_fewer_words(bits: int, share: int) -> None:
    """A store word is two 64-bit words for each octet; the upper one only where its four bits are used."""
    board = GoldenBoard(DEFAULT)
    x = random_tensor(random.Random(3), (16, 16), bits, True)
    w = random_tensor(random.Random(4), (4, 16), 8, True)
    assert torch.equal(board.linear(x, w).double(), x.values.double() @ w.values.double().T)
    assert written(board) == 16 * share // 2 + 4 * 2


def test_changed_weights_are_sent_and_the_old_ones_make_room() -> None:
    x, w, _, window = tensors((1, 16, 4, 4), 16, 3, padding=1)
    board = GoldenBoard(DEFAULT)
    for step in range(40):
        board.conv2d(x, Quantised(w.values - step, 16, True, 0), **window)
    assert written(board) == words(x, 8) + 40 * words(w, 16)
    assert board.store.refetched_bytes == 0


def test_a_small_store_spills_and_counts_it() -> None:
    small = replace(TINY, store_words=64)
    x, w, g, window = tensors((6, 8, 4, 4), 6, 3, padding=1)
    boards = GoldenBoard(small), ModelDevice(small)
    for board in boards:
        for _ in range(2):
            check_convolution(board, x, w, g, window)
    board, model = boards
    assert board.store.refetched_bytes == model.store.refetched_bytes > 0
    assert written(board) == model.counters()["words_written"]
    once = words(x, 8) + words(w, 8) + words(g, 16)
    assert written(board) * 8 - board.store.refetched_bytes == once * 8


# the book


def test_tensors_are_known_by_content_shape_and_width() -> None:
    values = torch.arange(64.0).reshape(2, 2, 4, 4)
    whole = (0, 2), (0, 2), (0, 4), (0, 4)
    same = Tensor(Quantised(values, 8, False, 0), Cut("x", *whole)).key
    assert Tensor(Quantised(values.clone(), 8, True, 3), Cut("g", *whole)).key == same
    assert Tensor(Quantised(values, 7, False, 0), Cut("x", *whole)).key != same
    assert Tensor(Quantised(values + 1, 8, False, 0), Cut("x", *whole)).key != same
    other = Quantised(values.reshape(2, 2, 2, 8), 8, False, 0)
    assert Tensor(other, Cut("x", (0, 2), (0, 2), (0, 2), (0, 8))).key != same
    part = Tensor(Quantised(values, 8, False, 0), Cut("x", (1, 2), (0, 1), (1, 3), (0, 4)))
    assert part.cut.shape == (1, 2, 4, 1)
    assert packing.unpack_store(part.packed(), 8, False).tolist() == values[1, 0, 1:3].flatten().tolist()


def test_least_recently_held_makes_room() -> None:
    store = Store(replace(TINY, store_words=64))
    first, second, third = (tensor(24, seed) for seed in range(3))
    assert [store.hold(first).word, store.hold(second).word] == [0, 24]
    assert store.hold(first) is None
    move = store.hold(third)
    assert (move.word, move.slot, move.forget) == (24, 1, ())
    assert first.key in store and second.key not in store
    assert store.refetched_bytes == 0
    back = store.hold(second)
    assert (back.word, store.refetched_bytes) == (0, 24 * 16)


def test_tensors_in_use_make_room_last() -> None:
    store = Store(replace(TINY, store_words=64))
    first, second, third = (tensor(24, seed) for seed in range(3))
    store.hold(first)
    store.hold(second)
    store.hold(third, keep=frozenset((first.key,)))
    assert first.key in store and second.key not in store
    fourth = tensor(64, 4)
    move = store.hold(fourth, keep=frozenset((first.key, third.key)))
    assert move.word == 0 and len(move.forget) == 1


def test_slots_are_as_scarce_as_words() -> None:
    store = Store(DEFAULT)
    moves = [store.hold(tensor(1, seed)) for seed in range(TENSOR_SLOTS + 3)]
    assert [move.slot for move in moves] == [*range(TENSOR_SLOTS), 0, 1, 2]
    assert all(move.forget == () for move in moves)


def test_gaps_are_filled_and_neighbours_forgotten() -> None:
    store = Store(replace(TINY, store_words=64))
    moves = [store.hold(tensor(16, seed)) for seed in range(4)]
    assert [move.word for move in moves] == [0, 16, 32, 48]
    large = store.hold(tensor(40, 5))
    assert (large.word, large.slot, large.forget) == (0, 0, (1, 2))
    kinds = [command.opcode for command in large.commands()]
    assert kinds == [Opcode.TENSOR, Opcode.TENSOR, Opcode.TENSOR, Opcode.WRITE]
    assert len(kinds) == large.command_count


def test_a_tensor_larger_than_the_store_is_refused() -> None:
    with pytest.raises(UsageError, match="raise store_words"):
        Store(replace(TINY, store_words=64)).hold(tensor(65))


def test_what_operations_do_to_the_store_is_known_by_heart() -> None:
    """The same sums of moves and the same store as by the moves themselves, whatever is held again or has changed."""
    small = replace(TINY, store_words=128)
    source = random.Random(5)
    layers = [random_convolution(source) for _ in range(3)]
    layers += [tensors((9, 16, 7, 7), 12, 3, padding=1), tensors((9, 30, 5, 5), 16, 3, stride=2)]
    quick, slow = Store(small), Store(small)
    supplies, large = Supplies(quick), 0
    for turn in range(60):
        x, w, g, window = layers[turn % 5 if turn < 40 else source.randrange(5)]
        geometry = Geometry.of(x.values.shape, w.values.shape, window.get("stride", 1), window.get("padding", 0))
        if turn < 40:  # other numbers of the same kind
            g = Quantised(g.values.roll(turn), g.bits, g.signed, 0)
        for operation in (Forward(x, w, geometry), InputGradient(g, w, geometry), WeightGradient(g, x, geometry)):
            planned = schedule(small, operation.task)
            moves: list[Move] = []
            supply = Supply(slow, tensors_of(planned, operation), operation.phase, moves.append)
            for hold, needed in planned.uses:
                supply.hold(hold)
                supply.need_all(needed)
            expected = sum(move.data_words for move in moves), sum(move.command_count for move in moves)
            assert supplies.bring(planned, operation) == (*expected, {})
            large += len(planned.tensors) >= WORTH_KNOWING
            assert quick.__dict__ == slow.__dict__
    assert quick.refetched_bytes > 0
    assert 0 < len(supplies._known) < large * 3 // 4


# boards


def test_a_device_that_holds_something_is_emptied_when_opened() -> None:
    device = EmulatedDevice(TINY)
    for seed in range(2):
        board = BoardDevice("emulated", EmulatedTransport(device), TINY)
        check_convolution(board, *random_convolution(random.Random(seed)))
        assert board.counters()["faults"] == 0


def test_after_a_refusal_nothing_is_taken_for_granted() -> None:
    device = EmulatedDevice(TINY)
    board = BoardDevice("emulated", EmulatedTransport(device), TINY)
    x, w, g, window = tensors((2, 3, 5, 5), 4, 3, padding=1)
    check_convolution(board, x, w, g, window)
    for slot in range(TENSOR_SLOTS):  # somebody else forgets our tensors
        board.execute(forget(slot))
    with pytest.raises(DeviceError, match="refused LOAD"):
        board.conv2d(x, w, **window)
    check_convolution(board, x, w, g, window)
