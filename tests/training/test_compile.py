"""``--compile``: the translated network learns what the interpreted one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from layerwise.inference.engines.native import find_compiler
from processes import load_weights
from small_runs import fit


@pytest.mark.soak
@pytest.mark.skipif(not find_compiler(), reason="needs a C++ compiler")
def test_a_compiled_run_learns_what_an_interpreted_one_does(tmp_path: Path) -> None:
    compiled, interpreted = (
        fit(tmp_path / str(on), options={"train.compile": on, "train.precision": "fp64"}) for on in (True, False)
    )
    for name, value in load_weights(interpreted.path).items():
        torch.testing.assert_close(load_weights(compiled.path)[name], value, rtol=1e-9, atol=1e-12)
    assert compiled.metrics == pytest.approx(interpreted.metrics)
