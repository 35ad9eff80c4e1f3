"""Opens audio files, with clear errors for missing, damaged and truncated ones."""

import io
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from omni.media.audio_file import AudioFile
from omni.media.decoding import NotDecodable, blocks_in_order, copied, decoded, needs_decoder
from omni.media.faults import MediaError
from omni.media.mel_scale import SAMPLE_RATE
from omni.media.splice import Splice
from omni.media.stream_parts import UNKNOWN_LENGTH, Remark, parts_of

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".w64", ".caf", ".sph")
AUDIO_SUFFIXES += (".m4a", ".aac", ".webm")  # with PyAV

AudioSource = str | os.PathLike[str] | bytes
AudioFault = Literal["missing", "folder", "empty", "unreadable", "truncated", "not finite"]

# libsndfile's log of a chunk with more bytes than the file has; `Data Size` in AU, `SSND` in AIFF.
_CLAIM = re.compile(r"^ *(?:data|Data Size|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_ENDLESS = 1 << 62  # more frames: libsndfile's number for a FLAC stream that does not state its length
_MOST_SAMPLES = 3600 * 48_000 * 2  # of such a stream, which must be decoded to know its length: about 3 seconds' work
_HEADERLESS = (".raw", ".pcm")


class AudioError(MediaError[AudioFault]):
    """Audio that cannot be read."""


class PipedAudio(bytes):
    """The content of a pipe or of standard input.

    Args:
        content: The content.
        name: What errors call it.
    """

    name: str

    def __new__(cls, content: bytes, name: str) -> "PipedAudio":
        self = super().__new__(cls, content)
        self.name = name
        return self


@contextmanager
def opened(source: AudioSource) -> Iterator[AudioFile]:
    """Opens an audio file that is not empty and, by its header, complete.

    Args:
        source: A path, or a file's content as bytes.

    Raises:
        AudioError: If it is missing, unreadable, empty or truncated.
    """
    name = name_of(source)
    _check_place(source)
    try:
        with ExitStack() as stack:
            file = _open(source, stack)
            if file.frames == 0:
                raise AudioError("empty", f"{name}: holds no samples")
            if missing := max(_missing_bytes(part.extra_info) for part in file.parts):
                raise AudioError("truncated", f"{name}: is cut off: its header declares {missing:,} more bytes")
            yield file
    except NotDecodable as error:
        raise AudioError("unreadable", f"{name}: {error}") from error
    except EOFError as error:
        raise AudioError("truncated", f"{name}: is cut off: {error}") from error
    except FileNotFoundError as error:  # deleted since it was checked
        raise AudioError("missing", f"{name}: does not exist") from error
    except PermissionError as error:
        raise AudioError("unreadable", f"{name}: may not be read") from error
    except soundfile.SoundFileError as error:
        raise AudioError("unreadable", f"{name}: is no audio that can be read ({_reason(error)})") from error


def _open(source: AudioSource, stack: ExitStack) -> AudioFile:
    """Opens a file, or the streams that it consists of."""
    content = io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb")  # noqa: SIM115
    raw = stack.enter_context(content)
    if not raw.seekable():
        raise AudioError("unreadable", f"{name_of(source)}: is a pipe, which can be read only once: give its content")
    size = raw.seek(0, io.SEEK_END)
    if needs_decoder(raw):
        return AudioFile([stack.enter_context(decoded(raw))], [])
    parts = parts_of(raw, size)
    streams = [Splice(raw, pieces) for pieces in parts.streams] if parts else [Splice(raw, [(0, size)])]
    suffix = "" if isinstance(source, bytes) else Path(source).suffix.lower()
    try:
        if parts is None and not isinstance(source, bytes) and suffix not in _HEADERLESS:
            # libsndfile reads it without Python's help; its binding encodes names of other bytes than UTF-8 wrongly.
            path = os.fsencode(source) if os.name == "posix" else source
            files = [_stream(path, streams[0], source, stack)]
        else:
            files = [_stream(stream, stream, source, stack) for stream in streams]
    except soundfile.SoundFileError as error:
        if suffix not in _HEADERLESS:
            raise
        raise AudioError(
            "unreadable",
            f"{source}: has no header that states rate and format: convert it, such as "
            f"`ffmpeg -f s16le -ar 16000 -ac 1 -i FILE{suffix} FILE.wav`",
        ) from error
    if len({(file.samplerate, file.channels) for file in files}) > 1:
        raise AudioError(
            "unreadable",
            f"{name_of(source)}: {len(files)} files of different rates or channels are joined: convert it",
        )
    return AudioFile(files, parts.remarks if parts else [])


def _stream(file: Any, content: Splice, source: AudioSource, stack: ExitStack) -> soundfile.SoundFile:
    """Opens a file, with its length where it states none, and seekable.

    Args:
        file: What to open: a path, or the content.
        content: Its bytes.
        source: The source, for errors.
        stack: Closes what is opened.
    """
    sound = stack.enter_context(soundfile.SoundFile(file))
    if sound.frames >= _ENDLESS:
        return stack.enter_context(_with_counted_length(sound, content, name_of(source)))
    return sound if sound.seekable() else stack.enter_context(copied(sound))


def _with_counted_length(file: soundfile.SoundFile, content: Splice, name: str) -> soundfile.SoundFile:
    """A FLAC stream that does not state its length, with that number in its header."""
    count = _count(file)
    if file.format != "FLAC" or count * file.channels > _MOST_SAMPLES:
        limit = f"{_MOST_SAMPLES:,} samples"
        raise AudioError(
            "unreadable", f"{name}: does not state its length, and is no FLAC of up to {limit}: convert it"
        )
    size = content.seek(0, io.SEEK_END)
    content.seek(0)
    head = content.read(1 << 20)
    at = head.find(b"fLaC") + 21  # 36 bits, the last of a word of 64
    word = bytes([head[at] & 0xF0 | count >> 32]) + (count & 0xFFFFFFFF).to_bytes(4, "big")
    patched: Any = Splice(content, [(0, at), word, (at + 5, size)])
    whole = soundfile.SoundFile(patched)
    if whole.frames != count:  # a tag before the header holds its name
        whole.close()
        raise AudioError("unreadable", f"{name}: does not state its length: convert it")
    return whole


def _count(file: soundfile.SoundFile) -> int:
    """Number of frames, or more than are allowed."""
    count = 0
    for block in blocks_in_order(file):
        count += len(block)
        if count * file.channels > _MOST_SAMPLES:
            break
    return count


def _check_place(source: AudioSource) -> None:
    """Checks for errors that libsndfile does not describe."""
    if isinstance(source, bytes):
        size = len(source)
    else:
        if os.path.isdir(source):
            raise AudioError("folder", f"{source}: is a folder, and an audio file is needed")
        if not os.path.exists(source):  # unlike Path.exists, accepts invalid names
            raise AudioError("missing", f"{source}: does not exist")
        try:
            size = os.path.getsize(source) if os.path.isfile(source) else 1
        except FileNotFoundError as error:  # deleted since the line before
            raise AudioError("missing", f"{source}: does not exist") from error
    if not size:
        raise AudioError("empty", f"{name_of(source)}: is empty (0 bytes)")


def read_mono(file: AudioFile, frames: int, source: AudioSource) -> NDArray[np.float32]:
    """Reads the next frames of a file.

    Args:
        file: The opened file.
        frames: Number of frames.
        source: Source of the file, for errors.

    Returns:
        (frames,), float32: the mean of the channels (see `AudioFile.mixing`), at the file's own rate.

    Raises:
        AudioError: If there are fewer, or samples are not finite.
    """
    try:
        mono = file.read_mono(frames)
    except soundfile.SoundFileError as error:
        raise AudioError("truncated", f"{name_of(source)}: is cut off or damaged ({_reason(error)})") from error
    if len(mono) < frames:
        there = f"{len(mono):,} of {frames:,} samples are there"
        raise AudioError("truncated", f"{name_of(source)}: is cut off: {there}")
    if not np.isfinite(mono).all():
        raise AudioError("not finite", f"{name_of(source)}: holds samples that are no finite numbers")
    return np.ascontiguousarray(mono)


def audio_remarks(source: AudioSource) -> list[Remark]:
    """What is unusual about a file that can be read, such as channels of opposite phase.

    Args:
        source: A path, or a file's content as bytes.

    Raises:
        AudioError: As in `opened`, or if it is truncated.
    """
    with opened(source) as file:
        try:
            return file.remarks
        except soundfile.SoundFileError as error:
            raise AudioError("truncated", f"{name_of(source)}: is cut off or damaged ({error})") from error


def resampled_from(file: AudioFile) -> int:
    """The file's rate, or one within 0.2 % with a larger common divisor with 16 kHz.

    The resampler's kernel grows with the common period of both rates: 2.8 GB for 44,101 Hz.
    """
    rate, grid = file.samplerate, 25 if file.samplerate >= 8000 else 5
    return rate if math.gcd(rate, SAMPLE_RATE) >= 8 else max(1, round(rate / grid)) * grid


def name_of(source: AudioSource) -> str:
    """Name of a source for errors."""
    if isinstance(source, PipedAudio):
        return source.name
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)


def _reason(error: soundfile.SoundFileError) -> str:
    return getattr(error, "error_string", str(error)).rstrip(".")


def ogg_ends_early(path: Path) -> bool:
    """Whether the last page of an Ogg file is not marked as the last; false for other files."""
    with path.open("rb") as file:
        if file.read(4) != b"OggS":
            return False
        file.seek(max(0, path.stat().st_size - (1 << 17)))  # a page has 64 KiB at most
        end = file.read()
    page = end.rfind(b"OggS")
    return page < 0 or not end[page + 5] & 4


def _missing_bytes(log: str) -> int:
    """Bytes that a header declares and the file lacks, by the log of libsndfile."""
    claims = ((int(declared), int(there)) for declared, there in _CLAIM.findall(log))
    return max((declared - there for declared, there in claims if declared < UNKNOWN_LENGTH), default=0)
