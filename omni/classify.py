"""Trained vision encoders at work, without Lightning: what is in an image?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from omni.batch import Attribute
from omni.checkpoint import from_checkpoint, read
from omni.errors import UserError
from omni.media.images import Preprocessing, read_image, to_pixels
from omni.models.classifier import Classifier, probabilities
from omni.models.contrast import ContrastHead
from omni.models.text_encoder import TextEncoder, masked_mean
from omni.models.thinker import Thinker
from omni.models.vision_encoder import VisionEncoder
from omni.tokenizer import BOS, EOS, PAD

_BATCH = 32  # images that go through the encoder together


class VisionModel:
    """A vision encoder with the heads that it was trained with.

    Args:
        path: A checkpoint of stage C.
        device: `cpu`, `cuda`, or `auto` for a GPU where there is one.

    Raises:
        UserError: If the checkpoint is missing, damaged or has no vision encoder, or the device is not there.
    """

    def __init__(self, path: str | Path, *, device: str = "auto") -> None:
        checkpoint = read(path)
        self.path, self._held = path, checkpoint["parts"].keys()
        self.vision_encoder, self.tokenizer = from_checkpoint(path, "vision_encoder", VisionEncoder)
        known: dict[str, Any] = checkpoint.get("images") or {"size": self.vision_encoder.image_size}
        self.preprocessing = Preprocessing(known["size"], known.get("fit", "crop"))
        self.attributes = [Attribute(name, tuple(v), several) for name, v, several in known.get("attributes", [])]
        self.classifier = self._part("classifier", Classifier)
        self.contrast = self._part("contrast", ContrastHead)
        self.text_encoder, self.thinker = self._part("text_encoder", TextEncoder), self._part("thinker", Thinker)
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        parts = (self.vision_encoder, self.classifier, self.contrast, self.text_encoder, self.thinker)
        try:
            self.device = torch.device(device)
            for part in parts:
                if part is not None:
                    part.to(self.device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error

    def _part(self, name: str, kind: type[Any]) -> Any:
        return from_checkpoint(self.path, name, kind)[0] if name in self._held else None

    @torch.no_grad()
    def see(self, images: Sequence[Tensor]) -> Tensor:
        """The vectors of images (3, height, width) of uint8 and any size: (images, dim)."""
        pooled = []
        for start in range(0, len(images), _BATCH):
            pixels = to_pixels(torch.stack([self.preprocessing(image) for image in images[start : start + _BATCH]]))
            pooled.append(self.vision_encoder(pixels.to(self.device)).pooled)
        return torch.cat(pooled)

    @torch.no_grad()
    def classify(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """By attribute, the probabilities of its values: (images, values).

        Raises:
            UserError: If the checkpoint has no classifier.
        """
        if self.classifier is None:
            raise UserError(f"checkpoint {self.path} has no classifier: give --labels to compare images with")
        return probabilities(self.classifier(self.see(images)).cpu(), self.attributes)

    @torch.no_grad()
    def compare(self, images: Sequence[Tensor], texts: Sequence[str]) -> Tensor:
        """How well each of some texts fits each image: (images, texts), which sum to 1 for each image.

        Raises:
            UserError: If the checkpoint was not trained on captions.
        """
        if self.contrast is None:
            raise UserError(f"checkpoint {self.path} has not learned from captions: leave --labels out")
        scores = self.contrast.scores(
            self.contrast.embed_images(self.see(images)), self.contrast.embed_texts(self._read(texts))
        )
        return scores.softmax(-1).cpu()

    def _read(self, texts: Sequence[str]) -> Tensor:
        rows = [[BOS, *self.tokenizer.encode(text), EOS] for text in texts]
        tokens = torch.full((len(rows), max(map(len, rows))), PAD, device=self.device)
        for i, row in enumerate(rows):
            tokens[i, : len(row)] = torch.tensor(row)
        mask = tokens != PAD
        if self.text_encoder is not None:
            return self.text_encoder(tokens, mask)
        assert self.thinker is not None
        return masked_mean(self.thinker.encode(tokens).hidden, mask)


def classify(
    images: list[str] | str,
    *,
    checkpoint: str,
    labels: list[str] | str | None = None,
    top: int = 3,
    device: str = "auto",
) -> None:
    """Tell what is in images, with a trained vision encoder.

    Args:
        images: An image, or several: '[one.jpg, another.png]'.
        checkpoint: A checkpoint of stage C, such as lightning_logs/vision/best.ckpt.
        labels: What to choose among instead of the trained classes, in words; for a model that learned from captions.
        top: How many of the likeliest classes to print.
        device: cpu, cuda, or auto.
    """
    if top < 1:
        raise UserError(f"top must be 1 or more, not {top}")
    images = [images] if isinstance(images, str) else images
    labels = [labels] if isinstance(labels, str) else labels
    if not images or (labels is not None and not labels):
        raise UserError("name at least one image, and with --labels at least one label")
    model = VisionModel(checkpoint, device=device)
    pixels = [read_image(path) for path in images]
    if labels is not None:
        found = {"": model.compare(pixels, labels)}
        attributes = [Attribute("", tuple(labels))]
    else:
        found, attributes = model.classify(pixels), model.attributes
    for number, path in enumerate(images):
        print(f"{path}: {'; '.join(_said(found[a.name][number], a, top, len(attributes) > 1) for a in attributes)}")


def _said(shares: Tensor, attribute: Attribute, top: int, named: bool) -> str:
    """The likeliest values of an attribute, in words."""
    best = shares.argsort(descending=True).tolist()
    if attribute.several:
        best = [number for number in best if shares[number] > 0.5]
    else:
        best = best[:top]
    words = ", ".join(f"{attribute.values[number]} {shares[number]:.1%}" for number in best) or "none"
    return f"{attribute.name}: {words}" if named else words
