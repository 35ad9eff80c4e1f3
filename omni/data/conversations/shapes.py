"""The shapes in which conversations are written: OpenAI's API, LLaVA, Alpaca and others; one shape for all."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

from omni.errors import UserError

MESSAGES = "messages"
MEDIA_COLUMNS = {
    "image": ("images", "image"),
    "audio": ("audios", "audio"),
}  # columns with the media of placeholders, and of parts that name no file

_TAG = re.compile("<(image|audio|video)>")
_ALPACA = {"instruction", "output"}
_ROLES = {"human": "user", "gpt": "assistant", "developer": "system"}


def standard_messages(row: Mapping[str, Any], where: str) -> list[Any]:
    """The messages of a row in the shape that `omni.text.chat_template.encode_chat` takes.

    Args:
        row: `messages` with `role` and `content`, whose parts may be those of OpenAI's API (`image_url` with `data:` or
            a file's name, `input_audio`); or `conversations` with `from` and `value`, as of ShareGPT and LLaVA; or
            `query`, `response`, `history` and `system`, as of ms-swift, where media may be the question; or
            `instruction`, `input` and `output`, as of Alpaca; or `texts` with `user` and `assistant`, as of The
            Cauldron. `<image>` and `<audio>` in texts stand for the files in the columns `images` and `audios`; if
            there are none, these are put before the first question.
        where: Its name in messages.

    Raises:
        UserError: If it has no messages, or not as many placeholders as files.
    """
    listed = next((row[name] for name in (MESSAGES, "conversations") if isinstance(row.get(name), list)), None)
    if listed is not None:
        messages = [_message(message) for message in listed]
    elif isinstance(row.get("texts"), list):
        messages = _of_texts(row["texts"], where)
    elif row.keys() >= _ALPACA:
        question = "\n".join(str(row[name]) for name in ("instruction", "input") if row.get(name))
        messages = _of_query({"query": question, "response": row["output"], "history": row.get("history")}, where)
    elif _is_query(row.keys()):
        messages = _of_query(row, where)
    else:
        raise UserError(f"{where}: has no list of `{MESSAGES}`, only {sorted(row)}: write a conversation in each row")
    system = row.get("system")
    if isinstance(system, str) and system and not _has_system(messages):
        messages.insert(0, {"role": "system", "content": system})
    files = {kind: len(media_column(row, names)) for kind, names in MEDIA_COLUMNS.items()}
    return _with_placeholders([_with_parts(message, where) for message in messages], files, where)


def holds_conversations(columns: Iterable[str]) -> bool:
    """Whether rows with these columns are conversations."""
    columns = set(columns)
    listed = not columns.isdisjoint((MESSAGES, "conversations", "texts"))
    return listed or columns >= _ALPACA or _is_query(columns)


def _is_query(columns: Iterable[str]) -> bool:
    """Whether rows with these columns have a question, which may be a medium alone, and its answer."""
    return "response" in columns and not {"query", *chain.from_iterable(MEDIA_COLUMNS.values())}.isdisjoint(columns)


def media_column(row: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """The media in the first of some columns that has any."""
    found = next((row[name] for name in names if row.get(name)), [])
    return found if isinstance(found, list) else [found]


def _has_system(messages: Sequence[Any]) -> bool:
    return bool(messages) and isinstance(messages[0], Mapping) and messages[0].get("role") == "system"


def _of_query(row: Mapping[str, Any], where: str) -> list[Any]:
    """A question and its answer, after earlier ones."""
    asked = row.get("query")
    if asked is None and any(media_column(row, names) for names in MEDIA_COLUMNS.values()):
        asked = ""  # the medium is the question
    pairs = [*(row.get("history") or []), [asked, row.get("response")]]
    messages = []
    for pair in pairs:
        match pair:
            case [str(query), str(response)]:
                messages += [{"role": "user", "content": query}, {"role": "assistant", "content": response}]
            case _:
                raise UserError(f"{where}: `query`, `response` and `history` hold {pair!r}: give pairs of texts")
    return messages


def _of_texts(texts: list[Any], where: str) -> list[Any]:
    """Questions and answers about the same images."""
    messages = []
    for text in texts:
        match text:
            case {"user": str(question), "assistant": str(answer)}:
                messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
            case _:
                raise UserError(f"{where}: `texts` holds {text!r}: give `user` and `assistant`, a text each")
    return messages


def _message(message: Any) -> Any:
    """A message with `role` and `content`, as far as it has them."""
    if not isinstance(message, Mapping):
        return message
    if "from" in message and "role" not in message:
        message = {"role": message["from"], "content": message.get("value")}
    role = message.get("role")
    return {**message, "role": _ROLES.get(role, role) if isinstance(role, str) else role}


def _with_parts(message: Any, where: str) -> Any:
    """The message with omni's parts."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, list):
        return message
    return {**message, "content": [_part(part, where) if isinstance(part, Mapping) else part for part in content]}


def _part(part: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    match part:
        case {"type": "text" | "input_text" | "output_text", "text": text}:
            return {"type": "text", "text": text}
        case {"type": ("image_url" | "audio_url") as kind}:
            value = part.get(kind)
            url = value.get("url") if isinstance(value, Mapping) else value
            return {"type": kind.removesuffix("_url"), kind.removesuffix("_url"): url}
        case {"type": "input_image", "image_url": url}:
            return {"type": "image", "image": url}
        case {"type": "input_audio"}:
            return {"type": "audio", "audio": _decoded(part.get("input_audio"), where)}
        case {"image": _} | {"audio": _} if "type" not in part:
            kind = "image" if "image" in part else "audio"
            return {**part, "type": kind}
        case {"text": str(text)} if "type" not in part:
            return {"type": "text", "text": text}
        case _:
            return part


def _decoded(value: Any, where: str) -> bytes:
    """The content of `input_audio`."""
    data = value.get("data") if isinstance(value, Mapping) else None
    if not isinstance(data, str) or not data:
        raise UserError(f'{where}: `input_audio` has no data: write {{"data": BASE64, "format": "wav"}}')
    try:
        return base64.b64decode(data.partition("base64,")[2] or data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError(f"{where}: the data of `input_audio` is not Base64 ({error}): encode the file again") from None


def _with_placeholders(messages: list[Any], files: Mapping[str, int], where: str) -> list[Any]:
    """The messages with a part for each `<image>` or `<audio>` in a text whose row has a column of such files."""
    kinds = {kind for kind, number in files.items() if number}
    split = [_split(message, kinds) for message in messages]
    parts = [part for message in split for part in _parts(message) if message.get("role") != "assistant"]
    before: list[dict[str, str]] = []
    for kind in sorted(kinds):
        unnamed = sum(part.get("type") == kind and kind not in part and "path" not in part for part in parts)
        if not any(part.get("type") == kind for part in parts):
            before += [{"type": kind}] * files[kind]
        elif unnamed > files[kind] or (unnamed and unnamed < files[kind]):
            raise UserError(
                f"{where}: {unnamed} placeholders for {kind} and {files[kind]} files: give as many of the one as of "
                "the other"
            )
    return _with_media_first(split, before) if before else split


def _with_media_first(messages: list[Any], media: list[dict[str, str]]) -> list[Any]:
    """The messages with media before the first question."""
    for number, message in enumerate(messages):
        if isinstance(message, Mapping) and message.get("role") == "user":
            content = message.get("content")
            content = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if isinstance(content, list):
                first = {**message, "content": [*media, *content]}
                return [*messages[:number], first, *messages[number + 1 :]]
    return messages


def _parts(message: Any) -> list[Mapping[str, Any]]:
    content = message.get("content") if isinstance(message, Mapping) else None
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, list) else []


def _split(message: Any, kinds: set[str]) -> Any:
    """The message with a part for each placeholder in its text."""
    content = message.get("content") if isinstance(message, Mapping) else None
    if not isinstance(content, str) or message.get("role") == "assistant":
        return message
    pieces = _TAG.split(content)  # text, kind, text, kind, ..., text
    if not kinds & set(pieces[1::2]):
        return message
    parts: list[dict[str, Any]] = []
    for number, piece in enumerate(pieces):
        if number % 2 and piece in kinds:
            parts.append({"type": piece})
        elif text := (f"<{piece}>" if number % 2 else piece.strip("\n")):
            parts.append({"type": "text", "text": text})
    return {**message, "content": parts}
