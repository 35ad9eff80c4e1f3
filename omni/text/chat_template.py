"""The chat template: a conversation as token ids."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from omni.errors import UserError
from omni.text.tokenizer import (
    ASSISTANT,
    AUDIO,
    AUDIO_END,
    AUDIO_START,
    BOS,
    END,
    IMAGE,
    IMAGE_END,
    IMAGE_START,
    SYSTEM,
    USER,
    VIDEO_END,
    VIDEO_START,
    ChatPiece,
    Tokenizer,
    Turn,
    check_text,
)

Template = Literal["chat", "plain"]

_ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
_MEDIA = {
    "image": (IMAGE_START, IMAGE, IMAGE_END),
    "audio": (AUDIO_START, AUDIO, AUDIO_END),
    "video": (VIDEO_START, IMAGE, VIDEO_END),
}


class ChatTokens(NamedTuple):
    """A conversation as ids.

    Attributes:
        tokens: In omni's own template: bos, then role, content and `<|end|>` of each turn; one placeholder per medium.
        scored: Whether a token counts in the loss: those of the assistant's turns and their ends.
    """

    tokens: list[int]
    scored: list[bool]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    template: Template = "chat",
    add_generation_prompt: bool = False,
) -> ChatTokens:
    """Encodes a conversation with a chat template.

    Args:
        tokenizer: Encodes the text.
        messages: Each with a `role` (system, user, assistant) and a `content`: a string, or a list of parts
            `{"type": "text", "text": ...}` or `{"type": "image" | "audio" | "video", ...}`. The assistant's turns are
            text; audio in them is training data of the Talker and is not encoded.
        template: `chat`: with roles, by the tokenizer's own chat template if it has one; `plain`: for a model that was
            trained on text only: the texts in order, with an end of document after each turn of the assistant.
        add_generation_prompt: Append `<|assistant|>`, for the model to answer.

    Raises:
        UserError: If there are no messages, one is not as above, or the tokenizer lacks the template.
    """
    turns = turns_of(messages)
    pieces = _plain(tokenizer, turns) if template == "plain" else None
    if pieces is None:
        pieces = tokenizer.chat_pieces(turns, generation_prompt=add_generation_prompt)
    if pieces is None:
        pieces = _with_roles(tokenizer, turns, add_generation_prompt)
    tokens, scored = [], []
    for piece in pieces:
        ids = piece.tokens if piece.medium is None else [_MEDIA[piece.medium][1]]
        tokens += ids
        scored += [piece.scored] * len(ids)
    return ChatTokens(tokens, scored)


def turns_of(messages: Sequence[Mapping[str, Any]]) -> list[Turn]:
    """Role and parts of each message.

    Raises:
        UserError: If there are no messages, or one is not as `encode_chat` takes it.
    """
    if not messages:
        raise UserError("the conversation has no messages: give at least one")
    return [_read_message(index, message) for index, message in enumerate(messages)]


def exchanges(roles: Sequence[str]) -> tuple[int, list[int]]:
    """Where a conversation may be cut when it becomes too long.

    Args:
        roles: The role of each message; the last is `user`.

    Returns:
        The number of system messages at the start, which are kept, and the numbers of the messages at which exchanges
        (question and answer) start.
    """
    head = next(number for number, role in enumerate(roles) if role != "system")
    starts = [n for n in range(head, len(roles)) if n == head or (roles[n], roles[n - 1]) == ("user", "assistant")]
    return head, starts


def stop_token(tokenizer: Tokenizer, template: Template) -> int:
    """The token that ends an answer."""
    return tokenizer.eos if template == "plain" else tokenizer.end


def _with_roles(tokenizer: Tokenizer, turns: Sequence[Turn], generation_prompt: bool) -> list[ChatPiece]:
    pieces = [ChatPiece([BOS])]
    for role, parts in turns:
        scored = role == "assistant"
        pieces.append(ChatPiece([_ROLES[role]]))
        previous = None
        for kind, text in parts:
            if kind == "text":
                lead = tokenizer.lead if text and previous != "text" else ""
                pieces.append(ChatPiece(tokenizer.encode(lead + text), scored))
            else:
                start, _, end = _MEDIA[kind]
                pieces += [ChatPiece([start]), ChatPiece([], medium=kind), ChatPiece([end])]
            previous = kind
        pieces.append(ChatPiece([END], scored))
    return [*pieces, ChatPiece([ASSISTANT])] if generation_prompt else pieces


def _plain(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[ChatPiece]:
    pieces = [] if tokenizer.bos is None else [ChatPiece([tokenizer.bos])]
    for role, parts in turns:
        scored = role == "assistant"
        for kind, text in parts:
            medium = None if kind == "text" else kind
            pieces.append(ChatPiece([] if medium else tokenizer.encode(text), scored, medium))
        if scored:
            pieces.append(ChatPiece([tokenizer.eos], scored))
    return pieces


def _read_message(index: int, message: Mapping[str, Any]) -> Turn:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if not isinstance(role, str) or role not in _ROLES:
        raise UserError(f"message {index}: role {role!r} is unknown: use one of {', '.join(_ROLES)}")
    if isinstance(content, str):
        return role, [("text", check_text(content, f"message {index}"))]
    if not isinstance(content, Sequence):
        raise UserError(f"message {index}: content is a {type(content).__name__}: give a string or a list of parts")
    parts = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append(("text", check_text(text, f"message {index}")))
            case {"type": "text"}:
                raise UserError(f'message {index}: a text part has no text: write {{"type": "text", "text": "..."}}')
            case {"type": "audio"} if role == "assistant":
                pass
            case {"type": str(kind)} if kind in _MEDIA:
                if role == "assistant":
                    raise UserError(f"message {index}: the assistant's turn holds {kind!r}: it may hold text and audio")
                parts.append((kind, ""))
            case _:
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise UserError(f"message {index}: part type {kind!r} is unknown: use text, {', '.join(_MEDIA)}")
    return role, parts
