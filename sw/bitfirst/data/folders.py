"""Images in folders by class, as ImageNet's are."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from .splits import SPLIT_SEED, Normal, Split, Splits, separated

SUFFIXES = (".jpeg", ".jpg", ".png")
TEST_FOLDERS = ("val", "test")
IMAGENET = Normal((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  #: the usual one of ImageNet
MARGIN = 256 / 224  #: the shorter side before the middle is cut out, over the size
VALIDATION = 0.02  #: share of the training images


class Files:
    """Images that are read when they are asked for: uint8 [n, 3, size, size], the middle of each."""

    def __init__(self, paths: list[Path], size: int) -> None:
        self.paths, self.size = paths, size

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: torch.Tensor) -> torch.Tensor:
        return torch.stack([self._read(self.paths[number]) for number in chosen.tolist()])

    def _read(self, path: Path) -> torch.Tensor:
        """The shorter side becomes `size` * `MARGIN`; the middle square is taken."""
        try:
            with Image.open(path) as image:
                whole = image.convert("RGB")
        except (OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read ({error}): put a whole image there, or take it away") from None
        scale = round(self.size * MARGIN) / min(whole.size)
        whole = whole.resize([max(self.size, round(side * scale)) for side in whole.size], Image.Resampling.BILINEAR)
        left, top = ((side - self.size) // 2 for side in whole.size)
        middle = whole.crop((left, top, left + self.size, top + self.size))
        return torch.from_numpy(np.array(middle)).permute(2, 0, 1)


def image_folders(
    folder: Path, size: int = 224, validation: float = VALIDATION, classes: int | None = None, seed: int = SPLIT_SEED
) -> Splits:
    """`folder`/train/CLASS/*.jpg and `folder`/val/CLASS/*.jpg (or test): the latter are the test split; of the former a
    share `validation` of each class is set apart by `seed`. Images are read when they are fetched.

    size     pixels a side
    classes  how many there must be; None: as many as there are

    Raises `UsageError` when a folder or its images are missing, and when the classes of the two folders differ or are
    not `classes`; fetching raises it, with the path, for an image that cannot be read.
    """
    folder = Path(folder)
    test = next((folder / name for name in TEST_FOLDERS if (folder / name).is_dir()), folder / TEST_FOLDERS[0])
    (names, paths, labels), (others, test_paths, test_labels) = _listed(folder / "train"), _listed(test)
    if names != others:
        one = sorted(set(names) ^ set(others))[0]
        raise UsageError(f"{folder}: {len(names)} classes to train, {len(others)} to test; first that differs: {one}")
    if classes is not None and len(names) != classes:
        raise UsageError(f"{folder} has {len(names)} classes, {classes} are wanted: give the data the network is for")
    count = max(len(names), round(validation * len(paths)))
    rest, chosen = (part.sort().values for part in separated(labels.numpy(), count, seed, str(folder / "train")))

    def split(paths: list[Path], labels: torch.Tensor, part: torch.Tensor) -> Split:
        return Split(Files([paths[number] for number in part.tolist()], size), labels[part], IMAGENET)

    tests = split(test_paths, test_labels, torch.arange(len(test_paths)))
    return Splits(split(paths, labels, rest), split(paths, labels, chosen), tests, names)


def _listed(folder: Path) -> tuple[tuple[str, ...], list[Path], torch.Tensor]:
    """Names of the classes, paths of all images, class of each."""
    if not folder.is_dir():
        raise UsageError(f"{folder} is not there: give a folder with train/CLASS/*.jpg and val/CLASS/*.jpg")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir()))
    paths, labels = [], []
    for label, name in enumerate(names):
        found = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        if not found:
            raise UsageError(f"{folder / name} holds no image ({', '.join(SUFFIXES)})")
        paths += found
        labels += [label] * len(found)
    if not paths:
        raise UsageError(f"{folder} holds no folders of classes: give train/CLASS/*.jpg")
    return names, paths, torch.tensor(labels)
