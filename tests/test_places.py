"""Networks on another device of PyTorch's, as on a GPU: nothing mixes them, and the numbers are the same."""

import bitfirst
import pytest
import torch
from bitfirst import data, grids, training
from bitfirst.errors import UsageError
from bitfirst.quantiser import quantise
from bitfirst.training import METHODS, TrainOptions
from other_device import Elsewhere, other_device

OTHERS = "slu:gate_gradient=probe", "slu:gate_gradient=full,bn=all", "e2train:swa=true", "dfq:per=batch"
OTHERS += ("fconly:cached=true",)


def trained(method: str, place: torch.device | None = None, **more: object) -> tuple[str, float]:
    """Weights and accuracy of a short training with the network there."""
    whole = data.digits()
    few = data.Splits(*(data.some(part, 20) for part in (whole.train, whole.validation, whole.test)))
    options = TrainOptions(method=method, epochs=2, batch=8, **more)
    with training.host_settings(1), bitfirst.open("model:psg?counting=0") as board:
        board.place = place
        run = training.new_run(options, board)
        training.fit(run, few, options)
        net = run.method.result(run.net, training.epoch_batches(few, options, 0, place))
        assert place is None or isinstance(next(net.parameters()), Elsewhere)
        return training.weights_sha256(net), training.evaluate(net, few.test)


@pytest.mark.parametrize("method", [*METHODS, *OTHERS])
def test_each_method_gives_the_same_on_another_device(method):
    with other_device() as place:
        there = trained(method, place)
    assert there == trained(method)


def test_the_control_of_random_gradients_is_the_same_there():
    whole = data.digits()
    few = data.Splits(*(data.some(part, 16) for part in (whole.train, whole.validation, whole.test)))
    options = TrainOptions(epochs=1, batch=8, fp32=False)

    def trained_at(place):
        with training.host_settings(1), bitfirst.open("model:tiny?counting=0") as board:
            board.place = place
            comparison = training.compare(options, board, few, spoil=training.randomise_gradients(0))
            return training.weights_sha256(comparison.net)

    with other_device() as place:
        there = trained_at(place)
    assert there == trained_at(None)


def test_fp32_is_trained_there_too():
    with other_device() as place:
        assert isinstance(training.new_run(TrainOptions(), None, place=place).net.linear.weight, Elsewhere)


@pytest.mark.parametrize("method", ["e2train:swa=true", "byhand:schedule=4-8/6-8", "dfq"])
def test_a_study_is_of_the_same_there(method, monkeypatch):
    whole = data.digits()
    few = data.Splits(*(data.some(part, 20) for part in (whole.train, whole.validation, whole.test)))
    monkeypatch.setattr(grids, "splits_of", lambda folder: few)
    told = {"images": grids.DIGITS, "finetunes": False, "rate": 1.0, "device": "model:tiny?counting=0"}
    told |= {"variant": method, "method": method, "seed": 0, "batch": 8, "epochs": 2}
    here, opened = grids.run_one(told), bitfirst.open

    def there(url):
        device = opened(url)
        device.place = place
        return device

    monkeypatch.setattr(bitfirst, "open", there)
    with other_device() as place:
        found = grids.run_one(told)
    for result in here, found:
        del result["wall_s"]
        for epoch in result["history"]:
            del epoch["wall_s"]
            epoch.get("host", {}).pop("bytes", None)  # also of what is brought there and back
    assert found == here and here["layers"]


def test_the_other_device_notices_what_is_mixed():
    with other_device() as place:
        there, here = torch.ones(3).to(place), torch.ones(3)
        for mixed in (lambda: there + here, lambda: here[there.to(torch.int64)], there.numpy):
            with pytest.raises(RuntimeError):
                mixed()
        assert (there + here.to(place)).cpu().tolist() == [2, 2, 2] and there[torch.tensor([0])].cpu().tolist() == [1]


def test_a_model_multiplies_where_its_url_says():
    x, w = (quantise(torch.rand(shape), 8) for shape in ((2, 3, 6, 6), (4, 3, 3, 3)))
    with bitfirst.open("model:tiny") as here, bitfirst.open("model:tiny?device=cpu") as named:
        assert here.place is None and named.place == torch.device("cpu")
        wanted = here.conv2d(x, w)
        with other_device() as place:
            named.place = place
            found = named.conv2d(x, w)
        assert type(found) is torch.Tensor and torch.equal(found.double(), wanted.double())
        assert named.counters() == here.counters()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("model?device=gpu", "device = 'gpu'.*give cpu, cuda or such as cuda:1"),
        ("model?device=cuda:", "device = 'cuda:'"),
        ("model?device=cpu:0", "device = 'cpu:0'"),
        ("model?device=cuda", "PyTorch finds no CUDA devices here: leave device=cuda out"),
        ("model:tiny?device=cuda:1&counting=0", "PyTorch finds no CUDA devices here: leave device=cuda:1 out"),
        ("rtl?device=cuda", "option 'device' in .* is unknown"),
    ],
)
def test_places_that_are_not_there_are_one_line(url, words, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UsageError, match=words):
        bitfirst.open(url)


def test_the_second_of_one_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UsageError, match="PyTorch finds 1 CUDA devices here"):
        bitfirst.open("model:tiny?device=cuda:1")
    assert bitfirst.open("model:tiny?device=cuda").place == torch.device("cuda", 0)


def test_float32_on_a_gpu_is_float32_while_training():
    convolutions = torch.backends.cudnn.conv
    before = convolutions.fp32_precision, torch.backends.cudnn.deterministic
    with training.host_settings(1):
        assert (convolutions.fp32_precision, torch.backends.cudnn.deterministic) == ("ieee", True)
    assert (convolutions.fp32_precision, torch.backends.cudnn.deterministic) == before
