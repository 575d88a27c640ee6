"""``.safetensors``: the weights under the network's own names, which are the reference implementation's where there is
one."""

from __future__ import annotations

import safetensors
import safetensors.torch
from torch import nn

from layerwise import registry
from layerwise.inference.export.base import Check, Json, Subject, compare, dtype_of
from layerwise.runtime import strict_json
from layerwise.runtime.checksums import contiguous


def written(model: nn.Module, passport: Json) -> bytes:
    """Return a ``.safetensors`` file's bytes; the passport is its metadata ``layerwise``."""
    told = {"format": "pt", "layerwise": strict_json.dumps(passport)}
    return safetensors.torch.save(contiguous(model.state_dict()), metadata=told)


def check(data: bytes, subject: Subject) -> Check:
    """Put the file's tensors into a fresh network and compare it with the one that was exported."""
    fresh: nn.Module = registry.builder(subject.spec)(**subject.arguments)
    fresh.to(dtype_of(subject.model)).load_state_dict(safetensors.torch.load(data))
    module = subject.task.export_module(fresh).module.eval()
    dtype = dtype_of(subject.model)
    return compare(lambda x: module(x.to(dtype)), subject, by=f"safetensors {safetensors.__version__}")
