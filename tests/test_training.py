"""The main job on the golden model: results, checkpoints, resuming, errors, negative controls."""

import json
import os
import signal
from dataclasses import replace

import bitfirst
import pytest
import torch
from bitfirst import checkpoint, data, models, training
from bitfirst.errors import DeviceError, Diverged, LinkError, UsageError
from bitfirst.methods import FP16, FP32, Compose, Method
from bitfirst.nn import Bits, convert
from bitfirst.training import CHECKPOINT, SCHEDULES, TrainOptions, train_and_compare, train_many, weights_sha256
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from reference_device import ReferenceDevice
from result_keys import TRAIN_KEYS
from rich.console import Console

QUIET = Console(quiet=True)


@pytest.fixture
def small(monkeypatch):
    """A tenth of the images: seconds instead of minutes."""
    whole = data.digits()

    def few(split, count):
        return data.Split(split.images[:count], split.labels[:count])

    splits = data.Splits(few(whole.train, 128), few(whole.validation, 60), few(whole.test, 60))
    monkeypatch.setattr(training.data, "digits", lambda: splits)
    return splits


# data


def test_splits_are_fixed_disjoint_and_stratified():
    splits = data.digits()
    assert [len(split) for split in (splits.train, splits.validation, splits.test)] == [1077, 180, 540]
    images = torch.cat([split.images for split in (splits.train, splits.validation, splits.test)]).flatten(1)
    assert images.shape == (1797, 64) and (images.min(), images.max()) == (0, 1)
    assert len(images.unique(dim=0)) == 1797  # no image twice, so none in two splits
    for split in splits.train, splits.validation, splits.test:
        shares = split.labels.bincount(minlength=10) / len(split)
        assert (shares - 0.1).abs().max() < 0.012
    assert torch.equal(splits.test.labels, data.digits().test.labels)


def test_batches_follow_seed_and_epoch_alone():
    split = data.digits().train
    torch.manual_seed(1)
    first = data.batches(split, 32, seed=3, epoch=1)
    torch.manual_seed(2)
    again = data.batches(split, 32, seed=3, epoch=1)
    assert len(first) == 33
    assert all(torch.equal(x, x2) and torch.equal(y, y2) for (x, y), (x2, y2) in zip(first, again, strict=True))
    for other in data.batches(split, 32, seed=3, epoch=2), data.batches(split, 32, seed=4, epoch=1):
        assert not torch.equal(first[0][1], other[0][1])
    assert sum(len(labels) for _, labels in data.in_order(split, 100)) == 1077


def test_learning_rate_rises_and_falls():
    rates = [SCHEDULES["cycle"](step, 100, 0.5) for step in range(100)]
    assert rates[0] == pytest.approx(0.05)
    assert rates[25] == max(rates) == pytest.approx(0.5)
    assert 0 < rates[99] < 0.001


def test_learning_rate_falls_at_milestones():
    rates = [SCHEDULES["steps"](step, 64_000, 0.1) for step in (0, 31_999, 32_000, 47_999, 48_000, 63_999)]
    assert rates == pytest.approx([0.1, 0.1, 0.01, 0.01, 0.001, 0.001])


def test_a_training_has_the_schedule_that_it_is_told(small):
    """And stretched by SMD, which trains 4/3 as many iterations; another schedule is another training."""
    told = {}
    for schedule, method in ("cycle", "sgd"), ("steps", "sgd"), ("steps", "smd:work=0.6666667"):
        options = TrainOptions(device="model?counting=0", epochs=4, schedule=schedule, method=method, fp32=False)
        told[schedule, method] = [row["learning_rate"] for row in train_and_compare(options, console=QUIET)["history"]]
    assert told["steps", "sgd"] == pytest.approx([0.1, 0.1, 0.01, 0.001], rel=0.01)  # of each epoch's last step
    assert told["cycle", "sgd"][0] != 0.1
    assert told["steps", "smd:work=0.6666667"][-1] == pytest.approx(0.001)
    alike = TrainOptions(), TrainOptions(schedule="cycle")
    assert alike[0].identity() == alike[1].identity() != TrainOptions(schedule="steps").identity()
    with pytest.raises(UsageError, match="schedule 'linear' is unknown: choose from cycle, steps"):
        TrainOptions(schedule="linear")


# the main job


def test_train_writes_result_report_and_checkpoint(small, tmp_path):
    options = TrainOptions(device="model:tiny", epochs=2, out=tmp_path / "run")
    result = train_and_compare(options, console=QUIET)
    assert all(key in result for key in TRAIN_KEYS)
    assert json.loads((tmp_path / "run" / "result.json").read_text()) == result
    assert result["energy"]["provenance"] == "unavailable" and result["energy"]["total_j"] is None
    assert (tmp_path / "run" / CHECKPOINT).exists()
    assert "data:image/png" in (tmp_path / "run" / "report.html").read_text()
    assert [row["epoch"] for row in result["history"]] == [1, 2]
    assert result["history"][1]["loss"] < result["history"][0]["loss"]
    assert result["bit_macs"] > 0 and result["bytes_moved"] > 0
    assert 0 < result["array_utilisation"] < 1
    assert {"forward", "backward", "weight_gradient"} <= set(result["phases"])
    products = [(row["layer"], row["phase"]) for row in result["layers"]]
    assert len(products) == 7 * 3 - 1  # the images need no gradient
    assert ("conv", "input_gradient") not in products
    work = sum(row["bit_macs"] for row in result["layers"])
    macs = 32 * (64 * 72 + 2 * 64 * 576 + 16 * 1152 + 16 * 2304 + 16 * 128 + 160)  # an upper bound: padding counts
    assert 0.7 * macs * 320 < work < macs * 320


def test_bit_macs_of_the_run_are_those_of_its_steps(small, tmp_path):
    device = bitfirst.open("model:tiny")
    result = train_and_compare(TrainOptions(device="model:tiny", epochs=1, out=tmp_path), device, QUIET)
    step = sum(row["bit_macs"] for row in result["layers"])
    forward = sum(row["bit_macs"] for row in result["layers"] if row["phase"] == "forward") // 32
    assert result["bit_macs"] == 4 * step + (60 + 60) * forward
    assert device.bit_macs == result["bit_macs"] + step  # the profile's own step


def test_same_seed_same_weights_and_other_seed_other_weights(small, tmp_path):
    options = TrainOptions(device="model:tiny", epochs=1, out=tmp_path)
    hashes = [train_and_compare(options, console=QUIET)["weights_sha256"] for _ in range(2)]
    assert hashes[0] == hashes[1]
    assert train_and_compare(replace(options, seed=1), console=QUIET)["weights_sha256"] != hashes[0]
    narrow = replace(options, bits=Bits(4, 4, 8))
    assert train_and_compare(narrow, console=QUIET)["weights_sha256"] != hashes[0]


def test_the_callers_random_state_and_threads_stay(small, tmp_path):
    torch.manual_seed(9)
    wanted = torch.rand(3)
    torch.manual_seed(9)
    threads = torch.get_num_threads()
    train_and_compare(TrainOptions(device="model:tiny", epochs=1, out=tmp_path, threads=1), console=QUIET)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.rand(3), wanted)


# interruption


class DyingDevice(ReferenceDevice):
    """Answers so many operations, then never again."""

    def __init__(self, operations: int) -> None:
        super().__init__()
        self.operations = operations

    def _execute(self, operation):
        if self.commands == self.operations:
            raise LinkError("the device does not answer")
        return super()._execute(operation)


def test_interrupted_and_resumed_is_uninterrupted(small, tmp_path):
    whole = train_and_compare(
        TrainOptions(device="reference", epochs=3, out=tmp_path / "whole"), ReferenceDevice(), QUIET
    )
    options = TrainOptions(device="reference", epochs=3, out=tmp_path / "parts")
    in_second_epoch = 4 * 20 + 7 + 30  # operations
    with pytest.raises(LinkError, match=r"does not answer; 1 of 3 epochs are kept in .*--resume"):
        train_and_compare(options, DyingDevice(in_second_epoch), QUIET)
    resumed = train_and_compare(replace(options, resume=True), ReferenceDevice(), QUIET)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["test_accuracy"] == whole["test_accuracy"]
    for key in "epoch", "loss", "validation_accuracy", "bit_macs":
        assert [row[key] for row in resumed["history"]] == [row[key] for row in whole["history"]]
    steps = [[row["training_counters"]["array_steps"] for row in run["history"]] for run in (whole, resumed)]
    assert steps[0] == steps[1] and steps[0][0] > 0
    assert resumed["bit_macs"] == whole["bit_macs"]
    assert resumed["phases"]["forward"]["matmul_cycles"] == whole["phases"]["forward"]["matmul_cycles"]
    torch.testing.assert_close(*(checkpoint.load(tmp_path / run / CHECKPOINT)[0] for run in ("whole", "parts")))


def test_a_dead_link_before_the_first_checkpoint_is_said_plainly(small, tmp_path):
    with pytest.raises(LinkError) as caught:
        train_and_compare(TrainOptions(device="reference", epochs=1, out=tmp_path), DyingDevice(5), QUIET)
    assert "--resume" not in str(caught.value)
    assert not (tmp_path / CHECKPOINT).exists()


def test_resume_refuses_other_options_and_bad_files(small, tmp_path):
    options = TrainOptions(device="reference", epochs=1, out=tmp_path)
    with pytest.raises(UsageError, match=r"no checkpoint .*without --resume"):
        train_and_compare(replace(options, resume=True), ReferenceDevice(), QUIET)
    train_and_compare(options, ReferenceDevice(), QUIET)
    with pytest.raises(UsageError, match=r"made with seed = 0, not 1"):
        train_and_compare(replace(options, resume=True, seed=1), ReferenceDevice(), QUIET)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UsageError, match="cannot be read"):
        train_and_compare(replace(options, resume=True), ReferenceDevice(), QUIET)


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.ones(3)}, {"epoch": 1})

    def crash(tensors, file, metadata):
        file.write_bytes(b"half of it")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"x": torch.zeros(3)}, {"epoch": 2})
    tensors, state = checkpoint.load(path)
    assert torch.equal(tensors["x"], torch.ones(3)) and state == {"epoch": 1}


def test_rtl_killed_and_resumed_equals_the_golden_model(monkeypatch, tmp_path):
    whole = data.digits()
    few = data.Splits(
        *(data.Split(split.images[:8], split.labels[:8]) for split in (whole.train, whole.test, whole.test))
    )
    monkeypatch.setattr(training.data, "digits", lambda: few)
    options = TrainOptions(device="rtl:tiny", epochs=2, batch=8, out=tmp_path / "rtl")
    keep = training.keep

    def keep_and_kill(run, options):
        keep(run, options)
        os.kill(run.meter.device._link.transport._simulator._process.pid, signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(training, "keep", keep_and_kill)
        with pytest.raises(LinkError, match=r"1 of 2 epochs are kept in .*--resume"):
            train_and_compare(options, console=QUIET)
    rtl = train_and_compare(replace(options, resume=True), console=QUIET)
    model = train_and_compare(replace(options, device="model:tiny", out=tmp_path / "model"), console=QUIET)
    assert rtl["weights_sha256"] == model["weights_sha256"]
    assert rtl["cycles"] > model["phases"]["forward"]["matmul_cycles"] > 0
    assert 0 < rtl["utilisation"] < rtl["array_utilisation"] < 1
    for phase in "forward", "backward", "weight_gradient":
        for name in EXECUTION_COUNTERS:
            if name not in ("phase", "commands", "words_written"):  # a device opened again is sent all tensors again
                assert rtl["phases"][phase][name] == model["phases"][phase][name], (phase, name)


# errors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"epochs": 0}, "epochs = 0"),
        ({"batch": 1}, "batch = 1"),
        ({"batch": 2000}, "batch = 2000"),
        ({"lr": -0.1}, "lr = -0.1"),
        ({"lr": float("nan")}, "lr = nan"),
        ({"momentum": 1.0}, r"momentum = 1\.0"),
        ({"threads": 0}, "threads = 0"),
    ],
)
def test_bad_options_are_refused(change, words):
    with pytest.raises(UsageError, match=words):
        TrainOptions(**change)


def test_an_output_directory_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match=r"file cannot be made a directory .*--out"):
        train_and_compare(TrainOptions(device="reference", out=tmp_path / "file"), ReferenceDevice(), QUIET)


@pytest.mark.parametrize("name", ("reference", "model:tiny"))
def test_divergence_names_the_layer(name, small, tmp_path):
    device = ReferenceDevice() if name == "reference" else bitfirst.open(name)
    with pytest.raises(UsageError, match=r"(layer|nor is) \w+.*lower the learning rate"):
        train_and_compare(TrainOptions(device=name, epochs=2, lr=1e30, out=tmp_path), device, QUIET)


def test_divergence_in_fp32_names_the_tensor(small):
    run = training.new_run(TrainOptions(), None)
    with torch.no_grad():
        run.net.blocks[0].conv2.weight[0] = float("nan")
    with pytest.raises(UsageError, match=r"nor is blocks\.0\.conv2\.weight"):
        training.fit(run, small, TrainOptions())


class Breaking(Method):
    """Makes a number of what `where` names infinite, by step `at`, from 1."""

    def __init__(self, at: int, where: str = "linear.bias") -> None:
        self.at, self.where, self.steps = at, where, 0

    def prepare(self, net):
        self.tensor = net.state_dict()[self.where]

    def step(self, loss):
        self.steps += 1
        if self.steps == self.at:
            self.tensor.view(-1)[0] = float("inf")


STEPS = 4  #: of an epoch of `small`


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Breaking(STEPS + 2), r"the loss is not finite, nor is linear\.bias"),
        (lambda: Breaking(2 * STEPS), r"linear\.bias is not finite after the epoch's last step"),
        (lambda: Breaking(STEPS + 2, "blocks.1.conv2.weight"), r"blocks\.1\.conv2.* holds NaN or infinity"),
        (lambda: Compose([FP32(), Breaking(2 * STEPS, "blocks.0.norm1.running_var")]), r"norm1\.running_var is not"),
        (lambda: Compose([FP16(), Breaking(2 * STEPS, "conv.weight")]), r"conv\.weight is not finite"),
    ],
    ids=["loss", "last step", "a layer's operand", "fp32", "fp16"],
)
def test_a_divergence_leaves_the_last_good_epoch_and_says_how_to_go_on(make, words, small, tmp_path, monkeypatch):
    options = TrainOptions(device="reference", epochs=3, fp32=False, out=tmp_path / "broken")
    with monkeypatch.context() as patch:
        patch.setattr(TrainOptions, "training_method", lambda self: make())
        with pytest.raises(Diverged, match=words) as caught:
            train_and_compare(options, ReferenceDevice(), QUIET)
    path = options.out / CHECKPOINT
    told = str(caught.value)
    assert told.endswith(
        f"lower the learning rate; 1 of 3 epochs are kept in {path}: begin with their weights by --init {path}, "
        "a lower --lr and another --out"
    )
    tensors, state = checkpoint.load(path)
    assert state["epoch"] == 1 and all(tensor.isfinite().all() for tensor in tensors.values())
    onward = replace(options, epochs=1, lr=0.01, init=path, out=tmp_path / "onward")
    assert train_and_compare(onward, ReferenceDevice(), QUIET)["history"][0]["loss"] < 3


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path):
    """Such as momentum, of which neither loss nor weights tell."""
    options = interrupted(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    run = training.new_run(options, ReferenceDevice())
    momentum = torch.zeros_like(run.net.conv.weight)
    momentum[0] = -float("inf")
    run.optimizer.state[run.net.conv.weight]["momentum_buffer"] = momentum
    with pytest.raises(Diverged, match=r"momentum\.conv\.weight is not finite.*lower the learning rate"):
        training.keep(run, options)
    assert (tmp_path / CHECKPOINT).read_bytes() == before and run.kept == 0


def test_an_epoch_that_leaves_weights_which_are_not_finite_has_no_mean(small):
    """On the host, too, which looks at no operand; the loss of the last batch was good."""
    method = Compose([FP32(), Breaking(2, "blocks.0.conv1.weight")])
    net = convert(models.digits_resnet(), ReferenceDevice(), method)
    batches = data.batches(small.train, 32, 0, 0)[:2]
    with pytest.raises(Diverged, match=r"blocks\.0\.conv1\.weight is not finite after the epoch's last step"):
        bitfirst.train(net, batches, bitfirst.optim.SGD(method.param_groups(net), lr=0.01), method)


def test_divergence_of_fp32_beside_is_told_as_that(small, tmp_path, monkeypatch):
    """The device's network is there, and can be had without."""
    options = TrainOptions(device="reference", epochs=1, out=tmp_path)
    new_run = training.new_run

    def broken(options, device, *others):
        run = new_run(options, device, *others)
        if device is None:
            run.net.linear.bias.data[0] = float("nan")
        return run

    with monkeypatch.context() as patch:
        patch.setattr(training, "new_run", broken)
        with pytest.raises(Diverged, match=r"^of fp32, .*linear\.bias.* --no-fp32, and go on with --resume$"):
            train_and_compare(options, ReferenceDevice(), QUIET)
    assert train_and_compare(replace(options, resume=True, fp32=False), ReferenceDevice(), QUIET)["test_accuracy"] > 0


# several seeds


def test_five_seeds_reach_the_goal():
    """The real data in full, on exact arithmetic; the golden model gives the same weights (next test)."""
    options = TrainOptions(device="reference")
    table = train_many([0, 1, 2, 3, 4], options, ReferenceDevice(), console=QUIET)
    assert table["test_accuracy"] >= 0.95
    low, high = table["difference_interval"]
    assert -0.015 <= low < high <= 0.015
    assert table["passed"] is True
    assert len({row["weights_sha256"] for row in table["seeds"]}) == 5


@pytest.mark.parametrize("control", training.CONTROLS)
def test_negative_controls_fail(control):
    table = train_many([0, 1], TrainOptions(device="reference", epochs=2), ReferenceDevice(), control, QUIET)
    assert table["passed"] is False
    assert table["test_accuracy"] < 0.6


def test_golden_model_and_reference_train_to_the_same_weights(small):
    hashes = []
    for device in bitfirst.open("model:tiny"), bitfirst.open("model"), ReferenceDevice():
        with training.host_settings(1):
            run = training.new_run(TrainOptions(epochs=1), device)
            training.fit(run, small, TrainOptions(epochs=1))
            hashes.append(weights_sha256(run.net))
    assert len(set(hashes)) == 1


def test_seeds_must_differ():
    with pytest.raises(UsageError, match="at least two different seeds"):
        train_many([1, 1], TrainOptions(device="reference"), ReferenceDevice(), console=QUIET)
    with pytest.raises(UsageError, match="control 'x' is unknown"):
        train_many([1, 2], TrainOptions(device="reference"), ReferenceDevice(), "x", QUIET)


# what a run leaves behind


def interrupted(out, epochs=2):
    """Options of a run that kept its first epoch and did not finish."""
    options = TrainOptions(device="reference", epochs=epochs, out=out)
    run = training.new_run(options, ReferenceDevice())
    for parameter in run.net.parameters():
        run.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    run.epoch = 1
    training.keep(run, options)
    return options


def test_an_unfinished_run_is_not_overwritten(tmp_path):
    options = interrupted(tmp_path)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(UsageError, match=r"1 of 2 epochs .* --resume, or choose another --out"):
        train_and_compare(options, ReferenceDevice(), QUIET)
    assert (tmp_path / CHECKPOINT).read_bytes() == before
    checkpoint.save(tmp_path / CHECKPOINT, {}, {"epoch": 1, "options": 3})
    with pytest.raises(UsageError, match="not whole: delete it"):
        train_and_compare(options, ReferenceDevice(), QUIET)


@pytest.mark.parametrize("missing", ("options", "counters", "net.", "momentum.", "random"))
def test_a_checkpoint_that_is_not_whole_is_refused(missing, tmp_path):
    options = interrupted(tmp_path)
    path = tmp_path / CHECKPOINT
    tensors, state = checkpoint.load(path)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(missing)}
    checkpoint.save(path, tensors, {name: value for name, value in state.items() if name != missing})
    with pytest.raises(UsageError, match="delete it and start without --resume"):
        training.restore(training.new_run(options, ReferenceDevice()), options)


@pytest.mark.parametrize("fault", (LinkError, DeviceError))
def test_a_device_that_fails_says_what_is_kept(fault, small, tmp_path, monkeypatch):
    options = TrainOptions(device="reference", epochs=1, out=tmp_path)

    def fail(*_):
        raise fault("gone")

    monkeypatch.setattr(training, "profile", fail)
    with pytest.raises(fault, match=r"gone; 1 of 1 epochs are kept in .*--resume"):
        train_and_compare(options, ReferenceDevice(), QUIET)


@pytest.mark.parametrize("values", ({"seed": -1}, {"seed": 10**20}, {"threads": 100_000}))
def test_options_out_of_range(values):
    with pytest.raises(UsageError, match="must be"):
        TrainOptions(**values)
