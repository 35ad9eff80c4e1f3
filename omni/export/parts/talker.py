"""The Talker: its text encoder, a frame of it, and the Thinker that it may be conditioned on."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, NamedTuple, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from omni.checkpoints.checkpoint import Checkpoint
from omni.decoding.sampling_options import SpeechSampling, random_stream
from omni.errors import UserError
from omni.export.graphs import Graph
from omni.export.omni_graphs import conditioner_graph
from omni.export.parts.part import Inputs, OnnxPart, Quality, Spoken, has_experts, module_run
from omni.export.passed_state import no_entries
from omni.export.speech_graphs import talker_graph, talker_text_graph
from omni.inference.talker_conditioning import Conditioner
from omni.models.talker import Talker
from omni.models.thinker import Thinker
from omni.runtime.engine import Run
from omni.runtime.talker import frames, sampling_input
from omni.text.ctc_vocabulary import BLANK
from omni.text.spelling import speech_segments

_SPOKEN = 6  # texts that are spoken whole


class _Trace(NamedTuple):
    """A text that PyTorch spoke: inputs of each frame, and the codes."""

    inputs: list[Inputs]
    codes: NDArray[np.int64]


class _TalkerPart(OnnxPart):
    """Abstract: a graph of a Talker."""

    needs = "a Talker of omni's, such as one of the Talker's stage"
    targets = ("onnx",)
    rows = "speech"
    agreement = 0.5  # of hundreds of draws one may fall on the border of two codes, and all after it differ
    quality_loss = 0.01  # of the round trip's WER

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "talker" not in checkpoint:
            return "no Talker"
        parts = checkpoint.content["parts"]
        if not parts["talker"].get("class_path", "").endswith(".Talker"):
            return "the Talker is a class of its own"
        if not parts["talker"]["init_args"].get("thinker_dim"):
            return None
        if not parts["thinker"]["class_path"].endswith(".Thinker"):
            return "the Talker is conditioned on a pretrained Thinker"
        if has_experts(checkpoint, "thinker"):
            return "the Talker is conditioned on a Thinker with experts, and ONNX has no grouped matrix product"
        return None

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.talker = checkpoint.part("talker", Talker).float()
        self.vocabulary = self.units = checkpoint.ctc_vocabulary
        self.speakers = list(checkpoint.content.get("speakers", ()))
        self.conditioner = None
        if self.talker.condition is not None:
            thinker = checkpoint.part("thinker", Thinker).float()
            self.conditioner = Conditioner(thinker, checkpoint.thinker_tokenizer, self.units)
        self.graph = self.make_graph()
        self._text_run, self._step_run = (module_run(graph(self.talker)) for graph in (talker_text_graph, talker_graph))

    @abstractmethod
    def make_graph(self) -> Graph:
        """The graph of this part."""

    def constants(self) -> dict[str, Any]:
        talker = self.talker
        return {
            "dim": talker.dim,
            "num_codebooks": talker.num_codebooks,
            "codebook_size": talker.codebook_size,
            "frame_rate": talker.frame_rate,
            "max_dwell": SpeechSampling().max_dwell,
            "sampling": sampling_input(SpeechSampling()).tolist(),
            "num_speakers": talker.num_speakers,
            "speakers": self.speakers,
            "thinker_dim": talker.thinker_dim,
        }

    def random_items(self) -> Sequence[Spoken]:
        random = Random(0)
        texts = [[random.randrange(BLANK + 1, self.units.vocab_size) for _ in range(size)] for size in (5, 12, 30)]
        return [Spoken(torch.zeros(1), self.units.decode(text)) for text in texts]

    def quality(self, run: Run, items: Sequence[Spoken]) -> Quality | None:
        return None  # speech is judged by a recogniser: see `omni.export.round_trip`

    def texts(self, items: Sequence[Spoken], *, most: int = _SPOKEN) -> list[list[int]]:
        """The units of the first sentence of each text that the Talker can spell, of at most `most`.

        Raises:
            UserError: If there is none.
        """
        found = []
        for item in items:
            try:
                found += [part.units for part in speech_segments(item.text, self.units) if part.units][:1]
            except UserError:
                continue
        if not found:
            raise UserError("no row has a text that the Talker can spell: give others as --rows")
        return found[:most]

    def encoder_inputs(self, texts: Sequence[Sequence[int]]) -> Inputs:
        """Inputs of the text encoder for a batch."""
        text = torch.nn.utils.rnn.pad_sequence([torch.tensor(one) for one in texts], batch_first=True)
        inputs = {"text": text.numpy(), "text_lengths": np.array([len(one) for one in texts])}
        if self.talker.speakers is not None:
            inputs["speakers"] = np.arange(len(texts)) % self.talker.num_speakers
        if self.conditioner is not None:
            inputs["hidden"] = self.conditioner(texts).numpy()
        return inputs

    def spoken(self, text: Sequence[int], text_run: Run, step_run: Run) -> _Trace:
        """Speaks a text as `omni.decoding.talker.speak` does, by two graphs."""
        (encoded,) = text_run(self.encoder_inputs([text]))
        found = list(
            frames(
                step_run,
                encoded,
                no_entries(self.talker.transformer, 1).numpy(),
                frame_rate=self.talker.frame_rate,
                num_codebooks=self.talker.num_codebooks,
                draws=random_stream(0, 0),
                sampling=SpeechSampling(),
            )
        )
        return _Trace([frame.inputs for frame in found], np.stack([frame.codes for frame in found]))


@final
class TalkerTextPart(_TalkerPart):
    """`talker_text`: characters to their encodings."""

    name = "talker_text"

    def make_graph(self) -> Graph:
        return talker_text_graph(self.talker)

    def modules(self) -> Sequence[nn.Module]:
        talker = self.talker
        parts = (talker.characters, talker.speakers, talker.condition, talker.text_encoder)
        return [part for part in parts if part is not None]

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        texts = self.texts(items)
        for text in texts:
            yield self.encoder_inputs([text])
        yield self.encoder_inputs([text for text in texts if len(text) == len(texts[0])])

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """The codes of each text, spoken by PyTorch from these encodings."""
        return [_in_words(self.spoken(text, run, self._step_run)) for text in self.texts(items)]


@final
class TalkerStepPart(_TalkerPart):
    """`talker`: a frame's codes and the advance in the text."""

    name = "talker"

    def make_graph(self) -> Graph:
        return talker_graph(self.talker)

    def modules(self) -> Sequence[nn.Module]:
        return [self.talker.transformer, self.talker.advance, self.talker.depth]

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for text in self.texts(items):
            yield from self.spoken(text, self._text_run, self._step_run).inputs

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """The codes of each text."""
        return [_in_words(self.spoken(text, self._text_run, run)) for text in self.texts(items)]


@final
class ConditionerPart(_TalkerPart):
    """`conditioner`: tokens to the hidden states of the Thinker that a Talker is conditioned on."""

    name = "conditioner"

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        reason = super().missing(checkpoint)
        if reason is not None:
            return reason
        conditioned = checkpoint.content["parts"]["talker"]["init_args"].get("thinker_dim")
        return None if conditioned else "no Thinker that the Talker is conditioned on"

    def make_graph(self) -> Graph:
        assert self.conditioner is not None
        assert isinstance(self.conditioner.thinker, Thinker)
        self.vocabulary = self.conditioner.tokenizer
        return conditioner_graph(self.conditioner.thinker)

    def inputs(self, items: Sequence[Spoken]) -> Iterator[Inputs]:
        for text in self.texts(items):
            yield {"tokens": self._tokens(text)}

    def results(self, run: Run, items: Sequence[Spoken]) -> list[str]:
        """The most likely next token after each token."""
        assert self.conditioner is not None
        found = []
        for text in self.texts(items):
            hidden = torch.from_numpy(run({"tokens": self._tokens(text)})[0])
            with torch.no_grad():
                found.append(str(self.conditioner.thinker.logits(hidden).argmax(-1).flatten().tolist()))
        return found

    def _tokens(self, text: Sequence[int]) -> NDArray[np.int64]:
        assert self.conditioner is not None
        return self.conditioner.tokens([text]).numpy()


def _in_words(trace: _Trace) -> str:
    return " ".join(map(str, trace.codes.ravel().tolist()))
