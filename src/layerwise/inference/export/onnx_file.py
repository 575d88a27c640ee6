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
from layerwise.inference.export.base import INPUT, Check, ExportSource, Json, compare, mute_logger, require_packages
from layerwise.inference.export.torch_files import trace_program
from layerwise.runtime import strict_json

if TYPE_CHECKING:
    import onnx

MAX_BYTES = 2**31 - 2**20  # bytes: a protobuf file ends below 2 GiB


def serialize_onnx(module: nn.Module, source: ExportSource, metadata: Json, *, fold: bool) -> bytes:
    """Return an ``.onnx`` file's bytes: float32, the batch size open, our metadata among the file's own.

    Without ``fold`` the exporter's optimizer stays off, since it folds batch norms of its own accord.
    """
    require_packages("onnx", "onnxscript", extra="onnx", to=".onnx")
    size = sum(t.numel() * 4 for t in module.state_dict().values())
    if size > MAX_BYTES:
        raise UsageError(
            "the network does not fit into one ONNX file",
            expected="weights of less than 2 GiB",
            received=f"{size} bytes",
        )
    program = trace_program(module.float(), source, torch.float32)
    names = [out["name"] for out in metadata["outputs"]]
    with warnings.catch_warnings(), mute_logger("onnxscript"), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # torch warns of its own internals
        exported = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=names, optimize=fold, verbose=False
        )
    assert exported is not None
    data: bytes = _tidy_model(exported.model_proto, metadata).SerializeToString()
    return data


def _tidy_model(model: onnx.ModelProto, metadata: Json) -> onnx.ModelProto:
    """Name the open size, add our metadata, and remove the exporter's notes, which name files and lines of this
    machine."""
    graph = model.graph
    open_dim = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param == open_dim:
                dim.dim_param = "batch"
    for element in (model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info):
        del element.metadata_props[:]
    model.producer_name, model.producer_version = "layerwise", metadata["versions"]["layerwise"]
    entries = {"layerwise": metadata, "labels": metadata["labels"], "preprocessing": metadata["input"]["preprocessing"]}
    for key, value in entries.items():
        model.metadata_props.add(key=key, value=strict_json.dumps(value))
    return model


def check_onnx(data: bytes, source: ExportSource) -> Check:
    """Run the file with onnxruntime and compare it with the network."""
    require_packages("onnxruntime", extra="onnx", to="the check of .onnx")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])

    def run(x: Tensor) -> list[Tensor]:
        return [torch.from_numpy(np.asarray(out)) for out in session.run(None, {INPUT: x.numpy()})]

    return compare(run, source, by=f"onnxruntime {onnxruntime.__version__}")


def get_onnx_versions(data: bytes) -> Json:
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
