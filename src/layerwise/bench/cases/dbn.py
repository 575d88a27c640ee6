"""A deep belief network with 10,000 labels, pre-trained on all images, beside models with the same labels
only."""

from __future__ import annotations

from layerwise.bench.base import Case, Quality, Row, Spec
from layerwise.bench.side import Measurement


def measure_pretrained(spec: Spec) -> Measurement:
    """Train ``dbn`` with its own recipe: greedy layers on the training part without labels, fine-tuning on the named
    examples."""
    return _train_dbn(spec, f"stages.pretrain.epochs={spec['layer_epochs']}")


def measure_plain(spec: Spec) -> Measurement:
    """Train the same network from its first weights by the same recipe's last stage alone."""
    return _train_dbn(spec, "stages.pretrain.epochs=0")


def _train_dbn(spec: Spec, setting: str) -> Measurement:
    """Train ``dbn`` with its own recipe but for a setting, and return its test accuracy."""
    from layerwise.bench.training import train_run
    from layerwise.planning.resolve import Request

    tuning = (f"stages.fine-tune.examples={spec['examples']}", f"stages.fine-tune.epochs={spec['epochs']}")
    request = Request(model="dbn", data=spec["data"], seed=spec["seed"], settings=(setting, *tuning))
    with train_run(request) as run:
        metrics = run.outcome.metrics
        return Measurement(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**run.facts, "metrics": metrics}
        )


def measure_mlp(spec: Spec) -> Measurement:
    """Train ``mlp`` of the same shape on the same examples: sigmoid units from Xavier's first weights, the same last
    stage."""
    from layerwise.bench.training import train_run
    from layerwise.planning.resolve import Request, make_plan

    stage = make_plan(Request(model="dbn", data=spec["data"], seed=spec["seed"])).recipe.stages[-1]
    settings = (
        "model.hidden=[500, 500, 500]",
        "model.activation='sigmoid'",
        "model.dropout=0.0",
        "task.scale='unit'",
        f"stages.main.examples={spec['examples']}",
        f"stages.main.epochs={spec['epochs']}",
        f"stages.main.batch_size={stage.batch_size}",
        f"stages.main.patience={stage.patience}",
        *(f"rule.{key}={stage.rule[key]!r}" for key in ("lr", "schedule", "final_lr_ratio", "warmup")),
    )
    with train_run(Request(model="mlp", data=spec["data"], seed=spec["seed"], settings=settings)) as run:
        metrics = run.outcome.metrics
        return Measurement(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**run.facts, "metrics": metrics}
        )


def measure_svm(spec: Spec) -> Measurement:
    """Fit an RBF-SVM on the same examples, C and γ chosen on the validation part, and return its test accuracy."""
    from concurrent.futures import ThreadPoolExecutor

    from sklearn.svm import SVC

    from layerwise.bench.training import collate_arrays
    from layerwise.planning.resolve import Request, make_plan
    from layerwise.runtime.resources import count_cores

    settings = (f"stages.fine-tune.examples={spec['examples']}",)
    plan = make_plan(Request(model="dbn", data=spec["data"], seed=spec["seed"], settings=settings))
    x, y = collate_arrays(plan, plan.get_training_source(plan.recipe.stages[-1]), "float64")
    val_x, val_y = collate_arrays(plan, plan.splits.val, "float64")
    test_x, test_y = collate_arrays(plan, plan.splits.test, "float64")
    unit = 1 / (x.shape[1] * x.var())  # scikit-learn's gamma="scale"

    def fit_and_score(pair: tuple[float, float]) -> tuple[float, float, float, SVC]:
        model = SVC(C=pair[0], gamma=pair[1] * unit, cache_size=500).fit(x, y)
        return float(model.score(val_x, val_y)), *pair, model

    with ThreadPoolExecutor(count_cores()) as pool:  # libsvm releases the GIL
        trials = list(pool.map(fit_and_score, [(c, g) for c in spec["svm_c"] for g in spec["svm_gamma"]]))
    score, c, gamma, best = max(trials, key=lambda trial: trial[0])
    accuracy = float(best.score(test_x, test_y))
    grid = [{"C": c, "gamma": g, "val": s} for s, c, g, _ in trials]
    return Measurement(
        accuracy, {"accuracy": accuracy}, {"C": c, "gamma": gamma, "val": score, "examples": len(x), "grid": grid}
    )


CASE = Case(
    name="dbn",
    unit="accuracy",
    spec={
        "data": "fashion-mnist",
        "examples": 10_000,
        "epochs": 30,
        "layer_epochs": 10,
        "svm_c": [2.0, 10.0, 50.0],
        "svm_gamma": [0.5, 1.0, 2.0],
    },
    sides={"pre-trained": measure_pretrained, "plain": measure_plain, "mlp": measure_mlp, "svm": measure_svm},
    rows=(
        Row("RBF-SVM (scikit-learn SVC, C and γ by validation), same 10,000 labels", "svm", None, ours="pre-trained"),
        Row("itself without pre-training", "plain", None, ours="pre-trained"),
        Row(
            "mlp of the same shape, sigmoid, Xavier's first weights, same 10,000 labels",
            "mlp",
            None,
            ours="pre-trained",
        ),
    ),
    quality=(Quality("accuracy", decides=False),),
    average="mean",
    min_runs=5,
    note="test accuracy; the labeled examples are drawn by class with the run's seed from the training part, "
    "whose other labels are "
    "not looked at. All choose on the same validation part. γ in units of scikit-learn's 'scale'",
)
