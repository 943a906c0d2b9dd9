"""What is seen of a training: gates by epoch and by class, work by layer; and that seeing it changes nothing."""

import bitfirst
import pytest
import torch
from bitfirst import data, grids, models, observed, training
from bitfirst.blocks import residual_blocks
from bitfirst.methods import named
from bitfirst.methods.block_gates import BlockGates
from bitfirst.training import TrainOptions

DEVICE = "model:tiny?counting=0"


@pytest.fixture
def few(monkeypatch):
    """The digits, 64 images each."""
    whole = data.digits()
    parts = (data.Split(part.images[:64], part.labels[:64]) for part in (whole.train, whole.validation, whole.test))
    splits = data.Splits(*parts)
    monkeypatch.setattr(grids.data, "digits", lambda: splits)
    grids.splits_of.cache_clear()
    yield splits
    grids.splits_of.cache_clear()


def told(method, epochs=2):
    common = {"images": grids.DIGITS, "finetunes": False, "rate": 1.0, "device": DEVICE}
    return {"variant": method, "method": method, "seed": 0, "batch": 16, "epochs": epochs} | common


@pytest.mark.parametrize("method", ["sgd", "slu+byhand:schedule=8-6/16-12+psg", "dfq"])
def test_seeing_changes_nothing_and_one_step_by_layer_is_one_step(few, method):
    found = grids.run_one(told(method))
    with training.host_settings(1), bitfirst.open(DEVICE) as board:
        options = TrainOptions(device=DEVICE, seed=0, batch=16, epochs=2, method=method)
        run = training.new_run(options, board)
        training.fit(run, few, options)
        macs = observed.host_macs(run.method)
        observed.layers(run.net, board, next(iter(training.epoch_batches(few, options, 0))))
    assert observed.host_macs(run.method) == macs
    assert list(macs.values()) == [one["gate_macs"] for one in found["methods"].values() if "gate_macs" in one]
    assert found["weights_sha256"] == training.weights_sha256(run.net)
    for seen, plain in zip(found["history"], run.history, strict=True):
        assert seen | {"wall_s": 0} == plain | {"wall_s": 0}
    if method == "sgd":
        assert sum(row["bit_macs"] for row in found["layers"]) * 8 == found["training_bit_macs"]
        assert found.keys().isdisjoint(("blocks", "routing", "signs", "layer_epochs"))


def test_work_by_layer_follows_the_widths(few):
    """12 steps in 3 epochs; the second one is half at 8/8 bits and half at 4/6."""
    found = grids.run_one(told("byhand:schedule=8-4/8-6", 3))
    assert found["methods"]["byhand"]["changes"] == [[0, 8, 8], [6, 4, 6]]
    first, second, third = (one["layers"] for one in found["layer_epochs"])
    assert [one["epoch"] for one in found["layer_epochs"]] == [1, 2, 3] and third == found["layers"]
    ratios = {"forward": (4 * 4, 8 * 8), "input_gradient": (4 * 6, 8 * 8), "weight_gradient": (4 * 6, 8 * 8)}
    for before, between, after in zip(first, second, third, strict=True):
        ours, theirs = ratios[before["phase"]]
        assert before["layer"] == after["layer"] and after["bit_macs"] * theirs == before["bit_macs"] * ours
        assert between["bit_macs"] == (before["bit_macs"] + after["bit_macs"]) / 2
    done = sum(row["bit_macs"] for one in (first, second, third) for row in one)
    assert done * 4 == found["training_bit_macs"]


def sizes_of(net, images):
    """By block that can be skipped: of how many of these images its first convolution is computed."""
    found = {name: 0 for name in observed.blocks(net)}

    def count(name):
        return lambda layer, given: found.update({name: found[name] + len(given[0])})

    blocks = residual_blocks(net)
    hooks = [blocks[name].conv1.register_forward_pre_hook(count(name)) for name in found]
    net.eval()
    with torch.no_grad():
        net(images)
    for hook in hooks:
        hook.remove()
    return list(found.values())


def undecided(method, board, split):
    """A new network whose gates tell samples apart."""
    torch.manual_seed(3)
    net = bitfirst.convert(models.digits_resnet(), board, named(method)).eval()
    gates = next(one for one in net.modules() if isinstance(one, BlockGates))
    with torch.no_grad():
        gates.output.weight *= 100
        net(split.images)
        gates.output.bias -= gates.choices[0].logits.reshape(len(split), -1).mean(0)
    return net


@pytest.mark.parametrize("method", ["slu", "dfq:options=0-3-8/0-6-8"])
def test_routes_by_class_are_those_of_each_class_alone(few, method):
    with training.host_settings(1), bitfirst.open(DEVICE) as board:
        net, split = undecided(method, board, few.validation), few.validation
        found = observed.routing(net, data.in_order(split, 30))
        of_class = [split.images[split.labels == one] for one in range(10)]
        assert found["samples"] == [len(images) for images in of_class] and sum(found["samples"]) == 64
        expected = [[size / len(images) for size in sizes_of(net, images)] for images in of_class]
        assert found["executed"] == [pytest.approx(row) for row in expected]
        assert any(0 < share < 1 for row in expected for share in row)
        shuffled = data.Split(split.images, split.labels.roll(1))
        assert observed.routing(net, data.in_order(shuffled, 30))["executed"] != found["executed"]
        assert ("bits" in found) == method.startswith("dfq")


def test_bits_by_class_are_the_mean_of_what_was_chosen(few):
    with training.host_settings(1), bitfirst.open(DEVICE) as board:
        net = undecided("dfq:options=0-3-8/0-6-8", board, few.validation)
        found = observed.routing(net, data.in_order(few.validation, 30))
        gates = next(one for one in net.modules() if isinstance(one, BlockGates))
        with torch.no_grad():
            net(few.validation.images[few.validation.labels == 7])
    for block, choice in enumerate(gates.choices):
        chosen = [(0, 3, 8)[option] for option in choice.option]
        assert found["bits"][7][block] == pytest.approx(sum(chosen) / len(chosen))


@pytest.mark.parametrize("method", ["slu", "skipnet", "sd", "dfq:options=0-3-8/0-6-8"])
def test_shares_by_epoch_add_up_to_all_that_was_computed(few, method):
    found = grids.run_one(told(method, 3))
    (own,) = found["methods"].values()
    epochs = [row["executed"] for row in found["history"]]
    assert [len(epoch) for epoch in epochs] == [len(found["blocks"])] * 3
    for block, counted in enumerate(own["counts"]):
        whole = counted["executed"] / counted["seen"] if "seen" in counted else sum(counted[1:]) / sum(counted)
        assert sum(epoch[block] for epoch in epochs) / 3 == pytest.approx(whole)
    if "dfq" in method:
        bits = [sum(count * width for count, width in zip(block, (0, 3, 8), strict=True)) for block in own["counts"]]
        means = [sum(row["block_bits"][block] for row in found["history"]) / 3 for block in range(len(bits))]
        assert means == pytest.approx([one / sum(own["counts"][0]) for one in bits])


def test_an_epoch_in_which_nothing_was_trained_says_so(few):
    found = grids.run_one(told("slu+smd:p=0.999"))
    assert found["history"][0]["executed"] == [None] and found["history"][0]["steps"] == 0


def test_signs_are_kept_by_layer_and_over_the_steps(few):
    found = grids.run_one(told("psg"))["signs"]
    layers = {row["layer"] for row in found["rows"]}
    assert "blocks.0.conv1" in layers and layers == {row["layer"] for row in found["layers"]}
    assert {row["step"] for row in found["rows"]} == set(range(8))
    assert sum(row["resolved"] for row in found["layers"]) > 0
