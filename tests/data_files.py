"""Files of data, small, as users have them: CIFAR as published, JPEG copies of it, images in folders by class."""

import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

Parts = dict[str, tuple[np.ndarray, np.ndarray]]


def images(count: int, classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random pixels; each class as often."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 256, (count, 3, 32, 32), np.uint8), np.arange(count) % classes


def parts_of(classes: int) -> Parts:
    """By file, of the training and of the test."""
    names = [f"data_batch_{number}" for number in range(1, 6)] if classes == 10 else ["train"]
    count = 40 if classes == 10 else 400
    parts = {name: images(count, classes, seed) for seed, name in enumerate(names)}
    return parts | {("test_batch" if classes == 10 else "test"): images(2 * classes, classes, 9)}


def pickled(content: dict) -> bytes:
    """As Python 2 pickled it: keys are bytes, modules have their old names."""
    return pickle.dumps(content, protocol=2).replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def python_files(classes: int) -> dict[str, bytes]:
    key = b"labels" if classes == 10 else b"fine_labels"
    files = {
        name: pickled({b"data": pixels.reshape(len(labels), -1), key: labels.tolist()})
        for name, (pixels, labels) in parts_of(classes).items()
    }
    meta, names = ("batches.meta", b"label_names") if classes == 10 else ("meta", b"fine_label_names")
    return files | {meta: pickled({names: [b"class %d" % number for number in range(classes)]})}


def binary_files(classes: int) -> dict[str, bytes]:
    files = {}
    for name, (pixels, labels) in parts_of(classes).items():
        coarse = [] if classes == 10 else [(labels // 5)[:, None]]
        records = np.concatenate([*coarse, labels[:, None], pixels.reshape(len(labels), -1)], 1)
        files[f"{name}.bin"] = records.astype(np.uint8).tobytes()
    return files


FILES = {"python": python_files, "binary": binary_files}


def inside(classes: int, kind: str) -> str:
    known = {(10, "python"): "cifar-10-batches-py", (10, "binary"): "cifar-10-batches-bin"}
    return known.get((classes, kind), f"cifar-100-{kind}")


def put(folder: Path, classes: int, kind: str, how: str) -> Path:
    """The published files, as an archive, in their folder, or bare; what a user gives."""
    files = FILES[kind](classes)
    if how == "archive":
        path = folder / f"cifar-{classes}-{kind}.tar.gz"
        with tarfile.open(path, "w:gz", compresslevel=1) as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(f"{inside(classes, kind)}/{name}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return path
    target = folder / inside(classes, kind) if how == "folder" else folder
    target.mkdir(exist_ok=True)
    for name, content in files.items():
        (target / name).write_bytes(content)
    return folder


def jpegs(path: Path, count: int, classes: int = 10) -> None:
    files = []
    for number in range(count):
        buffer = io.BytesIO()
        Image.new("RGB", (32, 32), (number, 100, 200)).save(buffer, "jpeg")
        files.append(np.frombuffer(buffer.getvalue(), np.uint8))
    offsets = np.cumsum([0, *map(len, files)])
    np.savez(path, jpeg=np.concatenate(files), offsets=offsets, labels=(np.arange(count) % classes).astype(np.uint8))


def tree(folder: Path, classes: tuple[str, ...] = ("ant", "bee"), tests: tuple[str, ...] | None = None) -> Path:
    for part, names, count in ("train", classes, 6), ("val", tests or classes, 2):
        for label, name in enumerate(names):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (20 + 4 * number, 16), (100 * label, 10 * number, 0))
                image.save(folder / part / name / f"{number}.png")
    return folder
