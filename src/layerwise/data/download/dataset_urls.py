"""The addresses of the files of named data sets, and their sizes and SHA-256 digests.

A file may have several valid versions: the original, and ones that mirrors compressed or cut differently. The digests
of the originals are widely published; the other digests are of files with the same examples.
"""

from __future__ import annotations

import msgspec

GITHUB = "https://raw.githubusercontent.com/"
GENSIM = GITHUB + "piskvorky/gensim/develop/gensim/test/test_data/"
FASHION = GITHUB + "zalandoresearch/fashion-mnist/master/data/fashion/"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"


class FileVersion(msgspec.Struct, frozen=True):
    """A valid version of a file: ``size`` in bytes, ``sha256`` in hexadecimal.

    ``header`` is a first line that is no example and is removed once the file is verified.
    """

    size: int
    sha256: str
    header: str = ""


class DatasetFile(msgspec.Struct, frozen=True):
    """A file of a data set: its ``name`` in the set's folder, its address (empty if none is known), its versions."""

    name: str
    url: str
    versions: tuple[FileVersion, ...]


def _make_fashion_file(name: str, *versions: FileVersion) -> DatasetFile:
    return DatasetFile(name, FASHION + name, versions)


def _make_multi30k_file(name: str, version: FileVersion) -> DatasetFile:
    return DatasetFile(name, GITHUB + "multi30k/dataset/master/data/task1/raw/" + name, (version,))


FILES: dict[str, tuple[DatasetFile, ...]] = {
    "fashion-mnist": (  # second forms: packed without the file's name in gzip's header
        _make_fashion_file(
            "train-labels-idx1-ubyte.gz",
            FileVersion(29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            FileVersion(29491, "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        ),
        _make_fashion_file(
            "t10k-labels-idx1-ubyte.gz",
            FileVersion(5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            FileVersion(5125, "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
        ),
        _make_fashion_file(
            "t10k-images-idx3-ubyte.gz",
            FileVersion(4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            FileVersion(4422079, "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        ),
        _make_fashion_file(
            "train-images-idx3-ubyte.gz",
            FileVersion(26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            FileVersion(26421856, "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        ),
    ),
    "cifar10": (
        DatasetFile(
            "cifar10-images.tar.gz",
            "",
            (FileVersion(19639660, "34c80bc59fa5b3815b171fa7097c7f78073d19c1879feeab7121c0611dc2cd00"),),
        ),
    ),
    "adult": (
        DatasetFile(
            "adult-train.csv",
            UCI + "adult/adult.data",
            (FileVersion(3974305, "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),),
        ),
        DatasetFile(
            "adult-test.csv",
            UCI + "adult/adult.test",
            (
                FileVersion(
                    2003153,
                    "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
                    "|1x3 Cross validator\n",
                ),
                FileVersion(2003132, "72567b94f5c1a6f8501377dd80f93892c3848ff071cf91ba47e00b0785a28074"),
            ),
        ),
    ),
    "wine-quality": (  # second forms: commas, and without the line of names
        DatasetFile(
            "winequality-red.csv",
            UCI + "wine-quality/winequality-red.csv",
            (
                FileVersion(84199, "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e"),
                FileVersion(84028, "c9614512e980f1cbd221c796daa97f00c4898c3cd1716863abac60f6cd1a522e"),
            ),
        ),
        DatasetFile(
            "winequality-white.csv",
            UCI + "wine-quality/winequality-white.csv",
            (
                FileVersion(264426, "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836"),
                FileVersion(264255, "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27"),
            ),
        ),
    ),
    "word-eval": (
        DatasetFile(
            "questions-words.txt",
            GENSIM + "questions-words.txt",
            (FileVersion(603955, "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"),),
        ),
        DatasetFile(
            "simlex999.txt",
            GENSIM + "simlex999.txt",
            (FileVersion(18126, "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d"),),
        ),
        DatasetFile(
            "wordsim353.tsv",
            GENSIM + "wordsim353.tsv",
            (FileVersion(7186, "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"),),
        ),
    ),
    "kjv": (
        DatasetFile(
            "kjv.txt", "", (FileVersion(4137850, "b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d"),)
        ),
    ),
    "tiny-shakespeare": (
        DatasetFile(
            "input.txt",
            GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            (FileVersion(1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
        ),
    ),
    "ptb": (
        DatasetFile(
            "ptb.valid.txt",
            "",
            (FileVersion(399782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),),
        ),
        DatasetFile(
            "ptb.test.txt",
            "",
            (FileVersion(449945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),),
        ),
    ),
    "multi30k": (
        _make_multi30k_file(
            "train.en.gz", FileVersion(568929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f")
        ),
        _make_multi30k_file(
            "train.de.gz", FileVersion(637044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6")
        ),
        _make_multi30k_file(
            "train.fr.gz", FileVersion(604242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c")
        ),
        _make_multi30k_file(
            "val.en.gz", FileVersion(21650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28")
        ),
        _make_multi30k_file(
            "val.de.gz", FileVersion(24681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a")
        ),
        _make_multi30k_file(
            "val.fr.gz", FileVersion(23001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9")
        ),
        _make_multi30k_file(
            "test_2016_flickr.en.gz",
            FileVersion(21077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9"),
        ),
        _make_multi30k_file(
            "test_2016_flickr.de.gz",
            FileVersion(22890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8"),
        ),
        _make_multi30k_file(
            "test_2016_flickr.fr.gz",
            FileVersion(22310, "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90"),
        ),
    ),
}


def get_files(name: str) -> tuple[DatasetFile, ...]:
    """Return the files of a named data set; none if it is embedded."""
    return FILES.get(name, ())
