"""Shared by the labs on regularization: digits of which some are mislabeled, one small network, and treatments
against overfitting.

``N`` examples, ``K`` classes. The one idea: a network that can learn 300 examples by heart, labels that are sometimes
wrong, and the same start and order for every treatment of a seed, so that differences are the treatment's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layerwise.data import sklearn_datasets
from layerwise.data.batch import Batch
from layerwise.data.loader import Batches, BatchSampler, MemoryBatches
from layerwise.data.source import fetch
from layerwise.functional.augmentation.transforms import AugmentOptions
from layerwise.labs.training import SplitBatches
from layerwise.models.feedforward import mlp
from layerwise.rules.backprop import Backprop
from layerwise.rules.base import Context
from layerwise.runtime import rng
from layerwise.runtime.distributed import World
from layerwise.tasks.augmentation import Augmentation, AugmentedBatches
from layerwise.tasks.classification import Classification
from layerwise.tasks.inputs import ImageInputs
from layerwise.training.loop import Cursor, run_steps
from layerwise.training.meters import BestEpoch

HIDDEN, BATCH, RATE = 128, 50, 0.005
TRAIN, VAL = 300, 300  # the other 1197 of the 1797 digits are the test part
DRAWS = "regularisation"  # the key of the draws; another spelling would be another sample
WRONG = 0.1  # the share of examples whose label is drawn anew, in every part


@dataclass(frozen=True)
class Treatment:
    """What is done against overfitting. ``rule`` holds further options of backpropagation; ``patience`` 0 never stops
    early."""

    rule: Mapping[str, Any] | None = None
    dropout: float = 0.0
    batch_norm: bool = False
    augment: AugmentOptions = AugmentOptions()
    patience: int = 0


@dataclass(frozen=True)
class Trial:
    """One trained network: mean losses in nats and accuracy at its end, (epoch, train, test) losses on the way, its
    weights."""

    train: float
    test: float
    accuracy: float
    epoch: int
    path: tuple[tuple[int, float, float], ...]
    weights: tuple[Tensor, ...]

    @property
    def gap(self) -> float:
        """The generalization gap: test loss minus training loss."""
        return self.test - self.train


def noisy_digits(seed: int) -> SplitBatches:
    """Return scikit-learn's digits in three parts, with the share `WRONG` of all labels drawn anew from the ten
    classes."""
    source = sklearn_datasets.load("digits")
    task = Classification.prepare(source, Classification.Options())
    generator = rng.make_numpy_generator(DRAWS, seed)
    order = generator.permutation(len(source))
    batch = task.collate(fetch(source, order))
    assert batch.targets is not None
    redrawn = torch.from_numpy(generator.integers(0, 10, len(order)))
    is_redrawn = torch.from_numpy(generator.random(len(order)) < WRONG)
    noisy = replace(batch, targets=torch.where(is_redrawn, redrawn, batch.target_tensor))
    return SplitBatches(
        task,
        noisy.span(slice(TRAIN)),
        noisy.span(slice(TRAIN, TRAIN + VAL)),
        noisy.span(slice(TRAIN + VAL, None)),
    )


def run_trial(parts: SplitBatches, seed: int, treatment: Treatment, *, epochs: int, watch: int = 0) -> Trial:
    """Train a network of one hidden layer with Adam under a treatment. The loop is that of a training run.

    Args:
        parts: the data.
        seed: of start, order and every draw; the same for all treatments.
        treatment: what is done against overfitting.
        epochs: the budget.
        watch: record the losses every so many epochs; 0 never.
    """
    with rng.use_seed(rng.derive_seed(DRAWS, seed)):
        net = mlp(features=64, outputs=10, hidden=(HIDDEN,), dropout=treatment.dropout, batch_norm=treatment.batch_norm)
        torch.manual_seed(seed)  # of dropout, whatever the network drew
        context = Context(
            net, parts.task, dict(net.named_parameters()), World(), seed, "fp32", batch_size=BATCH, examples=TRAIN
        )
        rule = Backprop(context, Backprop.Options(lr=RATE, **(treatment.rule or {})))
        best, best_state, path = BestEpoch(), dict[str, Tensor](), []
        net.train()
        for event in run_steps(rule, _make_batches(parts, treatment, seed), epochs, Cursor()):
            if event.verdict is None:
                continue
            epoch = event.cursor.epoch
            if watch and epoch % watch == 0:
                path.append(
                    (epoch, compute_mean_loss(net, parts, parts.train), compute_mean_loss(net, parts, parts.test))
                )
            if treatment.patience:
                value = compute_mean_loss(net, parts, parts.val)
                if best.value is None or value < best.value:
                    best, best_state = (
                        BestEpoch(0, value, epoch),
                        {name: t.clone() for name, t in net.state_dict().items()},
                    )
                elif epoch - best.epoch >= treatment.patience:
                    break
    if best_state:
        net.load_state_dict(best_state)
    weights = tuple(m.weight.detach().clone() for m in net.modules() if isinstance(m, nn.Linear))
    train, test = compute_mean_loss(net, parts, parts.train), compute_mean_loss(net, parts, parts.test)
    return Trial(train, test, _compute_accuracy(net, parts), best.epoch or epochs, tuple(path), weights)


def _make_batches(parts: SplitBatches, treatment: Treatment, seed: int) -> Batches:
    """Return the training batches, augmented if the treatment says so."""
    plain = MemoryBatches(parts.train, BatchSampler(TRAIN, BATCH, seed))
    if treatment.augment.is_identity:
        return plain
    assert isinstance(parts.task.inputs, ImageInputs)
    return AugmentedBatches(plain, Augmentation(parts.task.inputs, treatment.augment, seed))


@torch.no_grad()
def compute_mean_loss(net: nn.Module, parts: SplitBatches, batch: Batch) -> float:
    """Return the mean cross-entropy of a part, in evaluation mode."""
    net.eval()
    loss = float(parts.task.losses(net(batch.inputs), batch).mean())
    net.train()
    return loss


@torch.no_grad()
def _compute_accuracy(net: nn.Module, parts: SplitBatches) -> float:
    """Return the accuracy on the test part."""
    net.eval()
    assert parts.test.targets is not None
    return float((net(parts.test.inputs).argmax(1) == parts.test.targets).double().mean())
