"""The harness: names, arithmetic, JSON, and one small real measurement of each kind."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from layerwise import bench, registry
from layerwise.bench import base
from layerwise.bench.base import Bound, Case, Quality, Row
from layerwise.bench.cases.rbm import compute_reconstruction_error
from layerwise.bench.intervals import compute_difference, compute_interval
from layerwise.bench.side import BenchError, Measurement
from layerwise.errors import UsageError
from layerwise.planning.resolve import Request, make_plan

NAMES = (
    "accuracy cache cbow convolution cooccurrence cuda dbn decoding engines glove inference inference-bf16 "
    "inference-one loop mlp-sklearn mlp-torch "
    "noisy-neighbor perceptron rbm resnet20-cifar10 skipgram startup tables training-step vocabulary zipf"
).split()


def make_case(*rows: Row, quality: tuple[Quality, ...] = ()) -> Case:
    return Case(name="made-up", unit="examples/s", spec={}, sides={}, rows=rows, note="none", quality=quality)


def make_measurements(*values: float, accuracy: float = 0.5) -> list[Measurement]:
    return [Measurement(v, {"accuracy": accuracy + 0.01 * i}) for i, v in enumerate(values)]


def test_names_come_without_torch() -> None:
    code = "import sys; from layerwise import bench; print(*bench.list_cases()); assert 'torch' not in sys.modules"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.split() == NAMES


def test_every_case_imports_without_torch() -> None:
    code = (
        "import sys; from layerwise import bench; [bench.find(n) for n in bench.list_cases()]; assert 'torch' not in "
        "sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_case_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError) as caught:
        bench.run("mlp-skleran", runs=1)
    assert "there is no benchmark 'mlp-skleran'" in str(caught.value)
    assert "did you mean 'mlp-sklearn'?" in str(caught.value)


def test_a_case_that_this_machine_cannot_run_says_why() -> None:
    case = replace(make_case(Row("peer", "theirs", Bound(2.0))), skip_reason=lambda: "there is no such device here")
    (result,) = base.run_case(case, runs=3)
    entry = result.to_json()
    assert entry["skipped"] == "there is no such device here"
    assert (entry["ours"], entry["theirs"], entry["ratio"], entry["met"], entry["runs"]) == (None, None, None, None, 0)
    assert entry["target"] == 2.0


def test_no_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="--runs 1 or more"):
        bench.run("startup", runs=0)


@pytest.mark.parametrize("name", bench.list_cases())
def test_a_case_is_whole(name: str) -> None:
    case = bench.find(name)
    assert case.name == name
    for row in case.rows:
        assert row.ours in case.sides
        assert row.theirs in case.sides if isinstance(row.theirs, str) else row.theirs > 0


def test_the_ratio_is_of_medians() -> None:
    row = Row("peer", "theirs", Bound(2.0))
    measurements = {"ours": make_measurements(10, 100, 30), "theirs": make_measurements(10, 14, 1)}
    result = base.compare_sides(make_case(row), row, measurements, spec={}, machine={})
    assert (result.ours, result.theirs, result.ratio, result.met) == (30, 10, 3.0, True)
    assert result.ours_all == [10, 100, 30]


def test_a_time_must_stay_below_its_bound() -> None:
    row = Row("limit", 0.3, Bound(1.0, "at most"))
    case = make_case(row)
    assert base.compare_sides(case, row, {"ours": make_measurements(0.2, 0.29)}, spec={}, machine={}).met is True
    assert base.compare_sides(case, row, {"ours": make_measurements(0.4, 0.29)}, spec={}, machine={}).met is False


def test_speed_bought_with_quality_does_not_meet_the_target() -> None:
    row = Row("peer", "theirs", Bound(2.0))
    case = make_case(row, quality=(Quality("accuracy"),))
    fast_and_bad = {
        "ours": make_measurements(30, 30, 30, accuracy=0.5),
        "theirs": make_measurements(10, 10, 10, accuracy=0.9),
    }
    result = base.compare_sides(case, row, fast_and_bad, spec={}, machine={})
    assert result.ratio == 3.0
    assert result.quality["accuracy"]["not_worse"] is False
    assert result.met is False
    fast_and_good = {
        "ours": make_measurements(30, 30, 30, accuracy=0.9),
        "theirs": make_measurements(10, 10, 10, accuracy=0.5),
    }
    assert base.compare_sides(case, row, fast_and_good, spec={}, machine={}).met is True


def test_a_single_worse_run_is_worse() -> None:
    comparison = base.compare_quality(
        Quality("accuracy"), make_measurements(1, accuracy=0.8), make_measurements(1, accuracy=0.81)
    )
    assert comparison["not_worse"] is False
    assert comparison["ours"]["low"] is None


def test_intervals_are_students() -> None:
    from scipy import stats

    a, b = [0.1, 0.4, 0.35, 0.2], [0.5, 0.3, 0.9]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(a), scale=stats.sem(a))
    assert compute_interval(a)[1:] == pytest.approx((low, high))
    welch = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert compute_difference(a, b)[1:] == pytest.approx((welch.low, welch.high))


def test_the_reconstruction_error_is_per_pixel() -> None:
    v = np.array([[1.0, 0.0], [0.0, 0.0]])
    zero = compute_reconstruction_error(v, weights=np.zeros((3, 2)), visible_bias=np.zeros(2), hidden_bias=np.zeros(3))
    assert zero == pytest.approx(0.25)  # σ(0) = ½ everywhere


def test_a_failed_side_says_how_to_see_it_again() -> None:
    from layerwise.bench.side import measure_side

    with pytest.raises(BenchError, match="startup: no-such-side failed with exit code 1") as caught:
        measure_side("startup", "no-such-side", {}, timeout=60)
    assert "layerwise.bench.side startup no-such-side" in str(caught.value)


def test_startup_is_measured_and_kept(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    results = base.run_case(bench.find("startup"), runs=1, min_runs=1)
    assert [r.runs for r in results] == [1, 1]
    assert "startup  1/1  help" in capfd.readouterr().err
    file = tmp_path / "new" / "results.jsonl"
    for result in results:
        bench.append(file, result)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert {
            "case",
            "peer",
            "ours",
            "theirs",
            "unit",
            "ratio",
            "runs",
            "target",
            "met",
            "ours_all",
            "machine",
        } <= set(row)
        assert row["ratio"] == pytest.approx(row["ours"] / row["theirs"], rel=1e-4)
        assert row["machine"]["cores"] >= 1


def test_a_small_machine_is_measured_beside_its_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "layerwise.runtime.resources.count_cores", lambda: 1
    )  # two threads crawl where other tests run beside
    monkeypatch.setenv("LAYERWISE_MATMUL", "highest")
    case = bench.find("rbm")
    small = {"data": "digits", "epochs": 2, "hidden": 16}
    measurements = {side: [case.sides[side]({**case.spec, **small, "seed": 0})] for side in ("ours", "sklearn-float32")}
    result = base.compare_sides(case, case.rows[0], measurements, spec=small, machine={})
    error = result.quality["reconstruction error"]
    assert 0 < error["ours"]["mean"] < 0.25
    assert 0 < error["theirs"]["mean"] < 0.25
    assert result.ratio > 0


def test_a_change_to_an_unknown_key_is_refused() -> None:
    with pytest.raises(UsageError, match=r"rbm has no \['hiden'\]"):
        base.run_case(bench.find("rbm"), runs=1, changes={"hiden": 3})


def test_the_mlp_cases_train_what_they_say_whatever_the_card_recommends() -> None:
    from layerwise.bench.cases.mlp_sklearn import SETTINGS
    from layerwise.bench.training import make_request

    resolved = make_plan(make_request("mlp", {"data": "digits", "epochs": 3, "seed": 4}, SETTINGS))
    (stage,) = resolved.recipe.stages
    assert (stage.epochs, stage.batch_size, resolved.recipe.train.validate) == (3, 128, False)
    plain = {"optimizer": "adam", "lr": 0.001, "schedule": "constant", "warmup": 0.0}
    assert plain.items() <= stage.rule.items()
    off = ("weight_decay", "l2", "l1", "clip_grad", "ema_decay")
    assert [stage.rule[key] for key in off] == [0.0] * len(off)
    built = [type(layer).__name__ for layer in registry.get_builder(resolved.spec)(**resolved.model_args)]
    assert built == ["Flatten", "Linear", "ReLU", "Linear"]


@pytest.mark.parametrize("side", ["pre-trained", "plain", "mlp", "svm"])
def test_the_settings_of_the_dbn_case_are_understood(side: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, planned = bench.find("dbn"), []

    def only_plan(request: Request, **_: object) -> None:
        planned.append(make_plan(request).recipe.stages)
        raise InterruptedError

    monkeypatch.setattr("layerwise.bench.training.train", only_plan)
    small = {**case.spec, "data": "digits", "examples": 200, "svm_c": [2.0], "svm_gamma": [1.0], "seed": 0}
    if side == "svm":
        assert case.sides[side](small).value > 0.8
        return
    with pytest.raises(InterruptedError):
        case.sides[side](small)
    (stages,) = planned
    layers = {"pre-trained": [10] * 2, "plain": [0] * 2, "mlp": []}[side]
    assert [stage.epochs for stage in stages] == [*layers, 30]
    assert stages[-1].examples == 200
