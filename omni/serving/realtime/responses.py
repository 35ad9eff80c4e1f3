"""Responses of a session: an answer, and its events."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from omni.errors import UserError
from omni.inference.prompt import Prompt, Turn
from omni.inference.speech_streamer import SpeechStreamer
from omni.media.encoding import PCM_RATE, FormatEncoder
from omni.media.mel_scale import SAMPLE_RATE
from omni.serving.answers import AnswerAudio, AnswerEnd, AnswerSpeech, AnswerText, Question, choices
from omni.serving.engine import Job
from omni.serving.errors import ApiError
from omni.serving.realtime.conversation import Conversation, Item, new_id
from omni.serving.realtime.outbox import Outbox
from omni.serving.service import Service
from omni.serving.streams import as_api_error
from omni.serving.urgency import SPEECH_CHUNK

Cancelled = Literal["turn_detected", "client_cancelled"]


@dataclass(frozen=True, kw_only=True)
class ResponseOptions:
    """How an answer is made.

    Attributes:
        spoken: Whether it is spoken.
        voice: Name of the voice, as clients know it.
        speaker: The voice of the Talker.
        speed: Of the speech.
        max_tokens: Most tokens; None: as many as there is room for.
        metadata: Returned to the client.
    """

    spoken: bool
    voice: str | None = None
    speaker: int | str | None = None
    speed: float = 1.0
    max_tokens: int | None = None
    metadata: dict[str, str] | None = None


class Response:
    """An answer to a conversation, sent while it is generated.

    Args:
        service: The server's state.
        outbox: Where events are sent.
        conversation: To which the answer is added.
        options: How it is made.

    Attributes:
        id: Its name.
        ended: Whether all is generated, or it was cancelled.
    """

    def __init__(self, service: Service, outbox: Outbox, conversation: Conversation, options: ResponseOptions) -> None:
        self.id, self.options, self.ended = new_id("resp"), options, False
        self._service, self._outbox, self._conversation = service, outbox, conversation
        self._started = time.perf_counter()
        self._firsts: set[str] = set()
        self._task: asyncio.Task[Any] | None = None
        self._reason: Cancelled | None = None
        self._item: Item | None = None
        self._prompt: Prompt | None = None
        self._text, self._num_tokens, self._status = "", 0, "in_progress"
        self._details: dict[str, Any] | None = None

    def cancel(self, reason: Cancelled) -> None:
        """Ends the answer at once: nothing of it is sent but its end."""
        if not self.ended and self._reason is None:
            self._reason = reason
            if self._task is not None:
                self._task.cancel()

    async def run(self, turns: Sequence[Turn]) -> None:
        """Answers.

        Args:
            turns: The conversation.
        """
        await self._outbox.send("response.created", response=self._body())
        self._task = asyncio.current_task()
        try:
            if self._reason is None:
                await self._generate(turns)
        except asyncio.CancelledError:
            if self._reason is None or self._task is None:
                raise
            self._task.uncancel()
        except (ApiError, UserError) as error:
            shown = as_api_error(error).body["error"]
            kept = {name: shown[name] for name in ("type", "code", "message")}
            self._status, self._details = "failed", {"type": "failed", "error": kept}
        self.ended = True
        if self._reason is not None:
            self._status, self._details = "cancelled", {"type": "cancelled", "reason": self._reason}
        await self._finish()

    async def _generate(self, turns: Sequence[Turn]) -> None:
        service, options = self._service, self.options
        assert service.prompts is not None
        self._prompt, limit = await service.prompts.encode(turns, options.max_tokens)
        speech = None
        if options.spoken and (voice := service.models.synthesizer) is not None:
            streamer = SpeechStreamer(voice, speaker=options.speaker, speed=options.speed, chunk=SPEECH_CHUNK)
            speech = AnswerSpeech(streamer)
        question = Question(self._prompt, limit, replace(service.sampling))
        job = service.engine.submit(*choices(service.engine, question, [service.first_seed()], speech))
        try:
            await self._open_item()
            await self._send_all(job)
        finally:
            job.cancel()

    async def _send_all(self, job: Job) -> None:
        voice, reason = self._service.models.synthesizer, "stop"
        encoder = FormatEncoder("pcm", sample_rate=SAMPLE_RATE if voice is None else voice.sample_rate)
        kind = "output_audio_transcript" if self.options.spoken else "output_text"
        async for event in job:
            if isinstance(event, AnswerText):
                self._first("token")
                self._text += event.text
                self._num_tokens = event.num_tokens
                await self._send(f"{kind}.delta", delta=event.text)
            elif isinstance(event, AnswerAudio):
                await self._send_audio(encoder.push(event.samples))
            elif isinstance(event, AnswerEnd):
                reason, self._num_tokens = event.reason, event.num_tokens
        if self.options.spoken:
            await self._send_audio(encoder.finish())
        self._status, self._details = "completed", None
        if reason == "length":
            self._status, self._details = "incomplete", {"type": "incomplete", "reason": "max_output_tokens"}

    async def _send_audio(self, data: bytes) -> None:
        if data and self._item is not None:
            self._first("sound")
            self._item.seconds += len(data) / (2 * PCM_RATE)
            await self._send("output_audio.delta", delta=base64.b64encode(data).decode())

    async def _open_item(self) -> None:
        self._item = item = Item("assistant", [], status="in_progress")
        before = self._conversation.add(item)
        await self._outbox.send("response.output_item.added", response_id=self.id, output_index=0, item=item.body)
        await self._outbox.send("conversation.item.added", previous_item_id=before, item=item.body)
        await self._send("content_part.added", part=self._part())

    async def _finish(self) -> None:
        if (item := self._item) is not None:
            size = item.size
            item.status = "completed" if self._status == "completed" else "incomplete"
            item.turn = Turn({"role": "assistant", "content": self._text}) if self._text else None
            item.content = [{"type": "output_audio", "transcript": self._text}]
            if self.options.spoken:
                await self._send("output_audio.done")
                await self._send("output_audio_transcript.done", transcript=self._text)
            else:
                item.content = [{"type": "output_text", "text": self._text}]
                await self._send("output_text.done", text=self._text)
            self._conversation.resized(item, size)
            await self._send("content_part.done", part=self._part())
            await self._outbox.send("response.output_item.done", response_id=self.id, output_index=0, item=item.body)
            await self._outbox.send("conversation.item.done", item=item.body)
        tokens = self._service.metrics.tokens
        tokens.labels("prompt").inc(0 if self._prompt is None else len(self._prompt.tokens))
        tokens.labels("completion").inc(self._num_tokens)
        await self._outbox.send("response.done", response=self._body())

    async def _send(self, kind: str, **fields: Any) -> None:
        """Sends an event of the only part of the item."""
        assert self._item is not None
        place = {"item_id": self._item.id, "output_index": 0, "content_index": 0}
        await self._outbox.send(f"response.{kind}", response_id=self.id, **place, **fields)

    def _part(self) -> dict[str, str]:
        if self.options.spoken:
            return {"type": "audio", "transcript": self._text}
        return {"type": "text", "text": self._text}

    def _body(self) -> dict[str, Any]:
        options = self.options
        voice = {"output": {"format": {"type": "audio/pcm", "rate": PCM_RATE}, "voice": options.voice}}
        return {
            "id": self.id,
            "object": "realtime.response",
            "status": self._status,
            "status_details": self._details,
            "output": [] if self._item is None else [self._item.body],
            "output_modalities": ["audio" if options.spoken else "text"],
            "audio": voice if options.spoken else None,
            "conversation_id": self._conversation.id,
            "max_output_tokens": options.max_tokens or "inf",
            "metadata": options.metadata,
            "usage": None if self._status == "in_progress" else self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        prompt = [] if self._prompt is None else self._prompt.tokens
        media = Counter[str]()
        for one in () if self._prompt is None else self._prompt.media:
            media["audio" if one.kind == "audio" else "image"] += one.span.tokens
        details = {"text_tokens": len(prompt) - media.total(), "cached_tokens": 0}
        details |= {"audio_tokens": media["audio"], "image_tokens": media["image"]}
        return {
            "total_tokens": len(prompt) + self._num_tokens,
            "input_tokens": len(prompt),
            "output_tokens": self._num_tokens,
            "input_token_details": details,
            "output_token_details": {"text_tokens": self._num_tokens, "audio_tokens": 0},
        }

    def _first(self, what: str) -> None:
        if what not in self._firsts:
            self._firsts.add(what)
            self._service.metrics.first.labels(what).observe(time.perf_counter() - self._started)
