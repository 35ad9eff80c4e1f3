"""A model that reads images and audio: their embeddings, and the Thinker that answers."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

import numpy as np
import torch
from numpy.typing import NDArray

from omni.checkpoints.checkpoint import Checkpoint
from omni.evaluation.accuracy import accuracy
from omni.export.graphs import Graph
from omni.export.omni_graphs import audio_embeddings_graph, image_embeddings_graph, omni_thinker_graph
from omni.export.parts.part import Asked, Inputs, OnnxPart, Quality, has_experts, module_run
from omni.export.passed_state import no_entries
from omni.inference.assistant import Assistant
from omni.inference.prompt import Prompt, question
from omni.media.mel_scale import SAMPLE_RATE, mel_constants
from omni.models.audio_encoder import AudioEncoder
from omni.models.thinker import Thinker
from omni.runtime.engine import Run
from omni.text.normalization import TextNormalization
from omni.text.tokenizer import AUDIO, BOS, IMAGE

_NEW = 24  # tokens of an answer
_COMPARED = 16  # conversations; each is answered several times
_normalize = TextNormalization()
_ENCODERS = {"image": ("vision", "VisionEncoder"), "audio": ("audio", "AudioEncoder")}


class _OmniPart(OnnxPart):
    """Abstract: a graph of a model of stage E.

    Attributes:
        role: `thinker`, `image` or `audio`.
    """

    role: ClassVar[str]
    needs = "a Thinker with an encoder and a projector, such as one of stage E"
    targets = ("onnx",)
    rows = "conversations"
    quality_loss = 0.005  # of accuracy

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        parts = checkpoint.content["parts"]
        if "thinker" not in parts or not {"vision_projector", "audio_projector"} & parts.keys():
            return "no projector"
        if not parts["thinker"]["class_path"].endswith(".Thinker"):
            return "the Thinker is a pretrained model: export it with optimum or transformers"
        if has_experts(checkpoint, "thinker"):
            return "the Thinker has experts, and ONNX has no grouped matrix product"
        held = (kind for kind, (modality, _) in _ENCODERS.items() if f"{modality}_projector" in parts)
        return next(filter(None, (_missing_projector(checkpoint, kind) for kind in held)), None)

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.assistant = Assistant.from_pretrained(checkpoint, device="cpu")
        self.omni = self.assistant.responder.omni.float()
        self.vocabulary = self.tokenizer = checkpoint.tokenizer
        assert isinstance(self.omni.thinker, Thinker)
        self.thinker = self.omni.thinker
        self.graph = self.make_graph()
        self._runs = {"thinker": module_run(omni_thinker_graph(self.thinker))}
        for kind, graph in (("image", image_embeddings_graph), ("audio", audio_embeddings_graph)):
            if _missing_projector(checkpoint, kind) is None:
                self._runs[kind] = module_run(graph(self.omni))

    @abstractmethod
    def make_graph(self) -> Graph:
        """The graph of this part."""

    def random_items(self) -> Sequence[Asked]:
        generator = torch.Generator().manual_seed(0)
        media: dict[str, Any] = {}
        if "image" in self._runs:
            media["image"] = [torch.randint(256, (3, 40, 50), generator=generator, dtype=torch.uint8)]
        if "audio" in self._runs:
            media["audio"] = [torch.randn(SAMPLE_RATE, generator=generator) * 0.1]
        return [Asked([question(text, **media)], "") for text in ("what is this?", "describe it")]

    def quality(self, run: Run, items: Sequence[Asked]) -> Quality:
        """Share of the answers that equal the reference, both normalised."""
        pairs = zip(self.results(run, items), items, strict=False)
        right = [_normalize(answer) == _normalize(item.answer) for answer, item in pairs]
        figures = accuracy(sum(right), len(right))
        return Quality("accuracy", figures["accuracy"], figures["low"], figures["high"], len(right))

    def results(self, run: Run, items: Sequence[Asked]) -> list[str]:
        """The greedy answer to each question, by this graph and PyTorch's modules for the others."""
        runs = {**self._runs, self.role: run}
        return [self.tokenizer.decode_turn(self.answer(prompt, runs)[1]) for prompt in self.prompts(items)]

    def prompts(self, items: Sequence[Asked]) -> Iterator[Prompt]:
        """The prompts of conversations."""
        for item in items[:_COMPARED]:
            yield self.assistant.prompt(item.messages, max_tokens=_NEW)

    def media_inputs(self, prompt: Prompt) -> dict[str, Inputs]:
        """Inputs of the graphs of embeddings, by kind of media; only of those that the prompt has."""
        found: dict[str, Inputs] = {}
        if images := prompt.images():
            found["image"] = {"images": torch.stack(images).numpy()}
        if mels := prompt.mels():
            padded = torch.nn.utils.rnn.pad_sequence(mels, batch_first=True)
            found["audio"] = {"mels": padded.numpy(), "lengths": np.array([len(mel) for mel in mels])}
        return found

    def answer(self, prompt: Prompt, runs: Mapping[str, Run]) -> tuple[list[Inputs], list[int]]:
        """Answers a prompt greedily, by graphs.

        Args:
            prompt: The prompt.
            runs: The graphs by role.

        Returns:
            The inputs of the Thinker's steps, and the tokens.
        """
        tokens, dim = np.array([prompt.tokens]), self.thinker.dim
        media = np.zeros((1, tokens.shape[1], dim), dtype=np.float32)
        for kind, inputs in self.media_inputs(prompt).items():
            embeddings, *counts = runs[kind](inputs)
            rows = [row[:count] for row, count in zip(embeddings, *counts, strict=True)] if counts else embeddings
            media[tokens == (IMAGE if kind == "image" else AUDIO)] = np.concatenate(list(rows))
        positions, past = prompt.encoded.positions[:, None].numpy(), self._start()
        steps: list[Inputs] = []
        answer: list[int] = []
        while len(answer) < _NEW:
            given = {"positions": positions} if self.thinker.rope_axes == 3 else {}
            steps.append({"tokens": tokens, "media": media, "past": past, **given})
            logits, past = runs["thinker"](steps[-1])
            token = int(logits[0, -1, : self.tokenizer.vocab_size].argmax())
            if token == self.assistant.responder.stop:
                break
            answer.append(token)
            tokens, media = np.array([[token]]), np.zeros((1, 1, dim), dtype=np.float32)
            positions = np.full((3, 1, 1), positions[:, 0, -1].max() + 1, dtype=np.float32)
        return steps, answer

    def _start(self) -> NDArray[np.float32]:
        return no_entries(self.thinker.transformer, 1).numpy()


@final
class OmniThinkerPart(_OmniPart):
    """`omni_thinker`: tokens, embeddings of media and a KV cache to the logits of the next token."""

    name = "omni_thinker"
    role = "thinker"

    def make_graph(self) -> Graph:
        return omni_thinker_graph(self.thinker)

    def constants(self) -> dict[str, Any]:
        inner = self.thinker.transformer
        reader = self.assistant.prompt_reader
        return {
            "num_layers": inner.num_layers,
            "num_kv_heads": inner.num_kv_heads,
            "head_dim": inner.head_dim,
            "dim": self.thinker.dim,
            "rope_axes": self.thinker.rope_axes,
            "vocab_size": self.thinker.vocab_size,
            "tokenizer_size": self.tokenizer.vocab_size,
            "bos": BOS,
            "image_token": IMAGE,
            "audio_token": AUDIO,
            "stop": self.assistant.responder.stop,
            "template": reader.template,
            "context": reader.context,
        }

    def inputs(self, items: Sequence[Asked]) -> Iterator[Inputs]:
        for prompt in self.prompts(items):
            yield from self.answer(prompt, self._runs)[0]


@final
class ImageEmbeddingsPart(_OmniPart):
    """`image_embeddings`: images to embeddings for the Thinker."""

    name = "image_embeddings"
    role = "image"

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        return super().missing(checkpoint) or _missing_projector(checkpoint, "image")

    def make_graph(self) -> Graph:
        return image_embeddings_graph(self.omni)

    def constants(self) -> dict[str, Any]:
        preprocessing = self.assistant.prompt_reader.preprocessing
        assert preprocessing is not None
        return {"size": preprocessing.size, "fit": preprocessing.fit, "grid": list(self.omni.layout.image_grid or ())}

    def inputs(self, items: Sequence[Asked]) -> Iterator[Inputs]:
        return (found["image"] for found in map(self.media_inputs, self.prompts(items)) if "image" in found)


@final
class AudioEmbeddingsPart(_OmniPart):
    """`audio_embeddings`: mels to embeddings for the Thinker."""

    name = "audio_embeddings"
    role = "audio"

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        return super().missing(checkpoint) or _missing_projector(checkpoint, "audio")

    def make_graph(self) -> Graph:
        return audio_embeddings_graph(self.omni)

    def constants(self) -> dict[str, Any]:
        assert isinstance(self.omni.audio_encoder, AudioEncoder)
        mels = {**mel_constants(), "num_mels": self.omni.audio_encoder.num_mels}
        return {"mel": mels, "mel_frames": self.omni.layout.mel_frames}

    def inputs(self, items: Sequence[Asked]) -> Iterator[Inputs]:
        return (found["audio"] for found in map(self.media_inputs, self.prompts(items)) if "audio" in found)


def _missing_projector(checkpoint: Checkpoint, kind: str) -> str | None:
    """Why the embeddings of images or audio cannot be exported; None if they can."""
    modality, encoder = _ENCODERS[kind]
    parts = checkpoint.content["parts"]
    if f"{modality}_projector" not in parts:
        return f"no {modality} projector"
    if not parts[f"{modality}_encoder"]["class_path"].endswith(f".{encoder}"):
        return f"the {modality} encoder is a pretrained one of another architecture"
    if parts[f"{modality}_projector"]["class_path"].endswith(".MoEProjector"):
        return f"the {modality} projector has experts, and ONNX has no grouped matrix product"
    return None
