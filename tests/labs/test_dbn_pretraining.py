"""C06: pre-training helps, and the SVM stays ahead; both verdicts follow what is done."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from layerwise.labs import base
from layerwise.labs import dbn_pretraining as lab
from layerwise.labs.training import load_batches

SMALL = lab.PLANS["quick"]
NO_SVM = {**lab.PARTICIPANTS, "svm": "small"}


def replace_by_noise(inputs: Tensor) -> Tensor:
    """Images in which nothing belongs together: each pixel is drawn from all images anew."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.rand(inputs.flatten(1).shape, generator=generator).argsort(0)
    return inputs.flatten(1).gather(0, rows).view_as(inputs)


def test_without_the_svm_the_claim_holds_and_not_after_seeing_noise() -> None:
    """The half that holds, and its sabotage."""
    assert base.is_held(lab.measure("quick", participants=NO_SVM, plan=SMALL))
    findings = lab.measure("quick", participants=NO_SVM, transform=replace_by_noise, plan=SMALL)
    assert not base.is_held(findings)
    assert not findings.checks[0].passed


def test_pretraining_looks_at_no_label_and_fine_tuning_leaves_the_machines() -> None:
    data = load_batches("digits", seed=0, examples=64, scale="unit")
    assert data.train.targets is not None
    wrong = replace(data, train=replace(data.train, targets=data.train.targets.flip(0)))
    nets = [lab.build_dbn(data, SMALL, 1) for _ in range(2)]
    for net, seen in zip(nets, (data, wrong), strict=True):
        lab.pretrain(net, seen, lab.PretrainOptions(1, 16, 0.4), seed=1)
    first, second = (net.state_dict() for net in nets)
    assert all(torch.equal(first[name], second[name]) for name in first)
    lab.fine_tune(nets[0], data, replace(SMALL, steps=5), rate=0.01, seed=1)
    after = nets[0].state_dict()
    for name in second:
        assert torch.equal(after[name], second[name]) is name.startswith("rbms."), name


def test_leads_are_over_the_better_start() -> None:
    values = {"dbn": [[0.9], [0.8]], "small": [[0.2], [0.85]], "glorot": [[0.8], [0.7]], "svm": [[0.95], [0.7]]}
    plan = replace(SMALL, seeds=2)
    findings = lab.judge({name: torch.tensor(v, dtype=torch.float64).numpy() for name, v in values.items()}, plan)
    assert findings.margins == pytest.approx((-0.05, -0.05))
