"""What a lab consists of, how it runs, and the result it returns.

A lab measures, seed by seed, by how much its claim holds. The claim held if the 95 % interval of the mean margin lies
above the lab's bound and every check passed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from layerwise.errors import UsageError
from layerwise.runtime import machine, rng

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Lang = Literal["en", "zh"]
Mode = Literal["quick", "normal", "full"]
MODES: tuple[Mode, ...] = ("quick", "normal", "full")
CONFIDENCE = 0.95


class Text(NamedTuple):
    """One text in both languages."""

    en: str
    zh: str

    def of(self, lang: Lang) -> str:
        """Return the text in a language."""
        return self.zh if lang == "zh" else self.en


Cell = Text | str | int | float | None


class Column(NamedTuple):
    """A column of a lab's table: its heading and the format of its numbers (``>`` aligns texts right)."""

    heading: Text
    spec: str = ""


class Table(NamedTuple):
    """The measurements: each row has one cell for each column; None is an empty cell."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


class Check(NamedTuple):
    """A condition that the claim needs, and whether it was met."""

    text: Text
    passed: bool


class Interval(NamedTuple):
    """A mean over seeds with its interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Findings:
    """The findings of an experiment.

    Args:
        margins: by how much the claim held, one number for each seed.
        bound: what the margin's interval must lie above.
        checks: further conditions that must be met.
        table: the measurements.
        draw: draws the figure in a language.
    """

    margins: tuple[float, ...]
    bound: float
    checks: tuple[Check, ...]
    table: Table
    draw: Callable[[Lang], Figure]


@dataclass(frozen=True)
class Lab:
    """A small experiment that anyone can rerun.

    ``claim_id`` is the claim's number in the list of claims (C04), or – for one that is not listed; ``margin`` says in
    words what the margin measures and in which unit; ``held`` and ``refuted`` are the conclusions to be drawn from
    either verdict. ``formula`` is read by eye, not by TeX.
    """

    name: str
    claim_id: str
    title: Text
    claim: Text
    formula: Text
    method: Text
    margin: Text
    held: Text
    refuted: Text
    experiment: Callable[[Mode], Findings]


@dataclass(frozen=True)
class Result:
    """The result of a lab. ``margin`` is the mean over seeds, ``interval`` its 95 % interval, ``figure`` the SVG or
    None."""

    lab: Lab
    mode: Mode
    findings: Findings
    held: bool
    margin: float
    interval: tuple[float, float]
    seconds: float
    figure: Path | None

    @property
    def name(self) -> str:
        """The lab's name."""
        return self.lab.name

    @property
    def claim_id(self) -> str:
        """The identifier of the lab's claim, such as C04."""
        return self.lab.claim_id

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return len(self.findings.margins)

    @property
    def conclusion(self) -> Text:
        """What follows from the verdict."""
        return self.lab.held if self.held else self.lab.refuted

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``layerwise lab --json``: plain JSON, texts in both languages (``…_zh``)."""
        columns, rows = self.findings.table
        return {
            "name": self.name,
            "claim": self.claim_id,
            "held": self.held,
            "margin": self.margin,
            "seconds": round(self.seconds, 3),
            "figure": str(self.figure) if self.figure else None,
            "mode": self.mode,
            "seeds": self.seeds,
            "interval": list(self.interval),
            "bound": self.findings.bound,
            "margins": list(self.findings.margins),
            "title": self.lab.title.en,
            "title_zh": self.lab.title.zh,
            "conclusion": self.conclusion.en,
            "conclusion_zh": self.conclusion.zh,
            "checks": [{"text": c.text.en, "text_zh": c.text.zh, "passed": c.passed} for c in self.findings.checks],
            "table": {
                "columns": [c.heading.en for c in columns],
                "columns_zh": [c.heading.zh for c in columns],
                "rows": [[cell.en if isinstance(cell, Text) else cell for cell in row] for row in rows],
            },
        }


def format_signed(value: float, spec: str = ".3f") -> str:
    """Return a number as text, with a true minus sign and no negative zero."""
    return format(value, "z" + spec).replace("-", "−")


def compute_interval(values: Sequence[float]) -> Interval:
    """Return mean ± t·s/√n, the 95 % interval of Student's t with n − 1 degrees of freedom (Student 1908).

    Args:
        values: one measurement for each seed, n ≥ 2. Equal ones give an interval of no width.

    Raises `ValueError` for fewer than two values.
    """
    from scipy.special import stdtrit  # Student's quantile; comes with scikit-learn, and scipy.stats is slow to import

    if len(values) < 2:
        raise ValueError(f"an interval needs two values or more, received {len(values)}")
    mean = math.fsum(values) / len(values)
    spread = float(np.std(values, ddof=1)) if max(values) > min(values) else 0.0
    half = float(stdtrit(len(values) - 1, (1 + CONFIDENCE) / 2)) * spread / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half)


@contextmanager
def use_one_thread() -> Iterator[None]:
    """Run torch and the linear algebra beneath NumPy and scikit-learn on one thread inside.

    For problems so small that handing work to a second thread costs more than it saves, up to fifteen times as much.
    """
    import scipy.linalg  # noqa: F401 (threadpoolctl sees only loaded libraries)
    import torch  # labs' names and texts are known without it
    from threadpoolctl import threadpool_limits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)


def is_held(findings: Findings) -> bool:
    """Return whether the claim held: the margin's interval lies above the bound, and every check passed."""
    return compute_interval(findings.margins).low > findings.bound and all(c.passed for c in findings.checks)


def run_lab(lab: Lab, *, mode: Mode, out: Path | None, lang: Lang) -> Result:
    """Run a lab's experiment; see `layerwise.labs.run`. Raises `UsageError` for an unknown mode or language."""
    if mode not in MODES:
        raise UsageError(f"a lab has no mode '{mode}'", expected=f"one of {', '.join(MODES)}", received=f"'{mode}'")
    if lang not in ("en", "zh"):
        raise UsageError(f"labs do not speak '{lang}'", expected="en or zh", received=f"'{lang}'")
    machine.keep_large_buffers()
    start = time.perf_counter()
    with rng.preserve_rng_state():
        findings = lab.experiment(mode)
    mean, low, high = compute_interval(findings.margins)
    figure = None
    if out is not None:
        from layerwise.labs.figures import save_svg  # matplotlib is slow to import

        figure = save_svg(findings.draw, lang, path=out / f"{lab.name}.svg")
    seconds = time.perf_counter() - start
    return Result(lab, mode, findings, is_held(findings), mean, (low, high), seconds, figure)
