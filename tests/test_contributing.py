"""CONTRIBUTING.md, followed to the letter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from layerwise import registry

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_model_trains_from_one_file(tmp_path: Path) -> None:
    """The example's file is imported and trained as the page says, and its accuracy is far above chance."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- example: model -->\n```python\n(.*?)```", text, re.DOTALL)
    command = re.search(r"^layerwise (train square-net .*)$", text, re.MULTILINE)
    assert example
    assert command
    (tmp_path / "square_net.py").write_text(example[1], encoding="utf-8")
    run_command(tmp_path, *command[1].split(), "--out", "run")
    code = (
        "from pathlib import Path\nfrom layerwise import api, registry\n"
        "(model,) = registry.import_file(Path('square_net.py'))\n"
        "assert model.summary == 'A linear layer over inputs and their squares'\n"
        "run = api.open('run')\n"
        "assert run.metrics['test/accuracy'] > 0.8, run.metrics\n"
        "assert run.predictor()('5.1,3.5,1.4,0.2')[0].label == 'setosa'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = run_command(tmp_path, "predict", "run", "5.1,3.5,1.4,0.2", code=2)
    assert "there is no model 'square-net'" in alone
    assert "--import FILE" in alone


def test_the_full_statement_is_true(tmp_path: Path) -> None:
    """The longer ``@register`` is read, and its parameters are counted."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    example = re.search(r"<!-- example: model -->\n```python\n(.*?)```", text, re.DOTALL)
    statement = re.search(r"^@register\(\n.*?^\)$", text, re.DOTALL | re.MULTILINE)
    assert example
    assert statement
    path = tmp_path / "square_net_full.py"
    path.write_text(example[1].replace("@register", statement[0]), encoding="utf-8")
    (spec,) = registry.read_specs(path, "square_net_full")
    assert spec.title == "square-net (2026)"
    code = (
        "from pathlib import Path\nfrom layerwise import registry\n"
        "(model,) = registry.import_file(Path('square_net_full.py'))\n"
        "builder = registry.get_builder(model)\n"
        "count = sum(p.numel() for p in builder(**model.size).parameters())\n"
        "assert count == model.parameters, count\n"
        "assert sum(p.numel() for p in builder(**model.small).parameters()) <= 100_000\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def run_command(folder: Path, *arguments: str, code: int = 0) -> str:
    """Run ``layerwise ARGUMENTS`` in a folder and return its standard error; fail for another exit code."""
    command = [sys.executable, "-m", "layerwise", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
    assert done.returncode == code, done.stderr
    return done.stderr
