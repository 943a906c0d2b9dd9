"""Scikit-learn's handwritten digits, in three fixed splits."""

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

SPLIT_SEED = 2026  #: fixes which image lies in which split, whatever the seed of a training
VALIDATION_IMAGES = 180
TEST_IMAGES = 540


@dataclass(frozen=True)
class Split:
    """images float32 [n, 1, 8, 8] in 0 .. 1; labels int64 [n], 0 .. 9."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Digits:
    """1,797 real images: 1,077 to train, 180 to validate (tuning), 540 to test."""

    train: Split
    validation: Split
    test: Split


def digits() -> Digits:
    """The three splits, stratified by class."""
    images, labels = load_digits(return_X_y=True)
    indices = np.arange(len(labels))
    rest, test = train_test_split(indices, test_size=TEST_IMAGES, random_state=SPLIT_SEED, stratify=labels)
    train, validation = train_test_split(
        rest, test_size=VALIDATION_IMAGES, random_state=SPLIT_SEED, stratify=labels[rest]
    )
    pixels = torch.from_numpy(images).float().div_(16).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(labels).long()
    return Digits(*(Split(pixels[chosen], classes[chosen]) for chosen in (train, validation, test)))


def batches(split: Split, size: int, seed: int, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """One epoch in random order, a function of `seed` and `epoch` alone; an incomplete last batch is left out."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    order = torch.randperm(len(split), generator=generator)
    return [(split.images[chosen], split.labels[chosen]) for chosen in order.split(size) if len(chosen) == size]


def in_order(split: Split, size: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """All images in their order, for evaluation."""
    return list(zip(split.images.split(size), split.labels.split(size), strict=True))
