"""Tracing the calls of modules, those with several inputs and outputs among them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from layerwise.nn.tracing import ModuleCall, trace_modules


class Tagger(nn.Module):
    """An embedding, an LSTM and a linear layer, called by the names of their arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.lstm = nn.LSTM(3, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Map tokens (N, T) to the logits of each and the last cell state."""
        out, (_, cell) = self.lstm(input=self.embed(tokens))
        return {"logits": self.head(out), "cell": cell}


def test_every_tensor_in_and_out_is_reported() -> None:
    model, calls = Tagger(), list[ModuleCall]()
    with trace_modules(model, calls.append, select=lambda _: True):
        outputs = model(tokens=torch.tensor([[1, 2, 3]]))
    assert [call.name for call in calls] == ["embed", "lstm", "head", ""]
    shapes = [([tuple(t.shape) for t in c.inputs], [tuple(t.shape) for t in c.outputs]) for c in calls]
    assert shapes[0] == ([(1, 3)], [(1, 3, 3)])
    assert shapes[1] == ([(1, 3, 3)], [(1, 3, 4), (1, 1, 4), (1, 1, 4)])
    assert shapes[3] == ([(1, 3)], [(1, 3, 2), (1, 1, 4)])
    assert calls[3].outputs[1] is outputs["cell"]
    assert calls[1].module is model.lstm


def test_only_modules_without_parts_by_default_and_none_afterwards() -> None:
    model, calls = Tagger(), list[ModuleCall]()
    with trace_modules(model, calls.append):
        model(torch.tensor([[1]]))
    model(torch.tensor([[1]]))
    assert [call.name for call in calls] == ["embed", "lstm", "head"]
    assert not any(module._forward_hooks for module in model.modules())
