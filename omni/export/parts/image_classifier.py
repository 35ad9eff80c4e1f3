"""The image classifier of stage C."""

from collections.abc import Iterator, Sequence
from typing import Any, final

import torch

from omni.batch import Attribute
from omni.checkpoints.checkpoint import Checkpoint
from omni.evaluation.accuracy import accuracy
from omni.export.graphs import classifier_graph
from omni.export.parts.part import Inputs, OnnxPart, Pictured, Quality
from omni.media.images import Preprocessing, to_pixels
from omni.models.classifier import Classifier, in_words, probabilities
from omni.models.vision_encoder import VisionEncoder
from omni.runtime.engine import Run

_BATCH = 16  # images


@final
class ImageClassifierPart(OnnxPart):
    """`image_classifier`: images to scores of all values of all attributes."""

    name = "image_classifier"
    needs = "a vision encoder with a classifier, such as one of stage C that was trained with labels"
    rows = "images"
    quality_loss = 0.005  # of accuracy

    @classmethod
    def missing(cls, checkpoint: Checkpoint) -> str | None:
        if "vision_encoder" not in checkpoint:
            return "no vision encoder"
        if not checkpoint.content["parts"]["vision_encoder"]["class_path"].endswith(".VisionEncoder"):
            return "the vision encoder is a pretrained one of another architecture"
        return None if "classifier" in checkpoint else "the vision encoder has no classifier"

    def __init__(self, checkpoint: Checkpoint) -> None:
        encoder = checkpoint.part("vision_encoder", VisionEncoder).float()
        known: dict[str, Any] = checkpoint.content.get("images") or {"size": encoder.image_size}
        self.preprocessing = Preprocessing(known["size"], known.get("fit", "crop"))
        self.attributes = [Attribute(name, tuple(v), several) for name, v, several in known.get("attributes", [])]
        self.graph = classifier_graph(encoder, checkpoint.part("classifier", Classifier).float())

    def constants(self) -> dict[str, Any]:
        attributes = [{"name": a.name, "values": list(a.values), "several": a.several} for a in self.attributes]
        return {"size": self.preprocessing.size, "fit": self.preprocessing.fit, "attributes": attributes}

    def random_items(self) -> Sequence[Pictured]:
        generator = torch.Generator().manual_seed(0)
        sides = ((64, 64), (40, 90), (90, 40), (7, 5))
        return [
            Pictured(torch.randint(256, (3, *side), generator=generator, dtype=torch.uint8), {}) for side in sides * 4
        ]

    def inputs(self, items: Sequence[Pictured]) -> Iterator[Inputs]:
        for start in range(0, len(items), _BATCH):
            images = torch.stack([self.preprocessing(item.pixels) for item in items[start : start + _BATCH]])
            yield {"images": to_pixels(images).numpy()}

    def results(self, run: Run, items: Sequence[Pictured]) -> list[str]:
        found = []
        for inputs in self.inputs(items):
            (logits,) = run(inputs)
            found += in_words(probabilities(torch.from_numpy(logits), self.attributes), self.attributes)
        return found

    def quality(self, run: Run, items: Sequence[Pictured]) -> Quality:
        """Share of the labels that are correct, over all attributes."""
        right = asked = start = 0
        for inputs in self.inputs(items):
            (logits,) = run(inputs)
            found = probabilities(torch.from_numpy(logits), self.attributes)
            batch = items[start : start + len(logits)]
            start += len(batch)
            for attribute in self.attributes:
                for shares, item in zip(found[attribute.name], batch, strict=True):
                    if attribute.name in item.labels:
                        asked += 1
                        right += _answer(shares, attribute) == _as_set(item.labels[attribute.name])
        figures = accuracy(right, asked)
        return Quality("accuracy", figures["accuracy"], figures["low"], figures["high"], len(items))


def _answer(shares: torch.Tensor, attribute: Attribute) -> set[str]:
    if not attribute.several:
        return {attribute.values[int(shares.argmax())]}
    return {value for value, share in zip(attribute.values, shares, strict=True) if share > 0.5}


def _as_set(label: str | tuple[str, ...]) -> set[str]:
    return {label} if isinstance(label, str) else set(label)
