"""Where conversations lie: `.jsonl` files and the Hub, a row a conversation."""

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.errors import UserError
from omni.media.attachments import Medium, media_of

MESSAGES = "messages"
_SHELVES = {"image": ("images", "image"), "audio": ("audios", "audio")}  # columns of media that parts do not name


class Conversation(NamedTuple):
    """A conversation as its source has it.

    Attributes:
        messages: As `omni.text.chat_template.encode_chat` takes them.
        media: In the order of their parts.
        task: What it teaches or asks for, for figures by task.
        where: The row, for messages: file and number.
        speech: How the assistant's answers are said, where that is told: what a Talker can learn from.
    """

    messages: list[Any]
    media: tuple[Medium, ...]
    task: str
    where: str
    speech: tuple[Medium, ...] = ()


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
        from omni.data.loading.hub import hub_errors

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
    media = media_of(messages, where=where, folder=folder, shelves=shelves)
    task = row.get("task")
    task = task if isinstance(task, str) and task else "all"
    speech = chain.from_iterable(media_of(messages, where=where, folder=folder, of_answers=True))
    return Conversation(messages, tuple(chain.from_iterable(media)), task, where, tuple(speech))


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
