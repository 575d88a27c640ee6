"""Named data sets: a light catalog, where sets are looked for, what embedded ones hold, opening."""

import subprocess
import sys

import numpy as np
import pytest
import sklearn.datasets

from layerwise.data import sklearn_datasets
from layerwise.data.download import datasets
from layerwise.data.load import Options, load_splits
from layerwise.errors import DataError, UsageError
from layerwise.recipe import check_table


def test_the_catalog_imports_nothing_heavy() -> None:
    code = (
        "import sys; from layerwise.data.download import datasets; datasets.catalog(); datasets.locate('cifar10');"
        "print([m for m in ('torch', 'numpy', 'sklearn', 'pyarrow', 'PIL') if m in sys.modules])"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"


def test_lookup_order(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LAYERWISE_DATA", str(tmp_path / "data"))
    assert datasets.locate("cifar10") is None
    with pytest.raises(DataError, match=r"(?s)'cifar10' is not on this machine.*data/cifar10; or .*set LAYERWISE_DATA"):
        load_splits(Options("cifar10"), seed=0)
    for place in datasets.get_search_folders()[::-1]:
        (place / "cifar10").mkdir(parents=True)
        assert datasets.locate("cifar10") == place / "cifar10"
    assert datasets.locate("iris") is None
    assert datasets.is_available("iris")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"(?s)no data set 'fashion-mnst'.*did you mean 'fashion-mnist'"):
        load_splits(Options("fashion-mnst"), seed=0)
    with pytest.raises(UsageError, match=r"no file or folder './nothing.csv'"):
        load_splits(Options("./nothing.csv"), seed=0)


def test_embedded_sets_are_sklearns() -> None:
    assert {item.name for item in datasets.catalog() if item.embedded} == set(sklearn_datasets.NAMES)
    digits, theirs = sklearn_datasets.load("digits"), sklearn.datasets.load_digits()
    assert digits.schema.shape == (8, 8, 1)
    assert digits.inputs.dtype == np.uint8
    np.testing.assert_allclose(digits.inputs[..., 0] * (16 / 255), theirs.images, atol=0.5 * 16 / 255 + 1e-9)
    np.testing.assert_array_equal(digits.targets, theirs.target)
    for name, load in (
        ("iris", sklearn.datasets.load_iris),
        ("wine", sklearn.datasets.load_wine),
        ("breast-cancer", sklearn.datasets.load_breast_cancer),
    ):
        ours, theirs = sklearn_datasets.load(name), load()
        np.testing.assert_array_equal(ours.inputs, theirs.data)
        np.testing.assert_array_equal(ours.targets, theirs.target)
        assert ours.schema.classes == tuple(theirs.target_names)
        assert ours.schema.features == tuple(theirs.feature_names)
    diabetes = sklearn_datasets.load("diabetes")
    assert diabetes.schema.target == "number"
    assert diabetes.inputs[:, 0].min() == 19  # years of age, not standardized


@pytest.mark.parametrize("item", [i for i in datasets.catalog() if i.embedded], ids=lambda i: i.name)
def test_counts_and_splits(item: datasets.DatasetInfo) -> None:
    splits = load_splits(Options(item.name), seed=0)
    assert len(splits.train) + len(splits.val) + len(splits.test) == item.examples
    assert splits.name == item.name


def test_one_class_against_the_rest() -> None:
    splits = load_splits(Options("iris", positive="setosa"), seed=0)
    assert splits.train.schema.classes == ("not setosa", "setosa")
    total = sum(int(np.sum(splits.part(p).targets)) for p in ("train", "val", "test"))
    assert total == 50
    with pytest.raises(UsageError, match=r"(?s)no class 'setos' in data.positive.*did you mean 'setosa'"):
        load_splits(Options("iris", positive="setos"), seed=0)
    with pytest.raises(UsageError, match=r"data.positive needs classes"):
        load_splits(Options("diabetes", positive="1"), seed=0)


def test_options_without_meaning_are_refused() -> None:
    for options in (
        Options("iris", target="x"),
        Options("digits", on_error="skip"),
        Options("wine", header="no"),
    ):
        with pytest.raises(UsageError, match="has no meaning for the data set"):
            load_splits(options, seed=0)


def test_options_from_a_recipe() -> None:
    assert check_table(Options, {"source": "iris", "drop": ["a"]}, where="[data]").drop == ("a",)
    with pytest.raises(UsageError, match="did you mean 'target'"):
        check_table(Options, {"source": "iris", "targe": "x"}, where="[data]")
    with pytest.raises(UsageError, match="wrong value"):
        check_table(Options, {"source": "iris", "on_error": "explode"}, where="[data]")


def test_paths_that_are_no_data(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20)))
    assert len(load_splits(Options("~/t.csv"), seed=0).train) == 12  # of 10 a class, 2 + 2 go
    with pytest.raises(UsageError, match=r"did you mean '.*t.csv'"):
        load_splits(Options("~/tt.csv"), seed=0)
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(DataError, match="JSON cannot be read yet"):
        load_splits(Options("~/a.json"), seed=0)
    (tmp_path / "a.ppm").write_bytes(b"P6 1 1 255\n\0\0\0")
    with pytest.raises(DataError, match="is a single image"):
        load_splits(Options("~/a.ppm"), seed=0)
    for source in ("", "a\0b", "x" * 5000 + "/y"):
        with pytest.raises((UsageError, DataError)):
            load_splits(Options(source), seed=0)
