"""Methods: the loop, composing them, what they keep in checkpoints."""

import copy
from pathlib import Path

import bitfirst
import pytest
import torch
from bitfirst import methods
from bitfirst.errors import UsageError
from bitfirst.methods import (
    DFQ,
    FP16,
    PFQ,
    PSG,
    SBM,
    SLU,
    SMD,
    SWA,
    Compose,
    E2Train,
    FracTrain,
    Method,
    Plan,
    SignSGD,
)
from bitfirst.methods.named import named
from bitfirst.nn import Bits
from bitfirst.training import TrainOptions
from method_runs import assert_same, digits, few, interrupted_and_not, network, optimizer_of, state
from torch.nn import functional

# the loop


class Shrinking(Method):
    """Leaves out each third batch, and pulls the classifier's weights to 0."""

    def __init__(self) -> None:
        self.seen: list[float] = []
        self.epochs: list[float | None] = []

    def loader(self, data):
        return [batch for index, batch in enumerate(data) if index % 3 != 2]

    def penalty(self, net):
        return 0.01 * net.linear.weight.square().sum()

    def step(self, loss):
        self.seen.append(loss.item())

    def epoch_end(self, loss):
        self.epochs.append(loss)


def own_loop(net, batches, optimizer, method, epochs, scheduler):
    """As the documentation has it."""
    for _ in range(epochs):
        net.train()
        losses = []
        for x, y in method.loader(batches):
            loss = functional.cross_entropy(net(x), y) + method.penalty(net)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            method.step(loss)
            losses.append(loss.item())
        method.epoch_end(sum(losses) / len(losses))
        scheduler.step()


def trained(make, loops, device=None):
    """What each of `loops` makes of the same network, optimiser and data."""
    found = []
    for run in loops:
        method = make()
        net = network(method, device)
        optimizer = optimizer_of(net, method)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
        run(net, few(4), optimizer, method, 2, scheduler)
        found.append((state(net, optimizer), method))
    return found


def library_loop(net, batches, optimizer, method, epochs, scheduler):
    bitfirst.train(net, batches, optimizer, method, epochs=epochs, scheduler=scheduler)


@pytest.mark.parametrize(
    "make",
    [Method, SignSGD, Shrinking, lambda: Compose([Shrinking(), SignSGD()])],
    ids=["ordinary", "signsgd", "own", "composed"],
)
def test_train_is_the_own_loop_bit_for_bit(make):
    (own, method), (library, other) = trained(make, (own_loop, library_loop))
    assert_same(own, library)
    for one, two in zip(method.parts, other.parts, strict=True):
        if isinstance(one, Shrinking):
            assert one.seen == two.seen and len(one.seen) == 6
            assert one.epochs == two.epochs and len(one.epochs) == 2


def test_train_with_psg_is_the_own_loop_bit_for_bit():
    with bitfirst.open("model:tiny?counting=0") as device:
        (own, _), (library, _) = trained(lambda: PSG(tau="lagged"), (own_loop, library_loop), device)
    assert_same(own, library)


#: Methods that drop, skip, split and average; where each has its say in the loop: what is left out must show.
WHOLE = {
    "smd": (lambda: SMD(0.5, seed=2), "loader"),
    "slu": (lambda: SLU(seed=2), "penalty"),
    "swa": (lambda: SWA(start=0.0), "epoch_end"),
    "e2train": (lambda: E2Train(p=0.3, work=None, swa=True, seed=1), "step"),
    "fractrain": (lambda: FracTrain(epsilon=9.0, every=1, seed=2), "step"),
    "pfq": (lambda: PFQ(epsilon=9.0, every=1, window=2), "step"),
    "dfq per batch": (lambda: DFQ(per="batch", seed=2), "penalty"),
    "sbm": (lambda: SBM(seed=2), "step"),
    "fp16": (lambda: FP16(scale=1e38), "step"),  # overflows at first
}


def planned(make):
    method = make()
    method.plan(Plan.of(8))
    return method


def everything(net, optimizer, method):
    """Weights, statistics, momenta, and what the method knows, by name."""
    told = {name: value for name, value in method.state_dict().items() if not isinstance(value, torch.Tensor)}
    tensors = {name: value for name, value in method.state_dict().items() if name not in told}
    return told, [*tensors.values(), *state(net, optimizer)]


def without(hook):
    """The own loop, in which nobody asks the method for this."""

    def loop(net, batches, optimizer, method, epochs, scheduler):
        plain = {"loader": lambda data: data, "penalty": lambda net: 0.0}.get(hook, lambda *_: None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(method, hook, plain)
            own_loop(net, batches, optimizer, method, epochs, scheduler)

    return loop


@pytest.mark.parametrize("name", WHOLE)
def test_train_is_the_own_loop_with_every_method_of_the_papers(name):
    make, hook = WHOLE[name]
    found = []
    with bitfirst.open("model:tiny?counting=0") as device:
        for run in own_loop, library_loop, without(hook):
            method = planned(make)
            net = network(method, device)
            optimizer = optimizer_of(net, method)
            run(net, few(4), optimizer, method, 2, torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5))
            found.append(everything(net, optimizer, method))
    (told, tensors), (library_told, library), (other_told, other) = found
    assert told == library_told
    assert_same(tensors, library)
    same = len(tensors) == len(other) and all(map(torch.equal, tensors, other))
    assert told != other_told or not same


def without_penalty(net, batches, optimizer, method, epochs, scheduler):
    method.penalty = lambda net: 0.0
    own_loop(net, batches, optimizer, method, epochs, scheduler)


def backwards(net, batches, optimizer, method, epochs, scheduler):
    own_loop(net, list(batches)[::-1], optimizer, method, epochs, scheduler)


@pytest.mark.parametrize("other", [without_penalty, backwards])
def test_another_loop_gives_other_weights(other):
    (own, _), (different, _) = trained(Shrinking, (own_loop, other))
    assert not all(torch.equal(one, two) for one, two in zip(own, different, strict=True))


def test_train_takes_a_data_loader_and_returns_mean_losses():
    split = digits().train
    dataset = torch.utils.data.TensorDataset(split.images[:32], split.labels[:32])
    net = network()
    means = bitfirst.train(net, torch.utils.data.DataLoader(dataset, 8), optimizer_of(net, Method()), epochs=3)
    assert len(means) == 3 and means[2] < means[0]


def test_an_epoch_without_a_batch_has_no_mean():
    class Nothing(Method):
        def loader(self, data):
            return []

        def epoch_end(self, loss):
            self.told = loss

    method, net = Nothing(), network()
    before = copy.deepcopy(net.state_dict())
    assert bitfirst.train(net, few(2), optimizer_of(net, method), method) == [None]
    assert method.told is None
    assert_same(list(before.values()), list(net.state_dict().values()))


def test_divergence_names_what_is_not_finite():
    net = network()
    with torch.no_grad():
        net.linear.bias[3] = float("nan")
    with pytest.raises(UsageError, match=r"nor is linear\.bias"):
        bitfirst.train(net, few(1), optimizer_of(net, Method()))


def test_batches_are_fetched_when_they_are_asked_for():
    batches = few(4)
    assert (len(batches), batches.fetched, batches.latest) == (4, 0, -1)
    assert torch.equal(batches[2][1], list(batches)[2][1])
    assert (batches.fetched, batches.latest) == (5, 3)


# composing


def test_what_decides_the_same_is_refused():
    with pytest.raises(UsageError, match="SignSGD and PSG conflict: a weight has one gradient"):
        Compose([SignSGD(), PSG()])
    with pytest.raises(UsageError, match="PSG and PSG conflict: it is there twice"):
        Compose([PSG(), Compose([PSG(0.1)])])
    with pytest.raises(UsageError, match=r"'psg' is no method: compose such as methods\.PSG"):
        Compose(["psg"])


#: Reason -> methods of which no two go together, each made as it is.
GROUPS = {
    "a weight has one gradient, by one rule": "SignSGD PSG",
    "each says which batches are trained on, and how many": "SMD SMB",
    "each sets the widths of all layers": "PFQ ByHand Int8Int12 CPT Static SBM FP32 FP16 FCOnly",
    "each says which blocks are computed, for which samples": "SLU SkipNet StochasticDepth FCOnly",
}
BOTH = "DFQ", "FracTrain"  #: set widths, and skip blocks
SIGNS = "the classifier alone learns"
#: Pairs that have a reason of their own.
PAIRS = (
    {(one, "PSG"): "a prediction is made of the first bits of one width" for one in BOTH}
    | {(one, other): "signs are made of the integer" for one in ("FP32", "FP16") for other in ("SignSGD", "PSG")}
    | {("FCOnly", other): SIGNS for other in ("SignSGD", "PSG")}
    | {("FCOnly", "SWA"): "statistics would be taken anew, and here they stay"}
)
SINGLE = {name for group in GROUPS.values() for name in group.split()} | {*BOTH, "SWA"}


def reasons(one, other):
    """All that forbid the two, one of which must be told; none: they go together."""
    found = [reason for reason, group in GROUPS.items() if {one, other} <= set(group.split())]
    for reason in list(GROUPS)[2:]:
        if (one in BOTH or other in BOTH) and {one, other} <= {*GROUPS[reason].split(), *BOTH}:
            found.append(reason)
    found += [PAIRS[pair] for pair in ((one, other), (other, one)) if pair in PAIRS]
    return ["it is there twice"] if one == other else found


#: Of `PSG` with these some stage has too few bits for a prediction; `convert` says so.
NARROW = "PFQ", "ByHand", "CPT", "Static", "Int8Int12"


@pytest.mark.parametrize("one", sorted(SINGLE))
def test_each_two_methods_go_together_or_say_why_not(one):
    """Those that do can be put on a network."""
    with bitfirst.open("model:tiny?counting=0") as device:
        for other in sorted(SINGLE):
            parts, wanted = [getattr(methods, name)() for name in (one, other)], reasons(one, other)
            if wanted:
                with pytest.raises(UsageError, match=f"^{one} and {other} conflict: .*({'|'.join(wanted)})"):
                    Compose(parts)
                continue
            method = Compose(parts)
            assert method.parts == tuple(parts)
            if "PSG" in (one, other) and {one, other} & set(NARROW):
                with pytest.raises(UsageError, match=r"leading bits of .* make the whole wider"):
                    network(method, device)
            else:
                assert network(method, device)(few(1)[0][0]).shape == (8, 10)


def test_all_methods_are_among_them_and_the_page_has_the_same_groups():
    """Of those that are not methods of others put together."""
    classes = {name: getattr(methods, name) for name in methods.__all__}
    single = {
        name
        for name, one in classes.items()
        if isinstance(one, type) and issubclass(one, Method) and one is not Method and not issubclass(one, Compose)
    }
    assert single == SINGLE
    rows = (Path(__file__).parents[1] / "docs" / "methods.md").read_text().split("| | why |\n| --- | --- |\n")[1]
    for row, (reason, group) in zip(rows.splitlines(), GROUPS.items(), strict=False):
        names, told = row.strip("| ").split(" | ")
        assert (names.replace("`", "").replace(",", ""), told) == (group, reason)


def test_composed_methods_all_take_part():
    one, other, signs = Shrinking(), Shaking(), SignSGD()
    method = Compose([Compose([one]), other, signs])
    assert method.parts == (one, other, signs) and method.signs is signs
    assert method.widths(Bits(4, 4, 8)) == [Bits(4, 4, 8)]
    net = network(method)
    assert [group["signs"] for group in method.param_groups(net)] == [True, False]
    with torch.no_grad():
        net.linear.weight.fill_(2.0)
    assert method.penalty(net).item() == pytest.approx(0.01 * 4 * 160 + 0.25)
    assert len(list(method.loader(few(6)))) == 4


# checkpoints


class Shaking(Method):
    """Moves the images at random, more in each epoch, and adds a constant to the loss."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(3)
        self.epochs, self.largest = 0, torch.zeros(())

    def loader(self, data):
        for x, y in data:
            yield x + 0.01 * (1 + self.epochs) * torch.randn(x.shape, generator=self.generator), y

    def penalty(self, net):
        return 0.25

    def epoch_end(self, loss):
        self.epochs += 1
        self.largest = torch.maximum(self.largest, torch.tensor(loss))

    def state_dict(self):
        return {"random": self.generator.get_state(), "epochs": self.epochs, "largest": self.largest}

    def load_state_dict(self, state):
        self.generator.set_state(state["random"])
        self.epochs, self.largest = state["epochs"], state["largest"]


class Forgetful(Shaking):
    """Control: its random state is not kept."""

    def load_state_dict(self, state):
        self.epochs, self.largest = state["epochs"], state["largest"]


@pytest.mark.parametrize(
    ("make", "name"),
    [(Shaking, "sgd"), (lambda: Compose([SignSGD(), Shaking()]), "signsgd")],
    ids=["alone", "composed"],
)
def test_resumed_runs_go_on_from_the_methods_states(make, name, monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(make, monkeypatch, tmp_path, name)
    assert resumed["weights_sha256"] == whole["weights_sha256"]
    assert [row["loss"] for row in resumed["history"]] == [row["loss"] for row in whole["history"]]


def test_a_method_that_forgets_does_not_resume(monkeypatch, tmp_path):
    whole, resumed = interrupted_and_not(Forgetful, monkeypatch, tmp_path)
    assert resumed["weights_sha256"] != whole["weights_sha256"]


def test_states_of_composed_methods_are_told_apart():
    method = Compose([PSG(), Shaking()])
    assert list(method.state_dict()) == ["shaking.random", "shaking.epochs", "shaking.largest"]
    with pytest.raises(KeyError, match="random"):
        method.load_state_dict({"shaking.epochs": 1})
    assert methods.Method().state_dict() == {}


# by name


def test_settings_of_every_kind_are_read():
    method = named("fractrain:targets=1.5-2-3,every=4,cap=none")
    assert method.targets == (1.5, 2.0, 3.0) and method._stages.every == 4
    assert named("slu:skip=0.2,gate_gradient=probe").rules.gate_gradient == "probe"
    assert named("smd:coast=true,work=none").coast


@pytest.mark.parametrize(
    "text", ["slu:loss=x", "fractrain:targets=x", "smd:p=x", "smd:q=1", "smb:schedule=raised,factor=nan"]
)
def test_settings_that_cannot_be_are_one_line(text):
    with pytest.raises(UsageError) as error:
        named(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("option", [{"beta": 0.2}, {"tau": "lagged"}, {"update": "device"}])
def test_options_of_psg_are_not_taken_for_those_of_e2train(option):
    with pytest.raises(UsageError, match="is an option of psg; e2train has its own"):
        TrainOptions(method="e2train", **option)
    assert TrainOptions(method="psg", **option).identity().items() >= {"method": "psg"}.items()


def test_what_is_recorded_is_what_was_trained_with():
    found = TrainOptions(method="e2train:beta=0.1").identity()
    assert (found["beta"], found["tau"], found["predictor"]) == (0.1, "exact", "e2train")
    assert TrainOptions(method="psg", tau="0.5").identity()["tau"] == "0.5"
