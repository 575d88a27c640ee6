"""Word vectors: skip-gram, CBOW (word2vec) and GloVe.

T. Mikolov, K. Chen, G. Corrado, J. Dean, Efficient estimation of word representations in vector space, 2013; T. Mikolov
et al., Distributed representations of words and phrases and their compositionality, NeurIPS 2013; J. Pennington, R.
Socher, C. Manning, GloVe: Global vectors for word representation, EMNLP 2014. The one idea: words that stand in like
company get like vectors. word2vec goes through the text and predicts words from neighbors; GloVe counts the neighbors
once and fits the counts. The rule ``hogwild`` changes shared tables from several threads without locks, by the loops in
``kernels/``.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from layerwise.nn.word_vectors import ContinuousBagOfWords, GlobalVectors, SkipGram
from layerwise.recipe import PositiveInt
from layerwise.registry import register

WORD2VEC: dict[str, Any] = {
    "family": "word-vectors",
    "tasks": ("words",),
    "rule": "hogwild",
    "year": 2013,
    "parameters": 200000,
    "size": {"words": 1000, "outputs": 1000},
    "small": {"words": 50, "outputs": 50, "dim": 16},
}


@register(
    "skipgram",
    **WORD2VEC,
    paper="Mikolov et al., Distributed representations of words and phrases and their compositionality, 2013",
    summary="word2vec's skip-gram: a word's vector predicts its neighbors",
    summary_zh="word2vec 的跳字模型（skip-gram）：用词向量预测其上下文中的词",
    recipe={
        "stages": [{"epochs": 5, "batch_size": 64, "monitor": "last", "rule": {"lr": 0.025}}],
        "variants": {"small": {"stages": [{"epochs": 15}]}},
    },
)
def skipgram(*, words: PositiveInt, outputs: PositiveInt, dim: PositiveInt = 100) -> nn.Module:
    """Build the two tables: numbers of words (N, …) to their vectors (N, …, dim)."""
    return SkipGram(words, outputs, dim)


@register(
    "cbow",
    **WORD2VEC,
    paper="Mikolov et al., Efficient estimation of word representations in vector space, 2013",
    summary="word2vec's continuous bag of words: the mean of its neighbors' vectors predicts a word",
    summary_zh="word2vec 的连续词袋模型（CBOW）：用上下文词向量的均值预测中心词",
    recipe={
        "stages": [{"epochs": 5, "batch_size": 64, "monitor": "last", "rule": {"lr": 0.05}}],
        "variants": {"small": {"stages": [{"epochs": 15}]}},
    },
)
def cbow(*, words: PositiveInt, outputs: PositiveInt, dim: PositiveInt = 100) -> nn.Module:
    """Build the two tables: numbers of words (N, …) to their vectors (N, …, dim)."""
    return ContinuousBagOfWords(words, outputs, dim)


@register(
    "glove",
    family="word-vectors",
    tasks=("co-occurrence",),
    rule="hogwild",
    year=2014,
    paper="Pennington, Socher & Manning, GloVe: Global vectors for word representation, 2014",
    summary="GloVe: vectors whose products fit the logarithms of how often words stand together in the whole text",
    summary_zh="GloVe：使词向量内积拟合全局共现次数的对数",
    parameters=202000,
    size={"words": 1000},
    small={"words": 50, "dim": 16},
    recipe={
        "stages": [{"epochs": 25, "batch_size": 64, "monitor": "last", "rule": {"lr": 0.05, "schedule": "constant"}}],
        "variants": {"small": {"task": {"x_max": 10.0}, "stages": [{"epochs": 50}]}},
    },
)
def glove(*, words: PositiveInt, dim: PositiveInt = 100) -> nn.Module:
    """Build W, W̃ and their biases: numbers of words (N, …) to their vectors W + W̃ (N, …, dim)."""
    return GlobalVectors(words, dim)
