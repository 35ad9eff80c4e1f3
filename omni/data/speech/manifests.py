"""Where utterances lie: manifests, folders in the layouts of well-known corpora, the Hub."""

import csv
import hashlib
import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.errors import UserError
from omni.media.container import AudioError, AudioSource

AUDIO_KEYS = ("audio", "wav")  # what manifests call their column of files


class Utterance(NamedTuple):
    """Something that somebody says.

    Attributes:
        audio: The file, or what the Hub calls it.
        text: What is said, as the source writes it.
        speaker: Who says it, where that is known.
        duration: Seconds, where the source tells.
        where: The row, for messages: file and number.
    """

    audio: str
    text: str
    speaker: str | None
    duration: float | None
    where: str


class Utterances(ABC):
    """Abstract: a source of utterances, always in the same order.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @abstractmethod
    def rows(self) -> Iterator[Utterance]:
        """Every row as it stands.

        Raises:
            UserError: If a row cannot be understood; the message names it.
        """

    def examine(self) -> Iterator[Utterance | UserError]:
        """Every row, or in its place why it cannot be understood; only manifests go on behind such a row."""
        try:
            yield from self.rows()
        except UserError as error:
            yield error

    def audio(self, number: int, row: Utterance) -> AudioSource:
        """What to read the row of that number from."""
        return row.audio

    def stream(self, share: int, shares: int, seed: int) -> Iterator[tuple[Utterance, AudioSource]]:
        """Every row of one of `shares` disjoint shares and its audio; where a source is in parts, `seed` shuffles."""
        for number, row in islice(enumerate(self.rows()), share, None, shares):
            yield row, self.audio(number, row)

    def identity(self, row: Utterance) -> str:
        """Changes when the row's audio changes, as well as can be told without reading it."""
        try:
            status = os.stat(row.audio)
        except (OSError, ValueError):  # ValueError: no file can be called that
            return f"{row.audio} is not there"
        return f"{row.audio} {status.st_size} {status.st_mtime_ns}"


@final
class Manifest(Utterances):
    """A `.jsonl` or `.csv` file with a row an utterance: `audio` or `wav`, `text`, optional `speaker`, `duration`.

    Rows of a `.jsonl` may also be conversations: of their `messages` those of the assistant with audio beside their
    text are utterances, and rows without any are none. Files are meant relative to the manifest.

    Args:
        path: The manifest.
        text_column: Where the text is.
    """

    def __init__(self, path: Path, *, text_column: str = "text"):
        self.name = str(path)
        self.path = path
        self.text_column = text_column

    def rows(self) -> Iterator[Utterance]:
        for row in self.examine():
            if isinstance(row, UserError):
                raise row
            yield row

    def examine(self) -> Iterator[Utterance | UserError]:
        for number, row in self._csv_rows() if self.path.suffix == ".csv" else self._json_rows():
            where = f"{self.name} row {number}"
            if isinstance(row, UserError):
                yield row
                continue
            try:
                for found in self._spoken_answers(row) if "messages" in row else (row,):
                    yield self._utterance(found, where)
            except UserError as error:
                yield error

    def _spoken_answers(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """What the assistant says aloud in a conversation, as rows of a manifest."""
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
        audio = next((row[key] for key in AUDIO_KEYS if row.get(key)), None)
        text = row.get(self.text_column)
        if not isinstance(audio, str):
            raise UserError(f"{where}: has no `audio` (nor `wav`): give the file's name")
        if not isinstance(text, str):
            raise UserError(f"{where}: has no text in {self.text_column!r}: give what is said, or set data.text_column")
        speaker = row.get("speaker")
        return Utterance(
            audio=str(self.path.parent / os.path.expanduser(audio)),
            text=text,
            speaker=None if speaker in (None, "") else str(speaker),
            duration=_duration(row.get("duration"), where),
            where=where,
        )

    def _csv_rows(self) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
        csv.field_size_limit(sys.maxsize)
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                yield from enumerate(csv.DictReader(file), start=1)
        except UnicodeDecodeError as error:
            yield 0, UserError(f"{self.name}: is not UTF-8 ({error.reason}): save it as UTF-8")
        except csv.Error as error:
            yield 0, UserError(f"{self.name}: is no CSV ({error})")

    def _json_rows(self) -> Iterator[tuple[int, dict[str, Any] | UserError]]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _json_row(line, f"{self.name} row {number}")


@final
class HubUtterances(Utterances):
    """One split of a data set of the Hugging Face Hub, or of a local folder that `datasets` can load.

    Args:
        repository: `owner/name` on the Hub, or a folder.
        config: The data set's configuration; empty: its default.
        split: The split, such as `train`.
        text_column: Where the text is.
        cache_dir: Where downloads go.
    """

    def __init__(self, repository: str, config: str, split: str, *, text_column: str, cache_dir: Path):
        self.name = f"hub:{repository}:{config}:{split}"
        self.repository, self.config, self.split = repository, config, split
        self.text_column = text_column
        self.cache_dir = cache_dir

    def rows(self) -> Iterator[Utterance]:
        table, audio_key = self.table, self.audio_key
        columns = [name for name in table.column_names if name != audio_key]
        for number, row in enumerate(table.select_columns(columns)):
            yield self.utterance(row, number)

    def utterance(self, row: dict[str, Any], number: int) -> Utterance:
        """A row of the table as an utterance."""
        where = f"{self.name} row {number + 1}"
        text = row.get(self.text_column)
        if not isinstance(text, str):
            raise UserError(f"{where}: no text in {self.text_column!r}, only {sorted(row)}: set data.text_column")
        speaker = next((row[key] for key in ("speaker", "speaker_id") if row.get(key) is not None), None)
        return Utterance(
            f"{self.name}#{number}", text, None if speaker is None else str(speaker),
            _duration(row.get("duration"), where), where,
        )  # fmt: skip

    def audio(self, number: int, row: Utterance) -> AudioSource:
        return self.content(self.table[number][self.audio_key])

    def content(self, cell: Any) -> AudioSource:
        """The audio in a cell of the table: its bytes, or the file it names."""
        if not isinstance(cell, dict) or not (cell.get("bytes") or cell.get("path")):
            raise AudioError("missing", f"{self.name}: column {self.audio_key!r} holds no audio")
        return cell["bytes"] or cell["path"]

    def stream(self, share: int, shares: int, seed: int) -> Iterator[tuple[Utterance, AudioSource]]:
        from datasets.distributed import split_dataset_by_node

        table = self.open(streaming=True).shuffle(seed=seed, buffer_size=1)  # the order of its files
        number = 0
        # not `__iter__`: in a worker that would share the files out once more
        for batch in split_dataset_by_node(table, share, shares).iter(batch_size=8):
            for cells in zip(*batch.values(), strict=True):
                row = dict(zip(batch, cells, strict=True))
                yield self.utterance(row, number), self.content(row[self.audio_key])
                number += 1

    def identity(self, row: Utterance) -> str:
        return f"{row.audio} {self.table._fingerprint}"

    @cached_property
    def table(self) -> Any:
        """The data set, downloaded once, its audio as it was stored."""
        return self.open(streaming=False)

    def open(self, *, streaming: bool) -> Any:
        """The data set, in full or row by row over the network."""
        from omni.data.loading.hub import hub_errors

        with hub_errors(self.name, "data.train"):
            import datasets

            datasets.disable_progress_bars()
            table = datasets.load_dataset(
                self.repository,
                self.config or None,
                split=self.split,
                cache_dir=str(self.cache_dir / "hub"),
                streaming=streaming,
            )
            features = table.features or {}
            self.audio_key = next((key for key in AUDIO_KEYS if key in features), AUDIO_KEYS[0])
            if self.audio_key not in features:
                raise UserError(f"{self.name}: no column `audio`, only {sorted(features)}")
            return table.cast_column(self.audio_key, datasets.Audio(decode=False))

    audio_key: str = AUDIO_KEYS[0]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "table"}


def open_utterances(
    entries: Sequence[str],
    *,
    text_column: str = "text",
    cache_dir: Path = Path("data/cache"),
    hub_split: str = "train",
) -> list[Utterances]:
    """Finds the sources that a list of names stands for.

    Args:
        entries: Manifests (.jsonl, .csv), folders of LibriSpeech or LJSpeech, or `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        text_column: Where the text is in manifests and on the Hub.
        cache_dir: Where downloads from the Hub go.
        hub_split: The Hub's split where an entry names none.

    Raises:
        UserError: If nothing is there, or it is of a kind that cannot be read.
    """
    sources: list[Utterances] = []
    for entry in entries:
        if entry.startswith("hub:"):
            names = entry.removeprefix("hub:").split(":")
            if len(names) > 3 or not names[0]:
                raise UserError(f"{entry!r} is no data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
            repository, config, split = (*names, "", "")[:3]
            sources.append(
                HubUtterances(repository, config, split or hub_split, text_column=text_column, cache_dir=cache_dir)
            )
            continue
        path = Path(entry).expanduser()
        if path.is_dir():
            sources.append(_open_folder(path))
        elif not path.is_file():
            raise UserError(f"{entry}: does not exist: name a manifest, a folder of speech or hub:OWNER/NAME")
        elif path.suffix not in (".jsonl", ".csv"):
            raise UserError(f"{entry}: a manifest of speech is a .jsonl or .csv file (see `omni data prepare`)")
        else:
            sources.append(Manifest(path, text_column=text_column))
    return sources


def fingerprint(rows: Iterable[str]) -> str:
    """The sha256, in hex, of some texts in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{len(row)}:{row}".encode(errors="surrogatepass"))
    return digest.hexdigest()


def _open_folder(path: Path) -> Utterances:
    from omni.data.speech.corpora import LibriSpeech, ljspeech_splits  # here, because it is built upon this file

    if splits := ljspeech_splits(path):
        return splits["all"]
    if next(path.rglob("*.trans.txt"), None):
        return LibriSpeech(path)
    raise UserError(
        f"{path}: is no folder as LibriSpeech or LJSpeech have it: write a manifest with `omni data prepare`"
    )


def _json_row(line: bytes, where: str) -> dict[str, Any] | UserError:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        return UserError(f"{where}: is not UTF-8 (byte {error.start}): save the file as UTF-8")
    except ValueError as error:
        return UserError(f"{where}: is no JSON ({error})")
    return row if isinstance(row, dict) else UserError(f"{where}: is no JSON object with `audio` and `text`")


def _duration(value: Any, where: str) -> float | None:
    if value in (None, ""):
        return None
    try:
        duration = float(value)
    except (TypeError, ValueError):
        duration = -1.0
    if not 0 <= duration < float("inf"):
        raise UserError(f"{where}: the duration {value!r} is no number of seconds: correct it, or leave it out")
    return duration or None
