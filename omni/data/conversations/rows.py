"""The rows that a split is made of: conversations as ids, made to fit, and what cannot be used left out and counted."""

import os
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import NamedTuple

import numpy as np

from omni.data.conversations.sources import Conversation, Conversations
from omni.data.text.documents import Documents
from omni.errors import UserError
from omni.media.attachments import Medium
from omni.media.audio import HOP_LENGTH, SAMPLE_RATE, audio_info
from omni.text.chat_template import ChatTokens, Template, encode_chat
from omni.text.media_positions import MediaLayout, MediaSpan, PositionedTokens, expand_placeholders
from omni.text.tokenizer import AUDIO, IMAGE, Tokenizer

REPLAY = "replay"  # the task of rows of plain text
_BATCH = 256  # documents encoded together


class Row(NamedTuple):
    """A conversation that can be trained on.

    Attributes:
        chat: Its ids, with one placeholder for each medium.
        media: Its media.
        task: What it teaches.
        where: File and row.
    """

    chat: ChatTokens
    media: tuple[Medium, ...]
    task: str
    where: str

    def identity(self) -> str:
        """Changes when the row does."""
        scored = "".join("01"[one] for one in self.chat.scored)
        media = " ".join(medium.identity() for medium in self.media)
        return f"{self.task} {self.chat.tokens} {scored} {media}"

    @property
    def answer(self) -> tuple[int, int]:
        """Begin and end of the assistant's last turn among the ids, `<|end|>` left out."""
        end = len(self.chat.scored) - 1 - self.chat.scored[::-1].index(True)
        begin = end
        while self.chat.scored[begin - 1]:
            begin -= 1
        return begin, end


class Skipped(NamedTuple):
    """A row that is left out.

    Attributes:
        where: The row.
        why: The reason, one for many rows.
    """

    where: str
    why: str


def encoded(conversation: Conversation, tokenizer: Tokenizer, template: Template = "chat") -> Row:
    """A conversation as ids.

    Args:
        conversation: As its source has it.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.

    Raises:
        UserError: If it is no conversation, or has no turn of the assistant.
    """
    try:
        chat = encode_chat(tokenizer, conversation.messages, template=template)
    except UserError as error:
        raise UserError(f"{conversation.where}: {error}") from error
    if not any(chat.scored):
        raise UserError(f"{conversation.where}: the assistant says nothing, so there is nothing to learn")
    return Row(chat, conversation.media, conversation.task, conversation.where)


def conversation_rows(
    sources: Iterable[Conversations], tokenizer: Tokenizer, *, template: Template = "chat", skip: bool
) -> Iterator[Row | Skipped]:
    """The rows of all sources as ids, their files there.

    Args:
        sources: Where they are from.
        tokenizer: Of the Thinker.
        template: See `omni.text.chat_template.encode_chat`.
        skip: Leave out what cannot be used, rather than fail.

    Raises:
        UserError: If a row cannot be used, unless it is to be skipped.
    """
    for source in sources:
        for found in source.examine():
            try:
                if isinstance(found, UserError):
                    raise found
                row = encoded(found, tokenizer, template)
                _check_files(row)
                yield row
            except UserError as error:
                if not skip:
                    raise
                where = source.name if isinstance(found, UserError) else found.where
                yield Skipped(where, str(error).removeprefix(f"{where}: "))


def _check_files(row: Row) -> None:
    for file in chain.from_iterable(medium.files for medium in row.media if medium.noise is None):
        if isinstance(file, str) and not file.startswith("hub:") and not os.path.isfile(file):
            raise UserError(f"{row.where}: {file} does not exist: correct the path, or set data.bad_rows to skip")


def replay_rows(sources: Iterable[Documents], tokenizer: Tokenizer, *, max_tokens: int) -> Iterator[Row]:
    """Documents of plain text as rows in which everything is scored; longer ones are cropped to `max_tokens`."""
    for source in sources:
        documents, number = source.read(), 0
        while texts := list(islice(documents, _BATCH)):
            for ids in tokenizer.encode_batch(texts):
                number += 1
                first = [] if tokenizer.bos is None else [tokenizer.bos]
                tokens = [*first, *ids, tokenizer.eos][:max_tokens]
                chat = ChatTokens(tokens, [False, *[True] * (len(tokens) - 1)])
                yield Row(chat, (), REPLAY, f"{source.name} document {number}")


def spans(row: Row, layout: MediaLayout, mel_frames: Sequence[int] | None = None) -> list[MediaSpan]:
    """The place of each medium of a row.

    Args:
        row: The row.
        layout: How the model takes media in.
        mel_frames: Of each audio, where it has been read; as its source or its header tells, if not given.

    Raises:
        UserError: If the model cannot take one in, or its file cannot be read.
    """
    frames = iter(mel_frames or ())
    places = []
    try:
        for medium in row.media:
            if medium.kind == "audio":
                number = next(frames) if mel_frames is not None else _mel_frames(medium)
                places.append(layout.audio(number))
            else:
                places.append(layout.video(medium.times))
    except UserError as error:
        raise UserError(f"{row.where}: {error}") from error
    return places


def _mel_frames(medium: Medium) -> int:
    seconds = medium.duration or audio_info(medium.sound).duration
    return max(1, -(-round(seconds * SAMPLE_RATE) // HOP_LENGTH))


def fitted(row: Row, layout: MediaLayout, max_tokens: int) -> tuple[Row, int] | None:
    """A row that is too long loses its last exchanges, as many as it must.

    Returns:
        The row and its tokens; None where not even its first exchange fits.
    """
    places = spans(row, layout)
    media = iter(places)
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


def laid_out(row: Row, layout: MediaLayout, mel_frames: Sequence[int]) -> PositionedTokens:
    """The row with a token for each feature of its media, once these have been read."""
    return expand_placeholders(row.chat, spans(row, layout, mel_frames))


def groups(lengths: Sequence[int], weight: float) -> list[np.ndarray]:
    """Which rows of a source stand for each other in an epoch: it takes one of each group.

    A weight of 1 takes every row once, of 2 twice; of 0.25 one of every four rows, which are alike in length, so that
    batches are the same size whichever is drawn.

    Args:
        lengths: Tokens of each row.
        weight: Share of the rows that an epoch takes, over 0.
    """
    whole, part = divmod(weight, 1)
    alone = [np.array([row]) for row in range(len(lengths))]
    number = round(part * len(lengths))
    if not whole:
        number = max(1, number)
    some = np.array_split(np.argsort(lengths, kind="stable"), number) if number else []
    return alone * int(whole) + some


def files_of(entries: str | Sequence[str] | dict[str, float] | None) -> dict[str, float]:
    """Entries with their weights: 1 where none is given."""
    if entries is None:
        return {}
    if isinstance(entries, str):
        return {entries: 1.0}
    return dict(entries) if isinstance(entries, dict) else dict.fromkeys(entries, 1.0)
