"""Exported models at work without PyTorch: numpy, onnxruntime, soundfile, Pillow and SentencePiece.

    from omni.runtime import ImageClassifier, Recognizer, TextGenerator

    Recognizer("exported").transcribe("question.wav")[0].text

Nothing here imports PyTorch, Lightning, or code of omni that needs them.
"""

from omni.runtime.image_classifier import ImageClassifier
from omni.runtime.recognizer import Recognizer
from omni.runtime.text_generator import TextGenerator

__all__ = ["ImageClassifier", "Recognizer", "TextGenerator"]
