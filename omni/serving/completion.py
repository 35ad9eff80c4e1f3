"""The shapes of OpenAI's chat completions, whole and in chunks."""

import base64
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

AUDIO_SECONDS = 3600  # for which a spoken answer may be named in later requests


@dataclass(frozen=True)
class Completion:
    """What all chunks of a completion share.

    Attributes:
        model: Name of the model in the request.
        include_usage: Whether a stream ends with the usage.
        id: Its name.
        created: Seconds since 1970.
        audio_id: Name of its speech.
    """

    model: str
    include_usage: bool = False
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))
    audio_id: str = field(default_factory=lambda: f"audio_{secrets.token_hex(12)}")

    @property
    def expires_at(self) -> int:
        """When the name of its speech expires, in seconds since 1970."""
        return self.created + AUDIO_SECONDS

    # ------------------------------------------------------------------ chunks

    def role(self, choice: int) -> dict[str, Any]:
        """The first chunk of a choice."""
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def text(self, choice: int, text: str, *, spoken: bool) -> dict[str, Any]:
        """A chunk of text; of a spoken answer it is the transcript."""
        delta = {"audio": {"id": self.audio_id, "transcript": text}} if spoken else {"content": text}
        return self._chunk(choice, delta)

    def audio(self, data: bytes) -> dict[str, Any]:
        """A chunk of speech."""
        return self._chunk(0, {"audio": {"id": self.audio_id, "data": base64.b64encode(data).decode()}})

    def audio_end(self) -> dict[str, Any]:
        """The last chunk of speech."""
        return self._chunk(0, {"audio": {"id": self.audio_id, "expires_at": self.expires_at}})

    def end(self, choice: int, reason: str) -> dict[str, Any]:
        """The last chunk of a choice."""
        return self._chunk(choice, {}, reason)

    def usage_chunk(self, usage: dict[str, Any]) -> dict[str, Any]:
        """The last chunk of a stream, if it was asked for."""
        return {**self._head("chat.completion.chunk"), "choices": [], "usage": usage}

    def _chunk(self, choice: int, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        entry = {"index": choice, "delta": delta, "logprobs": None, "finish_reason": reason}
        usage = {"usage": None} if self.include_usage else {}
        return {**self._head("chat.completion.chunk"), "choices": [entry], **usage}

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    # ------------------------------------------------------------------ whole

    def whole(
        self, texts: list[str], reasons: list[str], usage: dict[str, Any], speech: bytes | None
    ) -> dict[str, Any]:
        """A completion that is not streamed.

        Args:
            texts: The text of each choice.
            reasons: Why each ended.
            usage: Numbers of tokens.
            speech: The encoded speech of a spoken answer.
        """
        entries = []
        for index, (text, reason) in enumerate(zip(texts, reasons, strict=True)):
            message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
            if speech is not None:
                data = base64.b64encode(speech).decode()
                audio = {"id": self.audio_id, "data": data, "transcript": text, "expires_at": self.expires_at}
                message |= {"content": None, "audio": audio}
            entries.append({"index": index, "message": message, "logprobs": None, "finish_reason": reason})
        return {**self._head("chat.completion"), "choices": entries, "usage": usage}


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Numbers of tokens of a request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
