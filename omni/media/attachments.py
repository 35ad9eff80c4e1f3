"""Images, recordings and videos in the parts of messages, for training and inference."""

import base64
import binascii
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from omni.errors import UserError
from omni.media.container import AudioSource

KINDS = ("image", "audio", "video")


class Medium(NamedTuple):
    """An image, a recording or a video of a conversation.

    Attributes:
        kind: `image`, `audio` or `video`.
        files: The file, its bytes, or, for an assistant, pixels (3, height, width) of uint8 or samples at 16 kHz; of a
            video, those of its frames.
        times: Times of the frames of a video, in seconds.
        duration: Duration of audio in seconds, if the source gives it.
        source: Returns an image or audio that is not a file of its own, or its samples; `files` then holds its name.
    """

    kind: str
    files: tuple[Any, ...]
    times: tuple[float, ...] = (0.0,)
    duration: float | None = None
    source: Callable[[], AudioSource | Tensor] | None = None

    @property
    def sound(self) -> Any:
        """The source of audio, for `read_audio`, or of an image, for `read_image`."""
        return self.files[0] if self.source is None else self.source()

    def identity(self) -> str:
        """A key of the medium: bytes by content, files by path, size and time of change."""
        parts = [self.kind, repr(self.times)]
        for file in self.files:
            if isinstance(file, bytes):
                parts.append(f"{len(file)} {hash_of(file)}")
                continue
            try:
                status = os.stat(file)
                parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
            except (OSError, ValueError):  # ValueError: not a valid file name
                parts.append(f"{file} is not there")
        return " ".join(parts)


def hash_of(content: bytes) -> str:
    """A short hash of bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def media_of(
    messages: Sequence[Any],
    *,
    where: str,
    folder: Path | None = None,
    shelves: Mapping[str, Iterator[Any]] | None = None,
    of_answers: bool = False,
) -> list[tuple[Medium, ...]]:
    """The media of each message, in the order of their parts.

    Args:
        messages: See `omni.text.chat_template.encode_chat`, which checks them.
        where: Name of the messages for errors.
        folder: Folder of relative paths; the working directory by default.
        shelves: By kind, files for the parts that name none, in order.
        of_answers: The media of the assistant's turns (their speech) instead of all others.

    Raises:
        UserError: If a part names no file and there is none for it, or the times of a video do not fit its frames.
    """
    found = []
    for message in messages:
        wanted = isinstance(message, Mapping) and (message.get("role") == "assistant") == of_answers
        content = message.get("content") if wanted else None
        parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
        some = (part for part in parts if part.get("type") in KINDS)
        found.append(tuple(_medium(part, shelves or {}, where, folder) for part in some))
    return found


def _medium(part: Mapping[str, Any], shelves: Mapping[str, Iterator[Any]], where: str, folder: Path | None) -> Medium:
    kind = part["type"]
    if kind == "video":
        return _video(part, where, folder)
    value = _first(part.get(kind), part.get("path"))
    if value is None:
        value = next(shelves.get(kind, iter(())), None)
    duration = part.get("duration")
    if duration is not None and not (isinstance(duration, int | float) and duration > 0):
        raise UserError(f"{where}: the duration {duration!r} is not a number of seconds: correct it, or leave it out")
    return Medium(kind, (_file(value, kind, where, folder),), duration=duration)


def _video(part: Mapping[str, Any], where: str, folder: Path | None) -> Medium:
    frames = part.get("frames") or part.get("video")
    if not isinstance(frames, list) or not frames:
        raise UserError(f'{where}: a video names no frames: write {{"type": "video", "frames": [files], "times": [s]}}')
    times = part.get("times", list(range(len(frames))))
    numbers = isinstance(times, list) and all(isinstance(time, int | float) for time in times)
    if not numbers or len(times) != len(frames) or times != sorted(times) or times[0] < 0:
        raise UserError(f"{where}: a video has {len(frames)} frames: give as many `times`, in seconds and in order")
    files = tuple(_file(frame, "video", where, folder) for frame in frames)
    return Medium("video", files, tuple(float(time - times[0]) for time in times))


def _first(*values: Any) -> Any:
    """The first value that is a tensor or true."""
    return next((value for value in values if isinstance(value, Tensor) or value), None)


def _file(value: Any, kind: str, where: str, folder: Path | None) -> str | bytes | Tensor:
    if isinstance(value, Mapping):
        value = _first(value.get("bytes"), value.get("path"))
    if isinstance(value, bytes | Tensor):
        return value
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not value:
        raise UserError(f'{where}: a part of type {kind} names no file: write {{"type": "{kind}", "{kind}": "FILE"}}')
    if value.startswith("data:"):
        return _of_data_url(value, where)
    if value.startswith(("http://", "https://")):
        raise UserError(f"{where}: {value[:80]} is on the network: download it, and name the file")
    return str((folder or Path()) / os.path.expanduser(value.removeprefix("file://")))


def _of_data_url(url: str, where: str) -> bytes:
    """The content of `data:image/png;base64,...`."""
    head, comma, data = url.partition(",")
    if not comma or not head.endswith(";base64"):
        raise UserError(f"{where}: {url[:40]!r}... is not a data: URL in Base64")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: a data: URL is not Base64 ({error}): encode the file again") from None
