"""Data folders of Kaldi and ESPnet."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, final

from omni.data.speech.corpora import numbered_lines
from omni.data.speech.manifests import Utterance, Utterances
from omni.errors import UserError

_ARCHIVE = re.compile(r"\.ark:\d+$")


class _Line(NamedTuple):
    """A line of one of the tables: `KEY VALUE`."""

    where: str
    value: str


class _Part(NamedTuple):
    """A part of a recording, in seconds."""

    start: float
    duration: float


@final
class KaldiFolder(Utterances):
    """A data folder of Kaldi or ESPnet: `wav.scp` and `text`, and `segments`, `utt2spk`, `utt2dur` if they exist.

    File names are relative to the folder, or else to the current one, as Kaldi has them. Rows with a command
    (`sox a.wav -t wav - |`) are refused: nothing is run.

    Args:
        folder: The one with `wav.scp`.
    """

    def __init__(self, folder: Path):
        self.name = str(folder)
        self.folder = folder

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        try:
            tables = {name: self._table(name) for name in ("wav.scp", "text", "segments", "utt2spk", "utt2dur")}
        except UserError as error:
            yield error
            return
        errors = [error for _, faults in tables.values() for error in faults]
        recordings, texts, segments, speakers, durations = (lines for lines, _ in tables.values())
        named = segments if (self.folder / "segments").is_file() else recordings
        for key, line in named.items():
            try:
                name, part = (key, None) if named is recordings else _segment(line)
                audio = self._file(recordings.get(name) or line, name, known=name in recordings)
                if key not in texts:
                    raise UserError(f"{line.where}: {key} has no line in {self.folder / 'text'}: add its text")
                start, duration = (None, _seconds(durations.get(key))) if part is None else part
                speaker = speakers[key].value if key in speakers else None
                yield Utterance(audio, texts[key].value, speaker, duration, line.where, start)
            except UserError as error:
                yield error
        yield from errors
        yield from (
            UserError(f"{line.where}: there is no recording {key}") for key, line in texts.items() if key not in named
        )

    def _table(self, name: str) -> tuple[dict[str, _Line], list[UserError]]:
        """The lines of a table by their keys, and the errors of those with the key of an earlier one."""
        path = self.folder / name
        lines: dict[str, _Line] = {}
        errors = []
        for number, text in numbered_lines(path) if path.is_file() else ():
            key, _, value = text.strip().replace("\t", " ").partition(" ")
            where = f"{path}: row {number}"
            if key in lines:
                errors.append(UserError(f"{where}: {key} is in an earlier row too: remove one of them"))
            else:
                lines[key] = _Line(where, value.strip())
        return lines, errors

    def _file(self, line: _Line, name: str, *, known: bool) -> str:
        """The file that a line of `wav.scp` names."""
        if not known:
            raise UserError(f"{line.where}: there is no recording {name} in {self.folder / 'wav.scp'}")
        where, value = line
        if value.endswith("|"):
            raise UserError(f"{where}: {value!r} is a command, which omni does not run: write its output to a file")
        if _ARCHIVE.search(value):
            raise UserError(f"{where}: {value} is a part of an archive: write its audio to a file")
        if not value:
            raise UserError(f"{where}: {name} has no file: give its name")
        beside = self.folder / os.path.expanduser(value)
        return str(beside) if beside.is_file() or not os.path.isfile(value) else value


def _segment(line: _Line) -> tuple[str, _Part]:
    """The recording and the part that a line of `segments` names."""
    try:
        recording, *times = line.value.split()
        start, end = map(float, times)
    except ValueError:
        raise UserError(f"{line.where}: not `UTTERANCE RECORDING START END`: correct or remove the row") from None
    if not 0 <= start < end < float("inf"):
        raise UserError(f"{line.where}: {start} to {end} s is no part of a recording: correct the row")
    return recording, _Part(start, end - start)


def _seconds(line: _Line | None) -> float | None:
    if line is None:
        return None
    try:
        seconds = float(line.value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{line.where}: {line.value!r} is not a number of seconds: correct or remove the row")
    return seconds or None
