"""`omni classify`: prints what a trained vision encoder predicts for image files."""

import sys

from omni.errors import UserError
from omni.inference.classifier import Answer, Picture, VisionModel


def classify_files(
    images: list[str], checkpoint: str, *, labels: list[str] | None = None, top: int = 3, device: str = "auto"
) -> None:
    """Tell what is in images, with a vision encoder trained by stage C.

    An image that cannot be read is told in one line, the others are classified, and the exit code is 2.

    Args:
        images: Files of any size (JPEG, PNG, WebP, GIF, TIFF, ...); `-` reads standard input.
        checkpoint: A checkpoint of stage C, such as lightning_logs/vision/best.ckpt.
        labels: What to choose among instead of the trained classes, in words; for a model that learned from captions.
        top: How many of the likeliest classes to print; of those of which an image may have several, all that are
            likelier than not are printed.
        device: cpu, cuda, or auto.
    """
    if top < 1:
        raise UserError(f"top must be 1 or more, not {top}")
    model = VisionModel(checkpoint, device=device)
    several = {attribute.name for attribute in model.attributes if attribute.several} if labels is None else set()
    sources: list[Picture] = [sys.stdin.buffer.read() if image == "-" else image for image in images]
    failed = False
    for number, answer in model.stream(sources, labels=labels):
        if isinstance(answer, UserError):
            print(f"omni: {answer}", file=sys.stderr)
            failed = True
        else:
            print(f"{images[number]}: {_said(answer, several, top)}")
    if failed:
        raise SystemExit(2)


def _said(answer: Answer, several: set[str], top: int) -> str:
    """The likeliest values of each attribute, in words."""
    parts = []
    for name, shares in answer.items():
        chosen = [(value, share) for value, share in shares.items() if name not in several or share > 0.5]
        words = ", ".join(f"{value} {share:.1%}" for value, share in chosen[: None if name in several else top])
        parts.append((f"{name}: " if len(answer) > 1 else "") + (words or "none"))
    return "; ".join(parts)
