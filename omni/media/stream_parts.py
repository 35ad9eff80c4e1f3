"""What is wrong with the lengths of audio files: headers that state none, and several files joined to one."""

import mmap
import re
from collections.abc import Iterator
from typing import BinaryIO, Literal, NamedTuple

from omni.media.mpeg import mp3_parts
from omni.media.splice import Piece

RemarkKind = Literal["no length", "joined", "opposite phase", "integer scale"]
UNKNOWN_LENGTH = (1 << 31) - (1 << 20)  # larger sizes in bytes are placeholders of programs that stream

_FLAC = re.compile(rb"fLaC[\x00\x80]\x00\x00\x22")  # the magic, and the header of its first block


class Remark(NamedTuple):
    """A property of a file that is dealt with, and that its owner may want to know.

    Attributes:
        kind: Its kind.
        text: What was found, and what is read.
    """

    kind: RemarkKind
    text: str


class Parts(NamedTuple):
    """The streams that a file consists of.

    Attributes:
        streams: The pieces of each.
        remarks: What was found.
    """

    streams: list[list[Piece]]
    remarks: list[Remark]


def parts_of(file: BinaryIO, size: int) -> Parts | None:
    """The streams of a file that libsndfile would not read to their ends; None for other files.

    Args:
        file: The file.
        size: Its size in bytes.
    """
    file.seek(0)
    head = file.read(12)
    if head[:4] in (b"RIFF", b"RF64") and head[8:] == b"WAVE":
        return _wav_parts(file, size)
    if head[:4] == b"OggS":
        return _joined(_ogg_starts(file), size)
    if head[:4] == b"fLaC":
        return _joined(_flac_starts(file, size), size)
    if head[:3] == b"ID3" or (head[:1] == b"\xff" and head[1:2] >= b"\xe2"):
        streams = mp3_parts(file, size)
        if streams is None:
            return None
        whole = [Remark("no length", "no header states its length: its frames are counted")]
        return Parts(streams, [_joined_remark(len(streams))] if len(streams) > 1 else whole)
    return None


def _joined(starts: list[int], size: int) -> Parts | None:
    if len(starts) < 2:
        return None
    streams: list[list[Piece]] = [[each] for each in zip(starts, [*starts[1:], size], strict=True)]
    return Parts(streams, [_joined_remark(len(streams))])


def _joined_remark(number: int) -> Remark:
    return Remark("joined", f"{number} files joined end to end: all are read")


# ------------------------------------------------------------------ WAV


def _wav_parts(file: BinaryIO, size: int) -> Parts | None:
    """The WAV files of a file; sizes that a streaming program left open become those up to the end."""
    streams: list[list[Piece]] = []
    start, unstated, patched = 0, False, False
    while start + 12 <= size:
        file.seek(start)
        head = file.read(36)
        if head[:4] not in (b"RIFF", b"RF64"):
            break
        wide = head[:4] == b"RF64" and head[12:16] == b"ds64"
        stated = int.from_bytes(head[20:28] if wide else head[4:8], "little")
        stop = start + 8 + stated + stated % 2
        patches, placeholder = _data_size(file, start, size, wide, stated)
        unstated, patched = unstated or placeholder, patched or bool(patches)
        if placeholder or stop >= size:
            stop = size
        streams.append(_patched(start, stop, patches))
        start = stop
    remarks = [Remark("no length", "its header states no length: read to the end of the file")] if unstated else []
    if len(streams) > 1:
        remarks.append(_joined_remark(len(streams)))
    return Parts(streams, remarks) if remarks else None


def _data_size(file: BinaryIO, start: int, size: int, wide: bool, stated: int) -> tuple[dict[int, bytes], bool]:
    """Bytes to replace by place, and whether the size of the samples is a placeholder."""
    for at, kind, length in _chunks(file, start + 12, size):
        if kind != b"data":
            continue
        if wide:
            file.seek(start + 28)
            length = int.from_bytes(file.read(8), "little")
        there = size - at - 8
        streamed = length == 0 and there > 0 and start + 8 + stated != size
        limit = 1 << 62 if wide else UNKNOWN_LENGTH
        if not streamed and not (length >= limit and there < length):
            return {}, False
        if wide:
            return {start + 20: (size - start - 8).to_bytes(8, "little") + there.to_bytes(8, "little")}, True
        if there >= UNKNOWN_LENGTH:  # libsndfile reads those to the end
            return {at + 4: b"\xff\xff\xff\xff"}, True
        return {start + 4: (size - start - 8).to_bytes(4, "little"), at + 4: there.to_bytes(4, "little")}, True
    return {}, False


def _chunks(file: BinaryIO, at: int, size: int) -> Iterator[tuple[int, bytes, int]]:
    """Place, name and length of the chunks of a RIFF file up to its samples."""
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        yield at, head[:4], length
        if head[:4] == b"data":
            return
        at += 8 + length + length % 2


def _patched(start: int, stop: int, patches: dict[int, bytes]) -> list[Piece]:
    pieces: list[Piece] = []
    for at, content in sorted(patches.items()):
        pieces += [(start, at), content]
        start = at + len(content)
    return [*pieces, (start, stop)]


# ------------------------------------------------------------------ Ogg and FLAC


def _ogg_starts(file: BinaryIO) -> list[int]:
    """The first byte of each link of an Ogg file; a link starts with the first pages of its streams (RFC 3533)."""
    starts, at, opening = [], 0, False
    while True:
        file.seek(at)
        head = file.read(27)
        if len(head) < 27 or head[:4] != b"OggS":
            return starts
        first = bool(head[5] & 2)
        if first and not opening:
            starts.append(at)
        opening = first
        at += 27 + head[26] + sum(file.read(head[26]))


def _flac_starts(file: BinaryIO, size: int) -> list[int]:
    try:
        with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
            return [match.start() for match in _FLAC.finditer(content)]
    except OSError:  # without a descriptor: the content is in memory
        file.seek(0)
        return [match.start() for match in _FLAC.finditer(file.read())]
