"""What training does to speech so that a recogniser gets used to more than it is given."""

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from omni.errors import UserError
from omni.media.audio import AUDIO_SUFFIXES, HOP_LENGTH, SAMPLE_RATE, SILENCE, STD, LogMel, read_audio

COLOURED = "coloured"  # noise that is made, not recorded
_BANDS = 5  # of the equalizer


@dataclass(frozen=True)
class SpeechAugmentation:
    """Random changes of training utterances; a row's depend on seed, epoch and row only.

    Args:
        silence: Longest digital silence put before and behind an utterance, each in half of the cases, in seconds.
        time_masks: Spans of time blanked out of a spectrogram (SpecAugment, arXiv:1904.08779).
        time_mask: Longest span, in seconds; never more than a fifth of the utterance.
        freq_masks: Bands blanked out.
        freq_mask: Widest band, as a share of the mel filters.
        tempo: Largest stretch of the time axis of a spectrogram, pitch unchanged: 0.25 draws factors of duration
            between 1 / 1.25 and 1.25.
        vocal_tract: Largest stretch of the frequency axis, as if by a longer or shorter vocal tract (Jaitly and
            Hinton, 2013): 0.15 draws factors between 1 / 1.15 and 1.15.
        equalizer: Largest change of loudness at single frequencies, in dB, smooth between them, as if by another
            microphone (FilterAugment, arXiv:2110.03282); what is silent stays so.
        speed: Factors of speed, of which one is drawn (pitch changes with it): [0.9, 1.0, 1.1] say.
        gain: Largest change of loudness up or down, in dB.
        noise: Folder of noises to add, or `coloured`: Gaussian noise of a random spectral slope, from blue to brown.
            Half of the utterances get one.
        snr: Signal-to-noise ratio, from and to, in dB.
        rooms: Folder of room impulse responses; a third of the utterances get one.
    """

    silence: float = 0.5
    time_masks: int = 0
    time_mask: float = 0.3
    freq_masks: int = 0
    freq_mask: float = 0.2
    tempo: float = 0.0
    vocal_tract: float = 0.0
    equalizer: float = 0.0
    speed: tuple[float, ...] = ()
    gain: float = 0.0
    noise: str | None = None
    snr: tuple[float, float] = (5.0, 25.0)
    rooms: str | None = None

    def check(self) -> None:
        """Refuses what makes no sense.

        Raises:
            UserError: Naming the option.
        """
        option = "data.init_args.augmentation"
        least = (
            "silence",
            "time_masks",
            "time_mask",
            "freq_masks",
            "freq_mask",
            "tempo",
            "vocal_tract",
            "equalizer",
            "gain",
        )
        for name in least:
            if getattr(self, name) < 0:
                raise UserError(f"{option}.{name} is {getattr(self, name)}: it must be 0 or more")
        if any(not 0.5 <= factor <= 2 for factor in self.speed):
            raise UserError(f"{option}.speed is {list(self.speed)}: factors lie between 0.5 and 2")
        if self.snr[0] > self.snr[1]:
            raise UserError(f"{option}.snr is {list(self.snr)}: the lower bound comes first")
        for name in ("noise", "rooms"):
            folder = getattr(self, name)
            if folder and (name, folder) != ("noise", COLOURED):
                _audio_files(folder, f"{option}.{name}")

    @property
    def changes_waveform(self) -> bool:
        """Whether features have to be computed anew each time."""
        return bool(self.speed or self.gain or self.noise or self.rooms)

    @property
    def changes_mel(self) -> bool:
        """Whether spectrograms are no longer those of a waveform."""
        return bool(self.tempo or self.vocal_tract or self.equalizer or self.time_masks or self.freq_masks)

    def of_waveform(self, audio: Tensor, rng: np.random.Generator) -> Tensor:
        """Speed, room, noise and loudness: (samples,) to (samples,)."""
        if self.speed:
            factor = round(float(rng.choice(self.speed)), 2)
            if factor != 1:
                audio = torchaudio.functional.resample(audio, round(SAMPLE_RATE * factor), SAMPLE_RATE)
        if self.rooms and rng.random() < 1 / 3:
            audio = self._in_room(audio, _pick(self.rooms, rng))
        if self.noise and rng.random() < 0.5:
            noise = _coloured(len(audio), rng) if self.noise == COLOURED else _pick(self.noise, rng)
            audio = self._in_noise(audio, noise, rng)
        if self.gain:
            audio = audio * 10 ** (rng.uniform(-self.gain, self.gain) / 20)
        return audio

    def silences(self, rng: np.random.Generator) -> tuple[int, int]:
        """Frames of silence before and behind."""
        longest = round(self.silence * SAMPLE_RATE / HOP_LENGTH)
        lead, tail = (int(rng.integers(0, longest + 1)) * int(rng.random() < 0.5) for _ in range(2))
        return lead, tail

    def of_mel(self, mel: Tensor, rng: np.random.Generator) -> Tensor:
        """Tempo, vocal tract, equalizer and SpecAugment: (frames, num_mels) to (frames of another number, num_mels).

        What is masked becomes 0, the mean of speech.
        """
        if self.tempo:
            mel = _in_tempo(mel, (1 + self.tempo) ** rng.uniform(-1, 1))
        frames, num_mels = mel.shape
        if self.vocal_tract:
            mel = _stretched(mel, (1 + self.vocal_tract) ** rng.uniform(-1, 1))
        if self.equalizer:
            mel = _equalized(mel, rng.uniform(-self.equalizer, self.equalizer, size=_BANDS + 1))
        if not (self.time_masks or self.freq_masks):
            return mel
        mel = mel.clone()
        for _ in range(self.time_masks):
            width = int(rng.integers(0, min(round(self.time_mask * SAMPLE_RATE / HOP_LENGTH), frames // 5) + 1))
            first = int(rng.integers(0, frames - width + 1))
            mel[first : first + width] = 0
        for _ in range(self.freq_masks):
            width = int(rng.integers(0, round(self.freq_mask * num_mels) + 1))
            first = int(rng.integers(0, num_mels - width + 1))
            mel[:, first : first + width] = 0
        return mel

    def _in_room(self, audio: Tensor, response: Tensor) -> Tensor:
        """The utterance as heard in a room: aligned to the direct sound, as loud as before."""
        direct = int(response.abs().argmax())
        wet = torchaudio.functional.fftconvolve(audio, response)[direct : direct + len(audio)]
        return wet * (_rms(audio) / _rms(wet).clamp(min=1e-8))

    def _in_noise(self, audio: Tensor, noise: Tensor, rng: np.random.Generator) -> Tensor:
        """The utterance with a random stretch of a noise, repeated where it is shorter."""
        start = int(rng.integers(0, len(noise)))
        noise = noise[(start + torch.arange(len(audio))) % len(noise)]
        if not (audio.any() and noise.any()):
            return audio
        return torchaudio.functional.add_noise(audio, noise, torch.tensor(rng.uniform(*self.snr)))


def _coloured(samples: int, rng: np.random.Generator) -> Tensor:
    """Gaussian noise whose power rises or falls with frequency, by up to 6 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.arange(len(spectrum)).clip(1)
    return torch.from_numpy(np.fft.irfft(spectrum * frequency ** rng.uniform(-1, 1), samples)).float()


def _in_tempo(mel: Tensor, factor: float) -> Tensor:
    """A spectrogram that lasts so many times as long, frames interpolated."""
    frames = max(1, round(len(mel) * factor))
    return F.interpolate(mel.T[None], frames, mode="linear", align_corners=False)[0].T.contiguous()


def _stretched(mel: Tensor, factor: float) -> Tensor:
    """A spectrogram whose frequencies are multiplied by a factor."""
    centres = _centres(mel.shape[1])
    place = torch.from_numpy(np.interp(centres / factor, centres, np.arange(len(centres)))).to(mel.dtype)
    below = place.long().clamp(max=len(centres) - 2)
    return mel[:, below].lerp(mel[:, below + 1], place - below)


def _equalized(mel: Tensor, gains: np.ndarray) -> Tensor:
    """A spectrogram with so many dB more at evenly spaced mel filters."""
    decibels = np.interp(np.linspace(0, 1, mel.shape[1]), np.linspace(0, 1, len(gains)), gains)
    louder = (mel + torch.from_numpy(decibels * math.log(10) / 20 / STD).to(mel.dtype)).clamp(min=SILENCE)
    return louder.where(mel > SILENCE, mel)


@cache
def _centres(num_mels: int) -> np.ndarray:
    """The middle of each mel filter: its mean frequency, in bins of the spectrum."""
    filters = LogMel(num_mels).filters.double().numpy()
    return np.arange(len(filters)) @ filters / filters.sum(0)


def _rms(audio: Tensor) -> Tensor:
    return audio.square().mean().sqrt()


@cache
def _audio_files(folder: str, option: str) -> tuple[Path, ...]:
    path = Path(folder).expanduser()
    files = tuple(sorted(file for file in path.rglob("*") if file.suffix.lower() in AUDIO_SUFFIXES))
    if not files:
        raise UserError(f"{option}: {folder} " + ("holds no audio" if path.is_dir() else "does not exist"))
    return files


@cache
def _recording(path: Path) -> Tensor:
    return read_audio(path, duration=60)


def _pick(folder: str, rng: np.random.Generator) -> Tensor:
    files = _audio_files(folder, folder)
    return _recording(files[int(rng.integers(len(files)))])
