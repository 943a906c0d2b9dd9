"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from files that the user has: as published, or as JPEG copies."""

import codecs
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import UsageError
from .splits import SPLIT_SEED, Normal, Split, Splits, check_labels, separated

CIFAR_FILES = ("cifar10-train-jpeg.npz", "cifar10-test-jpeg.npz")
CIFAR_TRAIN, CIFAR_VALIDATION, CIFAR_TEST = 20_000, 2_000, 5_000
normalised = Normal((0.47,) * 3, (0.25,) * 3)  #: float32 of uint8 images, rough, as `cifar` has it
VALIDATION = 5_000
PIXELS = (3, 32, 32)
TEN = "airplane automobile bird cat deer dog frog horse ship truck"

Read = Callable[[str], bytes]  #: of a file's name: what is in it
Images = tuple[np.ndarray, np.ndarray]  #: uint8 [n, 3, 32, 32], labels int64 [n]


def cifar(folder: Path, train: int = CIFAR_TRAIN, validation: int = CIFAR_VALIDATION, test: int = CIFAR_TEST) -> Splits:
    """CIFAR-10 as JPEG copies, 3 x 32 x 32, normalised: the first `train` images of the training file, the `validation`
    images behind them, and the first `test` images of the test file: what `bitfirst study` trains with.

    `folder` holds `CIFAR_FILES`; see `read_images`. Raises `UsageError` as that does.
    """
    pixels, labels = read_images(folder / CIFAR_FILES[0], train + validation)
    tests = read_images(folder / CIFAR_FILES[1], test)
    pixels = normalised(pixels)
    return Splits(
        Split(pixels[:train], labels[:train]),
        Split(pixels[train:], labels[train:]),
        Split(normalised(tests[0]), tests[1]),
        tuple(TEN.split()),
    )


def cifar10(folder: Path, validation: int = VALIDATION, seed: int = SPLIT_SEED) -> Splits:
    """CIFAR-10, uint8 images that become float32 when they are fetched: of the training images `validation`, stratified
    by class, are set apart by `seed`.

    `folder` holds one of: the published archive (cifar-10-python.tar.gz or cifar-10-binary.tar.gz), or what is in it,
    with or without its folder; or `CIFAR_FILES`, JPEG copies, of which results are to be quoted as such. Or `folder` is
    the archive itself.

    Raises `UsageError`, naming the file, when nothing of that is there, a file is cut short, or its classes are others.
    """
    train, test, names = _read(Path(folder), 10)
    return _splits(train, test, names or tuple(TEN.split()), validation, seed, folder)


def cifar100(folder: Path, validation: int = VALIDATION, seed: int = SPLIT_SEED) -> Splits:
    """CIFAR-100, its 100 fine classes, as `cifar10` (cifar-100-python.tar.gz or cifar-100-binary.tar.gz)."""
    train, test, names = _read(Path(folder), 100)
    return _splits(train, test, names or tuple(map(str, range(100))), validation, seed, folder)


def has_copies(folder: Path) -> bool:
    """Whether it is JPEG copies that `cifar10` reads there."""
    return (folder / CIFAR_FILES[0]).exists()


def _splits(train: Images, test: Images, names: tuple[str, ...], validation: int, seed: int, folder: Path) -> Splits:
    for (_, labels), name in (train, "training"), (test, "test"):
        check_labels(labels, len(names), f"{folder}: the {name} file")
    rest, chosen = (part.sort().values for part in separated(train[1], validation, seed, str(folder)))
    (pixels, labels), (test_pixels, test_labels) = (tuple(map(torch.from_numpy, part)) for part in (train, test))
    normal = Normal.of(pixels[rest])
    return Splits(
        Split(pixels[rest], labels[rest], normal),
        Split(pixels[chosen], labels[chosen], normal),
        Split(test_pixels, test_labels, normal),
        names,
    )


# which files
def _read(folder: Path, classes: int) -> tuple[Images, Images, tuple[str, ...] | None]:
    """Training images, test images, names of the classes if they are known."""
    if classes == 10 and has_copies(folder):
        train, test = (read_images(folder / name) for name in CIFAR_FILES)
        return tuple(part.numpy() for part in train), tuple(part.numpy() for part in test), None
    for kind in "python", "binary":
        read = _reader(folder, classes, kind)
        if read is not None:
            return (_of_pickles if kind == "python" else _of_records)(read, classes)
    raise UsageError(
        f"{folder} holds no CIFAR-{classes}: give a folder with cifar-{classes}-python.tar.gz or "
        f"cifar-{classes}-binary.tar.gz, or with what is in it"
    )


def _reader(folder: Path, classes: int, kind: str) -> Read | None:
    """What reads the files of the archive of this kind; None where it is not there."""
    archive = f"cifar-{classes}-{kind}.tar.gz"
    inside = f"cifar-{classes}{'-batches' if classes == 10 else ''}-{'py' if kind == 'python' else 'bin'}"
    inside = inside if classes == 10 else f"cifar-100-{kind}"
    first = ("data_batch_1" if classes == 10 else "train") + ("" if kind == "python" else ".bin")
    for path in folder / inside, folder:
        if (path / first).is_file():
            return lambda name: _file(path / name)
    path = folder if folder.name == archive else folder / archive
    return (lambda name: _member(path, f"{inside}/{name}")) if path.is_file() else None


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror})") from None


def _member(path: Path, name: str) -> bytes:
    try:
        with tarfile.open(path) as archive:
            return archive.extractfile(name).read()
    except (OSError, EOFError, KeyError, AttributeError, tarfile.TarError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} is cut short or is another archive, {name} cannot be read ({error})") from None


# binary
def _of_records(read: Read, classes: int) -> tuple[Images, Images, None]:
    """Records of one label (CIFAR-100: the coarse one, then the fine one) and 3072 pixels."""
    names = [f"data_batch_{number}.bin" for number in range(1, 6)] if classes == 10 else ["train.bin"]
    size = 1 + (classes == 100) + int(np.prod(PIXELS))

    def images(name: str) -> Images:
        data = np.frombuffer(read(name), np.uint8)
        if len(data) == 0 or len(data) % size:
            raise UsageError(f"{name} of CIFAR-{classes} is cut short: {len(data)} bytes are no records of {size}")
        records = data.reshape(-1, size)
        pixels = records[:, -int(np.prod(PIXELS)) :].reshape(-1, *PIXELS).copy()
        return pixels, records[:, 0 if classes == 10 else 1].astype(np.int64)

    parts = [images(name) for name in names]
    test = images("test_batch.bin" if classes == 10 else "test.bin")
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True)), test, None


# pickles
_ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): np._core.multiarray._reconstruct,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("_codecs", "encode"): codecs.encode,  # how later Pythons write bytes
}


class _Arrays(pickle.Unpickler):
    """Of lists, dictionaries and arrays alone: a file can run nothing."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return _ALLOWED[module, name]


def _of_pickles(read: Read, classes: int) -> tuple[Images, Images, tuple[str, ...] | None]:
    names = [f"data_batch_{number}" for number in range(1, 6)] if classes == 10 else ["train"]
    key = b"labels" if classes == 10 else b"fine_labels"

    def load(name: str) -> dict[bytes, Any]:
        try:
            found = _Arrays(io.BytesIO(read(name)), encoding="bytes").load()
            return {key if isinstance(key, bytes) else key.encode(): value for key, value in found.items()}
        except (pickle.UnpicklingError, EOFError, ValueError, AttributeError, IndexError, TypeError) as error:
            raise UsageError(f"{name} of CIFAR-{classes} is cut short or is another file ({error})") from None

    def images(name: str) -> Images:
        found = load(name)
        try:
            pixels, labels = np.asarray(found[b"data"]), np.asarray(found[key], np.int64)
            return pixels.reshape(len(labels), *PIXELS).astype(np.uint8, copy=False), labels
        except (KeyError, ValueError) as error:
            raise UsageError(f"{name} holds no images of CIFAR-{classes} ({error})") from None

    parts = [images(name) for name in names]
    test = images("test_batch" if classes == 10 else "test")
    meta = load("batches.meta" if classes == 10 else "meta")
    known = meta.get(b"label_names" if classes == 10 else b"fine_label_names")
    known = None if known is None else tuple(one.decode() for one in known)
    return tuple(np.concatenate(part) for part in zip(*parts, strict=True)), test, known


# JPEG copies
def read_images(path: Path, count: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """The first `count` images (None: all), uint8 [n, 3, 32, 32], and their classes, int64.

    `path`: an npz with `jpeg` (all files end to end), `offsets` [n + 1] and `labels`. Raises `UsageError` when the
    file is not that, is cut short, or holds fewer images.
    """
    try:
        with path.open("rb") as file, np.load(file) as archive:
            jpeg, offsets, labels = archive["jpeg"], archive["offsets"], archive["labels"]
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile, zipfile.error) as error:
        raise UsageError(f"{path}: no images there ({error}); give an npz with jpeg, offsets and labels") from None
    count = len(labels) if count is None else count
    if len(labels) < count or len(offsets) <= count:
        raise UsageError(f"{path} holds {min(len(labels), len(offsets) - 1)} images, {count} are wanted")
    pixels = np.empty((count, *PIXELS[1:], 3), np.uint8)
    for number in range(count):
        file = jpeg[offsets[number] : offsets[number + 1]].tobytes()
        try:
            pixels[number] = np.asarray(Image.open(io.BytesIO(file)).convert("RGB"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{path}: image {number} cannot be read ({error}): the file is cut short") from None
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[:count].astype(np.int64))
