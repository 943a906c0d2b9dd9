"""Data in three fixed splits: what is built in, and what is read from files that the user has."""

from .cifar import CIFAR_FILES, cifar, cifar10, cifar100, has_copies, normalised, read_images
from .digits import TEST_IMAGES, VALIDATION_IMAGES, digits
from .folders import image_folders
from .splits import SPLIT_SEED, Batches, Normal, Split, Splits, batches, halves, in_order, some
from .text import Text, text

__all__ = [
    "CIFAR_FILES",
    "SPLIT_SEED",
    "TEST_IMAGES",
    "VALIDATION_IMAGES",
    "Batches",
    "Normal",
    "Split",
    "Splits",
    "Text",
    "batches",
    "cifar",
    "cifar10",
    "cifar100",
    "digits",
    "halves",
    "has_copies",
    "image_folders",
    "in_order",
    "normalised",
    "read_images",
    "some",
    "text",
]
