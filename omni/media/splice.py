"""A file composed of parts of another one and of bytes, without a copy."""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import BinaryIO, final

Piece = bytes | tuple[int, int]  # bytes, or the first byte of a part of the file and the byte after its last


@final
class Splice(io.RawIOBase):
    """A readable, seekable file of pieces.

    Args:
        file: The file that the pieces are parts of; it stays open.
        pieces: The pieces in order.
    """

    def __init__(self, file: BinaryIO | io.RawIOBase, pieces: Sequence[Piece]):
        super().__init__()
        self.file, self.pieces = file, [piece for piece in pieces if _length(piece)]
        self.ends = list(accumulate(map(_length, self.pieces)))
        self.at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        size = self.ends[-1] if self.ends else 0
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: size}[whence])
        return self.at

    def readinto(self, buffer) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            number = bisect_right(self.ends, self.at)
            if number == len(self.pieces):
                break
            piece = self.pieces[number]
            count = min(len(view) - done, self.ends[number] - self.at)
            first = self.at - (self.ends[number] - _length(piece))
            if isinstance(piece, bytes):
                content = piece[first : first + count]
            else:
                self.file.seek(piece[0] + first)
                content = self.file.read(count)
            if not content:
                break
            view[done : done + len(content)] = content
            done += len(content)
            self.at += len(content)
        return done


def _length(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
