"""Masters and momenta in a device's store: the same weights as by updates on the host, on the model and on `rtl`."""

import copy
import gc
import pickle
from collections.abc import Iterator
from dataclasses import replace

import bitfirst
import numpy as np
import pytest
import torch
from bitfirst import data, training
from bitfirst.board import BoardDevice
from bitfirst.command import Command
from bitfirst.device import Device
from bitfirst.errors import UsageError
from bitfirst.golden import update
from bitfirst.golden.commands import GoldenDevice, states_of
from bitfirst.golden.model import ModelDevice
from bitfirst.masters import Masters, kept_weights
from bitfirst.methods import PSG, SignSGD
from bitfirst.nn import convert
from bitfirst.optim import SGD
from bitfirst.packing import pack_states, unpack_states
from bitfirst.quantiser import quantise
from bitfirst.training import TrainOptions
from bitfirst_hdl.config import CONFIGS, STANDARD
from bitfirst_hdl.contract.packets import Opcode, Phase, Space, Status
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from emulated_device import EmulatedDevice, EmulatedTransport
from reference_device import ReferenceDevice
from torch import nn

TINY = CONFIGS["tiny"]


def small_net() -> nn.Module:
    """Two convolutions whose masters `tiny` has room for, and one for which it has not."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1, bias=False),
        nn.ReLU(),
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.Flatten(),
        nn.Linear(8, 3),
    )


class Training:
    """A few steps of the small network on a device."""

    def __init__(self, device: Device, method: SignSGD) -> None:
        self.device = device
        self.net = convert(small_net(), device, method)
        self.optimizer = SGD(method.param_groups(self.net), lr=0.01, momentum=0.9, weight_decay=1e-3)
        self.losses: list[float] = []

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            generator = torch.Generator().manual_seed(len(self.losses))
            images, labels = torch.rand(4, 1, 6, 6, generator=generator), torch.tensor([0, 1, 2, 0])
            loss = nn.functional.cross_entropy(self.net(images), labels)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.losses.append(loss.item())

    def state(self) -> dict[str, torch.Tensor]:
        """Everything: parameters, masters, momenta."""
        found = dict(self.net.state_dict())
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{number}.{name}": tensor for name, tensor in state.items()}
        return found


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor), name


def method_of(kind: str, where: str) -> SignSGD:
    return SignSGD(update=where) if kind == "signsgd" else PSG(predictor="4x10 round", update=where)


@pytest.mark.parametrize("kind", ["signsgd", "psg"])
def test_device_and_host_update_alike(kind: str) -> None:
    """Losses of each step and everything at the end; what does not fit is updated on the host."""
    on_host = Training(ModelDevice(TINY), method_of(kind, "host"))
    on_device = Training(ModelDevice(TINY), method_of(kind, "device"))
    start = copy.deepcopy(on_device.net.state_dict())
    for each in on_host, on_device:
        each.step(6)
    assert on_device.losses == on_host.losses
    lagging = on_device.net[2].weight.clone()
    assert_equal(on_device.state(), on_host.state())
    assert not torch.equal(on_device.net[2].weight, lagging), "it was on the device"
    assert not torch.equal(start["2.weight"], on_device.net[2].weight)
    kept = [layer.weight in kept_weights for layer in (on_device.net[0], on_device.net[2], on_device.net[4])]
    assert kept == [True, True, False]
    on_device.device.mark(Phase.OTHER)
    assert on_device.device.counters()["updates"] >= 2 * 6 + 2 * 5
    assert on_device.device.phase_counters[Phase.UPDATE]["update_cycles"] == 6 * (37 * (3 + 18) + 2 * 14)


@pytest.mark.parametrize("kind", ["signsgd", "psg"])
def test_rtl_updates_as_the_model(kind: str) -> None:
    """Losses, weights, masters, momenta; by whole products execution counters and bytes, too."""
    model = Training(ModelDevice(TINY), method_of(kind, "device"))
    with bitfirst.open("rtl:tiny") as device:
        board = Training(device, method_of(kind, "device"))
        for training in model, board:
            training.step(3 if kind == "signsgd" else 1)
        assert board.losses == model.losses
        assert_equal(board.state(), model.state())
        if kind == "signsgd":
            assert_same_account(model.device, device)


def both(shape: tuple[int, ...]) -> Iterator[tuple[Device, Masters]]:
    """Random masters on the model, and on a driver in front of the command-level model."""
    generator = torch.Generator().manual_seed(1)
    master = torch.randint(-(2**31) + 1, 2**31 - 1, shape, generator=generator).to(torch.int32)
    momentum = torch.randint(-(2**15) + 1, 2**15 - 1, shape, generator=generator).to(torch.int16)
    for device in ModelDevice(TINY), BoardDevice("commands", EmulatedTransport(EmulatedDevice(TINY)), TINY):
        masters = device.masters(shape)
        masters.put(master, momentum)
        assert all(map(torch.equal, masters.get(), (master, momentum)))
        yield device, masters


def assert_same_account(model: Device, board: Device) -> None:
    counters = board.counters()
    assert {name: counters[name] for name in EXECUTION_COUNTERS} == model.counters()
    assert (board.bytes_moved, board.store.refetched_bytes) == (model.bytes_moved, model.store.refetched_bytes)


@pytest.mark.parametrize(("bits", "shape"), [(2, (3, 5)), (8, (4, 2, 3, 3)), (9, (2, 3, 1, 1)), (16, (1, 17))])
def test_weights_are_those_of_the_quantiser(bits: int, shape: tuple[int, ...]) -> None:
    """On masters of every size, zeros and powers of two among them: integers, scale, largest; what a device puts where
    its products look for them."""
    generator = torch.Generator().manual_seed(bits)
    for device, masters in both(shape):
        for size in (31, 31, 20, 8, 0):
            master = (torch.rand(shape, generator=generator) * 2 - 1) * 2.0**size
            master = (
                master.clamp(1 - 2**31, 2**31 - 1).round().to(torch.int64).clamp(1 - 2**31, 2**31 - 1).to(torch.int32)
            )
            master.view(-1)[0] = 2**size - 1 if size % 2 else 2 ** max(size - 1, 0)
            masters.put(master, torch.zeros(shape, dtype=torch.int16))
            expected, weights = quantise(update.visible(master), bits, True), masters.weights(bits)
            assert torch.equal(weights.real.values, expected.values)
            assert (weights.exponent, weights.peak) == (expected.exponent, expected.peak)
            x = quantise(torch.eye(shape[1]), 1)
            if len(shape) == 2:
                assert torch.equal(device.linear(x, weights).T, expected.values.to(torch.float32))


def test_weights_in_parts_are_read_back() -> None:
    """Rows of the image that do not fit the store are cut by channels, and so are the weights."""
    shape = (2, 4, 3, 3)
    x = quantise(torch.rand(1, 4, 4, 300, generator=torch.Generator().manual_seed(2)), 8)
    devices, results = [], []
    for device, masters in both(shape):
        weights = masters.weights(8)
        found = device.conv2d(x, weights, 1, 1)
        assert torch.equal(found, device.conv2d(x, weights.real, 1, 1))
        devices.append(device)
        results.append(found)
        assert device.counters()["updates"] == 0
    assert torch.equal(*results)
    assert_same_account(*devices)


def test_weights_make_room_and_are_made_again() -> None:
    """Fewer bytes than of weights that are sent again; the same products."""
    shape = (8, 8, 3, 3)
    large = quantise(torch.rand(2, 8, 16, 16, generator=torch.Generator().manual_seed(3)), 16)
    other = quantise(torch.rand(8, 8, 3, 3, generator=torch.Generator().manual_seed(4)) - 0.5, 16, True)
    devices, expected = [], None
    for device, masters in both(shape):
        weights = masters.weights(8)
        if expected is None:  # a board would have to read them back
            expected = ModelDevice(TINY).conv2d(large, weights.real, 1, 1)
        for _ in range(2):
            assert torch.equal(device.conv2d(large, weights, 1, 1).double(), expected.double())
            device.conv2d(large, other, 1, 1)
        assert device.counters()["updates"] > 1
        devices.append(device)
    assert_same_account(*devices)


def test_a_changed_parameter_gets_new_masters() -> None:
    """As on the host: layers see it at once, the momentum goes on."""
    trainings = [Training(ModelDevice(TINY), method_of("signsgd", where)) for where in ("host", "device")]
    for each in trainings:
        each.step(2)
        each.net.state_dict()
        with torch.no_grad():
            each.net[2].weight.mul_(0.7)
        each.step(2)
    assert trainings[0].losses == trainings[1].losses
    assert_equal(trainings[1].state(), trainings[0].state())


@pytest.mark.parametrize("where", ["host", "device"])
def test_checkpoints_go_from_one_to_the_other(where: str) -> None:
    other = "host" if where == "device" else "device"
    whole = Training(ModelDevice(TINY), method_of("signsgd", where))
    whole.step(3)
    net, optimizer = whole.net.state_dict(), copy.deepcopy(whole.optimizer.state_dict())
    net = copy.deepcopy(net)
    resumed = Training(ModelDevice(TINY), method_of("signsgd", other))
    resumed.net.load_state_dict(net)
    resumed.optimizer.load_state_dict(optimizer)
    resumed.losses = list(whole.losses)
    for each in whole, resumed:
        each.step(3)
    assert resumed.losses == whole.losses
    assert_equal(resumed.state(), whole.state())


def test_a_training_is_resumed_to_the_same_weights_wherever_they_are_moved(tmp_path, monkeypatch) -> None:
    """The digits network, with batch norm, whose float sums depend on how tensors lie in memory; stopped after each
    epoch, and gone on with at the other place."""
    whole = data.digits()
    parts = [data.Split(split.images[:64], split.labels[:64]) for split in (whole.train, whole.test, whole.test)]
    options = TrainOptions(method="signsgd", epochs=2, out=tmp_path)
    device = bitfirst.open("model:psg?counting=0")

    def run(where: str, resume: bool = False) -> str:
        done = training.compare(
            replace(options, update=where, resume=resume), device, data.Splits(*parts), checkpoints=True
        )
        return training.weights_sha256(done.run.net)

    def keep_and_stop(run, options) -> None:
        keep(run, options)
        raise KeyboardInterrupt

    keep = training.keep
    with training.host_settings(1):
        expected = run("host")
        assert run("device") == expected
        for first, then in (("host", "device"), ("device", "host"), ("device", "device")):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(training, "keep", keep_and_stop)
                run(first)
            assert run(then, resume=True) == expected, (first, then)


def test_copies_and_pickles_have_the_weights() -> None:
    training = Training(ModelDevice(TINY), method_of("signsgd", "device"))
    training.step(2)
    lagging = training.net[2].weight.clone()
    copied = copy.deepcopy(training.net)
    assert not torch.equal(copied[2].weight, lagging) and copied[2].weight not in kept_weights
    images = torch.rand(2, 1, 6, 6)
    assert torch.equal(copied(images), training.net(images))
    training.step(1)
    pickled = pickle.loads(pickle.dumps(training.net))
    assert_equal(dict(pickled.state_dict()), dict(training.net.state_dict()))


def test_a_network_converted_again_goes_on() -> None:
    """To the same device its masters stay there; to another one its weights go along."""
    training, plain = (Training(ModelDevice(TINY), method_of("signsgd", "device")) for _ in range(2))
    for each in training, plain:
        each.step(2)
    convert(training.net, training.device, method_of("signsgd", "device"), inplace=True)
    for each in training, plain:
        each.step(2)
    assert training.losses == plain.losses and training.net[2].weight in kept_weights
    convert(training.net, ModelDevice(TINY), method_of("signsgd", "device"), inplace=True)
    assert training.net[2].weight not in kept_weights
    assert_equal(dict(training.net.state_dict()), dict(plain.net.state_dict()))


def test_room_is_given_back() -> None:
    device = ModelDevice(TINY)
    first = Training(device, method_of("signsgd", "device"))
    reserved = dict(device.store.reserved)
    assert len(reserved) == 2 and sum(reserved.values()) == 7 * (3 + 18)
    assert all(word % 2 == 0 for word in reserved) and device.store.limit == min(reserved) >= TINY.store_words // 2
    del first
    gc.collect()
    assert not device.store.reserved and device.store.limit == TINY.store_words
    assert device.masters((16, 37)) is None, "more than half of the store"
    middle = [device.masters((16, count)) for count in (10, 5, 10)]
    places = dict(device.store.reserved)
    middle[1] = None
    gc.collect()
    middle[1] = device.masters((16, 4))
    assert len(device.store.reserved) == 3 and device.store.limit == min(places)


def test_bad_input_is_one_clear_line() -> None:
    with pytest.raises(UsageError, match=r"update 'fpga' is unknown: choose from host, device"):
        SignSGD(update="fpga")
    without = ModelDevice(replace(TINY, features=STANDARD))
    with pytest.raises(UsageError, match="model has no part that updates weights: update them on the host"):
        Training(without, method_of("signsgd", "device"))
    operations_alone = ReferenceDevice()
    for ask in (lambda: operations_alone.masters((1, 1)), lambda: operations_alone.perform([])):
        with pytest.raises(UsageError, match="has no part that updates weights: update them on the host"):
            ask()
    training = Training(ModelDevice(TINY), method_of("signsgd", "device"))
    training.step(1)
    loss = training.net(torch.rand(2, 1, 6, 6)).sum()
    training.net.zero_grad()
    training.net[2].weight.grad = torch.ones_like(training.net[2].weight)
    training.optimizer.step()
    with pytest.raises(UsageError, match="layer 2: its weight was updated between forward and backward pass"):
        loss.backward()


def test_states_are_packed_as_the_contract_says() -> None:
    generator = np.random.default_rng(0)
    master = generator.integers(-(2**31), 2**31, 37).astype(np.int32)
    momentum = generator.integers(-(2**15), 2**15, 37).astype(np.int16)
    device = GoldenDevice(TINY)
    words = pack_states(master, momentum)
    fields = {"space": Space.STORE, "row": 8, "rows": 18, "words": 2}
    assert device.execute(Command(Opcode.WRITE, fields, words.reshape(-1)))[0] == Status.OK
    found = states_of(device.store[8:26])
    assert all(
        np.array_equal(part.reshape(-1)[:37], sent) for part, sent in zip(found, (master, momentum), strict=True)
    )
    assert not any(part.reshape(-1)[37:].any() for part in found)
    assert all(map(np.array_equal, unpack_states(words, 37), (master, momentum)))
