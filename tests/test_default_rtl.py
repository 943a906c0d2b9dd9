"""The default array, which `make train` uses, as RTL: random commands, and real training steps within the budget."""

import bitfirst
import pytest
import torch
from bitfirst import data, training
from bitfirst.benches.cycles import BYTE_SCHEDULES, bench_cycles
from bitfirst.models import digits_resnet
from bitfirst.nn import convert
from bitfirst_hdl.contract.registers import EXECUTION_COUNTERS

STEPS, BATCH = 2, 32
SOAK, OTHERS = pytest.mark.soak, ("micro", "fixed", "fixed16", "fusion")
#: what may pass, and what the whole training takes over its steps: it evaluates after every epoch
MAX_TRAINING = {"cycles": (43_100_000, 1.06), "bytes": (161_000_000, 1.095)}


def test_random_commands() -> None:
    found = bench_cycles(f"rtl?{BYTE_SCHEDULES[0]}", commands=200, seed=0)  # all schedules: with `tiny`
    assert found["commands"] >= 200
    assert found["coverage"]["precision_pairs"] == found["coverage"]["possible_precision_pairs"] == 4 * 16
    assert found["result_mismatches"] == found["counter_mismatches"] == 0


def steps(url: str, batch: int = BATCH) -> tuple[str, dict[str, int]]:
    """Two training steps of the digits network: hash of the weights, counters and bytes on the link."""
    torch.manual_seed(0)
    with bitfirst.open(url) as device, training.host_settings(threads=1):
        net = convert(digits_resnet(), device)
        optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        for images, labels in data.batches(data.digits().train, batch, seed=0, epoch=0)[:STEPS]:
            torch.nn.functional.cross_entropy(net(images), labels).backward()
            optimiser.step()
            optimiser.zero_grad()
        return training.weights_sha256(net), device.counters() | {"bytes": device.bytes_moved}


@pytest.fixture(scope="module")
def on_rtl() -> tuple[str, dict[str, int]]:
    return steps("rtl")


def test_training_steps_equal_the_golden_model(on_rtl: tuple[str, dict[str, int]]) -> None:
    weights, counters = steps("model")
    assert on_rtl[0] == weights
    assert {name: on_rtl[1][name] for name in EXECUTION_COUNTERS} == {n: counters[n] for n in EXECUTION_COUNTERS}
    assert counters["array_steps"] > 0


@pytest.mark.parametrize("name", ["least", *(pytest.param(name, marks=SOAK) for name in OTHERS)])
def test_other_devices_train_to_the_same_weights(name: str, on_rtl: tuple[str, dict[str, int]]) -> None:
    """Without a gather unit; with multipliers, of one width and of bricks."""
    weights, counters = steps(f"rtl:{name}")
    assert on_rtl[0] == weights
    assert (counters["loads"] == 0) == (name in ("least", "micro")) and counters["matmuls"] > 0
    assert counters["cycles"] != on_rtl[1]["cycles"]  # another device
    assert name == "fusion" or counters["array_steps"] != on_rtl[1]["array_steps"]  # which takes as many, by design


def test_default_training_stays_within_its_cycles_and_bytes(on_rtl: tuple[str, dict[str, int]]) -> None:
    """By the first steps, with what evaluation adds: deterministic, so a hard limit."""
    options = training.TrainOptions()
    all_steps = options.epochs * len(data.batches(data.digits().train, options.batch, seed=0, epoch=0))
    assert options.batch == BATCH and all_steps > 0
    for name, (most, whole) in MAX_TRAINING.items():
        assert 0 < on_rtl[1][name] / STEPS * all_steps * whole < most, name
