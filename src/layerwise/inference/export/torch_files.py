"""``.pt2``: the network as a graph (`torch.export`), its batch size left open. ``.safetensors``: the weights alone,
under the network's own names, which are the reference implementation's where there is one."""

from __future__ import annotations

import io
import warnings

import safetensors
import safetensors.torch
import torch
from torch import nn
from torch.export import Dim, ExportedProgram

from layerwise import registry
from layerwise.errors import LayerwiseError, UsageError
from layerwise.inference.export.base import Check, ExportSource, Json, compare, get_dtype, mute_logger
from layerwise.runtime import strict_json
from layerwise.runtime.checksums import copy_contiguous

METADATA_FILE = "layerwise.json"


def trace_program(module: nn.Module, source: ExportSource, dtype: torch.dtype) -> ExportedProgram:
    """Trace a module over made-up inputs. Raises `UsageError` for a network that is no fixed graph, saying why."""
    example = source.task.inputs.probe(2, torch.Generator().manual_seed(0)).to(dtype)
    try:
        with torch.no_grad(), warnings.catch_warnings(), mute_logger("torch"):
            warnings.simplefilter("ignore")  # torch warns of its own internals
            return torch.export.export(module.eval(), (example,), dynamic_shapes=({0: Dim("batch")},))
    except LayerwiseError:
        raise
    except Exception as error:  # of any kind: the network's own code runs here
        reason = " ".join(str(error).split("\n")[0].split())
        raise UsageError(
            f"{source.spec.name} cannot be written as a graph: what it computes next depends on the values "
            "it has computed",
            expected="a network whose operations are the same for every input",
            received=f"torch.export: {type(error).__name__}: {reason[:200]}",
            do="export .safetensors, which holds the weights alone",
        ) from error


def serialize_pt2(module: nn.Module, source: ExportSource, metadata: Json) -> bytes:
    """Return a ``.pt2`` file's bytes. It holds the metadata as ``layerwise.json``."""
    program = trace_program(module, source, get_dtype(module))
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, file, extra_files={METADATA_FILE: strict_json.dumps(metadata)})
    return file.getvalue()


def check_pt2(data: bytes, source: ExportSource) -> Check:
    """Load a ``.pt2`` file again and compare it with the network."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = torch.export.load(io.BytesIO(data)).module()
    dtype = get_dtype(source.model)
    return compare(lambda x: module(x.to(dtype)), source, by=f"torch {torch.__version__}")


def serialize_safetensors(model: nn.Module, metadata: Json) -> bytes:
    """Return a ``.safetensors`` file's bytes; the file's own metadata holds ours under ``layerwise``."""
    header = {"format": "pt", "layerwise": strict_json.dumps(metadata)}
    return safetensors.torch.save(copy_contiguous(model.state_dict()), metadata=header)


def check_safetensors(data: bytes, source: ExportSource) -> Check:
    """Load the file's tensors into a new network and compare it with the exported one."""
    model: nn.Module = registry.get_builder(source.spec)(**source.arguments)
    model.to(get_dtype(source.model)).load_state_dict(safetensors.torch.load(data))
    module = source.task.export_module(model).module.eval()
    dtype = get_dtype(source.model)
    return compare(lambda x: module(x.to(dtype)), source, by=f"safetensors {safetensors.__version__}")
