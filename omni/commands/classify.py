"""`omni classify`: prints what a trained vision encoder predicts for image files."""

import sys

from omni.commands.inputs import media_source
from omni.errors import UserError
from omni.inference.classifier import Answer, VisionModel


def classify_files(
    images: list[str], checkpoint: str, *, labels: list[str] | None = None, top: int = 3, device: str = "auto"
) -> None:
    """Classify images with a vision encoder of stage C.

    An image that cannot be read is reported in one line, the others are classified, and the exit code is 2.

    Args:
        images: Files of any size (JPEG, PNG, WebP, GIF, TIFF, ...); `-` reads standard input.
        checkpoint: A checkpoint of stage C, such as lightning_logs/vision/best.ckpt.
        labels: Classes to choose from instead of the trained ones, in words; for a model trained on captions.
        top: Number of classes to print, the likeliest first. Of attributes that may have several values, all those
            over 50 % are printed.
        device: cpu, cuda, or auto.
    """
    if top < 1:
        raise UserError(f"top must be 1 or more, not {top}")
    model = VisionModel(checkpoint, device=device)
    multilabel = {attribute.name for attribute in model.attributes if attribute.several} if labels is None else set()
    failed = False
    for number, answer in model.stream([media_source(image) for image in images], labels=labels):
        if isinstance(answer, UserError):
            print(f"omni: {answer}", file=sys.stderr)
            failed = True
        else:
            print(f"{images[number]}: {_in_words(answer, multilabel, top)}")
    if failed:
        raise SystemExit(2)


def _in_words(answer: Answer, multilabel: set[str], top: int) -> str:
    """The likeliest values of each attribute."""
    parts = []
    for name, probabilities in answer.items():
        if name in multilabel:
            chosen = [(value, p) for value, p in probabilities.items() if p > 0.5]
        else:
            chosen = list(probabilities.items())[:top]
        values = ", ".join(f"{value} {p:.1%}" for value, p in chosen) or "none"
        parts.append(f"{name}: {values}" if len(answer) > 1 else values)
    return "; ".join(parts)
