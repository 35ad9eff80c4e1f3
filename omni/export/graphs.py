"""ONNX graphs of the recogniser, the image classifier and the Thinker, compared with PyTorch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from omni.errors import UserError
from omni.export.passed_state import PassedCache, no_entries
from omni.models.audio_encoder import AudioEncoder
from omni.models.classifier import Classifier
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.runtime.engine import open_session, run_of

OPSET = 20  # the first with Gelu; onnxruntime 1.17 and later run it
ANY = Dim.DYNAMIC


class Graph(NamedTuple):
    """A module with the signature of its graph.

    Attributes:
        module: The module, in eval mode; its arguments and results are tensors.
        example: Its inputs by name; axes of size 2 or more, so that none is taken for a constant.
        dynamic: Axes of each input whose size is free.
        outputs: Names of its results.
    """

    module: nn.Module
    example: dict[str, Tensor]
    dynamic: dict[str, dict[int, Any]]
    outputs: tuple[str, ...]


class _Recognizer(nn.Module):
    def __init__(self, encoder: AudioEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, mels: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        emissions = self.encoder.emit(self.encoder(mels, lengths))
        return emissions.log_probs, emissions.lengths


class _ImageClassifier(nn.Module):
    def __init__(self, encoder: VisionEncoder, classifier: Classifier) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.encoder(images).pooled)


class _ThinkerStep(nn.Module):
    def __init__(self, thinker: Thinker) -> None:
        super().__init__()
        self.thinker = thinker

    def forward(self, tokens: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        cache = PassedCache(past)
        hidden = self.thinker.encode_embeddings(
            self.thinker.embed(tokens), positions=None, mask=None, cache=cache
        ).hidden
        return self.thinker.logits(hidden), cache.present


def recognizer_graph(encoder: AudioEncoder) -> Graph:
    """`mels` (batch, mel frames, num_mels) and `lengths` to `log_probs` and `num_subframes`, as `Emissions`."""
    example = {"mels": torch.zeros(2, 200, encoder.num_mels), "lengths": torch.tensor([200, 100])}
    dynamic = {"mels": {0: ANY, 1: ANY}, "lengths": {0: ANY}}
    return Graph(_Recognizer(encoder).eval(), example, dynamic, ("log_probs", "num_subframes"))


def classifier_graph(encoder: VisionEncoder, classifier: Classifier) -> Graph:
    """`images` (batch, 3, size, size), 0 to 1, to `logits` of all attributes."""
    example = {"images": torch.zeros(2, 3, encoder.image_size, encoder.image_size)}
    return Graph(_ImageClassifier(encoder, classifier).eval(), example, {"images": {0: ANY}}, ("logits",))


def thinker_graph(thinker: Thinker) -> Graph:
    """`tokens` (batch, time) and `past` to `logits` and `present`, the `past` of the next step.

    `past` is (layers, 2 for keys and values, batch, num_kv_heads, entries, head_dim); without entries, a start.
    """
    example = {"tokens": torch.ones(2, 5, dtype=torch.long), "past": no_entries(thinker.transformer, 2, 7)}
    dynamic = {"tokens": {0: ANY, 1: ANY}, "past": {2: ANY, 4: ANY}}
    return Graph(_ThinkerStep(thinker).eval(), example, dynamic, ("logits", "present"))


@torch.no_grad()
def write_graph(graph: Graph, path: Path, *, opset: int = OPSET) -> None:
    """Writes an ONNX file with its weights.

    Args:
        graph: What to export.
        path: The file.
        opset: Version of ONNX's operators.
    """
    program = torch.onnx.export(
        graph.module,
        kwargs=graph.example,
        dynamo=True,
        dynamic_shapes=graph.dynamic,
        input_names=list(graph.example),
        output_names=list(graph.outputs),
        opset_version=opset,
        verbose=False,
    )
    assert program is not None
    program.save(path)


@torch.no_grad()
def largest_difference(graph: Graph, path: Path, inputs: Mapping[str, Tensor], *, allowed: float = 1e-3) -> float:
    """Runs an ONNX file and the module on the same inputs.

    Args:
        graph: The module.
        path: Its file.
        inputs: Inputs by name, of any size that is free.
        allowed: Largest difference of a value.

    Returns:
        The largest difference of any output.

    Raises:
        UserError: If it is over `allowed`.
    """
    found = run_of(open_session(path))({name: value.numpy() for name, value in inputs.items()})
    return compare(graph, found, inputs, name=path.name, allowed=allowed)


@torch.no_grad()
def compare(
    graph: Graph, found: Sequence[Any], inputs: Mapping[str, Tensor], *, name: str, allowed: float = 1e-3
) -> float:
    """Compares outputs on some inputs with those of the module; see `largest_difference`.

    Args:
        graph: The module.
        found: Values of all outputs.
        inputs: Inputs by name.
        name: What computed them, for the error.
        allowed: Largest difference of a value.

    Returns:
        The largest difference of any output.

    Raises:
        UserError: If it is over `allowed`.
    """
    wanted = graph.module(**inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    pairs = zip(wanted, found, strict=True)
    worst = float(np.max([np.abs(want.numpy() - np.asarray(got)).max() for want, got in pairs]))  # or NaN
    if not worst <= allowed:
        raise UserError(f"{name} differs from PyTorch by {worst:.2g} (allowed {allowed:.2g}): it is not exported")
    return worst
