"""What each part provides for its export: its graph, inputs made of held-out rows, and results that a user sees."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from omni.checkpoints.checkpoint import Checkpoint
from omni.export.graphs import Graph
from omni.runtime.engine import Run
from omni.text.ctc_vocabulary import CTCVocabulary
from omni.text.tokenizer import Tokenizer

RowKind = Literal["text", "speech", "images", "conversations"]
Inputs = dict[str, NDArray[Any]]


class Rows(NamedTuple):
    """Rows that an export is compared on.

    Attributes:
        items: Texts; `Spoken` for speech; `Pictured` for images; `Asked` for conversations. Empty where there is no
            data: a part then takes random input.
        source: Where they come from, or why there are none.
    """

    items: Sequence[Any]
    source: str


class Spoken(NamedTuple):
    """A recording.

    Attributes:
        audio: (samples,), 16 kHz.
        text: Its transcript.
    """

    audio: Tensor
    text: str


class Pictured(NamedTuple):
    """An image.

    Attributes:
        pixels: (3, height, width), uint8.
        labels: By attribute its class, or its classes where it may have several.
    """

    pixels: Tensor
    labels: Mapping[str, str | tuple[str, ...]]


class Asked(NamedTuple):
    """A conversation that ends with a question.

    Attributes:
        messages: See `omni.inference.prompt.PromptReader.turns`.
        answer: The reference.
    """

    messages: Sequence[Mapping[str, Any]]
    answer: str


class Quality(NamedTuple):
    """Quality on rows with references.

    Attributes:
        metric: `wer`, `accuracy` or `loss`.
        value: Its value.
        low: Lower bound of its 95 % interval.
        high: Upper bound.
        rows: Number of rows.
    """

    metric: str
    value: float
    low: float
    high: float
    rows: int


class OnnxPart(ABC):
    """A part of a checkpoint that is exported as a graph.

    Args:
        checkpoint: It holds the part; see `missing`.

    Attributes:
        name: Name in the manifest and of the file.
        needs: What a checkpoint must hold, in words.
        targets: Of `omni export --to`.
        rows: Kind of the rows that it is compared on.
        tolerance: Largest difference of an output from PyTorch's.
        agreement: Smallest share of results that equal PyTorch's.
        quality_loss: Most that int8 may be worse, in units of its metric.
        graph: The graph, with the module that it is compared with.
        vocabulary: What its host encodes or decodes text with; None if it has no text.
    """

    name: ClassVar[str]
    needs: ClassVar[str]
    targets: ClassVar[tuple[str, ...]] = ("onnx", "torch")
    rows: ClassVar[RowKind]
    tolerance: ClassVar[float] = 1e-3
    agreement: ClassVar[float] = 1.0
    quality_loss: ClassVar[float] = 0.0
    graph: Graph
    vocabulary: Tokenizer | CTCVocabulary | None = None

    @classmethod
    @abstractmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        """Why it cannot be exported from a checkpoint; None if it can."""

    @abstractmethod
    def __init__(self, checkpoint: Checkpoint) -> None: ...

    def modules(self) -> Sequence[nn.Module]:
        """Modules whose parameters the graph holds."""
        return [self.graph.module]

    @abstractmethod
    def constants(self) -> dict[str, Any]:
        """Plain data that a host needs to use the graph."""

    @abstractmethod
    def random_items(self) -> Sequence[Any]:
        """Random rows, for a checkpoint whose data is missing."""

    @abstractmethod
    def inputs(self, items: Sequence[Any]) -> Iterator[Inputs]:
        """Inputs of the graph for rows, some of them in batches."""

    @abstractmethod
    def results(self, run: Run, items: Sequence[Any]) -> list[str]:
        """What a user gets for each row from the graph: a text, a class."""

    @abstractmethod
    def quality(self, run: Run, items: Sequence[Any]) -> Quality | None:
        """Quality on rows with references; None where the part alone has none."""

    def module_run(self) -> Run:
        """The PyTorch module as a function like the graph."""
        return module_run(self.graph)


def has_experts(checkpoint: Checkpoint, part: str) -> bool:
    """Whether a part of a checkpoint has a mixture of experts."""
    return bool(checkpoint.content["parts"][part].get("init_args", {}).get("num_experts"))


def module_run(graph: Graph) -> Run:
    """The module of a graph as a function like the graph."""

    def run(inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        with torch.inference_mode():
            found = graph.module(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return [np.asarray(output) for output in (found if isinstance(found, tuple) else (found,))]

    return run
