"""Sources of conversations: `.jsonl` files and the Hub, with a conversation a row."""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple, final

from omni.data.conversations.shapes import MEDIA_COLUMNS, holds_conversations, media_column, standard_messages
from omni.data.loading.hub import HubSplit
from omni.data.loading.jsonl import json_rows, jsonl_rows
from omni.errors import UserError
from omni.media.attachments import Medium, hash_of, media_of


class Conversation(NamedTuple):
    """A conversation as its source has it.

    Attributes:
        messages: As `omni.text.chat_template.encode_chat` takes them.
        media: In the order of their parts.
        task: Name of the task, for metrics by task.
        where: File and row, for messages.
        speech: Recordings of the assistant's answers, if there are any: training data for a Talker.
    """

    messages: list[Any]
    media: tuple[Medium, ...]
    task: str
    where: str
    speech: tuple[Medium, ...] = ()


class Conversations(ABC):
    """Abstract: a source of conversations, always in the same order.

    Attributes:
        name: What messages call it.
    """

    name: str

    @abstractmethod
    def rows_or_errors(self) -> Iterator[Conversation | UserError]:
        """All conversations, or the error of each malformed row."""

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        """See `rows_or_errors`, of one of `shares` disjoint shares; `seed` shuffles the parts of a source, if any."""
        return islice(self.rows_or_errors(), share, None, shares)

    def rows(self) -> Iterator[Conversation]:
        """All conversations.

        Raises:
            UserError: If a row is malformed; the message names it.
        """
        for row in self.rows_or_errors():
            if isinstance(row, UserError):
                raise row
            yield row


@final
class ConversationFile(Conversations):
    """A `.jsonl` file with a conversation and, optionally, `task` in each row; or a `.json` file with a list of these.

    See `standard_messages` for the shapes of a conversation. File names are relative to the file.

    Args:
        path: The file.
    """

    def __init__(self, path: Path):
        self.path, self.name = path, str(path)

    def rows_or_errors(self) -> Iterator[Conversation | UserError]:
        for where, row in json_rows(self.path) if self.path.suffix == ".json" else jsonl_rows(self.path):
            yield row if isinstance(row, UserError) else parsed_or_error(row, where, self.path.parent)


@final
class HubConversations(HubSplit, Conversations):
    """Conversations of the Hub.

    Parts that name no file take theirs, one after the other, from the columns `image` or `images`, `audio` or `audios`.
    Rows without `task` have the name of the set's configuration, or of the set.
    """

    def rows_or_errors(self) -> Iterator[Conversation | UserError]:
        for number, found in enumerate(self._conversations(self.table)):
            yield found if isinstance(found, UserError) else self._unloaded(found, number)

    def _unloaded(self, found: Conversation, number: int) -> Conversation:
        """The conversation without the content of its media, which stays on disk until it is needed."""
        media = tuple(
            medium
            if not isinstance(medium.files[0], bytes)
            else medium._replace(
                files=(f"{found.where} {hash_of(medium.files[0])}",), source=partial(self._content, number, index)
            )
            for index, medium in enumerate(found.media)
        )
        return found._replace(media=media)

    def _content(self, number: int, index: int) -> bytes:
        """The content of a medium of a row."""
        return parse(self.table[number], f"{self.name}: row {number + 1}", None).media[index].files[0]

    def stream(self, share: int, shares: int, seed: int) -> Iterator[Conversation | UserError]:
        return self._conversations(self.stream_rows(share, shares, seed))

    def _conversations(self, rows: Iterable[Mapping[str, Any]]) -> Iterator[Conversation | UserError]:
        folder = Path(self.repository) if os.path.isdir(self.repository) else None
        task = self.config or Path(self.repository).name
        for number, row in enumerate(rows, start=1):
            yield parsed_or_error(row, f"{self.name}: row {number}", folder, task)

    @property
    def has_messages(self) -> bool:
        """Whether its rows are conversations, by their columns."""
        return holds_conversations({*self.stored_names, *self.columns})


def parsed_or_error(
    row: Mapping[str, Any], where: str, folder: Path | None, task: str = "all"
) -> Conversation | UserError:
    """See `parse`; an error is returned instead of raised."""
    try:
        return parse(row, where, folder, task)
    except UserError as error:
        return error


def parse(row: Mapping[str, Any], where: str, folder: Path | None, task: str = "all") -> Conversation:
    """A row as a conversation.

    Args:
        row: Its columns.
        where: Its name in messages.
        folder: Folder that its file names are relative to; None: the current one.
        task: Its task if it names none.

    Raises:
        UserError: If it has no messages, or a medium without a file.
    """
    messages = standard_messages(row, where)
    columns = {kind: iter(media_column(row, names)) for kind, names in MEDIA_COLUMNS.items()}
    media = media_of(messages, where=where, folder=folder, shelves=columns)
    named = row.get("task")
    task = named if isinstance(named, str) and named else task
    speech = chain.from_iterable(media_of(messages, where=where, folder=folder, of_answers=True))
    return Conversation(messages, tuple(chain.from_iterable(media)), task, where, tuple(speech))
