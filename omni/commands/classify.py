"""`omni classify`: prints what a trained vision encoder predicts for image files."""

import sys
from typing import Any, Literal

from omni.commands.inputs import media_source
from omni.errors import UserError
from omni.runtime.exported import check_cpu, uses_onnx
from omni.runtime.image_classifier import Answer, ImageClassifier


def classify_files(
    images: list[str],
    checkpoint: str,
    *,
    labels: list[str] | None = None,
    top: int = 3,
    device: str = "auto",
    runtime: Literal["auto", "onnx", "torch"] = "auto",
) -> None:
    """Classify images with a vision encoder of stage C.

    An image that cannot be read is reported in one line, the others are classified, and the exit code is 2.

    Example:
        omni classify holiday.jpg --checkpoint lightning_logs/vision/best.ckpt

    Args:
        images: Files of any size (JPEG, PNG, WebP, GIF, TIFF, ...); `-` reads standard input.
        checkpoint: A checkpoint of stage C, such as lightning_logs/vision/best.ckpt; or a folder of `omni export --to
            onnx`, which runs without PyTorch on the CPU.
        labels: Classes to choose from instead of the trained ones, in words; for a model trained on captions.
        top: Number of classes to print, the likeliest first. Of attributes that may have several values, all those
            over 50 % are printed.
        device: cpu, cuda, or auto.
        runtime: `onnx`: `checkpoint` must be an exported folder; `torch`: a checkpoint; auto: either.
    """
    if top < 1:
        raise UserError(f"top must be 1 or more, not {top}")
    model, options = _load(checkpoint, labels, device, runtime)
    multilabel = {attribute.name for attribute in model.attributes if attribute.several} if labels is None else set()
    failed = False
    for number, answer in model.stream([media_source(image) for image in images], **options):
        if isinstance(answer, UserError):
            print(f"omni: {answer}", file=sys.stderr)
            failed = True
        else:
            print(f"{images[number]}: {_in_words(answer, multilabel, top)}")
    if failed:
        raise SystemExit(2)


def _load(
    checkpoint: str, labels: list[str] | None, device: str, runtime: str
) -> tuple[ImageClassifier | Any, dict[str, Any]]:
    """The model, and options of its `stream`."""
    if uses_onnx(checkpoint, runtime):
        check_cpu(device)
        if labels is not None:
            raise UserError("an exported folder has the trained classes only: give the checkpoint with --labels")
        return ImageClassifier(checkpoint), {}
    from omni.inference.classifier import VisionModel

    return VisionModel(checkpoint, device=device), {"labels": labels}


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
