"""Where conversations lie: `.jsonl` files and the Hub, a row a conversation."""

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.errors import UserError
from omni.media.container import AudioSource

MESSAGES = "messages"
_MEDIA = ("image", "audio", "video")
_SHELVES = {"image": ("images", "image"), "audio": ("audios", "audio")}  # columns of media that parts do not name


class Medium(NamedTuple):
    """An image, a recording or a video of a conversation.

    Attributes:
        kind: `image`, `audio` or `video`.
        files: The file, or its bytes; of a video, those of its frames.
        times: Of each frame of a video, in seconds.
        duration: Of audio in seconds, where the source tells.
        source: Opens audio that is no file of its own; `files` then holds what it is called.
        noise: Seed and number of noise that is made up (see `omni.data.conversations.speech.noise`).
    """

    kind: str
    files: tuple[str | bytes, ...]
    times: tuple[float, ...] = (0.0,)
    duration: float | None = None
    source: Callable[[], AudioSource] | None = None
    noise: tuple[int, int] | None = None

    @property
    def sound(self) -> AudioSource:
        """What to read audio from."""
        return self.files[0] if self.source is None else self.source()

    def identity(self) -> str:
        """Changes when the medium changes, as well as can be told without reading it."""
        parts = [self.kind, repr(self.times)]
        for file in self.files:
            if isinstance(file, bytes):
                parts.append(f"{len(file)} {hash_of(file)}")
                continue
            try:
                status = os.stat(file)
                parts.append(f"{file} {status.st_size} {status.st_mtime_ns}")
            except (OSError, ValueError):  # ValueError: no file can be called that
                parts.append(f"{file} is not there")
        return " ".join(parts)


class Conversation(NamedTuple):
    """A conversation as its source has it.

    Attributes:
        messages: As `omni.chat_template.encode_chat` takes them.
        media: In the order of their parts.
        task: What it teaches or asks for, for figures by task.
        where: The row, for messages: file and number.
    """

    messages: list[Any]
    media: tuple[Medium, ...]
    task: str
    where: str


def hash_of(content: bytes) -> str:
    """A short hash of bytes."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class Conversations(ABC):
    """Abstract: a source of conversations, always in the same order.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @abstractmethod
    def examine(self) -> Iterator[Conversation | UserError]:
        """Every row, or in its place why it cannot be understood."""

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        """What `examine` gives of one of `shares` disjoint shares; where a source is in parts, `seed` shuffles them."""
        return islice(self.examine(), share, None, shares)

    def rows(self) -> Iterator[Conversation]:
        """Every row.

        Raises:
            UserError: If a row cannot be understood; the message names it.
        """
        for row in self.examine():
            if isinstance(row, UserError):
                raise row
            yield row


@final
class ConversationFile(Conversations):
    """A `.jsonl` file with `messages` and, if known, `task` in each row. Files are meant relative to it.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)

    def examine(self) -> Iterator[Conversation | UserError]:
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                where = f"{self.name} row {number}"
                try:
                    yield parse(_json_row(line, where), where, self.path.parent)
                except UserError as error:
                    yield error


@final
class HubConversations(Conversations):
    """One split of a data set of the Hugging Face Hub, or of a local folder that `datasets` can load.

    Parts that name no file take theirs, one after the other, from the columns `image` or `images`, `audio` or `audios`.

    Args:
        repository: `owner/name` on the Hub, or a folder.
        config: The data set's configuration; empty: its default.
        split: The split, such as `train`.
        cache_dir: Where downloads go.
    """

    def __init__(self, repository: str, config: str, split: str, *, cache_dir: Path):
        self.name = f"hub:{repository}:{config}:{split}"
        self.repository, self.config, self.split, self.cache_dir = repository, config, split, cache_dir

    def examine(self) -> Iterator[Conversation | UserError]:
        for number, row in enumerate(self._table, start=1):
            yield self._parsed(row, number)

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        from datasets.distributed import split_dataset_by_node

        table = self.open(streaming=True).shuffle(seed=seed, buffer_size=1)  # the order of its files
        number = 0
        # not `__iter__`: in a worker that would share the files out once more
        for batch in split_dataset_by_node(table, share, shares).iter(batch_size=8):
            for cells in zip(*batch.values(), strict=True):
                number += 1
                yield self._parsed(dict(zip(batch, cells, strict=True)), number)

    def _parsed(self, row: Mapping[str, Any], number: int) -> Conversation | UserError:
        folder = Path(self.repository) if os.path.isdir(self.repository) else None
        try:
            return parse(row, f"{self.name} row {number}", folder)
        except UserError as error:
            return error

    @cached_property
    def _table(self) -> Any:
        return self.open(streaming=False)

    def open(self, *, streaming: bool) -> Any:
        """The data set, in full or row by row over the network, its media as they were stored."""
        from omni.data.hub import hub_errors

        with hub_errors(self.name, "data.train"):
            import datasets

            datasets.disable_progress_bars()
            options: Any = {"cache_dir": str(self.cache_dir / "hub"), "streaming": streaming}
            table: Any = datasets.load_dataset(self.repository, self.config or None, split=self.split, **options)
            for column, feature in (table.features or {}).items():
                inner = getattr(feature, "feature", feature)
                if isinstance(inner, datasets.Image | datasets.Audio):
                    stored = type(inner)(decode=False)
                    table = table.cast_column(column, stored if inner is feature else datasets.List(stored))
            return table

    @property
    def has_messages(self) -> bool:
        """Whether its rows are conversations; told by its columns, without loading it."""
        table = self.open(streaming=True)
        return MESSAGES in (table.features or next(iter(table), {}))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_table"}


def parse(row: Mapping[str, Any], where: str, folder: Path | None) -> Conversation:
    """A row as a conversation.

    Args:
        row: Its columns.
        where: What to call it in messages.
        folder: What its files are relative to; None: where the command runs.

    Raises:
        UserError: If it has no messages, or a medium that names no file.
    """
    messages = row.get(MESSAGES)
    if not isinstance(messages, list):
        raise UserError(f"{where}: has no list of `{MESSAGES}`, only {sorted(row)}: write a conversation in each row")
    shelves = {kind: iter(_shelf(row, columns)) for kind, columns in _SHELVES.items()}
    media = []
    for message in messages:
        content = message.get("content") if isinstance(message, Mapping) else None
        parts = [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []
        media += [_medium(part, shelves, where, folder) for part in parts if part.get("type") in _MEDIA]
    task = row.get("task")
    return Conversation(messages, tuple(media), task if isinstance(task, str) and task else "all", where)


def _shelf(row: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    found = next((row[column] for column in columns if row.get(column)), [])
    return found if isinstance(found, list) else [found]


def _medium(part: Mapping[str, Any], shelves: Mapping[str, Iterator[Any]], where: str, folder: Path | None) -> Medium:
    kind = part["type"]
    if kind == "video":
        return _video(part, where, folder)
    value = part.get(kind) or part.get("path") or next(shelves[kind], None)
    duration = part.get("duration")
    if duration is not None and not (isinstance(duration, int | float) and duration > 0):
        raise UserError(f"{where}: the duration {duration!r} is no number of seconds: correct it, or leave it out")
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


def _file(value: Any, kind: str, where: str, folder: Path | None) -> str | bytes:
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value:
        raise UserError(f'{where}: a part of type {kind} names no file: write {{"type": "{kind}", "{kind}": "FILE"}}')
    return str((folder or Path()) / os.path.expanduser(value))


def _json_row(line: bytes, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: is not UTF-8 (byte {error.start}): save the file as UTF-8") from error
    except ValueError as error:
        raise UserError(f"{where}: is no JSON ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: is no JSON object with `messages`")
    return row
