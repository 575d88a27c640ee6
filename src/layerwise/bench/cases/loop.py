"""The loop itself: ``lenet5`` through the whole session beside a bare loop over the same tensors."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.process import Measure

LOG_EVERY = 50
SETTINGS = (
    "stages.main.batch=64",
    "train.validate=false",
    "train.checkpoint_seconds=0",
    f"train.log_every={LOG_EVERY}",
)


def ours(spec: Spec) -> Measure:
    """Train ``lenet5`` with its default recipe and return milliseconds a step."""
    from layerwise.bench.training import request, trained

    with trained(request("lenet5", spec, SETTINGS)) as done:
        return Measure(1000 / done.steps_per_second, {"accuracy": done.outcome.metrics["test/accuracy"]}, done.facts)


def bare(spec: Spec) -> Measure:
    """Do the same by hand: same tensors, order, first weights, fused Adam, one-cycle rate, flags. It logs nothing."""
    import time

    import torch
    import torch.nn.functional as F

    from layerwise import registry
    from layerwise.bench.training import request
    from layerwise.data.loader import collated
    from layerwise.planning.resolve import plan
    from layerwise.rules.schedules import factor
    from layerwise.runtime import compute_settings, rng

    made = plan(request("lenet5", spec, SETTINGS))
    rule, size, epochs = made.recipe.stages[0].rule, made.recipe.stages[0].batch, spec["epochs"]
    data, test = (collated(source, made.task.collate, 2) for source in (made.splits.train, made.splits.test))
    x, y = data.inputs, data.targets
    assert y is not None
    assert test.targets is not None
    with rng.seeded(rng.key(spec["seed"], "weights")):
        model = registry.builder(made.spec)(**made.model_args)
    set_flags = compute_settings.resolve(
        device="cpu", precision="fp32", threads=0, workers=0, streams=False, deterministic=False, world=1
    )
    per_epoch = -(-len(x) // size)
    total, warm_up, step, began = epochs * per_epoch, min(LOG_EVERY, per_epoch), 0, 0.0
    with compute_settings.applied(set_flags):
        optimizer = torch.optim.Adam(model.parameters(), rule["lr"], fused=True)
        for epoch in range(epochs):
            order = rng.order(len(x), spec["seed"], 0, epoch)
            for start in range(0, len(x), size):
                index = order[start : start + size]
                rate = rule["lr"] * factor(rule["schedule"], step / total, warmup=rule["warmup"], floor=rule["floor"])
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
                step += 1
                if step == warm_up:
                    began = time.perf_counter()
        seconds = time.perf_counter() - began
        with torch.no_grad():
            accuracy = float((model(test.inputs).argmax(1) == test.targets).double().mean())
    return Measure(1000 * seconds / (total - warm_up), {"accuracy": accuracy})


CASE = Case(
    name="loop",
    unit="ms/step",
    spec={"data": "fashion-mnist", "epochs": 1},
    sides={"ours": ours, "bare": bare},
    rows=(Row("a bare loop over the same tensors", "bare", Bound(1.03, "at most")),),
    quality=(Quality("accuracy", judged=False),),
    least=15,
    note="batch 64, no validation, no checkpoints, first 50 steps excluded on both sides; ours logs every 50 "
    "steps, the bare loop "
    "neither logs nor reads a loss",
)
