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
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from layerwise.data.loader import Batch
from layerwise.errors import UsageError
from layerwise.kernels.text import glove, huffman, sampling, word2vec
from layerwise.nn.word_vectors import GlobalVectors, Predictive, SkipGram, WordVectors
from layerwise.recipe import Amount, NotNegative, Positive, Share
from layerwise.rules.base import Context, Entry, Rule, Step, Verdict, as_it_is
from layerwise.runtime import rng
from layerwise.tasks.cooccurrence import CoOccurrence
from layerwise.tasks.words import Words

Floats = NDArray[np.float32]
SETTLED = 6.0  # where word2vec's tables of σ end
SHARED = 3  # contexts of a window with the same negatives, where the recipe does not say


class HogwildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``lr`` is η; ``schedule`` its course: down a line to ``floor`` times itself over the stage, or constant.
    ``share``: so many contexts of a window have the same negatives (skip-gram with negative sampling; 1: each its own,
    as word2vec has it; 0: three, which costs no quality and is faster). ``settled``: pairs whose score is right by more
    than this take no step (0: 6 for word2vec's networks, as in its programs; a large number: E30's gradient
    everywhere)."""

    lr: Positive = 0.025
    schedule: Literal["linear", "constant"] = "linear"
    floor: Share = 1e-4
    share: Amount = 0
    settled: NotNegative = 0.0


class Loop(Protocol):
    """What changes the tables."""

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Learn from a batch's inputs, and return what `Step` says."""
        ...

    def state(self) -> dict[str, Tensor]:
        """What must be kept beside the tables, changed in place; empty for word2vec."""
        ...


class Hogwild:
    """The rule ``hogwild``. Runs on the processor's cores wherever the tables live.

    Over several ranks each learns from its share of the batch, and all changes are added up, as those of threads are.
    """

    Options = HogwildOptions

    def __init__(self, context: Context, options: HogwildOptions, loop: Loop) -> None:
        self.context, self.options, self.loop = context, options, loop
        self.names = [name for name, _ in context.model.named_parameters()]
        _refuse_parts(context, self.names)
        self.parameters = [context.parameters[name] for name in self.names]
        self.epochs = torch.zeros((), dtype=torch.long)

    @torch.no_grad()
    def step(self, batch: Batch, progress: float) -> Step:
        """Learn from one batch."""
        tables = [p.detach().to("cpu").contiguous() for p in self.parameters]
        old = [t.clone() for t in tables] if self.context.world.size > 1 else []
        rate = self.options.lr * (1 if self.options.schedule == "constant" else max(self.options.floor, 1 - progress))
        inputs = np.ascontiguousarray(batch.inputs.cpu().numpy())
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
        """The rule has no end of its own."""
        self.epochs += 1
        return Verdict(False)

    def evaluated(self) -> AbstractContextManager[object]:
        """The tables are evaluated as they are."""
        return as_it_is()

    def state_dict(self) -> dict[str, Tensor]:
        """Return the epochs behind, and what the loop keeps."""
        return {"epochs": self.epochs, **self.loop.state()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` returned."""
        self.epochs = state["epochs"].clone()
        for name, tensor in self.loop.state().items():
            tensor.copy_(state[name])


class Predicting:
    """word2vec's loops over blocks of tokens."""

    def __init__(self, context: Context, task: Words, model: Predictive, *, share: int, settled: float) -> None:
        options, counts = task.options, task.inputs.frequencies
        self.seed, self.pooled, self.window, self.settled = context.seed, model.pooled, options.window, settled
        self.keep = sampling.keep_probabilities(counts, options.sample)
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        self.against: word2vec.Noise | huffman.Tree
        if options.loss == "hierarchical":
            self.against = huffman.huffman(counts)
        else:
            alias = sampling.alias_table(counts.astype(np.float64) ** options.power)
            self.against = word2vec.Noise(alias=alias, negatives=options.negative, share=share)

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Go through blocks (N, L) int32."""
        key = np.uint64(rng.key(self.seed, "words", epoch))
        with np.errstate(over="ignore"):
            states = rng.mixed(ids.numpy().astype(np.uint64) * rng.GOLDEN + key)
        run = word2vec.cbow if self.pooled else word2vec.skipgram
        found = run(
            inputs,
            tables[0],
            tables[1],
            against=self.against,
            keep=self.keep,
            states=states,
            rates=(rate, rate),
            window=self.window,
            settled=self.settled,
            threads=self.threads,
            pool=self.pool,
        )
        loss = torch.tensor(found.loss, dtype=torch.float64)
        return Step(loss, float(found.pairs), {"negative log-likelihood": loss}, words=found.tokens)

    def state(self) -> dict[str, Tensor]:
        """Nothing is kept beside the tables."""
        return {}


class Fitting:
    """GloVe's loop over records of co-occurrences, with AdaGrad's sums beside the tables."""

    def __init__(self, task: CoOccurrence, model: GlobalVectors) -> None:
        self.options = task.options
        self.threads = torch.get_num_threads()
        self.pool = ThreadPoolExecutor(self.threads - 1) if self.threads > 1 else None
        named = {name: p.shape for name, p in model.named_parameters()}
        self.names = [name.removesuffix(".weight") for name in named]
        self.squares = {f"squares.{name}": torch.ones(shape) for name, shape in named.items()}

    def __call__(self, inputs: NDArray[Any], tables: list[Floats], *, ids: Tensor, epoch: int, rate: float) -> Step:
        """Go through blocks of records (N, L, 3): those with a count."""
        records = inputs.reshape(-1, 3)
        parameters = glove.Tables(**dict(zip(self.names, tables, strict=True)))
        squares = glove.Tables(
            **{name: tensor.numpy() for name, tensor in zip(self.names, self.squares.values(), strict=True)}
        )
        found = glove.update(
            records,
            parameters,
            squares,
            x_max=self.options.x_max,
            alpha=self.options.alpha,
            lr=rate,
            threads=self.threads,
            pool=self.pool,
        )
        loss = torch.tensor(found, dtype=torch.float64)
        return Step(loss, float((records[:, 2] > 0).sum()), {"weighted squared error": loss})

    def state(self) -> dict[str, Tensor]:
        """Return AdaGrad's sums of squares."""
        return self.squares


def make(context: Context, options: HogwildOptions) -> Rule:
    """Return the rule for the model and task of a context. Raises `UsageError` for others than word vectors, and for
    other precisions."""
    model, task = context.model, context.task
    if isinstance(model, WordVectors) and context.precision != "fp32":
        raise UsageError(
            "the rule hogwild computes in float32", expected="--precision fp32", received=context.precision
        )
    if options.share > 1 and (
        not isinstance(model, SkipGram) or not isinstance(task, Words) or task.options.loss != "negative"
    ):
        raise UsageError(
            "only skip-gram with negative sampling has negatives that contexts can share",
            expected="rule.share = 1",
            received=f"{options.share}",
        )
    if isinstance(model, Predictive) and isinstance(task, Words):
        share, settled = options.share or SHARED, options.settled or SETTLED
        return Hogwild(context, options, Predicting(context, task, model, share=share, settled=settled))
    if options.settled:
        raise UsageError(
            "only word2vec's networks have scores that settle",
            expected="rule.settled = 0",
            received=f"{options.settled:g}",
            do="leave rule.settled out",
        )
    if isinstance(model, GlobalVectors) and isinstance(task, CoOccurrence):
        return Hogwild(context, options, Fitting(task, model))
    raise UsageError(
        "the rule hogwild learns word vectors from text",
        expected="skipgram or cbow with the task words, glove with co-occurrence",
        received=f"{type(model).__name__} with {task.name}",
        do="use rule.name=backprop",
    )


def _refuse_parts(context: Context, names: list[str]) -> None:
    """Raise `UsageError` where only some of the tables are to be trained."""
    missing = [name for name in names if name not in context.parameters]
    if missing:
        raise UsageError(
            "the rule hogwild changes all tables of word vectors at once",
            expected="parameters = ['*']",
            received=f"without {', '.join(missing)}",
            do="leave stage.parameters out",
        )


RULE = Entry(make, HogwildOptions)
