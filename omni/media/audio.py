"""Audio: reading as 16 kHz mono, writing, and the log-mel spectrogram of training and inference."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import Any, NamedTuple

import soundfile
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from omni.media.audio_file import AudioFile
from omni.media.audio_writer import samples_writer
from omni.media.container import AudioError, AudioSource, name_of, opened, read_mono, resampled_from
from omni.media.mel_scale import FLOOR, HOP_LENGTH, MEAN, N_FFT, SAMPLE_RATE, STD, mel_filters, samples_of
from omni.media.resampling import Resampler, common_ticks, resample

_BLOCK_SECONDS = 30.0  # read at a time: memory does not grow with the file


class AudioInfo(NamedTuple):
    """Header of an audio file.

    Attributes:
        duration: Seconds.
        sample_rate: Sample rate of the file in Hz.
        channels: Number of channels.
    """

    duration: float
    sample_rate: int
    channels: int


def audio_info(source: AudioSource) -> AudioInfo:
    """Reads a header.

    Args:
        source: A path, or a file's content as bytes.

    Raises:
        AudioError: If it is not an audio file, or empty.
    """
    with opened(source) as file:
        return AudioInfo(file.frames / file.samplerate, file.samplerate, file.channels)


def read_audio(
    source: AudioSource,
    *,
    start: float = 0.0,
    duration: float | None = None,
    sample_rate: int = SAMPLE_RATE,
    first_channel: bool = False,
) -> Tensor:
    """Reads any format of libsndfile (WAV, FLAC, OGG, MP3, ...), sample rate and number of channels.

    Channels are averaged and other rates resampled (band-limited sinc); an excerpt equals that part of the whole.

    Args:
        source: A path, or a file's content as bytes.
        start: Seconds to skip.
        duration: Most seconds to read; all by default.
        sample_rate: Of the result in Hz.
        first_channel: Whether only the first channel is read, instead of the mean of all.

    Returns:
        (samples,), float32, within ±1 where the file is.

    Raises:
        AudioError: If it cannot be read, is truncated or empty, ends before `start`, or holds samples that are not
            finite.
    """
    with opened(source) as file:
        rate = resampled_from(file)
        first, last = round(start * sample_rate), None if duration is None else round((start + duration) * sample_rate)
        # Resampling starts at a time where both rates have a sample, before `start` by more than the filter's reach.
        step, grid, reach = common_ticks(rate, sample_rate)
        unit = max(0, first // grid - reach)
        stop = file.frames if last is None else min(file.frames, (math.ceil(last / grid) + reach) * step)
        if unit * step >= file.frames > 0:
            there = f"has {file.frames / rate:.2f} s, nothing from {start:.2f} s on"
            raise AudioError("truncated", f"{name_of(source)}: {there}")
        if first_channel:
            file.mixing = file.mixing._replace(channel=0)
        file.seek(unit * step)
        audio = resample(_read_mono(file, stop - unit * step, source), rate, sample_rate)
    offset = first - unit * grid
    return audio[offset:] if last is None else audio[offset : last - unit * grid]


def excerpt(source: AudioSource, *, start: float, duration: float | None) -> bytes:
    """A part of a recording as the content of a WAV file of 16 kHz, with the samples of `read_audio`.

    Args:
        source: A path, or a file's content as bytes.
        start: Its start in seconds.
        duration: Its length in seconds; None: to the end.

    Raises:
        AudioError: As in `read_audio`.
    """
    samples, content = read_audio(source, start=start, duration=duration), BytesIO()
    soundfile.write(content, samples.numpy(), SAMPLE_RATE, format="WAV", subtype="FLOAT")
    return content.getvalue()


def audio_blocks(source: AudioSource, seconds: float, overlap: float = 0.0) -> Iterator[Tensor]:
    """Reads a file of any length in blocks.

    Args:
        source: A path, or a file's content as bytes.
        seconds: Length of a block.
        overlap: Seconds that a block shares with the previous one.

    Yields:
        Samples as of `read_audio`. The last block may be shorter, but always has new samples.

    Raises:
        AudioError: As in `read_audio`.
    """
    size, shared = round(seconds * SAMPLE_RATE), round(overlap * SAMPLE_RATE)
    if not 0 <= shared < size:
        raise ValueError(f"pieces of {seconds} s cannot overlap by {overlap} s")
    held = torch.zeros(0)
    first = True
    for part in _resampled_blocks(source):
        held = torch.cat((held, part))
        while len(held) >= size:
            yield held[:size]
            first = False
            held = held[size - shared :]
    if first or len(held) > shared:
        yield held


def native_blocks(source: AudioSource, seconds: float = _BLOCK_SECONDS) -> Iterator[Tensor]:
    """Reads a file in blocks without resampling, to check its content.

    Args:
        source: A path, or a file's content as bytes.
        seconds: Length of a block.

    Yields:
        (samples,), float32: the mean of the channels, at the file's own rate.

    Raises:
        AudioError: As in `read_audio`.
    """
    with opened(source) as file:
        size, left = max(1, round(seconds * file.samplerate)), file.frames
        while left:
            yield _read_mono(file, min(left, size), source)
            left -= min(left, size)


def write_audio(path: str | os.PathLike[str], audio: Tensor, *, sample_rate: int = SAMPLE_RATE) -> None:
    """Writes 16-bit WAV, FLAC or another format by suffix, atomically.

    Args:
        path: The file; missing folders are made.
        audio: (samples,) or (channels, samples), clipped at ±1.
        sample_rate: In Hz.

    Raises:
        UserError: If the suffix is unknown.
    """
    channels = len(audio) if audio.ndim == 2 else 1
    with audio_writer(path, sample_rate=sample_rate, channels=channels) as write:
        write(audio)


@contextmanager
def audio_writer(
    path: str | os.PathLike[str], *, sample_rate: int = SAMPLE_RATE, channels: int = 1
) -> Iterator[Callable[[Tensor], None]]:
    """As `omni.media.audio_writer.samples_writer`, of tensors."""
    with samples_writer(path, sample_rate=sample_rate, channels=channels) as write:
        yield lambda audio: write(audio.detach().float().cpu().numpy())


class LogMel(nn.Module):
    """The log-mel spectrogram, one frame every 10 ms: magnitudes, Slaney's mel scale, natural logarithm.

    Magnitudes are floored at `FLOOR` and normalised by the constants `MEAN` and `STD`, not by statistics of a file, so
    that streamed and whole spectrograms are equal. Frame `t` is centred at sample `160 t + 80`. The audio is padded
    with zeros, so padding a batch with zeros changes nothing. Differentiable.

    Args:
        num_mels: Number of filters between 0 and half the sample rate, 80 or 128.
        sample_rate: Of the audio in Hz. Models read spectrograms of 16 kHz; those of other rates, whose hop and window
            last as long and whose values have the same scale, are for losses.
    """

    def __init__(self, num_mels: int = 128, *, sample_rate: int = SAMPLE_RATE) -> None:
        super().__init__()
        self.num_mels = num_mels
        self.hop_length, self.n_fft = samples_of(HOP_LENGTH, sample_rate), samples_of(N_FFT, sample_rate)
        self.window: Tensor
        self.filters: Tensor
        self.register_buffer("window", torch.hann_window(self.n_fft), persistent=False)
        filters = torch.tensor(mel_filters(num_mels, sample_rate)) * (N_FFT / self.n_fft)
        self.register_buffer("filters", filters, persistent=False)

    @staticmethod
    def num_frames(num_samples: Any) -> Any:
        """Number of frames at 16 kHz, of an int or a tensor; the last frame may be padded."""
        return (num_samples + HOP_LENGTH - 1) // HOP_LENGTH

    def forward(self, audio: Tensor) -> Tensor:
        """Maps (batch, samples) or (samples,) to (batch, frames, num_mels) or (frames, num_mels), float32."""
        size, hop = self.n_fft, self.hop_length
        frames = (audio.shape[-1] + hop - 1) // hop
        margin = (size - hop) // 2
        audio = F.pad(audio.float(), (margin, frames * hop - audio.shape[-1] + margin))
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(audio, size, hop, window=self.window, center=False, return_complex=True).abs()
            mel = spectrum.transpose(-1, -2) @ self.filters
        return (mel.clamp(min=FLOOR).log() - MEAN) / STD


def _resampled_blocks(source: AudioSource) -> Iterator[Tensor]:
    """Resamples a file to 16 kHz block by block; joined, the blocks equal the whole."""
    with opened(source) as file:
        rate = resampled_from(file)
        resampler, left = Resampler(rate, SAMPLE_RATE), file.frames
        while left:
            taken = min(left, max(1, round(_BLOCK_SECONDS * rate)))
            left -= taken
            yield resampler.push(_read_mono(file, taken, source))
        yield resampler.finish()


def _read_mono(file: AudioFile, frames: int, source: AudioSource) -> Tensor:
    return torch.from_numpy(read_mono(file, frames, source))
