"""Where the files of named data sets come from, and how each is known to be whole: sizes and SHA-256.

A file may be whole in several forms: as its origin gives it, and packed or cut otherwise by those who hand
it on. The digests of the origins' forms are published by many who use them; those of the others are of files
that hold the same examples.
"""

from __future__ import annotations

import msgspec

GITHUB = "https://raw.githubusercontent.com/"
GENSIM = GITHUB + "piskvorky/gensim/develop/gensim/test/test_data/"
FASHION = GITHUB + "zalandoresearch/fashion-mnist/master/data/fashion/"
UCI = "https://archive.ics.uci.edu/ml/machine-learning-databases/"


class Form(msgspec.Struct, frozen=True):
    """A whole file: ``size`` in bytes, ``sha256`` in hexadecimal.

    ``lead`` is a first line that is no example and is cut off once the file is known to be whole.
    """

    size: int
    sha256: str
    lead: str = ""


class File(msgspec.Struct, frozen=True):
    """A file of a data set: its ``name`` in the set's folder, its address (empty if none is known), its forms."""

    name: str
    url: str
    forms: tuple[Form, ...]


def _fashion(name: str, *forms: Form) -> File:
    return File(name, FASHION + name, forms)


def _multi30k(name: str, form: Form) -> File:
    return File(name, GITHUB + "multi30k/dataset/master/data/task1/raw/" + name, (form,))


FILES: dict[str, tuple[File, ...]] = {
    "fashion-mnist": (  # second forms: packed without the file's name in gzip's header
        _fashion(
            "train-labels-idx1-ubyte.gz",
            Form(29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"),
            Form(29491, "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056"),
        ),
        _fashion(
            "t10k-labels-idx1-ubyte.gz",
            Form(5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            Form(5125, "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05"),
        ),
        _fashion(
            "t10k-images-idx3-ubyte.gz",
            Form(4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"),
            Form(4422079, "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa"),
        ),
        _fashion(
            "train-images-idx3-ubyte.gz",
            Form(26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"),
            Form(26421856, "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7"),
        ),
    ),
    "cifar10": (
        File(
            "cifar10-images.tar.gz",
            "",
            (Form(19639660, "34c80bc59fa5b3815b171fa7097c7f78073d19c1879feeab7121c0611dc2cd00"),),
        ),
    ),
    "adult": (
        File(
            "adult-train.csv",
            UCI + "adult/adult.data",
            (Form(3974305, "5b00264637dbfec36bdeaab5676b0b309ff9eb788d63554ca0a249491c86603d"),),
        ),
        File(
            "adult-test.csv",
            UCI + "adult/adult.test",
            (
                Form(
                    2003153,
                    "a2a9044bc167a35b2361efbabec64e89d69ce82d9790d2980119aac5fd7e9c05",
                    "|1x3 Cross validator\n",
                ),
                Form(2003132, "72567b94f5c1a6f8501377dd80f93892c3848ff071cf91ba47e00b0785a28074"),
            ),
        ),
    ),
    "wine-quality": (  # second forms: commas, and without the line of names
        File(
            "winequality-red.csv",
            UCI + "wine-quality/winequality-red.csv",
            (
                Form(84199, "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e"),
                Form(84028, "c9614512e980f1cbd221c796daa97f00c4898c3cd1716863abac60f6cd1a522e"),
            ),
        ),
        File(
            "winequality-white.csv",
            UCI + "wine-quality/winequality-white.csv",
            (
                Form(264426, "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836"),
                Form(264255, "659d419fff887f225bf977d20520bb64a64cae203e460087f809721d4430ba27"),
            ),
        ),
    ),
    "word-eval": (
        File(
            "questions-words.txt",
            GENSIM + "questions-words.txt",
            (Form(603955, "8c29b3332afc46f3fb8be04cb5297bf96f39aa7131272dff57869b4485b22a36"),),
        ),
        File(
            "simlex999.txt",
            GENSIM + "simlex999.txt",
            (Form(18126, "d5e0501971478a511430ee880bd0121e94ac701ba86d90544d83e6d2ba3db05d"),),
        ),
        File(
            "wordsim353.tsv",
            GENSIM + "wordsim353.tsv",
            (Form(7186, "f92a022fc2537793a15bc3a8c162ebcd74990e033a228bb6388cb71e4c0b1e1d"),),
        ),
    ),
    "kjv": (File("kjv.txt", "", (Form(4137850, "b5c4940bcfeee072c0935b5200d0f9d88a00a0199cb0961d16133458fcdfae5d"),)),),
    "tiny-shakespeare": (
        File(
            "input.txt",
            GITHUB + "karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            (Form(1115394, "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),),
        ),
    ),
    "ptb": (
        File("ptb.valid.txt", "", (Form(399782, "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2"),)),
        File("ptb.test.txt", "", (Form(449945, "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0"),)),
    ),
    "multi30k": (
        _multi30k("train.en.gz", Form(568929, "d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f")),
        _multi30k("train.de.gz", Form(637044, "726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6")),
        _multi30k("train.fr.gz", Form(604242, "622e75069e9f4c577425c4f277116ce66e63a2401c0a2312d90073cb12379a3c")),
        _multi30k("val.en.gz", Form(21650, "14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28")),
        _multi30k("val.de.gz", Form(24681, "f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a")),
        _multi30k("val.fr.gz", Form(23001, "ca3106f1a72390591d25f6c45cb4cd39dec4cd3f123e099748a3ce5256c160e9")),
        _multi30k(
            "test_2016_flickr.en.gz", Form(21077, "611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9")
        ),
        _multi30k(
            "test_2016_flickr.de.gz", Form(22890, "9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8")
        ),
        _multi30k(
            "test_2016_flickr.fr.gz", Form(22310, "6d326e188d259fb1d04ac19eae3af956559b3a0b93d7635e56c90987c40c8b90")
        ),
    ),
}


def files_of(name: str) -> tuple[File, ...]:
    """Return the files of a named data set; none if it is embedded."""
    return FILES.get(name, ())
