"""GloVe's training beside Stanford's C program, on the same text and threads, with the loss of the last iteration."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement
from layerwise.bench.stanford import get_skip_reason
from layerwise.runtime import strict_json

LOSS = "loss of the last iteration"


def measure_ours(spec: Spec) -> Measurement:
    """Train as ``layerwise train glove`` does."""

    from layerwise.bench import word_vectors
    from layerwise.bench.training import make_request, train_run
    from layerwise.data.text.cooccurrence import Cooccurrences
    from layerwise.planning.resolve import make_plan

    settings = (
        f"model.dim={spec['dim']}",
        f"task.window={spec['window']}",
        f"task.min_count={spec['min_count']}",
        f"task.x_max={spec['x_max']}",
        f"task.alpha={spec['alpha']}",
        f"rule.lr={spec['lr']}",
        "train.validate=false",
    )
    with word_vectors.open_bible(spec["repeats"], spec["seed"]) as texts:
        request = make_request("glove", {**spec, "data": str(texts.folder)}, settings)
        counts = make_plan(request).splits.train
        assert isinstance(counts, Cooccurrences)
        with train_run(request) as run:
            lines = [
                strict_json.loads(line)
                for line in (run.outcome.directory.path / "metrics.jsonl").read_text().splitlines()
            ]
            pairs = counts.index.records
            facts = {**run.facts, "pairs": pairs, "words": counts.index.words}
            return Measurement(run.examples_per_second * pairs / len(counts), {LOSS: lines[-1]["train/loss"]}, facts)


def measure_stanford(spec: Spec) -> Measurement:
    """Count, shuffle and train with the C program; its time is that of training alone, from the first iteration's end
    to the last's."""
    from layerwise.bench import word_vectors
    from layerwise.bench.stanford import Programs
    from layerwise.runtime.in_place_io import open_temporary_folder

    with word_vectors.open_bible(spec["repeats"], spec["seed"]) as texts, open_temporary_folder() as work:
        programs = Programs(texts.train, work, spec)
        for step in (programs.count_words, programs.count_pairs, programs.shuffle):
            step()
        speed, losses = programs.train()
        return Measurement(speed, {LOSS: losses[-1]}, {"pairs": programs.records, "losses": losses})


CASE = Case(
    name="glove",
    unit="pairs/s",
    spec={
        "repeats": 7,
        "epochs": 5,
        "dim": 100,
        "window": 15,
        "min_count": 5,
        "x_max": 100.0,
        "alpha": 0.75,
        "lr": 0.05,
        "threads": 2,
    },
    sides={"ours": measure_ours, "stanford": measure_stanford},
    rows=(Row("Stanford's GloVe in C", "stanford", Bound(10.0)),),
    quality=(Quality(LOSS, more_is_better=False),),
    min_runs=3,
    note="the King James Bible in lower case, without every 20th line, seven times over: about 5 million words, "
    "least count 5, window 15. "
    "Pairs of training a second, from the end of the first iteration on; ours has logging and a checkpoint "
    "each epoch in its time. Both "
    "2 threads, dimension 100, x_max 100, rate 0.05, 5 iterations. The loss is the mean of f(X)·diff², each "
    "pair's before its step",
    skip_reason=get_skip_reason,
)
