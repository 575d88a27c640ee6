"""What a case is made of, how it is measured, and what comes out.

In each turn every side is measured once, each in a new process; the order is turned round from turn to turn, so that a
machine that grows slower or busier does so for all. What is compared is the median (of speeds) or the mean (of
accuracies) over all turns.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from layerwise.bench.figures import Interval, difference, interval, versions
from layerwise.bench.process import Measure, measure
from layerwise.errors import UsageError

Spec = dict[str, Any]
Measured = dict[str, list[Measure]]


Side = Callable[[Spec], Measure]


@dataclass(frozen=True)
class Bound:
    """What ours/theirs must keep to: at least (speeds, accuracies) or at most (times) so much."""

    value: float
    kind: Literal["at least", "at most"] = "at least"

    def met(self, ratio: float) -> bool:
        """Whether a ratio keeps to the bound."""
        return ratio >= self.value if self.kind == "at least" else ratio <= self.value


@dataclass(frozen=True)
class Quality:
    """A metric of what was learned, compared beside the speed. ``judged``: ours must not be worse for the target to be
    met.

    Not worse: the mean is as good, or the 95 % interval of the difference (Welch) reaches equality. A single run has no
        interval.
    """

    metric: str
    more_is_better: bool = True
    judged: bool = True


@dataclass(frozen=True)
class Row:
    """A comparison: the side ``ours`` beside ``theirs``, another side or a fixed number. Without a bound it is shown
    only."""

    peer: str
    theirs: str | float
    bound: Bound | None
    ours: str = "ours"


@dataclass(frozen=True)
class Case:
    """What is measured, with what, beside whom.

    ``spec`` is told to every side, with the turn's ``seed``; ``least`` is the fewest turns that make sense; ``timeout``
    the seconds after which a side has failed; ``note`` what a reader of the numbers must know. ``paired``: in each turn
    all sides have the same split, so that differences are taken turn by turn. ``lacking`` says what this machine lacks
    to run the case; empty: nothing.
    """

    name: str
    unit: str
    spec: Mapping[str, Any]
    sides: Mapping[str, Side]
    rows: Sequence[Row]
    note: str
    quality: Sequence[Quality] = ()
    average: Literal["median", "mean"] = "median"
    least: int = 1
    timeout: float = 3600.0
    paired: bool = False
    lacking: Callable[[], str] = lambda: ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A comparison's outcome. ``ours`` and ``theirs`` are averages in ``unit``, ``ratio`` is ours/theirs.

    ``met`` says whether ratio and quality keep to the target, None where there is no target. ``ours_all`` and
    ``theirs_all`` are the single measurements, in the order made; ``quality`` has both sides' metrics with 95 %
    t-intervals of their means. ``skipped`` says why nothing was measured, where this machine lacks what the case needs;
    the figures are then None.
    """

    case: str
    peer: str
    ours: float | None
    theirs: float | None
    unit: str
    ratio: float | None
    runs: int
    average: str
    target: float | None
    bound: str | None
    met: bool | None
    ours_all: list[float]
    theirs_all: list[float]
    quality: dict[str, dict[str, Any]]
    spec: Spec
    note: str
    facts: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    skipped: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON holds them; numbers with six significant digits."""
        return {name: _rounded(getattr(self, name)) for name in self.__dataclass_fields__}


def run(case: Case, *, runs: int, changes: Mapping[str, Any] | None = None, least: int | None = None) -> list[Result]:
    """Measure a case and return a result for each of its rows.

    Args:
        case: what to measure.
        runs: turns; the case's ``least`` if that is more.
        changes: values laid over the case's spec (a smaller data set, fewer epochs).
        least: instead of the case's own.

    Raises:
        UsageError: for fewer than one run, or a change to a key that the spec does not have.
        BenchError: if a side fails or takes longer than the case's timeout.
    """
    if runs < 1:
        raise UsageError("a benchmark needs a run", expected="--runs 1 or more", received=str(runs))
    unasked = set(changes or {}) - set(case.spec)
    if unasked:
        raise UsageError(f"{case.name} has no {sorted(unasked)} in its spec", expected=f"some of {sorted(case.spec)}")
    turns = max(runs, case.least if least is None else least)
    spec: Spec = {**case.spec, **(changes or {})}
    if reason := case.lacking():
        print(f"{case.name}  skipped: {reason}", file=sys.stderr)
        return [skipped(case, row, reason, spec=spec) for row in case.rows]
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    found: Measured = {side: [] for side in case.sides}
    for turn in range(turns):
        order = list(case.sides) if turn % 2 == 0 else list(case.sides)[::-1]
        for side in order:
            began = time.monotonic()
            one = measure(case.name, side, {**spec, "seed": turn}, timeout=case.timeout)
            found[side].append(one)
            learned = "".join(f"  {name} {value:.5g}" for name, value in one.quality.items())
            took = time.monotonic() - began
            print(
                f"{case.name}  {turn + 1}/{turns}  {side}  {one.value:.5g} {case.unit}{learned}  ({took:.1f} s)",
                file=sys.stderr,
            )
    machine = {**versions(), "load_before": before}
    return [result_of(case, row, found, spec=spec, machine=machine) for row in case.rows]


def skipped(case: Case, row: Row, reason: str, *, spec: Spec) -> Result:
    """Return the result of a row that this machine cannot measure."""
    bound = row.bound
    return Result(
        case=case.name,
        peer=row.peer,
        ours=None,
        theirs=None,
        unit=case.unit,
        ratio=None,
        runs=0,
        average=case.average,
        target=None if bound is None else bound.value,
        bound=None if bound is None else bound.kind,
        met=None,
        ours_all=[],
        theirs_all=[],
        quality={},
        spec=spec,
        note=case.note,
        machine=versions(),
        skipped=reason,
    )


def result_of(case: Case, row: Row, found: Measured, *, spec: Spec, machine: dict[str, Any]) -> Result:
    """Compare the measurements of a row's two sides."""
    middle = median if case.average == "median" else fmean
    mine = found[row.ours]
    others = found[row.theirs] if isinstance(row.theirs, str) else [Measure(row.theirs) for _ in mine]
    ours, theirs = middle([m.value for m in mine]), middle([m.value for m in others])
    ratio = ours / theirs
    quality = {
        q.metric: compared(q, mine, others, paired=case.paired) for q in case.quality if isinstance(row.theirs, str)
    }
    good = all(quality[q.metric]["not_worse"] for q in case.quality if q.judged and q.metric in quality)
    bound = row.bound
    return Result(
        case=case.name,
        peer=row.peer,
        ours=ours,
        theirs=theirs,
        unit=case.unit,
        ratio=ratio,
        runs=len(mine),
        average=case.average,
        target=None if bound is None else bound.value,
        bound=None if bound is None else bound.kind,
        met=None if bound is None else bound.met(ratio) and good,
        ours_all=[m.value for m in mine],
        theirs_all=[m.value for m in others],
        quality=quality,
        spec=spec,
        note=case.note,
        facts={"ours": mine[-1].facts, "theirs": others[-1].facts},
        machine=machine,
    )


def compared(
    quality: Quality, mine: Sequence[Measure], others: Sequence[Measure], *, paired: bool = False
) -> dict[str, Any]:
    """Return a metric of both sides with its intervals, and whether ours is not worse. ``paired`` takes the difference
    turn by turn."""
    ours, theirs = ([m.quality[quality.metric] for m in side] for side in (mine, others))
    gap = interval([a - b for a, b in zip(ours, theirs, strict=True)]) if paired else difference(ours, theirs)
    better = gap.mean >= 0 if quality.more_is_better else gap.mean <= 0
    return {
        "ours": _plain(interval(ours), ours),
        "theirs": _plain(interval(theirs), theirs),
        "difference": _plain(gap, None),
        "not_worse": better or (gap.low is not None and gap.high is not None and gap.low <= 0 <= gap.high),
    }


def _plain(found: Interval, values: list[float] | None) -> dict[str, Any]:
    """Return an interval as JSON holds it, with the values it is of."""
    out: dict[str, Any] = {"mean": found.mean, "low": found.low, "high": found.high}
    return out if values is None else {**out, "all": values}


def _rounded(value: Any) -> Any:
    """Return a value with six significant digits in each of its numbers."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
