"""The loop itself: ``lenet5`` through the whole session beside a bare loop over the same tensors."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.side import Measurement

LOG_EVERY = 50
SETTINGS = (
    "stages.main.batch_size=64",
    "train.validate=false",
    "train.checkpoint_seconds=0",
    f"train.log_every={LOG_EVERY}",
)


def measure_ours(spec: Spec) -> Measurement:
    """Train ``lenet5`` with its default recipe and return milliseconds a step."""
    from layerwise.bench.training import make_request, train_run

    with train_run(make_request("lenet5", spec, SETTINGS)) as run:
        return Measurement(1000 / run.steps_per_second, {"accuracy": run.outcome.metrics["test/accuracy"]}, run.facts)


def measure_bare(spec: Spec) -> Measurement:
    """Do the same by hand: same tensors, order, first weights, fused Adam, one-cycle rate, flags. It logs nothing."""
    import time

    import torch
    import torch.nn.functional as F

    from layerwise import registry
    from layerwise.bench.training import make_request
    from layerwise.data.loader import collate_source
    from layerwise.planning.resolve import make_plan
    from layerwise.rules.schedules import compute_lr_factor
    from layerwise.runtime import compute_settings, rng

    plan = make_plan(make_request("lenet5", spec, SETTINGS))
    rule, size, epochs = plan.recipe.stages[0].rule, plan.recipe.stages[0].batch_size, spec["epochs"]
    data, test = (collate_source(source, plan.task.collate, 2) for source in (plan.splits.train, plan.splits.test))
    x, y = data.input_tensor, data.target_tensor
    assert test.targets is not None
    with rng.use_seed(rng.derive_seed(spec["seed"], "weights")):
        model = registry.get_builder(plan.spec)(**plan.model_args)
    set_flags = compute_settings.resolve(
        device="cpu", precision="fp32", threads=0, workers=0, streams=False, deterministic=False, world=1
    )
    per_epoch = -(-len(x) // size)
    total, warm_up, step, start = epochs * per_epoch, min(LOG_EVERY, per_epoch), 0, 0.0
    with compute_settings.use_settings(set_flags):
        optimizer = torch.optim.Adam(model.parameters(), rule["lr"], fused=True)
        for epoch in range(epochs):
            order = rng.draw_order(len(x), spec["seed"], 0, epoch)
            for start in range(0, len(x), size):
                index = order[start : start + size]
                rate = rule["lr"] * compute_lr_factor(
                    rule["schedule"], step / total, warmup=rule["warmup"], final_lr_ratio=rule["final_lr_ratio"]
                )
                optimizer.param_groups[0]["lr"] = rate
                optimizer.zero_grad()
                F.cross_entropy(model(x[index]), y[index]).backward()
                optimizer.step()
                step += 1
                if step == warm_up:
                    start = time.perf_counter()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            accuracy = float((model(test.inputs).argmax(1) == test.targets).double().mean())
    return Measurement(1000 * seconds / (total - warm_up), {"accuracy": accuracy})


CASE = Case(
    name="loop",
    unit="ms/step",
    spec={"data": "fashion-mnist", "epochs": 1},
    sides={"ours": measure_ours, "bare": measure_bare},
    rows=(Row("a bare loop over the same tensors", "bare", Bound(1.03, "at most")),),
    quality=(Quality("accuracy", decides=False),),
    min_runs=15,
    note="batch 64, no validation, no checkpoints, first 50 steps excluded on both sides; ours logs every 50 "
    "steps, the bare loop "
    "neither logs nor reads a loss",
)
