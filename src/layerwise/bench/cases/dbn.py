"""The deep belief network's table (S07): 10,000 labels, pre-trained on all images, beside what has the same labels
only."""

from __future__ import annotations

from layerwise.bench.base import Case, Quality, Row, Spec
from layerwise.bench.process import Measure


def pretrained(spec: Spec) -> Measure:
    """Train ``dbn`` with its own recipe: greedy layers on the training part without labels, fine-tuning on the named
    examples."""
    return _dbn(spec, f"stages.pretrain.epochs={spec['layer_epochs']}")


def plain(spec: Spec) -> Measure:
    """Train the same network from its first weights by the same recipe's last stage alone."""
    return _dbn(spec, "stages.pretrain.epochs=0")


def _dbn(spec: Spec, setting: str) -> Measure:
    """Train ``dbn`` with its own recipe but for a setting, and return its test accuracy."""
    from layerwise.bench.training import trained
    from layerwise.planning.resolve import Request

    tuning = (f"stages.fine-tune.examples={spec['examples']}", f"stages.fine-tune.epochs={spec['epochs']}")
    wanted = Request(model="dbn", data=spec["data"], seed=spec["seed"], settings=(setting, *tuning))
    with trained(wanted) as done:
        metrics = done.outcome.metrics
        return Measure(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**done.facts, "metrics": metrics}
        )


def mlp(spec: Spec) -> Measure:
    """Train ``mlp`` of the same shape on the same examples: sigmoid units from Xavier's first weights, the same last
    stage."""
    from layerwise.bench.training import trained
    from layerwise.planning.resolve import Request, plan

    stage = plan(Request(model="dbn", data=spec["data"], seed=spec["seed"])).recipe.stages[-1]
    settings = (
        "model.hidden=[500, 500, 500]",
        "model.activation='sigmoid'",
        "model.dropout=0.0",
        "task.scale='unit'",
        f"stages.main.examples={spec['examples']}",
        f"stages.main.epochs={spec['epochs']}",
        f"stages.main.batch={stage.batch}",
        f"stages.main.patience={stage.patience}",
        *(f"rule.{key}={stage.rule[key]!r}" for key in ("lr", "schedule", "floor", "warmup")),
    )
    with trained(Request(model="mlp", data=spec["data"], seed=spec["seed"], settings=settings)) as done:
        metrics = done.outcome.metrics
        return Measure(
            metrics["test/accuracy"], {"accuracy": metrics["test/accuracy"]}, {**done.facts, "metrics": metrics}
        )


def svm(spec: Spec) -> Measure:
    """Fit an RBF-SVM on the same examples, C and γ chosen on the validation part, and return its test accuracy."""
    from concurrent.futures import ThreadPoolExecutor

    from sklearn.svm import SVC

    from layerwise.bench.training import arrays
    from layerwise.planning.resolve import Request, plan
    from layerwise.runtime.machine import cores

    settings = (f"stages.fine-tune.examples={spec['examples']}",)
    made = plan(Request(model="dbn", data=spec["data"], seed=spec["seed"], settings=settings))
    x, y = arrays(made, made.training(made.recipe.stages[-1]), "float64")
    val_x, val_y = arrays(made, made.splits.val, "float64")
    test_x, test_y = arrays(made, made.splits.test, "float64")
    unit = 1 / (x.shape[1] * x.var())  # scikit-learn's gamma="scale"

    def tried(pair: tuple[float, float]) -> tuple[float, float, float, SVC]:
        machine = SVC(C=pair[0], gamma=pair[1] * unit, cache_size=500).fit(x, y)
        return float(machine.score(val_x, val_y)), *pair, machine

    with ThreadPoolExecutor(cores()) as pool:  # libsvm releases the GIL
        found = list(pool.map(tried, [(c, g) for c in spec["svm_c"] for g in spec["svm_gamma"]]))
    score, c, gamma, best = max(found, key=lambda one: one[0])
    accuracy = float(best.score(test_x, test_y))
    grid = [{"C": c, "gamma": g, "val": s} for s, c, g, _ in found]
    return Measure(
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
    sides={"pre-trained": pretrained, "plain": plain, "mlp": mlp, "svm": svm},
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
    quality=(Quality("accuracy", judged=False),),
    average="mean",
    least=5,
    note="test accuracy; the labeled examples are drawn by class with the run's seed from the training part, "
    "whose other labels are "
    "not looked at. All choose on the same validation part. γ in units of scikit-learn's 'scale'",
)
