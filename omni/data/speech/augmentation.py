"""Random changes of training speech."""

import math
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
import torchaudio
from torch import Tensor

from omni.data.speech.audio_folder import AudioFolder
from omni.data.speech.rooms import direct_path, in_room, read_response, responses_of, simulated_response
from omni.errors import UserError
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, STD, LogMel, read_audio
from omni.media.mel_scale import SILENCE

COLOURED = "coloured"  # generated noise instead of recordings
_TELEPHONE_RATE = 8_000  # Hz
_BANDS = 5  # of the equalizer
_OPTION = "data.init_args.augmentation"


@dataclass(frozen=True)
class SpeechAugmentation:
    """Random changes of training utterances; those of a row depend on seed, epoch and row only.

    Args:
        silence: Longest digital silence added before and after an utterance, each with probability 0.5, in seconds.
        time_masks: Number of time masks of a spectrogram (SpecAugment, arXiv:1904.08779).
        time_mask: Longest time mask, in seconds; never more than a fifth of the utterance.
        freq_masks: Number of frequency masks.
        freq_mask: Widest frequency mask, as a share of the mel filters.
        tempo: Largest stretch of the time axis of a spectrogram, without a change of pitch: 0.25 draws factors of
            duration between 1 / 1.25 and 1.25.
        vocal_tract: Largest stretch of the frequency axis (vocal tract length perturbation, Jaitly and Hinton, 2013):
            0.15 draws factors between 1 / 1.15 and 1.15.
        equalizer: Largest change of level at random frequencies, in dB, interpolated between them (FilterAugment,
            arXiv:2110.03282); silence stays silence.
        speed: Factors of speed, of which one is drawn, such as [0.9, 1.0, 1.1]; they change the pitch.
        gain: Largest change of level up or down, in dB.
        noise: Folder of noises to add, or `coloured`: Gaussian noise of random spectral slope, from blue to brown.
            Added with probability 0.5.
        snr: Smallest and largest signal-to-noise ratio, in dB.
        rooms: Probability that an utterance is convolved with a room impulse response; 0–1. Timing, length and level
            of the speech stay the same. Noise is added afterwards.
        rooms_folder: Folder of recorded impulse responses, such as RIRS_NOISES (OpenSLR 28): the first channel of each
            audio file, with the peak as its direct path. By default responses are simulated.
        rt60: Shortest and longest reverberation time of simulated rooms, in seconds.
        drr: Smallest and largest direct-to-reverberant ratio of simulated rooms, in dB.
        telephone: Probability that an utterance, with its room and noise, loses the frequencies above 4 kHz, as speech
            that was sampled at 8 kHz; 0–1.
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
    # Not in the representation, so that the fingerprint of data without them is that of earlier versions.
    rooms: float = field(default=0.0, repr=False)
    rooms_folder: str | None = field(default=None, repr=False)
    rt60: tuple[float, float] = field(default=(0.1, 0.8), repr=False)
    drr: tuple[float, float] = field(default=(-3.0, 12.0), repr=False)
    telephone: float = field(default=0.0, repr=False)

    def check(self) -> None:
        """Checks the options.

        Raises:
            UserError: If one is out of range, or a folder holds no audio that can be read.
        """
        for name, value in vars(self).items():
            if isinstance(value, int | float) and value < 0:
                raise UserError(f"{_OPTION}.{name} is {value}: it must be 0 or more")
        if any(not 0.5 <= factor <= 2 for factor in self.speed):
            raise UserError(f"{_OPTION}.speed is {list(self.speed)}: factors must lie between 0.5 and 2")
        for name in ("snr", "rt60", "drr"):
            first, last = getattr(self, name)
            if not first <= last:
                raise UserError(f"{_OPTION}.{name} is {[first, last]}: the smaller one must come first")
        for name in ("rooms", "telephone"):
            if not getattr(self, name) <= 1:
                raise UserError(f"{_OPTION}.{name} is {getattr(self, name)}: a probability, between 0 and 1")
        if self.rt60[0] < 0.05 or self.rt60[1] > 5:
            raise UserError(f"{_OPTION}.rt60 is {list(self.rt60)}: seconds, between 0.05 and 5")
        if self.noise and self.noise != COLOURED:
            _noises(self.noise).check()
        if self.rooms and self.rooms_folder:
            _responses(self.rooms_folder).check()

    @property
    def later_options(self) -> tuple[object, ...]:
        """The options in use that are not in the representation: of rooms and telephones."""
        rooms = (self.rooms, self.rooms_folder, self.rt60, self.drr) if self.rooms else ()
        return (*rooms, "telephone", self.telephone) if self.telephone else rooms

    @property
    def changes_waveform(self) -> bool:
        """Whether spectrograms must be computed in each epoch."""
        return bool(self.speed or self.gain or self.noise or self.rooms or self.telephone)

    @property
    def changes_mel(self) -> bool:
        """Whether spectrograms no longer match the waveform."""
        return bool(self.tempo or self.vocal_tract or self.equalizer or self.masks)

    @property
    def masks(self) -> bool:
        """Whether parts of spectrograms are masked."""
        return bool(self.time_masks or self.freq_masks)

    def of_waveform(self, audio: Tensor, rng: np.random.Generator, sample_rate: int = SAMPLE_RATE) -> Tensor:
        """Changes speed, room, noise, level and band: (samples,) to (samples,), both at `sample_rate` Hz."""
        if self.speed:
            factor = round(float(rng.choice(self.speed)), 2)
            if factor != 1:
                audio = torchaudio.functional.resample(audio, round(sample_rate * factor), sample_rate)
        if self.rooms and rng.random() < self.rooms:
            audio = self._in_room(audio, rng, sample_rate)
        if self.noise and rng.random() < 0.5:
            coloured = self.noise == COLOURED
            noise = _coloured(len(audio), rng) if coloured else _noises(self.noise, sample_rate).draw(rng)
            audio = self._in_noise(audio, noise, rng)
        if self.gain:
            audio = audio * 10 ** (rng.uniform(-self.gain, self.gain) / 20)
        if self.telephone and rng.random() < self.telephone:
            narrow = torchaudio.functional.resample(audio, sample_rate, _TELEPHONE_RATE)
            audio = torchaudio.functional.resample(narrow, _TELEPHONE_RATE, sample_rate)[: len(audio)]
        return audio

    def silences(self, rng: np.random.Generator) -> tuple[int, int]:
        """Frames of silence before and after an utterance."""
        longest = round(self.silence * SAMPLE_RATE / HOP_LENGTH)
        lead, tail = (int(rng.integers(0, longest + 1)) * int(rng.random() < 0.5) for _ in range(2))
        return lead, tail

    def of_mel(self, mel: Tensor, rng: np.random.Generator) -> Tensor:
        """Changes tempo, vocal tract and equalizer: (frames, num_mels) to (new frames, num_mels)."""
        if self.tempo:
            mel = _stretch_time(mel, (1 + self.tempo) ** rng.uniform(-1, 1))
        if self.vocal_tract:
            mel = _stretch_frequency(mel, (1 + self.vocal_tract) ** rng.uniform(-1, 1))
        if self.equalizer:
            mel = _equalized(mel, rng.uniform(-self.equalizer, self.equalizer, size=_BANDS + 1))
        return mel

    def masked(self, mel: Tensor, rng: np.random.Generator) -> Tensor:
        """A spectrogram (frames, num_mels) with masks of SpecAugment; masked values are 0, the mean of speech."""
        if not self.masks:
            return mel
        frames, num_mels = mel.shape
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

    def _in_room(self, audio: Tensor, rng: np.random.Generator, sample_rate: int) -> Tensor:
        """The utterance in a random room."""
        if self.rooms_folder:
            response = _responses(self.rooms_folder, sample_rate).draw(rng)
            return in_room(audio, response, direct_path(response))
        rt60, drr = rng.uniform(*self.rt60), rng.uniform(*self.drr)
        return in_room(audio, simulated_response(rng, rt60=rt60, drr=drr, sample_rate=sample_rate))

    def _in_noise(self, audio: Tensor, noise: Tensor, rng: np.random.Generator) -> Tensor:
        """The utterance with a random part of a noise, repeated if it is shorter."""
        start = int(rng.integers(0, len(noise)))
        noise = noise[(start + torch.arange(len(audio))) % len(noise)]
        if not (audio.any() and noise.any()):
            return audio
        return torchaudio.functional.add_noise(audio, noise, torch.tensor(rng.uniform(*self.snr)))


def _coloured(samples: int, rng: np.random.Generator) -> Tensor:
    """Gaussian noise with a random spectral slope, up to ±6 dB an octave."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    frequency = np.arange(len(spectrum)).clip(1)
    return torch.from_numpy(np.fft.irfft(spectrum * frequency ** rng.uniform(-1, 1), samples)).float()


def _stretch_time(mel: Tensor, factor: float) -> Tensor:
    """A spectrogram with its duration multiplied by a factor, frames interpolated."""
    frames = max(1, round(len(mel) * factor))
    return F.interpolate(mel.T[None], frames, mode="linear", align_corners=False)[0].T.contiguous()


def _stretch_frequency(mel: Tensor, factor: float) -> Tensor:
    """A spectrogram whose frequencies are multiplied by a factor."""
    centres = _centres(mel.shape[1])
    position = torch.from_numpy(np.interp(centres / factor, centres, np.arange(len(centres)))).to(mel.dtype)
    below = position.long().clamp(max=len(centres) - 2)
    return mel[:, below].lerp(mel[:, below + 1], position - below)


def _equalized(mel: Tensor, gains: np.ndarray) -> Tensor:
    """A spectrogram with gains in dB at evenly spaced mel filters, interpolated between them."""
    decibels = np.interp(np.linspace(0, 1, mel.shape[1]), np.linspace(0, 1, len(gains)), gains)
    changed = (mel + torch.from_numpy(decibels * math.log(10) / 20 / STD).to(mel.dtype)).clamp(min=SILENCE)
    return changed.where(mel > SILENCE, mel)


@cache
def _centres(num_mels: int) -> np.ndarray:
    """The mean frequency of each mel filter, in bins of the spectrum."""
    filters = LogMel(num_mels).filters.double().numpy()
    return np.arange(len(filters)) @ filters / filters.sum(0)


@cache
def _noises(folder: str, sample_rate: int = SAMPLE_RATE) -> AudioFolder:
    return AudioFolder(folder, f"{_OPTION}.noise", partial(read_audio, duration=60, sample_rate=sample_rate))


@cache
def _responses(folder: str, sample_rate: int = SAMPLE_RATE) -> AudioFolder:
    option, what = f"{_OPTION}.rooms_folder", "room impulse responses"
    read = partial(read_response, sample_rate=sample_rate)
    return AudioFolder(folder, option, read, what=what, select=responses_of)
