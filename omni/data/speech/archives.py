"""Speech in tar files, as WebDataset lays it out."""

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from itertools import groupby, product
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np

from omni.data.speech.manifests import Utterance, Utterances, duration_of
from omni.errors import UserError
from omni.media.container import AUDIO_SUFFIXES, AudioError, AudioSource

_BLOCK = 512  # bytes of a header in a tar file
_MOST_TEXT = 1 << 20  # bytes of a transcript
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Position(NamedTuple):
    """Where the content of a member starts, and its size in bytes."""

    path: Path
    start: int
    size: int


@final
class TarUtterances(Utterances):
    """Tar files with `KEY.flac` (or another format of audio) and beside it `KEY.txt` or `KEY.json` for each utterance.

    The object in a `.json` has the columns of a manifest: the text, optional `speaker` and `duration`. Other members
    are ignored; nothing is unpacked.

    Args:
        paths: The tar files, not compressed.
        text_column: Name of the text in a `.json`.
    """

    whole_files = False

    def __init__(self, paths: Sequence[Path], *, text_column: str = "text"):
        self.paths, self.text_column = paths, text_column
        self.name = str(paths[0]) if len(paths) == 1 else f"{paths[0]} to {paths[-1].name}"
        self._positions: dict[str, _Position] = {}  # by the name of the audio

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        for path in self.paths:
            yield from self._rows_of(path)

    def stream(self, share: int, shares: int, seed: int) -> Iterator[tuple[Utterance, AudioSource] | UserError]:
        order = np.random.default_rng(seed).permutation(len(self.paths))
        shuffled = TarUtterances([self.paths[number] for number in order], text_column=self.text_column)
        return Utterances.stream(shuffled, share, shares, seed)

    def audio(self, number: int, row: Utterance) -> AudioSource:
        if row.audio not in self._positions:  # in a process that has not read the rows
            list(self.rows_or_errors())
        if (position := self._positions.get(row.audio)) is None:
            raise AudioError("missing", f"{row.audio} is no longer there")
        try:
            content = _content(position)
        except OSError as error:
            raise AudioError("missing", f"{row.audio} cannot be read ({error.strerror})") from error
        if len(content) < position.size:
            raise AudioError("truncated", f"{row.audio} is cut off: get the archive again")
        return content

    def exists(self, row: Utterance) -> bool:
        return True

    def audio_version(self, row: Utterance) -> str:
        path, start, size = self._positions[row.audio]
        status = path.stat()
        return f"{row.audio} {start} {size} {status.st_size} {status.st_mtime_ns}"

    def _rows_of(self, path: Path) -> Iterator[Utterance | UserError]:
        try:
            with tarfile.open(path, "r:") as archive:
                samples = groupby((member for member in archive if member.isfile()), key=_key)
                for number, (_, members) in enumerate(samples, start=1):
                    try:
                        yield self._utterance(path, f"{path}: row {number}", list(members))
                    except UserError as error:
                        yield error
                end = _content(_Position(path, archive.offset, _BLOCK))
        except (tarfile.TarError, OSError, EOFError) as error:
            yield UserError(f"{path}: cannot be read as a tar file without compression ({error}): unpack or rewrite it")
            return
        if len(end) < _BLOCK or any(end):
            yield UserError(f"{path}: is cut off or damaged at byte {archive.offset:,}: get it again")

    def _utterance(self, path: Path, where: str, members: list[tarfile.TarInfo]) -> Utterance:
        found = {Path(member.name).suffix.lower(): member for member in members}
        audio = [member for suffix, member in found.items() if suffix in AUDIO_SUFFIXES]
        if len(audio) != 1:
            what = f"{len(audio)} audio files" if audio else "no audio"
            raise UserError(f"{where}: {_key(members[0])} has {what}: one of {', '.join(AUDIO_SUFFIXES)} is read")
        columns: dict[str, Any] = {}
        if ".json" in found:
            columns = _json(path, found[".json"], where)
        if ".txt" in found:
            columns |= {self.text_column: _text(path, found[".txt"], where)}
        text, speaker = columns.get(self.text_column), columns.get("speaker")
        if not isinstance(text, str):
            problem = f"no .txt beside it, nor a .json with {self.text_column!r}"
            raise UserError(f"{where}: {audio[0].name} has {problem}: add its text, or set data.text_column")
        name = f"{path}#{audio[0].name}"
        self._positions[name] = _Position(path, audio[0].offset_data, audio[0].size)
        speaker = None if speaker in (None, "") else str(speaker)
        return Utterance(name, text.strip(), speaker, duration_of(columns.get("duration"), where), where)


def tar_files(entry: str) -> list[Path]:
    """The tar files that a name stands for: a file, a pattern with `*` or with `{000..012}`, or a folder.

    Raises:
        UserError: If there are none.
    """
    path = Path(entry).expanduser()
    if path.is_dir():
        return sorted(path.glob("*.tar"))
    choices = [
        [f"{number:0{len(first)}}" for number in range(int(first), int(last) + 1)]
        for first, last in _BRACES.findall(str(path))
    ]
    between = _BRACES.sub("\0", str(path)).split("\0")
    names = ["".join(map("".join, zip(between, (*chosen, ""), strict=True))) for chosen in product(*choices)]
    found = [Path(file) for name in names for file in sorted(glob.glob(name) if glob.has_magic(name) else [name])]
    if missing := next((file for file in found if not file.is_file()), None if found else path):
        raise UserError(f"{missing}: does not exist: name tar files, or a pattern such as speech-*.tar")
    return found


def _key(member: tarfile.TarInfo) -> str:
    """The name of a sample: the path up to the first dot of the file's name."""
    folder, slash, name = member.name.rpartition("/")
    return f"{folder}{slash}{name.partition('.')[0]}"


def _content(position: _Position) -> bytes:
    with position.path.open("rb") as file:
        file.seek(position.start)
        return file.read(position.size)


def _text(path: Path, member: tarfile.TarInfo, where: str) -> str:
    if member.size > _MOST_TEXT:
        raise UserError(
            f"{where}: {member.name} has {member.size:,} bytes, more than a transcript: correct the archive"
        )
    try:
        return _content(_Position(path, member.offset_data, member.size)).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: byte {error.start} of {member.name} is not UTF-8: convert it to UTF-8") from None


def _json(path: Path, member: tarfile.TarInfo, where: str) -> dict[str, Any]:
    try:
        columns = json.loads(_text(path, member, where))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: {member.name} is not JSON ({error}): correct it") from error
    if not isinstance(columns, dict):
        raise UserError(f"{where}: {member.name} is a {type(columns).__name__}, not an object")
    return columns
