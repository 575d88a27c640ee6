"""What a case consists of, how it is measured, and its result.

Each turn measures every side once, in a new process; the order alternates from turn to turn, so that a machine that
grows slower or busier affects all sides. Compared is the median (of speeds) or the mean (of accuracies) over all turns.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import Any, Literal

from layerwise.bench.intervals import Interval, collect_versions, compute_difference, compute_interval
from layerwise.bench.side import Measurement, measure_side
from layerwise.errors import UsageError

Spec = dict[str, Any]
Measurements = dict[str, list[Measurement]]


Side = Callable[[Spec], Measurement]


@dataclass(frozen=True)
class Bound:
    """The bound of the ratio ours/theirs: at least (speeds, accuracies) or at most (times)."""

    value: float
    kind: Literal["at least", "at most"] = "at least"

    def is_met(self, ratio: float) -> bool:
        """Whether a ratio keeps to the bound."""
        return ratio >= self.value if self.kind == "at least" else ratio <= self.value


@dataclass(frozen=True)
class Quality:
    """A metric of the trained model, compared in addition to the speed. ``decides``: the target is met only if ours is
    not worse.

    Not worse: the mean is as good, or the 95 % interval of the difference (Welch) reaches equality. A single run has no
    interval.
    """

    metric: str
    more_is_better: bool = True
    decides: bool = True


@dataclass(frozen=True)
class Row:
    """A comparison: the side ``ours`` beside ``theirs``, another side or a fixed number. Without a bound it decides
    nothing."""

    peer: str
    theirs: str | float
    bound: Bound | None
    ours: str = "ours"


@dataclass(frozen=True)
class Case:
    """A comparison of sides: the unit, the spec, the rows.

    Every side receives ``spec`` with the turn's ``seed``; ``min_runs`` is the smallest number of turns; ``timeout`` the
    seconds after which a side has failed; ``note`` what a reader of the numbers must know. ``paired``: in each turn all
    sides have the same split, so differences are taken turn by turn. ``skip_reason`` returns why this machine cannot
    run the case, or an empty text.
    """

    name: str
    unit: str
    spec: Mapping[str, Any]
    sides: Mapping[str, Side]
    rows: Sequence[Row]
    note: str
    quality: Sequence[Quality] = ()
    average: Literal["median", "mean"] = "median"
    min_runs: int = 1
    timeout: float = 3600.0
    paired: bool = False
    skip_reason: Callable[[], str] = lambda: ""


@dataclass(frozen=True, kw_only=True)
class Result:
    """A comparison's outcome. ``ours`` and ``theirs`` are averages in ``unit``, ``ratio`` is ours/theirs.

    ``met`` tells whether ratio and quality keep to the target, None without a target. ``ours_all`` and ``theirs_all``
    are the single measurements, in order; ``quality`` has both sides' metrics with 95 % t-intervals of their means.
    ``skipped`` is the reason if this machine could not run the case; the figures are then None.
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
        return {name: _round_numbers(getattr(self, name)) for name in self.__dataclass_fields__}


def run_case(
    case: Case, *, runs: int, changes: Mapping[str, Any] | None = None, min_runs: int | None = None
) -> list[Result]:
    """Measure a case and return a result for each of its rows.

    Args:
        case: what to measure.
        runs: turns; the case's ``min_runs`` if that is more.
        changes: values that replace those of the case's spec (a smaller data set, fewer epochs).
        min_runs: instead of the case's own.

    Raises:
        UsageError: for fewer than one run, or a change to a key that the spec does not have.
        BenchError: if a side fails or takes longer than the case's timeout.
    """
    if runs < 1:
        raise UsageError("a benchmark needs a run", expected="--runs 1 or more", received=str(runs))
    unknown = set(changes or {}) - set(case.spec)
    if unknown:
        raise UsageError(f"{case.name} has no {sorted(unknown)} in its spec", expected=f"some of {sorted(case.spec)}")
    turns = max(runs, case.min_runs if min_runs is None else min_runs)
    spec: Spec = {**case.spec, **(changes or {})}
    if reason := case.skip_reason():
        print(f"{case.name}  skipped: {reason}", file=sys.stderr)
        return [make_skipped_result(case, row, reason, spec=spec) for row in case.rows]
    before = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    measurements: Measurements = {side: [] for side in case.sides}
    for turn in range(turns):
        order = list(case.sides) if turn % 2 == 0 else list(case.sides)[::-1]
        for side in order:
            start = time.monotonic()
            measurement = measure_side(case.name, side, {**spec, "seed": turn}, timeout=case.timeout)
            measurements[side].append(measurement)
            qualities = "".join(f"  {name} {value:.5g}" for name, value in measurement.quality.items())
            seconds = time.monotonic() - start
            print(
                f"{case.name}  {turn + 1}/{turns}  {side}  {measurement.value:.5g} {case.unit}{qualities}"
                f"  ({seconds:.1f} s)",
                file=sys.stderr,
            )
    machine = {**collect_versions(), "load_before": before}
    return [compare_sides(case, row, measurements, spec=spec, machine=machine) for row in case.rows]


def make_skipped_result(case: Case, row: Row, reason: str, *, spec: Spec) -> Result:
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
        machine=collect_versions(),
        skipped=reason,
    )


def compare_sides(case: Case, row: Row, measurements: Measurements, *, spec: Spec, machine: dict[str, Any]) -> Result:
    """Compare the measurements of a row's two sides."""
    average = median if case.average == "median" else fmean
    our_side = measurements[row.ours]
    their_side = (
        measurements[row.theirs] if isinstance(row.theirs, str) else [Measurement(row.theirs) for _ in our_side]
    )
    ours, theirs = average([m.value for m in our_side]), average([m.value for m in their_side])
    ratio = ours / theirs
    quality = {
        q.metric: compare_quality(q, our_side, their_side, paired=case.paired)
        for q in case.quality
        if isinstance(row.theirs, str)
    }
    good = all(quality[q.metric]["not_worse"] for q in case.quality if q.decides and q.metric in quality)
    bound = row.bound
    return Result(
        case=case.name,
        peer=row.peer,
        ours=ours,
        theirs=theirs,
        unit=case.unit,
        ratio=ratio,
        runs=len(our_side),
        average=case.average,
        target=None if bound is None else bound.value,
        bound=None if bound is None else bound.kind,
        met=None if bound is None else bound.is_met(ratio) and good,
        ours_all=[m.value for m in our_side],
        theirs_all=[m.value for m in their_side],
        quality=quality,
        spec=spec,
        note=case.note,
        facts={"ours": our_side[-1].facts, "theirs": their_side[-1].facts},
        machine=machine,
    )


def compare_quality(
    quality: Quality, our_side: Sequence[Measurement], their_side: Sequence[Measurement], *, paired: bool = False
) -> dict[str, Any]:
    """Return a metric of both sides with its intervals, and whether ours is not worse. ``paired`` takes the difference
    turn by turn."""
    ours, theirs = ([m.quality[quality.metric] for m in side] for side in (our_side, their_side))
    gap = (
        compute_interval([a - b for a, b in zip(ours, theirs, strict=True)])
        if paired
        else compute_difference(ours, theirs)
    )
    better = gap.mean >= 0 if quality.more_is_better else gap.mean <= 0
    return {
        "ours": _convert_interval(compute_interval(ours), ours),
        "theirs": _convert_interval(compute_interval(theirs), theirs),
        "difference": _convert_interval(gap, None),
        "not_worse": better or (gap.low is not None and gap.high is not None and gap.low <= 0 <= gap.high),
    }


def _convert_interval(interval: Interval, values: list[float] | None) -> dict[str, Any]:
    """Return an interval for JSON, with its values."""
    fields: dict[str, Any] = {"mean": interval.mean, "low": interval.low, "high": interval.high}
    return fields if values is None else {**fields, "all": values}


def _round_numbers(value: Any) -> Any:
    """Return a value with six significant digits in each of its numbers."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: _round_numbers(item) for name, item in value.items()}
    return [_round_numbers(item) for item in value] if isinstance(value, list | tuple) else value
