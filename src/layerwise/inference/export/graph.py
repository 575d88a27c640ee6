"""The network as a graph of tensor operations (`torch.export`), its batch size left open; and ``.pt2``, torch's own
file of it."""

from __future__ import annotations

import io
import warnings

import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from layerwise.errors import LayerwiseError, UsageError
from layerwise.inference.export.base import Check, Json, Subject, compare, dtype_of, muted
from layerwise.runtime import strict_json

PASSPORT = "layerwise.json"


def program(module: nn.Module, subject: Subject, dtype: torch.dtype) -> ExportedProgram:
    """Trace a module over made-up inputs. Raises `UsageError` for a network that is no fixed graph, saying why."""
    example = subject.task.inputs.probe(2, torch.Generator().manual_seed(0)).to(dtype)
    try:
        with torch.no_grad(), warnings.catch_warnings(), muted("torch"):
            warnings.simplefilter("ignore")  # of torch's own workings
            return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: Dim("batch")},))
    except LayerwiseError:
        raise
    except Exception as error:  # of any kind: the network's own code runs here
        said = " ".join(str(error).split("\n")[0].split())
        raise UsageError(
            f"{subject.spec.name} cannot be written as a graph: what it computes next depends on the values "
            "it has computed",
            expected="a network whose operations are the same for every input",
            received=f"torch.export: {type(error).__name__}: {said[:200]}",
            do="export .safetensors, which holds the weights alone",
        ) from error


def written(module: nn.Module, subject: Subject, passport: Json) -> bytes:
    """Return a ``.pt2`` file's bytes. The passport lies in it as ``layerwise.json``."""
    traced = program(module, subject, dtype_of(module))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(traced, file, extra_files={PASSPORT: strict_json.dumps(passport)})
    return file.getvalue()


def check(data: bytes, subject: Subject) -> Check:
    """Load a ``.pt2`` file again and compare it with the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(data)).module()
    dtype = dtype_of(subject.model)
    return compare(lambda x: module(x.to(dtype)), subject, by=f"torch {torch.__version__}")
