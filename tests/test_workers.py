"""Two processes that train one network (DistributedDataParallel over gloo), against one that sees both batches."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import bitfirst
import pytest
import torch
from bitfirst.methods import PSG, SBM, SLU, Compose, Method
from bitfirst.nn import convert
from method_runs import assert_same, few, network, optimizer_of
from reference_device import ReferenceDevice
from test_method_blocks import gates_of, residual_perceptron
from torch import distributed, multiprocessing, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

STEPS, WORKERS = 3, 2


def forced(net: nn.Module, computes: bool) -> None:
    """Whether all samples compute the gated blocks."""
    gates_of(net)._choose = lambda probability: torch.full(probability.shape, computes)


def skips(net: nn.Module, worker: int, step: int) -> None:
    """In step 0 all workers compute, in step 1 one of them skips all blocks, in step 2 both do."""
    forced(net, step < 1 or (step == 1 and worker == 0))


def nothing(net: nn.Module, worker: int, step: int) -> None:
    pass


def predicted() -> Method:
    return Compose([SBM(seed=3), PSG()])


def resnet(method: Method) -> nn.Module:
    return network(method, bitfirst.open("model:tiny?counting=0"))


def perceptron(method: Method) -> nn.Module:
    return convert(residual_perceptron(3), ReferenceDevice(), method)


#: method, network, what is done before each forward pass
CASES: dict[str, tuple[Callable[[], Method], Callable[[Method], nn.Module], Callable[[nn.Module, int, int], None]]] = {
    "sbm": (functools.partial(SBM, seed=3), resnet, nothing),
    "psg": (predicted, resnet, nothing),
    "slu": (functools.partial(SLU, alpha=0.0, gate_gradient="full"), perceptron, skips),
}


def half(batch: tuple[torch.Tensor, torch.Tensor], worker: int) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(part.chunk(WORKERS)[worker] for part in batch)


def tensors_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    """Parameters and momenta."""
    momenta = [entry["momentum_buffer"] for _, entry in sorted(optimizer.state_dict()["state"].items())]
    return [*(parameter.detach().clone() for parameter in net.parameters()), *momenta]


def one_worker(worker: int, folder: str) -> None:
    """All cases, in its own process."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder}/store", rank=worker, world_size=WORKERS)
    try:
        for name, (make, network_of, before) in CASES.items():
            method = make()
            net = network_of(method)
            optimizer = optimizer_of(net, method)
            shared = DistributedDataParallel(net, find_unused_parameters=before is skips)
            kept = []
            for step, batch in enumerate(method.loader(few(STEPS))):
                before(net, worker, step)
                x, y = half(batch, worker)
                (functional.cross_entropy(shared(x), y) + method.penalty(net)).backward()
                kept.append([None if one.grad is None else one.grad.clone() for one in net.parameters()])
                optimizer.step()
                optimizer.zero_grad()
                method.step(torch.zeros(()))
            torch.save({"tensors": tensors_of(net, optimizer), "gradients": kept}, f"{folder}/{name}.{worker}")
    finally:
        distributed.destroy_process_group()


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    folder: Path = tmp_path_factory.mktemp("workers")
    multiprocessing.spawn(one_worker, (str(folder),), WORKERS)
    return {name: [torch.load(folder / f"{name}.{worker}") for worker in range(WORKERS)] for name in CASES}


def alone(name: str, shares: tuple[int, ...] = tuple(range(WORKERS))) -> list[torch.Tensor]:
    """One process, which adds up the gradients of these halves."""
    make, network_of, before = CASES[name]
    method = make()
    net = network_of(method)
    optimizer = optimizer_of(net, method)
    for step, batch in enumerate(method.loader(few(STEPS))):
        for worker in shares:
            before(net, worker, step)
            x, y = half(batch, worker)
            ((functional.cross_entropy(net(x), y) + method.penalty(net)) / len(shares)).backward()
        optimizer.step()
        optimizer.zero_grad()
        method.step(torch.zeros(()))
    return tensors_of(net, optimizer)


@pytest.mark.parametrize("name", CASES)
def test_two_workers_are_one_that_adds_up_their_gradients_bit_for_bit(workers, name):
    one, other = (worker["tensors"] for worker in workers[name])
    assert_same(one, other)
    assert_same(one, alone(name))


@pytest.mark.parametrize("name", ["sbm", "psg"])
def test_one_worker_alone_is_found(workers, name):
    with pytest.raises(AssertionError):
        assert_same(workers[name][0]["tensors"], alone(name, (0,)))


def test_signs_of_several_workers_are_voted_on(workers):
    """Means of two signs: where they differ the weight stays to its momentum, where one is 0 the other decides."""
    first = workers["psg"][0]["gradients"][0]
    votes = {value for gradient in first[:1] for value in gradient.unique().tolist()}
    assert votes <= {-1.0, -0.5, 0.0, 0.5, 1.0} and {-1.0, 0.0, 1.0} <= votes
    signs = []
    for worker in range(WORKERS):
        method = predicted()
        net = resnet(method)
        x, y = half(few(STEPS)[0], worker)
        functional.cross_entropy(net(x), y).backward()
        signs.append(net.conv.weight.grad)
    assert torch.equal(first[0], (signs[0] + signs[1]) / 2)
    majority = torch.where(signs[0] == signs[1], signs[0], torch.where(signs[0] == -signs[1], 0, signs[0] + signs[1]))
    assert torch.equal(first[0].sign(), majority.sign())


def test_blocks_that_workers_skip_do_not_hold_the_others_up(workers):
    """Step 1: one has no gradient to give, and the mean is half of the other's; step 2: nobody has one."""
    names = [name for name, _ in perceptron(SLU()).named_parameters()]
    gated = [number for number, name in enumerate(names) if name.startswith(("4.body", "5.body"))]
    assert len(gated) == 4
    for worker in workers["slu"]:
        first, second, third = worker["gradients"]
        assert all(first[number].abs().max() > 0 and second[number].abs().max() > 0 for number in gated)
        assert all(third[number] is None for number in gated)
        assert all(one is not None for number, one in enumerate(third) if names[number].startswith(("1.", "3.", "6.")))
