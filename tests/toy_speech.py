"""A codec and a recognizer of tones (see `conftest.tones`) that need no training, and their checkpoints."""

from pathlib import Path

import torch
from conftest import tones

from omni.media.audio import LogMel
from omni.media.mel_scale import SILENCE, mel_constants
from omni.models.audio_encoder import AudioEncoder, AudioFeatures, Emissions
from omni.models.part import Part
from omni.text.ctc_vocabulary import CharacterVocabulary

NUM_MELS = 16
LOUD = 2.0  # in units of the log-mel: above the rest of tones in the pauses between them


class ToneCodec(Part):
    """25 frames a second: the index of the strongest mel filter, or `NUM_MELS` in silence, and its level."""

    num_mels, frame_rate, num_codebooks, codebook_size = NUM_MELS, 25.0, 2, NUM_MELS + 1

    def __init__(self, level: float = 3.0) -> None:
        super().__init__()
        self.register_buffer("level", torch.tensor(level))

    def encode(self, mels, lengths):
        frames = mels[:, : mels.shape[1] // 4 * 4].unflatten(1, (-1, 4)).mean(2)
        loudest, place = frames.max(-1)
        return torch.stack((torch.where(loudest > LOUD, place, NUM_MELS), (loudest > LOUD).long()), dim=-1)

    def decode(self, codes):
        mels = torch.full((*codes.shape[:2], NUM_MELS + 1), SILENCE, device=codes.device)
        level = torch.where(codes[..., 1:] == 1, self.level, mels[..., :1])
        return mels.scatter(-1, codes[..., :1], level)[..., :NUM_MELS].repeat_interleave(4, dim=1)


class ToneEncoder(AudioEncoder):
    """Outputs `a`, `b` or `c` where their tones are strongest, and blanks elsewhere."""

    def __init__(self) -> None:
        super().__init__(vocab_size=5, num_mels=NUM_MELS, dim=8, num_layers=1, num_heads=1, ffn_dim=8, conv_channels=2)
        with torch.device("cpu"):  # also where parameters are only counted
            log_mel = LogMel(NUM_MELS)
            self.tone = [int(log_mel(torch.from_numpy(tones(letter))).max(0).values.argmax()) for letter in "abc"]

    def forward(self, mels, lengths):
        padded = torch.nn.functional.pad(mels, (0, 0, 0, -mels.shape[1] % 8), value=SILENCE)
        return AudioFeatures(padded.unflatten(1, (-1, 8)).flatten(2), (lengths + 7) // 8)

    def emit(self, features):
        frames = features.hidden.unflatten(2, (4, 2, NUM_MELS)).mean(3).flatten(1, 2)
        heard = frames[..., self.tone]
        silent = torch.where(heard.amax(-1, keepdim=True) > LOUD, -9.0, 9.0)
        never = torch.full_like(silent, -9.0)
        logits = torch.cat((silent, never, heard * 3), dim=-1)  # blank, space, a, b, c
        return Emissions(logits.log_softmax(-1), features.lengths * 4)


def save(path: Path, name: str, part: Part, units: CharacterVocabulary) -> str:
    """Writes a checkpoint that holds the part."""
    lineage = {"stage": f"{name} training", "step": 1, "config": "", "data": "", "ancestors": {}}
    checkpoint = {
        "state_dict": {f"{name}.{key}": weight for key, weight in part.state_dict().items()},
        "parts": {name: part.recipe},
        "tokenizer": units.state(),
        "lineage": {**lineage, "tokenizer": units.fingerprint},
        "audio": mel_constants(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(checkpoint, path)
    return str(path)
