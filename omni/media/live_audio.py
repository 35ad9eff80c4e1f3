"""Audio as it comes: from a pipe or a microphone."""

import math
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from omni.errors import UserError, install_hint
from omni.media.audio import SAMPLE_RATE
from omni.media.resampling import Resampler

_LEAST_RATE, _MOST_RATE = 4_000, 192_000
_CHUNK = 65_536  # bytes read at most; a pipe returns what there is
_ENDLESS = 0x7FFF_0000  # sizes in headers of streams are at least this, or 0
_PCM, _EXTENSIBLE = 1, 0xFFFE  # format tags
_BLOCK = 0.05  # seconds that a microphone is read at a time


class _Header(NamedTuple):
    rate: int
    channels: int
    size: int | None  # bytes of samples; None: until the end


def piped_audio(stream: BinaryIO, *, rate: int | None = None, name: str = "standard input") -> Iterator[Tensor]:
    """Reads audio while it is written: WAV, or 16-bit PCM without a header (mono, little-endian).

    Args:
        stream: Where from, such as `sys.stdin.buffer`.
        rate: Sample rate in Hz of audio without a header.
        name: Of the stream, for errors.

    Yields:
        (samples,) at 16 kHz, as soon as there are any.

    Raises:
        UserError: If the header is not of 16-bit PCM, there is none and no rate either, or the rate is out of range.
    """
    if rate is not None:
        _check_rate(rate, "rate")
    head = _read(stream, 4)
    if head == b"RIFF":
        header = _wav_header(stream, name)
        if rate not in (None, header.rate):
            raise UserError(f"{name}: its header has {header.rate} Hz: leave --rate {rate} out")
        held = b""
    elif rate is None:
        what = "is empty" if not head else "has no WAV header"
        raise UserError(f"{name} {what}: give --rate for 16-bit PCM without one")
    else:
        header, held = _Header(rate, 1, None), head
    resampler, frame = Resampler(header.rate, SAMPLE_RATE), 2 * header.channels
    left = math.inf if header.size is None else header.size
    read = getattr(stream, "read1", stream.read)
    while left > 0 and (content := read(int(min(left, _CHUNK)))):
        left -= len(content)
        held += content
        whole = len(held) // frame * frame
        if whole:
            samples = torch.frombuffer(bytearray(held[:whole]), dtype=torch.int16).view(-1, header.channels)
            held = held[whole:]
            yield resampler.push(samples.float().mean(1) / 32768)
    yield resampler.finish()


def _wav_header(stream: BinaryIO, name: str) -> _Header:
    """Reads up to the samples."""
    size, kind = struct.unpack("<I4s", _whole(stream, 8, name))
    if kind != b"WAVE":
        raise UserError(f"{name} is a RIFF file, but not WAV")
    found = None
    while True:
        chunk, size = struct.unpack("<4sI", _whole(stream, 8, name))
        if chunk == b"data":
            if found is None:
                raise UserError(f"{name}: the WAV header has samples before their format")
            return found._replace(size=None if size == 0 or size >= _ENDLESS else size)
        if size > 1_000_000:
            raise UserError(f"{name}: the WAV header is damaged ({chunk!r} has {size:,} bytes)")
        content = _whole(stream, size + size % 2, name)
        if chunk == b"fmt ":
            if size < 16:
                raise UserError(f"{name}: the WAV header is damaged (its format has {size} bytes)")
            found = _format(content, name)


def _format(content: bytes, name: str) -> _Header:
    tag, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if tag == _EXTENSIBLE and len(content) >= 26:
        tag = struct.unpack("<H", content[24:26])[0]
    if tag != _PCM or bits != 16:
        raise UserError(f"{name} is WAV of format {tag} with {bits} bits: give 16-bit PCM")
    if not 1 <= channels <= 16:
        raise UserError(f"{name} has {channels} channels: give 1 to 16")
    _check_rate(rate, name)
    return _Header(rate, channels, None)


def _check_rate(rate: int, name: str) -> None:
    if not _LEAST_RATE <= rate <= _MOST_RATE or math.gcd(rate, SAMPLE_RATE) < 20:
        raise UserError(f"{name} has {rate:,} Hz: give a usual rate of {_LEAST_RATE:,} to {_MOST_RATE:,} Hz, as 16000")


def _whole(stream: BinaryIO, size: int, name: str) -> bytes:
    content = _read(stream, size)
    if len(content) < size:
        raise UserError(f"{name} ends in its WAV header")
    return content


def _read(stream: BinaryIO, size: int) -> bytes:
    """`size` bytes, or fewer at the end, of streams that may return fewer at any time."""
    content = b""
    while len(content) < size and (more := stream.read(size - len(content))):
        content += more
    return content


@contextmanager
def microphone() -> Iterator[Iterator[Tensor]]:
    """Records from the default microphone until the end of the context.

    Yields:
        Audio as it comes, (samples,) at 16 kHz each.

    Raises:
        UserError: If the package sounddevice or PortAudio is missing, or there is no microphone.
    """
    try:
        import sounddevice  # pyright: ignore[reportMissingImports]  an extra
    except ModuleNotFoundError as error:
        raise UserError(f"the microphone needs the package {error.name}: {install_hint('live')}") from error
    except OSError as error:
        raise UserError(f"the microphone needs PortAudio ({error}): install it, on Debian as libportaudio2") from error
    try:
        rate = int(sounddevice.query_devices(kind="input")["default_samplerate"])
        with sounddevice.RawInputStream(samplerate=rate, channels=1, dtype="int16") as stream:
            yield _recorded(stream, rate)
    except (sounddevice.PortAudioError, ValueError) as error:
        raise UserError(f"the microphone cannot be opened ({error}): pipe audio into `omni transcribe -`") from error


def _recorded(stream: Any, rate: int) -> Iterator[Tensor]:
    resampler = Resampler(rate, SAMPLE_RATE)
    while True:
        content, _ = stream.read(round(_BLOCK * rate))
        yield resampler.push(torch.frombuffer(bytearray(content), dtype=torch.int16).float() / 32768)
