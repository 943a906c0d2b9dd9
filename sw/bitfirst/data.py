"""Images in three fixed splits: scikit-learn's handwritten digits, and CIFAR-10 from files that the user has."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from .errors import UsageError

SPLIT_SEED = 2026  #: fixes which image lies in which split, whatever the seed of a training
VALIDATION_IMAGES = 180
TEST_IMAGES = 540
CIFAR_FILES = ("cifar10-train-jpeg.npz", "cifar10-test-jpeg.npz")
CIFAR_TRAIN, CIFAR_VALIDATION, CIFAR_TEST = 20_000, 2_000, 5_000
CIFAR_MEAN, CIFAR_DEVIATION = 0.47, 0.25  #: of the pixels in 0 .. 1


@dataclass(frozen=True)
class Split:
    """images float32 [n, c, h, w]; labels int64 [n], 0 .. 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Splits:
    """Images to train, to validate (tuning), and to test."""

    train: Split
    validation: Split
    test: Split


def digits() -> Splits:
    """1,797 real images, 1 x 8 x 8, in 0 .. 1: 1,077 to train, 180 to validate, 540 to test, stratified by class."""
    images, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=labels)
    train, validation = train_test_split(
        rest, test_size=VALIDATION_IMAGES, random_state=SPLIT_SEED, stratify=labels[rest]
    )
    pixels = torch.from_numpy(images).float().div_(16).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(labels).long()
    return Splits(*(Split(pixels[chosen], classes[chosen]) for chosen in (train, validation, test)))


def cifar(folder: Path, train: int = CIFAR_TRAIN, validation: int = CIFAR_VALIDATION, test: int = CIFAR_TEST) -> Splits:
    """CIFAR-10 as JPEG copies, 3 x 32 x 32, normalised: the first `train` images of the training file, the `validation`
    images behind them, and the first `test` images of the test file.

    `folder` holds `CIFAR_FILES`; see `read_images`. Raises `UsageError` as that does.
    """
    pixels, labels = read_images(folder / CIFAR_FILES[0], train + validation)
    tests = read_images(folder / CIFAR_FILES[1], test)
    pixels = normalised(pixels)
    return Splits(
        Split(pixels[:train], labels[:train]),
        Split(pixels[train:], labels[train:]),
        Split(normalised(tests[0]), tests[1]),
    )


def normalised(pixels: torch.Tensor) -> torch.Tensor:
    """float32, of CIFAR-10's uint8."""
    return (pixels.float() / 255 - CIFAR_MEAN) / CIFAR_DEVIATION


def read_images(path: Path, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` images, uint8 [count, 3, 32, 32], and their classes, int64.

    `path`: an npz with `jpeg` (all files end to end), `offsets` [n + 1] and `labels`. Raises `UsageError` when the
    file is not that, or holds fewer images.
    """
    try:
        with np.load(path) as archive:
            jpeg, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path}: no images there ({error}); give an npz with jpeg, offsets and labels") from None
    if len(labels) < count:
        raise UsageError(f"{path} holds {len(labels)} images, {count} are wanted")
    images = [np.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes()))) for i in range(count)]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return pixels, torch.from_numpy(labels[:count].astype(np.int64))


class Batches(Sequence[tuple[torch.Tensor, torch.Tensor]]):
    """Batches (images, labels) of `split`, each fetched when it is asked for.

    order    int64: indices of the images, batch by batch
    latest   number of the batch that was fetched last; -1 before
    fetched  how many were
    """

    def __init__(self, split: Split, order: Sequence[torch.Tensor]) -> None:
        self.split, self.order = split, order
        self.latest, self.fetched = -1, 0

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: Any) -> Any:
        """One batch; of a slice, so many of them, not fetched yet."""
        if isinstance(index, slice):
            return Batches(self.split, self.order[index])
        chosen = self.order[index]
        self.latest = index
        self.fetched += 1
        return self.split.images[chosen], self.split.labels[chosen]


def batches(split: Split, size: int, seed: int, epoch: int) -> Batches:
    """One epoch in random order, a function of `seed` and `epoch` alone; an incomplete last batch is left out."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator)
    return Batches(split, [chosen for chosen in order.split(size) if len(chosen) == size])


def in_order(split: Split, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All images in their order, for evaluation."""
    return list(zip(split.images.split(size), split.labels.split(size), strict=True))
