"""What the stages of a deep belief network may change and what they must leave."""

from __future__ import annotations

from pathlib import Path

import torch

from layerwise.models.boltzmann import dbn
from layerwise.planning.resolve import Request
from layerwise.run_directory import RunDirectory
from layerwise.training.run_training import train


def weights(folder: Path, *settings: str) -> dict[str, torch.Tensor]:
    train(Request(model="dbn", data="digits", out=folder, settings=("model.hidden=[12,8]", *settings)), quiet=True)
    best = RunDirectory.open(folder).restore("best")
    assert best is not None
    return best.model


def test_fine_tuning_leaves_the_generative_model_alone(tmp_path: Path) -> None:
    one = "stages.pretrain.epochs=1"
    before = weights(tmp_path / "before", one, "stages.fine-tune.epochs=0")
    after = weights(tmp_path / "after", one, "stages.fine-tune.epochs=1")
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("rbms."), name


def test_an_untuned_network_goes_up_by_the_machines_themselves() -> None:
    torch.manual_seed(0)
    model, v = dbn(features=5, classes=3, hidden=(4, 2)).double(), torch.rand(6, 5, dtype=torch.float64)
    state = model.state_dict()
    x = v
    for i in range(2):
        x = torch.sigmoid(x @ state[f"rbms.{i}.weight"].T + state[f"rbms.{i}.hidden_bias"])
    torch.testing.assert_close(model(v), x @ state["head.weight"].T + state["head.bias"], rtol=0, atol=1e-12)
