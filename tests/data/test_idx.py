"""IDX: round trips, lying headers, bombs, labels out of range (F02, F14)."""

import gzip
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from layerwise.data.images import idx
from layerwise.data.load import Options, load_splits
from layerwise.errors import DataError


def pack_array(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_pair(folder, part: str, pixels: np.ndarray, labels: np.ndarray, *, zipped: bool = False) -> None:
    for name, array in ((f"{part}-images-idx3-ubyte", pixels), (f"{part}-labels-idx1-ubyte", labels)):
        data = pack_array(array.astype(np.uint8))
        (folder / (name + ".gz" * zipped)).write_bytes(gzip.compress(data) if zipped else data)


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6)), st.booleans())
@settings(max_examples=40, deadline=None)
def test_round_trip(tmp_path_factory, pixels: np.ndarray, zipped: bool) -> None:
    folder = tmp_path_factory.mktemp("idx")
    labels = np.arange(len(pixels)) % 3
    write_pair(folder, "train", pixels, labels, zipped=zipped)
    source = idx.read_idx_folder(folder)["train"]
    np.testing.assert_array_equal(source.inputs[..., 0], pixels)
    np.testing.assert_array_equal(source.targets, labels)
    assert source.schema.shape == (*pixels.shape[1:], 1)
    assert source.schema.classes == tuple(str(i) for i in range(labels.max() + 1))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 12)):
        write_pair(tmp_path, part, rng.integers(0, 256, (count, 5, 4)), np.arange(count) % 4, zipped=part == "t10k")
    return tmp_path


def test_t10k_is_the_test_part_and_val_is_drawn(folder) -> None:
    splits = load_splits(Options(str(folder)), seed=0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (36, 4, 12)
    assert splits.train.schema.classes == ("0", "1", "2", "3")
    assert splits.train[0].input.shape == (5, 4, 1)


def test_names_of_classes_and_labels_without_one(folder) -> None:
    assert idx.read_idx_folder(folder, ("a", "b", "c", "d"))["test"].schema.classes == ("a", "b", "c", "d")
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte has labels out of range \(10 of them, first at position 3"
    ):
        idx.read_idx_folder(folder, ("a", "b", "c"))


def test_a_test_label_that_training_lacks(folder) -> None:
    write_pair(folder, "t10k", np.zeros((2, 5, 4)), np.array([0, 7]), zipped=True)
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz has labels out of range"):
        idx.read_idx_folder(folder)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_lying_header_is_refused_before_allocation(tmp_path, zipped: bool) -> None:
    data = bytes([0, 0, 8, 3]) + struct.pack(">III", 2**31, 60000, 60000) + bytes(50)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(gzip.compress(data) if zipped else data)
    with pytest.raises(DataError, match="claims more than the file can hold"):
        idx.read_array(path, 3)


def test_a_gzip_bomb_is_read_no_further_than_its_header_says(tmp_path) -> None:
    path = tmp_path / "train-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(bytes([0, 0, 8, 1]) + struct.pack(">I", 10) + bytes(60 << 20), 1))
    with pytest.raises(DataError, match="longer than its header says"):
        idx.read_array(path, 1)


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-images-idx3-ubyte.gz"])
def test_truncation_anywhere(folder, name: str) -> None:
    path = folder / name
    data = path.read_bytes()
    for cut in range(0, len(data), max(1, len(data) // 17)):
        path.write_bytes(data[:cut])
        with pytest.raises(DataError, match=name):
            idx.read_idx_folder(folder)


def test_flipped_bytes_in_gzip_are_noticed(folder) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x10
    path.write_bytes(data)
    with pytest.raises(DataError, match="t10k-images"):
        idx.read_idx_folder(folder)


def test_pairs_must_fit(folder) -> None:
    write_pair(folder, "train", np.zeros((3, 5, 4)), np.zeros(4))
    with pytest.raises(DataError, match="3 images and 4 labels"):
        idx.read_idx_folder(folder)
    write_pair(folder, "train", np.zeros((4, 9, 9)), np.arange(4))
    with pytest.raises(DataError, match="images of another size"):
        idx.read_idx_folder(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no labels beside it"):
        idx.read_idx_folder(folder)


def test_parts_must_be_known_and_single(folder) -> None:
    write_pair(folder, "train", np.zeros((3, 5, 4)), np.arange(3), zipped=True)
    with pytest.raises(DataError, match="several IDX files for the same part"):
        idx.read_idx_folder(folder)


def test_no_training_pair(tmp_path) -> None:
    write_pair(tmp_path, "t10k", np.zeros((3, 5, 4)), np.arange(3))
    with pytest.raises(DataError, match="has no training pair"):
        idx.read_idx_folder(tmp_path)


@pytest.mark.skipif(not os.environ.get("LAYERWISE_DATA"), reason="needs the real data")
def test_fashion_mnist_by_name() -> None:
    splits = load_splits(Options("fashion-mnist"), seed=0)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (
        54_000,
        6_000,
        10_000,
    )  # a tenth, as a test part is given
    assert splits.train.schema.classes[9] == "Ankle boot"
    assert np.bincount(splits.test.targets).tolist() == [1000] * 10
