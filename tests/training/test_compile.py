"""``--compile``: the translated network learns what the interpreted one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerwise.inference.engines.native import compiler
from processes import weights
from small_runs import fit


@pytest.mark.soak
@pytest.mark.skipif(not compiler(), reason="needs a C++ compiler")
def test_a_compiled_run_learns_what_an_interpreted_one_does(tmp_path: Path) -> None:
    found, wanted = (
        fit(tmp_path / str(on), options={"train.compile": on, "train.precision": "fp64"}) for on in (True, False)
    )
    for name, value in weights(wanted.path).items():
        torch.testing.assert_close(weights(found.path)[name], value, rtol=1e-9, atol=1e-12)
    assert found.metrics == pytest.approx(wanted.metrics)
