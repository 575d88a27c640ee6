"""The rule hogwild: the same bits on one thread whatever the batch's place, sums over ranks, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise import api
from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.nn.word_vectors import ContinuousBagOfWords, GlobalVectors, SkipGram
from layerwise.rules import registry as rules
from layerwise.rules.base import Context
from layerwise.runtime.distributed import World
from layerwise.tasks.cooccurrence import CoOccurrence, CoOccurrenceOptions
from layerwise.tasks.vocabulary import WordInputs
from layerwise.tasks.words import Words, WordsOptions

COUNTS = tuple(range(60, 30, -1))
INPUTS = WordInputs(tuple(f"w{n}" for n in range(30)), COUNTS)


def context(kind: type, task: object, **more: object) -> Context:
    """Return a context over fresh tables of 30 words."""
    torch.manual_seed(0)
    model = kind(30, 8) if kind is GlobalVectors else kind(30, 30, 8)
    names = dict(model.named_parameters())
    return replace(Context(model, task, names, World(), 1, "fp32", 4, 8), **more)  # type: ignore[arg-type]


def words(**options: object) -> Words:
    return Words(INPUTS, WordsOptions(sample=0.0, **options))  # type: ignore[arg-type]


def blocks(ids: list[int]) -> Batch:
    """Return the blocks of these numbers: their tokens depend on nothing else."""
    rows = [np.random.default_rng(n).integers(-1, 30, size=40) for n in ids]
    return Batch(torch.from_numpy(np.stack(rows)).int(), None, torch.tensor(ids))


def trained(at: Context, table: dict[str, object], batches: list[Batch]) -> dict[str, torch.Tensor]:
    """Learn from batches on one thread and return the tables."""
    rule = rules.build_rule(rules.resolve_rule({"name": "hogwild", **table}, "test"), at)
    rule.loop.threads, rule.loop.pool = 1, None  # type: ignore[attr-defined]
    for batch in batches:
        rule.step(batch, 0.0)
    return {name: p.detach().clone() for name, p in at.model.named_parameters()}


@pytest.mark.parametrize("kind", [SkipGram, ContinuousBagOfWords])
@pytest.mark.parametrize("loss", ["negative", "hierarchical"])
def test_one_thread_gives_the_same_bits_however_blocks_are_batched(kind: type, loss: str) -> None:
    """Draws belong to the block: two batches of two are one of four."""
    outputs = [
        trained(at, {"schedule": "constant"}, batches)
        for at, batches in (
            (tree(kind, loss), [blocks([3, 5, 1, 0])]),
            (tree(kind, loss), [blocks([3, 5]), blocks([1, 0])]),
        )
    ]
    assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])


def tree(kind: type, loss: str) -> Context:
    """Return a context for either loss: a tree has one row less."""
    at = context(kind, words(loss=loss))
    if loss == "hierarchical":
        at.model.context.weight.data = torch.zeros(29, 8)  # type: ignore[union-attr]
    return at


def test_learning_lowers_the_held_out_loss() -> None:
    at, task = context(SkipGram, words()), words()
    order = torch.arange(30).repeat(40).int().view(30, 40)  # each word is followed by the next
    batch = Batch(order, None, torch.arange(30))
    with torch.no_grad():
        before = task.outputs(at.model, batch)
        trained(at, {"lr": 0.05}, [batch] * 30)
        after = task.outputs(at.model, batch)
    assert after[:, 0].sum() < 0.9 * before[:, 0].sum()
    assert after[:, 1].sum() == before[:, 1].sum()


@pytest.mark.parametrize("kind", [SkipGram, ContinuousBagOfWords])
@pytest.mark.parametrize("max_exp", [0.0, 9.0])
def test_pairs_that_are_right_by_more_than_six_take_no_step(kind: type, max_exp: float) -> None:
    """All scores are −8: right for the words drawn against, wrong for the two words that stand together."""
    at = context(kind, words(negative=20))
    at.parameters["vectors.weight"].data.fill_(1.0)
    at.parameters["context.weight"].data.fill_(-1.0)
    block = torch.tensor([[3, 7, -1]]).int()
    weights = trained(at, {"max_exp": max_exp}, [Batch(block, None, torch.tensor([0]))])
    moved = set((weights["context.weight"] != -1).any(1).nonzero().flatten().tolist())
    assert moved == {3, 7} if max_exp == 0 else moved > {3, 7}


def test_glove_takes_the_steps_of_adagrad_in_float64() -> None:
    """E31's update, record by record, written out."""
    task = CoOccurrence(INPUTS, CoOccurrenceOptions(x_max=10.0))
    at = context(GlobalVectors, task)
    draw = np.random.default_rng(0)
    records = np.stack([draw.integers(0, 30, 50), draw.integers(0, 30, 50), draw.uniform(0.2, 30, 50)], 1).astype(
        np.float32
    )
    records[-1] = 0  # fills the block up
    p = {name: t.detach().double().numpy().copy() for name, t in at.model.named_parameters()}
    s = {name: np.ones_like(t) for name, t in p.items()}
    for word, neighbor, x in records[:-1].astype(np.float64):
        i, j = int(word), int(neighbor)
        w, c = p["vectors.weight"][i].copy(), p["context.weight"][j].copy()
        pull = min(1.0, x / 10) ** 0.75 * (w @ c + p["bias"][i] + p["context_bias"][j] - np.log(x))
        gradients = {
            "vectors.weight": (i, pull * c),
            "context.weight": (j, pull * w),
            "bias": (i, pull),
            "context_bias": (j, pull),
        }
        for name, (row, gradient) in gradients.items():
            step = 0.05 * gradient
            p[name][row] -= step / np.sqrt(s[name][row])
            s[name][row] += step**2
    weights = trained(
        at, {"lr": 0.05, "schedule": "constant"}, [Batch(torch.from_numpy(records)[None], None, torch.tensor([0]))]
    )
    for name, wanted in p.items():
        np.testing.assert_allclose(weights[name].numpy(), wanted, atol=1e-5)


def test_what_the_rule_refuses() -> None:
    table = rules.resolve_rule({"name": "hogwild"}, "test")
    with pytest.raises(UsageError, match=r"computes in float32(.|\n)*--precision fp32"):
        rules.build_rule(table, context(SkipGram, words(), precision="fp64"))
    with pytest.raises(UsageError, match="learns word vectors from text"):
        rules.build_rule(table, context(GlobalVectors, words()))
    one = context(SkipGram, words())
    with pytest.raises(UsageError, match=r"changes all tables(.|\n)*without context.weight"):
        rules.build_rule(table, replace(one, parameters={"vectors.weight": one.parameters["vectors.weight"]}))
    with pytest.raises(UsageError, match="negatives that contexts can share"):
        rules.build_rule({**table, "shared_negatives": 2}, context(ContinuousBagOfWords, words()))
    with pytest.raises(UsageError, match="only word2vec's networks have scores that settle"):
        rules.build_rule({**table, "max_exp": 6.0}, context(GlobalVectors, CoOccurrence(INPUTS, CoOccurrenceOptions())))


def test_images_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"skipgram does not learn from these data(.|\n)*expected: text"):
        api.train("skipgram", data="digits", out=tmp_path / "run")
    (tmp_path / "t.txt").write_text("a b c\n" * 3000)
    with pytest.raises(UsageError, match=r"mlp does not learn from these data(.|\n)*images or rows"):
        api.train("mlp", data=tmp_path / "t.txt", out=tmp_path / "run")
