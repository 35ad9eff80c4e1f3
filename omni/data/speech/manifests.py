"""Sources of utterances: manifests and the Hub."""

import csv
import hashlib
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.data.loading.hub import Columns, HubSplit
from omni.data.loading.jsonl import jsonl_rows
from omni.errors import UserError
from omni.media.audio import excerpt
from omni.media.container import AudioError, AudioSource

AUDIO_KEYS = ("audio", "wav", "audio_filepath")  # names that manifests give the column of files; the last is NeMo's
COMMON_VOICE = {"path", "sentence"}  # columns of its tables
MANIFEST_SUFFIXES = (".jsonl", ".csv", ".tsv")
_DELIMITERS = ",;\t"


class Utterance(NamedTuple):
    """A recording of speech and its transcript.

    Attributes:
        audio: The file, or its name on the Hub.
        text: The transcript, as the source has it.
        speaker: Name of the speaker; None where it is not known.
        duration: Seconds; None where the source does not state them.
        where: File and row, for messages.
        start: Where it starts in the file, in seconds, if it is a part of it of `duration` (None: to the end); None if
            it is the whole file.
        confidence: Of a transcript by a recogniser, 0–1; None if the source does not state it.
    """

    audio: str
    text: str
    speaker: str | None
    duration: float | None
    where: str
    start: float | None = None
    confidence: float | None = None


class Utterances(ABC):
    """Abstract: a source of utterances, always in the same order.

    Attributes:
        name: What messages call it.
        whole_files: Whether `Utterance.audio` names a file.
    """

    name: str
    whole_files: bool = True

    @abstractmethod
    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        """All utterances, or the error of each malformed row; the message names it."""

    def rows(self) -> Iterator[Utterance]:
        """All utterances.

        Raises:
            UserError: If a row is malformed; the message names it.
        """
        for row in self.rows_or_errors():
            if isinstance(row, UserError):
                raise row
            yield row

    def audio(self, number: int, row: Utterance) -> AudioSource:
        """The file or the bytes of an utterance's audio, given its number and row.

        Raises:
            AudioError: If it has to be read for that and cannot be, such as a part of a file.
        """
        return row.audio if row.start is None else excerpt(row.audio, start=row.start, duration=row.duration)

    def whole_audio(self, number: int, row: Utterance) -> AudioSource:
        """As `audio`, but the whole file where the utterance is a part of one."""
        return self.audio(number, row) if row.start is None else row.audio

    def stream(self, share: int, shares: int, seed: int) -> Iterator[tuple[Utterance, AudioSource] | UserError]:
        """The utterances of one of `shares` disjoint shares with their audio, or the errors of those without.

        If the source consists of parts, `seed` shuffles those.
        """
        for number, row in islice(enumerate(self.rows_or_errors()), share, None, shares):
            if isinstance(row, UserError):
                yield row
                continue
            try:
                yield row, self.audio(number, row)
            except AudioError as error:
                yield UserError(f"{row.where}: {error}")

    def exists(self, row: Utterance) -> bool:
        """Whether the file of a row exists."""
        return os.path.isfile(row.audio)

    def audio_version(self, row: Utterance) -> str:
        """Changes when the row's audio changes, as well as possible without reading it."""
        try:
            status = os.stat(row.audio)
        except (OSError, ValueError):  # ValueError: not a valid file name
            return f"{row.audio} is not there"
        part = "" if row.start is None else f" {row.start} {row.duration}"
        return f"{row.audio} {status.st_size} {status.st_mtime_ns}{part}"


@final
class SpeechManifest(Utterances):
    """A `.jsonl`, `.csv` or `.tsv` file with an utterance a row: `audio`, `text`, optional `speaker`, `duration`.

    `confidence` is that of a transcript by a recogniser, as `omni transcribe --min_confidence` writes it.
    With `offset`, an utterance is a part of its file: from there on, in seconds, for `duration` or to the end.
    The audio may also be called `wav`, or `audio_filepath` as in NeMo's manifests. Columns of a table are separated by
    commas, semicolons or tabs: by what its first line has. A table of Common Voice, which has `path` and `sentence`, is
    read as it is, with its files in `clips`.

    Rows of a `.jsonl` may also be conversations: the turns of the assistant with audio beside their text are
    utterances; rows without any are passed over. File names are relative to the manifest.

    Args:
        path: The manifest.
        text_column: Column of the text.
    """

    def __init__(self, path: Path, *, text_column: str = "text"):
        self.name = str(path)
        self.path = path
        self.text_column = text_column

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        for where, row in self._table_rows() if self.path.suffix in (".csv", ".tsv") else jsonl_rows(self.path):
            if isinstance(row, UserError):
                yield row
                continue
            try:
                for found in self._spoken_answers(row) if "messages" in row else (row,):
                    yield self._utterance(found, where)
            except UserError as error:
                yield error

    def _spoken_answers(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The spoken answers of the assistant in a conversation, as rows of a manifest."""
        messages = row["messages"]
        for message in messages if isinstance(messages, list) else ():
            content = message.get("content") if isinstance(message, dict) and message.get("role") == "assistant" else ""
            parts = [part for part in content if isinstance(part, dict)] if isinstance(content, list) else []
            text = "".join(str(part.get("text")) for part in parts if part.get("type") == "text")
            for part in parts:
                if part.get("type") == "audio":
                    speech = {"audio": part.get("audio") or part.get("path"), "duration": part.get("duration")}
                    yield {**speech, self.text_column: text, "speaker": part.get("speaker")}

    def _utterance(self, row: dict[str, Any], where: str) -> Utterance:
        row = self._of_common_voice(row) if row.keys() >= COMMON_VOICE else row
        audio = next((row[key] for key in AUDIO_KEYS if row.get(key)), None)
        text = row.get(self.text_column)
        if not isinstance(audio, str):
            raise UserError(f"{where}: has no `audio` (nor `wav`): give the file's name")
        if not isinstance(text, str):
            raise UserError(
                f"{where}: has no text in {self.text_column!r}: give the transcript, or set data.text_column"
            )
        speaker = row.get("speaker")
        return Utterance(
            audio=str(self.path.parent / os.path.expanduser(audio)),
            text=text,
            speaker=None if speaker in (None, "") else str(speaker),
            duration=duration_of(row.get("duration"), where),
            where=where,
            start=seconds_of(row.get("offset"), where, "offset"),
            confidence=_confidence(row.get("confidence"), where),
        )

    def _of_common_voice(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of Common Voice with the columns of other manifests."""
        name = str(row["path"] or "")
        name = name if not name or Path(name).suffix else f"{name}.mp3"  # early releases have no suffix
        columns = {"audio": name and os.path.join(self._clips, name), "speaker": row.get("client_id")}
        return {self.text_column: row["sentence"], **row, **columns}

    @cached_property
    def _clips(self) -> str:
        return "clips" if (self.path.parent / "clips").is_dir() else ""

    def _table_rows(self) -> Iterator[tuple[str, dict[str, Any] | UserError]]:
        """Rows, or their errors.

        Raises:
            UserError: If the file is not UTF-8 or not CSV: where the next row begins is then not known.
        """
        csv.field_size_limit(sys.maxsize)
        number = 0
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                delimiter = table_delimiter(header := file.readline())
                file.seek(0)
                # Common Voice does not quote: quotation marks belong to its sentences.
                quoting = csv.QUOTE_NONE if set(header.strip().split("\t")) >= COMMON_VOICE else csv.QUOTE_MINIMAL
                rows = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
                for number, row in enumerate(rows, start=1):
                    where = f"{self.name}: row {number}"
                    yield where, _faulty_cells(row, where, delimiter) or row
        except UnicodeDecodeError as error:
            raise UserError(f"{self.name}: is not UTF-8 ({error.reason}): convert the file to UTF-8") from error
        except csv.Error as error:
            raise UserError(f"{self.name}: row {number + 1}: not CSV ({error}): correct the file") from error


def _confidence(value: Any, where: str) -> float | None:
    """A confidence in a cell of a table; None if it is empty."""
    if value in (None, ""):
        return None
    try:
        confidence = float(value)
    except (TypeError, ValueError):
        confidence = -1.0
    if not 0 <= confidence <= 1:
        raise UserError(f"{where}: the confidence {value!r} is not between 0 and 1: correct it, or leave it out")
    return confidence


def table_delimiter(header: str) -> str:
    """The character that separates the columns of a table, by its first line."""
    return max(_DELIMITERS, key=header.count)


def _faulty_cells(row: dict[Any, Any], where: str, delimiter: str) -> UserError | None:
    """The fault of a row whose cells are not those that its author meant."""
    if None in row:  # the rest of the row
        count = len(row) - 1
        cells = count + len(row[None])
        advice = f"quote texts that hold {delimiter!r}"
        return UserError(f"{where}: has {cells} cells, and there are {count} columns: {advice}")
    if any("\n" in cell for cell in row.values() if cell):
        return UserError(f"{where}: a cell has several lines: is a quotation mark missing?")
    return None


@final
class HubUtterances(HubSplit, Utterances):
    """Utterances of the Hub.

    Args:
        entry: See `HubSplit`, as for the next argument.
        split: `train`, `val` or `test`.
        text_column: Column of the text.
        cache_dir: Folder of downloads.
        columns: See `HubSplit`.
    """

    def __init__(self, entry: str, split: str, *, text_column: str, cache_dir: Path, columns: Columns | None = None):
        super().__init__(entry, split, cache_dir, columns)
        self.text_column = text_column

    def rows_or_errors(self) -> Iterator[Utterance | UserError]:
        table = self.table
        columns = [name for name in table.column_names if name != self.audio_key]
        for number, row in enumerate(table.select_columns(columns)):
            yield self.utterance(row, number)

    def utterance(self, row: dict[str, Any], number: int) -> Utterance | UserError:
        """A row of the table as an utterance, or its error."""
        where = f"{self.name}: row {number + 1}"
        text = row.get(self.text_column)
        if not isinstance(text, str):
            return UserError(f"{where}: no text in {self.text_column!r}, only {sorted(row)}: set data.text_column")
        speaker = next((row[key] for key in ("speaker", "speaker_id") if row.get(key) is not None), None)
        try:
            duration = duration_of(row.get("duration"), where)
        except UserError as error:
            return error
        speaker = None if speaker is None else str(speaker)
        return Utterance(f"{self.name}#{number}", text, speaker, duration, where)

    def audio(self, number: int, row: Utterance) -> AudioSource:
        return self.content(self.table[number][self.audio_key])

    def content(self, cell: Any) -> AudioSource:
        """The audio in a cell of the table: its bytes, or the file it names."""
        audio = (cell.get("bytes") or cell.get("path")) if isinstance(cell, dict) else cell
        if not isinstance(audio, bytes | str) or not audio:
            raise AudioError("missing", f"{self.name}: column {self.audio_key!r} holds no audio")
        return audio

    def stream(self, share: int, shares: int, seed: int) -> Iterator[tuple[Utterance, AudioSource] | UserError]:
        for number, row in enumerate(self.stream_rows(share, shares, seed)):
            found = self.utterance(row, number)
            try:
                yield found if isinstance(found, UserError) else (found, self.content(row[self.audio_key]))
            except AudioError as error:
                yield error

    def exists(self, row: Utterance) -> bool:
        return True

    def audio_version(self, row: Utterance) -> str:
        return f"{row.audio} {self.table._fingerprint}"

    def undecoded(self, table: Any) -> Any:
        features = self.names_of(table)
        self.audio_key = next((key for key in AUDIO_KEYS if key in features), AUDIO_KEYS[0])
        if self.audio_key not in features:
            raise UserError(
                f"{self.name}: no column `audio`, only {sorted(features)}: name it in data.columns, "
                "{OWNER/NAME: {audio: COLUMN}}"
            )
        return super().undecoded(table)

    audio_key: str = AUDIO_KEYS[0]
    whole_files = False


def sha256_of(texts: Iterable[str]) -> str:
    """The sha256, in hex, of a sequence of texts."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}:{text}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def duration_of(value: Any, where: str) -> float | None:
    """A duration in a cell of a table, in seconds; None if it is empty or 0; errors as of `seconds_of`."""
    return seconds_of(value, where, "duration") or None


def seconds_of(value: Any, where: str, name: str) -> float | None:
    """Seconds in a cell of a table; None if it is empty.

    Raises:
        UserError: If it is not a number of seconds; the message calls it `name`.
    """
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise UserError(f"{where}: the {name} {value!r} is not a number of seconds: correct it, or leave it out")
    return seconds
