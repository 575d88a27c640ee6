"""A finished run that tests of this folder copy and spoil."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from layerwise import api
from processes import patch_report
from small_runs import fit


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> api.Run:
    """A finished run that tests copy before they spoil it."""
    with patch_report(True):
        return fit(tmp_path_factory.mktemp("faults") / "run")


@pytest.fixture
def run(finished: api.Run, tmp_path: Path) -> api.Run:
    """A copy of the finished run."""
    return api.Run(Path(shutil.copytree(finished.path, tmp_path / "run")))
