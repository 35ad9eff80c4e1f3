"""The rows of a split: conversations as ids, shortened to a maximum of tokens."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

from omni.data.conversations.sources import Conversation, Conversations
from omni.data.loading.bad_rows import RowErrors
from omni.data.loading.skipped import SkippedRow
from omni.data.text.documents import Documents
from omni.errors import UserError
from omni.media.attachments import Medium
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, audio_info
from omni.media.container import AudioError
from omni.text.chat_template import ChatTokens, Template, encode_chat
from omni.text.media_positions import MediaLayout, MediaSpan, PositionedTokens, expand_placeholders
from omni.text.tokenizer import AUDIO, IMAGE, Tokenizer

REPLAY = "replay"  # the task of rows of plain text
_BATCH = 256  # documents encoded together


class UnreadableMedium(UserError):
    """A medium of a row that cannot be measured."""


class ConversationRow(NamedTuple):
    """A conversation as ids.

    Attributes:
        chat: Its ids, with one placeholder for each medium.
        media: Its media.
        task: Name of its task.
        where: File and row, for messages.
    """

    chat: ChatTokens
    media: tuple[Medium, ...]
    task: str
    where: str

    def version(self) -> str:
        """Changes when the row or one of its files does."""
        scored = "".join("01"[one] for one in self.chat.scored)
        media = " ".join(medium.identity() for medium in self.media)
        return f"{self.task} {self.chat.tokens} {scored} {media}"

    @property
    def answer(self) -> tuple[int, int]:
        """Start and end of the assistant's last turn among the ids, without `<|end|>`."""
        end = len(self.chat.scored) - 1 - self.chat.scored[::-1].index(True)
        start = end
        while self.chat.scored[start - 1]:
            start -= 1
        return start, end


def encode_conversation(
    conversation: Conversation, tokenizer: Tokenizer, template: Template = "chat"
) -> ConversationRow:
    """A conversation as ids.

    Args:
        conversation: As its source has it.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.

    Raises:
        UserError: If it is malformed, or has no turn of the assistant.
    """
    try:
        chat = encode_chat(tokenizer, conversation.messages, template=template)
    except UserError as error:
        raise UserError(f"{conversation.where}: {error}") from error
    if not any(chat.scored):
        raise UserError(f"{conversation.where}: it has no turn of the assistant: add an answer")
    return ConversationRow(chat, conversation.media, conversation.task, conversation.where)


def conversation_rows(
    sources: Iterable[Conversations], tokenizer: Tokenizer, *, template: Template = "chat", errors: RowErrors
) -> Iterator[ConversationRow | SkippedRow]:
    """The rows of all sources as ids, after a check that their files exist.

    Args:
        sources: The conversations.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.
        errors: Of rows that cannot be used.

    Raises:
        UserError: If a row cannot be used, unless such rows are left out.
    """
    for source in sources:
        for found in source.rows_or_errors():
            try:
                if isinstance(found, UserError):
                    raise found
                row = encode_conversation(found, tokenizer, template)
                _check_files(row)
                yield row
            except UserError as error:
                errors.add(error)
                yield SkippedRow.of(error, source.name)


def _check_files(row: ConversationRow) -> None:
    for file in chain.from_iterable(medium.files for medium in row.media if medium.source is None):
        if isinstance(file, str) and not os.path.isfile(file):
            raise UserError(f"{row.where}: {file} does not exist: correct the path")


def replay_rows(sources: Iterable[Documents], tokenizer: Tokenizer, *, max_tokens: int) -> Iterator[ConversationRow]:
    """Documents of plain text as rows with a loss on all tokens, cropped to `max_tokens`."""
    for source in sources:
        documents, number = source.read(), 0
        while texts := list(islice(documents, _BATCH)):
            for ids in tokenizer.encode_batch(texts):
                number += 1
                first = [] if tokenizer.bos is None else [tokenizer.bos]
                tokens = [*first, *ids, tokenizer.eos][:max_tokens]
                chat = ChatTokens(tokens, [False, *[True] * (len(tokens) - 1)])
                yield ConversationRow(chat, (), REPLAY, f"{source.name} document {number}")


def spans(row: ConversationRow, layout: MediaLayout, mel_frames: Sequence[int] | None = None) -> list[MediaSpan]:
    """The span of each medium of a row.

    Args:
        row: The row.
        layout: Number of tokens of each medium.
        mel_frames: Of each audio that has been read; None: from the duration that its source or its header states.

    Raises:
        UnreadableMedium: If a file cannot be read.
        UserError: If the model does not accept a medium.
    """
    frames = iter(mel_frames or ())
    found = []
    try:
        for medium in row.media:
            if medium.kind == "audio":
                number = next(frames) if mel_frames is not None else _mel_frames(medium)
                found.append(layout.audio(number))
            else:
                found.append(layout.video(medium.times))
    except AudioError as error:
        raise UnreadableMedium(f"{row.where}: {error}") from error
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    return found


def _mel_frames(medium: Medium) -> int:
    seconds = medium.duration or audio_info(medium.sound).duration
    return max(1, -(-round(seconds * SAMPLE_RATE) // HOP_LENGTH))


def fitted(row: ConversationRow, layout: MediaLayout, max_tokens: int) -> tuple[ConversationRow, int] | None:
    """Removes the last exchanges of a row that is too long.

    Returns:
        The row and its number of tokens; None if its first exchange alone is too long.

    Raises:
        UserError: See `spans`.
    """
    media = iter(spans(row, layout))
    length, number, best = 0, 0, None
    for index, (token, scored) in enumerate(zip(*row.chat, strict=True), start=1):
        if token in (IMAGE, AUDIO):
            length, number = length + next(media).tokens, number + 1
        else:
            length += 1
        if length > max_tokens:
            break
        ends = scored and row.chat.scored[index : index + 1] != [True]
        if ends or index == len(row.chat.tokens):
            best = index, number, length
    if best is None:
        return None
    index, number, length = best
    chat = ChatTokens(row.chat.tokens[:index], row.chat.scored[:index])
    return (row._replace(chat=chat, media=row.media[:number]), length) if any(chat.scored) else None


def laid_out(row: ConversationRow, layout: MediaLayout, mel_frames: Sequence[int]) -> PositionedTokens:
    """The row with a token for each feature of its media, given the mel frames of each audio."""
    return expand_placeholders(row.chat, spans(row, layout, mel_frames))
