"""Audio files that are written in pieces, from arrays."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

from omni.errors import UserError
from omni.files import private_copy
from omni.media.mel_scale import SAMPLE_RATE

_SOFTWARE = "omni"  # tag of the files that are written


@contextmanager
def samples_writer(
    path: str | os.PathLike[str], *, sample_rate: int = SAMPLE_RATE, channels: int = 1
) -> Iterator[Callable[[NDArray[Any]], None]]:
    """Writes 16-bit WAV, FLAC or another format by suffix, in pieces; there is no file after an error.

    Args:
        path: The file; missing folders are made.
        sample_rate: In Hz.
        channels: Number of channels.

    Yields:
        A function that writes a piece of floats, (samples,) or (channels, samples), clipped at ±1.

    Raises:
        UserError: If the suffix is unknown.
    """
    path = Path(path)
    kind = audio_format(path)
    with private_copy(path) as part:
        try:
            with soundfile.SoundFile(_native(part), "w", sample_rate, channels, format=kind) as file:
                with suppress(soundfile.SoundFileError):  # some formats have no tags
                    file.software = _SOFTWARE
                yield lambda audio: file.write(np.clip(audio.astype(np.float32), -1, 1).T)
        except soundfile.SoundFileError as error:
            raise UserError(f"{path}: cannot be written ({error}): is the disk full?") from error


def written_by_omni(path: str | os.PathLike[str]) -> bool:
    """Whether an audio file has the mark of `samples_writer`."""
    try:
        with soundfile.SoundFile(_native(path)) as file:
            return file.software.startswith(_SOFTWARE)
    except (soundfile.SoundFileError, TypeError):
        return False


def audio_format(path: str | os.PathLike[str]) -> str:
    """libsndfile's name of a format, by the suffix of the file.

    Raises:
        UserError: If the suffix is unknown.
    """
    path = Path(path)
    kind = path.suffix[1:].upper()
    if kind not in soundfile.available_formats():
        raise UserError(f"{path}: audio cannot be written as {path.suffix or 'a file without suffix'}: use .wav, .flac")
    return kind


def _native(path: str | os.PathLike[str]) -> Any:
    """A path for soundfile, which encodes names of other bytes than UTF-8 wrongly."""
    return os.fsencode(path) if os.name == "posix" else path
