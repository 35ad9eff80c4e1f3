"""Opens audio files, with clear errors for missing, damaged and truncated ones."""

import io
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import torch
from torch import Tensor

from omni.media.faults import MediaError

AudioSource = str | os.PathLike[str] | bytes
AudioFault = Literal["missing", "folder", "empty", "unreadable", "truncated", "not finite"]

# libsndfile's log of a chunk with more bytes than the file has; `Data Size` in AU, `SSND` in AIFF.
_CLAIM = re.compile(r"^ *(?:data|Data Size|SSND) *: (\d+) \(should be (\d+)\)", re.MULTILINE)
_UNKNOWN = (1 << 31) - (1 << 20)  # larger sizes are placeholders of programs that stream
_ENDLESS = 1 << 62  # more frames: libsndfile's number for a FLAC stream that does not state its length
_MOST_SAMPLES = 3600 * 48_000 * 2  # of such a stream, which must be decoded to know its length: about 3 seconds' work

# kbit/s by index, of layer III: MPEG-1, and MPEG-2 and 2.5
_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES = (44_100, 48_000, 32_000, 0)  # Hz by index, of MPEG-1; halved and quartered in MPEG-2 and 2.5


class AudioError(MediaError[AudioFault]):
    """Audio that cannot be read."""


@contextmanager
def opened(source: AudioSource) -> Iterator[soundfile.SoundFile]:
    """Opens an audio file that is not empty and, by its header, complete.

    Args:
        source: A path, or a file's content as bytes.

    Raises:
        AudioError: If it is missing, unreadable, empty or truncated.
    """
    name = name_of(source)
    _check_place(source)
    try:
        with _open(source) as file:
            if file.frames == 0:
                raise AudioError("empty", f"{name}: holds no samples")
            if missing := _missing_bytes(file.extra_info):
                raise AudioError("truncated", f"{name}: is cut off: its header declares {missing:,} more bytes")
            if file.format == "MP3" and _tells_no_length(source):
                raise AudioError(
                    "unreadable", f"{name}: is an MP3 of variable bit rate that does not tell its length: convert it"
                )
            yield file
    except PermissionError as error:
        raise AudioError("unreadable", f"{name}: may not be read") from error
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError("unreadable", f"{name}: is no audio that can be read ({reason})") from error


def _open(source: AudioSource) -> soundfile.SoundFile:
    """Opens a file; the length of a FLAC stream that does not state it is counted, and completed in a copy."""
    file = soundfile.SoundFile(io.BytesIO(source) if isinstance(source, bytes) else Path(source))
    if file.frames < _ENDLESS:
        return file
    with file:
        count = _count(file)
        allowed = file.format == "FLAC" and count * file.channels <= _MOST_SAMPLES
    name = name_of(source)
    if not allowed:
        limit = f"{_MOST_SAMPLES:,} samples"
        raise AudioError(
            "unreadable", f"{name}: does not state its length, and is no FLAC of up to {limit}: convert it"
        )
    content = bytearray(source if isinstance(source, bytes) else Path(source).read_bytes())
    at = content.find(b"fLaC") + 21  # 36 bits, the last of a word of 64
    content[at : at + 5] = bytes([content[at] & 0xF0 | count >> 32]) + (count & 0xFFFFFFFF).to_bytes(4, "big")
    file = soundfile.SoundFile(io.BytesIO(content))
    if file.frames != count:  # a tag before the header holds its name
        file.close()
        raise AudioError("unreadable", f"{name}: does not state its length: convert it")
    return file


def _count(file: soundfile.SoundFile) -> int:
    """Number of frames, or more than are allowed; `SoundFile.read` would seek, which fails without a length."""
    count, block = 0, np.empty((1 << 16, file.channels), dtype=np.float32)
    samples = soundfile._ffi.from_buffer("float[]", block)  # pyright: ignore[reportAttributeAccessIssue]
    while read := soundfile._snd.sf_readf_float(file._file, samples, len(block)):  # pyright: ignore
        count += read
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
        size = os.path.getsize(source) if os.path.isfile(source) else 1
    if not size:
        raise AudioError("empty", f"{name_of(source)}: is empty (0 bytes)")


def _tells_no_length(source: AudioSource) -> bool:
    with io.BytesIO(source) if isinstance(source, bytes) else Path(source).open("rb") as file:
        return _guessed_length(file)


def read_mono(file: soundfile.SoundFile, frames: int, source: AudioSource) -> Tensor:
    """Reads the next frames of a file.

    Args:
        file: The opened file.
        frames: Number of frames.
        source: Source of the file, for errors.

    Returns:
        (frames,), float32: the mean of the channels, at the file's own rate.

    Raises:
        AudioError: If there are fewer, or samples are not finite.
    """
    try:
        samples = file.read(frames, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError("truncated", f"{name_of(source)}: is cut off or damaged ({reason})") from error
    if len(samples) < frames:
        there = f"{len(samples):,} of {frames:,} samples are there"
        raise AudioError("truncated", f"{name_of(source)}: is cut off: {there}")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
    if not np.isfinite(mono).all():
        raise AudioError("not finite", f"{name_of(source)}: holds samples that are no finite numbers")
    return torch.from_numpy(np.ascontiguousarray(mono))


def name_of(source: AudioSource) -> str:
    """Name of a source for errors."""
    return f"audio of {len(source)} bytes" if isinstance(source, bytes) else str(source)


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
    return max((declared - there for declared, there in claims if declared < _UNKNOWN), default=0)


def _guessed_length(file: BinaryIO) -> bool:
    """Whether an MP3 has a variable bit rate and no header for it: libsndfile then guesses its length."""
    start = file.tell()
    try:
        head = file.read(10)
        tag = (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + 10 if head[:3] == b"ID3" else 0
        file.seek(start + tag)
        if re.search(b"Xing|Info|VBRI", file.read(200)):  # in the first frame, which then has no audio
            return False
        file.seek(start + tag)
        first = None
        while (frame := layer3_frame(file.read(4))) is not None:
            first = first or frame[0]
            if frame[0] != first:
                return True
            file.seek(frame[1] - 4, 1)
        return False
    finally:
        file.seek(start)


def layer3_frame(header: bytes) -> tuple[int, int] | None:
    """Bit rate in kbit/s and length in bytes of an MPEG layer III frame; None if the header is invalid."""
    if len(header) < 4 or header[0] != 0xFF or header[1] & 0xE6 != 0xE2:
        return None
    version = header[1] >> 3 & 3  # 3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5
    kbits = (_MPEG1 if version == 3 else _MPEG2)[header[2] >> 4]
    rate = _RATES[header[2] >> 2 & 3] >> {3: 0, 2: 1, 0: 2}.get(version, 31)
    if not (kbits and rate):
        return None
    return kbits, (144 if version == 3 else 72) * kbits * 1000 // rate + (header[2] >> 1 & 1)
