"""Class folders: layout by name (F10), every file checked first (F01), the same digest wherever they lie."""

import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from layerwise.data.images import folders
from layerwise.data.load import Options, load_splits
from layerwise.data.source import get_targets
from layerwise.errors import DataError


def write_images(root, *names: str, size=(4, 3), mode: str = "RGB") -> None:
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shade = (number * 37 + len(name) * 11 + sum(name.encode())) % 256
        Image.new(mode, size, shade if mode == "L" else (shade, number % 256, 7)).save(path)


def test_classes_are_sorted_and_files_recursive(tmp_path) -> None:
    write_images(tmp_path, "dog/b.png", "dog/deep/er/a.png", "cat/1.png")
    (tmp_path / "cat/.DS_Store").write_bytes(b"x")
    (tmp_path / "cat/Thumbs.db").write_bytes(b"x")
    (tmp_path / "README.md").write_text("about")
    parts, notes = folders.open_folder(tmp_path)
    source = parts["train"]
    assert source.schema.classes == ("cat", "dog")
    assert source.names == ("cat/1.png", "dog/b.png", "dog/deep/er/a.png")
    np.testing.assert_array_equal(get_targets(source), [0, 1, 1])
    assert source.schema.shape == (3, 4, 3)
    assert source[0].input.shape == (3, 4, 3)
    assert source[2].target == 1
    assert source.name_of(1).endswith("/dog/b.png")
    assert any("1 files outside class folders" in note for note in notes)


def test_sizes_and_channels_of_the_schema(tmp_path) -> None:
    write_images(tmp_path / "gray", "a/1.png", "b/1.png", mode="L")
    assert folders.open_folder(tmp_path / "gray")[0]["train"].schema.shape == (3, 4, 1)
    write_images(tmp_path / "gray", "b/2.png", size=(5, 5))
    assert folders.open_folder(tmp_path / "gray")[0]["train"].schema.shape == (0, 0, 3)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "VAL"])
def test_parts_share_classes_by_name(tmp_path, val: str) -> None:
    write_images(
        tmp_path,
        "train/a/1.png",
        "train/b/1.png",
        "train/c/1.png",
        f"{val}/c/2.png",
        "test/b/3.png",
        "test/c/3.png",
    )
    parts, notes = folders.open_folder(tmp_path)
    assert set(parts) == {"train", "val", "test"}
    assert all(part.schema.classes == ("a", "b", "c") for part in parts.values())
    np.testing.assert_array_equal(parts["val"].targets, [2])
    np.testing.assert_array_equal(parts["test"].targets, [1, 2])
    assert any("the val part has no examples of a, b" in note for note in notes)


def test_a_class_without_training_examples_is_refused(tmp_path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/1.png", "test/z/1.png")
    with pytest.raises(DataError, match="test part has classes without a training example: z"):
        folders.open_folder(tmp_path)


def test_wrapping_folder_is_looked_through(tmp_path) -> None:
    write_images(tmp_path, "pets/cats/1.png", "pets/dogs/1.png")
    assert folders.open_folder(tmp_path)[0]["train"].schema.classes == ("cats", "dogs")
    write_images(tmp_path / "x", "all/train/a/1.png", "all/train/b/1.png", "all/test/a/2.png")
    assert set(folders.open_folder(tmp_path / "x")[0]) == {"train", "test"}


def test_a_class_called_train_is_a_class(tmp_path) -> None:
    write_images(tmp_path, "train/1.png", "car/1.png", "bus/1.png")
    assert folders.open_folder(tmp_path)[0]["train"].schema.classes == ("bus", "car", "train")


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["train/a/1.png", "test/a/1.png", "extra/a/1.png"], "has folders beside"),
        (["val/a/1.png", "test/a/1.png"], "has no training part"),
        (["train/a/1.png", "val/a/1.png", "valid/a/1.png"], "several folders for the val part"),
        (["1.png", "2.png"], "no images in class folders"),
    ],
)
def test_layouts_that_are_refused(tmp_path, names: list[str], text: str) -> None:
    write_images(tmp_path, *names)
    with pytest.raises(DataError, match=text):
        folders.open_folder(tmp_path)


def test_empty_folder(tmp_path) -> None:
    with pytest.raises(DataError, match="no images in class folders"):
        folders.open_folder(tmp_path)


def test_bad_files_stop_by_name_or_are_counted(tmp_path) -> None:
    write_images(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(5)))
    data = (tmp_path / "a/0.png").read_bytes()
    (tmp_path / "a/cut.png").write_bytes(data[:40])
    (tmp_path / "b/empty.png").write_bytes(b"")
    (tmp_path / "b/text.jpg").write_text("no image")
    with pytest.raises(DataError, match="3 of 13 files") as caught:
        folders.open_folder(tmp_path)
    for name in ("a/cut.png", "b/empty.png is empty", "b/text.jpg as an image", "on_error=skip"):
        assert name in str(caught.value)
    parts, notes = folders.open_folder(tmp_path, on_error="skip")
    assert len(parts["train"]) == 10
    assert notes[0] == "3 of 13 files could not be decoded and were skipped: a/cut.png, b/empty.png, b/text.jpg"
    splits = load_splits(Options(str(tmp_path), on_error="skip"), seed=0)
    assert splits.notes == notes


def test_many_bad_files_are_listed_up_to_ten(tmp_path) -> None:
    write_images(tmp_path, "a/1.png", "b/1.png")
    for i in range(14):
        (tmp_path / f"a/bad{i:02}.png").write_bytes(b"x")
    with pytest.raises(DataError, match="… and 4 more"):
        folders.open_folder(tmp_path)


def test_fingerprint_follows_contents_not_place(tmp_path) -> None:
    write_images(tmp_path / "one", "a/1.png", "b/1.png")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    first, second = (folders.open_folder(tmp_path / name)[0]["train"].fingerprint() for name in ("one", "two"))
    assert first == second
    write_images(tmp_path / "two", "b/1.png", mode="L")
    assert folders.open_folder(tmp_path / "two")[0]["train"].fingerprint() != first


def test_source_can_be_sent_to_workers(tmp_path) -> None:
    write_images(tmp_path, "a/1.png", "b/1.png")
    source = folders.open_folder(tmp_path)[0]["train"]
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[1].input, source[1].input)


def test_the_same_image_in_two_parts_is_noted(tmp_path) -> None:
    write_images(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    shutil.copy(tmp_path / "train/a/1.png", tmp_path / "test/a/again.png")
    assert "1 images of the test part are in the training part too" in folders.open_folder(tmp_path)[1]


def test_links_in_a_circle_and_empty_classes(tmp_path) -> None:
    write_images(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a/loop").symlink_to(tmp_path)
    (tmp_path / "c").mkdir()
    parts, notes = folders.open_folder(tmp_path)
    assert len(parts["train"]) == 2
    assert any("no images in c" in note for note in notes)


def test_large_images_are_checked_on_threads(tmp_path) -> None:
    write_images(tmp_path, *(f"{label}/{i}.png" for label in "ab" for i in range(20)), size=(200, 150))
    (tmp_path / "b/zz.png").write_bytes((tmp_path / "b/1.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"b/zz.png"):
        folders.open_folder(tmp_path)
