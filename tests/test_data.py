"""Data from files: three splits, what is usual of them, one line for what is damaged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bitfirst import data
from bitfirst.data.splits import move
from bitfirst.errors import UsageError
from data_files import FILES, jpegs, parts_of, pickled, put, tree

LOADERS = {10: data.cifar10, 100: data.cifar100}


@pytest.mark.parametrize("how", ["archive", "folder", "bare"])
@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("classes", LOADERS)
def test_cifar_as_published(classes, kind, how, tmp_path):
    splits = LOADERS[classes](put(tmp_path, classes, kind, how), validation=100)
    *trained, test = parts_of(classes).values()
    whole = {image.tobytes(): label for pixels, labels in trained for image, label in zip(pixels, labels, strict=True)}
    assert (len(splits.train), len(splits.validation)) == (len(whole) - 100, 100)
    seen = []
    for split in splits.train, splits.validation:
        for image, label in zip(split.images.numpy(), split.labels.tolist(), strict=True):
            seen.append(image.tobytes())
            assert whole[seen[-1]] == label
    assert len(set(seen)) == len(whole)
    assert np.array_equal(splits.test.images.numpy(), test[0]) and np.array_equal(splits.test.labels.numpy(), test[1])
    assert torch.bincount(splits.validation.labels).tolist() == [100 // classes] * classes
    assert splits.classes[:2] == (("class 0", "class 1") if kind == "python" else splits.classes[:2])
    assert len(splits.classes) == classes


def test_splits_follow_their_seed_alone(tmp_path):
    put(tmp_path, 10, "binary", "bare")
    one, same, other = (data.cifar10(tmp_path, 50, seed) for seed in (1, 1, 2))
    assert torch.equal(one.validation.images, same.validation.images)
    assert not torch.equal(one.validation.images, other.validation.images)
    assert torch.equal(one.test.images, other.test.images)


def test_pixels_have_mean_0_and_deviation_1(tmp_path):
    splits = data.cifar10(put(tmp_path, 10, "binary", "bare"), 50)
    x, y = splits.train.fetch(torch.arange(len(splits.train)))
    assert x.dtype == torch.float32 and torch.equal(y, splits.train.labels)
    torch.testing.assert_close(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(x.std((0, 2, 3)), torch.ones(3), atol=1e-4, rtol=0)
    assert splits.test.normal is splits.train.normal  # of the training split, not its own
    assert data.Normal.of(torch.zeros(1, 2, 1, 1, dtype=torch.uint8)).deviation == (1e-6, 1e-6)


def test_jpeg_copies(tmp_path):
    for name, count in zip(data.CIFAR_FILES, (60, 20), strict=True):
        jpegs(tmp_path / name, count)
    splits = data.cifar10(tmp_path, validation=20)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (40, 20, 20)
    assert splits.classes[3] == "cat" and splits.test.images[7, 0].float().mean().item() == pytest.approx(7, abs=3)


def test_images_of_studies_are_the_first_of_each_file_and_none_is_in_two_splits(tmp_path):
    for name, count in zip(data.CIFAR_FILES, (12, 7), strict=True):
        jpegs(tmp_path / name, count)
    splits = data.cifar(tmp_path, train=6, validation=4, test=5)
    for split, labels in (splits.train, range(6)), (splits.validation, range(6, 10)), (splits.test, range(5)):
        assert split.labels.tolist() == list(labels) and split.images.dtype == torch.float32
        red = split.images[:, 0].mean((1, 2)) * 0.25 + 0.47  # an image's number is its red
        assert (255 * red).tolist() == pytest.approx(list(labels), abs=1.01)
    with pytest.raises(UsageError, match="holds 12 images, 13 are wanted"):
        data.cifar(tmp_path, train=6, validation=7, test=5)


# damage


def cut(path: Path, share: float = 0.6) -> None:
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def damaged(name: str, folder: Path) -> None:
    """Reads files of which one is cut short, or not what it should be."""
    if name == "python":
        put(folder, 10, "python", "bare")
        cut(folder / "data_batch_3")
    elif name == "binary":
        put(folder, 10, "binary", "bare")
        cut(folder / "data_batch_3.bin", 0.601)
    elif name == "archive":
        cut(put(folder, 10, "python", "archive"))
    elif name == "missing":
        put(folder, 10, "binary", "bare")
        (folder / "test_batch.bin").unlink()
    elif name == "jpeg":
        for file in data.CIFAR_FILES:
            jpegs(folder / file, 20)
        cut(folder / data.CIFAR_FILES[1])
    elif name == "one image":
        jpegs(folder / data.CIFAR_FILES[0], 20)
        with np.load(folder / data.CIFAR_FILES[0]) as archive:
            known = dict(archive)
        known["offsets"] = known["offsets"] // 2
        np.savez(folder / data.CIFAR_FILES[0], **known)
        jpegs(folder / data.CIFAR_FILES[1], 20)
    elif name == "classes":
        jpegs(folder / data.CIFAR_FILES[0], 60, classes=9)
        jpegs(folder / data.CIFAR_FILES[1], 20)
    elif name == "code":
        put(folder, 10, "python", "bare")
        (folder / "data_batch_1").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    elif name == "few":
        put(folder, 10, "binary", "bare")
        data.cifar10(folder, validation=5)
    data.cifar10(folder, validation=20)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("python", "data_batch_3 of CIFAR-10 is cut short"),
        ("binary", r"data_batch_3.bin of CIFAR-10 is cut short: \d+ bytes are no records of 3073"),
        ("archive", r"cifar-10-python.tar.gz is cut short"),
        ("missing", "test_batch.bin cannot be read"),
        ("jpeg", "cifar10-test-jpeg.npz: no images there"),
        ("one image", r"cifar10-train-jpeg.npz: image \d+ cannot be read"),
        ("classes", r"the training file has 9 classes \(0 to 8\), 10 are wanted"),
        ("code", "os.system has no place in it"),
        ("few", "5 of 200 images cannot be set apart"),
        ("nothing", "holds no CIFAR-10: give a folder with cifar-10-python.tar.gz"),
    ],
)
def test_damaged_files_are_one_line(name, words, tmp_path):
    with pytest.raises(UsageError, match=words) as error:
        damaged(name, tmp_path)
    assert "\n" not in str(error.value)


def test_cifar_10_is_not_taken_for_cifar_100(tmp_path):
    put(tmp_path, 100, "python", "bare")
    for name, (pixels, labels) in parts_of(100).items():
        content = {b"data": pixels.reshape(len(labels), -1), b"fine_labels": (labels % 90).tolist()}
        (tmp_path / name).write_bytes(pickled(content))
    with pytest.raises(UsageError, match="has 90 classes"):
        data.cifar100(tmp_path)
    with pytest.raises(UsageError, match="holds no CIFAR-10:"):
        data.cifar10(tmp_path)


# folders


def test_folders_by_class(tmp_path):
    splits = data.image_folders(tree(tmp_path), size=8, validation=0.25)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (9, 3, 4)
    assert splits.classes == ("ant", "bee") and splits.test.labels.tolist() == [0, 0, 1, 1]
    images = splits.test.images[torch.tensor([3, 0])]
    assert images.shape == (2, 3, 8, 8) and images.dtype == torch.uint8
    assert images[0, :, 4, 4].tolist() == [100, 10, 0] and images[1, :, 4, 4].tolist() == [0, 0, 0]
    seen = {path.name for split in (splits.train, splits.validation) for path in split.images.paths}
    assert len(set(splits.train.images.paths) & set(splits.validation.images.paths)) == 0 and len(seen) == 6
    ((x, y),) = data.batches(splits.train, 9, 0, 0)
    assert x.dtype == torch.float32 and x.shape == (9, 3, 8, 8)
    assert torch.equal(y, (x[:, 0, 4, 4] > x[:, 0].min()).long())  # the second class alone is red


def broken_folder(name: str, folder: Path) -> None:
    if name == "classes":
        tree(folder, tests=("ant", "wasp"))
    elif name == "count":
        data.image_folders(tree(folder), classes=1000)
    elif name == "empty":
        (tree(folder) / "train" / "cat").mkdir()
    elif name == "image":
        cut(tree(folder) / "val" / "bee" / "1.png")
        splits = data.image_folders(folder, size=8)
        list(data.in_order(splits.test, 2))
    data.image_folders(folder)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("classes", "first that differs: bee"),
        ("count", "has 2 classes, 1000 are wanted"),
        ("empty", "cat holds no image"),
        ("image", r"val/bee/1\.png cannot be read"),
        ("nothing", "train is not there: give a folder with train/CLASS"),
    ],
)
def test_folders_that_cannot_be_are_one_line(name, words, tmp_path):
    with pytest.raises(UsageError, match=words) as error:
        broken_folder(name, tmp_path)
    assert "\n" not in str(error.value)


# text


def test_text_byte_by_byte(tmp_path):
    content = bytes(range(97, 123)) * 20
    (tmp_path / "letters").write_bytes(content)
    found = data.text(tmp_path / "letters", length=10)
    assert len(found.classes) == 256 and found.train.images.shape == (41, 10)
    assert bytes(found.train.images.flatten().tolist()) == content[:410]
    assert bytes(found.train.labels.flatten().tolist()) == content[1:411]
    first = int(len(content) * 0.8)
    assert bytes(found.validation.images[0].tolist()) == content[first : first + 10]
    assert bytes(found.test.labels[0].tolist()) == content[int(len(content) * 0.9) + 1 :][:10]


def test_text_word_by_word_knows_the_words_of_its_training_part(tmp_path):
    (tmp_path / "words").write_text("the cat the dog the cat a " * 40 + "zebra the " * 80)
    found = data.text(tmp_path / "words", level="word", length=4, vocabulary=3)
    assert found.classes == ("<unknown>", "the", "cat")
    assert found.train.images[0].tolist() == [1, 2, 1, 0] and set(found.test.images.flatten().tolist()) == {0, 1}


@pytest.mark.parametrize(
    ("content", "arguments", "words"),
    [
        (b"ab", {}, "is too short: a part of"),
        (b"", {}, "is too short"),
        (b"\xff\xfe" * 500, {"level": "word"}, "is no UTF-8 .* take level='byte'"),
        (b"a", {"level": "letter"}, "level 'letter' is unknown"),
        (b"a", {"length": 0}, "length = 0"),
        (b"a", {"test": 0.95}, "together below 1"),
        (None, {}, "cannot be read"),
    ],
)
def test_text_that_cannot_be_is_one_line(content, arguments, words, tmp_path):
    if content is not None:
        (tmp_path / "text").write_bytes(content)
    with pytest.raises(UsageError, match=words) as error:
        data.text(tmp_path / "text", **arguments)
    assert "\n" not in str(error.value)


# batches


def test_halves_have_all_images_once_and_each_class_alike():
    split = data.digits().train
    one, other = data.halves(split)
    assert abs(len(one) - len(other)) <= 1 and len(one) + len(other) == len(split)
    counts = [torch.bincount(half.labels) for half in (one, other)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    seen = {image.numpy().tobytes() for half in (one, other) for image in half.images}
    assert seen == {image.numpy().tobytes() for image in split.images}


def moved_by_hand(image: torch.Tensor, down: int, right: int, mirrored: bool) -> torch.Tensor:
    wide = torch.zeros(image.shape[0], 16, 16)
    wide[:, 4:12, 4:12] = image
    part = wide[:, down : down + 8, right : right + 8]
    return part.flip(2) if mirrored else part


def test_images_are_moved_and_mirrored_as_seeds_say():
    split = data.digits().train
    plain, moved, again = (data.batches(split, 16, 3, 1, moved=moved) for moved in (False, True, True))
    assert torch.equal(moved[2][0], again[2][0]) and torch.equal(moved[2][1], plain[2][1])
    assert not torch.equal(moved[2][0], plain[2][0])
    assert torch.equal(moved[:3][2][0], moved[2][0])  # whatever was fetched before
    generator = torch.Generator().manual_seed(1)
    images = plain[0][0]
    found = move(images, torch.Generator().manual_seed(1))
    down, right = torch.randint(0, 9, (2, 16), generator=generator)
    mirrored = torch.rand(16, generator=generator) < 0.5
    for image, result, *how in zip(images, found, down.tolist(), right.tolist(), mirrored.tolist(), strict=True):
        assert torch.equal(result, moved_by_hand(image, *how))
    assert 0 < mirrored.sum() < 16
    other = [moved_by_hand(image, d, r, not m) for image, d, r, m in zip(images, down, right, mirrored, strict=True)]
    assert not torch.equal(found, torch.stack(other))  # control
