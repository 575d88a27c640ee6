"""A lab is run: its experiment with large buffers kept, torch's random state left alone, its figure drawn."""

from __future__ import annotations

import time
from pathlib import Path

from layerwise.errors import UsageError
from layerwise.labs.base import MODES, Lab, Lang, Mode, Result, mean_interval, verdict
from layerwise.runtime import machine, rng


def run(lab: Lab, *, mode: Mode, out: Path | None, lang: Lang) -> Result:
    """Run a lab's experiment; see `layerwise.labs.run`. Raises `UsageError` for an unknown mode or language."""
    if mode not in MODES:
        raise UsageError(f"a lab has no mode '{mode}'", expected=f"one of {', '.join(MODES)}", received=f"'{mode}'")
    if lang not in ("en", "zh"):
        raise UsageError(f"labs do not speak '{lang}'", expected="en or zh", received=f"'{lang}'")
    machine.keep_large_buffers()
    began = time.perf_counter()
    with rng.untouched():
        findings = lab.experiment(mode)
    mean, low, high = mean_interval(findings.margins)
    figure = None
    if out is not None:
        from layerwise.labs.figures import save_svg  # matplotlib is slow to import

        figure = save_svg(findings.draw, lang, path=out / f"{lab.name}.svg")
    seconds = time.perf_counter() - began
    return Result(lab, mode, findings, verdict(findings), mean, (low, high), seconds, figure)
