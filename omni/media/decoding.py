"""Formats that libsndfile does not read: AAC in MP4, WebM and others, decoded by PyAV (extra `media`)."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import soundfile

from omni.errors import install_hint
from omni.media.audio_file import read_frames

_BLOCK = 1 << 16  # frames
_MISSING = 0.5  # seconds that may be missing: encoders pad the last frame
_SIGNATURES = (
    (4, b"ftyp"),  # MP4, M4A, MOV, 3GP
    (0, b"\x1a\x45\xdf\xa3"),  # Matroska, WebM
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"),  # ASF: WMA
    (0, b"#!AMR"),
)


class NotDecodable(Exception):
    """A file that PyAV cannot decode, or would be needed for; the message continues the file's name."""


def needs_decoder(file: BinaryIO) -> bool:
    """Whether a file has the signature of a format that libsndfile does not read."""
    file.seek(0)
    head = file.read(64)
    adts = len(head) > 1 and head[0] == 0xFF and head[1] & 0xF6 == 0xF0  # AAC without a container
    return adts or any(head[at : at + len(magic)] == magic for at, magic in _SIGNATURES)


@contextmanager
def decoded(file: BinaryIO) -> Iterator[soundfile.SoundFile]:
    """The first audio stream of a file, decoded into a temporary one.

    Args:
        file: The file.

    Raises:
        NotDecodable: If PyAV is not installed, the file has no audio, or it cannot be decoded.
        EOFError: If the file ends before its header says.
    """
    try:
        import av
        from av.error import FFmpegError
    except ImportError as error:
        raise NotDecodable(
            f"is of a format that needs PyAV: {install_hint('media')}, or convert it, such as `ffmpeg -i FILE FILE.wav`"
        ) from error
    file.seek(0)
    with tempfile.TemporaryFile() as copy:
        try:
            with av.open(file, metadata_errors="replace") as container:
                if not container.streams.audio:
                    raise NotDecodable("holds no audio")
                stream = container.streams.audio[0]
                stated = _stated(container, stream)
                _write(copy, _frames(container, stream), stream.rate, stream.channels)
        except FFmpegError as error:
            raise NotDecodable(f"is no audio that can be read ({error.strerror})") from error
        with soundfile.SoundFile(copy) as sound:
            seconds = sound.frames / sound.samplerate
            if seconds < stated - _MISSING:
                raise EOFError(f"{seconds:.2f} of {stated:.2f} s are there")
            yield sound


@contextmanager
def copied(file: soundfile.SoundFile) -> Iterator[soundfile.SoundFile]:
    """A file in which libsndfile cannot seek (GSM 6.10, G.721), decoded into a temporary one."""
    with tempfile.TemporaryFile() as copy:
        _write(copy, blocks_in_order(file), file.samplerate, file.channels)
        with soundfile.SoundFile(copy) as sound:
            yield sound


def blocks_in_order(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The rest of a file of unknown length or without seeking, (frames, channels) float32."""
    while len(block := read_frames(file, _BLOCK)):
        yield block


def _stated(container, stream) -> float:
    """Seconds of a stream by its header; 0 where that does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    # Matroska states the duration of the longest stream.
    alone = len(container.streams) == 1
    return container.duration / 1_000_000 if container.duration and alone else 0.0


def _frames(container, stream) -> Iterator[np.ndarray]:
    """The samples of a stream, (frames, channels) float32."""
    import av

    resampler = av.AudioResampler(format="flt", layout=stream.layout, rate=stream.rate)
    for frame in container.decode(stream):
        for part in resampler.resample(frame):
            yield part.to_ndarray().reshape(-1, stream.channels)
    for part in resampler.resample(None):
        yield part.to_ndarray().reshape(-1, stream.channels)


def _write(file: BinaryIO, blocks: Iterator[np.ndarray], rate: int, channels: int) -> None:
    """Writes samples in a format without a limit of length, and goes to its start."""
    with soundfile.SoundFile(file, "w", rate, channels, format="W64", subtype="FLOAT") as writer:
        for block in blocks:
            writer.write(block)
    file.seek(0)
