"""One suite over all models: every one builds, learns, saves, opens, predicts, resumes exactly, and refuses
clearly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from layerwise import api, recipe, registry
from layerwise.errors import UsageError
from layerwise.planning.resolve import Request
from layerwise.rules import registry as rules
from layerwise.run_check import verify
from layerwise.tasks import registry as tasks
from layerwise.training.loop import run_steps
from layerwise.training.run_training import train
from processes import patch_report
from small_runs import BATCH_SIZES, get_small_form, write_corpus

SPECS = sorted(registry.load_specs())
LEARNING = [name for name in SPECS if registry.find(name).rule]
ANSWERING = [
    name for name in LEARNING if registry.find(name).family != "word-vectors"
]  # answers about words: tests/tasks/test_words.py
REPORTED = {
    registry.find(name).module: name for name in LEARNING
}.values()  # one model a file: figures cost more than the training
TINY = {"train.threads": 1, "train.log_every": 3, "train.checkpoint_seconds": 1e-9}


def small(name: str) -> registry.ModelSpec:
    """Return a model whose small form is at most 100,000 parameters."""
    return registry.find(name)


def count(model: torch.nn.Module) -> int:
    """Return the number of parameters."""
    return sum(p.numel() for p in model.parameters())


def fit(name: str, out: Path, device: str) -> api.Run:
    """Train a model's small form for two epochs a stage on a piece of the digits (images of its small form's size),
    iris or a text."""
    spec = registry.find(name)
    options: dict[str, object] = {**TINY, **get_small_form(name, examples=48)}
    if device != "cpu":
        options["train.deterministic"] = True
    if "size" in spec.small:
        options["train.checkpoint_seconds"] = (
            60.0  # by the epoch, since each of many networks is trained four times here
        )
    data = "iris" if name in ("perceptron", "mlp", "rbm", "dbn", "hebbian", "oja") else "digits"
    if spec.family == "word-vectors":
        data = write_corpus(out.parent / "animals.txt")
    return api.train(
        name, data=data, out=out, options=options, epochs=2, batch_size=BATCH_SIZES.get(name, 16), seed=3, device=device
    )


def weights_of(run: api.Run, which: str = "last") -> dict[str, torch.Tensor]:
    """Return a checkpoint's weights."""
    checkpoint = api.RunDirectory(run.path).restore(which)
    assert checkpoint is not None
    return checkpoint.model


class Runs(dict[str, api.Run]):
    """The models' runs by name: each is trained once, when it is asked for."""

    def __init__(self, place: Path, device: str) -> None:
        super().__init__()
        self.place, self.device = place, device

    def __missing__(self, name: str) -> api.Run:
        with patch_report(name in REPORTED):
            self[name] = fit(name, self.place / name, self.device)
        return self[name]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Runs:
    """Train each model once, on the device that the tests were started with; the tests below look at the same runs."""
    return Runs(tmp_path_factory.mktemp("contract"), pytestconfig.getoption("--device"))


@pytest.mark.parametrize("name", SPECS)
def test_spec_is_complete(name: str) -> None:
    """A built-in model states what a user's may leave out."""
    spec = registry.find(name)
    docstring = registry.get_builder(spec).__doc__ or ""
    assert spec.summary not in ("", name, docstring.strip().split("\n")[0].rstrip("."))
    assert spec.family != "user"
    assert spec.parameters is not None
    assert spec.small
    assert spec.year is not None
    assert 1900 < spec.year < 2100
    assert str(spec.year) in spec.paper
    assert set(spec.tasks) <= set(tasks.TASKS)
    assert any("\u4e00" <= c <= "\u9fff" for c in spec.summary_zh)
    assert spec.rule in rules.RULES or (spec.rule is None and spec.why and spec.why_zh)


@pytest.mark.parametrize("name", SPECS)
def test_small_form_is_small(name: str) -> None:
    spec = registry.find(name)
    builder = registry.get_builder(spec)
    assert count(builder(**recipe.resolve_arguments(builder, spec.small, {}, name))) <= 100_000


@pytest.mark.parametrize("name", SPECS)
def test_full_size_has_the_stated_parameters(name: str) -> None:
    spec = registry.find(name)
    args = recipe.resolve_arguments(registry.get_builder(spec), {**spec.recipe.get("model", {}), **spec.size}, {}, name)
    with torch.device("meta"):
        model = registry.get_builder(spec)(**args)
    assert count(model) == spec.parameters


@pytest.mark.parametrize("name", SPECS)
def test_unknown_argument_is_refused_with_the_nearest(name: str) -> None:
    spec = registry.find(name)
    names = recipe.get_parameter_names(registry.get_builder(spec))
    with pytest.raises(UsageError, match=f"did you mean '{names[0]}'"):
        recipe.resolve_arguments(registry.get_builder(spec), {names[0] + "x": 1}, {}, name)


@pytest.mark.parametrize("name", LEARNING)
def test_every_parameter_learns(name: str, runs: Runs) -> None:
    """Over a recipe's stages every parameter moves from where the seed put it."""
    run = runs[name]
    spec = registry.find(name)
    with torch.random.fork_rng():
        from layerwise.runtime import rng

        torch.manual_seed(rng.derive_seed(3, "weights"))
        fresh = registry.get_builder(spec)(**run.info["model"]["arguments"]).state_dict()
    learned = weights_of(run)
    still = [n for n, p in fresh.items() if torch.equal(p, learned[n]) and not n.endswith("running_mean")]
    assert not still


@pytest.mark.parametrize("name", LEARNING)
def test_run_is_whole_and_its_metrics_are_finite(name: str, runs: Runs) -> None:
    run = runs[name]
    assert not {n: p for n, p in verify(api.RunDirectory(run.path)).items() if p}
    assert {m.split("/")[0] for m in run.metrics} == {"val", "test"}
    assert all(np.isfinite(value) for value in run.metrics.values())
    assert (run.path / "report.html").is_file() == (name in REPORTED)


@pytest.mark.parametrize("name", ANSWERING)
def test_opened_run_predicts_what_was_evaluated(name: str, runs: Runs) -> None:
    """Metrics recomputed from a fresh opening, example by example in NumPy, equal those that training wrote."""
    run = runs[name]
    from layerwise.data.load import Options, load_splits
    from layerwise.data.source import get_targets

    options = recipe.check_table(Options, run.recipe.data, where="test")
    test = load_splits(options, seed=3).test
    answers = run.predictor()(*[test[i].input for i in range(len(test))])
    truth = get_targets(test)
    assert truth is not None
    if hasattr(answers[0], "label"):
        right = np.mean([a.label == test.schema.classes[int(t)] for a, t in zip(answers, truth, strict=True)])
        assert run.metrics["test/accuracy"] == pytest.approx(right, abs=1e-12)
    else:
        assert run.metrics["test/mse"] == pytest.approx(np.mean([a.error for a in answers]), rel=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_recipe_repeats_the_run_exactly_whatever_is_saved_and_logged(name: str, runs: Runs, tmp_path: Path) -> None:
    """Without checkpoints and with other logging weights and metrics are the same: nothing around the loop draws
    numbers.

    Such a run keeps its best weights only; the last ones are compared by the resume below, which trains the recipe
    again too.
    """
    options = {"train.checkpoint_seconds": 0, "train.log_every": 1000}
    again = api.train(str(runs[name].path / "recipe.toml"), out=tmp_path / "again", options=options)
    old, new = weights_of(runs[name], "best"), weights_of(again, "best")
    assert all(torch.equal(old[n], new[n]) for n in old)
    assert again.metrics == runs[name].metrics


@pytest.mark.parametrize("name", LEARNING)
def test_resume_from_the_middle_is_exact(name: str, runs: Runs, tmp_path: Path) -> None:
    """Interrupt inside the first and inside the last stage; the resumed run ends with the same weights, bit for bit."""
    unbroken = runs[name]
    stages = len(unbroken.recipe.stages)
    for stage in sorted({0, stages - 1}):
        out = tmp_path / f"cut-{stage}"
        cut_short(unbroken, out, stage=stage, after=4)
        resumed = train(Request(model=str(out / "recipe.toml"), resume=True), quiet=True)
        assert resumed.resumed
        old, new = weights_of(unbroken), weights_of(api.Run(out))
        assert all(torch.equal(old[n], new[n]) for n in old)
        assert resumed.metrics == unbroken.metrics
        rows = [{k: v for k, v in r.items() if k != "seconds"} for r in api.RunDirectory(out).read_metrics()]
        assert rows == [
            {k: v for k, v in r.items() if k != "seconds"} for r in api.RunDirectory(unbroken.path).read_metrics()
        ]


def cut_short(unbroken: api.Run, out: Path, *, stage: int, after: int) -> None:
    """Train a run's recipe again, and stop it as Ctrl-C would after some steps of a stage."""
    import signal

    from layerwise.errors import Interrupted
    from layerwise.training import session

    seen = 0

    def counted(rule, batches, epochs, start):  # type: ignore[no-untyped-def]
        nonlocal seen
        for event in run_steps(rule, batches, epochs, start):
            seen += event.cursor.stage == stage
            if seen == after:
                signal.raise_signal(signal.SIGINT)
            yield event

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "run_steps", counted)
        with pytest.raises(Interrupted, match="a checkpoint was saved"):
            api.train(str(unbroken.path / "recipe.toml"), out=out)


def test_network_without_a_rule_says_why() -> None:
    with pytest.raises(
        UsageError, match=r"mcp \(1943\) cannot be trained: its weights and threshold are fixed by hand"
    ):
        api.train("mcp", data="digits")


@pytest.mark.parametrize("name", ["mlp", "rbm"])  # a meter belongs to a task, of which these have each
def test_evaluate_merges_meters_as_one(name: str, runs: Runs) -> None:
    """A meter merged from halves equals the meter of the whole."""
    from layerwise.data.batch import Batch

    run = runs[name]
    task = tasks.load_task(__import__("json").loads((run.path / "task.json").read_text()), run.path / "task.json")
    outputs = torch.randn(12, 3)
    if task.name == "reconstruction":
        batch = Batch(torch.rand(12, 3), None, torch.arange(12))
    else:
        batch = Batch(torch.zeros(12, 1), torch.randint(0, 3, (12,)), torch.arange(12))
    meter, halves = task.meter(), [task.meter(), task.meter()]
    meter.update(outputs, batch)
    for half, part in zip(halves, (slice(0, 5), slice(5, 12)), strict=True):
        half.update(outputs[part], batch.span(part))
    halves[0].merge_state(halves[1].state())
    assert meter.result() == pytest.approx(halves[0].result(), rel=1e-12)


def test_run_may_be_moved(runs: Runs, tmp_path: Path) -> None:
    """A run is a plain folder: it may be copied and moved, and opens where it lies."""
    copy = tmp_path / "elsewhere"
    shutil.copytree(runs["mlp"].path, copy)
    assert api.open(copy).metrics == runs["mlp"].metrics
