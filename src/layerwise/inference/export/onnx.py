"""``.onnx``: the graph that other runtimes read. Needs the extra ``onnx``; it is checked by onnxruntime."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from layerwise.errors import UsageError
from layerwise.inference.export.base import INPUT, Check, Json, Subject, compare, muted, needs
from layerwise.inference.export.graph import program
from layerwise.runtime import strict_json

if TYPE_CHECKING:
    import onnx

LARGEST = 2**31 - 2**20  # bytes: a protobuf file ends below 2 GiB


def written(module: nn.Module, subject: Subject, passport: Json, *, fold: bool) -> bytes:
    """Return an ``.onnx`` file's bytes: float32, the batch size open, the passport among its metadata.

    Without ``fold`` the exporter's optimizer stays off, since it folds batch norms of its own accord.
    """
    needs("onnx", "onnxscript", extra="onnx", to=".onnx")
    size = sum(t.numel() * 4 for t in module.state_dict().values())
    if size > LARGEST:
        raise UsageError(
            "the network does not fit into one ONNX file",
            expected="weights of less than 2 GiB",
            received=f"{size} bytes",
        )
    traced = program(module.float(), subject, torch.float32)
    names = [out["name"] for out in passport["outputs"]]
    with warnings.catch_warnings(), muted("onnxscript"), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of torch's own workings
        made = torch.onnx.export(
            traced, dynamo=True, input_names=[INPUT], output_names=names, optimize=fold, verbose=False
        )
    assert made is not None
    data: bytes = _tidied(made.model_proto, passport).SerializeToString()
    return data


def _tidied(model: onnx.ModelProto, passport: Json) -> onnx.ModelProto:
    """Name the open size, put our metadata in, and take the exporter's notes out (they tell files and lines of this
    machine)."""
    graph = model.graph
    opened = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == opened:
                dim.dim_param = "batch"
    for thing in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del thing.metadata_props[:]
    model.producer_name, model.producer_version = "layerwise", passport["versions"]["layerwise"]
    told = {"layerwise": passport, "labels": passport["labels"], "preprocessing": passport["input"]["preprocessing"]}
    for key, value in told.items():
        model.metadata_props.add(key=key, value=strict_json.dumps(value))
    return model


def check(data: bytes, subject: Subject) -> Check:
    """Run the file by onnxruntime and compare it with the network."""
    needs("onnxruntime", extra="onnx", to="the check of .onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(np.asarray(out)) for out in session.run(None, {INPUT: x.numpy()})]

    return compare(run, subject, by=f"onnxruntime {onnxruntime.__version__}")


def versions(data: bytes) -> Json:
    """Return the operator set and the versions of what wrote the file."""
    import onnx
    import onnxscript

    model = onnx.load_from_string(data)
    return {
        "opset": model.opset_import[0].version,
        "ir": model.ir_version,
        "onnx": onnx.__version__,
        "onnxscript": onnxscript.__version__,
    }
