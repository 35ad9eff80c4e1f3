"""Trained vision encoders at work, without Lightning: what is in an image?"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.batch import Attribute
from omni.checkpoints.checkpoint import Checkpoint
from omni.devices import resolve
from omni.errors import UserError
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.models.classifier import Classifier, probabilities
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder, masked_mean
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.text.tokenizer import BOS, EOS, PAD

Picture = str | Path | bytes | Tensor  # a file, its content, or pixels (3, height, width) of uint8
Answer = dict[str, dict[str, float]]  # by attribute, the probability of each value, the likeliest first

_BATCH = 32  # images that go through the encoder together
_CHOSEN = "label"  # the attribute that labels given in words are values of


class VisionModel:
    """A vision encoder with the heads that it was trained with.

    Args:
        path: A checkpoint of stage C.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: If the checkpoint is missing, damaged or has no vision encoder, or the device is not there.
    """

    def __init__(self, path: str | Path, *, device: str = "auto") -> None:
        checkpoint = Checkpoint(path)
        self.path = path
        self.vision_encoder = checkpoint.part("vision_encoder", VisionEncoder)
        self.tokenizer = checkpoint.vocabulary
        known: dict[str, Any] = checkpoint.content.get("images") or {"size": self.vision_encoder.image_size}
        self.preprocessing = Preprocessing(known["size"], known.get("fit", "crop"))
        self.attributes = [Attribute(name, tuple(v), several) for name, v, several in known.get("attributes", [])]
        self.classifier = _part(checkpoint, "classifier", Classifier)
        self.contrast = _part(checkpoint, "contrast", ContrastHead)
        self.text_encoder, self.thinker = (
            _part(checkpoint, "text_encoder", TextEncoder),
            _part(checkpoint, "thinker", Thinker),
        )
        parts = (self.vision_encoder, self.classifier, self.contrast, self.text_encoder, self.thinker)
        self.device = resolve(device)
        for part in parts:
            if part is not None:
                part.to(self.device)

    def classify(self, images: Picture | Sequence[Picture], *, labels: Sequence[str] | None = None) -> list[Answer]:
        """Tells what is in images.

        Args:
            images: Files, their contents as bytes, or pixels (3, height, width) of uint8: one or several.
            labels: What to choose among instead of the trained classes, in words.

        Returns:
            For each image, by attribute, the probability of each value, the likeliest first. With `labels`, the only
            attribute is called `label`.

        Raises:
            UserError: If an image cannot be read, or the checkpoint lacks the head that is needed.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
        sources: list[Picture] = list(images) if several else [images]  # pyright: ignore
        answers = []
        for _, answer in self.stream(sources, labels=labels):
            if isinstance(answer, UserError):
                raise answer
            answers.append(answer)
        return answers

    def stream(
        self, sources: Sequence[Picture], *, labels: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Answer | UserError]]:
        """As `classify`, each as it is ready, in order; an image that cannot be read is a `UserError`.

        Args:
            sources: The images.
            labels: As in `classify`.

        Yields:
            The number of the image, and the answer.
        """
        texts = self._check_labels(labels)
        for start in range(0, len(sources), _BATCH):
            numbers = range(start, min(start + _BATCH, len(sources)))
            found = {number: self._prepare(sources[number]) for number in numbers}
            seen = {number: pixels for number, pixels in found.items() if isinstance(pixels, Tensor)}
            answers = iter(self._answer(torch.stack([*seen.values()]), labels, texts) if seen else ())
            for number, pixels in found.items():
                yield number, pixels if isinstance(pixels, UserError) else next(answers)

    def _check_labels(self, labels: Sequence[str] | None) -> Tensor | None:
        """The vectors of labels, (labels, dim), or None where the trained classes are meant."""
        if labels is None:
            if self.classifier is None:
                raise UserError(f"checkpoint {self.path} has no classifier: give labels to choose among")
            return None
        if self.contrast is None:
            raise UserError(f"checkpoint {self.path} has not learned from captions: leave the labels out")
        if not labels or not all(label.strip() for label in labels):
            raise UserError("there is an empty label: write each in words")
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise UserError(f"the label {twice!r} is given twice")
        return self._read(labels)

    def _prepare(self, source: Picture) -> Tensor | UserError:
        """Pixels (3, size, size) of uint8."""
        try:
            if not isinstance(source, Tensor):
                return self.preprocessing(read_image(source))
            if source.ndim != 3 or len(source) != 3 or source.dtype != torch.uint8 or not source.numel():
                kind = f"{tuple(source.shape)} and {source.dtype}"
                raise UserError(f"an image of shape {kind}: give (3, height, width) of uint8")
            return self.preprocessing(source)
        except UserError as error:
            return error

    @torch.inference_mode()
    def _answer(self, images: Tensor, labels: Sequence[str] | None, texts: Tensor | None) -> list[Answer]:
        pooled = self.vision_encoder(to_pixels(images.to(self.device))).pooled
        if labels is not None and texts is not None and self.contrast is not None:
            attributes = [Attribute(_CHOSEN, tuple(labels))]
            found = probabilities(self.contrast.scores(self.contrast.embed_images(pooled), texts).cpu(), attributes)
        else:
            assert self.classifier is not None
            attributes = self.attributes
            found = probabilities(self.classifier(pooled).cpu(), attributes)
        columns = {a.name: [_ordered(row, a) for row in found[a.name].tolist()] for a in attributes}
        return [{name: rows[number] for name, rows in columns.items()} for number in range(len(images))]

    @torch.inference_mode()
    def _read(self, texts: Sequence[str]) -> Tensor:
        """The unit vectors of texts, (texts, dim)."""
        rows = [[BOS, *self.tokenizer.encode(text), EOS] for text in texts]
        tokens = torch.full((len(rows), max(map(len, rows))), PAD)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        tokens = tokens.to(self.device)
        mask = tokens != PAD
        if self.text_encoder is not None:
            return self.contrast.embed_texts(self.text_encoder(tokens, mask))
        assert self.thinker is not None
        return self.contrast.embed_texts(masked_mean(self.thinker.encode(tokens).hidden, mask))


def classify(
    images: Picture | Sequence[Picture],
    checkpoint: str | Path,
    *,
    labels: Sequence[str] | None = None,
    device: str = "auto",
) -> list[Answer]:
    """Tells what is in one or several images; see `VisionModel.classify`.

    Args:
        images: Files, their contents as bytes, or pixels (3, height, width) of uint8.
        checkpoint: Of stage C.
        labels: What to choose among instead of the trained classes, in words.
        device: `cpu`, `cuda`, or `auto`.
    """
    return VisionModel(checkpoint, device=device).classify(images, labels=labels)


def _part(checkpoint: Checkpoint, name: str, kind: type[Any]) -> Any:
    return checkpoint.part(name, kind) if name in checkpoint else None


def _ordered(shares: Sequence[float], attribute: Attribute) -> dict[str, float]:
    pairs = zip(attribute.values, shares, strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))
