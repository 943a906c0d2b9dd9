"""Methods that choose batches, and the mean of weights: SMD, SMB, SWA."""

import copy
from dataclasses import replace
from functools import partial

import bitfirst
import pytest
import torch
from bitfirst import data, models, training
from bitfirst.errors import UsageError
from bitfirst.methods import PFQ, SMB, SMD, SWA, Compose, Method, Plan, SignSGD
from bitfirst.training import TrainOptions
from method_runs import (
    QUIET,
    assert_same,
    digits,
    few,
    interrupted_and_not,
    network,
    optimizer_of,
    perceptron,
    small_digits,
    state,
    total,
)
from reference_device import ReferenceDevice
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Dataset
from work import PERCEPTRON, Array, bit_macs

WIDTHS = (8, 8, 16)


# SMD: the saving


class Masking(SMD):
    """Broken: dropped batches are computed all the same."""

    def loader(self, data):
        for batch in data:
            self.keeps()
            yield batch


def check_saving(method: SMD, url: str, count: int = 6) -> None:
    """The device's counters are those of the batches that were kept, and nothing else was fetched."""
    with bitfirst.open(url) as device:
        net = perceptron(method, device)
        batches = few(count)
        bitfirst.train(net, batches, optimizer_of(net, method), method)
        steps = total(device, "array_steps")
    kept = sum(method.kept)
    assert len(method.kept) == count and 0 < kept < count
    assert device.bit_macs == kept * sum(bit_macs(layer, 8, WIDTHS) for layer in PERCEPTRON)
    assert steps == kept * sum(layer.array_steps(8, WIDTHS, Array()) for layer in PERCEPTRON)
    assert batches.fetched == kept


@pytest.mark.parametrize("url", ["model:tiny", "rtl:tiny"])
def test_a_dropped_batch_costs_the_device_nothing(url):
    check_saving(SMD(seed=1), url)


def test_masking_in_place_of_dropping_is_found():
    with pytest.raises(AssertionError):
        check_saving(Masking(seed=1), "model:tiny")


# SMD: what it does


def trained(method: Method, batches, make=network):
    net = make(method)
    optimizer = optimizer_of(net, method)
    bitfirst.train(net, batches, optimizer, method)
    return state(net, optimizer)


def test_dropping_is_training_on_the_others_alone():
    method = SMD(seed=1)
    dropped = trained(method, few(6))
    assert_same(dropped, trained(Method(), [batch for batch, kept in zip(few(6), method.kept, strict=True) if kept]))
    everything = trained(Method(), few(6))
    assert not all(torch.equal(one, other) for one, other in zip(dropped, everything, strict=True))


def coasting(method: SMD, batches, zero: bool = True):
    """`SMD(coast=True)` by hand."""
    net = network(Method())
    optimizer = optimizer_of(net, Method())
    begun = False
    for (x, y), kept in zip(batches, method.kept, strict=True):
        net.train()
        if kept:
            torch.nn.functional.cross_entropy(net(x), y).backward()
            begun = True
        elif begun and zero:
            for parameter in net.parameters():
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad()
    return state(net, optimizer)


def test_coasting_lets_momentum_and_decay_act():
    method = SMD(seed=1, coast=True)
    batches = few(6)
    coasted = trained(method, batches)
    assert batches.fetched == 6
    assert_same(coasted, coasting(method, few(6)))
    assert not all(torch.equal(one, two) for one, two in zip(coasted, coasting(method, few(6), False), strict=True))


def test_masters_coast_alike_on_host_and_device():
    found = []
    for update in "host", "device":
        with bitfirst.open("model:tiny?counting=0") as device:
            method = Compose([SMD(seed=1, coast=True), SignSGD(linear=True, update=update)])
            found.append(trained(method, few(5), lambda method, device=device: perceptron(method, device)))
    assert_same(*found)


def test_coasting_needs_an_optimiser_of_ours():
    method = SMD(coast=True, p=0.9, seed=1)
    net = network(method)
    method.param_groups(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(UsageError, match=r"make a bitfirst\.optim\.SGD"):
        bitfirst.train(net, few(6), optimizer, method)


class Counted(Dataset):
    def __init__(self) -> None:
        self.fetched: list[int] = []

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int):
        self.fetched.append(index)
        return digits().train.images[index], digits().train.labels[index]


def test_a_data_loader_does_not_fetch_what_is_dropped():
    dataset, method = Counted(), SMD(seed=1)
    seen = [len(y) for _, y in method.loader(DataLoader(dataset, 4))]
    kept = [index for index in range(40) if method.kept[index // 4]]
    assert dataset.fetched == kept and sum(seen) == len(kept) < 40


def test_data_that_cannot_be_skipped_are_refused():
    with pytest.raises(UsageError, match=r"generator gives its batches in a row.*coast=True"):
        SMD().loader(batch for batch in few(2))


@pytest.mark.parametrize("p", [0.0, 0.3, 0.5])
def test_batches_are_dropped_with_probability_p(p):
    method = SMD(p, seed=2)
    for _ in range(4000):
        method.keeps()
    assert abs(1 - sum(method.kept) / 4000 - p) <= 0.025
    again = SMD(p, seed=2)
    assert [again.keeps() for _ in range(100)] == method.kept[:100]


@pytest.mark.parametrize("bad", [{"p": 1.0}, {"p": -0.1}, {"work": 0.0}, {"work": 1.5}])
def test_smd_refuses(bad):
    with pytest.raises(UsageError, match="choose"):
        SMD(**bad)


def test_an_epoch_in_which_all_is_dropped_changes_nothing(monkeypatch, tmp_path):
    small_digits(monkeypatch, lambda: SMD(p=0.999999))
    options = TrainOptions(device="reference", epochs=2, batch=8, out=tmp_path)
    device = ReferenceDevice()
    result = training.train_and_compare(options, device, QUIET)
    assert [row["loss"] for row in result["history"]] == [None, None]
    assert result["method"] == {"smd": {"iterations": 10, "dropped": 10}}
    untrained = training.new_run(options, ReferenceDevice()).net
    assert training.weights_sha256(untrained) == result["weights_sha256"]


# work


def falling(step, steps, peak):
    return peak * (1 - step / steps)


def test_two_thirds_of_the_work_at_half_the_batches_takes_four_thirds_of_the_iterations():
    plan = SMD(work=2 / 3).plan(Plan.of(300))
    assert (plan.steps, plan.trained) == (400, 200)
    assert plan.rate(200, 1.0, falling) == falling(150, 300, 1.0)  # milestones are stretched
    assert SMD().plan(Plan.of(300)).steps == 300


def test_smb_has_three_schedules():
    plans = {name: SMB(2 / 3, name).plan(Plan.of(300)) for name in ("scaled", "truncated", "raised")}
    assert {(plan.steps, plan.trained) for plan in plans.values()} == {(200, 200)}
    rates = {name: plan.rate(100, 1.0, falling) for name, plan in plans.items()}
    assert rates == pytest.approx({"scaled": 1 / 2, "truncated": 2 / 3, "raised": 3 / 4})
    assert SMB(0.5, "raised", 1.2).plan(Plan.of(10)).rate(0, 1.0, falling) == 1.2


@pytest.mark.parametrize(
    "bad", [{"work": 0}, {"schedule": "best"}, {"factor": 2.0}, {"schedule": "raised", "factor": 0}]
)
def test_smb_refuses(bad):
    with pytest.raises(UsageError):
        SMB(**bad)


def test_methods_that_must_know_the_length_say_so():
    for method in SMB(), SWA():
        with pytest.raises(UsageError, match=r"plan\(Plan\.of\(iterations\)\)"):
            trained(method, few(1))


@pytest.mark.parametrize("method", [SMB(0.5), SMD(0.5, work=1.0, seed=3)], ids=["smb", "smd"])
def test_the_job_trains_as_long_as_planned(method, monkeypatch, tmp_path):
    method = copy.deepcopy(method)
    small_digits(monkeypatch, lambda: copy.deepcopy(method))
    batches = []
    loader = type(method).loader
    monkeypatch.setattr(type(method), "loader", lambda self, data: loader(self, batches.append(data) or data))
    result = training.train_and_compare(
        TrainOptions(device="reference", epochs=3, batch=8, out=tmp_path), ReferenceDevice(), QUIET
    )
    wanted = {"SMB": [5, 3], "SMD": [5, 5, 5, 5, 5, 5]}[type(method).__name__]  # of 15 iterations: 8, 30
    assert [len(one) for one in batches] == wanted
    assert result["history"][-1]["learning_rate"] < 0.02  # the schedule comes to its end


# SWA


def test_swa_is_the_mean_of_late_weights_with_statistics_taken_anew():
    method = SWA(start=0.5, rate=None)
    method.plan(Plan.of(8))
    net = network(method)
    optimizer = optimizer_of(net, method)
    weights = []
    for _ in range(4):
        bitfirst.train(net, few(2), optimizer, method)
        weights.append({name: value.clone() for name, value in net.named_parameters()})
    before = copy.deepcopy(net.state_dict())
    averaged = method.result(net, few(2))
    late = weights[1:]  # after 4, 6 and 8 of 8 steps
    for name, value in averaged.named_parameters():
        torch.testing.assert_close(value, sum(one[name] for one in late) / len(late))
    with pytest.raises(AssertionError):  # control: all epochs
        torch.testing.assert_close(averaged.linear.weight, sum(one["linear.weight"] for one in weights) / 4)
    assert_same(list(before.values()), list(net.state_dict().values()))
    by_hand = copy.deepcopy(averaged)
    update_bn(few(2), by_hand)
    assert_same(list(by_hand.state_dict().values()), list(averaged.state_dict().values()))
    assert not torch.equal(averaged.norm.running_mean, net.norm.running_mean)


def test_the_pass_of_swa_is_charged_to_the_training(monkeypatch, tmp_path):
    """In its last epoch, as much as a forward pass of all batches."""
    found = {}
    for name, make in ("sgd", Method), ("swa", partial(SWA, start=0.0, rate=None)):
        small_digits(monkeypatch, make)
        options = TrainOptions(device="reference", epochs=2, batch=8, fp32=False, out=tmp_path / name)
        run = training.train_and_compare(options, ReferenceDevice(), QUIET)
        found[name] = [row["training_bit_macs"] for row in run["history"]]
        again = training.train_and_compare(replace(options, resume=True), ReferenceDevice(), QUIET)
        assert again["bit_macs"] == run["bit_macs"] and again["history"] == run["history"]  # charged once
    assert found["swa"][0] == found["sgd"][0]
    device = ReferenceDevice()
    net = bitfirst.convert(models.digits_resnet(), device, Method())
    splits = data.digits()
    for images, _ in training.epoch_batches(splits, options, 0):
        net(images)
    assert found["swa"][1] - found["sgd"][1] == device.bit_macs > 0


def test_swa_holds_the_learning_rate():
    plan = SWA(start=0.5, rate=0.1).plan(Plan.of(10))
    assert [plan.rate(step, 2.0, falling) for step in (4, 5, 9)] == pytest.approx([2 * 0.6, 0.2, 0.2])


def test_swa_reads_masters_back():
    with bitfirst.open("model:tiny?counting=0") as device:
        method = Compose([SignSGD(linear=True, update="device"), SWA(start=0.0)])
        method.plan(Plan.of(2))
        net = perceptron(method, device)
        bitfirst.train(net, few(2), optimizer_of(net, method), method)
        averaged = method.result(net, few(2))
    assert_same([net.state_dict()["1.weight"]], [averaged.state_dict()["1.weight"]])


@pytest.mark.parametrize("bad", [{"start": 1.0}, {"start": -0.1}, {"rate": 0.0}, {"rate": 2.0}])
def test_swa_refuses(bad):
    with pytest.raises(UsageError):
        SWA(**bad)


# composed, and interrupted


def three() -> Method:
    return Compose([SMD(seed=5), PFQ(every=2, epsilon=9.0, window=2), SWA(start=0.0)])


def test_smd_pfq_and_swa_resume_together(monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(three, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert resumed["method"] == whole["method"]
    assert whole["method"]["swa"] == {"averaged_epochs": 2}
    assert whole["method"]["pfq"]["stages_visited"] > 1


@pytest.mark.parametrize("forgetful", [SMD, PFQ, SWA])
def test_what_is_not_kept_is_found_after_resuming(forgetful, monkeypatch, tmp_path):
    monkeypatch.setattr(forgetful, "load_state_dict", lambda self, state: None)
    whole, resumed = interrupted_and_not(three, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] != whole["weights_sha256"]


def test_options_name_methods_and_their_settings():
    options = TrainOptions(method="smd:p=0.25,work=none,coast=true+byhand:at=0.1-0.2-0.7,order=random+signsgd", seed=7)
    smd, by_hand, signs = options.training_method().parts
    assert (smd.p, smd.work, smd.coast) == (0.25, None, True)
    assert (by_hand.at, by_hand.order, by_hand.seed, type(signs)) == ((0.1, 0.2, 0.7), "random", 7, SignSGD)
    assert [smd.keeps() for _ in range(20)] == [SMD(0.25, seed=7).keeps() for _ in range(1)] + smd.kept[1:]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("best", r"method 'best' is unknown; choose from sgd, signsgd, psg, smd"),
        ("smd:q=1", r"method smd has no setting 'q=1': choose from p, work, coast, seed"),
        ("smd:p=half", r"method smd: p = 'half' is not float"),
        ("smd:coast=maybe", r"coast = 'maybe' is not bool"),
        ("sgd:p=1", r"choose from none"),
        ("psg:beta=1", r"settings of psg are options, such as beta"),
        ("smd+smb", r"SMD and SMB conflict: each says which batches"),
        ("pfq+psg", r"4 leading bits of 3 bits of the input: choose 1 to 2, or make the whole wider"),
    ],
)
def test_options_refuse(method, words):
    with pytest.raises(UsageError, match=words):
        TrainOptions(method=method)


def test_rows_that_are_fetched_one_by_one_are_refused():
    class Row(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(8))

    with pytest.raises(UsageError, match="DataLoader gives its batches in a row"):
        SMD().loader(torch.utils.data.DataLoader(Row(), batch_size=2))


@pytest.mark.parametrize("p", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_dropping_without_more_work_keeps_the_number_of_iterations(p):
    assert all(SMD(p).plan(Plan.of(steps)).steps == steps for steps in range(1, 400))
