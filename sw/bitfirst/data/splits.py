"""Samples, splits of them, and the order in which they come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch.nn import functional

from ..errors import UsageError

SPLIT_SEED = 2026  #: fixes which sample lies in which split, whatever the seed of a training
PADDING = 4  #: pixels by which images are moved at most


class Samples(Protocol):
    """A tensor [n, ...], or what fetches parts of it: uint8 images, float32 ones, or int64 tokens."""

    def __len__(self) -> int: ...

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        """Those of these numbers, int64 [m]."""


@dataclass(frozen=True)
class Normal:
    """What makes float32 of uint8 images: (image / 255 - mean) / deviation, by channel."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @classmethod
    def of(cls, images: torch.Tensor) -> "Normal":
        """That of these images, uint8 [n, c, h, w]: mean 0 and deviation 1 of all pixels."""
        values = torch.arange(256, dtype=torch.float64) / 255
        means, deviations = [], []
        for channel in images.transpose(0, 1):
            shares = torch.bincount(channel.flatten(), minlength=256) / channel.numel()
            means.append((shares * values).sum().item())
            deviations.append(max((shares * (values - means[-1]).square()).sum().sqrt().item(), 1e-6))
        return cls(tuple(means), tuple(deviations))

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        mean, deviation = (torch.tensor(part).reshape(-1, 1, 1) for part in (self.mean, self.deviation))
        return (images.float() / 255 - mean) / deviation


@dataclass(frozen=True)
class Split:
    """images float32 [n, c, h, w], or other `Samples`; labels int64 [n], of text [n, t]; normal: of uint8 images."""

    images: Any
    labels: torch.Tensor
    normal: Normal | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def fetch(self, chosen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Samples and labels of these numbers, int64 [m]."""
        images = self.images[chosen]
        return images if self.normal is None else self.normal(images), self.labels[chosen]


@dataclass(frozen=True)
class Splits:
    """Samples to train, to validate (tuning), and to test; `classes`: by name, in the order of the labels."""

    train: Split
    validation: Split
    test: Split
    classes: tuple[str, ...] = field(default=tuple(map(str, range(10))))


def separated(labels: np.ndarray, size: int, seed: int, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of all samples but `size`, and of these, stratified by class. Raises `UsageError` where it cannot be."""
    indices = np.arange(len(labels))
    try:
        rest, chosen = train_test_split(indices, test_size=size, random_state=seed, stratify=labels)
    except ValueError as error:
        raise UsageError(f"{name}: {size} of {len(labels)} images cannot be set apart ({error})") from None
    return torch.from_numpy(rest), torch.from_numpy(chosen)


def check_labels(labels: np.ndarray, classes: int, name: str) -> None:
    """Raises `UsageError` unless the labels are 0 .. `classes` - 1, and all of them are there."""
    found = np.unique(labels)
    if len(found) != classes or found[0] != 0 or found[-1] != classes - 1:
        span = f"{found[0]} to {found[-1]}" if len(found) else "none"
        raise UsageError(f"{name} has {len(found)} classes ({span}), {classes} are wanted: give the files of one set")


@dataclass(frozen=True)
class Chosen:
    """Of `samples` those of these numbers, int64 [n], fetched when they are asked for."""

    samples: Samples
    numbers: torch.Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        return self.samples[self.numbers[chosen]]


def some(split: Split, count: int, seed: int = SPLIT_SEED) -> Split:
    """`count` samples of it at random, by `seed` alone, in their order; with a larger count those and more."""
    numbers = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:count].sort().values
    return Split(Chosen(split.images, numbers), split.labels[numbers], split.normal)


def halves(split: Split, seed: int = SPLIT_SEED) -> tuple[Split, Split]:
    """Two halves, stratified by class: one to train a network with, the other to fine-tune it (E2-Train)."""
    one, other = separated(split.labels.numpy(), len(split) // 2, seed, "the split")
    parts = (part.sort().values for part in (one, other))
    first, second = (Split(split.images[part], split.labels[part], split.normal) for part in parts)
    return first, second


class Batches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """Batches (images, labels) of `split`, each fetched when it is asked for.

    order    int64: numbers of the images, batch by batch
    moved    seed of `move`, with the number of the batch; None: images as they are
    place    where batches are put: PyTorch's device; None: where `split` has them
    latest   number of the batch that was fetched last; -1 before
    fetched  how many were
    """

    def __init__(
        self,
        split: Split,
        order: Sequence[torch.Tensor],
        moved: int | None = None,
        place: torch.device | None = None,
    ) -> None:
        self.split, self.order, self.moved, self.place = split, order, moved, place
        self.latest, self.fetched = -1, 0

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        """One batch; of a slice from the first one on, so many of them, not fetched yet."""
        if isinstance(index, slice):
            return Batches(self.split, self.order[index], self.moved, self.place)
        images, labels = self.split.fetch(self.order[index])
        self.latest = index
        self.fetched += 1
        if self.moved is not None:
            images = move(images, torch.Generator().manual_seed(self.moved * 1_000_003 + index))
        return images.to(self.place), labels.to(self.place)


def move(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Each image [n, c, h, w] moved by up to `PADDING` pixels each way, zeros coming in, and mirrored half of the time:
    what is usual for CIFAR (He et al. 2016).
    """
    n, _, h, w = images.shape
    padded = functional.pad(images, (PADDING,) * 4)
    down, right = torch.randint(0, 2 * PADDING + 1, (2, n), generator=generator)
    mirrored = torch.rand(n, generator=generator) < 0.5
    rows = down[:, None] + torch.arange(h)
    columns = torch.where(mirrored[:, None], right[:, None] + torch.arange(w).flip(0), right[:, None] + torch.arange(w))
    numbers = torch.arange(n)[:, None, None]
    return padded.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


def batches(
    split: Split, size: int, seed: int, epoch: int, moved: bool = False, place: torch.device | None = None
) -> Batches:
    """One epoch in random order, a function of `seed` and `epoch` alone; an incomplete last batch is left out.

    `moved`: each image moved and mirrored at random (`move`), a function of these and its batch's number. `place`: of
    `Batches`.
    """
    of_epoch = seed * 1_000_003 + epoch
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(of_epoch))
    whole = [chosen for chosen in order.split(size) if len(chosen) == size]
    return Batches(split, whole, of_epoch if moved else None, place)


def in_order(split: Split, size: int, place: torch.device | None = None) -> Batches:
    """All images in their order, for evaluation."""
    return Batches(split, torch.arange(len(split)).split(size), place=place)
