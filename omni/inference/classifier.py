"""Image classification with a trained vision encoder, by trained classes or by labels in words."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from omni.batch import Attribute
from omni.checkpoints.checkpoint import Checkpoint, Source
from omni.devices import resolve
from omni.errors import UserError
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.models.classifier import Classifier, probabilities
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder, masked_mean
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.text.tokenizer import BOS, EOS, PAD

ImageSource = str | Path | bytes | Tensor  # a file, its content, or pixels (3, height, width) of uint8
Answer = dict[str, dict[str, float]]  # by attribute, the probability of each value in descending order

_BATCH = 32  # images
_LABEL = "label"  # attribute of labels in words


class VisionModel:
    """A vision encoder with the heads that it was trained with.

    Args:
        path: A checkpoint of stage C.
        device: `auto`, or a name that PyTorch knows; see `omni.devices.resolve`.

    Raises:
        UserError: If the checkpoint is missing, damaged or has no vision encoder, or there is no such device.
    """

    def __init__(self, path: Source, *, device: str = "auto") -> None:
        checkpoint = Checkpoint.open(path)
        self.path = path
        self.vision_encoder = checkpoint.part("vision_encoder", VisionEncoder)
        self.tokenizer = checkpoint.vocabulary
        known: dict[str, Any] = checkpoint.content.get("images") or {"size": self.vision_encoder.image_size}
        self.preprocessing = Preprocessing(known["size"], known.get("fit", "crop"))
        self.attributes = [Attribute(name, tuple(v), several) for name, v, several in known.get("attributes", [])]
        self.classifier = _part(checkpoint, "classifier", Classifier)
        self.contrast = _part(checkpoint, "contrast", ContrastHead)
        self.text_encoder = _part(checkpoint, "text_encoder", TextEncoder)
        self.thinker = _part(checkpoint, "thinker", Thinker)
        parts = (self.vision_encoder, self.classifier, self.contrast, self.text_encoder, self.thinker)
        self.device = resolve(device)
        for part in parts:
            if part is not None:
                part.to(self.device)

    def classify(
        self, images: ImageSource | Sequence[ImageSource], *, labels: Sequence[str] | None = None
    ) -> list[Answer]:
        """Classifies images.

        Args:
            images: Files, their contents as bytes, or pixels (3, height, width) of uint8: one or several.
            labels: Labels in words to choose from, instead of the trained classes.

        Returns:
            For each image, by attribute, the probability of each value in descending order. With `labels`, the only
            attribute is `label`.

        Raises:
            UserError: If an image cannot be read, or the checkpoint lacks the classifier or the contrastive head.
        """
        several = isinstance(images, Sequence) and not isinstance(images, str | bytes)
        sources: list[ImageSource] = list(images) if several else [images]  # pyright: ignore
        answers = []
        for _, answer in self.stream(sources, labels=labels):
            if isinstance(answer, UserError):
                raise answer
            answers.append(answer)
        return answers

    def stream(
        self, sources: Sequence[ImageSource], *, labels: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Answer | UserError]]:
        """As `classify`, one image after the other; yields a `UserError` for one that cannot be read.

        Args:
            sources: The images.
            labels: As in `classify`.

        Yields:
            The number of the image, and its probabilities or error.
        """
        texts = self._check_labels(labels)
        for start in range(0, len(sources), _BATCH):
            numbers = range(start, min(start + _BATCH, len(sources)))
            found = {number: self._preprocess(sources[number]) for number in numbers}
            seen = {number: pixels for number, pixels in found.items() if isinstance(pixels, Tensor)}
            answers = iter(self._answer(torch.stack([*seen.values()]), labels, texts) if seen else ())
            for number, pixels in found.items():
                yield number, pixels if isinstance(pixels, UserError) else next(answers)

    @torch.inference_mode()
    def embed(self, images: Sequence[ImageSource]) -> Tensor:
        """Pooled features of images: (images, dim), on the CPU. Their cosines compare images.

        Args:
            images: As in `classify`.

        Raises:
            UserError: If an image cannot be read.
        """
        pixels = [self._preprocess(image) for image in images]
        if error := next((each for each in pixels if isinstance(each, UserError)), None):
            raise error
        batches = torch.stack([each for each in pixels if isinstance(each, Tensor)]).split(_BATCH)
        return torch.cat([self.vision_encoder(to_pixels(batch.to(self.device))).pooled.cpu() for batch in batches])

    def _check_labels(self, labels: Sequence[str] | None) -> Tensor | None:
        """Embeddings of labels, (labels, dim); None for the trained classes."""
        if labels is None:
            if self.classifier is None:
                raise UserError(f"checkpoint {self.path} has no classifier: give labels to choose from")
            return None
        if self.contrast is None:
            raise UserError(f"checkpoint {self.path} was not trained on captions: leave labels out")
        if not labels or not all(label.strip() for label in labels):
            raise UserError("a label is empty: give each in words")
        if twice := next((label for label in labels if labels.count(label) > 1), None):
            raise UserError(f"the label {twice!r} is given twice")
        return self._embed_texts(labels)

    def _preprocess(self, source: ImageSource) -> Tensor | UserError:
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
            attributes = [Attribute(_LABEL, tuple(labels))]
            found = probabilities(self.contrast.scores(self.contrast.embed_images(pooled), texts).cpu(), attributes)
        else:
            assert self.classifier is not None
            attributes = self.attributes
            found = probabilities(self.classifier(pooled).cpu(), attributes)
        columns = {a.name: [_ordered(row, a) for row in found[a.name].tolist()] for a in attributes}
        return [{name: rows[number] for name, rows in columns.items()} for number in range(len(images))]

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings of texts, (texts, dim)."""
        rows = [torch.tensor([BOS, *self.tokenizer.encode(text), EOS]) for text in texts]
        tokens = pad_sequence(rows, batch_first=True, padding_value=PAD).to(self.device)
        mask = tokens != PAD
        if self.text_encoder is not None:
            return self.contrast.embed_texts(self.text_encoder(tokens, mask))
        assert self.thinker is not None
        return self.contrast.embed_texts(masked_mean(self.thinker.encode(tokens).hidden, mask))


def classify(
    images: ImageSource | Sequence[ImageSource],
    checkpoint: str | Path,
    *,
    labels: Sequence[str] | None = None,
    device: str = "auto",
) -> list[Answer]:
    """Classifies one or several images; see `VisionModel.classify`.

    Args:
        images: Files, their contents as bytes, or pixels (3, height, width) of uint8.
        checkpoint: A checkpoint of stage C.
        labels: Labels in words to choose from, instead of the trained classes.
        device: As in `VisionModel`.
    """
    return VisionModel(checkpoint, device=device).classify(images, labels=labels)


def _part(checkpoint: Checkpoint, name: str, kind: type[Any]) -> Any:
    return checkpoint.part(name, kind) if name in checkpoint else None


def _ordered(shares: Sequence[float], attribute: Attribute) -> dict[str, float]:
    pairs = zip(attribute.values, shares, strict=True)
    return dict(sorted(pairs, key=lambda pair: -pair[1]))
