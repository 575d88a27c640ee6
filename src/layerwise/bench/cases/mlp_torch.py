"""The same multilayer perceptron beside a plain PyTorch loop with a ``DataLoader``, and beside its bare arithmetic."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Quality, Row, Spec
from layerwise.bench.cases.mlp_sklearn import SETTINGS, measure_ours
from layerwise.bench.side import Measurement


def measure_torch(spec: Spec) -> Measurement:
    """Train as the tutorials do: ``DataLoader(TensorDataset, shuffle=True)`` with its defaults, Adam with its
    defaults."""
    import time

    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from layerwise.bench.training import load_arrays, make_request

    data = load_arrays(make_request("mlp", spec, SETTINGS))
    torch.manual_seed(spec["seed"])
    x, y, test_x, test_y = (torch.from_numpy(array) for array in data)
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
    model = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, int(y.max()) + 1))
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    step, seen, start = 0, 0, time.perf_counter()
    warm_up = min(WARM_UP, len(loader))
    for _ in range(spec["epochs"]):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            step, seen = step + 1, seen + len(labels)
            if step == warm_up:
                seen, start = 0, time.perf_counter()
    seconds = time.perf_counter() - start
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).double().mean())
    return Measurement(seen / seconds, {"accuracy": accuracy}, {"threads": torch.get_num_threads()})


def measure_by_hand(spec: Spec) -> Measurement:
    """Do the arithmetic of a step and nothing else: gathered rows, E12 written out, torch's fused Adam kernel; no
    autograd, no modules.

    This is the upper limit of torch's kernels on this machine, whatever the loop.
    """
    import time

    import torch

    from layerwise import registry
    from layerwise.bench.training import load_arrays, make_request
    from layerwise.planning.resolve import make_plan
    from layerwise.rules.optimizers import Optimizer
    from layerwise.runtime import compute_settings, rng

    request = make_request("mlp", spec, SETTINGS)
    x, y, test_x, test_y = (torch.from_numpy(array) for array in load_arrays(request))
    plan = make_plan(request)
    with rng.use_seed(rng.derive_seed(spec["seed"], "weights")):
        first = registry.get_builder(plan.spec)(**plan.model_args)
    parameters = W1, b1, W2, b2 = [p.detach() for p in first.parameters()]
    adam = Optimizer(
        parameters, method="adam", lr=1e-3, momentum=0.0, betas=(0.9, 0.999), alpha=0.0, eps=1e-8, weight_decay=0.0
    )
    set_flags = compute_settings.resolve(
        device="cpu", precision="fp32", threads=0, workers=0, streams=False, deterministic=False, world=1
    )
    step, seen, start = 0, 0, 0.0
    with compute_settings.use_settings(set_flags), torch.no_grad():
        for epoch in range(spec["epochs"]):
            for index in rng.draw_order(len(x), spec["seed"], 0, epoch).split(128):
                a0 = x.index_select(0, index)  # (N, D)
                a1 = torch.addmm(b1, a0, W1.t()).relu_()  # (N, H)
                delta2 = torch.addmm(b2, a1, W2.t()).softmax(1)  # (N, K): softmax(z) − onehot(y)
                delta2.scatter_add_(1, y.index_select(0, index)[:, None], torch.full((len(index), 1), -1.0)).div_(
                    len(index)
                )
                delta1 = (delta2 @ W2).mul_(a1 > 0)
                for p, gradient in zip(
                    parameters, (delta1.t() @ a0, delta1.sum(0), delta2.t() @ a1, delta2.sum(0)), strict=True
                ):
                    p.grad = gradient
                adam.step()
                step, seen = step + 1, seen + len(index)
                if step == WARM_UP:
                    seen, start = 0, time.perf_counter()
        seconds = time.perf_counter() - start
        scores = torch.addmm(b2, torch.addmm(b1, test_x, W1.t()).relu_(), W2.t())
    return Measurement(
        seen / seconds,
        {"accuracy": float((scores.argmax(1) == test_y).double().mean())},
        {"threads": set_flags.threads},
    )


WARM_UP = 50  # steps: as many as lie before the first line of our own side's log, which is also due at an epoch's end

CASE = Case(
    name="mlp-torch",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 5},
    sides={"ours": measure_ours, "torch": measure_torch, "by-hand": measure_by_hand},
    rows=(
        Row("PyTorch loop, DataLoader over a TensorDataset", "torch", Bound(2.5)),
        Row("the step's arithmetic alone, without autograd, loop and log", "by-hand", None),
        Row("that arithmetic beside the PyTorch loop: the most that can be had", "torch", None, ours="by-hand"),
    ),
    quality=(Quality("accuracy"),),
    min_runs=5,
    note="both: Adam 1e-3, batch 128, as many epochs, no validation, last weights, first 50 steps excluded. Ours "
    "has logging and "
    "checkpoints in its time; the peer reads no loss and logs nothing",
)
