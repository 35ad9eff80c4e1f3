"""ONNX graphs of the codec, the vocoder and the Talker; their state is passed in and out."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.decoding.sampling_graph import choose_in_frame
from omni.errors import UserError
from omni.export.graphs import ANY, Graph
from omni.export.passed_state import PassedCache, PassedFrames, no_entries, no_frames
from omni.models.codec import Codec
from omni.models.talker import Talker
from omni.models.vocoder import Vocos, overlap_add


def codec_encoder_graph(codec: Codec) -> Graph:
    """`mels` (batch, frames, downsampling, num_mels) and `past` to `codes` (batch, frames, codebooks) and `present`.

    Mel frames are those of complete frames of codes. An incomplete last one is filled with the last mel frame.
    `past`, (blocks, batch, dim, kernel_size - 1), is zeros at the start and `present` in the next call.
    """
    example = {"mels": torch.zeros(2, 5, codec.downsampling, codec.num_mels), "past": no_frames(_encoder(codec), 2)}
    dynamic = {"mels": {0: ANY, 1: ANY}, "past": {1: ANY}}
    return Graph(_CodecEncoder(codec).eval(), example, dynamic, ("codes", "present"))


def codec_decoder_graph(codec: Codec) -> Graph:
    """`codes` (batch, frames, codebooks) and `past` to `mels` (batch, frames × downsampling, num_mels) and `present`.

    `past`, (blocks, batch, dim, kernel_size - 1), is zeros at the start and `present` in the next call.
    """
    codes = torch.zeros(2, 5, codec.num_codebooks, dtype=torch.long)
    example = {"codes": codes, "past": no_frames(_decoder(codec), 2)}
    dynamic = {"codes": {0: ANY, 1: ANY}, "past": {1: ANY}}
    return Graph(_CodecDecoder(codec).eval(), example, dynamic, ("mels", "present"))


def vocoder_graph(vocoder: Vocos) -> Graph:
    """`mels` (batch, frames, num_mels), `past` and `tail` to `samples`, `present` and `new_tail`.

    `samples` is (batch, frames × hop_length) at the vocoder's sample rate. The first `vocoder.delay` samples of a
    stream precede it and are dropped; the first `delay` samples of the last `new_tail` are its end. `past`, (blocks,
    batch, dim, kernel_size - 1), and `tail`, (batch, n_fft - hop_length), are zeros at the start, and `present` and
    `new_tail` in the next call.

    Raises:
        UserError: If the vocoder is not causal.
    """
    if not vocoder.causal:
        raise UserError("this vocoder reads future frames (causal is false): only a causal one is exported as a stream")
    tail = torch.zeros(2, vocoder.n_fft - vocoder.hop_length)
    example = {"mels": torch.zeros(2, 5, vocoder.num_mels), "past": no_frames([vocoder], 2), "tail": tail}
    dynamic = {"mels": {0: ANY, 1: ANY}, "past": {1: ANY}, "tail": {0: ANY}}
    return Graph(_Vocoder(vocoder).eval(), example, dynamic, ("samples", "present", "new_tail"))


def talker_text_graph(talker: Talker) -> Graph:
    """`text` (batch, characters), `text_lengths`, and where the Talker has them `speakers` and `hidden`, to `encoded`.

    As `Talker.encode_text`; zeros as `hidden` are no condition.
    """
    text = torch.ones(2, 5, dtype=torch.long)
    example = {"text": text, "text_lengths": torch.tensor([5, 3])}
    dynamic: dict[str, dict[int, Any]] = {"text": {0: ANY, 1: ANY}, "text_lengths": {0: ANY}}
    if talker.speakers is not None:
        example["speakers"], dynamic["speakers"] = torch.zeros(2, dtype=torch.long), {0: ANY}
    if talker.condition is not None:
        example["hidden"], dynamic["hidden"] = torch.zeros(2, 5, talker.thinker_dim), {0: ANY, 1: ANY}
    return Graph(_TalkerText(talker).eval(), example, dynamic, ("encoded",))


def talker_graph(talker: Talker) -> Graph:
    """One frame: `before`, `characters`, `draws`, `sampling` and `past` to `codes`, `advances` and `present`.

    Inputs:
        before: (batch, codebooks), int64: the codes of the previous frame; -1 at the first frame.
        characters: (batch, dim): `encoded` of `talker_text_graph` at each row's position.
        draws: (batch, codebooks + 1), uniform in [0, 1): for the codes and, last, the advance.
        sampling: (3, 3): temperature, top_k and top_p of the first codebook, the other codebooks and the advance, as in
            `Sampling`.
        past: (layers, 2 for keys and values, batch, num_kv_heads, frames, head_dim); without frames at the start, and
            `present` in the next call.

    Outputs:
        codes: (batch, codebooks), int64.
        advances: (batch,), int64: characters by which the position advances after the frame.
        present: As `past`, with one more frame.
    """
    example = {
        "before": torch.zeros(2, talker.num_codebooks, dtype=torch.long),
        "characters": torch.zeros(2, talker.dim),
        "draws": torch.full((2, talker.num_codebooks + 1), 0.5),
        "sampling": torch.tensor([[0.7, 0.0, 1.0]] * 3),
        "past": no_entries(talker.transformer, 2, 7),
    }
    dynamic: dict[str, dict[int, Any]] = {name: {0: ANY} for name in ("before", "characters", "draws")}
    dynamic |= {"sampling": {}, "past": {2: ANY, 4: ANY}}
    return Graph(_TalkerStep(talker).eval(), example, dynamic, ("codes", "advances", "present"))


def _encoder(codec: Codec) -> list[nn.Module]:
    return [codec.mel_encoder, codec.encoder]


def _decoder(codec: Codec) -> list[nn.Module]:
    return [codec.decoder, codec.mel_decoder]


class _CodecEncoder(nn.Module):
    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, mels: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        cache = PassedFrames(_encoder(self.codec), past)
        return self.codec.encode_frames(mels.flatten(1, 2), cache), cache.present


class _CodecDecoder(nn.Module):
    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec = codec

    def forward(self, codes: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        cache = PassedFrames(_decoder(self.codec), past)
        return self.codec.decode_frames(codes, cache), cache.present


class _Vocoder(nn.Module):
    """The inverse Fourier transform is a product with its matrix: ONNX has no inverse of a real transform."""

    def __init__(self, vocoder: Vocos) -> None:
        super().__init__()
        self.vocoder = vocoder
        units = torch.eye(vocoder.n_fft // 2 + 1, dtype=torch.complex128)
        basis = torch.fft.irfft(torch.cat((units, 1j * units)), vocoder.n_fft)  # of real and imaginary parts
        self.register_buffer("basis", basis.float() * vocoder.window)

    basis: Tensor

    def forward(self, mels: Tensor, past: Tensor, tail: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cache = PassedFrames([self.vocoder], past)
        magnitude, phase = self.vocoder.spectrum(mels, cache)
        parts = torch.cat((magnitude * phase.cos(), magnitude * phase.sin()), dim=-1)
        audio = overlap_add(parts @ self.basis, self.vocoder.hop_length)
        audio = audio + F.pad(tail, (0, audio.shape[1] - tail.shape[1]))
        complete = mels.shape[1] * self.vocoder.hop_length
        return audio[:, :complete], cache.present, audio[:, complete:]


class _TalkerText(nn.Module):
    def __init__(self, talker: Talker) -> None:
        super().__init__()
        self.talker = talker

    def forward(
        self, text: Tensor, text_lengths: Tensor, speakers: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        return self.talker.encode_text(text, text_lengths, speakers=speakers, hidden=hidden)


class _TalkerStep(nn.Module):
    def __init__(self, talker: Talker) -> None:
        super().__init__()
        self.talker = talker

    def forward(
        self, before: Tensor, characters: Tensor, draws: Tensor, sampling: Tensor, past: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        cache, talker = PassedCache(past), self.talker
        last = torch.where(before[:, :1] < 0, talker.start, talker.depth.embed(before.clamp(min=0)))
        state = talker.encode_frame(last + characters, cache)
        codes, advances = choose_in_frame(talker, state, draws, sampling)
        return codes, advances, cache.present
