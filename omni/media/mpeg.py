"""MP3 files as frames: their length where no header states it, and files joined end to end."""

import re
from dataclasses import dataclass
from typing import BinaryIO

from omni.media.splice import Piece

# kbit/s by index, of layer III: MPEG-1, and MPEG-2 and 2.5
_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0)
_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0)
_RATES = (44_100, 48_000, 32_000, 0)  # Hz by index, of MPEG-1; halved and quartered in MPEG-2 and 2.5
_HEAD = 192  # bytes of a frame that are read: its header, and a Xing or VBRI header in it
_SEARCHED = 1 << 16  # bytes after damage or a tag in which the next frame is looked for
_SLACK = 3  # frames by which encoders miscount


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


@dataclass
class _Stream:
    """One of the MP3 streams of a file.

    Attributes:
        start: Its first byte.
        stop: The byte after its last frame.
        audio: The first byte of its first frame with audio.
        form: Header of its first frame.
        stated: Number of frames by its Xing or VBRI header; None without one.
        frames: Number of frames with audio that are there.
    """

    start: int
    stop: int
    audio: int
    form: bytes
    stated: int | None
    frames: int = 0

    @property
    def complete_header(self) -> bool:
        """Whether its header states its length, and no more frames follow."""
        return self.stated is not None and self.frames <= self.stated + _SLACK


def mp3_parts(file: BinaryIO, size: int) -> list[list[Piece]] | None:
    """The streams of an MP3 file, each with a header that states its length; None for one with such a header.

    A stream without one gets a Xing header with the number of its frames: libsndfile would guess.

    Args:
        file: The file.
        size: Its size in bytes.
    """
    streams = _streams(file, size)
    if not streams or (len(streams) == 1 and streams[0].complete_header):
        return None
    return [
        [(each.start, each.stop)] if each.complete_header else [_xing(each), (each.audio, each.stop)]
        for each in streams
    ]


def _streams(file: BinaryIO, size: int) -> list[_Stream]:
    streams: list[_Stream] = []
    at = 0
    while at + 4 <= size:
        file.seek(at)
        head = file.read(_HEAD)
        if tag := _tag_length(head):
            at += tag
            continue
        frame = layer3_frame(head)
        if frame is None:
            found = _next_frame(file, at + 1)
            if found is None:
                break
            at = found
            continue
        stop = min(size, at + frame[1])
        stated = _stated_frames(head[: frame[1]])
        if not streams or stated is not None or _form(head) != _form(streams[-1].form):
            streams.append(_Stream(at, stop, stop if stated is not None else at, head[:4], stated))
        if stated is None:
            streams[-1].frames += 1
        streams[-1].stop = at = stop
    return streams


def _form(header: bytes) -> tuple[int, int, bool]:
    """MPEG version, sample rate and whether there is one channel."""
    return header[1] >> 3 & 3, header[2] >> 2 & 3, header[3] >> 6 == 3


def _tag_length(head: bytes) -> int:
    """Bytes of an ID3 or APE tag; 0 if there is none."""
    if head[:3] == b"ID3" and len(head) >= 10:
        return (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]) + (20 if head[5] & 0x10 else 10)
    if head[:8] == b"APETAGEX":
        return int.from_bytes(head[12:16], "little") + (32 if head[20:24][3:] >= b"\x80" else 0) or 32
    return 128 if head[:3] == b"TAG" else 0


def _next_frame(file: BinaryIO, start: int) -> int | None:
    """The next place with a frame that another one follows, or a tag."""
    file.seek(start)
    content = file.read(_SEARCHED)
    for match in re.finditer(rb"\xff[\xe2-\xff]|ID3|TAG|APETAGEX", content):
        at = match.start()
        if content[at] != 0xFF:
            return start + at
        frame = layer3_frame(content[at : at + 4])
        if frame is not None and layer3_frame(content[at + frame[1] : at + frame[1] + 4]) is not None:
            return start + at
    return None


def _stated_frames(frame: bytes) -> int | None:
    """The number of frames in a Xing, Info or VBRI header; 0 if it states none, None for a frame of audio."""
    single = frame[3] >> 6 == 3
    side = (17 if single else 32) if frame[1] >> 3 & 3 == 3 else (9 if single else 17)
    at = 4 + side
    if frame[at : at + 4] not in (b"Xing", b"Info"):
        at += 2  # a checksum precedes the side information
    if frame[at : at + 4] in (b"Xing", b"Info"):
        return (
            int.from_bytes(frame[at + 8 : at + 12], "big")
            if frame[at + 7 : at + 8] >= b"\1" and frame[at + 7] & 1
            else 0
        )
    return int.from_bytes(frame[50:54], "big") if frame[36:40] == b"VBRI" else None


def _xing(stream: _Stream) -> bytes:
    """A Xing header with the number of frames of a stream."""
    form = bytearray(stream.form)
    form[1] |= 1  # no checksum
    for index in range(1, 15):
        form[2] = index << 4 | form[2] & 0x0C
        frame = layer3_frame(bytes(form))
        if frame is not None and frame[1] >= 64:
            break
    else:
        raise AssertionError("no bit rate has frames of 64 bytes")
    single = form[3] >> 6 == 3
    side = (17 if single else 32) if form[1] >> 3 & 3 == 3 else (9 if single else 17)
    content = bytes(form) + bytes(side) + b"Xing\0\0\0\1" + stream.frames.to_bytes(4, "big")
    return content.ljust(frame[1], b"\0")
