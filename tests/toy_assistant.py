"""An Assistant of toy parts, with a voice or without, and its checkpoint."""

from pathlib import Path

import torch
from toy_omni import TOKENIZER, toy_omni
from toy_voice import synthesizer

from omni.checkpoints.checkpoint import Lineage
from omni.inference.assistant import Assistant
from omni.media.images import Preprocessing
from omni.media.mel_scale import mel_constants
from omni.text.tokenizer import END, NUM_SPECIALS

SAYABLE = "abcd ,.!"
LETTERS = "abcd "


def assistant_of(omni=None, *, voice=False, **options):
    """An Assistant whose answers have only letters of the toy Talker's vocabulary."""
    omni = sayable(omni or toy_omni())
    return Assistant(
        omni,
        TOKENIZER,
        preprocessing=Preprocessing(16),
        voice=synthesizer() if voice else None,
        **{"context": 160, **options},
    )


def sayable(omni):
    """Makes a Thinker output only a few letters and an occasional end, depending on its input."""
    head = torch.randn(32, 288, generator=torch.Generator().manual_seed(0))
    allowed = torch.full((288,), -200.0)
    allowed[[NUM_SPECIALS + ord(letter) for letter in SAYABLE]] = 0.0
    allowed[END] = -7.0
    omni.thinker.logits = lambda hidden: hidden @ head + allowed
    return omni


def answering_omni():
    """An Omni whose answers are of the toy Talker's letters, and hang on what it reads."""
    omni = toy_omni(seed=6)
    kept = torch.zeros(288, 1)
    kept[[NUM_SPECIALS + ord(letter) for letter in LETTERS]] = 1.0
    with torch.no_grad():
        omni.thinker.embedding.weight.mul_(kept)
        for weight in omni.thinker.transformer.parameters():
            if weight.ndim > 1:
                weight.mul_(3.0)
    return omni


def save_omni(path: Path, omni=None, **more) -> str:
    """Writes a checkpoint, as stage E does."""
    omni = omni or toy_omni()
    parts = dict(omni.named_children())
    lineage: Lineage = {
        "stage": "OmniTuning",
        "step": 1,
        "config": "",
        "data": "",
        "tokenizer": TOKENIZER.fingerprint,
        "ancestors": {},
    }
    checkpoint = {
        "state_dict": dict(omni.state_dict()),
        "parts": {name: part.recipe for name, part in parts.items()},
        "tokenizer": TOKENIZER.state(),
        "lineage": lineage,
        "audio": mel_constants(),
        "images": {"size": 16, "fit": "crop"},
        "context": 160,
    }
    torch.save(checkpoint | more, path)
    return str(path)
