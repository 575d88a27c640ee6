"""The engines ``onnxruntime`` and ``openvino``: other runtimes on the exported graph, on the CPU, in float32, with torch's threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from layerwise.engines.base import Engine
from layerwise.export.base import INPUT, needs

SHAPES = 3  # batch sizes for which OpenVINO keeps a graph compiled


class OnnxRuntime(Engine):
    """Microsoft's runtime. Of the graph's outputs only the network's own is computed."""

    name = "onnxruntime"

    def __init__(self, graph: Path) -> None:
        super().__init__()
        needs("onnxruntime", extra="onnxruntime", to="--engine onnxruntime")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # its idle threads would hold the cores torch needs
        self.session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.wanted = [self.session.get_outputs()[0].name]

    def run(self, x: Tensor) -> Tensor:
        """Run the graph."""
        found = self.session.run(self.wanted, {INPUT: np.ascontiguousarray(x.float().numpy())})[0]
        return torch.from_numpy(np.asarray(found)).to(x.dtype)


class OpenVino(Engine):
    """Intel's runtime. Compiled for each batch size, which is faster than for an open one; the last few are kept."""

    name = "openvino"

    def __init__(self, graph: Path) -> None:
        super().__init__()
        needs("openvino", extra="openvino", to="--engine openvino")
        import openvino

        self.core = openvino.Core()
        self.graph = graph
        self.compiled: dict[int, Any] = {}

    def run(self, x: Tensor) -> Tensor:
        """Run the graph compiled for this batch size."""
        if len(x) not in self.compiled:
            if len(self.compiled) == SHAPES:
                self.compiled.pop(next(iter(self.compiled)))
            self.compiled[len(x)] = self._compiled(tuple(x.shape))
        found = self.compiled[len(x)]([np.ascontiguousarray(x.float().numpy())])
        return torch.from_numpy(np.array(found[0])).to(x.dtype)

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        """Compile the graph for inputs of a shape, in float32: on processors with 16-bit units OpenVINO would take those."""
        model = self.core.read_model(self.graph)
        model.reshape(list(shape))
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        return self.core.compile_model(model, "CPU", settings)


RUNTIMES: dict[str, type[OnnxRuntime] | type[OpenVino]] = {"onnxruntime": OnnxRuntime, "openvino": OpenVino}
