"""Checkpoints of toy Thinkers with a trained tokenizer, to be exported."""

from pathlib import Path
from typing import Any

import torch

from omni.models.thinker import Thinker
from omni.text.sentencepiece_training import train_sentencepiece
from omni.text.tokenizer import SentencePieceTokenizer, Tokenizer

WORDS = ["the cat sat on the mat", "a naïve test of  two spaces", "\tindented\tby tabs", "numbers 123 and 456"] * 20
SIZES = {"dim": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "ffn_dim": 48}


def pieces() -> SentencePieceTokenizer:
    return train_sentencepiece(WORDS, vocab_size=340)


def toy_thinker(**options: Any) -> Thinker:
    """A Thinker whose norms are not all 1, as after training."""
    torch.manual_seed(1)
    thinker = Thinker(vocab_size=352, **{**SIZES, **options}).eval()
    with torch.no_grad():
        for name, parameter in thinker.named_parameters():
            if "norm" in name:
                parameter.copy_(torch.rand_like(parameter) + 0.5)
            if "qk_norm" in name:
                parameter.neg_().mul_(torch.rand_like(parameter).sub(0.3).sign())  # trained scales may be negative
    return thinker


def save(path: Path, thinker: Thinker, tokenizer: Tokenizer, **more: Any) -> str:
    """Writes a checkpoint, as stage A does."""
    lineage = {"stage": "ThinkerPretraining", "step": 3, "config": "c", "data": "d", "ancestors": {}}
    checkpoint = {
        "state_dict": {f"thinker.{name}": weight for name, weight in thinker.state_dict().items()},
        "parts": {"thinker": thinker.recipe},
        "tokenizer": tokenizer.state(),
        "lineage": {**lineage, "tokenizer": tokenizer.fingerprint},
    }
    torch.save(checkpoint | more, path)
    return str(path)
