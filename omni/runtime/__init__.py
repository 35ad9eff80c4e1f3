"""Exported models at work without PyTorch: numpy, onnxruntime, soundfile, Pillow and SentencePiece.

    from omni.runtime import Assistant, ImageClassifier, Recognizer, Synthesizer, TextGenerator

    Recognizer("exported").transcribe("question.wav")[0].text
    for piece in Assistant("exported").chat("What is this?", image=["picture.png"]):
        print(piece, end="")

Nothing here imports PyTorch, Lightning, or code of omni that needs them.
"""

from omni.runtime.assistant import Assistant
from omni.runtime.image_classifier import ImageClassifier
from omni.runtime.recognizer import Recognizer
from omni.runtime.synthesizer import Synthesizer
from omni.runtime.text_generator import TextGenerator

__all__ = ["Assistant", "ImageClassifier", "Recognizer", "Synthesizer", "TextGenerator"]
