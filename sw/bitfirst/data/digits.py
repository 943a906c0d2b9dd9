"""scikit-learn's handwritten digits, which are built in."""

import torch
from sklearn.datasets import load_digits

from .splits import SPLIT_SEED, Split, Splits, separated

VALIDATION_IMAGES = 180
TEST_IMAGES = 540


def digits() -> Splits:
    """1,797 real images, 1 x 8 x 8, in 0 .. 1: 1,077 to train, 180 to validate, 540 to test, stratified by class."""
    images, labels = load_digits(return_X_y=True)
    rest, test = separated(labels, TEST_IMAGES, SPLIT_SEED, "digits")
    train, validation = separated(labels[rest], VALIDATION_IMAGES, SPLIT_SEED, "digits")
    pixels = torch.from_numpy(images).float().div_(16).reshape(-1, 1, 8, 8)
    classes = torch.from_numpy(labels).long()
    return Splits(*(Split(pixels[chosen], classes[chosen]) for chosen in (rest[train], rest[validation], test)))
