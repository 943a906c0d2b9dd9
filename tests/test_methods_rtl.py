"""Methods on the simulated board: the digits network, a few steps, weights and counters as on `model`."""

import bitfirst
import pytest
import torch
from bitfirst.methods import PFQ, SBM, SMD, SWA, Compose, E2Train, FracTrain, Int8Int12, Method, Plan, SignSGD, SkipNet
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS
from method_runs import few, network, optimizer_of, state, total


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
