"""The audio of a client: PCM in base64 as turns at 16 kHz."""

import torch
from torch import Tensor

from omni.media.audio import SAMPLE_RATE
from omni.media.encoding import PCM_RATE
from omni.media.resampling import Resampler, resample
from omni.media.turn_splitter import TurnPart, TurnSplitter
from omni.serving.errors import ApiError
from omni.serving.media import decoded
from omni.serving.realtime.configuration import detector_of
from omni.serving.realtime.schemas import ServerVAD

_NOTICED = 0.1  # seconds after which the detector notices a start, which prefix_padding_ms does not include


def samples_of(data: str, *, param: str) -> Tensor:
    """Samples (samples,) at 24 kHz of 16-bit PCM in base64.

    Args:
        data: The base64.
        param: Its field, for errors.

    Raises:
        ApiError: If it is not base64, or not whole samples.
    """
    content = decoded(data.encode("ascii", "replace"), param)
    if len(content) % 2:
        message = f"The audio has {len(content):,} bytes: samples of 16 bits are an even number."
        raise ApiError(400, message, param=param, code="invalid_audio")
    if not content:
        return torch.zeros(0)
    return torch.frombuffer(bytearray(content), dtype=torch.int16).float() / 32768


def recording_of(data: str, *, param: str) -> Tensor:
    """A whole recording at 16 kHz; as `samples_of`."""
    samples = samples_of(data, param=param)
    if not len(samples):
        raise ApiError(400, "The audio is empty.", param=param, code="invalid_audio")
    return resample(samples, PCM_RATE, SAMPLE_RATE)


class AudioInput:
    """Resamples audio as it comes, and cuts it into turns unless the client does.

    Args:
        detection: How turns are found; None: everything belongs to the turn, until the client commits it.

    Attributes:
        seconds: Audio that was pushed.
    """

    def __init__(self, detection: ServerVAD | None) -> None:
        self.detection, self.seconds = detection, 0.0
        self._resampler = Resampler(PCM_RATE, SAMPLE_RATE)
        self.restart()

    def restart(self) -> None:
        """Forgets the turn; audio that comes may be another one."""
        self._first, self._splitter = self.seconds, None
        if self.detection is not None:
            before = self.detection.prefix_padding_ms / 1000 + _NOTICED
            self._splitter = TurnSplitter(detector_of(self.detection), before=before)

    def push(self, samples: Tensor) -> list[TurnPart]:
        """Adds audio, (samples,) at 24 kHz; returns parts of turns, with their place in all audio."""
        audio = self._resampler.push(samples)
        self.seconds += len(audio) / SAMPLE_RATE
        if self._splitter is None:
            return [TurnPart("audio", self.seconds, audio)] if len(audio) else []
        return [part._replace(seconds=self._first + part.seconds) for part in self._splitter.push(audio)]
