"""Words: vocabularies, questions, answers, and how likely held-out windows are, beside naive loops in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from layerwise.data.batch import Batch
from layerwise.data.load import Options, load_splits
from layerwise.errors import DataError, UsageError
from layerwise.functional import word2vec_likelihood
from layerwise.inference.predict import Predictor
from layerwise.kernels.text import END, GAP
from layerwise.nn.word_vectors import ContinuousBagOfWords, SkipGram
from layerwise.tasks.cooccurrence import CooccurrenceMeter
from layerwise.tasks.vocabulary import Question, WordInputs, parse_question
from layerwise.tasks.words import BLOCKS_AT_ONCE, Words, WordsOptions

WORDS = ("the", "king", "queen", "man", "woman", "crown", "stone")


def make_task(**options: object) -> Words:
    """Return a task of seven words."""
    return Words(WordInputs(WORDS, (50, 20, 10, 9, 8, 7, 5)), WordsOptions(**options))  # type: ignore[arg-type]


def make_network(
    kind: type[SkipGram] | type[ContinuousBagOfWords] = SkipGram, *, outputs: int = 7
) -> SkipGram | ContinuousBagOfWords:
    """Return a net of order-one tables."""
    torch.manual_seed(0)
    model = kind(7, outputs, 4)
    torch.nn.init.normal_(model.vectors.weight)
    torch.nn.init.normal_(model.context.weight)
    return model


def split_sentences(block: list[int]) -> list[list[int]]:
    """Cut a block at its ends, without gaps."""
    out: list[list[int]] = [[]]
    for token in block:
        if token == END:
            out.append([])
        elif token >= 0:
            out[-1].append(token)
    return out


def log_sigmoid(z: float) -> float:
    return -math.log1p(math.exp(-z))


def compute_naive_loss(block: list[int], model: SkipGram | ContinuousBagOfWords, made: Words) -> tuple[float, float]:
    """Return a block's expected log-likelihood and what it covers: every window size by itself, every negative by
    itself."""
    v, u = (t.weight.detach().double().numpy() for t in (model.vectors, model.context))
    noise, k, w = made.choose_negatives(), made.options.negative, made.options.window
    total = covered = 0.0

    def gain(x: np.ndarray, word: int) -> float:
        return log_sigmoid(float(u[word] @ x)) + k * float(np.mean([log_sigmoid(-float(u[n] @ x)) for n in noise]))

    for words in split_sentences(block):
        for i, word in enumerate(words):
            for size in range(1, w + 1):
                near = [words[j] for j in range(max(0, i - size), min(len(words), i + size + 1)) if j != i]
                if not near:
                    continue
                shown = [np.mean([v[n] for n in near], axis=0)] if model.pooled else [v[n] for n in near]
                total += sum(gain(x, word) for x in shown) / w
                covered += len(shown) / w
    return total, covered


@settings(max_examples=12, deadline=None)
@given(st.lists(st.sampled_from([END, GAP, *range(7)]), min_size=1, max_size=14), st.booleans())
def test_held_out_loss_is_the_expectation_over_all_windows(block: list[int], pooled: bool) -> None:
    model, made = make_network(ContinuousBagOfWords if pooled else SkipGram), make_task(window=3, negative=2)
    batch = Batch(torch.tensor([block, block[::-1]], dtype=torch.int32), None, torch.arange(2))
    with torch.no_grad():
        found = made.outputs(model, batch)
    for row, part in zip(found.tolist(), (block, block[::-1]), strict=True):
        total, covered = compute_naive_loss(part, model, made)
        assert row == pytest.approx([-total, covered], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("loss", ["negative", "hierarchical"])
@pytest.mark.parametrize("pooled", [False, True])
def test_many_blocks_are_measured_as_each_alone(pooled: bool, loss: Literal["negative", "hierarchical"]) -> None:
    """More than are measured at once, of more words than are scored at once."""
    model, made = (
        make_network(ContinuousBagOfWords if pooled else SkipGram, outputs=7 - (loss == "hierarchical")),
        make_task(window=3, loss=loss),
    )
    blocks = torch.from_numpy(
        np.random.default_rng(0).integers(min(GAP, END), 7, (BLOCKS_AT_ONCE + 6, 100), dtype=np.int32)
    )
    assert BLOCKS_AT_ONCE * blocks.shape[1] > word2vec_likelihood.PAIRS
    with torch.no_grad():
        whole = made.outputs(model, Batch(blocks, None, torch.arange(len(blocks))))
        for at in (0, BLOCKS_AT_ONCE // 2, BLOCKS_AT_ONCE - 1, BLOCKS_AT_ONCE, len(blocks) - 1):
            (alone,) = made.outputs(model, Batch(blocks[at : at + 1], None, torch.arange(1)))
            torch.testing.assert_close(whole[at], alone, rtol=1e-6, atol=1e-6)


def test_a_tree_gives_every_word_its_share() -> None:
    """Under hierarchical softmax the words' probabilities add up to one, for any vector."""
    made, model = make_task(loss="hierarchical"), make_network(outputs=6)
    score = made._make_score(model)
    with torch.no_grad():
        for x in torch.randn(3, 4):
            each = score.pair(x.expand(7, 4), torch.arange(7)) + score.alone(x.expand(7, 4))
            assert float(each.double().exp().sum()) == pytest.approx(1, abs=1e-5)


def test_sentences_end_at_blocks_and_ends() -> None:
    found = word2vec_likelihood.split_sentences(torch.tensor([[0, 1, END, 2], [3, GAP, 4, END]]), end=END)
    assert found.ids.tolist() == [0, 1, 2, 3, 4]
    same = found.sentence
    assert same[0] == same[1] != same[2] != same[3] == same[4]
    assert found.block.tolist() == [0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("king", Question("neighbors", (("king", 1.0),))),
        ("king - man + woman", Question("analogy", (("king", 1.0), ("man", -1.0), ("woman", 1.0)))),
        ("- man + king", Question("analogy", (("man", -1.0), ("king", 1.0)))),
        ("king ~ queen", Question("similarity", (("king", 1.0),), ("queen",))),
        ("king queen man", Question("mean", (("king", 1.0), ("queen", 1.0), ("man", 1.0)))),
        (
            "king, queen，stone",
            Question("odd one out", (("king", 1.0), ("queen", 1.0), ("stone", 1.0)), ("king", "queen", "stone")),
        ),
    ],
)
def test_questions(text: str, wanted: Question) -> None:
    assert parse_question(text) == wanted


@pytest.mark.parametrize("text", ["", "king -", "+ king", "king - - man", "king man + woman", "a ~", "a ~ b c", "a, b"])
def test_no_questions(text: str) -> None:
    with pytest.raises(UsageError):
        parse_question(text)


def test_answers_are_those_of_cosines_by_hand() -> None:
    model, made = make_network(), make_task()
    table = model.vectors.weight.detach().double().numpy()
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    ask = Predictor(made.prediction_model(model), made)
    analogy, similar, odd, mean, first = ask(
        "king - man + woman", "king ~ queen", "king, man, stone", "king queen man", "king"
    )
    wanted = unit[1] - unit[3] + unit[4]
    order = [n for n in np.argsort(-(unit @ wanted)) if n not in (1, 3, 4)]
    assert list(analogy.nearest) == [WORDS[n] for n in order]  # type: ignore[attr-defined]
    assert analogy.similarity == pytest.approx(unit[order[0]] @ wanted / np.linalg.norm(wanted), abs=1e-5)  # type: ignore[attr-defined]
    assert (similar.word, similar.similarity) == ("queen", pytest.approx(unit[1] @ unit[2], abs=1e-5))  # type: ignore[attr-defined]
    center = unit[[1, 3, 6]].sum(0)
    assert odd.word == WORDS[min((1, 3, 6), key=lambda n: unit[n] @ center)]  # type: ignore[attr-defined]
    np.testing.assert_allclose(mean.vector, unit[[1, 2, 3]].sum(0), atol=1e-5)  # type: ignore[attr-defined]
    assert "king" not in first.nearest  # type: ignore[attr-defined]
    assert first.asked == "neighbors"  # type: ignore[attr-defined]


def test_a_word_outside_is_named_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"'quen' is not in the vocabulary(.|\n)*did you mean 'queen'") as caught:
        make_task().encode("quen")
    assert "one of 7 words" in str(caught.value)
    assert make_task().encode("KING")[1].tolist() == [1, 1]


def test_vocabulary_is_by_falling_count_and_travels(tmp_path: Path) -> None:
    """Counted on the training part alone, ties in the order of the text."""
    path = tmp_path / "t.txt"
    path.write_text("b a a c\n" * 1500 + "rare\n", encoding="utf-8")
    splits = load_splits(Options(source=str(path)), seed=0)
    made = Words.prepare(splits.train, WordsOptions(min_count=2))
    assert made.inputs.words == ("a", "b", "c")
    blocks = [splits.train[i].input for i in range(len(splits.train))]
    assert sum(made.inputs.counts) == sum(int((b >= 0).sum()) for b in blocks) - sum(
        int((b == 3).sum()) for b in blocks
    )
    again = Words.from_json(msgspec.json.decode(msgspec.json.encode(made.to_json())))
    assert again.inputs == made.inputs
    assert again.options == made.options
    assert set(np.unique(made.convert_source(splits.train)[0].input).tolist()) <= {END, GAP, 0, 1, 2}
    with pytest.raises(DataError, match="too few words for vectors"):
        Words.prepare(splits.train, WordsOptions(min_count=10**6))


def test_other_data_are_refused() -> None:
    digits = load_splits(Options(source="digits"), seed=0)
    with pytest.raises(DataError, match="is no text"):
        make_task().convert_source(digits.train)


def test_fit_of_counts_leaves_one_constant_free() -> None:
    """Weighted least squares and Pearson's correlation by NumPy; the meter of two halves is that of the whole."""
    draw = np.random.default_rng(0)
    z, y, f = draw.normal(size=60), draw.normal(size=60), draw.uniform(0.1, 1, size=60)
    y[:30] += z[:30]
    f[-5:] = 0  # no pairs
    outputs = torch.from_numpy(np.stack([z, y, f], -1)).view(4, 15, 3)
    batch = Batch(torch.zeros(4, 15, 3), None, torch.arange(4))
    whole, half = CooccurrenceMeter(), CooccurrenceMeter()
    whole.update(outputs, batch)
    half.update(outputs[:1], batch.span(slice(0, 1)))
    rest = CooccurrenceMeter()
    rest.update(outputs[1:], batch.span(slice(1, 4)))
    half.merge_state(rest.state())
    c = np.average(z - y, weights=f)
    covariance = np.cov(z, y, aweights=f)
    wanted = {
        "loss": (f * (z - y - c) ** 2).sum() / 55,
        "correlation": covariance[0, 1] / math.sqrt(covariance[0, 0] * covariance[1, 1]),
    }
    assert whole.result() == pytest.approx(wanted, rel=1e-10)
    assert half.result() == pytest.approx(wanted, rel=1e-10)
    assert CooccurrenceMeter().result() == {"loss": 0.0, "correlation": 0.0}
