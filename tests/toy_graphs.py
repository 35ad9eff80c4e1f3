"""Running an exported graph on tensors."""

import onnxruntime
import torch

from omni.export.graphs import write_graph


class Run:
    """A graph as a file, run by onnxruntime: tensors by name to tensors by name."""

    def __init__(self, graph, path):
        write_graph(graph, path)
        self.outputs = list(graph.outputs)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def __call__(self, **inputs):
        found = self.session.run(self.outputs, {name: value.numpy() for name, value in inputs.items()})
        return dict(zip(self.outputs, map(torch.from_numpy, found), strict=True))
