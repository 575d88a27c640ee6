"""The same multilayer perceptron beside a plain PyTorch loop with a ``DataLoader``."""

from __future__ import annotations

from layerwise.bench.base import Bound, Case, Measure, Quality, Row, Spec
from layerwise.bench.cases.mlp_sklearn import SETTINGS, ours


def plain(spec: Spec) -> Measure:
    """Train as the tutorials do: ``DataLoader(TensorDataset, shuffle=True)`` with its defaults, Adam with its defaults."""
    import time

    import torch
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    from layerwise.bench.training import given, request

    data = given(request("mlp", spec, SETTINGS))
    torch.manual_seed(spec["seed"])
    x, y, test_x, test_y = (torch.from_numpy(array) for array in data)
    loader = DataLoader(TensorDataset(x, y), batch_size=128, shuffle=True)
    model = nn.Sequential(nn.Linear(x.shape[1], 256), nn.ReLU(), nn.Linear(256, int(y.max()) + 1))
    optimizer, criterion = torch.optim.Adam(model.parameters(), lr=1e-3), nn.CrossEntropyLoss()
    step, seen, began = 0, 0, time.perf_counter()
    warm_up = min(WARM_UP, len(loader))
    for _ in range(spec["epochs"]):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = criterion(model(inputs), labels)
            loss.backward()
            optimizer.step()
            step, seen = step + 1, seen + len(labels)
            if step == warm_up:
                seen, began = 0, time.perf_counter()
    seconds = time.perf_counter() - began
    with torch.no_grad():
        accuracy = float((model(test_x).argmax(1) == test_y).double().mean())
    return Measure(seen / seconds, {"accuracy": accuracy}, {"threads": torch.get_num_threads()})


WARM_UP = 50  # steps: as many as lie before the first line of our own side's log, which is also due at an epoch's end

CASE = Case(
    name="mlp-torch",
    unit="examples/s",
    spec={"data": "fashion-mnist", "epochs": 5},
    sides={"ours": ours, "torch": plain},
    rows=(Row("PyTorch loop, DataLoader over a TensorDataset", "torch", Bound(2.5)),),
    quality=(Quality("accuracy"),),
    least=5,
    note="both: Adam 1e-3, batch 128, as many epochs, no validation, last weights, first 50 steps excluded. Ours has logging and "
    "checkpoints in its time; the peer reads no loss and logs nothing",
)
