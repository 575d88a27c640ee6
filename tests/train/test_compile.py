"""``--compile``: the translated network learns what the interpreted one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerwise import api
from layerwise.engines.native import compiler
from layerwise.run import RunDirectory
from small_runs import fit


def weights(run: api.Run) -> dict[str, torch.Tensor]:
    found = RunDirectory(run.path).restore("last")
    assert found is not None
    return found.model


@pytest.mark.soak
@pytest.mark.skipif(not compiler(), reason="needs a C++ compiler")
def test_a_compiled_run_learns_what_an_interpreted_one_does(tmp_path: Path) -> None:
    found, wanted = (fit(tmp_path / str(on), options={"train.compile": on, "train.precision": "fp64"}) for on in (True, False))
    for name, value in weights(wanted).items():
        torch.testing.assert_close(weights(found)[name], value, rtol=1e-9, atol=1e-12)
    assert found.metrics == pytest.approx(wanted.metrics)
