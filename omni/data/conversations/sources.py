"""Where conversations lie: `.jsonl` files and the Hub, a row a conversation."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.attachments import Medium, media_of
from omni.errors import UserError

MESSAGES = "messages"
_SHELVES = {"image": ("images", "image"), "audio": ("audios", "audio")}  # columns of media that parts do not name


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


class Conversations(ABC):
    """Abstract: a source of conversations, always in the same order.

    Attributes:
        name: What to call it in messages.
    """

    name: str

    @abstractmethod
    def examine(self) -> Iterator[Conversation | UserError]:
        """Every row, or in its place why it cannot be understood."""

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
        folder = Path(self.repository) if os.path.isdir(self.repository) else None
        for number, row in enumerate(self._table, start=1):
            where = f"{self.name} row {number}"
            try:
                yield parse(row, where, folder)
            except UserError as error:
                yield error

    @cached_property
    def _table(self) -> Any:
        from omni.data.hub import hub_errors

        with hub_errors(self.name, "data.train"):
            import datasets

            datasets.disable_progress_bars()
            table = datasets.load_dataset(
                self.repository, self.config or None, split=self.split, cache_dir=str(self.cache_dir / "hub")
            )
            for column, feature in (table.features or {}).items():
                inner = getattr(feature, "feature", feature)
                if isinstance(inner, datasets.Image | datasets.Audio):
                    stored = type(inner)(decode=False)
                    table = table.cast_column(column, stored if inner is feature else datasets.List(stored))
            return table


def open_conversations(
    entries: Sequence[str], *, cache_dir: Path = Path("data/cache"), hub_split: str = "train"
) -> list[Conversations]:
    """Finds the sources that a list of names stands for.

    Args:
        entries: `.jsonl` files, or `hub:OWNER/NAME[:CONFIG[:SPLIT]]`.
        cache_dir: Where downloads from the Hub go.
        hub_split: The Hub's split where an entry names none.

    Raises:
        UserError: If nothing is there, or it is of a kind that cannot be read.
    """
    sources: list[Conversations] = []
    for entry in entries:
        if entry.startswith("hub:"):
            names = entry.removeprefix("hub:").split(":")
            if len(names) > 3 or not names[0]:
                raise UserError(f"{entry!r} is no data set: write hub:OWNER/NAME[:CONFIG[:SPLIT]]")
            repository, config, split = (*names, "", "")[:3]
            sources.append(HubConversations(repository, config, split or hub_split, cache_dir=cache_dir))
            continue
        path = Path(entry).expanduser()
        if not path.is_file():
            raise UserError(f"{entry}: does not exist: name a .jsonl file of conversations or hub:OWNER/NAME")
        if path.suffix != ".jsonl":
            raise UserError(f"{entry}: conversations are a .jsonl file, with `messages` in each row")
        sources.append(ConversationFile(path))
    return sources


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
    media = media_of(messages, where=where, folder=folder, shelves=shelves)
    task = row.get("task")
    task = task if isinstance(task, str) and task else "all"
    return Conversation(messages, tuple(chain.from_iterable(media)), task, where)


def _shelf(row: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
    found = next((row[column] for column in columns if row.get(column)), [])
    return found if isinstance(found, list) else [found]


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
