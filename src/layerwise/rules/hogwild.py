"""Shared tables changed from several threads without locks (Recht et al. 2011): word2vec (E30) and GloVe (E31), by
compiled loops.

No gradient tape: a batch's rows are cut into one contiguous run for each thread, and the loops in ``kernels/`` change
the tables in place. What is drawn depends on (seed, epoch, block) alone, so one thread gives the same bits again;
several meet in the same rows now and then, and end a little otherwise each time. Source: B. Recht, C. Ré, S. Wright, F.
Niu, Hogwild!, NeurIPS 2011.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.data.batch import Batch
from layerwise.errors import UsageError
from layerwise.kernels.text import glove, huffman, sampling, word2vec
from layerwise.nn.word_vectors import GlobalVectors, SkipGram, Word2VecModel, WordVectors
from layerwise.recipe import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat
from layerwise.rules.base import Context, Entry, Rule, Step, Verdict
from layerwise.runtime import rng
from layerwise.tasks.cooccurrence import CoOccurrence
from layerwise.tasks.words import Words

Floats = NDArray[np.float32]
MAX_EXP = 6.0  # where word2vec's tables of σ end
SHARED_NEGATIVES = 3  # contexts of a window with the same negatives, where the recipe does not say


class HogwildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Keys of ``[rule]`` for ``hogwild``.

    ``lr`` is η; ``schedule`` its course: linear, down to ``final_lr_ratio`` times η over the stage, or constant.
    ``shared_negatives``: how many contexts of a window have the same negatives in skip-gram with negative sampling
    (1: each its own, as in word2vec; 0: three, which costs no quality and is faster). ``max_exp``: pairs whose score is
    right by more than this take no step (0: 6 for word2vec's networks, as in its programs; a large number: E30's
    gradient everywhere).
    """

    lr: PositiveFloat = 0.025
    schedule: Literal["linear", "constant"] = "linear"
    final_lr_ratio: Fraction = 1e-4
    shared_negatives: NonNegativeInt = 0
    max_exp: NonNegativeFloat = 0.0


class Loop(Protocol):
    """A compiled loop that updates the tables."""

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Learn from a batch's inputs, and return its `Step`."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return what the loop saves beside the tables, changed in place; empty for word2vec."""
        ...


class Hogwild:
    """The rule ``hogwild``. Runs on the processor's cores wherever the tables live.

    Over several ranks each learns from its share of the batch, and all changes are added up, as those of threads are.
    """

    Options = HogwildOptions

    def __init__(self, context: Context, options: HogwildOptions, loop: Loop) -> None:
        self.context, self.options, self.loop = context, options, loop
        self.names = [name for name, _ in context.model.named_parameters()]
        _check_all_trained(context, self.names)
        self.parameters = [context.parameters[name] for name in self.names]
        self.epochs = torch.zeros((), dtype=torch.long)

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Learn from one batch."""
        tables = [p.detach().to("cpu").contiguous() for p in self.parameters]
        old = [t.clone() for t in tables] if self.context.world.size > 1 else []
        rate = self.options.lr * (
            1 if self.options.schedule == "constant" else max(self.options.final_lr_ratio, 1 - progress)
        )
        inputs = np.ascontiguousarray(batch.input_tensor.cpu().numpy())
        step = self.loop(inputs, [t.numpy() for t in tables], ids=batch.ids, epoch=int(self.epochs), rate=rate)
        if old:
            changes = [(t - o).to(self.context.world.device) for t, o in zip(tables, old, strict=True)]
            self.context.world.reduce(changes)
            tables = [o + c.cpu() for o, c in zip(old, changes, strict=True)]
        for parameter, table in zip(self.parameters, tables, strict=True):
            if parameter.data_ptr() != table.data_ptr():
                parameter.copy_(table)
        return step

    def end_epoch(self) -> Verdict:
        """Never finish: the rule has no end of its own."""
        self.epochs += 1
        return Verdict(False)

    def evaluation_weights(self) -> AbstractContextManager[object]:
        """Return a context that changes nothing."""
        return nullcontext()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the number of epochs, and the loop's state."""
        return {"epochs": self.epochs, **self.loop.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what `state_dict` returned."""
        self.epochs = state["epochs"].clone()
        for name, tensor in self.loop.state().items():
            tensor.copy_(state[name])


class Word2VecLoop:
    """word2vec's loops over blocks of tokens."""

    def __init__(
        self, context: Context, task: Words, model: Word2VecModel, *, shared_negatives: int, max_exp: float
    ) -> None:
        options, counts = task.options, task.inputs.frequencies
        self.seed, self.pooled, self.window, self.max_exp = context.seed, model.pooled, options.window, max_exp
        self.keep = sampling.compute_keep_probabilities(counts, options.sample)
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self.against: word2vec.NegativeSampling | huffman.HuffmanTree
        if options.loss == "hierarchical":
            self.against = huffman.build_huffman_tree(counts)
        else:
            alias = sampling.build_alias_table(counts.astype(np.float64) ** options.power)
            self.against = word2vec.NegativeSampling(
                alias=alias, negatives=options.negative, group_size=shared_negatives
            )

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Learn from blocks (N, L) int32."""
        key = np.uint64(rng.derive_seed(self.seed, "words", epoch))
        with np.errstate(over="ignore"):
            states = rng.splitmix64(ids.numpy().astype(np.uint64) * rng.GOLDEN + key)
        run = word2vec.cbow if self.pooled else word2vec.skipgram
        stats = run(
            inputs,
            tables[0],
            tables[1],
            objective=self.against,
            keep=self.keep,
            states=states,
            rates=(rate, rate),
            window=self.window,
            max_exp=self.max_exp,
            threads=self.threads,
            pool=self.pool,
        )
        loss = torch.tensor(stats.loss, dtype=torch.float64)
        return Step(loss, float(stats.pairs), {"negative log-likelihood": loss}, units={"words": stats.tokens})

    def state(self) -> dict[str, Tensor]:
        """Return nothing: the tables are the whole state."""
        return {}


class GloVeLoop:
    """GloVe's loop over records of co-occurrences, with AdaGrad's sums beside the tables."""

    def __init__(self, task: CoOccurrence, model: GlobalVectors) -> None:
        self.options = task.options
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        shapes = {name: p.shape for name, p in model.named_parameters()}
        self.names = [name.removesuffix(".weight") for name in shapes]
        self.squares = {f"squares.{name}": torch.ones(shape) for name, shape in shapes.items()}

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Learn from blocks of records (N, L, 3): those with a count."""
        records = inputs.reshape(-1, 3)
        parameters = glove.Tables(**dict(zip(self.names, tables, strict=True)))
        squares = glove.Tables(
            **{name: tensor.numpy() for name, tensor in zip(self.names, self.squares.values(), strict=True)}
        )
        loss_sum = glove.update(
            records,
            parameters,
            squares,
            x_max=self.options.x_max,
            alpha=self.options.alpha,
            lr=rate,
            threads=self.threads,
            pool=self.pool,
        )
        loss = torch.tensor(loss_sum, dtype=torch.float64)
        return Step(loss, float((records[:, 2] > 0).sum()), {"weighted squared error": loss})

    def state(self) -> dict[str, Tensor]:
        """Return AdaGrad's sums of squares."""
        return self.squares


def build_hogwild(context: Context, options: HogwildOptions) -> Rule:
    """Return the rule for the model and task of a context. Raises `UsageError` for models that are no word vectors, and
    for other precisions than float32."""
    model, task = context.model, context.task
    if isinstance(model, WordVectors) and context.precision != "fp32":
        raise UsageError(
            "the rule hogwild computes in float32", expected="--precision fp32", received=context.precision
        )
    if options.shared_negatives > 1 and (
        not isinstance(model, SkipGram) or not isinstance(task, Words) or task.options.loss != "negative"
    ):
        raise UsageError(
            "only skip-gram with negative sampling has negatives that contexts can share",
            expected="rule.shared_negatives = 1",
            received=f"{options.shared_negatives}",
        )
    if isinstance(model, Word2VecModel) and isinstance(task, Words):
        shared_negatives, max_exp = options.shared_negatives or SHARED_NEGATIVES, options.max_exp or MAX_EXP
        loop = Word2VecLoop(context, task, model, shared_negatives=shared_negatives, max_exp=max_exp)
        return Hogwild(context, options, loop)
    if options.max_exp:
        raise UsageError(
            "only word2vec's networks have scores that settle",
            expected="rule.max_exp = 0",
            received=f"{options.max_exp:g}",
            do="leave rule.max_exp out",
        )
    if isinstance(model, GlobalVectors) and isinstance(task, CoOccurrence):
        return Hogwild(context, options, GloVeLoop(task, model))
    raise UsageError(
        "the rule hogwild learns word vectors from text",
        expected="skipgram or cbow with the task words, glove with co-occurrence",
        received=f"{type(model).__name__} with {task.name}",
        do="use rule.name=backprop",
    )


def _check_all_trained(context: Context, names: list[str]) -> None:
    """Raise `UsageError` where a stage trains only some of the tables."""
    missing = [name for name in names if name not in context.parameters]
    if missing:
        raise UsageError(
            "the rule hogwild changes all tables of word vectors at once",
            expected="parameters = ['*']",
            received=f"without {', '.join(missing)}",
            do="leave stage.parameters out",
        )


RULE = Entry(build_hogwild, HogwildOptions)
