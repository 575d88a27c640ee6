"""CONTRIBUTING.md, followed to the letter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_example_model_trains_from_one_file(tmp_path: Path) -> None:
    """The example's file is imported, trained, evaluated; its stated parameters are right; the accuracy is far above
    chance."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- example: model -->\n```python\n(.*?)```", text, re.DOTALL)
    assert found
    (tmp_path / "square_net.py").write_text(found[1], encoding="utf-8")
    code = (
        "from pathlib import Path\nfrom layerwise import api, catalog\n"
        "model, = catalog.import_file(Path('square_net.py'))\n"
        "count = sum(p.numel() for p in catalog.builder(model)(**model.size).parameters())\n"
        "assert count == model.parameters, count\n"
        "run = api.train('square-net', data='iris', out='run')\n"
        "assert run.metrics['test/accuracy'] > 0.8, run.metrics\n"
        "assert run.predictor()('5.1,3.5,1.4,0.2')[0].label == 'setosa'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run(
        [sys.executable, "-m", "layerwise", "predict", "run", "5.1,3.5,1.4,0.2"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert alone.returncode == 2
    assert "there is no model 'square-net'" in alone.stderr
    assert "--import FILE" in alone.stderr
