"""A Talker, a codec and a vocoder at toy size, all causal and untrained, and their checkpoints."""

from contextlib import contextmanager
from pathlib import Path

import torch
from toy_speech import save
from toy_talker import make

from omni.inference.synthesizer import Synthesizer
from omni.models.audio_encoder import AudioEncoder
from omni.models.codec import Codec
from omni.models.part import Part
from omni.models.vocoder import Vocos
from omni.text.ctc_vocabulary import CharacterVocabulary

UNITS = CharacterVocabulary(" abcd")
NUM_MELS = 16


class ToyVocoder(Part):
    """Each mel frame gives 320 samples, half of them overlapping the next frame's."""

    def __init__(self, num_mels: int = NUM_MELS, *, causal: bool = True, level: float = 0.05) -> None:
        super().__init__()
        self.num_mels, self.causal = num_mels, causal
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("basis", level * torch.randn(num_mels, 320, generator=generator))

    def forward(self, mels):
        stream = ToyStream(self)
        return torch.cat((stream.decode(mels), stream.flush()), dim=1)

    @contextmanager
    def streaming(self):
        with torch.no_grad():
            yield ToyStream(self)


class ToyStream:
    def __init__(self, vocoder):
        self.vocoder, self.tail = vocoder, None

    def decode(self, mels):
        first, second = (mels @ self.vocoder.basis).chunk(2, dim=-1)
        before = torch.zeros_like(second[:, :1]) if self.tail is None else self.tail
        samples = (first + torch.cat((before, second[:, :-1]), dim=1)).flatten(1)
        begun, self.tail = self.tail is not None, second[:, -1:]
        return samples if begun else samples[:, 80:]

    def flush(self):
        return self.tail[:, 0, :80]


def codec_of(**options):
    torch.manual_seed(1)
    codec = Codec(**{"num_mels": NUM_MELS, "dim": 16, "num_codebooks": 3, "codebook_size": 12, **options})
    torch.nn.init.normal_(codec.mel_output.weight, std=0.5)
    return codec.eval()


def talker_of(*, fast=False, **options):
    """A Talker of about 10 characters a second, or 75."""
    talker = make(**options)
    with torch.no_grad():
        talker.advance.weight.mul_(0.1)
        talker.advance.bias.copy_(torch.tensor([-9.0, -9.0, -9.0, 9.0] if fast else [1.0, 0.5, -3.0, -9.0]))
    return talker


def synthesizer(vocoder=None, **options):
    return Synthesizer(talker_of(**options), codec_of(), vocoder or ToyVocoder(), UNITS, speakers=["x", "y", "z"])


def save_talker(path: Path, **options) -> str:
    """Writes a Talker's checkpoint, as its stage does: with codec, characters and names of voices."""
    save(path.with_suffix(".codec"), "codec", codec_of(), UNITS)
    save(path, "talker", talker_of(**options), UNITS)
    both = [torch.load(file) for file in (path, path.with_suffix(".codec"))]
    for key in ("state_dict", "parts"):
        both[0][key] |= both[1][key]
    torch.save(both[0] | {"speakers": ["x", "y", "z"][: options.get("num_speakers", 0)]}, path)
    path.with_suffix(".codec").unlink()
    return str(path)


def save_vocoder(path: Path, num_mels: int = NUM_MELS) -> str:
    torch.manual_seed(0)
    save(path, "vocoder", Vocos(num_mels=num_mels, dim=16, num_layers=1), UNITS)
    return str(path)


def save_recognizer(path: Path) -> str:
    torch.manual_seed(0)
    sizes = {"num_mels": 16, "dim": 16, "num_layers": 1, "num_heads": 2, "ffn_dim": 24, "conv_channels": 2}
    save(path, "audio_encoder", AudioEncoder(vocab_size=UNITS.vocab_size, **sizes), UNITS)
    return str(path)
