"""What `bitfirst train` learns: data by KIND:PATH, a network by its name, and whether the two go together."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from . import data, models
from .errors import UsageError

Shape = tuple[int, int] | None  #: channels of images, and pixels a side; None: sequences of tokens
DIGITS, CIFAR, IMAGENET, TOKENS = (1, 8), (3, 32), (3, 224), None


@dataclass(frozen=True)
class Network:
    """make   of a number of classes
    takes  of what shape its samples are
    """

    make: Callable[[int], nn.Module]
    takes: Shape


def _of(shape: Shape, *names: str) -> dict[str, Network]:
    return {name: Network(getattr(models, name), shape) for name in names}


NETWORKS = {
    "digits_resnet": Network(lambda _: models.digits_resnet(), DIGITS),
    **_of(CIFAR, "resnet8", "resnet20", "resnet38", "resnet74", "resnet110", "resnet164"),
    **_of(CIFAR, "mobilenet_v2_cifar", "vgg11"),
    "vgg11_plain": Network(partial(models.vgg11, skips=False), CIFAR),
    **_of(IMAGENET, "resnet18", "resnet34", "mobilenet_v2"),
    **_of(TOKENS, "transformer_small"),
}


@dataclass(frozen=True)
class Kind:
    """title    for people
    form     how it is written on the command line
    network  that it is learnt with where none is named
    shapes   that its samples can be given
    read     of its path, and pixels a side
    """

    title: str
    form: str
    network: str
    shapes: tuple[Shape, ...]
    read: Callable[[Path, Shape], data.Splits]


KINDS = {
    "digits": Kind("handwritten digits", "digits", "digits_resnet", (DIGITS,), lambda *_: data.digits()),
    "cifar10": Kind("CIFAR-10", "cifar10:FOLDER", "resnet20", (CIFAR,), lambda path, _: data.cifar10(path)),
    "cifar100": Kind("CIFAR-100", "cifar100:FOLDER", "resnet20", (CIFAR,), lambda path, _: data.cifar100(path)),
    "folders": Kind(
        "images by folder",
        "folders:FOLDER",
        "resnet18",
        (CIFAR, IMAGENET),
        lambda path, shape: data.image_folders(path, shape[1]),
    ),
    "text": Kind("text", "text:FILE", "transformer_small", (TOKENS,), lambda path, _: data.text(path)),
}


@dataclass(frozen=True)
class Task:
    """Data and network of a training; both are known, and go together.

    Raises `UsageError` where they do not, or one of them is unknown. Nothing is read yet.
    """

    data: str
    network: str

    def __post_init__(self) -> None:
        kind = self.kind
        fitting = [name for name, one in NETWORKS.items() if one.takes in kind.shapes]
        if self.network not in NETWORKS:
            raise UsageError(f"network {self.network!r} is unknown; choose from {', '.join(NETWORKS)}")
        if self.network not in fitting:
            takes, given = _text(NETWORKS[self.network].takes), " or ".join(map(_text, kind.shapes))
            raise UsageError(
                f"network {self.network} takes {takes}, and {self.name} has {given}: choose from {', '.join(fitting)}, "
                "or other data"
            )

    @property
    def kind(self) -> Kind:
        return kind_of(self.data)

    @property
    def name(self) -> str:
        """Of the kind of data, for folders."""
        return self.data.partition(":")[0]

    @property
    def path(self) -> Path:
        return Path(self.data.partition(":")[2])

    @property
    def is_colour(self) -> bool:
        return NETWORKS[self.network].takes in (CIFAR, IMAGENET)

    @property
    def title(self) -> str:
        """For people."""
        copies = " (JPEG copies)" if self.name == "cifar10" and data.has_copies(self.path) else ""
        return f"{self.kind.title}{copies}, {self.network}"

    def splits(self, train: int | None = None, rest: int | None = None) -> data.Splits:
        """The data: of the training samples `train` by chance, always the same, and of the validation and test samples
        at most `rest` each; None: all.

        Raises `UsageError` where the data cannot be read or has fewer training samples.
        """
        splits = self.kind.read(self.path, NETWORKS[self.network].takes)
        if train is not None:
            if train > len(splits.train):
                raise UsageError(f"{self.data} has {len(splits.train)} samples to train with, {train} are wanted")
            splits = replace(splits, train=data.some(splits.train, train))
        if rest is not None:
            parts = (data.some(part, rest) for part in (splits.validation, splits.test))
            splits = replace(splits, **dict(zip(("validation", "test"), parts, strict=True)))
        return splits

    def make(self, classes: int) -> nn.Module:
        """The network, with random weights."""
        return NETWORKS[self.network].make(classes)


def kind_of(text: str) -> Kind:
    """Of such as "digits" or "cifar10:FOLDER"."""
    name, _, path = text.partition(":")
    kind = KINDS.get(name)
    if kind is None or bool(path) != (":" in kind.form):
        raise UsageError(f"data {text!r} is unknown: give {', '.join(kind.form for kind in KINDS.values())}")
    return kind


def _text(shape: Shape) -> str:
    return "sequences of tokens" if shape is None else f"images of {shape[0]} x {shape[1]} x {shape[1]}"
