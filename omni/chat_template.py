"""The chat template: a conversation as the ids that the models read."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from omni.errors import UserError
from omni.tokenizer import (
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
    Tokenizer,
    check_text,
)

_ROLES = {"system": SYSTEM, "user": USER, "assistant": ASSISTANT}
_MEDIA = {
    "image": (IMAGE_START, IMAGE, IMAGE_END),
    "audio": (AUDIO_START, AUDIO, AUDIO_END),
    "video": (VIDEO_START, IMAGE, VIDEO_END),
}


class ChatTokens(NamedTuple):
    """A conversation as ids.

    Attributes:
        tokens: bos, then for every turn its role, its content and `<|end|>`.
        scored: true where the loss counts: the content and the `<|end|>` of the assistant's turns.
    """

    tokens: list[int]
    scored: list[bool]


def encode_chat(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    placeholders: Sequence[int] | None = None,
    add_generation_prompt: bool = False,
) -> ChatTokens:
    """Lays a conversation out as the models read it.

    Args:
        tokenizer: encodes the text.
        messages: each with a `role` (system, user, assistant) and a `content`: a string, or a list of parts
            `{"type": "text", "text": ...}` or `{"type": "image" | "audio" | "video", ...}`. The assistant's turns are
            text only.
        placeholders: the number of features of every media part, in order; one each by default.
        add_generation_prompt: end with `<|assistant|>`, for the model to go on.

    Raises:
        UserError: no messages, a message that is not as above, or placeholders that do not fit the media parts.
    """
    if not messages:
        raise UserError("the conversation has no messages: give at least one")
    turns = [_read_message(index, message) for index, message in enumerate(messages)]
    num_media = sum(kind in _MEDIA for _, parts in turns for kind, _ in parts)
    counts = [1] * num_media if placeholders is None else list(placeholders)
    if len(counts) != num_media or any(count < 1 for count in counts):
        raise UserError(f"placeholders {counts} do not fit {num_media} media parts: give one positive number for each")
    tokens, scored, features = [BOS], [False], iter(counts)
    for role, parts in turns:
        content = []
        for kind, text in parts:
            if kind == "text":
                content += tokenizer.encode(text)
            else:
                start, placeholder, end = _MEDIA[kind]
                content += [start, *[placeholder] * next(features), end]
        tokens += [_ROLES[role], *content, END]
        scored += [False, *[role == "assistant"] * (len(content) + 1)]
    if add_generation_prompt:
        tokens.append(ASSISTANT)
        scored.append(False)
    return ChatTokens(tokens, scored)


def _read_message(index: int, message: Mapping[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    """The role, and the parts as (type, text); the text of media is empty."""
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
            case {"type": str(kind)} if kind in _MEDIA:
                if role == "assistant":
                    raise UserError(f"message {index}: the assistant's turn holds {kind!r}: it may hold text only")
                parts.append((kind, ""))
            case _:
                kind = part.get("type") if isinstance(part, Mapping) else part
                raise UserError(f"message {index}: part type {kind!r} is unknown: use text, {', '.join(_MEDIA)}")
    return role, parts
