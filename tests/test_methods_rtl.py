"""Methods on the simulated board: the digits network, a few steps, weights and counters as on `model`; each method by
itself, its steps of the array recomputed of shapes and of what it chose."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import bitfirst
import pytest
import torch
from bitfirst.lowering import Operation
from bitfirst.methods import (
    CPT,
    DFQ,
    FP16,
    FP32,
    PFQ,
    SBM,
    SLU,
    SMB,
    SMD,
    SWA,
    ByHand,
    Compose,
    E2Train,
    FracTrain,
    Int8Int12,
    Method,
    Plan,
    SignSGD,
    SkipNet,
    Static,
    StochasticDepth,
)
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from method_runs import few, network, optimizer_of, state, total
from torch.nn import functional
from work import BY_NAME, Array, possible_steps


def e2train(seed: int) -> Method:
    return E2Train(p=0.3, work=None, seed=seed)


def fractrain(seed: int) -> Method:
    return Compose([FracTrain(seed=seed), SignSGD()])


def progressive(seed: int) -> Method:
    return Compose([SMD(0.3, seed=seed), PFQ(every=1, epsilon=9.0, window=2), SWA(start=0.0)])


def eight_bits(seed: int) -> Method:
    return Compose([SBM(seed=seed), SkipNet(seed=seed)])


def twelve_bits(seed: int) -> Method:
    return Compose([Int8Int12(at=0.5), SignSGD()])


def trained(url: str, method: Method) -> tuple[list[torch.Tensor], dict[str, int]]:
    """Weights, statistics, momenta; execution counters and bit-MACs."""
    method.plan(Plan.of(3))
    batches = few(3, 4)
    with bitfirst.open(url) as device:
        net = network(method, device)
        optimizer = optimizer_of(net, method)
        bitfirst.train(net, batches, optimizer, method)
        method.result(net, batches)
        counters = {name: total(device, name) for name in EXECUTION_COUNTERS if name != "phase"}
    return state(net, optimizer), counters | {"bit_macs": device.bit_macs}


@pytest.mark.parametrize("make", [e2train, fractrain, progressive, eight_bits, twelve_bits])
def test_board_and_golden_model_train_alike(make):
    weights, counters = trained("model:tiny", make(4))
    others, counted = trained("rtl:tiny", make(4))
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    assert counted == counters and counters["array_steps"] > 0


def test_other_choices_are_other_weights_and_counters():
    """So what is compared above is not the same whatever a method does."""
    weights, counters = trained("model:tiny", e2train(4))
    others, counted = trained("model:tiny", e2train(6))
    assert not all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    assert counted["array_steps"] != counters["array_steps"]


@pytest.mark.parametrize("make", [FP32, FP16])
def test_the_array_rests_where_the_host_computes(make):
    """The baselines in floating point train beside a board that does nothing."""
    weights, counters = trained("rtl:tiny", make())
    assert not any(count for name, count in counters.items() if name != "commands")  # reading them is one
    others, _ = trained("model:tiny", make())
    assert all(torch.equal(one, other) for one, other in zip(weights, others, strict=True))
    untrained = network(make()).state_dict().values()
    assert not any(torch.equal(one, other) for one, other in zip(weights, untrained, strict=False) if one.ndim > 1)


# each by itself

SAMPLES, STEPS = 2, 3  #: so few that no tensor is cut
WHOLE = (8, 8, 16, 16)  #: bits of x, w, and of the gradients that dX and dW have
PHASES = "forward", "input_gradient", "weight_gradient"
Bits4 = tuple[int, int, int, int]
#: by layer, samples and bits of what is computed; "forward" behind them: not the gradients
Passes = dict[str, list[tuple[int, Bits4] | tuple[int, Bits4, str]]]


def everywhere(bits: tuple[int, int, int, int] = WHOLE) -> Passes:
    return {name: [(SAMPLES, bits)] for name in BY_NAME}


def block_of(name: str) -> int | None:
    """The block that the layer belongs to; None for the others, and for a shortcut, which is always computed."""
    return int(name.split(".")[1]) if ".conv" in name else None


def by_widths(method: Method) -> Passes:
    """Of a method that sets the widths of all layers."""
    _, forward, backward = method.changes[-1]
    return everywhere((forward, forward, backward, backward))


def by_samples(method: Method) -> Passes:
    """Of gates that choose among widths."""
    passes = everywhere()
    for name, block in ((name, block_of(name)) for name in BY_NAME):
        if block is not None:
            options = Counter(method.options[option] for option in method.gates.choices[block].option.tolist())
            passes[name] = [
                (count, (pair.forward, method.weights, pair.backward, pair.backward)) for pair, count in options.items()
            ]
    return passes


def by_masks(method: Method) -> Passes:
    """Of gates that skip; the first block has none."""
    counts = {None: SAMPLES, 0: SAMPLES, 1: int(method.gates.choices[0].chosen.sum())}
    return {name: [(counts[block_of(name)], WHOLE)] for name in BY_NAME if counts[block_of(name)]}


def by_masks_and_probes(method: SkipNet) -> Passes:
    """What is skipped is computed forward, for the gate's gradient alone."""
    passes, probed = by_masks(method), int(method.gates.choices[0].probed.sum())
    for name in BY_NAME:
        if block_of(name) == 1 and probed:
            passes.setdefault(name, []).append((probed, WHOLE, "forward"))
    return passes


def by_depth(method: StochasticDepth) -> Passes:
    """Of whole batches that skip: by how the counts have grown."""
    before = getattr(method, "before", [0, 0])
    method.before = [counts["executed"] for counts in method.counts]
    computed = {None} | {number for number in (0, 1) if method.before[number] > before[number]}
    return {name: [(SAMPLES, WHOLE)] for name in BY_NAME if block_of(name) in computed}


#: A method; what each step computed, by what it says; of how many steps.
ALONE: dict[str, tuple[Callable[[], Method], Callable[[Method], Passes], int]] = {
    "smb": (lambda: SMB(0.4), lambda method: everywhere(), 1),
    "smd": (lambda: SMD(0.5, seed=3), lambda method: everywhere(), 1),
    "sbm": (lambda: SBM(seed=2), lambda method: everywhere((8, 8, 8, 16)), 1),
    "static": (lambda: Static(), lambda method: everywhere((8, 8, 8, 8)), 1),
    "by hand": (lambda: ByHand("3-6/6-8"), by_widths, 3),
    "cpt": (lambda: CPT(), by_widths, 2),
    "pfq": (lambda: PFQ(every=1, epsilon=9.0, window=2), by_widths, 3),
    "8 then 12": (lambda: Int8Int12(at=0.5), by_widths, 3),
    "stochastic depth": (lambda: StochasticDepth(last=0.4, seed=2), by_depth, 3),
    "slu": (lambda: SLU(seed=3), by_masks, 3),
    "skipnet": (lambda: SkipNet(alpha=40.0, seed=1), by_masks_and_probes, 2),  # its second step skips
    "signsgd": (lambda: SignSGD(), lambda method: everywhere(), 1),
    "swa": (lambda: SWA(start=0.0), lambda method: everywhere(), 1),
    "dfq": (lambda: DFQ(seed=2), by_samples, 2),
    "fractrain": (lambda: FracTrain(every=1, epsilon=9.0, seed=4), by_samples, 1),
}


def stepped(name: str, url: str) -> tuple[list[list[dict]], list[Passes]]:
    """Of each step, counters of each product, and what the method says."""
    make, says, steps = ALONE[name]
    method, rows, told = make(), [], []
    plan = method.plan(Plan.of(STEPS))
    with bitfirst.open(url) as device:
        net = network(method, device)
        optimizer = optimizer_of(net, method)
        for x, y in method.loader(few(plan.steps, SAMPLES)[:]):
            if len(rows) == steps:
                break
            rows.append([])
            net.conv.connection.measured = rows[-1]
            widths = says(method) if says is by_widths else None  # of the step that comes
            loss = functional.cross_entropy(net.train()(x), y) + method.penalty(net)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            told.append(widths or says(method))
            method.step(loss)
        net.conv.connection.measured = None
    return rows, told


def check_steps(rows: list[list[dict]], told: list[Passes]) -> None:
    assert len(rows) == len(told)
    for products, passes in zip(rows, told, strict=True):
        found: dict[tuple[str, str], list[int]] = {}
        for row in products:
            entry = found.setdefault((row["layer"], row["phase"]), [0, 0])
            entry[0], entry[1] = entry[0] + row["array_steps"], entry[1] + row["bit_macs"]
        taken = {name: {phase for part in own for phase in part[2:] or PHASES} for name, own in passes.items()}
        wanted = {(name, phase) for name, phases in taken.items() for phase in phases} - {("conv", "input_gradient")}
        assert found.keys() == wanted
        for (name, phase), (steps, bit_macs) in found.items():
            layer, possible, macs = BY_NAME[name], {0}, 0
            for samples, (x, w, error, weight), *only in passes[name]:
                if only not in ([], [phase]):
                    continue
                bits = (x, w, error if phase == "input_gradient" else weight)
                macs += layer.macs * samples * {"forward": x * w, "input_gradient": w * error}.get(phase, x * weight)
                more = possible_steps(layer, phase, samples, bits, Array())
                possible = {one + other for one, other in product(possible, more)}
            assert (steps in possible, bit_macs) == (True, macs), (name, phase, steps, possible)


@pytest.mark.parametrize("name", ALONE)
def test_each_method_takes_the_steps_of_what_it_chose(name):
    rows, told = stepped(name, "rtl:tiny")
    check_steps(rows, told)
    assert len(rows) == ALONE[name][2]


@pytest.mark.parametrize("name", ["stochastic depth", "slu", "skipnet", "dfq", "fractrain"])
def test_computing_all_would_be_found(name):
    rows, told = stepped(name, "model:tiny")
    check_steps(rows, told)
    with pytest.raises(AssertionError):
        check_steps(rows, [everywhere()] * len(rows))


def test_more_steps_than_the_widths_take_are_found(monkeypatch):
    """Broken: gradients go through the array as 16 bits, whatever they have; bit-MACs say nothing of it."""
    task = Operation.task.func

    def wide(self):
        made = task(self)
        return replace(made, b=replace(made.b, bits=16)) if made.b.role == "g" else made

    monkeypatch.setattr(Operation, "task", property(wide))
    with pytest.raises(AssertionError, match=r"assert \(False, \d+\) == \(True, \d+\)"):
        check_steps(*stepped("static", "model:tiny"))
