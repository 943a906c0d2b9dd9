"""Real gradients for the study of PSG: x and g_y of every convolution of a ResNet-20 in training, quantised.

The network trains in float32 on CIFAR-10; around three steps, at 5, 50 and 95 % of the run, the operands of each dW
are kept as integers, of the step and of the one before it (which gives the lagged threshold its state).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from ..data import normalised, read_images
from ..errors import UsageError
from ..golden.psg import Split
from ..models import resnet20

BATCH = 128
IMAGES = 20_000
STEPS = 500
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4
CAPTURE_AT = (0.05, 0.5, 0.95)  #: shares of the run
SAVE_EVERY = 25  #: steps between two checkpoints
X_BITS, X_LOW = 8, 4
G_BITS, G_LOW = 16, 10  #: the widest low part that is studied: its limits hold for the others too


@dataclass(frozen=True)
class Captured:
    """Operands of one layer's dW in one step.

    x int16 [n, c, h, w], g int16 [n, o, h', w']: integers within the limits of `x_split` and of every split of g at
    up to `G_LOW` bits; the real numbers are x * 2**x_exponent and g * 2**g_exponent.
    """

    layer: str
    step: int
    x: torch.Tensor
    g: torch.Tensor
    x_signed: bool
    x_exponent: int
    g_exponent: int
    taps: int
    stride: int
    padding: int


def capture_steps(steps: int) -> dict[int, bool]:
    """Steps to capture; True for those that are studied, False for those before them."""
    wanted = [max(1, round(share * steps)) for share in CAPTURE_AT]
    return {step - 1: False for step in wanted} | {step: True for step in wanted}


def capture(data: Path, folder: Path, steps: int = STEPS, seed: int = 0, report: Callable[[str], None] = print) -> None:
    """Trains for `steps` steps and fills `folder` with one file for each captured step.

    Continues where an earlier call for the same run stopped. `data`: see `read_images`. Raises `UsageError` when
    `folder` belongs to another run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = {"steps": steps, "seed": seed, "batch": BATCH, "images": IMAGES}
    state = _State.resumed(folder / "training.pt", run)
    wanted = capture_steps(steps)
    if state.step >= max(wanted) + 1:
        return
    pixels, labels = read_images(data, IMAGES)
    while state.step <= max(wanted):
        chosen = _batch(state.step, seed)
        x = normalised(pixels[chosen])
        loss = state.train(x, labels[chosen], steps, folder if state.step in wanted else None)
        if state.step % SAVE_EVERY == 0 or state.step - 1 in wanted:
            state.save(folder / "training.pt", run)
            report(f"step {state.step} of {steps}: loss {loss:.3f}")


def read_captures(folder: Path, step: int) -> Iterator[Captured]:
    """What `capture` kept of one step, layer by layer from the first."""
    path = folder / f"step_{step}.pt"
    if not path.exists():
        raise UsageError(f"{path} does not exist: capture the training first")
    for fields in torch.load(path, weights_only=True):
        yield Captured(**fields)


def _batch(step: int, seed: int) -> torch.Tensor:
    """Indices of one step's images: each epoch in a random order of its own, its incomplete batch left out."""
    epoch, place = divmod(step, IMAGES // BATCH)
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(IMAGES, generator=generator)[place * BATCH : (place + 1) * BATCH]


class _State:
    """Network and optimiser between two steps."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.step = 0
        self.network = resnet20()
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
        )

    @classmethod
    def resumed(cls, path: Path, run: dict[str, int]) -> "_State":
        state = cls(run["seed"])
        if path.exists():
            saved = torch.load(path, weights_only=True)
            if saved["run"] != run:
                raise UsageError(f"{path.parent} holds a run with {saved['run']}, not {run}: choose another folder")
            state.step = saved["step"]
            state.network.load_state_dict(saved["network"])
            state.optimiser.load_state_dict(saved["optimiser"])
        return state

    def save(self, path: Path, run: dict[str, int]) -> None:
        parts = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict()}
        new = path.with_suffix(".new")
        torch.save({"run": run, "step": self.step, **parts}, new)
        new.replace(path)

    def train(self, x: torch.Tensor, labels: torch.Tensor, steps: int, folder: Path | None) -> float:
        """One step of SGD, the rate falling along a cosine; captures into `folder` if there is one."""
        for group in self.optimiser.param_groups:
            group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * self.step / steps)) / 2
        watch = _Watch(self.network) if folder else None
        loss = functional.cross_entropy(self.network(x), labels)
        self.optimiser.zero_grad()
        loss.backward()
        if watch:
            torch.save(watch.captured(self.step), folder / f"step_{self.step}.pt")
        self.optimiser.step()
        self.step += 1
        return loss.item()


class _Watch:
    """Keeps x and g_y of every convolution in one forward and backward pass."""

    def __init__(self, network: nn.Module) -> None:
        self.layers = {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d)}
        self.seen: dict[str, list[torch.Tensor]] = {name: [] for name in self.layers}
        self.hooks = []
        for name, layer in self.layers.items():
            self.hooks.append(layer.register_forward_hook(self._forward(name)))

    def _forward(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            self.seen[name].append(inputs[0].detach())
            output.register_hook(lambda gradient: self.seen[name].append(gradient.detach()))

        return hook

    def captured(self, step: int) -> list[dict[str, object]]:
        """The fields of `Captured`, layer by layer."""
        for hook in self.hooks:
            hook.remove()
        found = []
        for name, layer in self.layers.items():
            x, g = self.seen[name]
            x_signed = bool(x.min() < 0)
            x_values, x_exponent = quantise_within(x, Split(X_BITS, X_LOW, x_signed).limits[1])
            g_values, g_exponent = quantise_within(g, Split(G_BITS, G_LOW, True).limits[1])
            found.append(
                {
                    "layer": name,
                    "step": step,
                    "x": x_values,
                    "g": g_values,
                    "x_signed": x_signed,
                    "x_exponent": x_exponent,
                    "g_exponent": g_exponent,
                    "taps": layer.kernel_size[0],
                    "stride": layer.stride[0],
                    "padding": layer.padding[0],
                }
            )
        return found


def quantise_within(tensor: torch.Tensor, limit: int) -> tuple[torch.Tensor, int]:
    """(int16 values, exponent): to nearest, ties to even, with the smallest power-of-two scale that keeps all values
    within +-`limit`. An all-zero tensor has exponent 0."""
    largest = tensor.abs().max().item()
    if largest == 0:
        return torch.zeros_like(tensor, dtype=torch.int16), 0
    exponent = math.frexp(largest)[1] - limit.bit_length()
    while round(largest * 2.0**-exponent) > limit:
        exponent += 1
    return (tensor.double() * 2.0**-exponent).round_().to(torch.int16), exponent
