"""The engines ``onnxruntime`` and ``openvino``: other runtimes on the exported graph, on the CPU, in float32, with
torch's threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.errors import DamagedError, LayerwiseError
from layerwise.inference.engines.base import Engine
from layerwise.inference.export.base import INPUT, require_packages

MAX_REASON = 200  # characters of a runtime's message
MAX_COMPILED = 3  # batch sizes for which OpenVINO keeps a graph compiled


@contextmanager
def name_graph_in_errors(graph: Path, runtime: str) -> Iterator[None]:
    """Raise `DamagedError` naming the graph for any error that the runtime raises inside."""
    try:
        yield
    except LayerwiseError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:MAX_REASON]
        raise DamagedError(
            f"{graph} cannot be run by {runtime} ({type(error).__name__}: {reason})",
            expected="the graph as it was exported",
            do=f"rm {graph}: it is exported again; or use --engine torch",
        ) from error


def check_no_external_data(graph: Path) -> None:
    """Raise `DamagedError` for a graph whose numbers lie in other files: our exports have none, and a runtime would
    open them."""
    import onnx

    with name_graph_in_errors(graph, "onnx"):
        model = onnx.load(str(graph), load_external_data=False)
        outside = next(
            (tensor for tensor in _iterate_tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL), None
        )
    if outside is not None:
        names = ", ".join(entry.value for entry in outside.external_data if entry.key == "location")
        raise DamagedError(
            f"{graph} is damaged: the numbers of '{outside.name}' lie in another file, which was not opened",
            expected="one file",
            received=names[:MAX_REASON],
            do=f"rm {graph}: it is exported again; or use --engine torch",
        )


def _iterate_tensors(message: Any) -> Iterator[Any]:
    """Yield every tensor in a protobuf message, wherever it lies: initializers, attributes, subgraphs, functions."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in value if hasattr(value, "__len__") else (value,):
                yield from _iterate_tensors(one)


class OnnxRuntimeEngine(Engine):
    """Microsoft's runtime. Of the graph's outputs only the network's own is computed."""

    name = "onnxruntime"

    def __init__(self, graph: Path) -> None:
        super().__init__()
        require_packages("onnxruntime", extra="onnxruntime", to="--engine onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # nothing below fatal: its errors are raised with our own messages
        # idle threads that spin would hold the cores torch needs
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        check_no_external_data(graph)
        with name_graph_in_errors(graph, self.name):
            self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
            self.output_names = [self.session.get_outputs()[0].name]
        self.graph = graph

    def run(self, x: Tensor) -> Tensor:
        """Run the graph."""
        with name_graph_in_errors(self.graph, self.name):
            outputs = self.session.run(self.output_names, {INPUT: np.ascontiguousarray(x.float().numpy())})[0]
        return torch.from_numpy(np.asarray(outputs)).to(x.dtype)


class OpenVinoEngine(Engine):
    """Intel's runtime. Compiled for each batch size, which is faster than for an open one; the last few are kept."""

    name = "openvino"

    def __init__(self, graph: Path) -> None:
        super().__init__()
        require_packages("openvino", extra="openvino", to="--engine openvino")
        import openvino

        check_no_external_data(graph)
        self.core = openvino.Core()
        self.graph = graph
        self.compiled: dict[int, Any] = {}

    def run(self, x: Tensor) -> Tensor:
        """Run the graph compiled for this batch size."""
        if len(x) not in self.compiled:
            if len(self.compiled) == MAX_COMPILED:
                self.compiled.pop(next(iter(self.compiled)))
            with name_graph_in_errors(self.graph, self.name):
                self.compiled[len(x)] = self._compile(tuple(x.shape))
        with name_graph_in_errors(self.graph, self.name):
            outputs = self.compiled[len(x)]([np.ascontiguousarray(x.float().numpy())])
        return torch.from_numpy(np.array(outputs[0])).to(x.dtype)

    def _compile(self, shape: tuple[int, ...]) -> Any:
        """Compile the graph for inputs of a shape, in float32: on processors with 16-bit units OpenVINO would take
        those."""
        model = self.core.read_model(self.graph)
        model.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        return self.core.compile_model(model, "CPU", settings)


RUNTIMES: dict[str, type[OnnxRuntimeEngine] | type[OpenVinoEngine]] = {
    "onnxruntime": OnnxRuntimeEngine,
    "openvino": OpenVinoEngine,
}
