"""Conversations of requests as prompts of the model."""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple

from omni.inference.assistant import MAX_TOKENS, Assistant
from omni.inference.prompt import Prompt, Turn
from omni.serving.errors import ApiError
from omni.serving.limits import Limits
from omni.serving.media import audio_of, image_of
from omni.serving.schemas import AudioPart, ChatRequest, ImagePart, Message, TextPart

_REMEMBERED = 1000  # spoken answers
_MAX_TEXT = 1_000_000  # characters of a conversation: to encode more would hold up others


class Spoken(NamedTuple):
    """A spoken answer that later requests may name.

    Attributes:
        transcript: Its text.
        expires_at: Seconds since 1970.
    """

    transcript: str
    expires_at: int


class SpokenAnswers:
    """The texts of the last spoken answers, by the id that clients send in their place."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Spoken] = OrderedDict()

    def add(self, name: str, spoken: Spoken) -> None:
        """Remembers an answer."""
        self._known[name] = spoken
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    def transcript(self, name: str, *, param: str, now: float) -> str:
        """The text of an answer.

        Raises:
            ApiError: If it is unknown or has expired.
        """
        spoken = self._known.get(name)
        if spoken is None or spoken.expires_at < now:
            message = f"There is no spoken answer {name!r} any more: send its transcript as content."
            raise ApiError(400, message, param=param, code="audio_not_found")
        return spoken.transcript


class PromptMaker:
    """Makes prompts of requests.

    Args:
        assistant: The model.
        limits: Limits of media.
        allow_urls: Whether images are fetched.
        fetching: Threads that wait for other servers.
        preparing: Threads that decode media and encode text.
    """

    def __init__(
        self, assistant: Assistant, *, limits: Limits, allow_urls: bool, fetching: Executor, preparing: Executor
    ) -> None:
        self.assistant, self.limits, self.allow_urls = assistant, limits, allow_urls
        self._fetching, self._preparing = fetching, preparing

    async def prompt(self, request: ChatRequest, spoken: Mapping[int, str]) -> tuple[Prompt, int]:
        """The prompt of a request, and the most tokens of its answer.

        Args:
            request: The request.
            spoken: Texts of messages that name a spoken answer, by the number of the message.

        Raises:
            ApiError: If media cannot be had.
            UserError: If media cannot be read, the model has no encoder for them, or the question is too long.
        """
        loop = asyncio.get_running_loop()
        parts = [
            (number, index, part)
            for number, message in enumerate(request.messages)
            if isinstance(message.content, list)
            for index, part in enumerate(message.content)
            if isinstance(part, ImagePart | AudioPart)
        ]
        if len(parts) > self.limits.max_media:
            message = f"The messages have {len(parts)} images and recordings: {self.limits.max_media} are read at most."
            raise ApiError(400, message, param="messages")
        if (length := sum(map(_length, request.messages))) > _MAX_TEXT:
            message = f"The messages have {length:,} characters: {_MAX_TEXT:,} are read at most."
            raise ApiError(400, message, param="messages")
        media: dict[tuple[int, int], bytes] = {}
        for number, index, part in parts:
            media[number, index] = await loop.run_in_executor(self._fetching, self._content, number, index, part)
        messages = [_converted(number, one, media, spoken) for number, one in enumerate(request.messages)]
        return await loop.run_in_executor(self._preparing, self._prompt, messages, request.limit)

    def _content(self, number: int, index: int, part: ImagePart | AudioPart) -> bytes:
        place = f"messages[{number}].content[{index}]"
        if isinstance(part, AudioPart):
            return audio_of(part.input_audio.data, param=f"{place}.input_audio.data", limits=self.limits)
        param = f"{place}.image_url.url"
        return image_of(part.image_url.url, param=param, limits=self.limits, allow_urls=self.allow_urls)

    async def load(self, message: Mapping[str, Any]) -> Turn:
        """Loads the media of a message, in a thread.

        Raises:
            UserError: If media cannot be read, or the model has no encoder for them.
        """
        (turn,) = await asyncio.get_running_loop().run_in_executor(
            self._preparing, self.assistant.prompt_reader.turns, [message]
        )
        return turn

    async def encode(self, turns: Sequence[Turn], limit: int | None) -> tuple[Prompt, int]:
        """The prompt of a loaded conversation, and the most tokens of its answer; as `prompt`."""
        return await asyncio.get_running_loop().run_in_executor(self._preparing, self._encoded, turns, limit)

    def _prompt(self, messages: list[dict[str, Any]], limit: int | None) -> tuple[Prompt, int]:
        return self._encoded(self.assistant.prompt_reader.turns(messages), limit)

    def _encoded(self, turns: Sequence[Turn], limit: int | None) -> tuple[Prompt, int]:
        context = self.assistant.prompt_reader.context
        reserved = min(limit or MAX_TOKENS, max(1, context // 2))
        prompt = self.assistant.prompt_of(turns, max_tokens=reserved)
        room = context - len(prompt.tokens)
        return prompt, room if limit is None else min(limit, room)


def _length(message: Message) -> int:
    """Characters of the texts of a message."""
    if isinstance(message.content, str):
        return len(message.content)
    return sum(len(part.text) for part in message.content or () if isinstance(part, TextPart))


def _converted(
    number: int, message: Message, media: Mapping[tuple[int, int], bytes], spoken: Mapping[int, str]
) -> dict[str, Any]:
    """A message as `omni.text.chat_template.encode_chat` takes it."""
    role = "system" if message.role == "developer" else message.role
    if message.content is None:
        return {"role": role, "content": spoken[number]}
    if isinstance(message.content, str):
        return {"role": role, "content": message.content}
    parts: list[dict[str, Any]] = []
    for index, part in enumerate(message.content):
        if isinstance(part, TextPart):
            parts.append({"type": "text", "text": part.text})
        else:
            kind = "image" if isinstance(part, ImagePart) else "audio"
            parts.append({"type": kind, kind: media[number, index]})
    return {"role": role, "content": parts}
