"""Audio in the formats that clients of a server ask for, encoded while it is generated or whole."""

import io
import struct
from typing import Any, Literal, NamedTuple, final, get_args

import soundfile
import torch
from torch import Tensor

from omni.errors import UserError
from omni.media.audio import SAMPLE_RATE
from omni.media.mpeg import layer3_frame
from omni.media.resampling import Resampler

AudioFormat = Literal["wav", "pcm", "flac", "opus", "mp3"]

PCM_RATE = 24_000  # Hz of `pcm`, which has no header: what clients of OpenAI's API expect
_UNKNOWN = 0xFFFFFFFF  # size in the header of a WAV stream whose length is not known yet
_OGG_PAGE = 60.0  # milliseconds of audio per Ogg page; libsndfile's default is a second
_SET_OGG_PAGE_LATENCY = 0x1302  # SFC_SET_OGG_PAGE_LATENCY_MS of sndfile.h; soundfile has no argument for it


class _Format(NamedTuple):
    content_type: str
    options: dict[str, Any] | None = None  # of `soundfile.SoundFile`; None: 16-bit samples, made here


_FORMATS: dict[str, _Format] = {
    "wav": _Format("audio/wav"),
    "pcm": _Format("audio/pcm"),
    # Level 2 of 8: blocks of 1,152 samples (72 ms), not 4,096.
    "flac": _Format("audio/flac", {"format": "FLAC", "subtype": "PCM_16", "compression_level": 0.25}),
    "opus": _Format("audio/ogg", {"format": "OGG", "subtype": "OPUS"}),
    # A constant bit rate, of 80 kbit/s at 16 kHz: a stream has no header that states the length, players infer it.
    "mp3": _Format(
        "audio/mpeg",
        {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.5},
    ),
}


@final
class FormatEncoder:
    """Encodes mono audio that arrives in pieces.

    The joined output is a stream that players and `omni.media.audio.read_audio` read. Headers are written first, so
    they do not state the length: both sizes of a WAV header are 0xFFFFFFFF. `encode_audio` states it.

    | format | content | sample rate | delay of the output |
    |---|---|---|---|
    | `wav` | RIFF, 16 bits | of the input | none |
    | `pcm` | 16 bits, little-endian, no header | 24,000 Hz, resampled | 0.5 ms |
    | `flac` | 16 bits | of the input | up to 72 ms at 16 kHz |
    | `opus` | Ogg Opus | of the input | up to 80 ms |
    | `mp3` | MPEG layer III, constant bit rate | of the input | up to 0.15 s |

    The first 69 ms (at 16 kHz) of a streamed MP3 are silence, the delay of the codec; those of a whole one are marked
    in its header, and players skip them.

    Args:
        format: The format.
        sample_rate: Of the input in Hz; `opus` takes 8, 12, 16, 24 and 48 kHz.

    Attributes:
        content_type: MIME type.
        sample_rate: Of the output in Hz.

    Raises:
        UserError: If the format is unknown, or cannot be written at this rate or by the installed libsndfile.
    """

    def __init__(self, format: AudioFormat, *, sample_rate: int = SAMPLE_RATE) -> None:
        self._encoder = _encoder(format, sample_rate, streamed=True)
        self.content_type = _FORMATS[format].content_type
        self.sample_rate = PCM_RATE if format == "pcm" else sample_rate

    def push(self, samples: Tensor) -> bytes:
        """Adds audio.

        Args:
            samples: (samples,), floating point, clipped at ±1; any number of them.

        Returns:
            The bytes that are complete; may be empty.

        Raises:
            UserError: If the samples have another shape or are not finite.
        """
        return self._encoder.push(_checked(samples))

    def finish(self) -> bytes:
        """The rest; nothing can be pushed after it."""
        return self._encoder.finish()


def encode_audio(samples: Tensor, format: AudioFormat, *, sample_rate: int = SAMPLE_RATE) -> bytes:
    """Encodes whole audio, with its length in the header.

    Args:
        samples: As in `FormatEncoder.push`.
        format: The format.
        sample_rate: As in `FormatEncoder`.

    Raises:
        UserError: As in `FormatEncoder`.
    """
    encoder = _encoder(format, sample_rate, streamed=False)
    body = encoder.push(_checked(samples)) + encoder.finish()
    return _riff(sample_rate, len(body)) + body if format == "wav" else body


def content_type(format: AudioFormat) -> str:
    """MIME type of a format.

    Raises:
        UserError: If the format is unknown.
    """
    if format not in _FORMATS:
        raise UserError(f"audio format is {format!r}: it must be one of {', '.join(get_args(AudioFormat))}")
    return _FORMATS[format].content_type


def _encoder(format: AudioFormat, sample_rate: int, *, streamed: bool) -> "_PCMEncoder | _CodecEncoder":
    content_type(format)  # raises for an unknown format
    options = _FORMATS[format].options
    if options is not None:
        return _CodecEncoder(format, sample_rate, options, streamed=streamed)
    head = _riff(sample_rate, None) if format == "wav" and streamed else b""
    return _PCMEncoder(Resampler(sample_rate, PCM_RATE if format == "pcm" else sample_rate), head)


class _PCMEncoder:
    """16-bit samples after a header."""

    def __init__(self, resampler: Resampler, head: bytes) -> None:
        self._resampler, self._head = resampler, head

    def push(self, samples: Tensor) -> bytes:
        return self._taken(self._resampler.push(samples))

    def finish(self) -> bytes:
        return self._taken(self._resampler.finish())

    def _taken(self, samples: Tensor) -> bytes:
        head, self._head = self._head, b""
        return head + (samples.clamp(-1, 1) * 32767).round().to(torch.int16).numpy().astype("<i2").tobytes()


class _CodecEncoder:
    """A format of libsndfile, written to memory."""

    def __init__(self, format: str, sample_rate: int, options: dict[str, Any], *, streamed: bool) -> None:
        self._memory: _Pipe | io.BytesIO = _Pipe() if streamed else io.BytesIO()
        self._skips = streamed and format == "mp3"  # the first frame, which is for the length
        try:
            self._file = soundfile.SoundFile(self._memory, "w", sample_rate, 1, **options)  # pyright: ignore[reportArgumentType]
        except (soundfile.LibsndfileError, ValueError) as error:  # ValueError: a format that this libsndfile lacks
            reason = str(error).rstrip(".")
            raise UserError(f"audio cannot be encoded as {format} at {sample_rate} Hz ({reason})") from error
        if format == "opus":
            snd, ffi = soundfile._snd, soundfile._ffi  # pyright: ignore[reportAttributeAccessIssue]
            latency = ffi.new("double*", _OGG_PAGE)
            snd.sf_command(self._file._file, _SET_OGG_PAGE_LATENCY, latency, ffi.sizeof("double"))  # pyright: ignore

    def push(self, samples: Tensor) -> bytes:
        self._file.write(samples.clamp(-1, 1).numpy())
        return self._taken()

    def finish(self) -> bytes:
        self._file.close()
        return self._taken()

    def _taken(self) -> bytes:
        if isinstance(self._memory, io.BytesIO):
            return self._memory.getvalue() if self._file.closed else b""
        taken = self._memory.take()
        if self._skips and taken:
            frame = layer3_frame(taken[:4])
            assert frame is not None
            taken, self._skips = taken[frame[1] :], False
        return taken


class _Pipe(io.RawIOBase):
    """A file that is written once: bytes that are written again, as of headers, are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._position, self._end = 0, 0
        self._new = bytearray()

    def write(self, data: Any) -> int:
        data = bytes(data)
        self._new += data[max(0, self._end - self._position) :]
        self._position += len(data)
        self._end = max(self._end, self._position)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._end}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def take(self) -> bytes:
        """The new bytes."""
        taken = bytes(self._new)
        self._new.clear()
        return taken


def _riff(sample_rate: int, size: int | None) -> bytes:
    """Header of a 16-bit mono WAV file with `size` bytes of samples; None: unknown."""
    riff, data = (_UNKNOWN, _UNKNOWN) if size is None else (36 + size, size)
    chunk = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff, b"WAVE") + chunk + struct.pack("<4sI", b"data", data)


def _checked(samples: Tensor) -> Tensor:
    samples = samples.detach().float().cpu()
    if samples.ndim != 1 or not samples.isfinite().all():
        raise UserError(f"audio of shape {tuple(samples.shape)}: give (samples,) of finite numbers")
    return samples
