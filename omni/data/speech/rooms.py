"""Reverberation: room impulse responses, simulated or recorded."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE, read_audio

_SPEED_OF_SOUND = 343.0  # m/s
_VOLUMES = (20.0, 200.0)  # of simulated rooms, in m³: bathrooms to classrooms
_LONGEST = 10.0  # seconds of a file that are read


def simulated_response(rng: np.random.Generator, *, rt60: float, drr: float, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Draws the impulse response of a random room from a statistical model.

    Reflections arrive at random, their density grows with the square of time (Kuttruff, Room Acoustics, section 4.1),
    and their energy decays exponentially (Polack, 1988): single early reflections turn into diffuse reverberation. The
    volume of the room is random; the critical distance, at which direct and reverberant energy are equal, gives the
    distance of the speaker.

    Args:
        rng: Decides volume and reflections.
        rt60: Time in which the energy decays by 60 dB, in seconds.
        drr: Ratio of the energy of the direct path to that of all reflections, in dB.
        sample_rate: Of the response in Hz.

    Returns:
        (1 + sample_rate × rt60,), float32: the direct path, 1 at the first sample, and the reflections.
    """
    volume = math.exp(rng.uniform(*np.log(_VOLUMES)))
    distance = 0.057 * math.sqrt(volume / rt60) * 10 ** (-drr / 20)
    time = np.arange(1, round(rt60 * sample_rate) + 1) / sample_rate  # since the direct path arrived
    travelled = distance + _SPEED_OF_SOUND * time
    density = np.minimum(4 * math.pi * _SPEED_OF_SOUND * travelled**2 / volume / sample_rate, 1)  # per sample
    present = rng.random(len(time)) < density
    tail = present * rng.standard_normal(len(time)) / np.sqrt(density) * 10 ** (-3 * time / rt60)
    tail *= 10 ** (-drr / 20) / max(_norm(tail), 1e-9)
    return torch.from_numpy(np.concatenate([[1.0], tail])).float()


def read_response(path: Path, *, sample_rate: int = SAMPLE_RATE) -> Tensor:
    """Reads the first channel of a room impulse response: (samples,), at `sample_rate` Hz.

    Raises:
        UserError: If it cannot be read, or is silent.
    """
    response = read_audio(path, duration=_LONGEST, sample_rate=sample_rate, first_channel=True)
    if not response.any():
        raise UserError(f"{path}: holds only silence")
    return response


def direct_path(response: Tensor) -> int:
    """The sample at which the direct sound of a recorded response (samples,) arrives: its peak."""
    return int(response.abs().argmax())


def in_room(audio: Tensor, response: Tensor, direct: int = 0) -> Tensor:
    """Convolves an utterance with a room impulse response; its length, level (RMS) and timing stay the same.

    Args:
        audio: (samples,).
        response: (taps,).
        direct: Sample of `response` at which the direct sound arrives.

    Returns:
        (samples,), float32; reverberation after the end of the utterance is cut off.
    """
    # NumPy's FFT gives the same bits for any number of threads, unlike PyTorch's (torchaudio.functional.fftconvolve).
    size = 1 << (len(audio) + len(response) - 2).bit_length()
    spectrum = np.fft.rfft(audio.numpy(), size) * np.fft.rfft(response.numpy(), size)
    wet = np.fft.irfft(spectrum, size)[direct : direct + len(audio)]
    before, after = _norm(audio.numpy()), _norm(wet)
    return torch.from_numpy(wet * np.float32(before / after)) if before and after else audio


def responses_of(files: Sequence[Path]) -> list[Path]:
    """The impulse responses among audio files.

    Folders in the layout of OpenSLR 28 (RIRS_NOISES) hold noises, too: a file beside or below a `rir_list` or a
    `noise_list` must be in the `rir_list`. All other files count as responses.
    """
    listed: dict[Path, frozenset[str] | None] = {}

    def named(folder: Path) -> frozenset[str] | None:
        """Names of the responses in the list of a folder, or of the nearest folder above that has one."""
        if folder not in listed:
            lists = [folder / name for name in ("rir_list", "noise_list")]
            if any(file.is_file() for file in lists):
                lines = lists[0].read_text("utf-8", "replace").splitlines() if lists[0].is_file() else []
                listed[folder] = frozenset(Path(line.split()[-1]).name for line in lines if line.strip())
            else:
                listed[folder] = None if folder == folder.parent else named(folder.parent)
        return listed[folder]

    return [file for file in files if (names := named(file.parent)) is None or file.name in names]


def _norm(samples: np.ndarray) -> float:
    return math.sqrt(np.square(samples, dtype=np.float64).sum())
