"""One or several streams of samples, read as one, and mixed to one channel."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple, final

import numpy as np
import soundfile

from omni.media.stream_parts import Remark

_PROBED = 5.0  # seconds that are looked at, from the first that are not silent
_AUDIBLE = 1e-3  # peak of what is not silent: −60 dBFS
_CANCELLED = 0.1  # share of a channel's RMS that is left in the mean of channels of opposite phase: −20 dB
_WARM_UP = {"MP3": 16 * 1152}  # samples that a decoder needs before it is exact, after it was moved
_IMPOSSIBLE = 8.0  # 18 dB over full scale: no recording in floats reaches it


class Mixing(NamedTuple):
    """How channels become one.

    Attributes:
        channel: The one that is taken; None: the mean of all.
        scale: Factor of the samples.
    """

    channel: int | None = None
    scale: float = 1.0


@final
class AudioFile:
    """Opened streams of one sample rate and number of channels, one after the other.

    Args:
        parts: The streams.
        remarks: What was found when they were opened.
    """

    def __init__(self, parts: Sequence[soundfile.SoundFile], remarks: Sequence[Remark]):
        self.parts = parts
        self.samplerate, self.channels = parts[0].samplerate, parts[0].channels
        self.frames = sum(part.frames for part in parts)
        self._opening_remarks = list(remarks)
        self._at = 0
        self._positions = [0] * len(parts)  # of the decoders: moving them costs work

    def seek(self, frame: int) -> None:
        """Goes to a frame."""
        self._at = frame

    def read_mono(self, frames: int) -> np.ndarray:
        """The next frames as one channel, (frames,) float32; fewer if a stream ends early."""
        mixing = self.mixing
        samples = self._read(frames)
        if samples.shape[1] == 1:
            mono = samples[:, 0]
        else:
            mono = samples.mean(1) if mixing.channel is None else samples[:, mixing.channel]
        return mono if mixing.scale == 1.0 else mono * np.float32(mixing.scale)

    @cached_property
    def mixing(self) -> Mixing:
        """How channels become one, by the first seconds that are not silent.

        The mean of channels of opposite phase is silence: the loudest one is taken. Floats with the range of integers
        are scaled.
        """
        floats = any(part.subtype in ("FLOAT", "DOUBLE") for part in self.parts)
        if self.channels == 1 and not floats:
            return Mixing()
        at, samples = self._at, np.zeros((0, self.channels), np.float32)
        self.seek(0)
        while self._at < self.frames and not (len(samples) and np.abs(samples).max() > _AUDIBLE):
            samples = self._read(round(_PROBED * self.samplerate))
            if not len(samples):
                break
        self.seek(at)
        if not len(samples) or not np.isfinite(samples).all():
            return Mixing()
        levels = np.sqrt((samples.astype(np.float64) ** 2).mean(0))
        mean = np.sqrt((samples.astype(np.float64).mean(1) ** 2).mean())
        opposite = self.channels > 1 and mean < _CANCELLED * levels.max()
        return Mixing(int(levels.argmax()) if opposite else None, _scale(samples) if floats else 1.0)

    @property
    def remarks(self) -> list[Remark]:
        """What its owner may want to know."""
        remarks, mixing = list(self._opening_remarks), self.mixing
        if mixing.channel is not None:
            what = f"its channels are of opposite phase, and cancel out: only channel {mixing.channel + 1} is read"
            remarks.append(Remark("opposite phase", what))
        if mixing.scale != 1.0:
            what = f"its floating-point samples have the range of integers: they are divided by {1 / mixing.scale:,.0f}"
            remarks.append(Remark("integer scale", what))
        return remarks

    def _read(self, frames: int) -> np.ndarray:
        """The next frames, (frames, channels)."""
        blocks, start = [], 0
        for number, part in enumerate(self.parts):
            first, stop = max(0, self._at - start), min(part.frames, self._at + frames - start)
            start += part.frames
            if first < stop:
                if self._positions[number] != first:
                    warm_up = min(first, _WARM_UP.get(part.format, 0))
                    part.seek(first - warm_up)
                    read_frames(part, warm_up)
                block = read_frames(part, stop - first)
                blocks.append(block)
                self._positions[number] = first + len(block)
                if len(block) < stop - first:
                    break
        samples = blocks[0] if len(blocks) == 1 else np.concatenate([np.zeros((0, self.channels), np.float32), *blocks])
        self._at += len(samples)
        return samples


def read_frames(file: soundfile.SoundFile, frames: int) -> np.ndarray:
    """The next frames, (frames, channels) float32; fewer at the end.

    `SoundFile.read` seeks after every read, which is not exact for MP3, and not possible for some formats.

    Raises:
        SoundFileError: If the file is damaged.
    """
    block = np.empty((frames, file.channels), dtype=np.float32)
    library: Any = soundfile
    read = library._snd.sf_readf_float(file._file, library._ffi.from_buffer("float[]", block), frames)
    library._error_check(library._snd.sf_error(file._file))
    return block[:read]


def _scale(samples: np.ndarray) -> float:
    peak = float(np.abs(samples).max())
    integers = peak >= 2 and bool((samples == np.round(samples)).all())
    if peak <= _IMPOSSIBLE and not integers:
        return 1.0
    return 2.0**-15 if peak <= 2**15 else 2.0**-31
