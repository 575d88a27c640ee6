"""F20: memory that really runs out names the setting, and a resume with another batch keeps the size of its pieces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from layerwise import api
from layerwise.errors import TrainingError
from layerwise.planning.resolve import Request
from layerwise.run_check import verify
from layerwise.run_directory import RunDirectory
from layerwise.runtime.resources import is_out_of_memory
from layerwise.training.run_training import train
from small_runs import write_linear_model

OPTIONS = {"train.threads": 1, "model.hidden": [16], "model.dropout": 0, "rule.grad_accum_steps": 2}


def test_the_allocators_own_error_is_known() -> None:
    """The oracle: torch's allocator, asked for four petabytes."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(10**15)
    assert is_out_of_memory(refused.value)
    with pytest.raises(RuntimeError) as other:
        torch.ones(2, 3) @ torch.ones(2, 3)
    assert not is_out_of_memory(other.value)


def test_memory_that_runs_out_names_the_setting(tmp_path: Path) -> None:
    """A layer of 4·10¹³ weights: the allocation is refused for real."""
    with pytest.raises(TrainingError, match="no memory left for batches of 64") as caught:
        api.train(
            "mlp",
            data="digits",
            out=tmp_path / "run",
            batch_size=64,
            options={**OPTIONS, "model.hidden": [20_000, 2_000_000_000]},
        )
    assert "--batch-size" in caught.value.do
    assert "--set rule.grad_accum_steps=8" in caught.value.do


HUNGRY = "self.linear(x if len(x) > 1 else torch.empty(10**15))"


def test_answering_without_memory_is_no_traceback(tmp_path: Path, command: Any) -> None:
    """A network that asks torch's allocator for four petabytes when it is shown one example."""
    write_linear_model(tmp_path / "hungry.py", HUNGRY)
    trained = command(
        "train", "hungry", "--import", "hungry.py", "--data", "iris", "--out", "run", "--set", "train.threads=1"
    )
    assert trained.returncode == 0, trained.stderr
    done = command("predict", "run", "5.1,3.5,1.4,0.2", "--import", "hungry.py")
    assert done.returncode == 1
    assert "layerwise: there is no memory left: " in done.stderr
    assert "do this:  close other programs, or use --device cpu if the GPU's memory is full" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("batch", "pieces"), [(32, 1), (64, 2), (128, 4), (100, 4)])
def test_another_batch_on_resume_rescales_accumulation(batch: int, pieces: int, tmp_path: Path) -> None:
    run = api.train("mlp", data="digits", out=tmp_path / "run", epochs=1, batch_size=64, options=OPTIONS)
    request = Request(model=str(run.path / "recipe.toml"), epochs=2, batch_size=batch, resume=True, allow_changes=True)
    train(request, quiet=True)
    stage = run.recipe.stages[0]
    assert (stage.batch_size, stage.rule["grad_accum_steps"]) == (batch, pieces)
    assert {n: p for n, p in verify(RunDirectory(run.path)).items() if p} == {}
    assert run.info["history"][-1]["epoch"] == 2
